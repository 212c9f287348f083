/* Event sources: where events come from. One vtable per class, one file per class, one line in registry.c.
 *
 * Each source has a thread of its own (run). It reads batches, and under its emit lock hands event by event
 * to source_deliver(), moving its position along; source_end_batch() lets the lock go. The checkpoint thread
 * takes the same lock to write a barrier behind what was delivered and to note the position that belongs to
 * it. A source never acknowledges on its own: `acknowledge` tells it up to where a committed checkpoint
 * reaches. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/ring.h"
#include "worker/checkpoint/changes.h"

struct cloudevent;
struct error;
struct executor;
struct intent;
struct json_value;
struct router;
struct sink;
struct source;
struct worker;

struct source_type {
    const char *class_name; /* "RedisEventSource" */
    /* Reads the parameters (a JSON object) into source->state; connects nothing. Errors: ERROR_INVALID naming
     * the parameter and its value. Thread: checkpoint. */
    int (*init)(struct source *source, const struct json_value *parameters, struct error *err);
    void (*done)(struct source *source); /* after the thread has ended; half-built is fine */
    /* Sets the position to start from: as `position` wrote it, or NULL for the first start. Thread:
     * checkpoint, before run. Errors: ERROR_INVALID. */
    int (*restore)(struct source *source, const struct json_value *position, struct error *err);
    /* Unordered sources, whose messages come again until an acknowledgement has taken effect: takes one
     * stored field of what was consumed (worker/source/consumed.h), for each there is, after restore. NULL:
     * ordered. Positions of events are then identities, which say nothing of their order. Thread: checkpoint,
     * before run. Errors: ERROR_INVALID, ERROR_MEMORY. */
    int (*restore_consumed)(struct source *source, const char *key, size_t key_len, const char *value,
                            size_t len, struct error *err);
    /* Until source_stopping(). Thread: source. */
    void (*run)(struct source *source);
    /* Appends the position behind the last delivered event as JSON, nothing when there is none yet.
     * Requires: emit. */
    void (*position)(struct source *source, struct buffer *out);
    /* The last group of the event log that is wholly before that position: the checkpoint removes it and
     * those before it. NULL: does not read the log. Requires: emit. */
    uint64_t (*log_passed)(struct source *source);
    /* A checkpoint with the position that `position` wrote last has committed. Must not wait. Thread:
     * checkpoint. */
    void (*acknowledge)(struct source *source);
    /* Whether the position that `position` wrote last is behind the event that was published to this one.
     * NULL: positions are in order, and so the last event's (barrier_position) tells. Thread: checkpoint,
     * between the barriers and the commit. */
    bool (*passed)(const struct source *source, const uint64_t position[2]);
    /* An adoption from the beginning is told to `restore` as {"from":"beginning"}, not as a first start. */
    bool adopts_beginning;

    /* Publishing to it (EMIT). NULL: cannot be published to. Thread: executor. */
    int (*sink_open)(struct executor *executor, const char *name, const struct json_value *parameters,
                     struct sink **ret_sink, struct error *err);
    /* Publishes the intent's event; its end is reported with executor_done(), whatever happens. */
    void (*sink_publish)(struct sink *sink, struct intent *intent);
    void (*sink_close)(struct sink *sink); /* intents in it are reported as not done */

    /* For registration (worker/check.h): the parameters that the class knows besides those of every class
     * (NULL-terminated; NULL: none), and what they must be like, as init says it, without a source. Errors:
     * ERROR_INVALID naming parameter and value. */
    const char *const *parameters;
    int (*check)(const struct json_value *parameters, struct error *err); /* NULL: anything goes */

    /* The checkpoint's field of its position; NULL: position:<name>. A class that has one outlives its name:
     * there may be one event source of it in a workspace, and what is published to it goes into the workflow.
     */
    const char *position_field;
};

enum { SOURCE_STOPPED = 1 };

struct source {
    const struct source_type *type;
    struct worker *worker;
    void *state; /* the class's own */
    unsigned index;
    char *name;
    char *document; /* as stored */
    size_t document_len;
    uint64_t name_hash;
    bool consume; /* false: publish-only, no thread */
    bool on_recreated_stop;
    unsigned long thread;
    bool started;
    int wake_fd; /* eventfd: something happened that the thread should look at */
    _Atomic bool stopping;
    _Atomic bool ended; /* run has returned */
    struct arena_source *stats;
    struct arena_thread *life;

    pthread_mutex_t emit;
    _Atomic bool barrier_waits; /* the checkpoint thread wants `emit`: the lock alone would let a busy source
                                   take it again and again */
    /* Requires: emit */
    struct ring_producer rings[ARENA_MAX_SHARDS];
    const struct router *router;
    uint32_t touched; /* shards with records not yet published, as bits */
    uint32_t woken_later;
    unsigned unpublished;
    unsigned batch_records; /* written since the batch began */
    struct changes
        changes[2]; /* dead letters: [filling] since the last barrier; the other one is the checkpoint's */
    unsigned filling;
    bool poisoned;      /* the arena lists events to skip */
    bool unordered;     /* the class has restore_consumed */
    bool never_held;    /* its thread has more to do than deliver: a pause does not keep it waiting */
    bool marked;        /* the events in hand had been read when read_mark was taken */
    uint64_t read_mark; /* of checkpoint_reloads() */

