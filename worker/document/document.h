/* The JSON document of an action or a condition: a copy of its own, and reading members of it, whose errors
 * name the member and its value. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/json.h"

struct error;

struct document {
    char *text;
    struct json_value root; /* borrows text, as do all values below it */
};

/* Copies the value. Errors: ERROR_MEMORY, ERROR_INVALID. */
int document_init(struct document *document, const struct json_value *value, struct error *err);
void document_done(struct document *document); /* also of one whose init has failed, or that was zeroed */

/* Fills err, ERROR_INVALID: the member is missing, or is not `wanted` ("a text"). Returns -1. */
int document_wrong(const char *member, const struct json_value *value, const char *wanted, struct error *err);
/* Whether there is the member; null is as if it were absent (JSON_ABSENT). */
bool document_member(const struct json_value *object, const char *member, struct json_value *ret_value);

/* A member of this type (JSON_ABSENT: any) whose paths (worker/document/template.h) are well-formed;
 * JSON_ABSENT without it. Errors: ERROR_INVALID. */
int document_template(const struct json_value *object, const char *member, enum json_type type,
                      const char *wanted, struct json_value *ret_value, struct error *err);
/* A whole number from least to most; without it *ret_count stays. Errors: ERROR_INVALID. */
int document_count(const struct json_value *object, const char *member, int64_t least, int64_t most,
                   const char *wanted, int64_t *ret_count, struct error *err);
