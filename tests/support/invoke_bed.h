/* A real worker with a function service beside it, for tests of actions that invoke (cmocka). Thread: main.
 */
#pragma once

#include <stdbool.h>

#include "tests/support/function_server.h"
#include "tests/support/worker_bed.h"

struct invoke_bed {
    struct worker_bed *worker;
    struct function_server *server;
    char action[4096]; /* of invoke_bed_action */
};

/* Empties the Redis server. */
struct invoke_bed *invoke_bed_new(struct redis_server *redis);
/* Also unsets what invoke_bed_setting has set. */
void invoke_bed_free(struct invoke_bed *bed);
/* A configuration variable for the worker's next start. */
void invoke_bed_setting(const char *variable, const char *value);

/* HTTP_INVOKE of a path of the service, with little back-off; more: further members (`,"mode":"raw"`). Valid
 * until the next call. */
const char *invoke_bed_action(struct invoke_bed *bed, const char *path, const char *more);
/* A trigger that does it for events of the type `go` and this subject ("*": any). */
void invoke_bed_trigger(struct invoke_bed *bed, const char *id, const char *subject, const char *path,
                        const char *more);
/* A trigger that counts such events, each key once. */
void invoke_bed_counter(struct invoke_bed *bed, const char *id, const char *type, const char *subject);
long long invoke_bed_count(const struct invoke_bed *bed, const char *id);
/* One event of the type go. */
void invoke_bed_go(const struct invoke_bed *bed, const char *id, const char *subject, const char *data);
/* n of them, the ith with the subject <prefix><i>. */
void invoke_bed_go_many(const struct invoke_bed *bed, const char *prefix, unsigned n);

/* The values of the dead letters, one a line (free). */
char *invoke_bed_letters(const struct invoke_bed *bed);
/* Fails unless the text holds the part. */
void invoke_bed_has(const char *text, const char *part);
