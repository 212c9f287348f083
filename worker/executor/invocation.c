#include "worker/executor/invocation.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/loop.h"
#include "worker/executor/executor.h"
#include "worker/executor/http_call.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation_report.h"
#include "worker/worker.h"

#define CONNECT_TIMEOUT (10 * CLOCK_S)
#define LOOK_EVERY CLOCK_MS /* at queues that a rate holds up, at most */
#define CALLS_A_ROUND 8     /* begun between two looks at what else there is to do */

struct invocations {
    struct executor *executor;
    struct http_calls *calls;
    struct queues *queues;
    struct invocation *all;
    unsigned left;    /* of this round's calls */
    uint64_t look_ns; /* when the timer is due that looks at the queues again; 0: none is set */
    bool going_on;    /* somebody is at it, further up the stack */
};

static struct invocation *of_ticket(struct queues_ticket *ticket)
{
    return (struct invocation *)(void *)((char *)ticket - offsetof(struct invocation, ticket));
}

static struct invocations *of(const struct invocation *i)
{
    return executor_invocations(i->executor, NULL);
}

/* --- the end --- */

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
    if (i->ticket.queue)
        queues_leave(all->queues, &i->ticket);
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

static void go_on(struct invocations *all);

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
    i->intent->begun = true;
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

void invocations_each(struct invocations *invocations, void (*see)(void *data, struct intent *intent),
                      void *data)
{
    for (struct invocation *i = invocations->all; i; i = i->after)
        see(data, i->intent);
}

static void look_again(void *data)
{
    struct invocations *all = data;
    all->look_ns = 0;
    go_on(all);
}

static void look_at(struct invocations *all, uint64_t due)
{
    uint64_t earliest = clock_now_ns() + LOOK_EVERY;
    uint64_t at = due > earliest ? due : earliest;
    if (due == UINT64_MAX || (all->look_ns && all->look_ns <= at))
        return;
    all->look_ns = at;
    if (loop_timer_set(executor_loop(all->executor), at, look_again, all, NULL) < 0)
        abort(); /* what waits would do so until the next start */
}

/* Who may begin does, as far as this round allows; one level deep, whatever ends meanwhile. */
static void go_on(struct invocations *all)
{
    struct queues_ticket *ticket;
    uint64_t due = UINT64_MAX;
    if (all->going_on || executor_draining(all->executor))
        return;
    all->going_on = true;
    while (all->left && (ticket = queues_next(all->queues, clock_now_ns(), &due))) {
        all->left--;
        executor_park(all->executor, -1);
        call(of_ticket(ticket));
    }
    all->going_on = false;
    look_at(all, due);
    if (!all->left && queues_waiting(all->queues) && !executor_is_here(all->executor))
        loop_wake(executor_loop(all->executor));
}

bool invocations_go_on(struct invocations *invocations)
{
    invocations->left = CALLS_A_ROUND;
    go_on(invocations);
    return !invocations->left && queues_waiting(invocations->queues) &&
           !executor_draining(invocations->executor);
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

static int join(struct invocations *all, struct invocation *i, struct error *err)
{
    const struct config *config = executor_worker(i->executor)->config;
    struct queues_limit of_trigger = {i->policy.max_in_flight, i->policy.rate};
    struct queues_limit of_host = {(unsigned)config->max_in_flight_per_host, (double)config->rate_per_host};
    struct json_value value;
    BUFFER_AUTO trigger = BUFFER_INIT;
    BUFFER_AUTO host = BUFFER_INIT;
    if (find_host(i, &host, err) < 0)
        return -1;
    if (intent_trigger(i->intent, &value))
        json_unescape(&value, &trigger);
    if (host.failed || trigger.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (i->type->host_limit)
        of_host = (struct queues_limit){(unsigned)i->type->host_limit(config), 0};
    struct queues_name trigger_name = {buffer_text(&trigger), trigger.len};
    struct queues_name host_name = {buffer_text(&host), host.len};
    return queues_join(all->queues, &i->ticket, &trigger_name, &of_trigger, &host_name, &of_host, err);
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
    if (join(all, i, &err) < 0) {
        end(i, err.code == ERROR_MEMORY ? INVOCATION_RETRY : INVOCATION_FAILED, NULL, &err);
        return;
    }
    executor_park(executor, 1);
    go_on(all);
}

/* --- life --- */

int invocations_new(struct executor *executor, struct invocations **ret_invocations, struct error *err)
{
    const struct config *config = executor_worker(executor)->config;
    struct queues_limit of_worker = {(unsigned)config->max_in_flight, (double)config->rate};
    struct invocations *all = calloc(1, sizeof *all);
    if (!all || !(all->queues = queues_new(&of_worker))) {
        free(all);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (http_calls_new(executor_loop(executor), config->invoke_public_only, config->invoke_tls_ca,
                       &all->calls, err) < 0) {
        queues_free(all->queues);
        free(all);
        return -1;
    }
    all->executor = executor;
    all->left = CALLS_A_ROUND;
    *ret_invocations = all;
    return 0;
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
    queues_free(invocations->queues);
    free(invocations);
}

size_t invocations_under_way(const struct invocations *invocations)
{
    return http_calls_under_way(invocations->calls);
}
