/* See metrics.h. One table row a metric; a row's value is read at its offset in the sample. */
#include "supervisor/metrics.h"

#include <stddef.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "supervisor/ingest.h"
#include "supervisor/monitor.h"
#include "supervisor/status.h"

struct metric {
    const char *name;
    const char *type;
    const char *help;
    size_t offset;
};

#define SAMPLE(field) offsetof(struct monitor_sample, field)
#define SOURCE(field) offsetof(struct monitor_source, field)

static const struct metric sample_metrics[] = {
    {"triggerflow_triggers_fired_total", "counter", "Triggers fired since the worker started.",
     SAMPLE(fired)},
    {"triggerflow_conditions_evaluated_total", "counter", "Conditions evaluated since the worker started.",
     SAMPLE(evaluated)},
    {"triggerflow_events_committed_total", "counter",
     "Events in committed checkpoints since the worker started.", SAMPLE(committed_events)},
    {"triggerflow_events_in_flight", "gauge", "Events read or emitted and not yet committed.",
     SAMPLE(in_flight)},
    {"triggerflow_internal_events_pending", "gauge", "Internal events waiting.", SAMPLE(internal_pending)},
    {"triggerflow_triggers", "gauge", "Triggers of the workspace.", SAMPLE(triggers)},
    {"triggerflow_triggers_broken", "gauge", "Stored triggers that cannot run.", SAMPLE(triggers_broken)},
    {"triggerflow_dead_letters_total", "counter", "Dead letters stored since the worker started.",
     SAMPLE(dead_letters)},
    {"triggerflow_dead_letter_bytes", "gauge", "Size of the stored dead letters.", SAMPLE(dead_letter_bytes)},
    {"triggerflow_checkpoints_total", "counter", "Checkpoints committed since the worker started.",
     SAMPLE(commits)},
    {"triggerflow_checkpoint_failures_total", "counter", "Checkpoint attempts that failed.",
     SAMPLE(commit_failures)},
    {"triggerflow_checkpoint_documents_total", "counter", "Trigger documents written by checkpoints.",
     SAMPLE(documents)},
    {"triggerflow_checkpoint_epoch", "gauge", "Epoch of the last checkpoint.", SAMPLE(epoch)},
    {"triggerflow_reloads_total", "counter", "Times the worker has read its triggers again.",
     SAMPLE(reloads)},
    {"triggerflow_workflow_finished_total", "counter", "Times the workflow has reached its end.",
     SAMPLE(finished)},
    {"triggerflow_actions_started_total", "counter", "Actions started.", SAMPLE(started)},
    {"triggerflow_actions_completed_total", "counter", "Actions completed.", SAMPLE(completed)},
    {"triggerflow_actions_failed_total", "counter", "Actions given up.", SAMPLE(failed)},
    {"triggerflow_actions_retried_total", "counter", "Actions tried again.", SAMPLE(retries)},
    {"triggerflow_actions_pending", "gauge", "Actions started or waiting to start.", SAMPLE(pending)},
};

static const struct metric source_metrics[] = {
    {"triggerflow_source_events_total", "counter", "Events read from the source.", SOURCE(read)},
    {"triggerflow_source_read_bytes_total", "counter", "Bytes read from the source.", SOURCE(bytes)},
    {"triggerflow_source_lag_events", "gauge", "Events in the broker not yet read.", SOURCE(lag)},
    {"triggerflow_source_events_lost_total", "counter", "Events trimmed away before they were read.",
     SOURCE(lost)},
    {"triggerflow_source_recreated_total", "counter", "Times the source was found created anew.",
     SOURCE(recreated)},
    {"triggerflow_source_reconnects_total", "counter", "Connections made again.", SOURCE(reconnects)},
    {"triggerflow_source_dead_letters_total", "counter", "Events of the source that became dead letters.",
     SOURCE(dead_letters)},
    {"triggerflow_source_duplicates_total", "counter", "Events dropped because they were seen before.",
     SOURCE(duplicates)},
};

static const char *const states[] = {"starting", "running", "needs_adoption", "restarting", "stopping",
                                     "stopped",  "failed",  "fenced",         "finished",   "deleted"};

