/* A pool of threads that do what neither the main thread nor an HTTP thread may wait for: storage, and the
 * checker. Each thread has a storage connection of its own, opened when it is first needed.
 *
 * Jobs are taken in the order of posting. A job belongs to the pool from api_pool_post() until its run
 * function is called, which happens once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct api_pool;
struct config;
struct error;
struct storage;

#define API_POOL_THREADS_MAX 8
#define API_POOL_QUEUE_MAX 256 /* fresh jobs that wait */

enum { API_POOL_FULL = 1, API_POOL_STOPPED = 2 };

/* Embedded in what is to be done. */
struct api_job {
    struct api_job *next; /* Requires: the pool's lock */
    /* storage is NULL when there is none to be had, with the reason in err. Thread: the pool's. */
    void (*run)(struct api_job *job, struct storage *storage, const struct error *err);
};

/* client_name: of the connections. */
int api_pool_new(const struct config *config, const char *client_name, unsigned n_threads,
                 struct api_pool **ret_pool, struct error *err);
/* Jobs that wait are run without storage, later ones refused. NULL is fine. Thread: main. */
void api_pool_stop(struct api_pool *pool);
/* Stops it and waits at most two seconds for the jobs under way. 0: freed. 1: one goes on; what it uses must
 * be left alone until the process ends. NULL is fine. */
int api_pool_free(struct api_pool *pool);

/* Copies the configuration; later jobs use it. Thread: main. */
int api_pool_configure(struct api_pool *pool, const struct config *config, struct error *err);

/* fresh: counts against API_POOL_QUEUE_MAX; further steps of what was let in before do not. 0, or
 * API_POOL_FULL, API_POOL_STOPPED: the job is untouched. Thread: any. */
int api_pool_post(struct api_pool *pool, struct api_job *job, bool fresh);
