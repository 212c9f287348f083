/* Gates: how many are inside, in which order, and at which rate. */
#include "worker/executor/gate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "common/clock.h"

enum { TICKETS = 100 };

static void test_no_limit(void **state)
{
    (void)state;
    struct gate gate;
    struct gate_ticket tickets[TICKETS];
    gate_init(&gate);
    for (unsigned i = 0; i < TICKETS; i++)
        assert_true(gate_enter(&gate, &tickets[i], 1));
    assert_int_equal(gate.inside, TICKETS);
    assert_int_equal(gate_due(&gate), UINT64_MAX);
    assert_false(gate_idle(&gate, 1));
    for (unsigned i = 0; i < TICKETS; i++)
        gate_leave(&gate);
    assert_true(gate_idle(&gate, 1));
}

static void test_places(void **state)
{
    (void)state;
    struct gate gate;
    struct gate_ticket tickets[TICKETS];
    gate_init(&gate);
    gate_limit(&gate, 3, 0);
    for (unsigned i = 0; i < TICKETS; i++)
        assert_int_equal(gate_enter(&gate, &tickets[i], 1), i < 3);
    assert_int_equal(gate.n_waiting, TICKETS - 3);
    assert_null(gate_next(&gate, 1));
    assert_int_equal(gate_due(&gate), UINT64_MAX);
    for (unsigned i = 3; i < TICKETS; i++) {
        gate_leave(&gate);
        assert_ptr_equal(gate_next(&gate, 1), &tickets[i]);
        assert_null(gate_next(&gate, 1));
        assert_int_equal(gate.inside, 3);
    }
    assert_int_equal(gate.n_waiting, 0);
    gate_leave(&gate);
    assert_null(gate_next(&gate, 1));
    /* Whoever comes does not overtake. */
    assert_true(gate_enter(&gate, &tickets[0], 1));
    assert_false(gate_enter(&gate, &tickets[1], 1));
    gate_limit(&gate, 10, 0);
    assert_false(gate_enter(&gate, &tickets[2], 1));
    assert_ptr_equal(gate_next(&gate, 1), &tickets[1]);
    assert_ptr_equal(gate_next(&gate, 1), &tickets[2]);
}

static void test_slow_rate(void **state)
{
    (void)state;
    struct gate gate;
    struct gate_ticket tickets[TICKETS];
    uint64_t now = 1000 * CLOCK_S;
    gate_init(&gate);
    gate_limit(&gate, 0, 2);
    assert_true(gate_enter(&gate, &tickets[0], now));
    for (unsigned i = 1; i < 10; i++)
        assert_false(gate_enter(&gate, &tickets[i], now));
    for (unsigned i = 1; i < 10; i++) {
        uint64_t due = gate_due(&gate);
        assert_int_equal(due, now + i * CLOCK_S / 2 - GATE_BURST_NS);
        assert_null(gate_next(&gate, due - 1));
        assert_ptr_equal(gate_next(&gate, due), &tickets[i]);
    }
    assert_int_equal(gate_due(&gate), UINT64_MAX);
    for (unsigned i = 0; i < 10; i++)
        gate_leave(&gate);
    /* It remembers the rate for a while, and saves nothing up. */
    assert_false(gate_idle(&gate, now + 4 * CLOCK_S));
    assert_true(gate_idle(&gate, now + 6 * CLOCK_S));
    now += 100 * CLOCK_S;
    assert_true(gate_enter(&gate, &tickets[0], now));
    assert_false(gate_enter(&gate, &tickets[1], now));
}

/* However the calls come, in any second no more enter than the rate and the burst allow. */
static void test_fast_rate(void **state)
{
    (void)state;
    struct gate gate;
    struct gate_ticket ticket;
    const double rate = 10000;
    uint64_t now = 5 * CLOCK_S;
    uint64_t entered = 0;
    unsigned waiting = 0;
    gate_init(&gate);
    gate_limit(&gate, 0, rate);
    for (unsigned step = 0; step < 2000; step++) { /* of a millisecond */
        now += CLOCK_MS;
        while (waiting && gate_next(&gate, now)) {
            waiting = 0;
            entered++;
        }
        while (!waiting) {
            if (gate_enter(&gate, &ticket, now))
                entered++;
            else
                waiting = 1;
        }
    }
    double allowed = 2 * rate + rate * GATE_BURST_NS / CLOCK_S + 1;
    assert_true((double)entered <= allowed);
    assert_true((double)entered >= 2 * rate - 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_limit),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_slow_rate),
        cmocka_unit_test(test_fast_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
