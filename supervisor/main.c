/* triggerflow-supervisor: the command line. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "supervisor/client.h"
#include "supervisor/rundir.h"
#include "supervisor/supervisor.h"

static const char usage[] =
    "Usage: triggerflow-supervisor start [--daemon] [OPTION]...\n"
    "       triggerflow-supervisor stop | reload | health [OPTION]...\n"
    "       triggerflow-supervisor status [WORKSPACE] [--json] [--watch] [OPTION]...\n"
    "\n"
    "Runs one worker process for each workspace of the storage, and the controller API.\n"
    "\n"
    "  start      runs until SIGTERM or SIGINT, then drains the workers\n"
    "  stop       tells the running supervisor to stop, and waits for its end\n"
    "  reload     tells it to read its configuration again (SIGHUP)\n"
    "  status     shows its workspaces, or one of them\n"
    "  health     0 when it answers, for health checks\n"
    "\n"
    "  --config FILE          configuration (default: $TRIGGERFLOW_CONFIG_MAP_FILE)\n"
    "  --run-directory DIR    where its lock and its socket are (default: as configured)\n"
    "  --daemon               returns when it serves; its log goes to supervisor.log in the run directory\n"
    "  --json                 the status as the API gives it\n"
    "  --watch                shows it anew each second until interrupted\n"
    "  --help, --version\n"
    "\n"
    "Exit codes: 0 done; 1 error; 2 wrong usage or configuration; 3 start: already running, others: not "
    "running.\n";

struct arguments {
    const char *command;
    const char *workspace;
    const char *config;
    const char *run_directory;
    bool daemon;
    bool json;
    bool watch;
};

static int usage_error(const char *text, const char *what)
{
    fprintf(stderr, "triggerflow-supervisor: %s %s\nTry triggerflow-supervisor --help.\n", text, what);
    return SUPERVISOR_USAGE;
}

static void print_help(void)
{
    BUFFER_AUTO fields = BUFFER_INIT;
    config_write_help(&fields);
    printf("%s\nConfiguration:\n%s", usage, buffer_text(&fields));
}

static int parse_options(int argc, char **argv, struct arguments *ret)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"run-directory", required_argument, NULL, 'r'},
        {"daemon", no_argument, NULL, 'd'},       {"json", no_argument, NULL, 'j'},
        {"watch", no_argument, NULL, 'w'},        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},      {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            ret->config = optarg;
            break;
        case 'r':
            ret->run_directory = optarg;
            break;
        case 'd':
            ret->daemon = true;
            break;
        case 'j':
            ret->json = true;
            break;
        case 'w':
            ret->watch = true;
            break;
        case 'h':
            print_help();
            exit(fflush(stdout) == 0 ? SUPERVISOR_OK : SUPERVISOR_ERROR);
        case 'v':
            printf("triggerflow-supervisor %s\n", VERSION);
            exit(fflush(stdout) == 0 ? SUPERVISOR_OK : SUPERVISOR_ERROR);
        default:
            fprintf(stderr, "Try triggerflow-supervisor --help.\n");
            return SUPERVISOR_USAGE;
        }
    }
    return SUPERVISOR_OK;
}

static int parse(int argc, char **argv, struct arguments *ret)
{
    int code = parse_options(argc, argv, ret);
    if (code != SUPERVISOR_OK)
        return code;
    if (optind >= argc)
        return usage_error("no command:", "start, stop, reload, status or health");
    ret->command = argv[optind++];
    bool start = strcmp(ret->command, "start") == 0;
    bool status = strcmp(ret->command, "status") == 0;
    bool other = strcmp(ret->command, "stop") == 0 || strcmp(ret->command, "reload") == 0 ||
                 strcmp(ret->command, "health") == 0;
    if (!start && !status && !other)
        return usage_error("unknown command", ret->command);
    if (status && optind < argc)
        ret->workspace = argv[optind++];
    if (optind < argc)
        return usage_error("unexpected argument", argv[optind]);
    if (ret->daemon && !start)
        return usage_error("--daemon is for start, not for", ret->command);
    if ((ret->json || ret->watch) && !status)
        return usage_error("--json and --watch are for status, not for", ret->command);
    return SUPERVISOR_OK;
}

/* ---- --daemon ---- */

/* What the child tells the waiting parent: one byte, the exit code, and a message behind it. */
struct start {
    int report_fd; /* -1: not a daemon, or reported */
    const char *run_directory;
};

