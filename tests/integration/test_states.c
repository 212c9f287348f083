/* State machines through the real worker: the recorded executions of Amazon's service
 * (TRIGGERFLOW_CONFORMANCE_DIR) that its triggers can express, all in one workspace, their tasks on a
 * function service that speaks Lambda's contract over HTTP; and what happens to answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "tests/support/asl_cases.h"
#include "tests/support/asl_compile.h"
#include "tests/support/function_server.h"
#include "tests/support/supervised.h"
#include "tests/support/worker_bed.h"

#define REGION "eu-west-1"
#define SECOND 0.05 /* of Wait, Retry and TimeoutSeconds, where they are not in the input */

struct bed {
    struct worker_bed *worker;
    struct function_server *server;
    struct buffer task; /* the action of Tasks */
};

static struct redis_server redis;

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    assert_non_null(bed->server = function_server_new());
    function_server_sigv4(bed->server, "AKID", "secret", NULL, REGION, "lambda");
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.publish = true});
    bed->worker = worker_bed_new(&redis);
    function_server_sink(bed->server, redis.port, "in");
    buffer_append_text(&bed->task, "{\"name\":\"AWS_ASF_TASK\",\"retries\":0,\"endpoint\":\"");
    function_server_url(bed->server, "", &bed->task);
    buffer_append_text(&bed->task, "\"}");
    redisReply *reply = redis_server_do(
        &redis, "HSET ws-global_context aws_credentials %s",
        "{\"access_key_id\":\"AKID\",\"secret_access_key\":\"secret\",\"region\":\"" REGION "\"}");
    assert_non_null(reply);
    freeReplyObject(reply);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    worker_bed_free(bed->worker);
    function_server_free(bed->server);
    buffer_done(&bed->task);
    free(bed);
    return 0;
}

static void put_trigger(void *data, const char *id, const char *document)
{
    const struct bed *bed = data;
    assert_int_equal(workspace_put_trigger(&bed->worker->workspace, id, document), 0);
}

/* --- recorded executions --- */

struct execution {
    size_t test; /* of the cases */
    char prefix[32];
    struct buffer start;
    struct buffer end;    /* trigger */
    unsigned first, last; /* machines' numbers */
    bool refused;
    bool over;
};

struct batch {
    struct bed *bed;
    struct asl_cases cases;
    struct execution *executions;
    size_t n;
    struct asl_mocks mocks;
};

static void append_raw(struct buffer *out, const struct json_value *object, const char *name)
{
    struct json_value value = {.text = "null", .len = 4, .type = JSON_NULL};
    size_t len;
    json_member(object, name, &value);
    const char *raw = value.type == JSON_ABSENT ? "null" : json_raw(&value, &len);
    buffer_append(out, raw, value.type == JSON_ABSENT ? 4 : len);
}

/* What Lambda says when a function has failed is Cause, as the service shows it; other failures are told as
 * they are. */
