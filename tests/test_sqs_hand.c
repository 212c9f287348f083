/* Messages in hand: their way, what comes again, what is settled. */
#include "worker/source/sqs_hand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"

static struct sqs_hand hand;

static int setup(void **state)
{
    (void)state;
    sqs_hand_init(&hand);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sqs_hand_done(&hand);
    return 0;
}

static struct sqs_entry *add(uint64_t n, uint64_t visible)
{
    struct consumed_id id = {n, n};
    struct sqs_arrival arrival = {
        .receipt = "r", .receipt_len = 1, .body = "body", .body_len = 4, .visible_ns = visible};
    assert_int_equal(sqs_hand_add(&hand, &id, &arrival, NULL), 0);
    return sqs_hand_find(&hand, &id);
}

static void renew(struct sqs_entry *e, const char *receipt, uint64_t visible)
{
    struct sqs_arrival arrival = {.receipt = receipt, .receipt_len = strlen(receipt), .visible_ns = visible};
    assert_int_equal(sqs_hand_renew(&hand, e, &arrival, NULL), 0);
    assert_int_equal(e->receipt_len, strlen(receipt));
    assert_memory_equal(e->receipt, receipt, e->receipt_len);
}

static void deliver(struct sqs_entry *e, uint64_t epoch)
{
    assert_int_equal(sqs_hand_reserve(&hand, NULL), 0);
    sqs_hand_delivered(&hand, e, epoch);
}

static void test_way(void **state)
{
    struct sqs_entry *a = add(1, 10);
    struct sqs_entry *b = add(2, 20);
    (void)state;
    assert_int_equal(hand.held_bytes, 8);
    assert_ptr_equal(sqs_hand_first(&hand, SQS_HELD), a);
    assert_ptr_equal(sqs_hand_next(&hand, a), b);
    deliver(a, 5);
    deliver(b, 6);
    assert_int_equal(hand.held_bytes, 0);
    sqs_hand_committed(&hand, 5);
    assert_ptr_equal(sqs_hand_first(&hand, SQS_DUE), a);
    assert_ptr_equal(sqs_hand_first(&hand, SQS_DELIVERED), b);
    assert_int_equal(sqs_hand_settled(&hand, 5), 0);
    sqs_hand_move(&hand, a, SQS_DELETING, false);
    sqs_hand_remove(&hand, a);
    assert_int_equal(sqs_hand_settled(&hand, 5), 5);
    assert_int_equal(sqs_hand_settled(&hand, 5), 0);
    sqs_hand_committed(&hand, 6);
    sqs_hand_remove(&hand, b);
    assert_int_equal(sqs_hand_settled(&hand, 6), 6);
    assert_int_equal(sqs_hand_count(&hand), 0);
}

/* Epochs settle in their order, and not before they are committed. */
static void test_settled_in_order(void **state)
{
    struct sqs_entry *a = add(1, 10);
    struct sqs_entry *b = add(2, 10);
    struct sqs_entry *c = add(3, 10);
    (void)state;
    deliver(a, 5);
    deliver(b, 5);
    deliver(c, 6);
    sqs_hand_committed(&hand, 6);
    sqs_hand_remove(&hand, c);
    sqs_hand_remove(&hand, a);
    assert_int_equal(sqs_hand_settled(&hand, 6), 0);
    sqs_hand_remove(&hand, b);
    assert_int_equal(sqs_hand_settled(&hand, 5), 5);
    assert_int_equal(sqs_hand_settled(&hand, 6), 6);
}

static void test_again(void **state)
{
    struct sqs_entry *a = add(1, 10);
    struct sqs_entry *b = add(2, 20);
    (void)state;
    assert_ptr_equal(sqs_hand_expiring(&hand), a);
    renew(a, "newer", 30);
    assert_false(a->renewed);
    assert_ptr_equal(sqs_hand_expiring(&hand), b);
    deliver(a, 1);
    sqs_hand_committed(&hand, 1);
    sqs_hand_move(&hand, a, SQS_DELETING, false);
    renew(a, "newest", 40);
    assert_true(a->renewed);
    sqs_hand_move(&hand, a, SQS_LOST, false);
    sqs_hand_drop(&hand, b, 0);
    assert_ptr_equal(sqs_hand_first(&hand, SQS_DUE), b);
    renew(a, "last", 50);
    assert_int_equal(a->stage, SQS_DUE);
    assert_ptr_equal(sqs_hand_next(&hand, b), a);
    sqs_hand_clear(&hand);
    assert_int_equal(sqs_hand_count(&hand), 0);
    assert_null(sqs_hand_expiring(&hand));
}

/* Dropped, but not yet to be deleted. */
static void test_dropped_later(void **state)
{
    struct error err;
    struct sqs_entry *a = add(1, 10);
    struct sqs_entry *b = add(2, 20);
    struct sqs_entry *c = add(3, 30);
    (void)state;
    assert_int_equal(sqs_hand_uncommitted(&hand), 0);
    assert_int_equal(sqs_hand_reserve(&hand, &err), 0);
    sqs_hand_drop(&hand, a, 4);
    assert_int_equal(sqs_hand_uncommitted(&hand), 4);
    assert_int_equal(sqs_hand_reserve(&hand, &err), 0);
    sqs_hand_delivered(&hand, b, 6);
    assert_int_equal(sqs_hand_reserve(&hand, &err), 0);
    sqs_hand_drop(&hand, c, 5);
    assert_int_equal(sqs_hand_uncommitted(&hand), 6);
    sqs_hand_committed(&hand, 5);
    assert_ptr_equal(sqs_hand_first(&hand, SQS_DUE), a);
    assert_int_equal(hand.count[SQS_DUE], 1);
    sqs_hand_committed(&hand, 6);
    assert_int_equal(hand.count[SQS_DUE], 3);
    assert_int_equal(sqs_hand_uncommitted(&hand), 0);
    for (struct sqs_entry *e; (e = sqs_hand_first(&hand, SQS_DUE));)
        sqs_hand_remove(&hand, e);
    assert_int_equal(sqs_hand_settled(&hand, 6), 6);
}

/* What is being deleted or extended is passed over. */
static void test_expiring(void **state)
{
    struct sqs_entry *a = add(1, 10);
    struct sqs_entry *b = add(2, 20);
    struct sqs_entry *c = add(3, 30);
    (void)state;
    sqs_hand_move(&hand, a, SQS_DELETING, false);
    assert_ptr_equal(sqs_hand_expiring(&hand), b);
    b->extending = true;
    assert_ptr_equal(sqs_hand_expiring(&hand), c);
    sqs_hand_move(&hand, c, SQS_LOST, false);
    assert_null(sqs_hand_expiring(&hand));
    sqs_hand_move(&hand, a, SQS_DUE, true);
    assert_ptr_equal(sqs_hand_expiring(&hand), a);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_way),           CASE(test_settled_in_order), CASE(test_again),
        CASE(test_dropped_later), CASE(test_expiring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