static void head(struct buffer *out, const char *name, const char *type, const char *help)
{
    buffer_append_text(out, "# HELP ");
    buffer_append_text(out, name);
    buffer_append_char(out, ' ');
    buffer_append_text(out, help);
    buffer_append_text(out, "\n# TYPE ");
    buffer_append_text(out, name);
    buffer_append_char(out, ' ');
    buffer_append_text(out, type);
    buffer_append_char(out, '\n');
}

/* A label's value with the format's escapes: backslash, quote and line feed. */
static void label(struct buffer *out, const char *name, const char *value)
{
    buffer_append_text(out, name);
    buffer_append_text(out, "=\"");
    for (const char *c = value; *c != '\0'; c++) {
        if (*c == '\n')
            buffer_append_text(out, "\\n");
        else {
            if (*c == '\\' || *c == '"')
                buffer_append_char(out, '\\');
            buffer_append_char(out, *c);
        }
    }
    buffer_append_char(out, '"');
}

/* name{workspace="...", up to the value. extra: a second label, or NULL. */
static void series(struct buffer *out, const char *name, const char *workspace, const char *extra,
                   const char *value)
{
    buffer_append_text(out, name);
    buffer_append_char(out, '{');
    label(out, "workspace", workspace);
    if (extra) {
        buffer_append_char(out, ',');
        label(out, extra, value);
    }
    buffer_append_text(out, "} ");
}

static uint64_t at(const void *base, size_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)base + offset, sizeof value);
    return value;
}

static void single(struct buffer *out, const char *name, const char *type, const char *help, double value)
{
    head(out, name, type, help);
    buffer_printf(out, "%s %.17g\n", name, value);
}

static void write_supervisor(struct buffer *out, const struct metrics_supervisor *supervisor, size_t n_views)
{
    head(out, "triggerflow_build_info", "gauge", "The version of the supervisor, as a label.");
    buffer_append_text(out, "triggerflow_build_info{version=\"" VERSION "\"} 1\n");
    single(out, "triggerflow_supervisor_ready", "gauge", "1 when the stored workspaces have been started.",
           supervisor->ready);
    single(out, "triggerflow_supervisor_uptime_seconds", "gauge", "Time since the supervisor started.",
           (double)supervisor->uptime_ns / (double)CLOCK_S);
    single(out, "triggerflow_supervisor_forkserver_restarts_total", "counter", "Forkservers started anew.",
           (double)supervisor->forkserver_restarts);
    single(out, "triggerflow_supervisor_storage_errors_total", "counter", "Storage look-ups that failed.",
           (double)supervisor->storage_errors);
    single(out, "triggerflow_workspaces", "gauge", "Workspaces known to the supervisor.", (double)n_views);
}

/* Requests with events: what became of them. */
static void write_ingest(struct buffer *out, const struct ingest_counts *counts)
{
    const char *refused = "triggerflow_http_event_requests_refused_total";
    single(out, "triggerflow_http_events_accepted_total", "counter",
           "Events over HTTP answered 202, repetitions included.", (double)counts->accepted);
    single(out, "triggerflow_http_events_duplicate_total", "counter",
           "Events over HTTP that were known already.", (double)counts->duplicates);
    single(out, "triggerflow_http_event_requests_waiting", "gauge",
           "Requests with events that are not answered yet.", (double)counts->waiting);
    head(out, refused, "counter", "Requests with events that were refused, by status.");
    for (size_t i = 0; counts->refused[i].status != 0; i++)
        buffer_printf(out, "%s{status=\"%u\"} %llu\n", refused, counts->refused[i].status,
                      (unsigned long long)counts->refused[i].requests);
}

