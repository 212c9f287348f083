/* A RabbitMQ message as a CloudEvent: its body in the JSON event format, or binary mode (CloudEvents AMQP
 * protocol binding 1.0.2, section 3.1, as far as AMQP 0-9-1 can express it: headers cloudEvents:NAME or
 * cloudEvents_NAME, and the body is the data). Thread: any. */
#pragma once

#include "worker/source/consumed.h"
#include "worker/source/rabbitmq_input.h"

struct buffer;
struct cloudevent;
struct error;

/* What tells one message from another: RabbitMQ gives messages no ids, so it is all that the publisher has
 * said, without the headers but those of an event, as the broker changes the others (x-delivery-count). */
struct consumed_id rabbitmq_message_identity(const struct consumed *consumed,
                                             const struct rabbitmq_event *message);

/* The event borrows from the message and from scratch, which is emptied first. Errors: ERROR_INVALID,
 * ERROR_MEMORY. */
int rabbitmq_message_read(const struct rabbitmq_event *message, struct cloudevent *ret_event,
                          struct buffer *scratch, struct error *err);

/* The message as a JSON member for a dead letter. */
void rabbitmq_message_keep(const struct rabbitmq_event *message, struct buffer *out);
