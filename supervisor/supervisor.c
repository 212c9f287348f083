/* See supervisor.h. */
#include "supervisor/supervisor.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/storage/storage.h"
#include "supervisor/api_controller.h"
#include "supervisor/api_event.h"
#include "supervisor/api_trigger.h"
#include "supervisor/auth.h"
#include "supervisor/command.h"
#include "supervisor/http.h"
#include "supervisor/lookup.h"
#include "supervisor/notify.h"
#include "supervisor/process.h"
#include "supervisor/rundir.h"
#include "supervisor/workflow.h"

#define API_CONNECTIONS_MAX 2048
#define LIST_RETRY_MIN_NS (100 * CLOCK_MS)
#define LIST_RETRY_MAX_NS (5 * CLOCK_S)
#define BOOTSTRAP_EVERY_NS (2 * CLOCK_S)
#define STOP_MARGIN_NS (15 * CLOCK_S) /* beyond stop_timeout: killing, reaping, the forkserver */

struct supervisor {
    struct supervisor_options *options;
    struct config config;
    int lock_fd;
    int signal_fd;
    struct loop *loop;
    struct command_queue *queue;
    struct lookup *lookup;
    struct process_table *processes;
    struct workflow_table workflows;
    struct api_controller api;
    struct api_trigger trigger_api;
    struct api_event *events;
    struct notify notify;
    struct http_server *tcp; /* the controller API, */
    struct http_server *local;
    struct http_server *api_tcp; /* and the trigger API */
    struct http_server *api_local;
    struct lookup_job list; /* of the stored workspaces, at the start */
    uint64_t list_retry_ns;
    bool list_failed;            /* and that was logged */
    struct lookup_job bootstrap; /* whether this workspace is stored */
    char bootstrap_name[STORAGE_NAME_MAX + 1];
    bool bootstrap_waits; /* it was not, and that was logged */
    bool serving;         /* the forkserver has been ready */
    bool stopping;
    bool config_refused; /* at the last reload */
    bool failed;         /* the start failed; with the error */
    struct error error;
};

/* For people who look at the unit. */
static void show_status(struct supervisor *s)
{
    char summary[NOTIFY_STATUS_MAX], text[2 * NOTIFY_STATUS_MAX];
    if (s->api.listed || s->stopping)
        workflow_summary(&s->workflows, summary, sizeof summary);
    else
        snprintf(summary, sizeof summary, "waiting for the %s", s->serving ? "storage" : "forkserver");
    snprintf(text, sizeof text, "%s%s%s", s->stopping ? "stopping: " : "", summary,
             s->config_refused ? "; the new configuration was refused (see the log)" : "");
    notify_status(&s->notify, text);
}

/* ---- Starting workflows ---- */

static void start_workspace(struct supervisor *s, const char *name)
{
    struct workflow *w;
    struct error err;
    if (!storage_name_valid(name))
        log_warn("workspace_name_invalid", LOG_STR("workspace", name));
    else if (workflow_get(&s->workflows, name, &w, &err) < 0)
        log_error("workspace_start", LOG_STR("workspace", name), LOG_STR("error", err.message));
    else if (!workflow_active(w) && workflow_start(w, NULL, &err) < 0)
        log_error("workspace_start", LOG_STR("workspace", name), LOG_STR("error", err.message));
}

static void list_workspaces(void *data)
{
    struct supervisor *s = data;
    struct error err;
    if (lookup_post(s->lookup, &s->list, &err) == 0)
        return;
    if (loop_timer_set(s->loop, clock_now_ns() + LIST_RETRY_MAX_NS, list_workspaces, s, &err) < 0)
        log_error("timer", LOG_STR("error", err.message));
}

static void list_later(struct supervisor *s)
{
    struct error err;
    if (!s->list_failed)
        log_warn("storage", LOG_STR("error", s->list.error.message),
                 LOG_STR("then", "retried until it answers"));
    s->list_failed = true;
    s->api.storage_errors++;
    if (loop_timer_set(s->loop, clock_now_ns() + s->list_retry_ns, list_workspaces, s, &err) < 0)
        log_error("timer", LOG_STR("error", err.message));
    s->list_retry_ns = s->list_retry_ns * 2 < LIST_RETRY_MAX_NS ? s->list_retry_ns * 2 : LIST_RETRY_MAX_NS;
}

