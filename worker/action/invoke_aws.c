/* AWS_LAMBDA_INVOKE: invokes a Lambda function for a task, asynchronously (the Event invocation type), once
 * or for each value of iter_data (worker/action/invoke.h). The operator, or the action's document, also has
 *
 *     function_name                                name, partial or whole ARN, with or without a qualifier
 *     access_key_id, secret_access_key, session_token?  there, in an object aws_credentials there, in that of
 *                                                  the global context, or in the environment
 * (AWS_ACCESS_KEY_ID and so on): the first that there are region or region_name likewise; else that of the
 * ARN, AWS_REGION or AWS_DEFAULT_REGION endpoint                                     default
 * https://lambda.REGION.amazonaws.com
 *
 * Done is 2xx without X-Amz-Function-Error. Requests are signed (Signature Version 4) as they are sent;
 * credentials of the global context are read then, and are not in the stored intent. */
#include "worker/action/action.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/sigv4.h"
#include "worker/action/invoke.h"
#include "worker/executor.h"
#include "worker/globals.h"
#include "worker/http_call.h"
#include "worker/intent.h"
#include "worker/invocation.h"
#include "worker/redact.h"
#include "worker/worker.h"

#define SERVICE "lambda"
#define FUNCTION_NAME_MAX 170 /* of the service's own limits, an ARN's */

/* The action's document. */
struct invoke_aws {
    char *text;
    struct json_value document;
};

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static void unload(void *state)
{
    struct invoke_aws *aws = state;
    if (!aws)
        return;
    free(aws->text);
    free(aws);
}

static int load(const struct json_value *action, void **ret_state, struct error *err)
{
    size_t len;
    struct invocation_policy policy;
    const char *raw = json_raw(action, &len);
    struct invoke_aws *aws = calloc(1, sizeof *aws);
    if (!aws || !(aws->text = strndup(raw, len))) {
        free(aws);
        return out_of_memory(err);
    }
    if (json_scan(aws->text, len, &aws->document, err) < 0 ||
        invocation_policy_load(&aws->document, &policy, err) < 0) {
        unload(aws);
        return -1;
    }
    *ret_state = aws;
    return 0;
}

/* --- firing --- */

static bool text_of(const struct json_value *object, const char *name, struct buffer *out)
{
    struct json_value value;
    if (object->type != JSON_OBJECT || !json_member(object, name, &value) || value.type != JSON_STRING ||
        !value.len)
        return false;
    json_unescape(&value, out);
    return true;
}

/* The object aws_credentials of a document. */
static struct json_value credentials_of(const struct json_value *document)
{
    static const struct json_value none = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    struct json_value value;
    if (document->type == JSON_OBJECT && json_member(document, "aws_credentials", &value) &&
        value.type == JSON_OBJECT)
        return value;
    return none;
}

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

static int find_region(const struct invoke *v, const char *function, struct buffer *out, struct error *err)
{
    static const char *const names[] = {"region", "region_name"};
    struct json_value global, places[4];
    firing_global(v->firing, &global);
    places[0] = v->operator;
    places[1] = credentials_of(&v->operator);
    places[2] = *v->document;
    places[3] = credentials_of(&global);
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 2; j++)
            if (text_of(&places[i], names[j], out))
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

static int make_url(const struct invoke *v, const char *function, const char *region, struct buffer *out,
                    struct error *err)
{
    BUFFER_AUTO origin = BUFFER_INIT;
    if (invoke_text(v, "endpoint", true, out, err) < 0)
        return -1;
    while (out->len && out->data[out->len - 1] == '/')
        out->len--;
    if (!out->len)
        buffer_printf(out, "https://" SERVICE ".%s.amazonaws.com%s", region,
                      strncmp(region, "cn-", 3) ? "" : ".cn");
    if (http_call_origin(buffer_text(out), &origin, err) < 0)
        return error_prefix(err, "endpoint");
    return append_path(function, out, err);
}

/* Credentials that the operator itself has go with the intent. */
static void append_credentials(const struct json_value *place, struct buffer *out)
{
    static const char *const names[] = {"access_key_id", "secret_access_key", "session_token"};
    BUFFER_AUTO probe = BUFFER_INIT;
    if (!text_of(place, names[0], &probe))
        return;
    buffer_append_text(out, ",\"credentials\":{");
    for (size_t i = 0; i < 3; i++) {
        BUFFER_AUTO text = BUFFER_INIT;
        if (!text_of(place, names[i], &text))
            continue;
        buffer_printf(out, "%s\"%s\":", i ? "," : "", names[i]);
        buffer_append_json(out, buffer_text(&text), text.len);
    }
    buffer_append_char(out, '}');
}

