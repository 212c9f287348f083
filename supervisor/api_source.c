/* Calls of the trigger API about event sources. See api_call.h. */
#include <microhttpd.h>
#include <string.h>
#include <strings.h>

#include "common/error.h"
#include "common/json.h"
#include "supervisor/api_call.h"

bool api_source_check(struct api_call *call, const char *check, const struct buffer *source,
                      struct buffer *reason)
{
    BUFFER_AUTO question = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    struct json_value result;
    buffer_printf(&question, "{\"check\":\"%s\",\"event_source\":", check);
    buffer_append(&question, source->data, source->len);
    buffer_append_char(&question, '}');
    if (!api_check(call, &question, "result", &answer, &result))
        return false;
    if (result.type == JSON_STRING)
        json_unescape(&result, reason);
    return true;
}

bool api_source_judge(struct api_call *call, const struct json_value *source, char name[HTTP_SEGMENT_MAX],
                      struct buffer *reason)
{
    static const char *const all[] = {"name", "class", "parameters", NULL};
    static const char *const named[] = {"class", "parameters", "?", "name", NULL};
    struct json_value name_value, class_name, parameters;
    char own[HTTP_SEGMENT_MAX];
    struct error err;
    bool given = name[0] != '\0';
    if (!api_has_exactly(source, given ? named : all)) {
        buffer_append_text(reason, "the event source does not have exactly name, class and parameters");
        return true;
    }
    json_member(source, "class", &class_name);
    json_member(source, "parameters", &parameters);
    bool has_name = json_member(source, "name", &name_value);
    if (has_name && !api_read_name(&name_value, "event source: name", own, &err)) {
        buffer_append_text(reason, err.message);
        return true;
    }
    if (given && has_name && strcmp(own, name) != 0) {
        buffer_printf(reason, "event source: its name is not %s", name);
        return true;
    }
    if (!given)
        memcpy(name, own, sizeof own);
    if (class_name.type != JSON_STRING || parameters.type != JSON_OBJECT) {
        buffer_append_text(reason, "class is not a text, or parameters not an object");
        return true;
    }
    BUFFER_AUTO document = BUFFER_INIT;
    api_append_named(&document, source, name);
    return api_source_check(call, "event_source", &document, reason);
}

/* ---- The calls ---- */

static bool query_overwrite(struct api_call *call, bool *ret_overwrite)
{
    const char *text = http_query(call->request, "overwrite");
    *ret_overwrite = text && (strcasecmp(text, "true") == 0 || strcmp(text, "1") == 0);
    if (!text || *ret_overwrite || text[0] == '\0' || strcasecmp(text, "false") == 0 ||
        strcmp(text, "0") == 0)
        return true;
    api_fail(call, MHD_HTTP_BAD_REQUEST, "overwrite=%.60s is neither True nor False", text);
    return false;
}

static struct storage_op put_op(enum storage_op_kind kind, const char *name, const struct buffer *document)
{
    return (struct storage_op){.set = STORAGE_EVENT_SOURCES,
                               .kind = kind,
                               .key = name,
                               .key_len = strlen(name),
                               .value = document->data,
                               .value_len = document->len};
}

void api_source_add(struct api_call *call)
{
    static const char *const members[] = {"event_source", NULL};
    struct json_value root, source;
    char name[HTTP_SEGMENT_MAX] = "";
    BUFFER_AUTO reason = BUFFER_INIT;
    BUFFER_AUTO document = BUFFER_INIT;
    bool overwrite;
    int result;
    if (!query_overwrite(call, &overwrite) || !api_body(call, &root) || !api_workspace_stored(call))
        return;
    if (!api_has_exactly(&root, members) || !json_member(&root, members[0], &source)) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: not exactly event_source");
        return;
    }
    if (!api_source_judge(call, &source, name, &reason))
        return;
    if (reason.len > 0) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "%s", buffer_text(&reason));
        return;
    }
    api_append_raw(&document, &source);
    struct storage_op op = put_op(overwrite ? STORAGE_PUT : STORAGE_PUT_NEW, name, &document);
    if (!api_edit(call, &op, 1, &result))
        return;
    if (result == STORAGE_EXISTS) {
        api_fail(call, MHD_HTTP_CONFLICT, "Event source %s already exists", name);
        return;
    }
    api_append_message(&call->request->answer, "Created/updated %s", name);
    api_answer_reloaded(call, MHD_HTTP_CREATED);
}

void api_source_put(struct api_call *call)
{
    struct json_value root;
    struct buffer *out = &call->request->answer;
    BUFFER_AUTO reason = BUFFER_INIT;
    BUFFER_AUTO document = BUFFER_INIT;
    int results[2];
    char *name = call->request->segment2;
    if (!api_body(call, &root) || !api_workspace_stored(call) ||
        !api_source_judge(call, &root, name, &reason))
        return;
    if (reason.len > 0) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "%s", buffer_text(&reason));
        return;
    }
    api_append_named(&document, &root, name);
    struct storage_op ops[] = {put_op(STORAGE_PUT_NEW, name, &document),
                               put_op(STORAGE_PUT, name, &document)};
    if (!api_edit(call, ops, 2, results))
        return;
    api_append_pair(out, name, document.data, document.len);
    api_answer_reloaded(call, results[0] == STORAGE_EXISTS ? MHD_HTTP_OK : MHD_HTTP_CREATED);
}

void api_source_list(struct api_call *call)
{
    if (api_workspace_stored(call) && api_append_names(call, STORAGE_EVENT_SOURCES, &call->request->answer))
        api_answer(call, MHD_HTTP_OK);
}

void api_source_get(struct api_call *call)
{
    const char *name = call->request->segment2;
    struct buffer *out = &call->request->answer;
    BUFFER_AUTO document = BUFFER_INIT;
    if (!api_workspace_stored(call))
        return;
    int result = api_get(call, STORAGE_EVENT_SOURCES, name, &document);
    if (result < 0)
        return;
    if (result == STORAGE_ABSENT) {
        api_fail(call, MHD_HTTP_NOT_FOUND, "Event source %s not found", name);
        return;
    }
    api_append_pair(out, name, document.data, document.len);
    api_answer(call, MHD_HTTP_OK);
}

void api_source_delete(struct api_call *call)
{
    const char *name = call->request->segment2;
    struct storage_op op = {
        .set = STORAGE_EVENT_SOURCES, .kind = STORAGE_DELETE, .key = name, .key_len = strlen(name)};
    int result;
    if (!api_edit(call, &op, 1, &result))
        return;
    if (result == STORAGE_ABSENT) {
        api_fail(call, MHD_HTTP_NOT_FOUND, "Event source %s not found", name);
        return;
    }
    api_append_message(&call->request->answer, "Event source %s deleted", name);
    api_answer_reloaded(call, MHD_HTTP_OK);
}
