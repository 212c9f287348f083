/* Bytes as a hostile broker sends them, in pieces whose size is the first byte: taken apart, and every
 * message as an event, as an identity and as a dead letter, which must be JSON. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/source/rabbitmq_input.h"
#include "worker/source/rabbitmq_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void insist(int holds)
{
    if (!holds)
        abort();
}

static void look_at(const struct consumed *consumed, const struct rabbitmq_event *event)
{
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    struct cloudevent read;
    struct json_value root;
    struct error err;
    if (event->method != AMQP_BASIC_DELIVER_METHOD)
        return;
    insist(event->body_len <= event->body_size);
    rabbitmq_message_identity(consumed, event);
    if (rabbitmq_message_read(event, &read, &scratch, &err) == 0) {
        cloudevent_write(&read, &out);
        insist(json_scan(out.data, out.len, &root, NULL) == 0);
        out.len = 0;
    }
    buffer_append_char(&out, '{');
    rabbitmq_message_keep(event, &out);
    buffer_append_char(&out, '}');
    insist(json_scan(out.data, out.len, &root, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct consumed *consumed;
    struct rabbitmq_input input;
    struct rabbitmq_event event;
    int r = 1;
    if (!consumed)
        consumed_new("1", 1000, &consumed, NULL);
    if (size < 2 || rabbitmq_input_init(&input, 1000) < 0)
        return 0;
    size_t piece = (size_t)data[0] + 1;
    for (size_t at = 1; at < size && r > 0; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        size_t room;
        char *to = rabbitmq_input_room(&input, &room);
        insist(to && room >= n);
        memcpy(to, data + at, n);
        input.end += n;
        while ((r = rabbitmq_input_next(&input, &event)) == 0)
            look_at(consumed, &event);
        insist(r > 0 || input.wrong);
    }
    rabbitmq_input_done(&input);
    return 0;
}
