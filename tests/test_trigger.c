/* Triggers: what is refused and how it is said, what is kept of a stored document, and writing it back. */
#include "worker/shard/trigger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

#define TIME "2020-10-20T13:00:00.000000Z"

static struct trigger *load(const char *id, const char *document)
{
    struct trigger *t = NULL;
    struct error err = {0};
    if (trigger_new(id, strlen(id), document, strlen(document), 4, &t, &err) < 0)
        fail_msg("%s", err.message);
    return t;
}

static void assert_written(const struct trigger *t, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    trigger_write(t, TIME, &out);
    assert_string_equal(buffer_text(&out), expected);
}

static void test_members(void **state)
{
    (void)state;
    struct trigger *t = load("t 1", "{\"id\":\"other\",\"uuid\":\"u\\u00e9\",\"transient\":true,"
                                    "\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"TERMINATE\"},"
                                    "\"context\":{\"join\":3,\"counter\":2},\"activation_events\":["
                                    "{\"type\":\"a\\n\",\"subject\":\"s\"},{\"type\":\"b\",\"subject\":null},"
                                    "{\"subject\":\"c\",\"type\":\"\",\"x\":1}]}");
    assert_string_equal(t->id, "t 1");
    assert_int_equal(t->id_len, 3);
    assert_string_equal(t->uuid, "u\xc3\xa9");
    assert_int_equal(t->uuid_len, 3);
    assert_string_equal(t->identity, "u\xc3\xa9");
    assert_true(t->identity_hash == arena_name_hash("u\xc3\xa9", 3));
    assert_int_equal(t->shard, arena_name_hash("t 1", 3) % 4);
    assert_true(t->transient);
    assert_string_equal(t->condition->name, "JOIN");
    assert_string_equal(t->action->name, "TERMINATE");
    assert_int_equal(t->n_activations, 3);
    static const char *const activations[3][2] = {{"a\n", "s"}, {"b", ""}, {"", "c"}};
    for (size_t i = 0; i < 3; i++) {
        const struct activation *a = &t->activations[i];
        assert_int_equal(a->type_len, strlen(activations[i][0]));
        assert_memory_equal(a->type, activations[i][0], a->type_len);
        assert_int_equal(a->subject_len, strlen(activations[i][1]));
        assert_memory_equal(a->subject, activations[i][1], a->subject_len);
    }
    struct cloudevent event;
    cloudevent_clear(&event);
    assert_int_equal(t->condition->evaluate(t->state, &event), CONDITION_HOLDS | CONDITION_CHANGED);
    trigger_free(t);
}

/* All other members come back exactly as they were given, also unknown ones and their spelling. */
static void test_write(void **state)
{
    (void)state;
    struct trigger *t =
        load("t", "{ \"uuid\" : \"u\", \"timestamp\":\"old\", \"condition\":{\"name\":\"JOIN\", \"x\":1},"
                  "\"context\": {\"a\": 1.50, \"counter\":4, \"join\" :9, \"b\\u0061\":[ 1 , 2 ]},"
                  "\"action\":{\"name\":\"PASS\"},\"activation_events\":[],\"more\":{\"y\":\"\\u00e9\"} }");
    assert_written(
        t, "{\"uuid\":\"u\",\"condition\":{\"name\":\"JOIN\", \"x\":1},\"action\":{\"name\":\"PASS\"},"
           "\"activation_events\":[],\"more\":{\"y\":\"\\u00e9\"},"
           "\"context\":{\"counter\":4,\"a\":1.50,\"join\":9,\"b\\u0061\":[ 1 , 2 ]},\"timestamp\":\"" TIME
           "\"}");
    struct cloudevent event;
    cloudevent_clear(&event);
    t->condition->evaluate(t->state, &event);
    BUFFER_AUTO out = BUFFER_INIT;
    trigger_write(t, TIME, &out);
    assert_non_null(strstr(buffer_text(&out), "\"context\":{\"counter\":5,"));
    struct trigger *again = load("t", buffer_text(&out)); /* what was written is the same trigger */
    assert_written(again, buffer_text(&out));
    assert_true(again->definition == t->definition);
    assert_true(trigger_same(t, out.data, out.len));
    trigger_free(again);
    trigger_free(t);
}

