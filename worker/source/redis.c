/* RedisEventSource: a Redis stream, read with XREAD from the position in our own checkpoint; no consumer
 * group.
 *
 * One reply at a time is parsed into a batch (hiredis' reader with our own functions, so that no reply tree
 * is built); as soon as it is whole the next XREAD is sent, and while the server works on that, the batch is
 * delivered. */
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
#include "common/redis.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/source/redis_batch.h"
#include "worker/source/redis_parameters.h"
#include "worker/source/redis_sink.h"
#include "worker/worker.h"

#define CONNECT_TIMEOUT (5 * CLOCK_S)
#define CALL_TIMEOUT (10 * CLOCK_S)
#define COUNT_FIRST 100
#define COUNT_MOST 1000
#define BYTES_WANTED (4u << 20) /* of one reply: large events are read fewer at a time */
#define RETRY_FIRST (100 * CLOCK_MS)
#define RETRY_LONGEST (5 * CLOCK_S)
#define LAG_EVERY CLOCK_S
#define TRIM_EVERY (100 * CLOCK_MS)

struct redis_source {
    struct redis_parameters parameters;
    /* Requires: emit, or the source's thread not running */
    struct redis_id delivered; /* behind the last delivered event */
    uint64_t number;           /* entries of the stream up to there, as Redis counts them (entries-added) */
    bool started;              /* there is a position */
    char *from; /* adoption: "end" or an id, until the first connection has made it a position */
    /* Thread: source */
    struct redis *redis;
    struct redis *side; /* for XINFO and XTRIM, opened when needed */
    struct redis_batch batch;
    bool asked;               /* an XREAD is on its way */
    struct redis_frame frame; /* its reply, looked at before it is parsed */
    struct redis_id last;     /* its last entry, when whole */
    bool whole;               /* all of it is there */
    bool piecewise;           /* it is parsed without waiting for its end */

    unsigned count;
    unsigned failures;
    uint64_t lag_ns;  /* when the lag was looked at last */
    uint64_t trim_ns; /* when it was trimmed last */
    struct redis_id trimmed;
    struct buffer body;
    /* Thread: any */
    _Atomic bool trim_due;
    pthread_mutex_t lock;
    struct redis_id committed; /* Requires: lock */
};

static struct redis_source *state_of(struct source *source)
{
    return source->state;
}

static bool id_parse(const char *text, size_t len, struct redis_id *ret_id)
{
    char copy[48];
    unsigned long long ms;
    unsigned long long seq = 0;
    char rest;
    if (len >= sizeof copy)
        return false;
    memcpy(copy, text, len);
    copy[len] = '\0';
    int n = sscanf(copy, "%llu-%llu%c", &ms, &seq, &rest);
    if (n != 2 && !(n == 1 && sscanf(copy, "%llu%c", &ms, &rest) == 1))
        return false;
    *ret_id = (struct redis_id){ms, seq};
    return true;
}

static int id_compare(struct redis_id a, struct redis_id b)
{
    if (a.ms != b.ms)
        return a.ms < b.ms ? -1 : 1;
    return a.seq < b.seq ? -1 : a.seq > b.seq;
}

/* --- parameters and position --- */

static int init(struct source *source, const struct json_value *parameters, struct error *err)
{
    struct redis_source *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory");
    source->state = s;
    pthread_mutex_init(&s->lock, NULL);
    s->count = COUNT_FIRST;
    if (redis_parameters_read(parameters, &s->parameters, err) < 0)
        return -1;
    if (s->parameters.db)
        log_warn("event_source", LOG_STR("source", source->name), LOG_INT("db", s->parameters.db),
                 LOG_STR("detail", "the database number is honoured; the original worker ignores it"));
    return 0;
}

static int check(const struct json_value *parameters, struct error *err)
{
    struct redis_parameters p;
    if (redis_parameters_read(parameters, &p, err) < 0)
        return -1;
    redis_parameters_done(&p);
    return 0;
}