/* One series a workspace and state, so that a query can ask for any state by name. */
static void write_states(struct buffer *out, const struct status_view *views, size_t n_views)
{
    head(out, "triggerflow_workspace_state", "gauge", "1 for the state that the workspace is in.");
    for (size_t i = 0; i < n_views; i++) {
        for (size_t k = 0; k < sizeof states / sizeof states[0]; k++) {
            series(out, "triggerflow_workspace_state", views[i].name, "state", states[k]);
            buffer_append_text(out, strcmp(views[i].state, states[k]) == 0 ? "1\n" : "0\n");
        }
    }
    head(out, "triggerflow_worker_restarts_total", "counter", "Times the worker was started again.");
    for (size_t i = 0; i < n_views; i++) {
        series(out, "triggerflow_worker_restarts_total", views[i].name, NULL, NULL);
        buffer_printf(out, "%llu\n", (unsigned long long)views[i].restarts);
    }
}

/* Floating-point seconds that the samples hold as nanoseconds. */
static void write_seconds(struct buffer *out, const char *name, const char *help, size_t offset,
                          const struct status_view *views, size_t n_views)
{
    head(out, name, "gauge", help);
    for (size_t i = 0; i < n_views; i++) {
        uint64_t ns = at(views[i].sample, offset);
        if (views[i].sample->at_ns == 0 || ns == 0)
            continue;
        series(out, name, views[i].name, NULL, NULL);
        buffer_printf(out, "%llu.%09llu\n", (unsigned long long)(ns / CLOCK_S),
                      (unsigned long long)(ns % CLOCK_S));
    }
}

static void write_memory(struct buffer *out, const struct status_view *views, size_t n_views)
{
    const char *name = "triggerflow_worker_resident_memory_bytes";
    head(out, name, "gauge", "Resident memory of the worker process.");
    for (size_t i = 0; i < n_views; i++) {
        uint64_t pss, rss;
        if (views[i].pid == 0 || status_memory(views[i].pid, false, &pss, &rss) < 0)
            continue;
        series(out, name, views[i].name, NULL, NULL);
        buffer_append_u64(out, rss);
        buffer_append_char(out, '\n');
    }
}

/* Names are cut to the arena's length: two that are then the same would make the whole page invalid. */
static bool name_taken(const struct monitor_sample *sample, unsigned source)
{
    for (unsigned i = 0; i < source; i++)
        if (strcmp(sample->source[i].name, sample->source[source].name) == 0)
            return true;
    return false;
}

static void write_sources(struct buffer *out, const struct metric *metric, const struct status_view *views,
                          size_t n_views)
{
    head(out, metric->name, metric->type, metric->help);
    for (size_t i = 0; i < n_views; i++) {
        const struct monitor_sample *sample = views[i].sample;
        for (unsigned k = 0; k < sample->n_sources; k++) {
            if (name_taken(sample, k))
                continue;
            series(out, metric->name, views[i].name, "source", sample->source[k].name);
            buffer_append_u64(out, at(&sample->source[k], metric->offset));
            buffer_append_char(out, '\n');
        }
    }
}

void metrics_write(struct buffer *out, const struct metrics_supervisor *supervisor,
                   const struct status_view *views, size_t n_views)
{
    write_supervisor(out, supervisor, n_views);
    if (supervisor->ingest)
        write_ingest(out, supervisor->ingest);
    if (n_views == 0)
        return;
    write_states(out, views, n_views);
    write_seconds(out, "triggerflow_checkpoint_last_timestamp_seconds",
                  "When the last checkpoint was confirmed.", SAMPLE(commit_unix_ns), views, n_views);
    write_seconds(out, "triggerflow_checkpoint_last_duration_seconds",
                  "Duration of the last checkpoint's commit.", SAMPLE(commit_ns), views, n_views);
    write_memory(out, views, n_views);
    for (size_t m = 0; m < sizeof sample_metrics / sizeof sample_metrics[0]; m++) {
        const struct metric *metric = &sample_metrics[m];
        head(out, metric->name, metric->type, metric->help);
        for (size_t i = 0; i < n_views; i++) {
            series(out, metric->name, views[i].name, NULL, NULL);
            buffer_append_u64(out, at(views[i].sample, metric->offset));
            buffer_append_char(out, '\n');
        }
    }
    for (size_t m = 0; m < sizeof source_metrics / sizeof source_metrics[0]; m++)
        write_sources(out, &source_metrics[m], views, n_views);
}
