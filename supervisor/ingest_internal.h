/* What the files of the ingest share; for no others. See ingest.h. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "common/arena.h"
#include "common/hash.h"
#include "common/ring.h"
#include "supervisor/command.h"
#include "supervisor/ingest.h"

/* What an item waits for, each kind in a list of its own, so that the oldest ends first. */
enum wait { WAIT_START, WAIT_SOURCE, WAIT_ANSWER, WAITS };

/* A request that waits. Requires: the lock. */
struct item {
    TAILQ_ENTRY(item) link; /* in its channel's list, or among those to be answered */
    TAILQ_ENTRY(item) by_age;
    struct channel *channel;
    struct http_request *request; /* NULL: was answered for lack of an answer */
    enum wait wait;
    uint64_t since_ns;
    uint64_t end; /* WAIT_ANSWER: the ring's index behind it */
    const struct arena_ingest_record *record;
    unsigned status; /* once decided */
    uint32_t n_events;
    uint32_t duplicates;
    size_t n_bytes; /* else: of the record */
    _Alignas(8) unsigned char copy[];
};

TAILQ_HEAD(items, item);

/* Requires: the lock. */
struct channel {
    struct ingest *ingest;
    char *name;
    struct items waiting; /* not in the ring yet */
    struct items pending; /* in the ring, in its order */
    struct command wake;
    bool wake_posted; /* the main thread will look at it */
    struct channel *next_garbage;
    /* one life of a worker */
    struct arena *arena; /* NULL: none */
    struct ring_producer ring;
    uint64_t harvested; /* the ring's index up to which answers were taken */
    int ingest_fd;
    int durable_fd;
    bool broken;         /* the worker has written nonsense into the ring */
    bool answer_invalid; /* one was, and was logged */
    bool settled;        /* it has said what sources it has */
    bool has_source;
};

struct ingest {
    struct ingest_options options;
    int epoll_fd;
    int stop_fd; /* eventfd: readable to wake or end the thread */
    bool started;
    pthread_t thread;
    pthread_mutex_t lock;
    bool stopping;              /* Requires: lock */
    bool aborted;               /* Requires: lock */
    struct hash_table channels; /* Requires: lock */
    struct channel *garbage; /* freed by the thread, which epoll may just have told of them. Requires: lock */
    struct items by_age[WAITS]; /* Requires: lock */
    size_t n_waiting;           /* Requires: lock */
    size_t waiting_bytes;       /* Requires: lock */
    _Atomic uint64_t accepted;  /* relaxed, as all counts: only sums */
    _Atomic uint64_t duplicates;
    _Atomic uint64_t under_way;
    _Atomic uint64_t refused[10];
};

/* All below require the lock. `done` collects what was decided: answered when the lock is given up. */

void item_wait(struct ingest *ingest, struct item *item, enum wait wait);
/* Takes the item out of all lists, into that of the decided ones. */
void item_decide(struct item *item, unsigned status, struct items *done);
void item_decide_all(struct items *items, unsigned status, struct items *done);

/* Takes the answers of what the worker has released. */
void channel_harvest(struct channel *channel, struct items *done);
/* Puts a record into the ring. false: it is full. */
bool channel_put(struct channel *channel, struct item *item, const void *record, size_t n_bytes);
void channel_tell(const struct channel *channel); /* the worker, that there are records */
enum arena_ingest_state channel_state(const struct channel *channel);
/* What waits goes into the ring, as far as it may. */
void channel_flush(struct channel *channel, struct items *done);
/* Asks the main thread to see to the workflow, when requests wait for it. */
void channel_wake(struct channel *channel);
/* Frees a channel that nobody needs any more. */
void channel_release(struct channel *channel);
struct channel *channel_find(struct ingest *ingest, const char *name);
struct channel *channel_get(struct ingest *ingest, const char *name); /* NULL: no memory */
int channel_begin(struct channel *channel, struct arena *arena, struct error *err);
void channel_end(struct channel *channel, struct items *done);
