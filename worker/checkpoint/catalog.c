#include "worker/checkpoint/catalog.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "common/arena.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/storage/storage.h"
#include "worker/checkpoint/changes.h"
#include "worker/executor/executor.h"
#include "worker/shard/keys.h"
#include "worker/local/permit.h"
#include "worker/report.h"
#include "worker/router.h"
#include "worker/source/source.h"
#include "worker/shard/trigger.h"
#include "worker/shard/waiting.h"
#include "worker/worker.h"

/* Firing numbers of a trigger found by a reload start here for each epoch, above all that an earlier trigger
 * of the same identity can have used. */
#define FIRINGS_PER_EPOCH_BITS 20
#define MAX_LOGGED_BROKEN 20

/* What the stored checkpoint says about a trigger. */
struct stored_fired {
    uint64_t firings;
    struct key_set *keys;
    struct waiting *waiting;
    char identity[];
};

int catalog_init(struct catalog *catalog, struct worker *worker, struct changes *changes)
{
    *catalog = (struct catalog){.worker = worker, .changes = changes};
    hash_init(&catalog->triggers);
    hash_init(&catalog->fired);
    return 0;
}

static void forget_fired(struct catalog *c)
{
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&c->fired, &cursor))) {
        struct stored_fired *f = e->value;
        keys_free(f->keys);
        waiting_free(f->waiting);
        free(f);
    }
    hash_done(&c->fired);
}

/* Deletes what is stored of a trigger that was removed or replaced by somebody else, now that all shards are
 * behind it. The fields stay when there is another one of its identity, or may be again: without a uuid, or
 * when what is stored cannot be used. */
static void forget_stored(struct catalog *c, struct trigger *t)
{
    char name[256];
    const struct trigger *other = hash_get(&c->triggers, t->id, t->id_len);
    bool again = other && !strcmp(other->identity, t->identity);
    if (atomic_load_explicit(&t->gone, memory_order_relaxed))
        return;
    waiting_abandon(t->waiting, t->id, t->identity, again, "the trigger was removed or replaced", c->changes);
    if (again || t->broken || !t->uuid_len)
        return;
    int n = snprintf(name, sizeof name, "fired:%s", t->identity);
    changes_delete(c->changes, STORAGE_CHECKPOINT, name, (size_t)n);
    keys_delete(t->keys, t->identity, t->identity_len, c->changes);
}

static void free_retired(struct catalog *catalog)
{
    for (size_t i = 0; i < catalog->n_retired; i++) {
        forget_stored(catalog, catalog->retired[i]);
        trigger_free(catalog->retired[i]);
    }
    catalog->n_retired = 0;
    while (catalog->old_routers) {
        struct router *old = catalog->old_routers;
        catalog->old_routers = old->older;
        router_free(old);
    }
}

void catalog_done(struct catalog *catalog)
{
    size_t cursor = 0;
    struct hash_entry *e;
    free_retired(catalog);
    while ((e = hash_next(&catalog->triggers, &cursor)))
        trigger_free(e->value);
    hash_done(&catalog->triggers);
    forget_fired(catalog);
    buffer_done(&catalog->broken);
    buffer_done(&catalog->broken_sources);
    free(catalog->fresh);
    free(catalog->retired);
}

/* --- recovery of fired: and keys: --- */

static struct stored_fired *stored_for(struct catalog *c, const char *identity, size_t len)
{
    struct stored_fired *f = hash_get(&c->fired, identity, len);
    if (f || !(f = calloc(1, sizeof *f + len + 1)))
        return f;
    memcpy(f->identity, identity, len);
    if (hash_put(&c->fired, f->identity, len, f, NULL) < 0) {
        free(f);
        return NULL;
    }
    return f;
}

static bool recover_waiting(struct catalog *c, const char *key, size_t key_len, const char *value, size_t len)
{
    const char *identity;
    size_t identity_len;
    struct error err;
    if (!waiting_is_field(key, key_len, &identity, &identity_len))
        return false;
    struct stored_fired *f = stored_for(c, identity, identity_len);
    if (f && !f->waiting)
        f->waiting = waiting_new(0, 0, &c->worker->waiting);
    if (f && f->waiting && waiting_load(f->waiting, key, key_len, value, len, &err) < 0)
        log_error("recovery", LOG_STR("error", err.message));
    return true;
}

