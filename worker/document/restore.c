#include "worker/document/restore.h"

#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/document/redact.h"

static bool is_redacted(const struct json_value *value)
{
    return value->type == JSON_STRING && memmem(value->text, value->len, REDACTED, sizeof REDACTED - 1);
}

bool restore_is_needed(const struct json_value *value)
{
    struct json_iter iter;
    struct json_value name, inner;
    if (value->type != JSON_OBJECT && value->type != JSON_ARRAY)
        return is_redacted(value);
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &inner))
        if (restore_is_needed(&inner))
            return true;
    return false;
}

static bool same_text(const struct json_value *a, const struct json_value *b)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (a->type != JSON_STRING || b->type != JSON_STRING)
        return false;
    if (!b->escaped)
        return json_equals(a, b->text, b->len);
    json_unescape(b, &text);
    return !text.failed && json_equals(a, buffer_text(&text), text.len);
}

/* What a redacted value is looked for by, and what was found. */
struct search {
    const struct json_value *name; /* of its member */
    const struct json_value *value;
    bool whole;              /* all of it was taken out; else it is a URL */
    struct json_value found; /* JSON_ABSENT: nothing yet */
    bool ambiguous;
};

static bool same(const struct json_value *a, const struct json_value *b)
{
    return a->type == b->type && a->len == b->len && !memcmp(a->text, b->text, a->len);
}

static bool fits(const struct search *s, const struct json_value *name, const struct json_value *value)
{
    BUFFER_AUTO redacted = BUFFER_INIT;
    struct json_value shown;
    if (is_redacted(value))
        return false;
    if (s->whole)
        return (value->type == JSON_STRING || value->type == JSON_NUMBER) && same_text(name, s->name);
    if (value->type != JSON_STRING)
        return false;
    redact_json(value, NULL, &redacted);
    return !redacted.failed && json_scan(redacted.data, redacted.len, &shown, NULL) == 0 &&
           same(&shown, s->value);
}

static void look(struct search *s, const struct json_value *name, const struct json_value *value)
{
    struct json_iter iter;
    struct json_value inner_name, inner;
    if (fits(s, name, value)) {
        s->ambiguous |= s->found.type != JSON_ABSENT && !same(&s->found, value);
        s->found = *value;
    }
    if (value->type != JSON_OBJECT && value->type != JSON_ARRAY)
        return;
    json_iter_init(&iter, value);
    while (json_next(&iter, &inner_name, &inner))
        look(s, value->type == JSON_OBJECT ? &inner_name : name, &inner);
}

static void append_raw(const struct json_value *value, struct buffer *out)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static int restore_one(const struct json_value *name, const struct json_value *value,
                       const struct json_value *from, size_t n_from, struct buffer *out, struct error *err)
{
    static const struct json_value none = {.type = JSON_ABSENT};
    struct search s = {
        .name = name, .value = value, .whole = json_equals(value, REDACTED, sizeof REDACTED - 1)};
    for (size_t i = 0; i < n_from; i++)
        look(&s, &none, &from[i]);
    if (s.found.type == JSON_ABSENT || s.ambiguous)
        return error_set(
            err, ERROR_INVALID,
            "the secret in %.*s was not kept, and is to be found %s in its trigger and the global "
            "context",
            (int)(name->len < 60 ? name->len : 60), name->len ? name->text : "",
            s.ambiguous ? "more than once" : "nowhere");
    append_raw(&s.found, out);
    return 0;
}

static int restore(const struct json_value *name, const struct json_value *value,
                   const struct json_value *from, size_t n_from, struct buffer *out, struct error *err)
{
    struct json_iter iter;
    struct json_value inner_name, inner;
    bool object = value->type == JSON_OBJECT;
    bool first = true;
    if (is_redacted(value))
        return restore_one(name, value, from, n_from, out, err);
    if (!object && value->type != JSON_ARRAY) {
        append_raw(value, out);
        return 0;
    }
    buffer_append_char(out, object ? '{' : '[');
    json_iter_init(&iter, value);
    while (json_next(&iter, &inner_name, &inner)) {
        if (!first)
            buffer_append_char(out, ',');
        first = false;
        if (object) {
            append_raw(&inner_name, out);
            buffer_append_char(out, ':');
        }
        if (restore(object ? &inner_name : name, &inner, from, n_from, out, err) < 0)
            return -1;
    }
    buffer_append_char(out, object ? '}' : ']');
    return 0;
}

int restore_secrets(const struct json_value *value, const struct json_value *from, size_t n_from,
                    struct buffer *out, struct error *err)
{
    static const struct json_value none = {.type = JSON_ABSENT};
    if (restore(&none, value, from, n_from, out, err) < 0)
        return -1;
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}
