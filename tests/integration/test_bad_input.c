/* Input and surroundings that are wrong: each is told of in the log, disturbs nothing else in the workspace,
 * and costs no event. */
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

#include "tests/support/supervisor_bed.h"
#include "tests/support/worker_bed.h"

#define PASS "{\"name\":\"PASS\"}"
#define EMIT_OUT "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"emitted\"}}"
#define NEVER "{\"join\":1000000}"
#define ACTIVATION "\"activation_events\":[{\"type\":\"t\",\"subject\":\"bad\"}]"

static struct redis_server redis;

static int setup(void **state)
{
    *state = worker_bed_new(&redis);
    return 0;
}

static int teardown(void **state)
{
    worker_bed_free(*state);
    return 0;
}

/* One Redis command that must work; its integer. */
static long long command_at(struct redis_server *server, const char *line)
{
    redisReply *reply = redis_server_do(server, line);
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s: %s", line, reply->str);
    long long n = reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0;
    freeReplyObject(reply);
    return n;
}

static long long command(const char *line)
{
    return command_at(&redis, line);
}

static void good_trigger(const struct worker_bed *bed)
{
    worker_bed_trigger(bed, "good", "JOIN", NEVER, PASS, "t", "good");
}

/* The good trigger has counted so many, and the worker stops as it should. */
static void expect_good(struct worker_bed *bed, long long n)
{
    AWAIT_BED(bed, worker_bed_counter(bed, "good") == n);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "good"), n);
}

static void expect_logged(const struct worker_bed *bed, const char *text)
{
    WAIT_ELSE(worker_bed_logged(bed, text),
              (fprintf(stderr, "not logged: %s\n", text), worker_bed_show(bed)));
}

/* --- triggers and event sources --- */

static void test_broken_triggers(void **state)
{
    struct worker_bed *bed = *state;
    static const struct {
        const char *id, *document, *logged;
    } broken[] = {
        {"condition", "{\"condition\":{\"name\":\"FOO\"},\"action\":" PASS "," ACTIVATION "}",
         "unknown condition FOO"},
        {"action", "{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"BAR\"}," ACTIVATION "}",
         "unknown action BAR"},
        {"callable", "{\"condition\":{\"name\":\"TRUE\",\"callable\":\"x\"},\"action\":{}," ACTIVATION "}",
         "action: member name is missing"},
        {"json", "{\"condition\":", "\\\"id\\\":\\\"json\\\""},
        {"empty", "", "\\\"id\\\":\\\"empty\\\""},
        {"array", "[]", "is an array, not an object"},
        {"join",
         "{\"condition\":{\"name\":\"JOIN\"},\"action\":" PASS ",\"context\":{\"join\":\"three\"}," ACTIVATION
         "}",
         "context.join is "},
        {"nojoin", "{\"condition\":{\"name\":\"JOIN\"},\"action\":" PASS ",\"context\":{}," ACTIVATION "}",
         "context.join is missing"},
        {"counter",
         "{\"condition\":{\"name\":\"JOIN\"},\"action\":" PASS
         ",\"context\":{\"join\":1,\"counter\":-1}," ACTIVATION "}",
         "context.counter is -1, below zero"},
        {"context", "{\"condition\":{\"name\":\"TRUE\"},\"action\":" PASS ",\"context\":7," ACTIVATION "}",
         "member context is 7, not an object"},
        {"events", "{\"condition\":{\"name\":\"TRUE\"},\"action\":" PASS ",\"activation_events\":{}}",
         "member activation_events is {}, not an array"},
        {"event",
         "{\"condition\":{\"name\":\"TRUE\"},\"action\":" PASS ",\"activation_events\":[{\"type\":5}]}",
         "member type is 5, not a string"},
        {"transient",
         "{\"condition\":{\"name\":\"TRUE\"},\"action\":" PASS ",\"transient\":\"yes\"," ACTIVATION "}",
         "member transient is "},
        {"emit",
         "{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"EMIT\",\"event\":{}}," ACTIVATION "}",
         "event.type is missing"},
        {"emit2", "{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"EMIT\"}," ACTIVATION "}",
         "member event is missing"},
    };
    good_trigger(bed);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        assert_int_equal(workspace_put_trigger(&bed->workspace, broken[i].id, broken[i].document), 0);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "good", 5);
    worker_bed_publish(bed, "t", "bad", 2);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        expect_logged(bed, broken[i].logged);
    worker_bed_settle(bed);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "no_trigger"), 2);
    /* A broken one that is mended works. */
    worker_bed_trigger(bed, "json", "JOIN", NEVER, PASS, "t", "bad");
    worker_bed_publish(bed, "t", "bad", 3);
    worker_bed_publish(bed, "t", "good", 5);
    AWAIT_BED(bed, worker_bed_counter(bed, "json") == 3);
    expect_good(bed, 10);
    char *stored = workspace_get(&bed->workspace, "triggers", "condition");
    assert_non_null(stored); /* left as it was */
    assert_string_equal(stored, broken[0].document);
    free(stored);
}

