/* The outbox: shares of what may be in memory, the order of each line, fan-outs, what is stored of how far it
 * was, and that through any number of deaths every intent is started until it has ended, none before storage
 * says that it may have been. Executor and storage are the test's own. */
#include "worker/checkpoint/outbox.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "tests/support/chance.h"
#include "tests/support/fake_executor.h"
#include "worker/checkpoint/changes.h"
#include "worker/checkpoint/recovery.h"
#include "worker/emission.h"
#include "worker/executor/fan_out.h"
#include "worker/executor/intent.h"
#include "worker/worker.h"

#define TRIGGERS 4
#define SEQUENCE_MAX 4000 /* intents of one trigger, elements too */

struct field {
    char key[80];
    char *value;
};

struct fields {
    struct field *items;
    size_t n;
    size_t cap;
};

/* What was done with one intent or element. */
struct story {
    uint8_t started; /* in all lives */
    bool ended;      /* stored so */
    bool ending;     /* and not stored yet */
};

static struct world {
    struct worker worker;
    struct config config;
    struct storage storage;
    struct outbox *outbox;
    struct fields sets[STORAGE_SETS];
    struct changes changes;
    uint64_t epoch;
    unsigned in_epoch;
    struct intent *fresh;
    struct intent **fresh_end;
    struct intent *memory[SEQUENCE_MAX]; /* the executor's */
    size_t n_memory;
    uint64_t pending;
    unsigned next[TRIGGERS];      /* numbers */
    unsigned committed[TRIGGERS]; /* the same as of the last epoch */
    unsigned last[TRIGGERS];      /* number behind the one started last in this life */
    struct story stories[TRIGGERS][SEQUENCE_MAX];
    unsigned reads_fail;
    unsigned reads;
} w;

/* --- storage --- */

static struct field *find(enum storage_set set, const char *key, size_t len)
{
    for (size_t i = 0; i < w.sets[set].n; i++)
        if (strlen(w.sets[set].items[i].key) == len && !memcmp(w.sets[set].items[i].key, key, len))
            return &w.sets[set].items[i];
    return NULL;
}

static void put(enum storage_set set, const char *key, size_t key_len, const char *value, size_t len)
{
    struct fields *all = &w.sets[set];
    struct field *f = find(set, key, key_len);
    if (!f) {
        if (all->n == all->cap) {
            all->cap = all->cap ? all->cap * 2 : 64;
            assert_non_null(all->items = realloc(all->items, all->cap * sizeof *all->items));
        }
        f = &all->items[all->n++];
        assert_true(key_len < sizeof f->key);
        memcpy(f->key, key, key_len);
        f->key[key_len] = '\0';
        f->value = NULL;
    }
    free(f->value);
    assert_non_null(f->value = strndup(value, len));
}

static void delete (enum storage_set set, const char *key, size_t len)
{
    struct field *f = find(set, key, len);
    if (!f)
        return;
    free(f->value);
    *f = w.sets[set].items[--w.sets[set].n];
}

static int load(struct storage *storage, const char *workspace, enum storage_set set, storage_field field,
                void *data, struct error *err)
{
    (void)storage, (void)workspace;
    for (size_t i = 0; i < w.sets[set].n; i++) {
        const struct field *f = &w.sets[set].items[i];
        if (w.reads_fail && i > w.sets[set].n / 2) {
            w.reads_fail--;
            return error_set(err, ERROR_UNAVAILABLE, "half-way");
        }
        if (field(data, f->key, strlen(f->key), f->value, strlen(f->value)) < 0)
            return -1;
        if (i % 7 == 3 && field(data, f->key, strlen(f->key), f->value, strlen(f->value)) < 0)
            return -1; /* as scans do */
    }
    return 0;
}

