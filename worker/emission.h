/* Emissions of our own that come back through an event source that this workflow consumes: each counts once.
 *
 * EMIT publishes an event whose id is the firing's idempotency key, at least once. Every such intent is
 * registered here before it is first published; the source drops an event whose id it has seen before. What
 * was seen is stored with the checkpoint that counts it (field seen:<key>), and forgotten as soon as no
 * repeat can follow: when the intent's completion is committed and it was published only once, or the source
 * has passed the last publication. An unordered source passes nothing: its sink's final position is the time
 * of publication in unix nanoseconds, and a repeat is awaited for redelivery_window. Thread: any (a lock
 * inside). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct changes;
struct emissions;
struct error;
struct source;

struct emissions *emissions_new(void); /* NULL: out of memory */
void emissions_free(struct emissions *emissions);

/* Whether anything is registered: a cheap look for the hot path. */
bool emissions_any(const struct emissions *emissions);

/* Registers key, which will be published to the source of this name. Again is fine. Errors: ERROR_MEMORY. */
int emissions_register(struct emissions *emissions, const char *key, const char *source, size_t source_len,
                       struct error *err);

enum emission_sight { EMISSION_OTHER, EMISSION_FIRST, EMISSION_REPEAT };
/* An event with this id has come from the source. EMISSION_FIRST has been remembered in the source's changes.
 * Requires: the source's emit lock. */
enum emission_sight emissions_see(struct emissions *emissions, struct source *source, const char *id,
                                  size_t len);

/* The intent's completion goes into the checkpoint of `epoch`. final_position: of its last publication; once:
 * it was published exactly once, or never. Thread: checkpoint. */
void emissions_complete(struct emissions *emissions, const char *key, const uint64_t final_position[2],
                        bool once);

/* Forgets what can be forgotten with the checkpoint of `epoch`. Thread: checkpoint, after the barriers. */
void emissions_collect(struct emissions *emissions, struct source *const *sources, size_t n_sources,
                       uint64_t epoch, struct changes *out);

/* Puts a stored field back (key without "seen:"). Errors: ERROR_INVALID, ERROR_MEMORY. */
int emissions_restore(struct emissions *emissions, const char *key, size_t key_len, const char *value,
                      size_t len, struct error *err);
