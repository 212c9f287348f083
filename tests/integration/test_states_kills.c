/* Kills while a state machine runs, with a Map, Choices, a Parallel and tasks whose results are merged into
 * their input, of which some fail and are tried again, and others fail their Parallel, which catches that:
 * the output must be exactly that of one undisturbed run, and every start of a function that was repeated
 * must have the same key. The real worker is killed with SIGKILL at random instants, and at every named crash
 * point on the way of a state (make SAN=crash).
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
#include "common/json_compare.h"
#include "tests/support/asl_compile.h"
#include "tests/support/chance.h"
#include "tests/support/function_server.h"
#include "tests/support/redis_server.h"
#include "tests/support/victim.h"

#define KILLS_PER_RUN 10
#define LIFE_MOST (120 * CLOCK_MS)
#define ORDERS 24

/* Small orders go to one function, which fails for odd ones at first, the others to a function, which fails
 * for the largest, and a Pass at the same time; a last task counts. */
static const char definition[] =
    "{\"StartAt\":\"Prepare\",\"States\":{"
    "\"Prepare\":{\"Type\":\"Pass\",\"Parameters\":{\"orders.$\":\"$\",\"n.$\":\"States.ArrayLength($)\"},"
    "\"Next\":\"Each\"},"
    "\"Each\":{\"Type\":\"Map\",\"ItemsPath\":\"$.orders\",\"ResultPath\":\"$.done\","
    "\"ItemSelector\":{\"order.$\":\"$$.Map.Item.Value\",\"index.$\":\"$$.Map.Item.Index\"},"
    "\"ItemProcessor\":{\"StartAt\":\"Big\",\"States\":{"
    "\"Big\":{\"Type\":\"Choice\",\"Choices\":[{\"Variable\":\"$.order\",\"NumericGreaterThanEquals\":10,"
    "\"Next\":\"Both\"}],\"Default\":\"Small\"},"
    "\"Small\":{\"Type\":\"Task\",\"Resource\":\"small\",\"Parameters\":{\"n.$\":\"$.order\",\"i.$\":\"$."
    "index\"},"
    "\"Retry\":[{\"ErrorEquals\":[\"Once\"],\"IntervalSeconds\":1,\"MaxAttempts\":1}],"
    "\"ResultPath\":\"$.small\",\"End\":true},"
    "\"Sorry\":{\"Type\":\"Pass\",\"Result\":true,\"ResultPath\":\"$.sorry\",\"End\":true},"
    "\"Both\":{\"Type\":\"Parallel\",\"ResultPath\":\"$.both\",\"End\":true,"
    "\"Catch\":[{\"ErrorEquals\":[\"Never\"],\"ResultPath\":\"$.error\",\"Next\":\"Sorry\"}],\"Branches\":["
    "{\"StartAt\":\"Left\",\"States\":{\"Left\":{\"Type\":\"Task\",\"Resource\":\"left\","
    "\"Parameters\":{\"x.$\":\"$.order\"},\"ResultSelector\":{\"left.$\":\"$.x\"},\"End\":true}}},"
    "{\"StartAt\":\"Right\",\"States\":{\"Right\":{\"Type\":\"Pass\",\"Result\":\"right\",\"End\":true}}}]}}}"
    ","
    "\"Next\":\"Count\"},"
    "\"Count\":{\"Type\":\"Task\",\"Resource\":\"count\",\"Parameters\":{\"n.$\":\"$.n\"},\"ResultPath\":\"$."
    "count\","
    "\"OutputPath\":\"$['done','count']\",\"End\":true}}}";

/* --- a run --- */

struct run {
    struct victim victim;
    struct function_server *server;
    unsigned orders[ORDERS];
    unsigned n_small, n_odd; /* ... of those */
    char end[32];            /* trigger */
    char first[ORDERS][40];  /* keys of the first attempts at small orders */
};

static int64_t number(const struct json_value *payload, const char *name)
{
    struct json_value value;
    int64_t n = 0;
    assert_true(json_member(payload, name, &value) && json_integer(&value, &n));
    return n;
}

/* A start that is repeated, under its key, comes to the same. */
static bool compute(void *data, const char *function, const struct json_value *payload, struct buffer *result)
{
    struct run *r = data;
    struct json_value key;
    bool is_left = !strcmp(function, "left");
    bool fails = is_left && number(payload, "x") >= 15;
    int64_t n = number(payload, is_left ? "x" : "n");
    if (!strcmp(function, "small") && n % 2) {
        char *first = r->first[number(payload, "i") % ORDERS];
        assert_true(json_member(payload, "__TRIGGERFLOW_KEY", &key) && key.len < sizeof r->first[0]);
        if (!*first)
            memcpy(first, key.text, key.len);
        fails = json_equals(&key, first, strlen(first));
    }
    if (fails)
        buffer_printf(result, "{\"errorType\":\"%s\"}", is_left ? "Never" : "Once");
    else
        buffer_printf(result, "{\"%s\":%lld}", is_left ? "x" : "n", (long long)n);
    return !fails;
}

static void put_trigger(void *data, const char *id, const char *document)
{
    const struct run *r = data;
    assert_int_equal(workspace_put_trigger(&r->victim.workspace, id, document), 0);
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
                                  .second = 0.02,
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
        r->orders[i] = (unsigned)chance_below(20);
        r->n_small += r->orders[i] < 10;
        r->n_odd += r->orders[i] < 10 && r->orders[i] % 2;
        buffer_printf(&data, "%c%u", i ? ',' : '[', r->orders[i]);
    }
    buffer_append_char(&data, ']');
    workspace_publish_one(&r->victim.workspace, r->victim.workspace.name, "run", "lambda.success", "__init__",
                          buffer_text(&data));
}

