/* Bodies of SQS messages: CloudEvents and Lambda's destination records. */
#include "worker/source/sqs_event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"

static struct buffer scratch;
static struct cloudevent event;

static int read_body(const char *body, struct error *err)
{
    buffer_reset(&scratch, 0);
    return sqs_event_read(&event, body, strlen(body), &scratch, err);
}

static void assert_attribute(enum cloudevent_attribute attribute, const char *text)
{
    const struct cloudevent_span *a = &event.attribute[attribute];
    if (!text) {
        assert_null(a->text);
        return;
    }
    if (!a->text || a->len != strlen(text) || memcmp(a->text, text, a->len) != 0)
        fail_msg("%s is %.*s, not %s", cloudevent_attribute_name(attribute), (int)a->len,
                 a->text ? a->text : "", text);
}

static void good(const char *body)
{
    struct error err;
    if (read_body(body, &err) < 0)
        fail_msg("%s: %s", body, err.message);
}

static void test_cloudevent(void **state)
{
    (void)state;
    good("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t\",\"subject\":\"\\u00e9\","
         "\"requestContext\":\"extension\",\"data\":{\"a\":1}}");
    assert_attribute(CE_ID, "1");
    assert_attribute(CE_SUBJECT, "\u00e9");
    assert_attribute(CE_DATA, "{\"a\":1}");
    assert_int_equal(event.data, CE_DATA_JSON);
}

static void test_record(void **state)
{
    (void)state;
    good(
        "{\"version\":\"1.0\",\"timestamp\":\"2020-10-20T13:00:00.000Z\",\"requestContext\":{\"requestId\":"
        "\"r-1\",\"functionArn\":\"arn:aws:lambda:eu-west-1:1:function:f:$LATEST\",\"condition\":\"Success\","
        "\"approximateInvokeCount\":1},\"requestPayload\":{\"__TRIGGERFLOW_SUBJECT\":\"other\"},"
        "\"responseContext\":{\"statusCode\":200},"
        "\"responsePayload\":{\"x\":[1,{\"__TRIGGERFLOW_SUBJECT\":1}],\"__TRIGGERFLOW_SUBJECT\":"
        "\"t\\u00e4sk\","
        "\"y\\\"\":\"z\"}}");
    assert_attribute(CE_SPECVERSION, "1.0");
    assert_attribute(CE_ID, "r-1");
    assert_attribute(CE_SOURCE, "arn:aws:lambda:eu-west-1:1:function:f:$LATEST");
    assert_attribute(CE_TYPE, "lambda.success");
    assert_attribute(CE_SUBJECT, "t\u00e4sk");
    assert_attribute(CE_TIME, "2020-10-20T13:00:00.000Z");
    assert_attribute(CE_DATACONTENTTYPE, "application/json");
    assert_attribute(CE_DATA, "{\"x\":[1,{\"__TRIGGERFLOW_SUBJECT\":1}],\"y\\\"\":\"z\"}");
    assert_int_equal(event.data, CE_DATA_JSON);
}

static void test_failed_function(void **state)
{
    (void)state;
    good("{\"requestContext\":{\"requestId\":\"r\",\"functionArn\":\"f\",\"condition\":\"RetriesExhausted\"},"
         "\"requestPayload\":{\"__TRIGGERFLOW_SUBJECT\":\"task\",\"__TRIGGERFLOW_KEY\":\"k1\"},"
         "\"responsePayload\":{\"errorMessage\":\"no\"}}");
    assert_attribute(CE_TYPE, "lambda.failure");
    assert_attribute(CE_SUBJECT, "task");
    assert_attribute(CE_KEY, "k1");
    assert_attribute(CE_TIME, NULL);
    assert_attribute(CE_DATA, "{\"errorMessage\":\"no\"}");
    good("{\"requestContext\":{\"requestId\":\"r\",\"functionArn\":\"f\"},\"requestPayload\":5}");
    assert_attribute(CE_TYPE, "lambda.failure");
    assert_attribute(CE_SUBJECT, NULL);
    assert_int_equal(event.data, CE_DATA_ABSENT);
}

static void test_other_payloads(void **state)
{
    static const char *const payloads[][2] = {{"\"te\\u0078t\"", "\"te\\u0078t\""},
                                              {"[1,2]", "[1,2]"},
                                              {"5", "5"},
                                              {"{}", "{}"},
                                              {"{\"__TRIGGERFLOW_SUBJECT\":null,\"a\":1}", "{\"a\":1}"}};
    (void)state;
    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        BUFFER_AUTO body = BUFFER_INIT;
        buffer_printf(
            &body,
            "{\"requestContext\":{\"requestId\":\"r\",\"functionArn\":\"f\",\"condition\":\"Success\"},"
            "\"responsePayload\":%s}",
            payloads[i][0]);
        good(buffer_text(&body));
        assert_attribute(CE_DATA, payloads[i][1]);
        assert_attribute(CE_SUBJECT, NULL);
    }
}

static void test_refused(void **state)
{
    static const char *const bodies[] = {
        "",
        "text",
        "{",
        "[]",
        "5",
        "{}",
        "{\"specversion\":\"1.0\",\"id\":\"1\",\"type\":\"t\"}",
        "{\"specversion\":\"1.0\",\"id\":\"\",\"source\":\"s\",\"type\":\"t\"}",
        "{\"requestContext\":{}}",
        "{\"requestContext\":{\"requestId\":\"r\"}}",
        "{\"requestContext\":{\"requestId\":1,\"functionArn\":\"f\"}}",
        "{\"requestContext\":{\"requestId\":\"r\",\"functionArn\":\"f\"},\"timestamp\":1}",
        "{\"requestContext\":{\"requestId\":\"r\",\"functionArn\":\"f\"},"
        "\"responsePayload\":{\"__TRIGGERFLOW_SUBJECT\":{}}}",
        "\xff",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct error err;
        if (read_body(bodies[i], &err) == 0)
            fail_msg("taken: %s", bodies[i]);
        assert_int_equal(err.code, ERROR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cloudevent),      cmocka_unit_test(test_record),
        cmocka_unit_test(test_failed_function), cmocka_unit_test(test_other_payloads),
        cmocka_unit_test(test_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    buffer_done(&scratch);
    return failed;
}
