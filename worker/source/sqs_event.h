/* The body of an SQS message as a CloudEvent: a CloudEvent in the JSON event format, or the record that AWS
 * Lambda sends to a destination ("Lambda asynchronous invocation: destinations", AWS Lambda Developer Guide):
 *
 *     {"timestamp","requestContext":{"requestId","functionArn","condition"},"requestPayload","responsePayload"}
 *
 * which becomes: id = requestId, source = functionArn, type = lambda.success when the condition is Success,
 * else lambda.failure, time = timestamp, subject = the member __TRIGGERFLOW_SUBJECT of the response payload
 * (taken out of it), data = the response payload, triggerflowkey = the member __TRIGGERFLOW_KEY of the
 * request payload. A function that failed has answered no subject: then it is that of the request payload.
 * Thread: any. */
#pragma once

#include <stddef.h>

#include "common/buffer.h"
#include "common/cloudevent.h"

struct error;

/* The event borrows body and scratch (emptied first), which must not be touched while it is used. What is
 * read passes cloudevent_check. Errors: ERROR_INVALID, ERROR_MEMORY. */
int sqs_event_read(struct cloudevent *event, const char *body, size_t len, struct buffer *scratch,
                   struct error *err);
