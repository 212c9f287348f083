/* Which partitions there are, and from where each is read.
 *
 * A look at the topic (kafka_check) comes at the start, every ten seconds, and when librdkafka tells of
 * trouble. Partitions that are not read yet, and those that have come to be in question, get an offset:
 *
 *     no position: adoption, or the group's offset, or the first one; a partition that was added later the
 *                  first one
 *     position before the first offset: events were trimmed away; they are counted as lost
 *     position behind the end, for longer than a moment: the topic was made anew, or the log has lost its
 * end:
 *                  it is compared with the trail (kafka_partitions.h), from the first record that is in both.
 *                  Where it differs first, or ends, reading goes on; if that is at once, it was made anew
 *     otherwise: from the last record that was delivered, if it is still there, so that it can be compared;
 * it is not delivered again (kafka.c). Another one there: likewise
 *
 * So do those from which librdkafka could not fetch, until it can: it does not tell when that is, but once
 * the partition is given to it anew, either a record or the end comes, or the error again. One that no broker
 * leads is left as it is. The state tells of both; the other partitions are read meanwhile.
 *
 * A topic that is not there may only be so for a moment, while a broker starts. Positions are kept then, and
 * looked at when it is back; only when we make it anew ourselves is it certain that they mean nothing. */
#include "worker/source/kafka_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/source/kafka_topic.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define RETRY_FIRST (100 * CLOCK_MS)
#define RETRY_LONGEST (5 * CLOCK_S)
#define MISSING_PATIENCE (3 * CLOCK_S) /* before a topic that was there is made anew */
#define SUSPICION CLOCK_S              /* a partition must be too short for so long */
#define BOUNDS_AT_ONCE 1000

void kafka_check_soon(struct kafka_source *s)
{
    if (!s->failures)
        s->check_ns = 0;
}

void kafka_check_later(struct kafka_source *s)
{
    uint64_t then = clock_coarse_ns() + CLOCK_S;
    if (!s->failures && s->check_ns > then)
        s->check_ns = then;
}

void kafka_recovered(struct kafka_source *s, struct kafka_partition *p)
{
    if (!p->failing)
        return;
    p->failing = false;
    s->check_ns = 0;
}

static int call_ms(const struct kafka_source *s)
{
    return KAFKA_CALL_MS << s->patience;
}

static struct error *trouble(struct kafka_source *s, struct error *err)
{
    if (s->reason[0] && (err->code == ERROR_UNAVAILABLE || err->code == ERROR_LIMIT))
        error_set(err, ERROR_UNAVAILABLE, "%s", s->reason);
    return err;
}

static void retry_later(struct source *source, const struct error *err)
{
    struct kafka_source *s = source->state;
    uint64_t delay = RETRY_FIRST << (s->failures < 6 ? s->failures : 6);
    s->failures++;
    s->well = false;
    s->check_ns = clock_coarse_ns() + (delay < RETRY_LONGEST ? delay : RETRY_LONGEST);
    arena_add(&source->stats->reconnects, 1);
    source_set_state(source, ARENA_SOURCE_UNAVAILABLE, err->message);
}

static void fail(struct source *source, const char *why)
{
    struct kafka_source *s = source->state;
    s->failed = true;
    s->reading = false;
    s->well = false;
    source_set_state(source, ARENA_SOURCE_FAILED, why);
}

/* --- telling librdkafka --- */

