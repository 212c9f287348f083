/* The real triggerflow-worker against an SQS queue that fails on demand (fake_sqs.h), and against moto, which
 * keeps the order of FIFO groups. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/clock.h"
#include "tests/support/fake_http.h"
#include "tests/support/fake_sqs.h"
#include "tests/support/sqs_server.h"
#include "tests/support/worker_bed.h"

#define PASS "{\"name\":\"PASS\"}"
#define NEVER "{\"join\":1000000}"

static struct redis_server redis;
static struct fake_sqs *queue;

static void source(const struct worker_bed *bed, const char *name, int port, const char *of, const char *more)
{
    char document[640];
    snprintf(document, sizeof document,
             "{\"name\":\"%s\",\"class\":\"SQSEventSource\",\"parameters\":{\"access_key_id\":\"AKID\","
             "\"secret_access_key\":\"the-secret\",\"region\":\"us-east-1\",\"queue\":\"%s\","
             "\"endpoint\":\"http://127.0.0.1:%d\"%s%s}}",
             name, of, port, strstr(more, "wait_seconds") ? "" : ",\"wait_seconds\":1", more);
    assert_int_equal(workspace_put_source(&bed->workspace, name, document), 0);
}

static struct worker_bed *make_bed(void)
{
    struct worker_bed *bed = worker_bed_new(&redis);
    assert_int_equal(workspace_delete_source(&bed->workspace, "in"), 0);
    worker_bed_trigger(bed, "count", "JOIN", NEVER, PASS, "t", "s");
    return bed;
}

static int setup(void **state)
{
    queue = fake_sqs_start(false, 30);
    if (!queue)
        return -1;
    struct worker_bed *bed = make_bed();
    source(bed, "sqs", fake_sqs_port(queue), "events", "");
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    kill(redis.pid, SIGCONT); /* when a test has failed */
    worker_bed_free(*state);
    fake_sqs_stop(queue);
    return 0;
}

static void put(unsigned first, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        char body[160];
        int len = snprintf(body, sizeof body,
                           "{\"specversion\":\"1.0\",\"id\":\"%u\",\"source\":\"urn:test\",\"type\":\"t\","
                           "\"subject\":\"s\",\"data\":%u}",
                           first + i, first + i);
        fake_sqs_put(queue, body, (size_t)len, "");
    }
}

/* All are counted once and deleted. */
static void finish(struct worker_bed *bed, unsigned n)
{
    AWAIT_BED(bed, worker_bed_counter(bed, "count") >= n);
    AWAIT_BED(bed, fake_sqs_left(queue) == 0);
    worker_bed_stop(bed);
    assert_int_equal(worker_bed_counter(bed, "count"), n);
    assert_false(worker_bed_logged(bed, "the-secret"));
}

/* --- deleting --- */

static void test_partial_failures(void **state)
{
    struct worker_bed *bed = *state;
    fake_sqs_set(queue, &(struct fake_sqs_faults){.delete_entries = 31});
    put(0, 60);
    worker_bed_up(bed);
    finish(bed, 60);
    assert_int_equal(fake_sqs_counts(queue).delete_failures, 16);
}

/* Their receipt handles are void: they come again, are dropped, and deleted with the new ones. */
static void test_void_receipts(void **state)
{
    struct worker_bed *bed = *state;
    fake_sqs_set(queue, &(struct fake_sqs_faults){.lose_receipts = 15});
    put(0, 30);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 30);
    AWAIT_BED(bed, fake_sqs_left(queue) == 15 && fake_sqs_counts(queue).deleted == 15);
    fake_sqs_expire(queue);
    finish(bed, 30);
}

/* Deletions that are late: everything comes again before it is deleted, also to another life. */
static void test_late_deletions(void **state)
{
    struct worker_bed *bed = *state;
    fake_sqs_set(queue, &(struct fake_sqs_faults){.lose_receipts = 1000000});
    put(0, 50);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 50);
    fake_sqs_expire(queue);
    put(50, 10);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 60);
    process_kill(&bed->worker, SIGKILL);
    fake_sqs_set(queue, &(struct fake_sqs_faults){0});
    put(60, 10);
    worker_bed_up(bed);
    /* Also what the killed one's long polls have taken. */
    AWAIT_BED(bed, (fake_sqs_expire(queue), fake_sqs_left(queue) == 0));
    finish(bed, 70);
}

