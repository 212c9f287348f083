/* What the event log stores of a group of events (struct storage_log_group), in two texts:
 *
 *     events   magic "TFG1" | number of events | checksum (XXH3 of what follows) | packed CloudEvents
 *     ids      magic "TFI1" | number of ids | unix time in seconds | totals | XXH3-128 of (source, id), each
 *
 * The magic is the version: another one is refused. Integers are little-endian and aligned to their size; a
 * packed event (common/cloudevent.h) is a multiple of 8 bytes. ids are those of `events`, and are kept for a
 * while after them. The totals count all that was ever appended to the log, this group included, so that what
 * waits in it is known without reading it. Nothing that is read from storage is trusted: sizes are checked
 * against what there is, text is checked to be text. Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"

struct cloudevent;
struct error;

struct event_id {
    uint64_t low; /* never both 0 */
    uint64_t high;
};

/* Of everything that was ever appended. */
struct event_totals {
    uint64_t events;
    uint64_t bytes; /* of the texts `events` */
};

/* What recognises a repetition. */
struct event_id event_id_of(const struct cloudevent *event);

/* --- writing --- */

struct event_group {
    struct buffer events;
    struct buffer ids;
    uint32_t n;
};

void event_group_done(struct event_group *group);
void event_group_reset(struct event_group *group);
/* Appends a packed event of `size` bytes (copied). Memory that runs out is told of by event_group_seal. */
void event_group_add(struct event_group *group, const void *packed, size_t size, const struct event_id *id);
/* Completes both texts; before: the totals without this group; with_ids: the ids are to be kept. *ret_totals:
 * with it. Errors: ERROR_MEMORY. */
int event_group_seal(struct event_group *group, bool with_ids, uint64_t unix_s,
                     const struct event_totals *before, struct event_totals *ret_totals, struct error *err);

/* --- reading --- */

struct event_group_reader {
    const char *at;
    size_t left;
    uint32_t n_left;
};

/* text is aligned to 8 and borrowed. Errors: ERROR_INVALID; then *ret_reader is empty. */
int event_group_open(const char *text, size_t len, struct event_group_reader *ret_reader, struct error *err);
/* The next event; call it n_left times. Errors: ERROR_INVALID: nothing behind it can be read either. */
int event_group_next(struct event_group_reader *reader, struct cloudevent *ret_event, struct error *err);

struct event_ids {
    uint32_t n;
    uint64_t unix_s; /* when they were appended */
    struct event_totals totals;
    const char *ids; /* n struct event_id, maybe not aligned; borrowed */
};
/* Errors: ERROR_INVALID. */
int event_ids_open(const void *text, size_t len, struct event_ids *ret_ids, struct error *err);
struct event_id event_ids_at(const struct event_ids *ids, uint32_t i);
