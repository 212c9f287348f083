/* A connection to a Redis server: plain TCP or TLS (OpenSSL), non-blocking underneath, RESP2 parsed by
 * hiredis' reader. Either call-and-wait with deadlines (redis_call), or driven from outside (fd, redis_send,
 * redis_flush, redis_receive) with the caller's own reader functions, so that nothing is allocated per reply.
 * Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <hiredis/hiredis.h>

struct buffer;
struct error;
struct redis;

/* Where and how to connect; all text borrowed for the length of the call. */
struct redis_address {
    const char *host;
    int port;
    int db;               /* 0: no SELECT */
    const char *username; /* NULL or "": none (AUTH password) */
    const char *password; /* NULL or "": none */
    bool tls;
    const char *tls_ca; /* file; NULL or "": the system's. The host name is verified */
    const char *tls_cert;
    const char *tls_key;
};

/* Connects, negotiates TLS, AUTH, SELECT, CLIENT SETNAME name (best effort); waits at most timeout_ns for all
 * of it. A password that is the text None, or one that a server without password refuses, counts as none. TCP
 * keepalive is on, so that a vanished peer is noticed (within 30 s) without traffic of ours. cancel_fd (or
 * -1): becoming readable ends the wait. With TLS the process must ignore SIGPIPE. Errors: ERROR_UNAVAILABLE
 * (absent, still loading, timed out, cancelled), ERROR_REFUSED (password, certificate, database),
 * ERROR_INVALID (no such host or port can be), ERROR_SYSTEM, ERROR_MEMORY. Messages name host:port, never the
 * password. */
int redis_connect(const struct redis_address *address, const char *name, uint64_t timeout_ns, int cancel_fd,
                  struct redis **ret_redis, struct error *err);
void redis_free(struct redis *redis); /* closes; NULL is fine */

int redis_fd(const struct redis *redis);
const char *redis_peer(const struct redis *redis); /* "host:port" */

/* Uses the caller's functions to build replies (hiredis: redisReplyObjectFunctions) in place of redisReply
 * objects; privdata reaches them as task->privdata. NULL: back to redisReply. No reply may be half read. */
int redis_set_reader(struct redis *redis, redisReplyObjectFunctions *functions, void *privdata,
                     struct error *err);

/* Appends a command to the output (argument lengths in bytes), sending nothing yet. lengths NULL: strings. */
int redis_send(struct redis *redis, int argc, const char *const *argv, const size_t *lengths,
               struct error *err);
/* Writes what it can. Returns 0 when all is written, 1 when the socket is full (poll for POLLOUT), -1 on
 * failure. */
int redis_flush(struct redis *redis, struct error *err);
/* Reads what is there, at most once (up to 128 KiB), and parses at most one reply. Returns 0 with *ret_reply
 * (with the caller's functions: whatever they built), 1 when no whole reply is there yet (poll for
 * redis_events), -1 when the connection is lost or the reply is not RESP: then it must be freed. An error
 * reply is a reply. Call until it returns 1 before polling: replies that are buffered already make no
 * descriptor readable. */
int redis_receive(struct redis *redis, void **ret_reply, struct error *err);
/* Reads what is there, at most once, without parsing it, so that a caller who knows what a reply looks like
 * can see its end before it is parsed. *ret_text: the bytes that wait, from the beginning of the next reply;
 * valid until the next call. Only while no reply is half parsed by redis_receive. Returns 0 when something
 * was read, 1 when nothing is there (poll), -1 when the connection is lost. */
int redis_read_ahead(struct redis *redis, const char **ret_text, size_t *ret_len, struct error *err);
/* Poll events to wait for now: POLLIN, and POLLOUT while output waits (or TLS wants it). */
short redis_events(const struct redis *redis);

/* Sends one command and waits for its reply, at most timeout_ns. An error reply becomes an error: -NOAUTH,
 * -WRONGPASS, -NOPERM, -WRONGTYPE and the like ERROR_REFUSED; -READONLY, -OOM, -LOADING, -MISCONF, -BUSY,
 * -MASTERDOWN, -TRYAGAIN ERROR_UNAVAILABLE, both with the server's text. Any failure without a reply is
 * ERROR_UNAVAILABLE and leaves the connection unusable (redis_broken). The reply is freed with
 * freeReplyObject. heartbeat (may be NULL) is called about once a second while waiting. */
int redis_call(struct redis *redis, uint64_t timeout_ns, void (*heartbeat)(void *), void *heartbeat_data,
               int argc, const char *const *argv, const size_t *lengths, redisReply **ret_reply,
               struct error *err);
bool redis_broken(const struct redis *redis);

/* Fills err from the text of a Redis error reply, as described at redis_call. Returns -1. */
int redis_reply_error(const char *text, size_t len, struct error *err);

/* For tests: a connection over an open non-blocking stream socket, nothing negotiated. Takes fd, also on
 * failure. */
int redis_attach(int fd, struct redis **ret_redis, struct error *err);
