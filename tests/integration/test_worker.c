/* The real triggerflow-worker against a real redis-server: what it does with triggers, event sources and
 * events, and how it starts and ends. */
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
#include <json-c/json.h>

#include "tests/support/worker_bed.h"

#define PASS "{\"name\":\"PASS\"}"
#define TERMINATE "{\"name\":\"TERMINATE\"}"
#define EMIT_OUT "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"emitted\"}}"
#define NEVER "{\"join\":1000000}"
#define LARGE 900000

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
static long long command(const char *line)
{
    redisReply *reply = redis_server_do(&redis, line);
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR)
        fail_msg("%s: %s", line, reply->str);
    long long n = reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0;
    freeReplyObject(reply);
    return n;
}

/* --- conditions and actions --- */

static void test_join(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "three", "JOIN", "{\"join\":3}", EMIT_OUT, "t", "j");
    worker_bed_trigger(bed, "functions", "FUNCTION_JOIN", "{\"total_activations\":2}", EMIT_OUT, "t", "f");
    worker_bed_trigger(bed, "unknown", "FUNCTION_JOIN", "{}", EMIT_OUT, "t", "u");
    worker_bed_trigger(bed, "from", "COUNTER_THRESHOLD", "{\"threshold\":4}", EMIT_OUT, "t", "c");
    worker_bed_trigger(bed, "any", "JOIN", NEVER, PASS, "t", "*");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "j", 2);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "three"), 2);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 0);
    worker_bed_publish(bed, "t", "j", 3); /* fires with the first of them, and then no more */
    worker_bed_publish(bed, "t", "f", 4);
    worker_bed_publish(bed, "t", "u", 4);
    worker_bed_publish(bed, "t", "c", 6); /* fires three times */
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "three"), 5);
    assert_int_equal(worker_bed_counter(bed, "functions"), 4);
    assert_int_equal(worker_bed_counter(bed, "unknown"), 4);
    assert_int_equal(worker_bed_counter(bed, "from"), 6);
    assert_int_equal(worker_bed_counter(bed, "any"), 19);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 1 + 1 + 3);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

static void test_keys_count_once(void **state)
{
    struct worker_bed *bed = *state;
    static const struct publication events[] = {{"1", "t", "k", NULL, "a"},  {"2", "t", "k", NULL, "a"},
                                                {"3", "t", "k", NULL, "b"},  {"4", "t", "k", NULL, NULL},
                                                {"4", "t", "k", NULL, NULL}, {"5", "t", "k", NULL, "a"}};
    worker_bed_trigger(bed, "join", "JOIN", NEVER, PASS, "t", "k");
    worker_bed_trigger(bed, "threshold", "COUNTER_THRESHOLD", "{\"threshold\":100}", PASS, "t", "k");
    worker_bed_up(bed);
    assert_int_equal(workspace_publish(&bed->workspace, "in", events, 3), 0);
    worker_bed_settle(bed);
    process_kill(&bed->worker, SIGKILL);
    worker_bed_up(bed); /* remembers the keys */
    assert_int_equal(workspace_publish(&bed->workspace, "in", events + 3, 3), 0);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "join"), 4);
    assert_int_equal(worker_bed_counter(bed, "threshold"), 6);
}

