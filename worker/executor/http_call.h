/* HTTP calls: thousands at a time on one loop, with libcurl. Connections are kept and reused; HTTP/2 is
 * spoken where a TLS server offers it, with many calls on one connection (http_connections.h). Names are
 * resolved on threads of libcurl's own, so nothing here waits.
 *
 * A call's request is sent at most once: whether it is worth another one when its connection is lost without
 * an answer, or an HTTP/2 server turns it away, is for its maker to say.
 *
 * What a server may do to us is bounded: time (connecting, and in all), bytes of headers, bytes of the body
 * that are kept (a call of which no more is wanted ends there, however much the server goes on to send;
 * unless it is the end that is wanted), and
 * the bytes that all calls together keep. Redirects are not followed, no proxy and no .netrc is used whatever
 * the environment says, and certificates are verified. Schemes are http and https. Thread: whoever holds the
 * loop's lock. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/executor/http_call_request.h"

struct error;
struct http_call;
struct http_calls;
struct loop;

#define HTTP_CALL_HEADER_BYTES (256u << 10) /* of an answer's headers */
#define HTTP_CALL_KEPT_BYTES (256u << 20)   /* of the bodies of all answers under way */

/* How a call has ended; valid during the callback. */
struct http_answer {
    unsigned status;  /* 0: there was no answer; `error` says why */
    unsigned version; /* of HTTP, times ten: 10, 11, 20; 0: none */
    bool complete;    /* the whole answer was read; false with a status: cut off, or more than answer_max */
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

/* public_only: addresses of private networks, loopback and link-local ones are not connected to, whatever
 * name leads there. tls_ca: a file with the certificates of the authorities to trust, borrowed; "": the
 * system's. */
int http_calls_new(struct loop *loop, bool public_only, const char *tls_ca, struct http_calls **ret_calls,
                   struct error *err);
/* Calls under way end without a word. NULL is fine. Before the loop is freed. */
void http_calls_free(struct http_calls *calls);

/* Begins a call; `done` is called once, from the loop, and may begin others. Errors: ERROR_INVALID (the
 * URL), ERROR_MEMORY; then `done` is not called. */
int http_call_start(struct http_calls *calls, const struct http_call_request *request, http_call_done done,
                    void *data, struct http_call **ret_call, struct error *err);
/* Gives a call up; `done` is not called. Not from within its `done`. */
void http_call_cancel(struct http_call *call);
size_t http_calls_under_way(const struct http_calls *calls);
