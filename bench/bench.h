/* What the benchmarks share: a private redis-server, workers whose arena the benchmark reads, a supervisor,
 * and statistics. All of it is static, because every file of bench/ is a program of its own.
 *
 * A worker is this program again (bench_worker_main), so that its memory is not mixed with the benchmark's;
 * it runs worker_run(), as triggerflow-worker does, on an arena made here. What goes wrong ends the program
 * with status 1; processes and folders are removed then, too. Thread: main. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <hiredis/hiredis.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "tests/support/redis_server.h"
#include "worker/worker.h"

#define BENCH_MAX_RUNS 99
#define BENCH_MAX_CHILDREN 8
#define BENCH_DEADLINE (120 * CLOCK_S)
#define BENCH_EVENT_TYPE "event.triggerflow.test"

struct bench {
    struct redis_server server;
    redisContext *redis;
    char dir[64]; /* configurations and logs */
    pid_t children[BENCH_MAX_CHILDREN];
};

struct bench_worker {
    pid_t pid;
    struct arena *arena;
    struct rusage usage; /* after bench_worker_stop() */
};

struct bench_supervisor {
    pid_t pid;
    int port;
    int http; /* a connection that is kept open */
};

/* ---- failing and ending ---- */

static volatile sig_atomic_t bench_interrupted; /* set by bench_on_signal */

static inline void bench_on_signal(int number)
{
    (void)number;
    bench_interrupted = 1;
}

/* The run is wrong: says so and ends the program, which cleans up. */
__attribute__((format(printf, 1, 2), noreturn)) static inline void bench_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, args);
    fputs(bench_interrupted ? " (interrupted)\n" : "\n", stderr);
    va_end(args);
    exit(1);
}

static inline void bench_nap_us(long us)
{
    nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}, NULL);
    if (bench_interrupted)
        bench_fail("stopped");
}

static inline void bench_check_deadline(uint64_t start_ns, const char *what)
{
    if (clock_now_ns() > start_ns + BENCH_DEADLINE)
        bench_fail("not in time: %s", what);
}

static inline void bench_forget(struct bench *b, pid_t pid)
{
    for (size_t i = 0; i < BENCH_MAX_CHILDREN; i++)
        if (b->children[i] == pid)
            b->children[i] = 0;
}

static inline void bench_print_logs(const struct bench *b)
{
    char command[128];
    snprintf(command, sizeof command, "tail -n 20 %s/*.log >&2", b->dir);
    if (system(command) != 0)
        fputs("bench: no logs\n", stderr);
}

/* Process: the benchmark, at its end (on_exit). */
static inline void bench_cleanup(int status, void *data)
{
    struct bench *b = data;
    for (size_t i = 0; i < BENCH_MAX_CHILDREN; i++)
        if (b->children[i]) {
            kill(b->children[i], SIGKILL);
            waitpid(b->children[i], NULL, 0);
        }
    if (status && b->dir[0])
        bench_print_logs(b);
    if (b->redis)
        redisFree(b->redis);
    redis_server_done(&b->server);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", b->dir);
    if (b->dir[0] && system(command) != 0)
        perror(command);
}

/* ---- figures ---- */

static inline size_t bench_runs(void)
{
    const char *text = getenv("BENCH_RUNS");
    long n = text ? strtol(text, NULL, 10) : 5;
    return n < 1 ? 1 : n > BENCH_MAX_RUNS ? BENCH_MAX_RUNS : (size_t)n;
}

static inline int bench_compare(const void *a, const void *b)
{
    const double *x = a;
    const double *y = b;
    return (*x > *y) - (*x < *y);
}

/* The value below which `percent` of all lie; sorts them. */
static inline double bench_percentile(double *values, size_t n, unsigned percent)
{
    qsort(values, n, sizeof *values, bench_compare);
    size_t at = n * percent / 100;
    return values[at < n ? at : n - 1];
}

static inline double bench_median(double *values, size_t n)
{
    return bench_percentile(values, n, 50);
}

static inline double bench_seconds(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(to_ns - from_ns) / 1e9;
}

