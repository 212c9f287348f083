/* Prometheus metrics (text exposition format 0.0.4). Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct ingest_counts;
struct status_view;

struct metrics_supervisor {
    bool ready;
    uint64_t forkserver_restarts;
    uint64_t uptime_ns;
    uint64_t storage_errors;            /* failed look-ups */
    const struct ingest_counts *ingest; /* NULL: none */
};

/* Appends all metrics: the supervisor's, then each metric of all workspaces, then of all their sources. */
void metrics_write(struct buffer *out, const struct metrics_supervisor *supervisor,
                   const struct status_view *views, size_t n_views);
