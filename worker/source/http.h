/* HTTPEventSource: events that were published to the workflow itself. The supervisor accepts them over HTTP
 * and puts them into the ingest ring of the arena (common/arena.h); here they become durable, in the event
 * log of the storage, and are delivered from there.
 *
 *     ingest ring ─▶ group ─▶ event log ─▶ answers ─▶ ready ─▶ shards
 *                     (drops repetitions, one sync)      ▲
 *                                            log_read ───┘ what did not fit into memory, or is of an earlier
 * life
 *
 * One thread, the source's, does all of it, with a storage connection of its own.
 *
 * Accepting (http_accept.c). All records that are in the ring become one group, up to a bound; while it is
 * appended the next ones gather, so that a busy source syncs once for many. Events whose (source, id) was
 * appended within `duplicate_window` are left out. Then each record gets its `answer` and is released:
 * 202 durable, or known and durable; 400 not what a supervisor writes; 507 the storage is full, and 503 it
 * refuses: nothing of it was kept. An append without an answer is repeated as it is until it is answered, and
 * nothing else is taken up meanwhile. It goes on while the workflow is paused or its shards are behind, until
 * event_log_max_bytes wait; then the ring fills, and the supervisor says no.
 *
 * Delivering (http.c). Groups in the order of their numbers, from memory when the next one is there, else
 * read back in chunks. The position is the last group that is wholly delivered and how much of the next one
 * is. The checkpoint with that position also removes the groups up to it (storage_commit.log_consumed). The
 * field does not have the source's name: a new event source of this class goes on where an old one stopped.
 *
 * A crash between any two lines:
 *   before the append              nothing was answered: the supervisor answers 503, and empties the ring
 *   after it, before the answers   the events are in the log and will be counted; 503 makes the client repeat
 *                                  them, and their ids, which are stored with the group and read again at the
 *                                  start, make that a repetition: 202
 *   after an answer                the event is in the log, behind the position
 *   while it is delivered, before  the checkpoint's position is before it: it is delivered again, to contexts
 *   the commit                     that have not seen it
 *   after the commit               position and removal are one transaction */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/ring.h"
#include "worker/source/event_group.h"

struct arena_ingest_record;
struct duplicates;
struct source;
struct storage;

#define HTTP_GROUP_RECORDS 1024
#define HTTP_GROUP_BYTES (1u << 20) /* a group that has so many takes no more records */

/* A group on its way to the shards. */
struct http_ready {
    struct http_ready *next;
    uint64_t number;
    uint64_t read_mark; /* of checkpoint_reloads() when it had been read */
    size_t len;
    _Alignas(8) char events[];
};

/* A record that is to be answered. */
struct http_taken {
    struct arena_ingest_record *record;
    uint32_t answer;
    uint32_t duplicates;
};

struct http_source {
    /* Requires: emit, or the source's thread not running */
    uint64_t passed;                   /* the last group wholly delivered */
    uint64_t next;                     /* the group of which the first `index` events are delivered, too */
    uint64_t index;                    /* 0: none */
    struct event_totals totals_passed; /* events delivered; bytes of groups wholly delivered */
    /* Thread: source */
    struct storage *storage;
    uint64_t last;              /* number of the last group appended */
    struct event_totals totals; /* up to it */
    uint64_t retry_ns;          /* not before this the storage is asked again; 0: at once */
    unsigned failures;
    bool fenced;
    /* delivering */
    struct http_ready *ready; /* in order, without a gap, from the first that is not wholly delivered */
    struct http_ready *ready_end;
    size_t ready_bytes;
    struct event_group_reader reader; /* in the first of them */
    bool opened;
    bool crowded; /* the shards are behind */
    struct buffer body;
    /* accepting */
    bool channel;
    struct ring_consumer ring;
    struct duplicates *duplicates;
    struct http_taken *taken; /* HTTP_GROUP_RECORDS */
    unsigned n_taken;
    struct event_group group;
    bool pending;   /* it is sealed, and its append not answered */
    bool ambiguous; /* an append of it may have succeeded */
    uint64_t group_unix_s;
    struct event_totals group_totals;
};

/* Takes up what is in the ring, and answers it. Whether anything was done. */
bool http_accept(struct source *source);
/* Answers what is left in the ring with 503. */
void http_refuse(struct source *source);
/* Whether there is room in the log for more. */
bool http_log_has_room(const struct source *source);
/* Tells the supervisor of the ring's state; enum arena_ingest_state. */
void http_set_state(struct source *source, uint32_t state);
/* Waits a little longer each time; shows the error. */
void http_failed(struct source *source, const char *error);
void http_succeeded(struct source *source);
/* Puts a group behind those that are ready. Errors: ERROR_MEMORY. */
int http_ready_add(struct http_source *http, uint64_t number, const void *events, size_t len);
