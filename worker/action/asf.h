/* What the AWS_ASF actions have in common. Thread: shard. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "worker/action/action.h"
#include "worker/states/context.h"
#include "worker/states/evaluation.h"

struct asf_firing;
struct error;
struct firing;
struct json_value;

#define ASF_SUCCESS "lambda.success"

/* An evaluation for this firing: its input, and the context object ($$), which is the caller's and lives as
 * long. asf_evaluation_done() in the end. */
struct asf_evaluation {
    struct evaluation evaluation;
    struct context context;
    struct buffer settings; /* that the context borrows */
};
int asf_evaluation_init(struct asf_evaluation *evaluation, const struct firing *firing,
                        const struct asf_firing *asf, struct error *err);
void asf_evaluation_done(struct asf_evaluation *evaluation);

/* An event (subject, lambda.success) with this data; element: of the firing's keys, which is its id. Borrows
 * what it is made of. asf_event_done() in any case. */
struct asf_event {
    struct cloudevent event;
    struct buffer source;
    char key[ACTION_KEY_MAX];
    char time[CLOCK_ISO_MAX];
};
int asf_event_init(struct asf_event *made, struct firing *firing, const char *subject,
                   const struct json_value *data, const struct cloudevent_span *item, uint32_t element,
                   struct error *err);
void asf_event_done(struct asf_event *made);

/* Emits (subject, lambda.success) with this data; element: of the firing's keys. */
int asf_emit(struct firing *firing, const char *subject, const struct json_value *data,
             const struct cloudevent_span *item, uint32_t element, struct error *err);
