/* One evaluation of what a state says: the values that its paths are about, the memory for what is computed
 * on the way, and how much work it may be. Everything that it yields lives until evaluation_done. Thread: one
 * at a time. */
#pragma once

#include <stdint.h>

#include "common/json.h"
#include "common/pool.h"

struct buffer;
struct error;

#define EVALUATION_DATA_MAX 262144 /* bytes of a state's input or output (the service's quota) */

struct evaluation {
    struct json_value input;   /* $ */
    struct json_value context; /* $$; absent until a path asks for it, if it can be described */
    /* Writes the context object as JSON. NULL: it is what it is. */
    void (*describe)(const void *data, struct buffer *out);
    const void *describe_data;
    struct pool pool;
    uint64_t steps;  /* left */
    uint64_t chance; /* state of the random numbers: the same seed gives the same ones, in every replay */
};

void evaluation_init(struct evaluation *evaluation, uint64_t seed);
void evaluation_done(struct evaluation *evaluation);

/* The context object. Errors: ERROR_MEMORY. */
int evaluation_context(struct evaluation *evaluation, struct json_value *ret_context, struct error *err);

/* A JSON text as a value that belongs to the evaluation; takes the buffer's memory. Errors: ERROR_INVALID
 * (nested too deeply), ERROR_MEMORY. */
int evaluation_keep(struct evaluation *evaluation, struct buffer *json, struct json_value *ret_value,
                    struct error *err);

/* The next random number. */
uint64_t evaluation_random(struct evaluation *evaluation);
