/* A connection to a RabbitMQ broker with one channel: AMQP 0-9-1 over a stream, its methods and properties
 * coded by librabbitmq. librabbitmq's own connection is not used: its writing waits without a deadline, its
 * handshake cannot be cancelled, and it copies and allocates for every message.
 *
 * Nothing waits but rabbitmq_connect, rabbitmq_call and rabbitmq_close. A message is handed out when all of
 * it is in the input buffer, where its text stays until the next one is asked for.
 *
 * Heartbeats: the broker gives a peer up that it has not heard for twice the negotiated time, and so do we
 * (AMQP 0-9-1 section 4.2.7). Any traffic counts. rabbitmq_beat sends one when half that time has passed
 * without; who does not read (because it pauses) goes on calling it.
 *
 * Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/source/rabbitmq_input.h"

struct error;
struct rabbitmq;
struct rabbitmq_parameters;
struct stream_wait;

#define RABBITMQ_CHANNEL 1

/* Connects, logs in, opens the channel. name: shown by the broker. max_body: larger messages are handed out
 * cut. Errors: as stream_connect; ERROR_REFUSED also for user, password or virtual host. */
int rabbitmq_connect(const struct rabbitmq_parameters *parameters, const char *name, size_t max_body,
                     struct stream_wait *wait, struct rabbitmq **ret_rabbitmq, struct error *err);
void rabbitmq_free(struct rabbitmq *rabbitmq); /* closes at once; NULL is fine */
/* Says goodbye, so that all that was sent takes effect, and frees; NULL is fine. */
void rabbitmq_close(struct rabbitmq *rabbitmq, struct stream_wait *wait);

int rabbitmq_fd(const struct rabbitmq *rabbitmq);
short rabbitmq_events(const struct rabbitmq *rabbitmq); /* to poll for */
const char *rabbitmq_peer(const struct rabbitmq *rabbitmq);
uint64_t rabbitmq_heartbeat_ns(const struct rabbitmq *rabbitmq); /* as negotiated; 0: none */
/* The broker takes no publications now (connection.blocked): it is short of memory or disk. */
bool rabbitmq_blocked(const struct rabbitmq *rabbitmq);
/* The reply code with which the broker has closed channel or connection (404: no such queue); 0: it has not.
 */
unsigned rabbitmq_reply_code(const struct rabbitmq *rabbitmq);

/* Appends a method on the channel, or a publication to the default exchange (mandatory: it comes back when it
 * cannot be routed), to what is to be sent. Errors: ERROR_MEMORY, ERROR_LIMIT. */
int rabbitmq_send(struct rabbitmq *rabbitmq, amqp_method_number_t method, void *decoded, struct error *err);
int rabbitmq_publish(struct rabbitmq *rabbitmq, const char *queue, amqp_basic_properties_t *properties,
                     const char *body, size_t len, struct error *err);
/* Sends what the socket takes: 0 all, 1 not all (poll), -1 the connection is lost. */
int rabbitmq_flush(struct rabbitmq *rabbitmq, struct error *err);

/* The next method or message; reads when there is none. 0; 1: none now; -1: the connection is lost, or was
 * closed by the broker, with its reason. */
int rabbitmq_receive(struct rabbitmq *rabbitmq, struct rabbitmq_event *ret_event, struct error *err);
/* Sends a method and waits for its reply; other events meanwhile are dropped. Errors: also ERROR_REFUSED with
 * the broker's reason. */
int rabbitmq_call(struct rabbitmq *rabbitmq, amqp_method_number_t method, void *decoded,
                  amqp_method_number_t reply, struct stream_wait *wait, struct rabbitmq_event *ret_event,
                  struct error *err);

/* Sends a heartbeat when one is due. When to call it again. -1: the connection is lost. */
int rabbitmq_beat(struct rabbitmq *rabbitmq, uint64_t now_ns, uint64_t *ret_next_ns, struct error *err);

/* Looks for the queue, which is used as it is; if there is none it is declared as the original client does
 * it: not durable. For that the connection is replaced by another one (NULL after a failure). create false:
 * it is only looked for, and without one the connection is of no use any more. ret_waiting: messages that are
 * ready. 0; 1: it was not there. Errors: as rabbitmq_connect and rabbitmq_call. */
int rabbitmq_declare(struct rabbitmq **rabbitmq, const struct rabbitmq_parameters *parameters,
                     const char *name, size_t max_body, bool create, struct stream_wait *wait,
                     uint64_t *ret_waiting, struct error *err);
