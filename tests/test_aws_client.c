/* Calls of AWS services: what is sent, what answers mean, renewed credentials, and no secret in any message.
 */
#include "common/aws_client.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/fetch.h"
#include "tests/support/fake_http.h"
#include "tests/support/wait.h"

#define SECRET "the-secret"
#define TOKEN "the-session-token"

/* What the service answers; set before it is asked, read by the server's thread. */
static struct {
    unsigned status;
    const char *body;
    const char *header[2];
    const char *date;
} service;

/* What was last sent to it. Written by the server's thread, read when the answer has come. */
static struct {
    char path[128], authorization[400], token[64], target[64], body[64];
    int asked, credentials;
} sent;

/* A request that was cancelled may still be served when the next test begins. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct fake_http *server;
static struct fetch_pool *pool;
static struct aws_client *client;

struct seen {
    int done;
    enum aws_outcome outcome;
    long status;
    char code[80];
    char body[128];
    struct error error;
};

static void copy(char *to, size_t size, const char *text)
{
    snprintf(to, size, "%s", text ? text : "");
}

static void answer_request(const struct fake_request *r, struct fake_answer *answer)
{
    if (!strcmp(r->path, "/credentials")) {
        answer->status = 200;
        sent.credentials++;
        buffer_printf(&answer->body,
                      "{\"AccessKeyId\":\"AKID%d\",\"SecretAccessKey\":\"" SECRET "\",\"Token\":\"" TOKEN
                      "\",\"Expiration\":\"2100-01-01T00:00:00Z\"}",
                      sent.credentials);
        return;
    }
    sent.asked++;
    copy(sent.path, sizeof sent.path, r->path);
    copy(sent.authorization, sizeof sent.authorization, fake_http_header(r, "Authorization"));
    copy(sent.token, sizeof sent.token, fake_http_header(r, "X-Amz-Security-Token"));
    copy(sent.target, sizeof sent.target, fake_http_header(r, "X-Amz-Target"));
    copy(sent.body, sizeof sent.body, r->body);
    answer->status = service.status;
    buffer_append_text(&answer->body, service.body);
    answer->headers[0][0] = service.header[0];
    answer->headers[0][1] = service.header[1];
    if (service.date) {
        answer->headers[service.header[0] ? 1 : 0][0] = "Date";
        answer->headers[service.header[0] ? 1 : 0][1] = service.date;
    }
}

static bool serve(void *data, const struct fake_request *r, struct fake_answer *answer)
{
    (void)data;
    pthread_mutex_lock(&lock);
    answer_request(r, answer);
    pthread_mutex_unlock(&lock);
    return true;
}

static void on_done(void *data, const struct aws_answer *answer)
{
    struct seen *seen = data;
    seen->done++;
    seen->outcome = answer->outcome;
    seen->status = answer->status;
    seen->error = answer->error;
    copy(seen->code, sizeof seen->code, answer->code);
    copy(seen->body, sizeof seen->body, answer->body);
}

static void make_client(const struct sigv4_credentials *given)
{
    char url[64];
    struct error err;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/base/", fake_http_port(server));
    struct aws_client_options options = {
        .service = "sqs", .region = "eu-west-1", .endpoint = url, .given = given};
    if (aws_client_new(&options, pool, &client, &err) < 0)
        fail_msg("%s", err.message);
}

static int set_up(void **state)
{
    static const struct sigv4_credentials given = {"AKID", SECRET, TOKEN};
    (void)state;
    pthread_mutex_lock(&lock);
    memset(&service, 0, sizeof service);
    memset(&sent, 0, sizeof sent);
    service.status = 200;
    service.body = "{}";
    pthread_mutex_unlock(&lock);
    if (fetch_pool_new(4, &pool, NULL) < 0)
        return -1;
    make_client(&given);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    aws_client_free(client);
    fetch_pool_free(pool);
    return 0;
}

static void drive(const int *done)
{
    uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS;
    while (!*done) {
        struct pollfd fd = {.fd = fetch_pool_fd(pool), .events = POLLIN};
        assert_true(clock_now_ns() < end);
        poll(&fd, 1, 1000);
        fetch_pool_drive(pool);
    }
}

static const struct sigv4_header target = {"X-Amz-Target", "AmazonSQS.ReceiveMessage"};
static const struct aws_request receive = {.operation = "ReceiveMessage",
                                           .method = "POST",
                                           .path = "/",
                                           .headers = &target,
                                           .n_headers = 1,
                                           .body = "{\"a\":1}",
                                           .body_len = 7,
                                           .timeout_ns = 30 * CLOCK_S,
                                           .max_answer = 1000};

static struct seen call(void)
{
    struct seen seen = {0};
    struct error err;
    if (aws_call_start(client, &receive, on_done, &seen, NULL, &err) < 0)
        fail_msg("%s", err.message);
    drive(&seen.done);
    assert_null(strstr(seen.error.message, SECRET));
    assert_null(strstr(seen.error.message, TOKEN));
    return seen;
}

static void test_sent(void **state)
{
    (void)state;
    service.body = "{\"Messages\":[]}";
    struct seen seen = call();
    assert_int_equal(seen.outcome, AWS_DONE);
    assert_string_equal(seen.body, "{\"Messages\":[]}");
    assert_string_equal(sent.path, "/base/");
    assert_string_equal(sent.target, "AmazonSQS.ReceiveMessage");
    assert_string_equal(sent.token, TOKEN);
    assert_string_equal(sent.body, "{\"a\":1}");
    assert_non_null(strstr(sent.authorization, "Credential=AKID/"));
    assert_non_null(strstr(sent.authorization, "/eu-west-1/sqs/aws4_request"));
    assert_non_null(
        strstr(sent.authorization, "SignedHeaders=host;x-amz-date;x-amz-security-token;x-amz-target"));
}

struct meaning {
    unsigned status;
    const char *body;
    const char *header[2];
    enum aws_outcome outcome;
    const char *code;
};

static void test_meanings(void **state)
{
    static const struct meaning meanings[] = {
        {400,
         "{\"__type\":\"com.amazonaws.sqs#QueueDoesNotExist\",\"message\":\"m\"}",
         {0},
         AWS_ABSENT,
         "QueueDoesNotExist"},
        {400, "{\"code\":\"x.y#RequestThrottled\"}", {0}, AWS_THROTTLED, "RequestThrottled"},
        {400, "{\"__type\":\"ThrottlingException\"}", {0}, AWS_THROTTLED, "ThrottlingException"},
        {400,
         "{\"__type\":\"InvalidParameterValue\",\"message\":\"\\u0000\\n\"}",
         {0},
         AWS_WRONG,
         "InvalidParameterValue"},
        {400,
         "",
         {"x-amzn-query-error", "AWS.SimpleQueueService.NonExistentQueue;Sender"},
         AWS_ABSENT,
         "NonExistentQueue"},
        {404,
         "{}",
         {"x-amzn-ErrorType", "ResourceNotFoundException:http://internal/"},
         AWS_ABSENT,
         "ResourceNotFoundException"},
        {403,
         "{\"__type\":\"AccessDeniedException\",\"Message\":\"no\"}",
         {0},
         AWS_REFUSED,
         "AccessDeniedException"},
        {403, "<xml/>", {0}, AWS_REFUSED, ""},
        {429, "", {0}, AWS_THROTTLED, ""},
        {503, "[]", {0}, AWS_THROTTLED, ""},
        {500, "\xff", {0}, AWS_RETRY, ""},
        {302, "", {0}, AWS_WRONG, ""},
        {0, "", {0}, AWS_RETRY, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++) {
        const struct meaning *m = &meanings[i];
        service.status = m->status;
        service.body = m->body;
        service.header[0] = m->header[0];
        service.header[1] = m->header[1];
        struct seen seen = call();
        if (seen.outcome != m->outcome || strcmp(seen.code, m->code))
            fail_msg("%u %s: %d %s", m->status, m->body, seen.outcome, seen.code);
        assert_non_null(strstr(seen.error.message, "sqs ReceiveMessage: "));
    }
}

/* Such a message holds what should have been signed. */
static void test_wrong_signature(void **state)
{
    (void)state;
    service.status = 403;
    service.body =
        "{\"__type\":\"InvalidSignatureException\",\"message\":\"The Canonical String should have been "
        "x-amz-security-token:" TOKEN "\"}";
    struct seen seen = call();
    assert_int_equal(seen.outcome, AWS_REFUSED);
    assert_non_null(strstr(seen.error.message, "InvalidSignatureException: the secret access key is wrong"));
    service.body =
        "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>" TOKEN "</Message></Error>"
        "</ErrorResponse>";
    seen = call();
    assert_int_equal(seen.outcome, AWS_REFUSED);
    assert_non_null(strstr(seen.error.message, "SignatureDoesNotMatch: the secret access key is wrong"));
    service.body = "<Error><Code>AccessDenied</Code><Message>not you";
    seen = call();
    assert_non_null(strstr(seen.error.message, "AccessDenied (403): not you"));
}

