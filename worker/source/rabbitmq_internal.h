/* What the files of a RabbitMQEventSource share: its state, and who may touch what. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buffer.h"
#include "worker/source/consumed.h"
#include "worker/source/rabbitmq_connection.h"
#include "worker/source/rabbitmq_parameters.h"

struct error;
struct source;

#define RABBITMQ_ACKS 64 /* that wait for the storage's disk */

/* What a checkpoint contains: messages of this connection up to the tag, in chunks up to the epoch. */
struct rabbitmq_reached {
    uint64_t connection;
    uint64_t tag;
    uint64_t epoch;
    uint64_t committed_ns;
};

struct rabbitmq_source {
    struct rabbitmq_parameters parameters;
    /* Requires: emit, or the source's thread not running */
    struct consumed *consumed;
    uint64_t connection; /* the present one; counts up */
    uint64_t tag;        /* of the last message that was delivered on it */
    uint64_t urged;      /* the same when a checkpoint was last asked for */
    bool known;          /* the queue was there before */
    /* Thread: checkpoint */
    struct rabbitmq_reached cut; /* at the last barrier */
    /* Thread: source; checkpoint when that has ended */
    struct rabbitmq *rabbitmq;
    struct rabbitmq_event message;
    struct consumed_id identity; /* of it */
    bool in_hand;
    bool crowded; /* the shards have no room for it */
    bool flows;   /* many have come at once */
    unsigned failures;
    uint64_t beat_ns; /* when the next heartbeat is due */
    struct rabbitmq_reached acked;
    struct rabbitmq_reached asked; /* the question is on its way behind this acknowledgement */
    bool answered;
    struct rabbitmq_reached proving; /* this one was answered for, and waits for its proof */
    uint64_t first_tag;              /* of the last message that came for the first time */
    uint64_t repeated_tag;           /* and of the last that did not */
    bool paused;                     /* and shown so */
    uint64_t lost_epoch;             /* chunks up to it are of earlier connections */
    bool lost_settled;
    uint64_t head_tag;  /* of the first message behind the head; 0: it has not come yet */
    uint64_t head_most; /* the head cannot have more messages */
    bool priorities;    /* messages have had some */
    uint64_t twins_ns;  /* when twins were seen last; 0: never */
    struct buffer scratch;
    /* Thread: any */
    _Atomic bool ack_due;
    pthread_mutex_t lock;
    /* Requires: lock. Committed, to be acknowledged, the oldest first */
    struct rabbitmq_reached acks[RABBITMQ_ACKS];
    unsigned n_acks;
};

/* Messages that the broker may hand out without an acknowledgement. */
unsigned rabbitmq_prefetch(const struct source *source);

/* --- what comes again (rabbitmq_acknowledge.c); Thread: source, if nothing else is said --- */

/* A new connection: no tag of an earlier one means anything, and whatever was not acknowledged comes again.
 */
void rabbitmq_begin(struct source *source);
/* Whether checkpoints contain the message in hand. CONSUMED_NEW; CONSUMED_TAKEN: they do. Errors:
 * ERROR_MEMORY. Requires: emit. */
int rabbitmq_look_up(struct rabbitmq_source *s, const amqp_basic_deliver_t *d, struct error *err);
/* The message in hand was delivered or dropped. Requires: emit. */
void rabbitmq_passed(struct rabbitmq_source *s, const amqp_basic_deliver_t *d);

/* A checkpoint with what `cut` says has committed. Thread: checkpoint. */
void rabbitmq_acknowledge(struct source *source);
/* Acknowledges what is due; when the next will be, else UINT64_MAX. -1: the connection is lost. */
int rabbitmq_acknowledge_due(struct source *source, uint64_t now, uint64_t *ret_next_ns, struct error *err);
/* At a stop the last checkpoints are committed when the thread has ended. Closing the connection then sees to
 * it that this takes effect. Thread: who ends the source. */
void rabbitmq_acknowledge_last(struct source *source);
/* The question was answered: all that was acknowledged before it has reached the broker. -1: the connection
 * is lost. */
int rabbitmq_settle(struct source *source, struct error *err);
