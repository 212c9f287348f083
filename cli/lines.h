/* Lines of a file or a pipe, without waiting for more than there is; or one text, many times. Thread: main.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buffer.h"

struct error;

#define LINES_MAX (2u << 20) /* bytes of a line */

enum { LINES_LATER = 1, LINES_END = 2 };

struct lines {
    int fd;             /* -1: the text */
    bool own_fd;        /* to be closed */
    bool end;           /* nothing more to read */
    struct buffer text; /* what was read and not yet given, from at on; or the text to repeat */
    size_t at;
    size_t searched; /* no line feed between at and here */
    uint64_t number; /* of the last line given */
    uint64_t repeat; /* how often the text is still to be given */
    off_t size;      /* bytes of a regular file; 0: not known */
    off_t taken;     /* bytes given so far */
};

/* "-": standard input. */
int lines_open(struct lines *lines, const char *path, struct error *err);
/* Repeats one line; text is copied. */
void lines_repeat(struct lines *lines, const char *text, uint64_t times);
void lines_done(struct lines *lines);
/* 0 with the next line that is not blank, without its line feed (valid until the next call); LINES_LATER:
 * nothing there now, poll fd; LINES_END. Errors: ERROR_SYSTEM, ERROR_LIMIT (a line longer than LINES_MAX). */
int lines_next(struct lines *lines, const char **ret_line, size_t *ret_len, struct error *err);
