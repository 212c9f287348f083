#include "worker/http_call.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/loop.h"

#define POOL_MAX 256          /* easy handles kept for reuse */
#define BODY_KEPT (64u << 10) /* of a pooled call's buffers */
#define CONNECTIONS_MAX 4096  /* kept open */
#define RETRY_AFTER_LONGEST (INT64_C(365) * 24 * 3600)

/* A call; kept in the pool after its end. */
struct http_call {
    struct http_call *next;           /* in the pool */
    struct http_call *before, *after; /* under way */
    struct http_calls *calls;
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
    char why[CURL_ERROR_SIZE];
};

struct http_calls {
    struct loop *loop;
    CURLM *multi;
    struct http_call *pool;
    size_t n_pool;
    struct http_call *under_way;
    size_t n_under_way;
    size_t kept_bytes;
};

/* What the loop watches for libcurl. */
struct watched {
    struct http_calls *calls;
    int fd;
};

/* --- requests --- */

void http_call_request_init(struct http_call_request *request)
{
    *request = (struct http_call_request){.method = "POST",
                                          .connect_timeout_ns = 10 * CLOCK_S,
                                          .timeout_ns = 60 * CLOCK_S,
                                          .answer_max = 64u << 10};
}

void http_call_request_done(struct http_call_request *request)
{
    buffer_done(&request->url);
    buffer_done(&request->unix_socket);
    buffer_done(&request->headers);
    buffer_done(&request->body);
}

static bool is_token(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("!#$%&'*+-.^_`|~", text[i]))
            return false;
    return len > 0;
}

int http_call_method(struct http_call_request *request, const char *method, size_t len, struct error *err)
{
    if (len >= sizeof request->method || !is_token(method, len) || memchr(method, '\0', len))
        return error_set(err, ERROR_INVALID, "method %.*s is none", (int)(len < 40 ? len : 40), method);
    memcpy(request->method, method, len);
    request->method[len] = '\0';
    return 0;
}

