/* See api_call.h: a call's way between the threads, and its answer. */
#include "supervisor/api_call.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/loop.h"
#include "supervisor/api_trigger.h"
#include "supervisor/auth.h"
#include "supervisor/status.h"

#define CONTAINER(pointer, type, field) ((type *)(void *)((char *)(pointer)-offsetof(type, field)))
#define STOPPING "the supervisor is stopping"

static void on_deadline(void *data);

/* ---- Answering ---- */

/* The call is about to be answered: what it has is given back. */
static struct http_request *end_call(struct api_call *call)
{
    if (call->waiting) {
        workflow_wait_cancel(&call->waiter);
        workflow_request_cancel(&call->ask);
        loop_timer_cancel(call->api->loop, on_deadline, call);
        TAILQ_REMOVE(&call->api->waiting, call, link);
        call->waiting = false;
    }
    buffer_done(&call->members);
    buffer_done(&call->numbers);
    if (call->fd >= 0)
        close(call->fd);
    call->fd = -1;
    return call->request;
}

void api_answer(struct api_call *call, unsigned status)
{
    http_answer(end_call(call), status);
}

void api_answer_message(struct api_call *call, unsigned status, const char *format, ...)
{
    char text[2 * HTTP_SEGMENT_MAX];
    struct http_request *request = end_call(call);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    api_append_message(&request->answer, "%s", text);
    http_answer(request, status);
}

void api_fail(struct api_call *call, unsigned status, const char *format, ...)
{
    char text[2 * HTTP_SEGMENT_MAX];
    struct http_request *request = end_call(call);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (status == MHD_HTTP_SERVICE_UNAVAILABLE || status == MHD_HTTP_TOO_MANY_REQUESTS)
        request->retry_after = 1;
    http_answer_error(request, status, "%s", text);
}

void api_fail_error(struct api_call *call, const struct error *err)
{
    unsigned status = MHD_HTTP_SERVICE_UNAVAILABLE;
    if (err->code == ERROR_NO_SPACE)
        status = MHD_HTTP_INSUFFICIENT_STORAGE;
    else if (err->code == ERROR_LIMIT)
        status = MHD_HTTP_CONTENT_TOO_LARGE;
    else if (err->code == ERROR_INVALID)
        status = MHD_HTTP_BAD_REQUEST;
    api_fail(call, status, "%s", err->message);
}

/* ---- From thread to thread ---- */

static void run_in_pool(struct api_job *job, struct storage *storage, const struct error *err)
{
    struct api_call *call = CONTAINER(job, struct api_call, job);
    call->storage = storage;
    if (storage)
        call->step(call);
    else
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "%s", err->message);
}

static void run_in_main(struct command *command)
{
    struct api_call *call = CONTAINER(command, struct api_call, command);
    call->step(call);
}

static struct api_pool *pool_of(const struct api_call *call)
{
    return call->check ? call->api->check_pool : call->api->pool;
}

void api_to_pool(struct api_call *call, api_step step)
{
    struct api_pool *pool = pool_of(call);
    call->step = step;
    if (!pool || api_pool_post(pool, &call->job, false) != 0)
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, STOPPING);
}

void api_to_main(struct api_call *call, api_step step)
{
    call->storage = NULL;
    call->step = step;
    command_post(call->api->queue, &call->command);
}

static bool is_json(const char *type)
{
    char plain[64];
    size_t len = strcspn(type, "; \t");
    if (len >= sizeof plain)
        return false;
    memcpy(plain, type, len);
    plain[len] = '\0';
    return strcasecmp(plain, "application/json") == 0 ||
           (len > 5 && strncasecmp(plain, "application/", 12) == 0 &&
            strcasecmp(plain + len - 5, "+json") == 0);
}

/* On the Unix socket everybody is the operator; on TCP the server has checked the credentials. */
static bool by_operator(struct http_request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr && info->client_addr->sa_family == AF_UNIX)
        return true;
    char *password = NULL;
    char *user = MHD_basic_auth_get_username_password(request->connection, &password);
    bool is = user && strcmp(user, AUTH_OPERATOR) == 0;
    MHD_free(user);
    MHD_free(password);
    return is;
}

void api_dispatch(struct http_request *request)
{
    struct api_trigger *api = request->context;
    unsigned flags;
    api_step step = api_trigger_step(request->route, &flags);
    const char *type = (flags & API_JSON) ? http_header(request, MHD_HTTP_HEADER_CONTENT_TYPE) : NULL;
    if ((flags & API_OPERATOR) && !by_operator(request)) {
        http_answer_error(request, MHD_HTTP_FORBIDDEN, "only the operator may do this");
        return;
    }
    if (type && !is_json(type)) {
        http_answer_error(request, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE,
                          "Content-Type %.100s is not application/json", type);
        return;
    }
    struct api_call *call = calloc(1, sizeof *call);
    if (!call) {
        http_answer_error(request, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
        return;
    }
    *call = (struct api_call){.api = api,
                              .request = request,
                              .step = step,
                              .check = flags & API_CHECK,
                              .job.run = run_in_pool,
                              .command.run = run_in_main,
                              .fd = -1};
    request->data = call;
    int result = api_pool_post(pool_of(call), &call->job, true);
    if (result == API_POOL_FULL)
        api_fail(call, MHD_HTTP_TOO_MANY_REQUESTS, "too many requests wait (%d)", API_POOL_QUEUE_MAX);
    else if (result != 0)
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, STOPPING);
}

