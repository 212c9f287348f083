#include "worker/executor/invocation.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/loop.h"
#include "worker/executor/executor.h"
#include "worker/executor/http_call.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation_report.h"
#include "worker/worker.h"

#define CONNECT_TIMEOUT (10 * CLOCK_S)
#define SWEEP_AT 1024       /* gates, above which idle ones are looked for when one is added */
#define LOOK_EVERY CLOCK_MS /* at gates whose rate is in the way, at most */
#define CALLS_A_ROUND 8     /* begun between two looks at what else there is to do */

enum { GATE_TRIGGER, GATE_HOST, GATE_WORKER, GATES };

/* A gate with the name it goes by; in `limited` while its rate is in the way. That of a trigger also has the
 * trigger's invocations that have entered a gate and are to go on, and is in `ready` while there are any. */
struct invocation_gate {
    struct gate gate;
    struct gate_ticket *ready;
    struct gate_ticket **ready_end;
    struct invocation_gate *next_ready;
    struct invocation_gate *next_limited;
    bool limited;
    size_t users;             /* invocations that have a pointer to it */
    struct hash_table *table; /* NULL: the worker's */
    size_t len;
    char name[];
};

struct invocations {
    struct executor *executor;
    struct http_calls *calls;
    struct hash_table triggers; /* id -> struct invocation_gate */
    struct hash_table hosts;    /* origin -> struct invocation_gate */
    size_t sweep_at;
    struct invocation_gate worker;
    struct invocation_gate *limited;
    struct invocation *all;
    struct invocation_gate *ready; /* triggers take turns */
    struct invocation_gate **ready_end;
    unsigned left; /* of this round's calls */
    bool going_on; /* somebody is at it, further up the stack */
};

static struct invocation *of_ticket(struct gate_ticket *ticket)
{
    return (struct invocation *)(void *)((char *)ticket - offsetof(struct invocation, ticket));
}

static struct invocations *of(const struct invocation *i)
{
    return executor_invocations(i->executor, NULL);
}

/* --- gates --- */

static void sweep(struct hash_table *table, uint64_t now)
{
    struct invocation_gate *idle[64];
    size_t n = 0;
    size_t cursor = 0;
    for (struct hash_entry *e; n < 64 && (e = hash_next(table, &cursor));) {
        struct invocation_gate *g = e->value;
        if (!g->users && !g->limited && gate_idle(&g->gate, now))
            idle[n++] = g;
    }
    for (size_t i = 0; i < n; i++) {
        hash_remove(table, idle[i]->name, idle[i]->len);
        free(idle[i]);
    }
}

static struct invocation_gate *gate_of(struct hash_table *table, const char *name, size_t len)
{
    struct invocation_gate *g = hash_get(table, name, len);
    if (g) {
        g->users++;
        return g;
    }
    if (table->count >= SWEEP_AT)
        sweep(table, clock_now_ns());
    if (!(g = calloc(1, sizeof *g + len + 1)))
        return NULL;
    memcpy(g->name, name, len);
    g->len = len;
    g->table = table;
    g->users = 1;
    gate_init(&g->gate);
    if (hash_put(table, g->name, len, g, NULL) < 0) {
        free(g);
        return NULL;
    }
    return g;
}

/* Nobody points to it any more: one without a rate holds nothing to remember. It may have had one until a
 * moment ago, when its trigger was replaced: then it is still looked at. */
static void gate_unref(struct invocation_gate *g)
{
    if (--g->users || !g->table || g->gate.period_ns || g->limited)
        return;
    hash_remove(g->table, g->name, g->len);
    free(g);
}

static void look_again(void *data);

static void watch_rate(struct invocations *all, struct invocation_gate *g)
{
    if (g->limited || gate_due(&g->gate) == UINT64_MAX)
        return;
    g->limited = true;
    g->next_limited = all->limited;
    all->limited = g;
    loop_timer_set(executor_loop(all->executor), clock_now_ns() + LOOK_EVERY, look_again, all, NULL);
}

static void make_ready(struct invocations *all, struct invocation *i)
{
    struct invocation_gate *trigger = i->gates[GATE_TRIGGER];
    if (!trigger->ready) {
        trigger->ready_end = &trigger->ready;
        trigger->next_ready = NULL;
        *all->ready_end = trigger;
        all->ready_end = &trigger->next_ready;
    }
    i->ticket.next = NULL;
    *trigger->ready_end = &i->ticket;
    trigger->ready_end = &i->ticket.next;
}

