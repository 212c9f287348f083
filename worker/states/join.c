#include "worker/states/join.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "worker/states/item.h"

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static void done(struct join *join)
{
    for (size_t i = 0; i < join->n; i++)
        free(join->results[i].data);
    free(join->results);
    free(join->path);
    buffer_done(&join->input);
    buffer_done(&join->state);
}

void joins_done(struct joins *joins)
{
    for (size_t i = 0; i < joins->n; i++)
        done(&joins->groups[i]);
    free(joins->groups);
    *joins = (struct joins){0};
}

static size_t bytes_of(const struct join *join)
{
    size_t bytes = join->input.len + join->state.len + join->path_len;
    for (size_t i = 0; i < join->n; i++)
        bytes += join->results[i].len;
    return bytes;
}

void joins_remove(struct joins *joins, struct join *join)
{
    size_t i = (size_t)(join - joins->groups);
    joins->bytes -= bytes_of(join);
    done(join);
    joins->n--;
    memmove(&joins->groups[i], &joins->groups[i + 1], (joins->n - i) * sizeof *joins->groups);
}

struct join *joins_find(struct joins *joins, const char *path, size_t len)
{
    for (size_t i = 0; i < joins->n; i++)
        if (joins->groups[i].path_len == len && !memcmp(joins->groups[i].path, path, len))
            return &joins->groups[i];
    return NULL;
}

/* A group that no Map has told of is of a run that is long over, or of none: the oldest such makes room. */
static int make_room(struct joins *joins, struct error *err)
{
    for (size_t i = 0; i < joins->n; i++)
        if (joins->groups[i].expected == JOIN_UNKNOWN && !joins->groups[i].closed) {
            joins_remove(joins, &joins->groups[i]);
            return 0;
        }
    return error_set(err, ERROR_LIMIT, "more than %d runs wait for results at a time", JOINS_MAX);
}

static struct join *add(struct joins *joins, const char *path, size_t len, size_t outer_len,
                        struct error *err)
{
    if (joins->n >= JOINS_MAX && make_room(joins, err) < 0)
        return NULL;
    if (joins->n == joins->cap) {
        size_t cap = joins->cap ? joins->cap * 2 : 2;
        struct join *grown = realloc(joins->groups, cap * sizeof *grown);
        if (!grown) {
            no_memory(err);
            return NULL;
        }
        joins->groups = grown;
        joins->cap = cap;
    }
    char *copy = malloc(len + 1);
    if (!copy) {
        no_memory(err);
        return NULL;
    }
    memcpy(copy, path, len);
    struct join *join = &joins->groups[joins->n++];
    *join = (struct join){.path = copy, .path_len = len, .outer_len = outer_len, .expected = JOIN_UNKNOWN};
    joins->bytes += len;
    return join;
}

struct join *joins_open(struct joins *joins, const char *path, size_t len, size_t outer_len,
                        struct error *err)
{
    struct join *present = joins_find(joins, path, len);
    return present ? present : add(joins, path, len, outer_len, err);
}

struct join *joins_oldest(struct joins *joins, bool open)
{
    for (size_t i = 0; i < joins->n; i++) {
        struct join *join = &joins->groups[i];
        if (join->outer_len < join->path_len && !join_is_complete(join) && !(open && join->closed))
            return join;
    }
    return NULL;
}

/* Makes room for another one that is closed: drops the oldest. Where the one at this place is then. */
static size_t bound_closed(struct joins *joins, size_t at)
{
    size_t n = 1;
    for (size_t i = 0; i < joins->n; i++)
        n += joins->groups[i].closed;
    for (size_t i = 0; i < joins->n && n > JOINS_MAX_CLOSED; i++)
        if (joins->groups[i].closed) {
            at -= i < at;
            joins_remove(joins, &joins->groups[i--]);
            n--;
        }
    return at;
}

