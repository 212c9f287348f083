/* What the files of the outbox share. Thread: checkpoint. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hash.h"
#include "worker/checkpoint/recovery.h"

struct changes;
struct fan_out;
struct intent;
struct line;
struct position;
struct worker;

struct outbox {
    struct worker *worker;
    struct hash_table lines; /* by trigger -> struct line */
    struct line *first; /* of those that are looked after: not all of them is in memory, or stored as so */
    struct line *last;
    struct fan_out *fan_outs;      /* those with elements that have not ended */
    size_t fan_out_bytes;          /* documents of those whose elements are being started */
    bool stopped;                  /* nothing is handed over any more */
    uint64_t recovered_epoch;      /* intents up to it were left by an earlier life of the worker */
    struct stored_fields progress; /* of fan-outs, as an earlier life has left it */
};

/* A line of which something waits, is being started, or is stored as so. */
void outbox_look_after(struct outbox *outbox, struct line *line);
void outbox_unlink(struct outbox *outbox, struct line *line);
/* The one that it belongs to. */
struct line *outbox_line_of(struct outbox *outbox, const struct intent *intent);
/* Those of the epoch under way have their line, and are fresh there. */
void outbox_count_fresh(struct outbox *outbox, struct intent *const *lists, size_t n_lists);
/* Whether what waits there may have been started in an earlier life. */
bool outbox_is_uncertain(const struct outbox *outbox, const struct line *line,
                         const struct position *position);
/* Writes how far a line may have been started; epoch 0: nothing says so, all of it may have been. */
void outbox_announce(struct line *line, const struct position *position, struct changes *out);
/* Forgets those of which nothing is left. */
void outbox_leave_lines(struct outbox *outbox);

/* How many more may be in memory. */
uint64_t outbox_free_places(const struct outbox *outbox);
/* The next of a line that is to be read back; NULL: there is none, or no room for it. */
const struct position *outbox_next(const struct outbox *outbox, const struct line *line, uint64_t free_now);
/* All elements of the line's fan-out have been started. */
void outbox_fan_out_started(struct outbox *outbox, struct line *line);
