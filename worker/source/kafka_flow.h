/* Keeps what librdkafka reads ahead small, without halting it.
 *
 * Its own bounds (queued.min.messages and the like) halt it: its broker threads look whether the queue has
 * room again when something else wakes them, which may take a second. So the bounds are set where they are
 * not met while we read, and instead a broker thread that has just received an answer waits, before it takes
 * it apart, until the queue is short: for HOLD at most, and not at all while we wait for librdkafka
 * ourselves.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <librdkafka/rdkafka.h>

struct kafka_flow {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    rd_kafka_queue_t *queue; /* NULL: not there yet, or not any more. Requires: lock */
    bool released;           /* nobody is to wait. Requires: lock */
    _Atomic unsigned waiting;
    _Atomic size_t average; /* bytes that a message takes up in the queue */
};

void kafka_flow_init(struct kafka_flow *flow);
void kafka_flow_done(struct kafka_flow *flow); /* after rd_kafka_destroy */

/* To be called for the configuration of the consumer. 0, or -1. */
int kafka_flow_install(struct kafka_flow *flow, rd_kafka_conf_t *conf);
/* The queue that is kept short (borrowed); NULL before it is destroyed. */
void kafka_flow_set_queue(struct kafka_flow *flow, rd_kafka_queue_t *queue);

/* n messages of that many bytes in all were taken off the queue. Thread: source. */
void kafka_flow_taken(struct kafka_flow *flow, size_t n, size_t bytes);
/* released: broker threads do not wait until this is taken back. Thread: source. */
void kafka_flow_release(struct kafka_flow *flow, bool released);
