/* What a broker sends, in pieces of any size; and what no broker should send. */
#include "worker/source/rabbitmq_input.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/amqp_frames.h"

#define MAX_BODY 100000u
#define N_BODIES 6

static struct rabbitmq_input input;

static int setup(void **state)
{
    (void)state;
    return rabbitmq_input_init(&input, MAX_BODY);
}

static int teardown(void **state)
{
    (void)state;
    rabbitmq_input_done(&input);
    rabbitmq_input_done(&input);
    return 0;
}

static void feed(const char *text, size_t len)
{
    while (len) {
        size_t room;
        char *to = rabbitmq_input_room(&input, &room);
        assert_non_null(to);
        size_t n = len < room ? len : room;
        memcpy(to, text, n);
        input.end += n;
        text += n;
        len -= n;
    }
}

static size_t body_size(unsigned i)
{
    static const size_t sizes[N_BODIES] = {0, 1, 300, 4096, MAX_BODY, MAX_BODY + 1};
    return sizes[i % N_BODIES];
}

static void fill_body(char *body, unsigned i)
{
    for (size_t at = 0; at < body_size(i); at++)
        body[at] = (char)(i * 31 + at * 7);
}

static void put_heartbeat(struct buffer *out)
{
    amqp_put_frame(out, AMQP_FRAME_HEARTBEAT, 0, "", 0);
}

/* Messages of all sizes, with heartbeats before and after each frame of some. */
static void put_messages(struct buffer *out, size_t frame)
{
    static char body[MAX_BODY + 1];
    for (unsigned i = 0; i < 2 * N_BODIES; i++) {
        char id[8] = {(char)('a' + i)};
        amqp_basic_properties_t p = {._flags = AMQP_BASIC_MESSAGE_ID_FLAG,
                                     .message_id = amqp_cstring_bytes(id)};
        fill_body(body, i);
        size_t before = out->len;
        amqp_put_delivery(out, i + 1, i % 2, &p, body, body_size(i), frame);
        BUFFER_AUTO copy = BUFFER_INIT;
        buffer_append(&copy, out->data + before, out->len - before);
        if (i < N_BODIES)
            continue;
        out->len = before;
        put_heartbeat(out);
        for (size_t at = 0; at < copy.len;) {
            size_t size = rabbitmq_read_u32(copy.data + at + 3) + RABBITMQ_FRAME_OVERHEAD;
            buffer_append(out, copy.data + at, size);
            put_heartbeat(out);
            at += size;
        }
    }
}

static void check_message(const struct rabbitmq_event *e, unsigned i)
{
    static char body[MAX_BODY + 1];
    const amqp_basic_deliver_t *d = e->decoded;
    fill_body(body, i);
    assert_int_equal(e->method, AMQP_BASIC_DELIVER_METHOD);
    assert_int_equal(d->delivery_tag, i + 1);
    assert_int_equal(d->redelivered, i % 2);
    assert_int_equal(d->routing_key.len, 5);
    assert_memory_equal(d->routing_key.bytes, "queue", 5);
    assert_int_equal(e->properties->message_id.len, 1);
    assert_int_equal(*(const char *)e->properties->message_id.bytes, 'a' + i);
    assert_int_equal(e->body_size, body_size(i));
    assert_int_equal(e->body_len, body_size(i) > MAX_BODY ? RABBITMQ_KEPT : body_size(i));
    assert_memory_equal(e->body, body, e->body_len);
}

static void read_in_pieces(size_t frame, size_t piece)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct rabbitmq_event event;
    unsigned n = 0;
    put_messages(&text, frame);
    for (size_t at = 0; at < text.len; at += piece) {
        feed(text.data + at, text.len - at < piece ? text.len - at : piece);
        int r;
        while ((r = rabbitmq_input_next(&input, &event)) == 0)
            check_message(&event, n++);
        assert_int_equal(r, 1);
    }
    assert_int_equal(n, 2 * N_BODIES);
}

static void test_messages(void **state)
{
    (void)state;
    read_in_pieces(RABBITMQ_FRAME_MAX - RABBITMQ_FRAME_OVERHEAD, SIZE_MAX / 2);
    read_in_pieces(4096, 1 << 20);
    read_in_pieces(4096, 1000);
    read_in_pieces(1000, 4097);
    read_in_pieces(77, 3 << 16);
}