static void look_bootstrap_up(void *data)
{
    struct supervisor *s = data;
    struct error err;
    if (s->stopping || lookup_post(s->lookup, &s->bootstrap, &err) == 0)
        return;
    if (loop_timer_set(s->loop, clock_now_ns() + BOOTSTRAP_EVERY_NS, look_bootstrap_up, s, &err) < 0)
        log_error("timer", LOG_STR("error", err.message));
}

/* It may be stored only later, by another program that does not tell us. */
static void on_bootstrap(struct command *command)
{
    struct supervisor *s =
        (struct supervisor *)(void *)((char *)command - offsetof(struct supervisor, bootstrap.done));
    struct error err;
    if (s->stopping)
        return;
    if (s->bootstrap.result == 0) {
        start_workspace(s, s->bootstrap.workspace);
        return;
    }
    if (s->bootstrap.result == STORAGE_ABSENT && !s->bootstrap_waits) {
        log_warn("bootstrap_workspace", LOG_STR("workspace", s->bootstrap.workspace),
                 LOG_STR("detail", "is not stored yet; it is started once it is"));
        s->bootstrap_waits = true;
    }
    if (loop_timer_set(s->loop, clock_now_ns() + BOOTSTRAP_EVERY_NS, look_bootstrap_up, s, &err) < 0)
        log_error("timer", LOG_STR("error", err.message));
}

static void bootstrap(struct supervisor *s)
{
    const char *name = s->config.bootstrap_workspace;
    if (!storage_name_valid(name)) {
        log_warn("workspace_name_invalid", LOG_STR("workspace", name));
        return;
    }
    snprintf(s->bootstrap_name, sizeof s->bootstrap_name, "%s", name);
    s->bootstrap.workspace = s->bootstrap_name;
    s->bootstrap.done.run = on_bootstrap;
    look_bootstrap_up(s);
}

static void on_listed(struct command *command)
{
    struct supervisor *s =
        (struct supervisor *)(void *)((char *)command - offsetof(struct supervisor, list.done));
    if (s->stopping) {
        lookup_job_done(&s->list);
        return;
    }
    if (s->list.result < 0) {
        list_later(s);
        return;
    }
    log_info("workspaces", LOG_UINT("stored", s->list.n_names));
    for (size_t i = 0; i < s->list.n_names; i++)
        start_workspace(s, s->list.names[i]);
    lookup_job_done(&s->list);
    if (s->config.bootstrap_workspace[0] != '\0')
        bootstrap(s);
    s->api.listed = true;
    show_status(s);
}

/* ---- The forkserver ---- */

static void on_forkserver_ready(void *data)
{
    struct supervisor *s = data;
    if (s->serving)
        return;
    s->serving = true;
    log_info("supervisor_ready", LOG_INT("pid", getpid()), LOG_STR("address", s->config.controller_address),
             LOG_UINT("port", s->api.port), LOG_UINT("api_port", s->trigger_api.port),
             LOG_STR("run_directory", s->config.run_directory));
    show_status(s);
    notify_ready(&s->notify);
    list_workspaces(s);
    if (s->options->ready)
        s->options->ready(s->options->data);
}

static void on_forkserver_ended(void *data, bool was_ready)
{
    struct supervisor *s = data;
    s->api.forkserver_restarts++;
    if (s->serving || was_ready)
        return;
    s->failed = true;
    error_set(&s->error, ERROR_SYSTEM, "the forkserver ended before it was ready");
}

/* ---- Signals ---- */

static void begin_stop(struct supervisor *s)
{
    struct workflow *w;
    if (s->stopping) { /* asked a second time: do not wait */
        TAILQ_FOREACH(w, &s->workflows.all, link)
        workflow_kill(w);
        return;
    }
    s->stopping = true;
    s->workflows.closing = true;
    log_info("supervisor_stopping", LOG_UINT("workers", s->workflows.n_active));
    notify_stopping(&s->notify, (uint64_t)s->config.stop_timeout_ns + STOP_MARGIN_NS);
    show_status(s);
    if (s->tcp)
        http_server_quiesce(s->tcp);
    if (s->api_tcp)
        http_server_quiesce(s->api_tcp);
    TAILQ_FOREACH(w, &s->workflows.all, link)
    if (workflow_active(w))
        workflow_stop(w);
}

