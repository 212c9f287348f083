/* duplicates.h against a plain model, through growing, forgetting and dropping. */
#include "worker/source/duplicates.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"

static struct duplicates *make(uint64_t window_s, size_t max)
{
    struct duplicates *d;
    struct error err;
    assert_int_equal(duplicates_new(window_s, max, &d, &err), 0);
    return d;
}

static int add(struct duplicates *d, uint64_t n)
{
    struct error err;
    struct event_id id = {n + 1, n * 7};
    return duplicates_add(d, &id, &err);
}

static void keep(struct duplicates *d, uint64_t number, uint64_t unix_s)
{
    struct error err;
    assert_int_equal(duplicates_keep(d, number, unix_s, &err), 0);
}

static void test_window(void **state)
{
    (void)state;
    struct duplicates *d = make(10, 1000);
    assert_true(duplicates_on(d));
    assert_int_equal(duplicates_oldest(d), UINT64_MAX);
    for (uint64_t i = 0; i < 100; i++) {
        assert_int_equal(add(d, i), DUPLICATE_NEW);
        assert_int_equal(add(d, i), DUPLICATE_REPETITION);
        keep(d, i + 1, 100 + i);
    }
    duplicates_expire(d, 150); /* those of 140 and later stay */
    assert_int_equal(duplicates_count(d), 60);
    assert_int_equal(duplicates_oldest(d), 41);
    assert_int_equal(add(d, 40), DUPLICATE_REPETITION);
    assert_int_equal(add(d, 39), DUPLICATE_NEW);
    duplicates_free(d);
    d = make(0, 1000);
    assert_false(duplicates_on(d));
    duplicates_free(d);
    duplicates_free(NULL);
}

static void test_drop(void **state)
{
    (void)state;
    struct duplicates *d = make(10, 100000);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(add(d, i), DUPLICATE_NEW);
    keep(d, 1, 5);
    for (uint64_t i = 500; i < 5000; i++)
        assert_int_equal(add(d, i), i < 1000 ? DUPLICATE_REPETITION : DUPLICATE_NEW);
    duplicates_drop(d);
    assert_int_equal(duplicates_count(d), 1000);
    keep(d, 2, 5); /* nothing */
    assert_int_equal(duplicates_oldest(d), 1);
    for (uint64_t i = 0; i < 5000; i++)
        assert_int_equal(add(d, i), i < 1000 ? DUPLICATE_REPETITION : DUPLICATE_NEW);
    duplicates_free(d);
}

/* Groups of any size in a bounded memory: an id is known exactly while its group is. */
static void test_model(void **state)
{
    enum { IDS = 5000, GROUPS = 4000, MAX = 1500 };
    (void)state;
    uint64_t *group_of = calloc(IDS, sizeof *group_of);
    uint64_t random = 12345;
    struct duplicates *d = make(1000000, MAX);
    assert_non_null(group_of);
    for (uint64_t number = 1; number <= GROUPS; number++) {
        for (unsigned i = 0; i < number % 7; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            uint64_t id = (random >> 33) % IDS;
            int r = add(d, id);
            bool known = group_of[id] && (group_of[id] == number || group_of[id] >= duplicates_oldest(d));
            assert_int_equal(r, known ? DUPLICATE_REPETITION : DUPLICATE_NEW);
            if (!known)
                group_of[id] = number;
        }
        keep(d, number, 1);
        assert_true(duplicates_count(d) <= MAX);
    }
    free(group_of);
    duplicates_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
