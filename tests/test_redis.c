/* common/redis: connecting, calling, the caller's own reader, TLS, and peers that misbehave. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/redis.h"
#include "tests/support/redis_server.h"

#define WAIT_NS (20 * CLOCK_S)

static struct redis_server shared; /* without password; not running when redis-server is absent */

static void need_server(void)
{
    if (!shared.pid) {
        print_message("skipped: no redis-server\n");
        skip();
    }
}

static struct redis_address at(int port)
{
    return (struct redis_address){.host = "127.0.0.1", .port = port};
}

static struct redis *connect_to(const struct redis_address *address)
{
    struct error err = {.code = ERROR_NONE};
    struct redis *redis = NULL;
    if (redis_connect(address, "tf-test", WAIT_NS, -1, &redis, &err) < 0)
        fail_msg("%s", err.message);
    return redis;
}

static void assert_refuses(const struct redis_address *address, enum error_code code, const char *text)
{
    struct error err = {.code = ERROR_NONE};
    struct redis *redis = NULL;
    assert_int_equal(redis_connect(address, "tf-test", WAIT_NS, -1, &redis, &err), -1);
    assert_null(redis);
    if (err.code != code || !strstr(err.message, text))
        fail_msg("code %s, message %s", error_code_name(err.code), err.message);
}

static redisReply *call(struct redis *redis, int argc, const char *const *argv)
{
    struct error err = {.code = ERROR_NONE};
    redisReply *reply = NULL;
    if (redis_call(redis, WAIT_NS, NULL, NULL, argc, argv, NULL, &reply, &err) < 0)
        fail_msg("%s", err.message);
    return reply;
}

static void assert_answers(struct redis *redis, const char *text, int argc, const char *const *argv)
{
    redisReply *reply = call(redis, argc, argv);
    assert_non_null(reply->str);
    assert_string_equal(reply->str, text);
    freeReplyObject(reply);
}

/* ---- a real server ---- */

