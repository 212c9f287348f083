#include "worker/worker.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/emission.h"
#include "worker/executor/executor.h"
#include "worker/globals.h"
#include "worker/local/container_keeper.h"
#include "worker/local/program.h"
#include "worker/report.h"
#include "worker/checkpoint/request.h"
#include "worker/router.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"

#define STATUS_EVERY (100 * CLOCK_MS)
#define THREAD_STACK (256u << 10)

static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS};

/* --- threads and faults --- */

static struct arena *fault_arena;                /* set before the threads start */
static _Thread_local unsigned fault_thread_slot; /* + 1; 0: not one of ours */
static _Thread_local struct arena_thread *own_life;

/* Tells the supervisor which thread it was, then dies of the same signal. Async-signal-safe. */
static void on_fault(int number)
{
    if (fault_arena && fault_thread_slot) {
        atomic_store(&fault_arena->fault_thread, fault_thread_slot - 1);
        atomic_store(&fault_arena->fault_signal, (uint32_t)number);
    }
    raise(number); /* SA_RESETHAND: the default action */
}

static void catch_faults(struct arena *arena)
{
    fault_arena = arena;
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER)};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigaction(faults[i], &action, NULL);
}

void worker_thread_enter(struct worker *worker, unsigned slot, const char *name)
{
    struct arena_thread *life = &worker->arena->thread[slot];
    char text[16];
    snprintf(text, sizeof text, "%s", name);
    pthread_setname_np(pthread_self(), text);
    fault_thread_slot = slot + 1;
    own_life = life;
    atomic_store(&life->tid, (uint32_t)syscall(SYS_gettid));
    arena_beat(life, clock_coarse_ns());
}

void worker_thread_stand_in(unsigned slot)
{
    fault_thread_slot = slot + 1;
    if (own_life)
        atomic_store_explicit(&own_life->busy, 0, memory_order_relaxed);
}

void worker_thread_be_itself(struct worker *worker)
{
    fault_thread_slot = 0;
    if (!own_life)
        return;
    fault_thread_slot = (unsigned)(own_life - worker->arena->thread) + 1;
    arena_beat(own_life, clock_coarse_ns());
    atomic_store_explicit(&own_life->busy, 1, memory_order_relaxed);
}

int worker_thread_start(unsigned long *ret_thread, void *(*run)(void *), void *data, struct error *err)
{
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&all, faults[i]);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(ret_thread, &attributes, run, data);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return r ? error_set_errno(err, r, "pthread_create") : 0;
}

uint64_t worker_in_flight(const struct worker *worker)
{
    uint64_t read = 0;
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
        read += arena_get(&worker->arena->source[i].read);
    uint64_t committed = atomic_load_explicit(&worker->committed, memory_order_relaxed);
    return (read > committed ? read - committed : 0) +
           (worker->internal ? internal_pending(worker->internal) : 0) +
           atomic_load_explicit(&worker->waiting, memory_order_relaxed);
}

/* --- messages --- */

static void post(struct worker *w, struct buffer *text)
{
    char *copy = text->failed ? NULL : strdup(buffer_text(text));
    pthread_mutex_lock(&w->lock);
    char **grown = copy ? realloc(w->messages, (w->n_messages + 1) * sizeof *grown) : NULL;
    if (grown) {
        w->messages = grown;
        w->messages[w->n_messages++] = copy;
    } else {
        free(copy);
    }
    pthread_mutex_unlock(&w->lock);
    loop_wake(w->loop);
}

static void begin_message(const struct worker *w, const char *kind, struct buffer *out)
{
    buffer_printf(out, "{\"message\":\"%s\",\"generation\":%u", kind, w->generation);
}

static void text_member(struct buffer *out, const char *name, const char *text)
{
    buffer_printf(out, ",\"%s\":", name);
    buffer_append_json(out, text, utf8_valid(text, strlen(text)) ? strlen(text) : 0);
}

