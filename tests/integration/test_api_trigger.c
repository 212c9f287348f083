/* The trigger API of the real supervisor with real workers, on every storage: all calls, their statuses, many
 * clients at a time, and who may. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <curl/curl.h>

#include "supervisor/auth.h"
#include "tests/support/redis_server.h"
#include "tests/support/supervisor_bed.h"

static struct redis_server redis;
static const char *backend;
static int api_port;

/* ---- Calling ---- */

struct answer {
    long status; /* 0: none */
    struct buffer body;
    bool challenged; /* WWW-Authenticate */
    bool later;      /* Retry-After */
};

static size_t take_body(char *data, size_t size, size_t n, void *user)
{
    buffer_append(user, data, size * n);
    return size * n;
}

static size_t take_header(char *data, size_t size, size_t n, void *user)
{
    struct answer *answer = user;
    answer->challenged |= size * n > 16 && strncasecmp(data, "WWW-Authenticate", 16) == 0;
    answer->later |= size * n > 11 && strncasecmp(data, "Retry-After", 11) == 0;
    return size * n;
}

/* credentials "user:password": over TCP; NULL: over the Unix socket. type: of the body. */
static long call_as(const struct bed *bed, const char *credentials, const char *type, const char *method,
                    const char *path, const char *body, struct answer *answer)
{
    char url[2048], socket_path[128], header[128];
    CURL *curl = curl_easy_init();
    assert_non_null(curl);
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", api_port, path);
    snprintf(socket_path, sizeof socket_path, "%s/api.sock", bed->run);
    snprintf(header, sizeof header, "Content-Type: %s", type);
    struct curl_slist *headers = curl_slist_append(NULL, header);
    *answer = (struct answer){.body = BUFFER_INIT};
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer->body);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, answer);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 60L);
    if (body)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    if (!credentials)
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_path);
    else if (credentials[0])
        curl_easy_setopt(curl, CURLOPT_USERPWD, credentials);
    if (curl_easy_perform(curl) == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer->status);
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    return answer->status;
}

/* Over the Unix socket: the status, which must be that; the body must contain `has` (NULL: anything). */
static void expect(const struct bed *bed, long status, const char *has, const char *method, const char *path,
                   const char *body)
{
    struct answer answer;
    call_as(bed, NULL, "application/json", method, path, body, &answer);
    if (answer.status != status || (has && !strstr(buffer_text(&answer.body), has)))
        fail_msg("%s %s %s: %ld %s, not %ld with %s", method, path, body ? body : "", answer.status,
                 buffer_text(&answer.body), status, has ? has : "");
    buffer_done(&answer.body);
}

/* Whether the body has the text. */
static bool shows(const struct bed *bed, const char *path, const char *has)
{
    struct answer answer;
    call_as(bed, NULL, "application/json", "GET", path, NULL, &answer);
    bool is = answer.status == 200 && strstr(buffer_text(&answer.body), has);
    buffer_done(&answer.body);
    return is;
}

static long status_as(const struct bed *bed, const char *credentials, const char *method, const char *path,
                      const char *body)
{
    struct answer answer;
    long status = call_as(bed, credentials, "application/json", method, path, body, &answer);
    if (status == 401)
        assert_true(answer.challenged);
    buffer_done(&answer.body);
    return status;
}

/* ---- The bed ---- */

/* Starts the supervisor, and finds its port: the last that the log names. */
static void start(struct bed *bed)
{
    bed_start(bed);
    bed_await_ready(bed);
    const char *at = bed_read_file(bed->log);
    while ((at = strstr(at, "api_port=")) != NULL) {
        at += strlen("api_port=");
        api_port = atoi(at);
    }
}

static int setup(void **state)
{
    struct bed *bed = bed_new(&redis);
    FILE *file = fopen(bed->config, "w");
    assert_non_null(file);
    fprintf(file, "triggerflow_controller: {port: %d}\ntrigger_api: {port: 0}\n", bed->port);
    if (strcmp(backend, "redis") == 0)
        fprintf(file, "trigger_storage: {backend: redis, parameters: {host: 127.0.0.1, port: %d}}\n",
                redis.port);
    else
        fprintf(file, "trigger_storage: {backend: %s, state_directory: %s/state}\n", backend, bed->dir);
    assert_int_equal(fclose(file), 0);
    start(bed);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    if (bed->supervisor)
        assert_int_equal(bed_stop(bed), 0);
    bed_free(bed);
    return 0;
}

