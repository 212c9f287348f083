/* The supervisor as a whole: the real program with a real redis-server, and workers that behave and misbehave
 * as their workspace's name says (tests/support/fake_worker.h). The last test uses the real worker. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "tests/support/fake_worker.h"
#include "tests/support/redis_server.h"
#include "tests/support/supervisor_bed.h"

#define TOKEN "s3cret-token"

static struct redis_server redis;

static int setup(void **state)
{
    struct bed *bed = bed_new(&redis);
    char self[PATH_MAX];
    bed_self(self);
    setenv("TRIGGERFLOW_WORKER", self, 1);
    setenv("FAKE_WORKER_DIR", bed->dir, 1);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    bed_free(*state);
    return 0;
}

static void test_stored_workspaces_run(void **state)
{
    struct bed *bed = *state;
    struct stat st;
    char path[128];
    bed_store(bed, "ok1");
    bed_store(bed, "ok2");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok1", "running") && bed_state_is(bed, "ok2", "running"));
    assert_int_equal(stat(bed->run, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    snprintf(path, sizeof path, "%s/control.sock", bed->run);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);

    pid_t worker = (pid_t)bed_number(bed, "ok1", "pid");
    assert_int_equal(bed_number(bed, "ok1", "read"), 100);
    assert_int_equal(bed_number(bed, "ok1", "lag"), 5);
    assert_int_equal(bed_number(bed, "ok1", "fired"), 3);
    assert_true(bed_number(bed, "ok1", "memory.rss") > 0);
    assert_true(bed_text_is(bed, "ok1", "worker.state", "running"));
    assert_int_equal(bed_stop(bed), 0);
    assert_true(bed_gone(worker));
    assert_int_not_equal(stat(path, &st), 0);
}

static void test_second_is_refused(void **state)
{
    struct bed *bed = *state;
    char pid[32];
    bed_start(bed);
    bed_await_ready(bed);
    assert_int_equal(bed_command(bed, "start", NULL, NULL), 3);
    snprintf(pid, sizeof pid, "pid %d", (int)bed->supervisor);
    assert_true(bed_output_has(bed, pid));
    assert_int_equal(bed_status(bed, "GET", "/healthz", NULL), 200);
}

static void test_commands(void **state)
{
    struct bed *bed = *state;
    assert_int_equal(bed_command(bed, "stop", NULL, NULL), 3);
    assert_int_equal(bed_command(bed, "status", NULL, NULL), 3);
    assert_int_equal(bed_command(bed, "reload", NULL, NULL), 3);
    assert_int_equal(bed_command(bed, "health", NULL, NULL), 3);
    assert_int_equal(bed_command(bed, "nonsense", NULL, NULL), 2);
    assert_int_equal(bed_command(bed, "stop", "--json", NULL), 2);
    assert_int_equal(bed_command(bed, "--version", NULL, NULL), 0);
    assert_int_equal(bed_command(bed, "--help", NULL, NULL), 0);
    assert_true(bed_output_has(bed, "Exit codes"));

    bed_store(bed, "trouble1");
    bed_store(bed, "ok1");
    assert_int_equal(bed_command(bed, "start", "--daemon", NULL), 0);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "trouble1", "running") && bed_state_is(bed, "ok1", "running") &&
          bed_text_is(bed, "trouble1", "worker.storage", "away"));
    assert_int_equal(bed_command(bed, "status", NULL, NULL), 0);
    assert_true(bed_output_has(bed, "ok1"));
    assert_true(bed_output_has(bed, "running"));
    assert_true(bed_output_has(bed, "! storage: away"));
    assert_true(bed_output_has(bed, "! durability=none"));
    assert_true(bed_output_has(bed, "! source broker: no route"));
    assert_true(bed_output_has(bed, "! trigger t\xc3\xa9: unknown condition"));
    assert_int_equal(bed_command(bed, "status", "ok1", NULL), 0);
    assert_false(bed_output_has(bed, "trouble1"));
    assert_int_equal(bed_command(bed, "status", "ok1", "--json"), 0);
    assert_true(bed_output_has(bed, "\"generation\""));
    assert_int_equal(bed_command(bed, "status", "absent", NULL), 1);
    assert_int_equal(bed_command(bed, "health", NULL, NULL), 0);
    assert_true(bed_output_has(bed, "{\"status\":\"ok\"}"));
    assert_int_equal(bed_command(bed, "reload", NULL, NULL), 0);
    AWAIT(bed_text_is(bed, "ok1", "worker.reloaded", "true"));
    assert_int_equal(bed_command(bed, "stop", NULL, NULL), 0);
    assert_int_equal(bed_command(bed, "status", NULL, NULL), 3);
}

static void test_daemon_that_cannot_start(void **state)
{
    struct bed *bed = *state;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)bed->port);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    char port[64];
    snprintf(port, sizeof port, "port %d: Address already in use", bed->port);
    assert_int_equal(bed_command(bed, "start", "--daemon", NULL), 1);
    assert_true(bed_output_has(bed, port));
    assert_int_equal(bed_command(bed, "start", NULL, NULL), 1);
    assert_true(bed_output_has(bed, port));
    close(fd);

    setenv("TRIGGERFLOW_WORKER", "/nonexistent/worker", 1);
    assert_int_equal(bed_command(bed, "start", "--daemon", NULL), 1);
    assert_true(bed_output_has(bed, "/nonexistent/worker"));
    setenv("TRIGGERFLOW_WORKER", "/bin/true", 1);
    assert_int_equal(bed_command(bed, "start", "--daemon", NULL), 1);
    assert_true(bed_output_has(bed, "before it was ready"));
    bed_write_config(bed, "", "nonsense: 1");
    assert_int_equal(bed_command(bed, "start", "--daemon", NULL), 2);
    assert_true(bed_output_has(bed, "nonsense"));
}

static void test_http_errors(void **state)
{
    static const struct {
        const char *method, *path, *body;
        long status;
        const char *text;
    } cases[] = {
        {"GET", "/", NULL, 404, "no such path: /"},
        {"GET", "/workspace/", NULL, 404, "/workspace/"},
        {"GET", "/workspace/a/b", NULL, 404, "/workspace/a/b"},
        {"GET", "/workspace/absent", NULL, 404, "absent"},
        {"PUT", "/workspace/ok1", "{}", 405, "PUT"},
        {"POST", "/metrics", "{}", 405, "POST"},
        {"POST", "/workspace/ok1", "{", 400, "body"},
        {"POST", "/workspace/ok1", "[]", 400, "array"},
        {"POST", "/workspace/ok1", "{\"adopt\":1}", 400, "adopt: 1"},
        {"POST", "/workspace/ok1", "{\"adpot\":\"end\"}", 400, "adpot"},
        {"POST", "/workspace/absent", "{}", 400, "Workspace absent is not stored"},
        {"POST", "/workspace/triggerflow", "{}", 400, "triggerflow"},
        {"POST", "/workspace/a%2fb", "{}", 400, "a/b"},
        {"POST", "/workspace/a%00b", "{}", 400, "a%00b"},
        {"POST", "/workspace/a%zz", "{}", 400, "a%zz"},
        {"POST", "/workspace/a%2", "{}", 400, "a%2"},
        {"POST", "/workspace/%ff", "{}", 400, "?"},
        {"DELETE", "/workspace/absent", NULL, 400, "absent"},
        {"DELETE", "/workspace/a%2fb", NULL, 400, "a/b"},
    };
    struct bed *bed = *state;
    struct bed_answer answer;
    bed_start(bed);
    bed_await_ready(bed);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        long status = bed_call(bed, false, cases[i].method, cases[i].path, cases[i].body, NULL, &answer);
        struct json_object *root = json_tokener_parse(buffer_text(&answer.body));
        struct json_object *error = NULL;
        if (status != cases[i].status || !json_object_object_get_ex(root, "error", &error) ||
            !strstr(json_object_get_string(error), cases[i].text))
            fail_msg("%s %s: %ld %s", cases[i].method, cases[i].path, status, buffer_text(&answer.body));
        json_object_put(root);
        bed_answer_done(&answer);
    }
    bed_call(bed, false, "PUT", "/workspace/ok1", NULL, NULL, &answer);
    assert_string_equal(answer.allow, "POST, DELETE, GET, HEAD");
    bed_answer_done(&answer);
}

static void test_large_body(void **state)
{
    struct bed *bed = *state;
    struct bed_answer answer;
    size_t sizes[] = {65537, 300000};
    bed_start(bed);
    bed_await_ready(bed);
    for (size_t i = 0; i < 2; i++) {
        char *body = malloc(sizes[i] + 1);
        assert_non_null(body);
        memset(body, ' ', sizes[i]);
        body[sizes[i]] = '\0';
        assert_int_equal(bed_call(bed, false, "POST", "/workspace/ok1", body, NULL, &answer), 413);
        bed_answer_done(&answer);
        free(body);
    }
    assert_int_equal(bed_status(bed, "GET", "/healthz", NULL), 200);
}

static void test_token(void **state)
{
    struct bed *bed = *state;
    struct bed_answer answer;
    bed_write_config(bed, TOKEN, "");
    bed_start(bed);
    AWAIT(bed_call(bed, false, "GET", "/readyz", NULL, NULL, &answer) == 200 ||
          (bed_answer_done(&answer), false));
    bed_answer_done(&answer);
    assert_int_equal(bed_call(bed, false, "GET", "/workspace", NULL, NULL, &answer), 401);
    assert_string_equal(answer.authenticate, "Basic realm=\"triggerflow\"");
    bed_answer_done(&answer);
    const char *wrong[] = {"", "s3cret-toke", "s3cret-token1", "S3cret-token"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(bed_call(bed, false, "GET", "/metrics", NULL, wrong[i], &answer), 401);
        bed_answer_done(&answer);
    }
    assert_int_equal(bed_call(bed, false, "POST", "/workspace/ok1", "{}", NULL, &answer), 401);
    bed_answer_done(&answer);
    assert_int_equal(bed_call(bed, false, "GET", "/nowhere", NULL, NULL, &answer), 401);
    bed_answer_done(&answer);
    assert_int_equal(bed_call(bed, false, "GET", "/healthz", NULL, NULL, &answer), 200);
    bed_answer_done(&answer);
    assert_int_equal(bed_call(bed, false, "GET", "/workspace", NULL, TOKEN, &answer), 200);
    bed_answer_done(&answer);
    assert_int_equal(bed_call(bed, true, "GET", "/workspace", NULL, NULL, &answer), 200);
    bed_answer_done(&answer);

    /* The workers do not get it, and it is in no output. */
    bed_store(bed, "config1");
    assert_int_equal(bed_call(bed, false, "POST", "/workspace/config1", "{}", TOKEN, &answer), 201);
    bed_answer_done(&answer);
    assert_true(bed_text_is(bed, "config1", "worker.token", ""));
    assert_int_equal(bed_call(bed, false, "GET", "/metrics", NULL, TOKEN, &answer), 200);
    assert_null(strstr(buffer_text(&answer.body), TOKEN));
    bed_answer_done(&answer);
    assert_false(bed_log_has(bed, TOKEN));
}

