/* The parameters of an SQSEventSource: names, URLs and ARNs of queues, regions, and no secret in any message.
 */
#include "worker/source/sqs_parameters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

static int read_text(const char *text, struct sqs_parameters *ret, struct error *err)
{
    struct json_value json;
    if (json_scan(text, strlen(text), &json, err) < 0)
        fail_msg("%s: %s", text, err->message);
    return sqs_parameters_read(&json, ret, err);
}

static struct sqs_parameters good(const char *text)
{
    struct sqs_parameters p;
    struct error err;
    if (read_text(text, &p, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return p;
}

static void test_of_the_original(void **state)
{
    (void)state;
    struct sqs_parameters p =
        good("{\"access_key_id\":\"a\",\"secret_access_key\":\"s\",\"region\":\"eu-west-1\","
             "\"queue\":\"my_queue-1\",\"session_token\":null}");
    assert_string_equal(p.access_key_id, "a");
    assert_string_equal(p.secret_access_key, "s");
    assert_null(p.session_token);
    assert_string_equal(p.region, "eu-west-1");
    assert_string_equal(p.queue, "my_queue-1");
    assert_null(p.url);
    assert_null(p.endpoint);
    assert_false(p.fifo);
    assert_int_equal(p.receives, 8);
    assert_int_equal(p.wait_seconds, 20);
    assert_int_equal(p.visibility_timeout, 0);
    sqs_parameters_done(&p);
}

static void test_arn(void **state)
{
    (void)state;
    struct sqs_parameters p = good("{\"queue\":\"arn:aws:sqs:us-east-2:123456789012:q.fifo\"}");
    assert_string_equal(p.queue, "q.fifo");
    assert_string_equal(p.account, "123456789012");
    assert_string_equal(p.region, "us-east-2");
    assert_true(p.fifo);
    sqs_parameters_done(&p);
}

static void test_url(void **state)
{
    (void)state;
    struct sqs_parameters p = good("{\"queue\":\"https://sqs.eu-north-1.amazonaws.com/1234/q\"}");
    assert_string_equal(p.queue, "q");
    assert_string_equal(p.region, "eu-north-1");
    assert_string_equal(p.endpoint, "https://sqs.eu-north-1.amazonaws.com");
    assert_string_equal(p.url, "https://sqs.eu-north-1.amazonaws.com/1234/q");
    sqs_parameters_done(&p);
    p = good("{\"queue\":\"http://localhost:9324/0/q\",\"region\":\"r\",\"endpoint\":\"http://elsewhere\"}");
    assert_string_equal(p.endpoint, "http://elsewhere");
    assert_string_equal(p.region, "r");
    sqs_parameters_done(&p);
}

static void test_region_of_the_environment(void **state)
{
    struct sqs_parameters p;
    struct error err;
    (void)state;
    unsetenv("AWS_REGION");
    unsetenv("AWS_DEFAULT_REGION");
    assert_int_equal(read_text("{\"queue\":\"q\"}", &p, &err), -1);
    setenv("AWS_DEFAULT_REGION", "ap-south-1", 1);
    p = good("{\"queue\":\"q\"}");
    assert_string_equal(p.region, "ap-south-1");
    sqs_parameters_done(&p);
    unsetenv("AWS_DEFAULT_REGION");
}

static void test_refused(void **state)
{
    static const char *const texts[] = {
        "{}",
        "{\"region\":\"r\"}",
        "{\"queue\":\"\",\"region\":\"r\"}",
        "{\"queue\":[5],\"region\":\"r\"}",
        "{\"queue\":\"a b\",\"region\":\"r\"}",
        "{\"queue\":\".fifo\",\"region\":\"r\"}",
        "{\"queue\":\"arn:aws:sns:r:1:q\"}",
        "{\"queue\":\"arn:aws:sqs:r:1\"}",
        "{\"queue\":\"arn:aws:sqs:::q\"}",
        "{\"queue\":\"https://host\",\"region\":\"r\"}",
        "{\"queue\":\"https://user:word@host/1/q\",\"region\":\"r\"}",
        "{\"queue\":\"https://user:word@host/1/q\\n\",\"region\":\"r\"}",
        "{\"queue\":\"q\",\"region\":\"eu west\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"endpoint\":\"ftp://h\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"endpoint\":\"http://u:the-secret@h\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"endpoint\":\"http://h:99999\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"endpoint\":\"http://h:port\"}",
        "{\"queue\":\"http://h:99999/1/q\",\"region\":\"r\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"receives\":0}",
        "{\"queue\":\"q\",\"region\":\"r\",\"receives\":33}",
        "{\"queue\":\"q\",\"region\":\"r\",\"wait_seconds\":21}",
        "{\"queue\":\"q\",\"region\":\"r\",\"visibility_timeout\":50000}",
        "{\"queue\":\"q\",\"region\":\"r\",\"access_key_id\":\"a\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"secret_access_key\":\"the-secret\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"session_token\":\"the-secret\"}",
        "{\"queue\":\"q\",\"region\":\"r\",\"access_key_id\":\"a\",\"secret_access_key\":[\"the-secret\"]}",
        "{\"queue\":\"q\",\"region\":\"r\",\"access_key_id\":\"a\",\"secret_access_key\":\"the-secret\\n\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct sqs_parameters p;
        struct error err;
        if (read_text(texts[i], &p, &err) == 0)
            fail_msg("taken: %s", texts[i]);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_null(strstr(err.message, "the-secret"));
        assert_null(strstr(err.message, "word"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_the_original),
        cmocka_unit_test(test_arn),
        cmocka_unit_test(test_url),
        cmocka_unit_test(test_region_of_the_environment),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
