#include "worker/checkpoint/changes.h"

#include <stdlib.h>

void changes_done(struct changes *changes)
{
    buffer_done(&changes->text);
    free(changes->items);
    *changes = (struct changes){0};
}

void changes_reset(struct changes *changes)
{
    buffer_reset(&changes->text, 1 << 20);
    changes->n = 0;
    if (changes->cap > 1 << 14) {
        free(changes->items);
        changes->items = NULL;
        changes->cap = 0;
    }
}

struct buffer *changes_begin(struct changes *changes, enum storage_set set, enum storage_op_kind kind,
                             const char *key, size_t key_len, const char *uuid, size_t uuid_len)
{
    if (changes->n == changes->cap) {
        size_t cap = changes->cap ? changes->cap * 2 : 64;
        struct change *items = realloc(changes->items, cap * sizeof *items);
        if (!items) {
            changes->text.failed = true;
            return &changes->text;
        }
        changes->items = items;
        changes->cap = cap;
    }
    struct change *c = &changes->items[changes->n++];
    *c = (struct change){
        .set = set, .kind = kind, .key_len = (uint32_t)key_len, .uuid_len = (uint32_t)uuid_len};
    c->key = changes->text.len;
    buffer_append(&changes->text, key, key_len);
    c->uuid = changes->text.len;
    buffer_append(&changes->text, uuid, uuid_len);
    c->value = changes->text.len;
    return &changes->text;
}

void changes_end(struct changes *changes)
{
    if (!changes->text.failed) {
        struct change *c = &changes->items[changes->n - 1];
        c->value_len = changes->text.len - c->value;
    }
}

void changes_put(struct changes *changes, enum storage_set set, const char *key, size_t key_len,
                 const char *value, size_t value_len)
{
    struct buffer *b = changes_begin(changes, set, STORAGE_PUT, key, key_len, "", 0);
    buffer_append(b, value, value_len);
    changes_end(changes);
}

void changes_delete(struct changes *changes, enum storage_set set, const char *key, size_t key_len)
{
    changes_begin(changes, set, STORAGE_DELETE, key, key_len, "", 0);
    changes_end(changes);
}

void changes_ops(const struct changes *changes, struct storage_op *ret_ops)
{
    const char *text = changes->text.data;
    for (size_t i = 0; i < changes->n; i++) {
        const struct change *c = &changes->items[i];
        ret_ops[i] = (struct storage_op){.set = c->set,
                                         .kind = c->kind,
                                         .key = text + c->key,
                                         .key_len = c->key_len,
                                         .value = text + c->value,
                                         .value_len = c->value_len,
                                         .uuid = text + c->uuid,
                                         .uuid_len = c->uuid_len};
    }
}
