/* What a trigger waits for when its condition or its action is evaluated outside and answers: in a container
 * (action/docker.h). While it waits for an answer, its events queue here, in order; other triggers go on.
 *
 *     event ─▶ idle? ─ yes ─▶ condition ── outside ──▶ intent, and wait ──▶ answer: holds? ─ yes ─┐
 *                │                  └─ here: holds ──────────────────────────────────────────────┤
 *                no                                                                               ▼
 *                └─▶ queue ◀────────── next, when idle ◀── answer ◀── intent, and wait ◀── outside: action
 *
 * The answer is a write (write.h) that the checkpoint which removes the intent puts into the internal source:
 * {"answer":{"key", "trigger": the identity, "stage", "context"?, "result"?, "failed"?}}. The members in its
 * context are merged into the trigger's (RFC 7396). An answer to another key than the one that is awaited is
 * of an earlier trigger of this id, or of a redriven intent: an action's context is still merged.
 *
 * Stored in the checkpoint: waits:<identity>, {"stage","key","asked","last","of"}, and a field for each event
 * in the queue, waiting:<identity>:<number>. The event whose condition is being evaluated is the first of the
 * queue. A barrier finds the trigger either waiting, with its intent or the answer to it stored, or idle with
 * an empty queue; never between.
 *
 * The worker dies                             | stored                            | the successor
 * --------------------------------------------|-----------------------------------|--------------------------
 * after the event came, before the commit     | position before the event         | gets the event again
 * after that commit, before the intent was    | event in the queue, waits:, the   | starts the intent, under
 * started, or while it runs, or before its    | intent in the outbox              | the same key
 * end was committed                           |                                   |
 * after that commit, before the answer was    | event in the queue, waits:, the   | delivers the answer once
 * delivered, or before the commit of what     | answer as an internal event       |
 * came of it                                  |                                   |
 * after that commit                           | the context with the answer, the  | goes on from there
 *                                             | event gone, what has fired, the   |
 *                                             | next event's intent               |
 *
 * So what was evaluated outside may be evaluated again, but one answer counts. The events in the queue count
 * as in flight (sink_max_size): when there are too many, sources pause. Thread: the trigger's shard;
 * checkpoint before the trigger is published and after it is retired. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/action/action.h"

struct changes;
struct cloudevent;
struct error;
struct json_value;
struct waiting_event;

enum waiting_stage { WAITING_IDLE, WAITING_CONDITION, WAITING_ACTION };

struct waiting {
    enum waiting_stage stage;
    char key[ACTION_KEY_MAX];    /* of the intent whose answer is awaited */
    uint64_t asked;              /* number of the last evaluation of the condition */
    uint64_t last;               /* number of the last event in the queue */
    struct waiting_event *first; /* by their numbers */
    struct waiting_event **end;
    struct waiting_event *unstored; /* the first that is not stored yet */
    uint64_t *removed;              /* numbers of stored events that have left */
    size_t n_removed;
    size_t removed_cap;
    uint64_t definition;     /* the trigger's: a stored one that was changed meanwhile waits for nothing */
    _Atomic uint64_t *count; /* events in all queues of the worker */
};

/* NULL: out of memory. first: numbers of events and evaluations begin behind it, so that they are not those
 * of an earlier trigger of this identity; 0 for what waiting_load is to fill. count: see above. */
struct waiting *waiting_new(uint64_t first, uint64_t definition, _Atomic uint64_t *count);
void waiting_free(struct waiting *waiting); /* NULL is fine */

/* Appends an event (copied). Errors: ERROR_MEMORY. */
int waiting_add(struct waiting *waiting, const struct cloudevent *event, struct error *err);
/* The first event, borrowed until it is removed; false: there is none. */
bool waiting_first(const struct waiting *waiting, struct cloudevent *ret_event);
/* Takes the first event out; to be freed by waiting_event_free, as what was borrowed may be used until then.
 */
struct waiting_event *waiting_take(struct waiting *waiting);
void waiting_event_free(struct waiting_event *event);

/* Writes what has changed since the last time. */
void waiting_write(struct waiting *waiting, const char *identity, size_t identity_len, struct changes *out);
/* The trigger is gone: its events become dead letters, its fields are deleted; keep_state: not that of what
 * it waits for, as there is another trigger of this identity. id: NULL when it is not known. */
void waiting_abandon(struct waiting *waiting, const char *id, const char *identity, bool keep_state,
                     const char *why, struct changes *out);

/* Recovery. Whether a field of the checkpoint is one of these; *ret_identity of whom. */
bool waiting_is_field(const char *key, size_t key_len, const char **ret_identity, size_t *ret_identity_len);
/* Takes one, in any order; at the end waiting_loaded. Errors: ERROR_INVALID, ERROR_MEMORY. */
int waiting_load(struct waiting *waiting, const char *key, size_t key_len, const char *value, size_t len,
                 struct error *err);
int waiting_loaded(struct waiting *waiting, struct error *err);
