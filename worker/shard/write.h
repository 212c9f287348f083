/* Writes into other triggers' contexts: what a firing tells triggers that may belong to other shards.
 *
 * A write is a JSON object that the target's condition understands (condition_type.write), or a request to
 * carry the target's action out again ({"repeat":...}, action_type.again). With a member "final", a key, an
 * event that carries this key is not counted any more. It goes to one trigger by its id, or to all triggers
 * that events of a type and subject activate: those who depend on a task are those whom its termination event
 * activates. The router finds them when the write is delivered, so one record reaches all of them, in
 * whatever shards they are. A write that reaches nobody is dropped, one to an id that does not exist becomes
 * a dead letter.
 *
 * It travels through the internal source: in order behind what was emitted before, and in front of what its
 * firing does afterwards. An intent of a firing that has written waits there, too (RECORD_INTENT): its shard
 * opens it only when it has come to that record, so what it starts cannot answer before the writes are
 * applied. With action_start: immediate it is opened when all shards have come to it.
 *
 * A write is carried as a CloudEvent, packed like any other, of which only these mean something: type and
 * subject; or, without a type, the target's id as the subject; data; and id, which names it in the arena.
 *
 * The worker dies                      | stored                          | the successor
 * -------------------------------------|---------------------------------|----------------------------------
 * after the firing, before the commit  | neither firing nor writes       | evaluates the event again: fires,
 * of its epoch                         |                                 | under the same number
 * after that commit, before a write or | the firing; writes and intent   | delivers them in their order
 * the intent behind it was delivered   | as internal events              |
 * after the write was applied, before  | the write as an internal event, | applies it again, to the context
 * the commit of that epoch             | the context without it          | without it
 * after that commit, the intent still  | the context with it; the intent | opens the intent
 * on its way                           | as an internal event            |
 * after the intent was opened and      | the intent in the outbox, no    | starts it
 * committed, before it was started     | longer as an internal event     |
 * after it was started, before its     | the intent in the outbox        | starts it again under its key
 * completion was committed             |                                 |
 * after that commit                    | nothing of it is left           | -
 * an intent given up: after its commit | the writes of `gave_up` as      | delivers them: exactly once, as
 *                                      | internal events, no intent      | both are in one transaction */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct buffer;
struct cloudevent;
struct error;
struct json_value;

/* Makes the carrier; borrows all. type NULL: `subject` is the target's id. */
void write_compose(struct cloudevent *ret_carrier, const char *id, const char *type, const char *subject,
                   size_t subject_len, const char *body, size_t body_len);
/* Whether the carrier names one trigger by its id (its subject). */
bool write_is_addressed(const struct cloudevent *carrier);
/* As the triggers' actions see it: with a type of its own where it has none. */
#define WRITE_EVENT_TYPE "event.triggerflow.write"
void write_show(struct cloudevent *carrier);
/* Appends the member of a dead letter that keeps it, `"write":carrier`, and reads it back. */
void write_letter(const struct cloudevent *carrier, struct buffer *out);
int write_read(struct cloudevent *ret_carrier, const struct json_value *value, struct buffer *scratch,
               struct error *err);
