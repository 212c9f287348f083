/* Images that the engine does not have, through the real worker, a real Docker engine and a registry of the
 * test's own: pulled, once for all who want them; not to be had, and told so; and across the death of the
 * worker. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/docker_engine.h"
#include "tests/support/fake_registry.h"
#include "tests/support/worker_bed.h"

#define IMAGE "triggerflow/function:test"
/* Answers any run. */
#define SCRIPT "echo '{\\\"result\\\":true}'"

static struct redis_server redis;
static struct docker_engine engine;
static char saved[128]; /* the image, unpacked */
static struct fake_registry *registry;

static int setup(void **state)
{
    registry = fake_registry_start(saved);
    assert_non_null(registry);
    *state = worker_bed_new(&redis);
    setenv("TRIGGERFLOW_DOCKER_IMAGES", "127.0.0.1:*", 1);
    setenv("TRIGGERFLOW_DOCKER_SOCKET", engine.socket, 1);
    unsetenv("TRIGGERFLOW_DOCKER_PULL_TIMEOUT");
    return 0;
}

/* No image and no layer stays. */
static int teardown(void **state)
{
    worker_bed_free(*state);
    fake_registry_stop(registry);
    docker_engine_clear();
    return system("docker images -aq | sort -u | xargs -r docker rmi -f >/dev/null 2>&1");
}

/* A trigger for the type "go" and its id as subject; its condition is a function in a container of the
 * image. */
static void put(const struct worker_bed *bed, const char *id, int port, const char *image, const char *more)
{
    char condition[512], activation[128];
    snprintf(condition, sizeof condition,
             "{\"name\":\"DOCKER\",\"image\":\"127.0.0.1:%d/%s\",\"script\":\"" SCRIPT
             "\",\"backoff_s\":0.05%s}",
             port, image, more);
    snprintf(activation, sizeof activation, "{\"type\":\"go\",\"subject\":\"%s\"}", id);
    assert_int_equal(
        workspace_trigger(&bed->workspace, id, condition,
                          "{\"name\":\"EMIT\",\"event\":{\"type\":\"held\",\"subject\":\"all\"}}", "{}",
                          activation, false),
        0);
}

static void count_held(const struct worker_bed *bed)
{
    worker_bed_trigger(bed, "held", "COUNTER_THRESHOLD", "{\"threshold\":1000000}", "{\"name\":\"PASS\"}",
                       "held", "all");
}

/* By a tag, twice, and by the digest. */
static void test_pulled(void **state)
{
    struct worker_bed *bed = *state;
    int port = fake_registry_port(registry);
    char by_digest[128];
    snprintf(by_digest, sizeof by_digest, "served@%s", fake_registry_digest(registry));
    put(bed, "t", port, "slow:1", "");
    put(bed, "u", port, "slow:1", "");
    put(bed, "d", port, by_digest, "");
    put(bed, "latest", port, "served", "");
    count_held(bed);
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 2);
    worker_bed_publish(bed, "go", "u", 2);
    AWAIT_BED(bed, fake_registry_counts(registry).layers == 1);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "outbox") == 2);
    fake_registry_release(registry);
    AWAIT_BED(bed, worker_bed_counter(bed, "held") == 4);
    assert_int_equal(process_log_count(&bed->worker, "event=container_pull"), 1);
    assert_int_equal(fake_registry_counts(registry).manifests, 1);

    worker_bed_publish(bed, "go", "d", 1);
    worker_bed_publish(bed, "go", "latest", 1);
    AWAIT_BED(bed, worker_bed_counter(bed, "held") == 6);
    assert_int_equal(process_log_count(&bed->worker, "event=container_pull"), 3);
    assert_int_equal(fake_registry_counts(registry).layers, 1);
    worker_bed_stop(bed);
    assert_int_equal(docker_engine_containers("-a"), 0);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

