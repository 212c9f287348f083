/* 1,000 workflows under one supervisor. Idle: the memory of a worker (PSS, so that shared pages count once),
 * how often its threads wake, and the commands that it sends to Redis. Then 100 of them get 2,000 events
 * each, all at the same moment, and say when they are through: whether one of them has to wait much longer
 * than the others. The floor of the memory is a forked process that does nothing but hold the same program,
 * the forkserver. */
#include "bench/bench.h"

#include <dirent.h>
#include <json-c/json.h>

#define WORKFLOWS 1000
#define ACTIVE 100
#define EVENTS 2000 /* for each active one */
#define IDLE_S 10
#define PROBES 4000 /* writes that are timed */
#define OPEN_FILES 20000
#define TARGET_PSS_MIB 1.0
#define TARGET_WAKE_UPS 1.0

struct workers {
    pid_t pids[WORKFLOWS];
    size_t n;
};

/* ---- what /proc says ---- */

/* Sums the numbers behind a name in a file of /proc; 0 when the file is gone. */
static double proc_number(const char *path, const char *name)
{
    char line[256];
    double n = 0;
    size_t len = strlen(name);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, len))
            n += strtod(line + len, NULL);
    if (file)
        fclose(file);
    return n;
}

static double pss_mib(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    return proc_number(path, "Pss:") / 1024;
}

/* How often the threads of a process have gone to sleep. */
static double wake_ups(pid_t pid)
{
    char path[64], status[384];
    double n = 0;
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    if (!dir)
        bench_fail("a worker has ended");
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.') {
            snprintf(status, sizeof status, "%s/%s/status", path, entry->d_name);
            n += proc_number(status, "voluntary_ctxt_switches:");
        }
    closedir(dir);
    return n;
}

/* The forkserver: the child of the supervisor that is no worker. */
static pid_t find_forkserver(const struct bench_supervisor *s)
{
    char path[64], line[64] = "";
    pid_t found = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)s->pid, (int)s->pid);
    FILE *file = fopen(path, "re");
    for (int pid; file && fscanf(file, "%d", &pid) == 1;) {
        snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        FILE *command = fopen(path, "re");
        size_t n = command ? fread(line, 1, sizeof line - 1, command) : 0;
        line[n] = '\0';
        if (command)
            fclose(command);
        if (strstr(line, "--forkserver") || (n > 20 && !strcmp(line + strlen(line) + 1, "--forkserver")))
            found = pid;
    }
    if (file)
        fclose(file);
    return found;
}

/* ---- the workflows ---- */

static void store(struct bench *b, unsigned number)
{
    char name[24], context[32];
    snprintf(name, sizeof name, "many%u", number);
    snprintf(context, sizeof context, "\"join\":%d", EVENTS);
    bench_store_workspace(b, name);
    bench_store_source(b, name, "in", name, true);
    bench_store_source(b, name, "done", "done", false);
    bench_store_trigger(b, name, "join", name, "JOIN", context,
                        "{\"name\":\"EMIT\",\"event_source\":\"done\",\"event\":{\"type\":\"done\"}}");
    bench_drain(b->redis, 1);
}

/* Their processes, once all are running. */
static void await_running(const struct bench_supervisor *s, struct workers *w)
{
    uint64_t start = clock_now_ns();
    do {
        BUFFER_AUTO body = BUFFER_INIT;
        struct json_object *list, *pid, *state;
        bench_check_deadline(start, "1,000 running workflows");
        bench_nap_us(200000);
        if (bench_http(s->http, "GET", "/workspace", &body) != 200)
            bench_fail("no list of workflows");
        struct json_object *root = json_tokener_parse(buffer_text(&body));
        w->n = 0;
        if (!json_object_object_get_ex(root, "workspaces", &list))
            bench_fail("the list of workflows is not understood");
        for (size_t i = 0; i < json_object_array_length(list) && i < WORKFLOWS; i++) {
            struct json_object *one = json_object_array_get_idx(list, i);
            if (json_object_object_get_ex(one, "state", &state) &&
                json_object_object_get_ex(one, "pid", &pid) &&
                !strcmp(json_object_get_string(state), "running"))
                w->pids[w->n++] = json_object_get_int(pid);
        }
        json_object_put(root);
    } while (w->n < WORKFLOWS);
}

