/* How far a KafkaEventSource has come in each partition of its topic, and what is stored of it.
 *
 *     {"topic":T,"cluster":C,"partitions":{"0":[next,last,timestamp],…}}
 *
 * next is the offset to read from; last that of the last event delivered (-1: none) and timestamp the
 * broker's for it. They tell a topic that was made anew from the one that was read: librdkafka gives no
 * topic ids, but the same offset of another topic holds another record, of another time. next may be behind
 * last + 1 by records that are no events (ends of transactions, aborted ones).
 *
 * A log may also lose its end, when a broker that lacked it was made its leader (unclean election).
 * librdkafka 2.0 gives no leader epochs either; but the records before the cut are those that were read.
 * Which those were is kept in memory, for the first partitions: the trail. Without it (a restart in between,
 * or more than KAFKA_TRAIL records are gone) such a log is taken for a topic that was made anew. One that has
 * grown past `next` again before anybody looked cannot be told at all without epochs. Thread: one at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct json_value;

#define KAFKA_PARTITIONS_MAX 100000
#define KAFKA_NO_OFFSET (-1)
#define KAFKA_TRAIL 4096 /* records, of 16 bytes */
#define KAFKA_TRAILS 64  /* partitions */

struct kafka_trail;

struct kafka_partition {
    int64_t next; /* KAFKA_NO_OFFSET: it has not been begun */
    int64_t last;
    int64_t timestamp;
    int64_t delivered;         /* behind the last event; at most next */
    int64_t high;              /* end of the partition as last known */
    uint64_t suspect_ns;       /* when it was first found shorter than what was read; 0: it is not */
    struct kafka_trail *trail; /* NULL: none yet */
    int64_t retrace;           /* it is compared with the trail from here on; KAFKA_NO_OFFSET: it is not */
    int64_t traced;            /* up to this record it was the same; KAFKA_NO_OFFSET: none yet */
    int64_t traced_timestamp;
    bool assigned;   /* librdkafka reads it */
    bool verifying;  /* the record `last` is expected first, to be compared */
    bool another;    /* it turned out to be another one than before */
    bool astray;     /* librdkafka has no offset to go on from */
    bool failing;    /* fetching from it has failed, and has not worked since */
    bool leaderless; /* no broker leads it, as the cluster said last */
};

struct kafka_partitions {
    struct kafka_partition *list;
    size_t n;
};

void kafka_partitions_done(struct kafka_partitions *p);
/* Makes it n long; new ones are not begun. Errors: ERROR_MEMORY, ERROR_LIMIT. */
int kafka_partitions_resize(struct kafka_partitions *p, size_t n, struct error *err);

/* Puts it at an offset, with nothing delivered. */
void kafka_partition_begin(struct kafka_partition *p, int64_t offset);
/* A record was delivered from the partition of this number. */
void kafka_partition_delivered(struct kafka_partition *p, size_t number, int64_t offset, int64_t timestamp);
/* Begins to compare what is in [low, high) with the trail: from p->retrace on. False: there is nothing to
 * compare. */
bool kafka_partition_retrace(struct kafka_partition *p, int64_t low, int64_t high);
/* The next record, in order: whether it was delivered before. */
bool kafka_partition_is_traced(struct kafka_partition *p, int64_t offset, int64_t timestamp);
/* It is the same up to there, where reading goes on. */
void kafka_partition_go_on(struct kafka_partition *p, int64_t offset);

/* Appends the member "partitions" as above: those that were begun. */
void kafka_partitions_write(const struct kafka_partitions *p, struct buffer *out);
/* Reads its value. Errors: ERROR_INVALID; ERROR_MEMORY. */
int kafka_partitions_read(struct kafka_partitions *p, const struct json_value *partitions, struct error *err);

/* Where an adoption begins: "beginning", "end", or "partition:offset,partition:offset…", in which the other
 * partitions begin at their beginning. Errors: ERROR_INVALID. */
enum kafka_from { KAFKA_FROM_BEGINNING, KAFKA_FROM_END, KAFKA_FROM_LIST };
int kafka_from_read(const char *text, enum kafka_from *ret_from, struct error *err);
/* The offset for a partition in such a list; KAFKA_NO_OFFSET when it is not there. */
int64_t kafka_from_offset(const char *text, size_t partition);
