/* See workflow.h. */
#include "supervisor/workflow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "supervisor/ingest.h"
#include "supervisor/workflow_request.h"

#define PACKETS_PER_WAKE 64 /* so that a worker that talks without end does not hold up the others */
#define PACKETS_AT_END 1024 /* more than a socket holds */

static void life_begin(struct workflow *w);
static void on_restart_timer(void *data);
static void on_stop_timer(void *data);

static const char *const state_names[] = {
    [WORKFLOW_STARTING] = "starting", [WORKFLOW_RUNNING] = "running", [WORKFLOW_RESTARTING] = "restarting",
    [WORKFLOW_STOPPING] = "stopping", [WORKFLOW_STOPPED] = "stopped", [WORKFLOW_FINISHED] = "finished",
    [WORKFLOW_FAILED] = "failed",     [WORKFLOW_FENCED] = "fenced",   [WORKFLOW_DELETED] = "deleted",
};

bool workflow_active(const struct workflow *workflow)
{
    return workflow->state < WORKFLOW_STOPPED;
}

bool workflow_needs_adoption(const struct workflow *w)
{
    return (w->state == WORKFLOW_STARTING || w->state == WORKFLOW_RUNNING) && w->arena &&
           atomic_load_explicit(&w->arena->worker.state, memory_order_relaxed) == ARENA_NEEDS_ADOPTION;
}

const char *workflow_state_name(const struct workflow *workflow)
{
    return workflow_needs_adoption(workflow) ? "needs_adoption" : state_names[workflow->state];
}

/* ---- Timers ---- */

static void set_timer(struct workflow *w, uint64_t at_ns, loop_timer callback)
{
    struct error err;
    if (loop_timer_set(w->table->loop, at_ns, callback, w, &err) < 0)
        log_error("timer", LOG_STR("workspace", w->name), LOG_STR("error", err.message));
}

/* ---- Waiters ---- */

/* 1: come true; -1: cannot any more; 0: not yet. */
static int wait_outcome(const struct workflow *w, enum workflow_wait until)
{
    if (until == WORKFLOW_WAIT_STOPPED)
        return workflow_active(w) ? 0 : 1;
    if (w->state == WORKFLOW_RUNNING || w->state == WORKFLOW_FINISHED || workflow_needs_adoption(w))
        return 1;
    return w->state == WORKFLOW_STARTING || w->state == WORKFLOW_RESTARTING ? 0 : -1;
}

void workflow_wait_cancel(struct workflow_waiter *waiter)
{
    if (!waiter->workflow)
        return;
    TAILQ_REMOVE(&waiter->workflow->waiters, waiter, link);
    waiter->workflow = NULL;
}

static void notify_waiters(struct workflow *w)
{
    struct workflow_waiter *waiter = TAILQ_FIRST(&w->waiters);
    while (waiter) {
        struct workflow_waiter *next = TAILQ_NEXT(waiter, link);
        int outcome = wait_outcome(w, waiter->until);
        if (outcome != 0) {
            workflow_wait_cancel(waiter);
            waiter->done(waiter, outcome > 0);
        }
        waiter = next;
    }
}

void workflow_wait(struct workflow *workflow, struct workflow_waiter *waiter)
{
    int outcome = wait_outcome(workflow, waiter->until);
    if (outcome != 0) {
        waiter->workflow = NULL;
        waiter->done(waiter, outcome > 0);
        return;
    }
    waiter->workflow = workflow;
    TAILQ_INSERT_TAIL(&workflow->waiters, waiter, link);
}

/* ---- The arena ---- */

/* The worker is gone, or nobody knows where: what it has not answered stays unanswered. */
static void ring_close(struct workflow *w)
{
    if (w->table->ingest)
        ingest_close(w->table->ingest, w->name);
}

/* Gives the arena up, keeping its poison table. */
static void arena_drop(struct workflow *w)
{
    ring_close(w);
    if (w->arena) {
        w->n_poison = w->arena->n_poison < ARENA_MAX_POISON ? w->arena->n_poison : ARENA_MAX_POISON;
        memcpy(w->poison, w->arena->poison, sizeof w->poison);
        arena_unmap(w->arena);
    }
    if (w->arena_fd >= 0)
        close(w->arena_fd);
    w->arena = NULL;
    w->arena_fd = -1;
}

