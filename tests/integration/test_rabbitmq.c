/* What is RabbitMQ's own about a RabbitMQEventSource, with the real worker and a real broker; the conformance
 * test (test_source_rabbitmq.c) has what holds for all classes. */
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

#include "tests/support/rabbitmq_server.h"
#include "tests/support/tcp_proxy.h"
#include "tests/support/worker_bed.h"

#define PASS "{\"name\":\"PASS\"}"
#define NEVER "{\"join\":1000000}"
#define EMIT "{\"name\":\"EMIT\",\"event_source\":\"to\",\"event\":{\"type\":\"emitted\"}}"
#define MOST 3000

static struct redis_server redis;
static struct rabbitmq_server broker;
static struct tcp_proxy *proxy; /* to the broker */
static char queue[32];          /* of this test */

static void put_source(const struct worker_bed *bed, const char *name, const char *url, const char *of_queue,
                       const char *more)
{
    char document[1024];
    snprintf(document, sizeof document,
             "{\"name\":\"%s\",\"class\":\"RabbitMQEventSource\",\"parameters\":{\"amqp_url\":\"%s\","
             "\"queue\":\"%s\"%s}}",
             name, url, of_queue, more);
    assert_int_equal(workspace_put_source(&bed->workspace, name, document), 0);
}

static const char *url_of(int port, const char *rest)
{
    static char url[128];
    snprintf(url, sizeof url, "amqp://guest:guest@127.0.0.1:%d/%s", port, rest);
    return url;
}

/* A worker's bed whose only event source is the test's queue, behind the proxy, and a trigger that counts. */
static int setup(void **state)
{
    static unsigned n;
    snprintf(queue, sizeof queue, "queue%u", n++);
    tcp_proxy_reset(proxy);
    struct worker_bed *bed = worker_bed_new(&redis);
    assert_int_equal(workspace_delete_source(&bed->workspace, "in"), 0);
    assert_int_equal(workspace_delete_source(&bed->workspace, "out"), 0);
    put_source(bed, "rabbit", url_of(tcp_proxy_port(proxy), "?heartbeat=1"), queue, "");
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    worker_bed_free(*state);
    rabbitmq_server_disconnect(&broker);
    snprintf(broker.vhost, sizeof broker.vhost, "/");
    return 0;
}

static void declare(enum rabbitmq_queue kind)
{
    assert_int_equal(rabbitmq_server_declare(&broker, queue, kind), 0);
}

/* n events of the trigger's; twins: nothing differs between them. */
static void publish_to(const char *to, unsigned first, unsigned n, bool twins)
{
    static char text[MOST][160];
    static struct rabbitmq_body bodies[MOST];
    assert_true(n <= MOST);
    for (unsigned i = 0; i < n; i++) {
        int len = snprintf(text[i], sizeof text[i],
                           "{\"specversion\":\"1.0\",\"id\":\"e%u\",\"source\":\"urn:test\",\"type\":\"t\","
                           "\"subject\":\"s\",\"data\":{\"n\":1}}",
                           twins ? 0 : first + i);
        bodies[i] = (struct rabbitmq_body){text[i], (size_t)len};
    }
    assert_int_equal(rabbitmq_server_publish(&broker, to, bodies, n, NULL), 0);
}

/* Starts the worker, and waits until there is a queue. */
static void up(struct worker_bed *bed)
{
    worker_bed_up(bed);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, queue) >= 0);
}

static void publish(unsigned first, unsigned n)
{
    publish_to(queue, first, n, false);
}

static void await_count(const struct worker_bed *bed, long long n)
{
    AWAIT_BED(bed, worker_bed_counter(bed, "count") >= n);
    assert_int_equal(worker_bed_counter(bed, "count"), n);
}

/* Everything is acknowledged. */
static void await_empty(const struct worker_bed *bed)
{
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, queue) == 0);
}

/* How many fields of consumed messages are stored. */
static unsigned chunks(const struct worker_bed *bed)
{
    redisReply *reply = redis_server_do(bed->redis, "HKEYS ws-checkpoint");
    unsigned n = 0;
    assert_non_null(reply);
    for (size_t i = 0; i < reply->elements; i++)
        n += !strncmp(reply->element[i]->str, "consumed:rabbit:", 16);
    freeReplyObject(reply);
    return n;
}

