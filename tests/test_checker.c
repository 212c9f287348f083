/* The checker's child: one that answers, crashes, hangs, floods, is killed meanwhile (a script), and the real
 * one. */
#include "supervisor/checker.h"

#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"

/* Says its pid, unless it is told to do something else. */
static const char script[] = "#!/bin/sh\n"
                             "[ \"$1\" = --check ] || exit 9\n"
                             "while read -r line; do\n"
                             "    case $line in\n"
                             "    crash) kill -SEGV $$ ;;\n"
                             "    leave) exit 3 ;;\n"
                             "    hang) exec sleep 1000 ;;\n"
                             "    flood) exec tr '\\000' x </dev/zero ;;\n"
                             "    lines) exec yes ;;\n"
                             "    nonsense) echo nonsense ;;\n"
                             "    array) echo '[]' ;;\n"
                             "    late) echo '{}'; exit 0 ;;\n"
                             "    *) echo \"{\\\"pid\\\":$$,\\\"bytes\\\":${#line}}\" ;;\n"
                             "    esac\n"
                             "done\n";

static char path[] = "/tmp/test_checker.XXXXXX";

static int write_script(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, script, sizeof script - 1) != (ssize_t)sizeof script - 1 || fchmod(fd, 0700) < 0)
        return -1;
    return close(fd);
}

static int remove_script(void **state)
{
    (void)state;
    return unlink(path);
}

static struct checker *start(void)
{
    struct checker *checker;
    struct error err;
    assert_int_equal(checker_new(path, &checker, &err), 0);
    return checker;
}

/* Asks what is answered, and returns the child's pid. */
static pid_t ask_pid(struct checker *checker)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct json_value root, pid;
    struct error err;
    int64_t number = 0;
    if (checker_ask(checker, "pid", 3, &out, &err) < 0)
        fail_msg("%s", err.message);
    assert_int_equal(json_scan(out.data, out.len, &root, NULL), 0);
    assert_true(json_member(&root, "pid", &pid) && json_integer(&pid, &number));
    return (pid_t)number;
}

static void assert_refused(struct checker *checker, const char *request, const char *message)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct error err;
    buffer_append_text(&out, "before");
    assert_int_equal(checker_ask(checker, request, strlen(request), &out, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    assert_string_equal(err.message, message);
    assert_string_equal(buffer_text(&out), "before");
}

static void test_answers(void **state)
{
    (void)state;
    struct checker *checker = start();
    pid_t pid = ask_pid(checker);
    assert_int_equal(ask_pid(checker), pid);
    checker_free(checker);
    assert_int_equal(kill(pid, 0), -1); /* ended, and reaped */
    checker_free(start());
    checker_free(NULL);
}

static void test_dies(void **state)
{
    (void)state;
    struct checker *checker = start();
    pid_t pid = ask_pid(checker);
    assert_refused(checker, "crash", "the checker died of this request (signal 11)");
    assert_int_not_equal(ask_pid(checker), pid);
    assert_refused(checker, "leave", "the checker died of this request (exit status 3)");
    ask_pid(checker);
    checker_free(checker);
}

static void test_hangs(void **state)
{
    (void)state;
    struct checker *checker = start();
    pid_t pid = ask_pid(checker);
    checker_set_timeout(checker, 50 * CLOCK_MS);
    assert_refused(checker, "hang", "the checker did not answer this request within 50 ms");
    assert_int_equal(kill(pid, 0), -1);
    checker_set_timeout(checker, CHECKER_ANSWER_NS);
    ask_pid(checker);
    checker_free(checker);
}

static void test_floods(void **state)
{
    (void)state;
    struct checker *checker = start();
    assert_refused(checker, "flood", "the checker's answer to this request is too long");
    assert_refused(checker, "lines", "the checker's answer to this request is too long");
    assert_refused(checker, "nonsense", "the checker's answer to this request is not a JSON object");
    assert_refused(checker, "array", "the checker's answer to this request is not a JSON object");
    ask_pid(checker);
    checker_free(checker);
}

/* What dies while nobody asks costs no request. */
static void test_killed_meanwhile(void **state)
{
    (void)state;
    struct checker *checker = start();
    BUFFER_AUTO out = BUFFER_INIT;
    struct error err;
    siginfo_t info;
    pid_t pid = ask_pid(checker);
    kill(pid, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    pid_t next = ask_pid(checker);
    assert_int_not_equal(next, pid);
    assert_int_equal(checker_ask(checker, "late", 4, &out, &err), 0);
    assert_string_equal(buffer_text(&out), "{}");
    assert_int_equal(waitid(P_PID, (id_t)next, &info, WEXITED), 0); /* reaped by somebody else */
    assert_int_not_equal(ask_pid(checker), next);
    checker_free(checker);
}

static void test_refuses_itself(void **state)
{
    (void)state;
    struct checker *checker = start();
    struct error err;
    BUFFER_AUTO out = BUFFER_INIT;
    BUFFER_AUTO large = BUFFER_INIT;
    assert_refused(checker, "two\nlines", "a request of 9 bytes cannot be checked: it has a line feed");
    char *to = buffer_reserve(&large, CHECKER_REQUEST_MAX + 1);
    memset(to, 'x', CHECKER_REQUEST_MAX + 1);
    assert_int_equal(checker_ask(checker, to, CHECKER_REQUEST_MAX + 1, &out, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    checker_free(checker);
    assert_int_equal(checker_new("/nowhere/at-all", &checker, &err), 0);
    assert_int_equal(checker_ask(checker, "x", 1, &out, &err), -1);
    assert_int_equal(err.code, ERROR_SYSTEM);
    checker_free(checker);
}

static void *ask_often(void *data)
{
    for (int i = 0; i < 50; i++)
        ask_pid(data);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct checker *checker = start();
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, checker), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    checker_free(checker);
}

/* The real program, beside this one's folder. */
static void test_real(void **state)
{
    (void)state;
    char worker[PATH_MAX] = "";
    struct checker *checker;
    struct error err;
    BUFFER_AUTO request = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    ssize_t n = readlink("/proc/self/exe", worker, sizeof worker - 32);
    assert_true(n > 0);
    for (int i = 0; i < 2; i++)
        *strrchr(worker, '/') = '\0';
    strcat(worker, "/triggerflow-worker");
    if (access(worker, X_OK)) {
        print_message("skipped: %s is not built\n", worker);
        return;
    }
    buffer_append_text(&request, "{\"check\":\"triggers\",\"padding\":\"");
    char *padding = buffer_reserve(&request, 4u << 20);
    memset(padding, 'x', 4u << 20);
    request.len += 4u << 20;
    buffer_append_text(&request, "\",\"triggers\":[7]}");
    assert_int_equal(checker_new(worker, &checker, &err), 0);
    for (int i = 0; i < 3; i++) {
        buffer_reset(&out, 0);
        if (checker_ask(checker, request.data, request.len, &out, &err) < 0)
            fail_msg("%s", err.message);
        assert_string_equal(buffer_text(&out), "{\"results\":[\"is a number, not an object\"]}");
    }
    checker_free(checker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_dies),
        cmocka_unit_test(test_hangs),
        cmocka_unit_test(test_floods),
        cmocka_unit_test(test_killed_meanwhile),
        cmocka_unit_test(test_refuses_itself),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_real),
    };
    return cmocka_run_group_tests(tests, write_script, remove_script);
}
