#include "tests/support/redis_server.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/support/free_port.h"

#define PROGRAM "redis-server"
#define START_NS (20 * CLOCK_S)
#define STOP_NS (10 * CLOCK_S)
#define PORT_TRIES 5

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

bool redis_server_available(void)
{
    const char *path = getenv("PATH");
    char name[512];
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(name, sizeof name, "%.*s/" PROGRAM, (int)n, path);
        if (access(name, X_OK) == 0)
            return true;
        path += n + (path[n] == ':');
    }
    return false;
}

int redis_server_init(struct redis_server *server)
{
    memset(server, 0, sizeof *server);
    snprintf(server->dir, sizeof server->dir, "/tmp/triggerflow-redis-XXXXXX");
    if (!mkdtemp(server->dir)) {
        perror("mkdtemp");
        server->dir[0] = '\0';
        return -1;
    }
    return 0;
}

/* Whether it accepts connections and, when it speaks plainly, answers something else than that it is loading.
 */
static bool answers(const struct redis_server *server)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)server->port)};
    struct timeval patience = {.tv_sec = 1};
    char answer[64] = "";
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool good = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (good && !server->tls) {
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        good = send(fd, "PING\r\n", 6, MSG_NOSIGNAL) == 6 && recv(fd, answer, sizeof answer - 1, 0) > 0 &&
               strncmp(answer, "-LOADING", 8) != 0;
    }
    close(fd);
    return good;
}

static bool exited(struct redis_server *server)
{
    if (server->pid > 0 && waitpid(server->pid, NULL, WNOHANG) == server->pid)
        server->pid = 0;
    return server->pid == 0;
}

static void exec_server(const struct redis_server *server, pid_t parent)
{
    char port[12];
    char *argv[64];
    char program[] = PROGRAM;
    const char *fixed[] = {"--bind",    "127.0.0.1",    "--dir",      server->dir, "--save",
                           "",          "--appendonly", "no",         "--port",    "0",
                           "--logfile", "log",          "--tls-port", "0"};
    size_t n = 0;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    snprintf(port, sizeof port, "%d", server->port);
    fixed[server->tls ? 13 : 9] = port;
    argv[n++] = program;
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        if (i == 12 && !server->tls)
            break;
        argv[n++] = strdup(fixed[i]);
    }
    for (size_t i = 0; server->args[i]; i++)
        argv[n++] = server->args[i];
    argv[n] = NULL;
    int null = open("/dev/null", O_RDWR);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
    }
    execvp(PROGRAM, argv);
    _exit(127);
}

static int spawn(struct redis_server *server)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        return -1;
    }
    if (pid == 0)
        exec_server(server, parent);
    server->pid = pid;
    for (uint64_t deadline = clock_now_ns() + START_NS; clock_now_ns() < deadline && !exited(server); nap())
        if (answers(server))
            return 0;
    redis_server_kill(server);
    return -1;
}

int redis_server_start(struct redis_server *server, bool tls, const char *const *arguments)
{
    const size_t max = sizeof server->args / sizeof server->args[0] - 1;
    server->tls = tls;
    for (size_t i = 0; arguments && arguments[i]; i++)
        if (i == max || !(server->args[i] = strdup(arguments[i])))
            return -1;
    for (int i = 0; i < PORT_TRIES; i++) {
        server->port = free_port();
        if (server->port > 0 && spawn(server) == 0)
            return 0;
    }
    fprintf(stderr, "%s does not start: see %s/log\n", PROGRAM, server->dir);
    return -1;
}

int redis_server_run(struct redis_server *server, const char *const *arguments)
{
    return redis_server_init(server) < 0 ? -1 : redis_server_start(server, false, arguments);
}

static void forget_client(struct redis_server *server)
{
    if (server->client)
        redisFree(server->client);
    server->client = NULL;
}

void redis_server_kill(struct redis_server *server)
{
    forget_client(server);
    if (exited(server))
        return;
    kill(server->pid, SIGKILL);
    while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    server->pid = 0;
}

void redis_server_stop(struct redis_server *server)
{
    forget_client(server);
    if (exited(server))
        return;
    kill(server->pid, SIGTERM);
    for (uint64_t deadline = clock_now_ns() + STOP_NS; clock_now_ns() < deadline && !exited(server);)
        nap();
    redis_server_kill(server);
}

