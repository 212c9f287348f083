/* Waiting for a condition, with a deadline, instead of sleeping. For files that include cmocka.h. */
#pragma once

#include <time.h>

#include "common/clock.h"

#define WAIT_DEADLINE_NS (60 * CLOCK_S)

static inline void wait_moment(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

/* Evaluates `otherwise` and fails the test when the condition does not come true in time. */
#define WAIT_ELSE(condition, otherwise)                         \
    do {                                                        \
        uint64_t wait_end_ = clock_now_ns() + WAIT_DEADLINE_NS; \
        while (!(condition)) {                                  \
            if (clock_now_ns() > wait_end_) {                   \
                otherwise;                                      \
                fail_msg("not in time: %s", #condition);        \
            }                                                   \
            wait_moment();                                      \
        }                                                       \
    } while (0)

#define WAIT(condition) WAIT_ELSE(condition, (void)0)
