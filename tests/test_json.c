/* json.h: what is accepted and refused, and what reading in place gives back. */
#include "common/json.h"

#include "common/buffer.h"
#include "common/error.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void assert_same_value(const struct json_value *a, const struct json_value *b)
{
    assert_ptr_equal(a->text, b->text);
    assert_int_equal(a->len, b->len);
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->escaped, b->escaped);
}

/* What puts down the members must say the same of the text, and of them what json_next says. */
static void check_members(const char *text, size_t n, int rc, const struct json_value *value,
                          const struct error *expected)
{
    struct json_members members;
    struct json_value same, name, child;
    struct json_iter iter;
    struct error err = {0};
    size_t at = 0;
    assert_int_equal(json_scan_members(text, n, JSON_MAX_DEPTH, &same, &members, &err), rc);
    assert_string_equal(err.message, expected->message);
    if (rc < 0)
        return;
    assert_same_value(&same, value);
    json_iter_init(&iter, value);
    for (; value->type == JSON_OBJECT && json_next(&iter, &name, &child); at++)
        if (at < JSON_MEMBERS_MAX - 1 || (at == JSON_MEMBERS_MAX - 1 && members.n <= JSON_MEMBERS_MAX)) {
            assert_same_value(&members.name[at], &name);
            assert_same_value(&members.value[at], &child);
        }
    assert_int_equal(members.n, at);
}

/* Scans a copy that ends where its allocation ends, so that a sanitizer sees every byte read too much; the
 * copy is kept in *ret_copy, or freed where nobody wants it. */
static int scan(const char *text, size_t n, struct json_value *ret_value, char **ret_copy, struct error *err)
{
    struct json_value value;
    struct error own = {0};
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, text, n);
    int rc = json_scan(copy, n, &value, &own);
    check_members(copy, n, rc, &value, &own);
    if (ret_value && rc == 0)
        *ret_value = value;
    if (err && rc < 0)
        *err = own;
    if (ret_copy)
        *ret_copy = copy;
    else
        free(copy);
    return rc;
}

static bool accepted(const char *text, size_t n)
{
    return scan(text, n, NULL, NULL, NULL) == 0;
}

