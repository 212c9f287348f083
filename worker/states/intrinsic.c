#include "worker/states/intrinsic.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include <openssl/evp.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "worker/states/evaluation.h"

#define TEXT_MAX 10000 /* characters that Base64 and Hash take (the service's quota) */
#define RANGE_MAX 1000 /* elements that ArrayRange makes */
#define PARTITION_MAX 10000000

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

/* --- arguments --- */

static int refuse(const struct json_value *value, unsigned number, const char *wanted, struct error *err)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "argument %u is %.*s%s, not %s", number, (int)(len < 60 ? len : 60),
                     raw, len < 60 ? "" : "...", wanted);
}

static int want(const struct json_value *value, unsigned number, enum json_type type, struct error *err)
{
    if (value->type == type)
        return 0;
    return refuse(value, number,
                  type == JSON_ARRAY    ? "an array"
                  : type == JSON_OBJECT ? "an object"
                                        : "a string",
                  err);
}

static int want_whole(const struct json_value *value, unsigned number, int64_t *ret_value, struct error *err)
{
    if (value->type == JSON_NUMBER && json_integer(value, ret_value))
        return 0;
    return refuse(value, number, "a whole number", err);
}

/* A number, rounded half up. */
static int want_rounded(const struct json_value *value, unsigned number, int64_t *ret_value,
                        struct error *err)
{
    if (value->type != JSON_NUMBER)
        return refuse(value, number, "a number", err);
    if (json_integer(value, ret_value))
        return 0;
    double rounded = floor(json_double(value) + 0.5);
    if (!(rounded >= -0x1p62 && rounded <= 0x1p62))
        return refuse(value, number, "a number that fits", err);
    *ret_value = (int64_t)rounded;
    return 0;
}

/* A string of bounded length, unescaped. */
static int want_text(const struct json_value *value, unsigned number, struct buffer *ret_text,
                     struct error *err)
{
    if (want(value, number, JSON_STRING, err) < 0)
        return -1;
    json_unescape(value, ret_text);
    if (ret_text->failed || !buffer_reserve(ret_text, 1))
        return no_memory(err);
    if (ret_text->len > TEXT_MAX)
        return error_set(err, ERROR_INVALID, "argument %u has %zu bytes, more than %d", number, ret_text->len,
                         TEXT_MAX);
    return 0;
}

/* --- results --- */

