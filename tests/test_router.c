/* The router: which triggers an event reaches, as exact lists per shard, and against a brute-force match. */
#include "worker/router.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/shard/trigger.h"

#define MOST 300

struct bed {
    struct trigger *triggers[MOST];
    size_t n;
    unsigned n_shards;
    struct router *router;
};

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    bed->n_shards = 3;
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    router_free(bed->router);
    for (size_t i = 0; i < bed->n; i++)
        trigger_free(bed->triggers[i]);
    free(bed);
    return 0;
}

/* activations: a JSON array's inside. */
static struct trigger *add_with(struct bed *bed, const char *condition, const char *activations)
{
    char id[24];
    struct error err;
    BUFFER_AUTO text = BUFFER_INIT;
    int len = snprintf(id, sizeof id, "t%zu", bed->n);
    buffer_printf(
        &text, "{\"condition\":{\"name\":\"%s\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[%s]}",
        condition, activations);
    assert_int_equal(
        trigger_new(id, (size_t)len, text.data, text.len, bed->n_shards, &bed->triggers[bed->n], &err), 0);
    return bed->triggers[bed->n++];
}

static struct trigger *add(struct bed *bed, const char *activations)
{
    return add_with(bed, "TRUE", activations);
}

static void build(struct bed *bed)
{
    struct error err;
    router_free(bed->router);
    assert_int_equal(router_new(bed->triggers, bed->n, bed->n_shards, &bed->router, &err), 0);
}

static unsigned match(struct bed *bed, const char *type, size_t type_len, const char *subject,
                      size_t subject_len, const struct route *routes[ROUTE_MAX_LISTS])
{
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_TYPE] = (struct cloudevent_span){type, (uint32_t)type_len};
    event.attribute[CE_SUBJECT] = (struct cloudevent_span){subject, (uint32_t)subject_len};
    return router_match(bed->router, &event, routes);
}

/* How often the event reaches the trigger; each list holds triggers of its shard only, each once. */
static unsigned reaches(struct bed *bed, const char *type, const char *subject, const struct trigger *t)
{
    const struct route *routes[ROUTE_MAX_LISTS];
    unsigned n = match(bed, type, strlen(type), subject, subject ? strlen(subject) : 0, routes);
    unsigned found = 0;
    for (unsigned i = 0; i < n; i++) {
        size_t sum = 0;
        for (unsigned shard = 0; shard < bed->n_shards; shard++) {
            const struct route_list *list = &routes[i]->lists[shard];
            sum += list->n;
            for (size_t j = 0; j < list->n; j++) {
                assert_int_equal(list->triggers[j]->shard, shard);
                assert_true(j == 0 || list->triggers[j] != list->triggers[j - 1]);
                found += list->triggers[j] == t;
            }
        }
        assert_int_equal(sum, routes[i]->n);
    }
    return found;
}

static void test_empty(void **state)
{
    struct bed *bed = *state;
    const struct route *routes[ROUTE_MAX_LISTS];
    build(bed);
    assert_int_equal(match(bed, "a", 1, NULL, 0, routes), 0);
    add(bed, "");
    build(bed);
    assert_int_equal(match(bed, "a", 1, NULL, 0, routes), 0);
    router_free(NULL);
}

static void test_subjects(void **state)
{
    struct bed *bed = *state;
    struct trigger *none = add(bed, "{\"type\":\"a\"}");
    struct trigger *empty = add(bed, "{\"type\":\"a\",\"subject\":\"\"}");
    struct trigger *s = add(bed, "{\"type\":\"a\",\"subject\":\"s\"}");
    build(bed);
    assert_int_equal(reaches(bed, "a", NULL, none), 1);
    assert_int_equal(reaches(bed, "a", "", none), 1);
    assert_int_equal(reaches(bed, "a", NULL, empty), 1);
    assert_int_equal(reaches(bed, "a", "s", none), 0);
    assert_int_equal(reaches(bed, "a", "s", s), 1);
    assert_int_equal(reaches(bed, "a", NULL, s), 0);
    assert_int_equal(reaches(bed, "as", NULL, s), 0); /* type and subject are kept apart */
    assert_int_equal(reaches(bed, "b", "s", s), 0);
}