#define SOURCE                                                         \
    "{\"name\":\"out\",\"class\":\"RedisEventSource\",\"parameters\":" \
    "{\"host\":\"127.0.0.1\",\"port\":1,\"stream\":\"s\"}}"
#define WORKSPACE(name) "{\"workspace_name\":\"" name "\",\"event_source\":" SOURCE ",\"global_context\":{}}"
#define TRIGGER(id, condition, context, type)                                                    \
    "{\"id\":" id ",\"condition\":{\"name\":\"" condition "\"},\"action\":{\"name\":\"PASS\"},"  \
    "\"context\":" context ",\"activation_events\":[{\"type\":\"" type "\",\"subject\":\"s\"}]," \
    "\"transient\":false}"
#define BARE(id)                                                                                          \
    "{\"id\":\"" id "\",\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"context\":{}," \
    "\"activation_events\":[],\"transient\":true,\"context_parser\":null}"
#define TRIGGERS(list) "{\"triggers\":[" list "]}"
#define TIMEOUT(subject) \
    "{\"event_source\":{},\"event\":{\"type\":\"x\",\"subject\":\"" subject "\"},\"seconds\":0}"
#define TIMEOUT_TYPE "event.triggerflow.timeout"

/* ---- The original's calls ---- */

static void test_workspaces(void **state)
{
    struct bed *bed = *state;
    expect(bed, 200, "{\"workspaces\":[]}", "GET", "/workspace", "{}");
    expect(bed, 400, "\"err_code\":0", "POST", "/workspace", "{");
    expect(bed, 400, "\"err_code\":1", "POST", "/workspace", "{\"workspace_name\":\"w\"}");
    expect(bed, 400, "\"err_code\":1", "POST", "/workspace",
           "{\"workspace_name\":1,\"event_source\":{},\"global_context\":{}}");
    expect(bed, 400, "\"err_code\":3", "POST", "/workspace", WORKSPACE("a b"));
    expect(bed, 400, "\"err_code\":3", "POST", "/workspace", WORKSPACE("triggerflow"));
    expect(bed, 400, "\"err_code\":4", "POST", "/workspace",
           "{\"workspace_name\":\"w\",\"event_source\":{\"name\":\"x\"},\"global_context\":{}}");
    expect(bed, 400, "event source x: unknown class Y", "POST", "/workspace",
           "{\"workspace_name\":\"w\",\"event_source\":{\"name\":\"x\",\"class\":\"Y\",\"parameters\":{}},"
           "\"global_context\":{}}");
    expect(bed, 201, "{\"message\":\"Created workspace w\"}", "POST", "/workspace",
           "{\"workspace_name\":\"w\",\"event_source\":" SOURCE
           ",\"global_context\":{\"a\":1,\"b\":[\"x\"],\"\\u00e9\":null}}");
    assert_true(bed_state_is(bed, "w", "running"));
    expect(bed, 400, "\"err_code\":2", "POST", "/workspace", WORKSPACE("w"));
    expect(bed, 200, "\"triggers\":[],\"event_sources\":[\"out\"],\"global_context\":{", "GET",
           "/workspace/w", NULL);
    expect(bed, 200, "\"b\":[\"x\"]", "GET", "/workspace/w", NULL);
    expect(bed, 200, "\"name\":\"w\"", "GET", "/workspace", NULL);
    expect(bed, 200, "\"state\":\"running\"", "GET", "/workspace/w/status", NULL);
    expect(bed, 404, "{\"error\":\"Workspace none not found\"}", "GET", "/workspace/none", NULL);
    expect(bed, 404, NULL, "GET", "/workspace/a%20b", NULL);
    expect(bed, 404, NULL, "GET", "/workspace/none/status", NULL);
    expect(bed, 404, NULL, "DELETE", "/workspace/none", "{}");
    expect(bed, 405, NULL, "PATCH", "/workspace/w", "{}");
    expect(bed, 200, NULL, "PUT", "/workspace/w/global_context", "{\"a\":2,\"c\":{}}");
    assert_false(shows(bed, "/workspace/w", "\"b\""));
    assert_true(shows(bed, "/workspace/w", "\"c\":{}"));
    expect(bed, 400, NULL, "PUT", "/workspace/w/global_context", "[]");
    expect(bed, 404, NULL, "PUT", "/workspace/none/global_context", "{}");
    expect(bed, 200, "{\"message\":\"Workspace w deleted\"}", "DELETE", "/workspace/w", "{}");
    expect(bed, 404, NULL, "GET", "/workspace/w", NULL);
    assert_int_equal(bed_status(bed, "GET", "/workspace/w", NULL), 404); /* forgotten */
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));        /* and anew */
    assert_true(bed_state_is(bed, "w", "running"));
}

