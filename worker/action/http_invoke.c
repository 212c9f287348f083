/* HTTP_INVOKE: sends the event that made the trigger fire, or a body of its own, to a URL.
 *
 *     {"name":"HTTP_INVOKE", "url", "method":"POST", "headers":{name: text or secret},
 *      "mode":"binary"|"structured"|"raw", "body",
 *      "auth":{"basic":{"user","password"}} | {"bearer":secret}
 *           | {"aws_sigv4":{"region","service","access_key_id","secret_access_key","session_token"?}},
 *      "reply":"ignore"|"event", "reply_type", "reply_subject", "subject",
 *      and the policy's members (worker/invocation_policy.h)}
 *
 * url, header values, body, reply_type, reply_subject and subject may hold paths (worker/template.h), and are
 * made when the trigger fires. A secret is a reference (worker/secret.h), read when the request is sent. In
 * the binary and structured mode the event is sent as CloudEvents' HTTP binding says, with the idempotency
 * key as triggerflowkey; `body` then takes the place of its data. In the raw mode `body` alone is sent.
 *
 * The intent's body: {"url","method","headers","content_type"?, one of "text", "json" and "base64", "auth"?,
 * "reply"?:{"type","subject"}, "subject","policy"}. */
#include "worker/action/action.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/sigv4.h"
#include "worker/executor.h"
#include "worker/globals.h"
#include "worker/http_call.h"
#include "worker/intent.h"
#include "worker/invocation.h"
#include "worker/redact.h"
#include "worker/secret.h"
#include "worker/template.h"
#include "worker/worker.h"

#define STANDARD_REPLY_TYPE "event.triggerflow.termination.success"

enum mode { MODE_BINARY, MODE_STRUCTURED, MODE_RAW };

struct http_invoke {
    char *text; /* the action's document; the values below borrow it */
    char method[16];
    enum mode mode;
    struct json_value url, headers, body, auth; /* JSON_ABSENT: none */
    struct json_value subject, reply_type, reply_subject;
    bool reply;
    struct invocation_policy policy;
};

/* --- loading --- */

static void unload(void *state)
{
    struct http_invoke *h = state;
    if (!h)
        return;
    free(h->text);
    free(h);
}

static int wrong(const char *member, const struct json_value *value, const char *wanted, struct error *err)
{
    if (value->type == JSON_ABSENT)
        return error_set(err, ERROR_INVALID, "%s is missing", member);
    size_t len;
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "%s is %.*s, not %s", member, (int)(len < 80 ? len : 80), raw,
                     wanted);
}

/* Takes a member; null is as if it were absent. Its paths must be well-formed. */
static int take(const struct json_value *document, const char *member, enum json_type type,
                const char *wanted, struct json_value *ret_value, struct error *err)
{
    if (!json_member(document, member, ret_value) || ret_value->type == JSON_NULL) {
        ret_value->type = JSON_ABSENT;
        return 0;
    }
    if (type != JSON_ABSENT && ret_value->type != type)
        return wrong(member, ret_value, wanted, err);
    return template_check(ret_value, err) < 0 ? error_prefix(err, "%s", member) : 0;
}

static int load_choices(struct http_invoke *h, const struct json_value *document, struct error *err)
{
    struct json_value value;
    struct http_call_request request = {.method = "POST"};
    BUFFER_AUTO text = BUFFER_INIT;
    if (take(document, "method", JSON_STRING, "a text", &value, err) < 0)
        return -1;
    if (value.type == JSON_STRING) {
        json_unescape(&value, &text);
        if (http_call_method(&request, buffer_text(&text), text.len, err) < 0)
            return -1;
    }
    memcpy(h->method, request.method, sizeof h->method);
    if (take(document, "mode", JSON_STRING, "binary, structured or raw", &value, err) < 0)
        return -1;
    h->mode = value.type != JSON_STRING          ? MODE_BINARY
              : json_equals(&value, "binary", 6) ? MODE_BINARY
              : json_equals(&value, "raw", 3)    ? MODE_RAW
                                                 : MODE_STRUCTURED;
    if (h->mode == MODE_STRUCTURED && !json_equals(&value, "structured", 10))
        return wrong("mode", &value, "binary, structured or raw", err);
    if (take(document, "reply", JSON_STRING, "ignore or event", &value, err) < 0)
        return -1;
    h->reply = value.type == JSON_STRING && json_equals(&value, "event", 5);
    if (value.type == JSON_STRING && !h->reply && !json_equals(&value, "ignore", 6))
        return wrong("reply", &value, "ignore or event", err);
    return 0;
}

