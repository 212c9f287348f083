/* Sets of idempotency keys: each counts once, through storage and back. */
#include "worker/shard/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/pipeline_bed.h"

enum { N = 5000 };

static int add(struct key_set **set, unsigned i)
{
    char key[24];
    return keys_add(set, key, (size_t)snprintf(key, sizeof key, "key-%u", i));
}

static void test_add(void **state)
{
    (void)state;
    struct key_set *set = NULL;
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(add(&set, i), 1);
        assert_int_equal(add(&set, i), 0);
        assert_int_equal(add(&set, i / 2), 0);
    }
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(add(&set, i), 0);
    assert_int_equal(keys_add(&set, "", 0), 1);
    assert_int_equal(keys_add(&set, "", 0), 0);
    keys_free(set);
    keys_free(NULL);
}

static const struct change *field(const struct changes *changes, const char *key)
{
    return pipeline_bed_change(changes, STORAGE_CHECKPOINT, STORAGE_PUT, key);
}

/* Only what is new is written, per epoch; all of it together is the set. */
static void test_round_trip(void **state)
{
    (void)state;
    struct key_set *set = NULL;
    struct key_set *back = NULL;
    struct changes changes = {0};
    keys_write(set, "u", 1, 6, &changes);
    assert_int_equal(changes.n, 0);
    for (unsigned i = 0; i < 100; i++)
        add(&set, i);
    keys_write(set, "u", 1, 7, &changes);
    keys_write(set, "u", 1, 8, &changes);
    for (unsigned i = 50; i < 103; i++)
        add(&set, i);
    keys_write(set, "u", 1, 9, &changes);
    assert_int_equal(changes.n, 2);
    static const struct {
        uint64_t epoch;
        const char *key;
        size_t n;
    } rows[] = {{7, "keys:u:7", 100}, {9, "keys:u:9", 3}};
    for (size_t i = 0; i < 2; i++) {
        const struct change *c = field(&changes, rows[i].key);
        assert_non_null(c);
        assert_int_equal(c->value_len, rows[i].n * 32);
        assert_int_equal(keys_load(&back, rows[i].epoch, changes.text.data + c->value, c->value_len), 0);
    }
    for (unsigned i = 0; i < 103; i++)
        assert_int_equal(add(&back, i), 0);
    changes_reset(&changes);
    keys_write(back, "u", 1, 10, &changes); /* what was loaded is stored already */
    assert_int_equal(changes.n, 0);
    assert_int_equal(add(&back, 103), 1);
    keys_write(back, "u", 1, 10, &changes);
    assert_non_null(field(&changes, "keys:u:10"));
    changes_reset(&changes);
    keys_delete(back, "u", 1, &changes);
    assert_int_equal(changes.n, 3);
    static const char *const names[] = {"keys:u:7", "keys:u:9", "keys:u:10"};
    for (size_t i = 0; i < 3; i++)
        assert_non_null(pipeline_bed_change(&changes, STORAGE_CHECKPOINT, STORAGE_DELETE, names[i]));
    changes_reset(&changes);
    keys_delete(back, "u", 1, &changes);
    keys_delete(NULL, "u", 1, &changes);
    assert_int_equal(changes.n, 0);
    changes_done(&changes);
    keys_free(back);
    keys_free(set);
}

/* Keys that were never stored are forgotten with the trigger. */
static void test_delete_fresh(void **state)
{
    (void)state;
    struct key_set *set = NULL;
    struct changes changes = {0};
    add(&set, 1);
    keys_delete(set, "u", 1, &changes);
    keys_write(set, "u", 1, 3, &changes);
    assert_int_equal(changes.n, 0);
    changes_done(&changes);
    keys_free(set);
}

static void test_refused(void **state)
{
    (void)state;
    struct key_set *set = NULL;
    static const char hex[] = "0123456789abcdef0123456789abcdeg";
    assert_int_equal(keys_load(&set, 1, "", 0), 0);
    assert_int_equal(keys_load(&set, 1, hex, 31), -1);
    assert_int_equal(keys_load(&set, 1, "zz23456789abcdef0123456789abcdef", 32), -1);
    keys_free(set);
}

/* What was added last is new again; all others are not. */
static void test_take_back(void **state)
{
    struct key_set *set = NULL;
    char key[16];
    (void)state;
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(keys_add(&set, key, (size_t)n), 1);
        keys_take_back(set);
        assert_int_equal(keys_add(&set, key, (size_t)n), 1);
        assert_int_equal(keys_add(&set, key, (size_t)n), 0);
    }
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(keys_add(&set, key, (size_t)n), 0);
    }
    keys_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_back),  cmocka_unit_test(test_add),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_delete_fresh),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