static void test_any(void **state)
{
    struct bed *bed = *state;
    struct trigger *type = add(bed, "{\"type\":\"*\",\"subject\":\"s\"}");
    build(bed);
    assert_true(bed->router->any_type && !bed->router->any_subject && !bed->router->any_both);
    struct trigger *subject = add(bed, "{\"type\":\"a\",\"subject\":\"*\"}");
    build(bed);
    assert_true(bed->router->any_type && bed->router->any_subject && !bed->router->any_both);
    struct trigger *both = add(bed, "{\"type\":\"*\",\"subject\":\"*\"}");
    struct trigger *exact = add(bed, "{\"type\":\"a\",\"subject\":\"s\"}");
    struct trigger *all = add(bed, "{\"type\":\"*\",\"subject\":\"*\"},{\"type\":\"a\",\"subject\":\"s\"},"
                                   "{\"type\":\"a\",\"subject\":\"*\"},{\"type\":\"*\",\"subject\":\"s\"}");
    build(bed);
    assert_true(bed->router->any_both);
    const struct route *routes[ROUTE_MAX_LISTS];
    assert_int_equal(match(bed, "a", 1, "s", 1, routes), 4);
    assert_int_equal(match(bed, "b", 1, "t", 1, routes), 1);
    static const struct {
        const char *type;
        const char *subject;
        unsigned reached[5]; /* type, subject, both, exact, all */
    } rows[] = {
        {"a", "s", {1, 1, 1, 1, 4}}, {"b", "s", {1, 0, 1, 0, 2}},  {"a", "t", {0, 1, 1, 0, 2}},
        {"b", "t", {0, 0, 1, 0, 1}}, {"a", NULL, {0, 1, 1, 0, 2}}, {"b", NULL, {0, 0, 1, 0, 1}},
    };
    const struct trigger *triggers[5] = {type, subject, both, exact, all};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t j = 0; j < 5; j++)
            assert_int_equal(reaches(bed, rows[i].type, rows[i].subject, triggers[j]), rows[i].reached[j]);
}

/* A failure that nobody catches is one of what is around the state; whoever else wants to know is told, too.
 */
static void test_failures(void **state)
{
    struct bed *bed = *state;
    struct trigger *around = add(bed, "{\"type\":\"lambda.uncaught\",\"subject\":\"a\"},"
                                      "{\"type\":\"lambda.uncaught\",\"subject\":\"b\"}");
    struct trigger *all = add(bed, "{\"type\":\"lambda.failure\",\"subject\":\"*\"}");
    struct trigger *catches =
        add_with(bed, "AWS_ASF_CATCH", "{\"type\":\"lambda.failure\",\"subject\":\"b\"}");
    build(bed);
    assert_int_equal(reaches(bed, "lambda.failure", "a", around), 1);
    assert_int_equal(reaches(bed, "lambda.failure", "a", all), 1);
    assert_int_equal(reaches(bed, "lambda.failure", "b", around), 0);
    assert_int_equal(reaches(bed, "lambda.failure", "b", all), 1);
    assert_int_equal(reaches(bed, "lambda.failure", "b", catches), 1);
    assert_int_equal(reaches(bed, "lambda.uncaught", "b", around), 1);
    assert_int_equal(reaches(bed, "lambda.uncaught", "b", catches), 0);
    assert_int_equal(reaches(bed, "lambda.success", "a", around), 0);
    assert_int_equal(reaches(bed, "lambda.failure", "c", around), 0);
    add(bed, "{\"type\":\"*\",\"subject\":\"*\"},{\"type\":\"*\",\"subject\":\"a\"},"
             "{\"type\":\"lambda.failure\",\"subject\":\"a\"}");
    build(bed);
    const struct route *routes[ROUTE_MAX_LISTS];
    assert_int_equal(match(bed, "lambda.failure", 14, "a", 1, routes), ROUTE_MAX_LISTS);
}

