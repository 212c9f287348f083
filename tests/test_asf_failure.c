/* What becomes of failures in a state machine: who tells of them, a Map and a Parallel that hear of one,
 * Retry and Catch, time-outs, Wait. Whole machines are in integration/test_states.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/json.h"
#include "tests/support/asf_bed.h"
#include "worker/states/answer.h"
#include "worker/states/catch.h"
#include "worker/states/failure.h"

#define PASS "{\"name\":\"AWS_ASF_PASS\"}"
#define END "{\"name\":\"AWS_ASF_END_STATEMACHINE\"}"
#define CATCH "{\"name\":\"AWS_ASF_CATCH\"}"
#define MAP "{\"name\":\"AWS_ASF_MAP\",\"join_state_machine\":\"S\"}"
#define OURS "urn:triggerflow:ws:t"
#define RUN_A "aaaaaaaaaaaaaaaa"
#define RUN_B "bbbbbbbbbbbbbbbb"

static struct json_value scan(const char *text)
{
    struct json_value value;
    assert_int_equal(json_scan(text, strlen(text), &value, NULL), 0);
    return value;
}

/* --- who tells --- */

static void test_told(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS,
                  "{\"Subject\":\"S\",\"State\":{\"Type\":\"Fail\",\"Error\":\"E\",\"CausePath\":\"$.c\"}}");
    bed.takes = 1;
    asf_bed_send(&bed, "x", "{\"c\":\"why\"}", NULL, asf_bed_place(RUN_A, 4));
    asf_bed_log(&bed, "fail S[4] {\"Error\":\"E\",\"Cause\":\"why\",\"Input\":{\"c\":\"why\"}}");
    asf_bed_send(&bed, "x", "{}", NULL, NULL);
    asf_bed_log(
        &bed, "fail S {\"Error\":\"States.Runtime\",\"Cause\":\"CausePath: path $.c: there is no member c\","
              "\"Input\":{}}");
    bed.takes = 0;
    asf_bed_send(&bed, "x", "{\"c\":\"why\"}", NULL, NULL);
    asf_bed_log(&bed, "failed E: why");
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\",\"State\":{\"Type\":\"Fail\"}}");
    bed.takes = 1;
    asf_bed_send(&bed, "x", "1", NULL, NULL);
    asf_bed_log(&bed, "fail S {\"Error\":null,\"Cause\":null,\"Input\":1}");
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS,
                  "{\"Subject\":\"S\",\"Condition\":{\"Variable\":\"$.n\",\"IsNull\":false}}");
    bed.takes = 1;
    asf_bed_send(&bed, "x", "{}", NULL, NULL); /* nobody can catch that */
    asf_bed_log(
        &bed, "uncaught S {\"Error\":\"States.Runtime\",\"Cause\":\"Condition: Variable: path $.n: there is "
              "no member n\"}");
    asf_bed_end(&bed);
}

/* What cannot be made of an answer is the failure of the task, with its input. */
static void test_told_of_answer(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    bed.takes = 2;
    asf_bed_tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k\",\"input\":{\"i\":1},"
                       "\"state\":{\"Type\":\"Task\",\"OutputPath\":\"$.no\"}}}");
    asf_bed_send(&bed, "A", "{}", "k", NULL);
    asf_bed_log(&bed,
                "fail A {\"Error\":\"States.Runtime\",\"Cause\":\"OutputPath: path $.no: there is no member "
                "no\",\"Input\":{\"i\":1}}");
    asf_bed_context(&bed, "{\"Subject\":\"S\"}"); /* it is not waited for again */
    asf_bed_end(&bed);
}

/* An input that is too deep to stand in another event's data cannot be told: nobody takes the failure. */
static void test_told_too_deep(void **state)
{
    struct asf_bed bed;
    char data[2 * JSON_DATA_DEPTH + 1];
    (void)state;
    memset(data, '[', JSON_DATA_DEPTH);
    memset(data + JSON_DATA_DEPTH, ']', JSON_DATA_DEPTH);
    data[sizeof data - 1] = '\0';
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS,
                  "{\"Subject\":\"S\",\"State\":{\"Type\":\"Fail\",\"Error\":\"E\",\"Cause\":\"why\"}}");
    bed.takes = 1;
    asf_bed_send(&bed, "x", data, NULL, NULL);
    asf_bed_log(&bed, "failed E: why");
    asf_bed_end(&bed);
}

