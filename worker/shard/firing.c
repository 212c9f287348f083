#include "worker/shard/firing.h"

#include <stdio.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/action/action.h"
#include "worker/globals.h"
#include "worker/shard/keys.h"
#include "worker/shard/trigger.h"
#include "worker/shard/write.h"

bool firing_is_own(const struct firing *firing, uint64_t source)
{
    return source && source == firing->own_source;
}

const struct cloudevent *firing_event(const struct firing *firing)
{
    return firing->event;
}

const char *firing_workspace(const struct firing *firing)
{
    return firing->workspace;
}

const char *firing_trigger(const struct firing *firing)
{
    return firing->trigger->id;
}

/* What hides the element in the last 32 bits of a key, made of the others. */
static uint32_t mask_of(XXH128_hash_t h)
{
    return (uint32_t)(((h.high64 ^ h.low64 >> 32) * UINT64_C(0x9E3779B97F4A7C15)) >> 32);
}

static uint32_t element_of(XXH128_hash_t key)
{
    return (uint32_t)key.low64 ^ mask_of(key);
}

/* The element can be told from it: so a key is looked for without trying all elements. */
static XXH128_hash_t key_hash(const char *creation, const char *identity, size_t identity_len,
                              uint64_t number, uint32_t element)
{
    uint64_t numbers[2] = {number, element};
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, creation, strlen(creation) + 1);
    XXH3_128bits_update(&state, identity, identity_len + 1);
    XXH3_128bits_update(&state, numbers, sizeof numbers);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    h.low64 = (h.low64 & ~UINT64_C(0xFFFFFFFF)) | (element ^ mask_of(h));
    return h;
}

void firing_key_of(const char *creation, const char *identity, size_t identity_len, uint64_t number,
                   uint32_t element, char ret_key[ACTION_KEY_MAX])
{
    XXH128_hash_t h = key_hash(creation, identity, identity_len, number, element);
    snprintf(ret_key, ACTION_KEY_MAX, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

void firing_key(const struct firing *firing, uint32_t element, char ret_key[ACTION_KEY_MAX])
{
    const struct trigger *t = firing->trigger;
    firing_key_of(firing->creation, t->identity, t->identity_len, firing->number, element, ret_key);
}

#define FIRINGS_SEARCHED 200000 /* some ten milliseconds */

bool firing_find_key(const struct firing *firing, const char *key, uint32_t n_elements, uint32_t *ret_element)
{
    const struct trigger *t = firing->trigger;
    unsigned long long high, low;
    if (strlen(key) != ACTION_KEY_MAX - 1 || sscanf(key, "%16llx%16llx", &high, &low) != 2)
        return false;
    uint32_t element = element_of((XXH128_hash_t){.high64 = high, .low64 = low});
    if (element >= n_elements)
        return false;
    for (uint64_t back = 1; back <= FIRINGS_SEARCHED && back < firing->number; back++) {
        XXH128_hash_t h =
            key_hash(firing->creation, t->identity, t->identity_len, firing->number - back, element);
        if (h.high64 != high || h.low64 != low)
            continue;
        *ret_element = element;
        return true;
    }
    return false;
}

void firing_await(struct firing *firing, const char *key)
{
    snprintf(firing->awaited, sizeof firing->awaited, "%s", key);
}

bool firing_is_last(const struct firing *firing)
{
    return firing->trigger->transient;
}

const char *firing_identity(const struct firing *firing)
{
    return firing->trigger->identity;
}

int firing_emit(struct firing *firing, const struct cloudevent *event, struct error *err)
{
    return firing->type->emit(firing, event, err);
}

static unsigned takers(struct firing *firing, const char *type, const char *subject)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_TYPE] = (struct cloudevent_span){.text = type, .len = (uint32_t)strlen(type)};
    event.attribute[CE_SUBJECT] = (struct cloudevent_span){.text = subject, .len = (uint32_t)strlen(subject)};
    return firing->type->takes ? firing->type->takes(firing, &event) : 0;
}

bool firing_takes(struct firing *firing, const char *type, const char *subject)
{
    return takers(firing, type, subject) > 0;
}

bool firing_catches(struct firing *firing, const char *type, const char *subject)
{
    return takers(firing, type, subject) > 1;
}

int firing_timer(struct firing *firing, uint64_t at, const struct cloudevent *event, struct error *err)
{
    return firing->type->timer(firing, at, event, err);
}

int firing_context(const struct firing *firing, struct buffer *out, struct error *err)
{
    trigger_write_context(firing->trigger, out);
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

void firing_global(const struct firing *firing, struct json_value *ret_global)
{
    static const struct json_value none = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    *ret_global = firing->globals ? firing->globals->root : none;
}

int firing_merge(struct firing *firing, const struct json_value *members, struct error *err)
{
    if (trigger_patch(firing->trigger, members, err) < 0)
        return -1;
    firing->trigger->patched = true;
    return 0;
}

int firing_settings(const struct firing *firing, struct buffer *out, struct error *err)
{
    trigger_write_settings(firing->trigger, out);
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

int firing_once(struct firing *firing, const char *key, size_t len, struct error *err)
{
    if (firing->trigger->condition->counts_keys) /* its events have been looked at already */
        return 1;
    int added = keys_add(&firing->trigger->keys, key, len);
    return added < 0 ? error_set(err, ERROR_MEMORY, "out of memory") : added;
}

static int write_to(struct firing *firing, const char *type, const char *subject, size_t subject_len,
                    const char *body, size_t body_len, struct error *err)
{
    struct cloudevent carrier;
    char key[ACTION_KEY_MAX];
    firing_key(firing, UINT32_MAX - firing->n_writes, key);
    write_compose(&carrier, key, type, subject, subject_len, body, body_len);
    if (firing->type->write(firing, &carrier, err) < 0)
        return -1;
    firing->n_writes++;
    return 0;
}

int firing_write(struct firing *firing, const char *id, size_t id_len, const char *body, size_t body_len,
                 struct error *err)
{
    return write_to(firing, NULL, id, id_len, body, body_len, err);
}

int firing_tell(struct firing *firing, const char *type, const char *subject, size_t subject_len,
                const char *body, size_t body_len, struct error *err)
{
    return write_to(firing, type, subject, subject_len, body, body_len, err);
}

int firing_intend(struct firing *firing, const struct action_type *action, const char *key, const char *body,
                  size_t body_len, struct error *err)
{
    return firing->type->intend(firing, action, key, body, body_len, NULL, 0, err);
}

int firing_intend_each(struct firing *firing, const struct action_type *action, const char *body,
                       size_t body_len, const char *elements, size_t elements_len, struct error *err)
{
    char key[ACTION_KEY_MAX];
    firing_key(firing, UINT32_MAX, key);
    return firing->type->intend(firing, action, key, body, body_len, elements, elements_len, err);
}

void firing_finish(struct firing *firing)
{
    firing->type->finish(firing);
}