static void test_broken_sources(void **state)
{
    struct worker_bed *bed = *state;
    static const struct {
        const char *name, *document, *logged;
    } broken[] = {
        {"b1", "{\"name\":\"b1\",", "\\\"name\\\":\\\"b1\\\""},
        {"b2", "[]", "is an array, not an object"},
        {"b3", "{\"class\":\"FooEventSource\",\"parameters\":{}}", "unknown class FooEventSource"},
        {"b4", "{\"class\":\"RedisEventSource\"}", "member parameters is missing"},
        {"b5",
         "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"port\":\"x\",\"stream\":\"s\"}}",
         "port"},
        {"b6", "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"port\":1}}", "stream"},
        {"b7", "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":true,\"port\":1,\"stream\":\"s\"}}",
         "host"},
        {"b8",
         "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"port\":1,\"stream\":\"s\","
         "\"consume\":3}}",
         "parameter consume is 3, not true or false"},
        {"b9", "{\"class\":\"InternalEventSource\",\"parameters\":{}}", "unknown class InternalEventSource"},
    };
    good_trigger(bed);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        assert_int_equal(workspace_put_source(&bed->workspace, broken[i].name, broken[i].document), 0);
    freeReplyObject(
        redis_server_do(&redis, "HSET ws-event_sources %b %s", "n\0x", (size_t)3, broken[0].document));
    freeReplyObject(redis_server_do(&redis, "HSET ws-triggers %b %s", "t\0x", (size_t)3, broken[0].document));
    worker_bed_up(bed);
    expect_logged(bed, "its name is not UTF-8");
    worker_bed_publish(bed, "t", "good", 5);
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        char name[32];
        snprintf(name, sizeof name, "\\\"name\\\":\\\"%s\\\"", broken[i].name);
        expect_logged(bed, name);
        expect_logged(bed, broken[i].logged);
    }
    expect_good(bed, 5);
}

static void test_stream_of_wrong_type(void **state)
{
    struct worker_bed *bed = *state;
    good_trigger(bed);
    command("SET wrong text");
    assert_int_equal(workspace_source(&bed->workspace, "wrong", "wrong", ""), 0);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "good", 5);
    expect_logged(bed, "WRONGTYPE");
    AWAIT_BED(bed, worker_bed_counter(bed, "good") == 5);
    command("DEL wrong");
    assert_int_equal(workspace_publish_one(&bed->workspace, "wrong", "1", "t", "good", NULL), 0);
    expect_good(bed, 6);
}

static void test_source_without_server(void **state)
{
    struct worker_bed *bed = *state;
    good_trigger(bed);
    assert_int_equal(
        workspace_put_source(&bed->workspace, "away",
                             "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\","
                             "\"port\":1,\"password\":null,\"stream\":\"s\"}}"),
        0);
    assert_int_equal(workspace_put_source(&bed->workspace, "uncertified",
                                          "{\"class\":\"KafkaEventSource\",\"parameters\":{\"broker_list\":"
                                          "\"127.0.0.1:1\",\"topic\":\"t\",\"tls\":true,"
                                          "\"tls_ca\":\"/no/such/file\"}}"),
                     0);
    char document[256];
    snprintf(
        document, sizeof document,
        "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,\"tls\":true,"
        "\"tls_ca\":\"/no/such/ca\",\"stream\":\"s\"}}",
        redis.port);
    assert_int_equal(workspace_put_source(&bed->workspace, "untrusting", document), 0);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "good", 5);
    expect_logged(bed, "source=away state=unavailable");
    expect_logged(bed, "TLS: /no/such/ca: No such file or directory");
    expect_logged(bed, "parameter tls_ca: /no/such/file: No such file");
    expect_good(bed, 5);
}

