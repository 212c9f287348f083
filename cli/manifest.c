/* See manifest.h. */
#include "cli/manifest.h"

#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/definition.h"
#include "cli/document.h"
#include "cli/output.h"

#define SHOWN_MAX 80
#define PROBLEMS_MAX 1000u

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static bool is_object(struct json_object *value)
{
    return json_object_is_type(value, json_type_object);
}

static int put(struct json_object *object, const char *name, struct json_object *value, struct error *err)
{
    if (value && json_object_object_add(object, name, value) == 0)
        return 0;
    json_object_put(value);
    return no_memory(err);
}

static const char *shown(struct json_object *value)
{
    const char *text = value ? json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN) : "null";
    return text ? text : "?";
}

static int wrong(struct json_object *parent, const char *member, const char *wanted, struct error *err)
{
    struct json_object *value = NULL;
    if (!json_object_object_get_ex(parent, member, &value))
        return error_set(err, ERROR_INVALID, "%s is missing", member);
    return error_set(err, ERROR_INVALID, "%s is %.*s, not %s", member, SHOWN_MAX, shown(value), wanted);
}

/* TRUE is a condition's name, but without quotes also YAML's word for true. */
static int mend_true(struct json_object *object, const char *member, struct error *err)
{
    struct json_object *value = output_member(object, member);
    if (!json_object_is_type(value, json_type_boolean) || !json_object_get_boolean(value))
        return 0;
    return put(object, member, json_object_new_string("TRUE"), err);
}

/* A condition or action: an object with a name, or the name. */
static int complete_named(struct json_object *trigger, const char *member, struct error *err)
{
    if (mend_true(trigger, member, err) < 0)
        return -1;
    struct json_object *value = output_member(trigger, member);
    if (is_object(value) && mend_true(value, "name", err) < 0)
        return -1;
    if (json_object_is_type(value, json_type_string)) {
        struct json_object *object = json_object_new_object();
        if (!object || put(object, "name", json_object_get(value), err) < 0) {
            json_object_put(object);
            return no_memory(err);
        }
        return put(trigger, member, object, err);
    }
    if (!is_object(value))
        return wrong(trigger, member, "an object with a name", err);
    struct json_object *name = output_member(value, "name");
    if (json_object_is_type(name, json_type_string) && json_object_get_string_len(name) > 0)
        return 0;
    wrong(value, "name", "text", err);
    return error_prefix(err, "%s", member);
}

/* One activation event; a text stands for its type. */
static int complete_activation(struct json_object *events, size_t i, struct error *err)
{
    struct json_object *event = json_object_array_get_idx(events, i);
    if (json_object_is_type(event, json_type_string)) {
        struct json_object *object = json_object_new_object();
        if (!object || put(object, "type", json_object_get(event), err) < 0 ||
            json_object_array_put_idx(events, i, object) < 0) {
            json_object_put(object);
            return no_memory(err);
        }
        return 0;
    }
    if (!is_object(event))
        return error_set(err, ERROR_INVALID, "activation_events[%zu] is %.*s, not an object", i, SHOWN_MAX,
                         shown(event));
    struct json_object *type = output_member(event, "type"), *subject = output_member(event, "subject");
    int r = 0;
    if (!json_object_is_type(type, json_type_string) || json_object_get_string_len(type) == 0)
        r = wrong(event, "type", "text", err);
    else if (subject && !json_object_is_type(subject, json_type_string))
        r = wrong(event, "subject", "text", err);
    return r < 0 ? error_prefix(err, "activation_events[%zu]", i) : 0;
}

static int complete_activations(struct json_object *trigger, struct error *err)
{
    struct json_object *events = output_member(trigger, "activation_events");
    if (is_object(events)) { /* a single one */
        struct json_object *array = json_object_new_array();
        if (!array || json_object_array_add(array, json_object_get(events)) < 0) {
            json_object_put(array);
            return no_memory(err);
        }
        if (put(trigger, "activation_events", array, err) < 0)
            return -1;
        events = array;
    }
    if (!json_object_is_type(events, json_type_array))
        return wrong(trigger, "activation_events", "a list", err);
    for (size_t i = 0; i < json_object_array_length(events); i++)
        if (complete_activation(events, i, err) < 0)
            return -1;
    return 0;
}

