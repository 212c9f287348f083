/* Shards: what a cut holds, barriers from several sources in every order, and whole epochs under load against
 * a sequential model (counters, firings, emissions, dead letters). */
#include "worker/shard/shard.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "tests/support/fake_checkpoint.h"
#include "tests/support/pipeline_bed.h"
#include "worker/executor/intent.h"
#include "worker/record.h"
#include "worker/router.h"
#include "worker/source/internal.h"
#include "worker/source/source.h"
#include "worker/shard/trigger.h"

#define DEADLINE_NS (120 * CLOCK_S)

static struct cloudevent_span span(const char *text)
{
    return (struct cloudevent_span){text, (uint32_t)strlen(text)};
}

static struct cloudevent event_of(const char *type, const char *subject, const char *id)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_SPECVERSION] = span("1.0");
    event.attribute[CE_ID] = span(id);
    event.attribute[CE_SOURCE] = span("urn:test");
    event.attribute[CE_TYPE] = span(type);
    if (subject)
        event.attribute[CE_SUBJECT] = span(subject);
    return event;
}

static struct cloudevent with_data(struct cloudevent event, const char *json)
{
    event.data = CE_DATA_JSON;
    event.attribute[CE_DATA] = span(json);
    return event;
}

/* Hands one event over as a batch of its own. */
static void deliver(struct source *s, const struct cloudevent *event, uint64_t position)
{
    source_begin_batch(s);
    assert_int_equal(source_deliver(s, event, (uint64_t[2]){position, 0}, event->attribute[CE_KEY].text), 0);
    source_end_batch(s);
}

static void send(struct source *s, const char *type)
{
    struct cloudevent event = event_of(type, NULL, "1");
    deliver(s, &event, 1);
}

/* Who places barriers brings the shards to look at them. */
static void help_shards(struct worker *w)
{
    for (unsigned i = 0; i < w->n_shards; i++)
        shard_help(w->shards[i]);
}

static void barrier(struct source *s, uint64_t epoch, uint32_t mask)
{
    pthread_mutex_lock(&s->emit);
    source_barrier(s, epoch, mask);
    pthread_mutex_unlock(&s->emit);
    help_shards(s->worker);
}

static void wait_events(struct pipeline_bed *bed, unsigned shard, uint64_t n)
{
    uint64_t until = clock_now_ns() + DEADLINE_NS;
    while (arena_get(&bed->worker.arena->shard[shard].events) < n) {
        assert_true(clock_now_ns() < until);
        sched_yield();
    }
    assert_int_equal(arena_get(&bed->worker.arena->shard[shard].events), n);
}

static struct shard_cut *cut_of(struct pipeline_bed *bed, unsigned shard, uint64_t epoch)
{
    return shard_cut(bed->worker.shards[shard], epoch);
}

static void take_intents(struct shard_cut *cut)
{
    intent_free_list(cut->intents);
    cut->intents = NULL;
    cut->intents_end = &cut->intents;
}

/* One epoch of a bed with one source, from barrier to cut. */
static struct shard_cut *epoch(struct pipeline_bed *bed, uint64_t number)
{
    struct source *s = bed->worker.sources[1];
    uint64_t before = fake_checkpoint_get(&fake_checkpoint.cuts);
    barrier(s, number, 1u << 1);
    fake_checkpoint_wait(&fake_checkpoint.cuts, before + bed->worker.n_shards);
    return cut_of(bed, 0, number);
}

static struct pipeline_bed *bed_with(const char *const *triggers, size_t n)
{
    struct pipeline_bed *bed = pipeline_bed_new(1);
    char id[24];
    fake_checkpoint_reset();
    for (size_t i = 0; i < n; i++) {
        snprintf(id, sizeof id, "t%zu", i);
        pipeline_bed_trigger(bed, id, triggers[i]);
    }
    pipeline_bed_route(bed);
    pipeline_bed_source(bed, 1);
    pipeline_bed_start_shards(bed, 1);
    return bed;
}

#define JOIN(n, type)                                                                          \
    "\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},\"context\":{\"x\":[1, " \
    "2],\"join\":" #n "},\"activation_events\":[{\"type\":\"" type "\"}]"
#define TRUE_(action, more, type)                                                 \
    "\"condition\":{\"name\":\"TRUE\"},\"action\":" action ",\"context\":{}" more \
    ",\"activation_events\":[{\"type\":\"" type "\"}]"
#define PASS "{\"name\":\"PASS\"}"
#define ECHO "{\"name\":\"EMIT\",\"event\":{\"type\":\"echo\"}}"
#define OUT "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"sent\"}}"

