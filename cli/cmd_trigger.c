/* triggerflow trigger … */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/collection.h"
#include "cli/definition.h"
#include "cli/document.h"
#include "cli/event.h"
#include "cli/output.h"
#include "cli/table.h"

/* ---- list ---- */

/* "5/10" of a counting condition, else "". */
static void cell_state(struct table *table, struct json_object *trigger)
{
    static const char *const limits[] = {"join", "total_activations", "threshold"};
    struct json_object *context = output_member(trigger, "context"), *limit = NULL;
    for (size_t i = 0; i < 3 && !limit; i++)
        limit = output_member(context, limits[i]);
    if (json_object_is_type(limit, json_type_int))
        table_cell_printf(table, "%lld/%lld",
                          (long long)json_object_get_int64(output_member(context, "counter")),
                          (long long)json_object_get_int64(limit));
    else
        table_cell(table, "");
}

static void cell_activations(struct table *table, struct json_object *trigger)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct json_object *events = output_member(trigger, "activation_events");
    for (size_t i = 0; i < output_length(events); i++) {
        struct json_object *event = json_object_array_get_idx(events, i);
        const char *subject = output_text(event, "subject");
        buffer_printf(&text, "%s%s%s%s", i > 0 ? ", " : "", output_text(event, "type"), *subject ? "/" : "",
                      subject);
    }
    table_cell(table, buffer_text(&text));
}

static int print_list(struct cli *cli, struct json_object *found)
{
    static const char *const headers[] = {"TRIGGER", "CONDITION", ">COUNT", "ACTION", "ACTIVATED BY", NULL};
    struct table table;
    int code = CLI_OK;
    output_redact(found);
    if (cli->json)
        return output_document(cli, found);
    table_init(&table, headers);
    for (size_t i = 0; i < output_length(found); i++) {
        struct json_object *trigger = json_object_array_get_idx(found, i);
        if (!trigger)
            continue;
        table_cell(&table, output_text(trigger, "id"));
        table_cell(&table, output_text(output_member(trigger, "condition"), "name"));
        cell_state(&table, trigger);
        table_cell(&table, output_text(output_member(trigger, "action"), "name"));
        cell_activations(&table, trigger);
    }
    if (table_print(&table, stdout) < 0)
        code = cli_fail_memory();
    table_done(&table);
    return code;
}

static const struct collection collection = {"trigger", print_list};

static int list(struct cli *cli)
{
    return collection_list(cli, &collection);
}

static int show(struct cli *cli)
{
    return collection_show(cli, &collection);
}

/* ---- add ---- */

/* TYPE or TYPE/SUBJECT as an activation event. The subject begins at the last slash but those of a URL. */
static struct json_object *activation(const char *text)
{
    struct json_object *event = json_object_new_object();
    const char *slash = strrchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    json_object_object_add(event, "type", json_object_new_string_len(text, (int)len));
    json_object_object_add(event, "subject", json_object_new_string(slash ? slash + 1 : ""));
    return event;
}

/* A name, or JSON, which is meant by a bracket at its beginning. */
static int add_value(const struct cli *cli, struct json_object *trigger, const char *name, const char *text)
{
    struct error err;
    struct json_object *value = NULL;
    if ((*text == '{' || *text == '[') && document_parse("value.json", text, strlen(text), &value, &err) < 0)
        return cli_usage(cli, "--%s: %s", name, err.message);
    json_object_object_add(trigger, name, value ? value : definition_value(text));
    return CLI_OK;
}

static int from_options(struct cli *cli, struct json_object **ret)
{
    size_t cursor = 0;
    const char *on, *condition = cli_value(cli, "condition"), *action = cli_value(cli, "action");
    const char *context = cli_value(cli, "context"), *id = cli_argument(cli, 1);
    if (!cli_value(cli, "on") || !id)
        return cli_usage(cli, "give an id and --on TYPE/SUBJECT, or -f FILE");
    struct json_object *trigger = json_object_new_object(), *events = json_object_new_array();
    while ((on = cli_next_value(cli, "on", &cursor)) != NULL)
        json_object_array_add(events, activation(on));
    json_object_object_add(trigger, "id", json_object_new_string(id));
    json_object_object_add(trigger, "activation_events", events);
    int code = add_value(cli, trigger, "condition", condition ? condition : "TRUE");
    if (code == CLI_OK)
        code = add_value(cli, trigger, "action", action ? action : "PASS");
    if (code == CLI_OK && context)
        code = add_value(cli, trigger, "context", context);
    if (code != CLI_OK) {
        json_object_put(trigger);
        return code;
    }
    json_object_object_add(trigger, "transient", json_object_new_boolean(cli_flag(cli, "transient")));
    *ret = json_object_new_array();
    json_object_array_add(*ret, trigger);
    return CLI_OK;
}

