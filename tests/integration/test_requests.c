/* What a supervisor may ask of a real worker, with the test as its supervisor: patches while events flow,
 * pausing through kill -9, redriving, timers; and its decisions, read from the arena. Builds with crash
 * points (asan, tsan) also kill it at each of them. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/decision.h"
#include "tests/support/supervised.h"

static struct redis_server redis;

static int setup(void **state)
{
    *state = supervised_new(worker_bed_new(&redis));
    return 0;
}

static int teardown(void **state)
{
    struct supervised *s = *state;
    struct worker_bed *bed = s->bed;
    supervised_free(s);
    worker_bed_free(bed);
    return 0;
}

static void redis_do(const char *command, const char *key, const char *field, const char *value)
{
    redisReply *reply = value ? redis_server_do(&redis, "%s %s %s %s", command, key, field, value)
                              : redis_server_do(&redis, "%s %s %s", command, key, field);
    assert_non_null(reply);
    assert_int_not_equal(reply->type, REDIS_REPLY_ERROR);
    freeReplyObject(reply);
}

/* The number of the nth dead letter; valid until the next call. */
static const char *letter(unsigned n)
{
    static char number[64];
    redisReply *keys = redis_server_do(&redis, "HKEYS ws-dead_letters");
    assert_non_null(keys);
    number[0] = '\0';
    if (keys->type == REDIS_REPLY_ARRAY && keys->elements > n)
        snprintf(number, sizeof number, "%s", keys->element[n]->str);
    freeReplyObject(keys);
    return number;
}

/* --- patch --- */

static bool stored_has(struct worker_bed *bed, const char *trigger, const char *text)
{
    char *document = workspace_get(&bed->workspace, "triggers", trigger);
    bool has = document && strstr(document, text);
    free(document);
    return has;
}

#define EVENTS 20000

static void test_patch_while_events_flow(void **state)
{
    struct supervised *s = *state;
    worker_bed_trigger(s->bed, "join", "JOIN", "{\"join\":1000000,\"a\":{\"b\":1}}", "{\"name\":\"PASS\"}",
                       "t", "j");
    supervised_start(s, NULL);
    for (unsigned i = 0; i < EVENTS / 500; i++) {
        worker_bed_publish(s->bed, "t", "j", 500);
        assert_int_equal(supervised_ask(s,
                                        "\"message\":\"patch\",\"trigger\":\"join\",\"context\":"
                                        "{\"step\":%u,\"a\":{\"n%u\":1}}",
                                        i, i),
                         1);
    }
    worker_bed_settle(s->bed);
    assert_int_equal(worker_bed_counter(s->bed, "join"), EVENTS);
    assert_int_equal(workspace_context(&s->bed->workspace, "join", "step"), EVENTS / 500 - 1);
    assert_true(stored_has(s->bed, "join", "\"n0\":1"));
}

static void test_patch(void **state)
{
    struct supervised *s = *state;
    worker_bed_trigger(s->bed, "join", "JOIN", "{\"join\":10,\"x\":1}", "{\"name\":\"PASS\"}", "t", "j");
    worker_bed_trigger(s->bed, "true", "TRUE", "{\"x\":1}", "{\"name\":\"PASS\"}", "t", "j");
    supervised_start(s, NULL);
    /* State members count on from what they are set to, also after a kill. */
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"join\",\"context\":"
                                       "{\"counter\":100,\"join\":200,\"x\":null}"),
                     1);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 100);
    assert_false(stored_has(s->bed, "join", "\"x\""));
    supervised_start(s, NULL);
    worker_bed_publish(s->bed, "t", "j", 5);
    worker_bed_settle(s->bed);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 105);
    /* One without a state of its own is stored, too. */
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"true\",\"context\":{\"y\":[2]}"),
                     1);
    assert_true(stored_has(s->bed, "true", "\"y\":[2]"));
    /* What the condition refuses changes nothing. */
    assert_int_equal(
        supervised_ask(
            s, "\"message\":\"patch\",\"trigger\":\"join\",\"context\":{\"counter\":7,\"join\":\"z\"}"),
        -400);
    assert_non_null(strstr(s->answer, "context.join"));
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"join\",\"context\":{\"z\":1}"),
                     1);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 105);
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"join\",\"context\":{\"join\":0}"),
                     -400);
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"none\",\"context\":{}"), -404);
    assert_int_equal(
        supervised_ask(
            s, "\"message\":\"patch\",\"trigger\":\"join\",\"uuid\":\"another\",\"context\":{\"z\":2}"),
        -409);
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"join\",\"context\":3"), -400);
    /* A trigger that has just been stored is found. */
    worker_bed_trigger(s->bed, "new", "JOIN", "{\"join\":10}", "{\"name\":\"PASS\"}", "t", "n");
    assert_int_equal(
        supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"new\",\"context\":{\"counter\":3}"), 1);
    assert_int_equal(worker_bed_counter(s->bed, "new"), 3);
}

