#include "worker/source/kafka_sink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/crash.h"
#include "worker/executor/executor.h"
#include "worker/executor/intent.h"
#include "worker/report.h"
#include "worker/source/kafka_log.h"
#include "worker/source/kafka_parameters.h"
#include "worker/source/kafka_topic.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define STRUCTURED "application/cloudevents+json; charset=UTF-8"
#define CLOSE_NS CLOCK_S /* for librdkafka to give up what it has */
#define CREATE_MS 10000
#define KEEP_BODY (1u << 20)
#define PAUSE_FIRST (100 * CLOCK_MS) /* between two producers that come to their end, doubling */
#define PAUSE_LONGEST (10 * CLOCK_S)
#define CORRUPT_ATTEMPTS 5       /* from which on, whatever has failed before, a damaged one is given up */
#define ALONE_FOR (30 * CLOCK_S) /* longer than the executor's longest pause before another attempt */
#define TROUBLE_NS (30 * CLOCK_S)

struct kafka_sink {
    struct sink base;
    struct executor *executor;
    char *name;
    struct kafka_parameters parameters;
    rd_kafka_t *rk;            /* NULL: it has come to its end, and another one is not made yet */
    rd_kafka_queue_t *main;    /* delivery reports */
    rd_kafka_queue_t *answers; /* of making the topic */
    int event_fd;              /* readable when something came into either */
    bool creating;
    bool broken; /* a fatal error: it needs another producer */
    bool warned;
    char fatal[sizeof((struct error *)NULL)->message]; /* the last one */
    char trouble[200];           /* the last that librdkafka told since something was published */
    uint64_t trouble_ns;         /* when */
    uint64_t pause_ns;           /* before another producer; 0: the last one has published something */
    uint64_t closed_ns;          /* until then there is none */
    uint64_t alone_ns;           /* until then, each event is sent by itself */
    struct intent *lone;         /* the one that is on its way so */
    struct intent_queue waiting; /* for room in librdkafka's queue */
    struct buffer body;
};

extern const struct source_type source_kafka;

static void warn(struct kafka_sink *s, const char *text)
{
    if (!s->warned)
        log_warn("publish", LOG_STR("source", s->name), LOG_STR("error", text));
    s->warned = true;
    report_publishing(executor_worker(s->executor)->report, s->name, text);
}

static void finish(struct kafka_sink *s, struct intent *intent, enum executor_outcome outcome,
                   struct error *err)
{
    error_prefix(err, "event source %s", s->name);
    executor_done(s->executor, intent, outcome, err);
}

/* --- making the topic --- */

static void create_topic(struct kafka_sink *s)
{
    char why[160];
    if (s->creating)
        return;
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(s->parameters.topic, 1, -1, why, sizeof why);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(s->rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    if (topic && options) {
        rd_kafka_AdminOptions_set_request_timeout(options, CREATE_MS, NULL, 0);
        rd_kafka_CreateTopics(s->rk, &topic, 1, options, s->answers);
        s->creating = true;
    }
    if (options)
        rd_kafka_AdminOptions_destroy(options);
    if (topic)
        rd_kafka_NewTopic_destroy(topic);
}

static void hear_created(struct kafka_sink *s)
{
    struct error err;
    rd_kafka_event_t *event;
    while ((event = rd_kafka_queue_poll(s->answers, 0))) {
        if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_CREATETOPICS_RESULT) {
            s->creating = false;
            if (kafka_topic_created(event, s->parameters.topic, &err) < 0)
                warn(s, err.message);
        }
        rd_kafka_event_destroy(event);
    }
}

/* --- outcomes --- */

static bool is_missing(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
}

/* Whether it would be refused again and again. INVALID_MSG is one of both: damaged on its way, or nothing
 * that the topic may hold. */
