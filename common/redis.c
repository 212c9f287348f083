/* A Redis connection: socket, TLS, output buffer and hiredis' reply reader.
 *
 * Only hiredis' reader is used: its own connection code blocks, and Debian's build knows no TLS. Invariants:
 *   - out.data[sent .. out.len) waits to be written; sent is 0 whenever nothing waits;
 *   - `starved` is true when the reader's input is known to hold no whole reply, so parsing before reading is
 * useless;
 *   - once `broken`, nothing is read or written any more.
 * Thread: one at a time, except lookup_main, which has a thread of its own and shares only a struct lookup.
 */
#include "common/redis.h"

#include <assert.h>
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
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"

#define INPUT_BYTES (128 * 1024)             /* read at most at once */
#define READER_KEEP_BYTES (4u * 1024 * 1024) /* an empty reader buffer above this is given back */
#define OUTPUT_KEEP_BYTES (1024 * 1024)      /* an empty output buffer above this is given back */
#define LINE_MAX_BYTES (64 * 1024)           /* of a reply that is one line */
#define BULK_MAX_BYTES (512ll * 1024 * 1024) /* the server's own default limit (proto-max-bulk-len) */
#define ARRAY_MAX_ELEMENTS (4 * 1024 * 1024) /* of one array reply: 32 MiB of pointers */
#define BEAT_NS CLOCK_S
#define VANISHED_S 30 /* a peer that acknowledges nothing for so long is gone */

struct redis {
    int fd;
    SSL *ssl; /* NULL: plain */
    bool negotiated;
    bool broken;
    bool starved;
    bool custom;         /* replies are built by the caller's functions */
    bool absurd;         /* a reply announced more elements than ARRAY_MAX_ELEMENTS */
    bool read_wants_out; /* TLS: reading goes on when the socket can be written */
    bool write_wants_in; /* TLS: writing goes on when the socket can be read */
    redisReader *reader;
    redisReplyObjectFunctions *functions; /* the caller's or hiredis' own */
    redisReplyObjectFunctions own;        /* hiredis' own */
    redisReplyObjectFunctions guarded;    /* *functions behind guard_array; what the reader calls */
    struct buffer out;
    size_t sent;
    char *input; /* INPUT_BYTES */
    char peer[280];
};

/* What a waiting call waits for besides the socket. */
struct waiter {
    uint64_t deadline;
    uint64_t timeout_ns; /* for the message */
    int cancel_fd;
    void (*heartbeat)(void *data);
    void *heartbeat_data;
    uint64_t last_beat;
};

static struct waiter waiter_for(uint64_t timeout_ns, int cancel_fd, void (*heartbeat)(void *), void *data)
{
    uint64_t now = clock_now_ns();
    return (struct waiter){.deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns,
                           .timeout_ns = timeout_ns,
                           .cancel_fd = cancel_fd,
                           .heartbeat = heartbeat,
                           .heartbeat_data = data,
                           .last_beat = now};
}

/* Waits for events on fd. 0, or -1 with ERROR_UNAVAILABLE: time is up (until gives another end than the
 * waiter's, or UINT64_MAX) or cancelled. */
