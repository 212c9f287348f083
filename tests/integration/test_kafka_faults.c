/* The real triggerflow-worker against Kafka brokers that answer with errors, late, or not at all
 * (librdkafka's mock cluster, in this process). Whatever they do: nothing is lost, nothing counts twice, the
 * state says what is wrong, and afterwards it goes on. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/kafka_mock.h"
#include "tests/support/worker_bed.h"

#define PASS "{\"name\":\"PASS\"}"
#define NEVER "{\"join\":1000000}"
#define PARTITIONS 3 /* each led by another broker */
#define ROUND 5      /* events of a partition at a time */
#define AT_ONCE (ROUND * PARTITIONS)
/* No long pauses between librdkafka's attempts. */
#define QUICK                                                                                    \
    "\"topic.metadata.refresh.interval.ms\":300,\"topic.metadata.refresh.fast.interval.ms\":50," \
    "\"reconnect.backoff.ms\":20,\"reconnect.backoff.max.ms\":100,\"retry.backoff.ms\":20"
#define QUICK_READING ",\"fetch.wait.max.ms\":20,\"fetch.error.backoff.ms\":20,\"auto.commit.interval.ms\":50"

static struct redis_server redis;
static struct kafka_mock mock;
static unsigned published;

static void source(const struct worker_bed *bed, const char *name, const char *topic, const char *more,
                   const char *properties)
{
    char document[1024];
    snprintf(document, sizeof document,
             "{\"name\":\"%s\",\"class\":\"KafkaEventSource\",\"parameters\":{\"broker_list\":\"%s\","
             "\"topic\":\"%s\"%s,\"properties\":{" QUICK "%s}}}",
             name, mock.client.brokers, topic, more, properties);
    assert_int_equal(workspace_put_source(&bed->workspace, name, document), 0);
}

static int setup(void **state)
{
    kafka_mock_run(&mock);
    kafka_mock_topic(&mock, "topic", PARTITIONS);
    for (int i = 0; i < PARTITIONS; i++)
        kafka_mock_lead(&mock, "topic", i, i + 1);
    published = 0;
    struct worker_bed *bed = worker_bed_new(&redis);
    source(bed, "kafka", "topic", "", QUICK_READING);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct worker_bed *bed = *state;
    bool left = worker_bed_logged(bed, "librdkafka does not end");
    worker_bed_free(bed);
    kafka_mock_done(&mock);
    return left ? -1 : 0;
}

static bool counted(const struct worker_bed *bed)
{
    return worker_bed_counter(bed, "count") == (long long)published;
}

/* ROUND more events into every partition from `from` on. */
static void publish_from(int from)
{
    static char text[AT_ONCE][128];
    struct kafka_record records[AT_ONCE] = {0};
    size_t n = 0;
    for (int p = from; p < PARTITIONS; p++)
        for (int i = 0; i < ROUND; i++) {
            snprintf(text[n], sizeof text[0],
                     "{\"id\":\"%u\",\"source\":\"urn:test\",\"type\":\"t\",\"subject\":\"s\"}", published++);
            records[n] = (struct kafka_record){.partition = p, .value = text[n]};
            n++;
        }
    assert_int_equal(kafka_server_publish(&mock.client, "topic", records, n), 0);
}

static void publish(void)
{
    publish_from(0);
}

static bool group_follows(void)
{
    int64_t sum = 0;
    for (int i = 0; i < PARTITIONS; i++) {
        int64_t offset = kafka_server_committed(&mock.client, "kafka", "topic", i);
        sum += offset > 0 ? offset : 0;
    }
    return sum == (int64_t)published;
}

static bool reading_again(const struct worker_bed *bed, unsigned before)
{
    return process_log_count(&bed->worker, "source=kafka state=reading") > before;
}

static unsigned times_reading(const struct worker_bed *bed)
{
    return process_log_count(&bed->worker, "source=kafka state=reading");
}

/* All is counted, once: also by the next life, which begins where this one has left off. */
static void finish(struct worker_bed *bed)
{
    publish();
    AWAIT_BED(bed, counted(bed));
    AWAIT_BED(bed, group_follows());
    process_kill(&bed->worker, SIGKILL);
    publish();
    worker_bed_up(bed);
    AWAIT_BED(bed, counted(bed));
    worker_bed_stop(bed);
    assert_true(counted(bed));
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
    assert_false(worker_bed_logged(bed, "events_lost") || worker_bed_logged(bed, "source_recreated"));
}

/* --- reading --- */

