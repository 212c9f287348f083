/* The restart policy: what the end of a worker means, and how long to wait before the next life.
 *
 * Pure functions: no clock, no state, no I/O. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define RESTART_DELAY_MIN_NS 100000000ull   /* 100 ms */
#define RESTART_DELAY_MAX_NS 30000000000ull /* 30 s */
#define RESTART_HEALTHY_NS 60000000000ull   /* this long in good health forgets earlier failures */
#define RESTART_REASON_MAX 64

/* Zeroed: no failure yet. */
struct restart_history {
    unsigned failures;         /* in a row */
    uint64_t healthy_since_ns; /* when the last life became ready; 0: it never did */
};

/* Counts one more failure, at now_ns, and returns how long to wait before the next start, in nanoseconds: 100
 * ms, doubling to 30 s. The count starts anew after a life that was healthy for RESTART_HEALTHY_NS. */
uint64_t restart_delay(const struct restart_history *history, uint64_t now_ns,
                       struct restart_history *ret_next);

/* How a worker ended, and what was known about it. */
struct restart_exit {
    bool known;          /* false: nobody saw it end */
    int status;          /* exit status, when signal is 0 */
    int signal;          /* that killed it; 0: it exited */
    bool stop_requested; /* by us */
    bool finished;       /* it reported a TERMINATE in this life */
    bool watchdog;       /* we killed it because a thread hung */
    bool overdue;        /* we killed it because it did not stop in time */
    const char *failed;  /* the reason of its `failed` message; "" without one */
};

enum restart_verdict {
    RESTART_AGAIN, /* after restart_delay() */
    RESTART_STOPPED,
    RESTART_FINISHED,
    RESTART_FENCED,
    RESTART_DELETED,
    RESTART_FAILED, /* starting again would not help */
};

/* What to do after that end. ret_reason: a short text for status and log ("fenced", "signal SEGV", ...). */
enum restart_verdict restart_judge(const struct restart_exit *exit, char ret_reason[RESTART_REASON_MAX]);

/* Whether the worker died by a fault of its own, for which the event in hand is to be remembered: one of the
 * signals SEGV, BUS, ILL, FPE, ABRT, SYS, or the watchdog. */
bool restart_own_fault(const struct restart_exit *exit);
