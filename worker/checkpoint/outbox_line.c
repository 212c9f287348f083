#include "worker/checkpoint/outbox_line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- positions --- */

bool position_read(const char *field, size_t len, struct position *ret_position)
{
    char text[INTENT_FIELD_MAX];
    char again[INTENT_FIELD_MAX];
    char *end;
    struct position p = {0};
    if (len >= sizeof text)
        return false;
    memcpy(text, field, len);
    text[len] = '\0';
    p.epoch = strtoull(text, &end, 10);
    if (*end == '-') {
        p.shard = (uint16_t)strtoul(end + 1, &end, 10);
        if (*end == '-')
            p.number = (uint32_t)strtoul(end + 1, &end, 10);
    }
    p.fans_out = *end == INTENT_FANS_OUT;
    position_write(&p, again);
    if (!p.epoch || strcmp(text, again) != 0)
        return false;
    *ret_position = p;
    return true;
}

void position_write(const struct position *position, char ret_field[INTENT_FIELD_MAX])
{
    int n = snprintf(ret_field, INTENT_FIELD_MAX, "%020llu-%02u-%08u", (unsigned long long)position->epoch,
                     position->shard, position->number);
    if (!position->fans_out)
        return;
    ret_field[n] = INTENT_FANS_OUT;
    ret_field[n + 1] = '\0';
}

int position_compare(const struct position *a, const struct position *b)
{
    if (a->epoch != b->epoch)
        return a->epoch < b->epoch ? -1 : 1;
    if (a->shard != b->shard)
        return a->shard < b->shard ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

/* --- what waits --- */

struct line *line_new(const char *trigger, size_t len)
{
    struct line *line = calloc(1, sizeof *line + len + 1);
    if (!line)
        return NULL;
    memcpy(line->trigger, trigger, len);
    line->len = len;
    line->uncertain.epoch = UINT64_MAX;
    return line;
}

void line_free(struct line *line)
{
    if (line)
        free(line->waiting);
    free(line);
}

size_t line_waiting(const struct line *line)
{
    return line->n - line->first;
}

bool line_is_clear(const struct line *line)
{
    return line->first == line->n && !line->starting;
}

/* What has been handed over makes way once it is half of the space, so that a line which is never empty stays
 * as long as what waits in it. */
static void make_space(struct line *line)
{
    if (line->first && line->first >= line->n / 2) {
        line->n -= line->first;
        memmove(line->waiting, line->waiting + line->first, line->n * sizeof *line->waiting);
        line->first = 0;
    }
    if (line->n < line->cap)
        return;
    size_t cap = line->cap ? line->cap * 2 : 64;
    struct position *waiting = realloc(line->waiting, cap * sizeof *waiting);
    if (!waiting)
        abort();
    line->waiting = waiting;
    line->cap = cap;
}

void line_wait(struct line *line, const struct position *position)
{
    if (line->n == line->cap)
        make_space(line);
    line->waiting[line->n++] = *position;
}

static int compare(const void *a, const void *b)
{
    return position_compare(a, b);
}

void line_sort(struct line *line)
{
    struct position *p = line->waiting;
    size_t kept = line->first;
    if (line_waiting(line) > 1)
        qsort(p + line->first, line_waiting(line), sizeof *p, compare);
    for (size_t i = line->first; i < line->n; i++)
        if (i == line->first || position_compare(&p[kept - 1], &p[i]) != 0)
            p[kept++] = p[i];
    line->n = kept;
}

const struct position *line_next(const struct line *line)
{
    return !line->starting && line->planned < line->allowed ? &line->waiting[line->first + line->planned]
                                                            : NULL;
}

/* --- its share --- */

bool line_has_room(const struct line *line, uint64_t free_places)
{
    return line->held < free_places;
}

size_t line_room(const struct line *line, uint64_t free_places)
{
    return line->held < free_places ? (size_t)(free_places - line->held + 1) / 2 : 0;
}
