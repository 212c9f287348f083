#include "worker/source/sqs_event.h"

#include <string.h>

#include "common/error.h"
#include "common/json.h"

#define SUBJECT "__TRIGGERFLOW_SUBJECT"
#define KEY "__TRIGGERFLOW_KEY"

/* A text in scratch, by its place there: scratch may move until all is written. */
struct place {
    size_t at;
    size_t len;
};

static struct place put(struct buffer *scratch, const struct json_value *string)
{
    struct place place = {.at = scratch->len};
    json_unescape(string, scratch);
    place.len = scratch->len - place.at;
    return place;
}

/* false: absent. */
static int put_member(const struct json_value *object, const char *name, struct buffer *scratch,
                      struct place *ret_place, struct error *err)
{
    struct json_value value;
    *ret_place = (struct place){0};
    if (!json_member(object, name, &value) || value.type == JSON_NULL)
        return 0;
    if (value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "a Lambda record whose %s is %s, not a string", name,
                         json_type_name(value.type));
    *ret_place = put(scratch, &value);
    return 0;
}

/* The payload without its subject. */
static struct place put_payload(const struct json_value *payload, struct buffer *scratch)
{
    struct place place = {.at = scratch->len};
    struct json_iter iter;
    struct json_value name, value;
    bool first = true;
    size_t len;
    if (payload->type != JSON_OBJECT) {
        const char *raw = json_raw(payload, &len);
        buffer_append(scratch, raw, len);
    } else {
        buffer_append_char(scratch, '{');
        json_iter_init(&iter, payload);
        while (json_next(&iter, &name, &value)) {
            if (json_equals(&name, SUBJECT, strlen(SUBJECT)))
                continue;
            if (!first)
                buffer_append_char(scratch, ',');
            first = false;
            const char *raw = json_raw(&name, &len);
            buffer_append(scratch, raw, len);
            buffer_append_char(scratch, ':');
            raw = json_raw(&value, &len);
            buffer_append(scratch, raw, len);
        }
        buffer_append_char(scratch, '}');
    }
    place.len = scratch->len - place.at;
    return place;
}

static int put_from(const struct json_value *record, const char *payload_name, const char *name,
                    struct buffer *scratch, struct place *ret_place, struct error *err)
{
    struct json_value payload;
    if (!json_member(record, payload_name, &payload) || payload.type != JSON_OBJECT)
        return 0;
    return put_member(&payload, name, scratch, ret_place, err);
}

static void set(struct cloudevent *event, enum cloudevent_attribute attribute, const struct buffer *scratch,
                struct place place)
{
    if (place.len)
        event->attribute[attribute] =
            (struct cloudevent_span){.text = scratch->data + place.at, .len = (uint32_t)place.len};
}

static void set_text(struct cloudevent *event, enum cloudevent_attribute attribute, const char *text)
{
    event->attribute[attribute] = (struct cloudevent_span){.text = text, .len = (uint32_t)strlen(text)};
}

static int read_record(struct cloudevent *event, const struct json_value *record,
                       const struct json_value *context, struct buffer *scratch, struct error *err)
{
    struct json_value payload, condition;
    struct place id, source, time, data = {0}, subject = {0}, key = {0};
    if (put_member(context, "requestId", scratch, &id, err) < 0 ||
        put_member(context, "functionArn", scratch, &source, err) < 0 ||
        put_member(record, "timestamp", scratch, &time, err) < 0 ||
        put_from(record, "requestPayload", KEY, scratch, &key, err) < 0 ||
        put_from(record, "responsePayload", SUBJECT, scratch, &subject, err) < 0 ||
        (!subject.len && put_from(record, "requestPayload", SUBJECT, scratch, &subject, err) < 0))
        return -1;
    bool has_payload = json_member(record, "responsePayload", &payload) && payload.type != JSON_NULL;
    if (has_payload)
        data = put_payload(&payload, scratch);
    if (scratch->failed)
        return error_set(err, ERROR_MEMORY, "out of memory for an event");
    bool success = json_member(context, "condition", &condition) && condition.type == JSON_STRING &&
                   json_equals(&condition, "Success", 7);
    set_text(event, CE_SPECVERSION, "1.0");
    set(event, CE_ID, scratch, id);
    set(event, CE_SOURCE, scratch, source);
    set_text(event, CE_TYPE, success ? "lambda.success" : "lambda.failure");
    set(event, CE_SUBJECT, scratch, subject);
    set(event, CE_KEY, scratch, key);
    set(event, CE_TIME, scratch, time);
    set_text(event, CE_DATACONTENTTYPE, "application/json");
    set(event, CE_DATA, scratch, data);
    event->data = has_payload ? CE_DATA_JSON : CE_DATA_ABSENT;
    return 0;
}

/* A record is never read as an event: its context would be an attribute that is an object. */
static bool is_record(const struct json_value *root, struct json_value *ret_context)
{
    struct json_value version;
    return root->type == JSON_OBJECT && !json_member(root, "specversion", &version) &&
           json_member(root, "requestContext", ret_context) && ret_context->type == JSON_OBJECT;
}

int sqs_event_read(struct cloudevent *event, const char *body, size_t len, struct buffer *scratch,
                   struct error *err)
{
    struct json_value root, context;
    struct error wrong;
    cloudevent_clear(event);
    if (json_scan_within(body, len, JSON_DATA_DEPTH + 1, &root, err) < 0)
        return -1;
    if (cloudevent_read(event, &root, scratch, &wrong) == 0)
        return cloudevent_check(event, err);
    if (!is_record(&root, &context)) {
        if (err)
            *err = wrong;
        return -1;
    }
    return read_record(event, &root, &context, scratch, err) < 0 ? -1 : cloudevent_check(event, err);
}
