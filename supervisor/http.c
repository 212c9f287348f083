/* See http.h. */
#include "supervisor/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "supervisor/status.h"

#define HTTP_THREADS 2
#define HTTP_DISCARD_MAX                                                              \
    (4u << 20) /* read and thrown away of a body that is too large, before hanging up \
                */

struct http_server {
    struct MHD_Daemon *daemon;
    struct http_options options;
    pthread_rwlock_t lock;
    bool closed;                                /* Requires: lock */
    bool token_set;                             /* Requires: lock */
    unsigned char digest[SHA256_DIGEST_LENGTH]; /* of the expected credentials. Requires: lock */
};

/* ---- Answers ---- */

void http_answer(struct http_request *request, unsigned status)
{
    struct MHD_Connection *connection = request->connection;
    request->status = status;
    MHD_resume_connection(connection);
}

static void set_error(struct http_request *request, const char *text)
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
    set_error(request, text);
    http_answer(request, status);
}

/* Hands the answer to the connection. Thread: the server's. */
static enum MHD_Result send_answer(struct http_request *request)
{
    static char no_memory[] = "{\"error\":\"out of memory\"}";
    struct MHD_Response *response;
    if (request->answer.failed) {
        request->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
        response = MHD_create_response_from_buffer(sizeof no_memory - 1, no_memory, MHD_RESPMEM_PERSISTENT);
    } else {
        response =
            MHD_create_response_from_buffer(request->answer.len, request->answer.data, MHD_RESPMEM_MUST_FREE);
        if (response)
            request->answer = (struct buffer)BUFFER_INIT; /* it is the response's now */
    }
    if (!response)
        return MHD_NO;
    const char *type = request->content_type ? request->content_type : "application/json";
    enum MHD_Result result = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (result == MHD_YES && request->challenge)
        result = MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE,
                                         "Basic realm=\"triggerflow\"");
    if (result == MHD_YES && request->allow[0] != '\0')
        result = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, request->allow);
    if (result == MHD_YES)
        result = MHD_queue_response(request->connection, request->status, response);
    MHD_destroy_response(response);
    return result;
}

/* ---- Authentication ---- */

void http_server_set_token(struct http_server *server, const char *token)
{
    BUFFER_AUTO plain = BUFFER_INIT;
    unsigned char digest[SHA256_DIGEST_LENGTH] = {0};
    buffer_append_text(&plain, "token:");
    buffer_append_text(&plain, token);
    char *base64 = plain.failed ? NULL : malloc(4 * ((plain.len + 2) / 3) + 1);
    if (base64) {
        int n = EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)plain.data, (int)plain.len);
        SHA256((const unsigned char *)base64, (size_t)n, digest);
        OPENSSL_cleanse(base64, (size_t)n);
        free(base64);
    }
    /* Without memory the digest stays one that no credentials have: all are refused. */
    pthread_rwlock_wrlock(&server->lock);
    server->token_set = token[0] != '\0';
    memcpy(server->digest, digest, sizeof digest);
    pthread_rwlock_unlock(&server->lock);
}

/* Compares digests, so that neither the token's length nor a common beginning shows in the time it takes. */
static bool authorised(struct http_server *server, struct MHD_Connection *connection)
{
    if (!server->options.authenticate)
        return true;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    const char *header =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    bool basic = header && strncasecmp(header, "Basic ", 6) == 0;
    const char *credentials = basic ? header + 6 : "";
    while (*credentials == ' ')
        credentials++;
    SHA256((const unsigned char *)credentials, strlen(credentials), digest);
    pthread_rwlock_rdlock(&server->lock);
    bool fine = !server->token_set || (basic && CRYPTO_memcmp(digest, server->digest, sizeof digest) == 0);
    pthread_rwlock_unlock(&server->lock);
    return fine;
}

/* ---- Routes ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool http_unescape(const char *text, size_t len, char *to, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            int low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = high * 16 + low;
            i += 2;
        }
        if (c == 0 || n + 1 >= size)
            return false;
        to[n++] = (char)c;
    }
    to[n] = '\0';
    return true;
}

/* Whether the path is the pattern's; *ret_segment: what stands for its star. */
static bool path_matches(const char *pattern, const char *path, const char **ret_segment, size_t *ret_len)
{
    const char *star = strchr(pattern, '*');
    *ret_segment = "";
    *ret_len = 0;
    if (!star)
        return strcmp(pattern, path) == 0;
    size_t before = (size_t)(star - pattern);
    if (strncmp(pattern, path, before) != 0)
        return false;
    const char *segment = path + before;
    size_t len = strcspn(segment, "/");
    if (len == 0 || strcmp(segment + len, star + 1) != 0)
        return false;
    *ret_segment = segment;
    *ret_len = len;
    return true;
}

static void allow_method(struct http_request *request, const char *method)
{
    size_t len = strlen(request->allow);
    snprintf(request->allow + len, sizeof request->allow - len, "%s%s%s", len > 0 ? ", " : "", method,
             strcmp(method, "GET") == 0 ? ", HEAD" : "");
}

