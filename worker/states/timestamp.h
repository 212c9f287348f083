/* Timestamps as the States Language has them: RFC 3339, with an upper-case T, and an upper-case Z or an
 * offset. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct json_value;

struct timestamp {
    int64_t seconds; /* since 1970, UTC */
    uint32_t nanoseconds;
};

/* Whether a JSON value is a string that is one; digits beyond nanoseconds are dropped. */
bool timestamp_read(const struct json_value *value, struct timestamp *ret_timestamp);
/* Below, equal to or above 0. */
int timestamp_order(const struct timestamp *a, const struct timestamp *b);
