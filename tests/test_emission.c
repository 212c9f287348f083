/* Emissions that come back: each counts once, across restarts, and none is remembered for ever. */
#include "worker/emission.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "tests/support/pipeline_bed.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define KEY "0123456789abcdef0123456789abcdef"
#define OTHER "ffffffffffffffffffffffffffffffff"

static const struct source_type in_order = {.class_name = "InOrder"};

/* Whether the second number is even: a class whose positions are in no order. */
static bool even_passed(const struct source *source, const uint64_t position[2])
{
    (void)source;
    return position[1] % 2 == 0;
}
static const struct source_type in_no_order = {.class_name = "InNoOrder", .passed = even_passed};

/* A source as far as emissions look at it. */
struct bed {
    struct emissions *emissions;
    struct source source;
    struct source *sources[3];
    struct changes changes; /* of the last collection */
};

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    assert_non_null(bed->emissions = emissions_new());
    bed->source.name_hash = arena_name_hash("loop", 4);
    bed->source.type = &in_order;
    bed->source.consume = true;
    bed->source.filling_epoch = 1;
    bed->sources[2] = &bed->source;
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    changes_done(&bed->source.changes[0]);
    changes_done(&bed->source.changes[1]);
    changes_done(&bed->changes);
    emissions_free(bed->emissions);
    free(bed);
    return 0;
}

static void publish(struct bed *bed, const char *key)
{
    struct error err;
    assert_int_equal(emissions_register(bed->emissions, key, "loop", 4, &err), 0);
}

static enum emission_sight see(struct bed *bed, const char *key)
{
    return emissions_see(bed->emissions, &bed->source, key, strlen(key));
}

/* The barrier of the epoch that is being filled, at this position. */
static void barrier(struct bed *bed, uint64_t ms, uint64_t seq)
{
    bed->source.filling ^= 1;
    changes_reset(&bed->source.changes[bed->source.filling]);
    bed->source.filling_epoch++;
    bed->source.barrier_position[0] = ms;
    bed->source.barrier_position[1] = seq;
}

static size_t collect(struct bed *bed, uint64_t epoch)
{
    changes_reset(&bed->changes);
    emissions_collect(bed->emissions, bed->sources, 3, epoch, &bed->changes);
    assert_false(bed->changes.text.failed);
    return bed->changes.n;
}

static void complete(struct bed *bed, const char *key, uint64_t ms, uint64_t seq, bool once)
{
    emissions_complete(bed->emissions, key, (uint64_t[2]){ms, seq}, once);
}

static void assert_field(const struct changes *changes, bool seen, bool completed, uint64_t ms, uint64_t seq)
{
    char text[128];
    snprintf(text, sizeof text, "%d %d %llu %llu %llu", seen, completed,
             (unsigned long long)arena_name_hash("loop", 4), (unsigned long long)ms, (unsigned long long)seq);
    assert_int_equal(changes->n, 1);
    pipeline_bed_assert_value(
        changes, pipeline_bed_change(changes, STORAGE_CHECKPOINT, STORAGE_PUT, "seen:" KEY), text);
}

static void assert_forgotten(struct bed *bed, bool was_stored)
{
    assert_int_equal(bed->changes.n, was_stored);
    if (was_stored)
        assert_non_null(pipeline_bed_change(&bed->changes, STORAGE_CHECKPOINT, STORAGE_DELETE, "seen:" KEY));
    assert_false(emissions_any(bed->emissions));
    assert_int_equal(see(bed, KEY), EMISSION_OTHER);
}

static void test_counts_once(void **state)
{
    struct bed *bed = *state;
    assert_false(emissions_any(bed->emissions));
    assert_int_equal(see(bed, KEY), EMISSION_OTHER);
    publish(bed, KEY);
    publish(bed, KEY);
    assert_true(emissions_any(bed->emissions));
    assert_int_equal(see(bed, OTHER), EMISSION_OTHER);
    assert_int_equal(see(bed, KEY), EMISSION_FIRST);
    assert_field(&bed->source.changes[0], true, false, 0, 0);
    assert_int_equal(see(bed, KEY), EMISSION_REPEAT);
    assert_int_equal(bed->source.changes[0].n, 1);
}

