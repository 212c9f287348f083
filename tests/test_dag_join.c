/* DAG_TASK_JOIN, and FUNCTION_JOIN's side of the same writes: when they come to hold, in whatever order
 * events and writes arrive; what they store; which contexts are refused. */
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
#include "worker/condition/started.h"

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

static void unload(struct held *held)
{
    if (held->type->unload)
        held->type->unload(held->state);
}

static unsigned send(struct held *held, const char *subject, const char *data)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_SUBJECT] = (struct cloudevent_span){subject, (uint32_t)strlen(subject)};
    if (data) {
        event.data = CE_DATA_JSON;
        event.attribute[CE_DATA] = (struct cloudevent_span){data, (uint32_t)strlen(data)};
    }
    return held->type->evaluate(held->state, &event);
}

static unsigned tell(struct held *held, const char *task, enum started_kind kind, uint64_t n)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    started_write(task, strlen(task), kind, n, &text);
    assert_int_equal(json_scan(text.data, text.len, &value, NULL), 0);
    return held->type->write(held->state, &value);
}

/* One step: "a" is an event of task a, "a=5" five of it are started, "a!2" two of them failed, "a+1" one is
 * tried again. */
static unsigned step(struct held *held, const char *text)
{
    char task[16] = "";
    const char *op = strpbrk(text, "=!+");
    if (!op)
        return send(held, text, "1");
    memcpy(task, text, (size_t)(op - text));
    enum started_kind kind = *op == '=' ? STARTED : *op == '!' ? STARTED_FAILED : STARTED_AGAIN;
    return tell(held, task, kind, strtoull(op + 1, NULL, 10));
}

static void assert_stored(struct held *held, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    held->type->store(held->state, &out);
    assert_string_equal(buffer_text(&out), expected);
}

#define UNKNOWN(task) "\"" task "\":{\"join\":-1,\"counter\":0}"
#define ONE "{\"dependencies\":{" UNKNOWN("a") "}}"
#define TWO "{\"dependencies\":{" UNKNOWN("a") "," UNKNOWN("b") "}}"

