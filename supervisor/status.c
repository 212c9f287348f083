/* See status.h. */
#include "supervisor/status.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/json.h"
#include "supervisor/monitor.h"

#define STATUS_TEXT_MAX 400
#define STATUS_PROBLEMS_MAX 20
#define SIGNAL_NAME(signal) (sigabbrev_np((int)(signal)) ? sigabbrev_np((int)(signal)) : "unknown")

void status_append_text(struct buffer *out, const char *text)
{
    char copy[STATUS_TEXT_MAX + 1];
    monitor_copy_text(copy, sizeof copy, text, strlen(text));
    buffer_append_json(out, copy, strlen(copy));
}

static void member(struct buffer *out, const char *name)
{
    if (out->len > 0 && out->data[out->len - 1] != '{')
        buffer_append_char(out, ',');
    buffer_append_char(out, '"');
    buffer_append_text(out, name);
    buffer_append_text(out, "\":");
}

static void member_u64(struct buffer *out, const char *name, uint64_t value)
{
    member(out, name);
    buffer_append_u64(out, value);
}

static void member_text(struct buffer *out, const char *name, const char *text)
{
    member(out, name);
    status_append_text(out, text);
}

/* Unix time in seconds with milliseconds. */
static void member_time(struct buffer *out, const char *name, uint64_t unix_ns)
{
    member(out, name);
    buffer_printf(out, "%llu.%03u", (unsigned long long)(unix_ns / CLOCK_S),
                  (unsigned)(unix_ns % CLOCK_S / CLOCK_MS));
}

static void write_exit(struct buffer *out, const struct status_view *view)
{
    member(out, "last_exit");
    if (view->exit_unix_ns == 0) {
        buffer_append_text(out, "null");
        return;
    }
    buffer_append_char(out, '{');
    member_text(out, "reason", view->exit_reason);
    if (view->exit_error[0] != '\0')
        member_text(out, "error", view->exit_error);
    member_time(out, "time", view->exit_unix_ns);
    buffer_append_char(out, '}');
}

static void write_checkpoint(struct buffer *out, const struct monitor_sample *sample, uint64_t unix_ns)
{
    member(out, "last_checkpoint");
    if (sample->commit_unix_ns == 0) {
        buffer_append_text(out, "null");
        return;
    }
    uint64_t age = unix_ns > sample->commit_unix_ns ? unix_ns - sample->commit_unix_ns : 0;
    buffer_append_char(out, '{');
    member_time(out, "time", sample->commit_unix_ns);
    member_time(out, "age", age);
    member_u64(out, "duration_us", sample->commit_ns / 1000);
    buffer_append_char(out, '}');
}

static void write_counters(struct buffer *out, const struct status_view *view, uint64_t unix_ns)
{
    const struct monitor_sample *s = view->sample;
    member(out, "events_per_second");
    buffer_printf(out, "%.1f", view->events_per_second);
    member_u64(out, "lag", s->lag);
    member_u64(out, "in_flight", s->in_flight);
    member_u64(out, "read", s->read);
    member_u64(out, "fired", s->fired);
    member_u64(out, "dead_letters", s->dead_letters);
    member_u64(out, "duplicates", s->duplicates);
    member_u64(out, "events_lost", s->lost);
    member_u64(out, "triggers", s->triggers);
    member_u64(out, "triggers_broken", s->triggers_broken);
    member_u64(out, "epoch", s->epoch);
    member_u64(out, "commit_failures", s->commit_failures);
    write_checkpoint(out, s, unix_ns);
    member(out, "actions");
    buffer_append_char(out, '{');
    member_u64(out, "started", s->started);
    member_u64(out, "completed", s->completed);
    member_u64(out, "failed", s->failed);
    member_u64(out, "pending", s->pending);
    member_u64(out, "retries", s->retries);
    buffer_append_char(out, '}');
}

static void write_memory(struct buffer *out, const struct status_view *view, bool exact)
{
    uint64_t pss, rss;
    member(out, "memory");
    if (view->pid == 0 || status_memory(view->pid, exact, &pss, &rss) < 0) {
        buffer_append_text(out, "null");
        return;
    }
    buffer_append_char(out, '{');
    if (pss > 0)
        member_u64(out, "pss", pss);
    member_u64(out, "rss", rss);
    buffer_append_char(out, '}');
}