static void assert_document(const struct changes *changes, const char *id, const char *before_time)
{
    const struct change *c = pipeline_bed_change(changes, STORAGE_TRIGGERS, STORAGE_PUT_IF, id);
    assert_non_null(c);
    size_t len = strlen(before_time);
    assert_true(c->value_len > len);
    assert_memory_equal(changes->text.data + c->value, before_time, len);
    assert_int_equal(c->value_len, len + strlen(",\"timestamp\":\"2020-10-20T13:00:00.000000Z\"}"));
}

/* What changed, and only that, is in the cut; the next cut starts from nothing. */
static void test_cut(void **state)
{
    (void)state;
    static const char *const triggers[] = {JOIN(2, "a"), JOIN(5, "b"), JOIN(1, "c")};
    struct pipeline_bed *bed = bed_with(triggers, 3);
    struct source *s = bed->worker.sources[1];
    send(s, "a");
    send(s, "a");
    send(s, "a");
    send(s, "b");
    struct shard_cut *cut = epoch(bed, 1);
    assert_int_equal(cut->documents, 2);
    assert_int_equal(cut->fired, 1);
    assert_int_equal(cut->finished, 0);
    assert_false(cut->gone);
    assert_null(cut->intents);
    assert_int_equal(cut->changes.n, 3);
    assert_document(
        &cut->changes, "t0",
        "{\"id\":\"t0\",\"uuid\":\"u-t0\",\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},"
        "\"activation_events\":[{\"type\":\"a\"}],\"context\":{\"counter\":3,\"x\":[1, 2],\"join\":2}");
    assert_document(
        &cut->changes, "t1",
        "{\"id\":\"t1\",\"uuid\":\"u-t1\",\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},"
        "\"activation_events\":[{\"type\":\"b\"}],\"context\":{\"counter\":1,\"x\":[1, 2],\"join\":5}");
    const struct change *c = pipeline_bed_change(&cut->changes, STORAGE_TRIGGERS, STORAGE_PUT_IF, "t0");
    assert_int_equal(c->uuid_len, 4);
    assert_memory_equal(cut->changes.text.data + c->uuid, "u-t0", 4);
    pipeline_bed_assert_value(
        &cut->changes, pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_PUT, "fired:u-t0"),
        "1");

    assert_int_equal(epoch(bed, 2)->changes.n, 0);
    send(s, "a"); /* changed, but not fired */
    cut = epoch(bed, 3);
    assert_int_equal(cut->changes.n, 1);
    assert_int_equal(cut->fired, 0);
    assert_non_null(pipeline_bed_change(&cut->changes, STORAGE_TRIGGERS, STORAGE_PUT_IF, "t0"));
    assert_int_equal(arena_get(&bed->worker.arena->shard[0].events), 5);
    assert_int_equal(arena_get(&bed->worker.arena->shard[0].evaluated), 5);
    assert_int_equal(arena_get(&bed->worker.arena->shard[0].fired), 1);
    assert_int_equal(atomic_load(&bed->worker.arena->thread[ARENA_THREAD_SHARD].event_set), 0);
    pipeline_bed_free(bed);
}

/* An event that matches a trigger in several ways activates it once; a trigger without state is not written.
 */
static void test_activates_once(void **state)
{
    (void)state;
    static const char *const triggers[] = {
        "\"condition\":{\"name\":\"COUNTER_THRESHOLD\"},\"action\":" PASS ",\"context\":{\"threshold\":2},"
        "\"activation_events\":[{\"type\":\"a\",\"subject\":\"s\"},{\"type\":\"*\",\"subject\":\"s\"},"
        "{\"type\":\"a\",\"subject\":\"*\"},{\"type\":\"*\",\"subject\":\"*\"},{\"type\":\"a\",\"subject\":"
        "\"s\"}]",
        TRUE_(PASS, "", "*")};
    struct pipeline_bed *bed = bed_with(triggers, 2);
    struct source *s = bed->worker.sources[1];
    struct cloudevent event = event_of("a", "s", "1");
    for (uint64_t i = 1; i <= 3; i++)
        deliver(s, &event, i);
    event = event_of("a", NULL, "1"); /* an absent subject is the empty one */
    deliver(s, &event, 4);
    struct shard_cut *cut = epoch(bed, 1);
    assert_int_equal(cut->documents, 1);
    assert_int_equal(cut->fired, 4); /* the threshold at 2, 3 and 4, TRUE for the one without a subject */
    pipeline_bed_assert_value(
        &cut->changes, pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_PUT, "fired:u-t0"),
        "3");
    pipeline_bed_assert_value(
        &cut->changes, pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_PUT, "fired:u-t1"),
        "1");
    assert_int_equal(cut->changes.n, 3);
    pipeline_bed_free(bed);
}

