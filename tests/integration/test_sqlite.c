/* The real worker, and the supervisor, on SQLite: a workflow that is stored through the storage API runs on
 * stored timers and internal events alone, through kill -9, and each event counts exactly once; and what it
 * does when its workspace is removed, or its file damaged, under it. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/ipc.h"
#include "common/json.h"
#include "tests/support/process.h"
#include "tests/support/storage_bed.h"
#include "tests/support/wait.h"

#define TIMERS 400
#define SPREAD_NS (3 * CLOCK_S) /* over which they fall due */
#define STEPS 5
#define RUNNING "event=worker_state state=running"

static struct storage_bed bed;
static struct storage *storage;
static struct process worker;
static char program[PATH_MAX];
static struct error err;

/* ---- helpers ---- */

static void show(void)
{
    process_show_log(&worker);
}

static void start_worker(void)
{
    char directory[128];
    snprintf(directory, sizeof directory, "TRIGGERFLOW_STATE_DIRECTORY=%s", bed.config.state_directory);
    const char *const argv[] = {program, "flow", NULL};
    const char *const environment[] = {directory, "TRIGGERFLOW_STORAGE_BACKEND=sqlite",
                                       "TRIGGERFLOW_SHARDS=2", "TRIGGERFLOW_TRIGGER_REFRESH=1s", NULL};
    assert_int_equal(process_start(&worker, argv, environment), 0);
}

static void start_and_wait(void)
{
    unsigned before = process_log_count(&worker, RUNNING);
    start_worker();
    WAIT_ELSE(process_log_count(&worker, RUNNING) > before, show());
}

static void edit(enum storage_set set, const char *key, const char *value)
{
    int result = -1;
    struct storage_op op = {.set = set,
                            .kind = STORAGE_PUT,
                            .key = key,
                            .key_len = strlen(key),
                            .value = value,
                            .value_len = strlen(value)};
    if (storage->type->edit(storage, "flow", &op, 1, &result, &err) != 0)
        fail_msg("%s", err.message);
}

static void put_trigger(const char *id, const char *condition, const char *context, const char *action,
                        const char *subject)
{
    char document[600];
    snprintf(document, sizeof document,
             "{\"id\":\"%s\",\"uuid\":\"uuid-%s\",\"workspace\":\"flow\",\"transient\":false,"
             "\"condition\":{\"name\":\"%s\"},\"action\":%s,\"context\":%s,"
             "\"activation_events\":[{\"specversion\":\"1.0\",\"type\":\"step\",\"subject\":\"%s\"}]}",
             id, id, condition, action, context, subject);
    edit(STORAGE_TRIGGERS, id, document);
}

static void put_timer(unsigned number, uint64_t at)
{
    char key[24];
    char document[300];
    snprintf(key, sizeof key, "timer-%u", number);
    snprintf(document, sizeof document,
             "{\"at\":%llu,\"event_source\":{},\"event\":{\"specversion\":\"1.0\",\"id\":\"e%u\",\"source\":"
             "\"test\","
             "\"type\":\"step\",\"subject\":\"step0\"}}",
             (unsigned long long)at, number);
    edit(STORAGE_TIMERS, key, document);
}

/* A chain: each event for stepN is counted, and emits one for step N+1. */
static void store_flow(const char *creation)
{
    char id[24], subject[24], action[160];
    if (storage->type->create(storage, "flow", creation, NULL, 0, &err) != 0)
        fail_msg("%s", err.message);
    for (int i = 0; i < STEPS; i++) {
        snprintf(subject, sizeof subject, "step%d", i);
        snprintf(id, sizeof id, "count%d", i);
        put_trigger(id, "JOIN", "{\"join\":1000000}", "{\"name\":\"PASS\"}", subject);
        snprintf(id, sizeof id, "emit%d", i);
        snprintf(action, sizeof action,
                 "{\"name\":\"EMIT\",\"event\":{\"type\":\"step\",\"subject\":\"step%d\"}}", i + 1);
        put_trigger(id, "TRUE", "{}", action, subject);
    }
    put_trigger("last", "JOIN", "{\"join\":1000000}", "{\"name\":\"PASS\"}", "step5");
}

static int see_counter(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    struct json_value root, context, counter;
    int64_t number = 0;
    (void)key, (void)key_len;
    if (json_scan(value, len, &root, NULL) == 0 && json_member(&root, "context", &context) &&
        json_member(&context, "counter", &counter))
        (void)json_integer(&counter, &number);
    *(int64_t *)data = number;
    return 0;
}

static int64_t counter_of(const char *trigger)
{
    int64_t counter = -1;
    if (storage->type->get(storage, "flow", STORAGE_TRIGGERS, &trigger, 1, see_counter, &counter, &err) < 0)
        fail_msg("%s", err.message);
    return counter;
}

static int count(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    (void)key, (void)key_len, (void)value, (void)len;
    ++*(int *)data;
    return 0;
}

static int fields_of(enum storage_set set)
{
    int n = 0;
    if (storage->type->load(storage, "flow", set, count, &n, &err) < 0)
        fail_msg("%s", err.message);
    return n;
}

static int setup(void **state)
{
    char log[96];
    (void)state;
    if (storage_bed_clear(&bed) != 0)
        return -1;
    storage = storage_bed_open(&bed);
    snprintf(log, sizeof log, "%s/log", bed.dir);
    process_init(&worker, log);
    return storage ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    process_kill(&worker, SIGKILL);
    storage_close(storage);
    return 0;
}

/* ---- tests ---- */

