#include "worker/executor/executor.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/local/containers.h"
#include "worker/crash.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/source/source.h"
#include "worker/report.h"
#include "worker/worker.h"

#define START_HERE 16 /* intents that the submitting thread starts itself, rather than wake the executor */
#define RETRIES_A_ROUND 16 /* that are due: others come in between */
#define RETRY_FIRST (100 * CLOCK_MS)
#define CONTAINERS_CLOSE (5 * CLOCK_S)
#define RETRY_LONGEST (10 * CLOCK_S)

/* An event source as something to publish to. */
#define SHOWN_NAME 96

struct target {
    char *name;
    size_t name_len;
    char *document; /* Requires: lock. NULL: removed */
    size_t document_len;
    bool consumed;
    bool stale;        /* Requires: lock. The document has changed since the sink was opened */
    bool given;        /* not stored: may go when it was not used for longest. Thread: executor */
    uint64_t used;     /* when, in uses. Thread: executor */
    struct sink *sink; /* Thread: executor */
};

struct executor {
    struct worker *worker;
    struct loop *loop;
    unsigned long thread;
    bool started;
    _Atomic bool stopping;
    _Atomic uint64_t pending;
    struct arena_thread *life;
    pthread_mutex_t
        run; /* who holds it is the executor for the moment: guards all of it that is not said otherwise */
    pthread_mutex_t lock;
    struct intent *submitted;      /* Requires: lock */
    struct intent **submitted_end; /* Requires: lock */
    struct hash_table targets;     /* Requires: lock; entries live as long as the executor, but given ones */
    unsigned n_given;              /* targets that are not stored. Thread: executor */
    uint64_t uses;                 /* of those. Thread: executor */
    struct intent **waiting; /* for their next attempt: a heap, the earliest in front. Thread: executor */
    size_t n_waiting;
    size_t waiting_cap;
    uint64_t retry_ns;      /* when the first of them is due; 0: no timer is set */
    _Atomic int64_t parked; /* pending, and not under way */
    _Atomic bool draining;
    struct containers *containers;   /* likewise */
    struct invocations *invocations; /* NULL: there was none yet. Thread: executor */
    uint64_t random;
};

uint64_t executor_pending(const struct executor *executor)
{
    return atomic_load(&executor->pending);
}

bool executor_has_room(const struct executor *executor)
{
    return executor_pending(executor) * 2 < (uint64_t)executor->worker->config->max_pending_actions;
}

struct loop *executor_loop(struct executor *executor)
{
    return executor->loop;
}

struct worker *executor_worker(struct executor *executor)
{
    return executor->worker;
}

void executor_park(struct executor *executor, int n)
{
    atomic_fetch_add(&executor->parked, n);
}

bool executor_draining(const struct executor *executor)
{
    return atomic_load(&executor->draining);
}

uint64_t executor_random(struct executor *executor)
{
    executor->random = executor->random * 6364136223846793005ull + 1442695040888963407ull;
    return executor->random >> 16;
}

struct invocations *executor_invocations(struct executor *executor, struct error *err)
{
    if (!executor->invocations && invocations_new(executor, &executor->invocations, err) < 0)
        return NULL;
    return executor->invocations;
}

struct containers *executor_containers(struct executor *executor, struct error *err)
{
    if (!executor->containers &&
        containers_new(executor->worker, executor->loop, &executor->containers, err) < 0)
        return NULL;
    return executor->containers;
}

static struct intent *take_submitted(struct executor *x)
{
    pthread_mutex_lock(&x->lock);
    struct intent *list = x->submitted;
    x->submitted = NULL;
    x->submitted_end = &x->submitted;
    pthread_mutex_unlock(&x->lock);
    return list;
}

/* --- attempts --- */

static void start(struct executor *x, struct intent *intent)
{
    intent->attempts++;
    arena_add(&x->worker->arena->worker.executor_started, 1);
    crash_point("intent_start");
    intent->action->start(x, intent);
}

static void retry_due(void *data);

static void set_retry_timer(struct executor *x)
{
    uint64_t at = x->waiting[0]->not_before_ns;
    if (x->retry_ns && x->retry_ns <= at)
        return;
    x->retry_ns = at;
    if (loop_timer_set(x->loop, at, retry_due, x, NULL) < 0)
        abort(); /* would be forgotten until the next start */
}

static void wait_for_retry(struct executor *x, struct intent *intent)
{
    if (x->n_waiting == x->waiting_cap) {
        size_t cap = x->waiting_cap ? x->waiting_cap * 2 : 64;
        struct intent **grown = realloc(x->waiting, cap * sizeof(struct intent *));
        if (!grown)
            abort(); /* would be forgotten until the next start */
        x->waiting = grown;
        x->waiting_cap = cap;
    }
    size_t i = x->n_waiting++;
    for (; i && x->waiting[(i - 1) / 2]->not_before_ns > intent->not_before_ns; i = (i - 1) / 2)
        x->waiting[i] = x->waiting[(i - 1) / 2];
    x->waiting[i] = intent;
    executor_park(x, 1);
    set_retry_timer(x);
}