static int load_headers(const struct http_invoke *h, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    if (h->headers.type == JSON_ABSENT)
        return 0;
    json_iter_init(&iter, &h->headers);
    while (json_next(&iter, &name, &value)) {
        struct http_call_request probe = {.method = "POST"};
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&name, &text);
        int r = value.type == JSON_STRING ? 0 : secret_check(&value, err);
        if (r < 0)
            return error_prefix(err, "headers.%.80s", buffer_text(&text));
        r = http_call_header(&probe, buffer_text(&text), "", err);
        http_call_request_done(&probe);
        if (r < 0)
            return error_prefix(err, "headers");
    }
    return 0;
}

/* The members of one way of authentication: those that must be there, then those that may. A secret is a
 * reference; anything else is a text. */
struct auth_member {
    const char *name;
    bool secret;
    bool optional;
};

struct auth_kind {
    const char *name;
    struct auth_member members[6];
};

static const struct auth_kind auth_kinds[] = {
    {"basic", {{"user", false, false}, {"password", true, false}}},
    {"bearer", {{NULL, true, false}}},
    {"aws_sigv4",
     {{"region", false, false},
      {"service", false, false},
      {"access_key_id", false, false},
      {"secret_access_key", true, false},
      {"session_token", true, true}}},
};

static int load_auth_member(const struct auth_kind *kind, const struct auth_member *m,
                            const struct json_value *object, struct error *err)
{
    struct json_value value;
    if (!json_member(object, m->name, &value))
        return m->optional ? 0 : error_set(err, ERROR_INVALID, "auth.%s.%s is missing", kind->name, m->name);
    if (!m->secret && value.type == JSON_STRING)
        return 0;
    if (secret_check(&value, err) < 0)
        return error_prefix(err, "auth.%s.%s", kind->name, m->name);
    return 0;
}

static const struct auth_kind *find_auth_kind(const struct json_value *name)
{
    for (size_t i = 0; i < sizeof auth_kinds / sizeof auth_kinds[0]; i++)
        if (json_equals(name, auth_kinds[i].name, strlen(auth_kinds[i].name)))
            return &auth_kinds[i];
    return NULL;
}

static int load_auth(const struct http_invoke *h, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value, more;
    if (h->auth.type == JSON_ABSENT)
        return 0;
    json_iter_init(&iter, &h->auth);
    bool one = json_next(&iter, &name, &value);
    const struct auth_kind *kind = one ? find_auth_kind(&name) : NULL;
    if (!kind || json_next(&iter, &more, &more))
        return error_set(err, ERROR_INVALID, "auth holds not exactly one of basic, bearer and aws_sigv4");
    if (!kind->members[0].name)
        return secret_check(&value, err) < 0 ? error_prefix(err, "auth.%s", kind->name) : 0;
    if (value.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "auth.%s is not an object", kind->name);
    for (const struct auth_member *m = kind->members; m->name; m++)
        if (load_auth_member(kind, m, &value, err) < 0)
            return -1;
    return 0;
}