int redis_server_restart(struct redis_server *server)
{
    redis_server_stop(server);
    return spawn(server);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

void redis_server_done(struct redis_server *server)
{
    redis_server_stop(server);
    for (size_t i = 0; server->args[i]; i++)
        free(server->args[i]);
    if (server->dir[0])
        (void)nftw(server->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    memset(server, 0, sizeof *server);
}

redisReply *redis_server_do(struct redis_server *server, const char *format, ...)
{
    for (int attempt = 0; attempt < 2; attempt++) {
        va_list args;
        if (!server->client)
            server->client =
                redisConnectWithTimeout("127.0.0.1", server->port, (struct timeval){.tv_sec = 5});
        if (!server->client || server->client->err)
            break;
        (void)redisSetTimeout(server->client, (struct timeval){.tv_sec = 20});
        va_start(args, format);
        redisReply *reply = redisvCommand(server->client, format, args);
        va_end(args);
        if (reply)
            return reply;
        forget_client(server);
    }
    fprintf(stderr, "redis_server_do \"%s\": %s\n", format,
            server->client ? server->client->errstr : "no answer");
    forget_client(server);
    return NULL;
}

int redis_server_certificate(const struct redis_server *server)
{
    char command[512];
    snprintf(
        command, sizeof command,
        "cd %s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out "
        "cert.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>openssl.log",
        server->dir);
    return system(command) == 0 ? 0 : -1;
}

/* ---- servers of the test itself ---- */

static int listen_loopback(int *ret_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 8) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &len) < 0) {
        close(fd);
        return -1;
    }
    *ret_port = ntohs(address.sin_port);
    return fd;
}

/* Waits until fd is readable; false when the thread is to stop. */
static bool readable(int fd, atomic_bool *stop)
{
    while (!atomic_load(stop)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 20) > 0)
            return true;
    }
    return false;
}

static void *fake_main(void *data)
{
    struct redis_fake *fake = data;
    char ignored[4096];
    while (readable(fake->listener, &fake->stop)) {
        int fd = accept4(fake->listener, NULL, NULL, SOCK_CLOEXEC);
        while (fd >= 0 && readable(fd, &fake->stop)) {
            if (recv(fd, ignored, sizeof ignored, 0) <= 0)
                break;
            if (fake->answer && send(fd, fake->answer, fake->len, MSG_NOSIGNAL) < 0)
                break;
            if (fake->close_after)
                break;
        }
        if (fd >= 0)
            close(fd);
    }
    return NULL;
}

int redis_fake_start(struct redis_fake *fake, const char *answer, size_t len, bool close_after)
{
    memset(fake, 0, sizeof *fake);
    fake->answer = answer;
    fake->len = len;
    fake->close_after = close_after;
    fake->listener = listen_loopback(&fake->port);
    if (fake->listener < 0)
        return -1;
    return pthread_create(&fake->thread, NULL, fake_main, fake) ? -1 : 0;
}

void redis_fake_stop(struct redis_fake *fake)
{
    atomic_store(&fake->stop, true);
    pthread_join(fake->thread, NULL);
    close(fake->listener);
}

static int connect_loopback(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool pass_on(int from, int to)
{
    char bytes[65536];
    ssize_t n = recv(from, bytes, sizeof bytes, 0);
    for (ssize_t done = 0; done < n;) {
        ssize_t put = send(to, bytes + done, (size_t)(n - done), MSG_NOSIGNAL);
        if (put < 0)
            return false;
        done += put;
    }
    return n > 0;
}

static void *proxy_main(void *data)
{
    struct redis_proxy *proxy = data;
    while (readable(proxy->listener, &proxy->stop)) {
        int client = accept4(proxy->listener, NULL, NULL, SOCK_CLOEXEC);
        int server = connect_loopback(proxy->upstream_port);
        bool good = client >= 0 && server >= 0;
        while (good && !atomic_load(&proxy->stop)) {
            struct pollfd p[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
            if (poll(p, 2, 20) <= 0)
                continue;
            if (p[1].revents)
                good = !atomic_exchange(&proxy->cut, false) && pass_on(server, client);
            if (good && p[0].revents)
                good = pass_on(client, server);
        }
        if (client >= 0)
            close(client);
        if (server >= 0)
            close(server);
    }
    return NULL;
}

int redis_proxy_start(struct redis_proxy *proxy, int upstream_port)
{
    memset(proxy, 0, sizeof *proxy);
    proxy->upstream_port = upstream_port;
    proxy->listener = listen_loopback(&proxy->port);
    if (proxy->listener < 0)
        return -1;
    return pthread_create(&proxy->thread, NULL, proxy_main, proxy) ? -1 : 0;
}

void redis_proxy_stop(struct redis_proxy *proxy)
{
    atomic_store(&proxy->stop, true);
    pthread_join(proxy->thread, NULL);
    close(proxy->listener);
}