static void test_clock_skew(void **state)
{
    char date[64];
    time_t then = time(NULL) - 3600;
    struct tm tm;
    (void)state;
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&then, &tm));
    service.status = 403;
    service.body = "{\"__type\":\"InvalidSignatureException\",\"message\":\"Signature expired\"}";
    service.date = date;
    struct seen seen = call();
    assert_int_equal(seen.outcome, AWS_REFUSED);
    assert_non_null(strstr(seen.error.message, "s ahead of that of 127.0.0.1"));
    assert_non_null(strstr(seen.error.message, date));
}

static void use_container(void)
{
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/credentials", fake_http_port(server));
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url, 1);
    aws_client_free(client);
    make_client(NULL);
}

/* Several calls wait for the credentials, and go on when these are there. */
static void test_waits_for_credentials(void **state)
{
    struct seen seen[3] = {0};
    (void)state;
    use_container();
    for (int i = 0; i < 3; i++)
        assert_int_equal(aws_call_start(client, &receive, on_done, &seen[i], NULL, NULL), 0);
    for (int i = 0; i < 3; i++) {
        drive(&seen[i].done);
        assert_int_equal(seen[i].outcome, AWS_DONE);
    }
    assert_int_equal(sent.credentials, 1);
    assert_string_equal(sent.token, TOKEN);
}