static int read_document(struct http_invoke *h, const struct json_value *document, struct error *err)
{
    if (take(document, "url", JSON_STRING, "a text", &h->url, err) < 0 ||
        take(document, "headers", JSON_OBJECT, "an object", &h->headers, err) < 0 ||
        take(document, "auth", JSON_OBJECT, "an object", &h->auth, err) < 0 ||
        take(document, "body", JSON_ABSENT, "", &h->body, err) < 0 ||
        take(document, "subject", JSON_STRING, "a text", &h->subject, err) < 0 ||
        take(document, "reply_type", JSON_STRING, "a text", &h->reply_type, err) < 0 ||
        take(document, "reply_subject", JSON_STRING, "a text", &h->reply_subject, err) < 0 ||
        load_choices(h, document, err) < 0 || load_headers(h, err) < 0 || load_auth(h, err) < 0)
        return -1;
    if (h->url.type == JSON_ABSENT || !h->url.len)
        return wrong("url", &h->url, "a URL", err);
    return invocation_policy_load(document, &h->policy, err);
}

static int load(const struct json_value *action, void **ret_state, struct error *err)
{
    size_t len;
    const char *raw = json_raw(action, &len);
    struct json_value document;
    struct http_invoke *h = calloc(1, sizeof *h);
    if (!h || !(h->text = strndup(raw, len))) {
        free(h);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    if (json_scan(h->text, len, &document, err) < 0 || read_document(h, &document, err) < 0) {
        unload(h);
        return -1;
    }
    *ret_state = h;
    return 0;
}

/* --- firing: the request as far as it can be made now --- */

struct making {
    const struct http_invoke *h;
    struct template_scope scope;
    struct buffer *out; /* the intent's body */
};

static void member_name(struct making *m, const char *name)
{
    buffer_printf(m->out, "%s\"%s\":", m->out->len > 1 ? "," : "", name);
}

static void text_member(struct making *m, const char *name, const char *text, size_t len)
{
    member_name(m, name);
    buffer_append_json(m->out, text, len);
}

static int make_url(struct making *m, struct error *err)
{
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO origin = BUFFER_INIT;
    if (template_render_url(&m->h->url, &m->scope, &url, err) < 0 ||
        http_call_origin(buffer_text(&url), &origin, err) < 0)
        return error_prefix(err, "url");
    text_member(m, "url", url.data, url.len);
    return 0;
}

static int make_headers(struct making *m, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    const char *comma = "";
    member_name(m, "headers");
    buffer_append_char(m->out, '{');
    if (m->h->headers.type == JSON_OBJECT)
        json_iter_init(&iter, &m->h->headers);
    while (m->h->headers.type == JSON_OBJECT && json_next(&iter, &name, &value)) {
        size_t len;
        const char *raw = json_raw(&name, &len);
        buffer_append_text(m->out, comma);
        buffer_append(m->out, raw, len);
        buffer_append_char(m->out, ':');
        comma = ",";
        raw = json_raw(&value, &len);
        BUFFER_AUTO text = BUFFER_INIT;
        if (value.type != JSON_STRING)
            buffer_append(m->out, raw, len);
        else if (template_render_text(&value, &m->scope, &text, err) < 0)
            return error_prefix(err, "headers");
        else
            buffer_append_json(m->out, buffer_text(&text), text.len);
    }
    return 0;
}

/* What is sent in the raw mode, or in place of the event's data. */
static int make_body(struct making *m, struct buffer *text, bool *ret_json, struct error *err)
{
    const struct json_value *body = &m->h->body;
    *ret_json = body->type != JSON_STRING;
    int r = *ret_json ? template_render(body, &m->scope, text, err)
                      : template_render_text(body, &m->scope, text, err);
    return r < 0 ? error_prefix(err, "body") : 0;
}

static void payload(struct making *m, const struct cloudevent *event)
{
    const struct cloudevent_span *data = &event->attribute[CE_DATA];
    switch (event->data) {
    case CE_DATA_ABSENT:
        break;
    case CE_DATA_TEXT:
        text_member(m, "text", data->text, data->len);
        break;
    case CE_DATA_JSON:
        member_name(m, "json");
        buffer_append(m->out, data->text, data->len);
        break;
    case CE_DATA_BASE64:
        text_member(m, "base64", data->text, data->len);
        break;
    }
}

static int make_raw(struct making *m, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    bool json;
    buffer_append_char(m->out, '}');
    if (m->h->body.type == JSON_ABSENT)
        return 0;
    if (make_body(m, &text, &json, err) < 0)
        return -1;
    text_member(m, "content_type", json ? "application/json" : "text/plain; charset=utf-8", json ? 16 : 25);
    if (json) {
        member_name(m, "json");
        buffer_append(m->out, buffer_text(&text), text.len);
    } else {
        text_member(m, "text", buffer_text(&text), text.len);
    }
    return 0;
}

/* A header's value, CloudEvents HTTP protocol binding 1.0.2, section 3.1.3.2: printable ASCII but the quote
 * and the percent sign as it is, all else percent-encoded. */
static void append_attribute(const char *name, size_t name_len, const struct cloudevent_span *value,
                             bool *first, struct buffer *out)
{
    BUFFER_AUTO text = BUFFER_INIT;
    for (uint32_t i = 0; i < value->len; i++) {
        unsigned char c = (unsigned char)value->text[i];
        if (c > ' ' && c < 0x7f && c != '"' && c != '%')
            buffer_append_char(&text, (char)c);
        else
            buffer_printf(&text, "%%%02X", c);
    }
    buffer_printf(out, "%s\"ce-%.*s\":\"", *first ? "" : ",", (int)name_len, name);
    *first = false;
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == '\\')
            buffer_append_char(out, '\\');
        buffer_append_char(out, text.data[i]);
    }
    buffer_append_char(out, '"');
    out->failed |= text.failed;
}

