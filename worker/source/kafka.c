/* KafkaEventSource: all partitions of a topic, read from the positions in our own checkpoint; no group
 * membership.
 *
 * librdkafka reads ahead in threads of its own, into one queue for all partitions, which is bounded. We take
 * messages off it in batches and parse them where they lie. While nothing is there we sleep on a descriptor.
 *
 * A crash at any moment: the successor reads from the positions of the last checkpoint. The group's offsets
 * are behind them then, for a second at most, until the next checkpoint; nobody reads from them. */
#include "worker/source/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/source/kafka_internal.h"
#include "worker/source/kafka_log.h"
#include "worker/source/kafka_message.h"
#include "worker/source/kafka_sink.h"
#include "worker/worker.h"

#define LAG_EVERY CLOCK_S
#define KEEP_SCRATCH (1u << 20)
#define DESTROY_S 2

/* --- parameters and position --- */

static int init(struct source *source, const struct json_value *parameters, struct error *err)
{
    struct kafka_source *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    source->state = s;
    pthread_mutex_init(&s->lock, NULL);
    kafka_flow_init(&s->flow);
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->event_fd < 0)
        return error_set_errno(err, errno, "eventfd");
    s->name = strdup(source->name);
    if (!s->name)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return kafka_parameters_read(parameters, &s->parameters, err);
}

static int check(const struct json_value *parameters, struct error *err)
{
    struct kafka_parameters p;
    if (kafka_parameters_read(parameters, &p, err) < 0)
        return -1;
    kafka_parameters_done(&p);
    return 0;
}

