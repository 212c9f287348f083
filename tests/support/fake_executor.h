/* An executor that does nothing, in place of the real one: included by one file of a test program, which
 * defines executor_submit, executor_pending and executor_each itself, it defines the other functions of
 * executor/executor.h, so that the real ones are not linked. */
#pragma once

#include "common/error.h"
#include "worker/executor/executor.h"

int executor_new(struct worker *worker, struct executor **ret_executor, struct error *err)
{
    (void)worker, (void)ret_executor;
    return error_set(err, ERROR_SYSTEM, "no executor");
}

int executor_start(struct executor *executor, struct error *err)
{
    (void)executor;
    return error_set(err, ERROR_SYSTEM, "no executor");
}

void executor_stop(struct executor *executor, uint64_t deadline_ns)
{
    (void)executor, (void)deadline_ns;
}

void executor_free(struct executor *executor)
{
    (void)executor;
}

bool executor_has_room(const struct executor *executor)
{
    (void)executor;
    return false;
}

int executor_set_source(struct executor *executor, const char *name, size_t name_len, const char *document,
                        size_t document_len, bool consumed, struct error *err)
{
    (void)executor, (void)name, (void)name_len, (void)document, (void)document_len, (void)consumed, (void)err;
    return 0;
}

bool executor_is_here(const struct executor *executor)
{
    (void)executor;
    return true;
}

void executor_done(struct executor *executor, struct intent *intent, enum executor_outcome outcome,
                   const struct error *error)
{
    (void)executor, (void)intent, (void)outcome, (void)error;
}

void executor_retry(struct executor *executor, struct intent *intent, uint64_t delay_ns,
                    const struct error *error)
{
    (void)executor, (void)intent, (void)delay_ns, (void)error;
}

void executor_park(struct executor *executor, int n)
{
    (void)executor, (void)n;
}

bool executor_draining(const struct executor *executor)
{
    (void)executor;
    return false;
}

uint64_t executor_random(struct executor *executor)
{
    (void)executor;
    return 4;
}

struct invocations *executor_invocations(struct executor *executor, struct error *err)
{
    (void)executor;
    error_set(err, ERROR_SYSTEM, "no executor");
    return NULL;
}

struct containers *executor_containers(struct executor *executor, struct error *err)
{
    (void)executor;
    error_set(err, ERROR_SYSTEM, "no executor");
    return NULL;
}

int executor_sink(struct executor *executor, const char *name, size_t name_len, struct sink **ret_sink,
                  bool *ret_consumed, struct error *err)
{
    (void)executor, (void)name, (void)name_len, (void)ret_sink, (void)ret_consumed;
    return error_set(err, ERROR_NOT_FOUND, "no executor");
}

int executor_sink_given(struct executor *executor, const char *document, size_t len, struct sink **ret_sink,
                        struct error *err)
{
    (void)executor, (void)document, (void)len, (void)ret_sink;
    return error_set(err, ERROR_NOT_FOUND, "no executor");
}

void executor_publish(struct sink *sink, struct intent *intent)
{
    (void)sink, (void)intent;
}

struct loop *executor_loop(struct executor *executor)
{
    (void)executor;
    return NULL;
}

struct worker *executor_worker(struct executor *executor)
{
    (void)executor;
    return NULL;
}
