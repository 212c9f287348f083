#include "worker/executor/http_connections.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/loop.h"
#include "worker/executor/http_call_request.h"

#define LANES 16
#define ORIGINS_MAX 1024 /* whose version of HTTP is remembered */
/* Connections to one host, while it is not known what it speaks, and when it speaks HTTP/2. */
#define HOST_CONNECTIONS_UNKNOWN 64
#define HOST_CONNECTIONS_MULTIPLEXED 16
#define STREAMS_MAX 1000     /* of a connection; the server may allow fewer */
#define CONNECTIONS_MAX 4096 /* kept open */

enum { LANE_UNKNOWN = LANES, LANE_MULTIPLEXED, LANES_IN_ALL };
static const char speaks_1[1], speaks_2[1]; /* only their addresses mean something */

struct http_lane {
    struct http_connections *connections;
    CURLM *multi;
    size_t n_under_way;
};

struct http_connections {
    struct loop *loop;
    bool public_only;
    http_transfer_ended ended;
    struct http_lane lanes[LANES_IN_ALL];
    struct hash_table origins; /* of TLS servers that have answered -> speaks_1 or speaks_2 */
    struct watched **watched;  /* by descriptor */
    size_t n_watched;
};

/* A descriptor of libcurl's. A connection's stays watched between two calls on it, which saves telling the
 * kernel twice a call: until libcurl closes it, or it becomes ready with nobody there to look. */
struct watched {
    struct http_connections *connections;
    struct http_lane *lane; /* NULL: libcurl does not want to know */
    int fd;
    uint32_t events; /* that the loop watches for; 0: it does not */
    bool connection;
};

/* --- the loop and libcurl --- */

static void leave(struct http_lane *lane, CURL *easy)
{
    curl_multi_remove_handle(lane->multi, easy);
    lane->n_under_way--;
}

static void take_ended(struct http_lane *lane)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(lane->multi, &left))) {
        CURL *easy = message->easy_handle;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE)
            continue;
        leave(lane, easy);
        lane->connections->ended(easy, code);
    }
}

static void act(struct http_lane *lane, curl_socket_t fd, int what)
{
    int running;
    curl_multi_socket_action(lane->multi, fd, what, &running);
    take_ended(lane);
}

static void unwatch(struct watched *w)
{
    if (w->events)
        loop_remove(w->connections->loop, w->fd);
    w->events = 0;
}

static void on_ready(void *data, uint32_t events)
{
    struct watched *w = data;
    int what = (events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
               (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) | (events & EPOLLERR ? CURL_CSELECT_ERR : 0);
    if (w->lane)
        act(w->lane, w->fd, what);
    else
        unwatch(w);
}

static void on_time(void *data)
{
    act(data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timer(CURLM *multi, long timeout_ms, void *data)
{
    struct http_lane *lane = data;
    struct loop *loop = lane->connections->loop;
    (void)multi;
    if (timeout_ms < 0) {
        loop_timer_cancel(loop, on_time, lane);
        return 0;
    }
    return loop_timer_set(loop, clock_now_ns() + (uint64_t)timeout_ms * CLOCK_MS, on_time, lane, NULL);
}

static struct watched *watched_of(struct http_connections *connections, int fd)
{
    if ((size_t)fd >= connections->n_watched) {
        size_t n = (size_t)fd + 64;
        struct watched **grown = realloc(connections->watched, n * sizeof(struct watched *));
        if (!grown)
            return NULL;
        memset(grown + connections->n_watched, 0, (n - connections->n_watched) * sizeof(struct watched *));
        connections->watched = grown;
        connections->n_watched = n;
    }
    if (!connections->watched[fd] && (connections->watched[fd] = calloc(1, sizeof(struct watched))))
        *connections->watched[fd] = (struct watched){.connections = connections, .fd = fd};
    return connections->watched[fd];
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *of_socket)
{
    struct http_lane *lane = data;
    struct watched *w = watched_of(lane->connections, fd);
    int r = 0;
    (void)easy;
    (void)of_socket;
    if (!w)
        return -1;
    if (what == CURL_POLL_REMOVE) {
        w->lane = NULL;
        if (!w->connection || w->events != EPOLLIN)
            unwatch(w);
        return 0;
    }
    uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (!w->events)
        r = loop_add(lane->connections->loop, fd, events, on_ready, w, NULL);
    else if (w->events != events)
        r = loop_modify(lane->connections->loop, fd, events, NULL);
    if (r < 0)
        return -1;
    w->lane = lane;
    w->events = events;
    return 0;
}

/* Resolved addresses are judged, so that no name and no redirection of names gets around it. */
static curl_socket_t on_address(void *data, curlsocktype purpose, struct curl_sockaddr *address)
{
    const struct http_connections *connections = data;
    (void)purpose;
    if (connections->public_only && address->family != AF_UNIX && !http_call_is_public(&address->addr)) {
        errno = EACCES;
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static int on_open(void *data, curl_socket_t fd, curlsocktype purpose)
{
    struct watched *w = watched_of(data, fd);
    (void)purpose;
    if (!w)
        return CURL_SOCKOPT_ERROR;
    unwatch(w);
    w->connection = true;
    return CURL_SOCKOPT_OK;
}

static int on_close(void *data, curl_socket_t fd)
{
    struct watched *w = watched_of(data, fd);
    if (w) {
        unwatch(w);
        w->lane = NULL;
        w->connection = false;
    }
    return close(fd);
}

bool http_connections_set(struct http_connections *connections, CURL *easy)
{
    return curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_address) ||
           curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, connections) ||
           curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_open) ||
           curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, connections) ||
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close) ||
           curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, connections);
}