static bool is_final(const struct intent *intent, rd_kafka_resp_err_t code)
{
    if (code == RD_KAFKA_RESP_ERR_INVALID_MSG)
        return intent->attempts >= CORRUPT_ATTEMPTS;
    return code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE || code == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE ||
           code == RD_KAFKA_RESP_ERR_INVALID_RECORD || code == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION ||
           code == RD_KAFKA_RESP_ERR__INVALID_ARG ||
           (kafka_topic_refused(code) && code != RD_KAFKA_RESP_ERR__AUTHENTICATION);
}

/* What is too large for the topic, or not valid there, fails with the batch that librdkafka has put it into.
 * So all of that is tried again, one by one, and what is then refused is so by itself. */
static bool is_in_bad_company(struct kafka_sink *s, const struct intent *intent, rd_kafka_resp_err_t code)
{
    if (code != RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && code != RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE &&
        code != RD_KAFKA_RESP_ERR_INVALID_RECORD)
        return false;
    s->alone_ns = clock_now_ns() + ALONE_FOR;
    return intent != s->lone;
}

static void fail(struct kafka_sink *s, struct intent *intent, rd_kafka_resp_err_t code, size_t len)
{
    struct error err;
    bool final = is_final(intent, code) && !is_in_bad_company(s, intent, code);
    if (is_missing(code))
        create_topic(s);
    if (code == RD_KAFKA_RESP_ERR__FATAL)
        s->broken = true;
    error_set(&err, final ? ERROR_REFUSED : ERROR_UNAVAILABLE, "topic %s: an event of %zu bytes: %s",
              s->parameters.topic, len, rd_kafka_err2str(code));
    if (!final)
        warn(s, err.message);
    finish(s, intent, final ? EXECUTOR_GIVE_UP : EXECUTOR_RETRY, &err);
}

/* Called while reports are taken off the queue. A duplicate that the broker has recognised has no offset:
 * then it is published once more, so that it is known behind what place no repetition follows. */
static void on_delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    struct kafka_sink *s = opaque;
    struct intent *intent = message->_private;
    (void)rk;
    if (message->err)
        fail(s, intent, message->err, message->len);
    if (intent == s->lone)
        s->lone = NULL;
    if (message->err)
        return;
    if (message->offset < 0) {
        fail(s, intent, RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER, message->len);
        return;
    }
    if (s->warned)
        report_publishing(executor_worker(s->executor)->report, s->name, NULL);
    s->warned = false;
    s->trouble[0] = '\0';
    s->pause_ns = 0;
    intent->final_position[0] = (uint64_t)message->partition;
    intent->final_position[1] = (uint64_t)message->offset;
    executor_done(s->executor, intent, EXECUTOR_DONE, NULL);
}

/* As long as nobody is kept waiting, trouble is nobody's. librdkafka tells the same again after 30 s only. */
static void tell_trouble(struct kafka_sink *s)
{
    if (s->trouble[0] && rd_kafka_outq_len(s->rk) > 0 && clock_now_ns() < s->trouble_ns + TROUBLE_NS)
        warn(s, s->trouble);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka_sink *s = opaque;
    (void)rk;
    if (code == RD_KAFKA_RESP_ERR__FATAL) {
        s->broken = true;
        snprintf(s->fatal, sizeof s->fatal, "%s", reason);
    }
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN &&
        s->trouble[0]) /* which says less than what came before it */
        return;
    kafka_reason(s->trouble, sizeof s->trouble, reason);
    s->trouble_ns = clock_now_ns();
    tell_trouble(s);
}

static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    const struct kafka_sink *s = rd_kafka_opaque(rk);
    kafka_log(s->name, level, facility, text, false);
}

/* --- sending --- */

static struct cloudevent_span partition_key(const struct cloudevent *event)
{
    for (unsigned i = 0; i < event->n_extensions; i++)
        if (event->extension[i].name.len == 12 && !memcmp(event->extension[i].name.text, "partitionkey", 12))
            return event->extension[i].value;
    return event->attribute[CE_SUBJECT];
}

