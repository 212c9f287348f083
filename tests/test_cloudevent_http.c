/* common/cloudevent_http.h: what becomes of messages, and the public conformance cases over real HTTP. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/cloudevent_http.h"
#include "common/error.h"
#include "tests/support/http_client.h"
#include "tests/support/events_bed.h"
#include "tests/support/wait.h"

/* ---- Messages ---- */

#define MINIMAL "\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\""

struct taken {
    unsigned n;
    struct buffer json; /* the events in the JSON format, one behind the other */
};

static int take(void *data, const struct cloudevent *event, struct error *err)
{
    struct taken *taken = data;
    (void)err;
    taken->n++;
    cloudevent_write(event, &taken->json);
    return 0;
}

/* Reads a message; headers are "name\0value\0...\0". expected: the events, or text in the error. */
static void check(const char *content_type, const char *headers, const char *body, size_t body_len,
                  int status, long index, const char *expected)
{
    struct cloudevent_http_message message = {
        .content_type = content_type, .body = body, .body_len = body_len, .max_event = 200};
    struct taken taken = {.json = BUFFER_INIT};
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct error err = {0};
    long at;
    while (*headers) {
        const char *value = headers + strlen(headers) + 1;
        cloudevent_http_add_header(&message, headers, strlen(headers), value, strlen(value));
        headers = value + strlen(value) + 1;
    }
    int got = cloudevent_http_read(&message, &scratch, take, &taken, &at, &err);
    if (got != status)
        print_error("%s\n", err.message);
    assert_int_equal(got, status);
    assert_int_equal(at, index);
    if (status == 0)
        assert_string_equal(buffer_text(&taken.json), expected);
    else if (!strstr(err.message, expected))
        fail_msg("%s", err.message);
    buffer_done(&taken.json);
}

#define BINARY "ce-specversion\0001.0\0ce-id\0001\0ce-source\0/s\0ce-type\0t\0"
#define BINARY_JSON MINIMAL

static void test_modes(void **state)
{
    (void)state;
    static const char event[] = "{" MINIMAL "}";
    check("application/cloudevents+json", "", event, sizeof event - 1, 0, -1, event);
    check(" Application/CloudEvents+JSON ; x=y;charset=\"UTF-8\"", "", event, sizeof event - 1, 0, -1, event);
    check("application/cloudevents+json;charset=latin1", "", event, sizeof event - 1, 415, -1, "charset");
    check("application/cloudevents+json;", "", event, sizeof event - 1, 0, -1, event);
    check("application/cloudevents+xml", BINARY, "", 0, 415, -1, "application/cloudevents+xml");
    check("application/cloudevents", BINARY, "", 0, 415, -1, "application/cloudevents");
    check("application/json", "", event, sizeof event - 1, 415, -1, "no ce- headers");
    check(NULL, "", event, sizeof event - 1, 415, -1, "missing");
    check("", "", "", 0, 415, -1, "missing");
    check("application/cloudevents-batch+json", "", "[]", 2, 0, -1, "");
    check("application/cloudevents-batch+json", "", " [{" MINIMAL "} , {" MINIMAL "}] ",
          strlen(" [{" MINIMAL "} , {" MINIMAL "}] "), 0, -1, "{" MINIMAL "}{" MINIMAL "}");
    check("application/cloudevents-batch+json", "", "[{" MINIMAL "},{}]", strlen("[{" MINIMAL "},{}]"), 400,
          1, "id");
    check("application/cloudevents-batch+json", "", "[{" MINIMAL "},7]", strlen("[{" MINIMAL "},7]"), 400, 1,
          "object");
    check("application/cloudevents-batch+json", "", "{}", 2, 400, -1, "array");
    check("application/cloudevents+json", "", "", 0, 400, -1, "");
}