static int get(struct storage *storage, const char *workspace, enum storage_set set, const char *const *keys,
               size_t n_keys, storage_field field, void *data, struct error *err)
{
    (void)storage, (void)workspace;
    w.reads++;
    for (size_t i = 0; i < n_keys; i++) {
        if (w.reads_fail && i >= n_keys / 2) {
            w.reads_fail--;
            return error_set(err, ERROR_UNAVAILABLE, "half-way");
        }
        const struct field *f = find(set, keys[i], strlen(keys[i]));
        if (f && field(data, f->key, strlen(f->key), f->value, strlen(f->value)) < 0)
            return -1;
    }
    return 0;
}

static const struct storage_type storage_type = {.name = "test", .load = load, .get = get};

/* Puts before deletions. */
static void commit(void)
{
    assert_false(w.changes.text.failed);
    for (int deletions = 0; deletions < 2; deletions++)
        for (size_t i = 0; i < w.changes.n; i++) {
            const struct change *c = &w.changes.items[i];
            const char *text = w.changes.text.data;
            if (c->kind == STORAGE_DELETE && deletions)
                delete (c->set, text + c->key, c->key_len);
            else if (c->kind == STORAGE_PUT && !deletions)
                put(c->set, text + c->key, c->key_len, text + c->value, c->value_len);
        }
    changes_reset(&w.changes);
}

/* --- the executor --- */

/* Trigger and number of an intent, or of an element of it. */
static struct story *story_of(const struct intent *intent, unsigned *ret_trigger, unsigned *ret_number)
{
    struct json_value trigger, body, number;
    int64_t n;
    assert_true(intent_trigger(intent, &trigger) && intent_body(intent, &body));
    assert_true(json_member(&body, "number", &number) && json_integer(&number, &n));
    *ret_trigger = (unsigned)(trigger.text[0] - 'a');
    *ret_number = (unsigned)n + (intent->fan_out ? intent->index : 0);
    return &w.stories[*ret_trigger][*ret_number];
}

/* Whether storage says that this one may have been started. */
static bool is_covered(const struct intent *intent, unsigned trigger)
{
    char name[sizeof OUTBOX_STARTED + 1];
    snprintf(name, sizeof name, OUTBOX_STARTED "%c", 'a' + (int)trigger);
    const struct field *f = find(STORAGE_CHECKPOINT, name, strlen(name));
    if (f && strcmp(intent->field, f->value) > 0)
        return false;
    if (!intent->fan_out)
        return true;
    char key[sizeof FAN_OUT_PREFIX + INTENT_FIELD_MAX];
    snprintf(key, sizeof key, FAN_OUT_PREFIX "%s", intent->field);
    f = find(STORAGE_CHECKPOINT, key, strlen(key));
    return intent->index < (f ? (unsigned)atoi(strchr(f->value, '/') + 1) : FAN_OUT_FIRST);
}

void executor_submit(struct executor *executor, struct intent *list)
{
    (void)executor;
    for (; list; list = list->next) {
        unsigned trigger, number;
        struct story *story = story_of(list, &trigger, &number);
        assert_true(w.n_memory < (size_t)w.config.max_pending_actions);
        assert_true(is_covered(list, trigger));
        assert_false(story->ended || story->ending);
        assert_true(number >= w.last[trigger]); /* in order */
        w.last[trigger] = number + 1;
        if (story->started)
            assert_true(list->uncertain && list->replayed);
        story->started++;
        w.memory[w.n_memory++] = list;
        w.pending++;
    }
}

uint64_t executor_pending(const struct executor *executor)
{
    (void)executor;
    return w.pending;
}

void executor_each(struct executor *executor, void (*see)(void *data, struct intent *intent), void *data)
{
    (void)executor;
    for (size_t i = 0; i < w.n_memory; i++)
        see(data, w.memory[i]);
}

static size_t in_memory(unsigned trigger)
{
    size_t n = 0;
    for (size_t i = 0; i < w.n_memory; i++) {
        unsigned t, number;
        story_of(w.memory[i], &t, &number);
        n += t == trigger;
    }
    return n;
}

/* --- the world --- */

