/* How long calls of the trigger API take with 1,000 workspaces of 10 triggers stored in SQLite: GET, POST and
 * DELETE of one trigger and the list of workspaces, over the Unix socket, one client. Floor, measured in turn
 * with them: GET /healthz over the same connection. Times are in milliseconds. */
#include "bench/bench.h"

#include <sys/un.h>

#include "common/config.h"
#include "common/storage/storage.h"

#define WORKSPACES 1000
#define TRIGGERS 10
#define ROUNDS_PER_RUN 500
#define MAX_ROUNDS (BENCH_MAX_RUNS * ROUNDS_PER_RUN)
#define TARGET_P99_MS 5

#define DOCUMENT                                                                               \
    "{\"id\":\"%s\",\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},"         \
    "\"context\":{\"join\":1000},\"activation_events\":[{\"type\":\"t\",\"subject\":\"%s\"}]," \
    "\"transient\":false}"

struct api {
    char config[128], run[128];
    pid_t pid;
    int fd;
    struct buffer body;
};

/* ---- The supervisor ---- */

static int dial(const struct api *api)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%.90s/api.sock", api->run);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void start(struct bench *b, struct api *api)
{
    char program[PATH_MAX];
    uint64_t begin = clock_now_ns();
    bench_program("triggerflow-supervisor", program);
    snprintf(api->config, sizeof api->config, "%s/api.yaml", b->dir);
    snprintf(api->run, sizeof api->run, "%s/run", b->dir);
    FILE *file = fopen(api->config, "w");
    if (!file)
        bench_fail("%s cannot be written", api->config);
    fprintf(file,
            "triggerflow_controller: {port: 0}\ntrigger_api: {port: 0}\nlog: {level: warn}\n"
            "trigger_storage: {backend: sqlite, state_directory: %s/state}\n",
            b->dir);
    if (fclose(file))
        bench_fail("%s cannot be written", api->config);
    const char *argv[] = {program, "start", "--config", api->config, "--run-directory", api->run, NULL};
    int log = bench_open_log(b, "supervisor");
    api->pid = bench_launch(b, log, argv);
    close(log);
    while ((api->fd = dial(api)) < 0) {
        bench_check_deadline(begin, "the API's socket");
        bench_nap_us(2000);
    }
    while (bench_http(api->fd, "GET", "/workspace", &api->body) != 200) {
        bench_check_deadline(begin, "the API");
        bench_nap_us(10000);
    }
}

/* ---- What is stored ---- */

static void store_workspace(struct storage *storage, unsigned number)
{
    char name[32], ids[TRIGGERS][16], documents[TRIGGERS][512];
    struct storage_op ops[TRIGGERS];
    struct error err;
    for (unsigned i = 0; i < TRIGGERS; i++) {
        snprintf(ids[i], sizeof ids[i], "t%u", i);
        int len = snprintf(documents[i], sizeof documents[i], DOCUMENT, ids[i], ids[i]);
        ops[i] = (struct storage_op){.set = STORAGE_TRIGGERS,
                                     .kind = STORAGE_PUT,
                                     .key = ids[i],
                                     .key_len = strlen(ids[i]),
                                     .value = documents[i],
                                     .value_len = (size_t)len};
    }
    snprintf(name, sizeof name, "ws%u", number);
    if (storage->type->create(storage, name, "1.5", ops, TRIGGERS, &err) != 0)
        bench_fail("%s: %s", name, err.message);
}

/* While the supervisor runs, so that it starts none of them. */
static void store(const struct api *api)
{
    struct config config;
    struct storage *storage;
    struct error err;
    if (config_load(api->config, &config, &err) < 0 || storage_open(&config, "bench", &storage, &err) < 0)
        bench_fail("%s", err.message);
    for (unsigned i = 0; i < WORKSPACES; i++)
        store_workspace(storage, i);
    storage_close(storage);
    config_done(&config);
}

