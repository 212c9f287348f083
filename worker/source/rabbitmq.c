/* RabbitMQEventSource: a queue, consumed with a bounded number of unacknowledged messages, which are
 * acknowledged many at a time once a checkpoint contains them.
 *
 * RabbitMQ has no positions. Everything that was handed out and not acknowledged comes again, flagged as
 * redelivered, when the connection ends; a message without the flag is guaranteed to come for the first time
 * (https://www.rabbitmq.com/docs/3.13/reliability). So only flagged ones are looked for among those that
 * checkpoints contain (consumed.h), and an unflagged one is never dropped, whatever it equals.
 *
 *     delivered ──▶ barrier: tag, epoch ──▶ commit ──▶ acknowledge (noted) ──▶ ack, and a question behind it
 *                                                                                        │
 *     chunk expires, after a while ◀── settled ◀── the question is answered ◀────────────┘
 *
 * AMQP does not confirm acknowledgements, and the broker may forget one that it was sent. How long an
 * identity must stay follows from what it could have been lost in:
 *
 *   on its way         The question (a passive declaration, whose answer is the queue's length, too) follows
 *                      on the same channel, so its answer says that the channel's process has had it. For a
 *                      classic queue that is enough while the broker lives: the queue gets what the channel
 *                      has passed on before it hears of the channel's end. The chunk is settled.
 *   before it was      A quorum queue's channel keeps acknowledgements while the queue's leader is slow or
 *   replicated         away, answers the question meanwhile, and takes them with it when it ends. What proves
 *                      the acknowledgement of a tag is a message that comes for the first time, `prefetch`
 *                      tags behind it: the queue, which counts what is handed out, has released it (a quorum
 *                      queue: committed by the majority). Until that, redelivery_window: this concerns only
 *                      the last two prefetches.
 *   with the broker    A crashed broker may have forgotten what had taken effect: it writes its journal some
 *                      100 ms later and does not sync it, so that a machine without power may lose what the
 *                      kernel would write within 35 s. After a crash it flags all messages. SETTLED_NS. More
 *                      would not help: who restores an older state of the broker repeats everything. At
 *                      30,000 messages a second the window of ten minutes would keep 18 million identities.
 *   with an earlier    The connection may be gone for us, and not yet for the broker, which hands its
 * messages connection         out again when it has noticed: within three heartbeats. What was consumed on it
 * and is still at the head of the queue is settled when the first message behind that head is, and stays for
 * LOST_NS or what these heartbeats take; without heartbeats, for redelivery_window.
 *
 * Flagged messages behind the head are of a queue that has taken back what it had handed out on this very
 * connection: a quorum queue that has lost sight of the connection's node for a while does, and a mirrored
 * one whose leader has changed. They come behind their first delivery, and so are dropped when they were
 * consumed on this connection (not where there are twins, see below).
 *
 * A crash of the worker, of the connection, or of both between any two steps:
 *   delivered, not committed     flagged, unknown: counts
 *   committed, not acknowledged  flagged, known: dropped; acknowledged by its new tag
 *   acknowledged, not settled    nothing, or the same
 *   settled                      nothing; from a crashed broker perhaps the same
 * Delivery tags die with their connection: a tag is acknowledged only on the connection that brought it.
 *
 * Twins, messages in which nothing differs, are counted: what was consumed twice and is redelivered twice is
 * dropped twice. Where twins are seen the chunks go as soon as they are settled, so that what was
 * acknowledged long ago does not stand for a twin that was handed out and not consumed. What remains: a twin
 * handed out and not consumed when the connection ends just between an acknowledgement's effect and the
 * knowledge of it (or, after a crash of the worker, the next checkpoint). Nothing tells them apart: delivery
 * tags are the connection's own, x-delivery-count is the same for both, other properties are the publisher's
 * and part of the identity, and the order of redelivery is that of the queue only as long as it has no
 * priorities and one earlier connection. Publishers that give each event an id, as CloudEvents wants it, have
 * no twins.
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
#include "worker/source/rabbitmq_connection.h"
#include "worker/source/rabbitmq_message.h"
#include "worker/source/rabbitmq_parameters.h"
#include "worker/source/rabbitmq_sink.h"
#include "worker/worker.h"

#define PREFETCH_UNSURE 50000 /* at least, where acknowledgements wait for the storage's disk */
#define CONNECT_TIMEOUT (5 * CLOCK_S)
#define RETRY_FIRST (100 * CLOCK_MS)
#define RETRY_LONGEST (5 * CLOCK_S)
#define BATCH 256 /* messages */
#define FLOW 16   /* messages at once, from which on it pays to let more come together: */
#define GATHER_NS CLOCK_MS
#define CROWDED_NS 100000 /* the shards tell of room by a futex, which cannot be polled */
#define SETTLED_NS (40 * CLOCK_S)
#define LOST_NS (45 * CLOCK_S)
#define LOST_MARGIN (15 * CLOCK_S) /* beyond three heartbeats */
#define TWINS_NS (600 * CLOCK_S)   /* since when none was seen: there are none any more */
#define LAST_NS (3 * CLOCK_S)      /* for the last words at a stop */
#define ACKS 64                    /* that wait for the storage's disk */
#define ACK_SPACING (100 * CLOCK_MS)

