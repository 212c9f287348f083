/* Fan-outs: the elements' documents and keys, what is stored of their progress, and that through any number
 * of deaths every element is started until it has ended, always under its own key. */
#include "worker/executor/fan_out.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/checkpoint/changes.h"
#include "worker/shard/firing.h"
#include "worker/executor/intent.h"

#define FIELD "00000000000000000007-01-00000003f"
#define DOCUMENT(elements)                                                                                \
    "{\"key\":\"k\",\"trigger\":\"t\",\"action\":\"EMIT\",\"body\":{\"b\":[1]},\"of\":{\"identity\":\"u-" \
    "1\","                                                                                                \
    "\"number\":5},\"elements\":" elements "}"

static struct intent *whole(const char *document)
{
    struct intent *intent;
    struct error err;
    assert_int_equal(intent_load(FIELD, strlen(FIELD), document, strlen(document), &intent, &err), 0);
    intent->uncertain = true; /* as one that an earlier life has left */
    return intent;
}

static struct fan_out *make(const char *document, const char *progress)
{
    struct fan_out *f;
    struct error err;
    if (fan_out_new(whole(document), "1.5", progress, &f, &err) < 0)
        fail_msg("%s", err.message);
    return f;
}

/* The progress that is written; "" for none. Freed by the caller. */
static char *progress_of(struct fan_out *f)
{
    struct changes changes = {0};
    fan_out_write(f, &changes);
    char *text = calloc(1, 1 << 16);
    if (changes.n) {
        assert_int_equal(changes.n, 1);
        assert_int_equal(changes.items[0].set, STORAGE_CHECKPOINT);
        assert_memory_equal(changes.text.data + changes.items[0].key, FAN_OUT_PREFIX FIELD,
                            changes.items[0].key_len);
        assert_true(changes.items[0].value_len < 1 << 16);
        memcpy(text, changes.text.data + changes.items[0].value, changes.items[0].value_len);
    }
    changes_done(&changes);
    return text;
}

static bool ended(struct fan_out *f, uint32_t element)
{
    struct changes changes = {0};
    bool all = fan_out_ended(f, element, &changes);
    assert_int_equal(changes.n > 0, all);
    changes_done(&changes);
    return all;
}

static void test_elements(void **state)
{
    (void)state;
    static const char *const values[] = {"1", "\"two\"", "{\"three\": [3, null]}"};
    struct fan_out *f = make(DOCUMENT("[1, \"two\" ,{\"three\": [3, null]}]"), NULL);
    struct error err;
    for (uint32_t i = 0; i < 3; i++) {
        char key[ACTION_KEY_MAX], document[200];
        struct json_value value;
        assert_false(fan_out_exhausted(f));
        struct intent *element = fan_out_next(f, &err);
        assert_non_null(element);
        firing_key_of("1.5", "u-1", 3, 5, i, key);
        snprintf(document, sizeof document,
                 "{\"key\":\"%s\",\"trigger\":\"t\",\"action\":\"EMIT\",\"body\":{\"b\":[1]},\"index\":%u,"
                 "\"element\":%s}",
                 key, i, values[i]);
        assert_string_equal(element->text, document);
        assert_string_equal(element->key, key);
        assert_string_equal(element->field, FIELD);
        assert_int_equal(element->index, i);
        assert_ptr_equal(element->fan_out, f);
        assert_false(element->fans_out);
        assert_true(intent_body(element, &value));
        assert_true(intent_element(element, &value));
        intent_free(element);
    }
    assert_null(fan_out_next(f, &err));
    assert_int_equal(err.code, ERROR_NOT_FOUND);
    assert_true(fan_out_exhausted(f));
    assert_false(ended(f, 0));
    assert_false(ended(f, 2));
    assert_true(ended(f, 1));
    fan_out_free(f);
    fan_out_free(NULL);
}

static void test_progress(void **state)
{
    (void)state;
    static const char document[] = DOCUMENT("[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]");
    struct fan_out *f = make(document, NULL);
    char *text = progress_of(f);
    assert_string_equal(text, "");
    free(text);
    for (uint32_t i = 0; i < 18; i++)
        if (i != 3 && i != 17)
            ended(f, i);
    text = progress_of(f);
    assert_string_equal(text, "17/20:3");
    ended(f, 3); /* behind what is stored */
    fan_out_free(f);
    f = make(document, text);
    free(text);
    text = progress_of(f);
    assert_string_equal(text, ""); /* nothing new */
    free(text);
    static const uint32_t left[] = {3, 17, 18, 19};
    for (size_t i = 0; i < 4; i++) {
        struct error err;
        struct intent *element = fan_out_next(f, &err);
        assert_int_equal(element->index, left[i]);
        intent_free(element);
    }
    ended(f, 19);
    text = progress_of(f);
    assert_string_equal(text, "20/20:3,17,18");
    free(text);
    struct changes changes = {0};
    assert_false(fan_out_ended(f, 3, &changes));
    assert_false(fan_out_ended(f, 18, &changes));
    assert_int_equal(changes.n, 0);
    assert_true(fan_out_ended(f, 17, &changes));
    assert_int_equal(changes.n, 2); /* the intent and its progress */
    changes_done(&changes);
    fan_out_free(f);
}