static void test_same_activation_twice(void **state)
{
    struct bed *bed = *state;
    struct trigger *t = add(bed, "{\"type\":\"a\"},{\"type\":\"b\"},{\"type\":\"a\",\"subject\":null}");
    build(bed);
    assert_int_equal(reaches(bed, "a", NULL, t), 1);
    assert_int_equal(reaches(bed, "b", NULL, t), 1);
}

static void test_long_names(void **state)
{
    struct bed *bed = *state;
    char type[600];
    char activation[1400];
    memset(type, 'x', sizeof type);
    type[sizeof type - 1] = '\0';
    snprintf(activation, sizeof activation, "{\"type\":\"%s\",\"subject\":\"%s\"}", type, type + 100);
    struct trigger *t = add(bed, activation);
    build(bed);
    assert_int_equal(reaches(bed, type, type + 100, t), 1);
    assert_int_equal(reaches(bed, type, type + 101, t), 0);
    for (size_t len = 500; len < 520; len++) { /* around what fits on the stack */
        memset(type, 'y', len);
        type[len] = '\0';
        assert_int_equal(reaches(bed, type, NULL, t), 0);
    }
}

/* NUL is a character like others: names with it do not run into each other. */
static void test_nul(void **state)
{
    struct bed *bed = *state;
    const struct route *routes[ROUTE_MAX_LISTS];
    struct trigger *first = add(bed, "{\"type\":\"a\\u0000b\",\"subject\":\"c\"}");
    struct trigger *second = add(bed, "{\"type\":\"a\",\"subject\":\"b\\u0000c\"}");
    build(bed);
    assert_int_equal(match(bed, "a\0b", 3, "c", 1, routes), 1);
    assert_int_equal(routes[0]->n, 1);
    assert_ptr_equal(routes[0]->all[0], first);
    assert_int_equal(match(bed, "a", 1, "b\0c", 3, routes), 1);
    assert_int_equal(routes[0]->n, 1);
    assert_ptr_equal(routes[0]->all[0], second);
}

static uint64_t mix(uint64_t *random)
{
    uint64_t z = (*random += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool fits(const char *pattern, const char *text)
{
    return !strcmp(pattern, "*") || !strcmp(pattern, text);
}

/* Random triggers over few names: each pattern that fits reaches the trigger through one list. */
static void test_brute_force(void **state)
{
    struct bed *bed = *state;
    static const char *const names[] = {"*", "a", "b", "ab", "c", ""};
    static unsigned char patterns[MOST][4][2];
    static unsigned n_patterns[MOST];
    uint64_t random = 11;
    for (unsigned i = 0; i < MOST; i++) {
        BUFFER_AUTO text = BUFFER_INIT;
        n_patterns[i] = (unsigned)(mix(&random) % 5);
        for (unsigned j = 0; j < n_patterns[i]; j++) {
            patterns[i][j][0] = (unsigned char)(mix(&random) % 5);
            patterns[i][j][1] = (unsigned char)(mix(&random) % 6);
            buffer_printf(&text, "%s{\"type\":\"%s\",\"subject\":\"%s\"}", j ? "," : "",
                          names[patterns[i][j][0]], names[patterns[i][j][1]]);
        }
        add(bed, buffer_text(&text));
    }
    build(bed);
    for (unsigned type = 1; type < 5; type++)
        for (unsigned subject = 1; subject < 6; subject++)
            for (unsigned i = 0; i < MOST; i++) {
                bool distinct[6][6] = {{false}};
                unsigned expected = 0;
                for (unsigned j = 0; j < n_patterns[i]; j++) {
                    const unsigned char *p = patterns[i][j];
                    if (fits(names[p[0]], names[type]) && fits(names[p[1]], names[subject]) &&
                        !distinct[p[0]][p[1]])
                        expected++;
                    distinct[p[0]][p[1]] = true;
                }
                assert_int_equal(reaches(bed, names[type], names[subject], bed->triggers[i]), expected);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_subjects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_any, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_activation_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nul, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brute_force, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
