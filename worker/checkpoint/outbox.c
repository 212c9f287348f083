#include "worker/checkpoint/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/changes.h"
#include "worker/checkpoint/outbox_internal.h"
#include "worker/checkpoint/outbox_line.h"
#include "worker/checkpoint/recovery.h"
#include "worker/crash.h"
#include "worker/deadletter.h"
#include "worker/document/redact.h"
#include "worker/emission.h"
#include "worker/executor/executor.h"
#include "worker/executor/fan_out.h"
#include "worker/executor/intent.h"
#include "worker/worker.h"

#define AHEAD 1000 /* of what there is room for: announced, so that it need not wait for an epoch */

struct outbox *outbox_new(struct worker *worker)
{
    struct outbox *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->worker = worker;
    hash_init(&o->lines);
    return o;
}

static void free_lines(struct outbox *o)
{
    size_t cursor = 0;
    for (struct hash_entry *e; (e = hash_next(&o->lines, &cursor));)
        line_free(e->value);
    hash_done(&o->lines);
    hash_init(&o->lines);
    o->first = o->last = NULL;
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
    free_lines(outbox);
    hash_done(&outbox->lines);
    free(outbox);
}

/* --- lines --- */

void outbox_look_after(struct outbox *o, struct line *line)
{
    if (line->looked_after)
        return;
    line->looked_after = true;
    line->after = NULL;
    line->before = o->last;
    *(o->last ? &o->last->after : &o->first) = line;
    o->last = line;
}

void outbox_unlink(struct outbox *o, struct line *line)
{
    *(line->before ? &line->before->after : &o->first) = line->after;
    *(line->after ? &line->after->before : &o->last) = line->before;
    line->looked_after = false;
}

static struct line *line_of(struct outbox *o, const char *trigger, size_t len)
{
    struct line *line = hash_get(&o->lines, trigger, len);
    if (line)
        return line;
    line = line_new(trigger, len);
    if (!line || hash_put(&o->lines, line->trigger, len, line, NULL) < 0)
        abort(); /* its intents would be forgotten until the next start */
    return line;
}

struct line *outbox_line_of(struct outbox *o, const struct intent *intent)
{
    struct json_value trigger;
    return intent_trigger(intent, &trigger) ? line_of(o, trigger.text, trigger.len) : line_of(o, "", 0);
}

/* Forgets a line of which nothing is left. */
static void leave_line(struct outbox *o, struct line *line)
{
    if (line->looked_after && line_is_clear(line) && !line->fresh && !line->announced.epoch)
        outbox_unlink(o, line);
    if (line->looked_after || line->held)
        return;
    hash_remove(&o->lines, line->trigger, line->len);
    line_free(line);
}

void outbox_leave_lines(struct outbox *o)
{
    for (struct line *line = o->first; line;) {
        struct line *next = line->after;
        leave_line(o, line);
        line = next;
    }
}

uint64_t outbox_free_places(const struct outbox *o)
{
    uint64_t limit = (uint64_t)o->worker->config->max_pending_actions;
    uint64_t pending = executor_pending(o->worker->executor);
    return pending < limit ? limit - pending : 0;
}

bool outbox_empty(const struct outbox *outbox)
{
    for (const struct line *line = outbox->first; line; line = line->after)
        if (!line_is_clear(line))
            return false;
    return true;
}

const struct position *outbox_next(const struct outbox *o, const struct line *line, uint64_t free_now)
{
    const struct position *p = line_has_room(line, free_now) ? line_next(line) : NULL;
    return p && p->fans_out && o->fan_out_bytes >= OUTBOX_FAN_OUT_BYTES ? NULL : p;
}

bool outbox_can_refill(const struct outbox *outbox)
{
    uint64_t free_now = outbox_free_places(outbox);
    for (const struct line *line = outbox->first; line; line = line->after)
        if (outbox_next(outbox, line, free_now))
            return true;
    return false;
}

bool outbox_wants_epoch(const struct outbox *outbox)
{
    uint64_t free_now = outbox->first ? outbox_free_places(outbox) : 0;
    for (const struct line *line = outbox->first; line && free_now; line = line->after) {
        bool held_up =
            line->starting ? fan_out_is_held(line->starting) : line_waiting(line) && !line->allowed;
        if (held_up && line_has_room(line, free_now))
            return true;
    }
    return false;
}