void worker_ready(struct worker *worker)
{
    BUFFER_AUTO text = BUFFER_INIT;
    begin_message(worker, "ready", &text);
    buffer_printf(&text, ",\"pid\":%d}", (int)getpid());
    report_state(worker->report, ARENA_RUNNING);
    post(worker, &text);
}

void worker_finished(struct worker *worker, const char *trigger)
{
    char time[CLOCK_ISO_MAX];
    BUFFER_AUTO text = BUFFER_INIT;
    begin_message(worker, "finished", &text);
    text_member(&text, "trigger", trigger);
    text_member(&text, "time", clock_iso(clock_unix_ns(), time));
    buffer_append_char(&text, '}');
    log_info("workflow_finished", LOG_STR("trigger", trigger));
    post(worker, &text);
}

void worker_failed(struct worker *worker, const char *reason, const char *error, bool expected)
{
    BUFFER_AUTO text = BUFFER_INIT;
    begin_message(worker, "failed", &text);
    text_member(&text, "reason", reason);
    text_member(&text, "error", error);
    buffer_append_char(&text, '}');
    if (expected)
        log_info("worker_failed", LOG_STR("reason", reason), LOG_STR("error", error));
    else
        log_error("worker_failed", LOG_STR("reason", reason), LOG_STR("error", error));
    post(worker, &text);
}

void worker_answer(struct worker *worker, int64_t id, uint64_t count)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (id < 0)
        return;
    begin_message(worker, "answer", &text);
    buffer_printf(&text, ",\"id\":%lld,\"count\":%llu}", (long long)id, (unsigned long long)count);
    post(worker, &text);
}

void worker_refuse(struct worker *worker, int64_t id, int status, const char *error)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (id < 0)
        return;
    begin_message(worker, "answer", &text);
    buffer_printf(&text, ",\"id\":%lld,\"status\":%d", (long long)id, status);
    text_member(&text, "error", error);
    buffer_append_char(&text, '}');
    post(worker, &text);
}

void worker_hold(struct worker *worker, bool held)
{
    if (atomic_exchange(&worker->held, held) == held)
        return;
    log_info(held ? "worker_paused" : "worker_resumed", LOG_STR("workspace", worker->workspace));
    report_held(worker->report, held);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES && !held; i++)
        if (worker->sources[i])
            source_wake(worker->sources[i]);
}

/* Sends what waits; false when the supervisor is gone. */
static bool flush_messages(struct worker *w)
{
    bool connected = true;
    pthread_mutex_lock(&w->lock);
    size_t sent = 0;
    for (; sent < w->n_messages; sent++) {
        int r = w->status_fd < 0
                    ? 0
                    : ipc_send(w->status_fd, w->messages[sent], strlen(w->messages[sent]), NULL, 0, NULL);
        if (r == IPC_AGAIN)
            break;
        connected &= r != IPC_CLOSED;
        free(w->messages[sent]);
    }
    if (sent && sent < w->n_messages)
        memmove(w->messages, w->messages + sent, (w->n_messages - sent) * sizeof *w->messages);
    w->n_messages -= sent;
    pthread_mutex_unlock(&w->lock);
    return connected;
}

static void status_due(void *data)
{
    (void)data; /* the loop goes round, which sends it */
}

static void send_status(struct worker *w)
{
    if (w->status_fd < 0 || !report_changed(w->report))
        return;
    uint64_t now = clock_now_ns();
    if (now < w->status_sent_ns + STATUS_EVERY) {
        loop_timer_set(w->loop, w->status_sent_ns + STATUS_EVERY, status_due, w, NULL);
        return;
    }
    BUFFER_AUTO text = BUFFER_INIT;
    begin_message(w, "status", &text);
    buffer_append_text(&text, ",\"status\":");
    report_write(w->report, &text);
    buffer_append_char(&text, '}');
    w->status_sent_ns = now;
    if (!text.failed && text.len <= IPC_MAX)
        ipc_send(w->status_fd, text.data, text.len, NULL, 0, NULL);
}

/* --- the main thread --- */

