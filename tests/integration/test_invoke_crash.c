/* Invocations through a worker that is killed: at random, and at every crash point. Whatever happens, each
 * firing's function has run, repeats carry the firing's key, replies and failures count exactly once, and
 * nothing is left over.
 *
 * TRIGGERFLOW_KILLS: random kills in all (200). TRIGGERFLOW_SEED: repeats a run's random choices. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "tests/support/invoke_bed.h"

#define BURST 25
#define FAILURE "event.triggerflow.termination.failure"

static struct redis_server redis;
static uint64_t seed;
static unsigned kills_wanted = 200;

static uint64_t random_below(uint64_t n)
{
    seed ^= seed << 13; /* Marsaglia, Xorshift RNGs (2003) */
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

static int setup(void **state)
{
    *state = invoke_bed_new(&redis);
    return 0;
}

static int teardown(void **state)
{
    invoke_bed_free(*state);
    return 0;
}

static void start(struct invoke_bed *bed)
{
    worker_bed_start(bed->worker, NULL, NULL, NULL);
}

/* A function that answers after a moment, one that fails at first, and one that always fails. */
static void put_workload(struct invoke_bed *bed)
{
    static const char reply[] =
        ",\"reply\":\"event\",\"reply_type\":\"answered\",\"reply_subject\":\"all\",\"subject\":\"all\"";
    char more[512];
    function_server_behave(bed->server, "slow", &(struct function_behaviour){.delay_ms = 5});
    function_server_behave(bed->server, "shaky",
                           &(struct function_behaviour){.status = 503, .fail_first = 1});
    function_server_behave(bed->server, "broken", &(struct function_behaviour){.status = 404});
    snprintf(more, sizeof more, "%s,\"max_in_flight\":20", reply);
    invoke_bed_trigger(bed, "slow", "*", "/f/slow", more);
    invoke_bed_trigger(bed, "shaky", "*", "/f/shaky", reply);
    invoke_bed_trigger(bed, "broken", "*", "/f/broken", reply);
    invoke_bed_counter(bed, "answered", "answered", "all");
    invoke_bed_counter(bed, "failed", FAILURE, "all");
    /* These look at no key: an event that comes twice shows. */
    worker_bed_trigger(bed->worker, "each", "TRUE", "{}", "{\"name\":\"PASS\"}", "answered", "all");
    worker_bed_trigger(bed->worker, "each-failure", "TRUE", "{}", "{\"name\":\"PASS\"}", FAILURE, "all");
}

static long long fired(struct invoke_bed *bed, const char *trigger)
{
    char field[64];
    snprintf(field, sizeof field, "fired:uuid-%s", trigger);
    char *text = workspace_get(&bed->worker->workspace, "checkpoint", field);
    long long n = text ? atoll(text) : -1;
    free(text);
    return n;
}

static void go(struct invoke_bed *bed, unsigned *events)
{
    char prefix[16];
    snprintf(prefix, sizeof prefix, "e%u-", *events);
    invoke_bed_go_many(bed, prefix, BURST);
    *events += BURST;
}

static void compare(struct invoke_bed *bed, unsigned events)
{
    static const char *const functions[] = {"slow", "shaky", "broken"};
    AWAIT_BED(bed->worker, worker_bed_running(bed->worker));
    worker_bed_settle(bed->worker);
    assert_int_equal(invoke_bed_count(bed, "answered"), 2 * events);
    assert_int_equal(invoke_bed_count(bed, "failed"), events);
    assert_int_equal(fired(bed, "each"), 2 * events);
    assert_int_equal(fired(bed, "each-failure"), events);
    assert_int_equal(workspace_dead_letters(&bed->worker->workspace, "action_failed"), events);
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), events);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(function_server_keys(bed->server, functions[i], NULL), events);
    assert_int_equal(function_server_strayed_keys(bed->server), 0);
    worker_bed_stop(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "outbox"), 0);
    assert_int_equal(workspace_count(&bed->worker->workspace, "internal"), 0);
}