/* A file: one trigger, a list of them, or an object with a list `triggers`. */
static int from_file(struct cli *cli, struct json_object **ret)
{
    struct json_object *value = NULL;
    int code = definition_file(cli, "file", &value);
    if (code != CLI_OK)
        return code;
    struct json_object *list = output_member(value, "triggers");
    if (list) {
        json_object_get(list);
        json_object_put(value);
        value = list;
    }
    if (!json_object_is_type(value, json_type_array)) {
        struct json_object *array = json_object_new_array();
        json_object_array_add(array, value);
        value = array;
    }
    const char *id = cli_argument(cli, 1);
    if (id && output_length(value) != 1)
        code = cli_usage(cli, "the file holds %zu triggers, so that %s can be the id of none",
                         output_length(value), id);
    else if (id && json_object_is_type(json_object_array_get_idx(value, 0), json_type_object))
        json_object_object_add(json_object_array_get_idx(value, 0), "id", json_object_new_string(id));
    if (code != CLI_OK)
        json_object_put(value);
    else
        *ret = value;
    return code;
}

/* What POST takes: exactly these members. */
static struct json_object *exact(struct json_object *trigger)
{
    static const char *const members[] = {"id",      "condition",         "action",
                                          "context", "activation_events", "transient"};
    struct json_object *copy = json_object_new_object();
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        json_object_object_add(copy, members[i], json_object_get(output_member(trigger, members[i])));
    return copy;
}

static int report_added(struct cli *cli, struct json_object *answer)
{
    struct json_object *accepted = output_member(answer, "accepted_triggers");
    struct json_object *rejected = output_member(answer, "rejected_triggers");
    int code = CLI_OK;
    output_redact(answer);
    if (cli->json)
        code = output_document(cli, answer);
    else
        for (size_t i = 0; i < output_length(accepted); i++)
            output_line(output_text(json_object_array_get_idx(accepted, i), "id"));
    for (size_t i = 0; i < output_length(rejected); i++) {
        struct json_object *trigger = json_object_array_get_idx(rejected, i);
        code = cli_fail(CLI_FAILED, "trigger %s is refused: %s", output_text(trigger, "id"),
                        output_text(trigger, "reason"));
    }
    return code;
}

static int post(struct cli *cli, struct json_object *triggers)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *body = json_object_new_object(), *list = json_object_new_array(), *answer = NULL;
    for (size_t i = 0; i < output_length(triggers); i++)
        json_object_array_add(list, exact(json_object_array_get_idx(triggers, i)));
    json_object_object_add(body, "triggers", list);
    client_path(&path, "workspace", cli_argument(cli, 0), "trigger", NULL);
    int code = client_call(cli, "POST", buffer_text(&path), body, &answer);
    if (code == CLI_OK)
        code = report_added(cli, answer);
    json_object_put(answer);
    json_object_put(body);
    return code;
}

/* One after the other, since the answers are shown. */
static int replace(struct cli *cli, struct json_object *triggers)
{
    int code = CLI_OK;
    for (size_t i = 0; i < output_length(triggers) && code == CLI_OK; i++) {
        BUFFER_AUTO path = BUFFER_INIT;
        struct json_object *trigger = json_object_array_get_idx(triggers, i), *answer = NULL;
        const char *id = output_text(trigger, "id");
        if (*id == '\0')
            return cli_usage(cli, "--replace needs the trigger's id");
        client_path(&path, "workspace", cli_argument(cli, 0), "trigger", id, NULL);
        code = client_call(cli, "PUT", buffer_text(&path), trigger, &answer);
        output_redact(answer);
        if (code == CLI_OK && cli->json)
            code = output_document(cli, answer);
        else if (code == CLI_OK)
            output_line(id);
        json_object_put(answer);
    }
    return code;
}

static int add(struct cli *cli)
{
    struct json_object *triggers = NULL;
    int code = cli_value(cli, "file") ? from_file(cli, &triggers) : from_options(cli, &triggers);
    for (size_t i = 0; code == CLI_OK && i < output_length(triggers); i++)
        code = definition_trigger(cli, json_object_array_get_idx(triggers, i));
    if (code == CLI_OK)
        code = cli_flag(cli, "replace") ? replace(cli, triggers) : post(cli, triggers);
    json_object_put(triggers);
    return code;
}

