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
#include "worker/action/asf.h"
#include "worker/condition/asf.h"
#include "worker/shard/firing.h"
#include "worker/globals.h"
#include "worker/states/item.h"
#include "worker/shard/trigger.h"

/* A trigger that fires into a log. */
struct bed {
    struct firing firing; /* first: see logged() */
    struct trigger *trigger;
    struct buffer log;
    struct error error;
    struct cloudevent event;
};

/* --- effects --- */

static struct buffer *logged(struct firing *firing)
{
    struct buffer *log = &((struct bed *)(void *)firing)->log;
    if (log->len)
        buffer_append_char(log, '\n');
    return log;
}

static int emit(struct firing *firing, const struct cloudevent *event, struct error *err)
{
    struct buffer *log = logged(firing);
    struct cloudevent_span item;
    struct item place;
    (void)err;
    item_of(event, &item);
    buffer_printf(log, "emit %.*s", (int)event->attribute[CE_SUBJECT].len, event->attribute[CE_SUBJECT].text);
    if (item_innermost(item.text, item.len, &place))
        buffer_printf(log, "[%lld]", (long long)place.index);
    buffer_printf(log, " %.*s", (int)event->attribute[CE_DATA].len, event->attribute[CE_DATA].text);
    return 0;
}

static int write_context(struct firing *firing, const struct cloudevent *carrier, struct error *err)
{
    (void)err;
    buffer_printf(logged(firing), "write %.*s %.*s", (int)carrier->attribute[CE_SUBJECT].len,
                  carrier->attribute[CE_SUBJECT].text, (int)carrier->attribute[CE_DATA].len,
                  carrier->attribute[CE_DATA].text);
    return 0;
}

static int intend(struct firing *firing, const struct action_type *action, const char *key, const char *body,
                  size_t body_len, const char *elements, size_t elements_len, struct error *err)
{
    (void)key;
    (void)elements;
    (void)elements_len;
    (void)err;
    buffer_printf(logged(firing), "intend %s %.*s", action->name, (int)body_len, body);
    return 0;
}

static void finish(struct firing *firing)
{
    buffer_append_text(logged(firing), "finish");
}

static const struct firing_type into_log = {
    .emit = emit, .write = write_context, .intend = intend, .finish = finish};

/* --- the bed --- */

static void begin(struct bed *bed, const char *condition, const char *action, const char *context)
{
    BUFFER_AUTO document = BUFFER_INIT;
    *bed = (struct bed){.firing = {.type = &into_log, .workspace = "ws", .creation = "1"}};
    buffer_printf(&document,
                  "{\"condition\":{\"name\":\"%s\"},\"action\":%s,\"context\":%s,\"activation_events\":[]}",
                  condition, action, context);
    if (trigger_new("T", 1, document.data, document.len, 1, &bed->trigger, &bed->error) < 0)
        fail_msg("%s", bed->error.message);
    bed->firing.trigger = bed->trigger;
}

static void end(struct bed *bed)
{
    trigger_free(bed->trigger);
    buffer_done(&bed->log);
}

static void fire(struct bed *bed, const struct cloudevent *event)
{
    bed->firing.event = event;
    bed->firing.number++;
    if (bed->trigger->action->fire(bed->trigger->action_state, &bed->firing, &bed->error) < 0)
        buffer_printf(logged(&bed->firing), "failed %s", bed->error.message);
}

static struct cloudevent_span span(const char *text)
{
    return (struct cloudevent_span){.text = text, .len = text ? (uint32_t)strlen(text) : 0};
}

/* An event through condition and action; what happened since is in the log. key, item: NULL: none. */
static void send(struct bed *bed, const char *subject, const char *data, const char *key, const char *item)
{
    struct cloudevent *event = &bed->event;
    buffer_reset(&bed->log, SIZE_MAX);
    cloudevent_clear(event);
    event->attribute[CE_SUBJECT] = span(subject);
    event->attribute[CE_KEY] = span(key);
    event->attribute[CE_DATA] = span(data);
    event->data = CE_DATA_JSON;
    if (item) {
        event->extension[0] =
            (struct cloudevent_extension){.name = span(ITEM_ATTRIBUTE), .value = span(item)};
        event->n_extensions = 1;
    }
    unsigned outcome = bed->trigger->condition->evaluate(bed->trigger->state, event);
    if (outcome & CONDITION_REFUSES)
        buffer_printf(logged(&bed->firing), "refused %s",
                      bed->trigger->condition->why_refused(bed->trigger->state));
    if (outcome & CONDITION_HOLDS)
        fire(bed, event);
}

