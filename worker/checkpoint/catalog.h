/* The catalog: the workspace's triggers and event sources as they are stored, kept in step with the storage,
 * and the router over them. Thread: checkpoint. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/hash.h"

struct changes;
struct error;
struct router;
struct source;
struct storage;
struct trigger;
struct worker;

struct catalog {
    struct worker *worker;
    struct hash_table triggers; /* id -> struct trigger */
    struct hash_table fired;    /* identity -> struct stored_fired, while recovering */
    uint64_t mark;              /* of the present reload */
    uint64_t epoch;             /* barriers placed so far: the base of new triggers' firing numbers */
    bool recovered;             /* the first load is over */
    bool counted;               /* some context shows counted events (adoption) */
    size_t n_broken;
    struct buffer broken; /* JSON objects */
    struct buffer broken_sources;
    uint64_t broken_hash;   /* of the broken list as last logged */
    struct trigger **fresh; /* seen in storage for the first time in this reload */
    size_t n_fresh;
    size_t fresh_cap;
    /* To be freed after the next barrier. */
    struct trigger **retired;
    size_t n_retired;
    size_t retired_cap;
    struct router *old_routers; /* by `older` */
    bool stale; /* the published router is not over these triggers: making another one has failed */
    struct changes *changes; /* the checkpoint's own, for fields of removed triggers */
};

int catalog_init(struct catalog *catalog, struct worker *worker, struct changes *changes);
void catalog_done(struct catalog *catalog);

/* Puts one field of the stored checkpoint that concerns a trigger (fired:, keys:) aside until the triggers
 * are loaded. Returns whether it was one. */
bool catalog_recover_field(struct catalog *catalog, const char *key, size_t key_len, const char *value,
                           size_t len);

/* Reads the triggers and publishes a new router when they have changed. Returns 1 when a barrier is needed to
 * retire what was replaced, 0 when not. */
int catalog_load_triggers(struct catalog *catalog, struct storage *storage, struct error *err);

/* Takes fired transient triggers out of the router. Returns as above. */
int catalog_drop_gone(struct catalog *catalog, struct error *err);

/* Frees what was replaced. After a barrier that was placed behind the last publication. */
void catalog_retire(struct catalog *catalog);

/* Reads the event sources: makes those that are new (the caller starts them: `fresh`), and lists those that
 * are gone or changed (the caller stops and removes them). */
struct source_changes {
    struct source *fresh[32];
    size_t n_fresh;
    unsigned stale[32]; /* indices */
    size_t n_stale;
};
int catalog_load_sources(struct catalog *catalog, struct storage *storage, struct source_changes *ret_changes,
                         struct error *err);
