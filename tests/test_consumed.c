/* consumed.h against a plain model; restoring after a crash at any checkpoint; memory that runs out. */
#include "worker/source/consumed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "worker/checkpoint/changes.h"
#include "worker/source/source.h"

#define SECOND 1000000000ull

static char source_name[] = "a:b";
static struct source source = {.name = source_name};
static uint64_t random_state = 12345;

static uint64_t random_below(uint64_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % n;
}

static struct consumed *make(size_t max)
{
    struct consumed *c;
    struct error err;
    assert_int_equal(consumed_new("1234.5", max, &c, &err), 0);
    return c;
}

static struct consumed_id identity(const struct consumed *c, uint64_t n)
{
    return consumed_identity(c, NULL, &n, sizeof n);
}

static void add(struct consumed *c, uint64_t n)
{
    struct error err;
    struct consumed_id id = identity(c, n);
    assert_int_equal(consumed_reserve(c, &id, &err), 0);
    consumed_add(c, &id);
}

static bool has(const struct consumed *c, uint64_t n)
{
    struct consumed_id id = identity(c, n);
    return consumed_has(c, &id);
}

static bool since(const struct consumed *c, uint64_t n)
{
    struct consumed_id id = identity(c, n);
    return consumed_since(c, &id);
}

static int take(struct consumed *c, uint64_t n)
{
    struct error err;
    struct consumed_id id = identity(c, n);
    return consumed_take(c, &id, &err);
}

/* What a checkpoint has written, as storage operations; the caller looks at them before the next one. */
static size_t cut(struct consumed *c, uint64_t epoch, uint64_t now_ns, struct storage_op *ops, size_t max)
{
    changes_reset(&source.changes[0]);
    source.filling_epoch = epoch;
    consumed_cut(c, &source, now_ns);
    assert_false(source.changes[0].text.failed);
    assert_true(source.changes[0].n <= max);
    changes_ops(&source.changes[0], ops);
    return source.changes[0].n;
}

static void test_identity(void **state)
{
    (void)state;
    struct consumed *c = make(1000);
    struct consumed *other;
    struct error err;
    assert_int_equal(consumed_new("1234.6", 1000, &other, &err), 0);
    struct consumed_id a = consumed_identity(c, NULL, "abc", 3);
    struct consumed_id b = consumed_identity(c, NULL, "abd", 3);
    struct consumed_id elsewhere = consumed_identity(other, NULL, "abc", 3);
    struct consumed_id ab = consumed_identity(c, &a, "abd", 3);
    struct consumed_id ba = consumed_identity(c, &b, "abc", 3);
    assert_false(consumed_id_equal(&a, &b));
    assert_false(consumed_id_equal(&a, &elsewhere)); /* another workspace */
    assert_false(consumed_id_equal(&ab, &ba));
    assert_false(consumed_id_equal(&ab, &b));
    consumed_free(other);
    consumed_free(c);
    consumed_free(NULL);
}

