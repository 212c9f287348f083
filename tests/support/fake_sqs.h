/* A fake SQS queue in this process (fake_http.h): fast, for benchmarks; and one that fails on demand, for
 * what real servers cannot be made to do. It speaks the JSON protocol, keeps the order of FIFO groups, and
 * knows visibility time-outs and long polls. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fake_sqs;

/* What goes wrong from now on; zeros: nothing. Counts go down to 0 as it happens. */
struct fake_sqs_faults {
    unsigned delete_entries;  /* of so many entries that are to be deleted every second one fails (not the
                                 sender's fault) */
    unsigned throttle;        /* so many requests get ThrottlingException */
    unsigned unavailable;     /* so many get 503 */
    unsigned lose_answers;    /* so many are carried out and not answered */
    unsigned lose_receipts;   /* so many entries that are to be deleted fail: their receipt handle is void */
    bool gone;                /* the queue does not exist */
    bool refuse_attributes;   /* AccessDeniedException for GetQueueAttributes */
    const char *refused_code; /* every request gets this with 403; NULL: none does */
};

/* What was asked for. */
struct fake_sqs_counts {
    uint64_t received, deleted, extended, released; /* messages */
    uint64_t receives, deletes, extends, sends;     /* requests */
    uint64_t receiving_most;                        /* long polls at a time */
    uint64_t delete_failures;
};

/* visibility_s: of the queue. NULL with the reason on standard error. */
struct fake_sqs *fake_sqs_start(bool fifo, unsigned visibility_s);
void fake_sqs_stop(struct fake_sqs *fake); /* NULL is fine */
/* From now on every request is looked at so long after it came, as if the server were far away. */
void fake_sqs_set_latency(struct fake_sqs *fake, uint64_t latency_ns);
int fake_sqs_port(const struct fake_sqs *fake);
/* Puts a message into the queue; group: of a FIFO queue, "" else. Its id is a UUID made of its number. */
void fake_sqs_put(struct fake_sqs *fake, const char *body, size_t len, const char *group);
void fake_sqs_set(struct fake_sqs *fake, const struct fake_sqs_faults *faults);
struct fake_sqs_counts fake_sqs_counts(struct fake_sqs *fake);
/* The access key id that signed the last request, if it came with this session token; else 0. Ids are "AKID"
 * and a number. */
unsigned fake_sqs_key(struct fake_sqs *fake, const char *session_token);
/* Messages in the queue, in flight or not. */
size_t fake_sqs_left(struct fake_sqs *fake);
/* Those of the latter that are in flight. */
size_t fake_sqs_in_flight(struct fake_sqs *fake);
/* Makes all in flight visible, as if their time were over. */
void fake_sqs_expire(struct fake_sqs *fake);
/* The nth message that was sent to it (SendMessageBatch), as "group|deduplication id|body"; NULL: not yet.
 * Valid until the stop. */
const char *fake_sqs_sent(struct fake_sqs *fake, size_t n);
