/* See process.h. */
#include "supervisor/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "supervisor/restart.h"

#define FORKSERVER_END_MS 2000 /* it exits at once when its socket ends; more means that it hangs */

extern char **environ;

TAILQ_HEAD(process_list, process);

struct process_table {
    struct loop *loop;
    char *worker_path;
    struct process_events events;

    pid_t pid;  /* of the forkserver; 0: not running */
    int pidfd;  /* -1: not running */
    int socket; /* -1: not running, or its end was seen */
    bool ready;
    uint64_t started_ns;
    struct restart_history history;

    struct process_list waiting;
    struct process_list sent; /* oldest first */
    struct process_list alive;
    unsigned n_sent;
    char packet[IPC_MAX];
};

static void forkserver_start_later(struct process_table *table);
static void on_socket(void *data, uint32_t events);
static void on_forkserver_pidfd(void *data, uint32_t events);

/* The forkserver sees descriptors 0-2 and its socket, an empty signal mask and default dispositions. */
static int forkserver_exec(const char *path, int socket, pid_t *ret_pid, struct error *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    char *argv[] = {strdup(path), strdup("--forkserver"), NULL};
    int e = argv[0] && argv[1] ? 0 : ENOMEM;
    if (e == 0)
        e = posix_spawn_file_actions_adddup2(&actions, socket, IPC_FORKSERVER_FD);
    if (e == 0)
        e = posix_spawnattr_setsigmask(&attributes, &none);
    if (e == 0)
        e = posix_spawnattr_setsigdefault(&attributes, &all);
    /* A process group of its own: a Ctrl-C at the terminal is for the supervisor, which then drains the
     * workers. */
    if (e == 0)
        e = posix_spawnattr_setpgroup(&attributes, 0);
    if (e == 0)
        e = posix_spawnattr_setflags(&attributes,
                                     POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    if (e == 0)
        e = posix_spawn(ret_pid, path, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(argv[0]);
    free(argv[1]);
    return e == 0 ? 0 : error_set_errno(err, e, "%s", path);
}

static int forkserver_start(struct process_table *table, struct error *err)
{
    int fds[2];
    if (ipc_pair(fds, err) < 0)
        return -1;
    pid_t pid;
    int result = forkserver_exec(table->worker_path, fds[1], &pid, err);
    close(fds[1]);
    if (result < 0) {
        close(fds[0]);
        return -1;
    }
    int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0) {
        error_set_errno(err, errno, "pidfd_open %d", (int)pid);
        goto fail;
    }
    if (loop_add(table->loop, pidfd, EPOLLIN, on_forkserver_pidfd, table, err) < 0)
        goto fail;
    if (loop_add(table->loop, fds[0], EPOLLIN, on_socket, table, err) < 0) {
        loop_remove(table->loop, pidfd);
        goto fail;
    }
    table->pid = pid;
    table->pidfd = pidfd;
    table->socket = fds[0];
    table->started_ns = clock_now_ns();
    return 0;
fail:
    if (pidfd >= 0)
        close(pidfd);
    close(fds[0]);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return -1;
}

static void on_start_timer(void *data)
{
    struct process_table *table = data;
    struct error err;
    if (forkserver_start(table, &err) == 0)
        return;
    log_error("forkserver_start", LOG_STR("error", err.message));
    forkserver_start_later(table);
}

static void forkserver_start_later(struct process_table *table)
{
    struct restart_history next;
    struct error err;
    uint64_t now = clock_now_ns();
    uint64_t delay = restart_delay(&table->history, now, &next);
    table->history = next;
    if (loop_timer_set(table->loop, now + delay, on_start_timer, table, &err) < 0)
        log_error("forkserver_start", LOG_STR("error", err.message));
}

static void process_forget(struct process *process)
{
    if (process->fds[1] >= 0)
        close(process->fds[1]);
    process->fds[0] = process->fds[1] = process->fds[2] = process->fds[3] = -1;
    process->state = PROCESS_NONE;
    buffer_done(&process->request);
}

static void close_socket(struct process_table *table)
{
    if (table->socket < 0)
        return;
    loop_remove(table->loop, table->socket);
    close(table->socket);
    table->socket = -1;
    table->ready = false;
}

/* The forkserver is gone and reaped: nothing sent will be answered any more. */
static void forkserver_ended(struct process_table *table, const struct process_end *end)
{
    bool was_ready = table->history.healthy_since_ns != 0;
    log_error("forkserver_exit", LOG_INT("pid", table->pid), LOG_INT("status", end->status),
              LOG_INT("signal", end->signal));
    loop_remove(table->loop, table->pidfd);
    close(table->pidfd);
    table->pidfd = -1;
    table->pid = 0;
    close_socket(table);
    forkserver_start_later(table);

    struct process_list lost = TAILQ_HEAD_INITIALIZER(lost);
    TAILQ_CONCAT(&lost, &table->sent, link);
    table->n_sent = 0;
    struct process *process;
    while ((process = TAILQ_FIRST(&lost)) != NULL) {
        TAILQ_REMOVE(&lost, process, link);
        process_forget(process);
        table->events.lost(process->owner);
    }
    table->events.forkserver_ended(table->events.data, was_ready);
}

/* Reaps the process behind pidfd. false: it lives. */
static bool reap_pidfd(int pidfd, struct process_end *ret_end)
{
    siginfo_t info = {0};
    *ret_end = (struct process_end){.known = false};
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) < 0)
        return errno != EINTR;
    if (info.si_pid == 0)
        return false;
    ret_end->known = true;
    if (info.si_code == CLD_EXITED)
        ret_end->status = info.si_status;
    else
        ret_end->signal = info.si_status;
    return true;
}

