/* HTTP calls against a real server that answers, hangs, drops, truncates and floods; and the parts that need
 * none. */
#include "worker/executor/http_call.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/loop.h"
#include "tests/support/function_server.h"
#include "tests/support/process.h"
#include "tests/support/wait.h"

struct bed {
    struct loop *loop;
    struct http_calls *calls;
    struct function_server *server;
};

struct outcome {
    unsigned n;
    unsigned status;
    unsigned version;
    bool complete;
    int code;
    char message[480];
    char body[256];
    size_t len;
    uint64_t retry_after_ns;
    char header[64];
    char last[8]; /* of the body */
};

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    struct error err;
    assert_non_null(bed);
    assert_non_null(bed->loop = loop_new(&err));
    assert_int_equal(http_calls_new(bed->loop, false, "", &bed->calls, &err), 0);
    assert_non_null(bed->server = function_server_new());
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    http_calls_free(bed->calls);
    loop_free(bed->loop);
    function_server_free(bed->server);
    free(bed);
    return 0;
}

static void on_done(void *data, const struct http_answer *answer)
{
    struct outcome *o = data;
    const char *header = http_answer_header(answer, "content-TYPE");
    *o = (struct outcome){.n = o->n + 1,
                          .status = answer->status,
                          .version = answer->version,
                          .complete = answer->complete,
                          .len = answer->len,
                          .retry_after_ns = answer->retry_after_ns};
    assert_int_equal(answer->complete, !answer->error);
    if (answer->error) {
        o->code = answer->error->code;
        snprintf(o->message, sizeof o->message, "%s", answer->error->message);
    }
    snprintf(o->body, sizeof o->body, "%.*s", (int)answer->len, answer->body);
    snprintf(o->header, sizeof o->header, "%s", header ? header : "");
    size_t last = answer->len < sizeof o->last - 1 ? answer->len : sizeof o->last - 1;
    memcpy(o->last, answer->body + answer->len - last, last);
}

static void prepare(struct bed *bed, struct http_call_request *request, const char *path, const char *body)
{
    http_call_request_init(request);
    if (strstr(path, "://"))
        buffer_append_text(&request->url, path);
    else
        function_server_url(bed->server, path, &request->url);
    if (body)
        buffer_append_text(&request->body, body);
}

static void wait_all(struct bed *bed)
{
    struct error err;
    uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS;
    while (http_calls_under_way(bed->calls)) {
        assert_true(clock_now_ns() < end);
        assert_int_equal(loop_run_once(bed->loop, CLOCK_S, &err), 0);
    }
}

static void begin(struct bed *bed, struct http_call_request *request, struct outcome *o)
{
    struct error err;
    *o = (struct outcome){.n = 0};
    if (http_call_start(bed->calls, request, on_done, o, NULL, &err) < 0)
        fail_msg("%s", err.message);
    http_call_request_done(request);
}

/* One call, to its end. */
static struct outcome ask(struct bed *bed, struct http_call_request *request)
{
    struct outcome o;
    begin(bed, request, &o);
    wait_all(bed);
    assert_int_equal(o.n, 1);
    return o;
}

static struct outcome ask_function(struct bed *bed, const char *path,
                                   const struct function_behaviour *behaviour)
{
    struct http_call_request request;
    if (behaviour)
        function_server_behave(bed->server, NULL, behaviour);
    prepare(bed, &request, path, "{\"a\":1}");
    request.timeout_ns = 5 * CLOCK_S;
    request.answer_max = 100;
    return ask(bed, &request);
}

static void test_answer(void **state)
{
    struct bed *bed = *state;
    struct outcome o = ask_function(bed, "/f/x", NULL);
    assert_int_equal(o.status, 200);
    assert_true(o.complete);
    assert_string_equal(o.body, "{\"a\":1}");
    assert_string_equal(o.header, "application/json");
    assert_int_equal(o.retry_after_ns, 0);
}

