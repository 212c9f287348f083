#include "worker/source/rabbitmq_connection.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/stream.h"
#include "worker/source/rabbitmq_parameters.h"

#define METHOD_BYTES 16384u /* of a method that we send */
#define OUTPUT_KEEP (256u * 1024)
#define HEARTBEAT_S 10   /* what we like; the broker may want less */
#define HEADER_FIXED 12u /* class, weight, body size */

struct rabbitmq {
    struct stream stream;
    struct rabbitmq_input input;
    uint32_t frame_max;
    uint64_t heartbeat_ns; /* 0: none */
    uint64_t sent_ns;
    uint64_t received_ns;
    bool blocked;
    bool drained; /* the last read has emptied the socket */
    unsigned reply_code;
    char peer[sizeof((struct stream *)NULL)->peer + 64];
};

static int lost(struct rabbitmq *r, enum error_code code, struct error *err, const char *what)
{
    r->stream.broken = true;
    error_set(err, code, "%s: %s", r->peer, what);
    return -1;
}

static void write_u32(char *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (char)(value >> (24 - 8 * i));
}

/* --- sending --- */

/* Room for a frame with so much payload; NULL: out of memory. */
static char *frame_begin(struct rabbitmq *r, size_t payload, struct error *err)
{
    char *to = buffer_reserve(&r->stream.out, payload + RABBITMQ_FRAME_OVERHEAD);
    if (!to) {
        r->stream.out.failed = false; /* what is in it already is whole */
        error_set(err, ERROR_MEMORY, "%s: out of memory for what is to be sent", r->peer);
    }
    return to;
}

static void frame_end(struct rabbitmq *r, char *to, unsigned type, unsigned channel, size_t payload)
{
    to[0] = (char)type;
    to[1] = (char)(channel >> 8);
    to[2] = (char)channel;
    write_u32(to + 3, (uint32_t)payload);
    to[7 + payload] = (char)AMQP_FRAME_END;
    r->stream.out.len += payload + RABBITMQ_FRAME_OVERHEAD;
}

static int send_method(struct rabbitmq *r, unsigned channel, amqp_method_number_t method, void *decoded,
                       struct error *err)
{
    char *to = frame_begin(r, METHOD_BYTES, err);
    if (!to)
        return -1;
    write_u32(to + 7, method);
    int n = amqp_encode_method(method, decoded, (amqp_bytes_t){METHOD_BYTES - 4, to + 7 + 4});
    if (n < 0)
        return error_set(err, ERROR_LIMIT, "%s: method %s: %s", r->peer, amqp_method_name(method),
                         amqp_error_string2(n));
    frame_end(r, to, AMQP_FRAME_METHOD, channel, (size_t)n + 4);
    return 0;
}

int rabbitmq_send(struct rabbitmq *rabbitmq, amqp_method_number_t method, void *decoded, struct error *err)
{
    return send_method(rabbitmq, RABBITMQ_CHANNEL, method, decoded, err);
}

int rabbitmq_publish(struct rabbitmq *rabbitmq, const char *queue, amqp_basic_properties_t *properties,
                     const char *body, size_t len, struct error *err)
{
    struct rabbitmq *r = rabbitmq;
    size_t before = r->stream.out.len;
    amqp_basic_publish_t publish = {.routing_key = amqp_cstring_bytes(queue), .mandatory = 1};
    if (send_method(r, RABBITMQ_CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &publish, err) < 0)
        return -1;
    char *to = frame_begin(r, METHOD_BYTES, err);
    int n = -1;
    if (to) {
        memset(to + 7, 0, HEADER_FIXED);
        to[8] = AMQP_BASIC_CLASS;
        write_u32(to + 11, (uint32_t)((uint64_t)len >> 32));
        write_u32(to + 15, (uint32_t)len);
        n = amqp_encode_properties(AMQP_BASIC_CLASS, properties,
                                   (amqp_bytes_t){METHOD_BYTES - HEADER_FIXED, to + 7 + HEADER_FIXED});
        if (n < 0)
            error_set(err, ERROR_LIMIT, "%s: properties of a message: %s", r->peer, amqp_error_string2(n));
        else
            frame_end(r, to, AMQP_FRAME_HEADER, RABBITMQ_CHANNEL, (size_t)n + HEADER_FIXED);
    }
    while (n >= 0 && len) {
        size_t part =
            len < r->frame_max - RABBITMQ_FRAME_OVERHEAD ? len : r->frame_max - RABBITMQ_FRAME_OVERHEAD;
        if (!(to = frame_begin(r, part, err))) {
            n = -1;
            break;
        }
        memcpy(to + 7, body, part);
        frame_end(r, to, AMQP_FRAME_BODY, RABBITMQ_CHANNEL, part);
        body += part;
        len -= part;
    }
    if (n < 0)
        r->stream.out.len = before;
    return n < 0 ? -1 : 0;
}