static void done(struct source *source)
{
    struct redis_source *s = state_of(source);
    if (!s)
        return;
    redis_free(s->redis);
    redis_free(s->side);
    redis_batch_done(&s->batch);
    buffer_done(&s->body);
    redis_parameters_done(&s->parameters);
    pthread_mutex_destroy(&s->lock);
    free(s->from);
    free(s);
}

/* {"stream","id","read"}, or {"from":"end"|id} when adopting. */
static int restore(struct source *source, const struct json_value *position, struct error *err)
{
    struct redis_source *s = state_of(source);
    struct json_value value;
    int64_t read = 0;
    if (!position)
        return 0;
    if (position->type == JSON_OBJECT && json_member(position, "from", &value) && value.type == JSON_STRING) {
        struct redis_id id;
        if (!json_equals(&value, "end", 3) && !id_parse(value.text, value.len, &id))
            return error_set(err, ERROR_INVALID, "%.*s is neither end nor an entry id", (int)value.len,
                             value.text);
        s->from = strndup(value.text, value.len);
        return s->from ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (position->type != JSON_OBJECT || !json_member(position, "stream", &value) ||
        value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "is not a position in a Redis stream");
    if (!json_equals(&value, s->parameters.stream, strlen(s->parameters.stream))) {
        log_warn("event_source", LOG_STR("source", source->name), LOG_STR("stream", s->parameters.stream),
                 LOG_STR("detail", "the stream is another one than before: it is read from its beginning"));
        return 0;
    }
    if (!json_member(position, "id", &value) || value.type != JSON_STRING ||
        !id_parse(value.text, value.len, &s->delivered))
        return error_set(err, ERROR_INVALID, "has no entry id");
    if (json_member(position, "read", &value) && json_integer(&value, &read) && read > 0)
        s->number = (uint64_t)read;
    s->started = true;
    s->committed = s->delivered; /* the life before may have died before it trimmed */
    atomic_store(&s->trim_due, s->parameters.trim);
    return 0;
}

static void position(struct source *source, struct buffer *out)
{
    struct redis_source *s = state_of(source);
    if (s->from) { /* adopted, and not connected yet: a later life must not begin at the beginning */
        buffer_append_text(out, "{\"from\":");
        buffer_append_json(out, s->from, strlen(s->from));
        buffer_append_char(out, '}');
    }
    if (!s->started)
        return;
    buffer_append_text(out, "{\"stream\":");
    buffer_append_json(out, s->parameters.stream, strlen(s->parameters.stream));
    buffer_printf(out, ",\"id\":\"%llu-%llu\",\"read\":%llu}", (unsigned long long)s->delivered.ms,
                  (unsigned long long)s->delivered.seq, (unsigned long long)s->number);
}

/* Runs after the checkpoint that holds barrier_position has committed. */
static void acknowledge(struct source *source)
{
    struct redis_source *s = state_of(source);
    if (!s->parameters.trim)
        return;
    pthread_mutex_lock(&s->lock);
    s->committed = (struct redis_id){source->barrier_position[0], source->barrier_position[1]};
    pthread_mutex_unlock(&s->lock);
    if (!atomic_exchange(&s->trim_due, true))
        source_wake(source);
}

/* --- the stream's own state --- */

struct stream_info {
    bool exists;
    bool counts; /* Redis 7: the two below are known */
    uint64_t added;
    uint64_t length;
    struct redis_id last;
};

static void read_info(const redisReply *reply, struct stream_info *info)
{
    info->exists = true;
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i + 1 < reply->elements; i += 2) {
        const redisReply *name = reply->element[i];
        const redisReply *value = reply->element[i + 1];
        if (name->type != REDIS_REPLY_STRING)
            continue;
        if (!strcmp(name->str, "length") && value->type == REDIS_REPLY_INTEGER)
            info->length = (uint64_t)value->integer;
        if (!strcmp(name->str, "entries-added") && value->type == REDIS_REPLY_INTEGER) {
            info->added = (uint64_t)value->integer;
            info->counts = true;
        }
        if (!strcmp(name->str, "last-generated-id") && value->type == REDIS_REPLY_STRING)
            id_parse(value->str, (size_t)value->len, &info->last);
    }
}

