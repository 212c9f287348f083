/* The actions of a DAG's triggers: what they record when they fire, by the checker's trials; which triggers
 * are refused when they are registered; and which invocation a key belongs to. What comes of it is in
 * integration/test_dag.c. */
#include "worker/action/invoke.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "worker/action/action.h"
#include "worker/check.h"
#include "worker/shard/firing.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/shard/trigger.h"

#define URL "\"url\":\"http://127.0.0.1:1/api/v1/namespaces/_/actions/f\""
#define STARTED(n)                                                                                          \
    "{\"triggers_of\":{\"type\":\"event.triggerflow.termination.success\",\"subject\":\"task\"},\"write\":" \
    "{\"task\":\"task\",\"started\":" n "}}"
#define EVENT "{\"specversion\":\"1.0\",\"id\":\"i\",\"source\":\"s\",\"type\":\"t\",\"subject\":\"s\"%s}"

/* The answer to a trial of a trigger with this action and context. */
static void try(const char *action, const char *context, const char *event_more, struct buffer *out)
{
    BUFFER_AUTO request = BUFFER_INIT;
    buffer_printf(&request,
                  "{\"check\":\"test\",\"workspace\":\"w\",\"creation\":\"1.5\",\"trigger\":{\"id\":\"task\","
                  "\"uuid\":\"u\",\"condition\":{\"name\":\"TRUE\"},\"action\":%s,\"context\":%s,"
                  "\"activation_events\":[{\"type\":\"t\",\"subject\":\"s\"}]},\"event\":" EVENT "}",
                  action, context, event_more);
    check_answer(buffer_text(&request), request.len, out);
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no %s in %s", part, text);
}

static void test_fires(void **state)
{
    (void)state;
    static const struct {
        const char *action, *context;
        const char *parts[3];
    } rows[] = {
        {"{\"name\":\"IBM_CF_INVOKE\"}",
         "{\"operator\":{" URL ",\"invoke_kwargs\":{\"a\":1,\"b\":\"x\"},\"iter_data\":{}}}",
         {STARTED("1"), "\"payload\":{\"a\":1,\"b\":\"x\"}"}},
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"subject\":\"task\"," URL "}", {STARTED("1"), "\"payload\":{}"}},
        {"{\"name\":\"IBM_CF_INVOKE\"}",
         "{\"operator\":{" URL ",\"iter_data\":{\"x\":[1,\"2\",{}]},\"sink\":{\"class\":\"c\"}}}",
         {STARTED("3"), "\"over\":\"x\",\"sink\":{\"class\":\"c\"}", "\"elements\":[1,\"2\",{}]"}},
        {"{\"name\":\"IBM_CF_INVOKE\"}",
         "{\"operator\":{" URL ",\"iter_data\":{\"x\":[7]}}}",
         {STARTED("1"), "\"over\":\"x\",\"element\":7"}},
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"operator\":{" URL ",\"iter_data\":{\"x\":[]}}}", {STARTED("0")}},
        {"{\"name\":\"IBM_CF_INVOKE\"}",
         "{\"result\":[{\"n\":[1,2]},{\"n\":[3]}],\"operator\":{" URL
         ",\"iter_data\":{\"x\":\"$[*].n[*]\"},\"invoke_kwargs\":{\"y\":\"$[0].n\",\"z\":\"$[5]\"}}}",
         {STARTED("3"), "\"elements\":[1,2,3]", "\"payload\":{\"y\":[[1,2]],\"z\":[]}"}},
        {"{\"name\":\"IBM_CF_INVOKE\",\"max_retries\":9}",
         "{\"max_retries\":7,\"operator\":{" URL ",\"timeout_s\":2}}",
         {"\"policy\":{", "7", "2"}},
        {"{\"name\":\"AWS_LAMBDA_INVOKE\"}",
         "{\"operator\":{\"function_name\":\"f\",\"region\":\"eu-west-3\"}}",
         {STARTED("1"),
          "\"url\":\"https://lambda.eu-west-3.amazonaws.com/2015-03-31/functions/f/invocations\"",
          "\"region\":\"eu-west-3\""}},
        {"{\"name\":\"AWS_LAMBDA_INVOKE\"}",
         "{\"operator\":{\"function_name\":\"arn:aws:lambda:us-east-1:123456789012:function:f:2\","
         "\"endpoint\":\"http://127.0.0.1:9/\"}}",
         {"\"url\":\"http://127.0.0.1:9/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3A"
          "function%3Af%3A2/invocations\"",
          "\"region\":\"us-east-1\""}},
        {"{\"name\":\"AWS_LAMBDA_INVOKE\",\"region_name\":\"cn-north-1\"}",
         "{\"operator\":{\"function_name\":\"f\"}}",
         {"\"url\":\"https://lambda.cn-north-1.amazonaws.com.cn/2015-03-31/functions/f/invocations\""}},
        {"{\"name\":\"THROTTLE_IBMCF_FUNCTION\"}",
         "{\"prewarm\":{\"http://a/\":4,\"http://b/\":1,\"http://c/\":0}}",
         {"\"elements\":[\"http://a/\",\"http://a/\",\"http://a/\",\"http://a/\",\"http://a/\",\"http://b/"
          "\"]"}},
        {"{\"name\":\"DAG_DUMMY_TASK\"}",
         "{\"subject\":\"task\"}",
         {STARTED("1"), "\"type\":\"event.triggerflow.termination.success\""}},
        {"{\"name\":\"DAG_TASK_FAILURE_HANDLER\"}",
         "{\"n_failures\":4,\"failures\":[{\"subject\":\"x\"}]}",
         {"\"n_failures\":5", "\"failures\":[{\"subject\":\"x\"},{\"subject\":\"s\",\"time\":\""}},
        {"{\"name\":\"DAG_TASK_RETRY_HANDLER\"}",
         "{\"retries\":{\"s\":2,\"t\":9}}",
         {"\"retries\":{\"s\":3,\"t\":9}", "{\"trigger\":\"s\",\"write\":{\"repeat\":{}}}"}},
        {"{\"name\":\"DAG_TASK_RETRY_HANDLER\"}",
         "{\"max_retries\":0}",
         {"\"subject\":\"s\"},\"write\":{\"task\":\"s\",\"failed\":1}",
          "\"error\":\"task s has failed again after 0 retries\""}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        try(rows[i].action, rows[i].context, "", &out);
        for (size_t j = 0; j < 3 && rows[i].parts[j]; j++)
            assert_has(buffer_text(&out), rows[i].parts[j]);
    }
}

