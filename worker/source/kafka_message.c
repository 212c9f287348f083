#include "worker/source/kafka_message.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

#define PREFIX "ce_"
#define STRUCTURED "application/cloudevents"
#define MAX_HEADERS 1000 /* looked at */

enum mode { MODE_PLAIN, MODE_STRUCTURED, MODE_BINARY };

/* The text as a media type: with no parameters, and without regard to case. */
static bool is_json_event(const char *type, size_t len)
{
    static const char json[] = STRUCTURED "+json";
    size_t n = 0;
    while (n < len && type[n] != ';' && type[n] != ' ' && type[n] != '\t')
        n++;
    return (n == sizeof json - 1 || n == sizeof STRUCTURED - 1) && !strncasecmp(type, json, n);
}

static int find_mode(const rd_kafka_headers_t *headers, enum mode *ret_mode, struct error *err)
{
    const char *name;
    const void *value;
    size_t len;
    *ret_mode = MODE_PLAIN;
    for (size_t i = 0; i < MAX_HEADERS; i++) {
        if (rd_kafka_header_get_all(headers, i, &name, &value, &len))
            return 0;
        if (!strcasecmp(name, "content-type") && value && len >= sizeof STRUCTURED - 1 &&
            !strncasecmp(value, STRUCTURED, sizeof STRUCTURED - 1)) {
            if (!is_json_event(value, len))
                return error_set(err, ERROR_INVALID, "header content-type: %.*s is not understood",
                                 (int)(len < 80 ? len : 80), (const char *)value);
            *ret_mode = MODE_STRUCTURED;
            return 0;
        }
        if (!strncasecmp(name, PREFIX, sizeof PREFIX - 1))
            *ret_mode = MODE_BINARY;
    }
    return error_set(err, ERROR_INVALID, "more than %d headers", MAX_HEADERS);
}

static int add_header(struct cloudevent *event, const char *name, const void *value, size_t len,
                      struct error *err)
{
    const char *text = value ? value : "";
    if (!strcasecmp(name, "content-type"))
        return cloudevent_add(event, "datacontenttype", 15, text, len, err);
    if (strncasecmp(name, PREFIX, sizeof PREFIX - 1) != 0)
        return 0;
    name += sizeof PREFIX - 1;
    if (!strcmp(name, "data") || !strcmp(name, "data_base64") || !strcmp(name, "datacontenttype"))
        return error_set(err, ERROR_INVALID, "header " PREFIX "%s is none of the binding's", name);
    return cloudevent_add(event, name, strlen(name), text, len, err);
}

static int add_value(struct cloudevent *event, const void *value, size_t len, struct buffer *scratch,
                     struct error *err)
{
    if (!value || !len)
        return 0;
    if (utf8_valid(value, len))
        return cloudevent_add(event, "data", 4, value, len, err);
    size_t at = scratch->len;
    buffer_append_base64(scratch, value, len);
    if (scratch->failed)
        return error_set(err, ERROR_MEMORY, "no memory for an event of %zu bytes", len);
    return cloudevent_add(event, "data_base64", 11, scratch->data + at, scratch->len - at, err);
}

static int read_binary(const void *value, size_t len, const rd_kafka_headers_t *headers,
                       struct buffer *scratch, struct cloudevent *event, struct error *err)
{
    const char *name;
    const void *text;
    size_t text_len;
    cloudevent_clear(event);
    for (size_t i = 0; !rd_kafka_header_get_all(headers, i, &name, &text, &text_len); i++)
        if (add_header(event, name, text, text_len, err) < 0)
            return -1;
    if (add_value(event, value, len, scratch, err) < 0)
        return -1;
    return cloudevent_check(event, err);
}

int kafka_message_parse(const void *value, size_t len, const rd_kafka_headers_t *headers,
                        struct buffer *scratch, struct cloudevent *event, struct error *err)
{
    enum mode mode = MODE_PLAIN;
    if (headers && find_mode(headers, &mode, err) < 0)
        return -1;
    if (mode == MODE_BINARY)
        return read_binary(value, len, headers, scratch, event, err);
    if (!value)
        return error_set(err, ERROR_INVALID, "the message has no value (a tombstone)");
    if (cloudevent_parse(event, value, len, scratch, err) < 0)
        return -1;
    return cloudevent_check(event, err);
}

int kafka_message_read(const rd_kafka_message_t *message, struct buffer *scratch, struct cloudevent *event,
                       struct error *err)
{
    rd_kafka_headers_t *headers = NULL;
    rd_kafka_resp_err_t r = rd_kafka_message_headers(message, &headers);
    if (r && r != RD_KAFKA_RESP_ERR__NOENT)
        return error_set(err, ERROR_INVALID, "its headers cannot be read: %s", rd_kafka_err2str(r));
    return kafka_message_parse(message->payload, message->len, r ? NULL : headers, scratch, event, err);
}

/* --- dead letters --- */

static void write_text(struct buffer *out, const void *text, size_t len)
{
    if (text)
        json_append_bytes(out, text, len);
    else
        buffer_append_text(out, "null");
}

void kafka_message_keep(const void *key, size_t key_len, const void *value, size_t len,
                        const rd_kafka_headers_t *headers, struct buffer *out)
{
    const char *name;
    buffer_append_text(out, "\"key\":");
    write_text(out, key, key_len);
    buffer_append_text(out, ",\"value\":");
    write_text(out, value, len);
    buffer_append_text(out, ",\"headers\":[");
    if (headers)
        for (size_t i = 0; !rd_kafka_header_get_all(headers, i, &name, &value, &len); i++) {
            buffer_append_text(out, i ? ",[" : "[");
            write_text(out, name, strlen(name));
            buffer_append_char(out, ',');
            write_text(out, value, len);
            buffer_append_char(out, ']');
        }
    buffer_append_char(out, ']');
}

void kafka_message_write(const rd_kafka_message_t *message, struct buffer *out)
{
    rd_kafka_headers_t *headers = NULL;
    bool none = rd_kafka_message_headers(message, &headers) != 0;
    buffer_printf(out, "\"message\":{\"partition\":%d,\"offset\":%lld,\"timestamp\":%lld,",
                  (int)message->partition, (long long)message->offset,
                  (long long)rd_kafka_message_timestamp(message, NULL));
    kafka_message_keep(message->key, message->key_len, message->payload, message->len, none ? NULL : headers,
                       out);
    buffer_append_char(out, '}');
}
