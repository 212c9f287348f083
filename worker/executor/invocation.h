/* Invocations: intents that call a function or a service over HTTP, under the policies that all invoking
 * actions share. An action's start() hands its intent over with invocation_start(); everything from there to
 * executor_done() happens here:
 *
 *     start ─▶ queues.h ─▶ request() ─▶ call ─▶ judge() ─┬─ done ───▶ reply() ─┬─▶ executor_done()
 *       ▲   (as limits allow)                            ├─ failed ─▶ failure ─┘
 *       └──────────────────── back-off ◀─────────────────┴─ retry
 *
 * - Limits: `max_in_flight` and `rate` of the action (all intents of one trigger together), of the
 *   configuration for every host and for the whole worker, of which nobody gets all (queues.h). Who must wait
 *   holds no connection.
 * - An attempt that fails for the moment (no answer, 408, 409, 429, or not 2xx and not 4xx) is repeated
 *   after an exponential back-off with full jitter, not before what Retry-After asks for (at most
 *   INVOCATION_RETRY_AFTER_MAX_S), max_retries times.
 * - Every attempt carries the idempotency key, as header Idempotency-Key, and where the action puts it.
 * - What was given up becomes the dead letter action_failed, which shows request and last answer without
 *   secrets, and, when a trigger waits for it, an event of the type event.triggerflow.termination.failure in
 *   the workflow.
 *
 * The end of an invocation is durable exactly once: the checkpoint that records it removes the intent from
 * the outbox, and in the same transaction stores the dead letter and the event (reply or failure) that it
 * puts into the internal source.
 *
 *     the worker dies                        storage holds           the successor
 *     before the call                        the intent              calls
 *     in a graceful stop, before the call    the intent; that it     calls
 *                                            had not begun
 *     during the call, or before the commit  the intent              calls again, under the same key; or,
 *     that records its end                                           with on_uncertain: dead_letter, gives up
 *     after that commit                      no intent; the event    goes on from the event, which has the
 *                                            if it is not through    same id and key in every repetition
 *
 * Thread: executor, or one that stands in for it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/json.h"
#include "worker/executor/invocation_policy.h"
#include "worker/executor/queues.h"

struct config;
struct error;
struct executor;
struct http_answer;
struct http_call;
struct http_call_request;
struct intent;
struct invocation;
struct invocations;

#define INVOCATION_RETRY_AFTER_MAX_S 300
#define INVOCATION_FAILURE_TYPE "event.triggerflow.termination.failure"

/* --- for actions --- */

enum invocation_verdict { INVOCATION_DONE, INVOCATION_RETRY, INVOCATION_FAILED };

/* An event in the making: id, source, time and key are added. */
struct invocation_reply {
    struct buffer type;
    struct buffer subject;
    struct buffer data;
    enum cloudevent_data kind; /* of data: CE_DATA_JSON, CE_DATA_TEXT, CE_DATA_BASE64; else there is none */
};

struct invocation_type {
    /* Makes the request of one attempt, just before it is sent: signatures and secrets belong here. Content
     * type, authentication and all that; timeout, Idempotency-Key (unless it was set) and the limits are
     * added. Errors: ERROR_INVALID, ERROR_REFUSED: given up; others: tried again. */
    int (*request)(const struct invocation *invocation, struct http_call_request *request, struct error *err);
    /* What an answer means, and err why, unless done. NULL: invocation_judge(). */
    enum invocation_verdict (*judge)(const struct invocation *invocation, const struct http_answer *answer,
                                     struct error *err);
    /* What tells the workflow of a done invocation. 1: nothing does. Errors: given up. NULL: nothing ever
     * does. */
    int (*reply)(const struct invocation *invocation, const struct http_answer *answer,
                 struct invocation_reply *reply, struct error *err);
    /* What the host's limit goes by, such as "http://host:80". NULL: the origin of the URL in the body's
     * member `url`. */
    int (*host)(const struct invocation *invocation, struct buffer *out, struct error *err);
    /* For what is no call: begins an attempt by other means, and keeps what it needs in `work`; ended by
     * invocation_end(). The other functions then get no answer. Errors as request. NULL: a call. */
    int (*run)(struct invocation *invocation, struct error *err);
    /* Frees `work` of an attempt that has begun and not ended: the worker ends. */
    void (*cancel)(struct invocation *invocation);
    /* How many may be under way at a time with one host. NULL: as the configuration says for calls. */
    int64_t (*host_limit)(const struct config *config);
    /* Appends what more there is to tell of a failure: members, each behind a comma. NULL: nothing. */
    void (*explain)(const struct invocation *invocation, struct buffer *out);
    bool whole_answer; /* an answer longer than answer_max is no answer; else its beginning is enough */
    size_t answer_max; /* 0: the configuration's max_answer_bytes */
};

struct invocation {
    struct executor *executor;
    struct intent *intent; /* with the key */
    const struct invocation_type *type;
    struct json_value body; /* the intent's, an object */
    struct invocation_policy policy;
    void *work; /* of the type's run(); NULL: nothing is under way */
    /* invocation.c only */
    struct queues_ticket ticket;
    struct http_call *call;
    struct invocation *before, *after; /* all of them */
};

/* Takes an intent that is to be started (again). Its body must hold what invocation_policy_write wrote. */
void invocation_start(struct executor *executor, struct intent *intent, const struct invocation_type *type);

/* Ends an attempt that run() has begun, with `work` as it is for reply() and explain(). why: NULL when done.
 * Not from within run(). */
void invocation_end(struct invocation *invocation, enum invocation_verdict verdict, const struct error *why);

/* 2xx and whole (or long enough) is done; 4xx but 408, 409, 429, and what can never be sent, has failed; all
 * else is to be tried again. */
enum invocation_verdict invocation_judge(const struct invocation *invocation,
                                         const struct http_answer *answer, struct error *err);

/* --- for the executor --- */

int invocations_new(struct executor *executor, struct invocations **ret_invocations, struct error *err);
/* Ends all calls and frees their intents, which stay in the outbox. NULL is fine. */
void invocations_free(struct invocations *invocations);
/* Begins the calls of one round, of which there are few, so that what else is to be done need not wait for a
 * burst of them; triggers take turns. Whether there are more. Thread: executor, once a round of its loop. */
bool invocations_go_on(struct invocations *invocations);
/* Those that have not ended, whether they have begun or not. */
void invocations_each(struct invocations *invocations, void (*see)(void *data, struct intent *intent),
                      void *data);
/* Calls under way. */
size_t invocations_under_way(const struct invocations *invocations);
