#include "worker/checkpoint/recovery.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/catalog.h"
#include "worker/checkpoint/changes.h"
#include "worker/checkpoint/outbox.h"
#include "worker/emission.h"
#include "worker/executor/fan_out.h"
#include "worker/globals.h"
#include "worker/source/consumed.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/worker.h"

void stored_fields_done(struct stored_fields *fields)
{
    for (size_t i = 0; i < fields->n; i++) {
        free(fields->items[i].key);
        free(fields->items[i].value);
    }
    free(fields->items);
    *fields = (struct stored_fields){0};
}

static int fields_add(struct stored_fields *fields, const char *key, size_t key_len, const char *value,
                      size_t len)
{
    if (fields->n == fields->cap) {
        size_t cap = fields->cap ? fields->cap * 2 : 16;
        struct stored_field *items = realloc(fields->items, cap * sizeof *items);
        if (!items)
            return -1;
        fields->items = items;
        fields->cap = cap;
    }
    struct stored_field *f = &fields->items[fields->n];
    f->key = malloc(key_len + 1);
    f->value = malloc(len + 1);
    if (!f->key || !f->value) {
        free(f->key);
        free(f->value);
        return -1;
    }
    memcpy(f->key, key, key_len);
    memcpy(f->value, value, len);
    f->key[key_len] = f->value[len] = '\0';
    f->key_len = key_len;
    f->len = len;
    fields->n++;
    return 0;
}

static int compare_fields(const void *a, const void *b)
{
    return strcmp(((const struct stored_field *)a)->key, ((const struct stored_field *)b)->key);
}

/* Sorts by key and drops what a scan has reported twice. */
static void fields_sort(struct stored_fields *fields)
{
    if (!fields->n)
        return;
    qsort(fields->items, fields->n, sizeof *fields->items, compare_fields);
    size_t kept = 1;
    for (size_t i = 1; i < fields->n; i++) {
        if (!compare_fields(&fields->items[kept - 1], &fields->items[i])) {
            free(fields->items[i].key);
            free(fields->items[i].value);
            continue;
        }
        fields->items[kept++] = fields->items[i];
    }
    fields->n = kept;
}

static int see_any(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    return fields_add(data, key, key_len, value, len);
}

void recovery_done(struct recovery *recovery)
{
    stored_fields_done(&recovery->positions);
    stored_fields_done(&recovery->internal);
    stored_fields_done(&recovery->outbox_started);
    stored_fields_done(&recovery->seen);
    stored_fields_done(&recovery->consumed);
    stored_fields_done(&recovery->fan_outs);
    free(recovery->adopt);
    recovery->adopt = NULL;
}

/* --- the checkpoint's fields --- */

struct checkpoint_scan {
    struct recovery *recovery;
    struct catalog *catalog;
};

static bool is_prefix(const char *prefix, const char *key, size_t len)
{
    size_t n = strlen(prefix);
    return len > n && !memcmp(key, prefix, n);
}

static void read_finished(struct recovery *r, const char *value, size_t len)
{
    struct json_value root;
    struct json_value member;
    int64_t count;
    if (json_scan(value, len, &root, NULL) < 0 || root.type != JSON_OBJECT)
        return;
    if (json_member(&root, "count", &member) && json_integer(&member, &count) && count > 0)
        r->finished = (uint64_t)count;
    r->finish_open = json_member(&root, "left", &member) && member.type == JSON_FALSE;
}

static bool is_among(const struct stored_fields *fields, const char *key, size_t len)
{
    for (size_t i = 0; i < fields->n; i++)
        if (fields->items[i].key_len == len && !memcmp(fields->items[i].key, key, len))
            return true;
    return false;
}