/* The id of an emission to one source, seen on another one, is just an event. */
static void test_another_source(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    bed->source.name_hash = arena_name_hash("other", 5);
    assert_int_equal(see(bed, KEY), EMISSION_OTHER);
    bed->source.name_hash = arena_name_hash("loop", 4);
    assert_int_equal(see(bed, KEY), EMISSION_FIRST);
}

/* Published once and seen: forgotten with the checkpoint of the later of both. */
static void test_forgotten_when_seen(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    assert_int_equal(see(bed, KEY), EMISSION_FIRST);
    barrier(bed, 5, 0);
    assert_int_equal(collect(bed, 1), 0); /* its field is the source's */
    complete(bed, KEY, 5, 0, true);
    barrier(bed, 6, 0);
    collect(bed, 2);
    assert_forgotten(bed, true);
}

/* Published once and completed before it comes back: there can be no repeat. */
static void test_forgotten_unseen(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    complete(bed, KEY, 5, 0, true);
    barrier(bed, 4, 0);
    collect(bed, 1);
    assert_forgotten(bed, false);
}

/* Seen behind the barrier: what the source will write must not come after the removal. */
static void test_seen_behind_barrier(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    complete(bed, KEY, 5, 0, true);
    barrier(bed, 4, 0);
    assert_int_equal(see(bed, KEY), EMISSION_FIRST); /* epoch 2 */
    collect(bed, 1);
    assert_field(&bed->changes, false, true, 5, 0); /* in this cut it has not come back */
    assert_field(&bed->source.changes[1], true, true, 5, 0);
    assert_true(emissions_any(bed->emissions));
    assert_int_equal(see(bed, KEY), EMISSION_REPEAT);
    barrier(bed, 5, 0);
    collect(bed, 2);
    assert_forgotten(bed, true);
}

/* The class says what was passed. */
static void test_passed_by_class(void **state)
{
    struct bed *bed = *state;
    bed->source.type = &in_no_order;
    publish(bed, KEY);
    publish(bed, OTHER);
    complete(bed, KEY, 0, 3, false);
    complete(bed, OTHER, 9, 4, false);
    barrier(bed, 1, 0);
    assert_int_equal(collect(bed, 1), 1); /* the one is stored, the other forgotten */
    assert_field(&bed->changes, false, true, 0, 3);
    assert_int_equal(see(bed, OTHER), EMISSION_OTHER);
    assert_int_equal(see(bed, KEY), EMISSION_FIRST);
}

/* Published more than once: until the source has passed the last publication. */
static void test_until_passed(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    assert_int_equal(see(bed, KEY), EMISSION_FIRST);
    complete(bed, KEY, 7, 3, false);
    barrier(bed, 7, 2);
    assert_int_equal(collect(bed, 1), 1);
    assert_field(&bed->changes, true, true, 7, 3);
    assert_int_equal(see(bed, KEY), EMISSION_REPEAT);
    barrier(bed, 6, 9);
    assert_int_equal(collect(bed, 2), 0); /* stored already */
    barrier(bed, 7, 3);
    collect(bed, 3);
    assert_forgotten(bed, true);
}

static void test_passed_by_time(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    complete(bed, KEY, 7, 3, false);
    barrier(bed, 8, 0);
    collect(bed, 1);
    assert_forgotten(bed, false);
}

