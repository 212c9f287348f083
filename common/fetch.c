#include "common/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

#define EVENTS_AT_ONCE 64
#define IDLE_MAX 64              /* fetches kept for reuse */
#define KEEP_ANSWER (256u << 10) /* bytes of an answer's buffer kept for reuse */
#define KEEP_TARGET 4096

struct fetch {
    struct fetch_pool *pool;
    struct fetch *next, *previous; /* in `active`; next also in `idle` */
    CURL *easy;
    struct buffer target; /* what the handle is set up for; empty: nothing */
    struct curl_slist headers[FETCH_HEADERS + 2];
    struct buffer answer;
    size_t max_answer;
    bool too_long;
    bool once;
    bool sent;
    fetch_done done;
    void *data;
    char reason[CURL_ERROR_SIZE];
};

struct fetch_pool {
    CURLM *multi;
    int epoll_fd;
    int timer_fd;
    uint64_t wanted_ns; /* when libcurl wants to be called; UINT64_MAX: never */
    uint64_t armed_ns;  /* when the timer fires: then or earlier; UINT64_MAX: not at all */
    bool starting;      /* a request: libcurl is called at once, without the timer */
    struct buffer target;
    struct fetch *active;
    int n_active;
    struct fetch *idle;
    unsigned n_idle;
};

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* --- libcurl's sockets and time-outs --- */

static int on_socket(CURL *easy, curl_socket_t socket, int what, void *data, void *known)
{
    struct fetch_pool *pool = data;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(pool->epoll_fd, EPOLL_CTL_DEL, socket, NULL); /* it may be closed already */
        return 0;
    }
    struct epoll_event event = {.data.fd = socket};
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (epoll_ctl(pool->epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket, &event) < 0) {
        log_error("fetch", LOG_INT("socket", socket), LOG_STR("error", strerror(errno)));
        return -1;
    }
    curl_multi_assign(pool->multi, socket, pool);
    return 0;
}