/* What is found out only when the trigger fires: the event becomes a dead letter, and nobody is told. */
static void test_cannot_fire(void **state)
{
    (void)state;
    static const struct {
        const char *action, *context, *error;
    } rows[] = {
        {"IBM_CF_INVOKE", "{\"operator\":{}}", "the operator has no url"},
        {"IBM_CF_INVOKE", "{\"operator\":{\"url\":7}}", "the operator's url is a number, not a text"},
        {"IBM_CF_INVOKE", "{\"operator\":[]}", "context.operator is an array, not an object"},
        {"IBM_CF_INVOKE", "{\"subject\":7," URL "}", "context.subject is a number, not a string"},
        {"IBM_CF_INVOKE", "{" URL ",\"invoke_kwargs\":[]}",
         "the operator's invoke_kwargs is an array, not an object"},
        {"IBM_CF_INVOKE", "{" URL ",\"iter_data\":[1]}",
         "the operator's iter_data is an array, not an object"},
        {"IBM_CF_INVOKE", "{" URL ",\"iter_data\":{\"x\":1}}",
         "the operator's iter_data.x is a number, not an array"},
        {"IBM_CF_INVOKE", "{" URL ",\"invoke_kwargs\":{\"x\":\"$[\"}}", "invoke_kwargs.x: "},
        {"IBM_CF_INVOKE", "{" URL ",\"max_retries\":\"x\"}", "max_retries"},
        {"AWS_LAMBDA_INVOKE", "{\"operator\":{\"function_name\":\"\",\"region\":\"r\"}}",
         "function_name has 0 bytes"},
        {"AWS_LAMBDA_INVOKE", "{\"operator\":{\"function_name\":\"f\",\"region\":\"a/b\"}}",
         "region a/b is not the name of one"},
        {"THROTTLE_IBMCF_FUNCTION", "{}", "context.prewarm is missing or not an object"},
        {"THROTTLE_IBMCF_FUNCTION", "{\"prewarm\":{\"http://a/\":-1}}", "context.prewarm has -1"},
        {"THROTTLE_IBMCF_FUNCTION", "{\"prewarm\":{\"http://a/\":10000,\"http://b/\":1}}",
         "context.prewarm asks for more than 10000 invocations"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char action[64];
        BUFFER_AUTO out = BUFFER_INIT;
        snprintf(action, sizeof action, "{\"name\":\"%s\"}", rows[i].action);
        try(action, rows[i].context, "", &out);
        assert_has(buffer_text(&out), "\"effects\":[],\"error\":\"");
        assert_has(buffer_text(&out), rows[i].error);
    }
}

static void test_retry_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *data, *part;
    } rows[] = {
        {"\"a\"", "\"effects\":[{\"trigger\":\"a\",\"write\":{\"repeat\":{}}}]"},
        {"[\"a\",\"b\"]",
         "{\"trigger\":\"a\",\"write\":{\"repeat\":{}}},{\"trigger\":\"b\",\"write\":{\"repeat\":{}}}"},
        {"{\"subject\":\"a\"}", "{\"trigger\":\"a\",\"write\":{\"repeat\":{}}}"},
        {"7", "the event's data names a task by a number, not a string"},
        {"{}", "the event's data names a task by an object, not a string"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO request = BUFFER_INIT;
        BUFFER_AUTO out = BUFFER_INIT;
        buffer_printf(
            &request,
            "{\"check\":\"test\",\"trigger\":{\"id\":\"r\",\"condition\":{\"name\":\"TRUE\"},"
            "\"action\":{\"name\":\"DAG_TASK_RETRY_HANDLER\"},\"activation_events\":[{\"type\":\"t\","
            "\"subject\":\"__retry__\"}]},\"event\":{\"specversion\":\"1.0\",\"id\":\"i\",\"source\":"
            "\"s\",\"type\":\"t\",\"subject\":\"__retry__\",\"data\":%s}}",
            rows[i].data);
        check_answer(buffer_text(&request), request.len, &out);
        assert_has(buffer_text(&out), rows[i].part);
    }
}

