/* A stream to a server: TCP, or TLS (OpenSSL) over it; non-blocking underneath. Connecting waits, with a
 * deadline and for cancellation; after that reading and writing never do, unless by stream_wait.
 *
 * Text to be written is appended to `out`, and written by stream_flush as far as the socket takes it.
 * Invariants: out.data[sent .. out.len) waits to be written, and sent is 0 whenever nothing waits; once
 * `broken`, nothing is read or written any more. With TLS the process must ignore SIGPIPE. Thread: one at a
 * time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <openssl/types.h>

#include "common/buffer.h"
#include "common/error.h"

/* Where and how to connect; all text borrowed for the length of the call. */
struct stream_address {
    const char *host;
    int port;
    bool tls;
    bool tls_unverified;  /* any certificate will do */
    const char *tls_ca;   /* file; NULL or "": the system's. The host name is verified */
    const char *tls_cert; /* file; NULL or "": none */
    const char *tls_key;
};

struct stream {
    int fd;
    SSL *ssl; /* NULL: plain */
    bool broken;
    bool negotiated;     /* set by the user once the connection stands: errors are then the network's */
    bool read_wants_out; /* TLS: reading goes on when the socket can be written */
    bool write_wants_in; /* TLS: writing goes on when the socket can be read */
    struct buffer out;
    size_t sent;
    char peer[280]; /* "host:port" */
};

/* What a waiting call waits for besides the socket. */
struct stream_wait {
    uint64_t deadline;
    uint64_t timeout_ns;           /* for the message */
    int cancel_fd;                 /* becoming readable ends the wait; -1: none */
    void (*heartbeat)(void *data); /* called about once a second; may be NULL */
    void *heartbeat_data;
    uint64_t last_beat;
};

struct stream_wait stream_wait_for(uint64_t timeout_ns, int cancel_fd, void (*heartbeat)(void *), void *data);

/* Nothing is connected; stream_done is then fine. */
void stream_init(struct stream *stream);
/* The same for an open non-blocking socket, which it takes. */
void stream_attach(struct stream *stream, int fd);
void stream_done(struct stream *stream); /* closes */

/* Resolves the name, connects, negotiates TLS; TCP keepalive is on, so that a vanished peer is noticed
 * (within 30 s) without traffic. The stream is initialised, and done with by the caller, also after a
 * failure. Errors: ERROR_UNAVAILABLE (absent, timed out, cancelled), ERROR_REFUSED (certificate),
 * ERROR_INVALID (no such host or port can be), ERROR_SYSTEM, ERROR_MEMORY. Messages name host:port. */
int stream_connect(struct stream *stream, const struct stream_address *address, struct stream_wait *wait,
                   struct error *err);

/* Bytes read into `to` (> 0), 0 when there are none now, -1 when the connection is lost (broken). */
ssize_t stream_read(struct stream *stream, char *to, size_t len, struct error *err);
/* Whether OpenSSL holds bytes already, which would wake no poll. */
bool stream_pending(const struct stream *stream);
/* Writes what it can of `out`; when that is empty, memory above keep_bytes is given back. 0 when all is
 * written, 1 when the socket is full (poll for stream_events), -1 when the connection is lost. */
int stream_flush(struct stream *stream, size_t keep_bytes, struct error *err);
/* Poll events to wait for now: POLLIN, and POLLOUT while output waits (or TLS wants it). */
short stream_events(const struct stream *stream);
/* Waits for them. 0, or -1 with ERROR_UNAVAILABLE: time is up, or cancelled. */
int stream_wait(struct stream *stream, struct stream_wait *wait, struct error *err);

/* Breaks it: fills err with "<peer>: <what>" and returns -1. */
int stream_fail(struct stream *stream, struct error *err, enum error_code code, const char *what);
