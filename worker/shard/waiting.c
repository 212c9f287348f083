#include "worker/shard/waiting.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/checkpoint/changes.h"
#include "worker/deadletter.h"

#define STATE_PREFIX "waits:"
#define EVENT_PREFIX "waiting:"
#define DIGITS 20
#define FIELD_MAX 256

struct waiting_event {
    struct waiting_event *next;
    uint64_t number;
    bool stored;
    _Alignas(8) unsigned char packed[];
};

static const char *const stages[] = {"idle", "condition", "action"};

struct waiting *waiting_new(uint64_t first, uint64_t definition, _Atomic uint64_t *count)
{
    struct waiting *w = calloc(1, sizeof *w);
    if (w) {
        w->end = &w->first;
        w->asked = w->last = first;
        w->definition = definition;
        w->count = count;
    }
    return w;
}

void waiting_event_free(struct waiting_event *event)
{
    free(event);
}

void waiting_free(struct waiting *waiting)
{
    if (!waiting)
        return;
    while (waiting->first)
        waiting_event_free(waiting_take(waiting));
    free(waiting->removed);
    free(waiting);
}

static struct waiting_event *event_new(const struct cloudevent *event, uint64_t number)
{
    struct waiting_event *e = malloc(sizeof *e + cloudevent_packed_size(event));
    if (e) {
        *e = (struct waiting_event){.number = number};
        cloudevent_pack(event, e->packed);
    }
    return e;
}

static void append(struct waiting *w, struct waiting_event *e)
{
    e->next = NULL;
    *w->end = e;
    w->end = &e->next;
    atomic_fetch_add_explicit(w->count, 1, memory_order_relaxed);
}

int waiting_add(struct waiting *waiting, const struct cloudevent *event, struct error *err)
{
    struct waiting_event *e = event_new(event, waiting->last + 1);
    if (!e)
        return error_set(err, ERROR_MEMORY, "out of memory");
    waiting->last++;
    append(waiting, e);
    if (!waiting->unstored)
        waiting->unstored = e;
    return 0;
}

bool waiting_first(const struct waiting *waiting, struct cloudevent *ret_event)
{
    if (!waiting->first)
        return false;
    cloudevent_unpack(waiting->first->packed, ret_event);
    return true;
}

static void remember_removed(struct waiting *w, uint64_t number)
{
    if (w->n_removed == w->removed_cap) {
        size_t cap = w->removed_cap ? w->removed_cap * 2 : 8;
        uint64_t *grown = realloc(w->removed, cap * sizeof *grown);
        if (!grown)
            abort(); /* the event would come back: start again from the last checkpoint */
        w->removed = grown;
        w->removed_cap = cap;
    }
    w->removed[w->n_removed++] = number;
}

struct waiting_event *waiting_take(struct waiting *waiting)
{
    struct waiting_event *e = waiting->first;
    waiting->first = e->next;
    if (!e->next)
        waiting->end = &waiting->first;
    if (waiting->unstored == e)
        waiting->unstored = e->next;
    atomic_fetch_sub_explicit(waiting->count, 1, memory_order_relaxed);
    if (e->stored)
        remember_removed(waiting, e->number);
    return e;
}

/* --- storing --- */

static size_t event_field(char field[FIELD_MAX], const char *identity, size_t identity_len, uint64_t number)
{
    int n = snprintf(field, FIELD_MAX, EVENT_PREFIX "%.*s:%020llu", (int)identity_len, identity,
                     (unsigned long long)number);
    return n < FIELD_MAX ? (size_t)n : FIELD_MAX - 1;
}

static size_t state_field(char field[FIELD_MAX], const char *identity, size_t identity_len)
{
    int n = snprintf(field, FIELD_MAX, STATE_PREFIX "%.*s", (int)identity_len, identity);
    return n < FIELD_MAX ? (size_t)n : FIELD_MAX - 1;
}

static void delete_removed(struct waiting *w, const char *identity, size_t identity_len, struct changes *out)
{
    char field[FIELD_MAX];
    for (size_t i = 0; i < w->n_removed; i++) {
        size_t n = event_field(field, identity, identity_len, w->removed[i]);
        changes_delete(out, STORAGE_CHECKPOINT, field, n);
    }
    w->n_removed = 0;
}

void waiting_write(struct waiting *waiting, const char *identity, size_t identity_len, struct changes *out)
{
    char field[FIELD_MAX];
    struct cloudevent event;
    delete_removed(waiting, identity, identity_len, out);
    for (struct waiting_event *e = waiting->unstored; e; e = e->next) {
        size_t n = event_field(field, identity, identity_len, e->number);
        struct buffer *b = changes_begin(out, STORAGE_CHECKPOINT, STORAGE_PUT, field, n, "", 0);
        cloudevent_unpack(e->packed, &event);
        cloudevent_write(&event, b);
        changes_end(out);
        e->stored = true;
    }
    waiting->unstored = NULL;
    size_t n = state_field(field, identity, identity_len);
    struct buffer *b = changes_begin(out, STORAGE_CHECKPOINT, STORAGE_PUT, field, n, "", 0);
    buffer_printf(b, "{\"stage\":\"%s\",\"key\":\"%s\",\"asked\":%llu,\"last\":%llu,\"of\":\"%016llx\"}",
                  stages[waiting->stage], waiting->key, (unsigned long long)waiting->asked,
                  (unsigned long long)waiting->last, (unsigned long long)waiting->definition);
    changes_end(out);
}

