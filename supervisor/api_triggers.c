/* Calls of the trigger API about triggers. See api_call.h. */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "supervisor/api_call.h"
#include "supervisor/api_trigger.h"
#include "supervisor/status.h"

#define CHECK_BYTES \
    (1u << 20) /* of triggers in one question to the checker, and then the one that is in hand */

/* ---- Documents ---- */

/* Appends the trigger as it is stored: its members with this id and what the API adds. id "": the uuid's hex
 * digits, put there. The timestamp is as the original writes it, without a zone. */
static bool append_stored(struct buffer *out, const char *workspace, const struct json_value *trigger,
                          char id[HTTP_SEGMENT_MAX])
{
    static const char *const ours[] = {"id", "uuid", "workspace", "timestamp", NULL};
    char uuid[API_ID_MAX], time[CLOCK_ISO_MAX];
    if (!api_make_id(uuid))
        return false;
    if (id[0] == '\0') {
        size_t n = 0;
        for (const char *c = uuid; *c; c++)
            if (*c != '-')
                id[n++] = *c;
        id[n] = '\0';
    }
    clock_iso(clock_unix_ns(), time);
    time[strcspn(time, "Z")] = '\0';
    buffer_append_text(out, "{\"id\":");
    buffer_append_json(out, id, strlen(id));
    api_append_others(out, trigger, ours, false);
    buffer_printf(out, ",\"uuid\":\"%s\",\"workspace\":\"%s\",\"timestamp\":\"%s\"}", uuid, workspace, time);
    return true;
}

/* ---- POST /workspace/X/trigger ---- */

struct candidate {
    struct json_value given;
    char id[HTTP_SEGMENT_MAX];
    size_t at, len;                                          /* in the documents */
    char reason[sizeof((struct error *)NULL)->message + 60]; /* "": accepted */
};

struct batch {
    struct candidate *all;
    size_t n;
    struct buffer documents;
    struct storage_op *ops;
    int *results;
};

static void reject(struct candidate *c, const char *reason)
{
    snprintf(c->reason, sizeof c->reason, "%s", reason);
}

static bool well_formed(const struct json_value *trigger)
{
    static const char *const members[] = {"id",      "condition",         "action",
                                          "context", "activation_events", "transient",
                                          "?",       "context_parser",    NULL};
    struct json_value id, condition, action, context, events, transient;
    return api_has_exactly(trigger, members) && json_member(trigger, "id", &id) &&
           (id.type == JSON_NULL || id.type == JSON_STRING) &&
           json_member(trigger, "condition", &condition) && condition.type == JSON_OBJECT &&
           json_member(trigger, "action", &action) && action.type == JSON_OBJECT &&
           json_member(trigger, "context", &context) && context.type == JSON_OBJECT &&
           json_member(trigger, "activation_events", &events) && events.type == JSON_ARRAY &&
           json_member(trigger, "transient", &transient) &&
           (transient.type == JSON_TRUE || transient.type == JSON_FALSE);
}

static void prepare(struct batch *batch, const char *workspace, struct candidate *c)
{
    struct json_value id;
    struct error err;
    if (!well_formed(&c->given)) {
        reject(c, "Malformed trigger schema");
        return;
    }
    if (json_member(&c->given, "id", &id) && id.type == JSON_STRING &&
        !api_read_name(&id, "id", c->id, &err)) {
        reject(c, err.message);
        return;
    }
    c->at = batch->documents.len;
    if (!append_stored(&batch->documents, workspace, &c->given, c->id))
        reject(c, "no random numbers to be had");
    c->len = batch->documents.len - c->at;
}

/* Counts, then takes the elements. */
static bool read_batch(struct batch *batch, const char *workspace, const struct json_value *array)
{
    struct json_iter iter;
    struct json_value name, value;
    size_t n = 0;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, &value))
        n++;
    batch->all = calloc(n + 1, sizeof *batch->all);
    batch->ops = calloc(n + 1, sizeof *batch->ops);
    batch->results = calloc(n + 1, sizeof *batch->results);
    if (!batch->all || !batch->ops || !batch->results)
        return false;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, &value)) {
        struct candidate *c = &batch->all[batch->n++];
        c->given = value;
        prepare(batch, workspace, c);
    }
    return !batch->documents.failed;
}

