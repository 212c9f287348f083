/* A private redis-server for tests, on a free loopback port in a temporary folder. It dies with the test.
 * Thread: one at a time; start it from the test's main thread. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <hiredis/hiredis.h>

struct redis_server {
    pid_t pid; /* 0: not running */
    int port;
    bool tls;
    char dir[64];         /* files that arguments name may be put here between init and start */
    char *args[40];       /* NULL-terminated, owned */
    redisContext *client; /* of redis_server_do */
};

/* Whether the tests can have one; else they say "skipped: no redis-server". */
bool redis_server_available(void);

/* Makes the folder. 0, or -1 with the reason on standard error (as all of these). */
int redis_server_init(struct redis_server *server);

/* Starts it with further arguments (NULL-terminated, NULL: none; they come last, so they win) and waits until
 * it answers. tls: the port speaks TLS, the arguments name the certificates. */
int redis_server_start(struct redis_server *server, bool tls, const char *const *arguments);

/* init and start, plain. */
int redis_server_run(struct redis_server *server, const char *const *arguments);

void redis_server_stop(struct redis_server *server); /* SIGTERM, and waits; the folder stays */
void redis_server_kill(struct redis_server *server); /* SIGKILL, and waits */
int redis_server_restart(
    struct redis_server *server); /* stops if it runs; the same port, folder and arguments */
void redis_server_done(
    struct redis_server *server); /* stops, removes the folder; also after a failed start */

/* One command as the default user, formatted as redisCommand does; opens its own plain connection (again when
 * it was lost). NULL with the reason on standard error; error replies are replies. Freed with
 * freeReplyObject. */
redisReply *redis_server_do(struct redis_server *server, const char *format, ...);

/* Writes cert.pem and key.pem (self-signed, for the name localhost only) into the folder with the openssl
 * program. 0, or -1 when that is absent or fails. */
int redis_server_certificate(const struct redis_server *server);

/* Something that is no Redis server: answers whatever it receives with the same bytes, in a thread of its
 * own. */
struct redis_fake {
    int port;
    int listener;
    pthread_t thread;
    const char *answer; /* borrowed; NULL: never answers */
    size_t len;
    bool close_after; /* closes each connection after its first answer */
    atomic_bool stop; /* stored by the test, read by the thread; both sequentially consistent */
};

int redis_fake_start(struct redis_fake *fake, const char *answer, size_t len, bool close_after);
void redis_fake_stop(struct redis_fake *fake);

/* Passes bytes between one client at a time and a server, in a thread of its own, and can lose answers. */
struct redis_proxy {
    int port;
    int listener;
    int upstream_port;
    pthread_t thread;
    atomic_bool cut; /* closes both sides instead of passing on the server's next answer, once */
    atomic_bool stop;
};

int redis_proxy_start(struct redis_proxy *proxy, int upstream_port);
void redis_proxy_stop(struct redis_proxy *proxy);