static void report(struct start *start, int code, const char *message)
{
    char packet[512];
    if (start->report_fd < 0)
        return;
    packet[0] = (char)code;
    int n = snprintf(packet + 1, sizeof packet - 1, "%s", message);
    size_t len = 1 + (n < (int)sizeof packet - 2 ? (size_t)n : sizeof packet - 2);
    if (write(start->report_fd, packet, len) < 0)
        log_warn("daemon_report", LOG_STR("error", strerror(errno)));
    close(start->report_fd);
    start->report_fd = -1;
}

/* The run directory is ours: the log may go there. */
static void on_locked(void *data)
{
    struct start *start = data;
    char path[RUNDIR_PATH_MAX];
    if (start->report_fd < 0 || rundir_path(start->run_directory, "supervisor.log", path, NULL) < 0)
        return;
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (log < 0 || null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(log, 2) < 0)
        log_warn("daemon_log", LOG_STR("path", path), LOG_STR("error", strerror(errno)));
    if (log > 2)
        close(log);
    if (null > 2)
        close(null);
}

static void on_ready(void *data)
{
    report(data, SUPERVISOR_OK, "");
}

/* The parent: waits for the child's report. */
static int await_report(int fd, pid_t child)
{
    char packet[512];
    ssize_t n;
    while ((n = read(fd, packet, sizeof packet - 1)) < 0 && errno == EINTR)
        ;
    if (n > 0) {
        packet[n] = '\0';
        if (n > 1)
            fprintf(stderr, "triggerflow-supervisor: %s\n", packet + 1);
        return packet[0];
    }
    int status = 0;
    waitpid(child, &status, 0);
    fprintf(stderr, "triggerflow-supervisor: died while it started (%s %d)\n",
            WIFSIGNALED(status) ? "signal" : "exit status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return SUPERVISOR_ERROR;
}

/* Returns in the child; the parent exits when the child has reported. */
static int daemonise(struct start *start)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -1;
    pid_t child = fork();
    if (child < 0) {
        close(fds[0]);
        close(fds[1]);
        return -1;
    }
    if (child > 0) {
        close(fds[1]);
        _exit(await_report(fds[0], child));
    }
    close(fds[0]);
    setsid();
    start->report_fd = fds[1];
    return 0;
}

static int command_start(const struct arguments *arguments, struct config *config)
{
    struct start start = {.report_fd = -1};
    struct error err;
    if (arguments->daemon && daemonise(&start) < 0) {
        fprintf(stderr, "triggerflow-supervisor: %s\n", strerror(errno));
        return SUPERVISOR_ERROR;
    }
    start.run_directory = arguments->run_directory ? arguments->run_directory : config->run_directory;
    struct supervisor_options options = {.config_file = arguments->config,
                                         .run_directory = arguments->run_directory,
                                         .config = *config,
                                         .locked = on_locked,
                                         .ready = on_ready,
                                         .data = &start};
    *config = (struct config){0};
    int code = supervisor_run(&options, &err);
    if (code != SUPERVISOR_OK) {
        if (start.report_fd < 0)
            fprintf(stderr, "triggerflow-supervisor: %s\n", err.message);
        report(&start, code, err.message);
    }
    return code;
}

/* A closed descriptor 0, 1 or 2 would be given to a socket, and a child would then write to it; what we
 * inherited beyond them is not for our children. */
static void settle_descriptors(void)
{
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    struct config config;
    struct error err;
    settle_descriptors();
    int code = parse(argc, argv, &arguments);
    if (code != SUPERVISOR_OK)
        return code;
    if (config_load(arguments.config, &config, &err) < 0) {
        fprintf(stderr, "triggerflow-supervisor: %s\n", err.message);
        return SUPERVISOR_USAGE;
    }
    log_setup((enum log_level)config.log_level, config.log_format == CONFIG_LOG_JSON, "supervisor", NULL);
    const char *run_directory = arguments.run_directory ? arguments.run_directory : config.run_directory;
    if (strcmp(arguments.command, "start") == 0)
        return command_start(&arguments, &config);
    if (strcmp(arguments.command, "stop") == 0)
        code = client_stop(run_directory, config.stop_timeout_ns);
    else if (strcmp(arguments.command, "reload") == 0)
        code = client_reload(run_directory);
    else if (strcmp(arguments.command, "health") == 0)
        code = client_health(run_directory);
    else
        code = client_status(run_directory,
                             &(struct client_status){arguments.workspace, arguments.json, arguments.watch});
    config_done(&config);
    return code;
}