static void *destroy_main(void *data)
{
    rd_kafka_destroy_flags(data, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return NULL;
}

/* librdkafka has had faults by which it waits for ever for a thread of its own (kafka_assign.c, `empty`,
 * knows one). That must not keep the worker: then it is left alone, with all that it may still look at.
 * Returns whether it has ended. */
static bool destroy_consumer(struct source *source)
{
    struct kafka_source *s = source->state;
    struct error err;
    struct timespec until;
    unsigned long thread;
    kafka_flow_release(&s->flow, true);
    kafka_commit_last(source);
    kafka_leave(source);
    kafka_flow_set_queue(&s->flow, NULL);
    if (s->queue)
        rd_kafka_queue_destroy(s->queue);
    if (s->topic)
        rd_kafka_topic_destroy(s->topic);
    if (worker_thread_start(&thread, destroy_main, s->rk, &err) < 0) {
        destroy_main(s->rk);
        return true;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DESTROY_S;
    if (pthread_timedjoin_np(thread, NULL, &until) == 0)
        return true;
    pthread_detach(thread);
    log_warn("kafka", LOG_STR("source", source->name), LOG_STR("detail", "librdkafka does not end"));
    return false;
}

static void done(struct source *source)
{
    struct kafka_source *s = source->state;
    if (!s || (s->rk && !destroy_consumer(source)))
        return;
    if (s->event_fd >= 0)
        close(s->event_fd);
    buffer_done(&s->scratch);
    buffer_done(&s->body);
    kafka_partitions_done(&s->partitions);
    kafka_parameters_done(&s->parameters);
    free(s->sent.list);
    free(s->barrier.list);
    free(s->committed.list);
    kafka_flow_done(&s->flow);
    pthread_mutex_destroy(&s->lock);
    free(s->cluster);
    free(s->from);
    free(s->name);
    free(s);
}

static int restore_from(struct kafka_source *s, const struct json_value *value, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    json_unescape(value, &text);
    if (kafka_from_read(buffer_text(&text), &s->from_kind, err) < 0)
        return -1;
    s->from = strdup(buffer_text(&text));
    return s->from ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

/* The group may not have heard of this checkpoint in an earlier life, and no other may follow. */
static int remember_committed(struct kafka_source *s, struct error *err)
{
    if (!kafka_offsets_resize(&s->committed, s->partitions.n))
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < s->committed.n; i++)
        s->committed.list[i] = s->partitions.list[i].next;
    return 0;
}

/* {"topic","cluster","partitions"} (kafka_partitions.h), or {"from"} when adopting. */
static int restore(struct source *source, const struct json_value *position, struct error *err)
{
    struct kafka_source *s = source->state;
    struct json_value value;
    if (!position)
        return 0;
    if (position->type == JSON_OBJECT && json_member(position, "from", &value) && value.type == JSON_STRING)
        return restore_from(s, &value, err);
    if (position->type != JSON_OBJECT || !json_member(position, "topic", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "is not a position in a Kafka topic");
    if (!json_equals(&value, s->parameters.topic, strlen(s->parameters.topic))) {
        log_warn("event_source", LOG_STR("source", source->name), LOG_STR("topic", s->parameters.topic),
                 LOG_STR("detail", "the topic is another one than before: it is read from its beginning"));
        s->begun = true;
        return 0;
    }
    if (json_member(position, "cluster", &value) && value.type == JSON_STRING) {
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&value, &text);
        s->cluster = strdup(buffer_text(&text));
        if (!s->cluster)
            return error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (!json_member(position, "partitions", &value))
        return error_set(err, ERROR_INVALID, "has no member partitions");
    s->begun = true;
    if (kafka_partitions_read(&s->partitions, &value, err) < 0)
        return -1;
    return remember_committed(s, err);
}

static void position(struct source *source, struct buffer *out)
{
    struct kafka_source *s = source->state;
    bool kept = kafka_offsets_resize(&s->barrier, s->partitions.n);
    for (size_t i = 0; i < s->barrier.n; i++)
        s->barrier.list[i] = kept ? s->partitions.list[i].next : KAFKA_NO_OFFSET;
    if (s->from) { /* adopted, and not connected yet: a later life must not begin elsewhere */
        buffer_append_text(out, "{\"from\":");
        buffer_append_json(out, s->from, strlen(s->from));
        buffer_append_char(out, '}');
        return;
    }
    if (!s->begun)
        return;
    buffer_append_text(out, "{\"topic\":");
    buffer_append_json(out, s->parameters.topic, strlen(s->parameters.topic));
    if (s->cluster) {
        buffer_append_text(out, ",\"cluster\":");
        buffer_append_json(out, s->cluster, strlen(s->cluster));
    }
    buffer_append_char(out, ',');
    kafka_partitions_write(&s->partitions, out);
    buffer_append_char(out, '}');
}

static bool passed(const struct source *source, const uint64_t at[2])
{
    const struct kafka_source *s = source->state;
    return kafka_offset(&s->barrier, (size_t)at[0]) > (int64_t)at[1];
}

/* Runs after the checkpoint that holds `barrier` has committed. */
static void acknowledge(struct source *source)
{
    struct kafka_source *s = source->state;
    pthread_mutex_lock(&s->lock);
    bool kept = kafka_offsets_resize(&s->committed, s->barrier.n);
    for (size_t i = 0; kept && i < s->barrier.n; i++)
        s->committed.list[i] = s->barrier.list[i];
    pthread_mutex_unlock(&s->lock);
    if (kept && !atomic_exchange(&s->commit_due, true))
        source_wake(source);
}

/* --- connecting --- */

/* Thread: librdkafka's. */
static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    const struct kafka_source *s = rd_kafka_opaque(rk);
    kafka_log(s->name, level, facility, text, s->well);
}

/* Thread: source, while it takes messages off the queue. */
static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka_source *s = opaque;
    char fatal[160];
    if (code == RD_KAFKA_RESP_ERR__FATAL)
        code = (int)rd_kafka_fatal_error(rk, fatal, sizeof fatal);
    if (code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) /* which says less than what came before it */
        kafka_reason(s->reason, sizeof s->reason, reason);
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || code == RD_KAFKA_RESP_ERR__AUTHENTICATION)
        kafka_check_soon(s);
    else
        kafka_check_later(s);
}

/* A setting in milliseconds; `otherwise` where it is 0 or negative. */
static uint64_t interval(const rd_kafka_conf_t *conf, const char *name, uint64_t otherwise)
{
    char number[24] = "";
    size_t size = sizeof number;
    if (rd_kafka_conf_get(conf, name, number, &size) != RD_KAFKA_CONF_OK || number[0] == '-')
        return otherwise;
    uint64_t ms = strtoull(number, NULL, 10);
    return ms ? ms * CLOCK_MS : otherwise;
}

