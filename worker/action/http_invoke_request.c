#include "worker/action/http_invoke.h"

#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/sigv4.h"
#include "worker/executor/executor.h"
#include "worker/globals.h"
#include "worker/executor/http_call.h"
#include "worker/executor/invocation.h"
#include "worker/document/redact.h"
#include "worker/document/secret.h"
#include "worker/worker.h"

/* --- the request --- */

/* A secret, or a text where that is allowed too. */
static int read_value(const struct secret_scope *scope, const struct json_value *object, const char *name,
                      struct buffer *out, struct error *err)
{
    struct json_value value;
    if (!json_member(object, name, &value))
        return error_set(err, ERROR_INVALID, "auth has no %s", name);
    if (value.type == JSON_STRING) {
        json_unescape(&value, out);
        return 0;
    }
    return secret_read(scope, &value, out, err);
}

static int add_basic(const struct secret_scope *scope, const struct json_value *basic,
                     struct http_call_request *request, struct error *err)
{
    BUFFER_AUTO plain = BUFFER_INIT;
    BUFFER_AUTO header = BUFFER_INIT;
    if (read_value(scope, basic, "user", &plain, err) < 0)
        return -1;
    buffer_append_char(&plain, ':');
    if (read_value(scope, basic, "password", &plain, err) < 0)
        return -1;
    buffer_append_text(&header, "Basic ");
    buffer_append_base64(&header, plain.data, plain.len);
    return http_call_header(request, "Authorization", buffer_text(&header), err);
}

static int add_bearer(const struct secret_scope *scope, const struct json_value *reference,
                      struct http_call_request *request, struct error *err)
{
    BUFFER_AUTO header = BUFFER_INIT;
    buffer_append_text(&header, "Bearer ");
    if (secret_read(scope, reference, &header, err) < 0)
        return -1;
    return http_call_header(request, "Authorization", buffer_text(&header), err);
}

static int send_signature(struct http_call_request *request, struct sigv4_signature *signature,
                          const char *session_token, struct error *err)
{
    if (http_call_header(request, "X-Amz-Date", signature->date, err) < 0 ||
        http_call_header(request, "Authorization", buffer_text(&signature->authorization), err) < 0)
        return -1;
    return session_token ? http_call_header(request, "X-Amz-Security-Token", session_token, err) : 0;
}

static int add_sigv4(const struct secret_scope *scope, const struct json_value *auth,
                     struct http_call_request *request, struct error *err)
{
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO secret = BUFFER_INIT;
    BUFFER_AUTO token = BUFFER_INIT;
    BUFFER_AUTO region = BUFFER_INIT;
    BUFFER_AUTO service = BUFFER_INIT;
    BUFFER_AUTO host = BUFFER_INIT;
    BUFFER_AUTO path = BUFFER_INIT;
    BUFFER_AUTO query = BUFFER_INIT;
    struct json_value value;
    struct sigv4_signature signature;
    if (read_value(scope, auth, "access_key_id", &id, err) < 0 ||
        read_value(scope, auth, "secret_access_key", &secret, err) < 0 ||
        read_value(scope, auth, "region", &region, err) < 0 ||
        read_value(scope, auth, "service", &service, err) < 0 ||
        (json_member(auth, "session_token", &value) &&
         read_value(scope, auth, "session_token", &token, err) < 0) ||
        http_call_url_parts(buffer_text(&request->url), &host, &path, &query, err) < 0)
        return -1;
    struct sigv4_credentials credentials = {.access_key_id = buffer_text(&id),
                                            .secret_access_key = buffer_text(&secret),
                                            .session_token = token.len ? buffer_text(&token) : NULL};
    struct sigv4_request to_sign = {.method = request->method,
                                    .host = buffer_text(&host),
                                    .path = buffer_text(&path),
                                    .query = buffer_text(&query),
                                    .body = request->body.data ? request->body.data : "",
                                    .body_len = request->body.len};
    if (sigv4_sign(&credentials, buffer_text(&region), buffer_text(&service), &to_sign,
                   clock_unix_ns() / CLOCK_S, &signature, err) < 0)
        return -1;
    int r = send_signature(request, &signature, credentials.session_token, err);
    sigv4_done(&signature);
    return r;
}

static int add_auth(const struct secret_scope *scope, const struct json_value *body,
                    struct http_call_request *request, struct error *err)
{
    struct json_value auth, value;
    if (!json_member(body, "auth", &auth) || auth.type != JSON_OBJECT)
        return 0;
    int r = json_member(&auth, "basic", &value)       ? add_basic(scope, &value, request, err)
            : json_member(&auth, "bearer", &value)    ? add_bearer(scope, &value, request, err)
            : json_member(&auth, "aws_sigv4", &value) ? add_sigv4(scope, &value, request, err)
                                                      : error_set(err, ERROR_INVALID, "unknown");
    return r < 0 ? error_prefix(err, "auth") : 0;
}

