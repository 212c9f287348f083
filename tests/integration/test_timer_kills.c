/* Timers through deaths of the real worker, and through steps of the wall clock (libfaketime): each comes
 * exactly once, in the order of their times. TRIGGERFLOW_KILLS: random kills (200 here means 40). */
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

#include "tests/support/redis_server.h"
#include "tests/support/wait.h"
#include "tests/support/worker_bed.h"
#include "tests/support/workspace.h"

#define TIMERS 300
#define LIFE_MOST (100 * CLOCK_MS)
#define FAKETIME "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

static struct redis_server redis;

/* Every timer's event is counted, and emitted with its number. */
static int setup(void **state)
{
    struct worker_bed *bed = worker_bed_new(&redis);
    *state = bed;
    worker_bed_trigger(bed, "count", "JOIN", "{\"join\":100000}", "{\"name\":\"PASS\"}", "timeout", "*");
    worker_bed_trigger(bed, "tell", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"told\"}}",
                       "timeout", "*");
    return 0;
}

static int teardown(void **state)
{
    worker_bed_free(*state);
    return 0;
}

/* The timers are stored in another order than that of their times. */
static void put_timers(uint64_t first_unix_ns, uint64_t spacing_ns)
{
    for (unsigned i = 0; i < TIMERS; i++) {
        unsigned n = i * 7 % TIMERS;
        freeReplyObject(redis_server_do(
            &redis,
            "HSET ws-timers timer%u "
            "{\"at\":%llu,\"event_source\":{\"class\":\"%s\"},\"event\":{\"type\":\"timeout\",\"subject\":"
            "\"s\",\"data\":%u}}",
            i, (unsigned long long)(first_unix_ns + n * spacing_ns),
            i % 2 ? "InternalEventSource" : "HTTPEventSource", n));
    }
}

static bool done(struct worker_bed *bed)
{
    return workspace_count(&bed->workspace, "timers") == 0 &&
           workspace_count(&bed->workspace, "internal") == 0 &&
           workspace_count(&bed->workspace, "outbox") == 0;
}

/* The numbers of what was emitted, each at its first time (kills may repeat it), in order. */
static void expect_all_in_order(struct worker_bed *bed)
{
    unsigned next = 0;
    unsigned entries = (unsigned)workspace_stream_length(&bed->workspace, "out");
    assert_int_equal(worker_bed_counter(bed, "count"), TIMERS);
    for (unsigned i = 0; i < entries; i++) {
        unsigned number = (unsigned)atoi(worker_bed_entry(bed, "out", i, "data"));
        assert_true(number <= next); /* new, or a repetition */
        next += number == next;
    }
    assert_int_equal(next, TIMERS);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* Due while the worker is dead: they come at its start. */
static void test_due_while_dead(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_up(bed);
    process_kill(&bed->worker, SIGKILL);
    put_timers(clock_unix_ns() - CLOCK_S, CLOCK_MS);
    worker_bed_up(bed);
    AWAIT_BED(bed, done(bed) && worker_bed_counter(bed, "count") == TIMERS);
    expect_all_in_order(bed);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), TIMERS);
}

static unsigned kills_wanted(void)
{
    const char *given = getenv("TRIGGERFLOW_KILLS");
    unsigned kills = given && *given ? (unsigned)atoi(given) : 200;
    return kills / 5 + 1;
}

/* Killed at any time while they become due. */
static void test_random_kills(void **state)
{
    struct worker_bed *bed = *state;
    unsigned kills = kills_wanted();
    put_timers(clock_unix_ns() + 50 * CLOCK_MS, kills * LIFE_MOST / 2 / TIMERS);
    for (unsigned i = 0; i < kills; i++) {
        uint32_t random = 0;
        worker_bed_up(bed);
        assert_int_equal(getrandom(&random, sizeof random, 0), sizeof random);
        uint64_t until = clock_now_ns() + random % LIFE_MOST;
        while (clock_now_ns() < until)
            wait_moment();
        process_kill(&bed->worker, SIGKILL);
    }
    worker_bed_up(bed);
    AWAIT_BED(bed, done(bed) && worker_bed_counter(bed, "count") == TIMERS);
    expect_all_in_order(bed);
}

static void set_offset(const char *path, const char *offset)
{
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE *file = fopen(temporary, "w");
    assert_non_null(file);
    fprintf(file, "%s\n", offset);
    fclose(file);
    assert_int_equal(rename(temporary, path), 0);
}

/* What libfaketime leaves of a process that does not end by exit(). */
static void remove_shared(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/faketime_shm_%d", (int)pid);
    unlink(path);
    snprintf(path, sizeof path, "/dev/shm/sem.faketime_sem_%d", (int)pid);
    unlink(path);
}

/* The wall clock is set, and the monotonic one is not. */
static void test_clock_is_set(void **state)
{
    struct worker_bed *bed = *state;
    char path[96];
    if (access(FAKETIME, R_OK) || getenv("TEST_REPORTS")) { /* a sanitizer wants to be loaded first */
        print_message("skipped: no libfaketime, or a sanitizer\n");
        return;
    }
    snprintf(path, sizeof path, "%s/offset", bed->dir);
    set_offset(path, "+0");
    setenv("FAKETIME_TIMESTAMP_FILE", path, 1);
    setenv("FAKETIME_NO_CACHE", "1", 1);
    setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1", 1);
    put_timers(clock_unix_ns() + 3600 * CLOCK_S, CLOCK_MS);
    worker_bed_start(bed, NULL, NULL, "LD_PRELOAD=" FAKETIME);
    AWAIT_BED(bed, worker_bed_running(bed));
    set_offset(path, "-86400"); /* back: none comes */
    worker_bed_publish(bed, "timeout", "s", 1);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 1);
    assert_int_equal(workspace_count(&bed->workspace, "timers"), TIMERS);
    uint64_t start = clock_now_ns();
    set_offset(path, "+3700"); /* on: all come */
    AWAIT_BED(bed, done(bed) && worker_bed_counter(bed, "count") == TIMERS + 1);
    print_message("noticed after %llu ms\n", (unsigned long long)((clock_now_ns() - start) / CLOCK_MS));
    pid_t pid = bed->worker.pid;
    worker_bed_stop(bed);
    remove_shared(pid);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_due_while_dead, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_kills, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clock_is_set, setup, teardown),
    };
    if (!redis_server_available()) {
        printf("skipped: no redis-server\n");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return result;
}