static void stop(struct worker *w, const char *why)
{
    log_info("worker_stop", LOG_STR("why", why));
    checkpoint_stop(w->checkpoint, clock_now_ns() + (uint64_t)w->config->stop_timeout_ns);
}

static void on_signal(void *data, uint32_t events)
{
    struct worker *w = data;
    struct signalfd_siginfo info;
    (void)events;
    while (read(w->signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGHUP)
            checkpoint_reload(w->checkpoint);
        else
            stop(w, "signal");
    }
}

static void on_order(struct worker *w, const char *packet, size_t len)
{
    struct json_value root;
    struct json_value kind;
    struct json_value from;
    struct error err;
    if (json_scan(packet, len, &root, &err) < 0 || root.type != JSON_OBJECT ||
        !json_member(&root, "message", &kind) || kind.type != JSON_STRING) {
        log_error("supervisor_message", LOG_STR("error", "not understood"));
        return;
    }
    if (json_equals(&kind, "stop", 4))
        stop(w, "supervisor");
    else if (json_equals(&kind, "reload", 6))
        checkpoint_reload(w->checkpoint);
    else if (json_equals(&kind, "adopt", 5) && json_member(&root, "from", &from) &&
             from.type == JSON_STRING) {
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&from, &text);
        checkpoint_adopt(w->checkpoint, buffer_text(&text));
    } else if (request_is(kind.text, kind.len)) {
        checkpoint_request(w->checkpoint, packet, len);
    }
}

static void on_status_socket(void *data, uint32_t events)
{
    struct worker *w = data;
    char *packet = malloc(IPC_MAX);
    int fds[IPC_MAX_FDS];
    unsigned n_fds = 0;
    size_t len;
    int r = 0;
    struct error err;
    (void)events;
    while (packet && (r = ipc_receive(w->status_fd, 0, packet, &len, fds, &n_fds, &err)) == 0) {
        for (unsigned i = 0; i < n_fds; i++)
            close(fds[i]);
        on_order(w, packet, len);
    }
    free(packet);
    if (r == IPC_CLOSED) {
        loop_remove(w->loop, w->status_fd);
        stop(w, "the supervisor is gone");
    }
}

static void on_watch(void *data, uint32_t events)
{
    struct worker *w = data;
    (void)events;
    checkpoint_storage_changed(w->checkpoint);
}

void worker_watch(struct worker *worker, int fd)
{
    pthread_mutex_lock(&worker->lock);
    worker->watch_fd = fd;
    worker->watch_generation++;
    pthread_mutex_unlock(&worker->lock);
    loop_wake(worker->loop);
}

/* Watches the descriptor that the checkpoint thread has named last. Edge-triggered: that thread reads it. */
static void follow_watch(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    bool changed = w->watch_seen != w->watch_generation;
    int fd = w->watch_fd;
    w->watch_seen = w->watch_generation;
    pthread_mutex_unlock(&w->lock);
    if (!changed)
        return;
    struct error err;
    if (w->watched_fd >= 0)
        loop_remove(w->loop, w->watched_fd);
    w->watched_fd = fd;
    if (fd >= 0 && loop_add(w->loop, fd, EPOLLIN | EPOLLET, on_watch, w, &err) < 0)
        log_warn("storage_watch", LOG_STR("error", err.message));
}

static int watch_signals(struct worker *w, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    w->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (w->signal_fd < 0)
        return error_set_errno(err, errno, "signalfd");
    return loop_add(w->loop, w->signal_fd, EPOLLIN, on_signal, w, err);
}

static int serve(struct worker *w)
{
    int status;
    struct error err;
    struct arena_thread *life = &w->arena->thread[ARENA_THREAD_MAIN];
    while (!checkpoint_ended(w->checkpoint, &status)) {
        flush_messages(w);
        send_status(w);
        follow_watch(w);
        if (loop_run_once(w->loop, UINT64_MAX, &err) < 0)
            log_error("worker_loop", LOG_STR("error", err.message));
        arena_beat(life, clock_coarse_ns());
    }
    w->status_sent_ns = 0;
    send_status(w);
    flush_messages(w);
    return status;
}

