/* The data flow of states against recorded executions of Amazon's service (TRIGGERFLOW_CONFORMANCE_DIR): a
 * small interpreter walks the state machines and leaves all that is evaluated to worker/states. What is
 * beyond that (retries, waits, variables) is left out and counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "tests/support/asl_cases.h"
#include "worker/states/failure.h"
#include "worker/states/choice.h"
#include "worker/states/evaluation.h"
#include "worker/states/state.h"

#define MAX_TRANSITIONS 1000

struct run {
    const struct json_value *test;
    struct asl_mocks mocks;
    unsigned transitions;
    struct evaluation *evaluation; /* what keeps all values */
    char error[240];
};

static int ends(struct run *run, const char *name)
{
    snprintf(run->error, sizeof run->error, "%s", name);
    return -1;
}

static bool text_member(const struct json_value *object, const char *name, struct buffer *out)
{
    struct json_value value;
    if (!json_member(object, name, &value) || value.type != JSON_STRING)
        return false;
    json_unescape(&value, out);
    return true;
}

static bool same(const struct json_value *a, const struct json_value *b)
{
    uint64_t steps = 1u << 30;
    bool is_same;
    assert_int_equal(json_same(a, b, &steps, &is_same, NULL), 0);
    return is_same;
}

/* What an evaluation works on from now on; its memory stays the run's. */
static void set_input(struct run *run, const struct json_value *input, const struct json_value *context)
{
    run->evaluation->input = *input;
    run->evaluation->context = *context;
    run->evaluation->steps = 16u << 20;
}

static void keep(struct run *run, struct json_value *value)
{
    BUFFER_AUTO copy = BUFFER_INIT;
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(&copy, raw, len);
    assert_int_equal(evaluation_keep(run->evaluation, &copy, value, NULL), 0);
}

static int failed(struct run *run, const struct error *err)
{
    const char *colon = strchr(err->message, ':');
    snprintf(run->error, sizeof run->error, "%.*s", colon ? (int)(colon - err->message) : 60, err->message);
    if (getenv("ASL_VERBOSE"))
        printf("    %s\n", err->message);
    return -1;
}

static int run_machine(struct run *run, const struct json_value *machine, const struct json_value *input,
                       const struct json_value *context, struct json_value *ret_output);

/* The context object inside an iteration. */
static void item_context(struct run *run, const struct json_value *context, const struct json_value *item,
                         unsigned index, struct json_value *ret_context)
{
    BUFFER_AUTO out = BUFFER_INIT;
    size_t len;
    buffer_append(&out, context->text, context->len - 1);
    const char *raw = json_raw(item, &len);
    buffer_printf(&out, "%s\"Map\":{\"Item\":{\"Index\":%u,\"Value\":", context->len > 2 ? "," : "", index);
    buffer_append(&out, raw, len);
    buffer_append_text(&out, "}}}");
    assert_int_equal(evaluation_keep(run->evaluation, &out, ret_context, NULL), 0);
}

static int run_map(struct run *run, const struct state *s, const struct json_value *document,
                   const struct json_value *raw, const struct json_value *context,
                   struct json_value *ret_result)
{
    struct json_value items, item, name, machine, inside, input, output;
    struct json_iter iter;
    struct error err;
    BUFFER_AUTO results = BUFFER_INIT;
    unsigned n = 0;
    if (!json_member(document, "ItemProcessor", &machine))
        assert_true(json_member(document, "Iterator", &machine));
    set_input(run, raw, context);
    if (state_items(s, run->evaluation, &items, &err) < 0)
        return failed(run, &err);
    buffer_append_char(&results, '[');
    json_iter_init(&iter, &items);
    for (; json_next(&iter, &name, &item); n++) {
        size_t len;
        item_context(run, context, &item, n, &inside);
        set_input(run, raw, &inside);
        if (state_item(s, run->evaluation, &item, &input, &err) < 0)
            return failed(run, &err);
        if (run_machine(run, &machine, &input, &inside, &output) < 0)
            return -1;
        const char *text = json_raw(&output, &len);
        if (n)
            buffer_append_char(&results, ',');
        buffer_append(&results, text, len);
    }
    buffer_append_char(&results, ']');
    assert_int_equal(evaluation_keep(run->evaluation, &results, ret_result, NULL), 0);
    return 0;
}

