/* XREAD replies taken apart: fed to hiredis' reader in every split, growing storage, the bound on memory, and
 * looking ahead over the same bytes. */
#include "worker/source/redis_batch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void bulk(struct buffer *b, const char *text, size_t len)
{
    buffer_printf(b, "$%zu\r\n", len);
    buffer_append(b, text, len);
    buffer_append_text(b, "\r\n");
}

static void begin_reply(struct buffer *b, size_t n_entries)
{
    buffer_append_text(b, "*1\r\n*2\r\n$6\r\nstream\r\n");
    buffer_printf(b, "*%zu\r\n", n_entries);
}

static void add_entry(struct buffer *b, uint64_t ms, uint64_t seq, size_t n_fields)
{
    BUFFER_AUTO id = BUFFER_INIT;
    buffer_printf(&id, "%llu-%llu", (unsigned long long)ms, (unsigned long long)seq);
    buffer_append_text(b, "*2\r\n");
    bulk(b, id.data, id.len);
    buffer_printf(b, "*%zu\r\n", n_fields);
}

static redisReader *reader_new(struct redis_batch *batch)
{
    redisReader *reader = redisReaderCreateWithFunctions(redis_batch_functions());
    assert_non_null(reader);
    reader->privdata = batch;
    redis_batch_begin(batch);
    return reader;
}

/* Feeds all of it and takes one reply. */
static void parse(struct redis_batch *batch, const struct buffer *text)
{
    redisReader *reader = reader_new(batch);
    void *reply = NULL;
    assert_int_equal(redisReaderFeed(reader, text->data, text->len), REDIS_OK);
    assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
    assert_non_null(reply);
    redisReaderFree(reader);
}

static void assert_field(const struct redis_batch *batch, size_t entry, size_t field, const char *text,
                         size_t len)
{
    size_t found;
    const char *at = redis_batch_field(batch, &batch->entries[entry], field, &found);
    assert_int_equal(found, len);
    assert_memory_equal(at, text, len);
}

static const char two_entries[] =
    "*1\r\n*2\r\n$6\r\nstream\r\n*2\r\n"
    "*2\r\n$15\r\n1603200000000-7\r\n*4\r\n$4\r\ntype\r\n$1\r\na\r\n"
    "$7\r\nsubject\r\n$0\r\n\r\n"
    "*2\r\n$20\r\n18446744073709551615\r\n*2\r\n$4\r\ndata\r\n$5\r\n\0\r\n\xff!\r\n";

static void assert_two_entries(const struct redis_batch *batch)
{
    assert_int_equal(batch->n_entries, 2);
    assert_int_equal(batch->n_fields, 6);
    assert_false(batch->cut || batch->failed);
    assert_int_equal(batch->error.len, 0);
    assert_int_equal(batch->entries[0].id.ms, 1603200000000);
    assert_int_equal(batch->entries[0].id.seq, 7);
    assert_int_equal(batch->entries[0].n_fields, 4);
    assert_int_equal(batch->entries[0].bytes, 12);
    assert_field(batch, 0, 0, "type", 4);
    assert_field(batch, 0, 1, "a", 1);
    assert_field(batch, 0, 2, "subject", 7);
    assert_field(batch, 0, 3, "", 0);
    assert_true(batch->entries[1].id.ms == UINT64_MAX);
    assert_int_equal(batch->entries[1].id.seq, 0);
    assert_int_equal(batch->entries[1].n_fields, 2);
    assert_int_equal(batch->entries[1].bytes, 9);
    assert_field(batch, 1, 0, "data", 4);
    assert_field(batch, 1, 1, "\0\r\n\xff!", 5);
}

static void test_every_split(void **state)
{
    (void)state;
    struct redis_batch batch = {0};
    size_t len = sizeof two_entries - 1;
    for (size_t split = 0; split <= len; split++) {
        redisReader *reader = reader_new(&batch);
        void *reply = NULL;
        assert_int_equal(redisReaderFeed(reader, two_entries, split), REDIS_OK);
        assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
        assert_true((reply != NULL) == (split == len));
        assert_int_equal(redisReaderFeed(reader, two_entries + split, len - split), REDIS_OK);
        if (!reply)
            assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
        assert_non_null(reply);
        assert_two_entries(&batch);
        redisReaderFree(reader);
    }
    redis_batch_done(&batch);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    struct redis_batch batch = {0};
    size_t len = sizeof two_entries - 1;
    redisReader *reader = reader_new(&batch);
    void *reply = NULL;
    for (size_t i = 0; i < len; i++) {
        assert_null(reply);
        assert_int_equal(redisReaderFeed(reader, two_entries + i, 1), REDIS_OK);
        assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
    }
    assert_non_null(reply);
    assert_two_entries(&batch);
    redisReaderFree(reader);
    redis_batch_done(&batch);
}

