/* DAGs through the real worker, on a function service that speaks the contracts of OpenWhisk and Lambda:
 * those of the conformance data to their end, maps, arguments from results, failures, retries and
 * corrections. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"
#include "tests/support/dag.h"
#include "tests/support/function_server.h"
#include "tests/support/supervised.h"
#include "tests/support/worker_bed.h"

#define SUCCESS "event.triggerflow.termination.success"
#define FAILURE "event.triggerflow.termination.failure"

struct bed {
    struct worker_bed *worker;
    struct function_server *server;
};

static struct redis_server redis;

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    assert_non_null(bed->server = function_server_new());
    function_server_basic(bed->server, "user:password");
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.publish = true});
    bed->worker = worker_bed_new(&redis);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    worker_bed_free(bed->worker);
    function_server_free(bed->server);
    free(bed);
    return 0;
}

static void store(struct bed *bed, const struct dag *dag, const char *more)
{
    dag_store(dag, &bed->worker->workspace,
              &(struct dag_options){.server = bed->server, .stream = "in", .more = more});
}

static long long finished(const struct bed *bed)
{
    char *text = workspace_get(&bed->worker->workspace, "checkpoint", "finished");
    long long n = 0;
    const char *at = text ? strstr(text, "\"count\":") : NULL;
    if (at)
        n = strtoll(at + 8, NULL, 10);
    free(text);
    return n;
}

static void run(struct bed *bed)
{
    workspace_publish_one(&bed->worker->workspace, "in", "run", "event.triggerflow.init", "__init__", NULL);
}

/* The context of a trigger, or one member of it, as JSON text; valid until the next call. */
static const char *context(const struct bed *bed, const char *trigger, const char *name)
{
    static struct buffer shown;
    struct json_value root, all, at;
    size_t len = 4;
    const char *raw = "null";
    char *text = workspace_get(&bed->worker->workspace, "triggers", trigger);
    assert_non_null(text);
    assert_int_equal(json_scan(text, strlen(text), &root, NULL), 0);
    assert_true(json_member(&root, "context", &all));
    if (!name)
        raw = json_raw(&all, &len);
    else if (json_member(&all, name, &at))
        raw = json_raw(&at, &len);
    buffer_reset(&shown, SIZE_MAX);
    buffer_append(&shown, raw, len);
    free(text);
    return buffer_text(&shown);
}

static void show_end(const struct bed *bed)
{
    worker_bed_show(bed->worker);
    fprintf(stderr, "__end__: %s\n", context(bed, "__end__", NULL));
}

static void await_end(struct bed *bed, long long times)
{
    WAIT_ELSE(finished(bed) >= times, show_end(bed));
    worker_bed_settle(bed->worker);
    assert_int_equal(finished(bed), times);
}

/* --- whole runs --- */

static void test_conformance(void **state)
{
    static const char *const names[] = {"triggerflow-dag-sequence", "triggerflow-dag-map",
                                        "triggerflow-dag-mixed", "triggerflow-dag-fault-tolerance",
                                        "triggerflow-montage-dax"};
    struct bed *bed = *state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct dag *dag = dag_read(names[i]);
        if (!dag)
            continue;
        worker_bed_free(bed->worker);
        bed->worker = worker_bed_new(&redis);
        function_server_forget(bed->server);
        store(bed, dag, "");
        worker_bed_up(bed->worker);
        run(bed);
        await_end(bed, 1);
        worker_bed_stop(bed->worker);
        dag_assert_starts(dag, bed->server, 1, false);
        dag_assert_contexts(dag, &bed->worker->workspace, 1, true);
        assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
        printf("%s: %zu tasks, %zu invocations\n", names[i], dag->n, dag_invocations(dag));
        dag_free(dag);
    }
}

static struct dag *diamond(void)
{
    struct dag *dag = dag_new();
    dag_add(dag, "first", 1, "");
    dag_add(dag, "left", 7, "first");
    dag_add(dag, "right", 1, "first");
    dag_add(dag, "none", 0, "first");
    dag_add(dag, "last", 1, "left right none");
    return dag;
}

/* The same with the actions started at once; and a second run in the same workspace. */
static void test_immediate(void **state)
{
    struct bed *bed = *state;
    struct dag *dag = diamond();
    store(bed, dag, "");
    worker_bed_start(bed->worker, NULL, NULL, "TRIGGERFLOW_ACTION_START=immediate");
    run(bed);
    await_end(bed, 1);
    dag_assert_starts(dag, bed->server, 1, false);
    run(bed);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "first", NULL, NULL) == 2);
    worker_bed_settle(bed->worker);
    worker_bed_stop(bed->worker);
    dag_free(dag);
}

