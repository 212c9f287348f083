/* AWS_ASF_TASK: invokes the Lambda function of a compiled state machine's Task, State.Resource,
 * asynchronously. The function's answer is an event (Subject, lambda.success), which the function, or its
 * destination, publishes.
 *
 * The payload: the members of the evaluated Parameters, and
 *
 *     __TRIGGERFLOW_SUBJECT       Subject
 *     __EVENT_DATA                the evaluated Parameters; without Parameters the state's input
 *     __TRIGGERFLOW_EVENT_SOURCE  event_source of the global context, when it is there
 *     __TRIGGERFLOW_KEY           the idempotency key, to be given back as triggerflowkey
 *
 * What becomes of the answer (ResultSelector, ResultPath, OutputPath), and to which iteration of a Map it
 * belongs, is written into the triggers that wait for it, before the function is started (states/answer.h).
 * Credentials and region are those of the global context's aws_credentials, the region also that of the
 * Resource; `endpoint` stands there, in the context or in the action's document, as do the policy's members
 * in the latter (worker/executor/invocation_policy.h).
 *
 * An invocation never starts before its firing is committed, whatever action_start says: after a crash its
 * answer would come before the repeated firing has written what becomes of it.
 *
 * The intent's body: {"url","region","subject","arguments"?,"data","told"?,"policy"}. A crash repeats the
 * invocation under its key, or finds it done (worker/executor/invocation.h). */
#include "worker/action/action.h"

#include <stdbool.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/action/asf.h"
#include "worker/action/invoke.h"
#include "worker/action/lambda.h"
#include "worker/condition/asf.h"
#include "worker/executor/executor.h"
#include "worker/shard/firing.h"
#include "worker/globals.h"
#include "worker/checkpoint/injection.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/router.h"
#include "worker/source/internal.h"
#include "worker/states/answer.h"
#include "worker/states/evaluation.h"
#include "worker/states/failure.h"
#include "worker/states/item.h"
#include "worker/states/state.h"
#include "worker/worker.h"
#include "worker/shard/write.h"

