#include "common/jsonpath.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/jsonpath_internal.h"

#define STEP 16 /* what looking at one value costs at least */

/* One evaluation. */
struct walk {
    const struct json_value *root;
    struct pool *pool;
    uint64_t *steps;
    struct error *err;
};

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

static int add_match(struct walk *w, struct matches *m, const struct json_value *value)
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

/* A text of ours as a value that belongs to the pool. */
static int keep(struct walk *w, struct buffer *text, struct json_value *ret_value)
{
    size_t len = text->len;
    const char *kept = pool_take(w->pool, text);
    if (!kept)
        return no_memory(w->err);
    return json_scan(kept, len, ret_value, w->err);
}

static bool member(const struct json_value *object, const struct jsonpath_name *name,
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

static int64_t count(const struct json_value *container)
{
    struct json_iter iter;
    struct json_value name, value;
    int64_t n = 0;
    json_iter_init(&iter, container);
    while (json_next(&iter, &name, &value))
        n++;
    return n;
}

static bool element(const struct json_value *array, int64_t index, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value name;
    if (array->type != JSON_ARRAY || (index < 0 && (index += count(array)) < 0))
        return false;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, ret_value))
        if (index-- == 0)
            return true;
    return false;
}

static int walk(struct walk *w, struct matches *m, unsigned at, const struct json_value *value);

/* --- expressions --- */

static int read_segments(struct walk *w, const struct jsonpath_segments *path, const struct json_value *from,
                         struct json_value *ret_value);

/* type JSON_ABSENT: the path leads nowhere. */
static int operand(struct walk *w, const struct jsonpath_operand *o, const struct json_value *here,
                   struct json_value *ret_value)
{
    *ret_value = o->literal;
    return o->is_path ? read_segments(w, &o->path, o->from_root ? w->root : here, ret_value) : 0;
}

/* Whether a path's definite beginning leads somewhere; *ret_value is where, *ret_at what comes next. */
static bool lead(const struct jsonpath_segments *path, const struct json_value *from, unsigned *ret_at,
                 struct json_value *ret_value)
{
    *ret_value = *from;
    for (*ret_at = 0; *ret_at < path->n; ++*ret_at) {
        const struct jsonpath_segment *s = &path->at[*ret_at];
        struct json_value next;
        if (s->descend || s->n != 1 || s->kind > JSONPATH_INDICES)
            return true;
        if (!(s->kind == JSONPATH_NAMES ? member(ret_value, s->names, &next)
                                        : element(ret_value, s->indices[0], &next)))
            return false;
        *ret_value = next;
    }
    return true;
}

/* Alone in an expression. An indefinite path always yields an array, even if it is empty: it exists when what
 * it is about does. */
static int exists(struct walk *w, const struct jsonpath_operand *o, const struct json_value *here,
                  bool *ret_holds)
{
    struct json_value value, ignored;
    unsigned at;
    if (json_work(w->steps, here->len, w->err) < 0)
        return -1;
    *ret_holds = lead(&o->path, o->from_root ? w->root : here, &at, &value);
    if (!*ret_holds || at == o->path.n)
        return 0;
    const struct jsonpath_segment *s = &o->path.at[at];
    if (s->descend || s->kind == JSONPATH_WILDCARD || s->kind == JSONPATH_FILTER)
        return 0;
    if (s->kind == JSONPATH_FUNCTION) {
        struct json_value result;
        int r = read_segments(w, &o->path, o->from_root ? w->root : here, &result);
        *ret_holds = r == 0 && result.type != JSON_ABSENT;
        return r;
    }
    if (s->kind != JSONPATH_NAMES) {
        *ret_holds = value.type == JSON_ARRAY;
        return 0;
    }
    for (unsigned i = 0; i < s->n && *ret_holds; i++) /* several names: all of them */
        *ret_holds = member(&value, &s->names[i], &ignored);
    return json_work(w->steps, s->n * value.len, w->err);
}

/* Numbers and strings have an order, within their type. */
static int order(struct walk *w, const struct json_value *a, const struct json_value *b, bool *ret_ordered,
                 int *ret_order)
{
    *ret_ordered = a->type == b->type && (a->type == JSON_NUMBER || a->type == JSON_STRING);
    if (!*ret_ordered)
        return 0;
    if (a->type == JSON_STRING)
        return json_string_order(a, b, ret_order, w->err);
    *ret_order = json_number_order(a, b);
    return 0;
}

