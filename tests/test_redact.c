/* Secrets are taken out of documents and URLs, and put back from where they came. */
#include "worker/document/redact.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/document/restore.h"

static struct json_value scan(const char *text)
{
    struct json_value value;
    struct error err;
    if (json_scan(text, strlen(text), &value, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return value;
}

static void test_names(void **state)
{
    (void)state;
    static const char *const secret[] = {
        "password",
        "Password",
        "db_password",
        "api_key",
        "apiKey",
        "X-API-Key",
        "Authorization",
        "Proxy-Authorization",
        "token",
        "access_token",
        "secret",
        "secret_access_key",
        "client-secret",
        "Cookie",
        "Set-Cookie",
        "auth",
        "X-Amz-Security-Token",
        "aws_credentials",
        "pwd",
        "access_key_id",
        "a_name_that_is_so_long_that_only_its_beginning_may_be_looked_at_if_at_all_"
        "and_then_of_a_password_or_something_like_that"};
    static const char *const open[] = {
        "url",        "method",       "key",    "Idempotency-Key", "triggerflowkey",
        "max_tokens", "Content-Type", "author", "subject",         "",
        "keys",       "authority"};
    for (size_t i = 0; i < sizeof secret / sizeof secret[0]; i++)
        if (!redact_is_secret(secret[i], strlen(secret[i])))
            fail_msg("%s", secret[i]);
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++)
        if (redact_is_secret(open[i], strlen(open[i])))
            fail_msg("%s", open[i]);
}

static void test_urls(void **state)
{
    (void)state;
    static const struct {
        const char *url, *shown;
    } rows[] = {
        {"http://h/p", "http://h/p"},
        {"http://u:p@h:80/p?a=b", "http://(redacted)@h:80/p?a=b"},
        {"https://h/p?token=x&a=b&sig=y#f", "https://h/p?token=(redacted)&a=b&sig=(redacted)"},
        {"https://h?key=x", "https://h?key=(redacted)"},
        {"https://h/?code=x;a", "https://h/?code=(redacted);a"},
        {"https://h/#access_token=x", "https://h/#access_token=(redacted)"},
        {"https://h/?a=1#access_token=x", "https://h/?a=1#access_token=(redacted)"},
        {"https://h/?pass%77ord=x&%6bey=y&p%=z", "https://h/?pass%77ord=(redacted)&%6bey=(redacted)&p%=z"},
        {"http://h/a@b?x=@", "http://h/a@b?x=@"},
        {"amqp://user:pass@host", "amqp://(redacted)@host"},
        {"", ""},
        {"nothing", "nothing"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        redact_url(rows[i].url, strlen(rows[i].url), &out);
        assert_string_equal(buffer_text(&out), rows[i].shown);
    }
}

static void test_documents(void **state)
{
    (void)state;
    static const struct {
        const char *json, *shown;
    } rows[] = {
        {"{\"a\":1,\"b\":[true,null,\"x\"]}", "{\"a\":1,\"b\":[true,null,\"x\"]}"},
        {"{\"password\":\"x\",\"n\":{\"api_key\":\"y\",\"pin\":4}}",
         "{\"password\":\"(redacted)\",\"n\":{\"api_key\":\"(redacted)\",\"pin\":4}}"},
        {"{\"token\":[\"x\",{\"y\":\"z\",\"t\":true,\"n\":null}]}",
         "{\"token\":[\"(redacted)\",{\"y\":\"(redacted)\",\"t\":true,\"n\":null}]}"},
        {"{\"password\":{\"file\":\"name\"},\"token\":{\"env\":\"E\"},\"secret\":{\"global\":\"a.b\"}}",
         "{\"password\":{\"file\":\"name\"},\"token\":{\"env\":\"E\"},\"secret\":{\"global\":\"a.b\"}}"},
        {"{\"password\":{\"file\":\"name\",\"more\":\"x\"}}",
         "{\"password\":{\"file\":\"(redacted)\",\"more\":\"(redacted)\"}}"},
        {"[\"http://u:p@h/?a=1\",\"see http://u:p@h/ there\"]",
         "[\"http://(redacted)@h/?a=1\",\"see http://(redacted)@h/ there\"]"},
        {"{\"event\":{\"data\":{\"token\":\"t\"}},\"data\":{\"token\":\"t\"}}",
         "{\"event\":{\"data\":{\"token\":\"t\"}},\"data\":{\"token\":\"(redacted)\"}}"},
        {"{\"pass\\u0077ord\":\"x\",\"\\u0061pi_key\":[7],\"\\u0061\":\"y\"}",
         "{\"pass\\u0077ord\":\"(redacted)\",\"\\u0061pi_key\":[\"(redacted)\"],\"\\u0061\":\"y\"}"},
        {"\"\\u0000http\"", "\"\\u0000http\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct json_value value = scan(rows[i].json);
        BUFFER_AUTO out = BUFFER_INIT;
        redact_json(&value, "event", &out);
        assert_string_equal(buffer_text(&out), rows[i].shown);
    }
}

static int put_back(const char *redacted, const char *trigger, const char *global, struct buffer *out,
                    struct error *err)
{
    struct json_value value = scan(redacted);
    struct json_value from[2] = {scan(trigger), scan(global)};
    assert_true(restore_is_needed(&value));
    return restore_secrets(&value, from, 2, out, err);
}

static void test_put_back(void **state)
{
    (void)state;
    static const char trigger[] = "{\"action\":{\"name\":\"X\",\"url\":\"http://u:p@h/?token=t&a=1\"},"
                                  "\"context\":{\"operator\":{\"api_key\":\"user:pass\",\"list\":[{"
                                  "\"password\":\"w\"}],\"pin_token\":7}}}";
    static const char global[] =
        "{\"aws_credentials\":{\"secret_access_key\":\"s\"},\"copy\":{\"api_key\":\"user:pass\"}}";
    static const struct {
        const char *redacted, *whole;
    } rows[] = {
        {"{\"body\":{\"api_key\":\"(redacted)\",\"x\":1}}", "{\"body\":{\"api_key\":\"user:pass\",\"x\":1}}"},
        {"{\"body\":{\"ap\\u0069_key\":\"(redacted)\"}}", "{\"body\":{\"ap\\u0069_key\":\"user:pass\"}}"},
        {"{\"url\":\"http://(redacted)@h/?token=(redacted)&a=1\"}",
         "{\"url\":\"http://u:p@h/?token=t&a=1\"}"},
        {"[{\"password\":\"(redacted)\"},{\"secret_access_key\":\"(redacted)\"},{\"pin_token\":\"(redacted)"
         "\"}]",
         "[{\"password\":\"w\"},{\"secret_access_key\":\"s\"},{\"pin_token\":7}]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        struct error err;
        if (put_back(rows[i].redacted, trigger, global, &out, &err) < 0)
            fail_msg("%s", err.message);
        assert_string_equal(buffer_text(&out), rows[i].whole);
    }
}

static void test_cannot_put_back(void **state)
{
    (void)state;
    static const struct {
        const char *redacted, *trigger, *message;
    } rows[] = {
        {"{\"password\":\"(redacted)\"}", "{\"other\":\"x\"}", "the secret in password was not kept"},
        {"{\"password\":\"(redacted)\"}", "{\"a\":{\"password\":\"x\"},\"b\":{\"password\":\"y\"}}",
         "the secret in password was not kept, and is to be found more than once"},
        {"{\"password\":\"(redacted)\"}", "{\"password\":\"(redacted)\"}",
         "the secret in password was not kept"},
        {"{\"url\":\"http://h/?token=(redacted)\"}", "{\"url\":\"http://other/?token=x\"}",
         "the secret in url"},
        {"\"(redacted)\"", "{\"password\":\"x\"}", "the secret in "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        struct error err;
        assert_int_equal(put_back(rows[i].redacted, rows[i].trigger, "{}", &out, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_memory_equal(err.message, rows[i].message, strlen(rows[i].message));
    }
    struct json_value open = scan("{\"a\":[1,\"x\"]}");
    assert_false(restore_is_needed(&open));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),           cmocka_unit_test(test_urls),
        cmocka_unit_test(test_documents),       cmocka_unit_test(test_put_back),
        cmocka_unit_test(test_cannot_put_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
