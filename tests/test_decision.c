/* Decisions: what is written is read, in order and cut to fit; while a writer writes, and whatever else
 * stands in the memory. */
#include "common/decision.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

#define ENTRIES (ARENA_DECISIONS_BYTES / 256)

static int setup(void **state)
{
    struct arena *arena;
    struct error err;
    int fd;
    assert_int_equal(arena_create(&fd, &err), 0);
    assert_int_equal(arena_map(fd, &arena, &err), 0);
    close(fd);
    *state = arena;
    return 0;
}

static int teardown(void **state)
{
    arena_unmap(*state);
    return 0;
}

static struct cloudevent event_of(const char *id, const char *source, const char *type, const char *subject)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_ID] = (struct cloudevent_span){id, (uint32_t)strlen(id)};
    event.attribute[CE_SOURCE] = (struct cloudevent_span){source, (uint32_t)strlen(source)};
    event.attribute[CE_TYPE] = (struct cloudevent_span){type, (uint32_t)strlen(type)};
    if (subject)
        event.attribute[CE_SUBJECT] = (struct cloudevent_span){subject, (uint32_t)strlen(subject)};
    return event;
}

static void put(struct decision_log *log, uint64_t sequence, const char *trigger,
                const struct cloudevent *event, unsigned flags)
{
    struct decision_facts facts = {.sequence = sequence,
                                   .time_unix_ns = 1600000000ull * 1000000000ull,
                                   .trigger = trigger,
                                   .trigger_len = strlen(trigger),
                                   .event = event,
                                   .flags = flags,
                                   .kind = DECISION_JOIN,
                                   .operands = {(int64_t)sequence, 10}};
    decision_write(log, &facts);
}