static void recover(void)
{
    struct recovery recovery = {.claim = {.epoch = w.epoch}};
    struct emissions *emissions = emissions_new();
    struct error err;
    assert_non_null(w.outbox = outbox_new(&w.worker));
    while (outbox_load(w.outbox, &w.storage, emissions, &err) < 0)
        assert_int_equal(err.code, ERROR_UNAVAILABLE);
    for (size_t i = 0; i < w.sets[STORAGE_CHECKPOINT].n; i++) {
        const struct field *f = &w.sets[STORAGE_CHECKPOINT].items[i];
        bool started = !strncmp(f->key, OUTBOX_STARTED, strlen(OUTBOX_STARTED));
        struct stored_fields *to = started ? &recovery.outbox_started : &recovery.fan_outs;
        const char *key = f->key + strlen(started ? OUTBOX_STARTED : FAN_OUT_PREFIX);
        assert_non_null(to->items = realloc(to->items, (to->n + 1) * sizeof *to->items));
        to->items[to->n++] =
            (struct stored_field){strdup(key), strlen(key), strdup(f->value), strlen(f->value)};
    }
    outbox_restore(w.outbox, &recovery);
    stored_fields_done(&recovery.outbox_started);
    stored_fields_done(&recovery.fan_outs);
    emissions_free(emissions);
    outbox_refill(w.outbox, &w.storage);
}

static void begin(int64_t max_pending_actions)
{
    w = (struct world){.worker = {.workspace = "ws", .creation = "1.5"}};
    w.worker.config = &w.config;
    w.config.max_pending_actions = max_pending_actions;
    w.storage.type = &storage_type;
    w.fresh_end = &w.fresh;
    recover();
}

static void die(void)
{
    outbox_free(w.outbox);
    for (size_t i = 0; i < w.n_memory; i++)
        intent_free(w.memory[i]);
    intent_free_list(w.fresh);
    w.fresh = NULL;
    w.fresh_end = &w.fresh;
    w.n_memory = w.pending = w.in_epoch = 0;
    changes_reset(&w.changes);
    memset(w.last, 0, sizeof w.last);
    memcpy(w.next, w.committed, sizeof w.next); /* the others are fired again */
    for (unsigned t = 0; t < TRIGGERS; t++)
        for (unsigned i = 0; i < w.next[t]; i++)
            w.stories[t][i].ending = false;
}

static void end(void)
{
    die();
    for (size_t set = 0; set < STORAGE_SETS; set++) {
        for (size_t i = 0; i < w.sets[set].n; i++)
            free(w.sets[set].items[i].value);
        free(w.sets[set].items);
    }
    changes_done(&w.changes);
}

static void fire_document(unsigned trigger, unsigned elements, const char *document)
{
    struct intent *intent;
    struct error err;
    char field[INTENT_FIELD_MAX];
    snprintf(field, sizeof field, "%020llu-%02u-%08u%s", (unsigned long long)w.epoch + 1, trigger % 2,
             w.in_epoch++, elements ? "f" : "");
    assert_int_equal(intent_load(field, strlen(field), document, strlen(document), &intent, &err), 0);
    *w.fresh_end = intent;
    w.fresh_end = &intent->next;
    changes_put(&w.changes, STORAGE_OUTBOX, field, strlen(field), document, strlen(document));
    w.next[trigger] += elements ? elements : 1;
    assert_true(w.next[trigger] <= SEQUENCE_MAX);
}

/* An intent, or one with elements, into the epoch to come. */
static void fire_one(unsigned trigger, unsigned elements)
{
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_printf(&text, "{\"key\":\"k-%u\",\"trigger\":\"%c\",\"action\":\"EMIT\",\"body\":{\"number\":%u}",
                  w.next[trigger], 'a' + (int)trigger, w.next[trigger]);
    for (unsigned i = 0; i < elements; i++)
        buffer_printf(&text, i ? ",%u" : ",\"of\":{\"identity\":\"u\",\"number\":1},\"elements\":[%u", i);
    buffer_append_text(&text, elements ? "]}" : "}");
    fire_document(trigger, elements, buffer_text(&text));
}

static void fire(unsigned trigger, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        fire_one(trigger, 0);
}

