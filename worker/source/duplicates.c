/* Invariants: ids is a ring of a power of two; those remembered are [first, last), the ones of the open group
 * the last of them. The index has twice as many slots; each names a place in the ring (plus 1; 0: empty),
 * found by a seeded hash of the id, so that nobody who chooses ids can choose collisions; removal shifts
 * back, so there are no marks of the deleted. */
#include "worker/source/duplicates.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/error.h"

#define FIRST_CAPACITY 1024u

struct group {
    uint64_t number;
    uint64_t unix_s;
    size_t n;
};

struct duplicates {
    uint64_t window_s;
    size_t max;
    uint64_t seed;
    struct event_id *ids;
    uint32_t *index;
    size_t capacity; /* of ids */
    uint64_t first;
    uint64_t last;
    size_t open; /* of the open group */
    struct group *groups;
    size_t groups_capacity; /* a power of two */
    uint64_t first_group;
    uint64_t last_group;
};

int duplicates_new(uint64_t window_s, size_t max, struct duplicates **ret_duplicates, struct error *err)
{
    struct duplicates *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, ERROR_MEMORY, "out of memory");
    d->window_s = window_s;
    d->max = max;
    if (getrandom(&d->seed, sizeof d->seed, 0) != sizeof d->seed)
        d->seed = (uint64_t)(uintptr_t)d;
    *ret_duplicates = d;
    return 0;
}

void duplicates_free(struct duplicates *duplicates)
{
    if (!duplicates)
        return;
    free(duplicates->ids);
    free(duplicates->index);
    free(duplicates->groups);
    free(duplicates);
}

bool duplicates_on(const struct duplicates *duplicates)
{
    return duplicates->window_s > 0;
}

size_t duplicates_count(const struct duplicates *duplicates)
{
    return (size_t)(duplicates->last - duplicates->first);
}

/* --- the index --- */

static size_t home(const struct duplicates *d, const struct event_id *id)
{
    return XXH3_64bits_withSeed(id, sizeof *id, d->seed) & (2 * d->capacity - 1);
}

static struct event_id *id_at(const struct duplicates *d, uint64_t at)
{
    return &d->ids[at & (d->capacity - 1)];
}

/* The slot of the id, or the empty one where it would be. */
static size_t find(const struct duplicates *d, const struct event_id *id)
{
    size_t mask = 2 * d->capacity - 1;
    size_t slot = home(d, id);
    for (; d->index[slot]; slot = (slot + 1) & mask) {
        const struct event_id *other = &d->ids[d->index[slot] - 1];
        if (other->low == id->low && other->high == id->high)
            break;
    }
    return slot;
}

static void remove_id(struct duplicates *d, const struct event_id *id)
{
    size_t mask = 2 * d->capacity - 1;
    size_t hole = find(d, id);
    if (!d->index[hole])
        return;
    for (size_t at = (hole + 1) & mask; d->index[at]; at = (at + 1) & mask) {
        size_t wanted = home(d, &d->ids[d->index[at] - 1]);
        if (((at - wanted) & mask) < ((at - hole) & mask))
            continue; /* it would come before its home */
        d->index[hole] = d->index[at];
        hole = at;
    }
    d->index[hole] = 0;
}

static int grow(struct duplicates *d, struct error *err)
{
    size_t capacity = d->capacity ? d->capacity * 2 : FIRST_CAPACITY;
    if (capacity > UINT32_MAX / 2)
        return error_set(err, ERROR_MEMORY, "more than %zu events to be remembered", d->capacity);
    struct event_id *ids = malloc(capacity * sizeof *ids);
    uint32_t *index = calloc(2 * capacity, sizeof *index);
    if (!ids || !index) {
        free(ids);
        free(index);
        return error_set(err, ERROR_MEMORY, "out of memory for the ids of %zu events", capacity);
    }
    for (uint64_t at = d->first; at < d->last; at++)
        ids[at & (capacity - 1)] = *id_at(d, at);
    free(d->ids);
    free(d->index);
    d->ids = ids;
    d->index = index;
    d->capacity = capacity;
    for (uint64_t at = d->first; at < d->last; at++)
        index[find(d, id_at(d, at))] = (uint32_t)(at & (capacity - 1)) + 1;
    return 0;
}

/* --- groups --- */

static void forget_first(struct duplicates *d)
{
    struct group *g = &d->groups[d->first_group & (d->groups_capacity - 1)];
    for (size_t i = 0; i < g->n; i++)
        remove_id(d, id_at(d, d->first++));
    d->first_group++;
}

void duplicates_expire(struct duplicates *duplicates, uint64_t now_unix_s)
{
    struct duplicates *d = duplicates;
    while (d->first_group < d->last_group) {
        uint64_t made = d->groups[d->first_group & (d->groups_capacity - 1)].unix_s;
        if (made + d->window_s >= now_unix_s)
            return;
        forget_first(d);
    }
}

int duplicates_add(struct duplicates *duplicates, const struct event_id *id, struct error *err)
{
    struct duplicates *d = duplicates;
    assert(d->window_s);
    while (duplicates_count(d) >= d->max && d->first_group < d->last_group)
        forget_first(d);
    if (duplicates_count(d) == d->capacity && grow(d, err) < 0)
        return -1;
    size_t slot = find(d, id);
    if (d->index[slot])
        return DUPLICATE_REPETITION;
    *id_at(d, d->last) = *id;
    d->index[slot] = (uint32_t)(d->last & (d->capacity - 1)) + 1;
    d->last++;
    d->open++;
    return DUPLICATE_NEW;
}

int duplicates_keep(struct duplicates *duplicates, uint64_t number, uint64_t unix_s, struct error *err)
{
    struct duplicates *d = duplicates;
    if (!d->open)
        return 0;
    if (d->last_group - d->first_group == d->groups_capacity) {
        size_t capacity = d->groups_capacity ? d->groups_capacity * 2 : 64;
        struct group *groups = malloc(capacity * sizeof *groups);
        if (!groups)
            return error_set(err, ERROR_MEMORY, "out of memory");
        for (uint64_t i = d->first_group; i < d->last_group; i++)
            groups[i & (capacity - 1)] = d->groups[i & (d->groups_capacity - 1)];
        free(d->groups);
        d->groups = groups;
        d->groups_capacity = capacity;
    }
    d->groups[d->last_group++ & (d->groups_capacity - 1)] = (struct group){number, unix_s, d->open};
    d->open = 0;
    return 0;
}

void duplicates_drop(struct duplicates *duplicates)
{
    struct duplicates *d = duplicates;
    for (; d->open; d->open--)
        remove_id(d, id_at(d, --d->last));
}

uint64_t duplicates_oldest(const struct duplicates *duplicates)
{
    const struct duplicates *d = duplicates;
    return d->first_group < d->last_group ? d->groups[d->first_group & (d->groups_capacity - 1)].number
                                          : UINT64_MAX;
}