/* --- lanes --- */

/* Where few are under way; but see the header. */
static struct http_lane *choose_lane(struct http_connections *connections, const char *url)
{
    struct http_lane *least = &connections->lanes[0];
    if (!strncasecmp(url, "https:", 6)) {
        BUFFER_AUTO origin = BUFFER_INIT;
        const void *speaks = NULL;
        if (http_call_origin(url, &origin, NULL) == 0)
            speaks = hash_get(&connections->origins, buffer_text(&origin), origin.len);
        if (speaks != speaks_1)
            return &connections->lanes[speaks ? LANE_MULTIPLEXED : LANE_UNKNOWN];
    }
    for (size_t i = 1; i < LANES; i++)
        if (connections->lanes[i].n_under_way < least->n_under_way)
            least = &connections->lanes[i];
    return least;
}

struct http_lane *http_connections_start(struct http_connections *connections, const char *url, CURL *easy)
{
    struct http_lane *lane = choose_lane(connections, url);
    if (curl_multi_add_handle(lane->multi, easy) != CURLM_OK)
        return NULL;
    lane->n_under_way++;
    return lane;
}

void http_lane_cancel(struct http_lane *lane, CURL *easy)
{
    leave(lane, easy);
}

static void forget_origins(struct http_connections *connections)
{
    size_t cursor = 0;
    for (struct hash_entry *e; (e = hash_next(&connections->origins, &cursor));)
        free((void *)(uintptr_t)e->key);
    hash_done(&connections->origins);
    hash_init(&connections->origins);
}

/* A server may change its mind. */
void http_connections_learn(struct http_connections *connections, CURL *easy, unsigned version)
{
    char *url = NULL;
    BUFFER_AUTO origin = BUFFER_INIT;
    curl_easy_getinfo(easy, CURLINFO_EFFECTIVE_URL, &url);
    if (!version || !url || strncasecmp(url, "https:", 6) != 0 || http_call_origin(url, &origin, NULL) < 0)
        return;
    const char *speaks = version >= 20 ? speaks_2 : speaks_1;
    const char *name = buffer_text(&origin);
    const void *before = hash_get(&connections->origins, name, origin.len);
    if (before == speaks)
        return;
    if (before || connections->origins.count >= ORIGINS_MAX)
        forget_origins(connections);
    char *copy = strdup(name);
    if (copy && hash_put(&connections->origins, copy, origin.len, (void *)(uintptr_t)speaks, NULL) < 0)
        free(copy);
}

/* --- life --- */

/* Each connection is a descriptor. */
static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int open_lane(struct http_lane *lane, struct http_connections *connections, long host_connections)
{
    lane->connections = connections;
    CURLM *m = lane->multi = curl_multi_init();
    if (!m)
        return -1;
    bool failed = curl_multi_setopt(m, CURLMOPT_SOCKETFUNCTION, on_socket) ||
                  curl_multi_setopt(m, CURLMOPT_SOCKETDATA, lane) ||
                  curl_multi_setopt(m, CURLMOPT_TIMERFUNCTION, on_timer) ||
                  curl_multi_setopt(m, CURLMOPT_TIMERDATA, lane) ||
                  curl_multi_setopt(m, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_MAX / LANES) ||
                  curl_multi_setopt(m, CURLMOPT_MAX_HOST_CONNECTIONS, host_connections) ||
                  curl_multi_setopt(m, CURLMOPT_MAX_CONCURRENT_STREAMS, (long)STREAMS_MAX) ||
                  curl_multi_setopt(m, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    return failed ? -1 : 0;
}

int http_connections_new(struct loop *loop, bool public_only, http_transfer_ended ended,
                         struct http_connections **ret_connections, struct error *err)
{
    struct http_connections *connections = calloc(1, sizeof *connections);
    if (!connections)
        return error_set(err, ERROR_MEMORY, "out of memory");
    connections->loop = loop;
    connections->public_only = public_only;
    connections->ended = ended;
    hash_init(&connections->origins);
    for (size_t i = 0; i < LANES_IN_ALL; i++)
        if (open_lane(&connections->lanes[i], connections,
                      i == LANE_UNKNOWN       ? HOST_CONNECTIONS_UNKNOWN
                      : i == LANE_MULTIPLEXED ? HOST_CONNECTIONS_MULTIPLEXED
                                              : 0) < 0) {
            http_connections_free(connections);
            return error_set(err, ERROR_MEMORY, "out of memory");
        }
    raise_descriptors();
    *ret_connections = connections;
    return 0;
}

void http_connections_free(struct http_connections *connections)
{
    if (!connections)
        return;
    for (size_t i = 0; i < LANES_IN_ALL; i++) {
        if (connections->lanes[i].multi)
            curl_multi_cleanup(connections->lanes[i].multi); /* closes them, and tells on_close so */
        loop_timer_cancel(connections->loop, on_time, &connections->lanes[i]);
    }
    for (size_t fd = 0; fd < connections->n_watched; fd++) {
        if (connections->watched[fd])
            unwatch(connections->watched[fd]);
        free(connections->watched[fd]);
    }
    free(connections->watched);
    forget_origins(connections);
    hash_done(&connections->origins);
    free(connections);
}
