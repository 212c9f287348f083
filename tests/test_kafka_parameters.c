/* Parameters of a KafkaEventSource: spellings of the original client, properties that librdkafka takes and
 * those that are refused, and refusals that never show a secret. */
#include "worker/source/kafka_parameters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/json.h"
#include "worker/source/kafka_log.h"

static int read(const char *json, struct kafka_parameters *p, struct error *err)
{
    struct json_value value;
    assert_int_equal(json_scan(json, strlen(json), &value, NULL), 0);
    return kafka_parameters_read(&value, p, err);
}

static void assert_setting(rd_kafka_conf_t *conf, const char *name, const char *expected)
{
    char value[256] = "";
    size_t size = sizeof value;
    assert_int_equal(rd_kafka_conf_get(conf, name, value, &size), RD_KAFKA_CONF_OK);
    assert_string_equal(value, expected);
}

static void test_defaults(void **state)
{
    (void)state;
    struct kafka_parameters p;
    struct error err;
    rd_kafka_conf_t *conf;
    assert_int_equal(read("{\"broker_list\":[\"a:1\",\"[::1]:2, "
                          "c,\"],\"topic\":\"t\",\"auth_mode\":\"NONE\",\"username\":null}",
                          &p, &err),
                     0);
    assert_string_equal(p.broker_list, "a:1,[::1]:2,c");
    assert_int_equal(kafka_parameters_consumer(&p, "c", "g", &conf, &err), 0);
    assert_setting(conf, "security.protocol", "plaintext");
    assert_setting(conf, "enable.auto.commit", "false");
    assert_setting(conf, "isolation.level", "read_committed");
    assert_setting(conf, "group.id", "g");
    rd_kafka_conf_destroy(conf);
    assert_int_equal(kafka_parameters_producer(&p, "c", 2000000, &conf, &err), 0);
    assert_setting(conf, "enable.idempotence", "true");
    assert_setting(conf, "message.max.bytes", "2065536");
    rd_kafka_conf_destroy(conf);
    kafka_parameters_done(&p);
    kafka_parameters_done(&p);
}

static void test_secured(void **state)
{
    (void)state;
    struct kafka_parameters p;
    struct error err;
    rd_kafka_conf_t *conf;
    assert_int_equal(
        read("{\"broker_list\":\"a:1\",\"topic\":\"t\",\"auth_mode\":\"SASL_PLAINTEXT\",\"username\":\"u\","
             "\"password\":123456,\"properties\":{\"socket.timeout.ms\":5000,\"compression.type\":\"lz4\"}}",
             &p, &err),
        0);
    assert_int_equal(kafka_parameters_consumer(&p, "c", "g", &conf, &err), 0);
    assert_setting(conf, "security.protocol", "sasl_ssl");
    assert_setting(conf, "sasl.mechanisms", "PLAIN");
    assert_setting(conf, "sasl.password", "123456");
    assert_setting(conf, "socket.timeout.ms", "5000");
    rd_kafka_conf_destroy(conf);
    kafka_parameters_done(&p);
}

