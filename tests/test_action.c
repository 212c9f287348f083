/* Actions: their names, and which documents EMIT refuses. What firing does is in test_shard.c. */
#include "worker/action/action.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/json.h"

static int load(const char *name, const char *document, void **ret_state, struct error *err)
{
    struct json_value value;
    const struct action_type *type = action_find(name, strlen(name));
    assert_non_null(type);
    assert_int_equal(json_scan(document, strlen(document), &value, NULL), 0);
    return type->load(&value, ret_state, err);
}

static void test_find(void **state)
{
    (void)state;
    static const char *const names[] = {"PASS", "TERMINATE", "EMIT"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct action_type *type = action_find(names[i], strlen(names[i]));
        assert_non_null(type);
        assert_string_equal(type->name, names[i]);
        assert_int_equal(type->start != NULL, i == 2);
        assert_null(action_find(names[i], strlen(names[i]) - 1));
    }
    assert_null(action_find("", 0));
    assert_null(action_find("pass", 4));
}

static void test_basic(void **state)
{
    (void)state;
    static const char *const names[] = {"PASS", "TERMINATE"};
    for (size_t i = 0; i < 2; i++) {
        void *loaded = &loaded;
        struct error err;
        assert_int_equal(load(names[i], "{\"name\":\"x\",\"more\":[]}", &loaded, &err), 0);
        assert_null(loaded);
    }
}

static void test_emit(void **state)
{
    (void)state;
    static const char *const documents[] = {
        "{\"event\":{\"type\":\"a\"}}",
        "{\"event\":{\"type\":\"a\\n\",\"subject\":\"s\",\"data\":{\"x\":1},\"ext\":\"y\"},\"event_source\":"
        "null}",
        "{\"event\":{\"type\":\"a\"},\"event_source\":\"out \\u00e9\"}",
    };
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        void *loaded = NULL;
        struct error err;
        assert_int_equal(load("EMIT", documents[i], &loaded, &err), 0);
        assert_non_null(loaded);
        action_find("EMIT", 4)->unload(loaded);
    }
    action_find("EMIT", 4)->unload(NULL);
}

static void test_emit_refused(void **state)
{
    (void)state;
    static const struct {
        const char *document;
        const char *message; /* its beginning */
    } rows[] = {
        {"{}", "member event is missing or not an object"},
        {"{\"event\":[]}", "member event is missing or not an object"},
        {"{\"event\":{}}", "event.type is missing"},
        {"{\"event\":{\"type\":\"\"}}", "event.type is missing"},
        {"{\"event\":{\"type\":null}}", "event.type is missing"},
        {"{\"event\":{\"type\":7}}", ""},
        {"{\"event\":{\"type\":\"a\",\"data\":1,\"data_base64\":\"AA==\"}}", ""},
        {"{\"event\":{\"type\":\"a\"},\"event_source\":7}",
         "event_source is not the name of an event source"},
        {"{\"event\":{\"type\":\"a\"},\"event_source\":\"\"}",
         "event_source is not the name of an event source"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        void *loaded = NULL;
        struct error err = {0};
        assert_int_equal(load("EMIT", rows[i].document, &loaded, &err), -1);
        assert_null(loaded);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_memory_equal(err.message, rows[i].message, strlen(rows[i].message));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_basic),
        cmocka_unit_test(test_emit),
        cmocka_unit_test(test_emit_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
