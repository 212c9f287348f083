#include "worker/source/rabbitmq_input.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES (256u * 1024)
#define KEEP_BYTES (1024u * 1024) /* an empty buffer above this is given back */
#define POOL_PAGE 4096
#define HEADER_FIXED 12u /* class, weight, body size */

/* A frame in the input. */
struct frame {
    unsigned type;
    const char *payload;
    size_t len;
    size_t size; /* with header and end mark */
};

static int bad(struct rabbitmq_input *in, enum error_code code, const char *what)
{
    in->code = code;
    in->wrong = what;
    return -1;
}

int rabbitmq_input_init(struct rabbitmq_input *input, size_t max_body)
{
    *input =
        (struct rabbitmq_input){.cap = FIRST_BYTES, .frame_max = RABBITMQ_FRAME_MAX, .max_body = max_body};
    init_amqp_pool(&input->pool, POOL_PAGE);
    input->data = malloc(FIRST_BYTES);
    return input->data ? 0 : -1;
}

void rabbitmq_input_done(struct rabbitmq_input *input)
{
    if (input->cap)
        empty_amqp_pool(&input->pool);
    buffer_done(&input->kept);
    free(input->data);
    *input = (struct rabbitmq_input){0};
}

char *rabbitmq_input_room(struct rabbitmq_input *input, size_t *ret_len)
{
    struct rabbitmq_input *in = input;
    if (in->at) {
        memmove(in->data, in->data + in->at, in->end - in->at);
        in->end -= in->at;
        in->at = 0;
    }
    if (in->end == in->cap || (!in->end && in->cap > KEEP_BYTES)) {
        size_t cap = in->end ? in->cap * 2 : FIRST_BYTES;
        char *data = realloc(in->data, cap);
        if (!data)
            return NULL;
        in->data = data;
        in->cap = cap;
    }
    *ret_len = in->cap - in->end;
    return in->data + in->end;
}

/* The frame at this place of the input. A heartbeat, which may stand between any two, is taken out. 0; 1: not
 * all of it is there; -1: it is none. */
static int frame_at(struct rabbitmq_input *in, size_t at, struct frame *ret_frame)
{
    for (;;) {
        char *p = in->data + at;
        size_t there = in->end - at;
        if (there && (*p < AMQP_FRAME_METHOD || (*p > AMQP_FRAME_BODY && *p != AMQP_FRAME_HEARTBEAT)))
            return bad(in, ERROR_REFUSED, "does not speak AMQP 0-9-1");
        if (there < 7)
            return 1;
        uint32_t len = rabbitmq_read_u32(p + 3);
        if (len > in->frame_max - RABBITMQ_FRAME_OVERHEAD)
            return bad(in, ERROR_UNAVAILABLE, "a frame is larger than was agreed upon");
        if (there < len + RABBITMQ_FRAME_OVERHEAD)
            return 1;
        if (p[7 + len] != (char)AMQP_FRAME_END)
            return bad(in, ERROR_UNAVAILABLE, "a frame has no end mark");
        *ret_frame = (struct frame){
            .type = (unsigned char)p[0], .payload = p + 7, .len = len, .size = len + RABBITMQ_FRAME_OVERHEAD};
        if (*p != AMQP_FRAME_HEARTBEAT)
            return 0;
        memmove(p, p + ret_frame->size, there - ret_frame->size);
        in->end -= ret_frame->size;
    }
}

static int decode_method(struct rabbitmq_input *in, const struct frame *f, struct rabbitmq_event *event)
{
    void *decoded;
    if (f->type != AMQP_FRAME_METHOD || f->len < 4)
        return bad(in, ERROR_UNAVAILABLE, "a frame is not where it belongs");
    event->method = rabbitmq_read_u32(f->payload);
    amqp_bytes_t encoded = {f->len - 4, (char *)(uintptr_t)f->payload + 4};
    if (amqp_decode_method(event->method, &in->pool, encoded, &decoded) < 0)
        return bad(in, ERROR_UNAVAILABLE, "a method cannot be decoded");
    event->decoded = decoded;
    return 0;
}

static int decode_header(struct rabbitmq_input *in, const struct frame *f, struct rabbitmq_event *event)
{
    void *decoded;
    if (f->type != AMQP_FRAME_HEADER || f->len < HEADER_FIXED || f->payload[1] != AMQP_BASIC_CLASS)
        return bad(in, ERROR_UNAVAILABLE, "a message has no header");
    event->body_size = (uint64_t)rabbitmq_read_u32(f->payload + 4) << 32 | rabbitmq_read_u32(f->payload + 8);
    amqp_bytes_t encoded = {f->len - HEADER_FIXED, (char *)(uintptr_t)f->payload + HEADER_FIXED};
    if (amqp_decode_properties(AMQP_BASIC_CLASS, &in->pool, encoded, &decoded) < 0)
        return bad(in, ERROR_UNAVAILABLE, "the properties of a message cannot be decoded");
    event->properties = decoded;
    return 0;
}

