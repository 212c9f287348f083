/* See notify.h. */
#include "supervisor/notify.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"

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
    notify->watchdog = usec && (!pid || strtol(pid, NULL, 10) == (long)getpid());
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

void notify_send(const struct notify *notify, const char *state)
{
    if (notify->len == 0)
        return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&notify->address,
           notify->len);
    close(fd);
}

void notify_reloading(const struct notify *notify)
{
    char state[80];
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)(clock_now_ns() / 1000));
    notify_send(notify, state);
}

void notify_watchdog(const struct notify *notify)
{
    if (notify->watchdog)
        notify_send(notify, "WATCHDOG=1");
}
