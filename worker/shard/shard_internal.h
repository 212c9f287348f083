/* What the files of a shard share: its state, all of which the run lock guards but what says otherwise. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/decision.h"
#include "common/ring.h"
#include "worker/record.h"
#include "worker/shard/shard.h"

struct error;
struct globals;
struct intent;
struct trigger;

struct shard {
    struct worker *worker;
    unsigned index;
    unsigned long thread;
    bool started;
    _Atomic bool stopping;
    struct doorbell bell;
    _Atomic bool
        wanted; /* somebody waits for the run lock: the thread lets it go, however much there is to do */
    pthread_mutex_t run; /* guards all below */
    struct arena_shard *stats;
    struct arena_thread *life;
    struct ring_consumer rings[ARENA_MAX_SOURCES];
    uint32_t attached; /* rings that have been attached, as bits */
    uint32_t blocked;  /* rings whose barrier has been seen */
    uint64_t epoch;    /* the one that what happens now will be committed with */
    uint64_t event_number;
    struct shard_cut cuts[2]; /* [epoch & 1] */
    struct trigger **dirty;
    size_t n_dirty;
    size_t dirty_cap;
    unsigned n_intents; /* in this epoch */
    struct decision_log decisions;
    unsigned decisions_left[2]; /* in this while: [fired] */
    uint64_t decisions_out;     /* left out since the last one recorded */
    uint64_t while_ns;          /* when the present while began */
    struct cloudevent event;
    struct buffer scratch;
    struct globals *globals; /* as actions see it */
    uint64_t globals_version;
};

static inline struct shard_cut *shard_current_cut(struct shard *s)
{
    return &s->cuts[s->epoch & 1];
}

/* --- shard_evaluation.c; all Requires: run --- */

/* Takes an event, or a write, to the triggers that its record lists. */
void shard_process(struct shard *s, struct record_event *r);
/* The trigger's state is to be written with the epoch. */
void shard_mark_dirty(struct shard *s, struct trigger *t);
/* An intent of this epoch from its document. Errors: ERROR_INVALID, ERROR_MEMORY. */
int shard_make_intent(const struct shard *s, const char *document, size_t len, struct intent **ret_intent,
                      struct error *err);
/* Into the present epoch. Takes the intent. */
void shard_open_intent(struct shard *s, struct intent *intent);
