/* What an unordered source has consumed: the identities of the messages that checkpoints contain, for brokers
 * that have no position to go on from (RabbitMQ, SQS) and deliver a message again until its acknowledgement
 * has taken effect.
 *
 * An identity is 96 bits of an XXH3 hash, seeded by the workspace's creation value, of what the class says
 * tells one message from another. The identities that were added between two barriers are a *chunk*: one
 * field `consumed:<source>:<epoch>` of the checkpoint, written by the transaction that contains what the
 * messages did. A chunk is *settled* when the class knows that the acknowledgements of its messages have
 * taken effect; some time after that (the class says when) it expires, and the next checkpoint deletes it.
 * Chunks settle and expire in their order; those of an earlier life come first, in any order, and settle best
 * as one.
 *
 * Two equal identities are two messages: occurrences are counted. consumed_has() is for classes whose
 * messages have ids of their own (a message is known or it is not); consumed_take() is for those that have
 * none and cannot tell twins apart, but know which deliveries are repeated: each occurrence of an earlier
 * connection is taken once, so that what was consumed twice and comes again twice is dropped twice, and the
 * third is news. A new connection begins anew (consumed_rewind), as everything unacknowledged comes again on
 * it. consumed_since() tells what was consumed on this connection.
 *
 * A crash between any two lines:
 *   after the event was delivered to its shards, before consumed_add or the commit
 *                                     neither its effects nor its identity are stored: the broker repeats it,
 *                                     and it counts
 *   after the commit, before the acknowledgement, or while that is on its way
 *                                     both are stored: the repetition is dropped, and acknowledged
 *   after the acknowledgement, before it is known to have taken effect, or before the chunk is deleted
 *                                     the chunk is restored: nothing comes, or a repetition that is dropped
 *   after the chunk was deleted       the broker has forgotten the message
 * A chunk that is deleted from memory and not from storage (its epoch did not commit) is restored likewise.
 *
 * Memory: 12 bytes an id and 7 to 8 for the index over it (up to 13 while they are few); 24 bytes a chunk;
 * and 48 bytes for each identity that is there more than once or was taken. All operations on an id are O(1).
 * Beyond `max` ids the oldest settled chunks expire early; unsettled ones, which are bounded by what the
 * broker hands out without acknowledgement and by the events in flight, never do.
 *
 * Thread: one at a time, that is under the source's emit lock (consumed_identity: any). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/source/tally.h"

struct consumed;
struct error;
struct source;

/* creation: of the workspace. Errors: ERROR_MEMORY. */
int consumed_new(const char *creation, size_t max, struct consumed **ret_consumed, struct error *err);
void consumed_free(struct consumed *consumed); /* NULL is fine */

/* The identity of these bytes, and of what `before` was made of (NULL: nothing). */
struct consumed_id consumed_identity(const struct consumed *consumed, const struct consumed_id *before,
                                     const void *data, size_t len);

/* --- recovery --- */

#define CONSUMED_FIELD "consumed:" /* <source>:<20 digits> */
/* Whether the key is that of a chunk; of which source and epoch. */
bool consumed_field(const char *key, size_t key_len, size_t *ret_source_len, uint64_t *ret_epoch);
/* When the chunk was written, in unix seconds; 0: it is not one. */
uint64_t consumed_field_time(const char *value, size_t len);
/* Puts a stored chunk back; the same one again is ignored. Before anything is added. Errors (then it is only
 * good for consumed_free): ERROR_INVALID, ERROR_MEMORY. */
int consumed_restore(struct consumed *consumed, const char *key, size_t key_len, const char *value,
                     size_t len, struct error *err);
/* The last epoch that was put back; 0: none. */
uint64_t consumed_restored(const struct consumed *consumed);

/* --- consuming --- */

/* Makes room, so that consumed_add cannot fail: before the event is delivered. Errors: ERROR_MEMORY. */
int consumed_reserve(struct consumed *consumed, const struct consumed_id *id, struct error *err);
/* It will be added or asked for soon, which is quicker then. Thread: who adds; also without the lock. */
void consumed_expect(const struct consumed *consumed, const struct consumed_id *id);
/* The event was delivered (or dead-lettered): its identity goes into the same epoch. Whether it is there more
 * than once now. */
bool consumed_add(struct consumed *consumed, const struct consumed_id *id);
bool consumed_has(const struct consumed *consumed, const struct consumed_id *id);
/* Whether there is an occurrence from before consumed_rewind that was not taken since; it is now. Errors:
 * ERROR_MEMORY
 * (-1): it is there, and not taken. */
enum { CONSUMED_NEW = 0, CONSUMED_TAKEN = 1 };
int consumed_take(struct consumed *consumed, const struct consumed_id *id, struct error *err);
/* Whether there is an occurrence from after consumed_rewind. */
bool consumed_since(const struct consumed *consumed, const struct consumed_id *id);
void consumed_rewind(struct consumed *consumed);

size_t consumed_count(const struct consumed *consumed);
size_t consumed_unsettled(const struct consumed *consumed); /* ids, those of the open chunk included */

/* --- checkpoints --- */

/* From the class's `position`: puts the open chunk, and the deletion of expired ones, into the source's
 * changes, for the epoch whose barrier follows. When memory runs out these have failed. */
void consumed_cut(struct consumed *consumed, struct source *source, uint64_t now_ns);
/* The acknowledgements of all chunks up to this epoch have taken effect: they expire at until_ns (0: at
 * once, and so do those that were settled before). now_ns and until_ns are of the monotonic clock. */
void consumed_settled(struct consumed *consumed, uint64_t epoch, uint64_t until_ns);
/* Of those, the chunks behind epoch `after` and up to `epoch` expire at until_ns if they had to later. */
void consumed_shorten(struct consumed *consumed, uint64_t after, uint64_t epoch, uint64_t until_ns);
/* Forgets what has expired, which the next checkpoint then deletes. consumed_cut does it, too. */
void consumed_expire(struct consumed *consumed, uint64_t now_ns);