static void test_limits(void **state)
{
    (void)state;
    char body[1000];
    int len = snprintf(body, sizeof body, "[{" MINIMAL "},{" MINIMAL ",\"data\":\"%0200d\"}]", 0);
    check("application/cloudevents-batch+json", "", body, (size_t)len, 413, 1, "at most 200");
    check("application/cloudevents+json", "", body, 201, 413, -1, "201 bytes");
    check(NULL, BINARY, body, 201, 413, -1, "201 bytes");
    struct cloudevent_http_message message = {.body = "", .max_event = 10};
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct taken taken = {.json = BUFFER_INIT};
    struct error err;
    long at;
    for (int i = 0; i < 10000; i++)
        cloudevent_http_add_header(&message, "ce-x", 4, "", 0);
    assert_int_equal(cloudevent_http_read(&message, &scratch, take, &taken, &at, &err), 400);
    assert_non_null(strstr(err.message, "10000 ce- headers"));
    buffer_done(&taken.json);
}

static void test_binary(void **state)
{
    (void)state;
    check(NULL, BINARY, "", 0, 0, -1, "{" MINIMAL "}");
    check("text/plain", BINARY "CE-Ext1\0v%20%C3%A9\0X-Other\0y\0", "hi\0", 3, 0, -1,
          "{" MINIMAL ",\"datacontenttype\":\"text/plain\",\"ext1\":\"v é\",\"data\":\"hi\\u0000\"}");
    check(NULL, BINARY, "\xff\xfe", 2, 0, -1, "{" MINIMAL ",\"data_base64\":\"//4=\"}");
    check(NULL, BINARY, "\xff\xfe\xfd", 3, 0, -1, "{" MINIMAL ",\"data_base64\":\"//79\"}");
    check(NULL, BINARY, "\xff", 1, 0, -1, "{" MINIMAL ",\"data_base64\":\"/w==\"}");
    check(NULL, BINARY "ce-a\0\"q \\\" \\\\ \"r\\s\0", "", 0, 0, -1,
          "{" MINIMAL ",\"a\":\"q \\\" \\\\ r\\\\s\"}");
    static const char *const bad[] = {
        "ce-a\0%\0",      "ce-a\0%4\0",        "ce-a\0x%zz\0",      "ce-a\0\"x\0",
        "ce-a\0\"x\\\0",  "ce-a\0%C0%80\0",    "ce-a\0%0A\0",       "ce-a\0%7F\0",
        "ce-a\0%C2%85\0", "ce-a\0%EF%BF%BE\0", "ce-a\0%EF%B7%90\0", "ce-a\0%00\0",
        "ce-id\0002\0",   "ce-a_b\0x\0",       "ce-\0x\0",          "ce-data\0x\0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char headers[128] = BINARY;
        memcpy(headers + sizeof BINARY - 1, bad[i],
               strlen(bad[i]) + 1 + strlen(bad[i] + strlen(bad[i]) + 1) + 1);
        check(NULL, headers, "", 0, 400, -1, "");
    }
    check(NULL, "ce-id\0001\0ce-source\0/s\0ce-type\0t\0", "", 0, 400, -1, "specversion");
}

/* ---- The public cases ---- */

static const char *text_of(struct json_object *object)
{
    return json_object_is_type(object, json_type_string) ? json_object_get_string(object)
                                                         : json_object_to_json_string(object);
}

/* Whether an event has exactly these attributes. */
static bool same_attributes(const struct cloudevent *event, struct json_object *expected)
{
    size_t n = event->n_extensions;
    for (unsigned i = 0; i < CE_DATA; i++)
        n += event->attribute[i].text != NULL;
    json_object_object_foreach(expected, name, value)
    {
        const struct cloudevent_span *found = NULL;
        for (unsigned i = 0; i < CE_DATA; i++)
            if (strcmp(cloudevent_attribute_name(i), name) == 0)
                found = &event->attribute[i];
        for (unsigned i = 0; i < event->n_extensions; i++)
            if (event->extension[i].name.len == strlen(name) &&
                memcmp(event->extension[i].name.text, name, strlen(name)) == 0)
                found = &event->extension[i].value;
        const char *text = text_of(value);
        if (!found || !found->text || found->len != strlen(text) ||
            memcmp(found->text, text, found->len) != 0)
            return false;
        n--;
    }
    return n == 0;
}

