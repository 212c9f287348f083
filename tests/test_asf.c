/* The conditions and actions of compiled state machines on triggers of their own: what fires with what data,
 * what is kept in the context, and what actions emit, write and intend. Whole machines are in
 * integration/test_states.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "tests/support/asf_bed.h"
#include "worker/action/asf.h"
#include "worker/condition/asf.h"
#include "worker/shard/firing.h"
#include "worker/globals.h"
#include "worker/states/item.h"
#include "worker/shard/trigger.h"

#define PASS "{\"name\":\"AWS_ASF_PASS\"}"
#define END "{\"name\":\"AWS_ASF_END_STATEMACHINE\"}"
#define RUN_A "aaaaaaaaaaaaaaaa"
#define RUN_B "bbbbbbbbbbbbbbbb"

/* --- AWS_ASF_CONDITION --- */

static void test_condition(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    asf_bed_send(&bed, "x", "{\"n\":1}", NULL, NULL);
    asf_bed_log(&bed, "emit S {\"n\":1}");
    asf_bed_context(&bed, "{\"Subject\":\"S\"}");
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS,
                  "{\"Subject\":\"S\",\"Condition\":{\"Variable\":\"$.n\",\"NumericGreaterThan\":1}}");
    asf_bed_send(&bed, "x", "{\"n\":1}", NULL, NULL);
    asf_bed_log(&bed, "");
    asf_bed_send(&bed, "x", "{\"n\":2}", NULL, NULL);
    asf_bed_log(&bed, "emit S {\"n\":2}");
    asf_bed_send(&bed, "x", "{}", NULL, NULL);
    asf_bed_log(&bed, "refused States.Runtime: Condition: Variable: path $.n: there is no member n");
    asf_bed_end(&bed);
}

static void test_condition_names(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(
        &bed, "AWS_ASF_CONDITION", PASS,
        "{\"Execution\":{\"Input\":5},\"Condition\":{\"Variable\":\"$$.Execution.Input\",\"NumericEquals\":"
        "5},"
        "\"State\":{\"Type\":\"Pass\",\"Parameters\":{\"e.$\":\"$$.Execution.Input\",\"s.$\":\"$$.State."
        "Name\","
        "\"m.$\":\"$$.StateMachine.Name\",\"i.$\":\"$$.Map.Item.Index\"}}}");
    asf_bed_send(&bed, "x", "{}", NULL, asf_bed_place(RUN_A, 7));
    asf_bed_log(&bed, "emit T[7] {\"e\":5,\"s\":\"T\",\"m\":\"ws\",\"i\":7}");
    asf_bed_end(&bed);
}

static void test_pass(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(
        &bed, "AWS_ASF_CONDITION", PASS,
        "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"InputPath\":\"$.a\",\"ResultPath\":\"$.r\"}}");
    asf_bed_send(&bed, "x", "{\"a\":[1]}", NULL, NULL);
    asf_bed_log(&bed, "emit S {\"a\":[1],\"r\":[1]}");
    asf_bed_send(&bed, "x", "{}", NULL, NULL);
    asf_bed_log(&bed, "failed States.Runtime: InputPath: path $.a: there is no member a");
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "TRUE", PASS,
                  "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"Result\":{\"x\":1}}}");
    asf_bed_send(&bed, "x", "null", NULL, NULL);
    asf_bed_log(&bed, "emit S {\"x\":1}");
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS,
                  "{\"State\":{\"Type\":\"Fail\",\"Error\":\"E\",\"CausePath\":\"$.c\"}}");
    asf_bed_send(&bed, "x", "{\"c\":\"why\"}", NULL, NULL);
    asf_bed_log(&bed, "failed E: why");
    asf_bed_end(&bed);
}

