/* One firing of a trigger, as its action sees it (action.h has the functions that actions call). Who makes it
 * fire says where its effects go: a shard into the present epoch, the checker into a description. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "worker/action/action.h"

struct action_type;
struct cloudevent;
struct error;
struct firing;
struct globals;
struct trigger;

struct firing_type {
    int (*emit)(struct firing *firing, const struct cloudevent *event, struct error *err);
    int (*write)(struct firing *firing, const struct cloudevent *carrier, struct error *err);
    int (*intend)(struct firing *firing, const struct action_type *action, const char *key, const char *body,
                  size_t body_len, const char *elements, size_t elements_len, struct error *err);
    void (*finish)(struct firing *firing);
    /* Who would be activated by an event: 0 nobody, 1 somebody, 2 one of them catches. NULL: nobody ever. */
    unsigned (*takes)(struct firing *firing, const struct cloudevent *event);
    int (*timer)(struct firing *firing, uint64_t at, const struct cloudevent *event, struct error *err);
};

/* firing_key by its parts. */
void firing_key_of(const char *creation, const char *identity, size_t identity_len, uint64_t number,
                   uint32_t element, char ret_key[ACTION_KEY_MAX]);

/* Embedded in its maker's; borrows everything. */
struct firing {
    const struct firing_type *type;
    const char *workspace;
    const char *creation; /* the workspace's creation value */
    struct trigger *trigger;
    const struct cloudevent *event;
    uint64_t number;               /* of the trigger's firings */
    const struct globals *globals; /* NULL: none */
    uint32_t n_writes;             /* into other triggers' contexts, so far */
    char awaited[ACTION_KEY_MAX];  /* key of the intent whose answer the trigger waits for (waiting.h); "":
                                      none */
    uint64_t own_source; /* hash of the name of the event source that means the workflow itself; 0: none */
};