/* The checkpoint thread has the order of shards. */
static void commit_epoch(struct intent *lists[2],
                         void (*collect)(struct outbox *, struct intent *const *, size_t, struct changes *))
{
    struct intent **ends[2] = {&lists[0], &lists[1]};
    for (struct intent *intent = w.fresh; intent; intent = intent->next) {
        unsigned shard = (unsigned)(intent->field[22] - '0');
        *ends[shard] = intent;
        ends[shard] = &intent->next;
    }
    *ends[0] = *ends[1] = NULL;
    w.fresh = NULL;
    w.fresh_end = &w.fresh;
    w.in_epoch = 0;
    collect(w.outbox, lists, 2, &w.changes);
    commit();
    w.epoch++;
    memcpy(w.committed, w.next, sizeof w.committed);
    for (unsigned t = 0; t < TRIGGERS; t++)
        for (unsigned i = 0; i < w.next[t]; i++) {
            w.stories[t][i].ended |= w.stories[t][i].ending;
            w.stories[t][i].ending = false;
        }
    outbox_start(w.outbox, lists[0]);
    outbox_start(w.outbox, lists[1]);
    outbox_refill(w.outbox, &w.storage);
}

static void run_epoch(void)
{
    struct intent *lists[2] = {NULL, NULL};
    commit_epoch(lists, outbox_collect);
}

/* A graceful stop, when one of so many of those in memory have begun. */
static void stop(unsigned one_of)
{
    struct intent *lists[2] = {NULL, NULL};
    for (size_t i = 0; i < w.n_memory; i++) {
        unsigned trigger, number;
        struct story *story = story_of(w.memory[i], &trigger, &number);
        w.memory[i]->begun |= chance_below(one_of) == 0;
        if (!w.memory[i]->begun && !w.memory[i]->uncertain)
            story->started = 0;
    }
    size_t n_memory = w.n_memory;
    commit_epoch(lists, outbox_collect_last);
    assert_int_equal(w.n_memory, n_memory); /* nothing is handed over any more */
    die();
}

/* The nth of what is in memory ends. */
static void finish_nth(size_t n)
{
    unsigned trigger, number;
    struct intent *intent = w.memory[n];
    story_of(intent, &trigger, &number)->ending = true;
    memmove(&w.memory[n], &w.memory[n + 1], (--w.n_memory - n) * sizeof w.memory[0]);
    w.pending--;
    outbox_ended(w.outbox, intent, &w.changes);
    intent_free(intent);
}

/* The first so many of a trigger. */
static void finish(unsigned trigger, unsigned n)
{
    for (size_t i = 0; n && i < w.n_memory;) {
        unsigned t, number;
        story_of(w.memory[i], &t, &number);
        if (t != trigger) {
            i++;
            continue;
        }
        finish_nth(i);
        n--;
    }
    assert_int_equal(n, 0);
}

/* Everything ends in the end, and nothing is left. */
static void drain(void)
{
    run_epoch();
    for (unsigned rounds = 0; !outbox_empty(w.outbox) || w.n_memory; rounds++) {
        assert_true(rounds < 2 * TRIGGERS * SEQUENCE_MAX);
        while (w.n_memory)
            finish_nth(0);
        run_epoch();
    }
    run_epoch();
    for (unsigned t = 0; t < TRIGGERS; t++)
        for (unsigned i = 0; i < w.next[t]; i++)
            assert_true(w.stories[t][i].ended && w.stories[t][i].started);
    assert_int_equal(w.sets[STORAGE_OUTBOX].n, 0);
    assert_int_equal(w.sets[STORAGE_CHECKPOINT].n, 0);
    assert_false(outbox_wants_epoch(w.outbox) || outbox_can_refill(w.outbox));
}

/* --- tests --- */

