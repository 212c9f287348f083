#include "common/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/clock.h"

#define HASH_MIN_CAPACITY 16

void hash_init(struct hash_table *table)
{
    *table = (struct hash_table){0};
    if (getrandom(&table->seed, sizeof table->seed, GRND_NONBLOCK) != sizeof table->seed)
        table->seed = clock_now_ns() * 0x9E3779B97F4A7C15ull;
}

void hash_done(struct hash_table *table)
{
    free(table->entries);
    table->entries = NULL;
    table->mask = table->count = 0;
}

uint64_t hash_bytes(const struct hash_table *table, const void *key, size_t len)
{
    return XXH3_64bits_withSeed(key, len, table->seed);
}

static struct hash_entry *find(const struct hash_table *table, uint64_t hash, const char *key, size_t len)
{
    if (!table->entries)
        return NULL;
    for (size_t i = hash & table->mask;; i = (i + 1) & table->mask) {
        struct hash_entry *e = &table->entries[i];
        if (!e->key)
            return NULL;
        if (e->hash == hash && e->key_len == len && !memcmp(e->key, key, len))
            return e;
    }
}

void *hash_get(const struct hash_table *table, const char *key, size_t len)
{
    if (!table->entries)
        return NULL;
    struct hash_entry *e = find(table, hash_bytes(table, key, len), key, len);
    return e ? e->value : NULL;
}

static void place(struct hash_entry *entries, size_t mask, const struct hash_entry *entry)
{
    size_t i = entry->hash & mask;
    while (entries[i].key)
        i = (i + 1) & mask;
    entries[i] = *entry;
}

static int grow(struct hash_table *table)
{
    size_t capacity = table->entries ? (table->mask + 1) * 2 : HASH_MIN_CAPACITY;
    struct hash_entry *entries = calloc(capacity, sizeof *entries);
    if (!entries)
        return -1;
    if (table->entries)
        for (size_t i = 0; i <= table->mask; i++)
            if (table->entries[i].key)
                place(entries, capacity - 1, &table->entries[i]);
    free(table->entries);
    table->entries = entries;
    table->mask = capacity - 1;
    return 0;
}

int hash_put(struct hash_table *table, const char *key, size_t len, void *value, void **ret_old)
{
    assert(value && key && len <= UINT32_MAX);
    uint64_t hash = hash_bytes(table, key, len);
    struct hash_entry *e = find(table, hash, key, len);
    if (e) {
        if (ret_old)
            *ret_old = e->value;
        e->key = key;
        e->value = value;
        return 0;
    }
    if ((!table->entries || (table->count + 1) * 4 > (table->mask + 1) * 3) && grow(table) < 0)
        return -1;
    place(table->entries, table->mask,
          &(struct hash_entry){.hash = hash, .key = key, .key_len = (uint32_t)len, .value = value});
    table->count++;
    if (ret_old)
        *ret_old = NULL;
    return 0;
}

void *hash_remove(struct hash_table *table, const char *key, size_t len)
{
    if (!table->entries)
        return NULL;
    struct hash_entry *e = find(table, hash_bytes(table, key, len), key, len);
    if (!e)
        return NULL;
    void *value = e->value;
    size_t hole = (size_t)(e - table->entries);
    /* Moves later entries of the probe run back, so that no tombstones are needed (Knuth 6.4, algorithm R).
     */
    for (size_t i = (hole + 1) & table->mask; table->entries[i].key; i = (i + 1) & table->mask) {
        size_t home = table->entries[i].hash & table->mask;
        if (((i - home) & table->mask) >= ((i - hole) & table->mask)) {
            table->entries[hole] = table->entries[i];
            hole = i;
        }
    }
    table->entries[hole] = (struct hash_entry){0};
    table->count--;
    return value;
}

struct hash_entry *hash_next(const struct hash_table *table, size_t *cursor)
{
    if (!table->entries)
        return NULL;
    for (size_t i = *cursor; i <= table->mask; i++)
        if (table->entries[i].key) {
            *cursor = i + 1;
            return &table->entries[i];
        }
    return NULL;
}
