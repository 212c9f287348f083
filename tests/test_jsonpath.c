/* JSONPath: what paths lead to, compared with Jayway's JsonPath where it decides (its results were recorded
 * by hand), bounds against hostile paths, and that no case of the RFC 9535 suite does harm. */
#include "common/jsonpath.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/pool.h"
#include "tests/support/asl_cases.h"

/* The result as text, with a leading ! for an indefinite path; "missing"; or the error's message. */
static void evaluate(const char *text, const char *document, struct buffer *out)
{
    struct json_value root, value;
    struct jsonpath *path;
    struct error err;
    uint64_t steps = JSONPATH_STEPS;
    size_t len;
    POOL_AUTO pool = POOL_INIT;
    assert_int_equal(json_scan(document, strlen(document), &root, NULL), 0);
    if (jsonpath_parse(text, strlen(text), &path, &err) < 0) {
        buffer_append_text(out, err.message);
        return;
    }
    int r = jsonpath_read(path, &root, &pool, &steps, &value, &err);
    if (r < 0) {
        buffer_append_text(out, err.message);
    } else if (r == JSONPATH_MISSING) {
        buffer_append_text(out, "missing");
    } else {
        const char *raw = json_raw(&value, &len);
        if (!jsonpath_is_definite(path))
            buffer_append_char(out, '!');
        buffer_append(out, raw, len);
    }
    jsonpath_free(path);
}

static void assert_reads(const char *text, const char *document, const char *expected)
{
    BUFFER_AUTO out = BUFFER_INIT;
    evaluate(text, document, &out);
    if (strcmp(buffer_text(&out), expected) != 0)
        fail_msg("%s on %s: %s, not %s", text, document, buffer_text(&out), expected);
}

