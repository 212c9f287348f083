/* A workspace and a worker of its own, for integration tests of the real triggerflow-worker: the workspace
 * "ws" with the event sources "in" (stream in) and "out" (stream out, publish-only). What goes wrong fails
 * the test (cmocka). With TRIGGERFLOW_KEEP in the environment the log is printed at the end. Thread: main. */
#pragma once

#include "tests/support/process.h"
#include "tests/support/redis_server.h"
#include "tests/support/wait.h"
#include "tests/support/workspace.h"

struct worker_bed {
    struct redis_server *redis;
    struct workspace workspace;
    struct process worker;
    char dir[64];
    char program[PATH_MAX];
    unsigned running_before;
};

/* Waits for a condition; the workspace and the log are shown when it does not come true. */
#define AWAIT_BED(bed, condition) WAIT_ELSE(condition, worker_bed_show(bed))

/* Empties the server. */
struct worker_bed *worker_bed_new(struct redis_server *redis);
void worker_bed_free(struct worker_bed *bed); /* kills the worker if it runs */
void worker_bed_show(const struct worker_bed *bed);

/* A trigger for events of this type and subject. */
void worker_bed_trigger(const struct worker_bed *bed, const char *id, const char *condition,
                        const char *context, const char *action, const char *type, const char *subject);
void worker_bed_transient(const struct worker_bed *bed, const char *id, const char *condition,
                          const char *context, const char *action, const char *type, const char *subject);
/* n events into the stream `in`, with the ids <type>-<subject>-0.... */
void worker_bed_publish(const struct worker_bed *bed, const char *type, const char *subject, unsigned n);

/* Starts the worker for "ws". option, value: of the command line; setting: "NAME=value" for the environment;
 * NULL: none. */
void worker_bed_start(struct worker_bed *bed, const char *option, const char *value, const char *setting);
/* Runs the program with these arguments (NULL-terminated) and returns its exit status. */
int worker_bed_run(struct worker_bed *bed, const char *const *arguments);
/* Whether it serves since the last start. */
bool worker_bed_running(const struct worker_bed *bed);
/* start, and waits until it serves. */
void worker_bed_up(struct worker_bed *bed);
/* SIGTERM once it serves; its exit status must be 0. */
void worker_bed_stop(struct worker_bed *bed);
/* Waits for its end; the exit status. */
int worker_bed_end(struct worker_bed *bed);
bool worker_bed_logged(const struct worker_bed *bed, const char *text);

/* Whether everything in `in` is processed and committed. */
bool worker_bed_settled(const struct worker_bed *bed);
void worker_bed_settle(const struct worker_bed *bed);
/* context.counter of a trigger. */
long long worker_bed_counter(const struct worker_bed *bed, const char *trigger);
/* One attribute of the nth entry of a stream ("" when there is none); valid until the next call. */
const char *worker_bed_entry(const struct worker_bed *bed, const char *stream, unsigned n,
                             const char *attribute);