#define METADATA "__TRIGGERFLOW_"
#define EVENT_DATA "__EVENT_DATA"

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static void append_raw(struct buffer *out, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static struct cloudevent_span span(const char *text, size_t len)
{
    return (struct cloudevent_span){.text = text, .len = (uint32_t)len};
}

/* --- firing --- */

struct starting {
    const struct invoke_document *task; /* the action's */
    struct firing *firing;
    struct asf_firing asf;
    struct asf_evaluation evaluation;
    struct json_value settings;
    struct buffer body;
    char key[ACTION_KEY_MAX];
};

static int locate(struct starting *s, struct error *err)
{
    struct json_value global;
    BUFFER_AUTO endpoint = BUFFER_INIT;
    firing_global(s->firing, &global);
    struct json_value places[] = {s->task->document.root, s->settings, lambda_credentials(&global)};
    for (size_t i = 0; i < 3 && !endpoint.len; i++)
        lambda_text(&places[i], "endpoint", &endpoint);
    if (endpoint.failed)
        return out_of_memory(err);
    const char *resource = state_resource(s->asf.state);
    if (!*resource)
        return error_set(err, ERROR_INVALID, "the State has no Resource");
    if (lambda_locate(places, 3, resource, buffer_text(&endpoint), &s->body, err) < 0)
        return error_prefix(err, "Resource %.100s", resource);
    return 0;
}

/* Those who wait for the answer. */
static int tell(struct starting *s, struct error *err)
{
    struct json_value state;
    BUFFER_AUTO write = BUFFER_INIT;
    bool shapes = state_shapes_result(s->asf.state) && json_member(&s->settings, "State", &state);
    if (!shapes && !s->asf.item.len)
        return 0;
    answer_compose(s->asf.subject, s->key, &s->asf.item, shapes ? &s->asf.data : NULL, shapes ? &state : NULL,
                   &write);
    if (write.failed)
        return out_of_memory(err);
    buffer_append_text(&s->body, ",\"told\":true");
    return firing_tell(s->firing, ASF_SUCCESS, s->asf.subject, strlen(s->asf.subject), write.data, write.len,
                       err);
}

/* Who catches its failures. */
static int tell_catcher(struct starting *s, struct error *err)
{
    BUFFER_AUTO write = BUFFER_INIT;
    buffer_append_text(&write, "{\"attempt\":{\"task\":");
    buffer_append_json(&write, s->asf.subject, strlen(s->asf.subject));
    buffer_printf(&write, ",\"key\":\"%s\"", s->key);
    if (s->asf.item.len) {
        buffer_append_text(&write, ",\"item\":");
        buffer_append_json(&write, s->asf.item.text, s->asf.item.len);
    }
    buffer_append_text(&write, ",\"input\":");
    append_raw(&write, &s->asf.data);
    buffer_append_text(&write, "}}");
    if (write.failed)
        return out_of_memory(err);
    return firing_tell(s->firing, FAILURE_TYPE, s->asf.subject, strlen(s->asf.subject), write.data, write.len,
                       err);
}

/* Appends the data of a failure of the invocation with this key. */
static void append_failure(struct buffer *out, const char *name, const char *cause, const char *key)
{
    buffer_printf(out, "{\"Error\":\"%s\",\"Cause\":", name);
    if (cause)
        buffer_append_json(out, cause, strlen(cause));
    else
        buffer_append_text(out, "null");
    buffer_printf(out, ",\"Attempt\":\"%s\"}", key);
}

/* When its time is over it has failed, unless it has ended: whoever catches that knows. */
static int limit_time(struct starting *s, struct error *err)
{
    struct asf_event made;
    struct json_value data;
    uint64_t ns;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO id = BUFFER_INIT;
    if (state_timeout(s->asf.state, &s->evaluation.evaluation, &ns, err) < 0)
        return -1;
    if (!ns)
        return 0;
    append_failure(&text, "States.Timeout", NULL, s->key);
    buffer_printf(&id, "%s-timeout", s->key);
    if (text.failed || id.failed)
        return out_of_memory(err);
    int r = json_scan(text.data, text.len, &data, err);
    if (r == 0)
        r = asf_event_init(&made, s->firing, s->asf.subject, &data, &s->asf.item, 0, err);
    if (r < 0)
        return -1;
    made.event.attribute[CE_TYPE] = span(FAILURE_TYPE, strlen(FAILURE_TYPE));
    made.event.attribute[CE_ID] = span(id.data, id.len);
    made.event.attribute[CE_KEY] = span(s->key, strlen(s->key));
    r = firing_timer(s->firing, clock_unix_ns() + ns, &made.event, err);
    asf_event_done(&made);
    return r;
}

extern const struct action_type action_aws_asf_task;

static int invoke(struct starting *s, struct error *err)
{
    struct json_value input;
    buffer_append_char(&s->body, '{');
    if (locate(s, err) < 0 || state_enter(s->asf.state, &s->evaluation.evaluation, &input, err) < 0)
        return -1;
    buffer_append_text(&s->body, ",\"subject\":");
    buffer_append_json(&s->body, s->asf.subject, strlen(s->asf.subject));
    buffer_append_text(&s->body, state_has_parameters(s->asf.state) ? ",\"arguments\":" : ",\"data\":");
    append_raw(&s->body, &input);
    if (s->asf.item.len) {
        buffer_append_text(&s->body, ",\"item\":");
        buffer_append_json(&s->body, s->asf.item.text, s->asf.item.len);
    }
    if (firing_catches(s->firing, FAILURE_TYPE, s->asf.subject) &&
        (tell_catcher(s, err) < 0 || limit_time(s, err) < 0))
        return -1;
    if (tell(s, err) < 0)
        return -1;
    buffer_append_char(&s->body, ',');
    invocation_policy_write(&s->task->policy, &s->body);
    buffer_append_char(&s->body, '}');
    if (s->body.failed)
        return out_of_memory(err);
    return firing_intend(s->firing, &action_aws_asf_task, s->key, s->body.data, s->body.len, err);
}

static int fire(const void *state, struct firing *firing, struct error *err)
{
    struct starting s = {.task = state, .firing = firing};
    firing_key(firing, 0, s.key);
    int r = asf_firing_read(&s.asf, firing, err);
    if (r == 0 && !s.asf.state)
        r = error_set(err, ERROR_INVALID, "the context has no State");
    if (r == 0)
        r = asf_evaluation_init(&s.evaluation, firing, &s.asf, err);
    if (r == 0)
        r = json_scan(s.evaluation.settings.data, s.evaluation.settings.len, &s.settings, err);
    if (r == 0)
        r = invoke(&s, err);
    asf_evaluation_done(&s.evaluation);
    if (r < 0)
        r = asf_firing_failed(firing, &s.asf, err);
    asf_firing_done(&s.asf);
    buffer_done(&s.body);
    return r;
}

/* --- the invocation --- */

static bool is_ours(const struct json_value *name)
{
    return (name->len >= strlen(METADATA) && !memcmp(name->text, METADATA, strlen(METADATA))) ||
           json_equals(name, EVENT_DATA, strlen(EVENT_DATA));
}

/* The members of the arguments, each with a comma behind it. */
static void append_arguments(const struct json_value *arguments, struct buffer *out)
{
    struct json_iter iter;
    struct json_value name, value;
    if (arguments->type != JSON_OBJECT)
        return;
    json_iter_init(&iter, arguments);
    while (json_next(&iter, &name, &value)) {
        if (is_ours(&name))
            continue;
        append_raw(out, &name);
        buffer_append_char(out, ':');
        append_raw(out, &value);
        buffer_append_char(out, ',');
    }
}

static int request(const struct invocation *invocation, struct http_call_request *request, struct error *err)
{
    struct json_value subject, data, source;
    struct buffer *out = &request->body;
    bool has_arguments = json_member(&invocation->body, "arguments", &data);
    if (!json_member(&invocation->body, "subject", &subject) ||
        (!has_arguments && !json_member(&invocation->body, "data", &data)))
        return error_set(err, ERROR_INVALID,
                         "the stored intent has no subject, or neither arguments nor data");
    buffer_append_char(out, '{');
    if (has_arguments)
        append_arguments(&data, out);
    buffer_append_text(out, "\"" METADATA "SUBJECT\":");
    append_raw(out, &subject);
    buffer_append_text(out, ",\"" EVENT_DATA "\":");
    append_raw(out, &data);
    struct globals *globals = globals_get(&executor_worker(invocation->executor)->globals);
    if (globals && json_member(&globals->root, "event_source", &source)) {
        buffer_append_text(out, ",\"" METADATA "EVENT_SOURCE\":");
        append_raw(out, &source);
    }
    globals_unref(globals);
    buffer_printf(out, ",\"" METADATA "KEY\":\"%s\"}", invocation->intent->key);
    return lambda_request(invocation, request, err);
}

static const struct invocation_type invoked = {.request = request, .judge = lambda_judge};

static void start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &invoked);
}

