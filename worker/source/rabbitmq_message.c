#include "worker/source/rabbitmq_message.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

#define VALUE_BYTES 40 /* of a number or a time as text */
#define STRUCTURED "application/cloudevents"

/* The attribute's name, when the header is one of an event. */
static const char *attribute_name(const amqp_table_entry_t *header, size_t *ret_len)
{
    static const char prefix[] = "cloudEvents";
    const size_t n = sizeof prefix; /* with the separator */
    const char *key = header->key.bytes;
    if (header->key.len <= n || strncasecmp(key, prefix, n - 1) != 0 ||
        (key[n - 1] != ':' && key[n - 1] != '_'))
        return NULL;
    *ret_len = header->key.len - n;
    return key + n;
}

static bool is_structured(const amqp_basic_properties_t *p)
{
    return (p->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG) && p->content_type.len >= sizeof STRUCTURED - 1 &&
           !strncasecmp(p->content_type.bytes, STRUCTURED, sizeof STRUCTURED - 1);
}

/* The headers of an event in binary mode; their number is 0 when it is none. */
static amqp_table_t binary_headers(const amqp_basic_properties_t *p)
{
    size_t len;
    if ((p->_flags & AMQP_BASIC_HEADERS_FLAG) && !is_structured(p))
        for (int i = 0; i < p->headers.num_entries; i++) {
            const char *name = attribute_name(&p->headers.entries[i], &len);
            if (name && len == 11 && !memcmp(name, "specversion", 11))
                return p->headers;
        }
    return (amqp_table_t){0};
}

/* --- identity --- */

static void identify(const struct consumed *c, struct consumed_id *id, const void *data, size_t len)
{
    uint64_t size = len; /* "ab","c" is another message than "a","bc" */
    *id = consumed_identity(c, id, &size, sizeof size);
    *id = consumed_identity(c, id, data, len);
}

struct consumed_id rabbitmq_message_identity(const struct consumed *consumed,
                                             const struct rabbitmq_event *message)
{
    const amqp_basic_deliver_t *deliver = message->decoded;
    const amqp_basic_properties_t *p = message->properties;
    const amqp_flags_t flags = p->_flags;
    const struct {
        amqp_flags_t flag;
        amqp_bytes_t text;
    } parts[] = {{AMQP_BASIC_CONTENT_TYPE_FLAG, p->content_type},
                 {AMQP_BASIC_CORRELATION_ID_FLAG, p->correlation_id},
                 {AMQP_BASIC_MESSAGE_ID_FLAG, p->message_id},
                 {AMQP_BASIC_TYPE_FLAG, p->type},
                 {AMQP_BASIC_APP_ID_FLAG, p->app_id}};
    uint64_t fixed[2] = {flags & AMQP_BASIC_TIMESTAMP_FLAG ? p->timestamp : 0, message->body_size};
    struct consumed_id id = consumed_identity(consumed, NULL, fixed, sizeof fixed);
    identify(consumed, &id, deliver->exchange.bytes, deliver->exchange.len);
    identify(consumed, &id, deliver->routing_key.bytes, deliver->routing_key.len);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (flags & parts[i].flag)
            identify(consumed, &id, parts[i].text.bytes, parts[i].text.len);
    amqp_table_t headers = binary_headers(p);
    for (int i = 0; i < headers.num_entries; i++) {
        const amqp_table_entry_t *h = &headers.entries[i];
        size_t len;
        if (!attribute_name(h, &len))
            continue;
        identify(consumed, &id, h->key.bytes, h->key.len);
        if (h->value.kind == AMQP_FIELD_KIND_UTF8 || h->value.kind == AMQP_FIELD_KIND_BYTES)
            identify(consumed, &id, h->value.value.bytes.bytes, h->value.value.bytes.len);
    }
    return consumed_identity(consumed, &id, message->body, message->body_len);
}

/* --- the event --- */