static void write_failure(const struct json_value *mock, struct buffer *result)
{
    struct json_value cause, root, value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (json_member(mock, "cause", &cause) && cause.type == JSON_STRING)
        json_unescape(&cause, &text);
    if (text.len && json_scan(text.data, text.len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
        json_member(&root, "errorType", &value)) {
        buffer_append(result, text.data, text.len);
        return;
    }
    buffer_append_text(result, "{\"Error\":");
    append_raw(result, mock, "error");
    buffer_append_text(result, ",\"Cause\":");
    append_raw(result, mock, "cause");
    buffer_append_char(result, '}');
}

/* The function of all tasks: the subject says whose task it is, and of which execution. */
static bool compute(void *data, const char *function, const struct json_value *payload, struct buffer *result)
{
    struct batch *batch = data;
    struct json_value subject, input, mock, value;
    BUFFER_AUTO text = BUFFER_INIT;
    (void)function;
    if (!json_member(payload, "__TRIGGERFLOW_SUBJECT", &subject) ||
        !json_member(payload, "__EVENT_DATA", &input))
        return false;
    json_unescape(&subject, &text);
    char *colon = strchr(buffer_text(&text), ':');
    size_t i = strtoul(buffer_text(&text) + 1, NULL, 10);
    if (!colon || i >= batch->cases.n)
        return false;
    struct json_value state = {.text = colon + 1, .len = strlen(colon + 1), .type = JSON_STRING};
    if (!asl_mocks_find(&batch->mocks, &batch->cases.values[i], &state, &input, &mock))
        return false;
    if (json_member(&mock, "timeout", &value)) /* never ends */
        return false;
    if (!json_member(&mock, "result", &value)) {
        write_failure(&mock, result);
        return false;
    }
    size_t len;
    const char *raw = json_raw(&value, &len);
    buffer_append(result, raw, len);
    return true;
}

static void add(struct batch *batch, size_t i, unsigned *number)
{
    const struct json_value *test = &batch->cases.values[i];
    struct json_value definition, input;
    struct execution *e = &batch->executions[batch->n];
    BUFFER_AUTO more = BUFFER_INIT;
    size_t len;
    *e = (struct execution){.test = i, .first = *number + 1};
    snprintf(e->prefix, sizeof e->prefix, "c%zu:", i);
    assert_true(json_member(test, "definition", &definition) && json_member(test, "input", &input));
    const char *raw = json_raw(&input, &len);
    if (memmem(definition.text, definition.len, "$$.Execution", 12)) {
        buffer_append_text(&more, ",\"Execution\":{\"Input\":");
        buffer_append(&more, raw, len);
        buffer_append_char(&more, '}');
    }
    struct asl_machine machine = {.prefix = e->prefix,
                                  .second = SECOND,
                                  .number = number,
                                  .more = buffer_text(&more),
                                  .task = buffer_text(&batch->bed->task),
                                  .put = put_trigger,
                                  .data = batch->bed};
    if (!asl_compile(&machine, &definition)) {
        e->refused = strncmp(machine.refused, "States.Runtime", 14) == 0;
        if (!e->refused) {
            asl_cases_leave_out(&batch->cases, machine.refused);
            asl_machine_done(&machine);
            return;
        }
    }
    e->start = machine.start;
    e->end = machine.end;
    e->last = *number;
    batch->n++;
}

static void publish(const struct batch *batch, const struct execution *e)
{
    struct json_value input;
    size_t len;
    BUFFER_AUTO data = BUFFER_INIT;
    BUFFER_AUTO start = BUFFER_INIT;
    assert_true(json_member(&batch->cases.values[e->test], "input", &input));
    const char *raw = json_raw(&input, &len);
    buffer_append(&data, raw, len);
    buffer_append(&start, e->start.data, e->start.len);
    assert_int_equal(workspace_publish_one(&batch->bed->worker->workspace, "in", e->prefix, "lambda.success",
                                           buffer_text(&start), buffer_text(&data)),
                     0);
}

/* Appends the details of the execution's dead letters, a line each. */
static void find_letters(const redisReply *letters, const struct execution *e, struct buffer *out)
{
    for (size_t i = 1; i < letters->elements; i += 2) {
        struct json_value letter, trigger, detail;
        BUFFER_AUTO id = BUFFER_INIT;
        unsigned number = 0;
        if (json_scan(letters->element[i]->str, letters->element[i]->len, &letter, NULL) < 0 ||
            !json_member(&letter, "trigger", &trigger) || !json_member(&letter, "detail", &detail))
            continue;
        json_unescape(&trigger, &id);
        if (strncmp(buffer_text(&id), e->prefix, strlen(e->prefix)) != 0 &&
            (sscanf(buffer_text(&id), "StateMachine%u", &number) != 1 || number < e->first ||
             number > e->last))
            continue;
        json_unescape(&detail, out);
        buffer_append_char(out, '\n');
    }
}

static bool read_result(const struct batch *batch, const struct execution *e, struct buffer *out)
{
    struct json_value root, context, result;
    size_t len;
    BUFFER_AUTO end = BUFFER_INIT;
    buffer_append(&end, e->end.data, e->end.len);
    char *text = workspace_get(&batch->bed->worker->workspace, "triggers", buffer_text(&end));
    bool found = text && json_scan(text, strlen(text), &root, NULL) == 0 &&
                 json_member(&root, "context", &context) && json_member(&context, "result", &result);
    if (found) {
        const char *raw = json_raw(&result, &len);
        buffer_append(out, raw, len);
    }
    free(text);
    return found;
}

static bool passes(const struct batch *batch, const struct execution *e, const redisReply *letters)
{
    struct json_value expect, status, wanted, got;
    uint64_t steps = 1u << 30;
    bool same = false;
    BUFFER_AUTO result = BUFFER_INIT;
    BUFFER_AUTO letter = BUFFER_INIT;
    assert_true(json_member(&batch->cases.values[e->test], "expect", &expect) &&
                json_member(&expect, "status", &status));
    bool ended = !e->refused && read_result(batch, e, &result);
    find_letters(letters, e, &letter);
    if (e->refused)
        buffer_append_text(&letter, "States.Runtime: refused");
    if (json_equals(&status, "SUCCEEDED", 9)) {
        if (ended && json_member(&expect, "output", &wanted) &&
            json_scan(result.data, result.len, &got, NULL) == 0)
            assert_int_equal(json_same(&wanted, &got, &steps, &same, NULL), 0);
        if (!same)
            printf("  got %.200s %s\n", ended ? buffer_text(&result) : "no result", buffer_text(&letter));
        return same;
    }
    BUFFER_AUTO error = BUFFER_INIT;
    if (json_member(&expect, "error", &wanted) && wanted.type == JSON_STRING)
        json_unescape(&wanted, &error);
    bool pass = !ended && letter.len && strstr(buffer_text(&letter), buffer_text(&error));
    if (!pass)
        printf("  expected %s, got %.200s %s\n", buffer_text(&error), buffer_text(&result),
               buffer_text(&letter));
    return pass;
}

static void compile_all(struct batch *batch)
{
    static const char *const beyond[] = {"Assign", "HeartbeatSeconds", NULL};
    static const char *const tags[] = {"task_token", "activity", NULL};
    unsigned number = 0;
    batch->executions = calloc(batch->cases.n, sizeof *batch->executions);
    assert_non_null(batch->executions);
    for (size_t i = 0; i < batch->cases.n; i++)
        if (asl_cases_covered(&batch->cases, i, beyond, tags))
            add(batch, i, &number);
}

static redisReply *read_letters(void)
{
    redisReply *letters = redis_server_do(&redis, "HGETALL ws-dead_letters");
    assert_non_null(letters);
    return letters;
}

/* Whether all have ended; looks at those only that had not, the last time. */
static bool are_over(struct batch *batch)
{
    redisReply *letters = read_letters();
    size_t left = 0;
    for (size_t i = 0; i < batch->n; i++) {
        struct execution *e = &batch->executions[i];
        BUFFER_AUTO text = BUFFER_INIT;
        if (e->refused || e->over)
            continue;
        find_letters(letters, e, &text);
        e->over = text.len || read_result(batch, e, &text);
        left += !e->over;
    }
    freeReplyObject(letters);
    return !left;
}

static void show_left(const struct batch *batch)
{
    for (size_t i = 0; i < batch->n; i++)
        if (!batch->executions[i].refused && !batch->executions[i].over)
            asl_cases_name(&batch->cases, batch->executions[i].test);
    worker_bed_show(batch->bed->worker);
}

static void test_executions(void **state)
{
    struct batch batch = {.bed = *state};
    unsigned passed = 0, failures = 0;
    if (asl_cases_read(&batch.cases, "asl_cases.jsonl") < 0)
        skip();
    compile_all(&batch);
    function_server_compute(batch.bed->server, compute, &batch);
    worker_bed_up(batch.bed->worker);
    for (size_t i = 0; i < batch.n; i++)
        if (!batch.executions[i].refused)
            publish(&batch, &batch.executions[i]);
    WAIT_ELSE(are_over(&batch), show_left(&batch));
    worker_bed_settle(batch.bed->worker);
    worker_bed_stop(batch.bed->worker);
    redisReply *letters = read_letters();
    for (size_t i = 0; i < batch.n; i++) {
        if (passes(&batch, &batch.executions[i], letters)) {
            passed++;
            continue;
        }
        failures++;
        asl_cases_name(&batch.cases, batch.executions[i].test);
    }
    freeReplyObject(letters);
    asl_cases_report(&batch.cases, "executions, through the worker", passed, failures);
    for (size_t i = 0; i < batch.n; i++) {
        buffer_done(&batch.executions[i].start);
        buffer_done(&batch.executions[i].end);
    }
    free(batch.executions);
    asl_cases_done(&batch.cases);
    assert_int_equal(failures, 0);
}

/* --- answers --- */

/* Stores a machine; *ret_end: the trigger of its end. */
static void store_with(struct bed *bed, const char *definition,
                       void (*put)(void *data, const char *id, const char *document), char ret_end[32])
{
    struct json_value root;
    unsigned number = 0;
    struct asl_machine machine = {.prefix = "",
                                  .second = SECOND,
                                  .number = &number,
                                  .more = "",
                                  .task = buffer_text(&bed->task),
                                  .put = put,
                                  .data = bed};
    assert_int_equal(json_scan(definition, strlen(definition), &root, NULL), 0);
    assert_true(asl_compile(&machine, &root));
    snprintf(ret_end, 32, "%s", buffer_text(&machine.end));
    asl_machine_done(&machine);
}

static void store(struct bed *bed, const char *definition, char ret_end[32])
{
    store_with(bed, definition, put_trigger, ret_end);
}

static void run(struct bed *bed, const char *input)
{
    assert_int_equal(
        workspace_publish_one(&bed->worker->workspace, "in", "run", "lambda.success", "__init__", input), 0);
    worker_bed_settle(bed->worker);
}

/* A member of a trigger's context; "" without it. Valid until the next call. */
static const char *context(const struct bed *bed, const char *trigger, const char *name)
{
    static struct buffer shown;
    struct json_value root, all, value;
    size_t len;
    char *text = workspace_get(&bed->worker->workspace, "triggers", trigger);
    assert_non_null(text);
    assert_int_equal(json_scan(text, strlen(text), &root, NULL), 0);
    assert_true(json_member(&root, "context", &all));
    buffer_reset(&shown, 4096);
    if (json_member(&all, name, &value)) {
        const char *raw = json_raw(&value, &len);
        buffer_append(&shown, raw, len);
    }
    free(text);
    return buffer_text(&shown);
}

static const char each[] =
    "{\"StartAt\":\"Each\",\"States\":{\"Each\":{\"Type\":\"Map\",\"End\":true,\"ItemProcessor\":"
    "{\"StartAt\":\"Task\",\"States\":{\"Task\":{\"Type\":\"Task\",\"Resource\":\"f\",\"End\":true,"
    "\"Parameters\":{\"n.$\":\"$.n\",\"behave.$\":\"$.behave\"},\"OutputPath\":\"$.n\"}}}}}}";

/* The function, which takes as long as its arguments say. */
static bool give_back(void *data, const char *function, const struct json_value *payload,
                      struct buffer *result)
{
    struct json_value n;
    (void)data;
    (void)function;
    if (!json_member(payload, "n", &n))
        return false;
    buffer_printf(result, "{\"n\":%.*s}", (int)n.len, n.text);
    return true;
}

static void write_items(unsigned n, struct buffer *items, struct buffer *results)
{
    for (unsigned i = 0; i < n; i++) {
        buffer_printf(items, "%c{\"n\":%u,\"behave\":{\"run_ms\":%u}}", i ? ',' : '[', i, (n - i) % 23);
        buffer_printf(results, "%c%u", i ? ',' : '[', i);
    }
    buffer_append_char(items, ']');
    buffer_append_char(results, ']');
}

/* By the key that they give back, results find their place, in whatever order they come. */
static void test_order(void **state)
{
    struct bed *bed = *state;
    char end[32];
    BUFFER_AUTO items = BUFFER_INIT;
    BUFFER_AUTO results = BUFFER_INIT;
    write_items(200, &items, &results);
    store(bed, each, end);
    function_server_compute(bed->server, give_back, NULL);
    worker_bed_up(bed->worker);
    run(bed, buffer_text(&items));
    AWAIT_BED(bed->worker, !strcmp(context(bed, end, "result"), buffer_text(&results)));
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    assert_int_equal(function_server_keys(bed->server, "f", "Task"), 200);
    run(bed, "[]");
    AWAIT_BED(bed->worker, !strcmp(context(bed, end, "result"), "[]"));
    worker_bed_stop(bed->worker);
}

/* Without keys each counts once all the same; their order is that of their arrival. */
static void test_without_keys(void **state)
{
    struct bed *bed = *state;
    char end[32];
    bool seen[50] = {false};
    struct json_value result, name, value;
    struct json_iter iter;
    unsigned n = 0;
    BUFFER_AUTO items = BUFFER_INIT;
    BUFFER_AUTO results = BUFFER_INIT;
    write_items(50, &items, &results);
    store(bed, each, end);
    function_server_compute(bed->server, give_back, NULL);
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.publish = true, .no_key = true});
    worker_bed_up(bed->worker);
    run(bed, buffer_text(&items));
    AWAIT_BED(bed->worker, *context(bed, end, "result"));
    worker_bed_stop(bed->worker);
    const char *text = context(bed, end, "result");
    assert_int_equal(json_scan(text, strlen(text), &result, NULL), 0);
    json_iter_init(&iter, &result);
    for (; json_next(&iter, &name, &value); n++) {
        int64_t item;
        assert_true(json_integer(&value, &item) && item >= 0 && item < 50 && !seen[item]);
        seen[item] = true;
    }
    assert_int_equal(n, 50);
}

