/* A sequential interpreter of triggers: what a workflow must come to when every event is processed exactly
 * once, one after the other. It knows TRUE, JOIN, FUNCTION_JOIN, COUNTER_THRESHOLD, PASS, TERMINATE and EMIT,
 * and writes the same triggers into storage, so that a real worker's result can be compared with its own.
 *
 * A real worker may mix events of different sources in another order. So a workload compares well only when
 * its outcome does not depend on that: `unordered` marks the triggers whose events come in no certain order,
 * and of which only the set of emitted data is compared. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/storage/storage.h"
#include "tests/support/facts.h"

struct buffer;
struct publication;
struct redis_server;
struct workspace;

enum reference_condition { REFERENCE_TRUE, REFERENCE_JOIN, REFERENCE_FUNCTION_JOIN, REFERENCE_THRESHOLD };
enum reference_action {
    REFERENCE_PASS,
    REFERENCE_TERMINATE,
    REFERENCE_EMIT_INTERNAL,
    REFERENCE_EMIT_OUT,  /* to the event source "out", which nobody consumes */
    REFERENCE_EMIT_BACK, /* to the event source "in", which is consumed */
};

struct reference_trigger {
    const char *id;
    const char *type; /* "*": any; likewise the subject */
    const char *subject;
    enum reference_condition condition;
    int64_t target;
    enum reference_action action;
    const char *emit_type;
    bool transient;
    bool unordered;
    bool own_data; /* emits "<id>" instead of the event's data */
};

struct reference;

/* Copies the triggers' structs, not their text. */
struct reference *reference_new(const struct workspace *workspace, const struct reference_trigger *triggers,
                                size_t n);
void reference_free(struct reference *reference);

/* Writes the triggers into the workspace's storage. 0, or -1. */
int reference_store(const struct reference *reference, const struct workspace *workspace);

/* Appends the document of trigger i. */
void reference_document(const struct reference *reference, size_t i, struct buffer *out);

/* Processes everything that stands in the stream, but for what the workflow has itself emitted into it: that
 * it emits itself. 0, or -1. max_bytes: of an event, sum of its names and values. */
int reference_run(struct reference *reference, const struct workspace *workspace, const char *stream,
                  size_t max_bytes);

/* The same piece by piece, from elsewhere than a Redis stream: an event, and something that is a dead letter
 * instead. Dead letters then are told apart by the ids of their events, "" without one, and nothing is said
 * of what is emitted back: the stream is not there to be compared. */
void reference_take(struct reference *reference, const struct publication *event);
void reference_refuse(struct reference *reference, const char *reason);

/* context.counter of a trigger; -1: there is none of this id any more. */
int64_t reference_counter(const struct reference *reference, const char *id);

/* Events processed, firings, dead letters. */
size_t reference_events(const struct reference *reference);
size_t reference_firings(const struct reference *reference);
size_t reference_letters(const struct reference *reference);

/* What must be in storage and in the streams in the end; and what is. */
void reference_facts(const struct reference *reference, struct facts *facts);
int reference_observe(const struct reference *reference, const struct workspace *workspace, const char *in,
                      const char *out, struct facts *facts);
/* What one field of the triggers, checkpoint or dead letters says, NUL-terminated; and what the workflow has
 * emitted into a stream, each id once: where is "out" or "back". 0, or -1. */
void reference_see(const struct reference *reference, enum storage_set set, const char *field,
                   const char *value, size_t len, struct facts *facts);
int reference_see_stream(const struct reference *reference, struct redis_server *redis, const char *stream,
                         const char *where, struct facts *facts);