static void tell(struct bed *bed, const char *write)
{
    struct json_value value;
    buffer_reset(&bed->log, SIZE_MAX);
    cloudevent_clear(&bed->event);
    assert_int_equal(json_scan(write, strlen(write), &value, NULL), 0);
    if (bed->trigger->condition->write(bed->trigger->state, &value) & CONDITION_HOLDS)
        fire(bed, &bed->event);
}

#define assert_log(bed, expected) assert_string_equal(buffer_text(&(bed)->log), expected)

static void assert_context(const struct bed *bed, const char *expected)
{
    BUFFER_AUTO context = BUFFER_INIT;
    trigger_write_context(bed->trigger, &context);
    assert_string_equal(buffer_text(&context), expected);
}

/* Stores the trigger and loads it again. */
static void reload(struct bed *bed)
{
    BUFFER_AUTO document = BUFFER_INIT;
    struct trigger *again;
    trigger_write(bed->trigger, "2020", &document);
    if (trigger_new("T", 1, document.data, document.len, 1, &again, &bed->error) < 0)
        fail_msg("%s", bed->error.message);
    trigger_free(bed->trigger);
    bed->trigger = bed->firing.trigger = again;
}

#define PASS "{\"name\":\"AWS_ASF_PASS\"}"
#define END "{\"name\":\"AWS_ASF_END_STATEMACHINE\"}"
#define RUN_A "aaaaaaaaaaaaaaaa"
#define RUN_B "bbbbbbbbbbbbbbbb"

/* The place of an iteration of a Map whose results "S" collects. */
static const char *place(const char *run, uint32_t index)
{
    static char text[4][64];
    static unsigned n;
    char *to = text[n++ % 4];
    snprintf(to, sizeof text[0], "%s-%016llx-%u", run, (unsigned long long)item_join("S", 1), index);
    return to;
}

/* --- AWS_ASF_CONDITION --- */

static void test_condition(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    send(&bed, "x", "{\"n\":1}", NULL, NULL);
    assert_log(&bed, "emit S {\"n\":1}");
    assert_context(&bed, "{\"Subject\":\"S\"}");
    end(&bed);
    begin(&bed, "AWS_ASF_CONDITION", PASS,
          "{\"Subject\":\"S\",\"Condition\":{\"Variable\":\"$.n\",\"NumericGreaterThan\":1}}");
    send(&bed, "x", "{\"n\":1}", NULL, NULL);
    assert_log(&bed, "");
    send(&bed, "x", "{\"n\":2}", NULL, NULL);
    assert_log(&bed, "emit S {\"n\":2}");
    send(&bed, "x", "{}", NULL, NULL);
    assert_log(&bed, "refused States.Runtime: Condition: Variable: path $.n: there is no member n");
    end(&bed);
}

static void test_condition_names(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", PASS,
          "{\"Execution\":{\"Input\":5},\"Condition\":{\"Variable\":\"$$.Execution.Input\",\"NumericEquals\":"
          "5},"
          "\"State\":{\"Type\":\"Pass\",\"Parameters\":{\"e.$\":\"$$.Execution.Input\",\"s.$\":\"$$.State."
          "Name\","
          "\"m.$\":\"$$.StateMachine.Name\",\"i.$\":\"$$.Map.Item.Index\"}}}");
    send(&bed, "x", "{}", NULL, place(RUN_A, 7));
    assert_log(&bed, "emit T[7] {\"e\":5,\"s\":\"T\",\"m\":\"ws\",\"i\":7}");
    end(&bed);
}

static void test_pass(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", PASS,
          "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"InputPath\":\"$.a\",\"ResultPath\":\"$.r\"}}");
    send(&bed, "x", "{\"a\":[1]}", NULL, NULL);
    assert_log(&bed, "emit S {\"a\":[1],\"r\":[1]}");
    send(&bed, "x", "{}", NULL, NULL);
    assert_log(&bed, "failed States.Runtime: InputPath: path $.a: there is no member a");
    end(&bed);
    begin(&bed, "TRUE", PASS, "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"Result\":{\"x\":1}}}");
    send(&bed, "x", "null", NULL, NULL);
    assert_log(&bed, "emit S {\"x\":1}");
    end(&bed);
    begin(&bed, "AWS_ASF_CONDITION", PASS,
          "{\"State\":{\"Type\":\"Fail\",\"Error\":\"E\",\"CausePath\":\"$.c\"}}");
    send(&bed, "x", "{\"c\":\"why\"}", NULL, NULL);
    assert_log(&bed, "failed E: why");
    end(&bed);
}

