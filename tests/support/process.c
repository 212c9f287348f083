#include "tests/support/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/wait.h"

#define SHOWN 6000 /* bytes of a log's end */

void process_program(const char *name, char ret_path[PATH_MAX])
{
    char build[PATH_MAX - 64] = "";
    const char *given = getenv("TRIGGERFLOW_BUILD");
    ssize_t n = readlink("/proc/self/exe", build, sizeof build - 1);
    if (given && *given) {
        snprintf(build, sizeof build, "%s", given);
    } else if (n > 0) {
        build[n] = '\0';
        for (int i = 0; i < 3 && strrchr(build, '/'); i++) /* tests/integration/test_... */
            *strrchr(build, '/') = '\0';
    }
    snprintf(ret_path, PATH_MAX, "%s/%.60s", build, name);
}

bool process_crash_program(const char *name, char ret_path[PATH_MAX])
{
    const char *given = getenv("TRIGGERFLOW_CRASH_BUILD");
    snprintf(ret_path, PATH_MAX, "%s/%s", given && *given ? given : "build/crash", name);
    return access(ret_path, X_OK) == 0;
}

void process_init(struct process *process, const char *log)
{
    *process = (struct process){.pid = 0};
    snprintf(process->log, sizeof process->log, "%s", log);
    (void)unlink(log);
}

static void exec_child(const struct process *process, const char *const *argv, const char *const *environment,
                       pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    int log = open(process->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int null = open("/dev/null", O_RDONLY);
    if (getppid() != parent || log < 0 || null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 ||
        dup2(log, 2) < 0)
        _exit(126);
    close(log);
    close(null);
    for (; environment && *environment; environment++)
        putenv((char *)(uintptr_t)*environment);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    perror(argv[0]);
    _exit(127);
}

int process_start(struct process *process, const char *const *argv, const char *const *environment)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        return -1;
    }
    if (pid == 0)
        exec_child(process, argv, environment, parent);
    process->pid = pid;
    process->lives++;
    return 0;
}

static int exit_status(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool process_ended(struct process *process, int *ret_status)
{
    int status;
    if (!process->pid || waitpid(process->pid, &status, WNOHANG) != process->pid)
        return false;
    process->pid = 0;
    *ret_status = exit_status(status);
    return true;
}

int process_wait(struct process *process, uint64_t timeout_ns)
{
    int status = -1;
    uint64_t end = clock_now_ns() + timeout_ns;
    while (!process_ended(process, &status) && clock_now_ns() < end)
        wait_moment();
    return status;
}

void process_kill(struct process *process, int signal)
{
    if (!process->pid)
        return;
    kill(process->pid, signal);
    while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    process->pid = 0;
}

char *process_log(const struct process *process)
{
    struct stat about;
    int fd = open(process->log, O_RDONLY | O_CLOEXEC);
    size_t size = fd >= 0 && fstat(fd, &about) == 0 ? (size_t)about.st_size : 0;
    char *text = malloc(size + 1);
    size_t len = 0;
    ssize_t got;
    while (text && len < size && (got = read(fd, text + len, size - len)) > 0)
        len += (size_t)got;
    if (fd >= 0)
        close(fd);
    if (text)
        text[len] = '\0';
    return text;
}

unsigned process_log_count(const struct process *process, const char *text)
{
    char *log = process_log(process);
    unsigned n = 0;
    for (const char *at = log; at && (at = strstr(at, text)); at += strlen(text))
        n++;
    free(log);
    return n;
}

bool process_log_has(const struct process *process, const char *text)
{
    return process_log_count(process, text) > 0;
}

void process_show_log(const struct process *process)
{
    char *log = process_log(process);
    size_t len = log ? strlen(log) : 0;
    fprintf(stderr, "--- %s (its end)\n%s---\n", process->log,
            log ? log + (len > SHOWN ? len - SHOWN : 0) : "");
    free(log);
}

unsigned process_count(const char *part)
{
    unsigned n = 0;
    DIR *all = opendir("/proc");
    for (struct dirent *e; all && (e = readdir(all));) {
        char path[300];
        char line[4096];
        snprintf(path, sizeof path, "/proc/%s/cmdline", e->d_name);
        FILE *file = e->d_name[0] >= '0' && e->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        if (!file)
            continue;
        size_t len = fread(line, 1, sizeof line - 1, file);
        fclose(file);
        line[len] = '\0';
        for (size_t i = 0; i < len; i++)
            if (!line[i])
                line[i] = ' ';
        n += strstr(line, part) != NULL;
    }
    if (all)
        closedir(all);
    return n;
}
