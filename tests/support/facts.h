/* A multiset of lines: what a run has left behind, or should have. Thread: main. */
#pragma once

#include <stddef.h>

struct facts {
    char **lines;
    size_t n;
    size_t cap;
};

void facts_add(struct facts *facts, const char *format, ...) __attribute__((format(printf, 2, 3)));
void facts_done(struct facts *facts);
/* How many lines differ; the first of them are printed to standard error. Sorts both. */
size_t facts_compare(struct facts *expected, struct facts *actual);
