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
struct firing;
struct json_value;
struct permits;

/* Outcome of an evaluation, a set of bits. */
enum {
    CONDITION_HOLDS = 1,
    CONDITION_CHANGED = 2,
    CONDITION_REFUSES = 4 /* nothing was changed; the event, or the write, becomes a dead letter (refusal) */
};

typedef int (*condition_add)(void *data, const char *type, const char *subject, size_t subject_len,
                             struct error *err);

struct condition_type {
    const char *name;
    size_t state_size;
    /* Members of the context that belong to the condition's state: store() writes them, all others are kept
     * as they were given. NULL-terminated. */
    const char *const *members;
    /* Counts an event that carries an idempotency key once per key. */
    bool counts_keys;
    /* An event has not been there for it when its action has failed: it may come again (redriven). */
    bool forgets_failures;
    /* A failure that activates its triggers is not one of the Map or Parallel around the state yet
     * (router.h). */
    bool catches;
    /* Events that activate its triggers besides their activation_events, as their context says: calls add for
     * each. NULL: there are none. Errors: as add says, ERROR_MEMORY. Thread: any. */
    int (*activations)(const struct json_value *context, condition_add add, void *data, struct error *err);
    /* Reads the state from the stored context (a JSON object). Errors: ERROR_INVALID naming member and value.
     */
    int (*load)(void *state, const struct json_value *context, struct error *err);
    /* Frees what the state refers to; zeroed and half-loaded is fine. NULL: nothing. */
    void (*unload)(void *state);
    /* Thread: shard. No waiting; no allocation but what the state grows by. */
    unsigned (*evaluate)(void *state, const struct cloudevent *event);
    /* It is evaluated outside (waiting.h): records an intent under this key that asks, and whose end comes
     * back as an answer; evaluate is never called. document: the condition's own. NULL: it is evaluated here.
     * Thread: shard. Errors: the event becomes a dead letter. */
    int (*ask)(const struct json_value *document, struct firing *firing, const char *key, struct error *err);
    /* A write of another trigger's firing (worker/shard/write.h), a JSON object of the writer's making.
     * Outcome as above: the trigger fires when the condition has come to hold by it. 0: the write means
     * nothing here. NULL: none does. Thread: shard. */
    unsigned (*write)(void *state, const struct json_value *write);
    /* Appends the members as `"name":value`, separated by commas, only those that are to be stored. */
    void (*store)(const void *state, struct buffer *out);
    /* How far the count is: whether the state shows that events were counted (adoption). */
    bool (*counted)(const void *state);
    /* Why it refuses an event. NULL: it never does. */
    const char *refusal;
    const char *(*why_refused)(
        const void *state); /* instead, when it says more; valid until the next event */
    /* It has refused the event: tells who is to know, as an action would. 1: somebody takes it, the event is
     * no dead letter and counts; 0: nobody does. NULL: nobody ever does. Thread: shard. */
    int (*refused)(void *state, struct firing *firing);
    /* What an evaluation has come to, for people. NULL: there is nothing to tell. Thread: shard. */
    enum decision_kind (*explain)(const void *state, int64_t ret_operands[2]);

    /* Registration (worker/check.h) is stricter than load, which takes whatever has been stored: the members
     * of the condition's own document besides `name` (NULL-terminated; NULL: none), and what the context must
     * be like. Errors: ERROR_INVALID naming member and value. */
    const char *const *parameters;
    int (*check)(const struct json_value *context, struct error *err); /* NULL: as load says */
    /* Whether its own document is right, also when it is stored already. NULL: anything goes. Errors:
     * ERROR_INVALID. */
    int (*accept)(const struct json_value *document, struct error *err);
    /* Whether the configuration lets it be evaluated, as for actions. NULL: it always does. */
    int (*permitted)(const struct json_value *document, const struct permits *permits, struct error *err);
};

/* NULL when there is none of this name. */
const struct condition_type *condition_find(const char *name, size_t len);
/* Appends the names of all, as "A, B, C". */
void condition_names(struct buffer *out);
