/* common/storage, on every back end: reading fields, claiming, and committing as a worker does. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "tests/support/storage_bed.h"

static struct storage_bed bed; /* cleared before each test */
static struct error err;

/* ---- helpers ---- */

static struct storage *connection(void)
{
    struct storage *storage = storage_bed_open(&bed);
    assert_non_null(storage);
    memset(&err, 0, sizeof err);
    return storage;
}

static struct storage_claim claim(struct storage *storage, const char *workspace, const char *writer)
{
    struct storage_claim result;
    if (storage->type->claim(storage, workspace, writer, &result, &err) != 0)
        fail_msg("claim: %s", err.message);
    return result;
}

static int commit_as(struct storage *storage, const char *writer, const char *creation, uint64_t epoch,
                     const struct storage_op *ops, size_t n)
{
    struct storage_commit commit = {"w", creation, writer, epoch, ops, n, 0};
    memset(&err, 0, sizeof err);
    return storage->type->commit(storage, &commit, &err);
}

static int commit(struct storage *storage, uint64_t epoch, const struct storage_op *ops, size_t n)
{
    return commit_as(storage, "me", "100.5", epoch, ops, n);
}

static void assert_stored(struct storage *storage, enum storage_set set, const char *key, const char *value)
{
    struct storage_found found = {0};
    assert_int_equal(storage->type->get(storage, "w", set, &key, 1, storage_found_add, &found, &err), 0);
    if (found.n != (value != NULL))
        fail_msg("%s is %s", key, value ? "absent" : "there");
    if (!value)
        return;
    assert_int_equal(found.last_value_len, strlen(value));
    if (strlen(value) < sizeof found.last_value)
        assert_string_equal(found.last_value, value);
}

static size_t count(struct storage *storage, enum storage_set set)
{
    struct storage_found found = {0};
    assert_int_equal(storage->type->load(storage, "w", set, storage_found_add, &found, &err), 0);
    return found.n;
}

/* The usual beginning: workspace w, created at 100.5, claimed by "me". */
static struct storage *begin(void)
{
    struct storage *storage = connection();
    assert_int_equal(storage->type->create(storage, "w", "100.5", NULL, 0, &err), 0);
    struct storage_claim found = claim(storage, "w", "me");
    assert_int_equal(found.epoch, 0);
    assert_string_equal(found.creation, "100.5");
    return storage;
}

/* ---- reading ---- */

static void test_load_and_get(void **state)
{
    (void)state;
    enum { FIELDS = 5000 };
    static char keys[FIELDS][16];
    static char values[FIELDS][16];
    static const char *names[FIELDS];
    static struct storage_op ops[FIELDS];
    static const char *const some[] = {"k3", "absent", "k1", "k2"};
    struct storage *storage = begin();
    struct storage_found found = {0};
    for (int i = 0; i < FIELDS; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        snprintf(values[i], sizeof values[i], "v%d", i);
        names[i] = keys[i];
        ops[i] = storage_op_of(STORAGE_TIMERS, STORAGE_PUT, keys[i], values[i], NULL);
    }
    assert_int_equal(commit(storage, 1, ops, FIELDS), 0);
    assert_true(count(storage, STORAGE_TIMERS) >= FIELDS);
    found = (struct storage_found){.limit = 10};
    assert_int_equal(storage->type->load(storage, "w", STORAGE_TIMERS, storage_found_add, &found, &err), -7);
    assert_int_equal(found.n, 10);
    found = (struct storage_found){0};
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, names, FIELDS, storage_found_add, &found, &err), 0);
    assert_int_equal(found.n, FIELDS);
    assert_string_equal(found.last_value, "v4999");
    found = (struct storage_found){0};
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, some, 4, storage_found_add, &found, &err), 0);
    assert_string_equal(found.keys, "k3 k1 k2 ");
    found = (struct storage_found){.limit = 1};
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, some, 4, storage_found_add, &found, &err), -7);
    assert_int_equal(
        storage->type->get(storage, "w", STORAGE_TIMERS, some, 0, storage_found_add, &found, &err), 0);
    assert_int_equal(count(storage, STORAGE_OUTBOX), 0);
    found = (struct storage_found){0};
    assert_int_equal(storage->type->load(storage, "absent", STORAGE_OUTBOX, storage_found_add, &found, &err),
                     0);
    assert_int_equal(found.n, 0);
    assert_int_equal(storage->type->load(storage, "no such", STORAGE_OUTBOX, storage_found_add, &found, &err),
                     -1);
    assert_int_equal(err.code, ERROR_INVALID);
    storage_close(storage);
}