/* An unordered source passes nothing; a repeat is awaited for a while. */
static void test_unordered(void **state)
{
    struct bed *bed = *state;
    struct config config = {.redelivery_window_ns = (int64_t)(3600 * CLOCK_S)};
    struct worker worker = {.config = &config};
    bed->source.unordered = true;
    bed->source.worker = &worker;
    publish(bed, KEY);
    complete(bed, KEY, clock_unix_ns() - 10 * CLOCK_S, 0, false);
    barrier(bed, UINT64_MAX, UINT64_MAX);
    collect(bed, 1);
    assert_true(emissions_any(bed->emissions));
    config.redelivery_window_ns = (int64_t)(5 * CLOCK_S);
    collect(bed, 2);
    assert_forgotten(bed, true);
}

/* Nobody reads the source (any more): nothing can come back. */
static void test_source_gone(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    complete(bed, KEY, 7, 3, false);
    bed->source.consume = false;
    collect(bed, 1);
    assert_forgotten(bed, false);
}

static void test_complete_twice(void **state)
{
    struct bed *bed = *state;
    publish(bed, KEY);
    publish(bed, OTHER);
    complete(bed, KEY, 7, 3, false);
    complete(bed, OTHER, 7, 4, true);
    complete(bed, KEY, 9, 9, false); /* the first holds */
    complete(bed, "unknown", 1, 1, true);
    barrier(bed, 7, 3);
    collect(bed, 1);
    assert_forgotten(bed, false);
    assert_int_equal(see(bed, OTHER), EMISSION_OTHER);
}

static void restore(struct bed *bed, const char *value)
{
    struct error err;
    assert_int_equal(emissions_restore(bed->emissions, KEY, strlen(KEY), value, strlen(value), &err), 0);
}

static void value_of(char out[128], bool seen, bool completed)
{
    snprintf(out, 128, "%d %d %llu 7 3", seen, completed, (unsigned long long)arena_name_hash("loop", 4));
}

/* Seen, then a crash: the replayed intent publishes again, and what comes back is a repeat. */
static void test_restore_seen(void **state)
{
    struct bed *bed = *state;
    char value[128];
    value_of(value, true, false);
    restore(bed, value);
    publish(bed, KEY);
    assert_int_equal(see(bed, KEY), EMISSION_REPEAT);
    complete(bed, KEY, 9, 0, false);
    barrier(bed, 8, 0);
    collect(bed, 1);
    assert_field(&bed->changes, true, true, 9, 0);
    barrier(bed, 9, 0);
    collect(bed, 2);
    assert_forgotten(bed, true);
}

/* A scan of the storage may report a field twice. */
static void test_restore_completed(void **state)
{
    struct bed *bed = *state;
    char value[128];
    value_of(value, true, true);
    restore(bed, value);
    restore(bed, value);
    assert_int_equal(see(bed, KEY), EMISSION_REPEAT);
    barrier(bed, 7, 2);
    assert_int_equal(collect(bed, 1), 0);
    barrier(bed, 7, 3);
    collect(bed, 2);
    assert_forgotten(bed, true);
}

static void test_restore_refused(void **state)
{
    struct bed *bed = *state;
    struct error err;
    static const char *const bad[] = {"", "1", "1 0 5 6", "x 0 1 2 3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(emissions_restore(bed->emissions, "k", 1, bad[i], strlen(bad[i]), &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
    }
    char longer[200];
    memset(longer, '1', sizeof longer);
    assert_int_equal(emissions_restore(bed->emissions, longer, 33, "1 0 1 1 1", 9, &err), -1);
    assert_int_equal(emissions_restore(bed->emissions, "k", 1, longer, sizeof longer, &err), -1);
    assert_false(emissions_any(bed->emissions));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counts_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_source, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forgotten_when_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forgotten_unseen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_seen_behind_barrier, setup, teardown),
        cmocka_unit_test_setup_teardown(test_until_passed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_passed_by_class, setup, teardown),
        cmocka_unit_test_setup_teardown(test_passed_by_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unordered, setup, teardown),
        cmocka_unit_test_setup_teardown(test_source_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_complete_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restore_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restore_completed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restore_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
