#include "worker/action/reply.h"

#include "common/buffer.h"
#include "common/error.h"
#include "worker/document/document.h"
#include "worker/document/template.h"

int reply_load(struct reply *reply, const struct json_value *document, struct error *err)
{
    if (document_template(document, "subject", JSON_STRING, "a text", &reply->subject, err) < 0 ||
        document_template(document, "reply_type", JSON_STRING, "a text", &reply->type, err) < 0)
        return -1;
    return document_template(document, "reply_subject", JSON_STRING, "a text", &reply->of, err);
}

int reply_check(const struct json_value *document, bool standard, struct error *err)
{
    struct json_value value;
    bool wanted = standard;
    if (document_member(document, "reply", &value))
        wanted = json_equals(&value, "event", 5);
    if (!wanted &&
        (json_member(document, "reply_type", &value) || json_member(document, "reply_subject", &value)))
        return error_set(err, ERROR_INVALID, "reply_type and reply_subject need reply: event");
    if (json_member(document, "reply_type", &value) && value.type == JSON_STRING && !value.len)
        return error_set(err, ERROR_INVALID, "reply_type is empty");
    return 0;
}

static void text_member(const char *name, struct buffer *text, struct buffer *out)
{
    buffer_printf(out, "\"%s\":", name);
    buffer_append_json(out, buffer_text(text), text->len);
}

static int write_reply(const struct reply *reply, struct buffer *subject, struct template_scope *scope,
                       struct buffer *out, struct error *err)
{
    BUFFER_AUTO type = BUFFER_INIT;
    BUFFER_AUTO of = BUFFER_INIT;
    if (reply->type.type != JSON_STRING)
        buffer_append_text(&type, REPLY_TYPE);
    else if (template_render_text(&reply->type, scope, &type, err) < 0)
        return error_prefix(err, "reply_type");
    if (reply->of.type != JSON_STRING)
        buffer_append(&of, subject->data, subject->len);
    else if (template_render_text(&reply->of, scope, &of, err) < 0)
        return error_prefix(err, "reply_subject");
    if (!type.len)
        return error_set(err, ERROR_INVALID, "reply_type is empty");
    buffer_append_text(out, ",\"reply\":{");
    text_member("type", &type, out);
    buffer_append_char(out, ',');
    text_member("subject", &of, out);
    buffer_append_char(out, '}');
    return type.failed || of.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

int reply_write(const struct reply *reply, struct template_scope *scope, struct buffer *out,
                struct error *err)
{
    struct json_value value;
    BUFFER_AUTO subject = BUFFER_INIT;
    if (reply->subject.type == JSON_STRING) {
        if (template_render_text(&reply->subject, scope, &subject, err) < 0)
            return error_prefix(err, "subject");
    } else if (json_member(scope->context, "subject", &value) && value.type == JSON_STRING) {
        json_unescape(&value, &subject);
    } else {
        buffer_append_text(&subject, scope->trigger);
    }
    buffer_append_char(out, ',');
    text_member("subject", &subject, out);
    if (reply->wanted && write_reply(reply, &subject, scope, out, err) < 0)
        return -1;
    return subject.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}