/* --- recovery --- */

/* Remembers where a stored intent publishes to, if this workflow reads that source (or once did). */
static int register_emission(const struct json_value *root, struct emissions *emissions, struct error *err)
{
    struct json_value key;
    struct json_value body;
    struct json_value name;
    if (!json_member(root, "key", &key) || key.len >= ACTION_KEY_MAX || !json_member(root, "body", &body) ||
        body.type != JSON_OBJECT || !json_member(&body, "event_source", &name) || name.type != JSON_STRING)
        return 0;
    char key_text[ACTION_KEY_MAX] = "";
    memcpy(key_text, key.text, key.len);
    BUFFER_AUTO source = BUFFER_INIT;
    json_unescape(&name, &source);
    return emissions_register(emissions, key_text, buffer_text(&source), source.len, err);
}

struct load {
    struct outbox *outbox;
    struct emissions *emissions;
    struct error *err;
    bool failed;
};

static int see_stored(void *data, const char *field, size_t field_len, const char *document, size_t len)
{
    struct load *load = data;
    struct json_value root;
    struct json_value trigger;
    struct position p;
    struct line *line;
    if (!position_read(field, field_len, &p)) {
        log_error("outbox", LOG_STR("field", field), LOG_STR("error", "not a field of an intent"));
        return 0;
    }
    if (json_scan(document, len, &root, NULL) < 0 || root.type != JSON_OBJECT)
        root = (struct json_value){.text = "{}", .len = 2, .type = JSON_OBJECT}; /* told of when it is read */
    if (json_member(&root, "trigger", &trigger) && trigger.type == JSON_STRING)
        line = line_of(load->outbox, trigger.text, trigger.len);
    else
        line = line_of(load->outbox, "", 0);
    outbox_look_after(load->outbox, line);
    line_wait(line, &p);
    load->failed = register_emission(&root, load->emissions, load->err) < 0;
    return load->failed ? -1 : 0;
}

int outbox_load(struct outbox *outbox, struct storage *storage, struct emissions *emissions,
                struct error *err)
{
    struct error seen;
    struct load load = {outbox, emissions, &seen, false};
    free_lines(outbox);
    if (storage->type->load(storage, outbox->worker->workspace, STORAGE_OUTBOX, see_stored, &load, err) == 0)
        return 0;
    if (load.failed)
        *err = seen;
    return -1;
}

bool outbox_is_uncertain(const struct outbox *outbox, const struct line *line,
                         const struct position *position)
{
    return position->epoch <= outbox->recovered_epoch && position_compare(position, &line->uncertain) <= 0;
}

void outbox_restore(struct outbox *outbox, struct recovery *recovery)
{
    outbox->recovered_epoch = recovery->claim.epoch;
    outbox->progress = recovery->fan_outs;
    recovery->fan_outs = (struct stored_fields){0};
    for (size_t i = 0; i < recovery->outbox_started.n; i++) {
        const struct stored_field *f = &recovery->outbox_started.items[i];
        struct line *line = line_of(outbox, f->key, f->key_len);
        outbox_look_after(outbox, line);
        line->announced.epoch = UINT64_MAX; /* nothing, or illegible: to be deleted */
        if (position_read(f->value, f->len, &line->uncertain))
            line->announced = line->uncertain;
        else if (f->len == strlen(OUTBOX_NOT_STARTED) && !memcmp(f->value, OUTBOX_NOT_STARTED, f->len))
            line->uncertain = (struct position){0};
    }
    for (struct line *line = outbox->first; line; line = line->after) {
        line_sort(line);
        while (line->allowed < line_waiting(line) &&
               position_compare(&line->waiting[line->first + line->allowed], &line->uncertain) <= 0)
            line->allowed++;
    }
}

/* --- fan-outs --- */

void outbox_fan_out_started(struct outbox *o, struct line *line)
{
    line->starting = NULL;
    o->fan_out_bytes -= line->starting_bytes;
    line->starting_bytes = 0;
}

