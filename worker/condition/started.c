#include "worker/condition/started.h"

#include "common/buffer.h"
#include "common/json.h"

static const char *const members[] = {
    [STARTED] = "started", [STARTED_FAILED] = "failed", [STARTED_AGAIN] = "again"};

void started_write(const char *task, size_t len, enum started_kind kind, uint64_t n, struct buffer *out)
{
    buffer_append_text(out, "{\"task\":");
    buffer_append_json(out, task, len);
    buffer_printf(out, ",\"%s\":%llu}", members[kind], (unsigned long long)n);
}

bool started_read(const struct json_value *write, struct started *ret_started, struct buffer *ret_task)
{
    struct json_value task;
    struct json_value number;
    int64_t n;
    unsigned kind = STARTED;
    if (!json_member(write, "task", &task) || task.type != JSON_STRING)
        return false;
    while (!json_member(write, members[kind], &number))
        if (++kind > STARTED_AGAIN)
            return false;
    if (number.type != JSON_NUMBER || !json_integer(&number, &n) || n < 0 || n > STARTED_MAX)
        return false;
    *ret_started = (struct started){.kind = (enum started_kind)kind, .n = n};
    json_unescape(&task, ret_task);
    return true;
}

void started_apply(const struct started *started, struct expected *expected)
{
    int64_t n = started->n;
    switch (started->kind) {
    case STARTED:
        if (expected->n <= 0)
            expected->n = n;
        else if (expected->n < STARTED_MAX)
            expected->n += n;
        break;
    case STARTED_FAILED:
        if (expected->n <= 0)
            break;
        n = n < expected->n ? n : expected->n;
        expected->n -= n;
        expected->failed += n;
        break;
    case STARTED_AGAIN:
        n = n < expected->failed ? n : expected->failed;
        expected->failed -= n;
        expected->n += n;
        break;
    }
}

bool expected_met(const struct expected *expected, int64_t counter)
{
    return expected->n >= 0 && counter >= expected->n && (expected->n || !expected->failed);
}