static void test_definite(void **state)
{
    static const char *const cases[][3] = {
        {"$", "[1]", "[1]"},
        {"$.a", "{\"a\":1}", "1"},
        {"$.a.b", "{\"a\":{\"b\":null}}", "null"},
        {"$['a']['b']", "{\"a\":{\"b\":2}}", "2"},
        {"$[\"a b\"]", "{\"a b\":2}", "2"},
        {"$[ 'a' ]", "{\"a\":2}", "2"},
        {"$['a\\'b']", "{\"a'b\":1}", "1"},
        {"$['\\u00e4']", "{\"\xc3\xa4\":1}", "1"},
        {"$.\xc3\xa4", "{\"\\u00e4\":1}", "1"},
        {"$.a-b", "{\"a-b\":1}", "1"},
        {"$['*']", "{\"*\":1}", "1"},
        {"$['']", "{\"\":1}", "1"},
        {"$.a", "{\"a\":1,\"a\":2}", "2"},
        {"$.a[0].b", "{\"a\":[{\"b\":1}]}", "1"},
        {"$[-1]", "[1,2]", "2"},
        {"$.a", "{}", "missing"},
        {"$.a.b", "{\"a\":1}", "missing"},
        {"$.a[5]", "{\"a\":[1]}", "missing"},
        {"$[-3]", "[1,2]", "missing"},
        {"$.a[0]", "{\"a\":{\"0\":1}}", "missing"},
        {"$.a.b.c", "{\"a\":{\"b\":null}}", "missing"},
        {"$['a','b']", "{\"a\":1,\"c\":2}", "{\"a\":1}"},
        {"$['x','y']", "{\"a\":1}", "{}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_reads(cases[i][0], cases[i][1], cases[i][2]);
}

static void test_indefinite(void **state)
{
    static const char *const cases[][3] = {
        {"$.a[*]", "{\"a\":[1,{}]}", "![1,{}]"},
        {"$.*", "{\"a\":1,\"b\":[2]}", "![1,[2]]"},
        {"$.a[*]", "{\"a\":3}", "![]"},
        {"$.items[*].x", "{}", "![]"},
        {"$.a[*].b", "{\"a\":[{\"b\":1},{\"c\":1}]}", "![1]"},
        {"$..price", "{\"a\":{\"price\":1},\"b\":[{\"price\":2}]}", "![1,2]"},
        {"$..*", "{\"a\":1,\"b\":[2]}", "![1,[2],2]"},
        {"$..a.b", "{\"a\":{\"a\":{\"b\":1},\"b\":2}}", "![2,1]"},
        {"$..[0]", "[[1,2],[3]]", "![[1,2],1,3]"},
        {"$..['a','b']", "{\"a\":1,\"x\":{\"a\":1,\"b\":2}}", "![{\"a\":1,\"b\":2}]"},
        {"$['a','b'].c", "{\"a\":{\"c\":1},\"b\":{\"c\":2}}", "![1,2]"},
        {"$[0,2]", "[1,2,3]", "![1,3]"},
        {"$[0,-1,9]", "[1,2,3]", "![1,3]"},
        {"$[1:]", "[1,2,3]", "![2,3]"},
        {"$[-2:]", "[1,2,3]", "![2,3]"},
        {"$[-9:]", "[1,2]", "![1,2]"},
        {"$[:-1]", "[1,2,3]", "![1,2]"},
        {"$[:9]", "[1,2,3]", "![1,2,3]"},
        {"$[1:2]", "[1,2,3]", "![2]"},
        {"$[0:-1]", "[1,2,3]", "![]"},
        {"$[-2:-1]", "[1,2,3]", "![2]"},
        {"$[-2:7]", "[1,2,3]", "![2,3,1,2,3]"},
        {"$[1:]", "{}", "![]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_reads(cases[i][0], cases[i][1], cases[i][2]);
}

static void test_filters(void **state)
{
    static const char *const cases[][3] = {
        {"$[?(@.a)]", "[{\"a\":null},{\"b\":1},3]", "![{\"a\":null}]"},
        {"$[?(!@.a)]", "[{\"a\":1},{}]", "![{}]"},
        {"$[?(@ > 1)]", "[1,2,\"3\"]", "![2]"},
        {"$[?(@.a == 1)]", "[{\"a\":1},{\"a\":\"1\"},{\"a\":1.0},{\"a\":\"b\"}]",
         "![{\"a\":1},{\"a\":\"1\"},{\"a\":1.0}]"},
        {"$[?(@.a == '1')]", "[{\"a\":1},{\"a\":\"1\"},{\"a\":1.0}]",
         "![{\"a\":1},{\"a\":\"1\"},{\"a\":1.0}]"},
        {"$[?(@.a != 1)]", "[{\"a\":1},{\"b\":1}]", "![{\"b\":1}]"},
        {"$[?(@.a == null)]", "[{\"a\":null},{}]", "![{\"a\":null}]"},
        {"$[?(@.a == @.b)]", "[{\"a\":1,\"b\":1},{}]", "![{\"a\":1,\"b\":1}]"},
        {"$[?(@.a == [1,'x'])]", "[{\"a\":[1,\"x\"]},{\"a\":1}]", "![{\"a\":[1,\"x\"]}]"},
        {"$[?(@.a<='b')]", "[{\"a\":\"a\"},{\"a\":\"c\"},{\"a\":1}]", "![{\"a\":\"a\"}]"},
        {"$[?(@.a==1||@.b==2)]", "[{\"a\":1},{\"b\":2},{\"c\":3}]", "![{\"a\":1},{\"b\":2}]"},
        {"$[?(@.a && !(@.b == 2))]", "[{\"a\":1},{\"a\":1,\"b\":2}]", "![{\"a\":1}]"},
        {"$.l[?(@.x == $.w)]", "{\"w\":2,\"l\":[{\"x\":1},{\"x\":2}]}", "![{\"x\":2}]"},
        {"$[?(@.a in [1,'z'])]", "[{\"a\":1},{\"a\":\"z\"},{\"a\":2}]", "![{\"a\":1},{\"a\":\"z\"}]"},
        {"$[?(@.a nin [1])]", "[{\"a\":1},{\"a\":2},{}]", "![{\"a\":2},{}]"},
        {"$[?(@.a subsetof ['x','y'])]", "[{\"a\":[\"x\"]},{\"a\":[]},{\"a\":[\"z\"]}]",
         "![{\"a\":[\"x\"]},{\"a\":[]}]"},
        {"$[?(@.a anyof [1])]", "[{\"a\":[1,2]},{\"a\":[2]}]", "![{\"a\":[1,2]}]"},
        {"$[?(@.a noneof [1])]", "[{\"a\":[1,2]},{\"a\":[2]}]", "![{\"a\":[2]}]"},
        {"$[?(@.a contains 'b')]", "[{\"a\":[\"b\"]},{\"a\":\"abc\"},{\"a\":{\"b\":1}}]",
         "![{\"a\":[\"b\"]},{\"a\":\"abc\"}]"},
        {"$[?(@.a size 2)]", "[{\"a\":[1,2]},{\"a\":\"\xc3\xa4\xc3\xa4\"},{\"a\":{\"x\":1,\"y\":2}}]",
         "![{\"a\":[1,2]},{\"a\":\"\xc3\xa4\xc3\xa4\"}]"},
        {"$[?(@.a empty true)]", "[{\"a\":[]},{\"a\":\"\"},{\"a\":{}},{\"a\":1},{}]",
         "![{\"a\":[]},{\"a\":\"\"},{\"a\":{}}]"},
        {"$[?(@.a empty false)]", "[{\"a\":[1]},{\"a\":[]}]", "![{\"a\":[1]}]"},
        {"$[?(@.a[*])]", "[{\"a\":[]},{\"a\":[1]},{}]", "![{\"a\":[]},{\"a\":[1]}]"},
        {"$[?(@['a','b'])]", "[{\"a\":1},{\"a\":1,\"b\":2}]", "![{\"a\":1,\"b\":2}]"},
        {"$.o[?(@.a == 1)]", "{\"o\":{\"a\":1}}", "![{\"a\":1}]"},
        {"$..[?(@.c)]", "[{\"c\":[{\"c\":2}]}]", "![{\"c\":[{\"c\":2}]},{\"c\":2}]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_reads(cases[i][0], cases[i][1], cases[i][2]);
}

static void test_functions(void **state)
{
    static const char *const cases[][3] = {
        {"$.a.length()", "{\"a\":[1,2]}", "2"},
        {"$.length()", "{\"a\":1}", "1"},
        {"$.a.length()", "{\"a\":\"abc\"}", "null"},
        {"$.a.length()", "{}", "missing"},
        {"$..a.length()", "{\"a\":1,\"b\":{\"a\":2}}", "2"},
        {"$.a.sum()", "{\"a\":[1,2,\"x\"]}", "3.0"},
        {"$.a.min()", "{\"a\":[3,1.5]}", "1.5"},
        {"$.a.max()", "{\"a\":[3,1.5]}", "3.0"},
        {"$.a.avg()", "{\"a\":[1,2]}", "1.5"},
        {"$.a.stddev()", "{\"a\":[2,4]}", "1.0"},
        {"$.a.sum()", "{\"a\":[]}", "path $.a.sum(): a function of numbers got none"},
        {"$.keys()", "{\"a\":1,\"b\\\"\":2}", "[\"a\",\"b\\\"\"]"},
        {"$.a.first()", "{\"a\":[1,2]}", "1"},
        {"$.a.last()", "{\"a\":[1,2]}", "2"},
        {"$.a.last()", "{\"a\":[]}", "missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_reads(cases[i][0], cases[i][1], cases[i][2]);
}

static void test_refused(void **state)
{
    static const char *const cases[][2] = {
        {"", "path : a path begins with $ at character 1"},
        {"a", "path a: a path begins with $ at character 1"},
        {"@.a", "path @.a: a path begins with $ at character 1"},
        {"$a", "path $a: neither . nor [ at character 2"},
        {"$.", "path $.: a name is missing at character 3"},
        {"$..", "path $..: a name is missing at character 4"},
        {"$.a b", "path $.a b: neither . nor [ at character 4"},
        {"$[", "path $[: an index is not a whole number at character 3"},
        {"$[1", "path $[1: ] is missing at character 4"},
        {"$['a", "path $['a: a quote is not closed at character 5"},
        {"$['a',0]", "path $['a',0]: a quoted name is missing (names and indices do not mix) at character 7"},
        {"$[:]", "path $[:]: a slice has no bounds at character 4"},
        {"$[1:2:3]", "path $[1:2:3]: slices have no step here at character 6"},
        {"$[99999999999]", "path $[99999999999]: an index is too large at character 12"},
        {"$[?(@.a =~ /x/)]", "path $[?(@.a =~ /x/)]: regular expressions are not supported at character 11"},
        {"$[?(@.a == FooBar)]", "path $[?(@.a == FooBar)]: neither a path, a text, a number nor true, false "
                                "or null at character 12"},
        {"$[?(@.a]", "path $[?(@.a]: ) is missing at character 8"},
        {"$[?(1)]", "path $[?(1)]: an operator is missing at character 6"},
        {"$.a.foo()", "path $.a.foo(): an unknown function at character 5"},
        {"$.a.length().b", "path $.a.length().b: a function is not the last part at character 13"},
        {"$['\\x']", "path $['\\x']: an unknown escape at character 4"},
        {"$['\\ud800']", "path $['\\ud800']: a quoted text is not valid (control characters, surrogates or "
                         "UTF-8) at character 11"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_reads(cases[i][0], "{}", cases[i][1]);
}

static void test_explain(void **state)
{
    static const char *const cases[][2] = {
        {"$.a.x", "path $.a.x: there is no member x"},
        {"$.a.b.c", "path $.a.b.c: not an object, with a member c"},
        {"$.l[3]", "path $.l[3]: there is no element 3"},
        {"$.a[0]", "path $.a[0]: not an array, with an element 0"},
        {"$.a.first()", "path $.a.first() leads nowhere"},
    };
    const char *document = "{\"a\":{\"b\":1},\"l\":[]}";
    struct json_value root;
    (void)state;
    assert_int_equal(json_scan(document, strlen(document), &root, NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct jsonpath *path;
        struct error err;
        assert_int_equal(jsonpath_parse(cases[i][0], strlen(cases[i][0]), &path, NULL), 0);
        assert_int_equal(jsonpath_explain(path, &root, &err), -1);
        assert_int_equal(err.code, ERROR_NOT_FOUND);
        assert_string_equal(err.message, cases[i][1]);
        jsonpath_free(path);
    }
}

static void assert_put(const char *text, const char *document, const char *expected)
{
    struct json_value root, result, value = {.text = "7", .len = 1, .type = JSON_NUMBER};
    struct jsonpath *path;
    struct error err;
    uint64_t steps = JSONPATH_STEPS;
    size_t len;
    POOL_AUTO pool = POOL_INIT;
    assert_int_equal(json_scan(document, strlen(document), &root, NULL), 0);
    assert_int_equal(jsonpath_parse(text, strlen(text), &path, NULL), 0);
    assert_true(jsonpath_is_reference(path));
    if (jsonpath_put(path, &root, &value, &pool, &steps, &result, &err) < 0) {
        assert_string_equal(err.message, expected);
    } else {
        const char *raw = json_raw(&result, &len);
        assert_int_equal(len, strlen(expected));
        assert_memory_equal(raw, expected, len);
    }
    jsonpath_free(path);
}

static void test_put(void **state)
{
    (void)state;
    assert_put("$", "[1]", "7");
    assert_put("$.a", "{}", "{\"a\":7}");
    assert_put("$.a", "{\"b\":1}", "{\"b\":1,\"a\":7}");
    assert_put("$.a", "{\"a\":1,\"b\":2}", "{\"a\":7,\"b\":2}");
    assert_put("$.a", "{\"a\":1,\"a\":2}", "{\"a\":7}");
    assert_put("$.a.b.c", "{\"a\":{\"x\":1}}", "{\"a\":{\"x\":1,\"b\":{\"c\":7}}}");
    assert_put("$['x\"']", "{\"x\\\"\":1}", "{\"x\\\"\":7}");
    assert_put("$.a[1].b", "{\"a\":[0,{\"b\":1},2]}", "{\"a\":[0,{\"b\":7},2]}");
    assert_put("$.a", "[]", "path $.a: cannot be written to: an array where an object is needed");
    assert_put("$.a[1]", "{\"a\":[0]}", "path $.a[1]: there is no element 1 to replace");
    assert_put("$.a[0]", "{}", "path $.a[0]: cannot be written to: absent where an array is needed");
    assert_put("$.a.b", "{\"a\":1}", "path $.a.b: cannot be written to: a number where an object is needed");
}

static void test_references(void **state)
{
    static const char *const no[] = {"$.*",        "$[*]",  "$..a",      "$[-1]",       "$[0,1]",
                                     "$['a','b']", "$[1:]", "$[?(@.a)]", "$.a.length()"};
    (void)state;
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        struct jsonpath *path;
        assert_int_equal(jsonpath_parse(no[i], strlen(no[i]), &path, NULL), 0);
        assert_false(jsonpath_is_reference(path));
        jsonpath_free(path);
    }
}

static void test_list(void **state)
{
    const char *document = "{\"a\":[1,2]}";
    struct json_value root, list;
    struct jsonpath *path;
    uint64_t steps = JSONPATH_STEPS;
    POOL_AUTO pool = POOL_INIT;
    (void)state;
    assert_int_equal(json_scan(document, strlen(document), &root, NULL), 0);
    assert_int_equal(jsonpath_parse("$.a", 3, &path, NULL), 0);
    assert_int_equal(jsonpath_list(path, &root, &pool, &steps, &list, NULL), 0);
    assert_int_equal(list.len, 7);
    assert_memory_equal(list.text, "[[1,2]]", 7);
    jsonpath_free(path);
}

/* Paths that would multiply, and deep documents: an error after a bounded number of steps. */
static void test_hostile(void **state)
{
    BUFFER_AUTO wide = BUFFER_INIT;
    BUFFER_AUTO deep = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    (void)state;
    buffer_append_text(&wide, "[0");
    for (int i = 0; i < 200; i++)
        buffer_append_text(&wide, ",[1,[2,[3]]]");
    buffer_append_char(&wide, ']');
    evaluate("$..*..*..*..*", buffer_text(&wide), &out);
    assert_int_equal(buffer_text(&out)[0], '!');
    buffer_reset(&out, 0);
    for (int i = 0; i < 255; i++)
        buffer_append_char(&deep, '[');
    buffer_append_char(&deep, '1');
    for (int i = 0; i < 255; i++)
        buffer_append_char(&deep, ']');
    evaluate("$..[0]..[0]..[0]..[0]..[0]..[0]", buffer_text(&deep), &out);
    assert_non_null(strstr(buffer_text(&out), "the evaluation takes too many steps"));
    buffer_reset(&out, 0);
    BUFFER_AUTO filter = BUFFER_INIT;
    buffer_append_text(&filter, "$[?");
    for (int i = 0; i < 1000; i++)
        buffer_append_char(&filter, '(');
    evaluate(buffer_text(&filter), "{}", &out);
    assert_non_null(strstr(buffer_text(&out), "nested too deeply"));
    buffer_reset(&out, 0);
    buffer_reset(&filter, 0);
    for (int i = 0; i < 1000; i++)
        buffer_append_text(&filter, i ? ".a" : "$");
    evaluate(buffer_text(&filter), "{}", &out);
    assert_non_null(strstr(buffer_text(&out), "too many parts"));
}

/* The suite of RFC 9535 differs in places; here its paths and documents only must do no harm. */
static void test_suite(void **state)
{
    struct buffer text = BUFFER_INIT;
    struct json_value root, tests, test, selector, document, wanted, ignored;
    struct json_iter iter;
    unsigned n = 0, parsed = 0, agreed = 0;
    (void)state;
    if (asl_read_file("jsonpath_cts.json", &text) < 0)
        skip();
    assert_int_equal(json_scan(text.data, text.len, &root, NULL), 0);
    assert_true(json_member(&root, "tests", &tests));
    json_iter_init(&iter, &tests);
    while (json_next(&iter, &ignored, &test)) {
        struct jsonpath *path;
        struct json_value list;
        uint64_t steps = JSONPATH_STEPS;
        bool same = false;
        BUFFER_AUTO plain = BUFFER_INIT;
        POOL_AUTO pool = POOL_INIT;
        n++;
        assert_true(json_member(&test, "selector", &selector));
        json_unescape(&selector, &plain);
        if (jsonpath_parse(buffer_text(&plain), plain.len, &path, NULL) < 0)
            continue;
        parsed++;
        if (json_member(&test, "document", &document) &&
            jsonpath_list(path, &document, &pool, &steps, &list, NULL) == 0 &&
            json_member(&test, "result", &wanted))
            assert_int_equal(json_same(&wanted, &list, &steps, &same, NULL), 0);
        agreed += same;
        jsonpath_free(path);
    }
    print_message("RFC 9535 suite: %u paths, %u parsed, %u of them with the result of the RFC\n", n, parsed,
                  agreed);
    assert_true(agreed > 150);
    buffer_done(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definite),  cmocka_unit_test(test_indefinite), cmocka_unit_test(test_filters),
        cmocka_unit_test(test_functions), cmocka_unit_test(test_refused),    cmocka_unit_test(test_explain),
        cmocka_unit_test(test_put),       cmocka_unit_test(test_references), cmocka_unit_test(test_list),
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_suite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
