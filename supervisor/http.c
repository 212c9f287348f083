/* See http.h. */
#include "supervisor/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "supervisor/http_internal.h"
#include "supervisor/status.h"

#define HTTP_THREADS 2
#define HTTP_MEMORY 32768 /* of a connection, for headers and what is read at a time */
#define HTTP_SPARE 64     /* connections above connections_max, until those dropped for them are gone */
/* Read and thrown away of a body that is too large, before hanging up. */
#define HTTP_DISCARD_MAX (4u << 20)

/* ---- Answers ---- */

/* The handler's thread and the server's, which may still be about to suspend the connection, agree by `phase`
 * who goes on: the later one. acq_rel: what was written for the answer is there for the thread that sends it,
 * and the suspension is done before it is taken back. */
void http_answer(struct http_request *request, unsigned status)
{
    struct MHD_Connection *connection = request->connection;
    request->status = status;
    if (atomic_exchange_explicit(&request->phase, HTTP_ANSWERED, memory_order_acq_rel) == HTTP_SUSPENDED)
        MHD_resume_connection(connection);
}

void http_set_error(struct http_request *request, const char *text)
{
    buffer_reset(&request->answer, 4096);
    buffer_append_text(&request->answer, "{\"error\":");
    status_append_text(&request->answer, text);
    buffer_append_char(&request->answer, '}');
}

void http_answer_error(struct http_request *request, unsigned status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    http_set_error(request, text);
    http_answer(request, status);
}

static enum MHD_Result add_headers(struct MHD_Response *response, const struct http_request *request)
{
    const char *type = request->content_type ? request->content_type : "application/json";
    enum MHD_Result result = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (result == MHD_YES && request->challenge)
        result = MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE,
                                         "Basic realm=\"triggerflow\"");
    if (result == MHD_YES && request->allow[0] != '\0')
        result = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, request->allow);
    if (result == MHD_YES && request->retry_after > 0) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%u", request->retry_after);
        result = MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    return result;
}

/* Hands the answer to the connection, which borrows it until the request has ended. Thread: the server's. */
static enum MHD_Result send_answer(struct http_request *request)
{
    static char no_memory[] = "{\"error\":\"out of memory\"}";
    struct MHD_Response *response;
    if (request->answer.failed) {
        request->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        response = MHD_create_response_from_buffer(sizeof no_memory - 1, no_memory, MHD_RESPMEM_PERSISTENT);
    } else {
        response = MHD_create_response_from_buffer(request->answer.len, request->answer.data,
                                                   MHD_RESPMEM_PERSISTENT);
    }
    if (!response)
        return MHD_NO;
    enum MHD_Result result = add_headers(response, request);
    if (result == MHD_YES)
        result = MHD_queue_response(request->connection, request->status, response);
    MHD_destroy_response(response);
    return result;
}

/* ---- Refusals ---- */

static void refuse(struct http_request *request, unsigned status, const char *text)
{
    request->allow[0] = '\0';
    request->status = status;
    http_set_error(request, text);
}

static void refuse_unauthorised(struct http_request *request)
{
    const char *text;
    unsigned status = http_refuse(request, &text);
    if (status == 0)
        return;
    request->challenge = status == MHD_HTTP_UNAUTHORIZED;
    refuse(request, status, text);
}

static size_t body_max(const struct http_request *request)
{
    return request->route && request->route->body_max > 0 ? request->route->body_max : HTTP_BODY_MAX;
}

static void refuse_large(struct http_request *request)
{
    char text[64];
    snprintf(text, sizeof text, "the body is larger than %zu bytes", body_max(request));
    refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, text);
}

/* ---- The server's callbacks ---- */

static void run_handler(struct command *command)
{
    struct http_request *request =
        (struct http_request *)((char *)command - offsetof(struct http_request, command));
    request->route->handler(request);
}

/* Readies the connection's request, keeping its buffers. */
static void request_reset(struct http_request *request, struct http_server *server,
                          struct MHD_Connection *connection)
{
    struct buffer body = request->body, query = request->query, answer = request->answer;
    *request = (struct http_request){.command = {.run = run_handler},
                                     .server = server,
                                     .connection = connection,
                                     .context = server->options.context,
                                     .body = body,
                                     .query = query,
                                     .answer = answer};
}

/* A message that says its length in two ways may be read in two ways by those it passes (RFC 9112 section
 * 6.3). */