static void test_run_again(void **state)
{
    struct bed *bed = *state;
    struct dag *dag = dag_new();
    dag_add(dag, "first", 1, "");
    dag_add(dag, "map", 5, "first");
    dag_add(dag, "last", 1, "map");
    store(bed, dag, "");
    worker_bed_up(bed->worker);
    for (unsigned i = 1; i <= 3; i++) {
        run(bed);
        await_end(bed, i);
    }
    worker_bed_stop(bed->worker);
    dag_assert_starts(dag, bed->server, 3, false);
    dag_assert_contexts(dag, &bed->worker->workspace, 3, true);
    dag_free(dag);
}

static void test_dummies(void **state)
{
    struct bed *bed = *state;
    struct dag *dag = dag_new();
    dag_add(dag, "first", 1, "");
    dag_add(dag, "left", 1, "first");
    dag_add(dag, "right", 1, "first");
    dag_add(dag, "last", 1, "left right");
    dag_store(dag, &bed->worker->workspace, &(struct dag_options){.dummy = true});
    worker_bed_up(bed->worker);
    run(bed);
    await_end(bed, 1);
    worker_bed_stop(bed->worker);
    dag_assert_contexts(dag, &bed->worker->workspace, 1, false);
    dag_free(dag);
}

static void test_lambda(void **state)
{
    struct bed *bed = *state;
    struct dag *dag = diamond();
    function_server_basic(bed->server, NULL);
    function_server_sigv4(bed->server, "AKID", "hush", NULL, "eu-west-3", "lambda");
    dag_store(dag, &bed->worker->workspace,
              &(struct dag_options){.server = bed->server, .stream = "in", .lambda = true});
    redisReply *reply = redis_server_do(&redis, "HSET ws-global_context aws_credentials %s",
                                        "{\"access_key_id\":\"AKID\",\"secret_access_key\":\"hush\","
                                        "\"region_name\":\"eu-west-3\"}");
    assert_non_null(reply);
    freeReplyObject(reply);
    worker_bed_up(bed->worker);
    run(bed);
    await_end(bed, 1);
    worker_bed_stop(bed->worker);
    dag_assert_starts(dag, bed->server, 1, false);
    dag_assert_contexts(dag, &bed->worker->workspace, 1, true);
    assert_int_equal(function_server_refused(bed->server), 0);
    dag_free(dag);
}

/* A map that is larger than what may be pending, and one that does not fit a ring. */
static void test_large_map(void **state)
{
    struct bed *bed = *state;
    struct dag *dag = dag_new();
    dag_add(dag, "first", 1, "");
    dag_add(dag, "map", 3000, "first");
    dag_add(dag, "last", 1, "map");
    BUFFER_AUTO more = BUFFER_INIT;
    buffer_append_text(&more, ",\"padding\":\"");
    for (unsigned i = 0; i < 100000; i++)
        buffer_append_char(&more, 'x');
    buffer_append_char(&more, '"');
    store(bed, dag, buffer_text(&more));
    worker_bed_start(bed->worker, NULL, NULL, "TRIGGERFLOW_MAX_PENDING_ACTIONS=50");
    run(bed);
    await_end(bed, 1);
    worker_bed_stop(bed->worker);
    dag_assert_starts(dag, bed->server, 1, false);
    dag_assert_contexts(dag, &bed->worker->workspace, 1, true);
    dag_free(dag);
}

/* --- arguments --- */

static void put_task(struct bed *bed, const char *id, const char *upstream, const char *operator_more)
{
    char operator[8192], dependencies[128] = "{}";
    if (*upstream)
        snprintf(dependencies, sizeof dependencies, "{\"%s\":{\"join\":-1,\"counter\":0}}", upstream);
    char *text;
    snprintf(
        operator, sizeof operator,
        "{\"url\":\"http://127.0.0.1:%u/api/v1/namespaces/_/actions/%s\",\"api_key\":\"user:password\","
        "\"sink\":{\"name\":\"in\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\","
        "\"port\":%d,\"stream\":\"in\"}}%s}",
        function_server_port(bed->server), id, redis.port, operator_more);
    assert_true(asprintf(&text, "{\"subject\":\"%s\",\"dependencies\":%s,\"operator\":%s,\"result\":[]}", id,
                         dependencies, operator) > 0);
    worker_bed_trigger(bed->worker, id, *upstream ? "DAG_TASK_JOIN" : "TRUE", text,
                       "{\"name\":\"IBM_CF_INVOKE\",\"backoff_s\":0.02}",
                       *upstream ? SUCCESS : "event.triggerflow.init", *upstream ? upstream : "__init__");
    free(text);
}

