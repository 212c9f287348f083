/* supervisor/ingest.h: requests over HTTP, and the test in the place of the worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "supervisor/ingest.h"
#include "tests/support/http_client.h"
#include "tests/support/events_bed.h"
#include "tests/support/wait.h"

#define LARGE 1000000

static int setup(void **state)
{
    struct events_bed *bed = events_bed_new();
    events_bed_expect(bed, "w");
    *state = bed;
    return 0;
}

static int setup_open(void **state)
{
    setup(state);
    events_bed_open(*state, "w");
    events_bed_set_state(*state, ARENA_INGEST_OPEN);
    return 0;
}

static int teardown(void **state)
{
    events_bed_close(*state, "w");
    events_bed_free(*state);
    return 0;
}

/* Sends a batch of n events, with that much data each; returns the connection. */
static int publish(struct events_bed *bed, const char *workspace, int n, size_t data)
{
    int fd = http_client_connect(bed->port);
    BUFFER_AUTO body = BUFFER_INIT;
    BUFFER_AUTO head = BUFFER_INIT;
    buffer_append_char(&body, '[');
    for (int i = 0; i < n; i++) {
        buffer_printf(&body,
                      "%s{\"specversion\":\"1.0\",\"id\":\"%d\",\"source\":\"/s\",\"type\":\"t\",\"data\":\"",
                      i ? "," : "", i);
        memset(buffer_reserve(&body, data), 'x', data);
        body.len += data;
        buffer_append_text(&body, "\"}");
    }
    buffer_append_char(&body, ']');
    buffer_printf(&head,
                  "POST /workspace/%s/event HTTP/1.1\r\nHost: x\r\nContent-Type: "
                  "application/cloudevents-batch+json\r\nContent-Length: %zu\r\n\r\n",
                  workspace, body.len);
    http_client_send(fd, head.data, head.len);
    http_client_send(fd, body.data, body.len);
    return fd;
}

/* The answer, which must have this status and hold this text. */
static void expect(int fd, int status, const char *text)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int got = http_client_read(fd, answer, false);
    close(fd);
    if (got != status || !strstr(answer, text))
        fail_msg("not %d with %s: %s", status, text, answer);
}

static struct arena_ingest_record *await_record(struct events_bed *bed)
{
    struct arena_ingest_record *record;
    WAIT((record = events_bed_peek(bed)) != NULL);
    return record;
}

static struct ingest_counts counts(struct events_bed *bed)
{
    struct ingest_counts now;
    ingest_count(bed->ingest, &now);
    return now;
}

static uint64_t refused(struct events_bed *bed, unsigned status)
{
    struct ingest_counts now = counts(bed);
    for (size_t i = 0; now.refused[i].status != 0; i++)
        if (now.refused[i].status == status)
            return now.refused[i].requests;
    return 0;
}

/* ---- In the ring ---- */

static void test_accepted(void **state)
{
    struct events_bed *bed = *state;
    int fd = publish(bed, "w", 3, 0);
    struct arena_ingest_record *record = await_record(bed);
    struct cloudevent event;
    const char *at = (const char *)(record + 1);
    assert_int_equal(record->n_events, 3);
    for (int i = 0; i < 3; i++) {
        cloudevent_unpack(at, &event);
        assert_int_equal(event.attribute[CE_ID].text[0], '0' + i);
        at += cloudevent_packed_size(&event);
    }
    events_bed_answer(bed, record, 202, 2);
    expect(fd, 202, "\r\n\r\n{\"accepted\":3,\"duplicates\":2}");
    expect(publish(bed, "w", 0, 0), 202, "{\"accepted\":0,\"duplicates\":0}");
    assert_int_equal(counts(bed).accepted, 3);
    assert_int_equal(counts(bed).duplicates, 2);
    assert_int_equal(counts(bed).waiting, 0);
}

static void test_answers(void **state)
{
    struct events_bed *bed = *state;
    static const struct {
        uint32_t given;
        int status;
        const char *text;
    } cases[] = {{507, 507, "full"}, {409, 409, "HTTPEventSource"}, {503, 503, "Retry-After: "}, {0, 503, ""},
                 {200, 503, ""},     {UINT32_MAX, 503, ""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = publish(bed, "w", 1, 0);
        events_bed_answer(bed, await_record(bed), cases[i].given, 0);
        expect(fd, cases[i].status, cases[i].text);
    }
    int fd = publish(bed, "w", 1, 0); /* more duplicates than events */
    events_bed_answer(bed, await_record(bed), 202, UINT32_MAX);
    expect(fd, 202, "{\"accepted\":1,\"duplicates\":1}");
    assert_int_equal(refused(bed, 503), 4);
    assert_int_equal(refused(bed, 507), 1);
}

/* Answers come in the order of the ring, to whom they belong. */
static void test_many(void **state)
{
    struct events_bed *bed = *state;
    enum { N = 200 };
    int fds[N];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++)
            fds[i] = publish(bed, "w", 1 + i % 7, 100);
        for (int i = 0; i < N; i++)
            events_bed_answer(bed, await_record(bed), 202, 0);
        for (int i = 0; i < N; i++) {
            char text[32];
            snprintf(text, sizeof text, "{\"accepted\":%d,", 1 + i % 7);
            expect(fds[i], 202, text);
        }
    }
}

