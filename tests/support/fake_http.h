/* An HTTP server of the test's own (libmicrohttpd) that answers as a function says. It runs in a thread of
 * its own on a free loopback port. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"

struct fake_http;
struct MHD_Connection;

struct fake_request {
    const char *method;
    const char *path;
    const char *body; /* NUL-terminated behind len */
    size_t len;
    unsigned times;    /* it was put off so often */
    uint64_t since_ns; /* when it came (clock_now_ns) */
    struct MHD_Connection *connection;
};

struct fake_answer {
    unsigned status; /* 0: hangs up instead */
    struct buffer body;
    const char *headers[4][2]; /* borrowed until the handler is called again; NULL: no more */
};

/* false: put off: called again once fake_http_resume() was called for the connection. Thread: the server's.
 */
typedef bool (*fake_handler)(void *data, const struct fake_request *request, struct fake_answer *answer);

/* NULL with the reason on standard error. */
struct fake_http *fake_http_start(fake_handler handler, void *data);
/* Every request that was put off must have been resumed, and must be answered then. NULL is fine. */
void fake_http_stop(struct fake_http *fake);
int fake_http_port(const struct fake_http *fake);
/* A header of the request; NULL without. In the handler. */
const char *fake_http_header(const struct fake_request *request, const char *name);
void fake_http_resume(struct MHD_Connection *connection); /* Thread: any */