/* ---- In the main thread ---- */

static void begin_waiting(struct api_call *call)
{
    if (call->waiting)
        return;
    call->waiting = true;
    TAILQ_INSERT_TAIL(&call->api->waiting, call, link);
}

void api_abort_waiting(struct api_trigger *api)
{
    struct api_call *call;
    while ((call = TAILQ_FIRST(&api->waiting)) != NULL)
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, STOPPING);
}

static void reload_and_answer(struct api_call *call)
{
    struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    if (w)
        workflow_reload(w);
    api_answer(call, call->status);
}

void api_answer_reloaded(struct api_call *call, unsigned status)
{
    call->status = status;
    api_to_main(call, reload_and_answer);
}

/* A waiter is called in the midst of a change of its workflow: the call goes on from the queue. */
static void on_reached(struct workflow_waiter *waiter, bool reached)
{
    struct api_call *call = CONTAINER(waiter, struct api_call, waiter);
    call->reached = reached;
    loop_timer_cancel(call->api->loop, on_deadline, call);
    command_post(call->api->queue, &call->command);
}

static void on_deadline(void *data)
{
    struct api_call *call = data;
    workflow_wait_cancel(&call->waiter);
    call->reached = false;
    call->step(call);
}

void api_wait(struct api_call *call, struct workflow *workflow, enum workflow_wait until,
              uint64_t deadline_ns, api_step step)
{
    struct error err;
    call->step = step;
    if (loop_timer_set(call->api->loop, deadline_ns, on_deadline, call, &err) < 0) {
        api_fail_error(call, &err);
        return;
    }
    begin_waiting(call);
    call->waiter.until = until;
    call->waiter.done = on_reached;
    workflow_wait(workflow, &call->waiter);
}

/* Why a workflow does not run, though it was started. */
static void fail_workflow(struct api_call *call, const struct workflow *w)
{
    if (workflow_active(w))
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "the worker of workspace %s is still %s", w->name,
                 workflow_state_name(w));
    else if (w->state == WORKFLOW_FINISHED)
        api_fail(call, MHD_HTTP_CONFLICT, "workspace %s has finished", w->name);
    else
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "workspace %s did not start: %s%s%s", w->name,
                 w->exit_reason, w->exit_error[0] ? ": " : "", w->exit_error);
}

static void go_on(struct api_call *call)
{
    struct workflow_table *table = call->api->workflows;
    struct workflow *w;
    struct error err;
    if (workflow_get(table, call->request->segment, &w, &err) < 0) {
        api_fail_error(call, &err);
        return;
    }
    bool waited = call->deadline_ns != 0;
    bool late = waited && clock_now_ns() >= call->deadline_ns;
    if (!waited)
        call->deadline_ns = clock_now_ns() + API_START_NS;
    if (workflow_needs_adoption(w))
        api_fail(call, MHD_HTTP_CONFLICT, "workspace %s needs adoption", w->name);
    else if (w->state == WORKFLOW_RUNNING)
        call->running(call);
    else if (late)
        fail_workflow(call, w);
    else if (w->state == WORKFLOW_STOPPING)
        api_wait(call, w, WORKFLOW_WAIT_STOPPED, call->deadline_ns, go_on);
    else if (!workflow_active(w) && call->started)
        fail_workflow(call, w); /* it has ended again */
    else if (!workflow_active(w) && workflow_start(w, NULL, &err) < 0)
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "%s", err.message);
    else {
        call->started = true;
        api_wait(call, w, WORKFLOW_WAIT_STARTED, call->deadline_ns, go_on);
    }
}

void api_with_workflow(struct api_call *call, api_step running)
{
    call->running = running;
    call->deadline_ns = 0;
    call->started = false;
    go_on(call);
}

static void on_answer(struct workflow_request *ask, const struct workflow_answer *answer)
{
    struct api_call *call = CONTAINER(ask, struct api_call, ask);
    call->count = answer->count;
    if (answer->status != 0)
        api_fail(call, answer->status, "%s", answer->error);
    else
        call->answered(call);
}

void api_ask_worker(struct api_call *call, api_step answered)
{
    struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    struct error err;
    call->answered = answered;
    call->ask.done = on_answer;
    begin_waiting(call);
    if (!w)
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "workspace %s does not run", call->request->segment);
    else if (workflow_request(w, &call->ask, call->kind, buffer_text(&call->members), call->members.len,
                              &err) < 0)
        api_fail_error(call, &err);
}
