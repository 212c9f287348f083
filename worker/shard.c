#include "worker/shard.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/decision.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/ring.h"
#include "worker/action/action.h"
#include "worker/checkpoint.h"
#include "worker/crash.h"
#include "worker/deadletter.h"
#include "worker/executor.h"
#include "worker/firing.h"
#include "worker/globals.h"
#include "worker/intent.h"
#include "worker/keys.h"
#include "worker/record.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/trigger.h"
#include "worker/waiting.h"
#include "worker/worker.h"
#include "worker/write.h"

#define BATCH 128     /* records taken from one ring before the next one's turn */
#define PREFETCH 4    /* triggers ahead, when one event has many */
#define HELP_ROUNDS 4 /* turns over all rings that a helper takes */
/* Decisions that are recorded in a while, so that they cost nothing where there are many: of those that fire,
 * and of the others. The ring keeps some whiles. */
#define DECISIONS_WHILE (4 * CLOCK_MS)
#define DECISIONS_AT_MOST 64
#define ASK_ELEMENT 0x80000000u /* in keys: no firing has so many elements */
#define CONTEXT_MAX (16u << 20) /* bytes, of what is merged from outside */
#define IDLE_TIMEOUT (30 * CLOCK_S)

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

struct shard_firing {
    struct firing firing;
    struct shard *shard;
};

static struct shard_cut *current(struct shard *s)
{
    return &s->cuts[s->epoch & 1];
}

/* --- what a firing action may do --- */

static struct shard *shard_of(struct firing *firing)
{
    return ((struct shard_firing *)(void *)firing)->shard;
}

static int emit(struct firing *firing, const struct cloudevent *event, struct error *err)
{
    struct shard *s = shard_of(firing);
    return internal_emit(s->worker->internal, event, s->epoch, err);
}

static int write_context(struct firing *firing, const struct cloudevent *carrier, struct error *err)
{
    struct shard *s = shard_of(firing);
    return internal_write(s->worker->internal, carrier, s->epoch, err);
}

/* Into the present epoch. Takes the intent. One with elements always waits for its commit (they are started
 * from the outbox), as does one whose action says so. */
static void open_intent(struct shard *s, struct intent *intent)
{
    struct shard_cut *cut = current(s);
    bool immediate = s->worker->config->action_start == CONFIG_ACTION_IMMEDIATE && !intent->fans_out &&
                     !intent->action->after_commit;
    s->n_intents++;
    if (intent->fans_out)
        intent->field[strlen(intent->field)] = INTENT_FANS_OUT;
    changes_put(&cut->changes, STORAGE_OUTBOX, intent->field, strlen(intent->field), intent->text,
                intent->len);
    if (immediate && executor_has_room(s->worker->executor)) {
        executor_submit(s->worker->executor, intent);
    } else {
        *cut->intents_end = intent;
        cut->intents_end = &intent->next;
        checkpoint_intent_waits(s->worker->checkpoint);
    }
}

static int make_intent(const struct shard *s, const char *document, size_t len, struct intent **ret_intent,
                       struct error *err)
{
    char field[INTENT_FIELD_MAX];
    int n = snprintf(field, sizeof field, "%020llu-%02u-%08u", (unsigned long long)s->epoch, s->index,
                     s->n_intents);
    return intent_load(field, (size_t)n, document, len, ret_intent, err);
}