static bool has_letter(const struct bed *bed, const char *text)
{
    (void)bed;
    redisReply *letters = read_letters();
    bool found = false;
    for (size_t i = 1; i < letters->elements && !found; i += 2)
        found = strstr(letters->element[i]->str, text);
    freeReplyObject(letters);
    return found;
}

static void assert_finished(const struct bed *bed, const char *count)
{
    char *text = workspace_get(&bed->worker->workspace, "checkpoint", "finished");
    assert_non_null(text);
    assert_non_null(strstr(text, count));
    free(text);
}

/* Nothing is kept of a run, whether it has failed or not. */
static void assert_nothing_kept(const struct bed *bed)
{
    static const char *const triggers[] = {"StateMachine1", "StateMachine2", "StateMachine3", "Both",
                                           "Task.failed",   "Each.failed",   "Both.failed"};
    static const char *const members[] = {"joins", "answers", "tries"};
    for (size_t t = 0; t < sizeof triggers / sizeof triggers[0]; t++) {
        char *text = workspace_get(&bed->worker->workspace, "triggers", triggers[t]);
        if (!text)
            continue;
        free(text);
        for (size_t m = 0; m < 3; m++)
            assert_string_equal(context(bed, triggers[t], members[m]), "");
    }
}

/* An invocation that is given up is a dead letter, its Map fails, and nobody waits for answers any more. */
static void test_given_up(void **state)
{
    struct bed *bed = *state;
    char end[32];
    store(bed, each, end);
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.status = 404});
    worker_bed_up(bed->worker);
    run(bed, "[{\"n\":1,\"behave\":{}},{\"n\":2,\"behave\":{}}]");
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 3);
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    assert_true(has_letter(bed, "Lambda.ResourceNotFoundException: answered 404"));
    assert_nothing_kept(bed);
    assert_string_equal(context(bed, end, "result"), "");
}

