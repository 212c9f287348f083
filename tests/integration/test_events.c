/* Events over HTTP through the real programs, on every storage. That each counts once, whatever dies, is
 * tried in test_source_http.c and test_crash_http.c. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "tests/support/event_server.h"
#include "tests/support/http_client.h"
#include "tests/support/wait.h"

#define TYPE "application/cloudevents+json"
#define BATCH "application/cloudevents-batch+json"

static int setup(void **state, const char *backend)
{
    struct event_server *server = calloc(1, sizeof *server);
    assert_non_null(server);
    signal(SIGPIPE, SIG_IGN);
    int r = event_server_init(server, backend, "supervisor: {stop_timeout: 20s}");
    assert_true(r >= 0);
    if (r > 0) {
        free(server);
        server = NULL;
    } else {
        assert_int_equal(event_server_start(server), 0);
    }
    *state = server;
    return 0;
}

static int setup_sqlite(void **state)
{
    return setup(state, "sqlite");
}

static int setup_redis(void **state)
{
    return setup(state, "redis");
}

static int teardown(void **state)
{
    struct event_server *server = *state;
    if (!server)
        return 0;
    if (getenv("KEEP_LOGS"))
        process_show_log(&server->supervisor);
    event_server_done(server);
    free(server);
    return 0;
}

/* ---- The client ---- */

static void append_event(struct buffer *out, const char *id)
{
    buffer_printf(
        out, "{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"/s\",\"type\":\"t\",\"subject\":\"s\"}",
        id);
}

static void send_events(const struct event_server *server, int fd, const char *workspace, const char *type,
                        const struct buffer *body)
{
    BUFFER_AUTO head = BUFFER_INIT;
    buffer_printf(
        &head,
        "POST /workspace/%s/event HTTP/1.1\r\nHost: x\r\n%sContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
        workspace, server->auth, type, body->len);
    buffer_append(&head, body->data, body->len);
    http_client_send(fd, head.data, head.len);
}

/* Publishes n events <name>-0, ... as one batch on a connection of its own; the status. */
static int publish(const struct event_server *server, const char *workspace, const char *name, int n,
                   char answer[HTTP_CLIENT_ANSWER_MAX])
{
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_append_char(&body, '[');
    for (int i = 0; i < n; i++) {
        char id[64];
        snprintf(id, sizeof id, "%s-%d", name, i);
        if (i > 0)
            buffer_append_char(&body, ',');
        append_event(&body, id);
    }
    buffer_append_char(&body, ']');
    int fd = http_client_connect(server->port);
    send_events(server, fd, workspace, BATCH, &body);
    int status = http_client_read(fd, answer, false);
    close(fd);
    return status;
}

#define SKIP_WITHOUT(server) \
    if (!(server))           \
    skip()

/* ---- Tests ---- */

static void test_modes(void **state)
{
    struct event_server *server = *state;
    SKIP_WITHOUT(server);
    char answer[HTTP_CLIENT_ANSWER_MAX];
    assert_int_equal(publish(server, "w", "a", 10, answer), 202);
    assert_string_equal(http_client_body(answer), "{\"accepted\":10,\"duplicates\":0}");
    assert_int_equal(publish(server, "w", "a", 12, answer), 202);
    assert_string_equal(http_client_body(answer), "{\"accepted\":12,\"duplicates\":10}");
    int fd = http_client_connect(server->port);
    BUFFER_AUTO body = BUFFER_INIT;
    append_event(&body, "single");
    send_events(server, fd, "w", TYPE, &body);
    assert_int_equal(http_client_read(fd, answer, false), 202);
    BUFFER_AUTO request = BUFFER_INIT;
    buffer_printf(&request,
                  "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\n%sce-specversion: 1.0\r\nce-id: binary\r\n"
                  "ce-source: /s\r\nce-type: t\r\nce-subject: s\r\nContent-Length: 2\r\n\r\n{}",
                  server->auth);
    http_client_send(fd, request.data, request.len);
    assert_int_equal(http_client_read(fd, answer, false), 202);
    close(fd);
    WAIT(event_server_counter(server, "w") == 14);
    assert_int_equal(event_server_stop(server), 0);
    assert_int_equal(event_server_counter(server, "w"), 14);
}

static void test_refused(void **state)
{
    struct event_server *server = *state;
    SKIP_WITHOUT(server);
    char answer[HTTP_CLIENT_ANSWER_MAX];
    assert_int_equal(publish(server, "nowhere", "a", 1, answer), 404);
    assert_int_equal(event_server_store(server, "without", false), 0);
    assert_int_equal(publish(server, "without", "a", 1, answer), 409);
    int fd = http_client_connect(server->port);
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_append_text(&body, "[");
    for (int i = 0; i < 100000; i++)
        buffer_append_char(&body, '[');
    send_events(server, fd, "w", BATCH, &body);
    assert_int_equal(http_client_read(fd, answer, false), 400);
    close(fd);
    assert_int_equal(publish(server, "w", "a", 1, answer), 202);
}