static void test_request_as_sent(void **state)
{
    struct bed *bed = *state;
    struct http_call_request request;
    BUFFER_AUTO last = BUFFER_INIT;
    prepare(bed, &request, "/f/x?q=1", "hello");
    assert_int_equal(http_call_method(&request, "PATCH", 5, NULL), 0);
    assert_int_equal(http_call_header(&request, "X-A", "b c", NULL), 0);
    assert_int_equal(http_call_header(&request, "X-Empty", "", NULL), 0);
    assert_true(http_call_has_header(&request, "x-a"));
    assert_true(http_call_has_header(&request, "X-EMPTY"));
    assert_false(http_call_has_header(&request, "X"));
    assert_int_equal(ask(bed, &request).status, 200);
    function_server_last(bed->server, &last);
    const char *text = buffer_text(&last);
    assert_non_null(strstr(text, "PATCH /f/x?q=1\n"));
    assert_non_null(strstr(text, "\nX-A: b c\n"));
    assert_non_null(strstr(text, "\nX-Empty:\n"));
    assert_non_null(strstr(text, "\n\nhello"));
    assert_null(strcasestr(text, "expect"));
    assert_null(strcasestr(text, "content-type"));
}

static void test_methods(void **state)
{
    struct bed *bed = *state;
    static const char *const methods[] = {"GET", "HEAD", "DELETE", "POST", "PUT", "OPTIONS"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        struct http_call_request request;
        BUFFER_AUTO last = BUFFER_INIT;
        /* The server announces a body to HEAD as to GET. */
        prepare(bed, &request, "/f/x", NULL);
        assert_int_equal(http_call_method(&request, methods[i], strlen(methods[i]), NULL), 0);
        assert_int_equal(ask(bed, &request).status, 200);
        function_server_last(bed->server, &last);
        assert_memory_equal(buffer_text(&last), methods[i], strlen(methods[i]));
    }
}

