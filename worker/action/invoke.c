#include "worker/action/invoke.h"

#include <stdlib.h>
#include <string.h>

#include "common/cloudevent.h"
#include "common/error.h"
#include "common/jsonpath.h"
#include "common/pool.h"
#include "worker/action/action.h"
#include "worker/action/task.h"
#include "worker/checkpoint/injection.h"
#include "worker/executor/intent.h"
#include "worker/executor/invocation.h"
#include "worker/router.h"
#include "worker/source/internal.h"
#include "worker/shard/trigger.h"
#include "worker/worker.h"
#include "worker/shard/write.h"

#define METADATA "__OW_TRIGGERFLOW"

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

int invoke_load(const struct json_value *action, void **ret_state, struct error *err)
{
    struct invoke_document *d = calloc(1, sizeof *d);
    if (!d)
        return out_of_memory(err);
    if (document_init(&d->document, action, err) < 0 ||
        invocation_policy_load(&d->document.root, &d->policy, err) < 0) {
        invoke_unload(d);
        return -1;
    }
    *ret_state = d;
    return 0;
}

void invoke_unload(void *state)
{
    struct invoke_document *d = state;
    if (!d)
        return;
    document_done(&d->document);
    free(d);
}

static void append_raw(const struct json_value *value, struct buffer *out)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

static bool is_given(const struct json_value *object, const char *name, struct json_value *ret_value)
{
    return object->type == JSON_OBJECT && json_member(object, name, ret_value) &&
           ret_value->type != JSON_NULL;
}

bool invoke_member(const struct invoke *invoke, const char *name, struct json_value *ret_value)
{
    return is_given(&invoke->operator, name, ret_value) || is_given(&invoke->settings, name, ret_value) ||
           is_given(invoke->document, name, ret_value);
}

int invoke_text(const struct invoke *invoke, const char *name, bool optional, struct buffer *out,
                struct error *err)
{
    struct json_value value;
    if (!invoke_member(invoke, name, &value))
        return optional ? 0 : error_set(err, ERROR_INVALID, "the operator has no %s", name);
    if (value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the operator's %s is %s, not a text", name,
                         json_type_name(value.type));
    json_unescape(&value, out);
    if (out->failed)
        return out_of_memory(err);
    if (memchr(out->data ? out->data : "", '\0', out->len))
        return error_set(err, ERROR_INVALID, "the operator's %s contains a NUL character", name);
    return 0;
}

/* --- arguments --- */

/* What paths are evaluated in. */
struct results {
    const struct firing *firing;
    struct buffer context; /* read when the first path comes */
    struct json_value array;
    struct pool pool;
    uint64_t steps;
};

static int read_results(struct results *results, struct error *err)
{
    static const struct json_value none = {.text = "[]", .len = 2, .type = JSON_ARRAY};
    struct json_value context;
    if (results->array.type != JSON_ABSENT)
        return 0;
    if (firing_context(results->firing, &results->context, err) < 0 ||
        json_scan(results->context.data, results->context.len, &context, err) < 0)
        return -1;
    if (!json_member(&context, "result", &results->array) || results->array.type == JSON_NULL)
        results->array = none;
    return 0;
}

static bool is_path(const struct json_value *value)
{
    return value->type == JSON_STRING && value->len && value->text[0] == '$';
}

/* Appends the list of all that the path matches. */
static int append_matches(struct results *results, const struct json_value *text, struct buffer *out,
                          struct error *err)
{
    struct jsonpath *path;
    struct json_value list;
    BUFFER_AUTO plain = BUFFER_INIT;
    json_unescape(text, &plain);
    if (plain.failed)
        return out_of_memory(err);
    if (read_results(results, err) < 0 || jsonpath_parse(plain.data, plain.len, &path, err) < 0)
        return -1;
    int r = jsonpath_list(path, &results->array, &results->pool, &results->steps, &list, err);
    if (r == 0)
        append_raw(&list, out);
    jsonpath_free(path);
    return r;
}

static int append_argument(struct results *results, const struct json_value *name,
                           const struct json_value *value, struct buffer *out, struct error *err)
{
    if (out->len > 1)
        buffer_append_char(out, ',');
    append_raw(name, out);
    buffer_append_char(out, ':');
    if (!is_path(value)) {
        append_raw(value, out);
        return 0;
    }
    if (append_matches(results, value, out, err) < 0)
        return error_prefix(err, "invoke_kwargs.%.*s", (int)(name->len < 80 ? name->len : 80), name->text);
    return 0;
}

