/* systemd's notification protocol (sd_notify(3)). Thread: main. */
#pragma once

/* Remembers NOTIFY_SOCKET and takes it out of the environment, so that children do not speak for us. */
void notify_init(void);
/* Sends a state ("READY=1"); does nothing without a socket. */
void notify_send(const char *state);
/* RELOADING=1 with the time that systemd asks for. */
void notify_reloading(void);
/* WATCHDOG=1 when systemd watches this process. */
void notify_watchdog(void);