/* The name that Amazon's service has for it. */
static const char *error_name(const struct intent *intent)
{
    struct json_value root, answer, value;
    int64_t status = 0;
    BUFFER_AUTO report = BUFFER_INIT;
    buffer_printf(&report, "{%s}", intent->report ? intent->report : "");
    if (!report.failed && json_scan(report.data, report.len, &root, NULL) == 0 &&
        json_member(&root, "answer", &answer) && json_member(&answer, "status", &value) &&
        value.type == JSON_NUMBER && !json_integer(&value, &status))
        status = 0;
    return status == 0     ? "Lambda.SdkClientException"
           : status == 404 ? "Lambda.ResourceNotFoundException"
           : status == 429 ? "Lambda.TooManyRequestsException"
           : status >= 500 ? "Lambda.ServiceException"
                           : "Lambda.AWSLambdaException";
}

/* The state has failed, if somebody wants to know. */
static int emit_failure(const struct intent *intent, struct buffer *name, const struct json_value *item,
                        struct injection *injection, struct error *err)
{
    const struct route *routes[ROUTE_MAX_LISTS];
    struct cloudevent event;
    char time[CLOCK_ISO_MAX];
    BUFFER_AUTO path = BUFFER_INIT;
    BUFFER_AUTO source = BUFFER_INIT;
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO data = BUFFER_INIT;
    size_t len = strlen(intent->error);
    char cause[sizeof intent->error];
    memcpy(cause, intent->error, len + 1);
    while (!utf8_valid(cause, len))
        cause[--len] = '\0'; /* it was cut inside a character */
    append_failure(&data, error_name(intent), cause, intent->key);
    buffer_printf(&source, "urn:triggerflow:%s:executor", injection->worker->workspace);
    buffer_printf(&id, "%s-failed", intent->key);
    if (item->type == JSON_STRING)
        json_unescape(item, &path);
    if (path.failed || source.failed || id.failed || data.failed)
        return out_of_memory(err);
    cloudevent_clear(&event);
    event.attribute[CE_SPECVERSION] = span("1.0", 3);
    event.attribute[CE_ID] = span(id.data, id.len);
    event.attribute[CE_KEY] = span(intent->key, strlen(intent->key));
    event.attribute[CE_SOURCE] = span(source.data, source.len);
    event.attribute[CE_TYPE] = span(FAILURE_TYPE, strlen(FAILURE_TYPE));
    event.attribute[CE_SUBJECT] = span(buffer_text(name), name->len);
    event.attribute[CE_TIME] = span(clock_iso(clock_unix_ns(), time), strlen(time));
    event.attribute[CE_DATACONTENTTYPE] = span("application/json", 16);
    event.attribute[CE_DATA] = span(data.data, data.len);
    event.data = CE_DATA_JSON;
    if (path.len) {
        event.extension[0].name = span(ITEM_ATTRIBUTE, strlen(ITEM_ATTRIBUTE));
        event.extension[0].value = span(path.data, path.len);
        event.n_extensions = 1;
    }
    if (!router_match(atomic_load(&injection->worker->router), &event, routes))
        return 0;
    return internal_emit(injection->worker->internal, &event, injection->epoch, err);
}

