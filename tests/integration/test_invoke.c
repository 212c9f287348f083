/* Invocations through the real worker: what HTTP_INVOKE sends to a function service, what comes of its
 * answers, and what the policies do: limits, order, retries, giving up. Crashes are in test_invoke_crash.c.
 */
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

#include "common/buffer.h"
#include "tests/support/invoke_bed.h"

#define FAILURE "event.triggerflow.termination.failure"

static struct redis_server redis;

static int setup(void **state)
{
    *state = invoke_bed_new(&redis);
    return 0;
}

static int teardown(void **state)
{
    invoke_bed_free(*state);
    return 0;
}

static void up(struct invoke_bed *bed)
{
    worker_bed_up(bed->worker);
}

static void settle(struct invoke_bed *bed)
{
    worker_bed_settle(bed->worker);
}

/* The one dead letter (free). */
static char *letter(struct invoke_bed *bed)
{
    char *text = invoke_bed_letters(bed);
    char *end = strchr(text, '\n');
    if (!end || end[1])
        fail_msg("not one dead letter: %s", text);
    return text;
}

static void assert_letters(struct invoke_bed *bed, long long n)
{
    assert_int_equal(workspace_count(&bed->worker->workspace, "dead_letters"), n);
}

/* --- what is sent --- */

static void test_modes(void **state)
{
    struct invoke_bed *bed = *state;
    static const struct {
        const char *id, *more, *parts[8];
    } rows[] = {
        {"binary",
         "",
         {"POST /f/binary\n", "\nce-id: e\n", "\nce-type: go\n", "\nce-subject: binary\n",
          "\nIdempotency-Key: ", "\nce-triggerflowkey: ", "\nContent-Type: application/json\n",
          "\n\n{\"a\":1}"}},
        {"structured",
         ",\"mode\":\"structured\",\"method\":\"PUT\"",
         {"PUT /f/structured\n", "\nContent-Type: application/cloudevents+json; charset=utf-8\n",
          "\n\n{\"specversion\":\"1.0\",\"id\":\"e\"", "\"data\":{\"a\":1}", "\"triggerflowkey\":\""}},
        {"raw",
         ",\"mode\":\"raw\",\"body\":{\"x\":\"${event.data.a}\",\"g\":\"${global.g.h}\"},\"headers\":{\"X-"
         "Trigger\":"
         "\"${trigger}\"}",
         {"\nX-Trigger: raw\n", "\nContent-Type: application/json\n", "\n\n{\"x\":1,\"g\":[1,2]}"}},
    };
    redisReply *reply = redis_server_do(&redis, "HSET ws-global_context g %s", "{\"h\":[1,2]}");
    freeReplyObject(reply);
    for (size_t i = 0; i < 3; i++) {
        char path[32];
        snprintf(path, sizeof path, "/f/%s", rows[i].id);
        invoke_bed_trigger(bed, rows[i].id, rows[i].id, path, rows[i].more);
    }
    up(bed);
    for (size_t i = 0; i < 3; i++) {
        BUFFER_AUTO last = BUFFER_INIT;
        invoke_bed_go(bed, "e", rows[i].id, "{\"a\":1}");
        settle(bed);
        assert_int_equal(function_server_starts(bed->server, rows[i].id, NULL, NULL), 1);
        function_server_last(bed->server, &last);
        for (size_t p = 0; p < 8 && rows[i].parts[p]; p++)
            invoke_bed_has(buffer_text(&last), rows[i].parts[p]);
    }
    worker_bed_stop(bed->worker);
}