static int arm(struct fetch_pool *pool, uint64_t at)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at / CLOCK_S), .tv_nsec = (long)(at % CLOCK_S)}};
    pool->armed_ns = at;
    return timerfd_settime(pool->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* It is moved with every request, mostly to later: the timer may fire early, and is then set anew. */
static int on_timeout(CURLM *multi, long timeout_ms, void *data)
{
    struct fetch_pool *pool = data;
    (void)multi;
    pool->wanted_ns = timeout_ms < 0 ? UINT64_MAX : clock_now_ns() + (uint64_t)timeout_ms * CLOCK_MS;
    return pool->wanted_ns < pool->armed_ns && !pool->starting ? arm(pool, pool->wanted_ns) : 0;
}

/* What libcurl wants to do at its time. Returns how many requests are under way after that. */
static int run_due(struct fetch_pool *pool)
{
    int running = 0;
    long timeout_ms = -1;
    pool->wanted_ns = UINT64_MAX;
    curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    if (pool->wanted_ns == UINT64_MAX) /* it tells of changes only */
        curl_multi_timeout(pool->multi, &timeout_ms);
    if (timeout_ms >= 0)
        on_timeout(pool->multi, timeout_ms, pool);
    return running;
}

static void on_timer(struct fetch_pool *pool)
{
    uint64_t count;
    if (read(pool->timer_fd, &count, sizeof count) < 0)
        return;
    pool->armed_ns = UINT64_MAX;
    if (clock_now_ns() >= pool->wanted_ns) {
        run_due(pool);
    } else if (pool->wanted_ns != UINT64_MAX) {
        arm(pool, pool->wanted_ns);
    }
}

/* --- the pool --- */

static int set_up_pool(struct fetch_pool *pool, unsigned max_connections)
{
    CURLM *m = pool->multi;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = pool->timer_fd};
    return curl_multi_setopt(m, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
           curl_multi_setopt(m, CURLMOPT_SOCKETDATA, pool) != CURLM_OK ||
           curl_multi_setopt(m, CURLMOPT_TIMERFUNCTION, on_timeout) != CURLM_OK ||
           curl_multi_setopt(m, CURLMOPT_TIMERDATA, pool) != CURLM_OK ||
           curl_multi_setopt(m, CURLMOPT_MAXCONNECTS, (long)max_connections) != CURLM_OK ||
           epoll_ctl(pool->epoll_fd, EPOLL_CTL_ADD, pool->timer_fd, &event) < 0;
}

int fetch_pool_new(unsigned max_connections, struct fetch_pool **ret_pool, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    struct fetch_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return error_set(err, ERROR_MEMORY, "out of memory");
    pool->wanted_ns = pool->armed_ns = UINT64_MAX;
    pool->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    pool->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (pool->epoll_fd < 0 || pool->timer_fd < 0) {
        error_set_errno(err, errno, "descriptors for requests");
        fetch_pool_free(pool);
        return -1;
    }
    pool->multi = curl_multi_init();
    if (!pool->multi || set_up_pool(pool, max_connections)) {
        fetch_pool_free(pool);
        return error_set(err, ERROR_MEMORY, "libcurl cannot be set up");
    }
    *ret_pool = pool;
    return 0;
}

static void fetch_free(struct fetch *fetch)
{
    if (fetch->easy)
        curl_easy_cleanup(fetch->easy);
    buffer_done(&fetch->target);
    buffer_done(&fetch->answer);
    free(fetch);
}

void fetch_pool_free(struct fetch_pool *pool)
{
    if (!pool)
        return;
    for (struct fetch *fetch = pool->active, *next; fetch; fetch = next) {
        next = fetch->next;
        fetch_cancel(fetch);
    }
    while (pool->idle) {
        struct fetch *next = pool->idle->next;
        fetch_free(pool->idle);
        pool->idle = next;
    }
    if (pool->multi)
        curl_multi_cleanup(pool->multi);
    if (pool->timer_fd >= 0)
        close(pool->timer_fd);
    if (pool->epoll_fd >= 0)
        close(pool->epoll_fd);
    buffer_done(&pool->target);
    free(pool);
}

int fetch_pool_fd(const struct fetch_pool *pool)
{
    return pool->epoll_fd;
}

/* --- requests --- */

static size_t on_body(char *data, size_t size, size_t n, void *to)
{
    struct fetch *fetch = to;
    size_t len = size * n;
    if (len > fetch->max_answer - fetch->answer.len) {
        fetch->too_long = true;
        return 0;
    }
    buffer_append(&fetch->answer, data, len);
    return fetch->answer.failed ? 0 : len;
}

/* Called before the request is sent, each time that it is. */
static int on_send(void *data, char *to_ip, char *from_ip, int to_port, int from_port)
{
    struct fetch *fetch = data;
    (void)to_ip, (void)from_ip, (void)to_port, (void)from_port;
    if (fetch->once && fetch->sent) {
        snprintf(fetch->reason, sizeof fetch->reason, "the connection was lost before an answer came");
        return CURL_PREREQFUNC_ABORT;
    }
    fetch->sent = true;
    return CURL_PREREQFUNC_OK;
}

static long milliseconds(uint64_t ns)
{
    return (long)((ns + CLOCK_MS - 1) / CLOCK_MS);
}

static bool is_http(const char *url)
{
    CURLU *parsed = curl_url();
    bool good = parsed && curl_url_set(parsed, CURLUPART_URL, url, CURLU_PATH_AS_IS) == CURLUE_OK &&
                (!strncmp(url, "http://", 7) || !strncmp(url, "https://", 8));
    curl_url_cleanup(parsed);
    return good;
}

static bool set_method(CURL *e, const char *method)
{
    if (!strcmp(method, "GET"))
        return curl_easy_setopt(e, CURLOPT_HTTPGET, 1L) == CURLE_OK;
    return curl_easy_setopt(e, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, method) == CURLE_OK;
}

static bool set_target(struct fetch *fetch, const struct fetch_request *r)
{
    CURL *e = fetch->easy;
    return set_method(e, r->method) && curl_easy_setopt(e, CURLOPT_URL, r->url) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L) == CURLE_OK &&
           (!r->no_proxy || curl_easy_setopt(e, CURLOPT_NOPROXY, "*") == CURLE_OK) &&
           (!r->tls_ca || curl_easy_setopt(e, CURLOPT_CAINFO, r->tls_ca) == CURLE_OK) &&
           curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, on_send) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PREREQDATA, fetch) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_ERRORBUFFER, fetch->reason) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_WRITEDATA, fetch) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PRIVATE, fetch) == CURLE_OK;
}

