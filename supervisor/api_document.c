/* What the calls of the trigger API have in common in dealing with storage and JSON. See api_call.h. */
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "supervisor/api_call.h"
#include "supervisor/api_trigger.h"
#include "supervisor/checker.h"

/* ---- JSON ---- */

void api_append_raw(struct buffer *out, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

void api_append_name(struct buffer *out, const char *name, size_t len)
{
    if (utf8_valid(name, len)) {
        buffer_append_json(out, name, len);
        return;
    }
    BUFFER_AUTO copy = BUFFER_INIT;
    for (size_t i = 0; i < len; i++)
        buffer_append_char(&copy, (unsigned char)name[i] < 0x80 ? name[i] : '?');
    out->failed |= copy.failed;
    buffer_append_json(out, copy.data, copy.len);
}

void api_append_document(struct buffer *out, const char *text, size_t len)
{
    struct json_value value;
    if (json_scan(text, len, &value, NULL) == 0)
        api_append_raw(out, &value);
    else
        api_append_name(out, text, len);
}

void api_append_others(struct buffer *out, const struct json_value *object, const char *const *but,
                       bool first)
{
    struct json_iter iter;
    struct json_value name, value;
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &value)) {
        bool left_out = false;
        for (size_t i = 0; but[i] && !left_out; i++)
            left_out = json_equals(&name, but[i], strlen(but[i]));
        if (left_out)
            continue;
        if (!first)
            buffer_append_char(out, ',');
        first = false;
        api_append_raw(out, &name);
        buffer_append_char(out, ':');
        api_append_raw(out, &value);
    }
}

void api_append_named(struct buffer *out, const struct json_value *object, const char *name)
{
    static const char *const but[] = {"name", NULL};
    buffer_append_text(out, "{\"name\":");
    api_append_name(out, name, strlen(name));
    api_append_others(out, object, but, false);
    buffer_append_char(out, '}');
}

void api_append_pair(struct buffer *out, const char *name, const char *document, size_t len)
{
    buffer_append_char(out, '{');
    api_append_name(out, name, strlen(name));
    buffer_append_char(out, ':');
    api_append_document(out, document, len);
    buffer_append_char(out, '}');
}

void api_append_message(struct buffer *out, const char *format, ...)
{
    char text[2 * HTTP_SEGMENT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buffer_append_text(out, "{\"message\":");
    api_append_name(out, text, strlen(text));
    buffer_append_char(out, '}');
}

/* The place of a name in the list, or -1. */
static int place(const struct json_value *name, const char *const *members, int *ret_needed)
{
    int found = -1, n = 0;
    *ret_needed = 0;
    bool optional = false;
    for (; members[n]; n++) {
        if (strcmp(members[n], "?") == 0) {
            optional = true;
            continue;
        }
        if (!optional)
            *ret_needed = n + 1;
        if (json_equals(name, members[n], strlen(members[n])))
            found = n;
    }
    return found;
}

bool api_has_exactly(const struct json_value *object, const char *const *members)
{
    struct json_iter iter;
    struct json_value name, value;
    unsigned seen = 0;
    int needed = 0;
    if (object->type != JSON_OBJECT)
        return false;
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &value)) {
        int at = place(&name, members, &needed);
        if (at < 0 || (seen & (1u << at)))
            return false;
        seen |= 1u << at;
    }
    return needed > 0 && (seen & ((1u << needed) - 1)) == (1u << needed) - 1;
}

bool api_read_name(const struct json_value *value, const char *what, char ret_name[HTTP_SEGMENT_MAX],
                   struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (value->type != JSON_STRING) {
        error_set(err, ERROR_INVALID, "%s is %s, not a text", what, json_type_name(value->type));
        return false;
    }
    json_unescape(value, &text);
    if (text.failed) {
        error_set(err, ERROR_MEMORY, "%s: out of memory", what);
        return false;
    }
    if (text.len == 0 || text.len >= HTTP_SEGMENT_MAX || memchr(text.data, '\0', text.len)) {
        error_set(err, ERROR_INVALID, "%s \"%.60s\" is not a text of 1 to %d bytes without NUL", what,
                  buffer_text(&text), HTTP_SEGMENT_MAX - 1);
        return false;
    }
    memcpy(ret_name, text.data, text.len);
    ret_name[text.len] = '\0';
    return true;
}

bool api_make_id(char ret_id[API_ID_MAX])
{
    unsigned char b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        return false;
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    snprintf(ret_id, API_ID_MAX, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
             b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return true;
}

/* ---- Requests ---- */

bool api_body(struct api_call *call, struct json_value *ret_root)
{
    struct error err;
    const struct buffer *body = &call->request->body;
    if (json_scan(body->data ? body->data : "", body->len, ret_root, &err) < 0) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: %s", err.message);
        return false;
    }
    if (ret_root->type != JSON_OBJECT) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: %s, not an object", json_type_name(ret_root->type));
        return false;
    }
    return true;
}

