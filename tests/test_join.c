/* How many runs may wait for results at a time. What comes of results is in test_asf.c. */
#include "worker/states/join.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "common/error.h"

static struct join *open_run(struct joins *joins, unsigned i, struct error *err)
{
    char path[24];
    int n = snprintf(path, sizeof path, "%016u", i);
    return joins_open(joins, path, (size_t)n, 0, err);
}

static void test_bound(void **state)
{
    struct joins joins = {.n = 0};
    struct error err;
    (void)state;
    for (unsigned i = 0; i < JOINS_MAX; i++) {
        struct join *join = open_run(&joins, i, &err);
        assert_non_null(join);
        join->expected = i == 7 ? JOIN_UNKNOWN : 2;
    }
    assert_ptr_equal(open_run(&joins, 7, &err), &joins.groups[7]); /* it is there */
    struct join *join = open_run(&joins, JOINS_MAX, &err);         /* in its place */
    assert_non_null(join);
    join->expected = 2;
    assert_null(joins_find(&joins, "0000000000000007", 16));
    assert_null(open_run(&joins, JOINS_MAX + 1, &err));
    assert_int_equal(err.code, ERROR_LIMIT);
    assert_int_equal(joins.n, JOINS_MAX);
    joins_done(&joins);
}

/* The oldest run of all fails last; and one in the middle of those that have. */
static void test_closed(void **state)
{
    struct joins joins = {.n = 0};
    struct error err;
    (void)state;
    for (unsigned i = 0; i < JOINS_MAX_CLOSED + 3; i++) {
        struct join *join = open_run(&joins, i, &err);
        assert_non_null(join);
        join->expected = 2;
        if (i && i != 500)
            joins_close(&joins, &join);
    }
    for (unsigned i = 0; i <= 500; i += 500) {
        char path[24];
        snprintf(path, sizeof path, "%016u", i);
        struct join *join = joins_find(&joins, path, 16);
        assert_non_null(join);
        joins_close(&joins, &join);
        assert_ptr_equal(join, joins_find(&joins, path, 16));
        assert_true(join->closed);
    }
    assert_int_equal(joins.n, JOINS_MAX_CLOSED);
    joins_done(&joins);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bound), cmocka_unit_test(test_closed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