/* A handle stays set up for what most requests have in common: libcurl copies or parses all of it. */
static int set_up(struct fetch *fetch, const struct fetch_request *r, struct error *err)
{
    struct buffer *target = &fetch->pool->target;
    const char *tls_ca = r->tls_ca ? r->tls_ca : "";
    buffer_reset(target, KEEP_TARGET);
    buffer_append(target, r->method, strlen(r->method) + 1);
    buffer_append(target, r->url, strlen(r->url) + 1);
    buffer_append(target, tls_ca, strlen(tls_ca) + 1);
    buffer_append_char(target, r->no_proxy ? 'n' : 'p');
    if (!target->failed && fetch->target.data && fetch->target.len == target->len &&
        !memcmp(fetch->target.data, target->data, target->len))
        return 0;
    if (!is_http(r->url))
        return error_set(err, ERROR_INVALID, "%.*s is no http or https URL", (int)strcspn(r->url, "?#@"),
                         r->url);
    curl_easy_reset(fetch->easy);
    buffer_reset(&fetch->target, KEEP_TARGET);
    if (!set_target(fetch, r))
        return error_set(err, ERROR_MEMORY, "libcurl takes no request");
    buffer_append(&fetch->target, target->data, target->len);
    if (target->failed || fetch->target.failed)
        buffer_reset(&fetch->target, 0); /* set up anew the next time */
    return 0;
}

/* libcurl neither copies the list nor changes it. */
static int set_headers(struct fetch *fetch, const struct fetch_request *r, struct error *err)
{
    size_t n = 0;
    const char *lines[FETCH_HEADERS + 2];
    lines[n++] = "Expect:";
    if (!r->body_len)
        lines[n++] = "Content-Type:";
    for (const char *const *header = r->headers; header && *header; header++) {
        if (header - r->headers == FETCH_HEADERS)
            return error_set(err, ERROR_INVALID, "more than %d headers", FETCH_HEADERS);
        lines[n++] = *header;
    }
    for (size_t i = 0; i < n; i++)
        fetch->headers[i] = (struct curl_slist){.data = (char *)(uintptr_t)lines[i],
                                                .next = i + 1 < n ? &fetch->headers[i + 1] : NULL};
    return 0;
}

static int set_options(struct fetch *fetch, const struct fetch_request *r, struct error *err)
{
    CURL *e = fetch->easy;
    if (set_up(fetch, r, err) < 0 || set_headers(fetch, r, err) < 0)
        return -1;
    bool has_body = strcmp(r->method, "GET") != 0;
    bool done =
        curl_easy_setopt(e, CURLOPT_HTTPHEADER, fetch->headers) == CURLE_OK &&
        curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, milliseconds(r->connect_timeout_ns)) == CURLE_OK &&
        curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, milliseconds(r->timeout_ns)) == CURLE_OK &&
        (!has_body ||
         (curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len) == CURLE_OK &&
          curl_easy_setopt(e, CURLOPT_POSTFIELDS, r->body_len ? r->body : "") == CURLE_OK));
    return done ? 0 : error_set(err, ERROR_MEMORY, "libcurl takes no request");
}

static struct fetch *take_idle(struct fetch_pool *pool)
{
    struct fetch *fetch = pool->idle;
    if (fetch) {
        pool->idle = fetch->next;
        pool->n_idle--;
        return fetch;
    }
    fetch = calloc(1, sizeof *fetch);
    if (!fetch)
        return NULL;
    fetch->pool = pool;
    fetch->easy = curl_easy_init();
    if (fetch->easy)
        return fetch;
    fetch_free(fetch);
    return NULL;
}

static void put_idle(struct fetch *fetch)
{
    struct fetch_pool *pool = fetch->pool;
    if (pool->n_idle == IDLE_MAX) {
        fetch_free(fetch);
        return;
    }
    fetch->too_long = fetch->sent = false;
    fetch->reason[0] = '\0';
    buffer_reset(&fetch->answer, KEEP_ANSWER);
    fetch->next = pool->idle;
    pool->idle = fetch;
    pool->n_idle++;
}

static void link_active(struct fetch *fetch)
{
    struct fetch_pool *pool = fetch->pool;
    fetch->previous = NULL;
    fetch->next = pool->active;
    if (pool->active)
        pool->active->previous = fetch;
    pool->active = fetch;
    pool->n_active++;
}

static void unlink_active(struct fetch *fetch)
{
    fetch->pool->n_active--;
    if (fetch->next)
        fetch->next->previous = fetch->previous;
    if (fetch->previous)
        fetch->previous->next = fetch->next;
    else
        fetch->pool->active = fetch->next;
}

