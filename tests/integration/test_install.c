/* What is installed: `make install`, the systemd units, the container image and the Kubernetes manifests.
 * Each test is a script in tests/install, which says on its output what went wrong, or why it was skipped. */
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/process.h"

#define SCRIPT_SKIPPED 77

static char build[PATH_MAX]; /* the folder that is installed */

static int setup(void **state)
{
    (void)state;
    process_program("", build);
    build[strlen(build) - 1] = '\0'; /* the slash before the name */
    return 0;
}

/* Only what is built without sanitizers is installed. */
static bool plain_build(void)
{
    const char *name = strrchr(build, '/');
    return name && strcmp(name, "/build") == 0;
}

/* A script ends its containers when it is told to end, so that is what it gets when we are killed. */
static void exec_script(const char *script, pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent)
        execl(script, script, build, (char *)NULL);
    perror(script);
    _exit(127);
}

static void run(const char *script)
{
    if (!plain_build()) {
        print_message("skipped: %s is no plain build\n", build);
        skip();
    }
    int status;
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        exec_script(script, parent);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SCRIPT_SKIPPED)
        skip();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("%s: wait status 0x%x", script, (unsigned)status);
}

static void test_files(void **state)
{
    (void)state;
    run("tests/install/files");
}

static void test_units(void **state)
{
    (void)state;
    run("tests/install/units");
}

static void test_manifests(void **state)
{
    (void)state;
    run("tests/install/manifests.py");
}

static void test_image(void **state)
{
    (void)state;
    run("tests/install/image");
}

static void test_service(void **state)
{
    (void)state;
    run("tests/install/service");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files), cmocka_unit_test(test_units),   cmocka_unit_test(test_manifests),
        cmocka_unit_test(test_image), cmocka_unit_test(test_service),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
