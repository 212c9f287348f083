/* What concerns name resolution runs in a thread of its own, as getaddrinfo has no deadline: lookup_main,
 * which shares only a struct lookup. */
#include "common/stream.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

#define BEAT_NS CLOCK_S
#define VANISHED_S 30 /* a peer that acknowledges nothing for so long is gone */

int stream_fail(struct stream *stream, struct error *err, enum error_code code, const char *what)
{
    stream->broken = true;
    return error_set(err, code, "%s: %s", stream->peer, what);
}

struct stream_wait stream_wait_for(uint64_t timeout_ns, int cancel_fd, void (*heartbeat)(void *), void *data)
{
    uint64_t now = clock_now_ns();
    return (struct stream_wait){.deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns,
                                .timeout_ns = timeout_ns,
                                .cancel_fd = cancel_fd,
                                .heartbeat = heartbeat,
                                .heartbeat_data = data,
                                .last_beat = now};
}

/* Waits for events on fd. 0, or -1 with ERROR_UNAVAILABLE: time is up (until gives another end than the
 * waiter's, or UINT64_MAX) or cancelled. */
static int wait_for(struct stream_wait *w, int fd, short events, uint64_t until, const char *peer,
                    struct error *err)
{
    for (;;) {
        uint64_t now = clock_now_ns();
        uint64_t end = until < w->deadline ? until : w->deadline;
        if (w->heartbeat && now - w->last_beat >= BEAT_NS) {
            w->last_beat = now;
            w->heartbeat(w->heartbeat_data);
        }
        if (now >= end)
            return error_set(err, ERROR_UNAVAILABLE, "%s: timed out after %llu ms", peer,
                             (unsigned long long)(w->timeout_ns / CLOCK_MS));
        uint64_t slice = end - now < BEAT_NS ? end - now : BEAT_NS;
        struct pollfd fds[2] = {{.fd = fd, .events = events}, {.fd = w->cancel_fd, .events = POLLIN}};
        int n = poll(fds, 2, (int)((slice + CLOCK_MS - 1) / CLOCK_MS));
        if (n < 0 && errno != EINTR)
            return error_set_errno(err, errno, "%s: poll", peer);
        if (n > 0 && fds[1].revents)
            return error_set(err, ERROR_UNAVAILABLE, "%s: cancelled", peer);
        if (n > 0 && fds[0].revents)
            return 0;
    }
}

/* ---- name resolution: getaddrinfo has no deadline, so it runs in a thread that may be abandoned ---- */

/* Thread: any. Freed by whoever lets go last. */
struct lookup {
    atomic_int references;
    atomic_bool done; /* list and result are final: stored with release, read with acquire */
    int event_fd;     /* readable when done */
    int result;       /* of getaddrinfo */
    struct addrinfo *list;
    char host[256];
    char port[12];
};

static void lookup_unref(struct lookup *lookup)
{
    if (atomic_fetch_sub_explicit(&lookup->references, 1, memory_order_acq_rel) > 1)
        return;
    if (lookup->list)
        freeaddrinfo(lookup->list);
    close(lookup->event_fd);
    free(lookup);
}

static int lookup_run(struct lookup *lookup, int flags)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    return getaddrinfo(lookup->host, lookup->port, &hints, &lookup->list);
}

static void *lookup_main(void *data)
{
    struct lookup *lookup = data;
    lookup->result = lookup_run(lookup, 0);
    atomic_store_explicit(&lookup->done, true, memory_order_release);
    while (eventfd_write(lookup->event_fd, 1) < 0 && errno == EINTR)
        continue;
    lookup_unref(lookup);
    return NULL;
}

