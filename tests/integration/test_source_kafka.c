/* KafkaEventSource passes the conformance test for event sources, against a real Apache Kafka broker: with
 * one partition, in order; and with several, in which events have an order only with the same subject. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "tests/support/kafka_server.h"
#include "tests/support/source_conformance.h"
#include "tests/support/source_driver.h"

#define PARTITIONS 5
#define AT_ONCE 1000
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define PERCENT 50
#else
#define PERCENT 100
#endif

static struct kafka_server server;

static int start(int proxy_port, int *ret_port)
{
    const char *why;
    if (!kafka_server_available(&why)) {
        printf("skipped: %s\n", why);
        return 1;
    }
    if (kafka_server_run(&server, proxy_port) < 0)
        return -1;
    *ret_port = server.port[KAFKA_PROXIED];
    return 0;
}

static void stop(void)
{
    kafka_server_done(&server);
}

/* Room for an event with 1 MiB of data. */
static const char *const settings[] = {"max.message.bytes=4000000", NULL};

static int fresh(const struct source_queue *queue)
{
    return kafka_server_create(&server, queue->name, PARTITIONS, settings);
}

static void document(const struct source_queue *queue, struct buffer *out)
{
    buffer_printf(out,
                  "\"class\":\"KafkaEventSource\",\"parameters\":{\"broker_list\":[\"127.0.0.1:%d\"],"
                  "\"topic\":\"%s\",\"properties\":{\"socket.timeout.ms\":4000,"
                  "\"reconnect.backoff.max.ms\":200,\"auto.commit.interval.ms\":20}}",
                  queue->port, queue->name);
}

static int publish(const struct source_queue *queue, const struct source_event *events, size_t n)
{
    static struct kafka_record records[AT_ONCE];
    for (size_t i = 0; i < n; i++) {
        records[i % AT_ONCE] = (struct kafka_record){
            .partition = -1, .key = events[i].subject, .value = events[i].body, .len = events[i].body_len};
        if ((i % AT_ONCE == AT_ONCE - 1 || i == n - 1) &&
            kafka_server_publish(&server, queue->name, records, i % AT_ONCE + 1) < 0)
            return -1;
    }
    return 0;
}

static int publish_undecodable(const struct source_queue *queue)
{
    static const struct kafka_record record = {.partition = 0, .value = "\xff\0\x01", .len = 3};
    return kafka_server_publish(&server, queue->name, &record, 1);
}

static int server_kill(void)
{
    kafka_server_kill(&server);
    return 0;
}

static int server_start(void)
{
    return kafka_server_restart(&server);
}

/* What the group lags behind. */
static long long lag(const struct source_queue *queue)
{
    long long sum = 0;
    int n = kafka_server_partitions(&server, queue->name);
    for (int i = 0; i < n; i++) {
        int64_t low, high;
        if (kafka_server_bounds(&server, queue->name, i, &low, &high) < 0)
            return -1;
        int64_t committed = high > 0 ? kafka_server_committed(&server, "in", queue->name, i) : 0;
        sum += high - (committed > 0 ? committed : 0);
    }
    return n > 0 ? sum : -1;
}

static const char *const crash_points[] = {"delivered", NULL};

static const struct source_driver driver = {
    .name = "kafka",
    .ordered = true,
    .percent = PERCENT,
    .events = 1000 * PERCENT,
    .crash_points = crash_points,
    .start = start,
    .stop = stop,
    .fresh = fresh,
    .document = document,
    .publish = publish,
    .publish_undecodable = publish_undecodable,
    .server_kill = server_kill,
    .server_start = server_start,
    .unacknowledged = lag,
};

int main(int argc, char **argv)
{
    return source_conformance(&driver, argc, argv);
}
