/* The command line: which command, its arguments and its options. */
#include "cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/output.h"

const struct cli_command *cli_commands[CLI_COMMANDS_MAX];
size_t cli_n_commands;

void cli_init(void)
{
    static const struct cli_command *const tables[] = {
        commands_apply,  commands_workspace,   commands_source, commands_trigger,   commands_event,
        commands_status, commands_dead_letter, commands_user,   commands_completion};
    cli_n_commands = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const struct cli_command *command = tables[i]; command->noun; command++) {
            assert(cli_n_commands < CLI_COMMANDS_MAX);
            cli_commands[cli_n_commands++] = command;
        }
}

const struct cli_option cli_common_options[] = {
    {"url", "URL", "the trigger API: http://HOST:PORT, https://HOST or unix:PATH"},
    {"user", "NAME", "who asks (asked for the password when it is given nowhere)"},
    {"password-file", "FILE", "a file whose first line is the password"},
    {"json", NULL, "the result as JSON, for programs"},
    {"help", NULL, "shows help"},
    {NULL, NULL, NULL},
};

static bool is_noun(const struct cli_command *command, const char *noun)
{
    return strcmp(command->noun, noun) == 0;
}

/* The command of these words, and how many of them name it; NULL: there is none. */
static const struct cli_command *find(const char *noun, const char *verb, size_t *ret_words)
{
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *command = cli_commands[i];
        if (!is_noun(command, noun) || (command->verb && (!verb || strcmp(command->verb, verb) != 0)))
            continue;
        *ret_words = command->verb ? 2 : 1;
        return command;
    }
    return NULL;
}

static bool noun_known(const char *noun)
{
    for (size_t i = 0; i < cli_n_commands; i++)
        if (is_noun(cli_commands[i], noun))
            return true;
    return false;
}

static const struct cli_option *find_option(const struct cli_option *options, const char *name, size_t len)
{
    for (; options && options->name; options++)
        if (strlen(options->name) == len && memcmp(options->name, name, len) == 0)
            return options;
    return NULL;
}

/* Options are sorted out after the command is known: until then those of every command count. */
static const struct cli_option *lookup(const struct cli_command *command, const char *name, size_t len)
{
    const struct cli_option *option = find_option(cli_common_options, name, len);
    if (option || command)
        return option ? option : find_option(command->options, name, len);
    for (size_t i = 0; !option && i < cli_n_commands; i++)
        option = find_option(cli_commands[i]->options, name, len);
    return option;
}

struct words {
    const char **word; /* those that are no options */
    size_t n;
};

/* One option at argv[i]; *i moves over its value. command NULL: only to find the words. */
static int take_option(struct cli *cli, const struct cli_command *command, int argc, char **argv, int *i)
{
    const char *name = argv[*i];
    bool is_file = strcmp(name, "-f") == 0, is_help = strcmp(name, "-h") == 0;
    name = is_file ? "file" : is_help ? "help" : strncmp(name, "--", 2) == 0 ? name + 2 : "";
    size_t len = strcspn(name, "=");
    const struct cli_option *option = lookup(command, name, len);
    if (!option) {
        cli->command = command;
        return cli_usage(cli, "unknown option %s", argv[*i]);
    }
    const char *value = "";
    if (option->value && name[len] == '=')
        value = name + len + 1;
    else if (option->value && *i + 1 < argc)
        value = argv[++*i];
    else if (option->value)
        return cli_usage(cli, "option --%s needs a value: %s", option->name, option->value);
    else if (name[len] == '=')
        return cli_usage(cli, "option --%s takes no value", option->name);
    cli->given[cli->n_given++] = (struct cli_given){.option = option, .value = value};
    return CLI_OK;
}

/* Splits argv into options and words. */
static int split(struct cli *cli, const struct cli_command *command, int argc, char **argv,
                 struct words *words)
{
    bool options = true;
    cli->n_given = words->n = 0;
    for (int i = 1; i < argc; i++) {
        if (options && strcmp(argv[i], "--") == 0)
            options = false;
        else if (options && argv[i][0] == '-' && argv[i][1] != '\0') {
            int code = take_option(cli, command, argc, argv, &i);
            if (code != CLI_OK)
                return code;
        } else
            words->word[words->n++] = argv[i];
    }
    return CLI_OK;
}

/* How many arguments a command takes, from their description. */
static void count_arguments(const struct cli_command *command, size_t *ret_least, size_t *ret_most)
{
    *ret_least = *ret_most = 0;
    for (const char *at = command->arguments; *at != '\0'; at += strspn(at, " ")) {
        size_t len = strcspn(at, " ");
        *ret_least += *at != '[';
        *ret_most += 1;
        if (memmem(at, len, "...", 3))
            *ret_most = (size_t)-1 / 2;
        at += len;
    }
}