static int read_event(const struct intent *intent, struct buffer *scratch, struct cloudevent *event,
                      struct error *err)
{
    struct json_value json;
    size_t len;
    if (intent_event(intent, &json, err) < 0)
        return -1;
    const char *raw = json_raw(&json, &len);
    return cloudevent_parse(event, raw, len, scratch, err);
}

/* False: librdkafka's queue is full. Anything else is reported. */
static bool send_intent(struct kafka_sink *s, struct intent *intent)
{
    struct cloudevent event;
    struct error err;
    BUFFER_AUTO scratch = BUFFER_INIT;
    if (read_event(intent, &scratch, &event, &err) < 0) {
        finish(s, intent, EXECUTOR_GIVE_UP, &err);
        return true;
    }
    buffer_reset(&s->body, KEEP_BODY);
    cloudevent_write(&event, &s->body);
    if (s->body.failed) {
        error_set(&err, ERROR_MEMORY, "out of memory");
        finish(s, intent, EXECUTOR_RETRY, &err);
        return true;
    }
    struct cloudevent_span key = partition_key(&event);
    rd_kafka_resp_err_t code = rd_kafka_producev(
        s->rk, RD_KAFKA_V_TOPIC(s->parameters.topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
        RD_KAFKA_V_VALUE(s->body.data, s->body.len), RD_KAFKA_V_KEY(key.len ? key.text : NULL, key.len),
        RD_KAFKA_V_HEADER("content-type", STRUCTURED, sizeof STRUCTURED - 1), RD_KAFKA_V_OPAQUE(intent),
        RD_KAFKA_V_END);
    if (code == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        return false;
    if (!code && clock_now_ns() < s->alone_ns)
        s->lone = intent;
    if (code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE) /* by itself, as librdkafka says at once */
        s->lone = intent;
    if (code)
        fail(s, intent, code, s->body.len);
    if (code)
        s->lone = NULL;
    tell_trouble(s);
    return true;
}

/* Whether the next one can be sent now; if not, a report is to come. */
static bool may_send(const struct kafka_sink *s)
{
    return s->rk && !s->broken && !s->lone &&
           (clock_now_ns() >= s->alone_ns || rd_kafka_outq_len(s->rk) == 0);
}

static void pump(struct kafka_sink *s)
{
    while (s->waiting.head && may_send(s)) {
        struct intent *intent = intent_queue_take(&s->waiting);
        if (!send_intent(s, intent)) {
            intent_queue_put_back(&s->waiting, intent);
            return;
        }
    }
    crash_point("published");
}

/* --- the producer --- */

static int open_producer(struct kafka_sink *s, struct error *err)
{
    static const uint64_t one = 1;
    const struct worker *worker = executor_worker(s->executor);
    rd_kafka_conf_t *conf;
    char client[300], why[200];
    snprintf(client, sizeof client, "triggerflow-%s", worker->workspace);
    if (kafka_parameters_producer(&s->parameters, client, (size_t)worker->config->max_event_bytes, &conf,
                                  err) < 0)
        return -1;
    rd_kafka_conf_set_opaque(conf, s);
    rd_kafka_conf_set_log_cb(conf, on_log);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivered);
    s->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (!s->rk) {
        rd_kafka_conf_destroy(conf);
        return error_set(err, ERROR_INVALID, "librdkafka: %s", why);
    }
    s->broken = s->creating = false;
    s->main = rd_kafka_queue_get_main(s->rk);
    s->answers = rd_kafka_queue_new(s->rk);
    rd_kafka_queue_io_event_enable(s->main, s->event_fd, &one, sizeof one);
    rd_kafka_queue_io_event_enable(s->answers, s->event_fd, &one, sizeof one);
    /* What came into a queue before that tells nobody, nor does what follows it until the queue is emptied.
     */
    if (write(s->event_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        return error_set_errno(err, errno, "waking up");
    return 0;
}

/* What it still has is reported as not done. */
static void close_producer(struct kafka_sink *s)
{
    uint64_t end = clock_now_ns() + CLOSE_NS;
    if (!s->rk)
        return;
    rd_kafka_purge(s->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    while (rd_kafka_outq_len(s->rk) > 0 && clock_now_ns() < end)
        rd_kafka_poll(s->rk, 20);
    rd_kafka_queue_destroy(s->main);
    rd_kafka_queue_destroy(s->answers);
    rd_kafka_destroy(s->rk);
    s->rk = NULL;
}

/* Has it report all that it has as not done. False: some of that is still to come, as an event. */
static bool is_purged(struct kafka_sink *s)
{
    rd_kafka_purge(s->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    while (rd_kafka_poll(s->rk, 0) > 0)
        continue;
    return rd_kafka_outq_len(s->rk) == 0;
}

/* Those that wait are to be tried again later. */
static void give_back(struct kafka_sink *s, const char *why)
{
    struct error err;
    struct intent *intent;
    while ((intent = intent_queue_take(&s->waiting))) {
        error_set(&err, ERROR_UNAVAILABLE, "%s", why);
        finish(s, intent, EXECUTOR_RETRY, &err);
    }
}

/* After a fatal error. If it is the cluster's last word (it may refuse the producer itself), the next one
 * ends like this one: so that one is not made before there is something to publish, nor before a pause. */
static void end_producer(struct kafka_sink *s)
{
    if (!is_purged(s))
        return;
    close_producer(s);
    s->pause_ns = s->pause_ns ? s->pause_ns * 2 : PAUSE_FIRST;
    if (s->pause_ns > PAUSE_LONGEST)
        s->pause_ns = PAUSE_LONGEST;
    s->closed_ns = clock_now_ns() + s->pause_ns;
    give_back(s, s->fatal);
}

/* Whether there is a producer, made now if need be. */
static bool has_producer(struct kafka_sink *s)
{
    struct error err;
    if (s->rk)
        return true;
    if (clock_now_ns() < s->closed_ns)
        return false;
    if (open_producer(s, &err) == 0)
        return true;
    snprintf(s->fatal, sizeof s->fatal, "%s", err.message);
    warn(s, s->fatal);
    return false;
}

static void on_event(void *data, uint32_t events)
{
    struct kafka_sink *s = data;
    uint64_t count;
    (void)events;
    if (read(s->event_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        log_warn("publish", LOG_STR("source", s->name), LOG_STR("error", strerror(errno)));
    if (!s->rk)
        return;
    while (rd_kafka_poll(s->rk, 0) > 0)
        continue;
    hear_created(s);
    if (s->broken)
        end_producer(s);
    pump(s);
}

/* --- the sink --- */

static void destroy(struct kafka_sink *s)
{
    close_producer(s);
    give_back(s, "was changed or removed");
    if (s->event_fd >= 0)
        close(s->event_fd);
    kafka_parameters_done(&s->parameters);
    buffer_done(&s->body);
    free(s->name);
    free(s);
}

int kafka_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                    struct sink **ret_sink, struct error *err)
{
    struct kafka_sink *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    s->base.type = &source_kafka;
    s->executor = executor;
    intent_queue_init(&s->waiting);
    s->name = strdup(name);
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = 0;
    if (!s->name || s->event_fd < 0)
        r = error_set(err, ERROR_MEMORY, "out of memory");
    else if (kafka_parameters_read(parameters, &s->parameters, err) < 0 || open_producer(s, err) < 0 ||
             loop_add(executor_loop(executor), s->event_fd, EPOLLIN, on_event, s, err) < 0)
        r = -1;
    if (r < 0) {
        destroy(s);
        return -1;
    }
    *ret_sink = &s->base;
    return 0;
}

void kafka_sink_publish(struct sink *sink, struct intent *intent)
{
    struct kafka_sink *s = (struct kafka_sink *)sink;
    intent_queue_append(&s->waiting, intent);
    if (has_producer(s))
        pump(s);
    else
        give_back(s, s->fatal);
}

void kafka_sink_close(struct sink *sink)
{
    struct kafka_sink *s = (struct kafka_sink *)sink;
    loop_remove(executor_loop(s->executor), s->event_fd);
    destroy(s);
}
