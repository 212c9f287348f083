/* What states say: intrinsic functions, payload templates, choice rules, timestamps, and the data flow of a
 * state. Recorded executions are in test_asl_cases.c. */
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
#include "worker/states/choice.h"
#include "worker/states/evaluation.h"
#include "worker/states/expression.h"
#include "worker/states/payload.h"
#include "worker/states/state.h"
#include "worker/states/timestamp.h"

static const char document[] =
    "{\"n\":3,\"f\":1.5,\"s\":\"text\",\"e\":\"a\\\"b\",\"a\":[1,2,2,{\"x\":1},{\"x\":1.0}],"
    "\"o\":{\"k\":1,\"l\":[]},\"z\":null,\"t\":\"2020-01-01T00:00:00Z\",\"b\":true}";

static struct json_value scan(const char *text)
{
    struct json_value value;
    assert_int_equal(json_scan(text, strlen(text), &value, NULL), 0);
    return value;
}

static void begin(struct evaluation *evaluation)
{
    evaluation_init(evaluation, 7);
    evaluation->input = scan(document);
    evaluation->context = scan("{\"Execution\":{\"Name\":\"run\"}}");
}

static void assert_text(const struct json_value *value, const char *expected, const char *what)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    if (len != strlen(expected) || memcmp(raw, expected, len) != 0)
        fail_msg("%s: %.*s, not %s", what, (int)len, raw, expected);
}

/* A result, or an error's message. */
static void assert_expression(const char *text, const char *expected)
{
    struct evaluation evaluation;
    struct expression *expression;
    struct json_value value;
    struct error err;
    begin(&evaluation);
    if (expression_parse(text, strlen(text), &expression, &err) < 0) {
        if (strcmp(err.message, expected) != 0)
            fail_msg("%s: %s, not %s", text, err.message, expected);
        return;
    }
    if (expression_evaluate(expression, &evaluation, &value, &err) < 0) {
        if (strcmp(err.message, expected) != 0)
            fail_msg("%s: %s, not %s", text, err.message, expected);
    } else {
        assert_text(&value, expected, text);
    }
    expression_free(expression);
    evaluation_done(&evaluation);
}

