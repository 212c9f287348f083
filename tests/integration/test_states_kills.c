/* Kills while a state machine runs, with a Map, Choices, a Parallel and tasks whose results are merged into
 * their input: the output must be exactly that of one undisturbed run, and every start of a function that was
 * repeated must have the same key. The real worker is killed with SIGKILL at random instants, and at every
 * named crash point on the way of a state (make SAN=crash).
 *
 * TRIGGERFLOW_KILLS: random kills in all (200). TRIGGERFLOW_SEED: repeats a run's random choices, though not
 * the instants. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "tests/support/asl_compile.h"
#include "tests/support/function_server.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"
#include "tests/support/wait.h"
#include "tests/support/workspace.h"

#define KILLS_PER_RUN 10
#define LIFE_MOST (120 * CLOCK_MS)
#define ORDERS 24

/* Small orders go to one function, the others to a function and a Pass at the same time; a last task counts.
 */
static const char definition[] =
    "{\"StartAt\":\"Prepare\",\"States\":{"
    "\"Prepare\":{\"Type\":\"Pass\",\"Parameters\":{\"orders.$\":\"$\",\"n.$\":\"States.ArrayLength($)\"},"
    "\"Next\":\"Each\"},"
    "\"Each\":{\"Type\":\"Map\",\"ItemsPath\":\"$.orders\",\"ResultPath\":\"$.done\","
    "\"ItemSelector\":{\"order.$\":\"$$.Map.Item.Value\",\"index.$\":\"$$.Map.Item.Index\"},"
    "\"ItemProcessor\":{\"StartAt\":\"Big\",\"States\":{"
    "\"Big\":{\"Type\":\"Choice\",\"Choices\":[{\"Variable\":\"$.order\",\"NumericGreaterThanEquals\":10,"
    "\"Next\":\"Both\"}],\"Default\":\"Small\"},"
    "\"Small\":{\"Type\":\"Task\",\"Resource\":\"small\",\"Parameters\":{\"n.$\":\"$.order\"},"
    "\"ResultPath\":\"$.small\",\"End\":true},"
    "\"Both\":{\"Type\":\"Parallel\",\"ResultPath\":\"$.both\",\"End\":true,\"Branches\":["
    "{\"StartAt\":\"Left\",\"States\":{\"Left\":{\"Type\":\"Task\",\"Resource\":\"left\","
    "\"Parameters\":{\"x.$\":\"$.order\"},\"ResultSelector\":{\"left.$\":\"$.x\"},\"End\":true}}},"
    "{\"StartAt\":\"Right\",\"States\":{\"Right\":{\"Type\":\"Pass\",\"Result\":\"right\",\"End\":true}}}]}}}"
    ","
    "\"Next\":\"Count\"},"
    "\"Count\":{\"Type\":\"Task\",\"Resource\":\"count\",\"Parameters\":{\"n.$\":\"$.n\"},\"ResultPath\":\"$."
    "count\","
    "\"OutputPath\":\"$['done','count']\",\"End\":true}}}";

static uint64_t random_state;
static unsigned kills_wanted = 200;
static struct redis_server redis;
static char folder[64];

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % n;
}

static void read_settings(void)
{
    const char *text = getenv("TRIGGERFLOW_SEED");
    if (!text || !*text || !(random_state = strtoull(text, NULL, 0)))
        if (getrandom(&random_state, sizeof random_state, 0) != sizeof random_state || !random_state)
            random_state = clock_now_ns() | 1;
    text = getenv("TRIGGERFLOW_KILLS");
    if (text && *text)
        kills_wanted = (unsigned)strtoul(text, NULL, 10);
    printf("TRIGGERFLOW_SEED=%llu TRIGGERFLOW_KILLS=%u\n", (unsigned long long)random_state, kills_wanted);
}

/* --- a run --- */

struct run {
    struct workspace workspace;
    struct process worker;
    char program[PATH_MAX];
    char crash_file[160];
    struct function_server *server;
    unsigned orders[ORDERS];
    unsigned n_small;
    char end[32]; /* trigger */
    unsigned killed;
};

static void put_trigger(void *data, const char *id, const char *document)
{
    const struct run *r = data;
    assert_int_equal(workspace_put_trigger(&r->workspace, id, document), 0);
}

static void store_machine(struct run *r)
{
    struct json_value root;
    BUFFER_AUTO task = BUFFER_INIT;
    unsigned number = 0;
    buffer_append_text(&task, "{\"name\":\"AWS_ASF_TASK\",\"endpoint\":\"");
    function_server_url(r->server, "", &task);
    buffer_append_text(&task, "\"}");
    struct asl_machine machine = {.prefix = "",
                                  .number = &number,
                                  .more = "",
                                  .task = buffer_text(&task),
                                  .put = put_trigger,
                                  .data = r};
    assert_int_equal(json_scan(definition, strlen(definition), &root, NULL), 0);
    assert_true(asl_compile(&machine, &root));
    snprintf(r->end, sizeof r->end, "%s", buffer_text(&machine.end));
    asl_machine_done(&machine);
}

