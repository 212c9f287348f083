/* See checker.h. One socket is the child's standard input and output. The child is reaped here, or by
 * process_reap, whoever comes first; it is signalled through its pidfd only. */
#include "supervisor/checker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"

#define READ_SIZE 65536
#define END_MS 1000 /* it ends at once when its input does; more means that it hangs */

extern char **environ;

struct checker {
    char *worker_path;
    uint64_t answer_ns;
    pthread_mutex_t lock; /* guards all below */
    pid_t pid;
    int pidfd; /* -1: no child */
    int fd;
};

int checker_new(const char *worker_path, struct checker **ret_checker, struct error *err)
{
    struct checker *c = calloc(1, sizeof *c);
    if (!c || !(c->worker_path = strdup(worker_path))) {
        free(c);
        return error_set(err, ERROR_MEMORY, "checker: out of memory");
    }
    pthread_mutex_init(&c->lock, NULL);
    c->answer_ns = CHECKER_ANSWER_NS;
    c->pidfd = c->fd = -1;
    *ret_checker = c;
    return 0;
}

void checker_set_timeout(struct checker *checker, uint64_t answer_ns)
{
    checker->answer_ns = answer_ns;
}

/* --- the child --- */

static int spawn(const char *path, int socket, pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    char option[] = "--check";
    char *name = strdup(path);
    char *argv[] = {name, option, NULL};
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    int e = name ? 0 : ENOMEM;
    if (e == 0)
        e = posix_spawn_file_actions_adddup2(&actions, socket, STDIN_FILENO);
    if (e == 0)
        e = posix_spawn_file_actions_adddup2(&actions, socket, STDOUT_FILENO);
    if (e == 0)
        e = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
    if (e == 0)
        e = posix_spawnattr_setsigmask(&attributes, &none);
    if (e == 0)
        e = posix_spawnattr_setsigdefault(&attributes, &all);
    if (e == 0)
        e = posix_spawnattr_setpgroup(&attributes, 0); /* a Ctrl-C is for the supervisor */
    if (e == 0)
        e = posix_spawnattr_setflags(&attributes,
                                     POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    if (e == 0)
        e = posix_spawn(ret_pid, path, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    free(name);
    return e;
}

static int child_start(struct checker *c, struct error *err)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return error_set_errno(err, errno, "checker: socketpair");
    pid_t pid = 0;
    int e = spawn(c->worker_path, fds[1], &pid);
    close(fds[1]);
    /* If process_reap has been faster, it is dead, and the socket says so. */
    int pidfd = e == 0 ? pidfd_open(pid, 0) : -1;
    if (e == 0 && pidfd < 0)
        e = errno;
    if (e) {
        close(fds[0]);
        return error_set_errno(err, e, "checker: %s", c->worker_path);
    }
    c->fd = fds[0];
    c->pidfd = pidfd;
    c->pid = pid;
    log_debug("checker_start", LOG_INT("pid", pid));
    return 0;
}

/* Ends the child, with force unless it is given time, and reaps it. *ret_how: "signal 11", or "". */
static void child_end(struct checker *c, int wait_ms, char *ret_how, size_t how_size)
{
    siginfo_t info = {0};
    if (ret_how)
        ret_how[0] = '\0';
    if (c->pidfd < 0)
        return;
    close(c->fd);
    struct pollfd ended = {.fd = c->pidfd, .events = POLLIN};
    if (poll(&ended, 1, wait_ms) <= 0)
        pidfd_send_signal(c->pidfd, SIGKILL, NULL, 0);
    while (waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED) < 0 && errno == EINTR)
        continue;
    if (ret_how && info.si_pid)
        snprintf(ret_how, how_size, " (%s %d)", info.si_code == CLD_EXITED ? "exit status" : "signal",
                 info.si_status);
    close(c->pidfd);
    c->fd = c->pidfd = -1;
}

/* A child that has died or says something unasked while nobody asks is replaced. */
static int child_ready(struct checker *c, struct error *err)
{
    struct pollfd polled[2] = {{.fd = c->fd, .events = POLLIN}, {.fd = c->pidfd, .events = POLLIN}};
    if (c->pidfd >= 0 && poll(polled, 2, 0) != 0) {
        log_warn("checker_lost", LOG_INT("pid", c->pid));
        child_end(c, 0, NULL, 0);
    }
    return c->pidfd >= 0 ? 0 : child_start(c, err);
}

void checker_free(struct checker *checker)
{
    if (!checker)
        return;
    child_end(checker, END_MS, NULL, 0);
    pthread_mutex_destroy(&checker->lock);
    free(checker->worker_path);
    free(checker);
}

