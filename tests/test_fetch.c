/* HTTP requests: methods and bodies, many at once on kept connections, limits, failures, cancelling. */
#include "common/fetch.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/support/fake_http.h"
#include "tests/support/wait.h"

struct seen {
    int done;
    long status;
    struct buffer body;
    char header[64];
    struct error error;
    struct fetch_pool *pool; /* starts another one when it is done */
};

static struct fake_http *server;
static struct MHD_Connection *_Atomic put_off;
static atomic_int hung_up;

static bool serve(void *data, const struct fake_request *r, struct fake_answer *answer)
{
    (void)data;
    answer->status = 200;
    answer->headers[0][0] = "X-Seen";
    answer->headers[0][1] = fake_http_header(r, "X-Sent");
    if (!answer->headers[0][1])
        answer->headers[0][1] = "";
    if (!strcmp(r->path, "/hang-up")) {
        atomic_fetch_add(&hung_up, 1);
        answer->status = 0;
    } else if (!strcmp(r->path, "/redirect")) {
        answer->status = 302;
        answer->headers[1][0] = "Location";
        answer->headers[1][1] = "/";
    } else if (!strcmp(r->path, "/late")) {
        if (r->times)
            return true;
        atomic_store(&put_off, r->connection);
        return false;
    } else if (!strcmp(r->path, "/large")) {
        for (int i = 0; i < 1000; i++)
            buffer_append_text(&answer->body, "0123456789");
    } else {
        buffer_printf(&answer->body, "%s %s %zu %s", r->method, r->path, r->len, r->body);
    }
    return true;
}

static void make_url(const char *path, char ret_url[128])
{
    snprintf(ret_url, 128, "http://user:word@127.0.0.1:%d%s", fake_http_port(server), path);
}

static struct fetch_request request_for(const char *method, const char *url)
{
    return (struct fetch_request){.method = method,
                                  .url = url,
                                  .connect_timeout_ns = 5 * CLOCK_S,
                                  .timeout_ns = 30 * CLOCK_S,
                                  .max_answer = 5000};
}

static void on_done(void *data, const struct fetch_answer *answer)
{
    struct seen *seen = data;
    const char *header = fetch_header(answer->fetch, "x-seen");
    seen->done++;
    seen->status = answer->status;
    buffer_reset(&seen->body, 0);
    buffer_append(&seen->body, answer->body, answer->len);
    snprintf(seen->header, sizeof seen->header, "%s", header ? header : "");
    if (answer->error)
        seen->error = *answer->error;
    if (!seen->pool)
        return;
    char url[128];
    make_url("/again", url);
    struct fetch_request r = request_for("GET", url);
    struct fetch_pool *pool = seen->pool;
    seen->pool = NULL;
    assert_int_equal(fetch_start(pool, &r, on_done, seen, NULL, NULL), 0);
}

static void drive(struct fetch_pool *pool, const int *done, int wanted)
{
    uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS;
    while (*done < wanted) {
        struct pollfd fd = {.fd = fetch_pool_fd(pool), .events = POLLIN};
        assert_true(clock_now_ns() < end);
        poll(&fd, 1, 1000);
        fetch_pool_drive(pool);
    }
}

static int set_up(void **state)
{
    struct fetch_pool *pool;
    if (fetch_pool_new(4, &pool, NULL) < 0)
        return -1;
    *state = pool;
    return 0;
}

static int tear_down(void **state)
{
    fetch_pool_free(*state);
    return 0;
}

static void ask(struct fetch_pool *pool, const struct fetch_request *r, struct seen *seen)
{
    struct error err;
    if (fetch_start(pool, r, on_done, seen, NULL, &err) < 0)
        fail_msg("%s", err.message);
    assert_int_equal(seen->done, 0);
    drive(pool, &seen->done, 1);
}

static void test_methods(void **state)
{
    static const char *const methods[] = {"GET", "POST", "PUT"};
    const char *const headers[] = {"X-Sent: value", NULL};
    char url[128];
    make_url("/a%20b/../c", url);
    for (size_t i = 0; i < 3; i++) {
        struct seen seen = {.body = BUFFER_INIT};
        char expected[64];
        struct fetch_request r = request_for(methods[i], url);
        r.headers = headers;
        r.body = i ? "abc" : NULL;
        r.body_len = i ? 3 : 0;
        ask(*state, &r, &seen);
        snprintf(expected, sizeof expected, "%s /a b/../c %s", methods[i], i ? "3 abc" : "0 ");
        assert_int_equal(seen.status, 200);
        assert_string_equal(buffer_text(&seen.body), expected);
        assert_string_equal(seen.header, "value");
        buffer_done(&seen.body);
    }
}

static void test_many(void **state)
{
    enum { MANY = 200 };
    struct seen seen = {.body = BUFFER_INIT};
    char url[128];
    make_url("/", url);
    struct fetch_request r = request_for("POST", url);
    for (int i = 0; i < MANY; i++)
        assert_int_equal(fetch_start(*state, &r, on_done, &seen, NULL, NULL), 0);
    drive(*state, &seen.done, MANY);
    buffer_done(&seen.body);
}