void joins_close(struct joins *joins, struct join **join)
{
    struct join *j = *join;
    joins->bytes -= j->input.len + j->state.len;
    buffer_done(&j->input);
    buffer_done(&j->state);
    for (size_t i = 0; i < j->n; i++) {
        joins->bytes -= j->results[i].len;
        free(j->results[i].data);
        j->results[i].data = NULL;
        j->results[i].len = 0;
    }
    *join = &joins->groups[bound_closed(joins, (size_t)(j - joins->groups))];
    (*join)->closed = true;
}

/* Where the place is, or would be: behind others of the same place. */
static size_t find(const struct join *join, int64_t place)
{
    size_t low = 0;
    size_t high = join->n;
    if (high && join->results[high - 1].place <= place)
        return high;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (join->results[middle].place <= place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool has(const struct join *join, int64_t place)
{
    size_t at = find(join, place);
    return at && join->results[at - 1].place == place;
}

static struct join *next_of(struct joins *joins, const char *path, size_t len, const int64_t *place)
{
    for (size_t i = 0; i < joins->n; i++) {
        struct join *join = &joins->groups[i];
        if (join->path_len == len && !memcmp(join->path, path, len) &&
            (!join->closed || (place && !has(join, *place))))
            return join;
    }
    return NULL;
}

struct join *joins_expecting(struct joins *joins, const char *path, size_t len, size_t outer_len,
                             int64_t place, struct error *err)
{
    struct join *join = next_of(joins, path, len, &place);
    return join ? join : add(joins, path, len, outer_len, err);
}

struct join *joins_begin(struct joins *joins, const char *path, size_t len, size_t outer_len,
                         struct error *err)
{
    struct join *join = next_of(joins, path, len, NULL);
    return join ? join : add(joins, path, len, outer_len, err);
}

int join_add(struct joins *joins, struct join *join, int64_t place, bool once, const char *data, size_t len,
             struct error *err)
{
    size_t at = find(join, place);
    if (once && ((at && join->results[at - 1].place == place) ||
                 (join->expected != JOIN_UNKNOWN && place >= join->expected)))
        return JOIN_REPEAT;
    if (joins->bytes + len > JOINS_MAX_BYTES || join->n == JOIN_MAX_RESULTS)
        return error_set(err, ERROR_LIMIT, "the results would need more than %u bytes, or are more than %d",
                         JOINS_MAX_BYTES, JOIN_MAX_RESULTS);
    if (join->n == join->cap) {
        size_t cap = join->cap ? join->cap * 2 : 4;
        struct join_result *grown = realloc(join->results, cap * sizeof *grown);
        if (!grown)
            return no_memory(err);
        join->results = grown;
        join->cap = cap;
    }
    len = join->closed ? 0 : len;
    char *copy = join->closed ? NULL : strndup(data, len);
    if (!copy && !join->closed)
        return no_memory(err);
    memmove(&join->results[at + 1], &join->results[at], (join->n - at) * sizeof *join->results);
    join->results[at] = (struct join_result){.place = place, .data = copy, .len = len};
    join->n++;
    joins->bytes += len;
    return 0;
}

int64_t join_free_place(const struct join *join)
{
    size_t low = 0; /* places are different: the first gap is where place > index */
    size_t high = join->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (join->results[middle].place == (int64_t)middle)
            low = middle + 1;
        else
            high = middle;
    }
    return (int64_t)low;
}

bool join_is_complete(const struct join *join)
{
    return join->expected != JOIN_UNKNOWN && (int64_t)join->n >= join->expected;
}

void join_write_results(const struct join *join, struct buffer *out)
{
    buffer_append_char(out, '[');
    for (size_t i = 0; i < join->n; i++) {
        if (i)
            buffer_append_char(out, ',');
        buffer_append(out, join->results[i].data, join->results[i].len);
    }
    buffer_append_char(out, ']');
}

/* --- the context --- */

static void append_raw(struct buffer *out, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static int wrong(const char *what, struct error *err)
{
    return error_set(err, ERROR_INVALID, "context.joins: %s", what);
}

static int load_results(struct joins *joins, struct join *join, const struct json_value *array,
                        struct error *err)
{
    struct json_iter iter, of_pair;
    struct json_value name, pair, place, data;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, &pair)) {
        int64_t number;
        size_t len;
        json_iter_init(&of_pair, &pair);
        if (pair.type != JSON_ARRAY || !json_next(&of_pair, &name, &place) ||
            !json_next(&of_pair, &name, &data) || place.type != JSON_NUMBER || !json_integer(&place, &number))
            return wrong("a result is not [place, data]", err);
        const char *raw = json_raw(&data, &len);
        if (join_add(joins, join, number, false, raw, len, err) < 0)
            return -1;
    }
    return 0;
}