bool api_query_number(struct api_call *call, const char *name, uint64_t max, uint64_t *value)
{
    const char *text = http_query(call->request, name);
    if (!text)
        return true;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 19 || text[digits] != '\0' || strtoull(text, NULL, 10) > max) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "%s=%.60s is not a whole number from 0 to %llu", name, text,
                 (unsigned long long)max);
        return false;
    }
    *value = strtoull(text, NULL, 10);
    return true;
}

/* ---- Storage ---- */

bool api_workspace_stored(struct api_call *call)
{
    struct error err;
    const char *workspace = call->request->segment;
    int result = STORAGE_ABSENT;
    if (storage_name_valid(workspace))
        result = call->storage->type->workspace_exists(call->storage, workspace, &err);
    if (result == 0)
        return true;
    if (result < 0)
        api_fail_error(call, &err);
    else
        api_fail(call, MHD_HTTP_NOT_FOUND, "Workspace %s not found", workspace);
    return false;
}

struct one_field {
    struct buffer *out;
    bool found;
};

static int take_one(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct one_field *field = data;
    (void)key;
    (void)key_len;
    field->found = true;
    buffer_append(field->out, value, value_len);
    return 0;
}

int api_get(struct api_call *call, enum storage_set set, const char *key, struct buffer *out)
{
    struct error err;
    struct one_field field = {.out = out};
    if (call->storage->type->get(call->storage, call->request->segment, set, &key, 1, take_one, &field,
                                 &err) < 0) {
        api_fail_error(call, &err);
        return -1;
    }
    return field.found ? 0 : STORAGE_ABSENT;
}

bool api_edit(struct api_call *call, const struct storage_op *ops, size_t n_ops, int *ret_results)
{
    struct error err;
    const char *workspace = call->request->segment;
    int result = STORAGE_ABSENT;
    if (storage_name_valid(workspace))
        result = call->storage->type->edit(call->storage, workspace, ops, n_ops, ret_results, &err);
    if (result == 0)
        return true;
    if (result < 0)
        api_fail_error(call, &err);
    else
        api_fail(call, MHD_HTTP_NOT_FOUND, "Workspace %s not found", workspace);
    return false;
}

/* Fields as they come, each once: a storage may report one again. */
struct fields {
    struct hash_table seen;
    struct buffer *out;
    bool values; /* an object instead of an array */
};

static int take_field(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct fields *fields = data;
    if (hash_get(&fields->seen, key, key_len))
        return 0;
    char *name = malloc(key_len + 1);
    if (!name)
        return -1;
    memcpy(name, key, key_len);
    if (hash_put(&fields->seen, name, key_len, name, NULL) < 0) {
        free(name);
        return -1;
    }
    if (fields->seen.count > 1)
        buffer_append_char(fields->out, ',');
    api_append_name(fields->out, key, key_len);
    if (fields->values) {
        buffer_append_char(fields->out, ':');
        api_append_document(fields->out, value, value_len);
    }
    return 0;
}

static bool append_fields(struct api_call *call, enum storage_set set, bool values, struct buffer *out)
{
    struct fields fields = {.out = out, .values = values};
    struct error err = {.code = ERROR_MEMORY, .message = "out of memory"};
    struct hash_entry *entry;
    size_t cursor = 0;
    hash_init(&fields.seen);
    buffer_append_char(out, values ? '{' : '[');
    int result =
        call->storage->type->load(call->storage, call->request->segment, set, take_field, &fields, &err);
    buffer_append_char(out, values ? '}' : ']');
    while ((entry = hash_next(&fields.seen, &cursor)) != NULL)
        free(entry->value);
    hash_done(&fields.seen);
    if (result < 0)
        api_fail_error(call, &err);
    return result >= 0;
}

bool api_append_names(struct api_call *call, enum storage_set set, struct buffer *out)
{
    return append_fields(call, set, false, out);
}

bool api_append_fields(struct api_call *call, enum storage_set set, struct buffer *out)
{
    return append_fields(call, set, true, out);
}

/* ---- The checker ---- */

bool api_check(struct api_call *call, struct buffer *question, const char *member, struct buffer *answer,
               struct json_value *ret_member)
{
    struct json_value root;
    struct error err = {.code = ERROR_MEMORY, .message = "out of memory"};
    for (size_t i = 0; i < question->len; i++) /* it is one line: outside of texts these are only space */
        if (question->data[i] == '\n' || question->data[i] == '\r')
            question->data[i] = ' ';
    int result =
        question->failed ? -1 : checker_ask(call->api->checker, question->data, question->len, answer, &err);
    if (result == 0)
        result = json_scan(answer->data, answer->len, &root, &err);
    if (result < 0 && err.code == ERROR_REFUSED)
        api_fail(call, MHD_HTTP_BAD_REQUEST, "%s", err.message);
    else if (result < 0)
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "checker: %s", err.message);
    else if (json_member(&root, member, ret_member))
        return true;
    else if (json_member(&root, "error", ret_member) && ret_member->type == JSON_STRING) {
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(ret_member, &text);
        api_fail(call, MHD_HTTP_BAD_REQUEST, "%s", buffer_text(&text));
    } else
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "checker: no %s in its answer", member);
    return false;
}