/* Finds the route, or decides the refusal (status set). */
static void find_route(struct http_request *request, const char *url, const char *method)
{
    const struct http_options *options = &request->server->options;
    const char *segment = NULL;
    size_t len = 0;
    bool head = strcmp(method, "HEAD") == 0;
    for (size_t i = 0; i < options->n_routes; i++) {
        const struct http_route *route = &options->routes[i];
        const char *at;
        size_t n;
        if (!path_matches(route->path, url, &at, &n))
            continue;
        allow_method(request, route->method);
        segment = at;
        len = n;
        if (strcmp(route->method, head ? "GET" : method) == 0)
            request->route = route;
    }
    char text[HTTP_SEGMENT_MAX + 64];
    if (!segment) {
        snprintf(text, sizeof text, "no such path: %.200s", url);
        request->status = MHD_HTTP_NOT_FOUND;
    } else if (!request->route) {
        snprintf(text, sizeof text, "method %.20s is not allowed for %.200s", method, url);
        request->status = MHD_HTTP_METHOD_NOT_ALLOWED;
    } else if (!http_unescape(segment, len, request->segment, sizeof request->segment)) {
        snprintf(text, sizeof text, "not a name: %.200s", segment);
        request->status = MHD_HTTP_BAD_REQUEST;
    }
    if (request->status != MHD_HTTP_METHOD_NOT_ALLOWED)
        request->allow[0] = '\0';
    if (request->status != 0)
        set_error(request, text);
}

static void refuse_unauthorised(struct http_request *request)
{
    request->allow[0] = '\0';
    request->challenge = true;
    request->status = MHD_HTTP_UNAUTHORIZED;
    set_error(request, "Unauthorized");
}

static void refuse_large(struct http_request *request)
{
    char text[64];
    snprintf(text, sizeof text, "the body is larger than %d bytes", HTTP_BODY_MAX);
    request->status = MHD_HTTP_CONTENT_TOO_LARGE;
    set_error(request, text);
}

static void run_handler(struct command *command)
{
    struct http_request *request =
        (struct http_request *)((char *)command - offsetof(struct http_request, command));
    request->route->handler(request);
}

/* ---- The server's callbacks ---- */

/* First call for a request: only the headers are there. */
static enum MHD_Result begin(struct http_server *server, struct MHD_Connection *connection, const char *url,
                             const char *method, void **ret_request)
{
    struct http_request *request = calloc(1, sizeof *request);
    if (!request)
        return MHD_NO;
    *ret_request = request;
    request->command.run = run_handler;
    request->server = server;
    request->connection = connection;
    request->context = server->options.context;
    find_route(request, url, method);
    if (!(request->route && request->route->open) && !authorised(server, connection))
        refuse_unauthorised(request);
    const char *length =
        MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (length && strtoull(length, NULL, 10) > HTTP_BODY_MAX) {
        if (request->status == 0)
            refuse_large(request);
        return send_answer(request); /* the connection closes behind it */
    }
    return MHD_YES;
}

/* Part of the body. A refused request's is read all the same, so that the client gets to read the answer. */
static enum MHD_Result take_body(struct http_request *request, const char *data, size_t len)
{
    if (request->status == 0 && request->body.len + len > HTTP_BODY_MAX) {
        refuse_large(request);
        buffer_reset(&request->body, 0);
    }
    if (request->status == 0) {
        buffer_append(&request->body, data, len);
        return request->body.failed ? MHD_NO : MHD_YES;
    }
    request->discarded += len;
    return request->discarded > HTTP_DISCARD_MAX ? MHD_NO : MHD_YES;
}

/* Hands the request to its handler in the main thread. false: too late. */
static bool dispatch(struct http_request *request)
{
    struct http_server *server = request->server;
    pthread_rwlock_rdlock(&server->lock);
    bool closed = server->closed;
    if (!closed) {
        request->dispatched = true;
        MHD_suspend_connection(request->connection);
        command_post(server->options.queue, &request->command);
    }
    pthread_rwlock_unlock(&server->lock);
    return !closed;
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
    if (request->status != 0)
        return send_answer(request);
    if (!request->dispatched && !dispatch(request)) {
        request->status = MHD_HTTP_SERVICE_UNAVAILABLE;
        set_error(request, "the supervisor is stopping");
        return send_answer(request);
    }
    return MHD_YES;
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
    buffer_done(&request->body);
    buffer_done(&request->answer);
    free(request->data);
    free(request);
    *request_data = NULL;
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

int http_server_start(int listen_fd, const struct http_options *options, struct http_server **ret_server,
                      struct error *err)
{
    struct http_server *server = calloc(1, sizeof *server);
    if (!server) {
        close(listen_fd);
        return error_set(err, ERROR_MEMORY, "HTTP server: out of memory");
    }
    server->options = *options;
    pthread_rwlock_init(&server->lock, NULL);
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_access, server, MHD_OPTION_EXTERNAL_LOGGER, on_server_log, NULL, MHD_OPTION_LISTEN_SOCKET,
        listen_fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)HTTP_IDLE_SECONDS,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
        MHD_OPTION_END);
    if (!server->daemon) {
        error_set_errno(err, errno, "HTTP server");
        close(listen_fd);
        pthread_rwlock_destroy(&server->lock);
        free(server);
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
    pthread_rwlock_destroy(&server->lock);
    free(server);
}