static void write_secret(const struct invoke_bed *bed, const char *name, const char *secret)
{
    char path[128];
    snprintf(path, sizeof path, "%s/secrets", bed->worker->dir);
    (void)mkdir(path, 0700);
    invoke_bed_setting("TRIGGERFLOW_SECRET_DIRECTORY", path);
    snprintf(path, sizeof path, "%s/secrets/%s", bed->worker->dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(secret, file);
    assert_int_equal(fclose(file), 0);
}

/* The service lets nobody in who does not present what it wants; a wrong secret is given up. */
static void authenticate(struct invoke_bed *bed, const char *auth)
{
    char more[512];
    write_secret(bed, "password", "open sesame\n");
    invoke_bed_setting("TRIGGERFLOW_SECRET_TOKEN", "t0ken");
    snprintf(more, sizeof more, ",\"auth\":%s", auth);
    invoke_bed_trigger(bed, "t", "s", "/f/x?q=a%20b&p=1", more);
    up(bed);
    invoke_bed_go(bed, "e", "s", "{\"a\":1}");
    settle(bed);
    assert_int_equal(function_server_refused(bed->server), 0);
    assert_int_equal(function_server_starts(bed->server, "x", NULL, NULL), 1);
    char *text = workspace_get(&bed->worker->workspace, "triggers", "t");
    assert_null(strstr(text, "sesame"));
    free(text);
    write_secret(bed, "password", "another");
    function_server_bearer(bed->server, "another");
    invoke_bed_go(bed, "e2", "s", "{\"a\":1}");
    settle(bed);
    assert_int_equal(function_server_refused(bed->server), 1);
    text = letter(bed);
    assert_null(strstr(text, "another"));
    assert_null(strstr(text, "t0ken"));
    free(text);
    worker_bed_stop(bed->worker);
}

static void test_basic(void **state)
{
    struct invoke_bed *bed = *state;
    function_server_basic(bed->server, "user:open sesame");
    authenticate(bed, "{\"basic\":{\"user\":\"user\",\"password\":{\"file\":\"password\"}}}");
}

static void test_bearer(void **state)
{
    struct invoke_bed *bed = *state;
    function_server_bearer(bed->server, "t0ken");
    authenticate(bed, "{\"bearer\":{\"env\":\"TRIGGERFLOW_SECRET_TOKEN\"}}");
}

static void test_sigv4(void **state)
{
    struct invoke_bed *bed = *state;
    function_server_sigv4(bed->server, "AKID", "open sesame", "t0ken", "eu-west-1", "lambda");
    authenticate(bed,
                 "{\"aws_sigv4\":{\"region\":\"eu-west-1\",\"service\":\"lambda\",\"access_key_id\":\"AKID\","
                 "\"secret_access_key\":{\"file\":\"password\"},\"session_token\":{\"env\":"
                 "\"TRIGGERFLOW_SECRET_TOKEN\"}}}");
}

static void test_secret_is_absent(void **state)
{
    struct invoke_bed *bed = *state;
    write_secret(bed, "password", "x");
    invoke_bed_trigger(bed, "later", "later", "/f/later",
                       ",\"retries\":1000,\"headers\":{\"X-S\":{\"file\":\"late\"}}");
    invoke_bed_trigger(bed, "never", "never", "/f/never",
                       ",\"headers\":{\"X-S\":{\"file\":\"/etc/passwd\"}}");
    up(bed);
    invoke_bed_go(bed, "1", "never", "{}");
    invoke_bed_go(bed, "2", "later", "{}");
    AWAIT_BED(bed->worker, worker_bed_logged(bed->worker, "secret file late does not exist"));
    write_secret(bed, "late", "here");
    settle(bed);
    assert_int_equal(function_server_requests(bed->server), 1);
    char *text = letter(bed);
    invoke_bed_has(text, "header X-S: secret file /etc/passwd: not a name");
    free(text);
    worker_bed_stop(bed->worker);
}

static void test_bad_paths(void **state)
{
    struct invoke_bed *bed = *state;
    invoke_bed_trigger(bed, "t", "s", "/f/x", ",\"headers\":{\"X-A\":\"${event.data.a}\"}");
    up(bed);
    invoke_bed_go(bed, "1", "s", "{\"b\":1}");
    invoke_bed_go(bed, "2", "s", "{\"a\":\"two\\r\\nX-Evil: 1\"}");
    invoke_bed_go(bed, "3", "s", "{\"a\":\"fine\"}");
    settle(bed);
    assert_int_equal(function_server_requests(bed->server), 1);
    char *text = invoke_bed_letters(bed);
    invoke_bed_has(text, "headers: ${event.data.a}: leads to nothing");
    invoke_bed_has(text, "the value of header X-A holds control characters");
    free(text);
    assert_letters(bed, 2);
    worker_bed_stop(bed->worker);
}

/* --- answers --- */

static void test_replies(void **state)
{
    struct invoke_bed *bed = *state;
    static const char more[] =
        ",\"reply\":\"event\",\"reply_type\":\"answered\",\"reply_subject\":\"${event.subject}!\"";
    static const struct {
        const char *subject, *body, *type, *data;
    } rows[] = {
        {"json", "{\"x\":[1]}", "application/json", "{\"x\":[1]}"},
        {"text", "plain <b>", "text/html", "plain <b>"},
        {"none", "", "text/plain", NULL},
    };
    function_server_behave(bed->server, "json", &(struct function_behaviour){.body = rows[0].body});
    function_server_behave(bed->server, "text",
                           &(struct function_behaviour){.body = rows[1].body, .content_type = "text/html"});
    function_server_behave(bed->server, "none", &(struct function_behaviour){.status = 204, .body = ""});
    for (size_t i = 0; i < 3; i++) {
        char path[32], subject[32];
        snprintf(path, sizeof path, "/f/%s", rows[i].subject);
        snprintf(subject, sizeof subject, "%s!", rows[i].subject);
        invoke_bed_trigger(bed, rows[i].subject, rows[i].subject, path, more);
        worker_bed_trigger(bed->worker, subject, "TRUE", "{}",
                           "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"seen\"}}",
                           "answered", subject);
    }
    up(bed);
    for (unsigned i = 0; i < 3; i++) {
        invoke_bed_go(bed, rows[i].subject, rows[i].subject, "{}");
        settle(bed);
        AWAIT_BED(bed->worker, workspace_stream_length(&bed->worker->workspace, "out") == i + 1);
        const char *data = worker_bed_entry(bed->worker, "out", i, "data");
        assert_string_equal(data, rows[i].data ? rows[i].data : "");
    }
    settle(bed);
    worker_bed_stop(bed->worker);
}

static void test_replies_are_counted(void **state)
{
    struct invoke_bed *bed = *state;
    invoke_bed_trigger(bed, "t", "*", "/f/x",
                       ",\"reply\":\"event\",\"reply_type\":\"answered\",\"subject\":\"s\"");
    invoke_bed_counter(bed, "count", "answered", "s");
    up(bed);
    invoke_bed_go_many(bed, "n", 2000);
    AWAIT_BED(bed->worker, invoke_bed_count(bed, "count") == 2000);
    settle(bed);
    assert_int_equal(function_server_keys(bed->server, "x", NULL), 2000);
    assert_int_equal(function_server_requests(bed->server), 2000);
    assert_letters(bed, 0);
    worker_bed_stop(bed->worker);
}

static void test_reply_too_long(void **state)
{
    struct invoke_bed *bed = *state;
    invoke_bed_setting("TRIGGERFLOW_MAX_ANSWER_BYTES", "1KiB");
    function_server_behave(bed->server, "flood", &(struct function_behaviour){.mode = FUNCTION_FLOODS});
    invoke_bed_trigger(bed, "reply", "reply", "/f/flood", ",\"reply\":\"event\"");
    invoke_bed_trigger(bed, "ignore", "ignore", "/f/flood", "");
    up(bed);
    invoke_bed_go(bed, "1", "reply", "{}");
    invoke_bed_go(bed, "2", "ignore", "{}");
    settle(bed);
    assert_int_equal(function_server_requests(bed->server), 2);
    char *text = letter(bed);
    invoke_bed_has(text, "answered 200: the answer has more than 1024 bytes");
    invoke_bed_has(text, "\"trigger\":\"reply\"");
    invoke_bed_has(text, "\"cut\":true");
    free(text);
    worker_bed_stop(bed->worker);
}

/* --- retries, and giving up --- */

/* Starts of the one key. */
static void assert_starts(struct invoke_bed *bed, const char *function, unsigned n)
{
    assert_int_equal(function_server_starts(bed->server, function, NULL, NULL), n);
    assert_int_equal(function_server_keys(bed->server, function, NULL), 1);
}

static void test_transient(void **state)
{
    struct invoke_bed *bed = *state;
    static const struct {
        const char *name;
        enum function_mode mode;
        unsigned status;
    } rows[] = {{"408", 0, 408},
                {"409", 0, 409},
                {"429", 0, 429},
                {"500", 0, 500},
                {"503", 0, 503},
                {"302", 0, 302},
                {"drop", FUNCTION_DROPS, 0},
                {"hang", FUNCTION_HANGS, 0},
                {"cut", FUNCTION_TRUNCATES, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char path[32];
        snprintf(path, sizeof path, "/f/%s", rows[i].name);
        function_server_behave(
            bed->server, rows[i].name,
            &(struct function_behaviour){.mode = rows[i].mode, .status = rows[i].status, .fail_first = 2});
        invoke_bed_trigger(bed, rows[i].name, rows[i].name, path, ",\"timeout_s\":0.5");
    }
    up(bed);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        invoke_bed_go(bed, rows[i].name, rows[i].name, "{}");
    settle(bed);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_starts(bed, rows[i].name, 3);
    assert_letters(bed, 0);
    worker_bed_stop(bed->worker);
}

static void test_permanent(void **state)
{
    struct invoke_bed *bed = *state;
    static const unsigned statuses[] = {400, 401, 403, 404, 410, 422};
    up(bed);
    for (unsigned i = 0; i < 6; i++) {
        char name[16], path[32];
        snprintf(name, sizeof name, "%u", statuses[i]);
        snprintf(path, sizeof path, "/f/%s", name);
        function_server_behave(bed->server, name, &(struct function_behaviour){.status = statuses[i]});
        invoke_bed_trigger(bed, name, name, path, "");
        invoke_bed_go(bed, name, name, "{}");
        settle(bed);
        assert_starts(bed, name, 1);
        assert_letters(bed, i + 1);
    }
    worker_bed_stop(bed->worker);
}

static void test_given_up(void **state)
{
    struct invoke_bed *bed = *state;
    function_server_behave(
        bed->server, "x",
        &(struct function_behaviour){.status = 503, .body = "{\"token\":\"hush\",\"why\":\"busy\"}"});
    worker_bed_trigger(bed->worker, "t", "TRUE", "{\"subject\":\"task\"}",
                       invoke_bed_action(bed, "/f/x?api_key=hush",
                                         ",\"retries\":2,\"headers\":{\"Authorization\":\"hush\"}"),
                       "go", "s");
    invoke_bed_counter(bed, "failed", FAILURE, "task");
    invoke_bed_counter(bed, "any", FAILURE, "*");
    up(bed);
    invoke_bed_go(bed, "e", "s", "{}");
    AWAIT_BED(bed->worker, invoke_bed_count(bed, "failed") == 1);
    settle(bed);
    assert_int_equal(invoke_bed_count(bed, "any"), 1);
    assert_starts(bed, "x", 3);
    char *text = letter(bed);
    static const char *const parts[] = {"\"reason\":\"action_failed\"",
                                        "\"detail\":\"answered 503\"",
                                        "\"attempts\":3",
                                        "\"status\":503",
                                        "\"why\":\"busy\"",
                                        "\"key\":\"",
                                        "\"method\":\"POST\"",
                                        "/f/x?api_key=(redacted)"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        invoke_bed_has(text, parts[i]);
    assert_null(strstr(text, "hush"));
    free(text);
    assert_false(worker_bed_logged(bed->worker, "hush"));
    worker_bed_stop(bed->worker);
}

/* Nobody waits for the failure: no event, and so no second dead letter. */
static void test_failure_is_not_waited_for(void **state)
{
    struct invoke_bed *bed = *state;
    function_server_behave(bed->server, "x", &(struct function_behaviour){.status = 404});
    invoke_bed_trigger(bed, "t", "*", "/f/x", "");
    up(bed);
    invoke_bed_go_many(bed, "n", 50);
    settle(bed);
    assert_letters(bed, 50);
    assert_int_equal(workspace_dead_letters(&bed->worker->workspace, "action_failed"), 50);
    worker_bed_stop(bed->worker);
}

static void see_span(void *data, const char *function, const char *task, const char *key, unsigned starts,
                     uint64_t first_ns, uint64_t last_ns)
{
    uint64_t *span = data;
    (void)function, (void)task, (void)key;
    *span = starts == 2 ? last_ns - first_ns : 0;
}

static void test_retry_after(void **state)
{
    struct invoke_bed *bed = *state;
    uint64_t span = 0;
    function_server_behave(bed->server, "x",
                           &(struct function_behaviour){.status = 429, .retry_after = "1", .fail_first = 1});
    invoke_bed_trigger(bed, "t", "s", "/f/x", "");
    up(bed);
    invoke_bed_go(bed, "e", "s", "{}");
    settle(bed);
    function_server_each(bed->server, see_span, &span);
    assert_in_range(span, CLOCK_S, UINT64_MAX);
    worker_bed_stop(bed->worker);
}

/* --- limits --- */

static void limit(struct invoke_bed *bed, const char *more, unsigned at_once)
{
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.delay_ms = 3});
    invoke_bed_trigger(bed, "t", "*", "/f/x", more);
    up(bed);
    invoke_bed_go_many(bed, "n", 100);
    settle(bed);
    assert_int_equal(function_server_requests(bed->server), 100);
    assert_int_equal(function_server_most_at_once(bed->server), at_once);
    worker_bed_stop(bed->worker);
}

static void test_limit_of_trigger(void **state)
{
    limit(*state, ",\"max_in_flight\":2", 2);
}

static void test_limit_of_host(void **state)
{
    invoke_bed_setting("TRIGGERFLOW_MAX_IN_FLIGHT_PER_HOST", "3");
    limit(*state, "", 3);
}

static void test_limit_of_worker(void **state)
{
    invoke_bed_setting("TRIGGERFLOW_MAX_IN_FLIGHT", "4");
    limit(*state, ",\"max_in_flight\":50", 4);
}

struct order {
    unsigned n;
    uint64_t first_ns, last_ns;
};

static void see_order(void *data, const char *function, const char *task, const char *key, unsigned starts,
                      uint64_t first_ns, uint64_t last_ns)
{
    struct order *o = data;
    char expected[32];
    (void)function, (void)key;
    snprintf(expected, sizeof expected, "n%u", o->n++);
    assert_string_equal(task, expected);
    assert_int_equal(starts, 1);
    if (!o->first_ns)
        o->first_ns = first_ns;
    o->last_ns = last_ns;
}

static void test_rate(void **state)
{
    struct invoke_bed *bed = *state;
    struct order o = {.n = 0};
    invoke_bed_setting("TRIGGERFLOW_SHARDS", "1");
    invoke_bed_trigger(bed, "t", "*", "/f/x", ",\"rate\":50,\"max_in_flight\":1");
    up(bed);
    invoke_bed_go_many(bed, "n", 26);
    settle(bed);
    function_server_each(bed->server, see_order, &o);
    assert_int_equal(o.n, 26);
    assert_in_range(o.last_ns - o.first_ns, CLOCK_S / 4, UINT64_MAX); /* the service may be slow to look */
    worker_bed_stop(bed->worker);
}

static void see_turn(void *data, const char *function, const char *task, const char *key, unsigned starts,
                     uint64_t first_ns, uint64_t last_ns)
{
    struct order *o = data;
    (void)task, (void)key, (void)starts, (void)last_ns;
    uint64_t *at = strcmp(function, "one") ? &o->last_ns : &o->first_ns;
    *at = *at > first_ns ? *at : first_ns;
}

/* Triggers whose calls begin at a time take turns: one call is not behind the thousand of another trigger. */
static void test_turns(void **state)
{
    struct invoke_bed *bed = *state;
    struct order o = {.n = 0};
    invoke_bed_setting("TRIGGERFLOW_SHARDS", "1");
    invoke_bed_trigger(bed, "many", "*", "/f/many", "");
    invoke_bed_trigger(bed, "one", "n799", "/f/one", "");
    invoke_bed_go_many(bed, "n", 800);
    up(bed);
    settle(bed);
    assert_int_equal(function_server_requests(bed->server), 801);
    function_server_each(bed->server, see_turn, &o);
    assert_true(o.first_ns < o.last_ns);
    worker_bed_stop(bed->worker);
}

/* A trigger is replaced by one without its rate while invocations wait for that. */
static void test_rate_lifted(void **state)
{
    struct invoke_bed *bed = *state;
    char *text;
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.delay_ms = 500});
    invoke_bed_trigger(bed, "t", "old", "/f/x", ",\"rate\":0.1");
    invoke_bed_trigger(bed, "other", "other", "/f/y", ",\"rate\":500");
    up(bed);
    for (unsigned i = 0; i < 3; i++) {
        char id[16];
        snprintf(id, sizeof id, "old-%u", i);
        invoke_bed_go(bed, id, "old", "{}");
    }
    AWAIT_BED(bed->worker, function_server_requests(bed->server) > 0);
    assert_true(asprintf(&text,
                         "{\"id\":\"t\",\"uuid\":\"new\",\"condition\":{\"name\":\"TRUE\"},\"action\":%s,"
                         "\"context\":{},\"activation_events\":[{\"type\":\"go\",\"subject\":\"new\"}]}",
                         invoke_bed_action(bed, "/f/x", "")) > 0);
    assert_int_equal(workspace_put_trigger(&bed->worker->workspace, "t", text), 0);
    free(text);
    invoke_bed_go(bed, "new", "new", "{}");
    AWAIT_BED(bed->worker, function_server_requests(bed->server) == 4);
    settle(bed);
    for (unsigned i = 0; i < 20; i++) { /* nothing is left of the limit that these could come upon */
        char id[16];
        snprintf(id, sizeof id, "other-%u", i);
        invoke_bed_go(bed, id, "other", "{}");
    }
    settle(bed);
    assert_int_equal(function_server_requests(bed->server), 24);
    worker_bed_stop(bed->worker);
}