static struct json_object *member(struct json_object *object, const char *name)
{
    struct json_object *value = NULL;
    json_object_object_get_ex(object, name, &value);
    return value;
}

/* Plays the worker for one request; the events that have arrived are compared. */
static bool take_record(struct events_bed *bed, struct json_object *events)
{
    struct arena_ingest_record *record;
    size_t n = json_object_array_length(events);
    bool same = true;
    if (n == 0)
        return events_bed_peek(bed) == NULL;
    WAIT((record = events_bed_peek(bed)) != NULL);
    const char *at = (const char *)(record + 1);
    if (record->n_events != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        struct cloudevent event;
        cloudevent_unpack(at, &event);
        same &= same_attributes(&event, member(json_object_array_get_idx(events, i), "attributes"));
        at += cloudevent_packed_size(&event);
    }
    events_bed_answer(bed, record, 202, 0);
    return same;
}

static void write_request(struct json_object *http, struct buffer *out)
{
    struct json_object *body = member(http, "body");
    const char *text = body ? json_object_get_string(body) : "";
    size_t len = body ? (size_t)json_object_get_string_len(body) : 0;
    buffer_append_text(out, "POST /workspace/w/event HTTP/1.1\r\nHost: x\r\n");
    json_object_object_foreach(member(http, "headers"), name, value)
        buffer_printf(out, "%s: %s\r\n", name, json_object_get_string(value));
    buffer_printf(out, "Content-Length: %zu\r\n\r\n", len);
    buffer_append(out, text, len);
}

static bool is_optional(struct json_object *item)
{
    struct json_object *tags = member(item, "tags");
    for (size_t i = 0; tags && i < json_object_array_length(tags); i++)
        if (strcmp(json_object_get_string(json_object_array_get_idx(tags, i)), "optional") == 0)
            return true;
    return false;
}

static bool run_case(struct events_bed *bed, struct json_object *item)
{
    char answer[HTTP_CLIENT_ANSWER_MAX];
    BUFFER_AUTO request = BUFFER_INIT;
    struct json_object *expect = member(item, "expect");
    bool accept = json_object_get_boolean(member(expect, "accept"));
    bool same = true;
    write_request(member(item, "http"), &request);
    int fd = http_client_connect(bed->port);
    http_client_send(fd, request.data, request.len);
    if (is_optional(item)) {
        WAIT(events_bed_peek(bed) || recv(fd, answer, 1, MSG_PEEK | MSG_DONTWAIT) > 0);
        if (events_bed_peek(bed))
            events_bed_answer(bed, events_bed_peek(bed), 202, 0);
    } else if (accept) {
        same = take_record(bed, member(expect, "events"));
    }
    int status = http_client_read(fd, answer, false);
    close(fd);
    bool right = is_optional(item) || (accept ? status == 202 : status == 400 || status == 415);
    if (!right || !same)
        print_error("%s: status %d, attributes %s: %s\n", json_object_get_string(member(item, "id")), status,
                    same ? "right" : "wrong", http_client_body(answer));
    return right && same;
}

static void test_conformance(void **state)
{
    (void)state;
    const char *folder = getenv("TRIGGERFLOW_CONFORMANCE_DIR");
    char path[4096], line[65536];
    unsigned n = 0, wrong = 0;
    snprintf(path, sizeof path, "%s/cloudevents_cases.jsonl", folder ? folder : "../shared/conformance");
    FILE *file = fopen(path, "r");
    if (!file) {
        print_message("skipped: no %s\n", path);
        skip();
    }
    struct events_bed *bed = events_bed_new();
    events_bed_open(bed, "w");
    events_bed_set_state(bed, ARENA_INGEST_OPEN);
    while (fgets(line, sizeof line, file)) {
        struct json_object *item = json_tokener_parse(line);
        assert_non_null(item);
        n++;
        wrong += !run_case(bed, item);
        json_object_put(item);
    }
    fclose(file);
    events_bed_close(bed, "w");
    events_bed_free(bed);
    assert_true(n > 0);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_conformance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
