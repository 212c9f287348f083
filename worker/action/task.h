/* A task of a DAG, as the actions of its trigger see it: its name, and the events of its end. A task's name
 * is its trigger's context.subject, else the trigger's id. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/condition/started.h"

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
/* Tells those who wait for its terminations about n invocations. */
int task_tell(struct firing *firing, const char *task, size_t len, enum started_kind kind, uint64_t n,
              struct error *err);