/* A firing that is repeated has the same random numbers, another one others. */
static void test_random(void **state)
{
    static const char context[] =
        "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"Parameters\":{\"u.$\":\"States.UUID()\"}}}";
    struct asf_bed a, b;
    (void)state;
    asf_bed_begin(&a, "AWS_ASF_CONDITION", PASS, context);
    asf_bed_begin(&b, "AWS_ASF_CONDITION", PASS, context);
    asf_bed_send(&a, "x", "{}", NULL, NULL);
    asf_bed_send(&b, "x", "{}", NULL, NULL);
    assert_string_equal(buffer_text(&a.log), buffer_text(&b.log));
    asf_bed_send(&b, "x", "{}", NULL, NULL);
    assert_string_not_equal(buffer_text(&a.log), buffer_text(&b.log));
    asf_bed_end(&a);
    asf_bed_end(&b);
}

/* --- answers of tasks --- */

static void test_answers(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    asf_bed_tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k1\",\"input\":{\"n\":1},"
                       "\"state\":{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}}");
    asf_bed_tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k2\",\"input\":{\"n\":2},"
                       "\"state\":{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}}");
    asf_bed_log(&bed, "");
    asf_bed_reload(&bed);
    asf_bed_send(&bed, "B", "0", NULL, NULL); /* of another */
    asf_bed_log(&bed, "emit S 0");
    asf_bed_send(&bed, "A", "20", "k2", NULL);
    asf_bed_log(&bed, "emit S {\"n\":2,\"r\":20}");
    asf_bed_context(&bed, "{\"answers\":[{\"task\":\"A\",\"key\":\"k1\",\"input\":{\"n\":1},\"state\":"
                          "{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}],\"Subject\":\"S\"}");
    asf_bed_send(&bed, "A", "10", NULL, NULL); /* without its key: the oldest */
    asf_bed_log(&bed, "emit S {\"n\":1,\"r\":10}");
    asf_bed_context(&bed, "{\"Subject\":\"S\"}");
    asf_bed_send(&bed, "A", "30", "k3", NULL); /* not waited for: as it is */
    asf_bed_log(&bed, "emit S 30");
    asf_bed_end(&bed);
}

static void test_answers_forgotten(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    asf_bed_tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k1\"}}");
    asf_bed_tell(&bed, "{\"forget\":\"k0\"}");
    asf_bed_context(&bed, "{\"answers\":[{\"task\":\"A\",\"key\":\"k1\"}],\"Subject\":\"S\"}");
    asf_bed_tell(&bed, "{\"forget\":\"k1\"}");
    asf_bed_context(&bed, "{\"Subject\":\"S\"}");
    asf_bed_tell(&bed, "{\"started\":1,\"task\":\"A\"}"); /* a write of a DAG's */
    asf_bed_context(&bed, "{\"Subject\":\"S\"}");
    asf_bed_end(&bed);
}

/* The answer brings its iteration along, and what goes wrong names it. */
static void test_answers_of_iterations(void **state)
{
    struct asf_bed bed;
    char write[256];
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    snprintf(write, sizeof write, "{\"awaits\":{\"task\":\"A\",\"key\":\"k\",\"item\":\"%s\"}}",
             asf_bed_place(RUN_A, 3));
    asf_bed_tell(&bed, write);
    asf_bed_send(&bed, "A", "1", "k", NULL);
    asf_bed_log(&bed, "emit S[3] 1");
    asf_bed_tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k\",\"input\":{},"
                       "\"state\":{\"Type\":\"Task\",\"OutputPath\":\"$.no\"}}}");
    asf_bed_send(&bed, "A", "{}", "k", NULL);
    asf_bed_log(&bed, "refused States.Runtime: OutputPath: path $.no: there is no member no");
    asf_bed_context(&bed,
                    "{\"answers\":[{\"task\":\"A\",\"key\":\"k\",\"input\":{},\"state\":{\"Type\":\"Task\","
                    "\"OutputPath\":\"$.no\"}}],\"Subject\":\"S\"}"); /* it may come again */
    asf_bed_send(&bed, "A", "{\"no\":1}", "k", NULL);
    asf_bed_log(&bed, "emit S 1");
    asf_bed_context(&bed, "{\"Subject\":\"S\"}");
    asf_bed_end(&bed);
}

