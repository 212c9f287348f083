#include "worker/checkpoint.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/ring.h"
#include "common/storage/storage.h"
#include "worker/catalog.h"
#include "worker/crash.h"
#include "worker/cut.h"
#include "worker/emission.h"
#include "worker/executor.h"
#include "worker/globals.h"
#include "worker/injection.h"
#include "worker/intent.h"
#include "worker/outbox.h"
#include "worker/recovery.h"
#include "worker/report.h"
#include "worker/request.h"
#include "worker/router.h"
#include "worker/shard.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/timers.h"
#include "worker/trigger.h"
#include "worker/worker.h"

#define SPACING_PER_COMMIT 4 /* an epoch opens at most once in this many durations of the last commit */
#define RELOAD_SPACING (20 * CLOCK_MS)
#define RELOAD_SPACING_FACTOR 3   /* and at most once in this many durations of the last reload */
#define REFRESH_SPACING_FACTOR 50 /* likewise, when no change was told of */
#define RETRY_FIRST (50 * CLOCK_MS)
#define RETRY_LONGEST (5 * CLOCK_S)
#define IDLE_TIMEOUT (30 * CLOCK_S)
#define CLOCK_LOOK CLOCK_S /* while there are timers: somebody may set the wall clock */
/* For due timers' events to reach their shards before the epoch that their timers are committed with. */
#define DELIVERY_LONGEST (5 * CLOCK_MS)
#define DELIVERY_LOOK (CLOCK_MS / 10)
#define BEAT_EVERY (20 * CLOCK_MS)   /* while it waits for others: it is not the one that hangs */
#define RECOUNT_EVERY (10 * CLOCK_S) /* dead letters, while they are full */
#define EVERYSEC_UNSURE                                                                                   \
    (2 * CLOCK_S)                   /* Redis with appendfsync everysec: a second, and one for a busy disk \
                                     */
#define INTERNAL_OVERFLOW_FACTOR 10 /* times sink_max_size */

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
};

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

static bool stopping(const struct checkpoint *c)
{
    return atomic_load(&c->stop_wanted);
}

static bool out_of_time(const struct checkpoint *c)
{
    return stopping(c) && clock_now_ns() >= atomic_load(&c->stop_deadline_ns);
}

static void beat(void *data)
{
    struct checkpoint *c = data;
    arena_beat(c->life, clock_coarse_ns());
}

/* Sleeps after the nth failure in a row; ends early when the worker is to stop. */
static void back_off(struct checkpoint *c, unsigned failures)
{
    uint64_t delay = RETRY_FIRST << (failures < 8 ? failures : 8);
    uint64_t until = clock_now_ns() + (delay < RETRY_LONGEST ? delay : RETRY_LONGEST);
    while (clock_now_ns() < until && !out_of_time(c)) {
        doorbell_arm(&c->bell);
        if (stopping(c) && out_of_time(c))
            break;
        uint64_t now = clock_now_ns();
        doorbell_wait(&c->bell, until > now && until - now < 100 * CLOCK_MS ? until - now : 100 * CLOCK_MS);
        beat(c);
    }
    doorbell_disarm(&c->bell);
}

/* The end of the worker: reported, and the reason for its exit status. */
static void give_up(struct checkpoint *c, const char *reason, const struct error *err)
{
    int status = !strcmp(reason, "fenced") || !strcmp(reason, "deleted") ? IPC_EXIT_FENCED : IPC_EXIT_ERROR;
    worker_failed(c->worker, reason, err->message);
    report_state(c->worker->report, ARENA_FAILED);
    atomic_store(&c->exit_status, status);
}

static void give_up_fenced(struct checkpoint *c, const struct error *err)
{
    int exists = c->storage->type->workspace_exists(c->storage, c->worker->workspace, NULL);
    give_up(c, exists == STORAGE_ABSENT ? "deleted" : "fenced", err);
}

/* --- the epoch: barriers and cuts --- */

static uint32_t participants(const struct checkpoint *c)
{
    uint32_t mask = 0;
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (c->worker->sources[i] && c->worker->sources[i]->consume)
            mask |= 1u << i;
    return mask;
}

