/* CloudEvents as HTTP messages carry them (CloudEvents HTTP protocol binding 1.0.2): structured, binary and
 * batched mode.
 *
 * The content type decides: application/cloudevents+json is structured, application/cloudevents-batch+json
 * batched, and any other or none is binary when there are ce- headers. A charset, where JSON is expected,
 * must be UTF-8 (or US-ASCII). Everything an event must be to conform is checked. Thread: any. Fuzzed:
 * tests/fuzz. */
#pragma once

#include <stddef.h>

struct buffer;
struct cloudevent;
struct error;

#define CLOUDEVENT_HTTP_HEADERS_MAX 96 /* attributes and extensions of one event in binary mode */

enum {
    CLOUDEVENT_HTTP_INVALID = 400,
    CLOUDEVENT_HTTP_TOO_LARGE = 413,
    CLOUDEVENT_HTTP_UNSUPPORTED = 415,
    CLOUDEVENT_HTTP_NO_MEMORY = 500
};

/* A header whose name begins with ce-, in any case. */
struct cloudevent_http_header {
    const char *name; /* without ce- */
    size_t name_len;
    const char *value;
    size_t value_len;
};

/* Borrows all. */
struct cloudevent_http_message {
    const char *content_type; /* NULL without */
    const char *body;
    size_t body_len;
    size_t max_event; /* bytes that an event (its JSON, or its data) may have */
    unsigned n_headers;
    struct cloudevent_http_header header[CLOUDEVENT_HTTP_HEADERS_MAX];
};

/* Adds a header if it is one of an event's. More than there is room for are counted only, and then refused.
 */
void cloudevent_http_add_header(struct cloudevent_http_message *message, const char *name, size_t name_len,
                                const char *value, size_t value_len);

/* Reads the message's events and calls take for each, in order; the event is take's until it returns. scratch
 * is overwritten. Returns 0, or an HTTP status to refuse the message with, err filled and *ret_index the
 * event in a batch that is at fault (-1: none is): then the events taken before are void. A status above 0
 * from take ends it; take has then filled err. */
int cloudevent_http_read(const struct cloudevent_http_message *message, struct buffer *scratch,
                         int (*take)(void *data, const struct cloudevent *event, struct error *err),
                         void *data, long *ret_index, struct error *err);
