/* See lines.h. */
#include "cli/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"

#define CHUNK (256u << 10)

int lines_open(struct lines *lines, const char *path, struct error *err)
{
    struct stat st;
    *lines = (struct lines){.fd = STDIN_FILENO, .text = BUFFER_INIT};
    if (strcmp(path, "-") != 0) {
        lines->fd = open(path, O_RDONLY | O_CLOEXEC);
        if (lines->fd < 0)
            return error_set_errno(err, errno, "%s cannot be read", path);
        lines->own_fd = true;
    }
    if (fstat(lines->fd, &st) == 0 && S_ISREG(st.st_mode))
        lines->size = st.st_size;
    return 0;
}

void lines_repeat(struct lines *lines, const char *text, uint64_t times)
{
    *lines = (struct lines){.fd = -1, .text = BUFFER_INIT, .repeat = times};
    buffer_append_text(&lines->text, text);
}

void lines_done(struct lines *lines)
{
    if (lines->own_fd)
        close(lines->fd);
    buffer_done(&lines->text);
}

static int repeat(struct lines *lines, const char **ret_line, size_t *ret_len, struct error *err)
{
    if (lines->text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (lines->repeat == 0)
        return LINES_END;
    lines->repeat--;
    lines->number++;
    *ret_line = lines->text.data;
    *ret_len = lines->text.len;
    return 0;
}

/* Reads once. 0, LINES_LATER or an error; at the end of the file lines->end is set. */
static int read_more(struct lines *lines, struct error *err)
{
    struct pollfd ready = {.fd = lines->fd, .events = POLLIN};
    if (poll(&ready, 1, 0) == 0)
        return LINES_LATER;
    buffer_consume(&lines->text, lines->at);
    lines->searched -= lines->at;
    lines->at = 0;
    char *room = buffer_reserve(&lines->text, CHUNK);
    if (!room)
        return error_set(err, ERROR_MEMORY, "out of memory");
    ssize_t n = read(lines->fd, room, CHUNK);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? LINES_LATER
                                                 : error_set_errno(err, errno, "the events cannot be read");
    lines->text.len += (size_t)n;
    lines->end = n == 0;
    return 0;
}

static bool blank(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r')
            return false;
    return true;
}

/* A whole line in what was read; NULL without. */
static const char *take_line(struct lines *lines, size_t *ret_len)
{
    if (lines->at == lines->text.len)
        return NULL;
    const char *start = lines->text.data + lines->at;
    const char *from = lines->text.data + lines->searched, *end = lines->text.data + lines->text.len;
    const char *feed = memchr(from, '\n', (size_t)(end - from));
    if (!feed && !lines->end) {
        lines->searched = lines->text.len;
        return NULL;
    }
    *ret_len = (size_t)((feed ? feed : end) - start);
    lines->at += *ret_len + (feed != NULL);
    lines->searched = lines->at;
    lines->taken += (off_t)(*ret_len + (feed != NULL));
    lines->number++;
    return start;
}

int lines_next(struct lines *lines, const char **ret_line, size_t *ret_len, struct error *err)
{
    if (lines->fd < 0)
        return repeat(lines, ret_line, ret_len, err);
    for (;;) {
        const char *line = take_line(lines, ret_len);
        if (line && *ret_len > LINES_MAX)
            return error_set(err, ERROR_LIMIT, "line %llu is longer than 2 MiB",
                             (unsigned long long)lines->number);
        if (line && blank(line, *ret_len))
            continue;
        if (line) {
            *ret_line = line;
            return 0;
        }
        if (lines->end)
            return LINES_END;
        if (lines->text.len - lines->at > LINES_MAX)
            return error_set(err, ERROR_LIMIT, "line %llu is longer than 2 MiB",
                             (unsigned long long)lines->number + 1);
        int r = read_more(lines, err);
        if (r != 0)
            return r;
    }
}
