/* The expressions of filters: which elements a path goes on with. */
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/jsonpath_internal.h"

/* type JSON_ABSENT: the path leads nowhere. */
static int operand(struct jsonpath_walk *w, const struct jsonpath_operand *o, const struct json_value *here,
                   struct json_value *ret_value)
{
    *ret_value = o->literal;
    return o->is_path ? jsonpath_read_segments(w, &o->path, o->from_root ? w->root : here, ret_value) : 0;
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
        if (!(s->kind == JSONPATH_NAMES ? jsonpath_member(ret_value, s->names, &next)
                                        : jsonpath_element(ret_value, s->indices[0], &next)))
            return false;
        *ret_value = next;
    }
    return true;
}

/* Alone in an expression. An indefinite path always yields an array, even if it is empty: it exists when what
 * it is about does. */
static int exists(struct jsonpath_walk *w, const struct jsonpath_operand *o, const struct json_value *here,
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
        int r = jsonpath_read_segments(w, &o->path, o->from_root ? w->root : here, &result);
        *ret_holds = r == 0 && result.type != JSON_ABSENT;
        return r;
    }
    if (s->kind != JSONPATH_NAMES) {
        *ret_holds = value.type == JSON_ARRAY;
        return 0;
    }
    for (unsigned i = 0; i < s->n && *ret_holds; i++) /* several names: all of them */
        *ret_holds = jsonpath_member(&value, &s->names[i], &ignored);
    return json_work(w->steps, s->n * value.len, w->err);
}

/* Numbers and strings have an order, within their type. */
static int order(struct jsonpath_walk *w, const struct json_value *a, const struct json_value *b,
                 bool *ret_ordered, int *ret_order)
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
static int same(struct jsonpath_walk *w, const struct json_value *a, const struct json_value *b,
                bool *ret_same)
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

static int contains(struct jsonpath_walk *w, const struct json_value *array, const struct json_value *value,
                    bool *ret_holds)
{
    struct json_iter iter;
    struct json_value name, item;
    *ret_holds = false;
    if (array->type != JSON_ARRAY)
        return 0;
    json_iter_init(&iter, array);
    while (!*ret_holds && json_next(&iter, &name, &item))
        if (json_work(w->steps, JSONPATH_STEP, w->err) < 0 || same(w, value, &item, ret_holds) < 0)
            return -1;
    return 0;
}

/* How many of a's elements are in b. */
static int shared(struct jsonpath_walk *w, const struct json_value *a, const struct json_value *b,
                  int64_t *ret_in, int64_t *ret_all)
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

static int compare_arrays(struct jsonpath_walk *w, enum jsonpath_operator op, const struct json_value *a,
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
static int holds_contains(struct jsonpath_walk *w, const struct json_value *a, const struct json_value *b,
                          bool *ret_holds)
{
    if (a->type != JSON_STRING || b->type != JSON_STRING)
        return contains(w, a, b, ret_holds);
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO part = BUFFER_INIT;
    json_unescape(a, &text);
    json_unescape(b, &part);
    if (text.failed || part.failed)
        return error_set(w->err, ERROR_MEMORY, "out of memory");
    *ret_holds = !part.len || (text.len && memmem(text.data, text.len, part.data, part.len));
    return 0;
}

static int64_t size_of(const struct json_value *value)
{
    int64_t n = 0;
    if (value->type == JSON_ARRAY || value->type == JSON_OBJECT)
        return jsonpath_count(value);
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

static int compare(struct jsonpath_walk *w, enum jsonpath_operator op, const struct json_value *a,
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

int jsonpath_holds(struct jsonpath_walk *w, const struct jsonpath_expression *e,
                   const struct json_value *here, bool *ret_holds)
{
    struct json_value a, b;
    if (json_work(w->steps, JSONPATH_STEP, w->err) < 0)
        return -1;
    switch (e->op) {
    case JSONPATH_OR:
    case JSONPATH_AND:
        if (jsonpath_holds(w, e->left, here, ret_holds) < 0)
            return -1;
        return *ret_holds == (e->op == JSONPATH_OR) ? 0 : jsonpath_holds(w, e->right, here, ret_holds);
    case JSONPATH_NOT:
        if (jsonpath_holds(w, e->left, here, ret_holds) < 0)
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