static int delete (struct cli *cli)
{
    int code = CLI_OK;
    for (size_t i = 1; i < cli->n_arguments && code == CLI_OK; i++) {
        BUFFER_AUTO path = BUFFER_INIT;
        client_path(&path, "workspace", cli_argument(cli, 0), "trigger", cli_argument(cli, i), NULL);
        code = output_call(cli, "DELETE", &path, NULL);
    }
    return code;
}

/* ---- test ---- */

static void print_inline(const char *title, struct json_object *value)
{
    if (!value)
        return;
    printf("%-16s ", title);
    output_line(
        json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void print_test(struct json_object *answer)
{
    static const char *const questions[] = {"matched", "holds", "fires"};
    static const char *const titles[] = {"event matches", "condition holds", "fires"};
    for (size_t i = 0; i < 3; i++)
        printf("%-16s %s\n", titles[i],
               json_object_get_boolean(output_member(answer, questions[i])) ? "yes" : "no");
    if (*output_text(answer, "detail") != '\0') {
        printf("%-16s ", "because");
        output_line(output_text(answer, "detail"));
    }
    print_inline("context after", output_member(answer, "context"));
    print_inline("action", output_member(answer, "action"));
}

static int test(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *event = NULL, *answer = NULL;
    int code = event_from_options(cli, &event);
    if (code != CLI_OK)
        return code;
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "event", event);
    client_path(&path, "workspace", cli_argument(cli, 0), "trigger", cli_argument(cli, 1), "test", NULL);
    code = client_call(cli, "POST", buffer_text(&path), body, &answer);
    if (code == CLI_OK) {
        output_redact(answer);
        if (cli->json)
            code = output_document(cli, answer);
        else
            print_test(answer);
    }
    json_object_put(body);
    json_object_put(answer);
    return code;
}

static const struct cli_option list_options[] = {{"names", NULL, "only the ids, one a line"},
                                                 {NULL, NULL, NULL}};
static const struct cli_option show_options[] = {
    {"secrets", NULL, "shows passwords and keys instead of ********"}, {NULL, NULL, NULL}};
static const struct cli_option add_options[] = {
    {"on", "TYPE/SUBJECT", "an event that activates it, several times; * matches any"},
    {"condition", "NAME|JSON", "its condition (default TRUE)"},
    {"action", "NAME|JSON", "its action (default PASS)"},
    {"context", "JSON", "its context"},
    {"transient", NULL, "is removed once it has fired"},
    {"file", "FILE", "triggers as YAML or JSON; - reads standard input"},
    {"replace", NULL, "replaces one that is there by a new one"},
    {NULL, NULL, NULL}};

const struct cli_command commands_trigger[] = {
    {.noun = "trigger",
     .verb = "add",
     .arguments = "WORKSPACE [TRIGGER]",
     .summary = "Adds triggers to a workspace",
     .details = "From options one trigger; from a file one, a list, or an object with a list `triggers`.",
     .options = add_options,
     .examples = "triggerflow trigger add orders joined --on task.done/orders --condition JOIN "
                 "--context '{\"join\":10}' --action TERMINATE\n"
                 "triggerflow trigger add orders -f triggers.yaml --replace",
     .run = add},
    {.noun = "trigger",
     .verb = "list",
     .arguments = "WORKSPACE",
     .summary = "Lists a workspace's triggers, and how far they have counted",
     .options = list_options,
     .examples = "triggerflow trigger list orders",
     .run = list},
    {.noun = "trigger",
     .verb = "show",
     .arguments = "WORKSPACE TRIGGER",
     .summary = "Shows a trigger with its context",
     .options = show_options,
     .examples = "triggerflow trigger show orders joined",
     .run = show},
    {.noun = "trigger",
     .verb = "delete",
     .arguments = "WORKSPACE TRIGGER...",
     .summary = "Deletes triggers with their state",
     .examples = "triggerflow trigger delete orders joined",
     .run = delete},
    {.noun = "trigger",
     .verb = "test",
     .arguments = "WORKSPACE TRIGGER",
     .summary = "Shows what a trigger would do with an event, and changes nothing",
     .options = event_options,
     .examples = "triggerflow trigger test orders joined --type task.done --subject orders\n"
                 "triggerflow trigger test orders joined -f event.json",
     .run = test},
    {0},
};
