/* What the files of the checkpoint share: its state, and the steps that its thread goes through. Thread:
 * checkpoint, unless a member says otherwise. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/ring.h"
#include "worker/checkpoint/catalog.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/checkpoint/cut.h"
#include "worker/checkpoint/injection.h"

struct arena_thread;
struct arena_worker;
struct intent;
struct outbox;
struct recovery;
struct requests;
struct storage;
struct timers;

#define CHECKPOINT_RETRY_FIRST (50 * CLOCK_MS)
#define CHECKPOINT_RECOUNT_EVERY (10 * CLOCK_S) /* dead letters, while they are full */

struct checkpoint {
    struct worker *worker;
    unsigned long thread;
    bool started;
    struct arena_thread *life;
    struct arena_worker *stats;
    struct storage *storage;
    struct catalog catalog;
    struct outbox *outbox;
    struct timers *timers;
    struct requests *requests;
    struct injection injection;

    /* Requests. */
    struct doorbell bell;
    _Atomic bool changed;
    _Atomic bool intent_waits;
    _Atomic bool answer_waits;
    _Atomic bool reload_wanted;
    _Atomic bool storage_changed;
    _Atomic bool stop_wanted;
    _Atomic uint64_t stop_deadline_ns;
    _Atomic unsigned cuts_left;
    _Atomic bool ended;
    _Atomic int exit_status;
    pthread_mutex_t lock;
    pthread_cond_t reloaded;
    uint64_t reloads_begun; /* Requires: lock */
    uint64_t reloads_done;  /* Requires: lock. The newest reload that has ended was this one */
    char adopt[64];         /* Requires: lock */
    /* Intents that have ended, in that order; those with an event for the workflow apart. Requires: lock */
    struct intent *completed;
    struct intent **completed_end;
    struct intent *answered;
    struct intent **answered_end;
    _Atomic bool fenced; /* an event source has been told so */
    struct error fence;  /* Requires: lock */

    /* Thread: checkpoint. */
    uint64_t epoch; /* last committed */
    bool retire_pending;
    bool watching;
    uint64_t opened_ns;  /* the last epoch was opened */
    uint64_t commit_ns;  /* duration of the last commit, from its first barrier */
    uint64_t refresh_ns; /* when to read the triggers again, although no change was told of */
    uint64_t reload_not_before_ns;
    uint64_t armed_epoch; /* the last committed when the watch was armed last */
    struct cut cut;
    uint64_t recount_ns;
    bool due;             /* an epoch is */
    uint64_t due_ns;      /* since when: what comes within an interval shares the epoch */
    uint64_t injected_ns; /* since when events of due timers are on their way; 0: none */
    uint64_t watch_not_before_ns;
    uint64_t finished; /* TERMINATE has fired so often, in all lives */
    bool finish_open;  /* finished, and not yet left (exit_when_finished) */
    char finished_trigger[200];
    uint64_t idle_since_ns;
    bool last; /* the epoch to come is that of a graceful stop: the executor has stopped */
};

/* --- checkpoint.c --- */

bool checkpoint_stopping(const struct checkpoint *c);
bool checkpoint_out_of_time(const struct checkpoint *c);
void checkpoint_beat(void *data); /* of the thread's life; data: the checkpoint */
/* Sleeps after the nth failure in a row; ends early when the worker is to stop. */
void checkpoint_back_off(struct checkpoint *c, unsigned failures);
/* The end of the worker: reported, and the reason for its exit status. */
void checkpoint_give_up(struct checkpoint *c, const char *reason, const struct error *err);
void checkpoint_give_up_fenced(struct checkpoint *c, const struct error *err);

/* --- checkpoint_epoch.c --- */

/* One epoch from barriers to acknowledgements. 0 done; 1 the thread must end. */
int checkpoint_run_epoch(struct checkpoint *c);
/* Pauses the event sources while the dead letters are full. */
void checkpoint_check_dead_letters(struct checkpoint *c);
/* Puts into the next epoch how often the workflow has finished. */
void checkpoint_write_finished(struct checkpoint *c);
/* Writes the ends of the intents with events down, ahead of the epoch: how many. */
size_t checkpoint_collect_answered(struct checkpoint *c, uint64_t epoch);

/* --- checkpoint_reload.c --- */

/* Starts one, where it stopped. 0, also when it cannot be restored: then it shows why; -1: no thread.
 * recovery NULL: it was added later. */
int checkpoint_start_source(struct checkpoint *c, struct source *s, const struct recovery *recovery);
/* Brings triggers and event sources up to date. 0; 1: the thread must end. */
int checkpoint_reload_now(struct checkpoint *c);
/* Has the storage tell of changes. */
void checkpoint_watch(struct checkpoint *c);
/* Since the last commits a change would not have been told of, or not been told from ours. */
bool checkpoint_may_have_missed(const struct checkpoint *c);
void checkpoint_look_for_changes(struct checkpoint *c);

/* --- checkpoint_start.c --- */

/* Takes the workspace over and starts everything. 0; 1: the thread must end. */
int checkpoint_recover(struct checkpoint *c);
