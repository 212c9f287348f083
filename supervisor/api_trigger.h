/* The trigger API (docs/trigger-api.md): workspaces, event sources, triggers, timers, dead letters, users,
 * and events over HTTP.
 *
 * Served on trigger_api.port, and on api.sock in the run directory, where the file's permissions are the
 * authentication. Thread: the HTTP servers' call the routes, see each; the members are fixed once it serves.
 */
#pragma once

#include <stddef.h>

struct api_event;
struct command_queue;
struct config;
struct http_route;
struct lookup;
struct loop;
struct process_table;
struct workflow_table;

struct api_trigger {
    struct loop *loop;
    struct command_queue *queue; /* into the main thread */
    const struct config *config; /* Thread: main */
    struct lookup *lookup;
    struct process_table *processes;
    struct workflow_table *workflows; /* Thread: main */
    unsigned port;
    struct api_event *event; /* events over HTTP */
};

/* The routes; the servers' context is the struct api_trigger. */
const struct http_route *api_trigger_routes(size_t *ret_n);
