/* Recovery: what a worker reads from storage before it starts, and putting it back into place. Everything is
 * read into memory first, so that a read that fails half-way can simply begin again. Thread: checkpoint. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/storage/storage.h"

struct buffer;
struct catalog;
struct changes;
struct error;
struct source;
struct worker;

/* A stored field, owned. */
struct stored_field {
    char *key;
    size_t key_len;
    char *value;
    size_t len;
};

struct stored_fields {
    struct stored_field *items;
    size_t n;
    size_t cap;
};

void stored_fields_done(struct stored_fields *fields);

struct recovery {
    struct storage_claim claim;
    struct stored_fields positions;      /* key: the whole field name */
    struct stored_fields internal;       /* sorted by key */
    struct stored_fields seen;           /* key without "seen:" */
    struct stored_fields consumed;       /* names of the sources that fields of consumed messages belong to */
    struct stored_fields fan_outs;       /* key without "fan_out:" */
    struct stored_fields outbox_started; /* outbox.h; key without "outbox_started:" */
    uint64_t dead_letter_bytes;
    uint64_t finished;
    bool finish_open;
    bool paused; /* by the user */
    char *adopt; /* owned; NULL: no adoption */
};

/* Claims the workspace and reads it; the triggers go into the catalog. 0, STORAGE_ABSENT (err is set), or -1:
 * may be called again. */
int recovery_load(struct recovery *recovery, struct worker *worker, struct storage *storage,
                  struct catalog *catalog, struct error *err);
void recovery_done(struct recovery *recovery);

/* The name of the checkpoint field that holds a source's position. */
void recovery_position_field(const struct source *source, struct buffer *out);

/* Sets the source's starting position; recovery NULL: it is read from storage (a source added later). */
int recovery_restore_source(const struct recovery *recovery, struct storage *storage, struct source *source,
                            struct error *err);
/* What it has consumed, when it is an unordered one; after the position. RECOVERY_AGAIN: the storage has
 * failed, and the call may be repeated. */
enum { RECOVERY_AGAIN = 1 };
int recovery_restore_consumed(const struct recovery *recovery, struct storage *storage, struct source *source,
                              struct error *err);
/* Deletes what sources have consumed that are not stored any more, and did so longer than redelivery_window
 * ago: until then one of the same name may come back. */
int recovery_forget_consumed(const struct recovery *recovery, struct storage *storage, struct worker *worker,
                             struct changes *out, struct error *err);
/* The internal source's position and pending events. */
int recovery_restore_internal(const struct recovery *recovery, struct source *internal, struct error *err);

/* Sums the stored dead letters up. */
int recovery_count_dead_letters(struct worker *worker, struct storage *storage, uint64_t *ret_bytes,
                                struct error *err);