/* Takes the checker's reasons for the candidates of this range, one for each that was asked about. */
static bool take_reasons(struct batch *batch, size_t from, size_t to, const struct json_value *results)
{
    struct json_iter iter;
    struct json_value name, value;
    if (results->type != JSON_ARRAY)
        return false;
    json_iter_init(&iter, results);
    for (size_t i = from; i < to; i++) {
        if (batch->all[i].reason[0] != '\0')
            continue;
        if (!json_next(&iter, &name, &value))
            return false;
        if (value.type != JSON_STRING)
            continue;
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&value, &text);
        reject(&batch->all[i], text.len > 0 ? buffer_text(&text) : "refused");
    }
    return true;
}

static void append_permit(const char *text, struct buffer *question)
{
    buffer_append_json(question, text, utf8_valid(text, strlen(text)) ? strlen(text) : 0);
}

/* What triggers may do on this machine goes with it. */
static void begin_question(const struct api_call *call, struct buffer *question)
{
    const struct config *config = call->api->config;
    buffer_append_text(question, "{\"check\":\"triggers\",\"permits\":{\"exec_allow\":");
    append_permit(config->exec_allow, question);
    buffer_append_text(question, ",\"docker_images\":");
    append_permit(config->docker_images, question);
    buffer_append_text(question, "},\"triggers\":[");
}

/* Asks about the next candidates, about CHECK_BYTES of them. False: answered. */
static bool check_some(struct api_call *call, struct batch *batch, size_t *at)
{
    BUFFER_AUTO question = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    struct json_value results;
    size_t asked = 0, from = *at;
    begin_question(call, &question);
    for (; *at < batch->n && question.len < CHECK_BYTES; ++*at) {
        const struct candidate *c = &batch->all[*at];
        if (c->reason[0] != '\0')
            continue;
        if (asked++ > 0)
            buffer_append_char(&question, ',');
        buffer_append(&question, batch->documents.data + c->at, c->len);
    }
    buffer_append_text(&question, "]}");
    if (asked == 0)
        return true;
    if (!api_check(call, &question, "results", &answer, &results))
        return false;
    if (take_reasons(batch, from, *at, &results))
        return true;
    api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "checker: its results are not one for each trigger");
    return false;
}

static bool check_batch(struct api_call *call, struct batch *batch)
{
    for (size_t at = 0; at < batch->n;)
        if (!check_some(call, batch, &at))
            return false;
    return true;
}

static bool store_batch(struct api_call *call, struct batch *batch, size_t *ret_stored)
{
    size_t n = 0, k = 0;
    for (size_t i = 0; i < batch->n; i++) {
        const struct candidate *c = &batch->all[i];
        if (c->reason[0] == '\0')
            batch->ops[n++] = (struct storage_op){.set = STORAGE_TRIGGERS,
                                                  .kind = STORAGE_PUT_NEW,
                                                  .key = c->id,
                                                  .key_len = strlen(c->id),
                                                  .value = batch->documents.data + c->at,
                                                  .value_len = c->len};
    }
    *ret_stored = 0;
    if (n == 0)
        return true;
    if (!api_edit(call, batch->ops, n, batch->results))
        return false;
    for (size_t i = 0; i < batch->n; i++) {
        struct candidate *c = &batch->all[i];
        if (c->reason[0] != '\0')
            continue;
        if (batch->results[k++] == STORAGE_EXISTS)
            snprintf(c->reason, sizeof c->reason, "Trigger %s already exists", c->id);
        else
            ++*ret_stored;
    }
    return true;
}

static void append_rejected(struct buffer *out, const struct candidate *c)
{
    static const char *const ours[] = {"reason", NULL};
    buffer_append_text(out, "{\"reason\":");
    status_append_text(out, c->reason);
    if (c->given.type == JSON_OBJECT) {
        api_append_others(out, &c->given, ours, false);
    } else {
        buffer_append_text(out, ",\"trigger\":");
        api_append_raw(out, &c->given);
    }
    buffer_append_char(out, '}');
}

