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
    if (!json_member(&mock, "result", &value)) {
        buffer_append_text(result, "{\"errorType\":");
        append_raw(result, &mock, "error");
        buffer_append_text(result, ",\"errorMessage\":");
        append_raw(result, &mock, "cause");
        buffer_append_char(result, '}');
        return false;
    }
    size_t len;
    const char *raw = json_raw(&value, &len);
    buffer_append(result, raw, len);
    return true;
}

/* Nobody else says that time is over. */
static bool has_timeout(const struct json_value *test)
{
    struct json_value mocks, name, list, mock, value;
    struct json_iter iter, of_list;
    if (!json_member(test, "task_mocks", &mocks))
        return false;
    json_iter_init(&iter, &mocks);
    while (json_next(&iter, &name, &list)) {
        json_iter_init(&of_list, &list);
        while (json_next(&of_list, &name, &mock))
            if (json_member(&mock, "timeout", &value))
                return true;
    }
    return false;
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

/* The first dead letter of the execution: its detail; "" when there is none. */
static void find_letter(const redisReply *letters, const struct execution *e, struct buffer *out)
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
        return;
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
    find_letter(letters, e, &letter);
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
    static const char *const beyond[] = {
        "Retry", "Catch", "Assign", "Wait", "TimeoutSeconds", "HeartbeatSeconds", NULL};
    static const char *const tags[] = {"task_token", "activity", NULL};
    unsigned number = 0;
    batch->executions = calloc(batch->cases.n, sizeof *batch->executions);
    assert_non_null(batch->executions);
    for (size_t i = 0; i < batch->cases.n; i++) {
        if (!asl_cases_covered(&batch->cases, i, beyond, tags))
            continue;
        if (has_timeout(&batch->cases.values[i]))
            asl_cases_leave_out(&batch->cases, "a task that runs out of time");
        else
            add(batch, i, &number);
    }
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
    worker_bed_settle(batch.bed->worker);
    worker_bed_stop(batch.bed->worker);
    redisReply *letters = redis_server_do(&redis, "HGETALL ws-dead_letters");
    assert_non_null(letters);
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
static void store(struct bed *bed, const char *definition, char ret_end[32])
{
    struct json_value root;
    unsigned number = 0;
    struct asl_machine machine = {.prefix = "",
                                  .number = &number,
                                  .more = "",
                                  .task = buffer_text(&bed->task),
                                  .put = put_trigger,
                                  .data = bed};
    assert_int_equal(json_scan(definition, strlen(definition), &root, NULL), 0);
    assert_true(asl_compile(&machine, &root));
    snprintf(ret_end, 32, "%s", buffer_text(&machine.end));
    asl_machine_done(&machine);
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

/* An invocation that is given up is a dead letter, and nobody waits for its answer any more. */
static void test_given_up(void **state)
{
    struct bed *bed = *state;
    char end[32];
    store(bed, each, end);
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.status = 404});
    worker_bed_up(bed->worker);
    run(bed, "[{\"n\":1,\"behave\":{}}]");
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 1);
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    assert_string_equal(context(bed, "StateMachine2", "answers"), "");
    assert_string_equal(context(bed, "StateMachine2", "join_multiple"), "1");
    assert_string_equal(context(bed, end, "result"), "");
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
    };
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
