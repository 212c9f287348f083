/* HTTP requests by libcurl, many at a time, on one thread.
 *
 * A pool keeps connections alive and reuses them. It has one descriptor, which is readable whenever
 * fetch_pool_drive() has something to do (a socket or a time-out): it fits a loop of any kind, and costs
 * nothing while nothing happens. Answers are bounded, redirects are not followed, certificates are checked.
 * Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct fetch;
struct fetch_pool;

#define FETCH_HEADERS 16

struct fetch_request {
    const char *method; /* "GET", "POST", "PUT" */
    const char *url;    /* http or https */
    /* "Name: value", at most FETCH_HEADERS, NULL-terminated; NULL: none. These and the body are borrowed
     * until the callback comes, or the request is cancelled. */
    const char *const *headers;
    const void *body; /* NULL: none */
    size_t body_len;
    uint64_t connect_timeout_ns;
    uint64_t timeout_ns; /* of all of it */
    size_t max_answer;   /* bytes of its body; more is a failure */
    /* Sent at most once. Otherwise libcurl sends a request again by itself when a connection that was kept
     * alive breaks before an answer. */
    bool once;
    bool no_proxy;      /* the environment's proxies are not for this one */
    const char *tls_ca; /* file of authorities to trust; NULL: the system's */
};

struct fetch_answer {
    long status;      /* 0: none, see error */
    const char *body; /* NUL-terminated behind len; valid during the callback */
    size_t len;
    const struct error
        *error;          /* ERROR_UNAVAILABLE, ERROR_LIMIT; names host and reason, not the URL's query */
    struct fetch *fetch; /* for fetch_header() */
};

/* The end of a request, exactly once unless it is cancelled. It may start and cancel others. */
typedef void (*fetch_done)(void *data, const struct fetch_answer *answer);

/* max_connections: kept open when idle. Errors: ERROR_SYSTEM, ERROR_MEMORY. */
int fetch_pool_new(unsigned max_connections, struct fetch_pool **ret_pool, struct error *err);
/* Cancels what is under way. NULL is fine. Not in a callback. */
void fetch_pool_free(struct fetch_pool *pool);
int fetch_pool_fd(const struct fetch_pool *pool);
/* Does what can be done without waiting, and calls the callbacks. */
void fetch_pool_drive(struct fetch_pool *pool);

/* Starts a request, and sends it if that goes without waiting. ret_fetch may be NULL. The callback never
 * comes before fetch_pool_drive. Errors: ERROR_INVALID (the URL, too many headers), ERROR_MEMORY. */
int fetch_start(struct fetch_pool *pool, const struct fetch_request *request, fetch_done done, void *data,
                struct fetch **ret_fetch, struct error *err);
/* Ends a request without its callback; the connection is closed. Not for one whose callback has begun. */
void fetch_cancel(struct fetch *fetch);

/* The last value of a header of the answer; NULL without. In the callback. */
const char *fetch_header(const struct fetch *fetch, const char *name);