static void test_refused(void **state)
{
    (void)state;
#define GOOD "\"broker_list\":[\"a:1\"],\"topic\":\"t\""
    static const char *const cases[][2] = {
        {"{\"topic\":\"t\"}", "broker_list is missing"},
        {"{\"broker_list\":[],\"topic\":\"t\"}", "broker_list is empty"},
        {"{\"broker_list\":[1],\"topic\":\"t\"}", "broker_list is 1"},
        {"{\"broker_list\":{},\"topic\":\"t\"}", "broker_list is {}"},
        {"{\"broker_list\":[\"a:1\"]}", "topic is missing"},
        {"{\"broker_list\":[\"a:1\"],\"topic\":\"a b\"}", "topic is \"a b\""},
        {"{\"broker_list\":[\"a:1\"],\"topic\":\"..\"}", "topic is \"..\""},
        {"{\"broker_list\":\",\",\"topic\":\"t\"}", "broker_list is empty"},
        {"{\"broker_list\":[\"a:1\",\"b:99999\"],\"topic\":\"t\"}", "\"b:99999\" is not host:port"},
        {"{\"broker_list\":[\"a:0\"],\"topic\":\"t\"}", "\"a:0\" is not host:port"},
        {"{\"broker_list\":[\"a:\"],\"topic\":\"t\"}", "\"a:\" is not host:port"},
        {"{\"broker_list\":[\":1\"],\"topic\":\"t\"}", "\":1\" is not host:port"},
        {"{\"broker_list\":\"http://a:1\",\"topic\":\"t\"}", "\"http://a:1\" is not host:port"},
        {"{\"broker_list\":[\"[::1\"],\"topic\":\"t\"}", "\"[::1\" is not host:port"},
        {"{" GOOD ",\"auth_mode\":\"X\"}", "auth_mode is \"X\""},
        {"{" GOOD ",\"auth_mode\":\"PLAIN\"}", "username is missing"},
        {"{" GOOD ",\"tls\":1}", "tls is 1"},
        {"{" GOOD ",\"tls_ca\":\"x\"}", "tls_ca is given without tls"},
        {"{" GOOD ",\"tls\":true,\"tls_cert\":\"x\"}", "tls_key is missing"},
        {"{" GOOD ",\"tls\":true,\"tls_key\":\"x\"}", "tls_cert is missing"},
        {"{" GOOD ",\"password\":{\"hush\":1}}", "password is not a string"},
        {"{" GOOD ",\"properties\":[\"ssl.key.password=hush\"]}", "properties is not an object"},
        {"{" GOOD ",\"properties\":{\"no.such\":1}}", "no.such"},
        {"{" GOOD ",\"properties\":{\"socket.timeout.ms\":\"soon\"}}", "socket.timeout.ms is soon: "},
        {"{" GOOD ",\"properties\":{\"sasl.pasword\":\"hush\"}}", "librdkafka has no \"sasl.pasword\""},
        {"{" GOOD ",\"properties\":{\"ssl.key.password\":\"\"},\"tls\":true,\"auth_mode\":\"PLAIN\","
         "\"username\":\"u\"}",
         "password is missing"},
        {"{" GOOD ",\"properties\":{\"socket.timeout.ms\":[]}}", "socket.timeout.ms is []"},
        {"{" GOOD ",\"properties\":{\"GROUP.ID\":\"x\"}}", "GROUP.ID cannot be set"},
        {"{" GOOD ",\"properties\":{\"isolation.level\":\"read_uncommitted\"}}",
         "isolation.level cannot be set"},
        {"{" GOOD ",\"properties\":{\"acks\":1}}", "acks cannot be set"},
        {"{" GOOD ",\"properties\":{\"plugin.library.paths\":\"/x.so\"}}", "loads or runs code"},
        {"{" GOOD ",\"properties\":{\"log_cb\":\"x\"}}", "log_cb cannot be set"},
        {"{" GOOD ",\"properties\":{\"sasl.password\":\"hush\"}}", "parameter of its own"},
        {"{" GOOD ",\"properties\":{\"ssl.key.password\":{\"hush\":1}}}",
         "ssl.key.password is something, not a text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kafka_parameters p;
        struct error err;
        assert_int_equal(read(cases[i][0], &p, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        if (!strstr(err.message, cases[i][1]) || strstr(err.message, "hush"))
            fail_msg("%s: %s", cases[i][0], err.message);
    }
}

/* What differs each time is left out, so that the same trouble is the same text. */
static void test_reason(void **state)
{
    (void)state;
    char text[40];
    kafka_reason(text, sizeof text,
                 "h:1/bootstrap: refused (after 3ms in state CONNECT, 4 identical error(s) suppressed)");
    assert_string_equal(text, "h:1/bootstrap: refused");
    kafka_reason(text, sizeof text, "1/1 brokers are down");
    assert_string_equal(text, "1/1 brokers are down");
    kafka_reason(text, sizeof text, "longer than there is room for in the text that it is copied to");
    assert_int_equal(strlen(text), sizeof text - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_secured),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
