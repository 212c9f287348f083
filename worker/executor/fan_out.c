#include "worker/executor/fan_out.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/checkpoint/changes.h"
#include "worker/shard/firing.h"
#include "worker/executor/intent.h"

struct fan_out {
    struct fan_out *before, *after;
    struct intent *intent; /* the whole; NULL once all elements have been started */
    char field[INTENT_FIELD_MAX];
    char creation[64];
    struct buffer head; /* of an element's document, behind its key */
    struct buffer identity;
    uint64_t number;
    struct json_iter iter; /* over the elements */
    uint32_t n;
    uint32_t next;       /* to be started */
    uint32_t announced;  /* those below may be */
    uint32_t doubtful;   /* those below may have been, in an earlier life */
    uint32_t ended;      /* how many */
    uint32_t top;        /* above the last one that has ended */
    unsigned char *bits; /* those that have ended */
    bool changed;
    bool stored; /* there is a field with its progress */
    bool replayed;
    bool uncertain;
};

static bool has_ended(const struct fan_out *f, uint32_t i)
{
    return f->bits[i / 8] >> (i % 8) & 1;
}

static void set_ended(struct fan_out *f, uint32_t i)
{
    if (has_ended(f, i))
        return;
    f->bits[i / 8] |= (unsigned char)(1u << (i % 8));
    f->ended++;
    if (i >= f->top)
        f->top = i + 1;
}

void fan_out_free(struct fan_out *fan_out)
{
    if (!fan_out)
        return;
    intent_free(fan_out->intent);
    buffer_done(&fan_out->head);
    buffer_done(&fan_out->identity);
    free(fan_out->bits);
    free(fan_out);
}

/* --- the stored form --- */

static int read_origin(struct fan_out *f, const struct json_value *root, struct error *err)
{
    struct json_value of, identity, number;
    int64_t n;
    if (!json_member(root, "of", &of) || of.type != JSON_OBJECT || !json_member(&of, "identity", &identity) ||
        identity.type != JSON_STRING || !json_member(&of, "number", &number) || number.type != JSON_NUMBER ||
        !json_integer(&number, &n) || n < 0)
        return error_set(err, ERROR_INVALID, "intent %s does not say which firing it is of", f->field);
    json_unescape(&identity, &f->identity);
    f->number = (uint64_t)n;
    return 0;
}

static void append_member(const struct json_value *root, const char *name, struct buffer *out)
{
    struct json_value value;
    size_t len;
    if (!json_member(root, name, &value))
        return;
    const char *raw = json_raw(&value, &len);
    buffer_printf(out, ",\"%s\":", name);
    buffer_append(out, raw, len);
}

