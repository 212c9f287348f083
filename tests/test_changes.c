/* Sets of changes: what is put in comes out as storage operations, also after growth and reuse. */
#include "worker/checkpoint/changes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void assert_op(const struct storage_op *op, enum storage_set set, enum storage_op_kind kind,
                      const char *key, const char *value, const char *uuid)
{
    assert_int_equal(op->set, set);
    assert_int_equal(op->kind, kind);
    assert_int_equal(op->key_len, strlen(key));
    assert_memory_equal(op->key, key, op->key_len);
    assert_int_equal(op->value_len, strlen(value));
    assert_memory_equal(op->value, value, op->value_len);
    assert_int_equal(op->uuid_len, strlen(uuid));
    assert_memory_equal(op->uuid, uuid, op->uuid_len);
}

static void test_kinds(void **state)
{
    (void)state;
    struct changes c = {0};
    struct storage_op ops[5];
    changes_put(&c, STORAGE_OUTBOX, "key", 3, "value", 5);
    changes_delete(&c, STORAGE_INTERNAL, "gone", 4);
    struct buffer *b = changes_begin(&c, STORAGE_TRIGGERS, STORAGE_PUT_IF, "t", 1, "uuid", 4);
    buffer_append_text(b, "{\"a\":");
    buffer_append_text(b, "1}");
    changes_end(&c);
    changes_begin(&c, STORAGE_TRIGGERS, STORAGE_DELETE_IF, "u", 1, "", 0);
    changes_end(&c);
    changes_put(&c, STORAGE_DEAD_LETTERS, "", 0, "", 0);
    assert_int_equal(c.n, 5);
    assert_false(c.text.failed);
    changes_ops(&c, ops);
    assert_op(&ops[0], STORAGE_OUTBOX, STORAGE_PUT, "key", "value", "");
    assert_op(&ops[1], STORAGE_INTERNAL, STORAGE_DELETE, "gone", "", "");
    assert_op(&ops[2], STORAGE_TRIGGERS, STORAGE_PUT_IF, "t", "{\"a\":1}", "uuid");
    assert_op(&ops[3], STORAGE_TRIGGERS, STORAGE_DELETE_IF, "u", "", "");
    assert_op(&ops[4], STORAGE_DEAD_LETTERS, STORAGE_PUT, "", "", "");
    changes_done(&c);
    assert_int_equal(c.n, 0);
    assert_null(c.items);
}

static void test_growth(void **state)
{
    (void)state;
    enum { N = 40000 };
    struct changes c = {0};
    struct storage_op *ops = calloc(N, sizeof *ops);
    assert_non_null(ops);
    for (int round = 0; round < 2; round++) {
        char key[24];
        char value[400];
        for (int i = 0; i < N; i++) {
            int n = snprintf(key, sizeof key, "key-%d", i);
            int m = snprintf(value, sizeof value, "%*d", i % 300, i + round);
            changes_put(&c, STORAGE_CHECKPOINT, key, (size_t)n, value, (size_t)m);
        }
        assert_int_equal(c.n, N);
        changes_ops(&c, ops);
        for (int i = 0; i < N; i++) {
            snprintf(key, sizeof key, "key-%d", i);
            snprintf(value, sizeof value, "%*d", i % 300, i + round);
            assert_op(&ops[i], STORAGE_CHECKPOINT, STORAGE_PUT, key, value, "");
        }
        changes_reset(&c);
        assert_int_equal(c.n, 0);
        assert_int_equal(c.cap, 0); /* large memory is given back */
        assert_true(c.text.cap <= 1u << 20);
    }
    free(ops);
    changes_done(&c);
}

/* A small set keeps its memory from epoch to epoch. */
static void test_reuse(void **state)
{
    (void)state;
    struct changes c = {0};
    for (int i = 0; i < 1000; i++)
        changes_put(&c, STORAGE_OUTBOX, "k", 1, "v", 1);
    const void *items = c.items;
    const char *text = c.text.data;
    changes_reset(&c);
    for (int i = 0; i < 1000; i++)
        changes_put(&c, STORAGE_OUTBOX, "k", 1, "v", 1);
    assert_ptr_equal(c.items, items);
    assert_ptr_equal(c.text.data, text);
    changes_done(&c);
}

/* When memory has run out the set says so, until it is emptied. */
static void test_failed(void **state)
{
    (void)state;
    struct changes c = {0};
    changes_put(&c, STORAGE_OUTBOX, "k", 1, "v", 1);
    c.text.failed = true;
    changes_put(&c, STORAGE_OUTBOX, "l", 1, "w", 1);
    changes_delete(&c, STORAGE_OUTBOX, "m", 1);
    assert_true(c.text.failed);
    changes_reset(&c);
    assert_false(c.text.failed);
    changes_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
