#include "worker/source/sqs_sink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/fetch.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/crash.h"
#include "worker/executor/executor.h"
#include "worker/executor/intent.h"
#include "worker/report.h"
#include "worker/source/source.h"
#include "worker/source/sqs_queue.h"
#include "worker/source/sqs_wire.h"
#include "worker/worker.h"

#define REQUESTS 8 /* in flight */
#define CALL_TIMEOUT (15 * CLOCK_S)
#define BATCH_BYTES 262144
#define MESSAGE_MOST (1u << 20)
#define GROUP_MAX 128
#define BACK_OFF_FIRST (200 * CLOCK_MS)
#define BACK_OFF_LONGEST (10 * CLOCK_S)

struct sqs_sink;

struct request {
    struct sqs_sink *sink;
    struct aws_call *call; /* NULL: free */
    struct intent *intents[SQS_BATCH];
    size_t n;
};

struct sqs_sink {
    struct sink base;
    struct executor *executor;
    char *name;
    struct sqs_parameters parameters;
    struct sqs_queue queue;
    struct aws_call *asking; /* for the URL */
    struct intent_queue waiting;
    struct request requests[REQUESTS];
    unsigned n_requests;
    unsigned singly; /* so many are sent one by one: one of them was wrong */
    unsigned failures;
    bool backing_off;
    bool watched; /* the pool's descriptor, by the loop */
    uint64_t random;
    struct buffer members;
};

extern const struct source_type source_sqs;

static void pump(struct sqs_sink *s);

/* --- failures --- */

static void back_off_over(void *data)
{
    struct sqs_sink *s = data;
    s->backing_off = false;
    pump(s);
}

static void back_off(struct sqs_sink *s, const struct error *err)
{
    if (!s->failures)
        log_warn("publish", LOG_STR("source", s->name), LOG_STR("error", err->message));
    report_publishing(executor_worker(s->executor)->report, s->name, err->message);
    if (s->backing_off)
        return;
    uint64_t delay = sqs_back_off(s->failures, BACK_OFF_FIRST, BACK_OFF_LONGEST, &s->random);
    s->failures++;
    s->backing_off = true;
    loop_timer_set(executor_loop(s->executor), clock_now_ns() + delay, back_off_over, s, NULL);
}

static void well(struct sqs_sink *s)
{
    if (s->failures)
        report_publishing(executor_worker(s->executor)->report, s->name, NULL);
    s->failures = 0;
}

/* Its outcome is unknown, or it was refused as a whole: it goes first again. */
static void put_back(struct request *r)
{
    while (r->n) {
        struct intent *intent = r->intents[--r->n];
        intent->attempts++;
        intent_queue_put_back(&r->sink->waiting, intent);
    }
}

static void give_up(struct sqs_sink *s, struct intent *intent, const struct error *err)
{
    executor_done(s->executor, intent, EXECUTOR_GIVE_UP, err);
}

/* --- answers --- */

static void take_result(struct sqs_sink *s, struct intent *intent, const struct sqs_result *result)
{
    struct error err;
    if (result->outcome == SQS_SUCCEEDED) {
        intent->final_position[0] = clock_unix_ns(); /* for emissions: see there */
        executor_done(s->executor, intent, EXECUTOR_DONE, NULL);
        return;
    }
    error_set(&err, result->outcome == SQS_FAULTY ? ERROR_INVALID : ERROR_UNAVAILABLE,
              "event source %s: %s%s%s", s->name,
              result->code[0] ? result->code : "an entry without an answer", result->message[0] ? ": " : "",
              result->message);
    executor_done(s->executor, intent, result->outcome == SQS_FAULTY ? EXECUTOR_GIVE_UP : EXECUTOR_RETRY,
                  &err);
}

/* The request as a whole is wrong: an event of it is. */
static void take_wrong(struct request *r, const struct error *from)
{
    struct sqs_sink *s = r->sink;
    if (r->n > 1) {
        s->singly += (unsigned)r->n;
        put_back(r);
        return;
    }
    struct error err = *from;
    error_prefix(&err, "event source %s", s->name);
    give_up(s, r->intents[0], &err);
    r->n = 0;
}