static void test_emit(void **state)
{
    struct worker_bed *bed = *state;
    char first[64];
    worker_bed_trigger(bed, "plain", "TRUE", "{}", EMIT_OUT, "t", "p");
    worker_bed_trigger(bed, "full", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"other\",\"source\":"
                       "\"urn:x\",\"subject\":\"s\",\"data\":{\"a\": [1]},\"color\":\"red\"}}",
                       "t", "q");
    worker_bed_up(bed);
    assert_int_equal(workspace_publish_one(&bed->workspace, "in", "1", "t", "p", "{\"x\": \"\\u00e4\"}"), 0);
    worker_bed_settle(bed);
    assert_int_equal(workspace_publish_one(&bed->workspace, "in", "1", "t", "p", NULL), 0);
    worker_bed_settle(bed);
    assert_int_equal(workspace_publish_one(&bed->workspace, "in", "1", "t", "q", "data"), 0);
    worker_bed_settle(bed);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 3);
    snprintf(first, sizeof first, "%s", worker_bed_entry(bed, "out", 0, "id"));
    assert_int_equal(strlen(first), 32);
    assert_string_equal(worker_bed_entry(bed, "out", 0, "specversion"), "1.0");
    assert_string_equal(worker_bed_entry(bed, "out", 0, "type"), "emitted");
    assert_string_equal(worker_bed_entry(bed, "out", 0, "subject"), "p");
    assert_string_equal(worker_bed_entry(bed, "out", 0, "source"), "urn:triggerflow:ws:plain");
    assert_string_equal(worker_bed_entry(bed, "out", 0, "data"), "{\"x\": \"\\u00e4\"}");
    assert_int_equal(strlen(worker_bed_entry(bed, "out", 0, "time")), 27);
    assert_string_not_equal(worker_bed_entry(bed, "out", 1, "id"), first);
    assert_string_equal(worker_bed_entry(bed, "out", 1, "data"), "");
    assert_string_equal(worker_bed_entry(bed, "out", 2, "type"), "other");
    assert_string_equal(worker_bed_entry(bed, "out", 2, "source"), "urn:x");
    assert_string_equal(worker_bed_entry(bed, "out", 2, "subject"), "s");
    assert_string_equal(worker_bed_entry(bed, "out", 2, "data"), "{\"a\": [1]}");
    assert_string_equal(worker_bed_entry(bed, "out", 2, "color"), "red");
}

static void test_emit_inside(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "first", "TRUE", "{}", "{\"name\":\"EMIT\",\"event\":{\"type\":\"inner\"}}", "t",
                       "s");
    worker_bed_trigger(bed, "second", "JOIN", "{\"join\":10}",
                       "{\"name\":\"EMIT\",\"event_source\":\"in\",\"event\":{\"type\":\"back\"}}", "inner",
                       "s");
    worker_bed_trigger(bed, "third", "JOIN", NEVER, PASS, "back", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 25);
    AWAIT_BED(bed, worker_bed_counter(bed, "third") == 1 && worker_bed_settled(bed));
    assert_int_equal(worker_bed_counter(bed, "second"), 25);
    assert_int_equal(workspace_stream_length(&bed->workspace, "in"), 26);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* To more event sources that are not stored than are open at a time. */
static void test_emit_to_many(void **state)
{
    enum { TARGETS = 300 };
    struct worker_bed *bed = *state;
    for (unsigned i = 0; i < TARGETS; i++) {
        char id[16], action[300];
        snprintf(id, sizeof id, "t%u", i);
        snprintf(action, sizeof action,
                 "{\"name\":\"EMIT\",\"event\":{\"type\":\"emitted\"},\"event_source\":{\"class\":"
                 "\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,\"stream\":\"given-"
                 "%u\"}}}",
                 redis.port, i);
        worker_bed_trigger(bed, id, "TRUE", "{}", action, "t", "s");
    }
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 2);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    for (unsigned i = 0; i < TARGETS; i++) {
        char stream[24];
        snprintf(stream, sizeof stream, "given-%u", i);
        assert_int_equal(workspace_stream_length(&bed->workspace, stream), 2);
    }
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

static void test_emit_to_nowhere(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "lost", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"nowhere\",\"event\":{\"type\":\"x\"}}", "t",
                       "s");
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "*");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 1);
    worker_bed_publish(bed, "t", "other", 5);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 6); /* the rest goes on */
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "action_failed") == 1);
    assert_true(worker_bed_logged(bed, "event source nowhere does not exist"));
    worker_bed_settle(bed);
}

static void test_endless_loop(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "one", "TRUE", "{}", "{\"name\":\"EMIT\",\"event\":{\"type\":\"t\"}}", "t", "s");
    worker_bed_trigger(bed, "two", "TRUE", "{}", "{\"name\":\"EMIT\",\"event\":{\"type\":\"t\"}}", "t", "s");
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_SINK_MAX_SIZE=50");
    worker_bed_publish(bed, "t", "s", 1);
    assert_int_equal(worker_bed_end(bed), 1);
    assert_true(worker_bed_logged(bed, "reason=internal_overflow"));
}

