/* Writes into other triggers' contexts: that they reach their targets in whatever shards, in order, and in
 * front of the intents of their firings; how they are stored and put back; and whole DAGs of tasks that are
 * done at once, on real shards and the real internal source. */
#include "worker/shard/write.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "tests/support/fake_checkpoint.h"
#include "tests/support/pipeline_bed.h"
#include "worker/executor/intent.h"
#include "worker/router.h"
#include "worker/shard/shard.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/shard/trigger.h"

#define DEADLINE_NS (120 * CLOCK_S)
#define SUCCESS "event.triggerflow.termination.success"
#define ON(task) "{\"type\":\"" SUCCESS "\",\"subject\":\"" task "\"}"
#define WAITS(task) "\"" task "\":{\"join\":-1,\"counter\":0}"
#define TASK(action, dependencies, events)                                      \
    "\"condition\":{\"name\":\"DAG_TASK_JOIN\"},\"action\":{\"name\":\"" action \
    "\"},\"context\":{\"dependencies\":{" dependencies "},\"result\":[]},\"activation_events\":[" events "]"
#define FIRST(action)                                                  \
    "\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"" action \
    "\"},\"context\":{},\"activation_events\":[{\"type\":\"init\"}]"

static struct cloudevent event_of(const char *type, const char *subject)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_ID] = (struct cloudevent_span){"1", 1};
    event.attribute[CE_TYPE] = (struct cloudevent_span){type, (uint32_t)strlen(type)};
    event.attribute[CE_SUBJECT] = (struct cloudevent_span){subject, (uint32_t)strlen(subject)};
    return event;
}

static void deliver(struct pipeline_bed *bed, const char *type, const char *subject)
{
    struct source *s = bed->worker.sources[1];
    struct cloudevent event = event_of(type, subject);
    source_begin_batch(s);
    assert_int_equal(source_deliver(s, &event, (uint64_t[2]){1, 0}, false), 0);
    source_end_batch(s);
}

/* As a firing does it, in this epoch. type NULL: to the trigger of that id. */
static void tell(struct pipeline_bed *bed, const char *type, const char *subject, const char *body,
                 uint64_t epoch)
{
    struct cloudevent carrier;
    struct error err;
    write_compose(&carrier, "w", type, subject, strlen(subject), body, strlen(body));
    assert_int_equal(internal_write(bed->worker.internal, &carrier, epoch, &err), 0);
}

static struct pipeline_bed *bed_new(unsigned n_shards)
{
    fake_checkpoint_reset();
    struct pipeline_bed *bed = pipeline_bed_new(n_shards);
    pipeline_bed_source(bed, 1);
    return bed;
}

static void start(struct pipeline_bed *bed)
{
    struct error err;
    pipeline_bed_route(bed);
    pipeline_bed_start_shards(bed, 1);
    assert_int_equal(source_start(bed->worker.sources[0], &err), 0);
}

/* Until nothing waits in the internal source; what was delivered is in the rings then. */
static void drain(struct pipeline_bed *bed)
{
    uint64_t until = clock_now_ns() + DEADLINE_NS;
    while (internal_waiting(bed->worker.internal)) {
        assert_true(clock_now_ns() < until);
        sched_yield();
    }
}

/* One epoch over both sources. */
static void epoch(struct pipeline_bed *bed, uint64_t number)
{
    uint64_t before = fake_checkpoint_get(&fake_checkpoint.cuts);
    for (unsigned i = 0; i < 2; i++) {
        struct source *s = bed->worker.sources[i];
        BUFFER_AUTO position = BUFFER_INIT;
        pthread_mutex_lock(&s->emit);
        if (!i)
            s->type->position(s, &position);
        source_barrier(s, number, 3);
        pthread_mutex_unlock(&s->emit);
    }
    for (unsigned i = 0; i < bed->worker.n_shards; i++)
        shard_help(bed->worker.shards[i]);
    fake_checkpoint_wait(&fake_checkpoint.cuts, before + bed->worker.n_shards);
}

