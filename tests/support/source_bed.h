/* One workflow of the conformance test: the workspace "ws" in a storage of its own, with the event source
 * "in" of the class under test and "out", a Redis stream that is only published to; the real
 * triggerflow-worker, or the supervisor that runs it; events, and what must come of them (reference.h). What
 * goes wrong fails the test (cmocka). With TRIGGERFLOW_KEEP in the environment the logs are shown. Thread:
 * main, but for the publisher. */
#pragma once

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/support/process.h"
#include "tests/support/reference.h"
#include "tests/support/source_driver.h"
#include "tests/support/source_workload.h"
#include "tests/support/storage_bed.h"
#include "tests/support/tcp_proxy.h"
#include "tests/support/wait.h"
#include "tests/support/workspace.h"

/* What all cases of one driver share. */
struct source_world {
    const struct source_driver *driver;
    struct storage_bed redis;  /* also has the stream "out" */
    struct storage_bed files;  /* SQLite */
    struct tcp_proxy *broker;  /* between the workflow and its broker; NULL: there is no connection */
    struct tcp_proxy *storage; /* between the workflow and the storage, if that is Redis */
};

/* 0; 1: something is not to be had here, with "skipped: why" printed; -1: with the reason. */
int source_world_start(struct source_world *world, const struct source_driver *driver);
void source_world_done(struct source_world *world); /* also after a failed start */

struct source_bed {
    struct source_world *world;
    const struct source_driver *driver;
    struct source_queue queue;
    struct storage_bed *at;
    struct storage *storage; /* ours, to look at what is stored */
    struct workspace workspace;
    struct reference *reference;
    bool supervised;
    struct process process; /* the supervisor if supervised, else the worker */
    char program[PATH_MAX];
    char dir[64];
    char api[96], control[96], crash_file[96];
    unsigned running_before;
    unsigned killed;
    unsigned next;    /* event to be made */
    char last_id[48]; /* of the one published before. Thread: whichever publishes */
    /* the publisher */
    bool publishing;
    pthread_t thread;
    source_events make;
    unsigned first, total;
    _Atomic unsigned allowed; /* events that it may publish by now */
    _Atomic bool failed;
};

/* A bed of the storage back end, empty; supervised: under a supervisor although the driver does not ask for
 * it. */
struct source_bed *source_bed_new(struct source_world *world, const char *backend, bool supervised);
void source_bed_free(struct source_bed *bed); /* kills what runs; NULL is fine */
/* With named crash points; false: that is not built. Before the first life. */
bool source_bed_crashes(struct source_bed *bed);
void source_bed_show(const struct source_bed *bed);
#define AWAIT_SOURCE(bed, condition) WAIT_ELSE(condition, source_bed_show(bed))

/* Publishes the next n events, or fewer of them when the driver's broker is slow (`percent`), and takes them
 * into the reference. Returns how many. */
unsigned source_bed_publish(struct source_bed *bed, source_events make, unsigned n);
/* Publishes the events first to first + n - 1; counted: takes them into the reference. */
void source_bed_publish_range(struct source_bed *bed, source_events make, unsigned first, unsigned n,
                              bool counted);
/* Starts a thread that publishes the next n events. As many of them as are allowed it publishes at once; join
 * allows all of them. */
void source_bed_publisher(struct source_bed *bed, source_events make, unsigned n);
void source_bed_allow(struct source_bed *bed, unsigned part, unsigned parts);
void source_bed_publisher_join(struct source_bed *bed);

/* A life: settings are further "NAME=value" for the environment, or NULL. */
void source_bed_start(struct source_bed *bed, const char *const *settings);
void source_bed_up(struct source_bed *bed); /* start, and waits until it runs */
bool source_bed_running(const struct source_bed *bed);
pid_t source_bed_worker(const struct source_bed *bed); /* 0: none */
/* SIGTERM, once it runs; it drains, and must end well. */
void source_bed_stop(struct source_bed *bed);
/* SIGKILL and the next life: of the worker, under a supervisor of the one or the other. */
void source_bed_kill(struct source_bed *bed, const char *const *settings);
/* The next life dies at the COUNTth time that the point is reached. */
void source_bed_crash_at(struct source_bed *bed, const char *point, unsigned count);
void source_bed_call(const struct source_bed *bed, const char *method, const char *path);

/* context.counter of a trigger as stored; -1: none. */
long long source_bed_counter(const struct source_bed *bed, const char *trigger);
/* Whether all that was published is counted, and nothing is left to be done; and waits for that, while the
 * worker must not end. */
bool source_bed_settled(const struct source_bed *bed);
void source_bed_settle(struct source_bed *bed);
/* Settles and stops; what is stored and was emitted is exactly what the reference says. Then another life, in
 * which nothing may come again: one more event is counted, the broker holds nothing more for us, and all is
 * as it must be. */
void source_bed_finish(struct source_bed *bed);
