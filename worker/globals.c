#include "worker/globals.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/storage/storage.h"

void globals_slot_init(struct globals_slot *slot)
{
    *slot = (struct globals_slot){.current = NULL};
    pthread_mutex_init(&slot->lock, NULL);
}

void globals_slot_done(struct globals_slot *slot)
{
    globals_unref(slot->current);
    pthread_mutex_destroy(&slot->lock);
}

/* Whether it can be the value of a member. */
static bool is_json(const char *value, size_t len)
{
    struct json_value json;
    BUFFER_AUTO inside = BUFFER_INIT;
    buffer_append_char(&inside, '[');
    buffer_append(&inside, value, len);
    buffer_append_char(&inside, ']');
    return !inside.failed && json_scan(value, len, &json, NULL) == 0 &&
           json_scan(inside.data, inside.len, &json, NULL) == 0;
}

static int see_value(void *data, const char *name, size_t name_len, const char *value, size_t len)
{
    struct buffer *text = data;
    if (!utf8_valid(name, name_len))
        return 0;
    if (text->len > 1)
        buffer_append_char(text, ',');
    buffer_append_json(text, name, name_len);
    buffer_append_char(text, ':');
    if (is_json(value, len))
        buffer_append(text, value, len);
    else if (utf8_valid(value, len))
        buffer_append_json(text, value, len);
    else
        buffer_append_text(text, "null");
    return 0;
}

int globals_new(const char *text, size_t len, struct globals **ret_globals, struct error *err)
{
    struct globals *g = malloc(sizeof *g + len);
    if (!g)
        return error_set(err, ERROR_MEMORY, "out of memory for the global context");
    atomic_init(&g->references, 1);
    g->len = len;
    memcpy(g->text, text, len);
    int r = json_scan(g->text, len, &g->root, err);
    if (r == 0 && g->root.type != JSON_OBJECT)
        r = error_set(err, ERROR_INVALID, "the global context is %s, not an object",
                      json_type_name(g->root.type));
    if (r < 0) {
        free(g);
        return -1;
    }
    *ret_globals = g;
    return 0;
}

int globals_load(struct globals_slot *slot, struct storage *storage, const char *workspace, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append_char(&text, '{');
    if (storage->type->load(storage, workspace, STORAGE_GLOBAL_CONTEXT, see_value, &text, err) < 0)
        return -1;
    buffer_append_char(&text, '}');
    /* Only this thread replaces it. */
    const struct globals *old = slot->current;
    if (old && !text.failed && old->len == text.len && !memcmp(old->text, text.data, text.len))
        return 0;
    struct globals *g;
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory for the global context");
    if (globals_new(text.data, text.len, &g, err) < 0)
        return -1;
    pthread_mutex_lock(&slot->lock);
    struct globals *before = slot->current;
    slot->current = g;
    atomic_fetch_add(&slot->version, 1);
    pthread_mutex_unlock(&slot->lock);
    globals_unref(before);
    return 1;
}

struct globals *globals_get(struct globals_slot *slot)
{
    pthread_mutex_lock(&slot->lock);
    struct globals *g = slot->current;
    if (g)
        atomic_fetch_add_explicit(&g->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&slot->lock);
    return g;
}

void globals_unref(struct globals *globals)
{
    if (globals && atomic_fetch_sub_explicit(&globals->references, 1, memory_order_acq_rel) == 1)
        free(globals);
}

void globals_refresh(struct globals_slot *slot, struct globals **globals, uint64_t *version)
{
    uint64_t newest = atomic_load_explicit(&slot->version, memory_order_acquire);
    if (newest == *version)
        return;
    globals_unref(*globals);
    *globals = globals_get(slot);
    *version = newest;
}
