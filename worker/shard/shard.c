#include "worker/shard/shard_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/globals.h"
#include "worker/executor/intent.h"
#include "worker/shard/keys.h"
#include "worker/source/internal.h"
#include "worker/shard/trigger.h"
#include "worker/shard/waiting.h"
#include "worker/worker.h"

#define BATCH 128     /* records taken from one ring before the next one's turn */
#define HELP_ROUNDS 4 /* turns over all rings that a helper takes */
/* Decisions that are recorded in a while, so that they cost nothing where there are many: of those that fire,
 * and of the others. The ring keeps some whiles. */
#define DECISIONS_WHILE (4 * CLOCK_MS)
#define DECISIONS_AT_MOST 64
#define IDLE_TIMEOUT (30 * CLOCK_S)

/* --- the cut --- */

static void write_fired(struct shard *s, struct trigger *t, struct changes *out)
{
    char name[256];
    char number[24];
    int n = snprintf(name, sizeof name, "fired:%s", t->identity);
    int m = snprintf(number, sizeof number, "%llu", (unsigned long long)t->firings);
    (void)s;
    if (n >= (int)sizeof name)
        n = (int)sizeof name - 1;
    changes_put(out, STORAGE_CHECKPOINT, name, (size_t)n, number, (size_t)m);
}

static void delete_fired(struct trigger *t, struct changes *out)
{
    char name[256];
    int n = snprintf(name, sizeof name, "fired:%s", t->identity);
    changes_delete(out, STORAGE_CHECKPOINT, name, (size_t)(n < (int)sizeof name ? n : (int)sizeof name - 1));
}

static void write_trigger(struct shard *s, struct trigger *t, const char *timestamp, struct shard_cut *cut)
{
    struct changes *out = &cut->changes;
    if (atomic_load_explicit(&t->gone, memory_order_relaxed)) {
        changes_begin(out, STORAGE_TRIGGERS, STORAGE_DELETE_IF, t->id, t->id_len, t->uuid, t->uuid_len);
        changes_end(out);
        if (t->firings > 1)
            delete_fired(t, out);
        keys_delete(t->keys, t->identity, t->identity_len, out);
        waiting_abandon(t->waiting, t->id, t->identity, false, "the trigger was transient and has fired",
                        out);
        return;
    }
    if (t->changed || t->patched) {
        struct buffer *b =
            changes_begin(out, STORAGE_TRIGGERS, STORAGE_PUT_IF, t->id, t->id_len, t->uuid, t->uuid_len);
        trigger_write(t, timestamp, b);
        changes_end(out);
        cut->documents++;
    }
    keys_write(t->keys, t->identity, t->identity_len, s->epoch, out);
    if (t->waiting)
        waiting_write(t->waiting, t->identity, t->identity_len, out);
    if (t->fired)
        write_fired(s, t, out);
}

static void cut(struct shard *s)
{
    char timestamp[CLOCK_ISO_MAX];
    struct shard_cut *cut = shard_current_cut(s);
    clock_iso(clock_unix_ns(), timestamp);
    for (size_t i = 0; i < s->n_dirty; i++) {
        struct trigger *t = s->dirty[i];
        write_trigger(s, t, timestamp, cut);
        t->dirty = t->changed = t->fired = t->patched = false;
    }
    s->n_dirty = 0;
    s->n_intents = 0;
    s->blocked = 0;
    s->epoch++;
    struct shard_cut *next = shard_current_cut(s); /* its epoch has committed: it is ours again */
    changes_reset(&next->changes);
    next->intents = NULL;
    next->intents_end = &next->intents;
    next->documents = next->fired = 0;
    next->finished = 0;
    next->gone = false;
    next->timers = false;
    crash_point("shard_cut");
    checkpoint_cut_done(s->worker->checkpoint);
}

int shard_patch(struct shard *shard, struct trigger *trigger, const struct json_value *members,
                struct error *err)
{
    int r = SHARD_GONE;
    atomic_store(&shard->wanted, true);
    pthread_mutex_lock(&shard->run);
    if (!atomic_load_explicit(&trigger->gone, memory_order_relaxed)) {
        r = trigger_patch(trigger, members, err);
        if (r == 0) {
            trigger->patched = true;
            shard_mark_dirty(shard, trigger);
        }
    }
    atomic_store(&shard->wanted, false);
    pthread_mutex_unlock(&shard->run);
    return r;
}

struct shard_cut *shard_cut(struct shard *shard, uint64_t epoch)
{
    return &shard->cuts[epoch & 1];
}

/* --- the thread --- */

static void begin_while(struct shard *s)
{
    uint64_t now = clock_coarse_ns();
    if (now - s->while_ns < DECISIONS_WHILE)
        return;
    s->while_ns = now;
    s->decisions_left[0] = s->decisions_left[1] = DECISIONS_AT_MOST;
}

/* An intent that has waited behind writes. The last of its shards opens it. */
static void open_held(struct shard *s, struct held_intent *held)
{
    struct intent *intent;
    struct error err;
    if (atomic_fetch_sub_explicit(&held->left, 1, memory_order_acq_rel) > 1)
        return;
    if (shard_make_intent(s, held->document, held->len, &intent, &err) == 0)
        shard_open_intent(s, intent);
    else if (err.code == ERROR_MEMORY)
        abort(); /* it would be lost: start again from the last checkpoint */
    else
        log_error("intent", LOG_STR("error", err.message));
    free(held);
    crash_point("held_opened");
}

