/* Gates: how many are inside, and at which rate. */
#include "worker/executor/gate.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "common/clock.h"

static void test_no_limit(void **state)
{
    (void)state;
    struct gate gate = {0};
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(gate_free(&gate), UINT_MAX);
        gate_enter(&gate, 1);
    }
    assert_int_equal(gate_due(&gate), 0);
    assert_false(gate_idle(&gate, 1));
    for (unsigned i = 0; i < 100; i++)
        gate_leave(&gate);
    assert_true(gate_idle(&gate, 1));
}

static void test_places(void **state)
{
    (void)state;
    struct gate gate = {0};
    gate_limit(&gate, 3, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(gate_free(&gate), 3 - i);
        gate_enter(&gate, 1);
    }
    assert_int_equal(gate_free(&gate), 0);
    gate_limit(&gate, 2, 0); /* less than are inside */
    assert_int_equal(gate_free(&gate), 0);
    gate_leave(&gate);
    gate_leave(&gate);
    assert_int_equal(gate_free(&gate), 1);
}

/* How many enter in a time, one whenever the rate lets it. */
static unsigned enter_for(struct gate *gate, uint64_t from, uint64_t to)
{
    unsigned n = 0;
    for (uint64_t at = gate_due(gate) > from ? gate_due(gate) : from;
         at<to; n++, at = gate_due(gate)> at ? gate_due(gate) : at)
        gate_enter(gate, at);
    return n;
}

static void test_slow_rate(void **state)
{
    (void)state;
    struct gate gate = {0};
    uint64_t now = 1000 * CLOCK_S;
    gate_limit(&gate, 0, 0.5);
    assert_int_equal(gate_due(&gate), 0);
    gate_enter(&gate, now);
    assert_int_equal(gate_due(&gate), now + 2 * CLOCK_S - GATE_BURST_NS);
    gate_leave(&gate);
    assert_false(gate_idle(&gate, now)); /* it would forget */
    assert_true(gate_idle(&gate, now + 2 * CLOCK_S));
    assert_in_range(enter_for(&gate, now, now + 20 * CLOCK_S), 9, 10);
}

/* Who waits does so at the rate that there is now. */
static void test_rate_changed(void **state)
{
    (void)state;
    struct gate gate = {0};
    uint64_t now = 1000 * CLOCK_S;
    gate_limit(&gate, 0, 0.001);
    gate_enter(&gate, now);
    gate_limit(&gate, 0, 10);
    assert_int_equal(gate_due(&gate), now + CLOCK_S / 10 - GATE_BURST_NS);
    gate_limit(&gate, 0, 0.001);
    assert_int_equal(gate_due(&gate), now + 1000 * CLOCK_S - GATE_BURST_NS);
    gate_limit(&gate, 0, 0);
    assert_int_equal(gate_due(&gate), 0);
}

static void test_fast_rate(void **state)
{
    (void)state;
    struct gate gate = {0};
    uint64_t now = 1000 * CLOCK_S;
    gate_limit(&gate, 0, 100000);
    unsigned ahead = 0;
    for (; gate_due(&gate) <= now; ahead++)
        gate_enter(&gate, now);
    assert_in_range(ahead, 500, 502); /* GATE_BURST_NS of them */
    assert_in_range(enter_for(&gate, now, now + CLOCK_S), 99999, 100001);
    /* What was not used is not saved up. */
    now += 100 * CLOCK_S;
    assert_in_range(enter_for(&gate, now, now + CLOCK_S), 100499, 100503);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_limit),  cmocka_unit_test(test_places),
        cmocka_unit_test(test_slow_rate), cmocka_unit_test(test_rate_changed),
        cmocka_unit_test(test_fast_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