/* Keys count once, in the same epoch and in a later one; other conditions do not look at them. */
static void test_keys(void **state)
{
    (void)state;
    static const char *const triggers[] = {JOIN(10, "a"), TRUE_(PASS, "", "a")};
    struct pipeline_bed *bed = bed_with(triggers, 2);
    struct source *s = bed->worker.sources[1];
    static const char *const keys[] = {"k1", "k2", "k1", NULL, NULL};
    struct cloudevent event = event_of("a", NULL, "1");
    for (size_t i = 0; i < 5; i++) {
        event.attribute[CE_KEY] = keys[i] ? span(keys[i]) : (struct cloudevent_span){0};
        deliver(s, &event, i);
    }
    struct shard_cut *cut = epoch(bed, 1);
    assert_non_null(strstr(buffer_text(&cut->changes.text), "\"counter\":4"));
    assert_int_equal(cut->fired, 5);
    const struct change *c =
        pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_PUT, "keys:u-t0:1");
    assert_non_null(c);
    assert_int_equal(c->value_len, 64);
    event.attribute[CE_KEY] = span("k2");
    deliver(s, &event, 6);
    event.attribute[CE_KEY] = span("k3");
    deliver(s, &event, 7);
    cut = epoch(bed, 2);
    assert_non_null(strstr(buffer_text(&cut->changes.text), "\"counter\":5"));
    c = pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_PUT, "keys:u-t0:2");
    assert_non_null(c);
    assert_int_equal(c->value_len, 32);
    pipeline_bed_free(bed);
}

static void test_transient(void **state)
{
    (void)state;
    static const char *const triggers[] = {TRUE_(PASS, ",\"transient\":true", "a"), JOIN(9, "b")};
    struct pipeline_bed *bed = bed_with(triggers, 2);
    struct source *s = bed->worker.sources[1];
    send(s, "a");
    send(s, "a"); /* nobody is left for it */
    struct shard_cut *cut = epoch(bed, 1);
    assert_int_equal(cut->fired, 1);
    assert_true(cut->gone);
    assert_true(atomic_load(&bed->triggers[0]->gone));
    const struct change *c = pipeline_bed_change(&cut->changes, STORAGE_TRIGGERS, STORAGE_DELETE_IF, "t0");
    assert_non_null(c);
    assert_int_equal(c->uuid_len, 4);
    assert_memory_equal(cut->changes.text.data + c->uuid, "u-t0", 4);
    c = pipeline_bed_change(&cut->changes, STORAGE_DEAD_LETTERS, STORAGE_PUT, "");
    assert_non_null(c);
    assert_non_null(strstr(buffer_text(&cut->changes.text), "{\"reason\":\"no_trigger\""));
    assert_non_null(strstr(buffer_text(&cut->changes.text), "\"source\":\"source-1\",\"position\":\"1-0\""));
    assert_int_equal(cut->changes.n, 2);
    assert_int_equal(arena_get(&bed->worker.arena->shard[0].dead_letters), 1);
    assert_false(epoch(bed, 2)->gone);
    pipeline_bed_free(bed);
}

/* What is stored of a transient trigger goes with it. */
static void test_transient_leaves_nothing(void **state)
{
    (void)state;
    static const char *const triggers[] = {
        "\"transient\":true,\"condition\":{\"name\":\"JOIN\"},\"action\":" PASS ",\"context\":{\"join\":2},"
        "\"activation_events\":[{\"type\":\"a\"}]"};
    struct pipeline_bed *bed = bed_with(triggers, 1);
    struct source *s = bed->worker.sources[1];
    struct cloudevent event = event_of("a", NULL, "1");
    event.attribute[CE_KEY] = span("one");
    bed->triggers[0]->firings = 4; /* as after a recovery */
    deliver(s, &event, 1);
    struct shard_cut *cut = epoch(bed, 1);
    assert_non_null(pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_PUT, "keys:u-t0:1"));
    event.attribute[CE_KEY] = span("two");
    deliver(s, &event, 2);
    cut = epoch(bed, 2);
    assert_int_equal(cut->changes.n, 3);
    assert_non_null(pipeline_bed_change(&cut->changes, STORAGE_TRIGGERS, STORAGE_DELETE_IF, "t0"));
    assert_non_null(pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_DELETE, "keys:u-t0:1"));
    assert_non_null(pipeline_bed_change(&cut->changes, STORAGE_CHECKPOINT, STORAGE_DELETE, "fired:u-t0"));
    pipeline_bed_free(bed);
}

static void test_terminate(void **state)
{
    (void)state;
    static const char *const triggers[] = {TRUE_("{\"name\":\"TERMINATE\"}", "", "a")};
    struct pipeline_bed *bed = bed_with(triggers, 1);
    send(bed->worker.sources[1], "a");
    send(bed->worker.sources[1], "a");
    struct shard_cut *cut = epoch(bed, 1);
    assert_int_equal(cut->finished, 2);
    assert_string_equal(cut->finished_trigger, "t0");
    assert_int_equal(fake_checkpoint_get(&fake_checkpoint.intents), 2); /* an epoch is due at once */
    assert_int_equal(epoch(bed, 2)->finished, 0);
    pipeline_bed_free(bed);
}