/* One life in four starts actions at once. */
static const char *const starts[] = {
    "TRIGGERFLOW_ACTION_START=committed", "TRIGGERFLOW_ACTION_START=committed",
    "TRIGGERFLOW_ACTION_START=committed", "TRIGGERFLOW_ACTION_START=immediate", NULL};
static const char *const *const settings[] = {starts, NULL};

static void begin(struct run *r, const char *name)
{
    *r = (struct run){0};
    victim_init(&r->victim, victim_redis(), name, settings);
    redisReply *reply = redis_server_do(
        victim_redis(), "HSET %s-global_context aws_credentials %s", name,
        "{\"access_key_id\":\"AKID\",\"secret_access_key\":\"secret\",\"region\":\"eu-west-1\"}");
    assert_non_null(reply);
    freeReplyObject(reply);
    assert_non_null(r->server = function_server_new());
    function_server_sigv4(r->server, "AKID", "secret", NULL, "eu-west-1", "lambda");
    function_server_sink(r->server, victim_redis()->port, name);
    function_server_compute(r->server, compute, r);
    store_machine(r);
    publish_orders(r);
}

static void end(struct run *r)
{
    process_kill(&r->victim.worker, SIGKILL);
    function_server_free(r->server);
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
        else if (order >= 15)
            buffer_append_text(
                out, "\"error\":{\"Error\":\"Never\",\"Cause\":\"{\\\"errorType\\\":\\\"Never\\\"}\"},"
                     "\"sorry\":true}");
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
    char *text = workspace_get(&r->victim.workspace, "triggers", r->end);
    assert_non_null(text);
    assert_int_equal(json_scan(text, strlen(text), &root, NULL), 0);
    assert_true(json_member(&root, "context", &context) && json_member(&context, "result", &result));
    assert_int_equal(json_same(&wanted, &result, &steps, &same, NULL), 0);
    if (!same)
        fail_msg("%.*s, not %s", (int)result.len, result.text, buffer_text(&expected));
    free(text);
}

/* What of a trigger's document begins with that text; NULL: nothing. */
static const char *shows(const struct run *r, const char *trigger, const char *text)
{
    static char shown[4096];
    char *document = workspace_get(&r->victim.workspace, "triggers", trigger);
    assert_non_null(document);
    const char *at = strstr(document, text);
    snprintf(shown, sizeof shown, "%s", at ? at : "");
    free(document);
    return at ? shown : NULL;
}

/* Lets the worker come to the end, and looks at what is left. */
static void finish(struct run *r)
{
    victim_await(&r->victim, victim_is_done);
    process_kill(&r->victim.worker, SIGKILL);
    char *text = workspace_get(&r->victim.workspace, "checkpoint", "finished");
    if (!strstr(text, "\"count\":1,"))
        victim_show(&r->victim);
    assert_non_null(strstr(text, "\"count\":1,"));
    free(text);
    assert_int_equal(workspace_count(&r->victim.workspace, "dead_letters"), 0);
    assert_output(r);
    assert_int_equal(function_server_keys(r->server, "small", NULL), r->n_small + r->n_odd);
    assert_null(shows(r, "Both", "\"joins\""));
    assert_null(shows(r, "Small.failed", "\"tries\""));
    assert_null(shows(r, "Small.failed", "\"answers\""));
    assert_int_equal(function_server_keys(r->server, "left", NULL), ORDERS - r->n_small);
    assert_int_equal(function_server_keys(r->server, "count", NULL), 1);
    assert_int_equal(function_server_strayed_keys(r->server), 0);
}

/* Functions that take their time, some of which report twice, under the same key. */
static void behave(struct run *r)
{
    static const char *const names[] = {"small", "left", "count"};
    for (size_t i = 0; i < 3; i++)
        function_server_behave(r->server, names[i],
                               &(struct function_behaviour){.publish = true,
                                                            .publish_times = 1 + (unsigned)chance_below(2),
                                                            .delay_ms = (unsigned)chance_below(6),
                                                            .run_ms = (unsigned)chance_below(30)});
}

static void test_killed(void **state)
{
    unsigned killed = 0;
    uint64_t started = 0, keys = 0;
    (void)state;
    for (unsigned run = 0; killed < chance_kills(); run++) {
        unsigned left = chance_kills() - killed;
        struct run r;
        char name[32];
        snprintf(name, sizeof name, "machine%u", run);
        begin(&r, name);
        behave(&r);
        victim_kill_often(&r.victim, left < KILLS_PER_RUN ? left : KILLS_PER_RUN, LIFE_MOST);
        finish(&r);
        killed += r.victim.killed;
        started += function_server_starts(r.server, NULL, NULL, NULL);
        keys += ORDERS + r.n_odd + 1;
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

static void test_crash_points(void **state)
{
    static const unsigned counts[] = {1, 2, 5, 17, 1};
    char program[PATH_MAX];
    (void)state;
    victim_crash_program(program);
    for (size_t p = 0; p < sizeof points / sizeof points[0]; p++) {
        struct run r;
        char name[48];
        snprintf(name, sizeof name, "at-%s", points[p]);
        begin(&r, name);
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
    int opened = victim_open(argc, argv, "states");
    if (opened)
        return opened < 0;
    return victim_close(cmocka_run_group_tests(tests, NULL, NULL));
}
