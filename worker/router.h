/* The immutable table (type, subject) -> triggers, as lists per shard. `*` as type or subject of an
 * activation event matches any. Replaced as a whole: made by the checkpoint thread, read by the sources (each
 * picks the newest up when it takes its emit lock), freed after a barrier under the next one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hash.h"
#include "worker/record.h"

struct cloudevent;
struct error;

struct route {
    char *key; /* length of the type, type, subject */
    size_t key_len;
    size_t n;                  /* triggers in all */
    struct trigger **all;      /* sorted by shard */
    struct route_list lists[]; /* per shard, into all */
};

struct router {
    struct hash_table routes;
    struct hash_table targets; /* id -> route_list of one: triggers that can be written to by their id */
    struct route_list *lists;  /* of the targets */
    struct trigger **addressed;
    unsigned n_shards;
    bool any_type; /* there are routes with "*" as type; likewise below */
    bool any_subject;
    bool any_both;
    struct router *older; /* of those that wait to be freed: the one before. Thread: checkpoint */
};

/* Builds a table over n triggers. Borrows the triggers. Errors: ERROR_MEMORY. */
int router_new(struct trigger *const *triggers, size_t n, unsigned n_shards, struct router **ret_router,
               struct error *err);
void router_free(struct router *router); /* NULL is fine */

/* The trigger of this id, if it can be written to (write.h); NULL: there is none. Thread: any. */
const struct route_list *router_target(const struct router *router, const char *id, size_t len);

/* The routes that match the event, at most ROUTE_MAX_LISTS. A lambda.failure that no trigger which catches is
 * activated by goes to those of lambda.uncaught of its subject, too (states/failure.h). Returns how many.
 * Thread: any. */
unsigned router_match(const struct router *router, const struct cloudevent *event,
                      const struct route *ret_routes[ROUTE_MAX_LISTS]);
/* Whether one of their triggers catches failures (condition_type.catches). Thread: any. */
bool route_catches(const struct route *const *routes, unsigned n);
