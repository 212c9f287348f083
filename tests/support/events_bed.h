/* The supervisor's half of events over HTTP in this process: a server with the route for events, the ingest,
 * an arena, and a thread in the place of the main one. The worker's half is the test's. Fails by assertion.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/config.h"
#include "common/ring.h"

struct api_trigger;
struct workflow_table;

struct events_bed {
    struct loop *loop;
    struct command_queue *queue;
    struct config config;
    struct workflow_table *workflows;
    struct api_trigger *api;
    struct ingest *ingest;
    struct http_server *server;
    unsigned port;
    pthread_t thread;
    _Atomic bool stop;
    /* the worker's side */
    int arena_fd;
    struct arena *arena;
    struct ring_consumer ring;
    int ingest_fd;
    int durable_fd;
};

/* No workflow is running, and none is started: the supervisor is stopping. */
struct events_bed *events_bed_new(void);
void events_bed_free(struct events_bed *bed);

/* The workflow is starting, and goes on doing so: events for it wait. Before there are any requests. */
void events_bed_expect(struct events_bed *bed, const char *workspace);

/* Begins a life of the workspace's worker, its ring closed, or in that state. */
void events_bed_open(struct events_bed *bed, const char *workspace);
void events_bed_set_state(struct events_bed *bed, enum arena_ingest_state state);
void events_bed_close(struct events_bed *bed, const char *workspace);

/* The worker's: the next record, or NULL. Releasing it with an answer tells the supervisor. */
struct arena_ingest_record *events_bed_peek(struct events_bed *bed);
void events_bed_answer(struct events_bed *bed, struct arena_ingest_record *record, uint32_t answer,
                       uint32_t duplicates);
