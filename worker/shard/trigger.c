#include "worker/shard/trigger.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_patch.h"
#include "worker/shard/keys.h"
#include "worker/shard/waiting.h"

#define IDENTITY_MAX 128
#define TRIGGER_ALIGNMENT \
    128 /* two cache lines, as they are fetched: neighbours may belong to other shards */

/* The members of a stored trigger that mean something here. */
struct document {
    struct json_value condition, action, context, activations, transient, uuid;
    struct json_value condition_name, action_name;
};

static bool is_owned(const char *const *members, const struct json_value *name)
{
    for (; *members; members++)
        if (json_equals(name, *members, strlen(*members)))
            return true;
    return false;
}

/* Appends the members of an object but those named, without braces. */
static void append_others(const struct json_value *object, const char *const *members, struct buffer *out)
{
    struct json_iter iter;
    struct json_value name;
    struct json_value value;
    size_t start = out->len;
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &value)) {
        if (is_owned(members, &name))
            continue;
        size_t len;
        if (out->len > start)
            buffer_append_char(out, ',');
        const char *raw = json_raw(&name, &len);
        buffer_append(out, raw, len);
        buffer_append_char(out, ':');
        raw = json_raw(&value, &len);
        buffer_append(out, raw, len);
    }
}

static int wrong_type(const char *member, const struct json_value *value, const char *wanted,
                      struct error *err)
{
    if (value->type == JSON_ABSENT)
        return error_set(err, ERROR_INVALID, "member %s is missing", member);
    size_t len;
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "member %s is %.*s, not %s", member, (int)(len < 80 ? len : 80), raw,
                     wanted);
}

static int read_named(const struct json_value *object, const char *member, struct json_value *ret_member,
                      struct json_value *ret_name, struct error *err)
{
    if (!json_member(object, member, ret_member) || ret_member->type != JSON_OBJECT)
        return wrong_type(member, ret_member, "an object", err);
    if (!json_member(ret_member, "name", ret_name) || ret_name->type != JSON_STRING || ret_name->escaped)
        return wrong_type("name", ret_name, "a plain string", err), error_prefix(err, "%s", member);
    return 0;
}

static int read_document(const char *text, size_t len, struct json_value *ret_root, struct document *d,
                         struct error *err)
{
    if (json_scan(text, len, ret_root, err) < 0)
        return -1;
    if (ret_root->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not an object", json_type_name(ret_root->type));
    if (read_named(ret_root, "condition", &d->condition, &d->condition_name, err) < 0 ||
        read_named(ret_root, "action", &d->action, &d->action_name, err) < 0)
        return -1;
    if (json_member(ret_root, "context", &d->context) && d->context.type != JSON_OBJECT)
        return wrong_type("context", &d->context, "an object", err);
    if (!json_member(ret_root, "activation_events", &d->activations) || d->activations.type != JSON_ARRAY)
        return wrong_type("activation_events", &d->activations, "an array", err);
    if (json_member(ret_root, "transient", &d->transient) && d->transient.type != JSON_TRUE &&
        d->transient.type != JSON_FALSE && d->transient.type != JSON_NULL)
        return wrong_type("transient", &d->transient, "true or false", err);
    if (json_member(ret_root, "uuid", &d->uuid) && d->uuid.type != JSON_STRING && d->uuid.type != JSON_NULL)
        return wrong_type("uuid", &d->uuid, "a string", err);
    return 0;
}

/* Appends one attribute of an activation event; returns its length. */
static int read_activation(const struct json_value *event, const char *name, bool needed, struct buffer *text,
                           uint32_t *ret_len, struct error *err)
{
    struct json_value value;
    size_t before = text->len;
    if (event->type != JSON_OBJECT)
        return wrong_type("activation_events[]", event, "an object", err);
    if (json_member(event, name, &value) && value.type == JSON_STRING)
        json_unescape(&value, text);
    else if (needed || (value.type != JSON_ABSENT && value.type != JSON_NULL))
        return wrong_type(name, &value, "a string", err), error_prefix(err, "activation_events");
    *ret_len = (uint32_t)(text->len - before);
    return 0;
}

static struct activation *add_activation(struct trigger *t, struct error *err)
{
    if ((t->n_activations & (t->n_activations - 1)) == 0) {
        size_t cap = t->n_activations ? t->n_activations * 2 : 1;
        struct activation *grown = realloc(t->activations, cap * sizeof *grown);
        if (!grown) {
            error_set(err, ERROR_MEMORY, "out of memory");
            return NULL;
        }
        t->activations = grown;
    }
    struct activation *a = &t->activations[t->n_activations++];
    *a = (struct activation){0};
    return a;
}

struct adding {
    struct trigger *trigger;
    struct buffer *text;
};

/* One that the condition needs, and which does not stand in the document. */
static int add_needed(void *data, const char *type, const char *subject, size_t subject_len,
                      struct error *err)
{
    struct adding *adding = data;
    struct activation *a = add_activation(adding->trigger, err);
    if (!a)
        return -1;
    a->type_len = (uint32_t)strlen(type);
    a->subject_len = (uint32_t)subject_len;
    buffer_append(adding->text, type, a->type_len);
    buffer_append(adding->text, subject, subject_len);
    return 0;
}

static int read_activations(struct trigger *t, const struct json_value *array, struct buffer *text,
                            struct error *err)
{
    struct json_iter iter;
    struct json_value name;
    struct json_value event;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, &event)) {
        struct activation *a = add_activation(t, err);
        if (!a)
            return -1;
        if (read_activation(&event, "type", true, text, &a->type_len, err) < 0 ||
            read_activation(&event, "subject", false, text, &a->subject_len, err) < 0)
            return -1;
    }
    return 0;
}

