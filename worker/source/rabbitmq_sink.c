/* Invariant: published and not confirmed are the tags [oldest, next), each in the slot of its number modulo
 * MAX_IN_FLIGHT; a slot is NULL when its tag was confirmed before older ones. */
#include "worker/source/rabbitmq_sink.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/stream.h"
#include "worker/crash.h"
#include "worker/executor/executor.h"
#include "worker/executor/intent.h"
#include "worker/report.h"
#include "worker/source/rabbitmq_connection.h"
#include "worker/source/rabbitmq_parameters.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define MAX_IN_FLIGHT 256
#define MAX_BODY (64u * 1024)         /* of what comes back; only its properties are looked at */
#define CONNECT_TIMEOUT (2 * CLOCK_S) /* the executor waits that long at most */
#define RECONNECT_FIRST (100 * CLOCK_MS)
#define RECONNECT_LONGEST (10 * CLOCK_S)

struct slot {
    struct intent *intent;
    bool returned; /* there is no such queue */
};

struct rabbitmq_sink {
    struct sink base;
    struct executor *executor;
    char *name;
    struct rabbitmq_parameters parameters;
    struct rabbitmq *rabbitmq; /* NULL: not connected */
    struct intent_queue waiting;
    struct slot slots[MAX_IN_FLIGHT];
    uint64_t oldest; /* delivery tags: the first publication on a channel has 1 */
    uint64_t next;
    unsigned failures;
    bool backing_off;
    bool wants_output;
};

extern const struct source_type source_rabbitmq;

static struct loop *loop_of(const struct rabbitmq_sink *s)
{
    return executor_loop(s->executor);
}

static struct slot *slot_of(struct rabbitmq_sink *s, uint64_t tag)
{
    return &s->slots[tag % MAX_IN_FLIGHT];
}

static void pump(void *data);
static void beat(void *data);
static void on_events(void *data, uint32_t events);

static void disconnect(struct rabbitmq_sink *s)
{
    loop_timer_cancel(loop_of(s), beat, s);
    if (s->rabbitmq)
        loop_remove(loop_of(s), rabbitmq_fd(s->rabbitmq));
    rabbitmq_free(s->rabbitmq);
    s->rabbitmq = NULL;
    s->wants_output = false;
}

static void reconnect_due(void *data)
{
    struct rabbitmq_sink *s = data;
    s->backing_off = false;
    pump(s);
}

/* The connection is lost: what was on its way goes first again, as its outcome is unknown. */
static void lose(struct rabbitmq_sink *s, const struct error *err)
{
    disconnect(s);
    while (s->next > s->oldest) {
        struct slot *slot = slot_of(s, --s->next);
        if (!slot->intent)
            continue;
        slot->intent->attempts++;
        intent_queue_put_back(&s->waiting, slot->intent);
        slot->intent = NULL;
    }
    uint64_t delay = RECONNECT_FIRST << (s->failures < 7 ? s->failures : 7);
    if (!s->failures++)
        log_warn("publish", LOG_STR("source", s->name), LOG_STR("error", err->message));
    report_publishing(executor_worker(s->executor)->report, s->name, err->message);
    s->backing_off = true;
    loop_timer_set(loop_of(s), clock_now_ns() + (delay < RECONNECT_LONGEST ? delay : RECONNECT_LONGEST),
                   reconnect_due, s, NULL);
}

/* --- connecting --- */

static void beat(void *data)
{
    struct rabbitmq_sink *s = data;
    uint64_t next;
    struct error err;
    if (rabbitmq_beat(s->rabbitmq, clock_now_ns(), &next, &err) < 0) {
        lose(s, &err);
        return;
    }
    if (next != UINT64_MAX)
        loop_timer_set(loop_of(s), next, beat, s, NULL);
    on_events(s, 0); /* a peer that gives no sign of life is found by reading */
}

