/* EMIT: publishes a CloudEvent to an event source of the workspace, or, without one, into the workflow
 * itself.
 *
 *     {"name":"EMIT","event_source":NAME,"event":{"type","subject",...}}
 *
 * `event_source` may also be the document of an event source that is not stored ({"class","parameters"}); one
 * of an own class (internal, HTTP) means the workflow itself, as does the name of the workspace's
 * HTTPEventSource.
 *
 * `event` gives the attributes of the event to emit; subject and data default to those of the event that
 * fired the trigger, source to urn:triggerflow:<workspace>:<trigger>, time to now; the id is always the
 * idempotency key of the firing, so that consumers can drop repeats. */
#include "worker/action/action.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/emission.h"
#include "worker/executor/executor.h"
#include "worker/executor/intent.h"
#include "worker/source/source.h"
#include "worker/worker.h"

#define MAX_ATTEMPTS_UNKNOWN_SOURCE 6

struct emit {
    char *event_source; /* JSON, a name or a document; NULL: into the workflow itself */
    size_t event_source_len;
    uint64_t name;           /* its hash; 0: not a name */
    char *text;              /* the event's JSON document */
    struct buffer scratch;   /* its unescaped strings */
    struct cloudevent event; /* into both */
};

static void unload(void *state)
{
    struct emit *e = state;
    if (!e)
        return;
    buffer_done(&e->scratch);
    free(e->event_source);
    free(e->text);
    free(e);
}

/* Whether an event source that is given as a document can be published to; *ret_own: it is the workflow
 * itself. */
