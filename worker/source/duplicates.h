/* Which events the log has lately taken in, so that a repetition counts once: the ids of the last groups, in
 * the order in which they came, and an index over them. A group is forgotten when it is older than the
 * window, or when there are too many ids. Memory: 24 bytes an id, at most twice that while it grows. Thread:
 * one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/source/event_group.h"

struct error;
struct duplicates;

/* window_s 0: nothing is remembered. max: ids. Errors: ERROR_MEMORY. */
int duplicates_new(uint64_t window_s, size_t max, struct duplicates **ret_duplicates, struct error *err);
void duplicates_free(struct duplicates *duplicates); /* NULL is fine */
bool duplicates_on(const struct duplicates *duplicates);

/* Forgets what is too old. */
void duplicates_expire(struct duplicates *duplicates, uint64_t now_unix_s);

/* A group is put together id by id: add says whether the id is new (then it is remembered) or a repetition.
 * Then it is kept under its number, or dropped as if it had never been. */
enum { DUPLICATE_NEW = 0, DUPLICATE_REPETITION = 1 };
/* Errors: ERROR_MEMORY. */
int duplicates_add(struct duplicates *duplicates, const struct event_id *id, struct error *err);
/* Errors: ERROR_MEMORY: it stays remembered, but as part of the group to come. */
int duplicates_keep(struct duplicates *duplicates, uint64_t number, uint64_t unix_s, struct error *err);
void duplicates_drop(struct duplicates *duplicates);

/* Ids of groups below this number are not needed any more. UINT64_MAX: none is. */
uint64_t duplicates_oldest(const struct duplicates *duplicates);
size_t duplicates_count(const struct duplicates *duplicates);