static void write_finished(struct buffer *out, const struct status_view *view)
{
    member(out, "finished");
    if (view->finished_count == 0) {
        buffer_append_text(out, "null");
        return;
    }
    buffer_append_char(out, '{');
    member_u64(out, "count", view->finished_count);
    member_text(out, "trigger", view->finished_trigger);
    member_text(out, "time", view->finished_time);
    buffer_append_char(out, '}');
}

static void write_sources(struct buffer *out, const struct monitor_sample *sample)
{
    member(out, "sources");
    buffer_append_char(out, '[');
    for (unsigned i = 0; i < sample->n_sources; i++) {
        const struct monitor_source *s = &sample->source[i];
        buffer_append_text(out, i > 0 ? ",{" : "{");
        member_text(out, "name", s->name);
        member_text(out, "state", monitor_source_state_name(s->state));
        member_u64(out, "read", s->read);
        member_u64(out, "bytes", s->bytes);
        member_u64(out, "lag", s->lag);
        member_u64(out, "lost", s->lost);
        member_u64(out, "recreated", s->recreated);
        member_u64(out, "reconnects", s->reconnects);
        member_u64(out, "dead_letters", s->dead_letters);
        member_u64(out, "duplicates", s->duplicates);
        buffer_append_char(out, '}');
    }
    buffer_append_char(out, ']');
}

static void write_poison(struct buffer *out, const struct status_view *view)
{
    member(out, "poison");
    buffer_append_char(out, '[');
    for (unsigned i = 0; i < view->n_poison; i++) {
        const struct arena_poison *p = &view->poison[i];
        buffer_append_text(out, i > 0 ? ",{" : "{");
        member(out, "position");
        buffer_printf(out, "[%llu,%llu]", (unsigned long long)p->event.position[0],
                      (unsigned long long)p->event.position[1]);
        member(out, "source");
        buffer_printf(out, "\"%016llx\"", (unsigned long long)p->event.source);
        member(out, "trigger");
        buffer_printf(out, "\"%016llx\"", (unsigned long long)p->trigger);
        member_u64(out, "deaths", p->deaths);
        member_text(out, "cause", p->signal == 0 ? "watchdog" : SIGNAL_NAME(p->signal));
        member(out, "skipped");
        buffer_append_text(out, p->deaths >= ARENA_POISON_DEATHS ? "true}" : "false}");
    }
    buffer_append_char(out, ']');
}

/* The list of what a person should know, one text each. Texts from the worker's status are spans of validated
 * JSON strings and are copied as they stand. */
struct problems {
    struct buffer *out;
    unsigned n;
};

static bool problem_open(struct problems *p)
{
    if (p->n >= STATUS_PROBLEMS_MAX)
        return false;
    if (p->n++ > 0)
        buffer_append_char(p->out, ',');
    return true;
}

static void problem(struct problems *p, const char *text)
{
    if (problem_open(p))
        status_append_text(p->out, text);
}

/* "<what> <subject>: <text>" from string spans; subject may be absent. */
static void problem_spans(struct problems *p, const char *what, const struct json_value *subject,
                          const struct json_value *text)
{
    if (text->type != JSON_STRING || text->len > 4096 || !problem_open(p))
        return;
    buffer_append_char(p->out, '"');
    buffer_append_text(p->out, what);
    if (subject && subject->type == JSON_STRING && subject->len <= 1024) {
        buffer_append_char(p->out, ' ');
        buffer_append(p->out, subject->text, subject->len);
    }
    if (what[0] != '\0')
        buffer_append_text(p->out, ": ");
    buffer_append(p->out, text->text, text->len);
    buffer_append_char(p->out, '"');
}

/* Objects of an array that carry a complaint under `text`. */
static void problems_of(struct problems *p, const struct json_value *list, const char *what,
                        const char *subject, const char *text)
{
    struct json_iter iter;
    struct json_value name, item, who, complaint;
    if (list->type != JSON_ARRAY)
        return;
    json_iter_init(&iter, list);
    while (json_next(&iter, &name, &item)) {
        if (item.type != JSON_OBJECT || !json_member(&item, text, &complaint))
            continue;
        json_member(&item, subject, &who);
        problem_spans(p, what, &who, &complaint);
    }
}

