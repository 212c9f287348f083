/* Triggers and event sources that come, change and go while the worker runs. */
#include "worker/checkpoint/checkpoint_internal.h"

#include "common/config.h"
#include "common/log.h"
#include "worker/globals.h"
#include "worker/checkpoint/recovery.h"
#include "worker/report.h"
#include "worker/checkpoint/request.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/checkpoint/timers.h"
#include "worker/worker.h"

#define RELOAD_SPACING (20 * CLOCK_MS)
#define RELOAD_SPACING_FACTOR 3   /* and at most once in this many durations of the last reload */
#define REFRESH_SPACING_FACTOR 50 /* likewise, when no change was told of */

static int restore_source(struct checkpoint *c, struct source *s, const struct recovery *recovery,
                          struct error *err)
{
    if (recovery_restore_source(recovery, c->storage, s, err) < 0)
        return -1;
    int r;
    for (unsigned failures = 0; (r = recovery_restore_consumed(recovery, c->storage, s, err)) > 0;
         failures++) {
        report_storage(c->worker->report, err);
        if (checkpoint_out_of_time(c))
            return -1;
        checkpoint_back_off(c, failures);
    }
    return r;
}

int checkpoint_start_source(struct checkpoint *c, struct source *s, const struct recovery *recovery)
{
    struct worker *w = c->worker;
    struct error err;
    if (restore_source(c, s, recovery, &err) < 0) {
        source_set_state(s, ARENA_SOURCE_FAILED, err.message);
        s->consume = false; /* it delivers nothing; the rest goes on */
        w->sources[s->index] = s;
        return 0;
    }
    w->sources[s->index] = s;
    if (s->type->position_field)
        atomic_store(&w->own_source, s->name_hash);
    s->filling_epoch = c->epoch + 1;
    if (s->consume && atomic_load(&w->n_rings) <= s->index)
        atomic_store(&w->n_rings, s->index + 1);
    return source_start(s, &err);
}

/* Ends sources that are gone or changed, with their last events in a checkpoint. */
static int remove_sources(struct checkpoint *c, const struct source_changes *changes)
{
    struct worker *w = c->worker;
    for (size_t i = 0; i < changes->n_stale; i++)
        source_stop(w->sources[changes->stale[i]]);
    for (size_t i = 0; i < changes->n_stale; i++)
        source_join(w->sources[changes->stale[i]]);
    if (checkpoint_run_epoch(c))
        return 1;
    for (size_t i = 0; i < changes->n_stale; i++) {
        unsigned index = changes->stale[i];
        log_info("event_source_removed", LOG_STR("source", w->sources[index]->name));
        report_source_gone(w->report, index);
        atomic_store(&w->arena->source[index].used, 0);
        if (w->sources[index]->type->position_field)
            atomic_store(&w->own_source, 0);
        source_free(w->sources[index]);
        w->sources[index] = NULL;
    }
    checkpoint_reload(c); /* a changed one comes back with its new document */
    return 0;
}

/* Asks the storage to tell of the next change; without that, changes are looked for every trigger_refresh. */
static void arm(struct checkpoint *c)
{
    struct error err;
    int fd;
    int r = c->storage->type->watch(c->storage, c->worker->workspace, &fd, &err);
    if (c->watching != (r == 0))
        worker_watch(c->worker, r == 0 ? fd : -1);
    c->watching = r == 0;
    c->armed_epoch = c->epoch;
    c->watch_not_before_ns = clock_now_ns() + (uint64_t)c->worker->config->trigger_refresh_ns;
}

/* Brings triggers and event sources up to date. 0; 1: the thread must end. */
int checkpoint_reload_now(struct checkpoint *c)
{
    struct error err;
    struct source_changes sources;
    if (c->watching)
        arm(c); /* before reading, so that nothing between is missed */
    uint64_t begun = clock_now_ns();
    pthread_mutex_lock(&c->lock);
    uint64_t number = ++c->reloads_begun;
    pthread_mutex_unlock(&c->lock);
    int r = globals_load(&c->worker->globals, c->storage, c->worker->workspace, &err);
    if (r >= 0)
        r = catalog_load_triggers(&c->catalog, c->storage, &err);
    if (r >= 0)
        c->retire_pending |= r > 0;
    if (r < 0 || timers_load(c->timers, c->storage, &err) < 0 ||
        catalog_load_sources(&c->catalog, c->storage, &sources, &err) < 0) {
        report_storage(c->worker->report, &err);
        c->reload_not_before_ns = clock_now_ns() + CLOCK_S;
        checkpoint_reload(c);
        return 0;
    }
    report_storage(c->worker->report, NULL);
    requests_reloaded(c->requests);
    for (size_t i = 0; i < sources.n_fresh; i++)
        if (checkpoint_start_source(c, sources.fresh[i], NULL) < 0)
            log_error("event_source", LOG_STR("error", "its thread cannot be started"));
    if (sources.n_stale && remove_sources(c, &sources))
        return 1;
    uint64_t now = clock_now_ns();
    uint64_t spacing = (now - begun) * RELOAD_SPACING_FACTOR;
    c->reload_not_before_ns = now + (spacing > RELOAD_SPACING ? spacing : RELOAD_SPACING);
    arena_add(&c->stats->reloads, 1);
    uint64_t refresh = (uint64_t)c->worker->config->trigger_refresh_ns;
    spacing = (now - begun) * REFRESH_SPACING_FACTOR;
    c->refresh_ns = now + (spacing > refresh ? spacing : refresh);
    pthread_mutex_lock(&c->lock);
    c->reloads_done = number;
    pthread_cond_broadcast(&c->reloaded);
    pthread_mutex_unlock(&c->lock);
    return 0;
}

void checkpoint_watch(struct checkpoint *c)
{
    arm(c);
    checkpoint_reload(c); /* what changed before the watch was set */
}

/* Since the last commits a change would not have been told of, or not been told from ours. */
bool checkpoint_may_have_missed(const struct checkpoint *c)
{
    return c->watching && c->epoch != c->armed_epoch && !atomic_load(&c->reload_wanted);
}

void checkpoint_look_for_changes(struct checkpoint *c)
{
    struct error err;
    if (atomic_exchange(&c->storage_changed, false) && c->watching) {
        int r = c->storage->type->watch_read(c->storage, &err);
        if (r == 0 && c->epoch == c->armed_epoch) /* else it may be of our own commit */
            checkpoint_reload(c);
        if (r < 0) {
            c->watching = false;
            c->watch_not_before_ns = clock_now_ns() + CHECKPOINT_RETRY_FIRST;
            worker_watch(c->worker, -1);
        }
    }
    if (!c->watching && clock_now_ns() >= c->watch_not_before_ns)
        checkpoint_watch(c);
    /* An idle workflow stays armed, and asks for nothing. */
    if (checkpoint_may_have_missed(c) && clock_now_ns() >= c->refresh_ns)
        checkpoint_reload(c);
}
