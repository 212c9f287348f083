/* What is said to the queue about messages in hand: deletions, and how long they stay invisible. */
#include "worker/source/sqs_internal.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/fetch.h"
#include "common/log.h"
#include "worker/crash.h"
#include "worker/source/consumed.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define CALL_TIMEOUT (10 * CLOCK_S)
#define VISIBILITY_MARGIN (5 * CLOCK_S) /* clocks and queues are not exact */

static struct sqs_source *state_of(const struct source *source)
{
    return source->state;
}

/* --- what may be deleted --- */

/* Notes what has been committed, and makes DUE what can no longer be lost from the storage. */
static void note_committed(struct source *source, uint64_t now)
{
    struct sqs_source *s = state_of(source);
    uint64_t committed = atomic_load(&s->committed_epoch);
    if (s->unsafe_epoch && now >= s->safe_ns) {
        s->safe_epoch = s->unsafe_epoch;
        s->unsafe_epoch = 0;
    }
    if (committed > s->safe_epoch && !source->worker->unsure_ns)
        s->safe_epoch = committed;
    if (committed > s->safe_epoch && !s->unsafe_epoch) {
        s->unsafe_epoch = committed;
        s->safe_ns = now + source->worker->unsure_ns;
    }
    sqs_hand_committed(&s->hand, s->safe_epoch);
}

/* --- batches --- */

static int start_batch(struct sqs_release *r, const char *operation, bool visibility, unsigned seconds,
                       aws_done done, struct error *err)
{
    struct sqs_source *s = state_of(r->source);
    buffer_reset(&s->members, 1 << 16);
    buffer_append_text(&s->members, ",\"Entries\":[");
    for (size_t i = 0; i < r->n; i++) {
        const struct sqs_entry *e = r->entries[i];
        buffer_append_text(&s->members, i ? ",{\"Id\":\"" : "{\"Id\":\"");
        buffer_append_u64(&s->members, i);
        buffer_append_text(&s->members, "\",\"ReceiptHandle\":\"");
        buffer_append(&s->members, e->receipt, e->receipt_len);
        buffer_append_char(&s->members, '"');
        if (visibility)
            buffer_printf(&s->members, ",\"VisibilityTimeout\":%u", seconds);
        buffer_append_char(&s->members, '}');
    }
    buffer_append_char(&s->members, ']');
    return sqs_queue_call(&s->queue, operation, &s->members, CALL_TIMEOUT, done, r, &r->call, err);
}

static struct sqs_release *free_slot(struct sqs_release *slots, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!slots[i].call)
            return &slots[i];
    return NULL;
}

/* What became of each entry; false: of none, *err tells why. */
static bool read_results(const struct sqs_release *r, const struct aws_answer *answer,
                         struct sqs_result results[SQS_BATCH], struct error *err)
{
    if (answer->outcome != AWS_DONE) {
        *err = answer->error;
        return false;
    }
    return sqs_wire_results(answer->body, answer->len, r->n, results, err) == 0;
}

/* --- deletions --- */

static void deletion_failed(struct source *source, const struct error *err)
{
    struct sqs_source *s = state_of(source);
    if (!s->delete_failures)
        log_warn("sqs_delete", LOG_STR("source", source->name), LOG_STR("error", err->message));
    uint64_t delay = sqs_back_off(s->delete_failures, SQS_BACK_OFF_FIRST, SQS_BACK_OFF_LONGEST, &s->random);
    s->delete_failures++;
    s->delete_not_before_ns = clock_now_ns() + delay;
    if (s->delete_failures > 1) /* one may be chance */
        source_set_state(source, ARENA_SOURCE_UNAVAILABLE, err->message);
    s->shown_failing |= s->delete_failures > 1;
}

/* In their order, before the others. */
static void put_back(struct sqs_release *r)
{
    struct sqs_source *s = state_of(r->source);
    for (size_t i = r->n; i-- > 0;)
        sqs_hand_move(&s->hand, r->entries[i], SQS_DUE, true);
}

