/* EXEC through the real worker: programs get what they should and nothing else, their limits hold, nothing of
 * them is left, and crashes repeat them under the same key. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"
#include "tests/support/worker_bed.h"

#define UIDS 16
#define DONE "event.triggerflow.termination.success"
#define FAILED "event.triggerflow.termination.failure"

static struct redis_server redis;
static char notes[128]; /* a folder that every uid may write to */

/* A program that may be run: a shell script. */
static void put_program(const struct worker_bed *bed, const char *name, const char *script)
{
    char path[160];
    snprintf(path, sizeof path, "%s/allowed/%s", bed->dir, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\numask 0\n%s\n", script);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

/* Of this process alone: what runs as one of them is killed before the next program gets it, and another run
 * of this test has its own lock on them. */
static void set_uids(void)
{
    char text[32];
    unsigned first = 20000 + (unsigned)getpid() % 2500 * UIDS;
    snprintf(text, sizeof text, "%u-%u", first, first + UIDS - 1);
    setenv("TRIGGERFLOW_EXEC_UIDS", geteuid() == 0 ? text : "", 1);
}

static int setup(void **state)
{
    char path[160];
    struct worker_bed *bed = worker_bed_new(&redis);
    assert_int_equal(chmod(bed->dir, 0755), 0);
    snprintf(path, sizeof path, "%s/allowed", bed->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    setenv("TRIGGERFLOW_EXEC_ALLOW", path, 1);
    set_uids();
    snprintf(path, sizeof path, "%s/run", bed->dir);
    setenv("TRIGGERFLOW_RUN_DIRECTORY", path, 1);
    snprintf(path, sizeof path, "%s/tmp", bed->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    setenv("TMPDIR", path, 1);
    snprintf(notes, sizeof notes, "%s/notes", bed->dir);
    assert_int_equal(mkdir(notes, 0777), 0);
    assert_int_equal(chmod(notes, 0777), 0);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    worker_bed_free(*state);
    return 0;
}

/* A trigger for the type "go" and its id as subject, that runs a program. more: after argv's first. */
static void put_exec(const struct worker_bed *bed, const char *id, const char *program, const char *arguments,
                     const char *more)
{
    char action[2048];
    snprintf(action, sizeof action,
             "{\"name\":\"EXEC\",\"argv\":[\"%s/allowed/%s\"%s],\"backoff_s\":0.02,"
             "\"env\":{\"NOTES\":\"%s\"}%s}",
             bed->dir, program, arguments, notes, more);
    worker_bed_trigger(bed, id, "TRUE", "{}", action, "go", id);
}

/* Events of this type and subject are seen in the stream `out`. */
static void show(const struct worker_bed *bed, const char *id, const char *type, const char *subject)
{
    worker_bed_trigger(bed, id, "TRUE", "{}",
                       "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"seen\"}}", type,
                       subject);
}

static void count(const struct worker_bed *bed, const char *id, const char *type, const char *subject)
{
    worker_bed_trigger(bed, id, "COUNTER_THRESHOLD", "{\"threshold\":1000000}", "{\"name\":\"PASS\"}", type,
                       subject);
}

static const char *seen(const struct worker_bed *bed, unsigned n)
{
    AWAIT_BED(bed, workspace_stream_length(&bed->workspace, "out") > (long long)n);
    return worker_bed_entry(bed, "out", n, "data");
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no %s in %s", part, text);
}

static void publish(const struct worker_bed *bed, const char *subject, const char *id, const char *data)
{
    assert_int_equal(workspace_publish_one(&bed->workspace, "in", id, "go", subject, data), 0);
}

/* The text of a file in `notes`, "" when there is none (free). */
static char *read_note(const char *name)
{
    char path[256];
    char *text = NULL;
    size_t len = 0;
    snprintf(path, sizeof path, "%s/%s", notes, name);
    FILE *file = fopen(path, "re");
    if (!file || getdelim(&text, &len, '\0', file) < 0) {
        free(text);
        text = strdup("");
    }
    if (file)
        fclose(file);
    return text;
}

static bool note_has(const char *name, const char *part)
{
    char *text = read_note(name);
    bool has = strstr(text, part);
    free(text);
    return has;
}

/* The first dead letter, of which there must be one (free). */
static char *letter(const struct worker_bed *bed)
{
    redisReply *all = redis_server_do(&redis, "HVALS %s-dead_letters", bed->workspace.name);
    assert_non_null(all);
    if (all->elements != 1)
        worker_bed_show(bed);
    assert_int_equal(all->elements, 1);
    char *text = strdup(all->element[0]->str);
    freeReplyObject(all);
    return text;
}

/* --- what it gets --- */

static void test_reply(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "tell",
                "printf '%s|' \"$@\"; cat; echo; env | sort; echo wrong >&2; ls /proc/self/fd; pwd; "
                "grep NoNewPrivs /proc/self/status; ps -o pid=,sid=,pgid= -p $$");
    put_exec(bed, "t", "tell", ",\"a b\",\"${event.data.text}\",\"${event.data}\",\"$(id);\"", "");
    show(bed, "show", DONE, "t");
    worker_bed_up(bed);
    publish(bed, "t", "id-1", "{\"text\":\"'; rm -rf / #\"}");
    const char *data = seen(bed, 0);
    assert_has(
        data,
        "{\"exit_status\":0,\"output\":\"a b|'; rm -rf / #|{\\\"text\\\":\\\"'; rm -rf / #\\\"}|$(id);|");
    assert_has(data, "\\\"id\\\":\\\"id-1\\\"");
    assert_has(data, "TRIGGERFLOW_ATTEMPT=1\\nTRIGGERFLOW_KEY=");
    assert_has(data, "TRIGGERFLOW_TRIGGER=t\\nTRIGGERFLOW_WORKSPACE=ws\\n");
    assert_null(strstr(data, "REDIS"));
    assert_has(data, "\\n0\\n1\\n2\\n3\\n/"); /* descriptors: 3 is of ls itself */
    assert_has(data, "/triggerflow-exec-");
    assert_has(data, "NoNewPrivs:\\t1");
    assert_has(data, "\"errors\":\"wrong\\n\"");
    assert_null(strstr(data, "_cut"));
    worker_bed_stop(bed);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
}

static void test_json(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "double", "read n; echo \"{\\\"n\\\":$((n * 2))}\"");
    put_program(bed, "whole", "printf 'no JSON'");
    put_exec(bed, "t", "double", "",
             ",\"input\":\"data\",\"output\":\"json\",\"reply_type\":\"doubled\",\"reply_subject\":\"${event."
             "id}\"");
    put_exec(bed, "u", "whole", "", ",\"output\":\"json\"");
    show(bed, "show", "doubled", "id-1");
    count(bed, "failed", FAILED, "u");
    worker_bed_up(bed);
    publish(bed, "t", "id-1", "21");
    assert_has(seen(bed, 0), "\"output\":{\"n\":42}\n,");
    publish(bed, "u", "id-2", "1");
    AWAIT_BED(bed, worker_bed_counter(bed, "failed") == 1);
    char *text = letter(bed);
    assert_has(text, "the output is not JSON");
    free(text);
    worker_bed_stop(bed);
}

/* --- failures and limits --- */

static void test_failure(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "fail",
                "echo $TRIGGERFLOW_KEY $TRIGGERFLOW_ATTEMPT >>$NOTES/$TRIGGERFLOW_KEY; echo out; exit 3");
    put_exec(bed, "t", "fail", "", ",\"retries\":2,\"subject\":\"task\"");
    show(bed, "show", FAILED, "task");
    worker_bed_up(bed);
    publish(bed, "t", "id-1", "1");
    const char *data = seen(bed, 0);
    assert_has(data, "\"attempts\":3,\"error\":\"exit status 3\"");
    assert_has(data, "\"exit_status\":3,\"output\":\"out\\n\",\"errors\":\"\"");
    char key[33] = "";
    assert_int_equal(sscanf(strstr(data, "\"key\":\""), "\"key\":\"%32[0-9a-f]", key), 1);
    char *note = read_note(key);
    char expected[160];
    snprintf(expected, sizeof expected, "%s 1\n%s 2\n%s 3\n", key, key, key);
    assert_string_equal(note, expected);
    free(note);
    AWAIT_BED(bed, workspace_count(&bed->workspace, "dead_letters") == 1);
    char *text = letter(bed);
    assert_has(text, "\"reason\":\"action_failed\"");
    assert_has(text, "\"exit_status\":3");
    free(text);
    worker_bed_stop(bed);
}

/* What ignores SIGTERM is killed, with what has left its session. */
static void test_time(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "hang",
                "trap '' TERM; setsid sleep 86391 & sleep 86391 & while :; do sleep 86391; done");
    put_program(bed, "leave", "setsid sleep 86392 </dev/null >/dev/null 2>&1 & sleep 86392 & echo left");
    put_exec(bed, "t", "hang", "", ",\"timeout_s\":0.3");
    put_exec(bed, "u", "leave", "", "");
    show(bed, "show", FAILED, "t");
    show(bed, "done", DONE, "u");
    worker_bed_up(bed);
    publish(bed, "u", "id-1", "1");
    assert_has(seen(bed, 0), "\"output\":\"left\\n\"");
    assert_int_equal(process_count("sleep 86392"), 0);
    publish(bed, "t", "id-2", "1");
    assert_has(seen(bed, 1), "killed: not done within 0.3 s");
    assert_int_equal(process_count("sleep 86391"), 0);
    worker_bed_stop(bed);
}