/* --- acknowledging --- */

/* The queue is declared when there is none; all is acknowledged at work, and at a stop. */
static void test_consume(void **state)
{
    struct worker_bed *bed = *state;
    up(bed);
    publish(0, 2500); /* more than the prefetch */
    await_count(bed, 2500);
    await_empty(bed);
    publish(2500, 10);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") > 2500);
    worker_bed_stop(bed);
    long long counted = worker_bed_counter(bed, "count");
    assert_int_equal(rabbitmq_server_messages(&broker, queue), 2510 - counted);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
    up(bed);
    await_count(bed, 2510);
}

/* With Redis at appendfsync everysec a commit may be lost for a second: so long nothing is acknowledged. */
static void test_unsure(void **state)
{
    struct worker_bed *bed = *state;
    freeReplyObject(redis_server_do(&redis, "CONFIG SET appendonly yes"));
    freeReplyObject(redis_server_do(&redis, "CONFIG SET appendfsync everysec"));
    up(bed);
    assert_true(worker_bed_logged(bed, "event=event_source source=rabbit"));
    uint64_t before = clock_now_ns();
    publish(0, 10);
    await_count(bed, 10);
    while (clock_now_ns() < before + CLOCK_S) {
        long long n = rabbitmq_server_messages(&broker, queue);
        if (clock_now_ns() < before + CLOCK_S)
            assert_int_equal(n, 10);
        wait_moment();
    }
    publish(10, 10);
    await_count(bed, 20);
    worker_bed_stop(bed); /* waits for that, too */
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, queue) == 0);
    freeReplyObject(redis_server_do(&redis, "CONFIG SET appendonly no"));
}

/* What was consumed is remembered only as long as it may come again. */
static void test_forget(void **state)
{
    struct worker_bed *bed = *state;
    declare(RABBITMQ_TRANSIENT);
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_REDELIVERY_WINDOW=0s");
    AWAIT_BED(bed, worker_bed_running(bed));
    for (unsigned i = 0; i < 20; i++) {
        publish(i * 10, 10);
        await_count(bed, i * 10 + 10);
        await_empty(bed);
    }
    AWAIT_BED(bed, (publish(0, 1), chunks(bed) <= 2));
    worker_bed_stop(bed);
    /* What is old, and of a source that is gone, goes; what is of another one stays. */
    assert_int_equal(workspace_delete_source(&bed->workspace, "rabbit"), 0);
    assert_int_equal(workspace_source(&bed->workspace, "in", "in", ""), 0);
    put_source(bed, "other", url_of(broker.port, ""), queue, "");
    freeReplyObject(redis_server_do(&redis, "HSET ws-checkpoint consumed:rabbit:%s %s consumed:other:%s %s",
                                    "00000000000000000001", "1700000000 AAAAAAAAAAAAAAAAAAAAAA==",
                                    "00000000000000000001", "1700000000 AAAAAAAAAAAAAAAAAAAAAA=="));
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_REDELIVERY_WINDOW=0s");
    AWAIT_BED(bed, worker_bed_running(bed));
    worker_bed_publish(bed, "t", "s", 1);
    worker_bed_settle(bed);
    assert_null(workspace_get(&bed->workspace, "checkpoint", "consumed:rabbit:00000000000000000001"));
    char *other = workspace_get(&bed->workspace, "checkpoint", "consumed:other:00000000000000000001");
    assert_non_null(other);
    free(other);
}

/* --- twins --- */

/* Equal messages are as many events as there are. */
static void test_twins(void **state)
{
    struct worker_bed *bed = *state;
    up(bed);
    for (unsigned i = 0; i < 3; i++) {
        publish_to(queue, 0, 100, true);
        await_count(bed, (i + 1) * 200 - 100);
        await_empty(bed);
        AWAIT_BED(bed, chunks(bed) == 0); /* where there are twins they are not kept */
        process_kill(&bed->worker, SIGKILL);
        publish_to(queue, 0, 100, true);
        up(bed);
        await_count(bed, (i + 1) * 200);
        await_empty(bed);
    }
    /* One that was handed out and has not arrived comes again; its twins were acknowledged. */
    publish_to(queue, 0, 1, true);
    await_count(bed, 601);
    await_empty(bed);
    AWAIT_BED(bed, chunks(bed) == 0);
    tcp_proxy_set(proxy, TCP_PROXY_HOLD);
    publish_to(queue, 0, 5, true);
    for (unsigned i = 0; i < 50; i++)
        wait_moment();
    tcp_proxy_cut(proxy);
    tcp_proxy_set(proxy, TCP_PROXY_PASS);
    await_count(bed, 606);
    await_empty(bed);
}