static int see_checkpoint(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct checkpoint_scan *scan = data;
    struct recovery *r = scan->recovery;
    if (catalog_recover_field(scan->catalog, key, key_len, value, len))
        return 0;
    size_t name_len;
    uint64_t epoch;
    if (consumed_field(key, key_len, &name_len, &epoch))
        return is_among(&r->consumed, key + sizeof CONSUMED_FIELD - 1, name_len)
                   ? 0
                   : fields_add(&r->consumed, key + sizeof CONSUMED_FIELD - 1, name_len, "", 0);
    if (is_prefix("seen:", key, key_len))
        return fields_add(&r->seen, key + 5, key_len - 5, value, len);
    if (is_prefix(FAN_OUT_PREFIX, key, key_len))
        return fields_add(&r->fan_outs, key + strlen(FAN_OUT_PREFIX), key_len - strlen(FAN_OUT_PREFIX), value,
                          len);
    size_t started_len = strlen(OUTBOX_STARTED);
    if (key_len >= started_len && !memcmp(key, OUTBOX_STARTED, started_len)) /* a line may have no name */
        return fields_add(&r->outbox_started, key + started_len, key_len - started_len, value, len);
    if (is_prefix("position:", key, key_len) || (key_len == 17 && !memcmp(key, "internal_position", 17)) ||
        (key_len == 18 && !memcmp(key, "event_log_position", 18)))
        return fields_add(&r->positions, key, key_len, value, len);
    if (key_len == 17 && !memcmp(key, "dead_letter_bytes", 17)) {
        char number[24] = "";
        memcpy(number, value, len < sizeof number - 1 ? len : sizeof number - 1);
        r->dead_letter_bytes = strtoull(number, NULL, 10);
    } else if (key_len == 8 && !memcmp(key, "finished", 8)) {
        read_finished(r, value, len);
    } else if (key_len == 6 && !memcmp(key, "paused", 6)) {
        r->paused = len == 1 && *value == '1';
    }
    return 0;
}

int recovery_load(struct recovery *recovery, struct worker *worker, struct storage *storage,
                  struct catalog *catalog, struct error *err)
{
    const char *ws = worker->workspace;
    const struct storage_type *type = storage->type;
    struct checkpoint_scan scan = {recovery, catalog};
    recovery_done(recovery);
    *recovery = (struct recovery){0};
    int r = type->claim(storage, ws, worker->writer, &recovery->claim, err);
    if (r) {
        if (r > 0)
            error_set(err, ERROR_NOT_FOUND, "workspace %s is not stored", ws);
        return r;
    }
    memcpy(worker->creation, recovery->claim.creation, sizeof worker->creation);
    if (type->load(storage, ws, STORAGE_CHECKPOINT, see_checkpoint, &scan, err) < 0 ||
        type->load(storage, ws, STORAGE_INTERNAL, see_any, &recovery->internal, err) < 0)
        return -1;
    fields_sort(&recovery->internal);
    catalog->epoch = recovery->claim.epoch;
    if (globals_load(&worker->globals, storage, ws, err) < 0 ||
        catalog_load_triggers(catalog, storage, err) < 0)
        return -1;
    for (size_t i = 0; i < recovery->seen.n; i++) {
        struct stored_field *f = &recovery->seen.items[i];
        if (emissions_restore(worker->emissions, f->key, f->key_len, f->value, f->len, err) < 0)
            return -1;
    }
    return 0;
}

/* --- putting it back --- */

void recovery_position_field(const struct source *source, struct buffer *out)
{
    if (source->type->position_field) {
        buffer_append_text(out, source->type->position_field);
        return;
    }
    buffer_append_text(out, "position:");
    buffer_append_text(out, source->name);
}

static int restore_text(struct source *source, const char *text, size_t len, struct error *err)
{
    struct json_value position;
    if (json_scan(text, len, &position, err) < 0 || source->type->restore(source, &position, err) < 0)
        return error_prefix(err, "stored position of event source %s", source->name);
    buffer_append(&source->stored_position, text, len);
    return 0;
}

static int restore_adopted(struct source *source, const char *from, struct error *err)
{
    struct json_value position;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!strcmp(from, "beginning") && !source->type->adopts_beginning)
        return source->type->restore(source, NULL, err);
    buffer_append_text(&text, "{\"from\":");
    buffer_append_json(&text, from, strlen(from));
    buffer_append_char(&text, '}');
    if (json_scan(text.data, text.len, &position, err) < 0)
        return -1;
    return source->type->restore(source, &position, err);
}

static int see_position(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    (void)key;
    (void)key_len;
    buffer_append(data, value, len);
    return 0;
}

int recovery_restore_source(const struct recovery *recovery, struct storage *storage, struct source *source,
                            struct error *err)
{
    assert(recovery || storage);
    BUFFER_AUTO field = BUFFER_INIT;
    recovery_position_field(source, &field);
    if (!recovery) {
        BUFFER_AUTO stored = BUFFER_INIT;
        const char *key = buffer_text(&field);
        if (storage->type->get(storage, source->worker->workspace, STORAGE_CHECKPOINT, &key, 1, see_position,
                               &stored, err) < 0)
            return -1;
        return stored.len ? restore_text(source, stored.data, stored.len, err)
                          : source->type->restore(source, NULL, err);
    }
    for (size_t i = 0; i < recovery->positions.n; i++) {
        const struct stored_field *f = &recovery->positions.items[i];
        if (f->key_len == field.len && !memcmp(f->key, field.data, field.len))
            return restore_text(source, f->value, f->len, err);
    }
    if (recovery->adopt && source->index)
        return restore_adopted(source, recovery->adopt, err);
    return source->type->restore(source, NULL, err);
}

