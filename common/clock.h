/* Time. Thread: any. */
#pragma once

#include <stdint.h>
#include <stddef.h>

#define CLOCK_MS 1000000ull   /* nanoseconds in a millisecond */
#define CLOCK_S 1000000000ull /* nanoseconds in a second */
#define CLOCK_ISO_MAX 32      /* bytes that clock_iso() writes at most */

uint64_t clock_now_ns(void);    /* monotonic: for durations and deadlines */
uint64_t clock_coarse_ns(void); /* the same, cheaper, up to 4 ms behind: for heartbeats */
uint64_t clock_unix_ns(void);   /* since 1970: for people and other programs */

/* unix_ns as 2020-10-20T13:00:00.000000Z (RFC 3339, microseconds). Returns out. */
char *clock_iso(uint64_t unix_ns, char out[CLOCK_ISO_MAX]);