static int read_arguments(struct invoke *v, struct results *results, struct error *err)
{
    struct json_value arguments, name, value;
    struct json_iter iter;
    buffer_append_char(&v->payload, '{');
    if (invoke_member(v, "invoke_kwargs", &arguments)) {
        if (arguments.type != JSON_OBJECT)
            return error_set(err, ERROR_INVALID, "the operator's invoke_kwargs is %s, not an object",
                             json_type_name(arguments.type));
        json_iter_init(&iter, &arguments);
        while (json_next(&iter, &name, &value))
            if (append_argument(results, &name, &value, &v->payload, err) < 0)
                return -1;
    }
    buffer_append_char(&v->payload, '}');
    return v->payload.failed ? out_of_memory(err) : 0;
}

static int count_values(struct invoke *v, struct error *err)
{
    struct json_value array, name, value;
    struct json_iter iter;
    uint64_t n = 0;
    if (json_scan(v->values.data, v->values.len, &array, err) < 0)
        return -1;
    json_iter_init(&iter, &array);
    while (json_next(&iter, &name, &value))
        n++;
    if (n >= UINT32_MAX / 2)
        return error_set(err, ERROR_LIMIT, "iter_data has %llu values", (unsigned long long)n);
    v->n = (uint32_t)n;
    return 0;
}

/* The last argument of several, as the original takes it. */
static int read_values(struct invoke *v, struct results *results, struct error *err)
{
    struct json_value data, name, value;
    struct json_value last = {.type = JSON_ABSENT};
    struct json_iter iter;
    v->n = 1;
    if (!invoke_member(v, "iter_data", &data) || data.type == JSON_FALSE)
        return 0;
    if (data.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "the operator's iter_data is %s, not an object",
                         json_type_name(data.type));
    json_iter_init(&iter, &data);
    while (json_next(&iter, &name, &value)) {
        v->over.len = 0;
        json_unescape(&name, &v->over);
        last = value;
    }
    if (last.type == JSON_ABSENT)
        return 0;
    if (is_path(&last)) {
        if (append_matches(results, &last, &v->values, err) < 0)
            return error_prefix(err, "iter_data");
    } else if (last.type == JSON_ARRAY) {
        append_raw(&last, &v->values);
    } else {
        return error_set(err, ERROR_INVALID, "the operator's iter_data.%.80s is %s, not an array",
                         buffer_text(&v->over), json_type_name(last.type));
    }
    if (v->values.failed || v->over.failed)
        return out_of_memory(err);
    v->iterates = true;
    return count_values(v, err);
}

static int read_task(struct invoke *invoke, struct firing *firing, const struct json_value *document,
                     struct error *err)
{
    struct invoke *v = invoke;
    *v = (struct invoke){.firing = firing, .document = document};
    if (firing_settings(firing, &v->text, err) < 0 ||
        json_scan(v->text.data, v->text.len, &v->settings, err) < 0 ||
        task_name(firing, &v->settings, &v->task, err) < 0)
        return -1;
    if (!json_member(&v->settings, "operator", &v->operator) || v->operator.type == JSON_NULL)
        v->operator= v->settings;
    if (v->operator.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "context.operator is %s, not an object",
                         json_type_name(v->operator.type));
    struct results results = {.firing = firing, .steps = JSONPATH_STEPS};
    int r = read_arguments(v, &results, err);
    if (r == 0)
        r = read_values(v, &results, err);
    buffer_done(&results.context);
    pool_done(&results.pool);
    return r;
}

static void task_done(struct invoke *invoke)
{
    buffer_done(&invoke->text);
    buffer_done(&invoke->task);
    buffer_done(&invoke->payload);
    buffer_done(&invoke->values);
    buffer_done(&invoke->over);
}

/* --- the intent --- */

static int append_policy(const struct invoke *v, struct buffer *out, struct error *err)
{
    static const char *const names[] = {INVOCATION_PARAMETERS};
    struct invocation_policy policy;
    struct json_value object, value;
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append_char(&text, '{');
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!invoke_member(v, names[i], &value))
            continue;
        buffer_printf(&text, "%s\"%s\":", text.len > 1 ? "," : "", names[i]);
        append_raw(&value, &text);
    }
    buffer_append_char(&text, '}');
    if (text.failed)
        return out_of_memory(err);
    if (json_scan(text.data, text.len, &object, err) < 0 || invocation_policy_load(&object, &policy, err) < 0)
        return -1;
    invocation_policy_write(&policy, out);
    return 0;
}