static void test_sink_of_wrong_type(void **state)
{
    struct worker_bed *bed = *state;
    good_trigger(bed);
    worker_bed_trigger(bed, "emit", "TRUE", "{}", EMIT_OUT, "t", "emit");
    command("SET out text");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "emit", 3);
    worker_bed_publish(bed, "t", "good", 5);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "action_failed") == 3);
    expect_logged(bed, "WRONGTYPE");
    expect_good(bed, 5);
}

/* The document of an event source that stands in an action is shown nowhere: it has the password. */
static void test_sink_in_an_action(void **state)
{
    static const char *const classes[][2] = {
        {"Redis", "\"host\":\"127.0.0.1\",\"port\":1,\"stream\":\"x\",\"password\":\"hush\""},
        {"Kafka",
         "\"broker_list\":\"127.0.0.1:1\",\"topic\":\"x\",\"auth_mode\":\"PLAIN\",\"username\":\"u\","
         "\"password\":\"hush\""},
        {"RabbitMQ", "\"amqp_url\":\"amqp://u:hush@127.0.0.1:1/\",\"queue\":\"x\""},
        {"SQS",
         "\"endpoint\":\"http://127.0.0.1:1\",\"queue\":\"x\",\"region\":\"r\",\"access_key_id\":\"a\","
         "\"secret_access_key\":\"hush\""},
    };
    struct worker_bed *bed = *state;
    good_trigger(bed);
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        char action[400];
        snprintf(
            action, sizeof action,
            "{\"name\":\"EMIT\",\"event\":{\"type\":\"e\"},\"event_source\":{\"class\":\"%sEventSource\","
            "\"parameters\":{%s}}}",
            classes[i][0], classes[i][1]);
        worker_bed_trigger(bed, classes[i][0], "TRUE", "{}", action, "t", "emit");
    }
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "emit", 1);
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        char line[96];
        snprintf(line, sizeof line, "event=publish source=\"(%sEventSource in an action)\"", classes[i][0]);
        expect_logged(bed, line);
    }
    worker_bed_publish(bed, "t", "good", 1);
    AWAIT_BED(bed, worker_bed_counter(bed, "good") == 1);
    process_kill(&bed->worker, SIGKILL);
    assert_false(worker_bed_logged(bed, "hush"));
}

static void test_sink_without_server(void **state)
{
    struct worker_bed *bed = *state;
    struct redis_server other;
    char document[256];
    assert_int_equal(redis_server_run(&other, NULL), 0);
    redis_server_kill(&other);
    good_trigger(bed);
    worker_bed_trigger(bed, "emit", "TRUE", "{}", EMIT_OUT, "t", "emit");
    snprintf(document, sizeof document,
             "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,\"stream\":"
             "\"out\","
             "\"consume\":false}}",
             other.port);
    assert_int_equal(workspace_put_source(&bed->workspace, "out", document), 0);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "emit", 300);
    worker_bed_publish(bed, "t", "good", 5);
    AWAIT_BED(bed, worker_bed_counter(bed, "good") == 5);
    expect_logged(bed, "event=publish source=out");
    process_kill(&bed->worker, SIGKILL);
    worker_bed_up(bed);
    assert_int_equal(redis_server_restart(&other), 0);
    AWAIT_BED(bed, command_at(&other, "XLEN out") >= 300);
    expect_good(bed, 5);
    assert_int_equal(workspace_count(&bed->workspace, "outbox"), 0);
    redis_server_done(&other);
}

/* --- events --- */