/* A firing that is repeated has the same random numbers, another one others. */
static void test_random(void **state)
{
    static const char context[] =
        "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"Parameters\":{\"u.$\":\"States.UUID()\"}}}";
    struct bed a, b;
    (void)state;
    begin(&a, "AWS_ASF_CONDITION", PASS, context);
    begin(&b, "AWS_ASF_CONDITION", PASS, context);
    send(&a, "x", "{}", NULL, NULL);
    send(&b, "x", "{}", NULL, NULL);
    assert_string_equal(buffer_text(&a.log), buffer_text(&b.log));
    send(&b, "x", "{}", NULL, NULL);
    assert_string_not_equal(buffer_text(&a.log), buffer_text(&b.log));
    end(&a);
    end(&b);
}

/* --- answers of tasks --- */

static void test_answers(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k1\",\"input\":{\"n\":1},"
               "\"state\":{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}}");
    tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k2\",\"input\":{\"n\":2},"
               "\"state\":{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}}");
    assert_log(&bed, "");
    reload(&bed);
    send(&bed, "B", "0", NULL, NULL); /* of another */
    assert_log(&bed, "emit S 0");
    send(&bed, "A", "20", "k2", NULL);
    assert_log(&bed, "emit S {\"n\":2,\"r\":20}");
    assert_context(&bed, "{\"answers\":[{\"task\":\"A\",\"key\":\"k1\",\"input\":{\"n\":1},\"state\":"
                         "{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}],\"Subject\":\"S\"}");
    send(&bed, "A", "10", NULL, NULL); /* without its key: the oldest */
    assert_log(&bed, "emit S {\"n\":1,\"r\":10}");
    assert_context(&bed, "{\"Subject\":\"S\"}");
    send(&bed, "A", "30", "k3", NULL); /* not waited for: as it is */
    assert_log(&bed, "emit S 30");
    end(&bed);
}

static void test_answers_forgotten(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k1\"}}");
    tell(&bed, "{\"forget\":\"k0\"}");
    assert_context(&bed, "{\"answers\":[{\"task\":\"A\",\"key\":\"k1\"}],\"Subject\":\"S\"}");
    tell(&bed, "{\"forget\":\"k1\"}");
    assert_context(&bed, "{\"Subject\":\"S\"}");
    tell(&bed, "{\"started\":1,\"task\":\"A\"}"); /* a write of a DAG's */
    assert_context(&bed, "{\"Subject\":\"S\"}");
    end(&bed);
}

/* The answer brings its iteration along, and what goes wrong names it. */
static void test_answers_of_iterations(void **state)
{
    struct bed bed;
    char write[256];
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", PASS, "{\"Subject\":\"S\"}");
    snprintf(write, sizeof write, "{\"awaits\":{\"task\":\"A\",\"key\":\"k\",\"item\":\"%s\"}}",
             place(RUN_A, 3));
    tell(&bed, write);
    send(&bed, "A", "1", "k", NULL);
    assert_log(&bed, "emit S[3] 1");
    tell(&bed, "{\"awaits\":{\"task\":\"A\",\"key\":\"k\",\"input\":{},"
               "\"state\":{\"Type\":\"Task\",\"OutputPath\":\"$.no\"}}}");
    send(&bed, "A", "{}", "k", NULL);
    assert_log(&bed, "refused States.Runtime: OutputPath: path $.no: there is no member no");
    assert_context(&bed,
                   "{\"answers\":[{\"task\":\"A\",\"key\":\"k\",\"input\":{},\"state\":{\"Type\":\"Task\","
                   "\"OutputPath\":\"$.no\"}}],\"Subject\":\"S\"}"); /* it may come again */
    send(&bed, "A", "{\"no\":1}", "k", NULL);
    assert_log(&bed, "emit S 1");
    assert_context(&bed, "{\"Subject\":\"S\"}");
    end(&bed);
}

