#include "worker/checkpoint/timers.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/log.h"
#include "common/storage/storage.h"
#include "worker/checkpoint/changes.h"
#include "worker/crash.h"
#include "worker/deadletter.h"
#include "worker/checkpoint/injection.h"
#include "worker/report.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define AT_ONCE 10000 /* timers carried out in one go; an epoch may get several */

struct timer {
    uint64_t at; /* unix nanoseconds */
    uint64_t mark;
    struct timer *next_fired;
    size_t id_len;
    size_t len;
    bool fired;  /* in the epoch to come: still stored */
    char text[]; /* id, document */
};

struct timers {
    struct worker *worker;
    struct hash_table table; /* id -> timer */
    struct timer **heap;     /* those that have not fired, the earliest first */
    size_t n;
    size_t cap;
    uint64_t mark;       /* of the present load */
    struct timer *fired; /* not committed yet */
};

struct timers *timers_new(struct worker *worker)
{
    struct timers *t = calloc(1, sizeof *t);
    if (t) {
        t->worker = worker;
        hash_init(&t->table);
    }
    return t;
}

void timers_free(struct timers *timers)
{
    if (!timers)
        return;
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&timers->table, &cursor)))
        free(e->value);
    hash_done(&timers->table);
    free(timers->heap);
    free(timers);
}

/* --- the heap --- */

static void sift_down(struct timers *t, size_t at)
{
    struct timer *moved = t->heap[at];
    for (size_t child; (child = 2 * at + 1) < t->n; at = child) {
        if (child + 1 < t->n && t->heap[child + 1]->at < t->heap[child]->at)
            child++;
        if (t->heap[child]->at >= moved->at)
            break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = moved;
}

/* Makes the heap anew of what is in the table; the capacity is there. */
static void build_heap(struct timers *t)
{
    size_t cursor = 0;
    struct hash_entry *e;
    t->n = 0;
    while ((e = hash_next(&t->table, &cursor))) {
        struct timer *timer = e->value;
        if (!timer->fired)
            t->heap[t->n++] = timer;
    }
    for (size_t i = t->n / 2; i-- > 0;)
        sift_down(t, i);
}

static struct timer *take_first(struct timers *t)
{
    struct timer *first = t->heap[0];
    t->heap[0] = t->heap[--t->n];
    if (t->n)
        sift_down(t, 0);
    return first;
}

/* --- reading --- */

/* A time that cannot be read is now: the timer is told of at once. */
static uint64_t read_time(const char *document, size_t len)
{
    struct json_value root;
    struct json_value at;
    int64_t ns;
    if (json_scan(document, len, &root, NULL) < 0 || root.type != JSON_OBJECT ||
        !json_member(&root, "at", &at) || at.type != JSON_NUMBER || !json_integer(&at, &ns) || ns < 0)
        return 0;
    return (uint64_t)ns;
}

static int see_timer(void *data, const char *id, size_t id_len, const char *document, size_t len)
{
    struct timers *t = data;
    struct timer *timer = hash_get(&t->table, id, id_len);
    void *old = NULL;
    if (timer && (timer->fired || timer->mark == t->mark ||
                  (timer->len == len && !memcmp(timer->text + id_len, document, len)))) {
        timer->mark = t->mark;
        return 0;
    }
    if (!(timer = malloc(sizeof *timer + id_len + len)))
        return -1;
    *timer = (struct timer){.at = read_time(document, len), .mark = t->mark, .id_len = id_len, .len = len};
    memcpy(timer->text, id, id_len);
    memcpy(timer->text + id_len, document, len);
    if (hash_put(&t->table, timer->text, id_len, timer, &old) < 0) {
        free(timer);
        return -1;
    }
    free(old);
    return 0;
}

/* Takes out what this load has not seen. */
static void sweep(struct timers *t)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->heap[i]->mark != t->mark) {
            hash_remove(&t->table, t->heap[i]->text, t->heap[i]->id_len);
            free(t->heap[i]);
        }
}

static int reserve(struct timers *t)
{
    if (t->table.count <= t->cap)
        return 0;
    size_t cap = t->table.count * 2;
    struct timer **heap = realloc(t->heap, cap * sizeof(struct timer *));
    if (!heap)
        return -1;
    t->heap = heap;
    t->cap = cap;
    return 0;
}

static void report(const struct timers *t)
{
    report_timers(t->worker->report, t->n, timers_next(t));
}

