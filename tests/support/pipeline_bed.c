#include "tests/support/pipeline_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/loop.h"
#include "worker/emission.h"
#include "worker/executor/executor.h"
#include "worker/report.h"
#include "worker/router.h"
#include "worker/shard/shard.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/shard/trigger.h"

static void must(int r, const struct error *err)
{
    if (r < 0)
        fail_msg("%s", err->message);
}

struct pipeline_bed *pipeline_bed_new(unsigned n_shards)
{
    struct pipeline_bed *bed = calloc(1, sizeof *bed);
    struct error err;
    int fd = -1;
    assert_non_null(bed);
    struct worker *w = &bed->worker;
    must(config_parse_yaml("test", "", 0, &bed->config, &err), &err);
    w->config = &bed->config;
    w->workspace = "bed";
    snprintf(w->creation, sizeof w->creation, "1.5");
    w->n_shards = n_shards;
    w->status_fd = w->signal_fd = w->watch_fd = w->watched_fd = -1;
    pthread_mutex_init(&w->lock, NULL);
    must(arena_create(&fd, &err), &err);
    must(arena_map(fd, &w->arena, &err), &err);
    close(fd);
    arena_reset(w->arena, 1);
    assert_non_null(w->loop = loop_new(&err));
    assert_non_null(w->report = report_new(w->arena, w->loop));
    assert_non_null(w->emissions = emissions_new());
    must(executor_new(w, &w->executor, &err), &err);
    must(internal_new(w, &w->sources[0], &err), &err);
    atomic_store(&w->n_rings, 1);
    return bed;
}

void pipeline_bed_free(struct pipeline_bed *bed)
{
    struct worker *w = &bed->worker;
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        if (w->sources[i]) {
            source_stop(w->sources[i]);
            source_join(w->sources[i]);
        }
    for (unsigned i = 0; i < w->n_shards; i++)
        shard_free(w->shards[i]);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        source_free(w->sources[i]);
    executor_free(w->executor);
    router_free(atomic_load(&w->router));
    for (size_t i = 0; i < bed->n_triggers; i++)
        trigger_free(bed->triggers[i]);
    emissions_free(w->emissions);
    report_free(w->report);
    loop_free(w->loop);
    arena_unmap(w->arena);
    pthread_mutex_destroy(&w->lock);
    config_done(&bed->config);
    free(bed);
}

struct trigger *pipeline_bed_trigger(struct pipeline_bed *bed, const char *id, const char *document)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct trigger *trigger;
    struct error err;
    assert_true(bed->n_triggers < BED_TRIGGERS);
    buffer_printf(&text, "{\"id\":\"%s\",\"uuid\":\"u-%s\",%s}", id, id, document);
    must(trigger_new(id, strlen(id), text.data, text.len, bed->worker.n_shards, &trigger, &err), &err);
    bed->triggers[bed->n_triggers++] = trigger;
    return trigger;
}

void pipeline_bed_route(struct pipeline_bed *bed)
{
    struct router *router;
    struct error err;
    must(router_new(bed->triggers, bed->n_triggers, bed->worker.n_shards, &router, &err), &err);
    router_free(atomic_exchange(&bed->worker.router, router));
}

struct source *pipeline_bed_source(struct pipeline_bed *bed, unsigned index)
{
    static const char document[] =
        "{\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"h\",\"stream\":\"s\"}}";
    char name[24];
    struct error err;
    struct source *s;
    int len = snprintf(name, sizeof name, "source-%u", index);
    must(source_new(&bed->worker, index, name, (size_t)len, document, sizeof document - 1, &s, &err), &err);
    bed->worker.sources[index] = s;
    s->filling_epoch = 1;
    if (atomic_load(&bed->worker.n_rings) <= index)
        atomic_store(&bed->worker.n_rings, index + 1);
    return s;
}

void pipeline_bed_start_shards(struct pipeline_bed *bed, uint64_t first_epoch)
{
    struct worker *w = &bed->worker;
    struct error err;
    for (unsigned i = 0; i < w->n_shards; i++) {
        must(shard_new(w, i, &w->shards[i], &err), &err);
        must(shard_start(w->shards[i], first_epoch, &err), &err);
    }
}

const struct change *pipeline_bed_change(const struct changes *changes, enum storage_set set,
                                         enum storage_op_kind kind, const char *key)
{
    const struct change *found = NULL;
    assert_false(changes->text.failed);
    for (size_t i = 0; i < changes->n; i++) {
        const struct change *c = &changes->items[i];
        if (c->set != set || c->kind != kind || c->key_len != strlen(key) ||
            memcmp(changes->text.data + c->key, key, c->key_len))
            continue;
        assert_null(found);
        found = c;
    }
    return found;
}

void pipeline_bed_assert_value(const struct changes *changes, const struct change *change, const char *value)
{
    assert_non_null(change);
    assert_int_equal(change->value_len, strlen(value));
    assert_memory_equal(changes->text.data + change->value, value, change->value_len);
}

size_t pipeline_bed_count(const struct changes *changes, enum storage_set set)
{
    size_t n = 0;
    for (size_t i = 0; i < changes->n; i++)
        n += changes->items[i].set == set;
    return n;
}