static void place_barriers(struct checkpoint *c, uint64_t epoch)
{
    uint32_t mask = participants(c);
    atomic_store(&c->cuts_left, c->worker->n_shards);
    atomic_store(&c->changed, false);
    atomic_store(&c->intent_waits, false);
    for (uint32_t left = mask; left; left &= left - 1) {
        struct source *s = c->worker->sources[__builtin_ctz(left)];
        atomic_store(&s->barrier_waits, true);
        pthread_mutex_lock(&s->emit);
        atomic_store(&s->barrier_waits, false);
        buffer_reset(&c->cut.position[s->index], 4096);
        s->type->position(s, &c->cut.position[s->index]);
        if (s->type->log_passed)
            c->cut.log_passed = s->type->log_passed(s);
        source_barrier(s, epoch, mask);
        pthread_mutex_unlock(&s->emit);
        crash_point("barrier");
    }
    for (unsigned i = 0; i < c->worker->n_shards; i++)
        shard_help(c->worker->shards[i]);
}

static void wait_cuts(struct checkpoint *c)
{
    while (atomic_load(&c->cuts_left)) {
        doorbell_arm(&c->bell);
        if (!atomic_load(&c->cuts_left)) {
            doorbell_disarm(&c->bell);
            break;
        }
        doorbell_wait(&c->bell, BEAT_EVERY);
        beat(c);
    }
}

/* --- the epoch: what is to be written --- */

/* What an invocation tells the workflow: an event, or without a type, a write (write.h). Nobody need wait for
 * a failure. */
static void emit_event(struct checkpoint *c, const struct intent *intent, uint64_t epoch)
{
    const struct route *routes[ROUTE_MAX_LISTS];
    struct cloudevent event;
    struct error err;
    cloudevent_unpack(intent->event, &event);
    if (intent->event_optional && !router_match(atomic_load(&c->worker->router), &event, routes))
        return;
    int r = event.attribute[CE_TYPE].len ? internal_emit(c->worker->internal, &event, epoch, &err)
                                         : internal_write(c->worker->internal, &event, epoch, &err);
    if (r < 0)
        abort(); /* it would be lost: start again from the last checkpoint */
}

/* It becomes a dead letter, and those who wait for it are told. */
static void give_up_intent(struct checkpoint *c, const struct intent *intent, uint64_t epoch)
{
    struct injection injection = {.worker = c->worker, .changes = &c->cut.changes, .epoch = epoch};
    struct error err;
    outbox_dead_letter(intent, &c->cut.changes);
    if (intent->action->gave_up && intent->action->gave_up(intent, &injection, &err) < 0)
        abort(); /* they would wait for ever: start again from the last checkpoint */
}

/* Writes the end of intents into the epoch to come, or the one being gathered, and frees them: all of it, the
 * removal from the outbox, the dead letter and the event, is in one transaction. Returns how many. */
static size_t write_ends(struct checkpoint *c, struct intent *list, uint64_t epoch)
{
    size_t n = 0;
    while (list) {
        struct intent *intent = list;
        list = intent->next;
        if (strtoull(intent->field, NULL, 10) > epoch) { /* started at once, and not in this cut */
            checkpoint_completed(c, intent);
            continue;
        }
        n++;
        if (intent->fan_out)
            outbox_element_ended(c->outbox, intent, &c->cut.changes);
        else
            changes_delete(&c->cut.changes, STORAGE_OUTBOX, intent->field, strlen(intent->field));
        if (intent->given_up)
            give_up_intent(c, intent, epoch);
        if (intent->event)
            emit_event(c, intent, epoch);
        emissions_complete(c->worker->emissions, intent->key, intent->final_position,
                           intent->given_up || (!intent->replayed && intent->attempts == 1));
        crash_point("end_written");
        intent_free(intent);
    }
    return n;
}

static struct intent *take_list(struct checkpoint *c, struct intent **list, struct intent ***end)
{
    pthread_mutex_lock(&c->lock);
    struct intent *taken = *list;
    *list = NULL;
    *end = list;
    pthread_mutex_unlock(&c->lock);
    return taken;
}

/* Events that invocations have brought go their way at once: what comes of them may be in the same epoch. */
static size_t collect_answered(struct checkpoint *c, uint64_t epoch)
{
    atomic_store(&c->answer_waits, false);
    return write_ends(c, take_list(c, &c->answered, &c->answered_end), epoch);
}

static void collect_completed(struct checkpoint *c, uint64_t epoch)
{
    collect_answered(c, epoch);
    write_ends(c, take_list(c, &c->completed, &c->completed_end), epoch);
}

static void write_finished(struct checkpoint *c)
{
    char time[CLOCK_ISO_MAX];
    struct buffer *b = changes_begin(&c->cut.changes, STORAGE_CHECKPOINT, STORAGE_PUT, "finished", 8, "", 0);
    buffer_append_text(b, "{\"trigger\":");
    buffer_append_json(b, c->finished_trigger, strlen(c->finished_trigger));
    buffer_printf(b, ",\"time\":\"%s\",\"count\":%llu,\"left\":%s}", clock_iso(clock_unix_ns(), time),
                  (unsigned long long)c->finished, c->finish_open ? "false" : "true");
    changes_end(&c->cut.changes);
}