static void test_shares(void **state)
{
    (void)state;
    begin(200);
    fire(0, 1000);
    run_epoch();
    assert_int_equal(in_memory(0), 100);
    assert_false(outbox_empty(w.outbox));
    assert_false(outbox_wants_epoch(w.outbox) || outbox_can_refill(w.outbox)); /* it has its share */
    for (unsigned i = 0; i < 20; i++) {
        fire(1, 40); /* all start at once, although others wait */
        run_epoch();
        assert_int_equal(in_memory(1), 40);
        finish(1, 40);
    }
    fire(1, 1000);
    run_epoch();
    assert_int_equal(in_memory(1), 50);
    fire(2, 5);
    run_epoch();
    assert_int_equal(in_memory(2), 5);
    finish(0, 100); /* what is left is shared anew */
    run_epoch();
    assert_in_range(in_memory(0), 60, 75);
    assert_in_range(in_memory(1), 50, 70);
    assert_int_equal(in_memory(2), 5);
    drain();
    end();
}

/* However few places there are. */
static void test_few(void **state)
{
    (void)state;
    for (int64_t places = 1; places < 5; places++) {
        begin(places);
        fire(0, 20);
        fire(1, 20);
        fire_one(2, 20);
        run_epoch();
        assert_int_equal(in_memory(0), (places + 1) / 2);
        drain();
        end();
    }
}

static void test_fan_outs(void **state)
{
    (void)state;
    begin(200);
    fire_one(0, 1500);
    fire(0, 3); /* wait for all of it */
    run_epoch();
    assert_int_equal(in_memory(0), 100);
    fire_one(1, 30);
    fire(1, 3);
    run_epoch();
    assert_int_equal(in_memory(1), 33);
    fire_one(2, 1000);
    run_epoch();
    assert_in_range(in_memory(2), 30, 40);
    assert_false(outbox_empty(w.outbox));
    drain();
    end();
}

/* Everything ends; how many were taken to have been started before. */
static unsigned count_uncertain(unsigned n)
{
    unsigned uncertain = 0;
    for (unsigned ended = 0; ended < n;) {
        while (w.n_memory) {
            uncertain += w.memory[0]->uncertain;
            ended++;
            finish_nth(0);
        }
        run_epoch();
    }
    drain();
    return uncertain;
}

/* What was never started is not taken to have been, and what was, is. */
static void test_uncertain(void **state)
{
    (void)state;
    begin(20);
    fire(0, 3000);
    fire(1, 3);
    run_epoch();
    assert_int_equal(in_memory(0), 10);
    const struct field *f = find(STORAGE_CHECKPOINT, OUTBOX_STARTED "a", strlen(OUTBOX_STARTED "a"));
    assert_non_null(f);
    assert_null(find(STORAGE_CHECKPOINT, OUTBOX_STARTED "b", strlen(OUTBOX_STARTED "b")));
    die();
    recover();
    assert_in_range(count_uncertain(3003), 13, 1030);
    end();
}

/* Neither in memory nor in storage is anything that has not begun taken for what has. */
static void test_stopped(void **state)
{
    (void)state;
    for (unsigned begun = 0; begun < 4; begun++) {
        begin(100);
        fire(0, 300);
        fire_one(1, 30);
        fire_one(2, 1500);
        fire(2, 3);
        run_epoch();
        fire(1, 5); /* of the last epoch */
        for (size_t i = 0, left[TRIGGERS] = {begun, begun, begun}; i < w.n_memory; i++) {
            unsigned trigger, number;
            story_of(w.memory[i], &trigger, &number);
            w.memory[i]->begun = left[trigger] && left[trigger]--;
        }
        stop(UINT32_MAX);
        recover();
        run_epoch();
        if (begun == 3) { /* once more, at once */
            stop(UINT32_MAX);
            recover();
        }
        assert_int_equal(count_uncertain(300 + 30 + 1500 + 3 + 5), 3 * begun);
        end();
    }
}

static void test_reads_fail(void **state)
{
    (void)state;
    begin(40);
    fire(0, 100);
    fire_one(1, 50);
    fire(1, 10);
    run_epoch();
    for (unsigned i = 0; i < 60 && !outbox_empty(w.outbox); i++) {
        while (w.n_memory)
            finish_nth(0);
        w.reads_fail = 2;
        run_epoch();
        if (w.reads_fail < 2)
            assert_true(outbox_can_refill(w.outbox));
        w.reads_fail = 0;
        outbox_refill(w.outbox, &w.storage);
    }
    w.reads_fail = 3;
    die();
    recover();
    drain();
    end();
}