static void test_registration(void **state)
{
    (void)state;
    static const struct {
        const char *action, *context, *reason; /* NULL: accepted */
    } rows[] = {
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"operator\":null}", NULL},
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"operator\":{\"url\":\"u\",\"api_key\":\"k\"}}", NULL},
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"operator\":7}", "context.operator is a number, not an object"},
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"operator\":{\"url\":\"\"}}",
         "context.operator.url is empty, not a text"},
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"operator\":{\"api_key\":[]}}",
         "context.operator.api_key is an array, not a text"},
        {"{\"name\":\"IBM_CF_INVOKE\"}", "{\"operator\":{\"iter_data\":[]}}",
         "context.operator.iter_data is an array, not an object"},
        {"{\"name\":\"IBM_CF_INVOKE\",\"rate\":-1}", "{}", "rate"},
        {"{\"name\":\"IBM_CF_INVOKE\",\"url\":\"u\"}", "{}", "unknown parameter url"},
        {"{\"name\":\"AWS_LAMBDA_INVOKE\",\"region\":\"r\"}", "{\"operator\":{\"function_name\":\"f\"}}",
         NULL},
        {"{\"name\":\"AWS_LAMBDA_INVOKE\"}", "{\"operator\":{\"function_name\":1}}",
         "context.operator.function_name is a number, not a text"},
        {"{\"name\":\"THROTTLE_IBMCF_FUNCTION\"}", "{}", NULL},
        {"{\"name\":\"DAG_DUMMY_TASK\",\"x\":1}", "{}", "unknown parameter x"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct json_value value;
        struct error err;
        BUFFER_AUTO trigger = BUFFER_INIT;
        buffer_printf(&trigger,
                      "{\"id\":\"t\",\"condition\":{\"name\":\"TRUE\"},\"action\":%s,\"context\":%s,"
                      "\"activation_events\":[]}",
                      rows[i].action, rows[i].context);
        assert_int_equal(json_scan(trigger.data, trigger.len, &value, NULL), 0);
        int r = check_trigger(&value, &err);
        assert_int_equal(r, rows[i].reason ? -1 : 0);
        if (r)
            assert_has(err.message, rows[i].reason);
    }
}

