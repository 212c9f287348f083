/* See apply.h: comparing a manifest with what is stored. */
#include "cli/apply.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/manifest.h"
#include "cli/output.h"

#define IN_FLIGHT 8

/* ---- What is stored ---- */

struct fetch {
    struct cli *cli;
    const char *workspace;
    const char *noun;
    struct json_object *names;
    struct json_object *found; /* name -> document */
};

static struct json_object *fetch_next(void *data, size_t i, struct buffer *ret_path)
{
    struct fetch *fetch = data;
    client_path(ret_path, "workspace", fetch->workspace, fetch->noun,
                json_object_get_string(json_object_array_get_idx(fetch->names, i)), NULL);
    return NULL;
}

static int fetch_done(void *data, size_t i, long status, struct json_object *answer)
{
    struct fetch *fetch = data;
    const char *name = json_object_get_string(json_object_array_get_idx(fetch->names, i));
    if (status == 404) /* gone meanwhile: a transient trigger */
        return CLI_OK;
    if (status != 200)
        return client_refused(fetch->cli, status, answer);
    struct json_object *document = output_member(answer, name);
    if (!document)
        return cli_fail(CLI_FAILED, "the answer about %s lacks it", name);
    return json_object_object_add(fetch->found, name, json_object_get(document)) == 0 ? CLI_OK
                                                                                      : cli_fail_memory();
}

static int fetch(struct cli *cli, const struct plan *plan, const char *noun, const char *member,
                 struct json_object *found)
{
    struct fetch fetch = {.cli = cli,
                          .workspace = plan->manifest->workspace,
                          .noun = noun,
                          .names = output_member(plan->workspace, member),
                          .found = found};
    struct client_calls calls = {.n = output_length(fetch.names),
                                 .in_flight = IN_FLIGHT,
                                 .method = "GET",
                                 .next = fetch_next,
                                 .done = fetch_done,
                                 .data = &fetch};
    return client_many(cli, &calls);
}

static int fetch_stored(struct cli *cli, struct plan *plan)
{
    BUFFER_AUTO path = BUFFER_INIT;
    long status;
    client_path(&path, "workspace", plan->manifest->workspace, NULL);
    int code = client_try(cli, "GET", buffer_text(&path), NULL, &status, &plan->workspace);
    if (code != CLI_OK)
        return code;
    plan->exists = status == 200;
    if (status == 404)
        return CLI_OK;
    if (status != 200)
        return client_refused(cli, status, plan->workspace);
    code = fetch(cli, plan, "eventsource", "event_sources", plan->sources);
    return code == CLI_OK && plan->manifest->triggers
               ? fetch(cli, plan, "trigger", "triggers", plan->triggers)
               : code;
}

/* ---- Steps ---- */

static void add_step(struct plan *plan, struct plan_step step)
{
    plan->steps[plan->n_steps++] = step;
}

static void compare_sources(struct plan *plan)
{
    for (size_t i = 0; i < output_length(plan->manifest->event_sources); i++) {
        struct json_object *source = json_object_array_get_idx(plan->manifest->event_sources, i);
        const char *name = output_text(source, "name");
        struct json_object *before = output_member(plan->sources, name);
        if (before && json_object_equal(before, source))
            plan->unchanged++;
        else
            add_step(plan, (struct plan_step){.kind = before ? PLAN_REPLACE : PLAN_ADD,
                                              .what = PLAN_SOURCE,
                                              .name = name,
                                              .body = source,
                                              .before = before});
    }
}

static int compare_triggers(struct plan *plan)
{
    struct error err;
    char hash[65];
    for (size_t i = 0; i < output_length(plan->manifest->triggers); i++) {
        struct json_object *trigger = json_object_array_get_idx(plan->manifest->triggers, i);
        const char *id = output_text(trigger, "id");
        struct json_object *before = output_member(plan->triggers, id);
        if (manifest_hash(trigger, hash, &err) < 0)
            return cli_fail_error(CLI_FAILED, &err);
        json_object_object_add(trigger, "applied", json_object_new_string(hash));
        if (before && strcmp(output_text(before, "applied"), hash) == 0)
            plan->unchanged++;
        else
            add_step(plan, (struct plan_step){.kind = before ? PLAN_REPLACE : PLAN_ADD,
                                              .what = PLAN_TRIGGER,
                                              .name = id,
                                              .body = trigger,
                                              .before = before});
    }
    return CLI_OK;
}