static void test_event_sources(void **state)
{
    struct bed *bed = *state;
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    expect(bed, 409, NULL, "POST", "/workspace/w/eventsource", "{\"event_source\":" SOURCE "}");
    expect(bed, 409, NULL, "POST", "/workspace/w/eventsource?overwrite=False",
           "{\"event_source\":" SOURCE "}");
    expect(bed, 201, "{\"message\":\"Created/updated out\"}", "POST",
           "/workspace/w/eventsource?overwrite=True", "{\"event_source\":" SOURCE "}");
    expect(bed, 400, NULL, "POST", "/workspace/w/eventsource?overwrite=maybe",
           "{\"event_source\":" SOURCE "}");
    expect(bed, 400, "class", "POST", "/workspace/w/eventsource", "{\"event_source\":{\"name\":\"x\"}}");
    expect(bed, 400, NULL, "POST", "/workspace/w/eventsource", "{}");
    expect(bed, 400, NULL, "POST", "/workspace/w/eventsource", "nonsense");
    expect(bed, 404, NULL, "POST", "/workspace/none/eventsource", "{\"event_source\":" SOURCE "}");
    expect(bed, 200, "[\"out\"]", "GET", "/workspace/w/eventsource", "{}");
    expect(bed, 200, "{\"out\":{\"name\":\"out\",\"class\":\"RedisEventSource\"", "GET",
           "/workspace/w/eventsource/out", "{}");
    expect(bed, 404, NULL, "GET", "/workspace/w/eventsource/none", NULL);
    expect(bed, 201, "{\"a/b\":{\"name\":\"a/b\"", "PUT", "/workspace/w/eventsource/a%2Fb",
           "{\"class\":\"HTTPEventSource\",\"parameters\":{}}");
    expect(bed, 200, NULL, "PUT", "/workspace/w/eventsource/a%2Fb",
           "{\"name\":\"a/b\",\"class\":\"HTTPEventSource\",\"parameters\":{}}");
    expect(bed, 400, NULL, "PUT", "/workspace/w/eventsource/c",
           "{\"name\":\"d\",\"class\":\"HTTPEventSource\",\"parameters\":{}}");
    expect(bed, 200, "{\"message\":\"Event source a/b deleted\"}", "DELETE", "/workspace/w/eventsource/a%2Fb",
           "{}");
    expect(bed, 404, "Event source a/b not found", "DELETE", "/workspace/w/eventsource/a%2Fb", NULL);
    AWAIT(shows(bed, "/workspace/w/status", "\"out\""));
}

/* {"triggers":[...]} of the texts, up to NULL. */
static const char *join_triggers(struct buffer *body, ...)
{
    va_list args;
    const char *text;
    va_start(args, body);
    buffer_reset(body, 0);
    buffer_append_text(body, "{\"triggers\":[");
    for (bool first = true; (text = va_arg(args, const char *)) != NULL; first = false)
        buffer_printf(body, "%s%s", first ? "" : ",", text);
    va_end(args);
    buffer_append_text(body, "]}");
    return buffer_text(body);
}

