/* The checkpoint thread: it recovers the workflow, and from then on opens epochs, gathers their cuts, commits
 * them, and does what may be done only after a commit; between epochs it keeps triggers and event sources in
 * step with storage.
 *
 * Epoch n: under each source's emit lock write barrier n into its rings and note its position; wait until all
 * shards have cut; commit one transaction of the shards' changes, the sources' dead letters and positions,
 * pending internal events, completed intents; then acknowledge, hand intents to the executor, forget what was
 * replaced. Nothing else happens on this thread meanwhile, so sources join and leave between epochs.
 *
 * Crash between any two lines: before the commit is applied, the successor starts from the epoch before, and
 * all of this is done again; after it, from this epoch: acknowledgements are repeated with the next
 * checkpoint, intents are in the outbox. A commit without an answer is repeated unchanged until storage
 * answers; no epoch opens meanwhile. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct checkpoint;
struct error;
struct intent;
struct source;
struct worker;

int checkpoint_new(struct worker *worker, struct checkpoint **ret_checkpoint, struct error *err);
int checkpoint_start(struct checkpoint *checkpoint, struct error *err);
void checkpoint_free(struct checkpoint *checkpoint); /* joins; NULL is fine */

/* Requests. Thread: any. */
void checkpoint_stop(struct checkpoint *checkpoint, uint64_t deadline_ns); /* drain and end */
void checkpoint_reload(struct checkpoint *checkpoint);
void checkpoint_storage_changed(struct checkpoint *checkpoint); /* the watch descriptor is readable */
void checkpoint_adopt(struct checkpoint *checkpoint, const char *from);
/* A message that asks for a change (request.h); copied. */
void checkpoint_request(struct checkpoint *checkpoint, const char *packet, size_t len);
/* Whether the thread has ended, and how the worker should exit (ipc.h). */
bool checkpoint_ended(const struct checkpoint *checkpoint, int *ret_exit_status);

/* Something was taken in: an epoch is due. Thread: source. */
void checkpoint_changed(struct checkpoint *checkpoint);
/* Reloads of the triggers begun so far. Thread: any. */
uint64_t checkpoint_reloads(struct checkpoint *checkpoint);
/* Whether one that began after `mark` of them has ended; asks for it when not. Thread: any. */
bool checkpoint_reloaded(struct checkpoint *checkpoint, uint64_t mark);
/* The storage has refused a write as another writer's: the worker ends as after a fenced commit. Thread:
 * source. */
void checkpoint_fenced(struct checkpoint *checkpoint, const struct error *err);
/* Waits for a reload of the triggers that begins after this call (or has begun after read_mark). 0, or 1: the
 * source is to stop. Thread: source. */
int checkpoint_reload_wait(struct checkpoint *checkpoint, const struct source *source);
/* Makes sources that wait look at whether they are to stop. */
void checkpoint_interrupt(struct checkpoint *checkpoint);
/* An intent waits for its commit: the next epoch is due at once. Thread: shard. */
void checkpoint_intent_waits(struct checkpoint *checkpoint);
/* The next epoch is due at once for another reason. Thread: any. */
void checkpoint_urge(struct checkpoint *checkpoint);
/* This shard has cut. Thread: shard. */
void checkpoint_cut_done(struct checkpoint *checkpoint);
/* Takes an intent that is finished or given up. Thread: executor. */
void checkpoint_completed(struct checkpoint *checkpoint, struct intent *intent);