/* Has libcurl send it. Its own way, by a time-out of 0, costs a timer and another turn of the loop. */
static int send_off(struct fetch *fetch, struct error *err)
{
    struct fetch_pool *pool = fetch->pool;
    pool->starting = true;
    if (curl_multi_add_handle(pool->multi, fetch->easy) != CURLM_OK) {
        pool->starting = false;
        return error_set(err, ERROR_MEMORY, "libcurl takes no request");
    }
    link_active(fetch);
    if (run_due(pool) < pool->n_active) /* one has ended, which fetch_pool_drive is to find */
        pool->wanted_ns = 1;
    pool->starting = false;
    if (pool->wanted_ns < pool->armed_ns)
        arm(pool, pool->wanted_ns);
    return 0;
}

int fetch_start(struct fetch_pool *pool, const struct fetch_request *request, fetch_done done, void *data,
                struct fetch **ret_fetch, struct error *err)
{
    struct fetch *fetch = take_idle(pool);
    if (!fetch)
        return error_set(err, ERROR_MEMORY, "out of memory for a request");
    fetch->done = done;
    fetch->data = data;
    fetch->max_answer = request->max_answer;
    fetch->once = request->once;
    if (set_options(fetch, request, err) < 0 || send_off(fetch, err) < 0) {
        put_idle(fetch);
        return -1;
    }
    if (ret_fetch)
        *ret_fetch = fetch;
    return 0;
}

void fetch_cancel(struct fetch *fetch)
{
    unlink_active(fetch);
    curl_multi_remove_handle(fetch->pool->multi, fetch->easy);
    put_idle(fetch);
}

const char *fetch_header(const struct fetch *fetch, const char *name)
{
    struct curl_header *header;
    CURLHcode r = curl_easy_header(fetch->easy, name, 0, CURLH_HEADER, -1, &header);
    if (r == CURLHE_OK && header->amount > 1)
        r = curl_easy_header(fetch->easy, name, header->amount - 1, CURLH_HEADER, -1, &header);
    return r == CURLHE_OK ? header->value : NULL;
}

/* --- answers --- */

static void describe_failure(struct fetch *fetch, CURLcode code, struct error *err)
{
    char *url = NULL;
    curl_easy_getinfo(fetch->easy, CURLINFO_EFFECTIVE_URL, &url);
    const char *host = url ? strstr(url, "://") : NULL;
    host = host ? host + 3 : "";
    size_t len = strcspn(host, "/?#");
    const char *at = memchr(host, '@', len);
    if (at) {
        len -= (size_t)(at + 1 - host);
        host = at + 1;
    }
    if (fetch->too_long)
        error_set(err, ERROR_LIMIT, "%.*s: an answer of more than %zu bytes", (int)len, host,
                  fetch->max_answer);
    else
        error_set(err, ERROR_UNAVAILABLE, "%.*s: %s", (int)len, host,
                  fetch->reason[0] ? fetch->reason : curl_easy_strerror(code));
}

static void complete(struct fetch *fetch, CURLcode code)
{
    struct error err;
    struct fetch_answer answer = {.fetch = fetch, .error = &err};
    unlink_active(fetch);
    answer.body = buffer_text(&fetch->answer);
    if (code == CURLE_OK && !fetch->answer.failed) {
        answer.error = NULL;
        answer.len = fetch->answer.len;
        curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &answer.status);
    } else {
        describe_failure(fetch, code, &err);
    }
    curl_multi_remove_handle(fetch->pool->multi, fetch->easy);
    fetch->done(fetch->data, &answer);
    put_idle(fetch);
}

void fetch_pool_drive(struct fetch_pool *pool)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int running;
    int left;
    CURLMsg *message;
    int n = epoll_wait(pool->epoll_fd, events, EVENTS_AT_ONCE, 0);
    for (int i = 0; i < n; i++) {
        int fd = events[i].data.fd;
        if (fd == pool->timer_fd) {
            on_timer(pool);
            continue;
        }
        int what = (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP) ? CURL_CSELECT_IN : 0) |
                   (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (events[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0);
        curl_multi_socket_action(pool->multi, fd, what, &running);
    }
    while ((message = curl_multi_info_read(pool->multi, &left))) {
        struct fetch *fetch;
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode code = message->data.result; /* the message does not outlive its handle's removal */
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&fetch);
        complete(fetch, code);
    }
}