/* The value of a literal, read in place. */
static struct json_value value_of(const char *text)
{
    struct json_value value;
    struct error err = {0};
    if (json_scan(text, strlen(text), &value, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return value;
}

static void assert_text(const struct json_value *value, const char *expected)
{
    assert_int_equal(value->len, strlen(expected));
    assert_memory_equal(value->text, expected, value->len);
}

static void test_accepted(void **state)
{
    static const char *const texts[] = {
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-0.0e-0",
        "10.25E+3",
        "1e5",
        "\"\"",
        "{}",
        "[]",
        " \t\r\n[ \t\r\n] \t\r\n",
        "{ }",
        "[[],{},[{}]]",
        "{\"\":0}",
        "{\"a\":1,\"a\":2}",
        "[1, \"two\", null, {\"three\" : [true ,false]}]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\uFFFF\"",
        "\"\\ud83c\\udf0E\"",
        "\"\x7f\"",
        "\"\xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf\"",
        "\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!accepted(texts[i], strlen(texts[i])))
            fail_msg("refused: %s", texts[i]);
}

static void test_refused(void **state)
{
    static const struct {
        const char *text;
        const char *message; /* part of it */
    } cases[] = {
        {"", "at byte 0: unexpected end"},
        {"  ", "at byte 2: unexpected end"},
        {"{", "unexpected end"},
        {"[", "unexpected end"},
        {"[1", "unexpected end"},
        {"[1,", "unexpected end"},
        {"[1,]", "at byte 3: unexpected character"},
        {"[,1]", "unexpected character"},
        {"[1 2]", "at byte 3: a comma or ]"},
        {"[1}", "a comma or ]"},
        {"{\"a\"", "unexpected end"},
        {"{\"a\":", "unexpected end"},
        {"{\"a\":1", "unexpected end"},
        {"{\"a\":1,", "unexpected end"},
        {"{\"a\":1,}", "name is missing"},
        {"{\"a\":1]", "a comma or }"},
        {"{\"a\" 1}", "colon"},
        {"{a:1}", "name is missing"},
        {"{1:1}", "name is missing"},
        {"{,}", "name is missing"},
        {"]", "unexpected character"},
        {"nul", "unexpected character"},
        {"nulL", "unexpected character"},
        {"truefalse", "text after the value"},
        {"1 2", "at byte 2: text after the value"},
        {"{}x", "text after the value"},
        {"-", "unexpected end"},
        {"-x", "digit"},
        {"01", "text after the value"},
        {"+1", "unexpected character"},
        {".5", "unexpected character"},
        {"1.", "unexpected end"},
        {"1.x", "digit"},
        {"1e", "unexpected end"},
        {"1e+", "unexpected end"},
        {"1e+x", "digit"},
        {"\"", "unexpected end"},
        {"\"\\", "unexpected end"},
        {"\"\\x\"", "at byte 1: unknown escape"},
        {"\"\\u\"", "four hexadecimal"},
        {"\"\\u12\"", "four hexadecimal"},
        {"\"\\u12g4\"", "four hexadecimal"},
        {"\"\\u12", "four hexadecimal"},
        {"\"\\ud800\"", "lone surrogate"},
        {"\"\\ud800x\"", "lone surrogate"},
        {"\"\\ud800\\n12345\"", "lone surrogate"},
        {"\"\\ud800\\u0041\"", "lone surrogate"},
        {"\"\\ud800\\ud800\"", "lone surrogate"},
        {"\"\\udc00\"", "lone surrogate"},
        {"\"\\ud800\\udc0\"", "lone surrogate"},
        {"\"\n\"", "control character"},
        {"\"\x1f\"", "control character"},
        {"\"\x80\"", "UTF-8"},
        {"\"\xc1\xbf\"", "UTF-8"},
        {"\"\xe0\x9f\xbf\"", "UTF-8"},
        {"\"\xed\xa0\x80\"", "UTF-8"},
        {"\"\xf0\x8f\xbf\xbf\"", "UTF-8"},
        {"\"\xf4\x90\x80\x80\"", "UTF-8"},
        {"\"\xf5\x80\x80\x80\"", "UTF-8"},
        {"\"\xe2\x82\"", "UTF-8"},
        {"\"\xe2\x82", "UTF-8"},
        {"\xef\xbb\xbf{}", "unexpected character"},
        {"[1]\xff", "text after the value"},
        {"\x0c[]", "unexpected character"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        if (scan(cases[i].text, strlen(cases[i].text), NULL, NULL, &err) == 0)
            fail_msg("accepted: %s", cases[i].text);
        assert_int_equal(err.code, ERROR_INVALID);
        if (!strstr(err.message, cases[i].message))
            fail_msg("%s: %s", cases[i].text, err.message);
    }
    assert_int_equal(json_scan(NULL, 0, &(struct json_value){0}, NULL), -1);
    assert_false(accepted("\0", 1));
    assert_false(accepted("\"\0\"", 3));
    assert_false(accepted("1\0", 2));
}

/* Every byte in every place of a string, around the blocks of sixteen. */
static void test_every_byte_in_every_place(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 40; n++) {
        for (size_t place = 0; place < n; place++) {
            for (unsigned byte = 0; byte < 256; byte++) {
                char text[42];
                text[0] = text[n + 1] = '"';
                memset(text + 1, 'x', n);
                text[place + 1] = (char)byte;
                bool expected = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
                if (accepted(text, n + 2) != expected)
                    fail_msg("byte %02x at %zu of %zu", byte, place, n);
            }
        }
    }
}

/* A valid text with every escape and type stops being one wherever it is cut. */
static void test_truncated_anywhere(void **state)
{
    static const char text[] = "{\"a\\u00e9\":[1.5e+3,true,false,null,\"\xf0\x9f\x8c\x8e\\ud83c\\udf0e\\n\"],"
                               "\"a longer name than a block\" : {\"b\":[[],{}]}}";
    (void)state;
    assert_true(accepted(text, sizeof text - 1));
    for (size_t n = 0; n < sizeof text - 1; n++)
        if (accepted(text, n))
            fail_msg("accepted %zu bytes", n);
}

static void test_depth(void **state)
{
    struct json_value value;
    struct error err = {0};
    char text[2 * (JSON_MAX_DEPTH + 1) * 6];
    (void)state;
    for (size_t depth = JSON_MAX_DEPTH; depth <= JSON_MAX_DEPTH + 1; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        assert_int_equal(json_scan(text, 2 * depth, &value, &err), depth > JSON_MAX_DEPTH ? -1 : 0);
    }
    assert_non_null(strstr(err.message, "nested too deeply"));

    struct json_value deep = {.text = text, .len = 2 * (JSON_DATA_DEPTH + 1), .type = JSON_ARRAY};
    memset(text, '[', JSON_DATA_DEPTH + 1);
    memset(text + JSON_DATA_DEPTH + 1, ']', JSON_DATA_DEPTH + 1);
    assert_int_equal(json_scan_within(text, deep.len, JSON_DATA_DEPTH, &value, &err), -1);
    assert_int_equal(json_scan_within(text, deep.len, JSON_DATA_DEPTH + 1, &value, &err), 0);
    assert_true(json_is_deeper(&deep, JSON_DATA_DEPTH));
    assert_false(json_is_deeper(&deep, JSON_DATA_DEPTH + 1));

    /* Alternately objects and arrays: each level must remember which it is. */
    size_t n = 0;
    for (size_t i = 0; i < JSON_MAX_DEPTH; i++)
        n += (size_t)sprintf(text + n, i % 3 ? "{\"a\":" : "[");
    text[n++] = '1';
    for (size_t i = JSON_MAX_DEPTH; i-- > 0;)
        text[n++] = i % 3 ? '}' : ']';
    assert_int_equal(json_scan(text, n, &value, &err), 0);
    text[n - 1 - JSON_MAX_DEPTH / 2] ^= ']' ^ '}';
    assert_int_equal(json_scan(text, n, &value, &err), -1);
}

static void test_values(void **state)
{
    static const struct {
        const char *json;
        const char *text;
        enum json_type type;
        bool escaped;
    } cases[] = {
        {" null ", "null", JSON_NULL, false},
        {"true", "true", JSON_TRUE, false},
        {"false", "false", JSON_FALSE, false},
        {"\n-1.5e3\t", "-1.5e3", JSON_NUMBER, false},
        {" \"text\" ", "text", JSON_STRING, false},
        {"\"\"", "", JSON_STRING, false},
        {"\"a\\nb\"", "a\\nb", JSON_STRING, true},
        {" [1, \"]\"] ", "[1, \"]\"]", JSON_ARRAY, false},
        {" {\"}\":{}} ", "{\"}\":{}}", JSON_OBJECT, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len;
        struct json_value value = value_of(cases[i].json);
        assert_int_equal(value.type, cases[i].type);
        assert_int_equal(value.escaped, cases[i].escaped);
        assert_text(&value, cases[i].text);
        const char *raw = json_raw(&value, &len);
        assert_int_equal(len, value.len + (value.type == JSON_STRING ? 2 : 0));
        assert_ptr_equal(raw, strpbrk(cases[i].json, "ntf-\"[{"));
    }
    assert_string_equal(json_type_name(JSON_ABSENT), "absent");
    assert_string_equal(json_type_name(JSON_TRUE), json_type_name(JSON_FALSE));
    assert_string_equal(json_type_name(JSON_OBJECT), "an object");
    assert_string_equal(json_type_name((enum json_type)99), "unknown");
}

static void test_iterate_array(void **state)
{
    static const char *const expected[] = {"1",    "two",  "[3,[\"]\"]]", "{\"4\":\"}\\\"]\"}",
                                           "true", "null", "-5.0"};
    struct json_value name;
    struct json_value value;
    struct json_iter iter;
    struct json_value array =
        value_of(" [ 1 ,\"two\" , [3,[\"]\"]],\n{\"4\":\"}\\\"]\"} ,true,null , -5.0 ] ");
    (void)state;
    json_iter_init(&iter, &array);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_true(json_next(&iter, &name, &value));
        assert_int_equal(name.type, JSON_ABSENT);
        assert_text(&value, expected[i]);
    }
    assert_false(json_next(&iter, &name, &value));
    assert_false(json_next(&iter, &name, &value));
}

static void test_iterate_object(void **state)
{
    struct json_value name;
    struct json_value value;
    struct json_iter iter;
    struct json_value object = value_of("{ \"a\" : 1,\"a longer name \\\" of more than a block\":\"x\\\\\" ,"
                                        "\"\":{\"nested\":\"more than sixteen bytes { [ \"},\"a\":[]}");
    (void)state;
    json_iter_init(&iter, &object);
    assert_true(json_next(&iter, &name, &value));
    assert_text(&name, "a");
    assert_text(&value, "1");
    assert_true(json_next(&iter, &name, &value));
    assert_text(&name, "a longer name \\\" of more than a block");
    assert_true(name.escaped);
    assert_text(&value, "x\\\\");
    assert_true(value.escaped);
    assert_true(json_next(&iter, &name, &value));
    assert_text(&name, "");
    assert_int_equal(value.type, JSON_OBJECT);
    assert_true(json_next(&iter, &name, &value));
    assert_text(&name, "a");
    assert_text(&value, "[]");
    assert_false(json_next(&iter, &name, &value));
}

static void test_many_members(void **state)
{
    (void)state;
    BUFFER_AUTO text = BUFFER_INIT;
    for (unsigned n = 0; n < JSON_MEMBERS_MAX + 3; n++) {
        buffer_reset(&text, SIZE_MAX);
        buffer_append_char(&text, '{');
        for (unsigned i = 0; i < n; i++)
            buffer_printf(&text, "%s \"%s%u\" : %s", i ? " ," : "", i % 3 ? "n" : "\\n", i,
                          i % 5 == 0   ? "\"a\\\"b\""
                          : i % 5 == 1 ? "[1, {\"a\": [\"\\\\\"]}]"
                          : i % 5 == 2 ? "\"plain\""
                          : i % 5 == 3 ? "{ }"
                                       : "-1.5e3");
        buffer_append_text(&text, " } ");
        assert_true(accepted(text.data, text.len));
        assert_false(accepted(text.data, text.len - 2));
    }
}

static void test_iterate_nothing(void **state)
{
    static const char *const texts[] = {"{}", "[]", "{ }", "[\n]", "\"{}\"", "12", "null"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct json_iter iter;
        struct json_value name;
        struct json_value value = value_of(texts[i]);
        json_iter_init(&iter, &value);
        assert_false(json_next(&iter, &name, &value));
    }
}

static void test_open(void **state)
{
    static const char text[] = "{ \"a\" : [1, [2, {}], {\"x\":\"]}\"} ] , \"b\":{ \"c\" : [ ] }, \"d\" : 4}";
    struct json_value root, name, value;
    struct json_iter top, list;
    (void)state;
    assert_int_equal(json_scan(text, strlen(text), &root, NULL), 0);
    json_iter_init(&top, &root);
    assert_true(json_next_open(&top, &name, &value));
    assert_true(json_equals(&name, "a", 1));
    assert_int_equal(value.type, JSON_ARRAY);
    json_open(&top, &list);
    assert_true(json_next_open(&list, &name, &value));
    assert_int_equal(name.type, JSON_ABSENT);
    assert_int_equal(value.type, JSON_NUMBER);
    assert_true(json_next_open(&list, &name, &value)); /* is not opened */
    assert_int_equal(value.type, JSON_ARRAY);
    assert_true(json_next_open(&list, &name, &value));
    assert_int_equal(value.type, JSON_OBJECT);
    assert_false(json_next_open(&list, &name, &value));
    assert_false(json_next_open(&list, &name, &value));
    json_close(&top, &list);
    assert_true(json_next_open(&top, &name, &value));
    assert_true(json_equals(&name, "b", 1));
    assert_true(json_next_open(&top, &name, &value));
    assert_true(json_equals(&name, "d", 1));
    assert_false(json_next_open(&top, &name, &value));
}

/* Texts are looked at in blocks. */
static void test_escape_in_every_place(void **state)
{
    enum { MOST = 40 };
    (void)state;
    for (size_t len = 2; len < MOST; len++)
        for (size_t at = 0; at + 2 <= len; at++)
            for (size_t more = at + 2; more + 2 <= len + 2; more++) { /* from len on: no second one */
                char text[MOST + 4] = "[\"";
                char *string = text + 2;
                struct json_value root, name, value;
                struct json_iter iter;
                BUFFER_AUTO out = BUFFER_INIT;
                memset(string, 'x', len);
                memcpy(string + at, "\\\"", 2);
                bool second = more + 2 <= len;
                if (second)
                    memcpy(string + more, "\\\\", 2);
                memcpy(string + len, "\"]", 2);
                assert_int_equal(json_scan(text, len + 4, &root, NULL), 0);
                json_iter_init(&iter, &root);
                assert_true(json_next(&iter, &name, &value));
                assert_int_equal(value.len, len);
                assert_true(value.escaped);
                assert_false(json_next(&iter, &name, &value));
                value = (struct json_value){string, len, JSON_STRING, true};
                json_unescape(&value, &out);
                assert_int_equal(out.len, len - 1 - second);
                for (size_t i = 0; i < out.len; i++)
                    assert_int_equal(out.data[i], i == at ? '"' : second && i + 1 == more ? '\\' : 'x');
            }
}

static void test_member(void **state)
{
    struct json_value value;
    struct json_value object = value_of("{\"a\":1,\"\\u0062\":\"x\",\"a\":2,\"n\":null}");
    struct json_value array = value_of("[\"a\"]");
    (void)state;
    assert_true(json_member(&object, "a", &value));
    assert_text(&value, "2");
    assert_true(json_member(&object, "b", &value));
    assert_text(&value, "x");
    assert_true(json_member(&object, "n", &value));
    assert_int_equal(value.type, JSON_NULL);
    assert_false(json_member(&object, "c", &value));
    assert_int_equal(value.type, JSON_ABSENT);
    assert_false(json_member(&array, "a", &value));
    assert_int_equal(value.type, JSON_ABSENT);
}

static void test_unescape(void **state)
{
    static const struct {
        const char *json;
        const char *text;
    } cases[] = {
        {"\"\"", ""},
        {"\"plain\"", "plain"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"},
        {"\"a\\u0041z\\u00e9\\u20AC\"", "aAz\xc3\xa9\xe2\x82\xac"},
        {"\"\\u007f\\u0080\\u07ff\\u0800\\uffff\"", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf"},
        {"\"\\ud83c\\udf0e\\uD800\\uDC00\\udbff\\udfff\"",
         "\xf0\x9f\x8c\x8e\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        {"\"a run of plain text \\n that is longer than a block \\t\"",
         "a run of plain text \n that is longer than a block \t"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        struct json_value value = value_of(cases[i].json);
        size_t n = strlen(cases[i].text);
        buffer_append_text(&out, "before ");
        json_unescape(&value, &out);
        assert_string_equal(buffer_text(&out) + 7, cases[i].text);
        assert_true(json_equals(&value, cases[i].text, n));
        assert_false(json_equals(&value, cases[i].text, n - (n > 0) + (n == 0)));
        assert_false(json_equals(&value, "other", 5));
    }
    struct json_value zero = value_of("\"\\u0000\"");
    assert_true(json_equals(&zero, "\0", 1));
    assert_false(json_equals(&zero, "", 0));
    struct json_value number = value_of("1");
    assert_false(json_equals(&number, "1", 1));
}

static void test_unescape_without_memory(void **state)
{
    struct buffer out = {NULL, 0, 0, true};
    struct json_value escaped = value_of("\"\\n\"");
    struct json_value plain = value_of("\"n\"");
    (void)state;
    json_unescape(&escaped, &out);
    json_unescape(&plain, &out);
    assert_int_equal(out.len, 0);
    assert_true(out.failed);
}

static void test_integer(void **state)
{
    static const struct {
        const char *json;
        bool whole;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"0.000", true, 0},
        {"0e999999999999999999999", true, 0},
        {"0e-999999999999999999999", true, 0},
        {"1", true, 1},
        {"-1", true, -1},
        {"1000", true, 1000},
        {"1e3", true, 1000},
        {"1E+3", true, 1000},
        {"1000.0", true, 1000},
        {"0.001e6", true, 1000},
        {"1.5e1", true, 15},
        {"1500e-2", true, 15},
        {"10203.0040e3", true, 10203004},
        {"1000000000000000000000e-20", true, 10},
        {"0.00000000000000000000001e23", true, 1},
        {"9223372036854775807", true, INT64_MAX},
        {"9223372036854775807.000", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"-9.223372036854775808e18", true, INT64_MIN},
        {"1e18", true, 1000000000000000000},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"18446744073709551616", false, 0},
        {"18446744073709551617", false, 0},
        {"100000000000000000000000000000000000000000", false, 0},
        {"1e19", false, 0},
        {"1e999999999999999999999", false, 0},
        {"1e-999999999999999999999", false, 0},
        {"0.5", false, 0},
        {"1.5", false, 0},
        {"15e-1", false, 0},
        {"1e-1", false, 0},
        {"1.0000000000000000000000000000001", false, 0},
        {"true", false, 0},
        {"\"1\"", false, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t integer = 77;
        struct json_value value = value_of(cases[i].json);
        if (json_integer(&value, &integer) != cases[i].whole ||
            integer != (cases[i].whole ? cases[i].value : 77))
            fail_msg("%s: %lld", cases[i].json, (long long)integer);
    }
}

/* RFC 3629 said another way: the code point that the bytes stand for, checked against its range. */
static bool reference_utf8(const unsigned char *p, size_t n)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t i = 0;
    while (i < n) {
        size_t length = p[i] < 0x80 ? 1 : p[i] >> 5 == 6 ? 2 : p[i] >> 4 == 14 ? 3 : p[i] >> 3 == 30 ? 4 : 0;
        if (!length || length > n - i)
            return false;
        uint32_t c = length == 1 ? p[i] : p[i] & (0xffu >> (length + 1));
        for (size_t j = 1; j < length; j++) {
            if (p[i + j] >> 6 != 2)
                return false;
            c = c << 6 | (p[i + j] & 0x3f);
        }
        if (c < least[length] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
            return false;
        i += length;
    }
    return true;
}

static void check_utf8(const unsigned char *bytes, size_t n)
{
    if (utf8_valid((const char *)bytes, n) != reference_utf8(bytes, n))
        fail_msg("%02x %02x %02x %02x, %zu bytes", bytes[0], bytes[1], bytes[2], bytes[3], n);
}

static void test_utf8_sequences(void **state)
{
    static const unsigned char edges[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    (void)state;
    for (unsigned a = 0; a < 256; a++) {
        for (unsigned b = 0; b < 256; b++) {
            unsigned char bytes[4] = {(unsigned char)a, (unsigned char)b, 0, 0};
            check_utf8(bytes, 1);
            check_utf8(bytes, 2);
            for (unsigned c = 0; c < 256; c++) {
                bytes[2] = (unsigned char)c;
                check_utf8(bytes, 3);
                for (size_t d = 0; a >= 0xe0 && d < sizeof edges; d++) {
                    bytes[3] = edges[d];
                    check_utf8(bytes, 4);
                }
            }
        }
    }
}

/* A sequence, whole or broken, in every place of texts around the words of eight. */
static void test_utf8_places(void **state)
{
    static const char *const sequences[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x8c\x8e", "\xff",
                                            "\xe2\x82"};
    (void)state;
    assert_true(utf8_valid(NULL, 0));
    for (size_t n = 4; n <= 40; n++) {
        for (size_t i = 0; i < sizeof sequences / sizeof *sequences; i++) {
            size_t length = strlen(sequences[i]);
            for (size_t place = 0; place + length <= n; place++) {
                unsigned char *text = malloc(n);
                assert_non_null(text);
                memset(text, 'x', n);
                memcpy(text + place, sequences[i], length);
                assert_int_equal(utf8_valid((const char *)text, n), i < 3);
                free(text);
            }
        }
    }
}

static char *read_whole_file(const char *path, size_t *ret_n)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = malloc(1 << 20);
    assert_non_null(text);
    *ret_n = fread(text, 1, 1 << 20, file);
    fclose(file);
    return text;
}

/* Checks every file y_*, n_* and i_* of a folder; returns how many there were. */
static unsigned check_folder(const char *path)
{
    unsigned checked = 0;
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        char file[2 * 4096];
        size_t n;
        if (!strchr("yni", entry->d_name[0]) || entry->d_name[1] != '_')
            continue;
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        char *text = read_whole_file(file, &n);
        bool ok = accepted(text, n);
        free(text);
        if (entry->d_name[0] != 'i' && ok != (entry->d_name[0] == 'y'))
            fail_msg("%s: %s", entry->d_name, ok ? "accepted" : "refused");
        checked++;
    }
    closedir(folder);
    return checked;
}

static void test_json_test_suite(void **state)
{
    const char *folder = getenv("TRIGGERFLOW_CONFORMANCE_DIR");
    char archive[4096];
    char unpacked[] = "/tmp/test_json.XXXXXX";
    char command[2 * sizeof archive];
    (void)state;
    snprintf(archive, sizeof archive, "%s/jsontestsuite.tar.gz", folder ? folder : "../shared/conformance");
    if (access(archive, R_OK) != 0) {
        printf("skipped: %s is not there\n", archive);
        skip();
    }
    assert_non_null(mkdtemp(unpacked));
    snprintf(command, sizeof command, "tar -xzf '%s' -C '%s' --strip-components=2 jsontestsuite/test_parsing",
             archive, unpacked);
    int rc = system(command);
    unsigned checked = rc == 0 ? check_folder(unpacked) : 0;
    snprintf(command, sizeof command, "rm -r '%s'", unpacked);
    assert_int_equal(system(command), 0);
    assert_int_equal(rc, 0);
    assert_true(checked > 250);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_every_byte_in_every_place),
        cmocka_unit_test(test_truncated_anywhere),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_iterate_array),
        cmocka_unit_test(test_iterate_object),
        cmocka_unit_test(test_many_members),
        cmocka_unit_test(test_iterate_nothing),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_member),
        cmocka_unit_test(test_unescape),
        cmocka_unit_test(test_escape_in_every_place),
        cmocka_unit_test(test_unescape_without_memory),
        cmocka_unit_test(test_integer),
        cmocka_unit_test(test_utf8_sequences),
        cmocka_unit_test(test_utf8_places),
        cmocka_unit_test(test_json_test_suite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