static int set_run_directory(struct config *config, const char *run_directory, struct error *err)
{
    if (!run_directory)
        return 0;
    char *copy = strdup(run_directory);
    if (!copy)
        return error_set(err, ERROR_MEMORY, "run directory: out of memory");
    free(config->run_directory);
    config->run_directory = copy;
    return 0;
}

/* What a running supervisor cannot change. */
static void warn_fixed(const struct config *old, const struct config *new)
{
    if (old->controller_port != new->controller_port ||
        strcmp(old->controller_address, new->controller_address) != 0)
        log_warn("config_needs_restart", LOG_STR("field", "triggerflow_controller address and port"));
    if (strcmp(old->run_directory, new->run_directory) != 0)
        log_warn("config_needs_restart", LOG_STR("field", "supervisor.run_directory"));
}

static int load_again(struct supervisor *s, struct error *err)
{
    struct config config;
    if (config_load(s->options->config_file, &config, err) < 0)
        return -1;
    if (set_run_directory(&config, s->options->run_directory, err) < 0 ||
        lookup_configure(s->lookup, &config, err) < 0) {
        config_done(&config);
        return -1;
    }
    warn_fixed(&s->config, &config);
    if (api_trigger_configure(&s->trigger_api, &config, err) < 0) {
        config_done(&config);
        return -1;
    }
    char *run_directory = config.run_directory;
    config.run_directory = s->config.run_directory;
    s->config.run_directory = run_directory;
    config_done(&s->config);
    s->config = config;
    api_event_configure(s->events, &s->config);
    return 0;
}

static void reload(struct supervisor *s)
{
    struct error err;
    struct workflow *w;
    if (s->stopping)
        return;
    notify_reloading(&s->notify);
    s->config_refused = load_again(s, &err) < 0;
    show_status(s);
    if (s->config_refused) {
        log_error("config_reload", LOG_STR("error", err.message),
                  LOG_STR("then", "the old one stays in force"));
        notify_ready(&s->notify);
        return;
    }
    log_setup((enum log_level)s->config.log_level, s->config.log_format == CONFIG_LOG_JSON, "supervisor",
              NULL);
    if (s->tcp)
        http_server_set_token(s->tcp, s->config.controller_token);
    TAILQ_FOREACH(w, &s->workflows.all, link)
    workflow_reload(w);
    log_info("config_reload");
    notify_ready(&s->notify);
}

static void on_signal(void *data, uint32_t events)
{
    struct supervisor *s = data;
    struct signalfd_siginfo info;
    (void)events;
    while (read(s->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        switch (info.ssi_signo) {
        case SIGHUP:
            reload(s);
            break;
        case SIGCHLD:
            process_reap(s->processes);
            break;
        default:
            begin_stop(s);
        }
    }
}

static int signals_open(struct supervisor *s, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    signal(SIGPIPE, SIG_IGN);
    int e = pthread_sigmask(SIG_BLOCK, &set, NULL); /* before there are threads: all inherit it */
    if (e != 0)
        return error_set_errno(err, e, "pthread_sigmask");
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0)
        return error_set_errno(err, errno, "signalfd");
    return loop_add(s->loop, s->signal_fd, EPOLLIN, on_signal, s, err);
}

/* ---- Start and end ---- */

static void on_tick(void *data)
{
    struct supervisor *s = data;
    struct error err;
    uint64_t now = clock_now_ns();
    workflow_tick(&s->workflows, now);
    process_tick(s->processes, now);
    process_reap(s->processes);
    struct http_server *const servers[] = {s->tcp, s->local, s->api_tcp, s->api_local};
    for (size_t i = 0; i < sizeof servers / sizeof servers[0]; i++)
        http_server_tick(servers[i]);
    api_trigger_tick(&s->trigger_api);
    show_status(s);
    notify_watchdog(&s->notify);
    if (loop_timer_set(s->loop, now + CLOCK_S, on_tick, s, &err) < 0)
        log_error("timer", LOG_STR("error", err.message));
}

/* A socket, a pidfd and an arena a worker: as many descriptors as we may have. */
static void raise_limits(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_warn("limit", LOG_STR("resource", "open files"), LOG_STR("error", strerror(errno)));
}

