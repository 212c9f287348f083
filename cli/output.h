/* What commands print: texts from elsewhere made safe for a terminal, JSON without secrets. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cli;
struct json_object;

/* Appends text as UTF-8 that does nothing to a terminal: control characters and what is no UTF-8 become '?'.
 */
void output_append_safe(struct buffer *out, const char *text);

/* Replaces the values of members that are secrets by their names (password, api_key, ...), and passwords
 * within URLs, by ********, anywhere in a document. */
void output_redact(struct json_object *value);

/* Prints a document: on one line with --json, else indented. CLI_OK, or CLI_FAILED. */
int output_document(const struct cli *cli, struct json_object *value);

/* A member of an object, NULL when absent or null, or value is no object. */
struct json_object *output_member(struct json_object *value, const char *name);
/* A member as text; "" when absent. */
const char *output_text(struct json_object *value, const char *name);
/* Elements of an array; 0 for anything else. */
size_t output_length(struct json_object *value);

/* 1234567 as "1,234,567". Returns to. */
const char *output_count(uint64_t n, char to[32]);
/* 1234567 as "1.2M". Returns to. */
const char *output_short(double value, char to[16]);

/* Prints a line of text that comes from elsewhere. */
void output_line(const char *text);
/* Prints an answer's message, or with --json the answer. */
int output_message(const struct cli *cli, struct json_object *answer);
/* One call whose answer is a message. Borrows body. */
int output_call(struct cli *cli, const char *method, struct buffer *path, struct json_object *body);
