/* What a KafkaEventSource asks the cluster about its topic. Every call waits for answers, for at most
 * timeout_ms each. Errors: ERROR_REFUSED when the cluster says no (permission, password), ERROR_LIMIT when
 * the time was over, else ERROR_UNAVAILABLE. Thread: source. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <librdkafka/rdkafka.h>

struct error;

enum { KAFKA_TOPIC_MISSING = 1, KAFKA_TOPIC_EXISTS = 1 };

/* How many partitions there are, and of each whether a broker leads it (free). 0; KAFKA_TOPIC_MISSING; -1. */
int kafka_topic_partitions(rd_kafka_t *rk, rd_kafka_topic_t *topic, int timeout_ms, size_t *ret_n,
                           bool **ret_led, struct error *err);

/* Creates it with one partition. 0; KAFKA_TOPIC_EXISTS: it was there; -1. */
int kafka_topic_create(rd_kafka_t *rk, const char *name, int timeout_ms, struct error *err);

struct kafka_bounds {
    size_t partition;
    int64_t low;       /* its first offset */
    int64_t high;      /* behind its last that is not part of an open transaction */
    int64_t committed; /* the group's offset; -1: none, or not asked for */
};

/* Fills in the bounds of n partitions; committed: also the group's offsets. */
int kafka_topic_bounds(rd_kafka_t *rk, const char *name, struct kafka_bounds *bounds, size_t n,
                       bool committed, int timeout_ms, struct error *err);

/* What became of creating it, from the answer to rd_kafka_CreateTopics (NULL: none came). As above. Thread:
 * any. */
int kafka_topic_created(rd_kafka_event_t *event, const char *name, struct error *err);

/* Whether an error's meaning is that the cluster refuses. */
bool kafka_topic_refused(rd_kafka_resp_err_t code);
