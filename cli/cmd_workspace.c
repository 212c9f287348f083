/* triggerflow workspace … */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/definition.h"
#include "cli/output.h"
#include "cli/table.h"

/* Unix time as 2026-11-25 11:10:59, local. */
static const char *when(struct json_object *value, char to[32])
{
    double seconds = value ? json_object_get_double(value) : 0;
    time_t t = (time_t)seconds;
    struct tm tm;
    if (seconds <= 0 || seconds > 1e11 || !localtime_r(&t, &tm) || !strftime(to, 32, "%F %T", &tm))
        snprintf(to, 32, "-");
    return to;
}

static int list(struct cli *cli)
{
    static const char *const headers[] = {"WORKSPACE", "STATE", "CREATED", NULL};
    struct json_object *answer;
    struct table table;
    char created[32];
    int code = client_call(cli, "GET", "/workspace", NULL, &answer);
    if (code != CLI_OK)
        return code;
    struct json_object *workspaces = output_member(answer, "workspaces");
    if (cli->json) {
        code = output_document(cli, answer);
        json_object_put(answer);
        return code;
    }
    table_init(&table, headers);
    for (size_t i = 0; i < output_length(workspaces); i++) {
        struct json_object *workspace = json_object_array_get_idx(workspaces, i);
        if (cli_flag(cli, "names")) {
            output_line(output_text(workspace, "name"));
            continue;
        }
        table_cell(&table, output_text(workspace, "name"));
        table_cell(&table, output_text(workspace, "state"));
        table_cell(&table, when(output_member(workspace, "created"), created));
    }
    if (!cli_flag(cli, "names") && table_print(&table, stdout) < 0)
        code = cli_fail_memory();
    table_done(&table);
    json_object_put(answer);
    return code;
}

/* The body of POST /workspace: event source and global context from their options. */
static int creation(struct cli *cli, const char *name, struct json_object **ret_body)
{
    struct json_object *source = NULL, *context = NULL;
    int code = definition_file(cli, "source", &source);
    if (code == CLI_OK && source)
        code = definition_source(cli, NULL, source);
    if (code == CLI_OK)
        code = definition_file(cli, "global-context", &context);
    if (code == CLI_OK && context && !json_object_is_type(context, json_type_object))
        code = cli_usage(cli, "the global context must be an object");
    if (code != CLI_OK) {
        json_object_put(source);
        json_object_put(context);
        return code;
    }
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "workspace_name", json_object_new_string(name));
    json_object_object_add(body, "event_source", source ? source : definition_http_source());
    json_object_object_add(body, "global_context", context ? context : json_object_new_object());
    *ret_body = body;
    return CLI_OK;
}

static int create(struct cli *cli)
{
    struct json_object *body = NULL, *answer = NULL;
    int code = creation(cli, cli_argument(cli, 0), &body);
    if (code == CLI_OK)
        code = client_call(cli, "POST", "/workspace", body, &answer);
    if (code == CLI_OK)
        code = output_message(cli, answer);
    json_object_put(body);
    json_object_put(answer);
    return code;
}

static void show_names(const char *title, struct json_object *names)
{
    BUFFER_AUTO line = BUFFER_INIT;
    buffer_printf(&line, "%s (%zu):", title, output_length(names));
    for (size_t i = 0; i < output_length(names); i++) {
        buffer_append_char(&line, ' ');
        output_append_safe(&line, json_object_get_string(json_object_array_get_idx(names, i)));
    }
    puts(buffer_text(&line));
}

static int show(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *answer;
    client_path(&path, "workspace", cli_argument(cli, 0), NULL);
    int code = client_call(cli, "GET", buffer_text(&path), NULL, &answer);
    if (code != CLI_OK)
        return code;
    if (!cli_flag(cli, "secrets"))
        output_redact(answer);
    if (cli->json)
        code = output_document(cli, answer);
    else {
        show_names("event sources", output_member(answer, "event_sources"));
        show_names("triggers", output_member(answer, "triggers"));
        printf("global context: ");
        code = output_document(cli, output_member(answer, "global_context"));
    }
    json_object_put(answer);
    return code;
}

/* On a terminal, what cannot be undone is asked about first. */
static bool confirmed(const struct cli *cli, const char *name)
{
    char answer[16] = "";
    if (cli_flag(cli, "yes") || !isatty(STDIN_FILENO))
        return true;
    fprintf(stderr, "Delete workspace %s with its triggers and all their state? [y/N] ", name);
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static int delete (struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    const char *name = cli_argument(cli, 0);
    if (!confirmed(cli, name))
        return cli_fail(CLI_FAILED, "workspace %s was not deleted", name);
    client_path(&path, "workspace", name, NULL);
    return output_call(cli, "DELETE", &path, NULL);
}

static int pause_workspace(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    client_path(&path, "workspace", cli_argument(cli, 0), "pause", NULL);
    return output_call(cli, "POST", &path, NULL);
}

static int resume_workspace(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    client_path(&path, "workspace", cli_argument(cli, 0), "resume", NULL);
    return output_call(cli, "POST", &path, NULL);
}

static const struct cli_option create_options[] = {
    {"source", "FILE", "its first event source (default: events over HTTP, named http)"},
    {"global-context", "FILE", "its global context, an object"},
    {NULL, NULL, NULL}};
static const struct cli_option list_options[] = {{"names", NULL, "only the names, one a line"},
                                                 {NULL, NULL, NULL}};
static const struct cli_option show_options[] = {
    {"secrets", NULL, "shows passwords and keys instead of ********"}, {NULL, NULL, NULL}};
static const struct cli_option delete_options[] = {{"yes", NULL, "does not ask"}, {NULL, NULL, NULL}};

const struct cli_command commands_workspace[] = {
    {.noun = "workspace",
     .verb = "create",
     .arguments = "WORKSPACE",
     .summary = "Creates a workspace and starts its worker",
     .details = "Files are YAML or JSON; - reads standard input. See also: triggerflow apply.",
     .options = create_options,
     .examples = "triggerflow workspace create orders\n"
                 "triggerflow workspace create orders --source kafka.yaml --global-context context.json",
     .run = create},
    {.noun = "workspace",
     .verb = "list",
     .arguments = "",
     .summary = "Lists the workspaces",
     .options = list_options,
     .examples = "triggerflow workspace list\n"
                 "triggerflow workspace list --json",
     .run = list},
    {.noun = "workspace",
     .verb = "show",
     .arguments = "WORKSPACE",
     .summary = "Shows a workspace's event sources, triggers and global context",
     .options = show_options,
     .examples = "triggerflow workspace show orders",
     .run = show},
    {.noun = "workspace",
     .verb = "delete",
     .arguments = "WORKSPACE",
     .summary = "Stops a workspace's worker and deletes the workspace",
     .options = delete_options,
     .examples = "triggerflow workspace delete orders --yes",
     .run = delete},
    {.noun = "workspace",
     .verb = "pause",
     .arguments = "WORKSPACE",
     .summary = "Lets a workspace's events wait until it is resumed",
     .examples = "triggerflow workspace pause orders",
     .run = pause_workspace},
    {.noun = "workspace",
     .verb = "resume",
     .arguments = "WORKSPACE",
     .summary = "Lets a paused workspace go on",
     .examples = "triggerflow workspace resume orders",
     .run = resume_workspace},
    {0},
};