static int add_headers(const struct secret_scope *scope, const struct json_value *body,
                       struct http_call_request *request, struct error *err)
{
    struct json_iter iter;
    struct json_value headers, name, value;
    if (!json_member(body, "headers", &headers) || headers.type != JSON_OBJECT)
        return 0;
    json_iter_init(&iter, &headers);
    while (json_next(&iter, &name, &value)) {
        BUFFER_AUTO name_text = BUFFER_INIT;
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&name, &name_text);
        if (value.type == JSON_STRING)
            json_unescape(&value, &text);
        else if (secret_read(scope, &value, &text, err) < 0)
            return error_prefix(err, "header %.80s", buffer_text(&name_text));
        if (!strcmp(buffer_text(&text), REDACTED))
            return error_set(err, ERROR_INVALID, "the secret in header %.80s was taken out",
                             buffer_text(&name_text));
        if (http_call_header(request, buffer_text(&name_text), buffer_text(&text), err) < 0)
            return -1;
    }
    return 0;
}

static void add_payload(const struct json_value *body, struct http_call_request *request)
{
    struct json_value value;
    size_t len;
    if (json_member(body, "json", &value)) {
        const char *raw = json_raw(&value, &len);
        buffer_append(&request->body, raw, len);
    } else if (json_member(body, "text", &value) && value.type == JSON_STRING) {
        json_unescape(&value, &request->body);
    } else if (json_member(body, "base64", &value) && value.type == JSON_STRING) {
        struct cloudevent event = {.data = CE_DATA_BASE64};
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&value, &text);
        event.attribute[CE_DATA] = (struct cloudevent_span){buffer_text(&text), (uint32_t)text.len};
        cloudevent_data_bytes(&event, &request->body);
    }
}

static int fill_request(const struct secret_scope *scope, const struct json_value *body,
                        struct http_call_request *request, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(body, "url", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no url");
    json_unescape(&value, &request->url);
    if (json_member(body, "method", &value) && value.type == JSON_STRING)
        json_unescape(&value, &text);
    if (http_call_method(request, buffer_text(&text), text.len, err) < 0)
        return -1;
    add_payload(body, request);
    if (add_headers(scope, body, request, err) < 0)
        return -1;
    if (!http_call_has_header(request, "Content-Type") && json_member(body, "content_type", &value)) {
        BUFFER_AUTO type = BUFFER_INIT;
        json_unescape(&value, &type);
        if (http_call_header(request, "Content-Type", buffer_text(&type), err) < 0)
            return -1;
    }
    return add_auth(scope, body, request, err);
}

static int make_request(const struct invocation *invocation, struct http_call_request *request,
                        struct error *err)
{
    struct worker *w = executor_worker(invocation->executor);
    struct globals *globals = globals_get(&w->globals);
    struct secret_scope scope = {
        .config = w->config, .workspace = w->workspace, .global = globals ? &globals->root : NULL};
    int r = fill_request(&scope, &invocation->body, request, err);
    globals_unref(globals);
    return r;
}

/* --- the reply --- */

static bool is_text(const char *text, size_t len)
{
    return utf8_valid(text, len) && !memchr(text, '\0', len);
}

/* Whether it is JSON that can be a member of an event. */
static bool is_json(const char *text, size_t len)
{
    struct json_value json;
    return json_scan_within(text, len, JSON_DATA_DEPTH, &json, NULL) == 0;
}

/* JSON by its content type or without one, when it is; else text; else base64. */
static void reply_data(const struct http_answer *answer, struct invocation_reply *reply)
{
    const char *type = http_answer_header(answer, "Content-Type");
    bool may_be_json = !type || strstr(type, "json");
    if (!answer->len)
        return;
    if (may_be_json && is_json(answer->body, answer->len)) {
        reply->kind = CE_DATA_JSON;
        buffer_append(&reply->data, answer->body, answer->len);
    } else if (is_text(answer->body, answer->len)) {
        reply->kind = CE_DATA_TEXT;
        buffer_append(&reply->data, answer->body, answer->len);
    } else {
        reply->kind = CE_DATA_BASE64;
        buffer_append_base64(&reply->data, answer->body, answer->len);
    }
}

static int make_reply(const struct invocation *invocation, const struct http_answer *answer,
                      struct invocation_reply *reply, struct error *err)
{
    struct json_value wanted, value;
    if (!json_member(&invocation->body, "reply", &wanted) || wanted.type != JSON_OBJECT)
        return 1;
    if (!answer->complete) {
        *err = *answer->error;
        return error_prefix(err, "answered %u", answer->status);
    }
    if (json_member(&wanted, "type", &value) && value.type == JSON_STRING)
        json_unescape(&value, &reply->type);
    if (json_member(&wanted, "subject", &value) && value.type == JSON_STRING)
        json_unescape(&value, &reply->subject);
    reply_data(answer, reply);
    return 0;
}

const struct invocation_type http_invoke_invocation = {.request = make_request, .reply = make_reply};
