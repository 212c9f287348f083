/* A task of a DAG, as the actions of its trigger see it: its name, and the events of its end. A task's name
 * is its trigger's context.subject, else the trigger's id. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct firing;
struct json_value;

#define TASK_SUCCESS "event.triggerflow.termination.success"
#define TASK_FAILURE "event.triggerflow.termination.failure"

/* Appends the task's name. settings: the trigger's (firing_settings), scanned. Errors: ERROR_INVALID,
 * ERROR_MEMORY. */
int task_name(const struct firing *firing, const struct json_value *settings, struct buffer *out,
              struct error *err);
/* Tells those who wait for its terminations that it starts n invocations (worker/condition/started.h). */
int task_tell_started(struct firing *firing, const char *task, size_t len, uint64_t n, struct error *err);
/* That n of them could not be started after all. */
int task_tell_failed(struct firing *firing, const char *task, size_t len, uint64_t n, struct error *err);