static void test_catch_over(void **state)
{
    struct asf_bed bed;
    char *write = malloc(ANSWERS_MAX_BYTES + 256);
    (void)state;
    assert_non_null(write);
    int n = sprintf(write, "{\"attempt\":{\"task\":\"S\",\"key\":\"k\",\"input\":\"");
    memset(write + n, 'x', ANSWERS_MAX_BYTES);
    memcpy(write + n + ANSWERS_MAX_BYTES, "\"}}", 4);
    asf_bed_begin(
        &bed, "AWS_ASF_CATCH", CATCH,
        "{\"Subject\":\"S\",\"State\":{\"Type\":\"Task\",\"Retry\":[{\"ErrorEquals\":[\"States.ALL\"]}]"
        "}}");
    asf_bed_tell(&bed, write);
    free(write);
    asf_bed_log(&bed, "");
    asf_bed_event(&bed, FAILURE_TYPE, "S", "{\"Error\":\"E\"}", "k", NULL);
    asf_bed_log(&bed,
                "refused States.DataLimitExceeded: when it was started, the inputs of the tasks under way "
                "needed more than 67108864 bytes");
    asf_bed_end(&bed);
}

/* --- who hears --- */

static const char parallel[] =
    "{\"Subject\":\"S\",\"join_multiple\":2,\"Branches\":[\"StateMachine3\",\"StateMachine4\"],\"State\":{"
    "\"Type\":"
    "\"Parallel\",\"Catch\":[],\"Branches\":[{\"States\":{\"A\":{},\"A2\":{}}},{\"States\":{\"B\":{}}}]}}";

static bool activates(const struct trigger *t, const char *type, const char *subject)
{
    for (size_t i = 0; i < t->n_activations; i++) {
        const struct activation *a = &t->activations[i];
        if (a->type_len == strlen(type) && !memcmp(a->type, type, a->type_len) &&
            a->subject_len == strlen(subject) && !memcmp(a->subject, subject, a->subject_len))
            return true;
    }
    return false;
}

static void test_activations(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", PASS, parallel);
    assert_int_equal(bed.trigger->n_activations, 3);
    assert_true(activates(bed.trigger, "lambda.uncaught", "A"));
    assert_true(activates(bed.trigger, "lambda.uncaught", "A2"));
    assert_true(activates(bed.trigger, "lambda.uncaught", "B"));
    asf_bed_end(&bed);
    asf_bed_begin(
        &bed, "AWS_ASF_CONDITION", MAP,
        "{\"State\":{\"Type\":\"Map\",\"Iterator\":{\"States\":{\"\\u0041\":{\"Branches\":[{\"States\":{"
        "\"Inner\":{}}}]}}}}}");
    assert_int_equal(bed.trigger->n_activations, 1);
    assert_true(activates(bed.trigger, "lambda.uncaught", "A"));
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"State\":{\"Type\":\"Pass\",\"Branches\":7}}");
    assert_int_equal(bed.trigger->n_activations, 0);
    asf_bed_end(&bed);
}

/* The first failure is the Parallel's; what else comes of that run is counted and no more. */
static void test_parallel(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", PASS, parallel);
    bed.takes = 1;
    asf_bed_send(&bed, "before", "{\"i\":1}", NULL, NULL);
    asf_bed_event(&bed, "lambda.uncaught", "A2", "{\"Error\":\"E\",\"Cause\":\"C\",\"Input\":9}", "1", NULL);
    asf_bed_log(&bed, "fail S {\"Error\":\"E\",\"Cause\":\"C\",\"Input\":{\"i\":1}}");
    asf_bed_reload(&bed);
    asf_bed_send(&bed, "before", "{\"i\":2}", NULL, NULL); /* again, before the other branch has ended */
    asf_bed_event(&bed, "lambda.failure", "A", "{\"errorType\":\"F\"}", "2", NULL);
    asf_bed_log(&bed,
                "fail S {\"Error\":\"F\",\"Cause\":\"{\\\"errorType\\\":\\\"F\\\"}\",\"Input\":{\"i\":2}}");
    asf_bed_send(&bed, "before", "{\"i\":3}", NULL, NULL);
    asf_bed_send(&bed, "StateMachine3", "30", NULL, NULL);       /* the third's */
    asf_bed_send(&bed, "StateMachine4", "40", NULL, NULL);       /* late, of the first */
    asf_bed_event(&bed, "lambda.failure", "B", "{}", "3", NULL); /* late, of the second */
    asf_bed_log(&bed, "");
    asf_bed_send(&bed, "StateMachine4", "41", NULL, NULL);
    asf_bed_log(&bed, "emit S [30,41]");
    asf_bed_context(&bed,
                    "{\"counter\":2,\"join_multiple\":2,\"result\":[30,41],\"Subject\":\"S\",\"Branches\":["
                    "\"StateMachine3\",\"StateMachine4\"],\"State\":{\"Type\":\"Parallel\",\"Catch\":[],"
                    "\"Branches\":[{\"States\":{\"A\":{},\"A2\":{}}},{\"States\":{\"B\":{}}}]}}");
    bed.takes = 0;
    asf_bed_event(&bed, "lambda.uncaught", "B", "{\"Error\":\"E\",\"Cause\":null}", "4", NULL);
    asf_bed_log(&bed, "failed E");
    asf_bed_end(&bed);
}

