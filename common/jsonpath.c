#include "common/jsonpath.h"

#include <math.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/jsonpath_internal.h"

/* Where matches go. */
struct matches {
    const struct jsonpath_segments *path;
    struct buffer *array; /* NULL: only the last one is wanted */
    struct json_value last;
    size_t n;
};

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static int add_match(struct jsonpath_walk *w, struct matches *m, const struct json_value *value)
{
    size_t len;
    m->n++;
    m->last = *value;
    if (!m->array)
        return 0;
    const char *raw = json_raw(value, &len);
    if (json_work(w->steps, len + 1, w->err) < 0)
        return -1;
    if (m->array->len > 1)
        buffer_append_char(m->array, ',');
    buffer_append(m->array, raw, len);
    return 0;
}

int jsonpath_keep(struct jsonpath_walk *w, struct buffer *text, struct json_value *ret_value)
{
    size_t len = text->len;
    const char *kept = pool_take(w->pool, text);
    if (!kept)
        return no_memory(w->err);
    return json_scan(kept, len, ret_value, w->err);
}

bool jsonpath_member(const struct json_value *object, const struct jsonpath_name *name,
                     struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value key, value;
    ret_value->type = JSON_ABSENT;
    if (object->type != JSON_OBJECT)
        return false;
    json_iter_init(&iter, object);
    while (json_next(&iter, &key, &value))
        if (json_equals(&key, name->text, name->len))
            *ret_value = value;
    return ret_value->type != JSON_ABSENT;
}

int64_t jsonpath_count(const struct json_value *container)
{
    struct json_iter iter;
    struct json_value name, value;
    int64_t n = 0;
    json_iter_init(&iter, container);
    while (json_next(&iter, &name, &value))
        n++;
    return n;
}

bool jsonpath_element(const struct json_value *array, int64_t index, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value name;
    if (array->type != JSON_ARRAY || (index < 0 && (index += jsonpath_count(array)) < 0))
        return false;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, ret_value))
        if (index-- == 0)
            return true;
    return false;
}

static int walk(struct jsonpath_walk *w, struct matches *m, unsigned at, const struct json_value *value);

/* --- segments --- */

static int walk_names(struct jsonpath_walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    struct json_value found;
    if (s->n == 1)
        return jsonpath_member(value, s->names, &found) ? walk(w, m, at + 1, &found) : 0;
    if (value->type != JSON_OBJECT)
        return 0;
    if (at + 1 < m->path->n) {
        for (unsigned i = 0; i < s->n; i++)
            if (json_work(w->steps, value->len, w->err) < 0 ||
                (jsonpath_member(value, &s->names[i], &found) && walk(w, m, at + 1, &found) < 0))
                return -1;
        return 0;
    }
    BUFFER_AUTO merged = BUFFER_INIT; /* the last part: an object of those that are there */
    buffer_append_char(&merged, '{');
    for (unsigned i = 0; i < s->n; i++) {
        size_t len;
        if (json_work(w->steps, 2 * value->len, w->err) < 0)
            return -1;
        if (!jsonpath_member(value, &s->names[i], &found)) {
            if (s->descend)
                return 0;
            continue;
        }
        if (merged.len > 1)
            buffer_append_char(&merged, ',');
        buffer_append_json(&merged, s->names[i].text, s->names[i].len);
        buffer_append_char(&merged, ':');
        const char *raw = json_raw(&found, &len);
        buffer_append(&merged, raw, len);
    }
    buffer_append_char(&merged, '}');
    return jsonpath_keep(w, &merged, &found) < 0 ? -1 : add_match(w, m, &found);
}

static int walk_indices(struct jsonpath_walk *w, struct matches *m, unsigned at,
                        const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    for (unsigned i = 0; i < s->n; i++) {
        struct json_value found;
        if (json_work(w->steps, value->len, w->err) < 0 ||
            (jsonpath_element(value, s->indices[i], &found) && walk(w, m, at + 1, &found) < 0))
            return -1;
    }
    return 0;
}

/* Jayway's slices: [from:] and [:to] count a negative bound from the end; in [from:to] both bounds are taken
 * as they are, and a negative index on the way between them means one from the end. */
static int walk_slice(struct jsonpath_walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    if (value->type != JSON_ARRAY)
        return 0;
    int64_t n = jsonpath_count(value);
    int64_t from = s->has[0] ? s->indices[0] : 0;
    int64_t to = s->has[1] ? s->indices[1] : n;
    if (!s->has[1] && from < 0 && (from += n) < 0)
        from = 0;
    if (!s->has[0] && to < 0)
        to += n;
    if (to > n)
        to = n;
    if (from < -n)
        from = -n;
    struct json_iter iter;
    struct json_value name, child;
    for (int64_t i = from; i < 0 && i < to; i++)
        if (json_work(w->steps, value->len, w->err) < 0 ||
            (jsonpath_element(value, i, &child) && walk(w, m, at + 1, &child) < 0))
            return -1;
    json_iter_init(&iter, value);
    for (int64_t i = 0; i < to && json_next(&iter, &name, &child); i++)
        if (json_work(w->steps, JSONPATH_STEP, w->err) < 0 || (i >= from && walk(w, m, at + 1, &child) < 0))
            return -1;
    return 0;
}