/* What somebody has put there, or taken away. */
static void test_meddled_with(void **state)
{
    (void)state;
    begin(4);
    fire(0, 8);
    run_epoch();
    put(STORAGE_OUTBOX, "nonsense", 8, "{}", 2);
    put(STORAGE_OUTBOX, "00000000000000000001-01-00000099", 32, "neither", 7);
    put(STORAGE_CHECKPOINT, OUTBOX_STARTED "a", strlen(OUTBOX_STARTED "a"), "illegible", 9);
    put(STORAGE_CHECKPOINT, OUTBOX_STARTED, strlen(OUTBOX_STARTED), "00000000000000000001-00-00000003", 32);
    delete (STORAGE_OUTBOX, "00000000000000000001-00-00000005", 32);
    w.stories[0][5] = (struct story){.started = 1, .ended = true};
    die();
    recover();
    for (unsigned i = 0; i < 10; i++) {
        while (w.n_memory)
            finish_nth(0);
        run_epoch();
    }
    assert_int_equal(w.sets[STORAGE_OUTBOX].n, 2); /* left alone */
    assert_int_equal(w.sets[STORAGE_CHECKPOINT].n, 0);
    end();
}

/* A thousand times as much as fits: what waits takes little memory, also after a restart. */
static void test_much(void **state)
{
    (void)state;
    static char document[1200];
    enum { WAITING = 3000 };
    begin(10);
    for (unsigned i = 0; i < WAITING; i++) {
        snprintf(document, sizeof document,
                 "{\"key\":\"k\",\"trigger\":\"a\",\"action\":\"EMIT\",\"body\":{\"pad\":\"%01000u\","
                 "\"number\":%u}}",
                 0u, w.next[0]);
        fire_document(0, 0, document);
    }
    run_epoch();
    die();
    size_t before = mallinfo2().uordblks;
    recover();
    size_t after = mallinfo2().uordblks;
    assert_true(after < before + (size_t)WAITING * 40 + 20000);
    assert_int_equal(in_memory(0), 5);
    drain();
    end();
}

/* Anything in any order, with deaths in between. */
static void test_random(void **state)
{
    (void)state;
    static const int64_t places[] = {1, 2, 7, 40, 300};
    uint64_t reads = 0;
    for (unsigned round = 0; round < 5 + chance_kills() / 10; round++) {
        begin(places[round % 5]);
        if (round % 10 >= 8)
            w.config.max_pending_actions = 3000;
        for (unsigned step = 0; step < 80; step++) {
            unsigned trigger = (unsigned)chance_below(TRIGGERS);
            switch (chance_below(8)) {
            case 0:
                if (w.next[trigger] < 1500)
                    fire_one(trigger, (unsigned)chance_below(chance_below(10) ? 30 : 1200) + 1);
                break;
            case 1:
            case 2:
                if (w.next[trigger] < 1500)
                    fire(trigger, (unsigned)chance_below(chance_below(10) ? 10 : 1200));
                break;
            case 3:
            case 4:
                for (uint64_t n = chance_below(60); n && w.n_memory; n--)
                    finish_nth(chance_below(w.n_memory));
                break;
            case 5:
                w.reads_fail = chance_below(5) == 0;
                outbox_refill(w.outbox, &w.storage);
                w.reads_fail = 0;
                break;
            case 6:
                if (chance_below(6) == 0) {
                    if (chance_below(2))
                        stop((unsigned)chance_below(5) + 1);
                    else
                        die();
                    recover();
                }
                break;
            default:
                run_epoch();
            }
        }
        drain();
        reads += w.reads;
        end();
    }
    assert_true(reads > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),       cmocka_unit_test(test_few),
        cmocka_unit_test(test_fan_outs),     cmocka_unit_test(test_uncertain),
        cmocka_unit_test(test_stopped),      cmocka_unit_test(test_reads_fail),
        cmocka_unit_test(test_meddled_with), cmocka_unit_test(test_much),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
