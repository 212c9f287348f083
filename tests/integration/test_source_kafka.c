/* The real triggerflow-worker against a real Apache Kafka broker. */
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

#include "tests/support/kafka_server.h"
#include "tests/support/worker_bed.h"

#define PASS "{\"name\":\"PASS\"}"
#define NEVER "{\"join\":1000000}"
#define QUICK \
    ",\"properties\":{\"topic.metadata.refresh.interval.ms\":\"300\",\"reconnect.backoff.max.ms\":\"200\"}"

static struct redis_server redis;
static struct kafka_server kafka;
static char topic[32]; /* of this test */

static void source(const struct worker_bed *bed, const char *name, const char *of_topic, const char *more)
{
    char document[1024];
    snprintf(document, sizeof document,
             "{\"name\":\"%s\",\"class\":\"KafkaEventSource\",\"parameters\":{\"broker_list\":[\"%s\"],"
             "\"topic\":\"%s\"%s}}",
             name, kafka.brokers, of_topic, more);
    assert_int_equal(workspace_put_source(&bed->workspace, name, document), 0);
}

static int setup(void **state)
{
    static unsigned n;
    snprintf(topic, sizeof topic, "topic%u", n++);
    struct worker_bed *bed = worker_bed_new(&redis);
    assert_int_equal(workspace_delete_source(&bed->workspace, "in"), 0);
    source(bed, "kafka", topic, QUICK);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    worker_bed_free(*state);
    return 0;
}

static void create(int partitions)
{
    assert_int_equal(kafka_server_create(&kafka, topic, partitions, NULL), 0);
}

/* n events with the ids <subject>-<first>…; partition -1: all in turn. */
static void publish(const char *subject, unsigned first, unsigned n, int partition)
{
    static char text[500][160];
    struct kafka_record records[500];
    memset(records, 0, sizeof records);
    assert_true(n <= 500);
    for (unsigned i = 0; i < n; i++) {
        snprintf(text[i], sizeof text[i],
                 "{\"specversion\":\"1.0\",\"id\":\"%s-%u\",\"source\":\"urn:test\",\"type\":\"t\","
                 "\"subject\":\"%s\","
                 "\"data\":%u}",
                 subject, first + i, subject, first + i);
        records[i].value = text[i];
        records[i].partition = partition < 0 ? (int)(i % (unsigned)-partition) : partition;
    }
    assert_int_equal(kafka_server_publish(&kafka, topic, records, n), 0);
}

static bool committed(long long sum, int partitions)
{
    for (int i = 0; i < partitions; i++) {
        int64_t offset = kafka_server_committed(&kafka, "kafka", topic, i);
        sum -= offset > 0 ? offset : 0;
    }
    return sum == 0;
}

static void test_consume(void **state)
{
    struct worker_bed *bed = *state;
    create(4);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    publish("s", 0, 100, -4);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 100);
    publish("s", 100, 100, -4);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 200);
    AWAIT_BED(bed, committed(200, 4));
    process_kill(&bed->worker, SIGKILL);
    publish("s", 200, 100, -4);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 300);
    publish("s", 300, 10, 0);
    worker_bed_stop(bed); /* its last offsets, too */
    long long counted = worker_bed_counter(bed, "count");
    assert_true(committed(counted, 4));
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_consume, setup, teardown),
    };
    const char *why = "no redis-server";
    if (!redis_server_available() || !kafka_server_available(&why)) {
        printf("test_source_kafka: skipped: %s\n", why);
        return 0;
    }
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    int failed = kafka_server_run(&kafka);
    if (!failed)
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    kafka_server_done(&kafka);
    redis_server_done(&redis);
    return failed ? 1 : 0;
}