static struct shard_cut *cut_of(struct pipeline_bed *bed, unsigned shard, uint64_t number)
{
    return shard_cut(bed->worker.shards[shard], number);
}

static uint64_t fired(struct pipeline_bed *bed, uint64_t number)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < bed->worker.n_shards; i++)
        n += cut_of(bed, i, number)->fired;
    return n;
}

/* The document of a trigger that an epoch writes holds this. */
static void assert_written(struct pipeline_bed *bed, uint64_t number, const char *id, const char *expected)
{
    for (unsigned i = 0; i < bed->worker.n_shards; i++) {
        const struct changes *changes = &cut_of(bed, i, number)->changes;
        const struct change *c = pipeline_bed_change(changes, STORAGE_TRIGGERS, STORAGE_PUT_IF, id);
        if (!c)
            continue;
        if (!memmem(changes->text.data + c->value, c->value_len, expected, strlen(expected)))
            fail_msg("%s is %.*s", id, (int)c->value_len, changes->text.data + c->value);
        return;
    }
    fail_msg("%s is not written", id);
}

/* One write reaches all who wait for the task, whatever their shards, those by `*` too, and nobody else. */
static void test_reaches_all(void **state)
{
    (void)state;
    struct pipeline_bed *bed = bed_new(3);
    char id[8];
    for (unsigned i = 0; i < 12; i++) {
        snprintf(id, sizeof id, "t%u", i);
        pipeline_bed_trigger(bed, id, TASK("PASS", WAITS("a"), ON("a")));
    }
    pipeline_bed_trigger(bed, "any", TASK("PASS", WAITS("a"), ON("*")));
    pipeline_bed_trigger(bed, "other", TASK("PASS", WAITS("a"), ON("b")));
    pipeline_bed_trigger(bed, "true", FIRST("PASS"));
    start(bed);
    tell(bed, SUCCESS, "a", "{\"task\":\"a\",\"started\":2}", 1);
    tell(bed, SUCCESS, "nobody", "{\"task\":\"nobody\",\"started\":1}", 1);
    drain(bed);
    epoch(bed, 1);
    assert_int_equal(fired(bed, 1), 0);
    assert_written(bed, 1, "t0", "\"a\":{\"join\":2,\"counter\":0}");
    assert_written(bed, 1, "t11", "\"a\":{\"join\":2,\"counter\":0}");
    assert_written(bed, 1, "any", "\"a\":{\"join\":2,\"counter\":0}");
    deliver(bed, SUCCESS, "a");
    deliver(bed, SUCCESS, "a");
    epoch(bed, 2);
    assert_int_equal(fired(bed, 2), 13);
    assert_int_equal(fake_checkpoint_get(&fake_checkpoint.reload_waits), 0);
    assert_int_equal(bed->worker.sources[0]->changes[0].n + bed->worker.sources[0]->changes[1].n, 0);
    pipeline_bed_free(bed);
}

/* Events that come before the write count: the write makes the trigger fire. */
static void test_early(void **state)
{
    (void)state;
    struct pipeline_bed *bed = bed_new(2);
    pipeline_bed_trigger(bed, "t", TASK("TERMINATE", WAITS("a"), ON("a")));
    start(bed);
    deliver(bed, SUCCESS, "a");
    epoch(bed, 1);
    assert_int_equal(fired(bed, 1), 0);
    tell(bed, SUCCESS, "a", "{\"task\":\"a\",\"started\":1}", 2);
    drain(bed);
    epoch(bed, 2);
    assert_int_equal(fired(bed, 2), 1);
    assert_written(bed, 2, "t", "\"a\":{\"join\":1,\"counter\":1}");
    pipeline_bed_free(bed);
}

