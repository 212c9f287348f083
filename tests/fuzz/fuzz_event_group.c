/* event_group.h on any bytes. The first byte chooses what they are read as: the text `events` (its checksum
 * is made right, so that what lies behind it is reached), or the text `ids`. Events that are read survive
 * being written into a group of our own. */
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/source/event_group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD 16 /* magic, number, checksum */

#define require(condition)                                                      \
    do                                                                          \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                            \
        }                                                                       \
    while (0)

static void add(struct event_group *group, const struct cloudevent *event)
{
    size_t size = cloudevent_packed_size(event);
    struct event_id id = event_id_of(event);
    void *packed = malloc(size);
    require(packed);
    cloudevent_pack(event, packed);
    event_group_add(group, packed, size, &id);
    free(packed);
}

static void read_back(struct event_group *group)
{
    struct event_totals before = {0};
    struct event_totals totals;
    struct event_group_reader reader;
    struct event_ids ids;
    struct cloudevent event;
    require(event_group_seal(group, true, 1, &before, &totals, NULL) == 0);
    require(event_group_open(group->events.data, group->events.len, &reader, NULL) == 0);
    require(event_ids_open(group->ids.data, group->ids.len, &ids, NULL) == 0);
    require(ids.n == group->n && totals.events == group->n);
    for (uint32_t i = 0; i < group->n; i++) {
        require(event_group_next(&reader, &event, NULL) == 0);
        struct event_id id = event_id_of(&event);
        struct event_id stored = event_ids_at(&ids, i);
        require(id.low == stored.low && id.high == stored.high);
    }
}

static void read_events(char *text, size_t len)
{
    struct event_group_reader reader;
    struct event_group group = {.n = 0};
    struct cloudevent event;
    if (len >= HEAD) {
        uint64_t checksum = XXH3_64bits(text + HEAD, len - HEAD);
        memcpy(text + 8, &checksum, sizeof checksum);
    }
    event_group_reset(&group);
    if (event_group_open(text, len, &reader, NULL) == 0)
        while (reader.n_left && event_group_next(&reader, &event, NULL) == 0)
            add(&group, &event);
    if (group.n)
        read_back(&group);
    event_group_done(&group);
}

static void read_ids(const char *text, size_t len)
{
    struct event_ids ids;
    uint64_t sum = 0;
    if (event_ids_open(text, len, &ids, NULL) < 0)
        return;
    for (uint32_t i = 0; i < ids.n; i++)
        sum ^= event_ids_at(&ids, i).low;
    require(ids.n || !sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    char *copy = malloc(size); /* aligned, and of exactly this size, so that reading past it is noticed */
    require(copy);
    memcpy(copy, data + 1, size - 1);
    if (data[0] & 1)
        read_events(copy, size - 1);
    else
        read_ids(copy, size - 1);
    free(copy);
    return 0;
}