/* --- pause --- */

static void test_pause(void **state)
{
    struct supervised *s = *state;
    worker_bed_trigger(s->bed, "join", "JOIN", "{\"join\":1000}", "{\"name\":\"PASS\"}", "t", "j");
    worker_bed_trigger(s->bed, "emit", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event\":{\"type\":\"i\",\"subject\":\"i\"}}", "t", "j");
    worker_bed_trigger(s->bed, "in", "JOIN", "{\"join\":1000}", "{\"name\":\"PASS\"}", "i", "i");
    supervised_start(s, NULL);
    worker_bed_publish(s->bed, "t", "j", 3);
    worker_bed_settle(s->bed);
    assert_int_equal(supervised_ask(s, "\"message\":\"pause\""), 1);
    AWAIT_BED(s->bed, supervised_shows(s, "\"state\":\"paused\",\"paused\":true"));
    worker_bed_publish(s->bed, "t", "j", 40);
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"join\",\"context\":{\"a\":1}"),
                     1);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 3);
    supervised_start(s, NULL); /* kill -9 */
    AWAIT_BED(s->bed, supervised_shows(s, "\"state\":\"paused\""));
    assert_int_equal(supervised_ask(s, "\"message\":\"pause\""), 1);
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"join\",\"context\":{\"a\":2}"),
                     1);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 3);
    assert_int_equal(supervised_ask(s, "\"message\":\"resume\""), 1);
    worker_bed_settle(s->bed);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 43);
    AWAIT_BED(s->bed, worker_bed_counter(s->bed, "in") == 43);
    AWAIT_BED(s->bed, supervised_shows(s, "\"state\":\"running\",\"paused\":false"));
    /* One that is paused can be stopped, and takes nothing up while it drains. */
    assert_int_equal(supervised_ask(s, "\"message\":\"pause\""), 1);
    worker_bed_publish(s->bed, "t", "j", 7);
    supervised_send(s, "{\"message\":\"stop\"}");
    assert_int_equal(worker_bed_end(s->bed), 0);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 43);
    supervised_start(s, NULL);
    assert_int_equal(supervised_ask(s, "\"message\":\"resume\""), 1);
    worker_bed_settle(s->bed);
    assert_int_equal(worker_bed_counter(s->bed, "join"), 50);
}

/* --- redrive --- */

static void test_redrive_event(void **state)
{
    struct supervised *s = *state;
    supervised_start(s, NULL);
    worker_bed_publish(s->bed, "t", "late", 1);
    AWAIT_BED(s->bed, workspace_dead_letters(&s->bed->workspace, "no_trigger") == 1);
    char before[64];
    snprintf(before, sizeof before, "%s", letter(0));
    /* It matches nothing still. */
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\",\"%s\"]", before, before),
                     1);
    AWAIT_BED(s->bed, *letter(0) && strcmp(letter(0), before));
    assert_int_equal(workspace_count(&s->bed->workspace, "dead_letters"), 1);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", before), -404);
    worker_bed_trigger(s->bed, "join", "JOIN", "{\"join\":10}", "{\"name\":\"PASS\"}", "t", "late");
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", letter(0)), 1);
    AWAIT_BED(s->bed, worker_bed_counter(s->bed, "join") == 1);
    assert_int_equal(workspace_count(&s->bed->workspace, "dead_letters"), 0);
}