/* The text block is complete: points into it. */
static void settle_text(struct trigger *t, struct buffer *text)
{
    t->text = text->data;
    *text = (struct buffer)BUFFER_INIT;
    const char *at = t->text + t->document_len + t->context_len;
    for (size_t i = 0; i < t->n_activations; i++) {
        t->activations[i].type = at;
        at += t->activations[i].type_len;
        t->activations[i].subject = at;
        at += t->activations[i].subject_len;
    }
}

/* Ids become C strings, parts of field names and JSON text. */
static bool is_name(const char *text, size_t len)
{
    return !len || (!memchr(text, '\0', len) && utf8_valid(text, len));
}

/* Short, so that field names built from it are. */
static char *identify(const struct trigger *t)
{
    char hex[20];
    size_t len = t->uuid_len ? t->uuid_len : t->id_len;
    if (len <= IDENTITY_MAX)
        return strdup(t->uuid_len ? t->uuid : t->id);
    snprintf(hex, sizeof hex, "#%016llx", (unsigned long long)t->identity_hash);
    return strdup(hex);
}

static const char *const outside_definition[] = {"context", "timestamp", NULL};

static int fill(struct trigger *t, const char *id, size_t id_len, const struct json_value *root,
                const struct document *d, unsigned n_shards, struct error *err)
{
    static const struct json_value empty = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    const struct json_value *context = d->context.type == JSON_OBJECT ? &d->context : &empty;
    BUFFER_AUTO uuid = BUFFER_INIT;
    BUFFER_AUTO text = BUFFER_INIT;
    if (d->uuid.type == JSON_STRING)
        json_unescape(&d->uuid, &uuid);
    if (!is_name(id, id_len) || !is_name(uuid.data, uuid.len))
        return error_set(err, ERROR_INVALID, "its %s is not UTF-8 text without NUL characters",
                         is_name(id, id_len) ? "uuid" : "id");
    t->id = strndup(id, id_len);
    t->uuid = strndup(uuid.data ? uuid.data : "", uuid.len);
    if (!t->id || !t->uuid)
        return error_set(err, ERROR_MEMORY, "out of memory");
    t->id_len = id_len;
    t->uuid_len = uuid.len;
    t->identity_hash = uuid.len ? arena_name_hash(t->uuid, uuid.len) : arena_name_hash(id, id_len);
    t->identity = identify(t);
    if (!t->identity)
        return error_set(err, ERROR_MEMORY, "out of memory");
    t->identity_len = strlen(t->identity);
    t->shard = (unsigned)(arena_name_hash(id, id_len) % n_shards);
    t->transient = d->transient.type == JSON_TRUE;
    append_others(root, outside_definition, &text);
    t->document_len = text.len;
    t->definition = arena_name_hash(text.data, text.len);
    append_others(context, t->condition->members, &text);
    t->context_len = text.len - t->document_len;
    struct adding adding = {t, &text};
    if (read_activations(t, &d->activations, &text, err) < 0 ||
        (t->condition->activations && t->condition->activations(context, add_needed, &adding, err) < 0))
        return -1;
    if (text.failed || uuid.failed || !buffer_reserve(&text, 1))
        return error_set(err, ERROR_MEMORY, "out of memory");
    settle_text(t, &text);
    if (t->condition->load(t->state, context, err) < 0 ||
        (t->condition->accept && t->condition->accept(&d->condition, err) < 0))
        return error_prefix(err, "condition %s", t->condition->name);
    if (t->action->load(&d->action, &t->action_state, err) < 0)
        return error_prefix(err, "action %s", t->action->name);
    return 0;
}