static void beat(void *data)
{
    struct source *source = data;
    arena_beat(source->life, clock_coarse_ns());
}

static int ask_info(struct source *source, struct redis *redis, struct stream_info *ret_info,
                    struct error *err)
{
    struct redis_source *s = state_of(source);
    const char *argv[] = {"XINFO", "STREAM", s->parameters.stream};
    redisReply *reply;
    *ret_info = (struct stream_info){0};
    if (redis_call(redis, CALL_TIMEOUT, beat, source, 3, argv, NULL, &reply, err) < 0)
        return strstr(err->message, "no such key") ? 0 : -1;
    read_info(reply, ret_info);
    freeReplyObject(reply);
    return 0;
}

/* Makes an adoption's starting point a position, and tells what has happened to the stream since ours.
 * Returns 1 when the source has to stop for it. */
static int check_stream(struct source *source, const struct stream_info *info)
{
    struct redis_source *s = state_of(source);
    uint64_t trimmed = info->counts && info->added > info->length ? info->added - info->length : 0;
    bool adopted = s->from;
    int r = 0;
    pthread_mutex_lock(&source->emit);
    if (adopted) {
        s->delivered = info->last;
        s->number = info->added;
        if (strcmp(s->from, "end") != 0)
            id_parse(s->from, strlen(s->from), &s->delivered);
        s->started = true;
        atomic_store(&source->changed, true);
        free(s->from);
        s->from = NULL;
    }
    if (s->started && (s->delivered.ms || s->delivered.seq) &&
        (!info->exists || id_compare(info->last, s->delivered) < 0)) {
        log_warn("source_recreated", LOG_STR("source", source->name),
                 LOG_STR("stream", s->parameters.stream));
        arena_add(&source->stats->recreated, 1);
        s->delivered = (struct redis_id){0, 0};
        s->number = 0;
        r = source->on_recreated_stop;
    } else if (s->started && trimmed > s->number && s->delivered.ms) {
        log_error("events_lost", LOG_STR("source", source->name), LOG_STR("stream", s->parameters.stream),
                  LOG_UINT("count", trimmed - s->number));
        arena_add(&source->stats->lost, trimmed - s->number);
    }
    if (s->number < trimmed)
        s->number = trimmed;
    pthread_mutex_unlock(&source->emit);
    if (adopted)
        checkpoint_changed(source->worker->checkpoint);
    return r;
}

/* --- connecting --- */

static void disconnect(struct redis_source *s)
{
    redis_free(s->redis);
    redis_free(s->side);
    s->redis = s->side = NULL;
    s->asked = false;
}

static int open_connection(struct source *source, struct redis **ret_redis, struct error *err)
{
    struct redis_address address = redis_parameters_address(&state_of(source)->parameters);
    source_poll(source, -1, 0, 0); /* takes old wake-ups off, which would end the wait at once */
    return redis_connect(&address, source->worker->workspace, CONNECT_TIMEOUT, source->wake_fd, ret_redis,
                         err);
}

/* Shows what is wrong and waits a little longer each time. */
static void back_off(struct source *source, const struct error *err)
{
    struct redis_source *s = state_of(source);
    uint64_t delay = RETRY_FIRST << (s->failures < 6 ? s->failures : 6);
    uint64_t until = clock_now_ns() + (delay < RETRY_LONGEST ? delay : RETRY_LONGEST);
    disconnect(s);
    s->failures++;
    arena_add(&source->stats->reconnects, 1);
    source_set_state(source, ARENA_SOURCE_UNAVAILABLE, err->message);
    for (uint64_t now; (now = clock_now_ns()) < until && !source_stopping(source);)
        source_poll(source, -1, 0, until - now);
}