/* The next of the trigger whose turn it is, which comes last then. There must be one. */
static struct invocation *take_ready(struct invocations *all)
{
    struct invocation_gate *trigger = all->ready;
    struct invocation *i = of_ticket(trigger->ready);
    all->ready = trigger->next_ready;
    if (!all->ready)
        all->ready_end = &all->ready;
    trigger->ready = i->ticket.next;
    if (trigger->ready) {
        trigger->next_ready = NULL;
        *all->ready_end = trigger;
        all->ready_end = &trigger->next_ready;
    }
    return i;
}

/* Lets in whom the gate has room for. */
static void open_gate(struct invocations *all, struct invocation_gate *g, uint64_t now)
{
    struct gate_ticket *ticket;
    while ((ticket = gate_next(&g->gate, now))) {
        struct invocation *i = of_ticket(ticket);
        i->stage++;
        make_ready(all, i);
    }
    watch_rate(all, g);
}

static void go_on(struct invocations *all);

static void look_again(void *data)
{
    struct invocations *all = data;
    struct invocation_gate *list = all->limited;
    uint64_t now = clock_now_ns();
    uint64_t next = UINT64_MAX;
    all->limited = NULL;
    while (list) {
        struct invocation_gate *g = list;
        list = g->next_limited;
        g->limited = false;
        open_gate(all, g, now);
        uint64_t due = gate_due(&g->gate);
        next = due < next ? due : next;
    }
    if (next != UINT64_MAX)
        loop_timer_set(executor_loop(all->executor), next > now + LOOK_EVERY ? next : now + LOOK_EVERY,
                       look_again, all, NULL);
    go_on(all);
}

/* --- the end --- */

static void leave_gates(struct invocations *all, struct invocation *i)
{
    uint64_t now = clock_now_ns();
    for (unsigned g = 0; g < GATES; g++) {
        if (!i->gates[g])
            continue;
        if (g < i->stage) {
            gate_leave(&i->gates[g]->gate);
            open_gate(all, i->gates[g], now);
        }
        gate_unref(i->gates[g]);
    }
}

static void unlink_invocation(struct invocations *all, struct invocation *i)
{
    if (i->before)
        i->before->after = i->after;
    else
        all->all = i->after;
    if (i->after)
        i->after->before = i->before;
}

static void invocation_free(struct invocation *i)
{
    free(i);
}

/* Ends an attempt: what comes of it, and why (NULL when done). */
static void end(struct invocation *i, enum invocation_verdict verdict, const struct http_answer *answer,
                const struct error *why)
{
    struct invocations *all = of(i);
    struct executor *x = i->executor;
    struct intent *intent = i->intent;
    struct error err;
    if (verdict == INVOCATION_DONE && invocation_report_done(i, answer, &err) < 0) {
        verdict = err.code == ERROR_MEMORY ? INVOCATION_RETRY : INVOCATION_FAILED;
        why = &err;
    }
    if (verdict == INVOCATION_RETRY && intent->attempts > i->policy.max_retries)
        verdict = INVOCATION_FAILED;
    if (verdict == INVOCATION_FAILED)
        invocation_report_failed(i, answer, why);
    uint64_t after = answer ? answer->retry_after_ns : 0;
    if (after > INVOCATION_RETRY_AFTER_MAX_S * CLOCK_S)
        after = INVOCATION_RETRY_AFTER_MAX_S * CLOCK_S;
    uint64_t delay = invocation_policy_delay(&i->policy, intent->attempts, after, executor_random(x));
    unlink_invocation(all, i);
    leave_gates(all, i);
    invocation_free(i);
    if (verdict == INVOCATION_RETRY)
        executor_retry(x, intent, delay, why);
    else
        executor_done(x, intent, verdict == INVOCATION_DONE ? EXECUTOR_DONE : EXECUTOR_GIVE_UP, why);
}

