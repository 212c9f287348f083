/* See notify.h. */
#include "supervisor/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

#define SEND_WAIT_S 2

void notify_init(struct notify *notify)
{
    *notify = (struct notify){0};
    const char *path = getenv("NOTIFY_SOCKET");
    size_t len = path ? strlen(path) : 0;
    if ((len > 1 && (path[0] == '/' || path[0] == '@')) && len < sizeof notify->address.sun_path) {
        notify->address.sun_family = AF_UNIX;
        memcpy(notify->address.sun_path, path, len);
        if (path[0] == '@')
            notify->address.sun_path[0] = '\0'; /* the abstract name space */
        notify->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    }
    const char *usec = getenv("WATCHDOG_USEC");
    const char *pid = getenv("WATCHDOG_PID");
    notify->watchdog = notify->len > 0 && usec && (!pid || strtol(pid, NULL, 10) == (long)getpid());
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

/* Whether it was taken. A message that changes the unit's state is worth waiting for a manager that is busy.
 */
static bool send_state(const struct notify *notify, const char *state, bool wait)
{
    const struct timeval limit = {.tv_sec = SEND_WAIT_S};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    ssize_t sent = -1;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0)
        sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT),
                      (const struct sockaddr *)&notify->address, notify->len);
    int saved = errno;
    close(fd);
    errno = saved;
    return sent >= 0;
}

static void announce(struct notify *notify, const char *state)
{
    if (notify->len == 0)
        return;
    bool taken = send_state(notify, state, true);
    if (!taken && !notify->failed)
        log_warn("notify", LOG_STR("state", state), LOG_STR("error", strerror(errno)));
    notify->failed = !taken;
}

void notify_ready(struct notify *notify)
{
    announce(notify, "READY=1");
}

void notify_reloading(struct notify *notify)
{
    char state[80];
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)(clock_now_ns() / 1000));
    announce(notify, state);
}

void notify_stopping(struct notify *notify, uint64_t timeout_ns)
{
    char state[80];
    snprintf(state, sizeof state, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu",
             (unsigned long long)(timeout_ns / 1000));
    announce(notify, state);
}

void notify_status(struct notify *notify, const char *text)
{
    char state[sizeof "STATUS=" + NOTIFY_STATUS_MAX];
    char *line = state + sizeof "STATUS=" - 1;
    snprintf(state, sizeof state, "STATUS=%.*s", NOTIFY_STATUS_MAX - 1, text);
    line[strcspn(line, "\n")] = '\0'; /* a second line would be another message */
    if (notify->len == 0 || strcmp(line, notify->status) == 0)
        return;
    if (send_state(notify, state, false))
        memcpy(notify->status, line, strlen(line) + 1);
}

void notify_watchdog(struct notify *notify)
{
    if (notify->watchdog)
        (void)send_state(notify, "WATCHDOG=1", false);
}
