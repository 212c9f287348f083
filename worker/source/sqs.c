/* SQSEventSource: the life of the source. See sqs_internal.h. */
#include "worker/source/source.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/fetch.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/source/consumed.h"
#include "worker/source/sqs_internal.h"
#include "worker/source/sqs_sink.h"
#include "worker/worker.h"

#define VISIBILITY_LEAST 10 /* seconds, unless less is wished: messages must be extended in time */
#define NOT_FOUND_LONGEST (5 * CLOCK_S)
#define LENGTH_EVERY (10 * CLOCK_S)

static struct sqs_source *state_of(const struct source *source)
{
    return source->state;
}

uint64_t sqs_visibility_ns(const struct sqs_source *s)
{
    if (s->parameters.visibility_timeout)
        return (unsigned)s->parameters.visibility_timeout * CLOCK_S;
    return (s->queue.visibility_s < VISIBILITY_LEAST ? VISIBILITY_LEAST : s->queue.visibility_s) * CLOCK_S;
}

/* --- parameters and position --- */

static int init(struct source *source, const struct json_value *parameters, struct error *err)
{
    struct sqs_source *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    source->state = s;
    sqs_hand_init(&s->hand);
    s->wanted = 1;
    s->batch = SQS_BATCH;
    s->random = clock_now_ns() ^ source->name_hash;
    if (sqs_parameters_read(parameters, &s->parameters, err) < 0)
        return -1;
    if (!source->consume)
        return 0;
    if (consumed_new(source->worker->creation, (size_t)source->worker->config->redelivery_max, &s->consumed,
                     err) < 0)
        return -1;
    return sqs_queue_init(&s->queue, &s->parameters, err);
}

static int check(const struct json_value *parameters, struct error *err)
{
    struct sqs_parameters p;
    if (sqs_parameters_read(parameters, &p, err) < 0)
        return -1;
    sqs_parameters_done(&p);
    return 0;
}

static void done(struct source *source)
{
    struct sqs_source *s = state_of(source);
    if (!s)
        return;
    if (s->queue.client)
        sqs_release_committed(source);
    sqs_queue_done(&s->queue);
    sqs_hand_done(&s->hand);
    consumed_free(s->consumed);
    buffer_done(&s->scratch);
    buffer_done(&s->members);
    sqs_parameters_done(&s->parameters);
    free(s);
}

static uint64_t read_number(const struct json_value *position, const char *name)
{
    struct json_value value;
    int64_t n;
    if (!json_member(position, name, &value) || value.type != JSON_NUMBER || !json_integer(&value, &n) ||
        n < 0)
        return 0;
    return (uint64_t)n;
}

/* "end": as of now; or unix milliseconds. */
static int read_from(struct sqs_source *s, const struct json_value *from, struct error *err)
{
    struct json_value number = *from;
    int64_t ms;
    number.type = JSON_NUMBER;
    if (json_equals(from, "end", 3)) {
        s->from_ms = clock_unix_ns() / CLOCK_MS;
    } else if (!from->escaped && from->len && strspn(from->text, "0123456789") >= from->len &&
               json_integer(&number, &ms) && ms > 0) {
        s->from_ms = (uint64_t)ms;
    } else {
        return error_set(err, ERROR_INVALID, "%.*s is neither end nor unix milliseconds",
                         (int)(from->len < 80 ? from->len : 80), from->text);
    }
    s->started = true;
    return 0;
}

