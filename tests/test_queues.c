/* Queues of invocations: order, turns, limits and rates, and the shares that one who hangs leaves to others.
 */
#include "worker/executor/queues.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/support/chance.h"

enum { CALLS_MAX = 5000, NAMES = 30 };

static struct call {
    struct queues_ticket ticket; /* first */
    unsigned trigger, host;
    bool inside;
} calls[CALLS_MAX];

static struct world {
    struct queues *queues;
    unsigned n;
    unsigned host_max, trigger_max;
    double trigger_rate;
    uint64_t now;
    uint64_t due; /* as of the last begin_all */
    unsigned inside, of_trigger[NAMES], of_host[NAMES];
} w;

static void begin(unsigned worker_max, unsigned host_max)
{
    struct queues_limit limit = {worker_max, 0};
    memset(calls, 0, sizeof calls);
    w = (struct world){.host_max = host_max, .now = 1000 * CLOCK_S};
    assert_non_null(w.queues = queues_new(&limit));
}

static void join(unsigned trigger, unsigned host, unsigned n)
{
    char trigger_text[16], host_text[16];
    struct queues_name trigger_name = {trigger_text, (size_t)snprintf(trigger_text, 16, "t%u", trigger)};
    struct queues_name host_name = {host_text, (size_t)snprintf(host_text, 16, "h%u", host)};
    struct queues_limit trigger_limit = {w.trigger_max, w.trigger_rate};
    struct queues_limit host_limit = {w.host_max, 0};
    struct error err;
    for (; n; n--) {
        assert_true(w.n < CALLS_MAX);
        struct call *c = &calls[w.n++];
        c->trigger = trigger;
        c->host = host;
        assert_int_equal(
            queues_join(w.queues, &c->ticket, &trigger_name, &trigger_limit, &host_name, &host_limit, &err),
            0);
    }
}

static struct call *begin_one(void)
{
    struct queues_ticket *ticket = queues_next(w.queues, w.now, &w.due);
    if (!ticket)
        return NULL;
    struct call *c = (struct call *)(void *)ticket;
    for (struct call *earlier = calls; earlier < c; earlier++) /* in order */
        assert_false(earlier->trigger == c->trigger && earlier->host == c->host && earlier->ticket.queue &&
                     !earlier->inside);
    c->inside = true;
    w.inside++;
    w.of_trigger[c->trigger]++;
    w.of_host[c->host]++;
    assert_true(!w.host_max || w.of_host[c->host] <= w.host_max);
    assert_true(!w.trigger_max || w.of_trigger[c->trigger] <= w.trigger_max);
    return c;
}

static unsigned begin_all(void)
{
    unsigned n = 0;
    w.due = UINT64_MAX;
    while (begin_one())
        n++;
    return n;
}

static void leave(struct call *c)
{
    assert_true(c->inside);
    c->inside = false;
    w.inside--;
    w.of_trigger[c->trigger]--;
    w.of_host[c->host]--;
    queues_leave(w.queues, &c->ticket);
}

/* All that are inside, of a trigger. */
static void leave_all(unsigned trigger)
{
    for (unsigned i = 0; i < w.n; i++)
        if (calls[i].inside && calls[i].trigger == trigger)
            leave(&calls[i]);
}

static void end(void)
{
    queues_free(w.queues);
}

static void test_shares(void **state)
{
    (void)state;
    begin(2000, 1000);
    join(0, 0, 1500);
    begin_all();
    assert_int_equal(w.of_trigger[0], 800); /* and it hangs */
    join(1, 0, 100);
    assert_int_equal(begin_all(), 100);
    join(1, 0, 500);
    begin_all();
    assert_in_range(w.of_trigger[1], 155, 165);
    join(2, 0, 5);
    assert_int_equal(begin_all(), 5);
    join(0, 1, 500); /* another host of the same trigger */
    assert_int_equal(begin_all(), 500);
    end();
}

