/* The status: its exact text, when it counts as changed, and its bounds. */
#include "worker/report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"

struct bed {
    struct arena *arena;
    struct loop *loop;
    struct report *report;
};

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    struct error err;
    int fd;
    assert_non_null(bed);
    assert_int_equal(arena_create(&fd, &err), 0);
    assert_int_equal(arena_map(fd, &bed->arena, &err), 0);
    close(fd);
    assert_non_null(bed->loop = loop_new(&err));
    assert_non_null(bed->report = report_new(bed->arena, bed->loop));
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    report_free(bed->report);
    report_free(NULL);
    loop_free(bed->loop);
    arena_unmap(bed->arena);
    free(bed);
    return 0;
}

static void assert_text(struct bed *bed, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    report_write(bed->report, &out);
    assert_string_equal(buffer_text(&out), expected);
    assert_false(report_changed(bed->report));
}

#define NO_TIMERS ",\"timers\":{\"count\":0,\"next\":null}}"
#define NO_TRIGGERS ",\"triggers\":{\"total\":0,\"broken_total\":0,\"broken\":[]}" NO_TIMERS

static void test_start(void **state)
{
    struct bed *bed = *state;
    assert_text(bed, "{\"state\":\"starting\",\"paused\":false,\"durability\":\"unknown\",\"storage\":\"not "
                     "connected yet\","
                     "\"warnings\":[],\"sources\":[]" NO_TRIGGERS);
}

/* Every change is one, a repetition is none; a change wakes the loop. */
static void test_changes(void **state)
{
    struct bed *bed = *state;
    struct error error;
    report_state(bed->report, ARENA_RUNNING);
    assert_true(report_changed(bed->report));
    assert_int_equal(atomic_load(&bed->arena->worker.state), ARENA_RUNNING);
    struct error err;
    assert_int_equal(loop_run_once(bed->loop, UINT64_MAX, &err), 0); /* does not wait: it was woken */
    report_storage(bed->report, NULL);
    report_durability(bed->report, "always", true);
    assert_text(bed, "{\"state\":\"running\",\"paused\":false,\"durability\":\"always\",\"storage\":\"ok\","
                     "\"warnings\":[],"
                     "\"sources\":[]" NO_TRIGGERS);
    report_state(bed->report, ARENA_RUNNING);
    report_storage(bed->report, NULL);
    report_durability(bed->report, "always", true);
    report_warning(bed->report, "never set", NULL);
    assert_false(report_changed(bed->report));
    error_set(&error, ERROR_UNAVAILABLE, "h:1: \"gone\"");
    report_storage(bed->report, &error);
    assert_true(report_changed(bed->report));
    assert_text(
        bed,
        "{\"state\":\"running\",\"paused\":false,\"durability\":\"always\",\"storage\":\"h:1: \\\"gone\\\"\","
        "\"warnings\":[],\"sources\":[]" NO_TRIGGERS);
    report_storage(bed->report, &error);
    assert_false(report_changed(bed->report));
}

static void test_warnings(void **state)
{
    struct bed *bed = *state;
    report_durability(bed->report, "none", false);
    report_warning(bed->report, "b", "two");
    report_warning(bed->report, "b", "three");
    assert_text(bed, "{\"state\":\"starting\",\"paused\":false,\"durability\":\"none\",\"storage\":\"not "
                     "connected yet\",\"warnings\":["
                     "\"durability=none: the storage keeps nothing through a crash of its own\",\"three\"],"
                     "\"sources\":[]" NO_TRIGGERS);
    report_durability(bed->report, "none", true);
    assert_true(report_changed(bed->report));
    report_warning(bed->report, "c", "four");
    assert_text(bed, "{\"state\":\"starting\",\"paused\":false,\"durability\":\"none\",\"storage\":\"not "
                     "connected yet\",\"warnings\":["
                     "\"four\",\"three\"],\"sources\":[]" NO_TRIGGERS);
    char name[24];
    for (int i = 0; i < 20; i++) { /* more than there is room for */
        snprintf(name, sizeof name, "w%d", i);
        report_warning(bed->report, name, "more");
    }
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "w%d", i);
        report_warning(bed->report, name, NULL);
    }
    report_warning(bed->report, "b", NULL);
    report_warning(bed->report, "c", NULL);
    assert_text(bed, "{\"state\":\"starting\",\"paused\":false,\"durability\":\"none\",\"storage\":\"not "
                     "connected yet\",\"warnings\":[],"
                     "\"sources\":[]" NO_TRIGGERS);
}

