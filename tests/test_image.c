/* Looking for images and pulling them, against an engine that says what it is told to. */
#include "worker/local/image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "tests/support/fake_engine.h"

#define NAME "reg.example:5000/a/b"
#define LOOK "GET /images/" NAME "/json HTTP/1.1"
#define PULL "POST /images/create?fromImage=" NAME "&tag=latest HTTP/1.1"
#define ABSENT "{\"message\":\"No such image\"}"

struct bed {
    struct fake_engine fake;
    struct image_search search;
    unsigned n;
    struct error why; /* code ERROR_NONE: found */
};

static void on_found(void *data, const struct error *why)
{
    struct bed *bed = data;
    bed->n++;
    bed->why = why ? *why : (struct error){.code = ERROR_NONE};
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    fake_engine_open(&bed->fake);
    bed->search = (struct image_search){.engine = &bed->fake.engine,
                                        .image = NAME,
                                        .pull = true,
                                        .pull_timeout_ns = 60 * CLOCK_S,
                                        .found = on_found,
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

/* The outcome: none, or one whose message says all of this and names the image. */
static void assert_end(struct bed *bed, enum error_code code, const char *part)
{
    fake_engine_until(&bed->fake, &bed->n);
    assert_int_equal(bed->n, 1);
    if (bed->why.code != code)
        fail_msg("%d: %s", bed->why.code, bed->why.message);
    if (code != ERROR_NONE && (!strstr(bed->why.message, part) || !strstr(bed->why.message, NAME)))
        fail_msg("no %s: %s", part, bed->why.message);
}

/* Looks, and has to pull. */
static void begin_pull(struct bed *bed)
{
    image_find(&bed->search);
    fake_engine_say(&bed->fake, LOOK, 404, ABSENT);
}

static void test_there(void **state)
{
    struct bed *bed = *state;
    image_find(&bed->search);
    fake_engine_say(&bed->fake, LOOK, 200, "{}");
    assert_end(bed, ERROR_NONE, NULL);
}

static void test_pulled(void **state)
{
    static const char *const names[][2] = {{"a", "a&tag=latest"},
                                           {"a:1", "a:1"},
                                           {"r:5000/a", "r:5000/a&tag=latest"},
                                           {"r/a@sha256:0", "r/a@sha256:0"}};
    struct bed *bed = *state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char look[128], pull[128];
        snprintf(look, sizeof look, "GET /images/%s/json ", names[i][0]);
        snprintf(pull, sizeof pull, "POST /images/create?fromImage=%s ", names[i][1]);
        bed->search.image = names[i][0];
        bed->n = 0;
        image_find(&bed->search);
        fake_engine_say(&bed->fake, look, 404, ABSENT);
        fake_engine_say(&bed->fake, pull, 200, "{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n");
        fake_engine_say(&bed->fake, look, 200, "{}");
        assert_end(bed, ERROR_NONE, NULL);
    }
}

static void test_absent(void **state)
{
    struct bed *bed = *state;
    bed->search.pull = false;
    image_find(&bed->search);
    fake_engine_say(&bed->fake, LOOK, 404, ABSENT);
    assert_end(bed, ERROR_REFUSED, "404 No such image");
}

/* A pull that says it is done, of an image that is not there then. */
static void test_absent_after_pull(void **state)
{
    struct bed *bed = *state;
    begin_pull(bed);
    fake_engine_say(&bed->fake, PULL, 200, "{\"status\":\"Done\"}\r\n");
    fake_engine_say(&bed->fake, LOOK, 404, ABSENT);
    assert_end(bed, ERROR_REFUSED, "404 No such image");
}

static void test_refused(void **state)
{
    static const unsigned statuses[] = {400, 404, 500, 503};
    struct bed *bed = *state;
    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        bed->n = 0;
        begin_pull(bed);
        fake_engine_say(&bed->fake, PULL, statuses[i], "{\"message\":\"denied\"}");
        assert_end(bed, ERROR_UNAVAILABLE, "denied");
    }
}

static void test_fails_on_the_way(void **state)
{
    struct bed *bed = *state;
    begin_pull(bed);
    fake_engine_say(&bed->fake, PULL, 200,
                    "{\"status\":\"Pulling\"}\r\n{\"errorDetail\":{\"message\":\"x\"},\"error\":\"no "
                    "\\\"space\\\" left\"}\r\n");
    assert_end(bed, ERROR_UNAVAILABLE, "no \"space\" left");
}

/* More progress than is ever kept: what counts is how it ends. */
static void test_long_progress(void **state)
{
    struct bed *bed = *state;
    BUFFER_AUTO progress = BUFFER_INIT;
    while (progress.len < 6u << 20)
        buffer_append_text(&progress, "{\"status\":\"Downloading\",\"progress\":\"[=====>      ]\"}\r\n");
    begin_pull(bed);
    fake_engine_say(&bed->fake, PULL, 200, buffer_text(&progress));
    fake_engine_say(&bed->fake, LOOK, 200, "{}");
    assert_end(bed, ERROR_NONE, NULL);
    buffer_append_text(&progress, "{\"error\":\"disk full\"}\r\n");
    bed->n = 0;
    begin_pull(bed);
    fake_engine_say(&bed->fake, PULL, 200, buffer_text(&progress));
    assert_end(bed, ERROR_UNAVAILABLE, "disk full");
}

/* It is not known to be done, and so may be tried again. */
static void test_cut_off(void **state)
{
    static const char progress[] = "{\"status\":\"Pulling\"}\r\n{\"status\":\"Done\"}\r\n";
    struct bed *bed = *state;
    begin_pull(bed);
    fake_engine_answer(&bed->fake, PULL, 200, progress, sizeof progress - 1, 30);
    assert_end(bed, ERROR_UNAVAILABLE, "cannot be pulled");
    bed->n = 0;
    begin_pull(bed);
    fake_engine_answer(&bed->fake, PULL, 0, "", 0, 0);
    assert_end(bed, ERROR_UNAVAILABLE, "pulling");
}

/* A registry that does not answer is not an engine that is away. */
static void test_out_of_time(void **state)
{
    struct bed *bed = *state;
    bed->search.pull_timeout_ns = 20 * CLOCK_MS;
    begin_pull(bed);
    int fd = fake_engine_ignore(&bed->fake, PULL);
    assert_end(bed, ERROR_UNAVAILABLE, "timed out");
    assert_false(bed->fake.engine.away);
    close(fd);
}

static void test_engine_away(void **state)
{
    struct bed *bed = *state;
    image_find(&bed->search);
    fake_engine_answer(&bed->fake, LOOK, 0, "", 0, 0);
    assert_end(bed, ERROR_UNAVAILABLE, "looking for the image");
    assert_true(bed->fake.engine.away);
}

static void test_cancel(void **state)
{
    struct bed *bed = *state;
    image_cancel(&bed->search);
    begin_pull(bed);
    int fd = fake_engine_ignore(&bed->fake, PULL);
    image_cancel(&bed->search);
    image_cancel(&bed->search);
    close(fd);
    assert_int_equal(http_calls_under_way(bed->fake.engine.calls), 0);
    assert_int_equal(bed->n, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_there),         TEST(test_pulled),
        TEST(test_absent),        TEST(test_absent_after_pull),
        TEST(test_refused),       TEST(test_fails_on_the_way),
        TEST(test_long_progress), TEST(test_cut_off),
        TEST(test_out_of_time),   TEST(test_engine_away),
        TEST(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
