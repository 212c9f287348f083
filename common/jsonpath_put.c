/* Writing to where a reference path leads. */
#include <assert.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/jsonpath_internal.h"

struct put {
    const struct jsonpath *path;
    const struct json_value *value;
    uint64_t *steps;
    struct buffer *out;
    struct error *err;
};

static int put(struct put *p, unsigned at, const struct json_value *old);

static int put_member(struct put *p, unsigned at, const struct json_value *old)
{
    const struct jsonpath_name *wanted = p->path->segments.at[at].names;
    struct json_value present;
    struct json_iter iter;
    struct json_value name, value;
    bool done = false;
    size_t start = p->out->len + 1;
    jsonpath_member(old, wanted, &present);
    buffer_append_char(p->out, '{');
    json_iter_init(&iter, old); /* nothing when it is absent */
    for (bool more = true; more;) {
        size_t len;
        more = json_next(&iter, &name, &value);
        bool here = more && json_equals(&name, wanted->text, wanted->len);
        if ((here || !more) && done)
            continue;
        if (p->out->len > start)
            buffer_append_char(p->out, ',');
        if (here || !more) {
            buffer_append_json(p->out, wanted->text, wanted->len);
            buffer_append_char(p->out, ':');
            done = true;
            if (put(p, at + 1, &present) < 0)
                return -1;
            continue;
        }
        const char *raw = json_raw(&name, &len);
        buffer_append(p->out, raw, len);
        buffer_append_char(p->out, ':');
        raw = json_raw(&value, &len);
        buffer_append(p->out, raw, len);
    }
    buffer_append_char(p->out, '}');
    return 0;
}

static int put_element(struct put *p, unsigned at, const struct json_value *old)
{
    int64_t index = p->path->segments.at[at].indices[0];
    struct json_iter iter;
    struct json_value name, value;
    bool done = false;
    buffer_append_char(p->out, '[');
    json_iter_init(&iter, old);
    for (int64_t i = 0; json_next(&iter, &name, &value); i++) {
        size_t len;
        if (i)
            buffer_append_char(p->out, ',');
        if (i == index) {
            done = true;
            if (put(p, at + 1, &value) < 0)
                return -1;
            continue;
        }
        const char *raw = json_raw(&value, &len);
        buffer_append(p->out, raw, len);
    }
    buffer_append_char(p->out, ']');
    if (!done)
        return error_set(p->err, ERROR_INVALID, "path %.100s: there is no element %lld to replace",
                         p->path->text, (long long)index);
    return 0;
}

static int put(struct put *p, unsigned at, const struct json_value *old)
{
    if (json_work(p->steps, JSONPATH_STEP + (old->type == JSON_ABSENT ? 0 : 2 * old->len), p->err) < 0)
        return -1;
    if (at == p->path->segments.n) {
        size_t len;
        const char *raw = json_raw(p->value, &len);
        buffer_append(p->out, raw, len);
        return 0;
    }
    bool name = p->path->segments.at[at].kind == JSONPATH_NAMES;
    if (name && (old->type == JSON_OBJECT || old->type == JSON_ABSENT))
        return put_member(p, at, old);
    if (!name && old->type == JSON_ARRAY)
        return put_element(p, at, old);
    return error_set(p->err, ERROR_INVALID, "path %.100s: cannot be written to: %s where %s is needed",
                     p->path->text, json_type_name(old->type), name ? "an object" : "an array");
}

int jsonpath_put(const struct jsonpath *path, const struct json_value *root, const struct json_value *value,
                 struct pool *pool, uint64_t *steps, struct json_value *ret_document, struct error *err)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct put p = {.path = path, .value = value, .steps = steps, .out = &out, .err = err};
    struct jsonpath_walk w = {.root = root, .pool = pool, .steps = steps, .err = err};
    assert(jsonpath_is_reference(path));
    if (!path->segments.n) {
        *ret_document = *value;
        return 0;
    }
    if (put(&p, 0, root) < 0)
        return -1;
    return jsonpath_keep(&w, &out, ret_document);
}
