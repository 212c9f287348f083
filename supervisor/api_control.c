/* Calls of the trigger API that a workflow's worker carries out, or that look into it. See api_call.h. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/decision.h"
#include "common/error.h"
#include "common/json.h"
#include "supervisor/api_call.h"
#include "supervisor/api_trigger.h"

#define DECISIONS_MAX 1000
#define TIMEOUT_TYPE "event.triggerflow.timeout"
#define TIMEOUT_SECONDS_MAX 1e9 /* 31 years */

/* ---- Pause and resume ---- */

static void held(struct api_call *call)
{
    api_answer_message(call, MHD_HTTP_OK, "Workspace %s %sd", call->request->segment, call->kind);
}

static void ask_hold(struct api_call *call)
{
    api_ask_worker(call, held);
}

static void with_workflow(struct api_call *call)
{
    api_with_workflow(call, ask_hold);
}

void api_pause(struct api_call *call)
{
    call->kind = "pause";
    if (api_workspace_stored(call))
        api_to_main(call, with_workflow);
}

void api_resume(struct api_call *call)
{
    call->kind = "resume";
    if (api_workspace_stored(call))
        api_to_main(call, with_workflow);
}

/* ---- PATCH of a trigger ---- */

static void patched(struct api_call *call)
{
    api_answer_message(call, MHD_HTTP_OK, "Updated %s", call->request->segment2);
}

static void ask_patch(struct api_call *call)
{
    api_ask_worker(call, patched);
}

static void patch_with_workflow(struct api_call *call)
{
    api_with_workflow(call, ask_patch);
}

void api_trigger_patch(struct api_call *call)
{
    static const char *const members[] = {"context", NULL};
    const char *id = call->request->segment2;
    struct json_value root, context, document, uuid;
    if (!api_body(call, &root))
        return;
    if (!api_has_exactly(&root, members) || !json_member(&root, members[0], &context) ||
        context.type != JSON_OBJECT) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "body: not exactly context, an object");
        return;
    }
    if (!api_workspace_stored(call))
        return;
    if (!utf8_valid(id, strlen(id))) {
        api_fail(call, MHD_HTTP_NOT_FOUND, "Trigger %s not found", id);
        return;
    }
    BUFFER_AUTO stored = BUFFER_INIT;
    int result = api_get(call, STORAGE_TRIGGERS, id, &stored);
    if (result == STORAGE_ABSENT)
        api_fail(call, MHD_HTTP_NOT_FOUND, "Trigger %s not found", id);
    if (result != 0)
        return;
    call->kind = "patch";
    buffer_append_text(&call->members, "\"trigger\":");
    buffer_append_json(&call->members, id, strlen(id));
    if (json_scan(stored.data, stored.len, &document, NULL) == 0 && document.type == JSON_OBJECT &&
        json_member(&document, "uuid", &uuid) && uuid.type == JSON_STRING) {
        buffer_append_text(&call->members, ",\"uuid\":");
        api_append_raw(&call->members, &uuid);
    }
    buffer_append_text(&call->members, ",\"context\":");
    api_append_raw(&call->members, &context);
    api_to_main(call, patch_with_workflow);
}

/* ---- POST /workspace/X/timeout ---- */

/* Stored, so it counts: its worker finds it when it starts. */
static void wake_timer(struct api_call *call)
{
    struct workflow *w;
    if (workflow_get(call->api->workflows, call->request->segment, &w, NULL) == 0) {
        if (workflow_active(w) && w->state != WORKFLOW_STOPPING)
            workflow_reload(w);
        else if (!workflow_active(w))
            (void)workflow_start(w, NULL, NULL);
    }
    api_answer(call, MHD_HTTP_CREATED);
}

/* false: not a number of seconds. */
static bool read_seconds(const struct json_value *value, double *ret_seconds)
{
    char text[64];
    if (value->type != JSON_NUMBER || value->len >= sizeof text)
        return false;
    memcpy(text, value->text, value->len);
    text[value->len] = '\0';
    *ret_seconds = strtod(text, NULL);
    return isfinite(*ret_seconds) && *ret_seconds >= 0 && *ret_seconds <= TIMEOUT_SECONDS_MAX;
}

/* The event with its type replaced; whether it is one. */
static bool append_timeout_event(struct api_call *call, const struct json_value *event, struct buffer *out)
{
    static const char *const type[] = {"type", NULL};
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent parsed;
    struct error err;
    size_t start = out->len;
    buffer_append_text(out, "{\"type\":\"" TIMEOUT_TYPE "\"");
    api_append_others(out, event, type, false);
    buffer_append_char(out, '}');
    if (!out->failed && cloudevent_parse(&parsed, out->data + start, out->len - start, &scratch, &err) == 0)
        return true;
    api_fail(call, MHD_HTTP_BAD_REQUEST, "event: %s", out->failed ? "out of memory" : err.message);
    return false;
}

