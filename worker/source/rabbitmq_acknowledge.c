/* Acknowledging, and how long what was consumed is remembered.
 *
 *     delivered ──▶ barrier: tag, epoch ──▶ commit ──▶ acknowledge (noted) ──▶ ack, and a question behind it
 *                                                                                        │
 *     chunk expires ◀── a while ◀── proven by a later message ◀── settled: answered ◀────┘
 *
 * AMQP does not confirm acknowledgements, and the broker may forget one that it was sent. How long an
 * identity must stay follows from where it could be lost:
 *
 *   - On its way. The question (a passive declaration, whose answer is the queue's length, too) follows on
 *     the same channel, so its answer says that the channel's process has the acknowledgement. While the
 *     broker lives that is enough for a classic queue, which gets what the channel has passed on before it
 *     hears of the channel's end.
 *   - Before it was replicated. The channel of a quorum queue keeps acknowledgements while the queue's leader
 *     is slow or away, answers the question meanwhile, and takes them with it when it ends. What proves the
 *     acknowledgement of a tag is a message that comes for the first time, `prefetch` tags behind it: the
 *     queue, which counts what is handed out, has released it (a quorum queue: by its majority). Until then
 *     identities stay for redelivery_window; these are never more than those of the last prefetches.
 *   - With the broker. A classic queue's journal is written some 100 ms later, and not synced: a machine
 *     without power may lose what the kernel writes within 35 s. After a crash all messages are flagged.
 *     Identities stay for SETTLED_NS. More would not help: who restores an older state of the broker repeats
 *     everything; and ten minutes would be 18 million identities at 30,000 messages a second.
 *   - With an earlier connection, which the broker has not given up yet: it does within three heartbeats, and
 *     hands its messages out again. Those that are at the head of the queue already are settled when the
 *     first message behind that head is, and stay for LOST_NS, or longer when these heartbeats take longer;
 *     without heartbeats, or when messages have priorities, for redelivery_window.
 *
 * Flagged messages behind the head are of a queue that has taken back what it had handed out on this very
 * connection: a quorum queue that has lost sight of the connection's node for a while, a mirrored one whose
 * leader has changed. They come behind their first delivery, and so are dropped when they were consumed on
 * this connection, but not where there are twins.
 *
 * Twins, messages in which nothing differs, are counted: what was consumed twice and is redelivered twice is
 * dropped twice. Where twins are seen the chunks go as soon as they are settled, so that what was
 * acknowledged long ago does not stand for a twin that was handed out and not consumed. What remains: a twin
 * handed out and not consumed when the connection ends just between an acknowledgement's effect and the
 * knowledge of it (or, after a crash of the worker, the next checkpoint). And the first twins of all: one
 * that another connection held, and that comes flagged behind the head when its twin was consumed on this
 * connection, is taken for a repetition. Nothing tells them apart: delivery
 * tags are the connection's own, x-delivery-count is the same for both, other properties are the publisher's
 * and part of the identity, and the order of redelivery is that of the queue only as long as it has no
 * priorities and one earlier connection. Publishers that give each event an id, as CloudEvents wants it, have
 * no twins. Thread: as rabbitmq_internal.h says. */
#include "worker/source/rabbitmq_internal.h"

#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define PREFETCH_UNSURE 50000 /* at least, where acknowledgements wait for the storage's disk */
#define SETTLED_NS (40 * CLOCK_S)
#define LOST_NS (45 * CLOCK_S)
#define LOST_MARGIN (15 * CLOCK_S) /* beyond three heartbeats */
#define TWINS_NS (600 * CLOCK_S)   /* since when none was seen: there are none any more */
#define ACK_SPACING (100 * CLOCK_MS)

static struct rabbitmq_source *state_of(struct source *source)
{
    return source->state;
}

unsigned rabbitmq_prefetch(const struct source *source)
{
    unsigned wanted = (unsigned)((const struct rabbitmq_source *)source->state)->parameters.prefetch;
    return source->worker->unsure_ns && wanted < PREFETCH_UNSURE ? PREFETCH_UNSURE : wanted;
}

/* --- what comes again --- */

void rabbitmq_begin(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    pthread_mutex_lock(&source->emit);
    s->connection++;
    s->tag = s->urged = 0;
    s->known = true;
    consumed_rewind(s->consumed);
    s->lost_epoch = source->filling_epoch;
    s->head_most = consumed_unsettled(s->consumed) + 3ull * rabbitmq_prefetch(source); /* 2 may be unproven */
    s->lost_settled = !consumed_unsettled(s->consumed);
    pthread_mutex_unlock(&source->emit);
    s->head_tag = s->first_tag = s->repeated_tag = 0;
    s->acked = s->asked = s->proving = (struct rabbitmq_reached){0};
    s->answered = s->paused = false;
}

static bool are_twins(const struct rabbitmq_source *s, uint64_t now)
{
    return s->twins_ns && now < s->twins_ns + TWINS_NS;
}

