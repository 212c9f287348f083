/* Timers: events that are to come at a time, stored in the workspace (STORAGE_TIMERS) by the trigger API as
 * id -> {"at": unix nanoseconds, "event_source": {...}, "event": {...}}, kept here in a heap.
 *
 * A due timer becomes an event in the workflow when its event source is one of the workflow's own (internal,
 * HTTP, or none given), else an intent to publish it; the checkpoint that contains it deletes it. One that
 * cannot be carried out becomes the dead letter `invalid_timer`. Thread: checkpoint. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct error;
struct injection;
struct storage;
struct timers;
struct worker;

struct timers *timers_new(struct worker *worker); /* NULL: out of memory */
void timers_free(struct timers *timers);          /* NULL is fine */

/* Reads the stored timers: takes new ones up, forgets those that are gone. */
int timers_load(struct timers *timers, struct storage *storage, struct error *err);
size_t timers_count(const struct timers *timers);
/* When the next one is due (clock_unix_ns), UINT64_MAX: none. */
uint64_t timers_next(const struct timers *timers);
/* Carries out what is due at this time, a bounded number at once. Returns how many. */
size_t timers_fire(struct timers *timers, uint64_t now_unix_ns, struct injection *injection);
/* The epoch that contains them has committed: they may be forgotten. */
void timers_committed(struct timers *timers);
