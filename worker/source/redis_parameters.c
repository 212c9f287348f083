#include "worker/source/redis_parameters.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

const char *const redis_parameters_known[] = {"host", "port",   "db",       "username", "password", "stream",
                                              "tls",  "tls_ca", "tls_cert", "tls_key",  "trim",     NULL};

static int wrong(const char *name, const struct json_value *value, const char *wanted, struct error *err)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    if (!strcmp(name, "password"))
        return error_set(err, ERROR_INVALID, "parameter password is not %s", wanted);
    return error_set(err, ERROR_INVALID, "parameter %s is %.*s, not %s", name, (int)(len < 80 ? len : 80),
                     raw, wanted);
}

/* Absent and null are the fallback; NULL as fallback: the parameter is needed. A number stands for its text
 * (the original's YAML has passwords like 123456). */
static int read_text(const struct json_value *json, const char *name, const char *fallback, char **ret_text,
                     struct error *err)
{
    struct json_value value;
    if (!json_member(json, name, &value) || value.type == JSON_NULL) {
        if (!fallback)
            return error_set(err, ERROR_INVALID, "parameter %s is missing", name);
        *ret_text = strdup(fallback);
    } else if (value.type == JSON_STRING || value.type == JSON_NUMBER) {
        BUFFER_AUTO text = BUFFER_INIT;
        if (value.type == JSON_STRING)
            json_unescape(&value, &text);
        else
            buffer_append(&text, value.text, value.len);
        if (memchr(buffer_text(&text), '\0', text.len))
            return wrong(name, &value, "free of NUL characters", err);
        *ret_text = strdup(buffer_text(&text));
    } else {
        return wrong(name, &value, "a string", err);
    }
    return *ret_text ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

static int read_number(const struct json_value *json, const char *name, int fallback, int max,
                       int *ret_number, struct error *err)
{
    struct json_value value;
    int64_t number = fallback;
    if (json_member(json, name, &value) && value.type != JSON_NULL) {
        struct json_value digits = value;
        digits.type = JSON_NUMBER; /* the client stores some numbers as strings */
        if ((value.type != JSON_NUMBER && value.type != JSON_STRING) || value.escaped || !value.len ||
            strspn(value.text, "0123456789") < value.len || !json_integer(&digits, &number) || number < 0 ||
            number > max) {
            size_t len;
            const char *raw = json_raw(&value, &len);
            return error_set(err, ERROR_INVALID, "parameter %s is %.*s, not a number from 0 to %d", name,
                             (int)(len < 80 ? len : 80), raw, max);
        }
    }
    *ret_number = (int)number;
    return 0;
}

static int read_bool(const struct json_value *json, const char *name, bool *ret_flag, struct error *err)
{
    struct json_value value;
    *ret_flag = false;
    if (!json_member(json, name, &value) || value.type == JSON_NULL)
        return 0;
    if (value.type != JSON_TRUE && value.type != JSON_FALSE)
        return wrong(name, &value, "true or false", err);
    *ret_flag = value.type == JSON_TRUE;
    return 0;
}

int redis_parameters_read(const struct json_value *json, struct redis_parameters *ret_parameters,
                          struct error *err)
{
    struct redis_parameters p = {0};
    if (read_text(json, "host", NULL, &p.host, err) < 0 ||
        read_number(json, "port", 6379, 65535, &p.port, err) < 0 ||
        read_number(json, "db", 0, 1 << 20, &p.db, err) < 0 ||
        read_text(json, "username", "", &p.username, err) < 0 ||
        read_text(json, "password", "", &p.password, err) < 0 ||
        read_text(json, "stream", NULL, &p.stream, err) < 0 || read_bool(json, "tls", &p.tls, err) < 0 ||
        read_text(json, "tls_ca", "", &p.tls_ca, err) < 0 ||
        read_text(json, "tls_cert", "", &p.tls_cert, err) < 0 ||
        read_text(json, "tls_key", "", &p.tls_key, err) < 0 || read_bool(json, "trim", &p.trim, err) < 0) {
        redis_parameters_done(&p);
        return -1;
    }
    if (!p.host[0] || !p.stream[0]) {
        error_set(err, ERROR_INVALID, "parameter %s is empty", p.host[0] ? "stream" : "host");
        redis_parameters_done(&p);
        return -1;
    }
    *ret_parameters = p;
    return 0;
}

void redis_parameters_done(struct redis_parameters *p)
{
    free(p->host);
    free(p->username);
    free(p->password);
    free(p->stream);
    free(p->tls_ca);
    free(p->tls_cert);
    free(p->tls_key);
    *p = (struct redis_parameters){0};
}

struct redis_address redis_parameters_address(const struct redis_parameters *p)
{
    return (struct redis_address){.host = p->host,
                                  .port = p->port,
                                  .db = p->db,
                                  .username = p->username,
                                  .password = p->password,
                                  .tls = p->tls,
                                  .tls_ca = p->tls_ca,
                                  .tls_cert = p->tls_cert,
                                  .tls_key = p->tls_key};
}
