/* A real supervisor whose workspace "w" takes events over HTTP and counts them, in the trigger "count", on
 * any storage, with files, ports and a log of its own. Functions say on standard error what went wrong.
 * Thread: main. */
#pragma once

#include <stdbool.h>

#include "tests/support/process.h"
#include "tests/support/storage_bed.h"

#define EVENT_SERVER_AUTH_MAX 256

struct event_server {
    struct storage_bed storage;
    struct process supervisor;
    char dir[64];
    unsigned controller_port;
    unsigned port;                    /* of the trigger API */
    char auth[EVENT_SERVER_AUTH_MAX]; /* header line for it, "" or with CR LF */
};

/* Stores the workspace and writes the configuration; nothing runs. As storage_bed_start(). more: further
 * YAML. */
int event_server_init(struct event_server *server, const char *backend, const char *more);
/* Kills what runs and removes all. */
void event_server_done(struct event_server *server);
/* Starts the supervisor and waits until it serves. 0, or -1. */
int event_server_start(struct event_server *server);
/* Stops it, its worker draining. 0, or -1. */
int event_server_stop(struct event_server *server);

/* Stores another workspace, with or without the HTTPEventSource. 0, or -1. */
int event_server_store(struct event_server *server, const char *workspace, bool source);
/* The counter as it is stored; -1: none. */
long long event_server_counter(const struct event_server *server, const char *workspace);
/* One request of the controller API; appends the body when the answer is a 200 or 201. The status, 0 without.
 */
int event_server_control(const struct event_server *server, const char *method, const char *path, char *to,
                         size_t size);
/* Of the worker; 0: there is none. */
pid_t event_server_worker(const struct event_server *server, const char *workspace);
