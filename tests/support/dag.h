/* DAGs for tests: made by hand or read from the conformance data, compiled to triggers as the original client
 * does it, and what a run must have come to. What goes wrong fails the test (cmocka). Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct function_server;
struct workspace;

struct dag_task {
    char *id;
    unsigned n; /* invocations: values of iter_data; 1: without iter_data */
    size_t *upstream;
    size_t n_upstream;
    bool is_final; /* nothing depends on it */
};

struct dag {
    struct dag_task *tasks;
    size_t n;
};

/* From the folder wf of the conformance data; tasks that are named NAME/0, NAME/1, ... are one task with so
 * many values. NULL: it is absent. */
struct dag *dag_read(const char *name);
struct dag *dag_new(void);
/* upstream: ids of earlier tasks, separated by blanks. */
void dag_add(struct dag *dag, const char *id, unsigned n, const char *upstream);
void dag_free(struct dag *dag);
size_t dag_invocations(const struct dag *dag);

/* Stores its triggers and __end__. Functions are those of the server, one for each task, of its name with
 * what is no letter or digit as "-", and publish to the stream. more: further members of each operator
 * (`,"max_retries":1`). dummy: tasks are DAG_DUMMY_TASKs. */
struct dag_options {
    const struct function_server *server;
    const char *stream;
    const char *more;
    const char *action; /* NULL: {"name":"IBM_CF_INVOKE"} */
    bool lambda;
    bool dummy;
};
void dag_store(const struct dag *dag, const struct workspace *workspace, const struct dag_options *options);
/* The function of a task. */
const char *dag_function(const struct dag_task *task);

/* What must be stored after `runs` runs to the end: all that was started has come back, once. results: every
 * termination event has data. */
void dag_assert_contexts(const struct dag *dag, const struct workspace *workspace, unsigned runs,
                         bool results);
/* Each task's function was started under as many keys as it has values, times the runs; and as often, unless
 * there were crashes. */
void dag_assert_starts(const struct dag *dag, struct function_server *server, unsigned runs, bool crashes);
