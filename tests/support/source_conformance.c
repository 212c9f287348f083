#include "tests/support/source_conformance.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <curl/curl.h>

#include "tests/support/chance.h"
#include "tests/support/source_bed.h"
#include "tests/support/source_crash.h"
#include "tests/support/source_data.h"

static struct source_world world;

#define SKIP(reason)                       \
    do {                                   \
        printf("skipped: %s\n", (reason)); \
        skip();                            \
    } while (0)

/* A case that says why it cannot be. */
static void run(const char *(*of_world)(struct source_world *))
{
    const char *why = of_world(&world);
    if (why)
        SKIP(why);
}

static const char *const no_broker = "there is no connection to a broker";

/* Of the long runs of events in a short case: fewer when the broker is slow. */
static unsigned of(unsigned n)
{
    return world.driver->percent ? (n * world.driver->percent + 99) / 100 : n;
}

/* --- waiting for what cannot be seen --- */

/* So long that what should not happen would have happened: no deadline can tell that it does not. */
static void some_moments(unsigned n)
{
    while (n--)
        wait_moment();
}

/* Publishes keyed events while the storage does not answer, and waits until they have come to the worker:
 * they are read, and not committed. */
static void publish_uncommitted(struct source_bed *bed)
{
    uint64_t before = world.broker ? tcp_proxy_bytes(world.broker) : 0;
    tcp_proxy_set(world.storage, TCP_PROXY_HOLD);
    unsigned n = source_bed_publish(bed, source_keyed_event, 200);
    if (world.broker)
        AWAIT_SOURCE(bed, tcp_proxy_bytes(world.broker) - before > (uint64_t)n * 30);
    some_moments(world.broker ? 20 : 100);
}

/* A life that finds events, if its broker keeps them for it. */
static void start_behind(struct source_bed *bed, source_events events, unsigned n)
{
    if (world.driver->under_supervisor)
        source_bed_up(bed);
    source_bed_publish(bed, events, n);
    if (!world.driver->under_supervisor)
        source_bed_up(bed);
}

/* --- cases --- */

