/* One state of a state machine, as far as data flows through it: InputPath, Parameters, ItemsPath,
 * ItemSelector, Result, ResultSelector, ResultPath, OutputPath. Loaded once, evaluated for every event.
 *
 * Errors of an evaluation begin with the States Language's name for them: States.Runtime (a path that leads
 * nowhere, arguments that a function refuses, too many steps), States.ResultPathMatchFailure,
 * States.DataLimitExceeded (EVALUATION_DATA_MAX). The code is ERROR_INVALID, or ERROR_MEMORY. Values that
 * come out borrow from the evaluation, from what went in, or from the state. Thread: any (immutable). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct evaluation;
struct failure;
struct json_value;
struct state;

/* Copies. Errors: ERROR_INVALID with the member and what is wrong with it: QueryLanguage JSONata and Assign
 * are not supported; ERROR_MEMORY. */
int state_load(const struct json_value *document, struct state **ret_state, struct error *err);
void state_free(struct state *state); /* NULL is fine */

/* Of its Type. */
enum state_kind { STATE_OTHER, STATE_PASS, STATE_MAP, STATE_PARALLEL, STATE_FAIL, STATE_WAIT };
enum state_kind state_kind(const struct state *state);
/* The state's Resource, "" when it has none. */
const char *state_resource(const struct state *state);
bool state_has_parameters(const struct state *state);
/* Whether its output is more than its result: ResultSelector, ResultPath or OutputPath say so. And whether
 * that takes its input. */
bool state_shapes_result(const struct state *state);
bool state_keeps_input(const struct state *state);
/* Whether it has Retry or Catch (states/catch.h). */
bool state_catches(const struct state *state);
/* Appends what of a state's document says that, as a document of its own: for who makes its output elsewhere.
 */
void state_write_shape(const struct json_value *document, struct buffer *out);

/* What the state works on: InputPath and Parameters applied to the evaluation's input. */
int state_enter(const struct state *state, struct evaluation *evaluation, struct json_value *ret_input,
                struct error *err);
/* What comes out of it: ResultSelector, ResultPath (into the evaluation's input, the raw one) and OutputPath.
 */
int state_leave(const struct state *state, struct evaluation *evaluation, const struct json_value *result,
                struct json_value *ret_output, struct error *err);
/* Both for a Pass: Result, or else its input, is the result. */
int state_pass(const struct state *state, struct evaluation *evaluation, struct json_value *ret_output,
               struct error *err);

/* A Fail: its Error (or ErrorPath) and Cause (or CausePath). failure_done() when done. */
int state_fail(const struct state *state, struct evaluation *evaluation, struct failure *ret_failure,
               struct error *err);
/* A Wait: until when, in unix nanoseconds; its output is that of state_enter and state_leave. */
int state_wait(const struct state *state, struct evaluation *evaluation, uint64_t now, uint64_t *ret_until,
               struct error *err);
/* How long a Task's function may take: TimeoutSeconds or TimeoutSecondsPath; 0: for ever. */
int state_timeout(const struct state *state, struct evaluation *evaluation, uint64_t *ret_ns,
                  struct error *err);

/* The items of a Map: InputPath and ItemsPath. An array. */
int state_items(const struct state *state, struct evaluation *evaluation, struct json_value *ret_items,
                struct error *err);
/* What an iteration begins with: ItemSelector (or, as it was called, Parameters), with $$.Map.Item in the
 * evaluation's context object; without either the item. */
int state_item(const struct state *state, struct evaluation *evaluation, const struct json_value *item,
               struct json_value *ret_input, struct error *err);