/* Replies that hold no entries. */
static void test_other_replies(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *error;
    } rows[] = {
        {"*-1\r\n", ""},
        {"$-1\r\n", ""},
        {"*0\r\n", ""},
        {":5\r\n", ""},
        {"+OK\r\n", ""},
        {"-WRONGTYPE no\r\n", "WRONGTYPE no"},
        {"*1\r\n*2\r\n$1\r\ns\r\n*0\r\n", ""},
    };
    struct redis_batch batch = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO text = BUFFER_INIT;
        buffer_append_text(&text, rows[i].text);
        parse(&batch, &text);
        assert_int_equal(batch.n_entries, 0);
        assert_string_equal(buffer_text(&batch.error), rows[i].error);
    }
    redis_batch_done(&batch);
}

/* An entry that was deleted meanwhile has no fields. */
static void test_entry_without_fields(void **state)
{
    (void)state;
    struct redis_batch batch = {0};
    BUFFER_AUTO text = BUFFER_INIT;
    begin_reply(&text, 3);
    buffer_append_text(&text, "*2\r\n$3\r\n1-1\r\n*-1\r\n*2\r\n$3\r\n1-2\r\n*0\r\n");
    add_entry(&text, 1, 3, 2);
    bulk(&text, "a", 1);
    bulk(&text, "b", 1);
    parse(&batch, &text);
    assert_int_equal(batch.n_entries, 3);
    assert_int_equal(batch.entries[0].n_fields, 0);
    assert_int_equal(batch.entries[1].n_fields, 0);
    assert_int_equal(batch.entries[2].n_fields, 2);
    assert_field(&batch, 2, 1, "b", 1);
    redis_batch_done(&batch);
}

/* Shapes that are none of XREAD's must not do harm. */
static void test_odd_shapes(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "*1\r\n*1\r\n*1\r\n*1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n$3\r\n1-1\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*3\r\n$3\r\n1-1\r\n*1\r\n$1\r\na\r\n*2\r\n$1\r\nb\r\n$1\r\nc\r\n",
        "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n*1\r\n$1\r\na\r\n:7\r\n",
    };
    struct redis_batch batch = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        BUFFER_AUTO text = BUFFER_INIT;
        buffer_append_text(&text, rows[i]);
        parse(&batch, &text);
        assert_true(batch.n_fields <= batch.fields_cap);
        assert_false(batch.failed);
    }
    redis_batch_done(&batch);
}

/* Many entries and, in one of them, many fields: everything grows. */
static void test_growth(void **state)
{
    (void)state;
    enum { ENTRIES = 3000, WIDE = 20000 };
    struct redis_batch batch = {0};
    BUFFER_AUTO text = BUFFER_INIT;
    char word[24];
    begin_reply(&text, ENTRIES);
    for (size_t i = 0; i < ENTRIES; i++) {
        size_t n = i == 2000 ? WIDE : i % 7;
        add_entry(&text, i, i * 2, n);
        for (size_t j = 0; j < n; j++)
            bulk(&text, word, (size_t)snprintf(word, sizeof word, "%zu.%zu", i, j));
    }
    for (int round = 0; round < 2; round++) { /* the second time in memory that is there already */
        parse(&batch, &text);
        assert_int_equal(batch.n_entries, ENTRIES);
        assert_false(batch.cut || batch.failed);
        for (size_t i = 0; i < ENTRIES; i++) {
            assert_int_equal(batch.entries[i].id.ms, i);
            assert_int_equal(batch.entries[i].id.seq, i * 2);
            assert_int_equal(batch.entries[i].n_fields, i == 2000 ? WIDE : i % 7);
            for (size_t j = 0; j < batch.entries[i].n_fields; j++)
                assert_field(&batch, i, j, word, (size_t)snprintf(word, sizeof word, "%zu.%zu", i, j));
        }
    }
    redis_batch_done(&batch);
}

