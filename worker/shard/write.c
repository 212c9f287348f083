#include "worker/shard/write.h"

#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

static struct cloudevent_span span(const char *text, size_t len)
{
    return (struct cloudevent_span){.text = text, .len = (uint32_t)len};
}

void write_compose(struct cloudevent *ret_carrier, const char *id, const char *type, const char *subject,
                   size_t subject_len, const char *body, size_t body_len)
{
    cloudevent_clear(ret_carrier);
    ret_carrier->attribute[CE_ID] = span(id, strlen(id));
    if (type)
        ret_carrier->attribute[CE_TYPE] = span(type, strlen(type));
    ret_carrier->attribute[CE_SUBJECT] = span(subject, subject_len);
    ret_carrier->attribute[CE_DATA] = span(body, body_len);
    ret_carrier->data = CE_DATA_JSON;
}

bool write_is_addressed(const struct cloudevent *carrier)
{
    return !carrier->attribute[CE_TYPE].len;
}

void write_show(struct cloudevent *carrier)
{
    if (!carrier->attribute[CE_TYPE].len)
        carrier->attribute[CE_TYPE] = span(WRITE_EVENT_TYPE, strlen(WRITE_EVENT_TYPE));
}

static bool is_shown(const struct cloudevent_span *type)
{
    return type->len == strlen(WRITE_EVENT_TYPE) && !memcmp(type->text, WRITE_EVENT_TYPE, type->len);
}

void write_letter(const struct cloudevent *carrier, struct buffer *out)
{
    struct cloudevent plain = *carrier;
    if (is_shown(&plain.attribute[CE_TYPE]))
        plain.attribute[CE_TYPE] = (struct cloudevent_span){0};
    buffer_append_text(out, "\"write\":");
    cloudevent_write(&plain, out);
}

int write_read(struct cloudevent *ret_carrier, const struct json_value *value, struct buffer *scratch,
               struct error *err)
{
    struct json_value body;
    if (cloudevent_read(ret_carrier, value, scratch, err) < 0)
        return -1;
    const struct cloudevent_span *data = &ret_carrier->attribute[CE_DATA];
    if (ret_carrier->data != CE_DATA_JSON || !ret_carrier->attribute[CE_ID].len ||
        json_scan(data->text, data->len, &body, NULL) < 0 || body.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "write has no id, or its data is no JSON object");
    return 0;
}
