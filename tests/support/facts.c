#include "tests/support/facts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 40

void facts_add(struct facts *facts, const char *format, ...)
{
    va_list args;
    if (facts->n == facts->cap) {
        facts->cap = facts->cap ? facts->cap * 2 : 256;
        char **lines = realloc(facts->lines, facts->cap * sizeof *lines);
        if (!lines)
            abort();
        facts->lines = lines;
    }
    va_start(args, format);
    if (vasprintf(&facts->lines[facts->n], format, args) < 0)
        abort();
    va_end(args);
    facts->n++;
}

void facts_done(struct facts *facts)
{
    for (size_t i = 0; i < facts->n; i++)
        free(facts->lines[i]);
    free(facts->lines);
    *facts = (struct facts){0};
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort(struct facts *facts)
{
    if (facts->n)
        qsort(facts->lines, facts->n, sizeof *facts->lines, compare);
}

size_t facts_compare(struct facts *expected, struct facts *actual)
{
    size_t differences = 0;
    sort(expected);
    sort(actual);
    for (size_t i = 0, j = 0; i < expected->n || j < actual->n;) {
        int order = i == expected->n ? 1 : j == actual->n ? -1 : strcmp(expected->lines[i], actual->lines[j]);
        if (order && differences++ < SHOWN)
            fprintf(stderr, "%s %.300s\n", order < 0 ? "missing:   " : "unexpected:",
                    order < 0 ? expected->lines[i] : actual->lines[j]);
        i += order <= 0;
        j += order >= 0;
    }
    return differences;
}
