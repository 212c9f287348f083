/* A set of changes to the stored workspace, collected by one thread between two checkpoints and handed to the
 * checkpoint as a whole. Text is kept by offset in one buffer, so that collecting allocates only while it
 * grows. Thread: one at a time. When memory runs out, `text.failed` says so and the set must not be
 * committed. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/storage/storage.h"

struct change {
    enum storage_set set;
    enum storage_op_kind kind;
    size_t key, value, uuid; /* offsets into text */
    uint32_t key_len, uuid_len;
    size_t value_len;
};

struct changes {
    struct buffer text;
    struct change *items;
    size_t n;
    size_t cap;
};

void changes_done(struct changes *changes);
void changes_reset(struct changes *changes);

void changes_put(struct changes *changes, enum storage_set set, const char *key, size_t key_len,
                 const char *value, size_t value_len);
void changes_delete(struct changes *changes, enum storage_set set, const char *key, size_t key_len);

/* A change whose value is written in place: append it to the buffer returned, then changes_end(). */
struct buffer *changes_begin(struct changes *changes, enum storage_set set, enum storage_op_kind kind,
                             const char *key, size_t key_len, const char *uuid, size_t uuid_len);
void changes_end(struct changes *changes);

/* Writes n storage operations that borrow the text. */
void changes_ops(const struct changes *changes, struct storage_op *ret_ops);