static void test_chunks(void **state)
{
    (void)state;
    struct storage_op ops[8];
    struct consumed *c = make(1000);
    assert_int_equal(cut(c, 1, 0, ops, 8), 0);
    add(c, 1);
    add(c, 2);
    assert_int_equal(consumed_unsettled(c), 2);
    assert_int_equal(cut(c, 2, 0, ops, 8), 1);
    assert_int_equal(ops[0].set, STORAGE_CHECKPOINT);
    assert_int_equal(ops[0].kind, STORAGE_PUT);
    assert_int_equal(ops[0].key_len, strlen("consumed:a:b:00000000000000000002"));
    assert_memory_equal(ops[0].key, "consumed:a:b:00000000000000000002", ops[0].key_len);
    assert_true(consumed_field_time(ops[0].value, ops[0].value_len) > 1600000000);
    assert_int_equal(cut(c, 3, 0, ops, 8), 0);
    add(c, 3);
    assert_int_equal(cut(c, 4, 0, ops, 8), 1);
    consumed_settled(c, 1, 5 * SECOND);
    assert_int_equal(consumed_unsettled(c), 3);
    consumed_settled(c, 3, 5 * SECOND);
    assert_int_equal(consumed_unsettled(c), 1);
    assert_int_equal(cut(c, 5, 5 * SECOND - 1, ops, 8), 0);
    assert_true(has(c, 1) && has(c, 2) && has(c, 3));
    consumed_expire(c, 5 * SECOND); /* forgotten; the next checkpoint deletes it */
    assert_false(has(c, 1) || has(c, 2));
    assert_int_equal(cut(c, 6, 5 * SECOND, ops, 8), 1);
    assert_int_equal(ops[0].kind, STORAGE_DELETE);
    assert_memory_equal(ops[0].key, "consumed:a:b:00000000000000000002", ops[0].key_len);
    assert_false(has(c, 1) || has(c, 2));
    assert_true(has(c, 3));
    consumed_settled(c, 4, 100 * SECOND);
    assert_int_equal(cut(c, 7, 6 * SECOND, ops, 8), 0);
    consumed_settled(c, 9, 0); /* at once, and what was settled before, too */
    assert_int_equal(cut(c, 8, 6 * SECOND, ops, 8), 1);
    assert_int_equal(consumed_count(c), 0);
    consumed_free(c);
}

/* What is proven need not stay as long as what is not; what is of an earlier connection keeps its time. */
static void test_shorten(void **state)
{
    (void)state;
    static const unsigned deleted[] = {0, 0, 4, 1}; /* at 30, 40, 60 and 100 s */
    static const uint64_t at[] = {30, 40, 60, 100};
    struct storage_op ops[8];
    struct consumed *c = make(1000);
    for (uint64_t epoch = 1; epoch <= 5; epoch++) {
        add(c, epoch);
        assert_int_equal(cut(c, epoch, 0, ops, 8), 1);
    }
    consumed_settled(c, 2, 60 * SECOND);
    consumed_settled(c, 5, 100 * SECOND);
    consumed_shorten(c, 2, 3, 40 * SECOND);
    consumed_shorten(c, 2, 4, 50 * SECOND); /* the third not later again */
    consumed_shorten(c, 2, 2, 0);
    for (unsigned i = 0; i < 4; i++) /* those of the earlier connection come first */
        assert_int_equal(cut(c, 10 + i, at[i] * SECOND, ops, 8), deleted[i]);
    assert_int_equal(consumed_count(c), 0);
    consumed_free(c);
}

/* Consumed twice and redelivered twice is dropped twice; the third is news; a connection begins anew. */
static void test_twins(void **state)
{
    (void)state;
    struct storage_op ops[8];
    struct consumed *c = make(1000);
    add(c, 7);
    cut(c, 1, 0, ops, 8);
    add(c, 7);
    cut(c, 2, 0, ops, 8);
    assert_int_equal(take(c, 7), CONSUMED_NEW); /* of this connection */
    assert_true(since(c, 7) && !since(c, 8));
    consumed_rewind(c);
    assert_false(since(c, 7));
    for (int connection = 0; connection < 3; connection++) {
        assert_int_equal(take(c, 7), CONSUMED_TAKEN);
        assert_int_equal(take(c, 7), CONSUMED_TAKEN);
        assert_int_equal(take(c, 7), CONSUMED_NEW);
        assert_int_equal(take(c, 8), CONSUMED_NEW);
        consumed_rewind(c);
    }
    assert_int_equal(take(c, 7), CONSUMED_TAKEN);
    consumed_settled(c, 1, 0); /* the one that was taken goes */
    cut(c, 3, 1, ops, 8);
    assert_int_equal(take(c, 7), CONSUMED_TAKEN);
    assert_int_equal(take(c, 7), CONSUMED_NEW);
    consumed_settled(c, 2, 0);
    cut(c, 4, 1, ops, 8);
    assert_int_equal(take(c, 7), CONSUMED_NEW);
    assert_false(has(c, 7));
    /* Twins of a connection that are handed out after another one ended. */
    for (int i = 0; i < 3; i++) {
        add(c, 9);
        assert_int_equal(take(c, 9), CONSUMED_NEW);
    }
    consumed_rewind(c);
    assert_false(since(c, 9));
    add(c, 9);
    assert_true(since(c, 9));
    for (int i = 0; i < 3; i++)
        assert_int_equal(take(c, 9), CONSUMED_TAKEN);
    assert_int_equal(take(c, 9), CONSUMED_NEW);
    consumed_free(c);
}

