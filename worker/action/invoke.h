/* What the actions that invoke a task's function have in common (IBM_CF_INVOKE, AWS_LAMBDA_INVOKE).
 *
 * The operator is the context's member `operator`, or the context itself without one. Of it, or of the
 * context, or of the action's document, whichever comes first:
 *
 *     invoke_kwargs  object: arguments. A text that begins with $ is a JSONPath into the context's `result`,
 *                    and becomes the list of all that it matches
 *     iter_data      {argument: [values]}: one invocation for each value. A path instead of the list, too
 *     sink           event source document: where the function publishes its termination event
 *     and the policy's members (worker/executor/invocation_policy.h)
 *
 * A firing tells the task's dependants how many invocations it starts, then records one intent for all of
 * them. The intent's body: {"subject","payload":{arguments},"over"?:the argument that is iterated over,
 * "element"?:its value,"sink"?,"policy", and what the action adds}. What is sent is the arguments and
 * "__OW_TRIGGERFLOW":{"subject","sink","key"}.
 *
 * An invocation that is given up is subtracted from what the dependants expect, unless a
 * DAG_TASK_RETRY_HANDLER waits for the task's failure: then it is not over yet; nor is it where on_uncertain
 * leaves open whether it was started. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/json.h"
#include "worker/document/document.h"
#include "worker/executor/invocation_policy.h"

struct action_type;
struct error;
struct firing;
struct injection;
struct intent;
struct invocation;
struct worker;

/* The state of an invoking action that has its document read as it fires. */
struct invoke_document {
    struct document document;
    struct invocation_policy policy;
};

/* action_type.load and .unload of it. */
int invoke_load(const struct json_value *action, void **ret_state, struct error *err);
void invoke_unload(void *state);

/* A firing's task, as its context says. */
struct invoke {
    struct firing *firing;
    const struct json_value *document; /* the action's */
    struct buffer text;                /* the settings */
    struct json_value settings;
    struct json_value operator; /* the settings, without an operator */
    struct buffer task;
    struct buffer payload; /* arguments, a JSON object */
    struct buffer values;  /* a JSON array: what is iterated over */
    struct buffer over;    /* name of that argument */
    uint32_t n;            /* invocations */
    bool iterates;
};

/* A member of the operator, the settings or the action's document, in this order, that is not null. */
bool invoke_member(const struct invoke *invoke, const char *name, struct json_value *ret_value);
/* Appends the text of such a member. Errors: ERROR_INVALID: it is missing (unless optional) or no text. */
int invoke_text(const struct invoke *invoke, const char *name, bool optional, struct buffer *out,
                struct error *err);

/* Appends members of the intent's body that are the action's own, separated by commas. */
typedef int (*invoke_more)(const struct invoke *invoke, struct buffer *out, struct error *err);

/* Tells the dependants and records the intent; with a request, that of the invocation that has failed, as it
 * says by its key ({"key"}); without a key, of the only one. Errors: ERROR_INVALID, ERROR_MEMORY. */
int invoke_fire(const struct invoke_document *document, struct firing *firing,
                const struct action_type *action, invoke_more more, const struct json_value *request,
                struct error *err);

/* action_type.after_commit: when a DAG_TASK_RETRY_HANDLER waits for the task's failure. It looks for the
 * firing that the failed invocation is of, and after a crash must not look before that has fired again. */
bool invoke_after_commit(const struct intent *intent, const struct worker *worker);

/* action_type.gave_up. */
int invoke_gave_up(const struct intent *intent, struct injection *injection, struct error *err);

/* Appends what is sent. */
void invoke_payload(const struct invocation *invocation, struct buffer *out);
/* Registration: what of the context can be judged by then, the operator's texts. Errors: ERROR_INVALID. */
int invoke_check(const struct json_value *context, const char *const *texts, struct error *err);