static void test_killed(void **state)
{
    struct invoke_bed *bed = *state;
    unsigned events = 0;
    put_workload(bed);
    invoke_bed_setting("TRIGGERFLOW_MAX_PENDING_ACTIONS", "40");
    for (unsigned i = 0; i < kills_wanted; i++) {
        start(bed);
        if (events < 20 * BURST)
            go(bed, &events);
        struct timespec life = {.tv_nsec = (long)(random_below(i % 4 ? 60 : 250) * CLOCK_MS)};
        nanosleep(&life, NULL);
        process_kill(&bed->worker->worker, SIGKILL);
    }
    start(bed);
    compare(bed, events);
    printf("%u kills, %u events, %llu starts\n", kills_wanted, events,
           (unsigned long long)function_server_starts(bed->server, NULL, NULL, NULL));
}

/* One life that ends at the COUNTth time that the point is reached. Returns whether it came to that. */
static bool live_until(struct invoke_bed *bed, const char *point, unsigned count, unsigned *events)
{
    char path[96];
    int status = -1;
    snprintf(path, sizeof path, "%s/crash", bed->worker->dir);
    invoke_bed_setting("TRIGGERFLOW_CRASH_FILE", path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "%s %u\n", point, count);
    assert_int_equal(fclose(file), 0);
    start(bed);
    go(bed, events);
    AWAIT_BED(bed->worker, process_ended(&bed->worker->worker, &status) || worker_bed_settled(bed->worker));
    if (status < 0) { /* not reached so often */
        process_kill(&bed->worker->worker, SIGKILL);
        (void)unlink(path);
        return false;
    }
    if (status != 128 + SIGKILL)
        worker_bed_show(bed->worker);
    assert_int_equal(status, 128 + SIGKILL);
    return true;
}

static void test_crash_points(void **state)
{
    struct invoke_bed *bed = *state;
    static const char *const points[] = {"fire",         "shard_cut",   "commit_before",
                                         "commit_after", "handed_over", "intent_start",
                                         "intent_done",  "end_written", "acknowledged"};
    static const unsigned counts[] = {1, 2, 7, 30};
    unsigned events = 0;
    if (!process_crash_program("triggerflow-worker", bed->worker->program)) {
        printf("skipped: no %s (make SAN=crash)\n", bed->worker->program);
        skip();
    }
    put_workload(bed);
    for (size_t p = 0; p < sizeof points / sizeof points[0]; p++) {
        unsigned reached = 0;
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
            reached += live_until(bed, points[p], counts[i], &events);
        if (!reached)
            fail_msg("the crash point %s was never reached", points[p]);
    }
    start(bed);
    compare(bed, events);
}

/* on_uncertain: dead_letter. Those that may have been started when the worker died are given up, and tell so;
 * those that waited in storage behind them are started, once. */
static void test_uncertain(void **state)
{
    struct invoke_bed *bed = *state;
    enum { EVENTS = 3000, PLACES = 20 }; /* of which one trigger gets half */
    invoke_bed_setting("TRIGGERFLOW_MAX_PENDING_ACTIONS", "20");
    function_server_behave(bed->server, "x", &(struct function_behaviour){.mode = FUNCTION_HANGS});
    invoke_bed_trigger(bed, "t", "*", "/f/x", ",\"on_uncertain\":\"dead_letter\",\"subject\":\"all\"");
    invoke_bed_counter(bed, "failed", FAILURE, "all");
    start(bed);
    invoke_bed_go_many(bed, "n", EVENTS);
    AWAIT_BED(bed->worker, workspace_count(&bed->worker->workspace, "outbox") == EVENTS &&
                               function_server_requests(bed->server) == PLACES / 2);
    process_kill(&bed->worker->worker, SIGKILL);
    function_server_behave(bed->server, "x", &(struct function_behaviour){.delay_ms = 0});
    start(bed);
    worker_bed_settle(bed->worker);
    long long given_up = workspace_dead_letters(&bed->worker->workspace, "action_failed");
    assert_in_range(given_up, PLACES / 2, 1100);
    assert_int_equal(invoke_bed_count(bed, "failed"), given_up);
    assert_int_equal(function_server_keys(bed->server, "x", NULL), EVENTS - given_up + PLACES / 2);
    assert_int_equal(function_server_requests(bed->server), EVENTS - given_up + PLACES / 2);
    char *text = invoke_bed_letters(bed);
    invoke_bed_has(text, "uncertain: the worker died after it may have been started");
    free(text);
    worker_bed_stop(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "outbox"), 0);
    text = workspace_get(&bed->worker->workspace, "checkpoint", "outbox_started:t");
    assert_null(text);
}