static void test_start_and_delete(void **state)
{
    struct bed *bed = *state;
    struct bed_answer answer;
    bed_start(bed);
    bed_await_ready(bed);
    bed_store(bed, "ok1");
    assert_int_equal(bed_call(bed, false, "POST", "/workspace/ok1", "{}", NULL, &answer), 201);
    assert_string_equal(buffer_text(&answer.body), "{\"workspace\":\"ok1\"}");
    bed_answer_done(&answer);
    assert_true(bed_state_is(bed, "ok1", "running"));
    pid_t worker = (pid_t)bed_number(bed, "ok1", "pid");
    assert_int_equal(bed_call(bed, false, "POST", "/workspace/ok1", NULL, NULL, &answer), 400);
    assert_non_null(strstr(buffer_text(&answer.body), "already running"));
    bed_answer_done(&answer);

    assert_int_equal(bed_call(bed, false, "DELETE", "/workspace/ok1", "{}", NULL, &answer), 200);
    assert_string_equal(buffer_text(&answer.body), "\"Workspace ok1 deleted\"");
    bed_answer_done(&answer);
    assert_true(bed_gone(worker));
    assert_true(bed_state_is(bed, "ok1", "stopped"));
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/ok1", NULL), 200);
    bed_store(bed, "ok2"); /* stored, but never started */
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/ok2", NULL), 200);
    assert_int_equal(bed_status(bed, "POST", "/workspace/ok1", NULL), 201);
    assert_true(bed_state_is(bed, "ok1", "running"));
    bed_store(bed, "slow1"); /* answers before it is ready */
    assert_int_equal(bed_status(bed, "POST", "/workspace/slow1", NULL), 201);
    assert_true(bed_state_is(bed, "slow1", "starting"));
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/slow1", NULL), 200);
}