/* ---- claim ---- */

static void test_claim(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_claim found;
    assert_int_equal(storage->type->claim(storage, "absent", "me", &found, &err), STORAGE_ABSENT);
    assert_int_equal(storage->type->claim(storage, "not/valid", "me", &found, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    assert_int_equal(claim(storage, "w", "other").epoch, 1);
    storage_close(storage);
}

/* ---- commit ---- */

static void test_commit_kinds(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op first[] = {
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "python", "{\"id\": \"python\", \"uuid\": \"u-1\"}",
                      NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "c", "{\"id\":\"c\",\"uuid\":\"u-1\"}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "spaced", "{ \"uuid\" : \"u-1\" }", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "escaped", "{\"uuid\":\"u\\u002d1\"}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "mentioned", "{\"x\":\"u-1\",\"uuid\":\"u-1\"}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "elsewhere", "{\"x\":\"u-1\",\"uuid\":\"u-2\"}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "longer", "{\"uuid\":\"u-11\"}", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "broken", "{\"x\":\"\\u-1", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "number", "7", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "twice", "old", NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "twice", "new", NULL),
        storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "1", "one", NULL),
        storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "2", "two", NULL),
    };
    const size_t n = sizeof first / sizeof first[0];
    assert_int_equal(commit(storage, 1, first, n), 0);
    assert_stored(storage, STORAGE_TRIGGERS, "twice", "new");
    struct storage_op second[] = {
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "python", "new", "u-1"),
        storage_op_of(STORAGE_OUTBOX, STORAGE_DELETE, "1", NULL, NULL),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "c", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "spaced", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "escaped", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "mentioned", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "elsewhere", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "longer", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "broken", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "number", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "absent", "new", "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "absent2", "new", ""),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT_IF, "twice", "any", ""),
        storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "3", "three", NULL),
        storage_op_of(STORAGE_OUTBOX, STORAGE_DELETE, "absent", NULL, NULL),
    };
    assert_int_equal(commit(storage, 2, second, sizeof second / sizeof second[0]), 0);
    for (size_t i = 0; i < 5; i++)
        assert_stored(storage, STORAGE_TRIGGERS, first[i].key, "new");
    for (size_t i = 5; i < 9; i++)
        assert_stored(storage, STORAGE_TRIGGERS, first[i].key, first[i].value);
    assert_stored(storage, STORAGE_TRIGGERS, "absent", NULL);
    assert_stored(storage, STORAGE_TRIGGERS, "absent2", NULL);
    assert_stored(storage, STORAGE_TRIGGERS, "twice", "any");
    assert_stored(storage, STORAGE_OUTBOX, "1", NULL);
    assert_stored(storage, STORAGE_OUTBOX, "2", "two");
    assert_stored(storage, STORAGE_OUTBOX, "3", "three");
    assert_int_equal(claim(storage, "w", "me").epoch, 2);
    struct storage_op third[] = {
        storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE_IF, "elsewhere", NULL, "u-2"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE_IF, "longer", NULL, "u-1"),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE_IF, "twice", NULL, ""),
        storage_op_of(STORAGE_TRIGGERS, STORAGE_DELETE_IF, "absent", NULL, ""),
    };
    assert_int_equal(commit(storage, 3, third, 4), 0);
    assert_stored(storage, STORAGE_TRIGGERS, "elsewhere", NULL);
    assert_stored(storage, STORAGE_TRIGGERS, "longer", first[6].value);
    assert_stored(storage, STORAGE_TRIGGERS, "twice", NULL);
    storage_close(storage);
}