/* What an action fails on, or a rule cannot tell, is waited for again. */
static void test_answers_again(void **state)
{
    static const char wait[] = "{\"awaits\":{\"task\":\"A\",\"key\":\"k\",\"input\":{},"
                               "\"state\":{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}}";
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS,
                  "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"OutputPath\":\"$.r.x\"},"
                  "\"Condition\":{\"Variable\":\"$.r.y\",\"NumericEquals\":1}}");
    asf_bed_tell(&bed, wait);
    asf_bed_send(&bed, "A", "{\"x\":5}", "k", NULL);
    asf_bed_log(&bed, "refused States.Runtime: Condition: Variable: path $.r.y: there is no member y");
    asf_bed_send(&bed, "A", "{\"y\":1}", "k", NULL);
    asf_bed_log(&bed, "failed States.Runtime: OutputPath: path $.r.x: there is no member x");
    asf_bed_send(&bed, "A", "{\"x\":5,\"y\":1}", "k", NULL);
    asf_bed_log(&bed, "emit S 5");
    asf_bed_end(&bed);
}

/* A write whose member has so many bytes. */
static void tell_large(struct asf_bed *bed, const char *before, size_t bytes, const char *after)
{
    BUFFER_AUTO write = BUFFER_INIT;
    buffer_append_text(&write, before);
    char *to = buffer_reserve(&write, bytes);
    assert_non_null(to);
    memset(to, 'x', bytes);
    write.len += bytes;
    buffer_append_text(&write, after);
    asf_bed_tell(bed, buffer_text(&write));
}

#define MANY_BYTES ((size_t)40 << 20)

/* What is too large to be kept is a failure of the state when its answer comes; what is too much for that is
 * refused. */
static void test_answers_over(void **state)
{
    static const char why[] = "refused States.DataLimitExceeded: when it was started, the inputs of the "
                              "tasks under way needed more than 67108864 bytes";
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    for (int i = 1; i <= 2; i++) {
        char before[64];
        snprintf(before, sizeof before, "{\"awaits\":{\"task\":\"A\",\"key\":\"k%d\",\"input\":\"", i);
        tell_large(&bed, before, MANY_BYTES, "\",\"state\":{\"Type\":\"Task\",\"ResultPath\":null}}}");
        asf_bed_log(&bed, "");
    }
    asf_bed_reload(&bed);
    asf_bed_send(&bed, "A", "2", "k2", NULL);
    asf_bed_log(&bed, why);
    bed.takes = 1;
    asf_bed_send(&bed, "A", "2", "k2", NULL);
    assert_non_null(strstr(buffer_text(&bed.log), "fail A {\"Error\":\"States.DataLimitExceeded\""));
    asf_bed_send(&bed, "A", "1", "k1", NULL);
    assert_true(bed.log.len > MANY_BYTES);
    asf_bed_context(&bed, "{\"Subject\":\"S\"}");
    tell_large(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"", 4 * MANY_BYTES, "\"}}");
    asf_bed_log(&bed, "refused the tasks under way need more than 134217728 bytes");
    asf_bed_context(&bed, "{\"Subject\":\"S\"}");
    asf_bed_end(&bed);
}

/* --- AWS_ASF_JOIN_STATEMACHINE --- */

static void test_end_of_one(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    asf_bed_send(&bed, "x", "{\"n\":1}", NULL, NULL);
    asf_bed_log(&bed, "emit S {\"n\":1}");
    asf_bed_context(&bed, "{\"counter\":0,\"result\":{\"n\":1},\"Subject\":\"S\"}");
    asf_bed_send(&bed, "x", "2", NULL, NULL);
    asf_bed_log(&bed, "emit S 2");
    asf_bed_end(&bed);
}

static void map(struct asf_bed *bed, const char *run, unsigned n, const char *more)
{
    char write[256];
    snprintf(write, sizeof write, "{\"map\":{\"path\":\"%s\",\"n\":%u%s}}", run, n, more);
    asf_bed_tell(bed, write);
}