static int arena_take(struct workflow *w, struct error *err)
{
    if (w->arena)
        return 0;
    if (arena_create(&w->arena_fd, err) < 0) {
        w->arena_fd = -1;
        return -1;
    }
    if (arena_map(w->arena_fd, &w->arena, err) < 0) {
        w->arena = NULL;
        close(w->arena_fd);
        w->arena_fd = -1;
        return -1;
    }
    w->arena->n_poison = w->n_poison;
    memcpy(w->arena->poison, w->poison, sizeof w->poison);
    return 0;
}

/* ---- State ---- */

static void set_state(struct workflow *w, enum workflow_state state)
{
    struct workflow_table *table = w->table;
    bool was_active = workflow_active(w);
    w->state = state;
    if (was_active && !workflow_active(w)) {
        arena_drop(w);
        table->n_active--;
        TAILQ_INSERT_TAIL(&table->inactive, w, inactive_link);
        table->n_inactive++;
    } else if (!was_active && workflow_active(w)) {
        TAILQ_REMOVE(&table->inactive, w, inactive_link);
        table->n_inactive--;
        table->n_active++;
    }
    notify_waiters(w);
}

/* ---- Events over HTTP ---- */

/* Whether the worker's status names an event source that takes them: 1 or 0, -1 when it does not say, or not
 * yet. */
static int has_http_source(const struct workflow *w)
{
    struct json_value root, state, sources, none, source, class, truncated;
    struct json_iter iter;
    if (w->status.len == 0 || json_scan(w->status.data, w->status.len, &root, NULL) < 0 ||
        !json_member(&root, "state", &state) || state.type != JSON_STRING ||
        json_equals(&state, "starting", strlen("starting")) || !json_member(&root, "sources", &sources) ||
        sources.type != JSON_ARRAY)
        return -1;
    json_iter_init(&iter, &sources);
    while (json_next(&iter, &none, &source))
        if (source.type == JSON_OBJECT && json_member(&source, "class", &class) &&
            class.type == JSON_STRING && json_equals(&class, "HTTPEventSource", strlen("HTTPEventSource")))
            return 1;
    return json_member(&root, "truncated", &truncated) ? -1 : 0;
}

/* Those who wait for the workflow to take events are told what it says of itself. */
static void ring_settle(struct workflow *w)
{
    if (!w->table->ingest)
        return;
    if (workflow_needs_adoption(w)) {
        ingest_fail(w->table->ingest, w->name, 503, "the workspace needs adoption");
        return;
    }
    int has = w->state == WORKFLOW_RUNNING ? has_http_source(w) : -1;
    if (has >= 0)
        ingest_settle(w->table->ingest, w->name, has > 0);
}

/* ---- The status socket ---- */

static void close_status(struct workflow *w)
{
    if (w->status_fd < 0)
        return;
    loop_remove(w->table->loop, w->status_fd);
    close(w->status_fd);
    w->status_fd = -1;
    workflow_requests_fail(w, "the worker ended before it answered");
}

/* false: it could not be told. */
static bool tell(struct workflow *w, const char *message, size_t len)
{
    struct error err;
    if (w->status_fd < 0)
        return false;
    int result = ipc_send(w->status_fd, message, len, NULL, 0, &err);
    if (result < 0)
        log_warn("worker_message", LOG_STR("workspace", w->name), LOG_STR("error", err.message));
    return result == 0;
}

static void tell_reload(struct workflow *w)
{
    static const char reload[] = "{\"message\":\"reload\"}";
    w->reload_wanted = !tell(w, reload, sizeof reload - 1);
}

/* Its word and the forkserver's, which brings the pid, may come in either order. */
static void become_running(struct workflow *w)
{
    if (w->state != WORKFLOW_STARTING || !w->ready || w->process.state != PROCESS_ALIVE)
        return;
    w->history.healthy_since_ns = clock_now_ns();
    log_info("worker_ready", LOG_STR("workspace", w->name), LOG_INT("pid", w->process.pid),
             LOG_UINT("generation", w->generation));
    if (w->reload_wanted)
        tell_reload(w);
    set_state(w, WORKFLOW_RUNNING);
    ring_settle(w);
}

