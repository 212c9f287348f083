/* JSON Merge Patch: the examples of RFC 7396, appendix A, and what it leaves open. */
#include "common/json_patch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"

static void assert_patched(const char *target, const char *patch, const char *expected)
{
    struct json_value from, with, result;
    BUFFER_AUTO out = BUFFER_INIT;
    assert_int_equal(json_scan(target, strlen(target), &from, NULL), 0);
    assert_int_equal(json_scan(patch, strlen(patch), &with, NULL), 0);
    json_patch(&from, &with, &out);
    assert_string_equal(buffer_text(&out), expected);
    assert_int_equal(json_scan(out.data, out.len, &result, NULL), 0);
}

static void test_rfc(void **state)
{
    static const char *const cases[][3] = {
        {"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}"},
        {"{\"a\":\"b\"}", "{\"a\":null}", "{}"},
        {"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
        {"{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
        {"{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}"},
        {"{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}", "{\"a\":{\"b\":\"d\"}}"},
        {"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
        {"[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]"},
        {"{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]"},
        {"{\"a\":\"foo\"}", "null", "null"},
        {"{\"a\":\"foo\"}", "\"bar\"", "\"bar\""},
        {"{\"e\":null}", "{\"a\":1}", "{\"e\":null,\"a\":1}"},
        {"[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}"},
        {"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_patched(cases[i][0], cases[i][1], cases[i][2]);
}

/* Names are compared unescaped; of duplicates in the patch the last one holds. */
static void test_names(void **state)
{
    (void)state;
    assert_patched("{\"\\u0061\":1,\"b\":2}", "{\"a\":3}", "{\"\\u0061\":3,\"b\":2}");
    assert_patched("{\"a\\u0000x\":1}", "{\"a\":2}", "{\"a\\u0000x\":1,\"a\":2}");
    assert_patched("{\"b\":0}", "{\"a\":1,\"a\":2,\"b\":1,\"b\":null}", "{\"a\":2}");
    assert_patched("{\"\":0}", "{\"\":1}", "{\"\":1}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
