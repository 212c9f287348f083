/* What `triggerflow-worker --check` says of triggers, event sources and trials. */
#include "worker/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/action/action.h"
#include "worker/condition/condition.h"

#define EVENTS "\"activation_events\":[{\"type\":\"a\",\"subject\":\"s\"}]"
#define PASS "\"action\":{\"name\":\"PASS\"}"
#define TRUE_ "\"condition\":{\"name\":\"TRUE\"}"

static void ask(const char *request, struct buffer *out)
{
    struct json_value root;
    check_answer(request, strlen(request), out);
    assert_int_equal(json_scan(out->data, out->len, &root, NULL), 0);
    assert_null(memchr(out->data, '\n', out->len));
}

static void assert_answer(const char *request, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    ask(request, &out);
    assert_string_equal(buffer_text(&out), expected);
}

/* A trigger, and the reason for which it is refused; NULL: it is accepted. */
static void assert_trigger(const char *trigger, const char *reason)
{
    BUFFER_AUTO request = BUFFER_INIT;
    BUFFER_AUTO expected = BUFFER_INIT;
    buffer_printf(&request, "{\"check\":\"triggers\",\"triggers\":[%s]}", trigger);
    buffer_append_text(&expected, "{\"results\":[");
    if (reason)
        buffer_append_json(&expected, reason, strlen(reason));
    else
        buffer_append_text(&expected, "null");
    buffer_append_text(&expected, "]}");
    assert_answer(buffer_text(&request), buffer_text(&expected));
}

static void test_triggers_accepted(void **state)
{
    (void)state;
    static const char *const accepted[] = {
        "{\"id\":\"t\"," TRUE_ "," PASS ",\"context\":{}," EVENTS ",\"transient\":true}",
        /* As the original client sends it. */
        "{\"id\":null," TRUE_ "," PASS ",\"context\":{},\"context_parser\":null,\"activation_events\":[],"
        "\"transient\":false}",
        "{" TRUE_ "," PASS "," EVENTS "}",
        "{\"id\":\"t\"," TRUE_ "," PASS
        ",\"more\":[1],\"uuid\":\"u\",\"activation_events\":[{\"type\":\"a\"},"
        "{\"type\":\"*\",\"subject\":null,\"id\":7}]}",
        "{\"id\":\"t\",\"condition\":{\"name\":\"JOIN\"}," PASS ",\"context\":{\"join\":1e3,\"x\":{}}," EVENTS
        "}",
        "{\"id\":\"t\",\"condition\":{\"name\":\"FUNCTION_JOIN\"}," PASS ",\"context\":{}," EVENTS "}",
        "{\"id\":\"t\",\"condition\":{\"name\":\"FUNCTION_JOIN\"}," PASS
        ",\"context\":{\"total_activations\":-1}," EVENTS "}",
        "{\"id\":\"t\",\"condition\":{\"name\":\"COUNTER_THRESHOLD\"}," PASS
        ",\"context\":{\"threshold\":1,\"counter\":3}," EVENTS "}",
        "{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"EMIT\",\"event\":{\"type\":\"x\",\"subject\":\"\","
        "\"data\":null},\"event_source\":null}," EVENTS "}",
        "{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"EMIT\",\"event\":{\"type\":\"x\"},\"event_source\":{"
        "\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"stream\":\"s\"}}}," EVENTS "}",
        "{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"EMIT\",\"event\":{\"type\":\"x\"},\"event_source\":{"
        "\"class\":\"InternalEventSource\"}}," EVENTS "}",
    };
    for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++)
        assert_trigger(accepted[i], NULL);
}

