#include "common/json_compare.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

#define NUMBER_MAX 1024 /* digits beyond do not matter, but an exponent behind them does */

int json_work(uint64_t *steps, uint64_t n, struct error *err)
{
    if (*steps < n) {
        *steps = 0;
        return error_set(err, ERROR_LIMIT, "the evaluation takes too many steps");
    }
    *steps -= n;
    return 0;
}

double json_double(const struct json_value *number)
{
    char text[NUMBER_MAX];
    if (number->len < sizeof text) {
        memcpy(text, number->text, number->len);
        text[number->len] = '\0';
        return strtod(text, NULL);
    }
    char *copy = strndup(number->text, number->len);
    double value = copy ? strtod(copy, NULL) : 0;
    free(copy);
    return value;
}

int json_number_order(const struct json_value *a, const struct json_value *b)
{
    int64_t i, j;
    if (json_integer(a, &i) && json_integer(b, &j))
        return (i > j) - (i < j);
    double x = json_double(a);
    double y = json_double(b);
    return (x > y) - (x < y);
}

/* UTF-8 sorts by code points. In UTF-16 the characters above U+FFFF (lead bytes from 0xf0) stand before
 * U+E000 to U+FFFF (0xee, 0xef). */
static int byte_order(unsigned char a, unsigned char b)
{
    bool swapped = (a >= 0xf0 && (b == 0xee || b == 0xef)) || (b >= 0xf0 && (a == 0xee || a == 0xef));
    int order = (a > b) - (a < b);
    return swapped ? -order : order;
}

static int text_order(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t n = a_len < b_len ? a_len : b_len;
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return byte_order((unsigned char)a[i], (unsigned char)b[i]);
    return (a_len > b_len) - (a_len < b_len);
}

int json_string_order(const struct json_value *a, const struct json_value *b, int *ret_order,
                      struct error *err)
{
    if (!a->escaped && !b->escaped) {
        *ret_order = text_order(a->text, a->len, b->text, b->len);
        return 0;
    }
    BUFFER_AUTO left = BUFFER_INIT;
    BUFFER_AUTO right = BUFFER_INIT;
    json_unescape(a, &left);
    json_unescape(b, &right);
    if (left.failed || right.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    *ret_order = text_order(left.data, left.len, right.data, right.len);
    return 0;
}

/* The last member of this name; names may be escaped in either. 0 or -1; type JSON_ABSENT without. */
static int find_member(const struct json_value *object, const struct json_value *name,
                       struct json_value *ret_value, struct error *err)
{
    struct json_iter iter;
    struct json_value key;
    struct json_value value;
    BUFFER_AUTO plain = BUFFER_INIT;
    const char *text = name->text;
    size_t len = name->len;
    if (name->escaped) {
        json_unescape(name, &plain);
        if (plain.failed)
            return error_set(err, ERROR_MEMORY, "out of memory");
        text = plain.data ? plain.data : "";
        len = plain.len;
    }
    *ret_value = (struct json_value){0};
    json_iter_init(&iter, object);
    while (json_next(&iter, &key, &value))
        if (json_equals(&key, text, len))
            *ret_value = value;
    return 0;
}

/* Whether b has every member of a. */
static int covers(const struct json_value *a, const struct json_value *b, uint64_t *steps, bool *ret_covers,
                  struct error *err)
{
    struct json_iter iter;
    struct json_value name, any, mine, theirs;
    *ret_covers = false;
    json_iter_init(&iter, a);
    while (json_next(&iter, &name, &any)) {
        bool same;
        if (json_work(steps, a->len + b->len, err) < 0 || find_member(a, &name, &mine, err) < 0 ||
            find_member(b, &name, &theirs, err) < 0)
            return -1;
        if (theirs.type == JSON_ABSENT)
            return 0;
        if (json_same(&mine, &theirs, steps, &same, err) < 0)
            return -1;
        if (!same)
            return 0;
    }
    *ret_covers = true;
    return 0;
}

static int same_objects(const struct json_value *a, const struct json_value *b, uint64_t *steps,
                        bool *ret_same, struct error *err)
{
    struct json_iter iter;
    struct json_value name, any, mine;
    if (covers(a, b, steps, ret_same, err) < 0)
        return -1;
    if (!*ret_same)
        return 0;
    json_iter_init(&iter, b);
    while (json_next(&iter, &name, &any)) { /* and no other names in b */
        if (json_work(steps, a->len, err) < 0 || find_member(a, &name, &mine, err) < 0)
            return -1;
        if (mine.type == JSON_ABSENT) {
            *ret_same = false;
            return 0;
        }
    }
    return 0;
}

static int same_arrays(const struct json_value *a, const struct json_value *b, uint64_t *steps,
                       bool *ret_same, struct error *err)
{
    struct json_iter in_a, in_b;
    struct json_value name, x, y;
    json_iter_init(&in_a, a);
    json_iter_init(&in_b, b);
    *ret_same = true;
    while (*ret_same) {
        bool more_a = json_next(&in_a, &name, &x);
        bool more_b = json_next(&in_b, &name, &y);
        if (!more_a && !more_b)
            return 0;
        if (more_a != more_b)
            *ret_same = false;
        else if (json_same(&x, &y, steps, ret_same, err) < 0)
            return -1;
    }
    return 0;
}

int json_same(const struct json_value *a, const struct json_value *b, uint64_t *steps, bool *ret_same,
              struct error *err)
{
    int order = 1;
    *ret_same = false;
    if (json_work(steps, 8 + a->len + b->len, err) < 0)
        return -1;
    if (a->type != b->type)
        return 0;
    switch (a->type) {
    case JSON_OBJECT:
        return same_objects(a, b, steps, ret_same, err);
    case JSON_ARRAY:
        return same_arrays(a, b, steps, ret_same, err);
    case JSON_STRING:
        if (json_string_order(a, b, &order, err) < 0)
            return -1;
        *ret_same = order == 0;
        return 0;
    case JSON_NUMBER:
        *ret_same = json_number_order(a, b) == 0;
        return 0;
    default:
        *ret_same = true;
        return 0;
    }
}
