/* See restart.h. */
#include "supervisor/restart.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/ipc.h"

uint64_t restart_delay(const struct restart_history *history, uint64_t now_ns,
                       struct restart_history *ret_next)
{
    unsigned failures = history->failures;
    if (history->healthy_since_ns != 0 && now_ns >= history->healthy_since_ns &&
        now_ns - history->healthy_since_ns >= RESTART_HEALTHY_NS)
        failures = 0;

    uint64_t delay = RESTART_DELAY_MIN_NS;
    for (unsigned i = 0; i < failures && delay < RESTART_DELAY_MAX_NS; i++)
        delay *= 2;
    if (delay > RESTART_DELAY_MAX_NS)
        delay = RESTART_DELAY_MAX_NS;

    ret_next->failures = failures < 1000 ? failures + 1 : failures;
    ret_next->healthy_since_ns = 0;
    return delay;
}

/* What a `failed` message says about starting again. */
static bool judge_failed(const char *failed, enum restart_verdict *ret_verdict)
{
    static const struct {
        const char *reason;
        enum restart_verdict verdict;
    } table[] = {
        {"fenced", RESTART_FENCED}, {"deleted", RESTART_DELETED},   {"internal_overflow", RESTART_FAILED},
        {"refused", RESTART_AGAIN}, {"rolled_back", RESTART_AGAIN}, {"error", RESTART_AGAIN},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(failed, table[i].reason) == 0) {
            *ret_verdict = table[i].verdict;
            return true;
        }
    }
    return false;
}

static void describe(const struct restart_exit *exit, char reason[RESTART_REASON_MAX])
{
    if (exit->watchdog)
        snprintf(reason, RESTART_REASON_MAX, "watchdog");
    else if (exit->overdue)
        snprintf(reason, RESTART_REASON_MAX, "killed: not stopped in time");
    else if (exit->failed[0] != '\0')
        snprintf(reason, RESTART_REASON_MAX, "%s", exit->failed);
    else if (!exit->known)
        snprintf(reason, RESTART_REASON_MAX, "unknown");
    else if (exit->signal != 0) {
        const char *name = sigabbrev_np(exit->signal);
        snprintf(reason, RESTART_REASON_MAX, "signal %s", name ? name : "unknown");
    } else if (exit->status == IPC_EXIT_OK && exit->stop_requested)
        snprintf(reason, RESTART_REASON_MAX, "stopped");
    else if (exit->status == IPC_EXIT_OK && exit->finished)
        snprintf(reason, RESTART_REASON_MAX, "finished");
    else if (exit->status == IPC_EXIT_FENCED)
        snprintf(reason, RESTART_REASON_MAX, "fenced");
    else
        snprintf(reason, RESTART_REASON_MAX, "exit status %d", exit->status);
}

enum restart_verdict restart_judge(const struct restart_exit *exit, char ret_reason[RESTART_REASON_MAX])
{
    describe(exit, ret_reason);
    if (exit->stop_requested)
        return RESTART_STOPPED;
    enum restart_verdict verdict;
    if (judge_failed(exit->failed, &verdict))
        return verdict;
    if (!exit->known || exit->signal != 0)
        return RESTART_AGAIN;
    switch (exit->status) {
    case IPC_EXIT_OK:
        return exit->finished ? RESTART_FINISHED : RESTART_AGAIN;
    case IPC_EXIT_USAGE:
        return RESTART_FAILED;
    case IPC_EXIT_FENCED:
        return RESTART_FENCED;
    default:
        return RESTART_AGAIN;
    }
}

bool restart_own_fault(const struct restart_exit *exit)
{
    if (exit->watchdog)
        return true;
    if (!exit->known)
        return false;
    switch (exit->signal) {
    case SIGSEGV:
    case SIGBUS:
    case SIGILL:
    case SIGFPE:
    case SIGABRT:
    case SIGSYS:
        return true;
    default:
        return false;
    }
}
