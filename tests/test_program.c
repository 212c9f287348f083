/* Local programs without a uid of their own: the program host and its runners, and what may be run. The whole
 * of it runs as nobody, when it is started by root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/loop.h"
#include "tests/support/process.h"
#include "tests/support/wait.h"
#include "worker/check.h"
#include "worker/local/image.h"
#include "worker/local/permit.h"
#include "worker/local/program.h"

#define NOBODY 65534

static void test_permits(void **state)
{
    static const struct {
        const char *allow;
        const char *path;
        bool permitted;
    } rows[] = {
        {"", "/bin/sh", false},
        {"/bin/sh", "/bin/sh", true},
        {"/bin/sh", "/bin/shell", false},
        {"/bin/sh", "/bin", false},
        {"/opt/tools:/bin", "/bin/sh", true},
        {"/opt/tools/:/bin/", "/opt/tools/a/b", true},
        {":/bin:", "/bin/sh", true},
        {"/", "/any/thing", true},
        {"/opt", "/optional", false},
        {"/opt", "opt/x", false},
        {"/opt", "", false},
        {"/opt", "/opt/../bin/sh", false},
        {"/opt", "/opt/./sh", false},
        {"/opt", "/opt//sh", false},
        {"/opt", "/opt/..sh", true},
        {"/opt", "/opt/sh/", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct error err = {.code = ERROR_NONE};
        int r = permit_program(rows[i].allow, rows[i].path, strlen(rows[i].path), &err);
        if ((r == 0) != rows[i].permitted)
            fail_msg("%s in %s: %s", rows[i].path, rows[i].allow, err.message);
    }
}

static void test_images(void **state)
{
    static const struct {
        const char *allow;
        const char *image;
        bool permitted;
    } rows[] = {
        {"", "a", false},       {"a", "a", true},    {"a", "a:1", false},    {"b, a:1 ,c", "a:1", true},
        {"a/*", "a/b:1", true}, {"a/*", "a", false}, {"a/*", "ab/c", false}, {"*", "any/thing", true},
        {"a*", "a", true},      {",,", "", false},   {"aa", "a", false},
    };
    static const char *const wrong[] = {"",       "a b", "a?x=1", "../a", "a//b",
                                        "a/../b", "-a",  "a\nb",  "a%2e", "/a"};
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if ((permit_image(rows[i].allow, rows[i].image, strlen(rows[i].image), &err) == 0) !=
            rows[i].permitted)
            fail_msg("%s in %s", rows[i].image, rows[i].allow);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (image_check(wrong[i], strlen(wrong[i]), &err) == 0)
            fail_msg("%s", wrong[i]);
    assert_int_equal(image_check("reg.example:5000/a/b_c:1.2-x", 28, &err), 0);
    assert_int_equal(image_check("a@sha256:0123", 13, &err), 0);
}

static void test_uids(void **state)
{
    static const char *const wrong[] = {"",    "-",    "0",          "5-4",         "5-", "a",
                                        "1 2", "1-2x", "4294967295", "99999999999", "-5"};
    uint32_t first, last;
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(config_uids(wrong[i], &first, &last));
    assert_true(config_uids("64000-64010", &first, &last));
    assert_int_equal(first, 64000);
    assert_int_equal(last, 64010);
    assert_true(config_uids("7", &first, &last));
    assert_int_equal(first, 7);
    assert_int_equal(last, 7);
}

/* Registration and storage refuse what may not be run. */
static void test_check(void **state)
{
    static const char trigger[] =
        "{\"condition\":{\"name\":\"TRUE\"},\"activation_events\":[{\"type\":\"a\",\"subject\":\"s\"}],"
        "\"action\":{\"name\":\"EXEC\",%s}}";
    static const struct {
        const char *permits;
        const char *members;
        const char *reason; /* NULL: accepted */
    } rows[] = {
        {"/bin", "\"argv\":[\"/bin/echo\",\"${event.data.x}\"],\"memory\":\"64MiB\",\"retries\":3", NULL},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"env\":{\"A\":\"${key}\",\"B\":{\"env\":\"X\"}}", NULL},
        {"", "\"argv\":[\"/bin/echo\"]", "/bin/echo: worker.exec_allow lets no program run"},
        {"/opt", "\"argv\":[\"/bin/echo\"]", "/bin/echo is not among what worker.exec_allow lets run"},
        {"/bin", "\"argv\":[\"echo\"]", "echo is not the absolute path of a program"},
        {"/bin", "\"argv\":[]", "argv has 0 texts"},
        {"/bin", "\"argv\":\"/bin/echo\"", "argv is \\\"/bin/echo\\\", not a list of texts"},
        {"/bin", "\"argv\":[\"/bin/echo\",1]", "argv is 1, not a list of texts"},
        {"/bin", "\"argv\":[\"/bin/echo\",\"${event.\"]", "argv[1]"},
        {"/bin", "\"argv\":[\"/bin/${event.id}\"],\"x\":1", "unknown parameter x"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"memory\":\"1kB\"", "memory is \\\"1kB\\\", not a size"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"memory\":1000", "memory is 1000, not a size"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"processes\":0", "processes is 0, not a whole number"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"output_bytes\":2000000", "output_bytes is 2000000"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"input\":\"x\"", "input is \\\"x\\\", not event, data or none"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"env\":{\"LD_PRELOAD\":\"x\"}", "env: LD_PRELOAD is no variable"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"env\":{\"TRIGGERFLOW_KEY\":\"x\"}",
         "env: TRIGGERFLOW_KEY is no"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"env\":{\"A=B\":\"x\"}", "env: A=B is no variable"},
        {"/bin", "\"argv\":[\"/bin/echo\"],\"reply\":\"ignore\",\"reply_type\":\"x\"", "need reply: event"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO request = BUFFER_INIT;
        BUFFER_AUTO answer = BUFFER_INIT;
        char document[512];
        snprintf(document, sizeof document, trigger, rows[i].members);
        buffer_printf(&request,
                      "{\"check\":\"triggers\",\"permits\":{\"exec_allow\":\"%s\"},\"triggers\":[%s]}",
                      rows[i].permits, document);
        check_answer(request.data, request.len, &answer);
        const char *text = buffer_text(&answer);
        if (rows[i].reason ? !strstr(text, rows[i].reason) : strcmp(text, "{\"results\":[null]}"))
            fail_msg("%s: %s", rows[i].members, text);
    }
}

