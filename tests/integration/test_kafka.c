/* The real triggerflow-worker against a real Apache Kafka broker. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/kafka_server.h"
#include "tests/support/tcp_proxy.h"
#include "tests/support/worker_bed.h"

#define PASS "{\"name\":\"PASS\"}"
#define NEVER "{\"join\":1000000}"
#define QUICK \
    ",\"properties\":{\"topic.metadata.refresh.interval.ms\":\"300\",\"reconnect.backoff.max.ms\":\"200\"}"

static struct redis_server redis;
static struct kafka_server kafka;
static struct tcp_proxy *proxy; /* to it */
static char topic[32];          /* of this test */

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
    struct worker_bed *bed = *state;
    bool left = worker_bed_logged(bed, "librdkafka does not end");
    worker_bed_free(bed);
    return left ? -1 : 0;
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

/* --- what comes in --- */

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
    assert_true(committed(worker_bed_counter(bed, "count"), 4));
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* What the group has not heard of before a kill it hears of in the next life, though no event follows. */
static void test_group_follows(void **state)
{
    struct worker_bed *bed = *state;
    source(bed, "kafka", topic, ",\"properties\":{\"auto.commit.interval.ms\":600000}");
    create(1);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    for (unsigned i = 0; i < 20; i += 10) {
        publish("s", i, 10, 0);
        AWAIT_BED(bed, worker_bed_counter(bed, "count") == i + 10);
        AWAIT_BED(bed, i || committed(10, 1));
    }
    process_kill(&bed->worker, SIGKILL);
    assert_false(committed(20, 1));
    worker_bed_up(bed);
    AWAIT_BED(bed, committed(20, 1));
    worker_bed_stop(bed);
}

static void send_one(const struct kafka_record *record)
{
    assert_int_equal(kafka_server_publish(&kafka, topic, record, 1), 0);
}

#define BINARY "ce_specversion", "1.0", "ce_source", "urn:b", "ce_type", "t", "ce_subject", "s"
#define EMIT_OUT "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"emitted\"}}"

static void test_modes(void **state)
{
    struct worker_bed *bed = *state;
    create(1);
    worker_bed_trigger(bed, "copy", "TRUE", "{}", EMIT_OUT, "t", "s");
    worker_bed_up(bed);
    send_one(&(struct kafka_record){.value = "{\"a\":1}",
                                    .headers = {BINARY, "ce_id", "1", "content-type", "application/json"}});
    send_one(&(struct kafka_record){.value = "\xff\x01", .len = 2, .headers = {BINARY, "ce_id", "2"}});
    send_one(&(struct kafka_record){.key = "k", .headers = {BINARY, "ce_id", "3", "other", "x"}});
    send_one(&(struct kafka_record){
        .value = "{\"specversion\":\"1.0\",\"id\":\"4\",\"source\":\"u\",\"type\":\"t\",\"subject\":\"s\","
                 "\"data\":\"x\"}",
        .headers = {"content-type", "application/cloudevents+json; charset=UTF-8", "ce_id", "ignored"}});
    AWAIT_BED(bed, workspace_stream_length(&bed->workspace, "out") == 4);
    assert_string_equal(worker_bed_entry(bed, "out", 0, "data"), "{\"a\":1}");
    assert_string_equal(worker_bed_entry(bed, "out", 0, "datacontenttype"), "application/json");
    assert_string_equal(worker_bed_entry(bed, "out", 1, "data_base64"), "/wE=");
    assert_string_equal(worker_bed_entry(bed, "out", 2, "data"), "");
    assert_string_equal(worker_bed_entry(bed, "out", 3, "data"), "x");
    /* no events: a tombstone, a batch, one attribute twice, nothing of an event */
    send_one(&(struct kafka_record){.key = "k"});
    send_one(&(struct kafka_record){.value = "[]",
                                    .headers = {"content-type", "application/cloudevents-batch+json"}});
    send_one(&(struct kafka_record){.value = "x", .headers = {BINARY, "ce_id", "5", "ce_id", "6"}});
    send_one(&(struct kafka_record){.value = "{\"id\":\"7\"}"});
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "invalid_event") == 4);
    assert_true(worker_bed_logged(bed, "tombstone"));
    worker_bed_stop(bed);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 4);
}