/* element: of the only one; NULL: each has its own, or there is none. */
static int make_body(const struct invoke *v, const char *more, const struct json_value *element,
                     struct buffer *out, struct error *err)
{
    struct json_value sink;
    buffer_append_text(out, "{\"subject\":");
    buffer_append_json(out, v->task.data ? v->task.data : "", v->task.len);
    buffer_printf(out, ",%s,\"payload\":", more);
    buffer_append(out, v->payload.data, v->payload.len);
    if (v->iterates) {
        buffer_append_text(out, ",\"over\":");
        buffer_append_json(out, v->over.data ? v->over.data : "", v->over.len);
    }
    if (element) {
        buffer_append_text(out, ",\"element\":");
        append_raw(element, out);
    }
    if (invoke_member(v, "sink", &sink)) {
        buffer_append_text(out, ",\"sink\":");
        append_raw(&sink, out);
    }
    buffer_append_char(out, ',');
    if (append_policy(v, out, err) < 0)
        return -1;
    buffer_append_char(out, '}');
    return out->failed ? out_of_memory(err) : 0;
}

static bool nth_value(const struct invoke *v, uint32_t n, struct json_value *ret_value)
{
    struct json_value array, name;
    struct json_iter iter;
    if (json_scan(v->values.data, v->values.len, &array, NULL) < 0)
        return false;
    json_iter_init(&iter, &array);
    while (json_next(&iter, &name, ret_value))
        if (!n--)
            return true;
    return false;
}

/* The intent of one invocation, under the key of its element. */
static int intend_one(const struct invoke *v, const struct action_type *action, const char *more,
                      uint32_t element, struct error *err)
{
    struct json_value value;
    char key[ACTION_KEY_MAX];
    BUFFER_AUTO body = BUFFER_INIT;
    bool has_value = v->iterates && nth_value(v, element, &value);
    if (make_body(v, more, has_value ? &value : NULL, &body, err) < 0)
        return -1;
    firing_key(v->firing, element, key);
    return firing_intend(v->firing, action, key, body.data, body.len, err);
}

static int start(const struct invoke *invoke, const struct action_type *action, const char *more,
                 struct error *err)
{
    const struct invoke *v = invoke;
    BUFFER_AUTO body = BUFFER_INIT;
    if (make_body(v, more, NULL, &body, err) < 0 || /* nobody is told of what cannot be started */
        task_tell(v->firing, v->task.data ? v->task.data : "", v->task.len, STARTED, v->n, err) < 0)
        return -1;
    if (!v->n)
        return 0;
    if (v->n == 1)
        return intend_one(v, action, more, 0, err);
    return firing_intend_each(v->firing, action, body.data, body.len, v->values.data, v->values.len, err);
}

static int start_again(const struct invoke *invoke, const struct action_type *action, const char *more,
                       const struct json_value *request, struct error *err)
{
    const struct invoke *v = invoke;
    struct json_value value;
    uint32_t element = 0;
    BUFFER_AUTO task = BUFFER_INIT;
    BUFFER_AUTO key = BUFFER_INIT;
    buffer_append(&task, v->task.data, v->task.len);
    bool has_key = request->type == JSON_OBJECT && json_member(request, "key", &value) &&
                   value.type == JSON_STRING && value.len;
    if (has_key)
        json_unescape(&value, &key);
    if (key.failed || task.failed)
        return out_of_memory(err);
    if (has_key && !firing_find_key(v->firing, buffer_text(&key), v->n, &element))
        return error_set(err, ERROR_INVALID, "no invocation of the last firings of task %s has the key %.64s",
                         buffer_text(&task), buffer_text(&key));
    if (!has_key && v->n != 1)
        return error_set(err, ERROR_INVALID,
                         "without a key it is not known which of %u invocations of task %s "
                         "is to be repeated",
                         v->n, buffer_text(&task));
    if (task_tell(v->firing, buffer_text(&task), v->task.len, STARTED_AGAIN, 1, err) < 0)
        return -1;
    return intend_one(v, action, more, element, err);
}

int invoke_fire(const struct invoke_document *document, struct firing *firing,
                const struct action_type *action, invoke_more more, const struct json_value *request,
                struct error *err)
{
    struct invoke v;
    BUFFER_AUTO members = BUFFER_INIT;
    int r = read_task(&v, firing, &document->document.root, err);
    if (r == 0)
        r = more(&v, &members, err);
    if (r == 0)
        r = request ? start_again(&v, action, buffer_text(&members), request, err)
                    : start(&v, action, buffer_text(&members), err);
    task_done(&v);
    return r;
}

/* --- given up --- */

extern const struct action_type action_dag_task_retry_handler;

static bool is_retried(const struct worker *worker, const struct buffer *task)
{
    const struct route *routes[ROUTE_MAX_LISTS];
    struct cloudevent event;
    cloudevent_clear(&event);
    event.attribute[CE_TYPE] = (struct cloudevent_span){TASK_FAILURE, strlen(TASK_FAILURE)};
    event.attribute[CE_SUBJECT] = (struct cloudevent_span){task->data ? task->data : "", (uint32_t)task->len};
    unsigned n = router_match(atomic_load(&worker->router), &event, routes);
    for (unsigned i = 0; i < n; i++)
        for (size_t j = 0; j < routes[i]->n; j++)
            if (routes[i]->all[j]->action == &action_dag_task_retry_handler)
                return true;
    return false;
}