static void test_fetch(void **state)
{
    struct worker_bed *bed = *state;
    static const rd_kafka_resp_err_t codes[] = {
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
        RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_INVALID_MSG, /* CORRUPT_MESSAGE */
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_UNKNOWN,
        RD_KAFKA_RESP_ERR__TRANSPORT,
    };
    worker_bed_up(bed);
    publish();
    AWAIT_BED(bed, counted(bed));
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        kafka_mock_push(&mock, KAFKA_FETCH, codes[i], 0, 2);
        publish();
        AWAIT_BED(bed, counted(bed) && kafka_mock_pushed(&mock, KAFKA_FETCH) == 0);
    }
    finish(bed);
}

/* What lasts is told; and when it is over, that too, though nothing is published. */
static void test_fetch_refused(void **state)
{
    struct worker_bed *bed = *state;
    static const struct {
        rd_kafka_resp_err_t code;
        const char *text;
    } cases[] = {{RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "Topic authorization failed"},
                 {RD_KAFKA_RESP_ERR_INVALID_MSG, "Invalid message"}};
    worker_bed_up(bed);
    publish();
    AWAIT_BED(bed, counted(bed));
    for (size_t i = 0; i < 2; i++) {
        unsigned before = times_reading(bed);
        kafka_mock_refuse(&mock, KAFKA_FETCH, cases[i].code);
        publish();
        AWAIT_BED(bed, worker_bed_logged(bed, cases[i].text));
        assert_int_equal(times_reading(bed), before);
        assert_int_equal(worker_bed_counter(bed, "count"), (long long)published - AT_ONCE);
        kafka_mock_refuse(&mock, KAFKA_FETCH, RD_KAFKA_RESP_ERR_NO_ERROR);
        AWAIT_BED(bed, counted(bed));
        AWAIT_BED(bed, reading_again(bed, before));
    }
    finish(bed);
}

/* The topic is not to be had for a moment, or not for us. */
static void test_metadata(void **state)
{
    struct worker_bed *bed = *state;
    static const struct {
        rd_kafka_resp_err_t code;
        const char *text;
    } cases[] = {{RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "Topic authorization failed"},
                 {RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, "Leader not available"},
                 {RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "does not exist"}};
    for (size_t i = 0; i < 3; i++) {
        unsigned before = times_reading(bed);
        kafka_mock_topic_error(&mock, "topic", cases[i].code);
        if (!bed->worker.pid)
            worker_bed_start(bed, NULL, NULL, NULL);
        AWAIT_BED(bed, worker_bed_logged(bed, cases[i].text));
        kafka_mock_topic_error(&mock, "topic", RD_KAFKA_RESP_ERR_NO_ERROR);
        WAIT(kafka_server_partitions(&mock.client, "topic") == PARTITIONS);
        publish();
        AWAIT_BED(bed, reading_again(bed, before) && counted(bed));
    }
    finish(bed);
}

/* Where the partitions begin and end is not told, at the first start and at later ones. */
static void test_list_offsets(void **state)
{
    struct worker_bed *bed = *state;
    static const rd_kafka_resp_err_t codes[] = {
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR__TRANSPORT};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        unsigned before = times_reading(bed);
        kafka_mock_push(&mock, KAFKA_LIST_OFFSETS, codes[i], 0, 2);
        publish();
        worker_bed_start(bed, NULL, NULL, NULL);
        AWAIT_BED(bed, counted(bed) && reading_again(bed, before));
        process_kill(&bed->worker, SIGKILL);
        if (codes[i] == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
            assert_true(worker_bed_logged(bed, "Topic authorization failed"));
    }
    worker_bed_up(bed);
    finish(bed);
}

/* Answers that come after more than a second are waited for. */
static void test_slow(void **state)
{
    struct worker_bed *bed = *state;
    publish();
    kafka_mock_push(&mock, KAFKA_LIST_OFFSETS, RD_KAFKA_RESP_ERR_NO_ERROR, 1100, 2);
    worker_bed_start(bed, NULL, NULL, NULL);
    AWAIT_BED(bed, worker_bed_logged(bed, "Timed out"));
    AWAIT_BED(bed, counted(bed));
    kafka_mock_rtt(&mock, 100);
    publish();
    AWAIT_BED(bed, counted(bed));
    kafka_mock_rtt(&mock, 0);
    finish(bed);
}

/* --- brokers --- */