/* The global context: the file's members over the stored ones; with prune exactly the file's. */
static int compare_context(struct plan *plan, bool prune)
{
    struct json_object *before = output_member(plan->workspace, "global_context");
    struct json_object *after = NULL;
    if (!plan->manifest->global_context)
        return CLI_OK;
    if (json_object_deep_copy(prune || !before ? plan->manifest->global_context : before, &after, NULL) < 0)
        return cli_fail_memory();
    plan->context = after;
    json_object_object_foreach(plan->manifest->global_context, name, value)
    {
        json_object_object_add(after, name, json_object_get(value));
    }
    if (before && json_object_equal(before, after))
        plan->unchanged++;
    else if (plan->exists)
        add_step(plan, (struct plan_step){.kind = PLAN_REPLACE,
                                          .what = PLAN_CONTEXT,
                                          .name = "global_context",
                                          .body = after,
                                          .before = before});
    return CLI_OK;
}

/* Stored ones that the list does not have; nothing when the file has no such section. */
static void prune_missing(struct plan *plan, struct json_object *stored, struct json_object *list,
                          enum plan_what what)
{
    const char *member = what == PLAN_TRIGGER ? "id" : "name";
    struct json_object *kept = json_object_new_object();
    if (!list) {
        json_object_put(kept);
        return;
    }
    for (size_t i = 0; i < output_length(list); i++)
        json_object_object_add(kept, output_text(json_object_array_get_idx(list, i), member),
                               json_object_new_boolean(true));
    json_object_object_foreach(stored, name, document)
    {
        if (!output_member(kept, name))
            add_step(plan,
                     (struct plan_step){.kind = PLAN_DELETE, .what = what, .name = name, .before = document});
    }
    json_object_put(kept);
}

int plan_make(struct cli *cli, const struct manifest *manifest, bool prune, struct plan *ret_plan)
{
    struct plan plan = {
        .manifest = manifest, .sources = json_object_new_object(), .triggers = json_object_new_object()};
    int code = plan.sources && plan.triggers ? fetch_stored(cli, &plan) : cli_fail_memory();
    size_t most = output_length(manifest->event_sources) + output_length(manifest->triggers) + 2;
    if (code == CLI_OK) {
        most += (size_t)json_object_object_length(plan.sources) +
                (size_t)json_object_object_length(plan.triggers);
        plan.steps = calloc(most, sizeof *plan.steps);
        code = plan.steps ? CLI_OK : cli_fail_memory();
    }
    if (code == CLI_OK) {
        if (!plan.exists)
            add_step(&plan, (struct plan_step){
                                .kind = PLAN_ADD, .what = PLAN_WORKSPACE, .name = manifest->workspace});
        code = compare_context(&plan, prune);
    }
    if (code == CLI_OK) {
        compare_sources(&plan);
        code = compare_triggers(&plan);
    }
    if (code == CLI_OK && prune) {
        prune_missing(&plan, plan.triggers, manifest->triggers, PLAN_TRIGGER);
        prune_missing(&plan, plan.sources, manifest->event_sources, PLAN_SOURCE);
    }
    if (code != CLI_OK)
        plan_done(&plan);
    else
        *ret_plan = plan;
    return code;
}

void plan_done(struct plan *plan)
{
    json_object_put(plan->workspace);
    json_object_put(plan->sources);
    json_object_put(plan->triggers);
    json_object_put(plan->context);
    free(plan->steps);
    *plan = (struct plan){0};
}

/* ---- Showing it ---- */

#define SHOWN_MAX 60
#define DIFFERENCES_MAX 20u