static void collect_finished(struct checkpoint *c, uint64_t epoch)
{
    unsigned times = 0;
    for (unsigned i = 0; i < c->worker->n_shards; i++) {
        struct shard_cut *cut = shard_cut(c->worker->shards[i], epoch);
        times += cut->finished;
        if (cut->finished)
            memcpy(c->finished_trigger, cut->finished_trigger, sizeof c->finished_trigger);
    }
    if (!times)
        return;
    c->finished += times;
    c->finish_open = true;
    write_finished(c);
}

static void collect_outbox(struct checkpoint *c, uint64_t epoch)
{
    struct intent *lists[ARENA_MAX_SHARDS + 1];
    size_t n = 0;
    for (unsigned i = 0; i < c->worker->n_shards; i++)
        lists[n++] = shard_cut(c->worker->shards[i], epoch)->intents;
    lists[n++] = c->injection.intents;
    outbox_collect(c->outbox, lists, n, &c->cut.changes);
}

static int gather(struct checkpoint *c, uint64_t epoch, struct error *err)
{
    struct worker *w = c->worker;
    collect_completed(c, epoch);
    collect_outbox(c, epoch);
    collect_finished(c, epoch);
    internal_collect(w->internal, epoch, &c->cut.changes);
    emissions_collect(w->emissions, w->sources, ARENA_MAX_SOURCES, epoch, &c->cut.changes);
    return cut_gather(&c->cut, epoch, err);
}

/* --- the epoch: commit --- */

/* Until storage answers. 0 committed; 1 the worker must end (reported). */
static int commit(struct checkpoint *c, uint64_t epoch)
{
    struct worker *w = c->worker;
    struct storage_commit commit = {.workspace = w->workspace,
                                    .creation = w->creation,
                                    .writer = w->writer,
                                    .epoch = epoch,
                                    .ops = c->cut.ops,
                                    .n_ops = c->cut.n_ops,
                                    .log_consumed = cut_log_consumed(&c->cut)};
    for (unsigned failures = 0;; failures++) {
        struct error err;
        crash_point("commit_before");
        int r = c->storage->type->commit(c->storage, &commit, &err);
        crash_point("commit_after");
        if (r == 0) {
            report_storage(w->report, NULL);
            return 0;
        }
        if (r < 0 && err.code == ERROR_LIMIT) { /* the successor takes it in smaller epochs */
            give_up(c, "error", &err);
            return 1;
        }
        if (r == STORAGE_FENCED) {
            give_up_fenced(c, &err);
            return 1;
        }
        if (r == STORAGE_ROLLED_BACK) {
            give_up(c, "rolled_back", &err);
            return 1;
        }
        report_storage(w->report, &err);
        arena_add(&c->stats->commit_failures, 1);
        if (out_of_time(c)) {
            error_prefix(&err, "stopped before the last checkpoint could be committed");
            give_up(c, "error", &err);
            return 1;
        }
        back_off(c, failures);
    }
}

/* --- the epoch: after the commit --- */

static void hand_over_intents(struct checkpoint *c, uint64_t epoch)
{
    for (unsigned i = 0; i < c->worker->n_shards; i++) {
        struct shard_cut *cut = shard_cut(c->worker->shards[i], epoch);
        struct intent *list = cut->intents;
        cut->intents = NULL;
        cut->intents_end = &cut->intents;
        outbox_start(c->outbox, list);
    }
    outbox_start(c->outbox, injection_next(&c->injection, epoch + 1));
    outbox_refill(c->outbox, c->storage);
}

static void acknowledge(struct checkpoint *c)
{
    uint64_t committed = 0;
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++) {
        struct source *s = c->worker->sources[i];
        if (!s || !s->consume)
            continue;
        if (s->committed_read != s->barrier_read)
            s->type->acknowledge(s);
        committed += s->barrier_read - s->committed_read;
        s->committed_read = s->barrier_read;
    }
    atomic_fetch_add(&c->worker->committed, committed);
    arena_add(&c->stats->committed_events, committed);
    if (!atomic_exchange(&c->worker->paused, false))
        return;
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
        if (c->worker->sources[i] && c->worker->sources[i]->consume)
            source_wake(c->worker->sources[i]);
}