/* --- queues --- */

static void test_queue_deleted(void **state)
{
    struct worker_bed *bed = *state;
    up(bed);
    publish(0, 10);
    await_count(bed, 10);
    assert_int_equal(rabbitmq_server_delete(&broker, queue), 0);
    /* Told by the broker, or found out first by a call of our own. */
    AWAIT_BED(bed,
              worker_bed_logged(bed, "has cancelled the consumer") || worker_bed_logged(bed, "no queue"));
    AWAIT_BED(bed, worker_bed_logged(bed, "event=source_recreated"));
    publish(10, 10);
    await_count(bed, 20);
    worker_bed_stop(bed);
    assert_int_equal(rabbitmq_server_delete(&broker, queue), 0); /* while nobody looks */
    put_source(bed, "rabbit", url_of(broker.port, ""), queue, ",\"on_recreated\":\"stop\"");
    for (unsigned i = 1; i <= 2; i++) { /* and stays so */
        worker_bed_up(bed);
        AWAIT_BED(bed, process_log_count(&bed->worker, "on_recreated: stop") == i);
        worker_bed_stop(bed);
    }
    assert_int_equal(rabbitmq_server_messages(&broker, queue), -1);
    assert_int_equal(worker_bed_counter(bed, "count"), 20);
}

static void test_queue_purged(void **state)
{
    struct worker_bed *bed = *state;
    declare(RABBITMQ_TRANSIENT);
    publish(0, 10);
    assert_int_equal(rabbitmq_server_purge(&broker, queue), 0);
    publish(10, 10);
    worker_bed_up(bed);
    await_count(bed, 10);
    assert_int_equal(rabbitmq_server_purge(&broker, queue), 0);
    publish(20, 10);
    await_count(bed, 20);
    await_empty(bed);
}

static void test_quorum_queue(void **state)
{
    struct worker_bed *bed = *state;
    declare(RABBITMQ_QUORUM);
    publish(0, 1500);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") > 100);
    process_kill(&bed->worker, SIGKILL);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") > 600);
    tcp_proxy_cut(proxy);
    publish(1500, 500);
    await_count(bed, 2000);
    await_empty(bed);
}

/* The queue hands out once more, on the same connection, what it has already handed out there. */
static void test_taken_back(void **state)
{
    struct worker_bed *bed = *state;
    declare(RABBITMQ_QUORUM);
    worker_bed_up(bed);
    for (unsigned i = 0; i < 4; i++) {
        publish(i * 1500, 1500);
        AWAIT_BED(bed, worker_bed_counter(bed, "count") > i * 1500 + 100);
        assert_int_equal(rabbitmq_server_take_back(&broker, queue), 0);
    }
    await_count(bed, 6000);
    await_empty(bed);
    assert_int_equal(worker_bed_counter(bed, "count"), 6000);
}

static void test_virtual_host(void **state)
{
    struct worker_bed *bed = *state;
    put_source(bed, "rabbit", url_of(broker.port, "a%2Fb%20c"), queue, "");
    snprintf(broker.vhost, sizeof broker.vhost, RABBITMQ_OTHER_VHOST);
    declare(RABBITMQ_DURABLE);
    publish(0, 10);
    worker_bed_up(bed);
    await_count(bed, 10);
    await_empty(bed);
}

/* --- connections --- */

