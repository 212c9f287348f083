/* triggerflow dead-letter … */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/table.h"

#define PAGE "1000"
#define NUMBERS_MAX 1000u /* of one request */

/* One page after a number ("": the first). */
static int fetch(struct cli *cli, const char *after, const char *limit, struct json_object **ret)
{
    BUFFER_AUTO path = BUFFER_INIT;
    const char *reason = cli_value(cli, "reason");
    client_path(&path, "workspace", cli_argument(cli, 0), "dead-letter", NULL);
    if (*after != '\0')
        client_query(&path, "after", after);
    client_query(&path, "limit", limit);
    if (reason)
        client_query(&path, "reason", reason);
    return client_call(cli, "GET", buffer_text(&path), NULL, ret);
}

static void add_row(struct table *table, struct json_object *letter)
{
    static const char *const members[] = {"number", "time", "reason", "source", "trigger", "detail"};
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        table_cell(table, output_text(letter, members[i]));
}

static int list(struct cli *cli)
{
    static const char *const headers[] = {"NUMBER", "TIME", "REASON", "SOURCE", "TRIGGER", "DETAIL", NULL};
    const char *after = cli_value(cli, "after"), *limit = cli_value(cli, "limit");
    long long n = 100;
    struct json_object *answer;
    struct table table;
    int code = cli_number(cli, "limit", 1, 1000, &n);
    if (code == CLI_OK)
        code = fetch(cli, after ? after : "", limit ? limit : "100", &answer);
    if (code != CLI_OK)
        return code;
    struct json_object *letters = output_member(answer, "dead_letters");
    if (cli->json)
        code = output_document(cli, answer);
    else {
        table_init(&table, headers);
        for (size_t i = 0; i < output_length(letters); i++)
            add_row(&table, json_object_array_get_idx(letters, i));
        if (table_print(&table, stdout) < 0)
            code = cli_fail_memory();
        table_done(&table);
        if (json_object_get_boolean(output_member(answer, "more")))
            printf("There are more: --after %s\n",
                   output_text(json_object_array_get_idx(letters, output_length(letters) - 1), "number"));
    }
    json_object_put(answer);
    return code;
}

static int show(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *answer;
    client_path(&path, "workspace", cli_argument(cli, 0), "dead-letter", cli_argument(cli, 1), NULL);
    int code = client_call(cli, "GET", buffer_text(&path), NULL, &answer);
    if (code != CLI_OK)
        return code;
    if (!cli_flag(cli, "secrets"))
        output_redact(answer);
    code = output_document(cli, answer);
    json_object_put(answer);
    return code;
}

/* Sends one request about the numbers in the list, which is taken. */
static int act(struct cli *cli, const char *verb, const char *member, struct json_object *value,
               uint64_t *count)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *body = json_object_new_object(), *answer = NULL;
    json_object_object_add(body, member, value);
    client_path(&path, "workspace", cli_argument(cli, 0), "dead-letter", verb, NULL);
    int code = client_call(cli, "POST", buffer_text(&path), body, &answer);
    if (code == CLI_OK)
        *count += json_object_get_uint64(output_member(answer, "count"));
    json_object_put(body);
    json_object_put(answer);
    return code;
}

/* All of one reason: page by page, since what is done with is gone from the list. */
static int act_on_reason(struct cli *cli, const char *verb, uint64_t *count)
{
    BUFFER_AUTO after = BUFFER_INIT;
    int code = CLI_OK;
    for (bool more = true; more && code == CLI_OK;) {
        struct json_object *answer, *numbers = json_object_new_array();
        code = fetch(cli, buffer_text(&after), PAGE, &answer);
        if (code != CLI_OK) {
            json_object_put(numbers);
            return code;
        }
        struct json_object *letters = output_member(answer, "dead_letters");
        for (size_t i = 0; i < output_length(letters); i++) {
            struct json_object *number = output_member(json_object_array_get_idx(letters, i), "number");
            json_object_array_add(numbers, json_object_get(number));
            buffer_reset(&after, 4096);
            buffer_append_text(&after, json_object_get_string(number));
        }
        more = json_object_get_boolean(output_member(answer, "more")) && output_length(letters) > 0;
        json_object_put(answer);
        if (output_length(numbers) > 0)
            code = act(cli, verb, "numbers", numbers, count);
        else
            json_object_put(numbers);
    }
    return code;
}