/* Whether librdkafka makes a consumer of it, with its files of certificates. One without
 * interceptors, since librdkafka (2.0) crashes when a configuration with some is destroyed after that. */
static int try_consumer(const struct kafka_parameters *p, const rd_kafka_conf_t *conf, struct error *err)
{
    const char *const files[][2] = {
        {"tls_ca", p->tls_ca}, {"tls_cert", p->tls_cert}, {"tls_key", p->tls_key}};
    char why[200];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i][1][0] && access(files[i][1], R_OK) < 0)
            return error_set(err, ERROR_INVALID, "parameter %s: %s: %s", files[i][0], files[i][1],
                             strerror(errno));
    rd_kafka_conf_t *copy = rd_kafka_conf_dup(conf);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, copy, why, sizeof why);
    if (!rk) {
        rd_kafka_conf_destroy(copy);
        return error_set(err, ERROR_INVALID, "librdkafka: %s", why);
    }
    rd_kafka_destroy(rk);
    return 0;
}

static int make_consumer(struct source *source, struct error *err)
{
    struct kafka_source *s = source->state;
    rd_kafka_conf_t *conf;
    char client[300], why[200];
    static const uint64_t one = 1;
    snprintf(client, sizeof client, "triggerflow-%s", source->worker->workspace);
    if (kafka_parameters_consumer(&s->parameters, client, source->name, &conf, err) < 0)
        return -1;
    rd_kafka_conf_set_opaque(conf, s);
    rd_kafka_conf_set_log_cb(conf, on_log);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_offset_commit_cb(conf, kafka_commit_done);
    s->report = source->worker->report;
    s->check_every_ns = interval(conf, "topic.metadata.refresh.interval.ms", 3600 * CLOCK_S);
    s->commit_every_ns = interval(conf, "auto.commit.interval.ms", 0);
    if (s->parameters.tls && try_consumer(&s->parameters, conf, err) < 0) {
        rd_kafka_conf_destroy(conf);
        return -1;
    }
    if (kafka_flow_install(&s->flow, conf) < 0) {
        rd_kafka_conf_destroy(conf);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    s->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!s->rk) /* conf is lost: its interceptors are freed, and destroying it would free them again */
        return error_set(err, ERROR_INVALID, "librdkafka: %s", why);
    rd_kafka_poll_set_consumer(s->rk);
    s->queue = rd_kafka_queue_get_consumer(s->rk);
    s->topic = rd_kafka_topic_new(s->rk, s->parameters.topic, NULL);
    if (!s->queue || !s->topic)
        return error_set(err, ERROR_INVALID, "topic %s: %s", s->parameters.topic,
                         rd_kafka_err2str(rd_kafka_last_error()));
    kafka_flow_set_queue(&s->flow, s->queue);
    rd_kafka_queue_io_event_enable(s->queue, s->event_fd, &one, sizeof one);
    return 0;
}

/* --- delivering --- */

/* A message that is no CloudEvent is kept as it was. */
static void reject(struct source *source, const rd_kafka_message_t *message, const char *reason,
                   const char *detail)
{
    struct kafka_source *s = source->state;
    uint64_t at[2] = {(uint64_t)message->partition, (uint64_t)message->offset};
    buffer_reset(&s->body, KEEP_SCRATCH);
    kafka_message_write(message, &s->body);
    source_reject(source, reason, detail, at, s->body.data, s->body.len);
}

/* 0, or SOURCE_STOPPED. Requires: emit. */
static int deliver(struct source *source, const rd_kafka_message_t *message, struct kafka_partition *p,
                   struct cloudevent *event)
{
    struct kafka_source *s = source->state;
    struct error err;
    size_t most = (size_t)source->worker->config->max_event_bytes;
    int r = 0;
    buffer_reset(&s->scratch, KEEP_SCRATCH);
    if (message->len > most) {
        char detail[96];
        snprintf(detail, sizeof detail, "%zu bytes, more than max_event_bytes (%zu)", message->len, most);
        reject(source, message, "too_large", detail);
    } else if (kafka_message_read(message, &s->scratch, event, &err) < 0) {
        reject(source, message, "invalid_event", err.message);
    } else {
        uint64_t at[2] = {(uint64_t)message->partition, (uint64_t)message->offset};
        r = source_deliver(source, event, at, event->attribute[CE_KEY].text != NULL);
    }
    if (r)
        return r;
    kafka_partition_delivered(p, (size_t)message->partition, message->offset,
                              rd_kafka_message_timestamp(message, NULL));
    return 0;
}