static void test_special_bytes(void **state)
{
    (void)state;
    struct storage *storage = begin();
    static const char key[] = "k\0\r\n\xff\xc3\xa9 *$%";
    static const char value[] = "\0v\r\n$5\r\n\xfe\\\"";
    static const char document[] = "{\"x\":\"\0\",\"uuid\":\"\0u\"}";
    struct storage_found found = {0};
    struct storage_op put = {.set = STORAGE_INTERNAL,
                             .kind = STORAGE_PUT,
                             .key = key,
                             .key_len = sizeof key - 1,
                             .value = value,
                             .value_len = sizeof value - 1};
    assert_int_equal(commit(storage, 1, &put, 1), 0);
    assert_int_equal(storage->type->load(storage, "w", STORAGE_INTERNAL, storage_found_add, &found, &err), 0);
    assert_int_equal(found.n, 1);
    assert_int_equal(found.last_key_len, sizeof key - 1);
    assert_memory_equal(found.last_key, key, sizeof key - 1);
    assert_int_equal(found.last_value_len, sizeof value - 1);
    assert_memory_equal(found.last_value, value, sizeof value - 1);
    put.value = document;
    put.value_len = sizeof document - 1;
    assert_int_equal(commit(storage, 2, &put, 1), 0);
    put.kind = STORAGE_PUT_IF;
    put.uuid = "\0u";
    put.uuid_len = 2;
    put.value = NULL; /* the empty text */
    put.value_len = 0;
    assert_int_equal(commit(storage, 3, &put, 1), 0);
    found = (struct storage_found){0};
    assert_int_equal(storage->type->load(storage, "w", STORAGE_INTERNAL, storage_found_add, &found, &err), 0);
    assert_int_equal(found.last_value_len, 0);
    storage_close(storage);
}

static void test_commit_twice(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op put = storage_op_of(STORAGE_OUTBOX, STORAGE_PUT, "1", "first", NULL);
    assert_int_equal(commit(storage, 1, &put, 1), 0);
    put.value = "again";
    assert_int_equal(commit(storage, 1, &put, 1), 0);
    assert_stored(storage, STORAGE_OUTBOX, "1", "first");
    storage_close(storage);
}

/* Of one key in one commit: puts come before deletions, and the last put holds. */
static void test_commit_order(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op ops[] = {
        storage_op_of(STORAGE_TIMERS, STORAGE_DELETE, "gone", NULL, NULL),
        storage_op_of(STORAGE_TIMERS, STORAGE_PUT, "gone", "x", NULL),
        storage_op_of(STORAGE_TIMERS, STORAGE_PUT, "last", "1", NULL),
        storage_op_of(STORAGE_OUTBOX, STORAGE_DELETE, "last", NULL, NULL),
        storage_op_of(STORAGE_TIMERS, STORAGE_PUT, "last", "2", NULL),
    };
    assert_int_equal(commit(storage, 1, ops, 5), 0);
    assert_stored(storage, STORAGE_TIMERS, "gone", NULL);
    assert_stored(storage, STORAGE_TIMERS, "last", "2");
    storage_close(storage);
}