static void on_frame(struct workflow *w, const struct monitor_frame *frame)
{
    switch (frame->kind) {
    case MONITOR_READY:
        w->ready = true;
        become_running(w);
        break;
    case MONITOR_STATUS:
        buffer_reset(&w->status, 4096);
        buffer_append(&w->status, frame->status.text, frame->status.len);
        if (w->status.failed)
            buffer_reset(&w->status, 0);
        notify_waiters(w);
        ring_settle(w);
        break;
    case MONITOR_FINISHED:
        w->finished = true;
        w->finished_count++;
        snprintf(w->finished_trigger, sizeof w->finished_trigger, "%s", frame->trigger);
        snprintf(w->finished_time, sizeof w->finished_time, "%s", frame->time);
        log_info("workflow_finished", LOG_STR("workspace", w->name), LOG_STR("trigger", frame->trigger));
        break;
    case MONITOR_FAILED:
        snprintf(w->failed_reason, sizeof w->failed_reason, "%s", frame->reason);
        snprintf(w->failed_error, sizeof w->failed_error, "%s", frame->error);
        break;
    case MONITOR_ANSWER:
        workflow_request_answered(w, frame);
        break;
    }
}

static void on_status_packet(struct workflow *w, const char *packet, size_t len)
{
    struct monitor_frame frame;
    struct error err;
    int result = monitor_parse(packet, len, &frame, &err);
    if (result < 0 && !w->message_invalid) {
        w->message_invalid = true;
        log_warn("worker_message_invalid", LOG_STR("workspace", w->name), LOG_STR("error", err.message));
    }
    if (result == 0 && frame.generation == w->generation)
        on_frame(w, &frame);
}

/* Reads at most max packets. The socket is closed at its end. */
static void read_status(struct workflow *w, unsigned max)
{
    for (unsigned i = 0; i < max && w->status_fd >= 0; i++) {
        struct error err;
        size_t len;
        int fds[IPC_MAX_FDS];
        unsigned n_fds = 0;
        int result = ipc_receive(w->status_fd, 0, w->table->packet, &len, fds, &n_fds, &err);
        for (unsigned k = 0; result == 0 && k < n_fds; k++)
            close(fds[k]); /* a worker has none to give */
        if (result == IPC_AGAIN)
            return;
        if (result == IPC_CLOSED || (result < 0 && err.code != ERROR_LIMIT)) {
            /* It is about to exit; if it does not, it is killed as one that was told to stop. */
            close_status(w);
            if (w->process.state != PROCESS_NONE)
                set_timer(w, clock_now_ns() + (uint64_t)w->table->config->stop_timeout_ns, on_stop_timer);
            return;
        }
        if (result == 0)
            on_status_packet(w, w->table->packet, len);
    }
}

static void on_status_readable(void *data, uint32_t events)
{
    (void)events;
    read_status(data, PACKETS_PER_WAKE);
}

/* ---- A life ---- */

static void life_forget(struct workflow *w)
{
    w->ready = w->reload_wanted = w->stop_requested = w->finished = w->overdue = w->message_invalid = false;
    w->stalled = -1;
    w->failed_reason[0] = w->failed_error[0] = '\0';
    w->events_per_second = 0;
    w->rate_read = w->rate_ns = 0;
    memset(&w->sample, 0, sizeof w->sample);
    buffer_reset(&w->status, 4096);
}

/* The worker's configuration: ours, with this workspace's adoption and without what is not its business. */
static int spawn(struct workflow *w, int status_fd, const int event_fds[2], struct error *err)
{
    char none[1] = "";
    struct config config = *w->table->config;
    config.controller_token = none;
    if (w->adopt)
        config.adopt = w->adopt;
    return process_spawn(w->table->processes, &w->process, w->name, w->generation, &config, w->arena_fd,
                         status_fd, event_fds, err);
}

static void restart_later(struct workflow *w)
{
    uint64_t now = clock_now_ns();
    struct restart_history next;
    uint64_t delay = restart_delay(&w->history, now, &next);
    w->history = next;
    w->restart_at_ns = now + delay;
    set_timer(w, w->restart_at_ns, on_restart_timer);
    set_state(w, WORKFLOW_RESTARTING);
}

static void life_record_end(struct workflow *w, const char *reason, const char *error)
{
    w->exit_unix_ns = clock_unix_ns();
    snprintf(w->exit_reason, sizeof w->exit_reason, "%s", reason);
    snprintf(w->exit_error, sizeof w->exit_error, "%s", error);
}

/* A start that did not come to a process. */
static void life_failed(struct workflow *w, const char *error)
{
    log_error("worker_start", LOG_STR("workspace", w->name), LOG_STR("error", error));
    close_status(w);
    ring_close(w);
    life_record_end(w, "start", error);
    if (w->state == WORKFLOW_STOPPING)
        set_state(w, WORKFLOW_STOPPED);
    else
        restart_later(w);
}

