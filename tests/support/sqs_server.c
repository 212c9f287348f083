#include "tests/support/sqs_server.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/json.h"
#include "tests/support/free_port.h"

#define FOLDER "build/sqs"
#define PYTHON FOLDER "/venv/bin/python3"
#define START_NS (60 * CLOCK_S)
#define CALL_MS 30000L
#define ACCOUNT "123456789012"
#define AUTHORIZATION(service)                                                                      \
    "Authorization: AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/" service "/aws4_request, " \
    "SignedHeaders=host, Signature=0"

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "sqs_server: %s: %s\n", what, why);
    return -1;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

bool sqs_server_available(enum sqs_server_kind kind, const char **ret_why)
{
    if (kind == SQS_SERVER_LOCAL && access(FOLDER "/local.complete", R_OK) != 0)
        *ret_why = "no local-aws-sqs in " FOLDER;
    else if (kind == SQS_SERVER_LOCAL && system("node --version >/dev/null 2>&1") != 0)
        *ret_why = "no node";
    else if (kind == SQS_SERVER_MOTO && access(FOLDER "/moto.complete", R_OK) != 0)
        *ret_why = "no moto in " FOLDER;
    else
        return true;
    return false;
}

/* --- the server --- */

static void exec_server(const struct sqs_server *s, pid_t parent)
{
    char path[128], port[12];
    char *folder = realpath(FOLDER, NULL);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof path, "%s/log", s->dir);
    snprintf(port, sizeof port, "%d", s->port);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int null = open("/dev/null", O_RDONLY);
    if (getppid() != parent || log < 0 || null < 0 || !folder)
        _exit(126);
    dup2(null, 0);
    dup2(log, 1);
    dup2(log, 2);
    unsetenv("LD_PRELOAD");
    setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1000000", 1); /* until sqs_server_lock() */
    if (s->kind == SQS_SERVER_LOCAL)
        execlp("node", "node", "tests/support/sqs_server.mjs", folder, port, (char *)NULL);
    else
        execl(PYTHON, PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", port, (char *)NULL);
    _exit(127);
}

static bool exited(struct sqs_server *s)
{
    if (s->pid > 0 && waitpid(s->pid, NULL, WNOHANG) == s->pid)
        s->pid = 0;
    return s->pid == 0;
}

static int spawn(struct sqs_server *s)
{
    BUFFER_AUTO answer = BUFFER_INIT;
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return complain("fork", strerror(errno));
    if (pid == 0)
        exec_server(s, parent);
    s->pid = pid;
    for (uint64_t end = clock_now_ns() + START_NS; clock_now_ns() < end && !exited(s); nap())
        if (sqs_server_ask(s, "ListQueues", "{}", &answer) == 200)
            return 0;
    sqs_server_kill(s);
    return complain("it does not start; see the log", s->dir);
}

int sqs_server_run(struct sqs_server *s, enum sqs_server_kind kind)
{
    *s = (struct sqs_server){.kind = kind, .port = free_port()};
    snprintf(s->dir, sizeof s->dir, "/tmp/triggerflow-sqs-XXXXXX");
    if (s->port < 0 || !mkdtemp(s->dir)) {
        s->dir[0] = '\0';
        return complain("mkdtemp", strerror(errno));
    }
    return spawn(s);
}

void sqs_server_kill(struct sqs_server *s)
{
    if (exited(s))
        return;
    kill(s->pid, SIGKILL);
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    s->pid = 0;
}

