/* What the AWS_ASF actions have in common. Thread: shard. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
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

/* Emits (subject, lambda.success) with this data; element: of the firing's keys. */
int asf_emit(struct firing *firing, const char *subject, const struct json_value *data,
             const struct cloudevent_span *item, uint32_t element, struct error *err);
