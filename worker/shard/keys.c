#include "worker/shard/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "worker/checkpoint/changes.h"

#define HEX_PER_KEY 32

struct key_set {
    uint64_t factor;      /* odd and random: who chooses keys must not choose where they are */
    XXH128_hash_t *slots; /* {0,0}: empty (a key with that hash is stored as {1,0}) */
    size_t mask;
    size_t count;
    XXH128_hash_t *fresh; /* not yet stored */
    size_t n_fresh;
    size_t fresh_cap;
    uint64_t *epochs; /* of the stored fields */
    size_t n_epochs;
};

static bool is_empty(XXH128_hash_t h)
{
    return !h.low64 && !h.high64;
}

void keys_free(struct key_set *set)
{
    if (!set)
        return;
    free(set->slots);
    free(set->fresh);
    free(set->epochs);
    free(set);
}

static struct key_set *make(struct key_set **set)
{
    if (!*set) {
        struct key_set *s = calloc(1, sizeof *s);
        if (s && !(s->slots = calloc(16, sizeof *s->slots))) {
            free(s);
            s = NULL;
        }
        if (s)
            s->mask = 15;
        if (s && getrandom(&s->factor, sizeof s->factor, GRND_NONBLOCK) != sizeof s->factor)
            s->factor = (uint64_t)(uintptr_t)s * 0x9E3779B97F4A7C15ull;
        if (s)
            s->factor |= 1;
        *set = s;
    }
    return *set;
}

static XXH128_hash_t *slot_of(uint64_t factor, XXH128_hash_t *slots, size_t mask, XXH128_hash_t h)
{
    size_t i = (h.low64 * factor >> 32) & mask;
    while (!is_empty(slots[i]) && !XXH128_isEqual(slots[i], h))
        i = (i + 1) & mask;
    return &slots[i];
}

static int grow(struct key_set *s)
{
    size_t mask = s->mask * 2 + 1;
    XXH128_hash_t *slots = calloc(mask + 1, sizeof *slots);
    if (!slots)
        return -1;
    for (size_t i = 0; i <= s->mask; i++)
        if (!is_empty(s->slots[i]))
            *slot_of(s->factor, slots, mask, s->slots[i]) = s->slots[i];
    free(s->slots);
    s->slots = slots;
    s->mask = mask;
    return 0;
}

static int insert(struct key_set *s, XXH128_hash_t h)
{
    if ((s->count + 1) * 4 > (s->mask + 1) * 3 && grow(s) < 0)
        return -1;
    XXH128_hash_t *slot = slot_of(s->factor, s->slots, s->mask, h);
    if (!is_empty(*slot))
        return 0;
    *slot = h;
    s->count++;
    return 1;
}

int keys_add(struct key_set **set, const char *key, size_t len)
{
    struct key_set *s = make(set);
    if (!s)
        return -1;
    XXH128_hash_t h = XXH3_128bits(key, len);
    if (is_empty(h))
        h.low64 = 1;
    if (!is_empty(*slot_of(s->factor, s->slots, s->mask, h)))
        return 0;
    if (s->n_fresh == s->fresh_cap) {
        size_t cap = s->fresh_cap ? s->fresh_cap * 2 : 8;
        XXH128_hash_t *fresh = realloc(s->fresh, cap * sizeof *fresh);
        if (!fresh)
            return -1;
        s->fresh = fresh;
        s->fresh_cap = cap;
    }
    int r = insert(s, h);
    if (r > 0)
        s->fresh[s->n_fresh++] = h;
    return r;
}

static int add_epoch(struct key_set *s, uint64_t epoch)
{
    uint64_t *epochs = realloc(s->epochs, (s->n_epochs + 1) * sizeof *epochs);
    if (!epochs)
        return -1;
    s->epochs = epochs;
    s->epochs[s->n_epochs++] = epoch;
    return 0;
}

void keys_take_back(struct key_set *set)
{
    /* Nothing was looked for past its slot since. */
    memset(slot_of(set->factor, set->slots, set->mask, set->fresh[--set->n_fresh]), 0, sizeof *set->slots);
    set->count--;
}

int keys_load(struct key_set **set, uint64_t epoch, const char *hex, size_t len)
{
    struct key_set *s = make(set);
    if (!s || len % HEX_PER_KEY || add_epoch(s, epoch) < 0)
        return -1;
    for (size_t at = 0; at < len; at += HEX_PER_KEY) {
        char text[HEX_PER_KEY + 1];
        unsigned long long high;
        unsigned long long low;
        memcpy(text, hex + at, HEX_PER_KEY);
        text[HEX_PER_KEY] = '\0';
        if (sscanf(text, "%16llx%16llx", &high, &low) != 2 ||
            insert(s, (XXH128_hash_t){.low64 = low, .high64 = high}) < 0)
            return -1;
    }
    return 0;
}

static int field_name(char *out, size_t size, const char *uuid, size_t uuid_len, uint64_t epoch)
{
    int n = snprintf(out, size, "keys:%.*s:%llu", (int)uuid_len, uuid, (unsigned long long)epoch);
    return n < (int)size ? n : (int)size - 1;
}

void keys_write(struct key_set *set, const char *uuid, size_t uuid_len, uint64_t epoch, struct changes *out)
{
    if (!set || !set->n_fresh)
        return;
    char name[512];
    int n = field_name(name, sizeof name, uuid, uuid_len, epoch);
    struct buffer *b = changes_begin(out, STORAGE_CHECKPOINT, STORAGE_PUT, name, (size_t)n, "", 0);
    for (size_t i = 0; i < set->n_fresh; i++)
        buffer_printf(b, "%016llx%016llx", (unsigned long long)set->fresh[i].high64,
                      (unsigned long long)set->fresh[i].low64);
    changes_end(out);
    set->n_fresh = 0;
    if (add_epoch(set, epoch) < 0)
        out->text.failed = true;
}

void keys_delete(struct key_set *set, const char *uuid, size_t uuid_len, struct changes *out)
{
    if (!set)
        return;
    char name[512];
    for (size_t i = 0; i < set->n_epochs; i++) {
        int n = field_name(name, sizeof name, uuid, uuid_len, set->epochs[i]);
        changes_delete(out, STORAGE_CHECKPOINT, name, (size_t)n);
    }
    set->n_epochs = set->n_fresh = 0;
}