static void append(struct buffer *out, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static int give_text(struct evaluation *ev, const char *text, size_t len, struct json_value *ret,
                     struct error *err)
{
    BUFFER_AUTO json = BUFFER_INIT;
    buffer_append_json(&json, len ? text : "", len);
    return evaluation_keep(ev, &json, ret, err);
}

static int give_whole(struct evaluation *ev, int64_t value, struct json_value *ret, struct error *err)
{
    BUFFER_AUTO json = BUFFER_INIT;
    buffer_printf(&json, "%lld", (long long)value);
    return evaluation_keep(ev, &json, ret, err);
}

static int give_truth(bool value, struct json_value *ret)
{
    *ret = value ? (struct json_value){.text = "true", .len = 4, .type = JSON_TRUE}
                 : (struct json_value){.text = "false", .len = 5, .type = JSON_FALSE};
    return 0;
}

static void give_null(struct json_value *ret)
{
    *ret = (struct json_value){.text = "null", .len = 4, .type = JSON_NULL};
}

/* --- arrays --- */

static int array(struct evaluation *ev, const struct json_value *args, unsigned n, struct json_value *ret,
                 struct error *err)
{
    BUFFER_AUTO json = BUFFER_INIT;
    buffer_append_char(&json, '[');
    for (unsigned i = 0; i < n; i++) {
        if (json_work(&ev->steps, args[i].len, err) < 0)
            return -1;
        if (i)
            buffer_append_char(&json, ',');
        append(&json, &args[i]);
    }
    buffer_append_char(&json, ']');
    return evaluation_keep(ev, &json, ret, err);
}

static int array_partition(struct evaluation *ev, const struct json_value *args, unsigned n,
                           struct json_value *ret, struct error *err)
{
    struct json_iter iter;
    struct json_value name, item;
    int64_t size;
    BUFFER_AUTO json = BUFFER_INIT;
    (void)n;
    if (want(&args[0], 1, JSON_ARRAY, err) < 0 || want_rounded(&args[1], 2, &size, err) < 0 ||
        json_work(&ev->steps, 2 * args[0].len, err) < 0)
        return -1;
    if (size < 1 || size > PARTITION_MAX)
        return refuse(&args[1], 2, "a positive number", err);
    buffer_append_char(&json, '[');
    json_iter_init(&iter, &args[0]);
    int64_t i = 0;
    for (; json_next(&iter, &name, &item); i++) {
        buffer_append_text(&json, i % size ? "," : i ? "],[" : "[");
        append(&json, &item);
    }
    buffer_append_text(&json, i ? "]]" : "]");
    return evaluation_keep(ev, &json, ret, err);
}

static int array_contains(struct evaluation *ev, const struct json_value *args, unsigned n,
                          struct json_value *ret, struct error *err)
{
    struct json_iter iter;
    struct json_value name, item;
    bool found = false;
    (void)n;
    if (want(&args[0], 1, JSON_ARRAY, err) < 0)
        return -1;
    json_iter_init(&iter, &args[0]);
    while (!found && json_next(&iter, &name, &item))
        if (json_same(&item, &args[1], &ev->steps, &found, err) < 0)
            return -1;
    return give_truth(found, ret);
}

static int array_range(struct evaluation *ev, const struct json_value *args, unsigned n,
                       struct json_value *ret, struct error *err)
{
    int64_t from, to, step;
    BUFFER_AUTO json = BUFFER_INIT;
    (void)n;
    if (want_whole(&args[0], 1, &from, err) < 0 || want_whole(&args[1], 2, &to, err) < 0 ||
        want_whole(&args[2], 3, &step, err) < 0)
        return -1;
    if (step == 0)
        return error_set(err, ERROR_INVALID, "argument 3 is 0");
    buffer_append_char(&json, '[');
    for (unsigned i = 0; step > 0 ? from <= to : from >= to; i++) {
        if (i == RANGE_MAX)
            return error_set(err, ERROR_INVALID, "the array would have more than %d elements", RANGE_MAX);
        buffer_printf(&json, "%s%lld", i ? "," : "", (long long)from);
        if (__builtin_add_overflow(from, step, &from))
            break;
    }
    buffer_append_char(&json, ']');
    return evaluation_keep(ev, &json, ret, err);
}

static int array_get_item(struct evaluation *ev, const struct json_value *args, unsigned n,
                          struct json_value *ret, struct error *err)
{
    struct json_iter iter;
    struct json_value name;
    int64_t index;
    (void)ev;
    (void)n;
    if (want(&args[0], 1, JSON_ARRAY, err) < 0 || want_whole(&args[1], 2, &index, err) < 0)
        return -1;
    if (index < 0)
        return refuse(&args[1], 2, "an index", err);
    json_iter_init(&iter, &args[0]);
    while (json_next(&iter, &name, ret))
        if (index-- == 0)
            return 0;
    give_null(ret);
    return 0;
}

static int array_length(struct evaluation *ev, const struct json_value *args, unsigned n,
                        struct json_value *ret, struct error *err)
{
    struct json_iter iter;
    struct json_value name, item;
    int64_t length = 0;
    (void)n;
    if (want(&args[0], 1, JSON_ARRAY, err) < 0)
        return -1;
    json_iter_init(&iter, &args[0]);
    while (json_next(&iter, &name, &item))
        length++;
    return give_whole(ev, length, ret, err);
}

/* Whether an element before this one is the same. */
static int seen_before(struct evaluation *ev, const struct json_value *items, const struct json_value *item,
                       bool *ret_seen, struct error *err)
{
    struct json_iter iter;
    struct json_value name, other;
    *ret_seen = false;
    json_iter_init(&iter, items);
    while (!*ret_seen && json_next(&iter, &name, &other) && other.text != item->text)
        if (json_same(&other, item, &ev->steps, ret_seen, err) < 0)
            return -1;
    return 0;
}

static int array_unique(struct evaluation *ev, const struct json_value *args, unsigned n,
                        struct json_value *ret, struct error *err)
{
    struct json_iter iter;
    struct json_value name, item;
    BUFFER_AUTO json = BUFFER_INIT;
    (void)n;
    if (want(&args[0], 1, JSON_ARRAY, err) < 0)
        return -1;
    buffer_append_char(&json, '[');
    json_iter_init(&iter, &args[0]);
    while (json_next(&iter, &name, &item)) {
        bool seen;
        if (seen_before(ev, &args[0], &item, &seen, err) < 0)
            return -1;
        if (seen)
            continue;
        if (json.len > 1)
            buffer_append_char(&json, ',');
        append(&json, &item);
    }
    buffer_append_char(&json, ']');
    return evaluation_keep(ev, &json, ret, err);
}

/* --- texts --- */

/* A value as Java writes it, which the service is made of: {Arg1=1, Arg2=[]}. */
static void append_plain(struct buffer *out, const struct json_value *value)
{
    struct json_iter iter;
    struct json_value name, item;
    bool object = value->type == JSON_OBJECT;
    bool first = true;
    if (value->type == JSON_STRING) {
        json_unescape(value, out);
        return;
    }
    if (!object && value->type != JSON_ARRAY) {
        append(out, value);
        return;
    }
    buffer_append_char(out, object ? '{' : '[');
    json_iter_init(&iter, value);
    for (; json_next(&iter, &name, &item); first = false) {
        if (!first)
            buffer_append_text(out, ", ");
        if (object) {
            json_unescape(&name, out);
            buffer_append_char(out, '=');
        }
        append_plain(out, &item);
    }
    buffer_append_char(out, object ? '}' : ']');
}

static int format(struct evaluation *ev, const struct json_value *args, unsigned n, struct json_value *ret,
                  struct error *err)
{
    BUFFER_AUTO template = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    unsigned used = 1;
    if (want(&args[0], 1, JSON_STRING, err) < 0)
        return -1;
    json_unescape(&args[0], &template);
    const char *end = template.data + template.len;
    for (const char *at = template.data; at < end; at++) {
        if (*at == '\\' && at + 1 < end && strchr("\\{}'", at[1]) && at[1]) {
            buffer_append_char(&out, *++at);
        } else if (*at == '{' && at + 1 < end && at[1] == '}') {
            at++;
            if (used == n)
                return error_set(err, ERROR_INVALID, "the template has more {} than there are arguments (%u)",
                                 n - 1);
            if (json_work(&ev->steps, args[used].len, err) < 0)
                return -1;
            append_plain(&out, &args[used++]);
        } else if (*at == '{' || *at == '}') {
            return error_set(err, ERROR_INVALID,
                             "the template has a %c without its other half or a backslash", *at);
        } else {
            buffer_append_char(&out, *at);
        }
    }
    if (used < n)
        return error_set(err, ERROR_INVALID, "the template has %u {} for %u arguments", used - 1, n - 1);
    if (template.failed || out.failed)
        return no_memory(err);
    return give_text(ev, out.data, out.len, ret, err);
}

static int string_split(struct evaluation *ev, const struct json_value *args, unsigned n,
                        struct json_value *ret, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO set = BUFFER_INIT;
    BUFFER_AUTO json = BUFFER_INIT;
    (void)n;
    if (want(&args[0], 1, JSON_STRING, err) < 0 || want(&args[1], 2, JSON_STRING, err) < 0)
        return -1;
    json_unescape(&args[0], &text);
    json_unescape(&args[1], &set);
    if (text.failed || set.failed)
        return no_memory(err);
    if (json_work(&ev->steps, text.len * (1 + set.len / 16), err) < 0)
        return -1;
    buffer_append_char(&json, '[');
    for (size_t at = 0, start = 0; at <= text.len;) {
        size_t width = 1; /* of the character at */
        while (at + width < text.len && ((unsigned char)text.data[at + width] & 0xc0) == 0x80)
            width++;
        bool stop = at == text.len || (set.len && memmem(set.data, set.len, text.data + at, width));
        if (stop && at > start) {
            if (json.len > 1)
                buffer_append_char(&json, ',');
            buffer_append_json(&json, text.data + start, at - start);
        }
        at += width;
        if (stop)
            start = at;
    }
    buffer_append_char(&json, ']');
    return evaluation_keep(ev, &json, ret, err);
}

static int base64_encode(struct evaluation *ev, const struct json_value *args, unsigned n,
                         struct json_value *ret, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO coded = BUFFER_INIT;
    (void)n;
    if (want_text(&args[0], 1, &text, err) < 0)
        return -1;
    buffer_append_base64(&coded, text.data, text.len);
    return coded.failed ? no_memory(err) : give_text(ev, coded.data, coded.len, ret, err);
}

static int base64_decode(struct evaluation *ev, const struct json_value *args, unsigned n,
                         struct json_value *ret, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    unsigned char plain[TEXT_MAX];
    (void)n;
    if (want_text(&args[0], 1, &text, err) < 0)
        return -1;
    size_t padding = 0;
    while (padding < 2 && padding < text.len && text.data[text.len - 1 - padding] == '=')
        padding++;
    int len = text.len % 4 ? -1 : EVP_DecodeBlock(plain, (const unsigned char *)text.data, (int)text.len);
    if (len < 0)
        return refuse(&args[0], 1, "base64", err);
    size_t plain_len = (size_t)len - (text.len ? padding : 0);
    if (!utf8_valid((const char *)plain, plain_len))
        return refuse(&args[0], 1, "the base64 of a text in UTF-8", err);
    return give_text(ev, (const char *)plain, plain_len, ret, err);
}

static int hash(struct evaluation *ev, const struct json_value *args, unsigned n, struct json_value *ret,
                struct error *err)
{
    static const char *const names[] = {"MD5", "SHA-1", "SHA-256", "SHA-384", "SHA-512"};
    const EVP_MD *const kinds[] = {EVP_md5(), EVP_sha1(), EVP_sha256(), EVP_sha384(), EVP_sha512()};
    const EVP_MD *kind = NULL;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO hex = BUFFER_INIT;
    (void)n;
    if (want_text(&args[0], 1, &text, err) < 0 || want(&args[1], 2, JSON_STRING, err) < 0)
        return -1;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (json_equals(&args[1], names[i], strlen(names[i])))
            kind = kinds[i];
    if (!kind)
        return refuse(&args[1], 2, "MD5, SHA-1, SHA-256, SHA-384 or SHA-512", err);
    if (EVP_Digest(text.data, text.len, digest, &len, kind, NULL) != 1)
        return error_set(err, ERROR_INVALID, "this hash is not available here");
    for (unsigned i = 0; i < len; i++)
        buffer_printf(&hex, "%02x", digest[i]);
    return hex.failed ? no_memory(err) : give_text(ev, hex.data, hex.len, ret, err);
}

/* --- JSON --- */

/* Without spaces, strings escaped no more than needed. */
static void append_compact(struct buffer *out, const struct json_value *value)
{
    struct json_iter iter;
    struct json_value name, item;
    bool object = value->type == JSON_OBJECT;
    bool first = true;
    if (value->type == JSON_STRING && value->escaped) {
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(value, &text);
        out->failed |= text.failed;
        buffer_append_json(out, text.len ? text.data : "", text.len);
        return;
    }
    if (!object && value->type != JSON_ARRAY) {
        append(out, value);
        return;
    }
    buffer_append_char(out, object ? '{' : '[');
    json_iter_init(&iter, value);
    for (; json_next(&iter, &name, &item); first = false) {
        if (!first)
            buffer_append_char(out, ',');
        if (object) {
            append_compact(out, &name);
            buffer_append_char(out, ':');
        }
        append_compact(out, &item);
    }
    buffer_append_char(out, object ? '}' : ']');
}

static int json_to_string(struct evaluation *ev, const struct json_value *args, unsigned n,
                          struct json_value *ret, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    (void)n;
    append_compact(&text, &args[0]);
    return text.failed ? no_memory(err) : give_text(ev, text.data, text.len, ret, err);
}

static int string_to_json(struct evaluation *ev, const struct json_value *args, unsigned n,
                          struct json_value *ret, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    (void)n;
    if (want(&args[0], 1, JSON_STRING, err) < 0)
        return -1;
    json_unescape(&args[0], &text);
    if (text.failed)
        return no_memory(err);
    if (strspn(buffer_text(&text), " \t\r\n") == text.len) { /* nothing: null */
        give_null(ret);
        return 0;
    }
    if (evaluation_keep(ev, &text, ret, err) < 0)
        return error_prefix(err, "argument 1");
    return 0;
}

static int json_merge(struct evaluation *ev, const struct json_value *args, unsigned n,
                      struct json_value *ret, struct error *err)
{
    struct json_iter iter;
    struct json_value name, item;
    BUFFER_AUTO json = BUFFER_INIT;
    (void)n;
    if (want(&args[0], 1, JSON_OBJECT, err) < 0 || want(&args[1], 2, JSON_OBJECT, err) < 0)
        return -1;
    if (args[2].type != JSON_FALSE)
        return refuse(&args[2], 3, "false (there are no deep merges)", err);
    buffer_append_char(&json, '{');
    for (unsigned i = 0; i < 2; i++) {
        json_iter_init(&iter, &args[i]);
        while (json_next(&iter, &name, &item)) {
            struct json_value other = {0};
            BUFFER_AUTO plain = BUFFER_INIT;
            json_unescape(&name, &plain);
            if (json_work(&ev->steps, args[1].len, err) < 0)
                return -1;
            if (i == 0 && strlen(buffer_text(&plain)) == plain.len &&
                json_member(&args[1], buffer_text(&plain), &other))
                continue;
            if (json.len > 1)
                buffer_append_char(&json, ',');
            append(&json, &name);
            buffer_append_char(&json, ':');
            append(&json, &item);
        }
    }
    buffer_append_char(&json, '}');
    return evaluation_keep(ev, &json, ret, err);
}

/* --- numbers --- */

static int math_add(struct evaluation *ev, const struct json_value *args, unsigned n, struct json_value *ret,
                    struct error *err)
{
    int64_t a, b, sum;
    (void)n;
    if (want_rounded(&args[0], 1, &a, err) < 0 || want_rounded(&args[1], 2, &b, err) < 0)
        return -1;
    if (__builtin_add_overflow(a, b, &sum))
        return error_set(err, ERROR_INVALID, "the sum is too large");
    return give_whole(ev, sum, ret, err);
}

/* From start up to, but without, end. The same seed gives the same number. */
static int math_random(struct evaluation *ev, const struct json_value *args, unsigned n,
                       struct json_value *ret, struct error *err)
{
    int64_t from, to, seed;
    uint64_t random;
    if (want_rounded(&args[0], 1, &from, err) < 0 || want_rounded(&args[1], 2, &to, err) < 0)
        return -1;
    if (n == 3) {
        if (want_rounded(&args[2], 3, &seed, err) < 0)
            return -1;
        struct evaluation seeded = {.chance = (uint64_t)seed};
        random = evaluation_random(&seeded);
    } else {
        random = evaluation_random(ev);
    }
    if (from >= to)
        return error_set(err, ERROR_INVALID, "argument 1 (%lld) is not below argument 2 (%lld)",
                         (long long)from, (long long)to);
    uint64_t span = (uint64_t)to - (uint64_t)from;
    return give_whole(ev, (int64_t)((uint64_t)from + (uint64_t)(((unsigned __int128)random * span) >> 64)),
                      ret, err);
}

/* RFC 9562, version 4. */
static int uuid(struct evaluation *ev, const struct json_value *args, unsigned n, struct json_value *ret,
                struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    uint64_t a = evaluation_random(ev);
    uint64_t b = evaluation_random(ev);
    (void)args;
    (void)n;
    buffer_printf(&text, "%08llx-%04llx-4%03llx-%04llx-%012llx", (unsigned long long)(a >> 32),
                  (unsigned long long)(a >> 16 & 0xffff), (unsigned long long)(a & 0xfff),
                  (unsigned long long)((b >> 48 & 0x3fff) | 0x8000),
                  (unsigned long long)(b & 0xffffffffffff));
    return text.failed ? no_memory(err) : give_text(ev, text.data, text.len, ret, err);
}

static const struct intrinsic intrinsics[] = {
    {"States.Array", 0, INTRINSIC_MAX_ARGUMENTS, array},
    {"States.ArrayContains", 2, 2, array_contains},
    {"States.ArrayGetItem", 2, 2, array_get_item},
    {"States.ArrayLength", 1, 1, array_length},
    {"States.ArrayPartition", 2, 2, array_partition},
    {"States.ArrayRange", 3, 3, array_range},
    {"States.ArrayUnique", 1, 1, array_unique},
    {"States.Base64Decode", 1, 1, base64_decode},
    {"States.Base64Encode", 1, 1, base64_encode},
    {"States.Format", 1, INTRINSIC_MAX_ARGUMENTS, format},
    {"States.Hash", 2, 2, hash},
    {"States.JsonMerge", 3, 3, json_merge},
    {"States.JsonToString", 1, 1, json_to_string},
    {"States.MathAdd", 2, 2, math_add},
    {"States.MathRandom", 2, 3, math_random},
    {"States.StringSplit", 2, 2, string_split},
    {"States.StringToJson", 1, 1, string_to_json},
    {"States.UUID", 0, 0, uuid},
};

const struct intrinsic *intrinsic_find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof intrinsics / sizeof intrinsics[0]; i++)
        if (strlen(intrinsics[i].name) == len && !memcmp(intrinsics[i].name, name, len))
            return &intrinsics[i];
    return NULL;
}