/* Returns whether it is to be repeated. */
static bool take_result(struct sqs_source *s, struct sqs_entry *e, const struct sqs_result *result)
{
    switch (result->outcome) {
    case SQS_SUCCEEDED:
        if (e->renewed) /* given out again meanwhile: only the newest handle is sure to delete */
            sqs_hand_move(&s->hand, e, SQS_DUE, false);
        else
            sqs_hand_remove(&s->hand, e);
        return false;
    case SQS_FAULTY:
        sqs_hand_move(&s->hand, e, e->renewed ? SQS_DUE : SQS_LOST, false);
        return false;
    default:
        sqs_hand_move(&s->hand, e, SQS_DUE, true);
        return true;
    }
}

static void on_deleted(void *data, const struct aws_answer *answer)
{
    struct sqs_release *r = data;
    struct source *source = r->source;
    struct sqs_source *s = state_of(source);
    struct sqs_result results[SQS_BATCH];
    struct error err;
    bool again = false;
    r->call = NULL;
    s->deleting--;
    crash_point("deleted");
    if (!read_results(r, answer, results, &err)) {
        put_back(r);
        if (answer->outcome == AWS_ABSENT)
            sqs_queue_gone(source);
        else
            deletion_failed(source, &err);
        return;
    }
    for (size_t i = 0; i < r->n; i++)
        if (take_result(s, r->entries[i], &results[i])) {
            again = true;
            error_set(&err, ERROR_UNAVAILABLE, "sqs DeleteMessageBatch: %s%s%s",
                      results[i].code[0] ? results[i].code : "an entry without an answer",
                      results[i].message[0] ? ": " : "", results[i].message);
        }
    if (again)
        deletion_failed(source, &err);
    else
        s->delete_failures = 0;
    sqs_settle(source, 0);
}

/* Up to a batch of those that are due, but for such as a request names already. */
static size_t take_due(struct sqs_source *s, struct sqs_release *r)
{
    struct sqs_entry *next;
    r->n = 0;
    for (struct sqs_entry *e = sqs_hand_first(&s->hand, SQS_DUE); e && r->n < SQS_BATCH; e = next) {
        next = sqs_hand_next(&s->hand, e);
        if (e->extending)
            continue;
        sqs_hand_move(&s->hand, e, SQS_DELETING, false);
        r->entries[r->n++] = e;
    }
    return r->n;
}

/* A batch that is not full waits while another one is under way: what comes meanwhile joins it. */
static bool may_delete(const struct sqs_source *s, uint64_t now)
{
    size_t due = s->hand.count[SQS_DUE];
    unsigned most = s->delete_failures ? 1 : SQS_DELETES;
    return due && s->queue.url && s->deleting < most && (due >= SQS_BATCH || !s->deleting) &&
           now >= s->delete_not_before_ns;
}

static void start_deletes(struct source *source, uint64_t now)
{
    struct sqs_source *s = state_of(source);
    struct error err;
    while (may_delete(s, now)) {
        struct sqs_release *r = free_slot(s->deletes, SQS_DELETES);
        if (!r || !take_due(s, r))
            return;
        r->source = source;
        crash_point("delete");
        if (start_batch(r, "DeleteMessageBatch", false, 0, on_deleted, &err) < 0) {
            put_back(r);
            deletion_failed(source, &err);
            return;
        }
        s->deleting++;
    }
}

/* --- visibility --- */

static void on_extended(void *data, const struct aws_answer *answer)
{
    struct sqs_release *r = data;
    struct source *source = r->source;
    struct sqs_source *s = state_of(source);
    struct sqs_result results[SQS_BATCH];
    struct error err;
    bool known = read_results(r, answer, results, &err);
    uint64_t soon = clock_now_ns() + sqs_visibility_ns(s) / 2 + SQS_BACK_OFF_FIRST;
    r->call = NULL;
    s->extending--;
    for (size_t i = 0; i < r->n; i++) {
        struct sqs_entry *e = r->entries[i];
        e->extending = false;
        /* One that cannot be extended (12 hours have passed, it was given out again) comes again. */
        sqs_hand_extend(&s->hand, e, known && results[i].outcome == SQS_SUCCEEDED ? r->visible_ns : soon);
    }
    if (!known && answer->outcome == AWS_ABSENT)
        sqs_queue_gone(source);
    else if (!known)
        log_warn("sqs_visibility", LOG_STR("source", source->name), LOG_STR("error", err.message));
}