/* What is sent of an intent, and that its own metadata and argument win. */
static void test_payload(void **state)
{
    (void)state;
    static const struct {
        const char *more, *body, *sent;
    } rows[] = {
        {"", "{\"subject\":\"t\",\"payload\":{\"a\":1}}",
         "{\"a\":1,\"__OW_TRIGGERFLOW\":{\"subject\":\"t\",\"key\":\"k\"}}"},
        {"", "{\"subject\":\"t\",\"payload\":{},\"sink\":{\"c\":1}}",
         "{\"__OW_TRIGGERFLOW\":{\"subject\":\"t\",\"sink\":{\"c\":1},\"key\":\"k\"}}"},
        {",\"index\":1,\"element\":[2]", "{\"subject\":\"t\",\"payload\":{\"x\":0,\"y\":1},\"over\":\"x\"}",
         "{\"y\":1,\"x\":[2],\"__OW_TRIGGERFLOW\":{\"subject\":\"t\",\"key\":\"k\"}}"},
        {"", "{\"subject\":\"t\",\"payload\":{\"__OW_TRIGGERFLOW\":1},\"over\":\"x\",\"element\":\"v\"}",
         "{\"x\":\"v\",\"__OW_TRIGGERFLOW\":{\"subject\":\"t\",\"key\":\"k\"}}"},
        {"", "{}", "{\"__OW_TRIGGERFLOW\":{\"subject\":null,\"key\":\"k\"}}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct invocation invocation = {.executor = NULL};
        struct error err;
        BUFFER_AUTO document = BUFFER_INIT;
        BUFFER_AUTO out = BUFFER_INIT;
        buffer_printf(&document,
                      "{\"key\":\"k\",\"trigger\":\"t\",\"action\":\"IBM_CF_INVOKE\",\"body\":%s%s}",
                      rows[i].body, rows[i].more);
        assert_int_equal(intent_load("f", 1, document.data, document.len, &invocation.intent, &err), 0);
        assert_true(intent_body(invocation.intent, &invocation.body));
        invoke_payload(&invocation, &out);
        assert_string_equal(buffer_text(&out), rows[i].sent);
        intent_free(invocation.intent);
    }
}

static void test_find_key(void **state)
{
    (void)state;
    struct trigger trigger = {.identity = (char[]){"u"}, .identity_len = 1};
    struct firing earlier = {.trigger = &trigger, .creation = "1.5", .number = 3};
    struct firing firing = {.trigger = &trigger, .creation = "1.5", .number = 9};
    char key[ACTION_KEY_MAX];
    uint32_t element = 99;
    firing_key(&earlier, 4, key);
    assert_true(firing_find_key(&firing, key, 5, &element));
    assert_int_equal(element, 4);
    assert_false(firing_find_key(&firing, key, 4, &element));
    struct firing later = {.trigger = &trigger, .creation = "1.5", .number = 150000};
    firing_key(&earlier, 999999, key); /* of many, and many were started again since */
    assert_true(firing_find_key(&later, key, 1000000, &element));
    assert_int_equal(element, 999999);
    firing_key(&firing, 0, key); /* of this firing itself */
    assert_false(firing_find_key(&firing, key, 5, &element));
    assert_false(firing_find_key(&firing, "0123", 5, &element));
    assert_false(firing_find_key(&firing, "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", 5, &element));
    earlier.creation = "1.6";
    firing_key(&earlier, 0, key);
    assert_false(firing_find_key(&firing, key, 5, &element));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fires),         cmocka_unit_test(test_cannot_fire),
        cmocka_unit_test(test_retry_by_name), cmocka_unit_test(test_registration),
        cmocka_unit_test(test_payload),       cmocka_unit_test(test_find_key),
    };
    unsetenv("AWS_REGION");
    unsetenv("AWS_DEFAULT_REGION");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
