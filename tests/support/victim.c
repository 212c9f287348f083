#include "tests/support/victim.h"

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

#include "tests/support/chance.h"
#include "tests/support/redis_server.h"
#include "tests/support/wait.h"

#define RUNNING "event=worker_state state=running"
#define SETTINGS_MOST 8

static struct redis_server server;
static char folder[64];

/* --- main --- */

int victim_open(int argc, char **argv, const char *name)
{
    if (!redis_server_available()) {
        printf("skipped: no redis-server\n");
        return 1;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    chance_read_settings();
    snprintf(folder, sizeof folder, "/tmp/triggerflow-%s-XXXXXX", name);
    return mkdtemp(folder) ? redis_server_run(&server, NULL) : -1;
}

int victim_close(int result)
{
    char line[128];
    redis_server_done(&server);
    snprintf(line, sizeof line, "rm -rf %s", folder);
    return system(line) == 0 ? result : 1;
}

struct redis_server *victim_redis(void)
{
    return &server;
}

/* --- lives --- */

void victim_init(struct victim *victim, struct redis_server *redis, const char *name,
                 const char *const *const *settings)
{
    struct victim *v = victim;
    char log[160];
    *v = (struct victim){.settings = settings};
    assert_int_equal(workspace_create(&v->workspace, redis, name), 0);
    redisReply *reply = redis_server_do(redis, "DEL %s", name);
    assert_non_null(reply);
    freeReplyObject(reply);
    assert_int_equal(workspace_source(&v->workspace, "in", name, ""), 0);
    snprintf(log, sizeof log, "%s/%s.log", folder, name);
    process_init(&v->worker, log);
    process_program("triggerflow-worker", v->program);
    snprintf(v->crash_file, sizeof v->crash_file, "%s/%s.crash", folder, name);
}

static const char *choose(const char *const *list)
{
    size_t n = 0;
    while (list[n])
        n++;
    return list[chance_below(n)];
}

void victim_start(struct victim *victim)
{
    static const char *const intervals[] = {"TRIGGERFLOW_CHECKPOINT_INTERVAL=0s",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=10ms",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=40ms", NULL};
    struct victim *v = victim;
    char port[32], shards[32], crash[200];
    const char *environment[SETTINGS_MOST + 6] = {"REDIS_HOST=127.0.0.1", port, shards, crash,
                                                  choose(intervals)};
    v->running_before = process_log_count(&v->worker, RUNNING);
    snprintf(port, sizeof port, "REDIS_PORT=%d", v->workspace.redis->port);
    snprintf(shards, sizeof shards, "TRIGGERFLOW_SHARDS=%u", 1 + (unsigned)chance_below(4));
    snprintf(crash, sizeof crash, "TRIGGERFLOW_CRASH_FILE=%s", v->crash_file);
    for (size_t i = 0; i < SETTINGS_MOST && v->settings[i]; i++)
        environment[5 + i] = choose(v->settings[i]);
    assert_int_equal(
        process_start(&v->worker, (const char *[]){v->program, v->workspace.name, NULL}, environment), 0);
}

void victim_show(const struct victim *victim)
{
    workspace_dump(&victim->workspace, victim->workspace.name);
    process_show_log(&victim->worker);
}

static void fail_if_ended(const struct victim *v, int status)
{
    if (status < 0)
        return;
    victim_show(v);
    fail_msg("the worker has ended by itself, status %d", status);
}

void victim_kill(struct victim *victim)
{
    int status = -1;
    if (process_ended(&victim->worker, &status))
        fail_if_ended(victim, status);
    process_kill(&victim->worker, SIGKILL);
    victim->killed++;
}

/* --- what it has come to --- */

bool victim_has_finished(const struct victim *victim)
{
    char *text = workspace_get(&victim->workspace, "checkpoint", "finished");
    bool has = text && strstr(text, "\"count\":");
    free(text);
    return has;
}

bool victim_is_settled(const struct victim *victim)
{
    return workspace_settled(&victim->workspace, "in", victim->workspace.name);
}

bool victim_is_done(const struct victim *victim)
{
    return victim_has_finished(victim) && victim_is_settled(victim);
}

bool victim_is_running(const struct victim *victim)
{
    return process_log_count(&victim->worker, RUNNING) > victim->running_before;
}

void victim_await(struct victim *victim, bool (*done)(const struct victim *victim))
{
    int status = -1;
    WAIT_ELSE(done(victim) || process_ended(&victim->worker, &status), victim_show(victim));
    fail_if_ended(victim, status);
}

void victim_kill_often(struct victim *victim, unsigned most, uint64_t life_ns)
{
    while (victim->killed < most && !victim_has_finished(victim)) {
        victim_start(victim);
        uint64_t until = clock_now_ns() + chance_below(life_ns);
        while (clock_now_ns() < until && !victim_has_finished(victim))
            wait_moment();
        victim_kill(victim);
    }
    victim_start(victim);
}

/* --- crash points --- */

void victim_crash_program(char ret_program[PATH_MAX])
{
    if (process_crash_program("triggerflow-worker", ret_program))
        return;
    printf("skipped: no %s (make SAN=crash)\n", ret_program);
    skip();
}

void victim_arm(const struct victim *victim, const char *point, unsigned count)
{
    FILE *file = fopen(victim->crash_file, "w");
    assert_non_null(file);
    fprintf(file, "%s %u\n", point, count);
    assert_int_equal(fclose(file), 0);
}

void victim_disarm(const struct victim *victim)
{
    (void)unlink(victim->crash_file);
}

bool victim_dies(struct victim *victim, bool (*done)(const struct victim *victim))
{
    int status = -1;
    WAIT_ELSE(process_ended(&victim->worker, &status) || done(victim), victim_show(victim));
    if (status < 0) { /* not reached so often */
        process_kill(&victim->worker, SIGKILL);
        return false;
    }
    if (status != 128 + SIGKILL)
        victim_show(victim);
    assert_int_equal(status, 128 + SIGKILL);
    victim->killed++;
    return true;
}

void victim_die_at(struct victim *victim, const char *point, const unsigned *counts, size_t n)
{
    bool reached = false;
    for (size_t i = 0; i < n; i++) {
        victim_arm(victim, point, counts[i]);
        victim_start(victim);
        reached |= victim_dies(victim, victim_is_done);
    }
    victim_disarm(victim);
    if (!reached)
        fail_msg("the crash point %s was never reached", point);
    victim_start(victim);
}