/* --- failures --- */

/* A function that fails for odd numbers, at each attempt but the `well`th (0: at all). */
struct odd {
    unsigned well;
    unsigned attempts[64];
};

static bool fail_odd(void *data, const char *function, const struct json_value *payload,
                     struct buffer *result)
{
    struct odd *odd = data;
    struct json_value n;
    int64_t number;
    (void)function;
    assert_true(json_member(payload, "n", &n) && json_integer(&n, &number) && number >= 0 && number < 64);
    if (number % 2 && ++odd->attempts[number] != odd->well) {
        buffer_printf(result, "{\"errorType\":\"Odd\",\"errorMessage\":\"%lld\"}", (long long)number);
        return false;
    }
    buffer_printf(result, "{\"n\":%lld}", (long long)number);
    return true;
}

#define TASK(more)                                                                                           \
    "\"Task\":{\"Type\":\"Task\",\"Resource\":\"f\",\"End\":true,\"Parameters\":{\"n.$\":\"$.n\",\"behave.$" \
    "\":"                                                                                                    \
    "\"$.behave\"},\"OutputPath\":\"$.n\"" more "}"
#define EACH(more, states)                                                                    \
    "{\"StartAt\":\"Each\",\"States\":{\"Each\":{\"Type\":\"Map\",\"ItemsPath\":\"$.items\"," \
    "\"ItemProcessor\":{"                                                                     \
    "\"StartAt\":\"Task\",\"States\":{" states "}}" more "}"

