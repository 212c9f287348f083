/* The reply of an XREAD on one stream, taken apart while hiredis' reader parses it: entry ids and fields,
 * with their text in one buffer, no reply objects. Thread: source. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <hiredis/hiredis.h>

#include "common/buffer.h"

struct redis_id {
    uint64_t ms;
    uint64_t seq;
};

struct redis_entry {
    struct redis_id id;
    size_t first_field; /* index into fields */
    size_t n_fields;    /* names and values */
    size_t bytes;
};

struct redis_field {
    size_t at; /* offset into text */
    size_t len;
};

struct redis_batch {
    struct redis_entry *entries;
    size_t n_entries;
    size_t entries_cap;
    struct redis_field *fields;
    size_t n_fields;
    size_t fields_cap;
    struct buffer text;
    struct buffer error; /* the text of an error reply */
    bool open;           /* the last entry has its id and awaits its fields */
    size_t fields_left;  /* to come for the last entry */
    bool cut;            /* further entries were left out, to bound the memory */
    bool failed;         /* out of memory: entries from here on are left out */
};

/* How far the bytes of a reply have been looked at, before they are parsed: enough to know where it ends, and
 * the id of its last entry. All zero: at the beginning. */
#define REDIS_FRAME_DEPTH 8
struct redis_frame {
    size_t at;                       /* bytes looked at */
    unsigned depth;                  /* of open arrays */
    int64_t left[REDIS_FRAME_DEPTH]; /* elements to come in each */
    size_t n_entries;
    size_t last_at; /* the text of the last entry's id */
    size_t last_len;
};

/* Goes on over text[0, len), which begins with the reply and has grown since the last call. Returns 0 when
 * the reply is whole, 1 when not yet, -1 when it is not what an XREAD answers (hiredis will say). */
int redis_frame_scan(struct redis_frame *frame, const char *text, size_t len);
/* The id of the last entry (n_entries > 0). */
struct redis_id redis_frame_last(const struct redis_frame *frame, const char *text);

/* For redis_set_reader; privdata is the batch. */
redisReplyObjectFunctions *redis_batch_functions(void);

void redis_batch_begin(struct redis_batch *batch); /* empties it */
void redis_batch_done(struct redis_batch *batch);

static inline const char *redis_batch_field(const struct redis_batch *batch, const struct redis_entry *entry,
                                            size_t i, size_t *ret_len)
{
    const struct redis_field *f = &batch->fields[entry->first_field + i];
    *ret_len = f->len;
    return batch->text.data + f->at;
}
