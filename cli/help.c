/* Help and the manual page, from the table of commands. */
#include <string.h>

#include "common/buffer.h"
#include "cli/cli.h"

static const char intro[] =
    "Usage: triggerflow COMMAND [ARGUMENT]... [OPTION]...\n"
    "\n"
    "Deploys workflows, publishes their events and shows what they do. It talks to the trigger API of a\n"
    "supervisor: by default to the one of this user on this machine (triggerflow-supervisor start).\n";

static const char places[] =
    "Where the API is and who asks is taken from the first that is given:\n"
    "  1. --url, --user, --password-file\n"
    "  2. TRIGGERFLOW_URL, TRIGGERFLOW_USER, TRIGGERFLOW_PASSWORD\n"
    "  3. ~/.config/triggerflow/config.yaml (url, user, password or password_file)\n"
    "  4. ~/triggerflow_config.yaml, the file of the original client\n"
    "  5. the local supervisor's socket, api.sock in its run directory, which needs no password\n";

static const char statuses[] =
    "Exit status: 0 done; 1 refused or failed; 2 wrong usage; 3 the supervisor cannot be reached.\n";

static void append_padded(struct buffer *out, const char *text, size_t width)
{
    size_t len = strlen(text);
    buffer_append_text(out, text);
    for (; len < width; len++)
        buffer_append_char(out, ' ');
}

static void append_name(struct buffer *out, const struct cli_command *command)
{
    buffer_append_text(out, command->noun);
    if (command->verb)
        buffer_append_char(out, ' ');
    buffer_append_text(out, command->verb ? command->verb : "");
}

static void append_command_line(struct buffer *out, const struct cli_command *command)
{
    BUFFER_AUTO name = BUFFER_INIT;
    append_name(&name, command);
    buffer_append_text(out, "  ");
    append_padded(out, buffer_text(&name), 22);
    buffer_append_text(out, command->summary);
    buffer_append_char(out, '\n');
}

static void append_options(struct buffer *out, const struct cli_option *options)
{
    for (; options && options->name; options++) {
        BUFFER_AUTO name = BUFFER_INIT;
        buffer_printf(&name, "%s--%s%s%s", strcmp(options->name, "file") == 0 ? "-f, " : "", options->name,
                      options->value ? " " : "", options->value ? options->value : "");
        buffer_append_text(out, "  ");
        append_padded(out, buffer_text(&name), name.len < 22 ? 22 : name.len + 2);
        buffer_append_text(out, options->help);
        buffer_append_char(out, '\n');
    }
}

static void append_lines(struct buffer *out, const char *lines)
{
    while (*lines != '\0') {
        size_t len = strcspn(lines, "\n");
        buffer_append_text(out, "  ");
        buffer_append(out, lines, len);
        buffer_append_char(out, '\n');
        lines += len + (lines[len] == '\n');
    }
}

static void help_command(struct buffer *out, const struct cli_command *command)
{
    buffer_append_text(out, "Usage: triggerflow ");
    append_name(out, command);
    buffer_printf(out, "%s%s [OPTION]...\n\n%s.\n", *command->arguments ? " " : "", command->arguments,
                  command->summary);
    if (command->details)
        buffer_printf(out, "%s\n", command->details);
    buffer_append_text(out, "\nOptions:\n");
    append_options(out, command->options);
    append_options(out, cli_common_options);
    buffer_append_text(out, "\nExamples:\n");
    append_lines(out, command->examples);
}

void cli_help(struct buffer *out, const char *noun, const struct cli_command *command)
{
    if (command) {
        help_command(out, command);
        return;
    }
    if (noun)
        buffer_printf(out, "Usage: triggerflow %s COMMAND [ARGUMENT]... [OPTION]...\n", noun);
    else
        buffer_append_text(out, intro);
    buffer_append_text(out, "\nCommands (each has a --help of its own, with examples):\n");
    for (size_t i = 0; i < cli_n_commands; i++)
        if (!noun || strcmp(noun, cli_commands[i]->noun) == 0)
            append_command_line(out, cli_commands[i]);
    if (noun)
        return;
    buffer_append_text(out, "\nCommon options:\n");
    append_options(out, cli_common_options);
    buffer_append_text(out, "  --version, --man      shows the version; the manual page\n");
    buffer_printf(out, "\n%s\n%s", places, statuses);
}

/* ---- The manual page ---- */

/* Text for troff: dashes stay dashes, backslashes are doubled, no line begins with a control character. */
static void append_troff(struct buffer *out, const char *text)
{
    bool line_start = true;
    for (; *text != '\0'; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            buffer_append_text(out, "\\&");
        line_start = *text == '\n';
        if (*text == '-')
            buffer_append_text(out, "\\-");
        else if (*text == '\\')
            buffer_append_text(out, "\\e");
        else
            buffer_append_char(out, *text);
    }
}

static void manual_options(struct buffer *out, const struct cli_option *options)
{
    for (; options && options->name; options++) {
        buffer_printf(out, ".TP\n\\fB\\-\\-");
        append_troff(out, options->name);
        buffer_printf(out, "\\fR %s\n", options->value ? options->value : "");
        append_troff(out, options->help);
        buffer_append_char(out, '\n');
    }
}

static void manual_verbatim(struct buffer *out, const char *text)
{
    buffer_append_text(out, ".PP\n.nf\n");
    append_troff(out, text);
    buffer_append_text(out, "\n.fi\n");
}

void cli_manual(struct buffer *out)
{
    buffer_append_text(out, ".TH TRIGGERFLOW 1 \"\" \"triggerflow " VERSION "\"\n.SH NAME\n"
                            "triggerflow \\- command line of Triggerflow\n.SH SYNOPSIS\n"
                            ".B triggerflow\nCOMMAND [ARGUMENT]... [OPTION]...\n.SH COMMANDS\n");
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *command = cli_commands[i];
        buffer_append_text(out, ".SS ");
        append_name(out, command);
        buffer_printf(out, " %s\n", command->arguments);
        append_troff(out, command->summary);
        buffer_append_text(out, ".\n");
        if (command->details)
            append_troff(out, command->details);
        buffer_append_char(out, '\n');
        manual_options(out, command->options);
        manual_verbatim(out, command->examples);
    }
    buffer_append_text(out, ".SH COMMON OPTIONS\n");
    manual_options(out, cli_common_options);
    buffer_append_text(out, ".SH CREDENTIALS\n");
    manual_verbatim(out, places);
    buffer_append_text(out, ".SH EXIT STATUS\n");
    append_troff(out, statuses);
}
