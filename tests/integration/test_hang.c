/* A function that hangs, with far more intents than a worker keeps in memory, beside one that answers: the
 * latter's invocations get through as if they were alone, whenever the worker is killed, and all is exact in
 * the end.
 *
 * TRIGGERFLOW_KILLS: how often, in twenty (200); below 100 there are fewer intents, too. TRIGGERFLOW_SEED:
 * repeats a run's random choices. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "tests/support/chance.h"
#include "tests/support/invoke_bed.h"

#define PLACES "200"
#define BURST 150 /* more than the healthy one gets at a time */
#define REPLY ",\"reply\":\"event\",\"reply_type\":\"answered\",\"timeout_s\":600,\"reply_subject\":"

static struct redis_server redis;

static int setup(void **state)
{
    *state = invoke_bed_new(&redis);
    invoke_bed_setting("TRIGGERFLOW_MAX_PENDING_ACTIONS", PLACES);
    return 0;
}

static int teardown(void **state)
{
    invoke_bed_free(*state);
    return 0;
}

static unsigned many(void)
{
    return chance_kills() < 100 ? 3000 : 30000;
}

/* The functions `stuck`, which hangs, and `well`, and triggers of these names for events of these types. */
static void put_workload(struct invoke_bed *bed)
{
    static const char *const names[] = {"stuck", "well"};
    function_server_behave(bed->server, "stuck", &(struct function_behaviour){.mode = FUNCTION_HANGS});
    for (size_t i = 0; i < 2; i++) {
        char more[160], path[32], counter[32];
        snprintf(more, sizeof more, REPLY "\"%s\"", names[i]);
        snprintf(path, sizeof path, "/f/%s", names[i]);
        snprintf(counter, sizeof counter, "%s-answered", names[i]);
        worker_bed_trigger(bed->worker, names[i], "TRUE", "{}", invoke_bed_action(bed, path, more), names[i],
                           "s");
        invoke_bed_counter(bed, counter, "answered", names[i]);
    }
}

static void publish(struct invoke_bed *bed, const char *type, unsigned n)
{
    worker_bed_publish(bed->worker, type, "s", n);
}

/* The stuck function answers at last: each intent was started, under one key, and its answer counted once. */
static void compare(struct invoke_bed *bed, unsigned stuck, unsigned well)
{
    function_server_behave(bed->server, "stuck", &(struct function_behaviour){.delay_ms = 0});
    process_kill(&bed->worker->worker, SIGKILL); /* those that hang are started again */
    worker_bed_start(bed->worker, NULL, NULL, NULL);
    AWAIT_BED(bed->worker, worker_bed_running(bed->worker));
    worker_bed_settle(bed->worker);
    assert_int_equal(invoke_bed_count(bed, "stuck-answered"), stuck);
    assert_int_equal(invoke_bed_count(bed, "well-answered"), well);
    assert_int_equal(function_server_keys(bed->server, "stuck", NULL), stuck);
    assert_int_equal(function_server_keys(bed->server, "well", NULL), well);
    assert_int_equal(function_server_strayed_keys(bed->server), 0);
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), 0);
    worker_bed_stop(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "outbox"), 0);
    assert_int_equal(workspace_count(&bed->worker->workspace, "internal"), 0);
    for (size_t i = 0; i < 2; i++) {
        char *text = workspace_get(&bed->worker->workspace, "checkpoint",
                                   i ? "outbox_started:stuck" : "outbox_started:well");
        assert_null(text);
    }
}

/* How far the events have been read is how many intents there are. */
static void test_hang(void **state)
{
    struct invoke_bed *bed = *state;
    unsigned stuck = many();
    unsigned well = 0;
    put_workload(bed);
    worker_bed_start(bed->worker, NULL, NULL, NULL);
    publish(bed, "stuck", stuck);
    AWAIT_BED(bed->worker, workspace_count(&bed->worker->workspace, "outbox") == stuck);
    for (unsigned i = 0; i <= chance_kills() / 20; i++) {
        publish(bed, "well", BURST);
        well += BURST;
        if (i % 3 != 1) /* or it dies before */
            AWAIT_BED(bed->worker, invoke_bed_count(bed, "well-answered") == well);
        assert_true(function_server_starts(bed->server, "stuck", NULL, NULL) <= (i + 1) * 100);
        struct timespec life = {.tv_nsec = (long)(chance_below(150) * CLOCK_MS)};
        nanosleep(&life, NULL);
        process_kill(&bed->worker->worker, SIGKILL);
        worker_bed_start(bed->worker, NULL, NULL, NULL);
    }
    AWAIT_BED(bed->worker, invoke_bed_count(bed, "well-answered") == well);
    compare(bed, stuck, well);
}

/* The same with one intent of as many elements. */
static void test_fan_out(void **state)
{
    struct invoke_bed *bed = *state;
    unsigned well = 0;
    unsigned stuck = 2000;
    BUFFER_AUTO action = BUFFER_INIT;
    put_workload(bed);
    buffer_printf(
        &action,
        "{\"name\":\"IBM_CF_INVOKE\",\"url\":\"http://127.0.0.1:%u/api/v1/namespaces/_/actions/stuck\","
        "\"api_key\":\"user:pass\",\"timeout_s\":600,\"subject\":\"task\",\"iter_data\":{\"x\":[0",
        function_server_port(bed->server));
    for (unsigned i = 1; i < stuck; i++)
        buffer_printf(&action, ",%u", i);
    buffer_append_text(&action, "]}}");
    worker_bed_trigger(bed->worker, "task", "TRUE", "{}", buffer_text(&action), "task", "s");
    worker_bed_start(bed->worker, NULL, NULL, NULL);
    publish(bed, "task", 1);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "stuck", NULL, NULL) == 100);
    for (unsigned i = 0; i < 3; i++) {
        publish(bed, "well", BURST);
        well += BURST;
        AWAIT_BED(bed->worker, invoke_bed_count(bed, "well-answered") == well);
        process_kill(&bed->worker->worker, SIGKILL);
        worker_bed_start(bed->worker, NULL, NULL, NULL);
    }
    function_server_behave(bed->server, "stuck", &(struct function_behaviour){.delay_ms = 0});
    process_kill(&bed->worker->worker, SIGKILL);
    worker_bed_start(bed->worker, NULL, NULL, NULL);
    AWAIT_BED(bed->worker, worker_bed_running(bed->worker));
    worker_bed_settle(bed->worker);
    assert_int_equal(function_server_keys(bed->server, "stuck", NULL), stuck);
    worker_bed_stop(bed->worker);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {TEST(test_hang), TEST(test_fan_out)};
    chance_read_settings();
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return result;
}