/* Elements or members one by one: all, or those elements that the filter lets through. */
static int walk_each(struct jsonpath_walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    struct json_iter iter;
    struct json_value name, child;
    bool wanted = true;
    if (s->kind == JSONPATH_FILTER && value->type != JSON_ARRAY)
        return 0;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &child))
        if (json_work(w->steps, JSONPATH_STEP, w->err) < 0 ||
            (s->kind == JSONPATH_FILTER && jsonpath_holds(w, s->filter, &child, &wanted) < 0) ||
            (wanted && walk(w, m, at + 1, &child) < 0))
            return -1;
    return 0;
}

/* A filter on an object asks the object itself. Behind .. it does so for an array, too, before it asks its
 * elements. */
static int walk_filter(struct jsonpath_walk *w, struct matches *m, unsigned at,
                       const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    bool wanted = true;
    if ((value->type == JSON_OBJECT || s->descend) && jsonpath_holds(w, s->filter, value, &wanted) < 0)
        return -1;
    if (!wanted)
        return 0;
    return value->type == JSON_OBJECT ? walk(w, m, at + 1, value) : walk_each(w, m, at, value);
}

static int walk_function(struct jsonpath_walk *w, struct matches *m, unsigned at,
                         const struct json_value *value);

static int walk_segment(struct jsonpath_walk *w, struct matches *m, unsigned at,
                        const struct json_value *value)
{
    if (json_work(w->steps, JSONPATH_STEP + value->len, w->err) < 0)
        return -1;
    switch (m->path->at[at].kind) {
    case JSONPATH_NAMES:
        return walk_names(w, m, at, value);
    case JSONPATH_INDICES:
        return walk_indices(w, m, at, value);
    case JSONPATH_SLICE:
        return walk_slice(w, m, at, value);
    case JSONPATH_FILTER:
        return walk_filter(w, m, at, value);
    case JSONPATH_FUNCTION:
        return walk_function(w, m, at, value);
    default:
        return walk_each(w, m, at, value);
    }
}

/* At this value, then at all below it. */
static int descend(struct jsonpath_walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    struct json_iter iter;
    struct json_value name, child;
    if (walk_segment(w, m, at, value) < 0)
        return -1;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &child))
        if ((child.type == JSON_OBJECT || child.type == JSON_ARRAY) && descend(w, m, at, &child) < 0)
            return -1;
    return 0;
}

static int walk(struct jsonpath_walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    if (at == m->path->n)
        return add_match(w, m, value);
    return (m->path->at[at].descend ? descend : walk_segment)(w, m, at, value);
}

/* --- functions --- */

static int double_value(struct jsonpath_walk *w, double number, struct json_value *ret_value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (!isfinite(number))
        return error_set(w->err, ERROR_INVALID, "a function's result is not a number");
    if (number == floor(number) && fabs(number) < 1e15)
        buffer_printf(&text, "%.1f", number);
    else
        buffer_printf(&text, "%.17g", number);
    return jsonpath_keep(w, &text, ret_value);
}

static int aggregate(struct jsonpath_walk *w, enum jsonpath_function function, const struct json_value *array,
                     struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value name, item;
    double sum = 0, squares = 0, least = INFINITY, most = -INFINITY;
    unsigned n = 0;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, &item)) {
        if (item.type != JSON_NUMBER)
            continue;
        double x = json_double(&item);
        n++;
        sum += x;
        squares += x * x;
        least = fmin(least, x);
        most = fmax(most, x);
    }
    if (!n)
        return error_set(w->err, ERROR_INVALID, "a function of numbers got none");
    double mean = sum / n;
    double of[] = {[JSONPATH_MIN] = least,
                   [JSONPATH_MAX] = most,
                   [JSONPATH_AVG] = mean,
                   [JSONPATH_SUM] = sum,
                   [JSONPATH_STDDEV] = sqrt(fmax(0, squares / n - mean * mean))};
    return double_value(w, of[function], ret_value);
}

static int keys(struct jsonpath_walk *w, const struct json_value *object, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value name, item;
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append_char(&text, '[');
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &item)) {
        size_t len;
        const char *raw = json_raw(&name, &len);
        if (text.len > 1)
            buffer_append_char(&text, ',');
        buffer_append(&text, raw, len);
    }
    buffer_append_char(&text, ']');
    return jsonpath_keep(w, &text, ret_value);
}