bool catalog_recover_field(struct catalog *catalog, const char *key, size_t key_len, const char *value,
                           size_t len)
{
    if (key_len > 6 && !memcmp(key, "fired:", 6)) {
        struct stored_fired *f = stored_for(catalog, key + 6, key_len - 6);
        char number[24] = "";
        memcpy(number, value, len < sizeof number - 1 ? len : sizeof number - 1);
        if (f)
            f->firings = strtoull(number, NULL, 10);
        return true;
    }
    if (key_len > 5 && !memcmp(key, "keys:", 5)) {
        const char *colon = memrchr(key, ':', key_len);
        char epoch[24] = "";
        size_t digits = key_len - (size_t)(colon + 1 - key);
        if (colon <= key + 5 || digits >= sizeof epoch)
            return true;
        memcpy(epoch, colon + 1, digits);
        struct stored_fired *f = stored_for(catalog, key + 5, (size_t)(colon - key) - 5);
        if (f && keys_load(&f->keys, strtoull(epoch, NULL, 10), value, len) < 0)
            log_error("recovery", LOG_STR("error", "a keys: field of the checkpoint is damaged"));
        return true;
    }
    return recover_waiting(catalog, key, key_len, value, len);
}

/* If it was changed meanwhile, it waits for nothing. */
static void give_waiting(struct trigger *t, struct stored_fired *f)
{
    struct error err;
    if (f->waiting && f->waiting->definition != t->definition)
        return;
    t->waiting = f->waiting;
    f->waiting = NULL;
    if (t->waiting && waiting_loaded(t->waiting, &err) < 0)
        abort(); /* its events would be in disorder: start again */
}

/* What triggers have waited for that are gone. */
static void abandon_waiting(struct catalog *c)
{
    size_t cursor = 0;
    for (struct hash_entry *e; (e = hash_next(&c->fired, &cursor));) {
        struct stored_fired *f = e->value;
        waiting_abandon(f->waiting, NULL, f->identity, false, "the trigger was removed or replaced",
                        c->changes);
    }
}

static void give_stored_state(struct catalog *c, struct trigger *t)
{
    if (c->recovered) {
        t->firings = c->epoch << FIRINGS_PER_EPOCH_BITS;
        return;
    }
    struct stored_fired *f = hash_get(&c->fired, t->identity, t->identity_len);
    if (f) {
        t->firings = f->firings;
        t->keys = f->keys;
        f->keys = NULL;
        give_waiting(t, f);
    }
    c->counted |= t->condition->counted(t->state);
}

/* --- triggers --- */

static int push(struct trigger ***list, size_t *n, size_t *cap, struct trigger *t)
{
    if (*n == *cap) {
        size_t grown_cap = *cap ? *cap * 2 : 64;
        struct trigger **grown = realloc(*list, grown_cap * sizeof **list);
        if (!grown)
            return -1;
        *list = grown;
        *cap = grown_cap;
    }
    (*list)[(*n)++] = t;
    return 0;
}

static void append_text(struct buffer *out, const char *text, size_t len)
{
    if (utf8_valid(text, len))
        buffer_append_json(out, text, len);
    else
        buffer_append_text(out, "\"(not UTF-8)\"");
}

static void note_broken(struct buffer *list, const char *member, const char *id, size_t id_len,
                        const char *reason)
{
    if (list->len)
        buffer_append_char(list, ',');
    buffer_printf(list, "{\"%s\":", member);
    append_text(list, id, id_len);
    buffer_append_text(list, ",\"reason\":");
    append_text(list, reason, strlen(reason));
    buffer_append_char(list, '}');
}

/* One that may be carried out here. */
static int new_trigger(const struct catalog *c, const char *id, size_t id_len, const char *document,
                       size_t len, struct trigger **ret_trigger, struct error *err)
{
    struct permits permits = {.exec_allow = c->worker->config->exec_allow,
                              .docker_images = c->worker->config->docker_images};
    struct trigger *t;
    if (trigger_new(id, id_len, document, len, c->worker->n_shards, &t, err) < 0)
        return -1;
    if (trigger_permitted(t, &permits, err) < 0) {
        trigger_free(t);
        return -1;
    }
    *ret_trigger = t;
    return 0;
}

static int see_trigger(void *data, const char *id, size_t id_len, const char *document, size_t len)
{
    struct catalog *c = data;
    struct trigger *t = hash_get(&c->triggers, id, id_len);
    struct error err;
    if (t && (t->reload_mark == c->mark || trigger_same(t, document, len))) {
        t->reload_mark = c->mark;
        return 0;
    }
    if (new_trigger(c, id, id_len, document, len, &t, &err) < 0) {
        struct trigger *before = hash_get(&c->triggers, id, id_len);
        if (err.code == ERROR_MEMORY)
            return -1;
        if (before)
            before->broken = true;
        c->n_broken++;
        note_broken(&c->broken, "id", id, id_len, err.message);
        return 0;
    }
    give_stored_state(c, t);
    t->reload_mark = c->mark;
    if (push(&c->fresh, &c->n_fresh, &c->fresh_cap, t) < 0) {
        trigger_free(t);
        return -1;
    }
    return 0;
}

