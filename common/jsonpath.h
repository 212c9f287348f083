/* JSONPath as the States Language has it (Amazon's service uses Jayway's JsonPath): parsed once, evaluated on
 * values in place.
 *
 *     $  .name  ['name']  ['a','b']  [0]  [-1]  [0,2]  [1:3]  [*]  .*  ..name  ..*  ..[...]  [?(expression)]
 *     and at the end .length()  .min()  .max()  .avg()  .sum()  .stddev()  .keys()  .first()  .last()
 *
 * Expressions: paths from @ (the element) and $ (the document), literals, == != < <= > >= in nin subsetof
 * anyof noneof contains size empty, && || ! and parentheses. Regular expressions (=~) are refused: their
 * running time has no bound. Slices have no step.
 *
 * A path is definite when it leads to one value at most: then it yields that value, and it is an outcome of
 * its own when there is none. Any other path yields an array of what matches, in the order of the document,
 * [] when nothing does. Several names at the end (['a','b']) are definite: an object of those that are there.
 *
 * The time of an evaluation is bounded by the steps that it is given, its depth by that of JSON and the
 * length of the path. Thread: any (a path is immutable). Fuzzed: tests/fuzz. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct json_value;
struct jsonpath;
struct pool;

#define JSONPATH_MAX_LENGTH 8192   /* bytes of a path */
#define JSONPATH_STEPS (16u << 20) /* a bound for one evaluation: some ten milliseconds */

/* Errors: ERROR_INVALID with the path and the place in it, ERROR_MEMORY. */
int jsonpath_parse(const char *text, size_t len, struct jsonpath **ret_path, struct error *err);
void jsonpath_free(struct jsonpath *path); /* NULL is fine */

const char *jsonpath_text(const struct jsonpath *path);
bool jsonpath_is_definite(const struct jsonpath *path);
/* Whether it is a reference path (names and single indices only), which can be written to. */
bool jsonpath_is_reference(const struct jsonpath *path);

/* What the path leads to in a document. The value borrows from the document or belongs to the pool. Steps are
 * counted down. Errors: ERROR_LIMIT, ERROR_MEMORY, ERROR_INVALID (a function that cannot work on what it
 * got).
 */
enum { JSONPATH_MISSING = 1 }; /* a definite path that leads nowhere */
int jsonpath_read(const struct jsonpath *path, const struct json_value *root, struct pool *pool,
                  uint64_t *steps, struct json_value *ret_value, struct error *err);
/* The same as an array of all matches, also for a definite path. */
int jsonpath_list(const struct jsonpath *path, const struct json_value *root, struct pool *pool,
                  uint64_t *steps, struct json_value *ret_array, struct error *err);
/* Says why a definite path leads nowhere. Returns -1, with ERROR_NOT_FOUND. */
int jsonpath_explain(const struct jsonpath *path, const struct json_value *root, struct error *err);

/* The document with the value put where a reference path leads. Objects that are missing on the way are made;
 * array elements must be there. The result belongs to the pool. Errors: ERROR_INVALID: something on the way
 * is neither, or no such element; ERROR_LIMIT, ERROR_MEMORY. */
int jsonpath_put(const struct jsonpath *path, const struct json_value *root, const struct json_value *value,
                 struct pool *pool, uint64_t *steps, struct json_value *ret_document, struct error *err);