static int waiter_wait(struct waiter *w, int fd, short events, uint64_t until, const char *peer,
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

static int lookup_resolve(struct lookup *lookup, struct waiter *w, const char *peer, struct error *err)
{
    lookup->result = lookup_run(lookup, AI_NUMERICHOST);
    if (lookup->result == EAI_NONAME) {
        int rc = lookup_start_thread(lookup);
        if (rc)
            return error_set_errno(err, rc, "%s: cannot start a thread for name resolution", peer);
        do {
            if (waiter_wait(w, lookup->event_fd, POLLIN, UINT64_MAX, peer, err) < 0)
                return error_prefix(err, "resolving the host name");
        } while (!atomic_load_explicit(&lookup->done, memory_order_acquire));
    }
    if (lookup->result == EAI_MEMORY)
        return error_set(err, ERROR_MEMORY, "%s: out of memory", peer);
    if (lookup->result)
        return error_set(err, ERROR_UNAVAILABLE, "%s: %s", peer, gai_strerror(lookup->result));
    return 0;
}

static int lookup_new(const struct redis_address *address, const char *peer, struct lookup **ret_lookup,
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

static int socket_connect_one(struct redis *redis, const struct addrinfo *to, struct waiter *w,
                              uint64_t until, struct error *err)
{
    redis->fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (redis->fd < 0)
        return error_set_errno(err, errno, "%s: socket", redis->peer);
    socket_options(redis->fd);
    int problem = 0;
    if (connect(redis->fd, to->ai_addr, to->ai_addrlen) < 0) {
        problem = errno;
        if (problem == EINPROGRESS || problem == EINTR) {
            if (waiter_wait(w, redis->fd, POLLOUT, until, redis->peer, err) < 0)
                return -1;
            socklen_t len = sizeof problem;
            if (getsockopt(redis->fd, SOL_SOCKET, SO_ERROR, &problem, &len) < 0)
                problem = errno;
        }
    }
    if (problem) {
        error_set_errno(err, problem, "%s", redis->peer);
        if (err)
            err->code = ERROR_UNAVAILABLE;
        return -1;
    }
    return 0;
}

/* Tries the addresses in the resolver's order, each with its share of the time that is left. */
static int socket_connect(struct redis *redis, const struct redis_address *address, struct waiter *w,
                          struct error *err)
{
    struct lookup *lookup = NULL;
    if (lookup_new(address, redis->peer, &lookup, err) < 0)
        return -1;
    int rc = lookup_resolve(lookup, w, redis->peer, err);
    if (rc == 0) {
        unsigned left = 0;
        rc = -1;
        for (const struct addrinfo *to = lookup->list; to; to = to->ai_next)
            left++;
        for (const struct addrinfo *to = lookup->list; to && rc < 0; to = to->ai_next, left--) {
            uint64_t now = clock_now_ns();
            uint64_t share = w->deadline > now ? (w->deadline - now) / left : 0;
            if (redis->fd >= 0)
                close(redis->fd);
            rc = socket_connect_one(redis, to, w, now + share, err);
        }
    }
    lookup_unref(lookup);
    return rc;
}

/* ---- TLS ---- */

/* Fills err with OpenSSL's reason. A certificate that is not accepted, by either side, is a refusal; once the
 * connection stands, trouble on it is not. */
static int tls_error(struct redis *redis, const char *what, struct error *err)
{
    unsigned long code = ERR_peek_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    long verify = redis->ssl ? SSL_get_verify_result(redis->ssl) : X509_V_OK;
    bool eof = ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
    if (verify != X509_V_OK)
        reason = X509_verify_cert_error_string(verify);
    error_set(err, redis->negotiated || (eof && verify == X509_V_OK) ? ERROR_UNAVAILABLE : ERROR_REFUSED,
              "%s: TLS: %s: %s", redis->peer, what, reason ? reason : "failed");
    ERR_clear_error();
    return -1;
}

static const char *text_or_null(const char *text)
{
    return text && *text ? text : NULL;
}

static int tls_context_fill(struct redis *redis, SSL_CTX *context, const struct redis_address *address,
                            struct error *err)
{
    const char *ca = text_or_null(address->tls_ca);
    const char *cert = text_or_null(address->tls_cert);
    const char *key = text_or_null(address->tls_key);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (!SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION))
        return tls_error(redis, "TLS 1.2", err);
    if (ca ? !SSL_CTX_load_verify_locations(context, ca, NULL) : !SSL_CTX_set_default_verify_paths(context))
        return tls_error(redis, ca ? ca : "the system's certificates", err);
    if (cert && SSL_CTX_use_certificate_chain_file(context, cert) != 1)
        return tls_error(redis, cert, err);
    if (cert && SSL_CTX_use_PrivateKey_file(context, key ? key : cert, SSL_FILETYPE_PEM) != 1)
        return tls_error(redis, key ? key : cert, err);
    return 0;
}

/* The name (or address) that the certificate must carry, and SNI (RFC 6066 section 3: names only). */
static int tls_expect(struct redis *redis, const char *host, struct error *err)
{
    unsigned char binary[sizeof(struct in6_addr)];
    bool numeric = inet_pton(AF_INET, host, binary) == 1 || inet_pton(AF_INET6, host, binary) == 1;
    if (numeric ? !X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(redis->ssl), host)
                : !SSL_set1_host(redis->ssl, host) || !SSL_set_tlsext_host_name(redis->ssl, host))
        return tls_error(redis, "host name", err);
    return 0;
}

