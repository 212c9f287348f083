/* The actions of a DAG's triggers that start nothing outside.
 *
 * DAG_DUMMY_TASK is a task that is done at once: it emits its termination event, and its dependants expect
 * one.
 *
 * DAG_TASK_FAILURE_HANDLER records each event that makes it fire in its trigger's context: `n_failures`, and
 * the last FAILURES_KEPT of them in `failures`, as {"subject","time","key"?,"data"?}.
 *
 * DAG_TASK_RETRY_HANDLER has the failed task, which is the event's subject, started again (action_type.again
 * of the trigger of that name), context.max_retries times (default 3) each task; it counts them in
 * context.retries. With the subject __retry__ the event comes from a person, and its data names the tasks: a
 * name, a list of names, or an object with either as `subject`; that is not counted. A task that has failed
 * too often becomes a dead letter, and its dependants no longer wait for that invocation.
 *
 * Both take failures with the same triggerflowkey for one. */
#include "worker/action/action.h"

#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/action/task.h"

#define FAILURES_KEPT 50
#define FAILURE_DATA_MAX 1024 /* longer data is left out */
#define MAX_RETRIES 3         /* of one task, unless the context says otherwise */
#define RETRIES_MAX_BYTES (1u << 20)

static int load_nothing(const struct json_value *action, void **ret_state, struct error *err)
{
    (void)action;
    (void)err;
    *ret_state = NULL;
    return 0;
}

static void unload_nothing(void *state)
{
    (void)state;
}

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static int scan_settings(const struct firing *firing, struct buffer *text, struct json_value *ret_settings,
                         struct error *err)
{
    if (firing_settings(firing, text, err) < 0)
        return -1;
    return json_scan(text->data, text->len, ret_settings, err);
}

/* --- DAG_DUMMY_TASK --- */

static struct cloudevent_span span(const char *text, size_t len)
{
    return (struct cloudevent_span){.text = text, .len = (uint32_t)len};
}

static int emit_termination(struct firing *firing, const struct buffer *task, struct error *err)
{
    char key[ACTION_KEY_MAX];
    char time[CLOCK_ISO_MAX];
    struct cloudevent event;
    BUFFER_AUTO source = BUFFER_INIT;
    firing_key(firing, 0, key);
    buffer_printf(&source, "urn:triggerflow:%s:%s", firing_workspace(firing), firing_trigger(firing));
    if (source.failed)
        return out_of_memory(err);
    clock_iso(clock_unix_ns(), time);
    cloudevent_clear(&event);
    event.attribute[CE_SPECVERSION] = span("1.0", 3);
    event.attribute[CE_ID] = span(key, strlen(key));
    event.attribute[CE_SOURCE] = span(source.data, source.len);
    event.attribute[CE_TYPE] = span(TASK_SUCCESS, strlen(TASK_SUCCESS));
    event.attribute[CE_SUBJECT] = span(task->data ? task->data : "", task->len);
    event.attribute[CE_TIME] = span(time, strlen(time));
    return firing_emit(firing, &event, err);
}

static int fire_dummy(const void *state, struct firing *firing, struct error *err)
{
    struct json_value settings;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO task = BUFFER_INIT;
    (void)state;
    if (scan_settings(firing, &text, &settings, err) < 0 || task_name(firing, &settings, &task, err) < 0 ||
        task_tell(firing, buffer_text(&task), task.len, STARTED, 1, err) < 0)
        return -1;
    return emit_termination(firing, &task, err);
}

/* It is done again at once; its dependants expect the one that they were told of. */
static int dummy_again(const void *state, struct firing *firing, const struct json_value *request,
                       struct error *err)
{
    struct json_value settings;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO task = BUFFER_INIT;
    (void)state;
    (void)request;
    if (scan_settings(firing, &text, &settings, err) < 0 || task_name(firing, &settings, &task, err) < 0)
        return -1;
    return emit_termination(firing, &task, err);
}

/* --- DAG_TASK_FAILURE_HANDLER --- */

