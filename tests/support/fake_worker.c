#include "tests/support/fake_worker.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"

struct fake {
    char workspace[256];
    char adopt[256]; /* of its configuration */
    char token[256];
    int64_t generation;
    int fd;
    struct arena *arena;
};

static void text_member(const struct json_value *object, const char *name, char to[256])
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    to[0] = '\0';
    if (!json_member(object, name, &value) || value.type != JSON_STRING)
        return;
    json_unescape(&value, &text);
    snprintf(to, 256, "%s", buffer_text(&text));
}

/* Sends the members given after message and generation. */
static void say(const struct fake *fake, const char *message, const char *members)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct error err;
    buffer_printf(&out, "{\"message\":\"%s\",\"generation\":%lld%s%s}", message, (long long)fake->generation,
                  members[0] ? "," : "", members);
    ipc_send(fake->fd, out.data, out.len, NULL, 0, &err);
}

static bool is(const struct fake *fake, const char *kind)
{
    return strncmp(fake->workspace, kind, strlen(kind)) == 0;
}

static _Noreturn void fail(const struct fake *fake, const char *reason, int status)
{
    char members[128];
    snprintf(members, sizeof members, "\"reason\":\"%s\",\"error\":\"as its name says\"", reason);
    say(fake, "failed", members);
    _exit(status);
}

static unsigned deaths(const struct fake *fake)
{
    return fake->arena->n_poison > 0 ? fake->arena->poison[0].deaths : 0;
}

static void take_event(struct fake *fake, unsigned thread)
{
    struct arena_thread *t = &fake->arena->thread[thread];
    atomic_store(&t->event_source, 42);
    atomic_store(&t->event_position[0], 1000);
    atomic_store(&t->event_position[1], 7);
    atomic_store(&t->trigger, 99);
    atomic_store(&t->event_set, 1);
}

static void crash(struct fake *fake)
{
    take_event(fake, ARENA_THREAD_SHARD);
    atomic_store(&fake->arena->fault_thread, ARENA_THREAD_SHARD);
    atomic_store(&fake->arena->fault_signal, SIGSEGV);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

static void hang(struct fake *fake)
{
    take_event(fake, ARENA_THREAD_SHARD + 1);
    atomic_store(&fake->arena->thread[ARENA_THREAD_SHARD + 1].beat_ns, clock_now_ns());
    atomic_store(&fake->arena->thread[ARENA_THREAD_SHARD + 1].busy, 1);
}

static void make_noise(const struct fake *fake)
{
    static const char *const broken[] = {
        "",
        "{",
        "[]",
        "{\"message\":7,\"generation\":1}",
        "{\"message\":\"status\"}",
        "{\"message\":\"failed\",\"generation\":999999,\"reason\":\"fenced\"}",
        "\xff\xfe"};
    struct error err;
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++)
        if (broken[i][0] != '\0') /* an empty packet would read as the end */
            ipc_send(fake->fd, broken[i], strlen(broken[i]), NULL, 0, &err);
    say(fake, "status", "\"status\":[1,2]");
    say(fake, "nonsense", "");
    atomic_store(&fake->arena->worker.state, 12345);
    atomic_store(&fake->arena->worker.n_shards, UINT32_MAX);
    fake->arena->n_poison = 0xffff0000u;
    for (int i = 0; i < ARENA_MAX_SOURCES; i++) {
        memset(fake->arena->source[i].name, 0xff, ARENA_NAME_MAX);
        atomic_store(&fake->arena->source[i].state, UINT32_MAX);
        atomic_store(&fake->arena->source[i].lag, UINT64_MAX);
        atomic_store(&fake->arena->source[i].used, 1);
    }
}

static void be_ready(struct fake *fake)
{
    char members[1024];
    struct arena_source *source = &fake->arena->source[1];
    snprintf(source->name, sizeof source->name, "broker");
    atomic_store(&source->state, ARENA_SOURCE_READING);
    atomic_store(&source->read, 100);
    atomic_store(&source->lag, 5);
    atomic_store(&source->used, 1);
    atomic_store(&fake->arena->shard[0].fired, 3);
    atomic_store(&fake->arena->worker.commit_unix_ns, clock_unix_ns());
    atomic_store(&fake->arena->worker.state, ARENA_RUNNING);
    snprintf(members, sizeof members, "\"pid\":%d", (int)getpid());
    say(fake, "ready", members);
    snprintf(members, sizeof members, "\"status\":{\"state\":\"running\",\"adopt\":\"%s\",\"token\":\"%s\"}",
             fake->adopt, fake->token);
    say(fake, "status", members);
}

static void be_in_trouble(const struct fake *fake)
{
    say(fake, "status",
        "\"status\":{\"state\":\"running\",\"storage\":\"away\",\"warnings\":[\"durability=none\"],"
        "\"sources\":[{\"name\":\"broker\",\"state\":\"failed\",\"error\":\"no route\"}],"
        "\"triggers\":{\"total\":1,\"broken\":[{\"id\":\"t\\u00e9\",\"reason\":\"unknown condition\"}]}}");
}

