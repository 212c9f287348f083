/* A program under test: started with its output in a log file, killed or waited for by pid. It dies with the
 * test. Thread: main. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct process {
    pid_t pid; /* 0: not running */
    char log[PATH_MAX];
    int lives; /* how often it was started */
};

/* A program of the build that this test belongs to ("triggerflow-worker"), from the folder that
 * TRIGGERFLOW_BUILD names, else the one above this program's tests/integration. */
void process_program(const char *name, char ret_path[PATH_MAX]);
/* The same with named crash points: from TRIGGERFLOW_CRASH_BUILD, else build/crash. False: not built. */
bool process_crash_program(const char *name, char ret_path[PATH_MAX]);

/* Sets up a process that is not running; its log is emptied. */
void process_init(struct process *process, const char *log);
/* Starts it. argv and environment ("NAME=value", added to ours) are NULL-terminated; output is appended to
 * the log. 0, or -1. */
int process_start(struct process *process, const char *const *argv, const char *const *environment);
/* Kills it if it runs, and waits. */
void process_kill(struct process *process, int signal);
/* Whether it has ended; then *ret_status is its exit status, or 128 + the signal that killed it. */
bool process_ended(struct process *process, int *ret_status);
/* Waits for its end at most so long; the status as above, -1 when it still runs. */
int process_wait(struct process *process, uint64_t timeout_ns);

/* The log's text (malloc). */
char *process_log(const struct process *process);
bool process_log_has(const struct process *process, const char *text);
/* How often the text stands in the log. */
unsigned process_log_count(const struct process *process, const char *text);
/* Prints the end of the log to standard error. */
void process_show_log(const struct process *process);

/* How many processes of the machine have this in their command line. */
unsigned process_count(const char *part);
