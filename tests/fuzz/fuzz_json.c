/* json.h on any bytes: what is accepted is walked to its last leaf, and every value found must be a JSON text
 * of its own that reads the same. */
#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_string(const struct json_value *string)
{
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO again = BUFFER_INIT;
    BUFFER_AUTO quoted = BUFFER_INIT;
    struct json_value value;
    json_unescape(string, &text);
    require(!text.failed && text.len <= string->len);
    require(utf8_valid(text.data, text.len));
    require(json_equals(string, text.len ? text.data : "", text.len));
    buffer_append_json(&quoted, text.data, text.len);
    require(json_scan(quoted.data, quoted.len, &value, NULL) == 0 && value.type == JSON_STRING);
    json_unescape(&value, &again);
    require(again.len == text.len && (text.len == 0 || memcmp(again.data, text.data, text.len) == 0));
}

/* The text between what was found must be nothing but structure. */
static void check_gap(const char *from, const char *to)
{
    require(from <= to);
    for (; from < to; from++)
        require(strchr(" \t\r\n,:{}[]", *from) && *from);
}

static void check_value(const struct json_value *value)
{
    size_t len;
    int64_t integer;
    struct json_value same;
    struct json_value name;
    struct json_value child;
    struct json_iter iter;
    const char *raw = json_raw(value, &len);
    require(json_scan(raw, len, &same, NULL) == 0);
    require(same.text == value->text && same.len == value->len && same.type == value->type &&
            same.escaped == value->escaped);
    if (value->type == JSON_STRING)
        check_string(value);
    if (json_integer(value, &integer))
        require(value->type == JSON_NUMBER);
    if (value->type != JSON_ARRAY && value->type != JSON_OBJECT)
        return;
    const char *at = raw;
    json_iter_init(&iter, value);
    while (json_next(&iter, &name, &child)) {
        require((name.type == JSON_STRING) == (value->type == JSON_OBJECT));
        if (name.type == JSON_STRING) {
            const char *start = json_raw(&name, &len);
            check_gap(at, start);
            check_string(&name);
            at = start + len;
        }
        const char *start = json_raw(&child, &len);
        check_gap(at, start);
        at = start + len;
        check_value(&child);
    }
    check_gap(at, value->text + value->len);
}

/* json_next_open must find the same, whichever containers are opened. */
static void check_open(struct json_iter *open, const struct json_value *container, unsigned turn)
{
    struct json_iter iter, inner;
    struct json_value name, child, open_name, open_child;
    json_iter_init(&iter, container);
    while (json_next(&iter, &name, &child)) {
        require(json_next_open(open, &open_name, &open_child));
        require(open_name.text == name.text && open_name.len == name.len && open_name.type == name.type);
        require(open_child.text == child.text && open_child.type == child.type);
        if (child.type != JSON_ARRAY && child.type != JSON_OBJECT) {
            require(open_child.len == child.len && open_child.escaped == child.escaped);
        } else if (turn++ % 3) {
            json_open(open, &inner);
            check_open(&inner, &child, turn);
            json_close(open, &inner);
        }
    }
    require(!json_next_open(open, &open_name, &open_child));
}

/* What is put down with the scan must be what json_next finds. */
static void check_members(const struct json_value *value, const struct json_members *members)
{
    struct json_iter iter;
    struct json_value name, child;
    size_t n = 0;
    json_iter_init(&iter, value);
    for (; value->type == JSON_OBJECT && json_next(&iter, &name, &child); n++)
        if (members->n <= JSON_MEMBERS_MAX) {
            const struct json_value *a = &members->name[n], *b = &members->value[n];
            require(a->text == name.text && a->len == name.len && a->escaped == name.escaped);
            require(b->text == child.text && b->len == child.len && b->type == child.type &&
                    b->escaped == child.escaped);
        }
    require(n == members->n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct json_value value;
    struct error err = {0};
    /* Every level scans all that is below it: long texts would only cost time. */
    if (size > 4096)
        return 0;
    struct json_value same;
    struct json_members members;
    struct error other = {0};
    int rc = json_scan(text, size, &value, &err);
    require(json_scan_members(text, size, JSON_MAX_DEPTH, &same, &members, &other) == rc);
    require(!strcmp(err.message, other.message));
    if (rc < 0) {
        require(err.code == ERROR_INVALID);
        return 0;
    }
    check_members(&value, &members);
    require(utf8_valid(text, size));
    check_value(&value);
    struct json_iter open;
    for (unsigned turn = 0; turn < 3; turn++) {
        json_iter_init(&open, &value);
        check_open(&open, &value, turn);
    }
    return 0;
}