static void test_large(void **state)
{
    struct worker_bed *bed = *state;
    static const char *const settings[] = {"max.message.bytes=12000000", NULL};
    static char text[8000000];
    assert_int_equal(kafka_server_create(&kafka, topic, 1, settings), 0);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_MAX_EVENT_BYTES=4MiB");
    for (size_t bytes = 3000000; bytes <= 6000000; bytes += 3000000) {
        size_t n = (size_t)sprintf(
            text, "{\"id\":\"1\",\"source\":\"u\",\"type\":\"t\",\"subject\":\"s\",\"data\":\"");
        memset(text + n, 'x', bytes);
        strcpy(text + n + bytes, "\"}");
        send_one(&(struct kafka_record){.value = text});
    }
    publish("s", 0, 1, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 2);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "too_large"), 1);
    worker_bed_stop(bed);
}

/* Ends of transactions and aborted records take up offsets, and are neither events nor lost. */
static void test_transactions(void **state)
{
    char text[] = "{\"id\":\"1\",\"source\":\"u\",\"type\":\"t\",\"subject\":\"s\"}";
    struct worker_bed *bed = *state;
    create(1);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    rd_kafka_t *rk = kafka_server_producer(&kafka, "transactional");
    assert_null(rd_kafka_init_transactions(rk, 20000));
    for (int i = 0; i < 4; i++) {
        assert_null(rd_kafka_begin_transaction(rk));
        assert_int_equal(rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
                                           RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                           RD_KAFKA_V_VALUE(text, strlen(text)), RD_KAFKA_V_END),
                         0);
        assert_int_equal(rd_kafka_flush(rk, 20000), 0);
        assert_null(i % 2 ? rd_kafka_abort_transaction(rk, 20000) : rd_kafka_commit_transaction(rk, 20000));
    }
    rd_kafka_destroy(rk);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 2);
    AWAIT_BED(bed, committed(8, 1)); /* the group does not lag for ever */
    process_kill(&bed->worker, SIGKILL);
    assert_int_equal(kafka_server_trim(&kafka, topic, 0, 8), 0);
    worker_bed_up(bed);
    publish("s", 0, 1, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 3);
    worker_bed_stop(bed);
    assert_false(worker_bed_logged(bed, "source_recreated"));
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* --- the topic --- */

static void test_missing_topic(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    AWAIT_BED(bed, kafka_server_partitions(&kafka, topic) == 1);
    publish("s", 0, 5, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 5);
    assert_int_equal(kafka_server_set_partitions(&kafka, topic, 3), 0);
    AWAIT_BED(bed, kafka_server_partitions(&kafka, topic) == 3);
    WAIT(kafka_server_bounds(&kafka, topic, 2, &(int64_t){0}, &(int64_t){0}) == 0);
    publish("s", 5, 6, -3);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 11);
    worker_bed_stop(bed);
}

static void test_deleted_topic(void **state)
{
    struct worker_bed *bed = *state;
    create(2);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    publish("s", 0, 10, -2);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 10);
    assert_int_equal(kafka_server_delete(&kafka, topic), 0);
    AWAIT_BED(bed, worker_bed_logged(bed, "does not exist"));
    AWAIT_BED(bed, kafka_server_partitions(&kafka, topic) == 1); /* made anew */
    AWAIT_BED(bed, worker_bed_logged(bed, "event=source_recreated"));
    publish("s", 10, 3, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 13);
    worker_bed_stop(bed);
    /* and once more while nobody looks, with more in it than was read */
    assert_int_equal(kafka_server_delete(&kafka, topic), 0);
    create(1);
    publish("s", 100, 20, 0);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 33);
    worker_bed_stop(bed);
    assert_int_equal(process_log_count(&bed->worker, "event=source_recreated"), 2);
}