static void publish_orders(struct run *r)
{
    BUFFER_AUTO data = BUFFER_INIT;
    for (unsigned i = 0; i < ORDERS; i++) {
        r->orders[i] = (unsigned)random_below(20);
        r->n_small += r->orders[i] < 10;
        buffer_printf(&data, "%c%u", i ? ',' : '[', r->orders[i]);
    }
    buffer_append_char(&data, ']');
    workspace_publish_one(&r->workspace, r->workspace.name, "run", "lambda.success", "__init__",
                          buffer_text(&data));
}

static void begin(struct run *r, const char *name)
{
    char log[160];
    *r = (struct run){0};
    assert_int_equal(workspace_create(&r->workspace, &redis, name), 0);
    redisReply *reply = redis_server_do(&redis, "DEL %s", name);
    assert_non_null(reply);
    freeReplyObject(reply);
    reply = redis_server_do(
        &redis, "HSET %s-global_context aws_credentials %s", name,
        "{\"access_key_id\":\"AKID\",\"secret_access_key\":\"secret\",\"region\":\"eu-west-1\"}");
    assert_non_null(reply);
    freeReplyObject(reply);
    assert_int_equal(workspace_source(&r->workspace, "in", name, ""), 0);
    assert_non_null(r->server = function_server_new());
    function_server_sigv4(r->server, "AKID", "secret", NULL, "eu-west-1", "lambda");
    function_server_sink(r->server, redis.port, name);
    store_machine(r);
    snprintf(log, sizeof log, "%s/%s.log", folder, name);
    process_init(&r->worker, log);
    process_program("triggerflow-worker", r->program);
    snprintf(r->crash_file, sizeof r->crash_file, "%s/%s.crash", folder, name);
    publish_orders(r);
}

static void end(struct run *r)
{
    process_kill(&r->worker, SIGKILL);
    function_server_free(r->server);
}

static void start_worker(struct run *r)
{
    static const char *const intervals[] = {"TRIGGERFLOW_CHECKPOINT_INTERVAL=0s",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=10ms",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=40ms"};
    static const char *const starts[] = {"TRIGGERFLOW_ACTION_START=committed",
                                         "TRIGGERFLOW_ACTION_START=immediate"};
    char port[32], shards[32], crash[200];
    snprintf(port, sizeof port, "REDIS_PORT=%d", redis.port);
    snprintf(shards, sizeof shards, "TRIGGERFLOW_SHARDS=%u", 1 + (unsigned)random_below(4));
    snprintf(crash, sizeof crash, "TRIGGERFLOW_CRASH_FILE=%s", r->crash_file);
    const char *environment[] = {
        "REDIS_HOST=127.0.0.1",       port, shards, crash, intervals[random_below(3)],
        starts[random_below(4) == 0], NULL};
    assert_int_equal(
        process_start(&r->worker, (const char *[]){r->program, r->workspace.name, NULL}, environment), 0);
}

static void show(const struct run *r)
{
    workspace_dump(&r->workspace, r->workspace.name);
    process_show_log(&r->worker);
}

static bool is_finished(const struct run *r)
{
    char *text = workspace_get(&r->workspace, "checkpoint", "finished");
    bool is = text && strstr(text, "\"count\":");
    free(text);
    return is;
}

/* --- what must be left --- */

static void write_expected(const struct run *r, struct buffer *out)
{
    buffer_append_text(out, "{\"done\":[");
    for (unsigned i = 0; i < ORDERS; i++) {
        unsigned order = r->orders[i];
        buffer_printf(out, "%s{\"order\":%u,\"index\":%u,", i ? "," : "", order, i);
        if (order < 10)
            buffer_printf(out, "\"small\":{\"n\":%u}}", order);
        else
            buffer_printf(out, "\"both\":[{\"left\":%u},\"right\"]}", order);
    }
    buffer_printf(out, "],\"count\":{\"n\":%u}}", ORDERS);
}

static void assert_output(const struct run *r)
{
    struct json_value wanted, root, context, result;
    uint64_t steps = 1u << 30;
    bool same;
    BUFFER_AUTO expected = BUFFER_INIT;
    write_expected(r, &expected);
    assert_int_equal(json_scan(expected.data, expected.len, &wanted, NULL), 0);
    char *text = workspace_get(&r->workspace, "triggers", r->end);
    assert_non_null(text);
    assert_int_equal(json_scan(text, strlen(text), &root, NULL), 0);
    assert_true(json_member(&root, "context", &context) && json_member(&context, "result", &result));
    assert_int_equal(json_same(&wanted, &result, &steps, &same, NULL), 0);
    if (!same)
        fail_msg("%.*s, not %s", (int)result.len, result.text, buffer_text(&expected));
    free(text);
}