static void life_begin(struct workflow *w)
{
    struct error err;
    int fds[2], event_fds[2] = {-1, -1};
    life_forget(w);
    if (w->state != WORKFLOW_STARTING)
        set_state(w, WORKFLOW_STARTING);
    if (arena_take(w, &err) < 0 || ipc_pair(fds, &err) < 0) {
        life_failed(w, err.message);
        return;
    }
    w->generation = ++w->table->generations;
    arena_reset(w->arena, w->generation);
    w->started_ns = clock_now_ns();
    w->started_unix_ns = clock_unix_ns();
    w->status_fd = fds[0];
    if (loop_add(w->table->loop, fds[0], EPOLLIN, on_status_readable, w, &err) < 0) {
        close(fds[0]);
        close(fds[1]);
        w->status_fd = -1;
        life_failed(w, err.message);
        return;
    }
    if (w->table->ingest &&
        ingest_open(w->table->ingest, w->name, w->arena, &event_fds[0], &event_fds[1], &err) < 0) {
        close(fds[1]);
        life_failed(w, err.message);
        return;
    }
    if (spawn(w, fds[1], event_fds, &err) < 0)
        life_failed(w, err.message);
}

static void on_restart_timer(void *data)
{
    struct workflow *w = data;
    if (w->state != WORKFLOW_RESTARTING)
        return;
    w->restarts++;
    life_begin(w);
}

static void on_stop_timer(void *data)
{
    struct workflow *w = data;
    if (w->process.state != PROCESS_ALIVE)
        return;
    log_warn("worker_killed", LOG_STR("workspace", w->name), LOG_INT("pid", w->process.pid),
             LOG_STR("reason", "did not stop in time"));
    w->overdue = true;
    process_kill(&w->process);
}

void workflow_on_spawned(void *owner)
{
    struct workflow *w = owner;
    log_info("worker_start", LOG_STR("workspace", w->name), LOG_INT("pid", w->process.pid),
             LOG_UINT("generation", w->generation));
    if (w->state == WORKFLOW_STOPPING || w->status_fd < 0)
        set_timer(w, clock_now_ns() + (uint64_t)w->table->config->stop_timeout_ns, on_stop_timer);
    become_running(w);
}

void workflow_on_spawn_failed(void *owner, const char *error)
{
    struct workflow *w = owner;
    arena_drop(w);
    life_failed(w, error);
}

/* There may be a worker all the same: it finds its status socket at its end and exits. Until then it has the
 * old arena to itself. */
void workflow_on_spawn_lost(void *owner)
{
    struct workflow *w = owner;
    close_status(w);
    arena_drop(w);
    if (w->state == WORKFLOW_STOPPING) {
        life_record_end(w, "stopped", "");
        set_state(w, WORKFLOW_STOPPED);
    } else {
        life_begin(w);
    }
}

/* Counts the death for the event that the thread had in hand. */
static void remember_fault(struct workflow *w, const struct restart_exit *how)
{
    unsigned thread = (unsigned)w->stalled;
    if (!how->watchdog)
        thread = atomic_load_explicit(&w->arena->fault_thread, memory_order_relaxed);
    if (thread >= ARENA_THREADS)
        return;
    unsigned deaths = arena_remember_fault(w->arena, thread, how->watchdog ? 0 : (uint32_t)how->signal);
    if (deaths > 0)
        log_warn("event_crashed_worker", LOG_STR("workspace", w->name), LOG_UINT("thread", thread),
                 LOG_UINT("deaths", deaths), LOG_BOOL("skipped", deaths >= ARENA_POISON_DEATHS));
}

void workflow_on_ended(void *owner, const struct process_end *end)
{
    static const enum workflow_state final[] = {
        [RESTART_STOPPED] = WORKFLOW_STOPPED, [RESTART_FINISHED] = WORKFLOW_FINISHED,
        [RESTART_FENCED] = WORKFLOW_FENCED,   [RESTART_DELETED] = WORKFLOW_DELETED,
        [RESTART_FAILED] = WORKFLOW_FAILED,
    };
    struct workflow *w = owner;
    read_status(w, PACKETS_AT_END); /* its last words */
    close_status(w);
    ring_close(w);
    loop_timer_cancel(w->table->loop, on_stop_timer, w);
    monitor_sample(w->arena, clock_now_ns(), &w->sample);
    w->events_per_second = 0;

    struct restart_exit how = {.known = end->known,
                               .status = end->status,
                               .signal = end->signal,
                               .stop_requested = w->stop_requested,
                               .finished = w->finished,
                               .watchdog = w->stalled >= 0,
                               .overdue = w->overdue,
                               .failed = w->failed_reason};
    char reason[RESTART_REASON_MAX];
    enum restart_verdict verdict = restart_judge(&how, reason);
    if (restart_own_fault(&how))
        remember_fault(w, &how);
    life_record_end(w, reason, w->failed_error);

    bool calm = verdict == RESTART_STOPPED || verdict == RESTART_FINISHED || verdict == RESTART_DELETED;
    log_write(calm && !w->overdue ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, "worker_exit",
              (const struct log_field[]){LOG_STR("workspace", w->name), LOG_INT("pid", end->pid),
                                         LOG_STR("reason", reason), LOG_STR("error", w->failed_error)},
              w->failed_error[0] != '\0' ? 4 : 3);
    if (verdict == RESTART_AGAIN)
        restart_later(w);
    else
        set_state(w, final[verdict]);
}

