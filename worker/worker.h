/* One worker: the parts of its pipeline and what they share.
 *
 * Made by main (worker_new), filled by the checkpoint thread while it recovers, then: `sources` and their
 * number change only on the checkpoint thread; `router` is replaced by it. The other members are fixed or
 * atomic. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/ring.h"
#include "common/storage/storage.h"
#include "worker/globals_slot.h"

struct checkpoint;
struct emissions;
struct config;
struct container_keeper;
struct error;
struct executor;
struct internal;
struct loop;
struct programs;
struct report;
struct router;
struct shard;
struct source;

struct worker {
    const struct config *config;
    const char *workspace;
    char creation[64];               /* after recovery */
    char writer[STORAGE_WRITER_MAX]; /* random: this life of the worker */
    struct arena *arena;
    struct loop *loop; /* main thread; others only wake it */
    struct report *report;
    int ingest_fd;  /* of the ingest ring: readable when records were published; -1: no ring. Thread: its
                       source */
    int durable_fd; /* written when records were answered. Thread: its source */
    unsigned n_shards;
    struct shard *shards[ARENA_MAX_SHARDS];
    struct source *sources[ARENA_MAX_SOURCES]; /* [0]: the internal source. Thread: checkpoint */
    _Atomic uint32_t n_rings;                  /* shards look at the rings of sources below this index */
    struct doorbell space[ARENA_MAX_SOURCES];  /* per source: rung when one of its rings has room again */
    _Atomic(struct router *) router;
    struct internal *internal;
    struct checkpoint *checkpoint;
    struct executor *executor;
    struct emissions *emissions;
    uint64_t unsure_ns; /* for so long a commit may still be lost in a crash of the storage; after recovery */
    struct programs *programs;       /* NULL: none may be run. Thread: executor */
    struct container_keeper *keeper; /* NULL: no containers may be run. Thread: executor */
    struct globals_slot globals;
    _Atomic uint64_t committed;  /* events of all sources but the internal one, in committed checkpoints */
    _Atomic uint64_t waiting;    /* events that wait in their triggers (waiting.h) */
    _Atomic uint64_t decisions;  /* sequence number of the last one (common/decision.h) */
    _Atomic uint64_t own_source; /* hash of the name of the event source through which the workflow itself is
                                    published to; 0: none. Writer: checkpoint */
    _Atomic bool held;           /* the user has paused the workflow. Writer: checkpoint */
    _Atomic bool paused;         /* some source waits for in-flight events to be committed */

    /* Main thread. */
    int status_fd;
    int signal_fd;
    unsigned generation;
    uint64_t status_sent_ns;
    int watched_fd;
    unsigned watch_seen;
    pthread_mutex_t lock;
    char **messages; /* waiting to be sent. Requires: lock */
    size_t n_messages;
    int watch_fd;              /* Requires: lock */
    unsigned watch_generation; /* Requires: lock */
};

/* How a worker is run. */
struct worker_options {
    const struct config *config; /* borrowed */
    const char *workspace;
    int arena_fd;  /* -1: an arena of its own */
    int status_fd; /* socket to the supervisor; -1: none */
    int ingest_fd; /* eventfds of the ingest ring (common/ipc.h), borrowed; -1: nobody publishes into it */
    int durable_fd;
    unsigned generation;
};

/* Runs a worker to its end, on the calling thread as its main thread. Returns the exit status (common/ipc.h).
 */
int worker_run(const struct worker_options *options);

/* Messages to the supervisor (common/ipc.h), sent by the main thread. Thread: any. */
void worker_ready(struct worker *worker);
void worker_finished(struct worker *worker, const char *trigger);
/* expected: it is what was asked for, and is logged as no error. */
void worker_failed(struct worker *worker, const char *reason, const char *error, bool expected);
/* The answer to a request (common/ipc.h); id below zero: nobody waits for it. Thread: checkpoint. */
void worker_answer(struct worker *worker, int64_t id, uint64_t count);
void worker_refuse(struct worker *worker, int64_t id, int status, const char *error);
/* The main thread is to watch this descriptor for changes in storage; -1: none any more. Thread: checkpoint.
 */
void worker_watch(struct worker *worker, int fd);

/* Pauses the workflow: event sources take nothing up; or lets it go on. Thread: checkpoint. */
void worker_hold(struct worker *worker, bool held);
static inline bool worker_held(const struct worker *worker) /* Thread: any */
{
    return atomic_load_explicit(&worker->held, memory_order_relaxed);
}

/* Events read or emitted and not yet committed. Thread: any. */
uint64_t worker_in_flight(const struct worker *worker);

/* The arena slot of the calling thread, for heartbeats and for the fault handler; NULL outside the worker's
 * threads. */
void worker_thread_enter(struct worker *worker, unsigned slot, const char *name);

/* The calling thread does the work of another slot for a while: a fault, or silence, is that slot's; and the
 * end of that. */
void worker_thread_stand_in(unsigned slot);
void worker_thread_be_itself(struct worker *worker);

/* Starts a thread with all signals but the faults blocked. Errors: ERROR_SYSTEM. */
int worker_thread_start(unsigned long *ret_thread, void *(*run)(void *), void *data, struct error *err);