/* ---- idle ---- */

/* Microseconds that one XADD takes, pipelined. */
static double write_us(struct bench *b)
{
    uint64_t start = clock_now_ns();
    bench_load(b, "probe", PROBES, 1, 0);
    double us = (double)(clock_now_ns() - start) / 1e3 / PROBES;
    bench_do(b, "DEL probe");
    return us;
}

/* What the watching of 1,000 workspaces costs the server with every write, to whatever key. */
static void report_writes(struct bench *b, double floor_us)
{
    double us[BENCH_MAX_RUNS];
    size_t runs = bench_runs();
    for (size_t i = 0; i < runs; i++)
        us[i] = write_us(b);
    double median = bench_median(us, runs);
    printf("bench many what=writes_beside workflows=%d us_per_write=%.1f floor_us=%.1f ratio=%.1f\n",
           WORKFLOWS, median, floor_us, median / floor_us);
}

static void report_memory(const struct bench_supervisor *s, const struct workers *w)
{
    static double pss[WORKFLOWS];
    double sum = 0;
    for (size_t i = 0; i < w->n; i++)
        sum += pss[i] = pss_mib(w->pids[i]);
    pid_t forkserver = find_forkserver(s);
    if (sum <= 0)
        bench_fail("no PSS");
    printf("bench many what=memory workflows=%zu pss_mib=%.3f median_pss_mib=%.3f target=%.1f "
           "forkserver_pss_mib=%.3f supervisor_pss_mib=%.1f\n",
           w->n, sum / (double)w->n, bench_median(pss, w->n), TARGET_PSS_MIB,
           forkserver ? pss_mib(forkserver) : 0, pss_mib(s->pid));
}

static double all_wake_ups(const struct workers *w)
{
    double n = 0;
    for (size_t i = 0; i < w->n; i++)
        n += wake_ups(w->pids[i]);
    return n;
}

static void report_idle(struct bench *b, const struct bench_supervisor *s, const struct workers *w)
{
    double supervisor = wake_ups(s->pid);
    double before = all_wake_ups(w);
    if (before <= (double)w->n)
        bench_fail("the workers have never slept");
    uint64_t start = clock_now_ns();
    long long commands = bench_info(b, "stats", "total_commands_processed");
    bench_nap_us(IDLE_S * 1000000L);
    commands = bench_info(b, "stats", "total_commands_processed") - commands - 1; /* the INFO itself */
    double seconds = bench_seconds(start, clock_now_ns());
    double wakes = (all_wake_ups(w) - before) / seconds / (double)w->n;
    supervisor = (wake_ups(s->pid) - supervisor) / seconds;
    printf(
        "bench many what=idle workflows=%zu seconds=%.1f wake_ups_per_s=%.3f target=%.1f redis_commands=%lld "
        "target=0 supervisor_wake_ups_per_s=%.1f\n",
        w->n, seconds, wakes, TARGET_WAKE_UPS, commands, supervisor);
}

/* ---- active ---- */

/* Loads the streams of the active workflows under other names. */
static void stage_events(struct bench *b)
{
    bench_do(b, "EVAL %s 0 %d %d",
             "for i = 1, ARGV[2] do for w = 0, ARGV[1] - 1 do redis.call('XADD', 'staged' .. w, '*', "
             "'specversion', '1.0', 'id', i, 'source', 'urn:bench', 'type', '" BENCH_EVENT_TYPE
             "', 'time', '2024-01-01T00:00:00Z', 'subject', 'many' .. w) end end",
             ACTIVE, EVENTS);
}

/* Puts the streams in place, all at the same moment. Returns that moment by the server's clock, in
 * milliseconds. */
