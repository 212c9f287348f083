/* See api_pool.h. */
#include "supervisor/api_pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/config.h"
#include "common/error.h"
#include "common/storage/storage.h"

#define STOP_SECONDS 2

struct api_pool {
    const char *client_name;
    pthread_t threads[API_POOL_THREADS_MAX];
    unsigned n_threads;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct api_job *first; /* Requires: lock */
    struct api_job **tail; /* Requires: lock */
    size_t n_jobs;         /* Requires: lock */
    bool stop;             /* Requires: lock */
    struct config *config; /* Requires: lock */
    unsigned version;      /* Requires: lock; of the configuration */
};

/* What a thread has to itself. */
struct connection {
    struct storage *storage; /* NULL: not open */
    unsigned version;        /* of the configuration that it was opened with */
};

/* Opens the storage anew when the configuration has changed. */
static int connection_ready(struct api_pool *pool, struct connection *connection, struct error *err)
{
    pthread_mutex_lock(&pool->lock);
    unsigned version = pool->version;
    bool stale = !connection->storage || connection->version != version;
    struct config *config = stale ? config_copy(pool->config, err) : NULL;
    pthread_mutex_unlock(&pool->lock);
    if (!stale)
        return 0;
    storage_close(connection->storage);
    connection->storage = NULL;
    connection->version = version;
    if (!config)
        return -1;
    int result = storage_open(config, pool->client_name, &connection->storage, err);
    config_free(config);
    return result;
}

/* The next job; NULL: the pool has stopped and nothing waits any more. */
static struct api_job *take(struct api_pool *pool, bool *ret_stopped)
{
    pthread_mutex_lock(&pool->lock);
    while (!pool->stop && !pool->first)
        pthread_cond_wait(&pool->wake, &pool->lock);
    struct api_job *job = pool->first;
    if (job) {
        pool->first = job->next;
        if (!pool->first)
            pool->tail = &pool->first;
        pool->n_jobs--;
    }
    *ret_stopped = pool->stop;
    pthread_mutex_unlock(&pool->lock);
    return job;
}

static void *pool_main(void *data)
{
    struct api_pool *pool = data;
    struct connection connection = {0};
    struct api_job *job;
    bool stopped;
    while ((job = take(pool, &stopped)) != NULL) {
        struct error err = {.code = ERROR_NONE};
        int result = stopped ? error_set(&err, ERROR_UNAVAILABLE, "the supervisor is stopping")
                             : connection_ready(pool, &connection, &err);
        job->run(job, result == 0 ? connection.storage : NULL, &err);
    }
    storage_close(connection.storage);
    return NULL;
}

int api_pool_new(const struct config *config, const char *client_name, unsigned n_threads,
                 struct api_pool **ret_pool, struct error *err)
{
    struct api_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return error_set(err, ERROR_MEMORY, "API threads: out of memory");
    pool->client_name = client_name;
    pool->tail = &pool->first;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->config = config_copy(config, err);
    if (!pool->config)
        goto fail;
    for (unsigned i = 0; i < n_threads && i < API_POOL_THREADS_MAX; i++) {
        int e = pthread_create(&pool->threads[i], NULL, pool_main, pool);
        if (e != 0) {
            error_set_errno(err, e, "API thread");
            goto fail;
        }
        pool->n_threads++;
    }
    *ret_pool = pool;
    return 0;
fail:
    (void)api_pool_free(pool); /* they have nothing to do: none goes on */
    return -1;
}

void api_pool_stop(struct api_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

int api_pool_free(struct api_pool *pool)
{
    if (!pool)
        return 0;
    api_pool_stop(pool);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STOP_SECONDS;
    for (unsigned i = 0; i < pool->n_threads; i++)
        if (pthread_timedjoin_np(pool->threads[i], NULL, &until) != 0)
            return 1;
    config_free(pool->config);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    free(pool);
    return 0;
}

int api_pool_configure(struct api_pool *pool, const struct config *config, struct error *err)
{
    struct config *copy = config_copy(config, err);
    if (!copy)
        return -1;
    pthread_mutex_lock(&pool->lock);
    struct config *old = pool->config;
    pool->config = copy;
    pool->version++;
    pthread_mutex_unlock(&pool->lock);
    config_free(old);
    return 0;
}

int api_pool_post(struct api_pool *pool, struct api_job *job, bool fresh)
{
    int result = 0;
    pthread_mutex_lock(&pool->lock);
    if (pool->stop) {
        result = API_POOL_STOPPED;
    } else if (fresh && pool->n_jobs >= API_POOL_QUEUE_MAX) {
        result = API_POOL_FULL;
    } else {
        job->next = NULL;
        *pool->tail = job;
        pool->tail = &job->next;
        pool->n_jobs++;
        pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->lock);
    return result;
}
