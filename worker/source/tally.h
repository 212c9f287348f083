/* Counts of identities: a hash table by open addressing under a random seed, so that nobody who chooses what
 * identities are made of can choose collisions. Removal shifts back. 48 to 96 bytes an identity. Thread: one
 * at a time. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

struct consumed_id {
    uint64_t low;
    uint64_t high; /* of one that is consumed.h's: 32 bits */
};

static inline bool consumed_id_equal(const struct consumed_id *a, const struct consumed_id *b)
{
    return a->low == b->low && a->high == b->high;
}

struct tally_entry {
    struct consumed_id id;
    uint64_t n; /* 0: empty */
};

struct tally {
    uint64_t seed;
    struct tally_entry *entries; /* NULL until something was to be counted */
    size_t mask;                 /* a power of two less 1 */
    size_t used;
};

void tally_init(struct tally *tally, uint64_t seed); /* allocates nothing */
void tally_clear(struct tally *tally);               /* gives its memory back */

uint64_t tally_get(const struct tally *tally, const struct consumed_id *id);
/* Makes room for one more identity; -1: out of memory. */
int tally_reserve(struct tally *tally);
/* Counts one more. Where it may be a new identity, after tally_reserve. */
void tally_add(struct tally *tally, const struct consumed_id *id);
/* Counts one less; false: there was none. */
bool tally_take(struct tally *tally, const struct consumed_id *id);
