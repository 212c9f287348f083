#include "tests/support/supervisor_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <curl/curl.h>
#include <json-c/json.h>

#include "tests/support/free_port.h"
#include "tests/support/redis_server.h"

/* ---- HTTP ---- */

static size_t take_body(char *data, size_t size, size_t n, void *user)
{
    buffer_append(user, data, size * n);
    return size * n;
}

static void take_value(const char *line, size_t len, const char *name, char *to, size_t size)
{
    size_t n = strlen(name);
    if (len > n && strncasecmp(line, name, n) == 0)
        snprintf(to, size, "%.*s", (int)(len - n - 2), line + n);
}

static size_t take_header(char *data, size_t size, size_t n, void *user)
{
    struct bed_answer *answer = user;
    take_value(data, size * n, "WWW-Authenticate: ", answer->authenticate, sizeof answer->authenticate);
    take_value(data, size * n, "Allow: ", answer->allow, sizeof answer->allow);
    return size * n;
}

long bed_call(const struct bed *bed, bool local, const char *method, const char *path, const char *body,
              const char *token, struct bed_answer *answer)
{
    char url[1024], socket_path[128], credentials[128];
    CURL *curl = curl_easy_init();
    assert_non_null(curl);
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", bed->port, path);
    snprintf(socket_path, sizeof socket_path, "%s/control.sock", bed->run);
    snprintf(credentials, sizeof credentials, "token:%s", token ? token : "");
    *answer = (struct bed_answer){.body = BUFFER_INIT};
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer->body);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, answer);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 60L);
    if (local)
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_path);
    if (body)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    if (token)
        curl_easy_setopt(curl, CURLOPT_USERPWD, credentials);
    if (curl_easy_perform(curl) == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer->status);
    curl_easy_cleanup(curl);
    return answer->status;
}

void bed_answer_done(struct bed_answer *answer)
{
    buffer_done(&answer->body);
}

long bed_status(const struct bed *bed, const char *method, const char *path, const char *body)
{
    struct bed_answer answer;
    long status = bed_call(bed, true, method, path, body, NULL, &answer);
    bed_answer_done(&answer);
    return status;
}

static struct json_object *get(const struct bed *bed, const char *workspace)
{
    char path[512];
    struct bed_answer answer;
    snprintf(path, sizeof path, "/workspace/%s", workspace);
    struct json_object *root = NULL;
    if (bed_call(bed, true, "GET", path, NULL, NULL, &answer) == 200)
        root = json_tokener_parse(buffer_text(&answer.body));
    bed_answer_done(&answer);
    return root;
}

void bed_get_text(const struct bed *bed, const char *workspace, const char *path, char to[256])
{
    struct json_object *root = get(bed, workspace);
    struct json_object *at = root;
    char copy[128], *rest = copy, *name;
    snprintf(copy, sizeof copy, "%s", path);
    while (at && (name = strsep(&rest, ".")) != NULL)
        if (!json_object_object_get_ex(at, name, &at))
            at = NULL;
    snprintf(to, 256, "%s", at ? json_object_get_string(at) : "");
    json_object_put(root);
}

bool bed_text_is(const struct bed *bed, const char *workspace, const char *path, const char *expected)
{
    char text[256];
    bed_get_text(bed, workspace, path, text);
    return strcmp(text, expected) == 0;
}

long long bed_number(const struct bed *bed, const char *workspace, const char *path)
{
    char text[256];
    bed_get_text(bed, workspace, path, text);
    return atoll(text);
}

bool bed_state_is(const struct bed *bed, const char *workspace, const char *state)
{
    return bed_text_is(bed, workspace, "state", state);
}

/* ---- Processes ---- */

