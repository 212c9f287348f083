#include "worker/write.h"

#include <string.h>

#include "common/cloudevent.h"

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
