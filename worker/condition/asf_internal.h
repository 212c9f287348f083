/* What the conditions of a compiled state machine have in common: for asf*.c only. Thread: shard. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/condition/condition.h"
#include "worker/states/answer.h"
#include "worker/states/join.h"

struct choice;
struct firing;
struct state;

/* A state directly inside a Parallel, and the number of its branch's end. */
struct asf_inside {
    uint64_t name; /* hash */
    int64_t place; /* N of StateMachineN; not known: below 0, and different for each branch */
};

#define ASF_KEPT_BYTES 4096 /* of the event in hand, between events */

struct asf {
    bool joins_events;
    char *subject;           /* NULL: the trigger's id */
    struct buffer execution; /* the context's Execution, JSON; empty: none */
    struct choice *choice;
    struct state *state;
    struct answers answers;
    /* AWS_ASF_JOIN_STATEMACHINE */
    uint64_t self; /* item_join() of the subject */
    int64_t join_multiple;
    int64_t counter;
    bool by_map;
    struct asf_inside *inside; /* of a Parallel */
    size_t n_inside;
    struct joins joins;
    struct buffer result; /* JSON; empty: none */
    /* The event in hand, for the action. */
    struct answer answer; /* that it was; text NULL: none */
    uint64_t refused;     /* key (hash) of the answer that was put back; 0: none */
    struct buffer data;
    struct buffer item;
    bool left;
    struct error error;    /* why nothing can be made of it */
    bool blamed;           /* ... which is the failure of a state */
    bool by_rule;          /* ... on the way to it: in the rule that leads there */
    bool failed;           /* it tells of a failure inside of this state */
    struct buffer culprit; /* name of the state that has failed, if it is another one */
    struct buffer raw;     /* its input, JSON; empty: not known */
};

extern const struct condition_type condition_aws_asf_condition;
extern const struct condition_type condition_aws_asf_join_statemachine;
extern const struct condition_type condition_aws_asf_catch;

/* What both have in the context. Errors: ERROR_INVALID, ERROR_MEMORY; asf_unload then. */
int asf_load(struct asf *asf, const struct json_value *context, struct error *err);
void asf_unload(void *state);
bool asf_counted(const void *state);
const char *asf_why_refused(const void *state);
/* The state's name, "" when the context has none. */
const char *asf_name(const struct asf *asf);

/* Takes the event in hand, as it is. */
void asf_begin(struct asf *asf, const struct cloudevent *event);
/* The same, and the answer that it is. 1: an answer was taken; -1: asf->error. */
int asf_take(struct asf *asf, const struct cloudevent *event);
/* Replaces the data in hand. */
void asf_set_data(struct asf *asf, const struct json_value *value);
/* The data in hand become the output of a state, of which they were the result: a state of ours, or one that
 * was written here with its input. -1: asf->error. */
int asf_leave(struct asf *asf, const char *name, const struct state *state, const struct json_value *input,
              const struct json_value *result);
int asf_leave_written(struct asf *asf, const char *name, const struct json_value *document,
                      const struct json_value *input, const struct json_value *result);
/* Outcome: nothing can be made of the event, asf->error says why. The answer that it was is waited for again.
 */
unsigned asf_refuse(struct asf *asf, unsigned changed);
/* Ends the worker when memory ran out: an event would be lost; the next one starts from the last checkpoint.
 */
void asf_must(const struct buffer *buffer);
/* What is wrong is the failure of a state: of that name (NULL: of this one), with that input (NULL: not
 * known). */
void asf_blame(struct asf *asf, const char *name, const struct json_value *input);
/* condition_type.refused, .activations */
int asf_refused(void *state, struct firing *firing);
int asf_activations(const struct json_value *context, condition_add add, void *data, struct error *err);
/* Outcome: asf->error says why a write cannot be taken. Ends the worker when memory ran out. */
unsigned asf_refuse_write(struct asf *asf);
/* A write of a task's firing. */
unsigned asf_write_answer(struct asf *asf, const struct json_value *write);
