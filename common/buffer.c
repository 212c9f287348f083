#include "common/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buffer_done(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer)BUFFER_INIT;
}

void buffer_reset(struct buffer *b, size_t keep_bytes)
{
    if (b->cap > keep_bytes) {
        buffer_done(b);
        return;
    }
    b->len = 0;
    b->failed = false;
}

char *buffer_reserve(struct buffer *b, size_t n)
{
    if (b->failed)
        return NULL;
    if (n > b->cap - b->len || !b->data) {
        size_t cap = b->cap ? b->cap : 256;
        while (cap - b->len < n) {
            if (cap > SIZE_MAX / 2) {
                b->failed = true;
                return NULL;
            }
            cap *= 2;
        }
        char *data = realloc(b->data, cap);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->cap = cap;
    }
    return b->data + b->len;
}

void buffer_append(struct buffer *b, const void *data, size_t n)
{
    char *to = buffer_reserve(b, n);
    if (to && n) {
        memcpy(to, data, n);
        b->len += n;
    }
}

void buffer_append_text(struct buffer *b, const char *text)
{
    buffer_append(b, text, strlen(text));
}

void buffer_append_char(struct buffer *b, char c)
{
    buffer_append(b, &c, 1);
}

void buffer_append_u64(struct buffer *b, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    buffer_append(b, digits + at, sizeof digits - at);
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    va_list args;
    va_list again;
    va_start(args, format);
    va_copy(again, args);
    size_t room = b->failed ? 0 : b->cap - b->len;
    int n = vsnprintf(room ? b->data + b->len : NULL, room, format, args);
    char *to = n < 0 ? NULL : buffer_reserve(b, (size_t)n + 1);
    if (to) {
        if ((size_t)n >= room)
            vsnprintf(to, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

void buffer_append_json(struct buffer *b, const char *text, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    buffer_append_char(b, '"');
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buffer_append(b, text + start, i - start);
        start = i + 1;
        char escape[6] = {'\\', (char)c, 0, 0, 0, 0};
        size_t length = 2;
        switch (c) {
        case '"':
        case '\\':
            break;
        case '\n':
            escape[1] = 'n';
            break;
        case '\r':
            escape[1] = 'r';
            break;
        case '\t':
            escape[1] = 't';
            break;
        default:
            memcpy(escape + 1, "u00", 3);
            escape[4] = hex[c >> 4];
            escape[5] = hex[c & 15];
            length = 6;
        }
        buffer_append(b, escape, length);
    }
    buffer_append(b, text + start, n - start);
    buffer_append_char(b, '"');
}

void buffer_append_base64(struct buffer *b, const void *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i += 3, p += 3) {
        size_t left = n - i;
        unsigned bits = (unsigned)p[0] << 16 | (left > 1 ? (unsigned)p[1] << 8 : 0) | (left > 2 ? p[2] : 0);
        char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63], left > 1 ? digits[bits >> 6 & 63] : '=',
                        left > 2 ? digits[bits & 63] : '='};
        buffer_append(b, four, sizeof four);
    }
}

void buffer_consume(struct buffer *b, size_t n)
{
    if (n >= b->len) {
        b->len = 0;
        return;
    }
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

const char *buffer_text(struct buffer *b)
{
    char *end = buffer_reserve(b, 1);
    if (!end)
        return "";
    *end = '\0';
    return b->data;
}