static void test_refused_requests(void **state)
{
    (void)state;
    static const char *const methods[] = {"", "GET POST", "A\r\n", "ABCDEFGHIJKLMNOPQ"};
    static const char *const names[] = {
        "", "A B", "A:", "A\n", "\xc3\xa9", "content-length", "Transfer-Encoding"};
    static const char *const values[] = {"a\nb", "a\rb", "\x01", "\x7f"};
    struct http_call_request request;
    struct error err;
    http_call_request_init(&request);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(http_call_method(&request, methods[i], strlen(methods[i]), &err), -1);
    assert_int_equal(http_call_method(&request, "A\0B", 3, &err), -1);
    assert_string_equal(request.method, "POST");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_int_equal(http_call_header(&request, names[i], "v", &err), -1);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(http_call_header(&request, "Secret", values[i], &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_null(strstr(err.message, values[i]));
    }
    assert_int_equal(request.headers.len, 0);
    http_call_request_done(&request);
}

static void test_urls(void **state)
{
    struct bed *bed = *state;
    static const char *const bad[] = {"",        "x",           "ftp://h/",          "file:///etc/passwd",
                                      "http://", "http://a b/", "http://h/\r\nX: y", "gopher://h/"};
    struct error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct http_call_request request;
        http_call_request_init(&request);
        buffer_append_text(&request.url, bad[i]);
        assert_int_equal(http_call_start(bed->calls, &request, on_done, NULL, NULL, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        http_call_request_done(&request);
    }
    static const struct {
        const char *url, *origin, *host, *path, *query;
    } rows[] = {
        {"http://H.Example/a?b=c", "http://h.example:80", "H.Example", "/a", "b=c"},
        {"https://u:p@h", "https://h:443", "h", "/", ""},
        {"https://h:8443/x%20y", "https://h:8443", "h:8443", "/x%20y", ""},
        {"http://[::1]:80/", "http://[::1]:80", "[::1]", "/", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO origin = BUFFER_INIT;
        BUFFER_AUTO host = BUFFER_INIT;
        BUFFER_AUTO path = BUFFER_INIT;
        BUFFER_AUTO query = BUFFER_INIT;
        assert_int_equal(http_call_origin(rows[i].url, &origin, NULL), 0);
        assert_string_equal(buffer_text(&origin), rows[i].origin);
        assert_int_equal(http_call_url_parts(rows[i].url, &host, &path, &query, NULL), 0);
        assert_string_equal(buffer_text(&host), rows[i].host);
        assert_string_equal(buffer_text(&path), rows[i].path);
        assert_string_equal(buffer_text(&query), rows[i].query);
    }
}

static void test_failures(void **state)
{
    struct bed *bed = *state;
    struct outcome o = ask_function(bed, "/f/x", &(struct function_behaviour){.mode = FUNCTION_DROPS});
    assert_int_equal(o.status, 0);
    assert_int_equal(o.code, ERROR_UNAVAILABLE);
    o = ask_function(bed, "/f/x", &(struct function_behaviour){.mode = FUNCTION_TRUNCATES});
    assert_int_equal(o.status, 200);
    assert_false(o.complete);
    assert_int_equal(o.code, ERROR_UNAVAILABLE);
    o = ask_function(bed, "/f/x", &(struct function_behaviour){.mode = FUNCTION_FLOODS});
    assert_int_equal(o.status, 200);
    assert_int_equal(o.code, ERROR_LIMIT);
    assert_int_equal(o.len, 100);
    o = ask_function(bed, "/f/x", &(struct function_behaviour){.mode = FUNCTION_FLOODS_HEADERS});
    assert_false(o.complete);
    assert_int_equal(o.code, ERROR_LIMIT);
    o = ask_function(bed, "http://127.0.0.1:1/", NULL);
    assert_int_equal(o.code, ERROR_UNAVAILABLE);
    o = ask_function(bed, "http://no.such.host.invalid/", NULL);
    assert_int_equal(o.code, ERROR_UNAVAILABLE);
}

/* On kept connections, where libcurl would send a request again by itself. */
static void test_sent_once(void **state)
{
    struct bed *bed = *state;
    enum { CALLS = 20 };
    static struct outcome outcomes[CALLS];
    for (unsigned round = 0; round < 2; round++) {
        bool drops = round == 1;
        function_server_behave(
            bed->server, NULL,
            &(struct function_behaviour){.mode = drops ? FUNCTION_DROPS : FUNCTION_ANSWERS, .delay_ms = 20});
        for (unsigned i = 0; i < CALLS; i++) {
            struct http_call_request request;
            prepare(bed, &request, "/f/x", i % 2 ? "{}" : NULL);
            if (i % 4 == 0)
                assert_int_equal(http_call_method(&request, "GET", 3, NULL), 0);
            begin(bed, &request, &outcomes[i]);
        }
        wait_all(bed);
        assert_int_equal(function_server_requests(bed->server), CALLS * (round + 1));
        for (unsigned i = 0; i < CALLS && drops; i++) {
            assert_int_equal(outcomes[i].n, 1);
            assert_int_equal(outcomes[i].status, 0);
            assert_int_equal(outcomes[i].code, ERROR_UNAVAILABLE);
            assert_non_null(strstr(outcomes[i].message, ": the connection was lost before an answer came"));
        }
    }
    assert_int_equal(ask_function(bed, "/f/x", &(struct function_behaviour){.status = 200}).status, 200);
}

static void test_timeout(void **state)
{
    struct bed *bed = *state;
    struct http_call_request request;
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.mode = FUNCTION_HANGS});
    prepare(bed, &request, "/f/x", "{}");
    request.timeout_ns = 50 * CLOCK_MS;
    struct outcome o = ask(bed, &request);
    assert_int_equal(o.status, 0);
    assert_int_equal(o.code, ERROR_UNAVAILABLE);
}

static void test_statuses(void **state)
{
    struct bed *bed = *state;
    static const unsigned statuses[] = {201, 204, 301, 400, 404, 429, 500, 503};
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        struct outcome o = ask_function(bed, "/f/x",
                                        &(struct function_behaviour){.status = statuses[i],
                                                                     .body = statuses[i] == 204 ? "" : "no",
                                                                     .retry_after = "7"});
        assert_int_equal(o.status, statuses[i]);
        assert_true(o.complete);
        assert_int_equal(o.retry_after_ns, 7 * CLOCK_S);
    }
}