static int connect_sink(struct rabbitmq_sink *s, struct error *err)
{
    struct stream_wait wait = stream_wait_for(CONNECT_TIMEOUT, -1, NULL, NULL);
    struct rabbitmq_event event;
    amqp_confirm_select_t confirm = {0};
    uint64_t waiting;
    char name[200];
    snprintf(name, sizeof name, "triggerflow %.80s, publishing", executor_worker(s->executor)->workspace);
    if (rabbitmq_connect(&s->parameters, name, MAX_BODY, &wait, &s->rabbitmq, err) < 0)
        return -1;
    if (rabbitmq_declare(&s->rabbitmq, &s->parameters, name, MAX_BODY, true, &wait, &waiting, err) < 0 ||
        rabbitmq_call(s->rabbitmq, AMQP_CONFIRM_SELECT_METHOD, &confirm, AMQP_CONFIRM_SELECT_OK_METHOD, &wait,
                      &event, err) < 0 ||
        loop_add(loop_of(s), rabbitmq_fd(s->rabbitmq), EPOLLIN, on_events, s, err) < 0) {
        rabbitmq_free(s->rabbitmq);
        s->rabbitmq = NULL;
        return -1;
    }
    s->oldest = s->next = 1;
    loop_timer_set(loop_of(s), clock_now_ns(), beat, s, NULL);
    return 0;
}

/* --- sending --- */

static int send_event(struct rabbitmq_sink *s, struct intent *intent, const char *json, size_t len,
                      struct error *err)
{
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG,
        .content_type = amqp_cstring_bytes("application/cloudevents+json"),
        .delivery_mode = AMQP_DELIVERY_PERSISTENT,
        .message_id = amqp_cstring_bytes(intent->key)};
    if (rabbitmq_publish(s->rabbitmq, s->parameters.queue, &properties, json, len, err) < 0)
        return -1;
    *slot_of(s, s->next++) = (struct slot){.intent = intent};
    return 0;
}

/* 0 sent; 1 the intent itself is wrong (reported); -1. */
static int send_intent(struct rabbitmq_sink *s, struct intent *intent, struct error *err)
{
    struct json_value json;
    struct cloudevent event;
    struct error wrong;
    BUFFER_AUTO scratch = BUFFER_INIT;
    if (intent_event(intent, &json, &wrong) == 0) {
        size_t len;
        const char *raw = json_raw(&json, &len);
        if (cloudevent_parse(&event, raw, len, &scratch, &wrong) == 0)
            return send_event(s, intent, raw, len, err);
    }
    executor_done(s->executor, intent, EXECUTOR_GIVE_UP, &wrong);
    return 1;
}

static int watch_output(struct rabbitmq_sink *s, struct error *err)
{
    if (rabbitmq_flush(s->rabbitmq, err) < 0)
        return -1;
    bool wants_output = rabbitmq_events(s->rabbitmq) & POLLOUT;
    if (wants_output == s->wants_output)
        return 0;
    s->wants_output = wants_output;
    return loop_modify(loop_of(s), rabbitmq_fd(s->rabbitmq), wants_output ? EPOLLIN | EPOLLOUT : EPOLLIN,
                       err);
}

/* Sends what waits, as far as the limits allow. */
static void pump(void *data)
{
    struct rabbitmq_sink *s = data;
    struct error err;
    if (s->backing_off || !s->waiting.head)
        return;
    if (!s->rabbitmq && !executor_is_here(s->executor)) {
        loop_timer_set(loop_of(s), 0, reconnect_due, s, NULL);
        return;
    }
    if (!s->rabbitmq && connect_sink(s, &err) < 0) {
        lose(s, &err);
        return;
    }
    /* What the socket has not taken is bounded by one message. */
    while (s->waiting.head && s->next - s->oldest < MAX_IN_FLIGHT && !s->wants_output &&
           !rabbitmq_blocked(s->rabbitmq)) {
        struct intent *intent = intent_queue_take(&s->waiting);
        int r = send_intent(s, intent, &err);
        if (r < 0)
            intent_queue_put_back(&s->waiting, intent);
        if (r < 0 || watch_output(s, &err) < 0) {
            lose(s, &err);
            return;
        }
    }
    crash_point("published");
}

/* --- answers --- */

static void finish(struct rabbitmq_sink *s, uint64_t tag, bool taken, bool *queue_gone)
{
    struct slot *slot = slot_of(s, tag);
    struct intent *intent = slot->intent;
    struct error err;
    if (!intent)
        return;
    slot->intent = NULL;
    *queue_gone |= slot->returned;
    if (taken && !slot->returned) {
        intent->final_position[0] = clock_unix_ns();
        executor_done(s->executor, intent, EXECUTOR_DONE, NULL);
        return;
    }
    error_set(&err, ERROR_UNAVAILABLE,
              slot->returned ? "event source %s: unroutable: queue %.100s does not exist any more"
                             : "event source %s: the broker did not take the message into queue %.100s",
              s->name, s->parameters.queue);
    executor_done(s->executor, intent, EXECUTOR_RETRY, &err);
}

