/* The intrinsic functions of the States Language (appendix B, and those that Amazon's service has added).
 * Thread: any. */
#pragma once

#include <stddef.h>

struct error;
struct evaluation;
struct json_value;

struct intrinsic {
    const char *name; /* "States.Format" */
    unsigned min_arguments, max_arguments;
    /* Errors: ERROR_INVALID with what is wrong with which argument, ERROR_LIMIT, ERROR_MEMORY. */
    int (*call)(struct evaluation *evaluation, const struct json_value *arguments, unsigned n,
                struct json_value *ret_value, struct error *err);
};

#define INTRINSIC_MAX_ARGUMENTS 64

/* NULL when there is none of this name. */
const struct intrinsic *intrinsic_find(const char *name, size_t len);