static int run_parallel(struct run *run, const struct state *s, const struct json_value *document,
                        const struct json_value *raw, const struct json_value *context,
                        struct json_value *ret_result)
{
    struct json_value branches, machine, name, input, output;
    struct json_iter iter;
    struct error err;
    BUFFER_AUTO results = BUFFER_INIT;
    set_input(run, raw, context);
    if (state_enter(s, run->evaluation, &input, &err) < 0)
        return failed(run, &err);
    assert_true(json_member(document, "Branches", &branches));
    buffer_append_char(&results, '[');
    json_iter_init(&iter, &branches);
    while (json_next(&iter, &name, &machine)) {
        size_t len;
        if (run_machine(run, &machine, &input, context, &output) < 0)
            return -1;
        const char *text = json_raw(&output, &len);
        if (results.len > 1)
            buffer_append_char(&results, ',');
        buffer_append(&results, text, len);
    }
    buffer_append_char(&results, ']');
    assert_int_equal(evaluation_keep(run->evaluation, &results, ret_result, NULL), 0);
    return 0;
}

static int run_task(struct run *run, const struct state *s, const struct json_value *name,
                    const struct json_value *raw, const struct json_value *context,
                    struct json_value *ret_result)
{
    struct json_value input, mock, value;
    struct error err;
    set_input(run, raw, context);
    if (state_enter(s, run->evaluation, &input, &err) < 0)
        return failed(run, &err);
    if (!asl_mocks_find(&run->mocks, run->test, name, &input, &mock))
        return ends(run, "NoMock");
    if (json_member(&mock, "result", ret_result))
        return 0;
    BUFFER_AUTO error = BUFFER_INIT;
    return ends(run, json_member(&mock, "error", &value) && text_member(&mock, "error", &error)
                         ? buffer_text(&error)
                         : "States.Timeout");
}

static int run_choice(struct run *run, const struct state *s, const struct json_value *document,
                      const struct json_value *raw, const struct json_value *context,
                      struct json_value *ret_output, struct buffer *ret_next)
{
    struct json_value choices, rule, name, input;
    struct json_iter iter;
    struct error err;
    set_input(run, raw, context);
    if (state_enter(s, run->evaluation, &input, &err) < 0)
        return failed(run, &err);
    assert_true(json_member(document, "Choices", &choices));
    json_iter_init(&iter, &choices);
    while (json_next(&iter, &name, &rule)) {
        struct choice *choice;
        assert_int_equal(choice_load(&rule, &choice, &err), 0);
        set_input(run, &input, context);
        int r = choice_evaluate(choice, run->evaluation, &err);
        choice_free(choice);
        if (r < 0) {
            error_prefix(&err, "States.Runtime");
            return failed(run, &err);
        }
        if (r == CHOICE_HOLDS) {
            text_member(&rule, "Next", ret_next);
            break;
        }
    }
    if (!ret_next->len && !text_member(document, "Default", ret_next))
        return ends(run, "States.NoChoiceMatched");
    set_input(run, raw, context);
    return state_leave(s, run->evaluation, &input, ret_output, &err) < 0 ? failed(run, &err) : 0;
}

static int run_fail(struct run *run, const struct state *s)
{
    struct failure failure;
    struct error err;
    if (state_fail(s, run->evaluation, &failure, &err) < 0)
        return failed(run, &err);
    int r = ends(run, failure.has_error ? buffer_text(&failure.error) : "");
    failure_done(&failure);
    return r;
}

static int run_state(struct run *run, const struct state *s, const struct json_value *name,
                     const struct json_value *document, const struct json_value *raw,
                     const struct json_value *context, struct json_value *ret_output, struct buffer *ret_next)
{
    struct json_value result = {0};
    struct error err;
    int r = 0;
    BUFFER_AUTO type = BUFFER_INIT;
    text_member(document, "Type", &type);
    text_member(document, "Next", ret_next);
    const char *kind = buffer_text(&type);
    set_input(run, raw, context);
    if (!strcmp(kind, "Pass"))
        return state_pass(s, run->evaluation, ret_output, &err) < 0 ? failed(run, &err) : 0;
    if (!strcmp(kind, "Choice"))
        return run_choice(run, s, document, raw, context, ret_output, ret_next);
    if (!strcmp(kind, "Fail"))
        return run_fail(run, s);
    if (!strcmp(kind, "Task"))
        r = run_task(run, s, name, raw, context, &result);
    else if (!strcmp(kind, "Map"))
        r = run_map(run, s, document, raw, context, &result);
    else if (!strcmp(kind, "Parallel"))
        r = run_parallel(run, s, document, raw, context, &result);
    else if (state_enter(s, run->evaluation, &result, &err) < 0)
        return failed(run, &err);
    if (r < 0)
        return -1;
    set_input(run, raw, context);
    return state_leave(s, run->evaluation, &result, ret_output, &err) < 0 ? failed(run, &err) : 0;
}