/* ---- Calls ---- */

static double call(struct api *api, int expected, const char *method, const char *path)
{
    uint64_t begin = clock_now_ns();
    int status = bench_http(api->fd, method, path, &api->body);
    double ms = (double)(clock_now_ns() - begin) / 1e6;
    if (status != expected)
        bench_fail("%s %s answers %d: %s", method, path, status, buffer_text(&api->body));
    return ms;
}

static double post_trigger(struct api *api, unsigned workspace)
{
    char body[600], request[900], answer[4096];
    int len = snprintf(body, sizeof body, "{\"triggers\":[" DOCUMENT "]}", "new", "s");
    int n =
        snprintf(request, sizeof request,
                 "POST /workspace/ws%u/trigger HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                 "\r\nContent-Length: %d\r\n\r\n%s",
                 workspace, len, body);
    size_t have = 0;
    uint64_t begin = clock_now_ns();
    bench_send(api->fd, request, (size_t)n);
    do {
        ssize_t got = recv(api->fd, answer + have, sizeof answer - 1 - have, 0);
        if (got <= 0)
            bench_fail("POST: closed");
        have += (size_t)got;
        answer[have] = '\0';
    } while (!strstr(answer, "\"rejected_triggers\":"));
    double ms = (double)(clock_now_ns() - begin) / 1e6;
    if (atoi(answer + 9) != 200 || !strstr(answer, "\"rejected_triggers\":[]"))
        bench_fail("POST answers %s", answer);
    return ms;
}

static void print(const char *what, double *ms, double *floor_ms, size_t n)
{
    double median = bench_median(ms, n), floor = bench_median(floor_ms, n);
    double p99 = bench_percentile(ms, n, 99), floor_p99 = bench_percentile(floor_ms, n, 99);
    printf("bench api what=%s workspaces=%d calls=%zu ms=%.3f p99_ms=%.3f target_p99=%d floor_ms=%.3f "
           "floor_p99_ms=%.3f ratio=%.1f\n",
           what, WORKSPACES, n, median, p99, TARGET_P99_MS, floor, floor_p99, median / floor);
}

static void measure(struct api *api)
{
    static double get_ms[MAX_ROUNDS], post_ms[MAX_ROUNDS], delete_ms[MAX_ROUNDS], list_ms[MAX_ROUNDS],
        floor_ms[MAX_ROUNDS];
    size_t n = bench_runs() * ROUNDS_PER_RUN, lists = 0;
    char path[64];
    post_trigger(api, 0); /* the checker starts */
    call(api, 200, "DELETE", "/workspace/ws0/trigger/new");
    for (size_t i = 0; i < n; i++) {
        unsigned workspace = (unsigned)(i * 7919 % WORKSPACES);
        floor_ms[i] = call(api, 200, "GET", "/healthz");
        snprintf(path, sizeof path, "/workspace/ws%u/trigger/t%zu", workspace, i % TRIGGERS);
        get_ms[i] = call(api, 200, "GET", path);
        post_ms[i] = post_trigger(api, workspace);
        snprintf(path, sizeof path, "/workspace/ws%u/trigger/new", workspace);
        delete_ms[i] = call(api, 200, "DELETE", path);
        if (i % 10 == 0)
            list_ms[lists++] = call(api, 200, "GET", "/workspace");
    }
    print("get_trigger", get_ms, floor_ms, n);
    print("post_trigger", post_ms, floor_ms, n);
    print("delete_trigger", delete_ms, floor_ms, n);
    print("list_workspaces", list_ms, floor_ms, lists);
}

int main(void)
{
    struct bench b;
    struct api api = {.fd = -1};
    bench_open(&b, "api", NULL);
    start(&b, &api);
    store(&api);
    measure(&api);
    close(api.fd);
    buffer_done(&api.body);
    struct rusage usage;
    bench_stop_process(&b, api.pid, &usage);
    return 0;
}
