/* A shard: the thread that owns a disjoint set of triggers (hash of the trigger's id), so that trigger state
 * needs no locks. It takes records from one ring per source; at a barrier it leaves that ring alone until all
 * sources of the epoch have shown theirs (Chandy-Lamport cut with aligned barriers), then writes what changed
 * into the epoch's set of changes, hands it to the checkpoint, and goes on. It never waits on emitting.
 *
 * Two sets of changes alternate: one is being filled for the epoch to come, the other belongs to the
 * checkpoint until its epoch has committed; the next epoch opens only then. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "worker/checkpoint/changes.h"

struct error;
struct intent;
struct json_value;
struct shard;
struct trigger;
struct worker;

/* What a shard hands over at a cut. Thread: shard until the cut, checkpoint until the epoch has committed. */
struct shard_cut {
    struct changes changes;
    struct intent *intents;      /* opened in this epoch, in order; taken by the checkpoint */
    struct intent **intents_end; /* where the next one goes */
    uint64_t documents;          /* trigger documents among the changes */
    uint64_t fired;
    unsigned finished; /* TERMINATE fired so often */
    char finished_trigger[200];
    bool gone;   /* a transient trigger has fired: the router should be made anew */
    bool timers; /* some are among the changes */
};

int shard_new(struct worker *worker, unsigned index, struct shard **ret_shard, struct error *err);
/* first_epoch: the epoch that comes after the one recovered from. */
int shard_start(struct shard *shard, uint64_t first_epoch, struct error *err);
void shard_stop(struct shard *shard); /* waits; the rings must be empty or abandoned */
void shard_free(struct shard *shard); /* NULL is fine */

/* There is something to do. Thread: any. */
void shard_wake(struct shard *shard);
/* There is a little to do: runs the shard on the calling thread, if nobody else does at the moment (its own
 * thread is asleep; waking it would take longer than the work), else wakes it. Thread: any, with no lock of
 * the worker's held. */
void shard_help(struct shard *shard);

/* Merges members into a trigger's context (trigger_patch), to be committed with the next cut. 0, SHARD_GONE:
 * the trigger was transient and has fired, or -1. Thread: checkpoint, between two epochs. */
enum { SHARD_GONE = 1 };
int shard_patch(struct shard *shard, struct trigger *trigger, const struct json_value *members,
                struct error *err);

/* The cut of an epoch that all shards have reported (checkpoint_cut_done). Thread: checkpoint. */
struct shard_cut *shard_cut(struct shard *shard, uint64_t epoch);
