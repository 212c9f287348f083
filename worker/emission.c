#include "worker/emission.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/hash.h"
#include "worker/action/action.h"
#include "worker/checkpoint/changes.h"
#include "worker/source/source.h"
#include "worker/worker.h"

struct emission {
    char key[ACTION_KEY_MAX];
    uint64_t source; /* hash of its name */
    bool seen;
    uint64_t seen_epoch;
    bool completed;
    bool once;
    bool stored;            /* there is a field in storage, or in an epoch before the one collected */
    bool completion_stored; /* which says that it is completed, and its final position */
    uint64_t final_position[2];
    struct emission *next_completed;
};

struct emissions {
    _Atomic size_t count;
    pthread_mutex_t lock;
    struct hash_table table;    /* Requires: lock */
    struct emission *completed; /* Requires: lock */
};

struct emissions *emissions_new(void)
{
    struct emissions *e = calloc(1, sizeof *e);
    if (e) {
        pthread_mutex_init(&e->lock, NULL);
        hash_init(&e->table);
    }
    return e;
}

void emissions_free(struct emissions *emissions)
{
    if (!emissions)
        return;
    size_t cursor = 0;
    struct hash_entry *entry;
    while ((entry = hash_next(&emissions->table, &cursor)))
        free(entry->value);
    hash_done(&emissions->table);
    pthread_mutex_destroy(&emissions->lock);
    free(emissions);
}

bool emissions_any(const struct emissions *emissions)
{
    return atomic_load_explicit(&emissions->count, memory_order_acquire) > 0;
}

static struct emission *obtain(struct emissions *e, const char *key, uint64_t source)
{
    size_t len = strlen(key);
    struct emission *m = hash_get(&e->table, key, len);
    if (m || !(m = calloc(1, sizeof *m)))
        return m;
    memcpy(m->key, key, len);
    m->source = source;
    if (hash_put(&e->table, m->key, len, m, NULL) < 0) {
        free(m);
        return NULL;
    }
    atomic_fetch_add_explicit(&e->count, 1, memory_order_release);
    return m;
}

