/* Putting secrets back that redact.h has taken out of a dead letter's intent, when it is to be redriven: from
 * where the action had them, the trigger and the global context as they are stored now. A member takes the
 * value of the members of its name there, a URL the place of the one that is the same without its secrets; if
 * there is none, or more than one, it cannot be done. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct buffer;
struct error;
struct json_value;

/* Whether something was taken out. */
bool restore_is_needed(const struct json_value *value);
/* Appends the value with its secrets. Errors: ERROR_INVALID naming the member, ERROR_MEMORY. */
int restore_secrets(const struct json_value *value, const struct json_value *from, size_t n_from,
                    struct buffer *out, struct error *err);