/* The same of containers, as conditions and as actions. */
static void test_check_docker(void **state)
{
    static const struct {
        const char *members;
        const char *reason; /* NULL: accepted */
    } rows[] = {
        {"\"name\":\"DOCKER\",\"image\":\"ours/x\",\"script\":\"s\",\"timeout_s\":3", NULL},
        {"\"name\":\"DOCKER_IMAGE\",\"image\":\"ours/x\"", NULL},
        {"\"name\":\"DOCKER\",\"image\":\"ours/x\"", "script is missing"},
        {"\"name\":\"DOCKER\",\"image\":\"ours/x\",\"script\":1", "script is 1, not a text"},
        {"\"name\":\"DOCKER_IMAGE\",\"image\":\"ours/x\",\"script\":\"s\"", "unknown parameter script"},
        {"\"name\":\"DOCKER_IMAGE\"", "image is missing"},
        {"\"name\":\"DOCKER_IMAGE\",\"image\":\"ours/x?y\"", "ours/x?y is no name of an image"},
        {"\"name\":\"DOCKER_IMAGE\",\"image\":\"other\"", "image other is not among worker.docker_images"},
        {"\"name\":\"DOCKER_IMAGE\",\"image\":\"ours/x\",\"retries\":-1", "is -1, not a whole number"},
    };
    (void)state;
    for (size_t i = 0; i < 2 * sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO answer = BUFFER_INIT;
        BUFFER_AUTO request = BUFFER_INIT;
        char document[512];
        if (i % 2)
            snprintf(document, sizeof document, "\"condition\":{\"name\":\"TRUE\"},\"action\":{%s}",
                     rows[i / 2].members);
        else
            snprintf(document, sizeof document, "\"condition\":{%s},\"action\":{\"name\":\"PASS\"}",
                     rows[i / 2].members);
        buffer_printf(&request,
                      "{\"check\":\"triggers\",\"permits\":{\"docker_images\":\"ours/*\"},\"triggers\":"
                      "[{\"activation_events\":[{\"type\":\"a\"}],%s}]}",
                      document);
        check_answer(request.data, request.len, &answer);
        const char *text = buffer_text(&answer);
        const char *reason = rows[i / 2].reason;
        if (reason ? !strstr(text, reason) : strcmp(text, "{\"results\":[null]}"))
            fail_msg("%s: %s", document, text);
    }
}

