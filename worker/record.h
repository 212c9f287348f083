/* What travels through the rings from a source to a shard. Never leaves the process, so pointers are allowed.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct held_intent;
struct trigger;

enum record_kind {
    RECORD_EVENT,   /* struct record_event */
    RECORD_LARGE,   /* struct record_event *, on the heap: an event too large for the ring; the shard frees it
                     */
    RECORD_BARRIER, /* struct record_barrier */
    RECORD_INTENT,  /* struct held_intent *, which all shards of its mask get; the last one opens and frees it
                     */
};

/* The triggers of one route that live in one shard. Borrowed from the router, which outlives the record. */
struct route_list {
    struct trigger **triggers;
    size_t n;
};

#define ROUTE_MAX_LISTS                                                                                 \
    5 /* (type, subject), (type, *), (*, subject), (*, *); of a failure that nobody catches, (uncaught, \
         subject) */

struct record_event {
    uint64_t position[2]; /* the event as its source names it (struct arena_event) */
    uint64_t source;
    uint32_t source_index;
    uint8_t n_lists;
    uint8_t only;     /* this shard alone got the event */
    uint8_t has_key;  /* it carries triggerflowkey */
    uint8_t is_write; /* a write into the triggers' contexts (write.h), not an event for their conditions */
    /* n_lists route_lists, then the packed CloudEvent */
};

/* An intent that has waited behind the writes of its firing (write.h). Thread: any. */
struct held_intent {
    _Atomic unsigned left; /* shards that have not come to it yet */
    size_t len;
    char document[]; /* as it goes into the outbox */
};

struct record_barrier {
    uint64_t epoch;
    uint32_t sources; /* bit i: source i takes part */
    uint32_t pad;
};

static inline struct route_list *record_lists(struct record_event *record)
{
    return (struct route_list *)(void *)(record + 1);
}
static inline void *record_packed(struct record_event *record)
{
    return record_lists(record) + record->n_lists;
}