static int tls_handshake(struct redis *redis, struct waiter *w, struct error *err)
{
    for (;;) {
        ERR_clear_error();
        int rc = SSL_connect(redis->ssl);
        if (rc == 1)
            return 0;
        switch (SSL_get_error(redis->ssl, rc)) {
        case SSL_ERROR_WANT_READ:
            rc = waiter_wait(w, redis->fd, POLLIN, UINT64_MAX, redis->peer, err);
            break;
        case SSL_ERROR_WANT_WRITE:
            rc = waiter_wait(w, redis->fd, POLLOUT, UINT64_MAX, redis->peer, err);
            break;
        case SSL_ERROR_SSL:
            return tls_error(redis, "handshake", err);
        default:
            return error_set(err, ERROR_UNAVAILABLE, "%s: TLS: the server closed the connection",
                             redis->peer);
        }
        if (rc < 0)
            return error_prefix(err, "TLS handshake");
    }
}

static int tls_connect(struct redis *redis, const struct redis_address *address, struct waiter *w,
                       struct error *err)
{
    ERR_clear_error();
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context)
        return error_set(err, ERROR_MEMORY, "%s: out of memory", redis->peer);
    int rc = tls_context_fill(redis, context, address, err);
    if (rc == 0) {
        redis->ssl = SSL_new(context);
        if (!redis->ssl || !SSL_set_fd(redis->ssl, redis->fd))
            rc = error_set(err, ERROR_MEMORY, "%s: out of memory", redis->peer);
    }
    SSL_CTX_free(context);
    if (rc == 0)
        rc = tls_expect(redis, address->host, err);
    return rc < 0 ? rc : tls_handshake(redis, w, err);
}

/* ---- reply reader ---- */

/* hiredis 0.14 believes any element count up to 2^31 and lets it be allocated (16 GiB; and see
 * CVE-2021-32765, the same in later versions). The task at the bottom of the stack is the reader's first, the
 * reader's table is ours. */
static void *guard_array(const redisReadTask *task, int elements)
{
    const redisReadTask *root = task;
    while (root->parent)
        root = root->parent;
    const redisReader *reader = (const redisReader *)((const char *)root - offsetof(redisReader, rstack));
    struct redis *redis = (struct redis *)((char *)reader->fn - offsetof(struct redis, guarded));
    if (elements > ARRAY_MAX_ELEMENTS) {
        redis->absurd = true;
        return NULL;
    }
    return redis->functions->createArray(task, elements);
}

static int reader_new(struct redis *redis)
{
    redis->reader = redisReaderCreate();
    if (!redis->reader)
        return -1;
    redis->own = *redis->reader->fn;
    redis->functions = &redis->own;
    redis->guarded = redis->own;
    redis->guarded.createArray = guard_array;
    redis->reader->fn = &redis->guarded;
    redis->reader->maxbuf = 0;
    return 0;
}

int redis_set_reader(struct redis *redis, redisReplyObjectFunctions *functions, void *privdata,
                     struct error *err)
{
    assert(redis->reader->ridx < 0 && "a reply is half read");
    if (redis->broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->peer);
    redis->custom = functions != NULL;
    redis->functions = functions ? functions : &redis->own;
    redis->guarded = *redis->functions;
    if (!functions) /* hiredis allocates by the count announced; a caller's own functions see to that
                       themselves */
        redis->guarded.createArray = guard_array;
    redis->reader->privdata = privdata;
    return 0;
}

static int fail(struct redis *redis, struct error *err, enum error_code code, const char *what)
{
    redis->broken = true;
    return error_set(err, code, "%s: %s", redis->peer, what);
}