static void on_forkserver_pidfd(void *data, uint32_t events)
{
    struct process_table *table = data;
    (void)events;
    struct process_end end;
    if (reap_pidfd(table->pidfd, &end))
        forkserver_ended(table, &end);
}

static struct process *sent_find(struct process_table *table, uint32_t generation)
{
    struct process *process;
    TAILQ_FOREACH(process, &table->sent, link)
    if (process->generation == generation)
        return process;
    return NULL;
}

static void worker_ended(struct process_table *table, struct process *process, struct process_end *end)
{
    loop_remove(table->loop, process->pidfd);
    close(process->pidfd);
    end->pid = process->pid;
    process->pidfd = -1;
    process->pid = 0;
    TAILQ_REMOVE(&table->alive, process, link);
    process_forget(process);
    table->events.ended(process->owner, end);
}

static void on_worker_pidfd(void *data, uint32_t events)
{
    struct process *process = data;
    struct process_end end;
    (void)events;
    if (reap_pidfd(process->pidfd, &end))
        worker_ended(process->table, process, &end);
}

/* Sends what waits, as far as the forkserver may be loaded. */
static void pump(struct process_table *table)
{
    struct process *process;
    struct error err;
    bool full = false;
    while (table->ready && table->n_sent < PROCESS_IN_REQUEST_MAX &&
           (process = TAILQ_FIRST(&table->waiting)) != NULL) {
        int result = ipc_send(table->socket, process->request.data, process->request.len, process->fds,
                              process->n_fds, &err);
        if (result == IPC_AGAIN || result == IPC_CLOSED) { /* its end arrives on its own */
            full = result == IPC_AGAIN;
            break;
        }
        TAILQ_REMOVE(&table->waiting, process, link);
        if (result < 0) {
            process_forget(process);
            table->events.failed(process->owner, err.message);
            continue;
        }
        close(process->fds[1]);
        process->fds[1] = -1;
        buffer_done(&process->request);
        process->state = PROCESS_SENT;
        process->sent_ns = clock_now_ns();
        TAILQ_INSERT_TAIL(&table->sent, process, link);
        table->n_sent++;
    }
    if (table->socket >= 0 &&
        loop_modify(table->loop, table->socket, EPOLLIN | (full ? EPOLLOUT : 0u), &err) < 0)
        log_error("forkserver_socket", LOG_STR("error", err.message));
}

