/* What the AWS_ASF actions need of the condition of their trigger. Thread: shard. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/json.h"
#include "worker/action/action.h"
#include "worker/states/failure.h"

struct error;
struct firing;
struct json_value;
struct state;

/* A firing, as its state sees it. */
struct asf_firing {
    struct json_value data;      /* the state's input, or what a join has collected */
    struct cloudevent_span item; /* where in Maps it is (states/item.h) */
    const char *subject;         /* the state's name */
    const struct state *state;   /* the context's State; NULL: none */
    bool left;                   /* data is the state's output already */
    bool failed;                 /* data tell of a failure inside of the state */
    const char *culprit;         /* the state that has failed, if this cannot be carried out */
    struct json_value raw;       /* its input; type JSON_ABSENT: not known */
    /* asf_firing_done() frees them */
    struct buffer text, name;
    struct state *own_state;
};

/* What is to be done about a failure: AWS_ASF_CATCH. */
enum asf_verdict_kind { ASF_AGAIN, ASF_CAUGHT, ASF_UNCAUGHT };
struct asf_verdict {
    enum asf_verdict_kind kind;
    uint64_t delay_ns; /* ASF_AGAIN */
    int catcher;       /* ASF_CAUGHT: its number, and its ResultPath, type JSON_ABSENT: none */
    struct json_value result_path;
    struct failure failure;
    char attempt[ACTION_KEY_MAX]; /* key of the invocation that has failed; "": none */
};
/* NULL: the trigger has another condition. */
const struct asf_verdict *asf_firing_verdict(const struct firing *firing);

/* Errors: ERROR_INVALID (what had been wrong when the condition came to hold; a State that makes no sense),
 * ERROR_MEMORY. asf_firing_done in any case. */
int asf_firing_read(struct asf_firing *asf, const struct firing *firing, struct error *err);
void asf_firing_done(struct asf_firing *asf);
/* The state has failed. 0: somebody takes it from here; -1, with err: nobody does. */
int asf_raise(struct firing *firing, const struct asf_firing *asf, const struct failure *failure,
              struct error *err);
/* The action has failed, as err says: tells who is to know. 0: somebody takes the state's failure from here;
 * -1: nobody does. The event may come again, then; if it is an answer, it is waited for again. */
int asf_firing_failed(struct firing *firing, const struct asf_firing *asf, struct error *err);

/* Emits the failure of a state, an event of this type (states/failure.h), if somebody takes it: 1, else 0.
 * input: the state's, or NULL. once: told of the event in hand once only, whoever tells. Ends the worker when
 * memory runs out. */
int asf_fail(struct firing *firing, const char *type, const char *name, const struct cloudevent_span *item,
             const struct failure *failure, const struct json_value *input, bool once);
