#include "tests/support/invoke_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"

#define SETTINGS_MAX 16
#define AT_ONCE 500

static const char *settings[SETTINGS_MAX];

struct invoke_bed *invoke_bed_new(struct redis_server *redis)
{
    struct invoke_bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    assert_non_null(bed->server = function_server_new());
    bed->worker = worker_bed_new(redis);
    return bed;
}

void invoke_bed_free(struct invoke_bed *bed)
{
    worker_bed_free(bed->worker);
    function_server_free(bed->server);
    free(bed);
    for (size_t i = 0; i < SETTINGS_MAX; i++) {
        if (settings[i])
            unsetenv(settings[i]);
        settings[i] = NULL;
    }
}

void invoke_bed_setting(const char *variable, const char *value)
{
    size_t i = 0;
    while (i < SETTINGS_MAX && settings[i] && strcmp(settings[i], variable) != 0)
        i++;
    assert_true(i < SETTINGS_MAX);
    settings[i] = variable;
    assert_int_equal(setenv(variable, value, 1), 0);
}

const char *invoke_bed_action(struct invoke_bed *bed, const char *path, const char *more)
{
    snprintf(bed->action, sizeof bed->action,
             "{\"name\":\"HTTP_INVOKE\",\"url\":\"http://127.0.0.1:%u%s\",\"backoff_s\":0.02%s}",
             function_server_port(bed->server), path, more);
    return bed->action;
}

void invoke_bed_trigger(struct invoke_bed *bed, const char *id, const char *subject, const char *path,
                        const char *more)
{
    worker_bed_trigger(bed->worker, id, "TRUE", "{}", invoke_bed_action(bed, path, more), "go", subject);
}

void invoke_bed_counter(struct invoke_bed *bed, const char *id, const char *type, const char *subject)
{
    worker_bed_trigger(bed->worker, id, "COUNTER_THRESHOLD", "{\"threshold\":1000000000}",
                       "{\"name\":\"PASS\"}", type, subject);
}

long long invoke_bed_count(const struct invoke_bed *bed, const char *id)
{
    return worker_bed_counter(bed->worker, id);
}

void invoke_bed_go(const struct invoke_bed *bed, const char *id, const char *subject, const char *data)
{
    assert_int_equal(workspace_publish_one(&bed->worker->workspace, "in", id, "go", subject, data), 0);
}

void invoke_bed_go_many(const struct invoke_bed *bed, const char *prefix, unsigned n)
{
    static char texts[AT_ONCE][64];
    struct publication events[AT_ONCE];
    for (unsigned i = 0; i < n; i++) {
        char *text = texts[i % AT_ONCE];
        snprintf(text, sizeof texts[0], "%.30s%u", prefix, i);
        events[i % AT_ONCE] = (struct publication){.id = text, .type = "go", .subject = text, .data = "{}"};
        if (i % AT_ONCE == AT_ONCE - 1 || i == n - 1)
            assert_int_equal(workspace_publish(&bed->worker->workspace, "in", events, i % AT_ONCE + 1), 0);
    }
}

char *invoke_bed_letters(const struct invoke_bed *bed)
{
    struct buffer text = BUFFER_INIT;
    redisReply *all =
        redis_server_do(bed->worker->redis, "HVALS %s-dead_letters", bed->worker->workspace.name);
    assert_non_null(all);
    assert_int_equal(all->type, REDIS_REPLY_ARRAY);
    for (size_t i = 0; i < all->elements; i++) {
        buffer_append(&text, all->element[i]->str, all->element[i]->len);
        buffer_append_char(&text, '\n');
    }
    freeReplyObject(all);
    char *copy = strdup(buffer_text(&text));
    buffer_done(&text);
    assert_non_null(copy);
    return copy;
}

void invoke_bed_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no %s in %s", part, text);
}
