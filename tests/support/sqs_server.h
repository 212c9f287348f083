/* An SQS server for tests, on a free loopback port: local-aws-sqs (fast, FIFO groups in no order) or moto
 * (slow, keeps the order of groups, checks signatures when asked to), both from build/sqs, where .ci/sqs puts
 * them. It keeps its queues in memory and dies with the test. Functions that return int: 0, or -1 with the
 * reason on standard error. Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/buffer.h"

enum sqs_server_kind { SQS_SERVER_LOCAL, SQS_SERVER_MOTO };

struct sqs_server {
    enum sqs_server_kind kind;
    pid_t pid; /* 0: not running */
    int port;
    char dir[64];
    void *curl; /* of sqs_server_call */
};

/* false: *ret_why is. */
bool sqs_server_available(enum sqs_server_kind kind, const char **ret_why);
int sqs_server_run(struct sqs_server *server, enum sqs_server_kind kind);
void sqs_server_kill(struct sqs_server *server);   /* SIGKILL, and waits */
int sqs_server_restart(struct sqs_server *server); /* on the same port, empty */
void sqs_server_done(struct sqs_server *server);   /* also after a failed start */

/* Calls an operation of the JSON protocol ("CreateQueue", "{...}") on this port of loopback; the answer's
 * body is put into `answer`. The HTTP status; -1: none has come. */
int sqs_server_ask(struct sqs_server *server, const char *operation, const char *body, struct buffer *answer);
/* The same, and an error when the status is not 200. */
int sqs_server_call(struct sqs_server *server, const char *operation, const char *body,
                    struct buffer *answer);

/* attributes: "\"VisibilityTimeout\":\"5\"", NULL: none; *ret_url (NULL: not wanted) is its URL. */
int sqs_server_create(struct sqs_server *server, const char *queue, const char *attributes,
                      char ret_url[256]);
int sqs_server_delete(struct sqs_server *server, const char *queue);
/* The URL that the server gives its queues. */
void sqs_server_url(const struct sqs_server *server, const char *queue, char ret_url[256]);
/* Sends one message; group, deduplication: of a FIFO queue, else NULL. */
int sqs_server_send(struct sqs_server *server, const char *queue, const char *body, const char *group,
                    const char *deduplication);
/* Messages of the queue: those that wait, and those in flight; -1: not known. */
long long sqs_server_waiting(struct sqs_server *server, const char *queue);
long long sqs_server_in_flight(struct sqs_server *server, const char *queue);

/* moto: makes a user that may do all of SQS, and his access key; from then on every request must be signed
 * with a valid one, so that nothing else here works any more. */
int sqs_server_lock(struct sqs_server *server, char ret_id[64], char ret_secret[64]);
