#include "worker/executor/intent.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/shard/firing.h"
#include "worker/shard/trigger.h"

/* What the text says. */
static int read_document(struct intent *intent, struct error *err)
{
    struct json_value key;
    struct json_value name;
    struct json_value *root = &intent->root;
    if (json_scan(intent->text, intent->len, root, err) < 0)
        return -1;
    if (root->type != JSON_OBJECT || !json_member(root, "key", &key) || key.type != JSON_STRING ||
        key.len >= ACTION_KEY_MAX || !json_member(root, "action", &name) || name.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "not an intent: %.80s", intent->text);
    intent->action = action_find(name.text, name.len);
    if (!intent->action || !intent->action->start)
        return error_set(err, ERROR_INVALID, "unknown action %.*s", (int)name.len, name.text);
    memcpy(intent->key, key.text, key.len);
    intent->fans_out = json_member(root, "elements", &name);
    return 0;
}

int intent_load(const char *field, size_t field_len, const char *document, size_t len,
                struct intent **ret_intent, struct error *err)
{
    if (field_len >= INTENT_FIELD_MAX)
        return error_set(err, ERROR_INVALID, "field name of %zu bytes", field_len);
    struct intent *intent = calloc(1, sizeof *intent + len + 1);
    if (!intent)
        return error_set(err, ERROR_MEMORY, "out of memory");
    memcpy(intent->field, field, field_len);
    memcpy(intent->text, document, len);
    intent->len = len;
    if (read_document(intent, err) < 0) {
        intent_free(intent);
        return -1;
    }
    *ret_intent = intent;
    return 0;
}

void intent_write(const struct firing *firing, const struct action_type *action, const char *key,
                  const char *body, size_t body_len, const char *elements, size_t elements_len,
                  struct buffer *out)
{
    const struct trigger *t = firing->trigger;
    buffer_printf(out, "{\"key\":\"%s\",\"trigger\":", key);
    buffer_append_json(out, t->id, t->id_len);
    buffer_printf(out, ",\"action\":\"%s\",\"body\":", action->name);
    buffer_append(out, body, body_len);
    if (elements) {
        buffer_append_text(out, ",\"of\":{\"identity\":");
        buffer_append_json(out, t->identity, t->identity_len);
        buffer_printf(out, ",\"number\":%llu},\"elements\":", (unsigned long long)firing->number);
        buffer_append(out, elements, elements_len);
    }
    buffer_append_char(out, '}');
}

bool intent_field_fans_out(const char *field)
{
    size_t len = strlen(field);
    return len && field[len - 1] == INTENT_FANS_OUT;
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
    return json_member(&intent->root, name, ret_value) && ret_value->type == type;
}

bool intent_body(const struct intent *intent, struct json_value *ret_body)
{
    return member(intent, "body", JSON_OBJECT, ret_body);
}

bool intent_trigger(const struct intent *intent, struct json_value *ret_trigger)
{
    return member(intent, "trigger", JSON_STRING, ret_trigger);
}

bool intent_element(const struct intent *intent, struct json_value *ret_element)
{
    return json_member(&intent->root, "element", ret_element);
}

int intent_event(const struct intent *intent, struct json_value *ret_event, struct error *err)
{
    struct json_value body;
    if (intent_body(intent, &body) && json_member(&body, "event", ret_event) &&
        ret_event->type == JSON_OBJECT)
        return 0;
    return error_set(err, ERROR_INVALID, "the stored intent has no event");
}

/* --- queues --- */

void intent_queue_init(struct intent_queue *queue)
{
    queue->head = NULL;
    queue->end = &queue->head;
}

void intent_queue_append(struct intent_queue *queue, struct intent *intent)
{
    intent->wait_next = NULL;
    *queue->end = intent;
    queue->end = &intent->wait_next;
}

struct intent *intent_queue_take(struct intent_queue *queue)
{
    struct intent *intent = queue->head;
    if (intent && !(queue->head = intent->wait_next))
        queue->end = &queue->head;
    return intent;
}

void intent_queue_put_back(struct intent_queue *queue, struct intent *intent)
{
    intent->wait_next = queue->head;
    if (!queue->head)
        queue->end = &intent->wait_next;
    queue->head = intent;
}

void intent_queue_put_all_back(struct intent_queue *queue, struct intent_queue *from)
{
    if (!from->head)
        return;
    *from->end = queue->head;
    if (!queue->head)
        queue->end = from->end;
    queue->head = from->head;
    intent_queue_init(from);
}
