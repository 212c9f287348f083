/* Evaluation: what an event, a write or an answer does to a trigger, and what comes of it when it fires.
 * Thread: the shard's, or one that stands in for it. Requires: run. */
#include "worker/shard/shard_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/config.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/checkpoint/timers.h"
#include "worker/crash.h"
#include "worker/deadletter.h"
#include "worker/executor/executor.h"
#include "worker/shard/firing.h"
#include "worker/globals.h"
#include "worker/router.h"
#include "worker/executor/intent.h"
#include "worker/shard/keys.h"
#include "worker/source/internal.h"
#include "worker/shard/trigger.h"
#include "worker/shard/waiting.h"
#include "worker/worker.h"
#include "worker/shard/write.h"

#define PREFETCH 4              /* triggers ahead, when one event has many */
#define ASK_ELEMENT 0x80000000u /* in keys: no firing has so many elements */
#define CONTEXT_MAX (16u << 20) /* bytes, of what is merged from outside */

struct shard_firing {
    struct firing firing;
    struct shard *shard;
};

/* --- what a firing action may do --- */

static struct shard *shard_of(struct firing *firing)
{
    return ((struct shard_firing *)(void *)firing)->shard;
}

static int emit(struct firing *firing, const struct cloudevent *event, struct error *err)
{
    struct shard *s = shard_of(firing);
    const struct cloudevent_span *data = &event->attribute[CE_DATA];
    const struct json_value value = {.text = data->text, .len = data->len, .type = JSON_OBJECT};
    if (event->data == CE_DATA_JSON && json_is_deeper(&value, JSON_DATA_DEPTH))
        return error_set(err, ERROR_LIMIT, "the event's data are nested deeper than %d", JSON_DATA_DEPTH);
    return internal_emit(s->worker->internal, event, s->epoch, err);
}

static int write_context(struct firing *firing, const struct cloudevent *carrier, struct error *err)
{
    struct shard *s = shard_of(firing);
    return internal_write(s->worker->internal, carrier, s->epoch, err);
}

/* Into the present epoch. Takes the intent. One with elements always waits for its commit (they are started
 * from the outbox), as does one whose action says so. */
