#include "worker/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/changes.h"
#include "worker/deadletter.h"
#include "worker/emission.h"
#include "worker/executor.h"
#include "worker/intent.h"
#include "worker/recovery.h"
#include "worker/redact.h"
#include "worker/worker.h"

#define REFILL_AT_ONCE 500

struct outbox {
    struct worker *worker;
    char (*fields)[INTENT_FIELD_MAX]; /* waiting in storage only: [first, n) */
    size_t first;
    size_t n;
    size_t cap;
};

struct outbox *outbox_new(struct worker *worker)
{
    struct outbox *o = calloc(1, sizeof *o);
    if (o)
        o->worker = worker;
    return o;
}

void outbox_free(struct outbox *outbox)
{
    if (!outbox)
        return;
    free(outbox->fields);
    free(outbox);
}

bool outbox_empty(const struct outbox *outbox)
{
    return outbox->first == outbox->n;
}

static void wait_in_storage(struct outbox *o, const char *field)
{
    if (o->first == o->n)
        o->first = o->n = 0;
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 256;
        void *fields = realloc(o->fields, cap * sizeof *o->fields);
        if (!fields)
            abort(); /* would be forgotten until the next start */
        o->fields = fields;
        o->cap = cap;
    }
    memset(o->fields[o->n], 0, INTENT_FIELD_MAX);
    memcpy(o->fields[o->n++], field, strnlen(field, INTENT_FIELD_MAX - 1));
}

/* Remembers where a stored intent publishes to, if this workflow reads that source (or once did). */
static int register_emission(const struct stored_field *f, struct emissions *emissions, struct error *err)
{
    struct json_value root;
    struct json_value key;
    struct json_value body;
    struct json_value name;
    if (json_scan(f->value, f->len, &root, NULL) < 0 || root.type != JSON_OBJECT ||
        !json_member(&root, "key", &key) || key.len >= ACTION_KEY_MAX || !json_member(&root, "body", &body) ||
        body.type != JSON_OBJECT || !json_member(&body, "event_source", &name) || name.type != JSON_STRING)
        return 0;
    char key_text[ACTION_KEY_MAX] = "";
    memcpy(key_text, key.text, key.len);
    BUFFER_AUTO source = BUFFER_INIT;
    json_unescape(&name, &source);
    return emissions_register(emissions, key_text, buffer_text(&source), source.len, err);
}

int outbox_restore(struct outbox *outbox, const struct recovery *recovery, struct emissions *emissions,
                   struct error *err)
{
    for (size_t i = 0; i < recovery->outbox.n; i++) {
        if (register_emission(&recovery->outbox.items[i], emissions, err) < 0)
            return -1;
        wait_in_storage(outbox, recovery->outbox.items[i].key);
    }
    return 0;
}

void outbox_start(struct outbox *outbox, struct intent *list)
{
    struct executor *x = outbox->worker->executor;
    uint64_t limit = (uint64_t)outbox->worker->config->max_pending_actions;
    uint64_t pending = executor_pending(x);
    struct intent **link = &list;
    if (outbox_empty(outbox))
        for (; *link && pending < limit; pending++)
            link = &(*link)->next;
    struct intent *rest = *link;
    *link = NULL;
    executor_submit(x, list);
    for (struct intent *intent = rest; intent; intent = intent->next)
        wait_in_storage(outbox, intent->field);
    intent_free_list(rest);
}

struct refill {
    struct intent *list;
    struct intent **end;
};

static int see_intent(void *data, const char *field, size_t field_len, const char *document, size_t len)
{
    struct refill *refill = data;
    struct intent *intent;
    struct error err;
    if (intent_load(field, field_len, document, len, &intent, &err) < 0) {
        /* Not something that any version of ours has written: it stays where it is, and is told of. */
        log_error("outbox", LOG_STR("error", err.message));
        return err.code == ERROR_MEMORY ? -1 : 0;
    }
    intent->replayed = true;
    *refill->end = intent;
    refill->end = &intent->next;
    return 0;
}

void outbox_refill(struct outbox *outbox, struct storage *storage)
{
    struct executor *x = outbox->worker->executor;
    while (!outbox_empty(outbox) && executor_has_room(x)) {
        const char *keys[REFILL_AT_ONCE];
        size_t n = 0;
        struct refill refill = {.end = &refill.list};
        struct error err;
        while (n < REFILL_AT_ONCE && outbox->first + n < outbox->n) {
            keys[n] = outbox->fields[outbox->first + n];
            n++;
        }
        if (storage->type->get(storage, outbox->worker->workspace, STORAGE_OUTBOX, keys, n, see_intent,
                               &refill, &err) < 0) {
            log_warn("outbox", LOG_STR("error", err.message));
            intent_free_list(refill.list);
            return;
        }
        outbox->first += n;
        executor_submit(x, refill.list);
    }
}

void outbox_dead_letter(const struct intent *intent, struct changes *out)
{
    struct json_value trigger;
    struct json_value body;
    struct json_value json;
    struct cloudevent event;
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO text = BUFFER_INIT;
    struct dead_letter letter = {.reason = "action_failed", .detail = intent->error, .key = intent->key};
    if (intent_trigger(intent, &trigger)) {
        json_unescape(&trigger, &id);
        letter.trigger = id.len ? buffer_text(&id) : NULL; /* a timer has none */
    }
    if (intent_body(intent, &body) && json_member(&body, "event", &json)) {
        size_t len;
        const char *raw = json_raw(&json, &len);
        if (cloudevent_parse(&event, raw, len, &scratch, NULL) == 0)
            letter.event = &event;
    }
    if (intent->report) {
        buffer_append_text(&text, intent->report);
        buffer_append_char(&text, ',');
    }
    buffer_append_text(&text, "\"intent\":");
    redact_json(&intent->root, "event", &text);
    out->text.failed |= text.failed;
    letter.body = text.data;
    letter.body_len = text.len;
    dead_letter_add(&letter, out);
}