static void retire(struct catalog *c, struct trigger *t)
{
    if (push(&c->retired, &c->n_retired, &c->retired_cap, t) < 0)
        log_error("out_of_memory", LOG_STR("while", "retiring a trigger; it is leaked"));
}

/* Takes the triggers that this reload has not seen, or that have fired for good, out of the table. */
static size_t sweep(struct catalog *c, bool only_gone)
{
    size_t removed = 0;
    size_t first = c->n_retired;
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&c->triggers, &cursor))) {
        struct trigger *t = e->value;
        bool gone = atomic_load_explicit(&t->gone, memory_order_relaxed);
        if (gone ? only_gone : !only_gone && t->reload_mark != c->mark)
            retire(c, t);
    }
    for (size_t i = first; i < c->n_retired; i++, removed++)
        hash_remove(&c->triggers, c->retired[i]->id, c->retired[i]->id_len);
    return removed;
}

static int add_fresh(struct catalog *c, struct error *err)
{
    for (size_t i = 0; i < c->n_fresh; i++) {
        struct trigger *t = c->fresh[i];
        void *old = NULL;
        if (hash_put(&c->triggers, t->id, t->id_len, t, &old) < 0) {
            error_set(err, ERROR_MEMORY, "out of memory for %zu triggers", c->n_fresh);
            while (i < c->n_fresh) /* they are read again */
                trigger_free(c->fresh[i++]);
            c->n_fresh = 0;
            return -1;
        }
        struct trigger *before = old;
        if (before &&
            before->reload_mark == c->mark) { /* a scan may report a field twice: the first one holds */
            hash_put(&c->triggers, before->id, before->id_len, before, NULL);
            trigger_free(t);
        } else if (before) {
            retire(c, before);
        }
    }
    c->n_fresh = 0;
    return 0;
}

static int publish_router(struct catalog *c, struct error *err)
{
    struct trigger **all = malloc((c->triggers.count + 1) * sizeof *all);
    if (!all)
        return error_set(err, ERROR_MEMORY, "out of memory for the router");
    size_t n = 0;
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&c->triggers, &cursor)))
        all[n++] = e->value;
    struct router *router;
    int r = router_new(all, n, c->worker->n_shards, &router, err);
    free(all);
    if (r < 0)
        return -1;
    struct router *old = atomic_exchange_explicit(&c->worker->router, router, memory_order_acq_rel);
    if (old) { /* there may be another already, when no barrier came between */
        old->older = c->old_routers;
        c->old_routers = old;
    }
    c->stale = false;
    return 0;
}

static void report_triggers(struct catalog *c)
{
    struct arena_worker *stats = &c->worker->arena->worker;
    arena_set(&stats->triggers, c->triggers.count);
    arena_set(&stats->triggers_broken, c->n_broken);
    uint64_t hash = arena_name_hash(c->broken.data ? c->broken.data : "", c->broken.len);
    if (c->n_broken && hash != c->broken_hash)
        log_error("broken_triggers", LOG_UINT("count", c->n_broken),
                  LOG_STR("triggers", buffer_text(&c->broken)));
    c->broken_hash = hash;
    report_broken_triggers(c->worker->report, c->triggers.count, c->n_broken, c->broken.data, c->broken.len);
}

int catalog_load_triggers(struct catalog *catalog, struct storage *storage, struct error *err)
{
    catalog->mark++;
    catalog->n_broken = 0;
    buffer_reset(&catalog->broken, 1 << 16);
    int r =
        storage->type->load(storage, catalog->worker->workspace, STORAGE_TRIGGERS, see_trigger, catalog, err);
    if (r < 0) {
        for (size_t i = 0; i < catalog->n_fresh; i++)
            trigger_free(catalog->fresh[i]);
        catalog->n_fresh = 0;
        return -1;
    }
    catalog->stale |= catalog->n_fresh > 0;
    if (add_fresh(catalog, err) < 0)
        return -1;
    catalog->stale |= sweep(catalog, false) > 0;
    report_triggers(catalog);
    if (!catalog->recovered) {
        abandon_waiting(catalog);
        forget_fired(catalog);
        hash_init(&catalog->fired);
        catalog->recovered = true;
        catalog->stale = true;
    }
    if (!catalog->stale)
        return 0;
    return publish_router(catalog, err) < 0 ? -1 : 1;
}

