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
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/json.h"
#include "tests/support/chance.h"
#include "tests/support/dag.h"
#include "tests/support/function_server.h"
#include "tests/support/redis_server.h"
#include "tests/support/victim.h"

#define KILLS_PER_RUN 10
#define LIFE_MOST (120 * CLOCK_MS)

/* --- a run --- */

struct run {
    struct victim victim;
    struct function_server *server;
    struct dag *dag;
    bool flaky; /* some invocations fail, and a retry handler has them started again */
};

static const char *const pending[] = {"TRIGGERFLOW_MAX_PENDING_ACTIONS=10000",
                                      "TRIGGERFLOW_MAX_PENDING_ACTIONS=7", NULL};
/* One life in four starts actions at once. */
static const char *const starts[] = {
    "TRIGGERFLOW_ACTION_START=committed", "TRIGGERFLOW_ACTION_START=committed",
    "TRIGGERFLOW_ACTION_START=committed", "TRIGGERFLOW_ACTION_START=immediate", NULL};
static const char *const *const settings[] = {pending, starts, NULL};

static void begin(struct run *r, const char *name, struct dag *dag)
{
    *r = (struct run){.dag = dag};
    victim_init(&r->victim, victim_redis(), name, settings);
    assert_non_null(r->server = function_server_new());
    function_server_basic(r->server, "user:password");
    dag_store(dag, &r->victim.workspace, &(struct dag_options){.server = r->server, .stream = name});
    workspace_publish_one(&r->victim.workspace, name, "run", "event.triggerflow.init", "__init__", NULL);
}

static void end(struct run *r)
{
    process_kill(&r->victim.worker, SIGKILL);
    function_server_free(r->server);
    dag_free(r->dag);
}

/* The sum of what the retry handler has counted. */
static unsigned long retries(const struct run *r)
{
    char *text = workspace_get(&r->victim.workspace, "triggers", "retry");
    char *at = text ? strstr(text, "\"retries\":{") : NULL;
    unsigned long n = 0;
    if (at)
        for (at += strlen("\"retries\":{"); *at != '}'; at++)
            if (*at == ':')
                n += strtoul(at + 1, NULL, 10);
    free(text);
    return n;
}

static void assert_no_dead_letters(const struct workspace *workspace)
{
    redisReply *letters = redis_server_do(workspace->redis, "HVALS %s-dead_letters", workspace->name);
    assert_non_null(letters);
    for (size_t i = 0; i < letters->elements; i++)
        fprintf(stderr, "dead letter: %.1500s\n", letters->element[i]->str);
    assert_int_equal(letters->elements, 0);
    freeReplyObject(letters);
}

/* Lets the worker come to the end, and looks at what is left. */
static void finish(struct run *r)
{
    victim_await(&r->victim, victim_is_done);
    process_kill(&r->victim.worker, SIGKILL);
    char *text = workspace_get(&r->victim.workspace, "checkpoint", "finished");
    assert_non_null(strstr(text, "\"count\":1,"));
    free(text);
    assert_no_dead_letters(&r->victim.workspace);
    if (!r->flaky)
        dag_assert_starts(r->dag, r->server, 1, true);
    assert_int_equal(function_server_strayed_keys(r->server), 0);
    assert_int_equal(function_server_keys(r->server, NULL, NULL), dag_invocations(r->dag) + retries(r));
    dag_assert_contexts(r->dag, &r->victim.workspace, 1, true);
}

/* --- DAGs --- */

static struct dag *layered(void)
{
    struct dag *dag = dag_new();
    char id[32], upstream[256];
    unsigned n_layers = 4 + (unsigned)chance_below(5);
    unsigned before = 0;
    for (unsigned layer = 0; layer < n_layers; layer++) {
        unsigned n = 1 + (unsigned)chance_below(5);
        for (unsigned i = 0; i < n; i++) {
            upstream[0] = '\0';
            for (unsigned j = 0; layer && j < before; j++)
                if (chance_below(2) || j == i % before)
                    snprintf(upstream + strlen(upstream), sizeof upstream - strlen(upstream), "%sl%u-%u",
                             *upstream ? " " : "", layer - 1, j);
            snprintf(id, sizeof id, "l%u-%u", layer, i);
            dag_add(dag, id, chance_below(3) ? 1 : (unsigned)chance_below(40), upstream);
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
        workspace_trigger(&r->victim.workspace, "retry", "{\"name\":\"TRUE\"}",
                          "{\"name\":\"DAG_TASK_RETRY_HANDLER\"}", "{\"max_retries\":1000}",
                          "{\"type\":\"event.triggerflow.termination.failure\",\"subject\":\"*\"}", false),
        0);
}

/* Functions that take their time, some of which report twice, under the same key. */
static void behave(struct run *r)
{
    function_server_behave(r->server, NULL, &(struct function_behaviour){.publish = true, .run_ms = 4});
    for (size_t i = 0; i < r->dag->n; i++)
        if (!chance_below(4))
            function_server_behave(
                r->server, dag_function(&r->dag->tasks[i]),
                &(struct function_behaviour){.publish = true,
                                             .publish_times = 1 + (unsigned)chance_below(2),
                                             .delay_ms = (unsigned)chance_below(6),
                                             .run_ms = (unsigned)chance_below(20)});
}

static void test_killed(void **state)
{
    (void)state;
    unsigned killed = 0;
    uint64_t started = 0, keys = 0;
    for (unsigned run = 0; killed < chance_kills(); run++) {
        unsigned left = chance_kills() - killed;
        struct run r;
        char name[32];
        snprintf(name, sizeof name, "dag%u", run);
        begin(&r, name, choose(run));
        behave(&r);
        if (run % 3 == 2)
            make_flaky(&r);
        victim_kill_often(&r.victim, left < KILLS_PER_RUN ? left : KILLS_PER_RUN, LIFE_MOST);
        finish(&r);
        killed += r.victim.killed;
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

static void test_crash_points(void **state)
{
    static const unsigned counts[] = {1, 2, 3, 5, 9, 1};
    char program[PATH_MAX];
    (void)state;
    victim_crash_program(program);
    for (size_t p = 0; p < sizeof points / sizeof points[0]; p++) {
        struct run r;
        struct dag *dag = dag_new();
        char name[48];
        dag_add(dag, "first", 1, "");
        dag_add(dag, "left", 12, "first");
        dag_add(dag, "right", 1, "first");
        dag_add(dag, "middle", 9, "left");
        dag_add(dag, "last", 1, "middle right");
        snprintf(name, sizeof name, "at-%s", points[p]);
        begin(&r, name, dag);
        memcpy(r.victim.program, program, sizeof program);
        function_server_behave(r.server, NULL, &(struct function_behaviour){.publish = true});
        victim_die_at(&r.victim, points[p], counts, sizeof counts / sizeof counts[0]);
        finish(&r);
        end(&r);
    }
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_crash_points),
    };
    int opened = victim_open(argc, argv, "dag");
    if (opened)
        return opened < 0;
    return victim_close(cmocka_run_group_tests(tests, NULL, NULL));
}
