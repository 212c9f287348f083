/* What a Fail says: Error or ErrorPath, Cause or CausePath. Thread: any (immutable). */
#pragma once

struct error;
struct evaluation;
struct fail;
struct failure;
struct json_value;

/* Of a Fail's document. Errors: ERROR_INVALID naming the member, ERROR_MEMORY. */
int fail_load(const struct json_value *document, struct fail **ret_fail, struct error *err);
void fail_free(struct fail *fail); /* NULL is fine */
/* failure_done() when done. Errors: those of the paths, with the member's name. */
int fail_evaluate(const struct fail *fail, struct evaluation *evaluation, struct failure *ret_failure,
                  struct error *err);