static void test_map_hands_on(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", MAP, "{\"Subject\":\"M\",\"State\":{\"Type\":\"Map\"}}");
    asf_bed_event(&bed, "lambda.uncaught", "A", "{\"Error\":\"E\",\"Cause\":\"\\\"\"}", "1", "a-b");
    asf_bed_log(&bed,
                "write S {\"failed\":{\"path\":\"a-b\",\"name\":\"M\",\"Error\":\"E\",\"Cause\":\"\\\"\"}}");
    asf_bed_end(&bed);
}

static void fail_iteration(struct asf_bed *bed, const char *item)
{
    char write[256];
    snprintf(write, sizeof write,
             "{\"failed\":{\"path\":\"%s\",\"name\":\"M\",\"Error\":\"E\",\"Cause\":null}}", item);
    asf_bed_tell(bed, write);
}

static void test_map_end(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    bed.takes = 1;
    asf_bed_tell(&bed, "{\"map\":{\"path\":\"" RUN_A "\",\"n\":3,\"input\":[1]}}");
    asf_bed_tell(&bed, "{\"map\":{\"path\":\"" RUN_B "\",\"n\":2}}");
    asf_bed_send(&bed, "x", "0", NULL, asf_bed_place(RUN_A, 0));
    fail_iteration(&bed, asf_bed_place(RUN_A, 1));
    asf_bed_log(&bed, "fail M {\"Error\":\"E\",\"Cause\":null,\"Input\":[1]}");
    asf_bed_reload(&bed);
    fail_iteration(&bed, asf_bed_place(RUN_A, 1));
    fail_iteration(&bed, asf_bed_place(RUN_A, 2));
    asf_bed_log(&bed, ""); /* and gone */
    asf_bed_send(&bed, "x", "10", NULL, asf_bed_place(RUN_B, 0));
    fail_iteration(&bed, ""); /* nobody knows whose */
    asf_bed_log(&bed, "fail M {\"Error\":\"E\",\"Cause\":null}");
    fail_iteration(&bed, asf_bed_place(RUN_A, 2));
    asf_bed_context(&bed, "{\"counter\":1,\"join_multiple\":2,\"by_map\":true,\"Subject\":\"S\"}");
    asf_bed_tell(&bed, "{\"map\":{\"path\":\"" RUN_B "\",\"n\":1,\"input\":{},\"state\":{\"Type\":\"Map\","
                       "\"OutputPath\":\"$.no\",\"Name\":\"M\"}}}");
    asf_bed_send(&bed, "x", "10", NULL, asf_bed_place(RUN_B, 0));
    assert_non_null(
        strstr(buffer_text(&bed.log), "fail M {\"Error\":\"States.Runtime\",\"Cause\":\"OutputPath: "));
    asf_bed_end(&bed);
}

/* --- AWS_ASF_CATCH --- */

static const char caught[] =
    "{\"Subject\":\"S\",\"State\":{\"Type\":\"Task\",\"Retry\":[{\"ErrorEquals\":[\"R\"],\"MaxAttempts\":2,"
    "\"IntervalSeconds\":10},{\"ErrorEquals\":[\"Q\"],\"IntervalSeconds\":0}],\"Catch\":[{\"ErrorEquals\":["
    "\"X\"]},{"
    "\"ErrorEquals\":[\"States.TaskFailed\"],\"ResultPath\":\"$.e\"},{\"ErrorEquals\":[\"States.ALL\"],"
    "\"ResultPath\":null}]}}";