static void write_run(unsigned n, unsigned odd, struct buffer *out)
{
    buffer_append_text(out, "{\"items\":[");
    for (unsigned i = 0; i < n; i++)
        buffer_printf(out, "%s{\"n\":%u,\"behave\":{\"run_ms\":%u}}", i ? "," : "", i * 2 + (i == odd),
                      i % 7);
    buffer_append_text(out, "]}");
}

/* A failed iteration fails the Map, once, which its Catch takes; the others' results do no harm. */
static void test_map_caught(void **state)
{
    struct bed *bed = *state;
    struct odd odd = {0};
    char end[32];
    BUFFER_AUTO input = BUFFER_INIT;
    store(bed,
          EACH(",\"Catch\":[{\"ErrorEquals\":[\"Even\"],\"Next\":\"Wrong\"},{\"ErrorEquals\":[\"Odd\"],"
               "\"ResultPath\":\"$.error\",\"Next\":\"Caught\"}],\"End\":true",
               TASK("")) ",\"Wrong\":{\"Type\":\"Pass\",\"End\":true},\"Caught\":{\"Type\":\"Pass\","
                         "\"Parameters\":{\"n.$\":\"States.ArrayLength($.items)\",\"e.$\":\"$.error.Error\"},"
                         "\"End\":true}}}",
          end);
    function_server_compute(bed->server, fail_odd, &odd);
    worker_bed_up(bed->worker);
    write_run(20, 3, &input);
    run(bed, buffer_text(&input));
    AWAIT_BED(bed->worker, *context(bed, end, "result"));
    assert_string_equal(context(bed, end, "result"), "{\"n\":20,\"e\":\"Odd\"}");
    AWAIT_BED(bed->worker, function_server_published(bed->server) == 20);
    worker_bed_settle(bed->worker);
    buffer_reset(&input, 0);
    write_run(4, 9, &input); /* none */
    run(bed, buffer_text(&input));
    AWAIT_BED(bed->worker, !strcmp(context(bed, end, "result"), "[0,2,4,6]"));
    buffer_reset(&input, 0);
    buffer_append_text(
        &input, "{\"items\":[{\"n\":1,\"behave\":{}},{\"n\":3,\"behave\":{}},{\"n\":2,\"behave\":{}}]}");
    run(bed, buffer_text(&input));
    AWAIT_BED(bed->worker, !strcmp(context(bed, end, "result"), "{\"n\":3,\"e\":\"Odd\"}"));
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    assert_finished(bed, "\"count\":3,");
    assert_nothing_kept(bed);
}