static void test_ends(void **state)
{
    struct bed *bed = *state;
    bed_store(bed, "finish1");
    bed_store(bed, "fenced1");
    bed_store(bed, "deleted1");
    bed_store(bed, "overflow1");
    bed_store(bed, "refused1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "finish1", "finished"));
    assert_true(bed_text_is(bed, "finish1", "finished.trigger", "__end__"));
    AWAIT(bed_state_is(bed, "fenced1", "fenced"));
    AWAIT(bed_state_is(bed, "deleted1", "deleted"));
    AWAIT(bed_state_is(bed, "overflow1", "failed"));
    assert_true(bed_text_is(bed, "overflow1", "reason", "internal_overflow"));
    assert_int_equal(bed_number(bed, "overflow1", "restarts"), 0);
    AWAIT(bed_number(bed, "refused1", "restarts") > 0);
    assert_true(bed_text_is(bed, "refused1", "last_exit.reason", "refused"));
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/refused1", NULL), 200);
    assert_int_equal(bed_status(bed, "POST", "/workspace/finish1", NULL), 201);
    assert_int_equal(bed_status(bed, "POST", "/workspace/fenced1", NULL), 500);
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/fenced1", NULL), 200);
    assert_true(bed_state_is(bed, "fenced1", "stopped"));
}

static void test_killed_worker_restarts(void **state)
{
    struct bed *bed = *state;
    bed_store(bed, "ok1");
    bed_store(bed, "ok2");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok1", "running") && bed_state_is(bed, "ok2", "running"));
    pid_t other = (pid_t)bed_number(bed, "ok2", "pid");
    for (int i = 1; i <= 3; i++) {
        pid_t worker = (pid_t)bed_number(bed, "ok1", "pid");
        kill(worker, SIGKILL);
        AWAIT(bed_number(bed, "ok1", "restarts") == i && bed_state_is(bed, "ok1", "running"));
        assert_true(bed_number(bed, "ok1", "pid") != worker);
        assert_true(bed_gone(worker));
    }
    assert_true(bed_text_is(bed, "ok1", "last_exit.reason", "signal KILL"));
    assert_true(bed_text_is(bed, "ok1", "poison", "[ ]"));
    assert_int_equal(bed_number(bed, "ok2", "pid"), other);
    assert_int_equal(bed_number(bed, "ok2", "restarts"), 0);
}

static void test_poison(void **state)
{
    struct bed *bed = *state;
    char text[256];
    bed_store(bed, "crash1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_number(bed, "crash1", "restarts") == 3 && bed_state_is(bed, "crash1", "running"));
    bed_get_text(bed, "crash1", "poison", text);
    assert_non_null(strstr(text, "\"deaths\": 3"));
    assert_non_null(strstr(text, "\"cause\": \"SEGV\""));
    assert_non_null(strstr(text, "\"skipped\": true"));
    assert_non_null(strstr(text, "1000, 7"));
    /* It is remembered while the workflow stands still. */
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/crash1", NULL), 200);
    assert_int_equal(bed_status(bed, "POST", "/workspace/crash1", NULL), 201);
    assert_true(bed_state_is(bed, "crash1", "running"));
}

static void test_watchdog(void **state)
{
    struct bed *bed = *state;
    char text[256];
    bed_write_config(bed, "", "supervisor: {watchdog: 1s}");
    bed_store(bed, "hang1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_number(bed, "hang1", "restarts") == 1 && bed_state_is(bed, "hang1", "running"));
    assert_true(bed_text_is(bed, "hang1", "last_exit.reason", "watchdog"));
    bed_get_text(bed, "hang1", "poison", text);
    assert_non_null(strstr(text, "\"cause\": \"watchdog\""));
}

static void test_stop_timeout(void **state)
{
    struct bed *bed = *state;
    bed_write_config(bed, "", "supervisor: {stop_timeout: 1s}");
    bed_store(bed, "stubborn1");
    bed_store(bed, "stubborn2");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "stubborn1", "running") && bed_state_is(bed, "stubborn2", "running"));
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/stubborn1", NULL), 200);
    assert_true(bed_state_is(bed, "stubborn1", "stopped"));
    pid_t worker = (pid_t)bed_number(bed, "stubborn2", "pid");
    assert_int_equal(bed_stop(bed), 0);
    assert_true(bed_gone(worker));
}

static void test_adoption(void **state)
{
    struct bed *bed = *state;
    bed_store(bed, "adopt1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "adopt1", "needs_adoption"));
    assert_int_equal(bed_status(bed, "POST", "/workspace/adopt1", "{}"), 400);
    assert_int_equal(bed_status(bed, "POST", "/workspace/adopt1", "{\"adopt\":\"1-2\"}"), 200);
    AWAIT(bed_state_is(bed, "adopt1", "running"));
    assert_true(bed_text_is(bed, "adopt1", "worker.adopt", "1-2"));
    assert_int_equal(bed_status(bed, "POST", "/workspace/adopt1", "{\"adopt\":\"end\"}"), 400);
    bed_store(bed, "config1");
    assert_int_equal(bed_status(bed, "POST", "/workspace/config1", "{\"adopt\":\"end\"}"), 201);
    AWAIT(bed_text_is(bed, "config1", "worker.adopt", "end"));
}

static void test_noisy_worker(void **state)
{
    struct bed *bed = *state;
    bed_store(bed, "noisy1");
    bed_store(bed, "ok1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "noisy1", "running") && bed_state_is(bed, "ok1", "running"));
    assert_true(bed_log_has(bed, "worker_message_invalid"));
    assert_int_equal(bed_status(bed, "GET", "/metrics", NULL), 200);
    kill((pid_t)bed_number(bed, "noisy1", "pid"), SIGABRT);
    AWAIT(bed_number(bed, "noisy1", "restarts") == 1);
    assert_int_equal(bed_status(bed, "GET", "/workspace", NULL), 200);
}

static void test_killed_forkserver(void **state)
{
    struct bed *bed = *state;
    bed_store(bed, "ok1");
    bed_store(bed, "ok2");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok1", "running"));
    pid_t worker = (pid_t)bed_number(bed, "ok1", "pid");
    pid_t forkserver = bed_forkserver(bed);
    assert_true(forkserver > 0);
    kill((pid_t)forkserver, SIGKILL);
    AWAIT(bed_forkserver(bed) != forkserver && bed_forkserver(bed) > 0);
    bed_await_ready(bed);
    assert_int_equal(bed_number(bed, "ok1", "pid"), worker);
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/ok1", NULL), 200);
    assert_int_equal(bed_status(bed, "POST", "/workspace/ok1", NULL), 201);
    AWAIT(bed_state_is(bed, "ok1", "running"));
}

static void test_unanswered_spawn(void **state)
{
    struct bed *bed = *state;
    char path[128];
    bed_start(bed);
    bed_await_ready(bed);
    snprintf(path, sizeof path, "%s/lost", bed->dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    bed_store(bed, "lost1");
    assert_int_equal(bed_status(bed, "POST", "/workspace/lost1", NULL), 201);
    AWAIT(bed_state_is(bed, "lost1", "running"));
    assert_int_equal(bed_number(bed, "lost1", "restarts"), 0);
    bed_store(bed, "nofork1");
    bed_status(bed, "POST", "/workspace/nofork1", NULL);
    AWAIT(bed_number(bed, "nofork1", "restarts") >= 1);
    assert_true(bed_text_is(bed, "nofork1", "last_exit.error", "no more processes"));
}

static void test_killed_supervisor(void **state)
{
    struct bed *bed = *state;
    bed_store(bed, "ok1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok1", "running"));
    pid_t worker = (pid_t)bed_number(bed, "ok1", "pid");
    pid_t forkserver = bed_forkserver(bed);
    kill(bed->supervisor, SIGKILL);
    bed_wait_exit(bed->supervisor);
    bed->supervisor = 0;
    AWAIT(bed_dead(worker) && bed_dead(forkserver));
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok1", "running"));
}

static void test_reload(void **state)
{
    struct bed *bed = *state;
    struct bed_answer answer;
    bed_start(bed);
    bed_await_ready(bed);
    bed_write_config(bed, TOKEN, "nonsense: 1");
    kill(bed->supervisor, SIGHUP);
    AWAIT(bed_log_has(bed, "nonsense"));
    assert_int_equal(bed_call(bed, false, "GET", "/workspace", NULL, NULL, &answer), 200);
    bed_answer_done(&answer);
    bed_write_config(bed, TOKEN, "");
    kill(bed->supervisor, SIGHUP);
    AWAIT(bed_call(bed, false, "GET", "/workspace", NULL, NULL, &answer) == 401 ||
          (bed_answer_done(&answer), false));
    bed_answer_done(&answer);
    assert_int_equal(bed_call(bed, false, "GET", "/workspace", NULL, TOKEN, &answer), 200);
    bed_answer_done(&answer);
}

static void test_storage_absent_at_start(void **state)
{
    struct bed *bed = *state;
    struct bed_answer answer;
    bed_store(bed, "ok1");
    redisReply *reply = redis_server_do(&redis, "SAVE");
    freeReplyObject(reply);
    redis_server_stop(&redis);
    bed_start(bed);
    AWAIT(bed_status(bed, "GET", "/healthz", NULL) == 200);
    AWAIT(bed_log_has(bed, "retried"));
    assert_int_equal(bed_status(bed, "GET", "/readyz", NULL), 503);
    assert_int_equal(bed_call(bed, true, "POST", "/workspace/ok2", NULL, NULL, &answer), 503);
    assert_non_null(strstr(buffer_text(&answer.body), "storage"));
    bed_answer_done(&answer);
    assert_int_equal(redis_server_restart(&redis), 0);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok1", "running"));
}

/* Calls in a process of its own, which exits with the status divided by 4 (an exit status has 8 bits). */
static pid_t call_meanwhile(const struct bed *bed, const char *method, const char *path)
{
    struct bed_answer answer;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit((int)(bed_call(bed, true, method, path, NULL, NULL, &answer) / 4));
    return pid;
}

/* A storage that accepts and never answers holds up nothing but what asks it. */
static void test_storage_hangs(void **state)
{
    struct bed *bed = *state;
    bed_store(bed, "ok1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok1", "running"));
    kill(redis.pid, SIGSTOP);
    pid_t caller = call_meanwhile(bed, "POST", "/workspace/ok2");
    for (int i = 0; i < 20; i++)
        assert_int_equal(bed_status(bed, "GET", "/healthz", NULL), 200);
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/ok1", NULL), 200);
    assert_int_equal(bed_stop(bed), 0);
    kill(redis.pid, SIGCONT);
    bed_wait_exit(caller);
}

/* Calls that wait when the supervisor stops are answered. */
static void test_stop_with_waiting_calls(void **state)
{
    struct bed *bed = *state;
    bed_write_config(bed, "", "supervisor: {stop_timeout: 2s}");
    bed_store(bed, "stubborn1");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "stubborn1", "running"));
    bed_store(bed, "slow1");
    pid_t stop = call_meanwhile(bed, "DELETE", "/workspace/stubborn1");
    pid_t start = call_meanwhile(bed, "POST", "/workspace/slow1");
    AWAIT(bed_state_is(bed, "stubborn1", "stopping") && bed_state_is(bed, "slow1", "starting"));
    assert_int_equal(bed_stop(bed), 0);
    assert_int_equal(bed_wait_exit(stop), 200 / 4);
    int status = bed_wait_exit(start);
    assert_true(status == 500 / 4 || status == 201 / 4);
}

