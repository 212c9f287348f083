/* supervisor/http.h: a server in this process, and clients that write bytes. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/loop.h"
#include "supervisor/command.h"
#include "supervisor/http.h"
#include "tests/support/http_client.h"
#include "tests/support/wait.h"

#define LARGE_MAX (1u << 20)
#define CONNECTIONS 8

struct bed {
    struct loop *loop;
    struct command_queue *queue;
    struct http_server *server;
    pthread_t thread; /* the "main" one, that handlers run in */
    _Atomic bool stop;
    unsigned port;
    _Atomic(struct http_request *) kept; /* by keep_request */
};

/* ---- Handlers ---- */

/* Answers what it was told: method, segments, the parameters q and r, the header X-Test, the body's length.
 */
static void echo(struct http_request *request)
{
    const char *q = http_query(request, "q");
    const char *r = http_query(request, "r");
    const char *header = http_header(request, "x-test");
    buffer_printf(&request->answer, "%s|%s|%s|q=%s|r=%s|h=%s|%zu", request->route->method, request->segment,
                  request->segment2, q ? q : "-", r ? r : "-", header ? header : "-", request->body.len);
    request->content_type = "text/plain";
    http_answer(request, 200);
}

static void direct(struct http_request *request)
{
    struct bed *bed = request->context;
    assert_false(pthread_equal(pthread_self(), bed->thread));
    echo(request);
}

static void in_main(struct http_request *request)
{
    struct bed *bed = request->context;
    assert_true(pthread_equal(pthread_self(), bed->thread));
    echo(request);
}

static void busy(struct http_request *request)
{
    request->retry_after = 7;
    http_answer_error(request, 429, "busy");
}

/* Another thread answers it. */
static void keep_request(struct http_request *request)
{
    struct bed *bed = request->context;
    atomic_store(&bed->kept, request);
}

/* Another thread answers while the handler is still running, or just after it, or much later. */
static void *answer_later(void *data)
{
    struct http_request *request = data;
    buffer_append_text(&request->answer, "\"later\"");
    http_answer(request, 200);
    return NULL;
}

static void race(struct http_request *request)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, answer_later, request), 0);
    pthread_detach(thread);
}

static unsigned authorise(void *context, const char *user, const char *password, bool loopback,
                          const char **ret_error)
{
    (void)context;
    assert_true(loopback);
    if (!user)
        return 401;
    if (strcmp(user, "banned") == 0) {
        *ret_error = "banned";
        return 403;
    }
    return strcmp(user, "ann") == 0 && strcmp(password, "a:b") == 0 ? 0 : 401;
}

static const struct http_route routes[] = {
    {.method = "GET", .path = "/a/*/b/*", .handler = in_main, .open = true},
    {.method = "GET", .path = "/a/*", .handler = in_main, .open = true},
    {.method = "DELETE", .path = "/a/*", .handler = in_main, .open = true},
    {.method = "PUT", .path = "/a/*", .handler = in_main, .open = true},
    {.method = "PATCH", .path = "/a/*", .handler = in_main, .open = true},
    {.method = "POST", .path = "/a/*/special", .handler = in_main, .open = true},
    {.method = "POST",
     .path = "/large",
     .handler = direct,
     .open = true,
     .body_max = LARGE_MAX,
     .direct = true},
    {.method = "POST", .path = "/small", .handler = direct, .open = true, .body_max = 8, .direct = true},
    {.method = "GET", .path = "/direct", .handler = direct, .open = true, .direct = true},
    {.method = "GET", .path = "/busy", .handler = busy, .open = true, .direct = true},
    {.method = "GET", .path = "/race", .handler = race, .open = true, .direct = true},
    {.method = "GET", .path = "/keep", .handler = keep_request, .open = true, .direct = true},
    {.method = "GET", .path = "/secret", .handler = in_main},
};

/* ---- The bed ---- */

static void *run_loop(void *data)
{
    struct bed *bed = data;
    struct error err;
    while (!atomic_load(&bed->stop))
        assert_int_equal(loop_run_once(bed->loop, CLOCK_S, &err), 0);
    return NULL;
}