static int run_machine(struct run *run, const struct json_value *machine, const struct json_value *input,
                       const struct json_value *context, struct json_value *ret_output)
{
    struct json_value states, document, start, value = *input;
    BUFFER_AUTO at = BUFFER_INIT;
    assert_true(text_member(machine, "StartAt", &at));
    assert_true(json_member(machine, "States", &states));
    assert_true(json_member(machine, "StartAt", &start));
    while (at.len) {
        struct json_value name = {.text = at.data, .len = at.len, .type = JSON_STRING};
        struct state *s = NULL;
        struct error err;
        BUFFER_AUTO next = BUFFER_INIT;
        if (++run->transitions > MAX_TRANSITIONS)
            return ends(run, "too many transitions");
        assert_true(json_member(&states, buffer_text(&at), &document));
        if (state_load(&document, &s, &err) < 0) /* refused before it runs: as good as States.Runtime */
            return ends(run, "States.Runtime");
        int r = run_state(run, s, &name, &document, &value, context, ret_output, &next);
        if (r == 0)
            keep(run, ret_output); /* it may borrow from the state */
        state_free(s);
        if (r < 0)
            return -1;
        value = *ret_output;
        at.len = 0;
        buffer_append(&at, next.data, next.len);
    }
    return 0;
}

/* --- cases --- */

static const char *const beyond_tags[] = {"task_token", "activity", NULL};
static const char *const beyond[] = {"Retry", "Catch", "Assign", "Wait", "TimeoutSeconds", "HeartbeatSeconds",
                                     NULL};

static void execution_context(struct run *run, const struct json_value *input, struct json_value *ret_context)
{
    BUFFER_AUTO out = BUFFER_INIT;
    size_t len;
    const char *raw = json_raw(input, &len);
    buffer_append_text(&out, "{\"Execution\":{\"Input\":");
    buffer_append(&out, raw, len);
    buffer_append_text(&out, "},\"State\":{\"RetryCount\":0}}");
    assert_int_equal(evaluation_keep(run->evaluation, &out, ret_context, NULL), 0);
}

static bool passes(const struct json_value *test)
{
    struct evaluation evaluation;
    struct json_value definition, input, context, expect, status, wanted, output = {0};
    evaluation_init(&evaluation, 1);
    struct run run = {.test = test, .evaluation = &evaluation};
    assert_true(json_member(test, "definition", &definition) && json_member(test, "input", &input) &&
                json_member(test, "expect", &expect) && json_member(&expect, "status", &status));
    if (!json_member(test, "context", &context) || context.type != JSON_OBJECT)
        execution_context(&run, &input, &context);
    int r = run_machine(&run, &definition, &input, &context, &output);
    bool pass = json_equals(&status, r == 0 ? "SUCCEEDED" : "FAILED", r == 0 ? 9 : 6);
    if (pass && r == 0)
        pass = json_member(&expect, "output", &wanted) && same(&wanted, &output);
    else if (pass && json_member(&expect, "error", &wanted) && wanted.type == JSON_STRING)
        pass = json_equals(&wanted, run.error, strlen(run.error));
    if (!pass) {
        size_t len = output.len;
        print_message("  got %s %.*s\n", r < 0 ? run.error : "",
                      (int)(r < 0       ? 0
                            : len < 300 ? len
                                        : 300),
                      r < 0 ? "" : output.text);
    }
    evaluation_done(&evaluation);
    return pass;
}

static void test_executions(void **state)
{
    struct asl_cases cases;
    unsigned passed = 0, failures = 0;
    (void)state;
    if (asl_cases_read(&cases, "asl_cases.jsonl") < 0)
        skip();
    for (size_t i = 0; i < cases.n; i++) {
        if (!asl_cases_covered(&cases, i, beyond, beyond_tags))
            continue;
        if (passes(&cases.values[i])) {
            passed++;
            continue;
        }
        failures++;
        asl_cases_name(&cases, i);
    }
    asl_cases_report(&cases, "executions, evaluated", passed, failures);
    asl_cases_done(&cases);
    assert_int_equal(failures, 0);
}

/* --- single states --- */