enum invocation_verdict invocation_judge(const struct invocation *invocation,
                                         const struct http_answer *answer, struct error *err)
{
    unsigned status = answer->status;
    const struct error *why = answer->error;
    bool enough =
        answer->complete || (why->code == ERROR_LIMIT && !invocation->type->whole_answer && answer->len);
    if (!status) {
        *err = *why;
        return why->code == ERROR_INVALID ? INVOCATION_FAILED : INVOCATION_RETRY;
    }
    if (status >= 200 && status < 300) {
        if (enough)
            return INVOCATION_DONE;
        *err = *why;
        error_prefix(err, "answered %u", status);
        return why->code == ERROR_LIMIT ? INVOCATION_FAILED : INVOCATION_RETRY;
    }
    error_set(err, ERROR_REFUSED, "answered %u", status);
    bool final = status >= 400 && status < 500 && status != 408 && status != 409 && status != 429;
    return final ? INVOCATION_FAILED : INVOCATION_RETRY;
}

static void on_answer(void *data, const struct http_answer *answer)
{
    struct invocation *i = data;
    struct invocations *all = of(i);
    struct error err = {.code = ERROR_NONE};
    i->call = NULL;
    enum invocation_verdict verdict =
        i->type->judge ? i->type->judge(i, answer, &err) : invocation_judge(i, answer, &err);
    end(i, verdict, answer, verdict == INVOCATION_DONE ? NULL : &err);
    go_on(all);
}

void invocation_end(struct invocation *invocation, enum invocation_verdict verdict, const struct error *why)
{
    struct invocations *all = of(invocation);
    end(invocation, verdict, NULL, why);
    go_on(all);
}

/* --- the call --- */