static void test_output(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "flood",
                "head -c 50000000 /dev/zero | tr '\\0' 'x'; head -c 3000 /dev/zero | tr '\\0' 'y' >&2");
    put_exec(bed, "t", "flood", "", ",\"output_bytes\":1000");
    show(bed, "show", DONE, "t");
    worker_bed_up(bed);
    publish(bed, "t", "id-1", "1");
    const char *data = seen(bed, 0);
    assert_has(data, "xxxx\",\"output_cut\":true,\"errors\":\"yyyy");
    assert_has(data, "yyyy\",\"errors_cut\":true}");
    assert_in_range(strlen(data), 2000, 2200);
    worker_bed_stop(bed);
}

static void test_memory_and_processes(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "eat", "head -c 400000000 /dev/zero | tail >/dev/null && echo ate");
    put_program(bed, "bomb", "b() { b | b & }; b; sleep 86393");
    put_exec(bed, "t", "eat", "", ",\"memory\":\"100MiB\"");
    put_exec(bed, "u", "bomb", "", ",\"processes\":20,\"timeout_s\":1");
    show(bed, "show", FAILED, "t");
    show(bed, "bombed", FAILED, "u");
    worker_bed_up(bed);
    publish(bed, "t", "id-1", "1");
    assert_null(strstr(seen(bed, 0), "ate"));
    publish(bed, "u", "id-2", "1");
    assert_has(seen(bed, 1), "killed");
    assert_int_equal(process_count("allowed/bomb"), 0);
    worker_bed_stop(bed);
}

