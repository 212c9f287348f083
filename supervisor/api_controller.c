/* See api_controller.h. */
#include "supervisor/api_controller.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "common/loop.h"
#include "common/storage/storage.h"
#include "supervisor/http.h"
#include "supervisor/ingest.h"
#include "supervisor/lookup.h"
#include "supervisor/metrics.h"
#include "supervisor/monitor.h"
#include "supervisor/process.h"
#include "supervisor/status.h"
#include "supervisor/workflow.h"

#define ADOPT_MAX 512

/* A call that waits; the request's data. */
struct api_call {
    TAILQ_ENTRY(api_call) link;
    struct api_controller *api;
    struct http_request *request;
    struct lookup_job job;
    struct workflow_waiter waiter;
    char adopt[ADOPT_MAX]; /* "": not given */
};

#define CONTAINER(pointer, type, field) ((type *)(void *)((char *)(pointer)-offsetof(type, field)))

static void on_start_timeout(void *data);

static struct api_call *call_new(struct http_request *request)
{
    struct api_call *call = calloc(1, sizeof *call);
    if (!call) {
        http_answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
        return NULL;
    }
    call->api = request->context;
    call->request = request;
    request->data = call;
    TAILQ_INSERT_TAIL(&call->api->calls, call, link);
    return call;
}

/* The call is about to be answered: it waits for nothing any more. */
static struct http_request *call_end(struct api_call *call)
{
    workflow_wait_cancel(&call->waiter);
    loop_timer_cancel(call->api->loop, on_start_timeout, call);
    TAILQ_REMOVE(&call->api->calls, call, link);
    return call->request;
}

void api_controller_init(struct api_controller *api)
{
    TAILQ_INIT(&api->calls);
}

void api_controller_abort(struct api_controller *api)
{
    struct api_call *call;
    while ((call = TAILQ_FIRST(&api->calls)) != NULL)
        http_answer_error(call_end(call), MHD_HTTP_SERVICE_UNAVAILABLE, "the supervisor is stopping");
}

/* Asks the storage whether the workspace is there; then calls done, in this thread. */
static void call_lookup(struct api_call *call, void (*done)(struct command *command))
{
    struct error err;
    call->job.done.run = done;
    call->job.workspace = call->request->segment;
    if (lookup_post(call->api->lookup, &call->job, &err) < 0)
        http_answer_error(call_end(call), MHD_HTTP_SERVICE_UNAVAILABLE, "%s", err.message);
}

/* Answers what a look-up said when it was not "stored". */
static bool call_not_stored(struct api_call *call, const char *what)
{
    if (call->job.result == 0)
        return false;
    struct http_request *request = call_end(call);
    if (call->job.result < 0) {
        call->api->storage_errors++;
        http_answer_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "storage: %s", call->job.error.message);
    } else {
        http_answer_error(request, MHD_HTTP_BAD_REQUEST, "Workspace %s %s", request->segment, what);
    }
    return true;
}

static void answer_workspace(struct http_request *request, unsigned status)
{
    buffer_append_text(&request->answer, "{\"workspace\":");
    status_append_text(&request->answer, request->segment);
    buffer_append_char(&request->answer, '}');
    http_answer(request, status);
}

/* ---- POST /workspace/{ws} ---- */

static void on_started(struct workflow_waiter *waiter, bool reached)
{
    struct api_call *call = CONTAINER(waiter, struct api_call, waiter);
    const struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    struct http_request *request = call_end(call);
    if (reached)
        answer_workspace(request, MHD_HTTP_CREATED);
    else if (w && w->state >= WORKFLOW_FAILED)
        http_answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "Workspace %s did not start: %s%s%s",
                          request->segment, w->exit_reason, w->exit_error[0] ? ": " : "", w->exit_error);
    else
        http_answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR,
                          "Workspace %s was stopped while it started", request->segment);
}

static void on_start_timeout(void *data)
{
    answer_workspace(call_end(data), MHD_HTTP_CREATED);
}