/* What an action fails on, or a rule cannot tell, is waited for again. */
static void test_answers_again(void **state)
{
    static const char wait[] = "{\"awaits\":{\"task\":\"A\",\"key\":\"k\",\"input\":{},"
                               "\"state\":{\"Type\":\"Task\",\"ResultPath\":\"$.r\"}}}";
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", PASS,
          "{\"Subject\":\"S\",\"State\":{\"Type\":\"Pass\",\"OutputPath\":\"$.r.x\"},"
          "\"Condition\":{\"Variable\":\"$.r.y\",\"NumericEquals\":1}}");
    tell(&bed, wait);
    send(&bed, "A", "{\"x\":5}", "k", NULL);
    assert_log(&bed, "refused States.Runtime: Condition: Variable: path $.r.y: there is no member y");
    send(&bed, "A", "{\"y\":1}", "k", NULL);
    assert_log(&bed, "failed States.Runtime: OutputPath: path $.r.x: there is no member x");
    send(&bed, "A", "{\"x\":5,\"y\":1}", "k", NULL);
    assert_log(&bed, "emit S 5");
    end(&bed);
}

/* --- AWS_ASF_JOIN_STATEMACHINE --- */

static void test_end_of_one(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    send(&bed, "x", "{\"n\":1}", NULL, NULL);
    assert_log(&bed, "emit S {\"n\":1}");
    assert_context(&bed, "{\"counter\":0,\"result\":{\"n\":1},\"Subject\":\"S\"}");
    send(&bed, "x", "2", NULL, NULL);
    assert_log(&bed, "emit S 2");
    end(&bed);
}

static void map(struct bed *bed, const char *run, unsigned n, const char *more)
{
    char write[256];
    snprintf(write, sizeof write, "{\"map\":{\"path\":\"%s\",\"n\":%u%s}}", run, n, more);
    tell(bed, write);
}

/* Results in the order of the items, each once, whatever order they come in. */
static void test_map_in_order(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\",\"join_multiple\":null}");
    map(&bed, RUN_A, 3, "");
    assert_context(&bed, "{\"counter\":0,\"join_multiple\":3,\"by_map\":true,\"joins\":[{\"path\":\"" RUN_A
                         "\",\"run\":true,\"expected\":3,\"results\":[]}],\"Subject\":\"S\"}");
    send(&bed, "x", "\"c\"", NULL, place(RUN_A, 2));
    send(&bed, "x", "\"a\"", NULL, place(RUN_A, 0));
    send(&bed, "x", "\"again\"", NULL, place(RUN_A, 0));
    send(&bed, "x", "\"none\"", NULL, place(RUN_A, 3));
    assert_log(&bed, "");
    reload(&bed);
    send(&bed, "x", "\"b\"", NULL, place(RUN_A, 1));
    assert_log(&bed, "emit S [\"a\",\"b\",\"c\"]");
    assert_context(&bed, "{\"counter\":3,\"join_multiple\":3,\"by_map\":true,\"result\":[\"a\",\"b\",\"c\"],"
                         "\"Subject\":\"S\"}");
    end(&bed);
}

/* Two runs of a Map at a time, and results before the number is known. */
static void test_map_runs(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    send(&bed, "x", "1", NULL, place(RUN_B, 1));
    assert_log(&bed, "");
    map(&bed, RUN_A, 2, "");
    map(&bed, RUN_B, 2, "");
    send(&bed, "x", "10", NULL, place(RUN_A, 0));
    send(&bed, "x", "0", NULL, place(RUN_B, 0));
    assert_log(&bed, "emit S [0,1]");
    send(&bed, "x", "11", NULL, place(RUN_A, 1));
    assert_log(&bed, "emit S [10,11]");
    map(&bed, RUN_A, 0, "");
    assert_log(&bed, "emit S []");
    send(&bed, "x", "5", NULL, place(RUN_A, 0));
    map(&bed, RUN_A, 1, ""); /* all were there already */
    assert_log(&bed, "emit S [5]");
    end(&bed);
}

/* Results that do not know their place: in the order of arrival, the oldest run first. */
static void test_map_by_arrival(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    map(&bed, RUN_A, 3, "");
    map(&bed, RUN_B, 1, "");
    send(&bed, "x", "1", NULL, NULL);
    send(&bed, "x", "\"mine\"", NULL, place(RUN_A, 1));
    send(&bed, "x", "2", NULL, NULL);
    assert_log(&bed, "emit S [1,\"mine\",2]");
    send(&bed, "x", "3", NULL, NULL);
    assert_log(&bed, "emit S [3]");
    send(&bed, "x", "4", NULL, NULL);
    assert_log(&bed, "refused no Map waits for results here");
    end(&bed);
}

