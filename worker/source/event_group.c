#include "worker/source/event_group.h"

#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/cloudevent.h"
#include "common/error.h"

#define EVENTS_MAGIC 0x31474654u /* "TFG1" */
#define IDS_MAGIC 0x31494654u    /* "TFI1" */
#define KEEP_BYTES (2u << 20)

struct events_head {
    uint32_t magic;
    uint32_t n;
    uint64_t checksum;
};

struct ids_head {
    uint32_t magic;
    uint32_t n;
    uint64_t unix_s;
    struct event_totals totals;
};

_Static_assert(sizeof(struct events_head) == 16 && sizeof(struct ids_head) == 32, "as they are stored");
_Static_assert(sizeof(struct event_id) == 16, "as they are stored");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "what is stored is little-endian");

struct event_id event_id_of(const struct cloudevent *event)
{
    const struct cloudevent_span *source = &event->attribute[CE_SOURCE];
    const struct cloudevent_span *id = &event->attribute[CE_ID];
    unsigned char text[512];
    XXH128_hash_t h;
    size_t len = sizeof source->len + source->len + id->len;
    if (len <= sizeof text) { /* the length in front keeps ("ab", "c") and ("a", "bc") apart */
        memcpy(text, &source->len, sizeof source->len);
        memcpy(text + sizeof source->len, source->text ? source->text : "", source->len);
        memcpy(text + sizeof source->len + source->len, id->text ? id->text : "", id->len);
        h = XXH3_128bits(text, len);
    } else {
        XXH3_state_t state;
        XXH3_128bits_reset(&state);
        XXH3_128bits_update(&state, &source->len, sizeof source->len);
        XXH3_128bits_update(&state, source->text, source->len);
        XXH3_128bits_update(&state, id->text, id->len);
        h = XXH3_128bits_digest(&state);
    }
    if (!h.low64 && !h.high64)
        h.low64 = 1;
    return (struct event_id){h.low64, h.high64};
}

/* --- writing --- */

void event_group_done(struct event_group *group)
{
    buffer_done(&group->events);
    buffer_done(&group->ids);
}

void event_group_reset(struct event_group *group)
{
    static const char nothing[sizeof(struct ids_head)];
    buffer_reset(&group->events, KEEP_BYTES);
    buffer_reset(&group->ids, KEEP_BYTES);
    buffer_append(&group->events, nothing, sizeof(struct events_head));
    buffer_append(&group->ids, nothing, sizeof(struct ids_head));
    group->n = 0;
}

void event_group_add(struct event_group *group, const void *packed, size_t size, const struct event_id *id)
{
    buffer_append(&group->events, packed, size);
    buffer_append(&group->ids, id, sizeof *id);
    group->n++;
}

int event_group_seal(struct event_group *group, bool with_ids, uint64_t unix_s,
                     const struct event_totals *before, struct event_totals *ret_totals, struct error *err)
{
    if (group->events.failed || group->ids.failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a group of %u events", group->n);
    const char *text = group->events.data + sizeof(struct events_head);
    struct events_head head = {EVENTS_MAGIC, group->n,
                               XXH3_64bits(text, group->events.len - sizeof(struct events_head))};
    struct event_totals totals = {before->events + group->n, before->bytes + group->events.len};
    struct ids_head ids = {IDS_MAGIC, with_ids ? group->n : 0, unix_s, totals};
    memcpy(group->events.data, &head, sizeof head);
    memcpy(group->ids.data, &ids, sizeof ids);
    if (!with_ids)
        group->ids.len = sizeof ids;
    *ret_totals = totals;
    return 0;
}

/* --- reading --- */

int event_group_open(const char *text, size_t len, struct event_group_reader *ret_reader, struct error *err)
{
    struct events_head head;
    *ret_reader = (struct event_group_reader){.n_left = 0};
    if (len < sizeof head)
        return error_set(err, ERROR_INVALID, "a group of %zu bytes", len);
    memcpy(&head, text, sizeof head);
    if (head.magic != EVENTS_MAGIC)
        return error_set(err, ERROR_INVALID, "a group of an unknown format, %08x", head.magic);
    if (!head.n)
        return error_set(err, ERROR_INVALID, "a group without events");
    if (head.checksum != XXH3_64bits(text + sizeof head, len - sizeof head))
        return error_set(err, ERROR_INVALID, "a group of %zu bytes is damaged: its checksum is wrong", len);
    *ret_reader = (struct event_group_reader){text + sizeof head, len - sizeof head, head.n};
    return 0;
}

int event_group_next(struct event_group_reader *reader, struct cloudevent *ret_event, struct error *err)
{
    size_t size;
    if (cloudevent_unpack_checked(reader->at, reader->left, ret_event, &size, err) < 0)
        return -1;
    reader->at += size;
    reader->left -= size;
    reader->n_left--;
    return 0;
}

int event_ids_open(const void *text, size_t len, struct event_ids *ret_ids, struct error *err)
{
    struct ids_head head;
    if (len < sizeof head)
        return error_set(err, ERROR_INVALID, "ids of %zu bytes", len);
    memcpy(&head, text, sizeof head);
    if (head.magic != IDS_MAGIC)
        return error_set(err, ERROR_INVALID, "ids of an unknown format, %08x", head.magic);
    if (head.n != (len - sizeof head) / sizeof(struct event_id) ||
        (len - sizeof head) % sizeof(struct event_id))
        return error_set(err, ERROR_INVALID, "%u ids in %zu bytes", head.n, len);
    *ret_ids = (struct event_ids){head.n, head.unix_s, head.totals, (const char *)text + sizeof head};
    return 0;
}

struct event_id event_ids_at(const struct event_ids *ids, uint32_t i)
{
    struct event_id id;
    memcpy(&id, ids->ids + (size_t)i * sizeof id, sizeof id);
    return id;
}
