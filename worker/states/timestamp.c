#include "worker/states/timestamp.h"

#include <stddef.h>

#include "common/json.h"

struct reader {
    const char *at;
    const char *end;
    bool failed;
};

static int digits(struct reader *r, int n)
{
    int value = 0;
    for (; n > 0; n--) {
        if (r->at == r->end || *r->at < '0' || *r->at > '9') {
            r->failed = true;
            return 0;
        }
        value = value * 10 + (*r->at++ - '0');
    }
    return value;
}

static void expect(struct reader *r, char c)
{
    if (r->at < r->end && *r->at == c)
        r->at++;
    else
        r->failed = true;
}

static int in(struct reader *r, int value, int least, int most)
{
    r->failed |= value < least || value > most;
    return value;
}

static uint32_t fraction(struct reader *r)
{
    uint32_t value = 0;
    uint32_t unit = 100000000;
    if (r->at == r->end || *r->at != '.')
        return 0;
    r->at++;
    digits(r, 1);
    if (r->failed)
        return 0;
    for (r->at--; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++, unit /= 10)
        value += unit * (uint32_t)(*r->at - '0');
    return value;
}

/* In seconds. */
static int64_t offset(struct reader *r)
{
    if (r->at < r->end && *r->at == 'Z') {
        r->at++;
        return 0;
    }
    bool west = r->at < r->end && *r->at == '-';
    expect(r, west ? '-' : '+');
    int hours = in(r, digits(r, 2), 0, 23);
    expect(r, ':');
    int minutes = in(r, digits(r, 2), 0, 59);
    return (west ? -60 : 60) * (hours * 60 + minutes);
}

static int days_in(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (leap && month == 2);
}

/* Days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms"). */
static int64_t days_since_epoch(int year, int month, int day)
{
    int64_t y = year - (month <= 2);
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t of_era = y - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

bool timestamp_read(const struct json_value *value, struct timestamp *ret_timestamp)
{
    struct reader r = {.at = value->text, .end = value->text + value->len};
    if (value->type != JSON_STRING || value->escaped)
        return false;
    int year = digits(&r, 4);
    expect(&r, '-');
    int month = in(&r, digits(&r, 2), 1, 12);
    expect(&r, '-');
    if (r.failed)
        return false;
    int day = in(&r, digits(&r, 2), 1, days_in(year, month));
    expect(&r, 'T');
    int hour = in(&r, digits(&r, 2), 0, 23);
    expect(&r, ':');
    int minute = in(&r, digits(&r, 2), 0, 59);
    expect(&r, ':');
    int second = in(&r, digits(&r, 2), 0, 59);
    uint32_t nanoseconds = fraction(&r);
    int64_t east = offset(&r);
    if (r.failed || r.at != r.end)
        return false;
    ret_timestamp->seconds =
        days_since_epoch(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - east;
    ret_timestamp->nanoseconds = nanoseconds;
    return true;
}

int timestamp_order(const struct timestamp *a, const struct timestamp *b)
{
    if (a->seconds != b->seconds)
        return a->seconds < b->seconds ? -1 : 1;
    return (a->nanoseconds > b->nanoseconds) - (a->nanoseconds < b->nanoseconds);
}
