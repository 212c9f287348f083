/* A workflow in one file: workspace, event sources, triggers, global context.
 *
 *     workspace: orders
 *     event_sources:                  # a list, or names with what they name
 *       http: {class: HTTPEventSource}
 *     triggers:                       # likewise, by their ids
 *       announce:
 *         activation_events: [{type: task.done, subject: orders}]
 *         condition: {name: JOIN}     # or just JOIN
 *         context: {join: 10}
 *         action: {name: TERMINATE}
 *         transient: false
 *     global_context: {}
 *
 * A section that is absent is NULL: apply leaves alone what it is about. Thread: any. */
#pragma once

#include <stddef.h>

struct error;
struct json_object;

struct manifest {
    struct json_object *root;           /* owns all the others */
    const char *workspace;              /* never empty */
    struct json_object *event_sources;  /* array of complete event sources, or NULL */
    struct json_object *triggers;       /* array of complete triggers, or NULL */
    struct json_object *global_context; /* object, or NULL */
    struct json_object *problems;       /* array of texts: what is wrong with single sources and triggers,
                                           which the arrays then lack */
};

/* Reads a file ("-": standard input). Errors: what document_read says, and ERROR_INVALID when the whole is no
 * workflow; what is wrong with a part is in problems. */
int manifest_read(const char *path, struct manifest *ret_manifest, struct error *err);
/* The same from a text; name stands for the file in messages. */
int manifest_parse(const char *name, const char *text, size_t len, struct manifest *ret_manifest,
                   struct error *err);
void manifest_done(struct manifest *manifest);

/* Complete a trigger or an event source in place: absent members get their defaults, short forms become long
 * ones. Errors: ERROR_INVALID naming the member. */
int manifest_trigger(struct json_object *trigger, struct error *err);
int manifest_source(struct json_object *source, struct error *err);

/* Lower-case hex of the SHA-256 of a trigger's canonical JSON without its member `applied`. */
int manifest_hash(struct json_object *trigger, char ret_hash[65], struct error *err);
