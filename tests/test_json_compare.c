/* JSON values by their meaning. */
#include "common/json_compare.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

static struct json_value scan(const char *text)
{
    struct json_value value;
    assert_int_equal(json_scan(text, strlen(text), &value, NULL), 0);
    return value;
}

static void test_same(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"1", "1.0", true},
        {"1e2", "100", true},
        {"9007199254740993", "9007199254740992", false},
        {"0.1", "0.10", true},
        {"1", "\"1\"", false},
        {"null", "null", true},
        {"null", "false", false},
        {"true", "false", false},
        {"\"a\"", "\"\\u0061\"", true},
        {"\"a\"", "\"b\"", false},
        {"[1,[2]]", "[ 1, [2.0] ]", true},
        {"[1,2]", "[2,1]", false},
        {"[1]", "[1,1]", false},
        {"{\"a\":1,\"b\":{}}", "{\"b\":{},\"\\u0061\":1}", true},
        {"{\"a\":1}", "{\"a\":1,\"b\":2}", false},
        {"{\"a\":1,\"b\":2}", "{\"a\":1}", false},
        {"{\"a\":1,\"a\":2}", "{\"a\":2}", true},
        {"{\"a\\u0000\":1}", "{\"a\":1}", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_value a = scan(cases[i].a);
        struct json_value b = scan(cases[i].b);
        uint64_t steps = 10000;
        bool same;
        assert_int_equal(json_same(&a, &b, &steps, &same, NULL), 0);
        if (same != cases[i].same)
            fail_msg("%s and %s", cases[i].a, cases[i].b);
        assert_int_equal(json_same(&b, &a, &steps, &same, NULL), 0);
        assert_int_equal(same, cases[i].same);
    }
}

static int order(const char *a, const char *b)
{
    struct json_value x = scan(a);
    struct json_value y = scan(b);
    int at = 9;
    if (x.type == JSON_NUMBER)
        return json_number_order(&x, &y);
    assert_int_equal(json_string_order(&x, &y, &at, NULL), 0);
    return at;
}

static void test_order(void **state)
{
    BUFFER_AUTO digits = BUFFER_INIT;
    (void)state;
    assert_int_equal(order("\"a\"", "\"b\""), -1);
    assert_int_equal(order("\"a\"", "\"a\""), 0);
    assert_int_equal(order("\"ab\"", "\"a\""), 1);
    assert_int_equal(order("\"\"", "\"a\""), -1);
    assert_int_equal(order("\"\\u0062\"", "\"a\""), 1);
    assert_int_equal(order("\"\xef\xbf\xbd\"", "\"\xf0\x9f\x98\x80\""), 1); /* U+FFFD, U+1F600: UTF-16 */
    assert_int_equal(order("\"\xed\x9f\xbf\"", "\"\xf0\x9f\x98\x80\""), -1);
    assert_int_equal(order("9223372036854775806", "9223372036854775807"), -1);
    assert_int_equal(order("1.5", "1"), 1);
    assert_int_equal(order("-1e300", "1"), -1);
    assert_int_equal(order("-0", "0"), 0);
    for (int i = 0; i < 2000; i++)
        buffer_append_char(&digits, '1');
    buffer_append_text(&digits, "e-2000");
    assert_int_equal(order(buffer_text(&digits), "0.2"), -1);
    assert_int_equal(order(buffer_text(&digits), "0.1"), 1);
}

static void test_bounded(void **state)
{
    struct json_value value = scan("[[1,2,3],[4,5,6]]");
    uint64_t steps = 40;
    bool same;
    struct error err;
    (void)state;
    assert_int_equal(json_same(&value, &value, &steps, &same, &err), -1);
    assert_int_equal(err.code, ERROR_LIMIT);
    assert_int_equal(steps, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
