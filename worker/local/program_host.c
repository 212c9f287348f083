#include "worker/local/program_host.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/config.h"
#include "worker/local/helper.h"
#include "worker/local/program_runner.h"

enum { ORDER_FDS = 3 };

/* Takes one order's descriptors. False: the worker is gone. */
static bool receive(int fds[ORDER_FDS], unsigned *ret_n)
{
    char byte;
    char control[CMSG_SPACE(sizeof(int) * ORDER_FDS)] __attribute__((aligned(sizeof(struct cmsghdr))));
    struct iovec io = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(HELPER_SOCKET, &message, MSG_CMSG_CLOEXEC);
    *ret_n = 0;
    if (n < 0)
        return errno == EINTR;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); n && c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *ret_n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), *ret_n * sizeof(int));
        }
    return n > 0;
}

/* --- runners --- */

struct runner {
    pid_t pid; /* 0: it has ended, and its folder may be left */
    char *directory;
};

static struct {
    struct runner *list;
    size_t n;
    size_t cap;
} runners;

static bool is_runner(pid_t pid)
{
    for (size_t i = 0; i < runners.n; i++)
        if (runners.list[i].pid == pid)
            return true;
    return false;
}

static bool make_room(void)
{
    if (runners.n < runners.cap)
        return true;
    size_t cap = runners.cap ? runners.cap * 2 : 16;
    struct runner *grown = realloc(runners.list, cap * sizeof *grown);
    if (!grown)
        return false;
    runners.list = grown;
    runners.cap = cap;
    return true;
}

/* Removes what is left of those that have ended: a runner that was killed has not done so. */
static void clear_ended(void)
{
    for (size_t i = 0; i < runners.n;) {
        if (runners.list[i].pid) {
            i++;
            continue;
        }
        program_directory_remove(runners.list[i].directory);
        free(runners.list[i].directory);
        runners.list[i] = runners.list[--runners.n];
    }
}

static bool kill_orphan(pid_t pid, void *data)
{
    bool *found = data;
    if (!is_runner(pid)) {
        kill(pid, SIGKILL);
        *found = true;
    }
    return false;
}

/* Takes those that have ended. What a runner leaves that was killed itself is killed here. Whether there may
 * be more of that. */
static bool reap(void)
{
    pid_t pid;
    bool found = false;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
        for (size_t i = 0; i < runners.n; i++)
            if (runners.list[i].pid == pid)
                runners.list[i].pid = 0;
    program_each_child("self", kill_orphan, &found);
    if (!found) /* else something may still use a folder */
        clear_ended();
    return found;
}

static void start_runner(const struct config *config, const int fds[ORDER_FDS])
{
    char *directory = make_room() ? program_directory_name() : NULL;
    pid_t pid = directory ? fork() : -1;
    if (pid == 0) {
        sigset_t none;
        close(HELPER_SOCKET);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        program_runner(config, fds[0], fds[1], fds[2], directory);
    }
    if (pid > 0)
        runners.list[runners.n++] = (struct runner){pid, directory};
    else
        free(directory);
}

static _Noreturn void serve(const struct config *config, int signals)
{
    int fds[ORDER_FDS];
    unsigned n = 0;
    bool again = false;
    for (;;) {
        struct signalfd_siginfo info;
        struct pollfd ready[] = {{.fd = HELPER_SOCKET, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
        if (poll(ready, 2, again ? 1 : -1) < 0 && errno != EINTR)
            _exit(1);
        if (ready[1].revents)
            (void)!read(signals, &info, sizeof info);
        again = ready[1].revents || again ? reap() : false;
        if (!ready[0].revents)
            continue;
        if (!receive(fds, &n))
            _exit(0);
        if (n == ORDER_FDS)
            start_runner(config, fds);
        for (unsigned i = 0; i < n; i++) /* if there is no runner, the worker sees the socket closed */
            close(fds[i]);
    }
}

static void host(const void *data)
{
    sigset_t children;
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_SETMASK, &children, NULL);
    int signals = signalfd(-1, &children, SFD_CLOEXEC);
    if (signals < 0)
        _exit(1);
    serve(data, signals);
}

int program_host_start(const struct config *config, int *ret_socket, pid_t *ret_pid, struct error *err)
{
    return helper_start("triggerflow-hos", host, config, ret_socket, ret_pid, err);
}
