/* triggerflow completion: scripts for shells, from the table of commands. */
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "cli/cli.h"

/* What stands where arguments are expected is looked up by running the command itself. */
#define WORKSPACES "triggerflow workspace list --names 2>/dev/null"

static bool first_of_noun(size_t i)
{
    return i == 0 || strcmp(cli_commands[i]->noun, cli_commands[i - 1]->noun) != 0;
}

static void append_nouns(struct buffer *out)
{
    for (size_t i = 0; i < cli_n_commands; i++)
        if (first_of_noun(i))
            buffer_printf(out, "%s%s", i > 0 ? " " : "", cli_commands[i]->noun);
}

static void append_options(struct buffer *out, const struct cli_option *options)
{
    for (; options && options->name; options++)
        buffer_printf(out, " --%s", options->name);
}

static bool wants_workspace(const struct cli_command *command)
{
    return strstr(command->arguments, "WORKSPACE") != NULL &&
           strcmp(command->verb ? command->verb : "", "create");
}

/* The words that a shell offers behind "triggerflow noun verb". */
static void append_words(struct buffer *out, const struct cli_command *command)
{
    append_options(out, command->options);
    append_options(out, cli_common_options);
    if (command->run == commands_completion[0].run)
        buffer_append_text(out, " bash zsh fish");
}

/* Shared by bash and zsh (through bashcompinit): a case of all commands. */
static void append_cases(struct buffer *out)
{
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *command = cli_commands[i];
        buffer_printf(out, "    '%s%s%s') words='", command->noun, command->verb ? " " : "",
                      command->verb ? command->verb : "");
        append_words(out, command);
        buffer_printf(out, "'; workspace=%d ;;\n", wants_workspace(command));
    }
}

static void append_verbs(struct buffer *out)
{
    for (size_t i = 0; i < cli_n_commands; i++) {
        if (!cli_commands[i]->verb)
            continue;
        if (first_of_noun(i))
            buffer_printf(out, "    %s) verbs='", cli_commands[i]->noun);
        buffer_printf(out, "%s%s", first_of_noun(i) ? "" : " ", cli_commands[i]->verb);
        if (i + 1 == cli_n_commands || first_of_noun(i + 1))
            buffer_append_text(out, "' ;;\n");
    }
}

static void write_bash(struct buffer *out)
{
    buffer_append_text(out,
                       "# bash completion for triggerflow: source <(triggerflow completion bash)\n"
                       "_triggerflow()\n{\n"
                       "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
                       "    local verbs='' words='' command=${COMP_WORDS[1]} place=2 workspace=0\n"
                       "    COMPREPLY=()\n"
                       "    case $previous in\n"
                       "    -f|--file|--password-file|--source|--global-context)\n"
                       "        COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n"
                       "    esac\n"
                       "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                       "        COMPREPLY=($(compgen -W '");
    append_nouns(out);
    buffer_append_text(out, " --help --version --man' -- \"$current\")); return\n    fi\n"
                            "    case $command in\n");
    append_verbs(out);
    buffer_append_text(out,
                       "    esac\n"
                       "    if [ -n \"$verbs\" ]; then\n"
                       "        if [ \"$COMP_CWORD\" -eq 2 ]; then\n"
                       "            COMPREPLY=($(compgen -W \"$verbs --help\" -- \"$current\")); return\n"
                       "        fi\n"
                       "        command=\"$command ${COMP_WORDS[2]}\" place=3\n"
                       "    fi\n"
                       "    case $command in\n");
    append_cases(out);
    buffer_append_text(
        out, "    esac\n"
             "    if [ $workspace -eq 1 ] && [ \"$COMP_CWORD\" -eq $place ] && [[ $current != -* ]]; then\n"
             "        words=$(" WORKSPACES ")\n"
             "    fi\n"
             "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
             "}\n"
             "complete -F _triggerflow triggerflow\n");
}

static void write_zsh(struct buffer *out)
{
    buffer_append_text(out, "#compdef triggerflow\n"
                            "# zsh completion for triggerflow: source <(triggerflow completion zsh)\n"
                            "autoload -U +X bashcompinit && bashcompinit\n");
    write_bash(out);
}

/* Text between single quotes for fish. */
static void append_quoted(struct buffer *out, const char *text)
{
    buffer_append_char(out, '\'');
    for (; *text != '\0'; text++) {
        if (*text == '\'' || *text == '\\')
            buffer_append_char(out, '\\');
        buffer_append_char(out, *text);
    }
    buffer_append_char(out, '\'');
}

static void write_fish_options(struct buffer *out, const char *condition, const struct cli_option *options)
{
    for (; options && options->name; options++) {
        buffer_printf(out, "complete -c triggerflow -n '%s' -l %s%s%s -d ", condition, options->name,
                      strcmp(options->name, "file") == 0 ? " -s f" : "", options->value ? " -r" : "");
        append_quoted(out, options->help);
        buffer_append_char(out, '\n');
    }
}

static void write_fish_command(struct buffer *out, const struct cli_command *command)
{
    char condition[128];
    if (command->verb) {
        buffer_printf(out,
                      "complete -c triggerflow -n '__fish_seen_subcommand_from %s; and test (count "
                      "(commandline -opc)) -eq 2' -a %s -d ",
                      command->noun, command->verb);
        append_quoted(out, command->summary);
        buffer_append_char(out, '\n');
        snprintf(condition, sizeof condition,
                 "__fish_seen_subcommand_from %s; and __fish_seen_subcommand_from %s", command->noun,
                 command->verb);
    } else
        snprintf(condition, sizeof condition, "__fish_seen_subcommand_from %s", command->noun);
    write_fish_options(out, condition, command->options);
    if (wants_workspace(command))
        buffer_printf(out, "complete -c triggerflow -n '%s' -a '(" WORKSPACES ")'\n", condition);
    if (command->run == commands_completion[0].run)
        buffer_printf(out, "complete -c triggerflow -n '%s' -a 'bash zsh fish'\n", condition);
}

static void write_fish(struct buffer *out)
{
    buffer_append_text(out, "# fish completion for triggerflow: triggerflow completion fish | source\n"
                            "complete -c triggerflow -f\n"
                            "complete -c triggerflow -n __fish_use_subcommand -a '");
    append_nouns(out);
    buffer_append_text(out, "'\n");
    write_fish_options(out, "true", cli_common_options);
    for (size_t i = 0; i < cli_n_commands; i++)
        write_fish_command(out, cli_commands[i]);
}

static int run_completion(struct cli *cli)
{
    BUFFER_AUTO out = BUFFER_INIT;
    const char *shell = cli_argument(cli, 0);
    if (strcmp(shell, "bash") == 0)
        write_bash(&out);
    else if (strcmp(shell, "zsh") == 0)
        write_zsh(&out);
    else if (strcmp(shell, "fish") == 0)
        write_fish(&out);
    else
        return cli_usage(cli, "no completion for %s: there is one for bash, zsh and fish", shell);
    fputs(buffer_text(&out), stdout);
    return out.failed ? cli_fail_memory() : CLI_OK;
}

const struct cli_command commands_completion[] = {
    {.noun = "completion",
     .arguments = "SHELL",
     .summary = "Prints a completion script for bash, zsh or fish",
     .examples = "source <(triggerflow completion bash)\n"
                 "triggerflow completion fish > ~/.config/fish/completions/triggerflow.fish",
     .run = run_completion},
    {0},
};
