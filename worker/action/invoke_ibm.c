/* IBM_CF_INVOKE: invokes an OpenWhisk action for a task, once or for each value of iter_data
 * (worker/action/invoke.h). The operator also has
 *
 *     url      https://HOST/api/v1/namespaces/NS/actions/[PKG/]NAME
 *     api_key  "user:password": Basic authentication
 *
 * POST; done is 2xx with an activationId in the answer. The function publishes its termination event itself.
 *
 * THROTTLE_IBMCF_FUNCTION: has functions started before they are needed, by invoking each a quarter more
 * often than context.prewarm ({url: number}) says, with the payload {"__OW_TRIGGERFLOW":{"THROTTLE":true}}
 * and the global context's ibm_cf.api_key. Such an invocation that fails is tried again like any other. */
#include "worker/action/action.h"

#include <string.h>

#include "common/error.h"
#include "worker/action/invoke.h"
#include "worker/executor/executor.h"
#include "worker/globals.h"
#include "worker/executor/http_call.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/document/redact.h"
#include "worker/worker.h"

#define PREWARM_MAX 10000 /* invocations of one firing */

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

/* --- firing --- */

extern const struct action_type action_ibm_cf_invoke;

/* What the intent's body has besides: url and api_key. */
static int read_more(const struct invoke *v, struct buffer *out, struct error *err)
{
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO origin = BUFFER_INIT;
    BUFFER_AUTO api_key = BUFFER_INIT;
    if (invoke_text(v, "url", false, &url, err) < 0 || invoke_text(v, "api_key", true, &api_key, err) < 0 ||
        http_call_origin(buffer_text(&url), &origin, err) < 0)
        return -1;
    buffer_append_text(out, "\"url\":");
    buffer_append_json(out, buffer_text(&url), url.len);
    if (api_key.len) {
        buffer_append_text(out, ",\"api_key\":");
        buffer_append_json(out, buffer_text(&api_key), api_key.len);
    }
    return out->failed ? out_of_memory(err) : 0;
}

static int start_or_again(const void *state, struct firing *firing, const struct json_value *request,
                          struct error *err)
{
    return invoke_fire(state, firing, &action_ibm_cf_invoke, read_more, request, err);
}

static int fire(const void *state, struct firing *firing, struct error *err)
{
    return start_or_again(state, firing, NULL, err);
}

/* --- the request --- */

static int add_basic(const char *api_key, size_t len, struct http_call_request *request, struct error *err)
{
    BUFFER_AUTO header = BUFFER_INIT;
    if (!strcmp(api_key, REDACTED))
        return error_set(err, ERROR_INVALID, "the api_key was taken out of what is stored");
    buffer_append_text(&header, "Basic ");
    buffer_append_base64(&header, api_key, len);
    return http_call_header(request, "Authorization", buffer_text(&header), err);
}

static int begin_request(const struct json_value *url, struct http_call_request *request, struct error *err)
{
    if (http_call_method(request, "POST", 4, err) < 0)
        return -1;
    json_unescape(url, &request->url);
    return http_call_header(request, "Content-Type", "application/json", err);
}

static int request(const struct invocation *invocation, struct http_call_request *request, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO api_key = BUFFER_INIT;
    if (!json_member(&invocation->body, "url", &value) || value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no url");
    if (begin_request(&value, request, err) < 0)
        return -1;
    if (json_member(&invocation->body, "api_key", &value) && value.type == JSON_STRING) {
        json_unescape(&value, &api_key);
        if (add_basic(buffer_text(&api_key), api_key.len, request, err) < 0)
            return -1;
    }
    invoke_payload(invocation, &request->body);
    return request->body.failed || api_key.failed ? out_of_memory(err) : 0;
}

static enum invocation_verdict judge(const struct invocation *invocation, const struct http_answer *answer,
                                     struct error *err)
{
    struct json_value root, id;
    if (answer->status < 200 || answer->status >= 300)
        return invocation_judge(invocation, answer, err);
    if (!answer->complete) {
        *err = *answer->error;
        error_prefix(err, "answered %u", answer->status);
        return INVOCATION_RETRY;
    }
    if (json_scan(answer->body, answer->len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
        json_member(&root, "activationId", &id) && id.type != JSON_NULL)
        return INVOCATION_DONE;
    error_set(err, ERROR_INVALID, "answered %u without an activationId", answer->status);
    return INVOCATION_RETRY;
}

static const struct invocation_type invoked = {.request = request, .judge = judge};

static void start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &invoked);
}

static int check_context(const struct json_value *context, struct error *err)
{
    static const char *const texts[] = {"url", "api_key", NULL};
    return invoke_check(context, texts, err);
}

static const char *const parameters[] = {INVOCATION_PARAMETERS, NULL};

