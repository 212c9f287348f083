/* DOCKER and DOCKER_IMAGE through the real worker and a real Docker engine, all in a network namespace of the
 * test's own. Its image is that of examples/container: busybox, and functions that are shell scripts. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"
#include "tests/support/docker_engine.h"
#include "tests/support/worker_bed.h"

#define IMAGE "triggerflow/function:test"
#define FAILED "event.triggerflow.termination.failure"

static struct redis_server redis;
static struct docker_engine engine;

/* Adds one to context.n, appends the event's number to context.order; holds for every other event. */
static const char count_script[] =
    "cat >/tmp/$$\\n"
    "n=$(sed -n 's/.*\\\"n\\\":\\\\([0-9]*\\\\).*/\\\\1/p' /tmp/$$)\\n"
    "order=$(sed -n 's/.*\\\"order\\\":\\\"\\\\([^\\\"]*\\\\)\\\".*/\\\\1/p' /tmp/$$)\\n"
    "id=$(sed -n 's/.*\\\"id\\\":\\\"go-[a-z]*-\\\\([0-9]*\\\\)\\\".*/\\\\1/p' /tmp/$$)\\n"
    "rm /tmp/$$\\n"
    "n=$((n + 1))\\n"
    "echo \\\"{\\\\\\\"context\\\\\\\":{\\\\\\\"n\\\\\\\":$n,\\\\\\\"order\\\\\\\":\\\\\\\"$order "
    "$id\\\\\\\"},"
    "\\\\\\\"result\\\\\\\":$([ $((n % 2)) = 0 ] && echo true || echo false)}\\\"";

/* --- triggers --- */

static int setup(void **state)
{
    struct worker_bed *bed = worker_bed_new(&redis);
    setenv("TRIGGERFLOW_DOCKER_IMAGES", "triggerflow/*", 1);
    setenv("TRIGGERFLOW_DOCKER_PULL", "false", 1);
    setenv("TRIGGERFLOW_DOCKER_SOCKET", engine.socket, 1);
    unsetenv("TRIGGERFLOW_DOCKER_REACH");
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    worker_bed_free(*state);
    docker_engine_clear();
    return 0;
}

/* A trigger for the type "go" and its id as subject. */
static void put(const struct worker_bed *bed, const char *id, const char *condition, const char *action)
{
    char activation[128];
    snprintf(activation, sizeof activation, "{\"type\":\"go\",\"subject\":\"%s\"}", id);
    assert_int_equal(workspace_trigger(&bed->workspace, id, condition, action, "{}", activation, false), 0);
}

/* {"name":"DOCKER",...} with a script that is JSON text; more: further members (static, two at a time). */
static const char *docker(const char *script, const char *more)
{
    static char text[2][4096];
    static unsigned turn;
    char *out = text[turn++ % 2];
    snprintf(out, sizeof text[0],
             "{\"name\":\"DOCKER\",\"image\":\"" IMAGE "\",\"script\":\"%s\",\"backoff_s\":0.05%s}", script,
             more);
    return out;
}

static void count(const struct worker_bed *bed, const char *id, const char *type, const char *subject)
{
    worker_bed_trigger(bed, id, "COUNTER_THRESHOLD", "{\"threshold\":1000000}", "{\"name\":\"PASS\"}", type,
                       subject);
}

static long long number(const struct worker_bed *bed, const char *trigger, const char *member)
{
    return workspace_context(&bed->workspace, trigger, member);
}

/* The order in which the events 0 to n-1 came: the right one. */
static void assert_order(const struct worker_bed *bed, const char *trigger, unsigned n)
{
    BUFFER_AUTO expected = BUFFER_INIT;
    buffer_append_text(&expected, "\"order\":\"");
    for (unsigned i = 0; i < n; i++)
        buffer_printf(&expected, " %u", i);
    buffer_append_char(&expected, '"');
    char *document = workspace_get(&bed->workspace, "triggers", trigger);
    assert_non_null(document);
    if (!strstr(document, buffer_text(&expected)))
        fail_msg("not %s: %s", buffer_text(&expected), document);
    free(document);
}

/* --- what they do --- */