static void on_sent(void *data, const struct aws_answer *answer)
{
    struct request *r = data;
    struct sqs_sink *s = r->sink;
    struct sqs_result results[SQS_BATCH];
    struct error err = answer->error;
    r->call = NULL;
    s->n_requests--;
    crash_point("published");
    if (answer->outcome == AWS_WRONG) {
        well(s);
        take_wrong(r, &err);
    } else if (answer->outcome != AWS_DONE ||
               sqs_wire_results(answer->body, answer->len, r->n, results, &err) < 0) {
        if (answer->outcome == AWS_ABSENT)
            sqs_queue_forget_url(&s->queue);
        put_back(r);
        back_off(s, &err);
    } else {
        well(s);
        for (size_t i = 0; i < r->n; i++)
            take_result(s, r->intents[i], &results[i]);
        r->n = 0;
    }
    pump(s);
}

static void on_url(void *data, const struct aws_answer *answer)
{
    struct sqs_sink *s = data;
    struct error err;
    s->asking = NULL;
    if (sqs_queue_read_url(&s->queue, answer, &err) < 0)
        back_off(s, &err);
    pump(s);
}

/* --- requests --- */

/* SQS takes no U+FFFE and U+FFFF (XML 1.0): they can only be within strings, and are escaped. */
static void append_body(struct buffer *out, const char *text, size_t len)
{
    BUFFER_AUTO escaped = BUFFER_INIT;
    const char *at = text;
    const char *end = text + len;
    for (const char *found; (found = memmem(at, (size_t)(end - at), "\xef\xbf", 2)) && found + 2 < end;) {
        unsigned char last = (unsigned char)found[2];
        buffer_append(&escaped, at, (size_t)(found - at));
        if (last >= 0xbe)
            buffer_append_text(&escaped, last == 0xbe ? "\\ufffe" : "\\uffff");
        else
            buffer_append(&escaped, found, 3);
        at = found + 3;
    }
    if (at == text) {
        buffer_append_json(out, text, len);
        return;
    }
    buffer_append(&escaped, at, (size_t)(end - at));
    buffer_append_json(out, buffer_text(&escaped), escaped.len);
    out->failed |= escaped.failed;
}

static bool is_group(const struct buffer *subject)
{
    for (size_t i = 0; i < subject->len; i++)
        if (subject->data[i] <= ' ' || subject->data[i] >= 0x7f)
            return false;
    return subject->len && subject->len <= GROUP_MAX;
}

static void append_group(struct buffer *out, const struct json_value *event)
{
    struct json_value value;
    BUFFER_AUTO subject = BUFFER_INIT;
    if (json_member(event, "subject", &value) && value.type == JSON_STRING)
        json_unescape(&value, &subject);
    if (subject.len && !is_group(&subject)) {
        XXH128_hash_t hash = XXH3_128bits(subject.data, subject.len);
        buffer_reset(&subject, 4096);
        buffer_printf(&subject, "hash-%016llx%016llx", (unsigned long long)hash.high64,
                      (unsigned long long)hash.low64);
    }
    if (!subject.len)
        buffer_append_char(&subject, '-');
    buffer_append_text(out, ",\"MessageGroupId\":");
    buffer_append_json(out, subject.data, subject.len);
}

/* Its event in the JSON event format; false: it is wrong, and given up. */
static bool find_event(struct sqs_sink *s, struct intent *intent, struct json_value *ret_event,
                       size_t *ret_len)
{
    struct error err;
    if (intent_event(intent, ret_event, &err) < 0) {
        give_up(s, intent, &err);
        return false;
    }
    json_raw(ret_event, ret_len);
    if (*ret_len <= MESSAGE_MOST)
        return true;
    error_set(&err, ERROR_LIMIT,
              "event source %s: an event of %zu bytes: SQS takes at most 1 MiB (262144 bytes in queues whose "
              "MaximumMessageSize is that)",
              s->name, *ret_len);
    give_up(s, intent, &err);
    return false;
}

static void append_entry(struct sqs_sink *s, const struct intent *intent, size_t index,
                         const struct json_value *event)
{
    size_t len;
    const char *raw = json_raw(event, &len);
    buffer_printf(&s->members, "%s{\"Id\":\"%zu\",\"MessageBody\":", index ? "," : "", index);
    append_body(&s->members, raw, len);
    if (s->parameters.fifo) {
        append_group(&s->members, event);
        buffer_printf(&s->members, ",\"MessageDeduplicationId\":\"%s\"", intent->key);
    }
    buffer_append_char(&s->members, '}');
}

