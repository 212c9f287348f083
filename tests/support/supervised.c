#include "tests/support/supervised.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/worker.h"

static void must(int r, const struct error *err)
{
    if (r < 0)
        fail_msg("%s", err->message);
}

struct supervised *supervised_new(struct worker_bed *bed)
{
    struct error err;
    struct supervised *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->bed = bed;
    s->socket = -1;
    s->status = strdup("");
    s->answer = strdup("");
    must(arena_create(&s->arena_fd, &err), &err);
    must(arena_map(s->arena_fd, &s->arena, &err), &err);
    return s;
}

void supervised_free(struct supervised *worker)
{
    if (!worker)
        return;
    supervised_kill(worker);
    arena_unmap(worker->arena);
    close(worker->arena_fd);
    free(worker->status);
    free(worker->answer);
    free(worker);
}

static _Noreturn void live(const struct supervised *s, int status_fd, const char *crash_file)
{
    char port[16];
    struct config config;
    struct error err;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = open(s->bed->worker.log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    dup2(log, STDERR_FILENO);
    snprintf(port, sizeof port, "%d", s->bed->redis->port);
    setenv("REDIS_HOST", "127.0.0.1", 1);
    setenv("REDIS_PORT", port, 1);
    setenv("TRIGGERFLOW_SHARDS", "2", 1);
    setenv("TRIGGERFLOW_TRIGGER_REFRESH", "200ms", 1);
    setenv("TRIGGERFLOW_CRASH_FILE", crash_file, 1);
    log_setup(LOG_LEVEL_DEBUG, false, "worker", "ws");
    if (config_load(NULL, &config, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        _exit(IPC_EXIT_USAGE);
    }
    struct worker_options options = {.config = &config,
                                     .workspace = "ws",
                                     .arena_fd = s->arena_fd,
                                     .status_fd = status_fd,
                                     .ingest_fd = -1,
                                     .durable_fd = -1,
                                     .generation = s->generation};
    _exit(worker_run(&options));
}

static void write_crash(const char *path, const char *crash)
{
    FILE *file = crash ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%s\n", crash);
        fclose(file);
    } else {
        unlink(path);
    }
}

void supervised_start(struct supervised *worker, const char *crash)
{
    char path[96];
    int fds[2];
    struct error err;
    supervised_kill(worker);
    snprintf(path, sizeof path, "%s/crash", worker->bed->dir);
    write_crash(path, crash);
    must(ipc_pair(fds, &err), &err);
    worker->ready = false;
    arena_reset(worker->arena, ++worker->generation);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(fds[0]);
        live(worker, fds[1], path);
    }
    close(fds[1]);
    worker->socket = fds[0];
    worker->bed->worker.pid = pid;
    AWAIT_BED(worker->bed, !supervised_listen(worker) || worker->ready);
    assert_true(crash || worker->ready);
}

void supervised_kill(struct supervised *worker)
{
    process_kill(&worker->bed->worker, SIGKILL);
    if (worker->socket >= 0)
        close(worker->socket);
    worker->socket = -1;
}

static void replace(char **text, const char *message, size_t len)
{
    free(*text);
    *text = strndup(message, len);
    assert_non_null(*text);
}

static void hear(struct supervised *s, const char *message, size_t len)
{
    struct json_value root, kind;
    struct error err;
    must(json_scan(message, len, &root, &err), &err);
    assert_true(json_member(&root, "message", &kind));
    s->ready |= json_equals(&kind, "ready", 5);
    if (json_equals(&kind, "status", 6))
        replace(&s->status, message, len);
    if (json_equals(&kind, "answer", 6))
        replace(&s->answer, message, len);
}

bool supervised_listen(struct supervised *worker)
{
    static char packet[IPC_MAX];
    int fds[IPC_MAX_FDS];
    unsigned n_fds;
    size_t len;
    int r;
    struct error err;
    while ((r = ipc_receive(worker->socket, 0, packet, &len, fds, &n_fds, &err)) == 0)
        hear(worker, packet, len);
    return r == IPC_AGAIN;
}

void supervised_send(struct supervised *worker, const char *format, ...)
{
    char text[8192];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    assert_true(len > 0 && len < (int)sizeof text);
    ipc_send(worker->socket, text, (size_t)len, NULL, 0, NULL); /* it may be dead */
}

static bool answered(struct supervised *s, long long *ret_outcome)
{
    struct json_value root, value;
    int64_t number;
    if (!*s->answer || json_scan(s->answer, strlen(s->answer), &root, NULL) < 0 ||
        !json_member(&root, "id", &value) || !json_integer(&value, &number) || number != s->id)
        return false;
    if (json_member(&root, "count", &value)) {
        assert_true(json_integer(&value, &number));
        *ret_outcome = number;
    } else {
        assert_true(json_member(&root, "status", &value) && json_integer(&value, &number));
        *ret_outcome = -number;
    }
    return true;
}

long long supervised_ask(struct supervised *worker, const char *format, ...)
{
    char members[8000];
    va_list arguments;
    long long outcome = -1;
    va_start(arguments, format);
    int len = vsnprintf(members, sizeof members, format, arguments);
    va_end(arguments);
    assert_true(len > 0 && len < (int)sizeof members);
    supervised_send(worker, "{%s,\"id\":%lld}", members, ++worker->id);
    AWAIT_BED(worker->bed, !supervised_listen(worker) || answered(worker, &outcome));
    answered(worker, &outcome);
    return outcome;
}

bool supervised_shows(struct supervised *worker, const char *text)
{
    supervised_listen(worker);
    return strstr(worker->status, text);
}
