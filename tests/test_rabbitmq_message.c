/* RabbitMQ messages as CloudEvents, their identity, and what is kept of those that are none. */
#include "worker/source/rabbitmq_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"

static amqp_basic_deliver_t deliver;
static amqp_basic_properties_t properties;

static struct rabbitmq_event message(const char *body, size_t len)
{
    deliver.routing_key = amqp_cstring_bytes("q");
    return (struct rabbitmq_event){.method = AMQP_BASIC_DELIVER_METHOD,
                                   .decoded = &deliver,
                                   .properties = &properties,
                                   .body_size = len,
                                   .body = body,
                                   .body_len = len};
}

static struct rabbitmq_event text_message(const char *body)
{
    return message(body, strlen(body));
}

static int setup(void **state)
{
    (void)state;
    memset(&deliver, 0, sizeof deliver);
    memset(&properties, 0, sizeof properties);
    return 0;
}

static void check(const struct cloudevent_span *span, const char *wanted)
{
    assert_non_null(span->text);
    assert_int_equal(span->len, strlen(wanted));
    assert_memory_equal(span->text, wanted, span->len);
}

static void test_structured(void **state)
{
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent event;
    struct error err;
    (void)state;
    struct rabbitmq_event m =
        text_message("{\"id\":\"\\u0031\",\"source\":\"s\",\"type\":\"t\",\"data\":[1]}");
    assert_int_equal(rabbitmq_message_read(&m, &event, &scratch, &err), 0);
    check(&event.attribute[CE_ID], "1");
    check(&event.attribute[CE_DATA], "[1]");
    m = text_message("{\"id\":\"1\",\"type\":\"t\"}");
    assert_int_equal(rabbitmq_message_read(&m, &event, &scratch, &err), -1);
    assert_non_null(strstr(err.message, "source"));
    m = text_message("");
    assert_int_equal(rabbitmq_message_read(&m, &event, &scratch, &err), -1);
}

#define HEADER(name, kind_, member, given)                                                       \
    {                                                                                            \
        .key = amqp_cstring_bytes(name), .value = {.kind = kind_, .value = {.member = (given)} } \
    }
#define TEXT(name, given) HEADER(name, AMQP_FIELD_KIND_UTF8, bytes, amqp_cstring_bytes(given))

static void test_binary(void **state)
{
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent event;
    struct error err;
    amqp_table_entry_t headers[] = {TEXT("cloudEvents:specversion", "1.0"),
                                    TEXT("cloudEvents_id", "7"),
                                    TEXT("cloudevents:source", "s"),
                                    TEXT("cloudEvents:type", "t"),
                                    HEADER("cloudEvents:time", AMQP_FIELD_KIND_TIMESTAMP, u64, 1600000000),
                                    HEADER("cloudEvents:number", AMQP_FIELD_KIND_I32, i32, -5),
                                    HEADER("cloudEvents:big", AMQP_FIELD_KIND_I64, i64, INT64_MIN),
                                    HEADER("cloudEvents:flag", AMQP_FIELD_KIND_BOOLEAN, boolean, 1),
                                    TEXT("x-other", "y"),
                                    TEXT("cloudEvents:", "y")};
    (void)state;
    properties._flags = AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG;
    properties.content_type = amqp_cstring_bytes("application/json");
    properties.headers = (amqp_table_t){sizeof headers / sizeof headers[0], headers};
    struct rabbitmq_event m = text_message("{\"a\":1}");
    assert_int_equal(rabbitmq_message_read(&m, &event, &scratch, &err), 0);
    check(&event.attribute[CE_ID], "7");
    check(&event.attribute[CE_SOURCE], "s");
    check(&event.attribute[CE_TIME], "2020-09-13T12:26:40.000000Z");
    check(&event.attribute[CE_DATACONTENTTYPE], "application/json");
    check(&event.attribute[CE_DATA], "{\"a\":1}");
    assert_int_equal(event.n_extensions, 3);
    check(&event.extension[0].value, "-5");
    check(&event.extension[1].value, "-9223372036854775808");
    check(&event.extension[2].value, "true");
    m = message("\xff\x00", 2);
    assert_int_equal(rabbitmq_message_read(&m, &event, &scratch, &err), 0);
    assert_int_equal(event.data, CE_DATA_BASE64);
    check(&event.attribute[CE_DATA], "/wA=");
    headers[5].value.kind = AMQP_FIELD_KIND_F64;
    assert_int_equal(rabbitmq_message_read(&m, &event, &scratch, &err), -1);
    assert_non_null(strstr(err.message, "number"));
    /* A structured event says so, whatever headers it has. */
    properties.content_type = amqp_cstring_bytes("application/CloudEvents+json; charset=UTF-8");
    m = text_message("{\"id\":\"1\",\"source\":\"s\",\"type\":\"t\"}");
    assert_int_equal(rabbitmq_message_read(&m, &event, &scratch, &err), 0);
    check(&event.attribute[CE_ID], "1");
}

