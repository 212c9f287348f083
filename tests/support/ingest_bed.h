/* A worker with an HTTPEventSource, on any storage, whose supervisor is the test: worker_run() in a child
 * process, over a socket, an arena and the eventfds of the ingest ring that are the test's. The workspace
 * "ws" has the event source "http" and the trigger "count", which counts events of the type t and subject s.
 * What goes wrong fails the test (cmocka). Thread: main. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/ring.h"
#include "tests/support/storage_bed.h"

struct arena;
struct arena_ingest_record;

struct ingest_bed {
    struct storage_bed *storage;
    struct arena *arena;
    int arena_fd;
    int socket;
    int ingest_fd;
    int durable_fd;
    pid_t pid;
    unsigned generation;
    long long id;
    struct ring_producer ring;
    char log[96];
    char crash[96];
    char *status; /* the last status message */
    char *failed; /* the last failure */
    long long outcome;
    bool ready;
};

/* Forgets all that is stored, and stores the workspace. */
void ingest_bed_init(struct ingest_bed *bed, struct storage_bed *storage);
void ingest_bed_done(struct ingest_bed *bed);
void ingest_bed_show(const struct ingest_bed *bed); /* the log */

/* Starts a life; crash: "NAME COUNT" or NULL, then it must become ready. */
void ingest_bed_start(struct ingest_bed *bed, const char *crash);
void ingest_bed_kill(struct ingest_bed *bed);
/* Asks it to stop; its exit status must be 0. */
void ingest_bed_stop(struct ingest_bed *bed);
/* Takes what it has said; false: it is gone. */
bool ingest_bed_alive(struct ingest_bed *bed);
/* A request without further members (pause, resume), and its answer. */
void ingest_bed_ask(struct ingest_bed *bed, const char *message);

/* Publishes a record of n events with the ids <name>-<first>, ...; bytes: of data in each. NULL: no room. */
struct arena_ingest_record *ingest_bed_publish(struct ingest_bed *bed, const char *name, unsigned first,
                                               unsigned n, size_t bytes);
/* The record's answer; 0: not yet. */
uint32_t ingest_bed_answer(const struct arena_ingest_record *record);
/* context.counter of the trigger as stored; -1: none. */
long long ingest_bed_counter(const struct ingest_bed *bed);
/* Fields of a set. */
unsigned ingest_bed_count(const struct ingest_bed *bed, enum storage_set set, const char *containing);
unsigned ingest_bed_groups(const struct ingest_bed *bed); /* left in the event log */
void ingest_bed_put(const struct ingest_bed *bed, enum storage_set set, const char *key,
                    const char *document);
void ingest_bed_delete(const struct ingest_bed *bed, enum storage_set set, const char *key);
