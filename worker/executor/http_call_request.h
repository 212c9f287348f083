/* Requests of HTTP calls: building them, so that nothing from outside can be more than the part that it is
 * meant to be; and reading URLs and headers. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"

struct error;

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
    bool keep_last;      /* of a longer one the end is kept, and not the beginning */
};

void http_call_request_init(struct http_call_request *request);
void http_call_request_done(struct http_call_request *request);
/* Checks and takes a method: letters, digits and hyphens. Errors: ERROR_INVALID. */
int http_call_method(struct http_call_request *request, const char *method, size_t len, struct error *err);
/* Adds a header. Errors: ERROR_INVALID: the name is no token, or one of those that belong to the connection,
 * or the value (which is not shown) holds control characters. */
int http_call_header(struct http_call_request *request, const char *name, const char *value,
                     struct error *err);
/* Whether a header of this name was added. */
bool http_call_has_header(const struct http_call_request *request, const char *name);
/* The header behind this one, as "name: value", or the first; NULL: there is none. */
const char *http_call_next_header(const struct http_call_request *request, const char *header);

/* Sets the error "URL "..." <why>", but shows none that has a user or a query. Returns -1. */
int http_call_bad_url(const char *url, const char *why, struct error *err);

/* Where a URL leads to: "scheme://host:port" in lower case. Errors: ERROR_INVALID: no URL, or of another
 * scheme; the message shows neither user nor query. */
int http_call_origin(const char *url, struct buffer *out, struct error *err);

/* The parts of a URL as a request has them: the Host header, the path and the query without "?" ("": none).
 * Errors: ERROR_INVALID. */
int http_call_url_parts(const char *url, struct buffer *host, struct buffer *path, struct buffer *query,
                        struct error *err);

struct sockaddr;
/* Whether an address is one of the public Internet: not loopback, private (RFC 1918, RFC 4193, RFC 6598),
 * link-local, unspecified, multicast or reserved, also as IPv4 inside IPv6; nor of a family other than these.
 */
bool http_call_is_public(const struct sockaddr *address);

/* The value of a header Retry-After as a span of time from now_unix_s; 0: not understood. RFC 9110, section
 * 10.2.3. */
uint64_t http_call_retry_after(const char *value, int64_t now_unix_s);