/* Several hosts that hang leave something. */
static void test_hosts(void **state)
{
    (void)state;
    begin(500, 0);
    for (unsigned i = 0; i < 3; i++) {
        join(i, i, 500);
        begin_all();
    }
    assert_int_equal(w.of_host[0], 320);
    assert_in_range(w.of_host[1], 110, 120);
    assert_in_range(w.of_host[2], 36, 46);
    join(9, 9, 1);
    assert_int_equal(begin_all(), 1);
    leave_all(0); /* the others get more */
    begin_all();
    assert_in_range(w.of_host[0], 80, 250);
    assert_in_range(w.of_host[1], 80, 250);
    assert_in_range(w.of_host[2], 80, 250);
    end();
}

/* Small limits can be used up by one. */
static void test_few(void **state)
{
    (void)state;
    for (unsigned places = 1; places <= 4; places++) {
        begin(0, places);
        join(0, 0, 10);
        assert_int_equal(begin_all(), places);
        end();
        begin(places, 0);
        join(0, 0, 10);
        assert_int_equal(begin_all(), places);
        end();
    }
    begin(0, 0);
    join(0, 0, 5000);
    assert_int_equal(begin_all(), 5000);
    end();
}

/* One host with all that the worker has leaves places to its other triggers, and to other hosts. */
static void test_one_host(void **state)
{
    (void)state;
    begin(50, 50);
    join(0, 0, 100);
    assert_int_equal(begin_all(), 32);
    join(1, 0, 1);
    join(2, 1, 1);
    assert_int_equal(begin_all(), 2);
    end();
}

static void test_turns(void **state)
{
    (void)state;
    begin(0, 0);
    join(0, 0, 100);
    join(1, 0, 100);
    join(2, 1, 100);
    for (unsigned i = 0; i < 40; i++)
        assert_non_null(begin_one());
    assert_int_equal(w.of_host[0], 20);
    assert_int_equal(w.of_host[1], 20);
    assert_int_equal(w.of_trigger[0], 10);
    assert_int_equal(w.of_trigger[1], 10);
    end();
}

static void test_rate(void **state)
{
    (void)state;
    begin(0, 0);
    w.trigger_rate = 10;
    join(0, 0, 3);
    w.trigger_rate = 0;
    join(1, 0, 7);
    assert_int_equal(begin_all(), 8); /* nobody waits for the other */
    assert_true(w.due > w.now && w.due <= w.now + CLOCK_S / 10);
    assert_int_equal(begin_all(), 0);
    leave_all(0);
    w.now = w.due;
    assert_int_equal(begin_all(), 1); /* the gate remembers, although nobody was inside */
    w.now = w.due;
    assert_int_equal(begin_all(), 1);
    assert_int_equal(w.due, UINT64_MAX);
    assert_false(queues_waiting(w.queues));
    leave_all(0);
    leave_all(1);
    end();
}

static void test_random(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        begin((unsigned)chance_below(60), (unsigned)chance_below(30));
        w.trigger_max = (unsigned)chance_below(10);
        while (w.n < 2000) {
            unsigned host = (unsigned)chance_below(6);
            join((unsigned)chance_below(NAMES), host, 1 + (unsigned)chance_below(20) % (CALLS_MAX - w.n));
            for (uint64_t n = chance_below(20); n && begin_one(); n--)
                continue;
            for (unsigned i = 0; i < w.n; i++)
                if (calls[i].inside && !chance_below(5))
                    leave(&calls[i]);
        }
        while (queues_waiting(w.queues)) { /* somebody can always go on */
            begin_all();
            assert_true(w.inside);
            for (unsigned i = 0; i < w.n; i++)
                if (calls[i].inside)
                    leave(&calls[i]);
        }
        for (unsigned i = 0; i < w.n; i++)
            assert_null(calls[i].ticket.queue);
        end();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),   cmocka_unit_test(test_hosts), cmocka_unit_test(test_few),
        cmocka_unit_test(test_one_host), cmocka_unit_test(test_turns), cmocka_unit_test(test_rate),
        cmocka_unit_test(test_random),
    };
    chance_read_settings();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
