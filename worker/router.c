#include "worker/router.h"

#include <stdlib.h>
#include <string.h>

#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/shard/trigger.h"
#include "worker/states/failure.h"

#define KEY_ON_STACK 512

struct pair { /* one activation of one trigger */
    const struct activation *activation;
    struct trigger *trigger;
    uint64_t hash;
};

/* The length keeps type and subject apart: either may contain any character. */
static size_t write_key(char *to, const char *type, size_t type_len, const char *subject, size_t subject_len)
{
    uint32_t len = (uint32_t)type_len;
    memcpy(to, &len, sizeof len);
    memcpy(to + sizeof len, type, type_len);
    if (subject_len)
        memcpy(to + sizeof len + type_len, subject, subject_len);
    return sizeof len + type_len + subject_len;
}

static bool is_any(const char *text, size_t len)
{
    return len == 1 && text[0] == '*';
}

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *x = a;
    const struct pair *y = b;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    const struct activation *p = x->activation;
    const struct activation *q = y->activation;
    if (p->type_len != q->type_len)
        return p->type_len < q->type_len ? -1 : 1;
    if (p->subject_len != q->subject_len)
        return p->subject_len < q->subject_len ? -1 : 1;
    int c = memcmp(p->type, q->type, p->type_len);
    if (!c)
        c = memcmp(p->subject, q->subject, p->subject_len);
    if (c)
        return c;
    if (x->trigger->shard != y->trigger->shard)
        return x->trigger->shard < y->trigger->shard ? -1 : 1;
    return x->trigger < y->trigger ? -1 : x->trigger > y->trigger;
}

static bool same_key(const struct activation *a, const struct activation *b)
{
    return a->type_len == b->type_len && a->subject_len == b->subject_len &&
           !memcmp(a->type, b->type, a->type_len) && !memcmp(a->subject, b->subject, a->subject_len);
}

/* One route from pairs[0..n), which have the same key. */
static struct route *route_new(const struct pair *pairs, size_t n, unsigned n_shards)
{
    const struct activation *a = pairs[0].activation;
    struct route *r = calloc(1, sizeof *r + n_shards * sizeof r->lists[0]);
    if (!r)
        return NULL;
    r->key = malloc(sizeof(uint32_t) + a->type_len + a->subject_len);
    r->all = malloc(n * sizeof *r->all);
    if (!r->key || !r->all) {
        free(r->key);
        free(r->all);
        free(r);
        return NULL;
    }
    r->key_len = write_key(r->key, a->type, a->type_len, a->subject, a->subject_len);
    for (size_t i = 0; i < n; i++) {
        struct trigger *t = pairs[i].trigger;
        if (i && t == pairs[i - 1].trigger)
            continue; /* the same activation twice */
        struct route_list *list = &r->lists[t->shard];
        if (!list->n)
            list->triggers = &r->all[r->n];
        list->n++;
        r->all[r->n++] = t;
    }
    return r;
}

static void route_free(struct route *route)
{
    free(route->all);
    free(route->key);
    free(route);
}

static int add_routes(struct router *router, const struct pair *pairs, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        while (end < n && same_key(pairs[i].activation, pairs[end].activation))
            end++;
        struct route *route = route_new(&pairs[i], end - i, router->n_shards);
        if (!route || hash_put(&router->routes, route->key, route->key_len, route, NULL) < 0) {
            if (route)
                route_free(route);
            return -1;
        }
        const struct activation *a = pairs[i].activation;
        bool type = is_any(a->type, a->type_len);
        bool subject = is_any(a->subject, a->subject_len);
        router->any_both |= type && subject;
        router->any_type |= type && !subject;
        router->any_subject |= subject && !type;
        i = end;
    }
    return 0;
}

