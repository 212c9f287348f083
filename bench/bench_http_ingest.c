/* Events over HTTP, acknowledged durable: a real supervisor and worker, load by wrk on the same cores. Single
 * events in binary mode and batches of 100, on SQLite; the floor is the same server whose worker is this
 * program and answers 202 at once, without storage. Every event answered 202 must be in the trigger's counter
 * at the end, and no event that was never sent. */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "common/ring.h"
#include "tests/support/event_server.h"
#include "tests/support/wait.h"

#define SECONDS 4
#define CONNECTIONS 64
#define BATCH 100

/* ---- The worker without storage: argument --forkserver ---- */

struct stand_in {
    int ingest_fd;
    int durable_fd;
    struct arena *arena;
};

static void *answer_all(void *data)
{
    struct stand_in *worker = data;
    struct ring_consumer ring;
    uint64_t count = 1;
    ring_attach_consumer(&ring, arena_ingest_ring(worker->arena), ARENA_INGEST_BYTES);
    atomic_store(&worker->arena->worker.ingest, ARENA_INGEST_OPEN);
    if (write(worker->durable_fd, &count, sizeof count) < 0)
        _exit(1);
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, worker->ingest_fd, &event);
    while (epoll_wait(epoll_fd, &event, 1, -1) >= 0) {
        uint32_t size, kind;
        struct arena_ingest_record *record;
        bool any = false;
        if (read(worker->ingest_fd, &count, sizeof count) < 0)
            continue;
        while ((record = ring_peek(&ring, &size, &kind)) != NULL) {
            atomic_store_explicit(&record->answer, 202, memory_order_relaxed);
            ring_next(&ring);
            any = true;
        }
        ring_release(&ring);
        count = 1;
        if (any && write(worker->durable_fd, &count, sizeof count) < 0)
            _exit(1);
    }
    return NULL;
}

/* One life in this process: the supervisor of the floor has one workspace. */
static void live(const char *packet, size_t len, const int fds[IPC_MAX_FDS])
{
    static struct stand_in worker;
    static char buffer[IPC_MAX];
    struct json_value message, value;
    struct error err;
    int64_t generation = 0;
    char text[128];
    pthread_t thread;
    if (json_scan(packet, len, &message, &err) < 0 || !json_member(&message, "generation", &value) ||
        !json_integer(&value, &generation) || arena_map(fds[0], &worker.arena, &err) < 0)
        _exit(1);
    pid_t middle = fork();
    if (middle > 0) {
        waitpid(middle, NULL, 0);
        return;
    }
    pid_t pid = fork();
    if (pid > 0) {
        snprintf(text, sizeof text, "{\"message\":\"spawned\",\"generation\":%lld,\"pid\":%d}",
                 (long long)generation, (int)pid);
        ipc_send(IPC_FORKSERVER_FD, text, strlen(text), NULL, 0, &err);
        _exit(0);
    }
    close(IPC_FORKSERVER_FD);
    worker.ingest_fd = fds[2];
    worker.durable_fd = fds[3];
    pthread_create(&thread, NULL, answer_all, &worker);
    snprintf(text, sizeof text, "{\"message\":\"ready\",\"generation\":%lld,\"pid\":%d}",
             (long long)generation, (int)getpid());
    ipc_send(fds[1], text, strlen(text), NULL, 0, &err);
    int none[IPC_MAX_FDS];
    unsigned n_none;
    ipc_receive(fds[1], 1, buffer, &len, none, &n_none, &err); /* told to stop */
    _exit(0);
}

static int stand_in_main(void)
{
    static const char ready[] = "{\"message\":\"ready\"}";
    static char packet[IPC_MAX];
    struct error err;
    size_t len;
    int fds[IPC_MAX_FDS];
    unsigned n_fds;
    ipc_send(IPC_FORKSERVER_FD, ready, sizeof ready - 1, NULL, 0, &err);
    while (ipc_receive(IPC_FORKSERVER_FD, 1, packet, &len, fds, &n_fds, &err) == 0) {
        if (n_fds == 4)
            live(packet, len, fds);
        for (unsigned i = 0; i < n_fds; i++)
            close(fds[i]);
    }
    return 0;
}

/* ---- Load ---- */

struct figures {
    long long ok; /* requests */
    long long other;
    int last_other;
    long long duration_us;
    long long p50_us;
    long long p99_us;
};

static bool script_path(char path[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 64);
    if (n <= 0)
        return false;
    path[n] = '\0';
    for (int up = 0; up < 4; up++) { /* build/bench/bench_..., perhaps build/SAN/bench/bench_... */
        char *slash = strrchr(path, '/');
        if (!slash)
            return false;
        strcpy(slash, "/bench/http_ingest.lua");
        if (access(path, R_OK) == 0)
            return true;
        *slash = '\0';
    }
    return false;
}

