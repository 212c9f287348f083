#include "worker/executor/invocation_report.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/executor/executor.h"
#include "worker/executor/http_call.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/document/redact.h"
#include "worker/worker.h"

#define SHOWN_BODY 2048 /* bytes of an answer in a dead letter */

static struct cloudevent_span span(struct buffer *text)
{
    return (struct cloudevent_span){buffer_text(text), (uint32_t)text->len};
}

/* Packs an event that lacks only what all have. suffix: of the id, so that reply and failure differ. */
static int pack(const struct invocation *i, const struct cloudevent *lacking, const char *suffix,
                bool optional, struct error *err)
{
    struct cloudevent whole = *lacking;
    struct cloudevent *event = &whole;
    char time[CLOCK_ISO_MAX];
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO key = BUFFER_INIT;
    BUFFER_AUTO source = BUFFER_INIT;
    BUFFER_AUTO trigger = BUFFER_INIT;
    struct json_value value;
    buffer_append_text(&key, i->intent->key);
    buffer_printf(&id, "%s-%s", i->intent->key, suffix);
    if (intent_trigger(i->intent, &value))
        json_unescape(&value, &trigger);
    buffer_printf(&source, "urn:triggerflow:%s:%s", executor_worker(i->executor)->workspace,
                  buffer_text(&trigger));
    clock_iso(clock_unix_ns(), time);
    event->attribute[CE_SPECVERSION] = (struct cloudevent_span){"1.0", 3};
    event->attribute[CE_ID] = span(&id);
    event->attribute[CE_KEY] = span(&key);
    event->attribute[CE_SOURCE] = span(&source);
    event->attribute[CE_TIME] = (struct cloudevent_span){time, (uint32_t)strlen(time)};
    size_t size = cloudevent_packed_size(event);
    void *packed = id.failed || key.failed || source.failed || trigger.failed ? NULL : malloc(size);
    if (!packed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    cloudevent_pack(event, packed);
    free(i->intent->event);
    i->intent->event = packed;
    i->intent->event_optional = optional;
    return 0;
}

int invocation_report_done(const struct invocation *invocation, const struct http_answer *answer,
                           struct error *err)
{
    struct invocation_reply reply = {.kind = CE_DATA_ABSENT};
    struct cloudevent event;
    if (!invocation->type->reply)
        return 0;
    int r = invocation->type->reply(invocation, answer, &reply, err);
    if (r == 0 && (reply.type.failed || reply.subject.failed || reply.data.failed))
        r = error_set(err, ERROR_MEMORY, "out of memory");
    if (r == 0) {
        cloudevent_clear(&event);
        event.attribute[CE_TYPE] = span(&reply.type);
        event.attribute[CE_SUBJECT] = span(&reply.subject);
        event.data = reply.kind;
        if (reply.kind != CE_DATA_ABSENT)
            event.attribute[CE_DATA] = span(&reply.data);
        if (reply.kind == CE_DATA_JSON)
            event.attribute[CE_DATACONTENTTYPE] = (struct cloudevent_span){"application/json", 16};
        else if (reply.kind == CE_DATA_TEXT)
            event.attribute[CE_DATACONTENTTYPE] = (struct cloudevent_span){"text/plain", 10};
        r = pack(invocation, &event, "reply", false, err);
    }
    buffer_done(&reply.type);
    buffer_done(&reply.subject);
    buffer_done(&reply.data);
    return r < 0 ? -1 : 0;
}

static size_t cut_text(const char *text, size_t len)
{
    if (len <= SHOWN_BODY)
        return len;
    size_t n = SHOWN_BODY;
    while (n > SHOWN_BODY - 4 && ((unsigned char)text[n] & 0xC0) == 0x80)
        n--;
    return n;
}

static void append_answer(const struct http_answer *answer, struct buffer *out)
{
    struct json_value json;
    size_t shown = cut_text(answer->body, answer->len);
    buffer_printf(out, "{\"status\":%u,\"body\":", answer->status);
    if (shown == answer->len &&
        json_scan_within(answer->body, answer->len, JSON_DATA_DEPTH - 3, &json, NULL) == 0)
        redact_json(&json, NULL, out);
    else
        json_append_bytes(out, answer->body, shown);
    if (shown < answer->len || !answer->complete)
        buffer_append_text(out, ",\"cut\":true");
    buffer_append_char(out, '}');
}

void invocation_explain_answer(const struct http_answer *answer, struct buffer *out)
{
    buffer_append_text(out, ",\"answer\":");
    append_answer(answer, out);
}

static int emit_failure(const struct invocation *i, const struct http_answer *answer, const struct error *why)
{
    struct json_value subject;
    struct json_value trigger;
    struct cloudevent event;
    BUFFER_AUTO name = BUFFER_INIT;
    BUFFER_AUTO data = BUFFER_INIT;
    if (!json_member(&i->body, "subject", &subject) || subject.type != JSON_STRING)
        return 0;
    json_unescape(&subject, &name);
    buffer_printf(&data, "{\"key\":\"%s\",\"attempts\":%u,\"error\":", i->intent->key, i->intent->attempts);
    json_append_bytes(&data, why->message, strlen(why->message));
    if (intent_trigger(i->intent, &trigger)) {
        size_t len;
        const char *raw = json_raw(&trigger, &len);
        buffer_append_text(&data, ",\"trigger\":");
        buffer_append(&data, raw, len);
    }
    if (answer && answer->status)
        buffer_printf(&data, ",\"status\":%u", answer->status);
    if (i->type->explain)
        i->type->explain(i, &data);
    buffer_append_char(&data, '}');
    if (data.failed || name.failed)
        return -1;
    cloudevent_clear(&event);
    event.attribute[CE_TYPE] =
        (struct cloudevent_span){INVOCATION_FAILURE_TYPE, sizeof INVOCATION_FAILURE_TYPE - 1};
    event.attribute[CE_SUBJECT] = span(&name);
    event.attribute[CE_DATACONTENTTYPE] = (struct cloudevent_span){"application/json", 16};
    event.data = CE_DATA_JSON;
    event.attribute[CE_DATA] = span(&data);
    return pack(i, &event, "failure", true, NULL);
}

void invocation_report_failed(const struct invocation *invocation, const struct http_answer *answer,
                              const struct error *why)
{
    struct intent *intent = invocation->intent;
    struct buffer report = BUFFER_INIT;
    if (emit_failure(invocation, answer, why) < 0)
        abort(); /* the workflow would wait for ever: start again from the last checkpoint */
    buffer_printf(&report, "\"attempts\":%u", intent->attempts);
    if (answer && answer->status) {
        buffer_append_text(&report, ",\"answer\":");
        append_answer(answer, &report);
    }
    if (invocation->type->explain)
        invocation->type->explain(invocation, &report);
    buffer_append_char(&report, '\0');
    if (report.failed) {
        buffer_done(&report);
        return;
    }
    free(intent->report);
    intent->report = report.data;
}