/* The partition's log was compared with what was read, up to this offset. Requires: emit. */
static void end_retrace(struct source *source, size_t partition, int64_t offset)
{
    struct kafka_source *s = source->state;
    struct kafka_partition *p = &s->partitions.list[partition];
    if (p->traced < 0) {
        p->another = true;
        kafka_check_soon(s);
        return;
    }
    if (p->next > offset) { /* most of it was read before; it is told of all the same */
        log_error("events_lost", LOG_STR("source", source->name), LOG_STR("topic", s->parameters.topic),
                  LOG_UINT("partition", partition), LOG_INT("offset", offset),
                  LOG_INT("count", p->next - offset), LOG_STR("detail", "the log has lost its end"));
        arena_add(&source->stats->lost, (uint64_t)(p->next - offset));
    }
    kafka_partition_go_on(p, offset);
    atomic_store(&source->changed, true);
    checkpoint_changed(source->worker->checkpoint);
}

/* Not a message, but news of a partition. Requires: emit. */
static void hear(struct source *source, const rd_kafka_message_t *message, struct kafka_partition *p)
{
    struct kafka_source *s = source->state;
    switch (message->err) {
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
        kafka_recovered(s, p);
        p->verifying = false;
        p->high = message->offset;
        if (p->retrace >= 0)
            end_retrace(source, (size_t)message->partition, message->offset);
        if (message->offset > p->next) /* what lay between is no event */
            p->next = message->offset;
        atomic_store(&s->commit_due, true);
        break;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        p->astray = true;
        kafka_check_soon(s);
        break;
    default: /* librdkafka may tell it but once, and never that it is over */
        snprintf(s->failure, sizeof s->failure, "topic %s, partition %d: %s", s->parameters.topic,
                 (int)message->partition, rd_kafka_message_errstr(message));
        p->failing = true;
        kafka_check_soon(s);
    }
}

/* Whether the record is one that was delivered before, and is to be left out. Tells another topic by it. */
static bool is_old(struct source *source, const rd_kafka_message_t *message, struct kafka_partition *p)
{
    struct kafka_source *s = source->state;
    if (p->another || p->astray)
        return true;
    if (p->retrace >= 0) {
        if (kafka_partition_is_traced(p, message->offset, rd_kafka_message_timestamp(message, NULL)))
            return true;
        end_retrace(source, (size_t)message->partition, message->offset);
        return p->another;
    }
    if (p->verifying)
        atomic_store(&s->commit_due, true);
    if (message->offset >= p->next) {
        p->verifying = false;
        return false;
    }
    if (p->verifying &&
        (message->offset != p->last || rd_kafka_message_timestamp(message, NULL) != p->timestamp)) {
        p->another = true;
        kafka_check_soon(s);
    }
    p->verifying = false;
    return true;
}

/* 0, or SOURCE_STOPPED. Requires: emit. */
static int take(struct source *source, const rd_kafka_message_t *message, struct cloudevent *event)
{
    struct kafka_source *s = source->state;
    if (!message->rkt || message->partition < 0 || (size_t)message->partition >= s->partitions.n) {
        kafka_check_soon(s);
        return 0;
    }
    struct kafka_partition *p = &s->partitions.list[message->partition];
    if (!p->assigned)
        return 0;
    if (message->err) {
        hear(source, message, p);
        return 0;
    }
    kafka_recovered(s, p);
    return is_old(source, message, p) ? 0 : deliver(source, message, p, event);
}