/* The original client sends pickled functions under the name PYTHON_CALLABLE. */
static int unknown(const char *what, const struct json_value *name, void (*write_names)(struct buffer *),
                   struct error *err)
{
    if (json_equals(name, "PYTHON_CALLABLE", 15))
        return error_set(err, ERROR_INVALID, "%s PYTHON_CALLABLE: Python functions cannot be run here", what);
    BUFFER_AUTO known = BUFFER_INIT;
    write_names(&known);
    return error_set(err, ERROR_INVALID, "unknown %s %.*s; known: %s", what,
                     (int)(name->len < 80 ? name->len : 80), name->text, buffer_text(&known));
}

int trigger_new(const char *id, size_t id_len, const char *document, size_t document_len, unsigned n_shards,
                struct trigger **ret_trigger, struct error *err)
{
    struct json_value root;
    struct document d;
    if (read_document(document, document_len, &root, &d, err) < 0)
        return -1;
    const struct condition_type *condition = condition_find(d.condition_name.text, d.condition_name.len);
    if (!condition)
        return unknown("condition", &d.condition_name, condition_names, err);
    const struct action_type *action = action_find(d.action_name.text, d.action_name.len);
    if (!action)
        return unknown("action", &d.action_name, action_names, err);
    size_t size = (sizeof(struct trigger) + condition->state_size + TRIGGER_ALIGNMENT - 1) &
                  ~(size_t)(TRIGGER_ALIGNMENT - 1);
    struct trigger *t = aligned_alloc(TRIGGER_ALIGNMENT, size);
    if (!t)
        return error_set(err, ERROR_MEMORY, "out of memory");
    memset(t, 0, size);
    t->condition = condition;
    t->action = action;
    if (fill(t, id, id_len, &root, &d, n_shards, err) < 0) {
        trigger_free(t);
        return -1;
    }
    *ret_trigger = t;
    return 0;
}

void trigger_free(struct trigger *trigger)
{
    if (!trigger)
        return;
    if (trigger->action_state)
        trigger->action->unload(trigger->action_state);
    if (trigger->condition->unload)
        trigger->condition->unload(trigger->state);
    keys_free(trigger->keys);
    waiting_free(trigger->waiting);
    free(trigger->activations);
    free(trigger->text);
    free(trigger->identity);
    free(trigger->uuid);
    free(trigger->id);
    free(trigger);
}

bool trigger_same(const struct trigger *trigger, const char *document, size_t document_len)
{
    struct json_value root;
    if (json_scan(document, document_len, &root, NULL) < 0 || root.type != JSON_OBJECT)
        return false;
    BUFFER_AUTO text = BUFFER_INIT;
    append_others(&root, outside_definition, &text);
    return !text.failed && arena_name_hash(text.data, text.len) == trigger->definition;
}

/* The condition's or the action's own document, from the stored one; text takes what it borrows. */
static int read_member(const struct trigger *t, const char *member, struct buffer *text,
                       struct json_value *ret_value, struct error *err)
{
    struct json_value root;
    buffer_append_char(text, '{');
    buffer_append(text, t->text, t->document_len);
    buffer_append_char(text, '}');
    if (text->failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (json_scan(text->data, text->len, &root, err) < 0)
        return -1;
    json_member(&root, member, ret_value);
    return 0;
}

static int permitted(const struct trigger *t, const char *member, const char *name,
                     int (*permits_it)(const struct json_value *, const struct permits *, struct error *),
                     const struct permits *permits, struct error *err)
{
    struct json_value document;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!permits_it)
        return 0;
    if (read_member(t, member, &text, &document, err) < 0)
        return -1;
    return permits_it(&document, permits, err) < 0 ? error_prefix(err, "%s %s", member, name) : 0;
}

