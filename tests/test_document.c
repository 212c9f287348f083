/* Documents: what is read of them, and what is said of members that are wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "worker/action/reply.h"
#include "worker/document/document.h"

static const char text[] = "{\"none\":null,\"text\":\"a${event.id}\",\"broken\":\"${event\",\"n\":3,"
                           "\"list\":[1],\"half\":0.5}";
static struct document document;

static int setup(void **state)
{
    struct json_value value;
    (void)state;
    return json_scan(text, sizeof text - 1, &value, NULL) < 0 || document_init(&document, &value, NULL) < 0;
}

static int teardown(void **state)
{
    (void)state;
    document_done(&document);
    return 0;
}

static void test_is_a_copy(void **state)
{
    (void)state;
    assert_string_equal(document.text, text);
    assert_ptr_not_equal(document.text, text);
    assert_ptr_equal(document.root.text, document.text);
    document_done(&document);
    document_done(&document);
    assert_null(document.text);
}

static void test_member(void **state)
{
    struct json_value value;
    (void)state;
    assert_true(document_member(&document.root, "n", &value));
    assert_false(document_member(&document.root, "none", &value));
    assert_int_equal(value.type, JSON_ABSENT);
    assert_false(document_member(&document.root, "other", &value));
    assert_int_equal(value.type, JSON_ABSENT);
}

static void test_template(void **state)
{
    struct json_value value;
    struct error err;
    (void)state;
    assert_int_equal(document_template(&document.root, "text", JSON_STRING, "a text", &value, &err), 0);
    assert_int_equal(value.type, JSON_STRING);
    assert_int_equal(document_template(&document.root, "list", JSON_ABSENT, "", &value, &err), 0);
    assert_int_equal(document_template(&document.root, "none", JSON_STRING, "a text", &value, &err), 0);
    assert_int_equal(value.type, JSON_ABSENT);
    assert_int_equal(document_template(&document.root, "n", JSON_STRING, "a text", &value, &err), -1);
    assert_string_equal(err.message, "n is 3, not a text");
    assert_int_equal(document_template(&document.root, "broken", JSON_STRING, "a text", &value, &err), -1);
    assert_memory_equal(err.message, "broken: ", 8);
}

static void test_count(void **state)
{
    int64_t n = 9;
    struct error err;
    (void)state;
    assert_int_equal(document_count(&document.root, "none", 0, 1, "a bit", &n, &err), 0);
    assert_int_equal(n, 9);
    assert_int_equal(document_count(&document.root, "n", 4, 9, "4 to 9", &n, &err), -1);
    assert_string_equal(err.message, "n is 3, not 4 to 9");
    assert_int_equal(document_count(&document.root, "half", 0, 9, "0 to 9", &n, &err), -1);
    assert_string_equal(err.message, "half is 0.5, not 0 to 9");
    assert_int_equal(n, 9);
    assert_int_equal(document_count(&document.root, "n", 3, 3, "3", &n, &err), 0);
    assert_int_equal(n, 3);
}

static void test_wrong(void **state)
{
    struct json_value value;
    struct error err;
    (void)state;
    json_member(&document.root, "other", &value);
    assert_int_equal(document_wrong("other", &value, "a list", &err), -1);
    assert_string_equal(err.message, "other is missing");
    json_member(&document.root, "none", &value);
    document_wrong("none", &value, "a list", &err);
    assert_string_equal(err.message, "none is null, not a list");
    assert_int_equal(err.code, ERROR_INVALID);
}

static void test_reply_needs_an_event(void **state)
{
    static const struct {
        const char *text;
        bool standard;
        int result;
    } cases[] = {
        {"{\"reply_type\":\"t\"}", true, 0},
        {"{\"reply_type\":\"t\"}", false, -1},
        {"{\"reply\":null,\"reply_subject\":\"s\"}", true, 0},
        {"{\"reply\":null,\"reply_subject\":\"s\"}", false, -1},
        {"{\"reply\":\"event\",\"reply_subject\":\"s\"}", false, 0},
        {"{\"reply\":\"ignore\",\"reply_subject\":\"s\"}", true, -1},
        {"{\"reply\":\"ignore\",\"subject\":\"s\"}", true, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_value value;
        struct error err = {0};
        assert_int_equal(json_scan(cases[i].text, strlen(cases[i].text), &value, NULL), 0);
        assert_int_equal(reply_check(&value, cases[i].standard, &err), cases[i].result);
        assert_string_equal(err.message,
                            cases[i].result ? "reply_type and reply_subject need reply: event" : "");
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_is_a_copy), TEST(test_member), TEST(test_template),
        TEST(test_count),     TEST(test_wrong),  cmocka_unit_test(test_reply_needs_an_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