/* In a queue that is not seen empty, what an earlier life has not seen deleted is not remembered for ever. */
static void test_endless_backlog(void **state)
{
    struct worker_bed *bed = *state;
    source(bed, "sqs", fake_sqs_port(queue), "events", ",\"visibility_timeout\":1");
    fake_sqs_set(queue, &(struct fake_sqs_faults){.lose_receipts = 1000000});
    put(0, 50);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 50);
    process_kill(&bed->worker, SIGKILL);
    fake_sqs_set(queue, &(struct fake_sqs_faults){0});
    fake_sqs_expire(queue);
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_REDELIVERY_MAX=1000");
    unsigned n = 50;
    AWAIT_BED(bed, (put(n, 10), n += 10, worker_bed_logged(bed, "redelivery_max=1000")));
    finish(bed, n);
}

/* --- failures of the service --- */

static void test_throttled(void **state)
{
    struct worker_bed *bed = *state;
    fake_sqs_set(queue, &(struct fake_sqs_faults){.throttle = 3, .unavailable = 1});
    put(0, 40);
    worker_bed_up(bed);
    finish(bed, 40);
    assert_true(worker_bed_logged(bed, "ThrottlingException (400): on demand"));
}

/* Requests were carried out, and nobody has heard of it. */
static void test_lost_answers(void **state)
{
    struct worker_bed *bed = *state;
    put(0, 100);
    worker_bed_up(bed);
    for (unsigned i = 0; i < 5; i++) {
        fake_sqs_set(queue, &(struct fake_sqs_faults){.lose_answers = 4});
        put(100 + i * 20, 20);
        AWAIT_BED(bed, (fake_sqs_expire(queue), worker_bed_counter(bed, "count") >= 120 + 20 * i));
    }
    fake_sqs_set(queue, &(struct fake_sqs_faults){0});
    AWAIT_BED(bed, (fake_sqs_expire(queue), fake_sqs_left(queue) == 0));
    finish(bed, 200);
}

static void test_queue_gone(void **state)
{
    struct worker_bed *bed = *state;
    fake_sqs_set(queue, &(struct fake_sqs_faults){.gone = true});
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "queue events does not exist"));
    put(0, 20);
    fake_sqs_set(queue, &(struct fake_sqs_faults){0});
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 20);
    AWAIT_BED(bed, fake_sqs_left(queue) == 0);
    fake_sqs_set(queue, &(struct fake_sqs_faults){.gone = true});
    AWAIT_BED(bed, process_log_count(&bed->worker, "queue events does not exist") > 1);
    put(20, 20);
    fake_sqs_set(queue, &(struct fake_sqs_faults){0});
    finish(bed, 40);
}

/* Said by mistake, while the storage hangs: what comes again is not deleted before its commit. */
static void test_queue_not_gone(void **state)
{
    struct worker_bed *bed = *state;
    put(0, 5);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 5);
    AWAIT_BED(bed, fake_sqs_left(queue) == 0);
    kill(redis.pid, SIGSTOP);
    put(5, 20);
    WAIT(fake_sqs_counts(queue).received == 25);
    fake_sqs_set(queue, &(struct fake_sqs_faults){.gone = true});
    WAIT(worker_bed_logged(bed, "queue events does not exist"));
    fake_sqs_set(queue, &(struct fake_sqs_faults){0});
    fake_sqs_expire(queue);
    WAIT(fake_sqs_counts(queue).received == 45);
    uint64_t receives = fake_sqs_counts(queue).receives;
    WAIT(fake_sqs_counts(queue).receives > receives + 1); /* they have been looked at */
    assert_int_equal(fake_sqs_left(queue), 20);
    kill(redis.pid, SIGCONT);
    finish(bed, 25);
}

