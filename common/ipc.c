#include "common/ipc.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"

/* Ancillary data of a packet; the union aligns it for struct cmsghdr (cmsg(3)). */
union control {
    char space[CMSG_SPACE(IPC_MAX_FDS * sizeof(int))];
    struct cmsghdr align;
};

int ipc_pair(int ret_fds[2], struct error *err)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret_fds) < 0)
        return error_set_errno(err, errno, "socketpair");
    return 0;
}

int ipc_send(int fd, const char *message, size_t len, const int *fds, unsigned n_fds, struct error *err)
{
    if (len == 0) /* the receiver could not tell it from end of file */
        return error_set(err, ERROR_INVALID, "empty packet");
    if (len > IPC_MAX)
        return error_set(err, ERROR_LIMIT, "packet of %zu bytes, at most %d are allowed", len, IPC_MAX);
    if (n_fds > IPC_MAX_FDS)
        return error_set(err, ERROR_LIMIT, "%u descriptors in a packet, at most %d are allowed", n_fds,
                         IPC_MAX_FDS);
    struct iovec iov = {.iov_len = len};
    memcpy(&iov.iov_base, &message, sizeof message); /* sendmsg only reads it */
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union control control = {0};
    if (n_fds) {
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return 0;
    switch (errno) {
    case EAGAIN:
        return IPC_AGAIN;
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
        return IPC_CLOSED;
    case EMSGSIZE:
        return error_set(err, ERROR_LIMIT, "packet of %zu bytes is above the socket's limit", len);
    default:
        return error_set_errno(err, errno, "sendmsg");
    }
}

/* Takes the descriptors out of a received packet; closes what is beyond IPC_MAX_FDS. */
static unsigned take_fds(struct msghdr *msg, int fds[IPC_MAX_FDS])
{
    unsigned n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (n < IPC_MAX_FDS)
                fds[n++] = fd;
            else
                close(fd);
        }
    }
    return n;
}

int ipc_receive(int fd, int wait, char buffer[IPC_MAX], size_t *ret_len, int ret_fds[IPC_MAX_FDS],
                unsigned *ret_n_fds, struct error *err)
{
    struct iovec iov = {.iov_base = buffer, .iov_len = IPC_MAX};
    union control control;
    struct msghdr msg;
    ssize_t n;
    bool reset = false;
    for (;;) {
        msg = (struct msghdr){.msg_iov = &iov,
                              .msg_iovlen = 1,
                              .msg_control = control.space,
                              .msg_controllen = sizeof control.space};
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
        if (n >= 0)
            break;
        /* A peer that closed with unread packets: Linux reports it once, in front of the packets it had sent.
         */
        if (errno == ECONNRESET && !reset)
            reset = true;
        else if (errno == ECONNRESET)
            return IPC_CLOSED;
        else if (errno == EAGAIN)
            return IPC_AGAIN;
        else if (errno != EINTR)
            return error_set_errno(err, errno, "recvmsg");
    }
    int fds[IPC_MAX_FDS];
    unsigned n_fds = take_fds(&msg, fds);
    if (n == 0 || (msg.msg_flags & MSG_TRUNC)) {
        for (unsigned i = 0; i < n_fds; i++)
            close(fds[i]);
        return n == 0 ? IPC_CLOSED : error_set(err, ERROR_LIMIT, "packet above %d bytes received", IPC_MAX);
    }
    *ret_len = (size_t)n;
    *ret_n_fds = n_fds;
    memcpy(ret_fds, fds, n_fds * sizeof *fds);
    return 0;
}