/* The worker is there: from now on its pidfd says when it ends. */
static void answer_spawned(struct process_table *table, struct process *process, int64_t pid)
{
    struct error err;
    int pidfd = -1;
    if (pid <= 1 || pid > INT32_MAX || pid == getpid() || pid == table->pid)
        error_set(&err, ERROR_INVALID, "the forkserver names the pid %lld", (long long)pid);
    else if ((pidfd = pidfd_open((pid_t)pid, 0)) < 0)
        error_set_errno(&err, errno, "pidfd_open %lld", (long long)pid);
    else if (loop_add(table->loop, pidfd, EPOLLIN, on_worker_pidfd, process, &err) == 0) {
        process->pid = (pid_t)pid;
        process->pidfd = pidfd;
        process->state = PROCESS_ALIVE;
        TAILQ_INSERT_TAIL(&table->alive, process, link);
        table->events.spawned(process->owner);
        return;
    }
    if (pidfd >= 0) {
        pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
        close(pidfd);
    }
    process_forget(process);
    table->events.failed(process->owner, err.message);
}

static void on_ready(struct process_table *table)
{
    table->ready = true;
    table->history.healthy_since_ns = clock_now_ns();
    log_info("forkserver_ready", LOG_INT("pid", table->pid));
    table->events.forkserver_ready(table->events.data);
    pump(table);
}

static void on_packet(struct process_table *table, const char *packet, size_t len)
{
    struct json_value message, kind, value;
    struct error err;
    if (json_scan(packet, len, &message, &err) < 0 || !json_member(&message, "message", &kind)) {
        log_error("forkserver_message_invalid", LOG_UINT("bytes", len));
        return;
    }
    if (json_equals(&kind, "ready", 5)) {
        on_ready(table);
        return;
    }
    int64_t generation, pid = 0;
    if (!json_member(&message, "generation", &value) || !json_integer(&value, &generation) ||
        generation < 0 || generation > UINT32_MAX) {
        log_error("forkserver_message_invalid", LOG_UINT("bytes", len));
        return;
    }
    struct process *process = sent_find(table, (uint32_t)generation);
    if (!process)
        return;
    TAILQ_REMOVE(&table->sent, process, link);
    table->n_sent--;
    if (json_equals(&kind, "spawned", 7) && json_member(&message, "pid", &value) &&
        json_integer(&value, &pid)) {
        answer_spawned(table, process, pid);
        return;
    }
    BUFFER_AUTO text = BUFFER_INIT;
    if (json_member(&message, "error", &value) && value.type == JSON_STRING)
        json_unescape(&value, &text);
    process_forget(process);
    table->events.failed(process->owner, text.len > 0 ? buffer_text(&text) : "the forkserver could not fork");
}

static void on_socket(void *data, uint32_t events)
{
    struct process_table *table = data;
    (void)events;
    for (unsigned i = 0; i < PROCESS_IN_REQUEST_MAX && table->socket >= 0; i++) {
        struct error err;
        size_t len;
        int fds[IPC_MAX_FDS];
        unsigned n_fds = 0;
        int result = ipc_receive(table->socket, 0, table->packet, &len, fds, &n_fds, &err);
        for (unsigned k = 0; result == 0 && k < n_fds; k++)
            close(fds[k]);
        if (result == IPC_AGAIN)
            break;
        if (result != 0) {
            /* Without its socket it is of no use; its pidfd tells when it is gone. */
            if (result < 0)
                log_error("forkserver_socket", LOG_STR("error", err.message));
            close_socket(table);
            pidfd_send_signal(table->pidfd, SIGKILL, NULL, 0);
            return;
        }
        on_packet(table, table->packet, len);
    }
    pump(table);
}

int process_table_new(struct loop *loop, const char *worker_path, const struct process_events *events,
                      struct process_table **ret_table, struct error *err)
{
    struct process_table *table = calloc(1, sizeof *table);
    if (!table)
        return error_set(err, ERROR_MEMORY, "process table: out of memory");
    table->loop = loop;
    table->events = *events;
    table->pidfd = table->socket = -1;
    TAILQ_INIT(&table->waiting);
    TAILQ_INIT(&table->sent);
    TAILQ_INIT(&table->alive);
    table->worker_path = strdup(worker_path);
    if (!table->worker_path) {
        error_set(err, ERROR_MEMORY, "process table: out of memory");
        goto fail;
    }
    if (forkserver_start(table, err) < 0)
        goto fail;
    *ret_table = table;
    return 0;
fail:
    process_table_free(table);
    return -1;
}