static inline double bench_cpu_seconds(const struct rusage *usage)
{
    return (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
           (double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
}

/* ---- redis ---- */

static inline redisContext *bench_connect(const struct bench *b)
{
    redisContext *redis = redisConnect("127.0.0.1", b->server.port);
    if (!redis || redis->err || redisEnableKeepAlive(redis) != REDIS_OK)
        bench_fail("no connection to redis");
    return redis;
}

static inline redisReply *bench_reply(redisContext *redis)
{
    void *reply = NULL;
    if (redisGetReply(redis, &reply) != REDIS_OK)
        bench_fail("redis: %s", redis->errstr);
    redisReply *r = reply;
    if (r->type == REDIS_REPLY_ERROR)
        bench_fail("redis: %s", r->str);
    return r;
}

/* A command, formatted as redisCommand does; freed with freeReplyObject. */
static inline redisReply *bench_ask(struct bench *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (redisvAppendCommand(b->redis, format, args) != REDIS_OK)
        bench_fail("redis: %s", b->redis->errstr);
    va_end(args);
    return bench_reply(b->redis);
}

/* A command whose answer is a number (or does not matter). */
#define bench_do(b, ...)                                  \
    __extension__({                                       \
        redisReply *reply_ = bench_ask((b), __VA_ARGS__); \
        long long integer_ = reply_->integer;             \
        freeReplyObject(reply_);                          \
        integer_;                                         \
    })

static inline void bench_drain(redisContext *redis, size_t n)
{
    while (n--)
        freeReplyObject(bench_reply(redis));
}

/* A number from INFO, 0 when it is not there. */
static inline long long bench_info(struct bench *b, const char *section, const char *name)
{
    redisReply *reply = bench_ask(b, "INFO %s", section);
    const char *at = strstr(reply->str, name);
    long long n = at ? atoll(at + strlen(name) + 1) : 0;
    freeReplyObject(reply);
    return n;
}

/* Starts a server of its own; arguments as in redis_server_start(). Ends the program when there is none. */
static inline void bench_open(struct bench *b, const char *name, const char *const *arguments)
{
    *b = (struct bench){.dir = "/tmp/triggerflow-bench-XXXXXX"};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!redis_server_available()) {
        printf("bench %s skipped: no redis-server\n", name);
        exit(0);
    }
    struct sigaction action = {.sa_handler = bench_on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(b->dir))
        b->dir[0] = '\0';
    if (on_exit(bench_cleanup, b) || !b->dir[0] || redis_server_run(&b->server, arguments) < 0)
        bench_fail("cannot start");
    b->redis = bench_connect(b);
}

/* ---- workspaces and events ---- */

/* Makes the workspace new: no triggers, no event sources, no checkpoint. */
static inline void bench_store_workspace(struct bench *b, const char *name)
{
    bench_do(b,
             "DEL %s-triggers %s-event_sources %s-global_context %s-checkpoint %s-outbox %s-internal "
             "%s-timers %s-dead_letters",
             name, name, name, name, name, name, name, name);
    bench_do(b, "HSET triggerflow-workspaces %s %llu", name, (unsigned long long)clock_unix_ns() / CLOCK_S);
}

static inline void bench_store_source(struct bench *b, const char *workspace, const char *name,
                                      const char *stream, bool consume)
{
    char json[512];
    snprintf(json, sizeof json,
             "{\"name\":\"%s\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\","
             "\"port\":%d,\"db\":0,\"password\":null,\"stream\":\"%s\",\"consume\":%s}}",
             name, b->server.port, stream, consume ? "true" : "false");
    bench_do(b, "HSET %s-event_sources %s %s", workspace, name, json);
}

/* Queues the storing of a trigger: bench_drain(b->redis, n) after n of them. `condition` and `action` are
 * JSON, `context` the members of the context. */
static inline void bench_store_trigger(struct bench *b, const char *workspace, const char *id,
                                       const char *subject, const char *condition, const char *context,
                                       const char *action)
{
    BUFFER_AUTO json = BUFFER_INIT;
    buffer_printf(&json,
                  "{\"id\":\"%s\",\"uuid\":\"uuid-%s\",\"workspace\":\"%s\",\"transient\":false,"
                  "\"timestamp\":\"2024-01-01T00:00:00Z\",\"condition\":{\"name\":\"%s\"},\"action\":%s,"
                  "\"context\":{%s},\"activation_events\":[{\"specversion\":\"1.0\",\"type\":\"%s\","
                  "\"subject\":\"%s\"}]}",
                  id, id, workspace, condition, action, context, BENCH_EVENT_TYPE, subject);
    redisAppendCommand(b->redis, "HSET %s-triggers %s %s", workspace, id, buffer_text(&json));
}

/* The counter in the stored context of a trigger. */
static inline long long bench_counter(struct bench *b, const char *workspace, const char *id)
{
    redisReply *reply = bench_ask(b, "HGET %s-triggers %s", workspace, id);
    const char *at = reply->type == REDIS_REPLY_STRING ? strstr(reply->str, "\"counter\":") : NULL;
    long long n = at ? atoll(at + strlen("\"counter\":")) : -1;
    freeReplyObject(reply);
    return n;
}

static inline void bench_append_bulk(struct buffer *out, const char *text)
{
    size_t n = strlen(text);
    buffer_append_char(out, '$');
    buffer_append_u64(out, n);
    buffer_append_text(out, "\r\n");
    buffer_append(out, text, n);
    buffer_append_text(out, "\r\n");
}

/* One XADD in the original client's encoding: six fields, no data, and an idempotency key unless NULL.
 * `random` is any number but 0 at first. */
static inline void bench_append_event(struct buffer *out, const char *stream, const char *subject,
                                      const char *time, const char *key, uint64_t *random)
{
    uint64_t r[2];
    char id[33], source[48];
    for (int i = 0; i < 2; i++) { /* Marsaglia, Xorshift RNGs (2003) */
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        r[i] = *random;
    }
    snprintf(id, sizeof id, "%016llx%016llx", (unsigned long long)r[0], (unsigned long long)r[1]);
    snprintf(source, sizeof source, "urn:vm:%.8s-%.4s-%.4s-%.4s-%.12s", id, id + 8, id + 12, id + 16,
             id + 20);
    const char *const words[] = {
        "XADD",   stream,           "*",    "specversion",    "1.0",  "id", id,
        "source", source,           "type", BENCH_EVENT_TYPE, "time", time, "subject",
        subject,  "triggerflowkey", key};
    size_t n = sizeof words / sizeof words[0] - (key ? 0 : 2);
    buffer_printf(out, "*%zu\r\n", n);
    for (size_t i = 0; i < n; i++)
        bench_append_bulk(out, words[i]);
}

/* Fills a stream with n events, in turn for the subjects join0, join1, ...; keys: how many idempotency keys
 * they carry, in turn (0: none). */
static inline void bench_load(struct bench *b, const char *stream, size_t n, unsigned subjects, unsigned keys)
{
    enum { BATCH = 1000 };
    BUFFER_AUTO commands = BUFFER_INIT;
    char time[CLOCK_ISO_MAX], subject[24], key[40];
    uint64_t random = 88172645463325252u ^ clock_unix_ns();
    bench_do(b, "DEL %s", stream);
    for (size_t i = 0; i < n;) {
        size_t batch = n - i < BATCH ? n - i : BATCH;
        buffer_reset(&commands, 1 << 20);
        clock_iso(clock_unix_ns(), time);
        for (size_t end = i + batch; i < end; i++) {
            snprintf(subject, sizeof subject, "join%u", (unsigned)(i % subjects));
            snprintf(key, sizeof key, "%032u", keys ? (unsigned)(i % keys) : 0);
            bench_append_event(&commands, stream, subject, time, keys ? key : NULL, &random);
        }
        if (commands.failed || redisAppendFormattedCommand(b->redis, commands.data, commands.len) != REDIS_OK)
            bench_fail("out of memory");
        bench_drain(b->redis, batch);
    }
}

/* ---- processes ---- */

/* A program that is built beside bench/. */
static inline void bench_program(const char *name, char path[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 64);
    if (n < 0)
        bench_fail("no /proc/self/exe");
    path[n] = '\0';
    for (int i = 0; i < 2; i++) /* bench/bench_... */
        *strrchr(path, '/') = '\0';
    strcat(path, "/");
    strcat(path, name);
}

static inline void bench_write_config(const struct bench *b, const char *path, int controller_port,
                                      const char *more)
{
    FILE *file = fopen(path, "w");
    if (!file)
        bench_fail("%s cannot be written", path);
    fprintf(file,
            "triggerflow_controller: {port: %d}\ntrigger_api: {port: 0}\n"
            "trigger_storage: {backend: redis, parameters: {host: 127.0.0.1, port: %d}}\n%s\n",
            controller_port, b->server.port, more);
    if (fclose(file))
        bench_fail("%s cannot be written", path);
}

/* Runs a program with its output in `log` (a descriptor); it dies with the benchmark. */
static inline pid_t bench_launch(struct bench *b, int log, const char *const *argv)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0)
        bench_fail("fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || dup2(log, 1) < 0 || dup2(log, 2) < 0)
            _exit(126);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    for (size_t i = 0; i < BENCH_MAX_CHILDREN; i++)
        if (!b->children[i]) {
            b->children[i] = pid;
            return pid;
        }
    bench_fail("too many processes");
}

