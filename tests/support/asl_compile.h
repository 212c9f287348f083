/* A state machine compiled to triggers, as the original client does it, and in places further: a Choice by
 * rules And(Not ...), a state with several Conditions by several triggers, InputPath, Parameters and
 * ResultPath of a Parallel by a Pass in front of it, Wait, Retry and Catch, Fail and a Choice without a
 * match. docs/state-machines.md has all of it. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/buffer.h"
#include "common/json.h"

struct asl_machine {
    const char *prefix; /* of the names of states, and so of the triggers' ids and subjects */
    double second;      /* how long a second of Wait, Retry and TimeoutSeconds takes; 0: as long as it is */
    unsigned *number;   /* of the last StateMachineN; counts on */
    const char *more;   /* further members of every context (`,"Execution":{}`), or "" */
    const char *task;   /* the action of Tasks, JSON */
    /* Takes a trigger: its id, and its document. */
    void (*put)(void *data, const char *id, const char *document);
    void *data;
    /* Results: the subject that starts it, and the trigger of its end. */
    struct buffer start;
    struct buffer end;
    const char *refused; /* a static text: what cannot be compiled */
};

/* Whether it could be compiled; if not, some triggers may have been put. */
bool asl_compile(struct asl_machine *machine, const struct json_value *definition);
void asl_machine_done(struct asl_machine *machine);
