/* See apply.h: carrying a plan out.
 *
 * The order keeps events from being read before the triggers are there that want them: what triggers need
 * first (the global context, event sources that are only published to), then the triggers, then the event
 * sources that are read, then what is removed. A workspace is created with one event source; if that one is
 * read, it is created unread (consume: false) and set free in its turn. Broken off anywhere, the same apply
 * again finishes it. */
#include "cli/apply.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/definition.h"
#include "cli/manifest.h"
#include "cli/output.h"

#define IN_FLIGHT 8

static bool is_class(struct json_object *source, const char *class)
{
    return strcmp(output_text(source, "class"), class) == 0;
}

static bool is_read(struct json_object *source)
{
    struct json_object *consume = output_member(output_member(source, "parameters"), "consume");
    return !json_object_is_type(consume, json_type_boolean) || json_object_get_boolean(consume);
}

/* The event source that a workspace is created with (owned): one over HTTP, to which nobody has published
 * yet, else the first, unread. */
static struct json_object *first_source(const struct manifest *manifest)
{
    struct json_object *copy = NULL, *chosen = NULL;
    for (size_t i = 0; i < output_length(manifest->event_sources); i++) {
        struct json_object *source = json_object_array_get_idx(manifest->event_sources, i);
        if (!chosen || (is_class(source, "HTTPEventSource") && !is_class(chosen, "HTTPEventSource")))
            chosen = source;
    }
    if (!chosen)
        return definition_http_source();
    if (json_object_deep_copy(chosen, &copy, NULL) < 0)
        return NULL;
    if (!is_class(copy, "HTTPEventSource"))
        json_object_object_add(output_member(copy, "parameters"), "consume", json_object_new_boolean(false));
    return copy;
}

static int create_workspace(struct cli *cli, const struct plan *plan)
{
    struct json_object *source = first_source(plan->manifest), *body = json_object_new_object();
    if (!source || !body) {
        json_object_put(source);
        json_object_put(body);
        return cli_fail_memory();
    }
    json_object_object_add(body, "workspace_name", json_object_new_string(plan->manifest->workspace));
    json_object_object_add(body, "event_source", source);
    json_object_object_add(body, "global_context",
                           plan->context ? json_object_get(plan->context) : json_object_new_object());
    int code = client_call(cli, "POST", "/workspace", body, NULL);
    json_object_put(body);
    return code;
}

/* One phase: the steps of the plan that belong to it, several at a time. */
struct phase {
    struct cli *cli;
    const struct plan *plan;
    const struct plan_step **steps;
    size_t n;
    const char *method;
    bool refused; /* a step was; the others of the phase are tried nevertheless, so that all complaints are
                     told */
};

static void step_path(const struct phase *phase, const struct plan_step *step, struct buffer *path)
{
    static const char *const nouns[] = {"", "eventsource", "trigger", "global_context"};
    client_path(path, "workspace", phase->plan->manifest->workspace, nouns[step->what], NULL);
    if (step->what != PLAN_CONTEXT)
        client_path(path, step->name, NULL);
}

static struct json_object *next(void *data, size_t i, struct buffer *ret_path)
{
    struct phase *phase = data;
    step_path(phase, phase->steps[i], ret_path);
    return json_object_get(phase->steps[i]->body);
}

static int done(void *data, size_t i, long status, struct json_object *answer)
{
    struct phase *phase = data;
    const struct plan_step *step = phase->steps[i];
    if (status < 400 || (status == 404 && step->kind == PLAN_DELETE))
        return CLI_OK;
    const char *text = output_text(answer, "error");
    if (*text == '\0' || status >= 500)
        return client_refused(phase->cli, status, answer);
    phase->refused = true;
    cli_fail(CLI_FAILED, "%s %s is refused: %s", step->what == PLAN_TRIGGER ? "trigger" : "event source",
             step->name, text);
    return CLI_OK;
}

typedef bool (*phase_member)(const struct plan_step *step);

static int run_phase(struct cli *cli, const struct plan *plan, const char *method, phase_member member)
{
    struct phase phase = {.cli = cli, .plan = plan, .method = method};
    phase.steps = calloc(plan->n_steps + 1, sizeof *phase.steps);
    if (!phase.steps)
        return cli_fail_memory();
    for (size_t i = 0; i < plan->n_steps; i++)
        if (member(&plan->steps[i]))
            phase.steps[phase.n++] = &plan->steps[i];
    struct client_calls calls = {
        .n = phase.n, .in_flight = IN_FLIGHT, .method = method, .next = next, .done = done, .data = &phase};
    int code = client_many(cli, &calls);
    free(phase.steps);
    return code == CLI_OK && phase.refused ? CLI_FAILED : code;
}

static bool is_context(const struct plan_step *step)
{
    return step->what == PLAN_CONTEXT;
}

static bool is_unread_source(const struct plan_step *step)
{
    return step->what == PLAN_SOURCE && step->kind != PLAN_DELETE && !is_read(step->body);
}

static bool is_read_source(const struct plan_step *step)
{
    return step->what == PLAN_SOURCE && step->kind != PLAN_DELETE && is_read(step->body);
}

static bool is_trigger(const struct plan_step *step)
{
    return step->what == PLAN_TRIGGER && step->kind != PLAN_DELETE;
}

static bool is_deletion(const struct plan_step *step)
{
    return step->kind == PLAN_DELETE;
}

int plan_run(struct cli *cli, const struct plan *plan)
{
    static const struct {
        const char *method;
        phase_member member;
    } phases[] = {{"PUT", is_context},
                  {"PUT", is_unread_source},
                  {"PUT", is_trigger},
                  {"PUT", is_read_source},
                  {"DELETE", is_deletion}};
    int code = plan->exists ? CLI_OK : create_workspace(cli, plan);
    for (size_t i = 0; i < sizeof phases / sizeof *phases && code == CLI_OK; i++)
        code = run_phase(cli, plan, phases[i].method, phases[i].member);
    return code;
}
