#include "worker/source/redis_sink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/epoll.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/crash.h"
#include "worker/executor/executor.h"
#include "worker/executor/intent.h"
#include "worker/report.h"
#include "worker/source/redis_parameters.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define MAX_IN_FLIGHT 256
#define CONNECT_TIMEOUT CLOCK_S /* the executor waits that long at most */
#define RECONNECT_FIRST (100 * CLOCK_MS)
#define RECONNECT_LONGEST (10 * CLOCK_S)

struct redis_sink {
    struct sink base;
    struct executor *executor;
    char *name;
    struct redis_parameters parameters;
    struct redis *redis; /* NULL: not connected */
    struct intent_queue waiting;
    struct intent_queue in_flight; /* answers come in this order */
    unsigned n_in_flight;
    unsigned failures;
    bool backing_off;
    bool flushing;
};

extern const struct source_type source_redis;

static void pump(struct redis_sink *s);

static void reconnect_due(void *data)
{
    struct redis_sink *s = data;
    s->backing_off = false;
    pump(s);
}

/* The connection is lost: what was on its way goes first again, as its outcome is unknown. */
static void lose(struct redis_sink *s, const struct error *err)
{
    if (s->redis)
        loop_remove(executor_loop(s->executor), redis_fd(s->redis));
    redis_free(s->redis);
    s->redis = NULL;
    for (struct intent *i = s->in_flight.head; i; i = i->wait_next)
        i->attempts++;
    intent_queue_put_all_back(&s->waiting, &s->in_flight);
    s->n_in_flight = 0;
    uint64_t delay = RECONNECT_FIRST << (s->failures < 7 ? s->failures : 7);
    if (!s->failures++)
        log_warn("publish", LOG_STR("source", s->name), LOG_STR("error", err->message));
    report_publishing(executor_worker(s->executor)->report, s->name, err->message);
    s->backing_off = true;
    loop_timer_set(executor_loop(s->executor),
                   clock_now_ns() + (delay < RECONNECT_LONGEST ? delay : RECONNECT_LONGEST), reconnect_due, s,
                   NULL);
}

/* --- sending --- */

#define MAX_ARGUMENTS (3 + 2 * (CE_ATTRIBUTES + CLOUDEVENT_MAX_EXTENSIONS))

static int send_event(struct redis_sink *s, const struct cloudevent *event, struct error *err)
{
    const char *argv[MAX_ARGUMENTS] = {"XADD", s->parameters.stream, "*"};
    size_t len[MAX_ARGUMENTS] = {4, strlen(s->parameters.stream), 1};
    int n = 3;
    for (int i = 0; i < CE_ATTRIBUTES; i++) {
        const struct cloudevent_span *a = &event->attribute[i];
        if (!a->text)
            continue;
        argv[n] = i == CE_DATA && event->data == CE_DATA_BASE64
                      ? "data_base64"
                      : cloudevent_attribute_name((enum cloudevent_attribute)i);
        len[n] = strlen(argv[n]);
        argv[n + 1] = a->text;
        len[n + 1] = a->len;
        n += 2;
    }
    for (unsigned i = 0; i < event->n_extensions; i++, n += 2) {
        argv[n] = event->extension[i].name.text;
        len[n] = event->extension[i].name.len;
        argv[n + 1] = event->extension[i].value.text;
        len[n + 1] = event->extension[i].value.len;
    }
    return redis_send(s->redis, n, argv, len, err);
}

/* 0 sent; 1 the intent itself is wrong (reported); -1 the connection is lost. */
static int send_intent(struct redis_sink *s, struct intent *intent, struct error *err)
{
    struct json_value json;
    struct cloudevent event;
    struct error wrong;
    BUFFER_AUTO scratch = BUFFER_INIT;
    if (intent_event(intent, &json, &wrong) == 0) {
        size_t len;
        const char *raw = json_raw(&json, &len);
        if (cloudevent_parse(&event, raw, len, &scratch, &wrong) == 0)
            return send_event(s, &event, err);
    }
    executor_done(s->executor, intent, EXECUTOR_GIVE_UP, &wrong);
    return 1;
}

static void on_events(void *data, uint32_t events);

static int connect_sink(struct redis_sink *s, struct error *err)
{
    struct redis_address address = redis_parameters_address(&s->parameters);
    if (redis_connect(&address, "triggerflow-publisher", CONNECT_TIMEOUT, -1, &s->redis, err) < 0)
        return -1;
    if (loop_add(executor_loop(s->executor), redis_fd(s->redis), EPOLLIN, on_events, s, err) < 0) {
        redis_free(s->redis);
        s->redis = NULL;
        return -1;
    }
    return 0;
}

