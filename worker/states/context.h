/* The context object ($$), as far as it is known where a state is evaluated: Execution, State, StateMachine
 * and Map.Item. Thread: any. */
#pragma once

#include <stdint.h>

#include "common/cloudevent.h"
#include "common/json.h"

struct buffer;

struct context {
    const char *workspace;          /* Id and Name of the execution and the machine; NULL: not known here */
    struct json_value execution;    /* instead of its Execution, type JSON_ABSENT: none */
    const char *state;              /* name */
    struct cloudevent_span time;    /* of the event; len 0: now */
    struct cloudevent_span item;    /* the event's iteration (item.h) */
    const struct json_value *value; /* Map.Item.Value; NULL: not known here */
    int64_t index;                  /* Map.Item.Index; below 0: that of `item`, if there is one */
};

/* For evaluation.describe; data: a struct context. */
void context_write(const void *data, struct buffer *out);
