#include "worker/action/exec.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/executor/executor.h"
#include "worker/globals.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/local/program.h"
#include "worker/document/redact.h"
#include "worker/document/secret.h"
#include "worker/worker.h"

#define LEAST_TRIES 6      /* when it could not be started for the moment */
#define SHOWN_OUTPUT 2048u /* bytes, in what is told of a failure */

/* An attempt: the program while it runs, then how it has ended. */
struct work {
    struct invocation *invocation;
    struct program *program;       /* NULL: it has ended */
    const struct program_end *end; /* while that is told of */
};

/* --- the order --- */

static void add_text(struct buffer *texts, const char *text, size_t len, uint32_t *count)
{
    buffer_append(texts, text, len);
    buffer_append_char(texts, '\0');
    ++*count;
}

static int add_arguments(const struct json_value *body, struct program_request *request, struct buffer *texts,
                         struct error *err)
{
    struct json_iter iter;
    struct json_value argv, name, value;
    if (!json_member(body, "argv", &argv) || argv.type != JSON_ARRAY)
        return error_set(err, ERROR_INVALID, "the stored intent has no argv");
    json_iter_init(&iter, &argv);
    while (json_next(&iter, &name, &value)) {
        BUFFER_AUTO text = BUFFER_INIT;
        if (value.type == JSON_STRING)
            json_unescape(&value, &text);
        if (value.type != JSON_STRING || memchr(buffer_text(&text), '\0', text.len))
            return error_set(err, ERROR_INVALID,
                             "the stored intent has an argv of something else than texts");
        add_text(texts, text.data, text.len, &request->limits.n_arguments);
    }
    return 0;
}

static int add_variable(const struct secret_scope *scope, const struct json_value *name,
                        const struct json_value *value, struct buffer *line, struct error *err)
{
    json_unescape(name, line);
    size_t name_len = line->len;
    buffer_append_char(line, '=');
    if (value->type == JSON_STRING)
        json_unescape(value, line);
    else if (secret_read(scope, value, line, err) < 0)
        return error_prefix(err, "env.%.*s", (int)(name_len < 80 ? name_len : 80), line->data);
    if (!strcmp(buffer_text(line) + name_len + 1, REDACTED))
        return error_set(err, ERROR_INVALID, "the secret in env.%.*s was taken out",
                         (int)(name_len < 80 ? name_len : 80), line->data);
    if (memchr(buffer_text(line), '\0', line->len))
        return error_set(err, ERROR_INVALID, "env.%.*s holds a NUL character",
                         (int)(name_len < 80 ? name_len : 80), line->data);
    return 0;
}

static int add_given_variables(const struct invocation *i, struct program_request *request,
                               struct buffer *texts, struct error *err)
{
    struct worker *w = executor_worker(i->executor);
    struct json_iter iter;
    struct json_value env, name, value;
    if (!json_member(&i->body, "env", &env) || env.type != JSON_OBJECT)
        return 0;
    struct globals *globals = globals_get(&w->globals);
    struct secret_scope scope = {
        .config = w->config, .workspace = w->workspace, .global = globals ? &globals->root : NULL};
    int r = 0;
    json_iter_init(&iter, &env);
    while (r == 0 && json_next(&iter, &name, &value)) {
        BUFFER_AUTO line = BUFFER_INIT;
        r = add_variable(&scope, &name, &value, &line, err);
        if (r == 0)
            add_text(texts, line.data, line.len, &request->limits.n_variables);
    }
    globals_unref(globals);
    return r;
}

