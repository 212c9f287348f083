/* The cut of an epoch: what all threads have written down, gathered into one transaction. Thread: checkpoint.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "worker/checkpoint/changes.h"

struct error;
struct worker;

struct cut {
    struct worker *worker;
    struct changes changes; /* of the checkpoint thread: positions, internal events, completions, requests */
    struct buffer position[ARENA_MAX_SOURCES]; /* at the barrier */
    struct buffer numbers;                     /* keys of dead letters */
    struct storage_op *ops;                    /* the transaction; borrows from all changes */
    size_t n_ops;
    size_t ops_cap;
    uint64_t dead_letter_bytes;    /* stored, this epoch's included */
    uint64_t dead_letters_removed; /* bytes of those that this epoch deletes */
    uint64_t log_passed;           /* group of the event log, at the barrier */
    uint64_t log_committed;        /* the same of the last commit in this life; 0: none */
};

void cut_done(struct cut *cut);

/* Gathers the operations of an epoch that all shards have reported. Errors: ERROR_MEMORY. */
int cut_gather(struct cut *cut, uint64_t epoch, struct error *err);
/* For storage_commit: what the epoch has passed of the event log, 0 when that was said before. The position
 * in the same transaction is behind it, so a crash finds both or neither: no group is removed unread, and
 * none that is left is read twice. */
uint64_t cut_log_consumed(const struct cut *cut);
/* They have committed. */
void cut_committed(struct cut *cut);