int trigger_permitted(const struct trigger *trigger, const struct permits *permits, struct error *err)
{
    if (permitted(trigger, "condition", trigger->condition->name, trigger->condition->permitted, permits,
                  err) < 0)
        return -1;
    return permitted(trigger, "action", trigger->action->name, trigger->action->permitted, permits, err);
}

int trigger_ask(struct trigger *trigger, struct firing *firing, const char *key, struct error *err)
{
    struct json_value document;
    BUFFER_AUTO text = BUFFER_INIT;
    if (read_member(trigger, "condition", &text, &document, err) < 0)
        return -1;
    return trigger->condition->ask(&document, firing, key, err);
}

void trigger_write_context(const struct trigger *t, struct buffer *out)
{
    buffer_append_char(out, '{');
    size_t start = out->len;
    t->condition->store(t->state, out);
    if (t->context_len) {
        if (out->len > start)
            buffer_append_char(out, ',');
        buffer_append(out, t->text + t->document_len, t->context_len);
    }
    buffer_append_char(out, '}');
}

void trigger_write_settings(const struct trigger *t, struct buffer *out)
{
    buffer_append_char(out, '{');
    buffer_append(out, t->text + t->document_len, t->context_len);
    buffer_append_char(out, '}');
}

/* Puts another context in place of the present one. */
static int replace_context(struct trigger *t, const struct json_value *context, const void *state,
                           struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    size_t activations_len = 0;
    for (size_t i = 0; i < t->n_activations; i++)
        activations_len += t->activations[i].type_len + t->activations[i].subject_len;
    buffer_append(&text, t->text, t->document_len);
    append_others(context, t->condition->members, &text);
    size_t context_len = text.len - t->document_len;
    buffer_append(&text, t->text + t->document_len + t->context_len, activations_len);
    if (text.failed || !buffer_reserve(&text, 1))
        return error_set(err, ERROR_MEMORY, "out of memory");
    free(t->text);
    t->context_len = context_len;
    settle_text(t, &text);
    if (t->condition->unload)
        t->condition->unload(t->state);
    memcpy(t->state, state, t->condition->state_size);
    return 0;
}

int trigger_patch(struct trigger *trigger, const struct json_value *members, struct error *err)
{
    struct json_value before;
    struct json_value after;
    BUFFER_AUTO old = BUFFER_INIT;
    BUFFER_AUTO patched = BUFFER_INIT;
    if (json_is_deeper(members, JSON_DATA_DEPTH)) /* it is merged by recursion, and kept within a document */
        return error_set(err, ERROR_INVALID, "is nested deeper than %d", JSON_DATA_DEPTH);
    trigger_write_context(trigger, &old);
    if (old.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (json_scan(old.data, old.len, &before, err) < 0)
        return -1;
    json_patch(&before, members, &patched);
    if (patched.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (json_scan(patched.data, patched.len, &after, err) < 0)
        return -1;
    void *state = calloc(1, trigger->condition->state_size + 1);
    if (!state)
        return error_set(err, ERROR_MEMORY, "out of memory");
    int r = trigger->condition->load(state, &after, err);
    if (r == 0 && trigger->condition->check) /* as strict as registration */
        r = trigger->condition->check(&after, err);
    if (r == 0)
        r = replace_context(trigger, &after, state, err);
    if (r < 0 && trigger->condition->unload)
        trigger->condition->unload(state);
    free(state);
    return r;
}

void trigger_write(const struct trigger *trigger, const char *timestamp, struct buffer *out)
{
    buffer_append_char(out, '{');
    buffer_append(out, trigger->text, trigger->document_len);
    buffer_append_text(out, ",\"context\":");
    trigger_write_context(trigger, out);
    buffer_append_text(out, ",\"timestamp\":\"");
    buffer_append_text(out, timestamp);
    buffer_append_text(out, "\"}");
}