/* Results in the order of the items, each once, whatever order they come in. */
static void test_map_in_order(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\",\"join_multiple\":null}");
    map(&bed, RUN_A, 3, "");
    asf_bed_context(&bed, "{\"counter\":0,\"join_multiple\":3,\"by_map\":true,\"joins\":[{\"path\":\"" RUN_A
                          "\",\"run\":true,\"expected\":3,\"results\":[]}],\"Subject\":\"S\"}");
    asf_bed_send(&bed, "x", "\"c\"", NULL, asf_bed_place(RUN_A, 2));
    asf_bed_send(&bed, "x", "\"a\"", NULL, asf_bed_place(RUN_A, 0));
    asf_bed_send(&bed, "x", "\"again\"", NULL, asf_bed_place(RUN_A, 0));
    asf_bed_send(&bed, "x", "\"none\"", NULL, asf_bed_place(RUN_A, 3));
    asf_bed_log(&bed, "");
    asf_bed_reload(&bed);
    asf_bed_send(&bed, "x", "\"b\"", NULL, asf_bed_place(RUN_A, 1));
    asf_bed_log(&bed, "emit S [\"a\",\"b\",\"c\"]");
    asf_bed_context(&bed, "{\"counter\":3,\"join_multiple\":3,\"by_map\":true,\"result\":[\"a\",\"b\",\"c\"],"
                          "\"Subject\":\"S\"}");
    asf_bed_end(&bed);
}

/* Two runs of a Map at a time, and results before the number is known. */
static void test_map_runs(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    asf_bed_send(&bed, "x", "1", NULL, asf_bed_place(RUN_B, 1));
    asf_bed_log(&bed, "");
    map(&bed, RUN_A, 2, "");
    map(&bed, RUN_B, 2, "");
    asf_bed_send(&bed, "x", "10", NULL, asf_bed_place(RUN_A, 0));
    asf_bed_send(&bed, "x", "0", NULL, asf_bed_place(RUN_B, 0));
    asf_bed_log(&bed, "emit S [0,1]");
    asf_bed_send(&bed, "x", "11", NULL, asf_bed_place(RUN_A, 1));
    asf_bed_log(&bed, "emit S [10,11]");
    map(&bed, RUN_A, 0, "");
    asf_bed_log(&bed, "emit S []");
    asf_bed_send(&bed, "x", "5", NULL, asf_bed_place(RUN_A, 0));
    map(&bed, RUN_A, 1, ""); /* all were there already */
    asf_bed_log(&bed, "emit S [5]");
    asf_bed_end(&bed);
}

/* Results that do not know their place: in the order of arrival, the oldest run first. */
static void test_map_by_arrival(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    map(&bed, RUN_A, 3, "");
    map(&bed, RUN_B, 1, "");
    asf_bed_send(&bed, "x", "1", NULL, NULL);
    asf_bed_send(&bed, "x", "\"mine\"", NULL, asf_bed_place(RUN_A, 1));
    asf_bed_send(&bed, "x", "2", NULL, NULL);
    asf_bed_log(&bed, "emit S [1,\"mine\",2]");
    asf_bed_send(&bed, "x", "3", NULL, NULL);
    asf_bed_log(&bed, "emit S [3]");
    asf_bed_send(&bed, "x", "4", NULL, NULL);
    asf_bed_log(&bed, "refused no Map waits for results here");
    asf_bed_end(&bed);
}

static void test_map_output(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    map(&bed, RUN_A, 1, ",\"input\":{\"i\":0},\"state\":{\"Type\":\"Map\",\"ResultPath\":\"$.r\"}");
    asf_bed_send(&bed, "x", "1", NULL, asf_bed_place(RUN_A, 0));
    asf_bed_log(&bed, "emit S {\"i\":0,\"r\":[1]}");
    map(&bed, RUN_A, 0, ",\"input\":{},\"state\":{\"Type\":\"Map\",\"OutputPath\":\"$.no\"}");
    asf_bed_log(&bed, "failed States.Runtime: OutputPath: path $.no: not an object, with a member no");
    asf_bed_end(&bed);
}

