/* Parameters of a RabbitMQEventSource: the URL in all its parts, and refusals that never show it. */
#include "worker/source/rabbitmq_parameters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/json.h"

static int read(const char *json, struct rabbitmq_parameters *p, struct error *err)
{
    struct json_value value;
    assert_int_equal(json_scan(json, strlen(json), &value, NULL), 0);
    return rabbitmq_parameters_read(&value, p, err);
}

static int read_url(const char *url, struct rabbitmq_parameters *p, struct error *err)
{
    char json[512];
    snprintf(json, sizeof json, "{\"amqp_url\":\"%s\",\"queue\":\"q\"}", url);
    return read(json, p, err);
}

static void test_urls(void **state)
{
    static const struct {
        const char *url, *user, *password, *host, *vhost;
        int port, heartbeat;
        bool tls;
    } good[] = {
        {"amqp://", "guest", "guest", "localhost", "/", 5672, -1, false},
        {"amqp://h", "guest", "guest", "h", "/", 5672, -1, false},
        {"amqp://h/", "guest", "guest", "h", "/", 5672, -1, false},
        {"amqp://h:5/%2F", "guest", "guest", "h", "/", 5, -1, false},
        {"amqps://h/v", "guest", "guest", "h", "v", 5671, -1, true},
        {"amqp://u@h:", "u", "guest", "h", "/", 5672, -1, false},
        {"amqp://u:@h", "u", "", "h", "/", 5672, -1, false},
        {"amqp://u:p%40%3a%2f%25@h:1/a%2Fb%20c", "u", "p@:/%", "h", "a/b c", 1, -1, false},
        {"amqp://u:p@q@h", "u", "p@q", "h", "/", 5672, -1, false},
        {"amqp://[::1]:7/x", "guest", "guest", "::1", "x", 7, -1, false},
        {"amqp://[::1]", "guest", "guest", "::1", "/", 5672, -1, false},
        {"amqp://h?heartbeat=0", "guest", "guest", "h", "/", 5672, 0, false},
        {"amqp://h/v?heartbeat=60&socket_timeout=3&", "guest", "guest", "h", "v", 5672, 60, false},
        {"amqp://\\u00e9/\\u00e9", "guest", "guest", "\xc3\xa9", "\xc3\xa9", 5672, -1, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct rabbitmq_parameters p;
        struct error err;
        if (read_url(good[i].url, &p, &err) < 0)
            fail_msg("%s: %s", good[i].url, err.message);
        assert_string_equal(p.user, good[i].user);
        assert_string_equal(p.password, good[i].password);
        assert_string_equal(p.host, good[i].host);
        assert_string_equal(p.vhost, good[i].vhost);
        assert_int_equal(p.port, good[i].port);
        assert_int_equal(p.heartbeat, good[i].heartbeat);
        assert_int_equal(p.tls, good[i].tls);
        rabbitmq_parameters_done(&p);
    }
}

static void test_bad_urls(void **state)
{
    static const char *const bad[] = {"",
                                      "http://secret",
                                      "AMQP://secret",
                                      "amqp:/secret",
                                      "amqp://u:secret@h:0",
                                      "amqp://u:secret@h:65536",
                                      "amqp://u:secret@h:99999999999",
                                      "amqp://u:secret@h:x",
                                      "amqp://u:secret@[::1",
                                      "amqp://u:secret@[::1]x",
                                      "amqp://u:secret@h/a/b",
                                      "amqp://u:secret@h/%",
                                      "amqp://u:secret@h/%2",
                                      "amqp://u:secret@h/%zz",
                                      "amqp://u:secret@h/%00",
                                      "amqp://u:secret%@h",
                                      "amqp://u:secret@h#x",
                                      "amqp://u:secret@h?secret=1",
                                      "amqp://u:secret@h?heartbeat",
                                      "amqp://u:secret@h?heartbeat=",
                                      "amqp://u:secret@h?heartbeat=-1",
                                      "amqp://u:secret@h?heartbeat=65536"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rabbitmq_parameters p;
        struct error err;
        if (read_url(bad[i], &p, &err) == 0)
            fail_msg("%s was taken", bad[i]);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_non_null(strstr(err.message, "amqp_url"));
        assert_null(strstr(err.message, "secret"));
    }
}

static void test_all(void **state)
{
    struct rabbitmq_parameters p;
    struct error err;
    (void)state;
    assert_int_equal(read("{\"amqp_url\":\"amqps://h\",\"queue\":\"q\",\"tls_ca\":\"a\",\"tls_cert\":\"b\","
                          "\"tls_key\":\"c\",\"tls_verify\":false,\"prefetch\":7}",
                          &p, &err),
                     0);
    assert_string_equal(p.queue, "q");
    assert_string_equal(p.tls_ca, "a");
    assert_string_equal(p.tls_cert, "b");
    assert_string_equal(p.tls_key, "c");
    assert_false(p.tls_verify);
    assert_int_equal(p.prefetch, 7);
    rabbitmq_parameters_done(&p);
    rabbitmq_parameters_done(&p);
    assert_int_equal(read("{\"amqp_url\":\"amqps://h\",\"queue\":\"q\",\"tls_ca\":null}", &p, &err), 0);
    assert_string_equal(p.tls_ca, "");
    assert_true(p.tls_verify);
    assert_int_equal(p.prefetch, 1000);
    rabbitmq_parameters_done(&p);
}

static void test_refused(void **state)
{
    static const struct {
        const char *json, *named;
    } bad[] = {
        {"{\"queue\":\"q\"}", "amqp_url is missing"},
        {"{\"amqp_url\":[\"hush\"],\"queue\":\"q\"}", "amqp_url is not a string"},
        {"{\"amqp_url\":\"amqp://u:hush\\u0000@h\",\"queue\":\"q\"}", "amqp_url is not free of NUL"},
        {"{\"amqp_url\":\"amqp://h\"}", "queue is missing"},
        {"{\"amqp_url\":\"amqp://h\",\"queue\":\"\"}", "queue is empty"},
        {"{\"amqp_url\":\"amqp://h\",\"queue\":{}}", "queue is {}"},
        {"{\"amqp_url\":\"amqp://h\",\"queue\":\"q\",\"tls_ca\":\"f\"}", "tls_ca needs"},
        {"{\"amqp_url\":\"amqps://h\",\"queue\":\"q\",\"tls_cert\":\"f\"}", "tls_key is missing"},
        {"{\"amqp_url\":\"amqps://h\",\"queue\":\"q\",\"tls_key\":\"f\"}", "tls_cert is missing"},
        {"{\"amqp_url\":\"amqps://h\",\"queue\":\"q\",\"tls_verify\":\"no\"}", "tls_verify is \"no\""},
        {"{\"amqp_url\":\"amqp://h\",\"queue\":\"q\",\"prefetch\":0}", "prefetch is 0"},
        {"{\"amqp_url\":\"amqp://h\",\"queue\":\"q\",\"prefetch\":65536}", "prefetch is 65536"},
        {"{\"amqp_url\":\"amqp://h\",\"queue\":\"q\",\"prefetch\":\"9x\"}", "prefetch is \"9x\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rabbitmq_parameters p;
        struct error err;
        assert_int_equal(read(bad[i].json, &p, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        if (!strstr(err.message, bad[i].named))
            fail_msg("%s: %s", bad[i].json, err.message);
        assert_null(strstr(err.message, "hush"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_bad_urls),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
