#include "worker/action/lambda.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/sigv4.h"
#include "worker/executor/executor.h"
#include "worker/globals.h"
#include "worker/executor/intent.h"
#include "worker/document/redact.h"
#include "worker/worker.h"

#define SERVICE "lambda"
#define FUNCTION_NAME_MAX 170 /* of the service's own limits, an ARN's */

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

bool lambda_text(const struct json_value *object, const char *name, struct buffer *out)
{
    struct json_value value;
    if (object->type != JSON_OBJECT || !json_member(object, name, &value) || value.type != JSON_STRING ||
        !value.len)
        return false;
    json_unescape(&value, out);
    return true;
}

struct json_value lambda_credentials(const struct json_value *document)
{
    static const struct json_value none = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    struct json_value value;
    if (document->type == JSON_OBJECT && json_member(document, "aws_credentials", &value) &&
        value.type == JSON_OBJECT)
        return value;
    return none;
}

/* --- where the function is --- */

/* The region that an ARN names: arn:aws:lambda:REGION:... */
static bool region_of_arn(const char *function, struct buffer *out)
{
    const char *at = function;
    if (strncmp(function, "arn:", 4))
        return false;
    for (int i = 0; i < 3; i++)
        if (!(at = strchr(at, ':')) || !*++at)
            return false;
    const char *end = strchr(at, ':');
    if (!end || end == at)
        return false;
    buffer_append(out, at, (size_t)(end - at));
    return true;
}

static bool region_of_environment(struct buffer *out)
{
    static const char *const names[] = {"AWS_REGION", "AWS_DEFAULT_REGION"};
    for (size_t i = 0; i < 2; i++) {
        const char *value = getenv(names[i]);
        if (!value || !*value)
            continue;
        buffer_append_text(out, value);
        return true;
    }
    return false;
}

static int find_region(const struct json_value *places, size_t n, const char *function, struct buffer *out,
                       struct error *err)
{
    static const char *const names[] = {"region", "region_name"};
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < 2; j++)
            if (lambda_text(&places[i], names[j], out))
                goto found;
    if (!region_of_arn(function, out) && !region_of_environment(out))
        return error_set(err, ERROR_INVALID,
                         "no region: neither the operator nor the global context's "
                         "aws_credentials have one");
found:
    for (size_t i = 0; i < out->len; i++)
        if (!isalnum((unsigned char)out->data[i]) && out->data[i] != '-')
            return error_set(err, ERROR_INVALID, "region %.64s is not the name of one", buffer_text(out));
    return out->failed ? out_of_memory(err) : 0;
}

static int append_path(const char *function, struct buffer *out, struct error *err)
{
    size_t len = strlen(function);
    if (!len || len > FUNCTION_NAME_MAX)
        return error_set(err, ERROR_INVALID, "function_name has %zu bytes, not 1 to %d", len,
                         FUNCTION_NAME_MAX);
    buffer_append_text(out, "/2015-03-31/functions/");
    for (const char *at = function; *at; at++) {
        if (isalnum((unsigned char)*at) || strchr("-._~", *at))
            buffer_append_char(out, *at);
        else
            buffer_printf(out, "%%%02X", (unsigned char)*at);
    }
    buffer_append_text(out, "/invocations");
    return 0;
}

static int make_url(const char *endpoint, const char *function, const char *region, struct buffer *out,
                    struct error *err)
{
    BUFFER_AUTO origin = BUFFER_INIT;
    buffer_append_text(out, endpoint);
    while (out->len && out->data[out->len - 1] == '/')
        out->len--;
    if (!out->len)
        buffer_printf(out, "https://" SERVICE ".%s.amazonaws.com%s", region,
                      strncmp(region, "cn-", 3) ? "" : ".cn");
    if (http_call_origin(buffer_text(out), &origin, err) < 0)
        return error_prefix(err, "endpoint");
    return append_path(function, out, err);
}

int lambda_locate(const struct json_value *places, size_t n, const char *function, const char *endpoint,
                  struct buffer *out, struct error *err)
{
    BUFFER_AUTO region = BUFFER_INIT;
    BUFFER_AUTO url = BUFFER_INIT;
    if (find_region(places, n, function, &region, err) < 0 ||
        make_url(endpoint, function, buffer_text(&region), &url, err) < 0)
        return -1;
    buffer_append_text(out, "\"url\":");
    buffer_append_json(out, buffer_text(&url), url.len);
    buffer_append_text(out, ",\"region\":");
    buffer_append_json(out, buffer_text(&region), region.len);
    return out->failed || url.failed ? out_of_memory(err) : 0;
}

/* --- the request --- */

struct keys {
    struct buffer id, secret, token;
};

static bool read_keys(const struct json_value *object, struct keys *keys)
{
    if (!lambda_text(object, "access_key_id", &keys->id))
        return false;
    lambda_text(object, "secret_access_key", &keys->secret);
    lambda_text(object, "session_token", &keys->token);
    return true;
}

