/* Clients that do not keep to the rules, all at once, against a real supervisor, while one that does
 * publishes over TCP and others ask over the controller's port: each of their requests is answered, and all
 * events are counted. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "tests/support/event_server.h"
#include "tests/support/http_client.h"
#include "tests/support/wait.h"

#define CROWD 10000
#define GOOD_MIN 200 /* requests of the well-behaved client while each kind of the others is there */

struct bed {
    struct event_server server;
    pthread_t good;
    _Atomic bool stop;
    _Atomic unsigned answered; /* of the well-behaved client: 202 */
    _Atomic unsigned wrong;
};

/* ---- The well-behaved client ---- */

/* One request on a kept connection, which is opened again when the server has closed it while nothing was
 * under way. The status. */
static int publish(const struct bed *bed, int *fd, unsigned number)
{
    char request[1024], answer[HTTP_CLIENT_ANSWER_MAX];
    snprintf(request, sizeof request,
             "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\n%sce-specversion: 1.0\r\nce-id: good-%u\r\n"
             "ce-source: /good\r\nce-type: t\r\nce-subject: s\r\nContent-Length: 2\r\n\r\n{}",
             bed->server.auth, number);
    if (*fd < 0)
        *fd = http_client_connect(bed->server.port);
    http_client_send_text(*fd, request);
    return http_client_read(*fd, answer, false);
}

