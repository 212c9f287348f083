/* The HTTPEventSource of a real worker, on every storage, with the test as the supervisor that feeds its
 * ring: accepting, repetitions, pausing, bounds, damage, a full disk, and kill at every crash point. Builds
 * with crash points (asan, tsan) only: the latter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/error.h"
#include "tests/support/ingest_bed.h"
#include "tests/support/wait.h"
#include "worker/source/event_group.h"

static struct ingest_bed bed;
static struct storage_bed *storage; /* of the group of tests that runs */

#define AWAIT(condition) WAIT_ELSE(condition, ingest_bed_show(&bed))

static int setup(void **state)
{
    (void)state;
    ingest_bed_init(&bed, storage);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ingest_bed_done(&bed);
    return 0;
}

static void expect(struct arena_ingest_record *record, uint32_t answer, uint32_t duplicates)
{
    assert_non_null(record);
    AWAIT(ingest_bed_answer(record) || !ingest_bed_alive(&bed));
    if (ingest_bed_answer(record) != answer)
        ingest_bed_show(&bed);
    assert_int_equal(ingest_bed_answer(record), answer);
    assert_int_equal(record->duplicates, duplicates);
}

static void expect_count(long long count)
{
    AWAIT(ingest_bed_counter(&bed) == count);
}

static uint64_t stat_of(const _Atomic uint64_t *counter)
{
    return arena_get(counter);
}

static const struct arena_source *stats(void)
{
    return &bed.arena->source[1];
}

static void test_accept(void **state)
{
    struct arena_ingest_record *records[100];
    (void)state;
    ingest_bed_start(&bed, NULL);
    assert_int_equal(atomic_load(&bed.arena->worker.ingest), ARENA_INGEST_OPEN);
    for (unsigned i = 0; i < 100; i++)
        records[i] = ingest_bed_publish(&bed, "a", i * 10, 10, 50);
    for (unsigned i = 0; i < 100; i++)
        expect(records[i], 202, 0);
    expect_count(1000);
    AWAIT(ingest_bed_groups(&bed) == 0);
    AWAIT(stat_of(&stats()->lag) == 0);
    assert_int_equal(stat_of(&stats()->read), 1000);
    uint64_t count;
    assert_int_equal(read(bed.durable_fd, &count, sizeof count), sizeof count);
    ingest_bed_stop(&bed);
    assert_int_equal(atomic_load(&bed.arena->worker.ingest), ARENA_INGEST_CLOSED);
    assert_int_equal(ingest_bed_counter(&bed), 1000);
}

/* The ids are remembered through restarts, and within one record. */
static void test_repetitions(void **state)
{
    (void)state;
    ingest_bed_start(&bed, NULL);
    expect(ingest_bed_publish(&bed, "a", 0, 10, 0), 202, 0);
    expect(ingest_bed_publish(&bed, "a", 5, 10, 0), 202, 5);
    expect(ingest_bed_publish(&bed, "a", 0, 15, 0), 202, 15);
    expect_count(15);
    AWAIT(ingest_bed_groups(&bed) == 0);
    for (unsigned life = 0; life < 2; life++) {
        if (life)
            ingest_bed_stop(&bed);
        ingest_bed_start(&bed, NULL);
        expect(ingest_bed_publish(&bed, "a", 0, 15, 0), 202, 15);
        expect(ingest_bed_publish(&bed, life ? "c" : "b", 0, 1, 0), 202, 0);
        expect_count(16 + life);
    }
    assert_int_equal(stat_of(&stats()->duplicates), 15);
}

static void test_malformed(void **state)
{
    (void)state;
    ingest_bed_start(&bed, NULL);
    struct arena_ingest_record *record = ring_reserve(&bed.ring, 64, 0, false);
    assert_non_null(record);
    memset(record, 0xff, 64);
    atomic_store(&record->answer, 0);
    ring_publish(&bed.ring);
    struct arena_ingest_record *none = ring_reserve(&bed.ring, 2, 0, false);
    assert_non_null(none);
    ring_publish(&bed.ring);
    struct arena_ingest_record *good = ingest_bed_publish(&bed, "a", 0, 3, 0);
    expect(good, 202, 0);
    assert_int_equal(ingest_bed_answer(record), 400);
    expect_count(3);
}

/* A paused workflow goes on accepting, up to the bound of its log; then it takes up nothing more until it is
 * resumed. */