static void test_leaders(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_up(bed);
    publish();
    for (int round = 0; round < 4; round++) {
        for (int p = 0; p < PARTITIONS; p++)
            kafka_mock_lead(&mock, "topic", p, (p + round) % KAFKA_MOCK_BROKERS + 1);
        publish();
        AWAIT_BED(bed, round % 2 == 0 || counted(bed));
    }
    kafka_mock_lead(&mock, "topic", 0, -1);
    AWAIT_BED(bed, worker_bed_logged(bed, "partition 0 has no leader"));
    publish_from(1); /* the others are not disturbed, also in a life that has never seen it led */
    AWAIT_BED(bed, counted(bed) && group_follows());
    process_kill(&bed->worker, SIGKILL);
    publish_from(1);
    worker_bed_up(bed);
    AWAIT_BED(bed, counted(bed));
    unsigned before = times_reading(bed);
    kafka_mock_lead(&mock, "topic", 0, 2);
    AWAIT_BED(bed, reading_again(bed, before));
    finish(bed);
}

/* At the very first start no partition is left for later: where it is to be read from would be forgotten. */
static void test_leaderless_at_first(void **state)
{
    struct worker_bed *bed = *state;
    publish();
    for (int i = 0; i < PARTITIONS; i++)
        assert_int_equal(kafka_server_commit(&mock.client, "kafka", "topic", i, 2), 0);
    kafka_mock_lead(&mock, "topic", 1, -1);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "partition 1 has no leader"));
    kafka_mock_lead(&mock, "topic", 1, 3);
    published -= 2 * PARTITIONS; /* which the group has read before */
    AWAIT_BED(bed, counted(bed));
    publish();
    AWAIT_BED(bed, counted(bed));
    worker_bed_stop(bed);
}

static void test_brokers_down(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_up(bed);
    publish();
    AWAIT_BED(bed, counted(bed));
    kafka_mock_up(&mock, 1, false);
    publish_from(1);
    AWAIT_BED(bed, counted(bed));
    kafka_mock_up(&mock, 1, true);
    publish();
    AWAIT_BED(bed, counted(bed));
    for (int i = 1; i <= KAFKA_MOCK_BROKERS; i++)
        kafka_mock_up(&mock, i, false);
    AWAIT_BED(bed, worker_bed_logged(bed, "source=kafka state=unavailable"));
    unsigned before = times_reading(bed);
    for (int i = 1; i <= KAFKA_MOCK_BROKERS; i++)
        kafka_mock_up(&mock, i, true);
    publish();
    AWAIT_BED(bed, counted(bed) && reading_again(bed, before));
    finish(bed);
}

/* --- the group --- */

static void test_commit(void **state)
{
    struct worker_bed *bed = *state;
    static const rd_kafka_resp_err_t codes[] = {RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
                                                RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
                                                RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                                                RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
                                                RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                                                RD_KAFKA_RESP_ERR__TRANSPORT};
    worker_bed_up(bed);
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        kafka_mock_push(&mock, KAFKA_OFFSET_COMMIT, codes[i], 0, 1);
        publish();
        AWAIT_BED(bed, counted(bed) && group_follows());
    }
    assert_true(worker_bed_logged(bed, "name=kafka_group"));
    finish(bed);
}

/* Nobody says who keeps the group's offsets: at the first start that is awaited, later nothing waits for it.
 */
static void test_coordinator(void **state)
{
    struct worker_bed *bed = *state;
    publish();
    kafka_mock_push(&mock, KAFKA_FIND_COORDINATOR, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, 0, 1);
    kafka_mock_push(&mock, KAFKA_OFFSET_FETCH, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, 0, 2);
    worker_bed_start(bed, NULL, NULL, NULL);
    AWAIT_BED(bed, counted(bed) && group_follows());
    kafka_mock_refuse(&mock, KAFKA_OFFSET_COMMIT, RD_KAFKA_RESP_ERR_NOT_COORDINATOR);
    publish();
    AWAIT_BED(bed, counted(bed));
    process_kill(&bed->worker, SIGKILL);
    publish();
    worker_bed_up(bed);
    AWAIT_BED(bed, counted(bed));
    kafka_mock_refuse(&mock, KAFKA_OFFSET_COMMIT, RD_KAFKA_RESP_ERR_NO_ERROR);
    finish(bed);
}

/* --- publishing --- */

#define EMIT "{\"name\":\"EMIT\",\"event_source\":\"target\",\"event\":{\"type\":\"new\"}}"

/* Events of the Redis stream `in` are published to the topic `target`, and nothing else is. */
static void start_emitting(struct worker_bed *bed, bool consume, const char *properties)
{
    kafka_mock_topic(&mock, "target", 1);
    source(bed, "target", "target", consume ? "" : ",\"consume\":false", properties);
    worker_bed_trigger(bed, "emit", "TRUE", "{}", EMIT, "e", "*");
    worker_bed_trigger(bed, "came", "JOIN", NEVER, PASS, "new", "*");
    worker_bed_up(bed);
}

