/* HTTP_INVOKE: which documents are taken and refused, and the request that firing makes of an event. What is
 * sent is in integration/test_invoke.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/check.h"
#include "worker/trial.h"

static int check(const char *members, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct json_value trigger;
    buffer_printf(&text,
                  "{\"id\":\"t\",\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"HTTP_INVOKE\"%s},"
                  "\"context\":{},\"activation_events\":[{\"type\":\"go\"}]}",
                  members);
    if (json_scan(text.data, text.len, &trigger, err) < 0)
        fail_msg("%s: %s", members, err->message);
    return check_trigger(&trigger, err);
}

static void test_taken(void **state)
{
    (void)state;
    static const char *const documents[] = {
        ",\"url\":\"http://h/\"",
        ",\"url\":\"${context.url}/x\"",
        ",\"url\":\"https://h/\",\"method\":\"PUT\",\"mode\":\"raw\",\"body\":{\"a\":\"${event.data}\"}",
        ",\"url\":\"https://h/\",\"mode\":\"structured\",\"reply\":\"ignore\",\"subject\":\"s\"",
        ",\"url\":\"https://h/"
        "\",\"reply\":\"event\",\"reply_type\":\"t\",\"reply_subject\":\"${event.subject}\"",
        ",\"url\":\"https://h/\",\"headers\":{\"X-A\":\"${key}\",\"X-B\":{\"env\":\"TRIGGERFLOW_SECRET_B\"}}",
        ",\"url\":\"https://h/\",\"auth\":{\"basic\":{\"user\":\"u\",\"password\":{\"file\":\"p\"}}}",
        ",\"url\":\"https://h/\",\"auth\":{\"bearer\":{\"global\":\"token\"}}",
        ",\"url\":\"https://h/"
        "\",\"auth\":{\"aws_sigv4\":{\"region\":\"r\",\"service\":\"s\",\"access_key_id\":{"
        "\"env\":\"I\"},\"secret_access_key\":{\"file\":\"k\"},\"session_token\":{\"file\":\"t\"}}}",
        ",\"url\":\"https://h/"
        "\",\"timeout_s\":1,\"retries\":2,\"backoff_s\":0.1,\"max_in_flight\":3,\"rate\":4,"
        "\"on_uncertain\":\"dead_letter\"",
        ",\"url\":\"https://h/\",\"method\":null,\"auth\":null,\"headers\":null,\"timeout_s\":null",
    };
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        struct error err;
        if (check(documents[i], &err) < 0)
            fail_msg("%s: %s", documents[i], err.message);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *members, *message; /* its part */
    } rows[] = {
        {"", "action HTTP_INVOKE: url is missing"},
        {",\"url\":7", "url is 7, not a text"},
        {",\"url\":\"\"", "url is \"\", not a URL"},
        {",\"url\":\"ftp://h/\"", "url is ftp://h/, not a URL of http or https"},
        {",\"url\":\"u:hush@h\"", "url: the URL (8 bytes) is not one of http or https"},
        {",\"url\":\"ftp://u:hush@h/?token=hush\"",
         "url is ftp://(redacted)@h/?token=(redacted), not a URL of http or https"},
        {",\"url\":\"http://h/${\"", "url: ${ without }"},
        {",\"url\":\"http://h/${x}\"", "${x}: begins with none of"},
        {",\"url\":\"http://h/\",\"method\":\"G T\"", "method is \"G T\", not a method of HTTP in capitals"},
        {",\"url\":\"http://h/\",\"method\":\"post\"",
         "method is \"post\", not a method of HTTP in capitals"},
        {",\"url\":\"http://h/\",\"headers\":{\"A\":\"x\\r\\nB: y\"}", "header A holds control characters"},
        {",\"url\":\"http://h/\",\"auth\":{\"basic\":{\"user\":7,\"password\":{\"env\":\"P\"}}}",
         "auth.basic.user: is a number, neither a text nor a secret"},
        {",\"url\":\"http://h/\",\"auth\":{\"aws_sigv4\":{\"region\":\"\"}}",
         "auth.aws_sigv4.region is empty"},
        {",\"url\":\"http://h/\",\"auth\":{\"bearer\":{\"file\":\"../x\"}}",
         "auth.bearer: secret file ../x: not a name"},
        {",\"url\":\"http://h/\",\"reply\":\"event\",\"reply_type\":\"\"", "reply_type is empty"},
        {",\"url\":\"http://h/\",\"mode\":\"batch\"", "mode is \"batch\", not binary, structured or raw"},
        {",\"url\":\"http://h/\",\"mode\":3", "mode is 3, not binary, structured or raw"},
        {",\"url\":\"http://h/\",\"headers\":[]", "headers is an array, not an object"},
        {",\"url\":\"http://h/\",\"auth\":\"Bearer hush\"", "auth is a string, not an object"},
        {",\"url\":\"http://h/\",\"headers\":{\"a b\":\"\"}", "headers: a b is no name of a header"},
        {",\"url\":\"http://h/\",\"headers\":{\"A\":7}",
         "headers.A: is a number, neither a text nor a secret"},
        {",\"url\":\"http://h/\",\"headers\":{\"A\":{\"x\":\"y\"}}", "headers.A: is not one of {"},
        {",\"url\":\"http://h/\",\"body\":[\"${event.}\"]", "body: ${event.}: is not a path"},
        {",\"url\":\"http://h/\",\"reply\":\"yes\"", "reply is \"yes\", not ignore or event"},
        {",\"url\":\"http://h/\",\"reply_type\":\"x\"", "reply_type and reply_subject need reply: event"},
        {",\"url\":\"http://h/\",\"auth\":{}", "auth holds not exactly one of"},
        {",\"url\":\"http://h/\",\"auth\":{\"digest\":{}}", "auth holds not exactly one of"},
        {",\"url\":\"http://h/\",\"auth\":{\"basic\":{},\"bearer\":{}}", "auth holds not exactly one of"},
        {",\"url\":\"http://h/\",\"auth\":{\"basic\":{\"user\":\"u\"}}", "auth.basic.password is missing"},
        {",\"url\":\"http://h/\",\"auth\":{\"basic\":7}", "auth.basic is not an object"},
        {",\"url\":\"http://h/\",\"auth\":{\"basic\":{\"user\":\"u\",\"password\":\"hush\"}}",
         "auth.basic.password: is a string, not {"},
        {",\"url\":\"http://h/\",\"auth\":{\"basic\":{\"user\":\"u\",\"password\":{\"env\":\"P\"},\"x\":1}}",
         "auth.basic: unknown member x"},
        {",\"url\":\"http://h/\",\"auth\":{\"bearer\":\"hush\"}", "auth.bearer: is a string, not {"},
        {",\"url\":\"http://h/\",\"auth\":{\"aws_sigv4\":{\"region\":\"r\"}}",
         "auth.aws_sigv4.service is missing"},
        {",\"url\":\"http://h/\",\"rate\":0", "rate is 0, not"},
        {",\"url\":\"http://h/\",\"retry\":1", "unknown parameter retry"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct error err;
        if (check(rows[i].members, &err) == 0)
            fail_msg("%s was taken", rows[i].members);
        assert_int_equal(err.code, ERROR_INVALID);
        if (!strstr(err.message, rows[i].message))
            fail_msg("%s: %s", rows[i].members, err.message);
        assert_null(strstr(err.message, "hush"));
    }
}

