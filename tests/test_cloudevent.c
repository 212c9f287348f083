/* cloudevent.h: the ways into an event, the ways out, and what is refused. */
#include "common/cloudevent.h"

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ENVELOPE "\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\""

static int add(struct cloudevent *event, const char *name, const char *value, struct error *err)
{
    return cloudevent_add(event, name, strlen(name), value, strlen(value), err);
}

static void assert_span(const struct cloudevent_span *span, const char *expected)
{
    if (!expected) {
        assert_null(span->text);
        assert_int_equal(span->len, 0);
        return;
    }
    assert_non_null(span->text);
    assert_int_equal(span->len, strlen(expected));
    assert_memory_equal(span->text, expected, span->len);
}

static void assert_extension(const struct cloudevent *event, unsigned i, const char *name, const char *value)
{
    assert_true(i < event->n_extensions);
    assert_span(&event->extension[i].name, name);
    assert_span(&event->extension[i].value, value);
}

static void assert_same(const struct cloudevent *a, const struct cloudevent *b)
{
    assert_int_equal(a->data, b->data);
    assert_int_equal(a->n_extensions, b->n_extensions);
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++) {
        assert_int_equal(a->attribute[i].text == NULL, b->attribute[i].text == NULL);
        assert_int_equal(a->attribute[i].len, b->attribute[i].len);
        if (a->attribute[i].len)
            assert_memory_equal(a->attribute[i].text, b->attribute[i].text, a->attribute[i].len);
    }
    for (unsigned i = 0; i < a->n_extensions; i++) {
        assert_int_equal(a->extension[i].name.len, b->extension[i].name.len);
        assert_int_equal(a->extension[i].value.len, b->extension[i].value.len);
        assert_memory_equal(a->extension[i].name.text, b->extension[i].name.text, a->extension[i].name.len);
        assert_memory_equal(a->extension[i].value.text, b->extension[i].value.text,
                            a->extension[i].value.len);
    }
}

/* An event read from JSON, with what it borrows. The text is a copy that ends with its allocation. */
struct parsed {
    struct cloudevent event;
    struct buffer scratch;
    char *text;
    struct error err;
};

static int parse_bytes(struct parsed *p, const char *json, size_t n)
{
    memset(p, 0, sizeof *p);
    p->text = malloc(n ? n : 1);
    assert_non_null(p->text);
    memcpy(p->text, json, n);
    return cloudevent_parse(&p->event, p->text, n, &p->scratch, &p->err);
}

static int parse(struct parsed *p, const char *json)
{
    return parse_bytes(p, json, strlen(json));
}

static void parsed_done(struct parsed *p)
{
    buffer_done(&p->scratch);
    free(p->text);
}

static void assert_parse_refused(const char *json, const char *message)
{
    struct parsed p;
    if (parse(&p, json) == 0)
        fail_msg("accepted: %s", json);
    assert_int_equal(p.err.code, ERROR_INVALID);
    if (!strstr(p.err.message, message))
        fail_msg("%s: %s", json, p.err.message);
    assert_null(p.event.attribute[CE_ID].text);
    assert_int_equal(p.event.n_extensions, 0);
    parsed_done(&p);
}

static void test_names(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++) {
        struct cloudevent event;
        cloudevent_clear(&event);
        assert_int_equal(add(&event, cloudevent_attribute_name((enum cloudevent_attribute)i), "v", NULL), 0);
        for (unsigned j = 0; j < CE_ATTRIBUTES; j++)
            assert_span(&event.attribute[j], i == j ? "v" : NULL);
        assert_int_equal(event.data, i == CE_DATA ? CE_DATA_TEXT : CE_DATA_ABSENT);
        assert_int_equal(event.n_extensions, 0);
    }
    assert_string_equal(cloudevent_attribute_name(CE_KEY), "triggerflowkey");
    assert_string_equal(cloudevent_attribute_name(CE_ATTRIBUTES), "unknown");
}

/* Names as long as known ones, and known ones with another case or length, are extensions. */
static void test_names_that_are_near(void **state)
{
    static const char *const names[] = {"ID",          "ids",         "Type",        "typo",
                                        "Data",        "Time",        "sourcf",      "subjecs",
                                        "dataschemb",  "specversioN", "data_base65", "triggerflowkez",
                                        "datacontent", "dataschemas", "extensions",  "datacontenttypf"};
    struct cloudevent event;
    (void)state;
    cloudevent_clear(&event);
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(add(&event, names[i], "v", NULL), 0);
        assert_extension(&event, i, names[i], "v");
    }
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++)
        assert_null(event.attribute[i].text);
}