static void append_verdicts(const struct batch *batch, struct buffer *out)
{
    for (int rejected = 0; rejected < 2; rejected++) {
        size_t n = 0;
        buffer_append_text(out, rejected ? "],\"rejected_triggers\":[" : "{\"accepted_triggers\":[");
        for (size_t i = 0; i < batch->n; i++) {
            const struct candidate *c = &batch->all[i];
            if ((c->reason[0] != '\0') != rejected)
                continue;
            if (n++ > 0)
                buffer_append_char(out, ',');
            if (rejected)
                append_rejected(out, c);
            else
                buffer_append(out, batch->documents.data + c->at, c->len);
        }
    }
    buffer_append_text(out, "]}");
}

static void add_batch(struct api_call *call, struct batch *batch, const struct json_value *triggers)
{
    size_t stored;
    if (!read_batch(batch, call->request->segment, triggers)) {
        api_fail(call, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
        return;
    }
    if (!check_batch(call, batch) || !store_batch(call, batch, &stored))
        return;
    append_verdicts(batch, &call->request->answer);
    if (stored > 0)
        api_answer_reloaded(call, MHD_HTTP_OK);
    else
        api_answer(call, MHD_HTTP_OK);
}

void api_trigger_add(struct api_call *call)
{
    static const char *const members[] = {"triggers", NULL};
    struct json_value root, triggers;
    struct batch batch = {.documents = BUFFER_INIT};
    if (!api_body(call, &root) || !api_workspace_stored(call))
        return;
    if (!api_has_exactly(&root, members) || !json_member(&root, members[0], &triggers) ||
        triggers.type != JSON_ARRAY) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: not exactly triggers, an array");
        return;
    }
    add_batch(call, &batch, &triggers);
    free(batch.all);
    free(batch.ops);
    free(batch.results);
    buffer_done(&batch.documents);
}

/* ---- PUT /workspace/X/trigger/T ---- */

/* The members that may be left out get their defaults. */
static void append_defaults(struct buffer *out, const struct json_value *given)
{
    static const char *const none[] = {NULL};
    struct json_value value;
    bool first = true;
    buffer_append_char(out, '{');
    if (!json_member(given, "context", &value)) {
        buffer_append_text(out, "\"context\":{}");
        first = false;
    }
    if (!json_member(given, "transient", &value)) {
        buffer_append_text(out, first ? "\"transient\":false" : ",\"transient\":false");
        first = false;
    }
    api_append_others(out, given, none, first);
    buffer_append_char(out, '}');
}

static bool may_be_named(struct api_call *call, const struct json_value *root, char id[HTTP_SEGMENT_MAX])
{
    struct json_value value;
    size_t len = strlen(id);
    if (!utf8_valid(id, len)) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "the trigger's id is not UTF-8");
        return false;
    }
    if (json_member(root, "id", &value) && value.type != JSON_NULL &&
        (value.type != JSON_STRING || !json_equals(&value, id, len))) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "id is not %s", id);
        return false;
    }
    return true;
}

/* Whether the checker lets a trigger through. */
static bool check_one(struct api_call *call, const struct buffer *document)
{
    BUFFER_AUTO question = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    BUFFER_AUTO reason = BUFFER_INIT;
    struct json_iter iter;
    struct json_value results, name, value = {.type = JSON_ABSENT};
    begin_question(call, &question);
    buffer_append(&question, document->data, document->len);
    buffer_append_text(&question, "]}");
    question.failed |= document->failed;
    if (!api_check(call, &question, "results", &answer, &results))
        return false;
    if (results.type == JSON_ARRAY) {
        json_iter_init(&iter, &results);
        if (!json_next(&iter, &name, &value))
            value.type = JSON_ABSENT;
    }
    if (value.type == JSON_NULL)
        return true;
    if (value.type == JSON_STRING) {
        json_unescape(&value, &reason);
        api_fail(call, MHD_HTTP_BAD_REQUEST, "%s", buffer_text(&reason));
    } else {
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "checker: no result");
    }
    return false;
}