static void test_bootstrap_workspace(void **state)
{
    struct bed *bed = *state;
    bed_write_config(bed, "", "supervisor: {bootstrap_workspace: ok-boot}");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_log_has(bed, "ok-boot detail=\"is not stored yet"));
    bed_store(bed, "ok-boot");
    AWAIT(bed_state_is(bed, "ok-boot", "running"));
}

/* The descriptors of a worker are its own few, whatever the supervisor has open. */
static void test_worker_descriptors(void **state)
{
    struct bed *bed = *state;
    char path[64], link[256];
    for (int i = 0; i < 20; i++) {
        char name[32];
        snprintf(name, sizeof name, "ok%d", i);
        bed_store(bed, name);
    }
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "ok19", "running") && bed_state_is(bed, "ok0", "running"));
    pid_t forkserver = bed_forkserver(bed);
    for (int fd = 4; fd < 256; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)forkserver, fd);
        ssize_t n = readlink(path, link, sizeof link - 1);
        if (n >= 0)
            fail_msg("descriptor %d of the forkserver is %.*s", fd, (int)n, link);
    }
}

static void test_many(void **state)
{
    struct bed *bed = *state;
    char name[32];
    enum { MANY = 300 };
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "ok%d", i);
        bed_store(bed, name);
    }
    bed_start(bed);
    bed_await_ready(bed);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "ok%d", i);
        AWAIT(bed_state_is(bed, name, "running"));
    }
    assert_int_equal(bed_status(bed, "GET", "/workspace", NULL), 200);
    assert_int_equal(bed_command(bed, "status", NULL, NULL), 0);
    assert_int_equal(bed_stop(bed), 0);
}

