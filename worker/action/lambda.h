/* What the actions that invoke Lambda functions have in common (AWS_LAMBDA_INVOKE, AWS_ASF_TASK): where a
 * function is, and the signed request of an asynchronous Invoke (Event). Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/json.h"
#include "worker/executor/http_call.h"
#include "worker/executor/invocation.h"

struct buffer;
struct error;

/* Appends the text of an object's member; false without one. */
bool lambda_text(const struct json_value *object, const char *name, struct buffer *out);
/* The object aws_credentials of a document; an empty one without. */
struct json_value lambda_credentials(const struct json_value *document);

/* Appends `"url":...,"region":...`, members of the intent's body. The region is that of the first of the
 * places that has one (`region` or `region_name`), else of the function's ARN, else of the environment.
 * endpoint: "" is https://lambda.REGION.amazonaws.com. Errors: ERROR_INVALID, ERROR_MEMORY. */
int lambda_locate(const struct json_value *places, size_t n, const char *function, const char *endpoint,
                  struct buffer *out, struct error *err);

/* Makes the request of an attempt, whose body is there already, and signs it: with the `credentials` of the
 * intent's body, or those of the global context, or of the environment. Errors: as invocation_type.request.
 */
int lambda_request(const struct invocation *invocation, struct http_call_request *request, struct error *err);
/* Done is 2xx without X-Amz-Function-Error; answers of 2xx need not be read to their end. */
enum invocation_verdict lambda_judge(const struct invocation *invocation, const struct http_answer *answer,
                                     struct error *err);
