/* A parsed path, and its evaluation: for jsonpath*.c only. Everything of a path lies in its pool. */
#pragma once

#include "common/json.h"
#include "common/jsonpath.h"
#include "common/pool.h"

struct buffer;

#define JSONPATH_MAX_SEGMENTS 64
#define JSONPATH_MAX_NESTING 16 /* of expressions, and of paths in them */

struct jsonpath_name {
    const char *text; /* unescaped */
    size_t len;
};

enum jsonpath_kind {
    JSONPATH_NAMES,
    JSONPATH_INDICES,
    JSONPATH_SLICE,
    JSONPATH_WILDCARD,
    JSONPATH_FILTER,
    JSONPATH_FUNCTION
};

enum jsonpath_function {
    JSONPATH_LENGTH,
    JSONPATH_KEYS,
    JSONPATH_FIRST,
    JSONPATH_LAST,
    JSONPATH_MIN,
    JSONPATH_MAX,
    JSONPATH_AVG,
    JSONPATH_SUM,
    JSONPATH_STDDEV
};

struct jsonpath_segment {
    enum jsonpath_kind kind;
    bool descend; /* .. : at this value and all below it */
    unsigned n;   /* names or indices */
    struct jsonpath_name *names;
    int64_t *indices; /* SLICE: [0] from, [1] to */
    bool has[2];      /* SLICE: they are given */
    struct jsonpath_expression *filter;
    enum jsonpath_function function;
};

/* A sequence of segments, from a root that its user knows. */
struct jsonpath_segments {
    struct jsonpath_segment *at;
    unsigned n;
    bool definite;
};

struct jsonpath_operand {
    bool is_path;
    bool from_root; /* a path from $; else from @ */
    struct jsonpath_segments path;
    struct json_value literal;
};

enum jsonpath_operator {
    JSONPATH_OR,
    JSONPATH_AND,
    JSONPATH_NOT,
    JSONPATH_EXISTS, /* operand a alone */
    JSONPATH_EQ,
    JSONPATH_NE,
    JSONPATH_LT,
    JSONPATH_LE,
    JSONPATH_GT,
    JSONPATH_GE,
    JSONPATH_IN,
    JSONPATH_NIN,
    JSONPATH_SUBSETOF,
    JSONPATH_ANYOF,
    JSONPATH_NONEOF,
    JSONPATH_CONTAINS,
    JSONPATH_SIZE,
    JSONPATH_EMPTY
};

struct jsonpath_expression {
    enum jsonpath_operator op;
    struct jsonpath_expression *left, *right; /* OR, AND, NOT (left) */
    struct jsonpath_operand a, b;
};

struct jsonpath {
    struct pool pool;
    char *text;
    struct jsonpath_segments segments;
};

/* --- an evaluation --- */

#define JSONPATH_STEP 16 /* what looking at one value costs at least */

struct jsonpath_walk {
    const struct json_value *root;
    struct pool *pool;
    uint64_t *steps;
    struct error *err;
};

/* A text of ours as a value that belongs to the pool; takes the buffer's memory. */
int jsonpath_keep(struct jsonpath_walk *walk, struct buffer *text, struct json_value *ret_value);

/* The last member of this name, an element (below 0: from the end): false, with type JSON_ABSENT, without.
 * How many there are. */
bool jsonpath_member(const struct json_value *object, const struct jsonpath_name *name,
                     struct json_value *ret_value);
bool jsonpath_element(const struct json_value *array, int64_t index, struct json_value *ret_value);
int64_t jsonpath_count(const struct json_value *container);

/* What segments lead to; type JSON_ABSENT: nowhere. */
int jsonpath_read_segments(struct jsonpath_walk *walk, const struct jsonpath_segments *path,
                           const struct json_value *from, struct json_value *ret_value);
/* Whether an expression holds for `here` (@). */
int jsonpath_holds(struct jsonpath_walk *walk, const struct jsonpath_expression *expression,
                   const struct json_value *here, bool *ret_holds);
