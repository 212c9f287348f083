#include "worker/report.h"

#include <pthread.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"

#define MAX_WARNINGS 8
#define MAX_LIST                                                                                           \
    8192 /* bytes of a list of broken things in the message: with all else at its longest it fits a packet \
          */
#define MAX_NAME 65    /* bytes of a source's name */
#define TOLD_AT_ONCE 4 /* errors of a source in one state that are logged as they come */
#define TELL_EVERY (60 * CLOCK_S)

struct source_line {
    bool used;
    char name[MAX_NAME];
    const char *class_name;
    enum arena_source_state state;
    char error[160];
    unsigned told; /* texts that were logged in this state */
    uint64_t told_ns;
};

struct warning {
    char name[32];
    char text[200];
};

struct report {
    struct arena *arena;
    struct loop *loop;
    pthread_mutex_t lock;
    /* Requires: lock, all of it */
    bool changed;
    char storage_error[240];
    char durability[32];
    struct source_line sources[ARENA_MAX_SOURCES];
    struct warning warnings[MAX_WARNINGS];
    size_t triggers, broken;
    size_t timers;
    uint64_t next_timer; /* unix time */
    struct buffer broken_triggers;
    struct buffer broken_sources;
};

struct report *report_new(struct arena *arena, struct loop *loop)
{
    struct report *r = calloc(1, sizeof *r);
    if (r) {
        pthread_mutex_init(&r->lock, NULL);
        r->arena = arena;
        r->loop = loop;
        snprintf(r->storage_error, sizeof r->storage_error, "not connected yet");
        snprintf(r->durability, sizeof r->durability, "unknown");
    }
    return r;
}

void report_free(struct report *report)
{
    if (!report)
        return;
    buffer_done(&report->broken_triggers);
    buffer_done(&report->broken_sources);
    pthread_mutex_destroy(&report->lock);
    free(report);
}

static void unlock_changed(struct report *r, bool changed)
{
    r->changed |= changed;
    pthread_mutex_unlock(&r->lock);
    if (changed)
        loop_wake(r->loop);
}

/* Copies text into a field of `size` bytes; whether it differs from what was there. */
static bool replace(char *field, size_t size, const char *text)
{
    char cut[256];
    snprintf(cut, sizeof cut < size ? sizeof cut : size, "%s", text ? text : "");
    if (!utf8_valid(cut, strlen(cut))) /* foreign bytes, or cut inside a character */
        for (char *c = cut; *c; c++)
            *c = *c < 0 ? '?' : *c;
    if (!strcmp(field, cut))
        return false;
    snprintf(field, size, "%s", cut);
    return true;
}

const char *report_state_name(enum arena_state state)
{
    static const char *const names[] = {"starting", "running", "needs_adoption",
                                        "stopping", "stopped", "failed"};
    return (unsigned)state < sizeof names / sizeof names[0] ? names[state] : "unknown";
}

static const char *source_state_name(enum arena_source_state state)
{
    static const char *const names[] = {"starting", "reading",      "unavailable", "paused",
                                        "failed",   "publish_only", "stopped"};
    return (unsigned)state < sizeof names / sizeof names[0] ? names[state] : "unknown";
}

void report_state(struct report *report, enum arena_state state)
{
    pthread_mutex_lock(&report->lock);
    uint32_t before = atomic_exchange(&report->arena->worker.state, (uint32_t)state);
    unlock_changed(report, before != (uint32_t)state);
    if (before != (uint32_t)state)
        log_info("worker_state", LOG_STR("state", report_state_name(state)));
}

void report_held(struct report *report, bool held)
{
    pthread_mutex_lock(&report->lock);
    uint32_t before = atomic_exchange(&report->arena->worker.held, held);
    unlock_changed(report, before != held);
}

void report_timers(struct report *report, size_t count, uint64_t next_unix_ns)
{
    pthread_mutex_lock(&report->lock);
    bool changed = report->timers != count || (count && report->next_timer != next_unix_ns);
    report->timers = count;
    report->next_timer = next_unix_ns;
    unlock_changed(report, changed);
}

