/* See api_event.h. */
#include "supervisor/api_event.h"

#include <microhttpd.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/arena.h"
#include "common/cloudevent.h"
#include "common/cloudevent_http.h"
#include "common/config.h"
#include "common/error.h"
#include "common/storage/storage.h"
#include "supervisor/api_trigger.h"
#include "supervisor/http.h"
#include "supervisor/ingest.h"
#include "supervisor/lookup.h"
#include "supervisor/workflow.h"

struct api_event {
    struct ingest *ingest;
    struct lookup *lookup;
    struct workflow_table *workflows; /* Thread: main */
    _Atomic size_t max_event_bytes;   /* relaxed: stands alone */
    TAILQ_HEAD(, start) starts;       /* Thread: main */
};

/* ---- POST /workspace/X/event ---- */

/* A record under construction: its events are packed one behind the other. */
struct packing {
    struct buffer *out;
    uint32_t n_events;
};

static int pack(void *data, const struct cloudevent *event, struct error *err)
{
    struct packing *packing = data;
    size_t size = cloudevent_packed_size(event);
    if (packing->out->len + size > ARENA_INGEST_MAX) {
        error_set(err, ERROR_LIMIT, "the events take more than %u bytes", ARENA_INGEST_MAX);
        return MHD_HTTP_CONTENT_TOO_LARGE;
    }
    char *to = buffer_reserve(packing->out, size);
    if (!to) {
        error_set(err, ERROR_MEMORY, "out of memory");
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
    cloudevent_pack(event, to);
    packing->out->len += size;
    packing->n_events++;
    return 0;
}

static bool take_header(void *data, const char *name, size_t name_len, const char *value, size_t value_len)
{
    cloudevent_http_add_header(data, name, name_len, value, value_len);
    return true;
}

void api_event_post(struct http_request *request)
{
    struct api_event *api = ((struct api_trigger *)request->context)->event;
    struct arena_ingest_record head = {.answer = 0};
    struct cloudevent_http_message message;
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct error err;
    long index;
    if (!storage_name_valid(request->segment)) {
        http_answer_error(request, MHD_HTTP_NOT_FOUND, "Workspace %s not found", request->segment);
        return;
    }
    message.content_type = http_header(request, MHD_HTTP_HEADER_CONTENT_TYPE);
    message.body = request->body.len > 0 ? request->body.data : "";
    message.body_len = request->body.len;
    message.max_event = atomic_load_explicit(&api->max_event_bytes, memory_order_relaxed);
    message.n_headers = 0;
    http_headers(request, take_header, &message);
    /* The answer's buffer is not needed before the answer. */
    struct packing packing = {.out = &request->answer};
    buffer_append(packing.out, &head, sizeof head);
    int status = cloudevent_http_read(&message, &scratch, pack, &packing, &index, &err);
    if (status != 0) {
        ingest_refuse(api->ingest, request, (unsigned)status, index, err.message);
        return;
    }
    if (packing.out->failed) {
        ingest_refuse(api->ingest, request, MHD_HTTP_INTERNAL_SERVER_ERROR, -1, "out of memory");
        return;
    }
    head.n_events = packing.n_events;
    memcpy(packing.out->data, &head, sizeof head);
    ingest_submit(api->ingest, request, request->segment, packing.out->data, packing.out->len, head.n_events);
}

/* ---- Starting by an event ---- */

/* A look-up of a workspace that an event has come for. */
struct start {
    TAILQ_ENTRY(start) link;
    struct api_event *api;
    struct lookup_job job;
    char workspace[WORKFLOW_NAME_MAX];
};

__attribute__((format(printf, 4, 5))) static void fail(struct api_event *api, const char *workspace,
                                                       unsigned status, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ingest_fail(api->ingest, workspace, status, text);
}

static void start_workflow(struct api_event *api, const char *workspace)
{
    struct workflow *w;
    struct error err;
    if (workflow_get(api->workflows, workspace, &w, &err) < 0 ||
        (!workflow_active(w) && workflow_start(w, NULL, &err) < 0))
        fail(api, workspace, MHD_HTTP_SERVICE_UNAVAILABLE, "Workspace %s cannot be started: %s", workspace,
             err.message);
}

static void on_looked_up(struct command *command)
{
    struct start *start = (struct start *)(void *)((char *)command - offsetof(struct start, job.done));
    struct api_event *api = start->api;
    TAILQ_REMOVE(&api->starts, start, link);
    if (start->job.result == 0)
        start_workflow(api, start->workspace);
    else if (start->job.result == STORAGE_ABSENT)
        fail(api, start->workspace, MHD_HTTP_NOT_FOUND, "Workspace %s not found", start->workspace);
    else
        fail(api, start->workspace, MHD_HTTP_SERVICE_UNAVAILABLE, "Workspace %s: storage: %s",
             start->workspace, start->job.error.message);
    free(start);
}

static void look_up(struct api_event *api, const char *workspace)
{
    struct error err;
    struct start *start;
    TAILQ_FOREACH(start, &api->starts, link)
    if (strcmp(start->workspace, workspace) == 0)
        return; /* its answer is for all that wait */
    start = calloc(1, sizeof *start);
    if (!start) {
        fail(api, workspace, MHD_HTTP_INTERNAL_SERVER_ERROR, "Workspace %s: %s", workspace, "out of memory");
        return;
    }
    start->api = api;
    snprintf(start->workspace, sizeof start->workspace, "%s", workspace);
    start->job.done.run = on_looked_up;
    start->job.workspace = start->workspace;
    if (lookup_post(api->lookup, &start->job, &err) == 0) {
        TAILQ_INSERT_TAIL(&api->starts, start, link);
        return;
    }
    fail(api, workspace, MHD_HTTP_SERVICE_UNAVAILABLE, "Workspace %s: %s", workspace, err.message);
    free(start);
}

/* Requests wait for the workflow to run. */
static void wake(void *data, const char *workspace)
{
    struct api_event *api = data;
    struct workflow *w = workflow_find(api->workflows, workspace);
    if (api->workflows->closing) {
        fail(api, workspace, MHD_HTTP_SERVICE_UNAVAILABLE, "Workspace %s: %s", workspace,
             "the supervisor is stopping");
    } else if (w && workflow_needs_adoption(w)) {
        fail(api, workspace, MHD_HTTP_SERVICE_UNAVAILABLE, "Workspace %s needs adoption", workspace);
    } else if (w && (w->state == WORKFLOW_FAILED || w->state == WORKFLOW_FENCED)) {
        fail(api, workspace, MHD_HTTP_SERVICE_UNAVAILABLE, "Workspace %s has failed: %s%s%s", workspace,
             w->exit_reason, w->exit_error[0] ? ": " : "", w->exit_error);
    } else if (!w || !workflow_active(w)) {
        look_up(api, workspace);
    }
    /* Else it is on its way: starting, restarting after its delay, or stopping, whose end wakes again. */
}

/* ---- Begin and end ---- */

void api_event_configure(struct api_event *event, const struct config *config)
{
    atomic_store_explicit(&event->max_event_bytes, (size_t)config->max_event_bytes, memory_order_relaxed);
}

int api_event_new(const struct config *config, struct command_queue *queue, struct lookup *lookup,
                  struct workflow_table *workflows, struct api_event **ret_event, struct error *err)
{
    struct api_event *event = calloc(1, sizeof *event);
    if (!event)
        return error_set(err, ERROR_MEMORY, "events over HTTP: out of memory");
    TAILQ_INIT(&event->starts);
    event->lookup = lookup;
    event->workflows = workflows;
    api_event_configure(event, config);
    struct ingest_options options = {.queue = queue, .wake = wake, .data = event};
    if (ingest_new(&options, &event->ingest, err) < 0) {
        free(event);
        return -1;
    }
    workflows->ingest = event->ingest;
    *ret_event = event;
    return 0;
}

void api_event_abort(struct api_event *event)
{
    if (event)
        ingest_abort(event->ingest);
}

void api_event_free(struct api_event *event)
{
    if (!event)
        return;
    struct start *start;
    while ((start = TAILQ_FIRST(&event->starts)) != NULL) {
        TAILQ_REMOVE(&event->starts, start, link);
        free(start);
    }
    ingest_free(event->ingest);
    free(event);
}

struct ingest *api_event_ingest(struct api_event *event)
{
    return event->ingest;
}
