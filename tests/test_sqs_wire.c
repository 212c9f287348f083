/* Answers of SQS: what they hold, and what is no answer. */
#include "worker/source/sqs_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"

static void test_messages(void **state)
{
    static const char text[] =
        "{\"Messages\":[{\"MessageId\":\"m1\",\"ReceiptHandle\":\"r1\",\"Body\":\"{\\\"a\\\":1}\","
        "\"Attributes\":{\"SentTimestamp\":\"1700000000123\"}},"
        "{\"MessageId\":\"m2\",\"ReceiptHandle\":\"r2\",\"Body\":\"\",\"Attributes\":{\"SentTimestamp\":5}}]"
        "}";
    struct sqs_message m[SQS_BATCH];
    size_t n;
    (void)state;
    assert_int_equal(sqs_wire_messages(text, strlen(text), m, &n, NULL), 0);
    assert_int_equal(n, 2);
    assert_true(json_equals(&m[0].id, "m1", 2));
    assert_true(json_equals(&m[1].receipt, "r2", 2));
    assert_true(json_equals(&m[0].body, "{\"a\":1}", 7));
    assert_int_equal(m[0].sent_ms, 1700000000123);
    assert_int_equal(m[1].sent_ms, 0);
}

static void test_no_messages(void **state)
{
    static const char *const texts[] = {"", "{}", "{\"Messages\":null}", "{\"Messages\":[]}"};
    struct sqs_message m[SQS_BATCH];
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        size_t n = 1;
        assert_int_equal(sqs_wire_messages(texts[i], strlen(texts[i]), m, &n, NULL), 0);
        assert_int_equal(n, 0);
    }
}

#define MESSAGE "{\"MessageId\":\"m\",\"ReceiptHandle\":\"r\",\"Body\":\"\"},"

static void test_no_answer(void **state)
{
    static const char *const texts[] = {
        "<xml/>",
        "[]",
        "{\"Messages\":{}}",
        "{\"Messages\":[5]}",
        "{\"Messages\":[{}]}",
        "{\"Messages\":[{\"MessageId\":\"m\",\"ReceiptHandle\":\"r\"}]}",
        "{\"Messages\":[{\"MessageId\":\"\",\"ReceiptHandle\":\"r\",\"Body\":\"\"}]}",
        "{\"Messages\":[{\"MessageId\":\"m\",\"ReceiptHandle\":\"r\",\"Body\":5}]}",
        "{\"Messages\":[" MESSAGE MESSAGE MESSAGE MESSAGE MESSAGE MESSAGE MESSAGE MESSAGE MESSAGE MESSAGE
        "{}]}",
    };
    struct sqs_message m[SQS_BATCH];
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct error err;
        size_t n;
        assert_int_equal(sqs_wire_messages(texts[i], strlen(texts[i]), m, &n, &err), -1);
        assert_int_equal(err.code, ERROR_UNAVAILABLE);
    }
}

static void test_results(void **state)
{
    static const char text[] = "{\"Successful\":[{\"Id\":\"0\"},{\"Id\":\"9\"},{\"Id\":\"x\"},5],\"Failed\":["
                               "{\"Id\":\"1\",\"Code\":\"A\","
                               "\"SenderFault\":true,\"Message\":\"line\\nmore\"},{\"Id\":\"2\",\"Code\":"
                               "\"B\",\"SenderFault\":false}]}";
    struct sqs_result r[SQS_BATCH];
    (void)state;
    assert_int_equal(sqs_wire_results(text, strlen(text), 4, r, NULL), 0);
    assert_int_equal(r[0].outcome, SQS_SUCCEEDED);
    assert_int_equal(r[1].outcome, SQS_FAULTY);
    assert_string_equal(r[1].code, "A");
    assert_string_equal(r[1].message, "line");
    assert_int_equal(r[2].outcome, SQS_FAILED);
    assert_int_equal(r[3].outcome, SQS_UNKNOWN);
    assert_int_equal(r[9].outcome, SQS_UNKNOWN); /* there was none */
    assert_int_equal(sqs_wire_results("{}", 2, 4, r, NULL), 0);
    assert_int_equal(r[0].outcome, SQS_UNKNOWN);
    assert_int_equal(sqs_wire_results("", 0, 4, r, NULL), -1);
    assert_int_equal(sqs_wire_results("{\"Failed\":{}}", 13, 4, r, NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_no_messages),
        cmocka_unit_test(test_no_answer),
        cmocka_unit_test(test_results),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