static void test_tls(void **state)
{
    struct worker_bed *bed = *state;
    char url[128], more[200];
    snprintf(url, sizeof url, "amqps://guest:guest@127.0.0.1:%d", broker.tls_port);
    put_source(bed, "rabbit", url, queue, ""); /* nobody trusts that certificate */
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "TLS: handshake: self-signed certificate"));
    snprintf(more, sizeof more, ",\"tls_ca\":\"%s/ca.pem\"", broker.dir);
    put_source(bed, "rabbit", url, queue, more);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, queue) == 0);
    publish(0, 500);
    await_count(bed, 500);
    snprintf(url, sizeof url, "amqps://guest:guest@localhost:%d", broker.tls_port);
    put_source(bed, "rabbit", url, queue, more); /* another name */
    AWAIT_BED(bed, worker_bed_logged(bed, "hostname mismatch"));
    put_source(bed, "rabbit", url, queue, ",\"tls_verify\":false");
    publish(500, 500);
    await_count(bed, 1000);
    await_empty(bed);
}

static void test_refused(void **state)
{
    struct worker_bed *bed = *state;
    char url[128];
    snprintf(url, sizeof url, "amqp://guest:hush%%2Fhush@127.0.0.1:%d", broker.port);
    put_source(bed, "rabbit", url, queue, "");
    put_source(bed, "other", url_of(broker.port, "nowhere"), queue, "");
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "403 ACCESS_REFUSED"));
    AWAIT_BED(bed, worker_bed_logged(bed, "/nowhere: 530 NOT_ALLOWED"));
    worker_bed_stop(bed);
    assert_false(worker_bed_logged(bed, "hush"));
}

/* A source that has nothing to read, or may not read, is alive all the same: the broker, which wants a sign
 * of life every second, keeps it. */
static void test_heartbeats(void **state)
{
    struct worker_bed *bed = *state;
    declare(RABBITMQ_DURABLE);
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_DEAD_LETTER_MAX_BYTES=1KiB");
    AWAIT_BED(bed, worker_bed_running(bed));
    publish(0, 1);
    await_count(bed, 1);
    uint64_t connections = tcp_proxy_connections(proxy);
    for (unsigned paused = 0; paused < 2; paused++) {
        uint64_t until = clock_now_ns() + 3 * CLOCK_S; /* the broker gives up after two seconds */
        while (clock_now_ns() < until)
            wait_moment();
        assert_int_equal(tcp_proxy_connections(proxy), connections);
        if (paused)
            break;
        const char *body = "nonsense";
        struct rabbitmq_body bodies[40];
        for (unsigned i = 0; i < 40; i++)
            bodies[i] = (struct rabbitmq_body){body, strlen(body)};
        assert_int_equal(rabbitmq_server_publish(&broker, queue, bodies, 40, NULL), 0);
        AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "invalid_event") == 40);
        publish(1, 10);
        AWAIT_BED(bed, worker_bed_logged(bed, "state=paused"));
    }
    freeReplyObject(redis_server_do(&redis, "DEL ws-dead_letters"));
    process_kill(&bed->worker, SIGKILL);
    worker_bed_up(bed);
    await_count(bed, 11);
    await_empty(bed);
}

/* --- messages --- */

static void test_messages(void **state)
{
    struct worker_bed *bed = *state;
    declare(RABBITMQ_DURABLE);
    amqp_table_entry_t headers[] = {
        {.key = amqp_cstring_bytes("cloudEvents:specversion"),
         .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_cstring_bytes("1.0")}}},
        {.key = amqp_cstring_bytes("cloudEvents:id"),
         .value = {.kind = AMQP_FIELD_KIND_I64, .value = {.i64 = 7}}},
        {.key = amqp_cstring_bytes("cloudEvents:source"),
         .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_cstring_bytes("urn:x")}}},
        {.key = amqp_cstring_bytes("cloudEvents:type"),
         .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_cstring_bytes("t")}}},
        {.key = amqp_cstring_bytes("cloudEvents:subject"),
         .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_cstring_bytes("s")}}}};
    amqp_basic_properties_t binary = {._flags = AMQP_BASIC_HEADERS_FLAG,
                                      .headers = {sizeof headers / sizeof headers[0], headers}};
    char *large = malloc(3 << 20);
    assert_non_null(large);
    memset(large, 'x', 3 << 20);
    struct rabbitmq_body bodies[] = {{"\xff\xfe", 2}, {large, 3 << 20}, {"", 0}, {"[]", 2}};
    assert_int_equal(rabbitmq_server_publish(&broker, queue, bodies, 1, &binary), 0);
    assert_int_equal(rabbitmq_server_publish(&broker, queue, bodies, 4, NULL), 0);
    publish(0, 5);
    free(large);
    worker_bed_up(bed);
    await_count(bed, 6);
    await_empty(bed);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "invalid_event"), 3);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "too_large"), 1);
}

