#include "worker/executor/http_call.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/loop.h"

#define POOL_MAX 256          /* easy handles kept for reuse */
#define BODY_KEPT (64u << 10) /* of a pooled call's buffers */
#define LANES 16
#define ORIGINS_MAX 1024 /* whose version of HTTP is remembered */
/* Connections to one host, while it is not known what it speaks, and when it speaks HTTP/2. */
#define HOST_CONNECTIONS_UNKNOWN 64
#define HOST_CONNECTIONS_MULTIPLEXED 16
#define STREAMS_MAX 1000     /* of a connection; the server may allow fewer */
#define CONNECTIONS_MAX 4096 /* kept open */

/* A call; kept in the pool after its end. */
struct http_call {
    struct http_call *next;           /* in the pool */
    struct http_call *before, *after; /* under way */
    struct http_calls *calls;
    struct lane *lane; /* that it is under way in */
    CURL *easy;
    struct curl_slist *headers;
    http_call_done done;
    void *data;
    struct buffer sent; /* the request's body */
    struct buffer body;
    size_t answer_max;
    size_t header_bytes;
    bool too_much; /* more than answer_max came: the rest is left */
    bool too_many_headers;
    bool no_room; /* all calls together keep too much */
    bool was_sent;
    bool was_lost; /* the connection that it was sent on */
    char why[CURL_ERROR_SIZE];
};

/* libcurl looks for a connection to use again by going through all to the same host, so they are spread over
 * several multi handles, each with connections of its own. But calls to a host that speaks HTTP/2 share few
 * connections in one lane, and those to a TLS server that has not answered yet go another, in which they wait
 * for each other's connection. */
struct lane {
    struct http_calls *calls;
    CURLM *multi;
    size_t n_under_way;
};

enum { LANE_UNKNOWN = LANES, LANE_MULTIPLEXED, LANES_IN_ALL };
static const char speaks_1[1], speaks_2[1]; /* only their addresses mean something */

struct http_calls {
    struct loop *loop;
    bool public_only;
    const char *tls_ca;
    struct lane lanes[LANES_IN_ALL];
    struct hash_table origins; /* of TLS servers that have answered -> speaks_1 or speaks_2 */
    struct http_call *pool;
    size_t n_pool;
    struct http_call *under_way;
    size_t n_under_way;
    size_t kept_bytes;
    struct watched **watched; /* by descriptor */
    size_t n_watched;
};

/* A descriptor of libcurl's. A connection's stays watched between two calls on it, which saves telling the
 * kernel twice a call: until libcurl closes it, or it becomes ready with nobody there to look. */
struct watched {
    struct http_calls *calls;
    struct lane *lane; /* NULL: libcurl does not want to know */
    int fd;
    uint32_t events; /* that the loop watches for; 0: it does not */
    bool connection;
};

/* --- the loop and libcurl --- */

static void take_ended(struct lane *lane);

static void act(struct lane *lane, curl_socket_t fd, int what)
{
    int running;
    curl_multi_socket_action(lane->multi, fd, what, &running);
    take_ended(lane);
}

static void unwatch(struct watched *w)
{
    if (w->events)
        loop_remove(w->calls->loop, w->fd);
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
    struct lane *lane = data;
    struct loop *loop = lane->calls->loop;
    (void)multi;
    if (timeout_ms < 0) {
        loop_timer_cancel(loop, on_time, lane);
        return 0;
    }
    return loop_timer_set(loop, clock_now_ns() + (uint64_t)timeout_ms * CLOCK_MS, on_time, lane, NULL);
}

static struct watched *watched_of(struct http_calls *calls, int fd)
{
    if ((size_t)fd >= calls->n_watched) {
        size_t n = (size_t)fd + 64;
        struct watched **grown = realloc(calls->watched, n * sizeof(struct watched *));
        if (!grown)
            return NULL;
        memset(grown + calls->n_watched, 0, (n - calls->n_watched) * sizeof(struct watched *));
        calls->watched = grown;
        calls->n_watched = n;
    }
    if (!calls->watched[fd] && (calls->watched[fd] = calloc(1, sizeof(struct watched))))
        *calls->watched[fd] = (struct watched){.calls = calls, .fd = fd};
    return calls->watched[fd];
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *of_socket)
{
    struct lane *lane = data;
    struct watched *w = watched_of(lane->calls, fd);
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
        r = loop_add(lane->calls->loop, fd, events, on_ready, w, NULL);
    else if (w->events != events)
        r = loop_modify(lane->calls->loop, fd, events, NULL);
    if (r < 0)
        return -1;
    w->lane = lane;
    w->events = events;
    return 0;
}

