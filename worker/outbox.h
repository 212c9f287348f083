/* The outbox: committed intents on their way to the executor. At most max_pending_actions are in memory;
 * beyond that intents wait in storage only, named here by their field, and are read back in order. Of a
 * fan-out (fan_out.h), which takes its place in that order as a whole, as many elements are in memory.
 * Thread: checkpoint. */
#pragma once

#include <stdbool.h>

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
/* Takes a list of intents that have just been committed. */
void outbox_start(struct outbox *outbox, struct intent *list);
/* Reads waiting intents back while there is room. */
void outbox_refill(struct outbox *outbox, struct storage *storage);
bool outbox_empty(const struct outbox *outbox); /* nothing waits in storage only */

/* An element of a fan-out has ended: its progress goes with the epoch that outbox_collect is called for. */
void outbox_element_ended(struct outbox *outbox, const struct intent *element, struct changes *out);
/* Writes what an epoch is to say of fan-outs. */
void outbox_collect(struct outbox *outbox, struct changes *out);

/* A dead letter for an intent that was given up. */
void outbox_dead_letter(const struct intent *intent, struct changes *out);