int rabbitmq_flush(struct rabbitmq *rabbitmq, struct error *err)
{
    struct rabbitmq *r = rabbitmq;
    size_t before = r->stream.out.len - r->stream.sent;
    int rc = stream_flush(&r->stream, OUTPUT_KEEP, err);
    if (r->stream.out.len - r->stream.sent < before)
        r->sent_ns = clock_now_ns();
    return rc;
}

int rabbitmq_beat(struct rabbitmq *rabbitmq, uint64_t now_ns, uint64_t *ret_next_ns, struct error *err)
{
    struct rabbitmq *r = rabbitmq;
    if (!r->heartbeat_ns) {
        *ret_next_ns = UINT64_MAX;
        return 0;
    }
    if (now_ns >= r->sent_ns + r->heartbeat_ns / 2 && r->stream.out.len == 0) {
        char *to = frame_begin(r, 0, err);
        if (!to)
            return -1;
        frame_end(r, to, AMQP_FRAME_HEARTBEAT, 0, 0);
        if (rabbitmq_flush(r, err) < 0)
            return -1;
    }
    *ret_next_ns = (now_ns > r->sent_ns ? now_ns : r->sent_ns) + r->heartbeat_ns / 2;
    return 0;
}

/* --- receiving --- */

/* Gets more input. 0; 1: nothing there now; -1. */
static int fill(struct rabbitmq *r, struct error *err)
{
    size_t len;
    if (r->drained) { /* what has come since will be polled for */
        r->drained = false;
        return 1;
    }
    char *to = rabbitmq_input_room(&r->input, &len);
    if (!to)
        return lost(r, ERROR_MEMORY, err, "out of memory for a message");
    ssize_t n = stream_read(&r->stream, to, len, err);
    if (n < 0)
        return -1;
    if (n > 0) {
        r->input.end += (size_t)n;
        r->received_ns = clock_coarse_ns();
        r->drained = !r->stream.ssl && (size_t)n < len; /* OpenSSL reads no more than a record */
        return 0;
    }
    if (r->heartbeat_ns && clock_coarse_ns() > r->received_ns + 2 * r->heartbeat_ns)
        return lost(r, ERROR_UNAVAILABLE, err, "the broker gives no sign of life (heartbeats)");
    return 1;
}

/* --- what concerns the connection --- */

static enum error_code code_of(unsigned reply_code)
{
    static const unsigned refused[] = {AMQP_ACCESS_REFUSED,      AMQP_NOT_FOUND,    AMQP_NOT_ALLOWED,
                                       AMQP_PRECONDITION_FAILED, AMQP_INVALID_PATH, AMQP_NOT_IMPLEMENTED};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i] == reply_code)
            return ERROR_REFUSED;
    return ERROR_UNAVAILABLE;
}

