/* HTTP calls: thousands at a time on one loop, with libcurl's multi interface driven by the loop's
 * descriptors and timers. Connections are kept and reused; HTTP/2 is spoken where a TLS server offers it,
 * with many calls on one connection. Names are resolved on threads of libcurl's own, so nothing here waits.
 *
 * What a server may do to us is bounded: time (connecting, and in all), bytes of headers, bytes of the body
 * that are kept (a call of which no more is wanted ends there, however much the server goes on to send), and
 * the bytes that all calls together keep. Redirects are not followed, no proxy and no .netrc is used whatever
 * the environment says, and certificates are verified. Schemes are http and https. Thread: whoever holds the
 * loop's lock. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"

struct error;
struct http_call;
struct http_calls;
struct loop;

#define HTTP_CALL_HEADER_BYTES (256u << 10) /* of an answer's headers */
#define HTTP_CALL_KEPT_BYTES (256u << 20)   /* of the bodies of all answers under way */

/* A request; filled by its maker, who keeps it until http_call_start returns. */
struct http_call_request {
    char method[16];           /* "POST" */
    struct buffer url;         /* http://... or https://... */
    struct buffer unix_socket; /* path; empty: over TCP */
    struct buffer headers;     /* http_call_header() */
    struct buffer body;        /* empty: none */
    uint64_t connect_timeout_ns;
    uint64_t timeout_ns; /* from start to the end of the answer */
    size_t answer_max;   /* bytes of the answer's body that are kept */
};

void http_call_request_init(struct http_call_request *request);
void http_call_request_done(struct http_call_request *request);
/* Checks and takes a method: letters, digits and hyphens. Errors: ERROR_INVALID. */
int http_call_method(struct http_call_request *request, const char *method, size_t len, struct error *err);
/* Adds a header. Errors: ERROR_INVALID: the name is no token, or the value (which is not shown) holds control
 * characters. */
int http_call_header(struct http_call_request *request, const char *name, const char *value,
                     struct error *err);
/* Whether a header of this name was added. */
bool http_call_has_header(const struct http_call_request *request, const char *name);

/* How a call has ended; valid during the callback. */
struct http_answer {
    unsigned status; /* 0: there was no answer; `error` says why */
    bool complete;   /* the whole answer was read; false with a status: cut off, or more than answer_max */
    const struct error *error; /* NULL when complete. Codes: ERROR_UNAVAILABLE (may be tried again),
                                  ERROR_INVALID (the request can never be sent), ERROR_REFUSED (the server's
                                  certificate), ERROR_LIMIT (more than answer_max, or too many headers) */
    const char *body;
    size_t len;
    uint64_t retry_after_ns; /* from the header Retry-After, in seconds or as a date; 0: none */
    struct http_call *call;  /* for http_answer_header() */
};

/* The value of the answer's header, NULL: none. Valid until the callback returns. */
const char *http_answer_header(const struct http_answer *answer, const char *name);

typedef void (*http_call_done)(void *data, const struct http_answer *answer);

int http_calls_new(struct loop *loop, struct http_calls **ret_calls, struct error *err);
/* Calls under way end without a word. NULL is fine. Before the loop is freed. */
void http_calls_free(struct http_calls *calls);

/* Begins a call; `done` is called once, from the loop, and may begin others. Errors: ERROR_INVALID (the
 * URL), ERROR_MEMORY; then `done` is not called. */
int http_call_start(struct http_calls *calls, const struct http_call_request *request, http_call_done done,
                    void *data, struct http_call **ret_call, struct error *err);
/* Gives a call up; `done` is not called. Not from within its `done`. */
void http_call_cancel(struct http_call *call);
size_t http_calls_under_way(const struct http_calls *calls);

/* Where a URL leads to: "scheme://host:port" in lower case. Errors: ERROR_INVALID: no URL, or of another
 * scheme; the message shows neither user nor query. */
int http_call_origin(const char *url, struct buffer *out, struct error *err);

/* The parts of a URL as a request has them: the Host header, the path and the query without "?" ("": none).
 * Errors: ERROR_INVALID. */
int http_call_url_parts(const char *url, struct buffer *host, struct buffer *path, struct buffer *query,
                        struct error *err);

/* The value of a header Retry-After as a span of time from now_unix_s; 0: not understood. RFC 9110, section
 * 10.2.3. */
uint64_t http_call_retry_after(const char *value, int64_t now_unix_s);
