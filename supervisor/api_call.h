/* A call of the trigger API on its way: from the HTTP server's thread into the pool, from there to the main
 * thread when it concerns a workflow, maybe back, and then answered, by whoever has it.
 *
 * A call has one owner at a time: the thread that runs its present step. A step ends by handing the call on
 * (api_to_pool, api_to_main, waiting in the main thread) or by answering it, and does not touch it after
 * that. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/buffer.h"
#include "common/storage/storage.h"
#include "supervisor/api_pool.h"
#include "supervisor/command.h"
#include "supervisor/http.h"
#include "supervisor/workflow.h"
#include "supervisor/workflow_request.h"

struct api_call;
struct api_trigger;
struct json_value;

#define API_ID_MAX 37
#define API_BODY_MAX (6u << 20)            /* of calls that bring triggers */
#define API_STARTED_NS (2 * 1000000000ull) /* POST /workspace waits so long for its worker */
#define API_START_NS (30 * 1000000000ull)  /* and calls that the worker must carry out */

typedef void (*api_step)(struct api_call *call);

enum {
    API_JSON = 1,     /* the body must be JSON */
    API_OPERATOR = 2, /* for the operator alone */
    API_CHECK = 4,    /* asks the checker: in a pool of its own, so that others need not wait for that */
};

struct api_call {
    struct api_trigger *api;
    struct http_request *request;
    api_step step; /* to be run next */
    bool check;    /* API_CHECK */

    /* Pool */
    struct api_job job;
    struct storage *storage; /* during a step in a pool */

    /* Thread: main */
    struct command command;
    TAILQ_ENTRY(api_call) link; /* in the list of those that wait */
    bool waiting;
    struct workflow_waiter waiter;
    struct workflow_request ask;
    bool reached; /* what the waiter waited for */
    bool started; /* the workflow, by this call or before */
    uint64_t deadline_ns;

    /* What is passed from step to step. */
    unsigned status;       /* to answer with */
    const char *kind;      /* of the request to the worker */
    struct buffer members; /* and its members */
    api_step running;      /* goes on when the workflow runs (Thread: main), */
    api_step answered;     /* or with the worker's answer in count (Thread: main) */
    uint64_t count;
    uint64_t redriven;
    struct buffer numbers; /* of dead letters, each with its NUL */
    size_t numbers_at;     /* so many bytes of them are done */
    int fd;                /* of an arena; -1: none */
};

TAILQ_HEAD(api_call_list, api_call);

/* The handler of all routes that are calls: takes the request into the pool. Thread: the server's. */
void api_dispatch(struct http_request *request);
void api_to_pool(struct api_call *call, api_step step);
void api_to_main(struct api_call *call, api_step step);

/* --- answering: ends the call --- */

void api_answer(struct api_call *call, unsigned status);
void api_answer_message(struct api_call *call, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4))); /* {"message": text} */
void api_fail(struct api_call *call, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4))); /* {"error": text} */
/* As the error's code says: 503, 507, 413, 400. */
void api_fail_error(struct api_call *call, const struct error *err);
/* Tells the worker to read the workspace again, and answers. */
void api_answer_reloaded(struct api_call *call, unsigned status);

/* --- helpers for steps in a pool; those that return false have answered --- */

/* The body, an object. */
bool api_body(struct api_call *call, struct json_value *ret_root);
/* Whether the call's workspace (first segment) is stored. */
bool api_workspace_stored(struct api_call *call);
/* One field of the workspace, appended; 0, STORAGE_ABSENT, or -1: answered. */
int api_get(struct api_call *call, enum storage_set set, const char *key, struct buffer *out);
/* storage_edit on the workspace. */
bool api_edit(struct api_call *call, const struct storage_op *ops, size_t n_ops, int *ret_results);
/* Appends the names of a set's fields as a JSON array, or its fields as an object. */
bool api_append_names(struct api_call *call, enum storage_set set, struct buffer *out);
bool api_append_fields(struct api_call *call, enum storage_set set, struct buffer *out);
/* A whole number of the query string within 0..max, or `missing`. */
bool api_query_number(struct api_call *call, const char *name, uint64_t max, uint64_t *value);
/* Asks the checker about the JSON in `question`; the answer's member. */
bool api_check(struct api_call *call, struct buffer *question, const char *member, struct buffer *answer,
               struct json_value *ret_member);