static void start_extends(struct source *source, uint64_t now)
{
    struct sqs_source *s = state_of(source);
    struct sqs_entry *e;
    struct error err;
    uint64_t visibility = sqs_visibility_ns(s);
    while (s->queue.url && (e = sqs_hand_expiring(&s->hand)) && e->visible_ns < now + visibility / 2) {
        struct sqs_release *r = free_slot(s->extends, SQS_EXTENDS);
        if (!r)
            return;
        *r = (struct sqs_release){.source = source, .visible_ns = now + visibility};
        for (; e && r->n < SQS_BATCH && e->visible_ns < now + visibility / 2;
             e = sqs_hand_expiring(&s->hand)) {
            e->extending = true;
            r->entries[r->n++] = e;
        }
        if (start_batch(r, "ChangeMessageVisibilityBatch", true, (unsigned)(visibility / CLOCK_S),
                        on_extended, &err) == 0) {
            s->extending++;
            continue;
        }
        for (size_t i = 0; i < r->n; i++) {
            r->entries[i]->extending = false;
            sqs_hand_extend(&s->hand, r->entries[i], now + visibility / 2 + SQS_BACK_OFF_FIRST);
        }
        return;
    }
}

void sqs_release_start(struct source *source, uint64_t now)
{
    note_committed(source, now);
    start_deletes(source, now);
    start_extends(source, now);
}

uint64_t sqs_release_due(const struct source *source)
{
    const struct sqs_source *s = state_of(source);
    uint64_t at = UINT64_MAX;
    const struct sqs_entry *e = sqs_hand_expiring(&s->hand);
    if (!s->queue.url)
        return at;
    if (s->unsafe_epoch)
        at = s->safe_ns;
    if (s->hand.count[SQS_DUE] && s->delete_failures && !s->deleting)
        at = s->delete_not_before_ns < at ? s->delete_not_before_ns : at;
    if (e && s->extending < SQS_EXTENDS) {
        uint64_t early = sqs_visibility_ns(s) / 2;
        uint64_t extend = e->visible_ns > early ? e->visible_ns - early : 0;
        at = extend < at ? extend : at;
    }
    return at;
}

static void cancel_extends(struct sqs_source *s)
{
    for (size_t i = 0; i < SQS_EXTENDS; i++) {
        struct sqs_release *r = &s->extends[i];
        if (!r->call)
            continue;
        aws_call_cancel(r->call);
        r->call = NULL;
        for (size_t j = 0; j < r->n; j++)
            r->entries[j]->extending = false;
    }
    s->extending = 0;
}

void sqs_release_cancel(struct source *source)
{
    struct sqs_source *s = state_of(source);
    for (size_t i = 0; i < SQS_DELETES; i++)
        if (s->deletes[i].call) {
            aws_call_cancel(s->deletes[i].call);
            s->deletes[i].call = NULL;
            put_back(&s->deletes[i]);
        }
    s->deleting = 0;
    cancel_extends(s);
}

/* --- the end --- */

static void on_let_go(void *data, const struct aws_answer *answer)
{
    struct sqs_release *r = data;
    struct sqs_source *s = state_of(r->source);
    (void)answer; /* if it has failed, they become visible later */
    r->call = NULL;
    s->extending--;
    for (size_t i = 0; i < r->n; i++)
        sqs_hand_remove(&s->hand, r->entries[i]);
}

static bool let_go(struct source *source)
{
    struct sqs_source *s = state_of(source);
    struct sqs_release *r = free_slot(s->extends, SQS_EXTENDS);
    struct sqs_entry *e = sqs_hand_first(&s->hand, SQS_HELD);
    struct error err;
    if (!r || !e)
        return r;
    *r = (struct sqs_release){.source = source};
    for (; e && r->n < SQS_BATCH; e = sqs_hand_next(&s->hand, e))
        r->entries[r->n++] = e;
    if (start_batch(r, "ChangeMessageVisibilityBatch", true, 0, on_let_go, &err) < 0)
        return false;
    s->extending++;
    for (size_t i = 0; i < r->n; i++)
        sqs_hand_move(&s->hand, r->entries[i], SQS_DELETING, false);
    return true;
}

void sqs_release_held(struct source *source)
{
    struct sqs_source *s = state_of(source);
    uint64_t end = clock_now_ns() + SQS_RELEASE_TIMEOUT;
    cancel_extends(s);
    while (s->queue.url && (s->hand.count[SQS_HELD] || s->extending) && clock_now_ns() < end) {
        while (s->hand.count[SQS_HELD] && free_slot(s->extends, SQS_EXTENDS))
            if (!let_go(source))
                return;
        source_poll(source, fetch_pool_fd(s->queue.pool), POLLIN, end - clock_now_ns());
        fetch_pool_drive(s->queue.pool);
    }
}

