/* What the files of the HTTP server share; for no others. See http.h. */
#pragma once

#include <openssl/sha.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "supervisor/http.h"

/* Memory for buffers that a connection keeps from one request to the next. */
#define HTTP_KEEP_BYTES 32768

/* A connection, and the request that it brings: one at a time. Thread: the server's that serves it, but for
 * what requires the table's lock. */
struct http_connection {
    TAILQ_ENTRY(http_connection) link; /* Requires: table lock */
    struct http_server *server;
    int fd;
    bool listed;       /* the client is to bring a request, or the rest of one. Requires: table lock */
    bool known;        /* has brought a request before. Requires: table lock */
    bool dropped;      /* shut down by us. Requires: table lock */
    uint64_t since_ns; /* when it was last of use (coarse). Requires: table lock */
    struct http_request request;
};

TAILQ_HEAD(http_connection_list, http_connection);

/* All connections; in the lists those that wait for their clients, the longest waiting first. */
struct http_connection_table {
    pthread_mutex_t lock;
    unsigned max;
    unsigned n;                        /* Requires: lock */
    struct http_connection_list fresh; /* have brought no request yet. Requires: lock */
    struct http_connection_list known; /* Requires: lock */
};

struct http_server {
    struct MHD_Daemon *daemon;
    struct http_options options;
    struct http_connection_table connections;
    _Atomic size_t bodies; /* bytes charged for bodies */
    pthread_rwlock_t lock;
    bool closed;                                /* Requires: lock */
    bool token_set;                             /* Requires: lock */
    unsigned char digest[SHA256_DIGEST_LENGTH]; /* of the expected credentials. Requires: lock */
};

void http_connections_init(struct http_connection_table *table, unsigned max);
void http_connections_done(struct http_connection_table *table);
/* A new connection: makes room for it when there are too many. NULL: no memory. */
struct http_connection *http_connection_new(struct http_server *server, int fd);
/* Before its descriptor is closed. */
void http_connection_free(struct http_connection *connection);
/* The headers of a request have come: the time for its body begins. */
void http_connection_begin(struct http_connection *connection);
/* The request is complete: now it is we who are waited for. */
void http_connection_busy(struct http_connection *connection);
/* The request is answered, or its connection ends. */
void http_connection_idle(struct http_connection *connection);
/* Closes those that have waited for their clients since before this. */
void http_connections_expire(struct http_connection_table *table, uint64_t before_ns);

/* Finds the route and what stands for its stars, or decides the refusal: sets status and answer. */
void http_find_route(struct http_request *request, const char *url, const char *method);
/* Unescapes the query string; likewise. */
void http_read_query(struct http_request *request);
/* Whether the request may: 0, or the status to refuse it with and the reason. */
unsigned http_refuse(struct http_request *request, const char **ret_error);
/* Sets the answer {"error": text}. */
void http_set_error(struct http_request *request, const char *text);
