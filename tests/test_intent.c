/* Intents: their stored document, written and read back. */
#include "worker/executor/intent.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/json.h"
#include "worker/shard/firing.h"
#include "worker/shard/trigger.h"

#define KEY "0123456789abcdef0123456789abcdef"
#define FIELD "00000000000000000007-01-00000003"

static void test_round_trip(void **state)
{
    (void)state;
    static const char body[] = "{\"event_source\":\"out\",\"event\":{}}";
    static const char document[] =
        "{\"key\":\"" KEY
        "\",\"trigger\":\"t\\\"1\",\"action\":\"EMIT\",\"body\":{\"event_source\":\"out\",\"event\":{}}}";
    struct intent *intent;
    struct intent *back;
    struct error err;
    struct json_value value;
    size_t len;
    const struct action_type *emit = action_find("EMIT", 4);
    struct trigger trigger = {.id = (char[]){"t\"1"}, .id_len = 3};
    struct firing firing = {.trigger = &trigger};
    BUFFER_AUTO text = BUFFER_INIT;
    intent_write(&firing, emit, KEY, body, sizeof body - 1, NULL, 0, &text);
    assert_int_equal(intent_load(FIELD, strlen(FIELD), text.data, text.len, &intent, &err), 0);
    assert_string_equal(intent->text, document);
    assert_int_equal(intent->len, sizeof document - 1);
    assert_string_equal(intent->field, FIELD);
    assert_string_equal(intent->key, KEY);
    assert_ptr_equal(intent->action, emit);
    assert_false(intent->replayed || intent->given_up || intent->fans_out);
    assert_int_equal(intent_load(FIELD, strlen(FIELD), intent->text, intent->len, &back, &err), 0);
    intent_free(intent);
    assert_string_equal(back->text, document);
    assert_string_equal(back->field, FIELD);
    assert_string_equal(back->key, KEY);
    assert_ptr_equal(back->action, emit);
    assert_true(intent_body(back, &value));
    const char *raw = json_raw(&value, &len);
    assert_int_equal(len, sizeof body - 1);
    assert_memory_equal(raw, body, len);
    assert_true(intent_trigger(back, &value));
    assert_true(json_equals(&value, "t\"1", 3));
    back->next = NULL;
    intent_free_list(back);
    intent_free_list(NULL);
    intent_free(NULL);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const documents[] = {
        "",
        "{",
        "[]",
        "{\"action\":\"EMIT\",\"body\":{}}",
        "{\"key\":7,\"action\":\"EMIT\",\"body\":{}}",
        "{\"key\":\"" KEY "0\",\"action\":\"EMIT\",\"body\":{}}",
        "{\"key\":\"" KEY "\",\"body\":{}}",
        "{\"key\":\"" KEY "\",\"action\":\"NONE\",\"body\":{}}",
        "{\"key\":\"" KEY "\",\"action\":\"PASS\",\"body\":{}}", /* never has intents */
    };
    static const char good[] = "{\"key\":\"" KEY "\",\"action\":\"EMIT\"}";
    struct intent *intent = NULL;
    struct error err;
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        assert_int_equal(intent_load("f", 1, documents[i], strlen(documents[i]), &intent, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_null(intent);
    }
    char field[INTENT_FIELD_MAX];
    memset(field, 'f', sizeof field);
    assert_int_equal(intent_load(field, INTENT_FIELD_MAX, good, strlen(good), &intent, &err), -1);
    assert_int_equal(intent_load(field, INTENT_FIELD_MAX - 1, good, strlen(good), &intent, &err), 0);
    assert_int_equal(strlen(intent->field), INTENT_FIELD_MAX - 1);
    struct json_value value;
    assert_false(intent_body(intent, &value));
    assert_false(intent_trigger(intent, &value));
    intent_free(intent);
}

static void expect_order(struct intent_queue *queue, const char *text)
{
    struct intent *intent;
    for (; (intent = intent_queue_take(queue)); text++)
        assert_int_equal(intent->key[0], *text);
    assert_int_equal(*text, 0);
}

static void test_queue(void **state)
{
    (void)state;
    struct intent all[4] = {{.key = "a"}, {.key = "b"}, {.key = "c"}, {.key = "d"}};
    struct intent_queue first;
    struct intent_queue second;
    intent_queue_init(&first);
    intent_queue_init(&second);
    expect_order(&first, "");
    intent_queue_put_back(&first, &all[1]);
    intent_queue_append(&first, &all[2]);
    intent_queue_put_back(&first, &all[0]);
    expect_order(&first, "abc");
    intent_queue_append(&first, &all[2]);
    intent_queue_append(&second, &all[0]);
    intent_queue_append(&second, &all[1]);
    intent_queue_put_all_back(&first, &second);
    intent_queue_put_all_back(&first, &second);
    intent_queue_append(&first, &all[3]);
    expect_order(&second, "");
    expect_order(&first, "abcd");
    intent_queue_append(&second, &all[0]);
    intent_queue_put_all_back(&first, &second);
    intent_queue_append(&first, &all[1]);
    expect_order(&first, "ab");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