static void attempt(struct asf_bed *bed, const char *key, const char *item)
{
    char write[256];
    snprintf(write, sizeof write,
             "{\"attempt\":{\"task\":\"S\",\"key\":\"%s\",\"item\":\"%s\",\"input\":{\"i\":1}}}", key, item);
    asf_bed_tell(bed, write);
}

static void failure(struct asf_bed *bed, const char *error, const char *key)
{
    char data[128];
    snprintf(data, sizeof data, "{\"Error\":\"%s\",\"Cause\":\"C\"}", error);
    asf_bed_event(bed, "lambda.failure", "S", data, key, NULL);
}

#define FORGET(key) "write S {\"forget\":\"" key "\",\"final\":\"" key "\"}\n"

static void test_retry(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CATCH", CATCH, caught);
    attempt(&bed, "k1", asf_bed_place(RUN_A, 2));
    uint64_t before = clock_unix_ns();
    failure(&bed, "R", "k1");
    asf_bed_log(&bed, FORGET("k1") "later emit S.again[2] {\"i\":1}");
    assert_true(bed.timer_at >= before + 10 * CLOCK_S && bed.timer_at <= clock_unix_ns() + 10 * CLOCK_S);
    asf_bed_reload(&bed);
    attempt(&bed, "k2", asf_bed_place(RUN_A, 2));
    failure(&bed, "Q", "k2"); /* the other retrier's first */
    asf_bed_log(&bed, FORGET("k2") "emit S.again[2] {\"i\":1}");
    attempt(&bed, "k3", asf_bed_place(RUN_A, 2));
    failure(&bed, "R", "k3");
    assert_true(bed.timer_at >= before + 20 * CLOCK_S);
    attempt(&bed, "k4", asf_bed_place(RUN_A, 2));
    failure(&bed, "R", "k4"); /* used up: it is caught */
    asf_bed_log(&bed, FORGET("k4") "emit S.catch1[2] {\"i\":1,\"e\":{\"Error\":\"R\",\"Cause\":\"C\"}}");
    attempt(&bed, "k5", "");
    failure(&bed, "R", NULL); /* of the oldest, and counted anew in another place */
    asf_bed_log(&bed, FORGET("k5") "later emit S.again {\"i\":1}");
    attempt(&bed, "k6", "");
    asf_bed_event(&bed, "lambda.success", "S", "{}", "k6", NULL);
    asf_bed_log(&bed, "");
    asf_bed_context(&bed, caught);
    asf_bed_end(&bed);
}

static void test_catch(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CATCH", CATCH, caught);
    bed.takes = 1;
    attempt(&bed, "k1", "");
    failure(&bed, "X", "k1");
    asf_bed_log(&bed, FORGET("k1") "emit S.catch0 {\"Error\":\"X\",\"Cause\":\"C\"}");
    attempt(&bed, "k2", "");
    failure(&bed, "States.Timeout", "k2");
    asf_bed_log(&bed, FORGET("k2") "emit S.catch2 {\"i\":1}");
    attempt(&bed, "k3", "");
    failure(&bed, "States.Runtime", "k3");
    asf_bed_log(&bed, FORGET("k3") "uncaught S {\"Error\":\"States.Runtime\",\"Cause\":\"C\"}");
    bed.takes = 0;
    attempt(&bed, "k4", "");
    failure(&bed, "States.Runtime", "k4");
    asf_bed_log(&bed, FORGET("k4") "failed States.Runtime: C");
    asf_bed_context(&bed, caught);
    asf_bed_end(&bed);
}