static void put_end(struct bed *bed, const char *upstream)
{
    char text[256];
    snprintf(text, sizeof text, "{\"dependencies\":{\"%s\":{\"join\":-1,\"counter\":0}},\"result\":[]}",
             upstream);
    worker_bed_trigger(bed->worker, "__end__", "DAG_TASK_JOIN", text, "{\"name\":\"TERMINATE\"}", SUCCESS,
                       upstream);
}

/* Squares for the map, the sum for the one that reduces. */
static bool compute(void *data, const char *function, const struct json_value *payload, struct buffer *result)
{
    struct json_value value, name, element;
    struct json_iter iter;
    int64_t n, sum = 0;
    (void)data;
    if (!strcmp(function, "square")) {
        assert_true(json_member(payload, "x", &value) && json_integer(&value, &n));
        buffer_printf(result, "{\"square\":%lld}", (long long)(n * n));
    } else if (!strcmp(function, "sum")) {
        assert_true(json_member(payload, "all", &value));
        json_iter_init(&iter, &value);
        while (json_next(&iter, &name, &element))
            sum += json_integer(&element, &n) ? n : 0;
        buffer_printf(result, "%lld", (long long)sum);
    } else {
        buffer_append_text(result, "{\"list\":[1,2,3,4]}");
    }
    return true;
}

static void test_map_reduce(void **state)
{
    struct bed *bed = *state;
    BUFFER_AUTO last = BUFFER_INIT;
    function_server_compute(bed->server, compute, NULL);
    put_task(bed, "split", "", "");
    put_task(bed, "square", "split", ",\"iter_data\":{\"x\":\"$[*].list[*]\"},\"invoke_kwargs\":{\"x\":0}");
    put_task(
        bed, "sum", "square",
        ",\"invoke_kwargs\":{\"all\":\"$[*].square\",\"none\":\"$..nothing\",\"text\":\"a$\",\"n\":[1]}");
    put_end(bed, "sum");
    worker_bed_up(bed->worker);
    run(bed);
    await_end(bed, 1);
    assert_string_equal(context(bed, "__end__", "result"), "[30]");
    assert_int_equal(function_server_starts(bed->server, "square", NULL, NULL), 4);
    function_server_last(bed->server, &last);
    assert_non_null(strstr(buffer_text(&last), "\"none\":[],\"text\":\"a$\",\"n\":[1],\"__OW_TRIGGERFLOW\":{"
                                               "\"subject\":\"sum\",\"sink\":{\"name\":\"in\""));
    assert_non_null(strstr(buffer_text(&last), "\"key\":\""));
    worker_bed_stop(bed->worker);
}

static void test_wrong_arguments(void **state)
{
    static const char *const wrong[] = {",\"invoke_kwargs\":[1]",
                                        ",\"iter_data\":{\"x\":7}",
                                        ",\"invoke_kwargs\":{\"x\":\"$[\"}",
                                        ",\"url\":\"ftp://x\"",
                                        ",\"url\":7",
                                        ",\"max_retries\":-1"};
    struct bed *bed = *state;
    char id[16];
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(id, sizeof id, "t%u", i);
        put_task(bed, id, "", wrong[i]);
    }
    worker_bed_up(bed->worker);
    run(bed);
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") ==
                               (int)(sizeof wrong / sizeof wrong[0]));
    worker_bed_settle(bed->worker);
    assert_int_equal(function_server_requests(bed->server), 0);
    worker_bed_stop(bed->worker);
}

/* --- failures --- */

static void put_handler(struct bed *bed, const char *id, const char *action, const char *context,
                        const char *subject)
{
    char text[64];
    snprintf(text, sizeof text, "{\"name\":\"%s\"}", action);
    worker_bed_trigger(bed->worker, id, "TRUE", context, text, FAILURE, subject);
}

static bool always_one(void *data, const char *function, const struct json_value *payload,
                       struct buffer *result)
{
    (void)data;
    (void)function;
    (void)payload;
    buffer_append_text(result, "1");
    return true;
}