static int lookup_start_thread(struct lookup *lookup)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    int rc = pthread_attr_init(&attributes);
    if (rc)
        return rc;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    /* The program's signals are for its own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    atomic_fetch_add_explicit(&lookup->references, 1, memory_order_relaxed);
    rc = pthread_create(&thread, &attributes, lookup_main, lookup);
    if (rc)
        atomic_fetch_sub_explicit(&lookup->references, 1, memory_order_relaxed);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return rc;
}

static int lookup_resolve(struct lookup *lookup, struct stream_wait *w, const char *peer, struct error *err)
{
    lookup->result = lookup_run(lookup, AI_NUMERICHOST);
    if (lookup->result == EAI_NONAME) {
        int rc = lookup_start_thread(lookup);
        if (rc)
            return error_set_errno(err, rc, "%s: cannot start a thread for name resolution", peer);
        do {
            if (wait_for(w, lookup->event_fd, POLLIN, UINT64_MAX, peer, err) < 0)
                return error_prefix(err, "resolving the host name");
        } while (!atomic_load_explicit(&lookup->done, memory_order_acquire));
    }
    if (lookup->result == EAI_MEMORY)
        return error_set(err, ERROR_MEMORY, "%s: out of memory", peer);
    if (lookup->result)
        return error_set(err, ERROR_UNAVAILABLE, "%s: %s", peer, gai_strerror(lookup->result));
    return 0;
}

static int lookup_new(const struct stream_address *address, const char *peer, struct lookup **ret_lookup,
                      struct error *err)
{
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (!lookup)
        return error_set(err, ERROR_MEMORY, "%s: out of memory", peer);
    atomic_init(&lookup->references, 1);
    if (strlen(address->host) >= sizeof lookup->host || address->port <= 0 || address->port > 65535) {
        free(lookup);
        return error_set(err, ERROR_INVALID, "%s: not a host and port", peer);
    }
    memcpy(lookup->host, address->host, strlen(address->host) + 1);
    snprintf(lookup->port, sizeof lookup->port, "%d", address->port);
    lookup->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lookup->event_fd < 0) {
        int saved = errno;
        free(lookup);
        return error_set_errno(err, saved, "%s: eventfd", peer);
    }
    *ret_lookup = lookup;
    return 0;
}

/* ---- socket ---- */

static void socket_options(int fd)
{
    const struct {
        int level;
        int name;
        int value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 15}, {IPPROTO_TCP, TCP_KEEPINTVL, 5},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},   {IPPROTO_TCP, TCP_USER_TIMEOUT, VANISHED_S * 1000},
    };
    /* Best effort: without them the connection works, only a vanished peer is noticed later. */
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof options[i].value);
}

static int socket_connect_one(struct stream *stream, const struct addrinfo *to, struct stream_wait *w,
                              uint64_t until, struct error *err)
{
    stream->fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (stream->fd < 0)
        return error_set_errno(err, errno, "%s: socket", stream->peer);
    socket_options(stream->fd);
    int problem = 0;
    if (connect(stream->fd, to->ai_addr, to->ai_addrlen) < 0) {
        problem = errno;
        if (problem == EINPROGRESS || problem == EINTR) {
            if (wait_for(w, stream->fd, POLLOUT, until, stream->peer, err) < 0)
                return -1;
            socklen_t len = sizeof problem;
            if (getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &problem, &len) < 0)
                problem = errno;
        }
    }
    if (problem) {
        error_set_errno(err, problem, "%s", stream->peer);
        if (err)
            err->code = ERROR_UNAVAILABLE;
        return -1;
    }
    return 0;
}

/* Tries the addresses in the resolver's order, each with its share of the time that is left. */
static int socket_connect(struct stream *stream, const struct stream_address *address, struct stream_wait *w,
                          struct error *err)
{
    struct lookup *lookup = NULL;
    if (lookup_new(address, stream->peer, &lookup, err) < 0)
        return -1;
    int rc = lookup_resolve(lookup, w, stream->peer, err);
    if (rc == 0) {
        unsigned left = 0;
        rc = -1;
        for (const struct addrinfo *to = lookup->list; to; to = to->ai_next)
            left++;
        for (const struct addrinfo *to = lookup->list; to && rc < 0; to = to->ai_next, left--) {
            uint64_t now = clock_now_ns();
            uint64_t share = w->deadline > now ? (w->deadline - now) / left : 0;
            if (stream->fd >= 0)
                close(stream->fd);
            rc = socket_connect_one(stream, to, w, now + share, err);
        }
    }
    lookup_unref(lookup);
    return rc;
}

/* ---- TLS ---- */

/* Fills err with OpenSSL's reason. A certificate that is not accepted, by either side, is a refusal; once the
 * connection stands, trouble on it is not. */