void shard_open_intent(struct shard *s, struct intent *intent)
{
    struct shard_cut *cut = shard_current_cut(s);
    bool immediate = s->worker->config->action_start == CONFIG_ACTION_IMMEDIATE && !intent->fans_out &&
                     !(intent->action->after_commit && intent->action->after_commit(intent, s->worker));
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

int shard_make_intent(const struct shard *s, const char *document, size_t len, struct intent **ret_intent,
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
    if (shard_make_intent(s, document.data, document.len, &intent, err) < 0)
        return -1;
    shard_open_intent(s, intent);
    return 0;
}

static void finish(struct firing *firing)
{
    struct shard *s = shard_of(firing);
    struct shard_cut *cut = shard_current_cut(s);
    cut->finished++;
    snprintf(cut->finished_trigger, sizeof cut->finished_trigger, "%s", firing->trigger->id);
    for (size_t len = strlen(cut->finished_trigger); !utf8_valid(cut->finished_trigger, len);)
        cut->finished_trigger[--len] = '\0'; /* cut inside a character */
    checkpoint_intent_waits(s->worker->checkpoint);
}

/* The router in force may be replaced meanwhile, but is freed only after a barrier, which this shard comes to
 * after the event in hand. */
static unsigned takes(struct firing *firing, const struct cloudevent *event)
{
    const struct route *routes[ROUTE_MAX_LISTS];
    const struct worker *w = shard_of(firing)->worker;
    unsigned n = router_match(atomic_load_explicit(&w->router, memory_order_acquire), event, routes);
    return n ? 1 + route_catches(routes, n) : 0;
}

/* The checkpoint takes it up when it has committed. */
static int set_timer(struct firing *firing, uint64_t at, const struct cloudevent *event, struct error *err)
{
    struct shard *s = shard_of(firing);
    const struct cloudevent_span *id = &event->attribute[CE_ID];
    BUFFER_AUTO document = BUFFER_INIT;
    timer_write(at, event, &document);
    if (document.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    changes_put(&shard_current_cut(s)->changes, STORAGE_TIMERS, id->text, id->len, document.data,
                document.len);
    shard_current_cut(s)->timers = true;
    return 0;
}

static const struct firing_type into_epoch = {.emit = emit,
                                              .write = write_context,
                                              .intend = intend,
                                              .finish = finish,
                                              .takes = takes,
                                              .timer = set_timer};

/* --- events --- */

void shard_mark_dirty(struct shard *s, struct trigger *t)
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
    shard_mark_dirty(s, t);
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
        shard_current_cut(s)->changes.text.failed |= write.failed;
    }
    dead_letter_add(&letter, &shard_current_cut(s)->changes);
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
    shard_mark_dirty(s, t);
    crash_point("fire");
    int done = again ? t->action->again(t->action_state, &firing.firing, again, &err)
                     : t->action->fire(t->action_state, &firing.firing, &err);
    if (done < 0)
        dead_letter(s, r, event, "action_failed", err.message, t);
    else if (firing.firing.awaited[0])
        await_answer(s, t, WAITING_ACTION, firing.firing.awaited);
    shard_current_cut(s)->fired++;
    arena_add(&s->stats->fired, 1);
    if (t->transient) {
        atomic_store_explicit(&t->gone, true, memory_order_relaxed);
        shard_current_cut(s)->gone = true;
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

/* Whether somebody takes it from here. */
static bool tell_refused(struct shard *s, struct trigger *t, const struct cloudevent *event)
{
    if (!t->condition->refused)
        return false;
    struct shard_firing firing = make_firing(s, t, event, t->firings);
    return t->condition->refused(t->state, &firing.firing) > 0;
}

static void refuse(struct shard *s, struct trigger *t, struct record_event *r, const struct cloudevent *event)
{
    const struct condition_type *c = t->condition;
    dead_letter(s, r, event, "condition_failed", c->why_refused ? c->why_refused(t->state) : c->refusal, t);
}

static void evaluate(struct shard *s, struct trigger *t, struct record_event *r,
                     const struct cloudevent *event)
{
    bool has_key = event->attribute[CE_KEY].len && t->condition->counts_keys;
    bool failed = false;
    if (has_key) {
        shard_mark_dirty(s, t);
        if (is_repeat(t, event)) {
            decide(s, t, event, 0, DECISION_REPEAT);
            return;
        }
    }
    unsigned outcome = t->condition->evaluate(t->state, event);
    bool refused = (outcome & CONDITION_REFUSES) && !tell_refused(s, t, event);
    if (refused)
        refuse(s, t, r, event);
    if (outcome & CONDITION_CHANGED)
        mark_changed(s, t);
    bool holds = outcome & CONDITION_HOLDS;
    if (holds)
        failed = !fire(s, t, r, event, NULL) && t->condition->forgets_failures;
    if (has_key && (failed || refused))
        keys_take_back(t->keys);
    decide(s, t, event, holds ? DECISION_HOLDS | DECISION_FIRED : 0, DECISION_PLAIN);
    arena_add(&s->stats->evaluated, 1);
}

/* --- what is evaluated outside (waiting.h) --- */

static void add_waiting(struct shard *s, struct trigger *t, const struct cloudevent *event)
{
    if (waiting_add(waiting_of(s, t), event, NULL) < 0)
        abort(); /* it would be lost: start again from the last checkpoint */
    shard_mark_dirty(s, t);
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
    shard_mark_dirty(s, t);
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
        shard_mark_dirty(s, t);
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
        shard_mark_dirty(s, t);
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
    shard_mark_dirty(s, t);
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
    if (json_member(&write, "final", &again) && t->condition->counts_keys &&
        keys_add(&t->keys, again.text, again.len) < 0)
        abort(); /* what comes late would be counted: start again from the last checkpoint */
    if (again.type != JSON_ABSENT)
        shard_mark_dirty(s, t);
    unsigned outcome = t->condition->write(t->state, &write);
    if (outcome & CONDITION_REFUSES)
        refuse(s, t, r, carrier);
    if (outcome & CONDITION_CHANGED)
        mark_changed(s, t);
    crash_point("write_applied");
    if (outcome & CONDITION_HOLDS)
        fire(s, t, r, carrier, NULL);
    if (outcome)
        decide(s, t, carrier, outcome & CONDITION_HOLDS ? DECISION_HOLDS | DECISION_FIRED : 0,
               DECISION_PLAIN);
}

void shard_process(struct shard *s, struct record_event *r)
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
