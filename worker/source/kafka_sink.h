/* Publishing to a KafkaEventSource's topic: an idempotent producer that waits for all replicas, one for each
 * event source. Events with the same subject go to the same partition (or with the same `partitionkey`, if
 * they have that extension), in order. Thread: executor. */
#pragma once

struct error;
struct executor;
struct intent;
struct json_value;
struct sink;

int kafka_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                    struct sink **ret_sink, struct error *err);
void kafka_sink_publish(struct sink *sink, struct intent *intent);
void kafka_sink_close(struct sink *sink);