/* What firing on an event makes: the one effect, or the error. */
static void fire(const char *members, const char *context, const char *event, struct buffer *out)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct json_value request;
    struct error err;
    buffer_printf(
        &text,
        "{\"workspace\":\"w\",\"creation\":\"1.5\",\"trigger\":{\"id\":\"t\",\"condition\":{\"name\":"
        "\"TRUE\"},"
        "\"action\":{\"name\":\"HTTP_INVOKE\"%s},\"context\":%s,\"activation_events\":[{\"type\":\"go\","
        "\"subject\":\"*\"}]},\"global_context\":{\"g\":{\"h\":[5]}},\"event\":{\"specversion\":\"1.0\","
        "\"id\":\"i\",\"source\":\"urn:s\","
        "\"type\":\"go\",\"subject\":\"a \\u00e9\"%s}}",
        members, context, event);
    if (json_scan(text.data, text.len, &request, &err) < 0 || trial_run(&request, out, &err) < 0)
        fail_msg("%s", err.message);
}

static void test_intents(void **state)
{
    (void)state;
    static const struct {
        const char *members, *context, *event, *parts[6];
    } rows[] = {
        {",\"url\":\"http://h/\"",
         "{}",
         ",\"data\":{\"a\":1}",
         {"\"url\":\"http://h/\",\"method\":\"POST\"", "\"ce-id\":\"i\"", "\"ce-subject\":\"a%20%C3%A9\"",
          "\"content_type\":\"application/json\",\"json\":{\"a\":1}", "\"subject\":\"t\"", "\"policy\":{}"}},
        {",\"url\":\"http://h/${event.subject}\",\"headers\":{\"X\":\"${workspace}\"}",
         "{\"subject\":\"task\"}",
         ",\"datacontenttype\":\"text/plain\",\"data\":\"x\\\\y\\\"\",\"ext\":\"q\\\"\\\\\"",
         {"\"url\":\"http://h/a%20%C3%A9\"", "\"headers\":{\"X\":\"w\",\"ce-specversion\"",
          "\"ce-ext\":\"q%22\\\\\"", "\"content_type\":\"text/plain\",\"text\":\"x\\\\y\\\"\"",
          "\"subject\":\"task\""}},
        {",\"url\":\"http://h/\"", "{}", ",\"data_base64\":\"AAE=\"", {"\"base64\":\"AAE=\""}},
        {",\"url\":\"http://h/\"", "{}", "", {"\"ce-source\":\"urn:s\"", "\"},\"subject\":\"t\""}},
        {",\"url\":\"http://h/\",\"mode\":\"structured\",\"body\":{\"n\":\"${event.data.n}\"}",
         "{}",
         ",\"data\":{\"n\":[7]}",
         {"\"headers\":{}", "\"content_type\":\"application/cloudevents+json; charset=utf-8\"",
          "\"json\":{\"specversion\":\"1.0\",\"id\":\"i\"", "\"data\":{\"n\":[7]}"}},
        {",\"url\":\"http://h/\",\"mode\":\"raw\",\"body\":\"n=${event.data}\"",
         "{}",
         ",\"data\":7",
         {"\"headers\":{}", "\"content_type\":\"text/plain; charset=utf-8\",\"text\":\"n=7\""}},
        {",\"url\":\"http://h/\",\"mode\":\"raw\",\"body\":{\"password\":\"hush\",\"x\":\"${context}\"}",
         "{\"c\":[]}",
         "",
         {"\"content_type\":\"application/json\",\"json\":{\"password\":\"(redacted)\",\"x\":{\"c\":[]}}"}},
        {",\"url\":\"http://h/\",\"mode\":\"raw\",\"method\":\"DELETE\"",
         "{}",
         "",
         {"\"method\":\"DELETE\",\"headers\":{},\"subject\""}},
        {",\"url\":\"http://h/\",\"reply\":\"event\"",
         "{}",
         "",
         {"\"reply\":{\"type\":\"event.triggerflow.termination.success\",\"subject\":\"t\"}"}},
        {",\"url\":\"http://h/"
         "\",\"subject\":\"${event.subject}\",\"reply\":\"event\",\"reply_type\":\"${event.type}!\"",
         "{}",
         "",
         {"\"reply\":{\"type\":\"go!\",\"subject\":\"a \xc3\xa9\"}"}},
        {",\"url\":\"http://h/${global.g.h[0]}\"", "{}", "", {"\"url\":\"http://h/5\""}},
        {",\"url\":\"http://h/\",\"retries\":0,\"auth\":{\"bearer\":{\"file\":\"f\"}}",
         "{}",
         "",
         {"\"auth\":{\"bearer\":{\"file\":\"f\"}}", "\"policy\":{\"retries\":0}"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        fire(rows[i].members, rows[i].context, rows[i].event, &out);
        for (size_t p = 0; p < 6 && rows[i].parts[p]; p++)
            if (!strstr(buffer_text(&out), rows[i].parts[p]))
                fail_msg("no %s in %s", rows[i].parts[p], buffer_text(&out));
        assert_null(strstr(buffer_text(&out), "hush"));
    }
}

static void test_cannot_fire(void **state)
{
    (void)state;
    static const struct {
        const char *members, *message;
    } rows[] = {
        {",\"url\":\"${event.data.url}\"", "url: ${event.data.url}: leads"},
        {",\"url\":\"${event.subject}\"", "is not one of http or https"},
        {",\"url\":\"http://h/\",\"headers\":{\"X\":\"${context.none}\"}",
         "headers: ${context.none}: leads to nothing"},
        {",\"url\":\"http://h/\",\"mode\":\"raw\",\"body\":\"${global.none}\"",
         "body: ${global.none}: leads to nothing"},
        {",\"url\":\"http://h/\",\"subject\":\"${event.time}\"", "subject: ${event.time}: leads to nothing"},
        {",\"url\":\"http://h/\",\"reply\":\"event\",\"reply_type\":\"${context.none}\"",
         "reply_type: ${context.none}"},
        {",\"url\":\"http://h/\",\"reply\":\"event\",\"reply_type\":\"\"", "reply_type is empty"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        fire(rows[i].members, "{}", "", &out);
        if (!strstr(buffer_text(&out), rows[i].message) || !strstr(buffer_text(&out), "\"effects\":[]"))
            fail_msg("no %s in %s", rows[i].message, buffer_text(&out));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_intents),
        cmocka_unit_test(test_cannot_fire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
