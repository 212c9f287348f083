/* Conditions: when each holds, what it stores, and which contexts are refused. */
#include "worker/condition/condition.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

struct held {
    const struct condition_type *type;
    _Alignas(16) unsigned char state[256];
};

static int load(struct held *held, const char *name, const char *context, struct error *err)
{
    struct json_value value;
    assert_int_equal(json_scan(context, strlen(context), &value, NULL), 0);
    assert_non_null(held->type = condition_find(name, strlen(name)));
    assert_true(held->type->state_size <= sizeof held->state);
    memset(held->state, 0, sizeof held->state);
    return held->type->load(held->state, &value, err);
}

static unsigned evaluate(struct held *held)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    return held->type->evaluate(held->state, &event);
}

static void assert_stored(struct held *held, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    held->type->store(held->state, &out);
    assert_string_equal(buffer_text(&out), expected);
}

static void test_find(void **state)
{
    (void)state;
    static const char *const names[] = {"TRUE", "JOIN", "FUNCTION_JOIN", "COUNTER_THRESHOLD",
                                        "DAG_TASK_JOIN"};
    static const bool keys[] = {false, true, true, false, true};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct condition_type *type = condition_find(names[i], strlen(names[i]));
        assert_non_null(type);
        assert_string_equal(type->name, names[i]);
        assert_int_equal(type->counts_keys, keys[i]);
        assert_null(condition_find(names[i], strlen(names[i]) - 1));
    }
    assert_null(condition_find("", 0));
    assert_null(condition_find("join", 4));
}

/* What happens at each of the first events. */
static void test_outcomes(void **state)
{
    (void)state;
    enum { H = CONDITION_HOLDS, C = CONDITION_CHANGED };
    static const struct {
        const char *name;
        const char *context;
        unsigned outcomes[4];
        const char *stored;
        bool counted; /* before the first event */
    } rows[] = {
        {"TRUE", "{\"counter\":5}", {H, H, H, H}, "", false},
        {"JOIN", "{\"join\":3}", {C, C, H | C, C}, "\"counter\":4", false},
        {"JOIN", "{\"join\":3,\"counter\":1}", {C, H | C, C, C}, "\"counter\":5", true},
        {"JOIN", "{\"join\":3,\"counter\":3}", {C, C, C, C}, "\"counter\":7", true},
        {"JOIN", "{\"join\":1e0,\"counter\":null}", {H | C, C, C, C}, "\"counter\":4", false},
        {"JOIN", "{\"join\":-1}", {C, C, C, C}, "\"counter\":4", false},
        {"JOIN", "{\"join\":0}", {C, C, C, C}, "\"counter\":4", false},
        {"FUNCTION_JOIN", "{}", {C, C, C, C}, "\"counter\":4", false},
        {"FUNCTION_JOIN",
         "{\"total_activations\":null}",
         {C, C, C, C},
         "\"counter\":4,\"total_activations\":null",
         false},
        {"FUNCTION_JOIN",
         "{\"total_activations\":2,\"join\":1}",
         {C, H | C, C, C},
         "\"counter\":4,\"total_activations\":2",
         false},
        {"COUNTER_THRESHOLD", "{\"threshold\":2}", {C, H | C, H | C, H | C}, "\"counter\":4", false},
        {"COUNTER_THRESHOLD",
         "{\"threshold\":2,\"counter\":9}",
         {H | C, H | C, H | C, H | C},
         "\"counter\":13",
         true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct held held;
        struct error err;
        assert_int_equal(load(&held, rows[i].name, rows[i].context, &err), 0);
        assert_int_equal(held.type->counted(held.state), rows[i].counted);
        for (size_t j = 0; j < 4; j++)
            assert_int_equal(evaluate(&held), rows[i].outcomes[j]);
        assert_stored(&held, rows[i].stored);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *context;
        const char *message;
    } rows[] = {
        {"JOIN", "{}", "context.join is missing"},
        {"JOIN", "{\"join\":null}", "context.join is missing"},
        {"JOIN", "{\"join\":\"3\"}", "context.join is \"3\", not a whole number"},
        {"JOIN", "{\"join\":1.5}", "context.join is 1.5, not a whole number"},
        {"JOIN", "{\"join\":3,\"counter\":-1}", "context.counter is -1, below zero"},
        {"JOIN", "{\"join\":3,\"counter\":[]}", "context.counter is [], not a whole number"},
        {"FUNCTION_JOIN", "{\"total_activations\":true}",
         "context.total_activations is true, not a whole number"},
        {"COUNTER_THRESHOLD", "{}", "context.threshold is missing"},
        {"COUNTER_THRESHOLD", "{\"threshold\":1e99}", "context.threshold is 1e99, not a whole number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct held held;
        struct error err;
        assert_int_equal(load(&held, rows[i].name, rows[i].context, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_string_equal(err.message, rows[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
