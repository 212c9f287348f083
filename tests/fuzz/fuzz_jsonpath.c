/* Any path on any document (parted by a line feed): what comes out is JSON, and writing then reading a
 * reference path gives the value back. */
#include "common/jsonpath.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_json(const struct json_value *value)
{
    struct json_value again;
    size_t len;
    const char *raw = json_raw(value, &len);
    require(json_scan(raw, len, &again, NULL) == 0 && again.type == value->type);
}

static void check_put(const struct jsonpath *path, const struct json_value *root)
{
    static const struct json_value seven = {.text = "7", .len = 1, .type = JSON_NUMBER};
    struct json_value document, value;
    uint64_t steps = JSONPATH_STEPS;
    struct error err;
    POOL_AUTO pool = POOL_INIT;
    if (jsonpath_put(path, root, &seven, &pool, &steps, &document, &err) < 0) {
        require(err.code == ERROR_INVALID || err.code == ERROR_LIMIT);
        return;
    }
    check_json(&document);
    require(jsonpath_read(path, &document, &pool, &steps, &value, NULL) == 0);
    require(value.len == 1 && *value.text == '7');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    const char *feed = size ? memchr(text, '\n', size) : NULL;
    size_t len = feed ? (size_t)(feed - text) : size;
    struct json_value root = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    struct json_value value;
    struct jsonpath *path;
    struct error err = {0};
    uint64_t steps = 1u << 18; /* the bound itself is not what is tried */
    POOL_AUTO pool = POOL_INIT;
    if (feed && json_scan(feed + 1, size - len - 1, &root, NULL) < 0)
        return 0;
    if (jsonpath_parse(text, len, &path, &err) < 0) {
        require(err.code == ERROR_INVALID && err.message[0]);
        return 0;
    }
    int r = jsonpath_read(path, &root, &pool, &steps, &value, &err);
    if (r == 0)
        check_json(&value);
    else if (r == JSONPATH_MISSING)
        require(jsonpath_is_definite(path) && jsonpath_explain(path, &root, &err) < 0);
    else
        require(err.code == ERROR_LIMIT || err.code == ERROR_INVALID);
    if (jsonpath_list(path, &root, &pool, &steps, &value, NULL) == 0)
        check_json(&value);
    if (jsonpath_is_reference(path))
        check_put(path, &root);
    jsonpath_free(path);
    return 0;
}