/* Through a Parallel in a Map: outwards until somebody takes it, or a dead letter of the Map. */
static const char nested[] =
    "{\"StartAt\":\"Each\",\"States\":{\"Each\":{\"Type\":\"Map\",\"ItemsPath\":\"$.items\",\"End\":true,"
    "\"ItemProcessor\":{\"StartAt\":\"Both\",\"States\":{\"Both\":{\"Type\":\"Parallel\",\"End\":true,"
    "\"Branches\":["
    "{\"StartAt\":\"Task\",\"States\":{" TASK("") "}},"
                                                  "{\"StartAt\":\"Pass\",\"States\":{\"Pass\":{\"Type\":"
                                                  "\"Pass\",\"Result\":7,\"End\":true}}}]}}}}}}";

static void run_nested(struct bed *bed, const char *end)
{
    BUFFER_AUTO input = BUFFER_INIT;
    write_run(5, 2, &input);
    run(bed, buffer_text(&input));
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 1);
    AWAIT_BED(bed->worker, function_server_published(bed->server) == 5);
    worker_bed_settle(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 1);
    assert_true(has_letter(bed, "\"detail\":\"Odd: "));
    buffer_reset(&input, 0);
    write_run(3, 9, &input);
    run(bed, buffer_text(&input));
    AWAIT_BED(bed->worker, !strcmp(context(bed, end, "result"), "[[0,7],[2,7],[4,7]]"));
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    assert_nothing_kept(bed);
}

