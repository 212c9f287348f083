#include "worker/executor/http_call.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "worker/executor/http_connections.h"

#define POOL_MAX 256          /* easy handles kept for reuse */
#define BODY_KEPT (64u << 10) /* of a pooled call's buffers */

/* A call; kept in the pool after its end. */
struct http_call {
    struct http_call *next;           /* in the pool */
    struct http_call *before, *after; /* under way */
    struct http_calls *calls;
    struct http_lane *lane; /* that it is under way in */
    CURL *easy;
    struct curl_slist *headers;
    http_call_done done;
    void *data;
    struct buffer sent; /* the request's body */
    struct buffer body;
    size_t answer_max;
    bool keep_last;
    size_t header_bytes;
    bool too_much; /* more than answer_max came: the rest is left */
    bool too_many_headers;
    bool no_room; /* all calls together keep too much */
    bool local;   /* over a Unix socket: the URL's host is only a name */
    bool was_sent;
    bool was_lost; /* the connection that it was sent on */
    char why[CURL_ERROR_SIZE];
};

struct http_calls {
    struct http_connections *connections;
    const char *tls_ca;
    struct http_call *pool;
    size_t n_pool;
    struct http_call *under_way;
    size_t n_under_way;
    size_t kept_bytes;
};

/* --- a call --- */

/* The newer half stays. */
static void drop_oldest(struct http_call *call)
{
    size_t dropped = call->body.len - call->body.len / 2;
    memmove(call->body.data, call->body.data + dropped, call->body.len - dropped);
    call->body.len -= dropped;
    call->calls->kept_bytes -= dropped;
}

static size_t on_body(char *data, size_t size, size_t n, void *to)
{
    struct http_call *call = to;
    struct http_calls *calls = call->calls;
    size_t len = size * n;
    while (call->keep_last && call->body.len && call->body.len + len > call->answer_max)
        drop_oldest(call);
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
    return failed || http_connections_set(call->calls->connections, e);
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

static void enlist(struct http_call *call)
{
    struct http_calls *calls = call->calls;
    call->before = NULL;
    call->after = calls->under_way;
    if (call->after)
        call->after->before = call;
    calls->under_way = call;
    calls->n_under_way++;
}

/* libcurl looks closer; what it finds wrong comes with the answer. */
static int check_url(struct buffer *url, struct error *err)
{
    const char *text = buffer_text(url);
    size_t scheme = strncasecmp(text, "http://", 7) ? 8 : 7;
    if ((scheme == 8 && strncasecmp(text, "https://", 8) != 0) || url->len == scheme)
        return http_call_bad_url(text, "is not one of http or https", err);
    for (size_t i = 0; i < url->len; i++)
        if ((unsigned char)text[i] <= ' ' || text[i] == 0x7f)
            return http_call_bad_url(text, "holds a blank or a control character", err);
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
    enlist(call);
    call->done = done;
    call->data = data;
    call->answer_max = request->answer_max;
    call->local = request->unix_socket.len > 0;
    call->keep_last = request->keep_last;
    call->header_bytes = 0;
    call->too_much = call->too_many_headers = call->no_room = false;
    call->was_sent = call->was_lost = false;
    call->why[0] = '\0';
    buffer_append(&call->sent, request->body.data, request->body.len);
    bool failed = set_own(call, request, buffer_text(&url), buffer_text(&path));
    if (failed || call->sent.failed || url.failed || path.failed ||
        !(call->lane = http_connections_start(calls->connections, buffer_text(&url), call->easy))) {
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
    http_lane_cancel(call->lane, call->easy);
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

/* "host:port: " in front of what libcurl says, where that names none. */
static void name_host(const struct http_call *call, struct error *err)
{
    BUFFER_AUTO origin = BUFFER_INIT;
    struct error ignored;
    char *url = NULL;
    curl_easy_getinfo(call->easy, CURLINFO_EFFECTIVE_URL, &url);
    if (!url || http_call_origin(url, &origin, &ignored) < 0)
        return;
    const char *host = strstr(buffer_text(&origin), "://") + 3;
    int len = (int)(strrchr(host, ':') - host);
    BUFFER_AUTO name = BUFFER_INIT;
    buffer_append(&name, host, (size_t)len);
    if (!strcasestr(err->message, buffer_text(&name)))
        error_prefix(err, "%.200s", host);
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
    if (!call->local && !call->too_much && !call->too_many_headers && !call->no_room)
        name_host(call, err);
}

static void end(CURL *easy, CURLcode code)
{
    struct http_call *call = NULL;
    struct error err;
    long status = 0;
    long version = CURL_HTTP_VERSION_NONE;
    struct http_answer answer = {.complete = code == CURLE_OK};
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &call);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    answer.call = call;
    answer.status = status > 0 ? (unsigned)status : 0;
    curl_easy_getinfo(easy, CURLINFO_HTTP_VERSION, &version);
    answer.version = version == CURL_HTTP_VERSION_2_0   ? 20
                     : version == CURL_HTTP_VERSION_1_1 ? 11
                     : version == CURL_HTTP_VERSION_1_0 ? 10
                                                        : 0;
    http_connections_learn(call->calls->connections, easy, answer.version);
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

const char *http_answer_header(const struct http_answer *answer, const char *name)
{
    struct curl_header *header;
    if (curl_easy_header(answer->call->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return NULL;
    return header->value;
}

/* --- life --- */

int http_calls_new(struct loop *loop, bool public_only, const char *tls_ca, struct http_calls **ret_calls,
                   struct error *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return error_set(err, ERROR_SYSTEM, "libcurl cannot be initialised");
    struct http_calls *calls = calloc(1, sizeof *calls);
    if (!calls)
        return error_set(err, ERROR_MEMORY, "out of memory");
    calls->tls_ca = tls_ca;
    if (http_connections_new(loop, public_only, end, &calls->connections, err) < 0) {
        free(calls);
        return -1;
    }
    *ret_calls = calls;
    return 0;
}

void http_calls_free(struct http_calls *calls)
{
    if (!calls)
        return;
    for (struct http_call *call = calls->under_way; call;) {
        struct http_call *next = call->after;
        http_lane_cancel(call->lane, call->easy);
        call_free(call);
        call = next;
    }
    for (struct http_call *call = calls->pool; call;) {
        struct http_call *next = call->next;
        call_free(call);
        call = next;
    }
    http_connections_free(calls->connections);
    free(calls);
}

size_t http_calls_under_way(const struct http_calls *calls)
{
    return calls->n_under_way;
}
