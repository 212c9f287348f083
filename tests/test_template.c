/* Templates: every kind of path, types kept, texts, URLs, and what is refused. */
#include "worker/document/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/cloudevent.h"
#include "common/error.h"

static struct json_value scan(const char *text)
{
    struct json_value value;
    struct error err;
    if (json_scan(text, strlen(text), &value, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return value;
}

struct bed {
    struct cloudevent event;
    struct buffer scratch;
    struct json_value context, global;
    struct template_scope scope;
};

static const char event_text[] = "{\"specversion\":\"1.0\",\"id\":\"i1\",\"source\":\"urn:x\",\"type\":\"t\","
                                 "\"subject\":\"a b/c\",\"myext\":\"e\","
                                 "\"data\":{\"n\":7,\"f\":1.50,\"t\":true,\"z\":null,\"s\":\"q\\\"\\u00e9\","
                                 "\"o\":{\"x y\":[1,{\"d.o\":\"deep\"}]}}}";

static int setup(void **state)
{
    struct bed *b = calloc(1, sizeof *b);
    assert_non_null(b);
    assert_int_equal(cloudevent_parse(&b->event, event_text, sizeof event_text - 1, &b->scratch, NULL), 0);
    b->context = scan("{\"base\":\"https://h.example/v1\",\"list\":[10,20],\"subject\":\"task\"}");
    b->global = scan("{\"api\":{\"key\":\"k\"},\"name\":\"g\"}");
    b->scope = (struct template_scope){.event = &b->event,
                                       .context = &b->context,
                                       .global = &b->global,
                                       .workspace = "ws",
                                       .trigger = "tr",
                                       .key = "0123"};
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    template_scope_done(&b->scope);
    buffer_done(&b->scratch);
    free(b);
    return 0;
}

static void test_values(void **state)
{
    struct bed *b = *state;
    static const struct {
        const char *template, *value;
    } rows[] = {
        {"\"plain\"", "\"plain\""},
        {"\"${event.data.n}\"", "7"},
        {"\"${event.data.f}\"", "1.50"},
        {"\"${event.data.t}\"", "true"},
        {"\"${event.data.z}\"", "null"},
        {"\"${event.data.s}\"", "\"q\\\"\\u00e9\""},
        {"\"${event.data.o[\\\"x y\\\"][0]}\"", "1"},
        {"\"${event.data.o['x y'][1]['d.o']}\"", "\"deep\""},
        {"\"${event.data.o}\"", "{\"x y\":[1,{\"d.o\":\"deep\"}]}"},
        {"\"${event.id}\"", "\"i1\""},
        {"\"${event.myext}\"", "\"e\""},
        {"\"${event['subject']}\"", "\"a b/c\""},
        {"\"${context.list}\"", "[10,20]"},
        {"\"${context.list[1]}\"", "20"},
        {"\"${context}\"", "{\"base\":\"https://h.example/v1\",\"list\":[10,20],\"subject\":\"task\"}"},
        {"\"${global.api.key}\"", "\"k\""},
        {"\"${workspace}-${trigger}-${key}\"", "\"ws-tr-0123\""},
        {"\"n=${event.data.n}, t=${event.data.t}, o=${event.data.o}\"",
         "\"n=7, t=true, o={\\\"x y\\\":[1,{\\\"d.o\\\":\\\"deep\\\"}]}\""},
        {"\"s=${event.data.s}\"", "\"s=q\\\"\xc3\xa9\""},
        {"\"$${event.id} $ $$ $x {}\"", "\"${event.id} $ $$ $x {}\""},
        {"\"$\"", "\"$\""},
        {"{\"a\":[\"${event.data.n}\",1,null,{\"${key}\":\"${key}\"}]}",
         "{\"a\":[7,1,null,{\"${key}\":\"0123\"}]}"},
        {"[]", "[]"},
        {"{}", "{}"},
        {"12.0", "12.0"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct json_value template = scan(rows[i].template);
        struct error err;
        BUFFER_AUTO out = BUFFER_INIT;
        assert_int_equal(template_check(&template, NULL), 0);
        if (template_render(&template, &b->scope, &out, &err) < 0)
            fail_msg("%s: %s", rows[i].template, err.message);
        assert_string_equal(buffer_text(&out), rows[i].value);
    }
}

static void test_whole_event(void **state)
{
    struct bed *b = *state;
    struct json_value template = scan("\"${event}\"");
    BUFFER_AUTO out = BUFFER_INIT;
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent event;
    assert_int_equal(template_render(&template, &b->scope, &out, NULL), 0);
    assert_int_equal(cloudevent_parse(&event, out.data, out.len, &scratch, NULL), 0);
    assert_int_equal(event.attribute[CE_ID].len, 2);
    assert_int_equal(event.data, CE_DATA_JSON);
}

static void test_urls(void **state)
{
    struct bed *b = *state;
    static const struct {
        const char *template, *url;
    } rows[] = {
        {"\"http://h/${event.subject}?n=${event.data.n}&s=${event.data.s}\"",
         "http://h/a%20b%2Fc?n=7&s=q%22%C3%A9"},
        {"\"${context.base}/x/${event.subject}\"", "https://h.example/v1/x/a%20b%2Fc"},
        {"\"${context.base}\"", "https://h.example/v1"},
        {"\"http://${event.subject}/\"", "http://a%20b%2Fc/"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct json_value template = scan(rows[i].template);
        BUFFER_AUTO out = BUFFER_INIT;
        assert_int_equal(template_render_url(&template, &b->scope, &out, NULL), 0);
        assert_string_equal(buffer_text(&out), rows[i].url);
    }
}

static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *template, *message;
    } rows[] = {
        {"\"${\"", "${ without }: ${"},
        {"\"x${event.id\"", "${ without }: x${event.id"},
        {"\"${}\"", "${}: is not a path"},
        {"\"${.a}\"", "${.a}: is not a path"},
        {"\"${event.}\"", "${event.}: is not a path"},
        {"\"${event..a}\"", "${event..a}: is not a path"},
        {"\"${event.data[}\"", "${event.data[}: is not a path"},
        {"\"${event.data[x]}\"", "${event.data[x]}: is not a path"},
        {"\"${event.data[-1]}\"", "${event.data[-1]}: is not a path"},
        {"\"${event.data[1]x}\"", "${event.data[1]x}: is not a path"},
        {"\"${event.data['a]}\"", "${event.data['a]}: is not a path"},
        {"\"${event.data[99999999999]}\"", "${event.data[99999999999]}: is not a path"},
        {"\"${evt.id}\"", "${evt.id}: begins with none of event"},
        {"\"${key.x}\"", "${key.x}: is a text, without members"},
        {"{\"a\":[{\"b\":\"${nope}\"}]}", "${nope}: begins with none of event"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct json_value template = scan(rows[i].template);
        struct error err;
        assert_int_equal(template_check(&template, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_memory_equal(err.message, rows[i].message, strlen(rows[i].message));
    }
    struct json_value none = scan("{\"a\":\"$${x}\"}");
    struct json_value some = scan("{\"a\":[\"${key}\"]}");
    assert_false(template_has_paths(&none));
    assert_true(template_has_paths(&some));
}

static void test_too_many_steps(void **state)
{
    (void)state;
    BUFFER_AUTO text = BUFFER_INIT;
    struct json_value template;
    struct error err;
    buffer_append_text(&text, "\"${context");
    for (int i = 0; i < 64; i++)
        buffer_append_text(&text, ".a");
    buffer_append_text(&text, "}\"");
    assert_int_equal(json_scan(text.data, text.len, &template, NULL), 0);
    assert_int_equal(template_check(&template, &err), -1);
    assert_non_null(strstr(err.message, "more than 64 steps"));
}

static void test_leads_nowhere(void **state)
{
    struct bed *b = *state;
    static const char *const templates[] = {
        "\"${event.data.none}\"", "\"x ${event.none}\"",      "\"${event.time}\"",
        "\"${event.data.n.x}\"",  "\"${event.data.o[0]}\"",   "\"${context.list[2]}\"",
        "\"${context.list.x}\"",  "\"${global.api.none}\"",   "\"${event.id.x}\"",
        "\"${event[0]}\"",        "[\"${context.nothing}\"]",
    };
    for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++) {
        struct json_value template = scan(templates[i]);
        struct error err;
        BUFFER_AUTO out = BUFFER_INIT;
        assert_int_equal(template_render(&template, &b->scope, &out, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_memory_equal(err.message, "${", 2);
    }
}

static void test_data_from_brokers(void **state)
{
    struct bed *b = *state;
    static const char json[] = "{\"a\":[1,2]}";
    struct json_value template = scan("\"${event.data.a[1]}\"");
    BUFFER_AUTO out = BUFFER_INIT;
    b->event.data = CE_DATA_TEXT;
    b->event.attribute[CE_DATA] = (struct cloudevent_span){json, sizeof json - 1};
    assert_int_equal(template_render(&template, &b->scope, &out, NULL), 0);
    assert_string_equal(buffer_text(&out), "2");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_values),
        TEST(test_whole_event),
        TEST(test_urls),
        TEST(test_malformed),
        TEST(test_too_many_steps),
        TEST(test_leads_nowhere),
        TEST(test_data_from_brokers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
