/* Requests to a worker that it answers (common/ipc.h: patch, redrive, pause, resume).
 *
 * Each has an id of its own; the answer that names it ends it, as does the end of that life of the worker, or
 * WORKFLOW_ANSWER_NS without an answer. Thread: main. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct error;
struct monitor_frame;
struct workflow;

#define WORKFLOW_REQUESTS_MAX 256         /* of one workflow, not yet answered */
#define WORKFLOW_ANSWER_NS 30000000000ull /* from then on the answer is not waited for any more */

struct workflow_answer {
    unsigned status; /* 0: done, or an HTTP status with its error */
    uint64_t count;
    const char *error; /* "" when done */
};

/* Embedded in what waits. done is called once, after a call of workflow_request that returned 0, and may do
 * nothing to the workflow. */
struct workflow_request {
    TAILQ_ENTRY(workflow_request) link;
    struct workflow *workflow; /* NULL: not under way */
    int64_t id;
    void (*done)(struct workflow_request *request, const struct workflow_answer *answer);
};

/* Sends {"message":kind,"id":N} with further members ("\"trigger\":\"x\"", "": none) to the running worker.
 * Errors: ERROR_LIMIT: too large for a message; ERROR_UNAVAILABLE: too many are under way, or it cannot be
 * told. */
int workflow_request(struct workflow *workflow, struct workflow_request *request, const char *kind,
                     const char *members, size_t members_len, struct error *err);

/* Its answer is not wanted any more; fine when not under way. */
void workflow_request_cancel(struct workflow_request *request);

/* --- for workflow.c --- */

void workflow_request_answered(struct workflow *workflow, const struct monitor_frame *frame);
/* This life is over: every request ends with 503. */
void workflow_requests_fail(struct workflow *workflow, const char *error);
