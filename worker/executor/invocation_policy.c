#include "worker/executor/invocation_policy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/document/document.h"

#define TIMEOUT_LONGEST_S (24 * 3600)
#define RETRIES_MAX 1000
#define IN_FLIGHT_MAX 1000000
#define RATE_MAX 1e6
#define RATE_MIN 1e-6

static const struct invocation_policy standard = {
    .timeout_ns = 60 * CLOCK_S, .max_retries = 5, .backoff_ns = CLOCK_S / 2};

/* JSON numbers are a subset of what strtod reads. */
static bool read_number(const struct json_value *value, double *ret_number)
{
    char text[64];
    if (value->type != JSON_NUMBER || value->len >= sizeof text)
        return false;
    memcpy(text, value->text, value->len);
    text[value->len] = '\0';
    *ret_number = strtod(text, NULL);
    return isfinite(*ret_number);
}

static int read_real(const struct json_value *document, const char *member, double least, double most,
                     const char *wanted, double *ret_number, struct error *err)
{
    struct json_value value;
    double number;
    if (!document_member(document, member, &value))
        return 0;
    if (!read_number(&value, &number) || number < least || number > most)
        return document_wrong(member, &value, wanted, err);
    *ret_number = number;
    return 0;
}

static int read_count(const struct json_value *document, const char *member, int64_t most, const char *wanted,
                      unsigned *ret_number, struct error *err)
{
    int64_t number = *ret_number;
    if (document_count(document, member, 0, most, wanted, &number, err) < 0)
        return -1;
    *ret_number = (unsigned)number;
    return 0;
}

static int read_uncertain(const struct json_value *document, bool *ret_give_up, struct error *err)
{
    struct json_value value;
    if (!document_member(document, "on_uncertain", &value))
        return 0;
    bool give_up = value.type == JSON_STRING && json_equals(&value, "dead_letter", 11);
    if (!give_up && (value.type != JSON_STRING || !json_equals(&value, "repeat", 6)))
        return document_wrong("on_uncertain", &value, "repeat or dead_letter", err);
    *ret_give_up = give_up;
    return 0;
}

int invocation_policy_load(const struct json_value *document, struct invocation_policy *ret_policy,
                           struct error *err)
{
    struct invocation_policy p = standard;
    double timeout = (double)standard.timeout_ns / (double)CLOCK_S;
    double backoff = (double)standard.backoff_ns / (double)CLOCK_S;
    static const char retries[] = "a whole number from 0 to 1000";
    if (read_real(document, "timeout_s", 0.001, TIMEOUT_LONGEST_S, "a number from 0.001 to 86400", &timeout,
                  err) < 0 ||
        read_real(document, "backoff_s", 0, INVOCATION_BACKOFF_LONGEST_S, "a number from 0 to 60", &backoff,
                  err) < 0 ||
        read_real(document, "rate", RATE_MIN, RATE_MAX, "a number from 0.000001 to 1000000", &p.rate, err) <
            0 ||
        read_count(document, "max_retries", RETRIES_MAX, retries, &p.max_retries, err) < 0 ||
        read_count(document, "retries", RETRIES_MAX, retries, &p.max_retries, err) < 0 ||
        read_count(document, "max_in_flight", IN_FLIGHT_MAX, "a whole number from 0 to 1000000",
                   &p.max_in_flight, err) < 0 ||
        read_uncertain(document, &p.give_up_uncertain, err) < 0)
        return -1;
    p.timeout_ns = (uint64_t)(timeout * (double)CLOCK_S);
    p.backoff_ns = (uint64_t)(backoff * (double)CLOCK_S);
    *ret_policy = p;
    return 0;
}

void invocation_policy_write(const struct invocation_policy *policy, struct buffer *out)
{
    const char *comma = "";
    buffer_append_text(out, "\"policy\":{");
    if (policy->timeout_ns != standard.timeout_ns) {
        buffer_printf(out, "\"timeout_s\":%.17g", (double)policy->timeout_ns / (double)CLOCK_S);
        comma = ",";
    }
    if (policy->max_retries != standard.max_retries) {
        buffer_printf(out, "%s\"retries\":%u", comma, policy->max_retries);
        comma = ",";
    }
    if (policy->backoff_ns != standard.backoff_ns) {
        buffer_printf(out, "%s\"backoff_s\":%.17g", comma, (double)policy->backoff_ns / (double)CLOCK_S);
        comma = ",";
    }
    if (policy->max_in_flight) {
        buffer_printf(out, "%s\"max_in_flight\":%u", comma, policy->max_in_flight);
        comma = ",";
    }
    if (policy->rate > 0) {
        buffer_printf(out, "%s\"rate\":%.17g", comma, policy->rate);
        comma = ",";
    }
    if (policy->give_up_uncertain)
        buffer_printf(out, "%s\"on_uncertain\":\"dead_letter\"", comma);
    buffer_append_char(out, '}');
}

void invocation_policy_of(const struct json_value *body, struct invocation_policy *ret_policy)
{
    struct json_value policy;
    *ret_policy = standard;
    if (json_member(body, "policy", &policy) && policy.type == JSON_OBJECT)
        invocation_policy_load(&policy, ret_policy, NULL);
}

uint64_t invocation_policy_delay(const struct invocation_policy *policy, unsigned n, uint64_t retry_after_ns,
                                 uint64_t random)
{
    uint64_t longest = INVOCATION_BACKOFF_LONGEST_S * CLOCK_S;
    uint64_t ceiling = policy->backoff_ns;
    for (unsigned i = 1; i < n && ceiling < longest; i++)
        ceiling *= 2;
    if (ceiling > longest)
        ceiling = longest;
    uint64_t jitter = random % (ceiling + 1);
    /* Those that were told to come again at one time should not all come at that time. */
    return retry_after_ns ? retry_after_ns + jitter : jitter;
}