static void test_stop_when_recreated(void **state)
{
    struct worker_bed *bed = *state;
    source(bed, "kafka", topic, QUICK ",\"on_recreated\":\"stop\"");
    create(1);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    publish("s", 0, 10, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 10);
    process_kill(&bed->worker, SIGKILL);
    assert_int_equal(kafka_server_delete(&kafka, topic), 0);
    create(1);
    publish("s", 0, 30, 0);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "state=failed"));
    assert_int_equal(worker_bed_counter(bed, "count"), 10);
    worker_bed_stop(bed);
}

static void test_trimmed(void **state)
{
    struct worker_bed *bed = *state;
    create(1);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    publish("s", 0, 10, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 10);
    process_kill(&bed->worker, SIGKILL);
    publish("s", 10, 10, 0);
    assert_int_equal(kafka_server_trim(&kafka, topic, 0, 17), 0);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 13);
    assert_true(worker_bed_logged(bed, "event=events_lost"));
    assert_true(worker_bed_logged(bed, "offset=10 count=7"));
    worker_bed_stop(bed);
}

/* A workspace that an original has run. */
static void test_adoption(void **state)
{
    static const struct {
        const char *from;
        int counted;
    } cases[] = {{"end", 2}, {"beginning", 12}, {"0:7", 5}, {NULL, 6}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct worker_bed *bed = *state;
        create(1);
        publish("s", 0, 10, 0);
        assert_int_equal(kafka_server_commit(&kafka, "kafka", topic, 0, 6), 0);
        worker_bed_trigger(bed, "count", "JOIN", cases[i].from ? "{\"join\":1000000,\"counter\":1}" : NEVER,
                           PASS, "t", "s");
        worker_bed_start(bed, cases[i].from ? "--adopt" : NULL, cases[i].from, NULL);
        AWAIT_BED(bed, worker_bed_running(bed) && worker_bed_logged(bed, "source=kafka state=reading"));
        publish("s", 10, 2, 0);
        AWAIT_BED(bed, worker_bed_counter(bed, "count") == cases[i].counted + (cases[i].from ? 1 : 0));
        worker_bed_stop(bed);
        teardown(state);
        setup(state);
    }
}

/* --- connections --- */

static void test_secured(void **state)
{
    static const struct {
        int listener;
        const char *auth;
        bool tls;
    } cases[] = {{KAFKA_TLS, "NONE", true},
                 {KAFKA_SASL_TLS, "SASL_PLAINTEXT", true},
                 {KAFKA_SASL_TLS, "SCRAM-SHA-512", true},
                 {KAFKA_SASL, "SCRAM-SHA-256", false}};
    struct worker_bed *bed = *state;
    char document[1024], name[64];
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    create(1);
    assert_int_equal(workspace_delete_source(&bed->workspace, "kafka"), 0);
    publish("s", 0, 3, 0);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "kafka%s%d", topic, i);
        snprintf(document, sizeof document,
                 "{\"name\":\"%s\",\"class\":\"KafkaEventSource\",\"parameters\":{\"broker_list\":[\"127.0.0."
                 "1:%d\"],"
                 "\"topic\":\"%s\",\"auth_mode\":\"%s\",\"username\":\"alice\",\"password\":\"secret\","
                 "\"tls\":%s%s%s%s}}",
                 name, kafka.port[cases[i].listener], topic, cases[i].auth, cases[i].tls ? "true" : "false",
                 cases[i].tls ? ",\"tls_ca\":\"" : "", cases[i].tls ? kafka.dir : "",
                 cases[i].tls ? "/ca.pem\"" : "");
        assert_int_equal(workspace_put_source(&bed->workspace, name, document), 0);
    }
    source(bed, "wrong", topic,
           ",\"auth_mode\":\"PLAIN\",\"username\":\"alice\",\"password\":\"hush\",\"tls\":false");
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 12);
    AWAIT_BED(bed, worker_bed_logged(bed, "source=wrong state=unavailable"));
    worker_bed_stop(bed);
    assert_false(worker_bed_logged(bed, "secret") || worker_bed_logged(bed, "hush"));
}

