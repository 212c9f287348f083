/* Parameters of a RedisEventSource: defaults, spellings of the original client, and refusals that never show
 * the password. */
#include "worker/source/redis_parameters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/json.h"

static int read(const char *json, struct redis_parameters *p, struct error *err)
{
    struct json_value value;
    assert_int_equal(json_scan(json, strlen(json), &value, NULL), 0);
    return redis_parameters_read(&value, p, err);
}

static void test_defaults(void **state)
{
    (void)state;
    struct redis_parameters p;
    struct error err;
    assert_int_equal(read("{\"host\":\"h\",\"stream\":\"s\",\"unknown\":[]}", &p, &err), 0);
    assert_string_equal(p.host, "h");
    assert_string_equal(p.stream, "s");
    assert_int_equal(p.port, 6379);
    assert_int_equal(p.db, 0);
    const char *const empty[] = {p.username, p.password, p.tls_ca, p.tls_cert, p.tls_key};
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++)
        assert_string_equal(empty[i], "");
    assert_false(p.tls || p.trim);
    redis_parameters_done(&p);
    redis_parameters_done(&p);
}

static void test_all(void **state)
{
    (void)state;
    struct redis_parameters p;
    struct error err;
    assert_int_equal(
        read("{\"host\":\"h\\u00e9\",\"port\":\"6380\",\"db\":3,\"password\":123456,\"stream\":\"s\","
             "\"username\":\"u\",\"tls\":true,\"tls_ca\":\"a\",\"tls_cert\":\"b\",\"tls_key\":\"c\","
             "\"trim\":true}",
             &p, &err),
        0);
    struct redis_address a = redis_parameters_address(&p);
    assert_string_equal(a.host, "h\xc3\xa9");
    assert_int_equal(a.port, 6380);
    assert_int_equal(a.db, 3);
    assert_string_equal(a.username, "u");
    assert_string_equal(a.password, "123456");
    assert_true(a.tls);
    assert_string_equal(a.tls_ca, "a");
    assert_string_equal(a.tls_cert, "b");
    assert_string_equal(a.tls_key, "c");
    assert_true(p.trim);
    redis_parameters_done(&p);
}

static void test_null_is_absent(void **state)
{
    (void)state;
    struct redis_parameters p;
    struct error err;
    assert_int_equal(
        read("{\"host\":\"h\",\"stream\":\"s\",\"port\":null,\"db\":null,\"password\":null,\"tls\":null,"
             "\"trim\":false}",
             &p, &err),
        0);
    assert_int_equal(p.port, 6379);
    assert_string_equal(p.password, "");
    redis_parameters_done(&p);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json; /* with host and stream */
        const char *message;
    } rows[] = {
        {"\"port\":65536", "parameter port is 65536, not a number from 0 to 65535"},
        {"\"port\":-1", "parameter port is -1, not a number from 0 to 65535"},
        {"\"port\":\"\"", "parameter port is \"\", not a number from 0 to 65535"},
        {"\"port\":\"63x\"", "parameter port is \"63x\", not a number from 0 to 65535"},
        {"\"port\":1e3", "parameter port is 1e3, not a number from 0 to 65535"},
        {"\"port\":99999999999999999999",
         "parameter port is 99999999999999999999, not a number from 0 to 65535"},
        {"\"db\":true", "parameter db is true, not a number from 0 to 1048576"},
        {"\"password\":[\"secret\"]", "parameter password is not a string"},
        {"\"password\":\"secret\\u0000\"", "parameter password is not free of NUL characters"},
        {"\"username\":{}", "parameter username is {}, not a string"},
        {"\"tls\":\"yes\"", "parameter tls is \"yes\", not true or false"},
        {"\"trim\":1", "parameter trim is 1, not true or false"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct redis_parameters p;
        struct error err;
        char json[200];
        snprintf(json, sizeof json, "{\"host\":\"h\",\"stream\":\"s\",%s}", rows[i].json);
        assert_int_equal(read(json, &p, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_string_equal(err.message, rows[i].message);
    }
}

static void test_needed(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"{\"stream\":\"s\"}", "parameter host is missing"},
        {"{\"host\":\"h\"}", "parameter stream is missing"},
        {"{\"host\":null,\"stream\":\"s\"}", "parameter host is missing"},
        {"{\"host\":\"\",\"stream\":\"s\"}", "parameter host is empty"},
        {"{\"host\":\"h\",\"stream\":\"\"}", "parameter stream is empty"},
        {"{\"host\":\"h\",\"stream\":\"a\\u0000b\"}",
         "parameter stream is \"a\\u0000b\", not free of NUL characters"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct redis_parameters p;
        struct error err;
        assert_int_equal(read(rows[i][0], &p, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_string_equal(err.message, rows[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_all),    cmocka_unit_test(test_null_is_absent),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
