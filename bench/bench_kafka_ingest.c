/* Reading a Kafka topic: 200 joins over 200,000 JSON events of 300 B in 16 partitions that are there already,
 * from the moment that the partitions are read until the last join has fired in a committed checkpoint,
 * against the floor: a process that takes the same topic's messages off librdkafka's queue
 * (rd_kafka_consume_batch_queue) and drops them. Its settings are the worker's, but for the bounds of the
 * queue, which would halt it now and then (kafka_flow.h): with librdkafka's own settings it is slower, since
 * answers of 16 MB are fetched one after the other. Also what the idle worker costs.
 *
 * From librdkafka's mock broker, whose one thread costs little; and from Apache Kafka, when the tests have
 * it, whose JVM shares the cores with both. With BENCH_FULL also the worker's peak memory over 2,000,000
 * events. */
#include "bench/ingest.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "common/json.h"
#include "tests/support/kafka_server.h"
#include "worker/source/kafka_parameters.h"

#define EVENTS 200000
#define MANY 2000000
#define PARTITIONS 16
#define EVENT_BYTES 300
#define TARGET_RATIO 0.70
#define TOPIC "ingest"

/* ---- the floor, in a process of its own ---- */

static void quiet(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk, (void)level, (void)facility, (void)text;
}

static rd_kafka_t *floor_consumer(const char *brokers)
{
    char text[512], why[200];
    struct json_value json;
    struct kafka_parameters parameters;
    struct error err;
    rd_kafka_conf_t *conf;
    snprintf(text, sizeof text,
             "{\"broker_list\":\"%s\",\"topic\":\"" TOPIC "\",\"properties\":{"
             "\"queued.min.messages\":100000,\"queued.max.messages.kbytes\":65536}}",
             brokers);
    if (json_scan(text, strlen(text), &json, &err) < 0 ||
        kafka_parameters_read(&json, &parameters, &err) < 0 ||
        kafka_parameters_consumer(&parameters, "floor", "floor", &conf, &err) < 0)
        bench_fail("%s", err.message);
    kafka_parameters_done(&parameters);
    rd_kafka_conf_set_log_cb(conf, quiet);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!rk)
        bench_fail("%s", why);
    rd_kafka_poll_set_consumer(rk);
    return rk;
}

static void take_all(rd_kafka_queue_t *queue, size_t events)
{
    enum { BATCH = 1000 };
    static rd_kafka_message_t *messages[BATCH];
    static const uint64_t one = 1;
    uint64_t count;
    size_t n = 0;
    struct pollfd poll_fd = {.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .events = POLLIN};
    rd_kafka_queue_io_event_enable(queue, poll_fd.fd, &one, sizeof one);
    while (n < events) {
        ssize_t got = rd_kafka_consume_batch_queue(queue, 0, messages, BATCH);
        for (ssize_t i = 0; i < got; i++) {
            n += !messages[i]->err;
            rd_kafka_message_destroy(messages[i]);
        }
        if (got <= 0 && poll(&poll_fd, 1, 1000) > 0 && read(poll_fd.fd, &count, sizeof count) < 0)
            bench_fail("eventfd");
    }
}

/* Prints the seconds. */
static void floor_main(int argc, char **argv)
{
    if (argc != 4 || strcmp(argv[1], "--floor") != 0)
        return;
    rd_kafka_t *rk = floor_consumer(argv[2]);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);
    const struct rd_kafka_metadata *metadata;
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
    if (rd_kafka_metadata(rk, 1, NULL, &metadata, 10000))
        exit(1);
    rd_kafka_metadata_destroy(metadata);
    for (int i = 0; i < PARTITIONS; i++)
        rd_kafka_topic_partition_list_add(list, TOPIC, i)->offset = 0;
    uint64_t start = clock_now_ns();
    rd_kafka_assign(rk, list);
    take_all(queue, strtoul(argv[3], NULL, 10));
    printf("%f\n", bench_seconds(start, clock_now_ns()));
    fflush(stdout);
    _exit(0);
}

static double read_bare(const char *brokers, size_t events)
{
    char command[128], line[64] = "";
    snprintf(command, sizeof command, "/proc/%d/exe --floor %s %zu", (int)getpid(), brokers, events);
    FILE *pipe = popen(command, "r");
    if (!pipe || !fgets(line, sizeof line, pipe) || pclose(pipe))
        bench_fail("the floor has failed");
    return strtod(line, NULL);
}

/* ---- events ---- */

