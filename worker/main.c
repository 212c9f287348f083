/* triggerflow-worker: runs one workflow, or, for the supervisor, forks the workers of many. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/storage/storage.h"
#include "worker/check.h"
#include "worker/forkserver.h"
#include "worker/worker.h"

static const char usage[] =
    "Usage: triggerflow-worker [OPTION]... WORKFLOW\n"
    "Runs one stored workflow (the workspace of that name), without a supervisor, until it is stopped.\n"
    "\n"
    "  -c, --config FILE         configuration (default: $TRIGGERFLOW_CONFIG_MAP_FILE, else none)\n"
    "  -f, --exit-when-finished  exit 0 once a TERMINATE has fired and the workflow is drained and idle\n"
    "  -a, --adopt FROM          take a workflow over from an original worker: beginning, end or a position\n"
    "      --help-config         list all configuration keys and environment variables\n"
    "  -h, --help                this text\n"
    "  -V, --version             the version\n"
    "\n"
    "SIGTERM and SIGINT drain the workflow (checkpoint, acknowledge, finish started actions) and end it; "
    "SIGHUP reads\n"
    "triggers and event sources again.\n"
    "\n"
    "Exit status: 0 stopped or finished; 1 an error, told on standard error; 2 wrong usage or "
    "configuration;\n"
    "3 another worker has taken the workflow over, or its workspace does not exist.\n";

struct arguments {
    const char *config;
    const char *adopt;
    bool exit_when_finished;
};

static int print(void (*write)(struct buffer *))
{
    BUFFER_AUTO text = BUFFER_INIT;
    write(&text);
    fputs(buffer_text(&text), stdout);
    return IPC_EXIT_OK;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"exit-when-finished", no_argument, NULL, 'f'},
                                            {"adopt", required_argument, NULL, 'a'},
                                            {"help-config", no_argument, NULL, 'H'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"version", no_argument, NULL, 'V'},
                                            {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "c:fa:hV", options, NULL)) != -1) {
        switch (c) {
        case 'c':
            a->config = optarg;
            break;
        case 'f':
            a->exit_when_finished = true;
            break;
        case 'a':
            a->adopt = optarg;
            break;
        case 'H':
            return print(config_write_help);
        case 'h':
            fputs(usage, stdout);
            return IPC_EXIT_OK;
        case 'V':
            puts("triggerflow-worker " VERSION);
            return IPC_EXIT_OK;
        default:
            fputs("Try 'triggerflow-worker --help'.\n", stderr);
            return IPC_EXIT_USAGE;
        }
    }
    return -1;
}

static int run(const struct arguments *a, const char *workspace)
{
    struct config config;
    struct error err;
    if (!storage_name_valid(workspace)) {
        fprintf(stderr,
                "triggerflow-worker: '%s' cannot be a workflow's name: letters, digits, '.', '_' and '-'\n",
                workspace);
        return IPC_EXIT_USAGE;
    }
    if (config_load(a->config, &config, &err) < 0) {
        fprintf(stderr, "triggerflow-worker: %s\n", err.message);
        return IPC_EXIT_USAGE;
    }
    config.exit_when_finished |= a->exit_when_finished;
    if (a->adopt) {
        free(config.adopt);
        config.adopt = strdup(a->adopt);
    }
    log_setup((enum log_level)config.log_level, config.log_format == CONFIG_LOG_JSON, "worker", workspace);
    struct worker_options options = {.config = &config,
                                     .workspace = workspace,
                                     .arena_fd = -1,
                                     .status_fd = -1,
                                     .ingest_fd = -1,
                                     .durable_fd = -1,
                                     .generation = 1};
    int status = config.adopt ? worker_run(&options) : IPC_EXIT_ERROR;
    config_done(&config);
    return status;
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    if (argc == 2 && !strcmp(argv[1], "--forkserver"))
        return forkserver_run(argc, argv);
    if (argc == 2 && !strcmp(argv[1], "--check"))
        return check_run();
    int status = parse(argc, argv, &arguments);
    if (status >= 0)
        return status;
    if (optind + 1 != argc) {
        fputs(optind == argc ? "triggerflow-worker: which workflow? Try 'triggerflow-worker --help'.\n"
                             : "triggerflow-worker: one workflow only. Try 'triggerflow-worker --help'.\n",
              stderr);
        return IPC_EXIT_USAGE;
    }
    return run(&arguments, argv[optind]);
}
