#include "worker/document/template.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/cloudevent.h"
#include "common/error.h"

#define STEPS_MAX 64
#define SHOWN 80

/* One step of a path: a member's name, or an index. */
struct step {
    const char *name; /* NULL: index */
    size_t len;
    size_t index;
};

struct path {
    const char *text; /* between the braces */
    size_t len;
    struct step steps[STEPS_MAX];
    size_t n;
};

void template_scope_done(struct template_scope *scope)
{
    buffer_done(&scope->text);
    buffer_done(&scope->whole);
}

static int bad(const struct path *path, const char *why, struct error *err)
{
    return error_set(err, ERROR_INVALID, "${%.*s}: %s", (int)(path->len < SHOWN ? path->len : SHOWN),
                     path->text, why);
}

/* --- reading paths --- */

/* The inside of brackets; returns where it goes on, NULL: malformed. */
static const char *read_bracket(const char *at, const char *end, struct step *step)
{
    if (at < end && (*at == '"' || *at == '\'')) {
        const char *close = memchr(at + 1, *at, (size_t)(end - at) - 1);
        if (!close || close + 1 == end || close[1] != ']')
            return NULL;
        *step = (struct step){.name = at + 1, .len = (size_t)(close - at) - 1};
        return close + 2;
    }
    size_t index = 0;
    const char *digits = at;
    for (; at < end && isdigit((unsigned char)*at) && at - digits < 9; at++)
        index = index * 10 + (size_t)(*at - '0');
    if (at == digits || at == end || *at != ']')
        return NULL;
    *step = (struct step){.index = index};
    return at + 1;
}

static const char *read_name(const char *at, const char *end, struct step *step)
{
    const char *start = at;
    while (at < end && *at != '.' && *at != '[')
        at++;
    *step = (struct step){.name = start, .len = (size_t)(at - start)};
    return at > start ? at : NULL;
}

static bool is_step(const struct step *step, const char *name)
{
    return step->name && step->len == strlen(name) && !memcmp(step->name, name, step->len);
}

static int check_root(const struct path *path, struct error *err)
{
    static const char *const roots[] = {"event", "context", "global", "workspace", "trigger", "key"};
    for (size_t i = 0; i < 6; i++)
        if (is_step(&path->steps[0], roots[i])) {
            if (i >= 3 && path->n > 1)
                return bad(path, "is a text, without members", err);
            return 0;
        }
    return bad(path, "begins with none of event, context, global, workspace, trigger, key", err);
}

static int parse(const char *text, size_t len, struct path *ret_path, struct error *err)
{
    const char *end = text + len;
    *ret_path = (struct path){.text = text, .len = len};
    const char *at = read_name(text, end, &ret_path->steps[0]);
    ret_path->n = at != NULL;
    while (at && at < end) {
        if (ret_path->n == STEPS_MAX)
            return bad(ret_path, "has more than 64 steps", err);
        struct step *step = &ret_path->steps[ret_path->n++];
        at = *at == '[' ? read_bracket(at + 1, end, step) : *at == '.' ? read_name(at + 1, end, step) : NULL;
    }
    return at ? check_root(ret_path, err) : bad(ret_path, "is not a path", err);
}

/* --- following paths --- */

static int element(const struct json_value *array, size_t index, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value name;
    json_iter_init(&iter, array);
    for (size_t i = 0; json_next(&iter, &name, ret_value); i++)
        if (i == index)
            return 0;
    return -1;
}

static int member(const struct json_value *object, const struct step *step, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value name, value;
    int r = -1;
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &value))
        if (json_equals(&name, step->name, step->len)) {
            *ret_value = value;
            r = 0;
        }
    return r;
}

static int follow(const struct path *path, size_t from, struct json_value *value, struct error *err)
{
    for (size_t i = from; i < path->n; i++) {
        const struct step *step = &path->steps[i];
        struct json_value next;
        if (value->type != (step->name ? JSON_OBJECT : JSON_ARRAY))
            return bad(path, "leads through what has no such members", err);
        if ((step->name ? member(value, step, &next) : element(value, step->index, &next)) < 0)
            return bad(path, "leads to nothing", err);
        *value = next;
    }
    return 0;
}

