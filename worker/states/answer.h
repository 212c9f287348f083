/* Answers that a trigger waits for: of tasks whose result is not yet their state's output (ResultSelector,
 * ResultPath, OutputPath), or which belong to an iteration of a Map. The task's firing writes here what it
 * takes to make the output of the answer, before it starts the function; so nothing of it needs to go through
 * the function. An answer finds its entry by the idempotency key, when the function gives it back, else by
 * its iteration, else the task's oldest entry is taken: then results are in the order of arrival.
 *
 * In the trigger's context: "answers":[{"task","key","item"?,"input"?,"state"?}]. Inputs and states may have
 * ANSWERS_MAX_BYTES. What is written beyond that is kept without them, as {"over":true,"task","key","item"?}:
 * the state fails when its answer comes. Those may have as much again; then the write is refused. Thread: one
 * at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cloudevent_span;
struct error;
struct json_value;

#define ANSWERS_MAX_BYTES (64u << 20)
#define ANSWER_OVER "over"

struct answer {
    char *text; /* the entry's JSON */
    size_t len;
    uint64_t task, key, item; /* hashes; 0: none */
};

struct answers {
    struct answer *entries; /* oldest first */
    size_t n;
    size_t cap;
    size_t bytes;
};

/* Errors: ERROR_INVALID, ERROR_MEMORY. */
int answers_load(struct answers *answers, const struct json_value *context, struct error *err);
void answers_done(struct answers *answers);
/* Appends "answers":[...]; nothing when there are none. */
void answers_store(const struct answers *answers, struct buffer *out);

/* Takes a write of a task's firing: {"awaits":{an entry}}, or {"forget":key}. 0: it is neither; 1: taken.
 * Errors: ERROR_LIMIT, ERROR_MEMORY. */
int answers_write(struct answers *answers, const struct json_value *write, struct error *err);
/* Adds an entry. Errors: ERROR_INVALID (it is none), ERROR_LIMIT, ERROR_MEMORY. */
int answers_add(struct answers *answers, const struct json_value *entry, struct error *err);
/* Whether an entry was kept without what its answer is to be understood by; err says why then. */
bool answer_is_over(const struct json_value *entry, struct error *err);
/* Drops the entry with this key (its hash). */
void answers_forget(struct answers *answers, uint64_t key);
/* Appends a write. input: the state's; state: its document; NULL: none. */
void answer_compose(const char *task, const char *key, const struct cloudevent_span *item,
                    const struct json_value *input, const struct json_value *state, struct buffer *out);

/* The entry for an answer of this task, taken out; its text is the caller's to free. false: there is none. */
bool answers_take(struct answers *answers, const struct cloudevent_span *task,
                  const struct cloudevent_span *key, const struct cloudevent_span *item,
                  struct answer *ret_answer);
/* Puts it back: the answer could not be used, and may come again. Takes the entry. Errors: ERROR_LIMIT,
 * ERROR_MEMORY. */
int answers_put_back(struct answers *answers, struct answer *answer, struct error *err);
