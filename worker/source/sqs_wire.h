/* What SQS answers, taken apart in place: messages received, and what became of each entry of a batch.
 * Answers come from outside: everything is checked. Thread: any. Fuzzed: tests/fuzz. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/json.h"

struct buffer;
struct error;

#define SQS_BATCH 10 /* entries of a batch, and messages of an answer, at most */

/* Borrows the answer's text; the strings are still escaped. */
struct sqs_message {
    struct json_value id;
    struct json_value receipt;
    struct json_value body;
    uint64_t sent_ms; /* unix; 0: not told */
};

/* *ret_n messages, 0 to SQS_BATCH. Errors: ERROR_UNAVAILABLE: not an answer to ReceiveMessage. */
int sqs_wire_messages(const char *text, size_t len, struct sqs_message ret_messages[SQS_BATCH], size_t *ret_n,
                      struct error *err);

/* What became of an entry. */
struct sqs_result {
    enum {
        SQS_UNKNOWN, /* the answer does not name it */
        SQS_SUCCEEDED,
        SQS_FAILED, /* may succeed when it is repeated */
        SQS_FAULTY  /* will not: the sender's fault */
    } outcome;
    char code[64];
    char message[120];
};

/* Of n entries whose Ids are their indices, "0" to "9". Errors: ERROR_UNAVAILABLE: not an answer to a batch.
 */
int sqs_wire_results(const char *text, size_t len, size_t n, struct sqs_result ret_results[SQS_BATCH],
                     struct error *err);
