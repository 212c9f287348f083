/* Reading an event source's parameters: members of its document's "parameters". A parameter that is absent or
 * null has its fallback. Errors: ERROR_INVALID, naming the parameter and its value, unless that is a secret;
 * ERROR_MEMORY. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct error;
struct json_value;

#define PARAMETER_SHOWN 80 /* bytes of a value, in errors */

/* Fills err: the parameter is not `wanted` ("a string"). Returns -1. */
int parameter_wrong(const char *name, const struct json_value *value, const char *wanted, struct error *err);
/* A copy of a value's text, which a number or true has, too; NULL: out of memory. */
char *parameter_copy(const struct json_value *value);
bool parameter_has_nul(const struct json_value *value);

/* fallback NULL: the parameter is needed, and not empty. A number stands for its text (the original's YAML
 * has passwords like 123456). The caller frees *ret_text. */
int parameter_text(const struct json_value *json, const char *name, const char *fallback, char **ret_text,
                   struct error *err);
/* A whole number from least to most; may be in a string, as the original's client stores some. */
int parameter_number(const struct json_value *json, const char *name, int fallback, int least, int most,
                     int *ret_number, struct error *err);
int parameter_bool(const struct json_value *json, const char *name, bool fallback, bool *ret_flag,
                   struct error *err);