static unsigned error_status(const struct error *err)
{
    switch (err->code) {
    case ERROR_EXISTS:
    case ERROR_INVALID:
    case ERROR_NOT_FOUND:
        return MHD_HTTP_BAD_REQUEST;
    case ERROR_LIMIT:
    case ERROR_UNAVAILABLE:
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    case ERROR_NO_SPACE:
        return MHD_HTTP_INSUFFICIENT_STORAGE;
    default:
        return MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
}

static void on_start_lookup(struct command *command)
{
    struct api_call *call = CONTAINER(command, struct api_call, job.done);
    struct workflow *w;
    struct error err;
    if (call_not_stored(call, "is not stored"))
        return;
    if (workflow_get(call->api->workflows, call->request->segment, &w, &err) < 0 ||
        workflow_start(w, call->adopt[0] ? call->adopt : NULL, &err) < 0 ||
        loop_timer_set(call->api->loop, clock_now_ns() + API_START_WAIT_NS, on_start_timeout, call, &err) <
            0) {
        struct http_request *request = call_end(call);
        http_answer_error(request, error_status(&err), "%s", err.message);
        return;
    }
    call->waiter.until = WORKFLOW_WAIT_STARTED;
    call->waiter.done = on_started;
    workflow_wait(w, &call->waiter);
}

/* The optional {"adopt": "..."}. */
static int parse_start(const struct buffer *body, char adopt[ADOPT_MAX], struct error *err)
{
    struct json_value root, name, value;
    struct json_iter iter;
    adopt[0] = '\0';
    if (body->len == 0)
        return 0;
    if (json_scan(body->data, body->len, &root, err) < 0)
        return error_prefix(err, "body");
    if (root.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "body: %s, not an object", json_type_name(root.type));
    json_iter_init(&iter, &root);
    while (json_next(&iter, &name, &value)) {
        if (!json_equals(&name, "adopt", 5))
            return error_set(err, ERROR_INVALID, "body: unknown member \"%.*s\"",
                             name.len > 100 ? 100 : (int)name.len, name.text);
        if (value.type != JSON_STRING || value.len == 0 || value.len >= ADOPT_MAX)
            return error_set(err, ERROR_INVALID,
                             "adopt: %.*s is not \"beginning\", \"end\" or a position of less than %d bytes",
                             value.len > 60 ? 60 : (int)value.len, value.text, ADOPT_MAX);
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&value, &text);
        monitor_copy_text(adopt, ADOPT_MAX, buffer_text(&text), text.len);
    }
    return 0;
}

static void post_workspace(struct http_request *request)
{
    struct api_controller *api = request->context;
    struct error err;
    char adopt[ADOPT_MAX];
    if (!storage_name_valid(request->segment)) {
        http_answer_error(request, MHD_HTTP_BAD_REQUEST, "Workspace name %s is not valid", request->segment);
        return;
    }
    if (parse_start(&request->body, adopt, &err) < 0) {
        http_answer_error(request, error_status(&err), "%s", err.message);
        return;
    }
    struct workflow *w = workflow_find(api->workflows, request->segment);
    if (w && workflow_active(w) && w->state != WORKFLOW_RESTARTING) {
        if (adopt[0] == '\0')
            http_answer_error(request, MHD_HTTP_BAD_REQUEST, "Workspace %s is already running", w->name);
        else if (workflow_adopt(w, adopt, &err) < 0)
            http_answer_error(request, error_status(&err), "%s", err.message);
        else
            answer_workspace(request, MHD_HTTP_OK);
        return;
    }
    struct api_call *call = call_new(request);
    if (!call)
        return;
    memcpy(call->adopt, adopt, sizeof adopt);
    call_lookup(call, on_start_lookup);
}

/* ---- DELETE /workspace/{ws} ---- */

static void answer_deleted(struct http_request *request)
{
    char text[HTTP_SEGMENT_MAX + 32];
    snprintf(text, sizeof text, "Workspace %s deleted", request->segment);
    status_append_text(&request->answer, text);
    http_answer(request, MHD_HTTP_OK);
}

static void on_stopped(struct workflow_waiter *waiter, bool reached)
{
    struct api_call *call = CONTAINER(waiter, struct api_call, waiter);
    (void)reached;
    answer_deleted(call_end(call));
}

static void on_stop_lookup(struct command *command)
{
    struct api_call *call = CONTAINER(command, struct api_call, job.done);
    if (!call_not_stored(call, "not found"))
        answer_deleted(call_end(call));
}

static void delete_workspace(struct http_request *request)
{
    struct api_controller *api = request->context;
    struct workflow *w = workflow_find(api->workflows, request->segment);
    if (!w && !storage_name_valid(request->segment)) {
        http_answer_error(request, MHD_HTTP_BAD_REQUEST, "Workspace %s not found", request->segment);
        return;
    }
    struct api_call *call = call_new(request);
    if (!call)
        return;
    if (!w) {
        call_lookup(call, on_stop_lookup);
        return;
    }
    workflow_stop(w);
    call->waiter.until = WORKFLOW_WAIT_STOPPED;
    call->waiter.done = on_stopped;
    workflow_wait(w, &call->waiter);
}

/* ---- Showing ---- */