static void test_calls(void **state)
{
    (void)state;
    need_server();
    struct redis_address address = at(shared.port);
    struct error err;
    redisReply *reply = NULL;
    address.host = "localhost"; /* through the resolver */
    address.db = 3;
    struct redis *redis = connect_to(&address);
    assert_non_null(strstr(redis_peer(redis), "localhost:"));
    assert_answers(redis, "tf-test", 2, (const char *[]){"CLIENT", "GETNAME"});
    assert_true(fcntl(redis_fd(redis), F_GETFD) & FD_CLOEXEC);
    const char bytes[] = "a\0b\r\n\xff";
    const size_t lengths[] = {3, 1, sizeof bytes - 1};
    assert_int_equal(
        redis_call(redis, WAIT_NS, NULL, NULL, 3, (const char *[]){"SET", "k", bytes}, lengths, &reply, &err),
        0);
    freeReplyObject(reply);
    reply = call(redis, 2, (const char *[]){"GET", "k"});
    assert_int_equal(reply->len, sizeof bytes - 1);
    assert_memory_equal(reply->str, bytes, sizeof bytes - 1);
    freeReplyObject(reply);
    assert_int_equal(
        redis_call(redis, WAIT_NS, NULL, NULL, 2, (const char *[]){"HGETALL", "k"}, NULL, &reply, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    assert_non_null(strstr(err.message, "WRONGTYPE"));
    assert_false(redis_broken(redis));
    freeReplyObject(call(redis, 2, (const char *[]){"DEL", "k"}));
    redis_free(redis);
    reply = redis_server_do(&shared, "EXISTS k"); /* it was in database 3 */
    assert_int_equal(reply->integer, 0);
    freeReplyObject(reply);
}

static void test_unreachable(void **state)
{
    (void)state;
    struct redis_fake fake;
    assert_int_equal(redis_fake_start(&fake, NULL, 0, false), 0);
    redis_fake_stop(&fake); /* the port is free again */
    struct redis_address address = at(fake.port);
    char peer[40];
    snprintf(peer, sizeof peer, "127.0.0.1:%d", fake.port);
    assert_refuses(&address, ERROR_UNAVAILABLE, peer);
    address.host = "no-such-host.invalid";
    assert_refuses(&address, ERROR_UNAVAILABLE, "no-such-host.invalid");
    address.host = "::1";
    snprintf(peer, sizeof peer, "[::1]:%d", fake.port);
    assert_refuses(&address, ERROR_UNAVAILABLE, peer);
    address.port = 70000;
    assert_refuses(&address, ERROR_INVALID, "70000");
}

static void test_ipv6(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        print_message("skipped: no IPv6\n");
        skip();
    }
    close(fd);
    assert_int_equal(redis_server_run(&server, (const char *[]){"--bind", "127.0.0.1", "-::1", NULL}), 0);
    struct redis_address address = at(server.port);
    struct error err;
    struct redis *redis = NULL;
    address.host = "::1";
    if (redis_connect(&address, NULL, WAIT_NS, -1, &redis, &err) == 0)
        assert_answers(redis, "PONG", 1, (const char *[]){"PING"});
    else
        print_message("skipped: no IPv6 loopback: %s\n", err.message);
    redis_free(redis);
    redis_server_done(&server);
}

static void test_passwords(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    struct redis_address address = at(shared.port);
    /* A server without a password takes any, and the text None. */
    address.password = "None";
    redis_free(connect_to(&address));
    address.password = "whatever";
    redis_free(connect_to(&address));
    address.username = "nobody";
    assert_refuses(&address, ERROR_REFUSED, "WRONGPASS");

    assert_int_equal(redis_server_run(&server, (const char *[]){"--requirepass", "s3cret", NULL}), 0);
    address = at(server.port);
    assert_refuses(&address, ERROR_REFUSED, "NOAUTH");
    address.password = "None";
    assert_refuses(&address, ERROR_REFUSED, "NOAUTH");
    address.password = "wr0ng";
    struct error err;
    struct redis *redis = NULL;
    assert_int_equal(redis_connect(&address, NULL, WAIT_NS, -1, &redis, &err), -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    assert_null(strstr(err.message, "wr0ng"));
    address.password = "s3cret";
    redis = connect_to(&address);
    freeReplyObject(call(redis, 7, (const char *[]){"ACL", "SETUSER", "worker", "on", ">pw", "~*", "+@all"}));
    freeReplyObject(call(redis, 6, (const char *[]){"ACL", "SETUSER", "weak", "on", ">pw", "+get"}));
    redis_free(redis);
    address.username = "worker";
    address.password = "pw";
    redis = connect_to(&address);
    assert_answers(redis, "worker", 2, (const char *[]){"ACL", "WHOAMI"});
    redis_free(redis);
    address.username = "weak"; /* may neither PING nor CLIENT SETNAME */
    redis = connect_to(&address);
    redisReply *reply = NULL;
    assert_int_equal(redis_call(redis, WAIT_NS, NULL, NULL, 1, (const char *[]){"PING"}, NULL, &reply, &err),
                     -1);
    assert_int_equal(err.code, ERROR_REFUSED);
    redis_free(redis);
    redis_server_done(&server);
}

static void test_bad_database(void **state)
{
    (void)state;
    need_server();
    struct redis_address address = at(shared.port);
    address.db = 999;
    assert_refuses(&address, ERROR_REFUSED, "DB index");
}

static void beat(void *data)
{
    ++*(int *)data;
}

static void test_heartbeat(void **state)
{
    (void)state;
    need_server();
    struct redis_address address = at(shared.port);
    struct redis *redis = connect_to(&address);
    redisReply *reply = NULL;
    struct error err;
    int beats = 0;
    assert_int_equal(redis_call(redis, WAIT_NS, beat, &beats, 3, (const char *[]){"BLPOP", "none", "1.5"},
                                NULL, &reply, &err),
                     0);
    freeReplyObject(reply);
    assert_true(beats > 0);
    /* Time is up: the answer may still come, so the connection is of no use. */
    assert_int_equal(redis_call(redis, CLOCK_MS, NULL, NULL, 3, (const char *[]){"BLPOP", "none", "0"}, NULL,
                                &reply, &err),
                     -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_non_null(strstr(err.message, "timed out"));
    assert_true(redis_broken(redis));
    assert_int_equal(redis_call(redis, WAIT_NS, NULL, NULL, 1, (const char *[]){"PING"}, NULL, &reply, &err),
                     -1);
    redis_free(redis);
}

/* ---- driven from outside, with a reader of our own ---- */

struct tally {
    size_t strings;
    size_t bytes;
    size_t arrays;
    size_t freed;
};

static void *tally_string(const redisReadTask *task, char *text, size_t len)
{
    struct tally *tally = task->privdata;
    (void)text;
    tally->strings++;
    tally->bytes += len;
    return tally;
}

static void *tally_array(const redisReadTask *task, int elements)
{
    struct tally *tally = task->privdata;
    (void)elements;
    tally->arrays++;
    return tally;
}

static void *tally_integer(const redisReadTask *task, long long value)
{
    (void)value;
    return task->privdata;
}

static void *tally_nil(const redisReadTask *task)
{
    return task->privdata;
}

static void tally_free(void *object)
{
    ((struct tally *)object)->freed++;
}

static redisReplyObjectFunctions tally_functions = {tally_string, tally_array, tally_integer, tally_nil,
                                                    tally_free};

/* Receives one reply, waiting for it. */
static void *receive(struct redis *redis)
{
    struct error err = {.code = ERROR_NONE};
    void *reply = NULL;
    int rc;
    while ((rc = redis_flush(redis, &err)) >= 0 && (rc = redis_receive(redis, &reply, &err)) == 1) {
        struct pollfd p = {.fd = redis_fd(redis), .events = redis_events(redis)};
        assert_true(poll(&p, 1, 20000) > 0);
    }
    if (rc < 0)
        fail_msg("%s", err.message);
    return reply;
}

static void own_reader(struct redis *redis)
{
    struct error err = {.code = ERROR_NONE};
    struct tally tally = {0};
    char *value = calloc(1, 700);
    assert_non_null(value);
    memset(value, 'v', 699);
    freeReplyObject(call(redis, 2, (const char *[]){"DEL", "list"}));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(redis_send(redis, 3, (const char *[]){"RPUSH", "list", value}, NULL, &err), 0);
    for (int i = 0; i < 1000; i++) { /* pipelined, default reader */
        redisReply *reply = receive(redis);
        assert_int_equal(reply->integer, i + 1);
        freeReplyObject(reply);
    }
    assert_int_equal(redis_set_reader(redis, &tally_functions, &tally, &err), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(redis_send(redis, 4, (const char *[]){"LRANGE", "list", "0", "-1"}, NULL, &err), 0);
    for (int i = 0; i < 3; i++)
        assert_ptr_equal(receive(redis), &tally);
    assert_int_equal(tally.arrays, 3);
    assert_int_equal(tally.strings, 3000);
    assert_int_equal(tally.bytes, 3000 * 699);
    assert_int_equal(redis_events(redis), POLLIN);
    assert_int_equal(redis_set_reader(redis, NULL, NULL, &err), 0);
    assert_answers(redis, "PONG", 1, (const char *[]){"PING"});
    free(value);
}

/* Larger than every buffer on the way, in both directions. */
static void large_values(struct redis *redis)
{
    const size_t n = 12 * 1024 * 1024;
    char *value = malloc(n);
    struct error err = {.code = ERROR_NONE};
    redisReply *reply = NULL;
    assert_non_null(value);
    for (size_t i = 0; i < n; i++)
        value[i] = (char)(i * 31);
    const size_t lengths[] = {3, 5, n};
    assert_int_equal(redis_call(redis, WAIT_NS, NULL, NULL, 3, (const char *[]){"SET", "large", value},
                                lengths, &reply, &err),
                     0);
    freeReplyObject(reply);
    for (int i = 0; i < 2; i++) {
        reply = call(redis, 2, (const char *[]){"GET", "large"});
        assert_int_equal(reply->len, n);
        assert_memory_equal(reply->str, value, n);
        freeReplyObject(reply);
    }
    free(value);
}

static void test_own_reader(void **state)
{
    (void)state;
    need_server();
    struct redis_address address = at(shared.port);
    struct redis *redis = connect_to(&address);
    own_reader(redis);
    large_values(redis);
    redis_free(redis);
}

/* ---- TLS ---- */

static void test_tls(void **state)
{
    (void)state;
    need_server();
    struct redis_server server;
    char cert[96];
    char key[96];
    assert_int_equal(redis_server_init(&server), 0);
    if (redis_server_certificate(&server) < 0) {
        redis_server_done(&server);
        print_message("skipped: no openssl program\n");
        skip();
    }
    snprintf(cert, sizeof cert, "%s/cert.pem", server.dir);
    snprintf(key, sizeof key, "%s/key.pem", server.dir);
    const char *const arguments[] = {
        "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, NULL};
    assert_int_equal(redis_server_start(&server, true, arguments), 0);

    struct redis_address address = at(server.port);
    assert_refuses(&address, ERROR_UNAVAILABLE, "127.0.0.1"); /* plain to a TLS port */
    address.tls = true;
    address.host = "localhost";
    assert_refuses(&address, ERROR_REFUSED, "certificate"); /* the system does not know who signed it */
    address.tls_ca = "/nonexistent/ca.pem";
    assert_refuses(&address, ERROR_REFUSED, "/nonexistent/ca.pem");
    address.tls_ca = cert;
    assert_refuses(&address, ERROR_REFUSED, "certificate"); /* the server wants one of ours */
    address.tls_cert = cert;
    address.tls_key = "/nonexistent/key.pem";
    assert_refuses(&address, ERROR_REFUSED, "/nonexistent/key.pem");
    address.tls_key = key;
    struct redis *redis = connect_to(&address);
    own_reader(redis);
    large_values(redis);
    redis_free(redis);
    address.host = "127.0.0.1";
    assert_refuses(&address, ERROR_REFUSED, "IP address mismatch");
    address.port =
        shared.port; /* TLS to a plain port: Redis waits for the rest of a command that never comes */
    struct error err = {.code = ERROR_NONE};
    assert_int_equal(redis_connect(&address, NULL, 200 * CLOCK_MS, -1, &redis, &err), -1);
    redis_server_done(&server);
}

/* ---- peers that misbehave ---- */

static void test_greeting_errors(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        enum error_code code;
        const char *text;
    } cases[] = {
        {"-LOADING Redis is loading the dataset in memory\r\n", ERROR_UNAVAILABLE, "LOADING"},
        {"-DENIED Redis is running in protected mode\r\n", ERROR_REFUSED, "DENIED"},
        {"-MASTERDOWN Link with MASTER is down\r\n", ERROR_UNAVAILABLE, "MASTERDOWN"},
        {"HTTP/1.1 400 Bad Request\r\n\r\n", ERROR_UNAVAILABLE, "not a Redis reply"},
        {"", ERROR_UNAVAILABLE, "closed"},
        {"$100\r\nhalf a rep", ERROR_UNAVAILABLE, "closed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct redis_fake fake;
        bool close_after = cases[i].answer[0] != '-';
        assert_int_equal(redis_fake_start(&fake, cases[i].answer, strlen(cases[i].answer), close_after), 0);
        struct redis_address address = at(fake.port);
        assert_refuses(&address, cases[i].code, cases[i].text);
        redis_fake_stop(&fake);
    }
}

static void test_silent_peer(void **state)
{
    (void)state;
    struct redis_fake fake;
    struct redis *redis = NULL;
    struct error err = {.code = ERROR_NONE};
    assert_int_equal(redis_fake_start(&fake, NULL, 0, false), 0);
    struct redis_address address = at(fake.port);
    assert_int_equal(redis_connect(&address, NULL, 50 * CLOCK_MS, -1, &redis, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_non_null(strstr(err.message, "timed out"));
    int cancel = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(redis_connect(&address, NULL, WAIT_NS, cancel, &redis, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_non_null(strstr(err.message, "cancelled"));
    address.host = "no-such-host.invalid";
    assert_int_equal(redis_connect(&address, NULL, WAIT_NS, cancel, &redis, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    close(cancel);
    redis_fake_stop(&fake);
}

/* A connection over one end of a socket pair; the test writes into the other, *ret_peer. */
static struct redis *attach(int *ret_peer)
{
    int fds[2];
    struct redis *redis = NULL;
    struct error err;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    assert_int_equal(redis_attach(fds[0], &redis, &err), 0);
    *ret_peer = fds[1];
    return redis;
}

static void put(int fd, const char *bytes, size_t n)
{
    assert_int_equal(send(fd, bytes, n, MSG_NOSIGNAL), n);
}

static void test_hostile_replies(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        const char *text;
    } cases[] = {
        {"garbage\r\n", "not a Redis reply"},
        {"*2147483647\r\n", "too many elements"},
        {"*4194305\r\n", "too many elements"},
        {"*4611686018427387905\r\n", "not a Redis reply"},
        {"*-2\r\n", "not a Redis reply"},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "not a Redis reply"},
        {"*2\r\n:1\r\n*2147483647\r\n", "too many elements"},
        {"$9223372036854775807\r\n", "longer than"},
        {"$600000000\r\nabc", "longer than"},
        {"$111111111111111111111111111", "bad length"},
        {"$-7\r\n", "not a Redis reply"},
        {":12a\r\n", "not a Redis reply"},
        {"$5\r\nab", "closed"},
        {"*3\r\n$1\r\na\r\n:7\r\n", "closed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {.code = ERROR_NONE};
        void *reply = NULL;
        int peer;
        struct redis *redis = attach(&peer);
        put(peer, cases[i].bytes, strlen(cases[i].bytes));
        close(peer);
        int rc;
        while ((rc = redis_receive(redis, &reply, &err)) == 1)
            continue;
        assert_int_equal(rc, -1);
        assert_int_equal(err.code, ERROR_UNAVAILABLE);
        if (!strstr(err.message, cases[i].text))
            fail_msg("%s: %s", cases[i].bytes, err.message);
        assert_true(redis_broken(redis));
        assert_int_equal(redis_receive(redis, &reply, &err), -1);
        assert_int_equal(redis_send(redis, 1, (const char *[]){"PING"}, NULL, &err), -1);
        assert_int_equal(redis_flush(redis, &err), -1);
        redis_free(redis);
    }
}

static void test_long_line(void **state)
{
    (void)state;
    struct error err = {.code = ERROR_NONE};
    void *reply = NULL;
    char bytes[4096];
    int peer;
    int rc = 1;
    struct redis *redis = attach(&peer);
    memset(bytes, 'x', sizeof bytes);
    put(peer, "+", 1);
    for (int i = 0; i < 64 && rc == 1; i++) {
        put(peer, bytes, sizeof bytes);
        rc = redis_receive(redis, &reply, &err);
    }
    assert_int_equal(rc, -1);
    assert_non_null(strstr(err.message, "line is too long"));
    redis_free(redis);
    close(peer);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    static const char bytes[] = "*3\r\n$3\r\nabc\r\n:42\r\n*2\r\n$-1\r\n+OK\r\n";
    struct error err = {.code = ERROR_NONE};
    struct tally tally = {0};
    void *reply = NULL;
    int peer;
    struct redis *redis = attach(&peer);
    for (int custom = 0; custom < 2; custom++) {
        if (custom)
            assert_int_equal(redis_set_reader(redis, &tally_functions, &tally, &err), 0);
        for (size_t i = 0; i < sizeof bytes - 1; i++) {
            assert_int_equal(redis_receive(redis, &reply, &err), 1);
            put(peer, bytes + i, 1);
        }
        assert_int_equal(redis_receive(redis, &reply, &err), 0);
        if (custom) {
            assert_int_equal(tally.strings, 2);
            assert_int_equal(tally.arrays, 2);
        } else {
            assert_int_equal(((redisReply *)reply)->element[1]->integer, 42);
            freeReplyObject(reply);
        }
    }
    put(peer, "*2\r\n:1\r\n", 8); /* half a reply is freed with the connection */
    assert_int_equal(redis_receive(redis, &reply, &err), 1);
    redis_free(redis);
    assert_int_equal(tally.freed, 1);
    close(peer);
}

static void test_full_socket(void **state)
{
    (void)state;
    struct error err = {.code = ERROR_NONE};
    const size_t n = 8 * 1024 * 1024;
    char *value = calloc(1, n);
    char *got = malloc(65536);
    int peer;
    int rc;
    size_t total = 0;
    struct redis *redis = attach(&peer);
    assert_non_null(value);
    assert_non_null(got);
    assert_int_equal(redis_send(redis, 1, (const char *[]){value}, &n, &err), 0);
    assert_int_equal(redis_flush(redis, &err), 1);
    assert_int_equal(redis_events(redis), POLLIN | POLLOUT);
    do {
        rc = redis_flush(redis, &err);
        assert_true(rc >= 0);
        ssize_t k;
        while ((k = recv(peer, got, 65536, MSG_DONTWAIT)) > 0)
            total += (size_t)k;
    } while (rc == 1);
    assert_int_equal(total, n + strlen("*1\r\n$8388608\r\n\r\n"));
    assert_int_equal(redis_events(redis), POLLIN);
    close(peer);
    assert_int_equal(redis_send(redis, 1, (const char *[]){"PING"}, NULL, &err), 0);
    assert_int_equal(redis_flush(redis, &err), -1);
    assert_int_equal(err.code, ERROR_UNAVAILABLE);
    assert_true(redis_broken(redis));
    redis_free(redis);
    free(value);
    free(got);
}

static void test_error_texts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum error_code code;
    } cases[] = {
        {"NOAUTH Authentication required.", ERROR_REFUSED},
        {"WRONGPASS invalid username-password pair or user is disabled.", ERROR_REFUSED},
        {"NOPERM this user has no permissions", ERROR_REFUSED},
        {"WRONGTYPE Operation against a key holding the wrong kind of value", ERROR_REFUSED},
        {"BUSYGROUP Consumer Group name already exists", ERROR_REFUSED},
        {"BUSY Redis is busy running a script.", ERROR_UNAVAILABLE},
        {"READONLY You can't write against a read only replica.", ERROR_UNAVAILABLE},
        {"OOM command not allowed when used memory > 'maxmemory'.", ERROR_UNAVAILABLE},
        {"LOADING", ERROR_UNAVAILABLE},
        {"MISCONF Errors writing to the AOF file", ERROR_UNAVAILABLE},
        {"TRYAGAIN Multiple keys request during rehashing of slot", ERROR_UNAVAILABLE},
        {"ERR max number of clients reached", ERROR_UNAVAILABLE},
        {"ERR unknown command", ERROR_REFUSED},
        {"ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed",
         ERROR_UNAVAILABLE},
        {"", ERROR_REFUSED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {.code = ERROR_NONE};
        assert_int_equal(redis_reply_error(cases[i].text, strlen(cases[i].text), &err), -1);
        if (err.code != cases[i].code || strcmp(err.message, cases[i].text) != 0)
            fail_msg("%s: %s", cases[i].text, error_code_name(err.code));
    }
}

static int start_shared(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    return redis_server_available() ? redis_server_run(&shared, NULL) : 0;
}

static int stop_shared(void **state)
{
    (void)state;
    redis_server_done(&shared);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_ipv6),
        cmocka_unit_test(test_passwords),
        cmocka_unit_test(test_bad_database),
        cmocka_unit_test(test_heartbeat),
        cmocka_unit_test(test_own_reader),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_greeting_errors),
        cmocka_unit_test(test_silent_peer),
        cmocka_unit_test(test_hostile_replies),
        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_full_socket),
        cmocka_unit_test(test_error_texts),
    };
    return cmocka_run_group_tests_name("redis", tests, start_shared, stop_shared);
}
