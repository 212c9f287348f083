/* Kills while DAGs run, and what must be left: every task was started, every start that was repeated under
 * the same key, and, with functions that echo the key, the results of one undisturbed run. The real worker is
 * killed with SIGKILL at random instants, and at every named crash point on the way of a task (make
 * SAN=crash).
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
#include "tests/support/dag.h"
#include "tests/support/function_server.h"
#include "tests/support/process.h"
#include "tests/support/redis_server.h"
#include "tests/support/wait.h"
#include "tests/support/workspace.h"

#define KILLS_PER_RUN 10
#define LIFE_MOST (120 * CLOCK_MS)
#define RUNNING "event=worker_state state=running"

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
    struct dag *dag;
    unsigned killed;
    bool flaky; /* some invocations fail, and a retry handler has them started again */
};

static void begin(struct run *r, const char *name, struct dag *dag)
{
    char log[160];
    *r = (struct run){.dag = dag};
    assert_int_equal(workspace_create(&r->workspace, &redis, name), 0);
    redisReply *reply = redis_server_do(&redis, "DEL %s", name);
    assert_non_null(reply);
    freeReplyObject(reply);
    assert_int_equal(workspace_source(&r->workspace, "in", name, ""), 0);
    assert_non_null(r->server = function_server_new());
    function_server_basic(r->server, "user:password");
    dag_store(dag, &r->workspace, &(struct dag_options){.server = r->server, .stream = name});
    snprintf(log, sizeof log, "%s/%s.log", folder, name);
    process_init(&r->worker, log);
    process_program("triggerflow-worker", r->program);
    snprintf(r->crash_file, sizeof r->crash_file, "%s/%s.crash", folder, name);
    workspace_publish_one(&r->workspace, name, "run", "event.triggerflow.init", "__init__", NULL);
}

static void end(struct run *r)
{
    process_kill(&r->worker, SIGKILL);
    function_server_free(r->server);
    dag_free(r->dag);
}

