/* Publishing events: lines in, batches out, several requests in flight, each repeated with the same ids until
 * it is answered for good. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct cli;
struct event_filler;
struct lines;

#define PUBLISH_BATCH_MAX 10000

struct publish_options {
    const char *workspace;
    unsigned batch;        /* events of a request */
    unsigned in_flight;    /* requests; 1 keeps the order of the events */
    uint64_t retry_ns;     /* without any success: how long to go on trying */
    bool retry_connecting; /* also when nobody answers the very first request */
    bool skip_invalid;
};

struct publish_result {
    uint64_t published;  /* acknowledged: durable */
    uint64_t duplicates; /* of them, known before */
    uint64_t retries;    /* requests repeated */
    uint64_t invalid;    /* lines left out */
    uint64_t unknown;    /* events sent, and not known whether they were taken */
    double seconds;
};

/* Publishes all lines. CLI_OK, or an exit status, complained about; *ret_result is filled in any case. */
int publish(struct cli *cli, const struct publish_options *options, struct lines *lines,
            struct event_filler *filler, struct publish_result *ret_result);
