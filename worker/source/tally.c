#include "worker/source/tally.h"

#include <assert.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define FIRST_SIZE 64u

void tally_init(struct tally *tally, uint64_t seed)
{
    *tally = (struct tally){.seed = seed};
}

void tally_clear(struct tally *tally)
{
    free(tally->entries);
    tally_init(tally, tally->seed);
}

static size_t home(const struct tally *t, const struct consumed_id *id)
{
    return XXH3_64bits_withSeed(id, sizeof *id, t->seed) & t->mask;
}

/* Its entry, or the empty one where it would be. At most half of them are used. */
static size_t find(const struct tally *t, const struct consumed_id *id)
{
    size_t at = home(t, id);
    while (t->entries[at].n && !consumed_id_equal(&t->entries[at].id, id))
        at = (at + 1) & t->mask;
    return at;
}

uint64_t tally_get(const struct tally *tally, const struct consumed_id *id)
{
    return tally->used ? tally->entries[find(tally, id)].n : 0;
}

int tally_reserve(struct tally *tally)
{
    size_t size = tally->entries ? tally->mask + 1 : 0;
    if ((tally->used + 1) * 2 <= size)
        return 0;
    size_t wanted = size ? size * 2 : FIRST_SIZE;
    struct tally grown = {.seed = tally->seed,
                          .entries = calloc(wanted, sizeof *grown.entries),
                          .mask = wanted - 1,
                          .used = tally->used};
    if (!grown.entries)
        return -1;
    for (size_t i = 0; i < size; i++)
        if (tally->entries[i].n)
            grown.entries[find(&grown, &tally->entries[i].id)] = tally->entries[i];
    free(tally->entries);
    *tally = grown;
    return 0;
}

void tally_add(struct tally *tally, const struct consumed_id *id)
{
    assert(tally->entries);
    struct tally_entry *e = &tally->entries[find(tally, id)];
    tally->used += !e->n;
    assert(tally->used <= tally->mask);
    e->id = *id;
    e->n++;
}

bool tally_take(struct tally *tally, const struct consumed_id *id)
{
    if (!tally->used)
        return false;
    struct tally_entry *entries = tally->entries;
    size_t hole = find(tally, id);
    if (!entries[hole].n)
        return false;
    if (--entries[hole].n)
        return true;
    tally->used--;
    for (size_t at = (hole + 1) & tally->mask; entries[at].n; at = (at + 1) & tally->mask) {
        size_t wanted = home(tally, &entries[at].id);
        if (((at - wanted) & tally->mask) < ((at - hole) & tally->mask))
            continue; /* it would come before its home */
        entries[hole] = entries[at];
        entries[at].n = 0;
        hole = at;
    }
    return true;
}
