/* A supervisor for integration tests: the real program, with a configuration, a run directory, a port and a
 * log of its own. What goes wrong fails the test (cmocka). With KEEP_LOGS in the environment the log is
 * printed at the end. Thread: one at a time. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

#include "common/buffer.h"
#include "common/clock.h"

struct redis_server;

#define BED_DEADLINE_NS (60 * CLOCK_S)

/* Waits for a condition; the test fails at the deadline. For files that include cmocka.h. */
#define AWAIT(condition)                                             \
    do {                                                             \
        uint64_t deadline_ = clock_now_ns() + BED_DEADLINE_NS;       \
        while (!(condition)) {                                       \
            if (clock_now_ns() > deadline_)                          \
                fail_msg("not in time: %s", #condition);             \
            nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); \
        }                                                            \
    } while (0)

struct bed {
    struct redis_server *redis;
    char dir[64]; /* of all that follows */
    char run[96];
    char config[96];
    char log[96];
    int port;
    pid_t supervisor; /* 0: not running */
};

/* Empties the server and writes a configuration that uses it. Nothing is started. */
struct bed *bed_new(struct redis_server *redis);
void bed_free(struct bed *bed); /* kills the supervisor if it runs, and removes the folder */

/* token: "" for none; more: further YAML at top level. */
void bed_write_config(const struct bed *bed, const char *token, const char *more);
void bed_store(const struct bed *bed, const char *workspace); /* adds an empty workspace to the storage */

/* This program, and one that is built beside the tests. */
void bed_self(char path[PATH_MAX]);
void bed_program(const char *name, char path[PATH_MAX]);

void bed_start(struct bed *bed);
void bed_await_ready(const struct bed *bed); /* until /readyz says so */
int bed_stop(struct bed *bed);               /* SIGTERM; its exit status */
int bed_wait_exit(pid_t pid);                /* of a child; 128 + the signal that killed it */

/* Runs triggerflow-supervisor with up to three arguments (NULL: none) and the bed's configuration and run
 * directory, and returns its exit status; what it printed is in dir/output. */
int bed_command(const struct bed *bed, const char *a, const char *b, const char *c);
bool bed_output_has(const struct bed *bed, const char *text);
bool bed_log_has(const struct bed *bed, const char *text);
char *bed_read_file(const char *path); /* valid until the next call */

bool bed_gone(pid_t pid); /* no such process */
bool bed_dead(pid_t pid); /* that, or a zombie */

struct bed_answer {
    long status; /* 0: there was none */
    struct buffer body;
    char authenticate[128]; /* WWW-Authenticate */
    char allow[64];
};

/* One HTTP call, over the control socket (local) or TCP; body and token may be NULL. Returns the status. */
long bed_call(const struct bed *bed, bool local, const char *method, const char *path, const char *body,
              const char *token, struct bed_answer *answer);
void bed_answer_done(struct bed_answer *answer);
/* The status of a call over the control socket. */
long bed_status(const struct bed *bed, const char *method, const char *path, const char *body);

/* A member of a workspace's status by its path ("last_exit.reason") as text; "" when absent. */
void bed_get_text(const struct bed *bed, const char *workspace, const char *path, char to[256]);
bool bed_text_is(const struct bed *bed, const char *workspace, const char *path, const char *expected);
long long bed_number(const struct bed *bed, const char *workspace, const char *path);
/* The process id of its forkserver; 0: there is none now. */
pid_t bed_forkserver(const struct bed *bed);
bool bed_state_is(const struct bed *bed, const char *workspace, const char *state);
