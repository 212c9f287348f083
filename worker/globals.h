/* The workspace's global context, as immutable snapshots: read from storage with the triggers, replaced as a
 * whole when it has changed, and freed when the last who uses one lets it go. Thread: any. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "common/json.h"
#include "worker/globals_slot.h"

struct error;
struct storage;

struct globals {
    _Atomic unsigned references;
    struct json_value root; /* an object: name -> value */
    size_t len;
    char text[];
};

void globals_slot_init(struct globals_slot *slot);
void globals_slot_done(struct globals_slot *slot);

/* A snapshot of this JSON object, to be let go with globals_unref. Errors: ERROR_INVALID: it is none;
 * ERROR_MEMORY. */
int globals_new(const char *text, size_t len, struct globals **ret_globals, struct error *err);

/* Reads it from storage; 1: it has changed. A value that is not JSON is taken as a text. Thread: checkpoint.
 */
int globals_load(struct globals_slot *slot, struct storage *storage, const char *workspace,
                 struct error *err);

/* The newest, to be let go with globals_unref; NULL when there is none. */
struct globals *globals_get(struct globals_slot *slot);
void globals_unref(struct globals *globals); /* NULL is fine */
/* Replaces *globals when there is a newer one than *version. Cheap when there is none. */
void globals_refresh(struct globals_slot *slot, struct globals **globals, uint64_t *version);
