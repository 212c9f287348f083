/* See document_yaml.h. Values are built as libyaml's events come; recursion is bounded by the depth. */
#include "cli/document_yaml.h"

#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/error.h"
#include "cli/document.h"

#define SHOWN_MAX 60

struct reader {
    yaml_parser_t parser;
    const char *name;
    struct json_object *anchors; /* name -> value; null as itself */
    size_t n_values;
    struct error *err;
};

static int fail_at(struct reader *reader, size_t line)
{
    size_t len = strlen(reader->name);
    const char *name = len > SHOWN_MAX ? reader->name + len - SHOWN_MAX : reader->name;
    return error_prefix(reader->err, "%s:%zu", name, line);
}

static int refuse(struct reader *reader, const yaml_event_t *event, const char *what)
{
    error_set(reader->err, ERROR_INVALID, "%s", what);
    return fail_at(reader, event->start_mark.line + 1);
}

static int no_memory(struct reader *reader)
{
    return error_set(reader->err, ERROR_MEMORY, "out of memory");
}

/* The next event, which the caller deletes when 0 is returned. */
static int next_event(struct reader *reader, yaml_event_t *event)
{
    const yaml_parser_t *parser = &reader->parser;
    if (yaml_parser_parse(&reader->parser, event))
        return 0;
    if (parser->error == YAML_MEMORY_ERROR)
        return no_memory(reader);
    error_set(reader->err, ERROR_INVALID, "not YAML: %s", parser->problem ? parser->problem : "unreadable");
    size_t line = parser->error == YAML_READER_ERROR ? parser->mark.line : parser->problem_mark.line;
    return fail_at(reader, line + 1);
}

/* ---- Scalars ---- */

static bool one_of(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(text, *words) == 0)
            return true;
    return false;
}

/* Whether the text is a JSON number; a plus sign in front and a bare point are let through, too. */
static bool is_number(const char *text, bool *ret_whole)
{
    const char *at = text + (*text == '-' || *text == '+');
    size_t digits = strspn(at, "0123456789");
    if (digits > 1 && *at == '0')
        return false;
    at += digits;
    *ret_whole = true;
    if (*at == '.') {
        size_t fraction = strspn(++at, "0123456789");
        digits += fraction;
        at += fraction;
        *ret_whole = false;
    }
    if (digits > 0 && (*at == 'e' || *at == 'E')) {
        at++;
        at += *at == '-' || *at == '+';
        size_t exponent = strspn(at, "0123456789");
        digits = exponent;
        at += exponent;
        *ret_whole = false;
    }
    return digits > 0 && *at == '\0';
}

/* A real number keeps its text where that is JSON: 0.1 must not become 0.10000000000000001. */
static struct json_object *real(double value, const char *text)
{
    const char *digits = text + (*text == '-'), *point = strchr(text, '.');
    bool json = *digits >= '0' && *digits <= '9' && (!point || (point[1] >= '0' && point[1] <= '9'));
    return json ? json_object_new_double_s(value, text) : json_object_new_double(value);
}

/* A plain scalar's number; NULL without. */
static struct json_object *read_number(const char *text, bool *ret_number)
{
    bool whole;
    const char *hex = text + (*text == '-' || *text == '+');
    errno = 0;
    *ret_number = true;
    if (strncmp(hex, "0x", 2) == 0 && hex[2] != '\0' &&
        strspn(hex + 2, "0123456789abcdefABCDEF") == strlen(hex + 2)) {
        long long value = strtoll(text, NULL, 16);
        *ret_number = errno == 0;
        return *ret_number ? json_object_new_int64(value) : NULL;
    }
    if (!is_number(text, &whole)) {
        *ret_number = false;
        return NULL;
    }
    if (whole) {
        long long value = strtoll(text, NULL, 10);
        if (errno == 0)
            return json_object_new_int64(value);
        errno = 0;
        unsigned long long large = strtoull(text, NULL, 10);
        if (errno == 0 && *text != '-')
            return json_object_new_uint64(large);
    }
    double value = strtod(text, NULL);
    *ret_number = isfinite(value);
    return *ret_number ? real(value, text) : NULL;
}