static void test_read(void **state)
{
    struct arena *arena = *state;
    struct decision d[8];
    struct decision_log a = {.entries = arena_decisions(arena, 0)};
    struct decision_log b = {.entries = arena_decisions(arena, 7)};
    struct cloudevent event = event_of("id", "urn:s", "t", "j");
    assert_int_equal(decision_read(arena, NULL, 0, d, 8), 0);
    put(&a, 5, "x", &event, DECISION_HOLDS | DECISION_FIRED);
    put(&b, 3, "y", &event, 0);
    put(&b, 9, "x", &event, DECISION_HOLDS);
    put(&a, 7, "y", &event, 0);
    assert_int_equal(decision_read(arena, NULL, 0, d, 8), 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(d[i].sequence, 3 + 2 * i);
    assert_int_equal(decision_read(arena, NULL, 3, d, 2), 2);
    assert_int_equal(d[0].sequence, 5);
    assert_int_equal(d[1].sequence, 7);
    assert_int_equal(decision_read(arena, NULL, 0, d, 0), 0);
    assert_int_equal(decision_read(arena, "x", 0, d, 8), 2);
    assert_true(d[0].fired && d[0].holds && !d[1].fired && d[1].holds);
    assert_int_equal(decision_read(arena, "z", 0, d, 8), 0);
    BUFFER_AUTO out = BUFFER_INIT;
    decision_write_json(&d[0], &out);
    assert_string_equal(
        buffer_text(&out),
        "{\"sequence\":5,\"time\":\"2020-09-13T12:26:40.000000Z\",\"trigger\":\"x\",\"event\":{\"id\":\"id\","
        "\"source\":\"urn:s\",\"type\":\"t\",\"subject\":\"j\"},\"holds\":true,\"fired\":true,"
        "\"detail\":\"counter 5 of join 10\"}");
}

/* The newest are kept; long texts are cut between characters, and triggers told apart by their whole ids. */
static void test_limits(void **state)
{
    struct arena *arena = *state;
    static struct decision d[ENTRIES * 2];
    char longest[400] = "", other[400] = "";
    struct decision_log log = {.entries = arena_decisions(arena, 1)};
    for (unsigned i = 0; i < 100; i++)
        strcat(longest, "\xe2\x82\xac");
    strcat(strcat(other, longest), "x");
    struct cloudevent event = event_of(longest, longest, longest, longest);
    for (uint64_t i = 1; i <= ENTRIES * 2 + 3; i++)
        put(&log, i, longest, &event, 0);
    assert_int_equal(decision_read(arena, NULL, 0, d, ENTRIES * 2), ENTRIES);
    assert_int_equal(d[0].sequence, ENTRIES + 4);
    assert_true(strlen(d[0].trigger) % 3 == 0 && strlen(d[0].trigger) > 20);
    assert_true(utf8_valid(d[0].subject, strlen(d[0].subject)));
    put(&log, 5000, other, &event, 0);
    assert_int_equal(decision_read(arena, other, 0, d, ENTRIES), 1);
    assert_int_equal(decision_read(arena, longest, 0, d, ENTRIES), ENTRIES - 1);
}

static void test_details(void **state)
{
    char out[DECISION_DETAIL_MAX];
    (void)state;
    assert_string_equal(decision_detail(DECISION_JOIN, (int64_t[]){5, 10}, out), "counter 5 of join 10");
    assert_string_equal(decision_detail(DECISION_TOTAL, (int64_t[]){5, -1}, out),
                        "counter 5, total_activations not known yet");
    assert_string_equal(decision_detail(DECISION_THRESHOLD, (int64_t[]){5, 4}, out),
                        "counter 5 of threshold 4");
    assert_string_equal(decision_detail(DECISION_GONE, (int64_t[]){0, 0}, out),
                        "not evaluated: already fired");
    assert_string_equal(decision_detail(DECISION_REPEAT, (int64_t[]){0, 0}, out),
                        "not evaluated: repeated key");
    assert_string_equal(decision_detail(DECISION_PLAIN, (int64_t[]){0, 0}, out), "");
    assert_string_equal(decision_detail((enum decision_kind)99, (int64_t[]){0, 0}, out), "");
}

/* Anything may stand in the memory of a broken worker. */
static void test_hostile(void **state)
{
    struct arena *arena = *state;
    static struct decision d[ENTRIES];
    unsigned seed = 7;
    for (unsigned round = 0; round < 50; round++) {
        unsigned char *memory = arena_decisions(arena, round % ARENA_MAX_SHARDS);
        for (size_t i = 0; i < ARENA_DECISIONS_BYTES; i++)
            memory[i] = round % 3 ? (unsigned char)rand_r(&seed) : round % 2 ? 0xff : 0xfe;
        size_t n = decision_read(arena, NULL, 0, d, ENTRIES);
        for (size_t i = 0; i < n; i++) {
            struct json_value value;
            BUFFER_AUTO out = BUFFER_INIT;
            decision_write_json(&d[i], &out);
            assert_int_equal(json_scan(out.data, out.len, &value, NULL), 0);
        }
    }
}

#define WRITTEN 200000

static void *write_many(void *data)
{
    struct decision_log log = {.entries = arena_decisions(data, 2)};
    char id[24];
    for (uint64_t i = 1; i <= WRITTEN; i++) {
        int len = snprintf(id, sizeof id, "%llu", (unsigned long long)i);
        struct cloudevent event = event_of(id, "s", "t", NULL);
        (void)len;
        put(&log, i, id, &event, 0);
    }
    return NULL;
}

/* No torn entry is ever seen: all of its members are of one writing. */
static void test_concurrent(void **state)
{
    struct arena *arena = *state;
    static struct decision d[ENTRIES];
    pthread_t writer;
    uint64_t last = 0;
    assert_int_equal(pthread_create(&writer, NULL, write_many, arena), 0);
    while (last < WRITTEN) {
        size_t n = decision_read(arena, NULL, 0, d, ENTRIES);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(strtoull(d[i].trigger, NULL, 10), d[i].sequence);
            assert_string_equal(d[i].trigger, d[i].event_id);
            assert_int_equal(strtoull(d[i].detail + strlen("counter "), NULL, 10), d[i].sequence);
            last = d[i].sequence > last ? d[i].sequence : last;
        }
    }
    pthread_join(writer, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_details, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_concurrent, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
