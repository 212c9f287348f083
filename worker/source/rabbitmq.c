/* RabbitMQEventSource: a queue, consumed with a bounded number of unacknowledged messages, which are
 * acknowledged many at a time once a checkpoint contains them.
 *
 * RabbitMQ has no positions. Everything that was handed out and not acknowledged comes again, flagged as
 * redelivered, when the connection ends; a message without the flag is guaranteed to come for the first time
 * (https://www.rabbitmq.com/docs/3.13/reliability). So only flagged ones are looked for among those that
 * checkpoints contain (consumed.h), and an unflagged one is never dropped, whatever it equals.
 *
 * Their identities stay until no redelivery can come (rabbitmq_acknowledge.c).
 *
 * A crash of the worker, of the connection, or of both between any two steps:
 *   delivered, not committed     flagged, unknown: counts
 *   committed, not acknowledged  flagged, known: dropped; acknowledged by its new tag
 *   acknowledged, not settled    nothing, or the same
 *   settled                      nothing; from a crashed broker perhaps the same
 * Delivery tags die with their connection: a tag is acknowledged only on the connection that brought it.
 *
 * The thread never waits for shards: a message that does not fit into their rings stays in hand, and
 * heartbeats go on; so they do while the workflow is paused and nothing is read. */
#include "worker/source/source.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/stream.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/source/consumed.h"
#include "worker/source/rabbitmq_internal.h"
#include "worker/source/rabbitmq_message.h"
#include "worker/source/rabbitmq_sink.h"
#include "worker/worker.h"

#define CONNECT_TIMEOUT (5 * CLOCK_S)
#define RETRY_FIRST (100 * CLOCK_MS)
#define RETRY_LONGEST (5 * CLOCK_S)
#define BATCH 256 /* messages */
#define FLOW 16   /* messages at once, from which on it pays to let more come together: */
#define GATHER_NS CLOCK_MS
#define CROWDED_NS 100000     /* the shards tell of room by a futex, which cannot be polled */
#define LAST_NS (3 * CLOCK_S) /* for the last words at a stop */

static struct rabbitmq_source *state_of(struct source *source)
{
    return source->state;
}

/* --- parameters and position --- */

static int init(struct source *source, const struct json_value *parameters, struct error *err)
{
    struct rabbitmq_source *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    source->state = s;
    source->never_held = true;
    pthread_mutex_init(&s->lock, NULL);
    if (rabbitmq_parameters_read(parameters, &s->parameters, err) < 0)
        return -1;
    return consumed_new(source->worker->creation, (size_t)source->worker->config->redelivery_max,
                        &s->consumed, err);
}

static int check(const struct json_value *parameters, struct error *err)
{
    struct rabbitmq_parameters p;
    if (rabbitmq_parameters_read(parameters, &p, err) < 0)
        return -1;
    rabbitmq_parameters_done(&p);
    return 0;
}

