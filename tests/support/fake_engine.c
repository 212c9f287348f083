#include "tests/support/fake_engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/error.h"
#include "common/loop.h"
#include "tests/support/wait.h"
#include "worker/report.h"

void fake_engine_open(struct fake_engine *fake)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct error err;
    int fd;
    *fake = (struct fake_engine){.folder = "/tmp/triggerflow-engine-XXXXXX"};
    assert_non_null(mkdtemp(fake->folder));
    snprintf(fake->socket, sizeof fake->socket, "%s/socket", fake->folder);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", fake->socket);
    fake->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fake->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fake->listener, 64), 0);
    assert_non_null(fake->loop = loop_new(&err));
    assert_int_equal(arena_create(&fd, &err), 0);
    assert_int_equal(arena_map(fd, &fake->arena, &err), 0);
    close(fd);
    fake->engine.socket = fake->socket;
    fake->engine.report = report_new(fake->arena, fake->loop);
    assert_non_null(fake->engine.report);
    assert_int_equal(http_calls_new(fake->loop, false, "", &fake->engine.calls, &err), 0);
}

void fake_engine_close(struct fake_engine *fake)
{
    http_calls_free(fake->engine.calls);
    report_free(fake->engine.report);
    loop_free(fake->loop);
    arena_unmap(fake->arena);
    close(fake->listener);
    unlink(fake->socket);
    rmdir(fake->folder);
}

static void run(struct fake_engine *fake)
{
    struct error err;
    assert_int_equal(loop_run_once(fake->loop, CLOCK_MS, &err), 0);
}

int fake_engine_ignore(struct fake_engine *fake, const char *request)
{
    char got[4096];
    size_t len = 0;
    int fd = -1;
    ssize_t n;
    WAIT((run(fake), (fd = accept4(fake->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0));
    do {
        WAIT((run(fake), (n = recv(fd, got + len, sizeof got - 1 - len, 0)) > 0));
        len += (size_t)n;
        got[len] = '\0';
    } while (!strstr(got, "\r\n\r\n"));
    if (strncmp(got, request, strlen(request)) != 0)
        fail_msg("not %s: %s", request, got);
    return fd;
}

static void send_all(struct fake_engine *fake, int fd, const char *data, size_t len)
{
    for (ssize_t n; len; data += n, len -= (size_t)n)
        WAIT((run(fake), (n = send(fd, data, len, MSG_NOSIGNAL)) > 0));
}

void fake_engine_answer(struct fake_engine *fake, const char *request, unsigned status, const char *body,
                        size_t len, size_t sent)
{
    char head[128];
    int fd = fake_engine_ignore(fake, request);
    int n = snprintf(head, sizeof head, "HTTP/1.1 %u X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                     status, len);
    if (status) {
        send_all(fake, fd, head, (size_t)n);
        send_all(fake, fd, body, sent);
    }
    close(fd);
}

void fake_engine_say(struct fake_engine *fake, const char *request, unsigned status, const char *body)
{
    fake_engine_answer(fake, request, status, body, strlen(body), strlen(body));
}

void fake_engine_until(struct fake_engine *fake, const unsigned *done)
{
    WAIT((run(fake), *done));
}