#define HEAD                                                                                           \
    "{\"state\":\"starting\",\"paused\":false,\"durability\":\"unknown\",\"storage\":\"not connected " \
    "yet\",\"warnings\":[]"

static void test_sources(void **state)
{
    struct bed *bed = *state;
    report_source(bed->report, 0, "internal", "InternalEventSource", ARENA_SOURCE_READING, NULL);
    report_source(bed->report, 2, "b\"", "RedisEventSource", ARENA_SOURCE_READING, NULL);
    report_source(bed->report, 1, "a", "RedisEventSource", ARENA_SOURCE_UNAVAILABLE, "h:1: \xff refused");
    assert_text(bed,
                HEAD ",\"sources\":[{\"name\":\"a\",\"class\":\"RedisEventSource\",\"state\":\"unavailable\","
                     "\"error\":\"h:1: ? refused\"},{\"name\":\"b\\\"\",\"class\":\"RedisEventSource\","
                     "\"state\":\"reading\"}]" NO_TRIGGERS);
    report_source(bed->report, 1, "a", "RedisEventSource", ARENA_SOURCE_UNAVAILABLE, "h:1: \xff refused");
    assert_false(report_changed(bed->report));
    report_source(bed->report, 1, "a", "RedisEventSource", ARENA_SOURCE_READING, NULL);
    report_source_gone(bed->report, 2);
    report_broken_sources(bed->report, "{\"name\":\"x\"}", 12);
    assert_text(bed,
                HEAD ",\"sources\":[{\"name\":\"a\",\"class\":\"RedisEventSource\",\"state\":\"reading\"},"
                     "{\"name\":\"x\"}]" NO_TRIGGERS);
    report_source_gone(bed->report, 1);
    assert_text(bed, HEAD ",\"sources\":[{\"name\":\"x\"}]" NO_TRIGGERS);
    report_source(bed->report, 1, "new", "RedisEventSource", ARENA_SOURCE_PUBLISH_ONLY,
                  NULL); /* the slot again */
    report_broken_sources(bed->report, "", 0);
    assert_text(bed, HEAD ",\"sources\":[{\"name\":\"new\",\"class\":\"RedisEventSource\","
                          "\"state\":\"publish_only\"}]" NO_TRIGGERS);
}