static struct intent *take_earliest(struct executor *x)
{
    struct intent *first = x->waiting[0];
    struct intent *last = x->waiting[--x->n_waiting];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < x->n_waiting; i = child) {
        if (child + 1 < x->n_waiting &&
            x->waiting[child + 1]->not_before_ns < x->waiting[child]->not_before_ns)
            child++;
        if (last->not_before_ns <= x->waiting[child]->not_before_ns)
            break;
        x->waiting[i] = x->waiting[child];
    }
    x->waiting[i] = last;
    executor_park(x, -1);
    return first;
}

static void retry_due(void *data)
{
    struct executor *x = data;
    uint64_t now = clock_now_ns();
    x->retry_ns = 0;
    if (executor_draining(x))
        return;
    for (int n = 0; n < RETRIES_A_ROUND && x->n_waiting && x->waiting[0]->not_before_ns <= now; n++)
        start(x, take_earliest(x));
    if (x->n_waiting)
        set_retry_timer(x);
}

/* Exponential back-off with full jitter. */
static uint64_t retry_delay(struct executor *x, unsigned attempts)
{
    unsigned doublings = attempts < 10 ? attempts - 1 : 9;
    uint64_t ceiling = RETRY_FIRST << doublings;
    if (ceiling > RETRY_LONGEST)
        ceiling = RETRY_LONGEST;
    return ceiling / 8 + executor_random(x) % (ceiling - ceiling / 8);
}

void executor_retry(struct executor *executor, struct intent *intent, uint64_t delay_ns,
                    const struct error *error)
{
    if (intent->attempts == 1)
        log_warn("action_retry", LOG_STR("key", intent->key), LOG_STR("error", error ? error->message : ""));
    arena_add(&executor->worker->arena->worker.executor_retries, 1);
    intent->not_before_ns = clock_now_ns() + delay_ns;
    wait_for_retry(executor, intent);
}

/* Starts what was submitted. Requires: run. */
static void start_submitted(struct executor *x)
{
    struct intent *list = take_submitted(x);
    while (list) {
        struct intent *intent = list;
        list = list->next;
        intent->next = NULL;
        start(x, intent);
        arena_beat(x->life, clock_coarse_ns());
    }
    arena_set(&x->worker->arena->worker.executor_pending, executor_pending(x));
}

void executor_submit(struct executor *executor, struct intent *list)
{
    uint64_t n = 0;
    struct intent **end = &list;
    for (; *end; end = &(*end)->next)
        n++;
    if (!n)
        return;
    atomic_fetch_add(&executor->pending, n);
    pthread_mutex_lock(&executor->lock);
    bool wake = !executor->submitted;
    *executor->submitted_end = list;
    executor->submitted_end = end;
    pthread_mutex_unlock(&executor->lock);
    if (n <= START_HERE && pthread_mutex_trylock(&executor->run) == 0) {
        start_submitted(executor);
        pthread_mutex_unlock(&executor->run);
    } else if (wake) {
        loop_wake(executor->loop);
    }
}

bool executor_is_here(const struct executor *executor)
{
    return pthread_equal(pthread_self(), executor->thread);
}

void executor_done(struct executor *executor, struct intent *intent, enum executor_outcome outcome,
                   const struct error *error)
{
    if (intent->sink)
        intent->sink->under_way--;
    intent->sink = NULL;
    if (outcome == EXECUTOR_RETRY) {
        executor_retry(executor, intent, retry_delay(executor, intent->attempts), error);
        return;
    }
    if (outcome == EXECUTOR_GIVE_UP) {
        intent->given_up = true;
        snprintf(intent->error, sizeof intent->error, "%s", error ? error->message : "");
        arena_add(&executor->worker->arena->worker.executor_failed, 1);
    } else {
        arena_add(&executor->worker->arena->worker.executor_completed, 1);
    }
    crash_point("intent_done");
    checkpoint_completed(executor->worker->checkpoint, intent);
    atomic_fetch_sub(&executor->pending, 1);
}

/* --- sinks --- */

