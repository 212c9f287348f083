/* Calls of the trigger API about whole workspaces. See api_call.h. */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/hash.h"
#include "common/json.h"
#include "supervisor/api_call.h"
#include "supervisor/api_trigger.h"
#include "supervisor/status.h"

/* What `err_code` says of a refused POST /workspace. */
enum refusal { REFUSED_NOT_JSON, REFUSED_MEMBERS, REFUSED_EXISTS, REFUSED_NAME, REFUSED_SOURCE };

static pthread_mutex_t *lock_of(struct api_call *call)
{
    const char *name = call->request->segment;
    unsigned sum = 0;
    for (const char *c = name; *c; c++)
        sum = sum * 31 + (unsigned char)*c;
    return &call->api->locks[sum % API_LOCKS];
}

/* ---- GET /workspace ---- */

static int list_workspace(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct buffer *names = data; /* name NUL creation NUL */
    if (memchr(key, '\0', key_len))
        return 0;
    buffer_append(names, key, key_len);
    buffer_append_char(names, '\0');
    buffer_append(names, value, value_len);
    buffer_append_char(names, '\0');
    return 0;
}

static void append_workspace(struct api_call *call, const char *name, const char *creation)
{
    struct buffer *out = &call->request->answer;
    const struct workflow *w = workflow_find(call->api->workflows, name);
    char *end;
    double created = strtod(creation, &end);
    buffer_append_text(out, "{\"name\":");
    api_append_name(out, name, strlen(name));
    if (end != creation && created >= 0 && created < 1e12)
        buffer_printf(out, ",\"created\":%.3f", created);
    else
        buffer_append_text(out, ",\"created\":null");
    buffer_printf(out, ",\"state\":\"%s\"}", w ? workflow_state_name(w) : "stopped");
}

/* The names are now in the call's `members`. */
static void answer_workspaces(struct api_call *call)
{
    struct hash_table seen;
    const char *at = call->members.data, *end = at + call->members.len;
    hash_init(&seen);
    buffer_append_text(&call->request->answer, "{\"workspaces\":[");
    while (at < end) {
        const char *creation = at + strlen(at) + 1;
        void *old = NULL;
        if (hash_put(&seen, at, strlen(at), &seen, &old) < 0)
            call->request->answer.failed = true;
        if (!old) {
            if (seen.count > 1)
                buffer_append_char(&call->request->answer, ',');
            append_workspace(call, at, creation);
        }
        at = creation + strlen(creation) + 1;
    }
    buffer_append_text(&call->request->answer, "]}");
    hash_done(&seen);
    call->request->answer.failed |= call->members.failed;
    api_answer(call, MHD_HTTP_OK);
}

void api_workspace_list(struct api_call *call)
{
    struct error err;
    if (call->storage->type->workspaces(call->storage, list_workspace, &call->members, &err) < 0)
        api_fail_error(call, &err);
    else
        api_to_main(call, answer_workspaces);
}

/* ---- POST /workspace ---- */

static void refuse(struct api_call *call, enum refusal why, const char *text)
{
    struct buffer *out = &call->request->answer;
    buffer_append_text(out, "{\"error\":");
    status_append_text(out, text);
    buffer_printf(out, ",\"err_code\":%d}", (int)why);
    api_answer(call, MHD_HTTP_BAD_REQUEST);
}

/* name: empty when it has none that could be read. */
static void refuse_source(struct api_call *call, const char *name, const char *reason)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (*name)
        buffer_printf(&text, "event source %s: ", name);
    buffer_append_text(&text, reason);
    refuse(call, REFUSED_SOURCE, buffer_text(&text));
}

static void answer_created(struct api_call *call, bool started)
{
    api_answer_message(call, started ? MHD_HTTP_CREATED : MHD_HTTP_ACCEPTED, "Created workspace %s",
                       call->request->segment);
}

static void on_started(struct api_call *call)
{
    const struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    answer_created(call, call->reached || (w && workflow_active(w)));
}

