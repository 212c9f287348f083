/* A line of the outbox: the intents of one trigger, in order. First those in memory, then those that wait in
 * storage only, of which no more is known than their positions. Owned by the outbox, which names a line as
 * its intents name their trigger (JSON text without the quotes; "": they name none). Thread: checkpoint. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/executor/intent.h"

struct fan_out;

/* A field of the outbox, <epoch>-<shard>-<number>, as numbers. Epochs count from 1. */
struct position {
    uint64_t epoch; /* 0: none */
    uint32_t number;
    uint16_t shard;
    bool fans_out;
};

/* Whether the field is one that an intent may have. */
bool position_read(const char *field, size_t len, struct position *ret_position);
void position_write(const struct position *position, char ret_field[INTENT_FIELD_MAX]);
int position_compare(const struct position *a, const struct position *b);

struct line {
    struct line *before, *after; /* among those that are looked after */
    bool looked_after;
    size_t held; /* in memory, elements of fan-outs each, until the epoch that records their end */
    struct position *waiting; /* in storage only: [first, n) */
    size_t first;
    size_t n;
    size_t cap;
    size_t planned;           /* of those: are being read */
    size_t allowed;           /* of those: may be handed over, the stored checkpoint covers them */
    size_t fresh;             /* intents of the epoch under way */
    size_t allowed_new;       /* of those: likewise */
    size_t to_announce;       /* of those: the last of them is to be stored as such */
    struct fan_out *starting; /* whose elements are being started; the rest of the line waits for it */
    size_t starting_bytes;
    struct position announced; /* outbox_started as it is stored; none: it is not, all may be started */
    struct position uncertain; /* those up to here may have been started in an earlier life; none: none */
    struct position begun;     /* the last that has been, at a graceful stop; none: none has */
    bool left;                 /* with the executor, at a graceful stop */
    size_t len;
    char trigger[];
};

struct line *line_new(const char *trigger, size_t len); /* NULL: out of memory */
void line_free(struct line *line);

size_t line_waiting(const struct line *line);
/* Whether nothing is in it that is not in memory and started. */
bool line_is_clear(const struct line *line);
/* Another one waits, as the last. Memory that runs out ends the process: it would be forgotten until the next
 * start. */
void line_wait(struct line *line, const struct position *position);
/* Sorts what waits, and drops what is there twice. */
void line_sort(struct line *line);
/* The first that waits and is not planned; NULL: there is none that may be handed over. */
const struct position *line_next(const struct line *line);

/* Whether it may take one more into memory, and how many, if nobody else takes any: no more than what is then
 * free. */
bool line_has_room(const struct line *line, uint64_t free_places);
size_t line_room(const struct line *line, uint64_t free_places);
