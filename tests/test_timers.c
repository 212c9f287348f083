/* Timers: order, reloads, and what a due one becomes. The storage is an array. */
#include "worker/checkpoint/timers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/log.h"
#include "tests/support/fake_checkpoint.h"
#include "tests/support/pipeline_bed.h"
#include "worker/checkpoint/injection.h"
#include "worker/source/internal.h"

#define MANY 100000

struct row {
    char id[24];
    char text[200];
};

static struct {
    struct row *rows;
    size_t n;
    size_t fail_after; /* the load fails behind so many rows; 0: it does not */
} stored;

static int load(struct storage *storage, const char *workspace, enum storage_set set, storage_field field,
                void *data, struct error *err)
{
    (void)storage;
    assert_string_equal(workspace, "bed");
    assert_int_equal(set, STORAGE_TIMERS);
    for (size_t i = 0; i < stored.n; i++) {
        const struct row *r = &stored.rows[i];
        if (stored.fail_after && i == stored.fail_after)
            return error_set(err, ERROR_UNAVAILABLE, "gone");
        assert_int_equal(field(data, r->id, strlen(r->id), r->text, strlen(r->text)), 0);
    }
    return 0;
}

static const struct storage_type type = {.load = load};
static struct storage storage = {.type = &type};

static void put(const char *id, uint64_t at, const char *rest)
{
    struct row *r = &stored.rows[stored.n++];
    snprintf(r->id, sizeof r->id, "%s", id);
    snprintf(r->text, sizeof r->text, "{\"at\":%llu,%s}", (unsigned long long)at, rest);
}

struct bed {
    struct pipeline_bed *pipeline;
    struct timers *timers;
    struct changes changes;
    struct injection injection;
};

static int setup(void **state)
{
    struct bed *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->pipeline = pipeline_bed_new(1);
    b->timers = timers_new(&b->pipeline->worker);
    injection_init(&b->injection, &b->pipeline->worker, &b->changes);
    b->injection.epoch = 1;
    stored.rows = calloc(MANY + 10, sizeof *stored.rows);
    stored.n = stored.fail_after = 0;
    assert_non_null(stored.rows);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bed *b = *state;
    timers_free(b->timers);
    timers_free(NULL);
    injection_done(&b->injection);
    changes_done(&b->changes);
    pipeline_bed_free(b->pipeline);
    free(b);
    free(stored.rows);
    return 0;
}

#define EVENT "\"event_source\":{},\"event\":{\"type\":\"t\"}"

static void reload(struct bed *b)
{
    struct error err;
    assert_int_equal(timers_load(b->timers, &storage, &err), 0);
}

static void test_many(void **state)
{
    struct bed *b = *state;
    char id[24];
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(id, sizeof id, "%u", i);
        put(id, 1 + (uint64_t)i * 7919 % MANY, EVENT);
    }
    reload(b);
    assert_int_equal(timers_count(b->timers), MANY);
    size_t fired = 0;
    for (uint64_t now = 1; now <= MANY; now += 1000) {
        assert_int_equal(timers_next(b->timers), now);
        assert_int_equal(timers_fire(b->timers, now - 1, &b->injection), 0);
        fired += timers_fire(b->timers, now + 999, &b->injection);
        assert_int_equal(fired, now + 999);
        reload(b); /* still stored: they are not taken up again */
        assert_int_equal(timers_count(b->timers), MANY - fired);
    }
    assert_int_equal(timers_next(b->timers), UINT64_MAX);
    assert_int_equal(internal_pending(b->pipeline->worker.internal), MANY);
    assert_int_equal(pipeline_bed_count(&b->changes, STORAGE_TIMERS), MANY);
    timers_committed(b->timers);
    stored.n = 0;
    reload(b);
    assert_int_equal(timers_count(b->timers), 0);
}

