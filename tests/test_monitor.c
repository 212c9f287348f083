/* Status messages, samples of an arena, the watchdog, and the status JSON made of them. */
#include "supervisor/monitor.h"

#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "supervisor/status.h"

static int parse(const char *packet, struct monitor_frame *frame)
{
    struct error err;
    return monitor_parse(packet, strlen(packet), frame, &err);
}

static void test_frames(void **state)
{
    (void)state;
    struct monitor_frame frame;
    assert_int_equal(parse("{\"message\":\"ready\",\"generation\":7,\"pid\":3}", &frame), 0);
    assert_int_equal(frame.kind, MONITOR_READY);
    assert_int_equal(frame.generation, 7);
    assert_int_equal(parse("{\"message\":\"status\",\"generation\":4294967295,\"status\":{\"a\":1}}", &frame),
                     0);
    assert_int_equal(frame.kind, MONITOR_STATUS);
    assert_int_equal(frame.generation, UINT32_MAX);
    assert_memory_equal(frame.status.text, "{\"a\":1}", frame.status.len);
    assert_int_equal(
        parse("{\"message\":\"finished\",\"generation\":1,\"trigger\":\"t\\u00e9\",\"time\":\"now\"}",
              &frame),
        0);
    assert_string_equal(frame.trigger, "t\xc3\xa9");
    assert_string_equal(frame.time, "now");
    assert_int_equal(parse("{\"message\":\"failed\",\"generation\":1,\"reason\":\"fenced\"}", &frame), 0);
    assert_string_equal(frame.reason, "fenced");
    assert_string_equal(frame.error, "");
    assert_int_equal(parse("{\"message\":\"answer\",\"generation\":1,\"id\":9,\"count\":3}", &frame), 0);
    assert_int_equal(frame.id, 9);
    assert_int_equal(frame.count, 3);
    assert_int_equal(frame.refusal, 0);
    assert_int_equal(
        parse("{\"message\":\"answer\",\"generation\":1,\"id\":9,\"status\":404,\"error\":\"no t\"}", &frame),
        0);
    assert_int_equal(frame.refusal, 404);
    assert_string_equal(frame.error, "no t");
    assert_int_equal(parse("{\"message\":\"later\",\"generation\":1}", &frame), 1);
}

static void test_bad_frames(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "7",
        "[]",
        "{}",
        "{\"message\":\"ready\"}",
        "{\"message\":\"ready\",\"generation\":-1}",
        "{\"message\":\"ready\",\"generation\":4294967296}",
        "{\"message\":\"ready\",\"generation\":1.5}",
        "{\"message\":\"ready\",\"generation\":\"1\"}",
        "{\"message\":null,\"generation\":1}",
        "{\"generation\":1}",
        "{\"message\":\"status\",\"generation\":1}",
        "{\"message\":\"status\",\"generation\":1,\"status\":[]}",
        "{\"message\":\"failed\",\"generation\":1,\"reason\":{}}",
        "{\"message\":\"answer\",\"generation\":1,\"count\":3}",
        "{\"message\":\"answer\",\"generation\":1,\"id\":3}",
        "{\"message\":\"answer\",\"generation\":1,\"id\":3,\"count\":-1}",
        "{\"message\":\"answer\",\"generation\":1,\"id\":3,\"status\":200}",
        "{\"message\":\"ready\",\"generation\":1,\"x\":\"\xff\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct monitor_frame frame;
        struct error err = {0};
        if (monitor_parse(bad[i], strlen(bad[i]), &frame, &err) != -1 || err.code != ERROR_INVALID)
            fail_msg("accepted: %s", bad[i]);
    }
}

static void test_copied_text(void **state)
{
    (void)state;
    char to[8];
    monitor_copy_text(to, sizeof to, "short", 5);
    assert_string_equal(to, "short");
    monitor_copy_text(to, sizeof to, "123456\xc3\xa9", 8); /* cut before the character, not in it */
    assert_string_equal(to, "123456");
    monitor_copy_text(to, sizeof to, "12345\xc3\xa9", 7);
    assert_string_equal(to, "12345\xc3\xa9");
    monitor_copy_text(to, sizeof to, "ab\0cd", 5);
    assert_string_equal(to, "ab");
    monitor_copy_text(to, sizeof to, "a\xff\xfe", 3);
    assert_string_equal(to, "a??");
    monitor_copy_text(to, sizeof to, "\x80\x80\x80\x80\x80\x80\x80\x80\x80", 9);
    assert_string_equal(to, "");
    monitor_copy_text(to, sizeof to, NULL, 0);
    assert_string_equal(to, "");
}

static struct arena *arena_new(void)
{
    struct arena *arena = aligned_alloc(64, sizeof *arena);
    assert_non_null(arena);
    memset(arena, 0, sizeof *arena);
    return arena;
}

static void set_source(struct arena *arena, unsigned i, const char *name, uint64_t read, uint64_t lag)
{
    memcpy(arena->source[i].name, name, strlen(name) + 1);
    atomic_store(&arena->source[i].read, read);
    atomic_store(&arena->source[i].lag, lag);
    atomic_store(&arena->source[i].state, ARENA_SOURCE_READING);
    atomic_store(&arena->source[i].used, 1);
}