/* Where the event is to go; only the name of a stored event source is fine. */
static bool judge_target(struct api_call *call, const struct json_value *source)
{
    BUFFER_AUTO document = BUFFER_INIT;
    BUFFER_AUTO reason = BUFFER_INIT;
    api_append_raw(&document, source);
    if (!api_source_check(call, "target", &document, &reason))
        return false;
    if (reason.len > 0)
        api_fail(call, MHD_HTTP_BAD_REQUEST, "event_source: %s", buffer_text(&reason));
    return reason.len == 0;
}

static bool append_timer(struct api_call *call, const struct json_value *root, struct buffer *out)
{
    static const char *const members[] = {"event_source", "event", "seconds", NULL};
    struct json_value source, event, seconds;
    double wait;
    if (!api_has_exactly(root, members) || !json_member(root, members[0], &source) ||
        source.type != JSON_OBJECT || !json_member(root, members[1], &event) || event.type != JSON_OBJECT) {
        api_fail(call, MHD_HTTP_BAD_REQUEST,
                 "body: not exactly event_source (object), event (object) and seconds (number)");
        return false;
    }
    if (!json_member(root, members[2], &seconds) || !read_seconds(&seconds, &wait)) {
        api_fail(call, MHD_HTTP_BAD_REQUEST, "seconds: %.*s is not a number from 0 to %.0f",
                 (int)(seconds.len < 40 ? seconds.len : 40), seconds.text, TIMEOUT_SECONDS_MAX);
        return false;
    }
    unsigned long long at = clock_unix_ns() + (uint64_t)(wait * (double)CLOCK_S);
    buffer_printf(out, "{\"at\":%llu,\"event_source\":", at);
    api_append_raw(out, &source);
    buffer_append_text(out, ",\"event\":");
    if (!append_timeout_event(call, &event, out) || !judge_target(call, &source))
        return false;
    buffer_append_char(out, '}');
    return true;
}

void api_timeout(struct api_call *call)
{
    struct json_value root;
    BUFFER_AUTO document = BUFFER_INIT;
    char id[API_ID_MAX];
    int result;
    if (!api_body(call, &root) || !api_workspace_stored(call) || !append_timer(call, &root, &document))
        return;
    if (document.failed || !api_make_id(id)) {
        api_fail(call, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
        return;
    }
    struct storage_op op = {.set = STORAGE_TIMERS,
                            .kind = STORAGE_PUT_NEW,
                            .key = id,
                            .key_len = strlen(id),
                            .value = document.data,
                            .value_len = document.len};
    if (!api_edit(call, &op, 1, &result))
        return;
    buffer_printf(&call->request->answer, "{\"message\":\"Created timeout\",\"id\":\"%s\"}", id);
    api_to_main(call, wake_timer);
}

/* ---- Decisions ---- */

/* Reads the arena through a mapping of its own: that of the main thread may end at any time. */
static void answer_decisions(struct api_call *call)
{
    struct buffer *out = &call->request->answer;
    const char *trigger = call->request->segment2;
    uint64_t after = 0, limit = 100;
    struct arena *arena = NULL;
    struct error err;
    size_t n = 0;
    if (!api_query_number(call, "after", INT64_MAX, &after) ||
        !api_query_number(call, "limit", DECISIONS_MAX, &limit))
        return;
    struct decision *decisions = calloc(DECISIONS_MAX, sizeof *decisions);
    if (!decisions) {
        api_fail(call, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
        return;
    }
    if (call->fd >= 0 && arena_map(call->fd, &arena, &err) == 0)
        n = decision_read(arena, trigger[0] != '\0' ? trigger : NULL, after, decisions, (size_t)limit);
    arena_unmap(arena);
    buffer_append_text(out, "{\"decisions\":[");
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buffer_append_char(out, ',');
        decision_write_json(&decisions[i], out);
    }
    buffer_append_text(out, "]}");
    free(decisions);
    api_answer(call, MHD_HTTP_OK);
}

static void take_arena(struct api_call *call)
{
    const struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    if (w && w->arena_fd >= 0)
        call->fd = fcntl(w->arena_fd, F_DUPFD_CLOEXEC, 0);
    if (w && w->arena_fd >= 0 && call->fd < 0)
        api_fail(call, MHD_HTTP_SERVICE_UNAVAILABLE, "the arena of workspace %s: %s", w->name,
                 strerror(errno));
    else
        api_to_pool(call, answer_decisions);
}

void api_decisions(struct api_call *call)
{
    if (api_workspace_stored(call))
        api_to_main(call, take_arena);
}
