/* The hash table against a plain array, under random operations and under collisions. */
#include "common/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define KEYS 500

static char names[KEYS][16];
static int values[KEYS];

static int setup(void **state)
{
    struct hash_table *table = malloc(sizeof *table);
    assert_non_null(table);
    hash_init(table);
    for (int i = 0; i < KEYS; i++)
        snprintf(names[i], sizeof names[i], "key-%d", i);
    *state = table;
    return 0;
}

static int teardown(void **state)
{
    hash_done(*state);
    free(*state);
    return 0;
}

static void *get(const struct hash_table *t, const char *key)
{
    return hash_get(t, key, strlen(key));
}

static void put(struct hash_table *t, const char *key, void *value)
{
    assert_int_equal(hash_put(t, key, strlen(key), value, NULL), 0);
}

static void test_empty(void **state)
{
    struct hash_table *t = *state;
    size_t cursor = 0;
    assert_null(get(t, "a"));
    assert_null(hash_remove(t, "a", 1));
    assert_null(hash_next(t, &cursor));
    assert_null(t->entries);
    hash_done(t);
    hash_done(t);
    put(t, "a", values); /* may be used again */
    assert_ptr_equal(get(t, "a"), values);
}

static void test_replace(void **state)
{
    struct hash_table *t = *state;
    char first[] = "key";
    char second[] = "key";
    void *old = t;
    assert_int_equal(hash_put(t, first, 3, &values[0], &old), 0);
    assert_null(old);
    assert_int_equal(hash_put(t, second, 3, &values[1], &old), 0);
    assert_ptr_equal(old, &values[0]);
    first[0] = 'x'; /* the entry borrows the second key now */
    assert_ptr_equal(get(t, "key"), &values[1]);
    assert_int_equal(t->count, 1);
}

static void test_keys(void **state)
{
    struct hash_table *t = *state;
    assert_int_equal(hash_put(t, "", 0, &values[0], NULL), 0);
    assert_int_equal(hash_put(t, "a\0b", 3, &values[1], NULL), 0);
    assert_int_equal(hash_put(t, "a\0c", 3, &values[2], NULL), 0);
    assert_int_equal(hash_put(t, "a", 1, &values[3], NULL), 0);
    assert_ptr_equal(hash_get(t, "", 0), &values[0]);
    assert_ptr_equal(hash_get(t, "a\0b", 3), &values[1]);
    assert_ptr_equal(hash_get(t, "a\0c", 3), &values[2]);
    assert_ptr_equal(hash_get(t, "a", 1), &values[3]);
    assert_null(hash_get(t, "a\0", 2));
}

static void test_seed(void **state)
{
    struct hash_table *t = *state;
    struct hash_table other;
    hash_init(&other);
    assert_true(t->seed != other.seed);
    assert_true(hash_bytes(t, "a", 1) != hash_bytes(&other, "a", 1));
    assert_true(hash_bytes(t, "a", 1) == hash_bytes(t, "a", 1));
}

static void test_model(void **state)
{
    struct hash_table *t = *state;
    void *model[KEYS] = {0};
    size_t count = 0;
    unsigned seed = 1;
    for (int step = 0; step < 200000; step++) {
        int i = rand_r(&seed) % KEYS;
        /* Long phases of growth and of decline. */
        bool grow = rand_r(&seed) % 100 < (step / 5000 % 2 ? 30 : 70);
        void *old = NULL;
        if (grow) {
            void *value = &values[rand_r(&seed) % KEYS];
            assert_int_equal(hash_put(t, names[i], strlen(names[i]), value, &old), 0);
            assert_ptr_equal(old, model[i]);
            count += !model[i];
            model[i] = value;
        } else {
            assert_ptr_equal(hash_remove(t, names[i], strlen(names[i])), model[i]);
            count -= model[i] != NULL;
            model[i] = NULL;
        }
        assert_int_equal(t->count, count);
        i = rand_r(&seed) % KEYS;
        assert_ptr_equal(get(t, names[i]), model[i]);
    }
    /* Iteration finds each entry once. */
    size_t cursor = 0;
    size_t seen = 0;
    for (struct hash_entry *e = hash_next(t, &cursor); e; e = hash_next(t, &cursor), seen++) {
        int i = atoi(e->key + 4);
        assert_ptr_equal(e->value, model[i]);
        model[i] = NULL;
    }
    assert_int_equal(seen, count);
    assert_true(count * 4 <= (t->mask + 1) * 3);
}

/* A run of entries with the same home, around the end of the table: removal anywhere leaves the others
 * reachable. */
static void test_collisions(void **state)
{
    (void)state;
    enum { RUN = 8 };
    for (int removed = 0; removed < RUN; removed++) {
        struct hash_table t;
        int used[RUN];
        int n = 0;
        hash_init(&t);
        put(&t, "makes the first entries", values);
        assert_ptr_equal(hash_remove(&t, "makes the first entries", 23), values);
        for (int i = 0; i < KEYS && n < RUN; i++) {
            size_t home = hash_bytes(&t, names[i], strlen(names[i])) & t.mask;
            if (home >= t.mask - 1) {
                put(&t, names[i], &values[i]);
                used[n++] = i;
            }
        }
        assert_int_equal(n, RUN);
        assert_ptr_equal(hash_remove(&t, names[used[removed]], strlen(names[used[removed]])),
                         &values[used[removed]]);
        for (int i = 0; i < RUN; i++)
            assert_ptr_equal(get(&t, names[used[i]]), i == removed ? NULL : &values[used[i]]);
        hash_done(&t);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_empty), TEST(test_replace), TEST(test_keys),
        TEST(test_seed),  TEST(test_model),   TEST(test_collisions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
