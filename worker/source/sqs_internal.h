/* SQSEventSource: a queue of Amazon SQS, read by long polling and emptied behind the checkpoints.
 *
 *     ReceiveMessage ──▶ HELD ──▶ shards ──▶ commit ──▶ DeleteMessageBatch
 *     (several at once)   │  (consumed? dropped)   (identities in it)
 *                         └── ChangeMessageVisibilityBatch while a message waits, for whatever
 *
 * All of it happens on the source's thread, on one fetch pool; the checkpoint thread reads `consumed` under
 * the emit lock and sets `committed_epoch`. sqs.c has the source's life, sqs_receive.c the way of messages to
 * the shards, sqs_release.c what is said to the queue afterwards.
 *
 * Receiving. One long poll when nothing comes; twice as many each time an answer is full, up to `receives`;
 * one again when an answer is empty. No more are begun while enough messages are HELD, too many are in hand,
 * too much is in flight in the worker, or deletions fail.
 *
 * Identities. A message is known by its MessageId (consumed.h). One that comes again is dropped, and deleted
 * (again) as soon as the checkpoint that contains it has committed. Those of an epoch are settled when all
 * its messages are known to be deleted. What an earlier life had consumed and not seen deleted is settled
 * when a long poll comes back empty that began after all its messages had to be visible again (nothing in
 * hand, for FIFO queues, where a message in hand hides those behind it), or when the queue keeps no message
 * for so long; or, once they had to be visible again, when more than redelivery_max identities are kept, as
 * in a backlog without end: identities go in their order, and nothing else would bound them.
 *
 * Order. SQS hands out no message of a FIFO group while another one of that group is in flight, and messages
 * go to the shards in the order in which they came; an answer that was lost is asked for again under the same
 * ReceiveRequestAttemptId. A standard queue has no order.
 *
 * A crash between any two lines:
 *   after a message was received,     nothing is stored; it becomes visible again, and counts then
 *   before its epoch is committed
 *   while the commit is under way     either both its effects and its identity are stored, or neither is
 *   after the commit, before the      it becomes visible again; its identity is restored with the checkpoint:
 *   deletion has reached SQS          dropped and deleted
 *   after that, before the answer     nothing comes; the identity is kept until it is settled as above
 *   after the answer, before the      the same; SQS may still give out a copy it had not reached: for that
 *   identity has expired              identities outlive their deletion by redelivery_window
 *
 * A queue that is said not to exist takes what is in hand with it. Should its messages come again all the
 * same, those that were delivered wait as before for their commit, and are then deleted.
 *
 * Where the storage may still lose a commit for a while (worker->unsure_ns), deletions wait for so long, or
 * twice.
 *
 * A worker that is stopped aborts its long polls. What it had not delivered is made visible at once
 * (visibility 0), what it had delivered is deleted after the last commit, for at most RELEASE_TIMEOUT;
 * messages that were in an answer on its way become visible by themselves.
 *
 * Nothing of the user's is created, changed or deleted but messages that were consumed: a queue that does not
 * exist is waited for. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "worker/source/sqs_hand.h"
#include "worker/source/sqs_parameters.h"
#include "worker/source/sqs_queue.h"
#include "worker/source/sqs_wire.h"

struct consumed;
struct source;

#define SQS_IN_HAND_MOST 20000 /* as many as a FIFO queue lets be in flight */
#define SQS_BACK_OFF_FIRST (100 * CLOCK_MS)
#define SQS_BACK_OFF_LONGEST (20 * CLOCK_S)
#define SQS_DELETES 16 /* requests in flight */
#define SQS_EXTENDS 4
#define SQS_RELEASE_TIMEOUT (2 * CLOCK_S) /* and unsure_ns, where that is */

/* One ReceiveMessage at a time. */
struct sqs_receive {
    struct source *source;
    struct aws_call *call; /* NULL: none under way */
    uint64_t begun_ns;
    unsigned asked;   /* messages at most */
    bool quiet;       /* nothing was in hand when it began */
    char attempt[40]; /* FIFO: names it; "" when the next one is another */
};