int emissions_register(struct emissions *emissions, const char *key, const char *source, size_t source_len,
                       struct error *err)
{
    pthread_mutex_lock(&emissions->lock);
    bool done = obtain(emissions, key, arena_name_hash(source, source_len));
    pthread_mutex_unlock(&emissions->lock);
    return done ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

static void write_field(const struct emission *m, bool seen, struct changes *out)
{
    char field[8 + ACTION_KEY_MAX];
    int n = snprintf(field, sizeof field, "seen:%s", m->key);
    struct buffer *b = changes_begin(out, STORAGE_CHECKPOINT, STORAGE_PUT, field, (size_t)n, "", 0);
    buffer_printf(b, "%d %d %llu %llu %llu", seen, m->completed, (unsigned long long)m->source,
                  (unsigned long long)m->final_position[0], (unsigned long long)m->final_position[1]);
    changes_end(out);
}

enum emission_sight emissions_see(struct emissions *emissions, struct source *source, const char *id,
                                  size_t len)
{
    enum emission_sight sight = EMISSION_OTHER;
    pthread_mutex_lock(&emissions->lock);
    struct emission *m = hash_get(&emissions->table, id, len);
    if (m && m->source == source->name_hash) {
        sight = m->seen ? EMISSION_REPEAT : EMISSION_FIRST;
        if (!m->seen) {
            m->seen = true;
            m->seen_epoch = source->filling_epoch;
            write_field(m, true, &source->changes[source->filling]);
        }
    }
    pthread_mutex_unlock(&emissions->lock);
    return sight;
}

void emissions_complete(struct emissions *emissions, const char *key, const uint64_t final_position[2],
                        bool once)
{
    pthread_mutex_lock(&emissions->lock);
    struct emission *m = hash_get(&emissions->table, key, strlen(key));
    if (m && !m->completed) {
        m->completed = true;
        m->once = once;
        m->final_position[0] = final_position[0];
        m->final_position[1] = final_position[1];
        m->next_completed = emissions->completed;
        emissions->completed = m;
    }
    pthread_mutex_unlock(&emissions->lock);
}

static const struct source *source_of(const struct emission *m, struct source *const *sources, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (sources[i] && sources[i]->consume && sources[i]->name_hash == m->source)
            return sources[i];
    return NULL;
}

/* What is published to an unordered source has no position, but a time. */
static bool has_passed(const struct emission *m, const struct source *s)
{
    if (s->unordered)
        return clock_unix_ns() >= m->final_position[0] + (uint64_t)s->worker->config->redelivery_window_ns;
    const uint64_t *at = s->barrier_position;
    if (s->type->passed)
        return s->type->passed(s, m->final_position);
    return at[0] > m->final_position[0] || (at[0] == m->final_position[0] && at[1] >= m->final_position[1]);
}

/* Whether nothing that this epoch's cut has not seen can be a repeat any more. */
static bool may_forget(const struct emission *m, const struct source *source, uint64_t epoch)
{
    if (m->seen && m->seen_epoch > epoch)
        return false; /* its field is still to be written */
    return !source || m->once || has_passed(m, source);
}

void emissions_collect(struct emissions *emissions, struct source *const *sources, size_t n_sources,
                       uint64_t epoch, struct changes *out)
{
    pthread_mutex_lock(&emissions->lock);
    struct emission **link = &emissions->completed;
    for (struct emission *m; (m = *link);) {
        bool seen = m->seen && m->seen_epoch <= epoch;
        if (!may_forget(m, source_of(m, sources, n_sources), epoch)) {
            /* The outbox forgets the intent with its completion, so from then on this field must tell all.
             * What the source has written in this epoch may be from before the completion: ours comes after
             * it. */
            if (!m->completion_stored || (m->seen && m->seen_epoch == epoch)) {
                write_field(m, seen, out);
                m->stored = m->completion_stored = true;
            }
            link = &m->next_completed;
            continue;
        }
        *link = m->next_completed;
        if (seen || m->stored) {
            char field[8 + ACTION_KEY_MAX];
            int n = snprintf(field, sizeof field, "seen:%s", m->key);
            changes_delete(out, STORAGE_CHECKPOINT, field, (size_t)n);
        }
        hash_remove(&emissions->table, m->key, strlen(m->key));
        atomic_fetch_sub_explicit(&emissions->count, 1, memory_order_release);
        free(m);
    }
    pthread_mutex_unlock(&emissions->lock);
}

int emissions_restore(struct emissions *emissions, const char *key, size_t key_len, const char *value,
                      size_t len, struct error *err)
{
    char text[128];
    char key_text[ACTION_KEY_MAX];
    int seen;
    int completed;
    unsigned long long source;
    unsigned long long position[2];
    if (key_len >= sizeof key_text || len >= sizeof text)
        return error_set(err, ERROR_INVALID, "seen: field of %zu bytes", len);
    memcpy(text, value, len);
    text[len] = '\0';
    memcpy(key_text, key, key_len);
    key_text[key_len] = '\0';
    if (sscanf(text, "%d %d %llu %llu %llu", &seen, &completed, &source, &position[0], &position[1]) != 5)
        return error_set(err, ERROR_INVALID, "seen:%s is %s", key_text, text);
    pthread_mutex_lock(&emissions->lock);
    struct emission *m = obtain(emissions, key_text, source);
    if (m) {
        if (completed && !m->completed) { /* a scan may report a field twice */
            m->next_completed = emissions->completed;
            emissions->completed = m;
        }
        m->seen = seen;
        m->stored = true;
        m->completed = m->completion_stored = completed;
        m->final_position[0] = position[0];
        m->final_position[1] = position[1];
    }
    pthread_mutex_unlock(&emissions->lock);
    return m ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}