/* Another life of the name's may still be going on: the workspace was deleted just now, or by another
 * program.
 */
static void start_created(struct api_call *call)
{
    struct workflow *w;
    uint64_t now = clock_now_ns();
    if (workflow_get(call->api->workflows, call->request->segment, &w, NULL) < 0) {
        answer_created(call, false);
        return;
    }
    if (workflow_active(w) && w->state != WORKFLOW_RESTARTING) {
        if (call->deadline_ns == 0)
            call->deadline_ns = now + API_START_NS;
        if (w->state != WORKFLOW_STOPPING)
            workflow_stop(w);
        if (now < call->deadline_ns)
            api_wait(call, w, WORKFLOW_WAIT_STOPPED, call->deadline_ns, start_created);
        else
            answer_created(call, false);
        return;
    }
    if (workflow_start(w, NULL, NULL) < 0)
        answer_created(call, false);
    else
        api_wait(call, w, WORKFLOW_WAIT_STARTED, now + API_STARTED_NS, on_started);
}

struct new_workspace {
    char name[HTTP_SEGMENT_MAX];
    struct json_value name_value, source, context;
    char source_name[HTTP_SEGMENT_MAX];
    struct storage_op *ops;
    size_t n_ops;
    struct buffer keys; /* of the context, reserved, so that it does not move */
};

static bool read_new(struct api_call *call, struct new_workspace *new)
{
    static const char *const members[] = {"workspace_name", "event_source", "global_context", NULL};
    const struct buffer *body = &call->request->body;
    struct json_value root;
    struct error err;
    if (json_scan(body->data ? body->data : "", body->len, &root, &err) < 0) {
        refuse(call, REFUSED_NOT_JSON, err.message);
        return false;
    }
    if (!api_has_exactly(&root, members) || !json_member(&root, members[0], &new->name_value) ||
        !json_member(&root, members[1], &new->source) || !json_member(&root, members[2], &new->context) ||
        new->name_value.type != JSON_STRING || new->source.type != JSON_OBJECT ||
        new->context.type != JSON_OBJECT) {
        refuse(call, REFUSED_MEMBERS,
               "not exactly workspace_name (text), event_source (object) and global_context (object)");
        return false;
    }
    if (!api_read_name(&new->name_value, "workspace_name", new->name, &err) ||
        !storage_name_valid(new->name)) {
        refuse(call, REFUSED_NAME, "Illegal workspace name: it has to match [A-Za-z0-9._-]+");
        return false;
    }
    return true;
}