/* == as Jayway has it: a string that is a number equals the number. */
static int same(struct walk *w, const struct json_value *a, const struct json_value *b, bool *ret_same)
{
    struct json_value number;
    if (a->type == JSON_NUMBER && b->type == JSON_STRING) {
        *ret_same = json_scan(b->text, b->len, &number, NULL) == 0 && number.type == JSON_NUMBER &&
                    json_number_order(a, &number) == 0;
        return 0;
    }
    if (a->type == JSON_STRING && b->type == JSON_NUMBER) {
        *ret_same = a->len == b->len && !memcmp(a->text, b->text, a->len);
        return 0;
    }
    return json_same(a, b, w->steps, ret_same, w->err);
}

static int contains(struct walk *w, const struct json_value *array, const struct json_value *value,
                    bool *ret_holds)
{
    struct json_iter iter;
    struct json_value name, item;
    *ret_holds = false;
    if (array->type != JSON_ARRAY)
        return 0;
    json_iter_init(&iter, array);
    while (!*ret_holds && json_next(&iter, &name, &item))
        if (json_work(w->steps, STEP, w->err) < 0 || same(w, value, &item, ret_holds) < 0)
            return -1;
    return 0;
}

/* How many of a's elements are in b. */
static int shared(struct walk *w, const struct json_value *a, const struct json_value *b, int64_t *ret_in,
                  int64_t *ret_all)
{
    struct json_iter iter;
    struct json_value name, item;
    *ret_in = *ret_all = 0;
    json_iter_init(&iter, a);
    while (json_next(&iter, &name, &item)) {
        bool in;
        if (contains(w, b, &item, &in) < 0)
            return -1;
        *ret_in += in;
        ++*ret_all;
    }
    return 0;
}

static int compare_arrays(struct walk *w, enum jsonpath_operator op, const struct json_value *a,
                          const struct json_value *b, bool *ret_holds)
{
    int64_t in, all;
    *ret_holds = false;
    if (a->type != JSON_ARRAY || b->type != JSON_ARRAY)
        return 0;
    if (shared(w, a, b, &in, &all) < 0)
        return -1;
    *ret_holds = op == JSONPATH_SUBSETOF ? in == all : op == JSONPATH_ANYOF ? in > 0 : in == 0;
    return 0;
}

/* A part of a text, or an element of an array. */
static int holds_contains(struct walk *w, const struct json_value *a, const struct json_value *b,
                          bool *ret_holds)
{
    if (a->type != JSON_STRING || b->type != JSON_STRING)
        return contains(w, a, b, ret_holds);
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO part = BUFFER_INIT;
    json_unescape(a, &text);
    json_unescape(b, &part);
    if (text.failed || part.failed)
        return no_memory(w->err);
    *ret_holds = !part.len || (text.len && memmem(text.data, text.len, part.data, part.len));
    return 0;
}

static int64_t size_of(const struct json_value *value)
{
    int64_t n = 0;
    if (value->type == JSON_ARRAY || value->type == JSON_OBJECT)
        return count(value);
    if (value->type != JSON_STRING)
        return -1;
    for (size_t i = 0; i < value->len; i++, n++)
        if (value->text[i] == '\\')
            i += value->text[i + 1] == 'u' ? 5 : 1;
        else if (((unsigned char)value->text[i] & 0xc0) == 0x80)
            n--;
        else if ((unsigned char)value->text[i] >= 0xf0)
            n++; /* two code units of UTF-16, as an escape has two */
    return n;
}

static bool holds_size(enum jsonpath_operator op, const struct json_value *a, const struct json_value *b)
{
    int64_t n = size_of(a);
    int64_t wanted;
    if (n < 0 || (op == JSONPATH_SIZE && a->type == JSON_OBJECT))
        return false;
    if (op == JSONPATH_SIZE)
        return json_integer(b, &wanted) && n == wanted;
    return (n == 0) == (b->type != JSON_FALSE);
}

static int compare(struct walk *w, enum jsonpath_operator op, const struct json_value *a,
                   const struct json_value *b, bool *ret_holds)
{
    bool ordered;
    int at = 0;
    *ret_holds = false;
    switch (op) {
    case JSONPATH_EQ:
    case JSONPATH_NE:
        if (same(w, a, b, ret_holds) < 0)
            return -1;
        *ret_holds = (*ret_holds && a->type != JSON_ABSENT) == (op == JSONPATH_EQ);
        return 0;
    case JSONPATH_IN:
    case JSONPATH_NIN:
        if (contains(w, b, a, ret_holds) < 0)
            return -1;
        *ret_holds = (*ret_holds && a->type != JSON_ABSENT) == (op == JSONPATH_IN);
        return 0;
    case JSONPATH_SUBSETOF:
    case JSONPATH_ANYOF:
    case JSONPATH_NONEOF:
        return compare_arrays(w, op, a, b, ret_holds);
    case JSONPATH_CONTAINS:
        return holds_contains(w, a, b, ret_holds);
    case JSONPATH_SIZE:
    case JSONPATH_EMPTY:
        *ret_holds = holds_size(op, a, b);
        return 0;
    default:
        if (order(w, a, b, &ordered, &at) < 0)
            return -1;
        *ret_holds = ordered && (op == JSONPATH_LT   ? at < 0
                                 : op == JSONPATH_LE ? at <= 0
                                 : op == JSONPATH_GT ? at > 0
                                                     : at >= 0);
        return 0;
    }
}

