/* Packets with descriptors over socket pairs, and what happens at the ends. */
#include "common/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/error.h"

static char packet[IPC_MAX];

struct pair {
    int fd[2];
    struct error err;
    size_t len;
    int fds[IPC_MAX_FDS];
    unsigned n_fds;
};

static int setup(void **state)
{
    struct pair *p = calloc(1, sizeof *p);
    assert_non_null(p);
    assert_int_equal(ipc_pair(p->fd, &p->err), 0);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct pair *p = *state;
    for (int i = 0; i < 2; i++)
        if (p->fd[i] >= 0)
            close(p->fd[i]);
    free(p);
    return 0;
}

static void close_end(struct pair *p, int i)
{
    close(p->fd[i]);
    p->fd[i] = -1;
}

static int send_text(struct pair *p, int from, const char *text)
{
    return ipc_send(p->fd[from], text, strlen(text), NULL, 0, &p->err);
}

static int receive(struct pair *p, int to)
{
    return ipc_receive(p->fd[to], 0, packet, &p->len, p->fds, &p->n_fds, &p->err);
}

/* The lowest free descriptor: unchanged when nothing leaks. */
static int next_fd(void)
{
    int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    assert_true(fd >= 0);
    close(fd);
    return fd;
}

static void test_packets(void **state)
{
    struct pair *p = *state;
    for (int i = 0; i < 2; i++)
        assert_true(fcntl(p->fd[i], F_GETFD) & FD_CLOEXEC);
    assert_int_equal(receive(p, 0), IPC_AGAIN);
    assert_int_equal(send_text(p, 0, "one"), 0);
    assert_int_equal(send_text(p, 0, "three"), 0);
    assert_int_equal(send_text(p, 1, "back"), 0);
    assert_int_equal(receive(p, 1), 0); /* packets keep their borders */
    assert_int_equal(p->len, 3);
    assert_int_equal(p->n_fds, 0);
    assert_memory_equal(packet, "one", 3);
    assert_int_equal(receive(p, 1), 0);
    assert_int_equal(p->len, 5);
    assert_int_equal(receive(p, 1), IPC_AGAIN);
    assert_int_equal(receive(p, 0), 0);
    assert_memory_equal(packet, "back", 4);
}

static void test_sizes(void **state)
{
    struct pair *p = *state;
    char *big = malloc(IPC_MAX + 1);
    assert_non_null(big);
    memset(big, 'b', IPC_MAX + 1);
    assert_int_equal(ipc_send(p->fd[0], big, IPC_MAX, NULL, 0, &p->err), 0);
    assert_int_equal(receive(p, 1), 0);
    assert_int_equal(p->len, IPC_MAX);
    assert_memory_equal(packet, big, IPC_MAX);

    assert_int_equal(ipc_send(p->fd[0], big, IPC_MAX + 1, NULL, 0, &p->err), -1);
    assert_int_equal(p->err.code, ERROR_LIMIT);
    assert_string_equal(p->err.message, "packet of 65537 bytes, at most 65536 are allowed");
    assert_int_equal(ipc_send(p->fd[0], big, 0, NULL, 0, &p->err), -1);
    assert_int_equal(p->err.code, ERROR_INVALID);
    assert_string_equal(p->err.message, "empty packet");
    assert_int_equal(ipc_send(p->fd[0], big, 1, (int[]){0, 1, 2, 0, 1}, 5, &p->err), -1);
    assert_int_equal(p->err.code, ERROR_LIMIT);
    assert_string_equal(p->err.message, "5 descriptors in a packet, at most 4 are allowed");

    /* A peer that does not keep to the limit; the packet's descriptors are not left open. */
    int before = next_fd();
    struct iovec iov = {.iov_base = big, .iov_len = IPC_MAX + 1};
    char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &p->fd[0], sizeof(int));
    assert_int_equal(sendmsg(p->fd[0], &msg, 0), IPC_MAX + 1);
    assert_int_equal(receive(p, 1), -1);
    assert_int_equal(p->err.code, ERROR_LIMIT);
    assert_string_equal(p->err.message, "packet above 65536 bytes received");
    assert_int_equal(next_fd(), before);
    assert_int_equal(send_text(p, 0, "next"), 0); /* and the connection goes on */
    assert_int_equal(receive(p, 1), 0);
    free(big);
}

