/* Templates: JSON values whose texts hold paths, ${…}, into what an action knows when it fires.
 *
 *     ${event.id}  ${event.data.order.items[0]["unit price"]}  ${context.url}  ${global.api.base}
 *     ${workspace}  ${trigger}  ${key}
 *
 * A path begins with one of event (its attributes by their names, `data` parsed as JSON), context (the
 * trigger's), global (the workspace's global context), workspace, trigger, key (the idempotency key), and
 * goes on with .name, ["name"] or [index]. A text that is one path and nothing else becomes the value it
 * leads to, with its JSON type; inside a text a text stands as it is and anything else as its JSON. A path
 * that leads to nothing is an error. $${ stands for ${. Names of members are not replaced. Thread: any. */
#pragma once

#include <stdbool.h>

#include "common/buffer.h"
#include "common/json.h"

struct cloudevent;
struct error;

/* What paths lead into; filled by its maker but for what is below. */
struct template_scope {
    const struct cloudevent *event;
    const struct json_value *context; /* an object */
    const struct json_value *global;  /* an object */
    const char *workspace;
    const char *trigger;
    const char *key;
    /* template.c */
    struct buffer text;     /* of data, when it was asked for */
    struct json_value data; /* JSON_ABSENT: it was not */
    struct buffer whole;    /* the event, likewise */
};

void template_scope_done(struct template_scope *scope);

/* Whether all paths in it are well-formed. Errors: ERROR_INVALID naming the path. */
int template_check(const struct json_value *value, struct error *err);
/* Whether there is a path in it. */
bool template_has_paths(const struct json_value *value);

/* Appends the value, as JSON. Errors: ERROR_INVALID naming the path, ERROR_MEMORY. */
int template_render(const struct json_value *value, struct template_scope *scope, struct buffer *out,
                    struct error *err);
/* Appends a text, as it is. */
int template_render_text(const struct json_value *string, struct template_scope *scope, struct buffer *out,
                         struct error *err);
/* Appends a URL: what paths lead to is percent-encoded (all but the unreserved characters of RFC 3986), so
 * that it cannot change what it is put into; but not a path at the very beginning, which may give scheme and
 * host. */
int template_render_url(const struct json_value *string, struct template_scope *scope, struct buffer *out,
                        struct error *err);
