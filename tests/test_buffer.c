/* Buffers: growth, formats, and what they do when memory runs out. */
#include "common/buffer.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"

static void test_append(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    assert_string_equal(buffer_text(&b), "");
    buffer_append(&b, NULL, 0);
    buffer_append(&b, "ab\0c", 4);
    buffer_append_text(&b, "def");
    buffer_append_text(&b, "");
    buffer_append_char(&b, '!');
    buffer_printf(&b, "%d-%s", 42, "x");
    assert_int_equal(b.len, 12);
    assert_memory_equal(b.data, "ab\0cdef!42-x", 12);
    assert_int_equal(buffer_text(&b)[12], '\0');
    assert_int_equal(b.len, 12);
    buffer_done(&b);
    assert_null(b.data);
    buffer_append_text(&b, "again");
    assert_string_equal(buffer_text(&b), "again");
}

static void test_growth(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    for (int i = 0; i < 100000; i++)
        buffer_append_char(&b, (char)('a' + i % 26));
    assert_int_equal(b.len, 100000);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(b.data[i], 'a' + i % 26);
    char *to = buffer_reserve(&b, 1 << 20);
    assert_non_null(to);
    assert_ptr_equal(to, b.data + b.len);
    memset(to, 'z', 1 << 20);
    assert_int_equal(b.len, 100000);
}

static void test_reset(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    buffer_append_text(&b, "text");
    char *data = b.data;
    buffer_reset(&b, 4096);
    assert_int_equal(b.len, 0);
    assert_ptr_equal(b.data, data);
    buffer_reserve(&b, 10000);
    buffer_reset(&b, 4096);
    assert_null(b.data);
    assert_int_equal(b.cap, 0);
}

static void test_numbers(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    static const uint64_t values[] = {0, 9, 10, 1234567890, UINT64_MAX};
    for (size_t i = 0; i < 5; i++) {
        buffer_append_u64(&b, values[i]);
        buffer_append_char(&b, ' ');
    }
    assert_string_equal(buffer_text(&b), "0 9 10 1234567890 18446744073709551615 ");
}

static void test_json(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    static const char text[] = "a\"b\\c\n\r\t\b\x1f\x7f/\0z\xc3\xa9";
    buffer_append_json(&b, text, sizeof text - 1);
    assert_string_equal(buffer_text(&b), "\"a\\\"b\\\\c\\n\\r\\t\\u0008\\u001f\x7f/\\u0000z\xc3\xa9\"");
    buffer_reset(&b, 4096);
    buffer_append_json(&b, "", 0);
    assert_string_equal(buffer_text(&b), "\"\"");
}

static void test_consume(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    buffer_consume(&b, 5);
    buffer_append_text(&b, "abcdef");
    buffer_consume(&b, 0);
    assert_string_equal(buffer_text(&b), "abcdef");
    buffer_consume(&b, 2);
    assert_string_equal(buffer_text(&b), "cdef");
    buffer_consume(&b, 4);
    assert_int_equal(b.len, 0);
    buffer_append_text(&b, "gh");
    buffer_consume(&b, 100);
    assert_int_equal(b.len, 0);
}

static void test_long_printf(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    buffer_printf(&b, "%*d", 5000, 7);
    buffer_printf(&b, "%s", "");
    assert_int_equal(b.len, 5000);
    assert_int_equal(b.data[4999], '7');
}

static void test_failure(void **state)
{
    (void)state;
    BUFFER_AUTO b = BUFFER_INIT;
    buffer_append_text(&b, "kept");
    assert_null(buffer_reserve(&b, SIZE_MAX - 1)); /* no number of doublings reaches it */
    assert_true(b.failed);
    buffer_append_text(&b, "lost");
    buffer_printf(&b, "lost");
    buffer_append_u64(&b, 1);
    buffer_append_json(&b, "lost", 4);
    assert_null(buffer_reserve(&b, 1));
    assert_int_equal(b.len, 4);
    assert_string_equal(buffer_text(&b), "");
    buffer_reset(&b, 4096);
    assert_false(b.failed);
    buffer_append_text(&b, "new");
    assert_string_equal(buffer_text(&b), "new");
}

/* The neighbours that every module uses: errors and times. */

static void test_errors(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(error_set(&err, ERROR_INVALID, "bad %s", "value"), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_string_equal(err.message, "bad value");
    assert_int_equal(error_prefix(&err, "file:%d", 3), -1);
    assert_string_equal(err.message, "file:3: bad value");
    assert_int_equal(err.code, ERROR_INVALID);
    assert_int_equal(error_set_errno(&err, 2, "open %s", "x"), -1);
    assert_int_equal(err.code, ERROR_SYSTEM);
    assert_string_equal(err.message, "open x: No such file or directory");
    error_set_errno(&err, 12, "map");
    assert_int_equal(err.code, ERROR_MEMORY);
    assert_int_equal(error_set(NULL, ERROR_INVALID, "nobody asks"), -1);
    assert_int_equal(error_set_errno(NULL, 2, "nobody asks"), -1);
    assert_int_equal(error_prefix(NULL, "nobody asks"), -1);
    char huge[1000];
    memset(huge, 'h', sizeof huge - 1);
    huge[sizeof huge - 1] = '\0';
    error_set(&err, ERROR_LIMIT, "%s", huge);
    error_prefix(&err, "%s", huge);
    error_set_errno(&err, 2, "%s", huge);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    for (int code = ERROR_NONE; code <= ERROR_LIMIT; code++)
        assert_string_not_equal(error_code_name((enum error_code)code), "unknown");
    assert_string_equal(error_code_name((enum error_code)99), "unknown");
}

static void test_clock(void **state)
{
    (void)state;
    char text[CLOCK_ISO_MAX];
    assert_string_equal(clock_iso(0, text), "1970-01-01T00:00:00.000000Z");
    assert_string_equal(clock_iso(1603198800123456789ull, text), "2020-10-20T13:00:00.123456Z");
    uint64_t a = clock_now_ns();
    uint64_t b = clock_now_ns();
    assert_true(a > 0 && b >= a);
    assert_true(clock_coarse_ns() > 0);
    assert_true(clock_unix_ns() > 1600000000 * CLOCK_S);
}

static void test_base64(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}}; /* RFC 4648 section 10 */
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        BUFFER_AUTO b = BUFFER_INIT;
        buffer_append_base64(&b, pairs[i][0], strlen(pairs[i][0]));
        assert_string_equal(buffer_text(&b), pairs[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64),  cmocka_unit_test(test_append),  cmocka_unit_test(test_growth),
        cmocka_unit_test(test_reset),   cmocka_unit_test(test_numbers), cmocka_unit_test(test_json),
        cmocka_unit_test(test_consume), cmocka_unit_test(test_failure), cmocka_unit_test(test_long_printf),
        cmocka_unit_test(test_errors),  cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