static void test_again_from_the_callback(void **state)
{
    struct seen seen = {.body = BUFFER_INIT, .pool = *state};
    char url[128];
    make_url("/", url);
    struct fetch_request r = request_for("GET", url);
    ask(*state, &r, &seen);
    drive(*state, &seen.done, 2);
    assert_string_equal(buffer_text(&seen.body), "GET /again 0 ");
    buffer_done(&seen.body);
}

static void test_redirects_are_answers(void **state)
{
    struct seen seen = {.body = BUFFER_INIT};
    char url[128];
    make_url("/redirect", url);
    struct fetch_request r = request_for("GET", url);
    ask(*state, &r, &seen);
    assert_int_equal(seen.status, 302);
    buffer_done(&seen.body);
}

static void test_too_large(void **state)
{
    struct seen seen = {.body = BUFFER_INIT};
    char url[128];
    make_url("/large", url);
    struct fetch_request r = request_for("GET", url);
    ask(*state, &r, &seen);
    assert_int_equal(seen.status, 0);
    assert_int_equal(seen.error.code, ERROR_LIMIT);
    buffer_done(&seen.body);
}

static void test_failures(void **state)
{
    struct error err;
    struct seen seen = {.body = BUFFER_INIT};
    char url[128];
    make_url("/hang-up", url);
    struct fetch_request r = request_for("GET", url);
    ask(*state, &r, &seen);
    assert_int_equal(seen.status, 0);
    assert_int_equal(seen.error.code, ERROR_UNAVAILABLE);
    assert_null(strstr(seen.error.message, "word")); /* the user's password */
    struct seen refused = {.body = BUFFER_INIT};
    r.url = "http://127.0.0.1:1/?secret";
    ask(*state, &r, &refused);
    assert_int_equal(refused.error.code, ERROR_UNAVAILABLE);
    assert_non_null(strstr(refused.error.message, "127.0.0.1:1"));
    assert_null(strstr(refused.error.message, "secret"));
    r.url = "file:///etc/passwd";
    assert_int_equal(fetch_start(*state, &r, on_done, &seen, NULL, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    r.url = "http://";
    assert_int_equal(fetch_start(*state, &r, on_done, &seen, NULL, &err), -1);
    buffer_done(&seen.body);
    buffer_done(&refused.body);
}

/* On a kept connection libcurl would send it once more. */
static void test_once(void **state)
{
    for (int once = 0; once < 2; once++) {
        char url[128], other[128];
        struct seen first = {.body = BUFFER_INIT};
        struct seen seen = {.body = BUFFER_INIT};
        make_url("/", url);
        make_url("/hang-up", other);
        struct fetch_request r = request_for("POST", url);
        ask(*state, &r, &first);
        r.url = other;
        r.once = once;
        atomic_store(&hung_up, 0);
        ask(*state, &r, &seen);
        assert_int_equal(seen.status, 0);
        assert_int_equal(seen.error.code, ERROR_UNAVAILABLE);
        if (once)
            assert_int_equal(atomic_load(&hung_up), 1);
        else
            assert_true(atomic_load(&hung_up) > 1);
        buffer_done(&first.body);
        buffer_done(&seen.body);
    }
}

static struct MHD_Connection *await_put_off(struct fetch_pool *pool)
{
    uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS;
    struct MHD_Connection *connection;
    while (!(connection = atomic_exchange(&put_off, NULL))) {
        assert_true(clock_now_ns() < end);
        fetch_pool_drive(pool);
        wait_moment();
    }
    return connection;
}

static void test_cancel(void **state)
{
    struct fetch *fetch;
    struct seen seen = {.body = BUFFER_INIT};
    char url[128];
    make_url("/late", url);
    struct fetch_request r = request_for("GET", url);
    assert_int_equal(fetch_start(*state, &r, on_done, &seen, &fetch, NULL), 0);
    struct MHD_Connection *connection = await_put_off(*state);
    fetch_cancel(fetch);
    fake_http_resume(connection);
    struct seen other = {.body = BUFFER_INIT};
    make_url("/", url);
    ask(*state, &r, &other);
    assert_int_equal(seen.done, 0);
    buffer_done(&other.body);
    buffer_done(&seen.body);
}

static void test_time_out(void **state)
{
    struct seen seen = {.body = BUFFER_INIT};
    char url[128];
    make_url("/late", url);
    struct fetch_request r = request_for("GET", url);
    r.timeout_ns = 50 * CLOCK_MS;
    ask(*state, &r, &seen);
    assert_int_equal(seen.status, 0);
    assert_int_equal(seen.error.code, ERROR_UNAVAILABLE);
    fake_http_resume(await_put_off(*state));
    buffer_done(&seen.body);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_methods),
        CASE(test_many),
        CASE(test_again_from_the_callback),
        CASE(test_redirects_are_answers),
        CASE(test_too_large),
        CASE(test_failures),
        CASE(test_once),
        CASE(test_cancel),
        CASE(test_time_out),
    };
    server = fake_http_start(serve, NULL);
    if (!server)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fake_http_stop(server);
    return failed;
}
