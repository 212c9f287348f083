/* The global context: snapshots as they are stored, replaced only by what is new. */
#include "worker/globals.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/error.h"
#include "common/json.h"
#include "common/storage/storage.h"
#include "tests/support/storage_bed.h"

static void put(struct storage *storage, enum storage_op_kind kind, const char *name, const char *value)
{
    struct error err;
    int result;
    struct storage_op op = {STORAGE_GLOBAL_CONTEXT, kind, name, strlen(name), value, strlen(value), NULL, 0};
    if (storage->type->edit(storage, "w", &op, 1, &result, &err) != 0)
        fail_msg("%s", err.message);
}

static void assert_text(const struct globals *globals, const char *text)
{
    assert_non_null(globals);
    assert_int_equal(globals->len, strlen(text));
    assert_memory_equal(globals->text, text, globals->len);
    assert_int_equal(globals->root.type, JSON_OBJECT);
}

static void test_load(void **state)
{
    struct storage_bed bed;
    struct globals_slot slot;
    struct globals *held = NULL;
    uint64_t version = 0;
    struct error err;
    char deep[2 * JSON_MAX_DEPTH + 1];
    (void)state;
    assert_int_equal(storage_bed_start(&bed, "sqlite"), 0);
    struct storage *storage = storage_bed_open(&bed);
    assert_non_null(storage);
    assert_int_equal(storage->type->create(storage, "w", "1.5", NULL, 0, &err), 0);
    globals_slot_init(&slot);
    assert_null(globals_get(&slot));
    globals_refresh(&slot, &held, &version);
    assert_null(held);
    assert_int_equal(globals_load(&slot, storage, "w", &err), 1);
    globals_refresh(&slot, &held, &version);
    assert_text(held, "{}");
    assert_int_equal(globals_load(&slot, storage, "w", &err), 0);
    put(storage, STORAGE_PUT, "a", "{\"b\":[1]}");
    assert_int_equal(globals_load(&slot, storage, "w", &err), 1);
    assert_text(held, "{}"); /* a snapshot stays what it was */
    globals_refresh(&slot, &held, &version);
    assert_text(held, "{\"a\":{\"b\":[1]}}");
    /* What another program has written. */
    put(storage, STORAGE_PUT, "a", "not JSON \"");
    assert_int_equal(globals_load(&slot, storage, "w", &err), 1);
    globals_refresh(&slot, &held, &version);
    assert_text(held, "{\"a\":\"not JSON \\\"\"}");
    memset(deep, '[', JSON_MAX_DEPTH);
    memset(deep + JSON_MAX_DEPTH, ']', JSON_MAX_DEPTH);
    deep[2 * JSON_MAX_DEPTH] = '\0';
    put(storage, STORAGE_PUT, "a", deep);
    assert_int_equal(globals_load(&slot, storage, "w", &err), 1);
    globals_refresh(&slot, &held, &version);
    assert_int_equal(held->len, 2 * JSON_MAX_DEPTH + strlen("{\"a\":\"\"}"));
    put(storage, STORAGE_DELETE, "a", "");
    assert_int_equal(globals_load(&slot, storage, "w", &err), 1);
    struct globals *another = globals_get(&slot);
    assert_text(another, "{}");
    globals_unref(another);
    globals_unref(held);
    globals_slot_done(&slot);
    storage_close(storage);
    storage_bed_done(&bed);
}

static void test_new(void **state)
{
    struct globals *globals;
    struct error err;
    (void)state;
    assert_int_equal(globals_new("{\"a\":1}", 7, &globals, &err), 0);
    assert_text(globals, "{\"a\":1}");
    globals_unref(globals);
    assert_int_equal(globals_new("[1]", 3, &globals, &err), -1);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_int_equal(globals_new("{", 1, &globals, &err), -1);
    globals_unref(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