static void test_terminate(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "end", "JOIN", "{\"join\":5}", TERMINATE, "t", "s");
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_FINISH_LINGER=50ms");
    worker_bed_publish(bed, "t", "s", 7);
    AWAIT_BED(bed, worker_bed_logged(bed, "event=workflow_finished trigger=end"));
    worker_bed_settle(bed);
    worker_bed_publish(bed, "t", "s", 1); /* it goes on serving */
    AWAIT_BED(bed, worker_bed_counter(bed, "end") == 8);
    worker_bed_stop(bed);
    char *finished = workspace_get(&bed->workspace, "checkpoint", "finished");
    assert_non_null(finished);
    assert_non_null(strstr(finished, "\"trigger\":\"end\""));
    assert_non_null(strstr(finished, "\"count\":1"));
    free(finished);
}

static void test_exit_when_finished(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "end", "COUNTER_THRESHOLD", "{\"threshold\":5}", TERMINATE, "t", "s");
    worker_bed_start(bed, "--exit-when-finished", NULL, "TRIGGERFLOW_FINISH_LINGER=50ms");
    worker_bed_publish(bed, "t", "s", 5);
    assert_int_equal(worker_bed_end(bed), 0);
    assert_int_equal(worker_bed_counter(bed, "end"), 5);
    /* Started again it serves until it finishes again. */
    worker_bed_start(bed, "--exit-when-finished", NULL, "TRIGGERFLOW_FINISH_LINGER=50ms");
    AWAIT_BED(bed, worker_bed_running(bed));
    worker_bed_publish(bed, "t", "s", 1);
    assert_int_equal(worker_bed_end(bed), 0);
    assert_int_equal(worker_bed_counter(bed, "end"), 6);
}

/* --- triggers and event sources that change --- */

static void test_trigger_added(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_up(bed);
    for (int i = 0; i < 20; i++) { /* the event comes right behind its trigger */
        char id[16];
        snprintf(id, sizeof id, "new%d", i);
        worker_bed_trigger(bed, id, "JOIN", NEVER, PASS, "t", id);
        worker_bed_publish(bed, "t", id, 3);
    }
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "new0"), 3);
    assert_int_equal(worker_bed_counter(bed, "new19"), 3);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* An idle worker is told of changes by the storage. */
static void test_notified(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    assert_int_equal(workspace_publish_one(&bed->workspace, "more", "1", "t", "s", NULL), 0);
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_TRIGGER_REFRESH=24h");
    AWAIT_BED(bed, worker_bed_running(bed));
    assert_int_equal(workspace_source(&bed->workspace, "more", "more", ""), 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 1);
    worker_bed_stop(bed);
}

/* All events match, so none of them makes the worker look. */
static void test_trigger_changed(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", "{\"join\":2}", PASS, "t", "s");
    worker_bed_trigger(bed, "all", "JOIN", NEVER, PASS, "t", "*");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 2);
    worker_bed_settle(bed);
    assert_int_equal(
        workspace_put_trigger(&bed->workspace, "t",
                              "{\"id\":\"t\",\"uuid\":\"another\",\"condition\":{\"name\":\"COUNTER_"
                              "THRESHOLD\"},\"action\":" EMIT_OUT ",\"context\":{\"threshold\":1},"
                              "\"activation_events\":[{\"type\":\"t\",\"subject\":\"s\"}]}"),
        0);
    AWAIT_BED(bed,
              (worker_bed_publish(bed, "t", "s", 1), workspace_stream_length(&bed->workspace, "out") > 0));
    assert_int_equal(workspace_delete_trigger(&bed->workspace, "t"), 0);
    worker_bed_settle(bed);
    AWAIT_BED(bed, (worker_bed_publish(bed, "t", "s", 1), worker_bed_settle(bed),
                    workspace_context(&bed->workspace, "t", "threshold") == -1));
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "all"), workspace_stream_length(&bed->workspace, "in"));
    assert_int_equal(worker_bed_counter(bed, "t"), -1); /* not written back */
}

/* Whether a checkpoint's field begins so. */
static bool has_field(const struct worker_bed *bed, const char *prefix)
{
    redisReply *keys = redis_server_do(&redis, "HKEYS ws-checkpoint");
    bool has = false;
    assert_non_null(keys);
    for (size_t i = 0; i < keys->elements; i++)
        has |= !strncmp(keys->element[i]->str, prefix, strlen(prefix));
    freeReplyObject(keys);
    (void)bed;
    return has;
}

