#include "worker/action/http_invoke.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/action/action.h"
#include "worker/executor/http_call_request.h"
#include "worker/executor/invocation.h"
#include "worker/document/redact.h"
#include "worker/document/secret.h"
#include "worker/document/template.h"

/* --- loading --- */

static void unload(void *state)
{
    struct http_invoke *h = state;
    if (!h)
        return;
    document_done(&h->document);
    free(h);
}

static int load_choices(struct http_invoke *h, const struct json_value *document, struct error *err)
{
    struct json_value value;
    struct http_call_request request = {.method = "POST"};
    BUFFER_AUTO text = BUFFER_INIT;
    if (document_template(document, "method", JSON_STRING, "a text", &value, err) < 0)
        return -1;
    if (value.type == JSON_STRING) {
        json_unescape(&value, &text);
        if (http_call_method(&request, buffer_text(&text), text.len, err) < 0)
            return -1;
    }
    memcpy(h->method, request.method, sizeof h->method);
    if (document_template(document, "mode", JSON_STRING, "binary, structured or raw", &value, err) < 0)
        return -1;
    h->mode = value.type != JSON_STRING          ? MODE_BINARY
              : json_equals(&value, "binary", 6) ? MODE_BINARY
              : json_equals(&value, "raw", 3)    ? MODE_RAW
                                                 : MODE_STRUCTURED;
    if (h->mode == MODE_STRUCTURED && !json_equals(&value, "structured", 10))
        return document_wrong("mode", &value, "binary, structured or raw", err);
    if (document_template(document, "reply", JSON_STRING, "ignore or event", &value, err) < 0)
        return -1;
    h->reply.wanted = value.type == JSON_STRING && json_equals(&value, "event", 5);
    if (value.type == JSON_STRING && !h->reply.wanted && !json_equals(&value, "ignore", 6))
        return document_wrong("reply", &value, "ignore or event", err);
    return 0;
}

/* Of what may also be a text. */
static int check_secret(const struct json_value *value, struct error *err)
{
    if (value->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, neither a text nor a secret",
                         json_type_name(value->type));
    return secret_check(value, err);
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
        BUFFER_AUTO literal = BUFFER_INIT;
        json_unescape(&name, &text);
        int r = value.type == JSON_STRING ? 0 : check_secret(&value, err);
        if (r < 0)
            return error_prefix(err, "headers.%.80s", buffer_text(&text));
        if (value.type == JSON_STRING && !template_has_paths(&value))
            json_unescape(&value, &literal);
        r = http_call_header(&probe, buffer_text(&text), buffer_text(&literal), err);
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
        return value.len ? 0 : error_set(err, ERROR_INVALID, "auth.%s.%s is empty", kind->name, m->name);
    if ((m->secret ? secret_check(&value, err) : check_secret(&value, err)) < 0)
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
    if (document_template(document, "url", JSON_STRING, "a text", &h->url, err) < 0 ||
        document_template(document, "headers", JSON_OBJECT, "an object", &h->headers, err) < 0 ||
        document_template(document, "auth", JSON_OBJECT, "an object", &h->auth, err) < 0 ||
        document_template(document, "body", JSON_ABSENT, "", &h->body, err) < 0 ||
        reply_load(&h->reply, document, err) < 0 || load_choices(h, document, err) < 0 ||
        load_headers(h, err) < 0 || load_auth(h, err) < 0)
        return -1;
    if (h->url.type == JSON_ABSENT || !h->url.len)
        return document_wrong("url", &h->url, "a URL", err);
    return invocation_policy_load(document, &h->policy, err);
}

static int load(const struct json_value *action, void **ret_state, struct error *err)
{
    struct http_invoke *h = calloc(1, sizeof *h);
    if (!h)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (document_init(&h->document, action, err) < 0 || read_document(h, &h->document.root, err) < 0) {
        unload(h);
        return -1;
    }
    *ret_state = h;
    return 0;
}

/* --- the intent --- */

extern const struct action_type action_http_invoke;

static int fire(const void *state, struct firing *firing, struct error *err)
{
    BUFFER_AUTO body = BUFFER_INIT;
    char key[ACTION_KEY_MAX];
    firing_key(firing, 0, key);
    if (http_invoke_make(state, firing, key, &body, err) < 0)
        return -1;
    return firing_intend(firing, &action_http_invoke, key, body.data, body.len, err);
}

static void start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &http_invoke_invocation);
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

/* One with a user that is no URL might show a password. */
static int check_url(struct buffer *url, struct error *err)
{
    BUFFER_AUTO origin = BUFFER_INIT;
    BUFFER_AUTO shown = BUFFER_INIT;
    if (http_call_origin(buffer_text(url), &origin, err) == 0)
        return 0;
    if (memchr(url->data, '@', url->len) && !memmem(url->data, url->len, "://", 3))
        return error_prefix(err, "url");
    redact_url(url->data, url->len, &shown);
    return error_set(err, ERROR_INVALID, "url is %.200s, not a URL of http or https", buffer_text(&shown));
}

static int check(const struct json_value *action, struct error *err)
{
    struct json_value value, name, inner;
    struct json_iter iter;
    BUFFER_AUTO url = BUFFER_INIT;
    if (json_member(action, "auth", &value) && value.type == JSON_OBJECT) {
        json_iter_init(&iter, &value);
        while (json_next(&iter, &name, &inner))
            if (check_known(&inner, find_auth_kind(&name), err) < 0)
                return -1;
    }
    if (reply_check(action, false, err) < 0)
        return -1;
    json_member(action, "url", &value);
    if (template_has_paths(&value))
        return 0;
    json_unescape(&value, &url);
    return check_url(&url, err);
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