/* A Map within a Map: results go back to the outer iteration. */
static void test_map_nested(void **state)
{
    struct asf_bed bed;
    BUFFER_AUTO inner = BUFFER_INIT;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    BUFFER_AUTO write = BUFFER_INIT;
    buffer_printf(&write, "{\"map\":{\"path\":\"%s." RUN_B "\",\"n\":1}}", asf_bed_place(RUN_A, 4));
    asf_bed_tell(&bed, buffer_text(&write));
    buffer_printf(&inner, "%s.%s", asf_bed_place(RUN_A, 4), asf_bed_place(RUN_B, 0));
    asf_bed_reload(&bed);
    asf_bed_send(&bed, "x", "1", NULL, buffer_text(&inner));
    asf_bed_log(&bed, "emit S[4] [1]");
    asf_bed_end(&bed);
}

static void test_parallel(void **state)
{
    static const char one[] = RUN_A "-0000000000000001-0";
    static const char other[] = RUN_A "-0000000000000001-1";
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(
        &bed, "AWS_ASF_JOIN_STATEMACHINE", PASS,
        "{\"Subject\":\"S\",\"join_multiple\":3,\"State\":{\"Type\":\"Parallel\",\"ResultSelector\":"
        "{\"first.$\":\"$[0]\",\"all.$\":\"$\"}}}");
    asf_bed_send(&bed, "StateMachine12", "\"c\"", NULL, NULL);
    asf_bed_send(&bed, "StateMachine2", "\"a\"", NULL, NULL);
    asf_bed_reload(&bed);
    asf_bed_send(&bed, "StateMachine3", "\"b\"", NULL, NULL);
    asf_bed_log(&bed, "emit S {\"first\":\"a\",\"all\":[\"a\",\"b\",\"c\"]}");
    for (int i = 0; i < 3; i++) /* and once more, in a loop; within two iterations of a Map */
        asf_bed_send(&bed, i ? "StateMachine2" : "StateMachine3", i ? "2" : "3", NULL, i % 2 ? other : one);
    asf_bed_log(&bed, "");
    asf_bed_send(&bed, "StateMachine12", "12", NULL, one);
    asf_bed_log(&bed, "emit S[0] {\"first\":2,\"all\":[2,3,12]}");
    asf_bed_end(&bed);
}

static void test_parallel_input(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(
        &bed, "AWS_ASF_JOIN_STATEMACHINE", PASS,
        "{\"Subject\":\"S\",\"join_multiple\":1,\"State\":{\"Type\":\"Parallel\",\"ResultPath\":\"$.r\"}}");
    asf_bed_send(&bed, "before", "{\"i\":1}", NULL, NULL);
    asf_bed_log(&bed, "");
    asf_bed_reload(&bed);
    asf_bed_send(&bed, "c1-StateMachine1", "5", NULL, NULL);
    asf_bed_log(&bed, "emit S {\"i\":1,\"r\":[5]}");
    asf_bed_send(&bed, "StateMachine1", "5", NULL, NULL);
    asf_bed_log(&bed,
                "refused States.ResultPathMatchFailure: ResultPath: the Parallel's input has not come here");
    asf_bed_end(&bed);
    asf_bed_begin(
        &bed, "AWS_ASF_JOIN_STATEMACHINE", PASS, /* no Parallel: the joined results are its input */
        "{\"Subject\":\"S\",\"join_multiple\":2,\"State\":{\"Type\":\"Pass\",\"OutputPath\":\"$[1]\"}}");
    asf_bed_send(&bed, "b", "1", NULL, NULL);
    asf_bed_send(&bed, "a", "2", NULL, NULL);
    asf_bed_log(&bed, "emit S 2");
    asf_bed_end(&bed);
}

/* --- AWS_ASF_MAP, AWS_ASF_TASK --- */