static int complete_rest(struct json_object *trigger, struct error *err)
{
    struct json_object *context = output_member(trigger, "context");
    struct json_object *transient = output_member(trigger, "transient");
    if (!context && put(trigger, "context", json_object_new_object(), err) < 0)
        return -1;
    if (!transient && put(trigger, "transient", json_object_new_boolean(false), err) < 0)
        return -1;
    if (context && !is_object(context))
        return wrong(trigger, "context", "an object", err);
    if (transient && !json_object_is_type(transient, json_type_boolean))
        return wrong(trigger, "transient", "true or false", err);
    return 0;
}

int manifest_trigger(struct json_object *trigger, struct error *err)
{
    if (!is_object(trigger))
        return error_set(err, ERROR_INVALID, "a trigger is %.*s, not an object", SHOWN_MAX, shown(trigger));
    struct json_object *id = output_member(trigger, "id");
    json_object_object_del(trigger, "applied");
    if (id && (!json_object_is_type(id, json_type_string) || json_object_get_string_len(id) == 0))
        return wrong(trigger, "id", "text", err);
    if (complete_named(trigger, "condition", err) < 0 || complete_named(trigger, "action", err) < 0 ||
        complete_activations(trigger, err) < 0 || complete_rest(trigger, err) < 0)
        return id ? error_prefix(err, "trigger %.*s", SHOWN_MAX, json_object_get_string(id)) : -1;
    return 0;
}

static int complete_source(struct json_object *source, struct error *err)
{
    struct json_object *class = output_member(source, "class");
    struct json_object *parameters = output_member(source, "parameters");
    if (!json_object_is_type(class, json_type_string))
        return wrong(source, "class", "text", err);
    const char *known = definition_class(json_object_get_string(class));
    if (strcmp(known, json_object_get_string(class)) != 0 &&
        put(source, "class", json_object_new_string(known), err) < 0)
        return -1;
    if (!parameters)
        return put(source, "parameters", json_object_new_object(), err);
    return is_object(parameters) ? 0 : wrong(source, "parameters", "an object", err);
}

int manifest_source(struct json_object *source, struct error *err)
{
    if (!is_object(source))
        return error_set(err, ERROR_INVALID, "an event source is %.*s, not an object", SHOWN_MAX,
                         shown(source));
    struct json_object *name = output_member(source, "name");
    if (!json_object_is_type(name, json_type_string) || json_object_get_string_len(name) == 0) {
        wrong(source, "name", "text", err);
        return error_prefix(err, "an event source");
    }
    if (complete_source(source, err) < 0)
        return error_prefix(err, "event source %.*s", SHOWN_MAX, json_object_get_string(name));
    return 0;
}

int manifest_hash(struct json_object *trigger, char ret_hash[65], struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    struct json_object *copy = NULL;
    if (json_object_deep_copy(trigger, &copy, NULL) < 0)
        return no_memory(err);
    json_object_object_del(copy, "applied");
    document_canonical(copy, &text);
    json_object_put(copy);
    if (text.failed || !EVP_Digest(text.data, text.len, digest, &len, EVP_sha256(), NULL))
        return no_memory(err);
    for (unsigned i = 0; i < 32; i++)
        snprintf(ret_hash + 2 * (size_t)i, 3, "%02x", digest[i]);
    return 0;
}

/* ---- The whole ---- */

static int note_problem(struct manifest *m, const char *text, struct error *err)
{
    if (json_object_array_length(m->problems) >= PROBLEMS_MAX)
        return 0;
    struct json_object *problem = json_object_new_string(text);
    if (problem && json_object_array_add(m->problems, problem) == 0)
        return 0;
    json_object_put(problem);
    return no_memory(err);
}

/* Completes one item of a section and adds it to the list, or notes what is wrong with it. Borrows item. */
static int add_item(struct manifest *m, struct json_object *item, bool trigger, struct json_object *list,
                    struct error *err)
{
    struct error problem = {0};
    int r = trigger ? manifest_trigger(item, &problem) : manifest_source(item, &problem);
    if (r == 0 && trigger && !output_member(item, "id"))
        r = error_set(&problem, ERROR_INVALID, "trigger %zu of the list has no id",
                      json_object_array_length(list) + 1);
    if (r < 0)
        return problem.code == ERROR_MEMORY ? no_memory(err) : note_problem(m, problem.message, err);
    if (json_object_array_add(list, json_object_get(item)) == 0)
        return 0;
    json_object_put(item);
    return no_memory(err);
}

