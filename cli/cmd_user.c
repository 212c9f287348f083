/* triggerflow user …: the operator's commands. */
#include <json-c/json.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/endpoint.h"
#include "cli/output.h"

static void forget(char *secret)
{
    if (secret)
        OPENSSL_cleanse(secret, strlen(secret));
    free(secret);
}

/* The new password: from standard input, or asked for twice. */
static int new_password(const struct cli *cli, const char *user, char **ret)
{
    struct error err;
    char prompt[256], *again = NULL;
    if (cli_flag(cli, "password-stdin"))
        return endpoint_read_password("-", ret, &err) < 0 ? cli_fail_error(CLI_FAILED, &err) : CLI_OK;
    snprintf(prompt, sizeof prompt, "New password of %s: ", user);
    if (endpoint_ask_password(prompt, ret, &err) < 0)
        return cli_fail(CLI_FAILED, "%s; give it with --password-stdin", err.message);
    int code = CLI_OK;
    if (endpoint_ask_password("Once more: ", &again, &err) < 0)
        code = cli_fail_error(CLI_FAILED, &err);
    else if (strcmp(*ret, again) != 0)
        code = cli_fail(CLI_FAILED, "the two are not the same, nothing was changed");
    forget(again);
    return code;
}

static int add(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct error err;
    const char *user = cli_argument(cli, 0);
    char digest[65], *password = NULL;
    if (strchr(user, ':') || *user == '\0' || strcmp(user, "operator") == 0)
        return cli_usage(cli, "%s is no name for a user: it is not empty, not operator, and has no colon",
                         user);
    int code = new_password(cli, user, &password);
    if (code == CLI_OK && endpoint_digest(user, password, digest, &err) < 0)
        code = cli_fail_error(CLI_FAILED, &err);
    forget(password);
    if (code != CLI_OK)
        return code;
    struct json_object *body = json_object_new_object(), *answer = NULL;
    json_object_object_add(body, "digest", json_object_new_string(digest));
    client_path(&path, "user", user, NULL);
    code = client_call(cli, "PUT", buffer_text(&path), body, &answer);
    if (code == CLI_OK && cli->json)
        code = output_document(cli, answer);
    else if (code == CLI_OK)
        printf("user %s may use the API\n", user);
    json_object_put(body);
    json_object_put(answer);
    return code;
}

static int remove_user(struct cli *cli)
{
    BUFFER_AUTO path = BUFFER_INIT;
    struct json_object *answer;
    client_path(&path, "user", cli_argument(cli, 0), NULL);
    int code = client_call(cli, "DELETE", buffer_text(&path), NULL, &answer);
    if (code != CLI_OK)
        return code;
    if (cli->json)
        code = output_document(cli, answer);
    else
        printf("user %s removed\n", cli_argument(cli, 0));
    json_object_put(answer);
    return code;
}

static int list(struct cli *cli)
{
    struct json_object *answer;
    int code = client_call(cli, "GET", "/user", NULL, &answer);
    if (code != CLI_OK)
        return code;
    struct json_object *users = output_member(answer, "users");
    if (cli->json)
        code = output_document(cli, answer);
    else
        for (size_t i = 0; i < output_length(users); i++)
            output_line(json_object_get_string(json_object_array_get_idx(users, i)));
    json_object_put(answer);
    return code;
}

static const struct cli_option add_options[] = {
    {"password-stdin", NULL, "reads the new password from standard input instead of the terminal"},
    {NULL, NULL, NULL}};

const struct cli_command commands_user[] = {
    {.noun = "user",
     .verb = "add",
     .arguments = "NAME",
     .summary = "Lets a user use the API over TCP, or changes the password",
     .details = "For the operator: on the supervisor's own machine. The password is asked for; only its "
                "digest is sent.",
     .options = add_options,
     .examples = "triggerflow user add alice\n"
                 "pass show triggerflow/alice | triggerflow user add alice --password-stdin",
     .run = add},
    {.noun = "user",
     .verb = "remove",
     .arguments = "NAME",
     .summary = "Removes a user",
     .examples = "triggerflow user remove alice",
     .run = remove_user},
    {.noun = "user",
     .verb = "list",
     .arguments = "",
     .summary = "Lists the users",
     .examples = "triggerflow user list",
     .run = list},
    {0},
};