/* --- life --- */

static int open_arena(struct worker *w, const struct worker_options *options, struct error *err)
{
    int fd = options->arena_fd;
    if (fd < 0 && arena_create(&fd, err) < 0)
        return -1;
    int r = arena_map(fd, &w->arena, err);
    if (fd != options->arena_fd)
        close(fd);
    if (r == 0 && options->arena_fd < 0)
        arena_reset(w->arena, options->generation);
    return r;
}

static unsigned count_shards(const struct config *config)
{
    long n = config->shards > 0 ? (long)config->shards : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > ARENA_MAX_SHARDS ? ARENA_MAX_SHARDS : (unsigned)n;
}

static int assemble(struct worker *w, const struct worker_options *options, struct error *err)
{
    unsigned char random[16];
    w->config = options->config;
    w->workspace = options->workspace;
    w->status_fd = options->status_fd;
    w->ingest_fd = options->ingest_fd;
    w->durable_fd = options->durable_fd;
    w->generation = options->generation;
    w->n_shards = count_shards(w->config);
    atomic_store(&w->decisions, clock_unix_ns() / 1000); /* above those of earlier lives */
    w->signal_fd = w->watch_fd = w->watched_fd = -1;
    pthread_mutex_init(&w->lock, NULL);
    globals_slot_init(&w->globals);
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return error_set_errno(err, errno, "getrandom");
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(w->writer + 2 * i, 3, "%02x", random[i]);
    if (programs_new(w->config, &w->programs, err) < 0 ||
        container_keeper_new(w->config, w->writer, &w->keeper, err) < 0 || open_arena(w, options, err) < 0)
        return -1;
    atomic_store(&w->arena->worker.n_shards, w->n_shards);
    catch_faults(w->arena);
    worker_thread_enter(w, ARENA_THREAD_MAIN, "triggerflow-wor");
    if (!(w->loop = loop_new(err)))
        return -1;
    w->report = report_new(w->arena, w->loop);
    w->emissions = emissions_new();
    if (!w->report || !w->emissions)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (watch_signals(w, err) < 0 || executor_new(w, &w->executor, err) < 0 ||
        checkpoint_new(w, &w->checkpoint, err) < 0)
        return -1;
    if (w->status_fd >= 0 && loop_add(w->loop, w->status_fd, EPOLLIN, on_status_socket, w, err) < 0)
        return -1;
    return checkpoint_start(w->checkpoint, err);
}

static void dismantle(struct worker *w)
{
    checkpoint_free(w->checkpoint);
    executor_free(w->executor);
    programs_free(w->programs);
    container_keeper_free(w->keeper);
    router_free(atomic_load(&w->router));
    emissions_free(w->emissions);
    globals_slot_done(&w->globals);
    report_free(w->report);
    if (w->loop)
        loop_free(w->loop);
    if (w->signal_fd >= 0)
        close(w->signal_fd);
    for (size_t i = 0; i < w->n_messages; i++)
        free(w->messages[i]);
    free(w->messages);
    fault_arena = NULL;
    arena_unmap(w->arena);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int worker_run(const struct worker_options *options)
{
    struct error err;
    mallopt(M_ARENA_MAX, 2); /* a heap per thread would cost more memory than the threads need */
    struct worker *w = aligned_alloc(64, (sizeof *w + 63) & ~(size_t)63);
    if (!w) {
        log_error("worker_start", LOG_STR("error", "out of memory"));
        return IPC_EXIT_ERROR;
    }
    memset(w, 0, sizeof *w);
    int status = IPC_EXIT_ERROR;
    if (assemble(w, options, &err) < 0) {
        log_error("worker_start", LOG_STR("error", err.message));
        if (w->status_fd >= 0 && w->loop)
            worker_failed(w, "error", err.message, false), flush_messages(w);
        if (err.code == ERROR_INVALID)
            status = IPC_EXIT_USAGE;
    } else {
        status = serve(w);
        log_info("worker_end", LOG_INT("status", status));
    }
    dismantle(w);
    return status;
}