static void test_triggers_refused(void **state)
{
    (void)state;
    static const struct {
        const char *trigger, *reason;
    } rows[] = {
        {"[]", "is an array, not an object"},
        {"{\"id\":7," TRUE_ "," PASS "," EVENTS "}", "member id is 7, not a text"},
        {"{\"id\":\"\"," TRUE_ "," PASS "," EVENTS "}",
         "member id is \"\", not a text of 1 to 255 bytes without NUL"},
        {"{\"id\":\"a\\u0000\"," TRUE_ "," PASS "," EVENTS "}",
         "member id is \"a\\u0000\", not a text of 1 to 255 bytes without NUL"},
        {"{\"id\":\"t\"," PASS "," EVENTS "}", "member condition is missing"},
        {"{\"id\":\"t\",\"condition\":\"TRUE\"," PASS "," EVENTS "}",
         "member condition is \"TRUE\", not an object"},
        {"{\"id\":\"t\",\"condition\":{\"name\":[]}," PASS "," EVENTS "}",
         "condition: member name is [], not a plain string"},
        {"{\"id\":\"t\",\"condition\":{\"name\":\"PYTHON_CALLABLE\",\"callable\":\"gASV\"}," PASS "," EVENTS
         "}",
         "condition PYTHON_CALLABLE: Python functions cannot be run here"},
        {"{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"PYTHON_CALLABLE\",\"callable\":\"gASV\"}," EVENTS
         "}",
         "action PYTHON_CALLABLE: Python functions cannot be run here"},
        {"{\"id\":\"t\",\"condition\":{\"name\":\"TRUE\",\"join\":1}," PASS "," EVENTS "}",
         "condition TRUE: unknown parameter join"},
        {"{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"PASS\",\"x\":1}," EVENTS "}",
         "action PASS: unknown parameter x"},
        {"{\"id\":\"t\"," TRUE_ "," PASS ",\"context\":[]," EVENTS "}",
         "member context is [], not an object"},
        {"{\"id\":\"t\"," TRUE_ "," PASS ",\"transient\":1," EVENTS "}",
         "member transient is 1, not true or false"},
        {"{\"id\":\"t\"," TRUE_ "," PASS "}", "member activation_events is missing"},
        {"{\"id\":\"t\"," TRUE_ "," PASS ",\"activation_events\":[7]}",
         "member activation_events[] is 7, not an object"},
        {"{\"id\":\"t\"," TRUE_ "," PASS ",\"activation_events\":[{\"type\":\"\"}]}",
         "activation_events[0]: type is empty"},
        {"{\"id\":\"t\"," TRUE_ "," PASS ",\"activation_events\":[{\"type\":\"a\",\"subject\":[]}]}",
         "activation_events: member subject is [], not a string"},
        {"{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"HTTP_INVOKE\",\"url\":\"http://h/\",\"auth\":{"
         "\"bearer\":{\"file\":\"../x\"}}}," EVENTS "}",
         "action HTTP_INVOKE: auth.bearer: secret file ../x: not a name (letters, digits, dots, hyphens and "
         "underscores) in the secret_directory"},
        {"{\"id\":\"t\",\"condition\":{\"name\":\"COUNTER_THRESHOLD\"}," PASS
         ",\"context\":{\"threshold\":0}," EVENTS "}",
         "condition COUNTER_THRESHOLD: context.threshold is 0, not a positive whole number"},
        {"{\"id\":\"t\",\"condition\":{\"name\":\"FUNCTION_JOIN\"}," PASS
         ",\"context\":{\"total_activations\":-2}," EVENTS "}",
         "condition FUNCTION_JOIN: context.total_activations is -2, not a positive whole number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_trigger(rows[i].trigger, rows[i].reason);
}

/* The reason names all that there are. */
static void test_unknown_names(void **state)
{
    (void)state;
    BUFFER_AUTO condition = BUFFER_INIT;
    BUFFER_AUTO action = BUFFER_INIT;
    buffer_append_text(&condition, "unknown condition true; known: ");
    condition_names(&condition);
    assert_trigger("{\"id\":\"t\",\"condition\":{\"name\":\"true\"}," PASS "," EVENTS "}",
                   buffer_text(&condition));
    buffer_append_text(&action, "unknown action X; known: ");
    action_names(&action);
    assert_trigger("{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"X\"}," EVENTS "}", buffer_text(&action));
}

static void test_join_refused(void **state)
{
    (void)state;
    static const struct {
        const char *context, *reason;
    } rows[] = {
        {"{}", "condition JOIN: context.join is missing"},
        {"{\"join\":null}", "condition JOIN: context.join is missing"},
        {"{\"join\":0}", "condition JOIN: context.join is 0, not a positive whole number"},
        {"{\"join\":-3}", "condition JOIN: context.join is -3, not a positive whole number"},
        {"{\"join\":\"x\"}", "condition JOIN: context.join is \"x\", not a whole number"},
        {"{\"join\":1.5}", "condition JOIN: context.join is 1.5, not a whole number"},
        {"{\"join\":true}", "condition JOIN: context.join is true, not a whole number"},
        {"{\"join\":1e30}", "condition JOIN: context.join is 1e30, not a whole number"},
        {"{\"join\":5,\"counter\":-1}", "condition JOIN: context.counter is -1, below zero"},
        {"{\"join\":5,\"counter\":9223372036854775807}",
         "condition JOIN: context.counter is 9223372036854775807, too large"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO trigger = BUFFER_INIT;
        buffer_printf(&trigger,
                      "{\"id\":\"t\",\"condition\":{\"name\":\"JOIN\"}," PASS ",\"context\":%s," EVENTS "}",
                      rows[i].context);
        assert_trigger(buffer_text(&trigger), rows[i].reason);
    }
}

static void test_emit_refused(void **state)
{
    (void)state;
    static const struct {
        const char *members, *reason;
    } rows[] = {
        {"\"event\":7", "action EMIT: member event is missing or not an object"},
        {"\"event\":{\"type\":\"x\"},\"evnt\":1", "action EMIT: unknown parameter evnt"},
        {"\"event\":{\"type\":\"x\",\"Bad_name\":1}", NULL},
        {"\"event\":{\"type\":\"x\",\"specversion\":\"2.0\"}", NULL},
        {"\"event\":{\"type\":\"x\",\"time\":\"yesterday\"}", NULL},
        {"\"event\":{\"type\":\"x\"},\"event_source\":[]",
         "action EMIT: event_source is not the name of an event source"},
        {"\"event\":{\"type\":\"x\"},\"event_source\":{}",
         "action EMIT: event_source.class is missing or not a string"},
        {"\"event\":{\"type\":\"x\"},\"event_source\":{\"class\":\"Foo\"}",
         "action EMIT: event_source: class Foo cannot be published to"},
        {"\"event\":{\"type\":\"x\"},\"event_source\":{\"class\":\"RedisEventSource\",\"parameters\":{"
         "\"host\":\"h\",\"stream\":\"s\",\"topic\":\"t\"}}",
         "action EMIT: event_source: RedisEventSource: unknown parameter topic"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO trigger = BUFFER_INIT;
        BUFFER_AUTO request = BUFFER_INIT;
        BUFFER_AUTO out = BUFFER_INIT;
        buffer_printf(&trigger, "{\"id\":\"t\"," TRUE_ ",\"action\":{\"name\":\"EMIT\",%s}," EVENTS "}",
                      rows[i].members);
        if (rows[i].reason) {
            assert_trigger(buffer_text(&trigger), rows[i].reason);
            continue;
        }
        buffer_printf(&request, "{\"check\":\"triggers\",\"triggers\":[%s]}", buffer_text(&trigger));
        ask(buffer_text(&request), &out);
        assert_non_null(strstr(buffer_text(&out), "action EMIT: event: "));
    }
}

/* A quoted value is cut inside a character: the reason still is JSON. */
static void test_reason_is_text(void **state)
{
    (void)state;
    BUFFER_AUTO request = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append_text(&request, "{\"check\":\"triggers\",\"triggers\":[{\"id\":[\"a");
    for (int i = 0; i < 200; i++)
        buffer_append_text(&request, "\xe2\x82\xac");
    buffer_append_text(&request, "\"]}]}");
    ask(buffer_text(&request), &out);
    assert_non_null(strstr(buffer_text(&out), "?, not a text"));
}

static void test_sources(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *source, *result;
    } rows[] = {
        {"event_source",
         "{\"name\":\"a\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"port\":6379,\"db\":"
         "0,"
         "\"password\":null,\"stream\":\"s\",\"consume\":false}}",
         "null"},
        {"event_source", "7", "\"is a number, not an object\""},
        {"event_source", "{\"class\":\"RedisEventSource\",\"parameters\":{}}", "\"member name is missing\""},
        {"event_source", "{\"name\":\"a\"}", "\"member class is missing or not a string\""},
        {"event_source", "{\"name\":\"internal\",\"class\":\"RedisEventSource\",\"parameters\":{}}",
         "\"the name internal is that of the workflow's own event source\""},
        {"event_source", "{\"name\":\"\",\"class\":\"RedisEventSource\",\"parameters\":{}}",
         "\"member name is not a text of 1 to 255 bytes without NUL\""},
        {"event_source", "{\"name\":\"a\",\"class\":\"RedisEventSource\",\"parameters\":{},\"x\":1}",
         "\"unknown member x\""},
        {"event_source", "{\"name\":\"a\",\"class\":\"RedisEventSource\",\"parameters\":{\"stream\":\"s\"}}",
         "\"RedisEventSource: parameter host is missing\""},
        {"event_source",
         "{\"name\":\"a\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"port\":70000,"
         "\"stream\":\"s\"}}",
         "\"RedisEventSource: parameter port is 70000, not a number from 0 to 65535\""},
        {"event_source",
         "{\"name\":\"a\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"pasword\":"
         "\"secret\","
         "\"stream\":\"s\"}}",
         "\"RedisEventSource: unknown parameter pasword\""},
        {"event_source",
         "{\"name\":\"a\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"password\":"
         "[\"secret\"],\"stream\":\"s\"}}",
         "\"RedisEventSource: parameter password is not a string\""},
        {"target", "{}", "null"},
        {"target", "{\"name\":\"stored\"}", "null"},
        {"target", "{\"name\":\"x\",\"class\":\"InternalEventSource\"}", "null"},
        {"target", "{\"class\":\"HTTPEventSource\",\"parameters\":{}}", "null"},
        {"target", "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"stream\":\"s\"}}",
         "null"},
        {"target", "{\"class\":\"RedisEventSource\"}", "\"member parameters is missing or not an object\""},
        {"target", "[]", "\"is an array, not an object\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO request = BUFFER_INIT;
        BUFFER_AUTO expected = BUFFER_INIT;
        buffer_printf(&request, "{\"check\":\"%s\",\"event_source\":%s}", rows[i].kind, rows[i].source);
        buffer_printf(&expected, "{\"result\":%s}", rows[i].result);
        assert_answer(buffer_text(&request), buffer_text(&expected));
    }
    BUFFER_AUTO out = BUFFER_INIT;
    ask("{\"check\":\"event_source\",\"event_source\":{\"name\":\"a\",\"class\":\"Foo\",\"parameters\":{}}}",
        &out);
    assert_non_null(strstr(buffer_text(&out), "unknown class Foo; known: HTTPEventSource, "));
    assert_null(strstr(buffer_text(&out), "Internal"));
}

#define EVENT(more) \
    "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"u\",\"type\":\"a\",\"subject\":\"s\"" more "}"

static void assert_trial(const char *trigger, const char *event, const char *expected)
{
    BUFFER_AUTO request = BUFFER_INIT;
    buffer_printf(&request, "{\"check\":\"test\",\"trigger\":%s,\"event\":%s}", trigger, event);
    assert_answer(buffer_text(&request), expected);
}

static void test_trials(void **state)
{
    (void)state;
    static const char join[] = "{\"id\":\"t\",\"transient\":true,\"condition\":{\"name\":\"JOIN\"},"
                               "\"action\":{\"name\":\"TERMINATE\"},\"context\":{\"join\":2,\"counter\":1},"
                               "\"activation_events\":[{\"type\":\"a\",\"subject\":\"*\"}]}";
    static const char passed[] = "{\"id\":\"t\",\"condition\":{\"name\":\"JOIN\"}," PASS
                                 ",\"context\":{\"join\":2,\"counter\":2}," EVENTS "}";
    assert_trial(join, EVENT(""),
                 "{\"result\":{\"matched\":true,\"holds\":true,\"fires\":true,\"removed\":true,"
                 "\"detail\":\"counter 2 of join 2\",\"context\":{\"counter\":2,\"join\":2},"
                 "\"action\":{\"name\":\"TERMINATE\",\"effects\":[{\"finish\":true}]}}}");
    assert_trial(join, EVENT(",\"triggerflowkey\":\"k\""),
                 "{\"result\":{\"matched\":true,\"holds\":true,\"fires\":true,\"removed\":true,"
                 "\"detail\":\"counter 2 of join 2, if its triggerflowkey has not been counted yet\","
                 "\"context\":{\"counter\":2,\"join\":2},"
                 "\"action\":{\"name\":\"TERMINATE\",\"effects\":[{\"finish\":true}]}}}");
    assert_trial(passed, EVENT(""),
                 "{\"result\":{\"matched\":true,\"holds\":false,\"fires\":false,\"removed\":false,"
                 "\"detail\":\"counter 3 of join 2\",\"context\":{\"counter\":3,\"join\":2},"
                 "\"action\":{\"name\":\"PASS\",\"effects\":[]}}}");
    assert_trial(passed, "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"u\",\"type\":\"b\"}",
                 "{\"result\":{\"matched\":false,\"holds\":false,\"fires\":false,\"removed\":false,"
                 "\"detail\":\"no activation event has the event's type and subject\","
                 "\"context\":{\"counter\":2,\"join\":2},\"action\":{\"name\":\"PASS\",\"effects\":[]}}}");
    assert_trial("{\"id\":\"t\",\"activation_events\":[]," TRUE_ "}", EVENT(""),
                 "{\"error\":\"trigger: member action is missing\"}");
    assert_trial(passed, "{\"specversion\":\"1.0\",\"id\":\"1\",\"type\":\"b\"}",
                 "{\"error\":\"event: attribute source is missing\"}");
}

static void test_trial_emits(void **state)
{
    (void)state;
#define EMIT(source)                                                                                  \
    "{\"id\":\"t\",\"uuid\":\"u\",\"workspace\":\"w\"," TRUE_ ",\"action\":{\"name\":\"EMIT\"" source \
    ",\"event\":{\"type\":\"x\",\"time\":\"2020-10-20T13:00:00Z\"}}," EVENTS "}"
    static const struct {
        const char *trigger, *shown;
    } rows[] = {
        {EMIT(""), "null"},
        {EMIT(",\"event_source\":\"out\""), "\"out\""},
        {EMIT(",\"event_source\":{\"name\":\"o\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":"
              "\"h\",\"stream\":\"s\",\"password\":\"secret\"}}"),
         "{\"name\":\"o\",\"class\":\"RedisEventSource\"}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO request = BUFFER_INIT;
        BUFFER_AUTO out = BUFFER_INIT;
        BUFFER_AUTO other = BUFFER_INIT;
        BUFFER_AUTO expected = BUFFER_INIT;
        buffer_printf(&request,
                      "{\"check\":\"test\",\"trigger\":%s,\"event\":" EVENT(",\"data\":{\"n\":1}") "%s",
                      rows[i].trigger, ",\"creation\":\"1.5\",\"firings\":2}");
        ask(buffer_text(&request), &out);
        buffer_printf(&expected, "{\"event_source\":%s,\"event\":{\"specversion\":\"1.0\",\"id\":\"",
                      rows[i].shown);
        assert_non_null(strstr(buffer_text(&out), buffer_text(&expected)));
        assert_non_null(strstr(buffer_text(&out),
                               "\",\"source\":\"urn:triggerflow:w:t\",\"type\":\"x\",\"subject\":"
                               "\"s\",\"time\":\"2020-10-20T13:00:00Z\",\"data\":{\"n\":1}}}]"));
        assert_null(strstr(buffer_text(&out), "secret"));
        request.data[request.len - 2] = '3'; /* another firing: another id */
        ask(buffer_text(&request), &other);
        assert_int_equal(out.len, other.len);
        assert_string_not_equal(buffer_text(&out), buffer_text(&other));
    }
}

static void test_requests_refused(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "",
        "null",
        "{}",
        "{\"check\":7}",
        "{\"check\":\"x\"}",
        "{\"check\":\"triggers\"}",
        "{\"check\":\"triggers\",\"triggers\":{}}",
        "{\"check\":\"event_source\"}",
        "{\"check\":\"test\"}",
        "{\"check\":\"test\",\"event\":7,\"trigger\":7}",
        "{\"check\":\"test\",\"event\":" EVENT("") "}",
        "{\"check\":\"test\",\"event\":" EVENT("") ",\"trigger\":7}",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        ask(rows[i], &out);
        assert_memory_equal(buffer_text(&out), "{\"error\":\"", 10);
    }
    assert_answer("{\"check\":\"triggers\",\"triggers\":[]}", "{\"results\":[]}");
}

static void test_too_many(void **state)
{
    (void)state;
    BUFFER_AUTO request = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append_text(&request, "{\"check\":\"triggers\",\"triggers\":[1");
    for (int i = 0; i < CHECK_TRIGGERS_MAX; i++)
        buffer_append_text(&request, ",1");
    buffer_append_text(&request, "]}");
    ask(buffer_text(&request), &out);
    assert_memory_equal(buffer_text(&out), "{\"error\":\"more than 50000", 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_triggers_accepted), cmocka_unit_test(test_triggers_refused),
        cmocka_unit_test(test_unknown_names),     cmocka_unit_test(test_join_refused),
        cmocka_unit_test(test_emit_refused),      cmocka_unit_test(test_reason_is_text),
        cmocka_unit_test(test_sources),           cmocka_unit_test(test_trials),
        cmocka_unit_test(test_trial_emits),       cmocka_unit_test(test_requests_refused),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