static void test_public_addresses(void **state)
{
    static const char *const public[] = {
        "8.8.8.8",     "1.1.1.1",         "172.32.0.1",           "172.15.0.1",     "192.169.0.1",
        "100.128.0.1", "223.255.255.255", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"};
    static const char *const others[] = {"127.0.0.1",
                                         "127.9.9.9",
                                         "10.1.2.3",
                                         "172.16.0.1",
                                         "172.31.255.255",
                                         "192.168.1.1",
                                         "169.254.169.254",
                                         "0.0.0.0",
                                         "100.64.0.1",
                                         "224.0.0.1",
                                         "255.255.255.255",
                                         "::1",
                                         "::",
                                         "fe80::1",
                                         "fd00::1",
                                         "ff02::1",
                                         "::ffff:127.0.0.1",
                                         "::ffff:10.0.0.1",
                                         "64:ff9b::7f00:1",
                                         "2002:7f00:1::1",
                                         "::127.0.0.1"};
    (void)state;
    for (size_t i = 0; i < sizeof public / sizeof public[0] + sizeof others / sizeof others[0]; i++) {
        bool wanted = i < sizeof public / sizeof public[0];
        const char *text = wanted ? public[i] : others[i - sizeof public / sizeof public[0]];
        struct sockaddr_in in = {.sin_family = AF_INET};
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
        const struct sockaddr *address = strchr(text, ':') ? (struct sockaddr *)&in6 : (struct sockaddr *)&in;
        if (strchr(text, ':'))
            assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
        else
            assert_int_equal(inet_pton(AF_INET, text, &in.sin_addr), 1);
        if (http_call_is_public(address) != wanted)
            fail_msg("%s", text);
    }
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    assert_false(http_call_is_public((struct sockaddr *)&local));
}

static void test_public_only(void **state)
{
    struct bed *bed = *state;
    struct http_call_request request;
    char url[64];
    http_calls_free(bed->calls);
    assert_int_equal(http_calls_new(bed->loop, true, "", &bed->calls, NULL), 0);
    snprintf(url, sizeof url, "http://localhost:%u/f/x", function_server_port(bed->server));
    prepare(bed, &request, url, NULL);
    assert_int_equal(ask(bed, &request).status, 0);
    assert_int_equal(ask_function(bed, "/f/x", NULL).status, 0);
    assert_int_equal(function_server_connections(bed->server), 0);
}

static void test_retry_after(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        uint64_t seconds;
    } rows[] = {
        {"0", 0},
        {"120", 120},
        {" 5 ", 5},
        {"-1", 0},
        {"1.5", 0},
        {"x", 0},
        {"", 0},
        {"99999999999999999999", 365 * 24 * 3600},
        {"Sun, 06 Nov 1994 08:49:37 GMT", 37},
        {"Sunday, 06-Nov-94 08:49:37 GMT", 37},
        {"Sun Nov  6 08:49:37 1994", 37},
        {"Sun, 06 Nov 1994 08:48:59 GMT", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(http_call_retry_after(rows[i].value, 784111740), rows[i].seconds * CLOCK_S);
}

/* Many at a time over kept connections; each answer belongs to its call. */
static void test_many(void **state)
{
    struct bed *bed = *state;
    enum { CALLS = 300, ROUNDS = 3 };
    static struct outcome outcomes[CALLS];
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.delay_ms = 20});
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < CALLS; i++) {
            struct http_call_request request;
            char body[32];
            snprintf(body, sizeof body, "{\"n\":%u}", i);
            prepare(bed, &request, "/f/many", body);
            begin(bed, &request, &outcomes[i]);
        }
        assert_int_equal(http_calls_under_way(bed->calls), CALLS);
        wait_all(bed);
        for (unsigned i = 0; i < CALLS; i++) {
            char body[32];
            snprintf(body, sizeof body, "{\"n\":%u}", i);
            assert_int_equal(outcomes[i].n, 1);
            assert_int_equal(outcomes[i].status, 200);
            assert_string_equal(outcomes[i].body, body);
        }
    }
    assert_int_equal(function_server_requests(bed->server), CALLS * ROUNDS);
    assert_in_range(function_server_connections(bed->server), 1, CALLS + 10);
}

/* Together more than all answers under way may keep, but never at a time. */
static void test_room_is_given_back(void **state)
{
    struct bed *bed = *state;
    enum { CALLS = 20, ROUNDS = HTTP_CALL_KEPT_BYTES / (CALLS << 20) + 2 };
    static struct outcome outcomes[CALLS];
    char *body = malloc((1 << 20) + 1);
    assert_non_null(body);
    memset(body, 'x', 1 << 20);
    body[1 << 20] = '\0';
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.body = body});
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < CALLS; i++) {
            struct http_call_request request;
            prepare(bed, &request, "/f/x", NULL);
            request.answer_max = 2 << 20;
            begin(bed, &request, &outcomes[i]);
        }
        wait_all(bed);
        for (unsigned i = 0; i < CALLS; i++) {
            assert_true(outcomes[i].complete);
            assert_int_equal(outcomes[i].len, 1 << 20);
        }
    }
    free(body);
}