static void test_redrive_bad(void **state)
{
    struct supervised *s = *state;
    supervised_start(s, NULL);
    assert_int_equal(workspace_publish(&s->bed->workspace, "in", &(struct publication){.subject = "x"}, 1),
                     0);
    AWAIT_BED(s->bed, workspace_dead_letters(&s->bed->workspace, "invalid_event") == 1);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", letter(0)), -409);
    assert_non_null(strstr(s->answer, "invalid_event"));
    assert_int_equal(workspace_count(&s->bed->workspace, "dead_letters"), 1);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"none\"]"), -404);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[3]"), -400);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\""), -400);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[]"), 0);
}

static void test_redrive_intent(void **state)
{
    static const char key[] = "0123456789abcdef0123456789abcdef";
    struct supervised *s = *state;
    char text[512];
    snprintf(
        text, sizeof text,
        "{\"reason\":\"action_failed\",\"key\":\"%s\",\"event\":{\"id\":\"e\",\"type\":\"o\",\"source\":"
        "\"s\"},"
        "\"intent\":{\"key\":\"%s\",\"trigger\":\"t\",\"action\":\"EMIT\",\"body\":{\"event_source\":\"out\","
        "\"event\":{\"id\":\"%s\",\"type\":\"o\",\"source\":\"s\"}}}}",
        key, key, key);
    redis_do("HSET", "ws-dead_letters", "5-1", text);
    supervised_start(s, NULL);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"5-1\"]"), 1);
    AWAIT_BED(s->bed, workspace_stream_length(&s->bed->workspace, "out") == 1);
    assert_string_equal(worker_bed_entry(s->bed, "out", 0, "id"), key);
    AWAIT_BED(s->bed, workspace_count(&s->bed->workspace, "outbox") == 0);
    assert_int_equal(workspace_count(&s->bed->workspace, "dead_letters"), 0);
}

/* --- kills --- */

#define LETTERS 30

static void put_letters(void)
{
    char number[16], text[160];
    for (unsigned i = 0; i < LETTERS; i++) {
        snprintf(number, sizeof number, "n-%02u", i);
        snprintf(text, sizeof text,
                 "{\"reason\":\"no_trigger\",\"event\":{\"id\":\"e%u\",\"type\":\"t\",\"source\":\"s\","
                 "\"subject\":"
                 "\"j\"}}",
                 i);
        redis_do("HSET", "ws-dead_letters", number, text);
    }
}

/* Redrives everything, whatever happens to the worker; what its end has taken back is asked for again. */
static void redrive_through(struct supervised *s, const char *crash)
{
    supervised_start(s, crash);
    for (unsigned i = 0; i < LETTERS; i++) {
        char number[16];
        snprintf(number, sizeof number, "n-%02u", i);
        long long r = supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", number);
        if (r == -1)
            supervised_start(s, NULL);
        if (r == -1 || (r == -503 && !supervised_listen(s)))
            i--;
        else
            assert_true(r == 1 || r == -404);
    }
    AWAIT_BED(s->bed, workspace_count(&s->bed->workspace, "internal") == 0 &&
                          workspace_count(&s->bed->workspace, "dead_letters") == 0 &&
                          worker_bed_counter(s->bed, "join") >= LETTERS);
    assert_int_equal(worker_bed_counter(s->bed, "join"), LETTERS);
}

static void begin_redrives(struct supervised *s)
{
    supervised_kill(s);
    redis_do("DEL", "ws-checkpoint", "ws-internal", NULL);
    worker_bed_trigger(s->bed, "join", "JOIN", "{\"join\":1000}", "{\"name\":\"PASS\"}", "t", "j");
    put_letters();
}