/* A function that hangs leaves places to another on the same host, and its host to others. */
static void test_places_left(void **state)
{
    struct invoke_bed *bed = *state;
    struct function_server *elsewhere = function_server_new();
    char action[128];
    assert_non_null(elsewhere);
    invoke_bed_setting("TRIGGERFLOW_MAX_IN_FLIGHT_PER_HOST", "50");
    invoke_bed_setting("TRIGGERFLOW_MAX_IN_FLIGHT", "50");
    function_server_behave(bed->server, "stuck", &(struct function_behaviour){.mode = FUNCTION_HANGS});
    snprintf(action, sizeof action, "{\"name\":\"HTTP_INVOKE\",\"url\":\"http://127.0.0.1:%u/f/there\"}",
             function_server_port(elsewhere));
    worker_bed_trigger(bed->worker, "stuck", "TRUE", "{}", invoke_bed_action(bed, "/f/stuck", ""), "stick",
                       "s");
    invoke_bed_trigger(bed, "well", "*", "/f/well", "");
    worker_bed_trigger(bed->worker, "there", "TRUE", "{}", action, "go", "*");
    up(bed);
    worker_bed_publish(bed->worker, "stick", "s", 500);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "stuck", NULL, NULL) == 32);
    invoke_bed_go_many(bed, "n", 300);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "well", NULL, NULL) == 300 &&
                               function_server_requests(elsewhere) == 300);
    assert_int_equal(function_server_starts(bed->server, "stuck", NULL, NULL), 32);
    process_kill(&bed->worker->worker, SIGKILL);
    function_server_free(elsewhere);
}

