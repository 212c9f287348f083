/* Publishing to an SQSEventSource: SendMessageBatch by the executor's loop.
 *
 * The message's body is the event in the JSON event format. In a FIFO queue its group is the event's subject
 * (a hash of it when SQS would not take it as one, "-" when it is empty), and its deduplication id the
 * intent's idempotency key; one request is under way at a time, so that events keep the order in which they
 * were published. A failure that may pass (no connection, throttling, no such queue, no permission) keeps
 * everything in the sink, with a back-off; an event that SQS can never take is given up: one of more than 1
 * MiB (262,144 bytes in queues whose MaximumMessageSize is that), or whatever else it calls the sender's
 * fault. Thread: executor. */
#pragma once

struct error;
struct executor;
struct intent;
struct json_value;
struct sink;

int sqs_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                  struct sink **ret_sink, struct error *err);
void sqs_sink_publish(struct sink *sink, struct intent *intent);
void sqs_sink_close(struct sink *sink);