static void test_redrive_through_kills(void **state)
{
    struct supervised *s = *state;
    for (unsigned life = 0; life < 5; life++) {
        begin_redrives(s);
        supervised_start(s, NULL);
        for (unsigned i = 0; i < LETTERS; i++) /* killed with all of them on their way */
            supervised_send(s, "{\"message\":\"redrive\",\"numbers\":[\"n-%02u\"]}", i);
        for (unsigned i = 0; i < life; i++)
            wait_moment();
        redrive_through(s, NULL);
    }
}

static void test_redrive_at_crash_points(void **state)
{
#ifdef CRASH_POINTS
    static const char *const points[] = {"injected",      "request_applied", "barrier",     "cut",
                                         "commit_before", "commit_after",    "handed_over", "acknowledged"};
    struct supervised *s = *state;
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        for (unsigned count = 1; count < 12; count += 5) {
            char crash[48];
            snprintf(crash, sizeof crash, "%s %u", points[i], count);
            begin_redrives(s);
            redrive_through(s, crash);
        }
#else
    (void)state;
    printf("skipped: no crash points in this build\n");
    skip();
#endif
}

/* --- timers --- */

static void put_timer(const char *id, uint64_t at, const char *source, const char *event)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"at\":%llu,\"event_source\":%s,\"event\":%s}", (unsigned long long)at,
             source, event);
    redis_do("HSET", "ws-timers", id, text);
}

#define TIMER_EVENT \
    "{\"type\":\"event.triggerflow.timeout\",\"subject\":\"s\",\"source\":\"x\",\"id\":\"%u\"}"
#define TIMERS 40

/* They come in the order of their times, each once. */
static void test_timers(void **state)
{
    struct supervised *s = *state;
    char id[16], event[160];
    worker_bed_trigger(s->bed, "t", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"o\"}}",
                       "event.triggerflow.timeout", "s");
    supervised_start(s, NULL);
    uint64_t now = clock_unix_ns();
    for (unsigned i = 0; i < TIMERS; i++) {
        unsigned rank = i * 17 % TIMERS;
        snprintf(id, sizeof id, "timer%u", i);
        snprintf(event, sizeof event,
                 "{\"type\":\"event.triggerflow.timeout\",\"subject\":\"s\",\"id\":\"%u\",\"source\":\"x\","
                 "\"data\":%u}",
                 rank, rank);
        put_timer(id, now + 300 * CLOCK_MS + rank * 7 * CLOCK_MS,
                  i % 2 ? "{}" : "{\"name\":\"h\",\"class\":\"HTTPEventSource\",\"parameters\":{}}", event);
    }
    put_timer("never", now + 3600 * CLOCK_S, "{}", event);
    put_timer("gone", now + 1 * CLOCK_S, "{}", event);
    supervised_send(s, "{\"message\":\"reload\"}");
    AWAIT_BED(s->bed, supervised_shows(s, "\"timers\":{\"count\":42,\"next\":\"2"));
    redis_do("HDEL", "ws-timers", "gone", NULL);
    supervised_send(s, "{\"message\":\"reload\"}");
    AWAIT_BED(s->bed, workspace_count(&s->bed->workspace, "timers") == 1 &&
                          workspace_stream_length(&s->bed->workspace, "out") == TIMERS);
    for (unsigned i = 0; i < TIMERS; i++) {
        snprintf(id, sizeof id, "%u", i);
        assert_string_equal(worker_bed_entry(s->bed, "out", i, "data"), id);
    }
    AWAIT_BED(s->bed, supervised_shows(s, "\"timers\":{\"count\":1,"));
}