static void test_write_little(void **state)
{
    (void)state;
    static const struct {
        const char *given;
        const char *context;
    } rows[] = {
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[]", ""},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[],"
         "\"context\":{}",
         ""},
        {"{\"condition\":{\"name\":\"FUNCTION_JOIN\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":["
         "]",
         "\"counter\":0"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[],"
         "\"context\":{\"counter\":1}",
         "\"counter\":1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO document = BUFFER_INIT;
        BUFFER_AUTO expected = BUFFER_INIT;
        buffer_printf(&document, "%s}", rows[i].given);
        const char *context = strstr(rows[i].given, ",\"context\"");
        int base = (int)(context ? context - rows[i].given : (long)strlen(rows[i].given));
        buffer_printf(&expected, "%.*s,\"context\":{%s},\"timestamp\":\"%s\"}", base, rows[i].given,
                      rows[i].context, TIME);
        struct trigger *t = load("t", buffer_text(&document));
        assert_string_equal(t->uuid, "");
        assert_string_equal(t->identity, "t");
        assert_false(t->transient);
        assert_written(t, buffer_text(&expected));
        trigger_free(t);
    }
}

#define BASE "\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[]"

static void test_same(void **state)
{
    (void)state;
    static const struct {
        const char *document;
        bool same;
    } rows[] = {
        {"{\"uuid\":\"u\"," BASE ",\"context\":{\"a\":1}}", true},
        {"{\"uuid\":\"u\"," BASE ",\"context\":{\"a\":2},\"timestamp\":\"x\"}", true},
        {"{\"uuid\":\"u\"," BASE "}", true},
        {"{\"uuid\":\"v\"," BASE ",\"context\":{\"a\":1}}", false},
        {"{\"uuid\":\"u\"," BASE ",\"transient\":true}", false},
        {"{\"uuid\":\"u\",\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},\"activation_"
         "events\":[]}",
         false},
        {"[]", false},
        {"{", false},
        {"", false},
    };
    struct trigger *t = load("t", rows[0].document);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(trigger_same(t, rows[i].document, strlen(rows[i].document)), rows[i].same);
    trigger_free(t);
}

/* Long names are stored under a hash of theirs. */
static void test_identity(void **state)
{
    (void)state;
    char id[200];
    char expected[32];
    memset(id, 'i', sizeof id);
    id[128] = '\0';
    struct trigger *t = load(id, "{" BASE "}");
    assert_string_equal(t->identity, id);
    assert_int_equal(t->identity_len, 128);
    trigger_free(t);
    id[128] = 'i';
    id[129] = '\0';
    t = load(id, "{" BASE "}");
    snprintf(expected, sizeof expected, "#%016llx", (unsigned long long)arena_name_hash(id, 129));
    assert_string_equal(t->identity, expected);
    assert_int_equal(t->identity_len, 17);
    trigger_free(t);
    t = load(id, "{\"uuid\":\"u\"," BASE "}");
    assert_string_equal(t->identity, "u");
    trigger_free(t);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *document;
        const char *message; /* its beginning */
    } rows[] = {
        {"", ""},
        {"{", ""},
        {"[]", "is an array, not an object"},
        {"{}", "member condition is missing"},
        {"{\"condition\":\"TRUE\"}", "member condition is \"TRUE\", not an object"},
        {"{\"condition\":{}}", "condition: member name is missing"},
        {"{\"condition\":{\"name\":7}}", "condition: member name is 7, not a plain string"},
        {"{\"condition\":{\"name\":\"TRUE\"}}", "member action is missing"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":[]}", "member action is [], not an object"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":null}}",
         "action: member name is null, not a plain string"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"}}",
         "member activation_events is missing"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":{}}",
         "member activation_events is {}, not an array"},
        {"{" BASE ",\"context\":[1]}", "member context is [1], not an object"},
        {"{" BASE ",\"transient\":1}", "member transient is 1, not true or false"},
        {"{" BASE ",\"uuid\":1}", "member uuid is 1, not a string"},
        {"{\"condition\":{\"name\":\"True\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[]}",
         "unknown condition True"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PAS\"},\"activation_events\":[]}",
         "unknown action PAS"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[7]}",
         "member activation_events[] is 7, not an object"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[{}]}",
         "activation_events: member type is missing"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},"
         "\"activation_events\":[{\"type\":\"a\",\"subject\":1}]}",
         "activation_events: member subject is 1, not a string"},
        {"{\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[]}",
         "condition JOIN: context.join is missing"},
        {"{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"EMIT\"},\"activation_events\":[]}",
         "action EMIT: member event is missing or not an object"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct trigger *t = NULL;
        struct error err = {0};
        assert_int_equal(trigger_new("t", 1, rows[i].document, strlen(rows[i].document), 1, &t, &err), -1);
        assert_null(t);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_memory_equal(err.message, rows[i].message, strlen(rows[i].message));
    }
}