static void test_triggers(void **state)
{
    BUFFER_AUTO body = BUFFER_INIT;
    struct bed *bed = *state;
    struct answer answer;
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    expect(bed, 200, "{\"accepted_triggers\":[],\"rejected_triggers\":[]}", "POST", "/workspace/w/trigger",
           TRIGGERS(""));
    /* As the original client compiles them: no id, no total_activations yet, no activation events. */
    expect(bed, 200, "\"rejected_triggers\":[]", "POST", "/workspace/w/trigger",
           join_triggers(&body, TRIGGER("null", "TRUE", "{}", "t"),
                         TRIGGER("\"f\"", "FUNCTION_JOIN", "{}", "t"), BARE("none"), NULL));
    expect(bed, 200, "{\"accepted_triggers\":[],\"rejected_triggers\":[{\"reason\":\"", "POST",
           "/workspace/w/trigger", TRIGGERS(TRIGGER("\"m\"", "JOIN", "{\"join\":-1}", "t")));
    expect(bed, 200, "headers.X-S: secret file ../x: not a name", "POST", "/workspace/w/trigger",
           TRIGGERS("{\"id\":\"s\",\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"HTTP_INVOKE\","
                    "\"url\":\"http://h/\",\"headers\":{\"X-S\":{\"file\":\"../x\"}}},\"context\":{},"
                    "\"activation_events\":[{\"type\":\"t\"}],\"transient\":false}"));
    call_as(bed, NULL, "application/json; charset=utf-8", "POST", "/workspace/w/trigger",
            join_triggers(&body,
                          TRIGGER("\"j\"", "JOIN", "{\"join\":3,\"x\":{\"__object__\":\"AA==\"}}", "t"),
                          TRIGGER("\"j\"", "TRUE", "{}", "t"), TRIGGER("\"u\"", "NOSUCH", "{}", "t"),
                          TRIGGER("\"c\"", "JOIN", "{\"join\":\"x\"}", "t"),
                          TRIGGER("\"\"", "TRUE", "{}", "t"), "7", "{\"id\":\"k\"}", NULL),
            &answer);
    assert_int_equal(answer.status, 200);
    const char *text = buffer_text(&answer.body);
    assert_non_null(strstr(text, "{\"accepted_triggers\":[{\"id\":\"j\",\"condition\":{\"name\":\"JOIN\"}"));
    assert_non_null(strstr(text, "\"uuid\":\""));
    assert_non_null(strstr(text, "\"workspace\":\"w\",\"timestamp\":\""));
    assert_non_null(strstr(text, "\"reason\":\"Trigger j already exists\""));
    assert_non_null(strstr(text, "NOSUCH"));
    assert_non_null(strstr(text, "{\"reason\":\"Malformed trigger schema\",\"id\":\"k\"}"));
    assert_non_null(strstr(text, "{\"reason\":\"Malformed trigger schema\",\"trigger\":7}"));
    buffer_done(&answer.body);
    assert_false(shows(bed, "/workspace/w/trigger", "\"c\""));
    expect(bed, 200, "{\"j\":{\"id\":\"j\"", "GET", "/workspace/w/trigger/j", "{}");
    expect(bed, 200, "{\"__object__\":\"AA==\"}", "GET", "/workspace/w/trigger/j", "{}");
    expect(bed, 404, "{\"error\":\"Trigger x not found\"}", "GET", "/workspace/w/trigger/x", NULL);
    expect(bed, 400, NULL, "POST", "/workspace/w/trigger", "{}");
    expect(bed, 400, NULL, "POST", "/workspace/w/trigger", "[]");
    expect(bed, 404, NULL, "POST", "/workspace/none/trigger", TRIGGERS(""));
    expect(bed, 200, "{\"message\":\"Deleted j\"}", "DELETE", "/workspace/w/trigger/j", "{}");
    expect(bed, 404, NULL, "DELETE", "/workspace/w/trigger/j", "{}");
    call_as(bed, NULL, "text/plain", "POST", "/workspace/w/trigger", "{}", &answer);
    assert_int_equal(answer.status, 415);
    buffer_done(&answer.body);
}

static void test_large(void **state)
{
    struct bed *bed = *state;
    BUFFER_AUTO body = BUFFER_INIT;
    struct answer answer;
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    buffer_append_text(&body, "{\"triggers\":[");
    for (int i = 0; i < 5000; i++)
        buffer_printf(&body,
                      "%s{\"id\":\"t%d\",\n\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},"
                      "\"context\":{\"pad\":\"%0400d\"},\"activation_events\":[],\"transient\":false}",
                      i ? "," : "", i, i);
    buffer_append_text(&body, "]}");
    call_as(bed, NULL, "application/json", "POST", "/workspace/w/trigger", buffer_text(&body), &answer);
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr(buffer_text(&answer.body), "\"rejected_triggers\":[]"));
    buffer_done(&answer.body);
    AWAIT(bed_number(bed, "w", "triggers") == 5000);
    buffer_reset(&body, 0);
    for (int i = 0; i < 7 << 20; i++)
        buffer_append_char(&body, ' ');
    call_as(bed, NULL, "application/json", "POST", "/workspace/w/trigger", buffer_text(&body), &answer);
    assert_int_equal(answer.status, 413);
    buffer_done(&answer.body);
}

/* ---- Ours ---- */