static int closed(struct rabbitmq *r, const struct rabbitmq_event *event, struct error *err)
{
    /* channel.close and connection.close have the same fields */
    const amqp_channel_close_t *close = event->decoded;
    bool channel = event->method == AMQP_CHANNEL_CLOSE_METHOD;
    char text[160];
    struct error ignored;
    amqp_channel_close_ok_t ok = {0};
    snprintf(text, sizeof text, "%u %.*s", close->reply_code, (int)close->reply_text.len,
             (const char *)close->reply_text.bytes);
    for (char *c = text; *c; c++) /* it goes into logs and the status */
        *c = *c < ' ' || *c > '~' ? '?' : *c;
    r->reply_code = close->reply_code;
    if (send_method(r, channel ? RABBITMQ_CHANNEL : 0,
                    channel ? AMQP_CHANNEL_CLOSE_OK_METHOD : AMQP_CONNECTION_CLOSE_OK_METHOD, &ok,
                    &ignored) == 0)
        rabbitmq_flush(r, &ignored);
    return lost(r, code_of(close->reply_code), err, text);
}

int rabbitmq_receive(struct rabbitmq *rabbitmq, struct rabbitmq_event *ret_event, struct error *err)
{
    struct rabbitmq *r = rabbitmq;
    for (;;) {
        int rc = r->stream.broken
                     ? stream_fail(&r->stream, err, ERROR_UNAVAILABLE, "the connection is broken")
                     : rabbitmq_input_next(&r->input, ret_event);
        if (rc < 0 && !r->stream.broken)
            return lost(r, r->input.code, err, r->input.wrong);
        if (rc > 0 && (rc = fill(r, err)) == 0)
            continue;
        if (rc)
            return rc;
        switch (ret_event->method) {
        case AMQP_CONNECTION_CLOSE_METHOD:
        case AMQP_CHANNEL_CLOSE_METHOD:
            return closed(r, ret_event, err);
        case AMQP_CONNECTION_BLOCKED_METHOD:
        case AMQP_CONNECTION_UNBLOCKED_METHOD:
            r->blocked = ret_event->method == AMQP_CONNECTION_BLOCKED_METHOD;
            continue;
        default:
            return 0;
        }
    }
}

/* Waits for this method. */
static int await(struct rabbitmq *r, amqp_method_number_t method, struct stream_wait *wait,
                 struct rabbitmq_event *ret_event, struct error *err)
{
    for (;;) {
        int rc = rabbitmq_flush(r, err);
        if (rc < 0)
            return -1;
        while ((rc = rabbitmq_receive(r, ret_event, err)) == 0)
            if (ret_event->method == method)
                return 0;
        if (rc < 0)
            return -1;
        if (stream_wait(&r->stream, wait, err) < 0)
            return error_prefix(err, "waiting for %s", amqp_method_name(method));
    }
}

int rabbitmq_call(struct rabbitmq *rabbitmq, amqp_method_number_t method, void *decoded,
                  amqp_method_number_t reply, struct stream_wait *wait, struct rabbitmq_event *ret_event,
                  struct error *err)
{
    if (rabbitmq_send(rabbitmq, method, decoded, err) < 0)
        return -1;
    return await(rabbitmq, reply, wait, ret_event, err);
}

/* --- connecting --- */

static amqp_table_entry_t text_entry(const char *name, const char *value)
{
    return (amqp_table_entry_t){
        .key = amqp_cstring_bytes(name),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_cstring_bytes(value)}}};
}

static amqp_table_entry_t true_entry(const char *name)
{
    return (amqp_table_entry_t){.key = amqp_cstring_bytes(name),
                                .value = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value = {.boolean = 1}}};
}

