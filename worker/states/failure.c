#include "worker/states/failure.h"

#include <string.h>

#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

#define OURS "urn:triggerflow:"

void failure_done(struct failure *failure)
{
    buffer_done(&failure->error);
    buffer_done(&failure->cause);
}

static void set_error(struct failure *failure, const char *name, size_t len)
{
    buffer_append(&failure->error, name, len);
    failure->has_error = true;
}

static void set_cause(struct failure *failure, const char *text, size_t len)
{
    buffer_append(&failure->cause, text, len);
    failure->has_cause = true;
}

void failure_of_message(const char *message, struct failure *ret_failure)
{
    static const char runtime[] = "States.Runtime";
    const char *colon = strstr(message, ": ");
    *ret_failure = (struct failure){0};
    if (strncmp(message, "States.", 7) != 0 || !colon) {
        set_error(ret_failure, runtime, strlen(runtime));
        colon = NULL;
    } else {
        set_error(ret_failure, message, (size_t)(colon - message));
    }
    const char *cause = colon ? colon + 2 : message;
    size_t len = strlen(cause);
    while (len && !utf8_valid(cause, len))
        len--; /* it was cut inside a character */
    set_cause(ret_failure, cause, len);
}

static void read_text(const struct json_value *value, struct buffer *out, bool *ret_has)
{
    size_t len;
    *ret_has = value->type != JSON_NULL;
    if (value->type == JSON_STRING) {
        json_unescape(value, out);
    } else if (*ret_has) {
        const char *raw = json_raw(value, &len);
        buffer_append(out, raw, len);
    }
}

void failure_of_data(const struct json_value *data, struct failure *ret_failure)
{
    static const char unknown[] = "States.TaskFailed";
    struct json_value value;
    size_t len;
    *ret_failure = (struct failure){0};
    if (data->type == JSON_OBJECT && json_member(data, "Error", &value)) {
        read_text(&value, &ret_failure->error, &ret_failure->has_error);
        if (json_member(data, "Cause", &value))
            read_text(&value, &ret_failure->cause, &ret_failure->has_cause);
        return;
    }
    if (data->type == JSON_OBJECT && json_member(data, "errorType", &value) && value.type == JSON_STRING)
        read_text(&value, &ret_failure->error, &ret_failure->has_error);
    else
        set_error(ret_failure, unknown, strlen(unknown));
    const char *raw = json_raw(data, &len);
    set_cause(ret_failure, raw, len);
}

static void write_text(const char *name, const struct buffer *text, bool is_there, struct buffer *out)
{
    buffer_printf(out, "\"%s\":", name);
    if (is_there)
        buffer_append_json(out, text->len ? text->data : "", text->len);
    else
        buffer_append_text(out, "null");
    out->failed |= text->failed;
}

void failure_write(const struct failure *failure, struct buffer *out)
{
    write_text("Error", &failure->error, failure->has_error, out);
    buffer_append_char(out, ',');
    write_text("Cause", &failure->cause, failure->has_cause, out);
}

int failure_error(const struct failure *failure, struct error *err)
{
    return error_set(err, ERROR_INVALID, "%.*s%s%.*s", failure->has_error ? (int)failure->error.len : 18,
                     failure->has_error ? (failure->error.len ? failure->error.data : "")
                                        : "a state has failed",
                     failure->cause.len ? ": " : "", (int)failure->cause.len,
                     failure->cause.len ? failure->cause.data : "");
}

static bool is_type(const struct cloudevent *event, const char *type)
{
    const struct cloudevent_span *span = &event->attribute[CE_TYPE];
    return span->len == strlen(type) && !memcmp(span->text, type, span->len);
}

bool failure_is(const struct cloudevent *event)
{
    return is_type(event, FAILURE_TYPE) || is_type(event, FAILURE_UNCAUGHT);
}

bool failure_is_ours(const struct cloudevent *event)
{
    const struct cloudevent_span *source = &event->attribute[CE_SOURCE];
    return source->len > strlen(OURS) && !memcmp(source->text, OURS, strlen(OURS));
}

int failure_inside_machine(const struct json_value *machine, failure_add add, void *data, struct error *err)
{
    struct json_value states, name, state;
    struct json_iter iter;
    if (machine->type != JSON_OBJECT || !json_member(machine, "States", &states) ||
        states.type != JSON_OBJECT)
        return 0;
    json_iter_init(&iter, &states);
    while (json_next(&iter, &name, &state)) {
        BUFFER_AUTO plain = BUFFER_INIT;
        json_unescape(&name, &plain);
        if (plain.failed)
            return error_set(err, ERROR_MEMORY, "out of memory");
        if (add(data, buffer_text(&plain), plain.len, err) < 0)
            return -1;
    }
    return 0;
}

int failure_inside(const struct json_value *state, failure_add add, void *data, struct error *err)
{
    static const char *const machines[] = {"ItemProcessor", "Iterator"};
    struct json_value value, name, branch;
    struct json_iter iter;
    if (state->type != JSON_OBJECT)
        return 0;
    for (size_t i = 0; i < 2; i++)
        if (json_member(state, machines[i], &value) && failure_inside_machine(&value, add, data, err) < 0)
            return -1;
    if (!json_member(state, "Branches", &value) || value.type != JSON_ARRAY)
        return 0;
    json_iter_init(&iter, &value);
    while (json_next(&iter, &name, &branch))
        if (failure_inside_machine(&branch, add, data, err) < 0)
            return -1;
    return 0;
}