static void *be_good(void *data)
{
    struct bed *bed = data;
    int fd = -1;
    for (unsigned number = 0; !atomic_load(&bed->stop); number++) {
        int status = publish(bed, &fd, number);
        if (status == 202)
            atomic_fetch_add(&bed->answered, 1);
        else {
            print_error("request %u: status %d\n", number, status);
            atomic_fetch_add(&bed->wrong, 1);
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

/* Until the well-behaved one has got that many answers more, and the controller answers, too. */
static void await_good(struct bed *bed)
{
    char answer[1024];
    unsigned from = atomic_load(&bed->answered);
    WAIT(atomic_load(&bed->answered) >= from + GOOD_MIN || atomic_load(&bed->wrong) > 0);
    assert_int_equal(event_server_control(&bed->server, "GET", "/healthz", answer, sizeof answer), 200);
    assert_int_equal(atomic_load(&bed->wrong), 0);
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    struct rlimit limit;
    assert_non_null(bed);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(event_server_init(&bed->server, "sqlite", ""), 0);
    assert_int_equal(event_server_start(&bed->server), 0);
    assert_int_equal(pthread_create(&bed->good, NULL, be_good, bed), 0);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    atomic_store(&bed->stop, true);
    pthread_join(bed->good, NULL);
    unsigned n = atomic_load(&bed->answered);
    bool wrong = atomic_load(&bed->wrong) > 0;
    long long counted = -1;
    for (int i = 0; i < 3000 && !wrong && (counted = event_server_counter(&bed->server, "w")) < n; i++)
        wait_moment();
    if (getenv("KEEP_LOGS"))
        process_show_log(&bed->server.supervisor);
    event_server_done(&bed->server);
    free(bed);
    return wrong || counted != n ? -1 : 0;
}

/* ---- The others ---- */

static int try_connect(const struct bed *bed)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)bed->server.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        fd = -1;
    }
    if (fd >= 0)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void say(int fd, const char *text)
{
    if (fd >= 0 && send(fd, text, strlen(text), MSG_NOSIGNAL) < 0 && errno == EBADF)
        fail();
}

static size_t crowd_size(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur > CROWD + 200 ? CROWD : (size_t)limit.rlim_cur / 2;
}

/* So many connections that each have said this much. */
static void crowd(struct bed *bed, const char *text)
{
    size_t n = crowd_size();
    int *fds = calloc(n, sizeof *fds);
    assert_non_null(fds);
    for (size_t i = 0; i < n; i++) {
        fds[i] = try_connect(bed);
        say(fds[i], text);
    }
    await_good(bed);
    for (size_t i = 0; i < n; i++)
        say(fds[i], "x"); /* a little more, now and then */
    await_good(bed);
    for (size_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(fds);
}

static void test_silent_crowd(void **state)
{
    crowd(*state, "");
}

static void test_slow_headers(void **state)
{
    crowd(*state, "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\nX-A: b");
}

static void test_slow_bodies(void **state)
{
    struct bed *bed = *state;
    char request[1024];
    snprintf(request, sizeof request,
             "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\n%sContent-Type: application/cloudevents+json\r\n"
             "Content-Length: 2000000\r\n\r\n{\"specversion\":",
             bed->server.auth);
    crowd(bed, request);
}

/* Sends `chunk` again and again, until the server hangs up or there was enough of it, and waits for the end.
 */
static void flood(struct bed *bed, const char *head, const char *chunk, size_t times)
{
    int fd = http_client_connect(bed->server.port);
    http_client_send_text(fd, head);
    for (size_t i = 0; i < times; i++)
        http_client_send_text(fd, chunk);
    await_good(bed);
    close(fd);
}

static void test_endless(void **state)
{
    struct bed *bed = *state;
    char head[512], chunk[8200];
    flood(bed, "GET /healthz HTTP/1.1\r\n", "X-Header-Without-End: and so on\r\n", 100000);
    flood(bed, "GET /", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 50000);
    snprintf(head, sizeof head,
             "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n",
             bed->server.auth);
    int n = snprintf(chunk, sizeof chunk, "1000\r\n");
    memset(chunk + n, '[', 4096);
    snprintf(chunk + n + 4096, sizeof chunk - (size_t)n - 4096, "\r\n");
    flood(bed, head, chunk, 10000);
    flood(bed, head, "zzzz\r\n", 1);
    flood(bed, head, "ffffffffffffffffffff\r\n", 1);
    flood(bed, head, "-1\r\n", 1);
}

/* Each of these is answered, or hung up on. */
static void ask_badly(struct bed *bed, const char *request, size_t len)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    int fd = http_client_connect(bed->server.port);
    http_client_send(fd, request, len);
    shutdown(fd, SHUT_WR);
    int status = http_client_read(fd, answer, false);
    assert_true(status == 0 || status >= 400);
    close(fd);
}

static void test_nonsense(void **state)
{
    struct bed *bed = *state;
    static const char *const requests[] = {
        "\r\n\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "GET\r\n\r\n",
        "GET /workspace/w/event HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\nxx",
        "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nshort",
        "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: "
        "chunked\r\n\r\n0\r\n\r\n",
        "POST /workspace/w/event HTTP/1.0\r\n\r\n",
        "POST /workspace/%00/event HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "POST /workspace/..%2f..%2fetc/event HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "POST http://x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        "DELETE * HTTP/1.1\r\n\r\n",
        "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\nAuthorization: Basic AAAA\r\nContent-Length: "
        "2\r\n\r\n{}",
    };
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++)
        ask_badly(bed, requests[i], strlen(requests[i]));
    BUFFER_AUTO deep = BUFFER_INIT;
    size_t depth = 1000000;
    buffer_printf(&deep,
                  "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\n%sContent-Type: "
                  "application/cloudevents-batch+json\r\n"
                  "Content-Length: %zu\r\n\r\n",
                  bed->server.auth, depth);
    memset(buffer_reserve(&deep, depth), '[', depth);
    deep.len += depth;
    ask_badly(bed, deep.data, deep.len);
    await_good(bed);
}

/* Many requests in one go, whose answers nobody reads. */
static void test_pipelining(void **state)
{
    struct bed *bed = *state;
    enum { CONNECTIONS = 50, REQUESTS = 2000 };
    int fds[CONNECTIONS];
    for (int i = 0; i < CONNECTIONS; i++) {
        fds[i] = try_connect(bed);
        for (int k = 0; k < REQUESTS; k++)
            say(fds[i], "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    await_good(bed);
    for (int i = 0; i < CONNECTIONS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_silent_crowd), TEST(test_slow_headers), TEST(test_slow_bodies),
        TEST(test_endless),      TEST(test_nonsense),     TEST(test_pipelining),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