static void test_refused(void **state)
{
    struct worker_bed *bed = *state;
    put(0, 5);
    fake_sqs_set(queue, &(struct fake_sqs_faults){.refused_code = "InvalidSignatureException"});
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "InvalidSignatureException: the secret access key is wrong"));
    assert_true(worker_bed_logged(bed, "source=sqs state=unavailable"));
    fake_sqs_set(queue, &(struct fake_sqs_faults){.refuse_attributes = true});
    finish(bed, 5);
}

/* --- visibility --- */

/* The storage hangs: what is in hand stays invisible, and nothing comes twice. */
static void test_extended(void **state)
{
    struct worker_bed *bed = *state;
    source(bed, "sqs", fake_sqs_port(queue), "events", ",\"visibility_timeout\":2");
    worker_bed_up(bed);
    put(0, 5);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 5);
    kill(redis.pid, SIGSTOP);
    put(5, 30);
    WAIT(fake_sqs_counts(queue).extended >= 60);
    kill(redis.pid, SIGCONT);
    finish(bed, 35);
    assert_int_equal(fake_sqs_counts(queue).received, 35);
}

/* What waits to be delivered when the worker is stopped is for others at once: here for room, which the dead
 * letters have taken while a long poll was under way. */
static void test_let_go(void **state)
{
    struct worker_bed *bed = *state;
    char unwanted[2000];
    int len = snprintf(unwanted, sizeof unwanted,
                       "{\"specversion\":\"1.0\",\"id\":\"x\",\"source\":\"urn:test\",\"type\":"
                       "\"nobody\",\"subject\":\"%01000d\"}",
                       0);
    source(bed, "sqs", fake_sqs_port(queue), "events", ",\"wait_seconds\":20,\"visibility_timeout\":2");
    worker_bed_start(bed, NULL, NULL, "TRIGGERFLOW_DEAD_LETTER_MAX_BYTES=1KiB");
    fake_sqs_put(queue, unwanted, (size_t)len, "");
    AWAIT_BED(bed, worker_bed_logged(bed, "name=dead_letters_full"));
    AWAIT_BED(bed, fake_sqs_left(queue) == 0);
    put(0, 1);
    AWAIT_BED(bed, fake_sqs_counts(queue).extended >= 1); /* so long it waits already */
    kill(bed->worker.pid, SIGTERM);
    AWAIT_BED(bed, fake_sqs_counts(queue).released == 1);
    assert_int_equal(worker_bed_end(bed), 0);
    assert_int_equal(worker_bed_counter(bed, "count"), -1);
    fake_sqs_expire(queue);
    assert_int_equal(fake_sqs_left(queue), 1);
    assert_int_equal(fake_sqs_in_flight(queue), 0);
}

/* --- messages --- */

static void test_lambda_record(void **state)
{
    struct worker_bed *bed = *state;
    static const char record[] = "{\"version\":\"1.0\",\"timestamp\":\"2020-10-20T13:00:00.000Z\","
                                 "\"requestContext\":{\"requestId\":\"r\","
                                 "\"functionArn\":\"f\",\"condition\":\"Success\"},\"responsePayload\":{\"__"
                                 "TRIGGERFLOW_SUBJECT\":\"task\"}}";
    worker_bed_trigger(bed, "lambda", "JOIN", NEVER, PASS, "lambda.success", "task");
    fake_sqs_put(queue, record, sizeof record - 1, "");
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "lambda") == 1);
    AWAIT_BED(bed, fake_sqs_left(queue) == 0);
    worker_bed_stop(bed);
}

/* --- publishing --- */

static void publish_to(struct worker_bed *bed, const char *of)
{
    source(bed, "sqs", fake_sqs_port(queue), "events", ",\"receives\":1"); /* so that they come in order */
    source(bed, "to", fake_sqs_port(queue), of, ",\"consume\":false");
    worker_bed_trigger(bed, "emit", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"to\",\"event\":{\"type\":\"sent\"}}", "t", "s");
}

