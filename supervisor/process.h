/* Child processes: the forkserver, the workers it forks for us, and whatever they leave behind.
 *
 * The forkserver is one child with a socket; spawn requests wait until it is ready and are answered with a
 * pid. A worker is known by a pidfd from then on. All children that nobody knows (left by workers that died)
 * are reaped.
 *
 * A process goes NONE -> WAITING -> SENT -> ALIVE -> NONE. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "common/buffer.h"

struct config;
struct error;
struct loop;
struct process_table;

#define PROCESS_IN_REQUEST_MAX 32        /* spawns sent and not yet answered */
#define PROCESS_ANSWER_NS 20000000000ull /* a forkserver that answers later than this is killed */

enum process_state { PROCESS_NONE, PROCESS_WAITING, PROCESS_SENT, PROCESS_ALIVE };

struct process_end {
    pid_t pid;
    bool known; /* false: the kernel could not tell */
    int status;
    int signal; /* 0: it exited with status */
};

/* One worker; embedded in its owner. */
struct process {
    TAILQ_ENTRY(process) link; /* in the list of its state */
    enum process_state state;
    uint32_t generation;
    pid_t pid;  /* 0: none */
    int pidfd;  /* -1: none */
    int fds[4]; /* arena (borrowed), the child's status socket (owned until sent), eventfds (borrowed) */
    unsigned n_fds;
    uint64_t sent_ns;
    struct buffer request;
    struct process_table *table;
    void *owner;
};

/* Called with process->owner. Each may call back into this module. */
struct process_events {
    void (*spawned)(void *owner);
    void (*failed)(void *owner, const char *error); /* the forkserver could not fork it */
    void (*lost)(void *owner);                      /* the forkserver died before it answered */
    void (*ended)(void *owner, const struct process_end *end);
    void (*forkserver_ready)(void *data);
    void (*forkserver_ended)(void *data, bool was_ready);
    void *data;
};

/* Starts the forkserver. worker_path: the program, copied. Errors: the program cannot be executed. */
int process_table_new(struct loop *loop, const char *worker_path, const struct process_events *events,
                      struct process_table **ret_table, struct error *err);
/* Ends the forkserver (bounded wait, then SIGKILL). Workers must be gone. NULL is fine. */
void process_table_free(struct process_table *table);

bool process_forkserver_ready(const struct process_table *table);
pid_t process_forkserver_pid(const struct process_table *table); /* 0: not running */

void process_init(struct process *process, void *owner);

/* Requests a worker. Takes status_fd (closed here, also on failure); borrows arena_fd and event_fds, the
 * ingest ring's (-1: none), until spawned, failed or lost. Requires: state NONE. */
int process_spawn(struct process_table *table, struct process *process, const char *workspace,
                  uint32_t generation, const struct config *config, int arena_fd, int status_fd,
                  const int event_fds[2], struct error *err);
/* Takes back a request that was not sent yet; false when it is too late. */
bool process_cancel(struct process_table *table, struct process *process);
void process_kill(struct process *process); /* SIGKILL, if alive */

/* Reaps every dead child: known ones end as their pidfd would say it, others silently. For SIGCHLD and the
 * tick. */
void process_reap(struct process_table *table);
/* Kills a forkserver that hangs. Once a second. */
void process_tick(struct process_table *table, uint64_t now_ns);
