/* What a RabbitMQ broker sends: bytes in, methods and whole messages out (AMQP 0-9-1 section 4.2; methods and
 * properties decoded by librabbitmq). Nothing is copied or allocated for a message that fits: its text lies
 * in the buffer until the next one is asked for.
 *
 * The peer is not trusted: sizes are bounded, and whatever is not in order is an error. Thread: one at a
 * time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <amqp.h>
#include <amqp_framing.h>

#include "common/buffer.h"
#include "common/error.h"

#define RABBITMQ_FRAME_MAX 131072u
#define RABBITMQ_FRAME_OVERHEAD 8u /* a header of 7 bytes, and the end mark (section 4.2.3) */
#define RABBITMQ_KEPT (64u * 1024) /* of a body that is too large */

/* A method, with its content when it has some. */
struct rabbitmq_event {
    amqp_method_number_t method;
    const void *decoded; /* amqp_basic_deliver_t, ... */
    /* basic.deliver and basic.return */
    const amqp_basic_properties_t *properties;
    uint64_t body_size; /* as announced */
    const char *body;
    size_t body_len; /* less than body_size where that is above max_body: only its beginning was kept */
};

struct rabbitmq_input {
    amqp_pool_t pool; /* what the event in hand was decoded into */
    char *data;
    size_t cap;
    size_t at; /* [at, end) was received and not handed out */
    size_t end;
    size_t head; /* bytes from `at` that are of the event in hand, and go with the next one */
    uint32_t frame_max;
    size_t max_body;
    /* A body above max_body is taken apart frame by frame. */
    bool skipping;
    uint64_t skip_left; /* bytes of it that are still to come */
    struct buffer kept; /* method and header frame, and the beginning of the body */
    size_t kept_head;   /* bytes of the former */
    /* what is wrong, after -1 */
    enum error_code code;
    const char *wrong;
};

/* Errors: -1: out of memory. */
int rabbitmq_input_init(struct rabbitmq_input *input, size_t max_body);
void rabbitmq_input_done(struct rabbitmq_input *input); /* initialised, or zero */

/* Room for more: what was put there is added by adding to input->end. NULL: out of memory. */
char *rabbitmq_input_room(struct rabbitmq_input *input, size_t *ret_len);
/* 0; 1: no whole event is there; -1: the peer cannot be understood, see `wrong`. Heartbeats are passed over.
 */
int rabbitmq_input_next(struct rabbitmq_input *input, struct rabbitmq_event *ret_event);

static inline uint32_t rabbitmq_read_u32(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}