static inline int bench_open_log(const struct bench *b, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s.log", b->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        bench_fail("%s cannot be written", path);
    return fd;
}

/* Ends a process by SIGTERM; anything but exit status 0 is a failure. */
static inline void bench_stop_process(struct bench *b, pid_t pid, struct rusage *ret_usage)
{
    int status;
    pid_t got;
    uint64_t start = clock_now_ns();
    kill(pid, SIGTERM);
    while ((got = wait4(pid, &status, WNOHANG, ret_usage)) == 0) {
        bench_check_deadline(start, "the end of a process");
        bench_nap_us(1000);
    }
    bench_forget(b, pid);
    if (got != pid || status != 0)
        bench_fail("a process has ended with status %#x", (unsigned)status);
}

/* ---- workers ---- */

/* To be called first by main: runs the worker when that is what this process is for. */
static inline void bench_worker_main(int argc, char **argv)
{
    struct config config;
    struct error err;
    if (argc != 5 || strcmp(argv[1], "--worker") != 0)
        return;
    if (config_load(argv[3], &config, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        exit(2);
    }
    log_setup(LOG_LEVEL_WARN, false, "worker", argv[4]);
    struct worker_options options = {.config = &config,
                                     .workspace = argv[4],
                                     .arena_fd = atoi(argv[2]),
                                     .status_fd = -1,
                                     .ingest_fd = -1,
                                     .durable_fd = -1,
                                     .generation = 1};
    int status = worker_run(&options);
    config_done(&config);
    exit(status);
}

/* `more`: further YAML at top level. */
static inline void bench_worker_start(struct bench *b, struct bench_worker *w, const char *workspace,
                                      const char *more)
{
    char config[128], number[12];
    int fd;
    struct error err;
    snprintf(config, sizeof config, "%s/%s.yaml", b->dir, workspace);
    bench_write_config(b, config, 0, more);
    if (arena_create(&fd, &err) < 0 || arena_map(fd, &w->arena, &err) < 0)
        bench_fail("%s", err.message);
    arena_reset(w->arena, 1);
    int inherited = dup(fd); /* not close-on-exec */
    int log = bench_open_log(b, workspace);
    snprintf(number, sizeof number, "%d", inherited);
    const char *argv[] = {"/proc/self/exe", "--worker", number, config, workspace, NULL};
    w->pid = bench_launch(b, log, argv);
    close(log);
    close(inherited);
    close(fd);
}

/* Fails when the worker has ended. */
static inline void bench_worker_check(struct bench *b, const struct bench_worker *w, uint64_t start_ns,
                                      const char *what)
{
    int status;
    if (waitpid(w->pid, &status, WNOHANG) == w->pid) {
        bench_forget(b, w->pid);
        bench_fail("the worker has ended with status %#x", (unsigned)status);
    }
    bench_check_deadline(start_ns, what);
}

/* Waits until a counter of the arena is at least `value`, looking every `every_us`. Returns when that was
 * seen. */
static inline uint64_t bench_worker_await(struct bench *b, const struct bench_worker *w,
                                          const _Atomic uint64_t *counter, uint64_t value, long every_us)
{
    uint64_t start = clock_now_ns();
    while (arena_get(counter) < value) {
        bench_nap_us(every_us);
        bench_worker_check(b, w, start, "a counter of the worker");
    }
    return clock_now_ns();
}

/* Waits until an event source is being read. Returns when that was seen. */
static inline uint64_t bench_worker_await_reading(struct bench *b, const struct bench_worker *w)
{
    uint64_t start = clock_now_ns();
    for (;;) {
        for (size_t i = 1; i < ARENA_MAX_SOURCES; i++)
            if (atomic_load(&w->arena->source[i].state) == ARENA_SOURCE_READING)
                return clock_now_ns();
        bench_nap_us(100);
        bench_worker_check(b, w, start, "an event source");
    }
}

static inline void bench_worker_stop(struct bench *b, struct bench_worker *w)
{
    bench_stop_process(b, w->pid, &w->usage);
    arena_unmap(w->arena);
    w->arena = NULL;
}

/* Events read by all sources since the worker started. */
static inline uint64_t bench_worker_read(const struct bench_worker *w)
{
    uint64_t n = 0;
    for (size_t i = 1; i < ARENA_MAX_SOURCES; i++)
        n += arena_get(&w->arena->source[i].read);
    return n;
}

/* ---- the supervisor ---- */

static inline int bench_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, len) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0)
        bench_fail("no free port");
    close(fd);
    return ntohs(address.sin_port);
}