/* With the worker that is built beside the supervisor. */
static void test_real_worker(void **state)
{
    struct bed *bed = *state;
    char worker[PATH_MAX];
    bed_program("triggerflow-worker", worker);
    if (access(worker, X_OK) != 0) {
        print_message("skipped: no %s\n", worker);
        skip();
    }
    unsetenv("TRIGGERFLOW_WORKER");
    bed_store(bed, "real");
    bed_start(bed);
    bed_await_ready(bed);
    AWAIT(bed_state_is(bed, "real", "running"));
    kill((pid_t)bed_number(bed, "real", "pid"), SIGKILL);
    AWAIT(bed_number(bed, "real", "restarts") == 1 && bed_state_is(bed, "real", "running"));
    kill(bed_forkserver(bed), SIGKILL);
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/real", NULL), 200);
    assert_true(bed_text_is(bed, "real", "last_exit.reason", "stopped"));
    assert_int_equal(bed_status(bed, "POST", "/workspace/real", NULL), 201);
    AWAIT(bed_state_is(bed, "real", "running"));
    pid_t pid = (pid_t)bed_number(bed, "real", "pid");
    kill(bed->supervisor, SIGKILL);
    bed_wait_exit(bed->supervisor);
    bed->supervisor = 0;
    AWAIT(bed_dead(pid));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_stored_workspaces_run),
        TEST(test_second_is_refused),
        TEST(test_commands),
        TEST(test_daemon_that_cannot_start),
        TEST(test_http_errors),
        TEST(test_large_body),
        TEST(test_token),
        TEST(test_start_and_delete),
        TEST(test_ends),
        TEST(test_killed_worker_restarts),
        TEST(test_poison),
        TEST(test_watchdog),
        TEST(test_stop_timeout),
        TEST(test_adoption),
        TEST(test_noisy_worker),
        TEST(test_killed_forkserver),
        TEST(test_unanswered_spawn),
        TEST(test_killed_supervisor),
        TEST(test_reload),
        TEST(test_storage_absent_at_start),
        TEST(test_storage_hangs),
        TEST(test_stop_with_waiting_calls),
        TEST(test_bootstrap_workspace),
        TEST(test_worker_descriptors),
        TEST(test_many),
        TEST(test_real_worker),
    };
    if (argc > 1 && strcmp(argv[1], "--forkserver") == 0)
        return fake_worker_main();
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
