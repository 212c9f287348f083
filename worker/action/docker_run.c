#include "worker/action/docker.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/local/containers.h"
#include "worker/executor/executor.h"
#include "worker/executor/http_call.h"
#include "worker/checkpoint/injection.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/executor/invocation_report.h"
#include "worker/local/permit.h"
#include "worker/source/internal.h"
#include "worker/worker.h"
#include "worker/shard/write.h"

#define CONNECT_TIMEOUT (5 * CLOCK_S)

/* An attempt: waits for the container, gives it the script, runs it. */
struct work {
    struct invocation *invocation;
    struct container_wait *wait; /* one of these two, or neither */
    struct http_call *call;
    struct container *container;
    char *path;                       /* /actions/ID */
    struct json_value script;         /* JSON_ABSENT: none */
    uint64_t script_hash;             /* never 0 */
    const struct http_answer *answer; /* while its end is told of */
};

static bool evaluates(const struct json_value *body)
{
    struct json_value value;
    return json_member(body, "evaluates", &value) && value.type == JSON_TRUE;
}

static void work_free(struct work *w)
{
    free(w->path);
    free(w);
}

static void end(struct work *w, enum invocation_verdict verdict, const struct http_answer *answer,
                const struct error *why)
{
    struct invocation *i = w->invocation;
    w->answer = answer;
    invocation_end(i, verdict, why);
    work_free(w);
}

/* --- what the container answers --- */

static enum invocation_verdict judge(struct work *w, const struct http_answer *answer, struct error *err)
{
    struct json_value root, value;
    if (!answer->status || !answer->complete)
        container_suspect(w->container);
    if (answer->status == 404 && w->script.type == JSON_STRING) { /* it has lost it */
        container_set_script(w->container, w->path, 0);
        error_set(err, ERROR_UNAVAILABLE, "answered 404");
        return INVOCATION_RETRY;
    }
    enum invocation_verdict verdict = invocation_judge(w->invocation, answer, err);
    if (verdict != INVOCATION_DONE)
        return verdict;
    if (json_scan_within(answer->body, answer->len, JSON_DATA_DEPTH, &root, err) < 0) {
        error_prefix(err, "the answer is not JSON");
        return INVOCATION_FAILED;
    }
    const char *missing =
        root.type != JSON_OBJECT                                             ? "no object"
        : json_member(&root, "context", &value) && value.type != JSON_OBJECT ? "a context that is no object"
        : evaluates(&w->invocation->body) && (!json_member(&root, "result", &value) ||
                                              (value.type != JSON_TRUE && value.type != JSON_FALSE))
            ? "without result, true or false"
            : NULL;
    if (!missing)
        return INVOCATION_DONE;
    error_set(err, ERROR_INVALID, "the answer is %s", missing);
    return INVOCATION_FAILED;
}

static void on_run(void *data, const struct http_answer *answer)
{
    struct work *w = data;
    struct error err = {.code = ERROR_NONE};
    w->call = NULL;
    enum invocation_verdict verdict = judge(w, answer, &err);
    end(w, verdict, answer, verdict == INVOCATION_DONE ? NULL : &err);
}

/* --- calling it --- */

static void on_script(void *data, const struct http_answer *answer);