static long long send_events(struct bench *b)
{
    return bench_do(b, "EVAL %s 0 %d",
                    "for w = 0, ARGV[1] - 1 do redis.call('RENAME', 'staged' .. w, 'many' .. w) end "
                    "local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)",
                    ACTIVE);
}

/* The number of the workflow that an entry of the stream `done` is from. */
static size_t workflow_of(const redisReply *entry)
{
    const redisReply *fields = entry->element[1];
    for (size_t i = 0; i + 1 < fields->elements; i += 2)
        if (!strcmp(fields->element[i]->str, "subject") && !strncmp(fields->element[i + 1]->str, "many", 4))
            return strtoul(fields->element[i + 1]->str + 4, NULL, 10);
    bench_fail("an entry without a workflow");
}

/* Waits until all are through; when that was, by the server's clock, since `start_ms`. */
static void await_active(struct bench *b, long long start_ms, double seconds[ACTIVE])
{
    static bool seen[ACTIVE];
    uint64_t begun = clock_now_ns();
    while (bench_do(b, "XLEN done") < ACTIVE) {
        bench_check_deadline(begun, "all active workflows");
        bench_nap_us(20000);
    }
    redisReply *reply = bench_ask(b, "XRANGE done - +");
    if (reply->elements != ACTIVE)
        bench_fail("%zu of %d workflows are through", reply->elements, ACTIVE);
    for (size_t i = 0; i < ACTIVE; i++) {
        size_t number = workflow_of(reply->element[i]);
        if (number >= ACTIVE || seen[number])
            bench_fail("workflow %zu is through twice", number);
        seen[number] = true;
        seconds[i] = (double)(atoll(reply->element[i]->element[0]->str) - start_ms) / 1e3;
    }
    freeReplyObject(reply);
}

static void report_active(struct bench *b)
{
    static double seconds[ACTIVE];
    char name[24];
    await_active(b, send_events(b), seconds);
    for (unsigned i = 0; i < ACTIVE; i++) {
        snprintf(name, sizeof name, "many%u", i);
        if (bench_counter(b, name, "join") != EVENTS || bench_do(b, "HLEN %s-dead_letters", name))
            bench_fail("%s has counted %lld events", name, bench_counter(b, name, "join"));
    }
    double median = bench_median(seconds, ACTIVE); /* sorts */
    double first = seconds[0];
    double last = seconds[ACTIVE - 1];
    printf("bench many what=active workflows=%d events=%d min_s=%.3f median_s=%.3f max_s=%.3f "
           "max_to_median=%.2f "
           "max_to_min=%.2f events_per_s=%.0f\n",
           ACTIVE, ACTIVE * EVENTS, first, median, last, last / median, last / first, ACTIVE * EVENTS / last);
}

int main(void)
{
    static struct bench b;
    static struct workers workers;
    const char *const arguments[] = {"--maxclients", "20000", NULL};
    struct bench_supervisor s;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_max < OPEN_FILES || setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        printf("bench many skipped: fewer than %d open files are allowed\n", OPEN_FILES);
        return 0;
    }
    bench_open(&b, "many", arguments);
    for (unsigned i = 0; i < WORKFLOWS; i++)
        store(&b, i);
    stage_events(&b);
    write_us(&b);
    double floor_us = write_us(&b);
    uint64_t start = clock_now_ns();
    bench_supervisor_start(&b, &s, "log: {level: warn}");
    await_running(&s, &workers);
    printf("bench many what=start workflows=%d seconds=%.2f\n", WORKFLOWS,
           bench_seconds(start, clock_now_ns()));
    bench_nap_us(3000000); /* until what the start has left to do is done */
    report_memory(&s, &workers);
    report_idle(&b, &s, &workers);
    report_writes(&b, floor_us);
    report_active(&b);
    start = clock_now_ns();
    bench_supervisor_stop(&b, &s);
    printf("bench many what=stop workflows=%d seconds=%.2f\n", WORKFLOWS,
           bench_seconds(start, clock_now_ns()));
    return 0;
}