/* --- publishing --- */

static void test_emit(void **state)
{
    struct worker_bed *bed = *state;
    char to[40];
    snprintf(to, sizeof to, "%s-to", queue);
    put_source(bed, "to", url_of(tcp_proxy_port(proxy), ""), to, ",\"consume\":false");
    assert_int_equal(workspace_delete_trigger(&bed->workspace, "count"), 0);
    worker_bed_trigger(bed, "emit", "TRUE", "{}", EMIT, "t", "s");
    up(bed);
    publish(0, 300);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, to) == 300); /* which was declared */
    char *body = rabbitmq_server_get(&broker, to);
    assert_non_null(body);
    assert_non_null(strstr(body, "\"type\":\"emitted\""));
    free(body);
    /* Unroutable: not lost, and said. */
    assert_int_equal(rabbitmq_server_delete(&broker, to), 0);
    publish(300, 10);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, to) == 10);
    assert_true(worker_bed_logged(bed, "does not exist any more"));
    /* The broker takes nothing for a while. */
    assert_int_equal(rabbitmq_server_block(&broker, true), 0);
    tcp_proxy_cut(proxy);
    rabbitmq_server_block(&broker, false);
    publish(310, 10);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, to) >= 20);
    /* It is away. */
    publish(320, 1);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, to) >= 21);
    tcp_proxy_set(proxy, TCP_PROXY_REFUSE);
    tcp_proxy_set(proxy, TCP_PROXY_PASS);
    publish(321, 10);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, to) >= 31);
    worker_bed_stop(bed);
    assert_int_equal(workspace_count(&bed->workspace, "outbox"), 0);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* A blocked broker does not hinder consuming; what is published waits. */
static void test_blocked(void **state)
{
    struct worker_bed *bed = *state;
    char to[40];
    snprintf(to, sizeof to, "%s-to", queue);
    put_source(bed, "to", url_of(broker.port, ""), to, ",\"consume\":false");
    worker_bed_trigger(bed, "emit", "TRUE", "{}", EMIT, "t", "s");
    declare(RABBITMQ_DURABLE);
    publish(0, 1);
    worker_bed_up(bed);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, to) == 1);
    publish(1, 500);
    assert_int_equal(rabbitmq_server_block(&broker, true), 0);
    await_count(bed, 501);
    await_empty(bed);
    assert_int_equal(rabbitmq_server_block(&broker, false), 0);
    AWAIT_BED(bed, rabbitmq_server_messages(&broker, to) >= 501);
    worker_bed_stop(bed);
    assert_int_equal(workspace_count(&bed->workspace, "outbox"), 0);
    assert_int_equal(rabbitmq_server_messages(&broker, to), 501);
}

int main(int argc, char **argv)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_consume),       TEST(test_unsure),       TEST(test_forget),       TEST(test_twins),
        TEST(test_queue_deleted), TEST(test_queue_purged), TEST(test_quorum_queue), TEST(test_taken_back),
        TEST(test_virtual_host),  TEST(test_tls),          TEST(test_refused),      TEST(test_heartbeats),
        TEST(test_messages),      TEST(test_emit),         TEST(test_blocked),
    };
    const char *why = "no redis-server";
    if (!redis_server_available() || !rabbitmq_server_available(&why)) {
        printf("test_rabbitmq: skipped: %s\n", why);
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed =
        redis_server_run(&redis, NULL) < 0 || rabbitmq_server_run(&broker) < 0 || tcp_proxy_new(&proxy) < 0;
    if (!failed) {
        tcp_proxy_target(proxy, broker.port);
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    tcp_proxy_free(proxy);
    rabbitmq_server_done(&broker);
    redis_server_done(&redis);
    return failed ? 1 : 0;
}