/* Fresh credentials that are called expired are not asked for again without end. */
static void test_expired(void **state)
{
    (void)state;
    use_container();
    service.status = 403;
    service.body = "{\"__type\":\"ExpiredToken\",\"message\":\"x\"}";
    struct seen seen = call();
    assert_int_equal(seen.outcome, AWS_REFUSED);
    assert_int_equal(sent.credentials, 1);
    assert_int_equal(sent.asked, 1);
}

static void test_no_credentials(void **state)
{
    struct seen seen = {0};
    struct error err;
    (void)state;
    unsetenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
    aws_client_free(client);
    make_client(NULL);
    assert_int_equal(aws_call_start(client, &receive, on_done, &seen, NULL, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    unsetenv("AWS_EC2_METADATA_DISABLED");
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1", 1);
    aws_client_free(client);
    make_client(NULL);
    assert_int_equal(aws_call_start(client, &receive, on_done, &seen, NULL, &err), 0);
    drive(&seen.done);
    assert_int_equal(seen.outcome, AWS_RETRY);
    assert_non_null(strstr(seen.error.message, "credentials of the instance role"));
}

static void test_bad_options(void **state)
{
    static const char *const endpoints[] = {"", "x", "ftp://h", "http://user:word@h/", "http://h/?q=1"};
    struct aws_client *none;
    struct error err;
    struct aws_client_options options = {.service = "sqs", .region = "eu-west-1"};
    (void)state;
    for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
        options.endpoint = endpoints[i];
        assert_int_equal(aws_client_new(&options, pool, &none, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_null(strstr(err.message, "word"));
    }
    options.endpoint = NULL;
    options.region = "eu west/1";
    assert_int_equal(aws_client_new(&options, pool, &none, &err), -1);
    options.region = "cn-north-1";
    assert_int_equal(aws_client_new(&options, pool, &none, &err), 0);
    assert_string_equal(aws_client_endpoint(none), "https://sqs.cn-north-1.amazonaws.com.cn");
    aws_client_free(none);
}

static void test_cancel(void **state)
{
    struct aws_call *one;
    struct seen seen = {0};
    (void)state;
    assert_int_equal(aws_call_start(client, &receive, on_done, &seen, &one, NULL), 0);
    aws_call_cancel(one);
    assert_int_equal(aws_call_start(client, &receive, on_done, &seen, &one, NULL), 0);
    aws_client_free(client); /* cancels it, too */
    client = NULL;
    fetch_pool_drive(pool);
    assert_int_equal(seen.done, 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_sent),
        CASE(test_meanings),
        CASE(test_wrong_signature),
        CASE(test_clock_skew),
        CASE(test_waits_for_credentials),
        CASE(test_expired),
        CASE(test_no_credentials),
        CASE(test_bad_options),
        CASE(test_cancel),
    };
    server = fake_http_start(serve, NULL);
    if (!server)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fake_http_stop(server);
    return failed;
}