static int deliver_batch(struct source *source, size_t n)
{
    struct kafka_source *s = source->state;
    struct cloudevent event;
    uint64_t read_before = arena_get(&source->stats->read);
    uint64_t bytes = 0;
    int r = 0;
    source_begin_batch(source);
    for (size_t i = 0; i < n && !r; i++) {
        bytes += s->batch[i]->err ? 0 : s->batch[i]->len;
        r = take(source, s->batch[i], &event);
    }
    kafka_flow_taken(&s->flow, n, bytes);
    arena_add(&source->stats->bytes, bytes);
    if (arena_get(&source->stats->read) != read_before)
        source_end_batch(source);
    else
        source_cancel_batch(source);
    for (size_t i = 0; i < n; i++)
        rd_kafka_message_destroy(s->batch[i]);
    return r;
}

static void look_at_lag(struct source *source)
{
    struct kafka_source *s = source->state;
    uint64_t now = clock_coarse_ns();
    int64_t lag = 0;
    if (now < s->lag_ns + LAG_EVERY)
        return;
    s->lag_ns = now;
    for (size_t i = 0; i < s->partitions.n; i++) {
        struct kafka_partition *p = &s->partitions.list[i];
        int64_t low, high;
        if (p->assigned && /* else librdkafka would make it, and wait for it */
            !rd_kafka_get_watermark_offsets(s->rk, s->parameters.topic, (int32_t)i, &low, &high) &&
            high > p->high)
            p->high = high;
        lag += p->next >= 0 && p->high > p->next ? p->high - p->next : 0;
    }
    arena_set(&source->stats->lag, (uint64_t)lag);
}

/* --- the thread --- */

/* Sleeps until there is something to do. */
static void rest(struct source *source)
{
    struct kafka_source *s = source->state;
    uint64_t count, now = clock_coarse_ns();
    uint64_t wakes = kafka_commit_wakes(s);
    if (s->failed)
        wakes = UINT64_MAX;
    else if (s->check_ns < wakes)
        wakes = s->check_ns;
    uint64_t timeout = wakes == UINT64_MAX ? UINT64_MAX : wakes > now ? wakes - now + CLOCK_MS : 0;
    if (source_poll(source, s->failed ? -1 : s->event_fd, POLLIN, timeout) &&
        read(s->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        log_warn("event_source", LOG_STR("source", source->name), LOG_STR("error", strerror(errno)));
}

/* Answers must not be kept back while we wait for one. */
static void look(struct source *source)
{
    struct kafka_source *s = source->state;
    kafka_flow_release(&s->flow, true);
    kafka_check(source);
    kafka_flow_release(&s->flow, false);
}

/* 0, or SOURCE_STOPPED. */
static int work(struct source *source)
{
    struct kafka_source *s = source->state;
    if (s->check_ns <= clock_coarse_ns())
        look(source);
    kafka_commit(source);
    if (s->failed || source_stopping(source))
        return s->failed ? 0 : SOURCE_STOPPED;
    if (source_wait_room(source))
        return SOURCE_STOPPED;
    ssize_t n = rd_kafka_consume_batch_queue(s->queue, 0, s->batch, KAFKA_BATCH);
    int r = n > 0 ? deliver_batch(source, (size_t)n) : 0;
    if (n > 0)
        crash_point("delivered");
    look_at_lag(source);
    if (!r && n <= 0)
        rest(source);
    return r;
}

static void run(struct source *source)
{
    struct kafka_source *s = source->state;
    struct error err;
    if (make_consumer(source, &err) < 0) {
        source_set_state(source, ARENA_SOURCE_FAILED, err.message);
        s->failed = true;
    }
    while (!source_stopping(source)) {
        if (s->failed)
            rest(source);
        else
            work(source);
    }
}

extern const struct source_type source_kafka;
const struct source_type source_kafka = {
    .class_name = "KafkaEventSource",
    .init = init,
    .done = done,
    .restore = restore,
    .run = run,
    .position = position,
    .acknowledge = acknowledge,
    .passed = passed,
    .adopts_beginning = true,
    .sink_open = kafka_sink_open,
    .sink_publish = kafka_sink_publish,
    .sink_close = kafka_sink_close,
    .parameters = kafka_parameters_known,
    .check = check,
};
