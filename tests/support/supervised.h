/* A worker whose supervisor is the test: worker_run() in a child process, over a socket and an arena of the
 * test's. It belongs to a worker_bed, whose log, process and workspace it uses. What goes wrong fails the
 * test (cmocka). Thread: main. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/worker_bed.h"

struct arena;

struct supervised {
    struct worker_bed *bed;
    struct arena *arena;
    int arena_fd;
    int socket;
    unsigned generation;
    long long id; /* of the last request */
    bool ready;
    char *status; /* the last status message, "" before */
    char *answer; /* the last answer, "" before */
};

struct supervised *supervised_new(struct worker_bed *bed);
void supervised_free(struct supervised *worker); /* kills it if it runs */

/* Starts a life and waits until it is ready; crash: "NAME COUNT" of a crash point (crash.h), or NULL: then it
 * may end before it is ready. */
void supervised_start(struct supervised *worker, const char *crash);
void supervised_kill(struct supervised *worker); /* SIGKILL */

/* Sends a message as it is; the format's result. */
void supervised_send(struct supervised *worker, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Sends a request, of which `members` are given (`"message":"pause"`), and waits for the answer: its count,
 * or minus its status; -1: the worker has died before. */
long long supervised_ask(struct supervised *worker, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Takes what has come. False: the worker is gone. */
bool supervised_listen(struct supervised *worker);
/* Whether the last status has this text. */
bool supervised_shows(struct supervised *worker, const char *text);