/* Moves the parts of a body together, over the frames' borders. Each frame ends with a mark and the next one
 * begins with 7 bytes. */
static const char *join_body(struct rabbitmq_input *in, size_t at, uint64_t size)
{
    char *body = in->data + at + 7;
    size_t have = rabbitmq_read_u32(in->data + at + 3);
    for (at += have + RABBITMQ_FRAME_OVERHEAD; have < size;) {
        size_t len = rabbitmq_read_u32(in->data + at + 3);
        memmove(body + have, in->data + at + 7, len);
        have += len;
        at += len + RABBITMQ_FRAME_OVERHEAD;
    }
    return body;
}

/* A message in the input, whose method and header frames end at `at`. 0; 1: not all of it is there. */
static int whole_body(struct rabbitmq_input *in, size_t at, struct rabbitmq_event *event)
{
    struct frame f;
    size_t begin = at;
    uint64_t have = 0;
    while (have < event->body_size) {
        int rc = frame_at(in, at, &f);
        if (rc > 0 && in->end - in->at > 2 * in->max_body + FIRST_BYTES)
            return bad(in, ERROR_UNAVAILABLE, "a message comes in frames that are too small");
        if (rc)
            return rc;
        if (f.type != AMQP_FRAME_BODY || !f.len || f.len > event->body_size - have)
            return bad(in, ERROR_UNAVAILABLE, "the body of a message is not in order");
        have += f.len;
        at += f.size;
    }
    event->body = have ? join_body(in, begin, event->body_size) : "";
    event->body_len = (size_t)have;
    in->head = at - in->at;
    return 0;
}

/* Begins to skip a body: method and header are kept. */
static int skip_begin(struct rabbitmq_input *in, size_t body_at, uint64_t body_size)
{
    buffer_reset(&in->kept, RABBITMQ_KEPT * 2);
    buffer_append(&in->kept, in->data + in->at, body_at - in->at);
    if (in->kept.failed)
        return bad(in, ERROR_MEMORY, "out of memory for a message");
    in->kept_head = body_at - in->at;
    in->at = body_at;
    in->skipping = true;
    in->skip_left = body_size;
    return 0;
}

/* 0: its end has come; the kept part is the event. */
static int skip(struct rabbitmq_input *in, struct rabbitmq_event *event)
{
    struct frame f;
    while (in->skip_left) {
        int rc = frame_at(in, in->at, &f);
        if (rc)
            return rc;
        if (f.type != AMQP_FRAME_BODY || !f.len || f.len > in->skip_left)
            return bad(in, ERROR_UNAVAILABLE, "the body of a message is not in order");
        size_t kept = in->kept.len - in->kept_head;
        size_t room = kept < RABBITMQ_KEPT ? RABBITMQ_KEPT - kept : 0;
        buffer_append(&in->kept, f.payload, f.len < room ? f.len : room);
        in->skip_left -= f.len;
        in->at += f.size;
    }
    if (in->kept.failed)
        return bad(in, ERROR_MEMORY, "out of memory for a message");
    in->skipping = false;
    struct frame method = {.type = AMQP_FRAME_METHOD, .payload = in->kept.data + 7};
    method.len = rabbitmq_read_u32(in->kept.data + 3);
    struct frame header = {.type = AMQP_FRAME_HEADER,
                           .payload = method.payload + method.len + RABBITMQ_FRAME_OVERHEAD};
    header.len = rabbitmq_read_u32(header.payload - 4);
    recycle_amqp_pool(&in->pool);
    if (decode_method(in, &method, event) < 0 || decode_header(in, &header, event) < 0)
        return -1;
    event->body = in->kept.data + in->kept_head;
    event->body_len = in->kept.len - in->kept_head;
    return 0;
}

/* Method, header and body of a message. 0; 1: not all is there; -1. */
static int take_content(struct rabbitmq_input *in, const struct frame *method, struct rabbitmq_event *event)
{
    struct frame header;
    size_t at = in->at + method->size;
    int rc = frame_at(in, at, &header);
    if (rc)
        return rc;
    if (decode_header(in, &header, event) < 0)
        return -1;
    at += header.size;
    if (event->body_size <= in->max_body)
        return whole_body(in, at, event);
    return skip_begin(in, at, event->body_size) < 0 ? -1 : skip(in, event);
}

int rabbitmq_input_next(struct rabbitmq_input *input, struct rabbitmq_event *ret_event)
{
    struct rabbitmq_input *in = input;
    struct rabbitmq_event *event = ret_event;
    struct frame f;
    in->at += in->head;
    in->head = 0;
    *event = (struct rabbitmq_event){0};
    if (in->skipping)
        return skip(in, event);
    int rc = frame_at(in, in->at, &f);
    if (rc)
        return rc;
    recycle_amqp_pool(&in->pool);
    if (decode_method(in, &f, event) < 0)
        return -1;
    if (event->method == AMQP_BASIC_DELIVER_METHOD || event->method == AMQP_BASIC_RETURN_METHOD)
        return take_content(in, &f, event);
    in->head = f.size;
    return 0;
}
