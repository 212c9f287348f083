/* Reading JSON in place: full RFC 8259 and UTF-8 validation in one pass, spans into the text, no allocation.
 *
 * json_scan() validates a whole text; everything else works on values that it has returned (validated text),
 * and so cannot fail on syntax. Lone surrogates in \u escapes are refused, as is nesting deeper than
 * JSON_MAX_DEPTH. What comes from outside is nested no deeper than JSON_DATA_DEPTH: it is kept inside of
 * documents of ours, which must be readable, too. Thread: any. Fuzzed: tests/fuzz. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;

#define JSON_MAX_DEPTH 320
#define JSON_DATA_DEPTH 255 /* of an event's data */

enum json_type {
    JSON_ABSENT,
    JSON_NULL,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

/* A value inside a validated text, which it borrows. */
struct json_value {
    const char *text; /* a string's text is what stands between its quotes, still escaped */
    size_t len;
    enum json_type type;
    bool escaped; /* a string that contains a backslash */
};

#define JSON_MEMBERS_MAX 24 /* that are put down; most objects from outside have fewer */

/* The members of an object, as json_next returns them. */
struct json_members {
    size_t n; /* above JSON_MEMBERS_MAX: there are more than are put down here */
    struct json_value name[JSON_MEMBERS_MAX];
    struct json_value value[JSON_MEMBERS_MAX];
};

/* Iteration over the members of an object or the elements of an array. */
struct json_iter {
    const char *at;
    const char *end;
    bool object;
    bool unread; /* at a container that json_next_open has returned */
};

/* Validates the whole text and returns its value. Errors: ERROR_INVALID with what is wrong and the byte
 * offset. */
int json_scan(const char *text, size_t len, struct json_value *ret_value, struct error *err);
/* The same, but nested no deeper than that. */
int json_scan_within(const char *text, size_t len, unsigned depth, struct json_value *ret_value,
                     struct error *err);
/* The same, and puts down the members, if it is an object: for one who wants them all, in the same pass. */
int json_scan_members(const char *text, size_t len, unsigned depth, struct json_value *ret_value,
                      struct json_members *ret_members, struct error *err);
/* Whether a value is nested deeper than that. */
bool json_is_deeper(const struct json_value *value, unsigned depth);

void json_iter_init(struct json_iter *iter, const struct json_value *container);
/* The next member (name and value) or element (name->type JSON_ABSENT); false at the end. Duplicate names are
 * returned as they stand. */
bool json_next(struct json_iter *iter, struct json_value *ret_name, struct json_value *ret_value);

/* The same for one who goes through a large text once: of a container only the bracket is looked at (its len
 * is 1). It may be opened before the next call, and is skipped otherwise; when `inner` has come to its end,
 * json_close moves `iter` behind it. */
bool json_next_open(struct json_iter *iter, struct json_value *ret_name, struct json_value *ret_value);
void json_open(const struct json_iter *iter, struct json_iter *ret_inner);
void json_close(struct json_iter *iter, const struct json_iter *inner);

/* Whether a string value, once unescaped, equals name. */
bool json_equals(const struct json_value *string, const char *name, size_t len);
/* The last member with this name (the meaning most parsers give duplicates); false and type JSON_ABSENT
 * without. */
bool json_member(const struct json_value *object, const char *name, struct json_value *ret_value);
/* Appends a string value's text, unescaped (UTF-8). */
void json_unescape(const struct json_value *string, struct buffer *out);
/* A number that is a whole number within int64 (1000, 1e3 and 1000.0 are all 1000); false otherwise. */
bool json_integer(const struct json_value *number, int64_t *ret_value);
/* The raw text of the value as it stood, for strings with the quotes. */
const char *json_raw(const struct json_value *value, size_t *ret_len);
const char *json_type_name(enum json_type type);

/* Whether n bytes are valid UTF-8 (RFC 3629). */
bool utf8_valid(const char *text, size_t n);
/* Appends text from outside as a JSON string; what is not UTF-8 as {"base64":"..."}. */
void json_append_bytes(struct buffer *out, const char *text, size_t n);
