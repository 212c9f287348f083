/* Positions in a Kafka topic as they are stored, where an adoption begins, and messages as events. */
#include "worker/source/kafka_partitions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/source/kafka_message.h"

static int read(const char *json, struct kafka_partitions *p, struct error *err)
{
    struct json_value value;
    assert_int_equal(json_scan(json, strlen(json), &value, NULL), 0);
    return kafka_partitions_read(p, &value, err);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct kafka_partitions p = {0};
    struct error err;
    BUFFER_AUTO out = BUFFER_INIT;
    static const char text[] = "{\"0\":[5,3,1700000000000],\"2\":[0,-1,-1]}";
    assert_int_equal(read(text, &p, &err), 0);
    assert_int_equal(p.n, 3);
    assert_int_equal(p.list[1].next, KAFKA_NO_OFFSET);
    assert_int_equal(p.list[0].delivered, 5);
    assert_int_equal(kafka_partitions_resize(&p, 5, &err), 0);
    kafka_partitions_write(&p, &out);
    assert_string_equal(buffer_text(&out) + strlen("\"partitions\":"), text);
    kafka_partitions_done(&p);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {"[]",
                                        "{\"a\":[1,0,0]}",
                                        "{\"\":[1,0,0]}",
                                        "{\"100000\":[1,0,0]}",
                                        "{\"99999999999999999999999\":[1,0,0]}",
                                        "{\"0\":1}",
                                        "{\"0\":[1,0]}",
                                        "{\"0\":[1,0,0,0]}",
                                        "{\"0\":[-1,-1,0]}",
                                        "{\"0\":[1,1,0]}",
                                        "{\"0\":[1.5,0,0]}",
                                        "{\"0\":[\"1\",0,0]}"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kafka_partitions p = {0};
        struct error err;
        if (read(cases[i], &p, &err) != -1 || err.code != ERROR_INVALID)
            fail_msg("%s", cases[i]);
        kafka_partitions_done(&p);
    }
}

static void test_from(void **state)
{
    (void)state;
    enum kafka_from from;
    struct error err;
    static const char *const wrong[] = {
        "", "x", "1", "1:", ":1", "1:2,", "1:2;3:4", "1:-2", "1:2,3", "100000:1", "1:99999999999999999999"};
    assert_int_equal(kafka_from_read("end", &from, &err), 0);
    assert_int_equal(from, KAFKA_FROM_END);
    assert_int_equal(kafka_from_read("beginning", &from, &err), 0);
    assert_int_equal(from, KAFKA_FROM_BEGINNING);
    assert_int_equal(kafka_from_read("0:7,12:100", &from, &err), 0);
    assert_int_equal(from, KAFKA_FROM_LIST);
    assert_int_equal(kafka_from_offset("0:7,12:100", 12), 100);
    assert_int_equal(kafka_from_offset("0:7,12:100", 1), KAFKA_NO_OFFSET);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (kafka_from_read(wrong[i], &from, &err) != -1)
            fail_msg("%s", wrong[i]);
}

static int parse(const char *value, const char *const *headers, struct buffer *scratch,
                 struct cloudevent *event, struct error *err)
{
    rd_kafka_headers_t *h = rd_kafka_headers_new(4);
    for (; *headers; headers += 2)
        rd_kafka_header_add(h, headers[0], -1, headers[1], headers[1] ? (ssize_t)strlen(headers[1]) : 0);
    int r = kafka_message_parse(value, value ? strlen(value) : 0, h, scratch, event, err);
    /* its text is borrowed: look at what is the message's own only */
    if (r == 0)
        assert_int_equal(event->attribute[CE_ID].len, 1);
    rd_kafka_headers_destroy(h);
    return r;
}