static const char *kind_name(enum plan_kind kind)
{
    static const char *const names[] = {"add", "replace", "delete"};
    return names[kind];
}

static const char *what_name(enum plan_what what)
{
    static const char *const names[] = {"workspace", "event source", "trigger", "global context"};
    return names[what];
}

static void print_value(struct json_object *value)
{
    BUFFER_AUTO text = BUFFER_INIT;
    const char *json =
        json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    output_append_safe(&text, json ? json : "null");
    printf("%.*s%s", SHOWN_MAX, buffer_text(&text), text.len > SHOWN_MAX ? "..." : "");
}

/* Prints which members of `after` are different in `before`. */
static void print_differences(const char *path, struct json_object *before, struct json_object *after,
                              unsigned *count)
{
    if (json_object_is_type(before, json_type_object) && json_object_is_type(after, json_type_object)) {
        json_object_object_foreach(after, name, value)
        {
            char inner[240];
            struct json_object *old = NULL;
            bool there = json_object_object_get_ex(before, name, &old);
            snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", name);
            if (strcmp(inner, "applied") == 0 || (there && json_object_equal(old, value)))
                continue;
            print_differences(inner, there ? old : NULL, value, count);
        }
        return;
    }
    if ((*count)++ >= DIFFERENCES_MAX)
        return;
    printf("      ");
    BUFFER_AUTO safe = BUFFER_INIT;
    output_append_safe(&safe, path);
    printf("%s: ", buffer_text(&safe));
    print_value(before);
    printf(" -> ");
    print_value(after);
    putchar('\n');
}

static void show_differences(const struct plan_step *step)
{
    struct json_object *before = NULL, *after = NULL;
    unsigned count = 0;
    if (step->kind != PLAN_REPLACE || !step->before ||
        json_object_deep_copy(step->before, &before, NULL) < 0 ||
        json_object_deep_copy(step->body, &after, NULL) < 0) {
        json_object_put(before);
        return;
    }
    output_redact(before);
    output_redact(after);
    print_differences("", before, after, &count);
    if (count == 0 && step->what == PLAN_TRIGGER && *output_text(before, "applied") == '\0')
        puts("      was not made by apply");
    json_object_put(before);
    json_object_put(after);
}

static int show_json(const struct cli *cli, const struct plan *plan, bool done)
{
    struct json_object *root = json_object_new_object(), *steps = json_object_new_array();
    for (size_t i = 0; i < plan->n_steps; i++) {
        struct json_object *step = json_object_new_object();
        json_object_object_add(step, "change", json_object_new_string(kind_name(plan->steps[i].kind)));
        json_object_object_add(step, "what", json_object_new_string(what_name(plan->steps[i].what)));
        json_object_object_add(step, "name", json_object_new_string(plan->steps[i].name));
        json_object_array_add(steps, step);
    }
    json_object_object_add(root, "workspace", json_object_new_string(plan->manifest->workspace));
    json_object_object_add(root, "applied", json_object_new_boolean(done));
    json_object_object_add(root, "changes", steps);
    json_object_object_add(root, "unchanged", json_object_new_int64((int64_t)plan->unchanged));
    int code = output_document(cli, root);
    json_object_put(root);
    return code;
}

int plan_show(const struct cli *cli, const struct plan *plan, bool done)
{
    static const char signs[] = {'+', '~', '-'};
    if (cli->json)
        return show_json(cli, plan, done);
    for (size_t i = 0; i < plan->n_steps; i++) {
        const struct plan_step *step = &plan->steps[i];
        BUFFER_AUTO line = BUFFER_INIT;
        buffer_printf(&line, "%c %s", signs[step->kind], what_name(step->what));
        if (step->what != PLAN_CONTEXT) {
            buffer_append_char(&line, ' ');
            output_append_safe(&line, step->name);
        }
        puts(buffer_text(&line));
        show_differences(step);
    }
    printf("%zu change%s%s, %zu unchanged\n", plan->n_steps, plan->n_steps == 1 ? "" : "s",
           done ? " applied" : " to apply", plan->unchanged);
    return CLI_OK;
}
