/* Memory freed as a whole: alignment, sizes, and taking a buffer's memory. */
#include "common/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"

static void test_alloc(void **state)
{
    static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 511, 512, 513, 1024, 100000, 3};
    unsigned char *memory[sizeof sizes / sizeof sizes[0]];
    POOL_AUTO pool = POOL_INIT;
    (void)state;
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            memory[i] = pool_alloc(&pool, sizes[i]);
            assert_non_null(memory[i]);
            assert_int_equal((uintptr_t)memory[i] % 16, 0);
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(memory[i][j], 0);
            memset(memory[i], (int)i + 1, sizes[i]);
        }
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(memory[i][j], i + 1);
    }
    assert_null(pool_alloc(&pool, SIZE_MAX));
}

static void test_take(void **state)
{
    POOL_AUTO pool = POOL_INIT;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO empty = BUFFER_INIT;
    BUFFER_AUTO failed = {.failed = true};
    (void)state;
    buffer_append_text(&text, "kept");
    const char *kept = pool_take(&pool, &text);
    assert_null(text.data);
    buffer_append_text(&text, "other");
    assert_memory_equal(kept, "kept", 4);
    assert_non_null(pool_take(&pool, &empty));
    assert_null(pool_take(&pool, &failed));
    pool_done(&pool);
    assert_non_null(pool_alloc(&pool, 1)); /* and on */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_take),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
