/* What validate finds in a workflow's file, and what it leaves alone. */
#include "cli/validate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "worker/action/action.h"
#include "worker/condition/condition.h"
#include "worker/source/source.h"
#include "cli/manifest.h"

#define HTTP "workspace: w\nevent_sources: {http: {class: http}}\ntriggers:\n"

/* All findings, a line each. */
static const char *findings_of(const char *text)
{
    static char lines[65536];
    struct manifest manifest;
    struct findings findings = FINDINGS_INIT;
    struct error err;
    size_t len = 0;
    if (manifest_parse("f", text, strlen(text), &manifest, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    assert_int_equal(validate(&manifest, &findings), 0);
    lines[0] = '\0';
    for (size_t i = 0; i < findings.n && len < sizeof lines; i++)
        len += (size_t)snprintf(
            lines + len, sizeof lines - len, "%s %s: %s\n", finding_level_name(findings.list[i].level),
            findings.text.data + findings.list[i].where, findings.text.data + findings.list[i].what);
    findings_done(&findings);
    manifest_done(&manifest);
    return lines;
}

static void assert_finds(const char *text, const char *expected)
{
    const char *lines = findings_of(text);
    if (!strstr(lines, expected))
        fail_msg("%s\nhas findings:\n%s\nbut not: %s", text, lines, expected);
}

static void assert_lacks(const char *text, const char *unexpected)
{
    const char *lines = findings_of(text);
    if (strstr(lines, unexpected))
        fail_msg("%s\nhas findings:\n%s", text, lines);
}

/* A fan-out, a join and an end: nothing but what comes from outside is noted. */
static void test_clean(void **state)
{
    (void)state;
    assert_string_equal(
        findings_of(HTTP
                    "  fork: {activation_events: [{type: go, subject: s}], condition: TRUE, action: PASS}\n"
                    "  join: {activation_events: [{type: done, subject: s}], condition: JOIN,\n"
                    "         context: {join: 1000}, action: {name: EMIT, event: {type: joined}}}\n"
                    "  end: {activation_events: [{type: joined, subject: s}], condition: TRUE,\n"
                    "        action: TERMINATE}\n"),
        "note trigger fork: nothing in this file emits type go subject s: something outside has to publish "
        "it\n"
        "note trigger join: nothing in this file emits type done subject s: something outside has to publish "
        "it\n");
    assert_string_equal(findings_of("workspace: w\n"), "");
}

static void test_structure(void **state)
{
    static const char *const cases[][2] = {
        {"workspace: triggerflow\n", "error workspace: triggerflow is no workspace's name"},
        {"workspace: 'a b'\n", "error workspace: a b is no workspace's name"},
        {"workspace: w\nevent_sources: {s: {class: Foo}}\n", "error event source s: unknown class Foo"},
        {"workspace: w\nevent_sources: [{name: s, class: http}, {name: s, class: http}]\n",
         "error event source s: the name is given twice"},
        {HTTP "  - {id: t, activation_events: [a], condition: TRUE, action: PASS}\n"
              "  - {id: t, activation_events: [a], condition: TRUE, action: PASS}\n",
         "error trigger t: the id is given twice"},
        {HTTP "  t: {activation_events: [a], condition: JION, action: PASS}\n",
         "error trigger t: unknown condition JION"},
        {HTTP "  t: {activation_events: [a], condition: TRUE, action: EMITT}\n",
         "error trigger t: unknown action EMITT"},
        {HTTP "  t: {activation_events: [{type: e, subject: a}], condition: DAG_TASK_JOIN, action: PASS}\n",
         "error trigger t: its condition needs context.dependencies"},
        {HTTP "  t: {activation_events: [{type: e, subject: a}], condition: DAG_TASK_JOIN, action: PASS,\n"
              "      context: {dependencies: {a: {join: -1, counter: 0}, b: {join: -1, counter: 0}}}}\n",
         "warning trigger t: it depends on b, but no event with that subject activates it"},
        {HTTP "  t: {activation_events: [{type: e, subject: a}, {type: e, subject: b}], condition: "
              "DAG_TASK_JOIN,\n"
              "      action: PASS, context: {dependencies: {a: {join: -1, counter: 0}}}}\n",
         "warning trigger t: it is activated by the subject b, which is not among its dependencies"},
        {HTTP "  t: {activation_events: [a], condition: JOIN, action: PASS}\n",
         "error trigger t: its condition needs context.join"},
        {HTTP "  t: {activation_events: [a], condition: JOIN, context: {join: '3'}, action: PASS}\n",
         "error trigger t: context.join is \"3\", not a positive whole number"},
        {HTTP "  t: {activation_events: [a], condition: JOIN, context: {join: 0}, action: PASS}\n",
         "error trigger t: context.join is 0, not a positive whole number"},
        {HTTP "  t: {activation_events: [a], condition: COUNTER_THRESHOLD, action: PASS}\n",
         "error trigger t: its condition needs context.threshold"},
        {HTTP "  t: {activation_events: [a], condition: TRUE, action: {name: EMIT, event: {}}}\n",
         "error trigger t: EMIT needs event.type"},
        {HTTP "  t: {activation_events: [a], condition: TRUE,\n"
              "      action: {name: EMIT, event_source: other, event: {type: x}}}\n",
         "error trigger t: emits to event source other, which this file does not define"},
        {"workspace: w\ntriggers: {t: {activation_events: [a], condition: TRUE,\n"
         "      action: {name: EMIT, event_source: other, event: {type: x}}}}\n",
         "warning trigger t: emits to event source other, which this file does not define"},
        {HTTP "  t: {activation_events: [a], condition: TRUE, action: PASS, contxt: {}}\n",
         "warning trigger t: member contxt means nothing to a trigger"},
        {HTTP "  t: {activation_events: [a], action: PASS}\n", "error : trigger t: condition is missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_finds(cases[i][0], cases[i][1]);
}

static void test_unreachable(void **state)
{
    (void)state;
    assert_finds(HTTP "  t: {activation_events: [], condition: TRUE, action: PASS}\n",
                 "warning trigger t: no event activates it");
    /* A typo in a subject. */
    assert_finds(HTTP "  a: {activation_events: [go], condition: TRUE,\n"
                      "      action: {name: EMIT, event: {type: done, subject: x}}}\n"
                      "  b: {activation_events: [{type: done, subject: y}], condition: TRUE, action: PASS}\n",
                 "warning trigger b: this file emits type done, but nothing in it with subject y");
    assert_finds(HTTP "  a: {activation_events: [go], condition: TRUE,\n"
                      "      action: {name: EMIT, event: {type: done, subject: x}}}\n",
                 "warning trigger a: it emits type done subject x into the workflow, where no trigger waits");
    /* Two that only start each other. */
    static const char loop[] =
        HTTP "  a: {activation_events: [x], condition: TRUE, action: {name: EMIT, event: {type: y}}}\n"
             "  b: {activation_events: [y], condition: TRUE, action: {name: EMIT, event: {type: x}}}\n"
             "  end: {activation_events: [x], condition: TRUE, action: TERMINATE}\n";
    assert_finds(loop, "warning trigger a: no event can reach it");
    assert_finds(loop, "warning trigger end: TERMINATE is never reached");
    /* With no event source that is read, nothing comes from outside. */
    assert_finds("workspace: w\nevent_sources: {o: {class: redis, parameters: {consume: false}}}\n"
                 "triggers: {t: {activation_events: [a], condition: TRUE, action: PASS}}\n",
                 "error trigger t: no event can reach it: nothing in the file emits one");
    /* What goes to an event source that is not read does not come back. */
    assert_finds(
        "workspace: w\nevent_sources:\n  o: {class: redis, parameters: {consume: false}}\n  i: {class: "
        "http}\n"
        "triggers:\n"
        "  a: {activation_events: [go], condition: TRUE,\n"
        "      action: {name: EMIT, event_source: o, event: {type: done, subject: x}}}\n"
        "  b: {activation_events: [{type: done, subject: x}], condition: TRUE, action: PASS}\n",
        "warning trigger b: its event type done subject x is only emitted to an event source that is");
}

static void test_joins(void **state)
{
    /* One event for a join of two; the subject is handed on. */
    static const char join[] =
        HTTP "  go: {activation_events: [{type: go, subject: s}], condition: TRUE, transient: %s,\n"
             "       action: {name: EMIT, event: {type: done}}}\n"
             "  join: {activation_events: [{type: done, subject: s}], condition: %s,\n"
             "         context: {join: %d, threshold: %d, total_activations: %d, counter: %d}, action: "
             "TERMINATE}\n";
    static const struct {
        const char *transient, *condition;
        int limit, counter;
        bool error;
    } cases[] = {{"true", "JOIN", 2, 0, true},
                 {"true", "JOIN", 1, 0, false},
                 {"true", "JOIN", 2, 1, false},
                 {"true", "JOIN", 2, 2, true},
                 {"false", "JOIN", 1000, 0, false},
                 {"true", "FUNCTION_JOIN", 2, 0, true},
                 {"true", "FUNCTION_JOIN", 1, 0, false},
                 {"true", "COUNTER_THRESHOLD", 2, 0, true},
                 {"true", "COUNTER_THRESHOLD", 2, 5, false},
                 {"true", "COUNTER_THRESHOLD", 1, 0, false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1000];
        snprintf(text, sizeof text, join, cases[i].transient, cases[i].condition, cases[i].limit,
                 cases[i].limit, cases[i].limit, cases[i].counter);
        if (cases[i].error)
            assert_finds(text, "cannot complete");
        else
            assert_lacks(text, "cannot complete");
        if (cases[i].error)
            assert_finds(text, "warning trigger join: TERMINATE is never reached");
    }
    assert_finds(
        HTTP "  a: {activation_events: [go], condition: JOIN, context: {join: 5},\n"
             "      action: {name: EMIT, event: {type: done}}}\n"
             "  b: {activation_events: [done], condition: JOIN, context: {join: 3}, action: PASS}\n",
        "error trigger b: its join of 3 cannot complete: what emits its events does so at most 1 time\n");
}

/* Several emitters add up, one event that matches twice counts once, loops are endless, wildcards match. */
static void test_sums(void **state)
{
    (void)state;
    static const char three[] = HTTP
        "  a: {activation_events: [go], condition: TRUE, transient: true, action: {name: EMIT, event: {type: "
        "x}}}\n"
        "  b: {activation_events: [go], condition: TRUE, transient: true, action: {name: EMIT, event: {type: "
        "y}}}\n"
        "  j: {activation_events: [x, y, {type: '*', subject: '*'}], condition: JOIN, context: {join: %d},\n"
        "      action: TERMINATE}\n"
        "  g: {activation_events: [go], condition: TRUE, action: PASS}\n";
    char text[1000];
    snprintf(text, sizeof text, three, 2);
    assert_lacks(text, "cannot complete");
    snprintf(text, sizeof text, three, 3);
    assert_finds(
        text,
        "error trigger j: its join of 3 cannot complete: what emits its events does so at most 2 times");
    assert_lacks(
        HTTP
        "  a: {activation_events: [go, again], condition: TRUE,\n"
        "      action: {name: EMIT, event: {type: again, subject: ''}}}\n"
        "  j: {activation_events: [again], condition: JOIN, context: {join: 1000000}, action: TERMINATE}\n",
        "cannot complete");
    /* A loop that one transient trigger starts. */
    assert_lacks(
        HTTP "  s: {activation_events: [go], condition: TRUE, transient: true, action: {name: EMIT, event: "
             "{type: l}}}\n"
             "  l: {activation_events: [l], condition: TRUE, action: {name: EMIT, event: {type: l}}}\n"
             "  j: {activation_events: [l], condition: JOIN, context: {join: 1000000}, action: TERMINATE}\n",
        "cannot complete");
}

/* DAGs and state machines: what functions publish is theirs to publish. */
static void test_compiled(void **state)
{
    (void)state;
    const char *lines = findings_of(
        HTTP
        "  a: {activation_events: [{type: event.triggerflow.init, subject: __init__}], condition: TRUE,\n"
        "      context: {subject: a}, action: {name: IBM_CF_INVOKE, url: x}}\n"
        "  b: {activation_events: [{type: event.triggerflow.termination.success, subject: a}],\n"
        "      condition: DAG_TASK_JOIN, context: {subject: b, dependencies: {}}, action: DAG_DUMMY_TASK}\n"
        "  end: {activation_events: [{type: event.triggerflow.termination.success, subject: b}],\n"
        "      condition: DAG_TASK_JOIN, context: {subject: e, dependencies: {}}, action: TERMINATE}\n");
    assert_string_equal(lines,
                        "note trigger a: nothing in this file emits type event.triggerflow.init subject "
                        "__init__: something outside has to publish it\n");
}

/* Answers of services and ends of programs lead on, where it can be told to whom. */
static void test_replies(void **state)
{
    (void)state;
    const char *lines = findings_of(
        HTTP
        "  a: {activation_events: [{type: go, subject: s}], condition: TRUE,\n"
        "      action: {name: EXEC, argv: [/bin/true]}}\n"
        "  b: {activation_events: [{type: event.triggerflow.termination.success, subject: a}], condition: "
        "TRUE,\n"
        "      context: {subject: bb}, action: {name: HTTP_INVOKE, url: x, reply: event, reply_type: told}}\n"
        "  c: {activation_events: [{type: told, subject: bb}], condition: TRUE,\n"
        "      action: {name: EXEC, argv: [/bin/true], reply_type: '${event.type}'}}\n"
        "  d: {activation_events: [{type: other, subject: x}], condition: TRUE,\n"
        "      action: {name: EXEC, argv: [/bin/true], reply: ignore}}\n");
    assert_null(strstr(lines, "trigger b"));
    assert_null(strstr(lines, "trigger c"));
    assert_non_null(strstr(lines, "note trigger a: nothing in this file emits type go"));
    assert_non_null(strstr(lines, "note trigger d: nothing in this file emits type other"));
}

#define FAILURE                                                                             \
    "  f: {activation_events: [{type: event.triggerflow.termination.failure, subject: s}]," \
    " condition: TRUE, action: DAG_TASK_FAILURE_HANDLER}\n"

#define CATCHING                                                                                        \
    HTTP "  A: {activation_events: [{type: lambda.success, subject: __init__}, {type: lambda.success, " \
         "subject: A.again}], condition: AWS_ASF_CONDITION, action: {name: AWS_ASF_TASK}, context: "    \
         "{State: {Type: Task, Resource: f}}}\n"                                                        \
         "  A.failed: {activation_events: [{type: lambda.success, subject: A}, {type: lambda.failure, " \
         "subject: A}], condition: AWS_ASF_CATCH, action: AWS_ASF_CATCH, context: {Subject: A, State: " \
         "{Catch: [{ErrorEquals: [E], Next: B}]}}}\n"                                                   \
         "  B: {activation_events: [{type: lambda.success, subject: A.catch0}], condition: "            \
         "AWS_ASF_CONDITION, action: AWS_ASF_PASS, context: {State: {Type: Fail}}}\n"

/* A failure may come from the worker, when something is called; a state's subject is by default its name. */
static void test_failures_and_states(void **state)
{
    (void)state;
    assert_finds(HTTP FAILURE, "note trigger f: nothing in this file emits");
    assert_lacks(HTTP FAILURE "  c: {activation_events: [{type: go, subject: s}], condition: TRUE, action: "
                              "{name: HTTP_INVOKE, url: x}}\n",
                 "trigger f");
    assert_lacks(HTTP "  A: {activation_events: [{type: lambda.success, subject: __init__}], condition: "
                      "AWS_ASF_CONDITION, action: AWS_ASF_PASS, context: {State: {Type: Pass}}}\n"
                      "  B: {activation_events: [{type: lambda.success, subject: A}], condition: "
                      "AWS_ASF_CONDITION, action: AWS_ASF_PASS, context: {State: {Type: Fail}}}\n",
                 "warning");
    assert_lacks(CATCHING, "trigger A.failed");
    assert_lacks(CATCHING, "trigger B");
}

/* Many triggers of one type are judged in reasonable time, and findings are bounded. */
static void test_large(void **state)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct manifest manifest;
    struct findings findings = FINDINGS_INIT;
    struct error err;
    (void)state;
    buffer_append_text(&text, HTTP);
    for (int i = 0; i < 5000; i++)
        buffer_printf(&text,
                      "  t%d: {activation_events: [{type: t, subject: s%d}], condition: TRUE,"
                      " action: {name: EMIT, event: {type: t, subject: s%d}}, x: 1}\n",
                      i, i, i + 1);
    assert_int_equal(manifest_parse("f", text.data, text.len, &manifest, &err), 0);
    assert_int_equal(validate(&manifest, &findings), 0);
    assert_int_equal(findings.counts[FINDING_ERROR], 0);
    assert_int_equal(findings.counts[FINDING_WARNING], 5002);
    assert_int_equal(findings.n, FINDINGS_MAX + 1);
    findings_done(&findings);
    manifest_done(&manifest);
}

/* Every name that the worker knows, in a file of its own, between these two texts. */
static void assert_known(void (*names)(struct buffer *out), const char *before, const char *behind)
{
    BUFFER_AUTO all = BUFFER_INIT;
    char *rest = NULL;
    names(&all);
    assert_true(strlen(buffer_text(&all)) > 0);
    for (char *name = strtok_r(all.data, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest)) {
        char text[300];
        snprintf(text, sizeof text, "%s%s%s", before, name, behind);
        assert_lacks(text, "unknown");
    }
}

static void test_names_of_the_worker(void **state)
{
    (void)state;
    assert_known(action_names,
                 HTTP "  t: {activation_events: [{type: a, subject: s}], condition: TRUE, action: ", "}\n");
    assert_known(condition_names,
                 HTTP "  t: {activation_events: [{type: a, subject: s}], action: PASS, condition: ", "}\n");
    assert_known(source_names, "workspace: w\nevent_sources: {s: {class: ", "}}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clean),
        cmocka_unit_test(test_names_of_the_worker),
        cmocka_unit_test(test_failures_and_states),
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_joins),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_compiled),
        cmocka_unit_test(test_replies),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