static void load(const char *brokers, size_t events)
{
    char time[CLOCK_ISO_MAX], text[EVENT_BYTES + 1], why[200];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", brokers, NULL, 0);
    rd_kafka_conf_set(conf, "linger.ms", "20", NULL, 0);
    rd_kafka_conf_set(conf, "queue.buffering.max.messages", "100000", NULL, 0);
    rd_kafka_conf_set_log_cb(conf, quiet);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    clock_iso(clock_unix_ns(), time);
    for (size_t i = 0; rk && i < events; i++) {
        int n = snprintf(text, sizeof text,
                         "{\"specversion\":\"1.0\",\"id\":\"%032zx\",\"source\":\"urn:vm:%032zx\",\"type\":"
                         "\"" BENCH_EVENT_TYPE "\",\"subject\":\"join%zu\",\"time\":\"%s\",\"data\":\"",
                         i * 2654435761u, i, i % JOINS, time);
        for (; n < EVENT_BYTES - 2; n++)
            text[n] = 'x';
        memcpy(text + n, "\"}", 3);
        while (rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(TOPIC), RD_KAFKA_V_PARTITION((int)(i % PARTITIONS)),
                                 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                 RD_KAFKA_V_VALUE(text, EVENT_BYTES), RD_KAFKA_V_END))
            rd_kafka_poll(rk, 10);
    }
    if (!rk || rd_kafka_flush(rk, 60000))
        bench_fail("publishing has failed");
    rd_kafka_destroy(rk);
}

/* ---- the worker ---- */

static void store(struct bench *b, const char *brokers, size_t events)
{
    static unsigned n; /* a group that has committed nothing yet */
    char json[512];
    ingest_store(b, events);
    snprintf(json, sizeof json,
             "{\"name\":\"topic%u\",\"class\":\"KafkaEventSource\",\"parameters\":{\"broker_list\":[\"%s\"],"
             "\"topic\":\"" TOPIC "\",\"auth_mode\":\"NONE\"}}",
             n, brokers);
    bench_do(b, "HSET ingest-event_sources topic%u %s", n++, json);
}

/* The topic keeps everything: the worker is idle once it has committed. */
static long long nothing_left(void *data)
{
    (void)data;
    return 0;
}

static void report(struct bench *b, const char *broker, const char *brokers, size_t events)
{
    struct ingest_figures f = {0};
    while (f.n < bench_runs()) {
        double floor_seconds = read_bare(brokers, events);
        store(b, brokers, events);
        struct ingest_result r = ingest_run(b, events, nothing_left, NULL);
        floor_seconds = (floor_seconds + read_bare(brokers, events)) / 2;
        ingest_add(&f, &r, events, r.seconds, floor_seconds);
    }
    printf("bench kafka_ingest broker=%s events=%zu partitions=%d joins=%d", broker, events, PARTITIONS,
           JOINS);
    ingest_print(&f, TARGET_RATIO, true);
    printf("\n");
}

static void with_mock(struct bench *b)
{
    char why[200];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, quiet);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    rd_kafka_mock_cluster_t *mock = rk ? rd_kafka_mock_cluster_new(rk, 1) : NULL;
    if (!mock || rd_kafka_mock_topic_create(mock, TOPIC, PARTITIONS, 1))
        bench_fail("no mock broker");
    const char *brokers = rd_kafka_mock_cluster_bootstraps(mock);
    load(brokers, EVENTS);
    report(b, "mock", brokers, EVENTS);
    rd_kafka_mock_cluster_destroy(mock);
    rd_kafka_destroy(rk);
}

static struct kafka_server kafka;

static void end_kafka(void)
{
    kafka_server_done(&kafka);
}

static void with_kafka(struct bench *b)
{
    const char *why;
    if (!kafka_server_available(&why)) {
        printf("bench kafka_ingest broker=kafka skipped: %s\n", why);
        return;
    }
    atexit(end_kafka);
    if (kafka_server_run(&kafka, 0) < 0 || kafka_server_create(&kafka, TOPIC, PARTITIONS, NULL) < 0)
        bench_fail("the broker does not start");
    load(kafka.brokers, EVENTS);
    report(b, "kafka", kafka.brokers, EVENTS);
    if (!getenv("BENCH_FULL"))
        return;
    load(kafka.brokers, MANY - EVENTS);
    report(b, "kafka", kafka.brokers, MANY);
}

int main(int argc, char **argv)
{
    static struct bench b;
    bench_worker_main(argc, argv);
    floor_main(argc, argv);
    bench_open(&b, "kafka_ingest", NULL);
    with_mock(&b);
    with_kafka(&b);
    return 0;
}