static void test_put_patch_and_test(void **state)
{
    struct bed *bed = *state;
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    expect(bed, 201, "\"more\":[1]", "PUT", "/workspace/w/trigger/p",
           "{\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},\"context\":{\"join\":3},"
           "\"activation_events\":[{\"type\":\"t\"}],\"more\":[1]}");
    expect(bed, 200, NULL, "PUT", "/workspace/w/trigger/p",
           "{\"id\":\"p\",\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},\"context\":{"
           "\"join\":4},"
           "\"activation_events\":[{\"type\":\"t\"}]}");
    expect(bed, 400, NULL, "PUT", "/workspace/w/trigger/p", "{\"id\":\"q\"}");
    expect(bed, 400, "NOSUCH", "PUT", "/workspace/w/trigger/p",
           "{\"condition\":{\"name\":\"NOSUCH\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[]}");
    expect(bed, 404, NULL, "PUT", "/workspace/none/trigger/p",
           "{\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"PASS\"},\"activation_events\":[]}");
    expect(bed, 200, "{\"message\":\"Updated p\"}", "PATCH", "/workspace/w/trigger/p",
           "{\"context\":{\"counter\":2,\"x\":null,\"y\":[1]}}");
    expect(bed, 200, "\"counter\":2", "GET", "/workspace/w/trigger/p", NULL);
    expect(bed, 400, "join", "PATCH", "/workspace/w/trigger/p", "{\"context\":{\"join\":\"x\"}}");
    expect(bed, 400, NULL, "PATCH", "/workspace/w/trigger/p", "{\"context\":1}");
    expect(bed, 404, NULL, "PATCH", "/workspace/w/trigger/none", "{\"context\":{}}");
    expect(bed, 404, NULL, "PATCH", "/workspace/none/trigger/p", "{\"context\":{}}");
    expect(bed, 200, "\"matched\":true", "POST", "/workspace/w/trigger/p/test",
           "{\"event\":{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"s\",\"type\":\"t\"}}");
    expect(bed, 200, "\"counter\":2", "GET", "/workspace/w/trigger/p", NULL); /* as before */
    expect(bed, 400, NULL, "POST", "/workspace/w/trigger/p/test", "{\"event\":{\"id\":\"1\"}}");
    expect(bed, 400, NULL, "POST", "/workspace/w/trigger/p/test", "{}");
    expect(bed, 404, NULL, "POST", "/workspace/w/trigger/none/test", "{\"event\":{}}");
    /* One that does not run is started for it. */
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/w", NULL), 200);
    expect(bed, 200, NULL, "PATCH", "/workspace/w/trigger/p", "{\"context\":{\"counter\":3}}");
    assert_true(bed_state_is(bed, "w", "running"));
    expect(bed, 200, "\"counter\":3", "GET", "/workspace/w/trigger/p", NULL);
}

static void test_timeouts_and_pause(void **state)
{
    struct bed *bed = *state;
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    expect(bed, 200, NULL, "POST", "/workspace/w/trigger",
           TRIGGERS(TRIGGER("\"j\"", "JOIN", "{\"join\":100}", TIMEOUT_TYPE)));
    expect(bed, 201, "\"message\":\"Created timeout\",\"id\":\"", "POST", "/workspace/w/timeout",
           TIMEOUT("s"));
    AWAIT(shows(bed, "/workspace/w/trigger/j", "\"counter\":1"));
    expect(bed, 200, "\"detail\":\"counter 1 of join 100\"", "GET", "/workspace/w/decision", NULL);
    expect(bed, 200, "\"trigger\":\"j\"", "GET", "/workspace/w/trigger/j/decision?after=0&limit=10", NULL);
    expect(bed, 200, "{\"decisions\":[]}", "GET", "/workspace/w/decision?limit=0", NULL);
    expect(bed, 200, "{\"decisions\":[]}", "GET", "/workspace/w/trigger/x/decision", NULL);
    expect(bed, 400, NULL, "GET", "/workspace/w/decision?limit=1001", NULL);
    expect(bed, 404, NULL, "GET", "/workspace/none/decision", NULL);
    expect(bed, 400, "seconds", "POST", "/workspace/w/timeout",
           "{\"event_source\":{},\"event\":{},\"seconds\":-1}");
    expect(bed, 400, NULL, "POST", "/workspace/w/timeout",
           "{\"event_source\":{},\"event\":{},\"seconds\":\"1\"}");
    expect(bed, 400, NULL, "POST", "/workspace/w/timeout",
           "{\"event_source\":{\"class\":\"Nothing\"},\"event\":{},\"seconds\":1}");
    expect(bed, 404, NULL, "POST", "/workspace/none/timeout", TIMEOUT("s"));
    expect(bed, 200, "{\"message\":\"Workspace w paused\"}", "POST", "/workspace/w/pause", NULL);
    AWAIT(shows(bed, "/workspace/w/status", "\"paused\""));
    expect(bed, 200, "{\"message\":\"Workspace w resumed\"}", "POST", "/workspace/w/resume", "{}");
    expect(bed, 404, NULL, "POST", "/workspace/none/pause", NULL);
    expect(bed, 404, NULL, "POST", "/workspace/none/resume", NULL);
    /* Stored, so it comes though nothing runs; fractions count. */
    assert_int_equal(bed_status(bed, "DELETE", "/workspace/w", NULL), 200);
    expect(bed, 201, NULL, "POST", "/workspace/w/timeout",
           "{\"event_source\":{},\"event\":{\"type\":\"x\",\"subject\":\"s\"},\"seconds\":0.05}");
    AWAIT(shows(bed, "/workspace/w/trigger/j", "\"counter\":2"));
}