static void test_order(void **state)
{
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    (void)state;
    start_behind(bed, source_ordered_event, 700);
    for (unsigned i = 0; i < 15; i++)
        source_bed_publish(bed, source_ordered_event, 20);
    source_bed_publish(bed, source_ordered_event, 1);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* After a stop and after kill -9, at rest and at work. */
static void resume(const char *backend)
{
    struct source_bed *bed = source_bed_new(&world, backend, false);
    source_bed_up(bed);
    source_bed_publish(bed, source_keyed_event, 300);
    source_bed_settle(bed);
    if (!bed->supervised) {
        source_bed_stop(bed);
        source_bed_publish(bed, source_keyed_event, 300);
        source_bed_up(bed);
        source_bed_settle(bed);
    } else {
        source_bed_publish(bed, source_keyed_event, 300);
    }
    source_bed_kill(bed, NULL);
    for (unsigned i = 0; i < 3; i++) {
        source_bed_publish(bed, source_keyed_event, 150);
        AWAIT_SOURCE(bed, source_bed_running(bed));
        source_bed_publish(bed, source_keyed_event, 150);
        source_bed_kill(bed, NULL);
    }
    source_bed_finish(bed);
    source_bed_free(bed);
}

static void test_resume(void **state)
{
    (void)state;
    resume("redis");
}

static void test_resume_sqlite(void **state)
{
    (void)state;
    resume("sqlite");
}

/* The same events once more: of a class that does not know them again they are further events, with keys that
 * joins know. */
static void test_duplicates(void **state)
{
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    bool counted = !world.driver->deduplicates;
    (void)state;
    source_bed_up(bed);
    unsigned n = source_bed_publish(bed, source_keyed_event, 200);
    for (unsigned i = 0; i < 2; i++) {
        source_bed_publish_range(bed, source_keyed_event, n / 2, n - n / 2, counted);
        source_bed_settle(bed);
    }
    source_bed_kill(bed, NULL);
    source_bed_publish(bed, source_keyed_event, 50);
    source_bed_publish_range(bed, source_keyed_event, 0, n, counted);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* Killed with events in hand that are not committed: they come again. */
static void test_redelivery(void **state)
{
    (void)state;
    if (world.driver->under_supervisor)
        SKIP("its events are not taken while the storage is away");
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    source_bed_publish(bed, source_keyed_event, 100);
    for (unsigned i = 0; i < 3; i++) {
        source_bed_up(bed);
        source_bed_settle(bed);
        publish_uncommitted(bed);
        process_kill(&bed->process, SIGKILL);
        tcp_proxy_reset(world.storage);
    }
    source_bed_up(bed);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* Events come while the commit of those before them is under way: what is committed is acknowledged,
 * and no more. */
static void test_slow_storage(void **state)
{
    const uint64_t delay =
        (world.driver->under_supervisor ? 20 : 100) * CLOCK_MS; /* its publishers wait, too */
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    (void)state;
    source_bed_up(bed);
    for (unsigned i = 0; i < 4; i++) {
        long long before = source_bed_counter(bed, "count");
        tcp_proxy_delay(world.storage, delay);
        AWAIT_SOURCE(bed, (source_bed_publish(bed, source_keyed_event, 5),
                           source_bed_counter(bed, "count") != before));
        /* Its answer comes a delay later, and the next commit one more. */
        for (uint64_t until = clock_now_ns() + delay * 3 / 2; clock_now_ns() < until; wait_moment())
            source_bed_publish(bed, source_keyed_event, 5);
        tcp_proxy_reset(world.storage);
        source_bed_kill(bed, NULL);
        source_bed_settle(bed);
    }
    source_bed_finish(bed);
    source_bed_free(bed);
}

static void test_away_at_start(void **state)
{
    (void)state;
    if (!world.broker)
        SKIP(no_broker);
    for (unsigned hold = 0; hold < 2; hold++) {
        struct source_bed *bed = source_bed_new(&world, "redis", false);
        tcp_proxy_set(world.broker, hold ? TCP_PROXY_HOLD : TCP_PROXY_REFUSE);
        source_bed_up(bed);
        source_bed_publish(bed, source_keyed_event, 200);
        some_moments(100);
        assert_int_equal(source_bed_counter(bed, "count"), -1);
        if (hold)
            source_bed_stop(bed); /* nothing hinders that */
        tcp_proxy_set(world.broker, TCP_PROXY_PASS);
        if (hold)
            source_bed_up(bed);
        source_bed_finish(bed);
        source_bed_free(bed);
    }
}

/* The connection is broken in every way while events come. */
static void test_away_in_the_middle(void **state)
{
    (void)state;
    if (!world.broker)
        SKIP(no_broker);
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    source_bed_up(bed);
    source_bed_publisher(bed, source_mixed_event, of(3000));
    for (unsigned i = 0; i < 12; i++) {
        source_bed_allow(bed, i + 1, 12);
        source_live();
        switch (i % 6) {
        case 0:
            tcp_proxy_cut(world.broker);
            break;
        case 1:
            tcp_proxy_set(world.broker, TCP_PROXY_REFUSE);
            break;
        case 2:
            tcp_proxy_set(world.broker, TCP_PROXY_PASS);
            tcp_proxy_truncate(world.broker, chance_below(5000));
            break;
        case 3:
            tcp_proxy_set(world.broker, TCP_PROXY_HOLD);
            break;
        case 4:
            tcp_proxy_set(world.broker, TCP_PROXY_PASS);
            tcp_proxy_delay(world.broker, 5 * CLOCK_MS);
            break;
        default:
            tcp_proxy_cut(world.broker);
            tcp_proxy_reset(world.broker);
        }
    }
    source_bed_publisher_join(bed);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* The broker itself dies, and comes back with what it had stored. */
static void test_server_killed(void **state)
{
    const struct source_driver *d = world.driver;
    (void)state;
    if (!d->server_kill)
        SKIP("this broker cannot be killed");
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    start_behind(bed, source_mixed_event, 1000);
    source_live();
    assert_int_equal(d->server_kill(), 0);
    some_moments(50);
    source_bed_kill(bed, NULL);
    assert_int_equal(d->server_start(), 0);
    source_bed_publish(bed, source_mixed_event, 500);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* The broker goes away between the reading of events and the commit of their checkpoint: what would be
 * acknowledged cannot be, and comes again or does not. */
static void test_away_at_commit(void **state)
{
    (void)state;
    if (!world.broker)
        SKIP(no_broker);
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    source_bed_up(bed);
    source_bed_publish(bed, source_keyed_event, 100);
    for (unsigned i = 0; i < 3; i++) {
        source_bed_settle(bed);
        long long before = source_bed_counter(bed, "count");
        publish_uncommitted(bed);
        if (i == 2)
            tcp_proxy_cut(world.broker);
        else
            tcp_proxy_set(world.broker, i ? TCP_PROXY_HOLD : TCP_PROXY_REFUSE);
        tcp_proxy_reset(world.storage);
        for (unsigned n = 0; n < 200 && source_bed_counter(bed, "count") == before; n++)
            wait_moment();
        tcp_proxy_cut(world.broker);
        tcp_proxy_reset(world.broker);
    }
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* There is another connection already when the commit of what came over the earlier one is answered: that
 * allows to acknowledge nothing of what came over the new one. */
static void test_reconnected_at_commit(void **state)
{
    const uint64_t delay = 300 * CLOCK_MS;
    (void)state;
    if (!world.broker)
        SKIP(no_broker);
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    for (unsigned i = 0; i < 3; i++) {
        source_bed_up(bed);
        source_bed_publish(bed, source_keyed_event, 300);
        source_bed_settle(bed);
        long long before = source_bed_counter(bed, "count");
        tcp_proxy_delay(world.storage, delay);
        source_bed_publish(bed, source_keyed_event, 100);
        AWAIT_SOURCE(bed, source_bed_counter(bed, "count") > before);
        uint64_t answered = clock_now_ns() + delay;
        tcp_proxy_cut(world.broker);
        source_bed_publish(bed, source_keyed_event, 400);
        while (clock_now_ns() < answered + delay / 2) /* and before the next commit */
            wait_moment();
        process_kill(&bed->process, SIGKILL);
        tcp_proxy_reset(world.storage);
    }
    source_bed_up(bed);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* The backlog is long, the worker slow, and it is killed over it. */
static void test_slow(void **state)
{
    static const char *const settings[] = {"TRIGGERFLOW_SINK_MAX_SIZE=7",
                                           "TRIGGERFLOW_CHECKPOINT_INTERVAL=30ms", NULL};
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    (void)state;
    source_bed_start(bed, settings);
    for (unsigned i = 0; i < 20; i++)
        source_bed_publish(bed, source_mixed_event, 150);
    for (unsigned i = 0; i < 3; i++) {
        long long before = source_bed_counter(bed, "count");
        AWAIT_SOURCE(bed, source_bed_counter(bed, "count") > before || source_bed_settled(bed));
        source_bed_kill(bed, settings);
    }
    source_bed_finish(bed);
    source_bed_free(bed);
}

static void test_paused(void **state)
{
    struct source_bed *bed = source_bed_new(&world, "redis", true);
    (void)state;
    source_bed_up(bed);
    unsigned n = source_bed_publish(bed, source_keyed_event, 100);
    source_bed_settle(bed);
    source_bed_call(bed, "POST", "/workspace/ws/pause");
    source_bed_publish(bed, source_keyed_event, 400);
    some_moments(100);
    assert_int_equal(source_bed_counter(bed, "count"), n);
    if (world.broker)
        tcp_proxy_cut(world.broker);
    source_bed_publish(bed, source_keyed_event, 100);
    source_bed_call(bed, "POST", "/workspace/ws/resume");
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* Takes the event source out of the workspace; its document (free). */
static redisReply *take_away(struct source_bed *bed)
{
    static const char removed[] = "event=event_source_removed";
    unsigned before = process_log_count(&bed->process, removed);
    redisReply *document = redis_server_do(&world.redis.redis, "HGET ws-event_sources in");
    assert_true(document && document->type == REDIS_REPLY_STRING);
    freeReplyObject(redis_server_do(&world.redis.redis, "HDEL ws-event_sources in"));
    AWAIT_SOURCE(bed, process_log_count(&bed->process, removed) > before);
    return document;
}

/* Removed from the workspace while events come, and added again, also by another life of the worker. */
static void test_removed(void **state)
{
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    (void)state;
    if (world.driver->under_supervisor)
        SKIP("its events are not taken while it is away");
    source_bed_up(bed);
    source_bed_publisher(bed, source_keyed_event, of(2000));
    for (unsigned i = 1; i <= 4; i++) {
        long long before = source_bed_counter(bed, "count");
        source_bed_allow(bed, i, 4);
        AWAIT_SOURCE(bed, source_bed_counter(bed, "count") > before);
        redisReply *document = take_away(bed);
        if (i == 2)
            source_bed_kill(bed, NULL);
        freeReplyObject(
            redis_server_do(&world.redis.redis, "HSET ws-event_sources in %b", document->str, document->len));
        freeReplyObject(document);
        if (i == 3)
            source_bed_kill(bed, NULL);
    }
    source_bed_publisher_join(bed);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* The worker stands still for so long that its broker gives it up. */
static void test_stopped(void **state)
{
    const struct source_driver *d = world.driver;
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    pid_t worker = 0;
    (void)state;
    source_bed_up(bed);
    source_bed_publisher(bed, source_mixed_event, of(2000));
    source_bed_allow(bed, 1, 2);
    AWAIT_SOURCE(bed, source_bed_counter(bed, "count") > 0);
    AWAIT_SOURCE(bed, (worker = source_bed_worker(bed)) > 0);
    kill(worker, SIGSTOP);
    source_bed_allow(bed, 1, 1);
    some_moments(100);
    if (d->abandoned)
        AWAIT_SOURCE(bed, d->abandoned(&bed->queue));
    else if (world.broker)
        tcp_proxy_cut(world.broker);
    kill(worker, SIGCONT);
    source_bed_publisher_join(bed);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* --- what comes: source_data.c --- */

static void test_undecodable(void **state)
{
    (void)state;
    run(source_data_undecodable);
}

static void test_data(void **state)
{
    (void)state;
    run(source_data_awkward);
}

static void test_too_large(void **state)
{
    (void)state;
    run(source_data_too_large);
}

/* While a source waits for the triggers that an event may have by now, checkpoints go on: without what is
 * behind that event in its batch, which a kill then must not lose. */
static void test_no_trigger(void **state)
{
    static const struct {
        source_events make;
        unsigned n;
    } batch[] = {{source_keyed_event, 20}, {source_unwanted_event, 5}, {source_keyed_event, 20}};
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        long long before = source_bed_counter(bed, "count");
        if (world.driver->under_supervisor)
            source_bed_up(bed);
        for (unsigned j = 0; j < 3; j++)
            source_bed_publish(bed, batch[j].make, batch[j].n);
        if (!world.driver->under_supervisor)
            source_bed_up(bed);
        AWAIT_SOURCE(bed, source_bed_counter(bed, "count") > before);
        source_bed_kill(bed, NULL);
        source_bed_settle(bed);
        source_bed_stop(bed);
    }
    source_bed_up(bed);
    source_bed_finish(bed);
    source_bed_free(bed);
}

static void test_emit(void **state)
{
    struct source_bed *bed = source_bed_new(&world, "redis", false);
    (void)state;
    source_bed_up(bed);
    source_data_limit(&world);
    source_bed_publish_range(bed, source_back_data_event, 0, SOURCE_DATA, true);
    bed->next = SOURCE_DATA;
    for (unsigned i = 0; i < 6; i++) {
        source_bed_publish(bed, source_back_event, 100);
        if (i == 2 && world.broker)
            tcp_proxy_cut(world.broker);
        if (i == 4)
            source_bed_kill(bed, NULL);
    }
    source_bed_finish(bed);
    source_bed_free(bed);
}

static void test_kills(void **state)
{
    (void)state;
    source_crash_random(&world, "redis", 100);
}

static void test_kills_sqlite(void **state)
{
    (void)state;
    source_crash_random(&world, "sqlite", 20);
}

static void test_crash_points(void **state)
{
    (void)state;
    run(source_crash_points);
}

/* --- all of them --- */

int source_conformance(const struct source_driver *driver, int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),          cmocka_unit_test(test_resume),
        cmocka_unit_test(test_resume_sqlite),  cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_redelivery),     cmocka_unit_test(test_slow_storage),
        cmocka_unit_test(test_away_at_start),  cmocka_unit_test(test_away_in_the_middle),
        cmocka_unit_test(test_away_at_commit), cmocka_unit_test(test_reconnected_at_commit),
        cmocka_unit_test(test_server_killed),  cmocka_unit_test(test_slow),
        cmocka_unit_test(test_paused),         cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_removed),        cmocka_unit_test(test_undecodable),
        cmocka_unit_test(test_data),           cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_no_trigger),     cmocka_unit_test(test_emit),
        cmocka_unit_test(test_kills),          cmocka_unit_test(test_kills_sqlite),
        cmocka_unit_test(test_crash_points),
    };
    char name[64];
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    curl_global_init(CURL_GLOBAL_ALL);
    chance_read_settings();
    int r = source_world_start(&world, driver);
    if (r == 0) {
        snprintf(name, sizeof name, "source_%s", driver->name);
        r = _cmocka_run_group_tests(name, tests, sizeof tests / sizeof tests[0], NULL, NULL);
    } else {
        r = r < 0;
    }
    source_world_done(&world);
    return r;
}
