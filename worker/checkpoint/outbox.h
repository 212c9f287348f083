/* The outbox: committed intents on their way to the executor. At most max_pending_actions are in memory;
 * beyond that intents wait in storage only, named here by their field, and are read back in order. Of a
 * fan-out (fan_out.h), which takes its place in that order as a whole, as many elements are in memory.
 * Thread: checkpoint.
 *
 * Which of those that it finds the successor of a worker that has died may take to have been started: all,
 * or, when some wait in storage only, those up to the checkpoint's field `outbox_started`, and of a fan-out
 * the elements up to what its progress says. Both are written with the epoch before anything behind them is
 * handed over, so what they do not cover was never started (but with action_start: immediate, where the field
 * is not written, all may have been). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct changes;
struct emissions;
struct error;
struct intent;
struct outbox;
struct recovery;
struct storage;
struct worker;

struct outbox *outbox_new(struct worker *worker); /* NULL: out of memory */
void outbox_free(struct outbox *outbox);

/* What recovery has found, before anything starts: registers emissions that may come back. */
int outbox_restore(struct outbox *outbox, struct recovery *recovery, struct emissions *emissions,
                   struct error *err);
/* Takes a list of intents that have just been committed: those that outbox_collect was told of, in that
 * order. */
void outbox_start(struct outbox *outbox, struct intent *list);
/* Reads waiting intents back while there is room. */
void outbox_refill(struct outbox *outbox, struct storage *storage);
bool outbox_empty(const struct outbox *outbox); /* nothing waits in storage only */
/* Whether some could go on, had an epoch said so. */
bool outbox_wants_epoch(const struct outbox *outbox);

/* An element of a fan-out has ended: its progress goes with the epoch that outbox_collect is called for. */
void outbox_element_ended(struct outbox *outbox, const struct intent *element, struct changes *out);
/* Writes what an epoch is to say: of fan-outs, and how far the outbox may go after it. lists: the intents
 * that the epoch opens. */
void outbox_collect(struct outbox *outbox, struct intent *const *lists, size_t n_lists, struct changes *out);

/* A dead letter for an intent that was given up. */
void outbox_dead_letter(const struct intent *intent, struct changes *out);
