#include "worker/forkserver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/worker.h"

extern char **environ;

/* The memory of the arguments and the environment, as ps shows it. */
static struct {
    char *start;
    size_t size;
} title;

static void title_init(int argc, char **argv)
{
    char *end = argv[argc - 1] + strlen(argv[argc - 1]) + 1;
    for (int i = 0; environ[i]; i++)
        if (environ[i] == end) {
            end += strlen(environ[i]) + 1;
            char *copy = strdup(environ[i]);
            if (copy)
                environ[i] = copy;
        }
    title.start = argv[0];
    title.size = (size_t)(end - argv[0]);
}

static void title_set(const char *text)
{
    memset(title.start, 0, title.size);
    snprintf(title.start, title.size, "%s", text);
    prctl(PR_SET_NAME, "triggerflow-wor");
}

struct request {
    char workspace[256];
    unsigned generation;
    struct config config;
};

static int read_request(const char *packet, size_t len, struct request *r, struct error *err)
{
    struct json_value root;
    struct json_value workspace;
    struct json_value generation;
    struct json_value config;
    int64_t number;
    if (json_scan(packet, len, &root, err) < 0)
        return -1;
    if (root.type != JSON_OBJECT || !json_member(&root, "workspace", &workspace) ||
        workspace.type != JSON_STRING || workspace.len >= sizeof r->workspace ||
        !json_member(&root, "generation", &generation) || !json_integer(&generation, &number) || number < 0 ||
        number > UINT32_MAX || !json_member(&root, "config", &config) || config.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "not a spawn request");
    memcpy(r->workspace, workspace.text, workspace.len);
    r->workspace[workspace.len] = '\0';
    r->generation = (unsigned)number;
    size_t raw_len;
    const char *raw = json_raw(&config, &raw_len);
    return config_read_json(raw, raw_len, &r->config, err);
}

static int run_worker(struct request *request, const int fds[4])
{
    char text[300];
    close(IPC_FORKSERVER_FD);
    snprintf(text, sizeof text, "triggerflow-worker %s", request->workspace);
    title_set(text);
    log_setup((enum log_level)request->config.log_level, request->config.log_format == CONFIG_LOG_JSON,
              "worker", request->workspace);
    struct worker_options options = {.config = &request->config,
                                     .workspace = request->workspace,
                                     .arena_fd = fds[0],
                                     .status_fd = fds[1],
                                     .ingest_fd = fds[2],
                                     .durable_fd = fds[3],
                                     .generation = request->generation};
    int status = worker_run(&options);
    config_done(&request->config);
    for (unsigned i = 0; i < 4; i++)
        close(fds[i]);
    return status;
}

/* Forks twice, so that the supervisor becomes the worker's parent. Returns 0 in the forkserver with *ret_pid,
 * 1 in the worker. */
static int fork_twice(pid_t *ret_pid, struct error *err)
{
    int channel[2];
    pid_t worker = -1;
    if (pipe2(channel, O_CLOEXEC) < 0)
        return error_set_errno(err, errno, "pipe2");
    pid_t middle = fork();
    if (middle == 0) {
        worker = fork();
        if (worker == 0) {
            close(channel[0]);
            close(channel[1]);
            return 1;
        }
        ssize_t n = write(channel[1], &worker, sizeof worker);
        _exit(n == sizeof worker ? 0 : 1);
    }
    int failed = errno;
    close(channel[1]);
    ssize_t n = middle < 0 ? -1 : read(channel[0], &worker, sizeof worker);
    close(channel[0]);
    if (middle > 0)
        while (waitpid(middle, NULL, 0) < 0 && errno == EINTR)
            ;
    if (middle < 0 || n != sizeof worker || worker < 0)
        return error_set_errno(err, failed, "fork");
    *ret_pid = worker;
    return 0;
}

static void answer(const struct request *r, pid_t pid, const struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (err) {
        buffer_printf(&text, "{\"message\":\"error\",\"generation\":%u,\"error\":", r->generation);
        buffer_append_json(&text, err->message,
                           utf8_valid(err->message, strlen(err->message)) ? strlen(err->message) : 0);
        buffer_append_char(&text, '}');
    } else {
        buffer_printf(&text, "{\"message\":\"spawned\",\"generation\":%u,\"pid\":%d}", r->generation,
                      (int)pid);
    }
    if (text.failed || ipc_send(IPC_FORKSERVER_FD, text.data, text.len, NULL, 0, NULL) != 0)
        log_error("forkserver", LOG_STR("error", "an answer could not be sent"));
}

/* Returns -1 in the forkserver, a worker's exit status in a worker. */
static int serve(const char *packet, size_t len, const int *fds, unsigned n_fds)
{
    struct request request = {.generation = 0};
    struct error err;
    pid_t pid = -1;
    int r = read_request(packet, len, &request, &err);
    bool configured = r == 0;
    if (r == 0 && n_fds != 4)
        r = error_set(&err, ERROR_INVALID, "a spawn request with %u descriptors", n_fds);
    if (r == 0)
        r = fork_twice(&pid, &err);
    if (r == 1)
        return run_worker(&request, fds);
    answer(&request, pid, r < 0 ? &err : NULL);
    if (configured)
        config_done(&request.config);
    for (unsigned i = 0; i < n_fds; i++)
        close(fds[i]);
    return -1;
}

int forkserver_run(int argc, char **argv)
{
    static char packet[IPC_MAX];
    int fds[IPC_MAX_FDS];
    unsigned n_fds;
    size_t len;
    struct error err;
    title_init(argc, argv);
    title_set("triggerflow-worker --forkserver");
    signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is the supervisor's business */
    log_setup(LOG_LEVEL_INFO, false, "forkserver", NULL);
    static const char ready[] = "{\"message\":\"ready\"}";
    if (ipc_send(IPC_FORKSERVER_FD, ready, sizeof ready - 1, NULL, 0, &err) != 0) {
        log_error("forkserver", LOG_STR("error", "is started by triggerflow-supervisor only"));
        return IPC_EXIT_USAGE;
    }
    for (;;) {
        n_fds = 0;
        int r = ipc_receive(IPC_FORKSERVER_FD, 1, packet, &len, fds, &n_fds, &err);
        if (r == IPC_CLOSED)
            return IPC_EXIT_OK;
        if (r < 0) {
            log_error("forkserver", LOG_STR("error", err.message));
            if (err.code == ERROR_SYSTEM)
                return IPC_EXIT_ERROR;
        }
        if (r == 0 && (r = serve(packet, len, fds, n_fds)) >= 0)
            return r;
    }
}