/* What a checkpoint contains: messages of this connection up to the tag, in chunks up to the epoch. */
struct reached {
    uint64_t connection;
    uint64_t tag;
    uint64_t epoch;
    uint64_t committed_ns;
};

struct rabbitmq_source {
    struct rabbitmq_parameters parameters;
    /* Requires: emit, or the source's thread not running */
    struct consumed *consumed;
    uint64_t connection; /* the present one; counts up */
    uint64_t tag;        /* of the last message that was delivered on it */
    uint64_t urged;      /* the same when a checkpoint was last asked for */
    bool known;          /* the queue was there before */
    /* Thread: checkpoint */
    struct reached cut; /* at the last barrier */
    /* Thread: source; checkpoint when that has ended */
    struct rabbitmq *rabbitmq;
    struct rabbitmq_event message;
    struct consumed_id identity; /* of it */
    bool in_hand;
    bool crowded; /* the shards have no room for it */
    bool flows;   /* many have come at once */
    unsigned failures;
    uint64_t beat_ns; /* when the next heartbeat is due */
    struct reached acked;
    struct reached asked; /* the question is on its way behind this acknowledgement */
    bool answered;
    struct reached proving; /* this one was answered for, and waits for its proof */
    uint64_t first_tag;     /* of the last message that came for the first time */
    uint64_t repeated_tag;  /* and of the last that did not */
    bool paused;            /* and shown so */
    uint64_t lost_epoch;    /* chunks up to it are of earlier connections */
    bool lost_settled;
    uint64_t head_tag;  /* of the first message behind the head; 0: it has not come yet */
    uint64_t head_most; /* the head cannot have more messages */
    uint64_t twins_ns;  /* when twins were seen last; 0: never */
    struct buffer scratch;
    /* Thread: any */
    _Atomic bool ack_due;
    pthread_mutex_t lock;
    struct reached acks[ACKS]; /* Requires: lock. Committed, to be acknowledged, the oldest first */
    unsigned n_acks;
};

static struct rabbitmq_source *state_of(struct source *source)
{
    return source->state;
}

/* --- parameters and position --- */

static unsigned prefetch(const struct source *source)
{
    unsigned wanted = (unsigned)((const struct rabbitmq_source *)source->state)->parameters.prefetch;
    return source->worker->unsure_ns && wanted < PREFETCH_UNSURE ? PREFETCH_UNSURE : wanted;
}

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

static void acknowledge_last(struct source *source);

static void done(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    if (!s)
        return;
    if (s->rabbitmq)
        acknowledge_last(source);
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
    s->cut = (struct reached){s->connection, s->tag, source->filling_epoch, 0};
    consumed_cut(s->consumed, source, clock_coarse_ns());
    if (!s->known)
        return;
    buffer_append_text(out, "{\"queue\":");
    buffer_append_json(out, s->parameters.queue, strlen(s->parameters.queue));
    buffer_append_char(out, '}');
}

/* --- acknowledging --- */

static uint64_t due_at(const struct source *source, const struct reached *ack)
{
    return ack->committed_ns + source->worker->unsure_ns;
}

/* Takes the last acknowledgement that is due. When the next one is, else UINT64_MAX. */
static bool take_ack(struct source *source, uint64_t now, struct reached *ret_ack, uint64_t *ret_next_ns)
{
    struct rabbitmq_source *s = state_of(source);
    unsigned n = 0;
    pthread_mutex_lock(&s->lock);
    while (n < s->n_acks && due_at(source, &s->acks[n]) <= now)
        *ret_ack = s->acks[n++];
    s->n_acks -= n;
    memmove(s->acks, s->acks + n, s->n_acks * sizeof s->acks[0]);
    *ret_next_ns = s->n_acks ? due_at(source, &s->acks[0]) : UINT64_MAX;
    atomic_store(&s->ack_due, s->n_acks > 0);
    pthread_mutex_unlock(&s->lock);
    return n > 0;
}

