/* triggerflow status: what the workflows do. */
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/buffer.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/table.h"

#define IN_FLIGHT 8

/* The status of each workspace that is to be shown. */
struct overview {
    struct cli *cli;
    struct json_object *workspaces; /* as GET /workspace lists them */
    struct json_object *found;      /* statuses, in the same order */
};

static struct json_object *next(void *data, size_t i, struct buffer *ret_path)
{
    struct overview *overview = data;
    client_path(ret_path, "workspace",
                output_text(json_object_array_get_idx(overview->workspaces, i), "name"), "status", NULL);
    return NULL;
}

static int done(void *data, size_t i, long status, struct json_object *answer)
{
    struct overview *overview = data;
    if (status == 404) /* deleted meanwhile */
        return CLI_OK;
    if (status != 200)
        return client_refused(overview->cli, status, answer);
    json_object_array_put_idx(overview->found, i, json_object_get(answer));
    return CLI_OK;
}

static int by_name(const void *a, const void *b)
{
    struct json_object *const *x = a;
    struct json_object *const *y = b;
    return strcmp(output_text(*x, "name"), output_text(*y, "name"));
}

static int fetch_all(struct cli *cli, struct json_object **ret)
{
    struct overview overview = {.cli = cli};
    struct json_object *answer;
    int code = client_call(cli, "GET", "/workspace", NULL, &answer);
    if (code != CLI_OK)
        return code;
    overview.workspaces = output_member(answer, "workspaces");
    if (output_length(overview.workspaces) > 0)
        json_object_array_sort(overview.workspaces, by_name);
    overview.found = json_object_new_array();
    struct client_calls calls = {.n = output_length(overview.workspaces),
                                 .in_flight = IN_FLIGHT,
                                 .method = "GET",
                                 .next = next,
                                 .done = done,
                                 .data = &overview};
    code = overview.found ? client_many(cli, &calls) : cli_fail_memory();
    json_object_put(answer);
    if (code != CLI_OK)
        json_object_put(overview.found);
    else
        *ret = overview.found;
    return code;
}

static int fetch_one(struct cli *cli, const char *workspace, struct json_object **ret)
{
    BUFFER_AUTO path = BUFFER_INIT;
    client_path(&path, "workspace", workspace, "status", NULL);
    return client_call(cli, "GET", buffer_text(&path), NULL, ret);
}

static void cell_number(struct table *table, struct json_object *status, const char *member)
{
    char text[16];
    struct json_object *value = output_member(status, member);
    table_cell(table, value ? output_short(json_object_get_double(value), text) : "-");
}

static void add_row(struct table *table, struct json_object *status)
{
    static const char *const numbers[] = {"events_per_second", "lag",     "in_flight", "fired",
                                          "dead_letters",      "restarts"};
    struct json_object *memory = output_member(status, "memory");
    double bytes = json_object_get_double(output_member(memory, "pss"));
    if (bytes <= 0)
        bytes = json_object_get_double(output_member(memory, "rss"));
    table_cell(table, output_text(status, "name"));
    bool paused = json_object_get_boolean(output_member(output_member(status, "worker"), "paused"));
    table_cell(table, paused ? "paused" : output_text(status, "state"));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        cell_number(table, status, numbers[i]);
    if (bytes > 0)
        table_cell_printf(table, "%.1fM", bytes / 1048576);
    else
        table_cell(table, "-");
    struct json_object *finished = output_member(status, "finished");
    table_cell(table, finished ? output_text(finished, "trigger") : "");
}

static void print_problems(struct json_object *status, struct buffer *out)
{
    struct json_object *problems = output_member(status, "problems");
    for (size_t i = 0; i < output_length(problems); i++) {
        buffer_append_text(out, "! ");
        output_append_safe(out, output_text(status, "name"));
        buffer_append_text(out, ": ");
        output_append_safe(out, json_object_get_string(json_object_array_get_idx(problems, i)));
        buffer_append_char(out, '\n');
    }
}

/* One status, or a list of them, as a table with its problems below. */
static int print_table(struct json_object *statuses)
{
    static const char *const headers[] = {"WORKSPACE",  "STATE",       ">EVENTS/S", ">LAG",
                                          ">IN FLIGHT", ">FIRED",      ">DEAD",     ">RESTARTS",
                                          ">MEMORY",    "FINISHED BY", NULL};
    BUFFER_AUTO problems = BUFFER_INIT;
    struct table table;
    table_init(&table, headers);
    for (size_t i = 0; i < output_length(statuses); i++) {
        struct json_object *status = json_object_array_get_idx(statuses, i);
        if (!status)
            continue;
        add_row(&table, status);
        print_problems(status, &problems);
    }
    int r = table_print(&table, stdout);
    table_done(&table);
    fputs(buffer_text(&problems), stdout);
    return r < 0 || problems.failed ? cli_fail_memory() : CLI_OK;
}

static int show_once(struct cli *cli)
{
    const char *workspace = cli_argument(cli, 0);
    struct json_object *value = NULL;
    int code = workspace ? fetch_one(cli, workspace, &value) : fetch_all(cli, &value);
    if (code != CLI_OK)
        return code;
    if (cli->json) {
        code = output_document(cli, value);
        json_object_put(value);
        return code;
    }
    if (workspace) {
        struct json_object *list = json_object_new_array();
        json_object_array_add(list, value);
        value = list;
    }
    if (cli_flag(cli, "watch"))
        fputs("\033[H\033[2J", stdout);
    code = print_table(value);
    json_object_put(value);
    return code;
}

static int run_status(struct cli *cli)
{
    sigset_t set;
    if (!cli_flag(cli, "watch"))
        return show_once(cli);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (;;) {
        int code = show_once(cli);
        if (code != CLI_OK)
            return code;
        if (fflush(stdout) != 0)
            return CLI_FAILED;
        struct timespec second = {.tv_sec = 1};
        if (sigtimedwait(&set, NULL, &second) > 0)
            return CLI_OK;
    }
}

static const struct cli_option options[] = {{"watch", NULL, "shows it anew each second until interrupted"},
                                            {NULL, NULL, NULL}};

const struct cli_command commands_status[] = {
    {.noun = "status",
     .arguments = "[WORKSPACE]",
     .summary = "Shows what all workflows do, or one of them",
     .details = "Lines that begin with an exclamation mark say what a person should know.",
     .options = options,
     .examples = "triggerflow status\n"
                 "triggerflow status orders --watch\n"
                 "triggerflow status orders --json",
     .run = run_status},
    {0},
};