static int setup(void **state)
{
    struct error err;
    int fd;
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    signal(SIGPIPE, SIG_IGN);
    bed->loop = loop_new(&err);
    assert_non_null(bed->loop);
    assert_int_equal(command_queue_new(bed->loop, &bed->queue, &err), 0);
    assert_int_equal(http_listen_tcp("127.0.0.1", 0, &fd, &bed->port, &err), 0);
    struct http_options options = {.routes = routes,
                                   .n_routes = sizeof routes / sizeof routes[0],
                                   .queue = bed->queue,
                                   .context = bed,
                                   .authorise = authorise,
                                   .connections_max = CONNECTIONS};
    assert_int_equal(http_server_start(fd, &options, &bed->server, &err), 0);
    assert_int_equal(pthread_create(&bed->thread, NULL, run_loop, bed), 0);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    atomic_store(&bed->stop, true);
    loop_wake(bed->loop);
    pthread_join(bed->thread, NULL);
    http_server_close(bed->server);
    command_run_all(bed->queue);
    http_server_stop(bed->server);
    command_queue_free(bed->queue);
    loop_free(bed->loop);
    free(bed);
    return 0;
}

/* ---- The client ---- */

static int client(const struct bed *bed)
{
    return http_client_connect(bed->port);
}

static int ask(const struct bed *bed, const char *request, char answer[HTTP_CLIENT_ANSWER_MAX])
{
    return http_client_ask(bed->port, request, strlen(request), answer);
}

/* Paths that do not exist want credentials, too. */
#define ANONYMOUS "Host: x\r\n"
#define HOST ANONYMOUS "Authorization: Basic YW5uOmE6Yg==\r\n"

/* ---- Tests ---- */

static void test_stars(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    assert_int_equal(ask(*state, "GET /a/one/b/t%20wo%2F HTTP/1.1\r\n" HOST "\r\n", answer), 200);
    assert_string_equal(http_client_body(answer), "GET|one|t wo/|q=-|r=-|h=-|0");
    assert_int_equal(ask(*state, "GET /a/one HTTP/1.1\r\n" HOST "\r\n", answer), 200);
    assert_string_equal(http_client_body(answer), "GET|one||q=-|r=-|h=-|0");
    assert_int_equal(ask(*state, "GET /a/one/b/ HTTP/1.1\r\n" HOST "\r\n", answer), 404);
    assert_int_equal(ask(*state, "GET /a/one/b/two/ HTTP/1.1\r\n" HOST "\r\n", answer), 404);
    assert_int_equal(ask(*state, "GET /a//b/two HTTP/1.1\r\n" HOST "\r\n", answer), 404);
    assert_int_equal(ask(*state, "GET /a/one/b/%zz HTTP/1.1\r\n" HOST "\r\n", answer), 400);
    assert_int_equal(ask(*state, "GET /a/%00 HTTP/1.1\r\n" HOST "\r\n", answer), 400);
    assert_int_equal(ask(*state, "POST /a/one/b/two HTTP/1.1\r\n" HOST "\r\n", answer), 405);
    assert_non_null(strstr(answer, "Allow: GET, HEAD\r\n"));
}

static void test_methods(void **state)
{
    static const char *const methods[] = {"GET", "DELETE", "PUT", "PATCH"};
    char answer[HTTP_CLIENT_ANSWER_MAX], request[256], expected[64];
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        snprintf(request, sizeof request,
                 "%s /a/w HTTP/1.1\r\n" HOST "X-Test: v\r\nContent-Length: 2\r\n\r\n{}", methods[i]);
        snprintf(expected, sizeof expected, "%s|w||q=-|r=-|h=v|2", methods[i]);
        assert_int_equal(ask(*state, request, answer), 200);
        assert_string_equal(http_client_body(answer), expected);
    }
    assert_int_equal(ask(*state, "HEAD /a/w HTTP/1.1\r\n" HOST "\r\n", answer), 200);
    assert_string_equal(http_client_body(answer), "");
    assert_non_null(strstr(answer, "Content-Length: 20\r\n"));
}

static void test_query(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    assert_int_equal(ask(*state, "GET /a/w?r&q=a+b%26c&q=2 HTTP/1.1\r\n" HOST "\r\n", answer), 200);
    assert_string_equal(http_client_body(answer), "GET|w||q=a b&c|r=|h=-|0");
    assert_int_equal(ask(*state, "GET /a/w?q=%z HTTP/1.1\r\n" HOST "\r\n", answer), 400);
    assert_int_equal(ask(*state, "GET /a/w?q=%00 HTTP/1.1\r\n" HOST "\r\n", answer), 400);
    assert_int_equal(ask(*state, "PUT /a/w?q=1 HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", answer), 200);
    assert_string_equal(http_client_body(answer), "PUT|w||q=1|r=-|h=-|0");
}

