/* The metrics page: its format, its values, and promtool's opinion where that is installed. */
#include "supervisor/ingest.h"
#include "supervisor/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "supervisor/monitor.h"
#include "supervisor/status.h"

static const struct ingest_counts ingest = {
    .accepted = 12, .duplicates = 3, .waiting = 1, .refused = {{400, 2}, {429, 5}}};
static const struct metrics_supervisor supervisor = {.ingest = &ingest,
                                                     .ready = true,
                                                     .forkserver_restarts = 2,
                                                     .uptime_ns = 1500 * CLOCK_MS,
                                                     .storage_errors = 1};

static struct status_view view_of(const char *name, const char *state, const struct monitor_sample *sample)
{
    return (struct status_view){.name = name,
                                .state = state,
                                .reason = "",
                                .exit_reason = "",
                                .exit_error = "",
                                .finished_trigger = "",
                                .finished_time = "",
                                .sample = sample};
}

static void write_two(struct buffer *out)
{
    static const struct monitor_sample running = {.at_ns = 1,
                                                  .fired = 7,
                                                  .in_flight = 3,
                                                  .commit_unix_ns = 1700000000 * CLOCK_S + 5,
                                                  .commit_ns = 2500 * 1000,
                                                  .n_sources = 3,
                                                  .source = {{.name = "internal", .read = 1},
                                                             {.name = "a\"b\\c\nd", .read = 41, .lag = 9},
                                                             {.name = "internal"}}};
    static const struct monitor_sample stopped = {0};
    struct status_view views[] = {view_of("ws-1", "running", &running), view_of("ws-2", "stopped", &stopped)};
    views[0].restarts = 4;
    metrics_write(out, &supervisor, views, 2);
    assert_false(out->failed);
}

static void assert_line(struct buffer *page, const char *line)
{
    char whole[256];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    if (!strstr(buffer_text(page), whole))
        fail_msg("no line %s in\n%s", line, buffer_text(page));
}

static void test_values(void **state)
{
    (void)state;
    BUFFER_AUTO page = BUFFER_INIT;
    write_two(&page);
    assert_line(&page, "triggerflow_supervisor_ready 1");
    assert_line(&page, "triggerflow_supervisor_uptime_seconds 1.5");
    assert_line(&page, "triggerflow_supervisor_forkserver_restarts_total 2");
    assert_line(&page, "triggerflow_workspaces 2");
    assert_line(&page, "triggerflow_workspace_state{workspace=\"ws-1\",state=\"running\"} 1");
    assert_line(&page, "triggerflow_workspace_state{workspace=\"ws-1\",state=\"stopped\"} 0");
    assert_line(&page, "triggerflow_workspace_state{workspace=\"ws-2\",state=\"stopped\"} 1");
    assert_line(&page, "triggerflow_worker_restarts_total{workspace=\"ws-1\"} 4");
    assert_line(&page, "triggerflow_triggers_fired_total{workspace=\"ws-1\"} 7");
    assert_line(&page, "triggerflow_triggers_fired_total{workspace=\"ws-2\"} 0");
    assert_line(&page, "triggerflow_events_in_flight{workspace=\"ws-1\"} 3");
    assert_line(&page,
                "triggerflow_checkpoint_last_timestamp_seconds{workspace=\"ws-1\"} 1700000000.000000005");
    assert_line(&page, "triggerflow_checkpoint_last_duration_seconds{workspace=\"ws-1\"} 0.002500000");
    assert_line(&page, "triggerflow_source_events_total{workspace=\"ws-1\",source=\"internal\"} 1");
    assert_line(&page, "triggerflow_source_events_total{workspace=\"ws-1\",source=\"a\\\"b\\\\c\\nd\"} 41");
    assert_line(&page, "triggerflow_source_lag_events{workspace=\"ws-1\",source=\"a\\\"b\\\\c\\nd\"} 9");
}

/* The name of the metric that a line belongs to. */
static void name_of(const char *line, char name[128])
{
    const char *start = line[0] == '#' ? line + 7 : line;
    snprintf(name, 128, "%.*s", (int)strcspn(start, " {\n"), start);
}

/* Each metric is one group: HELP, TYPE, then its series, and no series comes twice. */
static void test_groups(void **state)
{
    (void)state;
    BUFFER_AUTO page = BUFFER_INIT;
    char current[128] = "", name[128];
    write_two(&page);
    char *text = strdup(buffer_text(&page));
    assert_non_null(text);
    int step = 0; /* 1 after HELP, 2 after TYPE */
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
        name_of(line, name);
        if (strncmp(line, "# HELP ", 7) == 0) {
            char again[160];
            snprintf(again, sizeof again, "# HELP %s ", name);
            const char *first = strstr(buffer_text(&page), again);
            assert_non_null(first);
            assert_null(strstr(first + 1, again));
            snprintf(current, sizeof current, "%s", name);
            step = 1;
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            assert_int_equal(step, 1);
            assert_string_equal(name, current);
            step = 2;
        } else {
            assert_int_equal(step, 2);
            assert_string_equal(name, current);
            char series[256];
            snprintf(series, sizeof series, "\n%.*s ", (int)(strrchr(line, ' ') - line), line);
            const char *first = strstr(buffer_text(&page), series);
            assert_non_null(first);
            assert_null(strstr(first + 1, series));
        }
    }
    free(text);
}

static void test_empty(void **state)
{
    (void)state;
    BUFFER_AUTO page = BUFFER_INIT;
    metrics_write(&page, &supervisor, NULL, 0);
    assert_line(&page, "triggerflow_workspaces 0");
    assert_null(strstr(buffer_text(&page), "workspace=\""));
}

static void test_promtool(void **state)
{
    (void)state;
    BUFFER_AUTO page = BUFFER_INIT;
    if (system("command -v promtool >/dev/null 2>&1") != 0) {
        print_message("skipped: no promtool\n");
        skip();
    }
    write_two(&page);
    FILE *pipe = popen("promtool check metrics", "w");
    assert_non_null(pipe);
    assert_int_equal(fwrite(page.data, 1, page.len, pipe), page.len);
    assert_int_equal(pclose(pipe), 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_promtool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
