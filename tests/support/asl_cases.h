/* The States Language cases of TRIGGERFLOW_CONFORMANCE_DIR (default ../shared/conformance), one JSON object a
 * line. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/json.h"

#define ASL_MAX_REASONS 32

struct asl_cases {
    char *text;
    struct json_value *values;
    size_t n;
    /* What cases were left out for, and how many. */
    const char *reasons[ASL_MAX_REASONS];
    unsigned left_out[ASL_MAX_REASONS];
    unsigned n_reasons;
};

struct buffer;

/* -1: the file is absent; says so. */
int asl_read_file(const char *file, struct buffer *out);
int asl_cases_read(struct asl_cases *cases, const char *file);
void asl_cases_done(struct asl_cases *cases);

/* Whether nothing of the case's definition (member names and state types) and no tag is beyond what is tested
 * (both NULL-terminated); counts it otherwise. */
bool asl_cases_covered(struct asl_cases *cases, size_t i, const char *const *beyond, const char *const *tags);
void asl_cases_leave_out(struct asl_cases *cases, const char *reason); /* counts one */
/* Prints what the case is called; prints the counts. */
void asl_cases_name(const struct asl_cases *cases, size_t i);
void asl_cases_report(const struct asl_cases *cases, const char *what, unsigned passed, unsigned failed);

/* Task mocks, each to be used once. */
#define ASL_MAX_MOCKS 4096
struct asl_mocks {
    const char *used[ASL_MAX_MOCKS]; /* by their text */
    unsigned n;
};
/* The first unused mock of the case for this state with this input, or else for this state. */
bool asl_mocks_find(struct asl_mocks *mocks, const struct json_value *test, const struct json_value *state,
                    const struct json_value *input, struct json_value *ret_mock);