static void write_failure(const struct cloudevent *event, struct buffer *out)
{
    char time[CLOCK_ISO_MAX];
    const struct cloudevent_span *subject = &event->attribute[CE_SUBJECT];
    const struct cloudevent_span *at = &event->attribute[CE_TIME];
    const struct cloudevent_span *key = &event->attribute[CE_KEY];
    buffer_append_text(out, "{\"subject\":");
    buffer_append_json(out, subject->text ? subject->text : "", subject->len);
    buffer_append_text(out, ",\"time\":");
    if (at->len)
        buffer_append_json(out, at->text, at->len);
    else
        buffer_printf(out, "\"%s\"", clock_iso(clock_unix_ns(), time));
    if (key->len) {
        buffer_append_text(out, ",\"key\":");
        buffer_append_json(out, key->text, key->len);
    }
    if (event->data != CE_DATA_ABSENT && event->attribute[CE_DATA].len <= FAILURE_DATA_MAX) {
        buffer_append_text(out, ",\"data\":");
        cloudevent_data_json(event, out);
    }
    buffer_append_char(out, '}');
}

static size_t count_elements(const struct json_value *array)
{
    struct json_iter iter;
    struct json_value name, value;
    size_t n = 0;
    json_iter_init(&iter, array);
    while (json_next(&iter, &name, &value))
        n++;
    return n;
}

/* Appends the last of the failures that are recorded already, each with a comma behind it. */
static void write_kept(const struct json_value *settings, struct buffer *out)
{
    struct json_value array, name, value;
    struct json_iter iter;
    if (!json_member(settings, "failures", &array) || array.type != JSON_ARRAY)
        return;
    size_t n = count_elements(&array);
    json_iter_init(&iter, &array);
    for (; json_next(&iter, &name, &value); n--) {
        size_t len;
        if (n >= FAILURES_KEPT)
            continue;
        const char *raw = json_raw(&value, &len);
        buffer_append(out, raw, len);
        buffer_append_char(out, ',');
    }
}

/* A failure that is told twice, because a crash had the function started twice, is one. 1: it is new. */
static int is_new(struct firing *firing, struct error *err)
{
    const struct cloudevent_span *key = &firing_event(firing)->attribute[CE_KEY];
    return key->len ? firing_once(firing, key->text, key->len, err) : 1;
}

static int fire_failure_handler(const void *state, struct firing *firing, struct error *err)
{
    struct json_value settings, members, value;
    int64_t n = 0;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO merged = BUFFER_INIT;
    (void)state;
    int new = is_new(firing, err);
    if (new <= 0)
        return new;
    if (scan_settings(firing, &text, &settings, err) < 0)
        return -1;
    if (json_member(&settings, "n_failures", &value) && value.type == JSON_NUMBER &&
        (!json_integer(&value, &n) || n < 0 || n == INT64_MAX))
        n = 0;
    buffer_printf(&merged, "{\"n_failures\":%lld,\"failures\":[", (long long)n + 1);
    write_kept(&settings, &merged);
    write_failure(firing_event(firing), &merged);
    buffer_append_text(&merged, "]}");
    if (merged.failed)
        return out_of_memory(err);
    if (json_scan(merged.data, merged.len, &members, err) < 0)
        return -1;
    return firing_merge(firing, &members, err);
}

/* --- DAG_TASK_RETRY_HANDLER --- */

/* Asks the task's trigger to do again what has failed. */
static int ask_again(struct firing *firing, const char *task, size_t len, const struct cloudevent_span *key,
                     struct error *err)
{
    BUFFER_AUTO write = BUFFER_INIT;
    buffer_append_text(&write, "{\"repeat\":{");
    if (key && key->len) {
        buffer_append_text(&write, "\"key\":");
        buffer_append_json(&write, key->text, key->len);
    }
    buffer_append_text(&write, "}}");
    if (write.failed)
        return out_of_memory(err);
    return firing_write(firing, task, len, write.data, write.len, err);
}

static int64_t max_retries(const struct json_value *settings)
{
    struct json_value value;
    int64_t n;
    if (json_member(settings, "max_retries", &value) && value.type == JSON_NUMBER &&
        json_integer(&value, &n) && n >= 0)
        return n;
    return MAX_RETRIES;
}

static int64_t retries_of(const struct json_value *settings, const char *task, struct json_value *ret_all)
{
    struct json_value value;
    int64_t n;
    if (json_member(settings, "retries", ret_all) && ret_all->type == JSON_OBJECT &&
        json_member(ret_all, task, &value) && value.type == JSON_NUMBER && json_integer(&value, &n) && n >= 0)
        return n;
    return 0;
}

