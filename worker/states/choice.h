/* A choice rule of the States Language: comparisons of what paths lead to, under And, Or and Not. Members
 * that belong to the Choice state (Next, Comment, Assign, Output) are passed over. Thread: any (immutable).
 * Fuzzed: tests/fuzz.
 *
 * As Amazon's service has it: a comparison with a value of another type does not hold; a variable that leads
 * nowhere is an error, but for IsPresent; the right side of a ...Path comparison must be there and of the
 * type that the operator compares; And and Or stop at the first rule that decides. */
#pragma once

struct choice;
struct error;
struct evaluation;
struct json_value;

/* Errors: ERROR_INVALID with the operator or member, ERROR_MEMORY. */
int choice_load(const struct json_value *rule, struct choice **ret_choice, struct error *err);
void choice_free(struct choice *choice); /* NULL is fine */

/* 0: it does not hold; CHOICE_HOLDS; -1: ERROR_NOT_FOUND, ERROR_INVALID, ERROR_LIMIT, ERROR_MEMORY. */
enum { CHOICE_HOLDS = 1 };
int choice_evaluate(const struct choice *choice, struct evaluation *evaluation, struct error *err);
