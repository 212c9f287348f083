/* See workflow_request.h. */
#include "supervisor/workflow_request.h"

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/loop.h"
#include "supervisor/monitor.h"
#include "supervisor/workflow.h"

#define UNAVAILABLE 503
#define TIMEOUT_TEXT "the worker did not answer in time: whether it was done is not known"

static void on_answer_timer(void *data);

void workflow_request_cancel(struct workflow_request *request)
{
    struct workflow *w = request->workflow;
    if (!w)
        return;
    loop_timer_cancel(w->table->loop, on_answer_timer, request);
    TAILQ_REMOVE(&w->requests, request, link);
    w->n_requests--;
    request->workflow = NULL;
}

static void finish(struct workflow_request *request, const struct workflow_answer *answer)
{
    workflow_request_cancel(request);
    request->done(request, answer);
}

static void on_answer_timer(void *data)
{
    finish(data, &(struct workflow_answer){.status = UNAVAILABLE, .error = TIMEOUT_TEXT});
}

int workflow_request(struct workflow *workflow, struct workflow_request *request, const char *kind,
                     const char *members, size_t members_len, struct error *err)
{
    struct workflow_table *table = workflow->table;
    BUFFER_AUTO message = BUFFER_INIT;
    if (workflow->n_requests >= WORKFLOW_REQUESTS_MAX)
        return error_set(err, ERROR_UNAVAILABLE, "workspace %s: %d requests wait for its worker already",
                         workflow->name, WORKFLOW_REQUESTS_MAX);
    request->id = ++table->request_ids;
    buffer_printf(&message, "{\"message\":\"%s\",\"id\":%lld%s", kind, (long long)request->id,
                  members_len > 0 ? "," : "");
    buffer_append(&message, members, members_len);
    buffer_append_char(&message, '}');
    if (message.failed)
        return error_set(err, ERROR_MEMORY, "workspace %s: out of memory", workflow->name);
    if (loop_timer_set(table->loop, clock_now_ns() + WORKFLOW_ANSWER_NS, on_answer_timer, request, err) < 0)
        return -1;
    int result = workflow->status_fd < 0
                     ? IPC_CLOSED
                     : ipc_send(workflow->status_fd, message.data, message.len, NULL, 0, err);
    if (result > 0)
        result =
            error_set(err, ERROR_UNAVAILABLE, "the worker of workspace %s cannot be told", workflow->name);
    if (result < 0) {
        loop_timer_cancel(table->loop, on_answer_timer, request);
        return -1;
    }
    request->workflow = workflow;
    TAILQ_INSERT_TAIL(&workflow->requests, request, link);
    workflow->n_requests++;
    return 0;
}

void workflow_request_answered(struct workflow *workflow, const struct monitor_frame *frame)
{
    struct workflow_request *request;
    TAILQ_FOREACH(request, &workflow->requests, link)
    {
        if (request->id != frame->id)
            continue;
        finish(request, &(struct workflow_answer){.status = frame->refusal,
                                                  .count = (uint64_t)frame->count,
                                                  .error = frame->error});
        return;
    }
}

void workflow_requests_fail(struct workflow *workflow, const char *error)
{
    struct workflow_request *request;
    while ((request = TAILQ_FIRST(&workflow->requests)) != NULL)
        finish(request, &(struct workflow_answer){.status = UNAVAILABLE, .error = error});
}