static void test_nested_uncaught(void **state)
{
    struct bed *bed = *state;
    struct odd odd = {0};
    char end[32];
    store(bed, nested, end);
    function_server_compute(bed->server, fail_odd, &odd);
    worker_bed_up(bed->worker);
    run_nested(bed, end);
}

/* As the original client compiles it: no trigger is there for failures, nor names a Parallel its branches. */
static void put_original(void *data, const char *id, const char *document)
{
    BUFFER_AUTO text = BUFFER_INIT;
    const char *branches = strstr(document, ",\"Branches\":[\"StateMachine");
    if (strstr(id, ".failed"))
        return;
    if (branches) {
        buffer_append(&text, document, (size_t)(branches - document));
        buffer_append_text(&text, strchr(branches, ']') + 1);
    }
    put_trigger(data, id, branches ? buffer_text(&text) : document);
}

static void test_nested_original(void **state)
{
    struct bed *bed = *state;
    struct odd odd = {0};
    char end[32];
    store_with(bed, nested, put_original, end);
    function_server_compute(bed->server, fail_odd, &odd);
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.publish = true});
    worker_bed_up(bed->worker);
    run(bed, "{\"items\":[{\"n\":1,\"behave\":{}}]}");
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 1);
    worker_bed_settle(bed->worker);
    assert_true(has_letter(bed, "\"detail\":\"Odd: "));
    run(bed, "{\"items\":[{\"n\":2,\"behave\":{}},{\"n\":4,\"behave\":{}}]}");
    AWAIT_BED(bed->worker, !strcmp(context(bed, end, "result"), "[[2,7],[4,7]]"));
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
}

/* Attempts are counted for each iteration, whose last one is its result. */
static void test_retried(void **state)
{
    struct bed *bed = *state;
    struct odd odd = {.well = 3};
    char end[32];
    BUFFER_AUTO input = BUFFER_INIT;
    BUFFER_AUTO results = BUFFER_INIT;
    store(bed,
          EACH(",\"End\":true",
               TASK(",\"Retry\":[{\"ErrorEquals\":[\"Even\"],\"MaxAttempts\":9},{\"ErrorEquals\":[\"Odd\"],"
                    "\"IntervalSeconds\":1,\"MaxAttempts\":2,\"MaxDelaySeconds\":1,\"JitterStrategy\":"
                    "\"FULL\"}]")) "}}",
          end);
    buffer_append_text(&input, "{\"items\":[");
    for (unsigned i = 0; i < 40; i++) {
        buffer_printf(&input, "%s{\"n\":%u,\"behave\":{\"run_ms\":%u}}", i ? "," : "", i, i % 5);
        buffer_printf(&results, "%s%u", i ? "," : "[", i);
    }
    buffer_append_text(&input, "]}");
    buffer_append_char(&results, ']');
    function_server_compute(bed->server, fail_odd, &odd);
    worker_bed_up(bed->worker);
    run(bed, buffer_text(&input));
    AWAIT_BED(bed->worker, *context(bed, end, "result"));
    assert_string_equal(context(bed, end, "result"), buffer_text(&results));
    assert_int_equal(function_server_keys(bed->server, "f", "Task"), 20 + 3 * 20);
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    assert_nothing_kept(bed);
}