/* It was tried twice, and its dead letter names it. */
static void assert_given_up(const struct worker_bed *bed, int port, const char *image)
{
    char name[128], pull[192];
    bool named = false;
    snprintf(name, sizeof name, "127.0.0.1:%d/%s", port, image);
    snprintf(pull, sizeof pull, "event=container_pull image=%s\n", name);
    assert_int_equal(process_log_count(&bed->worker, pull), 2);
    char *log = process_log(&bed->worker);
    for (char *at = log, *end; at && (at = strstr(at, "reason=condition_failed")); at = end) {
        end = at + strcspn(at, "\n");
        char *found = strstr(at, name);
        named |= found && found < end;
    }
    free(log);
    if (!named) {
        worker_bed_show(bed);
        fail_msg("no dead letter names %s", name);
    }
}

/* Each is tried twice, and then given up with a reason that names the image; nobody else waits. */
static void test_not_pulled(void **state)
{
    static const char *const images[] = {"missing:1", "broken:1", "private:1", "hangs:1"};
    enum { IMAGES = sizeof images / sizeof images[0] };
    struct worker_bed *bed = *state;
    setenv("TRIGGERFLOW_DOCKER_PULL_TIMEOUT", "2s", 1);
    for (unsigned i = 0; i < IMAGES; i++)
        put(bed, images[i], fake_registry_port(registry), images[i], ",\"retries\":1");
    put(bed, "refused", 1, "nobody:1", ",\"retries\":1");
    put(bed, "healthy", fake_registry_port(registry), "served:1", "");
    worker_bed_trigger(bed, "tick", "COUNTER_THRESHOLD", "{\"threshold\":1000000}", "{\"name\":\"PASS\"}",
                       "tick", "s");
    count_held(bed);
    worker_bed_up(bed);
    for (unsigned i = 0; i < IMAGES; i++)
        worker_bed_publish(bed, "go", images[i], 1);
    worker_bed_publish(bed, "go", "refused", 1);
    worker_bed_publish(bed, "tick", "s", 200);
    AWAIT_BED(bed, worker_bed_counter(bed, "tick") == 200);
    worker_bed_publish(bed, "go", "healthy", 1);
    AWAIT_BED(bed, worker_bed_counter(bed, "held") == 1);
    AWAIT_BED(bed, workspace_dead_letters(&bed->workspace, "condition_failed") == IMAGES + 1);
    for (unsigned i = 0; i < IMAGES; i++)
        assert_given_up(bed, fake_registry_port(registry), images[i]);
    assert_given_up(bed, 1, "nobody:1");
    assert_false(worker_bed_logged(bed, "event=docker_engine state=unavailable"));
    worker_bed_stop(bed);
}

/* Killed while the image is pulled: the next life goes on with it. */
static void test_killed(void **state)
{
    struct worker_bed *bed = *state;
    put(bed, "t", fake_registry_port(registry), "slow:1", "");
    count_held(bed);
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 3);
    AWAIT_BED(bed, fake_registry_counts(registry).layers == 1);
    process_kill(&bed->worker, SIGKILL);
    worker_bed_up(bed);
    AWAIT_BED(bed, process_log_count(&bed->worker, "event=container_pull") == 2);
    fake_registry_release(registry);
    AWAIT_BED(bed, worker_bed_counter(bed, "held") == 3);
    worker_bed_settle(bed);
    assert_int_equal(docker_engine_containers(""), 1);
    worker_bed_stop(bed);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

static int start_servers(void **state)
{
    char line[512];
    (void)state;
    snprintf(saved, sizeof saved, "%s/saved", engine.folder);
    snprintf(line, sizeof line,
             "examples/container/build " IMAGE " >/dev/null && mkdir %s && docker save " IMAGE
             " | tar -C %s -xf - && docker rmi " IMAGE " >/dev/null",
             saved, saved);
    return redis_server_run(&redis, NULL) < 0 ? -1 : system(line);
}

static int stop_servers(void **state)
{
    (void)state;
    redis_server_done(&redis);
    return docker_engine_remove(&engine);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(test_pulled), TEST(test_not_pulled), TEST(test_killed)};
    const char *why = redis_server_available() ? docker_engine_prepare(&engine) : "no redis-server";
    if (why) {
        printf("skipped: %s\n", why);
        return 0;
    }
    return cmocka_run_group_tests(tests, start_servers, stop_servers);
}
