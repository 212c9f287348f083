/* systemd's notification protocol (sd_notify(3)). Thread: main. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

struct notify {
    struct sockaddr_un address;
    socklen_t len; /* 0: nobody to notify */
    bool watchdog;
};

/* Takes NOTIFY_SOCKET out of the environment, so that children do not speak for us. Before there are threads.
 */
void notify_init(struct notify *notify);
/* Sends a state ("READY=1"); does nothing without a socket. */
void notify_send(const struct notify *notify, const char *state);
/* RELOADING=1 with the time that systemd asks for. */
void notify_reloading(const struct notify *notify);
/* WATCHDOG=1 when systemd watches this process. */
void notify_watchdog(const struct notify *notify);