static void judge_length(struct http_request *request, unsigned long long *ret_length)
{
    const char *length = http_header(request, MHD_HTTP_HEADER_CONTENT_LENGTH);
    *ret_length = length ? strtoull(length, NULL, 10) : 0;
    if (length && http_header(request, MHD_HTTP_HEADER_TRANSFER_ENCODING))
        refuse(request, MHD_HTTP_BAD_REQUEST, "both Content-Length and Transfer-Encoding");
    else if (request->status == 0 && *ret_length > body_max(request))
        refuse_large(request);
}

/* First call for a request: only the headers are there. A refused request's body is read all the same, so
 * that the client gets to read the answer, unless it asks first (Expect) or the body is beyond all measure:
 * the connection then closes behind the answer. */
static enum MHD_Result begin(struct http_server *server, struct MHD_Connection *mhd, const char *url,
                             const char *method, void **ret_request)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_connection *connection = info ? info->socket_context : NULL;
    if (!connection)
        return MHD_NO;
    struct http_request *request = &connection->request;
    request_reset(request, server, mhd);
    *ret_request = request;
    http_connection_begin(connection);
    http_find_route(request, url, method);
    if (!(request->route && request->route->open))
        refuse_unauthorised(request);
    if (request->status == 0)
        http_read_query(request);
    unsigned long long length;
    judge_length(request, &length);
    if (request->status != 0 &&
        (length > HTTP_DISCARD_MAX || http_header(request, MHD_HTTP_HEADER_EXPECT) != NULL))
        return send_answer(request);
    return MHD_YES;
}

/* Charges what the body takes beyond what every connection may keep. false: the server has no more. */
static bool charge_body(struct http_request *request)
{
    size_t held = request->body.cap > HTTP_KEEP_BYTES ? request->body.cap : 0;
    size_t before = request->charged;
    request->charged = held;
    /* relaxed: only a sum. */
    return atomic_fetch_add_explicit(&request->server->bodies, held - before, memory_order_relaxed) + held -
               before <=
           HTTP_BODIES_MAX;
}

static void drop_body(struct http_request *request)
{
    buffer_reset(&request->body, HTTP_KEEP_BYTES);
    charge_body(request);
}

static enum MHD_Result take_body(struct http_request *request, const char *data, size_t len)
{
    if (request->status == 0 && request->body.len + len > body_max(request))
        refuse_large(request);
    if (request->status == 0) {
        buffer_append(&request->body, data, len);
        if (charge_body(request) && !request->body.failed)
            return MHD_YES;
        request->retry_after = 1;
        refuse(request, MHD_HTTP_SERVICE_UNAVAILABLE, "too many bodies are under way");
    }
    drop_body(request);
    request->discarded += len;
    return request->discarded > HTTP_DISCARD_MAX ? MHD_NO : MHD_YES;
}

enum dispatched { DISPATCH_CLOSED, DISPATCH_ANSWERED, DISPATCH_LATER };

/* Calls the handler of a direct route, and suspends the connection unless it has answered already. */
static enum dispatched run_direct(struct http_request *request)
{
    uint32_t handling = HTTP_HANDLING;
    struct MHD_Connection *connection = request->connection;
    atomic_store_explicit(&request->phase, HTTP_HANDLING, memory_order_relaxed);
    request->route->handler(request);
    if (atomic_load_explicit(&request->phase, memory_order_acquire) == HTTP_ANSWERED)
        return DISPATCH_ANSWERED;
    MHD_suspend_connection(connection);
    if (!atomic_compare_exchange_strong_explicit(&request->phase, &handling, HTTP_SUSPENDED,
                                                 memory_order_acq_rel, memory_order_acquire))
        MHD_resume_connection(connection);
    return DISPATCH_LATER;
}

/* Hands the request to its handler. */
static enum dispatched dispatch(struct http_request *request)
{
    struct http_server *server = request->server;
    enum dispatched outcome = DISPATCH_CLOSED;
    pthread_rwlock_rdlock(&server->lock);
    if (!server->closed && request->route->direct) {
        outcome = run_direct(request);
    } else if (!server->closed) {
        outcome = DISPATCH_LATER;
        atomic_store_explicit(&request->phase, HTTP_SUSPENDED, memory_order_relaxed);
        MHD_suspend_connection(request->connection);
        command_post(server->options.queue, &request->command);
    }
    pthread_rwlock_unlock(&server->lock);
    return outcome;
}

static struct http_connection *connection_of(struct http_request *request)
{
    return (struct http_connection *)((char *)request - offsetof(struct http_connection, request));
}