void waiting_abandon(struct waiting *waiting, const char *id, const char *identity, bool keep_state,
                     const char *why, struct changes *out)
{
    char field[FIELD_MAX];
    struct cloudevent event;
    if (!waiting)
        return;
    while (waiting_first(waiting, &event)) {
        struct dead_letter letter = {.reason = "no_trigger", .detail = why, .trigger = id, .event = &event};
        dead_letter_add(&letter, out);
        waiting_event_free(waiting_take(waiting));
    }
    delete_removed(waiting, identity, strlen(identity), out);
    size_t n = state_field(field, identity, strlen(identity));
    if (!keep_state)
        changes_delete(out, STORAGE_CHECKPOINT, field, n);
    waiting->stage = WAITING_IDLE;
}

/* --- recovery --- */

static bool has_prefix(const char *key, size_t len, const char *prefix)
{
    return len > strlen(prefix) && !memcmp(key, prefix, strlen(prefix));
}

bool waiting_is_field(const char *key, size_t key_len, const char **ret_identity, size_t *ret_identity_len)
{
    if (has_prefix(key, key_len, STATE_PREFIX)) {
        *ret_identity = key + strlen(STATE_PREFIX);
        *ret_identity_len = key_len - strlen(STATE_PREFIX);
        return true;
    }
    size_t most = strlen(EVENT_PREFIX) + 1 + DIGITS; /* with an empty identity */
    if (!has_prefix(key, key_len, EVENT_PREFIX) || key_len < most || key[key_len - DIGITS - 1] != ':')
        return false;
    *ret_identity = key + strlen(EVENT_PREFIX);
    *ret_identity_len = key_len - most;
    return true;
}

static int load_state(struct waiting *w, const char *value, size_t len, struct error *err)
{
    struct json_value root, stage, key, asked, last, of;
    char hex[17] = "";
    int64_t n_asked, n_last;
    if (json_scan(value, len, &root, err) < 0)
        return -1;
    if (root.type != JSON_OBJECT || !json_member(&root, "stage", &stage) || stage.type != JSON_STRING ||
        !json_member(&root, "key", &key) || key.type != JSON_STRING || key.len >= ACTION_KEY_MAX ||
        !json_member(&root, "asked", &asked) || !json_integer(&asked, &n_asked) ||
        !json_member(&root, "last", &last) || !json_integer(&last, &n_last) ||
        !json_member(&root, "of", &of) || of.len >= sizeof hex)
        return error_set(err, ERROR_INVALID, "not what a trigger waits for: %.*s", (int)(len < 80 ? len : 80),
                         value);
    for (unsigned i = 0; i < sizeof stages / sizeof stages[0]; i++)
        if (json_equals(&stage, stages[i], strlen(stages[i])))
            w->stage = (enum waiting_stage)i;
    memset(w->key, 0, sizeof w->key);
    memcpy(w->key, key.text, key.len);
    memcpy(hex, of.text, of.len);
    w->definition = strtoull(hex, NULL, 16);
    w->asked = (uint64_t)n_asked;
    if (w->last < (uint64_t)n_last)
        w->last = (uint64_t)n_last;
    return 0;
}

static int load_event(struct waiting *w, uint64_t number, const char *value, size_t len, struct error *err)
{
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent event;
    if (cloudevent_parse(&event, value, len, &scratch, err) < 0)
        return -1;
    struct waiting_event *e = event_new(&event, number);
    if (!e)
        return error_set(err, ERROR_MEMORY, "out of memory");
    e->stored = true;
    append(w, e);
    if (w->last < number)
        w->last = number;
    return 0;
}

int waiting_load(struct waiting *waiting, const char *key, size_t key_len, const char *value, size_t len,
                 struct error *err)
{
    char digits[DIGITS + 1] = "";
    if (has_prefix(key, key_len, STATE_PREFIX))
        return load_state(waiting, value, len, err);
    memcpy(digits, key + key_len - DIGITS, DIGITS);
    return load_event(waiting, strtoull(digits, NULL, 10), value, len, err);
}

static int by_number(const void *a, const void *b)
{
    const struct waiting_event *x = *(struct waiting_event *const *)a;
    const struct waiting_event *y = *(struct waiting_event *const *)b;
    return (x->number > y->number) - (x->number < y->number);
}

int waiting_loaded(struct waiting *waiting, struct error *err)
{
    size_t n = 0;
    for (struct waiting_event *e = waiting->first; e; e = e->next)
        n++;
    struct waiting_event **all = malloc((n + 1) * sizeof(struct waiting_event *));
    if (!all)
        return error_set(err, ERROR_MEMORY, "out of memory");
    n = 0;
    for (struct waiting_event *e = waiting->first; e; e = e->next)
        all[n++] = e;
    qsort(all, n, sizeof *all, by_number);
    waiting->end = &waiting->first;
    for (size_t i = 0; i < n; i++) {
        *waiting->end = all[i];
        waiting->end = &all[i]->next;
    }
    *waiting->end = NULL;
    free(all);
    return 0;
}
