/* EXEC: runs a local program (worker/local/program_host.h has how), with the event on its standard input.
 *
 *     {"name":"EXEC", "argv":["/absolute/path", ...], "env":{name: text or secret},
 *      "input":"event"|"data"|"none", "output":"text"|"json",
 *      "memory":"1GiB", "processes":64, "output_bytes":65536,
 *      "reply":"event"|"ignore", "reply_type", "reply_subject", "subject",
 *      and the policy's members (worker/executor/invocation_policy.h), `retries` being 0 by default}
 *
 * The arguments but the first, and the variables' values, may hold paths (worker/document/template.h); no
 * shell looks at them. The first is literal: the configuration (worker.exec_allow) says which programs may be
 * run. */
#include "worker/action/exec.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/action/action.h"
#include "worker/action/reply.h"
#include "worker/document/document.h"
#include "worker/executor/invocation_policy.h"
#include "worker/local/permit.h"
#include "worker/local/program.h"
#include "worker/document/secret.h"
#include "worker/document/template.h"

#define MEMORY_STANDARD (1ll << 30)
#define MEMORY_LEAST (1ll << 20)
#define PROCESSES_STANDARD 64
#define PROCESSES_MAX 100000
#define OUTPUT_STANDARD 65536
#define ARGUMENTS_MAX 4096

struct exec {
    struct document document;    /* the values below borrow it */
    struct json_value argv, env; /* env: JSON_ABSENT: none */
    const char *input;
    const char *output;
    int64_t memory;
    int64_t processes;
    int64_t output_bytes;
    struct reply reply;
    struct invocation_policy policy;
};

/* --- loading --- */

static void unload(void *state)
{
    struct exec *x = state;
    if (!x)
        return;
    document_done(&x->document);
    free(x);
}

/* Bytes, as a number or as people write them: "512MiB". */
static int take_memory(const struct json_value *document, int64_t *memory, struct error *err)
{
    static const char wanted[] = "a size from 1MiB, such as \"512MiB\"";
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    char *unit;
    if (!document_member(document, "memory", &value))
        return 0;
    if (value.type != JSON_STRING)
        return document_count(document, "memory", MEMORY_LEAST, INT64_MAX, wanted, memory, err);
    json_unescape(&value, &text);
    const char *digits = buffer_text(&text);
    long long n = isdigit((unsigned char)*digits) ? strtoll(digits, &unit, 10) : -1;
    for (unsigned i = 0; n >= 0 && i < sizeof units / sizeof units[0]; i++)
        if (!strcmp(unit, units[i]) && n <= INT64_MAX >> (10 * i) && n << (10 * i) >= MEMORY_LEAST) {
            *memory = n << (10 * i);
            return 0;
        }
    return document_wrong("memory", &value, wanted, err);
}

static int take_choice(const struct json_value *document, const char *member, const char *const *choices,
                       const char *wanted, const char **ret_choice, struct error *err)
{
    struct json_value value;
    *ret_choice = choices[0];
    if (!document_member(document, member, &value))
        return 0;
    for (; *choices; choices++)
        if (value.type == JSON_STRING && json_equals(&value, *choices, strlen(*choices))) {
            *ret_choice = *choices;
            return 0;
        }
    return document_wrong(member, &value, wanted, err);
}

static int load_argv(struct exec *x, const struct json_value *document, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    unsigned n = 0;
    if (!document_member(document, "argv", &x->argv) || x->argv.type != JSON_ARRAY)
        return document_wrong("argv", &x->argv, "a list of texts", err);
    json_iter_init(&iter, &x->argv);
    for (; json_next(&iter, &name, &value); n++) {
        BUFFER_AUTO text = BUFFER_INIT;
        if (value.type != JSON_STRING)
            return document_wrong("argv", &value, "a list of texts", err);
        if (n && template_check(&value, err) < 0)
            return error_prefix(err, "argv[%u]", n);
        json_unescape(&value, &text);
        if (!n && permit_program("/", buffer_text(&text), text.len, err) < 0)
            return error_prefix(err, "argv[0]");
    }
    if (!n || n > ARGUMENTS_MAX)
        return error_set(err, ERROR_INVALID, "argv has %u texts, not 1 to %d", n, ARGUMENTS_MAX);
    return 0;
}

/* Variables that are ours, or have a program load code from where they say: who may register a trigger may
 * not thereby run what is not allowed. */
