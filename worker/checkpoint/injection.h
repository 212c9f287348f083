/* What the checkpoint thread puts into the workflow by itself: due timers and redriven dead letters. Each
 * goes its way and its origin, a stored field, is deleted, both in the epoch to come: a crash repeats all of
 * it or finds it done. Thread: checkpoint, between two epochs. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/storage/storage.h"
#include "worker/action/action.h"

struct changes;
struct cloudevent;
struct error;
struct intent;
struct worker;

struct injection {
    struct worker *worker;
    struct changes *changes; /* the checkpoint's own */
    uint64_t epoch;          /* the one to come */
    unsigned n_intents;      /* in it */
    struct intent *intents;  /* to be started after its commit */
    struct intent **intents_end;
};

struct injection_origin {
    enum storage_set set;
    const char *key;
    size_t key_len;
};

void injection_init(struct injection *injection, struct worker *worker, struct changes *changes);
void injection_done(struct injection *injection);
/* The epoch before this one has committed. Returns its intents. */
struct intent *injection_next(struct injection *injection, uint64_t epoch);

/* An idempotency key: a hash of the workspace's creation value, a word and an id. */
void injection_key(const struct injection *injection, const char *word, const char *id, size_t id_len,
                   char ret_key[ACTION_KEY_MAX]);

/* Puts an event into the internal source (copied). Errors: ERROR_MEMORY. */
int injection_event(struct injection *injection, const struct cloudevent *event,
                    const struct injection_origin *origin, struct error *err);
/* Puts a write into triggers' contexts (write.h) into the internal source. Errors: ERROR_MEMORY. */
int injection_write(struct injection *injection, const struct cloudevent *carrier,
                    const struct injection_origin *origin, struct error *err);
/* Puts an intent's document into the outbox, or has its trigger make it again, if its action can
 * (action_type.again). Errors: ERROR_INVALID, ERROR_MEMORY. */
int injection_intent(struct injection *injection, const char *document, size_t len,
                     const struct injection_origin *origin, struct error *err);