/* The same when the worker was stopped: what had not begun, waiting for its turn or in storage, is called as
 * if nothing had been. */
static void test_uncertain_stopped(void **state)
{
    struct invoke_bed *bed = *state;
    enum { EVENTS = 100, BEGUN = 2 };
    invoke_bed_setting("TRIGGERFLOW_MAX_PENDING_ACTIONS", "50");
    invoke_bed_setting("TRIGGERFLOW_STOP_TIMEOUT", "2s");
    function_server_behave(bed->server, "x", &(struct function_behaviour){.mode = FUNCTION_HANGS});
    invoke_bed_trigger(bed, "t", "*", "/f/x",
                       ",\"on_uncertain\":\"dead_letter\",\"max_in_flight\":2,\"subject\":\"all\"");
    start(bed);
    invoke_bed_go_many(bed, "n", EVENTS);
    AWAIT_BED(bed->worker, workspace_count(&bed->worker->workspace, "outbox") == EVENTS &&
                               function_server_requests(bed->server) == BEGUN);
    worker_bed_stop(bed->worker);
    function_server_behave(bed->server, "x", &(struct function_behaviour){.delay_ms = 0});
    start(bed);
    worker_bed_settle(bed->worker);
    assert_int_equal(workspace_dead_letters(&bed->worker->workspace, "action_failed"), BEGUN);
    assert_int_equal(function_server_keys(bed->server, "x", NULL), EVENTS);
    assert_int_equal(function_server_requests(bed->server), EVENTS);
    worker_bed_stop(bed->worker);
    assert_int_equal(workspace_count(&bed->worker->workspace, "outbox"), 0);
    char *text = workspace_get(&bed->worker->workspace, "checkpoint", "outbox_started:t");
    assert_null(text);
}

/* A bare kill, with everything repeated: the same keys. */
static void test_repeat(void **state)
{
    struct invoke_bed *bed = *state;
    function_server_behave(bed->server, "x", &(struct function_behaviour){.mode = FUNCTION_HANGS});
    invoke_bed_trigger(bed, "t", "*", "/f/x", "");
    start(bed);
    invoke_bed_go_many(bed, "n", 20);
    AWAIT_BED(bed->worker, function_server_requests(bed->server) == 20);
    process_kill(&bed->worker->worker, SIGKILL);
    function_server_behave(bed->server, "x", &(struct function_behaviour){.delay_ms = 0});
    start(bed);
    worker_bed_settle(bed->worker);
    assert_int_equal(function_server_keys(bed->server, "x", NULL), 20);
    assert_int_equal(function_server_requests(bed->server), 40);
    assert_int_equal(function_server_strayed_keys(bed->server), 0);
    worker_bed_stop(bed->worker);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_repeat), TEST(test_uncertain),    TEST(test_uncertain_stopped),
        TEST(test_killed), TEST(test_crash_points),
    };
    const char *text = getenv("TRIGGERFLOW_SEED");
    seed = (text ? strtoull(text, NULL, 10) : clock_unix_ns()) | 1;
    text = getenv("TRIGGERFLOW_KILLS");
    if (text)
        kills_wanted = (unsigned)strtoul(text, NULL, 10);
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("TRIGGERFLOW_SEED=%llu TRIGGERFLOW_KILLS=%u\n", (unsigned long long)seed, kills_wanted);
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return result;
}
