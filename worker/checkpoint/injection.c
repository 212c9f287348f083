#include "worker/checkpoint/injection.h"

#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/checkpoint/changes.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/crash.h"
#include "worker/executor/intent.h"
#include "worker/source/internal.h"
#include "worker/worker.h"
#include "worker/shard/write.h"

void injection_init(struct injection *injection, struct worker *worker, struct changes *changes)
{
    *injection = (struct injection){.worker = worker, .changes = changes};
    injection->intents_end = &injection->intents;
}

void injection_done(struct injection *injection)
{
    intent_free_list(injection->intents);
}

struct intent *injection_next(struct injection *injection, uint64_t epoch)
{
    struct intent *list = injection->intents;
    injection->intents = NULL;
    injection->intents_end = &injection->intents;
    injection->n_intents = 0;
    injection->epoch = epoch;
    return list;
}

void injection_key(const struct injection *injection, const char *word, const char *id, size_t id_len,
                   char ret_key[ACTION_KEY_MAX])
{
    const char *creation = injection->worker->creation;
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, creation, strlen(creation) + 1);
    XXH3_128bits_update(&state, word, strlen(word) + 1);
    XXH3_128bits_update(&state, id, id_len);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    snprintf(ret_key, ACTION_KEY_MAX, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

static void delete_origin(struct injection *j, const struct injection_origin *origin)
{
    changes_delete(j->changes, origin->set, origin->key, origin->key_len);
    crash_point("injected");
}

int injection_event(struct injection *injection, const struct cloudevent *event,
                    const struct injection_origin *origin, struct error *err)
{
    if (internal_emit(injection->worker->internal, event, injection->epoch, err) < 0)
        return -1;
    delete_origin(injection, origin);
    return 0;
}

int injection_write(struct injection *injection, const struct cloudevent *carrier,
                    const struct injection_origin *origin, struct error *err)
{
    if (internal_write(injection->worker->internal, carrier, injection->epoch, err) < 0)
        return -1;
    delete_origin(injection, origin);
    return 0;
}

/* Its trigger makes it again, from what its context says now: what is stored of the intent may lack secrets,
 * and those who wait for it are told. */
static int repeat(struct injection *j, const struct intent *intent, const struct injection_origin *origin,
                  struct error *err)
{
    struct json_value trigger;
    struct cloudevent carrier;
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO write = BUFFER_INIT;
    if (!intent_trigger(intent, &trigger))
        return error_set(err, ERROR_INVALID, "the intent %s does not name its trigger", intent->key);
    json_unescape(&trigger, &id);
    buffer_printf(&write, "{\"repeat\":{\"key\":\"%s\"}}", intent->key);
    if (id.failed || write.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    write_compose(&carrier, intent->key, NULL, buffer_text(&id), id.len, write.data, write.len);
    return injection_write(j, &carrier, origin, err);
}

int injection_intent(struct injection *injection, const char *document, size_t len,
                     const struct injection_origin *origin, struct error *err)
{
    struct intent *intent;
    char field[INTENT_FIELD_MAX];
    /* As of a shard behind the last one. */
    int n = snprintf(field, sizeof field, "%020llu-%02u-%08u", (unsigned long long)injection->epoch,
                     ARENA_MAX_SHARDS, injection->n_intents);
    if (intent_load(field, (size_t)n, document, len, &intent, err) < 0)
        return -1;
    if (intent->action->again) {
        int r = repeat(injection, intent, origin, err);
        intent_free(intent);
        return r;
    }
    injection->n_intents++;
    intent->replayed = true; /* a redriven one may have been published before */
    *injection->intents_end = intent;
    injection->intents_end = &intent->next;
    changes_put(injection->changes, STORAGE_OUTBOX, intent->field, (size_t)n, document, len);
    delete_origin(injection, origin);
    checkpoint_intent_waits(injection->worker->checkpoint);
    return 0;
}
