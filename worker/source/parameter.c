#include "worker/source/parameter.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

static bool is_secret(const char *name)
{
    static const char *const names[] = {"password",          "amqp_url",      "access_key_id",
                                        "secret_access_key", "session_token", "properties"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i]))
            return true;
    return false;
}

int parameter_wrong(const char *name, const struct json_value *value, const char *wanted, struct error *err)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    if (is_secret(name) || memchr(raw, '@', len)) /* the user of a URL may have a password */
        return error_set(err, ERROR_INVALID, "parameter %s is not %s", name, wanted);
    return error_set(err, ERROR_INVALID, "parameter %s is %.*s, not %s", name,
                     (int)(len < PARAMETER_SHOWN ? len : PARAMETER_SHOWN), raw, wanted);
}

char *parameter_copy(const struct json_value *value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (value->type == JSON_STRING)
        json_unescape(value, &text);
    else
        buffer_append(&text, value->text, value->len);
    return text.failed ? NULL : strndup(buffer_text(&text), text.len);
}

bool parameter_has_nul(const struct json_value *value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (value->type == JSON_STRING)
        json_unescape(value, &text);
    return text.len && memchr(text.data, '\0', text.len);
}

static bool is_there(const struct json_value *json, const char *name, struct json_value *ret_value)
{
    return json_member(json, name, ret_value) && ret_value->type != JSON_NULL;
}

int parameter_text(const struct json_value *json, const char *name, const char *fallback, char **ret_text,
                   struct error *err)
{
    struct json_value value;
    if (!is_there(json, name, &value)) {
        if (!fallback)
            return error_set(err, ERROR_INVALID, "parameter %s is missing", name);
        *ret_text = strdup(fallback);
    } else if (value.type != JSON_STRING && value.type != JSON_NUMBER) {
        return parameter_wrong(name, &value, "a string", err);
    } else if (parameter_has_nul(&value)) {
        return parameter_wrong(name, &value, "free of NUL characters", err);
    } else if (!fallback && !value.len) {
        return error_set(err, ERROR_INVALID, "parameter %s is empty", name);
    } else {
        *ret_text = parameter_copy(&value);
    }
    return *ret_text ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

static bool read_number(const struct json_value *value, int64_t *ret_number)
{
    struct json_value digits = *value;
    digits.type = JSON_NUMBER;
    return (value->type == JSON_NUMBER || value->type == JSON_STRING) && !value->escaped && value->len &&
           strspn(value->text, "0123456789") >= value->len && json_integer(&digits, ret_number);
}

int parameter_number(const struct json_value *json, const char *name, int fallback, int least, int most,
                     int *ret_number, struct error *err)
{
    struct json_value value;
    char wanted[64];
    int64_t number = fallback;
    if (is_there(json, name, &value) && (!read_number(&value, &number) || number < least || number > most)) {
        snprintf(wanted, sizeof wanted, "a number from %d to %d", least, most);
        return parameter_wrong(name, &value, wanted, err);
    }
    *ret_number = (int)number;
    return 0;
}

int parameter_bool(const struct json_value *json, const char *name, bool fallback, bool *ret_flag,
                   struct error *err)
{
    struct json_value value;
    *ret_flag = fallback;
    if (!is_there(json, name, &value))
        return 0;
    if (value.type != JSON_TRUE && value.type != JSON_FALSE)
        return parameter_wrong(name, &value, "true or false", err);
    *ret_flag = value.type == JSON_TRUE;
    return 0;
}
