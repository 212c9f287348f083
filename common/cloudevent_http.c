/* See cloudevent_http.h. */
#include "common/cloudevent_http.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

enum mode { MODE_STRUCTURED, MODE_BATCH, MODE_BINARY, MODE_UNSUPPORTED };

void cloudevent_http_add_header(struct cloudevent_http_message *message, const char *name, size_t name_len,
                                const char *value, size_t value_len)
{
    if (name_len < 3 || strncasecmp(name, "ce-", 3) != 0)
        return;
    if (message->n_headers < CLOUDEVENT_HTTP_HEADERS_MAX)
        message->header[message->n_headers] =
            (struct cloudevent_http_header){name + 3, name_len - 3, value, value_len};
    message->n_headers++;
}

/* ---- The content type ---- */

static const char *skip_space(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* Whether a parameter's value, with or without quotes, is this word in any case. */
static bool value_is(const char *value, size_t len, const char *word)
{
    if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
        value++;
        len -= 2;
    }
    return len == strlen(word) && strncasecmp(value, word, len) == 0;
}

/* Length of a parameter's value: a token, or a quoted string. */
static size_t value_len(const char *p)
{
    if (*p != '"')
        return strcspn(p, "; \t");
    size_t n = 1;
    while (p[n] != '\0' && p[n] != '"')
        n += p[n] == '\\' && p[n + 1] != '\0' ? 2 : 1;
    return p[n] == '"' ? n + 1 : n;
}

/* Whether the parameters behind a media type let the body be read as UTF-8. */
static bool charset_fits(const char *p)
{
    while (*(p = skip_space(p)) == ';') {
        p = skip_space(p + 1);
        bool charset = strncasecmp(p, "charset=", 8) == 0;
        p += strcspn(p, "=;");
        if (*p != '=')
            continue;
        size_t len = value_len(++p);
        if (charset && !value_is(p, len, "utf-8") && !value_is(p, len, "us-ascii") &&
            !value_is(p, len, "utf8"))
            return false;
        p += len;
    }
    return *p == '\0';
}

static enum mode mode_of(const struct cloudevent_http_message *message, struct error *err)
{
    static const char structured[] = "application/cloudevents+json";
    static const char batch[] = "application/cloudevents-batch+json";
    static const char family[] = "application/cloudevents";
    const char *type = message->content_type ? skip_space(message->content_type) : "";
    size_t len = strcspn(type, "; \t");
    enum mode mode = MODE_UNSUPPORTED;
    if (value_is(type, len, structured))
        mode = MODE_STRUCTURED;
    else if (value_is(type, len, batch))
        mode = MODE_BATCH;
    else if (strncasecmp(type, family, sizeof family - 1) != 0 && message->n_headers > 0)
        return MODE_BINARY;
    if (mode != MODE_UNSUPPORTED && charset_fits(type + len))
        return mode;
    error_set(err, ERROR_INVALID, "the content type %.100s%s", *type ? type : "is missing",
              mode != MODE_UNSUPPORTED ? " has a charset other than UTF-8, or bad parameters"
              : *type                  ? " is none of CloudEvents, and there are no ce- headers"
                                       : ", and there are no ce- headers");
    return MODE_UNSUPPORTED;
}

/* ---- Binary mode ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undoes the quotes and percent-encodings of a header's value (section 3.1.3.2): outside of quotes a
 * backslash is itself. `to` has room for len bytes. -1: it is not a value; else how many bytes it has. */
static ptrdiff_t decode_value(const char *p, size_t len, char *to)
{
    const char *end = p + len;
    char *at = to;
    bool quoted = false;
    for (; p < end; p++) {
        if (*p == '"') {
            quoted = !quoted;
        } else if (*p == '\\' && quoted) {
            if (++p == end)
                return -1;
            *at++ = *p;
        } else if (*p == '%') {
            int high = end - p > 2 ? hex_digit(p[1]) : -1;
            int low = end - p > 2 ? hex_digit(p[2]) : -1;
            if (high < 0 || low < 0)
                return -1;
            *at++ = (char)(high * 16 + low);
            p += 2;
        } else {
            *at++ = *p;
        }
    }
    return quoted ? -1 : at - to;
}

