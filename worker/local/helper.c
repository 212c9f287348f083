#include "worker/local/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"

/* Nothing of the worker's but its memory, the socket and the log. */
static void leave_worker(const char *name, int socket)
{
    static const int of_worker[] = {SIGINT, SIGTERM, SIGHUP,
                                    SIGPIPE}; /* which ends, and the socket with it */
    for (size_t i = 0; i < sizeof of_worker / sizeof of_worker[0]; i++)
        signal(of_worker[i], SIG_IGN);
    prctl(PR_SET_NAME, name);
    if (dup2(socket, HELPER_SOCKET) < 0 || close_range(HELPER_SOCKET + 1, ~0u, 0) < 0)
        _exit(1);
    fcntl(HELPER_SOCKET, F_SETFD, FD_CLOEXEC);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        close(null);
    }
}

int helper_start(const char *name, void (*run)(const void *data), const void *data, int *ret_socket,
                 pid_t *ret_pid, struct error *err)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
        return error_set_errno(err, errno, "%s: socketpair", name);
    pid_t pid = fork();
    if (pid == 0) {
        leave_worker(name, fds[1]);
        run(data);
        _exit(0);
    }
    int failed = errno;
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return error_set_errno(err, failed, "%s: fork", name);
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    *ret_socket = fds[0];
    *ret_pid = pid;
    return 0;
}
