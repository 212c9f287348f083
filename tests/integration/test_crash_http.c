/* Kills, on SQLite and with events over HTTP: the real supervisor and worker are killed with SIGKILL at
 * random instants, and the worker at every named crash point (make SAN=crash), while clients publish and
 * repeat (tests/support/http_load.h). In the end every event that was answered 2xx has been counted exactly
 * once.
 *
 * TRIGGERFLOW_KILLS: kills in all (200). TRIGGERFLOW_SEED: repeats a run's random choices, though not the
 * instants. TRIGGERFLOW_KEEP: with it the log is shown at the end of each run. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <curl/curl.h>
#include <json-c/json.h>

#include "common/buffer.h"
#include "tests/support/chance.h"
#include "tests/support/http_load.h"
#include "tests/support/process.h"
#include "tests/support/wait.h"

#define KILLS_PER_RUN 20
#define CLIENTS 3
#define LIFE_MOST (150 * CLOCK_MS)
#define WORKSPACE "load"

/* --- a run --- */

struct run {
    char dir[64];
    char run[96];
    char config[96];
    char api[128];     /* socket */
    char control[128]; /* socket */
    char crash_file[96];
    char program[PATH_MAX];
    struct process supervisor;
    struct http_load *load;
    unsigned killed;
};

static void show(struct run *r)
{
    char text[256];
    if (r->load && http_load_wrong(r->load, text))
        fprintf(stderr, "a client was answered %s\n", text);
    process_show_log(&r->supervisor);
}

static void write_config(const struct run *r)
{
    FILE *file = fopen(r->config, "w");
    assert_non_null(file);
    fprintf(file,
            "trigger_storage: {backend: sqlite, state_directory: %s/state}\n"
            "triggerflow_controller: {port: 0}\n"
            "trigger_api: {port: 0}\n"
            "worker: {shards: %u, checkpoint_interval: %ums}\n",
            r->dir, 1 + (unsigned)chance_below(3), (unsigned)chance_below(3) * 10);
    assert_int_equal(fclose(file), 0);
}

static void start_supervisor(struct run *r)
{
    char crash[128];
    snprintf(crash, sizeof crash, "TRIGGERFLOW_CRASH_FILE=%s", r->crash_file);
    const char *argv[] = {r->program, "start", "--config", r->config, "--run-directory", r->run, NULL};
    assert_int_equal(process_start(&r->supervisor, argv, (const char *[]){crash, NULL}), 0);
}

static long call(const struct run *r, const char *method, const char *path, const char *body)
{
    BUFFER_AUTO answer = BUFFER_INIT;
    return http_load_call(r->api, method, path, body, &answer);
}

static void create_workflow(struct run *r)
{
    BUFFER_AUTO triggers = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    http_load_triggers(&triggers);
    assert_int_equal(call(r, "POST", "/workspace",
                          "{\"workspace_name\":\"" WORKSPACE "\",\"global_context\":{},\"event_source\":{"
                          "\"name\":\"http\",\"class\":\"HTTPEventSource\",\"parameters\":{}}}"),
                     201);
    assert_int_equal(
        http_load_call(r->api, "POST", "/workspace/" WORKSPACE "/trigger", buffer_text(&triggers), &answer),
        200);
    if (!strstr(buffer_text(&answer), "\"rejected_triggers\":[]"))
        fail_msg("%s", buffer_text(&answer));
}