static void test_publish_fifo(void **state)
{
    struct worker_bed *bed = *state;
    publish_to(bed, "to.fifo");
    put(0, 200);
    fake_sqs_set(queue, &(struct fake_sqs_faults){.throttle = 2});
    worker_bed_up(bed);
    AWAIT_BED(bed, fake_sqs_sent(queue, 199) != NULL);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "outbox") == 0);
    assert_null(fake_sqs_sent(queue, 200));
    for (size_t i = 0; i < 200; i++) {
        char data[32];
        const char *sent = fake_sqs_sent(queue, i);
        const char *key = strchr(sent, '|') + 1;
        size_t key_len = strcspn(key, "|");
        const char *id = strstr(sent, "\"id\":\"");
        assert_memory_equal(sent, "s|", 2);
        assert_non_null(id);
        assert_memory_equal(id + 6, key, key_len); /* the event's id deduplicates */
        snprintf(data, sizeof data, "\"data\":%zu}", i);
        assert_non_null(strstr(sent, data)); /* in order */
    }
    finish(bed, 200);
}

static void test_publish_refused(void **state)
{
    struct worker_bed *bed = *state;
    publish_to(bed, "to");
    worker_bed_trigger(bed, "bad", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"to\",\"event\":{\"type\":\"refuse-me\"}}", "t",
                       "s");
    put(0, 10);
    worker_bed_up(bed);
    AWAIT_BED(bed, fake_sqs_sent(queue, 9) != NULL);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "action_failed") == 10);
    assert_null(fake_sqs_sent(queue, 10));
    finish(bed, 10);
}

/* --- FIFO queues --- */

static int fifo_event(unsigned i, char group[8], char body[160])
{
    snprintf(group, 8, "g%u", i % 3);
    return snprintf(body, 160,
                    "{\"specversion\":\"1.0\",\"id\":\"%u\",\"source\":\"urn:test\",\"type\":\"t\","
                    "\"subject\":\"%s\",\"data\":%u}",
                    i, group, i);
}

/* A trigger that publishes what comes from the FIFO queue. */
static struct worker_bed *fifo_bed(int port, const char *more)
{
    struct worker_bed *bed = worker_bed_new(&redis);
    assert_int_equal(workspace_delete_source(&bed->workspace, "in"), 0);
    source(bed, "sqs", port, "in.fifo", more);
    worker_bed_trigger(bed, "emit", "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"sent\"}}", "t",
                       "*");
    return bed;
}

/* Whether all of n have come, each group's in their order; what a killed worker has published may come again.
 */
static bool in_order(const struct worker_bed *bed, unsigned n)
{
    bool seen[64] = {false};
    long last[3] = {-1, -1, -1};
    unsigned found = 0;
    for (unsigned i = 0; worker_bed_entry(bed, "out", i, "id")[0]; i++) {
        long at = strtol(worker_bed_entry(bed, "out", i, "data"), NULL, 10);
        if (at < 0 || at >= n || (!seen[at] && at <= last[at % 3]))
            return false;
        found += !seen[at];
        seen[at] = true;
        last[at % 3] = at > last[at % 3] ? at : last[at % 3];
    }
    return found == n;
}

static void put_fifo(unsigned from, unsigned n)
{
    char body[160], group[8];
    for (unsigned i = from; i < from + n; i++) {
        int len = fifo_event(i, group, body);
        fake_sqs_put(queue, body, (size_t)len, group);
    }
}

static void test_fifo_killed(void **state)
{
    fake_sqs_stop(queue);
    queue = fake_sqs_start(true, 30);
    assert_non_null(queue);
    worker_bed_free(*state);
    struct worker_bed *bed = *state = fifo_bed(fake_sqs_port(queue), "");
    for (unsigned round = 0; round < 4; round++) {
        put_fifo(round * 15, 15);
        worker_bed_up(bed);
        AWAIT_BED(bed, worker_bed_entry(bed, "out", round * 15 + 3, "id")[0]);
        process_kill(&bed->worker, SIGKILL);
        fake_sqs_expire(queue);
    }
    worker_bed_up(bed);
    AWAIT_BED(bed, fake_sqs_left(queue) == 0);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "outbox") == 0);
    worker_bed_stop(bed);
    assert_true(in_order(bed, 60));
}