static void publish_key(const struct worker_bed *bed, const char *id)
{
    const struct publication event = {.id = id, .type = "t", .subject = "s", .key = id};
    assert_int_equal(workspace_publish(&bed->workspace, "in", &event, 1), 0);
    worker_bed_settle(bed);
}

/* Nothing stays of a trigger that was replaced, and of one that was removed. */
static void test_trigger_forgotten(void **state)
{
    static const char other[] =
        "{\"id\":\"t\",\"uuid\":\"other\",\"condition\":{\"name\":\"JOIN\"},\"action\":" PASS
        ",\"context\":{\"join\":1},\"activation_events\":[{\"type\":\"t\",\"subject\":"
        "\"s\"}]}";
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", "{\"join\":1}", PASS, "t", "s");
    worker_bed_up(bed);
    publish_key(bed, "first");
    assert_true(has_field(bed, "keys:uuid-t:") && has_field(bed, "fired:uuid-t"));
    assert_int_equal(workspace_put_trigger(&bed->workspace, "t", other), 0);
    AWAIT_BED(bed,
              (publish_key(bed, "second"), has_field(bed, "keys:other:") && has_field(bed, "fired:other")));
    AWAIT_BED(bed, !has_field(bed, "keys:uuid-t:") && !has_field(bed, "fired:uuid-t"));
    assert_int_equal(workspace_delete_trigger(&bed->workspace, "t"), 0);
    AWAIT_BED(bed, !has_field(bed, "keys:") && !has_field(bed, "fired:"));
    worker_bed_stop(bed);
}

static void test_trigger_removed(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 2);
    worker_bed_settle(bed);
    assert_int_equal(workspace_delete_trigger(&bed->workspace, "t"), 0);
    AWAIT_BED(bed, (worker_bed_publish(bed, "t", "s", 1),
                    workspace_dead_letters(&bed->workspace, "no_trigger") > 0));
    worker_bed_stop(bed);
    assert_int_equal(workspace_count(&bed->workspace, "triggers"), 0);
    assert_null(workspace_get(&bed->workspace, "checkpoint", "fired:uuid-t"));
}

static void test_transient(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_transient(bed, "once", "JOIN", "{\"join\":2}", EMIT_OUT, "t", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 1);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "once"), 1);
    worker_bed_publish(bed, "t", "s", 4);
    worker_bed_settle(bed);
    assert_int_equal(workspace_count(&bed->workspace, "triggers"), 0);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 1);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "no_trigger"), 3);
    worker_bed_transient(bed, "once", "JOIN", "{\"join\":2}", EMIT_OUT, "t", "s");
    worker_bed_publish(bed, "t", "s", 2);
    worker_bed_settle(bed);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 2);
    assert_string_not_equal(worker_bed_entry(bed, "out", 1, "id"), "");
    char first[64];
    snprintf(first, sizeof first, "%s", worker_bed_entry(bed, "out", 0, "id"));
    assert_string_not_equal(worker_bed_entry(bed, "out", 1, "id"), first); /* another firing, another key */
    assert_int_equal(workspace_dead_letters(&bed->workspace, "no_trigger"), 3);
}

static void test_source_added(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    assert_int_equal(workspace_publish_one(&bed->workspace, "more", "1", "t", "s", NULL), 0);
    worker_bed_up(bed);
    assert_int_equal(workspace_source(&bed->workspace, "more", "more", ""), 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 1);
    worker_bed_publish(bed, "t", "s", 1);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 2);
    assert_int_equal(workspace_delete_source(&bed->workspace, "more"), 0);
    AWAIT_BED(bed, worker_bed_logged(bed, "event=event_source_removed source=more"));
    assert_int_equal(workspace_publish_one(&bed->workspace, "more", "2", "t", "s", NULL), 0);
    worker_bed_publish(bed, "t", "s", 1);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 3);
    /* Back again, it goes on where it was. */
    assert_int_equal(workspace_source(&bed->workspace, "more", "more", ""), 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 4);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 4);
}

static void test_source_changed(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 5);
    worker_bed_settle(bed);
    assert_int_equal(workspace_source(&bed->workspace, "in", "in", ",\"trim\":false"), 0);
    AWAIT_BED(bed, worker_bed_logged(bed, "event=event_source_removed source=in"));
    worker_bed_publish(bed, "t", "s", 5);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 10);
    assert_int_equal(workspace_source(&bed->workspace, "in", "elsewhere", ""), 0);
    assert_int_equal(workspace_publish_one(&bed->workspace, "elsewhere", "1", "t", "s", NULL), 0);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 11);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 11);
}