/* Makes n dead letters: events that no trigger wants. */
static void make_letters(const struct bed *bed, unsigned n)
{
    char path[64];
    for (unsigned i = 0; i < n; i++)
        expect(bed, 201, NULL, "POST", "/workspace/w/timeout", TIMEOUT("s"));
    snprintf(path, sizeof path, "/workspace/w/dead-letter?limit=%u", n - 1);
    AWAIT(shows(bed, path, "\"more\":true")); /* committed */
}

/* The number of the first letter of a listing; "" without one. */
static void first_letter(const struct bed *bed, char number[64])
{
    struct answer answer;
    call_as(bed, NULL, "application/json", "GET", "/workspace/w/dead-letter?limit=1", NULL, &answer);
    const char *at = strstr(buffer_text(&answer.body), "\"number\":\"");
    snprintf(number, 64, "%.*s", at ? (int)strcspn(at + 10, "\"") : 0, at ? at + 10 : "");
    buffer_done(&answer.body);
}

static void test_dead_letters(void **state)
{
    struct bed *bed = *state;
    char number[64], path[256], body[256];
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    expect(bed, 200, "{\"dead_letters\":[],\"more\":false}", "GET", "/workspace/w/dead-letter", NULL);
    make_letters(bed, 4);
    expect(bed, 200, "\"reason\":\"no_trigger\"", "GET", "/workspace/w/dead-letter?reason=no_trigger", NULL);
    expect(bed, 200, "\"dead_letters\":[],", "GET", "/workspace/w/dead-letter?reason=other", NULL);
    expect(bed, 200, "\"more\":true", "GET", "/workspace/w/dead-letter?limit=3", NULL);
    first_letter(bed, number);
    snprintf(path, sizeof path, "/workspace/w/dead-letter?limit=3&after=%s", number);
    expect(bed, 200, "\"more\":false", "GET", path, NULL);
    snprintf(path, sizeof path, "/workspace/w/dead-letter/%s", number);
    expect(bed, 200, "\"event\":{", "GET", path, NULL);
    expect(bed, 404, NULL, "GET", "/workspace/w/dead-letter/1", NULL);
    expect(bed, 404, NULL, "GET", "/workspace/none/dead-letter", NULL);
    expect(bed, 400, NULL, "GET", "/workspace/w/dead-letter?limit=x", NULL);
    snprintf(body, sizeof body, "{\"numbers\":[\"%s\"]}", number);
    expect(bed, 200, "{\"count\":1}", "POST", "/workspace/w/dead-letter/drop", body);
    expect(bed, 200, "{\"count\":0}", "POST", "/workspace/w/dead-letter/drop", body);
    expect(bed, 404, NULL, "POST", "/workspace/w/dead-letter/redrive", body);
    expect(bed, 400, NULL, "POST", "/workspace/w/dead-letter/redrive", "{\"numbers\":[1]}");
    expect(bed, 400, NULL, "POST", "/workspace/w/dead-letter/drop", "{\"all\":false}");
    expect(bed, 404, NULL, "POST", "/workspace/none/dead-letter/drop", "{\"all\":true}");
    expect(bed, 200, "{\"count\":0}", "POST", "/workspace/w/dead-letter/redrive", "{\"numbers\":[]}");
    /* With a trigger that wants them they arrive, each once. */
    expect(bed, 200, NULL, "POST", "/workspace/w/trigger",
           TRIGGERS(TRIGGER("\"j\"", "JOIN", "{\"join\":100}", TIMEOUT_TYPE)));
    expect(bed, 200, "{\"count\":3}", "POST", "/workspace/w/dead-letter/redrive", "{\"all\":true}");
    AWAIT(shows(bed, "/workspace/w/trigger/j", "\"counter\":3"));
    expect(bed, 200, "{\"count\":0}", "POST", "/workspace/w/dead-letter/drop", "{\"all\":true}");
}

