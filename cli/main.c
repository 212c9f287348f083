/* triggerflow: the command line's entry. */
#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "cli/cli.h"
#include "cli/client.h"

/* Prints what was gathered. A closed pipe is no failure of ours (`triggerflow … | head`). */
static int print(struct buffer *text)
{
    fputs(buffer_text(text), stdout);
    if (text->failed)
        return cli_fail_memory();
    return fflush(stdout) == 0 || errno == EPIPE
               ? CLI_OK
               : cli_fail(CLI_FAILED, "standard output cannot be written: %s", strerror(errno));
}

static int run(struct cli *cli)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return cli_fail(CLI_FAILED, "libcurl cannot be used");
    int code = cli->command->run(cli);
    client_free(cli->client);
    curl_global_cleanup();
    if (fflush(stdout) != 0 && errno != EPIPE && code == CLI_OK)
        code = cli_fail(CLI_FAILED, "standard output cannot be written: %s", strerror(errno));
    return code;
}

int main(int argc, char **argv)
{
    struct cli cli;
    const char *noun;
    bool help;
    BUFFER_AUTO text = BUFFER_INIT;
    cli_init();
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        buffer_append_text(&text, "triggerflow " VERSION "\n");
        return print(&text);
    }
    if (argc == 2 && strcmp(argv[1], "--man") == 0) {
        cli_manual(&text);
        return print(&text);
    }
    int code = cli_parse(&cli, argc, argv, &noun, &help);
    if (code == CLI_OK && help) {
        cli_help(&text, noun, cli.command);
        code = print(&text);
    } else if (code == CLI_OK)
        code = run(&cli);
    cli_done(&cli);
    return code;
}
