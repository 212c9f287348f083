/* The `triggerflow` command: one table of commands drives parsing, --help, shell completion and the manual.
 *
 * Each command is described once, beside its function, in a cmd_<noun>.c; command.c lists those tables. A
 * command prints its result to standard output and what went wrong, in one sentence, to standard error, and
 * returns an exit status. Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

struct buffer;
struct client;
struct json_object;

/* Exit statuses. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_UNREACHABLE = 3 };

struct cli;

struct cli_option {
    const char *name;  /* without the dashes; NULL ends a list */
    const char *value; /* what stands for its value in the help; NULL: a flag */
    const char *help;
};

struct cli_command {
    const char *noun;
    const char *verb;                 /* NULL: the noun alone is the command */
    const char *arguments;            /* "WORKSPACE [TRIGGER]", "NUMBER..." as in the help; "" for none */
    const char *summary;              /* one line, without a full stop */
    const char *details;              /* further help, or NULL */
    const struct cli_option *options; /* or NULL */
    const char *examples;             /* lines */
    int (*run)(struct cli *cli);
};

struct cli_given {
    const struct cli_option *option;
    const char *value; /* "" for a flag */
};

/* One run. Borrows all text from argv. */
struct cli {
    const struct cli_command *command;
    const char **arguments;
    size_t n_arguments;
    struct cli_given *given;
    size_t n_given;
    const char **words;    /* the arguments and the command's name */
    bool json;             /* --json */
    struct client *client; /* opened by the first call (client.h) */
};

/* All commands, in the order of the help. */
#define CLI_COMMANDS_MAX 64
extern const struct cli_command *cli_commands[CLI_COMMANDS_MAX];
extern size_t cli_n_commands;
/* Gathers them from their tables. To be called first. */
void cli_init(void);
extern const struct cli_option cli_common_options[];

/* Reads argv into *cli, which cli_done frees. CLI_OK, or CLI_USAGE with the complaint printed; with *ret_help
 * the help that was asked for is to be printed for (command, or noun) instead of running. */
int cli_parse(struct cli *cli, int argc, char **argv, const char **ret_noun, bool *ret_help);
void cli_done(struct cli *cli);
/* The help of everything, of a noun's commands, of one command. */
void cli_help(struct buffer *out, const char *noun, const struct cli_command *command);
/* The manual page (man(7)). */
void cli_manual(struct buffer *out);

/* The value of an option, the last one given; NULL without. */
const char *cli_value(const struct cli *cli, const char *option);
bool cli_flag(const struct cli *cli, const char *option);
/* The values of an option that may be given several times: start with *cursor = 0; NULL at the end. */
const char *cli_next_value(const struct cli *cli, const char *option, size_t *cursor);
/* The value of an option as a whole number within the bounds. CLI_OK (without the option: ret keeps its
 * value) or CLI_USAGE, complained about. */
int cli_number(const struct cli *cli, const char *option, long long min, long long max, long long *ret);
/* The nth argument; NULL when it was not given. */
const char *cli_argument(const struct cli *cli, size_t n);

/* Print "triggerflow: <text>" to standard error, control characters replaced, and return the status. */
int cli_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline int cli_fail_memory(void)
{
    cli_fail(CLI_FAILED, "out of memory");
    return CLI_FAILED;
}
static inline int cli_fail_error(int status, const struct error *err)
{
    cli_fail(status, "%s", err->message);
    return status;
}
/* The same for wrong usage, with a hint at the command's help. */
int cli_usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Tables of the commands, each ended by a NULL noun. */
extern const struct cli_command commands_workspace[];
extern const struct cli_command commands_source[];
extern const struct cli_command commands_trigger[];
extern const struct cli_command commands_event[];
extern const struct cli_command commands_dead_letter[];
extern const struct cli_command commands_user[];
extern const struct cli_command commands_apply[];
extern const struct cli_command commands_status[];
extern const struct cli_command commands_completion[];
