/* Publishing to a RabbitMQEventSource's queue, over the default exchange, persistently. Each message is
 * confirmed by the broker before its intent is done, and comes back (mandatory) when there is no such queue
 * any more: then the queue is declared again, as at the beginning, and the intent is tried again. While the
 * broker is short of memory or disk (connection.blocked) nothing is sent.
 *
 * A crash, or a lost connection, before the confirmation: the intent is published again, with the same id.
 * Thread: executor. */
#pragma once

struct error;
struct executor;
struct intent;
struct json_value;
struct sink;

int rabbitmq_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                       struct sink **ret_sink, struct error *err);
void rabbitmq_sink_publish(struct sink *sink, struct intent *intent);
void rabbitmq_sink_close(struct sink *sink);
