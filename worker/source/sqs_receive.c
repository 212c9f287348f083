/* The way of messages from the queue to the shards. */
#include "worker/source/sqs_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/cloudevent.h"
#include "common/config.h"
#include "common/log.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/source/consumed.h"
#include "worker/source/source.h"
#include "worker/source/sqs_event.h"
#include "worker/worker.h"

#define HELD_BYTES_MOST (8u << 20)
#define HELD_ANSWERS 2               /* for each receive, in messages */
#define BYTES_WANTED (2u << 20)      /* of one answer: large messages are asked for fewer at a time */
#define BODY_MAX (8u << 20)          /* what is read of a message at all */
#define ANSWER_MARGIN (10 * CLOCK_S) /* a long poll's answer may come so late */
#define LOOK_FIRST (5 * CLOCK_MS)
#define LOOK_LONGEST (100 * CLOCK_MS)
#define MEMORY_RETRY (100 * CLOCK_MS)
#define SCRATCH_KEPT (1u << 20)

static struct sqs_source *state_of(const struct source *source)
{
    return source->state;
}

/* Messages that the queue hides while they are in hand. */
static size_t in_flight(const struct sqs_source *s)
{
    return sqs_hand_count(&s->hand) - s->hand.count[SQS_LOST];
}

/* --- receiving --- */