static void log_path(char path[200], const char *suffix)
{
    snprintf(path, 200, "%s/data/%s-0/00000000000000000000.%s", kafka.dir, topic, suffix);
}

static off_t log_bytes(void)
{
    char path[200];
    struct stat st;
    log_path(path, "log");
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

/* As the leader is after an unclean election: the log's end is gone. */
static void cut_log(off_t bytes)
{
    char path[200];
    rd_kafka_destroy(kafka.admin); /* which counts what it has written; another one is made */
    kafka.admin = NULL;
    kafka_server_kill(&kafka);
    log_path(path, "log");
    assert_int_equal(truncate(path, bytes), 0);
    log_path(path, "index");
    unlink(path);
    log_path(path, "timeindex");
    unlink(path);
    assert_int_equal(kafka_server_restart(&kafka), 0);
}

/* What is left was read, and is not read again; what is written in place of the rest is. */
static void test_truncated(void **state)
{
    struct worker_bed *bed = *state;
    create(1);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    publish("s", 0, 6, 0);
    off_t bytes = log_bytes();
    publish("s", 6, 4, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 10);
    cut_log(bytes);
    AWAIT_BED(bed, worker_bed_logged(bed, "offset=6 count=4 detail=\"the log has lost its end\""));
    publish("s", 10, 2, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 12);
    bytes = log_bytes();
    publish("s", 12, 3, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 15);
    kill(bed->worker.pid, SIGSTOP); /* once more, with others in their place when it looks */
    cut_log(bytes);
    publish("s", 15, 2, 0);
    kill(bed->worker.pid, SIGCONT);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 17);
    publish("s", 17, 1, 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 18);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "count"), 18);
    assert_int_equal(process_log_count(&bed->worker, "event=events_lost"), 2);
    assert_false(worker_bed_logged(bed, "source_recreated"));
}

static void test_broker_restarted(void **state)
{
    struct worker_bed *bed = *state;
    create(2);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    publish("s", 0, 10, -2);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 10);
    kafka_server_kill(&kafka);
    AWAIT_BED(bed, worker_bed_logged(bed, "source=kafka state=unavailable"));
    assert_int_equal(kafka_server_restart(&kafka), 0);
    publish("s", 10, 10, -2);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 20);
    worker_bed_stop(bed);
    assert_false(worker_bed_logged(bed, "source_recreated"));
}

/* --- EMIT --- */

struct seen {
    unsigned n;
    int partition[8];
    char value[8][400];
};

static void see(void *data, const rd_kafka_message_t *message)
{
    struct seen *s = data;
    if (s->n < 8 && message->payload) {
        s->partition[s->n] = message->partition;
        snprintf(s->value[s->n], sizeof s->value[0], "%.*s", (int)message->len,
                 (const char *)message->payload);
    }
    s->n++;
}

static unsigned count_in(const char *name, struct seen *ret_seen)
{
    *ret_seen = (struct seen){0};
    assert_int_equal(kafka_server_read(&kafka, name, see, ret_seen), 0);
    return ret_seen->n;
}