static void test_publish_only(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    assert_int_equal(workspace_publish_one(&bed->workspace, "out", "1", "t", "s", NULL), 0);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 1);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 1);
    assert_null(workspace_get(&bed->workspace, "checkpoint", "position:out"));
}

static void test_unknown_members(void **state)
{
    struct worker_bed *bed = *state;
    static const char head[] =
        "{ \"zeta\" :[1.50e1 ,{\"a\":\"\\u00e4\\/\"}], \"id\":\"t\",\"uuid\": \"u-1\",\"condition\":"
        "{\"name\":\"JOIN\",\"more\":1e400},\"action\":{\"name\":\"PASS\",\"x\":null},\"context\":";
    static const char context[] = "{\"join\":3.0, \"__object__\":{\"__object__\": "
                                  "\"aGk=\"},\"counter\":0,\"big\":12345678901234567890123}";
    static const char tail[] =
        ",\"activation_events\":[{\"type\":\"t\",\"subject\":\"s\",\"id\":\"0\"}],\"transient\":false,"
        "\"timestamp\":\"2020\",\"\":0}";
    char document[1024];
    snprintf(document, sizeof document, "%s%s%s", head, context, tail);
    assert_int_equal(workspace_put_trigger(&bed->workspace, "t", document), 0);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 2);
    worker_bed_settle(bed);
    char *stored = workspace_get(&bed->workspace, "triggers", "t");
    assert_non_null(stored);
    static const char *const kept[] = {
        "\"zeta\":[1.50e1 ,{\"a\":\"\\u00e4\\/\"}]",
        "\"condition\":{\"name\":\"JOIN\",\"more\":1e400}",
        "\"action\":{\"name\":\"PASS\",\"x\":null}",
        "\"activation_events\":[{\"type\":\"t\",\"subject\":\"s\",\"id\":\"0\"}]",
        "\"join\":3.0",
        "\"__object__\":{\"__object__\": \"aGk=\"}",
        "\"big\":12345678901234567890123",
        "\"\":0",
        "\"counter\":2",
        "\"uuid\":\"u-1\""};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (!strstr(stored, kept[i]))
            fail_msg("%s is missing in %s", kept[i], stored);
    assert_null(strstr(stored, "\"2020\""));
    free(stored);
    assert_int_equal(worker_bed_counter(bed, "t"), 2);
}

/* --- who runs it --- */

static void counted_trigger(const struct worker_bed *bed)
{
    worker_bed_trigger(bed, "t", "JOIN", "{\"join\":1000,\"counter\":7}", PASS, "t", "s");
    worker_bed_publish(bed, "t", "s", 5);
}

static bool has_position(struct worker_bed *bed)
{
    char *position = workspace_get(&bed->workspace, "checkpoint", "position:in");
    free(position);
    return position != NULL;
}

static void test_needs_adoption(void **state)
{
    struct worker_bed *bed = *state;
    counted_trigger(bed);
    worker_bed_start(bed, NULL, NULL, NULL);
    AWAIT_BED(bed, worker_bed_logged(bed, "state=needs_adoption"));
    kill(bed->worker.pid, SIGTERM);
    assert_int_equal(worker_bed_end(bed), 0);
    assert_int_equal(worker_bed_counter(bed, "t"), 7);
    worker_bed_start(bed, "--adopt", "end", NULL);
    AWAIT_BED(bed, has_position(bed));
    worker_bed_publish(bed, "t", "s", 2);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 9);
    worker_bed_up(bed); /* from now on it is ours */
    worker_bed_publish(bed, "t", "s", 1);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 10);
}

static void test_adopt_beginning(void **state)
{
    struct worker_bed *bed = *state;
    counted_trigger(bed);
    worker_bed_start(bed, "--adopt", "beginning", NULL);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 12);
}

static void test_adopt_position(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", "{\"join\":1000,\"counter\":7}", PASS, "t", "s");
    for (int i = 1; i <= 5; i++) {
        char line[128];
        snprintf(line, sizeof line, "XADD in 5-%d id %d source s type t subject s", i, i);
        command(line);
    }
    worker_bed_start(bed, "--adopt", "5-2", NULL);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 10);
}