/* Some invocations fail for good: those that are left are enough. */
static void test_correction(void **state)
{
    struct bed *bed = *state;
    function_server_compute(bed->server, always_one, NULL);
    put_task(bed, "map", "",
             ",\"max_retries\":1,\"iter_data\":{\"behave\":[{\"publish\":true},{\"status\":400},"
             "{\"publish\":true},{\"status\":503},{\"publish\":true}]}");
    put_end(bed, "map");
    put_handler(bed, "failures", "DAG_TASK_FAILURE_HANDLER", "{}", "*");
    worker_bed_up(bed->worker);
    run(bed);
    await_end(bed, 1);
    assert_string_equal(context(bed, "__end__", "dependencies"),
                        "{\"map\":{\"join\":3,\"counter\":3,\"failed\":2}}");
    assert_string_equal(context(bed, "__end__", "result"), "[1,1,1]");
    assert_int_equal(workspace_context(&bed->worker->workspace, "failures", "n_failures"), 2);
    assert_non_null(strstr(context(bed, "failures", "failures"), "\"subject\":\"map\""));
    assert_int_equal(workspace_dead_letters(&bed->worker->workspace, "action_failed"), 2);
    assert_int_equal(function_server_starts(bed->server, "map", NULL, NULL), 6); /* 503: twice */
    worker_bed_stop(bed->worker);
}

/* All of them fail: nothing goes on. */
static void test_all_failed(void **state)
{
    struct bed *bed = *state;
    function_server_behave(bed->server, "map", &(struct function_behaviour){.status = 404});
    put_task(bed, "map", "", ",\"iter_data\":{\"x\":[1,2,3]}");
    put_end(bed, "map");
    worker_bed_up(bed->worker);
    run(bed);
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 3);
    worker_bed_settle(bed->worker);
    assert_string_equal(context(bed, "__end__", "dependencies"),
                        "{\"map\":{\"join\":0,\"counter\":0,\"failed\":3}}");
    assert_int_equal(finished(bed), 0);
    worker_bed_stop(bed->worker);
}

/* The element 1 fails twice, and 2 always. */
static bool some_fail(void *data, const char *function, const struct json_value *payload,
                      struct buffer *result)
{
    unsigned *failed = data;
    struct json_value value;
    int64_t x;
    (void)function;
    assert_true(json_member(payload, "x", &value) && json_integer(&value, &x));
    buffer_printf(result, "%lld", (long long)x);
    return x != 2 && (x != 1 || ++*failed > 2);
}

/* What failed is started again, alone, under a key of its own, and nothing is added to what is expected; what
 * fails for good in the end is subtracted. */
static void test_retry_handler(void **state)
{
    struct bed *bed = *state;
    unsigned failed = 0;
    function_server_compute(bed->server, some_fail, &failed);
    put_task(bed, "map", "", ",\"iter_data\":{\"x\":[0,1,2,3]}");
    put_end(bed, "map");
    put_handler(bed, "retry", "DAG_TASK_RETRY_HANDLER", "{\"max_retries\":5}", "*");
    worker_bed_up(bed->worker);
    run(bed);
    await_end(bed, 1);
    assert_string_equal(context(bed, "__end__", "dependencies"),
                        "{\"map\":{\"join\":3,\"counter\":3,\"failed\":1}}");
    assert_string_equal(context(bed, "retry", "retries"), "{\"map\":5}");
    assert_int_equal(function_server_keys(bed->server, "map", "map"), 4 + 5);
    assert_int_equal(function_server_starts(bed->server, "map", "map", NULL), 4 + 5);
    assert_int_equal(workspace_dead_letters(&bed->worker->workspace, "action_failed"), 1);
    worker_bed_stop(bed->worker);
}