/* 0 connected; 1 stopped for a recreated stream; -1 not connected. */
static int connect_source(struct source *source, struct error *err)
{
    struct redis_source *s = state_of(source);
    struct stream_info info;
    if (open_connection(source, &s->redis, err) < 0 || ask_info(source, s->redis, &info, err) < 0)
        return -1;
    if (check_stream(source, &info)) {
        source_set_state(source, ARENA_SOURCE_FAILED,
                         "the stream was deleted or made anew (on_recreated: stop)");
        return 1;
    }
    if (redis_set_reader(s->redis, redis_batch_functions(), &s->batch, err) < 0)
        return -1;
    return 0;
}

/* --- reading --- */

static int ask(struct source *source, struct redis_id after, struct error *err)
{
    struct redis_source *s = state_of(source);
    char count[12];
    char id[48];
    const char *argv[] = {"XREAD", "COUNT", count, "BLOCK", "0", "STREAMS", s->parameters.stream, id};
    snprintf(count, sizeof count, "%u", s->count);
    snprintf(id, sizeof id, "%llu-%llu", (unsigned long long)after.ms, (unsigned long long)after.seq);
    if (redis_send(s->redis, 8, argv, NULL, err) < 0 || redis_flush(s->redis, err) < 0)
        return -1;
    s->asked = true;
    return 0;
}

/* Looks for the end of the reply before it is parsed. 0 it is all there, or is to be parsed piece by piece
 * (it is large, or odd); 1 not yet; -1 connection lost. */
static int look_ahead(struct source *source, struct error *err)
{
    struct redis_source *s = state_of(source);
    const char *text;
    size_t len;
    int r = 0;
    while (!s->whole && !s->piecewise && (r = redis_read_ahead(s->redis, &text, &len, err)) == 0) {
        int scanned = redis_frame_scan(&s->frame, text, len);
        s->whole = scanned == 0;
        if (s->whole && s->frame.n_entries)
            s->last = redis_frame_last(&s->frame, text);
        s->piecewise = scanned < 0 || (scanned > 0 && len > BYTES_WANTED * 2);
    }
    return s->whole || s->piecewise ? 0 : r;
}

/* 0 a whole reply is in the batch; 1 not yet; -1 connection lost, or Redis has refused. */
static int receive(struct source *source, struct error *err)
{
    struct redis_source *s = state_of(source);
    void *reply;
    int r = redis_receive(s->redis, &reply, err);
    if (r)
        return r;
    if (s->batch.error.len)
        return redis_reply_error(s->batch.error.data, s->batch.error.len, err);
    return 0;
}

static void adapt_count(struct redis_source *s, size_t bytes, size_t n_entries)
{
    size_t average = bytes / n_entries + 1;
    size_t count = BYTES_WANTED / average;
    s->count = count < 1 ? 1 : count > COUNT_MOST ? COUNT_MOST : (unsigned)count;
}

/* --- delivering --- */

/* An entry that is no CloudEvent is kept as it was. */
static void reject(struct source *source, const struct redis_entry *entry, const char *reason,
                   const char *detail)
{
    struct redis_source *s = state_of(source);
    buffer_reset(&s->body, 1 << 20);
    buffer_append_text(&s->body, "\"fields\":[");
    for (size_t i = 0; i < entry->n_fields; i += 2) {
        size_t len[2] = {0, 0};
        const char *name = redis_batch_field(&s->batch, entry, i, &len[0]);
        const char *value =
            i + 1 < entry->n_fields ? redis_batch_field(&s->batch, entry, i + 1, &len[1]) : "";
        buffer_append_text(&s->body, i ? ",[" : "[");
        json_append_bytes(&s->body, name, len[0]);
        buffer_append_char(&s->body, ',');
        json_append_bytes(&s->body, value, len[1]);
        buffer_append_char(&s->body, ']');
    }
    buffer_append_char(&s->body, ']');
    uint64_t at[2] = {entry->id.ms, entry->id.seq};
    source_reject(source, reason, detail, at, s->body.data, s->body.len);
}

