/* The controller API (docs/controller-api.md): starts and stops workflows and shows what they do.
 *
 * Handlers run in the main thread (http.h). A call that has to wait, for the storage or for a worker, is
 * listed until it is answered. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct api_call;
struct http_route;
struct ingest;
struct lookup;
struct loop;
struct process_table;
struct workflow_table;

#define API_START_WAIT_NS 2000000000ull /* POST answers after this although the worker is not ready */

struct api_controller {
    struct loop *loop;
    struct lookup *lookup;
    struct process_table *processes;
    struct workflow_table *workflows;
    struct ingest *ingest; /* for its counts; NULL: none */
    bool listed;           /* the stored workspaces have been started */
    unsigned port;
    uint64_t started_ns;
    uint64_t forkserver_restarts;
    uint64_t storage_errors;
    TAILQ_HEAD(, api_call) calls; /* waiting ones */
};

void api_controller_init(struct api_controller *api);
/* Answers all waiting calls with 503. No look-up may be under way. */
void api_controller_abort(struct api_controller *api);

/* The routes; the server's context is the struct api_controller. */
const struct http_route *api_controller_routes(size_t *ret_n);