static int check_arguments(struct cli *cli)
{
    size_t least, most;
    count_arguments(cli->command, &least, &most);
    if (cli->n_arguments >= least && cli->n_arguments <= most)
        return CLI_OK;
    if (cli->n_arguments > most)
        return cli_usage(cli, "unexpected argument %s", cli->arguments[most]);
    return cli_usage(cli, "it needs: %s", cli->command->arguments);
}

static int unknown(const char *noun, const char *verb)
{
    if (!noun_known(noun))
        return cli_fail(CLI_USAGE, "unknown command %s, try triggerflow --help", noun);
    if (!verb)
        return cli_fail(CLI_USAGE, "what about %s? Try triggerflow %s --help", noun, noun);
    return cli_fail(CLI_USAGE, "unknown command %s %s, try triggerflow %s --help", noun, verb, noun);
}

static int parse(struct cli *cli, int argc, char **argv, struct words *words, const char **ret_noun,
                 bool *ret_help)
{
    int code = split(cli, NULL, argc, argv, words);
    if (code != CLI_OK)
        return code;
    *ret_help = cli_flag(cli, "help");
    if (words->n == 0)
        return *ret_help ? CLI_OK : cli_fail(CLI_USAGE, "no command given, try triggerflow --help");
    size_t n_words = 0;
    cli->command = find(words->word[0], words->n > 1 ? words->word[1] : NULL, &n_words);
    *ret_noun = words->word[0];
    if (!cli->command)
        return *ret_help && words->n == 1 && noun_known(words->word[0])
                   ? CLI_OK
                   : unknown(words->word[0], words->n > 1 ? words->word[1] : NULL);
    if (*ret_help)
        return CLI_OK;
    code = split(cli, cli->command, argc, argv, words);
    if (code != CLI_OK)
        return code;
    cli->json = cli_flag(cli, "json");
    cli->arguments = words->word + n_words;
    cli->n_arguments = words->n - n_words;
    return check_arguments(cli);
}

int cli_parse(struct cli *cli, int argc, char **argv, const char **ret_noun, bool *ret_help)
{
    *cli = (struct cli){0};
    *ret_noun = NULL;
    *ret_help = false;
    cli->given = calloc((size_t)argc + 1, sizeof *cli->given);
    struct words words = {.word = calloc((size_t)argc + 1, sizeof *words.word)};
    cli->words = words.word;
    if (!cli->given || !words.word)
        return cli_fail_memory();
    return parse(cli, argc, argv, &words, ret_noun, ret_help);
}

void cli_done(struct cli *cli)
{
    free(cli->words);
    free(cli->given);
    *cli = (struct cli){0};
}

const char *cli_value(const struct cli *cli, const char *option)
{
    const char *value = NULL;
    for (size_t i = 0; i < cli->n_given; i++)
        if (strcmp(cli->given[i].option->name, option) == 0)
            value = cli->given[i].value;
    return value;
}

bool cli_flag(const struct cli *cli, const char *option)
{
    return cli_value(cli, option) != NULL;
}

const char *cli_next_value(const struct cli *cli, const char *option, size_t *cursor)
{
    while (*cursor < cli->n_given) {
        const struct cli_given *given = &cli->given[(*cursor)++];
        if (strcmp(given->option->name, option) == 0)
            return given->value;
    }
    return NULL;
}

int cli_number(const struct cli *cli, const char *option, long long min, long long max, long long *ret)
{
    const char *text = cli_value(cli, option);
    if (!text)
        return CLI_OK;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max)
        return cli_usage(cli, "--%s is %s, not a whole number from %lld to %lld", option, text, min, max);
    *ret = value;
    return CLI_OK;
}

const char *cli_argument(const struct cli *cli, size_t n)
{
    return n < cli->n_arguments ? cli->arguments[n] : NULL;
}

/* ---- Complaints ---- */

static void complain(const char *format, va_list arguments)
{
    BUFFER_AUTO text = BUFFER_INIT;
    char line[2048];
    vsnprintf(line, sizeof line, format, arguments);
    buffer_append_text(&text, "triggerflow: ");
    output_append_safe(&text, line);
    fprintf(stderr, "%s\n", buffer_text(&text));
}

int cli_fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    complain(format, arguments);
    va_end(arguments);
    return status;
}

int cli_usage(const struct cli *cli, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    complain(format, arguments);
    va_end(arguments);
    const struct cli_command *command = cli->command;
    fprintf(stderr, "Try triggerflow%s%s%s%s --help.\n", command ? " " : "", command ? command->noun : "",
            command && command->verb ? " " : "", command && command->verb ? command->verb : "");
    return CLI_USAGE;
}
