/* A growable byte buffer.
 *
 * Appending never fails visibly: when memory runs out the buffer remembers it (`failed`), later appends do
 * nothing, and the writer checks once at the end. Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data; /* not NUL-terminated, except after buffer_text() */
    size_t len;
    size_t cap;
    bool failed; /* an allocation failed: contents are incomplete */
};

#define BUFFER_INIT       \
    {                     \
        NULL, 0, 0, false \
    }

void buffer_done(struct buffer *b); /* frees; the buffer may be used again */

/* Empties the buffer and clears `failed`; memory above keep_bytes is given back. */
void buffer_reset(struct buffer *b, size_t keep_bytes);

/* Room for n more bytes; NULL when memory ran out. The caller then adds to len what it has written. */
char *buffer_reserve(struct buffer *b, size_t n);

void buffer_append(struct buffer *b, const void *data, size_t n);
void buffer_append_text(struct buffer *b, const char *text);
void buffer_append_char(struct buffer *b, char c);
void buffer_append_u64(struct buffer *b, uint64_t value); /* decimal */
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends text as a JSON string with its quotes (RFC 8259 section 7); text must be valid UTF-8. */
void buffer_append_json(struct buffer *b, const char *text, size_t n);

/* Appends the base64 of n bytes (RFC 4648 section 4), without quotes. */
void buffer_append_base64(struct buffer *b, const void *data, size_t n);

/* Removes the first n bytes. */
void buffer_consume(struct buffer *b, size_t n);

/* The contents as a NUL-terminated string, "" when empty or failed; valid until the next change. */
const char *buffer_text(struct buffer *b);

static inline void buffer_cleanup(struct buffer *b)
{
    buffer_done(b);
}
/* A local that frees itself. */
#define BUFFER_AUTO __attribute__((cleanup(buffer_cleanup))) struct buffer
