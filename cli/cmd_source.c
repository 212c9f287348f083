/* triggerflow source …: event sources. */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/collection.h"
#include "cli/definition.h"
#include "cli/document.h"
#include "cli/output.h"
#include "cli/table.h"

#define PARAMETER_FILE_MAX (1u << 20)

static int print_list(struct cli *cli, struct json_object *found)
{
    static const char *const headers[] = {"SOURCE", "CLASS", "PARAMETERS", NULL};
    struct table table;
    int code = CLI_OK;
    output_redact(found);
    if (cli->json)
        return output_document(cli, found);
    table_init(&table, headers);
    for (size_t i = 0; i < output_length(found); i++) {
        struct json_object *source = json_object_array_get_idx(found, i);
        if (!source)
            continue;
        table_cell(&table, output_text(source, "name"));
        table_cell(&table, output_text(source, "class"));
        struct json_object *parameters = output_member(source, "parameters");
        table_cell(&table,
                   parameters ? json_object_to_json_string_ext(parameters, JSON_C_TO_STRING_PLAIN |
                                                                               JSON_C_TO_STRING_NOSLASHESCAPE)
                              : "");
    }
    if (table_print(&table, stdout) < 0)
        code = cli_fail_memory();
    table_done(&table);
    return code;
}

static const struct collection collection = {"eventsource", print_list};

static int list(struct cli *cli)
{
    return collection_list(cli, &collection);
}

static int show(struct cli *cli)
{
    return collection_show(cli, &collection);
}

/* NAME=VALUE; a value @FILE is the first line of that file, so that secrets need not stand here. */
static int take_parameter(const struct cli *cli, const char *given, struct json_object *parameters)
{
    struct error err;
    const char *value = strchr(given, '=');
    if (!value || value == given)
        return cli_usage(cli, "--parameter is %s, not NAME=VALUE", given);
    char *name = strndup(given, (size_t)(value - given));
    struct json_object *parsed = NULL;
    int code = CLI_OK;
    if (value[1] == '@') {
        BUFFER_AUTO text = BUFFER_INIT;
        if (document_read_text(value + 2, PARAMETER_FILE_MAX, &text, &err) < 0)
            code = cli_fail_error(CLI_FAILED, &err);
        else {
            const char *line = buffer_text(&text);
            parsed = json_object_new_string_len(line, (int)strcspn(line, "\r\n"));
        }
    } else
        parsed = definition_value(value + 1);
    if (code == CLI_OK && (!name || json_object_object_add(parameters, name, parsed) < 0))
        code = cli_fail_memory();
    free(name);
    return code;
}

static int read_definition(struct cli *cli, const char *name, struct json_object **ret)
{
    size_t cursor = 0;
    const char *parameter, *class = cli_value(cli, "class");
    struct json_object *source = NULL;
    int code = definition_file(cli, "file", &source);
    if (code != CLI_OK)
        return code;
    if (!source && !class)
        return cli_usage(cli, "what kind of event source? Give --class, or -f FILE");
    if (!source)
        source = json_object_new_object();
    if (class)
        json_object_object_add(source, "class", json_object_new_string(class));
    code = definition_source(cli, name, source);
    if (code == CLI_OK && strcmp(output_text(source, "name"), name) != 0)
        code =
            cli_usage(cli, "the file's event source is named %s, not %s", output_text(source, "name"), name);
    while (code == CLI_OK && (parameter = cli_next_value(cli, "parameter", &cursor)) != NULL)
        code = take_parameter(cli, parameter, output_member(source, "parameters"));
    if (code != CLI_OK)
        json_object_put(source);
    else
        *ret = source;
    return code;
}

static int put_source(struct cli *cli, const char *name, struct json_object *source)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *answer = NULL;
    client_path(&path, "workspace", cli_argument(cli, 0), "eventsource", name, NULL);
    int code = client_call(cli, "PUT", buffer_text(&path), source, &answer);
    if (code == CLI_OK && cli->json) {
        output_redact(answer);
        code = output_document(cli, answer);
    } else if (code == CLI_OK)
        printf("Created/updated %s\n", name);
    json_object_put(answer);
    return code;
}

static int add(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *source = NULL;
    const char *name = cli_argument(cli, 1);
    int code = read_definition(cli, name, &source);
    if (code != CLI_OK)
        return code;
    if (cli_flag(cli, "replace")) {
        code = put_source(cli, name, source);
        json_object_put(source);
        return code;
    }
    struct json_object *body = json_object_new_object();
    json_object_object_add(body, "event_source", source);
    client_path(&path, "workspace", cli_argument(cli, 0), "eventsource", NULL);
    code = output_call(cli, "POST", &path, body);
    json_object_put(body);
    return code;
}

static int delete (struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    client_path(&path, "workspace", cli_argument(cli, 0), "eventsource", cli_argument(cli, 1), NULL);
    return output_call(cli, "DELETE", &path, NULL);
}

static const struct cli_option list_options[] = {{"names", NULL, "only the names, one a line"},
                                                 {NULL, NULL, NULL}};
static const struct cli_option show_options[] = {
    {"secrets", NULL, "shows passwords and keys instead of ********"}, {NULL, NULL, NULL}};
static const struct cli_option add_options[] = {
    {"class", "CLASS", "http, redis, kafka, rabbitmq, sqs, or the class's name"},
    {"parameter", "NAME=VALUE", "a parameter, several times; @FILE as value reads it from a file"},
    {"file", "FILE", "the definition as YAML or JSON; - reads standard input"},
    {"replace", NULL, "replaces one that is there"},
    {NULL, NULL, NULL}};

const struct cli_command commands_source[] = {
    {.noun = "source",
     .verb = "list",
     .arguments = "WORKSPACE",
     .summary = "Lists a workspace's event sources",
     .options = list_options,
     .examples = "triggerflow source list orders",
     .run = list},
    {.noun = "source",
     .verb = "show",
     .arguments = "WORKSPACE SOURCE",
     .summary = "Shows an event source",
     .options = show_options,
     .examples = "triggerflow source show orders http",
     .run = show},
    {.noun = "source",
     .verb = "add",
     .arguments = "WORKSPACE SOURCE",
     .summary = "Adds an event source to a workspace",
     .options = add_options,
     .examples = "triggerflow source add orders results --class redis --parameter host=127.0.0.1 "
                 "--parameter stream=results --parameter consume=false\n"
                 "triggerflow source add orders queue -f queue.yaml --replace",
     .run = add},
    {.noun = "source",
     .verb = "delete",
     .arguments = "WORKSPACE SOURCE",
     .summary = "Removes an event source from a workspace",
     .examples = "triggerflow source delete orders results",
     .run = delete},
    {0},
};