/* Begins the call that is due: the script, or the run. */
static int call(struct work *w, bool run, struct error *err)
{
    const struct invocation *i = w->invocation;
    struct http_call_request r;
    struct json_value value;
    size_t len;
    http_call_request_init(&r);
    buffer_append_text(&r.url, container_url(w->container));
    buffer_append_text(&r.url, w->path);
    r.connect_timeout_ns = i->policy.timeout_ns < CONNECT_TIMEOUT ? i->policy.timeout_ns : CONNECT_TIMEOUT;
    r.timeout_ns = i->policy.timeout_ns;
    r.answer_max = (size_t)executor_worker(i->executor)->config->max_answer_bytes;
    int result = http_call_method(&r, run ? "GET" : "POST", run ? 3 : 4, err);
    if (run) {
        buffer_append_text(&r.url, "/run");
        buffer_append_text(&r.body, "{\"context\":");
        json_member(&i->body, "context", &value);
        const char *raw = json_raw(&value, &len);
        buffer_append(&r.body, raw, len);
        buffer_append_text(&r.body, ",\"event\":");
        json_member(&i->body, "event", &value);
        raw = json_raw(&value, &len);
        buffer_append(&r.body, raw, len);
        buffer_append_char(&r.body, '}');
    } else {
        json_unescape(&w->script, &r.body);
    }
    const char *type = run ? "application/json" : "text/plain; charset=utf-8";
    if (result == 0 && ((result = http_call_header(&r, "Content-Type", type, err)) == 0))
        result = http_call_header(&r, "Idempotency-Key", i->intent->key, err);
    if (result == 0 && (r.url.failed || r.body.failed))
        result = error_set(err, ERROR_MEMORY, "out of memory");
    if (result == 0)
        result =
            http_call_start(container_calls(w->container), &r, run ? on_run : on_script, w, &w->call, err);
    http_call_request_done(&r);
    return result;
}

static void next_call(struct work *w, bool run)
{
    struct error err;
    if (call(w, run, &err) < 0)
        end(w, err.code == ERROR_INVALID ? INVOCATION_FAILED : INVOCATION_RETRY, NULL, &err);
}

static void on_script(void *data, const struct http_answer *answer)
{
    struct work *w = data;
    struct error err = {.code = ERROR_NONE};
    w->call = NULL;
    if (!answer->status || !answer->complete)
        container_suspect(w->container);
    enum invocation_verdict verdict = invocation_judge(w->invocation, answer, &err);
    if (verdict == INVOCATION_DONE) {
        container_set_script(w->container, w->path, w->script_hash);
        next_call(w, true);
        return;
    }
    error_prefix(&err, "the script");
    end(w, verdict, answer, &err);
}

static void on_ready(void *data, struct container *container, const struct error *why)
{
    struct work *w = data;
    w->wait = NULL;
    w->container = container;
    if (!container) {
        struct error err = *why;
        end(w, err.code == ERROR_REFUSED ? INVOCATION_FAILED : INVOCATION_RETRY, NULL, &err);
        return;
    }
    next_call(w, w->script.type == JSON_ABSENT || container_has_script(container, w->path, w->script_hash));
}

/* --- the start --- */

/* The unreserved characters of RFC 3986, section 2.3, as they are. */
static void append_segment(const char *text, size_t len, struct buffer *out)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        if (isalnum(c) || strchr("-_~", c) || (c == '.' && len > 2))
            buffer_append_char(out, (char)c);
        else
            buffer_printf(out, "%%%02X", c);
    }
}

static int make_path(const struct invocation *i, char **ret_path, struct error *err)
{
    struct json_value trigger;
    BUFFER_AUTO name = BUFFER_INIT;
    BUFFER_AUTO path = BUFFER_INIT;
    if (intent_trigger(i->intent, &trigger))
        json_unescape(&trigger, &name);
    buffer_append_text(&path, evaluates(&i->body) ? "/condition/" : "/actions/");
    append_segment(buffer_text(&name), name.len, &path);
    *ret_path = path.failed || name.failed ? NULL : strdup(buffer_text(&path));
    return *ret_path ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

static int begin(struct work *w, struct error *err)
{
    struct invocation *i = w->invocation;
    const struct config *config = executor_worker(i->executor)->config;
    struct json_value image, value;
    BUFFER_AUTO name = BUFFER_INIT;
    if (!json_member(&i->body, "image", &image) || image.type != JSON_STRING ||
        !json_member(&i->body, "context", &value) || !json_member(&i->body, "event", &value))
        return error_set(err, ERROR_INVALID, "the stored intent has no image, context or event");
    json_unescape(&image, &name);
    if (permit_image(config->docker_images, buffer_text(&name), name.len, err) < 0 ||
        make_path(i, &w->path, err) < 0)
        return -1;
    json_member(&i->body, "script", &w->script);
    w->script_hash = arena_name_hash(w->script.text ? w->script.text : "", w->script.len) | 1;
    struct containers *containers = executor_containers(i->executor, err);
    if (!containers)
        return -1;
    return containers_await(containers, buffer_text(&name), name.len, on_ready, w, &w->wait, err);
}

static int run(struct invocation *i, struct error *err)
{
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY, "out of memory");
    w->invocation = i;
    if (begin(w, err) < 0) {
        work_free(w);
        return -1;
    }
    i->work = w;
    return 0;
}

