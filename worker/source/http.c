/* Delivering: from the event log into the workflow. See http.h. */
#include "worker/source/http.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/storage/storage.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/report.h"
#include "worker/source/duplicates.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define READ_BYTES (1u << 20) /* of the log at a time */
#define BATCH 512             /* events */
#define TURN (5 * CLOCK_MS)   /* of delivering, before it is looked for what is to be accepted */
#define BODY_BYTES (1u << 20) /* of a damaged group that are kept */
#define WAIT_TIMEOUT (30 * CLOCK_S)
#define RETRY_FIRST (50 * CLOCK_MS)
#define RETRY_LONGEST (5 * CLOCK_S)
#define CROWDED_NS 100000
#define LAST_TURNS 64 /* of accepting, when it stops */

static struct http_source *state_of(struct source *source)
{
    return source->state;
}

/* --- parameters and position --- */

static int check(const struct json_value *parameters, struct error *err)
{
    struct json_value value;
    if (json_member(parameters, "consume", &value) && value.type == JSON_FALSE)
        return error_set(err, ERROR_INVALID,
                         "parameter consume is false: what is published to the workflow has no other reader");
    return 0;
}

static int init(struct source *source, const struct json_value *parameters, struct error *err)
{
    if (check(parameters, err) < 0)
        return -1;
    struct http_source *http = calloc(1, sizeof *http);
    if (!http)
        return error_set(err, ERROR_MEMORY, "out of memory");
    source->state = http;
    source->never_held = source->marked = true;
    http->taken = calloc(HTTP_GROUP_RECORDS, sizeof *http->taken);
    return http->taken ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

static void drop_first(struct http_source *http)
{
    struct http_ready *first = http->ready;
    http->ready = first->next;
    if (!http->ready)
        http->ready_end = NULL;
    http->ready_bytes -= first->len;
    http->opened = false;
    free(first);
}

static void done(struct source *source)
{
    struct http_source *http = state_of(source);
    if (!http)
        return;
    while (http->ready)
        drop_first(http);
    storage_close(http->storage);
    duplicates_free(http->duplicates);
    event_group_done(&http->group);
    buffer_done(&http->body);
    free(http->taken);
    free(http);
}

static int read_number(const struct json_value *position, const char *name, uint64_t *ret_number,
                       struct error *err)
{
    struct json_value value;
    int64_t number;
    if (!json_member(position, name, &value) || !json_integer(&value, &number) || number < 0)
        return error_set(err, ERROR_INVALID,
                         "is not a position in the event log: member %s is missing or not "
                         "a number",
                         name);
    *ret_number = (uint64_t)number;
    return 0;
}

/* {"group","next","index","events","bytes"}; {"from"}, of an adoption: there is nothing to adopt. */
static int restore(struct source *source, const struct json_value *position, struct error *err)
{
    struct http_source *http = state_of(source);
    struct json_value value;
    if (!position || (position->type == JSON_OBJECT && json_member(position, "from", &value)))
        return 0;
    if (position->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is not a position in the event log");
    return read_number(position, "group", &http->passed, err) < 0 ||
                   read_number(position, "next", &http->next, err) < 0 ||
                   read_number(position, "index", &http->index, err) < 0 ||
                   read_number(position, "events", &http->totals_passed.events, err) < 0 ||
                   read_number(position, "bytes", &http->totals_passed.bytes, err) < 0
               ? -1
               : 0;
}

static void position(struct source *source, struct buffer *out)
{
    const struct http_source *http = state_of(source);
    if (!http->passed && !http->index)
        return;
    buffer_printf(out, "{\"group\":%llu,\"next\":%llu,\"index\":%llu,\"events\":%llu,\"bytes\":%llu}",
                  (unsigned long long)http->passed, (unsigned long long)(http->index ? http->next : 0),
                  (unsigned long long)http->index, (unsigned long long)http->totals_passed.events,
                  (unsigned long long)http->totals_passed.bytes);
}

static uint64_t log_passed(struct source *source)
{
    return state_of(source)->passed;
}

static void acknowledge(struct source *source)
{
    (void)source; /* the commit itself has removed the groups */
}

/* --- trouble --- */

void http_failed(struct source *source, const char *error)
{
    struct http_source *http = state_of(source);
    uint64_t delay = RETRY_FIRST << (http->failures < 7 ? http->failures : 7);
    http->retry_ns = clock_now_ns() + (delay < RETRY_LONGEST ? delay : RETRY_LONGEST);
    http->failures++;
    source_set_state(source, ARENA_SOURCE_UNAVAILABLE, error);
}

void http_succeeded(struct source *source)
{
    struct http_source *http = state_of(source);
    http->retry_ns = 0;
    if (http->failures)
        source_set_state(source, ARENA_SOURCE_READING, NULL);
    http->failures = 0;
}

static void show_lag(struct source *source)
{
    const struct http_source *http = state_of(source);
    uint64_t gone = http->totals_passed.events;
    arena_set(&source->stats->lag, http->totals.events > gone ? http->totals.events - gone : 0);
}

/* --- what is ready --- */

int http_ready_add(struct http_source *http, uint64_t number, const void *events, size_t len)
{
    struct http_ready *r = malloc(sizeof *r + len);
    if (!r)
        return -1;
    *r = (struct http_ready){.number = number, .len = len};
    memcpy(r->events, events, len);
    if (http->ready_end)
        http->ready_end->next = r;
    else
        http->ready = r;
    http->ready_end = r;
    http->ready_bytes += len;
    return 0;
}

static int see_group(void *data, const struct storage_log_group *group)
{
    struct http_source *http = data;
    uint64_t before = http->ready_end ? http->ready_end->number : http->passed;
    if (group->number <= before) /* not what was asked for */
        return 0;
    if (group->number > http->last)
        http->last = group->number;
    return http_ready_add(http, group->number, group->events ? group->events : "", group->events_len);
}

/* The log lacks what the position, or its ids, say it has. */
static void lost(struct source *source, uint64_t events)
{
    log_error("events_lost", LOG_STR("source", source->name), LOG_STR("detail", "the event log has a gap"),
              LOG_UINT("count", events));
    arena_add(&source->stats->lost, events);
}

/* Reads the next groups, when there are some that are not in memory. Whether there are any now. */
static bool fill(struct source *source)
{
    struct http_source *http = state_of(source);
    struct error err;
    if (http->ready)
        return true;
    if (http->passed >= http->last || (http->retry_ns && clock_now_ns() < http->retry_ns))
        return false;
    error_set(&err, ERROR_MEMORY, "out of memory for events of the event log");
    int r = http->storage->type->log_read(http->storage, source->worker->workspace, http->passed, READ_BYTES,
                                          see_group, http, &err);
    if (r < 0 && !http->ready) {
        http_failed(source, err.message);
        return false;
    }
    uint64_t mark = checkpoint_reloads(source->worker->checkpoint);
    for (struct http_ready *g = http->ready; g; g = g->next)
        g->read_mark = mark;
    if (!http->pending)
        http_succeeded(source);
    if (http->ready)
        return true;
    uint64_t gone = http->totals_passed.events;
    lost(source, http->totals.events > gone ? http->totals.events - gone : 0);
    pthread_mutex_lock(&source->emit);
    http->passed = http->last;
    http->index = 0;
    http->totals_passed = http->totals;
    pthread_mutex_unlock(&source->emit);
    return false;
}

/* --- delivering; Requires: emit --- */

static void pass_group(struct source *source)
{
    struct http_source *http = state_of(source);
    http->passed = http->ready->number;
    http->index = 0;
    http->totals_passed.bytes += http->ready->len;
    arena_add(&source->stats->bytes, http->ready->len);
    if (http->passed == http->last)
        http->totals_passed = http->totals; /* whatever damage has made of it */
    drop_first(http);
}

/* What cannot be read of the group becomes a dead letter, as it is. */
static void reject_rest(struct source *source, const char *why)
{
    struct http_source *http = state_of(source);
    const struct http_ready *g = http->ready;
    const char *from = http->opened ? http->reader.at : g->events;
    size_t len = (size_t)(g->events + g->len - from);
    size_t kept = len < BODY_BYTES ? len : BODY_BYTES;
    uint64_t at[2] = {g->number, http->index};
    buffer_reset(&http->body, 1 << 16);
    buffer_printf(&http->body, "\"group\":{\"number\":%llu,\"bytes\":%zu,\"base64\":\"",
                  (unsigned long long)g->number, len);
    buffer_append_base64(&http->body, from, kept);
    buffer_append_text(&http->body, "\"}");
    source_reject(source, "invalid_event", why, at, buffer_text(&http->body), http->body.len);
    pass_group(source);
}

/* Opens the first group, and goes to where the position says. Whether it can be read on. */
static bool open_first(struct source *source)
{
    struct http_source *http = state_of(source);
    struct cloudevent event;
    struct error err;
    int r = event_group_open(http->ready->events, http->ready->len, &http->reader, &err);
    if (r == 0 && http->index && http->next != http->ready->number) {
        log_error("events_lost", LOG_STR("source", source->name), LOG_UINT("group", http->next));
        http->index = 0;
    }
    http->next = http->ready->number;
    http->opened = r == 0;
    source->read_mark = http->ready->read_mark;
    for (uint64_t i = 0; r == 0 && i < http->index; i++)
        r = http->reader.n_left ? event_group_next(&http->reader, &event, &err)
                                : error_set(&err, ERROR_INVALID, "a group has fewer events than were read");
    if (r == 0 && http->reader.n_left)
        return true;
    reject_rest(source, r < 0 ? err.message : "a group has fewer events than were read");
    return false;
}

/* Whether to go on. */
static bool deliver_one(struct source *source)
{
    struct http_source *http = state_of(source);
    struct cloudevent event;
    struct error err;
    if (!http->ready)
        return false;
    if (!http->opened && !open_first(source))
        return true;
    struct event_group_reader before = http->reader;
    if (event_group_next(&http->reader, &event, &err) < 0) {
        reject_rest(source, err.message);
        return true;
    }
    uint64_t at[2] = {http->ready->number, http->index};
    http->crowded = !source_fits(source, &event);
    if (http->crowded || source_deliver(source, &event, at, event.attribute[CE_KEY].len > 0)) {
        http->reader = before;
        return false;
    }
    http->index++;
    http->totals_passed.events++;
    if (!http->reader.n_left)
        pass_group(source);
    return true;
}

/* For a while. Whether anything was done. */
static bool deliver(struct source *source)
{
    struct http_source *http = state_of(source);
    uint64_t until = clock_now_ns() + TURN;
    bool done_any = false;
    http->crowded = false;
    while (!source_stopping(source) && fill(source)) {
        if (!source_ask_room(source) || !source_try_batch(source))
            break;
        unsigned n = 0;
        while (n < BATCH && deliver_one(source))
            n++;
        if (n)
            source_end_batch(source);
        else
            source_cancel_batch(source);
        done_any |= n > 0;
        if (!n || clock_now_ns() >= until)
            break;
    }
    show_lag(source);
    return done_any;
}

/* --- the thread --- */

static void beat(void *data)
{
    struct source *source = data;
    arena_beat(source->life, clock_coarse_ns());
}

static int see_ids(void *data, const struct storage_log_group *group)
{
    struct source *source = data;
    struct http_source *http = state_of(source);
    struct event_ids ids;
    struct error err;
    int r = 0;
    if (group->number > http->last)
        http->last = group->number;
    if (event_ids_open(group->ids, group->ids_len, &ids, &err) < 0) {
        log_error("http_source", LOG_STR("source", source->name), LOG_UINT("group", group->number),
                  LOG_STR("error", err.message));
        return 0;
    }
    http->totals = ids.totals;
    uint64_t window = (uint64_t)source->worker->config->duplicate_window_ns / CLOCK_S + 1;
    if (!duplicates_on(http->duplicates) || ids.unix_s + window < clock_unix_ns() / CLOCK_S)
        return 0;
    for (uint32_t i = 0; r >= 0 && i < ids.n; i++) {
        struct event_id id = event_ids_at(&ids, i);
        r = duplicates_add(http->duplicates, &id, &err);
    }
    if (r >= 0)
        r = duplicates_keep(http->duplicates, group->number, ids.unix_s, &err);
    if (r < 0) {
        log_error("http_source", LOG_STR("source", source->name), LOG_STR("error", err.message));
        return -1;
    }
    return 0;
}

/* Learns what the log has. 0; -1: to be tried again. */
static int recover(struct source *source, struct error *err)
{
    struct http_source *http = state_of(source);
    struct worker *w = source->worker;
    if (!http->storage) {
        if (storage_open(w->config, w->workspace, &http->storage, err) < 0)
            return -1;
        http->storage->heartbeat = beat;
        http->storage->heartbeat_data = source;
    }
    duplicates_free(http->duplicates);
    http->duplicates = NULL;
    int64_t window = w->config->duplicate_window_ns;
    if (duplicates_new((uint64_t)window / CLOCK_S + (window % (int64_t)CLOCK_S > 0),
                       (size_t)w->config->duplicate_max, &http->duplicates, err) < 0)
        return -1;
    http->last = http->passed;
    http->totals = http->totals_passed;
    error_set(err, ERROR_MEMORY, "out of memory for the ids of the event log");
    if (http->storage->type->log_ids(http->storage, w->workspace, see_ids, source, err) < 0)
        return -1;
    http_succeeded(source);
    return 0;
}

static void take_bell_off(const struct source *source)
{
    uint64_t count;
    if (read(source->worker->ingest_fd, &count, sizeof count) < 0)
        return; /* somebody else has done it */
}

static void sleep_for_news(struct source *source)
{
    struct http_source *http = state_of(source);
    uint64_t now = clock_now_ns();
    uint64_t timeout = WAIT_TIMEOUT;
    bool listening = http->channel && !http->pending && !http->fenced && http_log_has_room(source);
    if (http->retry_ns > now)
        timeout = http->retry_ns - now;
    else if (http->pending || (http->retry_ns && !http->ready && http->passed < http->last))
        timeout = 0;
    if (http->crowded)
        timeout = CROWDED_NS; /* shards tell by a futex, which cannot be waited for together with the ring */
    if (source_poll(source, listening ? source->worker->ingest_fd : -1, POLLIN, timeout))
        take_bell_off(source);
}

/* A pause and the like are shown; the log goes on filling. */
static void show_state(struct source *source)
{
    struct http_source *http = state_of(source);
    bool waiting = http->ready || http->passed < http->last;
    bool full = atomic_load(&source->worker->arena->worker.dead_letters_full);
    uint32_t shown = atomic_load_explicit(&source->stats->state, memory_order_relaxed);
    bool paused = worker_held(source->worker) || full || (waiting && !source_has_room(source));
    if (http->failures)
        return;
    if (paused && shown != ARENA_SOURCE_PAUSED)
        source_set_state(source, ARENA_SOURCE_PAUSED, full ? "the dead letters are full" : NULL);
    else if (!paused && shown != ARENA_SOURCE_READING)
        source_set_state(source, ARENA_SOURCE_READING, NULL);
}

static void open_channel(struct source *source)
{
    struct http_source *http = state_of(source);
    struct worker *w = source->worker;
    if (w->ingest_fd < 0) {
        report_warning(w->report, "no_ingest",
                       "its HTTPEventSource cannot be published to: the worker runs without a supervisor");
        return;
    }
    ring_attach_consumer(&http->ring, arena_ingest_ring(w->arena), ARENA_INGEST_BYTES);
    http->channel = true;
    http_set_state(source, ARENA_INGEST_OPEN);
}

/* What was published before the supervisor could know still gets its answer. */
static void close_channel(struct source *source)
{
    struct http_source *http = state_of(source);
    http_set_state(source, ARENA_INGEST_CLOSED);
    for (unsigned i = 0; i < LAST_TURNS && http_accept(source); i++)
        if (http->pending) /* the storage is away: the end of the worker is the answer */
            break;
    http_refuse(source);
    http_set_state(source, ARENA_INGEST_CLOSED);
}

static void run(struct source *source)
{
    struct http_source *http = state_of(source);
    struct error err;
    while (!source_stopping(source) && recover(source, &err) < 0) {
        http_failed(source, err.message);
        while (!source_stopping(source) && clock_now_ns() < http->retry_ns)
            source_poll(source, -1, 0, http->retry_ns - clock_now_ns());
    }
    if (source_stopping(source))
        return;
    open_channel(source);
    source_set_state(source, ARENA_SOURCE_READING, NULL);
    while (!source_stopping(source)) {
        bool busy = http_accept(source);
        busy |= deliver(source);
        show_state(source);
        if (!busy)
            sleep_for_news(source);
    }
    close_channel(source);
    report_warning(source->worker->report, "no_ingest", NULL);
}

extern const struct source_type source_http;
const struct source_type source_http = {
    .class_name = "HTTPEventSource",
    .init = init,
    .done = done,
    .restore = restore,
    .run = run,
    .position = position,
    .log_passed = log_passed,
    .acknowledge = acknowledge,
    .position_field = "event_log_position",
    .check = check,
};