static int tls_error(struct stream *stream, const char *what, struct error *err)
{
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code))
                         : code                 ? ERR_reason_error_string(code)
                                                : NULL;
    bool verified = stream->ssl && SSL_get_verify_mode(stream->ssl) != SSL_VERIFY_NONE;
    long verify = verified ? SSL_get_verify_result(stream->ssl) : X509_V_OK;
    bool eof = ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
    if (verify != X509_V_OK)
        reason = X509_verify_cert_error_string(verify);
    error_set(err, stream->negotiated || (eof && verify == X509_V_OK) ? ERROR_UNAVAILABLE : ERROR_REFUSED,
              "%s: TLS: %s: %s", stream->peer, what, reason ? reason : "failed");
    ERR_clear_error();
    return -1;
}

static const char *text_or_null(const char *text)
{
    return text && *text ? text : NULL;
}

static int tls_context_fill(struct stream *stream, SSL_CTX *context, const struct stream_address *address,
                            struct error *err)
{
    const char *ca = text_or_null(address->tls_ca);
    const char *cert = text_or_null(address->tls_cert);
    const char *key = text_or_null(address->tls_key);
    SSL_CTX_set_verify(context, address->tls_unverified ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (!SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION))
        return tls_error(stream, "TLS 1.2", err);
    if (ca ? !SSL_CTX_load_verify_locations(context, ca, NULL) : !SSL_CTX_set_default_verify_paths(context))
        return tls_error(stream, ca ? ca : "the system's certificates", err);
    if (cert && SSL_CTX_use_certificate_chain_file(context, cert) != 1)
        return tls_error(stream, cert, err);
    if (cert && SSL_CTX_use_PrivateKey_file(context, key ? key : cert, SSL_FILETYPE_PEM) != 1)
        return tls_error(stream, key ? key : cert, err);
    return 0;
}

/* The name (or address) that the certificate must carry, and SNI (RFC 6066 section 3: names only). */
static int tls_expect(struct stream *stream, const struct stream_address *address, struct error *err)
{
    const char *host = address->host;
    unsigned char binary[sizeof(struct in6_addr)];
    bool numeric = inet_pton(AF_INET, host, binary) == 1 || inet_pton(AF_INET6, host, binary) == 1;
    if (address->tls_unverified)
        return numeric || SSL_set_tlsext_host_name(stream->ssl, host) ? 0
                                                                      : tls_error(stream, "host name", err);
    if (numeric ? !X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(stream->ssl), host)
                : !SSL_set1_host(stream->ssl, host) || !SSL_set_tlsext_host_name(stream->ssl, host))
        return tls_error(stream, "host name", err);
    return 0;
}

static int tls_handshake(struct stream *stream, struct stream_wait *w, struct error *err)
{
    for (;;) {
        ERR_clear_error();
        int rc = SSL_connect(stream->ssl);
        if (rc == 1)
            return 0;
        switch (SSL_get_error(stream->ssl, rc)) {
        case SSL_ERROR_WANT_READ:
            rc = wait_for(w, stream->fd, POLLIN, UINT64_MAX, stream->peer, err);
            break;
        case SSL_ERROR_WANT_WRITE:
            rc = wait_for(w, stream->fd, POLLOUT, UINT64_MAX, stream->peer, err);
            break;
        case SSL_ERROR_SSL:
            return tls_error(stream, "handshake", err);
        default:
            return error_set(err, ERROR_UNAVAILABLE, "%s: TLS: the server closed the connection",
                             stream->peer);
        }
        if (rc < 0)
            return error_prefix(err, "TLS handshake");
    }
}

static int tls_connect(struct stream *stream, const struct stream_address *address, struct stream_wait *w,
                       struct error *err)
{
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context)
        return error_set(err, ERROR_MEMORY, "%s: out of memory", stream->peer);
    int rc = tls_context_fill(stream, context, address, err);
    if (rc == 0) {
        stream->ssl = SSL_new(context);
        if (!stream->ssl || !SSL_set_fd(stream->ssl, stream->fd))
            rc = error_set(err, ERROR_MEMORY, "%s: out of memory", stream->peer);
    }
    SSL_CTX_free(context);
    if (rc == 0)
        rc = tls_expect(stream, address, err);
    return rc < 0 ? rc : tls_handshake(stream, w, err);
}

/* ---- bytes ---- */