static void count_epoch(struct checkpoint *c, uint64_t epoch)
{
    bool gone = false;
    for (unsigned i = 0; i < c->worker->n_shards; i++) {
        struct shard_cut *cut = shard_cut(c->worker->shards[i], epoch);
        arena_add(&c->stats->documents, cut->documents);
        arena_add(&c->stats->fired_committed, cut->fired);
        if (cut->finished) {
            arena_add(&c->stats->finished, cut->finished);
            worker_finished(c->worker, cut->finished_trigger);
        }
        gone |= cut->gone;
    }
    c->commit_ns = clock_now_ns() - c->opened_ns;
    arena_set(&c->stats->epoch, epoch);
    arena_add(&c->stats->commits, 1);
    arena_set(&c->stats->commit_ns, c->commit_ns);
    arena_set(&c->stats->commit_unix_ns, clock_unix_ns());
    arena_set(&c->stats->in_flight, worker_in_flight(c->worker));
    arena_set(&c->stats->internal_pending, internal_pending(c->worker->internal));
    arena_set(&c->stats->dead_letter_bytes, c->cut.dead_letter_bytes);
    struct error err;
    if (gone && catalog_drop_gone(&c->catalog, &err) != 0)
        c->retire_pending = true;
}

static void check_dead_letters_full(struct checkpoint *c)
{
    bool full = c->cut.dead_letter_bytes >= (uint64_t)c->worker->config->dead_letter_max_bytes;
    bool was = atomic_exchange(&c->stats->dead_letters_full, full);
    if (full && !was) {
        c->recount_ns = clock_now_ns() + RECOUNT_EVERY;
        report_warning(c->worker->report, "dead_letters_full",
                       "the dead letters have reached dead_letter_max_bytes: event sources pause until some "
                       "are removed");
    } else if (was && !full) {
        report_warning(c->worker->report, "dead_letters_full", NULL);
        for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
            if (c->worker->sources[i])
                source_wake(c->worker->sources[i]);
    }
}

/* One epoch from barriers to acknowledgements. 0 done; 1 the thread must end. */
static int run_epoch(struct checkpoint *c)
{
    uint64_t epoch = c->epoch + 1;
    struct error err;
    c->opened_ns = clock_now_ns();
    c->injected_ns = 0;
    place_barriers(c, epoch);
    wait_cuts(c);
    crash_point("cut");
    if (c->retire_pending)
        catalog_retire(&c->catalog);
    c->retire_pending = false;
    if (gather(c, epoch, &err) < 0) {
        give_up(c, "error", &err);
        return 1;
    }
    if (commit(c, epoch))
        return 1;
    c->epoch = c->catalog.epoch = epoch;
    cut_committed(&c->cut);
    hand_over_intents(c, epoch);
    timers_committed(c->timers);
    requests_committed(c->requests);
    crash_point("handed_over");
    acknowledge(c);
    crash_point("acknowledged");
    count_epoch(c, epoch);
    check_dead_letters_full(c);
    return 0;
}

/* --- triggers and event sources --- */

static int restore_source(struct checkpoint *c, struct source *s, const struct recovery *recovery,
                          struct error *err)
{
    if (recovery_restore_source(recovery, c->storage, s, err) < 0)
        return -1;
    int r;
    for (unsigned failures = 0; (r = recovery_restore_consumed(recovery, c->storage, s, err)) > 0;
         failures++) {
        report_storage(c->worker->report, err);
        if (out_of_time(c))
            return -1;
        back_off(c, failures);
    }
    return r;
}

static int start_source(struct checkpoint *c, struct source *s, const struct recovery *recovery)
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
    if (run_epoch(c))
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
static int reload(struct checkpoint *c)
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
        if (start_source(c, sources.fresh[i], NULL) < 0)
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

static void watch(struct checkpoint *c)
{
    arm(c);
    checkpoint_reload(c); /* what changed before the watch was set */
}

/* Since the last commits a change would not have been told of, or not been told from ours. */
static bool may_have_missed(const struct checkpoint *c)
{
    return c->watching && c->epoch != c->armed_epoch && !atomic_load(&c->reload_wanted);
}

static void look_for_changes(struct checkpoint *c)
{
    struct error err;
    if (atomic_exchange(&c->storage_changed, false) && c->watching) {
        int r = c->storage->type->watch_read(c->storage, &err);
        if (r == 0 && c->epoch == c->armed_epoch) /* else it may be of our own commit */
            checkpoint_reload(c);
        if (r < 0) {
            c->watching = false;
            c->watch_not_before_ns = clock_now_ns() + RETRY_FIRST;
            worker_watch(c->worker, -1);
        }
    }
    if (!c->watching && clock_now_ns() >= c->watch_not_before_ns)
        watch(c);
    /* An idle workflow stays armed, and asks for nothing. */
    if (may_have_missed(c) && clock_now_ns() >= c->refresh_ns)
        checkpoint_reload(c);
}