/* basic.ack and basic.nack: a tag, or all up to it. */
static int confirmed(struct rabbitmq_sink *s, const amqp_basic_ack_t *ack, bool taken, struct error *err)
{
    bool queue_gone = false;
    if (ack->delivery_tag >= s->next)
        return error_set(err, ERROR_UNAVAILABLE, "event source %s: a confirmation too many", s->name);
    if (ack->multiple)
        for (uint64_t tag = s->oldest; tag <= ack->delivery_tag; tag++)
            finish(s, tag, taken, &queue_gone);
    else if (ack->delivery_tag >= s->oldest)
        finish(s, ack->delivery_tag, taken, &queue_gone);
    while (s->oldest < s->next && !slot_of(s, s->oldest)->intent)
        s->oldest++;
    if (queue_gone) /* connecting again declares it */
        return error_set(err, ERROR_UNAVAILABLE, "event source %s: queue %.100s does not exist any more",
                         s->name, s->parameters.queue);
    if (s->failures)
        report_publishing(executor_worker(s->executor)->report, s->name, NULL);
    s->failures = 0;
    return 0;
}

/* It comes before its confirmation. */
static void returned(struct rabbitmq_sink *s, const struct rabbitmq_event *event)
{
    amqp_bytes_t id = event->properties->message_id;
    if (!(event->properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG))
        return;
    for (uint64_t tag = s->oldest; tag < s->next; tag++) {
        struct slot *slot = slot_of(s, tag);
        if (slot->intent && strlen(slot->intent->key) == id.len &&
            !memcmp(slot->intent->key, id.bytes, id.len))
            slot->returned = true;
    }
}

static int see(struct rabbitmq_sink *s, const struct rabbitmq_event *event, struct error *err)
{
    switch (event->method) {
    case AMQP_BASIC_RETURN_METHOD:
        returned(s, event);
        return 0;
    case AMQP_BASIC_ACK_METHOD:
        return confirmed(s, event->decoded, true, err);
    case AMQP_BASIC_NACK_METHOD: { /* the same fields, and one more */
        const amqp_basic_nack_t *nack = event->decoded;
        amqp_basic_ack_t as_ack = {.delivery_tag = nack->delivery_tag, .multiple = nack->multiple};
        return confirmed(s, &as_ack, false, err);
    }
    default:
        return 0;
    }
}

static void on_events(void *data, uint32_t events)
{
    struct rabbitmq_sink *s = data;
    struct rabbitmq_event event;
    struct error err;
    int r = 0;
    (void)events;
    while (r == 0 && (r = rabbitmq_receive(s->rabbitmq, &event, &err)) == 0)
        r = see(s, &event, &err);
    if (r < 0 || watch_output(s, &err) < 0) {
        lose(s, &err);
        return;
    }
    pump(s);
}

/* --- the sink --- */

int rabbitmq_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                       struct sink **ret_sink, struct error *err)
{
    struct rabbitmq_sink *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    s->base.type = &source_rabbitmq;
    s->executor = executor;
    s->name = strdup(name);
    intent_queue_init(&s->waiting);
    s->oldest = s->next = 1;
    if (!s->name || rabbitmq_parameters_read(parameters, &s->parameters, err) < 0) {
        if (!s->name)
            error_set(err, ERROR_MEMORY, "out of memory");
        free(s->name);
        free(s);
        return -1;
    }
    *ret_sink = &s->base;
    return 0;
}

void rabbitmq_sink_publish(struct sink *sink, struct intent *intent)
{
    struct rabbitmq_sink *s = (struct rabbitmq_sink *)sink;
    intent_queue_append(&s->waiting, intent);
    pump(s);
}

void rabbitmq_sink_close(struct sink *sink)
{
    struct rabbitmq_sink *s = (struct rabbitmq_sink *)sink;
    struct error err;
    struct intent *intent;
    loop_timer_cancel(loop_of(s), reconnect_due, s);
    disconnect(s);
    error_set(&err, ERROR_UNAVAILABLE, "event source %s was changed or removed", s->name);
    for (; s->oldest < s->next; s->oldest++)
        if (slot_of(s, s->oldest)->intent)
            executor_done(s->executor, slot_of(s, s->oldest)->intent, EXECUTOR_RETRY, &err);
    while ((intent = intent_queue_take(&s->waiting)))
        executor_done(s->executor, intent, EXECUTOR_RETRY, &err);
    rabbitmq_parameters_done(&s->parameters);
    free(s->name);
    free(s);
}