static void test_direct(void **state)
{
    struct bed *bed = *state;
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int fd = client(bed);
    for (int i = 0; i < 20; i++) { /* on one connection, answered at once or by another thread */
        http_client_send_text(fd, "GET /direct HTTP/1.1\r\n" HOST "\r\n");
        assert_int_equal(http_client_read(fd, answer, false), 200);
        http_client_send_text(fd, "GET /race HTTP/1.1\r\n" HOST "\r\n");
        assert_int_equal(http_client_read(fd, answer, false), 200);
        assert_string_equal(http_client_body(answer), "\"later\"");
    }
    http_client_send_text(fd, "GET /keep HTTP/1.1\r\n" HOST "\r\n");
    struct http_request *request;
    WAIT((request = atomic_exchange(&bed->kept, NULL)) != NULL);
    answer_later(request);
    assert_int_equal(http_client_read(fd, answer, false), 200);
    close(fd);
}

static void test_retry_after(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    assert_int_equal(ask(*state, "GET /busy HTTP/1.1\r\n" HOST "\r\n", answer), 429);
    assert_non_null(strstr(answer, "Retry-After: 7\r\n"));
    assert_string_equal(http_client_body(answer), "{\"error\":\"busy\"}");
}

static void test_authorise(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    assert_int_equal(ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "\r\n", answer), 401);
    assert_non_null(strstr(answer, "WWW-Authenticate: Basic realm=\"triggerflow\"\r\n"));
    /* ann:a:b, ann:a:c, banned:x, no colon, not base64, a NUL inside */
    assert_int_equal(
        ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "Authorization: basic YW5uOmE6Yg==\r\n\r\n", answer),
        200);
    assert_int_equal(
        ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "Authorization: Basic YW5uOmE6Yw==\r\n\r\n", answer),
        401);
    assert_int_equal(
        ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "Authorization: Basic YmFubmVkOng=\r\n\r\n", answer),
        403);
    assert_null(strstr(answer, "WWW-Authenticate"));
    assert_string_equal(http_client_body(answer), "{\"error\":\"banned\"}");
    assert_int_equal(
        ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "Authorization: Basic YW5u\r\n\r\n", answer), 401);
    assert_int_equal(
        ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "Authorization: Basic !!!!\r\n\r\n", answer), 401);
    assert_int_equal(
        ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "Authorization: Basic YW5uOmE6YgA=\r\n\r\n", answer),
        401);
    assert_int_equal(
        ask(*state, "GET /secret HTTP/1.1\r\n" ANONYMOUS "Authorization: Bearer x\r\n\r\n", answer), 401);
}

/* A POST with a body of len bytes, with a length or in chunks. */
static int post(const struct bed *bed, const char *path, size_t len, bool chunked,
                char answer[HTTP_CLIENT_ANSWER_MAX])
{
    char head[256];
    int fd = client(bed);
    char *body = malloc(len + 1);
    assert_non_null(body);
    memset(body, 'x', len);
    if (chunked)
        snprintf(head, sizeof head, "POST %s HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n%zx\r\n",
                 path, len);
    else
        snprintf(head, sizeof head, "POST %s HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n", path, len);
    http_client_send_text(fd, head);
    http_client_send(fd, body, len);
    if (chunked)
        http_client_send_text(fd, "\r\n0\r\n\r\n");
    free(body);
    int status = http_client_read(fd, answer, false);
    close(fd);
    return status;
}

