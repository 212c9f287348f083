/* Messages in hand: received from SQS, and not yet known to be deleted there. Each is in one list:
 *
 *     HELD ──▶ DELIVERED ──▶ DUE ◀──▶ DELETING ──▶ (gone)
 *      to be    waits for     to be    asked for │
 *      delivered the commit   deleted            └──▶ LOST  its receipt handle is void: it will come again,
 *                                                           which makes it DUE
 *
 * One that comes again while it is in hand keeps its place and gets the newer receipt handle: of several the
 * newest is good. A message that was consumed in an earlier life goes from HELD to DUE.
 *
 * The hand also counts, by the epoch whose checkpoint contains a message, how many are not yet deleted.
 * Memory: about 200 bytes and the receipt handle a message, and the body while it is HELD. Thread: one at a
 * time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hash.h"
#include "worker/source/tally.h"

struct error;

enum sqs_stage { SQS_HELD, SQS_DELIVERED, SQS_DUE, SQS_DELETING, SQS_LOST, SQS_STAGES };

struct sqs_link {
    struct sqs_link *next, *previous;
};

struct sqs_entry {
    struct sqs_link stage_link;  /* first */
    struct sqs_link expiry_link; /* of all: the one that becomes visible first is the first */
    struct consumed_id id;
    enum sqs_stage stage;
    uint64_t epoch;      /* delivered in; 0: in an earlier life */
    uint64_t visible_ns; /* when the queue gives it out again */
    uint64_t sent_ms;
    uint64_t reloads; /* of the triggers, begun when it came */
    bool extending;   /* a request that names it is under way */
    bool renewed;     /* it came again while it was DELETING */
    size_t body_len;
    char *body; /* HELD */
    size_t receipt_len;
    char *receipt; /* the newest, as a JSON string without its quotes: `first`, or allocated */
    char first[];
};

/* A message as it came; borrows its texts. */
struct sqs_arrival {
    const char *receipt; /* as it stood in the answer */
    size_t receipt_len;
    const char *body;
    size_t body_len;
    uint64_t visible_ns;
    uint64_t sent_ms;
    uint64_t reloads;
};

struct sqs_epoch {
    uint64_t epoch;
    size_t left; /* of its messages, those not known to be deleted */
};

struct sqs_hand {
    struct hash_table table;           /* by id */
    struct sqs_link stage[SQS_STAGES]; /* heads of rings */
    size_t count[SQS_STAGES];
    struct sqs_link expiry;
    struct sqs_epoch *epochs; /* ascending */
    size_t n_epochs;
    size_t epochs_cap;
    size_t held_bytes;
};

void sqs_hand_init(struct sqs_hand *hand);
void sqs_hand_done(struct sqs_hand *hand);
/* Drops everything, as after the queue was deleted. No request may be under way. */
void sqs_hand_clear(struct sqs_hand *hand);

size_t sqs_hand_count(const struct sqs_hand *hand); /* of all stages */
struct sqs_entry *sqs_hand_find(const struct sqs_hand *hand, const struct consumed_id *id);
/* The first of a stage, or the one behind `after`; NULL. */
struct sqs_entry *sqs_hand_first(const struct sqs_hand *hand, enum sqs_stage stage);
struct sqs_entry *sqs_hand_next(const struct sqs_hand *hand, const struct sqs_entry *after);
/* The one that becomes visible first, of those whose time can be extended; NULL. */
struct sqs_entry *sqs_hand_expiring(const struct sqs_hand *hand);

/* Copies receipt and body: HELD. Errors: ERROR_MEMORY. */
int sqs_hand_add(struct sqs_hand *hand, const struct consumed_id *id, const struct sqs_arrival *arrival,
                 struct error *err);
/* It has come again: copies the receipt; its body is not looked at. Errors: ERROR_MEMORY, and nothing has
 * changed. */
int sqs_hand_renew(struct sqs_hand *hand, struct sqs_entry *entry, const struct sqs_arrival *arrival,
                   struct error *err);
/* Will be visible at that time, later than all others. */
void sqs_hand_extend(struct sqs_hand *hand, struct sqs_entry *entry, uint64_t visible_ns);
/* To the end of another stage (first: to its beginning). */
void sqs_hand_move(struct sqs_hand *hand, struct sqs_entry *entry, enum sqs_stage stage, bool first);

/* Makes room, so that sqs_hand_delivered cannot fail. Errors: ERROR_MEMORY. */
int sqs_hand_reserve(struct sqs_hand *hand, struct error *err);
/* It is in the epoch to come: from HELD to DELIVERED; its body is freed. */
void sqs_hand_delivered(struct sqs_hand *hand, struct sqs_entry *entry, uint64_t epoch);
/* It is not to be delivered: from HELD to DUE, or when this epoch is still to be committed (not 0), to
 * DELIVERED. Room as for sqs_hand_delivered. */
void sqs_hand_drop(struct sqs_hand *hand, struct sqs_entry *entry, uint64_t epoch);
/* The last epoch that messages were delivered in which are to be committed; 0: there are none. */
uint64_t sqs_hand_uncommitted(const struct sqs_hand *hand);
/* All that were delivered up to this epoch become DUE. */
void sqs_hand_committed(struct sqs_hand *hand, uint64_t epoch);
/* It is deleted, or never was there. */
void sqs_hand_remove(struct sqs_hand *hand, struct sqs_entry *entry);

/* The last epoch up to which no message is left (and which has been committed); 0: none to tell anew. */
uint64_t sqs_hand_settled(struct sqs_hand *hand, uint64_t committed);
