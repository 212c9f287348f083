#include "tests/support/tcp_proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/support/free_port.h"

#define PAIRS 128
#define CHUNK 65536

enum { CLIENT, SERVER };

/* One direction: what came from fd[its index] and goes to the other one. */
struct way {
    char bytes[CHUNK];
    size_t from, len;
    uint64_t due_ns; /* of these bytes */
    bool ended;      /* nothing more comes */
    bool shut;       /* and the other side knows */
};

struct pair {
    int fd[2];
    struct way way[2];
};

struct tcp_proxy {
    int port;
    int listener;
    int wake_fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t turned; /* the thread has seen all that was set */
    /* Requires: lock */
    int target;
    enum tcp_proxy_mode mode;
    uint64_t delay_ns;
    uint64_t truncate; /* UINT64_MAX: not to be */
    uint64_t asked, seen;
    bool cut, stop;
    unsigned n_cut;
    uint64_t bytes, connections;
    /* Thread: proxy */
    bool listening;
    struct pair *pairs[PAIRS];
    unsigned n;
};

/* --- connections --- */

static int connect_to(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = port > 0 ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void reset_and_close(int fd)
{
    struct linger hard = {.l_onoff = 1};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

/* Requires: lock. */
static void take_connection(struct tcp_proxy *p)
{
    int one = 1;
    int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0)
        return;
    p->connections++;
    int server = connect_to(p->target);
    struct pair *pair = server >= 0 && p->n < PAIRS ? calloc(1, sizeof *pair) : NULL;
    if (!pair) {
        reset_and_close(client);
        if (server >= 0)
            close(server);
        return;
    }
    (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    pair->fd[CLIENT] = client;
    pair->fd[SERVER] = server;
    p->pairs[p->n++] = pair;
}

static void drop(struct tcp_proxy *p, unsigned i)
{
    reset_and_close(p->pairs[i]->fd[CLIENT]);
    reset_and_close(p->pairs[i]->fd[SERVER]);
    free(p->pairs[i]);
    p->pairs[i] = p->pairs[--p->n];
}

static void drop_all(struct tcp_proxy *p)
{
    p->n_cut = p->n;
    while (p->n)
        drop(p, p->n - 1);
}

/* --- bytes. Requires: lock --- */

/* False: the connection is lost. */
static bool read_some(struct tcp_proxy *p, struct pair *pair, int side)
{
    struct way *w = &pair->way[side];
    ssize_t n = recv(pair->fd[side], w->bytes, sizeof w->bytes, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    w->ended = n == 0;
    w->from = 0;
    w->len = (size_t)n;
    w->due_ns = clock_now_ns() + p->delay_ns;
    return true;
}

static bool write_some(struct tcp_proxy *p, struct pair *pair, int side)
{
    struct way *w = &pair->way[side];
    size_t most = side == SERVER && w->len > p->truncate ? (size_t)p->truncate : w->len;
    ssize_t n = most ? send(pair->fd[!side], w->bytes + w->from, most, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    w->from += (size_t)n;
    w->len -= (size_t)n;
    if (side == CLIENT)
        return true;
    p->bytes += (uint64_t)n;
    if (p->truncate != UINT64_MAX)
        p->truncate -= (uint64_t)n;
    p->cut |= p->truncate == 0;
    return true;
}

/* Tells the other side of an end once all before it is passed on. False: both have ended. */
static bool pass_end(struct pair *pair)
{
    for (int side = 0; side < 2; side++) {
        struct way *w = &pair->way[side];
        if (w->ended && !w->len && !w->shut) {
            (void)shutdown(pair->fd[!side], SHUT_WR);
            w->shut = true;
        }
    }
    return !pair->way[CLIENT].shut || !pair->way[SERVER].shut;
}

static bool serve(struct tcp_proxy *p, struct pair *pair, const struct pollfd fds[2])
{
    for (int side = 0; side < 2; side++) {
        if ((fds[side].revents & (POLLIN | POLLHUP | POLLERR)) && (fds[side].events & POLLIN) &&
            !read_some(p, pair, side))
            return false;
        if (pair->way[side].len && pair->way[side].due_ns <= clock_now_ns() && !write_some(p, pair, side))
            return false;
    }
    return pass_end(pair);
}

/* --- the thread --- */

/* What to wait for; *timeout_ms becomes shorter when bytes are due before. Requires: lock. */
static void prepare(struct tcp_proxy *p, struct pollfd *fds, int *timeout_ms)
{
    uint64_t now = clock_now_ns();
    fds[0] = (struct pollfd){.fd = p->wake_fd, .events = POLLIN};
    fds[1] =
        (struct pollfd){.fd = p->mode == TCP_PROXY_PASS && p->listening ? p->listener : -1, .events = POLLIN};
    for (unsigned i = 0; i < p->n; i++) {
        struct pollfd *both = &fds[2 + 2 * i];
        for (int side = 0; side < 2; side++)
            both[side] = (struct pollfd){.fd = -1};
        for (int side = 0; side < 2 && p->mode == TCP_PROXY_PASS; side++) {
            const struct way *w = &p->pairs[i]->way[side];
            if (!w->len && !w->ended)
                both[side].events |= POLLIN;
            else if (w->len && w->due_ns <= now)
                both[!side].events |= POLLOUT;
            else if (w->len && (int)((w->due_ns - now) / CLOCK_MS) < *timeout_ms)
                *timeout_ms = (int)((w->due_ns - now) / CLOCK_MS) + 1;
        }
        for (int side = 0; side < 2; side++)
            if (both[side].events)
                both[side].fd = p->pairs[i]->fd[side];
    }
}

/* Requires: lock. */
static void apply(struct tcp_proxy *p)
{
    if (p->cut || p->mode == TCP_PROXY_REFUSE) {
        drop_all(p);
        if (p->truncate == 0)
            p->truncate = UINT64_MAX;
    }
    p->cut = false;
    bool listen_now = p->mode != TCP_PROXY_REFUSE;
    if (listen_now != p->listening) {
        /* A listening socket that is shut down stays bound, and can listen again. */
        int r = listen_now ? listen(p->listener, 64) : shutdown(p->listener, SHUT_RDWR);
        if (r < 0)
            perror("tcp_proxy");
        else
            p->listening = listen_now;
    }
}

static void *proxy_main(void *data)
{
    struct tcp_proxy *p = data;
    static _Thread_local struct pollfd fds[2 + 2 * PAIRS];
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        int timeout = 1000;
        apply(p);
        p->seen = p->asked;
        pthread_cond_broadcast(&p->turned);
        prepare(p, fds, &timeout);
        unsigned n = p->n;
        pthread_mutex_unlock(&p->lock);
        int ready = poll(fds, 2 + 2 * n, timeout);
        pthread_mutex_lock(&p->lock);
        if (ready > 0 && fds[0].revents) {
            uint64_t count;
            (void)!read(p->wake_fd, &count, sizeof count);
        }
        if (p->mode != TCP_PROXY_PASS || p->cut)
            continue;
        for (unsigned i = n; i-- > 0;)
            if (!serve(p, p->pairs[i], &fds[2 + 2 * i]))
                drop(p, i);
        if (ready > 0 && fds[1].revents)
            take_connection(p);
    }
    drop_all(p);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* --- control --- */

static void wake(struct tcp_proxy *p)
{
    uint64_t one = 1;
    (void)!write(p->wake_fd, &one, sizeof one);
}

/* Ends what pthread_mutex_lock(&p->lock) and some setting has begun. Returns how many pairs were cut. */
static unsigned carry_out(struct tcp_proxy *p)
{
    uint64_t mine = ++p->asked;
    wake(p);
    while (p->seen < mine)
        pthread_cond_wait(&p->turned, &p->lock);
    unsigned n_cut = p->n_cut;
    pthread_mutex_unlock(&p->lock);
    return n_cut;
}

/* Only a port that was asked for by its number stays a socket's when it stops listening. */
static int bind_somewhere(int *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1; /* else its own closed connections would keep it from listening again */
    int port = free_port();
    int fd = port > 0 ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
    address.sin_port = htons((uint16_t)port);
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
                    bind(fd, (struct sockaddr *)&address, sizeof address) < 0)) {
        close(fd);
        fd = -1;
    }
    *ret_port = port;
    return fd;
}

int tcp_proxy_new(struct tcp_proxy **ret_proxy)
{
    struct tcp_proxy *p = calloc(1, sizeof *p);
    if (!p)
        return -1;
    p->truncate = UINT64_MAX;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->turned, NULL);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->listener = bind_somewhere(&p->port);
    if (p->wake_fd < 0 || p->listener < 0 || pthread_create(&p->thread, NULL, proxy_main, p) != 0) {
        perror("tcp_proxy");
        free(p);
        return -1;
    }
    pthread_mutex_lock(&p->lock);
    carry_out(p);
    *ret_proxy = p;
    return 0;
}

void tcp_proxy_free(struct tcp_proxy *proxy)
{
    if (!proxy)
        return;
    pthread_mutex_lock(&proxy->lock);
    proxy->stop = true;
    wake(proxy);
    pthread_mutex_unlock(&proxy->lock);
    pthread_join(proxy->thread, NULL);
    close(proxy->listener);
    close(proxy->wake_fd);
    pthread_cond_destroy(&proxy->turned);
    pthread_mutex_destroy(&proxy->lock);
    free(proxy);
}

int tcp_proxy_port(const struct tcp_proxy *proxy)
{
    return proxy->port;
}

void tcp_proxy_target(struct tcp_proxy *proxy, int port)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->target = port;
    carry_out(proxy);
}