static int make_request(const struct invocation *i, struct http_call_request *request, struct error *err)
{
    const struct config *config = executor_worker(i->executor)->config;
    request->connect_timeout_ns =
        i->policy.timeout_ns < CONNECT_TIMEOUT ? i->policy.timeout_ns : CONNECT_TIMEOUT;
    request->timeout_ns = i->policy.timeout_ns;
    request->answer_max = i->type->answer_max ? i->type->answer_max : (size_t)config->max_answer_bytes;
    if (i->type->request(i, request, err) < 0)
        return -1;
    if (!http_call_has_header(request, "Idempotency-Key") &&
        http_call_header(request, "Idempotency-Key", i->intent->key, err) < 0)
        return -1;
    if (request->url.failed || request->body.failed || request->unix_socket.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return 0;
}

static void call(struct invocation *i)
{
    struct invocations *all = of(i);
    struct http_call_request request;
    struct error err;
    int r;
    if (i->type->run) {
        r = i->type->run(i, &err);
    } else {
        http_call_request_init(&request);
        r = make_request(i, &request, &err);
        if (r == 0)
            r = http_call_start(all->calls, &request, on_answer, i, &i->call, &err);
        http_call_request_done(&request);
    }
    if (r < 0)
        end(i, err.code == ERROR_INVALID || err.code == ERROR_REFUSED ? INVOCATION_FAILED : INVOCATION_RETRY,
            NULL, &err);
}

/* Passes gates until one of them makes it wait. */
static void advance(struct invocations *all, struct invocation *i)
{
    uint64_t now = clock_now_ns();
    while (i->stage < GATES) {
        struct invocation_gate *g = i->gates[i->stage];
        if (!gate_enter(&g->gate, &i->ticket, now)) {
            watch_rate(all, g);
            return;
        }
        i->stage++;
    }
    executor_park(i->executor, -1);
    call(i);
}

/* What has become ready goes on, as far as this round allows; one level deep, however long the list grows
 * meanwhile. */
static void go_on(struct invocations *all)
{
    if (all->going_on || executor_draining(all->executor))
        return;
    all->going_on = true;
    for (; all->ready && all->left; all->left--)
        advance(all, take_ready(all));
    all->going_on = false;
    if (all->ready && !executor_is_here(all->executor))
        loop_wake(executor_loop(all->executor));
}

bool invocations_go_on(struct invocations *invocations)
{
    invocations->left = CALLS_A_ROUND;
    go_on(invocations);
    return invocations->ready && !executor_draining(invocations->executor);
}

/* --- the start --- */

static int find_host(const struct invocation *i, struct buffer *out, struct error *err)
{
    struct json_value url;
    BUFFER_AUTO text = BUFFER_INIT;
    if (i->type->host)
        return i->type->host(i, out, err);
    if (!json_member(&i->body, "url", &url) || url.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no url");
    json_unescape(&url, &text);
    return http_call_origin(buffer_text(&text), out, err);
}

static int find_gates(struct invocations *all, struct invocation *i, struct error *err)
{
    const struct config *config = executor_worker(i->executor)->config;
    struct json_value trigger;
    BUFFER_AUTO name = BUFFER_INIT;
    BUFFER_AUTO host = BUFFER_INIT;
    if (find_host(i, &host, err) < 0)
        return -1;
    if (intent_trigger(i->intent, &trigger))
        json_unescape(&trigger, &name);
    i->gates[GATE_WORKER] = &all->worker;
    all->worker.users++;
    i->gates[GATE_TRIGGER] = gate_of(&all->triggers, buffer_text(&name), name.len);
    i->gates[GATE_HOST] = gate_of(&all->hosts, buffer_text(&host), host.len);
    if (!i->gates[GATE_TRIGGER] || !i->gates[GATE_HOST] || host.failed || name.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    gate_limit(&i->gates[GATE_TRIGGER]->gate, i->policy.max_in_flight, i->policy.rate);
    if (i->type->host_limit)
        gate_limit(&i->gates[GATE_HOST]->gate, (unsigned)i->type->host_limit(config), 0);
    else
        gate_limit(&i->gates[GATE_HOST]->gate, (unsigned)config->max_in_flight_per_host,
                   (double)config->rate_per_host);
    return 0;
}

static bool is_uncertain(const struct invocation *i)
{
    return i->intent->uncertain && i->intent->attempts == 1 && i->policy.give_up_uncertain;
}

void invocation_start(struct executor *executor, struct intent *intent, const struct invocation_type *type)
{
    struct error err;
    struct invocations *all = executor_invocations(executor, &err);
    struct invocation *i = all ? calloc(1, sizeof *i) : NULL;
    if (!i) {
        if (all)
            error_set(&err, ERROR_MEMORY, "out of memory");
        executor_done(executor, intent, EXECUTOR_RETRY, &err);
        return;
    }
    *i = (struct invocation){.executor = executor, .intent = intent, .type = type, .after = all->all};
    if (i->after)
        i->after->before = i;
    all->all = i;
    if (!intent_body(intent, &i->body)) {
        error_set(&err, ERROR_INVALID, "the stored intent has no body");
        end(i, INVOCATION_FAILED, NULL, &err);
        return;
    }
    invocation_policy_of(&i->body, &i->policy);
    if (is_uncertain(i)) {
        error_set(&err, ERROR_UNAVAILABLE, "uncertain: the worker died after it may have been started");
        end(i, INVOCATION_FAILED, NULL, &err);
        return;
    }
    if (find_gates(all, i, &err) < 0) {
        end(i, err.code == ERROR_MEMORY ? INVOCATION_RETRY : INVOCATION_FAILED, NULL, &err);
        return;
    }
    executor_park(executor, 1);
    make_ready(all, i);
    go_on(all);
}

/* --- life --- */

int invocations_new(struct executor *executor, struct invocations **ret_invocations, struct error *err)
{
    const struct config *config = executor_worker(executor)->config;
    struct invocations *all = calloc(1, sizeof *all);
    if (!all)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (http_calls_new(executor_loop(executor), config->invoke_public_only, config->invoke_tls_ca,
                       &all->calls, err) < 0) {
        free(all);
        return -1;
    }
    all->executor = executor;
    all->ready_end = &all->ready;
    all->left = CALLS_A_ROUND;
    hash_init(&all->triggers);
    hash_init(&all->hosts);
    gate_init(&all->worker.gate);
    gate_limit(&all->worker.gate, (unsigned)config->max_in_flight, (double)config->rate);
    *ret_invocations = all;
    return 0;
}

static void free_gates(struct hash_table *table)
{
    size_t cursor = 0;
    for (struct hash_entry *e; (e = hash_next(table, &cursor));)
        free(e->value);
    hash_done(table);
}

void invocations_free(struct invocations *invocations)
{
    if (!invocations)
        return;
    while (invocations->all) {
        struct invocation *i = invocations->all;
        invocations->all = i->after;
        if (i->call)
            http_call_cancel(i->call);
        if (i->work)
            i->type->cancel(i);
        intent_free(i->intent);
        invocation_free(i);
    }
    http_calls_free(invocations->calls);
    loop_timer_cancel(executor_loop(invocations->executor), look_again, invocations);
    free_gates(&invocations->triggers);
    free_gates(&invocations->hosts);
    free(invocations);
}

size_t invocations_under_way(const struct invocations *invocations)
{
    return http_calls_under_way(invocations->calls);
}
