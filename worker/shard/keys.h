/* The idempotency keys that one trigger has counted (as 128-bit XXH3), so that a repeat counts once.
 *
 * Stored in the checkpoint as fields keys:<uuid>:<epoch>, each the hex of the keys first seen in that epoch.
 * Thread: the trigger's shard; keys_load before the trigger is published. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct changes;
struct key_set;

void keys_free(struct key_set *set); /* NULL is fine */

/* Whether key is new; if so it is remembered. *set is made when NULL. Returns 1 new, 0 seen before, -1 out of
 * memory (nothing changed). */
int keys_add(struct key_set **set, const char *key, size_t len);

/* Undoes the last keys_add, which has returned 1. */
void keys_take_back(struct key_set *set);

/* Adds the keys of one stored field. Returns 0, or -1: not ours, or out of memory. */
int keys_load(struct key_set **set, uint64_t epoch, const char *hex, size_t len);

/* Writes the keys that are new since the last call as a field of this epoch. */
void keys_write(struct key_set *set, const char *uuid, size_t uuid_len, uint64_t epoch, struct changes *out);
/* Removes all stored fields (the trigger is gone). */
void keys_delete(struct key_set *set, const char *uuid, size_t uuid_len, struct changes *out);