static void test_exact_through_kills(void **state)
{
    (void)state;
    unsigned random = (unsigned)clock_now_ns();
    store_flow("100.5");
    uint64_t begin = clock_unix_ns() + CLOCK_S / 2;
    for (unsigned i = 0; i < TIMERS; i++)
        put_timer(i, begin + i * (SPREAD_NS / TIMERS));
    while (clock_unix_ns() < begin + SPREAD_NS) {
        start_worker();
        long ms = 20 + rand_r(&random) % 400;
        nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL); /* a random time to be killed at */
        process_kill(&worker, SIGKILL);
    }
    start_and_wait();
    WAIT_ELSE(counter_of("last") >= TIMERS, show());
    WAIT_ELSE(fields_of(STORAGE_INTERNAL) == 0 && fields_of(STORAGE_OUTBOX) == 0, show());
    process_kill(&worker, SIGTERM);
    for (int i = 0; i < STEPS; i++) {
        char id[24];
        snprintf(id, sizeof id, "count%d", i);
        assert_int_equal(counter_of(id), TIMERS);
    }
    assert_int_equal(counter_of("last"), TIMERS);
    assert_int_equal(fields_of(STORAGE_TIMERS), 0);
    assert_int_equal(fields_of(STORAGE_DEAD_LETTERS), 0);
    assert_true(worker.lives > 3);
}

/* The worker notices what another connection stores, without being told. */
static void test_notices_changes(void **state)
{
    (void)state;
    store_flow("100.5");
    start_and_wait();
    put_timer(0, clock_unix_ns());
    WAIT_ELSE(counter_of("last") == 1, show());
    put_trigger("late", "JOIN", "{\"join\":1000000}", "{\"name\":\"PASS\"}", "step5");
    put_timer(1, clock_unix_ns());
    WAIT_ELSE(counter_of("last") == 2, show());
    WAIT_ELSE(counter_of("late") == 1, show());
}

static void test_removed(void **state)
{
    (void)state;
    int status = -1;
    store_flow("100.5");
    start_and_wait();
    assert_int_equal(storage->type->remove(storage, "flow", &err), 0);
    store_flow("200.5");
    put_timer(0, clock_unix_ns()); /* the namesake's: not its affair */
    WAIT_ELSE(process_ended(&worker, &status), show());
    assert_int_equal(status, IPC_EXIT_FENCED);
    assert_int_equal(counter_of("last"), 0);
    assert_int_equal(fields_of(STORAGE_TIMERS), 1);
    start_and_wait();
    WAIT_ELSE(counter_of("last") == 1, show());
}

/* The supervisor with its worker; both die, and the next ones go on. */
static void test_supervisor(void **state)
{
    char path[PATH_MAX], directory[128], run[128];
    (void)state;
    process_program("triggerflow-supervisor", path);
    snprintf(directory, sizeof directory, "TRIGGERFLOW_STATE_DIRECTORY=%s", bed.config.state_directory);
    snprintf(run, sizeof run, "TRIGGERFLOW_RUN_DIRECTORY=%s/run", bed.dir);
    const char *const argv[] = {path, "start", NULL};
    const char *const environment[] = {directory,
                                       run,
                                       "TRIGGERFLOW_STORAGE_BACKEND=sqlite",
                                       "TRIGGERFLOW_CONTROLLER_PORT=0",
                                       "PORT=0",
                                       "TRIGGERFLOW_BOOTSTRAP_WORKSPACE=flow",
                                       "TRIGGERFLOW_TRIGGER_REFRESH=1s",
                                       NULL};
    store_flow("100.5");
    for (int life = 1; life <= 3; life++) {
        put_timer((unsigned)life, clock_unix_ns());
        assert_int_equal(process_start(&worker, argv, environment), 0);
        WAIT_ELSE(counter_of("last") == life, show());
        if (life < 3)
            process_kill(&worker, SIGKILL);
    }
    process_kill(&worker, SIGTERM);
    assert_int_equal(counter_of("count0"), 3);
    assert_int_equal(fields_of(STORAGE_TIMERS), 0);
}

static void test_damaged(void **state)
{
    (void)state;
    char path[128];
    char backup[128];
    char command[600];
    store_flow("100.5");
    put_timer(0, clock_unix_ns());
    storage_close(storage);
    storage = storage_bed_open(&bed);
    assert_non_null(storage);
    snprintf(path, sizeof path, "%s/workspaces/flow.db", bed.config.state_directory);
    snprintf(backup, sizeof backup, "%s/backup", bed.dir);
    snprintf(command, sizeof command, "cp %s %s && head -c 100000 /dev/urandom >%s", path, backup, path);
    assert_int_equal(system(command), 0);
    start_worker();
    WAIT_ELSE(process_log_has(&worker, "workspaces/flow.db is damaged"), show());
    snprintf(command, sizeof command, "cp %s %s", backup, path);
    assert_int_equal(system(command), 0);
    WAIT_ELSE(process_log_has(&worker, RUNNING), show()); /* it has waited for that */
    WAIT_ELSE(counter_of("last") == 1, show());
    process_kill(&worker, SIGTERM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exact_through_kills, setup, teardown),
        cmocka_unit_test_setup_teardown(test_notices_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_supervisor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
    };
    process_program("triggerflow-worker", program);
    if (storage_bed_start(&bed, "sqlite") != 0)
        return 1;
    int failed = cmocka_run_group_tests_name("worker on sqlite", tests, NULL, NULL);
    storage_bed_done(&bed);
    return failed;
}
