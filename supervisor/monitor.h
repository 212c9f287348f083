/* What the supervisor sees of a worker: its status messages and its arena.
 *
 * Both are untrusted: text is bounded and checked, indices are checked, and numbers are only ever shown. No
 * I/O. Thread: one at a time. Fuzzed: tests/fuzz/fuzz_status.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/json.h"

struct buffer;
struct error;

enum monitor_kind { MONITOR_READY, MONITOR_STATUS, MONITOR_FINISHED, MONITOR_FAILED, MONITOR_ANSWER };

#define MONITOR_REASON_MAX 32
#define MONITOR_TEXT_MAX 256

/* A message of a worker (common/ipc.h). */
struct monitor_frame {
    enum monitor_kind kind;
    uint32_t generation;
    struct json_value status;        /* MONITOR_STATUS: an object; borrows the packet */
    char trigger[MONITOR_TEXT_MAX];  /* MONITOR_FINISHED */
    char time[MONITOR_TEXT_MAX];     /* MONITOR_FINISHED */
    char reason[MONITOR_REASON_MAX]; /* MONITOR_FAILED */
    char error[MONITOR_TEXT_MAX];    /* MONITOR_FAILED, MONITOR_ANSWER */
    int64_t id;                      /* MONITOR_ANSWER: of the request */
    int64_t count;                   /* MONITOR_ANSWER without a refusal */
    unsigned refusal;                /* MONITOR_ANSWER: 0, or an HTTP status from 400 to 599 */
};

/* Reads one packet. Texts are cut at a character when too long. 0, or 1 for a kind that this version does not
 * know. Errors: ERROR_INVALID: not such a message. */
int monitor_parse(const char *packet, size_t len, struct monitor_frame *ret_frame, struct error *err);

struct monitor_source {
    char name[ARENA_NAME_MAX]; /* valid UTF-8 */
    unsigned state;            /* enum arena_source_state, or out of range */
    uint64_t read, bytes, lag, lost, recreated, reconnects, dead_letters, duplicates;
};

/* The counters of an arena at one moment. */
struct monitor_sample {
    uint64_t at_ns; /* 0: none taken yet */
    unsigned state; /* enum arena_state, or out of range */
    bool dead_letters_full;
    uint64_t epoch, commits, commit_ns, commit_unix_ns, documents, commit_failures;
    uint64_t in_flight, internal_pending, triggers, triggers_broken, reloads;
    uint64_t dead_letters, dead_letter_bytes, finished, committed_events;
    uint64_t started, completed, retries, failed, pending; /* actions */
    uint64_t evaluated, events, fired;                     /* sums over the shards */
    uint64_t read, lag, lost, duplicates;                  /* sums over the sources */
    unsigned n_sources;
    struct monitor_source source[ARENA_MAX_SOURCES];
};

void monitor_sample(const struct arena *arena, uint64_t now_ns, struct monitor_sample *ret_sample);

/* Events read per second between two samples of the same life; 0 when the first is not there. */
double monitor_rate(uint64_t read_before, uint64_t at_before_ns, const struct monitor_sample *now);

/* The thread slot that has work and has given no sign of life for limit_ns; -1: none, or limit_ns is not
 * positive. Silence counts from not_before_ns at the earliest: when the worker was started, or when the
 * supervisor itself was last seen to have been suspended. */
int monitor_stalled(const struct arena *arena, uint64_t now_ns, int64_t limit_ns, uint64_t not_before_ns);

const char *monitor_source_state_name(unsigned state); /* "unknown" out of range */

/* Copies len bytes of text to a buffer of size bytes: cut at a character, bytes that are not UTF-8 as '?'. */
void monitor_copy_text(char *to, size_t size, const char *text, size_t len);