/* --- running --- */

struct run {
    struct config config;
    struct programs *programs;
    struct loop *loop;
    bool ended;
    struct program_report report;
    char output[8192];
    char errors[8192];
};

static struct run *run_new(void)
{
    static const char text[] = "worker: {exec_allow: \"/bin:/usr/bin\"}\n";
    struct error err;
    struct run *r = calloc(1, sizeof *r);
    assert_non_null(r);
    assert_int_equal(config_parse_yaml("test", text, sizeof text - 1, &r->config, &err), 0);
    assert_int_equal(programs_new(&r->config, &r->programs, &err), 0);
    assert_non_null(r->loop = loop_new(&err));
    return r;
}

static void run_free(struct run *r)
{
    programs_free(r->programs);
    loop_free(r->loop);
    config_done(&r->config);
    free(r);
}

static void on_end(void *data, const struct program_end *end)
{
    struct run *r = data;
    r->ended = true;
    r->report = end->report;
    snprintf(r->output, sizeof r->output, "%.*s", (int)end->report.output_len, end->output);
    snprintf(r->errors, sizeof r->errors, "%.*s", (int)end->report.errors_len, end->errors);
}

static struct program *start(struct run *r, const char *script, uint32_t processes, uint64_t time_ns)
{
    struct error err;
    struct program *program;
    BUFFER_AUTO texts = BUFFER_INIT;
    const char *const all[] = {"/bin/sh", "-c", script, "A=1"};
    for (size_t i = 0; i < 4; i++)
        buffer_append(&texts, all[i], strlen(all[i]) + 1);
    struct program_request request = {.limits = {.time_ns = time_ns,
                                                 .processes = processes,
                                                 .output_max = 4096,
                                                 .n_arguments = 3,
                                                 .n_variables = 1},
                                      .texts = texts.data,
                                      .texts_len = texts.len,
                                      .input = "given",
                                      .input_len = 5};
    r->ended = false;
    assert_int_equal(program_start(r->programs, r->loop, &request, on_end, r, &program, &err), 0);
    return program;
}

static void finish(struct run *r)
{
    struct error err;
    uint64_t deadline = clock_now_ns() + WAIT_DEADLINE_NS;
    while (!r->ended && clock_now_ns() < deadline)
        assert_int_equal(loop_run_once(r->loop, CLOCK_S, &err), 0);
    assert_true(r->ended);
}

static void test_run(void **state)
{
    struct run *r = run_new();
    (void)state;
    start(r, "cat; echo $A$B; echo no >&2; exit 7", 10, 60 * CLOCK_S);
    finish(r);
    assert_int_equal(r->report.fate, PROGRAM_EXITED);
    assert_int_equal(r->report.status, 7);
    assert_string_equal(r->output, "given1\n");
    assert_string_equal(r->errors, "no\n");
    start(r, "setsid sleep 60.25 >/dev/null 2>&1 & sleep 60.25 & exit 0", 10, 60 * CLOCK_S);
    finish(r);
    assert_int_equal(process_count("sleep 60.25"), 0); /* whatever session it is in */
    start(r, "kill -9 $$", 10, 60 * CLOCK_S);
    finish(r);
    assert_int_equal(r->report.fate, PROGRAM_KILLED);
    assert_int_equal(r->report.status, 9);
    start(r, "sleep 60", 10, CLOCK_S / 5);
    finish(r);
    assert_int_equal(r->report.fate, PROGRAM_TIMED_OUT);
    run_free(r);
}

