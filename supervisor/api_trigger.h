/* The trigger API (docs/trigger-api.md): workspaces, event sources, triggers, timers, dead letters, users,
 * and events over HTTP.
 *
 * Served on trigger_api.port, and on api.sock in the run directory, where the file's permissions are the
 * authentication. The routes are direct: the server's thread hands a call to a pool of threads that wait for
 * the storage, or to one for the calls that also ask the checker, and these to the main thread what concerns
 * workflows (api_call.h). Thread: any, once it serves, but for what is marked. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "supervisor/api_call.h"
#include "supervisor/api_pool.h"

struct api_event;
struct auth;
struct checker;
struct command_queue;
struct config;
struct http_route;
struct lookup;
struct loop;
struct process_table;
struct workflow_table;

#define API_THREADS 4
#define API_CHECK_THREADS 2
#define API_LOCKS 16

struct api_trigger {
    struct loop *loop;           /* Thread: main */
    struct command_queue *queue; /* into the main thread */
    const struct config *config; /* Thread: main */
    struct lookup *lookup;
    struct process_table *processes;
    struct workflow_table *workflows; /* Thread: main */
    unsigned port;
    struct api_event *event; /* events over HTTP */

    struct auth *auth;
    struct checker *checker;
    struct api_pool *pool;
    struct api_pool *check_pool;
    struct api_job refresh; /* of the users; in the pool while `refreshing` */
    _Atomic bool refreshing;
    bool create_admin;
    /* One of them is held while a workspace is created or deleted and the main thread is told so: it hears of
     * both in the order in which they happened. */
    pthread_mutex_t locks[API_LOCKS];
    struct api_call_list waiting; /* calls that wait in the main thread. Thread: main */
};

/* Threads, checker, users; the members up to `port` are set before. api is zero-initialised. worker_path: the
 * program of the checker. */
int api_trigger_start(struct api_trigger *api, const char *worker_path, struct error *err);
/* Once a second. Thread: main. */
void api_trigger_tick(struct api_trigger *api);
/* Another configuration holds from now on. Thread: main. */
int api_trigger_configure(struct api_trigger *api, const struct config *config, struct error *err);
/* The end, step by step; a half-started one is fine. With the servers closed: ends the threads. 0, or 1: one
 * of them still waits for something, and all that it uses must be left alone. Thread: main. */
int api_trigger_stop(struct api_trigger *api);
/* When the commands that were left have run: answers what still waits. Thread: main. */
void api_trigger_abort(struct api_trigger *api);
/* With the servers stopped. */
void api_trigger_done(struct api_trigger *api);

/* For http_options: credentials of a request on TCP. */
unsigned api_trigger_authorise(void *context, const char *user, const char *password, bool loopback,
                               const char **ret_error);

/* The routes; the servers' context is the struct api_trigger. */
const struct http_route *api_trigger_routes(size_t *ret_n);
/* What a route that is a call does first, and its flags (API_...). */
api_step api_trigger_step(const struct http_route *route, unsigned *ret_flags);