static int holds(struct walk *w, const struct jsonpath_expression *e, const struct json_value *here,
                 bool *ret_holds)
{
    struct json_value a, b;
    if (json_work(w->steps, STEP, w->err) < 0)
        return -1;
    switch (e->op) {
    case JSONPATH_OR:
    case JSONPATH_AND:
        if (holds(w, e->left, here, ret_holds) < 0)
            return -1;
        return *ret_holds == (e->op == JSONPATH_OR) ? 0 : holds(w, e->right, here, ret_holds);
    case JSONPATH_NOT:
        if (holds(w, e->left, here, ret_holds) < 0)
            return -1;
        *ret_holds = !*ret_holds;
        return 0;
    case JSONPATH_EXISTS:
        return exists(w, &e->a, here, ret_holds);
    default:
        if (operand(w, &e->a, here, &a) < 0 || operand(w, &e->b, here, &b) < 0)
            return -1;
        return compare(w, e->op, &a, &b, ret_holds);
    }
}

/* --- segments --- */

static int walk_names(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    struct json_value found;
    if (s->n == 1)
        return member(value, s->names, &found) ? walk(w, m, at + 1, &found) : 0;
    if (value->type != JSON_OBJECT)
        return 0;
    if (at + 1 < m->path->n) {
        for (unsigned i = 0; i < s->n; i++)
            if (json_work(w->steps, value->len, w->err) < 0 ||
                (member(value, &s->names[i], &found) && walk(w, m, at + 1, &found) < 0))
                return -1;
        return 0;
    }
    BUFFER_AUTO merged = BUFFER_INIT; /* the last part: an object of those that are there */
    buffer_append_char(&merged, '{');
    for (unsigned i = 0; i < s->n; i++) {
        size_t len;
        if (json_work(w->steps, 2 * value->len, w->err) < 0)
            return -1;
        if (!member(value, &s->names[i], &found)) {
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
    return keep(w, &merged, &found) < 0 ? -1 : add_match(w, m, &found);
}

static int walk_indices(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    for (unsigned i = 0; i < s->n; i++) {
        struct json_value found;
        if (json_work(w->steps, value->len, w->err) < 0 ||
            (element(value, s->indices[i], &found) && walk(w, m, at + 1, &found) < 0))
            return -1;
    }
    return 0;
}

/* Jayway's slices: [from:] and [:to] count a negative bound from the end; in [from:to] both bounds are taken
 * as they are, and a negative index on the way between them means one from the end. */
static int walk_slice(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    if (value->type != JSON_ARRAY)
        return 0;
    int64_t n = count(value);
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
            (element(value, i, &child) && walk(w, m, at + 1, &child) < 0))
            return -1;
    json_iter_init(&iter, value);
    for (int64_t i = 0; i < to && json_next(&iter, &name, &child); i++)
        if (json_work(w->steps, STEP, w->err) < 0 || (i >= from && walk(w, m, at + 1, &child) < 0))
            return -1;
    return 0;
}

/* Elements or members one by one: all, or those elements that the filter lets through. */
static int walk_each(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    struct json_iter iter;
    struct json_value name, child;
    bool wanted = true;
    if (s->kind == JSONPATH_FILTER && value->type != JSON_ARRAY)
        return 0;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &child))
        if (json_work(w->steps, STEP, w->err) < 0 ||
            (s->kind == JSONPATH_FILTER && holds(w, s->filter, &child, &wanted) < 0) ||
            (wanted && walk(w, m, at + 1, &child) < 0))
            return -1;
    return 0;
}

/* A filter on an object asks the object itself. Behind .. it does so for an array, too, before it asks its
 * elements. */
static int walk_filter(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    const struct jsonpath_segment *s = &m->path->at[at];
    bool wanted = true;
    if ((value->type == JSON_OBJECT || s->descend) && holds(w, s->filter, value, &wanted) < 0)
        return -1;
    if (!wanted)
        return 0;
    return value->type == JSON_OBJECT ? walk(w, m, at + 1, value) : walk_each(w, m, at, value);
}