int catalog_drop_gone(struct catalog *catalog, struct error *err)
{
    if (!sweep(catalog, true))
        return 0;
    catalog->stale = true;
    arena_set(&catalog->worker->arena->worker.triggers, catalog->triggers.count);
    return publish_router(catalog, err) < 0 ? -1 : 1;
}

void catalog_retire(struct catalog *catalog)
{
    if (!catalog->stale) /* else the published router still names them */
        free_retired(catalog);
}

/* --- event sources --- */

struct source_scan {
    struct catalog *catalog;
    struct source_changes *changes;
    uint32_t seen; /* indices of sources that are stored unchanged */
    uint32_t taken;
};

static struct source *source_by_name(struct worker *w, const char *name, size_t len)
{
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i] && strlen(w->sources[i]->name) == len && !memcmp(w->sources[i]->name, name, len))
            return w->sources[i];
    return NULL;
}

static int free_index(const struct source_scan *scan)
{
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
        if (!scan->catalog->worker->sources[i] && !(scan->taken >> i & 1))
            return (int)i;
    return -1;
}

/* Another event source of a class of which there may be one. */
static const struct source *another_of_class(const struct source_scan *scan, const struct source *s)
{
    if (!s->type->position_field)
        return NULL;
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
        if (scan->catalog->worker->sources[i] && scan->catalog->worker->sources[i]->type == s->type)
            return scan->catalog->worker->sources[i];
    for (size_t i = 0; i < scan->changes->n_fresh; i++)
        if (scan->changes->fresh[i]->type == s->type)
            return scan->changes->fresh[i];
    return NULL;
}

static int see_source(void *data, const char *name, size_t name_len, const char *document, size_t len)
{
    struct source_scan *scan = data;
    struct catalog *c = scan->catalog;
    struct error err;
    struct source *s = source_by_name(c->worker, name, name_len);
    if (s && s->document_len == len && !memcmp(s->document, document, len)) {
        scan->seen |= 1u << s->index;
        return 0;
    }
    if (s) /* changed: the old one goes first, the new one comes with the next look */
        return 0;
    for (size_t i = 0; i < scan->changes->n_fresh; i++)
        if (strlen(scan->changes->fresh[i]->name) == name_len &&
            !memcmp(scan->changes->fresh[i]->name, name, name_len))
            return 0;
    int index = free_index(scan);
    if (index < 0) {
        note_broken(&c->broken_sources, "name", name, name_len, "more than 31 event sources");
        return 0;
    }
    if (source_new(c->worker, (unsigned)index, name, name_len, document, len, &s, &err) < 0) {
        note_broken(&c->broken_sources, "name", name, name_len, err.message);
        return err.code == ERROR_MEMORY ? -1 : 0;
    }
    const struct source *other = another_of_class(scan, s);
    if (other) {
        error_set(&err, ERROR_EXISTS, "%s is an %s already, and there can be one", other->name,
                  s->type->class_name);
        note_broken(&c->broken_sources, "name", name, name_len, err.message);
        atomic_store(&s->stats->used, 0);
        source_free(s);
        return 0;
    }
    if (executor_set_source(c->worker->executor, name, name_len, document, len, s->consume, &err) < 0) {
        source_free(s);
        return -1;
    }
    scan->taken |= 1u << (unsigned)index;
    scan->changes->fresh[scan->changes->n_fresh++] = s;
    return 0;
}

int catalog_load_sources(struct catalog *catalog, struct storage *storage, struct source_changes *ret_changes,
                         struct error *err)
{
    struct worker *w = catalog->worker;
    struct source_scan scan = {.catalog = catalog, .changes = ret_changes};
    size_t broken_before = catalog->broken_sources.len;
    *ret_changes = (struct source_changes){0};
    buffer_reset(&catalog->broken_sources, 1 << 16);
    int r = storage->type->load(storage, w->workspace, STORAGE_EVENT_SOURCES, see_source, &scan, err);
    if (r < 0) {
        for (size_t i = 0; i < ret_changes->n_fresh; i++)
            source_free(ret_changes->fresh[i]);
        return -1;
    }
    if (catalog->broken_sources.len && catalog->broken_sources.len != broken_before)
        log_error("broken_event_sources", LOG_STR("sources", buffer_text(&catalog->broken_sources)));
    report_broken_sources(w->report, catalog->broken_sources.data, catalog->broken_sources.len);
    for (unsigned i = 1; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i] && !(scan.seen >> i & 1)) {
            executor_set_source(w->executor, w->sources[i]->name, strlen(w->sources[i]->name), NULL, 0, false,
                                NULL);
            ret_changes->stale[ret_changes->n_stale++] = i;
        }
    return 0;
}