/* Fills a request with what waits. */
static void fill(struct sqs_sink *s, struct request *r)
{
    size_t bytes = 0;
    size_t most = s->singly ? 1 : SQS_BATCH;
    r->n = 0;
    buffer_reset(&s->members, BATCH_BYTES * 2);
    buffer_append_text(&s->members, ",\"Entries\":[");
    while (s->waiting.head && r->n < most) {
        struct json_value event;
        size_t len;
        struct intent *intent = intent_queue_take(&s->waiting);
        s->singly -= s->singly > 0;
        if (!find_event(s, intent, &event, &len))
            continue;
        if (r->n && bytes + len > BATCH_BYTES) {
            intent_queue_put_back(&s->waiting, intent);
            break;
        }
        bytes += len;
        append_entry(s, intent, r->n, &event);
        r->intents[r->n++] = intent;
    }
    buffer_append_char(&s->members, ']');
}

static struct request *free_request(struct sqs_sink *s)
{
    for (size_t i = 0; i < REQUESTS; i++)
        if (!s->requests[i].call)
            return &s->requests[i];
    return NULL;
}

static bool has_batch(const struct sqs_sink *s)
{
    const struct intent *intent = s->waiting.head;
    for (size_t i = 0; i < SQS_BATCH && intent; i++)
        intent = intent->wait_next;
    return intent;
}

/* What does not fill a request waits while another one is under way, so that more can join it. */
static bool may_send(const struct sqs_sink *s)
{
    if (!s->waiting.head || s->backing_off)
        return false;
    return !s->n_requests || (!s->parameters.fifo && s->n_requests < REQUESTS && has_batch(s));
}

static void pump(struct sqs_sink *s)
{
    struct error err;
    while (may_send(s)) {
        if (!s->queue.url) {
            if (!s->asking && sqs_queue_ask_url(&s->queue, on_url, s, &s->asking, &err) < 0)
                back_off(s, &err);
            return;
        }
        struct request *r = free_request(s);
        if (!r)
            return;
        r->sink = s;
        fill(s, r);
        if (!r->n)
            continue;
        if (sqs_queue_call(&s->queue, "SendMessageBatch", &s->members, CALL_TIMEOUT, on_sent, r, &r->call,
                           &err) < 0) {
            put_back(r);
            back_off(s, &err);
            return;
        }
        s->n_requests++;
    }
}

/* --- the sink --- */

static void on_events(void *data, uint32_t events)
{
    struct sqs_sink *s = data;
    (void)events;
    fetch_pool_drive(s->queue.pool);
}

static void sink_free(struct sqs_sink *s)
{
    if (s->watched)
        loop_remove(executor_loop(s->executor), fetch_pool_fd(s->queue.pool));
    sqs_queue_done(&s->queue);
    sqs_parameters_done(&s->parameters);
    buffer_done(&s->members);
    free(s->name);
    free(s);
}

int sqs_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                  struct sink **ret_sink, struct error *err)
{
    struct sqs_sink *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    s->base.type = &source_sqs;
    s->executor = executor;
    s->name = strdup(name);
    s->random = clock_now_ns();
    intent_queue_init(&s->waiting);
    int r = s->name ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
    if (r < 0 || sqs_parameters_read(parameters, &s->parameters, err) < 0 ||
        sqs_queue_init(&s->queue, &s->parameters, err) < 0 ||
        loop_add(executor_loop(executor), fetch_pool_fd(s->queue.pool), EPOLLIN, on_events, s, err) < 0) {
        sink_free(s);
        return -1;
    }
    s->watched = true;
    *ret_sink = &s->base;
    return 0;
}

void sqs_sink_publish(struct sink *sink, struct intent *intent)
{
    struct sqs_sink *s = (struct sqs_sink *)sink;
    intent_queue_append(&s->waiting, intent);
    pump(s);
}

void sqs_sink_close(struct sink *sink)
{
    struct sqs_sink *s = (struct sqs_sink *)sink;
    struct error err;
    struct intent *intent;
    loop_timer_cancel(executor_loop(s->executor), back_off_over, s);
    for (size_t i = REQUESTS; i-- > 0;) {
        if (!s->requests[i].call)
            continue;
        aws_call_cancel(s->requests[i].call);
        put_back(&s->requests[i]);
    }
    error_set(&err, ERROR_UNAVAILABLE, "event source %s was changed or removed", s->name);
    while ((intent = intent_queue_take(&s->waiting)))
        executor_done(s->executor, intent, EXECUTOR_RETRY, &err);
    sink_free(s);
}