/* --- a request --- */

struct exchange {
    const char *request;
    size_t len;
    size_t sent;  /* of the request and its line feed */
    size_t start; /* of the answer in `answer` */
    struct buffer *answer;
};

enum verdict { EXCHANGE_GOES_ON, EXCHANGE_ANSWERED, EXCHANGE_ENDED, EXCHANGE_TOO_LONG, EXCHANGE_MEMORY };

static enum verdict send_some(struct checker *c, struct exchange *x)
{
    while (x->sent <= x->len) {
        const char *from = x->sent < x->len ? x->request + x->sent : "\n";
        size_t left = x->sent < x->len ? x->len - x->sent : 1;
        ssize_t n = send(c->fd, from, left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? EXCHANGE_GOES_ON : EXCHANGE_ENDED;
        x->sent += (size_t)n;
    }
    return EXCHANGE_GOES_ON;
}

static enum verdict receive_some(struct checker *c, struct exchange *x)
{
    char *to = buffer_reserve(x->answer, READ_SIZE);
    if (!to)
        return EXCHANGE_MEMORY;
    ssize_t n = recv(c->fd, to, READ_SIZE, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? EXCHANGE_GOES_ON : EXCHANGE_ENDED;
    if (n == 0)
        return EXCHANGE_ENDED;
    x->answer->len += (size_t)n;
    const char *feed = memchr(to, '\n', (size_t)n);
    if (feed && feed + 1 == to + n) {
        x->answer->len--;
        return EXCHANGE_ANSWERED;
    }
    return feed || x->answer->len - x->start > CHECKER_ANSWER_MAX ? EXCHANGE_TOO_LONG : EXCHANGE_GOES_ON;
}

static enum verdict exchange(struct checker *c, struct exchange *x, uint64_t until)
{
    for (;;) {
        enum verdict v = send_some(c, x);
        uint64_t now = clock_now_ns();
        if (v != EXCHANGE_GOES_ON || now >= until)
            return v;
        struct pollfd polled = {.fd = c->fd, .events = (short)(POLLIN | (x->sent <= x->len ? POLLOUT : 0))};
        if (poll(&polled, 1, (int)((until - now) / CLOCK_MS) + 1) <= 0 || !(polled.revents & ~POLLOUT))
            continue;
        v = receive_some(c, x);
        if (v != EXCHANGE_GOES_ON)
            return v;
    }
}

static int judge(struct checker *c, struct exchange *x, enum verdict v, struct error *err)
{
    struct json_value answer;
    char how[40];
    if (v == EXCHANGE_ANSWERED && x->sent > x->len &&
        json_scan(x->answer->data + x->start, x->answer->len - x->start, &answer, NULL) == 0 &&
        answer.type == JSON_OBJECT)
        return 0;
    child_end(c, v == EXCHANGE_ENDED ? END_MS : 0, how, sizeof how);
    if (v == EXCHANGE_ENDED)
        error_set(err, ERROR_REFUSED, "the checker died of this request%s", how);
    else if (v == EXCHANGE_GOES_ON)
        error_set(err, ERROR_REFUSED, "the checker did not answer this request within %llu ms",
                  (unsigned long long)(c->answer_ns / CLOCK_MS));
    else if (v == EXCHANGE_MEMORY)
        error_set(err, ERROR_MEMORY, "checker: out of memory");
    else
        error_set(err, ERROR_REFUSED, "the checker's answer to this request is %s",
                  v == EXCHANGE_TOO_LONG ? "too long" : "not a JSON object");
    log_error("checker_failed", LOG_INT("pid", c->pid), LOG_STR("error", err->message));
    return -1;
}

int checker_ask(struct checker *checker, const char *request, size_t len, struct buffer *ret_answer,
                struct error *err)
{
    struct error own;
    struct error *why = err ? err : &own;
    struct exchange x = {.request = request, .len = len, .start = ret_answer->len, .answer = ret_answer};
    if (len > CHECKER_REQUEST_MAX || memchr(request, '\n', len))
        return error_set(err, ERROR_REFUSED, "a request of %zu bytes cannot be checked: %s", len,
                         len > CHECKER_REQUEST_MAX ? "too long" : "it has a line feed");
    pthread_mutex_lock(&checker->lock);
    int r = child_ready(checker, why);
    if (r == 0)
        r = judge(checker, &x, exchange(checker, &x, clock_now_ns() + checker->answer_ns), why);
    pthread_mutex_unlock(&checker->lock);
    if (r < 0)
        ret_answer->len = x.start;
    return r;
}