/* Larger than a ring takes: through the heap, and in order. */
static void test_large(void **state)
{
    (void)state;
    static const char *const triggers[] = {TRUE_(OUT, "", "a")};
    struct pipeline_bed *bed = bed_with(triggers, 1);
    struct source *s = bed->worker.sources[1];
    BUFFER_AUTO data = BUFFER_INIT;
    for (uint64_t i = 0; i < 20; i++) {
        buffer_reset(&data, SIZE_MAX);
        buffer_printf(&data, "[%llu,\"", (unsigned long long)i);
        memset(buffer_reserve(&data, RING_MAX_RECORD), 'x', RING_MAX_RECORD);
        data.len += i % 2 ? RING_MAX_RECORD : 10;
        buffer_append_text(&data, "\"]");
        struct cloudevent event = with_data(event_of("a", NULL, "1"), buffer_text(&data));
        deliver(s, &event, i);
    }
    struct shard_cut *cut = epoch(bed, 1);
    struct intent *intent = cut->intents;
    for (uint64_t i = 0; i < 20; i++, intent = intent->next) {
        char start[32];
        assert_non_null(intent);
        snprintf(start, sizeof start, "\"data\":[%llu,\"x", (unsigned long long)i);
        assert_non_null(strstr(intent->text, start));
        assert_int_equal(intent->len > RING_MAX_RECORD, i % 2);
    }
    assert_null(intent);
    take_intents(cut);
    pipeline_bed_free(bed);
}

/* Intents are stored under their field, numbered within the epoch; a replay gives each firing the same key.
 */
static void test_intents(void **state)
{
    (void)state;
    static const char *const triggers[] = {TRUE_(OUT, "", "a")};
    char keys[2][4][ACTION_KEY_MAX];
    for (int life = 0; life < 2; life++) {
        struct pipeline_bed *bed = bed_with(triggers, 1);
        unsigned n = 0;
        for (uint64_t e = 1; e <= 2; e++) {
            send(bed->worker.sources[1], "a");
            send(bed->worker.sources[1], "a");
            struct shard_cut *cut = epoch(bed, e);
            unsigned i = 0;
            for (struct intent *intent = cut->intents; intent; intent = intent->next, i++) {
                char field[INTENT_FIELD_MAX];
                snprintf(field, sizeof field, "%020llu-00-%08u", (unsigned long long)e, i);
                assert_string_equal(intent->field, field);
                assert_string_equal(intent->action->name, "EMIT");
                pipeline_bed_assert_value(
                    &cut->changes, pipeline_bed_change(&cut->changes, STORAGE_OUTBOX, STORAGE_PUT, field),
                    intent->text);
                assert_int_equal(strlen(intent->key), ACTION_KEY_MAX - 1);
                memcpy(keys[life][n++], intent->key, ACTION_KEY_MAX);
            }
            assert_int_equal(i, 2);
            assert_int_equal(pipeline_bed_count(&cut->changes, STORAGE_OUTBOX), 2);
            take_intents(cut);
        }
        assert_int_equal(fake_checkpoint_get(&fake_checkpoint.intents), 4);
        pipeline_bed_free(bed);
    }
    assert_memory_equal(keys[0], keys[1], sizeof keys[0]);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(keys[0][i], keys[0][j]);
}

/* Keys differ when the trigger or the workspace is another one. */
static void test_key_depends(void **state)
{
    (void)state;
    static const char *const triggers[] = {TRUE_(OUT, "", "a"), TRUE_(OUT, "", "a")};
    char keys[4][ACTION_KEY_MAX];
    unsigned n = 0;
    for (int life = 0; life < 2; life++) {
        struct pipeline_bed *bed = bed_with(triggers, 2);
        if (life)
            snprintf(bed->worker.creation, sizeof bed->worker.creation, "1.6");
        send(bed->worker.sources[1], "a");
        struct shard_cut *cut = epoch(bed, 1);
        for (struct intent *intent = cut->intents; intent; intent = intent->next)
            memcpy(keys[n++], intent->key, ACTION_KEY_MAX);
        take_intents(cut);
        pipeline_bed_free(bed);
    }
    assert_int_equal(n, 4);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(keys[i], keys[j]);
}

/* --- barriers from several sources --- */

#define SOURCES 4

static void swap(unsigned *a, unsigned *b)
{
    unsigned t = *a;
    *a = *b;
    *b = t;
}

/* Source i sends i+1 events before its barrier and two behind it. Nothing behind a barrier is touched before
 * all barriers are there, and no cut is made before. */