/* To event sources: stored, and given in full; and what cannot work. */
static void test_timers_out(void **state)
{
    struct supervised *s = *state;
    static const char event[] = "{\"type\":\"event.triggerflow.timeout\"}";
    char given[256];
    snprintf(given, sizeof given,
             "{\"name\":\"other\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\","
             "\"port\":%d,"
             "\"stream\":\"given\"}}",
             redis.port);
    put_timer("known", 1, "{\"name\":\"out\"}", event);
    put_timer("given", 1, given, event);
    put_timer("class", 1, "{\"name\":\"n\",\"class\":\"NoSuchSource\",\"parameters\":{}}", event);
    put_timer("unknown", 1, "{\"name\":\"n\"}", event);
    put_timer("event", 1, "{}", "{\"type\":3}");
    put_timer("type", 1, "{}", "{}");
    redis_do("HSET", "ws-timers", "json", "{");
    redis_do("HSET", "ws-timers", "at", "{\"at\":\"soon\",\"event_source\":{},\"event\":{\"type\":\"x\"}}");
    supervised_start(s, NULL);
    AWAIT_BED(s->bed, workspace_count(&s->bed->workspace, "timers") == 0);
    assert_int_equal(workspace_dead_letters(&s->bed->workspace, "invalid_timer"), 6);
    AWAIT_BED(s->bed, workspace_stream_length(&s->bed->workspace, "out") == 1 &&
                          workspace_stream_length(&s->bed->workspace, "given") == 1);
    assert_string_equal(worker_bed_entry(s->bed, "given", 0, "type"), "event.triggerflow.timeout");
    AWAIT_BED(s->bed, workspace_count(&s->bed->workspace, "outbox") == 0);
    assert_int_equal(supervised_ask(s, "\"message\":\"redrive\",\"numbers\":[\"%s\"]", letter(0)), -409);
}

static void test_timers_paused(void **state)
{
    struct supervised *s = *state;
    worker_bed_trigger(s->bed, "t", "JOIN", "{\"join\":9}", "{\"name\":\"PASS\"}",
                       "event.triggerflow.timeout", "s");
    supervised_start(s, NULL);
    assert_int_equal(supervised_ask(s, "\"message\":\"pause\""), 1);
    put_timer("a", 1, "{}", "{\"type\":\"event.triggerflow.timeout\",\"subject\":\"s\"}");
    supervised_send(s, "{\"message\":\"reload\"}");
    AWAIT_BED(s->bed, supervised_shows(s, "\"timers\":{\"count\":1,"));
    assert_int_equal(supervised_ask(s, "\"message\":\"patch\",\"trigger\":\"t\",\"context\":{\"a\":1}"), 1);
    assert_int_equal(workspace_count(&s->bed->workspace, "timers"), 1);
    assert_int_equal(supervised_ask(s, "\"message\":\"resume\""), 1);
    AWAIT_BED(s->bed, worker_bed_counter(s->bed, "t") == 1);
}

static void put_due_timers(void)
{
    char id[16], event[128];
    uint64_t now = clock_unix_ns();
    for (unsigned i = 0; i < TIMERS; i++) {
        snprintf(id, sizeof id, "timer%u", i);
        snprintf(event, sizeof event, TIMER_EVENT, i);
        put_timer(id, now + i * 2 * CLOCK_MS, i % 4 ? "{}" : "{\"name\":\"out\"}", event);
    }
}

static unsigned distinct_emissions(void)
{
    char ids[TIMERS][64] = {""};
    unsigned n = 0;
    redisReply *all = redis_server_do(&redis, "XRANGE out - +");
    assert_non_null(all);
    for (size_t i = 0; i < all->elements; i++) {
        const redisReply *fields = all->element[i]->element[1];
        const char *id = "";
        for (size_t j = 0; j + 1 < fields->elements; j += 2)
            if (!strcmp(fields->element[j]->str, "id"))
                id = fields->element[j + 1]->str;
        unsigned at = 0;
        while (at < n && strcmp(ids[at], id))
            at++;
        if (at == n)
            snprintf(ids[n++], sizeof ids[0], "%s", id);
    }
    freeReplyObject(all);
    return n;
}

static bool timers_done(struct worker_bed *bed)
{
    return workspace_count(&bed->workspace, "timers") == 0 &&
           workspace_count(&bed->workspace, "internal") == 0 &&
           workspace_count(&bed->workspace, "outbox") == 0;
}

/* A worker of the crash build dies at the point; its successors finish: internal ones exactly once, those
 * that go out at least once with one id each. */
