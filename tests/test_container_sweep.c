/* Removing containers by their label, against an engine that says what it is told to. */
#include "worker/local/container_sweep.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/fake_engine.h"

#define LIST \
    "GET /containers/json?all=1&filters=%7B%22label%22%3A%5B%22triggerflow.owner%3D00ff%22%5D%7D HTTP/1.1"

struct bed {
    struct fake_engine fake;
    struct container_sweep sweep;
    unsigned n, found;
    bool all_gone;
};

static void on_swept(void *data, unsigned found, bool all_gone)
{
    struct bed *bed = data;
    bed->n++;
    bed->found = found;
    bed->all_gone = all_gone;
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    fake_engine_open(&bed->fake);
    bed->sweep = (struct container_sweep){.engine = &bed->fake.engine,
                                          .label = "triggerflow.owner=00ff",
                                          .spared = "mine",
                                          .swept = on_swept,
                                          .data = bed};
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    fake_engine_close(&bed->fake);
    free(bed);
    return 0;
}

static void assert_end(struct bed *bed, unsigned found, bool all_gone)
{
    fake_engine_until(&bed->fake, &bed->n);
    assert_int_equal(bed->n, 1);
    assert_int_equal(bed->found, found);
    assert_int_equal(bed->all_gone, all_gone);
    assert_false(container_sweep_under_way(&bed->sweep));
    bed->n = 0;
}

static void test_none(void **state)
{
    struct bed *bed = *state;
    container_sweep_begin(&bed->sweep);
    assert_true(container_sweep_under_way(&bed->sweep));
    fake_engine_say(&bed->fake, LIST, 200, "[]");
    assert_end(bed, 0, true);
}

static void test_spared(void **state)
{
    struct bed *bed = *state;
    container_sweep_begin(&bed->sweep);
    fake_engine_say(&bed->fake, LIST, 200,
                    "[{\"Id\":\"c1\",\"Labels\":{\"triggerflow.life\":\"mine\"}},"
                    "{\"Id\":\"c2\",\"Labels\":{\"triggerflow.life\":\"other\"}}]");
    fake_engine_say(&bed->fake, "DELETE /containers/c2?force=1&v=1 ", 204, "");
    assert_end(bed, 1, true);
    bed->sweep.spared = NULL;
    container_sweep_begin(&bed->sweep);
    fake_engine_say(&bed->fake, LIST, 200, "[{\"Id\":\"c1\",\"Labels\":{\"triggerflow.life\":\"mine\"}}]");
    fake_engine_say(&bed->fake, "DELETE /containers/c1?force=1&v=1 ", 204, "");
    assert_end(bed, 1, true);
}

/* Gone, or being removed by somebody else, is as good; a failure is not. */
static void test_removals(void **state)
{
    static const struct {
        unsigned status;
        bool gone;
    } cases[] = {{404, true}, {409, true}, {500, false}, {0, false}};
    struct bed *bed = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        container_sweep_begin(&bed->sweep);
        fake_engine_say(&bed->fake, LIST, 200,
                        "[{\"Id\":\"c\",\"Labels\":{}},{\"Id\":\"c\",\"Labels\":{\"a\":\"b\"}}]");
        fake_engine_say(&bed->fake, "DELETE /containers/c?", cases[i].status, "{}");
        fake_engine_say(&bed->fake, "DELETE /containers/c?", 204, "");
        assert_end(bed, 2, cases[i].gone);
    }
}

/* Answers that no engine gives remove nothing. */
static void test_nonsense(void **state)
{
    static const char *const answers[] = {"", "{}", "null", "[", "[1", "\"x\""};
    struct bed *bed = *state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        container_sweep_begin(&bed->sweep);
        fake_engine_say(&bed->fake, LIST, 200, answers[i]);
        assert_end(bed, 0, false);
    }
    container_sweep_begin(&bed->sweep);
    fake_engine_say(&bed->fake, LIST, 200,
                    "[1,null,{},{\"Id\":1},{\"Id\":\"\"},{\"Id\":\"c\"},{\"Id\":\"c\",\"Labels\":null}]");
    assert_end(bed, 0, true);
    container_sweep_begin(&bed->sweep);
    fake_engine_say(&bed->fake, LIST, 500, "{\"message\":\"no\"}");
    assert_end(bed, 0, false);
    container_sweep_begin(&bed->sweep);
    fake_engine_say(&bed->fake, LIST, 0, "");
    assert_end(bed, 0, false);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_none),
        TEST(test_spared),
        TEST(test_removals),
        TEST(test_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
