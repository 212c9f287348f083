/* Documents of people: YAML and JSON into JSON values; workflows in one file. */
#include "cli/manifest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/document.h"
#include "cli/output.h"

static struct json_object *parse(const char *name, const char *text)
{
    struct json_object *value = NULL;
    struct error err;
    if (document_parse(name, text, strlen(text), &value, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return value;
}

/* The canonical JSON of a document. */
static void assert_document(const char *text, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct json_object *value = parse("f", text);
    document_canonical(value, &out);
    assert_string_equal(buffer_text(&out), expected);
    json_object_put(value);
}

static void assert_refused(const char *name, const char *text, const char *message)
{
    struct json_object *value = NULL;
    struct error err;
    assert_int_equal(document_parse(name, text, strlen(text), &value, &err), -1);
    assert_null(value);
    if (!strstr(err.message, message))
        fail_msg("%s: %s", text, err.message);
}

static void test_scalars(void **state)
{
    static const char *const cases[][2] = {
        {"", "null"},
        {"~", "null"},
        {"null", "null"},
        {"''", "\"\""},
        {"'null'", "\"null\""},
        {"true", "true"},
        {"Yes", "true"},
        {"off", "false"},
        {"y", "\"y\""},
        {"\"true\"", "\"true\""},
        {"0", "0"},
        {"-17", "-17"},
        {"+5", "5"},
        {"0x1F", "31"},
        {"9223372036854775807", "9223372036854775807"},
        {"18446744073709551615", "18446744073709551615"},
        {"1.5", "1.5"},
        {"-1.5e3", "-1.5e3"},
        {"[0.1, 1e3, .5, 5., +1.5]", "[0.1,1e3,0.5,5.0,1.5]"},
        {"'12'", "\"12\""},
        /* What only YAML takes for numbers is text. */
        {"0123", "\"0123\""},
        {"12:30:00", "\"12:30:00\""},
        {"1_000", "\"1_000\""},
        {".", "\".\""},
        {"-", "[null]"},
        {"1.2.3", "\"1.2.3\""},
        {"1e", "\"1e\""},
        {"0x", "\"0x\""},
        {".inf", "\".inf\""},
        {"2026-11-25", "\"2026-11-25\""},
        {"- 1e999", "[\"1e999\"]"},
        {"|\n  a\n  b\n", "\"a\\nb\\n\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_document(cases[i][0], cases[i][1]);
}

static void test_collections(void **state)
{
    (void)state;
    assert_document("b: [1, two, {c: ~}]\na: {}\n", "{\"a\":{},\"b\":[1,\"two\",{\"c\":null}]}");
    assert_document("1: x\ntrue: y\n", "{\"1\":\"x\",\"true\":\"y\"}");
    assert_document("a: &x [1, 2]\nb: *x\n", "{\"a\":[1,2],\"b\":[1,2]}");
    assert_document("a: &n ~\nb: *n\n", "{\"a\":null,\"b\":null}");
    assert_document("---\na: 1\n...\n", "{\"a\":1}");
}

static void test_json(void **state)
{
    (void)state;
    assert_document("{\"a\":[1,2.50,1e2,\"\\ud83d\\ude42\",null,true]}",
                    "{\"a\":[1,2.50,1e2,\"\xf0\x9f\x99\x82\",null,true]}");
    assert_refused("f.json", "{\"a\":1,\"a\":2}", "f.json: a is given twice");
    assert_refused("f", "{\"a\":{\"b\":1,\"\\u0062\":2}}", "b is given twice");
    assert_refused("f.json", "a: 1", "f.json: ");
    assert_refused("f.json", "{\"a\\u0000\":1}", "NUL");
}

static void test_refused(void **state)
{
    static const char *const cases[][2] = {
        {"a: 1\na: 2\n", "f:2: a is given twice"},
        {"a: !!str 1\n", "f:1: tags are not supported"},
        {"a: *b\n", "f:1: an alias of no anchor before it"},
        {"a: &a [*a]\n", "f:1: an alias of no anchor before it"},
        {"<<: {a: 1}\n", "f:1: merge keys (<<) are not supported"},
        {"[a]: 1\n", "f:1: a key must be text"},
        {"a: 1\n--- \nb: 2\n", "f:2: a second document is not allowed"},
        {"a: [1\n", "f:2: not YAML: "},
        {"a: \"\\q\"\n", "f:1: not YAML: "},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused("f", cases[i][0], cases[i][1]);
}

/* Aliases that multiply, and nesting, are bounded in both forms. */
static void test_bounds(void **state)
{
    BUFFER_AUTO text = BUFFER_INIT;
    (void)state;
    buffer_append_text(&text, "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 9; i++) {
        buffer_printf(&text, "a%d: &a%d [", i, i);
        for (int k = 0; k < 10; k++)
            buffer_printf(&text, "%s*a%d", k ? ", " : "", i - 1);
        buffer_append_text(&text, "]\n");
    }
    assert_refused("f", buffer_text(&text), "values");
    buffer_reset(&text, 0);
    for (int i = 0; i < 200; i++)
        buffer_append_char(&text, '[');
    for (int i = 0; i < 200; i++)
        buffer_append_char(&text, ']');
    assert_refused("f", buffer_text(&text), "nested deeper");
    buffer_reset(&text, 0);
    buffer_append_text(&text, "a0: &a0 [x]\n");
    for (int i = 1; i < 120; i++)
        buffer_printf(&text, "a%d: &a%d [*a%d]\n", i, i, i - 1);
    assert_refused("f", buffer_text(&text), "nested deeper");
}

static struct manifest read_manifest(const char *text)
{
    struct manifest manifest;
    struct error err;
    if (manifest_parse("f", text, strlen(text), &manifest, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return manifest;
}

static void assert_canonical(struct json_object *value, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    document_canonical(value, &out);
    assert_string_equal(buffer_text(&out), expected);
}

/* Both forms of sections and short forms of parts mean the same. */
static void test_forms(void **state)
{
    static const char *const texts[] = {
        "workspace: w\n"
        "event_sources: {http: {class: http}}\n"
        "triggers:\n"
        "  t: {activation_events: [a], condition: TRUE, action: PASS}\n",
        "workspace: w\n"
        "event_sources: [{name: http, class: HTTPEventSource, parameters: {}}]\n"
        "triggers: [{id: t, activation_events: {type: a}, condition: {name: TRUE}, action: {name: PASS},\n"
        "            context: {}, transient: false, applied: old}]\n",
        "{\"workspace\":\"w\",\"event_sources\":{\"http\":{\"class\":\"HTTP\"}},\"triggers\":{\"t\":{\"id\":"
        "\"t\",\"activation_events\":[{\"type\":\"a\"}],\"condition\":\"TRUE\",\"action\":\"PASS\"}}}",
    };
    char hashes[3][65];
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct manifest m = read_manifest(texts[i]);
        assert_string_equal(m.workspace, "w");
        assert_null(m.global_context);
        assert_int_equal(output_length(m.problems), 0);
        assert_canonical(m.event_sources,
                         "[{\"class\":\"HTTPEventSource\",\"name\":\"http\",\"parameters\":{}}]");
        assert_canonical(m.triggers,
                         "[{\"action\":{\"name\":\"PASS\"},\"activation_events\":[{\"type\":\"a\"}],"
                         "\"condition\":{\"name\":\"TRUE\"},\"context\":{},\"id\":\"t\","
                         "\"transient\":false}]");
        assert_int_equal(manifest_hash(json_object_array_get_idx(m.triggers, 0), hashes[i], NULL), 0);
        assert_string_equal(hashes[i], hashes[0]);
        manifest_done(&m);
    }
}

/* The hash is of what the definition says, not of how it is written, and not of itself. */
static void test_hash(void **state)
{
    char one[65], two[65];
    (void)state;
    struct json_object *a = parse("f", "{id: t, context: {x: 1, y: 2}}");
    struct json_object *b = parse("f", "{context: {y: 2, x: 1}, id: t, applied: abc}");
    struct json_object *c = parse("f", "{context: {y: 2, x: 3}, id: t}");
    assert_int_equal(manifest_hash(a, one, NULL), 0);
    assert_int_equal(manifest_hash(b, two, NULL), 0);
    assert_string_equal(one, two);
    assert_int_equal(manifest_hash(c, two, NULL), 0);
    assert_string_not_equal(one, two);
    json_object_put(a);
    json_object_put(b);
    json_object_put(c);
}

static void test_problems(void **state)
{
    static const char *const cases[][2] = {
        {"triggers: [5]", "a trigger is 5, not an object"},
        {"triggers: {t: 5}", "trigger t is 5, not an object"},
        {"triggers: {t: {id: u}}", "t has another id: u"},
        {"triggers: [{activation_events: [a], condition: TRUE, action: PASS}]",
         "trigger 1 of the list has no id"},
        {"triggers: {t: {activation_events: [a], action: PASS}}", "trigger t: condition is missing"},
        {"triggers: {t: {activation_events: [a], condition: {x: 1}, action: PASS}}",
         "trigger t: condition: name is missing"},
        {"triggers: {t: {condition: TRUE, action: PASS}}", "trigger t: activation_events is missing"},
        {"triggers: {t: {activation_events: [{subject: s}], condition: TRUE, action: PASS}}",
         "trigger t: activation_events[0]: type is missing"},
        {"triggers: {t: {activation_events: [{type: t, subject: 5}], condition: TRUE, action: PASS}}",
         "trigger t: activation_events[0]: subject is 5, not text"},
        {"triggers: {t: {activation_events: [a], condition: TRUE, action: PASS, context: []}}",
         "trigger t: context is [], not an object"},
        {"triggers: {t: {activation_events: [a], condition: TRUE, action: PASS, transient: 1}}",
         "trigger t: transient is 1, not true or false"},
        {"event_sources: {s: {parameters: {}}}", "event source s: class is missing"},
        {"event_sources: {s: {class: http, parameters: []}}",
         "event source s: parameters is [], not an object"},
        {"event_sources: [{class: http}]", "an event source: name is missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[400];
        snprintf(text, sizeof text, "workspace: w\n%s\n", cases[i][0]);
        struct manifest m = read_manifest(text);
        assert_int_equal(output_length(m.problems), 1);
        assert_string_equal(json_object_get_string(json_object_array_get_idx(m.problems, 0)), cases[i][1]);
        manifest_done(&m);
    }
}

static void test_no_workflow(void **state)
{
    static const char *const cases[][2] = {
        {"", "f: no workflow"},
        {"[]", "f: no workflow"},
        {"triggers: {}", "f: workspace is missing"},
        {"workspace: 5", "f: workspace is 5, not"},
        {"workspace: w\ntrigers: {}", "f: unknown key trigers"},
        {"workspace: w\ntriggers: 5", "f: triggers is 5, not a list"},
        {"workspace: w\nglobal_context: []", "f: global_context is [], not an object"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct manifest m = {0};
        struct error err;
        assert_int_equal(manifest_parse("f", cases[i][0], strlen(cases[i][0]), &m, &err), -1);
        assert_null(m.root);
        if (strncmp(err.message, cases[i][1], strlen(cases[i][1])) != 0)
            fail_msg("%s: %s", cases[i][0], err.message);
    }
}

static void test_redaction(void **state)
{
    struct json_object *value =
        parse("f", "{password: x, a: {Secret: y, n: [{api_key: 'u:p'}, 'amqp://me:pw@host/v?a=b']},"
                   " amqp_url: 'amqps://me:pw@host:5671', plain: 'http://host/a@b:c', token: 5, digest: ~}");
    (void)state;
    output_redact(value);
    assert_canonical(value,
                     "{\"a\":{\"Secret\":\"********\",\"n\":[{\"api_key\":\"********\"},"
                     "\"amqp://me:********@host/v?a=b\"]},\"amqp_url\":\"amqps://me:********@host:5671\","
                     "\"digest\":null,\"password\":\"********\",\"plain\":\"http://host/a@b:c\","
                     "\"token\":\"********\"}");
    json_object_put(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),     cmocka_unit_test(test_collections),
        cmocka_unit_test(test_json),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bounds),      cmocka_unit_test(test_forms),
        cmocka_unit_test(test_hash),        cmocka_unit_test(test_problems),
        cmocka_unit_test(test_no_workflow), cmocka_unit_test(test_redaction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
