#include "worker/source/kafka_partitions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

static const struct kafka_partition not_begun = {.next = KAFKA_NO_OFFSET,
                                                 .last = KAFKA_NO_OFFSET,
                                                 .timestamp = -1,
                                                 .delivered = KAFKA_NO_OFFSET,
                                                 .high = KAFKA_NO_OFFSET,
                                                 .retrace = KAFKA_NO_OFFSET,
                                                 .traced = KAFKA_NO_OFFSET};

/* Record n is at n % KAFKA_TRAIL. */
struct kafka_trail {
    struct {
        int64_t offset; /* KAFKA_NO_OFFSET: none */
        int64_t timestamp;
    } steps[KAFKA_TRAIL];
};

void kafka_partitions_done(struct kafka_partitions *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->list[i].trail);
    free(p->list);
    *p = (struct kafka_partitions){0};
}

int kafka_partitions_resize(struct kafka_partitions *p, size_t n, struct error *err)
{
    if (n > KAFKA_PARTITIONS_MAX)
        return error_set(err, ERROR_LIMIT, "%zu partitions, more than %d", n, KAFKA_PARTITIONS_MAX);
    if (n > p->n) {
        struct kafka_partition *list = realloc(p->list, n * sizeof *list);
        if (!list)
            return error_set(err, ERROR_MEMORY, "out of memory");
        p->list = list;
    }
    for (size_t i = p->n; i < n; i++)
        p->list[i] = not_begun;
    p->n = n;
    return 0;
}

/* --- one --- */

void kafka_partition_begin(struct kafka_partition *p, int64_t offset)
{
    free(p->trail);
    *p = not_begun;
    p->next = p->delivered = offset;
}

static struct kafka_trail *trail_new(void)
{
    struct kafka_trail *trail = malloc(sizeof *trail);
    for (size_t i = 0; trail && i < KAFKA_TRAIL; i++)
        trail->steps[i].offset = KAFKA_NO_OFFSET;
    return trail;
}

void kafka_partition_delivered(struct kafka_partition *p, size_t number, int64_t offset, int64_t timestamp)
{
    int64_t gap = offset - p->last < KAFKA_TRAIL ? p->last + 1 : offset - KAFKA_TRAIL + 1;
    p->last = offset;
    p->timestamp = timestamp;
    p->next = p->delivered = offset + 1;
    if (!p->trail && (number >= KAFKA_TRAILS || !(p->trail = trail_new())))
        return;
    for (; gap < offset; gap++) /* no events are there, and what had their places is too old */
        p->trail->steps[gap % KAFKA_TRAIL].offset = KAFKA_NO_OFFSET;
    p->trail->steps[offset % KAFKA_TRAIL].offset = offset;
    p->trail->steps[offset % KAFKA_TRAIL].timestamp = timestamp;
}

bool kafka_partition_retrace(struct kafka_partition *p, int64_t low, int64_t high)
{
    p->retrace = p->traced = KAFKA_NO_OFFSET;
    for (size_t i = 0; p->trail && i < KAFKA_TRAIL; i++) {
        int64_t offset = p->trail->steps[i].offset;
        if (offset >= low && offset < high && (p->retrace < 0 || offset < p->retrace))
            p->retrace = offset;
    }
    return p->retrace >= 0;
}

bool kafka_partition_is_traced(struct kafka_partition *p, int64_t offset, int64_t timestamp)
{
    if (p->trail->steps[offset % KAFKA_TRAIL].offset != offset ||
        p->trail->steps[offset % KAFKA_TRAIL].timestamp != timestamp || timestamp < 0)
        return false;
    p->traced = offset;
    p->traced_timestamp = timestamp;
    return true;
}

void kafka_partition_go_on(struct kafka_partition *p, int64_t offset)
{
    for (size_t i = 0; i < KAFKA_TRAIL; i++)
        if (p->trail->steps[i].offset >= offset)
            p->trail->steps[i].offset = KAFKA_NO_OFFSET;
    p->last = p->traced;
    p->timestamp = p->traced_timestamp;
    p->next = p->delivered = offset;
    p->retrace = p->traced = KAFKA_NO_OFFSET;
}