static void test_bad_events(void **state)
{
    struct worker_bed *bed = *state;
    static const char bytes[] = "\xff\xfe";
    static const struct {
        const char *line, *logged;
    } bad[] = {
        {"XADD in * source s type t subject good", "attribute id is missing"},
        {"XADD in * id 1 type t subject good", "attribute source is missing"},
        {"XADD in * id 1 source s subject good", "attribute type is missing"},
        {"XADD in * nonsense 1", "is missing"},
        {"XADD in * id 1 id 2 source s type t subject good", "id"},
        {"XADD in * id 1 source s type t subject good specversion 9.9", "specversion"},
        {"XADD in * id 1 source s type t subject good data_base64 ???", "data_base64"},
        {"XADD in * id 1 source s type t subject good data 1 data_base64 QQ==", "data"},
    };
    char *data = malloc(3000);
    assert_non_null(data);
    memset(data, 'x', 2999);
    data[2999] = '\0';
    good_trigger(bed);
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_MAX_EVENT_BYTES=2KiB");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        worker_bed_publish(bed, "t", "good", 1);
        command(bad[i].line);
    }
    assert_int_equal(workspace_publish_one(&bed->workspace, "in", "1", "t", "good", bytes), 0);
    assert_int_equal(workspace_publish_one(&bed->workspace, "in", "1", "t", "good", data), 0);
    worker_bed_publish(bed, "t", "good", 1);
    worker_bed_publish(bed, "unwanted", "x", 1);
    worker_bed_settle(bed);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect_logged(bed, bad[i].logged);
    expect_logged(bed, "more than max_event_bytes (2048)");
    expect_logged(bed, "not UTF-8");
    assert_int_equal(workspace_dead_letters(&bed->workspace, "invalid_event"),
                     sizeof bad / sizeof bad[0] + 1);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "too_large"), 1);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "no_trigger"), 1);
    /* They are kept whole. */
    redisReply *letters = redis_server_do(&redis, "HVALS ws-dead_letters");
    assert_non_null(letters);
    bool whole = false;
    bool large = false;
    for (size_t i = 0; i < letters->elements; i++) {
        whole |= strstr(letters->element[i]->str, "[[\"nonsense\",\"1\"]]") != NULL;
        large |= strstr(letters->element[i]->str, data) != NULL;
    }
    freeReplyObject(letters);
    assert_true(whole);
    assert_true(large);
    expect_good(bed, sizeof bad / sizeof bad[0] + 1);
    free(data);
}

/* Data nested as deeply as data may be are inside of other documents when they are stored: a trigger's
 * context, an event of the workflow. Those are read again by the next worker. */
static void test_deep_data(void **state)
{
    enum { DEPTH = 255 };
    struct worker_bed *bed = *state;
    char data[2 * DEPTH + 1] = "";
    memset(data, '[', DEPTH);
    memset(data + DEPTH, ']', DEPTH);
    good_trigger(bed);
    worker_bed_trigger(bed, "join", "DAG_TASK_JOIN", "{\"dependencies\":{\"a\":{\"join\":2,\"counter\":0}}}",
                       EMIT_OUT, "t", "a");
    worker_bed_trigger(bed, "pass", "AWS_ASF_CONDITION",
                       "{\"Subject\":\"P\",\"State\":{\"Type\":\"Pass\",\"ResultPath\":\"$\"}}",
                       "{\"name\":\"AWS_ASF_PASS\"}", "t", "pass");
    worker_bed_trigger(bed, "passed", "DAG_TASK_JOIN",
                       "{\"dependencies\":{\"P\":{\"join\":2,\"counter\":0}}}", EMIT_OUT, "lambda.success",
                       "P");
    for (int i = 0; i < 2; i++) {
        char id[32];
        worker_bed_up(bed);
        snprintf(id, sizeof id, "deep-%d", i);
        assert_int_equal(workspace_publish_one(&bed->workspace, "in", id, "t", "a", data), 0);
        snprintf(id, sizeof id, "deep-pass-%d", i);
        assert_int_equal(workspace_publish_one(&bed->workspace, "in", id, "t", "pass", data), 0);
        worker_bed_publish(bed, "t", "good", 1);
        expect_good(bed, i + 1);
        assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 2 * i);
        assert_false(worker_bed_logged(bed, "broken_triggers"));
    }
}