/* Of a long answer its end, and no room is lost by that. */
static void test_keep_last(void **state)
{
    struct bed *bed = *state;
    enum { LEN = 8 << 20, KEPT = 64 << 10, CALLS = HTTP_CALL_KEPT_BYTES / LEN + 1 };
    char *body = malloc(LEN + 1);
    assert_non_null(body);
    memset(body, 'x', LEN);
    strcpy(body + LEN - 7, "the end");
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.body = body});
    for (unsigned i = 0; i < CALLS; i++) {
        struct http_call_request request;
        prepare(bed, &request, "/f/x", NULL);
        request.answer_max = KEPT;
        request.keep_last = true;
        struct outcome o = ask(bed, &request);
        assert_true(o.complete);
        assert_in_range(o.len, KEPT / 4, KEPT);
        assert_string_equal(o.last, "the end");
    }
    free(body);
}

static void again(void *data, const struct http_answer *answer)
{
    struct bed *bed = data;
    struct http_call_request request;
    static struct outcome last;
    assert_int_equal(answer->status, 200);
    prepare(bed, &request, "/f/second", NULL);
    begin(bed, &request, &last);
}

static void test_begin_in_done(void **state)
{
    struct bed *bed = *state;
    struct http_call_request request;
    prepare(bed, &request, "/f/first", NULL);
    assert_int_equal(http_call_start(bed->calls, &request, again, bed, NULL, NULL), 0);
    http_call_request_done(&request);
    wait_all(bed);
    assert_int_equal(function_server_starts(bed->server, "second", NULL, NULL), 1);
}

static void never(void *data, const struct http_answer *answer)
{
    (void)data;
    (void)answer;
    fail();
}

static void test_cancel(void **state)
{
    struct bed *bed = *state;
    struct http_call_request request;
    struct http_call *call;
    struct error err;
    function_server_behave(bed->server, NULL, &(struct function_behaviour){.mode = FUNCTION_HANGS});
    prepare(bed, &request, "/f/x", "{}");
    assert_int_equal(http_call_start(bed->calls, &request, never, NULL, &call, NULL), 0);
    WAIT((loop_run_once(bed->loop, CLOCK_MS, &err), function_server_requests(bed->server) == 1));
    http_call_cancel(call);
    assert_int_equal(http_calls_under_way(bed->calls), 0);
    /* One more is left to http_calls_free. */
    assert_int_equal(http_call_start(bed->calls, &request, never, NULL, NULL, NULL), 0);
    http_call_request_done(&request);
    loop_run_once(bed->loop, CLOCK_MS, &err);
}

/* --- TLS and HTTP/2 --- */

struct tls {
    char dir[64];
    struct process server;
    int port;
};

#define NGHTTPD "/usr/sbin/nghttpd"

static int free_port(void)
{
    struct function_server *server = function_server_new();
    assert_non_null(server);
    int port = (int)function_server_port(server);
    function_server_free(server);
    return port;
}

static bool answers(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool well = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0)
        close(fd);
    return well;
}

/* A server that sends back what it gets, with a certificate of its own. */
static void start_tls(struct tls *tls)
{
    char command[512], log[96], key[96], certificate[96], port[16];
    *tls = (struct tls){.dir = "/tmp/triggerflow-tls-XXXXXX"};
    assert_non_null(mkdtemp(tls->dir));
    snprintf(command, sizeof command,
             "cd %s && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem -subj "
             "/CN=localhost -addext subjectAltName=IP:127.0.0.1 >/dev/null 2>&1",
             tls->dir);
    assert_int_equal(system(command), 0);
    tls->port = free_port();
    snprintf(log, sizeof log, "%s/log", tls->dir);
    snprintf(key, sizeof key, "%s/key.pem", tls->dir);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", tls->dir);
    snprintf(port, sizeof port, "%d", tls->port);
    process_init(&tls->server, log);
    const char *argv[] = {NGHTTPD, "--echo-upload", "-a", "127.0.0.1", "-d", tls->dir, port,
                          key,     certificate,     NULL};
    assert_int_equal(process_start(&tls->server, argv, (const char *const[]){NULL}), 0);
    WAIT_ELSE(answers(tls->port), process_show_log(&tls->server));
}