/* Takes one message of an answer into the hand. `scratch` is used for what is escaped. */
static int take_message(struct source *source, const struct sqs_message *m, struct sqs_arrival *arrival,
                        struct error *err)
{
    struct sqs_source *s = state_of(source);
    struct buffer *scratch = &s->scratch;
    buffer_reset(scratch, SCRATCH_KEPT);
    json_unescape(&m->id, scratch);
    if (scratch->failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a message");
    struct consumed_id id = consumed_identity(s->consumed, NULL, scratch->data, scratch->len);
    consumed_expect(s->consumed, &id);
    struct sqs_entry *known = sqs_hand_find(&s->hand, &id);
    arrival->receipt = m->receipt.text;
    arrival->receipt_len = m->receipt.len;
    arrival->sent_ms = m->sent_ms;
    if (known) {
        arena_add(&source->stats->duplicates, 1);
        return sqs_hand_renew(&s->hand, known, arrival, err);
    }
    scratch->len = 0;
    json_unescape(&m->body, scratch);
    arrival->body = buffer_text(scratch);
    arrival->body_len = scratch->len;
    if (scratch->failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a message");
    return sqs_hand_add(&s->hand, &id, arrival, err);
}

static void adapt(struct sqs_source *s, const struct sqs_receive *r, size_t n, size_t bytes)
{
    unsigned most = (unsigned)s->parameters.receives;
    if (!n)
        s->wanted = 1;
    else if (n * 2 >= r->asked)
        s->wanted = s->wanted * 2 < most ? s->wanted * 2 : most;
    else if (s->wanted > 1)
        s->wanted--;
    if (!n)
        return;
    size_t batch = BYTES_WANTED / (bytes / n + 1);
    s->batch = batch < 1 ? 1 : batch > SQS_BATCH ? SQS_BATCH : (unsigned)batch;
}

static int take_answer(struct source *source, struct sqs_receive *r, const struct aws_answer *answer,
                       struct error *err)
{
    struct sqs_source *s = state_of(source);
    struct sqs_message messages[SQS_BATCH];
    size_t n;
    if (sqs_wire_messages(answer->body, answer->len, messages, &n, err) < 0)
        return -1;
    adapt(s, r, n, answer->len);
    arena_add(&source->stats->bytes, answer->len);
    /* They are invisible since SQS has put the answer together: at the earliest, since it was asked. */
    struct sqs_arrival arrival = {.visible_ns = r->begun_ns + sqs_visibility_ns(s)};
    uint64_t now = clock_now_ns();
    if (r->begun_ns + CLOCK_S < now) /* it was a long poll: they have just come */
        arrival.visible_ns = now - CLOCK_S + sqs_visibility_ns(s);
    arrival.reloads = n ? checkpoint_reloads(source->worker->checkpoint) : 0;
    for (size_t i = 0; i < n; i++)
        if (take_message(source, &messages[i], &arrival, err) < 0)
            return -1; /* it becomes visible again, and those behind it */
    if (n)
        return 0;
    sqs_settle(source, !s->parameters.fifo || (r->quiet && !in_flight(s)) ? r->begun_ns : 0);
    pthread_mutex_lock(&source->emit);
    consumed_expire(s->consumed, now);
    pthread_mutex_unlock(&source->emit);
    arena_set(&source->stats->lag, 0);
    return 0;
}

static void on_received(void *data, const struct aws_answer *answer)
{
    struct sqs_receive *r = data;
    struct source *source = r->source;
    struct sqs_source *s = state_of(source);
    struct error err = answer->error;
    r->call = NULL;
    s->receiving--;
    s->asked -= r->asked;
    if (answer->outcome == AWS_DONE && take_answer(source, r, answer, &err) == 0) {
        r->attempt[0] = '\0';
        sqs_well(source);
        return;
    }
    if (answer->outcome == AWS_ABSENT) {
        sqs_queue_gone(source);
        return;
    }
    if (answer->outcome != AWS_RETRY)
        r->attempt[0] = '\0';
    if (err.code == ERROR_LIMIT && s->batch > 1)
        s->batch /= 2;
    sqs_failed(source, &err);
}

/* Another attempt of a receive whose answer was lost gets the same messages (for five minutes). */
static void name_attempt(struct sqs_source *s, struct sqs_receive *r)
{
    if (r->attempt[0])
        return;
    s->random = s->random * 6364136223846793005ull + 1442695040888963407ull;
    snprintf(r->attempt, sizeof r->attempt, "%016llx%016llx", (unsigned long long)s->random,
             (unsigned long long)clock_unix_ns());
}

static int start_receive(struct source *source, struct sqs_receive *r, uint64_t now, struct error *err)
{
    struct sqs_source *s = state_of(source);
    r->source = source;
    r->begun_ns = now;
    r->asked = s->batch;
    r->quiet = !in_flight(s);
    buffer_reset(&s->members, 1 << 16);
    buffer_printf(&s->members,
                  ",\"MaxNumberOfMessages\":%u,\"WaitTimeSeconds\":%d,\"VisibilityTimeout\":%llu", s->batch,
                  s->parameters.wait_seconds, (unsigned long long)(sqs_visibility_ns(s) / CLOCK_S));
    if (s->from_ms)
        buffer_append_text(&s->members, ",\"AttributeNames\":[\"SentTimestamp\"]");
    if (s->parameters.fifo) {
        name_attempt(s, r);
        buffer_printf(&s->members, ",\"ReceiveRequestAttemptId\":\"%s\"", r->attempt);
    }
    uint64_t timeout = (unsigned)s->parameters.wait_seconds * CLOCK_S + ANSWER_MARGIN;
    if (sqs_queue_call(&s->queue, "ReceiveMessage", &s->members, timeout, on_received, r, &r->call, err) < 0)
        return -1;
    s->receiving++;
    s->asked += r->asked;
    return 0;
}

/* Whether another answer may come. */
static bool has_place(const struct sqs_source *s)
{
    const struct sqs_hand *h = &s->hand;
    size_t held = (size_t)s->parameters.receives * SQS_BATCH * HELD_ANSWERS;
    return h->count[SQS_HELD] + s->asked + s->batch <= held && h->held_bytes < HELD_BYTES_MOST &&
           sqs_hand_count(h) + s->asked + s->batch <= SQS_IN_HAND_MOST;
}

void sqs_receive_start(struct source *source, uint64_t now)
{
    struct sqs_source *s = state_of(source);
    struct error err;
    if (s->phase != SQS_READ || s->not_before_ns || s->delete_failures > 1)
        return;
    while (s->receiving < s->wanted && has_place(s) && sqs_has_room(source)) {
        struct sqs_receive *r = s->receives;
        while (r->call)
            r++;
        if (start_receive(source, r, now, &err) < 0) {
            sqs_failed(source, &err);
            return;
        }
    }
}

void sqs_receive_cancel(struct source *source)
{
    struct sqs_source *s = state_of(source);
    for (size_t i = 0; i < SQS_RECEIVES_MAX; i++)
        if (s->receives[i].call) {
            aws_call_cancel(s->receives[i].call);
            s->receives[i].call = NULL;
        }
    s->receiving = s->asked = 0;
}

/* --- delivering --- */

enum { DELIVERED, DROPPED, LATER };

static void reject(struct source *source, const struct sqs_entry *e, const char *reason, const char *detail)
{
    const uint64_t position[2] = {e->id.low, e->id.high};
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_append_text(&body, "\"body\":");
    buffer_append_json(&body, e->body, e->body_len);
    source_reject(source, reason, detail, position, buffer_text(&body), body.len);
}

/* Whether the event may be delivered: not while it waits for a trigger that may have been stored meanwhile.
 * The thread has other things to do than to wait for that. */
static bool may_deliver(struct source *source, const struct sqs_entry *e, const struct cloudevent *event)
{
    struct sqs_source *s = state_of(source);
    struct checkpoint *checkpoint = source->worker->checkpoint;
    source->marked = true; /* source_deliver does not wait again */
    source->read_mark = e->reloads;
    if (source_routes(source, event) || checkpoint_reloaded(checkpoint, e->reloads)) {
        s->look_delay_ns = 0;
        return true;
    }
    uint64_t delay = s->look_delay_ns ? s->look_delay_ns * 2 : LOOK_FIRST;
    s->look_delay_ns = delay < LOOK_LONGEST ? delay : LOOK_LONGEST;
    s->look_ns = clock_now_ns() + s->look_delay_ns;
    return false;
}

static int deliver_event(struct source *source, struct sqs_entry *e)
{
    struct sqs_source *s = state_of(source);
    const uint64_t position[2] = {e->id.low, e->id.high};
    struct cloudevent event;
    struct error err;
    if (e->body_len > (size_t)source->worker->config->max_event_bytes) {
        char detail[96];
        snprintf(detail, sizeof detail, "%zu bytes, more than max_event_bytes (%lld)", e->body_len,
                 (long long)source->worker->config->max_event_bytes);
        reject(source, e, "too_large", detail);
        return DELIVERED;
    }
    buffer_reset(&s->scratch, SCRATCH_KEPT);
    if (sqs_event_read(&event, e->body, e->body_len, &s->scratch, &err) < 0) {
        if (err.code == ERROR_MEMORY)
            return LATER;
        reject(source, e, "invalid_event", err.message);
        return DELIVERED;
    }
    if (!may_deliver(source, e, &event) ||
        source_deliver(source, &event, position, event.attribute[CE_KEY].text != NULL) != 0)
        return LATER;
    return DELIVERED;
}

/* Requires: emit. */
static int deliver(struct source *source, struct sqs_entry *e)
{
    struct sqs_source *s = state_of(source);
    struct error err;
    if (sqs_hand_reserve(&s->hand, &err) < 0 || consumed_reserve(s->consumed, &e->id, &err) < 0) {
        s->look_ns = clock_now_ns() + MEMORY_RETRY;
        return LATER;
    }
    if (consumed_has(s->consumed, &e->id)) {
        arena_add(&source->stats->duplicates, 1);
        sqs_hand_drop(&s->hand, e, s->gone_epoch > s->safe_epoch ? s->gone_epoch : 0);
        return DROPPED;
    }
    if (s->from_ms && e->sent_ms && e->sent_ms < s->from_ms) {
        sqs_hand_drop(&s->hand, e, 0);
        return DROPPED;
    }
    int r = deliver_event(source, e);
    if (r == DELIVERED) {
        consumed_add(s->consumed, &e->id);
        sqs_hand_delivered(&s->hand, e, source->filling_epoch);
    }
    return r;
}

void sqs_deliver(struct source *source)
{
    struct sqs_source *s = state_of(source);
    struct sqs_entry *e;
    bool any = false;
    int r = DELIVERED;
    if (!s->hand.count[SQS_HELD] || clock_now_ns() < s->look_ns || !sqs_has_room(source) ||
        !source_try_batch(source))
        return;
    s->look_ns = 0;
    while (r != LATER && (e = sqs_hand_first(&s->hand, SQS_HELD))) {
        r = deliver(source, e);
        any |= r == DELIVERED;
    }
    source->marked = false;
    if (any)
        source_end_batch(source);
    else
        source_cancel_batch(source);
    crash_point("delivered");
}