static bool same_file(int a, int b)
{
    struct stat x;
    struct stat y;
    assert_int_equal(fstat(a, &x), 0);
    assert_int_equal(fstat(b, &y), 0);
    return x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

static void test_descriptors(void **state)
{
    struct pair *p = *state;
    int pipes[2];
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_true(null >= 0);
    assert_int_equal(ipc_send(p->fd[0], "x", 1, (int[]){pipes[0], null}, 2, &p->err), 0);
    assert_int_equal(ipc_send(p->fd[0], "y", 1, &pipes[1], 1, &p->err), 0);
    assert_int_equal(receive(p, 1), 0);
    assert_int_equal(p->n_fds, 2);
    assert_true(same_file(p->fds[0], pipes[0]));
    assert_true(same_file(p->fds[1], null));
    for (unsigned i = 0; i < 2; i++) {
        assert_true(fcntl(p->fds[i], F_GETFD) & FD_CLOEXEC);
        close(p->fds[i]);
    }
    assert_int_equal(receive(p, 1), 0);
    assert_int_equal(p->n_fds, 1);
    close(p->fds[0]);
    assert_int_equal(fcntl(null, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC); /* ours stay open */
    close(pipes[0]);
    close(pipes[1]);
    close(null);
}

/* More descriptors than allowed, from a peer that does not use ipc_send. */
static void test_too_many_descriptors(void **state)
{
    struct pair *p = *state;
    enum { MANY = 5 };
    int fds[MANY] = {0, 1, 2, p->fd[0], p->fd[1]};
    struct iovec iov = {.iov_base = packet, .iov_len = 1};
    char control[CMSG_SPACE(MANY * sizeof(int))] __attribute__((aligned(8))) = {0};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(c), fds, sizeof fds);
    int before = next_fd();
    assert_int_equal(sendmsg(p->fd[0], &msg, 0), 1);
    assert_int_equal(receive(p, 1), 0);
    assert_int_equal(p->n_fds, IPC_MAX_FDS);
    close(p->fds[0]);
    close(p->fds[1]);
    assert_int_equal(next_fd(), before);
}

static void test_full(void **state)
{
    struct pair *p = *state;
    int sent = 0;
    int r;
    while ((r = ipc_send(p->fd[0], packet, 1000, NULL, 0, &p->err)) == 0)
        sent++;
    assert_int_equal(r, IPC_AGAIN);
    assert_true(sent > 0);
    assert_int_equal(receive(p, 1), 0);
    while ((r = receive(p, 1)) == 0)
        sent--;
    assert_int_equal(r, IPC_AGAIN);
    assert_int_equal(sent, 1);
    assert_int_equal(ipc_send(p->fd[0], packet, 1000, NULL, 0, &p->err), 0);
}

static void test_closed(void **state)
{
    struct pair *p = *state;
    assert_int_equal(send_text(p, 0, "last words"), 0);
    close_end(p, 0);
    assert_int_equal(receive(p, 1), 0);
    assert_int_equal(p->len, 10);
    assert_int_equal(receive(p, 1), IPC_CLOSED);
    assert_int_equal(receive(p, 1), IPC_CLOSED);
    signal(SIGPIPE, SIG_DFL); /* would end the test */
    assert_int_equal(send_text(p, 1, "anybody?"), IPC_CLOSED);
}

/* The peer dies with a packet of ours unread: what it had sent is still received. */
static void test_closed_unread(void **state)
{
    struct pair *p = *state;
    assert_int_equal(send_text(p, 1, "stop"), 0);
    assert_int_equal(send_text(p, 0, "finished"), 0);
    close_end(p, 0);
    assert_int_equal(receive(p, 1), 0);
    assert_int_equal(p->len, 8);
    assert_memory_equal(packet, "finished", 8);
    assert_int_equal(receive(p, 1), IPC_CLOSED);
}

static void test_errors(void **state)
{
    struct pair *p = *state;
    int closed = next_fd();
    p->len = 77;
    p->n_fds = 66;
    assert_int_equal(ipc_receive(closed, 0, packet, &p->len, p->fds, &p->n_fds, &p->err), -1);
    assert_int_equal(p->err.code, ERROR_SYSTEM);
    assert_string_equal(p->err.message, "recvmsg: Bad file descriptor");
    assert_int_equal(p->len, 77); /* outputs are written on success only */
    assert_int_equal(p->n_fds, 66);
    assert_int_equal(ipc_send(closed, "x", 1, NULL, 0, &p->err), -1);
    assert_string_equal(p->err.message, "sendmsg: Bad file descriptor");
    assert_int_equal(ipc_send(p->fd[0], "x", 1, &closed, 1, &p->err), -1);
    assert_string_equal(p->err.message, "sendmsg: Bad file descriptor");

    struct rlimit limit;
    struct rlimit none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = 0;
    assert_int_equal(ipc_send(p->fd[0], "x", 1, (int[]){0, 1}, 2, &p->err), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int fds[2] = {-7, -7};
    int made = ipc_pair(fds, &p->err);
    int got = receive(p, 1); /* the message arrives, its descriptors are lost, which n_fds tells */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(made, -1);
    assert_string_equal(p->err.message, "socketpair: Too many open files");
    assert_int_equal(fds[0], -7);
    assert_int_equal(got, 0);
    assert_int_equal(p->n_fds, 0);
}

static void ignore(int signal)
{
    (void)signal;
}

struct peer {
    pthread_t waiter;
    int fd;
};

static void *answer(void *data)
{
    struct peer *peer = data;
    for (int i = 0; i < 100; i++)
        pthread_kill(peer->waiter, SIGUSR1);
    assert_int_equal(send(peer->fd, "woke", 4, 0), 4);
    return NULL;
}

/* A waiting receive is not disturbed by signals. */
static void test_wait(void **state)
{
    struct pair *p = *state;
    struct sigaction action = {.sa_handler = ignore}; /* without SA_RESTART */
    struct peer peer = {pthread_self(), p->fd[0]};
    pthread_t thread;
    sigaction(SIGUSR1, &action, NULL);
    assert_int_equal(pthread_create(&thread, NULL, answer, &peer), 0);
    assert_int_equal(ipc_receive(p->fd[1], 1, packet, &p->len, p->fds, &p->n_fds, &p->err), 0);
    assert_int_equal(p->len, 4);
    pthread_join(thread, NULL);
    close_end(p, 0);
    assert_int_equal(ipc_receive(p->fd[1], 1, packet, &p->len, p->fds, &p->n_fds, &p->err), IPC_CLOSED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_packets), TEST(test_sizes),  TEST(test_descriptors),   TEST(test_too_many_descriptors),
        TEST(test_full),    TEST(test_closed), TEST(test_closed_unread), TEST(test_errors),
        TEST(test_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
