/* What a task's firings tell those who wait for its terminations (worker/shard/write.h): how many invocations
 * are started, how many of them could not be started after all, and that such are tried again.
 *
 *     {"task":T,"started":N}   {"task":T,"failed":N}   {"task":T,"again":N} */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct json_value;

#define STARTED_UNKNOWN -1 /* an expected number that has not been told yet */
#define STARTED_MAX (INT64_MAX / 4)

enum started_kind { STARTED, STARTED_FAILED, STARTED_AGAIN };

struct started {
    enum started_kind kind;
    int64_t n;
};

/* Terminations that are waited for, and invocations that are not waited for any more. */
struct expected {
    int64_t n; /* STARTED_UNKNOWN: not told yet */
    int64_t failed;
};

/* Appends such a write. */
void started_write(const char *task, size_t len, enum started_kind kind, uint64_t n, struct buffer *out);
/* Reads one; the task's name is appended. False: it is another kind of write. */
bool started_read(const struct json_value *write, struct started *ret_started, struct buffer *ret_task);
/* Started: n becomes that number, or grows by it when it is above zero. Failed: so many less are expected.
 * Again: those of them that had failed are expected as before, and no more than those. */
void started_apply(const struct started *started, struct expected *expected);
/* Whether so many terminations are all that are expected. Of a task whose invocations have all failed there
 * are never enough. */
bool expected_met(const struct expected *expected, int64_t counter);
