/* Calls of one AWS service: endpoint, credentials, signature, and what an answer means.
 *
 * A call waits for credentials, is signed with those, and sent. When the service says that they are expired
 * and others can be had, it is repeated once with them; all other repetitions are the caller's. Error answers
 * of the JSON and REST JSON protocols are understood (`__type` or `code` and `message` in the body,
 * X-Amzn-Errortype, X-Amzn-Query-Error). What they say is shown up to the first line's end, and not at all
 * when a signature is wrong: some services then repeat what should have been signed, with the session token.
 * Thread: the pool's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/sigv4.h"

struct aws_call;
struct aws_client;
struct fetch_pool;

struct aws_client_options {
    const char *service; /* "sqs"; also in the host name of the endpoint */
    const char *region;
    const char *endpoint;                  /* NULL: https://<service>.<region>.amazonaws.com[.cn] */
    const struct sigv4_credentials *given; /* NULL: from the environment or a role */
    const char *tls_ca;                    /* NULL: the system's */
};

/* Everything is copied; pool is borrowed and outlives the client. Errors: ERROR_INVALID naming the part. */
int aws_client_new(const struct aws_client_options *options, struct fetch_pool *pool,
                   struct aws_client **ret_client, struct error *err);
void aws_client_free(struct aws_client *client); /* cancels its calls; NULL is fine */
/* The URL that paths are appended to, without a slash at its end. */
const char *aws_client_endpoint(const struct aws_client *client);

struct aws_request {
    const char *operation; /* for messages: "ReceiveMessage" */
    const char *method;
    const char *path;                   /* encoded, with a slash at its beginning */
    const char *query;                  /* encoded; NULL: none */
    const struct sigv4_header *headers; /* signed, too; copied */
    size_t n_headers;
    const void *body; /* copied */
    size_t body_len;
    uint64_t timeout_ns;
    size_t max_answer;
    bool once; /* as in fetch.h; but for one that was refused for its credentials */
};

enum aws_outcome {
    AWS_DONE,      /* 2xx */
    AWS_THROTTLED, /* later, and less: 429, 503, and errors that say so */
    AWS_RETRY,     /* nothing has come, or 5xx: it may or may not have been done */
    AWS_ABSENT,    /* what it names does not exist */
    AWS_REFUSED,   /* credentials, signature, clock, permission: no call will succeed before that changes */
    AWS_WRONG      /* this request: will never succeed */
};

struct aws_answer {
    enum aws_outcome outcome;
    long status;      /* 0: none */
    char code[80];    /* of an error, without its name space: "QueueDoesNotExist" */
    const char *body; /* valid during the callback */
    size_t len;
    struct error error; /* names service, operation, code and message; not when done */
};

typedef void (*aws_done)(void *data, const struct aws_answer *answer);

/* Starts a call; `done` comes exactly once unless it is cancelled, and never before this returns. Errors:
 * ERROR_MEMORY, ERROR_INVALID, and those of aws_credentials_get (there are no credentials). */
int aws_call_start(struct aws_client *client, const struct aws_request *request, aws_done done, void *data,
                   struct aws_call **ret_call, struct error *err);
/* Ends a call without its callback; not from it. */
void aws_call_cancel(struct aws_call *call);
