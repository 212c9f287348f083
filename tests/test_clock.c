/* Time as text, and that clocks do not run backwards. */
#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void test_iso(void **state)
{
    (void)state;
    static const struct {
        uint64_t ns;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000000Z"},
        {999, "1970-01-01T00:00:00.000000Z"},
        {1000, "1970-01-01T00:00:00.000001Z"},
        {CLOCK_S - 1, "1970-01-01T00:00:00.999999Z"},
        {1603198800ull * CLOCK_S + 120 * CLOCK_MS, "2020-10-20T13:00:00.120000Z"},
        {1582934400ull * CLOCK_S, "2020-02-29T00:00:00.000000Z"},
        {UINT64_MAX, "2554-07-21T23:34:33.709551Z"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char out[CLOCK_ISO_MAX];
        assert_ptr_equal(clock_iso(rows[i].ns, out), out);
        assert_string_equal(out, rows[i].text);
    }
}

static void test_forwards(void **state)
{
    (void)state;
    uint64_t last = clock_now_ns();
    uint64_t coarse = clock_coarse_ns();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_now_ns();
        uint64_t now_coarse = clock_coarse_ns();
        assert_true(now >= last && now_coarse >= coarse);
        assert_true(now_coarse <= clock_now_ns()); /* behind, never ahead */
        last = now;
        coarse = now_coarse;
    }
    assert_true(clock_unix_ns() > 1600000000ull * CLOCK_S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_iso), cmocka_unit_test(test_forwards)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