/* Far more than are kept in memory: the rest waits in storage, and all start in order. */
static void test_waiting_in_storage(void **state)
{
    struct invoke_bed *bed = *state;
    struct order o = {.n = 0};
    invoke_bed_setting("TRIGGERFLOW_MAX_PENDING_ACTIONS", "7");
    invoke_bed_trigger(bed, "t", "*", "/f/x", ",\"max_in_flight\":1");
    up(bed);
    invoke_bed_go_many(bed, "n", 3000);
    settle(bed);
    function_server_each(bed->server, see_order, &o);
    assert_int_equal(o.n, 3000);
    assert_letters(bed, 0);
    worker_bed_stop(bed->worker);
}

/* --- bad functions beside a good one --- */

/* VmHWM in KiB. */
static long memory_peak(pid_t pid)
{
    char path[64], line[256];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &kib) == 1)
            break;
    fclose(file);
    return kib;
}

static void test_bad_neighbours(void **state)
{
    struct invoke_bed *bed = *state;
    static const struct {
        const char *name;
        struct function_behaviour behaviour;
    } bad[] = {{"hang", {.mode = FUNCTION_HANGS}},
               {"error", {.status = 500}},
               {"flood", {.mode = FUNCTION_FLOODS}},
               {"headers", {.mode = FUNCTION_FLOODS_HEADERS}}};
    invoke_bed_setting("TRIGGERFLOW_STOP_TIMEOUT", "2s");
    for (size_t i = 0; i < 4; i++) {
        char path[32];
        snprintf(path, sizeof path, "/f/%s", bad[i].name);
        function_server_behave(bed->server, bad[i].name, &bad[i].behaviour);
        invoke_bed_trigger(bed, bad[i].name, "bad", path,
                           ",\"retries\":1000,\"reply\":\"event\",\"max_in_flight\":50");
    }
    invoke_bed_trigger(bed, "good", "good", "/f/good",
                       ",\"reply\":\"event\",\"reply_type\":\"answered\",\"reply_subject\":\"good\"");
    invoke_bed_counter(bed, "count", "answered", "good");
    up(bed);
    worker_bed_publish(bed->worker, "go", "bad", 200);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "hang", NULL, NULL) == 50);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "error", NULL, NULL) > 200);
    for (unsigned i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof id, "g%u", i);
        invoke_bed_go(bed, id, "good", "{}");
        AWAIT_BED(bed->worker, invoke_bed_count(bed, "count") == i + 1);
    }
    assert_int_equal(function_server_starts(bed->server, "good", NULL, NULL), 20);
    if (!getenv("TEST_REPORTS")) /* sanitizers keep what is freed */
        assert_in_range(memory_peak(bed->worker->worker.pid), 1, 150 * 1024);
    worker_bed_stop(bed->worker);
}