static void test_map_action(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(
        &bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\",\"join_state_machine\":\"J\"}",
        "{\"Subject\":\"S\",\"State\":{\"Type\":\"Map\",\"ItemsPath\":\"$.l\",\"ResultPath\":\"$.r\","
        "\"ItemSelector\":{\"i.$\":\"$$.Map.Item.Index\",\"v.$\":\"$$.Map.Item.Value\",\"x.$\":\"$.x\"}}}");
    asf_bed_send(&bed, "x", "{\"l\":[\"a\",{}],\"x\":9}", NULL, NULL);
    asf_bed_log(
        &bed, "write J {\"map\":{\"path\":\"e4e02d57ed82f19e\",\"n\":2,\"input\":{\"l\":[\"a\",{}],\"x\":9},"
              "\"state\":{\"Type\":\"Map\",\"ResultPath\":\"$.r\",\"Name\":\"S\"}}}\n"
              "emit S[0] {\"i\":0,\"v\":\"a\",\"x\":9}\nemit S[1] {\"i\":1,\"v\":{},\"x\":9}");
    asf_bed_send(&bed, "x", "{\"l\":5}", NULL, NULL);
    asf_bed_log(&bed, "failed States.Runtime: ItemsPath $.l leads to a number, not to an array");
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\"}",
                  "{\"Subject\":\"S\",\"join_state_machine\":\"K\",\"State\":{\"Type\":\"Map\"}}");
    asf_bed_send(&bed, "x", "[]", NULL, NULL);
    assert_non_null(strstr(buffer_text(&bed.log), "write K {\"map\":{\"path\":\""));
    assert_non_null(strstr(buffer_text(&bed.log), "\",\"n\":0}}"));
    assert_null(strstr(buffer_text(&bed.log), "emit"));
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\"}", "{\"State\":{\"Type\":\"Map\"}}");
    asf_bed_send(&bed, "x", "[]", NULL, NULL);
    asf_bed_log(&bed, "failed neither the context nor the action names a join_state_machine");
    asf_bed_end(&bed);
}

/* What would be too much is refused as a whole. */
static void test_map_limits(void **state)
{
    struct asf_bed bed;
    BUFFER_AUTO data = BUFFER_INIT;
    BUFFER_AUTO deep = BUFFER_INIT;
    (void)state;
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\",\"join_state_machine\":\"J\"}",
                  "{\"Subject\":\"S\",\"State\":{\"Type\":\"Map\",\"ItemSelector\":{\"all.$\":\"$\"}}}");
    buffer_append_text(&data, "[0");
    for (int i = 0; i < 20000; i++)
        buffer_append_text(&data, ",12345");
    buffer_append_char(&data, ']');
    asf_bed_send(&bed, "x", buffer_text(&data), NULL, NULL);
    assert_non_null(strstr(buffer_text(&bed.log), "failed States."));
    assert_null(strstr(buffer_text(&bed.log), "emit"));
    for (int i = 0; i < ITEM_MAX_DEPTH; i++)
        buffer_printf(&deep, "%s%s", i ? "." : "", asf_bed_place(RUN_A, 1));
    asf_bed_send(&bed, "x", "[1]", NULL, buffer_text(&deep));
    asf_bed_log(&bed, "failed States.Runtime: Maps are nested deeper than 16");
    asf_bed_end(&bed);
}

static void test_task_action(void **state)
{
    struct asf_bed bed;
    (void)state;
    asf_bed_begin(
        &bed, "AWS_ASF_CONDITION",
        "{\"name\":\"AWS_ASF_TASK\",\"endpoint\":\"http://h:1\",\"region\":\"r-1\",\"max_retries\":2}",
        "{\"Subject\":\"S\",\"State\":{\"Type\":\"Task\",\"Resource\":\"f\",\"Parameters\":{\"p.$\":\"$."
        "a\"}}}");
    asf_bed_send(&bed, "x", "{\"a\":1}", NULL, NULL);
    asf_bed_log(
        &bed,
        "intend AWS_ASF_TASK {\"url\":\"http://h:1/2015-03-31/functions/f/invocations\",\"region\":\"r-1\","
        "\"subject\":\"S\",\"arguments\":{\"p\":1},\"policy\":{\"retries\":2}}");
    asf_bed_end(&bed);
    asf_bed_begin(
        &bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_TASK\",\"endpoint\":\"http://h:1\"}",
        "{\"Subject\":\"S\",\"State\":{\"Type\":\"Task\",\"Resource\":\"arn:aws:lambda:r-2:1:function:g\","
        "\"InputPath\":\"$.a\",\"ResultPath\":\"$.r\"}}");
    asf_bed_send(&bed, "x", "{\"a\":1}", NULL, asf_bed_place(RUN_A, 2));
    assert_non_null(
        strstr(buffer_text(&bed.log), "write S {\"awaits\":{\"task\":\"S\",\"key\":\"e4e02d57ed82f19e"));
    assert_non_null(strstr(buffer_text(&bed.log), "-2\",\"input\":{\"a\":1},\"state\":{\"Type\":\"Task\""));
    assert_non_null(strstr(buffer_text(&bed.log), "functions/arn%3Aaws%3Alambda%3Ar-2%3A1%3Afunction%3Ag/"));
    assert_non_null(strstr(buffer_text(&bed.log), "\"data\":1,\"item\":\"" RUN_A));
    assert_non_null(strstr(buffer_text(&bed.log), ",\"told\":true"));
    asf_bed_end(&bed);
    asf_bed_begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_TASK\"}",
                  "{\"State\":{\"Type\":\"Task\"}}");
    asf_bed_send(&bed, "x", "{}", NULL, NULL);
    asf_bed_log(&bed, "failed the State has no Resource");
    asf_bed_end(&bed);
}

