#include "worker/checkpoint/checkpoint_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/ipc.h"
#include "common/loop.h"
#include "worker/executor/executor.h"
#include "worker/executor/intent.h"
#include "worker/checkpoint/outbox.h"
#include "worker/checkpoint/recovery.h"
#include "worker/report.h"
#include "worker/checkpoint/request.h"
#include "worker/shard/shard.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/checkpoint/timers.h"
#include "worker/worker.h"

#define SPACING_PER_COMMIT 4 /* an epoch opens at most once in this many durations of the last commit */
#define RETRY_LONGEST (5 * CLOCK_S)
#define IDLE_TIMEOUT (30 * CLOCK_S)
#define CLOCK_LOOK CLOCK_S /* while there are timers: somebody may set the wall clock */
/* For due timers' events to reach their shards before the epoch that their timers are committed with. */
#define DELIVERY_LONGEST (5 * CLOCK_MS)
#define DELIVERY_LOOK (CLOCK_MS / 10)
#define INTERNAL_OVERFLOW_FACTOR 10 /* times sink_max_size */

/* --- requests --- */

void checkpoint_changed(struct checkpoint *checkpoint)
{
    /* Who clears the flag looks at what has changed afterwards, so whoever finds it set need not ring. */
    if (atomic_load(&checkpoint->changed))
        return;
    atomic_store(&checkpoint->changed, true);
    doorbell_ring(&checkpoint->bell);
}

void checkpoint_intent_waits(struct checkpoint *checkpoint)
{
    atomic_store(&checkpoint->intent_waits, true);
    doorbell_ring(&checkpoint->bell);
}

void checkpoint_urge(struct checkpoint *checkpoint)
{
    checkpoint_intent_waits(checkpoint);
}

void checkpoint_cut_done(struct checkpoint *checkpoint)
{
    if (atomic_fetch_sub(&checkpoint->cuts_left, 1) == 1)
        doorbell_ring(&checkpoint->bell);
}

void checkpoint_completed(struct checkpoint *checkpoint, struct intent *intent)
{
    bool answered = intent->event;
    struct intent ***end = answered ? &checkpoint->answered_end : &checkpoint->completed_end;
    intent->next = NULL;
    pthread_mutex_lock(&checkpoint->lock);
    **end = intent;
    *end = &intent->next;
    pthread_mutex_unlock(&checkpoint->lock);
    checkpoint_changed(checkpoint);
    if (answered && !atomic_exchange(&checkpoint->answer_waits, true))
        doorbell_ring(&checkpoint->bell);
}

void checkpoint_stop(struct checkpoint *checkpoint, uint64_t deadline_ns)
{
    atomic_store(&checkpoint->stop_deadline_ns, deadline_ns);
    atomic_store(&checkpoint->stop_wanted, true);
    doorbell_ring(&checkpoint->bell);
}

void checkpoint_reload(struct checkpoint *checkpoint)
{
    atomic_store(&checkpoint->reload_wanted, true);
    doorbell_ring(&checkpoint->bell);
}

void checkpoint_storage_changed(struct checkpoint *checkpoint)
{
    atomic_store(&checkpoint->storage_changed, true);
    doorbell_ring(&checkpoint->bell);
}

void checkpoint_adopt(struct checkpoint *checkpoint, const char *from)
{
    pthread_mutex_lock(&checkpoint->lock);
    snprintf(checkpoint->adopt, sizeof checkpoint->adopt, "%s", from);
    pthread_mutex_unlock(&checkpoint->lock);
    doorbell_ring(&checkpoint->bell);
}

void checkpoint_request(struct checkpoint *checkpoint, const char *packet, size_t len)
{
    requests_put(checkpoint->requests, packet, len);
    doorbell_ring(&checkpoint->bell);
}

bool checkpoint_ended(const struct checkpoint *checkpoint, int *ret_exit_status)
{
    *ret_exit_status = atomic_load(&checkpoint->exit_status);
    return atomic_load(&checkpoint->ended);
}