static int find_data(struct template_scope *scope, struct json_value *ret_value, struct error *err)
{
    if (scope->data.type == JSON_ABSENT) {
        cloudevent_data_json(scope->event, &scope->text);
        if (scope->text.failed)
            return error_set(err, ERROR_MEMORY, "out of memory");
        if (json_scan(scope->text.data, scope->text.len, &scope->data, err) < 0)
            return -1;
    }
    *ret_value = scope->data;
    return 0;
}

static int find_whole(struct template_scope *scope, struct json_value *ret_value, struct error *err)
{
    if (!scope->whole.len)
        cloudevent_write(scope->event, &scope->whole);
    if (scope->whole.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return json_scan(scope->whole.data, scope->whole.len, ret_value, err);
}

/* What a path has led to: a JSON value, or a text that stands in none. */
struct found {
    struct json_value value;
    const char *text; /* NULL: value */
    size_t len;
};

static int find_attribute(struct template_scope *scope, const struct path *path, struct found *found,
                          struct error *err)
{
    const struct cloudevent *event = scope->event;
    const struct step *step = &path->steps[1];
    if (path->n > 2)
        return bad(path, "leads through what has no such members", err);
    for (unsigned a = 0; step->name && a < CE_DATA; a++)
        if (is_step(step, cloudevent_attribute_name(a)) && event->attribute[a].text) {
            found->text = event->attribute[a].text;
            found->len = event->attribute[a].len;
            return 0;
        }
    for (unsigned i = 0; step->name && i < event->n_extensions; i++) {
        const struct cloudevent_extension *e = &event->extension[i];
        if (e->name.len == step->len && !memcmp(e->name.text, step->name, step->len)) {
            found->text = e->value.text;
            found->len = e->value.len;
            return 0;
        }
    }
    return bad(path, "leads to nothing", err);
}

static int find(const struct path *path, struct template_scope *scope, struct found *found, struct error *err)
{
    *found = (struct found){.text = NULL};
    if (is_step(&path->steps[0], "event")) {
        if (path->n == 1)
            return find_whole(scope, &found->value, err);
        if (!is_step(&path->steps[1], "data"))
            return find_attribute(scope, path, found, err);
        return find_data(scope, &found->value, err) < 0 ? -1 : follow(path, 2, &found->value, err);
    }
    if (is_step(&path->steps[0], "context") || is_step(&path->steps[0], "global")) {
        found->value = *path->steps[0].name == 'c' ? *scope->context : *scope->global;
        return follow(path, 1, &found->value, err);
    }
    found->text = is_step(&path->steps[0], "workspace") ? scope->workspace
                  : is_step(&path->steps[0], "trigger") ? scope->trigger
                                                        : scope->key;
    found->len = strlen(found->text);
    return 0;
}

/* --- rendering --- */

static bool is_unreserved(char c)
{
    return isalnum((unsigned char)c) || strchr("-._~", c);
}

static void append_encoded(const char *text, size_t len, struct buffer *out)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] && is_unreserved(text[i]))
            buffer_append_char(out, text[i]);
        else
            buffer_printf(out, "%%%02X", (unsigned char)text[i]);
}

static void append_found(const struct found *found, bool encode, struct buffer *out)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (found->text) {
        buffer_append(&text, found->text, found->len);
    } else if (found->value.type == JSON_STRING) {
        json_unescape(&found->value, &text);
    } else {
        size_t len;
        const char *raw = json_raw(&found->value, &len);
        buffer_append(&text, raw, len);
    }
    if (encode)
        append_encoded(buffer_text(&text), text.len, out);
    else
        buffer_append(out, buffer_text(&text), text.len);
    out->failed |= text.failed;
}

/* The next path of a text, from *at on: what stands before it is appended to out (may be NULL), *at moves
 * behind it. 1: there is none any more. */
static int next_path(const char *text, size_t len, size_t *at, struct buffer *out, struct path *ret_path,
                     struct error *err)
{
    while (*at < len) {
        const char *dollar = memchr(text + *at, '$', len - *at);
        size_t stop = dollar ? (size_t)(dollar - text) : len;
        if (out)
            buffer_append(out, text + *at, stop - *at);
        *at = stop;
        if (len - stop >= 3 && !memcmp(dollar, "$${", 3)) {
            if (out)
                buffer_append_text(out, "${");
            *at += 3;
        } else if (len - stop >= 2 && !memcmp(dollar, "${", 2)) {
            const char *close = memchr(dollar, '}', len - stop);
            if (!close)
                return error_set(err, ERROR_INVALID, "${ without }: %.*s", (int)(len < SHOWN ? len : SHOWN),
                                 text);
            *at = (size_t)(close - text) + 1;
            return parse(dollar + 2, (size_t)(close - dollar) - 2, ret_path, err);
        } else if (stop < len) {
            if (out)
                buffer_append_char(out, '$');
            (*at)++;
        }
    }
    return 1;
}