static void test_emit(void **state)
{
    struct worker_bed *bed = *state;
    struct seen seen;
    char missing[48];
    create(1);
    snprintf(missing, sizeof missing, "%s-emitted", topic);
    source(bed, "target", missing, ",\"consume\":false");
    worker_bed_trigger(bed, "to", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"target\",\"event\":{\"type\":\"new\"}}", "t",
                       "*");
    worker_bed_trigger(bed, "back", "JOIN", "{\"join\":3}",
                       "{\"name\":\"EMIT\",\"event_source\":\"kafka\",\"event\":{\"type\":\"back\"}}", "t",
                       "a");
    worker_bed_trigger(bed, "came", "JOIN", NEVER, PASS, "back", "a");
    worker_bed_up(bed);
    publish("a", 0, 3, 0);
    publish("b", 0, 2, 0);
    AWAIT_BED(bed, kafka_server_partitions(&kafka, missing) == 1); /* it was not there */
    AWAIT_BED(bed, count_in(missing, &seen) >= 5);
    AWAIT_BED(bed, worker_bed_counter(bed, "came") == 1);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "outbox") == 0);
    unsigned a = 0, b = 0;
    for (unsigned i = 0; i < seen.n; i++) { /* in any order: the first attempts found no topic */
        assert_non_null(strstr(seen.value[i], "\"type\":\"new\""));
        a += strstr(seen.value[i], "\"subject\":\"a\"") != NULL;
        b += strstr(seen.value[i], "\"subject\":\"b\"") != NULL;
    }
    assert_true(a == 3 && b == 2);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "came"), 1);
}

/* Gaps in the offsets are neither lost events nor another topic. */
static void test_compacted(void **state)
{
    struct worker_bed *bed = *state;
    struct seen seen;
    static const char *const settings[] = {"cleanup.policy=compact", "segment.ms=100",
                                           "min.cleanable.dirty.ratio=0.01", NULL};
    unsigned n = 0;
    assert_int_equal(kafka_server_create(&kafka, topic, 1, settings), 0);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    do { /* each has the same key, and the next one makes it superfluous */
        send_one(&(struct kafka_record){
            .key = "k", .value = "{\"id\":\"1\",\"source\":\"u\",\"type\":\"t\",\"subject\":\"s\"}"});
        if (++n == 3) {
            AWAIT_BED(bed, worker_bed_counter(bed, "count") == 3);
            process_kill(&bed->worker, SIGKILL);
        }
        assert_true(n < 500);
    } while (n < 6 || count_in(topic, &seen) > n - 4);
    worker_bed_up(bed);
    AWAIT_BED(bed, committed(n, 1));
    worker_bed_stop(bed);
    assert_true(worker_bed_counter(bed, "count") < (long long)n);
    assert_false(worker_bed_logged(bed, "events_lost") || worker_bed_logged(bed, "source_recreated"));
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* What the topic does not take is given up, and the rest goes on. */
static void test_emit_too_large(void **state)
{
    struct worker_bed *bed = *state;
    struct seen seen;
    static const char *const settings[] = {"max.message.bytes=20000", NULL};
    static char text[60000];
    char small[48];
    create(1);
    snprintf(small, sizeof small, "%s-small", topic);
    assert_int_equal(kafka_server_create(&kafka, small, 1, settings), 0);
    source(bed, "target", small, ",\"consume\":false");
    worker_bed_trigger(bed, "to", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"target\",\"event\":{\"type\":\"new\"}}", "t",
                       "*");
    worker_bed_up(bed);
    size_t n =
        (size_t)sprintf(text, "{\"id\":\"1\",\"source\":\"u\",\"type\":\"t\",\"subject\":\"s\",\"data\":\"");
    memset(text + n, 'x', 50000);
    strcpy(text + n + 50000, "\"}");
    send_one(&(struct kafka_record){.value = text});
    publish("b", 0, 2, 0);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "action_failed") == 1);
    AWAIT_BED(bed, count_in(small, &seen) == 2);
    assert_true(worker_bed_logged(bed, "size too large"));
    worker_bed_stop(bed);
}

#define EMITTED 2000
#define CUTS 10

static void see_number(void *data, const rd_kafka_message_t *message)
{
    bool *seen = data;
    char text[400];
    unsigned n;
    snprintf(text, sizeof text, "%.*s", (int)message->len, (const char *)message->payload);
    const char *subject = strstr(text, "\"subject\":\"n");
    if (subject && sscanf(subject, "\"subject\":\"n%u", &n) == 1 && n < EMITTED)
        seen[n] = true;
}