/* ---- What others ask for ---- */

int workflow_start(struct workflow *w, const char *adopt, struct error *err)
{
    if (w->table->closing)
        return error_set(err, ERROR_LIMIT, "the supervisor is stopping");
    if (workflow_active(w) && w->state != WORKFLOW_RESTARTING)
        return error_set(err, ERROR_EXISTS, "Workspace %s is already %s", w->name,
                         w->state == WORKFLOW_STOPPING ? "running (stopping now)" : "running");
    char *copy = adopt ? strdup(adopt) : NULL;
    if (adopt && !copy)
        return error_set(err, ERROR_MEMORY, "workspace %s: out of memory", w->name);
    free(w->adopt);
    w->adopt = copy;
    loop_timer_cancel(w->table->loop, on_restart_timer, w);
    w->history = (struct restart_history){0};
    if (!workflow_active(w)) {
        w->finished_count = 0;
        w->finished_trigger[0] = w->finished_time[0] = '\0';
    }
    life_begin(w);
    return 0;
}

int workflow_adopt(struct workflow *w, const char *from, struct error *err)
{
    if (!workflow_needs_adoption(w))
        return error_set(err, ERROR_EXISTS, "Workspace %s is already running", w->name);
    char *copy = strdup(from);
    BUFFER_AUTO message = BUFFER_INIT;
    buffer_append_text(&message, "{\"message\":\"adopt\",\"from\":");
    buffer_append_json(&message, from, strlen(from));
    buffer_append_char(&message, '}');
    if (!copy || message.failed) {
        free(copy);
        return error_set(err, ERROR_MEMORY, "workspace %s: out of memory", w->name);
    }
    if (!tell(w, message.data, message.len)) {
        free(copy);
        return error_set(err, ERROR_UNAVAILABLE, "the worker of workspace %s cannot be told", w->name);
    }
    free(w->adopt);
    w->adopt = copy;
    return 0;
}

void workflow_stop(struct workflow *w)
{
    static const char stop[] = "{\"message\":\"stop\"}";
    if (!workflow_active(w)) {
        if (w->state != WORKFLOW_STOPPED)
            set_state(w, WORKFLOW_STOPPED);
        return;
    }
    if (w->state == WORKFLOW_STOPPING)
        return;
    w->stop_requested = true;
    if (w->state == WORKFLOW_RESTARTING || process_cancel(w->table->processes, &w->process)) {
        loop_timer_cancel(w->table->loop, on_restart_timer, w);
        close_status(w);
        set_state(w, WORKFLOW_STOPPED);
        return;
    }
    /* The end of its socket says the same. */
    if (!tell(w, stop, sizeof stop - 1) && w->status_fd >= 0)
        shutdown(w->status_fd, SHUT_WR);
    set_timer(w, clock_now_ns() + (uint64_t)w->table->config->stop_timeout_ns, on_stop_timer);
    set_state(w, WORKFLOW_STOPPING);
}

void workflow_kill(struct workflow *w)
{
    on_stop_timer(w);
}

void workflow_reload(struct workflow *w)
{
    if (w->state == WORKFLOW_RUNNING)
        tell_reload(w);
    else if (w->state == WORKFLOW_STARTING)
        w->reload_wanted = true;
}

void workflow_dispose(struct workflow *w)
{
    loop_timer_cancel(w->table->loop, on_restart_timer, w);
    loop_timer_cancel(w->table->loop, on_stop_timer, w);
    close_status(w);
    arena_drop(w);
    buffer_done(&w->status);
    buffer_done(&w->process.request);
    free(w->adopt);
    free(w);
}