static void test_sample(void **state)
{
    (void)state;
    struct arena *arena = arena_new();
    struct monitor_sample sample;
    set_source(arena, 0, "internal", 10, 0);
    set_source(arena, 5, "kafka", 90, 7);
    atomic_store(&arena->shard[0].fired, 2);
    atomic_store(&arena->shard[7].fired, 3);
    atomic_store(&arena->worker.in_flight, 4);
    atomic_store(&arena->worker.executor_pending, 6);
    monitor_sample(arena, 123, &sample);
    assert_int_equal(sample.at_ns, 123);
    assert_int_equal(sample.read, 100);
    assert_int_equal(sample.lag, 7);
    assert_int_equal(sample.fired, 5);
    assert_int_equal(sample.in_flight, 4);
    assert_int_equal(sample.pending, 6);
    assert_int_equal(sample.n_sources, 2);
    assert_string_equal(sample.source[1].name, "kafka");
    assert_string_equal(monitor_source_state_name(sample.source[1].state), "reading");
    assert_string_equal(monitor_source_state_name(UINT_MAX), "unknown");
    free(arena);
}

static void test_rate(void **state)
{
    (void)state;
    struct monitor_sample now = {.at_ns = 3 * CLOCK_S, .read = 500};
    assert_true(monitor_rate(100, CLOCK_S, &now) == 200.0);
    assert_true(monitor_rate(0, 0, &now) == 0.0);           /* no sample before */
    assert_true(monitor_rate(600, CLOCK_S, &now) == 0.0);   /* counted backwards */
    assert_true(monitor_rate(0, 3 * CLOCK_S, &now) == 0.0); /* no time between */
}

static void test_watchdog(void **state)
{
    (void)state;
    const int64_t limit = 30 * (int64_t)CLOCK_S;
    struct arena *arena = arena_new();
    struct arena_thread *thread = &arena->thread[ARENA_THREADS - 1];
    uint64_t now = 1000 * CLOCK_S;
    assert_int_equal(monitor_stalled(arena, now, limit, 0), -1);
    atomic_store(&thread->beat_ns, now - (uint64_t)limit);
    assert_int_equal(monitor_stalled(arena, now, limit, 0), -1); /* idle */
    atomic_store(&thread->busy, 1);
    assert_int_equal(monitor_stalled(arena, now, limit, 0), ARENA_THREADS - 1);
    assert_int_equal(monitor_stalled(arena, now - 1, limit, 0), -1);
    assert_int_equal(monitor_stalled(arena, now, limit, now - CLOCK_S), -1); /* just started */
    assert_int_equal(monitor_stalled(arena, now, 0, 0), -1);                 /* switched off */
    atomic_store(&thread->beat_ns, UINT64_MAX);
    assert_int_equal(monitor_stalled(arena, now, limit, 0), -1);
    atomic_store(&thread->beat_ns, 0); /* never beat: counts from the start */
    assert_int_equal(monitor_stalled(arena, now, limit, now - (uint64_t)limit), ARENA_THREADS - 1);
    free(arena);
}

static struct status_view view_of(const struct monitor_sample *sample)
{
    return (struct status_view){.name = "ws",
                                .state = "running",
                                .reason = "",
                                .exit_reason = "",
                                .exit_error = "",
                                .finished_trigger = "",
                                .finished_time = "",
                                .sample = sample};
}

/* The status as validated JSON, until the next call. */
static const struct json_value *written(const struct status_view *view, bool full)
{
    static struct buffer out = BUFFER_INIT;
    static struct json_value root;
    const struct status_time time = {.now_ns = 10 * CLOCK_S, .unix_ns = 1700000000 * CLOCK_S};
    buffer_done(&out);
    if (!view)
        return NULL;
    status_write(&out, view, &time, full);
    assert_false(out.failed);
    assert_int_equal(json_scan(out.data, out.len, &root, NULL), 0);
    return &root;
}

/* The n-th element of an array. */
static bool element(const struct json_value *array, unsigned long n, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value name;
    if (array->type != JSON_ARRAY)
        return false;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, ret_value))
        if (n-- == 0)
            return true;
    return false;
}

/* The text of the value at a JSON pointer, until the next call; "absent" without one. */
static const char *text_of(const struct json_value *root, const char *pointer)
{
    static char text[512];
    char copy[128], *rest = copy, *name;
    struct json_value at = *root, next;
    snprintf(copy, sizeof copy, "%s", pointer + 1);
    while ((name = strsep(&rest, "/")) != NULL) {
        if (at.type == JSON_ARRAY ? !element(&at, strtoul(name, NULL, 10), &next)
                                  : at.type != JSON_OBJECT || !json_member(&at, name, &next))
            return "absent";
        at = next;
    }
    BUFFER_AUTO value = BUFFER_INIT;
    if (at.type == JSON_STRING)
        json_unescape(&at, &value);
    else
        buffer_append(&value, at.text, at.len);
    snprintf(text, sizeof text, "%s", buffer_text(&value));
    return text;
}

