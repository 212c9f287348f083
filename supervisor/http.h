/* An HTTP server (libmicrohttpd): routes, authentication, bodies, and answers that may come later and from
 * any thread.
 *
 * The server's threads read requests and send answers. A handler runs in the main thread, as a command, or,
 * on a direct route, on the server's thread that has read the request. It answers with http_answer(), there
 * and then or later and from anywhere: until then the connection is suspended and costs no thread.
 *
 * Clients that do not keep to the rules harm only themselves: headers, bodies and the memory of all bodies
 * together are bounded, a request must be complete HTTP_REQUEST_SECONDS after its connection was last of use,
 * and above connections_max the connection that has been useless for longest is closed, those that have never
 * brought a request before all others (http_connection.c). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "supervisor/command.h"

struct MHD_Connection;
struct command_queue;
struct error;
struct http_request;
struct http_server;

#define HTTP_BODY_MAX 65536
#define HTTP_SEGMENT_MAX 256
#define HTTP_CONNECTIONS_MAX 512
#define HTTP_IDLE_SECONDS 30
#define HTTP_REQUEST_SECONDS 60
#define HTTP_BODIES_MAX (128u << 20) /* bytes of all bodies that a server holds; above: 503 */

struct http_route {
    const char *method;
    const char *path; /* "/workspace/" and a star for one segment, of which there are at most two */
    void (*handler)(struct http_request *request);
    bool open; /* needs no credentials */
    /* The handler runs on the server's thread (and must not wait), not in the main thread; several may run at
     * a time. */
    bool direct;
    size_t body_max; /* bytes; 0: HTTP_BODY_MAX */
};

/* Where a request is between the server's thread and the one that answers it. */
enum http_phase {
    HTTP_READING,   /* the server's thread has it */
    HTTP_HANDLING,  /* its handler is running on the server's thread */
    HTTP_SUSPENDED, /* the connection waits for the answer */
    HTTP_ANSWERED
};

/* Thread: the server's until the handler is called, then the handler's until it is answered. */
struct http_request {
    struct command command;
    struct http_server *server;
    struct MHD_Connection *connection;
    const struct http_route *route;
    void *context;                   /* the server's */
    char segment[HTTP_SEGMENT_MAX];  /* what stood for the first star, unescaped; "" without one */
    char segment2[HTTP_SEGMENT_MAX]; /* for the second */
    struct buffer body;
    struct buffer query;    /* the query string's parameters, unescaped: name NUL value NUL ... */
    size_t charged;         /* of the body, to the server's account of all bodies */
    size_t discarded;       /* of the body of a refused request */
    _Atomic uint32_t phase; /* enum http_phase */
    unsigned status;        /* 0: not answered yet */
    const char *content_type;
    bool challenge;       /* 401 */
    char allow[64];       /* 405 */
    unsigned retry_after; /* seconds; 0: no such header */
    struct buffer answer;
    void *data; /* the handler's; freed with free() when the request ends */
};

struct http_options {
    const struct http_route *routes;
    size_t n_routes;
    struct command_queue *queue;
    void *context;
    bool authenticate; /* asks for the token, once one is set */
    /* Decides instead of the token: 0, or the status to refuse with and *ret_error (static text). user and
     * password as sent with Basic authentication, NULL without; loopback: the peer is on this machine.
     * Thread: the server's; must not wait. NULL: none. */
    unsigned (*authorise)(void *context, const char *user, const char *password, bool loopback,
                          const char **ret_error);
    unsigned connections_max; /* 0: HTTP_CONNECTIONS_MAX */
};

/* Serves listen_fd, which the server takes (on failure, too). */
int http_server_start(int listen_fd, const struct http_options *options, struct http_server **ret_server,
                      struct error *err);
/* Takes no more connections; those there are go on. Thread: main. */
void http_server_quiesce(struct http_server *server);
/* From now on no handler is called any more: requests are answered 503. Thread: main. */
void http_server_close(struct http_server *server);
/* After http_server_close, once all requests that handlers have got are answered. NULL is fine. */
void http_server_stop(struct http_server *server);
/* Closes connections whose request is overdue. Once a second. NULL is fine. Thread: any. */
void http_server_tick(struct http_server *server);
/* The token that requests must bring from now on; "": none. Thread: any. */
void http_server_set_token(struct http_server *server, const char *token);

/* A parameter of the query string, unescaped; NULL when absent, "" without a value; of several with that
 * name, the first. Borrows from the request. Thread: the handler's. */
const char *http_query(const struct http_request *request, const char *name);
/* A request header, NULL when absent; its name in any case. Borrows from the request. */
const char *http_header(const struct http_request *request, const char *name);
/* Calls visit for each header, until it returns false. */
void http_headers(const struct http_request *request,
                  bool (*visit)(void *data, const char *name, size_t name_len, const char *value,
                                size_t value_len),
                  void *data);

/* Answers with what is in request->answer (JSON); the request must not be touched afterwards. Thread: any,
 * once. */
void http_answer(struct http_request *request, unsigned status);
/* Answers {"error": text}. */
void http_answer_error(struct http_request *request, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Unescapes %XX in len bytes of a URL; false for bad escapes, a NUL, or when it does not fit. */
bool http_unescape(const char *text, size_t len, char *to, size_t size);

/* Listening sockets, CLOEXEC and non-blocking. Errors name address and port, or the path. */
int http_listen_tcp(const char *address, int64_t port, int *ret_fd, unsigned *ret_port, struct error *err);
/* Mode 0600; a socket file left behind is replaced. */
int http_listen_unix(const char *path, int *ret_fd, struct error *err);
