/* Reads configuration files: strict YAML, nothing but the keys in the table of fields. */
#include "common/config_fields.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "common/error.h"

#define PATH_MAX_BYTES 128 /* of a key path */
#define FIELDS_MAX 96

/* A file being read. seen marks the fields, and the sections by the first field they contain (no two begin
 * with the same). */
struct reader {
    yaml_parser_t parser;
    const char *name;
    struct config *config;
    struct error *err;
    bool seen[FIELDS_MAX];
    bool seen_section[FIELDS_MAX];
};

static int fail_at(struct reader *reader, size_t line, const char *path)
{
    size_t len = strlen(reader->name);
    const char *name = len > 80 ? reader->name + len - 80 : reader->name;
    return error_prefix(reader->err, *path ? "%s:%zu: %s" : "%s:%zu%s", name, line, path);
}

static int syntax_error(struct reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    if (parser->error == YAML_MEMORY_ERROR)
        return error_set(reader->err, ERROR_MEMORY, "out of memory");
    error_set(reader->err, ERROR_INVALID, "not YAML: %s", parser->problem ? parser->problem : "unreadable");
    return fail_at(
        reader, (parser->error == YAML_READER_ERROR ? parser->mark.line : parser->problem_mark.line) + 1, "");
}

/* The next event, which the caller deletes when 0 is returned. Anchors (which make small files huge) and tags
 * are refused here. */
static int next_event(struct reader *reader, yaml_event_t *event)
{
    if (!yaml_parser_parse(&reader->parser, event))
        return syntax_error(reader);
    const char *what = NULL;
    if (event->type == YAML_ALIAS_EVENT || (event->type == YAML_SCALAR_EVENT && event->data.scalar.anchor) ||
        (event->type == YAML_MAPPING_START_EVENT && event->data.mapping_start.anchor) ||
        (event->type == YAML_SEQUENCE_START_EVENT && event->data.sequence_start.anchor))
        what = "anchors and aliases are not allowed";
    else if ((event->type == YAML_SCALAR_EVENT && event->data.scalar.tag) ||
             (event->type == YAML_MAPPING_START_EVENT && event->data.mapping_start.tag) ||
             (event->type == YAML_SEQUENCE_START_EVENT && event->data.sequence_start.tag))
        what = "tags are not allowed";
    if (!what)
        return 0;
    size_t line = event->start_mark.line + 1;
    yaml_event_delete(event);
    error_set(reader->err, ERROR_INVALID, "%s", what);
    return fail_at(reader, line, "");
}

/* The field of a path, or the first one in the section of that name; config_n_fields: unknown. */
static size_t find_field(const char *path, bool *ret_section)
{
    size_t len = strlen(path);
    for (size_t i = 0; i < config_n_fields; i++)
        if (!strncmp(config_fields[i].path, path, len) &&
            (!config_fields[i].path[len] || config_fields[i].path[len] == '.')) {
            *ret_section = config_fields[i].path[len] == '.';
            return i;
        }
    return config_n_fields;
}

