/* What stands behind a member that ends in ".$": a path, or a call of an intrinsic function whose arguments
 * are texts in single quotes, numbers, true, false, null, paths and calls (States Language, appendix B).
 * Thread: any (immutable). Fuzzed: tests/fuzz. */
#pragma once

#include <stddef.h>

struct error;
struct evaluation;
struct expression;
struct json_value;

/* Errors: ERROR_INVALID with the expression and what is wrong, ERROR_MEMORY. */
int expression_parse(const char *text, size_t len, struct expression **ret_expression, struct error *err);
/* From a JSON string. */
int expression_load(const struct json_value *string, struct expression **ret_expression, struct error *err);
void expression_free(struct expression *expression); /* NULL is fine */

/* Errors: ERROR_NOT_FOUND: a path leads nowhere; ERROR_INVALID: a function refuses its arguments;
 * ERROR_LIMIT, ERROR_MEMORY. */
int expression_evaluate(const struct expression *expression, struct evaluation *evaluation,
                        struct json_value *ret_value, struct error *err);
