/* The internal queue: which events a checkpoint has to store and to remove, whatever the order of emissions,
 * writing and barriers; and putting them back. The interplay with shards under load is in test_shard.c. */
#include "worker/source/internal.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "tests/support/fake_checkpoint.h"
#include "tests/support/pipeline_bed.h"
#include "worker/shard/shard.h"
#include "worker/source/source.h"

#define DEADLINE_NS (120 * CLOCK_S)
#define EVENT "{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"urn:test\",\"type\":\"e\"}"

static int setup(void **state)
{
    fake_checkpoint_reset();
    *state = pipeline_bed_new(1);
    return 0;
}

static int teardown(void **state)
{
    pipeline_bed_free(*state);
    return 0;
}

static struct source *source_of(struct pipeline_bed *bed)
{
    return bed->worker.sources[0];
}

static void emit(struct pipeline_bed *bed, const char *id, uint64_t epoch)
{
    char json[200];
    struct cloudevent event;
    struct error err;
    BUFFER_AUTO scratch = BUFFER_INIT;
    snprintf(json, sizeof json, EVENT, id);
    assert_int_equal(cloudevent_parse(&event, json, strlen(json), &scratch, &err), 0);
    assert_int_equal(internal_emit(bed->worker.internal, &event, epoch, &err), 0);
}

/* What a collection has to say, such as "+1 +3 -2". */
static void assert_collected(struct pipeline_bed *bed, uint64_t epoch, const char *expected)
{
    struct changes changes = {0};
    BUFFER_AUTO text = BUFFER_INIT;
    internal_collect(bed->worker.internal, epoch, &changes);
    assert_false(changes.text.failed);
    for (size_t i = 0; i < changes.n; i++) {
        const struct change *c = &changes.items[i];
        unsigned long long number;
        char key[24] = "";
        assert_int_equal(c->set, STORAGE_INTERNAL);
        assert_int_equal(c->key_len, 20);
        assert_true(c->kind == STORAGE_PUT || c->kind == STORAGE_DELETE);
        memcpy(key, changes.text.data + c->key, 20);
        assert_int_equal(sscanf(key, "%20llu", &number), 1);
        buffer_printf(&text, "%s%c%llu", i ? " " : "", c->kind == STORAGE_PUT ? '+' : '-', number);
    }
    assert_string_equal(buffer_text(&text), expected);
    changes_done(&changes);
}

/* As the checkpoint places a barrier: the position that goes with it. */
static void assert_position(struct pipeline_bed *bed, const char *expected)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct source *s = source_of(bed);
    pthread_mutex_lock(&s->emit);
    s->type->position(s, &text);
    pthread_mutex_unlock(&s->emit);
    assert_string_equal(buffer_text(&text), expected);
}

static void start(struct pipeline_bed *bed)
{
    struct error err;
    pipeline_bed_trigger(bed, "t",
                         "\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"context\":{},"
                         "\"activation_events\":[{\"type\":\"e\"}]");
    pipeline_bed_route(bed);
    pipeline_bed_start_shards(bed, 1);
    assert_int_equal(source_start(source_of(bed), &err), 0);
}

static void wait_written(struct pipeline_bed *bed, uint64_t n)
{
    uint64_t until = clock_now_ns() + DEADLINE_NS;
    while (arena_get(&bed->worker.arena->shard[0].events) < n) {
        assert_true(clock_now_ns() < until);
        sched_yield();
    }
}

/* Shards cut one after the other: their emissions of two epochs lie mixed in the queue. */
static void test_epochs_mixed(void **state)
{
    struct pipeline_bed *bed = *state;
    assert_collected(bed, 1, "");
    emit(bed, "a", 1);
    emit(bed, "b", 2);
    emit(bed, "c", 1);
    emit(bed, "d", 2);
    assert_position(bed, "");
    assert_collected(bed, 1, "+1 +3");
    emit(bed, "e", 2);
    emit(bed, "f", 3);
    assert_collected(bed, 2, "+2 +4 +5");
    assert_collected(bed, 3, "+6");
    assert_collected(bed, 4, "");
    assert_int_equal(internal_pending(bed->worker.internal), 6);
    emit(bed, "g", 4);
    assert_collected(bed, 4, "+7");
}