static void test_arrays(void **state)
{
    static const char *const cases[][2] = {
        {"States.Array()", "[]"},
        {"States.Array($.n, 'x', States.Array(1), null,true , 1.50)", "[3,\"x\",[1],null,true,1.50]"},
        {"States.ArrayPartition($.a, 2)", "[[1,2],[2,{\"x\":1}],[{\"x\":1.0}]]"},
        {"States.ArrayPartition($.a, 2.4)", "[[1,2],[2,{\"x\":1}],[{\"x\":1.0}]]"},
        {"States.ArrayPartition(States.Array(), 2)", "[]"},
        {"States.ArrayPartition($.a, 0)", "States.ArrayPartition: argument 2 is 0, not a positive number"},
        {"States.ArrayPartition($.s, 1)", "States.ArrayPartition: argument 1 is \"text\", not an array"},
        {"States.ArrayContains($.a, 2)", "true"},
        {"States.ArrayContains($.a, 2.0)", "true"},
        {"States.ArrayContains($.a, '2')", "false"},
        {"States.ArrayContains($.a, $.a[3])", "true"},
        {"States.ArrayRange(1, 9, 2)", "[1,3,5,7,9]"},
        {"States.ArrayRange(5, 1, -2)", "[5,3,1]"},
        {"States.ArrayRange(9, 1, 2)", "[]"},
        {"States.ArrayRange(0, 1000, 1)", "States.ArrayRange: the array would have more than 1000 elements"},
        {"States.ArrayRange(9223372036854775806, 9223372036854775807, 1)",
         "[9223372036854775806,9223372036854775807]"},
        {"States.ArrayGetItem($.a, 0)", "1"},
        {"States.ArrayGetItem($.a, 9)", "null"},
        {"States.ArrayGetItem($.a, -1)", "States.ArrayGetItem: argument 2 is -1, not an index"},
        {"States.ArrayLength($.a)", "5"},
        {"States.ArrayUnique($.a)", "[1,2,{\"x\":1}]"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_expression(cases[i][0], cases[i][1]);
}

static void test_texts(void **state)
{
    static const char *const cases[][2] = {
        {"States.Format('{} and {}', $.s, $.o)", "\"text and {k=1, l=[]}\""},
        {"States.Format('{}', $.a)", "\"[1, 2, 2, {x=1}, {x=1.0}]\""},
        {"States.Format('\\{\\}{}', 1)", "\"{}1\""},
        {"States.Format('it\\'s \\\\ {}', $.e)", "\"it's \\\\ a\\\"b\""},
        {"States.Format('{}')", "States.Format: the template has more {} than there are arguments (0)"},
        {"States.Format('x', 1)", "States.Format: the template has 0 {} for 1 arguments"},
        {"States.Format('{x}', 1)",
         "States.Format: the template has a { without its other half or a backslash"},
        {"States.StringSplit('a.b+c', '.+')", "[\"a\",\"b\",\"c\"]"},
        {"States.StringSplit(',a,,b,', ',')", "[\"a\",\"b\"]"},
        {"States.StringSplit('abc', '')", "[\"abc\"]"},
        {"States.StringSplit('', ',')", "[]"},
        {"States.StringSplit('a\xc3\xa4"
         "b\xc3\xb6"
         "c', '\xc3\xa4')",
         "[\"a\",\"b\xc3\xb6"
         "c\"]"},
        {"States.Base64Encode('Data to encode')", "\"RGF0YSB0byBlbmNvZGU=\""},
        {"States.Base64Decode('RGF0YSB0byBlbmNvZGU=')", "\"Data to encode\""},
        {"States.Base64Decode('RGF0Y')", "States.Base64Decode: argument 1 is \"RGF0Y\", not base64"},
        {"States.Base64Decode('/w==')",
         "States.Base64Decode: argument 1 is \"/w==\", not the base64 of a text in UTF-8"},
        {"States.Base64Decode('')", "\"\""},
        {"States.Hash('input data', 'SHA-256')",
         "\"b4a697a057313163aee33cd8d40c66e9f0f177e00cac2de32475ffff6169c3e3\""},
        {"States.Hash('', 'MD5')", "\"d41d8cd98f00b204e9800998ecf8427e\""},
        {"States.Hash('', 'SHA-200')",
         "States.Hash: argument 2 is \"SHA-200\", not MD5, SHA-1, SHA-256, SHA-384 or SHA-512"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_expression(cases[i][0], cases[i][1]);
}

static void test_json_and_numbers(void **state)
{
    static const char *const cases[][2] = {
        {"States.JsonToString($.o)", "\"{\\\"k\\\":1,\\\"l\\\":[]}\""},
        {"States.JsonToString($.e)", "\"\\\"a\\\\\\\"b\\\"\""},
        {"States.StringToJson('{\"a\": [1]}')", "{\"a\": [1]}"},
        {"States.StringToJson(' ')", "null"},
        {"States.StringToJson('{')",
         "States.StringToJson: argument 1: invalid JSON at byte 1: unexpected end of text"},
        {"States.JsonMerge($.o, States.StringToJson('{\"k\":2,\"m\":3}'), false)",
         "{\"l\":[],\"k\":2,\"m\":3}"},
        {"States.JsonMerge($.o, $.o, true)",
         "States.JsonMerge: argument 3 is true, not false (there are no deep merges)"},
        {"States.MathAdd(1, -2)", "-1"},
        {"States.MathAdd(1.49, 1.5)", "3"},
        {"States.MathAdd(-1.5, -2.5)", "-3"},
        {"States.MathAdd(9223372036854775807, 1)", "States.MathAdd: the sum is too large"},
        {"States.MathAdd(1e300, 1)", "States.MathAdd: argument 1 is 1e300, not a number that fits"},
        {"States.MathAdd('1', 1)", "States.MathAdd: argument 1 is \"1\", not a number"},
        {"States.MathRandom(5, 6)", "5"},
        {"States.MathRandom(6, 6)", "States.MathRandom: argument 1 (6) is not below argument 2 (6)"},
        {"States.UUID()", "\"63cbe1e4-5932-4dd7-844c-3cd7f43c661c\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_expression(cases[i][0], cases[i][1]);
}

static void test_expressions_refused(void **state)
{
    static const char *const cases[][2] = {
        {"", ": neither a path nor a call of an intrinsic function at character 1"},
        {"x", "x: neither a path nor a call of an intrinsic function at character 1"},
        {"$x", "path $x: variables are not supported"},
        {"States.Foo()", "States.Foo(): an unknown function at character 1"},
        {"States.UUID(1)", "States.UUID(1): the wrong number of arguments at character 15"},
        {"States.UUID() x", "States.UUID() x: text after the call at character 15"},
        {"States.Array(",
         "States.Array(: neither a path, a call, a text, a number nor true, false or null at character 14"},
        {"States.Array('a", "States.Array('a: a quote is not closed at character 16"},
        {"States.Array('\\x')", "States.Array('\\x'): an unknown escape at character 15"},
        {"States.Array(1 2)", "States.Array(1 2): a comma or ) is missing at character 16"},
        {"States.Array($.a[)", "path $.a[): an index is not a whole number at character 5"},
        {"$.no", "path $.no: there is no member no"},
        {"$$.no", "context object ($$): path $.no: there is no member no"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_expression(cases[i][0], cases[i][1]);
    assert_expression("$$.Execution.Name", "\"run\"");
    assert_expression("States.Array($.a[?(@.x == 1, 2)])",
                      "path $.a[?(@.x == 1, 2)]: ) is missing at character 15");
    assert_expression("States.Array($['a'][0], $.a[?(@.x == 1)])", "[1,[{\"x\":1},{\"x\":1.0}]]");
}

/* The same seed, the same numbers; within the bounds. */
static void test_random(void **state)
{
    const char *text = "States.Array(States.MathRandom(-3, 3), States.UUID(), States.MathRandom(0, 9, 5))";
    struct expression *expression;
    struct json_value first, second;
    (void)state;
    assert_int_equal(expression_parse(text, strlen(text), &expression, NULL), 0);
    for (uint64_t seed = 0; seed < 500; seed++) {
        struct evaluation a, b;
        struct json_value name, item;
        struct json_iter iter;
        int64_t number;
        evaluation_init(&a, seed);
        evaluation_init(&b, seed);
        assert_int_equal(expression_evaluate(expression, &a, &first, NULL), 0);
        assert_int_equal(expression_evaluate(expression, &b, &second, NULL), 0);
        assert_int_equal(first.len, second.len);
        assert_memory_equal(first.text, second.text, first.len);
        json_iter_init(&iter, &first);
        assert_true(json_next(&iter, &name, &item) && json_integer(&item, &number));
        assert_true(number >= -3 && number < 3);
        evaluation_done(&a);
        evaluation_done(&b);
    }
    expression_free(expression);
}

static void assert_payload(const char *template, const char *expected)
{
    struct evaluation evaluation;
    struct payload *payload;
    struct json_value value = scan(template);
    struct error err;
    begin(&evaluation);
    if (payload_load(&value, &payload, &err) < 0) {
        assert_string_equal(err.message, expected);
        return;
    }
    if (payload_evaluate(payload, &evaluation, &value, &err) < 0)
        assert_string_equal(err.message, expected);
    else
        assert_text(&value, expected, template);
    payload_free(payload);
    evaluation_done(&evaluation);
}

static void test_payloads(void **state)
{
    (void)state;
    assert_payload("{}", "{}");
    assert_payload("\"$.n\"", "\"$.n\"");
    assert_payload("{ \"a.$\" : \"$.n\", \"b\":{\"c.$\":\"States.MathAdd($.n, 1)\",\"d\":\"$.n\"} }",
                   "{\"a\":3,\"b\":{\"c\":4,\"d\":\"$.n\"}}");
    assert_payload("[{\"x.$\":\"$.s\"},[1,{\"y.$\":\"$.a[0]\"}]]", "[{\"x\":\"text\"},[1,{\"y\":1}]]");
    assert_payload("{\"e\\\"x.$\":\"$.e\"}", "{\"e\\\"x\":\"a\\\"b\"}");
    assert_payload("{\"a.$\":\"$.no\"}", "member a.$: path $.no: there is no member no");
    assert_payload("{\"a.$\":5}", "member a.$: is a number, not a string");
    assert_payload("{\"a.$\":\"n\"}",
                   "member a.$: n: neither a path nor a call of an intrinsic function at character 1");
    assert_payload("{\"a\":1,\"a.$\":\"$.n\"}", "two members a");
}

static int choose(const char *rule, struct error *err)
{
    struct evaluation evaluation;
    struct choice *choice;
    struct json_value value = scan(rule);
    begin(&evaluation);
    if (choice_load(&value, &choice, err) < 0)
        return -2;
    int r = choice_evaluate(choice, &evaluation, err);
    choice_free(choice);
    evaluation_done(&evaluation);
    return r;
}

static void test_choices(void **state)
{
    static const struct {
        const char *rule;
        int holds;
    } cases[] = {
        {"{\"Variable\":\"$.n\",\"NumericEquals\":3.0}", 1},
        {"{\"Variable\":\"$.n\",\"NumericGreaterThan\":3}", 0},
        {"{\"Variable\":\"$.s\",\"NumericLessThan\":3}", 0},
        {"{\"Variable\":\"$.n\",\"NumericLessThanEqualsPath\":\"$.a[0]\"}", 0},
        {"{\"Variable\":\"$.e\",\"StringEquals\":\"a\\u0022b\"}", 1},
        {"{\"Variable\":\"$.s\",\"StringLessThan\":\"texta\"}", 1},
        {"{\"Variable\":\"$.s\",\"StringEqualsPath\":\"$.s\"}", 1},
        {"{\"Variable\":\"$.b\",\"BooleanEquals\":true}", 1},
        {"{\"Variable\":\"$.n\",\"BooleanEquals\":true}", 0},
        {"{\"Variable\":\"$.t\",\"TimestampEquals\":\"2020-01-01T01:00:00.000+01:00\"}", 1},
        {"{\"Variable\":\"$.t\",\"TimestampLessThan\":\"2020-01-01T00:00:00.000000001Z\"}", 1},
        {"{\"Variable\":\"$.s\",\"TimestampLessThan\":\"2020-01-01T00:00:00Z\"}", 0},
        {"{\"Variable\":\"$.z\",\"IsNull\":true}", 1},
        {"{\"Variable\":\"$.z\",\"IsPresent\":true}", 1},
        {"{\"Variable\":\"$.no.no\",\"IsPresent\":false}", 1},
        {"{\"Variable\":\"$.no\",\"IsPresent\":true}", 0},
        {"{\"Variable\":\"$.s\",\"IsString\":true}", 1},
        {"{\"Variable\":\"$.s\",\"IsNumeric\":false}", 1},
        {"{\"Variable\":\"$.t\",\"IsTimestamp\":true}", 1},
        {"{\"Variable\":\"$.s\",\"IsTimestamp\":false}", 1},
        {"{\"Variable\":\"$.b\",\"IsBoolean\":true}", 1},
        {"{\"Variable\":\"$.s\",\"StringMatches\":\"t*t\"}", 1},
        {"{\"Variable\":\"$.s\",\"StringMatches\":\"*e*x*\"}", 1},
        {"{\"Variable\":\"$.s\",\"StringMatches\":\"*\"}", 1},
        {"{\"Variable\":\"$.s\",\"StringMatches\":\"text*\"}", 1},
        {"{\"Variable\":\"$.s\",\"StringMatches\":\"*a\"}", 0},
        {"{\"Variable\":\"$.s\",\"StringMatches\":\"t\\\\*t\"}", 0},
        {"{\"Variable\":\"$.n\",\"StringMatches\":\"*\"}", 0},
        {"{\"Variable\":\"$$.Execution.Name\",\"StringEquals\":\"run\"}", 1},
        {"{\"And\":[{\"Variable\":\"$.no\",\"IsPresent\":true},{\"Variable\":\"$.no\",\"IsNull\":true}]}", 0},
        {"{\"Or\":[{\"Variable\":\"$.n\",\"IsNumeric\":true},{\"Variable\":\"$.no\",\"IsNull\":true}]}", 1},
        {"{\"Not\":{\"Variable\":\"$.n\",\"IsNumeric\":true},\"Next\":\"x\",\"Comment\":\"c\"}", 0},
    };
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (choose(cases[i].rule, &err) != cases[i].holds)
            fail_msg("%s: not %d", cases[i].rule, cases[i].holds);
}

static void test_choices_fail(void **state)
{
    static const struct {
        const char *rule;
        int result; /* -1: evaluated, -2: loaded */
        const char *message;
    } cases[] = {
        {"{\"Variable\":\"$.no\",\"IsNull\":false}", -1, "Variable: path $.no: there is no member no"},
        {"{\"Variable\":\"$.n\",\"NumericEqualsPath\":\"$.s\"}", -1,
         "path $.s leads to a string, not to a number"},
        {"{\"Variable\":\"$.n\",\"NumericEqualsPath\":\"$.no\"}", -1, "path $.no: there is no member no"},
        {"[]", -2, "a choice rule is an array, not an object"},
        {"{\"Variable\":\"$.n\"}", -2, "a choice rule has no operator"},
        {"{\"IsNull\":true}", -2, "a choice rule has no Variable"},
        {"{\"Variable\":\"$.n\",\"NumericFoo\":1}", -2, "NumericFoo is not an operator"},
        {"{\"Variable\":\"$.n\",\"BooleanLessThan\":true}", -2, "BooleanLessThan is not an operator"},
        {"{\"Variable\":\"$.n\",\"NumericEquals\":\"1\"}", -2, "NumericEquals is \"1\", not a number"},
        {"{\"Variable\":\"$.n\",\"TimestampEquals\":\"1\"}", -2, "TimestampEquals is \"1\", not a timestamp"},
        {"{\"Variable\":\"$.n\",\"IsNull\":1}", -2, "IsNull is 1, not true or false"},
        {"{\"Variable\":\"$.n\",\"IsNull\":true,\"IsString\":true}", -2,
         "a choice rule has several operators, IsString among them"},
        {"{\"Variable\":\"$.n\",\"StringMatches\":\"a\\\\\"}", -2,
         "StringMatches is \"a\\\\\", not a pattern: a backslash stands before * or another backslash only"},
        {"{\"And\":[]}", -2, "And is [], not an array of one rule or more"},
        {"{\"Not\":[]}", -2, "Not is [], not a rule"},
    };
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(choose(cases[i].rule, &err), cases[i].result);
        assert_string_equal(err.message, cases[i].message);
    }
}

/* A pattern that would go back and forth for hours ends with an error. */
static void test_hostile_pattern(void **state)
{
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO rule = BUFFER_INIT;
    struct evaluation evaluation;
    struct choice *choice;
    struct json_value value;
    struct error err;
    (void)state;
    buffer_append_text(&text, "{\"s\":\"");
    for (int i = 0; i < 100000; i++)
        buffer_append_char(&text, 'a');
    buffer_append_text(&text, "\"}");
    buffer_append_text(&rule, "{\"Variable\":\"$.s\",\"StringMatches\":\"*");
    for (int i = 0; i < 20000; i++)
        buffer_append_char(&rule, 'a');
    buffer_append_text(&rule, "b\"}");
    value = scan(buffer_text(&rule));
    assert_int_equal(choice_load(&value, &choice, NULL), 0);
    evaluation_init(&evaluation, 0);
    evaluation.input = scan(buffer_text(&text));
    assert_int_equal(choice_evaluate(choice, &evaluation, &err), -1);
    assert_string_equal(err.message, "the evaluation takes too many steps");
    evaluation_done(&evaluation);
    choice_free(choice);
}

static void test_timestamps(void **state)
{
    static const struct {
        const char *text;
        int64_t seconds; /* -1: it is none */
        uint32_t nanoseconds;
    } cases[] = {
        {"\"1970-01-01T00:00:01Z\"", 1, 0},
        {"\"2016-02-29T23:59:59.5Z\"", 1456790399, 500000000},
        {"\"2016-03-14T01:59:00.1234567891Z\"", 1457920740, 123456789},
        {"\"2016-03-14T01:59:00+05:30\"", 1457900940, 0},
        {"\"2016-03-14T01:59:00-00:00\"", 1457920740, 0},
        {"\"2015-02-29T00:00:00Z\"", -1, 0},
        {"\"2016-13-01T00:00:00Z\"", -1, 0},
        {"\"2016-03-14T24:00:00Z\"", -1, 0},
        {"\"2016-03-14T01:59:00\"", -1, 0},
        {"\"2016-03-14T01:59:00z\"", -1, 0},
        {"\"2016-03-14t01:59:00Z\"", -1, 0},
        {"\"2016-03-14 01:59:00Z\"", -1, 0},
        {"\"2016-03-14T01:59:00.Z\"", -1, 0},
        {"\"2016-03-14T01:59Z\"", -1, 0},
        {"\"2016-03-14\"", -1, 0},
        {"\"2016-03-14T01:59:00Zx\"", -1, 0},
        {"\"\"", -1, 0},
        {"5", -1, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct timestamp at;
        struct json_value value = scan(cases[i].text);
        assert_int_equal(timestamp_read(&value, &at), cases[i].seconds >= 0);
        if (cases[i].seconds < 0)
            continue;
        assert_int_equal(at.seconds, cases[i].seconds);
        assert_int_equal(at.nanoseconds, cases[i].nanoseconds);
    }
}

/* A Pass, or, with a result, what leaves the state. */
static void assert_state(const char *definition, const char *input, const char *result, const char *expected)
{
    struct evaluation evaluation;
    struct state *s;
    struct json_value value = scan(definition);
    struct error err;
    if (state_load(&value, &s, &err) < 0) {
        assert_string_equal(err.message, expected);
        return;
    }
    evaluation_init(&evaluation, 1);
    evaluation.input = scan(input);
    struct json_value from = scan(result ? result : "{}");
    int r =
        result ? state_leave(s, &evaluation, &from, &value, &err) : state_pass(s, &evaluation, &value, &err);
    if (r < 0)
        assert_string_equal(err.message, expected);
    else
        assert_text(&value, expected, definition);
    state_free(s);
    evaluation_done(&evaluation);
}

static void test_states(void **state)
{
    (void)state;
    assert_state("{\"Type\":\"Pass\"}", "{\"a\":1}", NULL, "{\"a\":1}");
    assert_state("{\"Type\":\"Pass\",\"Result\":[1]}", "{\"a\":1}", NULL, "[1]");
    assert_state("{\"Type\":\"Pass\",\"Result\":{\"x.$\":\"$.a\"},\"ResultPath\":\"$.r\"}", "{\"a\":1}", NULL,
                 "{\"a\":1,\"r\":{\"x.$\":\"$.a\"}}");
    assert_state("{\"Type\":\"Pass\",\"InputPath\":null}", "{\"a\":1}", NULL, "{}");
    assert_state("{\"Type\":\"Pass\",\"OutputPath\":null}", "{\"a\":1}", NULL, "{}");
    assert_state("{\"Type\":\"Pass\",\"Result\":1,\"ResultPath\":null}", "{\"a\":1}", NULL, "{\"a\":1}");
    assert_state(
        "{\"Type\":\"Pass\",\"InputPath\":\"$.a\",\"Parameters\":{\"p.$\":\"$.b\"},\"ResultPath\":\"$.r\","
        "\"OutputPath\":\"$.r\"}",
        "{\"a\":{\"b\":2}}", NULL, "{\"p\":2}");
    assert_state("{\"Type\":\"Task\",\"ResultSelector\":{\"x.$\":\"$.y\"},\"ResultPath\":\"$.t.u\"}",
                 "{\"t\":{}}", "{\"y\":5}", "{\"t\":{\"u\":{\"x\":5}}}");
    assert_state("{\"Type\":\"Pass\",\"InputPath\":\"$.no\"}", "{}", NULL,
                 "States.Runtime: InputPath: path $.no: there is no member no");
    assert_state(
        "{\"Type\":\"Pass\",\"ResultPath\":\"$.a\"}", "[]", NULL,
        "States.ResultPathMatchFailure: ResultPath: path $.a: cannot be written to: an array where an object "
        "is needed");
    assert_state("{\"Type\":\"Pass\",\"ResultPath\":\"$.a[*]\"}", "{}", NULL,
                 "ResultPath $.a[*] is not a reference path (names and indices only)");
    assert_state("{\"Type\":\"Pass\",\"QueryLanguage\":\"JSONata\"}", "{}", NULL,
                 "QueryLanguage: only JSONPath is supported");
    assert_state("{\"Type\":\"Pass\",\"Assign\":{}}", "{}", NULL, "Assign: variables are not supported");
    assert_state("{\"Type\":\"Map\",\"ItemsPath\":null}", "{}", NULL, "ItemsPath is null");
    assert_state("{\"Type\":\"Task\",\"TimeoutSecondsPath\":\"x\"}", "{}", NULL,
                 "TimeoutSecondsPath: path x: a path begins with $ at character 1");
}

static void test_large_data(void **state)
{
    BUFFER_AUTO large = BUFFER_INIT;
    (void)state;
    buffer_append_char(&large, '"');
    for (int i = 0; i < EVALUATION_DATA_MAX + 1; i++)
        buffer_append_char(&large, 'x');
    buffer_append_char(&large, '"');
    assert_state("{\"Type\":\"Pass\"}", buffer_text(&large), NULL,
                 "States.DataLimitExceeded: the result has 262145 bytes, more than 262144");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arrays),           cmocka_unit_test(test_texts),
        cmocka_unit_test(test_json_and_numbers), cmocka_unit_test(test_expressions_refused),
        cmocka_unit_test(test_random),           cmocka_unit_test(test_payloads),
        cmocka_unit_test(test_choices),          cmocka_unit_test(test_choices_fail),
        cmocka_unit_test(test_hostile_pattern),  cmocka_unit_test(test_timestamps),
        cmocka_unit_test(test_states),           cmocka_unit_test(test_large_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
