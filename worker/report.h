/* What the worker says about itself: the text of its status message, kept up to date by all threads and sent
 * by the main thread when it has changed. Each new problem is logged once. Thread: any (a lock inside). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"

struct buffer;
struct error;
struct loop;
struct report;

/* changed: woken whenever the text changes. */
struct report *report_new(struct arena *arena, struct loop *loop); /* NULL: out of memory */
void report_free(struct report *report);

void report_state(struct report *report, enum arena_state state);
/* The workflow is paused by its user (arena.worker.held). */
void report_held(struct report *report, bool held);
/* Timers that are to come, and when the first is due (unix time; UINT64_MAX: there is none). */
void report_timers(struct report *report, size_t count, uint64_t next_unix_ns);
/* error NULL: the storage answers. */
void report_storage(struct report *report, const struct error *error);
void report_durability(struct report *report, const char *durability, bool durable);
/* error NULL: none. Another error is logged; of many that take turns in one state, one a minute. */
void report_source(struct report *report, unsigned index, const char *name, const char *class_name,
                   enum arena_source_state state, const char *error);
/* Whether a sink publishes; NULL: it does, again. Shown in the warnings; whoever calls logs it. */
void report_publishing(struct report *report, const char *source, const char *error);
void report_source_gone(struct report *report, unsigned index);
/* A stored event source or trigger that cannot run: `"id":..,"reason":..` objects separated by commas. */
void report_broken_triggers(struct report *report, size_t total, size_t broken, const char *json, size_t len);
void report_broken_sources(struct report *report, const char *json, size_t len);
/* A warning under a stable name; text NULL takes it back. */
void report_warning(struct report *report, const char *name, const char *text);

/* Whether the text has changed since the last report_write. */
bool report_changed(struct report *report);
/* Appends the status object ({"state":...}), cut to fit into a packet. */
void report_write(struct report *report, struct buffer *out);

const char *report_state_name(enum arena_state state);