/* The workspace's fields. The context's values are raw JSON in the body. */
static bool list_fields(struct api_call *call, struct new_workspace *new)
{
    struct json_iter iter;
    struct json_value name, value;
    size_t n = 1;
    json_iter_init(&iter, &new->context);
    while (json_next(&iter, &name, &value))
        n++;
    new->ops = calloc(n, sizeof *new->ops);
    if (!new->ops || !buffer_reserve(&new->keys, new->context.len + 1)) {
        api_fail(call, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory");
        return false;
    }
    size_t len;
    const char *raw = json_raw(&new->source, &len);
    new->ops[new->n_ops++] = (struct storage_op){.set = STORAGE_EVENT_SOURCES,
                                                 .kind = STORAGE_PUT,
                                                 .key = new->source_name,
                                                 .key_len = strlen(new->source_name),
                                                 .value = raw,
                                                 .value_len = len};
    json_iter_init(&iter, &new->context);
    while (json_next(&iter, &name, &value)) {
        size_t start = new->keys.len;
        json_unescape(&name, &new->keys);
        raw = json_raw(&value, &len);
        new->ops[new->n_ops++] = (struct storage_op){.set = STORAGE_GLOBAL_CONTEXT,
                                                     .kind = STORAGE_PUT,
                                                     .key = new->keys.data + start,
                                                     .key_len = new->keys.len - start,
                                                     .value = raw,
                                                     .value_len = len};
    }
    return true;
}

static void store_new(struct api_call *call, const struct new_workspace *new)
{
    char creation[64], text[HTTP_SEGMENT_MAX + 64];
    struct error err;
    uint64_t now = clock_unix_ns();
    pthread_mutex_t *lock = lock_of(call);
    snprintf(creation, sizeof creation, "%llu.%06llu", (unsigned long long)(now / CLOCK_S),
             (unsigned long long)(now % CLOCK_S / 1000));
    pthread_mutex_lock(lock);
    int result = call->storage->type->create(call->storage, new->name, creation, new->ops, new->n_ops, &err);
    if (result == 0) {
        call->deadline_ns = 0;
        api_to_main(call, start_created);
    }
    pthread_mutex_unlock(lock);
    if (result < 0) {
        api_fail_error(call, &err);
    } else if (result == STORAGE_EXISTS) {
        snprintf(text, sizeof text, "Workspace %s already exists", new->name);
        refuse(call, REFUSED_EXISTS, text);
    }
}

void api_workspace_create(struct api_call *call)
{
    struct new_workspace new = {.ops = NULL};
    BUFFER_AUTO reason = BUFFER_INIT;
    struct error err;
    if (!read_new(call, &new))
        return;
    memcpy(call->request->segment, new.name, sizeof new.name); /* from now on as if the path had named it */
    int stored = call->storage->type->workspace_exists(call->storage, new.name, &err);
    if (stored < 0) {
        api_fail_error(call, &err);
    } else if (stored == 0) {
        char text[HTTP_SEGMENT_MAX + 64];
        snprintf(text, sizeof text, "Workspace %s already exists", new.name);
        refuse(call, REFUSED_EXISTS, text);
    } else if (api_source_judge(call, &new.source, new.source_name, &reason)) {
        if (reason.len > 0)
            refuse_source(call, new.source_name, buffer_text(&reason));
        else if (list_fields(call, &new))
            store_new(call, &new);
    }
    free(new.ops);
    buffer_done(&new.keys);
}

/* ---- GET /workspace/X ---- */

void api_workspace_show(struct api_call *call)
{
    struct buffer *out = &call->request->answer;
    if (!api_workspace_stored(call))
        return;
    buffer_append_text(out, "{\"triggers\":");
    if (!api_append_names(call, STORAGE_TRIGGERS, out))
        return;
    buffer_append_text(out, ",\"event_sources\":");
    if (!api_append_names(call, STORAGE_EVENT_SOURCES, out))
        return;
    buffer_append_text(out, ",\"global_context\":");
    if (!api_append_fields(call, STORAGE_GLOBAL_CONTEXT, out))
        return;
    buffer_append_char(out, '}');
    api_answer(call, MHD_HTTP_OK);
}

/* ---- DELETE /workspace/X ---- */

static void answer_deleted(struct api_call *call)
{
    struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    if (w)
        workflow_forget(w);
    api_answer_message(call, MHD_HTTP_OK, "Workspace %s deleted", call->request->segment);
}

/* What the worker still has in hand cannot be written any more: the storage refuses it. */
static void stop_deleted(struct api_call *call)
{
    struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    if (!w || !workflow_active(w)) {
        answer_deleted(call);
        return;
    }
    workflow_stop(w);
    api_wait(call, w, WORKFLOW_WAIT_STOPPED,
             clock_now_ns() + (uint64_t)call->api->config->stop_timeout_ns + API_START_NS, answer_deleted);
}

void api_workspace_delete(struct api_call *call)
{
    struct error err;
    int result = STORAGE_ABSENT;
    const char *workspace = call->request->segment;
    if (storage_name_valid(workspace)) {
        pthread_mutex_t *lock = lock_of(call);
        pthread_mutex_lock(lock);
        result = call->storage->type->remove(call->storage, workspace, &err);
        if (result == 0)
            api_to_main(call, stop_deleted);
        pthread_mutex_unlock(lock);
    }
    if (result < 0)
        api_fail_error(call, &err);
    else if (result > 0)
        api_fail(call, MHD_HTTP_NOT_FOUND, "Workspace %s not found", workspace);
}

/* ---- GET /workspace/X/status ---- */

static void answer_status(struct api_call *call)
{
    struct buffer *out = &call->request->answer;
    struct workflow *w = workflow_find(call->api->workflows, call->request->segment);
    if (w) {
        struct status_time now = {.now_ns = clock_now_ns(), .unix_ns = clock_unix_ns()};
        struct status_view view;
        workflow_view(w, now.now_ns, &view);
        status_write(out, &view, &now, true);
    } else {
        buffer_append_text(out, "{\"name\":");
        api_append_name(out, call->request->segment, strlen(call->request->segment));
        buffer_append_text(out, ",\"state\":\"stopped\"}");
    }
    api_answer(call, MHD_HTTP_OK);
}

void api_workspace_status(struct api_call *call)
{
    if (api_workspace_stored(call))
        api_to_main(call, answer_status);
}

/* ---- PUT /workspace/X/global_context ---- */

struct replacement {
    struct storage_op *ops; /* their keys are set when all are there */
    size_t n_ops, cap;
    struct buffer keys; /* one behind the other */
    struct error *err;
};

static int add_op(struct replacement *r, enum storage_op_kind kind, size_t key_len, const char *value,
                  size_t value_len)
{
    if (r->n_ops == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 16;
        struct storage_op *grown = realloc(r->ops, cap * sizeof *grown);
        if (!grown)
            return error_set(r->err, ERROR_MEMORY, "out of memory");
        r->ops = grown;
        r->cap = cap;
    }
    r->ops[r->n_ops++] = (struct storage_op){.set = STORAGE_GLOBAL_CONTEXT,
                                             .kind = kind,
                                             .key_len = key_len,
                                             .value = value,
                                             .value_len = value_len};
    return 0;
}

static int drop_old(void *data, const char *key, size_t key_len, const char *value, size_t value_len)
{
    struct replacement *r = data;
    (void)value;
    (void)value_len;
    buffer_append(&r->keys, key, key_len);
    return add_op(r, STORAGE_DELETE, key_len, NULL, 0);
}

static int put_new(struct replacement *r, const struct json_value *context)
{
    struct json_iter iter;
    struct json_value name, value;
    json_iter_init(&iter, context);
    while (json_next(&iter, &name, &value)) {
        size_t before = r->keys.len, len;
        json_unescape(&name, &r->keys);
        const char *raw = json_raw(&value, &len);
        if (add_op(r, STORAGE_PUT, r->keys.len - before, raw, len) < 0)
            return -1;
    }
    return 0;
}

/* Gives the changes their keys, and room for their results. */
static int *settle(struct replacement *r)
{
    const char *key = r->keys.data ? r->keys.data : "";
    for (size_t i = 0; i < r->n_ops; key += r->ops[i++].key_len)
        r->ops[i].key = key;
    return r->keys.failed ? NULL : calloc(r->n_ops + 1, sizeof(int));
}

void api_global_context_put(struct api_call *call)
{
    struct json_value root;
    struct error err = {.code = ERROR_MEMORY, .message = "out of memory"};
    struct replacement r = {.err = &err};
    if (!api_body(call, &root) || !api_workspace_stored(call))
        return;
    int result = call->storage->type->load(call->storage, call->request->segment, STORAGE_GLOBAL_CONTEXT,
                                           drop_old, &r, &err);
    if (result == 0)
        result = put_new(&r, &root);
    int *results = result == 0 ? settle(&r) : NULL;
    if (!results) {
        api_fail_error(call, &err);
    } else if (r.n_ops == 0 || api_edit(call, r.ops, r.n_ops, results)) {
        buffer_append_text(&call->request->answer, "{\"message\":\"Replaced global context\"}");
        api_answer_reloaded(call, MHD_HTTP_OK);
    }
    free(results);
    free(r.ops);
    buffer_done(&r.keys);
}
