/* The look-up thread: asks the storage what the main thread and HTTP threads must not wait for.
 *
 * Jobs are done one after the other on one connection of the thread's own. While the storage is away, jobs
 * fail with ERROR_UNAVAILABLE, all waiting ones at once; who needs an answer tries again later. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "supervisor/command.h"

struct command_queue;
struct config;
struct lookup;

#define LOOKUP_QUEUE_MAX 512

/* Embedded in what waits for it; belongs to the look-up thread until `done` runs in the main thread. */
struct lookup_job {
    struct command done; /* the caller sets done.run */
    struct lookup_job *next;
    const char *workspace; /* borrowed; NULL: list all workspaces */
    int result;            /* 0 found or listed, STORAGE_ABSENT, -1 with error */
    struct error error;
    char **names; /* listed: owned by the job, freed by lookup_job_done */
    size_t n_names;
};

int lookup_new(const struct config *config, struct command_queue *queue, struct lookup **ret_lookup,
               struct error *err);
/* Drops the jobs still queued and waits at most a second for the one under way. 0: freed. 1: its storage call
 * goes on; the job, the queue and all else the thread uses must be left alone until the process ends. NULL is
 * fine. */
int lookup_free(struct lookup *lookup);

/* Copies the configuration; later jobs use it. Thread: main. */
int lookup_configure(struct lookup *lookup, const struct config *config, struct error *err);

/* ERROR_LIMIT when the queue is full; the job is then untouched. Thread: any. */
int lookup_post(struct lookup *lookup, struct lookup_job *job, struct error *err);

void lookup_job_done(struct lookup_job *job);