void checkpoint_interrupt(struct checkpoint *checkpoint)
{
    pthread_mutex_lock(&checkpoint->lock);
    pthread_cond_broadcast(&checkpoint->reloaded);
    pthread_mutex_unlock(&checkpoint->lock);
}

uint64_t checkpoint_reloads(struct checkpoint *checkpoint)
{
    pthread_mutex_lock(&checkpoint->lock);
    uint64_t begun = checkpoint->reloads_begun;
    pthread_mutex_unlock(&checkpoint->lock);
    return begun;
}

bool checkpoint_reloaded(struct checkpoint *checkpoint, uint64_t mark)
{
    pthread_mutex_lock(&checkpoint->lock);
    bool done = checkpoint->reloads_done > mark;
    pthread_mutex_unlock(&checkpoint->lock);
    if (!done)
        checkpoint_reload(checkpoint);
    return done;
}

void checkpoint_fenced(struct checkpoint *checkpoint, const struct error *err)
{
    pthread_mutex_lock(&checkpoint->lock);
    checkpoint->fence = *err;
    pthread_mutex_unlock(&checkpoint->lock);
    atomic_store(&checkpoint->fenced, true);
    doorbell_ring(&checkpoint->bell);
}

int checkpoint_reload_wait(struct checkpoint *checkpoint, const struct source *source)
{
    pthread_mutex_lock(&checkpoint->lock);
    uint64_t wanted = (source->marked ? source->read_mark : checkpoint->reloads_begun) + 1;
    atomic_store_explicit(&source->life->busy, 0, memory_order_relaxed);
    while (checkpoint->reloads_done < wanted && !source_stopping(source)) {
        checkpoint_reload(checkpoint);
        pthread_cond_wait(&checkpoint->reloaded, &checkpoint->lock);
    }
    bool done = checkpoint->reloads_done >= wanted;
    pthread_mutex_unlock(&checkpoint->lock);
    return done ? 0 : SOURCE_STOPPED;
}

/* --- waiting --- */

bool checkpoint_stopping(const struct checkpoint *c)
{
    return atomic_load(&c->stop_wanted);
}

bool checkpoint_out_of_time(const struct checkpoint *c)
{
    return checkpoint_stopping(c) && clock_now_ns() >= atomic_load(&c->stop_deadline_ns);
}

void checkpoint_beat(void *data)
{
    struct checkpoint *c = data;
    arena_beat(c->life, clock_coarse_ns());
}

/* Sleeps after the nth failure in a row; ends early when the worker is to stop. */
void checkpoint_back_off(struct checkpoint *c, unsigned failures)
{
    uint64_t delay = CHECKPOINT_RETRY_FIRST << (failures < 8 ? failures : 8);
    uint64_t until = clock_now_ns() + (delay < RETRY_LONGEST ? delay : RETRY_LONGEST);
    while (clock_now_ns() < until && !checkpoint_out_of_time(c)) {
        doorbell_arm(&c->bell);
        if (checkpoint_stopping(c) && checkpoint_out_of_time(c))
            break;
        uint64_t now = clock_now_ns();
        doorbell_wait(&c->bell, until > now && until - now < 100 * CLOCK_MS ? until - now : 100 * CLOCK_MS);
        checkpoint_beat(c);
    }
    doorbell_disarm(&c->bell);
}

/* The end of the worker: reported, and the reason for its exit status. */
void checkpoint_give_up(struct checkpoint *c, const char *reason, const struct error *err)
{
    int status = !strcmp(reason, "fenced") || !strcmp(reason, "deleted") ? IPC_EXIT_FENCED : IPC_EXIT_ERROR;
    bool deleted =
        !strcmp(reason, "deleted") && checkpoint_stopping(c); /* that is how workspaces are deleted */
    worker_failed(c->worker, reason, err->message, deleted);
    report_state(c->worker->report, ARENA_FAILED);
    atomic_store(&c->exit_status, status);
}