/* A workspace that was stored when the supervisor was running already is started by its first event, and one
 * that was stopped is started again. */
static void test_start_by_event(void **state)
{
    struct event_server *server = *state;
    SKIP_WITHOUT(server);
    char answer[HTTP_CLIENT_ANSWER_MAX], ignored[16384];
    assert_int_equal(event_server_store(server, "late", true), 0);
    assert_int_equal(publish(server, "late", "a", 3, answer), 202);
    WAIT(event_server_counter(server, "late") == 3);
    assert_int_equal(event_server_control(server, "DELETE", "/workspace/late", ignored, sizeof ignored), 200);
    assert_int_equal(event_server_worker(server, "late"), 0);
    assert_int_equal(publish(server, "late", "b", 4, answer), 202);
    WAIT(event_server_counter(server, "late") == 7);
}

/* A workspace that an original has counted in takes no events before it is adopted. */
static void test_needs_adoption(void **state)
{
    struct event_server *server = *state;
    SKIP_WITHOUT(server);
    static const char trigger[] =
        "{\"id\":\"count\",\"uuid\":\"u\",\"workspace\":\"old\",\"transient\":false,"
        "\"condition\":{\"name\":\"COUNTER_THRESHOLD\"},\"action\":{\"name\":\"PASS\"},"
        "\"context\":{\"threshold\":1000,\"counter\":7},"
        "\"activation_events\":[{\"specversion\":\"1.0\",\"type\":\"t\",\"subject\":\"s\"}]}";
    const struct storage_op op = {STORAGE_TRIGGERS, STORAGE_PUT,        "count", 5,
                                  trigger,          sizeof trigger - 1, NULL,    0};
    char answer[HTTP_CLIENT_ANSWER_MAX], text[512], ignored[16384];
    int result;
    struct error err;
    assert_int_equal(event_server_store(server, "old", true), 0);
    struct storage *storage = storage_bed_open(&server->storage);
    assert_non_null(storage);
    assert_int_equal(storage->type->edit(storage, "old", &op, 1, &result, &err), 0);
    storage_close(storage);
    assert_int_equal(publish(server, "old", "a", 3, answer), 503);
    assert_non_null(strstr(answer, "needs adoption"));
    snprintf(text, sizeof text,
             "POST /workspace/old/pause HTTP/1.1\r\nHost: x\r\n%sContent-Length: 0\r\n\r\n", server->auth);
    assert_int_equal(http_client_ask(server->port, text, strlen(text), answer), 409);
    assert_non_null(strstr(answer, "adopt"));
    static const char adopt[] =
        "POST /workspace/old HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 21\r\n\r\n{\"adopt\":\"beginning\"}";
    assert_int_equal(http_client_ask(server->controller_port, adopt, sizeof adopt - 1, answer), 200);
    WAIT(publish(server, "old", "b", 3, answer) == 202);
    WAIT(event_server_counter(server, "old") == 10);
    assert_int_equal(event_server_control(server, "DELETE", "/workspace/old", ignored, sizeof ignored), 200);
}

/* Redis is out of memory: nothing is taken, and it is again when there is room. */
static void test_storage_full(void **state)
{
    struct event_server *server = *state;
    SKIP_WITHOUT(server);
    char answer[HTTP_CLIENT_ANSWER_MAX];
    assert_int_equal(publish(server, "w", "a", 1, answer), 202);
    freeReplyObject(redis_server_do(&server->storage.redis, "CONFIG SET maxmemory 1"));
    WAIT(publish(server, "w", "b", 2, answer) == 507);
    assert_non_null(strstr(answer, "full"));
    freeReplyObject(redis_server_do(&server->storage.redis, "CONFIG SET maxmemory 0"));
    WAIT(publish(server, "w", "b", 2, answer) == 202);
    WAIT(event_server_counter(server, "w") == 3);
}

int main(void)
{
#define TEST(f)                                                                                      \
    {.name = #f " (sqlite)", .test_func = f, .setup_func = setup_sqlite, .teardown_func = teardown}, \
    {                                                                                                \
        .name = #f " (redis)", .test_func = f, .setup_func = setup_redis, .teardown_func = teardown  \
    }
    const struct CMUnitTest tests[] = {
        TEST(test_modes),
        TEST(test_refused),
        TEST(test_start_by_event),
        TEST(test_needs_adoption),
        {.name = "test_storage_full (redis)",
         .test_func = test_storage_full,
         .setup_func = setup_redis,
         .teardown_func = teardown},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
