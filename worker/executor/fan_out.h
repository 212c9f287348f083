/* A fan-out: one intent with many elements, which are started one by one as there is room.
 *
 * It is stored once, as {"key","trigger","action","body","of":{"identity","number"},"elements":[...]}. Each
 * element becomes an intent of its own in memory only: the same document with "element" and "index" in place
 * of "elements" and "of", under its own idempotency key. Which of them have ended is stored apart, in the
 * field fan_out:<the intent's field> of the checkpoint, as NEXT/STARTED[:OPEN,OPEN,...]: all below NEXT have
 * ended but those that are listed; no more are listed than were in memory at a time. None from STARTED on can
 * have been started (FAN_OUT_FIRST as long as there is no such field): no element is, before what says so is
 * committed. So a completion costs bytes,
 * not the document. When all have ended, both go.
 *
 * The worker dies                       | stored                        | the successor
 * --------------------------------------|-------------------------------|---------------------------------
 * before the intent's commit            | nothing of it                 | fires again, with the same keys
 * after it, having started some of them | the intent, no progress       | starts all of them, those that had
 *                                       |                               | been under the same keys
 * after a commit with some of them      | the intent, progress          | starts those that are open, under
 *                                       |                               | the same keys
 * after the commit with the last one    | nothing of it                 | -
 *
 * Thread: checkpoint. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct changes;
struct error;
struct fan_out;
struct intent;

#define FAN_OUT_PREFIX "fan_out:"
#define FAN_OUT_FIRST 1000 /* elements that may be started without further ado */

/* Takes the intent on success. progress: what is stored of it, NULL: nothing. creation: the workspace's.
 * Errors: ERROR_INVALID, ERROR_MEMORY. */
int fan_out_new(struct intent *intent, const char *creation, const char *progress,
                struct fan_out **ret_fan_out, struct error *err);
void fan_out_free(struct fan_out *fan_out); /* NULL is fine */

/* The next element to be started; NULL without more, or when memory ran out (see err). */
struct intent *fan_out_next(struct fan_out *fan_out, struct error *err);
/* Whether fan_out_next has no more. */
bool fan_out_exhausted(const struct fan_out *fan_out);
/* An element has ended. Whether all have: then its fields are deleted, and it is to be freed. */
bool fan_out_ended(struct fan_out *fan_out, uint32_t element, struct changes *out);
/* From the epoch on that fan_out_write is called for next, so many more elements may be started than have
 * been so far. */
void fan_out_announce(struct fan_out *fan_out, uint64_t n);
/* Whether fan_out_next gives nothing until that. */
bool fan_out_is_held(const struct fan_out *fan_out);
/* At a graceful stop: forgets what was announced, but for what may have been started in an earlier life;
 * those that have begun are told of then, one by one. Nothing is started after that. */
void fan_out_begin_count(struct fan_out *fan_out);
void fan_out_has_begun(struct fan_out *fan_out, uint32_t element);
/* Whether some of its elements may have been started in an earlier life. */
bool fan_out_is_uncertain(const struct fan_out *fan_out);
const char *fan_out_field(const struct fan_out *fan_out);
/* Writes the progress, if there was some since the last time. */
void fan_out_write(struct fan_out *fan_out, struct changes *out);

/* Lists are the outbox's. */
struct fan_out *fan_out_after(const struct fan_out *fan_out);
void fan_out_link(struct fan_out *fan_out, struct fan_out **list);
void fan_out_unlink(struct fan_out *fan_out, struct fan_out **list);