void report_storage(struct report *report, const struct error *error)
{
    pthread_mutex_lock(&report->lock);
    bool was_bad = report->storage_error[0];
    bool changed = replace(report->storage_error, sizeof report->storage_error, error ? error->message : "");
    unlock_changed(report, changed);
    if (changed && error)
        log_error("storage", LOG_STR("error", error->message));
    else if (changed && was_bad)
        log_info("storage", LOG_STR("state", "ok"));
}

void report_durability(struct report *report, const char *durability, bool durable)
{
    pthread_mutex_lock(&report->lock);
    unlock_changed(report, replace(report->durability, sizeof report->durability, durability));
    report_warning(report, "durability",
                   durable ? NULL : "durability=none: the storage keeps nothing through a crash of its own");
}

/* Causes that take turns are not logged each time. */
static bool may_tell(struct source_line *s, bool new_state)
{
    uint64_t now = clock_coarse_ns();
    if (new_state)
        s->told = 0;
    if (s->told >= TOLD_AT_ONCE && now < s->told_ns + TELL_EVERY)
        return false;
    s->told++;
    s->told_ns = now;
    return true;
}

void report_source(struct report *report, unsigned index, const char *name, const char *class_name,
                   enum arena_source_state state, const char *error)
{
    struct source_line *s = &report->sources[index];
    pthread_mutex_lock(&report->lock);
    bool changed = !s->used || s->state != state;
    changed |= replace(s->name, sizeof s->name, name);
    s->used = true;
    s->class_name = class_name;
    s->state = state;
    bool new_error = replace(s->error, sizeof s->error, error);
    bool tell = new_error && error && may_tell(s, changed);
    unlock_changed(report, changed || new_error);
    if (tell)
        log_warn("event_source", LOG_STR("source", name), LOG_STR("state", source_state_name(state)),
                 LOG_STR("error", error));
    else if (changed && index)
        log_info("event_source", LOG_STR("source", name), LOG_STR("state", source_state_name(state)));
}

void report_source_gone(struct report *report, unsigned index)
{
    pthread_mutex_lock(&report->lock);
    report->sources[index].used = false;
    unlock_changed(report, true);
}

static bool replace_list(struct buffer *list, const char *json, size_t len)
{
    if (list->len == len && (!len || !memcmp(list->data, json, len)))
        return false;
    buffer_reset(list, 1 << 16);
    buffer_append(list, json, len);
    return true;
}

void report_broken_triggers(struct report *report, size_t total, size_t broken, const char *json, size_t len)
{
    pthread_mutex_lock(&report->lock);
    bool changed = report->triggers != total || report->broken != broken;
    report->triggers = total;
    report->broken = broken;
    changed |= replace_list(&report->broken_triggers, json, len);
    unlock_changed(report, changed);
}

void report_broken_sources(struct report *report, const char *json, size_t len)
{
    pthread_mutex_lock(&report->lock);
    unlock_changed(report, replace_list(&report->broken_sources, json, len));
}

/* Whether it is another text than before. */
static bool set_warning(struct report *report, const char *name, const char *text)
{
    struct warning *free_slot = NULL;
    struct warning *w = NULL;
    pthread_mutex_lock(&report->lock);
    for (size_t i = 0; i < MAX_WARNINGS; i++) {
        if (!strcmp(report->warnings[i].name, name))
            w = &report->warnings[i];
        else if (!report->warnings[i].name[0] && !free_slot)
            free_slot = &report->warnings[i];
    }
    if (!w && text && free_slot) {
        w = free_slot;
        snprintf(w->name, sizeof w->name, "%s", name);
    }
    bool changed = w && replace(w->text, sizeof w->text, text);
    if (w && !text)
        w->name[0] = '\0';
    unlock_changed(report, changed);
    return changed;
}