static void test_full(void **state)
{
    struct events_bed *bed = *state;
    int fds[16];
    int n = 0;
    for (size_t taken = 0; taken + LARGE + 4096 < ARENA_INGEST_BYTES; taken += LARGE, n++) {
        fds[n] = publish(bed, "w", 1, LARGE);
        WAIT(counts(bed).waiting == (uint64_t)n + 1);
    }
    fds[n] = publish(bed, "w", 1, LARGE);
    expect(fds[n], 429, "Retry-After: 1\r\n");
    assert_int_equal(refused(bed, 429), 1);
    /* Released but not harvested yet, since nobody was told: there is room all the same, and no answer is
     * lost. */
    struct arena_ingest_record *record = await_record(bed);
    atomic_store(&record->answer, 202);
    ring_next(&bed->ring);
    record = await_record(bed);
    atomic_store(&record->answer, 507);
    ring_next(&bed->ring);
    ring_release(&bed->ring);
    fds[n] = publish(bed, "w", 1, LARGE);
    expect(fds[0], 202, "{\"accepted\":1,");
    expect(fds[1], 507, "");
    for (int i = 2; i <= n; i++) {
        events_bed_answer(bed, await_record(bed), 202, 0);
        expect(fds[i], 202, "");
    }
}

static void test_no_space(void **state)
{
    struct events_bed *bed = *state;
    events_bed_set_state(bed, ARENA_INGEST_NO_SPACE);
    int probe = publish(bed, "w", 1, 0);
    struct arena_ingest_record *record = await_record(bed);
    expect(publish(bed, "w", 1, 0), 507, "the storage is full");
    events_bed_set_state(bed, ARENA_INGEST_OPEN);
    events_bed_answer(bed, record, 202, 0);
    expect(probe, 202, "");
}

/* ---- Lives ---- */

static void test_death(void **state)
{
    struct events_bed *bed = *state;
    int fds[3];
    for (int i = 0; i < 3; i++) {
        fds[i] = publish(bed, "w", 1, 0);
        WAIT(counts(bed).waiting == (uint64_t)i + 1);
    }
    struct arena_ingest_record *record = await_record(bed); /* durable, and dead before it tells anyone */
    atomic_store(&record->answer, 202);
    ring_next(&bed->ring);
    ring_release(&bed->ring);
    events_bed_close(bed, "w");
    expect(fds[0], 202, "");
    expect(fds[1], 503, "not known");
    expect(fds[2], 503, "Retry-After");
    int waits = publish(bed, "w", 1, 0);
    WAIT(counts(bed).waiting == 1);
    events_bed_open(bed, "w");
    assert_null(events_bed_peek(bed));
    events_bed_set_state(bed, ARENA_INGEST_OPEN);
    events_bed_answer(bed, await_record(bed), 202, 0);
    expect(waits, 202, "");
}

/* Tails that cannot be end the life's channel, not the supervisor. */
static void test_nonsense(void **state)
{
    struct events_bed *bed = *state;
    static const uint64_t tails[] = {UINT64_MAX, 1u << 30, ARENA_INGEST_BYTES};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        int fd = publish(bed, "w", 1, 0);
        await_record(bed);
        atomic_store(&arena_ingest_ring(bed->arena)->tail, tails[i]);
        events_bed_set_state(bed, ARENA_INGEST_OPEN);
        expect(fd, 503, "");
        int next = publish(bed, "w", 1, 0); /* waits for the next life */
        WAIT(counts(bed).waiting == 1);
        events_bed_open(bed, "w");
        events_bed_set_state(bed, ARENA_INGEST_OPEN);
        events_bed_answer(bed, await_record(bed), 202, 0);
        expect(next, 202, "");
    }
}

