/* The restart policy: delays over a history of failures, and what each end of a worker means. */
#include "supervisor/restart.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/ipc.h"

static void test_doubling(void **state)
{
    (void)state;
    static const uint64_t expected_ms[] = {100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000};
    struct restart_history history = {0};
    uint64_t now = 5 * CLOCK_S;
    for (size_t i = 0; i < sizeof expected_ms / sizeof expected_ms[0]; i++)
        assert_int_equal(restart_delay(&history, now, &history), expected_ms[i] * CLOCK_MS);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(restart_delay(&history, now, &history), RESTART_DELAY_MAX_NS);
}

static void test_pure(void **state)
{
    (void)state;
    const struct restart_history history = {.failures = 3};
    struct restart_history next;
    assert_int_equal(restart_delay(&history, 1, &next), 800 * CLOCK_MS);
    assert_int_equal(restart_delay(&history, 1, &next), 800 * CLOCK_MS);
    assert_int_equal(next.failures, 4);
}

static void test_health_forgets(void **state)
{
    (void)state;
    struct restart_history next;
    struct restart_history history = {.failures = 7, .healthy_since_ns = 10 * CLOCK_S};
    assert_int_equal(restart_delay(&history, 10 * CLOCK_S + RESTART_HEALTHY_NS - 1, &next), 12800 * CLOCK_MS);
    assert_int_equal(next.failures, 8);
    assert_int_equal(next.healthy_since_ns, 0);
    assert_int_equal(restart_delay(&history, 10 * CLOCK_S + RESTART_HEALTHY_NS, &next), RESTART_DELAY_MIN_NS);
    assert_int_equal(next.failures, 1);
    /* A life that never became ready is not healthy, however long it took; nor is one from the future. */
    history.healthy_since_ns = 0;
    assert_int_equal(restart_delay(&history, 1000 * CLOCK_S, &next), 12800 * CLOCK_MS);
    history.healthy_since_ns = 2000 * CLOCK_S;
    assert_int_equal(restart_delay(&history, 1000 * CLOCK_S, &next), 12800 * CLOCK_MS);
}

static void test_judgement(void **state)
{
    (void)state;
    static const struct {
        struct restart_exit exit;
        enum restart_verdict verdict;
        const char *reason;
        bool own_fault;
    } cases[] = {
        {{.known = true, .status = IPC_EXIT_OK, .failed = ""}, RESTART_AGAIN, "exit status 0", false},
        {{.known = true, .status = IPC_EXIT_OK, .finished = true, .failed = ""},
         RESTART_FINISHED,
         "finished",
         false},
        {{.known = true, .status = IPC_EXIT_OK, .stop_requested = true, .failed = ""},
         RESTART_STOPPED,
         "stopped",
         false},
        {{.known = true, .status = IPC_EXIT_ERROR, .failed = ""}, RESTART_AGAIN, "exit status 1", false},
        {{.known = true, .status = IPC_EXIT_ERROR, .finished = true, .failed = ""},
         RESTART_AGAIN,
         "exit status 1",
         false},
        {{.known = true, .status = IPC_EXIT_USAGE, .failed = ""}, RESTART_FAILED, "exit status 2", false},
        {{.known = true, .status = IPC_EXIT_FENCED, .failed = ""}, RESTART_FENCED, "fenced", false},
        {{.known = true, .status = IPC_EXIT_FENCED, .failed = "deleted"}, RESTART_DELETED, "deleted", false},
        {{.known = true, .status = IPC_EXIT_FENCED, .failed = "fenced"}, RESTART_FENCED, "fenced", false},
        {{.known = true, .status = IPC_EXIT_ERROR, .failed = "rolled_back"},
         RESTART_AGAIN,
         "rolled_back",
         false},
        {{.known = true, .status = IPC_EXIT_ERROR, .failed = "refused"}, RESTART_AGAIN, "refused", false},
        {{.known = true, .status = IPC_EXIT_ERROR, .failed = "error"}, RESTART_AGAIN, "error", false},
        {{.known = true, .status = IPC_EXIT_ERROR, .failed = "internal_overflow"},
         RESTART_FAILED,
         "internal_overflow",
         false},
        {{.known = true, .status = IPC_EXIT_ERROR, .failed = "of a later version"},
         RESTART_AGAIN,
         "of a later version",
         false},
        {{.known = true, .signal = SIGKILL, .failed = ""}, RESTART_AGAIN, "signal KILL", false},
        {{.known = true, .signal = SIGTERM, .failed = ""}, RESTART_AGAIN, "signal TERM", false},
        {{.known = true, .signal = SIGSEGV, .failed = ""}, RESTART_AGAIN, "signal SEGV", true},
        {{.known = true, .signal = SIGBUS, .failed = ""}, RESTART_AGAIN, "signal BUS", true},
        {{.known = true, .signal = SIGILL, .failed = ""}, RESTART_AGAIN, "signal ILL", true},
        {{.known = true, .signal = SIGFPE, .failed = ""}, RESTART_AGAIN, "signal FPE", true},
        {{.known = true, .signal = SIGABRT, .failed = ""}, RESTART_AGAIN, "signal ABRT", true},
        {{.known = true, .signal = SIGSYS, .failed = ""}, RESTART_AGAIN, "signal SYS", true},
        {{.known = true, .signal = SIGSEGV, .failed = "fenced"}, RESTART_FENCED, "fenced", true},
        {{.known = true, .signal = SIGSEGV, .stop_requested = true, .failed = ""},
         RESTART_STOPPED,
         "signal SEGV",
         true},
        {{.known = true, .signal = SIGKILL, .watchdog = true, .failed = ""}, RESTART_AGAIN, "watchdog", true},
        {{.known = true, .signal = SIGKILL, .stop_requested = true, .overdue = true, .failed = ""},
         RESTART_STOPPED,
         "killed: not stopped in time",
         false},
        {{.known = true, .signal = SIGKILL, .overdue = true, .failed = ""},
         RESTART_AGAIN,
         "killed: not stopped in time",
         false},
        {{.known = false, .failed = ""}, RESTART_AGAIN, "unknown", false},
        {{.known = false, .stop_requested = true, .failed = ""}, RESTART_STOPPED, "unknown", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char reason[RESTART_REASON_MAX];
        enum restart_verdict verdict = restart_judge(&cases[i].exit, reason);
        if (verdict != cases[i].verdict || strcmp(reason, cases[i].reason) != 0 ||
            restart_own_fault(&cases[i].exit) != cases[i].own_fault)
            fail_msg("case %zu: verdict %d, %s", i, (int)verdict, reason);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_doubling),
        cmocka_unit_test(test_pure),
        cmocka_unit_test(test_health_forgets),
        cmocka_unit_test(test_judgement),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