/* The worker's program: beside our own, unless the environment names it. */
static int worker_path(char path[PATH_MAX], struct error *err)
{
    const char *named = getenv("TRIGGERFLOW_WORKER");
    if (named && named[0] != '\0') {
        snprintf(path, PATH_MAX, "%s", named);
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (n < 0)
        return error_set_errno(err, errno, "/proc/self/exe");
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash - path) + 1 : 0;
    if (dir + sizeof "triggerflow-worker" > PATH_MAX)
        return error_set(err, ERROR_LIMIT, "%s: path too long", path);
    memcpy(path + dir, "triggerflow-worker", sizeof "triggerflow-worker");
    return 0;
}

/* Anyone who reaches the address may start and stop workflows: that should be meant. */
static void warn_open(const struct config *config)
{
    const char *address = config->controller_address;
    if (config->controller_token[0] == '\0' && strncmp(address, "127.", 4) != 0 &&
        strcmp(address, "::1") != 0 && strcmp(address, "localhost") != 0)
        log_warn("controller_without_token", LOG_STR("address", address));
}

static int servers_start(struct supervisor *s, struct error *err)
{
    char path[RUNDIR_PATH_MAX];
    int fd;
    struct http_options options = {.queue = s->queue, .context = &s->api, .authenticate = true};
    options.routes = api_controller_routes(&options.n_routes);
    if (http_listen_tcp(s->config.controller_address, s->config.controller_port, &fd, &s->api.port, err) <
            0 ||
        http_server_start(fd, &options, &s->tcp, err) < 0)
        return -1;
    http_server_set_token(s->tcp, s->config.controller_token);
    warn_open(&s->config);
    options.authenticate = false;
    if (rundir_path(s->config.run_directory, "control.sock", path, err) < 0 ||
        http_listen_unix(path, &fd, err) < 0)
        return -1;
    return http_server_start(fd, &options, &s->local, err);
}

static int api_servers_start(struct supervisor *s, struct error *err)
{
    char path[RUNDIR_PATH_MAX];
    int fd;
    struct http_options options = {.queue = s->queue,
                                   .context = &s->trigger_api,
                                   .authorise = api_trigger_authorise,
                                   .connections_max = API_CONNECTIONS_MAX};
    options.routes = api_trigger_routes(&options.n_routes);
    if (http_listen_tcp(s->config.api_address, s->config.api_port, &fd, &s->trigger_api.port, err) < 0 ||
        http_server_start(fd, &options, &s->api_tcp, err) < 0)
        return -1;
    options.authorise = NULL; /* the file's mode says who may */
    if (rundir_path(s->config.run_directory, "api.sock", path, err) < 0 ||
        http_listen_unix(path, &fd, err) < 0)
        return -1;
    return http_server_start(fd, &options, &s->api_local, err);
}

static int processes_start(struct supervisor *s, struct error *err)
{
    char path[PATH_MAX];
    struct process_events events = {.spawned = workflow_on_spawned,
                                    .failed = workflow_on_spawn_failed,
                                    .lost = workflow_on_spawn_lost,
                                    .ended = workflow_on_ended,
                                    .forkserver_ready = on_forkserver_ready,
                                    .forkserver_ended = on_forkserver_ended,
                                    .data = s};
    if (worker_path(path, err) < 0)
        return -1;
    if (process_table_new(s->loop, path, &events, &s->processes, err) < 0)
        return error_prefix(err, "forkserver");
    s->workflows.processes = s->api.processes = s->processes;
    return 0;
}

/* Everything but the run directory. */
static int start(struct supervisor *s, struct error *err)
{
    raise_limits();
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
        return error_set_errno(err, errno, "PR_SET_CHILD_SUBREAPER");
    s->loop = loop_new(err);
    if (!s->loop || signals_open(s, err) < 0 || command_queue_new(s->loop, &s->queue, err) < 0)
        return -1;
    workflow_table_init(&s->workflows, s->loop, &s->config);
    api_controller_init(&s->api);
    s->api.loop = s->loop;
    s->api.workflows = &s->workflows;
    s->api.started_ns = clock_now_ns();
    s->list.done.run = on_listed;
    s->list_retry_ns = LIST_RETRY_MIN_NS;
    if (processes_start(s, err) < 0 || lookup_new(&s->config, s->queue, &s->lookup, err) < 0)
        return -1;
    s->api.lookup = s->lookup;
    if (api_event_new(&s->config, s->queue, s->lookup, &s->workflows, &s->events, err) < 0)
        return -1;
    s->api.ingest = api_event_ingest(s->events);
    s->trigger_api = (struct api_trigger){.loop = s->loop,
                                          .queue = s->queue,
                                          .config = &s->config,
                                          .lookup = s->lookup,
                                          .processes = s->processes,
                                          .workflows = &s->workflows,
                                          .event = s->events};
    char path[PATH_MAX];
    if (worker_path(path, err) < 0 || api_trigger_start(&s->trigger_api, path, err) < 0 ||
        servers_start(s, err) < 0 || api_servers_start(s, err) < 0)
        return -1;
    return loop_timer_set(s->loop, clock_now_ns() + CLOCK_S, on_tick, s, err);
}

