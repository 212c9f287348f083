#include "tests/support/event_server.h"

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "tests/support/wait.h"

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "event_server: %s: %s\n", what, why);
    return -1;
}

int event_server_store(struct event_server *server, const char *workspace, bool source)
{
    static const char http[] = "{\"name\":\"http\",\"class\":\"HTTPEventSource\",\"parameters\":{}}";
    char trigger[512];
    struct error err = {.code = ERROR_NONE};
    int len = snprintf(trigger, sizeof trigger,
                       "{\"id\":\"count\",\"uuid\":\"u\",\"workspace\":\"%s\",\"transient\":false,"
                       "\"condition\":{\"name\":\"COUNTER_THRESHOLD\"},\"action\":{\"name\":\"PASS\"},"
                       "\"context\":{\"threshold\":1000000000000,\"counter\":0},"
                       "\"activation_events\":[{\"specversion\":\"1.0\",\"type\":\"t\",\"subject\":\"s\"}]}",
                       workspace);
    const struct storage_op ops[] = {
        {STORAGE_TRIGGERS, STORAGE_PUT, "count", 5, trigger, (size_t)len, NULL, 0},
        {STORAGE_EVENT_SOURCES, STORAGE_PUT, "http", 4, http, sizeof http - 1, NULL, 0},
    };
    struct storage *s = storage_bed_open(&server->storage);
    if (!s)
        return -1;
    int r = s->type->create(s, workspace, "1700000000.5", ops, source ? 2 : 1, &err);
    storage_close(s);
    return r == 0 ? 0 : complain(workspace, err.message);
}

static int write_config(const struct event_server *server, const char *more)
{
    char path[96];
    snprintf(path, sizeof path, "%s/config_map.yaml", server->dir);
    FILE *file = fopen(path, "w");
    if (!file)
        return complain(path, "cannot be written");
    fprintf(file, "triggerflow_controller: {port: 0}\ntrigger_api: {port: 0}\n%s\n", more);
    if (server->storage.dir[0] != '\0')
        fprintf(file, "trigger_storage: {backend: %s, state_directory: %s/state}\n", server->storage.backend,
                server->storage.dir);
    else
        fprintf(file, "trigger_storage: {backend: redis, parameters: {host: 127.0.0.1, port: %d}}\n",
                server->storage.redis.port);
    return fclose(file) == 0 ? 0 : complain(path, "cannot be written");
}

int event_server_init(struct event_server *server, const char *backend, const char *more)
{
    char log[96];
    *server = (struct event_server){.port = 0};
    int r = storage_bed_start(&server->storage, backend);
    if (r != 0)
        return r;
    snprintf(server->dir, sizeof server->dir, "/tmp/triggerflow-events-XXXXXX");
    if (!mkdtemp(server->dir))
        return complain("temporary folder", "cannot be made");
    snprintf(log, sizeof log, "%s/log", server->dir);
    process_init(&server->supervisor, log);
    return write_config(server, more) < 0 ? -1 : event_server_store(server, "w", true);
}

void event_server_done(struct event_server *server)
{
    char command[96];
    process_kill(&server->supervisor, SIGKILL);
    storage_bed_done(&server->storage);
    snprintf(command, sizeof command, "rm -rf %s", server->dir);
    if (server->dir[0] != '\0' && system(command) != 0)
        perror(command);
}

/* The number behind the last `name=` of the log. */
static unsigned logged_number(const char *log, const char *name)
{
    const char *at = log, *last = NULL;
    while ((at = strstr(at, name)) != NULL)
        last = at += strlen(name);
    return last ? (unsigned)strtoul(last, NULL, 10) : 0;
}

/* On loopback, the operator's token opens the API. */
static void read_token(struct event_server *server)
{
    char path[96], plain[128] = "operator:", base64[200];
    server->auth[0] = '\0';
    snprintf(path, sizeof path, "%s/run/operator.token", server->dir);
    FILE *file = fopen(path, "r");
    if (!file)
        return;
    size_t n = strlen(plain) + fread(plain + 9, 1, sizeof plain - 10, file);
    fclose(file);
    while (n > 9 && (plain[n - 1] == '\n' || plain[n - 1] == '\r'))
        n--;
    EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)plain, (int)n);
    snprintf(server->auth, sizeof server->auth, "Authorization: Basic %s\r\n", base64);
}

int event_server_start(struct event_server *server)
{
    char program[PATH_MAX], config[96], run[96];
    process_program("triggerflow-supervisor", program);
    snprintf(config, sizeof config, "%s/config_map.yaml", server->dir);
    snprintf(run, sizeof run, "%s/run", server->dir);
    unsigned before = process_log_count(&server->supervisor, "event=supervisor_ready");
    const char *argv[] = {program, "start", "--config", config, "--run-directory", run, NULL};
    if (process_start(&server->supervisor, argv, (const char *const[]){NULL}) < 0)
        return complain(program, "cannot be started");
    uint64_t deadline = clock_now_ns() + WAIT_DEADLINE_NS;
    while (process_log_count(&server->supervisor, "event=supervisor_ready") == before) {
        if (clock_now_ns() > deadline || process_ended(&server->supervisor, &(int){0})) {
            process_show_log(&server->supervisor);
            return complain("supervisor", "is not ready");
        }
        wait_moment();
    }
    char *log = process_log(&server->supervisor);
    server->controller_port = logged_number(log, " port=");
    server->port = logged_number(log, " api_port=");
    free(log);
    read_token(server);
    return 0;
}

int event_server_stop(struct event_server *server)
{
    kill(server->supervisor.pid, SIGTERM);
    int status = process_wait(&server->supervisor, WAIT_DEADLINE_NS);
    if (status == 0)
        return 0;
    process_show_log(&server->supervisor);
    return complain("supervisor", "did not stop well");
}

static int see_counter(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct json_value root, context, counter;
    int64_t number;
    (void)key, (void)key_len;
    if (json_scan(value, len, &root, NULL) == 0 && json_member(&root, "context", &context) &&
        json_member(&context, "counter", &counter) && json_integer(&counter, &number))
        *(long long *)data = number;
    return 0;
}

long long event_server_counter(const struct event_server *server, const char *workspace)
{
    const char *key = "count";
    long long counter = -1;
    struct error err;
    struct storage *s = storage_bed_open(&server->storage);
    if (!s)
        return -1;
    if (s->type->get(s, workspace, STORAGE_TRIGGERS, &key, 1, see_counter, &counter, &err) < 0)
        complain(workspace, err.message);
    storage_close(s);
    return counter;
}

int event_server_control(const struct event_server *server, const char *method, const char *path, char *to,
                         size_t size)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)server->controller_port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char request[512];
    size_t n = 0;
    to[0] = '\0';
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int len = snprintf(request, sizeof request, "%s %s HTTP/1.0\r\n\r\n", method, path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        send(fd, request, (size_t)len, MSG_NOSIGNAL) == len) {
        ssize_t got;
        while (n + 1 < size && (got = recv(fd, to + n, size - n - 1, 0)) > 0)
            n += (size_t)got;
        to[n] = '\0';
    }
    if (fd >= 0)
        close(fd);
    return n > 9 ? atoi(to + 9) : 0;
}

pid_t event_server_worker(const struct event_server *server, const char *workspace)
{
    char path[300], answer[16384];
    snprintf(path, sizeof path, "/workspace/%s", workspace);
    if (event_server_control(server, "GET", path, answer, sizeof answer) != 200)
        return 0;
    const char *pid = strstr(answer, "\"pid\":");
    return pid ? (pid_t)atoi(pid + 6) : 0;
}