static struct status_time time_now(void)
{
    return (struct status_time){.now_ns = clock_now_ns(), .unix_ns = clock_unix_ns()};
}

static const char *not_ready(const struct api_controller *api)
{
    if (api->workflows->closing)
        return "the supervisor is stopping";
    if (!process_forkserver_ready(api->processes))
        return "the forkserver is not ready";
    return api->listed ? NULL : "the stored workspaces are not known yet";
}

static void get_workspace(struct http_request *request)
{
    struct api_controller *api = request->context;
    struct workflow *w = workflow_find(api->workflows, request->segment);
    if (!w) {
        http_answer_error(request, MHD_HTTP_NOT_FOUND, "Workspace %s not found", request->segment);
        return;
    }
    struct status_time now = time_now();
    struct status_view view;
    workflow_view(w, now.now_ns, &view);
    status_write(&request->answer, &view, &now, true);
    http_answer(request, MHD_HTTP_OK);
}

static void get_workspaces(struct http_request *request)
{
    struct api_controller *api = request->context;
    struct buffer *out = &request->answer;
    struct status_time now = time_now();
    const char *problem = not_ready(api);
    buffer_printf(out,
                  "{\"supervisor\":{\"version\":\"" VERSION
                  "\",\"pid\":%d,\"port\":%u,\"uptime\":%llu,\"ready\":%s",
                  (int)getpid(), api->port, (unsigned long long)((now.now_ns - api->started_ns) / CLOCK_S),
                  problem ? "false" : "true");
    if (problem) {
        buffer_append_text(out, ",\"problem\":");
        status_append_text(out, problem);
    }
    buffer_printf(out, ",\"forkserver\":{\"pid\":%d,\"restarts\":%llu}},\"workspaces\":[",
                  (int)process_forkserver_pid(api->processes), (unsigned long long)api->forkserver_restarts);
    struct workflow *w;
    TAILQ_FOREACH(w, &api->workflows->all, link)
    {
        struct status_view view;
        workflow_view(w, now.now_ns, &view);
        if (w != TAILQ_FIRST(&api->workflows->all))
            buffer_append_char(out, ',');
        status_write(out, &view, &now, false);
    }
    buffer_append_text(out, "]}");
    http_answer(request, MHD_HTTP_OK);
}

static void get_healthz(struct http_request *request)
{
    buffer_append_text(&request->answer, "{\"status\":\"ok\"}");
    http_answer(request, MHD_HTTP_OK);
}

static void get_readyz(struct http_request *request)
{
    const char *problem = not_ready(request->context);
    if (problem) {
        http_answer_error(request, MHD_HTTP_SERVICE_UNAVAILABLE, "%s", problem);
        return;
    }
    buffer_append_text(&request->answer, "{\"status\":\"ready\"}");
    http_answer(request, MHD_HTTP_OK);
}

static void get_metrics(struct http_request *request)
{
    struct api_controller *api = request->context;
    size_t n = 0;
    uint64_t now = clock_now_ns();
    struct status_view *views = calloc(api->workflows->by_name.count + 1, sizeof *views);
    if (!views) {
        http_answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
        return;
    }
    struct workflow *w;
    TAILQ_FOREACH(w, &api->workflows->all, link)
    workflow_view(w, now, &views[n++]);
    struct metrics_supervisor supervisor = {.ready = !not_ready(api),
                                            .forkserver_restarts = api->forkserver_restarts,
                                            .uptime_ns = now - api->started_ns,
                                            .storage_errors = api->storage_errors};
    struct ingest_counts counts;
    if (api->ingest) {
        ingest_count(api->ingest, &counts);
        supervisor.ingest = &counts;
    }
    metrics_write(&request->answer, &supervisor, views, n);
    free(views);
    request->content_type = "text/plain; version=0.0.4; charset=utf-8";
    http_answer(request, MHD_HTTP_OK);
}

const struct http_route *api_controller_routes(size_t *ret_n)
{
    static const struct http_route routes[] = {
        {.method = "POST", .path = "/workspace/*", .handler = post_workspace},
        {.method = "DELETE", .path = "/workspace/*", .handler = delete_workspace},
        {.method = "GET", .path = "/workspace/*", .handler = get_workspace},
        {.method = "GET", .path = "/workspace", .handler = get_workspaces},
        {.method = "GET", .path = "/metrics", .handler = get_metrics},
        {.method = "GET", .path = "/healthz", .handler = get_healthz, .open = true},
        {.method = "GET", .path = "/readyz", .handler = get_readyz, .open = true},
    };
    *ret_n = sizeof routes / sizeof routes[0];
    return routes;
}
