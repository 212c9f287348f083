#include "common/json_patch.h"

#include <stdbool.h>
#include <stddef.h>

#include "common/buffer.h"
#include "common/json.h"

/* The last member of this (unescaped) name. */
static bool find(const struct json_value *object, const struct buffer *name, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value at;
    struct json_value value;
    bool found = false;
    json_iter_init(&iter, object);
    while (json_next(&iter, &at, &value))
        if (json_equals(&at, name->data ? name->data : "", name->len)) {
            *ret_value = value;
            found = true;
        }
    return found;
}

static void append_raw(struct buffer *out, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static void begin_member(struct buffer *out, size_t start, const struct json_value *name)
{
    if (out->len > start)
        buffer_append_char(out, ',');
    append_raw(out, name);
    buffer_append_char(out, ':');
}

/* What the target has, as the patch leaves it. */
static void patch_members(const struct json_value *target, const struct json_value *patch, struct buffer *out,
                          size_t start)
{
    struct json_iter iter;
    struct json_value name, value, change;
    BUFFER_AUTO text = BUFFER_INIT;
    json_iter_init(&iter, target);
    while (json_next(&iter, &name, &value)) {
        buffer_reset(&text, 4096);
        json_unescape(&name, &text);
        bool changed = find(patch, &text, &change);
        if (changed && change.type == JSON_NULL)
            continue;
        begin_member(out, start, &name);
        if (changed)
            json_patch(&value, &change, out);
        else
            append_raw(out, &value);
        out->failed |= text.failed;
    }
}

/* What only the patch has. */
static void add_members(const struct json_value *target, const struct json_value *patch, struct buffer *out,
                        size_t start)
{
    struct json_iter iter;
    struct json_value name, value, other;
    BUFFER_AUTO text = BUFFER_INIT;
    json_iter_init(&iter, patch);
    while (json_next(&iter, &name, &value)) {
        buffer_reset(&text, 4096);
        json_unescape(&name, &text);
        out->failed |= text.failed;
        bool holds = find(patch, &text, &other) && other.text == value.text; /* of duplicates the last one */
        if (!holds || value.type == JSON_NULL || (target && find(target, &text, &other)))
            continue;
        begin_member(out, start, &name);
        json_patch(NULL, &value, out);
    }
}

void json_patch(const struct json_value *target, const struct json_value *patch, struct buffer *out)
{
    if (patch->type != JSON_OBJECT) {
        append_raw(out, patch);
        return;
    }
    buffer_append_char(out, '{');
    size_t start = out->len;
    if (target && target->type != JSON_OBJECT)
        target = NULL;
    if (target)
        patch_members(target, patch, out, start);
    add_members(target, patch, out, start);
    buffer_append_char(out, '}');
}