void bed_self(char path[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    assert_true(n > 0);
    path[n] = '\0';
}

void bed_program(const char *name, char path[PATH_MAX])
{
    char build[PATH_MAX];
    bed_self(build);
    for (int i = 0; i < 3; i++) /* tests/integration/test_... */
        *strrchr(build, '/') = '\0';
    assert_true(snprintf(path, PATH_MAX, "%s/%s", build, name) < PATH_MAX);
}

static pid_t launch(const char *log, const char *const *argv)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (getppid() != parent || fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

int bed_wait_exit(pid_t pid)
{
    int status;
    pid_t got;
    AWAIT((got = waitpid(pid, &status, WNOHANG)) != 0);
    assert_int_equal(got, pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int bed_command(const struct bed *bed, const char *a, const char *b, const char *c)
{
    char program[PATH_MAX], output[128];
    bed_program("triggerflow-supervisor", program);
    snprintf(output, sizeof output, "%s/output", bed->dir);
    unlink(output);
    const char *argv[] = {program, "--config", bed->config, "--run-directory", bed->run, a, b, c, NULL};
    return bed_wait_exit(launch(output, argv));
}

char *bed_read_file(const char *path)
{
    static char text[1 << 20];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0, got;
    while (fd >= 0 && (got = read(fd, text + n, sizeof text - 1 - (size_t)n)) > 0)
        n += got;
    if (fd >= 0)
        close(fd);
    text[n] = '\0';
    return text;
}

bool bed_output_has(const struct bed *bed, const char *text)
{
    char output[128];
    snprintf(output, sizeof output, "%s/output", bed->dir);
    return strstr(bed_read_file(output), text) != NULL;
}

bool bed_log_has(const struct bed *bed, const char *text)
{
    return strstr(bed_read_file(bed->log), text) != NULL;
}

bool bed_gone(pid_t pid)
{
    return kill(pid, 0) < 0 && errno == ESRCH;
}

bool bed_dead(pid_t pid)
{
    char path[64], state = '?';
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    const char *stat = bed_read_file(path);
    const char *after = strrchr(stat, ')');
    if (after)
        state = after[2];
    return bed_gone(pid) || state == 'Z';
}

/* ---- The test bed ---- */

void bed_write_config(const struct bed *bed, const char *token, const char *more)
{
    FILE *file = fopen(bed->config, "w");
    assert_non_null(file);
    fprintf(file,
            "triggerflow_controller: {port: %d, token: \"%s\"}\ntrigger_api: {port: 0}\n"
            "trigger_storage: {backend: redis, parameters: {host: 127.0.0.1, port: %d}}\n%s\n",
            bed->port, token, bed->redis->port, more);
    assert_int_equal(fclose(file), 0);
}

void bed_store(const struct bed *bed, const char *workspace)
{
    redisReply *reply = redis_server_do(bed->redis, "HSET triggerflow-workspaces %s 1700000000.5", workspace);
    assert_non_null(reply);
    freeReplyObject(reply);
}

void bed_start(struct bed *bed)
{
    char program[PATH_MAX];
    bed_program("triggerflow-supervisor", program);
    const char *argv[] = {program, "start", "--config", bed->config, "--run-directory", bed->run, NULL};
    bed->supervisor = launch(bed->log, argv);
}

void bed_await_ready(const struct bed *bed)
{
    AWAIT(bed_status(bed, "GET", "/readyz", NULL) == 200);
}

int bed_stop(struct bed *bed)
{
    kill(bed->supervisor, SIGTERM);
    pid_t pid = bed->supervisor;
    bed->supervisor = 0;
    return bed_wait_exit(pid);
}

struct bed *bed_new(struct redis_server *redis)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    bed->redis = redis;
    snprintf(bed->dir, sizeof bed->dir, "/tmp/triggerflow-supervisor-XXXXXX");
    assert_non_null(mkdtemp(bed->dir));
    snprintf(bed->run, sizeof bed->run, "%s/run", bed->dir);
    snprintf(bed->config, sizeof bed->config, "%s/config_map.yaml", bed->dir);
    snprintf(bed->log, sizeof bed->log, "%s/log", bed->dir);
    bed->port = free_port();
    redisReply *reply = redis_server_do(redis, "FLUSHALL");
    assert_non_null(reply);
    freeReplyObject(reply);
    bed_write_config(bed, "", "");
    signal(SIGPIPE, SIG_IGN);
    return bed;
}

void bed_free(struct bed *bed)
{
    if (bed->supervisor != 0) {
        kill(bed->supervisor, SIGKILL);
        bed_wait_exit(bed->supervisor);
    }
    if (getenv("KEEP_LOGS"))
        fprintf(stderr, "%s", bed_read_file(bed->log));
    char line[128];
    snprintf(line, sizeof line, "rm -rf %s", bed->dir);
    if (system(line) != 0)
        perror(line);
    free(bed);
}

pid_t bed_forkserver(const struct bed *bed)
{
    struct bed_answer answer;
    struct json_object *at = NULL;
    pid_t pid = 0;
    bed_call(bed, true, "GET", "/workspace", NULL, NULL, &answer);
    struct json_object *root = json_tokener_parse(buffer_text(&answer.body));
    if (json_object_object_get_ex(root, "supervisor", &at) &&
        json_object_object_get_ex(at, "forkserver", &at) && json_object_object_get_ex(at, "pid", &at))
        pid = json_object_get_int(at);
    json_object_put(root);
    bed_answer_done(&answer);
    return pid;
}
