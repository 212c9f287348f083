#include "worker/source/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define BATCH 256

enum entry_kind { ENTRY_EVENT, ENTRY_WRITE, ENTRY_INTENT };

struct entry {
    struct entry *next;
    uint64_t number;
    uint64_t epoch; /* committed with */
    bool stored;    /* Thread: checkpoint */
    enum entry_kind kind;
    size_t len;                         /* of an intent's document */
    _Alignas(8) unsigned char packed[]; /* the event, the write's carrier, or the intent's document */
};

struct internal {
    struct source *source;
    pthread_mutex_t lock;
    struct entry *head;      /* oldest not passed by a checkpoint. Requires: lock */
    struct entry *tail;      /* Requires: lock */
    struct entry *unwritten; /* next for the rings. Requires: lock */
    struct entry *unstored;  /* first that may have to be stored. Requires: lock */
    uint64_t last_number;    /* Requires: lock */
    bool sleeping;           /* Requires: lock */
    uint64_t written; /* number of the last entry written to the rings. Requires: the source's emit lock */
    uint64_t barrier; /* `written` at the last barrier. Thread: checkpoint */
    _Atomic uint64_t pending;
};

static void append(struct internal *q, struct entry *e)
{
    if (q->tail)
        q->tail->next = e;
    else
        q->head = e;
    q->tail = e;
    if (!q->unwritten)
        q->unwritten = e;
    if (!q->unstored)
        q->unstored = e;
    atomic_fetch_add_explicit(&q->pending, 1, memory_order_relaxed);
}

static struct entry *entry_new(const struct cloudevent *event)
{
    struct entry *e = malloc(sizeof *e + cloudevent_packed_size(event));
    if (e) {
        *e = (struct entry){0};
        cloudevent_pack(event, e->packed);
    }
    return e;
}

static struct entry *entry_new_held(const char *document, size_t len)
{
    struct entry *e = malloc(sizeof *e + len);
    if (e) {
        *e = (struct entry){.kind = ENTRY_INTENT, .len = len};
        memcpy(e->packed, document, len);
    }
    return e;
}

static int emit(struct internal *internal, struct entry *e, enum entry_kind kind, uint64_t epoch,
                struct error *err)
{
    if (!e)
        return error_set(err, ERROR_MEMORY, "out of memory");
    e->kind = kind;
    pthread_mutex_lock(&internal->lock);
    e->number = ++internal->last_number;
    e->epoch = epoch;
    append(internal, e);
    bool wake = internal->sleeping;
    internal->sleeping = false;
    pthread_mutex_unlock(&internal->lock);
    if (wake)
        source_wake(internal->source);
    return 0;
}

int internal_emit(struct internal *internal, const struct cloudevent *event, uint64_t epoch,
                  struct error *err)
{
    return emit(internal, entry_new(event), ENTRY_EVENT, epoch, err);
}

int internal_write(struct internal *internal, const struct cloudevent *carrier, uint64_t epoch,
                   struct error *err)
{
    return emit(internal, entry_new(carrier), ENTRY_WRITE, epoch, err);
}

int internal_hold(struct internal *internal, const char *document, size_t len, uint64_t epoch,
                  struct error *err)
{
    return emit(internal, entry_new_held(document, len), ENTRY_INTENT, epoch, err);
}

