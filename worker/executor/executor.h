/* The executor: one thread that starts committed intents and sees them through, with asynchronous I/O on its
 * loop.
 *
 * An intent is handed over (executor_submit), started by its action, and reported with executor_done exactly
 * once per start: done, to be tried again after a back-off, or given up; finished ones go to the checkpoint,
 * which removes them from the outbox. A slow peer delays no trigger and no other peer's intents. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct containers;
struct error;
struct executor;
struct intent;
struct invocations;
struct json_value;
struct loop;
struct sink;
struct source_type;
struct worker;

int executor_new(struct worker *worker, struct executor **ret_executor, struct error *err);
int executor_start(struct executor *executor, struct error *err);
/* Waits for intents under way, at most until the deadline (clock_now_ns), then ends the thread. Those left
 * stay in the outbox. Thread: checkpoint. */
void executor_stop(struct executor *executor, uint64_t deadline_ns);
/* Shows the invocations that it has been handed and that have not ended, begun or not. After executor_stop:
 * none begins any more. Thread: checkpoint. */
void executor_each(struct executor *executor, void (*see)(void *data, struct intent *intent), void *data);
void executor_free(struct executor *executor); /* NULL is fine */

/* Takes a list. A few intents are begun on the calling thread when the executor is asleep: a wake-up costs
 * more than sending. Nothing in it waits: connections are made by the executor's own thread. Thread: any. */
void executor_submit(struct executor *executor, struct intent *list);
/* Intents submitted and not yet finished. Thread: any. */
uint64_t executor_pending(const struct executor *executor);
/* Whether one may be submitted past the outbox, which shares out what is left of max_pending_actions when
 * half of it is in use. Thread: any. */
bool executor_has_room(const struct executor *executor);

/* The workspace's event sources, for publishing: called for each when they are (re)loaded; document copied. A
 * changed or removed one (document NULL) is closed when next used. consumed: this workflow reads it, too.
 * Thread: checkpoint. */
int executor_set_source(struct executor *executor, const char *name, size_t name_len, const char *document,
                        size_t document_len, bool consumed, struct error *err);

/* --- for actions and sinks; all on the executor's thread, or on one that stands in for it --- */

/* Whether this is the executor's own thread, which alone may wait (for a connection). */
bool executor_is_here(const struct executor *executor);

enum executor_outcome { EXECUTOR_DONE, EXECUTOR_RETRY, EXECUTOR_GIVE_UP };
/* The end of one attempt. error: why, for the log and the dead letter (NULL when done). */
void executor_done(struct executor *executor, struct intent *intent, enum executor_outcome outcome,
                   const struct error *error);
/* As EXECUTOR_RETRY, after so long. */
void executor_retry(struct executor *executor, struct intent *intent, uint64_t delay_ns,
                    const struct error *error);
/* So many more (or fewer) of the started intents wait inside an action and could as well be left to the next
 * life of the worker: executor_stop does not wait for them. */
void executor_park(struct executor *executor, int n);
/* Whether what waits should not begin any more. */
bool executor_draining(const struct executor *executor);
uint64_t executor_random(struct executor *executor);
/* The invocations, made when first asked for. NULL: see err, which may be NULL later. */
struct invocations *executor_invocations(struct executor *executor, struct error *err);

/* The containers of functions, likewise. NULL: see err. */
struct containers *executor_containers(struct executor *executor, struct error *err);

/* The sink for an event source of the workspace, opened when needed. ret_consumed: see executor_set_source.
 * Errors: ERROR_NOT_FOUND, ERROR_INVALID. */
int executor_sink(struct executor *executor, const char *name, size_t name_len, struct sink **ret_sink,
                  bool *ret_consumed, struct error *err);
/* The same for an event source that is given by its document (borrowed) and not stored in the workspace.
 * At most EXECUTOR_MAX_GIVEN of them are open at a time: another one closes that which was not used for
 * longest. Errors: ERROR_INVALID; ERROR_LIMIT (all have something to do), ERROR_MEMORY. */
#define EXECUTOR_MAX_GIVEN 256
int executor_sink_given(struct executor *executor, const char *document, size_t len, struct sink **ret_sink,
                        struct error *err);
/* Publishes through the sink. */
void executor_publish(struct sink *sink, struct intent *intent);

struct loop *executor_loop(struct executor *executor);
struct worker *executor_worker(struct executor *executor);

/* Common head of every class's sink. */
struct sink {
    const struct source_type *type;
    size_t under_way; /* intents that it was given and that have not come to an end */
};