/* {"queue","created","visibility","deleted","from_ms"}, or {"from":"end"|ms} when adopting. */
static int restore(struct source *source, const struct json_value *position, struct error *err)
{
    struct sqs_source *s = state_of(source);
    struct json_value value;
    if (!position || !source->consume)
        return 0;
    if (position->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is not a position in a queue");
    if (json_member(position, "from", &value) && value.type == JSON_STRING)
        return read_from(s, &value, err);
    if (!json_member(position, "queue", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "is not a position in a queue");
    s->earlier_visibility_s = read_number(position, "visibility");
    s->settled_epoch = read_number(position, "deleted");
    s->from_ms = read_number(position, "from_ms");
    if (json_equals(&value, s->parameters.queue, strlen(s->parameters.queue)))
        s->created_unix_s = read_number(position, "created");
    else
        log_warn("event_source", LOG_STR("source", source->name), LOG_STR("queue", s->parameters.queue),
                 LOG_STR("detail", "the queue is another one than before"));
    s->started = true;
    return 0;
}

static int restore_consumed(struct source *source, const char *key, size_t key_len, const char *value,
                            size_t len, struct error *err)
{
    struct sqs_source *s = state_of(source);
    return source->consume ? consumed_restore(s->consumed, key, key_len, value, len, err) : 0;
}

static void position(struct source *source, struct buffer *out)
{
    struct sqs_source *s = state_of(source);
    consumed_cut(s->consumed, source, clock_now_ns());
    s->cut_epoch = source->filling_epoch;
    if (!s->started)
        return;
    buffer_append_text(out, "{\"queue\":");
    buffer_append_json(out, s->parameters.queue, strlen(s->parameters.queue));
    buffer_printf(out, ",\"created\":%llu,\"visibility\":%llu,\"deleted\":%llu",
                  (unsigned long long)s->created_unix_s, (unsigned long long)s->shown_visibility_s,
                  (unsigned long long)s->settled_epoch);
    if (s->from_ms)
        buffer_printf(out, ",\"from_ms\":%llu", (unsigned long long)s->from_ms);
    buffer_append_char(out, '}');
}

/* Runs after the checkpoint of cut_epoch has committed. */
static void acknowledge(struct source *source)
{
    struct sqs_source *s = state_of(source);
    atomic_store(&s->committed_epoch, s->cut_epoch);
    source_wake(source);
}

/* --- states --- */

void sqs_failed(struct source *source, const struct error *err)
{
    struct sqs_source *s = state_of(source);
    uint64_t longest = err->code == ERROR_NOT_FOUND ? NOT_FOUND_LONGEST : SQS_BACK_OFF_LONGEST;
    uint64_t now = clock_now_ns();
    if (now < s->not_before_ns) /* one of several that failed together */
        return;
    s->not_before_ns = now + sqs_back_off(s->failures, SQS_BACK_OFF_FIRST, longest, &s->random);
    s->failures++;
    s->wanted = 1;
    s->paused = false;
    s->shown_failing = true;
    arena_add(&source->stats->reconnects, 1);
    source_set_state(source, ARENA_SOURCE_UNAVAILABLE, err->message);
}

void sqs_well(struct source *source)
{
    struct sqs_source *s = state_of(source);
    s->failures = 0;
    s->not_before_ns = 0;
    if (s->shown_failing && s->delete_failures < 2) {
        s->shown_failing = false;
        source_set_state(source, ARENA_SOURCE_READING, NULL);
    }
}

bool sqs_has_room(struct source *source)
{
    struct sqs_source *s = state_of(source);
    bool room = source_ask_room(source);
    if (room == s->paused && !s->shown_failing) {
        bool full = atomic_load(&source->worker->arena->worker.dead_letters_full);
        source_set_state(source, room ? ARENA_SOURCE_READING : ARENA_SOURCE_PAUSED,
                         !room && full ? "the dead letters are full" : NULL);
    }
    s->paused = !room;
    return room;
}

/* --- finding the queue --- */

void sqs_queue_gone(struct source *source)
{
    struct sqs_source *s = state_of(source);
    struct error err;
    error_set(&err, ERROR_NOT_FOUND, "queue %s does not exist", s->parameters.queue);
    sqs_receive_cancel(source);
    sqs_release_cancel(source);
    if (sqs_hand_uncommitted(&s->hand) > s->gone_epoch)
        s->gone_epoch = sqs_hand_uncommitted(&s->hand);
    sqs_hand_clear(&s->hand);
    sqs_queue_forget_url(&s->queue);
    s->phase = SQS_FIND;
    s->not_before_ns = 0;
    sqs_failed(source, &err);
}

/* Whether it is the queue of before; otherwise told, and whether to stop for it. */
static bool take_attributes(struct source *source)
{
    struct sqs_source *s = state_of(source);
    uint64_t created = s->queue.created_unix_s;
    pthread_mutex_lock(&source->emit);
    bool another = s->created_unix_s && created && created != s->created_unix_s;
    bool changed = !s->started || created != s->created_unix_s;
    s->created_unix_s = created ? created : s->created_unix_s;
    s->shown_visibility_s = sqs_visibility_ns(s) / CLOCK_S;
    s->started = true;
    pthread_mutex_unlock(&source->emit);
    if (another) {
        log_warn("source_recreated", LOG_STR("source", source->name), LOG_STR("queue", s->parameters.queue));
        arena_add(&source->stats->recreated, 1);
    }
    if (changed) {
        atomic_store(&source->changed, true);
        checkpoint_changed(source->worker->checkpoint);
    }
    return !another || !source->on_recreated_stop;
}

static void on_attributes(void *data, const struct aws_answer *answer)
{
    struct source *source = data;
    struct sqs_source *s = state_of(source);
    struct error err;
    s->asking = NULL;
    if (sqs_queue_read_attributes(&s->queue, answer, &err) < 0) {
        if (err.code == ERROR_NOT_FOUND)
            sqs_queue_forget_url(&s->queue);
        s->phase = err.code == ERROR_NOT_FOUND ? SQS_FIND : SQS_LOOK;
        sqs_failed(source, &err);
        return;
    }
    if (!take_attributes(source)) {
        s->phase = SQS_STOP;
        source_set_state(source, ARENA_SOURCE_FAILED,
                         "the queue was deleted and made anew (on_recreated: stop)");
        return;
    }
    s->phase = SQS_READ;
    s->shown_failing = false;
    source_set_state(source, ARENA_SOURCE_READING, NULL);
}

static void on_url(void *data, const struct aws_answer *answer)
{
    struct source *source = data;
    struct sqs_source *s = state_of(source);
    struct error err;
    s->asking = NULL;
    if (sqs_queue_read_url(&s->queue, answer, &err) < 0)
        sqs_failed(source, &err);
    else
        s->phase = SQS_LOOK;
}

static void find_queue(struct source *source, uint64_t now)
{
    struct sqs_source *s = state_of(source);
    struct error err;
    if (now >= s->not_before_ns)
        s->not_before_ns = 0;
    if (s->asking || s->phase >= SQS_READ || s->not_before_ns)
        return;
    if (s->phase == SQS_FIND && s->queue.url)
        s->phase = SQS_LOOK;
    int r = s->phase == SQS_FIND
                ? sqs_queue_ask_url(&s->queue, on_url, source, &s->asking, &err)
                : sqs_queue_ask_attributes(&s->queue, on_attributes, source, &s->asking, &err);
    if (r < 0)
        sqs_failed(source, &err);
}

/* --- the length of the queue --- */

static void on_length(void *data, const struct aws_answer *answer)
{
    struct source *source = data;
    struct sqs_source *s = state_of(source);
    struct error err;
    s->asking = NULL;
    s->queue.length = 0;
    if (sqs_queue_read_attributes(&s->queue, answer, &err) == 0)
        arena_set(&source->stats->lag, s->queue.length);
}

/* Only while there is a backlog: an empty answer tells that there is none. */
static void ask_length(struct source *source, uint64_t now)
{
    struct sqs_source *s = state_of(source);
    if (s->phase != SQS_READ || s->asking || s->wanted < 2 || now < s->length_ns + LENGTH_EVERY)
        return;
    s->length_ns = now;
    sqs_queue_ask_attributes(&s->queue, on_length, source, &s->asking, NULL);
}

/* --- the thread --- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t next_due(const struct source *source)
{
    const struct sqs_source *s = state_of(source);
    uint64_t at = sqs_release_due(source);
    if (s->phase != SQS_STOP && s->not_before_ns)
        at = earlier(at, s->not_before_ns);
    if (s->hand.count[SQS_HELD] && s->look_ns)
        at = earlier(at, s->look_ns);
    return at;
}

static void wait(struct source *source)
{
    struct sqs_source *s = state_of(source);
    uint64_t at = next_due(source);
    uint64_t now = clock_now_ns();
    if (at == UINT64_MAX)
        source_poll(source, fetch_pool_fd(s->queue.pool), POLLIN, UINT64_MAX);
    else
        source_poll(source, fetch_pool_fd(s->queue.pool), POLLIN, at > now ? at - now : 0);
}

/* What earlier lives have consumed and seen deleted, and what they have not. */
static void look_back(struct source *source)
{
    struct sqs_source *s = state_of(source);
    uint64_t until = clock_now_ns() + (uint64_t)source->worker->config->redelivery_window_ns;
    pthread_mutex_lock(&source->emit);
    uint64_t restored = consumed_restored(s->consumed);
    s->unsettled = restored > s->settled_epoch;
    if (restored)
        consumed_settled(s->consumed, earlier(restored, s->settled_epoch), until);
    pthread_mutex_unlock(&source->emit);
}

static void run(struct source *source)
{
    struct sqs_source *s = state_of(source);
    s->born_ns = clock_now_ns();
    look_back(source);
    while (!source_stopping(source)) {
        uint64_t now = clock_now_ns();
        find_queue(source, now);
        sqs_deliver(source);
        sqs_release_start(source, now);
        sqs_receive_start(source, now);
        ask_length(source, now);
        wait(source);
        fetch_pool_drive(s->queue.pool);
    }
    sqs_receive_cancel(source);
    if (s->asking)
        aws_call_cancel(s->asking);
    s->asking = NULL;
    sqs_release_held(source);
}

extern const struct source_type source_sqs;
const struct source_type source_sqs = {
    .class_name = "SQSEventSource",
    .init = init,
    .done = done,
    .restore = restore,
    .restore_consumed = restore_consumed,
    .run = run,
    .position = position,
    .acknowledge = acknowledge,
    .sink_open = sqs_sink_open,
    .sink_publish = sqs_sink_publish,
    .sink_close = sqs_sink_close,
    .parameters = sqs_parameters_known,
    .check = check,
};
