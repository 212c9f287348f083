/* Failures of states, as events tell of them:
 *
 *     lambda.failure   (subject: the state)  it has failed, or its function says so
 *     lambda.uncaught  (subject: the state)  and what its Retry and Catch say has not helped
 *
 * Data: {"Error","Cause"}, texts or null, and of ours, where they are known, "Input" (the state's) and
 * "Attempt" (the key of the invocation that has failed). A Lambda function's {"errorType","errorMessage",...}
 * becomes its errorType and all of it as a text; anything else is States.TaskFailed.
 *
 * Who takes a lambda.failure: the trigger with the condition AWS_ASF_CATCH that it activates, if there is
 * one; else the Map or Parallel around the state, which all lambda.uncaught of its states activate, too
 * (failure_inside). Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/buffer.h"

struct cloudevent;
struct error;
struct json_value;

#define FAILURE_TYPE "lambda.failure"
#define FAILURE_UNCAUGHT "lambda.uncaught"

struct failure {
    struct buffer error; /* plain text */
    struct buffer cause;
    bool has_error;
    bool has_cause;
};

void failure_done(struct failure *failure);

/* From a message that begins with the States Language's name for it ("States.Runtime: ..."). */
void failure_of_message(const char *message, struct failure *ret_failure);
/* From an event's data. */
void failure_of_data(const struct json_value *data, struct failure *ret_failure);
/* Appends `"Error":...,"Cause":...`. */
void failure_write(const struct failure *failure, struct buffer *out);
/* Fills err with "Error: Cause"; returns -1. */
int failure_error(const struct failure *failure, struct error *err);

/* Whether the event is a failure, of either type; whether this workflow has made it. */
bool failure_is(const struct cloudevent *event);
bool failure_is_ours(const struct cloudevent *event);

/* Calls add with the name of each state that stands directly inside a Map or Parallel (its document). Errors:
 * as add says, ERROR_MEMORY. */
typedef int (*failure_add)(void *data, const char *name, size_t len, struct error *err);
int failure_inside(const struct json_value *state, failure_add add, void *data, struct error *err);
/* The same for one machine: of a branch, or of a Map's items. */
int failure_inside_machine(const struct json_value *machine, failure_add add, void *data, struct error *err);