/* A DAG of tasks that are done at once. */
static void test_dummies(void **state)
{
    (void)state;
    for (unsigned n_shards = 1; n_shards <= 4; n_shards++) {
        struct pipeline_bed *bed = bed_new(n_shards);
        pipeline_bed_trigger(bed, "a", FIRST("DAG_DUMMY_TASK"));
        pipeline_bed_trigger(bed, "b", TASK("DAG_DUMMY_TASK", WAITS("a"), ON("a")));
        pipeline_bed_trigger(bed, "c", TASK("DAG_DUMMY_TASK", WAITS("a"), ON("a")));
        pipeline_bed_trigger(bed, "d",
                             TASK("DAG_DUMMY_TASK", WAITS("a") "," WAITS("c"), ON("a") "," ON("c")));
        pipeline_bed_trigger(bed, "__end__",
                             TASK("TERMINATE", WAITS("b") "," WAITS("d"), ON("b") "," ON("d")));
        start(bed);
        deliver(bed, "init", "");
        unsigned finished = 0;
        uint64_t n_fired = 0;
        uint64_t until = clock_now_ns() + DEADLINE_NS;
        for (uint64_t e = 1; !finished; e++) {
            assert_true(clock_now_ns() < until);
            epoch(bed, e);
            n_fired += fired(bed, e);
            for (unsigned i = 0; i < n_shards; i++)
                finished += cut_of(bed, i, e)->finished;
            if (finished)
                assert_written(bed, e, "__end__",
                               "\"b\":{\"join\":1,\"counter\":1},\"d\":{\"join\":1,\"counter\":1}");
        }
        assert_int_equal(finished, 1);
        assert_int_equal(n_fired, 5);
        pipeline_bed_free(bed);
    }
}

/* By id: the action is done again, without the dependants' being told; an unknown id is a dead letter. */
static void test_addressed(void **state)
{
    (void)state;
    struct pipeline_bed *bed = bed_new(2);
    pipeline_bed_trigger(bed, "a", FIRST("DAG_DUMMY_TASK"));
    pipeline_bed_trigger(bed, "b", TASK("PASS", WAITS("a"), ON("a")));
    pipeline_bed_trigger(bed, "deaf", FIRST("PASS"));
    start(bed);
    tell(bed, NULL, "a", "{\"repeat\":{}}", 1);
    tell(bed, NULL, "b", "{\"task\":\"a\",\"started\":3}", 1);
    drain(bed);
    epoch(bed, 1);
    drain(bed);
    deliver(bed, SUCCESS, "a");
    epoch(bed, 2);
    assert_written(bed, 2, "b", "\"a\":{\"join\":3,\"counter\":2}");
    assert_int_equal(fake_checkpoint_get(&fake_checkpoint.reload_waits), 0);
    tell(bed, NULL, "nobody", "{\"repeat\":{}}", 3);
    tell(bed, NULL, "deaf", "{\"repeat\":{}}", 3);
    drain(bed);
    assert_int_equal(fake_checkpoint_get(&fake_checkpoint.reload_waits), 2);
    struct source *internal = bed->worker.sources[0];
    assert_int_equal(pipeline_bed_count(&internal->changes[internal->filling], STORAGE_DEAD_LETTERS), 2);
    pipeline_bed_free(bed);
}

#define HELD \
    "{\"key\":\"k\",\"trigger\":\"t\",\"action\":\"EMIT\",\"body\":{\"event_source\":\"out\",\"event\":{}}}"