static int watch_output(struct redis_sink *s, struct error *err)
{
    int r = redis_flush(s->redis, err);
    if (r < 0)
        return -1;
    bool wants_output = r > 0;
    if (wants_output != s->flushing) {
        s->flushing = wants_output;
        return loop_modify(executor_loop(s->executor), redis_fd(s->redis),
                           wants_output ? EPOLLIN | EPOLLOUT : EPOLLIN, err);
    }
    return 0;
}

/* Sends what waits, as far as the limits allow. */
static void pump(struct redis_sink *s)
{
    struct error err;
    if (s->backing_off || !s->waiting.head)
        return;
    if (!s->redis && !executor_is_here(s->executor)) {
        loop_timer_set(executor_loop(s->executor), 0, reconnect_due, s, NULL);
        return;
    }
    if (!s->redis && connect_sink(s, &err) < 0) {
        lose(s, &err);
        return;
    }
    while (s->waiting.head && s->n_in_flight < MAX_IN_FLIGHT) {
        struct intent *intent = intent_queue_take(&s->waiting);
        int r = send_intent(s, intent, &err);
        if (r > 0)
            continue;
        intent_queue_append(&s->in_flight, intent);
        s->n_in_flight++;
        if (r < 0) {
            lose(s, &err);
            return;
        }
    }
    if (watch_output(s, &err) < 0)
        lose(s, &err);
    crash_point("published");
}

/* --- answers --- */

static void finish(struct redis_sink *s, struct intent *intent, const redisReply *reply)
{
    struct error err;
    unsigned long long ms;
    unsigned long long seq;
    if (reply->type == REDIS_REPLY_ERROR) {
        redis_reply_error(reply->str, (size_t)reply->len, &err);
        error_prefix(&err, "event source %s", s->name);
        executor_done(s->executor, intent, err.code == ERROR_UNAVAILABLE ? EXECUTOR_RETRY : EXECUTOR_GIVE_UP,
                      &err);
        return;
    }
    if (reply->type != REDIS_REPLY_STRING || sscanf(reply->str, "%llu-%llu", &ms, &seq) != 2) {
        error_set(&err, ERROR_INVALID, "event source %s answered XADD with something else", s->name);
        executor_done(s->executor, intent, EXECUTOR_GIVE_UP, &err);
        return;
    }
    intent->final_position[0] = ms;
    intent->final_position[1] = seq;
    executor_done(s->executor, intent, EXECUTOR_DONE, NULL);
}

static void on_events(void *data, uint32_t events)
{
    struct redis_sink *s = data;
    struct error err;
    void *reply;
    int r = 0;
    (void)events;
    while ((r = redis_receive(s->redis, &reply, &err)) == 0) {
        struct intent *intent = intent_queue_take(&s->in_flight);
        if (!intent) {
            freeReplyObject(reply);
            error_set(&err, ERROR_UNAVAILABLE, "event source %s: an answer too many", s->name);
            r = -1;
            break;
        }
        s->n_in_flight--;
        if (s->failures)
            report_publishing(executor_worker(s->executor)->report, s->name, NULL);
        s->failures = 0;
        finish(s, intent, reply);
        freeReplyObject(reply);
    }
    if (r < 0 || (s->redis && watch_output(s, &err) < 0)) {
        lose(s, &err);
        return;
    }
    pump(s);
}

/* --- the sink --- */

int redis_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                    struct sink **ret_sink, struct error *err)
{
    struct redis_sink *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    s->base.type = &source_redis;
    s->executor = executor;
    s->name = strdup(name);
    intent_queue_init(&s->waiting);
    intent_queue_init(&s->in_flight);
    if (!s->name || redis_parameters_read(parameters, &s->parameters, err) < 0) {
        free(s->name);
        free(s);
        return -1;
    }
    *ret_sink = &s->base;
    return 0;
}

void redis_sink_publish(struct sink *sink, struct intent *intent)
{
    struct redis_sink *s = (struct redis_sink *)sink;
    intent_queue_append(&s->waiting, intent);
    pump(s);
}

void redis_sink_close(struct sink *sink)
{
    struct redis_sink *s = (struct redis_sink *)sink;
    struct error err;
    struct intent *intent;
    loop_timer_cancel(executor_loop(s->executor), reconnect_due, s);
    if (s->redis)
        loop_remove(executor_loop(s->executor), redis_fd(s->redis));
    redis_free(s->redis);
    error_set(&err, ERROR_UNAVAILABLE, "event source %s was changed or removed", s->name);
    while ((intent = intent_queue_take(&s->in_flight)) || (intent = intent_queue_take(&s->waiting)))
        executor_done(s->executor, intent, EXECUTOR_RETRY, &err);
    redis_parameters_done(&s->parameters);
    free(s->name);
    free(s);
}