static void test_condition(void **state)
{
    struct worker_bed *bed = *state;
    put(bed, "t", docker(count_script, ""),
        "{\"name\":\"EMIT\",\"event\":{\"type\":\"held\",\"subject\":\"t\"}}");
    count(bed, "held", "held", "t");
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 20);
    AWAIT_BED(bed, number(bed, "t", "n") == 20 && worker_bed_counter(bed, "held") == 10);
    worker_bed_settle(bed);
    assert_order(bed, "t", 20);
    assert_int_equal(docker_engine_containers(""), 1);
    const char *limits =
        docker_engine_output("docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} "
                             "{{.HostConfig.NanoCpus}} {{.HostConfig.Privileged}} {{.HostConfig.CapDrop}} "
                             "{{.HostConfig.SecurityOpt}}' $(docker ps -q)");
    assert_string_equal(limits, "268435456 128 1000000000 false [ALL] [no-new-privileges]");
    worker_bed_stop(bed);
    assert_int_equal(docker_engine_containers("-a"), 0);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* Two actions, one with its condition in the container too; by a published port. */
static void test_action(void **state)
{
    struct worker_bed *bed = *state;
    setenv("TRIGGERFLOW_DOCKER_REACH", "port", 1);
    put(bed, "t", "{\"name\":\"TRUE\"}", docker(count_script, ""));
    put(bed, "u", docker("echo '{\\\"result\\\":true,\\\"context\\\":{\\\"seen\\\":1}}'", ""),
        docker(count_script, ""));
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 20);
    worker_bed_publish(bed, "go", "u", 20);
    AWAIT_BED(bed, number(bed, "t", "n") == 20 && number(bed, "u", "n") == 20);
    worker_bed_settle(bed);
    assert_order(bed, "t", 20);
    assert_order(bed, "u", 20);
    assert_int_equal(number(bed, "u", "seen"), 1);
    worker_bed_stop(bed);
}

/* What hangs, fails or answers nonsense is given up, and keeps nobody else waiting. */
static void test_beside(void **state)
{
    struct worker_bed *bed = *state;
    put(bed, "hangs", docker("sleep 600", ",\"timeout_s\":600"), "{\"name\":\"PASS\"}");
    put(bed, "slow", docker("sleep 600", ",\"timeout_s\":0.2,\"retries\":0"), "{\"name\":\"PASS\"}");
    put(bed, "fails", docker("exit 1", ",\"retries\":1"), "{\"name\":\"PASS\"}");
    put(bed, "floods", docker("yes", ",\"retries\":0,\"timeout_s\":0.5"), "{\"name\":\"PASS\"}");
    put(bed, "nonsense", "{\"name\":\"TRUE\"}", docker("echo 1", ""));
    put(bed, "healthy", docker(count_script, ""), "{\"name\":\"PASS\"}");
    count(bed, "tick", "tick", "s");
    count(bed, "failed", FAILED, "nonsense");
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "hangs", 50);
    worker_bed_publish(bed, "go", "slow", 2);
    worker_bed_publish(bed, "go", "fails", 1);
    worker_bed_publish(bed, "go", "floods", 1);
    worker_bed_publish(bed, "go", "nonsense", 1);
    worker_bed_publish(bed, "go", "healthy", 10);
    worker_bed_publish(bed, "tick", "s", 200);
    AWAIT_BED(bed, worker_bed_counter(bed, "tick") == 200);
    AWAIT_BED(bed, number(bed, "healthy", "n") == 10);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "condition_failed") == 4);
    AWAIT_BED(bed, worker_bed_counter(bed, "failed") == 1);
    assert_int_equal(workspace_dead_letters(&bed->workspace, "action_failed"), 1);
    process_kill(&bed->worker, SIGKILL);
}