/* --- the storage --- */

static void test_storage_absent_at_start(void **state)
{
    struct redis_server own;
    (void)state;
    assert_int_equal(redis_server_run(&own, (const char *[]){"--appendonly", "yes", NULL}), 0);
    struct worker_bed *bed = worker_bed_new(&own);
    good_trigger(bed);
    worker_bed_publish(bed, "t", "good", 5);
    redis_server_stop(&own);
    worker_bed_start(bed, NULL, NULL, NULL);
    expect_logged(bed, "event=storage error=");
    assert_int_equal(redis_server_restart(&own), 0);
    expect_good(bed, 5);
    worker_bed_free(bed);
    redis_server_done(&own);
}

/* The test's own connection stays authenticated. */
static void set_password(const char *password)
{
    redisReply *reply = redis_server_do(&redis, "CONFIG SET requirepass %s", password);
    assert_non_null(reply);
    assert_int_equal(reply->type, REDIS_REPLY_STATUS);
    freeReplyObject(reply);
}

static void test_storage_refuses_password(void **state)
{
    struct worker_bed *bed = *state;
    good_trigger(bed);
    worker_bed_publish(bed, "t", "good", 5);
    set_password("secret-word");
    worker_bed_start(bed, NULL, NULL, "REDIS_PASSWORD=wrong-word");
    expect_logged(bed, "WRONGPASS");
    set_password("wrong-word");
    AWAIT_BED(bed, worker_bed_running(bed));
    /* The event source has no password of its own, and is refused. */
    expect_logged(bed, "NOAUTH");
    set_password("");
    AWAIT_BED(bed, worker_bed_counter(bed, "good") == 5);
    worker_bed_stop(bed);
    assert_false(worker_bed_logged(bed, "wrong-word"));
}

/* Events come from one server, the state goes to another one, which refuses writes for a while. */
static void storage_that_refuses(struct worker_bed *bed, const char *const *refuse, const char *const *allow,
                                 const char *logged)
{
    struct redis_server broker;
    assert_int_equal(redis_server_run(&broker, NULL), 0);
    struct workspace there = bed->workspace;
    there.redis = &broker;
    char document[256];
    good_trigger(bed);
    worker_bed_trigger(bed, "inner", "TRUE", "{}", "{\"name\":\"EMIT\",\"event\":{\"type\":\"inner\"}}", "t",
                       "good");
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "inner", "good");
    snprintf(document, sizeof document,
             "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,\"stream\":"
             "\"in\"}}",
             broker.port);
    assert_int_equal(workspace_put_source(&bed->workspace, "in", document), 0);
    worker_bed_up(bed);
    assert_int_equal(workspace_publish_one(&there, "in", "1", "t", "good", NULL), 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "good") == 1);
    for (; *refuse; refuse++)
        command(*refuse);
    for (int i = 0; i < 100; i++)
        assert_int_equal(workspace_publish_one(&there, "in", "2", "t", "good", NULL), 0);
    expect_logged(bed, logged);
    assert_int_equal(worker_bed_counter(bed, "good"), 1);
    for (; *allow; allow++)
        command(*allow);
    AWAIT_BED(bed, worker_bed_counter(bed, "good") == 101 && worker_bed_counter(bed, "count") == 101);
    for (const char *const *again = allow; *again; again++)
        command(*again);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "count"), 101);
    redis_server_done(&broker);
}

static void test_storage_read_only(void **state)
{
    static const char *const refuse[] = {"REPLICAOF 127.0.0.1 1", NULL};
    static const char *const allow[] = {"REPLICAOF NO ONE", NULL};
    storage_that_refuses(*state, refuse, allow, "READONLY");
}

static void test_storage_out_of_memory(void **state)
{
    static const char *const refuse[] = {"CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1",
                                         NULL};
    static const char *const allow[] = {"CONFIG SET maxmemory 0", NULL};
    storage_that_refuses(*state, refuse, allow, "OOM");
}