/* connection.start-ok with SASL PLAIN (RFC 4616). */
static int log_in(struct rabbitmq *r, const struct rabbitmq_parameters *p, const char *name,
                  struct error *err)
{
    BUFFER_AUTO plain = BUFFER_INIT;
    amqp_table_entry_t capabilities[] = {true_entry("authentication_failure_close"), true_entry("basic.nack"),
                                         true_entry("connection.blocked"),
                                         true_entry("consumer_cancel_notify"),
                                         true_entry("publisher_confirms")};
    amqp_table_entry_t properties[] = {
        text_entry("product", "triggerflow"),
        text_entry("version", VERSION),
        text_entry("connection_name", name),
        {.key = amqp_cstring_bytes("capabilities"),
         .value = {.kind = AMQP_FIELD_KIND_TABLE,
                   .value = {.table = {sizeof capabilities / sizeof capabilities[0], capabilities}}}},
    };
    buffer_append_char(&plain, '\0');
    buffer_append_text(&plain, p->user);
    buffer_append_char(&plain, '\0');
    buffer_append_text(&plain, p->password);
    if (plain.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    amqp_connection_start_ok_t ok = {
        .client_properties = {sizeof properties / sizeof properties[0], properties},
        .mechanism = amqp_cstring_bytes("PLAIN"),
        .response = {plain.len, plain.data},
        .locale = amqp_cstring_bytes("en_US")};
    return send_method(r, 0, AMQP_CONNECTION_START_OK_METHOD, &ok, err);
}

/* What the broker proposes, and what we like: the lesser of both, where 0 is no limit. */
static int tune(struct rabbitmq *r, const struct rabbitmq_parameters *p, const amqp_connection_tune_t *tune,
                struct error *err)
{
    unsigned wanted = p->heartbeat < 0 ? HEARTBEAT_S : (unsigned)p->heartbeat;
    unsigned heartbeat = tune->heartbeat && tune->heartbeat < wanted ? tune->heartbeat : wanted;
    if (tune->frame_max && tune->frame_max < RABBITMQ_FRAME_MAX)
        r->frame_max = tune->frame_max;
    if (r->frame_max < AMQP_FRAME_MIN_SIZE)
        return lost(r, ERROR_UNAVAILABLE, err, "wants frames smaller than AMQP allows");
    r->input.frame_max = r->frame_max;
    r->heartbeat_ns = heartbeat * CLOCK_S;
    amqp_connection_tune_ok_t ok = {
        .channel_max = 1, .frame_max = r->frame_max, .heartbeat = (uint16_t)heartbeat};
    return send_method(r, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &ok, err);
}

static int handshake(struct rabbitmq *r, const struct rabbitmq_parameters *p, const char *name,
                     struct stream_wait *wait, struct error *err)
{
    struct rabbitmq_event event;
    amqp_connection_open_t open = {.virtual_host = amqp_cstring_bytes(p->vhost)};
    amqp_channel_open_t channel = {0};
    buffer_append(&r->stream.out, "AMQP\0\0\x09\x01", 8);
    if (await(r, AMQP_CONNECTION_START_METHOD, wait, &event, err) < 0 || log_in(r, p, name, err) < 0 ||
        await(r, AMQP_CONNECTION_TUNE_METHOD, wait, &event, err) < 0 || tune(r, p, event.decoded, err) < 0 ||
        send_method(r, 0, AMQP_CONNECTION_OPEN_METHOD, &open, err) < 0 ||
        await(r, AMQP_CONNECTION_OPEN_OK_METHOD, wait, &event, err) < 0)
        return -1;
    return rabbitmq_call(r, AMQP_CHANNEL_OPEN_METHOD, &channel, AMQP_CHANNEL_OPEN_OK_METHOD, wait, &event,
                         err);
}

int rabbitmq_connect(const struct rabbitmq_parameters *parameters, const char *name, size_t max_body,
                     struct stream_wait *wait, struct rabbitmq **ret_rabbitmq, struct error *err)
{
    const struct rabbitmq_parameters *p = parameters;
    struct stream_address address = {.host = p->host,
                                     .port = p->port,
                                     .tls = p->tls,
                                     .tls_unverified = !p->tls_verify,
                                     .tls_ca = p->tls_ca,
                                     .tls_cert = p->tls_cert,
                                     .tls_key = p->tls_key};
    struct rabbitmq *r = calloc(1, sizeof *r);
    if (!r)
        return error_set(err, ERROR_MEMORY, "out of memory");
    stream_init(&r->stream);
    if (rabbitmq_input_init(&r->input, max_body) < 0) {
        rabbitmq_free(r);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    r->frame_max = RABBITMQ_FRAME_MAX;
    r->sent_ns = r->received_ns = clock_now_ns();
    if (stream_connect(&r->stream, &address, wait, err) < 0) {
        rabbitmq_free(r);
        return -1;
    }
    snprintf(r->peer, sizeof r->peer, "%s%s%.60s", r->stream.peer, p->vhost[0] == '/' ? "" : "/", p->vhost);
    if (handshake(r, p, name, wait, err) < 0) {
        rabbitmq_free(r);
        return -1;
    }
    r->stream.negotiated = true;
    *ret_rabbitmq = r;
    return 0;
}

void rabbitmq_free(struct rabbitmq *rabbitmq)
{
    if (!rabbitmq)
        return;
    stream_done(&rabbitmq->stream);
    rabbitmq_input_done(&rabbitmq->input);
    free(rabbitmq);
}

void rabbitmq_close(struct rabbitmq *rabbitmq, struct stream_wait *wait)
{
    amqp_connection_close_t close = {.reply_code = AMQP_REPLY_SUCCESS};
    struct rabbitmq_event event;
    struct error ignored;
    if (rabbitmq && !rabbitmq->stream.broken &&
        send_method(rabbitmq, 0, AMQP_CONNECTION_CLOSE_METHOD, &close, &ignored) == 0)
        await(rabbitmq, AMQP_CONNECTION_CLOSE_OK_METHOD, wait, &event, &ignored);
    rabbitmq_free(rabbitmq);
}

/* --- the queue --- */

static int declare(struct rabbitmq *r, const char *queue, bool passive, struct stream_wait *wait,
                   uint64_t *ret_waiting, struct error *err)
{
    struct rabbitmq_event event;
    amqp_queue_declare_t declare = {.queue = amqp_cstring_bytes(queue), .passive = passive};
    if (rabbitmq_call(r, AMQP_QUEUE_DECLARE_METHOD, &declare, AMQP_QUEUE_DECLARE_OK_METHOD, wait, &event,
                      err) < 0)
        return error_prefix(err, "queue %.100s", queue);
    *ret_waiting = ((const amqp_queue_declare_ok_t *)event.decoded)->message_count;
    return 0;
}

int rabbitmq_declare(struct rabbitmq **rabbitmq, const struct rabbitmq_parameters *parameters,
                     const char *name, size_t max_body, bool create, struct stream_wait *wait,
                     uint64_t *ret_waiting, struct error *err)
{
    if (declare(*rabbitmq, parameters->queue, true, wait, ret_waiting, err) == 0)
        return 0;
    if (rabbitmq_reply_code(*rabbitmq) != AMQP_NOT_FOUND)
        return -1;
    if (!create)
        return 1;
    /* That has closed the channel; a new connection is as good as a new channel, and simpler. */
    rabbitmq_free(*rabbitmq);
    *rabbitmq = NULL;
    if (rabbitmq_connect(parameters, name, max_body, wait, rabbitmq, err) < 0 ||
        declare(*rabbitmq, parameters->queue, false, wait, ret_waiting, err) < 0)
        return -1;
    return 1;
}

int rabbitmq_fd(const struct rabbitmq *rabbitmq)
{
    return rabbitmq->stream.fd;
}

short rabbitmq_events(const struct rabbitmq *rabbitmq)
{
    return stream_events(&rabbitmq->stream);
}

const char *rabbitmq_peer(const struct rabbitmq *rabbitmq)
{
    return rabbitmq->peer;
}

uint64_t rabbitmq_heartbeat_ns(const struct rabbitmq *rabbitmq)
{
    return rabbitmq->heartbeat_ns;
}

bool rabbitmq_blocked(const struct rabbitmq *rabbitmq)
{
    return rabbitmq->blocked;
}

unsigned rabbitmq_reply_code(const struct rabbitmq *rabbitmq)
{
    return rabbitmq->reply_code;
}