/* ---- Many at a time ---- */

#define CLIENTS 8
#define IDS 20

struct client {
    const struct bed *bed;
    pthread_t thread;
    unsigned accepted, created;
};

static void *client_main(void *data)
{
    struct client *client = data;
    char body[512];
    for (int i = 0; i < IDS; i++) {
        struct answer answer;
        snprintf(body, sizeof body, TRIGGERS(TRIGGER("\"t%d\"", "TRUE", "{}", "t")), i);
        if (call_as(client->bed, NULL, "application/json", "POST", "/workspace/w/trigger", body, &answer) ==
            200)
            client->accepted += strstr(buffer_text(&answer.body), "\"accepted_triggers\":[{") != NULL;
        buffer_done(&answer.body);
    }
    client->created = status_as(client->bed, NULL, "POST", "/workspace", WORKSPACE("other")) == 201;
    return NULL;
}

static void test_one_of_many_wins(void **state)
{
    struct bed *bed = *state;
    struct client clients[CLIENTS];
    unsigned accepted = 0, created = 0;
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.bed = bed};
        assert_int_equal(pthread_create(&clients[i].thread, NULL, client_main, &clients[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
        accepted += clients[i].accepted;
        created += clients[i].created;
    }
    assert_int_equal(accepted, IDS);
    assert_int_equal(created, 1);
    AWAIT(bed_number(bed, "w", "triggers") == IDS);
}

/* Created and deleted again and again, with work in hand: nothing of an earlier one comes back. */
static void test_deleted_while_it_runs(void **state)
{
    struct bed *bed = *state;
    for (int i = 0; i < 10; i++) {
        expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
        expect(bed, 200, "{\"triggers\":[],", "GET", "/workspace/w", NULL);
        expect(bed, 200, NULL, "POST", "/workspace/w/trigger",
               TRIGGERS(TRIGGER("\"j\"", "JOIN", "{\"join\":100}", TIMEOUT_TYPE)));
        for (int k = 0; k < 3; k++)
            expect(bed, 201, NULL, "POST", "/workspace/w/timeout", TIMEOUT("s"));
        expect(bed, 200, NULL, "DELETE", "/workspace/w", NULL);
        expect(bed, 404, NULL, "GET", "/workspace/w", NULL);
    }
    expect(bed, 200, "{\"workspaces\":[]}", "GET", "/workspace", NULL);
}

/* ---- Who may ---- */

static void operator_credentials(const struct bed *bed, char to[128])
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/" AUTH_TOKEN_FILE, bed->run);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    snprintf(to, 128, AUTH_OPERATOR ":%.64s", bed_read_file(path));
}

static void test_who_may(void **state)
{
    struct bed *bed = *state;
    char operator[128], ann[128], body[128], digest[AUTH_DIGEST_LEN + 1];
    operator_credentials(bed, operator);
    auth_digest("ann", "secret", digest);
    snprintf(ann, sizeof ann, "ann:%s", digest);
    snprintf(body, sizeof body, "{\"digest\":\"%s\"}", digest);
    AWAIT(status_as(bed, "", "GET", "/workspace", NULL) == 401);
    AWAIT(status_as(bed, ann, "GET", "/workspace", NULL) == 401);
    assert_int_equal(status_as(bed, operator, "GET", "/workspace", NULL), 200);
    assert_int_equal(status_as(bed, AUTH_OPERATOR ":x", "GET", "/workspace", NULL), 401);
    assert_int_equal(status_as(bed, "", "GET", "/healthz", NULL), 200);
    assert_int_equal(status_as(bed, "", "GET", "/openapi.json", NULL), 200);
    assert_int_equal(status_as(bed, operator, "PUT", "/user/ann", body), 201);
    assert_int_equal(status_as(bed, ann, "GET", "/workspace", NULL), 200);
    assert_int_equal(status_as(bed, "ann:secret", "GET", "/workspace", NULL), 401);
    assert_int_equal(status_as(bed, ann, "GET", "/user", NULL), 403);
    assert_int_equal(status_as(bed, ann, "PUT", "/user/bob", body), 403);
    assert_int_equal(status_as(bed, ann, "DELETE", "/user/ann", NULL), 403);
    expect(bed, 200, "{\"users\":[\"ann\"]}", "GET", "/user", NULL);
    expect(bed, 200, NULL, "PUT", "/user/ann", body);
    expect(bed, 400, NULL, "PUT", "/user/ann", "{\"digest\":\"xyz\"}");
    expect(bed, 400, NULL, "PUT", "/user/" AUTH_OPERATOR, body);
    expect(bed, 400, NULL, "PUT", "/user/a%3Ab", body);
    expect(bed, 200, NULL, "DELETE", "/user/ann", "{}");
    expect(bed, 404, NULL, "DELETE", "/user/ann", NULL);
    assert_int_equal(status_as(bed, ann, "GET", "/workspace", NULL), 401);
}

