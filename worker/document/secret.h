/* Secrets by reference: an action's document names where a secret is, and never holds it.
 *
 *     {"file": NAME}    a file in the configuration's secret_directory: its folder of the workspace's name is
 *                       looked at first, then the folder itself, whose files are for all workspaces
 *     {"env": NAME}     an environment variable whose name begins with the configuration's
 *                       secret_variable_prefix
 *     {"global": PATH}  in the workspace's global context, by names with dots between them
 *
 * Nothing else of the host can be read that way: a file's NAME is one path segment that does not begin with a
 * dot (or the secret_directory, a slash, and that). A secret is read each time that it is used, so that it
 * can be replaced. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct buffer;
struct config;
struct error;
struct json_value;

#define SECRET_MAX 65536 /* bytes */

struct secret_scope {
    const struct config *config;
    const char *workspace;
    const struct json_value *global; /* an object; NULL: none */
};

/* Whether a value has the form of a reference, and its file's name can be that of a secret wherever the
 * secret_directory is. Errors: ERROR_INVALID, with the file's name; anything else is not shown, since it may
 * be a secret. */
int secret_check(const struct json_value *reference, struct error *err);
/* Appends the secret; a line feed at its end is left out. Errors: ERROR_INVALID (no reference, or not
 * allowed), ERROR_UNAVAILABLE (it is not there), ERROR_LIMIT, ERROR_MEMORY; never with the secret. */
int secret_read(const struct secret_scope *scope, const struct json_value *reference, struct buffer *out,
                struct error *err);
