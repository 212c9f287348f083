/* The workflows: one struct per workspace, and what happens to it. Thread: main.
 *
 * State (rows) by event (columns); "-" is ignored, "again" is restart.h's judgement of an end:
 *
 *               start      ready     stop        ended                       delay over
 *   starting    running*   running   stopping    again: restarting, or final  -
 *   running     running*   -         stopping    again: restarting, or final  -
 *   restarting  starting   -         stopped     -                           starting
 *   stopping    refused    -         -           stopped                     -
 *   final       starting   -         stopped     -                           -
 *
 *   * refused: already running. Final states: stopped, finished, failed, fenced, deleted.
 *
 * A life of a worker has a status socket and a generation of its own; the arena stays for all lives until a
 * final state (its poison table even longer), or until a life was lost sight of, which might still be using
 * it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/hash.h"
#include "supervisor/monitor.h"
#include "supervisor/process.h"
#include "supervisor/restart.h"

struct config;
struct error;
struct ingest;
struct loop;
struct status_view;

#define WORKFLOW_NAME_MAX 256
#define WORKFLOW_INACTIVE_MAX 10000 /* workspaces in a final state that are remembered */

enum workflow_state {
    WORKFLOW_STARTING,
    WORKFLOW_RUNNING,
    WORKFLOW_RESTARTING,
    WORKFLOW_STOPPING,
    WORKFLOW_STOPPED, /* this one and the rest are final */
    WORKFLOW_FINISHED,
    WORKFLOW_FAILED,
    WORKFLOW_FENCED,
    WORKFLOW_DELETED
};

enum workflow_wait { WORKFLOW_WAIT_STARTED, WORKFLOW_WAIT_STOPPED };

/* Someone who wants to know. Embedded; done is called once, unless workflow_wait_cancel comes first. */
struct workflow_waiter {
    TAILQ_ENTRY(workflow_waiter) link;
    struct workflow *workflow; /* NULL: not waiting */
    enum workflow_wait until;
    void (*done)(struct workflow_waiter *waiter, bool reached);
};

struct workflow_request; /* workflow_request.h */

struct workflow {
    struct workflow_table *table;
    TAILQ_ENTRY(workflow) link;          /* in the list of all */
    TAILQ_ENTRY(workflow) inactive_link; /* in the list of those in a final state, oldest first */
    char name[WORKFLOW_NAME_MAX];
    enum workflow_state state;
    char *adopt; /* where to go on after another program; NULL: as configured */
    TAILQ_HEAD(, workflow_waiter) waiters;

    /* over all lives */
    struct restart_history history;
    uint64_t restarts;
    uint64_t restart_at_ns;
    int arena_fd; /* -1: none */
    struct arena *arena;
    struct arena_poison poison[ARENA_MAX_POISON]; /* kept while there is no arena */
    unsigned n_poison;
    uint64_t exit_unix_ns;
    char exit_reason[RESTART_REASON_MAX];
    char exit_error[MONITOR_TEXT_MAX];
    uint64_t finished_count;
    char finished_trigger[MONITOR_TEXT_MAX];
    char finished_time[MONITOR_TEXT_MAX];

    /* this life, or the last one */
    struct process process;
    int status_fd; /* -1: none */
    uint32_t generation;
    uint64_t started_ns;
    uint64_t started_unix_ns;
    TAILQ_HEAD(, workflow_request) requests; /* sent and not yet answered */
    size_t n_requests;
    bool ready;
    bool reload_wanted; /* as soon as it is ready */
    bool stop_requested;
    bool finished;
    bool overdue;         /* killed: did not stop in time */
    bool message_invalid; /* one was, and was logged */
    int stalled;          /* thread slot for which it was killed; -1: none */
    char failed_reason[MONITOR_REASON_MAX];
    char failed_error[MONITOR_TEXT_MAX];
    struct buffer status; /* its last status object */
    struct monitor_sample sample;
    double events_per_second;
    uint64_t rate_read; /* at the last tick */
    uint64_t rate_ns;
};

TAILQ_HEAD(workflow_list, workflow);

struct workflow_table {
    struct loop *loop;
    struct process_table *processes;
    const struct config *config; /* for lives that begin from now on */
    struct ingest *ingest;       /* the rings for events over HTTP; NULL: none */
    struct hash_table by_name;
    struct workflow_list all;
    struct workflow_list inactive;
    size_t n_inactive;
    size_t n_active;
    uint32_t generations;
    int64_t request_ids; /* the last one given */
    bool closing;        /* nothing starts any more */
    uint64_t tick_ns;
    uint64_t resumed_ns; /* when the supervisor itself had last been suspended */
    char packet[65536];
};

void workflow_table_init(struct workflow_table *table, struct loop *loop, const struct config *config);
/* Frees all; no worker may live. */
void workflow_table_done(struct workflow_table *table);

struct workflow *workflow_find(struct workflow_table *table, const char *name);
/* Finds or creates (state stopped). Requires: a valid name. */
int workflow_get(struct workflow_table *table, const char *name, struct workflow **ret_workflow,
                 struct error *err);

/* Forgets it, unless it is active or someone waits for it. Not from a callback of the workflow's. */
void workflow_forget(struct workflow *workflow);

/* Starts it. adopt: copied, or NULL. Errors: ERROR_EXISTS when it is already running, ERROR_LIMIT while the
 * supervisor stops. */
int workflow_start(struct workflow *workflow, const char *adopt, struct error *err);
/* Tells a worker that waits for it where to go on. Errors: ERROR_EXISTS: it does not wait. */
int workflow_adopt(struct workflow *workflow, const char *from, struct error *err);
/* Drains and stops it; after stop_timeout it is killed. */
void workflow_stop(struct workflow *workflow);
void workflow_kill(struct workflow *workflow);
/* Tells the worker to read its triggers, event sources and timers again: now, or when it is ready. */
void workflow_reload(struct workflow *workflow);

/* Calls waiter->done when that comes true, or can no longer; at once if it is so now. */
void workflow_wait(struct workflow *workflow, struct workflow_waiter *waiter);
void workflow_wait_cancel(struct workflow_waiter *waiter); /* fine when not waiting */

bool workflow_active(const struct workflow *workflow); /* not in a final state */
bool workflow_needs_adoption(const struct workflow *workflow);
const char *workflow_state_name(const struct workflow *workflow);

/* Frees it; for the table, which has taken it out of its lists. */
void workflow_dispose(struct workflow *workflow);

/* Samples every arena and kills what hangs. Once a second. */
void workflow_tick(struct workflow_table *table, uint64_t now_ns);
/* How many are in which state, in words: "12 workflows running, 3 stopped". */
void workflow_summary(const struct workflow_table *table, char *to, size_t size);
/* What to show; borrows from the workflow until it changes. Takes a fresh sample. */
void workflow_view(struct workflow *workflow, uint64_t now_ns, struct status_view *ret_view);

/* The workflow's part of process_events (owner: struct workflow). */
void workflow_on_spawned(void *owner);
void workflow_on_spawn_failed(void *owner, const char *error);
void workflow_on_spawn_lost(void *owner);
void workflow_on_ended(void *owner, const struct process_end *end);