static void timers_through(struct worker_bed *bed, const char *point, unsigned count)
{
    char path[96], setting[128];
    int status;
    snprintf(path, sizeof path, "%s/crash", bed->dir);
    snprintf(setting, sizeof setting, "TRIGGERFLOW_CRASH_FILE=%s", path);
    redis_do("DEL", "ws-checkpoint", "out", NULL);
    worker_bed_trigger(bed, "t", "JOIN", "{\"join\":1000}", "{\"name\":\"PASS\"}",
                       "event.triggerflow.timeout", "s");
    put_due_timers();
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "%s %u\n", point, count);
    fclose(file);
    worker_bed_start(bed, NULL, NULL, setting);
    AWAIT_BED(bed, process_ended(&bed->worker, &status) || timers_done(bed));
    process_kill(&bed->worker, SIGKILL);
    worker_bed_start(bed, NULL, NULL, NULL);
    AWAIT_BED(bed, worker_bed_running(bed) && timers_done(bed) &&
                       worker_bed_counter(bed, "t") >= TIMERS - TIMERS / 4);
    process_kill(&bed->worker, SIGKILL);
    assert_int_equal(worker_bed_counter(bed, "t"), TIMERS - TIMERS / 4);
    assert_int_equal(distinct_emissions(), TIMERS / 4);
}

static void test_timers_at_crash_points(void **state)
{
    static const char *const points[] = {"recovered",    "injected",      "barrier",      "shard_cut",
                                         "cut",          "commit_before", "commit_after", "handed_over",
                                         "acknowledged", "intent_start",  "published",    "intent_done"};
    struct supervised *s = *state;
    if (!process_crash_program("triggerflow-worker", s->bed->program)) {
        printf("skipped: no %s (make SAN=crash)\n", s->bed->program);
        skip();
    }
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        for (unsigned count = 1; count < 8; count += 3)
            timers_through(s->bed, points[i], count);
}

/* --- decisions --- */

static size_t decisions(struct supervised *s, const char *trigger, struct decision *out, size_t limit)
{
    return decision_read(s->arena, trigger, 0, out, limit);
}

static void test_decisions(void **state)
{
    struct supervised *s = *state;
    static struct decision d[64];
    worker_bed_trigger(s->bed, "join", "JOIN", "{\"join\":3}", "{\"name\":\"PASS\"}", "t", "j");
    worker_bed_trigger(s->bed, "keyed", "FUNCTION_JOIN", "{}", "{\"name\":\"PASS\"}", "k", "k");
    supervised_start(s, NULL);
    worker_bed_publish(s->bed, "t", "j", 3);
    for (int i = 0; i < 2; i++)
        assert_int_equal(
            workspace_publish(&s->bed->workspace, "in",
                              &(struct publication){.id = "e", .type = "k", .subject = "k", .key = "x"}, 1),
            0);
    AWAIT_BED(s->bed, decisions(s, NULL, d, 64) == 5);
    assert_int_equal(decisions(s, "join", d, 64), 3);
    assert_string_equal(d[0].detail, "counter 1 of join 3");
    assert_string_equal(d[0].event_id, "t-j-0");
    assert_string_equal(d[0].type, "t");
    assert_string_equal(d[0].subject, "j");
    assert_false(d[1].fired);
    assert_true(d[2].fired && d[2].holds);
    assert_string_equal(d[2].detail, "counter 3 of join 3");
    assert_int_equal(decisions(s, "keyed", d, 64), 2);
    assert_string_equal(d[0].detail, "counter 1, total_activations not known yet");
    assert_string_equal(d[1].detail, "not evaluated: repeated key");
    worker_bed_settle(s->bed);
    uint64_t last = d[1].sequence;
    supervised_start(s, NULL);
    worker_bed_publish(s->bed, "t", "j", 1);
    AWAIT_BED(s->bed, decisions(s, NULL, d, 64) == 1);
    assert_true(d[0].sequence > last);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_patch_while_events_flow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_patch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redrive_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redrive_bad, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redrive_intent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redrive_through_kills, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redrive_at_crash_points, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timers_out, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timers_paused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timers_at_crash_points, setup, teardown),
        cmocka_unit_test_setup_teardown(test_decisions, setup, teardown),
    };
    if (!redis_server_available()) {
        printf("skipped: no redis-server\n");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return result;
}