static void test_map_output(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    map(&bed, RUN_A, 1, ",\"input\":{\"i\":0},\"state\":{\"Type\":\"Map\",\"ResultPath\":\"$.r\"}");
    send(&bed, "x", "1", NULL, place(RUN_A, 0));
    assert_log(&bed, "emit S {\"i\":0,\"r\":[1]}");
    map(&bed, RUN_A, 0, ",\"input\":{},\"state\":{\"Type\":\"Map\",\"OutputPath\":\"$.no\"}");
    assert_log(&bed, "failed States.Runtime: OutputPath: path $.no: not an object, with a member no");
    end(&bed);
}

/* A Map within a Map: results go back to the outer iteration. */
static void test_map_nested(void **state)
{
    struct bed bed;
    BUFFER_AUTO inner = BUFFER_INIT;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", END, "{\"Subject\":\"S\"}");
    BUFFER_AUTO write = BUFFER_INIT;
    buffer_printf(&write, "{\"map\":{\"path\":\"%s." RUN_B "\",\"n\":1}}", place(RUN_A, 4));
    tell(&bed, buffer_text(&write));
    buffer_printf(&inner, "%s.%s", place(RUN_A, 4), place(RUN_B, 0));
    reload(&bed);
    send(&bed, "x", "1", NULL, buffer_text(&inner));
    assert_log(&bed, "emit S[4] [1]");
    end(&bed);
}

static void test_parallel(void **state)
{
    static const char one[] = RUN_A "-0000000000000001-0";
    static const char other[] = RUN_A "-0000000000000001-1";
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", PASS,
          "{\"Subject\":\"S\",\"join_multiple\":3,\"State\":{\"Type\":\"Parallel\",\"ResultSelector\":"
          "{\"first.$\":\"$[0]\",\"all.$\":\"$\"}}}");
    send(&bed, "StateMachine12", "\"c\"", NULL, NULL);
    send(&bed, "StateMachine2", "\"a\"", NULL, NULL);
    reload(&bed);
    send(&bed, "StateMachine3", "\"b\"", NULL, NULL);
    assert_log(&bed, "emit S {\"first\":\"a\",\"all\":[\"a\",\"b\",\"c\"]}");
    for (int i = 0; i < 3; i++) /* and once more, in a loop; within two iterations of a Map */
        send(&bed, i ? "StateMachine2" : "StateMachine3", i ? "2" : "3", NULL, i % 2 ? other : one);
    assert_log(&bed, "");
    send(&bed, "StateMachine12", "12", NULL, one);
    assert_log(&bed, "emit S[0] {\"first\":2,\"all\":[2,3,12]}");
    end(&bed);
}

static void test_parallel_input(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", PASS,
          "{\"Subject\":\"S\",\"join_multiple\":1,\"State\":{\"Type\":\"Parallel\",\"ResultPath\":\"$.r\"}}");
    send(&bed, "before", "{\"i\":1}", NULL, NULL);
    assert_log(&bed, "");
    reload(&bed);
    send(&bed, "c1-StateMachine1", "5", NULL, NULL);
    assert_log(&bed, "emit S {\"i\":1,\"r\":[5]}");
    send(&bed, "StateMachine1", "5", NULL, NULL);
    assert_log(&bed,
               "refused States.ResultPathMatchFailure: ResultPath: the Parallel's input has not come here");
    end(&bed);
    begin(&bed, "AWS_ASF_JOIN_STATEMACHINE", PASS, /* no Parallel: the joined results are its input */
          "{\"Subject\":\"S\",\"join_multiple\":2,\"State\":{\"Type\":\"Pass\",\"OutputPath\":\"$[1]\"}}");
    send(&bed, "b", "1", NULL, NULL);
    send(&bed, "a", "2", NULL, NULL);
    assert_log(&bed, "emit S 2");
    end(&bed);
}

/* --- AWS_ASF_MAP, AWS_ASF_TASK --- */