void sqs_release_committed(struct source *source)
{
    struct sqs_source *s = state_of(source);
    uint64_t end = clock_now_ns() + SQS_RELEASE_TIMEOUT + source->worker->unsure_ns;
    s->delete_failures = 0;
    s->delete_not_before_ns = 0;
    for (uint64_t now; (now = clock_now_ns()) < end && !s->delete_failures && s->phase == SQS_READ;) {
        note_committed(source, now);
        start_deletes(source, now);
        bool waits = s->unsafe_epoch && s->hand.count[SQS_DELIVERED];
        if (!s->deleting && !waits)
            return;
        uint64_t until = waits && s->safe_ns < end ? s->safe_ns : end;
        struct pollfd fd = {.fd = fetch_pool_fd(s->queue.pool), .events = POLLIN};
        poll(&fd, 1, until > now ? (int)((until - now) / CLOCK_MS) + 1 : 0);
        fetch_pool_drive(s->queue.pool);
    }
}

/* --- what is settled --- */

/* Messages that should have come again by the time the queue was empty are not there any more. */
static void forget_lost(struct sqs_source *s, uint64_t quiet_ns)
{
    struct sqs_entry *next;
    for (struct sqs_entry *e = sqs_hand_first(&s->hand, SQS_LOST); e; e = next) {
        next = sqs_hand_next(&s->hand, e);
        if (e->visible_ns + VISIBILITY_MARGIN < quiet_ns)
            sqs_hand_remove(&s->hand, e);
    }
}

/* When all that an earlier life left in flight is visible again. */
static uint64_t visible_again(const struct sqs_source *s)
{
    uint64_t visibility = sqs_visibility_ns(s);
    if (s->earlier_visibility_s * CLOCK_S > visibility)
        visibility = s->earlier_visibility_s * CLOCK_S;
    return s->born_ns + visibility + VISIBILITY_MARGIN;
}

/* Whether so much has been consumed since, in a queue that was never empty, that an earlier life's messages
 * are given up: what comes behind them cannot be forgotten before them. */
static bool too_many_since(struct source *source)
{
    struct sqs_source *s = state_of(source);
    size_t most = (size_t)source->worker->config->redelivery_max;
    pthread_mutex_lock(&source->emit);
    size_t n = consumed_count(s->consumed);
    pthread_mutex_unlock(&source->emit);
    if (n > most)
        log_warn("event_source", LOG_STR("source", source->name), LOG_INT("redelivery_max", (long long)most),
                 LOG_STR("detail", "messages that were not seen deleted before the start are forgotten"));
    return n > most;
}

/* Whether all that an earlier life left in flight has come again, or cannot any more, or is given up. */
static bool earlier_life_over(struct source *source, uint64_t quiet_ns, uint64_t now)
{
    const struct sqs_source *s = state_of(source);
    uint64_t visible_ns = visible_again(s);
    return quiet_ns > visible_ns || now > visible_ns + s->queue.retention_s * CLOCK_S ||
           (now > visible_ns && too_many_since(source));
}

void sqs_settle(struct source *source, uint64_t quiet_ns)
{
    struct sqs_source *s = state_of(source);
    uint64_t now = clock_now_ns();
    uint64_t until = now + (uint64_t)source->worker->config->redelivery_window_ns;
    if (quiet_ns)
        forget_lost(s, quiet_ns);
    if (s->unsettled && earlier_life_over(source, quiet_ns, now)) {
        s->unsettled = false;
        pthread_mutex_lock(&source->emit);
        consumed_settled(s->consumed, consumed_restored(s->consumed), until);
        s->settled_epoch = consumed_restored(s->consumed);
        pthread_mutex_unlock(&source->emit);
    }
    uint64_t epoch = s->unsettled ? 0 : sqs_hand_settled(&s->hand, s->safe_epoch);
    if (!epoch)
        return;
    pthread_mutex_lock(&source->emit);
    consumed_settled(s->consumed, epoch, until);
    s->settled_epoch = epoch;
    pthread_mutex_unlock(&source->emit);
}