static bool load(const struct event_server *server, int events, const char *prefix,
                 struct figures *ret_figures)
{
    char script[PATH_MAX], command[PATH_MAX + 1024], line[256], credentials[EVENT_SERVER_AUTH_MAX] = "";
    bool found = false;
    if (!script_path(script))
        return false;
    const char *value = strstr(server->auth, ": ");
    if (value)
        snprintf(credentials, sizeof credentials, "%.*s", (int)strcspn(value + 2, "\r"), value + 2);
    snprintf(command, sizeof command,
             "wrk -t1 -c%d -d%ds --timeout 30s -s '%s' http://127.0.0.1:%u/workspace/w/event -- %d '%s' '%s'",
             CONNECTIONS, SECONDS, script, server->port, events, credentials, prefix);
    FILE *pipe = popen(command, "r");
    while (pipe && fgets(line, sizeof line, pipe))
        if (sscanf(line, "figures %lld %lld %d %lld %lld %lld", &ret_figures->ok, &ret_figures->other,
                   &ret_figures->last_other, &ret_figures->duration_us, &ret_figures->p50_us,
                   &ret_figures->p99_us) == 6)
            found = true;
        else if (getenv("BENCH_VERBOSE"))
            fputs(line, stderr);
    return pipe && pclose(pipe) == 0 && found;
}

static double per_second(const struct figures *f, int events)
{
    return (double)f->ok * (events ? events : 1) / ((double)f->duration_us / 1e6);
}

/* floor: events a second; 0: this is the floor. */
static void print(const char *storage, const struct figures *f, int events, double floor)
{
    printf(
        "bench http_ingest storage=%s batch=%d events_per_second=%.0f p50_ms=%.2f p99_ms=%.2f refused=%lld",
        storage, events ? events : 1, per_second(f, events), (double)f->p50_us / 1e3, (double)f->p99_us / 1e3,
        f->other);
    if (f->other > 0)
        printf(" status=%d", f->last_other);
    if (floor > 0)
        printf(" ratio=%.2f target=%d", per_second(f, events) / floor, events ? 250000 : 25000);
    printf("\n");
    fflush(stdout);
}

/* A metric of the supervisor; -1: none. */
static long long metric(const struct event_server *server, const char *name)
{
    static char page[1 << 18];
    char line[128];
    if (event_server_control(server, "GET", "/metrics", page, sizeof page) != 200)
        return -1;
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(page, line);
    return at ? (long long)strtod(at + strlen(line), NULL) : -1;
}

/* What the server has answered 202 is what is counted; wrk has seen all of it but what was under way when its
 * time was over. */
static bool check(const struct event_server *server, long long seen, long long accepted)
{
    uint64_t deadline = clock_now_ns() + WAIT_DEADLINE_NS;
    long long counted;
    while ((counted = event_server_counter(server, "w")) < accepted && clock_now_ns() < deadline)
        usleep(100000);
    bool right = counted == accepted && accepted >= seen && accepted <= seen + 2 * CONNECTIONS * BATCH;
    printf("bench http_ingest storage=%s accepted=%lld seen=%lld counted=%lld%s\n", server->storage.backend,
           accepted, seen, counted, right ? "" : " wrong=1");
    return right;
}

/* Both loads against one server. */
static bool run(const char *backend, bool stand_in, double floors[2])
{
    static const int events[2] = {0, BATCH};
    struct event_server server;
    char self[PATH_MAX] = "";
    bool fine = true;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || event_server_init(&server, backend, "") != 0)
        return false;
    if (stand_in)
        setenv("TRIGGERFLOW_WORKER", self, 1);
    else
        unsetenv("TRIGGERFLOW_WORKER");
    fine = event_server_start(&server) == 0;
    long long sent = 0;
    for (int i = 0; i < 2 && fine; i++) {
        struct figures figures = {0};
        fine = load(&server, events[i], i == 0 ? "s" : "b", &figures);
        if (!fine)
            break;
        print(stand_in ? "none" : backend, &figures, events[i], stand_in ? 0 : floors[i]);
        if (stand_in)
            floors[i] = per_second(&figures, events[i]);
        sent += figures.ok * (events[i] ? events[i] : 1);
    }
    long long accepted = 0;
    if (fine) {
        uint64_t deadline = clock_now_ns() + WAIT_DEADLINE_NS;
        while (metric(&server, "triggerflow_http_event_requests_waiting") != 0 && clock_now_ns() < deadline)
            wait_moment();
        accepted = metric(&server, "triggerflow_http_events_accepted_total");
        fine = (stand_in || check(&server, sent, accepted)) && event_server_stop(&server) == 0;
    }
    event_server_done(&server);
    return fine;
}

/* The programs are in the folder above this one's. */
static void set_build(void)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(path, '/');
        if (slash)
            *slash = '\0';
    }
    setenv("TRIGGERFLOW_BUILD", path, 0);
}

int main(int argc, char **argv)
{
    double floors[2] = {0, 0};
    if (argc > 1 && strcmp(argv[1], "--forkserver") == 0)
        return stand_in_main();
    signal(SIGPIPE, SIG_IGN);
    set_build();
    if (system("command -v wrk >/dev/null") != 0) {
        printf("skipped: no wrk\n");
        return 0;
    }
    const char *only = getenv("BENCH_STORAGE");
    bool fine = run("sqlite", true, floors);
    if (fine && (!only || strcmp(only, "sqlite") == 0))
        fine = run("sqlite", false, floors);
    if (fine && (!only || strcmp(only, "redis") == 0))
        fine = run("redis", false, floors);
    return fine ? 0 : 1;
}