/* The reader has no whole reply: bounds what it may have to keep until it has. */
static int reader_check_pending(struct redis *redis, struct error *err)
{
    const redisReader *reader = redis->reader;
    size_t pending = reader->len - reader->pos;
    if (pending == 0 || reader->ridx < 0)
        return 0;
    if (reader->rstack[reader->ridx].type != REDIS_REPLY_STRING)
        return pending <= LINE_MAX_BYTES ? 0
                                         : fail(redis, err, ERROR_UNAVAILABLE, "a reply line is too long");
    const char *length = reader->buf + reader->pos;
    if (!memchr(length, '\r', pending < 24 ? pending : 24))
        return pending < 24 ? 0 : fail(redis, err, ERROR_UNAVAILABLE, "bad length of a reply");
    if (strtoll(length, NULL, 10) > BULK_MAX_BYTES)
        return fail(redis, err, ERROR_UNAVAILABLE, "a reply is longer than 512 MiB");
    return 0;
}

/* 0 with a reply, 1 none yet, -1. */
static int reader_next(struct redis *redis, void **ret_reply, struct error *err)
{
    redisReader *reader = redis->reader;
    void *reply = NULL;
    if (redisReaderGetReply(reader, &reply) != REDIS_OK) {
        if (redis->absurd)
            return fail(redis, err, ERROR_UNAVAILABLE, "a reply announces too many elements");
        if (reader->err == REDIS_ERR_OOM)
            return fail(redis, err, ERROR_MEMORY, "out of memory for a reply");
        redis->broken = true;
        return error_set(err, ERROR_UNAVAILABLE, "%s: not a Redis reply: %s", redis->peer, reader->errstr);
    }
    if (!reply) {
        redis->starved = true;
        if (reader_check_pending(redis, err) < 0)
            return -1;
        return 1;
    }
    if (reader->len == 0 && sdsavail(reader->buf) > READER_KEEP_BYTES) {
        sds empty = sdsempty();
        if (empty) {
            sdsfree(reader->buf);
            reader->buf = empty;
            reader->pos = 0;
        }
    }
    *ret_reply = reply;
    return 0;
}

/* ---- bytes ---- */

/* Bytes read into redis->input (> 0), 0 when there are none now, -1 when the connection is lost. */
static ssize_t read_input(struct redis *redis, struct error *err)
{
    ssize_t n;
    if (!redis->ssl) {
        do
            n = recv(redis->fd, redis->input, INPUT_BYTES, 0);
        while (n < 0 && errno == EINTR);
        if (n > 0)
            return n;
        if (n == 0)
            return fail(redis, err, ERROR_UNAVAILABLE, "the server closed the connection");
        if (errno == EAGAIN)
            return 0;
        return fail(redis, err, ERROR_UNAVAILABLE, strerror(errno));
    }
    ERR_clear_error();
    redis->read_wants_out = false;
    int len = 0; /* SSL_read gives one record (16 KiB) at a time */
    int got;
    while (len < INPUT_BYTES && (got = SSL_read(redis->ssl, redis->input + len, INPUT_BYTES - len)) > 0)
        len += got;
    if (len == INPUT_BYTES)
        return len;
    int reason = SSL_get_error(redis->ssl, got);
    redis->read_wants_out = reason == SSL_ERROR_WANT_WRITE;
    if (len > 0)
        return len; /* whatever else it was comes up again */
    switch (reason) {
    case SSL_ERROR_WANT_WRITE:
    case SSL_ERROR_WANT_READ:
        return 0;
    case SSL_ERROR_SSL:
        redis->broken = true;
        return tls_error(redis, "read", err);
    default:
        return fail(redis, err, ERROR_UNAVAILABLE, "the server closed the connection");
    }
}

/* Bytes written (> 0), 0 when the socket is full, -1 when the connection is lost. */
static ssize_t write_output(struct redis *redis, const char *data, size_t len, struct error *err)
{
    if (!redis->ssl) {
        ssize_t n;
        do
            n = send(redis->fd, data, len, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n >= 0)
            return n;
        if (errno == EAGAIN)
            return 0;
        return fail(redis, err, ERROR_UNAVAILABLE, strerror(errno));
    }
    ERR_clear_error();
    redis->write_wants_in = false;
    int put = SSL_write(redis->ssl, data, len > INT_MAX ? INT_MAX : (int)len);
    if (put > 0)
        return put;
    switch (SSL_get_error(redis->ssl, put)) {
    case SSL_ERROR_WANT_READ:
        redis->write_wants_in = true;
        return 0;
    case SSL_ERROR_WANT_WRITE:
        return 0;
    case SSL_ERROR_SSL:
        redis->broken = true;
        return tls_error(redis, "write", err);
    default:
        return fail(redis, err, ERROR_UNAVAILABLE, "the server closed the connection");
    }
}