static int read_event(struct redis_source *s, const struct redis_entry *entry, struct cloudevent *event,
                      struct error *err)
{
    cloudevent_clear(event);
    for (size_t i = 0; i + 1 < entry->n_fields; i += 2) {
        size_t name_len;
        size_t value_len;
        const char *name = redis_batch_field(&s->batch, entry, i, &name_len);
        const char *value = redis_batch_field(&s->batch, entry, i + 1, &value_len);
        if (cloudevent_add(event, name, name_len, value, value_len, err) < 0)
            return -1;
    }
    return cloudevent_check(event, err);
}

/* 0, or SOURCE_STOPPED. Requires: emit. */
static int deliver(struct source *source, const struct redis_entry *entry, struct cloudevent *event)
{
    struct redis_source *s = state_of(source);
    struct error err;
    int r = 0;
    if (entry->bytes > (size_t)source->worker->config->max_event_bytes) {
        char detail[96];
        snprintf(detail, sizeof detail, "%zu bytes, more than max_event_bytes (%lld)", entry->bytes,
                 (long long)source->worker->config->max_event_bytes);
        reject(source, entry, "too_large", detail);
    } else if (read_event(s, entry, event, &err) < 0) {
        reject(source, entry, "invalid_event", err.message);
    } else {
        uint64_t at[2] = {entry->id.ms, entry->id.seq};
        r = source_deliver(source, event, at, event->attribute[CE_KEY].text != NULL);
    }
    if (r)
        return r;
    s->delivered = entry->id;
    s->number++;
    s->started = true;
    return 0;
}

static int deliver_batch(struct source *source)
{
    struct redis_source *s = state_of(source);
    struct cloudevent event;
    int r = 0;
    source_begin_batch(source);
    for (size_t i = 0; i < s->batch.n_entries && !r; i++)
        r = deliver(source, &s->batch.entries[i], &event);
    arena_add(&source->stats->bytes, s->batch.text.len);
    source_end_batch(source);
    return r;
}

/* --- beside the reading --- */

static struct redis *side_connection(struct source *source)
{
    struct redis_source *s = state_of(source);
    struct error err;
    if (s->side && redis_broken(s->side)) {
        redis_free(s->side);
        s->side = NULL;
    }
    if (!s->side && open_connection(source, &s->side, &err) < 0)
        s->side = NULL;
    return s->side;
}

static void look_at_lag(struct source *source, bool full_batch)
{
    struct redis_source *s = state_of(source);
    struct stream_info info;
    struct error err;
    uint64_t now = clock_coarse_ns();
    if (!full_batch) {
        arena_set(&source->stats->lag, 0);
        return;
    }
    if (now < s->lag_ns + LAG_EVERY)
        return;
    s->lag_ns = now;
    struct redis *side = side_connection(source);
    if (side && ask_info(source, side, &info, &err) == 0 && info.counts)
        arena_set(&source->stats->lag, info.added > s->number ? info.added - s->number : 0);
}

static void trim(struct source *source)
{
    struct redis_source *s = state_of(source);
    char id[48];
    const char *argv[] = {"XTRIM", s->parameters.stream, "MINID", id};
    redisReply *reply;
    struct error err;
    uint64_t now = clock_coarse_ns();
    if (!atomic_load(&s->trim_due) || now < s->trim_ns + TRIM_EVERY)
        return;
    struct redis *side = side_connection(source);
    if (!side)
        return;
    atomic_store(&s->trim_due, false);
    s->trim_ns = now;
    pthread_mutex_lock(&s->lock);
    struct redis_id committed = s->committed;
    pthread_mutex_unlock(&s->lock);
    if (id_compare(committed, s->delivered) > 0)
        return; /* in a stream that this one has replaced */
    snprintf(id, sizeof id, "%llu-%llu", (unsigned long long)committed.ms,
             (unsigned long long)committed.seq + 1);
    if (redis_call(side, CALL_TIMEOUT, beat, source, 4, argv, NULL, &reply, &err) < 0) {
        log_warn("trim", LOG_STR("source", source->name), LOG_STR("error", err.message));
        if (err.code == ERROR_UNAVAILABLE)
            atomic_store(&s->trim_due, true);
        return;
    }
    freeReplyObject(reply);
}