static int read_scalar(struct reader *reader, const yaml_event_t *event, struct json_object **ret)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", NULL};
    static const char *const no[] = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", NULL};
    const char *text = (const char *)event->data.scalar.value;
    size_t len = event->data.scalar.length;
    struct json_object *made = NULL;
    bool number = false;
    if (event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strlen(text) == len) {
        if (one_of(text, nulls)) {
            *ret = NULL;
            return 0;
        }
        bool is_yes = one_of(text, yes);
        if (is_yes || one_of(text, no)) {
            made = json_object_new_boolean(is_yes);
            number = true;
        } else
            made = read_number(text, &number);
    }
    if (!number)
        made = json_object_new_string_len(text, (int)len);
    if (!made)
        return no_memory(reader);
    *ret = made;
    return 0;
}

/* ---- Collections ---- */

static int read_value(struct reader *reader, yaml_event_t *event, unsigned depth, struct json_object **ret);

static int read_sequence(struct reader *reader, unsigned depth, struct json_object *array)
{
    for (;;) {
        yaml_event_t event;
        struct json_object *item = NULL;
        if (next_event(reader, &event) < 0)
            return -1;
        bool end = event.type == YAML_SEQUENCE_END_EVENT;
        int r = end ? 0 : read_value(reader, &event, depth + 1, &item);
        yaml_event_delete(&event);
        if (end || r < 0)
            return r;
        if (json_object_array_add(array, item) < 0) {
            json_object_put(item);
            return no_memory(reader);
        }
    }
}

static int check_key(struct reader *reader, const yaml_event_t *event, struct json_object *object)
{
    if (event->type != YAML_SCALAR_EVENT)
        return refuse(reader, event, "a key must be text");
    const char *key = (const char *)event->data.scalar.value;
    if (event->data.scalar.anchor || event->data.scalar.tag)
        return refuse(reader, event, "a key has neither tag nor anchor");
    if (strlen(key) != event->data.scalar.length)
        return refuse(reader, event, "a key contains the character NUL");
    if (strcmp(key, "<<") == 0 && event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
        return refuse(reader, event, "merge keys (<<) are not supported");
    if (!json_object_object_get_ex(object, key, NULL))
        return 0;
    error_set(reader->err, ERROR_INVALID, "%.*s is given twice", SHOWN_MAX, key);
    return fail_at(reader, event->start_mark.line + 1);
}

static int read_member(struct reader *reader, const yaml_event_t *key, unsigned depth,
                       struct json_object *object)
{
    yaml_event_t event;
    struct json_object *value = NULL;
    if (next_event(reader, &event) < 0)
        return -1;
    int r = read_value(reader, &event, depth + 1, &value);
    yaml_event_delete(&event);
    if (r < 0)
        return -1;
    if (json_object_object_add(object, (const char *)key->data.scalar.value, value) == 0)
        return 0;
    json_object_put(value);
    return no_memory(reader);
}

static int read_mapping(struct reader *reader, unsigned depth, struct json_object *object)
{
    for (;;) {
        yaml_event_t key;
        if (next_event(reader, &key) < 0)
            return -1;
        bool end = key.type == YAML_MAPPING_END_EVENT;
        int r = end ? 0 : check_key(reader, &key, object);
        if (!end && r == 0)
            r = read_member(reader, &key, depth, object);
        yaml_event_delete(&key);
        if (end || r < 0)
            return r;
    }
}

static size_t count_values(struct json_object *value)
{
    size_t n = 1;
    if (json_object_is_type(value, json_type_array))
        for (size_t i = 0; i < json_object_array_length(value); i++)
            n += count_values(json_object_array_get_idx(value, i));
    else if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, name, member)
        {
            (void)name;
            n += count_values(member);
        }
    }
    return n;
}

/* How deep a value is: an alias may put a deep one into another. */
static unsigned depth_of(struct json_object *value)
{
    unsigned deepest = 0;
    if (json_object_is_type(value, json_type_array))
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            unsigned depth = depth_of(json_object_array_get_idx(value, i));
            deepest = depth > deepest ? depth : deepest;
        }
    else if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, name, member)
        {
            (void)name;
            unsigned depth = depth_of(member);
            deepest = depth > deepest ? depth : deepest;
        }
    }
    return deepest + 1;
}

static int too_large(struct reader *reader, const yaml_event_t *event)
{
    error_set(reader->err, ERROR_LIMIT, "more than %u values, or nested deeper than %d levels",
              DOCUMENT_VALUES_MAX, DOCUMENT_DEPTH_MAX);
    return fail_at(reader, event->start_mark.line + 1);
}