/* From the stored form. */
static struct entry *entry_read(const struct json_value *root, struct buffer *scratch, struct error *err)
{
    struct json_iter iter;
    struct json_value none;
    struct json_value kind = *root;
    struct json_value content = *root;
    struct cloudevent event;
    bool is_event = root->type != JSON_ARRAY;
    if (!is_event) {
        json_iter_init(&iter, root);
        if (!json_next(&iter, &none, &kind) || kind.type != JSON_STRING ||
            !json_next(&iter, &none, &content) || content.type != JSON_OBJECT ||
            (!json_equals(&kind, "write", 5) && !json_equals(&kind, "intent", 6))) {
            error_set(err, ERROR_INVALID, "is neither an event nor a write nor an intent");
            return NULL;
        }
    }
    struct entry *e;
    if (!is_event && json_equals(&kind, "intent", 6)) {
        size_t len;
        const char *raw = json_raw(&content, &len);
        e = entry_new_held(raw, len);
    } else if (cloudevent_read(&event, &content, scratch, err) < 0) {
        return NULL;
    } else if ((e = entry_new(&event)) && !is_event) {
        e->kind = ENTRY_WRITE;
    }
    if (!e)
        error_set(err, ERROR_MEMORY, "out of memory");
    return e;
}

int internal_restore(struct internal *internal, uint64_t number, const char *json, size_t len,
                     struct error *err)
{
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct json_value root;
    struct entry *e;
    if (json_scan(json, len, &root, err) < 0 || !(e = entry_read(&root, &scratch, err)))
        return -1;
    e->number = number;
    e->stored = true;
    if (number > internal->last_number)
        internal->last_number = number;
    append(internal, e);
    internal->unstored = NULL;
    return 0;
}

bool internal_waiting(struct internal *internal)
{
    pthread_mutex_lock(&internal->lock);
    bool waiting = internal->unwritten;
    pthread_mutex_unlock(&internal->lock);
    return waiting;
}

uint64_t internal_pending(const struct internal *internal)
{
    return atomic_load_explicit(&internal->pending, memory_order_relaxed);
}

/* Drops what the barrier has passed. */
static void drop_written(struct internal *q, struct changes *out)
{
    char key[24];
    for (;;) {
        pthread_mutex_lock(&q->lock);
        struct entry *e = q->head;
        if (!e || e->number > q->barrier) {
            pthread_mutex_unlock(&q->lock);
            return;
        }
        q->head = e->next;
        if (!q->head)
            q->tail = NULL;
        if (q->unstored == e)
            q->unstored = e->next;
        pthread_mutex_unlock(&q->lock);
        if (e->stored) {
            int n = snprintf(key, sizeof key, "%020llu", (unsigned long long)e->number);
            changes_delete(out, STORAGE_INTERNAL, key, (size_t)n);
        }
        free(e);
        atomic_fetch_sub_explicit(&q->pending, 1, memory_order_relaxed);
    }
}

static void store(struct entry *e, struct changes *out)
{
    char key[24];
    struct cloudevent event;
    int n = snprintf(key, sizeof key, "%020llu", (unsigned long long)e->number);
    struct buffer *b = changes_begin(out, STORAGE_INTERNAL, STORAGE_PUT, key, (size_t)n, "", 0);
    if (e->kind != ENTRY_EVENT)
        buffer_append_text(b, e->kind == ENTRY_WRITE ? "[\"write\"," : "[\"intent\",");
    if (e->kind == ENTRY_INTENT) {
        buffer_append(b, (const char *)e->packed, e->len);
    } else {
        cloudevent_unpack(e->packed, &event);
        cloudevent_write(&event, b);
    }
    if (e->kind != ENTRY_EVENT)
        buffer_append_char(b, ']');
    changes_end(out);
    e->stored = true;
}

void internal_collect(struct internal *internal, uint64_t epoch, struct changes *out)
{
    drop_written(internal, out);
    pthread_mutex_lock(&internal->lock);
    struct entry *e = internal->unstored;
    struct entry *last = internal->tail;
    pthread_mutex_unlock(&internal->lock);
    /* Entries up to `last` are linked for good, and only this thread frees them. */
    struct entry *first_left = NULL;
    for (struct entry *at = e; at; at = at == last ? NULL : at->next) {
        if (at->stored)
            continue;
        if (at->epoch <= epoch)
            store(at, out);
        else if (!first_left)
            first_left = at;
    }
    pthread_mutex_lock(&internal->lock);
    internal->unstored = first_left ? first_left : last ? last->next : internal->head;
    pthread_mutex_unlock(&internal->lock);
}