/* Lets the worker come to the end, and looks at what is left. */
static void finish(struct run *r)
{
    int status = -1;
    WAIT_ELSE((is_finished(r) && workspace_settled(&r->workspace, "in", r->workspace.name)) ||
                  process_ended(&r->worker, &status),
              show(r));
    if (status >= 0) {
        show(r);
        fail_msg("the worker has ended by itself, status %d", status);
    }
    process_kill(&r->worker, SIGKILL);
    char *text = workspace_get(&r->workspace, "checkpoint", "finished");
    if (!strstr(text, "\"count\":1,"))
        show(r);
    assert_non_null(strstr(text, "\"count\":1,"));
    free(text);
    assert_int_equal(workspace_count(&r->workspace, "dead_letters"), 0);
    assert_output(r);
    assert_int_equal(function_server_keys(r->server, "small", NULL), r->n_small);
    assert_int_equal(function_server_keys(r->server, "left", NULL), ORDERS - r->n_small);
    assert_int_equal(function_server_keys(r->server, "count", NULL), 1);
    assert_int_equal(function_server_strayed_keys(r->server), 0);
}

static void kill_worker(struct run *r)
{
    int status;
    if (process_ended(&r->worker, &status)) {
        show(r);
        fail_msg("the worker has ended by itself, status %d", status);
    }
    process_kill(&r->worker, SIGKILL);
    r->killed++;
}

/* Functions that take their time, some of which report twice, under the same key. */
static void behave(struct run *r)
{
    static const char *const names[] = {"small", "left", "count"};
    for (size_t i = 0; i < 3; i++)
        function_server_behave(r->server, names[i],
                               &(struct function_behaviour){.publish = true,
                                                            .publish_times = 1 + (unsigned)random_below(2),
                                                            .delay_ms = (unsigned)random_below(6),
                                                            .run_ms = (unsigned)random_below(30)});
}

static void test_killed(void **state)
{
    unsigned killed = 0;
    uint64_t started = 0, keys = 0;
    (void)state;
    for (unsigned run = 0; killed < kills_wanted; run++) {
        struct run r;
        char name[32];
        snprintf(name, sizeof name, "machine%u", run);
        begin(&r, name);
        behave(&r);
        while (r.killed < KILLS_PER_RUN && killed + r.killed < kills_wanted && !is_finished(&r)) {
            start_worker(&r);
            uint64_t until = clock_now_ns() + random_below(LIFE_MOST);
            while (clock_now_ns() < until && !is_finished(&r))
                wait_moment();
            kill_worker(&r);
        }
        start_worker(&r);
        finish(&r);
        killed += r.killed;
        started += function_server_starts(r.server, NULL, NULL, NULL);
        keys += ORDERS + 1;
        end(&r);
    }
    printf("%u kills, %llu tasks started %llu times\n", killed, (unsigned long long)keys,
           (unsigned long long)started);
}

/* --- at named points --- */

static const char *const points[] = {"recovered",     "delivered",    "fire",        "write_applied",
                                     "held_opened",   "barrier",      "shard_cut",   "cut",
                                     "commit_before", "commit_after", "handed_over", "acknowledged",
                                     "intent_start",  "intent_done"};

/* One life that ends at the COUNTth time that the point is reached, if it comes to that. */
static bool live_until(struct run *r, const char *point, unsigned count)
{
    int status = -1;
    FILE *file = fopen(r->crash_file, "w");
    assert_non_null(file);
    fprintf(file, "%s %u\n", point, count);
    assert_int_equal(fclose(file), 0);
    start_worker(r);
    WAIT_ELSE(process_ended(&r->worker, &status) ||
                  (is_finished(r) && workspace_settled(&r->workspace, "in", r->workspace.name)),
              show(r));
    if (status < 0) {
        process_kill(&r->worker, SIGKILL);
        return false;
    }
    if (status != 128 + SIGKILL)
        show(r);
    assert_int_equal(status, 128 + SIGKILL);
    r->killed++;
    return true;
}

static void test_crash_points(void **state)
{
    static const unsigned counts[] = {1, 2, 5, 17, 1};
    char program[PATH_MAX];
    (void)state;
    if (!process_crash_program("triggerflow-worker", program)) {
        printf("skipped: no %s (make SAN=crash)\n", program);
        skip();
    }
    for (size_t p = 0; p < sizeof points / sizeof points[0]; p++) {
        struct run r;
        unsigned reached = 0;
        char name[48];
        snprintf(name, sizeof name, "at-%s", points[p]);
        begin(&r, name);
        memcpy(r.program, program, sizeof r.program);
        function_server_behave(r.server, NULL, &(struct function_behaviour){.publish = true});
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
            reached += live_until(&r, points[p], counts[i]);
        (void)unlink(r.crash_file);
        start_worker(&r);
        finish(&r);
        end(&r);
        if (!reached)
            fail_msg("the crash point %s was never reached", points[p]);
    }
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_crash_points),
    };
    if (!redis_server_available()) {
        printf("skipped: no redis-server\n");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_settings();
    snprintf(folder, sizeof folder, "/tmp/triggerflow-states-XXXXXX");
    if (!mkdtemp(folder) || redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line) == 0 ? result : 1;
}
