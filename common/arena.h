/* The arena: memory shared by the supervisor and one worker (a sealed memfd). It outlives the worker, so that
 * a restarted worker finds what its predecessor was doing.
 *
 *     header | counters of the worker | per thread: heartbeat, event in hand | poison table | rings |
 *     ingest ring | decisions
 *
 * Written by the worker, each field by one thread (named below), and read by the supervisor at any time. The
 * supervisor trusts nothing it reads: indices are checked, text is bounded, rings are never walked. Only the
 * poison table is written by the supervisor, while no worker runs. All fields are lock-free atomics or
 * written before `ready`. With the worker's own arena (no supervisor) everything is the same, but it ends
 * with the process. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

#define ARENA_MAGIC 0x31414654u /* "TFA1" */
#define ARENA_FORMAT 3u         /* of this layout */
#define ARENA_MAX_SOURCES 32    /* index 0 is the internal source */
#define ARENA_MAX_SHARDS 8
#define ARENA_MAX_POISON 16
#define ARENA_POISON_DEATHS 3
#define ARENA_NAME_MAX 64
#define ARENA_RING_BYTES (256u << 10)             /* data bytes of one ring; a power of two */
#define ARENA_RING_HEADER 256u                    /* room for struct ring_shared in front of them */
#define ARENA_INGEST_BYTES (8u << 20)             /* data bytes of the ingest ring; a power of two */
#define ARENA_INGEST_MAX (ARENA_INGEST_BYTES / 4) /* largest record in it */
#define ARENA_DECISIONS_BYTES (128u << 10)        /* a shard's log of recent decisions (common/decision.h) */

/* Thread slots. */
enum {
    ARENA_THREAD_MAIN,
    ARENA_THREAD_CHECKPOINT,
    ARENA_THREAD_EXECUTOR,
    ARENA_THREAD_SOURCE, /* + source index */
    ARENA_THREAD_SHARD = ARENA_THREAD_SOURCE + ARENA_MAX_SOURCES,
    ARENA_THREADS = ARENA_THREAD_SHARD + ARENA_MAX_SHARDS
};

/* An event as its source names it, the same in every life of the worker. */
struct arena_event {
    uint64_t source;      /* XXH3 of the source's name, seed 0 */
    uint64_t position[2]; /* Redis: entry id (ms, seq); internal: first bytes of the event's id */
};

/* What a thread is at. Writer: that thread. */
struct arena_thread {
    _Alignas(128) _Atomic uint64_t beat_ns; /* clock_coarse_ns() of its last sign of life */
    _Atomic uint32_t busy;                  /* has work: silence means trouble */
    _Atomic uint32_t tid;
    _Atomic uint32_t event_set; /* the four below name an event in hand */
    _Atomic uint64_t event_source;
    _Atomic uint64_t event_position[2];
    _Atomic uint64_t trigger; /* XXH3 of the trigger's uuid, seed 0; 0: not evaluating */
};

enum arena_state {
    ARENA_STARTING,
    ARENA_RUNNING,
    ARENA_NEEDS_ADOPTION,
    ARENA_STOPPING,
    ARENA_STOPPED,
    ARENA_FAILED
};
enum arena_source_state {
    ARENA_SOURCE_STARTING,
    ARENA_SOURCE_READING,
    ARENA_SOURCE_UNAVAILABLE, /* reconnecting */
    ARENA_SOURCE_PAUSED,      /* back-pressure, or dead letters full */
    ARENA_SOURCE_FAILED,      /* its configuration cannot work */
    ARENA_SOURCE_PUBLISH_ONLY,
    ARENA_SOURCE_STOPPED
};

/* Writer: the source's thread. */
struct arena_source {
    _Alignas(128) char name[ARENA_NAME_MAX]; /* written before state leaves 0-value use; NUL-terminated, maybe
                                               cut */
    _Atomic uint32_t used;
    _Atomic uint32_t state; /* enum arena_source_state */
    _Atomic uint64_t read;  /* events read since the worker started */
    _Atomic uint64_t bytes;
    _Atomic uint64_t lag;  /* events in the broker not yet read, as last known */
    _Atomic uint64_t lost; /* events trimmed away before they were read */
    _Atomic uint64_t recreated;
    _Atomic uint64_t reconnects;
    _Atomic uint64_t dead_letters;
    _Atomic uint64_t duplicates; /* dropped: own emissions and redeliveries seen before */
};

/* The ingest ring: what the supervisor has accepted over HTTP, on its way to the worker's event log. Each
 * record is a struct arena_ingest_record; the worker releases a record (moves the ring's tail past it) once
 * it is answered: durable, or refused with the record's `answer`. */
enum arena_ingest_state {
    ARENA_INGEST_CLOSED, /* no HTTPEventSource, or not yet */
    ARENA_INGEST_OPEN,
    ARENA_INGEST_NO_SPACE, /* the storage is full: the supervisor may refuse at once (507); a record sent all
                              the same probes whether there is room again */
};
struct arena_ingest_record {
    _Atomic uint32_t answer; /* written by the worker before it releases the record: an HTTP status, 202 when
                                durable */
    uint32_t n_events;
    uint32_t
        duplicates; /* written with `answer`: how many of the events were repetitions, and were dropped */
    uint32_t pad;   /* what follows stays aligned to 8 bytes */
    /* n_events packed CloudEvents (cloudevent_pack), one behind the other */
};