static bool is_reserved(const char *name)
{
    static const char *const reserved[] = {"TRIGGERFLOW_", "LD_",       "GLIBC_", "GCONV_",  "MALLOC_",
                                           "BASH_",        "PYTHON",    "PERL",   "RUBY",    "NODE_",
                                           "JAVA_TOOL_",   "JDK_",      "_JAVA_", "NLSPATH", "IFS",
                                           "ENV",          "SHELLOPTS", "LUA_",   "GIT_",    "OPENSSL_CONF"};
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
        if (!strncmp(name, reserved[i], strlen(reserved[i])))
            return true;
    return false;
}

static bool is_variable(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '_')
            return false;
    return len && !isdigit((unsigned char)*name);
}

static int load_env(struct exec *x, const struct json_value *document, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    if (!document_member(document, "env", &x->env))
        return 0;
    if (x->env.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "env is %s, not an object", json_type_name(x->env.type));
    json_iter_init(&iter, &x->env);
    while (json_next(&iter, &name, &value)) {
        BUFFER_AUTO text = BUFFER_INIT;
        json_unescape(&name, &text);
        const char *variable = buffer_text(&text);
        if (!is_variable(variable, text.len) || is_reserved(variable))
            return error_set(err, ERROR_INVALID, "env: %.80s is no variable that can be set", variable);
        int r = value.type == JSON_STRING ? template_check(&value, err) : secret_check(&value, err);
        if (r < 0)
            return error_prefix(err, "env.%.80s", variable);
    }
    return 0;
}

static int load_policy(struct exec *x, const struct json_value *document, struct error *err)
{
    struct json_value value;
    if (invocation_policy_load(document, &x->policy, err) < 0)
        return -1;
    if (!document_member(document, "retries", &value) && !document_member(document, "max_retries", &value))
        x->policy.max_retries = 0; /* what a program has done by half, only its author knows */
    return 0;
}

static int read_document(struct exec *x, const struct json_value *document, struct error *err)
{
    static const char *const inputs[] = {"event", "data", "none", NULL};
    static const char *const outputs[] = {"text", "json", NULL};
    static const char *const replies[] = {"event", "ignore", NULL};
    const char *reply;
    x->memory = MEMORY_STANDARD;
    x->processes = PROCESSES_STANDARD;
    x->output_bytes = OUTPUT_STANDARD;
    if (load_argv(x, document, err) < 0 || load_env(x, document, err) < 0 ||
        take_choice(document, "input", inputs, "event, data or none", &x->input, err) < 0 ||
        take_choice(document, "output", outputs, "text or json", &x->output, err) < 0 ||
        take_choice(document, "reply", replies, "event or ignore", &reply, err) < 0 ||
        take_memory(document, &x->memory, err) < 0 ||
        document_count(document, "processes", 1, PROCESSES_MAX, "a whole number from 1 to 100000",
                       &x->processes, err) < 0 ||
        document_count(document, "output_bytes", 0, PROGRAM_OUTPUT_MAX, "a whole number from 0 to 1048576",
                       &x->output_bytes, err) < 0 ||
        reply_load(&x->reply, document, err) < 0)
        return -1;
    x->reply.wanted = *reply == 'e';
    return load_policy(x, document, err);
}

static int load(const struct json_value *action, void **ret_state, struct error *err)
{
    struct exec *x = calloc(1, sizeof *x);
    if (!x)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (document_init(&x->document, action, err) < 0 || read_document(x, &x->document.root, err) < 0) {
        unload(x);
        return -1;
    }
    *ret_state = x;
    return 0;
}

/* --- firing --- */

struct making {
    const struct exec *x;
    struct template_scope scope;
    struct buffer *out; /* the intent's body */
};

static void text_member(struct making *m, const char *name, const char *text, size_t len)
{
    buffer_printf(m->out, ",\"%s\":", name);
    buffer_append_json(m->out, text, len);
}