/* --- what unordered sources have consumed: read in a pass of its own, as there may be much of it --- */

struct consumed_scan {
    struct source *source;              /* to restore */
    const struct stored_fields *stored; /* or to look for what belongs to no stored event source */
    uint64_t before_unix_s;
    struct changes *out;
    struct error *err;
    bool failed;
};

static int see_consumed(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct consumed_scan *scan = data;
    struct source *s = scan->source;
    size_t name_len;
    uint64_t epoch;
    if (!consumed_field(key, key_len, &name_len, &epoch) || strlen(s->name) != name_len ||
        memcmp(key + sizeof CONSUMED_FIELD - 1, s->name, name_len) != 0)
        return 0;
    scan->failed = s->type->restore_consumed(s, key, key_len, value, len, scan->err) < 0;
    return scan->failed ? -1 : 0;
}

int recovery_restore_consumed(const struct recovery *recovery, struct storage *storage, struct source *source,
                              struct error *err)
{
    struct consumed_scan scan = {.source = source, .err = err};
    if (!source->type->restore_consumed ||
        (recovery && !is_among(&recovery->consumed, source->name, strlen(source->name))))
        return 0;
    int r =
        storage->type->load(storage, source->worker->workspace, STORAGE_CHECKPOINT, see_consumed, &scan, err);
    return scan.failed ? -1 : r < 0 ? RECOVERY_AGAIN : 0;
}

static int see_gone(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct consumed_scan *scan = data;
    size_t name_len;
    uint64_t epoch;
    if (consumed_field(key, key_len, &name_len, &epoch) &&
        !is_among(scan->stored, key + sizeof CONSUMED_FIELD - 1, name_len) &&
        consumed_field_time(value, len) < scan->before_unix_s && scan->out->n < STORAGE_OPS_SAFE / 2)
        changes_delete(scan->out, STORAGE_CHECKPOINT, key, key_len);
    return 0;
}

static int see_name(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    (void)value;
    (void)len;
    return fields_add(data, key, key_len, "", 0);
}

int recovery_forget_consumed(const struct recovery *recovery, struct storage *storage, struct worker *worker,
                             struct changes *out, struct error *err)
{
    uint64_t now = clock_unix_ns() / CLOCK_S;
    uint64_t window = (uint64_t)worker->config->redelivery_window_ns / CLOCK_S + 1;
    struct stored_fields stored = {0};
    struct consumed_scan scan = {
        .stored = &stored, .before_unix_s = now > window ? now - window : 0, .out = out, .err = err};
    if (!recovery->consumed.n)
        return 0;
    int r = storage->type->load(storage, worker->workspace, STORAGE_EVENT_SOURCES, see_name, &stored, err);
    bool gone = false;
    for (size_t i = 0; r == 0 && i < recovery->consumed.n; i++)
        gone |= !is_among(&stored, recovery->consumed.items[i].key, recovery->consumed.items[i].key_len);
    if (gone)
        r = storage->type->load(storage, worker->workspace, STORAGE_CHECKPOINT, see_gone, &scan, err);
    stored_fields_done(&stored);
    return r;
}

int recovery_restore_internal(const struct recovery *recovery, struct source *internal, struct error *err)
{
    if (recovery_restore_source(recovery, NULL, internal, err) < 0)
        return -1;
    for (size_t i = 0; i < recovery->internal.n; i++) {
        const struct stored_field *f = &recovery->internal.items[i];
        if (internal_restore(internal->worker->internal, strtoull(f->key, NULL, 10), f->value, f->len, err) <
            0)
            return error_prefix(err, "stored internal event %s", f->key);
    }
    return 0;
}

static int see_letter(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    (void)key;
    (void)key_len;
    (void)value;
    *(uint64_t *)data += len;
    return 0;
}

int recovery_count_dead_letters(struct worker *worker, struct storage *storage, uint64_t *ret_bytes,
                                struct error *err)
{
    uint64_t bytes = 0;
    if (storage->type->load(storage, worker->workspace, STORAGE_DEAD_LETTERS, see_letter, &bytes, err) < 0)
        return -1;
    *ret_bytes = bytes;
    return 0;
}
