/* systemd's notification protocol (sd_notify(3)). Thread: main. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define NOTIFY_STATUS_MAX 256

struct notify {
    struct sockaddr_un address;
    socklen_t len; /* 0: nobody to notify */
    bool watchdog;
    bool failed;                    /* the last one was not taken, and that was logged */
    char status[NOTIFY_STATUS_MAX]; /* as last taken */
};

/* Takes NOTIFY_SOCKET out of the environment, so that children do not speak for us. Before there are threads.
 */
void notify_init(struct notify *notify);
/* These do nothing without a socket. They wait a moment for a service manager that is busy, and log once when
 * it takes nothing. */
void notify_ready(struct notify *notify);
/* RELOADING=1 with the time that systemd asks for; notify_ready ends it. */
void notify_reloading(struct notify *notify);
/* STOPPING=1, and asks for so long to do it, however short the unit's TimeoutStopSec is. */
void notify_stopping(struct notify *notify, uint64_t timeout_ns);

/* What `systemctl status` shows; sent when it has changed (text: copied, cut to NOTIFY_STATUS_MAX). Does not
 * wait: when it was not taken, the next call sends it. */
void notify_status(struct notify *notify, const char *text);
/* WATCHDOG=1 when systemd watches this process. Does not wait. */
void notify_watchdog(struct notify *notify);
