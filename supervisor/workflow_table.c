/* The table of workflows, and what is done for all of them. See workflow.h. */
#include "supervisor/workflow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "supervisor/status.h"

#define TICK_LATE_NS (5 * CLOCK_S) /* the supervisor was suspended, and its workers probably too */

static void watchdog(struct workflow *w, uint64_t now_ns)
{
    uint64_t not_before = w->started_ns > w->table->resumed_ns ? w->started_ns : w->table->resumed_ns;
    int thread = monitor_stalled(w->arena, now_ns, w->table->config->watchdog_ns, not_before);
    if (thread < 0 || w->stalled >= 0)
        return;
    log_error("worker_stalled", LOG_STR("workspace", w->name), LOG_INT("pid", w->process.pid),
              LOG_INT("thread", thread));
    w->stalled = thread;
    process_kill(&w->process);
}

void workflow_tick(struct workflow_table *table, uint64_t now_ns)
{
    if (table->tick_ns != 0 && now_ns > table->tick_ns + TICK_LATE_NS)
        table->resumed_ns = now_ns;
    table->tick_ns = now_ns;
    struct workflow *w;
    TAILQ_FOREACH(w, &table->all, link)
    {
        if (w->process.state != PROCESS_ALIVE)
            continue;
        monitor_sample(w->arena, now_ns, &w->sample);
        w->events_per_second = monitor_rate(w->rate_read, w->rate_ns, &w->sample);
        w->rate_read = w->sample.read;
        w->rate_ns = now_ns;
        watchdog(w, now_ns);
    }
}

void workflow_summary(const struct workflow_table *table, char *to, size_t size)
{
    static const struct {
        enum workflow_state state;
        const char *name;
    } others[] = {
        {WORKFLOW_STARTING, "starting"}, {WORKFLOW_RESTARTING, "restarting"}, {WORKFLOW_STOPPING, "stopping"},
        {WORKFLOW_FAILED, "failed"},     {WORKFLOW_FENCED, "fenced"},         {WORKFLOW_FINISHED, "finished"},
        {WORKFLOW_STOPPED, "stopped"},
    };
    size_t counts[WORKFLOW_DELETED + 1] = {0};
    const struct workflow *w;
    TAILQ_FOREACH(w, &table->all, link)
    counts[w->state]++;
    /* The running ones are named always. */
    int len = snprintf(to, size, "%zu workflow%s running", counts[WORKFLOW_RUNNING],
                       counts[WORKFLOW_RUNNING] == 1 ? "" : "s");
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (counts[others[i].state] > 0 && len >= 0 && (size_t)len < size)
            len +=
                snprintf(to + len, size - (size_t)len, ", %zu %s", counts[others[i].state], others[i].name);
}

void workflow_view(struct workflow *w, uint64_t now_ns, struct status_view *ret_view)
{
    if (w->process.state == PROCESS_ALIVE)
        monitor_sample(w->arena, now_ns, &w->sample);
    unsigned n_poison = w->arena ? w->arena->n_poison : w->n_poison;
    *ret_view = (struct status_view){
        .name = w->name,
        .state = workflow_state_name(w),
        .reason = w->state == WORKFLOW_RESTARTING || w->state >= WORKFLOW_STOPPED ? w->exit_reason : "",
        .pid = w->process.pid,
        .generation = w->generation,
        .restarts = w->restarts,
        .started_unix_ns = w->started_unix_ns,
        .restart_at_ns = w->restart_at_ns,
        .exit_unix_ns = w->exit_unix_ns,
        .exit_reason = w->exit_reason,
        .exit_error = w->exit_error,
        .finished_trigger = w->finished_trigger,
        .finished_time = w->finished_time,
        .finished_count = w->finished_count,
        .events_per_second = w->events_per_second,
        .sample = &w->sample,
        .poison = w->arena ? w->arena->poison : w->poison,
        .n_poison = n_poison < ARENA_MAX_POISON ? n_poison : ARENA_MAX_POISON,
        .worker = w->status.len > 0 ? w->status.data : NULL,
        .worker_len = w->status.len,
    };
}

static void forget(struct workflow *w)
{
    struct workflow_table *table = w->table;
    hash_remove(&table->by_name, w->name, strlen(w->name));
    TAILQ_REMOVE(&table->all, w, link);
    if (workflow_active(w)) {
        table->n_active--;
    } else {
        TAILQ_REMOVE(&table->inactive, w, inactive_link);
        table->n_inactive--;
    }
    workflow_dispose(w);
}

void workflow_table_init(struct workflow_table *table, struct loop *loop, const struct config *config)
{
    memset(table, 0, sizeof *table);
    table->loop = loop;
    table->config = config;
    hash_init(&table->by_name);
    TAILQ_INIT(&table->all);
    TAILQ_INIT(&table->inactive);
}

void workflow_table_done(struct workflow_table *table)
{
    struct workflow *w;
    while ((w = TAILQ_FIRST(&table->all)) != NULL)
        forget(w);
    hash_done(&table->by_name);
}

struct workflow *workflow_find(struct workflow_table *table, const char *name)
{
    return hash_get(&table->by_name, name, strlen(name));
}

void workflow_forget(struct workflow *workflow)
{
    if (!workflow_active(workflow) && TAILQ_EMPTY(&workflow->waiters))
        forget(workflow);
}

/* The oldest one that nobody waits for makes room. */
static void forget_oldest(struct workflow_table *table)
{
    struct workflow *oldest = TAILQ_FIRST(&table->inactive);
    if (table->n_inactive > WORKFLOW_INACTIVE_MAX && oldest && TAILQ_EMPTY(&oldest->waiters))
        forget(oldest);
}

int workflow_get(struct workflow_table *table, const char *name, struct workflow **ret_workflow,
                 struct error *err)
{
    struct workflow *w = workflow_find(table, name);
    if (w) {
        *ret_workflow = w;
        return 0;
    }
    if (strlen(name) >= WORKFLOW_NAME_MAX)
        return error_set(err, ERROR_INVALID, "workspace name %s: too long", name);
    forget_oldest(table);
    w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY, "workspace %s: out of memory", name);
    w->table = table;
    snprintf(w->name, sizeof w->name, "%s", name);
    if (hash_put(&table->by_name, w->name, strlen(w->name), w, NULL) < 0) {
        free(w);
        return error_set(err, ERROR_MEMORY, "workspace %s: out of memory", name);
    }
    w->state = WORKFLOW_STOPPED;
    w->arena_fd = w->status_fd = w->stalled = -1;
    TAILQ_INIT(&w->waiters);
    TAILQ_INIT(&w->requests);
    process_init(&w->process, w);
    TAILQ_INSERT_TAIL(&table->all, w, link);
    TAILQ_INSERT_TAIL(&table->inactive, w, inactive_link);
    table->n_inactive++;
    *ret_workflow = w;
    return 0;
}