static void test_storage_key_of_wrong_type(void **state)
{
    struct worker_bed *bed = *state;
    good_trigger(bed);
    worker_bed_publish(bed, "t", "good", 5);
    command("SET ws-outbox text");
    worker_bed_start(bed, NULL, NULL, NULL);
    expect_logged(bed, "key ws-outbox is a string, not a hash");
    command("DEL ws-outbox");
    expect_good(bed, 5);
}

static void test_storage_of_newer_format(void **state)
{
    struct worker_bed *bed = *state;
    good_trigger(bed);
    worker_bed_publish(bed, "t", "good", 5);
    command("HSET ws-checkpoint format 99 epoch 5 writer other");
    worker_bed_start(bed, NULL, NULL, NULL);
    expect_logged(bed, "format 99 is newer than this program's");
    assert_int_equal(worker_bed_counter(bed, "good"), -1);
    command("DEL ws-checkpoint");
    expect_good(bed, 5);
}

/* --- events that kill the worker --- */

static void poisoned(const char *type, const char *setting)
{
    char worker[PATH_MAX], more[64];
    struct workspace ws;
    if (!process_crash_program("triggerflow-worker", worker)) {
        printf("skipped: no %s (make SAN=crash)\n", worker);
        skip();
    }
    struct bed *bed = bed_new(&redis);
    setenv("TRIGGERFLOW_WORKER", worker, 1);
    snprintf(more, sizeof more, "supervisor: {%s}", setting);
    bed_write_config(bed, "", more);
    assert_int_equal(workspace_create(&ws, &redis, "ws"), 0);
    assert_int_equal(workspace_source(&ws, "in", "in", ""), 0);
    assert_int_equal(
        workspace_trigger(&ws, "good", "{\"name\":\"JOIN\"}", PASS, NEVER,
                          "{\"type\":\"t\",\"subject\":\"s\"},{\"type\":\"crash.fault\",\"subject\":"
                          "\"s\"},{\"type\":\"crash.hang\",\"subject\":\"s\"}",
                          false),
        0);
    for (int i = 0; i < 50; i++)
        assert_int_equal(workspace_publish_one(&ws, "in", "1", i == 20 ? type : "t", "s", NULL), 0);
    bed_start(bed);
    bed_await_ready(bed);
    WAIT_ELSE(workspace_settled(&ws, "in", "in"), workspace_dump(&ws, "in"));
    assert_int_equal(workspace_publish_one(&ws, "in", "1", "t", "s", NULL), 0);
    WAIT_ELSE(workspace_context(&ws, "good", "counter") == 50, workspace_dump(&ws, "in"));
    assert_int_equal(workspace_dead_letters(&ws, "crashed_worker"), 1);
    assert_int_equal(workspace_count(&ws, "dead_letters"), 1);
    long long restarts = bed_number(bed, "ws", "restarts");
    if (restarts != 3)
        fprintf(stderr, "%s", bed_read_file(bed->log));
    assert_int_equal(restarts, 3);
    assert_int_equal(bed_stop(bed), 0);
    unsetenv("TRIGGERFLOW_WORKER");
    bed_free(bed);
}

static void test_poison(void **state)
{
    (void)state;
    poisoned("crash.fault", "watchdog: 30s");
}

static void test_hang(void **state)
{
    (void)state;
    poisoned("crash.hang", "watchdog: 1s");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_broken_triggers),
        TEST(test_broken_sources),
        TEST(test_stream_of_wrong_type),
        TEST(test_source_without_server),
        TEST(test_sink_of_wrong_type),
        TEST(test_sink_in_an_action),
        TEST(test_sink_without_server),
        TEST(test_bad_events),
        TEST(test_deep_data),
        cmocka_unit_test(test_storage_absent_at_start),
        TEST(test_storage_refuses_password),
        TEST(test_storage_read_only),
        TEST(test_storage_out_of_memory),
        TEST(test_storage_key_of_wrong_type),
        TEST(test_storage_of_newer_format),
        cmocka_unit_test(test_poison),
        cmocka_unit_test(test_hang),
    };
    if (!redis_server_available()) {
        printf("skipped: no redis-server\n");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return result;
}