static bool is_token(const struct cloudevent_span *name)
{
    for (uint32_t i = 0; i < name->len; i++)
        if (!isalnum((unsigned char)name->text[i]) && !strchr("-_", name->text[i]))
            return false;
    return name->len;
}

static void make_binary(struct making *m, const struct cloudevent *event)
{
    const struct cloudevent_span *type = &event->attribute[CE_DATACONTENTTYPE];
    bool first = m->out->data && m->out->data[m->out->len - 1] == '{';
    for (unsigned a = 0; a < CE_DATA; a++) {
        const char *name = cloudevent_attribute_name(a);
        if (a != CE_DATACONTENTTYPE && event->attribute[a].text)
            append_attribute(name, strlen(name), &event->attribute[a], &first, m->out);
    }
    for (unsigned i = 0; i < event->n_extensions; i++)
        if (is_token(&event->extension[i].name))
            append_attribute(event->extension[i].name.text, event->extension[i].name.len,
                             &event->extension[i].value, &first, m->out);
    buffer_append_char(m->out, '}');
    if (type->len)
        text_member(m, "content_type", type->text, type->len);
    else if (event->data == CE_DATA_JSON)
        text_member(m, "content_type", "application/json", 16);
    payload(m, event);
}

static void make_structured(struct making *m, const struct cloudevent *event)
{
    static const char type[] = "application/cloudevents+json; charset=utf-8";
    buffer_append_char(m->out, '}');
    text_member(m, "content_type", type, sizeof type - 1);
    member_name(m, "json");
    cloudevent_write(event, m->out);
}

/* Events from brokers carry JSON as a text. */
static void read_text_data(struct cloudevent *event, struct buffer *text)
{
    struct json_value json;
    cloudevent_data_json(event, text);
    if (!text->failed && json_scan(text->data, text->len, &json, NULL) == 0 && json.type != JSON_STRING) {
        event->data = CE_DATA_JSON;
        event->attribute[CE_DATA] = (struct cloudevent_span){text->data, (uint32_t)text->len};
    }
}