static int call_assign(struct source *source, const rd_kafka_topic_partition_list_t *list, bool add,
                       struct error *err)
{
    struct kafka_source *s = source->state;
    char why[200] = "";
    rd_kafka_error_t *error =
        add ? rd_kafka_incremental_assign(s->rk, list) : rd_kafka_incremental_unassign(s->rk, list);
    if (!error)
        return 0;
    snprintf(why, sizeof why, "%s", rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    return error_set(err, ERROR_UNAVAILABLE, "topic %s: assigning partitions: %s", s->parameters.topic, why);
}

/* Empties the queues of partitions that were taken away, and forgets them. In librdkafka (2.0) what stands in
 * such a queue keeps its partition, and that the broker that led it; when the partition is gone from the
 * cluster, nothing else empties it, and rd_kafka_destroy waits for ever. */
static void empty(struct kafka_source *s, rd_kafka_queue_t **queues, int n)
{
    rd_kafka_topic_partition_list_t *rest;
    /* Its answer comes after what was asked before is done: the queues are no longer parts of ours. */
    if (rd_kafka_assignment(s->rk, &rest))
        return;
    rd_kafka_topic_partition_list_destroy(rest);
    for (int i = 0; i < n; i++) {
        ssize_t got = queues[i] ? 1 : 0;
        while (got > 0) {
            got = rd_kafka_consume_batch_queue(queues[i], 0, s->batch, KAFKA_BATCH);
            for (ssize_t k = 0; k < got; k++)
                rd_kafka_message_destroy(s->batch[k]);
        }
    }
}

static int take_away(struct source *source, const rd_kafka_topic_partition_list_t *list, struct error *err)
{
    struct kafka_source *s = source->state;
    rd_kafka_queue_t **queues = calloc((size_t)list->cnt, sizeof(rd_kafka_queue_t *));
    if (!queues)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (int i = 0; i < list->cnt; i++)
        queues[i] = rd_kafka_queue_get_partition(s->rk, list->elems[i].topic, list->elems[i].partition);
    int r = call_assign(source, list, false, err);
    if (!r)
        empty(s, queues, list->cnt);
    for (int i = 0; i < list->cnt; i++)
        if (queues[i])
            rd_kafka_queue_destroy(queues[i]);
    free(queues);
    return r;
}

/* Takes all partitions, or those that are in question, away from librdkafka. */
static int unassign(struct source *source, bool questionable_only, struct error *err)
{
    struct kafka_source *s = source->state;
    int r = 0;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    if (!list)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < s->partitions.n; i++) {
        const struct kafka_partition *p = &s->partitions.list[i];
        if (p->assigned && (!questionable_only || p->another || p->astray || p->failing))
            rd_kafka_topic_partition_list_add(list, s->parameters.topic, (int32_t)i);
    }
    if (list->cnt)
        r = take_away(source, list, err);
    for (int i = 0; i < list->cnt && !r; i++)
        s->partitions.list[list->elems[i].partition].assigned = false;
    rd_kafka_topic_partition_list_destroy(list);
    return r;
}

/* Has it read every partition that it does not read and that has a position. */
static int assign(struct source *source, const struct kafka_bounds *bounds, size_t n, struct error *err)
{
    struct kafka_source *s = source->state;
    int r = 0;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    if (!list)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        struct kafka_partition *p = &s->partitions.list[bounds[i].partition];
        if (p->next < 0 || p->suspect_ns)
            continue;
        p->verifying = p->retrace < 0 && p->last >= bounds[i].low;
        p->high = bounds[i].high;
        rd_kafka_topic_partition_list_add(list, s->parameters.topic, (int32_t)bounds[i].partition)->offset =
            p->retrace >= 0 ? p->retrace
            : p->verifying  ? p->last
                            : p->next;
    }
    if (list->cnt)
        r = call_assign(source, list, true, err);
    if (list->cnt)
        atomic_store(&s->commit_due, true);
    for (int i = 0; i < list->cnt && !r; i++)
        s->partitions.list[list->elems[i].partition].assigned = true;
    rd_kafka_topic_partition_list_destroy(list);
    return r;
}

/* --- deciding --- */

static void count_lost(struct source *source, size_t partition, int64_t from, int64_t low)
{
    log_error("events_lost", LOG_STR("source", source->name),
              LOG_STR("topic", ((struct kafka_source *)source->state)->parameters.topic),
              LOG_UINT("partition", partition), LOG_INT("offset", from), LOG_INT("count", low - from));
    arena_add(&source->stats->lost, (uint64_t)(low - from));
}

/* first: the workflow begins to read this topic. */
static void first_offset(struct source *source, const struct kafka_bounds *b, bool first)
{
    struct kafka_source *s = source->state;
    struct kafka_partition *p = &s->partitions.list[b->partition];
    int64_t offset = -1;
    if (first && s->from)
        offset = s->from_kind == KAFKA_FROM_END    ? b->high
                 : s->from_kind == KAFKA_FROM_LIST ? kafka_from_offset(s->from, b->partition)
                                                   : b->low;
    else if (first)
        offset = b->committed;
    if (offset >= 0 && offset < b->low)
        count_lost(source, b->partition, offset, b->low);
    kafka_partition_begin(p, offset < b->low || offset > b->high ? b->low : offset);
}

/* Gives the partition an offset, or leaves it in suspicion. Returns whether it was made anew. Requires: emit.
 */
static bool decide(struct source *source, const struct kafka_bounds *b, bool first)
{
    struct kafka_source *s = source->state;
    struct kafka_partition *p = &s->partitions.list[b->partition];
    uint64_t now = clock_now_ns();
    p->astray = false;
    if (p->next < 0) {
        first_offset(source, b, first);
        return false;
    }
    if (!p->another && p->next > b->high && (!p->suspect_ns || now < p->suspect_ns + SUSPICION)) {
        p->suspect_ns = p->suspect_ns ? p->suspect_ns : now;
        return false;
    }
    bool anew = p->another || p->next > b->high;
    bool differs = p->retrace >= 0 && p->another; /* from the first record on */
    p->suspect_ns = 0;
    if ((anew || p->retrace >= 0) && !differs && kafka_partition_retrace(p, b->low, b->high)) {
        p->another = false;
        return false;
    }
    if (anew) {
        kafka_partition_begin(p, b->low);
    } else if (p->next < b->low) {
        count_lost(source, b->partition, p->next, b->low);
        kafka_partition_begin(p, b->low);
    }
    return anew;
}