int rabbitmq_look_up(struct rabbitmq_source *s, const amqp_basic_deliver_t *d, struct error *err)
{
    if (!d->redelivered)
        return CONSUMED_NEW;
    int r = consumed_take(s->consumed, &s->identity, err);
    bool taken_back = r == CONSUMED_NEW && s->head_tag && consumed_since(s->consumed, &s->identity) &&
                      !are_twins(s, clock_coarse_ns());
    return taken_back ? CONSUMED_TAKEN : r;
}

/* Where the head of the queue ends: the messages that were handed out before come before all others, but for
 * those of a higher priority. */
static void look_for_head(struct rabbitmq_source *s, const amqp_basic_deliver_t *d)
{
    if (!s->head_tag && (!d->redelivered || d->delivery_tag > s->head_most))
        s->head_tag = d->delivery_tag;
}

void rabbitmq_passed(struct rabbitmq_source *s, const amqp_basic_deliver_t *d)
{
    const amqp_basic_properties_t *p = s->message.properties;
    s->priorities |= (p->_flags & AMQP_BASIC_PRIORITY_FLAG) && p->priority;
    look_for_head(s, d);
    *(d->redelivered ? &s->repeated_tag : &s->first_tag) = d->delivery_tag;
    s->tag = d->delivery_tag;
}

/* --- acknowledging --- */

static uint64_t due_at(const struct source *source, const struct rabbitmq_reached *ack)
{
    return ack->committed_ns + source->worker->unsure_ns;
}

/* Takes the last acknowledgement that is due. When the next one is, else UINT64_MAX. */
static bool take_ack(struct source *source, uint64_t now, struct rabbitmq_reached *ret_ack,
                     uint64_t *ret_next_ns)
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
static int send_ack(struct source *source, const struct rabbitmq_reached *ack, struct error *err)
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

int rabbitmq_acknowledge_due(struct source *source, uint64_t now, uint64_t *ret_next_ns, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    struct rabbitmq_reached ack;
    *ret_next_ns = UINT64_MAX;
    if (!atomic_load(&s->ack_due))
        return 0;
    return take_ack(source, now, &ack, ret_next_ns) ? send_ack(source, &ack, err) : 0;
}

static uint64_t kept_until(const struct source *source, uint64_t now, uint64_t longest)
{
    const struct rabbitmq_source *s = source->state;
    uint64_t window = (uint64_t)source->worker->config->redelivery_window_ns;
    if (are_twins(s, now))
        return 0;
    return now + (window < longest ? window : longest);
}

/* How long the broker may take for an earlier connection. Where messages have priorities, all that come
 * meanwhile may come before those of that connection. */
static uint64_t lost_for(const struct rabbitmq_source *s)
{
    uint64_t heartbeat = rabbitmq_heartbeat_ns(s->rabbitmq);
    uint64_t noticed = 3 * heartbeat + LOST_MARGIN;
    return !heartbeat || s->priorities ? UINT64_MAX : noticed > LOST_NS ? noticed : LOST_NS;
}

/* Requires: emit */
static void settle_chunks(struct source *source, const struct rabbitmq_reached *asked, uint64_t now)
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
    if (s->proving.tag && s->first_tag > behind + rabbitmq_prefetch(source)) {
        consumed_shorten(s->consumed, s->lost_epoch, s->proving.epoch, kept_until(source, now, SETTLED_NS));
        s->proving.tag = 0;
    }
    if (!s->proving.tag)
        s->proving = *asked;
}

int rabbitmq_settle(struct source *source, struct error *err)
{
    struct rabbitmq_source *s = state_of(source);
    uint64_t now = clock_coarse_ns();
    struct rabbitmq_reached asked = s->asked;
    s->answered = false;
    s->asked = (struct rabbitmq_reached){0};
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

void rabbitmq_acknowledge_last(struct source *source)
{
    struct error err;
    struct rabbitmq_reached ack;
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

void rabbitmq_acknowledge(struct source *source)
{
    struct rabbitmq_source *s = state_of(source);
    struct rabbitmq_reached ack = s->cut;
    if (!ack.tag)
        return;
    ack.committed_ns = clock_now_ns();
    pthread_mutex_lock(&s->lock);
    struct rabbitmq_reached *last = s->n_acks ? &s->acks[s->n_acks - 1] : NULL;
    struct rabbitmq_reached *before = s->n_acks > 1 ? &s->acks[s->n_acks - 2] : NULL;
    bool close = last && before && last->committed_ns < before->committed_ns + ACK_SPACING;
    if (!last || (!close && s->n_acks < RABBITMQ_ACKS))
        last = &s->acks[s->n_acks++];
    *last = ack;
    pthread_mutex_unlock(&s->lock);
    if (!atomic_exchange(&s->ack_due, true))
        source_wake(source);
}