static void test_fifo(void **state)
{
    static struct sqs_server moto;
    const char *why;
    (void)state;
    if (!sqs_server_available(SQS_SERVER_MOTO, &why)) {
        printf("skipped: %s\n", why);
        skip();
    }
    assert_int_equal(sqs_server_run(&moto, SQS_SERVER_MOTO), 0);
    assert_int_equal(
        sqs_server_create(&moto, "in.fifo", "\"FifoQueue\":\"true\",\"VisibilityTimeout\":\"60\"", NULL), 0);
    for (unsigned i = 0; i < 45; i++) {
        char body[160], group[8], key[16];
        fifo_event(i, group, body);
        snprintf(key, sizeof key, "%u", i);
        assert_int_equal(sqs_server_send(&moto, "in.fifo", body, group, key), 0);
    }
    /* SQS gives nothing of a group of which something is in flight; moto does, once another was deleted: so
     * one receive at a time. */
    struct worker_bed *bed = fifo_bed(moto.port, ",\"receives\":1");
    worker_bed_up(bed);
    AWAIT_BED(bed, sqs_server_waiting(&moto, "in.fifo") == 0 && sqs_server_in_flight(&moto, "in.fifo") == 0);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "outbox") == 0);
    worker_bed_stop(bed);
    assert_true(in_order(bed, 45));
    worker_bed_free(bed);
    sqs_server_done(&moto);
}

/* --- signatures, which moto verifies --- */

static void keyed_source(const struct worker_bed *bed, int port, const char *id, const char *secret)
{
    char document[640];
    snprintf(document, sizeof document,
             "{\"name\":\"sqs\",\"class\":\"SQSEventSource\",\"parameters\":{\"access_key_id\":\"%s\","
             "\"secret_access_key\":\"%s\",\"region\":\"us-east-1\",\"queue\":\"locked\",\"endpoint\":"
             "\"http://127.0.0.1:%d\",\"wait_seconds\":1}}",
             id, secret, port);
    assert_int_equal(workspace_put_source(&bed->workspace, "sqs", document), 0);
}

static void test_signature(void **state)
{
    static struct sqs_server moto;
    static const char *const wrong[][2] = {{NULL, "wrong"}, {"AKIAWRONG00000000000", NULL}};
    static const char body[] = "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"urn:test\",\"type\":\"t\","
                               "\"subject\":\"s\"}";
    const char *why;
    char id[64], secret[64];
    (void)state;
    if (!sqs_server_available(SQS_SERVER_MOTO, &why)) {
        printf("skipped: %s\n", why);
        skip();
    }
    assert_int_equal(sqs_server_run(&moto, SQS_SERVER_MOTO), 0);
    assert_int_equal(sqs_server_create(&moto, "locked", NULL, NULL), 0);
    assert_int_equal(sqs_server_send(&moto, "locked", body, NULL, NULL), 0);
    assert_int_equal(sqs_server_lock(&moto, id, secret), 0);
    struct worker_bed *bed = make_bed();
    for (unsigned i = 0; i < 2; i++) {
        keyed_source(bed, moto.port, wrong[i][0] ? wrong[i][0] : id, wrong[i][1] ? wrong[i][1] : secret);
        worker_bed_up(bed);
        AWAIT_BED(bed, worker_bed_logged(bed, i ? "InvalidClientTokenId" : "the secret access key is wrong"));
        assert_true(worker_bed_logged(bed, "source=sqs state=unavailable"));
        worker_bed_stop(bed);
        assert_int_equal(worker_bed_counter(bed, "count"), -1);
    }
    keyed_source(bed, moto.port, id, secret);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 1);
    worker_bed_stop(bed);
    assert_false(worker_bed_logged(bed, secret));
    worker_bed_free(bed);
    sqs_server_done(&moto);
}

/* --- the credentials of a role --- */

#define ROLE_SECRET "the-role-secret"
#define ROLE_TOKEN "the-role-token"
#define ROLE_AUTHORIZATION "the-authorization"

/* What gives a container the credentials of its role. */
struct agent {
    struct fake_http *http;
    _Atomic bool down;
    _Atomic unsigned served; /* credentials */
    _Atomic unsigned life_s; /* of them */
};