static void tell_recreated(struct source *source)
{
    struct kafka_source *s = source->state;
    log_warn("source_recreated", LOG_STR("source", source->name), LOG_STR("topic", s->parameters.topic));
    arena_add(&source->stats->recreated, 1);
}

/* 0; 1: it stops for a topic that was made anew. */
static int decide_all(struct source *source, const struct kafka_bounds *bounds, size_t n, bool first)
{
    bool anew = false;
    pthread_mutex_lock(&source->emit);
    for (size_t i = 0; i < n; i++)
        anew |= decide(source, &bounds[i], first);
    atomic_store(&source->changed, true);
    pthread_mutex_unlock(&source->emit);
    checkpoint_changed(source->worker->checkpoint);
    if (!anew)
        return 0;
    tell_recreated(source);
    return source->on_recreated_stop;
}

/* --- the topic --- */

/* Those of its partitions that librdkafka does not read, or not rightly, and that can be read. */
static size_t questionable(const struct kafka_source *s, size_t from, struct kafka_bounds *to,
                           size_t *ret_next)
{
    size_t n = 0;
    size_t i = from;
    for (; i < s->n_seen && n < BOUNDS_AT_ONCE; i++) {
        const struct kafka_partition *p = &s->partitions.list[i];
        if (!p->leaderless && (!p->assigned || p->another || p->astray || p->failing))
            to[n++] = (struct kafka_bounds){.partition = i};
    }
    *ret_next = i;
    return n;
}

/* The first round has not come to its end: nothing was delivered, and it begins anew. */
static void begin_again(struct source *source)
{
    struct kafka_source *s = source->state;
    struct error ignored;
    (void)unassign(source, false, &ignored); /* if it fails, assigning them again does, visibly */
    pthread_mutex_lock(&source->emit);
    for (size_t i = 0; i < s->partitions.n; i++)
        kafka_partition_begin(&s->partitions.list[i], KAFKA_NO_OFFSET);
    pthread_mutex_unlock(&source->emit);
}

/* From now on there is a position; an adoption has become one. */
static void settle(struct source *source)
{
    struct kafka_source *s = source->state;
    pthread_mutex_lock(&source->emit);
    free(s->from);
    s->from = NULL;
    s->begun = true;
    atomic_store(&source->changed, true);
    pthread_mutex_unlock(&source->emit);
    checkpoint_changed(source->worker->checkpoint);
}

static bool leaderless(const struct kafka_source *s, struct error *err)
{
    for (size_t i = 0; i < s->n_seen; i++)
        if (s->partitions.list[i].leaderless) {
            error_set(err, ERROR_UNAVAILABLE, "topic %s: partition %zu has no leader", s->parameters.topic,
                      i);
            return true;
        }
    return false;
}

/* Reads what is not read yet. 0; 1 stopped; -1. */
static int take_up(struct source *source, struct error *err)
{
    struct kafka_source *s = source->state;
    bool first = !s->begun || s->from;
    int r = first && leaderless(s, err) ? -1 : unassign(source, true, err);
    struct kafka_bounds *bounds = malloc(BOUNDS_AT_ONCE * sizeof *bounds);
    if (!bounds)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t next = 0; next < s->n_seen && !r;) {
        size_t n = questionable(s, next, bounds, &next);
        if (!n)
            continue;
        arena_beat(source->life, clock_coarse_ns());
        r = source_stopping(source) ? error_set(err, ERROR_UNAVAILABLE, "it stops")
                                    : kafka_topic_bounds(s->rk, s->parameters.topic, bounds, n,
                                                         first && !s->from, call_ms(s), err);
        if (!r)
            r = decide_all(source, bounds, n, first);
        if (!r)
            r = assign(source, bounds, n, err);
    }
    free(bounds);
    if (first && r)
        begin_again(source);
    else if (first)
        settle(source);
    return r;
}

/* What was known of the topic's records is known of another's. */
static void forget_topic(struct source *source)
{
    struct kafka_source *s = source->state;
    for (size_t i = 0; i < s->partitions.n; i++)
        s->partitions.list[i].another = s->partitions.list[i].next > 0;
}

/* Compares the cluster with the one that the position belongs to. Returns whether it is another. */
static bool other_cluster(struct source *source)
{
    struct kafka_source *s = source->state;
    char *id = rd_kafka_clusterid(s->rk, 0);
    bool other = id && s->cluster && strcmp(id, s->cluster) != 0;
    if (id && (!s->cluster || other)) {
        char *copy = strdup(id);
        pthread_mutex_lock(&source->emit);
        if (copy) {
            free(s->cluster);
            s->cluster = copy;
        }
        pthread_mutex_unlock(&source->emit);
    }
    if (id)
        rd_kafka_mem_free(s->rk, id);
    return other;
}