/* The whole request is there. */
static enum MHD_Result take_request(struct http_request *request)
{
    http_connection_busy(connection_of(request));
    switch (dispatch(request)) {
    case DISPATCH_LATER: /* it may be another thread's now */
        return MHD_YES;
    case DISPATCH_CLOSED:
        refuse(request, MHD_HTTP_SERVICE_UNAVAILABLE, "the supervisor is stopping");
        break;
    case DISPATCH_ANSWERED:
        break;
    }
    return send_answer(request);
}

static enum MHD_Result on_access(void *data, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *upload,
                                 size_t *upload_len, void **request_data)
{
    (void)version;
    struct http_request *request = *request_data;
    if (!request)
        return begin(data, connection, url, method, request_data);
    if (*upload_len > 0) {
        size_t len = *upload_len;
        *upload_len = 0;
        return take_body(request, upload, len);
    }
    uint32_t phase = atomic_load_explicit(&request->phase, memory_order_acquire);
    if (phase == HTTP_READING && request->status == 0)
        return take_request(request);
    return phase == HTTP_SUSPENDED ? MHD_YES : send_answer(request);
}

static void on_completed(void *data, struct MHD_Connection *connection, void **request_data,
                         enum MHD_RequestTerminationCode code)
{
    (void)data;
    (void)connection;
    (void)code;
    struct http_request *request = *request_data;
    if (!request)
        return;
    drop_body(request);
    buffer_reset(&request->query, HTTP_KEEP_BYTES);
    buffer_reset(&request->answer, HTTP_KEEP_BYTES);
    free(request->data);
    request->data = NULL;
    *request_data = NULL;
    http_connection_idle(connection_of(request));
}

static void on_connection(void *data, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    const union MHD_ConnectionInfo *info;
    switch (code) {
    case MHD_CONNECTION_NOTIFY_STARTED:
        info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = info ? http_connection_new(data, info->connect_fd) : NULL;
        break;
    case MHD_CONNECTION_NOTIFY_CLOSED:
        if (*context)
            http_connection_free(*context);
        *context = NULL;
        break;
    }
}

/* Escapes are undone per segment, by http_unescape: an escaped slash or NUL must not change the path's shape.
 */
static size_t keep_escapes(void *data, struct MHD_Connection *connection, char *text)
{
    (void)data;
    (void)connection;
    return strlen(text);
}

static void on_server_log(void *data, const char *format, va_list args)
{
    (void)data;
    char text[256];
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = '\0';
    log_debug("http_server", LOG_STR("message", text));
}

static void server_free(struct http_server *server)
{
    http_connections_done(&server->connections);
    pthread_rwlock_destroy(&server->lock);
    free(server);
}

/* Closing must not wait for ever behind one request after the other. */
static void lock_init(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
}

int http_server_start(int listen_fd, const struct http_options *options, struct http_server **ret_server,
                      struct error *err)
{
    struct http_server *server = calloc(1, sizeof *server);
    if (!server) {
        close(listen_fd);
        return error_set(err, ERROR_MEMORY, "HTTP server: out of memory");
    }
    unsigned max = options->connections_max > 0 ? options->connections_max : HTTP_CONNECTIONS_MAX;
    server->options = *options;
    lock_init(&server->lock);
    http_connections_init(&server->connections, max);
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_access, server, MHD_OPTION_EXTERNAL_LOGGER, on_server_log, NULL, MHD_OPTION_LISTEN_SOCKET,
        listen_fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS, MHD_OPTION_CONNECTION_LIMIT,
        HTTP_THREADS * (max + HTTP_SPARE), MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_MEMORY, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        NULL, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes,
        NULL, MHD_OPTION_END);
    if (!server->daemon) {
        error_set_errno(err, errno, "HTTP server");
        close(listen_fd);
        server_free(server);
        return -1;
    }
    *ret_server = server;
    return 0;
}

void http_server_quiesce(struct http_server *server)
{
    int fd = MHD_quiesce_daemon(server->daemon);
    if (fd >= 0)
        close(fd);
}

void http_server_close(struct http_server *server)
{
    pthread_rwlock_wrlock(&server->lock);
    server->closed = true;
    pthread_rwlock_unlock(&server->lock);
}

void http_server_stop(struct http_server *server)
{
    if (!server)
        return;
    MHD_stop_daemon(server->daemon);
    server_free(server);
}

void http_server_tick(struct http_server *server)
{
    uint64_t now = clock_coarse_ns();
    if (server && now > HTTP_REQUEST_SECONDS * CLOCK_S)
        http_connections_expire(&server->connections, now - HTTP_REQUEST_SECONDS * CLOCK_S);
}
