/* Credentials: their order, the roles against a small metadata server, expiry, failures, and no secret in any
 * message. */
#include "common/aws_credentials.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/fetch.h"
#include "tests/support/fake_http.h"
#include "tests/support/wait.h"

#define SECRET "the-secret"
#define TOKEN "the-session-token"
#define AUTHORIZATION "the-authorization"

/* What the metadata server says; set before it is asked. */
struct metadata {
    _Atomic unsigned status; /* of the last step; 0: hangs up */
    _Atomic unsigned token_status;
    _Atomic long life_s; /* of what it gives */
    _Atomic int served;  /* credentials */
    const char *role;
    const char *document; /* instead of good credentials */
};

static struct metadata metadata;
static struct fake_http *server;
static struct fetch_pool *pool;

static void give_credentials(struct fake_answer *answer)
{
    char time_text[32];
    time_t end = time(NULL) + atomic_load(&metadata.life_s);
    struct tm tm;
    answer->status = atomic_load(&metadata.status);
    if (metadata.document) {
        buffer_append_text(&answer->body, metadata.document);
        return;
    }
    strftime(time_text, sizeof time_text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&end, &tm));
    buffer_printf(&answer->body,
                  "{\"Code\":\"Success\",\"AccessKeyId\":\"AKID%d\",\"SecretAccessKey\":\"" SECRET
                  "\",\"Token\":\"" TOKEN "\",\"Expiration\":\"%s\"}",
                  atomic_fetch_add(&metadata.served, 1) + 1, time_text);
}

static bool has_header(const struct fake_request *request, const char *name, const char *value)
{
    const char *got = fake_http_header(request, name);
    return got && !strcmp(got, value);
}

static bool serve(void *data, const struct fake_request *r, struct fake_answer *answer)
{
    (void)data;
    answer->status = 401;
    if (!strcmp(r->path, "/latest/api/token")) {
        if (strcmp(r->method, "PUT") || !has_header(r, "X-aws-ec2-metadata-token-ttl-seconds", "21600"))
            return true;
        answer->status = atomic_load(&metadata.token_status);
        buffer_append_text(&answer->body, "imds-token");
    } else if (!strcmp(r->path, "/container")) {
        if (has_header(r, "Authorization", AUTHORIZATION))
            give_credentials(answer);
    } else if (has_header(r, "X-aws-ec2-metadata-token", "imds-token")) {
        if (!strcmp(r->path, "/latest/meta-data/iam/security-credentials/")) {
            answer->status = 200;
            buffer_append_text(&answer->body, metadata.role);
        } else if (!strcmp(r->path, "/latest/meta-data/iam/security-credentials/workers")) {
            give_credentials(answer);
        } else {
            answer->status = 404;
        }
    }
    return true;
}

static int set_up(void **state)
{
    static const char *const names[] = {"AWS_ACCESS_KEY_ID",
                                        "AWS_SECRET_ACCESS_KEY",
                                        "AWS_SESSION_TOKEN",
                                        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                                        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                                        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
                                        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                                        "AWS_EC2_METADATA_DISABLED"};
    char url[64];
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", fake_http_port(server));
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url, 1);
    atomic_store(&metadata.status, 200);
    atomic_store(&metadata.token_status, 200);
    atomic_store(&metadata.life_s, 3600);
    atomic_store(&metadata.served, 0);
    metadata.role = "workers";
    metadata.document = NULL;
    return fetch_pool_new(4, &pool, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    fetch_pool_free(pool);
    return 0;
}

static struct aws_credentials *make(const struct sigv4_credentials *given)
{
    struct aws_credentials *c;
    struct error err;
    if (aws_credentials_new(given, pool, &c, &err) < 0)
        fail_msg("%s", err.message);
    return c;
}

static int get(struct aws_credentials *c, struct sigv4_credentials *ret, struct error *err)
{
    return aws_credentials_get(c, clock_now_ns(), clock_unix_ns(), ret, err);
}

static void note_ready(void *data)
{
    ++*(int *)data;
}

/* Asks until there is an answer. */
static int await(struct aws_credentials *c, struct sigv4_credentials *ret, struct error *err)
{
    int r;
    uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS;
    while ((r = get(c, ret, err)) == AWS_CREDENTIALS_COMING) {
        struct pollfd fd = {.fd = fetch_pool_fd(pool), .events = POLLIN};
        assert_true(clock_now_ns() < end);
        poll(&fd, 1, 1000);
        fetch_pool_drive(pool);
    }
    return r;
}

static void drive_until(const int *count, int wanted)
{
    uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS;
    while (*count < wanted) {
        struct pollfd fd = {.fd = fetch_pool_fd(pool), .events = POLLIN};
        assert_true(clock_now_ns() < end);
        poll(&fd, 1, 1000);
        fetch_pool_drive(pool);
    }
}

