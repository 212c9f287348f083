/* Writes AMQP frames as a broker sends them, for tests. */
#pragma once

#include <stdint.h>
#include <string.h>
#include <amqp.h>
#include <amqp_framing.h>

#include "common/buffer.h"

static inline void amqp_put_u32(struct buffer *out, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        buffer_append_char(out, (char)(value >> shift));
}

static inline void amqp_put_frame(struct buffer *out, int type, int channel, const void *payload, size_t len)
{
    buffer_append_char(out, (char)type);
    buffer_append_char(out, '\0');
    buffer_append_char(out, (char)channel);
    amqp_put_u32(out, (uint32_t)len);
    buffer_append(out, payload, len);
    buffer_append_char(out, (char)AMQP_FRAME_END);
}

static inline void amqp_put_method(struct buffer *out, int channel, amqp_method_number_t method,
                                   void *decoded)
{
    char text[4096];
    BUFFER_AUTO payload = BUFFER_INIT;
    int n = amqp_encode_method(method, decoded, (amqp_bytes_t){sizeof text, text});
    amqp_put_u32(&payload, method);
    buffer_append(&payload, text, n < 0 ? 0 : (size_t)n);
    amqp_put_frame(out, AMQP_FRAME_METHOD, channel, payload.data, payload.len);
}

static inline void amqp_put_header(struct buffer *out, int channel, uint64_t size,
                                   amqp_basic_properties_t *properties)
{
    char text[4096];
    BUFFER_AUTO payload = BUFFER_INIT;
    int n = amqp_encode_properties(AMQP_BASIC_CLASS, properties, (amqp_bytes_t){sizeof text, text});
    amqp_put_u32(&payload, AMQP_BASIC_CLASS << 16);
    amqp_put_u32(&payload, (uint32_t)(size >> 32));
    amqp_put_u32(&payload, (uint32_t)size);
    buffer_append(&payload, text, n < 0 ? 0 : (size_t)n);
    amqp_put_frame(out, AMQP_FRAME_HEADER, channel, payload.data, payload.len);
}

/* A delivery whose body comes in frames of at most so many bytes. */
static inline void amqp_put_delivery(struct buffer *out, uint64_t tag, bool redelivered,
                                     amqp_basic_properties_t *properties, const char *body, size_t len,
                                     size_t frame)
{
    amqp_basic_deliver_t deliver = {.consumer_tag = amqp_cstring_bytes("c"),
                                    .delivery_tag = tag,
                                    .redelivered = redelivered,
                                    .exchange = amqp_cstring_bytes("e"),
                                    .routing_key = amqp_cstring_bytes("queue")};
    amqp_put_method(out, 1, AMQP_BASIC_DELIVER_METHOD, &deliver);
    amqp_put_header(out, 1, len, properties);
    for (size_t at = 0; at < len; at += frame)
        amqp_put_frame(out, AMQP_FRAME_BODY, 1, body + at, len - at < frame ? len - at : frame);
}