void tcp_proxy_set(struct tcp_proxy *proxy, enum tcp_proxy_mode mode)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->mode = mode;
    carry_out(proxy);
}

unsigned tcp_proxy_cut(struct tcp_proxy *proxy)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->cut = true;
    proxy->n_cut = 0;
    return carry_out(proxy);
}

void tcp_proxy_delay(struct tcp_proxy *proxy, uint64_t delay_ns)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->delay_ns = delay_ns;
    carry_out(proxy);
}

void tcp_proxy_truncate(struct tcp_proxy *proxy, uint64_t bytes)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->truncate = bytes;
    proxy->cut |= bytes == 0;
    carry_out(proxy);
}

void tcp_proxy_reset(struct tcp_proxy *proxy)
{
    pthread_mutex_lock(&proxy->lock);
    proxy->mode = TCP_PROXY_PASS;
    proxy->delay_ns = 0;
    proxy->truncate = UINT64_MAX;
    carry_out(proxy);
}

static uint64_t look(struct tcp_proxy *proxy, const uint64_t *at)
{
    pthread_mutex_lock(&proxy->lock);
    uint64_t n = *at;
    pthread_mutex_unlock(&proxy->lock);
    return n;
}

uint64_t tcp_proxy_bytes(struct tcp_proxy *proxy)
{
    return look(proxy, &proxy->bytes);
}

uint64_t tcp_proxy_connections(struct tcp_proxy *proxy)
{
    return look(proxy, &proxy->connections);
}
