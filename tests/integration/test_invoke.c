/* Invocations through the real worker: HTTP_INVOKE against a function service that answers, fails, hangs and
 * floods; limits, retries, replies, failure events, secrets; and crashes at every point. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"
#include "tests/support/function_server.h"
#include "tests/support/worker_bed.h"

struct bed {
    struct worker_bed *worker;
    struct function_server *server;
};

static struct redis_server redis;

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    assert_non_null(bed->server = function_server_new());
    bed->worker = worker_bed_new(&redis);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    worker_bed_free(bed->worker);
    function_server_free(bed->server);
    free(bed);
    return 0;
}

/* An action; the members come after name and url. */
static const char *action(struct bed *bed, const char *path, const char *more)
{
    static char text[2048];
    snprintf(text, sizeof text,
             "{\"name\":\"HTTP_INVOKE\",\"url\":\"http://127.0.0.1:%u%s\",\"backoff_s\":0.02%s}",
             function_server_port(bed->server), path, more);
    return text;
}

static void put_invoking(struct bed *bed, const char *id, const char *subject, const char *path,
                         const char *more)
{
    worker_bed_trigger(bed->worker, id, "TRUE", "{}", action(bed, path, more), "go", subject);
}

static void put_counter(struct bed *bed, const char *id, const char *type, const char *subject)
{
    worker_bed_trigger(bed->worker, id, "COUNTER_THRESHOLD", "{\"threshold\":1000000}", "{\"name\":\"PASS\"}",
                       type, subject);
}

static void settle(struct bed *bed)
{
    worker_bed_settle(bed->worker);
}

/* The first dead letter, of which there must be one. */
static char *letter(struct bed *bed)
{
    redisReply *all = redis_server_do(&redis, "HVALS %s-dead_letters", bed->worker->workspace.name);
    assert_non_null(all);
    if (all->elements != 1)
        worker_bed_show(bed->worker);
    assert_int_equal(all->elements, 1);
    char *text = strdup(all->element[0]->str);
    freeReplyObject(all);
    return text;
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no %s in %s", part, text);
}

static void test_event_is_sent(void **state)
{
    struct bed *bed = *state;
    BUFFER_AUTO last = BUFFER_INIT;
    put_invoking(bed, "t", "s", "/f/binary", "");
    worker_bed_up(bed->worker);
    workspace_publish_one(&bed->worker->workspace, "in", "id-1", "go", "s", "{\"a\":1}");
    settle(bed);
    assert_int_equal(function_server_starts(bed->server, "binary", "s", NULL), 1);
    function_server_last(bed->server, &last);
    assert_has(buffer_text(&last), "POST /f/binary\n");
    assert_has(buffer_text(&last), "ce-id: id-1\n");
    assert_has(buffer_text(&last), "ce-type: go\n");
    assert_has(buffer_text(&last), "Idempotency-Key: ");
    assert_has(buffer_text(&last), "ce-triggerflowkey: ");
    assert_has(buffer_text(&last), "Content-Type: application/json\n");
    assert_has(buffer_text(&last), "\n\n{\"a\":1}");
    worker_bed_stop(bed->worker);
}

static void test_reply(void **state)
{
    struct bed *bed = *state;
    put_invoking(bed, "t", "s", "/f/x",
                 ",\"reply\":\"event\",\"reply_type\":\"answered\",\"reply_subject\":\"${event.subject}!\"");
    put_counter(bed, "count", "answered", "s!");
    worker_bed_up(bed->worker);
    worker_bed_publish(bed->worker, "go", "s", 20);
    AWAIT_BED(bed->worker, worker_bed_counter(bed->worker, "count") == 20);
    settle(bed);
    assert_int_equal(function_server_keys(bed->server, "x", NULL), 20);
    worker_bed_stop(bed->worker);
}

static void test_given_up(void **state)
{
    struct bed *bed = *state;
    function_server_behave(
        bed->server, "x",
        &(struct function_behaviour){.status = 503, .body = "{\"token\":\"hush\",\"why\":\"busy\"}"});
    put_invoking(bed, "t", "s", "/f/x?api_key=hush",
                 ",\"retries\":2,\"headers\":{\"Authorization\":\"hush\"}");
    put_counter(bed, "failed", "event.triggerflow.termination.failure", "t");
    worker_bed_up(bed->worker);
    worker_bed_publish(bed->worker, "go", "s", 1);
    AWAIT_BED(bed->worker, worker_bed_counter(bed->worker, "failed") == 1);
    settle(bed);
    assert_int_equal(function_server_requests(bed->server), 3);
    char *text = letter(bed);
    assert_has(text, "\"reason\":\"action_failed\"");
    assert_has(text, "\"detail\":\"answered 503\"");
    assert_has(text, "\"attempts\":3");
    assert_has(text, "\"status\":503");
    assert_has(text, "\"why\":\"busy\"");
    assert_null(strstr(text, "hush"));
    free(text);
    assert_false(worker_bed_logged(bed->worker, "hush"));
    worker_bed_stop(bed->worker);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static int start_redis(void **state)
{
    (void)state;
    return redis_server_run(&redis, NULL);
}

static int stop_redis(void **state)
{
    (void)state;
    redis_server_done(&redis);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_event_is_sent),
        TEST(test_reply),
        TEST(test_given_up),
    };
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