void api_trigger_put(struct api_call *call)
{
    struct json_value root, full;
    char *id = call->request->segment2;
    BUFFER_AUTO given = BUFFER_INIT;
    BUFFER_AUTO document = BUFFER_INIT;
    struct error err = {.code = ERROR_MEMORY, .message = "out of memory"};
    int results[2];
    if (!api_body(call, &root) || !may_be_named(call, &root, id) || !api_workspace_stored(call))
        return;
    append_defaults(&given, &root);
    if (given.failed || json_scan(given.data, given.len, &full, &err) < 0 ||
        !append_stored(&document, call->request->segment, &full, id)) {
        api_fail_error(call, &err);
        return;
    }
    if (!check_one(call, &document))
        return;
    struct storage_op ops[2];
    for (int i = 0; i < 2; i++)
        ops[i] = (struct storage_op){.set = STORAGE_TRIGGERS,
                                     .kind = i == 0 ? STORAGE_PUT_NEW : STORAGE_PUT,
                                     .key = id,
                                     .key_len = strlen(id),
                                     .value = document.data,
                                     .value_len = document.len};
    if (!api_edit(call, ops, 2, results))
        return;
    api_append_pair(&call->request->answer, id, document.data, document.len);
    api_answer_reloaded(call, results[0] == STORAGE_EXISTS ? MHD_HTTP_OK : MHD_HTTP_CREATED);
}

/* ---- The others ---- */

void api_trigger_list(struct api_call *call)
{
    if (api_workspace_stored(call) && api_append_names(call, STORAGE_TRIGGERS, &call->request->answer))
        api_answer(call, MHD_HTTP_OK);
}

/* The stored document; false: answered. */
static bool get_trigger(struct api_call *call, struct buffer *document)
{
    const char *id = call->request->segment2;
    if (!api_workspace_stored(call))
        return false;
    int result = api_get(call, STORAGE_TRIGGERS, id, document);
    if (result == STORAGE_ABSENT)
        api_fail(call, MHD_HTTP_NOT_FOUND, "Trigger %s not found", id);
    return result == 0;
}

void api_trigger_get(struct api_call *call)
{
    BUFFER_AUTO document = BUFFER_INIT;
    if (!get_trigger(call, &document))
        return;
    api_append_pair(&call->request->answer, call->request->segment2, document.data, document.len);
    api_answer(call, MHD_HTTP_OK);
}

void api_trigger_delete(struct api_call *call)
{
    const char *id = call->request->segment2;
    struct storage_op op = {
        .set = STORAGE_TRIGGERS, .kind = STORAGE_DELETE, .key = id, .key_len = strlen(id)};
    int result;
    if (!api_edit(call, &op, 1, &result))
        return;
    if (result == STORAGE_ABSENT) {
        api_fail(call, MHD_HTTP_NOT_FOUND, "Trigger %s not found", id);
        return;
    }
    api_append_message(&call->request->answer, "Deleted %s", id);
    api_answer_reloaded(call, MHD_HTTP_OK);
}

void api_trigger_test(struct api_call *call)
{
    static const char *const members[] = {"event", NULL};
    struct json_value root, event, stored, result;
    BUFFER_AUTO document = BUFFER_INIT;
    BUFFER_AUTO question = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    if (!api_body(call, &root))
        return;
    if (!api_has_exactly(&root, members) || !json_member(&root, members[0], &event) ||
        event.type != JSON_OBJECT) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: not exactly event, an object");
        return;
    }
    if (!get_trigger(call, &document))
        return;
    if (json_scan(document.data, document.len, &stored, NULL) < 0) {
        api_fail(call, MHD_HTTP_CONFLICT, "Trigger %s is stored as something that is not JSON",
                 call->request->segment2);
        return;
    }
    buffer_printf(&question, "{\"check\":\"test\",\"workspace\":\"%s\",\"trigger\":", call->request->segment);
    api_append_raw(&question, &stored);
    buffer_append_text(&question, ",\"event\":");
    api_append_raw(&question, &event);
    buffer_append_text(&question, ",\"global_context\":");
    if (!api_append_fields(call, STORAGE_GLOBAL_CONTEXT, &question))
        return;
    buffer_append_char(&question, '}');
    if (!api_check(call, &question, "result", &answer, &result))
        return;
    api_append_raw(&call->request->answer, &result);
    api_answer(call, MHD_HTTP_OK);
}
