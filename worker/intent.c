#include "worker/intent.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

static struct intent *allocate(const char *text, size_t len)
{
    struct intent *intent = calloc(1, sizeof *intent + len + 1);
    if (intent) {
        memcpy(intent->text, text, len);
        intent->len = len;
        if (json_scan(intent->text, len, &intent->root, NULL) < 0)
            intent->root.type = JSON_ABSENT;
    }
    return intent;
}

int intent_load(const char *field, size_t field_len, const char *document, size_t len,
                struct intent **ret_intent, struct error *err)
{
    struct json_value root;
    struct json_value key;
    struct json_value name;
    if (field_len >= INTENT_FIELD_MAX)
        return error_set(err, ERROR_INVALID, "field name of %zu bytes", field_len);
    if (json_scan(document, len, &root, err) < 0)
        return -1;
    if (root.type != JSON_OBJECT || !json_member(&root, "key", &key) || key.type != JSON_STRING ||
        key.len >= ACTION_KEY_MAX || !json_member(&root, "action", &name) || name.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "not an intent: %.*s", (int)(len < 80 ? len : 80), document);
    const struct action_type *action = action_find(name.text, name.len);
    if (!action || !action->start)
        return error_set(err, ERROR_INVALID, "unknown action %.*s", (int)name.len, name.text);
    struct intent *intent = allocate(document, len);
    if (!intent)
        return error_set(err, ERROR_MEMORY, "out of memory");
    intent->action = action;
    memcpy(intent->field, field, field_len);
    memcpy(intent->key, key.text, key.len);
    *ret_intent = intent;
    return 0;
}

void intent_write(const struct action_type *action, const char *key, const char *trigger, size_t trigger_len,
                  const char *body, size_t body_len, struct buffer *out)
{
    buffer_printf(out, "{\"key\":\"%s\",\"trigger\":", key);
    buffer_append_json(out, trigger, trigger_len);
    buffer_printf(out, ",\"action\":\"%s\",\"body\":", action->name);
    buffer_append(out, body, body_len);
    buffer_append_char(out, '}');
}

int intent_new(const struct action_type *action, const char *field, const char *key, const char *trigger,
               size_t trigger_len, const char *body, size_t body_len, struct intent **ret_intent,
               struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    intent_write(action, key, trigger, trigger_len, body, body_len, &text);
    struct intent *intent = text.failed ? NULL : allocate(text.data, text.len);
    if (!intent)
        return error_set(err, ERROR_MEMORY, "out of memory");
    intent->action = action;
    memcpy(intent->field, field, strnlen(field, INTENT_FIELD_MAX - 1));
    memcpy(intent->key, key, strnlen(key, ACTION_KEY_MAX - 1));
    *ret_intent = intent;
    return 0;
}

void intent_free(struct intent *intent)
{
    if (!intent)
        return;
    free(intent->event);
    free(intent->report);
    free(intent);
}

void intent_free_list(struct intent *intent)
{
    while (intent) {
        struct intent *next = intent->next;
        intent_free(intent);
        intent = next;
    }
}

static bool member(const struct intent *intent, const char *name, enum json_type type,
                   struct json_value *ret_value)
{
    return intent->root.type == JSON_OBJECT && json_member(&intent->root, name, ret_value) &&
           ret_value->type == type;
}

bool intent_body(const struct intent *intent, struct json_value *ret_body)
{
    return member(intent, "body", JSON_OBJECT, ret_body);
}

bool intent_trigger(const struct intent *intent, struct json_value *ret_trigger)
{
    return member(intent, "trigger", JSON_STRING, ret_trigger);
}