static void element_ended(struct outbox *o, const struct intent *element, struct changes *out)
{
    crash_point("element_ended");
    if (!fan_out_ended(element->fan_out, element->index, out))
        return;
    if (element->line->starting == element->fan_out)
        outbox_fan_out_started(o, element->line);
    fan_out_unlink(element->fan_out, &o->fan_outs);
    fan_out_free(element->fan_out);
}

void outbox_ended(struct outbox *outbox, const struct intent *intent, struct changes *out)
{
    if (intent->fan_out)
        element_ended(outbox, intent, out);
    else
        changes_delete(out, STORAGE_OUTBOX, intent->field, strlen(intent->field));
    if (!intent->line) /* it has passed by */
        return;
    intent->line->held--;
    leave_line(outbox, intent->line);
}

/* --- how far it may go --- */

void outbox_announce(struct line *line, const struct position *position, struct changes *out)
{
    char field[INTENT_FIELD_MAX];
    BUFFER_AUTO name = BUFFER_INIT;
    if (line->announced.epoch == position->epoch && !position_compare(&line->announced, position))
        return;
    buffer_append_text(&name, OUTBOX_STARTED);
    buffer_append(&name, line->trigger, line->len);
    out->text.failed |= name.failed;
    position_write(position, field);
    if (position->epoch)
        changes_put(out, STORAGE_CHECKPOINT, buffer_text(&name), name.len, field, strlen(field));
    else
        changes_delete(out, STORAGE_CHECKPOINT, buffer_text(&name), name.len);
    line->announced = *position;
}

/* Decides how many of a line may be handed over after the epoch: of those that wait, and of the fresh ones
 * behind them. */
static void allow(const struct outbox *o, struct line *line, uint64_t free_now, struct changes *out)
{
    static const struct position none = {0};
    size_t waiting = line_waiting(line);
    size_t room = line_room(line, free_now);
    line->allowed_new = line->fresh;
    line->to_announce = 0;
    if (o->worker->config->action_start == CONFIG_ACTION_IMMEDIATE ||
        (line_is_clear(line) && line->fresh <= room)) {
        line->allowed = waiting;
        outbox_announce(line, &none, out);
        return;
    }
    size_t reach = line->allowed < room + AHEAD / 2 ? room + AHEAD : line->allowed;
    reach = reach < waiting + line->fresh ? reach : waiting + line->fresh;
    reach = reach > line->allowed ? reach : line->allowed;
    line->allowed = reach < waiting ? reach : waiting;
    line->allowed_new = line->to_announce = reach - line->allowed;
    if (line->allowed && !line->allowed_new)
        outbox_announce(line, &line->waiting[line->first + line->allowed - 1], out);
}

/* Of lines that say how far they may be: the last of the fresh ones that are allowed. */
static void announce_fresh(struct intent *const *lists, size_t n_lists, struct changes *out)
{
    struct position p;
    for (size_t i = 0; i < n_lists; i++)
        for (const struct intent *intent = lists[i]; intent; intent = intent->next)
            if (intent->line->to_announce && !--intent->line->to_announce &&
                position_read(intent->field, strlen(intent->field), &p))
                outbox_announce(intent->line, &p, out);
}

void outbox_count_fresh(struct outbox *o, struct intent *const *lists, size_t n_lists)
{
    for (size_t i = 0; i < n_lists; i++)
        for (struct intent *intent = lists[i]; intent; intent = intent->next) {
            intent->line = outbox_line_of(o, intent);
            intent->line->fresh++;
            outbox_look_after(o, intent->line);
        }
}

void outbox_collect(struct outbox *outbox, struct intent *const *lists, size_t n_lists, struct changes *out)
{
    bool fresh_too = false;
    outbox_count_fresh(outbox, lists, n_lists);
    uint64_t free_now = outbox->first ? outbox_free_places(outbox) : 0;
    for (struct line *line = outbox->first; line; line = line->after) {
        allow(outbox, line, free_now, out);
        fresh_too |= line->to_announce != 0;
        if (line->starting)
            fan_out_announce(line->starting, line_room(line, free_now) + AHEAD);
    }
    if (fresh_too)
        announce_fresh(lists, n_lists, out);
    for (struct fan_out *f = outbox->fan_outs; f; f = fan_out_after(f))
        fan_out_write(f, out);
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
