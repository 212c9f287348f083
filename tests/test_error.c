/* Errors: codes, messages, and that long ones are cut. */
#include "common/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_set(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(error_set(&err, ERROR_INVALID, "value %d of %s", 7, "x"), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_string_equal(err.message, "value 7 of x");
    assert_int_equal(error_set(NULL, ERROR_INVALID, "x"), -1);
}

static void test_errno(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(error_set_errno(&err, ENOENT, "open %s", "f"), -1);
    assert_int_equal(err.code, ERROR_SYSTEM);
    assert_string_equal(err.message, "open f: No such file or directory");
    error_set_errno(&err, ENOMEM, "mmap");
    assert_int_equal(err.code, ERROR_MEMORY);
    assert_int_equal(error_set_errno(NULL, ENOENT, "x"), -1);
}

static void test_prefix(void **state)
{
    (void)state;
    struct error err;
    error_set(&err, ERROR_REFUSED, "no");
    assert_int_equal(error_prefix(&err, "source %s", "s"), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    assert_string_equal(err.message, "source s: no");
    assert_int_equal(error_prefix(NULL, "x"), -1);
}

static void test_long(void **state)
{
    (void)state;
    struct error err;
    char text[1000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    error_set(&err, ERROR_LIMIT, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    error_set_errno(&err, EIO, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    error_set(&err, ERROR_LIMIT, "inner");
    error_prefix(&err, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
}

static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {"none",   "memory", "system",      "invalid", "not_found",
                                        "exists", "fenced", "unavailable", "refused", "limit"};
    for (int i = ERROR_NONE; i <= ERROR_LIMIT; i++)
        assert_string_equal(error_code_name((enum error_code)i), names[i]);
    assert_string_equal(error_code_name((enum error_code)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set),  cmocka_unit_test(test_errno), cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_long), cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