/* Random ends, checkpoints and deaths. */
static void test_deaths(void **state)
{
    (void)state;
    enum { ELEMENTS = FAN_OUT_FIRST + 500, WINDOW = 40, ROUNDS = 10 };
    BUFFER_AUTO elements = BUFFER_INIT;
    BUFFER_AUTO document = BUFFER_INIT;
    for (unsigned i = 0; i < ELEMENTS; i++)
        buffer_printf(&elements, "%c%u", i ? ',' : '[', i);
    buffer_append_char(&elements, ']');
    buffer_append_text(&document, DOCUMENT(""));
    document.len--; /* the brace */
    buffer_append(&document, elements.data, elements.len);
    buffer_append_char(&document, '}');
    srandom(7);
    for (unsigned round = 0; round < ROUNDS; round++) {
        bool committed[ELEMENTS] = {false};
        bool pending[ELEMENTS] = {false};
        bool started[ELEMENTS] = {false}; /* in some life */
        unsigned n_certain = 0;
        char *progress = calloc(1, 1);
        struct fan_out *f = make(buffer_text(&document), NULL);
        uint32_t under_way[WINDOW];
        unsigned n = 0, n_committed = 0, lives = 0;
        while (n_committed < ELEMENTS) {
            struct error err;
            struct intent *element;
            while (n < WINDOW && (element = fan_out_next(f, &err))) {
                assert_false(committed[element->index]);
                assert_true(element->uncertain || !started[element->index] || !lives);
                n_certain += lives && !element->uncertain;
                started[element->index] = true;
                under_way[n++] = element->index;
                intent_free(element);
            }
            bool all = false;
            if (n) {
                unsigned which = (unsigned)random() % n;
                all = ended(f, under_way[which]);
                pending[under_way[which]] = true;
                under_way[which] = under_way[--n];
            }
            if (all || !n || random() % 8 == 0) { /* a checkpoint */
                fan_out_announce(f, 3);
                char *text = progress_of(f);
                if (*text || all) {
                    free(progress);
                    progress = text;
                } else {
                    free(text);
                }
                n_committed = 0;
                for (unsigned i = 0; i < ELEMENTS; i++)
                    n_committed += committed[i] |= pending[i];
            } else if (random() % 40 == 0) { /* a death */
                fan_out_free(f);
                f = make(buffer_text(&document), *progress ? progress : NULL);
                lives++;
                memcpy(pending, committed, sizeof pending);
                n = 0;
            }
        }
        assert_true(!lives || n_certain);
        free(progress);
        fan_out_free(f);
    }
}

static void test_held(void **state)
{
    (void)state;
    BUFFER_AUTO document = BUFFER_INIT;
    buffer_append_text(&document, DOCUMENT("[0"));
    document.len--; /* the brace */
    for (unsigned i = 1; i < FAN_OUT_FIRST + 10; i++)
        buffer_printf(&document, ",%u", i);
    buffer_append_text(&document, "]}");
    struct fan_out *f = make(buffer_text(&document), NULL);
    struct error err;
    struct intent *element;
    for (unsigned i = 0; i < FAN_OUT_FIRST; i++) {
        assert_false(fan_out_is_held(f));
        assert_non_null(element = fan_out_next(f, &err));
        intent_free(element);
    }
    assert_true(fan_out_is_held(f));
    assert_null(fan_out_next(f, &err));
    assert_false(fan_out_exhausted(f));
    fan_out_announce(f, 4);
    char *text = progress_of(f);
    assert_string_equal(text, "0/1004");
    free(text);
    for (unsigned i = 0; i < 4; i++) {
        assert_non_null(element = fan_out_next(f, &err));
        intent_free(element);
    }
    assert_true(fan_out_is_held(f));
    fan_out_announce(f, 1000);
    for (unsigned i = 0; i < 6; i++) {
        assert_non_null(element = fan_out_next(f, &err));
        intent_free(element);
    }
    assert_false(fan_out_is_held(f));
    assert_null(fan_out_next(f, &err));
    assert_true(fan_out_exhausted(f));
    fan_out_free(f);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const documents[] = {
        DOCUMENT("[]"), DOCUMENT("7"),
        "{\"key\":\"k\",\"trigger\":\"t\",\"action\":\"EMIT\",\"body\":{},\"elements\":[1]}",
        "{\"key\":\"k\",\"trigger\":\"t\",\"action\":\"EMIT\",\"body\":{},\"of\":{\"identity\":\"u\","
        "\"number\":-1},\"elements\":[1]}"};
    static const char *const progress[] = {"",     "x",  "3",  "2:2", "2:0,0", "1:",  "1;0",
                                           "2:0,", "-1", "1/", "1/3", "1/x",   "1/2;"};
    struct fan_out *f;
    struct error err;
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        struct intent *intent = whole(documents[i]);
        assert_int_equal(fan_out_new(intent, "1.5", NULL, &f, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        intent_free(intent);
    }
    for (size_t i = 0; i < sizeof progress / sizeof progress[0]; i++) {
        struct intent *intent = whole(DOCUMENT("[1,2]"));
        assert_int_equal(fan_out_new(intent, "1.5", progress[i], &f, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        intent_free(intent);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements), cmocka_unit_test(test_progress), cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_held),     cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