static int add_targets(struct router *router, struct trigger *const *triggers, size_t n)
{
    size_t n_targets = 0;
    for (size_t i = 0; i < n; i++)
        n_targets += trigger_is_target(triggers[i]);
    hash_init(&router->targets);
    if (!n_targets)
        return 0;
    router->lists = malloc(n_targets * sizeof *router->lists);
    router->addressed = malloc(n_targets * sizeof *router->addressed);
    if (!router->lists || !router->addressed)
        return -1;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (!trigger_is_target(triggers[i]))
            continue;
        router->addressed[at] = triggers[i];
        router->lists[at] = (struct route_list){&router->addressed[at], 1};
        if (hash_put(&router->targets, triggers[i]->id, triggers[i]->id_len, &router->lists[at], NULL) < 0)
            return -1;
        at++;
    }
    return 0;
}

int router_new(struct trigger *const *triggers, size_t n, unsigned n_shards, struct router **ret_router,
               struct error *err)
{
    size_t n_pairs = 0;
    for (size_t i = 0; i < n; i++)
        n_pairs += triggers[i]->n_activations;
    struct router *router = calloc(1, sizeof *router);
    struct pair *pairs = malloc((n_pairs ? n_pairs : 1) * sizeof *pairs);
    if (!router || !pairs)
        goto fail;
    hash_init(&router->routes);
    router->n_shards = n_shards;
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < triggers[i]->n_activations; j++) {
            const struct activation *a = &triggers[i]->activations[j];
            uint64_t hash = hash_bytes(&router->routes, a->type, a->type_len) * 31 +
                            hash_bytes(&router->routes, a->subject, a->subject_len);
            pairs[at++] = (struct pair){a, triggers[i], hash};
        }
    qsort(pairs, n_pairs, sizeof *pairs, compare_pairs);
    if (add_routes(router, pairs, n_pairs) < 0 || add_targets(router, triggers, n) < 0)
        goto fail;
    free(pairs);
    *ret_router = router;
    return 0;
fail:
    free(pairs);
    router_free(router);
    return error_set(err, ERROR_MEMORY, "out of memory for the router over %zu triggers", n);
}

void router_free(struct router *router)
{
    if (!router)
        return;
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&router->routes, &cursor)))
        route_free(e->value);
    hash_done(&router->routes);
    hash_done(&router->targets);
    free(router->lists);
    free(router->addressed);
    free(router);
}

static const struct route *find(const struct router *router, const char *type, size_t type_len,
                                const char *subject, size_t subject_len)
{
    char on_stack[KEY_ON_STACK];
    size_t size = sizeof(uint32_t) + type_len + subject_len;
    char *key = size <= sizeof on_stack ? on_stack : malloc(size);
    if (!key)
        abort(); /* must not pass for "no trigger": the event would be dead-lettered */
    const struct route *route =
        hash_get(&router->routes, key, write_key(key, type, type_len, subject, subject_len));
    if (key != on_stack)
        free(key);
    return route;
}

const struct route_list *router_target(const struct router *router, const char *id, size_t len)
{
    return hash_get(&router->targets, id, len);
}

bool route_catches(const struct route *const *routes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        for (size_t j = 0; j < routes[i]->n; j++)
            if (routes[i]->all[j]->condition->catches)
                return true;
    return false;
}

unsigned router_match(const struct router *router, const struct cloudevent *event,
                      const struct route *ret_routes[ROUTE_MAX_LISTS])
{
    const struct cloudevent_span *type = &event->attribute[CE_TYPE];
    const struct cloudevent_span *subject = &event->attribute[CE_SUBJECT];
    const char *subject_text = subject->text ? subject->text : "";
    unsigned n = 0;
    const struct route *r = find(router, type->text, type->len, subject_text, subject->len);
    if (r)
        ret_routes[n++] = r;
    if (router->any_subject && (r = find(router, type->text, type->len, "*", 1)))
        ret_routes[n++] = r;
    if (router->any_type && (r = find(router, "*", 1, subject_text, subject->len)))
        ret_routes[n++] = r;
    if (router->any_both && (r = find(router, "*", 1, "*", 1)))
        ret_routes[n++] = r;
    if (type->len == strlen(FAILURE_TYPE) && !memcmp(type->text, FAILURE_TYPE, type->len) &&
        !route_catches(ret_routes, n) &&
        (r = find(router, FAILURE_UNCAUGHT, strlen(FAILURE_UNCAUGHT), subject_text, subject->len)))
        ret_routes[n++] = r;
    return n;
}