static void test_too_many(void **state)
{
    struct run *r = run_new();
    (void)state;
    start(r, "for i in 1 2 3 4 5 6 7 8; do setsid sleep 60.125 & done; wait", 20, 60 * CLOCK_S);
    struct run *other = run_new();
    start(other, "for i in 1 2 3 4 5 6 7 8; do setsid sleep 60.125 & done; sleep 60.125", 5, 60 * CLOCK_S);
    finish(other);
    assert_int_equal(other->report.fate, PROGRAM_TOO_MANY);
    assert_false(r->ended);
    run_free(other);
    run_free(r); /* kills what still runs */
    WAIT(process_count("sleep 60.125") == 0);
}

/* Whether the process has gone whose number the file holds. */
static bool gone(int fd)
{
    char pid[16] = "";
    char process[32];
    if (pread(fd, pid, sizeof pid - 1, 0) <= 1)
        return false;
    snprintf(process, sizeof process, "/proc/%d", atoi(pid));
    return access(process, F_OK) != 0;
}

/* The runner is of the same user here, and so the program can kill it. It does not survive that. */
static void test_runner_killed(void **state)
{
    (void)state;
    char folder[] = "/tmp/triggerflow-program-XXXXXX";
    assert_non_null(mkdtemp(folder));
    setenv("TMPDIR", folder, 1);
    struct run *r = run_new();
    char path[] = "/tmp/triggerflow-killed-XXXXXX";
    char script[160];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    snprintf(script, sizeof script, "setsid sleep 60 & echo $! >%s; kill -9 $PPID; sleep 60", path);
    start(r, script, 10, 60 * CLOCK_S);
    finish(r);
    assert_int_equal(r->report.fate, PROGRAM_UNAVAILABLE);
    assert_string_equal(r->report.message, "the process that looks after it has died");
    WAIT(gone(fd));
    WAIT(rmdir(folder) == 0); /* nothing is left in it */
    unsetenv("TMPDIR");
    close(fd);
    unlink(path);
    run_free(r);
}

static void test_cancel(void **state)
{
    struct run *r = run_new();
    char path[] = "/tmp/triggerflow-cancel-XXXXXX";
    char script[128];
    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    snprintf(script, sizeof script, "echo $$ >%s; sleep 60", path);
    struct program *program = start(r, script, 10, 60 * CLOCK_S);
    char pid[16] = "";
    WAIT(pread(fd, pid, sizeof pid - 1, 0) > 1);
    program_cancel(program);
    WAIT(gone(fd));
    assert_false(r->ended);
    close(fd);
    unlink(path);
    run_free(r);
}

static void test_not_allowed(void **state)
{
    struct config config;
    struct error err;
    struct programs *programs;
    struct program *program;
    struct program_request request = {.texts = "/bin/sh"};
    (void)state;
    assert_int_equal(config_parse_yaml("test", "", 0, &config, &err), 0);
    assert_int_equal(programs_new(&config, &programs, &err), 0);
    assert_null(programs);
    assert_int_equal(program_start(programs, NULL, &request, on_end, NULL, &program, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    config_done(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permits),      cmocka_unit_test(test_images),
        cmocka_unit_test(test_uids),         cmocka_unit_test(test_check),
        cmocka_unit_test(test_check_docker), cmocka_unit_test(test_run),
        cmocka_unit_test(test_too_many),     cmocka_unit_test(test_runner_killed),
        cmocka_unit_test(test_cancel),       cmocka_unit_test(test_not_allowed),
    };
    if (geteuid() == 0 && (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0))
        perror("setresuid");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