/* What it does before it listens; may exit. */
static void act(struct fake *fake)
{
    if (is(fake, "fenced"))
        fail(fake, "fenced", IPC_EXIT_FENCED);
    if (is(fake, "deleted"))
        fail(fake, "deleted", IPC_EXIT_FENCED);
    if (is(fake, "overflow"))
        fail(fake, "internal_overflow", IPC_EXIT_ERROR);
    if (is(fake, "refused"))
        fail(fake, "refused", IPC_EXIT_ERROR);
    if (is(fake, "slow"))
        return;
    if (is(fake, "adopt")) {
        atomic_store(&fake->arena->worker.state, ARENA_NEEDS_ADOPTION);
        say(fake, "status", "\"status\":{\"state\":\"needs_adoption\"}");
        return;
    }
    if (is(fake, "noisy"))
        make_noise(fake);
    be_ready(fake);
    if (is(fake, "trouble"))
        be_in_trouble(fake);
    if (is(fake, "crash") && deaths(fake) < ARENA_POISON_DEATHS)
        crash(fake);
    if (is(fake, "hang") && deaths(fake) == 0)
        hang(fake);
    if (is(fake, "finish")) {
        say(fake, "finished", "\"trigger\":\"__end__\",\"time\":\"2020-10-20T13:00:00.000000Z\"");
        _exit(IPC_EXIT_OK);
    }
}

static _Noreturn void work(struct fake *fake)
{
    static char packet[IPC_MAX];
    struct error err;
    size_t len;
    int fds[IPC_MAX_FDS];
    unsigned n_fds;
    act(fake);
    while (ipc_receive(fake->fd, 1, packet, &len, fds, &n_fds, &err) == 0) {
        struct json_value message, kind;
        if (json_scan(packet, len, &message, &err) < 0 || !json_member(&message, "message", &kind))
            _exit(IPC_EXIT_ERROR);
        if (json_equals(&kind, "stop", 4) && !is(fake, "stubborn"))
            _exit(IPC_EXIT_OK);
        if (json_equals(&kind, "adopt", 5)) {
            text_member(&message, "from", fake->adopt);
            be_ready(fake);
        }
        if (json_equals(&kind, "reload", 6))
            say(fake, "status", "\"status\":{\"state\":\"running\",\"reloaded\":true}");
    }
    _exit(IPC_EXIT_OK);
}

/* Forks twice, so that the supervisor, a subreaper, becomes the worker's parent. */
static pid_t fork_worker(struct fake *fake)
{
    int pipe_fds[2];
    pid_t pid = -1;
    if (pipe(pipe_fds) < 0)
        return -1;
    pid_t middle = fork();
    if (middle == 0) {
        pid = fork();
        if (pid == 0) {
            close(IPC_FORKSERVER_FD);
            close(pipe_fds[0]);
            close(pipe_fds[1]);
            work(fake);
        }
        _exit(write(pipe_fds[1], &pid, sizeof pid) == (ssize_t)sizeof pid ? 0 : 1);
    }
    close(pipe_fds[1]);
    if (middle < 0 || read(pipe_fds[0], &pid, sizeof pid) != (ssize_t)sizeof pid)
        pid = -1;
    close(pipe_fds[0]);
    if (middle > 0)
        waitpid(middle, NULL, 0);
    return pid;
}

static void answer(const struct fake *fake, pid_t pid)
{
    char text[256];
    struct error err;
    if (pid > 0)
        snprintf(text, sizeof text, "{\"message\":\"spawned\",\"generation\":%lld,\"pid\":%d}",
                 (long long)fake->generation, (int)pid);
    else
        snprintf(text, sizeof text,
                 "{\"message\":\"error\",\"generation\":%lld,\"error\":\"no more processes\"}",
                 (long long)fake->generation);
    ipc_send(IPC_FORKSERVER_FD, text, strlen(text), NULL, 0, &err);
}

static void spawn(const char *packet, size_t len, const int fds[IPC_MAX_FDS])
{
    struct fake fake = {.fd = fds[1]};
    struct json_value message, value;
    struct error err;
    if (json_scan(packet, len, &message, &err) < 0 || arena_map(fds[0], &fake.arena, &err) < 0)
        _exit(1);
    text_member(&message, "workspace", fake.workspace);
    if (json_member(&message, "generation", &value))
        json_integer(&value, &fake.generation);
    if (json_member(&message, "config", &value)) {
        text_member(&value, "worker.adopt", fake.adopt);
        text_member(&value, "triggerflow_controller.token", fake.token);
    }
    char lost[512];
    snprintf(lost, sizeof lost, "%s/lost",
             getenv("FAKE_WORKER_DIR") ? getenv("FAKE_WORKER_DIR") : "/nonexistent");
    if (is(&fake, "lost") && unlink(lost) == 0)
        _exit(1);
    answer(&fake, is(&fake, "nofork") ? -1 : fork_worker(&fake));
    arena_unmap(fake.arena);
}

int fake_worker_main(void)
{
    static const char ready[] = "{\"message\":\"ready\"}";
    static char packet[IPC_MAX];
    struct error err;
    size_t len;
    int fds[IPC_MAX_FDS];
    unsigned n_fds;
    ipc_send(IPC_FORKSERVER_FD, ready, sizeof ready - 1, NULL, 0, &err);
    while (ipc_receive(IPC_FORKSERVER_FD, 1, packet, &len, fds, &n_fds, &err) == 0) {
        if (n_fds != 4)
            return 1;
        spawn(packet, len, fds);
        for (unsigned i = 0; i < n_fds; i++)
            close(fds[i]);
    }
    return 0;
}