static int apply(struct jsonpath_walk *w, enum jsonpath_function function, const struct json_value *value,
                 struct json_value *ret_value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    *ret_value = (struct json_value){0};
    switch (function) {
    case JSONPATH_LENGTH:
        if (value->type == JSON_ARRAY || value->type == JSON_OBJECT)
            buffer_append_u64(&text, (uint64_t)jsonpath_count(value));
        else
            buffer_append_text(&text, "null");
        return jsonpath_keep(w, &text, ret_value);
    case JSONPATH_KEYS:
        return value->type == JSON_OBJECT ? keys(w, value, ret_value) : 0;
    case JSONPATH_FIRST:
    case JSONPATH_LAST:
        if (!jsonpath_element(value, function == JSONPATH_FIRST ? 0 : -1, ret_value))
            *ret_value = (struct json_value){0};
        return 0;
    default:
        return value->type == JSON_ARRAY ? aggregate(w, function, value, ret_value) : 0;
    }
}

static int walk_function(struct jsonpath_walk *w, struct matches *m, unsigned at,
                         const struct json_value *value)
{
    struct json_value result;
    if (apply(w, m->path->at[at].function, value, &result) < 0)
        return -1;
    return result.type == JSON_ABSENT ? 0 : add_match(w, m, &result);
}

/* --- what a path leads to --- */

static int read_list(struct jsonpath_walk *w, const struct jsonpath_segments *path,
                     const struct json_value *from, struct json_value *ret_array)
{
    BUFFER_AUTO array = BUFFER_INIT;
    struct matches m = {.path = path, .array = &array};
    buffer_append_char(&array, '[');
    if (walk(w, &m, 0, from) < 0)
        return -1;
    buffer_append_char(&array, ']');
    return jsonpath_keep(w, &array, ret_array);
}

/* A function at the end of an indefinite path takes all that the path matches. */
static int read_function(struct jsonpath_walk *w, const struct jsonpath_segments *path,
                         const struct json_value *from, struct json_value *ret_value)
{
    struct jsonpath_segments before = *path;
    struct json_value list;
    before.n--;
    before.definite = false;
    if (read_list(w, &before, from, &list) < 0)
        return -1;
    return apply(w, path->at[path->n - 1].function, &list, ret_value);
}

static bool ends_in_list_function(const struct jsonpath_segments *path)
{
    if (!path->n || path->at[path->n - 1].kind != JSONPATH_FUNCTION)
        return false;
    for (unsigned i = 0; i < path->n - 1; i++)
        if (path->at[i].descend || path->at[i].kind > JSONPATH_INDICES || path->at[i].n != 1)
            return true;
    return false;
}

int jsonpath_read_segments(struct jsonpath_walk *w, const struct jsonpath_segments *path,
                           const struct json_value *from, struct json_value *ret_value)
{
    if (!path->definite)
        return read_list(w, path, from, ret_value);
    if (ends_in_list_function(path))
        return read_function(w, path, from, ret_value);
    struct matches m = {.path = path};
    if (walk(w, &m, 0, from) < 0)
        return -1;
    *ret_value = m.last;
    if (!m.n)
        ret_value->type = JSON_ABSENT;
    return 0;
}

int jsonpath_read(const struct jsonpath *path, const struct json_value *root, struct pool *pool,
                  uint64_t *steps, struct json_value *ret_value, struct error *err)
{
    struct jsonpath_walk w = {.root = root, .pool = pool, .steps = steps, .err = err};
    struct json_value value;
    if (jsonpath_read_segments(&w, &path->segments, root, &value) < 0)
        return error_prefix(err, "path %.100s", path->text);
    if (value.type == JSON_ABSENT)
        return JSONPATH_MISSING;
    *ret_value = value;
    return 0;
}

int jsonpath_list(const struct jsonpath *path, const struct json_value *root, struct pool *pool,
                  uint64_t *steps, struct json_value *ret_array, struct error *err)
{
    struct jsonpath_walk w = {.root = root, .pool = pool, .steps = steps, .err = err};
    if (read_list(&w, &path->segments, root, ret_array) < 0)
        return error_prefix(err, "path %.100s", path->text);
    return 0;
}

int jsonpath_explain(const struct jsonpath *path, const struct json_value *root, struct error *err)
{
    struct json_value value = *root;
    for (unsigned i = 0; i < path->segments.n; i++) {
        const struct jsonpath_segment *s = &path->segments.at[i];
        struct json_value next;
        if (s->kind == JSONPATH_NAMES && !jsonpath_member(&value, s->names, &next))
            return error_set(err, ERROR_NOT_FOUND, "path %.100s: %s %.*s", path->text,
                             value.type == JSON_OBJECT ? "there is no member"
                                                       : "not an object, with a member",
                             (int)(s->names->len < 80 ? s->names->len : 80), s->names->text);
        if (s->kind == JSONPATH_INDICES && !jsonpath_element(&value, s->indices[0], &next))
            return error_set(err, ERROR_NOT_FOUND, "path %.100s: %s %lld", path->text,
                             value.type == JSON_ARRAY ? "there is no element"
                                                      : "not an array, with an element",
                             (long long)s->indices[0]);
        if (s->kind > JSONPATH_INDICES)
            break;
        value = next;
    }
    return error_set(err, ERROR_NOT_FOUND, "path %.100s leads nowhere", path->text);
}