static void test_dies(void **state)
{
    struct worker_bed *bed = *state;
    put(bed, "t", docker(count_script, ",\"retries\":1000"), "{\"name\":\"PASS\"}");
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 5);
    AWAIT_BED(bed, number(bed, "t", "n") == 5);
    assert_int_equal(system("docker kill $(docker ps -q) >/dev/null"), 0);
    AWAIT_BED(bed, worker_bed_logged(bed, "the container has ended with exit status 137"));
    workspace_publish_one(&bed->workspace, "in", "go-t-5", "go", "t", "1");
    AWAIT_BED(bed, number(bed, "t", "n") == 6);
    assert_int_equal(system("docker rm -f $(docker ps -q) >/dev/null"), 0);
    docker_engine_stop(&engine);
    workspace_publish_one(&bed->workspace, "in", "go-t-6", "go", "t", "1");
    AWAIT_BED(bed, worker_bed_logged(bed, "event=docker_engine state=unavailable"));
    docker_engine_start(&engine);
    AWAIT_BED(bed, number(bed, "t", "n") == 7);
    assert_order(bed, "t", 7);
    assert_int_equal(docker_engine_containers(""), 1);
    worker_bed_stop(bed);
    assert_int_equal(docker_engine_containers("-a"), 0);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

static void test_refused(void **state)
{
    struct worker_bed *bed = *state;
    put(bed, "absent", "{\"name\":\"DOCKER_IMAGE\",\"image\":\"triggerflow/absent\",\"retries\":0}",
        "{\"name\":\"PASS\"}");
    put(bed, "other", "{\"name\":\"TRUE\"}", "{\"name\":\"DOCKER_IMAGE\",\"image\":\"debian\"}");
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "image debian is not among worker.docker_images"));
    worker_bed_publish(bed, "go", "absent", 3);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "condition_failed") == 3);
    assert_true(worker_bed_logged(bed, "looking for the image triggerflow/absent: 404"));
    worker_bed_stop(bed);
}

/* Events in the queue of a trigger that is removed become dead letters. */
static void test_removed(void **state)
{
    struct worker_bed *bed = *state;
    put(bed, "t", docker("sleep 600", ",\"timeout_s\":600"), "{\"name\":\"PASS\"}");
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 3);
    AWAIT_BED(bed, docker_engine_containers("") == 1);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "outbox") == 1);
    assert_int_equal(workspace_delete_trigger(&bed->workspace, "t"), 0);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "no_trigger") == 3);
    assert_null(workspace_get(&bed->workspace, "checkpoint", "waits:uuid-t"));
    process_kill(&bed->worker, SIGKILL);
}

/* A killed worker whose workspace is deleted leaves no container, also when the engine is away just then. */
static void leave(struct worker_bed *bed, bool away)
{
    put(bed, "t", docker("sleep 600", ",\"timeout_s\":600"), "{\"name\":\"PASS\"}");
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 1);
    AWAIT_BED(bed, docker_engine_containers("") == 1);
    if (away)
        docker_engine_stop(&engine);
    process_kill(&bed->worker, SIGKILL);
    assert_int_equal(workspace_delete(&bed->workspace), 0);
    if (away)
        docker_engine_start(&engine);
    AWAIT_BED(bed, docker_engine_containers("-a") == 0);
}

static void test_left(void **state)
{
    leave(*state, false);
}

static void test_left_without_engine(void **state)
{
    leave(*state, true);
}

/* examples/container prints what it should, and leaves no container. */
static void test_example(void **state)
{
    char build[PATH_MAX], command[PATH_MAX + 256];
    (void)state;
    unsetenv("TRIGGERFLOW_DOCKER_IMAGES");
    unsetenv("TRIGGERFLOW_DOCKER_PULL");
    unsetenv("TRIGGERFLOW_DOCKER_SOCKET");
    process_program("triggerflow", build);
    *strrchr(build, '/') = '\0';
    snprintf(command, sizeof command,
             "examples/container/run %s >%s/printed && cmp examples/container/expected.txt %s/printed", build,
             engine.folder, engine.folder);
    assert_int_equal(system(command), 0);
    assert_string_equal(docker_engine_output("docker ps -aq | wc -l"), "0");
}

/* --- crashes --- */

static unsigned kills(void)
{
    const char *text = getenv("TRIGGERFLOW_KILLS");
    unsigned n = text ? (unsigned)atoi(text) : 25;
    return n > 25 ? 25 : n;
}

