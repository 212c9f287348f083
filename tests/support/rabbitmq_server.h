/* A private RabbitMQ broker for tests, on free loopback ports in a temporary folder, and what tests do with
 * queues. It dies with the test. All but _available and _messages: 0, or -1 with the reason on standard
 * error. Thread: one at a time; start it from the test's main thread.
 *
 * User guest, password guest, from everywhere; virtual hosts / and "a/b c". The TLS port wants no client
 * certificate; its own is ca.pem in the folder, for 127.0.0.1. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <amqp.h>
#include <amqp_framing.h>

#define RABBITMQ_OTHER_VHOST "a/b c"

struct rabbitmq_server {
    pid_t pid; /* of the broker; 0: not running */
    pid_t epmd;
    int port;
    int tls_port;
    int dist_port;
    int epmd_port;
    int count_port; /* where the broker tells how many messages a queue has */
    char dir[64];
    char vhost[32];                /* what the following are about; "/" at the beginning */
    amqp_connection_state_t admin; /* made when needed */
    int counter;                   /* socket; -1: none */
    uint64_t published;            /* on the connection */
};

/* Whether the tests can have one; else *ret_why says why not. */
bool rabbitmq_server_available(const char **ret_why);

int rabbitmq_server_run(struct rabbitmq_server *server);
void rabbitmq_server_kill(struct rabbitmq_server *server); /* SIGKILL, and waits; the folder stays */
int rabbitmq_server_start(struct rabbitmq_server *server); /* again: the same ports and folder */
void rabbitmq_server_freeze(struct rabbitmq_server *server, bool frozen); /* SIGSTOP, SIGCONT */
void rabbitmq_server_done(struct rabbitmq_server *server);                /* also after a failed start */

/* Says so, and leaves the test's connection. */
void rabbitmq_server_disconnect(struct rabbitmq_server *server);

enum rabbitmq_queue { RABBITMQ_TRANSIENT, RABBITMQ_DURABLE, RABBITMQ_QUORUM };
int rabbitmq_server_declare(struct rabbitmq_server *server, const char *queue, enum rabbitmq_queue kind);
/* A quorum queue (of the virtual host /) takes back what it has handed out, as when it has lost sight of its
 * consumers' node for a moment, and hands it out again on the same connections. */
int rabbitmq_server_take_back(struct rabbitmq_server *server, const char *queue);
int rabbitmq_server_delete(struct rabbitmq_server *server, const char *queue);
int rabbitmq_server_purge(struct rabbitmq_server *server, const char *queue);

struct rabbitmq_body {
    const char *text;
    size_t len;
};
/* Publishes them in order, persistently, and waits until the broker has confirmed all. properties: NULL: none
 * but that. */
int rabbitmq_server_publish(struct rabbitmq_server *server, const char *queue,
                            const struct rabbitmq_body *bodies, size_t n,
                            const amqp_basic_properties_t *properties);
/* Tells the broker that it is short of memory: it blocks the connections that publish; and the end of that.
 */
int rabbitmq_server_block(struct rabbitmq_server *server, bool blocked);
/* Takes a message out of the queue; its body (malloc), NULL: there is none. */
char *rabbitmq_server_get(struct rabbitmq_server *server, const char *queue);
/* Messages in the queue, those that are handed out and not acknowledged included; -1: no such queue, or no
 * broker. Thread: one at a time, but beside the others. */
long long rabbitmq_server_messages(struct rabbitmq_server *server, const char *queue);
