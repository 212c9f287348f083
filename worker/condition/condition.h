/* Conditions: what has to hold for a trigger to fire. One vtable per condition, one file per family, one line
 * in registry.c. The state of a condition lives inside its trigger and is touched by the owning shard only.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/decision.h"

struct buffer;
struct cloudevent;
struct error;
struct json_value;

/* Outcome of an evaluation, a set of bits. */
enum { CONDITION_HOLDS = 1, CONDITION_CHANGED = 2 };

struct condition_type {
    const char *name;
    size_t state_size;
    /* Members of the context that belong to the condition's state: store() writes them, all others are kept
     * as they were given. NULL-terminated. */
    const char *const *members;
    /* Counts an event that carries an idempotency key once per key. */
    bool counts_keys;
    /* Reads the state from the stored context (a JSON object). Errors: ERROR_INVALID naming member and value.
     */
    int (*load)(void *state, const struct json_value *context, struct error *err);
    /* Thread: shard. No allocation, no waiting. */
    unsigned (*evaluate)(void *state, const struct cloudevent *event);
    /* Appends the members as `"name":value`, separated by commas, only those that are to be stored. */
    void (*store)(const void *state, struct buffer *out);
    /* How far the count is: whether the state shows that events were counted (adoption). */
    bool (*counted)(const void *state);
    /* What an evaluation has come to, for people. NULL: there is nothing to tell. Thread: shard. */
    enum decision_kind (*explain)(const void *state, int64_t ret_operands[2]);

    /* Registration (worker/check.h) is stricter than load, which takes whatever has been stored: the members
     * of the condition's own document besides `name` (NULL-terminated; NULL: none), and what the context must
     * be like. Errors: ERROR_INVALID naming member and value. */
    const char *const *parameters;
    int (*check)(const struct json_value *context, struct error *err); /* NULL: as load says */
};

/* NULL when there is none of this name. */
const struct condition_type *condition_find(const char *name, size_t len);
/* Appends the names of all, as "A, B, C". */
void condition_names(struct buffer *out);
