#include "tests/support/chance.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "common/clock.h"

static uint64_t random_state = 1;
static unsigned kills = 200;

uint64_t chance_below(uint64_t n)
{
    random_state ^= random_state << 13; /* Marsaglia, Xorshift RNGs (2003) */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % n;
}

uint64_t chance_seed(void)
{
    return random_state;
}

void chance_read_settings(void)
{
    const char *text = getenv("TRIGGERFLOW_SEED");
    if (!text || !*text || !(random_state = strtoull(text, NULL, 0)))
        if (getrandom(&random_state, sizeof random_state, 0) != sizeof random_state || !random_state)
            random_state = clock_now_ns() | 1;
    text = getenv("TRIGGERFLOW_KILLS");
    if (text && *text)
        kills = (unsigned)strtoul(text, NULL, 10);
    printf("TRIGGERFLOW_SEED=%llu TRIGGERFLOW_KILLS=%u\n", (unsigned long long)random_state, kills);
}

unsigned chance_kills(void)
{
    return kills;
}