/* --- recovery --- */

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
        if (stopping(c))
            return 1;
        doorbell_arm(&c->bell);
        if (!stopping(c) && !(from = take_adopt(c)))
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
    if (recovery_restore_internal(recovery, internal, err) < 0 ||
        outbox_restore(c->outbox, recovery, w->emissions, err) < 0) {
        source_free(internal);
        return -1;
    }
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
        if (stopping(c))
            return -1;
        back_off(c, 3);
    }
    if (source_start(internal, err) < 0)
        return -1;
    for (size_t i = 0; i < sources.n_fresh; i++)
        if (start_source(c, sources.fresh[i], recovery) < 0)
            return error_set(err, ERROR_SYSTEM, "the thread of an event source cannot be started");
    struct error ignored; /* the next start tries again */
    recovery_forget_consumed(recovery, c->storage, w, &c->cut.changes, &ignored);
    return 0;
}

/* Takes the workspace over and starts everything. 0; 1: the thread must end. */
static int recover(struct checkpoint *c)
{
    struct worker *w = c->worker;
    struct error err;
    struct recovery recovery = {0};
    int r;
    for (unsigned failures = 0;; failures++) {
        r = recovery_load(&recovery, w, c->storage, &c->catalog, &err);
        if (r >= 0 || stopping(c))
            break;
        report_storage(w->report, &err);
        back_off(c, failures);
    }
    if (r == STORAGE_ABSENT)
        give_up(c, "deleted", &err);
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
        if (!stopping(c))
            give_up(c, "error", &err);
        r = 1;
    }
    recovery_done(&recovery);
    if (r)
        return 1;
    check_dead_letters_full(c);
    outbox_refill(c->outbox, c->storage);
    watch(c);
    worker_ready(w);
    return 0;
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
    c->recount_ns = now + RECOUNT_EVERY;
    if (recovery_count_dead_letters(c->worker, c->storage, &bytes, &err) == 0)
        c->cut.dead_letter_bytes = bytes;
    check_dead_letters_full(c);
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
    if (may_have_missed(c))
        at = earlier(at, c->refresh_ns);
    if (!outbox_empty(c->outbox) && executor_has_room(c->worker->executor))
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
    if (atomic_load(&c->answer_waits) && collect_answered(c, c->epoch + 1)) {
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
                atomic_load(&c->answer_waits) || atomic_load(&c->storage_changed) || stopping(c) ||
                requests_waiting(c->requests) || atomic_load(&c->fenced) ||
                (atomic_load(&c->reload_wanted) && now >= c->reload_not_before_ns);
    if (news || now >= at) {
        doorbell_disarm(&c->bell);
        return;
    }
    atomic_store_explicit(&c->life->busy, 0, memory_order_relaxed);
    doorbell_wait(&c->bell, at - now);
    beat(c);
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
    give_up(c, "internal_overflow", &err);
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
    give_up_fenced(c, &err);
    return true;
}

static void serve(struct checkpoint *c)
{
    while (!stopping(c) && !was_fenced(c)) {
        look_for_changes(c);
        uint64_t now = clock_now_ns();
        if (atomic_load(&c->reload_wanted) && now >= c->reload_not_before_ns) {
            atomic_store(&c->reload_wanted, false);
            if (reload(c))
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
            if (run_epoch(c) || overflown(c))
                return;
            continue;
        }
        recount_dead_letters(c, now);
        outbox_refill(c->outbox, c->storage);
        uint64_t wake = earlier(wake_at(c, now), timers_at(c, now));
        uint64_t leave = UINT64_MAX;
        if (may_leave(c, now, &leave)) {
            c->finish_open = false;
            write_finished(c);
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
    if (!stopping(c))
        checkpoint_stop(c, clock_now_ns() + (uint64_t)w->config->stop_timeout_ns);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i])
            source_stop(w->sources[i]);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i])
            source_join(w->sources[i]);
    if (!failed && w->sources[0] && run_epoch(c) == 0) {
        requests_refuse(c->requests);
        executor_stop(w->executor, atomic_load(&c->stop_deadline_ns) - CLOCK_S);
        if (something_changed(c))
            run_epoch(c);
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
    if (recover(c) == 0)
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
    c->storage->heartbeat = beat;
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
