#include "tests/support/worker_bed.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RUNNING "event=worker_state state=running"
#define AT_ONCE 500 /* events published in one go */

struct worker_bed *worker_bed_new(struct redis_server *redis)
{
    char log[96];
    struct worker_bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    bed->redis = redis;
    snprintf(bed->dir, sizeof bed->dir, "/tmp/triggerflow-worker-XXXXXX");
    assert_non_null(mkdtemp(bed->dir));
    snprintf(log, sizeof log, "%s/log", bed->dir);
    process_init(&bed->worker, log);
    process_program("triggerflow-worker", bed->program);
    redisReply *reply = redis_server_do(redis, "FLUSHALL");
    assert_non_null(reply);
    freeReplyObject(reply);
    assert_int_equal(workspace_create(&bed->workspace, redis, "ws"), 0);
    assert_int_equal(workspace_source(&bed->workspace, "in", "in", ""), 0);
    assert_int_equal(workspace_source(&bed->workspace, "out", "out", ",\"consume\":false"), 0);
    return bed;
}

void worker_bed_free(struct worker_bed *bed)
{
    char line[128];
    if (!bed)
        return;
    process_kill(&bed->worker, SIGKILL);
    if (getenv("TRIGGERFLOW_KEEP"))
        process_show_log(&bed->worker);
    snprintf(line, sizeof line, "rm -rf %s", bed->dir);
    if (system(line) != 0)
        perror(line);
    free(bed);
}

void worker_bed_show(const struct worker_bed *bed)
{
    workspace_dump(&bed->workspace, "in");
    process_show_log(&bed->worker);
}

static void put_trigger(const struct worker_bed *bed, const char *id, const char *condition,
                        const char *context, const char *action, const char *type, const char *subject,
                        bool transient)
{
    char name[64], activation[256];
    snprintf(name, sizeof name, "{\"name\":\"%s\"}", condition);
    snprintf(activation, sizeof activation, "{\"type\":\"%s\",\"subject\":\"%s\"}", type, subject);
    assert_int_equal(workspace_trigger(&bed->workspace, id, name, action, context, activation, transient), 0);
}

void worker_bed_trigger(const struct worker_bed *bed, const char *id, const char *condition,
                        const char *context, const char *action, const char *type, const char *subject)
{
    put_trigger(bed, id, condition, context, action, type, subject, false);
}

void worker_bed_transient(const struct worker_bed *bed, const char *id, const char *condition,
                          const char *context, const char *action, const char *type, const char *subject)
{
    put_trigger(bed, id, condition, context, action, type, subject, true);
}

void worker_bed_publish(const struct worker_bed *bed, const char *type, const char *subject, unsigned n)
{
    static char ids[AT_ONCE][64];
    struct publication events[AT_ONCE];
    for (unsigned i = 0; i < n; i++) {
        snprintf(ids[i % AT_ONCE], sizeof ids[0], "%.24s-%.24s-%u", type, subject, i);
        events[i % AT_ONCE] = (struct publication){.id = ids[i % AT_ONCE], .type = type, .subject = subject};
        if (i % AT_ONCE == AT_ONCE - 1 || i == n - 1)
            assert_int_equal(workspace_publish(&bed->workspace, "in", events, i % AT_ONCE + 1), 0);
    }
}

void worker_bed_start(struct worker_bed *bed, const char *option, const char *value, const char *setting)
{
    char port[32];
    const char *argv[6] = {bed->program};
    int n = 1;
    if (option)
        argv[n++] = option;
    if (value)
        argv[n++] = value;
    argv[n] = "ws";
    snprintf(port, sizeof port, "REDIS_PORT=%d", bed->redis->port);
    bed->running_before = process_log_count(&bed->worker, RUNNING);
    const char *environment[] = {"REDIS_HOST=127.0.0.1", port,    "TRIGGERFLOW_TRIGGER_REFRESH=200ms",
                                 "TRIGGERFLOW_SHARDS=2", setting, NULL};
    assert_int_equal(process_start(&bed->worker, argv, environment), 0);
}

int worker_bed_run(struct worker_bed *bed, const char *const *arguments)
{
    char port[32];
    const char *argv[16] = {bed->program};
    for (int n = 1; *arguments && n < 15; arguments++)
        argv[n++] = *arguments;
    snprintf(port, sizeof port, "REDIS_PORT=%d", bed->redis->port);
    assert_int_equal(process_start(&bed->worker, argv, (const char *[]){"REDIS_HOST=127.0.0.1", port, NULL}),
                     0);
    return worker_bed_end(bed);
}

bool worker_bed_running(const struct worker_bed *bed)
{
    return process_log_count(&bed->worker, RUNNING) > bed->running_before;
}

void worker_bed_up(struct worker_bed *bed)
{
    worker_bed_start(bed, NULL, NULL, NULL);
    AWAIT_BED(bed, worker_bed_running(bed));
}

int worker_bed_end(struct worker_bed *bed)
{
    int status = process_wait(&bed->worker, WAIT_DEADLINE_NS);
    if (status < 0) {
        worker_bed_show(bed);
        fail_msg("the worker does not end");
    }
    return status;
}

void worker_bed_stop(struct worker_bed *bed)
{
    AWAIT_BED(bed, worker_bed_running(bed));
    kill(bed->worker.pid, SIGTERM);
    int status = worker_bed_end(bed);
    if (status)
        worker_bed_show(bed);
    assert_int_equal(status, 0);
}

bool worker_bed_logged(const struct worker_bed *bed, const char *text)
{
    return process_log_has(&bed->worker, text);
}

bool worker_bed_settled(const struct worker_bed *bed)
{
    return workspace_settled(&bed->workspace, "in", "in");
}

void worker_bed_settle(const struct worker_bed *bed)
{
    AWAIT_BED(bed, worker_bed_settled(bed));
}

long long worker_bed_counter(const struct worker_bed *bed, const char *trigger)
{
    return workspace_context(&bed->workspace, trigger, "counter");
}

const char *worker_bed_entry(const struct worker_bed *bed, const char *stream, unsigned n,
                             const char *attribute)
{
    static char *text;
    redisReply *all = redis_server_do(bed->redis, "XRANGE %s - + COUNT %u", stream, n + 1);
    free(text);
    text = NULL;
    if (all && all->type == REDIS_REPLY_ARRAY && all->elements == n + 1) {
        const redisReply *fields = all->element[n]->element[1];
        for (size_t i = 0; i + 1 < fields->elements; i += 2)
            if (!strcmp(fields->element[i]->str, attribute) && !text)
                text = strdup(fields->element[i + 1]->str);
    }
    if (all)
        freeReplyObject(all);
    return text ? text : "";
}
