/* A Redis connection: a stream and hiredis' reply reader.
 *
 * Only hiredis' reader is used: its own connection code blocks, and Debian's build knows no TLS. Invariants:
 *   - `starved` is true when the reader's input is known to hold no whole reply, so parsing before reading is
 * useless.
 * Thread: one at a time. */
#include "common/redis.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/stream.h"

#define INPUT_BYTES (128 * 1024)             /* read at most at once */
#define READER_KEEP_BYTES (4u * 1024 * 1024) /* an empty reader buffer above this is given back */
#define OUTPUT_KEEP_BYTES (1024 * 1024)      /* an empty output buffer above this is given back */
#define LINE_MAX_BYTES (64 * 1024)           /* of a reply that is one line */
#define BULK_MAX_BYTES (512ll * 1024 * 1024) /* the server's own default limit (proto-max-bulk-len) */
#define ARRAY_MAX_ELEMENTS (4 * 1024 * 1024) /* of one array reply: 32 MiB of pointers */

struct redis {
    struct stream stream;
    bool starved;
    bool custom; /* replies are built by the caller's functions */
    bool absurd; /* a reply announced more elements than ARRAY_MAX_ELEMENTS */
    redisReader *reader;
    redisReplyObjectFunctions *functions; /* the caller's or hiredis' own */
    redisReplyObjectFunctions own;        /* hiredis' own */
    redisReplyObjectFunctions guarded;    /* *functions behind guard_array; what the reader calls */
    char *input;                          /* INPUT_BYTES */
};

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
    if (redis->stream.broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->stream.peer);
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
    stream_fail(&redis->stream, err, code, what);
    return -1;
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
        redis->stream.broken = true;
        return error_set(err, ERROR_UNAVAILABLE, "%s: not a Redis reply: %s", redis->stream.peer,
                         reader->errstr);
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
    if (redis->stream.broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->stream.peer);
    size_t need = overhead * ((size_t)argc + 1);
    for (int i = 0; i < argc; i++)
        need += lengths ? lengths[i] : strlen(argv[i]);
    char *to = buffer_reserve(&redis->stream.out, need);
    if (!to) {
        redis->stream.out.failed = false; /* what is in it already is whole */
        return error_set(err, ERROR_MEMORY, "%s: no memory for a command of %zu bytes", redis->stream.peer,
                         need);
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
    redis->stream.out.len = (size_t)(to - redis->stream.out.data);
    return 0;
}

int redis_flush(struct redis *redis, struct error *err)
{
    return stream_flush(&redis->stream, OUTPUT_KEEP_BYTES, err);
}

int redis_read_ahead(struct redis *redis, const char **ret_text, size_t *ret_len, struct error *err)
{
    if (redis->stream.broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->stream.peer);
    assert(redis->reader->ridx < 0 && "a reply is half read");
    ssize_t n = stream_read(&redis->stream, redis->input, INPUT_BYTES, err);
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
    if (redis->stream.broken)
        return error_set(err, ERROR_UNAVAILABLE, "%s: the connection is broken", redis->stream.peer);
    if (!redis->starved) {
        int rc = reader_next(redis, ret_reply, err);
        if (rc <= 0)
            return rc;
    }
    for (;;) {
        ssize_t n = stream_read(&redis->stream, redis->input, INPUT_BYTES, err);
        if (n <= 0)
            return n < 0 ? -1 : 1;
        if (redisReaderFeed(redis->reader, redis->input, (size_t)n) != REDIS_OK)
            return fail(redis, err, ERROR_MEMORY, "out of memory for a reply");
        redis->starved = false;
        int rc = reader_next(redis, ret_reply, err);
        /* Bytes that OpenSSL holds already would wake no poll. */
        if (rc <= 0 || !stream_pending(&redis->stream))
            return rc;
    }
}

short redis_events(const struct redis *redis)
{
    return stream_events(&redis->stream);
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
    redis->stream.broken = false;
    int rc = redis_receive(redis, &reply, &own);
    redis->stream.broken = true;
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
static int exchange(struct redis *redis, struct stream_wait *w, int argc, const char *const *argv,
                    const size_t *lengths, redisReply **ret_reply, struct error *err)
{
    assert(!redis->custom);
    if (redis_send(redis, argc, argv, lengths, err) < 0)
        return -1;
    for (;;) {
        void *reply = NULL;
        int rc = redis->stream.sent < redis->stream.out.len ? redis_flush(redis, err) : 0;
        if (rc < 0)
            return last_words(redis, ret_reply, err);
        rc = redis_receive(redis, &reply, err);
        if (rc == 0)
            *ret_reply = reply;
        if (rc <= 0)
            return rc;
        if (stream_wait(&redis->stream, w, err) < 0) {
            redis->stream.broken = true;
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
    struct stream_wait w = stream_wait_for(timeout_ns, -1, heartbeat, heartbeat_data);
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
static int greet(struct redis *redis, struct stream_wait *w, int argc, const char *const *argv,
                 struct error *err)
{
    redisReply *reply = NULL;
    if (exchange(redis, w, argc, argv, NULL, &reply, err) < 0)
        return -1;
    int rc = reply_check(reply, err) < 0 ? 1 : 0;
    freeReplyObject(reply);
    return rc;
}

static const char *text_or_null(const char *text)
{
    return text && *text ? text : NULL;
}

static int authenticate(struct redis *redis, const struct redis_address *address, struct stream_wait *w,
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
    return rc < 0 ? -1 : error_prefix(err, "%s", redis->stream.peer);
}

static int greeting(struct redis *redis, const struct redis_address *address, const char *name,
                    struct stream_wait *w, struct error *err)
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
    return rc > 0 ? error_prefix(err, "%s", redis->stream.peer) : rc;
}

static int redis_new(struct redis **ret_redis, struct error *err)
{
    struct redis *redis = calloc(1, sizeof *redis);
    if (redis)
        stream_init(&redis->stream);
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
    struct stream_wait w = stream_wait_for(timeout_ns, cancel_fd, NULL, NULL);
    struct redis *redis = NULL;
    if (redis_new(&redis, err) < 0)
        return -1;
    const struct stream_address to = {.host = address->host,
                                      .port = address->port,
                                      .tls = address->tls,
                                      .tls_ca = address->tls_ca,
                                      .tls_cert = address->tls_cert,
                                      .tls_key = address->tls_key};
    if (stream_connect(&redis->stream, &to, &w, err) < 0)
        goto fail;
    if (greeting(redis, address, text_or_null(name), &w, err) < 0)
        goto fail;
    redis->stream.negotiated = true;
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
    stream_attach(&redis->stream, fd);
    *ret_redis = redis;
    return 0;
}

void redis_free(struct redis *redis)
{
    if (!redis)
        return;
    stream_done(&redis->stream);
    if (redis->reader)
        redisReaderFree(redis->reader);
    free(redis->input);
    free(redis);
}

int redis_fd(const struct redis *redis)
{
    return redis->stream.fd;
}

const char *redis_peer(const struct redis *redis)
{
    return redis->stream.peer;
}

bool redis_broken(const struct redis *redis)
{
    return redis->stream.broken;
}
