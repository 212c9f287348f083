/* Results of the iterations of Maps, or of the branches of a Parallel, until they are all there: then in
 * order.
 *
 * There is a group for each run. That of a Map is opened by its firing, which writes how many items there are
 * and what it takes to make the Map's output of their results; a result's place is the index in its event's
 * path (item.h), and there it counts once. Results that come without a path are in the order of arrival, in
 * the oldest group that lacks some. A Parallel has as many results as it has branches; events of one run have
 * the same path, and results are in the order of the numbers of the branches' ends (StateMachineN), which a
 * compiler counts up.
 *
 * A group whose run has failed is closed: its data are dropped, and what still comes for it is only counted,
 * so that it is not taken for a result of another run. It goes when all have come; of those that wait for
 * some which never come, the last JOINS_MAX_CLOSED are kept.
 *
 * In the trigger's context:
 * "joins":[{"path","run"?,"expected","closed"?,"input"?,"state"?,"results":[[place,data],...]}]. Thread: one
 * at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"

struct cloudevent_span;
struct error;
struct json_value;

#define JOINS_MAX_BYTES (128u << 20) /* of all data */
#define JOINS_MAX 10000              /* groups */
#define JOIN_UNKNOWN -1              /* expected: not told yet */
#define JOIN_MAX_RESULTS 1000000
#define JOINS_MAX_CLOSED 1000

struct join_result {
    int64_t place;
    char *data; /* JSON; NULL: dropped */
    size_t len;
};

struct join {
    char *path; /* outside of the Map, or the Parallel; with the run at its end for a Map */
    size_t path_len;
    size_t outer_len; /* of the path: without the run */
    int64_t expected;
    bool closed;
    struct buffer input; /* of the Map or Parallel, and the Map's state: JSON; empty: not given */
    struct buffer state;
    struct join_result *results; /* by place */
    size_t n;
    size_t cap;
};

struct joins {
    struct join *groups; /* oldest first */
    size_t n;
    size_t cap;
    size_t bytes;
};

/* Errors: ERROR_INVALID, ERROR_MEMORY. */
int joins_load(struct joins *joins, const struct json_value *context, struct error *err);
void joins_done(struct joins *joins);
/* Appends "joins":[...]; nothing when there are none. */
void joins_store(const struct joins *joins, struct buffer *out);

/* The group of this path; made when there is none. outer_len: of the path. NULL: errors ERROR_LIMIT,
 * ERROR_MEMORY. Valid until the next call that makes or removes one. */
struct join *joins_open(struct joins *joins, const char *path, size_t len, size_t outer_len,
                        struct error *err);
/* NULL: there is none. */
struct join *joins_find(struct joins *joins, const char *path, size_t len);
/* The same for a result of this place: not one that is closed and has it. And for what begins a run: none
 * that is closed. */
struct join *joins_expecting(struct joins *joins, const char *path, size_t len, size_t outer_len,
                             int64_t place, struct error *err);
struct join *joins_begin(struct joins *joins, const char *path, size_t len, size_t outer_len,
                         struct error *err);
/* The oldest of a Map that lacks results, and, if so wanted, is not closed; NULL: none. */
struct join *joins_oldest(struct joins *joins, bool open);
/* Closes it. Other groups may go by it, so *join is where it is now. */
void joins_close(struct joins *joins, struct join **join);
void joins_remove(struct joins *joins, struct join *join);

/* Adds a result. once: its place can be taken once only, and is below `expected`, when that is known. 0, or
 * JOIN_REPEAT: nothing was added. Errors: ERROR_LIMIT, ERROR_MEMORY. */
enum { JOIN_REPEAT = 1 };
int join_add(struct joins *joins, struct join *join, int64_t place, bool once, const char *data, size_t len,
             struct error *err);
/* The first place that is free. */
int64_t join_free_place(const struct join *join);
bool join_is_complete(const struct join *join);
/* Appends the results, a JSON array. */
void join_write_results(const struct join *join, struct buffer *out);
