/* The outbox: committed intents on their way to the executor. At most max_pending_actions are in memory,
 * beyond that they wait in storage only. The intents of one trigger form a line (outbox_line.h), which keeps
 * their order; between lines there is none.
 *
 * Shares: a line may hold as many in memory as are still free (Choudhury and Hahne, Dynamic Queue Length
 * Thresholds for Shared-Memory Packet Switches, 1998). So a trigger whose functions hang comes to rest with
 * half of the places, two with a third each, and as much as any of them has is left to all others, whose
 * lines go past it. Places that were left are filled again by taking turns. An intent gives its place back
 * with the epoch that records its end.
 *
 * A fan-out (fan_out.h) takes its place in its line as a whole, and its elements are counted one by one; of
 * each line there is one at a time whose elements have not all been started. Only those keep their document
 * in memory: while such documents have OUTBOX_FAN_OUT_BYTES no further one is begun, whichever line it is in.
 *
 * With action_start: immediate, intents pass the outbox by as long as half of the places are free
 * (executor_has_room); what comes then is shared out as above.
 *
 * What waits takes 16 bytes of memory. A restart reads the outbox once, keeping no more than that.
 *
 * Which of those that it finds the successor of a worker that has died may take to have been started: all of
 * a line, or, when some of it wait in storage only, those up to the checkpoint's field
 * `outbox_started:<line>`, and of a fan-out the elements up to what its progress says. Both are written with
 * the epoch before anything behind them is handed over, so what they do not cover was never started (but with
 * action_start: immediate, where the field is not written, all may have been).
 *
 * At a graceful stop more is known: which of them have really begun (executor_each). The last epoch writes
 * that in place of what was announced, up to the last one of each line; nothing is handed over after it.
 *
 * The worker dies                  | stored                          | the successor
 * ---------------------------------|---------------------------------|-----------------------------------
 * before the intents' commit       | nothing of them                 | fires again, with the same keys
 * after it, some started, some not | all; how far each line may be   | starts all, each line in order;
 *                                  |                                 | those up to there may repeat, under
 *                                  |                                 | the same keys
 * after some were read back        | all; the same, as what is read  | the same
 *                                  | back was announced before       |
 * after the commit with their ends | the others                      | starts the others
 * in a graceful stop, before its   | as before                       | as above
 * last epoch                       |                                 |
 * after that                       | those left; how far each line   | starts all; those that had not
 *                                  | has really been started         | begun as if for the first time
 * when a line's last one has ended | its outbox_started, which names | deletes that with its first epoch
 * and that is not deleted yet      | nothing                         |
 *
 * Thread: checkpoint. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define OUTBOX_STARTED "outbox_started:"
#define OUTBOX_NOT_STARTED "0" /* in place of a position: nothing of the line */
#define OUTBOX_FAN_OUT_BYTES (64u << 20)

struct changes;
struct emissions;
struct error;
struct intent;
struct outbox;
struct recovery;
struct storage;
struct worker;

struct outbox *outbox_new(struct worker *worker); /* NULL: out of memory */
void outbox_free(struct outbox *outbox);

/* Reads what is stored, before anything starts: where it waits, and emissions that may come back. May be
 * repeated after an error. */
int outbox_load(struct outbox *outbox, struct storage *storage, struct emissions *emissions,
                struct error *err);
/* And what recovery has found of how far it was. */
void outbox_restore(struct outbox *outbox, struct recovery *recovery);
/* Takes a list of intents that have just been committed: those that outbox_collect was told of, in that
 * order. */
void outbox_start(struct outbox *outbox, struct intent *list);
/* Reads waiting intents back while there is room. */
void outbox_refill(struct outbox *outbox, struct storage *storage);
bool outbox_empty(const struct outbox *outbox); /* nothing waits in storage only */
/* Whether outbox_refill would have something to do: reading has failed. */
bool outbox_can_refill(const struct outbox *outbox);
/* Whether some could go on, had an epoch said so. */
bool outbox_wants_epoch(const struct outbox *outbox);

/* An intent has ended: that goes with the epoch that outbox_collect is called for. */
void outbox_ended(struct outbox *outbox, const struct intent *intent, struct changes *out);
/* Writes what an epoch is to say: of fan-outs, and how far the outbox may go after it. lists: the intents
 * that the epoch opens. */
void outbox_collect(struct outbox *outbox, struct intent *const *lists, size_t n_lists, struct changes *out);

/* The same for the last epoch of a graceful stop, when the executor has stopped. */
void outbox_collect_last(struct outbox *outbox, struct intent *const *lists, size_t n_lists,
                         struct changes *out);
/* Whether that has something to say. */
bool outbox_is_left(const struct outbox *outbox);

/* A dead letter for an intent that was given up. */
void outbox_dead_letter(const struct intent *intent, struct changes *out);