/* A tail within a record releases nothing. */
static void test_half_released(void **state)
{
    struct events_bed *bed = *state;
    int fd = publish(bed, "w", 1, 1000);
    struct arena_ingest_record *record = await_record(bed);
    atomic_store(&arena_ingest_ring(bed->arena)->tail, 64);
    events_bed_set_state(bed, ARENA_INGEST_OPEN);
    assert_int_equal(counts(bed).waiting, 1);
    events_bed_answer(bed, record, 202, 0);
    expect(fd, 202, "");
}

/* ---- Waiting for a life ---- */

static void test_waits(void **state)
{
    struct events_bed *bed = *state;
    int first = publish(bed, "w", 1, 10), empty = publish(bed, "w", 0, 0);
    WAIT(counts(bed).waiting == 2);
    events_bed_open(bed, "w");
    int second = publish(bed, "w", 2, 10);
    WAIT(counts(bed).waiting == 3);
    ingest_settle(bed->ingest, "w", true);
    events_bed_set_state(bed, ARENA_INGEST_OPEN);
    events_bed_answer(bed, await_record(bed), 202, 0);
    events_bed_answer(bed, await_record(bed), 202, 1);
    expect(first, 202, "{\"accepted\":1,\"duplicates\":0}");
    expect(empty, 202, "{\"accepted\":0,");
    expect(second, 202, "{\"accepted\":2,\"duplicates\":1}");
}

static void test_no_source(void **state)
{
    struct events_bed *bed = *state;
    int fd = publish(bed, "w", 1, 0);
    WAIT(counts(bed).waiting == 1);
    events_bed_open(bed, "w");
    ingest_settle(bed->ingest, "w", false); /* after a moment of grace, both: */
    int second = publish(bed, "w", 1, 0);
    expect(fd, 409, "HTTPEventSource");
    expect(second, 409, "");
    fd = publish(bed, "w", 1, 0);
    WAIT(counts(bed).waiting == 1);
    events_bed_set_state(bed, ARENA_INGEST_OPEN); /* one was added just now */
    events_bed_answer(bed, await_record(bed), 202, 0);
    expect(fd, 202, "");
}

static void test_fails(void **state)
{
    struct events_bed *bed = *state;
    int fd = publish(bed, "w", 1, 0);
    WAIT(counts(bed).waiting == 1);
    ingest_fail(bed->ingest, "w", 404, "Workspace w not found");
    expect(fd, 404, "Workspace w not found");
    ingest_fail(bed->ingest, "w", 404, "nobody waits");
    fd = publish(bed, "w", 1, 0);
    WAIT(counts(bed).waiting == 1);
    ingest_abort(bed->ingest);
    expect(fd, 503, "stopping");
    expect(publish(bed, "w", 1, 0), 503, "");
}

static void test_waiting_is_bounded(void **state)
{
    struct events_bed *bed = *state;
    int fds[INGEST_WAITING_BYTES / LARGE + 1];
    size_t n = sizeof fds / sizeof fds[0];
    for (size_t i = 0; i + 1 < n; i++) {
        fds[i] = publish(bed, "w", 1, LARGE);
        WAIT(counts(bed).waiting == i + 1);
    }
    expect(publish(bed, "w", 1, LARGE), 429, "Retry-After");
    ingest_fail(bed->ingest, "w", 503, "no");
    for (size_t i = 0; i + 1 < n; i++)
        expect(fds[i], 503, "no");
}

static void test_refusals(void **state)
{
    struct events_bed *bed = *state;
    expect(publish(bed, "a%20b", 1, 0), 404, "");
    expect(publish(bed, "w", 2, 1100000), 413, "2097152 bytes");
    expect(publish(bed, "w", 1, (1 << 20) + 1), 413, "\"index\":0");
    int fd = http_client_connect(bed->port);
    http_client_send_text(fd, "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\nContent-Type: "
                              "application/cloudevents-batch+json\r\nContent-Length: 4\r\n\r\n[{}]");
    expect(fd, 400, "\"index\":0}");
    assert_int_equal(refused(bed, 400), 1);
    assert_int_equal(refused(bed, 413), 1);
}

int main(void)
{
#define TEST(f, with) cmocka_unit_test_setup_teardown(f, with, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_accepted, setup_open), TEST(test_answers, setup_open),
        TEST(test_many, setup_open),     TEST(test_full, setup_open),
        TEST(test_no_space, setup_open), TEST(test_death, setup_open),
        TEST(test_nonsense, setup_open), TEST(test_half_released, setup_open),
        TEST(test_waits, setup),         TEST(test_no_source, setup),
        TEST(test_fails, setup),         TEST(test_waiting_is_bounded, setup),
        TEST(test_refusals, setup_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