static void test_max(void **state)
{
    (void)state;
    static struct storage_op ops[64];
    struct consumed *c = make(100);
    for (uint64_t i = 0; i < 300; i++) {
        add(c, i);
        if (i % 10 == 9)
            cut(c, i, 0, ops, 64);
    }
    assert_int_equal(consumed_count(c), 300); /* unsettled ones stay */
    consumed_settled(c, 199, 100 * SECOND);
    assert_int_equal(cut(c, 400, SECOND, ops, 64), 20);
    assert_int_equal(consumed_count(c), 100);
    consumed_free(c);
}

/* --- the model: a list of occurrences in their order --- */

enum { MODEL_IDS = 40000, MODEL_KINDS = 3000 };

struct model {
    uint64_t kind[MODEL_IDS];
    uint64_t epoch[MODEL_IDS];
    size_t first, last;
    size_t begun;
    unsigned there[MODEL_KINDS]; /* of earlier connections */
    unsigned fresh[MODEL_KINDS];
    unsigned taken[MODEL_KINDS];
};

static void model_expire(struct model *m, uint64_t epoch)
{
    for (; m->first < m->last && m->epoch[m->first] <= epoch; m->first++) {
        unsigned kind = (unsigned)m->kind[m->first];
        if (m->first >= m->begun) {
            m->fresh[kind]--;
        } else {
            m->there[kind]--;
            m->taken[kind] -= m->taken[kind] > 0;
        }
    }
}

static void test_model(void **state)
{
    (void)state;
    static struct storage_op ops[MODEL_IDS];
    struct model *m = calloc(1, sizeof *m);
    struct consumed *c = make(1000000);
    assert_non_null(m);
    for (uint64_t epoch = 1; m->last < MODEL_IDS - 600; epoch++) {
        for (uint64_t n = random_below(500); n; n--) {
            uint64_t kind = random_below(random_below(2) ? MODEL_KINDS : 10);
            add(c, kind);
            m->kind[m->last] = kind;
            m->epoch[m->last++] = epoch;
            m->fresh[kind]++;
        }
        for (int i = 0; i < 300; i++) {
            uint64_t kind = random_below(MODEL_KINDS);
            bool wanted = m->taken[kind] < m->there[kind];
            assert_int_equal(has(c, kind), m->there[kind] + m->fresh[kind] > 0);
            assert_int_equal(since(c, kind), m->fresh[kind] > 0);
            assert_int_equal(take(c, kind), wanted ? CONSUMED_TAKEN : CONSUMED_NEW);
            m->taken[kind] += wanted;
        }
        if (random_below(4) == 0) {
            consumed_rewind(c);
            memset(m->taken, 0, sizeof m->taken);
            m->begun = m->last;
            for (unsigned i = 0; i < MODEL_KINDS; i++) {
                m->there[i] += m->fresh[i];
                m->fresh[i] = 0;
            }
        }
        cut(c, epoch, 0, ops, MODEL_IDS);
        if (random_below(3) == 0) {
            uint64_t passed = epoch - random_below(epoch < 20 ? epoch : 20);
            consumed_settled(c, passed, 0);
            cut(c, epoch, 1, ops, MODEL_IDS);
            model_expire(m, passed);
        }
        assert_int_equal(consumed_count(c), m->last - m->first);
    }
    consumed_free(c);
    free(m);
}

