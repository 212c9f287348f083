/* What the files of a KafkaEventSource share: its state, and who may touch what. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <librdkafka/rdkafka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "worker/source/kafka_flow.h"
#include "worker/source/kafka_parameters.h"
#include "worker/source/kafka_partitions.h"

struct report;
struct source;

#define KAFKA_BATCH 1000
/* Every call that waits for the cluster: a source that is to stop comes to it. Where that is not enough, up
 * to four times as long. */
#define KAFKA_CALL_MS 1000
#define KAFKA_PATIENCE_MAX 2

/* Offsets by partition. */
struct kafka_offsets {
    int64_t *list;
    size_t n;
};

struct kafka_source {
    char *name; /* of the source: librdkafka's threads may outlive it */
    struct report *report;
    struct kafka_parameters parameters;
    /* Requires: emit to change or from another thread than the source's; `assigned` and what follows it in a
     * partition, and `high`, are the source's thread's alone */
    struct kafka_partitions partitions;
    bool begun; /* there is a position, or an adoption */
    char *from; /* adoption, until the first connection has made it a position */
    enum kafka_from from_kind;
    char *cluster; /* its id; NULL: not known */
    /* Thread: source */
    rd_kafka_t *rk; /* after the thread has ended: whoever frees the source */
    rd_kafka_queue_t *queue;
    struct kafka_flow flow;
    rd_kafka_topic_t *topic;
    int event_fd;            /* readable when something came into the queue */
    uint64_t check_ns;       /* when the topic is looked at next */
    uint64_t check_every_ns; /* how often without a reason */
    uint64_t missing_ns;     /* since when the topic is not there; 0: it is */
    size_t n_seen;           /* partitions of the topic now */
    unsigned failures;
    unsigned patience; /* calls may last KAFKA_CALL_MS << patience */
    bool reading;      /* the topic is there, and what can be is read */
    _Atomic bool well; /* what the state says: all of it is; librdkafka's threads look, too */
    bool failed;       /* it has stopped for good */
    uint64_t lag_ns;   /* when the lag was looked at last */
    char reason[sizeof((struct error *)NULL)->message]; /* of the last trouble that librdkafka told */
    char failure[200];                                  /* the last one of fetching from a partition */
    struct buffer scratch;
    struct buffer body;
    rd_kafka_message_t *batch[KAFKA_BATCH];
    /* Committing to the group. Thread: source, but for `due` and what needs the lock */
    _Atomic bool commit_due;
    bool committing;    /* an answer is to come */
    bool commit_warned; /* the status says so */
    uint64_t commit_ns; /* when it was sent last */
    uint64_t commit_every_ns;
    struct kafka_offsets sent;
    struct kafka_offsets barrier; /* as of `position`. Thread: checkpoint */
    pthread_mutex_t lock;
    struct kafka_offsets committed; /* of the last committed checkpoint, at first of the one that was
                                     * restored. Requires: lock */
};

static inline int64_t kafka_offset(const struct kafka_offsets *o, size_t partition)
{
    return partition < o->n ? o->list[partition] : KAFKA_NO_OFFSET;
}
/* Makes it n long. False: out of memory. */
bool kafka_offsets_resize(struct kafka_offsets *o, size_t n);

/* --- kafka_assign.c; all on the source's thread --- */

/* Looks at the topic, and has librdkafka read what it does not read yet, or not any more. Sets the state.
 * Waits for the cluster. */
void kafka_check(struct source *source);
/* Takes all partitions away from librdkafka, for good. Thread: the one that frees the source. */
void kafka_leave(struct source *source);
/* Something is wrong, or may be: look at the topic soon. */
void kafka_check_soon(struct kafka_source *s);
/* A broker has gone: likewise, but leave the others a moment to notice. */
void kafka_check_later(struct kafka_source *s);
/* Fetching from a partition works after it has failed. */
void kafka_recovered(struct kafka_source *s, struct kafka_partition *p);

/* --- kafka_commit.c --- */

/* Has the group's offsets follow the committed checkpoint, no sooner than commit_every_ns after the last
 * time. */
void kafka_commit(struct source *source);
/* When kafka_commit has something to do (clock_coarse_ns); UINT64_MAX: nothing. */
uint64_t kafka_commit_wakes(const struct kafka_source *s);
/* Its last chance: waits a little. Thread: the one that frees the source. */
void kafka_commit_last(struct source *source);
/* librdkafka's callback. */
void kafka_commit_done(rd_kafka_t *rk, rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t *offsets,
                       void *opaque);
