/* How an action tells when it is done, as its document says:
 *
 *     "reply":"event"|"ignore", "reply_type", "reply_subject", "subject"
 *
 * of which the last three may hold paths (worker/document/template.h). `subject` is whose end, or failure, it
 * is: as given, else as the context says, else the trigger; without a reply_subject it is the reply's, too.
 * The intent's body has it as "subject" and, if there is to be one, "reply":{"type","subject"}. */
#pragma once

#include <stdbool.h>

#include "common/json.h"

struct buffer;
struct error;
struct template_scope;

#define REPLY_TYPE "event.triggerflow.termination.success" /* without a reply_type */

struct reply {
    bool wanted;                         /* the action's: each has a default of its own */
    struct json_value subject, type, of; /* borrow the document; JSON_ABSENT: none */
};

/* All but `wanted`. Errors: ERROR_INVALID. Thread: any. */
int reply_load(struct reply *reply, const struct json_value *document, struct error *err);
/* Registration, of what was loaded: whether reply_type and reply_subject have a reply to be of. standard:
 * what is without `reply`. Errors: ERROR_INVALID. Thread: any. */
int reply_check(const struct json_value *document, bool standard, struct error *err);
/* Appends the members, behind others of the body. Errors: ERROR_INVALID, ERROR_MEMORY. Thread: shard. */
int reply_write(const struct reply *reply, struct template_scope *scope, struct buffer *out,
                struct error *err);