static int64_t emitted(void)
{
    int64_t low, high = -1;
    assert_int_equal(kafka_server_bounds(&mock.client, "target", 0, &low, &high), 0);
    return high;
}

static bool nothing_waits(const struct worker_bed *bed)
{
    return worker_bed_settled(bed) && workspace_count(&bed->workspace, "outbox") == 0;
}

static void test_publish_again(void **state)
{
    struct worker_bed *bed = *state;
    static const rd_kafka_resp_err_t codes[] = {RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                                                RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                                                RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                                                RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                                                RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                                                RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
                                                RD_KAFKA_RESP_ERR_INVALID_MSG,
                                                RD_KAFKA_RESP_ERR__TRANSPORT};
    int64_t n = 0;
    char subject[8];
    start_emitting(bed, false, "");
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        kafka_mock_push(&mock, KAFKA_PRODUCE, codes[i], 0, 1);
        snprintf(subject, sizeof subject, "s%zu", i);
        worker_bed_publish(bed, "e", subject, 3);
        n += 3;
        AWAIT_BED(bed, emitted() == n && nothing_waits(bed));
    }
    worker_bed_stop(bed);
    assert_int_equal(emitted(), n);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* The broker has taken it, but its answer comes too late: it is published again, and counts once where it
 * comes back. */
static void test_publish_twice(void **state)
{
    struct worker_bed *bed = *state;
    start_emitting(bed, true, QUICK_READING ",\"message.timeout.ms\":900");
    kafka_mock_push(&mock, KAFKA_PRODUCE, RD_KAFKA_RESP_ERR_NO_ERROR, 3000, 1);
    worker_bed_publish(bed, "e", "s", 1);
    AWAIT_BED(bed, emitted() > 1 && nothing_waits(bed));
    int64_t n = emitted();
    worker_bed_publish(bed, "e", "later", 1);
    AWAIT_BED(bed, emitted() == n + 1 && worker_bed_counter(bed, "came") == 2);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "came"), 2);
}

/* Refused for good: a dead letter, and what comes behind it is published. */
static void test_publish_refused(void **state)
{
    struct worker_bed *bed = *state;
    start_emitting(bed, false, "");
    worker_bed_publish(bed, "e", "before", 1);
    AWAIT_BED(bed, emitted() == 1);
    kafka_mock_refuse(&mock, KAFKA_PRODUCE, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    worker_bed_publish(bed, "e", "refused", 3);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "action_failed") == 3);
    kafka_mock_refuse(&mock, KAFKA_PRODUCE, RD_KAFKA_RESP_ERR_NO_ERROR);
    int dead = 3; /* until librdkafka has asked anew, it refuses by itself */
    while (emitted() < 2) {
        worker_bed_publish(bed, "e", "after", 1);
        AWAIT_BED(bed, nothing_waits(bed));
        dead += emitted() < 2;
    }
    worker_bed_stop(bed);
    assert_true(worker_bed_logged(bed, "Topic authorization failed"));
    assert_int_equal(workspace_dead_letters(&bed->workspace, "action_failed"), dead);
}

/* The producer itself is refused, for a moment and for longer. */
static void test_producer(void **state)
{
    struct worker_bed *bed = *state;
    publish(); /* opens the test's own producer, before producers are refused */
    kafka_mock_refuse(&mock, KAFKA_INIT_PRODUCER_ID, RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED);
    start_emitting(bed, false, "");
    worker_bed_publish(bed, "e", "s", 2);
    AWAIT_BED(bed, process_log_count(&bed->worker, "Failed to acquire") > 3);
    kafka_mock_refuse(&mock, KAFKA_INIT_PRODUCER_ID, RD_KAFKA_RESP_ERR_NO_ERROR);
    AWAIT_BED(bed, emitted() == 2 && nothing_waits(bed));
    worker_bed_stop(bed);
    assert_true(process_log_count(&bed->worker, "Failed to acquire") < 20);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fetch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fetch_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_list_offsets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaderless_at_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brokers_down, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_coordinator, setup, teardown),
        cmocka_unit_test_setup_teardown(test_publish_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_publish_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_publish_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_producer, setup, teardown),
    };
    if (!redis_server_available()) {
        printf("test_kafka_faults: skipped: no redis-server\n");
        return 0;
    }
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return failed ? 1 : 0;
}