/* What is not, or no more, under way; and what the worker says itself. */
static void test_catch_late(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CATCH", CATCH, caught);
    failure(&bed, "R", "k1");
    asf_bed_log(&bed, "refused no invocation of the state is under way: it has ended already");
    attempt(&bed, "k2", "");
    failure(&bed, "R", "k1");
    asf_bed_log(&bed, "refused no invocation of the state is under way: it has ended already");
    bed.source = OURS;
    asf_bed_event(&bed, "lambda.failure", "S",
                  "{\"Error\":\"States.Timeout\",\"Cause\":null,\"Attempt\":\"k1\"}", "k1", NULL);
    asf_bed_log(&bed, "");
    asf_bed_event(&bed, "lambda.failure", "S", "{\"Error\":\"Q\",\"Cause\":null,\"Input\":5}", "other", NULL);
    asf_bed_log(&bed, "failed States.ResultPathMatchFailure: Catch: ResultPath: path $.e: cannot be written "
                      "to: a number where an object is needed");
    asf_bed_event(&bed, "lambda.failure", "S", "{\"Error\":\"Q\",\"Cause\":null,\"Input\":{\"i\":2}}", "more",
                  NULL);
    asf_bed_log(&bed, "emit S.catch1 {\"i\":2,\"e\":{\"Error\":\"Q\",\"Cause\":null}}"); /* not again */
    asf_bed_end(&bed);
}

static void test_catch_refused(void **state)
{
    static const struct {
        const char *state, *message;
    } rows[] = {
        {"{\"Retry\":{}}", "Retry is {}, not an array"},
        {"{\"Retry\":[7]}", "Retry is 7, not an object"},
        {"{\"Retry\":[{}]}", "Retry[0]: ErrorEquals is missing"},
        {"{\"Catch\":[{\"ErrorEquals\":[]}]}", "Catch[0]: ErrorEquals is [], not an array of names"},
        {"{\"Catch\":[{\"ErrorEquals\":[1]}]}", "Catch[0]: ErrorEquals is 1, not a name"},
        {"{\"Retry\":[{\"ErrorEquals\":[\"E\"],\"BackoffRate\":0.5}]}",
         "Retry[0]: BackoffRate is 0.5, not such a number"},
        {"{\"Retry\":[{\"ErrorEquals\":[\"E\"],\"MaxAttempts\":\"3\"}]}",
         "Retry[0]: MaxAttempts is \"3\", not such a number"},
        {"{\"Retry\":[{\"ErrorEquals\":[\"E\"],\"JitterStrategy\":\"SOME\"}]}",
         "Retry[0]: JitterStrategy is \"SOME\", not FULL or NONE"},
        {"{\"Catch\":[{\"ErrorEquals\":[\"E\"],\"ResultPath\":\"$.*\"}]}",
         "Catch[0]: ResultPath is \"$.*\", not a reference path (names and indices only)"},
        {"{\"Catch\":[{\"ErrorEquals\":[\"E\"],\"Assign\":{}}]}",
         "Catch[0]: Assign: variables are not supported"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct json_value value = scan(rows[i].state);
        struct catch *catch;
        struct error err;
        assert_int_equal(catch_load(&value, &catch, &err), -1);
        assert_string_equal(err.message, rows[i].message);
    }
}

static void test_delays(void **state)
{
    struct json_value value =
        scan("{\"Retry\":[{\"ErrorEquals\":[\"E\"],\"IntervalSeconds\":2,\"BackoffRate\":3,"
             "\"MaxDelaySeconds\":20,\"MaxAttempts\":5},{\"ErrorEquals\":[\"States.ALL\"],"
             "\"JitterStrategy\":\"FULL\",\"MaxAttempts\":99999999,\"BackoffRate\":99}]}");
    static const uint64_t delays[] = {2, 6, 18, 20, 20};
    uint32_t attempts[CATCH_MAX_RETRIERS] = {0};
    struct json_value data = scan("{\"Error\":\"E\"}");
    struct failure failure;
    struct catch *catch;
    uint64_t delay;
    (void)state;
    assert_int_equal(catch_load(&value, &catch, NULL), 0);
    failure_of_data(&data, &failure);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(catch_retry(catch, &failure, attempts, 0, &delay), 0);
        assert_int_equal(delay, delays[i] * CLOCK_S);
    }
    assert_int_equal(catch_retry(catch, &failure, attempts, 0, &delay), -1);
    failure_done(&failure);
    failure_of_message("States.Runtime: no", &failure);
    assert_int_equal(catch_retry(catch, &failure, attempts, 0, &delay), -1);
    failure_done(&failure);
    data = scan("[\"anything\"]");
    failure_of_data(&data, &failure);
    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(catch_retry(catch, &failure, attempts, UINT64_MAX / 1000 * i, &delay), 1);
        assert_true(delay <= 99999999 * CLOCK_S);
    }
    failure_done(&failure);
    catch_free(catch);
}