static void problems_worker(struct problems *p, const struct status_view *view)
{
    struct json_value status, value, inner, name, item;
    struct json_iter iter;
    if (!view->worker || json_scan(view->worker, view->worker_len, &status, NULL) < 0)
        return;
    if (json_member(&status, "storage", &value) && value.type == JSON_STRING && !json_equals(&value, "ok", 2))
        problem_spans(p, "storage", NULL, &value);
    if (json_member(&status, "warnings", &value) && value.type == JSON_ARRAY) {
        json_iter_init(&iter, &value);
        while (json_next(&iter, &name, &item))
            problem_spans(p, "", NULL, &item);
    }
    if (json_member(&status, "sources", &value)) {
        problems_of(p, &value, "source", "name", "reason"); /* one that cannot be made */
        problems_of(p, &value, "source", "name", "error");
    }
    if (json_member(&status, "triggers", &value) && value.type == JSON_OBJECT &&
        json_member(&value, "broken", &inner))
        problems_of(p, &inner, "trigger", "id", "reason");
}

static void write_problems(struct buffer *out, const struct status_view *view, uint64_t now_ns)
{
    struct problems p = {.out = out};
    char text[STATUS_TEXT_MAX];
    member(out, "problems");
    buffer_append_char(out, '[');
    if (strcmp(view->state, "restarting") == 0) {
        uint64_t wait = view->restart_at_ns > now_ns ? view->restart_at_ns - now_ns : 0;
        snprintf(text, sizeof text, "starts again in %.1f s after %s%s%s", (double)wait / (double)CLOCK_S,
                 view->exit_reason, view->exit_error[0] ? ": " : "", view->exit_error);
        problem(&p, text);
    } else if (strcmp(view->state, "failed") == 0 || strcmp(view->state, "fenced") == 0) {
        snprintf(text, sizeof text, "not restarted after %s%s%s", view->exit_reason,
                 view->exit_error[0] ? ": " : "", view->exit_error);
        problem(&p, text);
    } else if (strcmp(view->state, "needs_adoption") == 0) {
        problem(
            &p,
            "run by another program before: say where to go on with {\"adopt\": \"beginning\" | \"end\" | "
            "POSITION}");
    }
    if (view->sample->dead_letters_full)
        problem(&p, "the dead letters are full: sources are paused");
    if (view->sample->lost > 0) {
        snprintf(text, sizeof text, "%llu events were trimmed away before they were read",
                 (unsigned long long)view->sample->lost);
        problem(&p, text);
    }
    problems_worker(&p, view);
    buffer_append_char(out, ']');
}

void status_write(struct buffer *out, const struct status_view *view, const struct status_time *time,
                  bool full)
{
    buffer_append_char(out, '{');
    member_text(out, "name", view->name);
    member_text(out, "state", view->state);
    if (view->reason[0] != '\0')
        member_text(out, "reason", view->reason);
    member(out, "pid");
    if (view->pid != 0)
        buffer_append_u64(out, (uint64_t)view->pid);
    else
        buffer_append_text(out, "null");
    member_u64(out, "generation", view->generation);
    member_u64(out, "restarts", view->restarts);
    write_exit(out, view);
    member_time(out, "started", view->started_unix_ns);
    write_counters(out, view, time->unix_ns);
    write_memory(out, view, full);
    write_finished(out, view);
    write_problems(out, view, time->now_ns);
    if (full) {
        write_sources(out, view->sample);
        write_poison(out, view);
        member(out, "worker");
        if (view->worker)
            buffer_append(out, view->worker, view->worker_len);
        else
            buffer_append_text(out, "null");
    }
    buffer_append_char(out, '}');
}

/* Reads a small file of /proc/PID. Returns its length, or -1. */
static ssize_t read_proc(pid_t pid, const char *file, char *to, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, to, size - 1);
    close(fd);
    if (n >= 0)
        to[n] = '\0';
    return n;
}

/* The value of a "Name:   123 kB" line, in bytes. */
static uint64_t kilobytes(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

int status_memory(pid_t pid, bool exact, uint64_t *ret_pss, uint64_t *ret_rss)
{
    char text[4096];
    if (exact && read_proc(pid, "smaps_rollup", text, sizeof text) > 0) {
        *ret_pss = kilobytes(text, "\nPss:");
        *ret_rss = kilobytes(text, "\nRss:");
        if (*ret_rss > 0)
            return 0;
    }
    if (read_proc(pid, "statm", text, sizeof text) <= 0)
        return -1;
    char *end;
    strtoull(text, &end, 10); /* total size */
    *ret_pss = 0;
    *ret_rss = strtoull(end, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
    return 0;
}