/* The topic is there, with n partitions. Fewer than before: another topic, or a broker that does not know
 * yet; all are compared with what was read. 0; 1 stopped; -1. */
static int see_topic(struct source *source, size_t n, const bool *led, struct error *err)
{
    struct kafka_source *s = source->state;
    int r = 0;
    s->missing_ns = 0;
    if (other_cluster(source))
        forget_topic(source);
    if (n < s->n_seen && unassign(source, false, err) < 0)
        return -1;
    s->n_seen = n;
    if (n > s->partitions.n) {
        pthread_mutex_lock(&source->emit);
        r = kafka_partitions_resize(&s->partitions, n, err);
        pthread_mutex_unlock(&source->emit);
    }
    for (size_t i = 0; i < n && !r; i++)
        s->partitions.list[i].leaderless = !led[i];
    return r < 0 ? -1 : take_up(source, err);
}

/* The topic is not there: it is made, at once when nothing was read from it. 0; 1 stopped; -1. */
static int make_topic(struct source *source, struct error *err)
{
    struct kafka_source *s = source->state;
    bool known = false;
    for (size_t i = 0; i < s->partitions.n; i++)
        known |= s->partitions.list[i].next > 0;
    if (!s->missing_ns)
        s->missing_ns = clock_now_ns();
    if (unassign(source, false, err) < 0)
        return -1;
    if (known && clock_now_ns() < s->missing_ns + MISSING_PATIENCE)
        return error_set(err, ERROR_UNAVAILABLE, "topic %s does not exist", s->parameters.topic);
    if (known && source->on_recreated_stop) {
        tell_recreated(source);
        return 1;
    }
    int r = kafka_topic_create(s->rk, s->parameters.topic, call_ms(s), err);
    if (r < 0)
        return -1;
    s->failures = 0; /* it will be there in a moment */
    if (r == 0) {
        log_info("topic_created", LOG_STR("source", source->name), LOG_STR("topic", s->parameters.topic));
        forget_topic(source);
    }
    return error_set(err, ERROR_UNAVAILABLE, "topic %s was created, and is awaited", s->parameters.topic);
}

static uint64_t next_check(const struct kafka_source *s)
{
    for (size_t i = 0; i < s->partitions.n; i++)
        if (s->partitions.list[i].suspect_ns)
            return clock_coarse_ns() + SUSPICION / 2;
    return clock_coarse_ns() + s->check_every_ns;
}

/* Whether a partition cannot be read now. */
static bool is_hampered(const struct kafka_source *s, struct error *err)
{
    for (size_t i = 0; i < s->n_seen; i++)
        if (s->partitions.list[i].failing) {
            error_set(err, ERROR_UNAVAILABLE, "%s", s->failure);
            return true;
        }
    return leaderless(s, err);
}

/* 0; 1 stopped; -1. */
static int look_at_topic(struct source *source, struct error *err)
{
    struct kafka_source *s = source->state;
    size_t n;
    bool *led = NULL;
    uint64_t start = clock_now_ns();
    int r = kafka_topic_partitions(s->rk, s->topic, call_ms(s), &n, &led, err);
    arena_beat(source->life, clock_coarse_ns());
    if (r == KAFKA_TOPIC_MISSING)
        r = make_topic(source, err);
    else if (!r)
        r = see_topic(source, n, led, err);
    free(led);
    if (r < 0 && err->code == ERROR_LIMIT && s->patience < KAFKA_PATIENCE_MAX)
        s->patience++;
    else if (!r && clock_now_ns() < start + KAFKA_CALL_MS / 2 * CLOCK_MS)
        s->patience = 0;
    return r;
}

void kafka_leave(struct source *source)
{
    struct error ignored; /* librdkafka is about to be ended, and does it, too */
    (void)unassign(source, false, &ignored);
}

void kafka_check(struct source *source)
{
    struct kafka_source *s = source->state;
    struct error err;
    s->check_ns = next_check(s);
    int r = look_at_topic(source, &err);
    if (source_stopping(source))
        return;
    if (r > 0) {
        fail(source, "the topic was deleted or made anew (on_recreated: stop)");
        return;
    }
    s->reading = !r;
    if (r < 0 || is_hampered(s, &err)) {
        retry_later(source, r < 0 ? trouble(s, &err) : &err);
        return;
    }
    s->failures = 0;
    s->reason[0] = '\0';
    s->check_ns = next_check(s);
    if (!s->well)
        source_set_state(source, ARENA_SOURCE_READING, NULL);
    s->well = true;
}