/* --- contexts --- */

static void test_refused_contexts(void **state)
{
    static const struct {
        const char *condition, *context, *message;
    } cases[] = {
        {"AWS_ASF_CONDITION", "{\"Subject\":5}", "context.Subject is a number, not a text"},
        {"AWS_ASF_CONDITION", "{\"State\":5}", "context.State: is a number, not an object"},
        {"AWS_ASF_CONDITION", "{\"Condition\":{}}", "context.Condition: a choice rule has no operator"},
        {"AWS_ASF_CONDITION", "{\"answers\":5}", "context.answers is a number, not an array"},
        {"AWS_ASF_CONDITION", "{\"answers\":[{}]}", "context.answers has an element without a task"},
        {"AWS_ASF_JOIN_STATEMACHINE", "{\"join_multiple\":\"x\"}",
         "context.join_multiple is \"x\", not a whole number from -1 to 1000000"},
        {"AWS_ASF_JOIN_STATEMACHINE", "{\"counter\":-1}",
         "context.counter is -1, not a whole number from 0 to 1000000"},
        {"AWS_ASF_JOIN_STATEMACHINE", "{\"joins\":{}}", "context.joins is an object, not an array"},
        {"AWS_ASF_JOIN_STATEMACHINE", "{\"joins\":[{}]}",
         "context.joins: an element without path or results"},
        {"AWS_ASF_JOIN_STATEMACHINE", "{\"joins\":[{\"path\":\"\",\"results\":[1]}]}",
         "context.joins: a result is not [place, data]"},
        {"AWS_ASF_JOIN_STATEMACHINE", "{\"joins\":[{\"path\":\"\",\"run\":true,\"results\":[]}]}",
         "context.joins: a path without its run"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        BUFFER_AUTO document = BUFFER_INIT;
        struct trigger *trigger;
        struct error err;
        buffer_printf(&document,
                      "{\"condition\":{\"name\":\"%s\"},\"action\":" PASS
                      ",\"context\":%s,\"activation_events\":[]}",
                      cases[i].condition, cases[i].context);
        assert_int_equal(trigger_new("T", 1, document.data, document.len, 1, &trigger, &err), -1);
        assert_non_null(strstr(err.message, cases[i].message));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_condition),
        cmocka_unit_test(test_condition_names),
        cmocka_unit_test(test_pass),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_answers_forgotten),
        cmocka_unit_test(test_answers_of_iterations),
        cmocka_unit_test(test_answers_again),
        cmocka_unit_test(test_answers_over),
        cmocka_unit_test(test_end_of_one),
        cmocka_unit_test(test_map_in_order),
        cmocka_unit_test(test_map_runs),
        cmocka_unit_test(test_map_by_arrival),
        cmocka_unit_test(test_map_output),
        cmocka_unit_test(test_map_nested),
        cmocka_unit_test(test_parallel),
        cmocka_unit_test(test_parallel_input),
        cmocka_unit_test(test_map_action),
        cmocka_unit_test(test_map_limits),
        cmocka_unit_test(test_task_action),
        cmocka_unit_test(test_refused_contexts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