/* Whatever the number of ids in a chunk, what was stored is put back, in any order and repeated. */
static void test_restore(void **state)
{
    (void)state;
    struct storage_op ops[4];
    struct error err;
    struct consumed *from = make(100000);
    struct consumed *to = make(100000);
    uint64_t next = 0;
    for (uint64_t epoch = 300; epoch; epoch--) {
        uint64_t n = epoch == 7 ? 5000 : epoch;
        uint64_t first = next;
        for (uint64_t i = 0; i < n; i++)
            add(from, next++);
        assert_int_equal(cut(from, epoch, 0, ops, 4), 1);
        for (int twice = 0; twice < 2; twice++)
            assert_int_equal(
                consumed_restore(to, ops[0].key, ops[0].key_len, ops[0].value, ops[0].value_len, &err), 0);
        for (uint64_t i = first; i < next; i++)
            assert_true(has(to, i));
    }
    assert_int_equal(consumed_count(to), next);
    assert_int_equal(consumed_restored(to), 300);
    consumed_rewind(to);
    assert_int_equal(take(to, 0), CONSUMED_TAKEN);
    assert_int_equal(take(to, 0), CONSUMED_NEW);
    add(to, 0);
    assert_int_equal(take(to, 0), CONSUMED_NEW);
    assert_int_equal(cut(to, 301, 0, ops, 4), 1);
    consumed_settled(to, 300, 0);
    static struct storage_op many[400];
    assert_int_equal(cut(to, 302, 1, many, 400), 300);
    assert_int_equal(consumed_count(to), 1);
    consumed_free(from);
    consumed_free(to);
}

static void test_damaged(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value;
    } bad[] = {
        {"consumed:a:0000000000000000001", "1 "},
        {"consumed:00000000000000000001", "1 "},
        {"consumed:a:0000000000000000000x", "1 "},
        {"position:a:00000000000000000001", "1 "},
        {"consumed:a:00000000000000000001", ""},
        {"consumed:a:00000000000000000001", "1"},
        {"consumed:a:00000000000000000001", "x AAAA"},
        {"consumed:a:00000000000000000001", "99999999999999999999 AAAA"},
        {"consumed:a:00000000000000000001", "1 AAAA"},
        {"consumed:a:00000000000000000001", "1 AAAAAAAAAAAAAAAAAAAAAA="},
        {"consumed:a:00000000000000000001", "1 AAAAAAAAAAAAAAAAAAAA!A=="},
        {"consumed:a:00000000000000000001", "1 ===="},
        {"consumed:a:00000000000000000001", "1 AAAAAAAAAAAAAAAAAAAAAA==AAAAAAAAAAAAAAAAAAAAAA=="},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct error err = {0};
        struct consumed *c = make(100);
        assert_int_equal(
            consumed_restore(c, bad[i].key, strlen(bad[i].key), bad[i].value, strlen(bad[i].value), &err),
            -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_non_null(strstr(err.message, bad[i].key));
        consumed_free(c);
    }
    struct error err;
    struct consumed *c = make(100);
    const char *good = "1 AAAAAAAAAAAAAAAAAAAAAA==";
    assert_int_equal(consumed_restore(c, "consumed::00000000000000000001", 30, good, strlen(good), &err), 0);
    assert_int_equal(consumed_count(c), 1);
    consumed_free(c);
}

/* Through many blocks and growing parts, with the memory given back. */
static void test_window_moves(void **state)
{
    (void)state;
    static struct storage_op ops[64];
    struct consumed *c = make(1000000);
    for (uint64_t epoch = 1; epoch <= 600; epoch++) {
        for (uint64_t i = 0; i < 500; i++)
            add(c, epoch * 500 + i);
        cut(c, epoch, epoch, ops, 64);
        consumed_settled(c, epoch, epoch + 100);
        uint64_t oldest = epoch > 100 ? epoch - 100 : 0;
        assert_int_equal(has(c, oldest * 500 + 499), false);
        assert_true(has(c, (oldest + 1) * 500));
    }
    assert_int_equal(consumed_count(c), 100 * 500);
    consumed_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity), cmocka_unit_test(test_chunks),       cmocka_unit_test(test_twins),
        cmocka_unit_test(test_max),      cmocka_unit_test(test_model),        cmocka_unit_test(test_restore),
        cmocka_unit_test(test_damaged),  cmocka_unit_test(test_window_moves), cmocka_unit_test(test_shorten),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    changes_done(&source.changes[0]);
    return r;
}
