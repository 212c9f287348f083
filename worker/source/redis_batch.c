#include "worker/source/redis_batch.h"

#include <stdlib.h>
#include <string.h>

#define BYTES_AT_MOST (16u << 20) /* text of one batch; one entry more may exceed it */
#define FIELDS_AT_ONCE 4096
#define HEADER_DIGITS 18 /* of a number in a header, so that it cannot overflow */
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

static bool make_room_entry(struct redis_batch *b)
{
    if (b->n_entries < b->entries_cap)
        return true;
    size_t cap = b->entries_cap ? b->entries_cap * 2 : 128;
    struct redis_entry *entries = realloc(b->entries, cap * sizeof *entries);
    if (!entries)
        return false;
    b->entries = entries;
    b->entries_cap = cap;
    return true;
}

static bool make_room_fields(struct redis_batch *b, size_t n)
{
    if (b->fields_cap - b->n_fields >= n)
        return true;
    size_t cap = b->fields_cap ? b->fields_cap : 1024;
    while (cap - b->n_fields < n)
        cap *= 2;
    struct redis_field *fields = realloc(b->fields, cap * sizeof *fields);
    if (!fields)
        return false;
    b->fields = fields;
    b->fields_cap = cap;
    return true;
}

static uint64_t number(const char **at, const char *end)
{
    uint64_t n = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; (*at)++)
        n = n * 10 + (uint64_t)(**at - '0');
    return n;
}

static struct redis_id parse_id(const char *text, size_t len)
{
    struct redis_id id;
    const char *end = text + len;
    id.ms = number(&text, end);
    if (text < end)
        text++;
    id.seq = number(&text, end);
    return id;
}

/* --- looking ahead --- */

enum { LINE_WHOLE, LINE_PARTIAL, LINE_WRONG };

/* The line at text + at, of which *ret_number is the number of an array or string header. Header lines are
 * short: they are read byte by byte; others (errors, integers) are searched for their end. */
static int read_line(const char *text, size_t len, size_t at, int64_t *ret_number, size_t *ret_next)
{
    if (at == len)
        return LINE_PARTIAL;
    char type = text[at++];
    if (type != '*' && type != '$') {
        const char *end = memchr(text + at, '\r', len - at);
        if (!end || end + 1 == text + len)
            return LINE_PARTIAL;
        *ret_next = (size_t)(end + 2 - text);
        return end[1] == '\n' ? LINE_WHOLE : LINE_WRONG;
    }
    int64_t n = 0;
    size_t first = at;
    bool negative = at < len && text[at] == '-';
    at += negative;
    for (; at < len && text[at] >= '0' && text[at] <= '9' && at - first < HEADER_DIGITS; at++)
        n = n * 10 + (text[at] - '0');
    if (at + 1 >= len)
        return LINE_PARTIAL;
    if (at == first + negative || text[at] != '\r' || text[at + 1] != '\n')
        return LINE_WRONG;
    *ret_number = negative ? -n : n;
    *ret_next = at + 2;
    return LINE_WHOLE;
}

/* An element has ended: so have the arrays whose last one it was. Returns whether the reply has. */
static bool element_done(struct redis_frame *f)
{
    while (f->depth && --f->left[f->depth - 1] == 0)
        f->depth--;
    return f->depth == 0;
}

int redis_frame_scan(struct redis_frame *frame, const char *text, size_t len)
{
    bool whole = false;
    while (!whole) {
        int64_t n = 0;
        size_t next;
        int line = read_line(text, len, frame->at, &n, &next);
        if (line != LINE_WHOLE)
            return line == LINE_PARTIAL ? 1 : -1;
        char type = text[frame->at];
        if (type == '*' && n > 0) {
            if (frame->depth == REDIS_FRAME_DEPTH || (frame->depth == DEPTH_ENTRY - 1 && n != 2))
                return -1;
            frame->left[frame->depth++] = n;
            frame->at = next;
            continue;
        }
        if (type == '$' && n >= 0) {
            if (len - next < (size_t)n + 2)
                return 1;
            if (frame->depth == DEPTH_ENTRY && frame->left[DEPTH_ENTRY - 1] == 2) {
                frame->last_at = next;
                frame->last_len = (size_t)n;
                frame->n_entries++;
            }
            next += (size_t)n + 2;
        }
        frame->at = next;
        whole = element_done(frame);
    }
    return 0;
}

struct redis_id redis_frame_last(const struct redis_frame *frame, const char *text)
{
    return parse_id(text + frame->last_at, frame->last_len);
}

/* --- parsing --- */

static void begin_entry(struct redis_batch *b, const char *text, size_t len)
{
    if (b->cut || b->failed)
        return;
    if (b->text.len > BYTES_AT_MOST) {
        b->cut = true;
        return;
    }
    if (!make_room_entry(b)) {
        b->failed = true;
        return;
    }
    b->open = true;
    b->entries[b->n_entries++] = (struct redis_entry){.first_field = b->n_fields, .id = parse_id(text, len)};
}

/* An entry without all of its fields must not be taken for whole: it is read again. */
static void give_up_entry(struct redis_batch *b)
{
    b->n_fields = b->entries[--b->n_entries].first_field;
    b->failed = true;
    b->fields_left = 0;
}

static void begin_fields(struct redis_batch *b, size_t n)
{
    if (!b->open)
        return;
    b->open = false;
    b->fields_left = n;
    if (!make_room_fields(b, n < FIELDS_AT_ONCE ? n : FIELDS_AT_ONCE)) /* more only as they come */
        give_up_entry(b);
}

static void add_field(struct redis_batch *b, const char *text, size_t len)
{
    if (!b->fields_left)
        return;
    b->fields_left--;
    struct redis_entry *e = &b->entries[b->n_entries - 1];
    char *to = b->text.cap - b->text.len >= len && b->text.data ? b->text.data + b->text.len
                                                                : buffer_reserve(&b->text, len);
    if (!to || (b->n_fields == b->fields_cap && !make_room_fields(b, 1))) {
        give_up_entry(b);
        return;
    }
    memcpy(to, text, len);
    b->fields[b->n_fields++] = (struct redis_field){b->text.len, len};
    b->text.len += len;
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
        b->open = false;
        if (task->idx == 0 && task->type == REDIS_REPLY_STRING)
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
    uintptr_t depth = depth_of(task) + 1;
    if (depth == DEPTH_FIELDS && task->idx == 1 && elements > 0)
        begin_fields(task->privdata, (size_t)elements);
    return as_object(depth);
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
    batch->cut = batch->failed = batch->open = false;
    batch->fields_left = 0;
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
