/* event_group.h: what is written can be read, and what is damaged is refused. */
#include "worker/source/event_group.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/cloudevent.h"
#include "common/error.h"

static void make_event(struct cloudevent *event, const char *source, const char *id)
{
    cloudevent_clear(event);
    event->attribute[CE_SOURCE] = (struct cloudevent_span){source, (uint32_t)strlen(source)};
    event->attribute[CE_ID] = (struct cloudevent_span){id, (uint32_t)strlen(id)};
    event->attribute[CE_TYPE] = (struct cloudevent_span){"t", 1};
}

static void add(struct event_group *group, const char *source, const char *id)
{
    _Alignas(8) char packed[2048];
    struct cloudevent event;
    make_event(&event, source, id);
    assert_true(cloudevent_packed_size(&event) <= sizeof packed);
    cloudevent_pack(&event, packed);
    struct event_id hash = event_id_of(&event);
    event_group_add(group, packed, cloudevent_packed_size(&event), &hash);
}

/* Three events, the totals before were 10 events and 100 bytes. */
static void make_group(struct event_group *group, bool with_ids, struct event_totals *ret_totals)
{
    struct event_totals before = {10, 100};
    struct error err;
    event_group_reset(group);
    add(group, "s", "a");
    add(group, "s", "b");
    add(group, "s", "c");
    assert_int_equal(event_group_seal(group, with_ids, 1234, &before, ret_totals, &err), 0);
}

static struct event_id id_of(const char *source, const char *id)
{
    struct cloudevent event;
    make_event(&event, source, id);
    return event_id_of(&event);
}

static bool same(struct event_id a, struct event_id b)
{
    return a.low == b.low && a.high == b.high;
}

static void test_ids(void **state)
{
    char text[600];
    (void)state;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_true(same(id_of("s", "a"), id_of("s", "a")));
    assert_false(same(id_of("ab", "c"), id_of("a", "bc")));
    assert_false(same(id_of("s", "a"), id_of("s", "b")));
    /* Around the size where it is hashed piece by piece. */
    for (size_t n = 500; n < sizeof text - 1; n++) {
        char shorter[600];
        memcpy(shorter, text, n);
        shorter[n] = '\0';
        assert_true(same(id_of(shorter, "a"), id_of(shorter, "a")));
        assert_false(same(id_of(shorter, "a"), id_of(shorter, "b")));
    }
}

static void test_round_trip(void **state)
{
    static const char *const expected[] = {"a", "b", "c"};
    struct event_group group = {.n = 0};
    struct event_totals totals;
    struct event_group_reader reader;
    struct event_ids ids;
    struct cloudevent event;
    struct error err;
    (void)state;
    make_group(&group, true, &totals);
    assert_int_equal(totals.events, 13);
    assert_int_equal(totals.bytes, 100 + group.events.len);
    assert_int_equal(event_group_open(group.events.data, group.events.len, &reader, &err), 0);
    assert_int_equal(event_ids_open(group.ids.data, group.ids.len, &ids, &err), 0);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.unix_s, 1234);
    assert_int_equal(ids.totals.events, 13);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(reader.n_left, 3 - i);
        assert_int_equal(event_group_next(&reader, &event, &err), 0);
        assert_memory_equal(event.attribute[CE_ID].text, expected[i], 1);
        assert_true(same(event_ids_at(&ids, i), event_id_of(&event)));
    }
    assert_int_equal(reader.left, 0);
    make_group(&group, false, &totals);
    assert_int_equal(event_ids_open(group.ids.data, group.ids.len, &ids, &err), 0);
    assert_int_equal(ids.n, 0);
    event_group_done(&group);
}

/* Bytes in memory of their own, so that reading beyond them is noticed. */
static void *copy_of(const void *data, size_t len)
{
    char *copy = malloc(len + 1);
    assert_non_null(copy);
    memcpy(copy, data, len);
    return realloc(copy, len ? len : 1);
}

static void test_damage(void **state)
{
    struct event_group group = {.n = 0};
    struct event_totals totals;
    struct event_group_reader reader;
    struct event_ids ids;
    struct error err;
    (void)state;
    make_group(&group, true, &totals);
    for (size_t len = 0; len < group.events.len; len++) {
        char *cut = copy_of(group.events.data, len);
        assert_int_equal(event_group_open(cut, len, &reader, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_int_equal(reader.n_left, 0);
        free(cut);
    }
    for (size_t at = 0; at < group.events.len; at++) {
        char *bad = copy_of(group.events.data, group.events.len);
        struct cloudevent event;
        bad[at] ^= 0x40;
        if (event_group_open(bad, group.events.len, &reader, &err) == 0) { /* the number of events */
            uint32_t n = 0;
            while (reader.n_left && event_group_next(&reader, &event, &err) == 0)
                n++;
            assert_int_equal(n, 3);
        }
        free(bad);
    }
    for (size_t len = 0; len < group.ids.len; len++) {
        char *cut = copy_of(group.ids.data, len);
        assert_int_equal(event_ids_open(cut, len, &ids, &err), -1);
        free(cut);
    }
    event_group_done(&group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