/* One event for each subject, so that each is seen again in what is emitted. */
static void publish_numbers(unsigned from, unsigned to)
{
    static char text[EMITTED / CUTS][128];
    struct kafka_record records[EMITTED / CUTS] = {0};
    for (unsigned i = from; i < to; i++) {
        snprintf(text[i - from], sizeof text[0],
                 "{\"id\":\"%u\",\"source\":\"u\",\"type\":\"t\",\"subject\":\"n%u\"}", i, i);
        records[i - from].value = text[i - from];
    }
    assert_int_equal(kafka_server_publish(&kafka, topic, records, to - from), 0);
}

/* The connection is cut again and again, and held, while events are on their way: all of them arrive. */
static void test_emit_through_cuts(void **state)
{
    struct worker_bed *bed = *state;
    static bool seen[EMITTED];
    char target[48], document[512];
    int64_t low, high, before = 0;
    create(1);
    snprintf(target, sizeof target, "%s-cut", topic);
    assert_int_equal(kafka_server_create(&kafka, target, 3, NULL), 0);
    snprintf(document, sizeof document,
             "{\"name\":\"target\",\"class\":\"KafkaEventSource\",\"parameters\":{"
             "\"broker_list\":\"127.0.0.1:%d\",\"topic\":\"%s\",\"consume\":false,"
             "\"properties\":{\"reconnect.backoff.max.ms\":100}}}",
             tcp_proxy_port(proxy), target);
    assert_int_equal(workspace_put_source(&bed->workspace, "target", document), 0);
    worker_bed_trigger(bed, "to", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"target\",\"event\":{\"type\":\"new\"}}", "t",
                       "*");
    worker_bed_up(bed);
    for (unsigned i = 0; i < CUTS; i++) {
        publish_numbers(EMITTED / CUTS / 2 * 2 * i, EMITTED / CUTS / 2 * (2 * i + 1));
        AWAIT_BED(bed, kafka_server_bounds(&kafka, target, 0, &low, &high) == 0 && high > before);
        before = high;
        if (i % 7 == 3)
            tcp_proxy_truncate(proxy, 2000);
        else
            tcp_proxy_cut(proxy);
        tcp_proxy_set(proxy, i % 7 == 5 ? TCP_PROXY_HOLD : TCP_PROXY_PASS);
        publish_numbers(EMITTED / CUTS / 2 * (2 * i + 1), EMITTED / CUTS / 2 * (2 * i + 2));
        tcp_proxy_cut(proxy);
        tcp_proxy_reset(proxy);
    }
    tcp_proxy_reset(proxy);
    AWAIT_BED(bed, committed(EMITTED, 1) && workspace_count(&bed->workspace, "outbox") == 0);
    assert_int_equal(kafka_server_read(&kafka, target, see_number, seen), 0);
    for (unsigned i = 0; i < EMITTED; i++)
        assert_true(seen[i]);
    worker_bed_stop(bed);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        /* first: a broker that was killed looks through all topics that there are */
        cmocka_unit_test_setup_teardown(test_broker_restarted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_truncated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_consume, setup, teardown),
        cmocka_unit_test_setup_teardown(test_group_follows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_transactions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_topic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deleted_topic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_when_recreated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_trimmed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adoption, setup, teardown),
        cmocka_unit_test_setup_teardown(test_secured, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compacted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_emit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_emit_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_emit_through_cuts, setup, teardown),
    };
    const char *why = "no redis-server";
    if (!redis_server_available() || !kafka_server_available(&why)) {
        printf("test_kafka: skipped: %s\n", why);
        return 0;
    }
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = tcp_proxy_new(&proxy) < 0 || kafka_server_run(&kafka, tcp_proxy_port(proxy)) < 0;
    if (!failed) {
        tcp_proxy_target(proxy, kafka.port[KAFKA_PROXIED]);
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    tcp_proxy_free(proxy);
    kafka_server_done(&kafka);
    redis_server_done(&redis);
    return failed ? 1 : 0;
}
