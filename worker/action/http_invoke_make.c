#include "worker/action/http_invoke.h"

#include <ctype.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/action/action.h"
#include "worker/executor/http_call_request.h"
#include "worker/document/template.h"

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

static int make_intent(struct making *m, struct error *err)
{
    size_t len;
    buffer_append_char(m->out, '{');
    if (make_url(m, err) < 0)
        return -1;
    text_member(m, "method", m->h->method, strlen(m->h->method));
    if (make_headers(m, err) < 0 || make_message(m, err) < 0 ||
        reply_write(&m->h->reply, &m->scope, m->out, err) < 0)
        return -1;
    if (m->h->auth.type == JSON_OBJECT) {
        const char *raw = json_raw(&m->h->auth, &len);
        member_name(m, "auth");
        buffer_append(m->out, raw, len);
    }
    buffer_append_char(m->out, ',');
    invocation_policy_write(&m->h->policy, m->out);
    buffer_append_char(m->out, '}');
    return m->out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

int http_invoke_make(const struct http_invoke *http_invoke, struct firing *firing, const char *key,
                     struct buffer *out, struct error *err)
{
    BUFFER_AUTO context_text = BUFFER_INIT;
    struct json_value context, global;
    firing_global(firing, &global);
    if (firing_context(firing, &context_text, err) < 0 ||
        json_scan(context_text.data, context_text.len, &context, err) < 0)
        return -1;
    struct making m = {.h = http_invoke,
                       .scope = {.event = firing_event(firing),
                                 .context = &context,
                                 .global = &global,
                                 .workspace = firing_workspace(firing),
                                 .trigger = firing_trigger(firing),
                                 .key = key},
                       .out = out};
    int r = make_intent(&m, err);
    template_scope_done(&m.scope);
    return r;
}
