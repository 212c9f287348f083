/* A queue of Amazon SQS (or of what speaks like it): where it is, and calls of the service's JSON protocol
 * ("AWS JSON 1.0": POST /, X-Amz-Target: AmazonSQS.<operation>). Thread: that of the fetch pool. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/aws_client.h"
#include "common/buffer.h"
#include "worker/source/sqs_parameters.h"

struct fetch_pool;

struct sqs_queue {
    const struct sqs_parameters *parameters; /* borrowed */
    struct fetch_pool *pool;
    struct aws_client *client;
    char *url; /* owned; NULL: not known yet */
    /* From its attributes, or what is usual when these may not be read. */
    uint64_t visibility_s;
    uint64_t retention_s;
    uint64_t created_unix_s; /* 0: not known */
    uint64_t length;         /* messages that wait, about */
};

/* Connects nothing. Errors: ERROR_INVALID, ERROR_MEMORY, ERROR_SYSTEM. */
int sqs_queue_init(struct sqs_queue *queue, const struct sqs_parameters *parameters, struct error *err);
void sqs_queue_done(struct sqs_queue *queue); /* cancels all calls; half-built is fine */

/* Calls an operation. `members`: of the body besides QueueUrl (when there is one), beginning with a comma, or
 * empty. Errors and the rest: as aws_call_start. */
int sqs_queue_call(struct sqs_queue *queue, const char *operation, const struct buffer *members,
                   uint64_t timeout_ns, aws_done done, void *data, struct aws_call **ret_call,
                   struct error *err);

/* Asks for its URL. Then `done` hands the answer to sqs_queue_read_url, which is 0, or -1 with the error. */
int sqs_queue_ask_url(struct sqs_queue *queue, aws_done done, void *data, struct aws_call **ret_call,
                      struct error *err);
int sqs_queue_read_url(struct sqs_queue *queue, const struct aws_answer *answer, struct error *err);
void sqs_queue_forget_url(struct sqs_queue *queue); /* it does not exist any more: ask again */
/* The same for its attributes. One that may not read them works with what is usual: that is no error. */
int sqs_queue_ask_attributes(struct sqs_queue *queue, aws_done done, void *data, struct aws_call **ret_call,
                             struct error *err);
int sqs_queue_read_attributes(struct sqs_queue *queue, const struct aws_answer *answer, struct error *err);

/* How long to wait after the nth failure in a row: exponential with full jitter, `first` to `longest`. */
uint64_t sqs_back_off(unsigned failures, uint64_t first_ns, uint64_t longest_ns, uint64_t *random);