void checkpoint_give_up_fenced(struct checkpoint *c, const struct error *err)
{
    int exists = c->storage->type->workspace_exists(c->storage, c->worker->workspace, NULL);
    checkpoint_give_up(c, exists == STORAGE_ABSENT ? "deleted" : "fenced", err);
}

/* --- the loop --- */

static bool something_changed(struct checkpoint *c)
{
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (c->worker->sources[i] && atomic_load(&c->worker->sources[i]->changed))
            return true;
    pthread_mutex_lock(&c->lock);
    bool completed = c->completed || c->answered;
    pthread_mutex_unlock(&c->lock);
    return completed;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* When the next epoch may open. Due timers wait for no interval, only until their events are with the shards:
 * the epoch then contains what comes of them. */
static uint64_t epoch_not_before(const struct checkpoint *c, uint64_t now)
{
    uint64_t interval = (uint64_t)c->worker->config->checkpoint_interval_ns;
    uint64_t spacing = c->commit_ns * SPACING_PER_COMMIT;
    uint64_t after_epoch = c->opened_ns + (spacing > interval ? spacing : interval);
    uint64_t after_change = c->due_ns + interval;
    uint64_t regular = after_epoch > after_change ? after_epoch : after_change;
    if (!c->injected_ns)
        return regular;
    uint64_t longest = c->injected_ns + DELIVERY_LONGEST;
    if (now >= longest || !internal_waiting(c->worker->internal))
        return now;
    return earlier(regular, earlier(longest, now + DELIVERY_LOOK));
}

/* exit_when_finished: whether the workflow has been finished, drained and idle for long enough. */
static bool may_leave(struct checkpoint *c, uint64_t now, uint64_t *wake)
{
    struct worker *w = c->worker;
    if (!w->config->exit_when_finished || !c->finish_open)
        return false;
    if (c->due || worker_in_flight(w) || executor_pending(w->executor) || !outbox_empty(c->outbox)) {
        c->idle_since_ns = 0;
        *wake = now + 50 * CLOCK_MS;
        return false;
    }
    if (!c->idle_since_ns)
        c->idle_since_ns = now;
    uint64_t until = c->idle_since_ns + (uint64_t)w->config->finish_linger_ns;
    if (now >= until)
        return true;
    *wake = until;
    return false;
}

static void recount_dead_letters(struct checkpoint *c, uint64_t now)
{
    struct error err;
    uint64_t bytes;
    if (!atomic_load(&c->stats->dead_letters_full) || now < c->recount_ns)
        return;
    c->recount_ns = now + CHECKPOINT_RECOUNT_EVERY;
    if (recovery_count_dead_letters(c->worker, c->storage, &bytes, &err) == 0)
        c->cut.dead_letter_bytes = bytes;
    checkpoint_check_dead_letters(c);
}

static uint64_t wake_at(const struct checkpoint *c, uint64_t now)
{
    uint64_t at = now + IDLE_TIMEOUT;
    if (c->due)
        at = earlier(at, epoch_not_before(c, now));
    if (atomic_load(&c->reload_wanted))
        at = earlier(at, c->reload_not_before_ns);
    if (!c->watching)
        at = earlier(at, c->watch_not_before_ns);
    if (checkpoint_may_have_missed(c))
        at = earlier(at, c->refresh_ns);
    if (outbox_can_refill(c->outbox))
        at = earlier(at, now + CLOCK_S); /* reading them back has failed */
    if (atomic_load(&c->stats->dead_letters_full))
        at = earlier(at, c->recount_ns);
    return at;
}

/* When to look whether a timer is due, on the monotonic clock; UINT64_MAX: none will be. */
static uint64_t timers_at(const struct checkpoint *c, uint64_t now)
{
    uint64_t next = timers_next(c->timers);
    if (next == UINT64_MAX || worker_held(c->worker))
        return UINT64_MAX;
    uint64_t unix_now = clock_unix_ns();
    return next <= unix_now ? now : now + (next - unix_now < CLOCK_LOOK ? next - unix_now : CLOCK_LOOK);
}

/* Does what others have asked for, and what time has come for. Whether an epoch is due at once for it. */
static bool inject(struct checkpoint *c, uint64_t now)
{
    bool want_reload = false;
    bool urgent = requests_apply(c->requests, &want_reload);
    if (want_reload)
        checkpoint_reload(c);
    if (timers_at(c, now) <= now && timers_fire(c->timers, clock_unix_ns(), &c->injection)) {
        if (!c->due)
            c->due_ns = now;
        c->due = true;
        if (!c->injected_ns)
            c->injected_ns = now;
    }
    if (atomic_load(&c->answer_waits) && checkpoint_collect_answered(c, c->epoch + 1)) {
        if (!c->due)
            c->due_ns = now;
        c->due = true;
    }
    return urgent;
}

static void sleep_until(struct checkpoint *c, uint64_t at)
{
    doorbell_arm(&c->bell);
    uint64_t now = clock_now_ns();
    bool news = (!c->due && atomic_load(&c->changed)) || atomic_load(&c->intent_waits) ||
                atomic_load(&c->answer_waits) || atomic_load(&c->storage_changed) || checkpoint_stopping(c) ||
                requests_waiting(c->requests) || atomic_load(&c->fenced) ||
                (atomic_load(&c->reload_wanted) && now >= c->reload_not_before_ns);
    if (news || now >= at) {
        doorbell_disarm(&c->bell);
        return;
    }
    atomic_store_explicit(&c->life->busy, 0, memory_order_relaxed);
    doorbell_wait(&c->bell, at - now);
    checkpoint_beat(c);
    atomic_store_explicit(&c->life->busy, 1, memory_order_relaxed);
}

static bool overflown(struct checkpoint *c)
{
    uint64_t limit = (uint64_t)c->worker->config->sink_max_size * INTERNAL_OVERFLOW_FACTOR;
    uint64_t pending = internal_pending(c->worker->internal);
    if (pending <= limit)
        return false;
    struct error err;
    error_set(&err, ERROR_LIMIT,
              "%llu internal events wait, more than %llu: the triggers emit events without end",
              (unsigned long long)pending, (unsigned long long)limit);
    checkpoint_give_up(c, "internal_overflow", &err);
    return true;
}

/* Whether an event source was refused as another writer's worker. */
static bool was_fenced(struct checkpoint *c)
{
    if (!atomic_load(&c->fenced))
        return false;
    pthread_mutex_lock(&c->lock);
    struct error err = c->fence;
    pthread_mutex_unlock(&c->lock);
    checkpoint_give_up_fenced(c, &err);
    return true;
}

static void serve(struct checkpoint *c)
{
    while (!checkpoint_stopping(c) && !was_fenced(c)) {
        checkpoint_look_for_changes(c);
        uint64_t now = clock_now_ns();
        if (atomic_load(&c->reload_wanted) && now >= c->reload_not_before_ns) {
            atomic_store(&c->reload_wanted, false);
            if (checkpoint_reload_now(c))
                return;
            now = clock_now_ns();
        }
        if (!c->due && atomic_exchange(&c->changed, false) && something_changed(c)) {
            c->due = true;
            c->due_ns = now;
            atomic_store(&c->changed, true);
        }
        bool urgent = inject(c, now) || atomic_load(&c->intent_waits);
        c->due |= urgent || c->retire_pending || outbox_wants_epoch(c->outbox);
        if (c->due && (urgent || now >= epoch_not_before(c, now))) {
            c->due = false;
            c->idle_since_ns = 0;
            if (checkpoint_run_epoch(c) || overflown(c))
                return;
            continue;
        }
        recount_dead_letters(c, now);
        outbox_refill(c->outbox, c->storage);
        uint64_t wake = earlier(wake_at(c, now), timers_at(c, now));
        uint64_t leave = UINT64_MAX;
        if (may_leave(c, now, &leave)) {
            c->finish_open = false;
            checkpoint_write_finished(c);
            return;
        }
        sleep_until(c, earlier(wake, leave));
    }
}

/* Drains: everything read is committed and acknowledged, started actions are seen through. */
static void drain(struct checkpoint *c)
{
    struct worker *w = c->worker;
    bool failed = atomic_load(&c->exit_status) != IPC_EXIT_OK;
    if (!failed)
        report_state(w->report, ARENA_STOPPING);
    if (!checkpoint_stopping(c))
        checkpoint_stop(c, clock_now_ns() + (uint64_t)w->config->stop_timeout_ns);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i])
            source_stop(w->sources[i]);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i])
            source_join(w->sources[i]);
    if (!failed && w->sources[0] && checkpoint_run_epoch(c) == 0) {
        requests_refuse(c->requests);
        executor_stop(w->executor, atomic_load(&c->stop_deadline_ns) - CLOCK_S);
        c->last = true;
        if (something_changed(c) || outbox_is_left(c->outbox))
            checkpoint_run_epoch(c);
    }
    executor_stop(w->executor, 0);
    for (unsigned i = 0; i < w->n_shards; i++)
        if (w->shards[i])
            shard_stop(w->shards[i]);
    if (atomic_load(&c->exit_status) == IPC_EXIT_OK)
        report_state(w->report, ARENA_STOPPED);
}