/* Killed at any time, each event has been evaluated once, in order, and one container is left, then none. */
static void test_random_kills(void **state)
{
    struct worker_bed *bed = *state;
    const unsigned n = 60;
    unsigned short random[3] = {1, 2, (unsigned short)getpid()};
    put(bed, "t", docker(count_script, ""), docker(count_script, ""));
    put(bed, "u", docker(count_script, ""),
        "{\"name\":\"EMIT\",\"event\":{\"type\":\"held\",\"subject\":\"u\"}}");
    count(bed, "held", "held", "u");
    worker_bed_publish(bed, "go", "t", n);
    worker_bed_publish(bed, "go", "u", n);
    for (unsigned i = 0; i < kills(); i++) {
        worker_bed_start(bed, NULL, NULL, NULL);
        for (long ms = nrand48(random) % (i % 4 ? 400 : 40); ms > 0; ms -= 2)
            wait_moment();
        process_kill(&bed->worker, SIGKILL);
    }
    worker_bed_up(bed);
    /* t: from the second on each event holds, and so counts twice. */
    AWAIT_BED(bed, worker_bed_counter(bed, "held") >= n / 2 && number(bed, "u", "n") == n);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "outbox") == 0);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "held"), n / 2);
    assert_order(bed, "u", n);

    assert_int_equal(number(bed, "t", "n"), 2 * n - 1);
    AWAIT_BED(bed, docker_engine_containers("-a") == 1);
    worker_bed_stop(bed);
    assert_int_equal(docker_engine_containers("-a"), 0);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* Dies once at each of the steps of worker/shard/waiting.h. */
static void test_crash_points(void **state)
{
    static const char *const points[] = {"fire",   "intent_start", "intent_done",   "end_written",
                                         "answer", "shard_cut",    "commit_before", "commit_after"};
    enum { POINTS = sizeof points / sizeof points[0], EACH = 3 };
    struct worker_bed *bed = *state;
    char path[96], setting[128];
    unsigned n = 0;
    if (!process_crash_program("triggerflow-worker", bed->program)) {
        puts("skipped: no build with crash points (make SAN=crash programs)");
        skip();
    }
    snprintf(path, sizeof path, "%s/crash", bed->dir);
    snprintf(setting, sizeof setting, "TRIGGERFLOW_CRASH_FILE=%s", path);
    put(bed, "t", docker(count_script, ""), docker(count_script, ""));
    for (unsigned i = 0; i < POINTS; i++) {
        FILE *file = fopen(path, "we");
        assert_non_null(file);
        fprintf(file, "%s 2", points[i]);
        assert_int_equal(fclose(file), 0);
        worker_bed_start(bed, NULL, NULL, setting);
        for (unsigned end = n + EACH; n < end; n++) {
            char id[32];
            snprintf(id, sizeof id, "go-t-%u", n);
            assert_int_equal(workspace_publish_one(&bed->workspace, "in", id, "go", "t", "1"), 0);
        }
        assert_int_equal(worker_bed_end(bed), 128 + SIGKILL);
    }
    worker_bed_up(bed);
    AWAIT_BED(bed, number(bed, "t", "n") >= 2 * n - 1);
    worker_bed_settle(bed);
    assert_int_equal(number(bed, "t", "n"), 2 * n - 1);
    worker_bed_stop(bed);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static int start_servers(void **state)
{
    (void)state;
    if (redis_server_run(&redis, NULL) < 0)
        return -1;
    return system("examples/container/build " IMAGE " >/dev/null");
}

static int stop_servers(void **state)
{
    (void)state;
    redis_server_done(&redis);
    return docker_engine_remove(&engine);
}

static const char *absent(void)
{
    return redis_server_available() ? docker_engine_prepare(&engine) : "no redis-server";
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_condition),    TEST(test_action),
        TEST(test_beside),       TEST(test_dies),
        TEST(test_refused),      TEST(test_removed),
        TEST(test_left),         TEST(test_left_without_engine),
        TEST(test_example),      TEST(test_random_kills),
        TEST(test_crash_points),
    };
    const char *why = absent();
    if (why) {
        printf("skipped: %s\n", why);
        return 0;
    }
    return cmocka_run_group_tests(tests, start_servers, stop_servers);
}