static void assert_no_secret(const struct error *err)
{
    assert_null(strstr(err->message, SECRET));
    assert_null(strstr(err->message, TOKEN));
    assert_null(strstr(err->message, AUTHORIZATION));
    assert_null(strstr(err->message, "imds-token"));
}

/* --- the order --- */

static void test_given_first(void **state)
{
    struct sigv4_credentials given = {"id", "secret", NULL}, got;
    (void)state;
    setenv("AWS_ACCESS_KEY_ID", "other", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "other", 1);
    setenv("AWS_SESSION_TOKEN", "other", 1);
    struct aws_credentials *c = make(&given);
    assert_int_equal(get(c, &got, NULL), 0);
    assert_string_equal(got.access_key_id, "id");
    assert_string_equal(got.secret_access_key, "secret");
    assert_null(got.session_token);
    assert_string_equal(aws_credentials_provider(c), "given");
    assert_false(aws_credentials_expired(c, clock_now_ns()));
    aws_credentials_free(c);
}

static void test_environment(void **state)
{
    struct sigv4_credentials none = {NULL, NULL, NULL}, got;
    struct error err;
    struct aws_credentials *c;
    (void)state;
    setenv("AWS_ACCESS_KEY_ID", "id", 1);
    setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x", 1);
    assert_int_equal(aws_credentials_new(NULL, pool, &c, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
    setenv("AWS_SESSION_TOKEN", "token", 1);
    c = make(&none);
    assert_int_equal(get(c, &got, NULL), 0);
    assert_string_equal(got.session_token, "token");
    assert_string_equal(aws_credentials_provider(c), "environment");
    aws_credentials_free(c);
    struct sigv4_credentials half = {"id", NULL, NULL};
    assert_int_equal(aws_credentials_new(&half, pool, &c, &err), -1);
}

static void set_container(void)
{
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/container", fake_http_port(server));
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url, 1);
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION, 1);
}

static void test_container(void **state)
{
    struct sigv4_credentials got;
    (void)state;
    set_container();
    struct aws_credentials *c = make(NULL);
    assert_int_equal(await(c, &got, NULL), 0);
    assert_string_equal(aws_credentials_provider(c), "container");
    assert_string_equal(got.access_key_id, "AKID1");
    assert_string_equal(got.secret_access_key, SECRET);
    assert_string_equal(got.session_token, TOKEN);
    aws_credentials_free(c);
}

static void test_container_token_file(void **state)
{
    struct sigv4_credentials got;
    struct error err;
    char path[] = "/tmp/triggerflow-token-XXXXXX";
    int fd = mkstemp(path);
    (void)state;
    assert_int_equal(write(fd, AUTHORIZATION "\n", strlen(AUTHORIZATION) + 1), strlen(AUTHORIZATION) + 1);
    close(fd);
    set_container();
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong", 1);
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path, 1);
    struct aws_credentials *c = make(NULL);
    assert_int_equal(await(c, &got, &err), 0);
    aws_credentials_free(c);
    unlink(path);
    c = make(NULL);
    assert_int_equal(await(c, &got, &err), -1);
    assert_non_null(strstr(err.message, path));
    aws_credentials_free(c);
}

/* The authorization does not go to just any host in the clear. */
static void test_container_elsewhere(void **state)
{
    static const char *const urls[] = {"http://example.com/container", "http://127.0.0.1.example.com/",
                                       "http://127.0.0.1@example.com/", "ftp://127.0.0.1/", "x"};
    struct sigv4_credentials got;
    struct error err;
    (void)state;
    set_container();
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", urls[i], 1);
        struct aws_credentials *c = make(NULL);
        assert_int_equal(await(c, &got, &err), -1);
        assert_int_equal(err.code, ERROR_REFUSED);
        assert_no_secret(&err);
        aws_credentials_free(c);
    }
}

