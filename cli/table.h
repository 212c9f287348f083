/* A table for people: columns aligned by what a terminal shows (UTF-8), cut to its width. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/buffer.h"

#define TABLE_COLUMNS_MAX 16

struct table {
    const char *headers[TABLE_COLUMNS_MAX]; /* a leading '>' aligns the column to the right */
    size_t n_columns;
    struct buffer text; /* the cells, NUL-terminated, row by row */
    size_t n_cells;
};

/* headers: NULL-terminated, borrowed. */
void table_init(struct table *table, const char *const *headers);
void table_done(struct table *table);
/* Adds one cell, which is copied; control characters and bytes that are no UTF-8 become '?'. Cells fill rows
 * from the left. */
void table_cell(struct table *table, const char *text);
void table_cell_printf(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Appends the table; width: columns of the terminal, 0: no limit. The widest columns are cut first. */
void table_write(const struct table *table, size_t width, struct buffer *out);
/* Prints it, at the width of the terminal if there is one. 0, or -1 when memory ran out. */
int table_print(const struct table *table, FILE *file);

/* How many columns a terminal uses for len bytes of valid UTF-8. */
size_t table_width(const char *text, size_t len);
/* The width of the terminal behind a descriptor; 0: none. */
size_t table_terminal_width(int fd);