static int append_rendered(struct making *m, const struct json_value *value, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (template_render_text(value, &m->scope, &text, err) < 0)
        return -1;
    if (text.len && memchr(text.data, '\0', text.len))
        return error_set(err, ERROR_INVALID, "holds a NUL character");
    buffer_append_json(m->out, buffer_text(&text), text.len);
    return text.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static int make_argv(struct making *m, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    unsigned n = 0;
    buffer_append_text(m->out, "{\"argv\":[");
    json_iter_init(&iter, &m->x->argv);
    for (; json_next(&iter, &name, &value); n++) {
        size_t len;
        const char *raw = json_raw(&value, &len);
        if (!n) {
            buffer_append(m->out, raw, len);
            continue;
        }
        buffer_append_char(m->out, ',');
        if (append_rendered(m, &value, err) < 0)
            return error_prefix(err, "argv[%u]", n);
    }
    buffer_append_char(m->out, ']');
    return 0;
}

static int make_env(struct making *m, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value;
    const char *comma = "";
    if (m->x->env.type == JSON_ABSENT)
        return 0;
    buffer_append_text(m->out, ",\"env\":{");
    json_iter_init(&iter, &m->x->env);
    for (; json_next(&iter, &name, &value); comma = ",") {
        size_t len;
        const char *raw = json_raw(&name, &len);
        buffer_append_text(m->out, comma);
        buffer_append(m->out, raw, len);
        buffer_append_char(m->out, ':');
        raw = json_raw(&value, &len);
        if (value.type != JSON_STRING)
            buffer_append(m->out, raw, len);
        else if (append_rendered(m, &value, err) < 0)
            return error_prefix(err, "env.%.*s", (int)(name.len < 80 ? name.len : 80), name.text);
    }
    buffer_append_char(m->out, '}');
    return 0;
}

static void make_event(struct making *m)
{
    struct cloudevent event = *m->scope.event;
    if (!event.attribute[CE_SPECVERSION].len)
        event.attribute[CE_SPECVERSION] = (struct cloudevent_span){"1.0", 3};
    buffer_append_text(m->out, ",\"event\":");
    cloudevent_write(&event, m->out);
}

static int make_intent(struct making *m, struct error *err)
{
    const struct exec *x = m->x;
    if (make_argv(m, err) < 0 || make_env(m, err) < 0)
        return -1;
    make_event(m);
    text_member(m, "input", x->input, strlen(x->input));
    text_member(m, "output", x->output, strlen(x->output));
    buffer_printf(m->out, ",\"memory\":%lld,\"processes\":%lld,\"output_bytes\":%lld", (long long)x->memory,
                  (long long)x->processes, (long long)x->output_bytes);
    if (reply_write(&x->reply, &m->scope, m->out, err) < 0)
        return -1;
    buffer_append_char(m->out, ',');
    invocation_policy_write(&x->policy, m->out);
    buffer_append_char(m->out, '}');
    return m->out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

extern const struct action_type action_exec;

static int fire(const void *state, struct firing *firing, struct error *err)
{
    BUFFER_AUTO context_text = BUFFER_INIT;
    BUFFER_AUTO body = BUFFER_INIT;
    struct json_value context, global;
    char key[ACTION_KEY_MAX];
    firing_key(firing, 0, key);
    firing_global(firing, &global);
    if (firing_context(firing, &context_text, err) < 0 ||
        json_scan(context_text.data, context_text.len, &context, err) < 0)
        return -1;
    struct making m = {.x = state,
                       .scope = {.event = firing_event(firing),
                                 .context = &context,
                                 .global = &global,
                                 .workspace = firing_workspace(firing),
                                 .trigger = firing_trigger(firing),
                                 .key = key},
                       .out = &body};
    int r = make_intent(&m, err);
    template_scope_done(&m.scope);
    return r < 0 ? -1 : firing_intend(firing, &action_exec, key, body.data, body.len, err);
}

/* --- registration --- */

static int permitted(const struct json_value *action, const struct permits *permits, struct error *err)
{
    struct json_iter iter;
    struct json_value argv, name, value;
    BUFFER_AUTO path = BUFFER_INIT;
    json_member(action, "argv", &argv);
    json_iter_init(&iter, &argv);
    if (json_next(&iter, &name, &value))
        json_unescape(&value, &path);
    return permit_program(permits->exec_allow, buffer_text(&path), path.len, err);
}

static int check(const struct json_value *action, struct error *err)
{
    return reply_check(action, true, err);
}

static const char *const parameters[] = {"argv",   "env",        "input",         "output",
                                         "memory", "processes",  "output_bytes",  "subject",
                                         "reply",  "reply_type", "reply_subject", INVOCATION_PARAMETERS,
                                         NULL};

const struct action_type action_exec = {.name = "EXEC",
                                        .load = load,
                                        .unload = unload,
                                        .fire = fire,
                                        .start = exec_start,
                                        .permitted = permitted,
                                        .parameters = parameters,
                                        .check = check};