static bool take(struct shard *s, unsigned ring)
{
    struct ring_consumer *c = &s->rings[ring];
    uint32_t size;
    uint32_t kind;
    void *record;
    unsigned n = 0;
    bool at_cut = false;
    while (n < BATCH && (record = ring_peek(c, &size, &kind))) {
        if (!n++)
            begin_while(s);
        if (kind == RECORD_BARRIER) {
            struct record_barrier barrier = *(struct record_barrier *)record;
            ring_next(c);
            s->blocked |= 1u << ring;
            at_cut = (s->blocked & barrier.sources) == barrier.sources;
            break;
        }
        if (kind == RECORD_INTENT) {
            open_held(s, *(struct held_intent **)record);
        } else if (kind == RECORD_LARGE) {
            struct record_event *large = *(struct record_event **)record;
            shard_process(s, large);
            free(large);
        } else {
            shard_process(s, record);
        }
        ring_next(c);
    }
    if (!n)
        return false;
    arena_beat(s->life, clock_coarse_ns());
    if (ring_release(c))
        doorbell_ring(&s->worker->space[ring]);
    if (at_cut)
        cut(s);
    return true;
}

static bool any_ready(struct shard *s, uint32_t n_rings)
{
    for (uint32_t i = 0; i < n_rings; i++)
        if (!(s->blocked >> i & 1) && (!(s->attached >> i & 1) || ring_ready(&s->rings[i])))
            return true;
    return atomic_load(&s->stopping) || atomic_load(&s->worker->n_rings) != n_rings;
}

static void attach(struct shard *s, uint32_t n_rings)
{
    for (uint32_t i = 0; i < n_rings; i++)
        if (!(s->attached >> i & 1)) {
            ring_attach_consumer(&s->rings[i], arena_ring(s->worker->arena, i, s->index), ARENA_RING_BYTES);
            s->attached |= 1u << i;
        }
}

/* One turn over all rings; false when there was nothing. Requires: run. */
static bool turn(struct shard *s)
{
    uint32_t n_rings = atomic_load(&s->worker->n_rings);
    bool worked = false;
    attach(s, n_rings);
    for (uint32_t i = 0; i < n_rings; i++)
        if (!(s->blocked >> i & 1))
            worked |= take(s, i);
    return worked;
}

static void *shard_main(void *data)
{
    struct shard *s = data;
    worker_thread_enter(s->worker, ARENA_THREAD_SHARD + s->index, "shard");
    while (!atomic_load_explicit(&s->stopping, memory_order_relaxed)) {
        while (atomic_load(&s->wanted))
            sched_yield();
        pthread_mutex_lock(&s->run);
        atomic_store_explicit(&s->life->busy, 1, memory_order_relaxed);
        while (!atomic_load_explicit(&s->wanted, memory_order_relaxed) && turn(s))
            ;
        doorbell_arm(&s->bell);
        bool ready = any_ready(s, atomic_load(&s->worker->n_rings));
        atomic_store_explicit(&s->life->busy, 0, memory_order_relaxed);
        pthread_mutex_unlock(&s->run);
        if (ready)
            doorbell_disarm(&s->bell);
        else
            doorbell_wait(&s->bell, IDLE_TIMEOUT);
        arena_beat(s->life, clock_coarse_ns());
    }
    return NULL;
}

void shard_wake(struct shard *shard)
{
    doorbell_ring(&shard->bell);
}

void shard_help(struct shard *shard)
{
    if (pthread_mutex_trylock(&shard->run)) {
        shard_wake(shard);
        return;
    }
    worker_thread_stand_in(ARENA_THREAD_SHARD + shard->index);
    arena_beat(shard->life, clock_coarse_ns());
    atomic_store_explicit(&shard->life->busy, 1, memory_order_relaxed);
    bool left = true;
    for (int i = 0; i < HELP_ROUNDS && left; i++)
        left = turn(shard);
    atomic_store_explicit(&shard->life->busy, 0, memory_order_relaxed);
    worker_thread_be_itself(shard->worker);
    pthread_mutex_unlock(&shard->run);
    if (left)
        shard_wake(shard);
}

int shard_new(struct worker *worker, unsigned index, struct shard **ret_shard, struct error *err)
{
    struct shard *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    pthread_mutex_init(&s->run, NULL);
    s->worker = worker;
    s->index = index;
    s->stats = &worker->arena->shard[index];
    s->life = &worker->arena->thread[ARENA_THREAD_SHARD + index];
    s->decisions.entries = arena_decisions(worker->arena, index);
    s->cuts[0].intents_end = &s->cuts[0].intents;
    s->cuts[1].intents_end = &s->cuts[1].intents;
    *ret_shard = s;
    return 0;
}

int shard_start(struct shard *shard, uint64_t first_epoch, struct error *err)
{
    shard->epoch = first_epoch;
    if (worker_thread_start(&shard->thread, shard_main, shard, err) < 0)
        return -1;
    shard->started = true;
    return 0;
}

void shard_stop(struct shard *shard)
{
    if (!shard->started)
        return;
    atomic_store(&shard->stopping, true);
    shard_wake(shard);
    pthread_join(shard->thread, NULL);
    shard->started = false;
}

void shard_free(struct shard *shard)
{
    if (!shard)
        return;
    shard_stop(shard);
    for (int i = 0; i < 2; i++) {
        changes_done(&shard->cuts[i].changes);
        intent_free_list(shard->cuts[i].intents);
    }
    pthread_mutex_destroy(&shard->run);
    buffer_done(&shard->scratch);
    globals_unref(shard->globals);
    free(shard->dirty);
    free(shard);
}