/* A program that hangs, and others in the queue behind it, keep nobody else waiting. */
static void test_beside(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "hang", "sleep 86394");
    put_exec(bed, "t", "hang", "", "");
    count(bed, "healthy", "tick", "s");
    setenv("TRIGGERFLOW_EXEC_MAX_RUNNING", "2", 1);
    worker_bed_up(bed);
    worker_bed_publish(bed, "go", "t", 10);
    AWAIT_BED(bed, process_count("sleep 86394") == 2);
    worker_bed_publish(bed, "tick", "s", 200);
    AWAIT_BED(bed, worker_bed_counter(bed, "healthy") == 200);
    assert_int_equal(process_count("sleep 86394"), 2);
    unsetenv("TRIGGERFLOW_EXEC_MAX_RUNNING");
    process_kill(&bed->worker, SIGKILL);
    WAIT(process_count("sleep 86394") == 0);
}

/* --- what may not be run --- */

static void test_refused(void **state)
{
    struct worker_bed *bed = *state;
    char link[192];
    snprintf(link, sizeof link, "%s/allowed/link", bed->dir);
    assert_int_equal(symlink("/bin/echo", link), 0);
    put_exec(bed, "t", "link", "", "");
    put_exec(bed, "absent", "absent", "", "");
    worker_bed_trigger(bed, "other", "TRUE", "{}", "{\"name\":\"EXEC\",\"argv\":[\"/bin/echo\"]}", "go",
                       "other");
    show(bed, "show", FAILED, "t");
    show(bed, "none", FAILED, "absent");
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_logged(bed, "/bin/echo is not among what worker.exec_allow lets run"));
    publish(bed, "t", "id-1", "1");
    assert_has(seen(bed, 0), "echo is not among what worker.exec_allow lets run");
    publish(bed, "absent", "id-2", "1");
    assert_has(seen(bed, 1), "No such file or directory");
    worker_bed_stop(bed);
    if (geteuid() != 0)
        return;
    setenv("TRIGGERFLOW_EXEC_UIDS", "", 1);
    worker_bed_up(bed);
    publish(bed, "absent", "id-3", "1");
    put_program(bed, "absent", "echo"); /* it may come */
    assert_has(seen(bed, 2), "the worker runs as root, and worker.exec_uids gives it no uids");
    worker_bed_stop(bed);
}

