/* Open-addressing hash table from byte strings to pointers, with stored 64-bit XXH3 hashes under a random
 * seed (an attacker who chooses keys cannot choose collisions). Linear probing, load at most 3/4, removal by
 * back-shifting. Keys and values are borrowed: they live at least as long as their entry. Thread: one writer
 * or many readers. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct hash_entry {
    uint64_t hash;
    const char *key; /* NULL: empty */
    uint32_t key_len;
    void *value;
};

struct hash_table {
    struct hash_entry *entries; /* NULL until the first put */
    size_t mask;                /* capacity - 1 */
    size_t count;
    uint64_t seed;
};

/* Never fails; allocates nothing. The seed comes from the kernel. */
void hash_init(struct hash_table *table);
void hash_done(struct hash_table *table);

uint64_t hash_bytes(const struct hash_table *table, const void *key, size_t len);

/* The value, or NULL. */
void *hash_get(const struct hash_table *table, const char *key, size_t len);
/* Puts or replaces (the old key and value are dropped; *ret_old, when not NULL, gets the old value or NULL).
 * Returns 0, or -1 when memory ran out and nothing changed. value must not be NULL. */
int hash_put(struct hash_table *table, const char *key, size_t len, void *value, void **ret_old);
/* Removes; the value that was there, or NULL. */
void *hash_remove(struct hash_table *table, const char *key, size_t len);
/* The first entry at or after *cursor, which moves past it; NULL at the end. Start with *cursor = 0. */
struct hash_entry *hash_next(const struct hash_table *table, size_t *cursor);