/* At 16 MiB of text the rest is left out, entry by entry; the next batch begins afresh. */
static void test_cut(void **state)
{
    (void)state;
    enum { ENTRIES = 40, SIZE = 1 << 20 };
    struct redis_batch batch = {0};
    BUFFER_AUTO text = BUFFER_INIT;
    char *value = malloc(SIZE);
    assert_non_null(value);
    begin_reply(&text, ENTRIES);
    for (size_t i = 0; i < ENTRIES; i++) {
        memset(value, (int)('a' + i % 26), SIZE);
        add_entry(&text, i, 0, 2);
        bulk(&text, "d", 1);
        bulk(&text, value, SIZE);
    }
    parse(&batch, &text);
    assert_true(batch.cut);
    assert_false(batch.failed);
    assert_int_equal(batch.n_entries, 16); /* with the names: just above 16 MiB */
    assert_int_equal(batch.n_fields, 32);
    assert_int_equal(batch.text.len, 16 * (SIZE + 1));
    memset(value, 'a' + 15, SIZE);
    assert_field(&batch, 15, 1, value, SIZE);
    free(value);
    text.len = 0;
    buffer_append(&text, two_entries, sizeof two_entries - 1);
    parse(&batch, &text);
    assert_two_entries(&batch);
    assert_true(batch.text.cap <= 8u << 20); /* large memory is given back */
    redis_batch_done(&batch);
}

/* --- looking ahead --- */

static void test_frame_every_split(void **state)
{
    (void)state;
    size_t len = sizeof two_entries - 1;
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append(&text, two_entries, len);
    buffer_append(&text, two_entries, len); /* what follows is not looked at */
    for (size_t split = 0; split < len; split++) {
        struct redis_frame frame = {0};
        char *exact = malloc(split + 1); /* nothing behind the end is touched */
        assert_non_null(exact);
        memcpy(exact, text.data, split);
        assert_int_equal(redis_frame_scan(&frame, exact, split), 1);
        assert_true(frame.at <= split);
        free(exact);
        assert_int_equal(redis_frame_scan(&frame, text.data, text.len), 0);
        assert_int_equal(frame.at, len);
        assert_int_equal(frame.n_entries, 2);
        struct redis_id last = redis_frame_last(&frame, text.data);
        assert_true(last.ms == UINT64_MAX && last.seq == 0);
    }
    struct redis_frame frame = {0};
    for (size_t n = 0; n < len; n++)
        assert_int_equal(redis_frame_scan(&frame, text.data, n), 1);
    assert_int_equal(redis_frame_scan(&frame, text.data, len), 0);
    assert_int_equal(frame.n_entries, 2);
}

static void test_frame_other(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int result;
        size_t n_entries;
    } rows[] = {
        {"*-1\r\n", 0, 0},
        {"$-1\r\n", 0, 0},
        {"*0\r\n", 0, 0},
        {"-ERR no\r\n", 0, 0},
        {":1\r\n", 0, 0},
        {"+OK\r", 1, 0},
        {"*2\r\n:1\r\n", 1, 0},
        {"*x\r\n", -1, 0},
        {"$\r\n", -1, 0},
        {"$99999999999999999999\r\n", -1, 0},
        {"*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n4-5\r\n*-1\r\n", 0, 1},
        {"*1\r\n*1\r\n*1\r\n*2\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n:1\r\n", 0, 0},
        {"*1\r\n*1\r\n*1\r\n*2\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n:1\r\n", -1, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct redis_frame frame = {0};
        assert_int_equal(redis_frame_scan(&frame, rows[i].text, strlen(rows[i].text)), rows[i].result);
        assert_int_equal(frame.n_entries, rows[i].n_entries);
        if (rows[i].result == 0)
            assert_int_equal(frame.at, strlen(rows[i].text));
        if (rows[i].n_entries) {
            struct redis_id last = redis_frame_last(&frame, rows[i].text);
            assert_true(last.ms == 4 && last.seq == 5);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_split),   cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_other_replies), cmocka_unit_test(test_entry_without_fields),
        cmocka_unit_test(test_odd_shapes),    cmocka_unit_test(test_growth),
        cmocka_unit_test(test_cut),           cmocka_unit_test(test_frame_every_split),
        cmocka_unit_test(test_frame_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