ssize_t stream_read(struct stream *stream, char *to, size_t len, struct error *err)
{
    ssize_t n;
    if (stream->broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", stream->peer);
    if (!stream->ssl) {
        do
            n = recv(stream->fd, to, len, 0);
        while (n < 0 && errno == EINTR);
        if (n > 0)
            return n;
        if (n == 0)
            return stream_fail(stream, err, ERROR_UNAVAILABLE, "the server closed the connection");
        if (errno == EAGAIN)
            return 0;
        return stream_fail(stream, err, ERROR_UNAVAILABLE, strerror(errno));
    }
    ERR_clear_error();
    stream->read_wants_out = false;
    int most = len > INT_MAX ? INT_MAX : (int)len;
    int there = 0; /* SSL_read gives one record (16 KiB) at a time */
    int got;
    while (there < most && (got = SSL_read(stream->ssl, to + there, most - there)) > 0)
        there += got;
    if (there == most)
        return there;
    int reason = SSL_get_error(stream->ssl, got);
    stream->read_wants_out = reason == SSL_ERROR_WANT_WRITE;
    if (there > 0)
        return there; /* whatever else it was comes up again */
    switch (reason) {
    case SSL_ERROR_WANT_WRITE:
    case SSL_ERROR_WANT_READ:
        return 0;
    case SSL_ERROR_SSL:
        stream->broken = true;
        return tls_error(stream, "read", err);
    default:
        return stream_fail(stream, err, ERROR_UNAVAILABLE, "the server closed the connection");
    }
}

/* Bytes written (> 0), 0 when the socket is full, -1 when the connection is lost. */
static ssize_t write_output(struct stream *stream, const char *data, size_t len, struct error *err)
{
    if (!stream->ssl) {
        ssize_t n;
        do
            n = send(stream->fd, data, len, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n >= 0)
            return n;
        if (errno == EAGAIN)
            return 0;
        return stream_fail(stream, err, ERROR_UNAVAILABLE, strerror(errno));
    }
    ERR_clear_error();
    stream->write_wants_in = false;
    int put = SSL_write(stream->ssl, data, len > INT_MAX ? INT_MAX : (int)len);
    if (put > 0)
        return put;
    switch (SSL_get_error(stream->ssl, put)) {
    case SSL_ERROR_WANT_READ:
        stream->write_wants_in = true;
        return 0;
    case SSL_ERROR_WANT_WRITE:
        return 0;
    case SSL_ERROR_SSL:
        stream->broken = true;
        return tls_error(stream, "write", err);
    default:
        return stream_fail(stream, err, ERROR_UNAVAILABLE, "the server closed the connection");
    }
}

bool stream_pending(const struct stream *stream)
{
    return stream->ssl && SSL_has_pending(stream->ssl);
}

int stream_flush(struct stream *stream, size_t keep_bytes, struct error *err)
{
    if (stream->broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", stream->peer);
    while (stream->sent < stream->out.len) {
        ssize_t n =
            write_output(stream, stream->out.data + stream->sent, stream->out.len - stream->sent, err);
        if (n < 0)
            return -1;
        if (n == 0)
            return 1;
        stream->sent += (size_t)n;
    }
    stream->sent = 0;
    buffer_reset(&stream->out, keep_bytes);
    return 0;
}

short stream_events(const struct stream *stream)
{
    bool out = stream->sent < stream->out.len && !stream->write_wants_in;
    return (short)(POLLIN | (out || stream->read_wants_out ? POLLOUT : 0));
}

int stream_wait(struct stream *stream, struct stream_wait *wait, struct error *err)
{
    return wait_for(wait, stream->fd, stream_events(stream), UINT64_MAX, stream->peer, err);
}

/* ---- life ---- */

void stream_init(struct stream *stream)
{
    *stream = (struct stream){.fd = -1};
}

void stream_attach(struct stream *stream, int fd)
{
    *stream = (struct stream){.fd = fd, .negotiated = true};
    snprintf(stream->peer, sizeof stream->peer, "fd:%d", fd);
}

int stream_connect(struct stream *stream, const struct stream_address *address, struct stream_wait *wait,
                   struct error *err)
{
    snprintf(stream->peer, sizeof stream->peer, strchr(address->host, ':') ? "[%s]:%d" : "%s:%d",
             address->host, address->port);
    if (socket_connect(stream, address, wait, err) < 0)
        return -1;
    return address->tls ? tls_connect(stream, address, wait, err) : 0;
}

void stream_done(struct stream *stream)
{
    if (stream->ssl)
        SSL_free(stream->ssl);
    if (stream->fd >= 0)
        close(stream->fd);
    buffer_done(&stream->out);
    stream_init(stream);
}
