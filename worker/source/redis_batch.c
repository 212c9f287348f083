#include "worker/source/redis_batch.h"

#include <stdlib.h>
#include <string.h>

#define BYTES_AT_MOST (16u << 20) /* text of one batch; one entry more may exceed it */
#define KEEP_TEXT (4u << 20)

/* Depth of the containers of an XREAD reply: [[stream, [[id, [name, value...]]...]]]. Each container's reply
 * object is its depth, so that its elements find it at once (task->parent->obj). */
enum { DEPTH_REPLY = 1, DEPTH_STREAM, DEPTH_ENTRIES, DEPTH_ENTRY, DEPTH_FIELDS };

static uintptr_t depth_of(const redisReadTask *task)
{
    return task->parent ? (uintptr_t)task->parent->obj : 0;
}

static void *as_object(uintptr_t number)
{
    return (void *)number; /* hiredis only wants it not to be NULL */
}

static bool make_room(struct redis_batch *b)
{
    if (b->n_entries == b->entries_cap) {
        size_t cap = b->entries_cap ? b->entries_cap * 2 : 128;
        struct redis_entry *entries = realloc(b->entries, cap * sizeof *entries);
        if (!entries)
            return false;
        b->entries = entries;
        b->entries_cap = cap;
    }
    if (b->n_fields == b->fields_cap) {
        size_t cap = b->fields_cap ? b->fields_cap * 2 : 1024;
        struct redis_field *fields = realloc(b->fields, cap * sizeof *fields);
        if (!fields)
            return false;
        b->fields = fields;
        b->fields_cap = cap;
    }
    return true;
}

static uint64_t number(const char **at, const char *end)
{
    uint64_t n = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++)
        n = n * 10 + (uint64_t)(**at - '0');
    return n;
}

static void begin_entry(struct redis_batch *b, const char *text, size_t len)
{
    if (b->cut || b->failed)
        return;
    if (b->text.len > BYTES_AT_MOST) {
        b->cut = true;
        return;
    }
    if (!make_room(b)) {
        b->failed = true;
        return;
    }
    const char *at = text;
    struct redis_entry *e = &b->entries[b->n_entries++];
    *e = (struct redis_entry){.first_field = b->n_fields};
    e->id.ms = number(&at, text + len);
    if (at < text + len)
        at++;
    e->id.seq = number(&at, text + len);
}

static void add_field(struct redis_batch *b, const char *text, size_t len)
{
    if (b->cut || b->failed || !b->n_entries)
        return;
    struct redis_field f = {b->text.len, len};
    buffer_append(&b->text, text, len);
    bool room = !b->text.failed && make_room(b);
    struct redis_entry *e = &b->entries[b->n_entries - 1];
    if (!room) {
        /* An entry without all of its fields must not be taken for whole: it is read again. */
        b->n_entries--;
        b->n_fields = e->first_field;
        b->failed = true;
        return;
    }
    b->fields[b->n_fields++] = f;
    e->n_fields++;
    e->bytes += len;
}

static void *on_string(const redisReadTask *task, char *text, size_t len)
{
    struct redis_batch *b = task->privdata;
    switch (depth_of(task)) {
    case 0:
        if (task->type == REDIS_REPLY_ERROR)
            buffer_append(&b->error, text, len);
        break;
    case DEPTH_ENTRY:
        begin_entry(b, text, len);
        break;
    case DEPTH_FIELDS:
        add_field(b, text, len);
        break;
    default:
        break;
    }
    return as_object(1);
}

#if HIREDIS_MAJOR >= 1
static void *on_array(const redisReadTask *task, size_t elements)
#else
static void *on_array(const redisReadTask *task, int elements)
#endif
{
    (void)elements;
    return as_object(depth_of(task) + 1);
}

static void *on_integer(const redisReadTask *task, long long value)
{
    (void)task;
    (void)value;
    return as_object(1);
}

static void *on_nil(const redisReadTask *task)
{
    (void)task;
    return as_object(1);
}

static void on_free(void *object)
{
    (void)object;
}

redisReplyObjectFunctions *redis_batch_functions(void)
{
    static redisReplyObjectFunctions functions = {.createString = on_string,
                                                  .createArray = on_array,
                                                  .createInteger = on_integer,
                                                  .createNil = on_nil,
                                                  .freeObject = on_free};
    return &functions;
}

void redis_batch_begin(struct redis_batch *batch)
{
    batch->n_entries = batch->n_fields = 0;
    batch->cut = batch->failed = false;
    buffer_reset(&batch->text, KEEP_TEXT);
    buffer_reset(&batch->error, 4096);
}

void redis_batch_done(struct redis_batch *batch)
{
    free(batch->entries);
    free(batch->fields);
    buffer_done(&batch->text);
    buffer_done(&batch->error);
    *batch = (struct redis_batch){0};
}