/* encode: paths but one at the beginning. */
static int render_text(const char *text, size_t len, bool encode, struct template_scope *scope,
                       struct buffer *out, struct error *err)
{
    struct path path;
    struct found found;
    size_t start = out->len;
    for (size_t at = 0;;) {
        int r = next_path(text, len, &at, out, &path, err);
        if (r)
            return r < 0 ? -1 : out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
        if (find(&path, scope, &found, err) < 0)
            return -1;
        append_found(&found, encode && out->len > start, out);
    }
}

static int render_string(const struct json_value *string, bool encode, struct template_scope *scope,
                         struct buffer *out, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    json_unescape(string, &text);
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return render_text(buffer_text(&text), text.len, encode, scope, out, err);
}

int template_render_text(const struct json_value *string, struct template_scope *scope, struct buffer *out,
                         struct error *err)
{
    return render_string(string, false, scope, out, err);
}

int template_render_url(const struct json_value *string, struct template_scope *scope, struct buffer *out,
                        struct error *err)
{
    return render_string(string, true, scope, out, err);
}

static void append_raw(const struct json_value *value, struct buffer *out)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

/* A text, as JSON, or the value that the one path in it leads to. */
static int render_value(const struct json_value *string, struct template_scope *scope, struct buffer *out,
                        struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO rendered = BUFFER_INIT;
    struct path path;
    struct found found;
    size_t at = 0;
    json_unescape(string, &text);
    const char *plain = buffer_text(&text);
    if (text.len > 2 && !memcmp(plain, "${", 2) && next_path(plain, text.len, &at, NULL, &path, err) == 0 &&
        at == text.len) {
        if (find(&path, scope, &found, err) < 0)
            return -1;
        if (found.text)
            buffer_append_json(out, found.text, found.len);
        else
            append_raw(&found.value, out);
        return 0;
    }
    if (render_text(plain, text.len, false, scope, &rendered, err) < 0)
        return -1;
    buffer_append_json(out, buffer_text(&rendered), rendered.len);
    return 0;
}

int template_render(const struct json_value *value, struct template_scope *scope, struct buffer *out,
                    struct error *err)
{
    struct json_iter iter;
    struct json_value name, inner;
    bool first = true;
    if (value->type == JSON_STRING)
        return render_value(value, scope, out, err);
    if (value->type != JSON_OBJECT && value->type != JSON_ARRAY) {
        append_raw(value, out);
        return 0;
    }
    buffer_append_char(out, value->type == JSON_OBJECT ? '{' : '[');
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &inner)) {
        if (!first)
            buffer_append_char(out, ',');
        first = false;
        if (value->type == JSON_OBJECT) {
            append_raw(&name, out);
            buffer_append_char(out, ':');
        }
        if (template_render(&inner, scope, out, err) < 0)
            return -1;
    }
    buffer_append_char(out, value->type == JSON_OBJECT ? '}' : ']');
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

/* --- before there is a scope --- */

/* How many paths there are; -1: one is malformed. */
static int count_paths(const struct json_value *value, struct error *err)
{
    struct json_iter iter;
    struct json_value name, inner;
    struct path path;
    int n = 0;
    if (value->type == JSON_STRING) {
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(value, &text);
        for (size_t at = 0;; n++) {
            int r = next_path(buffer_text(&text), text.len, &at, NULL, &path, err);
            if (r)
                return r < 0 ? -1 : n;
        }
    }
    if (value->type != JSON_OBJECT && value->type != JSON_ARRAY)
        return 0;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &inner)) {
        int r = count_paths(&inner, err);
        if (r < 0)
            return -1;
        n += r;
    }
    return n;
}

int template_check(const struct json_value *value, struct error *err)
{
    return count_paths(value, err) < 0 ? -1 : 0;
}

bool template_has_paths(const struct json_value *value)
{
    return count_paths(value, NULL) != 0;
}
