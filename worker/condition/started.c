#include "worker/condition/started.h"

#include "common/buffer.h"
#include "common/json.h"

#define EXPECTED_MAX (INT64_MAX / 4)

void started_write(const char *task, size_t len, uint64_t n, bool failed, struct buffer *out)
{
    buffer_append_text(out, "{\"task\":");
    buffer_append_json(out, task, len);
    buffer_append_text(out, failed ? ",\"failed\":" : ",\"started\":");
    buffer_append_u64(out, n);
    buffer_append_char(out, '}');
}

bool started_read(const struct json_value *write, struct started *ret_started, struct buffer *ret_task)
{
    struct json_value task;
    struct json_value number;
    int64_t n;
    if (!json_member(write, "task", &task) || task.type != JSON_STRING)
        return false;
    bool failed = json_member(write, "failed", &number);
    if (!failed && !json_member(write, "started", &number))
        return false;
    if (number.type != JSON_NUMBER || !json_integer(&number, &n) || n < 0 || n > EXPECTED_MAX)
        return false;
    if (failed && !n)
        return false;
    ret_started->n = failed ? -n : n;
    json_unescape(&task, ret_task);
    return true;
}

void started_apply(const struct started *started, int64_t *expected)
{
    if (started->n < 0) {
        if (*expected > 0)
            *expected += started->n;
        if (*expected <= 0)
            *expected = STARTED_UNKNOWN;
    } else if (*expected <= 0) {
        *expected = started->n;
    } else if (*expected < EXPECTED_MAX) {
        *expected += started->n;
    }
}
