#include "worker/checkpoint/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/changes.h"
#include "worker/crash.h"
#include "worker/deadletter.h"
#include "worker/emission.h"
#include "worker/executor/executor.h"
#include "worker/executor/fan_out.h"
#include "worker/executor/intent.h"
#include "worker/checkpoint/recovery.h"
#include "worker/document/redact.h"
#include "worker/worker.h"

#define REFILL_AT_ONCE 500
#define AHEAD 1000 /* of what there is room for: announced, so that it need not wait for an epoch */

struct outbox {
    struct worker *worker;
    char (*fields)[INTENT_FIELD_MAX]; /* waiting in storage only: [first, n) */
    size_t first;
    size_t n;
    size_t cap;
    size_t allowed;                   /* of those: may be handed over, the stored checkpoint covers them */
    size_t allowed_new;               /* of the epoch under way: likewise */
    size_t recovered;                 /* [0, recovered) were left by an earlier life of the worker */
    char announced[INTENT_FIELD_MAX]; /* outbox_started as it is stored; "": it is not, all may be started */
    char uncertain[INTENT_FIELD_MAX]; /* the same as an earlier life has left it */
    struct fan_out *fan_outs;         /* those with elements that have not ended */
    struct fan_out *starting; /* the one of them whose elements are being started; the rest waits for it */
    struct stored_fields progress; /* of fan-outs, as an earlier life has left it */
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
    while (outbox->fan_outs) {
        struct fan_out *f = outbox->fan_outs;
        fan_out_unlink(f, &outbox->fan_outs);
        fan_out_free(f);
    }
    stored_fields_done(&outbox->progress);
    free(outbox->fields);
    free(outbox);
}

bool outbox_empty(const struct outbox *outbox)
{
    return outbox->first == outbox->n && !outbox->starting;
}