/* An intent is opened behind the writes, once, by one shard. */
static void test_held(void **state)
{
    (void)state;
    for (int immediate = 0; immediate < 2; immediate++) {
        struct pipeline_bed *bed = bed_new(3);
        struct error err;
        pipeline_bed_trigger(bed, "t", TASK("PASS", WAITS("a"), ON("a")));
        if (immediate) { /* all shards get it; there is no room, so that it waits in the cut */
            bed->config.action_start = CONFIG_ACTION_IMMEDIATE;
            bed->config.max_pending_actions = 0;
        }
        start(bed);
        tell(bed, SUCCESS, "a", "{\"task\":\"a\",\"started\":1}", 1);
        assert_int_equal(internal_hold(bed->worker.internal, HELD, strlen(HELD), 1, &err), 0);
        drain(bed);
        epoch(bed, 1);
        unsigned n = 0;
        for (unsigned i = 0; i < 3; i++) {
            struct shard_cut *cut = cut_of(bed, i, 1);
            for (struct intent *intent = cut->intents; intent; intent = intent->next, n++) {
                assert_string_equal(intent->text, HELD);
                assert_string_equal(intent->key, "k");
                assert_false(intent->replayed);
                pipeline_bed_assert_value(
                    &cut->changes,
                    pipeline_bed_change(&cut->changes, STORAGE_OUTBOX, STORAGE_PUT, intent->field), HELD);
            }
            intent_free_list(cut->intents);
            cut->intents = NULL;
            cut->intents_end = &cut->intents;
        }
        assert_int_equal(n, 1);
        assert_int_equal(fake_checkpoint_get(&fake_checkpoint.intents), 1);
        assert_written(bed, 1, "t", "\"a\":{\"join\":1,\"counter\":0}");
        pipeline_bed_free(bed);
    }
}

/* What an epoch stores of those that are under way is what a successor delivers. */
static void test_stored(void **state)
{
    (void)state;
    struct pipeline_bed *bed = bed_new(1);
    struct error err;
    struct changes changes = {0};
    tell(bed, SUCCESS, "a", "{\"task\":\"a\",\"started\":1}", 1);
    tell(bed, NULL, "t", "{\"repeat\":{}}", 1);
    assert_int_equal(internal_hold(bed->worker.internal, HELD, strlen(HELD), 1, &err), 0);
    internal_collect(bed->worker.internal, 1, &changes);
    assert_int_equal(changes.n, 3);
    struct pipeline_bed *successor = bed_new(2);
    pipeline_bed_trigger(successor, "t", TASK("DAG_DUMMY_TASK", WAITS("a"), ON("a")));
    pipeline_bed_trigger(successor, "u", TASK("PASS", WAITS("t"), ON("t")));
    for (size_t i = 0; i < 3; i++) {
        const struct change *c = &changes.items[i];
        assert_int_equal(internal_restore(successor->worker.internal, i + 1, changes.text.data + c->value,
                                          c->value_len, &err),
                         0);
    }
    start(successor);
    drain(successor);
    epoch(successor, 1);
    assert_int_equal(fired(successor, 1), 1);
    assert_written(successor, 1, "t", "\"a\":{\"join\":1,\"counter\":0}");
    unsigned n = 0;
    for (unsigned i = 0; i < 2; i++)
        n += cut_of(successor, i, 1)->intents != NULL;
    assert_int_equal(n, 1);
    changes_done(&changes);
    pipeline_bed_free(successor);
    pipeline_bed_free(bed);
}

static void test_restore_refused(void **state)
{
    (void)state;
    static const char *const documents[] = {
        "[]",     "[\"write\"]",        "[\"write\",7]",         "[\"other\",{}]",
        "[7,{}]", "[\"intent\",\"x\"]", "[\"write\",{\"id\":7}]"};
    struct pipeline_bed *bed = bed_new(1);
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        struct error err;
        assert_int_equal(internal_restore(bed->worker.internal, 1, documents[i], strlen(documents[i]), &err),
                         -1);
        assert_int_equal(err.code, ERROR_INVALID);
    }
    assert_int_equal(internal_pending(bed->worker.internal), 0);
    pipeline_bed_free(bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reaches_all),     cmocka_unit_test(test_early), cmocka_unit_test(test_dummies),
        cmocka_unit_test(test_addressed),       cmocka_unit_test(test_held),  cmocka_unit_test(test_stored),
        cmocka_unit_test(test_restore_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