static void test_fenced(void **state)
{
    struct worker_bed *bed = *state;
    char log[96], port[32];
    struct process second;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    snprintf(log, sizeof log, "%s/second", bed->dir);
    snprintf(port, sizeof port, "REDIS_PORT=%d", bed->redis->port);
    process_init(&second, log);
    assert_int_equal(process_start(&second, (const char *[]){bed->program, "ws", NULL},
                                   (const char *[]){"REDIS_HOST=127.0.0.1", port, NULL}),
                     0);
    AWAIT_BED(bed, process_log_has(&second, "state=running"));
    worker_bed_publish(bed, "t", "s", 10);
    int status = worker_bed_end(bed);
    worker_bed_settle(bed);
    kill(second.pid, SIGTERM);
    assert_int_equal(process_wait(&second, WAIT_DEADLINE_NS), 0);
    assert_int_equal(status, 3);
    assert_true(worker_bed_logged(bed, "reason=fenced"));
    assert_int_equal(worker_bed_counter(bed, "t"), 10);
}

static void test_deleted(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "TRUE", "{}", EMIT_OUT, "t", "s");
    worker_bed_trigger(bed, "c", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 100);
    worker_bed_settle(bed);
    assert_int_equal(workspace_delete(&bed->workspace), 0);
    worker_bed_publish(bed, "t", "s", 10);
    assert_int_equal(worker_bed_end(bed), 3);
    assert_true(worker_bed_logged(bed, "reason=deleted"));
    assert_int_equal(
        command("EXISTS ws-triggers ws-event_sources ws-checkpoint ws-outbox ws-internal ws-timers "
                "ws-dead_letters triggerflow-workspaces"),
        0);
}

static void test_created_anew(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 5);
    worker_bed_settle(bed);
    command("HSET triggerflow-workspaces ws 99.5");
    worker_bed_publish(bed, "t", "s", 1);
    assert_int_equal(worker_bed_end(bed), 3);
    assert_int_equal(worker_bed_counter(bed, "t"), 5);
}

static void test_drain(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_trigger(bed, "e", "TRUE", "{}", "{\"name\":\"EMIT\",\"event\":{\"type\":\"inner\"}}", "t",
                       "s");
    worker_bed_trigger(bed, "i", "JOIN", NEVER, PASS, "inner", "s");
    worker_bed_publish(bed, "t", "s", 30000);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") > 0);
    worker_bed_stop(bed);
    char *position = workspace_get(&bed->workspace, "checkpoint", "position:in");
    struct json_object *root = json_tokener_parse(position);
    struct json_object *read = NULL;
    assert_true(json_object_object_get_ex(root, "read", &read));
    assert_int_equal(json_object_get_int64(read), worker_bed_counter(bed, "t"));
    assert_int_equal(worker_bed_counter(bed, "i") + workspace_count(&bed->workspace, "internal"),
                     worker_bed_counter(bed, "t"));
    json_object_put(root);
    free(position);
    worker_bed_up(bed);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 30000);
    assert_int_equal(worker_bed_counter(bed, "i"), 30000);
}

/* --- the broker --- */

static void test_redis_restarts(void **state)
{
    static const char *const arguments[] = {"--appendonly", "yes", "--appendfsync", "always", NULL};
    struct redis_server own;
    (void)state;
    assert_int_equal(redis_server_run(&own, arguments), 0);
    struct worker_bed *bed = worker_bed_new(&own);
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_trigger(bed, "e", "TRUE", "{}", EMIT_OUT, "t", "s");
    worker_bed_up(bed);
    for (int i = 0; i < 3; i++) {
        worker_bed_publish(bed, "t", "s", 500);
        assert_int_equal(redis_server_restart(&own), 0);
        worker_bed_publish(bed, "t", "s", 500);
    }
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 3000);
    assert_true(workspace_stream_length(&bed->workspace, "out") >= 3000);
    worker_bed_free(bed);
    redis_server_done(&own);
}

static void test_events_lost(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 10);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    worker_bed_publish(bed, "t", "s", 10);
    command("XTRIM in MAXLEN 4");
    worker_bed_up(bed);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_true(worker_bed_logged(bed, "event=events_lost source=in stream=in count=6"));
    assert_int_equal(worker_bed_counter(bed, "t"), 14);
}