/* Steps, and after which of them (an asterisk) the condition comes to hold. */
static void test_steps(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *context;
        const char *steps;
        const char *stored;
    } rows[] = {
        {"DAG_TASK_JOIN", ONE, "a=1 a*",
         "\"dependencies\":{\"a\":{\"join\":1,\"counter\":1}},\"result\":[1]"},
        /* early arrivals count */
        {"DAG_TASK_JOIN", ONE, "a a=1*",
         "\"dependencies\":{\"a\":{\"join\":1,\"counter\":1}},\"result\":[1]"},
        {"DAG_TASK_JOIN", ONE, "a a a=3 a* a",
         "\"dependencies\":{\"a\":{\"join\":3,\"counter\":4}},\"result\":[1,1,1,1]"},
        {"DAG_TASK_JOIN", TWO, "a=1 a b b=1*",
         "\"dependencies\":{\"a\":{\"join\":1,\"counter\":1},\"b\":{\"join\":1,\"counter\":1}},\"result\":[1,"
         "1]"},
        {"DAG_TASK_JOIN", TWO, "a=1 b=2 b b a* b a",
         "\"dependencies\":{\"a\":{\"join\":1,\"counter\":2},\"b\":{\"join\":2,\"counter\":3}},\"result\":[1,"
         "1,1,1,1]"},
        /* an empty map */
        {"DAG_TASK_JOIN", ONE, "a=0*", "\"dependencies\":{\"a\":{\"join\":0,\"counter\":0}},\"result\":[]"},
        /* corrections: of some, of all, and a new start afterwards */
        {"DAG_TASK_JOIN", ONE, "a=3 a a a!1*",
         "\"dependencies\":{\"a\":{\"join\":2,\"counter\":2,\"failed\":1}},\"result\":[1,1]"},
        {"DAG_TASK_JOIN", ONE, "a=2 a!1 a!1 a=1 a*",
         "\"dependencies\":{\"a\":{\"join\":1,\"counter\":1,\"failed\":2}},\"result\":[1]"},
        /* tried again: what had failed is expected as before, and nothing else is added */
        {"DAG_TASK_JOIN", ONE, "a=1 a!1 a+1 a*",
         "\"dependencies\":{\"a\":{\"join\":1,\"counter\":1}},\"result\":[1]"},
        {"DAG_TASK_JOIN", ONE, "a=2 a a+1 a*",
         "\"dependencies\":{\"a\":{\"join\":2,\"counter\":2}},\"result\":[1,1]"},
        {"DAG_TASK_JOIN", ONE, "a=3 a!2 a+5 a a a*",
         "\"dependencies\":{\"a\":{\"join\":3,\"counter\":3}},\"result\":[1,1,1]"},
        {"DAG_TASK_JOIN", ONE, "a!1", "\"dependencies\":{\"a\":{\"join\":-1,\"counter\":0}},\"result\":[]"},
        /* run again */
        {"DAG_TASK_JOIN", ONE, "a=1 a* a=1 a*",
         "\"dependencies\":{\"a\":{\"join\":2,\"counter\":2}},\"result\":[1,1]"},
        /* of no concern */
        {"DAG_TASK_JOIN", ONE, "b b=1 a=1 b",
         "\"dependencies\":{\"a\":{\"join\":1,\"counter\":0}},\"result\":[]"},
        {"DAG_TASK_JOIN", "{\"dependencies\":{" UNKNOWN("a") "},\"total_activations\":null}", "a=2 a a*",
         "\"dependencies\":{\"a\":{\"join\":2,\"counter\":2}},\"result\":[1,1],\"total_activations\":2"},
        {"DAG_TASK_JOIN", "{\"dependencies\":{},\"result\":[7]}", "a*", "\"dependencies\":{},\"result\":[7]"},
        {"FUNCTION_JOIN", "{}", "a=2 a a* a", "\"counter\":3,\"total_activations\":2"},
        {"FUNCTION_JOIN", "{\"total_activations\":0}", "a a a=2*", "\"counter\":2,\"total_activations\":2"},
        {"FUNCTION_JOIN", "{\"total_activations\":-1}", "a=3 a a b!1*",
         "\"counter\":2,\"total_activations\":2,\"failed_activations\":1"},
        {"FUNCTION_JOIN", "{}", "a=1 a!1 a+1 a*", "\"counter\":1,\"total_activations\":1"},
        {"FUNCTION_JOIN", "{\"total_activations\":0,\"failed_activations\":1}", "a a+1*",
         "\"counter\":1,\"total_activations\":1"},
        {"FUNCTION_JOIN", "{}", "a=2 b=1 a b a*", "\"counter\":3,\"total_activations\":3"},
        {"FUNCTION_JOIN", "{}", "a=0*", "\"counter\":0,\"total_activations\":0"},
        {"FUNCTION_JOIN", "{}", "a", "\"counter\":1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct held held;
        struct error err;
        char steps[64];
        char *rest = steps;
        assert_int_equal(load(&held, rows[i].name, rows[i].context, &err), 0);
        snprintf(steps, sizeof steps, "%s", rows[i].steps);
        for (char *at; (at = strtok_r(rest, " ", &rest));) {
            char *holds = strchr(at, '*');
            if (holds)
                *holds = '\0';
            if (!(step(&held, at) & CONDITION_HOLDS) != !holds)
                fail_msg("%s: %s at %s", rows[i].steps, holds ? "does not hold" : "holds", at);
        }
        assert_stored(&held, rows[i].stored);
        unload(&held);
    }
}

