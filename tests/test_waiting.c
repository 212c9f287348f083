/* Events that wait in their trigger: the queue, its stored fields, and what becomes of it when the trigger is
 * gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/checkpoint/changes.h"
#include "worker/shard/waiting.h"

#define IDENTITY "uuid:1"
#define LENGTH (sizeof IDENTITY - 1)

static _Atomic uint64_t count;

static struct cloudevent event_of(const char *id)
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_SPECVERSION] = (struct cloudevent_span){"1.0", 3};
    event.attribute[CE_ID] = (struct cloudevent_span){id, (uint32_t)strlen(id)};
    event.attribute[CE_SOURCE] = (struct cloudevent_span){"urn:x", 5};
    event.attribute[CE_TYPE] = (struct cloudevent_span){"t", 1};
    return event;
}

static void add(struct waiting *w, const char *id)
{
    struct cloudevent event = event_of(id);
    struct error err;
    assert_int_equal(waiting_add(w, &event, &err), 0);
}

static void take(struct waiting *w, const char *id)
{
    struct cloudevent event;
    assert_true(waiting_first(w, &event));
    assert_int_equal(event.attribute[CE_ID].len, strlen(id));
    assert_memory_equal(event.attribute[CE_ID].text, id, strlen(id));
    waiting_event_free(waiting_take(w));
}

/* The stored fields after all changes so far: at most 16. */
struct stored {
    char key[16][64];
    char value[16][256];
    unsigned n;
};

static void apply(struct stored *s, const struct changes *changes)
{
    for (size_t i = 0; i < changes->n; i++) {
        const struct change *c = &changes->items[i];
        const char *key = changes->text.data + c->key;
        unsigned at = 0;
        if (c->set != STORAGE_CHECKPOINT)
            continue;
        while (at < s->n && (strlen(s->key[at]) != c->key_len || memcmp(s->key[at], key, c->key_len)))
            at++;
        if (c->kind == STORAGE_DELETE) {
            assert_true(at < s->n);
            s->n--;
            memmove(s->key[at], s->key[s->n], sizeof s->key[0]);
            memmove(s->value[at], s->value[s->n], sizeof s->value[0]);
            continue;
        }
        assert_true(at < 16);
        s->n += at == s->n;
        snprintf(s->key[at], sizeof s->key[0], "%.*s", (int)c->key_len, key);
        snprintf(s->value[at], sizeof s->value[0], "%.*s", (int)c->value_len, changes->text.data + c->value);
    }
}

static void store(struct stored *s, struct waiting *w)
{
    struct changes changes = {0};
    waiting_write(w, IDENTITY, LENGTH, &changes);
    apply(s, &changes);
    changes_done(&changes);
}

static struct waiting *load(const struct stored *s)
{
    struct error err;
    struct waiting *w = waiting_new(0, 0, &count);
    assert_non_null(w);
    for (unsigned i = s->n; i-- > 0;) {
        const char *identity;
        size_t len;
        assert_true(waiting_is_field(s->key[i], strlen(s->key[i]), &identity, &len));
        assert_int_equal(len, LENGTH);
        assert_memory_equal(identity, IDENTITY, LENGTH);
        assert_int_equal(
            waiting_load(w, s->key[i], strlen(s->key[i]), s->value[i], strlen(s->value[i]), &err), 0);
    }
    assert_int_equal(waiting_loaded(w, &err), 0);
    return w;
}

static void test_queue(void **state)
{
    struct stored stored = {.n = 0};
    struct waiting *w = waiting_new(100, 7, &count);
    (void)state;
    assert_non_null(w);
    add(w, "a");
    add(w, "b");
    add(w, "c");
    assert_int_equal(count, 3);
    w->stage = WAITING_CONDITION;
    snprintf(w->key, sizeof w->key, "0123456789abcdef");
    w->asked++;
    store(&stored, w);
    assert_int_equal(stored.n, 4);
    take(w, "a"); /* stored: is deleted */
    add(w, "d");
    add(w, "e");
    store(&stored, w);
    assert_int_equal(stored.n, 5);
    take(w, "b");
    take(w, "c");
    take(w, "d");
    take(w, "e");
    assert_int_equal(count, 0);
    add(w, "f");
    take(w, "f"); /* was never stored */
    add(w, "g");
    waiting_free(w);

    struct waiting *other = load(&stored); /* as of the last time it was stored */
    assert_int_equal(other->stage, WAITING_CONDITION);
    assert_string_equal(other->key, "0123456789abcdef");
    assert_int_equal(other->asked, 101);
    assert_int_equal(other->last, 105);
    assert_int_equal(other->definition, 7);
    assert_int_equal(count, 4);
    take(other, "b");
    take(other, "c");
    add(other, "h");
    take(other, "d");
    take(other, "e");
    take(other, "h");
    store(&stored, other);
    assert_int_equal(stored.n, 1);
    waiting_free(other);
    assert_int_equal(count, 0);
}

static void test_abandon(void **state)
{
    struct stored stored = {.n = 0};
    struct changes changes = {0};
    struct waiting *w = waiting_new(0, 0, &count);
    (void)state;
    assert_non_null(w);
    add(w, "a");
    store(&stored, w);
    add(w, "b");
    waiting_abandon(w, "t", IDENTITY, true, "why", &changes);
    unsigned letters = 0;
    for (size_t i = 0; i < changes.n; i++)
        letters += changes.items[i].set == STORAGE_DEAD_LETTERS;
    assert_int_equal(letters, 2);
    apply(&stored, &changes);
    assert_int_equal(stored.n, 1); /* what another trigger of this identity waits for stays */
    changes_reset(&changes);
    waiting_abandon(w, "t", IDENTITY, false, "why", &changes);
    apply(&stored, &changes);
    assert_int_equal(stored.n, 0);
    assert_int_equal(count, 0);
    waiting_abandon(NULL, "t", IDENTITY, false, "why", &changes);
    changes_done(&changes);
    waiting_free(w);
    waiting_free(NULL);
}

static void test_fields(void **state)
{
    static const char *const others[] = {"waits",
                                         "waits:",
                                         "waiting:",
                                         "waiting:x",
                                         "waiting:x:1",
                                         "fired:x",
                                         "waiting:00000000000000000001",
                                         "waitingx:00000000000000000001"};
    static const char *const damaged[] = {"",
                                          "1",
                                          "{}",
                                          "{\"stage\":1}",
                                          "{\"stage\":\"idle\",\"key\":\"\"}",
                                          "{\"stage\":\"idle\",\"key\":\"\",\"asked\":1,\"last\":\"x\"}"};
    struct waiting *w = waiting_new(0, 0, &count);
    struct error err;
    const char *identity;
    size_t len;
    (void)state;
    assert_non_null(w);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_false(waiting_is_field(others[i], strlen(others[i]), &identity, &len));
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        assert_int_equal(waiting_load(w, "waits:x", 7, damaged[i], strlen(damaged[i]), &err), -1);
        assert_int_equal(
            waiting_load(w, "waiting:x:00000000000000000001", 30, damaged[i], strlen(damaged[i]), &err),
            i >= 2 ? 0 : -1); /* any object is an event */
    }
    waiting_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_abandon),
        cmocka_unit_test(test_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