static int intend(struct firing *firing, const struct action_type *action, const char *key, const char *body,
                  size_t body_len, const char *elements, size_t elements_len, struct error *err)
{
    struct shard *s = shard_of(firing);
    struct intent *intent;
    BUFFER_AUTO document = BUFFER_INIT;
    intent_write(firing, action, key, body, body_len, elements, elements_len, &document);
    if (document.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (firing->n_writes) /* behind them */
        return internal_hold(s->worker->internal, document.data, document.len, s->epoch, err);
    if (make_intent(s, document.data, document.len, &intent, err) < 0)
        return -1;
    open_intent(s, intent);
    return 0;
}

static void finish(struct firing *firing)
{
    struct shard *s = shard_of(firing);
    struct shard_cut *cut = current(s);
    cut->finished++;
    snprintf(cut->finished_trigger, sizeof cut->finished_trigger, "%s", firing->trigger->id);
    for (size_t len = strlen(cut->finished_trigger); !utf8_valid(cut->finished_trigger, len);)
        cut->finished_trigger[--len] = '\0'; /* cut inside a character */
    checkpoint_intent_waits(s->worker->checkpoint);
}

static const struct firing_type into_epoch = {
    .emit = emit, .write = write_context, .intend = intend, .finish = finish};

/* --- events --- */

static void mark_dirty(struct shard *s, struct trigger *t)
{
    if (t->dirty)
        return;
    if (s->n_dirty == s->dirty_cap) {
        size_t cap = s->dirty_cap ? s->dirty_cap * 2 : 64;
        struct trigger **dirty = realloc(s->dirty, cap * sizeof(struct trigger *));
        if (!dirty)
            abort(); /* a change that would not be written: start again from the last checkpoint */
        s->dirty = dirty;
        s->dirty_cap = cap;
    }
    t->dirty = true;
    s->dirty[s->n_dirty++] = t;
}

/* Its context, too. */
static void mark_changed(struct shard *s, struct trigger *t)
{
    t->changed = true;
    mark_dirty(s, t);
}

static void dead_letter(struct shard *s, struct record_event *r, const struct cloudevent *event,
                        const char *reason, const char *detail, const struct trigger *t)
{
    char position[48];
    snprintf(position, sizeof position, "%llu-%llu", (unsigned long long)r->position[0],
             (unsigned long long)r->position[1]);
    struct dead_letter letter = {.reason = reason,
                                 .detail = detail,
                                 .source = s->worker->arena->source[r->source_index].name,
                                 .position = position,
                                 .trigger = t ? t->id : NULL,
                                 .event = event};
    BUFFER_AUTO write = BUFFER_INIT;
    if (r->is_write) {
        write_letter(event, &write);
        letter.event = NULL;
        letter.body = write.data;
        letter.body_len = write.len;
        current(s)->changes.text.failed |= write.failed;
    }
    dead_letter_add(&letter, &current(s)->changes);
    arena_add(&s->stats->dead_letters, 1);
}

static struct shard_firing make_firing(struct shard *s, struct trigger *t, const struct cloudevent *event,
                                       uint64_t number)
{
    globals_refresh(&s->worker->globals, &s->globals, &s->globals_version);
    return (struct shard_firing){
        .firing = {.type = &into_epoch,
                   .workspace = s->worker->workspace,
                   .creation = s->worker->creation,
                   .trigger = t,
                   .event = event,
                   .number = number,
                   .globals = s->globals,
                   .own_source = atomic_load_explicit(&s->worker->own_source, memory_order_relaxed)},
        .shard = s};
}

/* What it waits for, made when it is first needed. */
static struct waiting *waiting_of(struct shard *s, struct trigger *t)
{
    if (!t->waiting && !(t->waiting = waiting_new(t->firings, t->definition, &s->worker->waiting)))
        abort(); /* its events would be lost: start again from the last checkpoint */
    return t->waiting;
}

static void await_answer(struct shard *s, struct trigger *t, enum waiting_stage stage, const char *key)
{
    struct waiting *w = waiting_of(s, t);
    w->stage = stage;
    snprintf(w->key, sizeof w->key, "%s", key);
}

/* again: the request to do it again, or NULL. false: the action has failed; the event is a dead letter. */
static bool fire(struct shard *s, struct trigger *t, struct record_event *r, const struct cloudevent *event,
                 const struct json_value *again)
{
    struct shard_firing firing = make_firing(s, t, event, ++t->firings);
    struct error err;
    t->fired = true;
    mark_dirty(s, t);
    crash_point("fire");
    int done = again ? t->action->again(t->action_state, &firing.firing, again, &err)
                     : t->action->fire(t->action_state, &firing.firing, &err);
    if (done < 0)
        dead_letter(s, r, event, "action_failed", err.message, t);
    else if (firing.firing.awaited[0])
        await_answer(s, t, WAITING_ACTION, firing.firing.awaited);
    current(s)->fired++;
    arena_add(&s->stats->fired, 1);
    if (t->transient) {
        atomic_store_explicit(&t->gone, true, memory_order_relaxed);
        current(s)->gone = true;
    }
    return done >= 0;
}

/* Whether the event's key has been counted by this trigger before. */
static bool is_repeat(struct trigger *t, const struct cloudevent *event)
{
    const struct cloudevent_span *key = &event->attribute[CE_KEY];
    int added = keys_add(&t->keys, key->text, key->len);
    if (added < 0)
        abort(); /* cannot know: start again from the last checkpoint */
    return added == 0;
}

#ifdef CRASH_POINTS
static void crash_on_request(const struct cloudevent *event)
{
    const struct cloudevent_span *type = &event->attribute[CE_TYPE];
    if (type->len == 11 && !memcmp(type->text, "crash.fault", 11))
        raise(11);
    if (type->len == 10 && !memcmp(type->text, "crash.hang", 10))
        for (;;)
            pause();
}
#else
static void crash_on_request(const struct cloudevent *event)
{
    (void)event;
}
#endif

static __attribute__((noinline)) void record(struct shard *s, const struct trigger *t,
                                             const struct cloudevent *event, unsigned flags,
                                             enum decision_kind kind)
{
    uint64_t numbers = s->decisions_out + 1;
    struct decision_facts facts = {.time_unix_ns = clock_unix_ns(),
                                   .trigger = t->id,
                                   .trigger_len = t->id_len,
                                   .event = event,
                                   .flags = flags,
                                   .kind = kind};
    facts.sequence =
        atomic_fetch_add_explicit(&s->worker->decisions, numbers, memory_order_relaxed) + numbers;
    if (kind == DECISION_PLAIN && t->condition->explain)
        facts.kind = t->condition->explain(t->state, facts.operands);
    decision_write(&s->decisions, &facts);
    s->decisions_out = 0;
}

static inline void decide(struct shard *s, const struct trigger *t, const struct cloudevent *event,
                          unsigned flags, enum decision_kind kind)
{
    unsigned *left = &s->decisions_left[flags & DECISION_FIRED ? 1 : 0];
    if (!*left) {
        s->decisions_out++;
        return;
    }
    --*left;
    record(s, t, event, flags, kind);
}

static void evaluate(struct shard *s, struct trigger *t, struct record_event *r,
                     const struct cloudevent *event)
{
    bool has_key = event->attribute[CE_KEY].len && t->condition->counts_keys;
    bool failed = false;
    if (has_key) {
        mark_dirty(s, t);
        if (is_repeat(t, event)) {
            decide(s, t, event, 0, DECISION_REPEAT);
            return;
        }
    }
    unsigned outcome = t->condition->evaluate(t->state, event);
    if (outcome & CONDITION_REFUSES)
        dead_letter(s, r, event, "condition_failed",
                    t->condition->why_refused ? t->condition->why_refused(t->state) : t->condition->refusal,
                    t);
    if (outcome & CONDITION_CHANGED)
        mark_changed(s, t);
    bool holds = outcome & CONDITION_HOLDS;
    if (holds)
        failed = !fire(s, t, r, event, NULL) && t->condition->forgets_failures;
    if (has_key && (failed || (outcome & CONDITION_REFUSES)))
        keys_take_back(t->keys);
    decide(s, t, event, holds ? DECISION_HOLDS | DECISION_FIRED : 0, DECISION_PLAIN);
    arena_add(&s->stats->evaluated, 1);
}

/* --- what is evaluated outside (waiting.h) --- */

static void add_waiting(struct shard *s, struct trigger *t, const struct cloudevent *event)
{
    if (waiting_add(waiting_of(s, t), event, NULL) < 0)
        abort(); /* it would be lost: start again from the last checkpoint */
    mark_dirty(s, t);
}

/* Asks for the first event in the queue, which stays there; or it becomes a dead letter. */
static void ask(struct shard *s, struct trigger *t, struct record_event *r)
{
    struct waiting *w = t->waiting;
    struct cloudevent event;
    char key[ACTION_KEY_MAX];
    struct error err;
    waiting_first(w, &event);
    struct shard_firing firing = make_firing(s, t, &event, ++w->asked);
    firing_key(&firing.firing, ASK_ELEMENT, key);
    mark_dirty(s, t);
    if (trigger_ask(t, &firing.firing, key, &err) == 0) {
        await_answer(s, t, WAITING_CONDITION, key);
        return;
    }
    dead_letter(s, r, &event, "condition_failed", err.message, t);
    waiting_event_free(waiting_take(w));
}

/* Takes up the events in the queue until it has to wait again. */
static void go_on(struct shard *s, struct trigger *t, struct record_event *r)
{
    struct waiting *w = t->waiting;
    struct cloudevent event;
    while (w->stage == WAITING_IDLE && !atomic_load_explicit(&t->gone, memory_order_relaxed) &&
           waiting_first(w, &event)) {
        arena_beat(s->life, clock_coarse_ns());
        if (t->condition->ask) {
            ask(s, t, r);
            continue;
        }
        struct waiting_event *taken = waiting_take(w);
        mark_dirty(s, t);
        evaluate(s, t, r, &event);
        waiting_event_free(taken);
    }
}

/* Whether the answer is one: then its context has been merged. */
static bool merge_answer(struct shard *s, struct trigger *t, struct record_event *r,
                         const struct cloudevent *event, const char *reason, const struct json_value *answer)
{
    struct json_value context, value;
    struct error err;
    if (json_member(answer, "failed", &value)) /* it is a dead letter already */
        return false;
    if (!json_member(answer, "context", &context))
        return true;
    if (context.len > CONTEXT_MAX || t->context_len > CONTEXT_MAX)
        error_set(&err, ERROR_LIMIT, "the context would be larger than %u bytes", CONTEXT_MAX);
    else if (trigger_patch(t, &context, &err) == 0) {
        t->patched = true;
        mark_dirty(s, t);
        return true;
    }
    dead_letter(s, r, event, reason, err.message, t);
    return false;
}

static void take_verdict(struct shard *s, struct trigger *t, struct record_event *r,
                         const struct json_value *answer)
{
    struct json_value result;
    struct cloudevent event;
    waiting_first(t->waiting, &event);
    struct waiting_event *taken = waiting_take(t->waiting);
    bool holds = merge_answer(s, t, r, &event, "condition_failed", answer) &&
                 json_member(answer, "result", &result) && result.type == JSON_TRUE;
    if (holds)
        fire(s, t, r, &event, NULL);
    decide(s, t, &event, holds ? DECISION_HOLDS | DECISION_FIRED : 0, DECISION_PLAIN);
    arena_add(&s->stats->evaluated, 1);
    waiting_event_free(taken);
}

static void take_answer(struct shard *s, struct trigger *t, struct record_event *r,
                        const struct cloudevent *carrier, const struct json_value *answer)
{
    struct json_value key, stage, identity;
    if (answer->type != JSON_OBJECT || !json_member(answer, "key", &key) ||
        !json_member(answer, "stage", &stage) || !json_member(answer, "trigger", &identity) ||
        !json_equals(&identity, t->identity, t->identity_len))
        return;
    struct waiting *w = t->waiting;
    if (!w || w->stage == WAITING_IDLE || !json_equals(&key, w->key, strlen(w->key))) {
        if (json_equals(&stage, "action", 6)) /* a redriven one */
            merge_answer(s, t, r, carrier, "action_failed", answer);
        return;
    }
    crash_point("answer");
    bool verdict = w->stage == WAITING_CONDITION;
    w->stage = WAITING_IDLE;
    mark_dirty(s, t);
    if (verdict)
        take_verdict(s, t, r, answer);
    else
        merge_answer(s, t, r, carrier, "action_failed", answer);
    go_on(s, t, r);
}

static void activate(struct shard *s, struct trigger *t, struct record_event *r,
                     const struct cloudevent *event)
{
    atomic_store_explicit(&s->life->trigger, t->identity_hash, memory_order_relaxed);
    crash_on_request(event);
    bool waits = t->waiting && t->waiting->stage != WAITING_IDLE;
    if (!waits && !t->condition->ask) {
        evaluate(s, t, r, event);
        return;
    }
    add_waiting(s, t, event);
    if (!waits)
        ask(s, t, r);
}

/* A write by another trigger's firing (write.h). */
static void apply(struct shard *s, struct trigger *t, struct record_event *r, struct cloudevent *carrier)
{
    const struct cloudevent_span *body = &carrier->attribute[CE_DATA];
    struct json_value write;
    struct json_value again;
    atomic_store_explicit(&s->life->trigger, t->identity_hash, memory_order_relaxed);
    if (json_scan(body->text, body->len, &write, NULL) < 0 || write.type != JSON_OBJECT)
        return; /* the writer's making, and stored by us: cannot be */
    write_show(carrier);
    if (json_member(&write, "answer", &again)) {
        take_answer(s, t, r, carrier, &again);
        return;
    }
    if (json_member(&write, "repeat", &again)) {
        if (t->action->again)
            fire(s, t, r, carrier, &again);
        return;
    }
    if (!t->condition->write)
        return;
    unsigned outcome = t->condition->write(t->state, &write);
    if (outcome & CONDITION_CHANGED)
        mark_changed(s, t);
    crash_point("write_applied");
    if (outcome & CONDITION_HOLDS)
        fire(s, t, r, carrier, NULL);
    if (outcome)
        decide(s, t, carrier, outcome & CONDITION_HOLDS ? DECISION_HOLDS | DECISION_FIRED : 0,
               DECISION_PLAIN);
}

static void process(struct shard *s, struct record_event *r)
{
    struct route_list *lists = record_lists(r);
    bool matched = false;
    s->event_number++;
    atomic_store_explicit(&s->life->event_source, r->source, memory_order_relaxed);
    atomic_store_explicit(&s->life->event_position[0], r->position[0], memory_order_relaxed);
    atomic_store_explicit(&s->life->event_position[1], r->position[1], memory_order_relaxed);
    atomic_store_explicit(&s->life->event_set, 1, memory_order_relaxed);
    cloudevent_unpack(record_packed(r), &s->event);
    for (unsigned i = 0; i < r->n_lists; i++)
        for (size_t j = 0; j < lists[i].n; j++) {
            struct trigger *t = lists[i].triggers[j];
            if (j + PREFETCH < lists[i].n)
                __builtin_prefetch(&lists[i].triggers[j + PREFETCH]->condition, 1);
            if (t->last_event == s->event_number)
                continue;
            t->last_event = s->event_number;
            if (r->is_write) { /* nobody need be there, unless he is named */
                bool gone = atomic_load_explicit(&t->gone, memory_order_relaxed);
                matched |= !gone || !write_is_addressed(&s->event);
                if (!gone)
                    apply(s, t, r, &s->event);
                continue;
            }
            if (atomic_load_explicit(&t->gone, memory_order_relaxed)) {
                decide(s, t, &s->event, 0, DECISION_GONE);
                continue;
            }
            matched = true;
            activate(s, t, r, &s->event);
        }
    if (!matched && r->only)
        dead_letter(s, r, &s->event, "no_trigger", "the trigger was transient and has fired", NULL);
    atomic_store_explicit(&s->life->event_set, 0, memory_order_relaxed);
    arena_add(&s->stats->events, 1);
}

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
    struct shard_cut *cut = current(s);
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
    struct shard_cut *next = current(s); /* its epoch has committed: it is ours again */
    changes_reset(&next->changes);
    next->intents = NULL;
    next->intents_end = &next->intents;
    next->documents = next->fired = 0;
    next->finished = 0;
    next->gone = false;
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
            mark_dirty(shard, trigger);
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
    if (make_intent(s, held->document, held->len, &intent, &err) == 0)
        open_intent(s, intent);
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
            process(s, large);
            free(large);
        } else {
            process(s, record);
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
