/* `triggerflow-worker --check`: judges triggers and event sources that are to be stored, and tries triggers
 * on events, for the supervisor (supervisor/checker.h has the requests). It reads one JSON text a line from
 * standard input and writes one a line to standard output, until the input ends. It opens nothing, and
 * cannot.
 *
 * It is stricter than the worker, which runs whatever has been stored: members of conditions and actions that
 * nobody knows, and contexts with which a condition can never hold, are refused. Thread: main. */
#pragma once

#include <stddef.h>

struct buffer;
struct error;
struct json_value;

#define CHECK_LINE_MAX (8u << 20)    /* bytes of a request */
#define CHECK_ANSWER_MAX (32u << 20) /* bytes of an answer */
#define CHECK_CPU_SECONDS 10         /* that a request may take; then the process dies */
#define CHECK_TRIGGERS_MAX 50000     /* in a request */
#define CHECK_ID_MAX 255             /* bytes of a trigger's id */

/* Whether a trigger can be registered. Errors: ERROR_INVALID with the reason, ERROR_MEMORY. */
int check_trigger(const struct json_value *trigger, struct error *err);

/* Appends the answer to a request, without the line feed; there always is one, {"error":reason} at worst. */
void check_answer(const char *request, size_t len, struct buffer *out);

/* Serves. Returns the exit status. */
int check_run(void);