/* What is stored is loaded, and goes on as it was. */
static void test_stored(void **state)
{
    (void)state;
    struct held held;
    struct error err;
    BUFFER_AUTO text = BUFFER_INIT;
    assert_int_equal(
        load(&held, "DAG_TASK_JOIN", "{\"dependencies\":{\"x \\u00e9\\\"\":{\"join\":3},\"\":null}}", &err),
        -1);
    assert_int_equal(load(&held, "DAG_TASK_JOIN",
                          "{\"dependencies\":{\"x \\u00e9\\\"\":{\"join\":3},\"\":{}},\"result\":[{\"a\": "
                          "[1, 2]},\"y\"]}",
                          &err),
                     0);
    assert_false(held.type->counted(held.state));
    assert_int_equal(send(&held, "x \303\251\"", "{\"b\":null}"), CONDITION_CHANGED);
    assert_int_equal(send(&held, "x \303\251\"", NULL), CONDITION_CHANGED);
    assert_int_equal(send(&held, "y", "1"), 0);
    buffer_append_char(&text, '{');
    held.type->store(held.state, &text);
    buffer_append_char(&text, '}');
    unload(&held);
    assert_string_equal(buffer_text(&text),
                        "{\"dependencies\":{\"x \303\251\\\"\":{\"join\":3,\"counter\":2},\"\":{\"join\":-1,"
                        "\"counter\":0}},\"result\":[{\"a\": [1, 2]},\"y\",{\"b\":null}]}");
    assert_int_equal(load(&held, "DAG_TASK_JOIN", buffer_text(&text), &err), 0);
    assert_true(held.type->counted(held.state));
    assert_int_equal(tell(&held, "", STARTED, 0), CONDITION_CHANGED);
    assert_int_equal(send(&held, "x \303\251\"", NULL), CONDITION_CHANGED | CONDITION_HOLDS);
    int64_t operands[2];
    assert_int_equal(held.type->explain(held.state, operands), DECISION_DEPENDENCIES);
    assert_int_equal(operands[0], 2);
    assert_int_equal(operands[1], 2);
    unload(&held);
}

/* Many dependencies: each is found. */
static void test_many(void **state)
{
    (void)state;
    enum { MANY = 1500 };
    struct held held;
    struct error err;
    BUFFER_AUTO context = BUFFER_INIT;
    buffer_append_text(&context, "{\"dependencies\":{");
    for (unsigned i = 0; i < MANY; i++)
        buffer_printf(&context, "%s\"task%u\":{\"join\":1}", i ? "," : "", i * 7919 % MANY);
    buffer_append_text(&context, "}}");
    assert_int_equal(load(&held, "DAG_TASK_JOIN", buffer_text(&context), &err), 0);
    for (unsigned i = 0; i < MANY; i++) {
        char task[16];
        snprintf(task, sizeof task, "task%u", i);
        assert_int_equal(send(&held, task, NULL),
                         i + 1 < MANY ? CONDITION_CHANGED : CONDITION_CHANGED | CONDITION_HOLDS);
    }
    unload(&held);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *context;
        const char *message;
    } rows[] = {
        {"{\"dependencies\":[]}", "context.dependencies is an array, not an object"},
        {"{\"dependencies\":{\"a\":1}}", "context.dependencies.a is 1, not an object"},
        {"{\"dependencies\":{\"a\":{\"join\":-2}}}",
         "context.dependencies.a.join is -2, not a whole number from -1"},
        {"{\"dependencies\":{\"a\":{\"join\":\"1\"}}}",
         "context.dependencies.a.join is \"1\", not a whole number from -1"},
        {"{\"dependencies\":{\"a\":{\"counter\":1.5}}}",
         "context.dependencies.a.counter is 1.5, not a whole number from 0"},
        {"{\"dependencies\":{\"a\":{},\"\\u0061\":{}}}", "context.dependencies has a twice"},
        {"{\"result\":{}}", "context.result is an object, not an array"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct held held;
        struct error err;
        assert_int_equal(load(&held, "DAG_TASK_JOIN", rows[i].context, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_string_equal(err.message, rows[i].message);
    }
}

/* Writes of other kinds, or that nobody of ours writes, mean nothing. */
static void test_other_writes(void **state)
{
    (void)state;
    static const char *const writes[] = {"{}",
                                         "{\"task\":\"a\"}",
                                         "{\"task\":7,\"started\":1}",
                                         "{\"task\":\"a\",\"started\":-1}",
                                         "{\"task\":\"a\",\"started\":1.5}",
                                         "{\"task\":\"a\",\"failed\":true}",
                                         "{\"join_multiple\":3}"};
    static const char *const names[] = {"DAG_TASK_JOIN", "FUNCTION_JOIN"};
    for (size_t i = 0; i < sizeof writes / sizeof writes[0]; i++)
        for (size_t j = 0; j < 2; j++) {
            struct held held;
            struct error err;
            struct json_value value;
            assert_int_equal(load(&held, names[j], ONE, &err), 0);
            assert_int_equal(json_scan(writes[i], strlen(writes[i]), &value, NULL), 0);
            assert_int_equal(held.type->write(held.state, &value), 0);
            unload(&held);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),   cmocka_unit_test(test_stored),       cmocka_unit_test(test_many),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_other_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
