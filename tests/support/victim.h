/* A worker that is killed again and again, at random instants and at named crash points (worker/crash.h), and
 * its workspace in the test's redis-server. What goes wrong fails the test (cmocka). Thread: main. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/support/process.h"
#include "tests/support/workspace.h"

struct redis_server;

struct victim {
    struct workspace workspace;
    struct process worker;
    char program[PATH_MAX];
    char crash_file[160];
    /* "NAME=value", of each list one in each life; both NULL-terminated */
    const char *const *const *settings;
    unsigned killed;
    unsigned running_before; /* lives that came to run, before the present one */
};

/* What main does before its tests and after them: chance_read_settings(), a redis-server, a folder for logs.
 * 0; > 0: skipped, which was said; < 0: failure. close gives the exit status. */
int victim_open(int argc, char **argv, const char *name);
int victim_close(int result);
struct redis_server *victim_redis(void);

/* A workspace with a source `in` that reads the stream of the workspace's name, which is emptied. The worker
 * is not started. */
void victim_init(struct victim *victim, struct redis_server *redis, const char *name,
                 const char *const *const *settings);
/* A life, with one to four shards and a checkpoint interval that changes, too. */
void victim_start(struct victim *victim);
/* SIGKILL; it must not have ended by itself. */
void victim_kill(struct victim *victim);
void victim_show(const struct victim *victim);

/* Whether the workflow has finished, at least once. */
bool victim_has_finished(const struct victim *victim);
bool victim_is_settled(const struct victim *victim);
/* Both. */
bool victim_is_done(const struct victim *victim);
/* Whether the present life serves: a signal before that would just end it. */
bool victim_is_running(const struct victim *victim);

/* Waits for what a living worker comes to. */
void victim_await(struct victim *victim, bool (*done)(const struct victim *victim));
/* Kills it after random lives of at most so long, `most` times or until the workflow has finished; then it
 * lives on. */
void victim_kill_often(struct victim *victim, unsigned most, uint64_t life_ns);

/* The program with crash points, or skips the test. */
void victim_crash_program(char ret_program[PATH_MAX]);
/* A life for each count, that ends at the COUNTth time that the point is reached or when the workflow is
 * done; at least one reaches it. Then it lives on. */
void victim_die_at(struct victim *victim, const char *point, const unsigned *counts, size_t n);
/* The same by hand. The next lives end at the COUNTth time that the point is reached. */
void victim_arm(const struct victim *victim, const char *point, unsigned count);
void victim_disarm(const struct victim *victim);
/* Waits for the end of an armed life. False: it was done before, and is killed. */
bool victim_dies(struct victim *victim, bool (*done)(const struct victim *victim));