/* One batch of deletions or changes of visibility. */
struct sqs_release {
    struct source *source;
    struct aws_call *call; /* NULL: free */
    struct sqs_entry *entries[SQS_BATCH];
    size_t n;
    uint64_t visible_ns; /* a change of visibility: what it will be; 0: deletions */
};

/* What is to be asked of the queue before it is read. */
enum sqs_phase { SQS_FIND, SQS_LOOK, SQS_READ, SQS_STOP };

struct sqs_source {
    struct sqs_parameters parameters;
    /* Requires: emit, or the source's thread not running */
    struct consumed *consumed;
    uint64_t settled_epoch;  /* all up to it are deleted */
    uint64_t created_unix_s; /* of the queue; 0: not known */
    uint64_t from_ms;        /* adoption: what was sent before is dropped; 0: nothing is */
    uint64_t shown_visibility_s;
    bool started;       /* there is a position */
    uint64_t cut_epoch; /* of the last barrier */
    /* Thread: any */
    _Atomic uint64_t committed_epoch;
    /* Thread: source (after its end: checkpoint) */
    struct sqs_queue queue;
    enum sqs_phase phase;
    struct aws_call *asking; /* URL or attributes */
    struct sqs_hand hand;
    uint64_t safe_epoch;   /* up to it what was committed may be deleted */
    uint64_t unsafe_epoch; /* and after safe_ns up to this one; 0: none waits */
    uint64_t safe_ns;
    uint64_t gone_epoch; /* of messages that were forgotten with a queue: to be committed, when not safe */
    struct sqs_receive receives[SQS_RECEIVES_MAX];
    unsigned wanted;    /* receives in flight, at present */
    unsigned receiving; /* are */
    unsigned asked;     /* messages that they may bring */
    unsigned batch;     /* messages to ask for: fewer when they are large */
    struct sqs_release deletes[SQS_DELETES];
    struct sqs_release extends[SQS_EXTENDS];
    unsigned deleting, extending; /* requests */
    unsigned failures;            /* of receives and of finding the queue, in a row */
    uint64_t not_before_ns;       /* of the next try; 0: at once */
    unsigned delete_failures;
    uint64_t delete_not_before_ns;
    bool shown_failing;            /* the state says so */
    bool paused;                   /* the state says so */
    bool unsettled;                /* an earlier life's messages are not known to be deleted */
    uint64_t earlier_visibility_s; /* its own */
    uint64_t born_ns;
    uint64_t length_ns; /* when the queue's length was asked for last */
    uint64_t look_ns;   /* of the next look at the first HELD event, which waits for a reload */
    uint64_t look_delay_ns;
    uint64_t random;
    struct buffer scratch;
    struct buffer members;
};

/* --- sqs.c --- */

/* Shows a failure, and waits before the next try. */
void sqs_failed(struct source *source, const struct error *err);
void sqs_well(struct source *source); /* a good answer has come */
/* Whether there is room for more in the worker; shown when there is not. */
bool sqs_has_room(struct source *source);
/* The queue does not exist any more: what is in hand is gone. */
void sqs_queue_gone(struct source *source);
uint64_t sqs_visibility_ns(const struct sqs_source *s);

/* --- sqs_receive.c --- */

void sqs_receive_start(struct source *source, uint64_t now);
void sqs_receive_cancel(struct source *source);
/* Delivers what is HELD, as far as that goes without waiting. */
void sqs_deliver(struct source *source);

/* --- sqs_release.c --- */

void sqs_release_start(struct source *source, uint64_t now);
/* Makes what is HELD visible at once. Waits, at most SQS_RELEASE_TIMEOUT. */
void sqs_release_held(struct source *source);
/* Deletes what has been committed; likewise. Thread: checkpoint, after the source's has ended. */
void sqs_release_committed(struct source *source);
void sqs_release_cancel(struct source *source);
/* Tells `consumed` what is deleted, and an earlier life's messages when `quiet_ns` (an empty long poll began
 * then; 0: none) says so. */
void sqs_settle(struct source *source, uint64_t quiet_ns);
/* When there is something to do next. */
uint64_t sqs_release_due(const struct source *source);