int executor_set_source(struct executor *executor, const char *name, size_t name_len, const char *document,
                        size_t document_len, bool consumed, struct error *err)
{
    char *copy = NULL;
    if (document && !(copy = strndup(document, document_len)))
        return error_set(err, ERROR_MEMORY, "out of memory");
    pthread_mutex_lock(&executor->lock);
    struct target *t = hash_get(&executor->targets, name, name_len);
    if (!t) {
        t = calloc(1, sizeof *t);
        if (t && (!(t->name = strndup(name, name_len)) ||
                  hash_put(&executor->targets, t->name, name_len, t, NULL) < 0)) {
            free(t->name);
            free(t);
            t = NULL;
        }
    }
    if (t) {
        free(t->document);
        t->name_len = name_len;
        t->document = copy;
        t->document_len = document_len;
        t->consumed = consumed;
        t->stale = true;
    }
    pthread_mutex_unlock(&executor->lock);
    if (t)
        return 0;
    free(copy);
    return error_set(err, ERROR_MEMORY, "out of memory");
}

/* What it is called in logs, status and errors. One that stands in an action is known by its document, which
 * may hold secrets. */
static const char *shown_name(const struct target *t, const struct json_value *class_name,
                              char to[SHOWN_NAME])
{
    if (t->name[0] != '{')
        return t->name;
    snprintf(to, SHOWN_NAME, "(%.*s in an action)", (int)(class_name->len < 60 ? class_name->len : 60),
             class_name->text);
    return to;
}

static int open_sink(struct executor *x, struct target *t, struct error *err)
{
    char name[SHOWN_NAME];
    struct json_value root;
    struct json_value class_name;
    struct json_value parameters;
    if (json_scan(t->document, t->document_len, &root, err) < 0)
        return -1;
    if (root.type != JSON_OBJECT || !json_member(&root, "class", &class_name) ||
        !json_member(&root, "parameters", &parameters))
        return error_set(err, ERROR_INVALID, "event source %s lacks class or parameters",
                         t->name[0] == '{' ? "in an action" : t->name);
    const struct source_type *type = source_find(class_name.text, class_name.len);
    if (!type || !type->sink_open)
        return error_set(err, ERROR_INVALID, "event source %s: class %.*s cannot be published to",
                         shown_name(t, &class_name, name), (int)class_name.len, class_name.text);
    return type->sink_open(x, shown_name(t, &class_name, name), &parameters, &t->sink, err);
}

int executor_sink(struct executor *executor, const char *name, size_t name_len, struct sink **ret_sink,
                  bool *ret_consumed, struct error *err)
{
    int r = 0;
    pthread_mutex_lock(&executor->lock);
    struct target *t = hash_get(&executor->targets, name, name_len);
    struct sink *outdated = NULL;
    if (t && t->stale) {
        outdated = t->sink;
        t->sink = NULL;
        t->stale = false;
    }
    if (!t || !t->document)
        r = error_set(err, ERROR_NOT_FOUND, "event source %.*s does not exist",
                      *name == '{' ? 1 : (int)name_len, name);
    else if (!t->sink)
        r = open_sink(executor, t, err);
    if (r == 0) {
        *ret_sink = t->sink;
        *ret_consumed = t->consumed;
    }
    pthread_mutex_unlock(&executor->lock);
    if (outdated) {
        outdated->type->sink_close(outdated);
        report_publishing(executor->worker->report, t->name, NULL); /* what its successor says counts */
    }
    return r;
}

/* Closes the one that was not used for longest, of those that have nothing to do. Errors: ERROR_LIMIT. */
static int close_one_given(struct executor *x, struct error *err)
{
    struct target *oldest = NULL;
    size_t cursor = 0;
    pthread_mutex_lock(&x->lock);
    for (struct hash_entry *e; (e = hash_next(&x->targets, &cursor));) {
        struct target *t = e->value;
        if (t->given && !(t->sink && t->sink->under_way) && (!oldest || t->used < oldest->used))
            oldest = t;
    }
    if (oldest)
        hash_remove(&x->targets, oldest->name, oldest->name_len);
    pthread_mutex_unlock(&x->lock);
    if (!oldest)
        return error_set(err, ERROR_LIMIT, "more than %d event sources that are not stored at a time",
                         EXECUTOR_MAX_GIVEN);
    if (oldest->sink)
        oldest->sink->type->sink_close(oldest->sink);
    free(oldest->document);
    free(oldest->name);
    free(oldest);
    x->n_given--;
    return 0;
}

int executor_sink_given(struct executor *executor, const char *document, size_t len, struct sink **ret_sink,
                        struct error *err)
{
    bool consumed;
    assert(document);
    pthread_mutex_lock(&executor->lock);
    struct target *t = hash_get(&executor->targets, document, len);
    pthread_mutex_unlock(&executor->lock);
    if (!t) {
        if (executor->n_given == EXECUTOR_MAX_GIVEN && close_one_given(executor, err) < 0)
            return -1;
        if (executor_set_source(executor, document, len, document, len, false, err) < 0)
            return -1;
        pthread_mutex_lock(&executor->lock);
        t = hash_get(&executor->targets, document, len);
        pthread_mutex_unlock(&executor->lock);
        t->given = true;
        executor->n_given++;
    }
    t->used = ++executor->uses;
    return executor_sink(executor, document, len, ret_sink, &consumed, err);
}