static int count_retry(struct firing *firing, const char *task, int64_t n, struct error *err)
{
    struct json_value members;
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append_text(&text, "{\"retries\":{");
    buffer_append_json(&text, task, strlen(task));
    buffer_printf(&text, ":%lld}}", (long long)n);
    if (text.failed)
        return out_of_memory(err);
    if (json_scan(text.data, text.len, &members, err) < 0)
        return -1;
    return firing_merge(firing, &members, err);
}

static int retry(struct firing *firing, const struct json_value *settings, struct error *err)
{
    const struct cloudevent *event = firing_event(firing);
    const struct cloudevent_span *subject = &event->attribute[CE_SUBJECT];
    struct json_value all;
    BUFFER_AUTO name = BUFFER_INIT;
    buffer_append(&name, subject->text, subject->len);
    const char *task = buffer_text(&name);
    if (name.failed)
        return out_of_memory(err);
    if (!name.len || strlen(task) != name.len)
        return error_set(err, ERROR_INVALID, "the event's subject \"%s\" names no task", task);
    int64_t n = retries_of(settings, task, &all);
    int64_t most = max_retries(settings);
    if (all.len > RETRIES_MAX_BYTES)
        return error_set(err, ERROR_LIMIT, "context.retries is longer than %u bytes", RETRIES_MAX_BYTES);
    if (n >= most) {
        if (task_tell(firing, task, name.len, STARTED_FAILED, 1, err) < 0)
            return -1;
        return error_set(err, ERROR_INVALID, "task %s has failed again after %lld retries", task,
                         (long long)n);
    }
    if (count_retry(firing, task, n + 1, err) < 0)
        return -1;
    return ask_again(firing, task, name.len, &event->attribute[CE_KEY], err);
}

static int ask_named(struct firing *firing, const struct json_value *name, struct error *err)
{
    BUFFER_AUTO task = BUFFER_INIT;
    if (name->type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "the event's data names a task by %s, not a string",
                         json_type_name(name->type));
    json_unescape(name, &task);
    if (task.failed)
        return out_of_memory(err);
    return ask_again(firing, buffer_text(&task), task.len, NULL, err);
}

static int retry_named(struct firing *firing, struct error *err)
{
    struct json_value data, name, value;
    struct json_iter iter;
    BUFFER_AUTO text = BUFFER_INIT;
    cloudevent_data_json(firing_event(firing), &text);
    if (text.failed)
        return out_of_memory(err);
    if (json_scan(text.data, text.len, &data, err) < 0)
        return -1;
    if (data.type == JSON_OBJECT && json_member(&data, "subject", &value))
        data = value;
    if (data.type != JSON_ARRAY)
        return ask_named(firing, &data, err);
    json_iter_init(&iter, &data);
    while (json_next(&iter, &name, &value))
        if (ask_named(firing, &value, err) < 0)
            return -1;
    return 0;
}

static int fire_retry_handler(const void *state, struct firing *firing, struct error *err)
{
    static const char by_hand[] = "__retry__";
    const struct cloudevent_span *subject = &firing_event(firing)->attribute[CE_SUBJECT];
    struct json_value settings;
    BUFFER_AUTO text = BUFFER_INIT;
    (void)state;
    if (subject->len == strlen(by_hand) && !memcmp(subject->text, by_hand, subject->len))
        return retry_named(firing, err);
    int new = is_new(firing, err);
    if (new <= 0)
        return new;
    if (scan_settings(firing, &text, &settings, err) < 0)
        return -1;
    return retry(firing, &settings, err);
}

extern const struct action_type action_dag_dummy_task;
extern const struct action_type action_dag_task_failure_handler;
extern const struct action_type action_dag_task_retry_handler;

const struct action_type action_dag_dummy_task = {.name = "DAG_DUMMY_TASK",
                                                  .load = load_nothing,
                                                  .unload = unload_nothing,
                                                  .fire = fire_dummy,
                                                  .again = dummy_again};
const struct action_type action_dag_task_failure_handler = {.name = "DAG_TASK_FAILURE_HANDLER",
                                                            .load = load_nothing,
                                                            .unload = unload_nothing,
                                                            .fire = fire_failure_handler};
const struct action_type action_dag_task_retry_handler = {.name = "DAG_TASK_RETRY_HANDLER",
                                                          .load = load_nothing,
                                                          .unload = unload_nothing,
                                                          .fire = fire_retry_handler};
