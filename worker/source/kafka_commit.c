/* The consumer group's offsets, which lag tools and autoscalers read. They follow our checkpoints and are
 * never read again, but by a first start; so what is lost of them in a crash does not matter.
 *
 * A checkpoint covers events. What lies behind the last of them and is none (ends of transactions) has no
 * checkpoint to come, so it is added here: else such a partition would seem to lag for ever. */
#include "worker/source/kafka_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "worker/report.h"
#include "worker/source/source.h"

#define LAST_NS (2 * CLOCK_S)

bool kafka_offsets_resize(struct kafka_offsets *o, size_t n)
{
    int64_t *list = n > o->n ? realloc(o->list, n * sizeof *list) : o->list;
    if (n && !list)
        return false;
    o->list = list;
    for (; o->n < n; o->n++)
        o->list[o->n] = KAFKA_NO_OFFSET;
    o->n = n;
    return true;
}

/* The offset of a partition that the group may have. None while it is in question whether the partition is
 * still the one that the checkpoint speaks of, nor when it was begun anew since. Requires: lock. */
static int64_t reached(const struct kafka_source *s, size_t i)
{
    int64_t offset = kafka_offset(&s->committed, i);
    const struct kafka_partition *p = &s->partitions.list[i];
    if (!p->assigned || p->verifying || p->retrace >= 0 || p->another || p->astray || offset > p->next)
        return KAFKA_NO_OFFSET;
    return offset >= 0 && p->delivered <= offset && offset < p->next ? p->next : offset;
}

/* What has changed since the last time; NULL: nothing. */
static rd_kafka_topic_partition_list_t *collect(struct kafka_source *s)
{
    rd_kafka_topic_partition_list_t *list = NULL;
    pthread_mutex_lock(&s->lock);
    size_t n = s->committed.n < s->partitions.n ? s->committed.n : s->partitions.n;
    if (kafka_offsets_resize(&s->sent, n))
        for (size_t i = 0; i < n; i++) {
            int64_t offset = reached(s, i);
            if (offset < 0 || offset == s->sent.list[i])
                continue;
            if (!list && !(list = rd_kafka_topic_partition_list_new((int)n)))
                break;
            rd_kafka_topic_partition_list_add(list, s->parameters.topic, (int32_t)i)->offset = offset;
        }
    pthread_mutex_unlock(&s->lock);
    return list;
}

void kafka_commit_done(rd_kafka_t *rk, rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t *offsets,
                       void *opaque)
{
    struct kafka_source *s = opaque;
    (void)rk;
    s->committing = false;
    for (int i = 0; offsets && i < offsets->cnt; i++) {
        const rd_kafka_topic_partition_t *one = &offsets->elems[i];
        if (!code && one->err)
            code = one->err;
        if (!code && (size_t)one->partition < s->sent.n)
            s->sent.list[one->partition] = one->offset;
    }
    if (!code || code == RD_KAFKA_RESP_ERR__NO_OFFSET) {
        if (s->commit_warned)
            report_warning(s->report, "kafka_group", NULL);
        s->commit_warned = false;
        return;
    }
    atomic_store(&s->commit_due, true);
    char text[200];
    snprintf(text, sizeof text, "event source %s: the group's offsets do not follow (for lag tools): %s",
             s->name, rd_kafka_err2str(code));
    report_warning(s->report, "kafka_group", text);
    s->commit_warned = true;
}

static void send_offsets(struct kafka_source *s)
{
    atomic_store(&s->commit_due, false);
    rd_kafka_topic_partition_list_t *list = collect(s);
    if (!list)
        return;
    s->commit_ns = clock_coarse_ns();
    if (rd_kafka_commit(s->rk, list, true))
        atomic_store(&s->commit_due, true);
    else
        s->committing = true;
    rd_kafka_topic_partition_list_destroy(list);
}

void kafka_commit(struct source *source)
{
    struct kafka_source *s = source->state;
    if (s->rk && s->reading && kafka_commit_wakes(s) <= clock_coarse_ns())
        send_offsets(s);
}

uint64_t kafka_commit_wakes(const struct kafka_source *s)
{
    if (s->committing || !s->reading || !atomic_load(&s->commit_due))
        return UINT64_MAX;
    return s->commit_ns + s->commit_every_ns;
}

/* Answers come by the queue, behind messages that nobody takes any more. */
void kafka_commit_last(struct source *source)
{
    struct kafka_source *s = source->state;
    uint64_t end = clock_now_ns() + LAST_NS;
    bool sent = false;
    while (s->reading && clock_now_ns() < end) {
        if (!s->committing) {
            if (sent || !atomic_load(&s->commit_due))
                return;
            send_offsets(s);
            sent = true;
            continue;
        }
        ssize_t n = rd_kafka_consume_batch_queue(s->queue, 50, s->batch, KAFKA_BATCH);
        for (ssize_t i = 0; i < n; i++)
            rd_kafka_message_destroy(s->batch[i]);
    }
}