/* A failure that is reported twice, under the same key, is tried again once. */
static void test_failed_twice(void **state)
{
    struct bed *bed = *state;
    unsigned failed = 0;
    function_server_behave(bed->server, NULL,
                           &(struct function_behaviour){.publish = true, .publish_times = 2});
    function_server_compute(bed->server, some_fail, &failed);
    put_task(bed, "map", "", ",\"iter_data\":{\"x\":[0,1,3]}");
    put_end(bed, "map");
    put_handler(bed, "retry", "DAG_TASK_RETRY_HANDLER", "{}", "*");
    put_handler(bed, "failures", "DAG_TASK_FAILURE_HANDLER", "{}", "*");
    worker_bed_trigger(bed->worker, "second", "JOIN", "{\"join\":2}",
                       "{\"name\":\"DAG_TASK_FAILURE_HANDLER\"}", FAILURE, "*");
    worker_bed_up(bed->worker);
    run(bed);
    await_end(bed, 1);
    assert_int_equal(function_server_starts(bed->server, "map", "map", NULL), 3 + 2);
    assert_string_equal(context(bed, "retry", "retries"), "{\"map\":2}");
    assert_int_equal(workspace_context(&bed->worker->workspace, "second", "n_failures"), 1);
    assert_int_equal(workspace_context(&bed->worker->workspace, "failures", "n_failures"), 2);
    assert_string_equal(context(bed, "__end__", "dependencies"), "{\"map\":{\"join\":3,\"counter\":3}}");
    worker_bed_stop(bed->worker);
}

#define MANY 600

static bool each_fails_once(void *data, const char *function, const struct json_value *payload,
                            struct buffer *result)
{
    bool *failed = data;
    struct json_value value;
    int64_t x;
    (void)function;
    assert_true(json_member(payload, "x", &value) && json_integer(&value, &x) && x >= 0 && x < MANY);
    buffer_append_text(result, "1");
    bool done = failed[x];
    failed[x] = true;
    return done;
}

/* However many of a task's invocations are started again. */
static void test_many_failed(void **state)
{
    struct bed *bed = *state;
    bool failed[MANY] = {false};
    BUFFER_AUTO more = BUFFER_INIT;
    function_server_compute(bed->server, each_fails_once, failed);
    buffer_append_text(&more, ",\"iter_data\":{\"x\":[");
    for (unsigned i = 0; i < MANY; i++)
        buffer_printf(&more, "%s%u", i ? "," : "", i);
    buffer_append_text(&more, "]}");
    put_task(bed, "map", "", buffer_text(&more));
    put_end(bed, "map");
    put_handler(bed, "retry", "DAG_TASK_RETRY_HANDLER", "{\"max_retries\":1000}", "*");
    worker_bed_up(bed->worker);
    run(bed);
    await_end(bed, 1);
    assert_string_equal(context(bed, "__end__", "dependencies"), "{\"map\":{\"join\":600,\"counter\":600}}");
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    worker_bed_stop(bed->worker);
}

/* One that could not be started is tried again by hand: it is expected as before. */
static void test_retry_by_hand(void **state)
{
    struct bed *bed = *state;
    function_server_behave(bed->server, "task", &(struct function_behaviour){.status = 403});
    put_task(bed, "task", "", "");
    put_end(bed, "task");
    put_handler(bed, "retry", "DAG_TASK_RETRY_HANDLER", "{}", "__retry__");
    worker_bed_up(bed->worker);
    run(bed);
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 1);
    function_server_behave(bed->server, "task", &(struct function_behaviour){.publish = true});
    workspace_publish_one(&bed->worker->workspace, "in", "again", FAILURE, "__retry__",
                          "{\"subject\":[\"task\"]}");
    await_end(bed, 1);
    assert_string_equal(context(bed, "__end__", "dependencies"), "{\"task\":{\"join\":1,\"counter\":1}}");
    worker_bed_stop(bed->worker);
}

/* The same by its dead letter, in which the password is not. */
static void test_redrive(void **state)
{
    struct bed *bed = *state;
    struct supervised *s = supervised_new(bed->worker);
    char number[64];
    function_server_behave(bed->server, "task", &(struct function_behaviour){.status = 403});
    put_task(bed, "task", "", "");
    put_end(bed, "task");
    supervised_start(s, NULL);
    run(bed);
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 1);
    function_server_behave(bed->server, "task", &(struct function_behaviour){.publish = true});
    redisReply *letters = redis_server_do(&redis, "HGETALL ws-dead_letters");
    assert_non_null(letters);
    snprintf(number, sizeof number, "%s", letters->element[0]->str);
    assert_null(strstr(letters->element[1]->str, "user:password"));
    freeReplyObject(letters);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", number), 1);
    await_end(bed, 1);
    assert_string_equal(context(bed, "__end__", "dependencies"), "{\"task\":{\"join\":1,\"counter\":1}}");
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    supervised_free(s);
}

