/* systemd's notification protocol: what arrives at the socket that NOTIFY_SOCKET names. */
#include "supervisor/notify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/clock.h"

static char dir[] = "/tmp/triggerflow-notify-XXXXXX";
static char path[64];
static int manager = -1; /* the manager's socket */

static int listen_at(const char *name, socklen_t len)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, len);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    assert_int_equal(
        bind(fd, (struct sockaddr *)&address, (socklen_t)offsetof(struct sockaddr_un, sun_path) + len), 0);
    return fd;
}

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/notify", dir);
    manager = listen_at(path, (socklen_t)strlen(path));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close(manager);
    unlink(path);
    rmdir(dir);
    return 0;
}

static void init(struct notify *notify, const char *socket, const char *watchdog_pid)
{
    setenv("NOTIFY_SOCKET", socket, 1);
    if (watchdog_pid) {
        setenv("WATCHDOG_USEC", "3000000", 1);
        setenv("WATCHDOG_PID", watchdog_pid, 1);
    }
    notify_init(notify);
}

/* The next message, "" when there is none; valid until the next call. */
static const char *received(int fd)
{
    static char message[512];
    ssize_t n = recv(fd, message, sizeof message - 1, 0);
    message[n > 0 ? n : 0] = '\0';
    return message;
}

static void test_states(void **state)
{
    (void)state;
    struct notify notify;
    unsigned long long usec, before = clock_now_ns() / 1000;
    init(&notify, path, NULL);
    assert_null(getenv("NOTIFY_SOCKET"));
    notify_ready(&notify);
    assert_string_equal(received(manager), "READY=1");
    notify_reloading(&notify);
    assert_int_equal(sscanf(received(manager), "RELOADING=1\nMONOTONIC_USEC=%llu", &usec), 1);
    assert_true(usec >= before && usec <= clock_now_ns() / 1000);
    notify_stopping(&notify, 45 * CLOCK_S);
    assert_string_equal(received(manager), "STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000");
    assert_string_equal(received(manager), "");
}

static void test_status_when_it_changes(void **state)
{
    (void)state;
    struct notify notify;
    char endless[2 * NOTIFY_STATUS_MAX];
    init(&notify, path, NULL);
    notify_status(&notify, "1 workflow running");
    assert_string_equal(received(manager), "STATUS=1 workflow running");
    notify_status(&notify, "1 workflow running");
    assert_string_equal(received(manager), "");
    notify_status(&notify, "2 workflows running\nREADY=1");
    assert_string_equal(received(manager), "STATUS=2 workflows running");
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    notify_status(&notify, endless);
    assert_int_equal(strlen(received(manager)), strlen("STATUS=") + NOTIFY_STATUS_MAX - 1);
    notify_status(&notify, endless);
    assert_string_equal(received(manager), "");
}

static void test_status_that_was_not_taken(void **state)
{
    (void)state;
    struct notify notify;
    int n = 0;
    char text[32];
    init(&notify, path, NULL);
    /* The manager is busy until its queue is full; what is shown then must not stay old for ever. */
    do {
        snprintf(text, sizeof text, "status %d", n++);
        notify_status(&notify, text);
    } while (strcmp(notify.status, text) == 0);
    while (*received(manager) != '\0')
        ;
    notify_status(&notify, text);
    assert_string_equal(strchr(received(manager), '=') + 1, text);
}

static void test_watchdog(void **state)
{
    (void)state;
    struct notify notify;
    char pid[32];
    init(&notify, path, NULL);
    notify_watchdog(&notify);
    assert_string_equal(received(manager), ""); /* not asked for */
    init(&notify, path, "1");
    notify_watchdog(&notify);
    assert_string_equal(received(manager), ""); /* for another process */
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    init(&notify, path, pid);
    notify_watchdog(&notify);
    assert_string_equal(received(manager), "WATCHDOG=1");
    assert_null(getenv("WATCHDOG_USEC"));
    assert_null(getenv("WATCHDOG_PID"));
}

static void test_abstract_socket(void **state)
{
    (void)state;
    struct notify notify;
    char name[64] = "";
    int len = snprintf(name, sizeof name, "@triggerflow-notify-%d", (int)getpid());
    name[0] = '\0';
    int fd = listen_at(name, (socklen_t)len);
    name[0] = '@';
    init(&notify, name, NULL);
    notify_ready(&notify);
    assert_string_equal(received(fd), "READY=1");
    close(fd);
}

static void test_nobody(void **state)
{
    (void)state;
    struct notify notify;
    char endless[200];
    memset(endless, '/', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    const char *const sockets[] = {"", "/", "relative", "vsock:2:1234", endless, "/nonexistent/notify"};
    for (size_t i = 0; i < sizeof sockets / sizeof sockets[0]; i++) {
        init(&notify, sockets[i], NULL);
        notify_ready(&notify);
        notify_status(&notify, "text");
        notify_watchdog(&notify);
        assert_string_equal(notify.status, "");
    }
    notify_init(&notify); /* and without the variable */
    notify_ready(&notify);
    assert_string_equal(received(manager), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states),          cmocka_unit_test(test_status_when_it_changes),
        cmocka_unit_test(test_watchdog),        cmocka_unit_test(test_status_that_was_not_taken),
        cmocka_unit_test(test_abstract_socket), cmocka_unit_test(test_nobody),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