#define AGAIN ",\"End\":true,\"Retry\":[{\"ErrorEquals\":[\"Odd\"],\"IntervalSeconds\":1,\"MaxAttempts\":2}]"

static void run_again(struct bed *bed, const char *definition, const char *input, const char *result)
{
    struct odd odd = {.well = 3};
    char end[32];
    store(bed, definition, end);
    function_server_compute(bed->server, fail_odd, &odd);
    worker_bed_up(bed->worker);
    run(bed, input);
    AWAIT_BED(bed->worker, *context(bed, end, "result"));
    assert_string_equal(context(bed, end, "result"), result);
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    assert_int_equal(odd.attempts[1], 3);
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    assert_finished(bed, "\"count\":1,");
    assert_nothing_kept(bed);
}

/* A Map, or a Parallel, as a whole, whatever of its earlier runs comes late. */
static void test_map_again(void **state)
{
    run_again(*state, EACH(AGAIN, TASK("")) "}}",
              "{\"items\":[{\"n\":1,\"behave\":{}},{\"n\":2,\"behave\":{\"run_ms\":120}}]}", "[1,2]");
}

static void test_parallel_again(void **state)
{
    run_again(*state,
              "{\"StartAt\":\"Both\",\"States\":{\"Both\":{\"Type\":\"Parallel\"" AGAIN ",\"Branches\":["
              "{\"StartAt\":\"Task\",\"States\":{" TASK(
                  "") "}},"
                      "{\"StartAt\":\"Pause\",\"States\":{\"Pause\":{\"Type\":\"Wait\",\"Seconds\":3,"
                      "\"Next\":\"Pass\"},"
                      "\"Pass\":{\"Type\":\"Pass\",\"Result\":7,\"End\":true}}}]}}}",
              "{\"n\":1,\"behave\":{}}", "[1,7]");
}

/* What has taken too long has failed; its answer, when it comes, is none. */
static void test_timed_out(void **state)
{
    struct bed *bed = *state;
    char end[32];
    store(bed,
          EACH(",\"Catch\":[{\"ErrorEquals\":[\"States.Timeout\"],\"ResultPath\":\"$.error\",\"Next\":"
               "\"Late\"}],"
               "\"End\":true",
               TASK(",\"TimeoutSeconds\":4")) ",\"Late\":{\"Type\":\"Pass\",\"OutputPath\":\"$.error\","
                                              "\"End\":true}}}",
          end);
    function_server_compute(bed->server, give_back, NULL);
    worker_bed_up(bed->worker);
    run(bed, "{\"items\":[{\"n\":1,\"behave\":{}},{\"n\":2,\"behave\":{\"run_ms\":700}}]}");
    AWAIT_BED(bed->worker, *context(bed, end, "result"));
    assert_string_equal(context(bed, end, "result"), "{\"Error\":\"States.Timeout\",\"Cause\":null}");
    AWAIT_BED(bed->worker, function_server_published(bed->server) == 2);
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    assert_finished(bed, "\"count\":1,");
    assert_nothing_kept(bed);
}

static int start_redis(void **state)
{
    (void)state;
    return redis_server_run(&redis, NULL);
}

static int stop_redis(void **state)
{
    (void)state;
    redis_server_done(&redis);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_executions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_map_caught, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nested_uncaught, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nested_original, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retried, setup, teardown),
        cmocka_unit_test_setup_teardown(test_map_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_parallel_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timed_out, setup, teardown),
    };
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
