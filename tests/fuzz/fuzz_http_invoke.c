/* HTTP_INVOKE's documents, templates, redaction and what comes from servers, any bytes: what is taken fires
 * or says why not, all output is JSON, and what was redacted shows no secret that a name has announced. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/executor/http_call_request.h"
#include "worker/document/redact.h"
#include "worker/document/restore.h"
#include "worker/document/template.h"
#include "worker/trial.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

static const char event_text[] =
    "{\"specversion\":\"1.0\",\"id\":\"i\",\"source\":\"u\",\"type\":\"a\",\"subject\":\"s/ "
    "\xc3\xa9\",\"data\":{\"a\":[1,{\"b\":\"c\"}]}}";

static void try_template(const struct json_value *value)
{
    static const char context_text[] = "{\"a\":{\"b\":[true,null]},\"url\":\"http://h/\"}";
    struct json_value context, again;
    struct cloudevent event;
    BUFFER_AUTO scratch = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    BUFFER_AUTO url = BUFFER_INIT;
    require(json_scan(context_text, sizeof context_text - 1, &context, NULL) == 0);
    require(cloudevent_parse(&event, event_text, sizeof event_text - 1, &scratch, NULL) == 0);
    struct template_scope scope = {.event = &event,
                                   .context = &context,
                                   .global = &context,
                                   .workspace = "w",
                                   .trigger = "t",
                                   .key = "k"};
    int well = template_check(value, NULL) == 0;
    int r = template_render(value, &scope, &out, NULL);
    require(well || r < 0);
    if (r == 0)
        require(json_scan(out.data, out.len, &again, NULL) == 0 || out.len > JSON_MAX_DEPTH);
    if (value->type == JSON_STRING)
        template_render_url(value, &scope, &url, NULL);
    template_scope_done(&scope);
}

static void try_redaction(const struct json_value *value)
{
    struct json_value shown;
    BUFFER_AUTO out = BUFFER_INIT;
    BUFFER_AUTO twice = BUFFER_INIT;
    BUFFER_AUTO back = BUFFER_INIT;
    redact_json(value, "event", &out);
    require(json_scan(out.data, out.len, &shown, NULL) == 0);
    redact_json(&shown, "event", &twice);
    require(twice.len == out.len && !memcmp(twice.data, out.data, out.len));
    if (restore_secrets(&shown, value, 1, &back, NULL) == 0)
        require(json_scan(back.data, back.len, &shown, NULL) == 0);
}

static void try_action(const char *text, size_t len)
{
    struct json_value request, answer;
    BUFFER_AUTO whole = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append_text(&whole, "{\"event\":");
    buffer_append_text(&whole, event_text);
    buffer_append_text(&whole,
                       ",\"trigger\":{\"id\":\"t\",\"condition\":{\"name\":\"TRUE\"},\"context\":{\"a\":1},"
                       "\"activation_events\":[{\"type\":\"a\",\"subject\":\"*\"}],\"action\":");
    buffer_append(&whole, text, len);
    buffer_append_text(&whole, "}}");
    if (json_scan(whole.data, whole.len, &request, NULL) == 0 && trial_run(&request, &out, NULL) == 0)
        require(json_scan(out.data, out.len, &answer, NULL) == 0);
}

static void try_texts(const char *text)
{
    struct http_call_request request;
    BUFFER_AUTO origin = BUFFER_INIT;
    BUFFER_AUTO host = BUFFER_INIT;
    BUFFER_AUTO path = BUFFER_INIT;
    BUFFER_AUTO query = BUFFER_INIT;
    http_call_retry_after(text, 1000000);
    if (http_call_origin(text, &origin, NULL) == 0) {
        require(!strncmp(buffer_text(&origin), "http", 4));
        http_call_url_parts(text, &host, &path, &query, NULL);
    }
    http_call_request_init(&request);
    if (http_call_header(&request, "X", text, NULL) == 0)
        require(!strpbrk(text, "\r\n"));
    if (http_call_header(&request, text, "x", NULL) == 0)
        require(!strpbrk(text, "\r\n: "));
    http_call_request_done(&request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_value value;
    char *text = malloc(size + 1);
    require(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    try_texts(text);
    if (json_scan(text, size, &value, NULL) == 0) {
        try_template(&value);
        try_redaction(&value);
        try_action(text, size);
    }
    free(text);
    return 0;
}