static void test_map_action(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\",\"join_state_machine\":\"J\"}",
          "{\"Subject\":\"S\",\"State\":{\"Type\":\"Map\",\"ItemsPath\":\"$.l\",\"ResultPath\":\"$.r\","
          "\"ItemSelector\":{\"i.$\":\"$$.Map.Item.Index\",\"v.$\":\"$$.Map.Item.Value\",\"x.$\":\"$.x\"}}}");
    send(&bed, "x", "{\"l\":[\"a\",{}],\"x\":9}", NULL, NULL);
    assert_log(&bed,
               "write J {\"map\":{\"path\":\"e4e02d57ed82f19e\",\"n\":2,\"input\":{\"l\":[\"a\",{}],\"x\":9},"
               "\"state\":{\"Type\":\"Map\",\"ResultPath\":\"$.r\"}}}\n"
               "emit S[0] {\"i\":0,\"v\":\"a\",\"x\":9}\nemit S[1] {\"i\":1,\"v\":{},\"x\":9}");
    send(&bed, "x", "{\"l\":5}", NULL, NULL);
    assert_log(&bed, "failed States.Runtime: ItemsPath $.l leads to a number, not to an array");
    end(&bed);
    begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\"}",
          "{\"Subject\":\"S\",\"join_state_machine\":\"K\",\"State\":{\"Type\":\"Map\"}}");
    send(&bed, "x", "[]", NULL, NULL);
    assert_non_null(strstr(buffer_text(&bed.log), "write K {\"map\":{\"path\":\""));
    assert_non_null(strstr(buffer_text(&bed.log), "\",\"n\":0}}"));
    assert_null(strstr(buffer_text(&bed.log), "emit"));
    end(&bed);
    begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\"}", "{\"State\":{\"Type\":\"Map\"}}");
    send(&bed, "x", "[]", NULL, NULL);
    assert_log(&bed, "failed neither the context nor the action names a join_state_machine");
    end(&bed);
}

/* What would be too much is refused as a whole. */
static void test_map_limits(void **state)
{
    struct bed bed;
    BUFFER_AUTO data = BUFFER_INIT;
    BUFFER_AUTO deep = BUFFER_INIT;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_MAP\",\"join_state_machine\":\"J\"}",
          "{\"Subject\":\"S\",\"State\":{\"Type\":\"Map\",\"ItemSelector\":{\"all.$\":\"$\"}}}");
    buffer_append_text(&data, "[0");
    for (int i = 0; i < 20000; i++)
        buffer_append_text(&data, ",12345");
    buffer_append_char(&data, ']');
    send(&bed, "x", buffer_text(&data), NULL, NULL);
    assert_non_null(strstr(buffer_text(&bed.log), "failed States."));
    assert_null(strstr(buffer_text(&bed.log), "emit"));
    for (int i = 0; i < ITEM_MAX_DEPTH; i++)
        buffer_printf(&deep, "%s%s", i ? "." : "", place(RUN_A, 1));
    send(&bed, "x", "[1]", NULL, buffer_text(&deep));
    assert_log(&bed, "failed States.Runtime: Maps are nested deeper than 16");
    end(&bed);
}

static void test_task_action(void **state)
{
    struct bed bed;
    (void)state;
    begin(&bed, "AWS_ASF_CONDITION",
          "{\"name\":\"AWS_ASF_TASK\",\"endpoint\":\"http://h:1\",\"region\":\"r-1\",\"max_retries\":2}",
          "{\"Subject\":\"S\",\"State\":{\"Type\":\"Task\",\"Resource\":\"f\",\"Parameters\":{\"p.$\":\"$."
          "a\"}}}");
    send(&bed, "x", "{\"a\":1}", NULL, NULL);
    assert_log(
        &bed,
        "intend AWS_ASF_TASK {\"url\":\"http://h:1/2015-03-31/functions/f/invocations\",\"region\":\"r-1\","
        "\"subject\":\"S\",\"arguments\":{\"p\":1},\"policy\":{\"retries\":2}}");
    end(&bed);
    begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_TASK\",\"endpoint\":\"http://h:1\"}",
          "{\"Subject\":\"S\",\"State\":{\"Type\":\"Task\",\"Resource\":\"arn:aws:lambda:r-2:1:function:g\","
          "\"InputPath\":\"$.a\",\"ResultPath\":\"$.r\"}}");
    send(&bed, "x", "{\"a\":1}", NULL, place(RUN_A, 2));
    assert_non_null(
        strstr(buffer_text(&bed.log), "write S {\"awaits\":{\"task\":\"S\",\"key\":\"e4e02d57ed82f19e"));
    assert_non_null(strstr(buffer_text(&bed.log), "-2\",\"input\":{\"a\":1},\"state\":{\"Type\":\"Task\""));
    assert_non_null(strstr(buffer_text(&bed.log), "functions/arn%3Aaws%3Alambda%3Ar-2%3A1%3Afunction%3Ag/"));
    assert_non_null(strstr(buffer_text(&bed.log), "\"data\":1,\"told\":true"));
    end(&bed);
    begin(&bed, "AWS_ASF_CONDITION", "{\"name\":\"AWS_ASF_TASK\"}", "{\"State\":{\"Type\":\"Task\"}}");
    send(&bed, "x", "{}", NULL, NULL);
    assert_log(&bed, "failed the State has no Resource");
    end(&bed);
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
