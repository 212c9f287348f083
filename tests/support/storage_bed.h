/* A storage back end for tests: a redis-server of its own, or files in a temporary folder. Tests that every
 * back end must pass run once for each name of storage_bed_backends. Thread: main. */
#pragma once

#include "common/config.h"
#include "common/storage/storage.h"
#include "tests/support/redis_server.h"

extern const char *const storage_bed_backends[]; /* NULL-terminated */

struct storage_bed {
    const char *backend;
    char dir[64]; /* "" with redis */
    struct redis_server redis;
    struct config config; /* names the back end; for storage_open, or to be copied */
};

/* 0; 1 when this back end is not to be had here, with the reason printed; -1 with it on standard error. */
int storage_bed_start(struct storage_bed *bed, const char *backend);
void storage_bed_done(struct storage_bed *bed); /* also after a failed start */
/* Forgets all that is stored. Files: while nothing is open. */
int storage_bed_clear(struct storage_bed *bed);
/* A connection of its own; closed with storage_close. NULL with the reason on standard error. */
struct storage *storage_bed_open(const struct storage_bed *bed);

/* An operation of a commit, of texts, which are borrowed; value and uuid may be NULL. */
struct storage_op storage_op_of(enum storage_set set, enum storage_op_kind kind, const char *key,
                                const char *value, const char *uuid);

/* What load and get report. */
struct storage_found {
    size_t n;
    size_t limit; /* ends the scan at so many; 0: never */
    char last_key[64];
    char last_value[64];
    size_t last_key_len;
    size_t last_value_len;
    char keys[64]; /* joined, as far as they fit */
};

/* For load and get, with a struct storage_found. */
int storage_found_add(void *found, const char *key, size_t key_len, const char *value, size_t value_len);
