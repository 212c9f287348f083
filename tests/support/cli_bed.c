#include "tests/support/cli_bed.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "tests/support/supervisor_bed.h"

#define COMMAND_MAX 8192

void cli_bed_init(struct cli_bed *bed)
{
    char path[PATH_MAX], build[PATH_MAX];
    *bed = (struct cli_bed){.dir = "/tmp/cli-XXXXXX"};
    assert_non_null(mkdtemp(bed->dir));
    bed_program("", build);
    snprintf(path, sizeof path, "%.2000s:%.1500s", build, getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    setenv("PATH", path, 1);
    setenv("HOME", bed->dir, 1);
    setenv("TRIGGERFLOW_RUN_DIRECTORY", bed->dir, 1);
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("TRIGGERFLOW_URL");
    unsetenv("TRIGGERFLOW_USER");
    unsetenv("TRIGGERFLOW_PASSWORD");
    unsetenv("TRIGGERFLOW_CONFIG_MAP_FILE");
}

void cli_bed_done(struct cli_bed *bed)
{
    char command[128];
    if (bed->server > 0) {
        kill(bed->server, SIGTERM);
        bed_wait_exit(bed->server);
    }
    snprintf(command, sizeof command, "rm -rf %s", bed->dir);
    assert_int_equal(system(command), 0);
}

/* In the child. */
static void become(const struct cli_bed *bed, const char *command, const char *out, const char *err)
{
    char paths[2][128];
    snprintf(paths[0], sizeof paths[0], "%s/%s", bed->dir, out);
    snprintf(paths[1], sizeof paths[1], "%s/%s", bed->dir, err);
    int in = open("/dev/null", O_RDONLY);
    int to = open(paths[0], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int complaints = open(paths[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (in < 0 || to < 0 || complaints < 0 || dup2(in, 0) < 0 || dup2(to, 1) < 0 || dup2(complaints, 2) < 0 ||
        chdir(bed->dir) < 0)
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

static int run(struct cli_bed *bed, const char *command)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        become(bed, command, "stdout", "stderr");
    return bed_wait_exit(pid);
}

int cli_bed_run(struct cli_bed *bed, const char *format, ...)
{
    char command[COMMAND_MAX];
    va_list arguments;
    va_start(arguments, format);
    assert_true(vsnprintf(command, sizeof command, format, arguments) < COMMAND_MAX);
    va_end(arguments);
    return run(bed, command);
}

static const char *read_output(const struct cli_bed *bed, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", bed->dir, name);
    return bed_read_file(path);
}

const char *cli_bed_out(const struct cli_bed *bed)
{
    return read_output(bed, "stdout");
}

const char *cli_bed_err(const struct cli_bed *bed)
{
    return read_output(bed, "stderr");
}

struct json_object *cli_bed_json(struct cli_bed *bed, const char *format, ...)
{
    char command[COMMAND_MAX];
    va_list arguments;
    va_start(arguments, format);
    assert_true(vsnprintf(command, sizeof command, format, arguments) < COMMAND_MAX);
    va_end(arguments);
    int status = run(bed, command);
    if (status != 0)
        fail_msg("%s: %d, %s", command, status, cli_bed_err(bed));
    struct json_object *value = json_tokener_parse(cli_bed_out(bed));
    if (!value)
        fail_msg("%s: not JSON: %s", command, cli_bed_out(bed));
    return value;
}

void cli_bed_write(const struct cli_bed *bed, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", bed->dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

void cli_bed_start(struct cli_bed *bed, const char *format, ...)
{
    char command[COMMAND_MAX];
    va_list arguments;
    int len = snprintf(command, sizeof command, "exec ");
    va_start(arguments, format);
    assert_true(vsnprintf(command + len, sizeof command - (size_t)len, format, arguments) <
                COMMAND_MAX - len);
    va_end(arguments);
    assert_int_equal(bed->server, 0);
    bed->server = fork();
    assert_true(bed->server >= 0);
    if (bed->server == 0)
        become(bed, command, "server.out", "server.err");
}
