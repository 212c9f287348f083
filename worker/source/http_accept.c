/* Accepting: from the ingest ring into the event log. See http.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "common/storage/storage.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/source/duplicates.h"
#include "worker/source/http.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define READY_BYTES (4u << 20) /* groups kept in memory; what is beyond is read back from the log */

enum { DURABLE = 202, NOT_UNDERSTOOD = 400, REFUSED = 503, NO_SPACE = 507 };

static void tell(struct source *source)
{
    uint64_t one = 1;
    if (write(source->worker->durable_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        log_warn("http_source", LOG_STR("source", source->name), LOG_STR("error", strerror(errno)));
}

void http_set_state(struct source *source, uint32_t state)
{
    struct http_source *http = source->state;
    _Atomic uint32_t *shown = &source->worker->arena->worker.ingest;
    /* seq_cst: whoever has published a record looks at the state afterwards, and whoever closes looks at the
     * ring afterwards, so one of them sees the other. */
    if (http->channel && atomic_exchange(shown, state) != state)
        tell(source);
}

bool http_log_has_room(const struct source *source)
{
    const struct http_source *http = source->state;
    uint64_t gone = http->totals_passed.bytes;
    uint64_t waiting = http->totals.bytes > gone ? http->totals.bytes - gone : 0;
    return waiting < (uint64_t)source->worker->config->event_log_max_bytes;
}

/* --- gathering a group --- */

static bool is_sound(const struct arena_ingest_record *record, size_t size)
{
    struct cloudevent event;
    size_t at = sizeof *record;
    size_t used;
    if (size < at)
        return false;
    for (uint32_t i = 0; i < record->n_events; i++, at += used)
        if (cloudevent_unpack_bounded((const char *)record + at, size - at, &event, &used, NULL) < 0)
            return false;
    return true;
}

/* Returns the record's answer, if the group becomes durable. */
static uint32_t add_events(struct http_source *http, const struct arena_ingest_record *record, size_t size,
                           uint32_t *ret_duplicates)
{
    size_t at = sizeof *record;
    size_t used;
    for (uint32_t i = 0; i < record->n_events; i++, at += used) {
        const char *packed = (const char *)record + at;
        struct cloudevent event;
        struct event_id id = {0, 0};
        int r = DUPLICATE_NEW;
        if (cloudevent_unpack_bounded(packed, size - at, &event, &used, NULL) < 0)
            return NOT_UNDERSTOOD;
        if (duplicates_on(http->duplicates)) {
            id = event_id_of(&event);
            r = duplicates_add(http->duplicates, &id, NULL);
        }
        if (r < 0)
            return REFUSED; /* those before it are kept; repeated, they are repetitions */
        if (r == DUPLICATE_REPETITION)
            ++*ret_duplicates;
        else
            event_group_add(&http->group, packed, used, &id);
    }
    return DURABLE;
}

static void gather(struct source *source)
{
    struct http_source *http = source->state;
    uint32_t size;
    uint32_t kind;
    struct arena_ingest_record *record;
    event_group_reset(&http->group);
    http->n_taken = 0;
    duplicates_expire(http->duplicates, clock_unix_ns() / CLOCK_S);
    while (http->n_taken < HTTP_GROUP_RECORDS && http->group.events.len < HTTP_GROUP_BYTES &&
           (record = ring_peek(&http->ring, &size, &kind))) {
        struct http_taken *t = &http->taken[http->n_taken++];
        *t = (struct http_taken){.record = record, .answer = NOT_UNDERSTOOD};
        if (size < sizeof *record)
            t->record = NULL; /* there is not even room for an answer */
        else if (is_sound(record, size))
            t->answer = add_events(http, record, size, &t->duplicates);
        ring_next(&http->ring);
    }
}

/* --- answering --- */

/* instead: what those get that were to become durable. */
static void answer(struct source *source, uint32_t instead)
{
    struct http_source *http = source->state;
    uint64_t duplicates = 0;
    crash_point("http_answer_before");
    for (unsigned i = 0; i < http->n_taken; i++) {
        struct http_taken *t = &http->taken[i];
        uint32_t status = t->answer == DURABLE ? instead : t->answer;
        if (!t->record)
            continue;
        duplicates += status == DURABLE ? t->duplicates : 0;
        t->record->duplicates = t->duplicates;
        /* release: with the answer, the line above is seen */
        atomic_store_explicit(&t->record->answer, status, memory_order_release);
    }
    arena_add(&source->stats->duplicates, duplicates);
    crash_point("http_answer_after");
    ring_release(&http->ring);
    crash_point("http_release_after");
    http->n_taken = 0;
    http->pending = http->ambiguous = false;
    tell(source);
}

/* --- appending --- */

static void appended(struct source *source)
{
    struct http_source *http = source->state;
    struct error err;
    uint64_t number = http->last + 1;
    uint64_t in_memory = http->ready_end ? http->ready_end->number : http->passed;
    if (duplicates_keep(http->duplicates, number, http->group_unix_s, &err) < 0)
        log_warn("http_source", LOG_STR("source", source->name), LOG_STR("error", err.message));
    /* What has no room in memory now is read back. */
    if (in_memory == http->last && http->ready_bytes < READY_BYTES &&
        http_ready_add(http, number, http->group.events.data, http->group.events.len) == 0)
        http->ready_end->read_mark = checkpoint_reloads(source->worker->checkpoint);
    http->last = number;
    http->totals = http->group_totals;
    http_set_state(source, ARENA_INGEST_OPEN);
    http_succeeded(source);
    answer(source, DURABLE);
}

static void refused(struct source *source, const struct error *err)
{
    struct http_source *http = source->state;
    bool full = err->code == ERROR_NO_SPACE;
    duplicates_drop(http->duplicates);
    if (full)
        http_set_state(source, ARENA_INGEST_NO_SPACE);
    log_error("http_source", LOG_STR("source", source->name), LOG_STR("error", err->message),
              LOG_UINT("refused", http->group.n));
    source_set_state(source, ARENA_SOURCE_UNAVAILABLE, err->message);
    http->failures++;
    answer(source, full ? NO_SPACE : REFUSED);
}

static void append(struct source *source)
{
    struct http_source *http = source->state;
    struct worker *w = source->worker;
    struct error err;
    struct storage_log_group group = {.number = http->last + 1,
                                      .events = http->group.events.data,
                                      .events_len = http->group.events.len,
                                      .ids = http->group.ids.data,
                                      .ids_len = http->group.ids.len};
    uint64_t oldest = duplicates_oldest(http->duplicates);
    crash_point("http_append_before");
    int r = http->storage->type->log_append(http->storage, w->workspace, w->writer, &group,
                                            oldest < group.number ? oldest : group.number, &err);
    crash_point("http_append_after");
    if (r == 0) {
        appended(source);
    } else if (r == STORAGE_FENCED) {
        http->fenced = true; /* the records stay: the supervisor answers them when the worker has ended */
        http_set_state(source, ARENA_INGEST_CLOSED);
        checkpoint_fenced(w->checkpoint, &err);
    } else if (http->ambiguous || err.code == ERROR_UNAVAILABLE) {
        http->ambiguous = true;
        http_failed(source, err.message);
    } else {
        refused(source, &err);
    }
}

bool http_accept(struct source *source)
{
    struct http_source *http = source->state;
    struct error err;
    if (!http->channel || http->fenced)
        return false;
    if (http->pending) {
        if (clock_now_ns() < http->retry_ns && !source_stopping(source))
            return false;
        append(source);
        return true;
    }
    if (!ring_ready(&http->ring) || !http_log_has_room(source))
        return false;
    gather(source);
    if (!http->n_taken)
        return false;
    if (!http->group.n) {
        answer(source, DURABLE);
        return true;
    }
    http->group_unix_s = clock_unix_ns() / CLOCK_S;
    if (event_group_seal(&http->group, duplicates_on(http->duplicates), http->group_unix_s, &http->totals,
                         &http->group_totals, &err) < 0) {
        refused(source, &err);
        return true;
    }
    http->pending = true;
    append(source);
    return true;
}

void http_refuse(struct source *source)
{
    struct http_source *http = source->state;
    while (http->channel && !http->pending && !http->fenced && ring_ready(&http->ring)) {
        gather(source);
        duplicates_drop(http->duplicates);
        answer(source, REFUSED);
    }
}