static int ask(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    amqp_queue_declare_t question = {.queue = amqp_cstring_bytes(s->parameters.queue), .passive = 1};
    if (rabbitmq_send(s->rabbitmq, AMQP_QUEUE_DECLARE_METHOD, &question, err) < 0)
        return -1;
    s->asked = s->acked;
    return 0;
}

/* Acknowledges, and asks behind it, unless another answer is still to come. */
static int send_ack(struct source *source, const struct reached *ack, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    amqp_basic_ack_t method = {.delivery_tag = ack->tag, .multiple = 1};
    if (ack->connection != s->connection || ack->tag <= s->acked.tag)
        return 0;
    if (rabbitmq_send(s->rabbitmq, AMQP_BASIC_ACK_METHOD, &method, err) < 0)
        return -1;
    s->acked = *ack;
    if (!s->asked.tag && ask(source, err) < 0)
        return -1;
    return rabbitmq_flush(s->rabbitmq, err) < 0 ? -1 : 0;
}

static int acknowledge_due(struct source *source, uint64_t now, uint64_t *ret_next_ns, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    struct reached ack;
    *ret_next_ns = UINT64_MAX;
    if (!atomic_load(&s->ack_due))
        return 0;
    return take_ack(source, now, &ack, ret_next_ns) ? send_ack(source, &ack, err) : 0;
}

static bool are_twins(const struct rabbitmq_source *s, uint64_t now)
{
    return s->twins_ns && now < s->twins_ns + TWINS_NS;
}

static uint64_t kept_until(const struct source *source, uint64_t now, uint64_t longest)
{
    const struct rabbitmq_source *s = source->state;
    uint64_t window = (uint64_t)source->worker->config->redelivery_window_ns;
    if (are_twins(s, now))
        return 0;
    return now + (window < longest ? window : longest);
}

/* How long the broker may take for an earlier connection. */
static uint64_t lost_for(const struct rabbitmq_source *s)
{
    uint64_t heartbeat = rabbitmq_heartbeat_ns(s->rabbitmq);
    uint64_t noticed = 3 * heartbeat + LOST_MARGIN;
    return !heartbeat ? UINT64_MAX : noticed > LOST_NS ? noticed : LOST_NS;
}

/* Requires: emit */
static void settle_chunks(struct source *source, const struct reached *asked, uint64_t now)
{
    struct rabbitmq_source *s = state_of(source);
    uint64_t behind = s->proving.tag > s->repeated_tag ? s->proving.tag : s->repeated_tag;
    if (!s->lost_settled && s->head_tag && s->head_tag <= asked->tag) {
        consumed_settled(s->consumed, s->lost_epoch, kept_until(source, now, lost_for(s)));
        s->lost_settled = true;
    }
    if (!s->lost_settled)
        return;
    consumed_settled(s->consumed, asked->epoch, kept_until(source, now, UINT64_MAX));
    if (s->proving.tag && s->first_tag > behind + prefetch(source)) {
        consumed_shorten(s->consumed, s->lost_epoch, s->proving.epoch, kept_until(source, now, SETTLED_NS));
        s->proving.tag = 0;
    }
    if (!s->proving.tag)
        s->proving = *asked;
}

/* The question was answered: all that was acknowledged before it has reached the broker. */
static int settle(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    uint64_t now = clock_coarse_ns();
    struct reached asked = s->asked;
    s->answered = false;
    s->asked = (struct reached){0};
    s->failures = 0;
    pthread_mutex_lock(&source->emit);
    settle_chunks(source, &asked, now);
    consumed_expire(s->consumed, now);
    bool twins = are_twins(s, now);
    if (twins) /* what is gone from memory goes from storage soon, too */
        atomic_store(&source->changed, true);
    pthread_mutex_unlock(&source->emit);
    if (twins)
        checkpoint_changed(source->worker->checkpoint);
    return s->acked.tag > asked.tag ? ask(source, err) : 0;
}

/* At a stop the last checkpoints are committed when the thread has ended. Closing the connection then sees to
 * it that this takes effect. */
static void acknowledge_last(struct source *source)
{
    struct error err;
    struct reached ack;
    uint64_t next;
    if (!take_ack(source, UINT64_MAX, &ack, &next))
        return;
    for (uint64_t now; (now = clock_now_ns()) < due_at(source, &ack);) {
        uint64_t left = due_at(source, &ack) - now;
        nanosleep(&(struct timespec){.tv_sec = (time_t)(left / CLOCK_S), .tv_nsec = (long)(left % CLOCK_S)},
                  NULL);
    }
    if (send_ack(source, &ack, &err) < 0)
        log_warn("acknowledge", LOG_STR("source", source->name), LOG_STR("error", err.message));
}

