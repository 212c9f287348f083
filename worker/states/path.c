#include "worker/states/path.h"

#include <stdbool.h>
#include <stdlib.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/jsonpath.h"
#include "worker/states/evaluation.h"

struct path {
    struct jsonpath *path;
    bool context;
};

int path_parse(const char *text, size_t len, struct path **ret_path, struct error *err)
{
    if (len > 1 && text[0] == '$' && text[1] != '$' && text[1] != '.' && text[1] != '[')
        return error_set(err, ERROR_INVALID, "path %.*s: variables are not supported",
                         (int)(len < 100 ? len : 100), text);
    struct path *path = calloc(1, sizeof *path);
    if (!path)
        return error_set(err, ERROR_MEMORY, "out of memory");
    path->context = len > 1 && text[0] == '$' && text[1] == '$';
    if (jsonpath_parse(text + path->context, len - path->context, &path->path, err) < 0) {
        free(path);
        return -1;
    }
    *ret_path = path;
    return 0;
}

int path_load(const struct json_value *string, struct path **ret_path, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (string->type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "a path is %s, not a string", json_type_name(string->type));
    json_unescape(string, &text);
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return path_parse(buffer_text(&text), text.len, ret_path, err);
}

void path_free(struct path *path)
{
    if (!path)
        return;
    jsonpath_free(path->path);
    free(path);
}

static int look(const struct path *path, struct evaluation *ev, struct json_value *ret_root,
                struct json_value *ret_value, struct error *err)
{
    *ret_root = ev->input;
    if (path->context && evaluation_context(ev, ret_root, err) < 0)
        return -1;
    int r = jsonpath_read(path->path, ret_root, &ev->pool, &ev->steps, ret_value, err);
    return r == JSONPATH_MISSING ? PATH_MISSING : r;
}

int path_look(const struct path *path, struct evaluation *evaluation, struct json_value *ret_value,
              struct error *err)
{
    struct json_value root;
    return look(path, evaluation, &root, ret_value, err);
}

int path_read(const struct path *path, struct evaluation *evaluation, struct json_value *ret_value,
              struct error *err)
{
    struct json_value root;
    int r = look(path, evaluation, &root, ret_value, err);
    if (r != PATH_MISSING)
        return r;
    jsonpath_explain(path->path, &root, err);
    return path->context ? error_prefix(err, "context object ($$)") : -1;
}

const char *path_text(const struct path *path)
{
    return jsonpath_text(path->path);
}
