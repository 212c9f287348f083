/* The pool of API threads: order, bounds, stopping. */
#include "supervisor/api_pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/config.h"
#include "common/error.h"
#include "common/storage/storage.h"

static struct config config;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static bool held;        /* jobs wait while it is. Requires: lock */
static size_t n_run;     /* Requires: lock */
static size_t n_entered; /* Requires: lock */
static size_t without;   /* jobs that got no storage. Requires: lock */

struct job {
    struct api_job job;
    size_t place; /* in the order of running */
};

static void run(struct api_job *job, struct storage *storage, const struct error *err)
{
    struct job *j = (struct job *)(void *)job;
    pthread_mutex_lock(&lock);
    n_entered++;
    pthread_cond_broadcast(&moved);
    while (held)
        pthread_cond_wait(&moved, &lock);
    j->place = n_run++;
    without += !storage;
    assert_true(storage || err->message[0] != '\0');
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

static void hold(bool hold_them)
{
    pthread_mutex_lock(&lock);
    held = hold_them;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&lock);
}

static void await(const size_t *counter, size_t n)
{
    pthread_mutex_lock(&lock);
    while (*counter < n)
        pthread_cond_wait(&moved, &lock);
    pthread_mutex_unlock(&lock);
}

static struct api_pool *new_pool(unsigned threads)
{
    struct api_pool *pool;
    struct error err;
    n_run = n_entered = without = 0;
    held = false;
    assert_int_equal(api_pool_new(&config, "test", threads, &pool, &err), 0);
    return pool;
}

static struct job *new_jobs(size_t n)
{
    struct job *jobs = calloc(n, sizeof *jobs);
    assert_non_null(jobs);
    for (size_t i = 0; i < n; i++)
        jobs[i].job.run = run;
    return jobs;
}

static void test_in_order(void **state)
{
    (void)state;
    struct api_pool *pool = new_pool(1);
    struct job *jobs = new_jobs(100);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(api_pool_post(pool, &jobs[i].job, true), 0);
    await(&n_run, 100);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(jobs[i].place, i);
    assert_int_equal(without, 0);
    assert_int_equal(api_pool_free(pool), 0);
    free(jobs);
}

static void test_bounded(void **state)
{
    (void)state;
    struct api_pool *pool = new_pool(2);
    struct job *jobs = new_jobs(API_POOL_QUEUE_MAX + 4);
    hold(true);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(api_pool_post(pool, &jobs[i].job, true), 0);
    await(&n_entered, 2);
    for (size_t i = 0; i < API_POOL_QUEUE_MAX; i++)
        assert_int_equal(api_pool_post(pool, &jobs[2 + i].job, true), 0);
    assert_int_equal(api_pool_post(pool, &jobs[API_POOL_QUEUE_MAX + 2].job, true), API_POOL_FULL);
    /* What was let in before goes on. */
    assert_int_equal(api_pool_post(pool, &jobs[API_POOL_QUEUE_MAX + 2].job, false), 0);
    hold(false);
    await(&n_run, API_POOL_QUEUE_MAX + 3);
    assert_int_equal(api_pool_free(pool), 0);
    free(jobs);
}

/* What waits when the pool stops is run without storage: its caller gets an answer. */
static void test_stopped(void **state)
{
    (void)state;
    struct api_pool *pool = new_pool(1);
    struct job *jobs = new_jobs(4);
    hold(true);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(api_pool_post(pool, &jobs[i].job, true), 0);
    await(&n_entered, 1);
    api_pool_stop(pool);
    assert_int_equal(api_pool_post(pool, &jobs[3].job, false), API_POOL_STOPPED);
    hold(false);
    assert_int_equal(api_pool_free(pool), 0);
    assert_int_equal(n_run, 3);
    assert_int_equal(without, 2);
    free(jobs);
}

/* A configuration that cannot be is refused, and the pool goes on with the one it has. */
static void test_configured(void **state)
{
    (void)state;
    struct error err;
    struct api_pool *none;
    struct api_pool *pool = new_pool(1);
    struct job *jobs = new_jobs(1);
    char *backend = config.storage_backend;
    config.storage_backend = strdup("stone");
    assert_int_equal(api_pool_configure(pool, &config, &err), -1);
    assert_non_null(strstr(err.message, "\"stone\""));
    assert_int_equal(api_pool_new(&config, "test", 1, &none, &err), -1);
    free(config.storage_backend);
    config.storage_backend = backend;
    assert_int_equal(api_pool_configure(pool, &config, &err), 0);
    assert_int_equal(api_pool_post(pool, &jobs[0].job, true), 0);
    await(&n_run, 1);
    assert_int_equal(without, 0);
    assert_int_equal(api_pool_free(pool), 0);
    free(jobs);
}

int main(void)
{
    static const char yaml[] = "trigger_storage: {backend: redis, parameters: {host: 127.0.0.1, port: 1}}\n";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_configured),
    };
    struct error err;
    if (config_parse_yaml("test", yaml, strlen(yaml), &config, &err) < 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    config_done(&config);
    return failed;
}