/* Ends at once although invocations wait for their turn or their next attempt; they go on in the next life.
 */
static void test_stop_and_go_on(void **state)
{
    struct invoke_bed *bed = *state;
    function_server_behave(bed->server, "x",
                           &(struct function_behaviour){.status = 503, .retry_after = "200"});
    function_server_behave(bed->server, "y", &(struct function_behaviour){.delay_ms = 20});
    invoke_bed_trigger(bed, "x", "x", "/f/x", ",\"retries\":1000");
    invoke_bed_trigger(bed, "y", "*", "/f/y", ",\"max_in_flight\":1");
    up(bed);
    worker_bed_publish(bed->worker, "go", "x", 10);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "x", NULL, NULL) >= 10);
    invoke_bed_go_many(bed, "n", 100);
    AWAIT_BED(bed->worker, function_server_starts(bed->server, "y", NULL, NULL) >= 12);
    worker_bed_stop(bed->worker);
    assert_in_range(function_server_starts(bed->server, "y", NULL, NULL), 12, 100);
    function_server_behave(bed->server, "x", &(struct function_behaviour){.delay_ms = 0});
    up(bed);
    settle(bed);
    assert_int_equal(function_server_keys(bed->server, "x", NULL), 10);
    assert_int_equal(function_server_keys(bed->server, "y", NULL), 110);
    assert_letters(bed, 0);
    worker_bed_stop(bed->worker);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_modes),
        TEST(test_basic),
        TEST(test_bearer),
        TEST(test_sigv4),
        TEST(test_secret_is_absent),
        TEST(test_bad_paths),
        TEST(test_replies),
        TEST(test_replies_are_counted),
        TEST(test_reply_too_long),
        TEST(test_transient),
        TEST(test_permanent),
        TEST(test_given_up),
        TEST(test_failure_is_not_waited_for),
        TEST(test_retry_after),
        TEST(test_limit_of_trigger),
        TEST(test_limit_of_host),
        TEST(test_limit_of_worker),
        TEST(test_rate),
        TEST(test_turns),
        TEST(test_rate_lifted),
        TEST(test_places_left),
        TEST(test_waiting_in_storage),
        TEST(test_bad_neighbours),
        TEST(test_stop_and_go_on),
    };
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return result;
}