bool invoke_after_commit(const struct intent *intent, const struct worker *worker)
{
    struct json_value body, subject;
    BUFFER_AUTO task = BUFFER_INIT;
    if (!intent_body(intent, &body) || !json_member(&body, "subject", &subject) ||
        subject.type != JSON_STRING)
        return false;
    json_unescape(&subject, &task);
    return task.failed || is_retried(worker, &task);
}

int invoke_gave_up(const struct intent *intent, struct injection *injection, struct error *err)
{
    struct json_value body, subject;
    struct invocation_policy policy;
    struct cloudevent carrier;
    BUFFER_AUTO task = BUFFER_INIT;
    BUFFER_AUTO write = BUFFER_INIT;
    if (!intent_body(intent, &body) || !json_member(&body, "subject", &subject) ||
        subject.type != JSON_STRING)
        return 0;
    invocation_policy_of(&body, &policy);
    if (intent->uncertain && policy.give_up_uncertain)
        return 0; /* it may have been started: its termination may come */
    json_unescape(&subject, &task);
    started_write(task.data ? task.data : "", task.len, STARTED_FAILED, 1, &write);
    if (task.failed || write.failed)
        return out_of_memory(err);
    if (is_retried(injection->worker, &task))
        return 0;
    write_compose(&carrier, intent->key, TASK_SUCCESS, task.data ? task.data : "", task.len, write.data,
                  write.len);
    return internal_write(injection->worker->internal, &carrier, injection->epoch, err);
}

/* --- what is sent --- */

static void append_metadata(const struct invocation *invocation, struct buffer *out)
{
    struct json_value value;
    buffer_append_text(out, "\"" METADATA "\":{\"subject\":");
    if (json_member(&invocation->body, "subject", &value))
        append_raw(&value, out);
    else
        buffer_append_text(out, "null");
    if (json_member(&invocation->body, "sink", &value)) {
        buffer_append_text(out, ",\"sink\":");
        append_raw(&value, out);
    }
    buffer_printf(out, ",\"key\":\"%s\"}", invocation->intent->key);
}

void invoke_payload(const struct invocation *invocation, struct buffer *out)
{
    struct json_value payload, over, element, name, value;
    struct json_iter iter;
    BUFFER_AUTO argument = BUFFER_INIT;
    bool iterates =
        json_member(&invocation->body, "over", &over) && over.type == JSON_STRING &&
        (intent_element(invocation->intent, &element) || json_member(&invocation->body, "element", &element));
    if (iterates)
        json_unescape(&over, &argument);
    buffer_append_char(out, '{');
    if (json_member(&invocation->body, "payload", &payload) && payload.type == JSON_OBJECT) {
        json_iter_init(&iter, &payload);
        while (json_next(&iter, &name, &value)) {
            if (json_equals(&name, METADATA, strlen(METADATA)) ||
                (iterates && json_equals(&name, buffer_text(&argument), argument.len)))
                continue;
            append_raw(&name, out);
            buffer_append_char(out, ':');
            append_raw(&value, out);
            buffer_append_char(out, ',');
        }
    }
    if (iterates) {
        buffer_append_json(out, buffer_text(&argument), argument.len);
        buffer_append_char(out, ':');
        append_raw(&element, out);
        buffer_append_char(out, ',');
    }
    append_metadata(invocation, out);
    buffer_append_char(out, '}');
    out->failed |= argument.failed;
}

/* --- registration --- */

int invoke_check(const struct json_value *context, const char *const *texts, struct error *err)
{
    struct json_value operator, value;
    if (!is_given(context, "operator", &operator))
        operator= * context;
    if (operator.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "context.operator is %s, not an object",
                         json_type_name(operator.type));
    for (; *texts; texts++) {
        if (!is_given(&operator, * texts, &value) && !is_given(context, *texts, &value))
            continue;
        if (value.type != JSON_STRING || !value.len)
            return error_set(err, ERROR_INVALID, "context.operator.%s is %s, not a text", *texts,
                             value.type == JSON_STRING ? "empty" : json_type_name(value.type));
    }
    if (is_given(&operator, "invoke_kwargs", &value) && value.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "context.operator.invoke_kwargs is %s, not an object",
                         json_type_name(value.type));
    if (is_given(&operator, "iter_data", &value) && value.type != JSON_OBJECT && value.type != JSON_FALSE)
        return error_set(err, ERROR_INVALID, "context.operator.iter_data is %s, not an object",
                         json_type_name(value.type));
    return 0;
}