/* A copy of what an anchor names. */
static int read_alias(struct reader *reader, const yaml_event_t *event, unsigned depth,
                      struct json_object **ret)
{
    struct json_object *original = NULL;
    if (!json_object_object_get_ex(reader->anchors, (const char *)event->data.alias.anchor, &original))
        return refuse(reader, event, "an alias of no anchor before it");
    reader->n_values += count_values(original);
    if (reader->n_values > DOCUMENT_VALUES_MAX || depth + depth_of(original) > DOCUMENT_DEPTH_MAX)
        return too_large(reader, event);
    *ret = NULL;
    if (original && json_object_deep_copy(original, ret, NULL) < 0)
        return no_memory(reader);
    return 0;
}

/* Remembers a finished value under its anchor. */
static int keep_anchor(struct reader *reader, const yaml_char_t *anchor, struct json_object *value)
{
    if (!anchor)
        return 0;
    if (json_object_object_add(reader->anchors, (const char *)anchor, json_object_get(value)) == 0)
        return 0;
    json_object_put(value);
    return no_memory(reader);
}

static int read_collection(struct reader *reader, yaml_event_t *event, unsigned depth,
                           struct json_object **ret)
{
    bool mapping = event->type == YAML_MAPPING_START_EVENT;
    struct json_object *made = mapping ? json_object_new_object() : json_object_new_array();
    if (!made)
        return no_memory(reader);
    if ((mapping ? read_mapping(reader, depth, made) : read_sequence(reader, depth, made)) < 0 ||
        keep_anchor(reader, mapping ? event->data.mapping_start.anchor : event->data.sequence_start.anchor,
                    made) < 0) {
        json_object_put(made);
        return -1;
    }
    *ret = made;
    return 0;
}

/* The value that the event is or begins. */
static int read_value(struct reader *reader, yaml_event_t *event, unsigned depth, struct json_object **ret)
{
    if (++reader->n_values > DOCUMENT_VALUES_MAX || depth > DOCUMENT_DEPTH_MAX)
        return too_large(reader, event);
    if ((event->type == YAML_SCALAR_EVENT && event->data.scalar.tag) ||
        (event->type == YAML_MAPPING_START_EVENT && event->data.mapping_start.tag) ||
        (event->type == YAML_SEQUENCE_START_EVENT && event->data.sequence_start.tag))
        return refuse(reader, event, "tags are not supported");
    if (event->type == YAML_ALIAS_EVENT)
        return read_alias(reader, event, depth, ret);
    if (event->type != YAML_SCALAR_EVENT)
        return read_collection(reader, event, depth, ret);
    struct json_object *made = NULL;
    if (read_scalar(reader, event, &made) < 0)
        return -1;
    if (keep_anchor(reader, event->data.scalar.anchor, made) < 0) {
        json_object_put(made);
        return -1;
    }
    *ret = made;
    return 0;
}

/* The parts of a stream around its only document. */
static int read_stream(struct reader *reader, struct json_object **ret)
{
    bool seen = false;
    for (;;) {
        yaml_event_t event;
        if (next_event(reader, &event) < 0)
            return -1;
        int r = 0;
        bool end = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT) {
            if (seen)
                r = refuse(reader, &event, "a second document is not allowed");
        } else if (event.type != YAML_STREAM_START_EVENT && event.type != YAML_DOCUMENT_END_EVENT && !end) {
            seen = true;
            r = read_value(reader, &event, 0, ret);
        }
        yaml_event_delete(&event);
        if (end || r < 0)
            return r;
    }
}

int document_yaml(const char *name, const char *text, size_t len, struct json_object **ret_value,
                  struct error *err)
{
    struct reader reader = {.name = name, .err = err};
    struct json_object *value = NULL;
    reader.anchors = json_object_new_object();
    if (!reader.anchors || !yaml_parser_initialize(&reader.parser)) {
        json_object_put(reader.anchors);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)(len ? text : ""), len);
    int r = read_stream(&reader, &value);
    yaml_parser_delete(&reader.parser);
    json_object_put(reader.anchors);
    if (r < 0) {
        json_object_put(value);
        return -1;
    }
    *ret_value = value;
    return 0;
}