static int read_given(const struct json_value *document, bool *ret_own, struct error *err)
{
    struct json_value value;
    if (!json_member(document, "class", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "event_source.class is missing or not a string");
    *ret_own = source_is_own(value.text, value.len);
    const struct source_type *type = source_find(value.text, value.len);
    if (!*ret_own && (!type || !type->sink_open))
        return error_set(err, ERROR_INVALID, "event_source: class %.*s cannot be published to",
                         (int)(value.len < 80 ? value.len : 80), value.text);
    if (!*ret_own && (!json_member(document, "parameters", &value) || value.type != JSON_OBJECT))
        return error_set(err, ERROR_INVALID, "event_source.parameters is missing or not an object");
    return 0;
}

static int read_target(struct emit *e, const struct json_value *action, struct error *err)
{
    struct json_value value;
    bool own = false;
    if (!json_member(action, "event_source", &value) || value.type == JSON_NULL)
        return 0;
    if (value.type == JSON_OBJECT && read_given(&value, &own, err) < 0)
        return -1;
    if (value.type != JSON_OBJECT && (value.type != JSON_STRING || !value.len))
        return error_set(err, ERROR_INVALID, "event_source is not the name of an event source");
    if (own)
        return 0;
    if (value.type == JSON_STRING) {
        BUFFER_AUTO name = BUFFER_INIT;
        json_unescape(&value, &name);
        e->name = arena_name_hash(buffer_text(&name), name.len);
    }
    const char *raw = json_raw(&value, &e->event_source_len);
    e->event_source = strndup(raw, e->event_source_len);
    return e->event_source ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

static int load(const struct json_value *action, void **ret_state, struct error *err)
{
    struct json_value value;
    if (!json_member(action, "event", &value) || value.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "member event is missing or not an object");
    struct emit *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, ERROR_MEMORY, "out of memory");
    size_t len;
    const char *raw = json_raw(&value, &len);
    e->text = strndup(raw, len);
    if (!e->text) {
        unload(e);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (read_target(e, action, err) < 0 || cloudevent_parse(&e->event, e->text, len, &e->scratch, err) < 0) {
        unload(e);
        return -1;
    }
    if (!e->event.attribute[CE_TYPE].len) {
        unload(e);
        return error_set(err, ERROR_INVALID, "event.type is missing");
    }
    *ret_state = e;
    return 0;
}

static void set(struct cloudevent *event, enum cloudevent_attribute attribute, const char *text)
{
    event->attribute[attribute] = (struct cloudevent_span){.text = text, .len = (uint32_t)strlen(text)};
}

static bool has(const struct cloudevent *event, enum cloudevent_attribute attribute)
{
    return event->attribute[attribute].text;
}

/* The event to emit: the template over what fired the trigger. */
static void compose(const struct emit *e, const struct firing *firing, const char *key, const char *source,
                    const char *time, struct cloudevent *out)
{
    const struct cloudevent *from = firing_event(firing);
    *out = e->event;
    set(out, CE_SPECVERSION, "1.0");
    set(out, CE_ID, key);
    if (!has(out, CE_SOURCE))
        set(out, CE_SOURCE, source);
    if (!has(out, CE_TIME))
        set(out, CE_TIME, time);
    if (!has(out, CE_SUBJECT))
        out->attribute[CE_SUBJECT] = from->attribute[CE_SUBJECT];
    if (out->data == CE_DATA_ABSENT) {
        out->data = from->data;
        out->attribute[CE_DATA] = from->attribute[CE_DATA];
        if (!has(out, CE_DATACONTENTTYPE))
            out->attribute[CE_DATACONTENTTYPE] = from->attribute[CE_DATACONTENTTYPE];
    }
}

extern const struct action_type action_emit;

static int fire(const void *state, struct firing *firing, struct error *err)
{
    const struct emit *e = state;
    char key[ACTION_KEY_MAX];
    char time[CLOCK_ISO_MAX];
    struct cloudevent event;
    BUFFER_AUTO source = BUFFER_INIT;
    firing_key(firing, 0, key);
    buffer_printf(&source, "urn:triggerflow:%s:%s", firing_workspace(firing), firing_trigger(firing));
    compose(e, firing, key, buffer_text(&source), clock_iso(clock_unix_ns(), time), &event);
    if (!e->event_source || firing_is_own(firing, e->name))
        return firing_emit(firing, &event, err);
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_append_text(&body, "{\"event_source\":");
    buffer_append(&body, e->event_source, e->event_source_len);
    buffer_append_text(&body, ",\"event\":");
    cloudevent_write(&event, &body);
    buffer_append_char(&body, '}');
    if (body.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return firing_intend(firing, &action_emit, key, body.data, body.len, err);
}

/* To an event source that is not stored. */
static void start_given(struct executor *executor, struct intent *intent, const struct json_value *document)
{
    struct error err;
    struct sink *sink;
    size_t len;
    const char *raw = json_raw(document, &len);
    if (executor_sink_given(executor, raw, len, &sink, &err) < 0) {
        bool for_now = err.code == ERROR_LIMIT || err.code == ERROR_MEMORY;
        executor_done(executor, intent, for_now ? EXECUTOR_RETRY : EXECUTOR_GIVE_UP, &err);
        return;
    }
    executor_publish(sink, intent);
}

static void start(struct executor *executor, struct intent *intent)
{
    struct error err;
    struct json_value body;
    struct json_value name;
    struct sink *sink;
    bool consumed;
    if (!intent_body(intent, &body) || !json_member(&body, "event_source", &name)) {
        error_set(&err, ERROR_INVALID, "the stored intent has no event_source");
        executor_done(executor, intent, EXECUTOR_GIVE_UP, &err);
        return;
    }
    if (name.type == JSON_OBJECT) {
        start_given(executor, intent, &name);
        return;
    }
    BUFFER_AUTO text = BUFFER_INIT;
    json_unescape(&name, &text);
    if (executor_sink(executor, buffer_text(&text), text.len, &sink, &consumed, &err) < 0) {
        bool may_come = err.code == ERROR_NOT_FOUND && intent->attempts < MAX_ATTEMPTS_UNKNOWN_SOURCE;
        executor_done(executor, intent, may_come ? EXECUTOR_RETRY : EXECUTOR_GIVE_UP, &err);
        return;
    }
    if (consumed && emissions_register(executor_worker(executor)->emissions, intent->key, text.data, text.len,
                                       &err) < 0) {
        executor_done(executor, intent, EXECUTOR_RETRY, &err);
        return;
    }
    executor_publish(sink, intent);
}

static int check_event(const struct json_value *document, struct error *err)
{
    struct cloudevent event;
    size_t len;
    BUFFER_AUTO scratch = BUFFER_INIT;
    const char *raw = json_raw(document, &len);
    if (cloudevent_parse(&event, raw, len, &scratch, err) < 0)
        return -1;
    set(&event, CE_ID, "1");
    if (!has(&event, CE_SPECVERSION))
        set(&event, CE_SPECVERSION, "1.0");
    if (!has(&event, CE_SOURCE))
        set(&event, CE_SOURCE, "urn:triggerflow");
    return cloudevent_conforms(&event, err);
}

/* load has accepted it. */
static int check(const struct json_value *action, struct error *err)
{
    struct json_value value;
    if (json_member(action, "event_source", &value) && value.type == JSON_OBJECT &&
        source_check_target(&value, err) < 0)
        return error_prefix(err, "event_source");
    if (json_member(action, "event", &value) && check_event(&value, err) < 0)
        return error_prefix(err, "event");
    return 0;
}

static const char *const parameters[] = {"event_source", "event", NULL};

const struct action_type action_emit = {.name = "EMIT",
                                        .load = load,
                                        .unload = unload,
                                        .fire = fire,
                                        .start = start,
                                        .parameters = parameters,
                                        .check = check};