static void test_identity(void **state)
{
    enum { N = 10 };
    struct consumed *c;
    struct error err;
    struct consumed_id ids[N];
    amqp_table_entry_t headers[] = {TEXT("x-delivery-count", "1"), TEXT("cloudEvents:specversion", "1.0"),
                                    TEXT("cloudEvents:id", "1")};
    (void)state;
    assert_int_equal(consumed_new("1", 1000, &c, &err), 0);
    struct rabbitmq_event m = text_message("body");
    ids[0] = rabbitmq_message_identity(c, &m);
    deliver.delivery_tag = 77; /* of the connection, not of the message */
    deliver.redelivered = 1;
    properties._flags = AMQP_BASIC_HEADERS_FLAG;
    properties.headers = (amqp_table_t){1, headers};
    struct consumed_id again = rabbitmq_message_identity(c, &m);
    assert_true(consumed_id_equal(&ids[0], &again));
    properties.headers.num_entries = 2;
    ids[1] = rabbitmq_message_identity(c, &m);
    properties.headers.num_entries = 3;
    ids[2] = rabbitmq_message_identity(c, &m);
    properties._flags = AMQP_BASIC_MESSAGE_ID_FLAG;
    properties.message_id = amqp_cstring_bytes("x");
    ids[3] = rabbitmq_message_identity(c, &m);
    properties._flags = AMQP_BASIC_TIMESTAMP_FLAG;
    properties.timestamp = 7;
    ids[4] = rabbitmq_message_identity(c, &m);
    properties._flags = 0;
    deliver.exchange = amqp_cstring_bytes("q");
    ids[5] = rabbitmq_message_identity(c, &m);
    deliver.exchange = amqp_empty_bytes;
    m = text_message("bodY");
    ids[6] = rabbitmq_message_identity(c, &m);
    m = text_message("");
    ids[7] = rabbitmq_message_identity(c, &m);
    m.body_size = 5000000;
    ids[8] = rabbitmq_message_identity(c, &m);
    deliver.routing_key = amqp_cstring_bytes("p");
    ids[9] = rabbitmq_message_identity(c, &m);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < i; j++)
            assert_false(consumed_id_equal(&ids[i], &ids[j]));
    consumed_free(c);
}

/* What is kept is a member of a JSON object, whatever the message is. */
static void test_keep(void **state)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct json_value root;
    struct json_value member;
    struct json_value value;
    (void)state;
    properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG;
    properties.content_type = amqp_cstring_bytes("text/\"x\"");
    properties.message_id = amqp_cstring_bytes("\xff");
    const char *bodies[] = {"plain \" text", "\xff\xfe"};
    for (int i = 0; i < 2; i++) {
        struct rabbitmq_event m = text_message(bodies[i]);
        out.len = 0;
        buffer_append_char(&out, '{');
        rabbitmq_message_keep(&m, &out);
        buffer_append_char(&out, '}');
        assert_int_equal(json_scan(out.data, out.len, &root, NULL), 0);
        assert_true(json_member(&root, "message", &member));
        assert_true(json_member(&member, "body", &value));
        assert_int_equal(value.type, i ? JSON_OBJECT : JSON_STRING);
        assert_true(json_member(&member, "routing_key", &value));
        assert_true(json_member(&member, "content_type", &value));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_structured, setup),
        cmocka_unit_test_setup(test_binary, setup),
        cmocka_unit_test_setup(test_identity, setup),
        cmocka_unit_test_setup(test_keep, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