static bool is_null(const yaml_event_t *event)
{
    if (event->type != YAML_SCALAR_EVENT || event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    const char *text = (const char *)event->data.scalar.value;
    return !*text || !strcmp(text, "~") || !strcasecmp(text, "null");
}

static int read_section(struct reader *reader, const char *section);

/* Reads the value of a field or section. */
static int read_value(struct reader *reader, const char *path, size_t i, bool section)
{
    yaml_event_t event;
    if (next_event(reader, &event) < 0)
        return -1;
    int r = 0;
    size_t line = event.start_mark.line + 1;
    if (section) {
        /* A section whose keys are all commented out reads as null. */
        if (event.type != YAML_MAPPING_START_EVENT && !is_null(&event)) {
            error_set(reader->err, ERROR_INVALID, "keys with values are needed here");
            r = fail_at(reader, line, path);
        } else if (event.type == YAML_MAPPING_START_EVENT)
            r = read_section(reader, path);
    } else if (event.type != YAML_SCALAR_EVENT) {
        error_set(reader->err, ERROR_INVALID, "one value is needed, not a list or keys");
        r = fail_at(reader, line, path);
    } else {
        const char *text = is_null(&event) ? "" : (const char *)event.data.scalar.value;
        size_t len = is_null(&event) ? 0 : event.data.scalar.length;
        r = config_field_set(&config_fields[i], reader->config, text, len, reader->err);
        if (r < 0)
            fail_at(reader, line, path);
    }
    yaml_event_delete(&event);
    return r;
}

/* Appends the key to the section's path. Only what looks like a key is shown in messages: "password:secret"
 * without its space is one long key. */
static int join_path(struct reader *reader, const char *section, const yaml_event_t *key,
                     char out[PATH_MAX_BYTES])
{
    const char *text = (const char *)key->data.scalar.value;
    size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    bool whole = len > 0 && len == key->data.scalar.length && len <= CONFIG_SHOWN_MAX;
    snprintf(out, PATH_MAX_BYTES, "%s%s%.*s%s", section, *section ? "." : "",
             (int)(len <= CONFIG_SHOWN_MAX ? len : CONFIG_SHOWN_MAX), text, whole ? "" : "...");
    if (whole)
        return 0;
    error_set(reader->err, ERROR_INVALID, "unknown key");
    return fail_at(reader, key->start_mark.line + 1, out);
}

/* Reads the keys and values of a mapping, to its end. */
static int read_section(struct reader *reader, const char *section)
{
    for (;;) {
        yaml_event_t event;
        char path[PATH_MAX_BYTES] = "";
        if (next_event(reader, &event) < 0)
            return -1;
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            return 0;
        }
        size_t line = event.start_mark.line + 1;
        int r = 0;
        if (event.type != YAML_SCALAR_EVENT) {
            error_set(reader->err, ERROR_INVALID, "a key must be a word");
            r = fail_at(reader, line, section);
        } else
            r = join_path(reader, section, &event, path);
        yaml_event_delete(&event);
        if (r < 0)
            return -1;
        bool is_section = false;
        size_t i = find_field(path, &is_section);
        if (i == config_n_fields) {
            error_set(reader->err, ERROR_INVALID, "unknown key");
            return fail_at(reader, line, path);
        }
        bool *seen = is_section ? &reader->seen_section[i] : &reader->seen[i];
        if (*seen) {
            error_set(reader->err, ERROR_INVALID, "the key is given twice");
            return fail_at(reader, line, path);
        }
        *seen = true;
        if (read_value(reader, path, i, is_section) < 0)
            return -1;
    }
}

/* The parts of a stream around its only mapping. An empty file is fine. */
static int read_stream(struct reader *reader)
{
    enum { START, DOCUMENT, END } state = START;
    for (;;) {
        yaml_event_t event;
        if (next_event(reader, &event) < 0)
            return -1;
        yaml_event_type_t type = event.type;
        size_t line = event.start_mark.line + 1;
        bool empty = is_null(&event);
        yaml_event_delete(&event);
        if (type == YAML_STREAM_END_EVENT)
            return 0;
        if (type == YAML_DOCUMENT_START_EVENT && state++ != START) {
            error_set(reader->err, ERROR_INVALID, "a second document is not allowed");
            return fail_at(reader, line, "");
        }
        if (type == YAML_MAPPING_START_EVENT && read_section(reader, "") < 0)
            return -1;
        if (type == YAML_SEQUENCE_START_EVENT || (type == YAML_SCALAR_EVENT && !empty)) {
            error_set(reader->err, ERROR_INVALID, "keys with values are needed here");
            return fail_at(reader, line, "");
        }
    }
}

int config_read_yaml(const char *name, const char *text, size_t len, struct config *config, struct error *err)
{
    struct reader reader = {.name = name, .config = config, .err = err};
    assert(config_n_fields <= FIELDS_MAX);
    if (len > CONFIG_FILE_MAX)
        return error_set(err, ERROR_LIMIT, "%s: larger than 1 MiB", name);
    if (!yaml_parser_initialize(&reader.parser))
        return error_set(err, ERROR_MEMORY, "out of memory");
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)(len ? text : ""), len);
    int r = read_stream(&reader);
    yaml_parser_delete(&reader.parser);
    return r;
}
