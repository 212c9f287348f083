/* Tables: alignment by what a terminal shows, cutting, hostile cells. */
#include "cli/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"
#include "cli/output.h"

static const char *const headers[] = {"NAME", ">COUNT", "WHAT", NULL};

/* Writes a table of n cells at a width. */
static void assert_table(const char *const *cells, size_t n, size_t width, const char *expected)
{
    struct table table;
    BUFFER_AUTO out = BUFFER_INIT;
    table_init(&table, headers);
    for (size_t i = 0; i < n; i++)
        table_cell(&table, cells[i]);
    table_write(&table, width, &out);
    assert_string_equal(buffer_text(&out), expected);
    table_done(&table);
}

static void test_alignment(void **state)
{
    static const char *const cells[] = {"a", "1", "first", "longer", "12345678", ""};
    (void)state;
    assert_table(cells, 6, 0,
                 "NAME       COUNT  WHAT\n"
                 "a              1  first\n"
                 "longer  12345678\n");
    assert_table(cells, 0, 0, "NAME  COUNT  WHAT\n");
}

/* Accents, combining marks, wide characters. */
static void test_unicode(void **state)
{
    static const char *const cells[] = {"é",    "1", "x", "e\u0301", "2", "y",
                                        "日本", "3", "z", "abcd",    "4", "w"};
    (void)state;
    assert_int_equal(table_width("日本", strlen("日本")), 4);
    assert_int_equal(table_width("e\u0301", 3), 1);
    assert_int_equal(table_width("🙂", strlen("🙂")), 2);
    assert_table(cells, 12, 0,
                 "NAME  COUNT  WHAT\n"
                 "é         1  x\n"
                 "e\u0301         2  y\n"
                 "日本      3  z\n"
                 "abcd      4  w\n");
}

static void test_cutting(void **state)
{
    static const char *const cells[] = {"workspace-of-some-length", "1", "a text that is longer than that"};
    static const char *const wide[] = {"日本日本日本", "1", ""};
    (void)state;
    assert_table(cells, 3, 40,
                 "NAME             COUNT  WHAT\n"
                 "workspace-of-s…      1  a text that is …\n");
    assert_table(cells, 3, 1000,
                 "NAME                      COUNT  WHAT\n"
                 "workspace-of-some-length      1  a text that is longer than that\n");
    /* Half a wide character is not shown. */
    assert_table(wide, 3, 21, "NAME      COUNT  WHAT\n日本日…       1\n");
    /* There is an end to it. */
    assert_table(cells, 3, 3, "NAME  COU…  WHAT\nwor…     1  a t…\n");
}

static void test_hostile(void **state)
{
    static const char *const cells[] = {"a\033[2Jb", "\xff\xfe", "x\ny\tz", "\xc2\x9b", "\xe2\x82", "\x7f"};
    (void)state;
    assert_table(cells, 6, 0,
                 "NAME    COUNT  WHAT\n"
                 "a?[2Jb     ??  x?y?z\n"
                 "?          ??  ?\n");
}

/* Every byte sequence becomes UTF-8 without control characters. */
static void test_safe(void **state)
{
    (void)state;
    for (unsigned a = 1; a < 256; a++)
        for (unsigned b = 1; b < 256; b++) {
            char text[] = {(char)a, (char)b, 'x', '\0'};
            BUFFER_AUTO out = BUFFER_INIT;
            output_append_safe(&out, text);
            assert_true(utf8_valid(out.data, out.len));
            for (size_t i = 0; i < out.len; i++)
                assert_true((unsigned char)out.data[i] >= 0x20 && out.data[i] != 0x7F);
        }
}

static void test_numbers(void **state)
{
    char count[32], brief[16];
    (void)state;
    assert_string_equal(output_count(0, count), "0");
    assert_string_equal(output_count(999, count), "999");
    assert_string_equal(output_count(1234567, count), "1,234,567");
    assert_string_equal(output_count(UINT64_MAX, count), "18,446,744,073,709,551,615");
    assert_string_equal(output_short(9999, brief), "9999");
    assert_string_equal(output_short(123456, brief), "123.5k");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alignment), cmocka_unit_test(test_unicode), cmocka_unit_test(test_cutting),
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_safe),    cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