/* --- JSON --- */

/* Appends a name as JSON text, with bytes that are not UTF-8 as '?'. */
void api_append_name(struct buffer *out, const char *name, size_t len);
/* Appends a stored document: as it is when it is JSON, else as a text. */
void api_append_document(struct buffer *out, const char *text, size_t len);
void api_append_raw(struct buffer *out, const struct json_value *value);
/* Appends the object with its member `name` put first, or set, to this. */
void api_append_named(struct buffer *out, const struct json_value *object, const char *name);
/* Appends {name: document}, the answer of many calls. */
void api_append_pair(struct buffer *out, const char *name, const char *document, size_t len);
/* Appends the members of an object, each behind a comma when something precedes it, but for these. */
void api_append_others(struct buffer *out, const struct json_value *object, const char *const *but,
                       bool first);
/* Appends {"message": text}. */
void api_append_message(struct buffer *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A random UUID (RFC 4122, version 4). */
bool api_make_id(char ret_id[API_ID_MAX]);
/* Whether the object has exactly these members (NULL-terminated), each once; those after "?" may be absent.
 */
bool api_has_exactly(const struct json_value *object, const char *const *members);
/* A text member that can be a name in storage and in a path: 1 to 255 bytes without NUL. False with a reason.
 */
bool api_read_name(const struct json_value *value, const char *what, char ret_name[HTTP_SEGMENT_MAX],
                   struct error *err);

/* --- helpers for steps in the main thread --- */

/* Runs call->running when the workflow runs, starting it if need be; answers 409 or 503 if it cannot. */
void api_with_workflow(struct api_call *call, api_step running);
/* Sends call->kind with call->members to the running worker; then runs call->answered, or answers its
 * refusal. */
void api_ask_worker(struct api_call *call, api_step answered);
/* Waits for the workflow; then runs the step with call->reached, at the latest at the deadline (false). */
void api_wait(struct api_call *call, struct workflow *workflow, enum workflow_wait until,
              uint64_t deadline_ns, api_step step);
/* Answers all that wait with 503. */
void api_abort_waiting(struct api_trigger *api);

/* --- the calls, by file --- */

/* api_workspace.c */
void api_workspace_list(struct api_call *call);
void api_workspace_create(struct api_call *call);
void api_workspace_show(struct api_call *call);
void api_workspace_delete(struct api_call *call);
void api_workspace_status(struct api_call *call);
void api_global_context_put(struct api_call *call);
/* api_source.c */
void api_source_list(struct api_call *call);
void api_source_add(struct api_call *call);
void api_source_get(struct api_call *call);
void api_source_put(struct api_call *call);
void api_source_delete(struct api_call *call);
/* Judges what is to be an event source: reason stays empty when it can work. name: gets its name; when it is
 * not empty before, that is the name that the event source must have, or may lack. False: answered. */
bool api_source_judge(struct api_call *call, const struct json_value *source, char name[HTTP_SEGMENT_MAX],
                      struct buffer *reason);
/* Asks the checker about an event source: as "event_source", to be stored, or as "target", to publish to. */
bool api_source_check(struct api_call *call, const char *check, const struct buffer *source,
                      struct buffer *reason);
/* api_triggers.c */
void api_trigger_list(struct api_call *call);
void api_trigger_add(struct api_call *call);
void api_trigger_get(struct api_call *call);
void api_trigger_put(struct api_call *call);
void api_trigger_delete(struct api_call *call);
void api_trigger_test(struct api_call *call);
/* api_control.c */
void api_pause(struct api_call *call);
void api_resume(struct api_call *call);
void api_trigger_patch(struct api_call *call);
void api_timeout(struct api_call *call);
void api_decisions(struct api_call *call);
/* api_letters.c */
void api_letter_list(struct api_call *call);
void api_letter_get(struct api_call *call);
void api_letter_redrive(struct api_call *call);
void api_letter_drop(struct api_call *call);
/* api_user.c */
void api_user_list(struct api_call *call);
void api_user_put(struct api_call *call);
void api_user_delete(struct api_call *call);