static int walk_function(struct walk *w, struct matches *m, unsigned at, const struct json_value *value);

static int walk_segment(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    if (json_work(w->steps, STEP + value->len, w->err) < 0)
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
static int descend(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
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

static int walk(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    if (at == m->path->n)
        return add_match(w, m, value);
    return (m->path->at[at].descend ? descend : walk_segment)(w, m, at, value);
}

/* --- functions --- */

static int double_value(struct walk *w, double number, struct json_value *ret_value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (!isfinite(number))
        return error_set(w->err, ERROR_INVALID, "a function's result is not a number");
    if (number == floor(number) && fabs(number) < 1e15)
        buffer_printf(&text, "%.1f", number);
    else
        buffer_printf(&text, "%.17g", number);
    return keep(w, &text, ret_value);
}

static int aggregate(struct walk *w, enum jsonpath_function function, const struct json_value *array,
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

static int keys(struct walk *w, const struct json_value *object, struct json_value *ret_value)
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
    return keep(w, &text, ret_value);
}

static int apply(struct walk *w, enum jsonpath_function function, const struct json_value *value,
                 struct json_value *ret_value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    *ret_value = (struct json_value){0};
    switch (function) {
    case JSONPATH_LENGTH:
        if (value->type == JSON_ARRAY || value->type == JSON_OBJECT)
            buffer_append_u64(&text, (uint64_t)count(value));
        else
            buffer_append_text(&text, "null");
        return keep(w, &text, ret_value);
    case JSONPATH_KEYS:
        return value->type == JSON_OBJECT ? keys(w, value, ret_value) : 0;
    case JSONPATH_FIRST:
    case JSONPATH_LAST:
        if (!element(value, function == JSONPATH_FIRST ? 0 : -1, ret_value))
            *ret_value = (struct json_value){0};
        return 0;
    default:
        return value->type == JSON_ARRAY ? aggregate(w, function, value, ret_value) : 0;
    }
}

static int walk_function(struct walk *w, struct matches *m, unsigned at, const struct json_value *value)
{
    struct json_value result;
    if (apply(w, m->path->at[at].function, value, &result) < 0)
        return -1;
    return result.type == JSON_ABSENT ? 0 : add_match(w, m, &result);
}

/* --- what a path leads to --- */

static int read_list(struct walk *w, const struct jsonpath_segments *path, const struct json_value *from,
                     struct json_value *ret_array)
{
    BUFFER_AUTO array = BUFFER_INIT;
    struct matches m = {.path = path, .array = &array};
    buffer_append_char(&array, '[');
    if (walk(w, &m, 0, from) < 0)
        return -1;
    buffer_append_char(&array, ']');
    return keep(w, &array, ret_array);
}

/* A function at the end of an indefinite path takes all that the path matches. */
static int read_function(struct walk *w, const struct jsonpath_segments *path, const struct json_value *from,
                         struct json_value *ret_value)
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

static int read_segments(struct walk *w, const struct jsonpath_segments *path, const struct json_value *from,
                         struct json_value *ret_value)
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
    struct walk w = {.root = root, .pool = pool, .steps = steps, .err = err};
    struct json_value value;
    if (read_segments(&w, &path->segments, root, &value) < 0)
        return error_prefix(err, "path %.100s", path->text);
    if (value.type == JSON_ABSENT)
        return JSONPATH_MISSING;
    *ret_value = value;
    return 0;
}

int jsonpath_list(const struct jsonpath *path, const struct json_value *root, struct pool *pool,
                  uint64_t *steps, struct json_value *ret_array, struct error *err)
{
    struct walk w = {.root = root, .pool = pool, .steps = steps, .err = err};
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
        if (s->kind == JSONPATH_NAMES && !member(&value, s->names, &next))
            return error_set(err, ERROR_NOT_FOUND, "path %.100s: %s %.*s", path->text,
                             value.type == JSON_OBJECT ? "there is no member"
                                                       : "not an object, with a member",
                             (int)(s->names->len < 80 ? s->names->len : 80), s->names->text);
        if (s->kind == JSONPATH_INDICES && !element(&value, s->indices[0], &next))
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

/* --- writing --- */

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
    member(old, wanted, &present);
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
    if (json_work(p->steps, STEP + (old->type == JSON_ABSENT ? 0 : 2 * old->len), p->err) < 0)
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
    struct walk w = {.root = root, .pool = pool, .steps = steps, .err = err};
    assert(jsonpath_is_reference(path));
    if (!path->segments.n) {
        *ret_document = *value;
        return 0;
    }
    if (put(&p, 0, root) < 0)
        return -1;
    return keep(&w, &out, ret_document);
}