static char *put_header(char *to, char kind, size_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    *to++ = kind;
    memcpy(to, digits + at, sizeof digits - at);
    to += sizeof digits - at;
    *to++ = '\r';
    *to++ = '\n';
    return to;
}

int redis_send(struct redis *redis, int argc, const char *const *argv, const size_t *lengths,
               struct error *err)
{
    const size_t overhead = 1 + 20 + 2 + 2; /* "$<digits>\r\n" and the end of the argument */
    assert(argc > 0);
    if (redis->broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->peer);
    size_t need = overhead * ((size_t)argc + 1);
    for (int i = 0; i < argc; i++)
        need += lengths ? lengths[i] : strlen(argv[i]);
    char *to = buffer_reserve(&redis->out, need);
    if (!to) {
        redis->out.failed = false; /* what is in it already is whole */
        return error_set(err, ERROR_MEMORY, "%s: no memory for a command of %zu bytes", redis->peer, need);
    }
    to = put_header(to, '*', (size_t)argc);
    for (int i = 0; i < argc; i++) {
        size_t len = lengths ? lengths[i] : strlen(argv[i]);
        to = put_header(to, '$', len);
        if (len)
            memcpy(to, argv[i], len);
        to += len;
        *to++ = '\r';
        *to++ = '\n';
    }
    redis->out.len = (size_t)(to - redis->out.data);
    return 0;
}

int redis_flush(struct redis *redis, struct error *err)
{
    if (redis->broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->peer);
    while (redis->sent < redis->out.len) {
        ssize_t n = write_output(redis, redis->out.data + redis->sent, redis->out.len - redis->sent, err);
        if (n < 0)
            return -1;
        if (n == 0)
            return 1;
        redis->sent += (size_t)n;
    }
    redis->sent = 0;
    buffer_reset(&redis->out, OUTPUT_KEEP_BYTES);
    return 0;
}

int redis_read_ahead(struct redis *redis, const char **ret_text, size_t *ret_len, struct error *err)
{
    if (redis->broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->peer);
    assert(redis->reader->ridx < 0 && "a reply is half read");
    ssize_t n = read_input(redis, err);
    if (n < 0)
        return -1;
    if (n > 0 && redisReaderFeed(redis->reader, redis->input, (size_t)n) != REDIS_OK)
        return fail(redis, err, ERROR_MEMORY, "out of memory for a reply");
    if (n > 0)
        redis->starved = false;
    *ret_text = redis->reader->buf + redis->reader->pos;
    *ret_len = redis->reader->len - redis->reader->pos;
    return n == 0;
}

int redis_receive(struct redis *redis, void **ret_reply, struct error *err)
{
    if (redis->broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->peer);
    if (!redis->starved) {
        int rc = reader_next(redis, ret_reply, err);
        if (rc <= 0)
            return rc;
    }
    for (;;) {
        ssize_t n = read_input(redis, err);
        if (n <= 0)
            return n < 0 ? -1 : 1;
        if (redisReaderFeed(redis->reader, redis->input, (size_t)n) != REDIS_OK)
            return fail(redis, err, ERROR_MEMORY, "out of memory for a reply");
        redis->starved = false;
        int rc = reader_next(redis, ret_reply, err);
        /* Bytes that OpenSSL holds already would wake no poll. */
        if (rc <= 0 || !redis->ssl || !SSL_has_pending(redis->ssl))
            return rc;
    }
}

short redis_events(const struct redis *redis)
{
    bool out = redis->sent < redis->out.len && !redis->write_wants_in;
    return (short)(POLLIN | (out || redis->read_wants_out ? POLLOUT : 0));
}

/* ---- errors ---- */

/* Whether the text's first word is one of the words. */
static bool first_word_in(const char *text, size_t len, const char *const *words, size_t n_words)
{
    for (size_t i = 0; i < n_words; i++) {
        size_t n = strlen(words[i]);
        if (len >= n && memcmp(text, words[i], n) == 0 && (len == n || text[n] == ' '))
            return true;
    }
    return false;
}