static void test_fenced(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op put = storage_op_of(STORAGE_TRIGGERS, STORAGE_PUT, "late", "{}", NULL);
    assert_int_equal(commit(storage, 1, NULL, 0), 0);
    struct storage *other = connection();
    assert_int_equal(claim(other, "w", "they").epoch, 1);
    assert_int_equal(commit(storage, 2, &put, 1), STORAGE_FENCED);
    assert_int_equal(err.code, ERROR_FENCED);
    assert_non_null(strstr(err.message, "they"));
    assert_int_equal(commit_as(other, "they", "100.5", 2, NULL, 0), 0);
    assert_int_equal(commit(storage, 2, &put, 1), STORAGE_FENCED); /* the same epoch is no success of ours */
    assert_int_equal(commit_as(other, "they", "99", 3, &put, 1), STORAGE_FENCED);
    assert_non_null(strstr(err.message, "anew"));
    assert_int_equal(commit_as(other, "they", "100.5", 5, &put, 1), STORAGE_ROLLED_BACK);
    assert_non_null(strstr(err.message, "lost data"));
    assert_int_equal(count(storage, STORAGE_TRIGGERS), 0);
    assert_int_equal(other->type->remove(other, "w", &err), 0);
    assert_int_equal(commit_as(other, "they", "100.5", 3, &put, 1), STORAGE_FENCED);
    assert_non_null(strstr(err.message, "gone"));
    storage_close(other);
    storage_close(storage);
}

static void test_unclaimed(void **state)
{
    (void)state;
    struct storage *storage = connection();
    assert_int_equal(storage->type->create(storage, "w", "100.5", NULL, 0, &err), 0);
    assert_int_equal(commit(storage, 1, NULL, 0), STORAGE_ROLLED_BACK); /* no writer is not ours */
    storage_close(storage);
}

/* As many changes as every back end takes. */
static void test_large_commit(void **state)
{
    (void)state;
    struct storage *storage = begin();
    struct storage_op *ops = calloc(STORAGE_OPS_SAFE, sizeof *ops);
    char(*keys)[16] = calloc(STORAGE_OPS_SAFE, sizeof *keys);
    assert_non_null(ops);
    assert_non_null(keys);
    for (int i = 0; i < STORAGE_OPS_SAFE; i++) {
        snprintf(keys[i], sizeof keys[i], "t%d", i);
        ops[i] = storage_op_of(i % 2 ? STORAGE_TRIGGERS : STORAGE_OUTBOX, STORAGE_PUT, keys[i],
                               "{\"uuid\":\"u\"}", NULL);
    }
    assert_int_equal(commit(storage, 1, ops, STORAGE_OPS_SAFE), 0);
    assert_true(count(storage, STORAGE_TRIGGERS) >= STORAGE_OPS_SAFE / 2);
    for (int i = 0; i < STORAGE_OPS_SAFE; i++)
        ops[i] = storage_op_of(ops[i].set, i % 2 ? STORAGE_DELETE_IF : STORAGE_DELETE, keys[i], NULL,
                               i % 2 ? "u" : NULL);
    assert_int_equal(commit(storage, 2, ops, STORAGE_OPS_SAFE), 0);
    assert_int_equal(count(storage, STORAGE_TRIGGERS), 0);
    assert_int_equal(count(storage, STORAGE_OUTBOX), 0);
    free(ops);
    free(keys);
    storage_close(storage);
}

/* ---- */

static int clear(void **state)
{
    (void)state;
    return storage_bed_clear(&bed);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, clear)
    const struct CMUnitTest tests[] = {
        TEST(test_load_and_get),  TEST(test_claim),        TEST(test_commit_kinds),
        TEST(test_special_bytes), TEST(test_commit_twice), TEST(test_commit_order),
        TEST(test_fenced),        TEST(test_unclaimed),    TEST(test_large_commit),
    };
    int failed = 0;
    signal(SIGPIPE, SIG_IGN);
    for (const char *const *backend = storage_bed_backends; *backend; backend++) {
        int rc = storage_bed_start(&bed, *backend);
        if (rc == 0)
            failed += cmocka_run_group_tests_name(*backend, tests, NULL, NULL);
        failed += rc < 0;
        storage_bed_done(&bed);
    }
    return failed ? 1 : 0;
}