/* Waits until `step` is over; 0 when it is. */
static int wait_for(struct source *source, int (*step)(struct source *, struct error *), struct error *err)
{
    struct redis_source *s = state_of(source);
    for (;;) {
        int r = step(source, err);
        if (r <= 0)
            return r;
        trim(source);
        uint64_t timeout = atomic_load(&s->trim_due) ? TRIM_EVERY : UINT64_MAX;
        if (source_stopping(source))
            return SOURCE_STOPPED;
        source_poll(source, redis_fd(s->redis), redis_events(s->redis), timeout);
        if (source_stopping(source))
            return SOURCE_STOPPED;
    }
}

static void expect_reply(struct redis_source *s)
{
    s->frame = (struct redis_frame){0};
    s->whole = s->piecewise = false;
    redis_batch_begin(&s->batch);
}

/* What came is delivered; what follows was asked for already. 0, SOURCE_STOPPED, or -1: connection lost. */
static int take_batch(struct source *source, bool full, struct error *err)
{
    struct redis_source *s = state_of(source);
    if (s->failures && s->batch.n_entries) {
        s->failures = 0;
        source_set_state(source, ARENA_SOURCE_READING, NULL);
    }
    int r = s->batch.n_entries ? deliver_batch(source) : 0;
    crash_point("delivered");
    if (r)
        return r;
    if (s->batch.failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a batch of events");
    look_at_lag(source, full);
    trim(source);
    return 0;
}

/* One round: the reply, the next question, the delivery. 0, SOURCE_STOPPED, or -1: connection lost. */
static int round_trip(struct source *source, struct error *err)
{
    struct redis_source *s = state_of(source);
    if (!s->asked) {
        if (source_wait_room(source))
            return SOURCE_STOPPED;
        if (ask(source, s->delivered, err) < 0)
            return -1;
    }
    expect_reply(s);
    int r = wait_for(source, look_ahead, err);
    if (r)
        return r;
    s->asked = false;
    unsigned asked_for = s->count;
    bool full = s->frame.n_entries >= asked_for;
    if (s->whole && s->frame.n_entries)
        adapt_count(s, s->frame.at, s->frame.n_entries);
    if (s->whole && full && source_has_room(source) && ask(source, s->last, err) < 0)
        return -1;
    r = wait_for(source, receive, err);
    if (r)
        return r;
    if (s->whole && s->batch.n_entries != s->frame.n_entries && !s->batch.failed)
        return error_set(err, ERROR_UNAVAILABLE, "%s: not an answer to XREAD", redis_peer(s->redis));
    if (s->piecewise && s->batch.n_entries) {
        adapt_count(s, s->batch.text.len, s->batch.n_entries);
        full = true;
    }
    return take_batch(source, full, err);
}

static void run(struct source *source)
{
    struct redis_source *s = state_of(source);
    struct error err;
    while (!source_stopping(source)) {
        if (!s->redis) {
            int r = connect_source(source, &err);
            if (r > 0) {
                while (!source_stopping(source))
                    source_poll(source, -1, 0, UINT64_MAX);
                break;
            }
            if (r < 0) {
                if (!source_stopping(source))
                    back_off(source, &err);
                continue;
            }
            source_set_state(source, ARENA_SOURCE_READING, NULL);
        }
        if (round_trip(source, &err) < 0)
            back_off(source, &err);
    }
    disconnect(s);
}

extern const struct source_type source_redis;
const struct source_type source_redis = {
    .class_name = "RedisEventSource",
    .init = init,
    .done = done,
    .restore = restore,
    .run = run,
    .position = position,
    .acknowledge = acknowledge,
    .sink_open = redis_sink_open,
    .sink_publish = redis_sink_publish,
    .sink_close = redis_sink_close,
    .parameters = redis_parameters_known,
    .check = check,
};
