/* Reading documents of people: YAML or JSON into JSON values (json-c).
 *
 * YAML 1.1 as people expect it: quoted scalars are text; plain ones become null, booleans (true, yes, on and
 * their opposites) and numbers; what only YAML takes for a number (012, 12:30, 1_000) stays text. Anchors and
 * aliases are allowed, tags, merge keys, duplicate keys and several documents are not. Everything is bounded.
 * Thread: any. Fuzzed: tests/fuzz. */
#pragma once

#include <stddef.h>

struct buffer;
struct error;
struct json_object;

#define DOCUMENT_MAX (16u << 20) /* bytes of a text */
#define DOCUMENT_VALUES_MAX 2000000u
#define DOCUMENT_DEPTH_MAX 100

/* Parses a text; name stands for it in messages, and one that ends in .json must be JSON. *ret_value (owned;
 * NULL for the JSON value null) is to be given to json_object_put. Errors: ERROR_INVALID with name and line,
 * ERROR_LIMIT, ERROR_MEMORY. */
int document_parse(const char *name, const char *text, size_t len, struct json_object **ret_value,
                   struct error *err);
/* Reads a whole file, or standard input for "-", up to max bytes. */
int document_read_text(const char *path, size_t max, struct buffer *ret_text, struct error *err);
/* Both. */
int document_read(const char *path, struct json_object **ret_value, struct error *err);

/* Appends a value as JSON with the members of all objects in the order of their names. */
void document_canonical(struct json_object *value, struct buffer *out);
