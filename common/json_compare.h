/* Comparing JSON values by their meaning. Work is bounded: every function takes the steps (bytes looked at)
 * that are left and counts them down. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct error;
struct json_value;

/* Counts n steps down. Errors: ERROR_LIMIT when there are too few left. */
int json_work(uint64_t *steps, uint64_t n, struct error *err);

/* Whether two values are the same: members in any order, numbers by value. Of duplicate names the last
 * counts. Errors: ERROR_LIMIT, ERROR_MEMORY. */
int json_same(const struct json_value *a, const struct json_value *b, uint64_t *steps, bool *ret_same,
              struct error *err);

/* Two strings by Unicode code units of UTF-16 (as Java and JavaScript order them): below, equal to or above
 * 0. Errors: ERROR_MEMORY. */
int json_string_order(const struct json_value *a, const struct json_value *b, int *ret_order,
                      struct error *err);

/* Two numbers: whole ones within int64 exactly, all others as doubles. */
int json_number_order(const struct json_value *a, const struct json_value *b);
/* The nearest double. */
double json_double(const struct json_value *number);
