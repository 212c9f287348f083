/* The status of a workspace as JSON: what the process table knows, the arena's counters, and the worker's own
 * word.
 *
 * Writes only; what it shows was bounded and checked before (monitor.h). Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct arena_poison;
struct buffer;
struct monitor_sample;

/* Borrows everything. */
struct status_view {
    const char *name;
    const char *state;
    const char *reason; /* why it is in that state; "" */
    pid_t pid;          /* 0: none */
    uint32_t generation;
    uint64_t restarts;
    uint64_t started_unix_ns; /* 0: never */
    uint64_t restart_at_ns;   /* state restarting: when (clock_now_ns) */

    uint64_t exit_unix_ns; /* of the last life; 0: none ended yet */
    const char *exit_reason;
    const char *exit_error;

    const char *finished_trigger; /* "": none since the start */
    const char *finished_time;
    uint64_t finished_count;

    double events_per_second;
    const struct monitor_sample *sample; /* never NULL; at_ns 0: nothing sampled yet */
    const struct arena_poison *poison;
    unsigned n_poison;
    const char *worker; /* the last status object, validated JSON; NULL: none */
    size_t worker_len;
};

/* The now of both clocks, for ages. */
struct status_time {
    uint64_t now_ns;
    uint64_t unix_ns;
};

/* Appends the JSON object; full: with sources, poison and the worker's own status. */
void status_write(struct buffer *out, const struct status_view *view, const struct status_time *time,
                  bool full);

/* Memory of a process in bytes: proportional and resident set size, from /proc. pss is 0 when the kernel will
 * not say or exact is false (resident size only costs much less). Returns 0, or -1 when the process is gone.
 */
int status_memory(pid_t pid, bool exact, uint64_t *ret_pss, uint64_t *ret_rss);

/* Appends text as a JSON string, at most 400 bytes of it, with bytes that are not UTF-8 as '?'. */
void status_append_text(struct buffer *out, const char *text);