static void remove_files(const struct config *config)
{
    static const char *const names[] = {"control.sock", "api.sock", AUTH_TOKEN_FILE};
    char path[RUNDIR_PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (rundir_path(config->run_directory, names[i], path, NULL) == 0)
            unlink(path);
}

static void close_server(struct http_server *server)
{
    if (server)
        http_server_close(server);
}

/* Everything that start() has got to. The forkserver is the last of the processes. */
static void end(struct supervisor *s)
{
    s->stopping = s->workflows.closing = true;
    close_server(s->tcp);
    close_server(s->local);
    close_server(s->api_tcp);
    close_server(s->api_local);
    if (s->queue)
        command_run_all(s->queue);
    process_table_free(s->processes);
    if (lookup_free(s->lookup) != 0 || api_trigger_stop(&s->trigger_api) != 0) {
        log_warn("storage", LOG_STR("error", "still waiting for an answer at the end"));
        remove_files(&s->config);
        _exit(s->failed ? SUPERVISOR_ERROR : SUPERVISOR_OK);
    }
    if (s->queue)
        command_run_all(s->queue);
    if (s->api.loop)
        api_controller_abort(&s->api);
    api_event_abort(s->events);
    api_trigger_abort(&s->trigger_api);
    http_server_stop(s->tcp);
    http_server_stop(s->local);
    http_server_stop(s->api_tcp);
    http_server_stop(s->api_local);
    api_trigger_done(&s->trigger_api);
    if (s->workflows.loop)
        workflow_table_done(&s->workflows);
    api_event_free(s->events);
    command_queue_free(s->queue);
    if (s->signal_fd >= 0)
        close(s->signal_fd);
    loop_free(s->loop);
    lookup_job_done(&s->list);
    remove_files(&s->config);
}

static int run(struct supervisor *s, struct error *err)
{
    while (!s->failed && !(s->stopping && s->workflows.n_active == 0))
        if (loop_run_once(s->loop, UINT64_MAX, err) < 0)
            return -1;
    if (s->failed)
        *err = s->error;
    return s->failed ? -1 : 0;
}

/* With the run directory prepared: 0 with the lock, or an exit code with the error. */
static int lock(struct supervisor *s, struct error *err)
{
    pid_t holder = 0;
    const char *directory = s->config.run_directory;
    int result = rundir_prepare(directory, err);
    if (result == 0)
        result = rundir_lock(directory, &s->lock_fd, &holder, err);
    if (result < 0)
        return SUPERVISOR_ERROR;
    if (result == 0)
        return SUPERVISOR_OK;
    error_set(err, ERROR_EXISTS, "a supervisor is already running in %s with pid %d", directory, (int)holder);
    return SUPERVISOR_RUNNING;
}

static int locked_run(struct supervisor *s, struct error *err)
{
    if (s->options->locked)
        s->options->locked(s->options->data);
    notify_init(&s->notify);
    s->failed = start(s, err) < 0 || run(s, err) < 0;
    end(s);
    if (!s->failed)
        log_info("supervisor_exit");
    close(s->lock_fd);
    return s->failed ? SUPERVISOR_ERROR : SUPERVISOR_OK;
}

int supervisor_run(struct supervisor_options *options, struct error *err)
{
    struct supervisor *s = calloc(1, sizeof *s);
    if (!s) {
        config_done(&options->config);
        error_set(err, ERROR_MEMORY, "supervisor: out of memory");
        return SUPERVISOR_ERROR;
    }
    s->options = options;
    s->config = options->config;
    s->lock_fd = s->signal_fd = -1;
    int code = SUPERVISOR_ERROR;
    if (set_run_directory(&s->config, options->run_directory, err) == 0)
        code = lock(s, err);
    if (code == SUPERVISOR_OK)
        code = locked_run(s, err);
    config_done(&s->config);
    free(s);
    return code;
}
