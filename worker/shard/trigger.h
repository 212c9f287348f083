/* A trigger: its definition, as stored, and its state.
 *
 * Life: made by the checkpoint thread from the stored document (trigger_new), published through a router,
 * from then on touched by its shard alone but for the immutable part, retired under a newer router, and freed
 * by the checkpoint thread after a barrier under that router, when no record refers to it any more.
 *
 * The stored document is kept as text, without its `context` and `timestamp`, and the context without the
 * members that the condition owns: so a checkpoint writes back every other member exactly as it was given. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/action/action.h"
#include "worker/condition/condition.h"

struct buffer;
struct error;
struct json_value;
struct key_set;
struct permits;
struct waiting;

struct activation {
    const char *type; /* "*": any */
    const char *subject;
    uint32_t type_len;
    uint32_t subject_len;
};

#define TRIGGER_HOT_ALIGNMENT 64

struct trigger {
    /* Immutable. */
    char *id;
    size_t id_len;
    char *uuid; /* "" when the document has none */
    size_t uuid_len;
    char *identity; /* what its fields are stored under: the uuid, else the id; a hash of either when it is
                       long */
    size_t identity_len;
    uint64_t definition; /* hash of the document without context and timestamp */
    const struct action_type *action;
    void *action_state;
    struct activation *activations;
    size_t n_activations;
    char *text; /* one block: document base, context base, activations' text */
    size_t document_len;
    size_t context_len;
    /* Thread: checkpoint. */
    uint64_t reload_mark;
    bool broken; /* what is stored in its place cannot be used */

    /* What an evaluation touches, in one cache line with the state of a condition that counts. */
    _Alignas(TRIGGER_HOT_ALIGNMENT) const
        struct condition_type *condition; /* immutable, like the next three */
    uint64_t identity_hash;               /* arena_name_hash of the uuid or id */
    unsigned shard;
    bool transient;
    /* Thread: shard. */
    bool dirty;        /* changed since the last cut, and in the shard's list */
    bool changed;      /* since the last cut, its condition's state: the document is to be written */
    bool fired;        /* likewise */
    bool patched;      /* likewise, other members of its context */
    _Atomic bool gone; /* transient and fired: inert. Read by the checkpoint thread */
    uint64_t firings;
    uint64_t last_event; /* number of the shard's event that activated it last: an event activates it once */
    struct waiting *waiting; /* NULL until it had to wait for something */
    struct key_set *keys;    /* NULL until an event with a key came */
    /* The condition's state. */
    _Alignas(16) unsigned char state[];
};

/* Parses a stored trigger. Errors: ERROR_INVALID (or ERROR_MEMORY): not JSON, a member missing or of the
 * wrong type, an unknown condition or action; the message names member and value. */
int trigger_new(const char *id, size_t id_len, const char *document, size_t document_len, unsigned n_shards,
                struct trigger **ret_trigger, struct error *err);
void trigger_free(struct trigger *trigger); /* NULL is fine */

/* Whether a stored document is this trigger's, whatever its context says: same uuid and definition. */
bool trigger_same(const struct trigger *trigger, const char *document, size_t document_len);

/* Whether other triggers' firings may write to it by its id (write.h). */
static inline bool trigger_is_target(const struct trigger *trigger)
{
    return trigger->condition->write || trigger->action->again || trigger->condition->ask ||
           trigger->action->answers;
}

/* Whether the configuration lets its condition and action be carried out. Errors: ERROR_INVALID,
 * ERROR_REFUSED, ERROR_MEMORY. */
int trigger_permitted(const struct trigger *trigger, const struct permits *permits, struct error *err);

/* Has the condition ask (condition_type.ask). Thread: shard. */
int trigger_ask(struct trigger *trigger, struct firing *firing, const char *key, struct error *err);

/* Merges members into the present context (RFC 7396), those of the condition's state included. Nothing is
 * changed when it fails: ERROR_INVALID as the condition says, ERROR_MEMORY. Thread: shard. */
int trigger_patch(struct trigger *trigger, const struct json_value *members, struct error *err);

/* Appends the present context, a JSON object. Thread: shard. */
void trigger_write_context(const struct trigger *trigger, struct buffer *out);
/* The same without the condition's members. */
void trigger_write_settings(const struct trigger *trigger, struct buffer *out);
/* Appends the document with the present context and this timestamp (ISO 8601, without quotes). Thread: shard.
 */
void trigger_write(const struct trigger *trigger, const char *timestamp, struct buffer *out);