int redis_reply_error(const char *text, size_t len, struct error *err)
{
    static const char *const temporary[] = {
        "READONLY",
        "OOM",
        "LOADING",
        "MISCONF",
        "BUSY",
        "MASTERDOWN",
        "TRYAGAIN",
        "NOREPLICAS",
        "UNBLOCKED",
        "CLUSTERDOWN",
        "ERR max number of clients reached",
    };
    const char *word = text;
    size_t word_len = len;
    /* Before Redis 7 an error within a script is wrapped: "ERR Error running script (...): @user_script:1:
     * -OOM ..." */
    static const char wrapped[] = "ERR Error running script";
    if (len > sizeof wrapped && memcmp(text, wrapped, sizeof wrapped - 1) == 0) {
        const char *inner = memmem(text, len, ": -", 3);
        if (inner) {
            word = inner + 3;
            word_len = len - (size_t)(word - text);
        }
    }
    bool retry = first_word_in(word, word_len, temporary, sizeof temporary / sizeof temporary[0]);
    return error_set(err, retry ? ERROR_UNAVAILABLE : ERROR_REFUSED, "%.*s", len > 200 ? 200 : (int)len,
                     text);
}

/* ---- call and wait ---- */

/* Writing has failed. A server that closes says why before (-ERR max number of clients reached, -DENIED, a
 * TLS alert), and that can still be read. 0 with its error reply, or -1 with err, as it is or better. */
static int last_words(struct redis *redis, redisReply **ret_reply, struct error *err)
{
    struct error own = {.code = ERROR_NONE};
    void *reply = NULL;
    redis->broken = false;
    int rc = redis_receive(redis, &reply, &own);
    redis->broken = true;
    if (rc == 0 && ((redisReply *)reply)->type == REDIS_REPLY_ERROR) {
        *ret_reply = reply;
        return 0;
    }
    if (rc == 0)
        freeReplyObject(reply);
    if (own.code == ERROR_REFUSED && err)
        *err = own;
    return -1;
}

/* Sends one command and waits for its reply, which may be an error reply. */
static int exchange(struct redis *redis, struct waiter *w, int argc, const char *const *argv,
                    const size_t *lengths, redisReply **ret_reply, struct error *err)
{
    assert(!redis->custom);
    if (redis_send(redis, argc, argv, lengths, err) < 0)
        return -1;
    for (;;) {
        void *reply = NULL;
        int rc = redis->sent < redis->out.len ? redis_flush(redis, err) : 0;
        if (rc < 0)
            return last_words(redis, ret_reply, err);
        rc = redis_receive(redis, &reply, err);
        if (rc == 0)
            *ret_reply = reply;
        if (rc <= 0)
            return rc;
        if (waiter_wait(w, redis->fd, redis_events(redis), UINT64_MAX, redis->peer, err) < 0) {
            redis->broken = true;
            return -1;
        }
    }
}

static int reply_check(redisReply *reply, struct error *err)
{
    if (reply->type != REDIS_REPLY_ERROR)
        return 0;
    return redis_reply_error(reply->str, reply->len, err);
}

int redis_call(struct redis *redis, uint64_t timeout_ns, void (*heartbeat)(void *), void *heartbeat_data,
               int argc, const char *const *argv, const size_t *lengths, redisReply **ret_reply,
               struct error *err)
{
    struct waiter w = waiter_for(timeout_ns, -1, heartbeat, heartbeat_data);
    redisReply *reply = NULL;
    if (exchange(redis, &w, argc, argv, lengths, &reply, err) < 0)
        return -1;
    if (reply_check(reply, err) < 0) {
        freeReplyObject(reply);
        return -1;
    }
    *ret_reply = reply;
    return 0;
}

/* ---- connecting ---- */

/* One command of the greeting. 0 when answered, 1 with err filled when the answer is an error, -1. */
static int greet(struct redis *redis, struct waiter *w, int argc, const char *const *argv, struct error *err)
{
    redisReply *reply = NULL;
    if (exchange(redis, w, argc, argv, NULL, &reply, err) < 0)
        return -1;
    int rc = reply_check(reply, err) < 0 ? 1 : 0;
    freeReplyObject(reply);
    return rc;
}