static void barriers_in_order(struct pipeline_bed *bed, const unsigned order[SOURCES], uint64_t number)
{
    uint32_t mask = 0;
    uint64_t events = arena_get(&bed->worker.arena->shard[0].events);
    uint64_t cuts = fake_checkpoint_get(&fake_checkpoint.cuts);
    for (unsigned i = 0; i < SOURCES; i++)
        mask |= 1u << (i + 1);
    for (unsigned i = 0; i < SOURCES; i++) {
        struct source *s = bed->worker.sources[order[i] + 1];
        for (unsigned j = 0; j <= order[i]; j++)
            send(s, "a");
        events += order[i] + 1;
        wait_events(bed, 0, events);
        assert_int_equal(fake_checkpoint_get(&fake_checkpoint.cuts), cuts);
        barrier(s, number, mask);
        if (i + 1 < SOURCES) {
            send(s, "a");
            send(s, "a");
        }
    }
    fake_checkpoint_wait(&fake_checkpoint.cuts, cuts + 1);
    events += (SOURCES - 1) * 2;
    wait_events(bed, 0, events);
    assert_int_equal(fake_checkpoint_get(&fake_checkpoint.cuts), cuts + 1);
}

static void assert_counter(struct pipeline_bed *bed, uint64_t number, uint64_t counter)
{
    char text[64];
    struct shard_cut *cut = cut_of(bed, 0, number);
    const struct change *c = pipeline_bed_change(&cut->changes, STORAGE_TRIGGERS, STORAGE_PUT_IF, "t0");
    assert_non_null(c);
    snprintf(text, sizeof text, "\"counter\":%llu,", (unsigned long long)counter);
    assert_non_null(memmem(cut->changes.text.data + c->value, c->value_len, text, strlen(text)));
}

static void each_order(struct pipeline_bed *bed, unsigned order[SOURCES], unsigned from, uint64_t *number)
{
    enum { BEFORE = 1 + 2 + 3 + 4, BEHIND = (SOURCES - 1) * 2 };
    if (from == SOURCES) {
        ++*number;
        barriers_in_order(bed, order, *number);
        assert_counter(bed, *number, *number * BEFORE + (*number - 1) * BEHIND);
        return;
    }
    for (unsigned i = from; i < SOURCES; i++) {
        swap(&order[from], &order[i]);
        each_order(bed, order, from + 1, number);
        swap(&order[from], &order[i]);
    }
}

static void test_every_order(void **state)
{
    (void)state;
    static const char *const triggers[] = {JOIN(1000000, "a")};
    struct pipeline_bed *bed = bed_with(triggers, 1);
    unsigned order[SOURCES] = {0, 1, 2, 3};
    uint64_t number = 0;
    for (unsigned i = 1; i < SOURCES; i++)
        pipeline_bed_source(bed, i + 1);
    each_order(bed, order, 0, &number);
    assert_int_equal(number, 24);
    pipeline_bed_free(bed);
}

/* A source may be absent from an epoch (it is starting), and take part in the next one. */
static void test_source_joins(void **state)
{
    (void)state;
    static const char *const triggers[] = {JOIN(1000000, "a")};
    struct pipeline_bed *bed = bed_with(triggers, 1);
    pipeline_bed_source(bed, 2);
    send(bed->worker.sources[1], "a");
    send(bed->worker.sources[2], "a");
    wait_events(bed, 0, 2);
    epoch(bed, 1); /* source 1 alone */
    assert_counter(bed, 1, 2);
    send(bed->worker.sources[2], "a");
    wait_events(bed, 0, 3); /* not held up by the barrier of the other one */
    barrier(bed->worker.sources[1], 2, 6);
    send(bed->worker.sources[1], "a");
    send(bed->worker.sources[2], "a");
    wait_events(bed, 0, 4);
    barrier(bed->worker.sources[2], 2, 6);
    fake_checkpoint_wait(&fake_checkpoint.cuts, 2);
    assert_counter(bed, 2, 4);
    wait_events(bed, 0, 5);
    pipeline_bed_free(bed);
}

/* --- whole epochs under load, against a sequential model --- */

enum { TYPES = 5, COUNTERS = 18, EPOCHS = 60, BURST = 120, MAX_LOAD_SOURCES = 6 };

/* One source of the load, and what it has delivered. Requires: the source's emit lock. */
struct load {
    struct source *source;
    pthread_t thread;
    uint64_t random;
    uint64_t n;
    uint64_t of_type[TYPES + 1]; /* the last one: without a trigger */
    _Atomic bool *stop;
    _Atomic uint64_t allowed; /* raised before each epoch, so that its barriers fall into a burst */
};