/* -1 when nobody listens. */
static inline int bench_dial(int port)
{
    int on = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        bench_fail("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static inline void bench_send(int fd, const char *text, size_t len)
{
    if (send(fd, text, len, MSG_NOSIGNAL) != (ssize_t)len)
        bench_fail("send: %s", strerror(errno));
}

/* One HTTP call over a connection that stays open. Returns the status; the body replaces what `body` holds.
 */
static inline int bench_http(int fd, const char *method, const char *path, struct buffer *body)
{
    char request[512];
    size_t length = 0;
    const char *end = NULL;
    int n = snprintf(request, sizeof request,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", method, path);
    bench_send(fd, request, (size_t)n);
    buffer_reset(body, 1 << 22);
    for (;;) {
        char *to = buffer_reserve(body, 65536);
        ssize_t got = to ? recv(fd, to, 65536, 0) : -1;
        if (got <= 0)
            bench_fail("%s %s: %s", method, path, got ? strerror(errno) : "closed");
        body->len += (size_t)got;
        const char *text = buffer_text(body);
        if (!end && !(end = strstr(text, "\r\n\r\n")))
            continue;
        end = strstr(text, "\r\n\r\n");
        const char *header = strcasestr(text, "\r\nContent-Length:");
        length = header ? strtoul(header + 17, NULL, 10) : 0;
        size_t head = (size_t)(end - text) + 4;
        if (body->len >= head + length) {
            int status = atoi(text + 9);
            buffer_consume(body, head);
            return status;
        }
    }
}

/* Starts the real program and waits until it is ready. */
static inline void bench_supervisor_start(struct bench *b, struct bench_supervisor *s, const char *more)
{
    char program[PATH_MAX], config[128], run[128];
    BUFFER_AUTO body = BUFFER_INIT;
    uint64_t start = clock_now_ns();
    bench_program("triggerflow-supervisor", program);
    snprintf(config, sizeof config, "%s/supervisor.yaml", b->dir);
    snprintf(run, sizeof run, "%s/run", b->dir);
    s->port = bench_free_port();
    bench_write_config(b, config, s->port, more);
    const char *argv[] = {program, "start", "--config", config, "--run-directory", run, NULL};
    int log = bench_open_log(b, "supervisor");
    s->pid = bench_launch(b, log, argv);
    close(log);
    while ((s->http = bench_dial(s->port)) < 0) {
        bench_check_deadline(start, "the supervisor's port");
        bench_nap_us(2000);
    }
    while (bench_http(s->http, "GET", "/readyz", &body) != 200) {
        bench_check_deadline(start, "the supervisor's readiness");
        bench_nap_us(10000);
    }
}

static inline void bench_supervisor_stop(struct bench *b, struct bench_supervisor *s)
{
    struct rusage usage;
    close(s->http);
    bench_stop_process(b, s->pid, &usage);
}