static void test_instance(void **state)
{
    struct sigv4_credentials got;
    struct error err;
    (void)state;
    struct aws_credentials *c = make(NULL);
    assert_int_equal(await(c, &got, &err), 0);
    assert_string_equal(aws_credentials_provider(c), "instance");
    assert_string_equal(got.access_key_id, "AKID1");
    aws_credentials_free(c);
    setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
    c = make(NULL);
    assert_int_equal(await(c, &got, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    aws_credentials_free(c);
}

/* --- expiry --- */

static void test_refresh(void **state)
{
    struct sigv4_credentials got;
    int ready = 0;
    (void)state;
    atomic_store(&metadata.life_s, 200); /* within the time in which they are to be renewed */
    struct aws_credentials *c = make(NULL);
    aws_credentials_on_ready(c, note_ready, &ready);
    assert_int_equal(await(c, &got, NULL), 0);
    assert_int_equal(ready, 1);
    assert_string_equal(got.access_key_id, "AKID1"); /* the old ones serve meanwhile */
    atomic_store(&metadata.life_s, 3600);
    drive_until(&ready, 2);
    assert_int_equal(get(c, &got, NULL), 0);
    assert_string_equal(got.access_key_id, "AKID2");
    assert_int_equal(get(c, &got, NULL), 0);
    assert_int_equal(atomic_load(&metadata.served), 2); /* and no more */
    aws_credentials_free(c);
}

/* They serve until they expire, though no others come. */
static void test_refresh_fails(void **state)
{
    struct sigv4_credentials got;
    struct error err;
    int ready = 0;
    (void)state;
    atomic_store(&metadata.life_s, 200);
    struct aws_credentials *c = make(NULL);
    aws_credentials_on_ready(c, note_ready, &ready);
    assert_int_equal(await(c, &got, NULL), 0);
    atomic_store(&metadata.status, 500);
    drive_until(&ready, 2);
    assert_int_equal(get(c, &got, NULL), 0);
    assert_string_equal(got.access_key_id, "AKID1");
    uint64_t later = clock_unix_ns() + 201 * CLOCK_S;
    assert_int_equal(aws_credentials_get(c, clock_now_ns(), later, &got, &err), -1);
    assert_non_null(strstr(err.message, "status 500"));
    atomic_store(&metadata.status, 200);
    atomic_store(&metadata.life_s, 3600);
    assert_int_equal(aws_credentials_get(c, clock_now_ns() + 60 * CLOCK_S, later, &got, &err),
                     AWS_CREDENTIALS_COMING);
    drive_until(&ready, 3);
    assert_int_equal(aws_credentials_get(c, clock_now_ns(), later, &got, &err), 0);
    aws_credentials_free(c);
}

static void test_refused_by_the_service(void **state)
{
    struct sigv4_credentials got;
    (void)state;
    struct aws_credentials *c = make(NULL);
    assert_int_equal(await(c, &got, NULL), 0);
    assert_false(aws_credentials_expired(c, clock_now_ns())); /* they are new */
    assert_true(aws_credentials_expired(c, clock_now_ns() + 60 * CLOCK_S));
    assert_int_equal(get(c, &got, NULL), AWS_CREDENTIALS_COMING);
    assert_int_equal(await(c, &got, NULL), 0);
    assert_string_equal(got.access_key_id, "AKID2");
    aws_credentials_free(c);
}

/* --- failures --- */

static void test_bad_answers(void **state)
{
    static const char *const documents[] = {
        "",
        "{",
        "[]",
        "{\"AccessKeyId\":\"a\"}",
        "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":5}",
        "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"" SECRET "\",\"Expiration\":\"soon\"}",
        "{\"AccessKeyId\":\"a\",\"SecretAccessKey\":\"" SECRET "\",\"Expiration\":\"2001-01-01T00:00:00Z\"}",
        "{\"Code\":\"Failed\",\"Message\":\"" SECRET "\"}",
    };
    struct sigv4_credentials got;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        metadata.document = documents[i];
        struct aws_credentials *c = make(NULL);
        assert_int_equal(await(c, &got, &err), -1);
        assert_int_equal(err.code, ERROR_UNAVAILABLE);
        assert_no_secret(&err);
        assert_non_null(strstr(err.message, "credentials of the instance role"));
        aws_credentials_free(c);
    }
}

static void test_bad_steps(void **state)
{
    struct sigv4_credentials got;
    struct error err;
    (void)state;
    metadata.role = "../../latest/user-data\n";
    struct aws_credentials *c = make(NULL);
    assert_int_equal(await(c, &got, &err), -1);
    assert_non_null(strstr(err.message, "no name of a role"));
    aws_credentials_free(c);
    atomic_store(&metadata.token_status, 403);
    c = make(NULL);
    assert_int_equal(await(c, &got, &err), -1);
    assert_non_null(strstr(err.message, "session token: status 403"));
    assert_int_equal(get(c, &got, &err), -1); /* not asked again at once */
    aws_credentials_free(c);
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1", 1);
    c = make(NULL);
    assert_int_equal(await(c, &got, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    aws_credentials_free(c);
}

static void test_freed_while_fetching(void **state)
{
    struct sigv4_credentials got;
    (void)state;
    struct aws_credentials *c = make(NULL);
    assert_int_equal(get(c, &got, NULL), AWS_CREDENTIALS_COMING);
    aws_credentials_free(c);
    fetch_pool_drive(pool);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_given_first),
        CASE(test_environment),
        CASE(test_container),
        CASE(test_container_token_file),
        CASE(test_container_elsewhere),
        CASE(test_instance),
        CASE(test_refresh),
        CASE(test_refresh_fails),
        CASE(test_refused_by_the_service),
        CASE(test_bad_answers),
        CASE(test_bad_steps),
        CASE(test_freed_while_fetching),
    };
    server = fake_http_start(serve, NULL);
    if (!server)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fake_http_stop(server);
    return failed;
}
