/* What the AWS_ASF actions need of the condition of their trigger. Thread: shard. */
#pragma once

#include <stddef.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/json.h"

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
    /* asf_firing_done() frees them */
    struct buffer text, name;
    struct state *own_state;
};

/* Errors: ERROR_INVALID (what had been wrong when the condition came to hold; a State that makes no sense),
 * ERROR_MEMORY. asf_firing_done in any case. */
int asf_firing_read(struct asf_firing *asf, const struct firing *firing, struct error *err);
void asf_firing_done(struct asf_firing *asf);
/* The action has failed: the event may come again, and if it is an answer, it is waited for again. */
void asf_firing_failed(const struct firing *firing);