static void *checkpoint_main(void *data)
{
    struct checkpoint *c = data;
    worker_thread_enter(c->worker, ARENA_THREAD_CHECKPOINT, "checkpoint");
    atomic_store_explicit(&c->life->busy, 1, memory_order_relaxed);
    if (checkpoint_recover(c) == 0)
        serve(c);
    drain(c);
    atomic_store(&c->ended, true);
    loop_wake(c->worker->loop);
    return NULL;
}

/* --- life --- */

int checkpoint_new(struct worker *worker, struct checkpoint **ret_checkpoint, struct error *err)
{
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, ERROR_MEMORY, "out of memory");
    c->worker = c->cut.worker = worker;
    c->life = &worker->arena->thread[ARENA_THREAD_CHECKPOINT];
    c->stats = &worker->arena->worker;
    c->completed_end = &c->completed;
    c->answered_end = &c->answered;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->reloaded, NULL);
    snprintf(c->adopt, sizeof c->adopt, "%s", worker->config->adopt);
    catalog_init(&c->catalog, worker, &c->cut.changes);
    injection_init(&c->injection, worker, &c->cut.changes);
    worker->checkpoint = c;
    if (storage_open(worker->config, worker->workspace, &c->storage, err) < 0) {
        worker->checkpoint = NULL;
        checkpoint_free(c);
        return -1;
    }
    struct request_scope scope = {worker, &c->catalog, c->storage, &c->cut, &c->injection};
    c->outbox = outbox_new(worker);
    c->timers = timers_new(worker);
    c->requests = requests_new(&scope);
    if (!c->outbox || !c->timers || !c->requests) {
        error_set(err, ERROR_MEMORY, "out of memory");
        worker->checkpoint = NULL;
        checkpoint_free(c);
        return -1;
    }
    c->storage->heartbeat = checkpoint_beat;
    c->storage->heartbeat_data = c;
    *ret_checkpoint = c;
    return 0;
}

int checkpoint_start(struct checkpoint *checkpoint, struct error *err)
{
    if (worker_thread_start(&checkpoint->thread, checkpoint_main, checkpoint, err) < 0)
        return -1;
    checkpoint->started = true;
    return 0;
}

void checkpoint_free(struct checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    struct checkpoint *c = checkpoint;
    if (c->started)
        pthread_join(c->thread, NULL);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        source_free(c->worker->sources[i]);
    for (unsigned i = 0; i < c->worker->n_shards; i++)
        shard_free(c->worker->shards[i]);
    catalog_done(&c->catalog);
    outbox_free(c->outbox);
    timers_free(c->timers);
    requests_free(c->requests);
    injection_done(&c->injection);
    storage_close(c->storage);
    cut_done(&c->cut);
    intent_free_list(c->completed);
    intent_free_list(c->answered);
    pthread_cond_destroy(&c->reloaded);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