/* The calls of the original's client, byte for byte, by a script that sends what it sends. */
static void test_original_client(void **state)
{
    static const char script[] = "tests/support/original_client.py";
    struct bed *bed = *state;
    char line[512], body[128], digest[AUTH_DIGEST_LEN + 1];
    if (access(script, R_OK) < 0 || system("python3 -c 'import hashlib' 2>/dev/null") != 0)
        skip();
    auth_digest("ann", "pass word", digest);
    snprintf(body, sizeof body, "{\"digest\":\"%s\"}", digest);
    expect(bed, 201, NULL, "PUT", "/user/ann", body);
    snprintf(line, sizeof line, "python3 %s 127.0.0.1:%d ann 'pass word'", script, api_port);
    assert_int_equal(system(line), 0);
}

/* Users that another program stores, and the original's admin. */
static void test_other_users(void **state)
{
    struct bed *bed = *state;
    char digest[AUTH_DIGEST_LEN + 1], credentials[128], operator[128], old[128];
    operator_credentials(bed, old);
    assert_int_equal(bed_stop(bed), 0);
    setenv("CREATE_ADMIN_USER", "1", 1);
    start(bed);
    unsetenv("CREATE_ADMIN_USER");
    auth_digest("admin", "admin", digest);
    snprintf(credentials, sizeof credentials, "admin:%s", digest);
    AWAIT(status_as(bed, credentials, "GET", "/workspace", NULL) == 200);
    operator_credentials(bed, operator);
    assert_string_not_equal(old, operator); /* a token of its own each time */
    if (strcmp(backend, "redis") != 0)
        return;
    auth_digest("eve", "x", digest);
    freeReplyObject(redis_server_do(&redis, "HSET triggerflow-auth eve %s", digest));
    snprintf(credentials, sizeof credentials, "eve:%s", digest);
    AWAIT(status_as(bed, credentials, "GET", "/workspace", NULL) == 200);
}

static void test_storage_away(void **state)
{
    struct bed *bed = *state;
    struct answer answer;
    if (strcmp(backend, "redis") != 0)
        return;
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    redis_server_stop(&redis);
    call_as(bed, NULL, "application/json", "GET", "/workspace/w", NULL, &answer);
    assert_int_equal(answer.status, 503);
    assert_true(answer.later);
    buffer_done(&answer.body);
    assert_int_equal(redis_server_restart(&redis), 0);
    AWAIT(status_as(bed, NULL, "GET", "/workspace", NULL) == 200);
}

/* Without a server that reads them requests would hang: all are answered when the supervisor stops. */
static void test_stop_answers_all(void **state)
{
    struct bed *bed = *state;
    struct client clients[CLIENTS];
    expect(bed, 201, NULL, "POST", "/workspace", WORKSPACE("w"));
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.bed = bed};
        assert_int_equal(pthread_create(&clients[i].thread, NULL, client_main, &clients[i]), 0);
    }
    assert_int_equal(bed_stop(bed), 0);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i].thread, NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_workspaces),
        TEST(test_event_sources),
        TEST(test_triggers),
        TEST(test_large),
        TEST(test_put_patch_and_test),
        TEST(test_timeouts_and_pause),
        TEST(test_dead_letters),
        TEST(test_one_of_many_wins),
        TEST(test_deleted_while_it_runs),
        TEST(test_original_client),
        TEST(test_who_may),
        TEST(test_other_users),
        TEST(test_storage_away),
        TEST(test_stop_answers_all),
    };
    if (!redis_server_available()) {
        printf("skipped: no redis-server\n");
        return 0;
    }
    curl_global_init(CURL_GLOBAL_ALL);
    if (redis_server_run(&redis, NULL) < 0)
        return 1;
    backend = "redis";
    int failed = cmocka_run_group_tests_name("redis", tests, NULL, NULL);
    backend = "sqlite";
    failed += cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
    redis_server_done(&redis);
    curl_global_cleanup();
    return failed;
}