/* Lines of the log while `work` runs. */
static unsigned logged(struct bed *bed, void (*work)(struct bed *))
{
    char text[16384];
    unsigned lines = 0;
    int sink = memfd_create("log", MFD_CLOEXEC);
    int real = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    assert_true(sink >= 0 && real >= 0);
    assert_int_equal(dup2(sink, STDERR_FILENO), STDERR_FILENO);
    log_setup(LOG_LEVEL_WARN, false, "test_report", NULL);
    work(bed);
    log_setup(LOG_LEVEL_ERROR, false, "test_report", NULL);
    assert_int_equal(dup2(real, STDERR_FILENO), STDERR_FILENO);
    ssize_t n = pread(sink, text, sizeof text, 0);
    for (ssize_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    close(sink);
    close(real);
    return lines;
}

static void alternate(struct bed *bed)
{
    for (int i = 0; i < 50; i++)
        report_source(bed->report, 1, "a", "KafkaEventSource", ARENA_SOURCE_UNAVAILABLE,
                      i % 2 ? "one cause" : "another cause");
}

static void recover(struct bed *bed)
{
    report_source(bed->report, 1, "a", "KafkaEventSource", ARENA_SOURCE_READING, NULL);
    report_source(bed->report, 1, "a", "KafkaEventSource", ARENA_SOURCE_UNAVAILABLE, "one cause");
}

/* Causes that take turns do not fill the log; the status has the last one. */
static void test_causes_that_alternate(void **state)
{
    struct bed *bed = *state;
    assert_int_equal(logged(bed, alternate), 4);
    assert_text(bed, HEAD ",\"sources\":[{\"name\":\"a\",\"class\":\"KafkaEventSource\","
                          "\"state\":\"unavailable\",\"error\":\"one cause\"}]" NO_TRIGGERS);
    assert_int_equal(logged(bed, recover), 1);
}

static void test_triggers(void **state)
{
    struct bed *bed = *state;
    report_broken_triggers(bed->report, 7, 1, "{\"id\":\"t\"}", 10);
    assert_text(bed, HEAD ",\"sources\":[],\"triggers\":{\"total\":7,\"broken_total\":1,\"broken\":[{\"id\":"
                          "\"t\"}]}" NO_TIMERS);
    report_broken_triggers(bed->report, 7, 1, "{\"id\":\"t\"}", 10);
    assert_false(report_changed(bed->report));
    report_broken_triggers(bed->report, 7, 1, "{\"id\":\"u\"}", 10);
    assert_true(report_changed(bed->report));
}

/* However much there is to say, it is valid JSON and fits into a packet. */
static void test_bounds(void **state)
{
    struct bed *bed = *state;
    BUFFER_AUTO list = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    struct json_value root;
    struct error err;
    char name[200];
    char text[1000];
    memset(name, '\\', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    memset(text, '"', sizeof text - 1); /* each is two in JSON */
    text[sizeof text - 1] = '\0';
    error_set(&err, ERROR_UNAVAILABLE, "%s", text);
    report_storage(bed->report, &err);
    report_durability(bed->report, text, false);
    for (unsigned i = 0; i < 10; i++) {
        char warning[8];
        snprintf(warning, sizeof warning, "w%u", i);
        report_warning(bed->report, warning, text);
    }
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        report_source(bed->report, i, name, "RedisEventSource", ARENA_SOURCE_UNAVAILABLE, text);
    buffer_append_text(&list, "{\"id\":\"");
    while (list.len < 8188)
        buffer_append_char(&list, 'x');
    buffer_append_text(&list, "\"}");
    report_broken_triggers(bed->report, 5, 5, list.data, list.len);
    report_broken_sources(bed->report, list.data, list.len);
    report_write(bed->report, &out);
    if (json_scan(out.data, out.len, &root, &err) < 0)
        fail_msg("%s", err.message);
    assert_true(out.len <= IPC_MAX - 100);
    assert_null(strstr(buffer_text(&out), "truncated"));
    buffer_append(&list, "xxxxxxxx", 8);
    report_broken_triggers(bed->report, 5, 5, list.data, list.len);
    buffer_reset(&out, SIZE_MAX);
    report_write(bed->report, &out);
    assert_non_null(strstr(buffer_text(&out), "\"broken\":[]},\"truncated\":true" NO_TIMERS));
}

static void test_state_names(void **state)
{
    (void)state;
    static const char *const names[] = {"starting", "running", "needs_adoption",
                                        "stopping", "stopped", "failed"};
    for (int i = ARENA_STARTING; i <= ARENA_FAILED; i++)
        assert_string_equal(report_state_name((enum arena_state)i), names[i]);
    assert_string_equal(report_state_name((enum arena_state)77), "unknown");
}

static void *shake(void *data)
{
    struct bed *bed = data;
    for (int i = 0; i < 2000; i++) {
        report_source(bed->report, 3, i % 2 ? "a" : "bb", "RedisEventSource", ARENA_SOURCE_READING, NULL);
        report_warning(bed->report, "w", i % 3 ? "text" : NULL);
        report_broken_triggers(bed->report, (size_t)i, 0, "", 0);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct bed *bed = *state;
    pthread_t threads[2];
    struct json_value root;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, shake, bed), 0);
    for (int i = 0; i < 500; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        report_write(bed->report, &out);
        assert_int_equal(json_scan(out.data, out.len, &root, NULL), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, false, "test_report", NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_start, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_warnings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sources, setup, teardown),
        cmocka_unit_test_setup_teardown(test_causes_that_alternate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_triggers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
        cmocka_unit_test(test_state_names),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
