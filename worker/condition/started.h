/* What a task's firing tells those who wait for its terminations (worker/write.h): how many invocations it
 * starts, and how many of them could not be started after all.
 *
 *     {"task":T,"started":N}   {"task":T,"failed":N} */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct json_value;

#define STARTED_UNKNOWN -1 /* an expected number that has not been told yet */

struct started {
    int64_t n; /* below zero: failed */
};

/* Appends such a write. failed: n could not be started. */
void started_write(const char *task, size_t len, uint64_t n, bool failed, struct buffer *out);
/* Reads one; the task's name is appended. False: it is another kind of write. */
bool started_read(const struct json_value *write, struct started *ret_started, struct buffer *ret_task);
/* The expected number after it. Started: it becomes n, or grows by n when it is above zero. Failed: it
 * shrinks; when none is left it is unknown. */
void started_apply(const struct started *started, int64_t *expected);
