/* Dead letters: exactly what is stored. */
#include "worker/deadletter.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/cloudevent.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/checkpoint/changes.h"

/* The letter as stored, with its time taken out. */
static void assert_letter(const struct dead_letter *letter, const char *before_time, const char *behind_time)
{
    struct changes changes = {0};
    struct json_value root;
    size_t before = strlen(before_time);
    size_t behind = strlen(behind_time);
    size_t time = strlen("\"2020-10-20T13:00:00.000000Z\"");
    dead_letter_add(letter, &changes);
    assert_int_equal(changes.n, 1);
    const struct change *c = &changes.items[0];
    const char *value = changes.text.data + c->value;
    assert_int_equal(c->set, STORAGE_DEAD_LETTERS);
    assert_int_equal(c->kind, STORAGE_PUT);
    assert_int_equal(c->key_len, 0);
    assert_int_equal(c->value_len, before + time + behind);
    assert_memory_equal(value, before_time, before);
    assert_memory_equal(value + before + time, behind_time, behind);
    assert_int_equal(json_scan(value, c->value_len, &root, NULL), 0);
    changes_done(&changes);
}

static void test_little(void **state)
{
    (void)state;
    assert_letter(&(struct dead_letter){.reason = "no_trigger"}, "{\"reason\":\"no_trigger\",\"time\":", "}");
}

static void test_everything(void **state)
{
    (void)state;
    struct cloudevent event;
    static const char json[] =
        "{\"specversion\":\"1.0\",\"id\":\"i\",\"source\":\"s\",\"type\":\"t\",\"data\":[1]}";
    assert_int_equal(cloudevent_parse(&event, json, strlen(json), NULL, NULL), 0);
    struct dead_letter letter = {.reason = "action_failed",
                                 .detail = "a \"quoted\" \n word",
                                 .source = "in",
                                 .position = "1-2",
                                 .trigger = "t\xc3\xa9",
                                 .key = "abc",
                                 .event = &event,
                                 .body = "\"fields\":[[\"a\",\"b\"]]",
                                 .body_len = 20};
    assert_letter(
        &letter, "{\"reason\":\"action_failed\",\"detail\":\"a \\\"quoted\\\" \\n word\",\"time\":",
        ",\"source\":\"in\",\"position\":\"1-2\",\"trigger\":\"t\xc3\xa9\",\"key\":\"abc\",\"event\":"
        "{\"specversion\":\"1.0\",\"id\":\"i\",\"source\":\"s\",\"type\":\"t\",\"data\":[1]},"
        "\"fields\":[[\"a\",\"b\"]]}");
}

/* Bytes that are not UTF-8 must not spoil the document. */
static void test_not_utf8(void **state)
{
    (void)state;
    assert_letter(&(struct dead_letter){.reason = "invalid_event", .detail = "x\xff"},
                  "{\"reason\":\"invalid_event\",\"detail\":\"(not UTF-8)\",\"time\":", "}");
}

static void assert_unmatched(const char *type, const char *subject, const char *detail)
{
    char text[DEAD_LETTER_DETAIL];
    struct cloudevent event = {0};
    event.attribute[CE_TYPE] = (struct cloudevent_span){type, (uint32_t)strlen(type)};
    if (subject)
        event.attribute[CE_SUBJECT] = (struct cloudevent_span){subject, (uint32_t)strlen(subject)};
    dead_letter_unmatched(&event, text);
    assert_string_equal(text, detail);
}

static void test_unmatched(void **state)
{
    (void)state;
    char type[400], detail[DEAD_LETTER_DETAIL];
    assert_unmatched("t", "s", "no trigger has the type t and the subject s");
    assert_unmatched("t", NULL, "no trigger has the type t and the subject \"\"");
    memset(type, 'x', sizeof type);
    strcpy(type + 79, "\xc3\xa9 and so on");
    snprintf(detail, sizeof detail, "no trigger has the type %.79s and the subject %.79s", type, type);
    assert_unmatched(type, type, detail);
}

/* A flood is stored whole, however little of it is logged. */
static void test_flood(void **state)
{
    (void)state;
    struct changes changes = {0};
    for (int i = 0; i < 1000; i++)
        dead_letter_add(&(struct dead_letter){.reason = "no_trigger"}, &changes);
    assert_int_equal(changes.n, 1000);
    changes_done(&changes);
}

int main(void)
{
    log_setup(LOG_LEVEL_ERROR, false, "test_deadletter", NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_little),    cmocka_unit_test(test_everything), cmocka_unit_test(test_not_utf8),
        cmocka_unit_test(test_unmatched), cmocka_unit_test(test_flood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
