/* A path of a state: $... in its input, $$... in the context object. Thread: any (immutable). */
#pragma once

#include <stddef.h>

struct error;
struct evaluation;
struct json_value;
struct path;

/* Errors: ERROR_INVALID with the path; variables ($name) are not supported. */
int path_parse(const char *text, size_t len, struct path **ret_path, struct error *err);
/* From a JSON string. */
int path_load(const struct json_value *string, struct path **ret_path, struct error *err);
void path_free(struct path *path); /* NULL is fine */

/* 0, PATH_MISSING (err is left alone), or -1: ERROR_LIMIT, ERROR_MEMORY, ERROR_INVALID. */
enum { PATH_MISSING = 1 };
int path_look(const struct path *path, struct evaluation *evaluation, struct json_value *ret_value,
              struct error *err);
/* The same, but what is missing is an error: ERROR_NOT_FOUND. */
int path_read(const struct path *path, struct evaluation *evaluation, struct json_value *ret_value,
              struct error *err);

const char *path_text(const struct path *path);
