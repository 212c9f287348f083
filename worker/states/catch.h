/* What a state does when it has failed: Retry and Catch. Loaded once. Thread: any (immutable).
 *
 * A name in ErrorEquals matches an error of this name; States.TaskFailed any but States.Timeout; States.ALL
 * any. States.Runtime is matched by none. Of the first retrier that matches, attempts are counted; when it
 * has used up its MaxAttempts (3), Catch decides. Before attempt n it waits IntervalSeconds (1) * BackoffRate
 * (2)^(n-1), at most MaxDelaySeconds; with the JitterStrategy FULL a random time up to that. Fractions of
 * seconds are taken, which the States Language does not have. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct catch;
struct error;
struct failure;
struct json_value;

#define CATCH_MAX_RETRIERS 32
#define CATCH_MAX_CATCHERS 64

/* Of a state's document. Errors: ERROR_INVALID naming member and value, ERROR_MEMORY. */
int catch_load(const struct json_value *state, struct catch **ret_catch, struct error *err);
void catch_free(struct catch *catch); /* NULL is fine */

/* The retrier that the failure meets; -1: none. attempts: of each, so far. When that one has attempts left it
 * is counted there, and *ret_delay_ns says when; random: any 64 bits. */
int catch_retry(const struct catch *catch, const struct failure *failure,
                uint32_t attempts[CATCH_MAX_RETRIERS], uint64_t random, uint64_t *ret_delay_ns);
/* The catcher; -1: none. */
int catch_find(const struct catch *catch, const struct failure *failure);
/* A catcher's ResultPath as it stands; type JSON_ABSENT: it has none. */
void catch_result_path(const struct catch *catch, int catcher, struct json_value *ret_path);
size_t catch_retriers(const struct catch *catch);
