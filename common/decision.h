/* Recent decisions: what shards have lately made of events, for people who ask why a trigger did or did not
 * fire. A ring of fixed-size entries per shard in the arena (arena_decisions), each a seqlock (odd: being
 * written), so that the shard never waits and the reader never sees a torn one.
 *
 * Under load a shard leaves some out; sequence numbers count those, too, so that gaps show. They rise over
 * all shards and lives of a worker. Texts are cut to fit. The reader trusts nothing that it finds. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;
struct buffer;
struct cloudevent;

#define DECISION_TEXT_MAX 49 /* bytes of one text, with its NUL */
#define DECISION_DETAIL_MAX 96

enum { DECISION_HOLDS = 1, DECISION_FIRED = 2 };

/* What the two operands mean. */
enum decision_kind {
    DECISION_PLAIN,        /* nothing to tell */
    DECISION_JOIN,         /* counter, join */
    DECISION_TOTAL,        /* counter, total_activations; below zero: not known yet */
    DECISION_THRESHOLD,    /* counter, threshold */
    DECISION_GONE,         /* not evaluated: the transient trigger has fired */
    DECISION_REPEAT,       /* not evaluated: the event's idempotency key has been counted */
    DECISION_DEPENDENCIES, /* met, of all */
};

/* --- the shard's side. Thread: one writer per log --- */

struct decision_log {
    void *entries; /* arena_decisions() */
    uint64_t written;
};

struct decision_facts {
    uint64_t sequence;
    uint64_t time_unix_ns;
    const char *trigger; /* id */
    size_t trigger_len;
    const struct cloudevent *event;
    unsigned flags; /* DECISION_... */
    enum decision_kind kind;
    int64_t operands[2];
};

void decision_write(struct decision_log *log, const struct decision_facts *facts);

/* --- the reader's side. Process: any that has the arena. Thread: any --- */

struct decision {
    uint64_t sequence;
    uint64_t time_unix_ns;
    bool holds;
    bool fired;
    char trigger[DECISION_TEXT_MAX]; /* all texts: UTF-8, NUL-terminated */
    char event_id[DECISION_TEXT_MAX];
    char source[DECISION_TEXT_MAX];
    char type[DECISION_TEXT_MAX];
    char subject[DECISION_TEXT_MAX];
    char detail[DECISION_DETAIL_MAX];
};

/* The decisions with a sequence above `after`, the oldest first, at most `limit` of them; of one trigger, or
 * of all (NULL). Returns how many. */
size_t decision_read(struct arena *arena, const char *trigger, uint64_t after, struct decision *ret_decisions,
                     size_t limit);

/* "counter 5 of join 10"; "" for DECISION_PLAIN. Returns out. */
char *decision_detail(enum decision_kind kind, const int64_t operands[2], char out[DECISION_DETAIL_MAX]);

/* Appends {"sequence","time","trigger","event":{"id","source","type","subject"},"holds","fired","detail"}. */
void decision_write_json(const struct decision *decision, struct buffer *out);
