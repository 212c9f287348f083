#include "worker/trial.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/decision.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/checkpoint/timers.h"
#include "worker/shard/firing.h"
#include "worker/globals.h"
#include "worker/document/redact.h"
#include "worker/router.h"
#include "worker/shard/trigger.h"
#include "worker/shard/write.h"

struct trial {
    struct firing firing;
    struct buffer effects; /* JSON, separated by commas */
};

/* --- effects --- */

static struct buffer *effects_of(struct firing *firing)
{
    struct buffer *effects = &((struct trial *)(void *)firing)->effects;
    if (effects->len)
        buffer_append_char(effects, ',');
    return effects;
}

static int emit(struct firing *firing, const struct cloudevent *event, struct error *err)
{
    struct buffer *out = effects_of(firing);
    buffer_append_text(out, "{\"event_source\":null,\"event\":");
    cloudevent_write(event, out);
    buffer_append_char(out, '}');
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static void append_raw(const struct json_value *value, struct buffer *out)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

/* An event source's document without its parameters: they hold passwords. */
static void append_target(const struct json_value *source, struct buffer *out)
{
    static const char *const shown[] = {"name", "class"};
    struct json_value value;
    const char *separator = "{";
    if (source->type != JSON_OBJECT) {
        append_raw(source, out);
        return;
    }
    for (size_t i = 0; i < 2; i++)
        if (json_member(source, shown[i], &value)) {
            buffer_printf(out, "%s\"%s\":", separator, shown[i]);
            append_raw(&value, out);
            separator = ",";
        }
    buffer_append_text(out, *separator == '{' ? "{}" : "}");
}

static int intend(struct firing *firing, const struct action_type *action, const char *key, const char *body,
                  size_t body_len, const char *elements, size_t elements_len, struct error *err)
{
    struct json_value root, name, value;
    struct json_iter iter;
    (void)action;
    (void)key;
    if (json_scan(body, body_len, &root, err) < 0)
        return -1;
    struct buffer *out = effects_of(firing);
    buffer_append_char(out, '{');
    size_t start = out->len;
    json_iter_init(&iter, &root);
    while (json_next(&iter, &name, &value)) {
        if (out->len > start)
            buffer_append_char(out, ',');
        append_raw(&name, out);
        buffer_append_char(out, ':');
        if (json_equals(&name, "event_source", 12))
            append_target(&value, out);
        else if (json_equals(&name, "event", 5))
            append_raw(&value, out);
        else
            redact_member(&name, &value, out);
    }
    if (elements) {
        buffer_append_text(out, out->len > start ? ",\"elements\":" : "\"elements\":");
        buffer_append(out, elements, elements_len);
    }
    buffer_append_char(out, '}');
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static int write_context(struct firing *firing, const struct cloudevent *carrier, struct error *err)
{
    struct buffer *out = effects_of(firing);
    const struct cloudevent_span *subject = &carrier->attribute[CE_SUBJECT];
    const struct cloudevent_span *type = &carrier->attribute[CE_TYPE];
    const struct cloudevent_span *body = &carrier->attribute[CE_DATA];
    if (write_is_addressed(carrier)) {
        buffer_append_text(out, "{\"trigger\":");
        buffer_append_json(out, subject->text, subject->len);
    } else {
        buffer_append_text(out, "{\"triggers_of\":{\"type\":");
        buffer_append_json(out, type->text, type->len);
        buffer_append_text(out, ",\"subject\":");
        buffer_append_json(out, subject->text, subject->len);
        buffer_append_char(out, '}');
    }
    buffer_append_text(out, ",\"write\":");
    buffer_append(out, body->text, body->len);
    buffer_append_char(out, '}');
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static void finish(struct firing *firing)
{
    buffer_append_text(effects_of(firing), "{\"finish\":true}");
}

static int set_timer(struct firing *firing, uint64_t at, const struct cloudevent *event, struct error *err)
{
    struct buffer *out = effects_of(firing);
    buffer_append_text(out, "{\"timer\":");
    timer_write(at, event, out);
    buffer_append_char(out, '}');
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static const struct firing_type described = {
    .emit = emit, .write = write_context, .intend = intend, .finish = finish, .timer = set_timer};

/* --- the trial --- */

struct outcome {
    bool matched;
    bool holds;
    bool fires;
    char detail[DECISION_DETAIL_MAX];
    const char *note;    /* behind the detail */
    struct error action; /* why it cannot be carried out; ERROR_NONE */
};

static int match(struct trigger *t, const struct cloudevent *event, bool *ret_matched, struct error *err)
{
    struct router *router;
    const struct route *routes[ROUTE_MAX_LISTS];
    if (router_new(&t, 1, 1, &router, err) < 0)
        return -1;
    *ret_matched = router_match(router, event, routes) > 0;
    router_free(router);
    return 0;
}

static void evaluate(struct trigger *t, struct trial *trial, struct outcome *o)
{
    const struct cloudevent *event = trial->firing.event;
    int64_t operands[2] = {0, 0};
    enum decision_kind kind = DECISION_PLAIN;
    if (t->condition->ask) {
        o->note = "the condition is evaluated in a container, which is not tried";
        return;
    }
    unsigned outcome = t->condition->evaluate(t->state, event);
    o->holds = outcome & CONDITION_HOLDS;
    if (t->condition->explain)
        kind = t->condition->explain(t->state, operands);
    decision_detail(kind, operands, o->detail);
    if (t->condition->counts_keys && event->attribute[CE_KEY].len)
        o->note = "if its triggerflowkey has not been counted yet";
    if (outcome & CONDITION_REFUSES) {
        o->note = "the event would become the dead letter condition_failed";
        error_set(&o->action, ERROR_INVALID, "%s",
                  t->condition->why_refused ? t->condition->why_refused(t->state) : t->condition->refusal);
    }
    if (!o->holds)
        return;
    o->fires = true;
    if (t->action->fire(t->action_state, &trial->firing, &o->action) < 0)
        o->note = "the event would become the dead letter action_failed";
}

static void write_result(const struct trigger *t, const struct trial *trial, const struct outcome *o,
                         struct buffer *out)
{
    BUFFER_AUTO detail = BUFFER_INIT;
    buffer_printf(&detail, "%s%s%s", o->detail, o->note && o->detail[0] ? ", " : "", o->note ? o->note : "");
    buffer_printf(out, "{\"matched\":%s,\"holds\":%s,\"fires\":%s,\"removed\":%s,\"detail\":",
                  o->matched ? "true" : "false", o->holds ? "true" : "false", o->fires ? "true" : "false",
                  o->fires && t->transient ? "true" : "false");
    buffer_append_json(out, buffer_text(&detail), detail.len);
    buffer_append_text(out, ",\"context\":");
    trigger_write_context(t, out);
    buffer_append_text(out, ",\"action\":{\"name\":");
    buffer_append_json(out, t->action->name, strlen(t->action->name));
    buffer_append_text(out, ",\"effects\":[");
    buffer_append(out, trial->effects.data, trial->effects.len);
    buffer_append_text(out, "]");
    if (o->action.code != ERROR_NONE && utf8_valid(o->action.message, strlen(o->action.message))) {
        buffer_append_text(out, ",\"error\":");
        buffer_append_json(out, o->action.message, strlen(o->action.message));
    }
    buffer_append_text(out, "}}");
    out->failed |= detail.failed | trial->effects.failed;
}

static int read_trigger(const struct json_value *request, struct trigger **ret_trigger, struct error *err)
{
    struct json_value document, id;
    BUFFER_AUTO text = BUFFER_INIT;
    size_t len;
    if (!json_member(request, "trigger", &document))
        return error_set(err, ERROR_INVALID, "member trigger is missing");
    if (document.type == JSON_OBJECT && json_member(&document, "id", &id) && id.type == JSON_STRING)
        json_unescape(&id, &text);
    const char *raw = json_raw(&document, &len);
    if (trigger_new(buffer_text(&text), text.len, raw, len, 1, ret_trigger, err) < 0)
        return error_prefix(err, "trigger");
    return 0;
}

static int read_event(const struct json_value *request, struct cloudevent *ret_event, struct buffer *scratch,
                      struct error *err)
{
    struct json_value document;
    size_t len;
    if (!json_member(request, "event", &document))
        return error_set(err, ERROR_INVALID, "member event is missing");
    const char *raw = json_raw(&document, &len);
    if (cloudevent_parse(ret_event, raw, len, scratch, err) < 0 || cloudevent_conforms(ret_event, err) < 0)
        return error_prefix(err, "event");
    return 0;
}

/* The text of a member of the request, else of the trigger, else "". */
static void read_text(const struct json_value *request, const char *name, struct buffer *out)
{
    struct json_value trigger, value;
    if (json_member(request, name, &value) && value.type == JSON_STRING)
        json_unescape(&value, out);
    else if (json_member(request, "trigger", &trigger) && trigger.type == JSON_OBJECT &&
             json_member(&trigger, name, &value) && value.type == JSON_STRING)
        json_unescape(&value, out);
}

static int read_globals(const struct json_value *request, struct globals **ret_globals, struct error *err)
{
    struct json_value value;
    size_t len;
    if (!json_member(request, "global_context", &value) || value.type == JSON_NULL)
        return 0;
    const char *raw = json_raw(&value, &len);
    return globals_new(raw, len, ret_globals, err);
}

int trial_run(const struct json_value *request, struct buffer *out, struct error *err)
{
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO workspace = BUFFER_INIT;
    BUFFER_AUTO creation = BUFFER_INIT;
    struct trigger *t;
    struct cloudevent event;
    struct json_value value;
    int64_t firings = 0;
    if (read_event(request, &event, &scratch, err) < 0 || read_trigger(request, &t, err) < 0)
        return -1;
    read_text(request, "workspace", &workspace);
    read_text(request, "creation", &creation);
    if (json_member(request, "firings", &value) && value.type == JSON_NUMBER)
        json_integer(&value, &firings);
    struct trial trial = {.firing = {.type = &described,
                                     .workspace = buffer_text(&workspace),
                                     .creation = buffer_text(&creation),
                                     .trigger = t,
                                     .event = &event,
                                     .number = (uint64_t)firings + 1}};
    struct outcome outcome = {.note = NULL};
    struct globals *globals = NULL;
    int r = read_globals(request, &globals, err);
    trial.firing.globals = globals;
    if (r == 0)
        r = match(t, &event, &outcome.matched, err);
    if (r == 0) {
        if (outcome.matched)
            evaluate(t, &trial, &outcome);
        else
            outcome.note = "no activation event has the event's type and subject";
        write_result(t, &trial, &outcome, out);
    }
    buffer_done(&trial.effects);
    globals_unref(globals);
    trigger_free(t);
    return r;
}