static int add_variables(const struct invocation *i, struct program_request *request, struct buffer *texts,
                         struct error *err)
{
    static const char *const standard[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"};
    struct json_value trigger;
    BUFFER_AUTO name = BUFFER_INIT;
    BUFFER_AUTO ours = BUFFER_INIT;
    if (intent_trigger(i->intent, &trigger))
        json_unescape(&trigger, &name);
    if (add_given_variables(i, request, texts, err) < 0)
        return -1;
    for (size_t n = 0; n < sizeof standard / sizeof standard[0]; n++)
        add_text(texts, standard[n], strlen(standard[n]), &request->limits.n_variables);
    buffer_printf(&ours, "TRIGGERFLOW_KEY=%s", i->intent->key);
    add_text(texts, buffer_text(&ours), ours.len, &request->limits.n_variables);
    ours.len = 0;
    buffer_printf(&ours, "TRIGGERFLOW_ATTEMPT=%u", i->intent->attempts);
    add_text(texts, buffer_text(&ours), ours.len, &request->limits.n_variables);
    ours.len = 0;
    buffer_printf(&ours, "TRIGGERFLOW_WORKSPACE=%s", executor_worker(i->executor)->workspace);
    add_text(texts, buffer_text(&ours), ours.len, &request->limits.n_variables);
    ours.len = 0;
    buffer_printf(&ours, "TRIGGERFLOW_TRIGGER=%s", buffer_text(&name));
    add_text(texts, buffer_text(&ours), ours.len, &request->limits.n_variables);
    return ours.failed || name.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static int make_input(const struct json_value *body, struct buffer *out, struct error *err)
{
    struct json_value kind, value;
    struct cloudevent event;
    BUFFER_AUTO scratch = BUFFER_INIT;
    size_t len;
    if (!json_member(body, "input", &kind) || !json_member(body, "event", &value))
        return error_set(err, ERROR_INVALID, "the stored intent has no event");
    const char *raw = json_raw(&value, &len);
    if (json_equals(&kind, "event", 5))
        buffer_append(out, raw, len);
    if (!json_equals(&kind, "data", 4))
        return 0;
    if (cloudevent_parse(&event, raw, len, &scratch, err) < 0)
        return -1;
    cloudevent_data_json(&event, out);
    return 0;
}

static int64_t number(const struct json_value *body, const char *member, int64_t least, int64_t most)
{
    struct json_value value;
    int64_t n;
    if (json_member(body, member, &value) && value.type == JSON_NUMBER && json_integer(&value, &n) &&
        n >= least && n <= most)
        return n;
    return least;
}

/* --- the end --- */

static enum invocation_verdict judge(struct work *w, struct error *err)
{
    const struct program_report *r = &w->end->report;
    switch ((enum program_fate)r->fate) {
    case PROGRAM_EXITED:
        if (!r->status)
            return INVOCATION_DONE;
        error_set(err, ERROR_REFUSED, "exit status %d", r->status);
        return INVOCATION_RETRY;
    case PROGRAM_KILLED:
        error_set(err, ERROR_REFUSED, "killed by signal %d", r->status);
        return INVOCATION_RETRY;
    case PROGRAM_TIMED_OUT:
        error_set(err, ERROR_LIMIT, "killed: not done within %g s",
                  (double)w->invocation->policy.timeout_ns / 1e9);
        return INVOCATION_RETRY;
    case PROGRAM_TOO_MANY:
        error_set(err, ERROR_LIMIT, "killed: it had more than %lld processes",
                  (long long)number(&w->invocation->body, "processes", 1, INT32_MAX));
        return INVOCATION_RETRY;
    case PROGRAM_REFUSED:
        error_set(err, ERROR_REFUSED, "%s", r->message);
        return INVOCATION_FAILED;
    case PROGRAM_UNAVAILABLE:
    default:
        error_set(err, ERROR_UNAVAILABLE, "%s", r->message);
        if (w->invocation->policy.max_retries < LEAST_TRIES - 1)
            w->invocation->policy.max_retries = LEAST_TRIES - 1;
        return INVOCATION_RETRY;
    }
}

static void on_end(void *data, const struct program_end *end)
{
    struct work *w = data;
    struct invocation *i = w->invocation;
    struct error err = {.code = ERROR_NONE};
    w->program = NULL;
    w->end = end;
    enum invocation_verdict verdict = judge(w, &err);
    invocation_end(i, verdict, verdict == INVOCATION_DONE ? NULL : &err);
    free(w);
}

static int run(struct invocation *i, struct error *err)
{
    struct program_request request = {.texts = NULL};
    BUFFER_AUTO texts = BUFFER_INIT;
    BUFFER_AUTO input = BUFFER_INIT;
    if (add_arguments(&i->body, &request, &texts, err) < 0 || add_variables(i, &request, &texts, err) < 0 ||
        make_input(&i->body, &input, err) < 0)
        return -1;
    if (texts.failed || input.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    request.limits.time_ns = i->policy.timeout_ns;
    request.limits.memory = (uint64_t)number(&i->body, "memory", 1 << 20, INT64_MAX);
    request.limits.processes = (uint32_t)number(&i->body, "processes", 1, INT32_MAX);
    request.limits.output_max = (uint32_t)number(&i->body, "output_bytes", 0, PROGRAM_OUTPUT_MAX);
    request.texts = texts.data;
    request.texts_len = texts.len;
    request.input = input.data;
    request.input_len = input.len;
    struct work *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ERROR_MEMORY, "out of memory");
    w->invocation = i;
    if (program_start(executor_worker(i->executor)->programs, executor_loop(i->executor), &request, on_end, w,
                      &w->program, err) < 0) {
        free(w);
        return -1;
    }
    i->work = w;
    return 0;
}

static void cancel(struct invocation *i)
{
    struct work *w = i->work;
    program_cancel(w->program);
    free(w);
}

/* --- what is told of it --- */

/* As a JSON string where it can be one; cut between characters. */
static void append_output(const char *text, size_t len, size_t most, struct buffer *out)
{
    size_t n = len < most ? len : most;
    while (n < len && n && ((unsigned char)text[n] & 0xC0) == 0x80)
        n--;
    json_append_bytes(out, text, n);
}

/* The last character may have been cut by output_bytes. */
static size_t whole_characters(const char *text, size_t len, bool cut)
{
    for (unsigned back = 1; cut && back <= 3 && back <= len; back++) {
        unsigned char c = (unsigned char)text[len - back];
        if (c >= 0xC0)
            return utf8_valid(text + len - back, back) ? len : len - back;
        if (c < 0x80)
            break;
    }
    return len;
}

static void append_outputs(const struct program_end *end, bool json, size_t most, struct buffer *out)
{
    const struct program_report *r = &end->report;
    size_t output_len = whole_characters(end->output, r->output_len, r->output_cut);
    size_t errors_len = whole_characters(end->errors, r->errors_len, r->errors_cut);
    if (r->fate == PROGRAM_EXITED)
        buffer_printf(out, ",\"exit_status\":%d", r->status);
    else if (r->fate == PROGRAM_KILLED)
        buffer_printf(out, ",\"signal\":%d", r->status);
    buffer_append_text(out, ",\"output\":");
    if (json)
        buffer_append(out, end->output, r->output_len);
    else
        append_output(end->output, output_len, most, out);
    if (r->output_cut || (!json && output_len > most))
        buffer_append_text(out, ",\"output_cut\":true");
    buffer_append_text(out, ",\"errors\":");
    append_output(end->errors, errors_len, most, out);
    if (r->errors_cut || errors_len > most)
        buffer_append_text(out, ",\"errors_cut\":true");
}

static int reply(const struct invocation *i, const struct http_answer *answer, struct invocation_reply *reply,
                 struct error *err)
{
    const struct work *w = i->work;
    const struct program_report *r = &w->end->report;
    struct json_value wanted, value;
    (void)answer;
    bool json = json_member(&i->body, "output", &value) && json_equals(&value, "json", 4);
    if (json && r->output_cut)
        return error_set(err, ERROR_LIMIT, "the output, which should be JSON, has more than %u bytes",
                         r->output_len);
    if (json && json_scan_within(w->end->output, r->output_len, JSON_DATA_DEPTH - 1, &value, err) < 0)
        return error_prefix(err, "the output is not JSON");
    if (!json_member(&i->body, "reply", &wanted) || wanted.type != JSON_OBJECT)
        return 1;
    if (json_member(&wanted, "type", &value) && value.type == JSON_STRING)
        json_unescape(&value, &reply->type);
    if (json_member(&wanted, "subject", &value) && value.type == JSON_STRING)
        json_unescape(&value, &reply->subject);
    reply->kind = CE_DATA_JSON;
    append_outputs(w->end, json, SIZE_MAX, &reply->data);
    if (reply->data.len)
        reply->data.data[0] = '{'; /* in place of the comma */
    buffer_append_char(&reply->data, '}');
    return 0;
}

static void explain(const struct invocation *i, struct buffer *out)
{
    const struct work *w = i->work;
    if (w && w->end && w->end->report.fate <= PROGRAM_TOO_MANY)
        append_outputs(w->end, false, SHOWN_OUTPUT, out);
}

static int host(const struct invocation *i, struct buffer *out, struct error *err)
{
    (void)i;
    (void)err;
    buffer_append_text(out, "exec:");
    return 0;
}

static int64_t host_limit(const struct config *config)
{
    return config->exec_max_running;
}

static const struct invocation_type program = {
    .run = run, .cancel = cancel, .reply = reply, .host = host, .host_limit = host_limit, .explain = explain};

void exec_start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &program);
}
