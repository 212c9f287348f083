/* The internal source: events that the workflow emits into itself travel through it, so that they are
 * ordered, counted and checkpointed like all others. Index 0 of the worker's sources.
 *
 * Its queue is a list in memory: emitters append, its thread writes entries to the rings in order, and an
 * entry stays until a checkpoint has passed it. At the cut of epoch n, the pending events are those emitted
 * up to the cut (each entry is tagged with its shard's epoch) less those written before the barrier; only
 * those are stored: an event as CloudEvent JSON, a write as ["write",carrier], an intent as
 * ["intent",document]. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct changes;
struct cloudevent;
struct error;
struct internal;
struct source;
struct worker;

/* Makes the source (index 0) and its queue. Thread: checkpoint, before the shards. */
int internal_new(struct worker *worker, struct source **ret_source, struct error *err);

/* Appends an event (copied), to be committed with `epoch`. Never waits. Thread: any shard; or
 * checkpoint, between two epochs. Errors:
 * ERROR_MEMORY. */
int internal_emit(struct internal *internal, const struct cloudevent *event, uint64_t epoch,
                  struct error *err);

/* The same for a write into triggers' contexts (write.h), by its carrier, and for an intent that is to wait
 * behind what was appended before: its document, as it goes into the outbox. */
int internal_write(struct internal *internal, const struct cloudevent *carrier, uint64_t epoch,
                   struct error *err);
int internal_hold(struct internal *internal, const char *document, size_t len, uint64_t epoch,
                  struct error *err);

/* Puts a stored pending event back. Thread: checkpoint, before the source starts; in the order of the
 * numbers. */
int internal_restore(struct internal *internal, uint64_t number, const char *json, size_t len,
                     struct error *err);

/* Adds what the cut of `epoch` has to change in storage. Thread: checkpoint, after all shards have cut. */
void internal_collect(struct internal *internal, uint64_t epoch, struct changes *out);

/* Whether there are events that have not been handed to their shards yet. Thread: any. */
bool internal_waiting(struct internal *internal);

/* Events not yet written and committed. Thread: any. */
uint64_t internal_pending(const struct internal *internal);