static void stop_tls(struct tls *tls)
{
    char command[96];
    process_kill(&tls->server, SIGKILL);
    snprintf(command, sizeof command, "rm -rf %s", tls->dir);
    if (system(command) != 0)
        perror(command);
}

static unsigned open_descriptors(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 4096; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void use_authority(struct bed *bed, const char *certificate)
{
    http_calls_free(bed->calls);
    assert_int_equal(http_calls_new(bed->loop, false, certificate, &bed->calls, NULL), 0);
}

/* Streams of one connection, not connections. */
static void test_http2(void **state)
{
    struct bed *bed = *state;
    enum { CALLS = 200 };
    static struct outcome outcomes[CALLS];
    struct tls tls;
    struct http_call_request request;
    char url[64], certificate[96], body[32];
    if (access(NGHTTPD, X_OK) != 0) {
        puts("skipped: no " NGHTTPD);
        skip();
    }
    start_tls(&tls);
    snprintf(url, sizeof url, "https://127.0.0.1:%d/x", tls.port);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", tls.dir);
    prepare(bed, &request, url, "{}");
    struct outcome o = ask(bed, &request); /* nobody vouches for it */
    assert_int_equal(o.status, 0);
    assert_int_equal(o.code, ERROR_REFUSED);
    use_authority(bed, certificate);
    prepare(bed, &request, url, "first");
    o = ask(bed, &request);
    assert_int_equal(o.version, 20);
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < CALLS; i++) {
        snprintf(body, sizeof body, "%u", i);
        prepare(bed, &request, url, body);
        begin(bed, &request, &outcomes[i]);
    }
    wait_all(bed);
    for (unsigned i = 0; i < CALLS; i++) {
        snprintf(body, sizeof body, "%u", i);
        assert_int_equal(outcomes[i].status, 200);
        assert_int_equal(outcomes[i].version, 20);
        assert_string_equal(outcomes[i].body, body);
    }
    assert_in_range(open_descriptors() - before, 1, 18);
    use_authority(bed, "");
    stop_tls(&tls);
}

/* --- a Unix socket --- */

static void test_unix_socket(void **state)
{
    struct bed *bed = *state;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct http_call_request request;
    struct outcome o;
    struct error err;
    char dir[] = "/tmp/triggerflow-unix-XXXXXX";
    char got[2048] = "";
    assert_non_null(mkdtemp(dir));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", dir);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 5), 0);
    prepare(bed, &request, "http://docker/v1/info", NULL);
    buffer_append_text(&request.unix_socket, address.sun_path);
    assert_int_equal(http_call_method(&request, "GET", 3, NULL), 0);
    begin(bed, &request, &o);
    loop_run_once(bed->loop, CLOCK_S, &err);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    WAIT((loop_run_once(bed->loop, CLOCK_MS, &err), recv(fd, got, sizeof got - 1, MSG_DONTWAIT) > 0));
    assert_non_null(strstr(got, "GET /v1/info HTTP/1.1\r\nHost: docker\r\n"));
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    assert_int_equal(send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL), sizeof answer - 1);
    wait_all(bed);
    assert_int_equal(o.status, 200);
    assert_string_equal(o.body, "hi");
    assert_int_equal(ask_function(bed, "/f/x", NULL).status, 200); /* with the same handle */
    close(fd);
    close(listener);
    unlink(address.sun_path);
    rmdir(dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_answer),        TEST(test_request_as_sent),
        TEST(test_methods),       TEST(test_refused_requests),
        TEST(test_urls),          TEST(test_failures),
        TEST(test_timeout),       TEST(test_statuses),
        TEST(test_retry_after),   TEST(test_public_addresses),
        TEST(test_public_only),   TEST(test_many),
        TEST(test_begin_in_done), TEST(test_room_is_given_back),
        TEST(test_cancel),        TEST(test_http2),
        TEST(test_unix_socket),   TEST(test_sent_once),
        TEST(test_keep_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