static void forkserver_end(struct process_table *table)
{
    close_socket(table);
    struct pollfd poll_fd = {.fd = table->pidfd, .events = POLLIN};
    int n;
    while ((n = poll(&poll_fd, 1, FORKSERVER_END_MS)) < 0 && errno == EINTR)
        ;
    if (n == 0) {
        log_warn("forkserver_killed", LOG_INT("pid", table->pid));
        pidfd_send_signal(table->pidfd, SIGKILL, NULL, 0);
    }
    siginfo_t info;
    while (waitid(P_PIDFD, (id_t)table->pidfd, &info, WEXITED) < 0 && errno == EINTR)
        ;
    loop_remove(table->loop, table->pidfd);
    close(table->pidfd);
    table->pidfd = -1;
    table->pid = 0;
}

void process_table_free(struct process_table *table)
{
    if (!table)
        return;
    loop_timer_cancel(table->loop, on_start_timer, table);
    if (table->pid != 0)
        forkserver_end(table);
    free(table->worker_path);
    free(table);
}

bool process_forkserver_ready(const struct process_table *table)
{
    return table->ready;
}

pid_t process_forkserver_pid(const struct process_table *table)
{
    return table->pid;
}

void process_init(struct process *process, void *owner)
{
    *process = (struct process){.state = PROCESS_NONE, .pidfd = -1, .fds = {-1, -1, -1, -1}, .owner = owner};
}

static void write_request(struct buffer *out, const char *workspace, uint32_t generation,
                          const struct config *config)
{
    buffer_append_text(out, "{\"message\":\"spawn\",\"workspace\":");
    buffer_append_json(out, workspace, strlen(workspace));
    buffer_append_text(out, ",\"generation\":");
    buffer_append_u64(out, generation);
    buffer_append_text(out, ",\"config\":");
    config_write_json(config, out);
    buffer_append_char(out, '}');
}

int process_spawn(struct process_table *table, struct process *process, const char *workspace,
                  uint32_t generation, const struct config *config, int arena_fd, int status_fd,
                  const int event_fds[2], struct error *err)
{
    write_request(&process->request, workspace, generation, config);
    process->fds[0] = arena_fd;
    process->fds[1] = status_fd;
    process->fds[2] = event_fds[0];
    process->fds[3] = event_fds[1];
    process->n_fds = event_fds[0] >= 0 && event_fds[1] >= 0 ? 4 : 2;
    if (process->request.failed) {
        process_forget(process);
        return error_set(err, ERROR_MEMORY, "spawn request: out of memory");
    }
    process->table = table;
    process->generation = generation;
    process->state = PROCESS_WAITING;
    TAILQ_INSERT_TAIL(&table->waiting, process, link);
    pump(table);
    return 0;
}

bool process_cancel(struct process_table *table, struct process *process)
{
    if (process->state != PROCESS_WAITING)
        return false;
    TAILQ_REMOVE(&table->waiting, process, link);
    process_forget(process);
    return true;
}

void process_kill(struct process *process)
{
    if (process->state == PROCESS_ALIVE)
        pidfd_send_signal(process->pidfd, SIGKILL, NULL, 0);
}

static struct process *alive_find(struct process_table *table, pid_t pid)
{
    struct process *process;
    TAILQ_FOREACH(process, &table->alive, link)
    if (process->pid == pid)
        return process;
    return NULL;
}

void process_reap(struct process_table *table)
{
    for (unsigned i = 0; i < 1000; i++) { /* bounded: what remains is found at the next tick */
        siginfo_t info = {0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0)
            return;
        struct process *process = alive_find(table, info.si_pid);
        if (process)
            on_worker_pidfd(process, EPOLLIN);
        else if (info.si_pid == table->pid)
            on_forkserver_pidfd(table, EPOLLIN);
        else if (!TAILQ_EMPTY(&table->sent))
            return; /* perhaps a worker whose pid we are about to be told */
        else
            waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG);
    }
}

void process_tick(struct process_table *table, uint64_t now_ns)
{
    const struct process *oldest = TAILQ_FIRST(&table->sent);
    bool starting = table->pid != 0 && !table->ready;
    uint64_t since = oldest ? oldest->sent_ns : table->started_ns;
    if ((!oldest && !starting) || now_ns < since || now_ns - since < PROCESS_ANSWER_NS)
        return;
    log_error("forkserver_hangs", LOG_INT("pid", table->pid));
    if (table->pidfd >= 0)
        pidfd_send_signal(table->pidfd, SIGKILL, NULL, 0);
}