/* No answer will come: those who wait need not keep what they know of it. */
static int gave_up(const struct intent *intent, struct injection *injection, struct error *err)
{
    struct json_value body, subject, told, item;
    struct invocation_policy policy;
    struct cloudevent carrier;
    BUFFER_AUTO name = BUFFER_INIT;
    BUFFER_AUTO write = BUFFER_INIT;
    if (!intent_body(intent, &body) || !json_member(&body, "subject", &subject) ||
        subject.type != JSON_STRING)
        return 0;
    invocation_policy_of(&body, &policy);
    if (intent->uncertain && policy.give_up_uncertain)
        return 0; /* it may have been started */
    json_unescape(&subject, &name);
    json_member(&body, "item", &item);
    buffer_printf(&write, "{\"forget\":\"%s\"}", intent->key);
    if (name.failed || write.failed)
        return out_of_memory(err);
    if (emit_failure(intent, &name, &item, injection, err) < 0)
        return -1;
    if (!json_member(&body, "told", &told))
        return 0;
    write_compose(&carrier, intent->key, ASF_SUCCESS, buffer_text(&name), name.len, write.data, write.len);
    return internal_write(injection->worker->internal, &carrier, injection->epoch, err);
}

static bool after_commit(const struct intent *intent, const struct worker *worker)
{
    (void)intent;
    (void)worker;
    return true;
}

static int check_context(const struct json_value *context, struct error *err)
{
    struct json_value state, value;
    if (!json_member(context, "State", &state) || state.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "context.State is missing, or not an object");
    if (!json_member(&state, "Resource", &value) || value.type != JSON_STRING || !value.len)
        return error_set(err, ERROR_INVALID, "context.State has no Resource");
    return 0;
}

static const char *const parameters[] = {INVOCATION_PARAMETERS, "endpoint", "region", "region_name", NULL};

const struct action_type action_aws_asf_task = {.name = "AWS_ASF_TASK",
                                                .load = invoke_load,
                                                .unload = invoke_unload,
                                                .fire = fire,
                                                .start = start,
                                                .after_commit = after_commit,
                                                .gave_up = gave_up,
                                                .parameters = parameters,
                                                .check_context = check_context};