static int load_group(struct joins *joins, const struct json_value *group, struct error *err)
{
    struct json_value path, run, expected, results, value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (group->type != JSON_OBJECT || !json_member(group, "path", &path) || path.type != JSON_STRING ||
        !json_member(group, "results", &results) || results.type != JSON_ARRAY)
        return wrong("an element without path or results", err);
    bool is_map = json_member(group, "run", &run) && run.type == JSON_TRUE;
    json_unescape(&path, &text);
    if (text.failed)
        return no_memory(err);
    if (is_map && text.len < ITEM_RUN)
        return wrong("a path without its run", err);
    size_t outer = is_map ? text.len - ITEM_RUN - (text.len > ITEM_RUN) : text.len;
    struct join *join = add(joins, buffer_text(&text), text.len, outer, err);
    if (!join)
        return -1;
    join->closed = json_member(group, "closed", &value) && value.type == JSON_TRUE;
    if (json_member(group, "expected", &expected) &&
        (expected.type != JSON_NUMBER || !json_integer(&expected, &join->expected) ||
         join->expected < JOIN_UNKNOWN))
        return wrong("an `expected` that is not a whole number from -1", err);
    if (json_member(group, "input", &value))
        append_raw(&join->input, &value);
    if (json_member(group, "state", &value))
        append_raw(&join->state, &value);
    joins->bytes += join->input.len + join->state.len;
    if (join->input.failed || join->state.failed)
        return no_memory(err);
    return load_results(joins, join, &results, err);
}

int joins_load(struct joins *joins, const struct json_value *context, struct error *err)
{
    struct json_value array, name, group;
    struct json_iter iter;
    if (!json_member(context, "joins", &array) || array.type == JSON_NULL)
        return 0;
    if (array.type != JSON_ARRAY)
        return error_set(err, ERROR_INVALID, "context.joins is %s, not an array", json_type_name(array.type));
    json_iter_init(&iter, &array);
    while (json_next(&iter, &name, &group))
        if (load_group(joins, &group, err) < 0)
            return -1;
    return 0;
}

static void store_group(const struct join *join, struct buffer *out)
{
    buffer_append_text(out, "{\"path\":");
    buffer_append_json(out, join->path, join->path_len);
    buffer_printf(out, "%s,\"expected\":%lld", join->outer_len < join->path_len ? ",\"run\":true" : "",
                  (long long)join->expected);
    if (join->closed)
        buffer_append_text(out, ",\"closed\":true");
    if (join->input.len) {
        buffer_append_text(out, ",\"input\":");
        buffer_append(out, join->input.data, join->input.len);
    }
    if (join->state.len) {
        buffer_append_text(out, ",\"state\":");
        buffer_append(out, join->state.data, join->state.len);
    }
    buffer_append_text(out, ",\"results\":[");
    for (size_t i = 0; i < join->n; i++) {
        buffer_printf(out, "%s[%lld,", i ? "," : "", (long long)join->results[i].place);
        if (join->results[i].data)
            buffer_append(out, join->results[i].data, join->results[i].len);
        else
            buffer_append_text(out, "null");
        buffer_append_char(out, ']');
    }
    buffer_append_text(out, "]}");
}

void joins_store(const struct joins *joins, struct buffer *out)
{
    if (!joins->n)
        return;
    buffer_append_text(out, "\"joins\":[");
    for (size_t i = 0; i < joins->n; i++) {
        if (i)
            buffer_append_char(out, ',');
        store_group(&joins->groups[i], out);
    }
    buffer_append_char(out, ']');
}