int http_call_header(struct http_call_request *request, const char *name, const char *value,
                     struct error *err)
{
    size_t len = strlen(name);
    if (!is_token(name, len))
        return error_set(err, ERROR_INVALID, "header name %.*s is none", (int)(len < 80 ? len : 80), name);
    for (const char *c = value; *c; c++)
        if (((unsigned char)*c < ' ' && *c != '\t') || *c == 0x7f)
            return error_set(err, ERROR_INVALID, "the value of header %.80s holds control characters", name);
    /* libcurl sends "name;" as a header without a value. */
    buffer_append_text(&request->headers, name);
    buffer_append_text(&request->headers, *value ? ": " : ";");
    buffer_append_text(&request->headers, value);
    buffer_append_char(&request->headers, '\0');
    return request->headers.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static const char *next_header(const struct http_call_request *request, const char *header)
{
    const char *next = header ? header + strlen(header) + 1 : request->headers.data;
    return next && next < request->headers.data + request->headers.len ? next : NULL;
}

bool http_call_has_header(const struct http_call_request *request, const char *name)
{
    size_t len = strlen(name);
    for (const char *h = NULL; (h = next_header(request, h));)
        if (!strncasecmp(h, name, len) && (h[len] == ':' || h[len] == ';'))
            return true;
    return false;
}

int http_call_origin(const char *url, struct buffer *out, struct error *err)
{
    char *scheme = NULL;
    char *host = NULL;
    char *port = NULL;
    CURLU *u = curl_url();
    if (!u)
        return error_set(err, ERROR_MEMORY, "out of memory");
    bool read = !curl_url_set(u, CURLUPART_URL, url, 0) && !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
                !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
                !curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    int r = 0;
    if (!read || (strcmp(scheme, "http") && strcmp(scheme, "https")))
        r = error_set(err, ERROR_INVALID, "the URL (%zu bytes) is not one of http or https", strlen(url));
    size_t start = out->len;
    if (r == 0)
        buffer_printf(out, "%s://%s:%s", scheme, host, port);
    for (size_t i = start; i < out->len; i++)
        out->data[i] = (char)tolower((unsigned char)out->data[i]);
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
    return r;
}

static void append_part(CURLU *u, CURLUPart part, struct buffer *out)
{
    char *text = NULL;
    if (!curl_url_get(u, part, &text, 0))
        buffer_append_text(out, text);
    curl_free(text);
}

int http_call_url_parts(const char *url, struct buffer *host, struct buffer *path, struct buffer *query,
                        struct error *err)
{
    CURLU *u = curl_url();
    if (!u)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (curl_url_set(u, CURLUPART_URL, url, 0)) {
        curl_url_cleanup(u);
        return error_set(err, ERROR_INVALID, "the URL (%zu bytes) is none", strlen(url));
    }
    append_part(u, CURLUPART_HOST, host);
    char *scheme = NULL;
    char *port = NULL;
    if (!curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) && !curl_url_get(u, CURLUPART_PORT, &port, 0) &&
        strcmp(port, strcmp(scheme, "https") ? "80" : "443"))
        buffer_printf(host, ":%s", port);
    curl_free(scheme);
    curl_free(port);
    append_part(u, CURLUPART_PATH, path);
    append_part(u, CURLUPART_QUERY, query);
    curl_url_cleanup(u);
    return host->failed || path->failed || query->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

uint64_t http_call_retry_after(const char *value, int64_t now_unix_s)
{
    char *end;
    while (*value == ' ')
        value++;
    int64_t seconds;
    if (isdigit((unsigned char)*value)) {
        seconds = strtoll(value, &end, 10); /* saturates */
        while (*end == ' ')
            end++;
        if (*end)
            return 0;
    } else {
        time_t at = curl_getdate(value, NULL);
        seconds = at == -1 ? 0 : (int64_t)at - now_unix_s;
    }
    if (seconds <= 0)
        return 0;
    return (uint64_t)(seconds < RETRY_AFTER_LONGEST ? seconds : RETRY_AFTER_LONGEST) * CLOCK_S;
}

/* --- the loop and libcurl --- */

static void take_ended(struct http_calls *calls);

static void act(struct http_calls *calls, curl_socket_t fd, int what)
{
    int running;
    curl_multi_socket_action(calls->multi, fd, what, &running);
    take_ended(calls);
}

static void on_ready(void *data, uint32_t events)
{
    struct watched *w = data;
    int what = (events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
               (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) | (events & EPOLLERR ? CURL_CSELECT_ERR : 0);
    act(w->calls, w->fd, what);
}

static void on_time(void *data)
{
    act(data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timer(CURLM *multi, long timeout_ms, void *data)
{
    struct http_calls *calls = data;
    (void)multi;
    if (timeout_ms < 0) {
        loop_timer_cancel(calls->loop, on_time, calls);
        return 0;
    }
    return loop_timer_set(calls->loop, clock_now_ns() + (uint64_t)timeout_ms * CLOCK_MS, on_time, calls,
                          NULL);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *of_socket)
{
    struct http_calls *calls = data;
    struct watched *w = of_socket;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w)
            loop_remove(calls->loop, fd);
        free(w);
        return 0;
    }
    uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (w)
        return loop_modify(calls->loop, fd, events, NULL);
    if (!(w = malloc(sizeof *w)))
        return -1;
    *w = (struct watched){calls, fd};
    loop_remove(calls->loop, fd); /* of a descriptor that was closed without a word */
    if (loop_add(calls->loop, fd, events, on_ready, w, NULL) < 0) {
        free(w);
        return -1;
    }
    curl_multi_assign(calls->multi, fd, w);
    return 0;
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

static struct http_call *take_pooled(struct http_calls *calls)
{
    struct http_call *call = calls->pool;
    if (call) {
        calls->pool = call->next;
        calls->n_pool--;
        return call;
    }
    call = calloc(1, sizeof *call);
    if (!call || !(call->easy = curl_easy_init())) {
        call_free(call);
        return NULL;
    }
    call->calls = calls;
    return call;
}

/* The call is out of libcurl's hands. */
static void retire(struct http_call *call)
{
    struct http_calls *calls = call->calls;
    if (call->before)
        call->before->after = call->after;
    else
        calls->under_way = call->after;
    if (call->after)
        call->after->before = call->before;
    calls->n_under_way--;
    calls->kept_bytes -= call->body.len;
    curl_slist_free_all(call->headers);
    call->headers = NULL;
    if (calls->n_pool == POOL_MAX) {
        call_free(call);
        return;
    }
    curl_easy_reset(call->easy);
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
    for (const char *h = NULL; (h = next_header(request, h));)
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

#define SET(option, value) (failed |= curl_easy_setopt(e, CURLOPT_##option, (value)) != CURLE_OK)

/* Returns whether it failed. */
static bool set_safety(CURL *e)
{
    bool failed = false;
    SET(NOSIGNAL, 1L);
    SET(PROTOCOLS_STR, "http,https");
    SET(FOLLOWLOCATION, 0L);
    SET(PROXY, "");
    SET(SSL_VERIFYPEER, 1L);
    SET(SSL_VERIFYHOST, 2L);
    SET(HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(TCP_NODELAY, 1L);
    SET(USERAGENT, "triggerflow/" VERSION);
    return failed;
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
    }
    SET(CUSTOMREQUEST, method);
    return failed;
}

static bool set_all(struct http_call *call, const struct http_call_request *request, const char *url,
                    const char *unix_socket)
{
    CURL *e = call->easy;
    bool failed = set_safety(e) || set_method(e, call, request->method) || set_headers(call, request) < 0;
    SET(URL, url);
    if (*unix_socket)
        SET(UNIX_SOCKET_PATH, unix_socket);
    if (!strncasecmp(url, "https", 5))
        SET(PIPEWAIT, 1L); /* one connection may carry all */
    SET(CONNECTTIMEOUT_MS, milliseconds(request->connect_timeout_ns));
    SET(TIMEOUT_MS, milliseconds(request->timeout_ns));
    SET(HTTPHEADER, call->headers);
    SET(WRITEFUNCTION, on_body);
    SET(WRITEDATA, call);
    SET(HEADERFUNCTION, on_header);
    SET(HEADERDATA, call);
    SET(ERRORBUFFER, call->why);
    SET(PRIVATE, call);
    return failed;
}

int http_call_start(struct http_calls *calls, const struct http_call_request *request, http_call_done done,
                    void *data, struct http_call **ret_call, struct error *err)
{
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO path = BUFFER_INIT;
    BUFFER_AUTO origin = BUFFER_INIT;
    buffer_append(&url, request->url.data, request->url.len);
    buffer_append(&path, request->unix_socket.data, request->unix_socket.len);
    if (memchr(buffer_text(&url), '\0', url.len))
        return error_set(err, ERROR_INVALID, "the URL holds a NUL character");
    if (http_call_origin(buffer_text(&url), &origin, err) < 0)
        return -1;
    struct http_call *call = take_pooled(calls);
    if (!call)
        return error_set(err, ERROR_MEMORY, "out of memory");
    call->before = NULL;
    call->after = calls->under_way;
    if (call->after)
        call->after->before = call;
    calls->under_way = call;
    calls->n_under_way++;
    call->done = done;
    call->data = data;
    call->answer_max = request->answer_max;
    call->header_bytes = 0;
    call->too_much = call->too_many_headers = call->no_room = false;
    call->why[0] = '\0';
    buffer_append(&call->sent, request->body.data, request->body.len);
    bool failed = set_all(call, request, buffer_text(&url), buffer_text(&path));
    if (failed || call->sent.failed || url.failed || path.failed ||
        curl_multi_add_handle(calls->multi, call->easy) != CURLM_OK) {
        retire(call);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (ret_call)
        *ret_call = call;
    return 0;
}

void http_call_cancel(struct http_call *call)
{
    curl_multi_remove_handle(call->calls->multi, call->easy);
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
    else
        error_set(err, error_code_of(code), "%s", call->why[0] ? call->why : curl_easy_strerror(code));
}

static void end(struct http_call *call, CURLcode code)
{
    struct error err;
    long status = 0;
    struct http_answer answer = {.complete = code == CURLE_OK, .call = call};
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    answer.status = status > 0 ? (unsigned)status : 0;
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

static void take_ended(struct http_calls *calls)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(calls->multi, &left))) {
        struct http_call *call = NULL;
        CURLcode code = message->data.result;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call);
        curl_multi_remove_handle(calls->multi, call->easy);
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

int http_calls_new(struct loop *loop, struct http_calls **ret_calls, struct error *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return error_set(err, ERROR_SYSTEM, "libcurl cannot be initialised");
    struct http_calls *calls = calloc(1, sizeof *calls);
    if (!calls || !(calls->multi = curl_multi_init())) {
        free(calls);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    calls->loop = loop;
    curl_multi_setopt(calls->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(calls->multi, CURLMOPT_SOCKETDATA, calls);
    curl_multi_setopt(calls->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(calls->multi, CURLMOPT_TIMERDATA, calls);
    curl_multi_setopt(calls->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_MAX);
    curl_multi_setopt(calls->multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    raise_descriptors();
    *ret_calls = calls;
    return 0;
}

void http_calls_free(struct http_calls *calls)
{
    if (!calls)
        return;
    while (calls->under_way)
        http_call_cancel(calls->under_way);
    while (calls->pool) {
        struct http_call *next = calls->pool->next;
        call_free(calls->pool);
        calls->pool = next;
    }
    curl_multi_cleanup(calls->multi); /* closes connections, and tells on_socket so */
    loop_timer_cancel(calls->loop, on_time, calls);
    free(calls);
}

size_t http_calls_under_way(const struct http_calls *calls)
{
    return calls->n_under_way;
}