static void test_pause_and_bound(void **state)
{
    enum { RECORDS = 60, EVENTS = 100, BYTES = 1000 };
    struct arena_ingest_record *records[RECORDS];
    unsigned n = 0;
    unsigned answered = 0;
    (void)state;
    int64_t before = storage->config.event_log_max_bytes;
    storage->config.event_log_max_bytes = 1 << 20;
    ingest_bed_start(&bed, NULL);
    ingest_bed_ask(&bed, "pause");
    expect(ingest_bed_publish(&bed, "first", 0, 1, 0), 202, 0);
    while (n < RECORDS && (records[n] = ingest_bed_publish(&bed, "a", n * EVENTS, EVENTS, BYTES)))
        n++;
    assert_int_equal(n, RECORDS);
    expect(records[0], 202, 0);
    AWAIT(stat_of(&stats()->lag) >= 500);
    for (unsigned i = 0; i < 50; i++) /* nothing more comes: no deadline can tell */
        wait_moment();
    for (unsigned i = 0; i < n; i++)
        answered += ingest_bed_answer(records[i]) == 202;
    assert_in_range(answered, 5, RECORDS - 1);
    assert_int_equal(ingest_bed_counter(&bed), 0);
    ingest_bed_kill(&bed); /* what was answered survives, and stays paused */
    ingest_bed_start(&bed, NULL);
    ingest_bed_ask(&bed, "resume");
    expect(ingest_bed_publish(&bed, "first", 0, 1, 0), 202, 1);
    for (unsigned i = 0; i < RECORDS; i++)
        while (!(records[i] = ingest_bed_publish(&bed, "a", i * EVENTS, EVENTS, BYTES)))
            wait_moment();
    expect_count(1 + RECORDS * EVENTS);
    AWAIT(ingest_bed_groups(&bed) == 0);
    storage->config.event_log_max_bytes = before;
}

/* Another event source of this class, under another name, goes on where the old one stopped. */
static void test_replaced(void **state)
{
    static const char second[] = "{\"name\":\"b\",\"class\":\"HTTPEventSource\",\"parameters\":{}}";
    (void)state;
    ingest_bed_start(&bed, NULL);
    expect(ingest_bed_publish(&bed, "a", 0, 10, 0), 202, 0);
    expect_count(10);
    ingest_bed_put(&bed, STORAGE_EVENT_SOURCES, "b", second);
    AWAIT(ingest_bed_alive(&bed) && strstr(bed.status, "http is an HTTPEventSource already"));
    ingest_bed_delete(&bed, STORAGE_EVENT_SOURCES, "http");
    AWAIT(ingest_bed_alive(&bed) && !strstr(bed.status, "already") && strstr(bed.status, "\"name\":\"b\""));
    AWAIT(atomic_load(&bed.arena->worker.ingest) == ARENA_INGEST_OPEN);
    expect(ingest_bed_publish(&bed, "a", 5, 10, 0), 202, 5);
    expect_count(15);
}

static void append_raw(uint64_t number, const void *events, size_t len)
{
    struct storage_claim claim;
    struct error err;
    struct storage *s = storage_bed_open(storage);
    assert_non_null(s);
    assert_int_equal(s->type->claim(s, "ws", "00000000000000000000000000000001", &claim, &err), 0);
    struct storage_log_group group = {number, events, len, "junk", 4};
    assert_int_equal(s->type->log_append(s, "ws", "00000000000000000000000000000001", &group, number, &err),
                     0);
    storage_close(s);
}

/* What was damaged in storage becomes dead letters, and nothing else is disturbed. */
static void test_damage(void **state)
{
    char events[400];
    struct event_group group = {.n = 0};
    struct event_totals none = {0, 0}, totals;
    struct event_id id = {1, 2};
    struct error err;
    (void)state;
    memset(events, 0xee, sizeof events);
    append_raw(1, events, sizeof events);
    append_raw(2, "", 0);
    event_group_reset(&group);
    event_group_add(&group, events, sizeof events, &id); /* its checksum is right */
    assert_int_equal(event_group_seal(&group, true, 1, &none, &totals, &err), 0);
    append_raw(7, group.events.data, group.events.len);
    event_group_done(&group);
    ingest_bed_start(&bed, NULL);
    expect(ingest_bed_publish(&bed, "a", 0, 10, 0), 202, 0);
    expect_count(10);
    AWAIT(ingest_bed_count(&bed, STORAGE_DEAD_LETTERS, "\"invalid_event\"") == 3);
    AWAIT(ingest_bed_groups(&bed) == 0);
}

/* Another worker takes the workspace over. */
static void test_fenced(void **state)
{
    struct storage_claim claim;
    struct error err;
    (void)state;
    ingest_bed_start(&bed, NULL);
    expect(ingest_bed_publish(&bed, "a", 0, 10, 0), 202, 0);
    expect_count(10);
    struct storage *s = storage_bed_open(storage);
    assert_non_null(s);
    assert_int_equal(s->type->claim(s, "ws", "00000000000000000000000000000001", &claim, &err), 0);
    storage_close(s);
    struct arena_ingest_record *record = ingest_bed_publish(&bed, "b", 0, 1, 0);
    AWAIT(!ingest_bed_alive(&bed));
    assert_int_equal(ingest_bed_answer(record), 0);
    assert_non_null(strstr(bed.failed, "\"fenced\""));
    assert_int_equal(ingest_bed_counter(&bed), 10);
}

