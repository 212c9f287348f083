#include "worker/states/wait.h"

#include <stdbool.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "worker/states/evaluation.h"
#include "worker/states/path.h"
#include "worker/states/timestamp.h"

struct wait {
    double seconds;
    uint64_t at; /* 0: it is in seconds */
    struct path *path;
    bool of_timestamp; /* the path leads to one */
};

void wait_free(struct wait *wait)
{
    if (!wait)
        return;
    path_free(wait->path);
    free(wait);
}

static int wrong(const char *what, const struct json_value *value, const char *wanted, struct error *err)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "%s is %.*s, not %s", what, (int)(len < 80 ? len : 80), raw, wanted);
}

static int read_timestamp(const char *what, const struct json_value *value, uint64_t *ret_at,
                          struct error *err)
{
    struct timestamp at;
    if (!timestamp_read(value, &at))
        return wrong(what, value, "a timestamp", err);
    *ret_at = at.seconds < 0 ? 1 : (uint64_t)at.seconds * CLOCK_S + at.nanoseconds;
    return 0;
}

static int load(struct wait *w, const struct json_value *document, struct error *err)
{
    static const char *const members[] = {"Seconds", "SecondsPath", "Timestamp", "TimestampPath"};
    struct json_value values[4];
    int found = -1;
    for (int i = 0; i < 4; i++) {
        if (!json_member(document, members[i], &values[i]))
            continue;
        if (found >= 0)
            return error_set(err, ERROR_INVALID, "both %s and %s", members[found], members[i]);
        found = i;
    }
    if (found < 0)
        return error_set(err, ERROR_INVALID,
                         "a Wait has none of Seconds, SecondsPath, Timestamp, TimestampPath");
    const struct json_value *value = &values[found];
    if (found == 2)
        return read_timestamp("Timestamp", value, &w->at, err);
    if (found == 0) {
        w->seconds = value->type == JSON_NUMBER ? json_double(value) : -1;
        return w->seconds >= 0 && w->seconds <= WAIT_SECONDS_MAX
                   ? 0
                   : wrong("Seconds", value, "a number from 0 to 99999999", err);
    }
    w->of_timestamp = found == 3;
    return path_load(value, &w->path, err) < 0 ? error_prefix(err, "%s", members[found]) : 0;
}

int wait_load(const struct json_value *document, struct wait **ret_wait, struct error *err)
{
    struct wait *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (load(w, document, err) < 0) {
        wait_free(w);
        return -1;
    }
    *ret_wait = w;
    return 0;
}

int wait_until(const struct wait *wait, struct evaluation *evaluation, uint64_t now, uint64_t *ret_until,
               struct error *err)
{
    struct json_value value;
    int64_t seconds;
    if (!wait->path) {
        *ret_until = wait->at ? wait->at : now + (uint64_t)(wait->seconds * (double)CLOCK_S);
        return 0;
    }
    if (path_read(wait->path, evaluation, &value, err) < 0)
        return -1;
    if (wait->of_timestamp)
        return read_timestamp(path_text(wait->path), &value, ret_until, err);
    if (value.type != JSON_NUMBER || !json_integer(&value, &seconds) || seconds < 0 ||
        seconds > WAIT_SECONDS_MAX)
        return wrong(path_text(wait->path), &value, "a whole number from 0 to 99999999", err);
    *ret_until = now + (uint64_t)seconds * CLOCK_S;
    return 0;
}