static bool serve_credentials(void *data, const struct fake_request *r, struct fake_answer *answer)
{
    struct agent *agent = data;
    const char *authorization = fake_http_header(r, "Authorization");
    char end[CLOCK_ISO_MAX];
    clock_iso(clock_unix_ns() + agent->life_s * CLOCK_S, end);
    answer->status = agent->down ? 500 : 200;
    if (!authorization || strcmp(authorization, ROLE_AUTHORIZATION) != 0)
        answer->status = 401;
    if (answer->status == 200)
        buffer_printf(&answer->body,
                      "{\"AccessKeyId\":\"AKID%u\",\"SecretAccessKey\":\"" ROLE_SECRET
                      "\",\"Token\":\"" ROLE_TOKEN "\",\"Expiration\":\"%s\"}",
                      ++agent->served, end);
    return true;
}

static void start_agent(struct agent *agent)
{
    char url[64];
    agent->http = fake_http_start(serve_credentials, agent);
    assert_non_null(agent->http);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/credentials", fake_http_port(agent->http));
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url, 1);
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", ROLE_AUTHORIZATION, 1);
}

static void stop_agent(struct agent *agent)
{
    unsetenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    unsetenv("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    fake_http_stop(agent->http);
}

static void role_source(const struct worker_bed *bed)
{
    char document[320];
    snprintf(document, sizeof document,
             "{\"name\":\"sqs\",\"class\":\"SQSEventSource\",\"parameters\":{\"region\":\"us-east-1\","
             "\"queue\":\"events\",\"endpoint\":\"http://127.0.0.1:%d\",\"wait_seconds\":1}}",
             fake_sqs_port(queue));
    assert_int_equal(workspace_put_source(&bed->workspace, "sqs", document), 0);
}

/* They are there late, are renewed before they expire, expire while there are no others, and come again. */
static void test_role(void **state)
{
    struct worker_bed *bed = *state;
    static struct agent agent = {.down = true, .life_s = 301}; /* they are renewed 300 s before the end */
    start_agent(&agent);
    role_source(bed);
    put(0, 20);
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "credentials of the container role"));
    assert_true(worker_bed_logged(bed, "source=sqs state=unavailable"));
    agent.down = false;
    AWAIT_BED(bed, worker_bed_counter(bed, "count") == 20);
    AWAIT_BED(bed, fake_sqs_key(queue, ROLE_TOKEN) >= 2);
    agent.life_s = 2;
    unsigned renewed = agent.served;
    AWAIT_BED(bed, fake_sqs_key(queue, ROLE_TOKEN) > renewed);
    agent.down = true;
    unsigned failures = process_log_count(&bed->worker, "credentials of the container role");
    AWAIT_BED(bed, process_log_count(&bed->worker, "credentials of the container role") > failures);
    put(20, 20);
    agent.life_s = 3600;
    agent.down = false;
    finish(bed, 40);
    stop_agent(&agent);
    assert_int_equal(fake_sqs_key(queue, ROLE_TOKEN), agent.served);
    assert_false(worker_bed_logged(bed, ROLE_SECRET));
    assert_false(worker_bed_logged(bed, ROLE_TOKEN));
    assert_false(worker_bed_logged(bed, ROLE_AUTHORIZATION));
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_partial_failures), CASE(test_void_receipts),
        CASE(test_late_deletions),   CASE(test_endless_backlog),
        CASE(test_throttled),        CASE(test_lost_answers),
        CASE(test_queue_gone),       CASE(test_queue_not_gone),
        CASE(test_refused),          CASE(test_extended),
        CASE(test_let_go),           CASE(test_lambda_record),
        CASE(test_publish_fifo),     CASE(test_publish_refused),
        CASE(test_fifo_killed),      CASE(test_role),
        cmocka_unit_test(test_fifo), cmocka_unit_test(test_signature),
    };
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    if (redis_server_run(&redis, (const char *[]){"--appendonly", "yes", "--appendfsync", "always", NULL}) <
        0)
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    redis_server_done(&redis);
    return failed;
}