void report_warning(struct report *report, const char *name, const char *text)
{
    if (set_warning(report, name, text) && text)
        log_warn("warning", LOG_STR("name", name), LOG_STR("text", text));
}

void report_publishing(struct report *report, const char *source, const char *error)
{
    char name[sizeof report->warnings[0].name];
    char text[sizeof report->warnings[0].text];
    snprintf(name, sizeof name, "publish %s", source);
    snprintf(text, sizeof text, "event source %s: %s", source, error ? error : "");
    set_warning(report, name, error ? text : NULL);
}

bool report_changed(struct report *report)
{
    pthread_mutex_lock(&report->lock);
    bool changed = report->changed;
    pthread_mutex_unlock(&report->lock);
    return changed;
}

static void text_member(struct buffer *out, const char *name, const char *text)
{
    buffer_printf(out, "\"%s\":", name);
    buffer_append_json(out, text, strlen(text));
}

static void write_sources(struct report *r, struct buffer *out)
{
    const char *comma = "";
    buffer_append_text(out, ",\"sources\":[");
    for (size_t i = 0; i < ARENA_MAX_SOURCES; i++) {
        struct source_line *s = &r->sources[i];
        if (!s->used || i == 0)
            continue;
        buffer_printf(out, "%s{", comma);
        text_member(out, "name", s->name);
        buffer_printf(out, ",\"class\":\"%s\",\"state\":\"%s\"", s->class_name, source_state_name(s->state));
        if (s->error[0]) {
            buffer_append_char(out, ',');
            text_member(out, "error", s->error);
        }
        buffer_append_char(out, '}');
        comma = ",";
    }
    if (r->broken_sources.len && r->broken_sources.len <= MAX_LIST) {
        buffer_append_text(out, comma);
        buffer_append(out, r->broken_sources.data, r->broken_sources.len);
    }
    buffer_append_char(out, ']');
}

static void write_triggers(struct report *r, struct buffer *out)
{
    buffer_printf(out, ",\"triggers\":{\"total\":%zu,\"broken_total\":%zu,\"broken\":[", r->triggers,
                  r->broken);
    if (r->broken_triggers.len <= MAX_LIST)
        buffer_append(out, r->broken_triggers.data, r->broken_triggers.len);
    buffer_append_text(out, "]}");
    if (r->broken_triggers.len > MAX_LIST || r->broken_sources.len > MAX_LIST)
        buffer_append_text(out, ",\"truncated\":true");
}

static void write_timers(struct report *r, struct buffer *out)
{
    char time[CLOCK_ISO_MAX];
    buffer_printf(out, ",\"timers\":{\"count\":%zu,\"next\":", r->timers);
    if (r->timers)
        buffer_printf(out, "\"%s\"}", clock_iso(r->next_timer, time));
    else
        buffer_append_text(out, "null}");
}

void report_write(struct report *report, struct buffer *out)
{
    pthread_mutex_lock(&report->lock);
    report->changed = false;
    uint32_t state = atomic_load(&report->arena->worker.state);
    bool held = atomic_load(&report->arena->worker.held);
    buffer_printf(out, "{\"state\":\"%s\",\"paused\":%s,",
                  held && state == ARENA_RUNNING ? "paused" : report_state_name((enum arena_state)state),
                  held ? "true" : "false");
    text_member(out, "durability", report->durability);
    buffer_append_char(out, ',');
    text_member(out, "storage", report->storage_error[0] ? report->storage_error : "ok");
    buffer_append_text(out, ",\"warnings\":[");
    const char *comma = "";
    for (size_t i = 0; i < MAX_WARNINGS; i++)
        if (report->warnings[i].name[0]) {
            buffer_append_text(out, comma);
            buffer_append_json(out, report->warnings[i].text, strlen(report->warnings[i].text));
            comma = ",";
        }
    buffer_append_char(out, ']');
    write_sources(report, out);
    write_triggers(report, out);
    write_timers(report, out);
    buffer_append_char(out, '}');
    pthread_mutex_unlock(&report->lock);
}