static int add_value(struct cloudevent *event, const char *name, size_t name_len, const amqp_field_value_t *v,
                     struct buffer *scratch, struct error *err)
{
    char *text = scratch->data ? scratch->data + scratch->len : NULL; /* there is room */
    int n = 0;
    switch (v->kind) {
    case AMQP_FIELD_KIND_UTF8:
    case AMQP_FIELD_KIND_BYTES:
        return cloudevent_add(event, name, name_len, v->value.bytes.bytes, v->value.bytes.len, err);
    case AMQP_FIELD_KIND_BOOLEAN:
        n = snprintf(text, VALUE_BYTES, "%s", v->value.boolean ? "true" : "false");
        break;
    case AMQP_FIELD_KIND_I8:
        n = snprintf(text, VALUE_BYTES, "%d", v->value.i8);
        break;
    case AMQP_FIELD_KIND_I16:
        n = snprintf(text, VALUE_BYTES, "%d", v->value.i16);
        break;
    case AMQP_FIELD_KIND_I32:
        n = snprintf(text, VALUE_BYTES, "%d", v->value.i32);
        break;
    case AMQP_FIELD_KIND_I64:
        n = snprintf(text, VALUE_BYTES, "%lld", (long long)v->value.i64);
        break;
    case AMQP_FIELD_KIND_TIMESTAMP:
        if (v->value.u64 < UINT64_MAX / CLOCK_S)
            n = (int)strlen(clock_iso(v->value.u64 * CLOCK_S, text));
        break;
    default:
        break;
    }
    if (!n)
        return error_set(err, ERROR_INVALID, "header %.*s is neither a text nor an integer, boolean or time",
                         (int)(name_len < 80 ? name_len : 80), name);
    scratch->len += (size_t)n;
    return cloudevent_add(event, name, name_len, text, (size_t)n, err);
}

static int add_data(const struct rabbitmq_event *m, struct cloudevent *event, struct buffer *scratch,
                    struct error *err)
{
    if (!m->body_len)
        return 0;
    if (utf8_valid(m->body, m->body_len))
        return cloudevent_add(event, "data", 4, m->body, m->body_len, err);
    size_t before = scratch->len;
    buffer_append_base64(scratch, m->body, m->body_len); /* within the room that was made */
    return cloudevent_add(event, "data_base64", 11, scratch->data + before, scratch->len - before, err);
}

static int read_binary(const struct rabbitmq_event *m, amqp_table_t headers, struct cloudevent *event,
                       struct buffer *scratch, struct error *err)
{
    const amqp_basic_properties_t *p = m->properties;
    size_t room = (size_t)headers.num_entries * VALUE_BYTES + m->body_len / 3 * 4 + 8;
    cloudevent_clear(event);
    if (!buffer_reserve(scratch, room))
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (int i = 0; i < headers.num_entries; i++) {
        size_t len;
        const char *name = attribute_name(&headers.entries[i], &len);
        if (name && add_value(event, name, len, &headers.entries[i].value, scratch, err) < 0)
            return -1;
    }
    if ((p->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG) && p->content_type.len &&
        cloudevent_add(event, "datacontenttype", 15, p->content_type.bytes, p->content_type.len, err) < 0)
        return -1;
    return add_data(m, event, scratch, err);
}

int rabbitmq_message_read(const struct rabbitmq_event *message, struct cloudevent *ret_event,
                          struct buffer *scratch, struct error *err)
{
    amqp_table_t headers = binary_headers(message->properties);
    buffer_reset(scratch, 1 << 20);
    int r = headers.num_entries ? read_binary(message, headers, ret_event, scratch, err)
                                : cloudevent_parse(ret_event, message->body, message->body_len, scratch, err);
    return r < 0 ? -1 : cloudevent_check(ret_event, err);
}

/* --- the dead letter --- */

static void write_text(struct buffer *out, const char *name, const char *text, size_t len)
{
    buffer_printf(out, ",\"%s\":", name);
    json_append_bytes(out, text, len);
}

void rabbitmq_message_keep(const struct rabbitmq_event *message, struct buffer *out)
{
    const amqp_basic_deliver_t *deliver = message->decoded;
    const amqp_basic_properties_t *p = message->properties;
    buffer_printf(out, "\"message\":{\"bytes\":%llu", (unsigned long long)message->body_size);
    write_text(out, "exchange", deliver->exchange.bytes, deliver->exchange.len);
    write_text(out, "routing_key", deliver->routing_key.bytes, deliver->routing_key.len);
    if (p->_flags & AMQP_BASIC_CONTENT_TYPE_FLAG)
        write_text(out, "content_type", p->content_type.bytes, p->content_type.len);
    if (p->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
        write_text(out, "message_id", p->message_id.bytes, p->message_id.len);
    write_text(out, "body", message->body, message->body_len);
    buffer_append_char(out, '}');
}