    uint64_t last_position[2]; /* of the last event delivered */
    uint64_t filling_epoch;    /* the epoch that `filling` will be committed with */
    _Atomic bool changed;      /* something was taken in since the last barrier */
    /* Thread: checkpoint */
    uint64_t barrier_position[2];
    uint64_t barrier_read; /* stats->read at the last barrier */
    uint64_t committed_read;
    struct buffer stored_position; /* as last committed */
};

/* NULL when there is none of this name. */
const struct source_type *source_find(const char *class_name, size_t len);
/* Appends the names of all classes that can be stored, as "A, B". */
void source_names(struct buffer *out);
/* Whether what is published to this class goes into the workflow itself: the internal source, HTTP. */
bool source_is_own(const char *class_name, size_t len);

/* Registration. Whether an event source (a JSON value) can be stored: what source_new says, and that no
 * member and no parameter is unknown. Errors: ERROR_INVALID naming the member and its value, unless that may
 * be a secret. Thread: any. */
#define SOURCE_NAME_MAX 255
int source_check(const struct json_value *document, struct error *err);
/* The same for one that is to be published to: a whole document; or without a class, the name of a stored
 * one; without either, or of an own class, the workflow itself. */
int source_check_target(const struct json_value *document, struct error *err);

/* Makes a source from its stored document; index is free. Errors: ERROR_INVALID. Thread: checkpoint. */
int source_new(struct worker *worker, unsigned index, const char *name, size_t name_len, const char *document,
               size_t document_len, struct source **ret_source, struct error *err);
/* Starts the thread. */
int source_start(struct source *source, struct error *err);
/* Asks the thread to end (returns at once); source_join waits for it. */
void source_stop(struct source *source);
void source_join(struct source *source);
void source_free(struct source *source); /* joined or never started; NULL is fine */
void source_wake(struct source *source); /* Thread: any */

/* Writes a barrier behind everything delivered; wakes nobody. Requires: emit. Thread: checkpoint. */
void source_barrier(struct source *source, uint64_t epoch, uint32_t sources);

/* --- for classes, on their thread --- */

bool source_stopping(const struct source *source);

/* Takes the emit lock for a batch, after waiting while the workflow is paused; lets it go, with everything
 * published. */
void source_begin_batch(struct source *source);
/* The same, but false at once while the workflow is paused. */
bool source_try_batch(struct source *source);
void source_end_batch(struct source *source);
/* Ends a batch in which nothing was delivered. */
void source_cancel_batch(struct source *source);
/* Whether source_deliver of this event would not wait for shards, whichever they are. Requires: emit. */
bool source_fits(struct source *source, const struct cloudevent *event);

/* Whether a trigger matches: source_deliver would not wait for a reload. Requires: emit. */
bool source_routes(const struct source *source, const struct cloudevent *event);

/* Routes one event, waiting for room in the rings, and, when nothing matches, for a reload of the triggers;
 * an event without a trigger, or that has killed the worker too often, becomes a dead letter. The lock is
 * given up and taken again while waiting for a reload, so the caller's position must be that of the event
 * before. Returns 0: done, move the position; SOURCE_STOPPED: not delivered, do not (it is to stop, or
 * never_held and the workflow is paused). Requires: emit. */
int source_deliver(struct source *source, const struct cloudevent *event, const uint64_t position[2],
                   bool has_key);

/* For the internal source. A write into triggers' contexts (worker/shard/write.h), and an intent that has
 * waited behind writes: its document, copied. Return as source_deliver. Require: emit. */
int source_deliver_write(struct source *source, const struct cloudevent *carrier, const uint64_t position[2]);
int source_deliver_intent(struct source *source, const char *document, size_t len);

/* Dead-letters something that is not a CloudEvent; `body` is a JSON member that keeps it (`"fields":[...]`).
 * Requires: emit. */
void source_reject(struct source *source, const char *reason, const char *detail, const uint64_t position[2],
                   const char *body, size_t body_len);

/* Leaves out a message that a checkpoint already contains: counted as a duplicate, and acknowledged with the
 * next checkpoint. Requires: emit. */
void source_drop(struct source *source, const uint64_t position[2]);

/* Waits while too much is in flight, the dead letters are full or the workflow is paused; SOURCE_STOPPED when
 * the source is to stop. Not with the emit lock. */
int source_wait_room(struct source *source);
/* The same without waiting. Where there is no room, the source is woken when there may be. */
bool source_has_room(struct source *source);
bool source_ask_room(struct source *source);

/* Sleeps until fd (or -1) has events, the source is woken, or the time is over. Returns whether fd is ready.
 * Marks the thread idle meanwhile. */
bool source_poll(struct source *source, int fd, short events, uint64_t timeout_ns);

void source_set_state(struct source *source, enum arena_source_state state, const char *error);
