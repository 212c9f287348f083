/* The parameters of an SQSEventSource, for reading from it and publishing to it.
 *
 *     {"access_key_id","secret_access_key","region","queue"} as in the original client; all but `queue` may
 * be absent: credentials then come from the environment or a role (common/aws_credentials.h), the region from
 * the queue, AWS_REGION or AWS_DEFAULT_REGION. `queue` is a name, a URL or an ARN. And, all optional:
 * "session_token", "endpoint" (URL), "tls_ca" (file), "receives" (requests in flight at most),
 * "wait_seconds" (of a long poll), "visibility_timeout" (seconds; by default the queue's own). */
#pragma once

#include <stdbool.h>

struct error;
struct json_value;

#define SQS_RECEIVES_MAX 32

struct sqs_parameters {
    /* Owned; NULL: absent. */
    char *access_key_id, *secret_access_key, *session_token, *tls_ca;
    /* Owned, never NULL. */
    char *region, *queue; /* queue: its name */
    char *endpoint;       /* NULL: that of AWS */
    char *url;            /* of the queue; NULL: to be asked for */
    char *account;        /* that owns it; NULL: that of the credentials */
    bool fifo;
    int receives;
    int wait_seconds;
    int visibility_timeout; /* 0: the queue's */
};

/* The names of all of them, NULL-terminated. */
extern const char *const sqs_parameters_known[];

/* Errors: ERROR_INVALID naming the parameter and its value (never a secret). */
int sqs_parameters_read(const struct json_value *json, struct sqs_parameters *ret_parameters,
                        struct error *err);
void sqs_parameters_done(struct sqs_parameters *parameters);