/* Ids become C strings and JSON text: what cannot is refused, not cut. */
static void test_refused_ids(void **state)
{
    (void)state;
    static const char plain[] =
        "{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[]}";
    static const char with_uuid[] = "{\"uuid\":\"a\\u0000b\",\"condition\":{\"name\":\"TRUE\"},"
                                    "\"action\":{\"name\":\"PASS\"},\"activation_events\":[]}";
    static const struct {
        const char *id;
        size_t len;
        const char *document, *message;
    } rows[] = {
        {"a\0b", 3, plain, "its id is not UTF-8 text without NUL characters"},
        {"\xff", 1, plain, "its id is not UTF-8 text without NUL characters"},
        {"t", 1, with_uuid, "its uuid is not UTF-8 text without NUL characters"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct trigger *t = NULL;
        struct error err = {0};
        assert_int_equal(
            trigger_new(rows[i].id, rows[i].len, rows[i].document, strlen(rows[i].document), 1, &t, &err),
            -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_string_equal(err.message, rows[i].message);
    }
}

/* Every document cut short is refused, and nothing leaks. */
static void test_cut_short(void **state)
{
    (void)state;
    static const char document[] =
        "{\"uuid\":\"u\",\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"EMIT\","
        "\"event\":{\"type\":\"a\\n\"}},\"context\":{\"join\":1},"
        "\"activation_events\":[{\"type\":\"a\"}]}";
    struct trigger *t;
    for (size_t len = 0; len < sizeof document - 1; len++)
        assert_int_equal(trigger_new("t", 1, document, len, 1, &t, NULL), -1);
    assert_int_equal(trigger_new("t", 1, document, sizeof document - 1, 1, &t, NULL), 0);
    trigger_free(t);
    trigger_free(NULL);
}

/* A patch of a condition whose state owns memory: taken as a whole, or not at all. */
static void test_patch_owned(void **state)
{
    (void)state;
    static const char *const refused[] = {"{\"result\":7}", "{\"dependencies\":{\"a\":{\"join\":\"x\"}}}"};
    struct trigger *t =
        load("t", "{\"condition\":{\"name\":\"DAG_TASK_JOIN\"},\"action\":{\"name\":\"PASS\"},\"context\":{"
                  "\"dependencies\":{\"a\":{\"join\":2,\"counter\":1}},\"result\":[\"one\"],\"x\":1},"
                  "\"activation_events\":[]}");
    struct json_value patch;
    struct error err;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(json_scan(refused[i], strlen(refused[i]), &patch, NULL), 0);
        assert_int_equal(trigger_patch(t, &patch, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
    }
    static const char more[] = "{\"dependencies\":{\"a\":{\"join\":3},\"b\":{}},\"x\":null,\"y\":[2]}";
    assert_int_equal(json_scan(more, sizeof more - 1, &patch, NULL), 0);
    assert_int_equal(trigger_patch(t, &patch, &err), 0);
    BUFFER_AUTO out = BUFFER_INIT;
    trigger_write_context(t, &out);
    assert_string_equal(
        buffer_text(&out),
        "{\"dependencies\":{\"a\":{\"join\":3,\"counter\":1},\"b\":{\"join\":-1,\"counter\":0}},"
        "\"result\":[\"one\"],\"y\":[2]}");
    out.len = 0;
    trigger_write_settings(t, &out);
    assert_string_equal(buffer_text(&out), "{\"y\":[2]}");
    trigger_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),      cmocka_unit_test(test_write),
        cmocka_unit_test(test_write_little), cmocka_unit_test(test_same),
        cmocka_unit_test(test_identity),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_ids),  cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_patch_owned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
