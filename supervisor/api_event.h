/* Events over HTTP: the route POST /workspace/X/event of the trigger API, and the start of workflows by
 * events.
 *
 * Bodies are read on the HTTP servers' threads, and handed to the ingest; workflows are started in the main
 * thread. */
#pragma once

#include <stddef.h>

struct api_event;
struct command_queue;
struct config;
struct error;
struct http_request;
struct ingest;
struct lookup;
struct workflow_table;

#define API_EVENT_BODY_MAX (2u << 20)

/* Creates the ingest, too, and makes it the workflows'. Borrows all but the configuration. Thread: main, as
 * all down to the route. */
int api_event_new(const struct config *config, struct command_queue *queue, struct lookup *lookup,
                  struct workflow_table *workflows, struct api_event **ret_event, struct error *err);
/* Another configuration holds from now on. */
void api_event_configure(struct api_event *event, const struct config *config);
/* Answers all that waits with 503. NULL is fine. */
void api_event_abort(struct api_event *event);
/* After the workflows and the look-up thread are gone. NULL is fine. */
void api_event_free(struct api_event *event);

struct ingest *api_event_ingest(struct api_event *event);

/* The route's handler; its context is a struct api_trigger. Thread: an HTTP server's (direct). */
void api_event_post(struct http_request *request);