int timers_load(struct timers *timers, struct storage *storage, struct error *err)
{
    timers->mark++;
    int r = storage->type->load(storage, timers->worker->workspace, STORAGE_TIMERS, see_timer, timers, err);
    if (reserve(timers) < 0)
        abort(); /* the heap would name freed timers: start again from the last checkpoint */
    build_heap(timers);
    if (r < 0)
        return -1;
    sweep(timers);
    build_heap(timers);
    report(timers);
    return 0;
}

void timer_write(uint64_t at_unix_ns, const struct cloudevent *event, struct buffer *out)
{
    buffer_printf(out, "{\"at\":%llu,\"event_source\":{},\"event\":", (unsigned long long)at_unix_ns);
    cloudevent_write(event, out);
    buffer_append_char(out, '}');
}

static void add(struct timers *t, const char *id, size_t id_len, const char *document, size_t len)
{
    bool known = hash_get(&t->table, id, id_len);
    if (see_timer(t, id, id_len, document, len) < 0 || reserve(t) < 0)
        abort(); /* it would come only after the next reload: start again from the last checkpoint */
    if (known) {
        build_heap(t);
        return;
    }
    struct timer *timer = hash_get(&t->table, id, id_len);
    size_t at = t->n++;
    for (size_t parent; at && t->heap[parent = (at - 1) / 2]->at > timer->at; at = parent)
        t->heap[at] = t->heap[parent];
    t->heap[at] = timer;
}

void timers_add(struct timers *timers, const struct changes *changes)
{
    const char *text = changes->text.data;
    timers->mark++; /* newer than what the last load has seen */
    for (size_t i = 0; i < changes->n; i++) {
        const struct change *c = &changes->items[i];
        if (c->set == STORAGE_TIMERS && c->kind == STORAGE_PUT)
            add(timers, text + c->key, c->key_len, text + c->value, c->value_len);
    }
    report(timers);
}

size_t timers_count(const struct timers *timers)
{
    return timers->n;
}

uint64_t timers_next(const struct timers *timers)
{
    return timers->n ? timers->heap[0]->at : UINT64_MAX;
}

/* --- carrying out --- */

static const struct source *source_named(const struct worker *w, const struct buffer *name)
{
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i] && strlen(w->sources[i]->name) == name->len &&
            !memcmp(w->sources[i]->name, name->data, name->len))
            return w->sources[i];
    return NULL;
}

/* Where the event goes: *ret_target gets the `event_source` of an EMIT's body, or nothing: into the workflow
 * itself. One of the workspace's event sources is meant by its name, so that repeats are recognised. */
static int find_target(const struct worker *w, const struct json_value *root, struct buffer *ret_target,
                       struct error *err)
{
    struct json_value source, name, class_name;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(root, "event_source", &source) || source.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "member event_source is missing or not an object");
    if (json_member(&source, "name", &name) && name.type == JSON_STRING)
        json_unescape(&name, &text);
    const struct source *known = text.len ? source_named(w, &text) : NULL;
    bool classed = json_member(&source, "class", &class_name);
    if (classed && class_name.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "event_source.class is not a string");
    if (known && source_is_own(known->type->class_name, strlen(known->type->class_name)))
        return 0;
    if (known) {
        buffer_append_json(ret_target, text.data, text.len);
        return 0;
    }
    if (classed && source_is_own(class_name.text, class_name.len))
        return 0;
    if (!classed && !text.len)
        return 0;
    const struct source_type *type = classed ? source_find(class_name.text, class_name.len) : NULL;
    if (!type || !type->sink_open)
        return classed ? error_set(err, ERROR_INVALID, "event_source: class %.*s cannot be published to",
                                   (int)class_name.len, class_name.text)
                       : error_set(err, ERROR_INVALID, "event source %s is not stored and has no class",
                                   buffer_text(&text));
    size_t len;
    const char *raw = json_raw(&source, &len);
    buffer_append(ret_target, raw, len);
    return 0;
}

static void set_default(struct cloudevent *event, enum cloudevent_attribute attribute, const char *text)
{
    if (!event->attribute[attribute].len)
        event->attribute[attribute] = (struct cloudevent_span){.text = text, .len = (uint32_t)strlen(text)};
}