static void test_source_recreated(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 10);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    command("DEL in");
    command("XADD in 5-1 id 1 source s type t subject s");
    worker_bed_up(bed);
    worker_bed_settle(bed);
    assert_true(worker_bed_logged(bed, "event=source_recreated source=in"));
    assert_int_equal(worker_bed_counter(bed, "t"), 11);
}

static void test_recreated_stop(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    assert_int_equal(workspace_source(&bed->workspace, "in", "in", ",\"on_recreated\":\"stop\""), 0);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 10);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    command("DEL in");
    command("XADD in 5-1 id 1 source s type t subject s");
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "on_recreated: stop"));
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 10);
}

/* Entries trimmed so far, and entries committed, in one moment. */
static bool trimmed_too_much(void)
{
    static const char script[] = "local info = redis.call('XINFO', 'STREAM', 'in')\n"
                                 "local at = redis.call('HGET', 'ws-checkpoint', 'position:in')\n"
                                 "local named = {}\n"
                                 "for i = 1, #info, 2 do named[info[i]] = info[i + 1] end\n"
                                 "local gone = named['entries-added'] - named['length']\n"
                                 "return gone - (at and cjson.decode(at).read or 0)\n";
    redisReply *reply = redis_server_do(&redis, "EVAL %s 0", script);
    assert_non_null(reply);
    assert_int_equal(reply->type, REDIS_REPLY_INTEGER);
    bool wrong = reply->integer > 0;
    freeReplyObject(reply);
    return wrong;
}

static void test_trim(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    assert_int_equal(workspace_source(&bed->workspace, "in", "in", ",\"trim\":true"), 0);
    worker_bed_up(bed);
    for (int i = 0; i < 40; i++) {
        worker_bed_publish(bed, "t", "s", 250);
        assert_false(trimmed_too_much());
    }
    AWAIT_BED(bed, (assert_false(trimmed_too_much()), workspace_stream_length(&bed->workspace, "in") == 0));
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "t"), 10000);
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 1);
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 10001);
    assert_false(worker_bed_logged(bed, "events_lost"));
}

/* --- limits --- */

static void test_large_events(void **state)
{
    struct worker_bed *bed = *state;
    char *data = malloc(LARGE + 1);
    assert_non_null(data);
    memset(data, 'x', LARGE);
    data[LARGE] = '\0';
    worker_bed_trigger(bed, "inner", "TRUE", "{}", "{\"name\":\"EMIT\",\"event\":{\"type\":\"inner\"}}", "t",
                       "s");
    worker_bed_trigger(bed, "outer", "TRUE", "{}", EMIT_OUT, "inner", "s");
    worker_bed_up(bed);
    for (int i = 0; i < 5; i++)
        assert_int_equal(workspace_publish_one(&bed->workspace, "in", "1", "t", "s", data), 0);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 5);
    assert_string_equal(worker_bed_entry(bed, "out", 4, "data"), data);
    free(data);
}

static void test_many_triggers(void **state)
{
    struct worker_bed *bed = *state;
    for (int i = 0; i < 5000; i++) {
        char id[16];
        snprintf(id, sizeof id, "t%d", i);
        worker_bed_trigger(bed, id, "JOIN", "{\"join\":3}", EMIT_OUT, "t", "s");
    }
    worker_bed_up(bed);
    worker_bed_publish(bed, "t", "s", 4);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 5000);
    for (int i = 0; i < 5000; i += 100) {
        char id[16];
        snprintf(id, sizeof id, "t%d", i);
        assert_int_equal(worker_bed_counter(bed, id), 4);
    }
}

static void test_dead_letters_full(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "t", "JOIN", NEVER, PASS, "t", "s");
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_DEAD_LETTER_MAX_BYTES=2KiB");
    for (int i = 0; i < 20; i++)
        command("XADD in * id 1 source s");
    AWAIT_BED(bed, worker_bed_logged(bed, "name=dead_letters_full"));
    worker_bed_publish(bed, "t", "s", 10);
    AWAIT_BED(bed, worker_bed_logged(bed, "state=paused"));
    assert_int_equal(workspace_dead_letters(&bed->workspace, "invalid_event"), 20);
    assert_int_equal(worker_bed_counter(bed, "t"), -1);
    command("DEL ws-dead_letters");
    AWAIT_BED(bed, worker_bed_counter(bed, "t") == 10);
    worker_bed_settle(bed);
    worker_bed_stop(bed);
}