static void test_body_max(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    for (int chunked = 0; chunked < 2; chunked++) {
        assert_int_equal(post(*state, "/large", LARGE_MAX, chunked, answer), 200);
        assert_string_equal(http_client_body(answer), "POST|||q=-|r=-|h=-|1048576");
        assert_int_equal(post(*state, "/large", LARGE_MAX + 1, chunked, answer), 413);
        assert_string_equal(http_client_body(answer),
                            "{\"error\":\"the body is larger than 1048576 bytes\"}");
        assert_int_equal(post(*state, "/small", 8, chunked, answer), 200);
        assert_int_equal(post(*state, "/small", 9, chunked, answer), 413);
        assert_int_equal(post(*state, "/a/w/special", HTTP_BODY_MAX + 1, chunked, answer), 413);
        assert_int_equal(post(*state, "/nowhere", 100000, chunked, answer), 404);
    }
    /* Beyond all measure: answered before it is sent. */
    assert_int_equal(
        ask(*state, "POST /large HTTP/1.1\r\n" HOST "Content-Length: 99999999999\r\n\r\n", answer), 413);
    assert_int_equal(ask(*state,
                         "POST /small HTTP/1.1\r\n" HOST
                         "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                         answer),
                     400);
}

static void test_expect(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int fd = client(*state);
    http_client_send_text(fd, "POST /small HTTP/1.1\r\n" HOST
                              "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_int_equal(http_client_read(fd, answer, true), 100);
    http_client_send_text(fd, "{}");
    assert_int_equal(http_client_read(fd, answer, false), 200);
    close(fd);
    assert_int_equal(ask(*state,
                         "POST /small HTTP/1.1\r\n" HOST "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
                         answer),
                     413);
    assert_int_equal(
        ask(*state, "PUT /secret HTTP/1.1\r\n" ANONYMOUS "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
            answer),
        401);
}

static void test_old_protocol(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int fd = client(*state);
    http_client_send_text(fd, "GET /a/w HTTP/1.0\r\n\r\n");
    assert_int_equal(http_client_read(fd, answer, false), 200);
    assert_true(http_client_at_end(fd));
    close(fd);
}

static void test_pipelining(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int fd = client(*state);
    http_client_send_text(fd,
                          "POST /small HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\nx"
                          "GET /a/w HTTP/1.1\r\n" HOST "\r\nGET /race HTTP/1.1\r\n" HOST
                          "\r\nGET /nowhere HTTP/1.1\r\n" HOST "\r\nGET /direct HTTP/1.1\r\n" HOST "\r\n");
    static const int expected[] = {200, 200, 200, 404, 200};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(http_client_read(fd, answer, false), expected[i]);
    close(fd);
}

/* Connections that bring nothing give way; one that has brought requests outlives them. */
static void test_connections_max(void **state)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int good = client(*state);
    http_client_send_text(good, "GET /direct HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(http_client_read(good, answer, false), 200);
    int idle[10 * CONNECTIONS];
    for (size_t i = 0; i < sizeof idle / sizeof idle[0]; i++) {
        idle[i] = client(*state);
        http_client_send_text(idle[i], "GET /dir");
    }
    assert_true(http_client_at_end(idle[0]));
    assert_int_equal(ask(*state, "GET /direct HTTP/1.1\r\n" HOST "\r\n", answer), 200);
    http_client_send_text(good, "GET /direct HTTP/1.1\r\n" HOST "\r\n");
    assert_int_equal(http_client_read(good, answer, false), 200);
    close(good);
    for (size_t i = 0; i < sizeof idle / sizeof idle[0]; i++)
        close(idle[i]);
}

/* All that there may be wait for us: a new one is refused, none of them is. */
static void test_connections_busy(void **state)
{
    struct bed *bed = *state;
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int fds[CONNECTIONS];
    struct http_request *waiting[CONNECTIONS];
    for (size_t i = 0; i < CONNECTIONS; i++) {
        fds[i] = client(bed);
        http_client_send_text(fds[i], "GET /keep HTTP/1.1\r\n" HOST "\r\n");
        WAIT((waiting[i] = atomic_exchange(&bed->kept, NULL)) != NULL);
    }
    assert_int_equal(ask(bed, "GET /direct HTTP/1.1\r\n" HOST "\r\n", answer), 0);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        answer_later(waiting[i]);
        assert_int_equal(http_client_read(fds[i], answer, false), 200);
        close(fds[i]);
    }
}

static void test_closed(void **state)
{
    struct bed *bed = *state;
    char answer[HTTP_CLIENT_ANSWER_MAX];
    http_server_close(bed->server);
    assert_int_equal(ask(bed, "GET /direct HTTP/1.1\r\n" HOST "\r\n", answer), 503);
    assert_int_equal(ask(bed, "GET /a/w HTTP/1.1\r\n" HOST "\r\n", answer), 503);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_stars),      TEST(test_methods),         TEST(test_query),
        TEST(test_direct),     TEST(test_retry_after),     TEST(test_authorise),
        TEST(test_body_max),   TEST(test_expect),          TEST(test_old_protocol),
        TEST(test_pipelining), TEST(test_connections_max), TEST(test_connections_busy),
        TEST(test_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