/* Those of firings are taken up from what a checkpoint has committed. */
static void test_added(void **state)
{
    struct bed *b = *state;
    struct changes committed = {0};
    struct cloudevent event;
    put("old", 500, EVENT);
    reload(b);
    cloudevent_clear(&event);
    event.attribute[CE_TYPE] = (struct cloudevent_span){"t", 1};
    for (unsigned i = 0; i < 1000; i++) {
        char id[24];
        BUFFER_AUTO document = BUFFER_INIT;
        int len = snprintf(id, sizeof id, "added%u", i);
        timer_write(1 + (uint64_t)i * 7919 % 1000, &event, &document);
        changes_put(&committed, STORAGE_TIMERS, id, (size_t)len, document.data, document.len);
    }
    changes_put(&committed, STORAGE_OUTBOX, "x", 1, "{}", 2);
    changes_put(&committed, STORAGE_TIMERS, "old", 3, "{\"at\":2000}", 11);
    changes_delete(&committed, STORAGE_TIMERS, "none", 4);
    timers_add(b->timers, &committed);
    changes_done(&committed);
    assert_int_equal(timers_count(b->timers), 1001);
    for (uint64_t now = 1; now <= 1000; now++) {
        assert_int_equal(timers_next(b->timers), now);
        assert_int_equal(timers_fire(b->timers, now, &b->injection), 1);
    }
    assert_int_equal(timers_next(b->timers), 2000);
    assert_int_equal(internal_pending(b->pipeline->worker.internal), 1000);
}

static void test_reload(void **state)
{
    struct bed *b = *state;
    struct error err;
    put("a", 5, EVENT);
    put("b", 3, EVENT);
    put("a", 5, EVENT); /* a scan may report one twice */
    reload(b);
    assert_int_equal(timers_count(b->timers), 2);
    stored.n = 0;
    put("a", 2, EVENT); /* moved; b is deleted */
    put("c", 9, EVENT);
    stored.fail_after = 1;
    assert_int_equal(timers_load(b->timers, &storage, &err), -1);
    assert_int_equal(timers_count(b->timers), 2); /* nothing is forgotten for what was not read */
    assert_int_equal(timers_next(b->timers), 2);
    stored.fail_after = 0;
    reload(b);
    assert_int_equal(timers_count(b->timers), 2);
    assert_int_equal(timers_fire(b->timers, 8, &b->injection), 1);
    assert_int_equal(timers_next(b->timers), 9);
}

static void test_outcomes(void **state)
{
    struct bed *b = *state;
    put("in", 1, EVENT);
    put("http", 1,
        "\"event_source\":{\"class\":\"HTTPEventSource\"},\"event\":{\"type\":\"t\",\"id\":\"i\"}");
    put("out", 1,
        "\"event_source\":{\"name\":\"x\",\"class\":\"RedisEventSource\",\"parameters\":{}},"
        "\"event\":{\"type\":\"t\"}");
    put("bad", 1, "\"event_source\":{},\"event\":{}");
    put("kafka", 1, "\"event_source\":{\"class\":\"None\"},\"event\":{\"type\":\"t\"}");
    put("none", 1, "\"event_source\":3,\"event\":{\"type\":\"t\"}");
    reload(b);
    assert_int_equal(timers_fire(b->timers, 1, &b->injection), 6);
    assert_int_equal(internal_pending(b->pipeline->worker.internal), 2);
    assert_int_equal(pipeline_bed_count(&b->changes, STORAGE_OUTBOX), 1);
    assert_int_equal(pipeline_bed_count(&b->changes, STORAGE_DEAD_LETTERS), 3);
    assert_int_equal(pipeline_bed_count(&b->changes, STORAGE_TIMERS), 6);
    assert_non_null(pipeline_bed_change(&b->changes, STORAGE_TIMERS, STORAGE_DELETE, "bad"));
    assert_non_null(
        pipeline_bed_change(&b->changes, STORAGE_OUTBOX, STORAGE_PUT, "00000000000000000001-08-00000000"));
    char before[ACTION_KEY_MAX], after[ACTION_KEY_MAX];
    injection_key(&b->injection, "timer", "out", 3, before);
    injection_key(&b->injection, "timer", "in", 2, after);
    assert_string_not_equal(before, after);
    assert_non_null(strstr(b->changes.text.data, before));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_added, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_outcomes, setup, teardown),
    };
    log_setup(LOG_LEVEL_ERROR, false, "test_timers", NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
