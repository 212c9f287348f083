#include "tests/support/docker_engine.h"

#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/wait.h"

static bool answers(void)
{
    return system("docker info >/dev/null 2>&1") == 0;
}

static void begin(struct docker_engine *engine)
{
    char data[96], state[96], pid[96], host[112];
    snprintf(data, sizeof data, "--data-root=%s/data", engine->folder);
    snprintf(state, sizeof state, "--exec-root=%s/exec", engine->folder);
    snprintf(pid, sizeof pid, "--pidfile=%s/pid", engine->folder);
    snprintf(host, sizeof host, "unix://%s", engine->socket);
    const char *argv[] = {
        "/usr/sbin/dockerd", data, state, pid, "-H", host, "--storage-driver=overlay2", "--iptables=false",
        "--ip6tables=false", NULL};
    process_start(&engine->process, argv, (const char *[]){NULL});
}

void docker_engine_start(struct docker_engine *engine)
{
    begin(engine);
    WAIT(answers());
}

void docker_engine_stop(struct docker_engine *engine)
{
    process_kill(&engine->process, SIGTERM);
}

static bool leave_network(void)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    if (unshare(CLONE_NEWNET) < 0)
        return false;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool up = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &loopback) == 0;
    if (fd >= 0)
        close(fd);
    return up;
}

static bool prepare(struct docker_engine *engine)
{
    char text[112];
    int status;
    snprintf(engine->folder, sizeof engine->folder, "/tmp/triggerflow-docker-XXXXXX");
    if (!mkdtemp(engine->folder))
        return false;
    snprintf(engine->socket, sizeof engine->socket, "%s/docker.sock", engine->folder);
    snprintf(text, sizeof text, "unix://%s", engine->socket);
    setenv("DOCKER_HOST", text, 1);
    setenv("DOCKER_CONFIG", engine->folder, 1);
    snprintf(text, sizeof text, "%s/log", engine->folder);
    process_init(&engine->process, text);
    begin(engine);
    for (uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS; !answers() && clock_now_ns() < end; wait_moment())
        if (process_ended(&engine->process, &status))
            return false;
    return answers();
}

const char *docker_engine_prepare(struct docker_engine *engine)
{
    if (geteuid() != 0)
        return "not root";
    if (access("/usr/sbin/dockerd", X_OK) != 0 || system("command -v docker >/dev/null") != 0)
        return "no dockerd, or no docker";
    if (system("busybox nc --help >/dev/null 2>&1") != 0)
        return "no busybox";
    if (!leave_network())
        return "no network namespace";
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (prepare(engine))
        return NULL;
    process_show_log(&engine->process);
    docker_engine_remove(engine);
    return "dockerd does not run here";
}

/* What workers have left to remove their containers has become our child. */
static bool alone(struct docker_engine *engine)
{
    pid_t pid;
    int status;
    unsigned n = 0;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == engine->process.pid)
            engine->process.pid = 0;
    FILE *children = fopen("/proc/thread-self/children", "re");
    for (int child; children && fscanf(children, "%d", &child) == 1;)
        n += child != engine->process.pid;
    if (children)
        fclose(children);
    return !n;
}

int docker_engine_remove(struct docker_engine *engine)
{
    char line[256];
    WAIT(alone(engine));
    docker_engine_stop(engine);
    snprintf(
        line, sizeof line,
        "awk -v below=%s/ 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l; "
        "rm -rf %s",
        engine->folder, engine->folder);
    return system(line);
}

static bool removed(void)
{
    return system("docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1; test -z \"$(docker ps -aq)\"") == 0;
}

void docker_engine_clear(void)
{
    WAIT(removed()); /* what a worker has left is being removed by others, too */
}

const char *docker_engine_output(const char *command)
{
    static char text[4096];
    FILE *pipe = popen(command, "re");
    assert_non_null(pipe);
    size_t n = fread(text, 1, sizeof text - 1, pipe);
    pclose(pipe);
    while (n && text[n - 1] == '\n')
        n--;
    text[n] = '\0';
    return text;
}

int docker_engine_containers(const char *filter)
{
    char command[256];
    snprintf(command, sizeof command, "docker ps -q %s --filter label=triggerflow.workspace=ws | wc -l",
             filter);
    return atoi(docker_engine_output(command));
}