static int publish(struct injection *j, const struct timer *timer, const char *key,
                   const struct buffer *target, struct cloudevent *event,
                   const struct injection_origin *origin, struct error *err)
{
    BUFFER_AUTO document = BUFFER_INIT;
    event->attribute[CE_ID] = (struct cloudevent_span){.text = key, .len = (uint32_t)strlen(key)};
    buffer_printf(&document, "{\"key\":\"%s\",\"trigger\":\"\",\"timer\":", key);
    buffer_append_json(&document, timer->text, timer->id_len);
    buffer_append_text(&document, ",\"action\":\"EMIT\",\"body\":{\"event_source\":");
    buffer_append(&document, target->data, target->len);
    buffer_append_text(&document, ",\"event\":");
    cloudevent_write(event, &document);
    buffer_append_text(&document, "}}");
    if (document.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return injection_intent(j, document.data, document.len, origin, err);
}

static int carry_out(struct timers *t, const struct timer *timer, struct injection *j, struct error *err)
{
    struct json_value root, json;
    struct cloudevent event;
    char key[ACTION_KEY_MAX];
    char time[CLOCK_ISO_MAX];
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO source = BUFFER_INIT;
    BUFFER_AUTO target = BUFFER_INIT;
    struct injection_origin origin = {STORAGE_TIMERS, timer->text, timer->id_len};
    if (!utf8_valid(timer->text, timer->id_len))
        return error_set(err, ERROR_INVALID, "its id is not UTF-8");
    if (json_scan(timer->text + timer->id_len, timer->len, &root, err) < 0)
        return -1;
    if (root.type != JSON_OBJECT || !timer->at)
        return error_set(err, ERROR_INVALID, "member at is not a time in nanoseconds");
    if (find_target(t->worker, &root, &target, err) < 0)
        return -1;
    if (!json_member(&root, "event", &json) || json.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "member event is missing or not an object");
    size_t len;
    const char *raw = json_raw(&json, &len);
    if (cloudevent_parse(&event, raw, len, &scratch, err) < 0)
        return error_prefix(err, "event");
    injection_key(j, "timer", timer->text, timer->id_len, key);
    buffer_printf(&source, "urn:triggerflow:%s:timer", t->worker->workspace);
    set_default(&event, CE_SPECVERSION, "1.0");
    set_default(&event, CE_ID, key);
    set_default(&event, CE_SOURCE, buffer_text(&source));
    set_default(&event, CE_TIME, clock_iso(clock_unix_ns(), time));
    if (cloudevent_check(&event, err) < 0)
        return error_prefix(err, "event");
    return target.len ? publish(j, timer, key, &target, &event, &origin, err)
                      : injection_event(j, &event, &origin, err);
}

static void refuse(const struct timer *timer, struct injection *j, const char *why)
{
    const char *document = timer->text + timer->id_len;
    struct json_value root;
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_append_text(&body, "\"timer\":");
    if (json_scan(document, timer->len, &root, NULL) == 0)
        buffer_append(&body, document, timer->len);
    else if (utf8_valid(document, timer->len))
        buffer_append_json(&body, document, timer->len);
    else
        buffer_append_text(&body, "\"(not UTF-8)\"");
    struct dead_letter letter = {
        .reason = "invalid_timer", .detail = why, .body = buffer_text(&body), .body_len = body.len};
    j->changes->text.failed |= body.failed;
    dead_letter_add(&letter, j->changes);
    changes_delete(j->changes, STORAGE_TIMERS, timer->text, timer->id_len);
}

size_t timers_fire(struct timers *timers, uint64_t now_unix_ns, struct injection *injection)
{
    size_t n = 0;
    struct error err;
    for (; n < AT_ONCE && timers_next(timers) <= now_unix_ns; n++) {
        struct timer *timer = timers->heap[0];
        if (carry_out(timers, timer, injection, &err) < 0) {
            if (err.code == ERROR_MEMORY) /* it stays due */
                break;
            refuse(timer, injection, err.message);
        }
        log_debug("timer", LOG_UINT("late_us", (now_unix_ns - timer->at) / 1000));
        take_first(timers);
        timer->fired = true;
        timer->next_fired = timers->fired;
        timers->fired = timer;
    }
    if (n)
        report(timers);
    return n;
}

void timers_committed(struct timers *timers)
{
    while (timers->fired) {
        struct timer *timer = timers->fired;
        timers->fired = timer->next_fired;
        hash_remove(&timers->table, timer->text, timer->id_len);
        free(timer);
    }
}