/* Writer: the shard's thread. */
struct arena_shard {
    _Alignas(128) _Atomic uint64_t evaluated; /* condition evaluations */
    _Atomic uint64_t events;
    _Atomic uint64_t fired;
    _Atomic uint64_t dead_letters;
};

/* Writer: the checkpoint thread, but for the executor_ fields (executor) and state (main). */
struct arena_worker {
    _Alignas(64) _Atomic uint32_t state; /* enum arena_state */
    _Atomic uint32_t generation;         /* which life of the worker: set by the supervisor */
    _Atomic uint32_t n_shards;
    _Atomic uint32_t dead_letters_full;
    _Atomic uint64_t epoch;
    _Atomic uint64_t commits;
    _Atomic uint64_t commit_ns;      /* duration of the last commit */
    _Atomic uint64_t commit_unix_ns; /* when the last one was confirmed; 0: none yet */
    _Atomic uint64_t documents;      /* trigger documents written */
    _Atomic uint64_t commit_failures;
    _Atomic uint64_t in_flight; /* events read or emitted and not yet committed */
    _Atomic uint64_t internal_pending;
    _Atomic uint64_t triggers;
    _Atomic uint64_t triggers_broken;
    _Atomic uint64_t reloads;
    _Atomic uint64_t dead_letters;      /* stored in this life */
    _Atomic uint64_t dead_letter_bytes; /* now in storage */
    _Atomic uint64_t finished;          /* how often TERMINATE has fired */
    _Atomic uint64_t committed_events;  /* events of all sources in committed checkpoints */
    _Atomic uint64_t fired_committed;
    _Atomic uint32_t ingest; /* enum arena_ingest_state. Writer: the HTTP event source */
    _Atomic uint32_t held;   /* the workflow is paused by its user */
    _Alignas(64) _Atomic uint64_t executor_started;
    _Atomic uint64_t executor_completed;
    _Atomic uint64_t executor_retries;
    _Atomic uint64_t executor_failed;
    _Atomic uint64_t executor_pending;
};

/* Writer: the supervisor (standalone: nobody). */
struct arena_poison {
    struct arena_event event;
    uint64_t trigger;
    uint32_t deaths; /* at ARENA_POISON_DEATHS the event is dead-lettered (crashed_worker) and skipped */
    uint32_t signal; /* of the last death; 0: watchdog */
};

struct ring_shared; /* common/ring.h */

struct arena {
    uint32_t magic;
    uint32_t format;
    uint64_t size;
    struct arena_worker worker;
    struct arena_source source[ARENA_MAX_SOURCES];
    struct arena_shard shard[ARENA_MAX_SHARDS];
    struct arena_thread thread[ARENA_THREADS];
    _Alignas(64) _Atomic uint32_t fault_signal; /* written by the worker's signal handler; 0: none */
    _Atomic uint32_t fault_thread;              /* thread slot */
    uint32_t n_poison;
    struct arena_poison poison[ARENA_MAX_POISON];
};

/* Creates an arena: a memfd of the right size, sealed against resizing, CLOEXEC. */
int arena_create(int *ret_fd, struct error *err);
/* Maps an arena after checking size, seals and magic. The caller keeps the fd. */
int arena_map(int fd, struct arena **ret_arena, struct error *err);
void arena_unmap(struct arena *arena); /* NULL is fine */

/* Readies the arena for the next life of the worker: everything is zeroed but the poison table. Process:
 * supervisor, or a worker of its own, while no worker runs. */
void arena_reset(struct arena *arena, uint32_t generation);

/* The memory of the ring from a source to a shard: ARENA_RING_HEADER bytes and ARENA_RING_BYTES of data
 * behind them. Untouched rings cost no memory; after arena_reset() they read as zeros. */
struct ring_shared *arena_ring(struct arena *arena, unsigned source, unsigned shard);

/* After a death by a fault of the worker's own: remembers the event that `thread` had in hand and counts the
 * death. Returns the deaths of that event so far, 0 when the thread had none. Process: supervisor. */
unsigned arena_remember_fault(struct arena *arena, unsigned thread, uint32_t signal);

/* The memory of the ingest ring (ARENA_INGEST_BYTES), and of a shard's decisions (ARENA_DECISIONS_BYTES, zero
 * after a reset); they cost nothing until they are used. */
struct ring_shared *arena_ingest_ring(struct arena *arena);
void *arena_decisions(struct arena *arena, unsigned shard);

uint64_t arena_name_hash(const char *name, size_t len); /* XXH3, seed 0 */

static inline void arena_beat(struct arena_thread *thread, uint64_t now_ns)
{
    atomic_store_explicit(&thread->beat_ns, now_ns, memory_order_relaxed);
}
static inline void arena_add(_Atomic uint64_t *counter, uint64_t n) /* counters with one writer */
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
static inline void arena_set(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, n, memory_order_relaxed);
}
static inline uint64_t arena_get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}
