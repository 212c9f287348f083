/* A payload template (Parameters, ItemSelector, ResultSelector): a JSON value in which members whose names
 * end in ".$" hold an expression, at any depth; everything else is literal. Thread: any (immutable). */
#pragma once

struct error;
struct evaluation;
struct json_value;
struct payload;

/* Copies. Errors: ERROR_INVALID with the member and what is wrong with its expression; two members that would
 * have the same name; ERROR_MEMORY. */
int payload_load(const struct json_value *value, struct payload **ret_payload, struct error *err);
void payload_free(struct payload *payload); /* NULL is fine */

/* Errors: as expression_evaluate, with the member. */
int payload_evaluate(const struct payload *payload, struct evaluation *evaluation,
                     struct json_value *ret_value, struct error *err);
