/* Taking secrets out of what people and logs get to see: of JSON documents, those members whose names say
 * that they hold one (password, token, api_key, authorization, ...), whatever they hold; of URLs, the
 * password and those parameters of the query. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct buffer;
struct json_value;

#define REDACTED "(redacted)"

/* Whether a member, header or parameter of this name holds a secret. */
bool redact_is_secret(const char *name, size_t len);
/* The same of a member's name as it stands in JSON, where a character may be escaped. */
bool redact_names_secret(const struct json_value *name);
/* Appends the value without its secrets. References to secrets, {"file"|"env"|"global": name}, are none. but:
 * what members of this name hold stays as it is; NULL: there are none. */
void redact_json(const struct json_value *value, const char *but, struct buffer *out);
/* Appends the value of a member of this name. */
void redact_member(const struct json_value *name, const struct json_value *value, struct buffer *out);
/* Appends the URL without its secrets. */
void redact_url(const char *url, size_t len, struct buffer *out);
