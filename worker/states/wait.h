/* How long a Wait waits: Seconds, SecondsPath, Timestamp or TimestampPath. Thread: any (immutable). */
#pragma once

#include <stdint.h>

struct error;
struct evaluation;
struct json_value;
struct wait;

#define WAIT_SECONDS_MAX 99999999

/* Of a Wait's document. Seconds may have a fraction, which the States Language does not know. Errors:
 * ERROR_INVALID naming member and value, ERROR_MEMORY. */
int wait_load(const struct json_value *document, struct wait **ret_wait, struct error *err);
void wait_free(struct wait *wait); /* NULL is fine */
/* Until when, in unix nanoseconds; now or before: it is over. Paths lead into the evaluation's input. Errors:
 * ERROR_INVALID, ERROR_MEMORY. */
int wait_until(const struct wait *wait, struct evaluation *evaluation, uint64_t now, uint64_t *ret_until,
               struct error *err);