/* --- the source --- */

static struct internal *queue(struct source *source)
{
    return source->state;
}

static int init(struct source *source, const struct json_value *parameters, struct error *err)
{
    (void)parameters;
    struct internal *q = calloc(1, sizeof *q);
    if (!q)
        return error_set(err, ERROR_MEMORY, "out of memory");
    pthread_mutex_init(&q->lock, NULL);
    q->source = source;
    source->state = q;
    return 0;
}

static void done(struct source *source)
{
    struct internal *q = queue(source);
    if (!q)
        return;
    while (q->head) {
        struct entry *next = q->head->next;
        free(q->head);
        q->head = next;
    }
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static int restore(struct source *source, const struct json_value *position, struct error *err)
{
    int64_t written = 0;
    if (position && (!json_integer(position, &written) || written < 0))
        return error_set(err, ERROR_INVALID, "position is not a number");
    struct internal *q = queue(source);
    q->written = q->barrier = (uint64_t)written;
    if (q->last_number < q->written)
        q->last_number = q->written;
    return 0;
}

static void position(struct source *source, struct buffer *out)
{
    struct internal *q = queue(source);
    q->barrier = q->written;
    if (q->written)
        buffer_append_u64(out, q->written);
}

static void acknowledge(struct source *source)
{
    (void)source;
}

static int deliver_event(struct source *source, const struct entry *e)
{
    struct cloudevent event;
    cloudevent_unpack(e->packed, &event);
    XXH128_hash_t h = XXH3_128bits(event.attribute[CE_ID].text, event.attribute[CE_ID].len);
    bool has_key = event.attribute[CE_KEY].len;
    const uint64_t position[2] = {h.high64, h.low64};
    return e->kind == ENTRY_WRITE ? source_deliver_write(source, &event, position)
                                  : source_deliver(source, &event, position, has_key);
}

static bool deliver(struct internal *q, struct entry *e)
{
    int r = e->kind == ENTRY_INTENT ? source_deliver_intent(q->source, (const char *)e->packed, e->len)
                                    : deliver_event(q->source, e);
    if (r)
        return false;
    q->written = e->number;
    pthread_mutex_lock(&q->lock);
    q->unwritten = e->next;
    pthread_mutex_unlock(&q->lock);
    return true;
}

static struct entry *next_entry(struct internal *q, bool may_sleep)
{
    pthread_mutex_lock(&q->lock);
    struct entry *e = q->unwritten;
    q->sleeping = !e && may_sleep;
    pthread_mutex_unlock(&q->lock);
    return e;
}

static void run(struct source *source)
{
    struct internal *q = queue(source);
    source_set_state(source, ARENA_SOURCE_READING, NULL);
    while (!source_stopping(source)) {
        struct entry *e = next_entry(q, true);
        if (!e) {
            source_poll(source, -1, 0, UINT64_MAX);
            continue;
        }
        source_begin_batch(source); /* may have waited: what is next stays next */
        for (unsigned i = 0; e && i < BATCH; i++, e = next_entry(q, false))
            if (!deliver(q, e))
                break;
        source_end_batch(source);
    }
}

extern const struct source_type source_internal;
const struct source_type source_internal = {
    .class_name = "InternalEventSource",
    .init = init,
    .done = done,
    .restore = restore,
    .run = run,
    .position = position,
    .acknowledge = acknowledge,
    .position_field = "internal_position",
};

int internal_new(struct worker *worker, struct source **ret_source, struct error *err)
{
    static const char document[] =
        "{\"name\":\"internal\",\"class\":\"InternalEventSource\",\"parameters\":{}}";
    struct source *source;
    if (source_new(worker, 0, "internal", 8, document, sizeof document - 1, &source, err) < 0)
        return -1;
    worker->internal = source->state;
    *ret_source = source;
    return 0;
}