/* An item of a section of names: the name is put into it, and must be its own if it has one. */
static int add_named(struct manifest *m, const char *key, struct json_object *item, bool trigger,
                     struct json_object *list, struct error *err)
{
    const char *member = trigger ? "id" : "name";
    char text[240];
    if (!is_object(item)) {
        snprintf(text, sizeof text, "%s %.*s is %.*s, not an object", trigger ? "trigger" : "event source",
                 SHOWN_MAX, key, SHOWN_MAX, shown(item));
        return note_problem(m, text, err);
    }
    const char *own = output_text(item, member);
    if (*own != '\0' && strcmp(own, key) != 0) {
        snprintf(text, sizeof text, "%.*s has another %s: %.*s", SHOWN_MAX, key, member, SHOWN_MAX, own);
        return note_problem(m, text, err);
    }
    if (put(item, member, json_object_new_string(key), err) < 0)
        return -1;
    return add_item(m, item, trigger, list, err);
}

/* A section as a list, which replaces it in root. */
static int read_section(struct manifest *m, const char *section, bool trigger, struct json_object **ret_list,
                        struct error *err)
{
    struct json_object *value = NULL, *list;
    if (!json_object_object_get_ex(m->root, section, &value))
        return 0;
    bool named = is_object(value);
    if (value && !named && !json_object_is_type(value, json_type_array))
        return error_set(err, ERROR_INVALID, "%s is %.*s, not a list", section, SHOWN_MAX, shown(value));
    if (!(list = json_object_new_array()))
        return no_memory(err);
    int r = 0;
    for (size_t i = 0; r == 0 && i < output_length(value); i++)
        r = add_item(m, json_object_array_get_idx(value, i), trigger, list, err);
    if (named) {
        json_object_object_foreach(value, key, item)
        {
            if (r == 0)
                r = add_named(m, key, item, trigger, list, err);
        }
    }
    if (r < 0) {
        json_object_put(list);
        return -1;
    }
    *ret_list = list;
    return put(m->root, section, list, err);
}

static int check_members(const struct manifest *m, struct error *err)
{
    static const char *const known[] = {"workspace", "event_sources", "triggers", "global_context", NULL};
    if (!is_object(m->root))
        return error_set(err, ERROR_INVALID,
                         "no workflow: workspace, event_sources, triggers and global_context are needed");
    json_object_object_foreach(m->root, name, value)
    {
        (void)value;
        size_t i = 0;
        while (known[i] && strcmp(known[i], name) != 0)
            i++;
        if (!known[i])
            return error_set(
                err, ERROR_INVALID,
                "unknown key %.*s: workspace, event_sources, triggers and global_context are known",
                SHOWN_MAX, name);
    }
    return 0;
}

static int read_workflow(struct manifest *m, struct error *err)
{
    if (check_members(m, err) < 0)
        return -1;
    struct json_object *name = output_member(m->root, "workspace");
    if (!json_object_is_type(name, json_type_string) || json_object_get_string_len(name) == 0)
        return wrong(m->root, "workspace", "the workspace's name", err);
    m->workspace = json_object_get_string(name);
    m->problems = json_object_new_array();
    if (!m->problems)
        return no_memory(err);
    m->global_context = output_member(m->root, "global_context");
    if (m->global_context && !is_object(m->global_context))
        return wrong(m->root, "global_context", "an object", err);
    return read_section(m, "event_sources", false, &m->event_sources, err) < 0 ||
                   read_section(m, "triggers", true, &m->triggers, err) < 0
               ? -1
               : 0;
}

int manifest_parse(const char *name, const char *text, size_t len, struct manifest *ret_manifest,
                   struct error *err)
{
    struct manifest m = {0};
    if (document_parse(name, text, len, &m.root, err) < 0)
        return -1;
    if (read_workflow(&m, err) < 0) {
        manifest_done(&m);
        return error_prefix(err, "%.*s", SHOWN_MAX, name);
    }
    *ret_manifest = m;
    return 0;
}

int manifest_read(const char *path, struct manifest *ret_manifest, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (document_read_text(path, DOCUMENT_MAX, &text, err) < 0)
        return -1;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    return manifest_parse(name, text.len ? text.data : "", text.len, ret_manifest, err);
}

void manifest_done(struct manifest *manifest)
{
    json_object_put(manifest->problems);
    json_object_put(manifest->root);
    *manifest = (struct manifest){0};
}
