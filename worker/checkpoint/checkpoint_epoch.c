/* One epoch: barriers, cuts, the transaction, and what may happen once it has committed. */
#include "worker/checkpoint/checkpoint_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/cloudevent.h"
#include "common/config.h"
#include "worker/crash.h"
#include "worker/emission.h"
#include "worker/executor/intent.h"
#include "worker/checkpoint/outbox.h"
#include "worker/report.h"
#include "worker/checkpoint/request.h"
#include "worker/router.h"
#include "worker/shard/shard.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/checkpoint/timers.h"
#include "worker/worker.h"

#define BEAT_EVERY (20 * CLOCK_MS) /* while it waits for others: it is not the one that hangs */

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
        checkpoint_beat(c);
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
        outbox_ended(c->outbox, intent, &c->cut.changes);
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
size_t checkpoint_collect_answered(struct checkpoint *c, uint64_t epoch)
{
    atomic_store(&c->answer_waits, false);
    return write_ends(c, take_list(c, &c->answered, &c->answered_end), epoch);
}

static void collect_completed(struct checkpoint *c, uint64_t epoch)
{
    checkpoint_collect_answered(c, epoch);
    write_ends(c, take_list(c, &c->completed, &c->completed_end), epoch);
}

void checkpoint_write_finished(struct checkpoint *c)
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
    checkpoint_write_finished(c);
}

static void collect_outbox(struct checkpoint *c, uint64_t epoch)
{
    struct intent *lists[ARENA_MAX_SHARDS + 1];
    size_t n = 0;
    for (unsigned i = 0; i < c->worker->n_shards; i++)
        lists[n++] = shard_cut(c->worker->shards[i], epoch)->intents;
    lists[n++] = c->injection.intents;
    if (c->last)
        outbox_collect_last(c->outbox, lists, n, &c->cut.changes);
    else
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
            checkpoint_give_up(c, "error", &err);
            return 1;
        }
        if (r == STORAGE_FENCED) {
            checkpoint_give_up_fenced(c, &err);
            return 1;
        }
        if (r == STORAGE_ROLLED_BACK) {
            checkpoint_give_up(c, "rolled_back", &err);
            return 1;
        }
        report_storage(w->report, &err);
        arena_add(&c->stats->commit_failures, 1);
        if (checkpoint_out_of_time(c)) {
            error_prefix(&err, "stopped before the last checkpoint could be committed");
            checkpoint_give_up(c, "error", &err);
            return 1;
        }
        checkpoint_back_off(c, failures);
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

static void take_up_timers(struct checkpoint *c, uint64_t epoch)
{
    timers_committed(c->timers);
    for (unsigned i = 0; i < c->worker->n_shards; i++) {
        struct shard_cut *cut = shard_cut(c->worker->shards[i], epoch);
        if (cut->timers)
            timers_add(c->timers, &cut->changes);
    }
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

void checkpoint_check_dead_letters(struct checkpoint *c)
{
    bool full = c->cut.dead_letter_bytes >= (uint64_t)c->worker->config->dead_letter_max_bytes;
    bool was = atomic_exchange(&c->stats->dead_letters_full, full);
    if (full && !was) {
        c->recount_ns = clock_now_ns() + CHECKPOINT_RECOUNT_EVERY;
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
int checkpoint_run_epoch(struct checkpoint *c)
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
        checkpoint_give_up(c, "error", &err);
        return 1;
    }
    if (commit(c, epoch))
        return 1;
    c->epoch = c->catalog.epoch = epoch;
    cut_committed(&c->cut);
    hand_over_intents(c, epoch);
    take_up_timers(c, epoch);
    requests_committed(c->requests);
    crash_point("handed_over");
    acknowledge(c);
    crash_point("acknowledged");
    count_epoch(c, epoch);
    checkpoint_check_dead_letters(c);
    return 0;
}
