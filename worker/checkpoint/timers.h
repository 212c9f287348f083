/* Timers: events that are to come at a time, stored in the workspace (STORAGE_TIMERS) by the trigger API, or
 * with the firing that sets them (firing_timer), as id -> {"at": unix nanoseconds, "event_source": {...},
 * "event": {...}}, kept here in a heap.
 *
 * A due timer becomes an event in the workflow when its event source is one of the workflow's own (internal,
 * HTTP, or none given), else an intent to publish it; the checkpoint that contains it deletes it. One that
 * cannot be carried out becomes the dead letter `invalid_timer`. Thread: checkpoint. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct buffer;
struct changes;
struct cloudevent;
struct error;
struct injection;
struct storage;
struct timers;
struct worker;

struct timers *timers_new(struct worker *worker); /* NULL: out of memory */
void timers_free(struct timers *timers);          /* NULL is fine */

/* Appends the document of a timer that emits the event into the workflow. Thread: any. */
void timer_write(uint64_t at_unix_ns, const struct cloudevent *event, struct buffer *out);
/* Takes up those among changes that have been committed. */
void timers_add(struct timers *timers, const struct changes *changes);

/* Reads the stored timers: takes new ones up, forgets those that are gone. */
int timers_load(struct timers *timers, struct storage *storage, struct error *err);
size_t timers_count(const struct timers *timers);
/* When the next one is due (clock_unix_ns), UINT64_MAX: none. */
uint64_t timers_next(const struct timers *timers);
/* Carries out what is due at this time, a bounded number at once. Returns how many. */
size_t timers_fire(struct timers *timers, uint64_t now_unix_ns, struct injection *injection);
/* The epoch that contains them has committed: they may be forgotten. */
void timers_committed(struct timers *timers);
