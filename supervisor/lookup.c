/* See lookup.h. */
#include "supervisor/lookup.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/storage/storage.h"

struct lookup {
    pthread_t thread;
    struct command_queue *queue; /* where answers go */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct lookup_job *first; /* Requires: lock */
    struct lookup_job **tail; /* Requires: lock */
    size_t n_jobs;            /* Requires: lock */
    bool stop;                /* Requires: lock */
    struct config *next;      /* Requires: lock; a configuration not yet taken over */

    struct config *config;   /* Thread: look-up */
    struct storage *storage; /* Thread: look-up; NULL until the first job */
};

/* One name of the list; the job's array doubles as it grows. */
static int list_name(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct lookup_job *job = data;
    (void)value;
    (void)value_len;
    if ((job->n_names & (job->n_names - 1)) == 0) {
        size_t cap = job->n_names == 0 ? 1 : job->n_names * 2;
        char **names = realloc(job->names, cap * sizeof *names);
        if (!names)
            return error_set(&job->error, ERROR_MEMORY, "list of workspaces: out of memory");
        job->names = names;
    }
    char *name = strndup(key, key_len);
    if (!name)
        return error_set(&job->error, ERROR_MEMORY, "list of workspaces: out of memory");
    job->names[job->n_names++] = name;
    return 0;
}

static void job_run(struct lookup *lookup, struct lookup_job *job)
{
    job->error.code = ERROR_NONE;
    if (!lookup->storage) {
        job->result = storage_open(lookup->config, "triggerflow-supervisor", &lookup->storage, &job->error);
        if (job->result < 0)
            return;
    }
    const struct storage_type *type = lookup->storage->type;
    if (job->workspace) {
        job->result = type->workspace_exists(lookup->storage, job->workspace, &job->error);
        return;
    }
    job->result = type->workspaces(lookup->storage, list_name, job, &job->error);
    if (job->result < 0)
        lookup_job_done(job);
}

/* The storage is away: what waits would wait as long for the same answer. */
static void fail_waiting(struct lookup *lookup, const struct error *error)
{
    pthread_mutex_lock(&lookup->lock);
    struct lookup_job *job = lookup->first;
    lookup->first = NULL;
    lookup->tail = &lookup->first;
    lookup->n_jobs = 0;
    pthread_mutex_unlock(&lookup->lock);
    while (job) {
        struct lookup_job *next = job->next;
        job->result = -1;
        job->error = *error;
        command_post(lookup->queue, &job->done);
        job = next;
    }
}

static void take_config(struct lookup *lookup, struct config *next)
{
    storage_close(lookup->storage);
    lookup->storage = NULL;
    config_free(lookup->config);
    lookup->config = next;
}

static void *lookup_main(void *data)
{
    struct lookup *lookup = data;
    for (;;) {
        pthread_mutex_lock(&lookup->lock);
        while (!lookup->stop && !lookup->first)
            pthread_cond_wait(&lookup->wake, &lookup->lock);
        if (lookup->stop) {
            pthread_mutex_unlock(&lookup->lock);
            break;
        }
        struct lookup_job *job = lookup->first;
        lookup->first = job->next;
        if (!lookup->first)
            lookup->tail = &lookup->first;
        lookup->n_jobs--;
        struct config *next = lookup->next;
        lookup->next = NULL;
        pthread_mutex_unlock(&lookup->lock);

        if (next)
            take_config(lookup, next);
        job_run(lookup, job);
        struct error error = job->error;
        bool away = job->result < 0 && error.code == ERROR_UNAVAILABLE;
        command_post(lookup->queue, &job->done);
        if (away)
            fail_waiting(lookup, &error);
    }
    storage_close(lookup->storage);
    lookup->storage = NULL;
    return NULL;
}

int lookup_new(const struct config *config, struct command_queue *queue, struct lookup **ret_lookup,
               struct error *err)
{
    struct lookup *lookup = calloc(1, sizeof *lookup);
    if (!lookup)
        return error_set(err, ERROR_MEMORY, "look-up thread: out of memory");
    lookup->queue = queue;
    lookup->tail = &lookup->first;
    lookup->config = config_copy(config, err);
    if (!lookup->config) {
        free(lookup);
        return -1;
    }
    pthread_mutex_init(&lookup->lock, NULL);
    pthread_cond_init(&lookup->wake, NULL);
    int e = pthread_create(&lookup->thread, NULL, lookup_main, lookup);
    if (e != 0) {
        config_free(lookup->config);
        pthread_mutex_destroy(&lookup->lock);
        pthread_cond_destroy(&lookup->wake);
        free(lookup);
        return error_set_errno(err, e, "look-up thread");
    }
    *ret_lookup = lookup;
    return 0;
}

int lookup_free(struct lookup *lookup)
{
    if (!lookup)
        return 0;
    pthread_mutex_lock(&lookup->lock);
    lookup->stop = true;
    pthread_cond_signal(&lookup->wake);
    pthread_mutex_unlock(&lookup->lock);

    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    if (pthread_timedjoin_np(lookup->thread, NULL, &until) != 0)
        return 1;
    config_free(lookup->config);
    config_free(lookup->next);
    pthread_mutex_destroy(&lookup->lock);
    pthread_cond_destroy(&lookup->wake);
    free(lookup);
    return 0;
}

int lookup_configure(struct lookup *lookup, const struct config *config, struct error *err)
{
    struct config *copy = config_copy(config, err);
    if (!copy)
        return -1;
    pthread_mutex_lock(&lookup->lock);
    struct config *old = lookup->next;
    lookup->next = copy;
    pthread_mutex_unlock(&lookup->lock);
    config_free(old);
    return 0;
}

int lookup_post(struct lookup *lookup, struct lookup_job *job, struct error *err)
{
    pthread_mutex_lock(&lookup->lock);
    if (lookup->n_jobs >= LOOKUP_QUEUE_MAX) {
        pthread_mutex_unlock(&lookup->lock);
        return error_set(err, ERROR_LIMIT, "%d storage look-ups are waiting already", LOOKUP_QUEUE_MAX);
    }
    job->next = NULL;
    *lookup->tail = job;
    lookup->tail = &job->next;
    lookup->n_jobs++;
    pthread_cond_signal(&lookup->wake);
    pthread_mutex_unlock(&lookup->lock);
    return 0;
}

void lookup_job_done(struct lookup_job *job)
{
    for (size_t i = 0; i < job->n_names; i++)
        free(job->names[i]);
    free(job->names);
    job->names = NULL;
    job->n_names = 0;
}