/* Whether it was started is not known after a crash: it is not repeated, and still expected. */
static void test_uncertain(void **state)
{
    struct bed *bed = *state;
    struct supervised *s = supervised_new(bed->worker);
    function_server_behave(bed->server, "task", &(struct function_behaviour){.mode = FUNCTION_HANGS});
    put_task(bed, "task", "", ",\"on_uncertain\":\"dead_letter\"");
    put_end(bed, "task");
    supervised_start(s, NULL);
    run(bed);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "task", NULL, NULL) == 1);
    function_server_behave(bed->server, "task", &(struct function_behaviour){.publish = true});
    supervised_start(s, NULL); /* kill -9 */
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "action_failed") == 1);
    worker_bed_settle(bed->worker);
    assert_int_equal(function_server_starts(bed->server, "task", NULL, NULL), 1);
    assert_string_equal(context(bed, "__end__", "dependencies"), "{\"task\":{\"join\":1,\"counter\":0}}");
    redisReply *letters = redis_server_do(&redis, "HKEYS ws-dead_letters");
    assert_non_null(letters);
    assert_int_equal(
        supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", letters->element[0]->str), 1);
    freeReplyObject(letters);
    await_end(bed, 1);
    assert_int_equal(function_server_keys(bed->server, "task", "task"), 2);
    supervised_free(s);
}

/* A retry of a task that does not exist is kept, and goes its way when there is one. */
static void test_redrive_write(void **state)
{
    struct bed *bed = *state;
    struct supervised *s = supervised_new(bed->worker);
    put_handler(bed, "retry", "DAG_TASK_RETRY_HANDLER", "{}", "*");
    supervised_start(s, NULL);
    workspace_publish_one(&bed->worker->workspace, "in", "failed", FAILURE, "task", NULL);
    AWAIT_BED(bed->worker, workspace_dead_letters(&bed->worker->workspace, "no_trigger") == 1);
    put_task(bed, "task", "", "");
    redisReply *letters = redis_server_do(&redis, "HGETALL ws-dead_letters");
    assert_non_null(letters);
    assert_non_null(strstr(letters->element[1]->str, "\"write\":{\"id\":\""));
    assert_int_equal(
        supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", letters->element[0]->str), 1);
    freeReplyObject(letters);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "task", "task", NULL) == 1);
    supervised_free(s);
}

static void test_throttle(void **state)
{
    struct bed *bed = *state;
    char prewarm[512];
    BUFFER_AUTO last = BUFFER_INIT;
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.publish = false});
    snprintf(prewarm, sizeof prewarm,
             "{\"prewarm\":{\"http://127.0.0.1:%u/api/v1/namespaces/_/actions/a\":4,"
             "\"http://127.0.0.1:%u/api/v1/namespaces/_/actions/b\":1}}",
             function_server_port(bed->server), function_server_port(bed->server));
    worker_bed_trigger(bed->worker, "prewarm", "TRUE", prewarm, "{\"name\":\"THROTTLE_IBMCF_FUNCTION\"}",
                       "event.triggerflow.init", "__init__");
    redisReply *reply =
        redis_server_do(&redis, "HSET ws-global_context ibm_cf %s", "{\"api_key\":\"user:password\"}");
    assert_non_null(reply);
    freeReplyObject(reply);
    worker_bed_up(bed->worker);
    run(bed);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, NULL, NULL, NULL) == 6);
    worker_bed_settle(bed->worker);
    assert_int_equal(function_server_starts(bed->server, "a", NULL, NULL), 5);
    assert_int_equal(function_server_starts(bed->server, "b", NULL, NULL), 1);
    function_server_last(bed->server, &last);
    assert_non_null(strstr(buffer_text(&last), "\n\n{\"__OW_TRIGGERFLOW\":{\"THROTTLE\":true}}"));
    assert_int_equal(workspace_count(&bed->worker->workspace, "outbox"), 0);
    worker_bed_stop(bed->worker);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_conformance), TEST(test_immediate),       TEST(test_run_again),
        TEST(test_dummies),     TEST(test_lambda),          TEST(test_large_map),
        TEST(test_map_reduce),  TEST(test_wrong_arguments), TEST(test_correction),
        TEST(test_all_failed),  TEST(test_retry_handler),   TEST(test_failed_twice),
        TEST(test_many_failed), TEST(test_retry_by_hand),   TEST(test_redrive),
        TEST(test_uncertain),   TEST(test_redrive_write),   TEST(test_throttle),
    };
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
