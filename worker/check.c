#include "worker/check.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "worker/local/permit.h"
#include "worker/source/source.h"
#include "worker/trial.h"
#include "worker/shard/trigger.h"

#define MEMORY_MAX (512u << 20)
#define READ_SIZE 65536
#define KEPT_BYTES (1u << 20) /* of buffers, between requests */

/* --- triggers --- */

static int wrong(const char *member, const struct json_value *value, const char *wanted, struct error *err)
{
    if (value->type == JSON_ABSENT)
        return error_set(err, ERROR_INVALID, "member %s is missing", member);
    size_t len;
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "member %s is %.*s, not %s", member, (int)(len < 80 ? len : 80), raw,
                     wanted);
}

/* Absent or null: it will get one. */
static int check_id(const struct json_value *trigger, struct buffer *ret_id, struct error *err)
{
    struct json_value id;
    if (!json_member(trigger, "id", &id) || id.type == JSON_NULL) {
        buffer_append_text(ret_id, "id");
        return 0;
    }
    if (id.type != JSON_STRING)
        return wrong("id", &id, "a text", err);
    json_unescape(&id, ret_id);
    if (!ret_id->len || ret_id->len > CHECK_ID_MAX || memchr(ret_id->data, '\0', ret_id->len)) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "a text of 1 to %d bytes without NUL", CHECK_ID_MAX);
        return wrong("id", &id, wanted, err);
    }
    return 0;
}

/* The members of a condition or an action but its name. */
static int check_parameters(const struct json_value *trigger, const char *member, const char *name,
                            const char *const *known, struct error *err)
{
    struct json_value object, at, value;
    struct json_iter iter;
    if (!json_member(trigger, member, &object))
        return 0;
    json_iter_init(&iter, &object);
    while (json_next(&iter, &at, &value)) {
        bool found = json_equals(&at, "name", 4);
        for (const char *const *k = known; !found && k && *k; k++)
            found = json_equals(&at, *k, strlen(*k));
        if (!found)
            return error_set(err, ERROR_INVALID, "%s %s: unknown parameter %.*s", member, name,
                             (int)(at.len < 80 ? at.len : 80), at.text);
    }
    return 0;
}

static int check_activations(const struct trigger *t, struct error *err)
{
    for (size_t i = 0; i < t->n_activations; i++)
        if (!t->activations[i].type_len)
            return error_set(err, ERROR_INVALID, "activation_events[%zu]: type is empty", i);
    return 0;
}

static int check_strictly(const struct trigger *t, const struct json_value *document, struct error *err)
{
    static const struct json_value empty = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    struct json_value context, action;
    if (!json_member(document, "context", &context))
        context = empty;
    if (check_activations(t, err) < 0 ||
        check_parameters(document, "condition", t->condition->name, t->condition->parameters, err) < 0 ||
        check_parameters(document, "action", t->action->name, t->action->parameters, err) < 0)
        return -1;
    if (t->condition->check && t->condition->check(&context, err) < 0)
        return error_prefix(err, "condition %s", t->condition->name);
    if (t->action->check && json_member(document, "action", &action) && t->action->check(&action, err) < 0)
        return error_prefix(err, "action %s", t->action->name);
    if (t->action->check_context && t->action->check_context(&context, err) < 0)
        return error_prefix(err, "action %s", t->action->name);
    return 0;
}