static void test_status(void **state)
{
    (void)state;
    struct monitor_sample sample = {.at_ns = 1,
                                    .read = 12,
                                    .fired = 3,
                                    .lag = 4,
                                    .epoch = 9,
                                    .commit_unix_ns = 1699999999 * CLOCK_S + 500 * CLOCK_MS,
                                    .n_sources = 1,
                                    .source = {{.name = "a\"b\\c", .state = 77, .read = UINT64_MAX}}};
    const struct arena_poison poison[1] = {
        {.event = {.source = 1, .position = {2, 3}}, .deaths = 3, .signal = SIGBUS}};
    const char worker[] = "{\"state\":\"running\",\"warnings\":[\"w\\\"1\"]}";
    struct status_view view = view_of(&sample);
    view.pid = getpid();
    view.poison = poison;
    view.n_poison = 1;
    view.worker = worker;
    view.worker_len = strlen(worker);
    view.events_per_second = 12.34;
    const struct json_value *object = written(&view, true);
    assert_string_equal(text_of(object, "/name"), "ws");
    assert_string_equal(text_of(object, "/read"), "12");
    assert_string_equal(text_of(object, "/fired"), "3");
    assert_string_equal(text_of(object, "/lag"), "4");
    assert_string_equal(text_of(object, "/epoch"), "9");
    assert_string_equal(text_of(object, "/events_per_second"), "12.3");
    assert_string_equal(text_of(object, "/last_checkpoint/time"), "1699999999.500");
    assert_string_equal(text_of(object, "/last_checkpoint/age"), "0.500");
    assert_string_equal(text_of(object, "/sources/0/name"), "a\"b\\c");
    assert_string_equal(text_of(object, "/sources/0/state"), "unknown");
    assert_string_equal(text_of(object, "/sources/0/read"), "18446744073709551615");
    assert_string_equal(text_of(object, "/poison/0/cause"), "BUS");
    assert_string_equal(text_of(object, "/poison/0/skipped"), "true");
    assert_string_equal(text_of(object, "/worker/state"), "running");
    assert_string_equal(text_of(object, "/problems/0"), "w\"1");
    assert_true(atoll(text_of(object, "/memory/rss")) > 0);

    object = written(&view, false);
    assert_string_equal(text_of(object, "/worker"), "absent");
    assert_string_equal(text_of(object, "/problems/0"), "w\"1");
}

static void test_problems(void **state)
{
    (void)state;
    struct monitor_sample sample = {.dead_letters_full = true, .lost = 5};
    struct status_view view = view_of(&sample);
    const char worker[] =
        "{\"storage\":\"refused \\u00e9\",\"sources\":[{\"name\":\"s\",\"error\":\"e\"},7,{},"
        "{\"name\":\"b\",\"reason\":\"cannot be made\"}],"
        "\"triggers\":{\"broken\":[{\"id\":\"t\",\"reason\":\"r\"},{\"reason\":\"r2\"}]},"
        "\"warnings\":[1,null,\"w\"]}";
    view.state = "restarting";
    view.exit_reason = "error";
    view.exit_error = "bad \xff byte";
    view.exit_unix_ns = CLOCK_S;
    view.restart_at_ns = 12 * CLOCK_S;
    view.worker = worker;
    view.worker_len = strlen(worker);
    const struct json_value *object = written(&view, true);
    static const char *const expected[] = {
        "starts again in 2.0 s after error: bad ? byte",
        "the dead letters are full: sources are paused",
        "5 events were trimmed away before they were read",
        "storage: refused \xc3\xa9",
        "w",
        "source b: cannot be made",
        "source s: e",
        "trigger t: r",
        "trigger: r2",
    };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        char pointer[32];
        snprintf(pointer, sizeof pointer, "/problems/%zu", i);
        assert_string_equal(text_of(object, pointer), expected[i]);
    }
}

static void test_problems_are_bounded(void **state)
{
    (void)state;
    struct monitor_sample sample = {0};
    struct status_view view = view_of(&sample);
    BUFFER_AUTO worker = BUFFER_INIT;
    buffer_append_text(&worker, "{\"warnings\":[\"\"");
    for (int i = 0; i < 1000; i++)
        buffer_append_text(&worker, ",\"again\"");
    buffer_append_text(&worker, "]}");
    view.worker = worker.data;
    view.worker_len = worker.len;
    const struct json_value *object = written(&view, false);
    assert_string_equal(text_of(object, "/problems/19"), "again");
    assert_string_equal(text_of(object, "/problems/20"), "absent");
}

static void test_memory(void **state)
{
    (void)state;
    uint64_t pss, rss;
    assert_int_equal(status_memory(getpid(), true, &pss, &rss), 0);
    assert_true(rss > 0);
    assert_int_equal(status_memory(getpid(), false, &pss, &rss), 0);
    assert_int_equal(pss, 0);
    assert_true(rss > 0);
    assert_int_equal(status_memory(INT_MAX, true, &pss, &rss), -1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_copied_text),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_watchdog),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_problems),
        cmocka_unit_test(test_problems_are_bounded),
        cmocka_unit_test(test_memory),
    };
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    written(NULL, false);
    return result;
}