/* Resolved addresses are judged, so that no name and no redirection of names gets around it. */
static curl_socket_t on_address(void *data, curlsocktype purpose, struct curl_sockaddr *address)
{
    const struct http_calls *calls = data;
    (void)purpose;
    if (calls->public_only && address->family != AF_UNIX && !http_call_is_public(&address->addr)) {
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

/* --- a call --- */

static size_t on_body(char *data, size_t size, size_t n, void *to)
{
    struct http_call *call = to;
    struct http_calls *calls = call->calls;
    size_t len = size * n;
    size_t room = call->answer_max - call->body.len;
    size_t kept = len < room ? len : room;
    if (calls->kept_bytes + kept > HTTP_CALL_KEPT_BYTES) {
        call->no_room = true;
        return CURL_WRITEFUNC_ERROR;
    }
    buffer_append(&call->body, data, kept);
    if (call->body.failed) {
        call->no_room = true;
        return CURL_WRITEFUNC_ERROR;
    }
    calls->kept_bytes += kept;
    call->too_much = kept < len;
    return call->too_much ? CURL_WRITEFUNC_ERROR : len;
}

static size_t on_header(char *data, size_t size, size_t n, void *to)
{
    struct http_call *call = to;
    (void)data;
    call->header_bytes += size * n;
    call->too_many_headers = call->header_bytes > HTTP_CALL_HEADER_BYTES;
    return call->too_many_headers ? CURL_WRITEFUNC_ERROR : size * n;
}

/* Called before the request is sent, each time that it is. libcurl would send it once more when a connection
 * that was kept breaks before an answer, and nobody would know that it was carried out twice. */
static int on_send(void *data, char *to_ip, char *from_ip, int to_port, int from_port)
{
    struct http_call *call = data;
    (void)to_ip, (void)from_ip, (void)to_port, (void)from_port;
    call->was_lost = call->was_sent;
    call->was_sent = true;
    return call->was_lost ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

static void call_free(struct http_call *call)
{
    if (!call)
        return;
    if (call->easy)
        curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    buffer_done(&call->sent);
    buffer_done(&call->body);
    free(call);
}

/* For the functions that set options; they return whether that has failed. */
#define SET(option, value) (failed |= curl_easy_setopt(e, CURLOPT_##option, (value)) != CURLE_OK)

/* What all calls have in common; set once for each handle. */
static bool set_fixed(struct http_call *call)
{
    CURL *e = call->easy;
    bool failed = false;
    SET(NOSIGNAL, 1L);
    SET(PROTOCOLS_STR, "http,https");
    SET(FOLLOWLOCATION, 0L);
    SET(PROXY, "");
    SET(SSL_VERIFYPEER, 1L);
    SET(SSL_VERIFYHOST, 2L);
    if (*call->calls->tls_ca)
        SET(CAINFO, call->calls->tls_ca);
    SET(HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(TCP_NODELAY, 1L);
    SET(USERAGENT, "triggerflow/" VERSION);
    SET(WRITEFUNCTION, on_body);
    SET(WRITEDATA, call);
    SET(HEADERFUNCTION, on_header);
    SET(HEADERDATA, call);
    SET(PREREQFUNCTION, on_send);
    SET(PREREQDATA, call);
    SET(ERRORBUFFER, call->why);
    SET(PRIVATE, call);
    SET(OPENSOCKETFUNCTION, on_address);
    SET(OPENSOCKETDATA, call->calls);
    SET(SOCKOPTFUNCTION, on_open);
    SET(SOCKOPTDATA, call->calls);
    SET(CLOSESOCKETFUNCTION, on_close);
    SET(CLOSESOCKETDATA, call->calls);
    return failed;
}

static struct http_call *take_pooled(struct http_calls *calls)
{
    struct http_call *call = calls->pool;
    if (call) {
        calls->pool = call->next;
        calls->n_pool--;
        return call;
    }
    call = calloc(1, sizeof *call);
    if (call)
        call->calls = calls;
    if (!call || !(call->easy = curl_easy_init()) || set_fixed(call)) {
        call_free(call);
        return NULL;
    }
    return call;
}

/* The call is out of libcurl's hands. */
static void unlist(struct http_call *call)
{
    struct http_calls *calls = call->calls;
    if (call->before)
        call->before->after = call->after;
    else
        calls->under_way = call->after;
    if (call->after)
        call->after->before = call->before;
    calls->n_under_way--;
    call->lane->n_under_way--;
    calls->kept_bytes -= call->body.len;
}

static void retire(struct http_call *call)
{
    struct http_calls *calls = call->calls;
    unlist(call);
    if (calls->n_pool == POOL_MAX) {
        call_free(call);
        return;
    }
    curl_slist_free_all(call->headers);
    call->headers = NULL;
    buffer_reset(&call->sent, BODY_KEPT);
    buffer_reset(&call->body, BODY_KEPT);
    call->next = calls->pool;
    calls->pool = call;
    calls->n_pool++;
}

static int add_header(struct http_call *call, const char *line)
{
    struct curl_slist *longer = curl_slist_append(call->headers, line);
    if (!longer)
        return -1;
    call->headers = longer;
    return 0;
}

static int set_headers(struct http_call *call, const struct http_call_request *request)
{
    /* What libcurl would add by itself; Expect would have it wait for the server's permission to send. */
    static const char *const unwanted[] = {"Expect:", "Accept:", "Content-Type:"};
    for (const char *h = NULL; (h = http_call_next_header(request, h));)
        if (add_header(call, h) < 0)
            return -1;
    for (size_t i = 0; i < sizeof unwanted / sizeof unwanted[0]; i++) {
        char name[16];
        snprintf(name, sizeof name, "%.*s", (int)strlen(unwanted[i]) - 1, unwanted[i]);
        if (!http_call_has_header(request, name) && add_header(call, unwanted[i]) < 0)
            return -1;
    }
    return 0;
}

static long milliseconds(uint64_t ns)
{
    uint64_t ms = (ns + CLOCK_MS - 1) / CLOCK_MS;
    return ms < 1 ? 1 : ms > INT32_MAX ? INT32_MAX : (long)ms;
}

static bool set_method(CURL *e, const struct http_call *call, const char *method)
{
    bool failed = false;
    if (call->sent.len || !strcmp(method, "POST") || !strcmp(method, "PUT") || !strcmp(method, "PATCH")) {
        SET(POST, 1L);
        SET(POSTFIELDS, call->sent.data ? call->sent.data : "");
        SET(POSTFIELDSIZE_LARGE, (curl_off_t)call->sent.len);
    } else if (!strcmp(method, "HEAD")) {
        SET(NOBODY, 1L);
    } else {
        SET(HTTPGET, 1L);
    }
    SET(CUSTOMREQUEST, method);
    return failed;
}

/* All that may differ from the handle's call before. */
static bool set_own(struct http_call *call, const struct http_call_request *request, const char *url,
                    const char *unix_socket)
{
    CURL *e = call->easy;
    bool failed = set_method(e, call, request->method) || set_headers(call, request) < 0;
    SET(URL, url);
    SET(UNIX_SOCKET_PATH, *unix_socket ? unix_socket : NULL);
    SET(PIPEWAIT, strncasecmp(url, "https:", 6) ? 0L : 1L); /* one connection may carry all */
    SET(CONNECTTIMEOUT_MS, milliseconds(request->connect_timeout_ns));
    SET(TIMEOUT_MS, milliseconds(request->timeout_ns));
    SET(HTTPHEADER, call->headers);
    return failed;
}

/* Where few are under way; but see struct lane. */
static struct lane *choose_lane(struct http_calls *calls, const char *url)
{
    struct lane *least = &calls->lanes[0];
    if (!strncasecmp(url, "https:", 6)) {
        BUFFER_AUTO origin = BUFFER_INIT;
        const void *speaks = NULL;
        if (http_call_origin(url, &origin, NULL) == 0)
            speaks = hash_get(&calls->origins, buffer_text(&origin), origin.len);
        if (speaks != speaks_1)
            return &calls->lanes[speaks ? LANE_MULTIPLEXED : LANE_UNKNOWN];
    }
    for (size_t i = 1; i < LANES; i++)
        if (calls->lanes[i].n_under_way < least->n_under_way)
            least = &calls->lanes[i];
    return least;
}

static void forget_origins(struct http_calls *calls)
{
    size_t cursor = 0;
    for (struct hash_entry *e; (e = hash_next(&calls->origins, &cursor));)
        free((void *)(uintptr_t)e->key);
    hash_done(&calls->origins);
    hash_init(&calls->origins);
}

/* Remembers what the server speaks; it may change its mind. */
static void learn(struct http_call *call, unsigned version)
{
    struct http_calls *calls = call->calls;
    char *url = NULL;
    BUFFER_AUTO origin = BUFFER_INIT;
    curl_easy_getinfo(call->easy, CURLINFO_EFFECTIVE_URL, &url);
    if (!version || !url || strncasecmp(url, "https:", 6) != 0 || http_call_origin(url, &origin, NULL) < 0)
        return;
    const char *speaks = version >= 20 ? speaks_2 : speaks_1;
    const char *name = buffer_text(&origin);
    const void *before = hash_get(&calls->origins, name, origin.len);
    if (before == speaks)
        return;
    if (before || calls->origins.count >= ORIGINS_MAX)
        forget_origins(calls);
    char *copy = strdup(name);
    if (copy && hash_put(&calls->origins, copy, origin.len, (void *)(uintptr_t)speaks, NULL) < 0)
        free(copy);
}

static void enlist(struct http_call *call, struct lane *lane)
{
    struct http_calls *calls = call->calls;
    call->before = NULL;
    call->after = calls->under_way;
    if (call->after)
        call->after->before = call;
    calls->under_way = call;
    calls->n_under_way++;
    call->lane = lane;
    lane->n_under_way++;
}

/* libcurl looks closer; what it finds wrong comes with the answer. */
static int check_url(struct buffer *url, struct error *err)
{
    const char *text = buffer_text(url);
    size_t scheme = strncasecmp(text, "http://", 7) ? 8 : 7;
    if ((scheme == 8 && strncasecmp(text, "https://", 8) != 0) || url->len == scheme)
        return error_set(err, ERROR_INVALID, "the URL (%zu bytes) is not one of http or https", url->len);
    for (size_t i = 0; i < url->len; i++)
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f)
            return error_set(err, ERROR_INVALID, "the URL (%zu bytes) holds a blank or a control character",
                             url->len);
    return 0;
}

int http_call_start(struct http_calls *calls, const struct http_call_request *request, http_call_done done,
                    void *data, struct http_call **ret_call, struct error *err)
{
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO path = BUFFER_INIT;
    buffer_append(&url, request->url.data, request->url.len);
    buffer_append(&path, request->unix_socket.data, request->unix_socket.len);
    if (check_url(&url, err) < 0)
        return -1;
    struct http_call *call = take_pooled(calls);
    if (!call)
        return error_set(err, ERROR_MEMORY, "out of memory");
    enlist(call, choose_lane(calls, buffer_text(&url)));
    call->done = done;
    call->data = data;
    call->answer_max = request->answer_max;
    call->header_bytes = 0;
    call->too_much = call->too_many_headers = call->no_room = false;
    call->was_sent = call->was_lost = false;
    call->why[0] = '\0';
    buffer_append(&call->sent, request->body.data, request->body.len);
    bool failed = set_own(call, request, buffer_text(&url), buffer_text(&path));
    if (failed || call->sent.failed || url.failed || path.failed ||
        curl_multi_add_handle(call->lane->multi, call->easy) != CURLM_OK) {
        unlist(call);
        call_free(call);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (ret_call)
        *ret_call = call;
    return 0;
}

void http_call_cancel(struct http_call *call)
{
    curl_multi_remove_handle(call->lane->multi, call->easy);
    retire(call);
}

/* --- the end of a call --- */

static enum error_code error_code_of(CURLcode code)
{
    switch (code) {
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_BAD_FUNCTION_ARGUMENT:
        return ERROR_INVALID;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
        return ERROR_REFUSED;
    default:
        return ERROR_UNAVAILABLE;
    }
}

/* What libcurl says, in place of which some reasons are ours. */
static void explain(const struct http_call *call, CURLcode code, struct error *err)
{
    if (call->too_much)
        error_set(err, ERROR_LIMIT, "the answer has more than %zu bytes", call->answer_max);
    else if (call->too_many_headers)
        error_set(err, ERROR_LIMIT, "the answer's headers have more than %u bytes", HTTP_CALL_HEADER_BYTES);
    else if (call->no_room)
        error_set(err, ERROR_UNAVAILABLE, "the answers under way have more than %u bytes",
                  HTTP_CALL_KEPT_BYTES);
    else if (call->was_lost)
        error_set(err, ERROR_UNAVAILABLE, "the connection was lost before an answer came");
    else
        error_set(err, error_code_of(code), "%s", call->why[0] ? call->why : curl_easy_strerror(code));
}

static void end(struct http_call *call, CURLcode code)
{
    struct error err;
    long status = 0;
    long version = CURL_HTTP_VERSION_NONE;
    struct http_answer answer = {.complete = code == CURLE_OK, .call = call};
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    answer.status = status > 0 ? (unsigned)status : 0;
    curl_easy_getinfo(call->easy, CURLINFO_HTTP_VERSION, &version);
    answer.version = version == CURL_HTTP_VERSION_2_0   ? 20
                     : version == CURL_HTTP_VERSION_1_1 ? 11
                     : version == CURL_HTTP_VERSION_1_0 ? 10
                                                        : 0;
    learn(call, answer.version);
    if (!answer.complete) {
        explain(call, code, &err);
        answer.error = &err;
    }
    answer.body = buffer_text(&call->body);
    answer.len = call->body.len;
    const char *after = http_answer_header(&answer, "Retry-After");
    if (after)
        answer.retry_after_ns = http_call_retry_after(after, (int64_t)time(NULL));
    call->done(call->data, &answer);
    retire(call);
}

static void take_ended(struct lane *lane)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(lane->multi, &left))) {
        struct http_call *call = NULL;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call);
        curl_multi_remove_handle(lane->multi, call->easy);
        end(call, code);
    }
}

