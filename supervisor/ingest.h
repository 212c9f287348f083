/* The way of events from HTTP requests into the workers' event logs.
 *
 *     HTTP threads --submit--> ring of the worker's arena --> worker: one sync --> tail moves, eventfd
 *        ^                                                                              |
 *        '------------- 202, 409, 429, 503, 507 <------ the ingest thread harvests <----'
 *
 * A request is one record of the ring (arena.h), written by the HTTP thread that has decoded it. It waits in
 * the channel's list, in the order of the ring, until the worker has moved the ring's tail past it; its
 * answer is what the worker wrote into the record.
 *
 * Ownership. One lock guards everything; under it records are copied, never decoded, and no request is
 * answered. A channel exists per workspace that has a life of a worker or requests that wait, and is freed
 * when it has neither. Its ring is that of one life: ingest_open(), by the main thread before the worker is
 * spawned, begins it with two new eventfds, ingest_close() ends it before the arena is reset or unmapped;
 * between the two the arena stays where it is. What a dead or lost worker still writes into its old arena or
 * eventfds reaches nobody.
 *
 * Crashes. A worker that dies between any two lines has either moved the tail past a record, whose answer
 * then stands, or not: then 503, since nobody knows whether it is in the log; the ring is emptied by
 * arena_reset(), so the next life cannot take it up, and the client's repetition counts once (duplicates are
 * recognised by the log). A supervisor that dies takes all connections with it: unanswered requests are
 * unknown in the same way, and its workers, whose status sockets end, log what they find in the ring or not.
 *
 * A slot of the ring is written again only after its answer was harvested: the tail that counts here is the
 * harvested one, not the worker's. Nothing in the arena is trusted: a tail outside of what was published ends
 * the channel until the next life, an answer is read once and checked, a record's place is our own number.
 *
 * A request for a workflow that does not run waits, in memory of its own, until the channel is open: bounded
 * in number, bytes and time. The main thread is asked to wake the workflow (ingest_options) and tells when
 * that cannot be (ingest_fail). A request in the ring is answered 503 after INGEST_ANSWER_NS, and is then
 * unknown. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;
struct buffer;
struct command_queue;
struct error;
struct http_request;
struct ingest;

#define INGEST_START_NS 15000000000ull  /* wait for a workflow to start */
#define INGEST_ANSWER_NS 60000000000ull /* wait for a record's answer */
#define INGEST_WAITING_MAX 1000         /* requests that wait for workflows to start */
#define INGEST_WAITING_BYTES (64u << 20)
#define INGEST_RETRY_SECONDS 1

struct ingest_options {
    struct command_queue *queue; /* into the main thread */
    /* Requests for the workspace wait and it has no open channel: starts it, if it may be, else calls
     * ingest_fail(). Called again for requests that come later, or when a life ends. Thread: main. */
    void (*wake)(void *data, const char *workspace);
    void *data;
};

/* Since the start. */
struct ingest_counts {
    uint64_t accepted; /* events answered 202, duplicates among them */
    uint64_t duplicates;
    uint64_t waiting; /* requests now without an answer */
    struct {
        unsigned status;
        uint64_t requests;
    } refused[10]; /* status 0: the end */
};

/* Starts the thread. */
int ingest_new(const struct ingest_options *options, struct ingest **ret_ingest, struct error *err);
/* Answers all that waits with 503, and all that comes. Thread: main. NULL is fine. */
void ingest_abort(struct ingest *ingest);
void ingest_free(struct ingest *ingest); /* Requires: no requests, no lives. NULL is fine. */

/* Begins a life: the arena, which stays mapped until ingest_close(), was just reset. Returns the eventfds for
 * the worker, which stay ours and open until ingest_close(). Thread: main, as all down to ingest_fail. */
int ingest_open(struct ingest *ingest, const char *workspace, struct arena *arena, int *ret_ingest_fd,
                int *ret_durable_fd, struct error *err);
/* Ends it, if there is one: what is not answered then is 503, and what waits for a start goes on waiting. */
void ingest_close(struct ingest *ingest, const char *workspace);
/* What the worker says of its event sources: whether one takes events over HTTP. Without, 409. */
void ingest_settle(struct ingest *ingest, const char *workspace, bool has_source);
/* Answers those that wait for the workflow to start. */
void ingest_fail(struct ingest *ingest, const char *workspace, unsigned status, const char *text);

/* Takes a record (struct arena_ingest_record and its events, n_bytes at an address aligned to 8), which is
 * copied, and answers the request when that is decided, perhaps before it returns. Thread: any. */
void ingest_submit(struct ingest *ingest, struct http_request *request, const char *workspace,
                   const void *record, size_t n_bytes, uint32_t n_events);
/* Answers with an error that was found before. Counts it. */
void ingest_refuse(struct ingest *ingest, struct http_request *request, unsigned status, long index,
                   const char *text);

void ingest_count(struct ingest *ingest, struct ingest_counts *ret_counts); /* Thread: any */