static int read_more(const struct invoke *v, struct buffer *out, struct error *err)
{
    BUFFER_AUTO function = BUFFER_INIT;
    BUFFER_AUTO region = BUFFER_INIT;
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO probe = BUFFER_INIT;
    if (invoke_text(v, "function_name", false, &function, err) < 0 ||
        find_region(v, buffer_text(&function), &region, err) < 0 ||
        make_url(v, buffer_text(&function), buffer_text(&region), &url, err) < 0)
        return -1;
    buffer_append_text(out, "\"url\":");
    buffer_append_json(out, buffer_text(&url), url.len);
    buffer_append_text(out, ",\"region\":");
    buffer_append_json(out, buffer_text(&region), region.len);
    struct json_value nested = credentials_of(&v->operator);
    append_credentials(text_of(&nested, "access_key_id", &probe) ? &nested : &v->operator, out);
    return out->failed || url.failed ? out_of_memory(err) : 0;
}

extern const struct action_type action_aws_lambda_invoke;

static int start_or_again(const void *state, struct firing *firing, const struct json_value *request,
                          struct error *err)
{
    const struct invoke_aws *aws = state;
    struct invoke v;
    BUFFER_AUTO more = BUFFER_INIT;
    int r = invoke_read(&v, firing, &aws->document, err);
    if (r == 0)
        r = read_more(&v, &more, err);
    if (r == 0)
        r = request ? invoke_again(&v, &action_aws_lambda_invoke, buffer_text(&more), request, err)
                    : invoke_start(&v, &action_aws_lambda_invoke, buffer_text(&more), err);
    invoke_done(&v);
    return r;
}

static int fire(const void *state, struct firing *firing, struct error *err)
{
    return start_or_again(state, firing, NULL, err);
}

/* --- the request --- */

struct keys {
    struct buffer id, secret, token;
};

static bool read_keys(const struct json_value *object, struct keys *keys)
{
    if (!text_of(object, "access_key_id", &keys->id))
        return false;
    text_of(object, "secret_access_key", &keys->secret);
    text_of(object, "session_token", &keys->token);
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
        struct json_value global = credentials_of(&globals->root);
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

static int request(const struct invocation *invocation, struct http_call_request *request, struct error *err)
{
    struct json_value url, region;
    struct keys keys = {0};
    BUFFER_AUTO region_text = BUFFER_INIT;
    if (!json_member(&invocation->body, "url", &url) || url.type != JSON_STRING ||
        !json_member(&invocation->body, "region", &region) || region.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no url or region");
    json_unescape(&region, &region_text);
    json_unescape(&url, &request->url);
    invoke_payload(invocation, &request->body);
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

/* Answers of 2xx need not be read to their end. */
static enum invocation_verdict judge(const struct invocation *invocation, const struct http_answer *answer,
                                     struct error *err)
{
    bool done = answer->status >= 200 && answer->status < 300;
    const char *failed = done ? http_answer_header(answer, "X-Amz-Function-Error") : NULL;
    if (!failed)
        return invocation_judge(invocation, answer, err);
    error_set(err, ERROR_REFUSED, "answered %u, and the function has failed: %.40s", answer->status, failed);
    return INVOCATION_FAILED;
}

static const struct invocation_type invoked = {.request = request, .judge = judge};

static void start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &invoked);
}

static int check_context(const struct json_value *context, struct error *err)
{
    static const char *const texts[] = {"function_name", "region",        "region_name", "endpoint",
                                        "access_key_id", "session_token", NULL};
    return invoke_check(context, texts, err);
}

static const char *const parameters[] = {INVOCATION_PARAMETERS, "function_name", "region",
                                         "region_name",         "endpoint",      NULL};

const struct action_type action_aws_lambda_invoke = {.name = "AWS_LAMBDA_INVOKE",
                                                     .load = load,
                                                     .unload = unload,
                                                     .fire = fire,
                                                     .again = start_or_again,
                                                     .start = start,
                                                     .gave_up = invoke_gave_up,
                                                     .parameters = parameters,
                                                     .check_context = check_context};
