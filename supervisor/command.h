/* The way from any thread into the main thread: a queue of commands, run by the main loop in order of
 * posting.
 *
 * A command is embedded in what it is about and belongs to the queue from command_post() until its run
 * function is called. The queue is as long as there are posters' objects: HTTP connections and look-ups, both
 * bounded. */
#pragma once

struct command_queue;
struct error;
struct loop;

struct command {
    struct command *next; /* Requires: the queue's lock */
    void (*run)(struct command *command);
};

int command_queue_new(struct loop *loop, struct command_queue **ret_queue, struct error *err);
void command_queue_free(
    struct command_queue *queue); /* NULL is fine; commands still queued are dropped unrun */

/* Never fails. Thread: any. */
void command_post(struct command_queue *queue, struct command *command);
/* Runs what is queued now. Thread: main. */
void command_run_all(struct command_queue *queue);