/* headers are open: binary mode adds to them. */
static int make_message(struct making *m, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct cloudevent event = *m->scope.event;
    bool json;
    if (m->h->mode == MODE_RAW)
        return make_raw(m, err);
    if (!event.attribute[CE_SPECVERSION].len)
        event.attribute[CE_SPECVERSION] = (struct cloudevent_span){"1.0", 3};
    event.attribute[CE_KEY] = (struct cloudevent_span){m->scope.key, (uint32_t)strlen(m->scope.key)};
    if (m->h->body.type != JSON_ABSENT) {
        if (make_body(m, &text, &json, err) < 0)
            return -1;
        event.data = json ? CE_DATA_JSON : CE_DATA_TEXT;
        event.attribute[CE_DATA] = (struct cloudevent_span){buffer_text(&text), (uint32_t)text.len};
        event.attribute[CE_DATACONTENTTYPE] = json ? (struct cloudevent_span){"application/json", 16}
                                                   : (struct cloudevent_span){"text/plain", 10};
    } else if (event.data == CE_DATA_TEXT) {
        read_text_data(&event, &text);
    }
    if (m->h->mode == MODE_BINARY)
        make_binary(m, &event);
    else
        make_structured(m, &event);
    return text.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

/* Whose failure it is: as given, else as the context says, else the trigger. */
static int make_subject(struct making *m, struct buffer *ret_subject, struct error *err)
{
    struct json_value value;
    if (m->h->subject.type == JSON_STRING) {
        if (template_render_text(&m->h->subject, &m->scope, ret_subject, err) < 0)
            return error_prefix(err, "subject");
    } else if (json_member(m->scope.context, "subject", &value) && value.type == JSON_STRING) {
        json_unescape(&value, ret_subject);
    } else {
        buffer_append_text(ret_subject, m->scope.trigger);
    }
    text_member(m, "subject", buffer_text(ret_subject), ret_subject->len);
    return 0;
}

static int make_reply(struct making *m, const struct buffer *subject, struct error *err)
{
    BUFFER_AUTO type = BUFFER_INIT;
    BUFFER_AUTO of = BUFFER_INIT;
    if (!m->h->reply)
        return 0;
    if (m->h->reply_type.type != JSON_STRING)
        buffer_append_text(&type, STANDARD_REPLY_TYPE);
    else if (template_render_text(&m->h->reply_type, &m->scope, &type, err) < 0)
        return error_prefix(err, "reply_type");
    if (m->h->reply_subject.type != JSON_STRING)
        buffer_append(&of, subject->data, subject->len);
    else if (template_render_text(&m->h->reply_subject, &m->scope, &of, err) < 0)
        return error_prefix(err, "reply_subject");
    if (!type.len)
        return error_set(err, ERROR_INVALID, "reply_type is empty");
    member_name(m, "reply");
    buffer_append_text(m->out, "{\"type\":");
    buffer_append_json(m->out, buffer_text(&type), type.len);
    buffer_append_text(m->out, ",\"subject\":");
    buffer_append_json(m->out, buffer_text(&of), of.len);
    buffer_append_char(m->out, '}');
    return 0;
}

static int make_intent(struct making *m, struct error *err)
{
    BUFFER_AUTO subject = BUFFER_INIT;
    size_t len;
    buffer_append_char(m->out, '{');
    if (make_url(m, err) < 0)
        return -1;
    text_member(m, "method", m->h->method, strlen(m->h->method));
    if (make_headers(m, err) < 0 || make_message(m, err) < 0 || make_subject(m, &subject, err) < 0 ||
        make_reply(m, &subject, err) < 0)
        return -1;
    if (m->h->auth.type == JSON_OBJECT) {
        const char *raw = json_raw(&m->h->auth, &len);
        member_name(m, "auth");
        buffer_append(m->out, raw, len);
    }
    buffer_append_char(m->out, ',');
    invocation_policy_write(&m->h->policy, m->out);
    buffer_append_char(m->out, '}');
    return m->out->failed || subject.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

extern const struct action_type action_http_invoke;

static int fire(const void *state, struct firing *firing, struct error *err)
{
    BUFFER_AUTO context_text = BUFFER_INIT;
    BUFFER_AUTO body = BUFFER_INIT;
    struct json_value context, global;
    char key[ACTION_KEY_MAX];
    firing_key(firing, 0, key);
    firing_global(firing, &global);
    if (firing_context(firing, &context_text, err) < 0 ||
        json_scan(context_text.data, context_text.len, &context, err) < 0)
        return -1;
    struct making m = {.h = state,
                       .scope = {.event = firing_event(firing),
                                 .context = &context,
                                 .global = &global,
                                 .workspace = firing_workspace(firing),
                                 .trigger = firing_trigger(firing),
                                 .key = key},
                       .out = &body};
    int r = make_intent(&m, err);
    template_scope_done(&m.scope);
    return r < 0 ? -1 : firing_intend(firing, &action_http_invoke, key, body.data, body.len, err);
}

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

static int request(const struct invocation *invocation, struct http_call_request *request, struct error *err)
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

/* JSON by its content type or without one, when it is; else text; else base64. */
static void reply_data(const struct http_answer *answer, struct invocation_reply *reply)
{
    struct json_value json;
    const char *type = http_answer_header(answer, "Content-Type");
    bool may_be_json = !type || strstr(type, "json");
    if (!answer->len)
        return;
    if (may_be_json && json_scan(answer->body, answer->len, &json, NULL) == 0) {
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

static int reply(const struct invocation *invocation, const struct http_answer *answer,
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

static const struct invocation_type invocation = {.request = request, .reply = reply};

static void start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &invocation);
}

/* --- registration; load has accepted it --- */

static int check_known(const struct json_value *object, const struct auth_kind *kind, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    if (object->type != JSON_OBJECT || !kind->members[0].name)
        return 0;
    json_iter_init(&iter, object);
    while (json_next(&iter, &name, &value)) {
        bool known = false;
        for (const struct auth_member *m = kind->members; m->name; m++)
            known |= json_equals(&name, m->name, strlen(m->name));
        if (!known)
            return error_set(err, ERROR_INVALID, "auth.%s: unknown member %.*s", kind->name,
                             (int)(name.len < 80 ? name.len : 80), name.text);
    }
    return 0;
}

static int check(const struct json_value *action, struct error *err)
{
    struct json_value value, name, inner;
    struct json_iter iter;
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO origin = BUFFER_INIT;
    if (json_member(action, "auth", &value) && value.type == JSON_OBJECT) {
        json_iter_init(&iter, &value);
        while (json_next(&iter, &name, &inner))
            if (check_known(&inner, find_auth_kind(&name), err) < 0)
                return -1;
    }
    if (json_member(action, "reply", &value) && !json_equals(&value, "event", 5) &&
        (json_member(action, "reply_type", &inner) || json_member(action, "reply_subject", &inner)))
        return error_set(err, ERROR_INVALID, "reply_type and reply_subject need reply: event");
    json_member(action, "url", &value);
    if (template_has_paths(&value))
        return 0;
    json_unescape(&value, &url);
    return http_call_origin(buffer_text(&url), &origin, err) < 0 ? error_prefix(err, "url") : 0;
}

static const char *const parameters[] = {"url",
                                         "method",
                                         "headers",
                                         "mode",
                                         "body",
                                         "auth",
                                         "reply",
                                         "reply_type",
                                         "reply_subject",
                                         "subject",
                                         INVOCATION_PARAMETERS,
                                         NULL};

const struct action_type action_http_invoke = {.name = "HTTP_INVOKE",
                                               .load = load,
                                               .unload = unload,
                                               .fire = fire,
                                               .start = start,
                                               .parameters = parameters,
                                               .check = check};