static int add_header(struct cloudevent *event, const struct cloudevent_http_header *header,
                      struct buffer *scratch, struct error *err)
{
    char *name = scratch->data + scratch->len;
    int shown = header->name_len < 64 ? (int)header->name_len : 64;
    for (size_t i = 0; i < header->name_len; i++) {
        char c = header->name[i];
        name[i] = (char)(c >= 'A' && c <= 'Z' ? c | 0x20 : c);
        if (!((name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9')))
            return error_set(err, ERROR_INVALID, "header ce-%.*s: a name must consist of a-z and 0-9", shown,
                             header->name);
    }
    if (header->name_len == 4 && memcmp(name, "data", 4) == 0)
        return error_set(err, ERROR_INVALID, "header ce-data: data is the body");
    char *value = name + header->name_len;
    ptrdiff_t len = decode_value(header->value, header->value_len, value);
    if (len < 0)
        return error_set(err, ERROR_INVALID, "header ce-%.*s: bad quoting or percent-encoding", shown,
                         header->name);
    scratch->len += header->name_len + (size_t)len;
    return cloudevent_add(event, name, header->name_len, value, (size_t)len, err);
}

/* RFC 4648 section 4. `to` has room for (len + 2) / 3 * 4 bytes. */
static size_t encode_base64(const unsigned char *p, size_t len, char *to)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *at = to;
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t bits =
            (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        *at++ = digits[bits >> 18];
        *at++ = digits[bits >> 12 & 63];
        *at++ = digits[bits >> 6 & 63];
        *at++ = digits[bits & 63];
    }
    if (len % 3 > 0)
        at[-1] = '=';
    if (len % 3 == 1)
        at[-2] = '=';
    return (size_t)(at - to);
}

static int add_body(struct cloudevent *event, const struct cloudevent_http_message *message,
                    struct buffer *scratch, struct error *err)
{
    if (message->body_len == 0)
        return 0;
    if (utf8_valid(message->body, message->body_len))
        return cloudevent_add(event, "data", 4, message->body, message->body_len, err);
    char *text = scratch->data + scratch->len;
    size_t len = encode_base64((const unsigned char *)message->body, message->body_len, text);
    scratch->len += len;
    return cloudevent_add(event, "data_base64", 11, text, len, err);
}

static int status_of(const struct error *err)
{
    return err->code == ERROR_MEMORY ? CLOUDEVENT_HTTP_NO_MEMORY : CLOUDEVENT_HTTP_INVALID;
}

static int read_binary(const struct cloudevent_http_message *message, struct buffer *scratch,
                       struct cloudevent *event, struct error *err)
{
    size_t room = (message->body_len + 2) / 3 * 4;
    cloudevent_clear(event);
    if (message->n_headers > CLOUDEVENT_HTTP_HEADERS_MAX)
        return error_set(err, ERROR_INVALID, "%u ce- headers, at most %d are allowed", message->n_headers,
                         CLOUDEVENT_HTTP_HEADERS_MAX);
    for (unsigned i = 0; i < message->n_headers; i++)
        room += message->header[i].name_len + message->header[i].value_len;
    /* All that is decoded: it must not move once the event points into it. */
    if (!buffer_reserve(scratch, room))
        return error_set(err, ERROR_MEMORY, "no memory for an event of %zu bytes", room);
    for (unsigned i = 0; i < message->n_headers; i++)
        if (add_header(event, &message->header[i], scratch, err) < 0)
            return -1;
    if (message->content_type && cloudevent_add(event, "datacontenttype", 15, message->content_type,
                                                strlen(message->content_type), err) < 0)
        return -1;
    return add_body(event, message, scratch, err);
}

/* ---- All modes ---- */

struct taker {
    int (*take)(void *data, const struct cloudevent *event, struct error *err);
    void *data;
};

/* An event that was read. */
static int hand_over(const struct taker *taker, const struct cloudevent *event, struct error *err)
{
    return cloudevent_conforms(event, err) < 0 ? status_of(err) : taker->take(taker->data, event, err);
}

static int too_large(size_t bytes, size_t max, struct error *err)
{
    error_set(err, ERROR_LIMIT, "an event of %zu bytes, at most %zu are allowed", bytes, max);
    return CLOUDEVENT_HTTP_TOO_LARGE;
}

static int read_batch(const struct cloudevent_http_message *message, struct buffer *scratch,
                      const struct taker *taker, long *ret_index, struct error *err)
{
    struct json_value root, none, element;
    struct json_iter iter;
    struct cloudevent event;
    int status = 0;
    if (json_scan_within(message->body, message->body_len, JSON_DATA_DEPTH + 2, &root, err) < 0)
        return CLOUDEVENT_HTTP_INVALID;
    if (root.type != JSON_ARRAY) {
        error_set(err, ERROR_INVALID, "a batch must be a JSON array, not %s", json_type_name(root.type));
        return CLOUDEVENT_HTTP_INVALID;
    }
    json_iter_init(&iter, &root);
    for (long index = 0; json_next(&iter, &none, &element); index++) {
        size_t len;
        json_raw(&element, &len);
        buffer_reset(scratch, SIZE_MAX);
        if (len > message->max_event)
            status = too_large(len, message->max_event, err);
        else if (cloudevent_read(&event, &element, scratch, err) < 0)
            status = status_of(err);
        else
            status = hand_over(taker, &event, err);
        if (status != 0) {
            *ret_index = index;
            return status;
        }
    }
    return 0;
}

int cloudevent_http_read(const struct cloudevent_http_message *message, struct buffer *scratch,
                         int (*take)(void *data, const struct cloudevent *event, struct error *err),
                         void *data, long *ret_index, struct error *err)
{
    const struct taker taker = {take, data};
    struct cloudevent event;
    enum mode mode = mode_of(message, err);
    *ret_index = -1;
    buffer_reset(scratch, SIZE_MAX);
    if (mode == MODE_UNSUPPORTED)
        return CLOUDEVENT_HTTP_UNSUPPORTED;
    if (mode == MODE_BATCH)
        return read_batch(message, scratch, &taker, ret_index, err);
    if (message->body_len > message->max_event)
        return too_large(message->body_len, message->max_event, err);
    int r = mode == MODE_BINARY ? read_binary(message, scratch, &event, err)
                                : cloudevent_parse(&event, message->body, message->body_len, scratch, err);
    return r < 0 ? status_of(err) : hand_over(&taker, &event, err);
}