static void test_byte_by_byte(void **state)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct rabbitmq_event event;
    amqp_basic_properties_t p = {0};
    amqp_queue_declare_ok_t ok = {.queue = amqp_cstring_bytes("q"), .message_count = 7};
    (void)state;
    amqp_put_method(&text, 1, AMQP_QUEUE_DECLARE_OK_METHOD, &ok);
    size_t first = text.len;
    amqp_put_delivery(&text, 9, true, &p, "hello", 5, 2);
    for (size_t at = 0; at < text.len; at++) {
        feed(text.data + at, 1);
        int r = rabbitmq_input_next(&input, &event);
        assert_int_equal(r, at + 1 == first || at + 1 == text.len ? 0 : 1);
        if (at + 1 == first) {
            assert_int_equal(event.method, AMQP_QUEUE_DECLARE_OK_METHOD);
            assert_int_equal(((const amqp_queue_declare_ok_t *)event.decoded)->message_count, 7);
        }
    }
    assert_int_equal(event.body_len, 5);
    assert_memory_equal(event.body, "hello", 5);
}

/* Whatever is wrong is said, and nothing is read beyond what came. */
static void expect_wrong(const char *text, size_t len, const char *wanted)
{
    struct rabbitmq_event event;
    rabbitmq_input_done(&input);
    assert_int_equal(rabbitmq_input_init(&input, MAX_BODY), 0);
    feed(text, len);
    int r;
    while ((r = rabbitmq_input_next(&input, &event)) == 0)
        continue;
    assert_int_equal(r, -1);
    if (!strstr(input.wrong, wanted))
        fail_msg("%s instead of %s", input.wrong, wanted);
}

static void test_wrong(void **state)
{
    BUFFER_AUTO text = BUFFER_INIT;
    amqp_basic_properties_t p = {0};
    (void)state;
    expect_wrong("HTTP/1.1 400", 12, "does not speak AMQP");
    expect_wrong("AMQP\0\1\0\0", 8, "does not speak AMQP");
    expect_wrong("\x01\0\0\xff\xff\xff\xff", 7, "larger than was agreed");
    expect_wrong("\x01\0\0\0\0\0\4\0\0\0\0\x01", 12, "no end mark");
    expect_wrong("\x01\0\0\0\0\0\4\0\0\0\0\xce", 12, "cannot be decoded");
    expect_wrong("\x01\0\0\0\0\0\3\0\0\0\xce", 11, "not where it belongs");
    amqp_put_frame(&text, AMQP_FRAME_BODY, 1, "x", 1);
    expect_wrong(text.data, text.len, "not where it belongs");
    text.len = 0;
    amqp_put_delivery(&text, 1, false, &p, "", 0, 1);
    amqp_put_delivery(&text, 1, false, &p, "abc", 3, 3);
    text.len -= 11; /* the body */
    size_t without_body = text.len;
    amqp_put_frame(&text, AMQP_FRAME_BODY, 1, "abcd", 4);
    expect_wrong(text.data, text.len, "body of a message is not in order");
    text.len = without_body;
    amqp_put_frame(&text, AMQP_FRAME_BODY, 1, "", 0);
    expect_wrong(text.data, text.len, "body of a message is not in order");
    text.len = without_body;
    amqp_put_delivery(&text, 1, false, &p, "", 0, 1);
    expect_wrong(text.data, text.len, "body of a message is not in order");
    text.len = 0;
    amqp_basic_deliver_t deliver = {.delivery_tag = 1};
    amqp_put_method(&text, 1, AMQP_BASIC_DELIVER_METHOD, &deliver);
    amqp_put_method(&text, 1, AMQP_BASIC_DELIVER_METHOD, &deliver);
    expect_wrong(text.data, text.len, "no header");
    text.len = 0;
    static char body[MAX_BODY];
    amqp_put_delivery(&text, 1, false, &p, body, sizeof body - 1, 1);
    text.len -= 9;
    expect_wrong(text.data, text.len, "frames that are too small");
}

/* Memory for a large message is given back. */
static void test_memory(void **state)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct rabbitmq_event event;
    amqp_basic_properties_t p = {0};
    (void)state;
    rabbitmq_input_done(&input);
    assert_int_equal(rabbitmq_input_init(&input, 8 << 20), 0);
    size_t at_first = input.cap;
    char *body = calloc(1, 5 << 20);
    assert_non_null(body);
    amqp_put_delivery(&text, 1, false, &p, body, 5 << 20, 100000);
    free(body);
    feed(text.data, text.len);
    assert_int_equal(rabbitmq_input_next(&input, &event), 0);
    assert_int_equal(event.body_len, 5 << 20);
    assert_int_equal(rabbitmq_input_next(&input, &event), 1);
    feed("\x01", 1);
    assert_int_equal(input.cap, at_first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_byte_by_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
