/* See document.h. */
#include "cli/document.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "cli/json_c.h"
#include "cli/document_yaml.h"

#define SHOWN_MAX 60 /* bytes of a name in a message */

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static int convert(const struct json_value *value, unsigned depth, struct json_object **ret,
                   struct error *err);

static int convert_members(const struct json_value *value, unsigned depth, struct json_object *object,
                           struct error *err)
{
    struct json_iter iter;
    struct json_value name, member;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &member)) {
        struct json_object *converted = NULL;
        BUFFER_AUTO key = BUFFER_INIT;
        json_unescape(&name, &key);
        const char *text = buffer_text(&key);
        if (key.failed)
            return no_memory(err);
        if (strlen(text) != key.len)
            return error_set(err, ERROR_INVALID, "a name contains the character NUL");
        if (json_object_object_get_ex(object, text, NULL))
            return error_set(err, ERROR_INVALID, "%.*s is given twice", SHOWN_MAX, text);
        if (convert(&member, depth + 1, &converted, err) < 0)
            return -1;
        if (json_object_object_add(object, text, converted) < 0) {
            json_object_put(converted);
            return no_memory(err);
        }
    }
    return 0;
}

static int convert_elements(const struct json_value *value, unsigned depth, struct json_object *array,
                            struct error *err)
{
    struct json_iter iter;
    struct json_value name, item;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &item)) {
        struct json_object *converted = NULL;
        if (convert(&item, depth + 1, &converted, err) < 0)
            return -1;
        if (json_object_array_add(array, converted) < 0) {
            json_object_put(converted);
            return no_memory(err);
        }
    }
    return 0;
}

static struct json_object *convert_number(const struct json_value *value)
{
    int64_t integer;
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append(&text, value->text, value->len);
    const char *digits = buffer_text(&text);
    if (!strpbrk(digits, ".eE")) {
        if (json_integer(value, &integer))
            return json_object_new_int64(integer);
        errno = 0;
        unsigned long long large = strtoull(digits, NULL, 10);
        if (errno == 0 && *digits != '-')
            return json_object_new_uint64(large);
    }
    return json_object_new_double_s(strtod(digits, NULL), digits);
}

static struct json_object *convert_text(const struct json_value *value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    json_unescape(value, &text);
    buffer_text(&text);
    return text.failed ? NULL : json_object_new_string_len(text.len ? text.data : "", (int)text.len);
}

/* From validated text; its depth is bounded by json_scan, and again for what json-c can write. */
static int convert(const struct json_value *value, unsigned depth, struct json_object **ret,
                   struct error *err)
{
    struct json_object *made = NULL;
    int r = 0;
    if (depth > DOCUMENT_DEPTH_MAX)
        return error_set(err, ERROR_LIMIT, "nested deeper than %d levels", DOCUMENT_DEPTH_MAX);
    if (value->type == JSON_NULL) {
        *ret = NULL;
        return 0;
    }
    if (value->type == JSON_OBJECT) {
        made = json_object_new_object();
        r = made ? convert_members(value, depth, made, err) : 0;
    } else if (value->type == JSON_ARRAY) {
        made = json_object_new_array();
        r = made ? convert_elements(value, depth, made, err) : 0;
    } else if (value->type == JSON_STRING)
        made = convert_text(value);
    else if (value->type == JSON_NUMBER)
        made = convert_number(value);
    else
        made = json_object_new_boolean(value->type == JSON_TRUE);
    if (!made)
        return no_memory(err);
    if (r < 0) {
        json_object_put(made);
        return -1;
    }
    *ret = made;
    return 0;
}

static bool named_json(const char *name)
{
    size_t len = strlen(name);
    return len > 5 && strcmp(name + len - 5, ".json") == 0;
}

int document_parse(const char *name, const char *text, size_t len, struct json_object **ret_value,
                   struct error *err)
{
    struct json_value root;
    struct error json_error = {0};
    if (len > DOCUMENT_MAX)
        return error_set(err, ERROR_LIMIT, "%.*s is larger than 16 MiB", SHOWN_MAX, name);
    if (json_scan(text, len, &root, &json_error) == 0) {
        if (convert(&root, 0, ret_value, err) == 0)
            return 0;
        return error_prefix(err, "%.*s", SHOWN_MAX, name);
    }
    if (named_json(name)) {
        if (err)
            *err = json_error;
        return error_prefix(err, "%.*s", SHOWN_MAX, name);
    }
    return document_yaml(name, text, len, ret_value, err);
}

static int read_all(int fd, const char *path, size_t max, struct buffer *ret_text, struct error *err)
{
    for (;;) {
        char *room = buffer_reserve(ret_text, 65536);
        if (!room)
            return no_memory(err);
        ssize_t n = read(fd, room, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set_errno(err, errno, "%s cannot be read", path);
        if (n == 0)
            return 0;
        ret_text->len += (size_t)n;
        if (ret_text->len > max)
            return error_set(err, ERROR_LIMIT, "%s is larger than %zu bytes", path, max);
    }
}

int document_read_text(const char *path, size_t max, struct buffer *ret_text, struct error *err)
{
    if (strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, "standard input", max, ret_text, err);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "%s cannot be read", path);
    int r = read_all(fd, path, max, ret_text, err);
    close(fd);
    return r;
}

int document_read(const char *path, struct json_object **ret_value, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (document_read_text(path, DOCUMENT_MAX, &text, err) < 0)
        return -1;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    return document_parse(name, text.len ? text.data : "", text.len, ret_value, err);
}

/* ---- Canonical form ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void canonical_object(struct json_object *value, struct buffer *out)
{
    size_t n = (size_t)json_object_object_length(value), i = 0;
    const char **names = calloc(n + 1, sizeof *names);
    if (!names) {
        out->failed = true;
        return;
    }
    json_object_object_foreach(value, name, member)
    {
        (void)member;
        names[i++] = name;
    }
    qsort(names, n, sizeof *names, by_text);
    buffer_append_char(out, '{');
    for (i = 0; i < n; i++) {
        struct json_object *named = NULL;
        json_object_object_get_ex(value, names[i], &named);
        if (i > 0)
            buffer_append_char(out, ',');
        buffer_append_json(out, names[i], strlen(names[i]));
        buffer_append_char(out, ':');
        document_canonical(named, out);
    }
    buffer_append_char(out, '}');
    free(names);
}

void document_canonical(struct json_object *value, struct buffer *out)
{
    if (json_object_is_type(value, json_type_object)) {
        canonical_object(value, out);
    } else if (json_object_is_type(value, json_type_array)) {
        buffer_append_char(out, '[');
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            if (i > 0)
                buffer_append_char(out, ',');
            document_canonical(json_object_array_get_idx(value, i), out);
        }
        buffer_append_char(out, ']');
    } else
        buffer_append_text(out, json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
                                                                          JSON_C_TO_STRING_NOSLASHESCAPE));
}