static int act_on_arguments(struct cli *cli, const char *verb, uint64_t *count)
{
    int code = CLI_OK;
    for (size_t i = 1; i < cli->n_arguments && code == CLI_OK;) {
        struct json_object *numbers = json_object_new_array();
        for (size_t k = 0; k < NUMBERS_MAX && i < cli->n_arguments; k++, i++)
            json_object_array_add(numbers, json_object_new_string(cli->arguments[i]));
        code = act(cli, verb, "numbers", numbers, count);
    }
    return code;
}

static int redrive_or_drop(struct cli *cli, const char *verb, const char *done)
{
    uint64_t count = 0;
    bool all = cli_flag(cli, "all"), reason = cli_flag(cli, "reason"), some = cli->n_arguments > 1;
    int code;
    if (all + reason + some != 1)
        return cli_usage(cli, "which ones? Give numbers, or --reason REASON, or --all");
    if (all)
        code = act(cli, verb, "all", json_object_new_boolean(true), &count);
    else
        code = reason ? act_on_reason(cli, verb, &count) : act_on_arguments(cli, verb, &count);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        printf("{\"count\":%llu}\n", (unsigned long long)count);
    else
        printf("%llu dead letter%s %s\n", (unsigned long long)count, count == 1 ? "" : "s", done);
    return CLI_OK;
}

static int redrive(struct cli *cli)
{
    return redrive_or_drop(cli, "redrive", "sent on their way again");
}

static int drop(struct cli *cli)
{
    return redrive_or_drop(cli, "drop", "dropped");
}

static const struct cli_option list_options[] = {
    {"reason", "REASON", "only those of a reason: invalid_event, too_large, no_trigger, ..."},
    {"after", "NUMBER", "begins behind this one"},
    {"limit", "N", "how many at most (100, at most 1000)"},
    {NULL, NULL, NULL}};
static const struct cli_option show_options[] = {
    {"secrets", NULL, "shows passwords and keys instead of ********"}, {NULL, NULL, NULL}};
static const struct cli_option act_options[] = {
    {"reason", "REASON", "all of a reason"}, {"all", NULL, "all of them"}, {NULL, NULL, NULL}};

const struct cli_command commands_dead_letter[] = {
    {.noun = "dead-letter",
     .verb = "list",
     .arguments = "WORKSPACE",
     .summary = "Lists events that could not be processed, and why",
     .options = list_options,
     .examples = "triggerflow dead-letter list orders\n"
                 "triggerflow dead-letter list orders --reason no_trigger --json",
     .run = list},
    {.noun = "dead-letter",
     .verb = "show",
     .arguments = "WORKSPACE NUMBER",
     .summary = "Shows one of them with its event",
     .options = show_options,
     .examples = "triggerflow dead-letter show orders 00000000000000000007-00000000",
     .run = show},
    {.noun = "dead-letter",
     .verb = "redrive",
     .arguments = "WORKSPACE [NUMBER...]",
     .summary = "Sends dead letters on their way again",
     .options = act_options,
     .examples = "triggerflow dead-letter redrive orders --reason no_trigger\n"
                 "triggerflow dead-letter redrive orders --all",
     .run = redrive},
    {.noun = "dead-letter",
     .verb = "drop",
     .arguments = "WORKSPACE [NUMBER...]",
     .summary = "Removes dead letters for good",
     .options = act_options,
     .examples = "triggerflow dead-letter drop orders 00000000000000000007-00000000",
     .run = drop},
    {0},
};