static void test_written_before_barrier(void **state)
{
    struct pipeline_bed *bed = *state;
    emit(bed, "a", 1);
    emit(bed, "b", 1);
    assert_position(bed, "");
    assert_collected(bed, 1, "+1 +2");
    emit(bed, "c", 2);
    start(bed);
    wait_written(bed, 3);
    assert_int_equal(internal_pending(bed->worker.internal), 3); /* until a checkpoint has passed them */
    assert_position(bed, "3");
    assert_collected(bed, 2, "-1 -2"); /* the third came and went within the epoch */
    assert_int_equal(internal_pending(bed->worker.internal), 0);
    assert_collected(bed, 2, "");
    emit(bed, "d", 3);
    wait_written(bed, 4);
    assert_collected(bed, 3, "+4"); /* written, but behind the barrier */
    assert_int_equal(internal_pending(bed->worker.internal), 1);
    assert_position(bed, "4");
    assert_collected(bed, 4, "-4");
    assert_int_equal(internal_pending(bed->worker.internal), 0);
}

/* Emitted behind a shard's cut, so of the next epoch, and already written when the cut before is collected.
 */
static void test_written_behind_cut(void **state)
{
    struct pipeline_bed *bed = *state;
    start(bed);
    emit(bed, "a", 1);
    wait_written(bed, 1);
    assert_position(bed, "1");
    emit(bed, "b", 2);
    emit(bed, "c", 1);
    wait_written(bed, 3);
    assert_collected(bed, 1, "+3");
    assert_position(bed, "3");
    assert_collected(bed, 2, "-3");
    assert_int_equal(internal_pending(bed->worker.internal), 0);
}

static void test_stored_event(void **state)
{
    struct pipeline_bed *bed = *state;
    static const char json[] = "{\"specversion\":\"1.0\",\"id\":\"i\",\"source\":\"urn:test\",\"type\":\"e\","
                               "\"subject\":\"s \\u00e9\",\"data\":{\"a\":[1,\"\\n\"]},\"ext\":\"x\"}";
    struct cloudevent event;
    struct error err;
    struct changes changes = {0};
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO expected = BUFFER_INIT;
    assert_int_equal(cloudevent_parse(&event, json, strlen(json), &scratch, &err), 0);
    cloudevent_write(&event, &expected);
    assert_int_equal(internal_emit(bed->worker.internal, &event, 1, &err), 0);
    scratch.len = 0; /* emitting has copied the event */
    memset(scratch.data, 'x', scratch.cap);
    internal_collect(bed->worker.internal, 1, &changes);
    pipeline_bed_assert_value(
        &changes, pipeline_bed_change(&changes, STORAGE_INTERNAL, STORAGE_PUT, "00000000000000000001"),
        buffer_text(&expected));
    changes_done(&changes);
}

static int restore_position(struct pipeline_bed *bed, const char *json, struct error *err)
{
    struct json_value value;
    assert_int_equal(json_scan(json, strlen(json), &value, NULL), 0);
    return source_of(bed)->type->restore(source_of(bed), &value, err);
}

static void restore_event(struct pipeline_bed *bed, uint64_t number, const char *id)
{
    char json[200];
    struct error err;
    int len = snprintf(json, sizeof json, EVENT, id);
    assert_int_equal(internal_restore(bed->worker.internal, number, json, (size_t)len, &err), 0);
}

/* Restored events keep their numbers and are not stored again; new ones come behind them. */
static void test_restore(void **state)
{
    struct pipeline_bed *bed = *state;
    struct error err;
    assert_int_equal(restore_position(bed, "4", &err), 0);
    restore_event(bed, 5, "a");
    restore_event(bed, 7, "b");
    assert_int_equal(internal_pending(bed->worker.internal), 2);
    emit(bed, "c", 10);
    assert_position(bed, "4");
    assert_collected(bed, 10, "+8");
    start(bed);
    wait_written(bed, 3);
    assert_collected(bed, 11, "");
    assert_position(bed, "8");
    assert_collected(bed, 12, "-5 -7 -8");
    assert_int_equal(internal_pending(bed->worker.internal), 0);
}

/* Nothing is pending: numbers go on behind the position all the same. */
static void test_restore_position_only(void **state)
{
    struct pipeline_bed *bed = *state;
    struct error err;
    assert_int_equal(restore_position(bed, "41", &err), 0);
    assert_position(bed, "41");
    emit(bed, "a", 1);
    assert_collected(bed, 1, "+42");
}

static void test_restore_refused(void **state)
{
    struct pipeline_bed *bed = *state;
    struct error err;
    assert_int_equal(restore_position(bed, "-1", &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_int_equal(restore_position(bed, "1.5", &err), -1);
    assert_int_equal(internal_restore(bed->worker.internal, 1, "{", 1, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_int_equal(internal_pending(bed->worker.internal), 0);
    assert_collected(bed, 1, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_epochs_mixed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_written_before_barrier, setup, teardown),
        cmocka_unit_test_setup_teardown(test_written_behind_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stored_event, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restore, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restore_position_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restore_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
