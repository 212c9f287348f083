/* The policy of an invoking action: reading, keeping, and the back-off. */
#include "worker/executor/invocation_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"

static int load(const char *document, struct invocation_policy *policy, struct error *err)
{
    struct json_value value;
    assert_int_equal(json_scan(document, strlen(document), &value, NULL), 0);
    return invocation_policy_load(&value, policy, err);
}

static void test_defaults(void **state)
{
    (void)state;
    static const char *const documents[] = {"{}", "{\"timeout_s\":null,\"rate\":null,\"on_uncertain\":null}"};
    for (size_t i = 0; i < 2; i++) {
        struct invocation_policy p;
        assert_int_equal(load(documents[i], &p, NULL), 0);
        assert_int_equal(p.timeout_ns, 60 * CLOCK_S);
        assert_int_equal(p.max_retries, 5);
        assert_int_equal(p.backoff_ns, CLOCK_S / 2);
        assert_int_equal(p.max_in_flight, 0);
        assert_true(p.rate == 0);
        assert_false(p.give_up_uncertain);
    }
}

static void assert_same(const struct invocation_policy *a, const struct invocation_policy *b)
{
    assert_int_equal(a->timeout_ns, b->timeout_ns);
    assert_int_equal(a->max_retries, b->max_retries);
    assert_int_equal(a->backoff_ns, b->backoff_ns);
    assert_int_equal(a->max_in_flight, b->max_in_flight);
    assert_true(a->rate == b->rate);
    assert_int_equal(a->give_up_uncertain, b->give_up_uncertain);
}

static void test_kept(void **state)
{
    (void)state;
    static const char *const documents[] = {
        "{}",
        "{\"timeout_s\":0.25}",
        "{\"timeout_s\":1.5,\"retries\":0,\"backoff_s\":0,\"max_in_flight\":7,\"rate\":0.1,\"on_uncertain\":"
        "\"dead_letter\"}",
        "{\"max_retries\":3,\"on_uncertain\":\"repeat\",\"rate\":1e3}",
        "{\"retries\":2,\"max_retries\":3}",
    };
    for (size_t i = 0; i < sizeof documents / sizeof documents[0]; i++) {
        struct invocation_policy before, after;
        struct json_value body;
        BUFFER_AUTO text = BUFFER_INIT;
        assert_int_equal(load(documents[i], &before, NULL), 0);
        buffer_append_char(&text, '{');
        invocation_policy_write(&before, &text);
        buffer_append_char(&text, '}');
        assert_int_equal(json_scan(text.data, text.len, &body, NULL), 0);
        invocation_policy_of(&body, &after);
        assert_same(&before, &after);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *document, *message;
    } rows[] = {
        {"{\"timeout_s\":0}", "timeout_s is 0, not a number from 0.001 to 86400"},
        {"{\"timeout_s\":\"5\"}", "timeout_s is \"5\", not a number from 0.001 to 86400"},
        {"{\"timeout_s\":1e300}", "timeout_s is 1e300, not"},
        {"{\"timeout_s\":1e999}", "timeout_s is 1e999, not"},
        {"{\"retries\":-1}", "retries is -1, not a whole number from 0 to 1000"},
        {"{\"retries\":1.5}", "retries is 1.5, not"},
        {"{\"max_retries\":[]}", "max_retries is [], not"},
        {"{\"max_in_flight\":true}", "max_in_flight is true, not"},
        {"{\"rate\":0}", "rate is 0, not"},
        {"{\"rate\":-5}", "rate is -5, not"},
        {"{\"backoff_s\":61}", "backoff_s is 61, not a number from 0 to 60"},
        {"{\"on_uncertain\":\"drop\"}", "on_uncertain is \"drop\", not repeat or dead_letter"},
        {"{\"on_uncertain\":1}", "on_uncertain is 1, not repeat or dead_letter"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct invocation_policy p = {.max_retries = 99};
        struct error err;
        assert_int_equal(load(rows[i].document, &p, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        assert_memory_equal(err.message, rows[i].message, strlen(rows[i].message));
        assert_int_equal(p.max_retries, 99);
    }
}

static void test_damaged_body(void **state)
{
    (void)state;
    static const char *const bodies[] = {"{}", "{\"policy\":7}", "{\"policy\":{\"rate\":\"x\"}}"};
    for (size_t i = 0; i < 3; i++) {
        struct invocation_policy p;
        struct json_value body;
        assert_int_equal(json_scan(bodies[i], strlen(bodies[i]), &body, NULL), 0);
        invocation_policy_of(&body, &p);
        assert_int_equal(p.max_retries, 5);
    }
}

static void test_delay(void **state)
{
    (void)state;
    struct invocation_policy p;
    assert_int_equal(load("{\"backoff_s\":0.5}", &p, NULL), 0);
    for (unsigned n = 1; n < 100; n++) {
        uint64_t ceiling = n < 8 ? CLOCK_S / 2 << (n - 1) : 60 * CLOCK_S;
        uint64_t most = 0;
        for (uint64_t r = 0; r < 1000; r++) {
            uint64_t random = r * 0x9E3779B97F4A7C15ull >> 16;
            uint64_t delay = invocation_policy_delay(&p, n, 0, random);
            assert_true(delay <= ceiling);
            most = delay > most ? delay : most;
            /* What the server asks for is waited for, and the jitter comes on top. */
            assert_int_equal(invocation_policy_delay(&p, n, 7 * CLOCK_S, random), delay + 7 * CLOCK_S);
        }
        assert_true(most > ceiling / 2);
    }
    assert_int_equal(load("{\"backoff_s\":0}", &p, NULL), 0);
    assert_int_equal(invocation_policy_delay(&p, 3, 0, 12345), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),     cmocka_unit_test(test_kept),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damaged_body), cmocka_unit_test(test_delay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