static void cancel(struct invocation *i)
{
    struct work *w = i->work;
    if (w->wait)
        container_wait_cancel(w->wait);
    if (w->call)
        http_call_cancel(w->call);
    work_free(w);
}

/* --- the answer to the trigger --- */

/* A write to the trigger, worker/shard/waiting.h. result: a JSON text, or NULL: it has failed. */
static void append_answer(const struct intent *intent, const struct json_value *body, const char *members,
                          size_t len, struct buffer *out)
{
    struct json_value identity;
    size_t identity_len;
    buffer_printf(out, "{\"answer\":{\"key\":\"%s\",\"stage\":\"%s\",\"trigger\":", intent->key,
                  evaluates(body) ? "condition" : "action");
    json_member(body, "trigger", &identity);
    const char *raw = json_raw(&identity, &identity_len);
    buffer_append(out, raw, identity_len);
    buffer_append(out, members, len);
    buffer_append_text(out, "}}");
}

static bool is_last(const struct json_value *body)
{
    struct json_value value;
    return json_member(body, "last", &value) && value.type == JSON_TRUE;
}

static int reply(const struct invocation *i, const struct http_answer *none, struct invocation_reply *reply,
                 struct error *err)
{
    const struct work *w = i->work;
    struct json_value root, value, trigger;
    BUFFER_AUTO members = BUFFER_INIT;
    size_t len;
    (void)none;
    if (is_last(&i->body))
        return 1;
    if (json_scan(w->answer->body, w->answer->len, &root, err) < 0)
        return -1;
    if (json_member(&root, "context", &value)) {
        const char *raw = json_raw(&value, &len);
        buffer_append_text(&members, ",\"context\":");
        buffer_append(&members, raw, len);
    }
    if (json_member(&root, "result", &value))
        buffer_printf(&members, ",\"result\":%s", value.type == JSON_TRUE ? "true" : "false");
    if (intent_trigger(i->intent, &trigger))
        json_unescape(&trigger, &reply->subject);
    append_answer(i->intent, &i->body, members.data, members.len, &reply->data);
    reply->kind = CE_DATA_JSON;
    return members.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

int docker_gave_up(const struct intent *intent, struct injection *injection, struct error *err)
{
    static const char failed[] = ",\"failed\":true";
    struct json_value body, trigger;
    struct cloudevent carrier;
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO name = BUFFER_INIT;
    if (!intent_body(intent, &body) || is_last(&body) || !intent_trigger(intent, &trigger))
        return 0;
    json_unescape(&trigger, &name);
    buffer_printf(&id, "%s-answer", intent->key);
    append_answer(intent, &body, failed, sizeof failed - 1, &text);
    if (text.failed || id.failed || name.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    write_compose(&carrier, buffer_text(&id), NULL, buffer_text(&name), name.len, text.data, text.len);
    return internal_write(injection->worker->internal, &carrier, injection->epoch, err);
}

/* --- failures --- */

static void explain(const struct invocation *i, struct buffer *out)
{
    const struct work *w = i->work;
    if (w && w->answer && w->answer->status)
        invocation_explain_answer(w->answer, out);
}

static int host(const struct invocation *i, struct buffer *out, struct error *err)
{
    struct json_value image;
    if (!json_member(&i->body, "image", &image) || image.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no image");
    buffer_append_text(out, "docker:");
    json_unescape(&image, out);
    return 0;
}

static const struct invocation_type container = {
    .run = run, .cancel = cancel, .reply = reply, .host = host, .explain = explain, .whole_answer = true};

void docker_start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &container);
}