/* Strings that were scrubbed from the recording (<table_name>, date) match any. */
static bool resembles(const struct json_value *wanted, const struct json_value *value)
{
    struct json_iter iter;
    struct json_value name, child, other;
    struct json_iter others;
    if (wanted->type == JSON_STRING && value->type == JSON_STRING &&
        (memchr(wanted->text, '<', wanted->len) || json_equals(wanted, "date", 4)))
        return true;
    if (wanted->type != value->type || (wanted->type != JSON_OBJECT && wanted->type != JSON_ARRAY))
        return same(wanted, value);
    json_iter_init(&iter, wanted);
    json_iter_init(&others, value);
    while (json_next(&iter, &name, &child)) {
        BUFFER_AUTO plain = BUFFER_INIT;
        json_unescape(&name, &plain);
        if (wanted->type == JSON_ARRAY ? !json_next(&others, &name, &other)
                                       : !json_member(value, buffer_text(&plain), &other))
            return false;
        if (!resembles(&child, &other))
            return false;
    }
    return true;
}

static int run_single(struct run *run, const struct json_value *document, const struct json_value *input,
                      const struct json_value *context, struct json_value *ret_output)
{
    static const struct json_value name = {.text = "", .type = JSON_STRING};
    struct json_value mock, text, result;
    struct state *s;
    struct error err;
    int r = 0;
    BUFFER_AUTO next = BUFFER_INIT;
    BUFFER_AUTO plain = BUFFER_INIT;
    assert_int_equal(state_load(document, &s, &err), 0);
    if (!json_member(run->test, "mock", &mock) || !json_member(&mock, "result", &text)) {
        r = run_state(run, s, &name, document, input, context, ret_output, &next);
    } else {
        json_unescape(&text, &plain);
        assert_int_equal(evaluation_keep(run->evaluation, &plain, &result, NULL), 0);
        set_input(run, input, context);
        if (json_member(document, "ItemProcessor", &mock) ? state_items(s, run->evaluation, &mock, &err) < 0
                                                          : state_enter(s, run->evaluation, &mock, &err) < 0)
            r = failed(run, &err);
        set_input(run, input, context);
        if (r == 0 && state_leave(s, run->evaluation, &result, ret_output, &err) < 0)
            r = failed(run, &err);
    }
    if (r == 0)
        keep(run, ret_output);
    state_free(s);
    return r;
}

static bool single_passes(const struct json_value *test)
{
    struct evaluation evaluation;
    struct json_value document, input, context, expect, status, wanted, output = {0};
    evaluation_init(&evaluation, 1);
    struct run run = {.test = test, .evaluation = &evaluation};
    assert_true(json_member(test, "state", &document) && json_member(test, "input", &input) &&
                json_member(test, "expect", &expect) && json_member(&expect, "status", &status));
    if (!json_member(test, "context", &context))
        execution_context(&run, &input, &context);
    int r = run_single(&run, &document, &input, &context, &output);
    bool pass = json_equals(&status, r == 0 ? "SUCCEEDED" : "FAILED", r == 0 ? 9 : 6);
    if (pass && r == 0) {
        BUFFER_AUTO plain = BUFFER_INIT;
        pass = json_member(&expect, "output", &wanted);
        if (pass && wanted.type == JSON_STRING && output.type != JSON_STRING) { /* recorded as text */
            json_unescape(&wanted, &plain);
            assert_int_equal(evaluation_keep(&evaluation, &plain, &wanted, NULL), 0);
        }
        pass = pass && resembles(&wanted, &output);
    } else if (pass && json_member(&expect, "error", &wanted)) {
        pass = json_equals(&wanted, run.error, strlen(run.error));
    }
    evaluation_done(&evaluation);
    return pass;
}

static void test_single_states(void **state)
{
    static const char *const not_here[] = {"QueryLanguage", "Assign", "Retry", "Catch", NULL};
    struct asl_cases cases;
    unsigned passed = 0, failures = 0;
    (void)state;
    if (asl_cases_read(&cases, "asl_teststate_cases.jsonl") < 0)
        skip();
    for (size_t i = 0; i < cases.n; i++) {
        struct json_value document, type;
        if (!json_member(&cases.values[i], "state", &document) || !json_member(&document, "Type", &type) ||
            !asl_cases_covered(&cases, i, not_here, not_here))
            continue;
        if (single_passes(&cases.values[i])) {
            passed++;
            continue;
        }
        failures++;
        asl_cases_name(&cases, i);
    }
    asl_cases_report(&cases, "single states", passed, failures);
    asl_cases_done(&cases);
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_executions),
        cmocka_unit_test(test_single_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