void executor_publish(struct sink *sink, struct intent *intent)
{
    sink->under_way++;
    intent->sink = sink;
    sink->type->sink_publish(sink, intent);
}

/* --- the thread --- */

/* What an earlier life has left of them is removed, also when none is needed any more. */
static void begin_containers(struct executor *x)
{
    struct error err;
    if (!*x->worker->config->docker_images)
        return;
    struct containers *containers = executor_containers(x, &err);
    if (containers)
        containers_begin(containers);
    else
        log_error("containers", LOG_STR("error", err.message));
}

static void *executor_main(void *data)
{
    struct executor *x = data;
    struct error err;
    worker_thread_enter(x->worker, ARENA_THREAD_EXECUTOR, "executor");
    pthread_mutex_lock(&x->run);
    begin_containers(x);
    while (!atomic_load(&x->stopping)) {
        atomic_store_explicit(&x->life->busy, 1, memory_order_relaxed);
        start_submitted(x);
        bool more = x->invocations && invocations_go_on(x->invocations);
        atomic_store_explicit(&x->life->busy, 0, memory_order_relaxed);
        if (loop_run_once(x->loop, more ? 0 : UINT64_MAX, &err) < 0)
            log_error("executor_loop", LOG_STR("error", err.message));
        arena_beat(x->life, clock_coarse_ns());
    }
    containers_close(x->containers, clock_now_ns() + CONTAINERS_CLOSE);
    pthread_mutex_unlock(&x->run);
    return NULL;
}

int executor_new(struct worker *worker, struct executor **ret_executor, struct error *err)
{
    struct executor *x = calloc(1, sizeof *x);
    if (!x)
        return error_set(err, ERROR_MEMORY, "out of memory");
    x->loop = loop_new(err);
    if (!x->loop) {
        free(x);
        return -1;
    }
    pthread_mutex_init(&x->run, NULL);
    pthread_mutex_init(&x->lock, NULL);
    loop_share(x->loop, &x->run);
    hash_init(&x->targets);
    x->worker = worker;
    x->submitted_end = &x->submitted;
    x->life = &worker->arena->thread[ARENA_THREAD_EXECUTOR];
    x->random = clock_now_ns();
    *ret_executor = x;
    return 0;
}

int executor_start(struct executor *executor, struct error *err)
{
    if (worker_thread_start(&executor->thread, executor_main, executor, err) < 0)
        return -1;
    executor->started = true;
    return 0;
}

static bool is_under_way(const struct executor *executor)
{
    return (int64_t)executor_pending(executor) > atomic_load(&executor->parked);
}

void executor_stop(struct executor *executor, uint64_t deadline_ns)
{
    if (!executor->started)
        return;
    atomic_store(&executor->draining, true);
    while (is_under_way(executor) && clock_now_ns() < deadline_ns) {
        struct timespec moment = {.tv_nsec = 2000000};
        nanosleep(&moment, NULL);
    }
    atomic_store(&executor->stopping, true);
    loop_wake(executor->loop);
    pthread_join(executor->thread, NULL);
    executor->started = false;
}

void executor_each(struct executor *executor, void (*see)(void *data, struct intent *intent), void *data)
{
    pthread_mutex_lock(&executor->run); /* shards may hand it more */
    pthread_mutex_lock(&executor->lock);
    for (struct intent *intent = executor->submitted; intent; intent = intent->next)
        see(data, intent);
    pthread_mutex_unlock(&executor->lock);
    for (size_t i = 0; i < executor->n_waiting; i++)
        see(data, executor->waiting[i]);
    if (executor->invocations)
        invocations_each(executor->invocations, see, data);
    pthread_mutex_unlock(&executor->run);
}

void executor_free(struct executor *executor)
{
    if (!executor)
        return;
    size_t cursor = 0;
    struct hash_entry *e;
    while ((e = hash_next(&executor->targets, &cursor))) {
        struct target *t = e->value;
        if (t->sink)
            t->sink->type->sink_close(t->sink);
        free(t->document);
        free(t->name);
        free(t);
    }
    hash_done(&executor->targets);
    intent_free_list(executor->submitted);
    for (size_t i = 0; i < executor->n_waiting; i++)
        intent_free(executor->waiting[i]);
    free(executor->waiting);
    invocations_free(executor->invocations);
    containers_free(executor->containers);
    loop_free(executor->loop);
    pthread_mutex_destroy(&executor->lock);
    pthread_mutex_destroy(&executor->run);
    free(executor);
}