static void test_messages(void **state)
{
    (void)state;
#define BINARY "ce_source", "u", "CE_type", "t"
    struct cloudevent event;
    struct error err;
    BUFFER_AUTO scratch = BUFFER_INIT;
    static const char plain[] = "{\"id\":\"1\",\"source\":\"u\",\"type\":\"t\"}";
    assert_int_equal(parse(plain, (const char *[]){NULL}, &scratch, &event, &err), 0);
    assert_int_equal(parse(plain, (const char *[]){"Content-Type", "Application/CloudEvents", NULL}, &scratch,
                           &event, &err),
                     0);
    assert_int_equal(
        parse(plain, (const char *[]){"content-type", "application/json", NULL}, &scratch, &event, &err), 0);
    assert_int_equal(parse("x", (const char *[]){BINARY, "ce_id", "1", NULL}, &scratch, &event, &err), 0);
    assert_int_equal(event.data, CE_DATA_TEXT);
    assert_int_equal(parse("\xff", (const char *[]){BINARY, "ce_id", "1", NULL}, &scratch, &event, &err), 0);
    assert_int_equal(event.data, CE_DATA_BASE64);
    assert_int_equal(parse(NULL, (const char *[]){BINARY, "ce_id", "1", NULL}, &scratch, &event, &err), 0);
    assert_int_equal(event.data, CE_DATA_ABSENT);
    assert_int_equal(parse(NULL, (const char *[]){NULL}, &scratch, &event, &err), -1);
    assert_int_equal(parse("x", (const char *[]){BINARY, NULL}, &scratch, &event, &err), -1);
    assert_int_equal(parse("x", (const char *[]){BINARY, "ce_id", NULL, NULL}, &scratch, &event, &err), -1);
    assert_int_equal(parse("x", (const char *[]){BINARY, "ce_id", "\xff", NULL}, &scratch, &event, &err), -1);
    assert_int_equal(
        parse("x", (const char *[]){BINARY, "ce_id", "1", "ce_data", "y", NULL}, &scratch, &event, &err), -1);
    assert_int_equal(
        parse("x", (const char *[]){BINARY, "ce_id", "1", "ce_", "y", NULL}, &scratch, &event, &err), -1);
    assert_int_equal(parse("[]", (const char *[]){"content-type", "application/cloudevents-batch+json", NULL},
                           &scratch, &event, &err),
                     -1);
    assert_non_null(strstr(err.message, "cloudevents-batch"));
}

/* A log that has lost its end, and others in its place; another topic's; and nothing to compare. */
static void test_trail(void **state)
{
    struct kafka_partitions p = {0};
    struct error err;
    (void)state;
    assert_int_equal(kafka_partitions_resize(&p, KAFKA_TRAILS + 1, &err), 0);
    struct kafka_partition *one = &p.list[0];
    assert_false(kafka_partition_retrace(one, 0, 100));
    kafka_partition_begin(one, 3);
    for (int64_t i = 3; i < KAFKA_TRAIL + 10; i++)
        kafka_partition_delivered(one, 0, i, 1000 + i);
    assert_int_equal(one->next, KAFKA_TRAIL + 10);
    assert_false(kafka_partition_retrace(one, 0, 10)); /* it does not go back so far */
    assert_true(kafka_partition_retrace(one, 0, 12));
    assert_int_equal(one->retrace, 10);
    assert_true(kafka_partition_retrace(one, 20, 30));
    assert_int_equal(one->retrace, 20);
    assert_false(kafka_partition_is_traced(one, 20, 7));
    assert_int_equal(one->traced, KAFKA_NO_OFFSET);
    assert_true(kafka_partition_is_traced(one, 20, 1020));
    assert_true(kafka_partition_is_traced(one, 21, 1021));
    assert_false(kafka_partition_is_traced(one, 22, 5000));
    kafka_partition_go_on(one, 22);
    assert_int_equal(one->next, 22);
    assert_int_equal(one->last, 21);
    assert_int_equal(one->timestamp, 1021);
    assert_true(one->retrace < 0);
    assert_false(kafka_partition_retrace(one, 22, KAFKA_TRAIL + 10)); /* what is gone is forgotten */
    kafka_partition_begin(one, 0);
    assert_false(kafka_partition_retrace(one, 0, 100));
    for (int64_t i = 0; i < 3 * KAFKA_TRAIL; i++) /* with gaps, of markers or compaction */
        if (i % 11 != 10)
            kafka_partition_delivered(one, 0, i, 1000 + i);
    assert_true(kafka_partition_retrace(one, 0, 3 * KAFKA_TRAIL - 50));
    for (int64_t i = one->retrace; i < 3 * KAFKA_TRAIL - 50; i++)
        assert_true(i % 11 == 10 || kafka_partition_is_traced(one, i, 1000 + i));
    kafka_partition_delivered(&p.list[KAFKA_TRAILS], KAFKA_TRAILS, 5, 1005); /* too many partitions */
    assert_false(kafka_partition_retrace(&p.list[KAFKA_TRAILS], 0, 100));
    kafka_partitions_done(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trail), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_from),  cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
