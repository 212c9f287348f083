/* A parsed path: for jsonpath.c and its parser only. Everything lies in the path's pool. */
#pragma once

#include "common/json.h"
#include "common/jsonpath.h"
#include "common/pool.h"

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