static bool keys_of_environment(struct keys *keys)
{
    const char *id = getenv("AWS_ACCESS_KEY_ID");
    const char *secret = getenv("AWS_SECRET_ACCESS_KEY");
    const char *token = getenv("AWS_SESSION_TOKEN");
    if (!id || !*id)
        return false;
    buffer_append_text(&keys->id, id);
    buffer_append_text(&keys->secret, secret ? secret : "");
    buffer_append_text(&keys->token, token ? token : "");
    return true;
}

static int find_keys(const struct invocation *invocation, struct keys *keys, struct error *err)
{
    struct json_value own;
    struct globals *globals = globals_get(&executor_worker(invocation->executor)->globals);
    bool found = json_member(&invocation->body, "credentials", &own) && read_keys(&own, keys);
    if (!found && globals) {
        struct json_value global = lambda_credentials(&globals->root);
        found = read_keys(&global, keys);
    }
    globals_unref(globals);
    if (!found && !keys_of_environment(keys))
        return error_set(err, ERROR_INVALID,
                         "no credentials: neither the operator nor the global context's "
                         "aws_credentials nor the environment have any");
    if (keys->id.failed || keys->secret.failed || keys->token.failed)
        return out_of_memory(err);
    if (!keys->secret.len)
        return error_set(err, ERROR_INVALID, "the credentials lack secret_access_key");
    if (!strcmp(buffer_text(&keys->secret), REDACTED))
        return error_set(err, ERROR_INVALID, "the credentials were taken out of what is stored");
    return 0;
}

static int sign(const char *region, struct keys *keys, struct http_call_request *request, struct error *err)
{
    static const struct sigv4_header signed_headers[] = {{"Content-Type", "application/json"},
                                                         {"X-Amz-Invocation-Type", "Event"}};
    struct sigv4_signature signature;
    BUFFER_AUTO host = BUFFER_INIT;
    BUFFER_AUTO path = BUFFER_INIT;
    BUFFER_AUTO query = BUFFER_INIT;
    if (http_call_url_parts(buffer_text(&request->url), &host, &path, &query, err) < 0)
        return -1;
    struct sigv4_credentials credentials = {.access_key_id = buffer_text(&keys->id),
                                            .secret_access_key = buffer_text(&keys->secret),
                                            .session_token =
                                                keys->token.len ? buffer_text(&keys->token) : NULL};
    struct sigv4_request to_sign = {.method = request->method,
                                    .host = buffer_text(&host),
                                    .path = buffer_text(&path),
                                    .query = buffer_text(&query),
                                    .headers = signed_headers,
                                    .n_headers = 2,
                                    .body = request->body.data,
                                    .body_len = request->body.len};
    if (sigv4_sign(&credentials, region, SERVICE, &to_sign, clock_unix_ns() / CLOCK_S, &signature, err) < 0)
        return -1;
    int r = 0;
    for (size_t i = 0; r == 0 && i < 2; i++)
        r = http_call_header(request, signed_headers[i].name, signed_headers[i].value, err);
    if (r == 0)
        r = http_call_header(request, "X-Amz-Date", signature.date, err);
    if (r == 0)
        r = http_call_header(request, "Authorization", buffer_text(&signature.authorization), err);
    if (r == 0 && credentials.session_token)
        r = http_call_header(request, "X-Amz-Security-Token", credentials.session_token, err);
    sigv4_done(&signature);
    return r;
}

int lambda_request(const struct invocation *invocation, struct http_call_request *request, struct error *err)
{
    struct json_value url, region;
    struct keys keys = {0};
    BUFFER_AUTO region_text = BUFFER_INIT;
    if (!json_member(&invocation->body, "url", &url) || url.type != JSON_STRING ||
        !json_member(&invocation->body, "region", &region) || region.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no url or region");
    json_unescape(&region, &region_text);
    json_unescape(&url, &request->url);
    if (request->body.failed || region_text.failed || http_call_method(request, "POST", 4, err) < 0)
        return out_of_memory(err);
    int r = find_keys(invocation, &keys, err);
    if (r == 0)
        r = sign(buffer_text(&region_text), &keys, request, err);
    buffer_done(&keys.id);
    buffer_done(&keys.secret);
    buffer_done(&keys.token);
    return r;
}

enum invocation_verdict lambda_judge(const struct invocation *invocation, const struct http_answer *answer,
                                     struct error *err)
{
    bool done = answer->status >= 200 && answer->status < 300;
    const char *failed = done ? http_answer_header(answer, "X-Amz-Function-Error") : NULL;
    if (!failed)
        return invocation_judge(invocation, answer, err);
    error_set(err, ERROR_REFUSED, "answered %u, and the function has failed: %.40s", answer->status, failed);
    return INVOCATION_FAILED;
}