static void wait_in_storage(struct outbox *o, const char *field)
{
    if (o->first == o->n)
        o->first = o->n = o->recovered = 0;
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

int outbox_restore(struct outbox *outbox, struct recovery *recovery, struct emissions *emissions,
                   struct error *err)
{
    outbox->progress = recovery->fan_outs;
    recovery->fan_outs = (struct stored_fields){0};
    for (size_t i = 0; i < recovery->outbox.n; i++) {
        if (register_emission(&recovery->outbox.items[i], emissions, err) < 0)
            return -1;
        wait_in_storage(outbox, recovery->outbox.items[i].key);
        outbox->allowed += !*recovery->outbox_started ||
                           strcmp(recovery->outbox.items[i].key, recovery->outbox_started) <= 0;
    }
    outbox->recovered = outbox->n;
    memcpy(outbox->announced, recovery->outbox_started, sizeof outbox->announced);
    memcpy(outbox->uncertain, recovery->outbox_started, sizeof outbox->uncertain);
    return 0;
}

/* --- fan-outs --- */

static const char *progress_of(const struct outbox *o, const char *field)
{
    for (size_t i = 0; i < o->progress.n; i++)
        if (!strcmp(o->progress.items[i].key, field))
            return o->progress.items[i].value;
    return NULL;
}

/* Begins with one, which comes from this life or from storage. Takes the intent. */
static void begin_fan_out(struct outbox *o, struct intent *intent)
{
    struct error err;
    struct fan_out *f;
    const char *progress = intent->replayed ? progress_of(o, intent->field) : NULL;
    if (fan_out_new(intent, o->worker->creation, progress, &f, &err) < 0) {
        if (err.code == ERROR_MEMORY)
            abort(); /* would be forgotten until the next start */
        log_error("outbox", LOG_STR("error", err.message));
        intent_free(intent);
        return;
    }
    fan_out_link(f, &o->fan_outs);
    o->starting = f;
    crash_point("fan_out_begun");
}

/* Adds elements to the list while there is room. */
static void start_elements(struct outbox *o, struct intent ***end, uint64_t *room)
{
    struct error err;
    struct intent *element;
    while (*room && (element = fan_out_next(o->starting, &err))) {
        **end = element;
        *end = &element->next;
        --*room;
    }
    if (fan_out_exhausted(o->starting))
        o->starting = NULL;
}

void outbox_element_ended(struct outbox *outbox, const struct intent *element, struct changes *out)
{
    crash_point("element_ended");
    if (!fan_out_ended(element->fan_out, element->index, out))
        return;
    if (outbox->starting == element->fan_out)
        outbox->starting = NULL;
    fan_out_unlink(element->fan_out, &outbox->fan_outs);
    fan_out_free(element->fan_out);
}

static uint64_t room(const struct outbox *o)
{
    uint64_t limit = (uint64_t)o->worker->config->max_pending_actions;
    uint64_t pending = executor_pending(o->worker->executor);
    return pending < limit ? limit - pending : 0;
}

/* --- how far it may go --- */

static void store_announced(struct outbox *o, const char *field, struct changes *out)
{
    static const char name[] = "outbox_started";
    if (!strcmp(o->announced, field))
        return;
    if (*field)
        changes_put(out, STORAGE_CHECKPOINT, name, sizeof name - 1, field, strlen(field));
    else
        changes_delete(out, STORAGE_CHECKPOINT, name, sizeof name - 1);
    memset(o->announced, 0, sizeof o->announced);
    memcpy(o->announced, field, strnlen(field, sizeof o->announced - 1));
}

/* The nth intent of some lists, from 1. */
static const struct intent *nth(struct intent *const *lists, size_t n_lists, size_t n)
{
    for (size_t i = 0; i < n_lists; i++)
        for (const struct intent *intent = lists[i]; intent; intent = intent->next)
            if (!--n)
                return intent;
    return NULL;
}

static void announce(struct outbox *o, struct intent *const *lists, size_t n_lists, struct changes *out)
{
    size_t waiting = o->n - o->first;
    size_t fresh = 0;
    for (size_t i = 0; i < n_lists; i++)
        for (const struct intent *intent = lists[i]; intent; intent = intent->next)
            fresh++;
    o->allowed_new = fresh;
    if (o->worker->config->action_start == CONFIG_ACTION_IMMEDIATE || (outbox_empty(o) && fresh <= room(o))) {
        o->allowed = waiting;
        store_announced(o, "", out);
        return;
    }
    size_t reach = (size_t)room(o) + AHEAD;
    reach = reach < waiting + fresh ? reach : waiting + fresh;
    reach = reach > o->allowed ? reach : o->allowed;
    o->allowed = reach < waiting ? reach : waiting;
    o->allowed_new = reach - o->allowed;
    const struct intent *last = o->allowed_new ? nth(lists, n_lists, o->allowed_new) : NULL;
    if (last)
        store_announced(o, last->field, out);
    else if (o->allowed)
        store_announced(o, o->fields[o->first + o->allowed - 1], out);
}

void outbox_collect(struct outbox *outbox, struct intent *const *lists, size_t n_lists, struct changes *out)
{
    announce(outbox, lists, n_lists, out);
    if (outbox->starting)
        fan_out_announce(outbox->starting, room(outbox) + AHEAD);
    for (struct fan_out *f = outbox->fan_outs; f; f = fan_out_after(f))
        fan_out_write(f, out);
}

bool outbox_wants_epoch(const struct outbox *outbox)
{
    if (outbox_empty(outbox) || !executor_has_room(outbox->worker->executor))
        return false;
    return outbox->starting ? fan_out_is_held(outbox->starting) : !outbox->allowed;
}

/* --- starting, as far as it may --- */

/* Starts intents of a list while there is room, at most so many, and returns the rest. */
static struct intent *start_list(struct outbox *o, struct intent *list, size_t *allowed)
{
    struct intent *starting = NULL;
    struct intent **end = &starting;
    uint64_t left = room(o);
    if (o->starting)
        start_elements(o, &end, &left);
    while (list && left && *allowed && !o->starting) {
        struct intent *intent = list;
        --*allowed;
        list = intent->next;
        intent->next = NULL;
        if (intent->fans_out) {
            begin_fan_out(o, intent);
            if (o->starting)
                start_elements(o, &end, &left);
            continue;
        }
        *end = intent;
        end = &intent->next;
        left--;
    }
    *end = NULL;
    executor_submit(o->worker->executor, starting);
    return list;
}

void outbox_start(struct outbox *outbox, struct intent *list)
{
    struct intent *rest = outbox_empty(outbox) ? start_list(outbox, list, &outbox->allowed_new) : list;
    for (struct intent *intent = rest; intent; intent = intent->next) {
        wait_in_storage(outbox, intent->field);
        outbox->allowed += outbox->allowed_new != 0;
        outbox->allowed_new -= outbox->allowed_new != 0;
    }
    intent_free_list(rest);
}

struct refill {
    const struct outbox *outbox;
    bool recovered; /* what is read was left by an earlier life */
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
    intent->uncertain = refill->recovered && (!*refill->outbox->uncertain ||
                                              strcmp(intent->field, refill->outbox->uncertain) <= 0);
    *refill->end = intent;
    refill->end = &intent->next;
    return 0;
}

/* Reads some of those that wait in storage: not more than there is room for, a fan-out alone, for it may be
 * large, and none of this life together with those of an earlier one. */
static int read_back(struct outbox *o, struct storage *storage, struct refill *refill, size_t *ret_n)
{
    const char *keys[REFILL_AT_ONCE];
    struct error err;
    size_t n = 0;
    uint64_t most = room(o) < REFILL_AT_ONCE ? room(o) : REFILL_AT_ONCE;
    refill->recovered = o->first < o->recovered;
    size_t end = refill->recovered ? o->recovered : o->n;
    while (n < most && n < o->allowed && o->first + n < end) {
        const char *field = o->fields[o->first + n];
        if (n && intent_field_fans_out(field))
            break;
        keys[n++] = field;
        if (intent_field_fans_out(field))
            break;
    }
    *ret_n = n;
    if (storage->type->get(storage, o->worker->workspace, STORAGE_OUTBOX, keys, n, see_intent, refill,
                           &err) == 0)
        return 0;
    log_warn("outbox", LOG_STR("error", err.message));
    intent_free_list(refill->list);
    return -1;
}

void outbox_refill(struct outbox *outbox, struct storage *storage)
{
    size_t n = 0;
    if (outbox->starting)
        start_list(outbox, NULL, &n);
    while (!outbox->starting && !outbox_empty(outbox) && outbox->allowed && room(outbox)) {
        struct refill refill = {.outbox = outbox, .end = &refill.list};
        if (read_back(outbox, storage, &refill, &n) < 0)
            return;
        outbox->first += n;
        outbox->allowed -= n;
        intent_free_list(start_list(outbox, refill.list, &n)); /* there was room for all */
    }
}

void outbox_dead_letter(const struct intent *intent, struct changes *out)
{
    struct json_value trigger;
    struct json_value body;
    struct json_value json;
    struct json_value evaluates;
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
    /* An event whose condition was to be evaluated: redriven, it is evaluated as any event is. */
    bool evaluation = letter.event && json_member(&body, "evaluates", &evaluates);
    if (evaluation)
        letter.reason = "condition_failed";
    if (intent->report)
        buffer_append_text(&text, intent->report);
    if (!evaluation) {
        buffer_append_text(&text, intent->report ? ",\"intent\":" : "\"intent\":");
        redact_json(&intent->root, "event", &text);
    }
    out->text.failed |= text.failed;
    letter.body = text.data;
    letter.body_len = text.len;
    dead_letter_add(&letter, out);
}