/* --- the stored form --- */

void kafka_partitions_write(const struct kafka_partitions *p, struct buffer *out)
{
    bool first = true;
    buffer_append_text(out, "\"partitions\":{");
    for (size_t i = 0; i < p->n; i++) {
        const struct kafka_partition *one = &p->list[i];
        if (one->next < 0)
            continue;
        buffer_printf(out, "%s\"%zu\":[%lld,%lld,%lld]", first ? "" : ",", i, (long long)one->next,
                      (long long)one->last, (long long)one->timestamp);
        first = false;
    }
    buffer_append_char(out, '}');
}

static bool read_index(const struct json_value *name, size_t *ret_index)
{
    size_t index = 0;
    for (size_t i = 0; i < name->len; i++) {
        if (name->text[i] < '0' || name->text[i] > '9' || index > KAFKA_PARTITIONS_MAX)
            return false;
        index = index * 10 + (size_t)(name->text[i] - '0');
    }
    *ret_index = index;
    return name->len && index < KAFKA_PARTITIONS_MAX;
}

static bool read_numbers(const struct json_value *array, int64_t numbers[3])
{
    struct json_iter iter;
    struct json_value name, value;
    int n = 0;
    if (array->type != JSON_ARRAY)
        return false;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, &value))
        if (n == 3 || value.type != JSON_NUMBER || !json_integer(&value, &numbers[n++]))
            return false;
    return n == 3 && numbers[0] >= 0 && numbers[1] >= -1 && numbers[1] < numbers[0];
}

int kafka_partitions_read(struct kafka_partitions *p, const struct json_value *partitions, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    if (partitions->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "member partitions is %s, not an object",
                         json_type_name(partitions->type));
    json_iter_init(&iter, partitions);
    while (json_next(&iter, &name, &value)) {
        size_t index;
        int64_t numbers[3];
        if (!read_index(&name, &index) || !read_numbers(&value, numbers))
            return error_set(err, ERROR_INVALID, "partition %.*s has no position",
                             (int)(name.len < 20 ? name.len : 20), name.text);
        if (index >= p->n && kafka_partitions_resize(p, index + 1, err) < 0)
            return -1;
        p->list[index] = not_begun;
        p->list[index].next = p->list[index].delivered = numbers[0];
        p->list[index].last = numbers[1];
        p->list[index].timestamp = numbers[2];
    }
    return 0;
}

/* --- adoption --- */

/* Takes "digits" off the text. */
static bool take_number(const char **text, int64_t *ret_number)
{
    char *end;
    if (**text < '0' || **text > '9')
        return false;
    errno = 0;
    *ret_number = strtoll(*text, &end, 10);
    *text = end;
    return !errno;
}

/* The next "partition:offset" of the list; false at its end, or where it is none. */
static bool take_pair(const char **text, int64_t *ret_partition, int64_t *ret_offset)
{
    if (!take_number(text, ret_partition) || *(*text)++ != ':' || !take_number(text, ret_offset))
        return false;
    if (**text && (*(*text)++ != ',' || !**text))
        return false;
    return *ret_partition < KAFKA_PARTITIONS_MAX;
}

int kafka_from_read(const char *text, enum kafka_from *ret_from, struct error *err)
{
    int64_t partition, offset;
    const char *at = text;
    if (!strcmp(text, "beginning") || !strcmp(text, "end")) {
        *ret_from = *text == 'e' ? KAFKA_FROM_END : KAFKA_FROM_BEGINNING;
        return 0;
    }
    do {
        if (!take_pair(&at, &partition, &offset))
            return error_set(err, ERROR_INVALID,
                             "%.80s is neither beginning, end nor partition:offset,partition:offset…", text);
    } while (*at);
    *ret_from = KAFKA_FROM_LIST;
    return 0;
}

int64_t kafka_from_offset(const char *text, size_t partition)
{
    int64_t number, offset;
    while (*text && take_pair(&text, &number, &offset))
        if ((size_t)number == partition)
            return offset;
    return KAFKA_NO_OFFSET;
}