static int read_document(struct fan_out *f, struct error *err)
{
    const struct json_value *root = &f->intent->root;
    struct json_value elements, name, value;
    struct json_iter iter;
    uint64_t n = 0;
    if (!json_member(root, "elements", &elements) || elements.type != JSON_ARRAY)
        return error_set(err, ERROR_INVALID, "intent %s has no elements", f->field);
    json_iter_init(&iter, &elements);
    while (json_next(&iter, &name, &value))
        n++;
    if (!n || n >= UINT32_MAX)
        return error_set(err, ERROR_INVALID, "intent %s has %llu elements", f->field, (unsigned long long)n);
    f->n = (uint32_t)n;
    json_iter_init(&f->iter, &elements);
    append_member(root, "trigger", &f->head);
    append_member(root, "action", &f->head);
    append_member(root, "body", &f->head);
    f->announced = f->n < FAN_OUT_FIRST ? f->n : FAN_OUT_FIRST;
    f->doubtful = f->announced;
    f->bits = calloc(f->n / 8 + 1, 1);
    if (!f->bits || f->head.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return read_origin(f, root, err);
}

static int read_progress(struct fan_out *f, const char *text, struct error *err)
{
    char *end;
    unsigned long long next = strtoull(text, &end, 10);
    unsigned long long started = f->n;
    if (end != text && end[0] == '/' && isdigit((unsigned char)end[1]))
        started = strtoull(end + 1, &end, 10);
    if (end == text || next > started || started > f->n || (*end && *end != ':'))
        return error_set(err, ERROR_INVALID, FAN_OUT_PREFIX "%s is %.80s", f->field, text);
    f->announced = f->doubtful = (uint32_t)started;
    for (uint32_t i = 0; i < next; i++)
        set_ended(f, i);
    while (*end) {
        const char *at = end + 1;
        unsigned long long open = strtoull(at, &end, 10);
        if (end == at || open >= next || (*end && *end != ',') || !has_ended(f, (uint32_t)open))
            return error_set(err, ERROR_INVALID, FAN_OUT_PREFIX "%s is %.80s", f->field, text);
        f->bits[open / 8] &= (unsigned char)~(1u << (open % 8));
        f->ended--;
    }
    f->stored = true;
    return 0;
}

int fan_out_new(struct intent *intent, const char *creation, const char *progress,
                struct fan_out **ret_fan_out, struct error *err)
{
    struct fan_out *f = calloc(1, sizeof *f);
    if (!f)
        return error_set(err, ERROR_MEMORY, "out of memory");
    f->intent = intent;
    f->replayed = intent->replayed;
    f->uncertain = intent->uncertain;
    memcpy(f->field, intent->field, sizeof f->field);
    snprintf(f->creation, sizeof f->creation, "%s", creation);
    if (read_document(f, err) < 0 || (progress && read_progress(f, progress, err) < 0)) {
        f->intent = NULL;
        fan_out_free(f);
        return -1;
    }
    *ret_fan_out = f;
    return 0;
}

void fan_out_announce(struct fan_out *fan_out, uint64_t n)
{
    uint64_t reach = fan_out->next + n < fan_out->n ? fan_out->next + n : fan_out->n;
    if (reach <= fan_out->announced)
        return;
    fan_out->announced = (uint32_t)reach;
    fan_out->changed = true;
}

void fan_out_begin_count(struct fan_out *fan_out)
{
    fan_out->announced = fan_out->top;
    if (fan_out->uncertain && fan_out->doubtful > fan_out->announced)
        fan_out->announced = fan_out->doubtful;
    fan_out->changed = true;
}

void fan_out_has_begun(struct fan_out *fan_out, uint32_t element)
{
    if (element >= fan_out->announced)
        fan_out->announced = element + 1;
}

bool fan_out_is_uncertain(const struct fan_out *fan_out)
{
    return fan_out->uncertain;
}

const char *fan_out_field(const struct fan_out *fan_out)
{
    return fan_out->field;
}

bool fan_out_is_held(const struct fan_out *fan_out)
{
    return fan_out->next >= fan_out->announced && fan_out->next < fan_out->n;
}

void fan_out_write(struct fan_out *fan_out, struct changes *out)
{
    struct fan_out *f = fan_out;
    char key[sizeof FAN_OUT_PREFIX + INTENT_FIELD_MAX];
    if (!f->changed)
        return;
    int n = snprintf(key, sizeof key, FAN_OUT_PREFIX "%s", f->field);
    struct buffer *b = changes_begin(out, STORAGE_CHECKPOINT, STORAGE_PUT, key, (size_t)n, "", 0);
    buffer_append_u64(b, f->top);
    buffer_append_char(b, '/');
    buffer_append_u64(b, f->announced);
    char separator = ':';
    for (uint32_t i = 0; i < f->top; i++) {
        if (!(i % 8) && f->bits[i / 8] == 0xFF) {
            i += 7;
            continue;
        }
        if (has_ended(f, i))
            continue;
        buffer_append_char(b, separator);
        buffer_append_u64(b, i);
        separator = ',';
    }
    changes_end(out);
    f->changed = false;
    f->stored = true;
}

/* --- elements --- */

static struct intent *make_element(struct fan_out *f, uint32_t i, const struct json_value *value,
                                   struct error *err)
{
    char key[ACTION_KEY_MAX];
    struct intent *element;
    size_t len;
    BUFFER_AUTO text = BUFFER_INIT;
    const char *raw = json_raw(value, &len);
    firing_key_of(f->creation, buffer_text(&f->identity), f->identity.len, f->number, i, key);
    buffer_printf(&text, "{\"key\":\"%s\"", key);
    buffer_append(&text, f->head.data, f->head.len);
    buffer_printf(&text, ",\"index\":%u,\"element\":", i);
    buffer_append(&text, raw, len);
    buffer_append_char(&text, '}');
    if (text.failed || f->identity.failed) {
        error_set(err, ERROR_MEMORY, "out of memory");
        return NULL;
    }
    if (intent_load(f->field, strlen(f->field), text.data, text.len, &element, err) < 0)
        return NULL;
    element->fan_out = f;
    element->index = i;
    element->replayed = f->replayed;
    element->uncertain = f->uncertain && i < f->doubtful;
    return element;
}

bool fan_out_exhausted(const struct fan_out *fan_out)
{
    return !fan_out->intent;
}

struct intent *fan_out_next(struct fan_out *fan_out, struct error *err)
{
    struct fan_out *f = fan_out;
    struct json_value name, value;
    while (f->intent && !fan_out_is_held(f)) {
        struct json_iter before = f->iter;
        if (!json_next(&f->iter, &name, &value)) {
            intent_free(f->intent);
            f->intent = NULL;
            break;
        }
        struct intent *element = has_ended(f, f->next) ? NULL : make_element(f, f->next, &value, err);
        if (!element && !has_ended(f, f->next)) {
            f->iter = before;
            return NULL;
        }
        f->next++;
        if (element)
            return element;
    }
    error_set(err, ERROR_NOT_FOUND, "no more elements");
    return NULL;
}

bool fan_out_ended(struct fan_out *fan_out, uint32_t element, struct changes *out)
{
    struct fan_out *f = fan_out;
    set_ended(f, element);
    f->changed = true;
    if (f->ended < f->n)
        return false;
    changes_delete(out, STORAGE_OUTBOX, f->field, strlen(f->field));
    if (f->stored) {
        char key[sizeof FAN_OUT_PREFIX + INTENT_FIELD_MAX];
        int n = snprintf(key, sizeof key, FAN_OUT_PREFIX "%s", f->field);
        changes_delete(out, STORAGE_CHECKPOINT, key, (size_t)n);
    }
    return true;
}

/* --- lists --- */

struct fan_out *fan_out_after(const struct fan_out *fan_out)
{
    return fan_out->after;
}

void fan_out_link(struct fan_out *fan_out, struct fan_out **list)
{
    fan_out->before = NULL;
    fan_out->after = *list;
    if (*list)
        (*list)->before = fan_out;
    *list = fan_out;
}

void fan_out_unlink(struct fan_out *fan_out, struct fan_out **list)
{
    if (fan_out->before)
        fan_out->before->after = fan_out->after;
    else
        *list = fan_out->after;
    if (fan_out->after)
        fan_out->after->before = fan_out->before;
}
