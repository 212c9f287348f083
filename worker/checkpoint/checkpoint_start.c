/* The start of a worker: it takes its workspace over, and goes on where the life before has committed. */
#include "worker/checkpoint/checkpoint_internal.h"

#include <string.h>

#include "common/log.h"
#include "worker/crash.h"
#include "worker/executor/executor.h"
#include "worker/checkpoint/outbox.h"
#include "worker/checkpoint/recovery.h"
#include "worker/report.h"
#include "worker/shard/shard.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/checkpoint/timers.h"
#include "worker/worker.h"

#define IDLE_TIMEOUT (30 * CLOCK_S)
#define EVERYSEC_UNSURE                                                                 \
    (2 * CLOCK_S) /* Redis with appendfsync everysec: a second, and one for a busy disk \
                   */

static char *take_adopt(struct checkpoint *c)
{
    pthread_mutex_lock(&c->lock);
    char *from = c->adopt[0] ? strdup(c->adopt) : NULL;
    pthread_mutex_unlock(&c->lock);
    return from;
}

/* A workspace whose contexts were counted by an original waits until it is told where to go on from. */
static int wait_adoption(struct checkpoint *c, struct recovery *recovery)
{
    if (c->epoch || !c->catalog.counted)
        return 0;
    char *from;
    while (!(from = take_adopt(c))) {
        report_state(c->worker->report, ARENA_NEEDS_ADOPTION);
        report_warning(c->worker->report, "needs_adoption",
                       "its triggers have counted events, but no checkpoint says which: adopt: beginning | "
                       "end | POSITION");
        if (checkpoint_stopping(c))
            return 1;
        doorbell_arm(&c->bell);
        if (!checkpoint_stopping(c) && !(from = take_adopt(c)))
            doorbell_wait(&c->bell, IDLE_TIMEOUT);
        doorbell_disarm(&c->bell);
        if (from)
            break;
    }
    report_warning(c->worker->report, "needs_adoption", NULL);
    log_info("adopted", LOG_STR("from", from));
    recovery->adopt = from;
    return 0;
}

static int start_all(struct checkpoint *c, struct recovery *recovery, struct error *err)
{
    struct worker *w = c->worker;
    struct source *internal;
    struct source_changes sources;
    if (internal_new(w, &internal, err) < 0)
        return -1;
    if (recovery_restore_internal(recovery, internal, err) < 0) {
        source_free(internal);
        return -1;
    }
    outbox_restore(c->outbox, recovery);
    w->sources[0] = internal;
    internal->filling_epoch = c->epoch + 1;
    atomic_store(&w->n_rings, 1);
    for (unsigned i = 0; i < w->n_shards; i++)
        if (shard_new(w, i, &w->shards[i], err) < 0 || shard_start(w->shards[i], c->epoch + 1, err) < 0)
            return -1;
    if (executor_start(w->executor, err) < 0)
        return -1;
    while (timers_load(c->timers, c->storage, err) < 0 ||
           catalog_load_sources(&c->catalog, c->storage, &sources, err) < 0) {
        report_storage(w->report, err);
        if (checkpoint_stopping(c))
            return -1;
        checkpoint_back_off(c, 3);
    }
    if (source_start(internal, err) < 0)
        return -1;
    for (size_t i = 0; i < sources.n_fresh; i++)
        if (checkpoint_start_source(c, sources.fresh[i], recovery) < 0)
            return error_set(err, ERROR_SYSTEM, "the thread of an event source cannot be started");
    struct error ignored; /* the next start tries again */
    recovery_forget_consumed(recovery, c->storage, w, &c->cut.changes, &ignored);
    return 0;
}

/* Takes the workspace over and starts everything. 0; 1: the thread must end. */
int checkpoint_recover(struct checkpoint *c)
{
    struct worker *w = c->worker;
    struct error err;
    struct recovery recovery = {0};
    int r;
    for (unsigned failures = 0;; failures++) {
        r = recovery_load(&recovery, w, c->storage, &c->catalog, &err);
        if (!r)
            r = outbox_load(c->outbox, c->storage, w->emissions, &err);
        if (r >= 0 || checkpoint_stopping(c))
            break;
        report_storage(w->report, &err);
        checkpoint_back_off(c, failures);
    }
    if (r == STORAGE_ABSENT)
        checkpoint_give_up(c, "deleted", &err);
    if (r) {
        recovery_done(&recovery);
        return 1;
    }
    crash_point("recovered");
    report_storage(w->report, NULL);
    report_durability(w->report, recovery.claim.durability, recovery.claim.durable);
    w->unsure_ns =
        !strcmp(recovery.claim.durability, "always") || !recovery.claim.durable ? 0 : EVERYSEC_UNSURE;
    c->epoch = c->catalog.epoch = recovery.claim.epoch;
    c->injection.epoch = c->epoch + 1;
    c->cut.dead_letter_bytes = recovery.dead_letter_bytes;
    c->finished = recovery.finished;
    c->finish_open = recovery.finish_open;
    worker_hold(w, recovery.paused);
    r = wait_adoption(c, &recovery);
    if (!r && start_all(c, &recovery, &err) < 0) {
        if (!checkpoint_stopping(c))
            checkpoint_give_up(c, "error", &err);
        r = 1;
    }
    recovery_done(&recovery);
    if (r)
        return 1;
    checkpoint_check_dead_letters(c);
    outbox_refill(c->outbox, c->storage);
    checkpoint_watch(c);
    worker_ready(w);
    return 0;
}