#ifdef CRASH_POINTS
/* A client that repeats what has no answer, through lives of the worker. */
static void publish_all(unsigned n, const char *crash)
{
    uint32_t answer[64] = {0};
    unsigned left = n;
    ingest_bed_start(&bed, crash);
    for (unsigned lives = 0; left; lives++) {
        struct arena_ingest_record *records[64] = {NULL};
        assert_true(lives < 5);
        if (lives)
            ingest_bed_start(&bed, NULL);
        for (unsigned i = 0; i < n && ingest_bed_alive(&bed); i++) {
            if (answer[i])
                continue;
            records[i] = ingest_bed_publish(&bed, "a", i * 3, 3, 100);
            AWAIT(ingest_bed_answer(records[i]) || !ingest_bed_alive(&bed));
        }
        for (unsigned i = 0; i < n; i++)
            if (records[i] && ingest_bed_answer(records[i]) == 202) {
                answer[i] = 202;
                left--;
            }
    }
}

static void test_crash_points(void **state)
{
    static const char *const points[] = {"http_append_before",
                                         "http_append_after",
                                         "http_answer_before",
                                         "http_answer_after",
                                         "http_release_after",
                                         "barrier",
                                         "cut",
                                         "commit_before",
                                         "commit_after",
                                         "handed_over",
                                         "acknowledged"};
    (void)state;
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        for (unsigned count = 1; count < 4; count++) {
            char crash[64];
            snprintf(crash, sizeof crash, "%s %u", points[i], count);
            teardown(NULL);
            setup(NULL);
            publish_all(20, crash);
            AWAIT(ingest_bed_counter(&bed) == 60 || !ingest_bed_alive(&bed));
            if (unlink(bed.crash) < 0) /* reached: it is dead, is dying, or its successor lives */
                ingest_bed_start(&bed, NULL);
            expect_count(60);
            ingest_bed_stop(&bed);
            assert_int_equal(ingest_bed_counter(&bed), 60);
            assert_int_equal(ingest_bed_groups(&bed), 0);
        }
}
#else
static void test_crash_points(void **state)
{
    (void)state;
    printf("skipped: no crash points in this build\n");
    skip();
}
#endif

/* A full disk: 507, what is there is processed, and room makes it accept again. */
static void test_no_space(void **state)
{
    const char *directory = storage->dir;
    char filler[300];
    (void)state;
    if (strcmp(storage->backend, "sqlite") != 0)
        return;
    teardown(NULL);
    storage_bed_clear(storage);
    if (mount("tmpfs", directory, "tmpfs", 0, "size=4m,mode=0700") < 0) {
        setup(NULL);
        printf("skipped: no tmpfs can be mounted\n");
        skip();
    }
    setup(NULL);
    ingest_bed_start(&bed, NULL);
    expect(ingest_bed_publish(&bed, "a", 0, 10, 0), 202, 0);
    expect_count(10);
    snprintf(filler, sizeof filler, "%s/filler", directory);
    FILE *file = fopen(filler, "w");
    assert_non_null(file);
    setvbuf(file, NULL, _IONBF, 0);
    while (fputc('x', file) == 'x')
        ;
    fclose(file);
    struct arena_ingest_record *record = NULL;
    for (unsigned i = 0; !record || ingest_bed_answer(record) == 202; i++) {
        assert_true(i < 100);
        record = ingest_bed_publish(&bed, "big", i, 1, 100000);
        assert_non_null(record);
        AWAIT(ingest_bed_answer(record));
    }
    assert_int_equal(ingest_bed_answer(record), 507);
    AWAIT(atomic_load(&bed.arena->worker.ingest) == ARENA_INGEST_NO_SPACE);
    assert_int_equal(unlink(filler), 0);
    do {
        record = ingest_bed_publish(&bed, "after", 0, 1, 0);
        AWAIT(ingest_bed_answer(record));
    } while (ingest_bed_answer(record) == 507);
    expect(record, 202, 0);
    AWAIT(atomic_load(&bed.arena->worker.ingest) == ARENA_INGEST_OPEN);
    AWAIT(ingest_bed_counter(&bed) >= 11);
    ingest_bed_kill(&bed);
    umount2(directory, MNT_DETACH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_accept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repetitions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malformed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause_and_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fenced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_crash_points, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_space, setup, teardown),
    };
    int failed = 0;
    for (size_t i = 0; storage_bed_backends[i]; i++) {
        struct storage_bed one;
        char name[64];
        int r = storage_bed_start(&one, storage_bed_backends[i]);
        if (r == 0) {
            storage = &one;
            one.config.shards = 2;
            one.config.trigger_refresh_ns = 200 * (int64_t)CLOCK_MS;
            snprintf(name, sizeof name, "http_source_%s", storage_bed_backends[i]);
            failed += _cmocka_run_group_tests(name, tests, sizeof tests / sizeof tests[0], NULL, NULL);
        }
        failed += r < 0;
        storage_bed_done(&one);
    }
    return failed;
}