static void done(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    if (!s)
        return;
    if (s->rabbitmq)
        rabbitmq_acknowledge_last(source);
    struct stream_wait wait = stream_wait_for(LAST_NS, -1, NULL, NULL);
    rabbitmq_close(s->rabbitmq, &wait);
    consumed_free(s->consumed);
    buffer_done(&s->scratch);
    rabbitmq_parameters_done(&s->parameters);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* {"queue"}: there was one. {"from"}, of an adoption: the originals acknowledge nothing, so all is there. */
static int restore(struct source *source, const struct json_value *position, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    struct json_value value;
    if (!position || (position->type == JSON_OBJECT && json_member(position, "from", &value)))
        return 0;
    if (position->type != JSON_OBJECT || !json_member(position, "queue", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "is not of a RabbitMQ queue");
    s->known = json_equals(&value, s->parameters.queue, strlen(s->parameters.queue));
    return 0;
}

static int restore_consumed(struct source *source, const char *key, size_t key_len, const char *value,
                            size_t len, struct error *err)
{
    return consumed_restore(state_of(source)->consumed, key, key_len, value, len, err);
}

static void position(struct source *source, struct buffer *out)
{
    struct rabbitmq_source *s = state_of(source);
    s->cut = (struct rabbitmq_reached){s->connection, s->tag, source->filling_epoch, 0};
    consumed_cut(s->consumed, source, clock_coarse_ns());
    if (!s->known)
        return;
    buffer_append_text(out, "{\"queue\":");
    buffer_append_json(out, s->parameters.queue, strlen(s->parameters.queue));
    buffer_append_char(out, '}');
}

/* --- connecting --- */

static void beat(void *data)
{
    struct source *source = data;
    arena_beat(source->life, clock_coarse_ns());
}

static void disconnect(struct rabbitmq_source *s)
{
    rabbitmq_free(s->rabbitmq);
    s->rabbitmq = NULL;
    s->in_hand = s->crowded = false;
}

/* Shows what is wrong and waits a little longer each time. */
static void back_off(struct source *source, const struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    uint64_t delay = RETRY_FIRST << (s->failures < 6 ? s->failures : 6);
    uint64_t until = clock_now_ns() + (delay < RETRY_LONGEST ? delay : RETRY_LONGEST);
    disconnect(s);
    if (source_stopping(source))
        return;
    s->failures++;
    arena_add(&source->stats->reconnects, 1);
    source_set_state(source, ARENA_SOURCE_UNAVAILABLE, err->message);
    for (uint64_t now; (now = clock_now_ns()) < until && !source_stopping(source);)
        source_poll(source, -1, 0, until - now);
}

static int subscribe(struct source *source, struct stream_wait *wait, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    struct rabbitmq_event event;
    amqp_basic_qos_t qos = {.prefetch_count = (uint16_t)rabbitmq_prefetch(source)};
    amqp_basic_consume_t consume = {.queue = amqp_cstring_bytes(s->parameters.queue)};
    if (rabbitmq_call(s->rabbitmq, AMQP_BASIC_QOS_METHOD, &qos, AMQP_BASIC_QOS_OK_METHOD, wait, &event, err) <
        0)
        return -1;
    rabbitmq_begin(source);
    return rabbitmq_call(s->rabbitmq, AMQP_BASIC_CONSUME_METHOD, &consume, AMQP_BASIC_CONSUME_OK_METHOD, wait,
                         &event, err);
}

/* 0 connected; 1: the queue was deleted, and the source is to stop for that; -1. */
static int connect_source(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    struct worker *w = source->worker;
    struct stream_wait wait = stream_wait_for(CONNECT_TIMEOUT, source->wake_fd, beat, source);
    size_t max_body = (size_t)w->config->max_event_bytes;
    uint64_t waiting;
    char name[200];
    snprintf(name, sizeof name, "triggerflow %.80s %.80s", w->workspace, source->name);
    source_poll(source, -1, 0, 0); /* takes old wake-ups off, which would end the wait at once */
    if (rabbitmq_connect(&s->parameters, name, max_body, &wait, &s->rabbitmq, err) < 0)
        return -1;
    bool create = !s->known || !source->on_recreated_stop;
    int r = rabbitmq_declare(&s->rabbitmq, &s->parameters, name, max_body, create, &wait, &waiting, err);
    if (r < 0)
        return -1;
    if (r && s->known) {
        log_warn("source_recreated", LOG_STR("source", source->name), LOG_STR("queue", s->parameters.queue));
        arena_add(&source->stats->recreated, 1);
        if (!create)
            return 1;
    }
    if (subscribe(source, &wait, err) < 0)
        return -1;
    arena_set(&source->stats->lag, waiting);
    s->beat_ns = 0;
    return 0;
}

/* --- consuming; Requires: emit --- */

static void reject(struct source *source, const char *reason, const char *detail, const uint64_t at[2])
{
    struct rabbitmq_source *s = state_of(source);
    buffer_reset(&s->scratch, 1 << 20);
    rabbitmq_message_keep(&s->message, &s->scratch);
    source_reject(source, reason, detail, at, s->scratch.data, s->scratch.failed ? 0 : s->scratch.len);
}

/* The message in hand, which no checkpoint contains. 0; SOURCE_STOPPED: it stays in hand. */
static int deliver(struct source *source, const uint64_t at[2])
{
    struct rabbitmq_source *s = state_of(source);
    struct cloudevent event;
    struct error err;
    if (s->message.body_size > (uint64_t)source->worker->config->max_event_bytes) {
        char detail[96];
        snprintf(detail, sizeof detail, "%llu bytes, more than max_event_bytes (%lld)",
                 (unsigned long long)s->message.body_size,
                 (long long)source->worker->config->max_event_bytes);
        reject(source, "too_large", detail, at);
        return 0;
    }
    if (rabbitmq_message_read(&s->message, &event, &s->scratch, &err) < 0) {
        reject(source, "invalid_event", err.message, at);
        return 0;
    }
    s->crowded = !source_fits(source, &event);
    if (s->crowded)
        return SOURCE_STOPPED;
    return source_deliver(source, &event, at, event.attribute[CE_KEY].len > 0);
}

/* The broker sends no more than it has unacknowledged: at half of that a checkpoint is due, whatever its
 * interval, so that acknowledgements come before the rest is used up. */
static void urge_checkpoint(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    if (source->worker->unsure_ns || s->tag - s->urged < rabbitmq_prefetch(source) / 2)
        return;
    s->urged = s->tag;
    checkpoint_urge(source->worker->checkpoint);
}

/* 0: the message in hand is done with; SOURCE_STOPPED: it stays in hand; -1. */
static int consume(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    const amqp_basic_deliver_t *d = s->message.decoded;
    const uint64_t at[2] = {s->identity.high, s->identity.low};
    int r = rabbitmq_look_up(s, d, err);
    if (r < 0)
        return -1;
    if (r == CONSUMED_TAKEN) {
        source_drop(source, at);
    } else {
        if (consumed_reserve(s->consumed, &s->identity, err) < 0)
            return -1;
        if ((r = deliver(source, at)))
            return r;
        if (consumed_add(s->consumed, &s->identity)) /* and yet it is another one */
            s->twins_ns = clock_coarse_ns();
    }
    rabbitmq_passed(s, d);
    s->in_hand = false;
    urge_checkpoint(source);
    arena_add(&source->stats->bytes, s->message.body_size);
    return 0;
}

/* --- reading --- */

/* Takes the next message in hand, and does what else the broker says. 0; 1: there is none; -1. */
static int next_message(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    int r;
    if (s->in_hand)
        return 0;
    while ((r = rabbitmq_receive(s->rabbitmq, &s->message, err)) == 0) {
        switch (s->message.method) {
        case AMQP_BASIC_DELIVER_METHOD:
            s->identity = rabbitmq_message_identity(s->consumed, &s->message);
            consumed_expect(s->consumed, &s->identity);
            s->in_hand = true;
            return 0;
        case AMQP_BASIC_CANCEL_METHOD:
            return error_set(err, ERROR_UNAVAILABLE,
                             "%s: the broker has cancelled the consumer: queue %.100s was deleted, or moved",
                             rabbitmq_peer(s->rabbitmq), s->parameters.queue);
        case AMQP_QUEUE_DECLARE_OK_METHOD:
            arena_set(&source->stats->lag,
                      ((const amqp_queue_declare_ok_t *)s->message.decoded)->message_count);
            s->answered = s->asked.tag > 0;
            break;
        default:
            break;
        }
    }
    return r;
}

/* Consumes what is there, at most a batch. -1: the connection is lost. */
enum { ALL = 0, MORE = 1, NOT_NOW = 2 };
static int read_batch(struct source *source, struct error *err)
{
    unsigned n = 0;
    int r = next_message(source, err);
    if (r)
        state_of(source)->flows = false;
    if (r)
        return r < 0 ? -1 : ALL;
    if (!source_ask_room(source) || !source_try_batch(source))
        return NOT_NOW;
    do
        r = consume(source, err);
    while (r == 0 && ++n < BATCH && (r = next_message(source, err)) == 0);
    bool in_hand = state_of(source)->in_hand;
    state_of(source)->flows = n >= FLOW;
    if (n)
        source_end_batch(source);
    else
        source_cancel_batch(source);
    crash_point("delivered");
    return r < 0 ? -1 : r == 0 ? MORE : in_hand ? NOT_NOW : ALL;
}

static void show_paused(struct source *source, bool paused)
{
    struct rabbitmq_source *s = state_of(source);
    bool full = atomic_load(&source->worker->arena->worker.dead_letters_full);
    if (paused == s->paused)
        return;
    s->paused = paused;
    source_set_state(source, paused ? ARENA_SOURCE_PAUSED : ARENA_SOURCE_READING,
                     paused && full ? "the dead letters are full" : NULL);
}

/* Waits for the broker, or for whoever makes room. -1: the connection is lost. */
static int wait_more(struct source *source, int read, uint64_t until_ns, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    uint64_t now = clock_now_ns();
    uint64_t timeout = until_ns > now ? until_ns - now : 0;
    short events = rabbitmq_events(s->rabbitmq);
    if (read == ALL || s->crowded) {
        uint64_t longest = s->crowded ? CROWDED_NS : s->flows ? GATHER_NS : UINT64_MAX;
        show_paused(source, false);
        source_poll(source, s->crowded || s->flows ? -1 : rabbitmq_fd(s->rabbitmq), events,
                    timeout < longest ? timeout : longest);
        return 0;
    }
    show_paused(source, true);
    events = (short)(events & ~POLLIN);
    if (source_poll(source, rabbitmq_fd(s->rabbitmq), events, timeout) && !(events & POLLOUT))
        return error_set(err, ERROR_UNAVAILABLE, "%s: the broker has closed the connection",
                         rabbitmq_peer(s->rabbitmq));
    return 0;
}

/* One round: what is due, what has come, and a wait when that was all. -1: the connection is lost. */
static int serve(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    uint64_t now = clock_now_ns();
    uint64_t ack_ns;
    if (rabbitmq_acknowledge_due(source, now, &ack_ns, err) < 0 || rabbitmq_flush(s->rabbitmq, err) < 0)
        return -1;
    if (now >= s->beat_ns && rabbitmq_beat(s->rabbitmq, now, &s->beat_ns, err) < 0)
        return -1;
    int r = read_batch(source, err);
    if (r < 0)
        return -1;
    if (s->answered && rabbitmq_settle(source, err) < 0)
        return -1;
    if (rabbitmq_flush(s->rabbitmq, err) < 0)
        return -1;
    if (r == MORE || source_stopping(source))
        return 0;
    return wait_more(source, r, ack_ns < s->beat_ns ? ack_ns : s->beat_ns, err);
}

static void run(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    struct error err;
    while (!source_stopping(source)) {
        if (!s->rabbitmq) {
            int r = connect_source(source, &err);
            if (r > 0) {
                source_set_state(source, ARENA_SOURCE_FAILED, "the queue was deleted (on_recreated: stop)");
                disconnect(s);
                while (!source_stopping(source))
                    source_poll(source, -1, 0, UINT64_MAX);
                break;
            }
            if (r == 0)
                source_set_state(source, ARENA_SOURCE_READING, NULL);
            if (r < 0)
                back_off(source, &err);
        } else if (serve(source, &err) < 0) {
            back_off(source, &err);
        }
    }
}

extern const struct source_type source_rabbitmq;
const struct source_type source_rabbitmq = {
    .class_name = "RabbitMQEventSource",
    .init = init,
    .done = done,
    .restore = restore,
    .restore_consumed = restore_consumed,
    .run = run,
    .position = position,
    .acknowledge = rabbitmq_acknowledge,
    .sink_open = rabbitmq_sink_open,
    .sink_publish = rabbitmq_sink_publish,
    .sink_close = rabbitmq_sink_close,
    .parameters = rabbitmq_parameters_known,
    .check = check,
};