static void start_worker(struct run *r)
{
    static const char *const intervals[] = {"TRIGGERFLOW_CHECKPOINT_INTERVAL=0s",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=10ms",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=40ms"};
    static const char *const pending[] = {"TRIGGERFLOW_MAX_PENDING_ACTIONS=10000",
                                          "TRIGGERFLOW_MAX_PENDING_ACTIONS=7"};
    static const char *const starts[] = {"TRIGGERFLOW_ACTION_START=committed",
                                         "TRIGGERFLOW_ACTION_START=immediate"};
    char port[32], shards[32], crash[200];
    snprintf(port, sizeof port, "REDIS_PORT=%d", redis.port);
    snprintf(shards, sizeof shards, "TRIGGERFLOW_SHARDS=%u", 1 + (unsigned)random_below(4));
    snprintf(crash, sizeof crash, "TRIGGERFLOW_CRASH_FILE=%s", r->crash_file);
    const char *environment[] = {"REDIS_HOST=127.0.0.1",
                                 port,
                                 shards,
                                 crash,
                                 intervals[random_below(3)],
                                 pending[random_below(2)],
                                 starts[random_below(4) == 0],
                                 NULL};
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

/* The sum of what the retry handler has counted. */
static unsigned long retries(const struct run *r)
{
    char *text = workspace_get(&r->workspace, "triggers", "retry");
    char *at = text ? strstr(text, "\"retries\":{") : NULL;
    unsigned long n = 0;
    if (at)
        for (at += strlen("\"retries\":{"); *at != '}'; at++)
            if (*at == ':')
                n += strtoul(at + 1, NULL, 10);
    free(text);
    return n;
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
    assert_non_null(strstr(text, "\"count\":1,"));
    free(text);
    assert_int_equal(workspace_count(&r->workspace, "dead_letters"), 0);
    if (!r->flaky)
        dag_assert_starts(r->dag, r->server, 1, true);
    assert_int_equal(function_server_strayed_keys(r->server), 0);
    assert_int_equal(function_server_keys(r->server, NULL, NULL), dag_invocations(r->dag) + retries(r));
    dag_assert_contexts(r->dag, &r->workspace, 1, true);
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

/* --- DAGs --- */

static struct dag *layered(void)
{
    struct dag *dag = dag_new();
    char id[32], upstream[256];
    unsigned n_layers = 4 + (unsigned)random_below(5);
    unsigned before = 0;
    for (unsigned layer = 0; layer < n_layers; layer++) {
        unsigned n = 1 + (unsigned)random_below(5);
        for (unsigned i = 0; i < n; i++) {
            upstream[0] = '\0';
            for (unsigned j = 0; layer && j < before; j++)
                if (random_below(2) || j == i % before)
                    snprintf(upstream + strlen(upstream), sizeof upstream - strlen(upstream), "%sl%u-%u",
                             *upstream ? " " : "", layer - 1, j);
            snprintf(id, sizeof id, "l%u-%u", layer, i);
            dag_add(dag, id, random_below(3) ? 1 : (unsigned)random_below(40), upstream);
        }
        before = n;
    }
    return dag;
}

static struct dag *choose(unsigned which)
{
    static const char *const names[] = {"triggerflow-dag-sequence", "triggerflow-dag-mixed",
                                        "triggerflow-dag-map", "triggerflow-dag-fault-tolerance"};
    struct dag *dag = which % 2 ? dag_read(names[which / 2 % 4]) : NULL;
    return dag ? dag : layered();
}

/* Whether an invocation fails depends on its key, so that it is the same in every repetition. */
static bool fails_by_key(void *data, const char *function, const struct json_value *payload,
                         struct buffer *result)
{
    struct json_value metadata, key;
    (void)data;
    (void)function;
    buffer_append_text(result, "1");
    return !json_member(payload, "__OW_TRIGGERFLOW", &metadata) || !json_member(&metadata, "key", &key) ||
           !strchr("0123", key.text[key.len - 1]);
}

static void make_flaky(struct run *r)
{
    r->flaky = true;
    function_server_compute(r->server, fails_by_key, NULL);
    assert_int_equal(
        workspace_trigger(&r->workspace, "retry", "{\"name\":\"TRUE\"}",
                          "{\"name\":\"DAG_TASK_RETRY_HANDLER\"}", "{\"max_retries\":1000}",
                          "{\"type\":\"event.triggerflow.termination.failure\",\"subject\":\"*\"}", false),
        0);
}

/* Functions that take their time, some of which report twice, under the same key. */
static void behave(struct run *r)
{
    function_server_behave(r->server, NULL, &(struct function_behaviour){.publish = true, .run_ms = 4});
    for (size_t i = 0; i < r->dag->n; i++)
        if (!random_below(4))
            function_server_behave(
                r->server, dag_function(&r->dag->tasks[i]),
                &(struct function_behaviour){.publish = true,
                                             .publish_times = 1 + (unsigned)random_below(2),
                                             .delay_ms = (unsigned)random_below(6),
                                             .run_ms = (unsigned)random_below(20)});
}

static void test_killed(void **state)
{
    (void)state;
    unsigned killed = 0;
    uint64_t started = 0, keys = 0;
    for (unsigned run = 0; killed < kills_wanted; run++) {
        struct run r;
        char name[32];
        snprintf(name, sizeof name, "dag%u", run);
        begin(&r, name, choose(run));
        behave(&r);
        if (run % 3 == 2)
            make_flaky(&r);
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
        keys += function_server_keys(r.server, NULL, NULL);
        end(&r);
    }
    printf("%u kills, %llu invocations started %llu times\n", killed, (unsigned long long)keys,
           (unsigned long long)started);
}

/* --- at named points --- */

static const char *const points[] = {
    "recovered",     "delivered",    "fire",          "write_applied", "held_opened", "barrier",
    "shard_cut",     "cut",          "commit_before", "commit_after",  "handed_over", "acknowledged",
    "fan_out_begun", "intent_start", "intent_done",   "element_ended", "end_written"};

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
    static const unsigned counts[] = {1, 2, 3, 5, 9, 1};
    char program[PATH_MAX];
    (void)state;
    if (!process_crash_program("triggerflow-worker", program)) {
        printf("skipped: no %s (make SAN=crash)\n", program);
        skip();
    }
    for (size_t p = 0; p < sizeof points / sizeof points[0]; p++) {
        struct run r;
        struct dag *dag = dag_new();
        unsigned reached = 0;
        char name[48];
        dag_add(dag, "first", 1, "");
        dag_add(dag, "left", 12, "first");
        dag_add(dag, "right", 1, "first");
        dag_add(dag, "middle", 9, "left");
        dag_add(dag, "last", 1, "middle right");
        snprintf(name, sizeof name, "at-%s", points[p]);
        begin(&r, name, dag);
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
    snprintf(folder, sizeof folder, "/tmp/triggerflow-dag-XXXXXX");
    if (!mkdtemp(folder) || redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line) == 0 ? result : 1;
}