static int authenticate(struct redis *redis, const struct redis_address *address, struct waiter *w,
                        struct error *err)
{
    const char *username = text_or_null(address->username);
    const char *password = text_or_null(address->password);
    struct error refusal = {.code = ERROR_NONE};
    if (!password)
        return 0;
    int rc = username ? greet(redis, w, 3, (const char *[]){"AUTH", username, password}, &refusal)
                      : greet(redis, w, 2, (const char *[]){"AUTH", password}, &refusal);
    if (rc == 0)
        return 0;
    /* The text None is how the original's client stores that there is no password. A server without one says
     * "called without any password configured" (Redis 6 and later) or "no password is set". */
    if (rc > 0 && (strcmp(password, "None") == 0 ||
                   (!username && (strstr(refusal.message, "without any password configured") ||
                                  strstr(refusal.message, "no password is set")))))
        return 0;
    if (err)
        *err = refusal;
    return rc < 0 ? -1 : error_prefix(err, "%s", redis->peer);
}

static int greeting(struct redis *redis, const struct redis_address *address, const char *name,
                    struct waiter *w, struct error *err)
{
    struct error ignored;
    if (authenticate(redis, address, w, err) < 0)
        return -1;
    if (name && greet(redis, w, 3, (const char *[]){"CLIENT", "SETNAME", name}, &ignored) < 0) {
        if (err)
            *err = ignored;
        return -1;
    }
    int rc = 0;
    if (address->db) {
        char number[16];
        snprintf(number, sizeof number, "%d", address->db);
        rc = greet(redis, w, 2, (const char *[]){"SELECT", number}, err);
    }
    /* Tells a server that is still loading, or wants a password, from one that can serve. */
    if (rc == 0) {
        rc = greet(redis, w, 1, (const char *[]){"PING"}, &ignored);
        if (rc > 0 && strncmp(ignored.message, "NOPERM", 6) == 0)
            rc = 0;
        if (rc != 0 && err)
            *err = ignored;
    }
    return rc > 0 ? error_prefix(err, "%s", redis->peer) : rc;
}

static int redis_new(struct redis **ret_redis, struct error *err)
{
    struct redis *redis = calloc(1, sizeof *redis);
    if (redis)
        redis->fd = -1;
    if (!redis || reader_new(redis) < 0 || !(redis->input = malloc(INPUT_BYTES))) {
        redis_free(redis);
        return error_set(err, ERROR_MEMORY, "out of memory for a connection");
    }
    redis->starved = true;
    *ret_redis = redis;
    return 0;
}

int redis_connect(const struct redis_address *address, const char *name, uint64_t timeout_ns, int cancel_fd,
                  struct redis **ret_redis, struct error *err)
{
    struct waiter w = waiter_for(timeout_ns, cancel_fd, NULL, NULL);
    struct redis *redis = NULL;
    if (redis_new(&redis, err) < 0)
        return -1;
    snprintf(redis->peer, sizeof redis->peer, strchr(address->host, ':') ? "[%s]:%d" : "%s:%d", address->host,
             address->port);
    if (socket_connect(redis, address, &w, err) < 0)
        goto fail;
    if (address->tls && tls_connect(redis, address, &w, err) < 0)
        goto fail;
    if (greeting(redis, address, text_or_null(name), &w, err) < 0)
        goto fail;
    redis->negotiated = true;
    *ret_redis = redis;
    return 0;
fail:
    redis_free(redis);
    return -1;
}

int redis_attach(int fd, struct redis **ret_redis, struct error *err)
{
    struct redis *redis = NULL;
    if (redis_new(&redis, err) < 0) {
        close(fd);
        return -1;
    }
    redis->fd = fd;
    redis->negotiated = true;
    snprintf(redis->peer, sizeof redis->peer, "fd:%d", fd);
    *ret_redis = redis;
    return 0;
}

void redis_free(struct redis *redis)
{
    if (!redis)
        return;
    if (redis->ssl)
        SSL_free(redis->ssl);
    if (redis->fd >= 0)
        close(redis->fd);
    if (redis->reader)
        redisReaderFree(redis->reader);
    buffer_done(&redis->out);
    free(redis->input);
    free(redis);
}

int redis_fd(const struct redis *redis)
{
    return redis->fd;
}

const char *redis_peer(const struct redis *redis)
{
    return redis->peer;
}

bool redis_broken(const struct redis *redis)
{
    return redis->broken;
}
