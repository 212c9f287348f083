/* The policy of an invoking action: read from its document when the trigger is loaded, kept with each of its
 * intents, so that an intent keeps it whatever becomes of the trigger. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct json_value;

struct invocation_policy {
    uint64_t timeout_ns;    /* timeout_s: of one attempt; default 60 s */
    unsigned max_retries;   /* retries, or max_retries; default 5 */
    uint64_t backoff_ns;    /* backoff_s: before the first retry, at most; it doubles. Default 0.5 s */
    unsigned max_in_flight; /* of the trigger's invocations at a time; 0: no limit */
    double rate;            /* attempts a second, of the trigger; 0: no limit */
    bool give_up_uncertain; /* on_uncertain: repeat (default) | dead_letter */
};

#define INVOCATION_BACKOFF_LONGEST_S 60

/* The members of an action's document that are its policy, for action_type.parameters. */
#define INVOCATION_PARAMETERS \
    "timeout_s", "retries", "max_retries", "backoff_s", "max_in_flight", "rate", "on_uncertain"

/* Reads those members; what is absent or null has its default. Errors: ERROR_INVALID naming member and value.
 */
int invocation_policy_load(const struct json_value *document, struct invocation_policy *ret_policy,
                           struct error *err);
/* Appends `"policy":{...}`, a member for the intent's body, which has only what is not the default. */
void invocation_policy_write(const struct invocation_policy *policy, struct buffer *out);
/* From an intent's body; what is wrong there is as if it were absent. */
void invocation_policy_of(const struct json_value *body, struct invocation_policy *ret_policy);

/* How long to wait before the nth retry (from 1), full jitter: random is any 64 bits, retry_after_ns what the
 * server asked for, or 0. */
uint64_t invocation_policy_delay(const struct invocation_policy *policy, unsigned n, uint64_t retry_after_ns,
                                 uint64_t random);