const char *http_answer_header(const struct http_answer *answer, const char *name)
{
    struct curl_header *header;
    if (curl_easy_header(answer->call->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return NULL;
    return header->value;
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

static int open_lane(struct lane *lane, struct http_calls *calls, long host_connections)
{
    lane->calls = calls;
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

int http_calls_new(struct loop *loop, bool public_only, const char *tls_ca, struct http_calls **ret_calls,
                   struct error *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return error_set(err, ERROR_SYSTEM, "libcurl cannot be initialised");
    struct http_calls *calls = calloc(1, sizeof *calls);
    if (!calls)
        return error_set(err, ERROR_MEMORY, "out of memory");
    calls->loop = loop;
    calls->public_only = public_only;
    calls->tls_ca = tls_ca;
    hash_init(&calls->origins);
    for (size_t i = 0; i < LANES_IN_ALL; i++)
        if (open_lane(&calls->lanes[i], calls,
                      i == LANE_UNKNOWN       ? HOST_CONNECTIONS_UNKNOWN
                      : i == LANE_MULTIPLEXED ? HOST_CONNECTIONS_MULTIPLEXED
                                              : 0) < 0) {
            http_calls_free(calls);
            return error_set(err, ERROR_MEMORY, "out of memory");
        }
    raise_descriptors();
    *ret_calls = calls;
    return 0;
}

void http_calls_free(struct http_calls *calls)
{
    if (!calls)
        return;
    for (struct http_call *call = calls->under_way; call;) {
        struct http_call *next = call->after;
        curl_multi_remove_handle(call->lane->multi, call->easy);
        call_free(call);
        call = next;
    }
    for (struct http_call *call = calls->pool; call;) {
        struct http_call *next = call->next;
        call_free(call);
        call = next;
    }
    for (size_t i = 0; i < LANES_IN_ALL; i++) {
        if (calls->lanes[i].multi)
            curl_multi_cleanup(calls->lanes[i].multi); /* closes connections, and tells on_close so */
        loop_timer_cancel(calls->loop, on_time, &calls->lanes[i]);
    }
    for (size_t fd = 0; fd < calls->n_watched; fd++) {
        if (calls->watched[fd])
            unwatch(calls->watched[fd]);
        free(calls->watched[fd]);
    }
    free(calls->watched);
    forget_origins(calls);
    hash_done(&calls->origins);
    free(calls);
}

size_t http_calls_under_way(const struct http_calls *calls)
{
    return calls->n_under_way;
}