/* permits: what the configuration allows, too; NULL: whatever it may be. */
static int check_permitted(const struct json_value *trigger, const struct permits *permits, struct error *err)
{
    BUFFER_AUTO id = BUFFER_INIT;
    struct trigger *t;
    size_t len;
    if (trigger->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not an object", json_type_name(trigger->type));
    if (check_id(trigger, &id, err) < 0)
        return -1;
    const char *raw = json_raw(trigger, &len);
    if (trigger_new(buffer_text(&id), id.len, raw, len, 1, &t, err) < 0)
        return -1;
    int r = check_strictly(t, trigger, err);
    if (r == 0 && permits)
        r = trigger_permitted(t, permits, err);
    trigger_free(t);
    return r;
}

int check_trigger(const struct json_value *trigger, struct error *err)
{
    return check_permitted(trigger, NULL, err);
}

/* --- requests --- */

/* Messages quote values, and may have been cut inside a character. */
static void append_reason(const char *message, struct buffer *out)
{
    char text[sizeof((struct error *)NULL)->message];
    size_t len = 0;
    for (const char *at = message; *at;) {
        size_t n = 1;
        while (n < 4 && !utf8_valid(at, n) && at[n])
            n++;
        if (!utf8_valid(at, n)) {
            text[len++] = '?';
            at++;
            continue;
        }
        memcpy(text + len, at, n);
        len += n;
        at += n;
    }
    buffer_append_json(out, text, len);
}

static void append_verdict(int result, const struct error *err, struct buffer *out)
{
    if (result == 0)
        buffer_append_text(out, "null");
    else
        append_reason(err->message, out);
}

static void read_permits(const struct json_value *request, struct buffer *exec_allow,
                         struct buffer *docker_images)
{
    struct json_value permits, value;
    if (!json_member(request, "permits", &permits) || permits.type != JSON_OBJECT)
        return;
    if (json_member(&permits, "exec_allow", &value) && value.type == JSON_STRING)
        json_unescape(&value, exec_allow);
    if (json_member(&permits, "docker_images", &value) && value.type == JSON_STRING)
        json_unescape(&value, docker_images);
}

static int answer_triggers(const struct json_value *request, struct buffer *out, struct error *err)
{
    struct json_value triggers, name, trigger;
    struct json_iter iter;
    unsigned n = 0;
    BUFFER_AUTO exec_allow = BUFFER_INIT;
    BUFFER_AUTO docker_images = BUFFER_INIT;
    read_permits(request, &exec_allow, &docker_images);
    struct permits permits = {.exec_allow = buffer_text(&exec_allow),
                              .docker_images = buffer_text(&docker_images)};
    if (!json_member(request, "triggers", &triggers) || triggers.type != JSON_ARRAY)
        return wrong("triggers", &triggers, "an array", err);
    buffer_append_text(out, "{\"results\":[");
    json_iter_init(&iter, &triggers);
    while (json_next(&iter, &name, &trigger)) {
        struct error why;
        if (n++)
            buffer_append_char(out, ',');
        if (n > CHECK_TRIGGERS_MAX || out->len > CHECK_ANSWER_MAX)
            return error_set(err, ERROR_LIMIT, "more than %d triggers, or too many reasons, in one request",
                             CHECK_TRIGGERS_MAX);
        append_verdict(check_permitted(&trigger, &permits, &why), &why, out);
    }
    buffer_append_text(out, "]}");
    return 0;
}

static int answer_source(const struct json_value *request,
                         int (*check)(const struct json_value *document, struct error *err),
                         struct buffer *out, struct error *err)
{
    struct json_value source;
    struct error why;
    if (!json_member(request, "event_source", &source))
        return wrong("event_source", &source, "an object", err);
    buffer_append_text(out, "{\"result\":");
    append_verdict(check(&source, &why), &why, out);
    buffer_append_char(out, '}');
    return 0;
}

static int answer_test(const struct json_value *request, struct buffer *out, struct error *err)
{
    buffer_append_text(out, "{\"result\":");
    if (trial_run(request, out, err) < 0)
        return -1;
    buffer_append_char(out, '}');
    return 0;
}

static int answer(const char *request, size_t len, struct buffer *out, struct error *err)
{
    struct json_value root, kind;
    if (json_scan(request, len, &root, err) < 0)
        return -1;
    if (root.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not an object", json_type_name(root.type));
    if (!json_member(&root, "check", &kind) || kind.type != JSON_STRING)
        return wrong("check", &kind, "a text", err);
    if (json_equals(&kind, "triggers", 8))
        return answer_triggers(&root, out, err);
    if (json_equals(&kind, "event_source", 12))
        return answer_source(&root, source_check, out, err);
    if (json_equals(&kind, "target", 6))
        return answer_source(&root, source_check_target, out, err);
    if (json_equals(&kind, "test", 4))
        return answer_test(&root, out, err);
    return wrong("check", &kind, "triggers, event_source, target or test", err);
}

void check_answer(const char *request, size_t len, struct buffer *out)
{
    size_t before = out->len;
    struct error err;
    int r = answer(request, len, out, &err);
    if (r == 0 && out->failed)
        r = error_set(&err, ERROR_MEMORY, "out of memory");
    if (r == 0 && out->len - before > CHECK_ANSWER_MAX)
        r = error_set(&err, ERROR_LIMIT, "the answer is longer than %u bytes", CHECK_ANSWER_MAX);
    if (r == 0)
        return;
    out->failed = false;
    out->len = before;
    buffer_append_text(out, "{\"error\":");
    append_reason(err.message, out);
    buffer_append_char(out, '}');
}

/* --- the process --- */

static void limit(int resource, rlim_t soft, rlim_t hard)
{
    struct rlimit r;
    if (getrlimit((__rlimit_resource_t)resource, &r) < 0)
        return;
    r.rlim_cur = soft < r.rlim_max ? soft : r.rlim_max;
    if (hard < r.rlim_max)
        r.rlim_max = hard;
    (void)setrlimit((__rlimit_resource_t)resource, &r);
}

/* No core, little memory, and no descriptor beyond those that are open: so no file and no connection. */
static void limit_all(void)
{
    limit(RLIMIT_CORE, 0, 0);
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__ /* they map terabytes, and write files */
    limit(RLIMIT_AS, MEMORY_MAX, MEMORY_MAX);
    limit(RLIMIT_NOFILE, STDERR_FILENO + 1, STDERR_FILENO + 1);
#endif
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* From now on so many seconds; the whole of it, since the kernel counts whole seconds only. */
static void limit_cpu(void)
{
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used) == 0)
        limit(RLIMIT_CPU, (rlim_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec + 2 + CHECK_CPU_SECONDS),
              RLIM_INFINITY);
}

static int write_all(const char *data, size_t len)
{
    while (len) {
        ssize_t n = write(STDOUT_FILENO, data, len);
        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

static int serve(const char *request, size_t len, bool too_long)
{
    BUFFER_AUTO out = BUFFER_INIT;
    limit_cpu();
    if (too_long)
        buffer_printf(&out, "{\"error\":\"the request is longer than %u bytes\"}", CHECK_LINE_MAX);
    else
        check_answer(request, len, &out);
    buffer_append_char(&out, '\n');
    return out.failed ? -1 : write_all(out.data, out.len);
}

/* Answers the whole lines in the buffer. *too_long: the rest of a line that is to be dropped. */
static int serve_lines(struct buffer *in, size_t seen, bool *too_long)
{
    size_t start = 0;
    char *feed;
    for (size_t at = seen; (feed = memchr(in->data + at, '\n', in->len - at)); at = start) {
        size_t end = (size_t)(feed - in->data);
        if (serve(in->data + start, end - start, *too_long || end - start > CHECK_LINE_MAX) < 0)
            return -1;
        *too_long = false;
        start = end + 1;
    }
    buffer_consume(in, start);
    if (in->len > CHECK_LINE_MAX) {
        *too_long = true;
        in->len = 0;
    }
    if (!in->len)
        buffer_reset(in, KEPT_BYTES);
    return 0;
}

int check_run(void)
{
    BUFFER_AUTO in = BUFFER_INIT;
    bool too_long = false;
    limit_all();
    for (;;) {
        char *to = buffer_reserve(&in, READ_SIZE);
        if (!to)
            return IPC_EXIT_ERROR;
        ssize_t n = read(STDIN_FILENO, to, READ_SIZE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0 ? IPC_EXIT_OK : IPC_EXIT_ERROR;
        size_t seen = in.len;
        in.len += (size_t)n;
        if (serve_lines(&in, seen, &too_long) < 0)
            return IPC_EXIT_ERROR;
    }
}