int sqs_server_restart(struct sqs_server *s)
{
    sqs_server_kill(s);
    return spawn(s);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

void sqs_server_done(struct sqs_server *s)
{
    sqs_server_kill(s);
    if (s->curl)
        curl_easy_cleanup(s->curl);
    if (s->dir[0])
        (void)nftw(s->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    memset(s, 0, sizeof *s);
}

/* --- calls --- */

static size_t on_body(char *data, size_t size, size_t n, void *to)
{
    buffer_append(to, data, size * n);
    return size * n;
}

/* Takes the headers. */
static int post(struct sqs_server *s, const char *path, struct curl_slist *headers, const char *body,
                struct buffer *answer)
{
    char url[64];
    long status = 0;
    if (!s->curl && !(s->curl = curl_easy_init()))
        return complain("curl", "cannot be set up");
    CURL *e = s->curl;
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", s->port, path);
    headers = curl_slist_append(headers, "Expect:");
    buffer_reset(answer, 1 << 20);
    curl_easy_reset(e);
    curl_easy_setopt(e, CURLOPT_URL, url);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
    curl_easy_setopt(e, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, CALL_MS);
    CURLcode r = curl_easy_perform(e);
    curl_easy_getinfo(e, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    return r == CURLE_OK ? (int)status : -1;
}

int sqs_server_ask(struct sqs_server *s, const char *operation, const char *body, struct buffer *answer)
{
    char target[96];
    snprintf(target, sizeof target, "X-Amz-Target: AmazonSQS.%s", operation);
    struct curl_slist *headers = curl_slist_append(NULL, target);
    headers = curl_slist_append(headers, "Content-Type: application/x-amz-json-1.0");
    headers = curl_slist_append(headers, AUTHORIZATION("sqs"));
    return post(s, "/", headers, body, answer);
}

int sqs_server_call(struct sqs_server *s, const char *operation, const char *body, struct buffer *answer)
{
    int status = sqs_server_ask(s, operation, body, answer);
    if (status == 200)
        return 0;
    return complain(operation, status < 0 ? "no answer" : buffer_text(answer));
}

void sqs_server_url(const struct sqs_server *s, const char *queue, char ret_url[256])
{
    snprintf(ret_url, 256, "http://127.0.0.1:%d/" ACCOUNT "/%s", s->port, queue);
}

int sqs_server_create(struct sqs_server *s, const char *queue, const char *attributes, char ret_url[256])
{
    BUFFER_AUTO body = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    buffer_printf(&body, "{\"QueueName\":\"%s\",\"Attributes\":{%s}}", queue, attributes ? attributes : "");
    if (ret_url)
        sqs_server_url(s, queue, ret_url);
    return sqs_server_call(s, "CreateQueue", buffer_text(&body), &answer);
}

static int call_queue(struct sqs_server *s, const char *operation, const char *queue, const char *members,
                      struct buffer *answer)
{
    char url[256];
    BUFFER_AUTO body = BUFFER_INIT;
    sqs_server_url(s, queue, url);
    buffer_printf(&body, "{\"QueueUrl\":\"%s\"%s}", url, members);
    return sqs_server_call(s, operation, buffer_text(&body), answer);
}

int sqs_server_delete(struct sqs_server *s, const char *queue)
{
    BUFFER_AUTO answer = BUFFER_INIT;
    return call_queue(s, "DeleteQueue", queue, "", &answer);
}

int sqs_server_send(struct sqs_server *s, const char *queue, const char *body, const char *group,
                    const char *deduplication)
{
    BUFFER_AUTO members = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    buffer_append_text(&members, ",\"MessageBody\":");
    buffer_append_json(&members, body, strlen(body));
    if (group)
        buffer_printf(&members, ",\"MessageGroupId\":\"%s\",\"MessageDeduplicationId\":\"%s\"", group,
                      deduplication);
    return call_queue(s, "SendMessage", queue, buffer_text(&members), &answer);
}

static long long attribute(struct sqs_server *s, const char *queue, const char *name)
{
    char members[128];
    struct json_value root, attributes, value;
    BUFFER_AUTO answer = BUFFER_INIT;
    snprintf(members, sizeof members, ",\"AttributeNames\":[\"%s\"]", name);
    if (call_queue(s, "GetQueueAttributes", queue, members, &answer) < 0 ||
        json_scan(answer.data, answer.len, &root, NULL) < 0 || root.type != JSON_OBJECT ||
        !json_member(&root, "Attributes", &attributes) || attributes.type != JSON_OBJECT ||
        !json_member(&attributes, name, &value))
        return -1;
    return strtoll(value.text, NULL, 10);
}

long long sqs_server_waiting(struct sqs_server *s, const char *queue)
{
    return attribute(s, queue, "ApproximateNumberOfMessages");
}

long long sqs_server_in_flight(struct sqs_server *s, const char *queue)
{
    return attribute(s, queue, "ApproximateNumberOfMessagesNotVisible");
}

/* --- access keys --- */

static int ask_iam(struct sqs_server *s, const char *action, const char *parameters, struct buffer *answer)
{
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_printf(&body, "Action=%s&Version=2010-05-08&UserName=worker%s", action, parameters);
    struct curl_slist *headers = curl_slist_append(NULL, AUTHORIZATION("iam"));
    int status = post(s, "/", headers, buffer_text(&body), answer);
    return status == 200 ? 0 : complain(action, status < 0 ? "no answer" : buffer_text(answer));
}

static int take_element(struct buffer *answer, const char *name, char ret_text[64])
{
    char mark[40];
    snprintf(mark, sizeof mark, "<%s>", name);
    const char *at = strstr(buffer_text(answer), mark);
    if (!at)
        return complain(name, "is not in the answer");
    at += strlen(mark);
    snprintf(ret_text, 64, "%.*s", (int)strcspn(at, "<"), at);
    return 0;
}

int sqs_server_lock(struct sqs_server *s, char ret_id[64], char ret_secret[64])
{
    BUFFER_AUTO answer = BUFFER_INIT;
    if (ask_iam(s, "CreateUser", "", &answer) < 0 ||
        ask_iam(s, "PutUserPolicy",
                "&PolicyName=all&PolicyDocument=%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%7B"
                "%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22sqs%3A%2A%22%2C%22Resource%22%3A%22%2A%22%7D"
                "%7D",
                &answer) < 0 ||
        ask_iam(s, "CreateAccessKey", "", &answer) < 0 || take_element(&answer, "AccessKeyId", ret_id) < 0 ||
        take_element(&answer, "SecretAccessKey", ret_secret) < 0)
        return -1;
    if (post(s, "/moto-api/reset-auth", curl_slist_append(NULL, "Content-Type: text/plain"), "0", &answer) !=
        200)
        return complain("reset-auth", buffer_text(&answer));
    return 0;
}