static void test_pending_actions(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_trigger(bed, "e", "TRUE", "{}", EMIT_OUT, "t", "s");
    worker_bed_publish(bed, "t", "s", 3000);
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_MAX_PENDING_ACTIONS=3");
    worker_bed_settle(bed);
    worker_bed_stop(bed);
    assert_int_equal(workspace_stream_length(&bed->workspace, "out"), 3000);
    assert_int_equal(workspace_count(&bed->workspace, "outbox"), 0);
}

/* --- the command line --- */

static void test_usage(void **state)
{
    struct worker_bed *bed = *state;
    char file[96];
    snprintf(file, sizeof file, "%s/config.yaml", bed->dir);
    FILE *out = fopen(file, "w");
    assert_non_null(out);
    fputs("nonsense: 1\n", out);
    assert_int_equal(fclose(out), 0);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"absent", NULL}), 3);
    assert_true(worker_bed_logged(bed, "workspace absent is not stored"));
    assert_int_equal(worker_bed_run(bed, (const char *[]){NULL}), 2);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"a", "b", NULL}), 2);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"--nonsense", "ws", NULL}), 2);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"no/name", NULL}), 2);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"triggerflow", NULL}), 2);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"--config", "/nonexistent", "ws", NULL}), 2);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"--config", file, "ws", NULL}), 2);
    assert_true(worker_bed_logged(bed, "nonsense"));
    assert_int_equal(worker_bed_run(bed, (const char *[]){"--help", NULL}), 0);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"--version", NULL}), 0);
    assert_int_equal(worker_bed_run(bed, (const char *[]){"--help-config", NULL}), 0);
    assert_true(worker_bed_logged(bed, "REDIS_PORT"));
}

static void test_reload_signal(void **state)
{
    struct worker_bed *bed = *state;
    worker_bed_up(bed);
    kill(bed->worker.pid, SIGHUP);
    kill(bed->worker.pid, SIGINT);
    assert_int_equal(worker_bed_end(bed), 0);
}

/* Triggers come so fast that there are several tables of them between two checkpoints. (What is not freed
 * then is found by AddressSanitizer.) */
static void test_triggers_between_checkpoints(void **state)
{
    struct worker_bed *bed = *state;
    char name[16];
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_CHECKPOINT_INTERVAL=10s");
    AWAIT_BED(bed, worker_bed_running(bed));
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "t%d", i);
        worker_bed_trigger(bed, name, "COUNTER_THRESHOLD", "{\"threshold\":1000,\"counter\":0}",
                           "{\"name\":\"PASS\"}", name, "s");
        for (int moment = 0; moment < 20; moment++)
            wait_moment();
    }
    worker_bed_publish(bed, "t9", "s", 3);
    worker_bed_stop(bed);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "t9") == 3);
    worker_bed_stop(bed);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_join),
        TEST(test_keys_count_once),
        TEST(test_emit),
        TEST(test_emit_inside),
        TEST(test_emit_to_many),
        TEST(test_emit_to_nowhere),
        TEST(test_endless_loop),
        TEST(test_terminate),
        TEST(test_exit_when_finished),
        TEST(test_trigger_added),
        TEST(test_notified),
        TEST(test_trigger_changed),
        TEST(test_trigger_removed),
        TEST(test_trigger_forgotten),
        TEST(test_transient),
        TEST(test_source_added),
        TEST(test_source_changed),
        TEST(test_publish_only),
        TEST(test_unknown_members),
        TEST(test_needs_adoption),
        TEST(test_adopt_beginning),
        TEST(test_adopt_position),
        TEST(test_fenced),
        TEST(test_deleted),
        TEST(test_created_anew),
        TEST(test_drain),
        cmocka_unit_test(test_redis_restarts),
        TEST(test_events_lost),
        TEST(test_source_recreated),
        TEST(test_recreated_stop),
        TEST(test_trim),
        TEST(test_large_events),
        TEST(test_many_triggers),
        TEST(test_dead_letters_full),
        TEST(test_pending_actions),
        TEST(test_usage),
        TEST(test_reload_signal),
        TEST(test_triggers_between_checkpoints),
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