/* The model: what has been delivered up to the barriers. */
struct model {
    struct pipeline_bed *bed;
    struct load loads[MAX_LOAD_SOURCES + 1];
    unsigned n_sources;
    uint64_t of_type[TYPES + 1];
    uint64_t n;                               /* external events with a trigger: each is echoed once */
    uint64_t counters[COUNTERS];              /* at the last cut */
    uint64_t letters;                         /* of all epochs */
    uint64_t echoes;                          /* counted by the trigger that listens to echoes */
    uint64_t delivered[MAX_LOAD_SOURCES + 1]; /* per source, at the last barriers */
    bool *pending;                            /* internal events in storage, by number */
    size_t pending_cap;
    uint64_t n_pending;
    uint64_t sequence[MAX_LOAD_SOURCES + 1]; /* the last echo of a source that came to be stored */
    uint64_t intents;
};

static uint64_t mix(uint64_t *random)
{
    uint64_t z = (*random += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Counter k counts type k % TYPES, those from 15 on everything. */
static bool counts(unsigned k, unsigned type)
{
    return type < TYPES && (k >= 15 || k % TYPES == type);
}

static uint64_t target_of(unsigned k)
{
    return 100 + 200 * (uint64_t)k;
}

static void add_load_triggers(struct pipeline_bed *bed)
{
    char id[16];
    char text[400];
    for (unsigned k = 0; k < COUNTERS; k++) {
        bool join = k % 2;
        char type[TYPES * 24] = "";
        for (unsigned j = 0; j < TYPES; j++)
            if (counts(k, j))
                snprintf(type + strlen(type), sizeof type - strlen(type), "%s{\"type\":\"type-%u\"}",
                         type[0] ? "," : "", j);
        snprintf(id, sizeof id, "c%u", k);
        snprintf(text, sizeof text,
                 "\"condition\":{\"name\":\"%s\"},\"action\":" PASS ",\"context\":{\"%s\":%llu},"
                 "\"activation_events\":[%s]",
                 join ? "JOIN" : "COUNTER_THRESHOLD", join ? "join" : "threshold",
                 (unsigned long long)target_of(k), type);
        pipeline_bed_trigger(bed, id, text);
    }
    pipeline_bed_trigger(
        bed, "echo",
        "\"condition\":{\"name\":\"TRUE\"},\"action\":" ECHO ",\"context\":{},\"activation_events\":["
        "{\"type\":\"type-0\"},{\"type\":\"type-1\"},{\"type\":\"type-2\"},{\"type\":\"type-3\"},"
        "{\"type\":\"type-4\"}]");
    pipeline_bed_trigger(bed, "echoes", JOIN(1000000000, "echo"));
    pipeline_bed_trigger(bed, "out", TRUE_(OUT, "", "type-3"));
}

static void *play(void *data)
{
    struct load *l = data;
    BUFFER_AUTO text = BUFFER_INIT;
    char type[16];
    while (!atomic_load(l->stop)) {
        if (l->n >= atomic_load(&l->allowed)) {
            sched_yield();
            continue;
        }
        source_begin_batch(l->source);
        for (uint64_t left = 1 + mix(&l->random) % 40; left; left--) {
            unsigned t = (unsigned)(mix(&l->random) % 200);
            t = t ? t % TYPES : TYPES;
            snprintf(type, sizeof type, "type-%u", t);
            size_t padding = mix(&l->random) % 300 ? mix(&l->random) % 400 : 70000;
            buffer_reset(&text, SIZE_MAX);
            buffer_printf(&text, "[%u,%llu,\"", l->source->index, (unsigned long long)l->n + 1);
            memset(buffer_reserve(&text, padding), 'p', padding);
            text.len += padding;
            buffer_append_text(&text, "\"]");
            struct cloudevent event = with_data(event_of(type, NULL, "1"), buffer_text(&text));
            source_deliver(l->source, &event, (uint64_t[2]){l->n + 1, 0}, false);
            l->of_type[t]++;
            l->n += t < TYPES;
        }
        source_end_batch(l->source);
        if (mix(&l->random) % 4 == 0)
            sched_yield();
    }
    return NULL;
}

/* Places the barriers in this epoch's order; notes what each source has delivered. */
static void place_barriers(struct model *m, uint64_t number, uint64_t *random)
{
    unsigned order[MAX_LOAD_SOURCES + 1];
    uint32_t mask = 0;
    BUFFER_AUTO position = BUFFER_INIT;
    memset(m->of_type, 0, sizeof m->of_type);
    m->n = 0;
    for (unsigned i = 0; i <= m->n_sources; i++) {
        mask |= 1u << i;
        order[i] = i;
        swap(&order[i], &order[mix(random) % (i + 1)]);
    }
    for (unsigned i = 0; i <= m->n_sources; i++) {
        struct source *s = m->bed->worker.sources[order[i]];
        struct load *l = &m->loads[order[i]];
        pthread_mutex_lock(&s->emit);
        if (order[i] == 0)
            s->type->position(s, &position);
        source_barrier(s, number, mask);
        for (unsigned t = 0; t <= TYPES; t++)
            m->of_type[t] += l->of_type[t];
        m->n += l->n;
        m->delivered[order[i]] = l->n;
        pthread_mutex_unlock(&s->emit);
    }
    help_shards(&m->bed->worker);
}

static uint64_t counter_in(const struct changes *changes, const struct change *c)
{
    struct json_value root;
    struct json_value value;
    int64_t counter = -1;
    assert_int_equal(json_scan(changes->text.data + c->value, c->value_len, &root, NULL), 0);
    assert_true(json_member(&root, "context", &value) && json_member(&value, "counter", &root));
    assert_true(json_integer(&root, &counter));
    return (uint64_t)counter;
}

static uint64_t field_number(const struct changes *changes, const char *field)
{
    const struct change *c = pipeline_bed_change(changes, STORAGE_CHECKPOINT, STORAGE_PUT, field);
    char text[24] = "";
    if (!c)
        return 0;
    assert_true(c->value_len < sizeof text);
    memcpy(text, changes->text.data + c->value, c->value_len);
    return strtoull(text, NULL, 10);
}

/* JOIN fires once, at its target; THRESHOLD each time from its target on. */
static uint64_t firings(unsigned k, uint64_t counter)
{
    if (counter < target_of(k))
        return 0;
    return k % 2 ? 1 : counter - target_of(k) + 1;
}

static void check_counters(struct model *m, uint64_t number)
{
    for (unsigned k = 0; k < COUNTERS; k++) {
        struct trigger *t = m->bed->triggers[k];
        const struct changes *changes = &cut_of(m->bed, t->shard, number)->changes;
        const struct change *c = pipeline_bed_change(changes, STORAGE_TRIGGERS, STORAGE_PUT_IF, t->id);
        uint64_t expected = 0;
        char field[32];
        for (unsigned j = 0; j < TYPES; j++)
            expected += counts(k, j) ? m->of_type[j] : 0;
        assert_int_equal(c != NULL, expected != m->counters[k]);
        if (c)
            assert_int_equal(counter_in(changes, c), expected);
        snprintf(field, sizeof field, "fired:u-%s", t->id);
        bool fired = firings(k, expected) != firings(k, m->counters[k]);
        assert_int_equal(field_number(changes, field), fired ? firings(k, expected) : 0);
        m->counters[k] = expected;
    }
}

static struct trigger *trigger_named(struct pipeline_bed *bed, const char *id)
{
    for (size_t i = 0; i < bed->n_triggers; i++)
        if (!strcmp(bed->triggers[i]->id, id))
            return bed->triggers[i];
    fail_msg("no trigger %s", id);
    return NULL;
}

static void set_pending(struct model *m, uint64_t number, bool pending)
{
    if (number >= m->pending_cap) {
        size_t cap = (number + 1) * 2;
        m->pending = realloc(m->pending, cap * sizeof *m->pending);
        assert_non_null(m->pending);
        memset(m->pending + m->pending_cap, 0, (cap - m->pending_cap) * sizeof *m->pending);
        m->pending_cap = cap;
    }
    assert_int_equal(m->pending[number], !pending); /* stored once, removed once */
    m->pending[number] = pending;
    m->n_pending += pending ? 1u : (uint64_t)-1;
}

/* A pending echo must be a later one of its source than those seen before, and of an event before the
 * barrier. */
static void check_echo(struct model *m, const char *json, size_t len)
{
    struct json_value root;
    struct json_value data;
    struct json_value value[2];
    struct json_iter iter;
    struct json_value name;
    int64_t source;
    int64_t sequence;
    assert_int_equal(json_scan(json, len, &root, NULL), 0);
    assert_true(json_member(&root, "data", &data));
    json_iter_init(&iter, &data);
    assert_true(json_next(&iter, &name, &value[0]) && json_integer(&value[0], &source));
    assert_true(json_next(&iter, &name, &value[1]) && json_integer(&value[1], &sequence));
    assert_in_range(source, 1, m->n_sources);
    assert_true((uint64_t)sequence > m->sequence[source]);
    assert_true((uint64_t)sequence <= m->delivered[source]);
    m->sequence[source] = (uint64_t)sequence;
}

/* Emissions: every echo of an event before the barriers is either counted or stored as pending. */
static void check_internal(struct model *m, uint64_t number)
{
    struct changes changes = {0};
    internal_collect(m->bed->worker.internal, number, &changes);
    assert_false(changes.text.failed);
    for (size_t i = 0; i < changes.n; i++) {
        const struct change *c = &changes.items[i];
        assert_int_equal(c->set, STORAGE_INTERNAL);
        char key[24] = "";
        assert_int_equal(c->key_len, 20);
        memcpy(key, changes.text.data + c->key, 20);
        set_pending(m, strtoull(key, NULL, 10), c->kind == STORAGE_PUT);
        if (c->kind == STORAGE_PUT)
            check_echo(m, changes.text.data + c->value, c->value_len);
    }
    changes_done(&changes);
    struct trigger *t = trigger_named(m->bed, "echoes");
    const struct changes *cut = &cut_of(m->bed, t->shard, number)->changes;
    const struct change *c = pipeline_bed_change(cut, STORAGE_TRIGGERS, STORAGE_PUT_IF, t->id);
    if (c)
        m->echoes = counter_in(cut, c);
    assert_int_equal(m->echoes + m->n_pending, m->n);
}

static void check_intents_and_letters(struct model *m, uint64_t number)
{
    for (unsigned i = 0; i < m->bed->worker.n_shards; i++) {
        struct shard_cut *cut = cut_of(m->bed, i, number);
        uint64_t n = 0;
        for (struct intent *intent = cut->intents; intent; intent = intent->next)
            n++;
        assert_int_equal(n, pipeline_bed_count(&cut->changes, STORAGE_OUTBOX));
        m->intents += n;
        take_intents(cut);
    }
    for (unsigned i = 1; i <= m->n_sources; i++) {
        struct source *s = m->bed->worker.sources[i];
        m->letters += pipeline_bed_count(&s->changes[s->filling ^ 1], STORAGE_DEAD_LETTERS);
    }
    assert_int_equal(m->intents, m->of_type[3]);
    assert_int_equal(m->letters, m->of_type[TYPES]);
}

static void run_epoch(struct model *m, uint64_t number, uint64_t *random)
{
    for (unsigned i = 1; i <= m->n_sources; i++)
        atomic_fetch_add(&m->loads[i].allowed, BURST);
    for (uint64_t moment = mix(random) % 20; moment; moment--)
        sched_yield();
    place_barriers(m, number, random);
    fake_checkpoint_wait(&fake_checkpoint.cuts, number * m->bed->worker.n_shards);
    check_counters(m, number);
    check_internal(m, number);
    check_intents_and_letters(m, number);
}

static void run_load(unsigned n_shards, unsigned n_sources, uint64_t random)
{
    _Atomic bool stop = false;
    struct model m = {.bed = pipeline_bed_new(n_shards), .n_sources = n_sources};
    struct error err;
    fake_checkpoint_reset();
    add_load_triggers(m.bed);
    pipeline_bed_route(m.bed);
    pipeline_bed_start_shards(m.bed, 1);
    assert_int_equal(source_start(m.bed->worker.sources[0], &err), 0);
    for (unsigned i = 1; i <= n_sources; i++) {
        m.loads[i] =
            (struct load){.source = pipeline_bed_source(m.bed, i), .random = mix(&random), .stop = &stop};
        assert_int_equal(pthread_create(&m.loads[i].thread, NULL, play, &m.loads[i]), 0);
    }
    uint64_t number = 0;
    while (number < EPOCHS || m.n < (uint64_t)n_sources * EPOCHS * BURST)
        run_epoch(&m, ++number, &random);
    atomic_store(&stop, true);
    for (unsigned i = 1; i <= n_sources; i++)
        pthread_join(m.loads[i].thread, NULL);
    do /* until all echoes have come back */
        run_epoch(&m, ++number, &random);
    while (m.n_pending);
    assert_int_equal(m.echoes, m.n);
    assert_true(m.counters[COUNTERS - 1] > target_of(COUNTERS - 1));
    free(m.pending);
    pipeline_bed_free(m.bed);
}

static void test_load(void **state)
{
    (void)state;
    run_load(3, 4, 1);
    run_load(1, 6, 2);
    run_load(8, 2, 3);
}

/* Stopping wakes a shard that sleeps; one that was never started can be freed, too. */
static void test_stop(void **state)
{
    (void)state;
    struct pipeline_bed *bed = pipeline_bed_new(2);
    struct shard *shard;
    struct error err;
    pipeline_bed_start_shards(bed, 1);
    shard_stop(bed->worker.shards[0]);
    shard_stop(bed->worker.shards[0]);
    assert_int_equal(shard_new(&bed->worker, 7, &shard, &err), 0);
    shard_free(shard);
    shard_free(NULL);
    pipeline_bed_free(bed);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, false, "test_shard", NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_activates_once),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_transient),
        cmocka_unit_test(test_transient_leaves_nothing),
        cmocka_unit_test(test_terminate),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_intents),
        cmocka_unit_test(test_key_depends),
        cmocka_unit_test(test_every_order),
        cmocka_unit_test(test_source_joins),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
