/* Actions: what a trigger does when it fires. One vtable per action, one file per family, one line in
 * registry.c.
 *
 * fire() runs on the shard and only records what is to happen, through the firing_* functions: an internal
 * event, an intent (something to start outside, once the checkpoint that contains it has committed), or the
 * end of the workflow. start() runs on the executor. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cloudevent;
struct error;
struct executor;
struct firing;
struct injection;
struct intent;
struct json_value;
struct permits;
struct worker;

struct action_type {
    const char *name;
    /* Reads the action's document. *ret_state (NULL when there is none) is freed by unload. Errors:
     * ERROR_INVALID. */
    int (*load)(const struct json_value *action, void **ret_state, struct error *err);
    void (*unload)(void *state);
    /* Thread: shard. Fails only with ERROR_INVALID (this event cannot be acted on: it is dead-lettered). */
    int (*fire)(const void *state, struct firing *firing, struct error *err);
    /* Does it again for what has failed, as another trigger's firing asks (write.h); `request` is what it
     * wrote as "repeat". NULL: cannot. Thread: shard. Errors as fire. */
    int (*again)(const void *state, struct firing *firing, const struct json_value *request,
                 struct error *err);
    /* Its intents answer (waiting.h), and its triggers wait for that. */
    bool answers;
    /* Begins a committed intent; its end is reported with executor_done(). NULL: never has intents. Thread:
     * executor. */
    void (*start)(struct executor *executor, struct intent *intent);
    /* Whether this intent starts only after its commit, whatever action_start says: an answer that a crash
     * leaves without its firing would be taken for something else. NULL: none. Thread: shard. */
    bool (*after_commit)(const struct intent *intent, const struct worker *worker);
    /* An intent of it was given up, or one element of it: tells those who wait for it, in the epoch that
     * removes the intent from the outbox. NULL: nobody does. Thread: checkpoint. Errors: ERROR_MEMORY. */
    int (*gave_up)(const struct intent *intent, struct injection *injection, struct error *err);

    /* Registration (worker/check.h) is stricter than load, which takes whatever has been stored: the members
     * of the action's document besides `name` (NULL-terminated; NULL: none), and what they must be like.
     * Errors: ERROR_INVALID naming member and value. */
    const char *const *parameters;
    int (*check)(const struct json_value *action, struct error *err); /* NULL: as load says */
    /* What the context must be like. NULL: anything goes. */
    int (*check_context)(const struct json_value *context, struct error *err);
    /* Whether the configuration lets it be carried out; load has accepted the document. One that does not is
     * refused when it is registered, and reported when it is stored already. NULL: it always does. Errors:
     * ERROR_INVALID, ERROR_REFUSED. */
    int (*permitted)(const struct json_value *action, const struct permits *permits, struct error *err);
};

/* NULL when there is none of this name. */
const struct action_type *action_find(const char *name, size_t len);
/* Appends the names of all, as "A, B, C". */
void action_names(struct buffer *out);

/* --- for actions, while they fire (see firing.h) --- */

#define ACTION_KEY_MAX 33 /* hex of 128 bits, and NUL */

/* Whether this event source (the hash of its name, arena.h) is the workflow itself (HTTPEventSource). */
bool firing_is_own(const struct firing *firing, uint64_t source);
/* The event that made the trigger fire; borrowed. */
const struct cloudevent *firing_event(const struct firing *firing);
const char *firing_workspace(const struct firing *firing);
const char *firing_trigger(const struct firing *firing);
/* The idempotency key of one element of this firing: a hash of (workspace creation value, trigger uuid,
 * firing number, element). The same in every retry and replay. */
void firing_key(const struct firing *firing, uint32_t element, char ret_key[ACTION_KEY_MAX]);

/* Emits an event into the workflow itself; copies it. */
int firing_emit(struct firing *firing, const struct cloudevent *event, struct error *err);
/* Whether an event of this type and subject would activate a trigger now. Not for what must not be lost. */
bool firing_takes(struct firing *firing, const char *type, const char *subject);
/* Whether one of those catches failures (condition_type.catches). */
bool firing_catches(struct firing *firing, const char *type, const char *subject);
/* Emits the event into the workflow at this time (unix nanoseconds): a stored timer, under the event's id.
 * Errors: ERROR_MEMORY. */
int firing_timer(struct firing *firing, uint64_t at, const struct cloudevent *event, struct error *err);
/* The trigger waits for the answer to the intent with this key (waiting.h). For actions that answer. */
void firing_await(struct firing *firing, const char *key);
/* Whether the trigger goes with this firing, and so waits for nothing. */
bool firing_is_last(const struct firing *firing);
/* What names the trigger for ever: its uuid, or its id. */
const char *firing_identity(const struct firing *firing);
/* The workspace's global context, a JSON object; borrowed until the firing ends. */
void firing_global(const struct firing *firing, struct json_value *ret_global);
/* The trigger's context, a JSON object, appended: all of it, or all but the members that the condition owns.
 * Errors: ERROR_MEMORY. */
int firing_context(const struct firing *firing, struct buffer *out, struct error *err);
int firing_settings(const struct firing *firing, struct buffer *out, struct error *err);
/* Merges members into the trigger's own context (RFC 7396). Errors: ERROR_INVALID, ERROR_MEMORY. */
int firing_merge(struct firing *firing, const struct json_value *members, struct error *err);
/* Whether this trigger has not fired for this key, the event's, before; it is remembered with the firing,
 * unless its condition counts each key once anyway. 1 new, 0 not.
 * Errors: ERROR_MEMORY. */
int firing_once(struct firing *firing, const char *key, size_t len, struct error *err);
/* Writes into the contexts of other triggers (write.h): of that with this id, or of all that events of this
 * type and subject activate. body: a JSON object; copied. What the firing does afterwards comes behind it. */
int firing_write(struct firing *firing, const char *id, size_t id_len, const char *body, size_t body_len,
                 struct error *err);
int firing_tell(struct firing *firing, const char *type, const char *subject, size_t subject_len,
                const char *body, size_t body_len, struct error *err);
/* Which element of an earlier firing of this trigger has this key, when a firing has so many elements. Only
 * the last firings are looked through. */
bool firing_find_key(const struct firing *firing, const char *key, uint32_t n_elements,
                     uint32_t *ret_element);

/* Records an intent: action (whose start() will get it), key, and a JSON object of the action's own. Copies.
 */
int firing_intend(struct firing *firing, const struct action_type *action, const char *key, const char *body,
                  size_t body_len, struct error *err);
/* Records one intent for all elements of a JSON array, which is not empty (fan_out.h): start() gets one for
 * each, with the same body, the element (intent_element) and the key of firing_key(element's number). */
int firing_intend_each(struct firing *firing, const struct action_type *action, const char *body,
                       size_t body_len, const char *elements, size_t elements_len, struct error *err);
/* The workflow is finished. */
void firing_finish(struct firing *firing);