/* --- time --- */

static void test_wait(void **state)
{
    static const struct {
        const char *state, *log;
        uint64_t seconds; /* from now; above 1000: a time */
    } rows[] = {
        {"\"Seconds\":7", "later emit S[1] {\"s\":3,\"t\":\"2100-01-01T00:00:00Z\",\"z\":-1.5}", 7},
        {"\"Seconds\":0", "emit S[1] {\"s\":3,\"t\":\"2100-01-01T00:00:00Z\",\"z\":-1.5}", 0},
        {"\"SecondsPath\":\"$.s\",\"OutputPath\":\"$.s\"", "later emit S[1] 3", 3},
        {"\"Timestamp\":\"2016-03-14T01:59:00Z\",\"OutputPath\":\"$.s\"", "emit S[1] 3", 0},
        {"\"TimestampPath\":\"$.t\",\"OutputPath\":\"$.s\"", "later emit S[1] 3", 4102444800},
        {"\"SecondsPath\":\"$.z\"",
         "failed States.Runtime: $.z is -1.5, not a whole number from 0 to 99999999", 0},
        {"\"TimestampPath\":\"$.s\"", "failed States.Runtime: $.s is 3, not a timestamp", 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct asf_bed bed;
        char context[200];
        snprintf(context, sizeof context, "{\"Subject\":\"S\",\"State\":{\"Type\":\"Wait\",%s}}",
                 rows[i].state);
        asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, context);
        uint64_t before = clock_unix_ns();
        asf_bed_send(&bed, "x", "{\"s\":3,\"t\":\"2100-01-01T00:00:00Z\",\"z\":-1.5}", NULL,
                     asf_bed_place(RUN_A, 1));
        asf_bed_log(&bed, rows[i].log);
        uint64_t from = rows[i].seconds > 1000 ? 0 : before;
        if (rows[i].seconds)
            assert_true(bed.timer_at >= from + rows[i].seconds * CLOCK_S);
        asf_bed_end(&bed);
    }
}

static void test_task_told(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION",
                  "{\"name\":\"AWS_ASF_TASK\",\"endpoint\":\"http://h:1\",\"region\":\"r\"}",
                  "{\"Subject\":\"S\",\"State\":{\"Type\":\"Task\",\"Resource\":\"f\",\"InputPath\":\"$.a\","
                  "\"TimeoutSecondsPath\":\"$.t\"}}");
    bed.takes = 2;
    asf_bed_send(&bed, "x", "{\"a\":{\"t\":9}}", NULL, asf_bed_place(RUN_A, 2));
    const char *log = buffer_text(&bed.log);
    assert_non_null(strstr(log, "write S {\"attempt\":{\"task\":\"S\",\"key\":\""));
    assert_non_null(strstr(log, "-2\",\"input\":{\"a\":{\"t\":9}}}}"));
    assert_non_null(
        strstr(log, "later fail S[2] {\"Error\":\"States.Timeout\",\"Cause\":null,\"Attempt\":\""));
    assert_true(bed.timer_at > clock_unix_ns());
    bed.takes = 1; /* nobody who would know that it has ended */
    asf_bed_send(&bed, "x", "{\"a\":{\"t\":9}}", NULL, NULL);
    assert_null(strstr(buffer_text(&bed.log), "attempt"));
    assert_null(strstr(buffer_text(&bed.log), "later"));
    asf_bed_send(&bed, "x", "{\"a\":{\"t\":0}}", NULL, NULL);
    assert_non_null(
        strstr(buffer_text(&bed.log), "fail S {\"Error\":\"States.Runtime\",\"Cause\":\"TimeoutSecondsPath"));
    asf_bed_end(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told),          cmocka_unit_test(test_told_of_answer),
        cmocka_unit_test(test_told_too_deep), cmocka_unit_test(test_catch_over),
        cmocka_unit_test(test_activations),   cmocka_unit_test(test_parallel),
        cmocka_unit_test(test_map_hands_on),  cmocka_unit_test(test_map_end),
        cmocka_unit_test(test_retry),         cmocka_unit_test(test_catch),
        cmocka_unit_test(test_catch_late),    cmocka_unit_test(test_catch_refused),
        cmocka_unit_test(test_delays),        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_task_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