/* --- crashes --- */

/* What a killed worker had started does not go on; its successor starts it again under the same key. */
static void test_killed(void **state)
{
    struct worker_bed *bed = *state;
    put_program(bed, "work",
                "echo start $TRIGGERFLOW_KEY >>$NOTES/work; (setsid sleep 86395 &) ; "
                "[ -e $NOTES/go ] || sleep 86395; echo end >>$NOTES/work");
    put_exec(bed, "t", "work", "", "");
    show(bed, "show", DONE, "t");
    worker_bed_up(bed);
    publish(bed, "t", "id-1", "1");
    AWAIT_BED(bed, process_count("sleep 86395") == 2);
    process_kill(&bed->worker, SIGKILL);
    WAIT(process_count("sleep 86395") == 0 && process_count("allowed/work") == 0);
    assert_false(note_has("work", "end"));
    char path[160];
    snprintf(path, sizeof path, "%s/go", notes);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fclose(file);
    worker_bed_up(bed);
    seen(bed, 0);
    char *note = read_note("work");
    char first[33];
    char second[33];
    assert_int_equal(sscanf(note, "start %32s start %32s end", first, second), 2);
    assert_string_equal(first, second);
    free(note);
    worker_bed_stop(bed);
}

static unsigned kills(void)
{
    const char *text = getenv("TRIGGERFLOW_KILLS");
    unsigned n = text ? (unsigned)atoi(text) : 40;
    return n > 40 ? 40 : n;
}

/* Killed at any time, each event is counted once, and all runs of one have one key. */
static void test_random_kills(void **state)
{
    struct worker_bed *bed = *state;
    const unsigned n = 60;
    unsigned short random[3] = {1, 2, (unsigned short)getpid()};
    put_program(bed, "note", "echo $TRIGGERFLOW_KEY >$NOTES/run-$$-$TRIGGERFLOW_KEY; cat >/dev/null");
    put_exec(bed, "t", "note", "", "");
    count(bed, "count", DONE, "t");
    worker_bed_publish(bed, "go", "t", n);
    for (unsigned i = 0; i < kills(); i++) {
        worker_bed_start(bed, NULL, NULL, NULL);
        for (long ms = nrand48(random) % 120; ms > 0; ms -= 2)
            wait_moment();
        process_kill(&bed->worker, SIGKILL);
    }
    worker_bed_up(bed);
    AWAIT_BED(bed, worker_bed_counter(bed, "count") >= n);
    worker_bed_settle(bed);
    assert_int_equal(worker_bed_counter(bed, "count"), n);
    assert_int_equal(workspace_count(&bed->workspace, "dead_letters"), 0);
    worker_bed_stop(bed);
    char line[512];
    snprintf(line, sizeof line, "test $(ls %s | sed 's/.*-//' | sort -u | wc -l) -eq %u", notes, n);
    assert_int_equal(system(line), 0);
    /* ThreadSanitizer has files of its own there while it starts. */
    WAIT_ELSE(system("! ls -d $TMPDIR/triggerflow-exec-* >/dev/null 2>&1") == 0,
              (void)!system("ls -lR $TMPDIR; ps -ef | grep triggerflow"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static int start_redis(void **state)
{
    (void)state;
    return redis_server_run(&redis, NULL);
}

static int stop_redis(void **state)
{
    (void)state;
    redis_server_done(&redis);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_reply),        TEST(test_json),    TEST(test_failure),
        TEST(test_time),         TEST(test_output),  TEST(test_memory_and_processes),
        TEST(test_beside),       TEST(test_refused), TEST(test_killed),
        TEST(test_random_kills),
    };
    if (!redis_server_available()) {
        puts("skipped: no redis-server");
        return 0;
    }
    return cmocka_run_group_tests(tests, start_redis, stop_redis);
}