const struct action_type action_ibm_cf_invoke = {.name = "IBM_CF_INVOKE",
                                                 .load = invoke_load,
                                                 .unload = invoke_unload,
                                                 .fire = fire,
                                                 .again = start_or_again,
                                                 .start = start,
                                                 .after_commit = invoke_after_commit,
                                                 .gave_up = invoke_gave_up,
                                                 .parameters = parameters,
                                                 .check_context = check_context};

/* --- THROTTLE_IBMCF_FUNCTION --- */

extern const struct action_type action_throttle_ibmcf_function;

/* Appends one element for each invocation of a URL. */
static int append_elements(const struct json_value *url, const struct json_value *number, struct buffer *out,
                           uint64_t *n, struct error *err)
{
    int64_t wanted;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO origin = BUFFER_INIT;
    json_unescape(url, &text);
    if (http_call_origin(buffer_text(&text), &origin, err) < 0)
        return error_prefix(err, "context.prewarm");
    if (number->type != JSON_NUMBER || !json_integer(number, &wanted) || wanted < 0 || wanted > PREWARM_MAX)
        return error_set(err, ERROR_INVALID, "context.prewarm has %.*s, not a number from 0 to %d",
                         (int)(number->len < 40 ? number->len : 40), number->text, PREWARM_MAX);
    for (int64_t i = (wanted * 5 + 2) / 4; i > 0; i--) {
        size_t len;
        const char *raw = json_raw(url, &len);
        buffer_append_char(out, (*n)++ ? ',' : '[');
        buffer_append(out, raw, len);
    }
    if (*n > PREWARM_MAX)
        return error_set(err, ERROR_INVALID, "context.prewarm asks for more than %d invocations",
                         PREWARM_MAX);
    return 0;
}

static int fire_throttle(const void *state, struct firing *firing, struct error *err)
{
    const struct invoke_document *document = state;
    struct json_value settings, prewarm, url, number;
    struct json_iter iter;
    uint64_t n = 0;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO elements = BUFFER_INIT;
    BUFFER_AUTO body = BUFFER_INIT;
    if (firing_settings(firing, &text, err) < 0 || json_scan(text.data, text.len, &settings, err) < 0)
        return -1;
    if (!json_member(&settings, "prewarm", &prewarm) || prewarm.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "context.prewarm is missing or not an object");
    json_iter_init(&iter, &prewarm);
    while (json_next(&iter, &url, &number))
        if (append_elements(&url, &number, &elements, &n, err) < 0)
            return -1;
    if (!n)
        return 0;
    buffer_append_char(&elements, ']');
    buffer_append_char(&body, '{');
    invocation_policy_write(&document->policy, &body);
    buffer_append_char(&body, '}');
    if (elements.failed || body.failed)
        return out_of_memory(err);
    return firing_intend_each(firing, &action_throttle_ibmcf_function, body.data, body.len, elements.data,
                              elements.len, err);
}

static int throttle_host(const struct invocation *invocation, struct buffer *out, struct error *err)
{
    struct json_value url;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!intent_element(invocation->intent, &url) || url.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no url");
    json_unescape(&url, &text);
    return http_call_origin(buffer_text(&text), out, err);
}

static int add_global_key(const struct invocation *invocation, struct http_call_request *request,
                          struct error *err)
{
    struct globals *globals = globals_get(&executor_worker(invocation->executor)->globals);
    struct json_value ibm_cf, value;
    int r;
    BUFFER_AUTO api_key = BUFFER_INIT;
    if (globals && globals->root.type == JSON_OBJECT && json_member(&globals->root, "ibm_cf", &ibm_cf) &&
        ibm_cf.type == JSON_OBJECT && json_member(&ibm_cf, "api_key", &value) && value.type == JSON_STRING) {
        json_unescape(&value, &api_key);
        r = add_basic(buffer_text(&api_key), api_key.len, request, err);
    } else {
        r = error_set(err, ERROR_INVALID, "the global context has no ibm_cf.api_key");
    }
    globals_unref(globals);
    return r;
}

static int throttle_request(const struct invocation *invocation, struct http_call_request *request,
                            struct error *err)
{
    struct json_value url;
    if (!intent_element(invocation->intent, &url) || url.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the stored intent has no url");
    if (begin_request(&url, request, err) < 0 || add_global_key(invocation, request, err) < 0)
        return -1;
    buffer_append_text(&request->body, "{\"__OW_TRIGGERFLOW\":{\"THROTTLE\":true}}");
    return 0;
}

static const struct invocation_type throttle = {
    .request = throttle_request, .judge = judge, .host = throttle_host};

static void start_throttle(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &throttle);
}

const struct action_type action_throttle_ibmcf_function = {.name = "THROTTLE_IBMCF_FUNCTION",
                                                           .load = invoke_load,
                                                           .unload = invoke_unload,
                                                           .fire = fire_throttle,
                                                           .start = start_throttle,
                                                           .parameters = parameters};