static void acknowledge(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    struct reached ack = s->cut;
    if (!ack.tag)
        return;
    ack.committed_ns = clock_now_ns();
    pthread_mutex_lock(&s->lock);
    struct reached *last = s->n_acks ? &s->acks[s->n_acks - 1] : NULL;
    struct reached *before = s->n_acks > 1 ? &s->acks[s->n_acks - 2] : NULL;
    bool close = last && before && last->committed_ns < before->committed_ns + ACK_SPACING;
    if (!last || (!close && s->n_acks < ACKS))
        last = &s->acks[s->n_acks++];
    *last = ack;
    pthread_mutex_unlock(&s->lock);
    if (!atomic_exchange(&s->ack_due, true))
        source_wake(source);
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

/* A new connection: no tag of an earlier one means anything, and whatever was not acknowledged comes again.
 */
static void begin_connection(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    pthread_mutex_lock(&source->emit);
    s->connection++;
    s->tag = s->urged = 0;
    s->known = true;
    consumed_rewind(s->consumed);
    s->lost_epoch = source->filling_epoch;
    s->head_most = consumed_unsettled(s->consumed) + 3ull * prefetch(source); /* 2 may be unproven */
    s->lost_settled = !consumed_unsettled(s->consumed);
    pthread_mutex_unlock(&source->emit);
    s->head_tag = s->first_tag = s->repeated_tag = 0;
    s->acked = s->asked = s->proving = (struct reached){0};
    s->answered = s->paused = false;
}

static int subscribe(struct source *source, struct stream_wait *wait, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    struct rabbitmq_event event;
    amqp_basic_qos_t qos = {.prefetch_count = (uint16_t)prefetch(source)};
    amqp_basic_consume_t consume = {.queue = amqp_cstring_bytes(s->parameters.queue)};
    if (rabbitmq_call(s->rabbitmq, AMQP_BASIC_QOS_METHOD, &qos, AMQP_BASIC_QOS_OK_METHOD, wait, &event, err) <
        0)
        return -1;
    begin_connection(source);
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
    if (source->worker->unsure_ns || s->tag - s->urged < prefetch(source) / 2)
        return;
    s->urged = s->tag;
    checkpoint_urge(source->worker->checkpoint);
}

/* Where the head of the queue ends: the messages that were handed out before come before all others. */
static void look_for_head(struct rabbitmq_source *s, const amqp_basic_deliver_t *d)
{
    if (!s->head_tag && (!d->redelivered || d->delivery_tag > s->head_most))
        s->head_tag = d->delivery_tag;
}

/* Whether checkpoints contain the message in hand. CONSUMED_NEW; CONSUMED_TAKEN: they do; -1. */
static int look_up(struct rabbitmq_source *s, const amqp_basic_deliver_t *d, struct error *err)
{
    if (!d->redelivered)
        return CONSUMED_NEW;
    int r = consumed_take(s->consumed, &s->identity, err);
    bool taken_back = r == CONSUMED_NEW && s->head_tag && consumed_since(s->consumed, &s->identity) &&
                      !are_twins(s, clock_coarse_ns());
    return taken_back ? CONSUMED_TAKEN : r;
}

/* 0: the message in hand is done with; SOURCE_STOPPED: it stays in hand; -1. */
static int consume(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    const amqp_basic_deliver_t *d = s->message.decoded;
    const uint64_t at[2] = {s->identity.high, s->identity.low};
    int r = look_up(s, d, err);
    if (r < 0)
        return -1;
    if (r == CONSUMED_TAKEN) {
        source_drop(source, at);
    } else {
        if (consumed_has(s->consumed, &s->identity)) /* and yet it is another one */
            s->twins_ns = clock_coarse_ns();
        if (consumed_reserve(s->consumed, &s->identity, err) < 0)
            return -1;
        if ((r = deliver(source, at)))
            return r;
        consumed_add(s->consumed, &s->identity);
    }
    look_for_head(s, d);
    *(d->redelivered ? &s->repeated_tag : &s->first_tag) = d->delivery_tag;
    s->tag = d->delivery_tag;
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
    if (acknowledge_due(source, now, &ack_ns, err) < 0 || rabbitmq_flush(s->rabbitmq, err) < 0)
        return -1;
    if (now >= s->beat_ns && rabbitmq_beat(s->rabbitmq, now, &s->beat_ns, err) < 0)
        return -1;
    int r = read_batch(source, err);
    if (r < 0)
        return -1;
    if (s->answered && settle(source, err) < 0)
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
    .acknowledge = acknowledge,
    .sink_open = rabbitmq_sink_open,
    .sink_publish = rabbitmq_sink_publish,
    .sink_close = rabbitmq_sink_close,
    .parameters = rabbitmq_parameters_known,
    .check = check,
};