static void test_add_refused(void **state)
{
    static const struct {
        const char *name;
        const char *value;
        const char *message;
    } cases[] = {
        {"id", "2", "attribute id: given twice"},
        {"data", "2", "attribute data: given twice"},
        {"data_base64", "aGk=", "both attributes data and data_base64"},
        {"colour", "2", "attribute colour: given twice"},
        {"", "x", "without a name"},
        {"\xff", "x", "name that is not UTF-8"},
        {"subject", "\xff", "attribute subject: not UTF-8"},
        {"shade", "a longer value with a broken end \xe2\x82", "attribute shade: not UTF-8"},
    };
    struct cloudevent event;
    (void)state;
    cloudevent_clear(&event);
    assert_int_equal(add(&event, "id", "1", NULL), 0);
    assert_int_equal(add(&event, "data", "1", NULL), 0);
    assert_int_equal(add(&event, "colour", "1", NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        assert_int_equal(add(&event, cases[i].name, cases[i].value, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        if (!strstr(err.message, cases[i].message))
            fail_msg("%s: %s", cases[i].name, err.message);
    }
    assert_span(&event.attribute[CE_ID], "1");
    assert_int_equal(event.n_extensions, 1);
}

static void test_add_base64(void **state)
{
    static const char *const good[] = {"", "aGk=", "aA==", "+/+/", "AAAA"};
    static const char *const bad[] = {"a",        "aGk",  "a===", "====",       "aG=k",
                                      "aGk=aGk=", "aG k", "aG-_", "aGk\xc3\xa9"};
    struct cloudevent event;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cloudevent_clear(&event);
        assert_int_equal(add(&event, "data_base64", good[i], NULL), 0);
        assert_int_equal(event.data, CE_DATA_BASE64);
        assert_span(&event.attribute[CE_DATA], good[i]);
        assert_int_equal(add(&event, "data_base64", good[i], &err), -1);
        assert_int_equal(add(&event, "data", "x", &err), -1);
        assert_non_null(strstr(err.message, "both"));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cloudevent_clear(&event);
        assert_int_equal(add(&event, "data_base64", bad[i], &err), -1);
        assert_non_null(strstr(err.message, "not base64"));
        assert_int_equal(event.data, CE_DATA_ABSENT);
    }
}

static void test_add_empty_value(void **state)
{
    struct cloudevent event;
    (void)state;
    cloudevent_clear(&event);
    assert_int_equal(cloudevent_add(&event, "subject", 7, NULL, 0, NULL), 0);
    assert_int_equal(cloudevent_add(&event, "colour", 6, NULL, 0, NULL), 0);
    assert_span(&event.attribute[CE_SUBJECT], "");
    assert_extension(&event, 0, "colour", "");
}

static void test_too_many_extensions(void **state)
{
    static char names[CLOUDEVENT_MAX_EXTENSIONS + 1][16];
    struct cloudevent event;
    struct error err;
    (void)state;
    cloudevent_clear(&event);
    for (unsigned i = 0; i <= CLOUDEVENT_MAX_EXTENSIONS; i++) {
        snprintf(names[i], sizeof names[i], "extension%u", i);
        int rc = add(&event, names[i], "v", &err);
        assert_int_equal(rc, i < CLOUDEVENT_MAX_EXTENSIONS ? 0 : -1);
    }
    assert_string_equal(err.message, "attribute extension64: too many extensions");
    assert_int_equal(event.n_extensions, CLOUDEVENT_MAX_EXTENSIONS);
}

/* A name in a message is cut to 64 bytes, and never within a character. */
static void test_long_name_in_message(void **state)
{
    char name[80];
    struct cloudevent event;
    struct error err;
    (void)state;
    memset(name, 'n', sizeof name);
    memcpy(name + 63, "\xe2\x82\xac", 3);
    cloudevent_clear(&event);
    assert_int_equal(cloudevent_add(&event, name, sizeof name, "v", 1, &err), 0);
    assert_int_equal(cloudevent_add(&event, name, sizeof name, "v", 1, &err), -1);
    assert_true(utf8_valid(err.message, strlen(err.message)));
    assert_non_null(strstr(err.message, "nnn: given twice"));
}

static void test_parse(void **state)
{
    struct parsed p;
    (void)state;
    assert_int_equal(parse(&p, " { \"specversion\" : \"1.0\", \"id\":\"a\",\"source\":\"/s\",\"type\":\"t\","
                               "\"subject\":\"x\",\"time\":\"2018-04-05T17:31:00Z\",\"dataschema\":\"urn:d\","
                               "\"datacontenttype\":\"text/plain\",\"triggerflowkey\":\"k\",\"number\":-5,"
                               "\"yes\":true,\"no\":false,\"none\":null,\"text\":\"v\",\"data\":\"hello\"} "),
                     0);
    assert_span(&p.event.attribute[CE_SPECVERSION], "1.0");
    assert_span(&p.event.attribute[CE_ID], "a");
    assert_span(&p.event.attribute[CE_SOURCE], "/s");
    assert_span(&p.event.attribute[CE_TYPE], "t");
    assert_span(&p.event.attribute[CE_SUBJECT], "x");
    assert_span(&p.event.attribute[CE_TIME], "2018-04-05T17:31:00Z");
    assert_span(&p.event.attribute[CE_DATASCHEMA], "urn:d");
    assert_span(&p.event.attribute[CE_DATACONTENTTYPE], "text/plain");
    assert_span(&p.event.attribute[CE_KEY], "k");
    assert_span(&p.event.attribute[CE_DATA], "hello");
    assert_int_equal(p.event.data, CE_DATA_TEXT);
    assert_int_equal(p.event.n_extensions, 4);
    assert_extension(&p.event, 0, "number", "-5");
    assert_extension(&p.event, 1, "yes", "true");
    assert_extension(&p.event, 2, "no", "false");
    assert_extension(&p.event, 3, "text", "v");
    /* Nothing was escaped: nothing was allocated. */
    assert_null(p.scratch.data);
    parsed_done(&p);
}

static void test_parse_data(void **state)
{
    static const struct {
        const char *member;
        enum cloudevent_data kind;
        const char *text;
    } cases[] = {
        {"\"data\":null", CE_DATA_ABSENT, NULL},
        {"\"data\":null,\"data_base64\":\"aGk=\"", CE_DATA_BASE64, "aGk="},
        {"\"data\":\"a \\\"b\\\"\"", CE_DATA_TEXT, "a \"b\""},
        {"\"data\":\"\"", CE_DATA_TEXT, ""},
        {"\"data\":{\"a\" : [1,\"\\n\"]}", CE_DATA_JSON, "{\"a\" : [1,\"\\n\"]}"},
        {"\"data\":[]", CE_DATA_JSON, "[]"},
        {"\"data\": 1.5 ", CE_DATA_JSON, "1.5"},
        {"\"data\":false", CE_DATA_JSON, "false"},
        {"\"data_base64\":\"aGk\\u003d\"", CE_DATA_BASE64, "aGk="},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct parsed p;
        char json[256];
        snprintf(json, sizeof json, "{" ENVELOPE ",%s}", cases[i].member);
        assert_int_equal(parse(&p, json), 0);
        assert_int_equal(p.event.data, cases[i].kind);
        assert_span(&p.event.attribute[CE_DATA], cases[i].text);
        parsed_done(&p);
    }
}

/* Many escaped strings, in names and values: what is unescaped first must stay where it is. */
static void test_parse_escaped(void **state)
{
    BUFFER_AUTO json = BUFFER_INIT;
    struct parsed p;
    char expected[32];
    (void)state;
    buffer_append_text(&json,
                       "{\"i\\u0064\":\"\\u00e9\\n\",\"\\u0073ource\":\"\\/s\",\"type\":\"\\ud83c\\udf0e\"");
    for (unsigned i = 0; i < CLOUDEVENT_MAX_EXTENSIONS; i++)
        buffer_printf(&json, ",\"x\\u006d%u\":\"%u\\t\\\"\"", i, i);
    buffer_append_text(&json, ",\"data\":\"{\\\"a\\\": 1}\"}");
    assert_int_equal(parse_bytes(&p, json.data, json.len), 0);
    assert_span(&p.event.attribute[CE_ID], "\xc3\xa9\n");
    assert_span(&p.event.attribute[CE_SOURCE], "/s");
    assert_span(&p.event.attribute[CE_TYPE], "\xf0\x9f\x8c\x8e");
    assert_span(&p.event.attribute[CE_DATA], "{\"a\": 1}");
    for (unsigned i = 0; i < CLOUDEVENT_MAX_EXTENSIONS; i++) {
        snprintf(expected, sizeof expected, "xm%u", i);
        assert_span(&p.event.extension[i].name, expected);
        snprintf(expected, sizeof expected, "%u\t\"", i);
        assert_span(&p.event.extension[i].value, expected);
    }
    assert_true(p.scratch.len <= json.len);
    parsed_done(&p);
}

/* Several events share one scratch when room for all was reserved. */
static void test_parse_shared_scratch(void **state)
{
    static const char json[] = "{\"id\":\"\\n\",\"subject\":\"a subject \\\" with an escape\"}";
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent events[64];
    (void)state;
    assert_non_null(buffer_reserve(&scratch, 64 * (sizeof json - 1)));
    const char *data = scratch.data;
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(cloudevent_parse(&events[i], json, sizeof json - 1, &scratch, NULL), 0);
    assert_ptr_equal(scratch.data, data);
    for (size_t i = 0; i < 64; i++)
        assert_span(&events[i].attribute[CE_SUBJECT], "a subject \" with an escape");
}

static void test_parse_nested_extensions(void **state)
{
    struct parsed p;
    (void)state;
    assert_int_equal(parse(&p, "{" ENVELOPE ",\"extensions\":{\"a\":\"1\",\"My.Ext\":2,\"n\":null,"
                               "\"triggerflowkey\":\"k\\n\"},\"b\":\"3\"}"),
                     0);
    assert_int_equal(p.event.n_extensions, 3);
    assert_extension(&p.event, 0, "a", "1");
    assert_extension(&p.event, 1, "My.Ext", "2");
    assert_extension(&p.event, 2, "b", "3");
    assert_span(&p.event.attribute[CE_KEY], "k\n");
    parsed_done(&p);

    assert_int_equal(parse(&p, "{\"extensions\":{},\"a\":\"1\"}"), 0);
    assert_int_equal(p.event.n_extensions, 1);
    parsed_done(&p);

    assert_int_equal(parse(&p, "{\"extensions\":null}"), 0);
    assert_int_equal(p.event.n_extensions, 0);
    parsed_done(&p);

    /* Anything but an object is an extension like others. */
    assert_int_equal(parse(&p, "{\"extensions\":\"{}\"}"), 0);
    assert_extension(&p.event, 0, "extensions", "{}");
    parsed_done(&p);
}

static void test_parse_refused(void **state)
{
    (void)state;
    assert_parse_refused("", "invalid JSON at byte 0");
    assert_parse_refused("{\"id\":\"1\",}", "invalid JSON at byte 10");
    assert_parse_refused("[]", "must be a JSON object, not an array");
    assert_parse_refused("\"event\"", "not a string");
    assert_parse_refused("{\"id\":\"1\",\"id\":\"2\"}", "attribute id: given twice");
    assert_parse_refused("{\"id\":\"1\",\"\\u0069d\":\"2\"}", "attribute id: given twice");
    assert_parse_refused("{\"e\":\"1\",\"e\":2}", "attribute e: given twice");
    assert_parse_refused("{\"e\":\"1\",\"extensions\":{\"e\":2}}", "attribute e: given twice");
    assert_parse_refused("{\"extensions\":{\"id\":\"1\"}}", "attribute id: among the extensions");
    assert_parse_refused("{\"extensions\":{\"data\":\"1\"}}", "attribute data: among the extensions");
    assert_parse_refused("{\"extensions\":[]}", "attribute extensions: neither");
    assert_parse_refused("{\"extensions\":{\"e\":{}}}", "attribute e: neither");
    assert_parse_refused("{\"data\":1,\"data\":\"x\"}", "attribute data: given twice");
    assert_parse_refused("{\"data\":1,\"data_base64\":\"\"}", "both attributes");
    assert_parse_refused("{\"data_base64\":\"\",\"data\":1}", "both attributes");
    assert_parse_refused("{\"data_base64\":\"a\"}", "not base64");
    assert_parse_refused("{\"data_base64\":1}", "attribute data_base64: not a string");
    assert_parse_refused("{\"id\":1}", "attribute id: not a string");
    assert_parse_refused("{\"time\":{}}", "attribute time: not a string");
    assert_parse_refused("{\"triggerflowkey\":true}", "attribute triggerflowkey: not a string");
    assert_parse_refused("{\"id\":\"1\",\"e\":1.5}", "attribute e: a number that is not an integer");
    assert_parse_refused("{\"id\":\"1\",\"e\":[]}", "attribute e: neither");
    assert_parse_refused("{\"id\":\"1\",\"\":\"x\"}", "without a name");
    assert_parse_refused("{\"id\":\"\xff\"}", "UTF-8");
}

static void test_parse_without_memory(void **state)
{
    static const char json[] = "{\"id\":\"a\\n\"}";
    struct buffer scratch = {NULL, 0, 0, true};
    struct cloudevent event;
    struct error err;
    (void)state;
    assert_int_equal(cloudevent_parse(&event, json, sizeof json - 1, &scratch, &err), -1);
    assert_int_equal(err.code, ERROR_MEMORY);
    assert_null(event.attribute[CE_ID].text);
}

/* An event of well-formed attributes, in which one is replaced, or left out when value is NULL. */
static void make_event(struct cloudevent *event, const char *name, const char *value)
{
    static const char *const attributes[][2] = {
        {"specversion", "1.0"}, {"id", "1"}, {"source", "/s"}, {"type", "t"}};
    cloudevent_clear(event);
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
        if (strcmp(attributes[i][0], name) != 0)
            assert_int_equal(add(event, attributes[i][0], attributes[i][1], NULL), 0);
    if (value)
        assert_int_equal(add(event, name, value, NULL), 0);
}

static void test_check(void **state)
{
    static const struct {
        const char *name;
        const char *value;
        const char *message; /* NULL: accepted */
    } cases[] = {
        {"subject", "", NULL},
        {"specversion", NULL, NULL},
        {"specversion", "0.3", NULL},
        {"My.Extension", "", NULL},
        {"time", "lunchtime", NULL},
        {"id", NULL, "attribute id is missing"},
        {"id", "", "attribute id is empty"},
        {"source", NULL, "attribute source is missing"},
        {"source", "", "attribute source is empty"},
        {"type", NULL, "attribute type is missing"},
        {"type", "", "attribute type is empty"},
        {"specversion", "", "attribute specversion is neither"},
        {"specversion", "0.9", "attribute specversion is neither 1.0 nor 0.3: 0.9"},
        {"specversion", "1.01", "attribute specversion is neither"},
        {"specversion", "9000.1, and a long text after it", "nor 0.3: 9000.1, and a lo"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cloudevent event;
        struct error err = {0};
        make_event(&event, cases[i].name, cases[i].value);
        assert_int_equal(cloudevent_check(&event, &err), cases[i].message ? -1 : 0);
        if (cases[i].message) {
            assert_int_equal(err.code, ERROR_INVALID);
            assert_non_null(strstr(err.message, cases[i].message));
            assert_int_equal(cloudevent_conforms(&event, NULL), -1);
        }
    }
}

static void test_conforms(void **state)
{
    static const struct {
        const char *name;
        const char *value;
        bool conforms;
    } cases[] = {
        {"specversion", "1.0", true},
        {"specversion", NULL, false},
        {"subject", "", true},
        {"datacontenttype", "text/plain", true},
        {"datacontenttype", "", false},
        {"dataschema", "urn:x", true},
        {"dataschema", "", false},
        {"abc019xyz", "", true},
        {"myExt", "x", false},
        {"my.ext", "x", false},
        {"my_ext", "x", false},
        {"\xc3\xa9", "x", false},
        {"time", "2018-04-05T17:31:00Z", true},
        {"time", "2018-04-05t17:31:00z", true},
        {"time", "2018-04-05T17:31:00.123456789Z", true},
        {"time", "2018-04-05T17:31:60+23:59", true},
        {"time", "2020-02-29T00:00:00-00:00", true},
        {"time", "2000-02-29T00:00:00Z", true},
        {"time", "", false},
        {"time", "lunchtime", false},
        {"time", "1900-02-29T00:00:00Z", false},
        {"time", "2019-02-29T00:00:00Z", false},
        {"time", "2018-04-31T17:31:00Z", false},
        {"time", "2018-13-05T17:31:00Z", false},
        {"time", "2018-00-05T17:31:00Z", false},
        {"time", "2018-04-00T17:31:00Z", false},
        {"time", "201x-04-05T17:31:00Z", false},
        {"time", "2018/04-05T17:31:00Z", false},
        {"time", "2018-04/05T17:31:00Z", false},
        {"time", "2018-04-05 17:31:00Z", false},
        {"time", "2018-04-05T24:31:00Z", false},
        {"time", "2018-04-05T17.31:00Z", false},
        {"time", "2018-04-05T17:60:00Z", false},
        {"time", "2018-04-05T17:31.00Z", false},
        {"time", "2018-04-05T17:31:61Z", false},
        {"time", "2018-04-05T17:31:00.Z", false},
        {"time", "2018-04-05T17:31:00.5", false},
        {"time", "2018-04-05T17:31:00ZZ", false},
        {"time", "2018-04-05T17:31:00X", false},
        {"time", "2018-04-05T17:31:00", false},
        {"time", "2018-04-05T17:31:00+05", false},
        {"time", "2018-04-05T17:31:00+0500", false},
        {"time", "2018-04-05T17:31:00+24:00", false},
        {"time", "2018-04-05T17:31:00+05:60", false},
        {"time", "2018-04-05T17:31:00+05:00x", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cloudevent event;
        struct error err = {0};
        make_event(&event, cases[i].name, cases[i].value);
        assert_int_equal(cloudevent_check(&event, NULL), 0);
        if ((cloudevent_conforms(&event, &err) == 0) != cases[i].conforms)
            fail_msg("%s=%s: %s", cases[i].name, cases[i].value, err.message);
        assert_true(cases[i].conforms || strstr(err.message, cases[i].name));
    }
}

static void test_write(void **state)
{
    static const char *const texts[] = {
        "{}",
        "{\"data\":\"\"}",
        "{\"specversion\":\"1.0\",\"id\":\"\\\"\",\"source\":\"/s\",\"type\":\"t\",\"subject\":\"\","
        "\"time\":\"x\",\"datacontenttype\":\"y\",\"dataschema\":\"z\",\"triggerflowkey\":\"k\","
        "\"e\":\"1\",\"Ex \\\\ t\":\"\",\"data\":{\"a\" : [1]}}",
        "{\"id\":\"1\",\"data\":\"a \\\"text\\\" \xc3\xa9\"}",
        "{\"id\":\"1\",\"data_base64\":\"aGk=\"}",
        "{\"extensions\":\"{}\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        struct parsed p;
        assert_int_equal(parse(&p, texts[i]), 0);
        cloudevent_write(&p.event, &out);
        assert_string_equal(buffer_text(&out), texts[i]);
        parsed_done(&p);
    }
}

static void check_packed(const struct cloudevent *event)
{
    struct cloudevent again;
    size_t size = cloudevent_packed_size(event);
    assert_int_equal(size % 8, 0);
    char *packed = malloc(size);
    assert_non_null(packed);
    memset(packed, 0xa5, size);
    cloudevent_pack(event, packed);
    memset(&again, 0xa5, sizeof again);
    cloudevent_unpack(packed, &again);
    assert_same(event, &again);

    /* The same event gives the same bytes, to the last one. */
    char *twice = malloc(size);
    assert_non_null(twice);
    memset(twice, 0x5a, size);
    cloudevent_pack(&again, twice);
    assert_memory_equal(packed, twice, size);
    free(twice);
    free(packed);
}

static void test_pack(void **state)
{
    static char names[CLOUDEVENT_MAX_EXTENSIONS][16];
    static const char value[] = "0123456789abcdef";
    struct cloudevent event;
    (void)state;
    cloudevent_clear(&event);
    check_packed(&event);
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++) { /* every alignment, and an empty value */
        const char *name = cloudevent_attribute_name((enum cloudevent_attribute)i);
        assert_int_equal(cloudevent_add(&event, name, strlen(name), value, i, NULL), 0);
        check_packed(&event);
    }
    for (unsigned i = 0; i < CLOUDEVENT_MAX_EXTENSIONS; i++) {
        int n = snprintf(names[i], sizeof names[i], "x%u", i);
        assert_int_equal(cloudevent_add(&event, names[i], (size_t)n, value, i % 16, NULL), 0);
        check_packed(&event);
    }
    static const enum cloudevent_data kinds[] = {CE_DATA_TEXT, CE_DATA_JSON, CE_DATA_BASE64};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        event.data = kinds[i];
        check_packed(&event);
    }
}

static void test_data_json(void **state)
{
    static const struct {
        const char *type; /* datacontenttype, or NULL */
        const char *name; /* data or data_base64, or NULL */
        const char *value;
        const char *json;
    } cases[] = {
        {NULL, NULL, NULL, "null"},
        {"text/plain", NULL, NULL, "null"},
        {NULL, "data", " {\"a\": 1} ", "{\"a\": 1}"},
        {NULL, "data", "\"x\"", "\"x\""},
        {NULL, "data", "I'm \"text\"", "\"I'm \\\"text\\\"\""},
        {NULL, "data", "", "\"\""},
        {NULL, "data", "{\"a\":", "\"{\\\"a\\\":\""},
        {"", "data", "5", "5"},
        {"application/json", "data", "5", "5"},
        {"APPLICATION/JSON ; charset=utf-8", "data", "5", "5"},
        {"application/cloudevents+json", "data", "[5]", "[5]"},
        {"text/json", "data", "[5]", "[5]"},
        {"text/plain", "data", "5", "\"5\""},
        {"plain/text", "data", "{}", "\"{}\""},
        {"json", "data", "5", "\"5\""},
        {"application/xjson", "data", "5", "\"5\""},
        {"text/plain; x=/json", "data", "5", "\"5\""},
        {NULL, "data_base64", "", "\"\""},
        {NULL, "data_base64", "eyAieHl6IjogMTIzIH0=", "{ \"xyz\": 123 }"},
        {"application/json", "data_base64", "e30=", "{}"},
        {"text/plain", "data_base64", "e30=", "\"{}\""},
        {"text/plain", "data_base64", "SGVsbG8gV29ybGQgTG9yZW5hIQ==", "\"Hello World Lorena!\""},
        {NULL, "data_base64", "/////w==", "\"/////w==\""},
        {NULL, "data_base64", "+/A=", "\"+/A=\""},
        {NULL, "data_base64", "AA==", "\"\\u0000\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        BUFFER_AUTO out = BUFFER_INIT;
        struct cloudevent event;
        cloudevent_clear(&event);
        if (cases[i].type)
            assert_int_equal(add(&event, "datacontenttype", cases[i].type, NULL), 0);
        if (cases[i].name)
            assert_int_equal(add(&event, cases[i].name, cases[i].value, NULL), 0);
        buffer_append_text(&out, "before ");
        cloudevent_data_json(&event, &out);
        assert_string_equal(buffer_text(&out) + 7, cases[i].json);
    }
}

static void test_data_json_given_as_json(void **state)
{
    BUFFER_AUTO out = BUFFER_INIT;
    struct parsed p;
    (void)state;
    assert_int_equal(parse(&p, "{\"datacontenttype\":\"text/plain\",\"data\":{\"a\" :\"\\u0041\"}}"), 0);
    cloudevent_data_json(&p.event, &out);
    assert_string_equal(buffer_text(&out), "{\"a\" :\"\\u0041\"}");
    parsed_done(&p);
}

/* What an HTTP layer will do with a body in structured mode. */
static bool structured_accepted(struct parsed *p, const char *body, size_t n)
{
    return parse_bytes(p, body, n) == 0 && cloudevent_conforms(&p->event, &p->err) == 0;
}

static void assert_text_value(const struct json_value *expected, const struct cloudevent_span *span)
{
    BUFFER_AUTO text = BUFFER_INIT;
    if (expected->type == JSON_STRING)
        json_unescape(expected, &text);
    else
        buffer_append(&text, expected->text, expected->len);
    assert_span(span, buffer_text(&text));
}

static const struct cloudevent_span *find_attribute(const struct cloudevent *event,
                                                    const struct json_value *name)
{
    for (unsigned i = 0; i < CE_DATA; i++) {
        const char *known = cloudevent_attribute_name((enum cloudevent_attribute)i);
        if (json_equals(name, known, strlen(known)))
            return &event->attribute[i];
    }
    for (unsigned i = 0; i < event->n_extensions; i++)
        if (json_equals(name, event->extension[i].name.text, event->extension[i].name.len))
            return &event->extension[i].value;
    fail_msg("attribute %.*s is missing", (int)name->len, name->text);
    return NULL;
}

/* The event must have the expected attributes, no others, and the expected data. */
static void check_event(const struct cloudevent *event, const struct json_value *expected)
{
    struct json_value attributes;
    struct json_value name;
    struct json_value value;
    struct json_iter iter;
    unsigned n = 0;
    unsigned have = event->n_extensions;
    assert_true(json_member(expected, "attributes", &attributes));
    json_iter_init(&iter, &attributes);
    for (; json_next(&iter, &name, &value); n++)
        assert_text_value(&value, find_attribute(event, &name));
    for (unsigned i = 0; i < CE_DATA; i++)
        have += event->attribute[i].text != NULL;
    assert_int_equal(n, have);

    const struct cloudevent_span *data = &event->attribute[CE_DATA];
    if (json_member(expected, "data_base64", &value))
        assert_int_equal(event->data, CE_DATA_BASE64);
    else if (json_member(expected, "data", &value))
        assert_int_equal(event->data, value.type == JSON_STRING ? CE_DATA_TEXT : CE_DATA_JSON);
    else
        assert_int_equal(event->data, CE_DATA_ABSENT);
    if (event->data != CE_DATA_ABSENT)
        assert_text_value(&value, data);
}

/* A body in structured mode is one event, in batch mode an array of them. */
static bool body_accepted(const char *body, size_t n, bool batch, const struct json_value *expected)
{
    struct json_value array;
    struct json_value name;
    struct json_value event = {body, n, JSON_ABSENT, false};
    struct json_value wanted = {body, 0, JSON_ABSENT, false};
    struct json_iter events;
    struct json_iter wants;
    if (batch && (json_scan(body, n, &array, NULL) < 0 || array.type != JSON_ARRAY))
        return false;
    if (batch)
        json_iter_init(&events, &array);
    if (expected)
        json_iter_init(&wants, expected);
    bool accepted = true;
    while (accepted && (!batch || json_next(&events, &name, &event))) {
        struct parsed p;
        accepted = structured_accepted(&p, event.text, event.len);
        if (accepted && expected) {
            assert_true(json_next(&wants, &name, &wanted));
            check_event(&p.event, &wanted);
        }
        parsed_done(&p);
        if (!batch)
            break;
    }
    return accepted && (!expected || !json_next(&wants, &name, &wanted));
}

static bool is_true(const struct json_value *object, const char *name)
{
    struct json_value value;
    return json_member(object, name, &value) && value.type == JSON_TRUE;
}

/* One line of the cases; returns whether it was one for us (not in binary mode). */
static bool check_case(const char *line, size_t n)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct json_value test;
    struct json_value mode;
    struct json_value http;
    struct json_value body;
    struct json_value expect;
    struct json_value events;
    struct json_value id;
    assert_int_equal(json_scan(line, n, &test, NULL), 0);
    assert_true(json_member(&test, "mode", &mode) && json_member(&test, "expect", &expect));
    assert_true(json_member(&test, "http", &http) && json_member(&http, "body", &body));
    assert_true(json_member(&test, "id", &id));
    if (json_equals(&mode, "binary", 6))
        return false;
    json_unescape(&body, &text);
    bool wanted = is_true(&expect, "accept");
    bool optional = is_true(&test, "optional");
    bool has_events = json_member(&expect, "events", &events);
    bool accepted =
        body_accepted(text.data, text.len, json_equals(&mode, "batch", 5), has_events ? &events : NULL);
    if (accepted != wanted && !optional)
        fail_msg("%.*s: %s", (int)id.len, id.text, accepted ? "accepted" : "refused");
    return true;
}

static void test_conformance_cases(void **state)
{
    const char *folder = getenv("TRIGGERFLOW_CONFORMANCE_DIR");
    char path[4096];
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    unsigned checked = 0;
    (void)state;
    snprintf(path, sizeof path, "%s/cloudevents_cases.jsonl", folder ? folder : "../shared/conformance");
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("skipped: %s is not there\n", path);
        skip();
    }
    while ((n = getline(&line, &room, file)) >= 0)
        checked += check_case(line, (size_t)n);
    free(line);
    fclose(file);
    assert_true(checked >= 40);
}

/* Every damaged byte and every cut of a packed event is refused or gives an event that can be used. */
static void test_unpack_checked(void **state)
{
    (void)state;
    static const char json[] = "{\"specversion\":\"1.0\",\"id\":\"i\",\"source\":\"s\\u00e9\",\"type\":\"t\","
                               "\"ext\":\"v\",\"data\":[1,2]}";
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct cloudevent event, again;
    struct error err;
    size_t seen = 0;
    assert_int_equal(cloudevent_parse(&event, json, sizeof json - 1, &scratch, &err), 0);
    size_t size = cloudevent_packed_size(&event);
    unsigned char *packed = malloc(size);
    unsigned char *copy = malloc(size);
    assert_true(packed && copy);
    cloudevent_pack(&event, packed);
    assert_int_equal(cloudevent_unpack_checked(packed, size, &again, &seen, &err), 0);
    assert_int_equal(seen, size);
    assert_int_equal(again.attribute[CE_SOURCE].len, 3);
    for (size_t len = 0; len < size; len++) {
        unsigned char *cut = malloc(len + 1);
        assert_non_null(cut);
        memcpy(cut, packed, len);
        assert_int_equal(cloudevent_unpack_checked(cut, len, &again, &seen, &err), -1);
        assert_int_equal(err.code, ERROR_INVALID);
        free(cut);
    }
    for (size_t at = 0; at < size; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            memcpy(copy, packed, size);
            copy[at] ^= (unsigned char)(1u << bit);
            if (cloudevent_unpack_checked(copy, size, &again, &seen, &err) < 0)
                continue;
            BUFFER_AUTO text = BUFFER_INIT;
            struct json_value value;
            cloudevent_write(&again, &text);
            assert_int_equal(json_scan(text.data, text.len, &value, &err), 0);
        }
    free(packed);
    free(copy);
}

/* The padding behind a packed event does not complete a character of its text. */
static void test_unpack_half_character(void **state)
{
    (void)state;
    struct cloudevent event = {.data = CE_DATA_ABSENT}, again;
    struct error err;
    size_t size;
    event.attribute[CE_SPECVERSION] = (struct cloudevent_span){"1.0", 3};
    event.attribute[CE_ID] = (struct cloudevent_span){"i", 1};
    event.attribute[CE_SOURCE] = (struct cloudevent_span){"s", 1};
    event.attribute[CE_TYPE] = (struct cloudevent_span){"ty", 2};
    event.extension[event.n_extensions++] =
        (struct cloudevent_extension){{"e", 1}, {"0123456789abcd", 14}}; /* two bytes of padding */
    size_t packed_size = cloudevent_packed_size(&event);
    char *packed = malloc(packed_size);
    assert_non_null(packed);
    cloudevent_pack(&event, packed);
    char *end = memchr(packed, 'd', packed_size);
    assert_non_null(end);
    assert_true(end + 1 < packed + packed_size);
    assert_int_equal(cloudevent_unpack_checked(packed, packed_size, &again, &size, &err), 0);
    end[0] = '\xc3';
    end[1] = '\xa9';
    assert_int_equal(cloudevent_unpack_checked(packed, packed_size, &again, &size, &err), -1);
    free(packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_names_that_are_near),
        cmocka_unit_test(test_add_refused),
        cmocka_unit_test(test_add_base64),
        cmocka_unit_test(test_add_empty_value),
        cmocka_unit_test(test_too_many_extensions),
        cmocka_unit_test(test_long_name_in_message),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_data),
        cmocka_unit_test(test_parse_escaped),
        cmocka_unit_test(test_parse_shared_scratch),
        cmocka_unit_test(test_parse_nested_extensions),
        cmocka_unit_test(test_parse_refused),
        cmocka_unit_test(test_parse_without_memory),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_conforms),
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_pack),
        cmocka_unit_test(test_unpack_checked),
        cmocka_unit_test(test_unpack_half_character),
        cmocka_unit_test(test_data_json),
        cmocka_unit_test(test_data_json_given_as_json),
        cmocka_unit_test(test_conformance_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