static void begin(struct run *r, const char *program)
{
    char log[96];
    *r = (struct run){.killed = 0};
    snprintf(r->program, sizeof r->program, "%s", program);
    snprintf(r->dir, sizeof r->dir, "/tmp/triggerflow-http-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    snprintf(r->run, sizeof r->run, "%s/run", r->dir);
    snprintf(r->config, sizeof r->config, "%s/config.yaml", r->dir);
    snprintf(r->api, sizeof r->api, "%s/api.sock", r->run);
    snprintf(r->control, sizeof r->control, "%s/control.sock", r->run);
    snprintf(r->crash_file, sizeof r->crash_file, "%s/crash", r->dir);
    snprintf(log, sizeof log, "%s/log", r->dir);
    process_init(&r->supervisor, log);
    write_config(r);
    start_supervisor(r);
    WAIT_ELSE(call(r, "GET", "/healthz", NULL) == 200, show(r));
    create_workflow(r);
    assert_int_equal(http_load_start(r->api, WORKSPACE, CLIENTS, chance_seed(), &r->load), 0);
}

static void restart(struct run *r)
{
    int status;
    kill(r->supervisor.pid, SIGTERM);
    status = process_wait(&r->supervisor, WAIT_DEADLINE_NS);
    if (status)
        show(r);
    assert_int_equal(status, 0);
    start_supervisor(r);
    WAIT_ELSE(call(r, "GET", "/healthz", NULL) == 200, show(r));
}

/* Everything is answered; the contexts are what they must be, and are still after another life. */
static void finish(struct run *r, const char *name)
{
    char text[256], line[96];
    bool answered = http_load_stop(r->load, WAIT_DEADLINE_NS);
    if (!answered)
        show(r);
    assert_true(answered);
    uint64_t until = clock_now_ns() + WAIT_DEADLINE_NS;
    while (http_load_compare(r->load, false) && clock_now_ns() < until)
        wait_moment();
    restart(r);
    unsigned differences = http_load_compare(r->load, true);
    unsigned wrong = http_load_wrong(r->load, text);
    if (differences || wrong || getenv("TRIGGERFLOW_KEEP"))
        show(r);
    printf("%s: %u kills, %llu events answered, %u wrong answers, %u differences\n", name, r->killed,
           (unsigned long long)http_load_answered(r->load), wrong, differences);
    assert_int_equal(differences, 0);
    assert_int_equal(wrong, 0);
    BUFFER_AUTO letters = BUFFER_INIT;
    assert_int_equal(http_load_call(r->api, "GET", "/workspace/" WORKSPACE "/dead-letter", NULL, &letters),
                     200);
    assert_non_null(strstr(buffer_text(&letters), "\"dead_letters\":[]"));
    process_kill(&r->supervisor, SIGTERM);
    http_load_free(r->load);
    r->load = NULL;
    snprintf(line, sizeof line, "rm -rf %s", r->dir);
    assert_int_equal(system(line), 0);
}

/* --- kills --- */

/* A pid in an answer, by the names of the members down to it; 0: none. */
static pid_t pid_at(const char *socket_path, const char *path, const char *const *names)
{
    BUFFER_AUTO answer = BUFFER_INIT;
    if (http_load_call(socket_path, "GET", path, NULL, &answer) != 200)
        return 0;
    struct json_object *root = json_tokener_parse(buffer_text(&answer));
    struct json_object *at = root;
    for (; at && *names; names++)
        if (!json_object_object_get_ex(at, *names, &at))
            at = NULL;
    pid_t pid = at ? json_object_get_int(at) : 0;
    json_object_put(root);
    return pid;
}

static pid_t worker_pid(const struct run *r)
{
    return pid_at(r->control, "/workspace/" WORKSPACE, (const char *[]){"pid", NULL});
}

static pid_t forkserver_pid(const struct run *r)
{
    return pid_at(r->control, "/workspace", (const char *[]){"supervisor", "forkserver", "pid", NULL});
}

static void kill_supervisor(struct run *r)
{
    int status;
    if (process_ended(&r->supervisor, &status)) {
        show(r);
        fail_msg("the supervisor has ended by itself, status %d", status);
    }
    process_kill(&r->supervisor, SIGKILL);
    r->killed++;
    start_supervisor(r);
}

static void kill_pid(struct run *r, pid_t (*find)(const struct run *))
{
    pid_t pid = 0;
    WAIT_ELSE((pid = find(r)) > 0, show(r));
    kill(pid, SIGKILL);
    r->killed++;
}

/* A worker is killed only twice under one supervisor, which would wait ever longer before it starts it
 * again. */
static void kill_one(struct run *r)
{
    if (r->killed % 4 == 3)
        kill_supervisor(r);
    else
        kill_pid(r, r->killed % 4 == 1 ? forkserver_pid : worker_pid);
}

static void live(uint64_t duration_ns)
{
    uint64_t until = clock_now_ns() + duration_ns;
    while (clock_now_ns() < until)
        wait_moment();
}

static const char *const points[] = {
    "recovered",

    "fire",
    "barrier",
    "shard_cut",
    "cut",
    "commit_before",
    "commit_after",
    "handed_over",
    "acknowledged",
    "http_append_before",
    "http_append_after",
    "http_answer_before",
    "http_answer_after",
    "http_release_after",
};

#define N_POINTS (sizeof points / sizeof points[0])

static void test_random_kills(void **state)
{
    char program[PATH_MAX];
    unsigned at_points = 4 * (unsigned)N_POINTS; /* the other test's */
    unsigned wanted = chance_kills();
    unsigned left = wanted > 2 * at_points ? wanted - at_points : (wanted + 1) / 2;
    (void)state;
    process_program("triggerflow-supervisor", program);
    for (unsigned run = 0; left; run++) {
        struct run r;
        char name[32];
        unsigned kills = left < KILLS_PER_RUN ? left : KILLS_PER_RUN;
        snprintf(name, sizeof name, "random%u", run);
        begin(&r, program);
        while (r.killed < kills) {
            if (chance_below(4)) /* else at once */
                WAIT_ELSE(worker_pid(&r) > 0, show(&r));
            live(chance_below(chance_below(2) ? LIFE_MOST : LIFE_MOST / 4));
            kill_one(&r);
        }
        finish(&r, name);
        left -= kills;
    }
}

/* One death at the COUNTth time that a worker reaches the point. */
static void die_at(struct run *r, const char *point, unsigned count)
{
    FILE *file;
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.new", r->crash_file);
    assert_non_null(file = fopen(temporary, "w"));
    fprintf(file, "%s %u\n", point, count);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(temporary, r->crash_file), 0);
    /* A point that only a new life comes to: it is given lives. */
    for (unsigned lives = 0; !strcmp(point, "recovered") && lives < count; lives++)
        kill_supervisor(r);
    WAIT_ELSE(access(r->crash_file, F_OK), show(r));
    r->killed++;
}

static void test_crash_points(void **state)
{
    static const unsigned counts[] = {1, 2, 3, 7};
    size_t n = chance_kills() >= 100 ? 4 : 1;
    char program[PATH_MAX];
    (void)state;
    if (!process_crash_program("triggerflow-supervisor", program)) {
        printf("skipped: no %s (make SAN=crash)\n", program);
        skip();
    }
    for (size_t p = 0; p < N_POINTS; p++) {
        struct run r;
        begin(&r, program);
        for (size_t i = 0; i < n; i++) {
            die_at(&r, points[p], strcmp(points[p], "recovered") ? counts[i] : 1);
            if (i % 2)
                kill_supervisor(&r); /* else the next life would have to wait */
        }
        finish(&r, points[p]);
    }
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_kills),
        cmocka_unit_test(test_crash_points),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    curl_global_init(CURL_GLOBAL_ALL);
    chance_read_settings();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
