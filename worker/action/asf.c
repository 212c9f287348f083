/* The actions of a compiled state machine that start nothing outside (condition/asf.c has the contexts).
 *
 * AWS_ASF_PASS emits (Subject, lambda.success) with the state's output: of a Pass its Result or its input, of
 * a Parallel the results of its branches in order; of any other state (Succeed) its input. Of a Wait when its
 * time has come (a timer). A Fail, and whatever cannot be evaluated, fails: condition/asf_failure.c says what
 * comes of that; so does a Parallel in which a branch has failed, and the end of a Map with an iteration that
 * has.
 *
 * AWS_ASF_END_STATEMACHINE is the end of a machine: it emits (Subject, lambda.success) with what has been
 * joined, for the end of a Map its output.
 *
 * AWS_ASF_MAP first writes the number of its items, and what it takes to make its output of their results,
 * into the context of the trigger `join_state_machine` (of the trigger's context, or of the action's
 * document), and then emits one event (Subject, lambda.success) for each item, which carries its place
 * (states/item.h). Without items that write is all, and the Map ends at once. Items all run at the same time:
 * MaxConcurrency is checked, but limits nothing. A worker that dies meanwhile repeats the firing, or has
 * committed all of it (worker/shard/write.h). */
#include "worker/action/asf.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/jsonpath.h"
#include "worker/action/action.h"
#include "worker/condition/asf.h"
#include "worker/shard/firing.h"
#include "worker/states/evaluation.h"
#include "worker/states/failure.h"
#include "worker/states/item.h"
#include "worker/states/state.h"

#define MAP_MAX_BYTES (64u << 20) /* of the events of one firing */
#define MAP_MAX_STEPS (8 * (uint64_t)JSONPATH_STEPS)

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

/* The seed of random numbers is the firing's key: a repeated firing has the same. */
static uint64_t seed_of(const struct firing *firing)
{
    char key[ACTION_KEY_MAX];
    firing_key(firing, 0, key);
    return item_join(key, strlen(key));
}

int asf_evaluation_init(struct asf_evaluation *evaluation, const struct firing *firing,
                        const struct asf_firing *asf, struct error *err)
{
    struct json_value settings;
    *evaluation = (struct asf_evaluation){.context = {.workspace = firing->workspace,
                                                      .state = asf->subject,
                                                      .time = firing->event->attribute[CE_TIME],
                                                      .item = asf->item,
                                                      .index = -1}};
    evaluation_init(&evaluation->evaluation, seed_of(firing));
    evaluation->evaluation.input = asf->data;
    evaluation->evaluation.describe = context_write;
    evaluation->evaluation.describe_data = &evaluation->context;
    if (firing_settings(firing, &evaluation->settings, err) < 0 ||
        json_scan(evaluation->settings.data, evaluation->settings.len, &settings, err) < 0)
        return -1;
    json_member(&settings, "Execution", &evaluation->context.execution);
    return 0;
}

void asf_evaluation_done(struct asf_evaluation *evaluation)
{
    evaluation_done(&evaluation->evaluation);
    buffer_done(&evaluation->settings);
}

/* --- emitting --- */

static struct cloudevent_span span(const char *text, size_t len)
{
    return (struct cloudevent_span){.text = text, .len = (uint32_t)len};
}

int asf_event_init(struct asf_event *made, struct firing *firing, const char *subject,
                   const struct json_value *data, const struct cloudevent_span *item, uint32_t element,
                   struct error *err)
{
    struct cloudevent *event = &made->event;
    size_t len;
    made->source = (struct buffer)BUFFER_INIT;
    firing_key(firing, element, made->key);
    clock_iso(clock_unix_ns(), made->time);
    buffer_printf(&made->source, "urn:triggerflow:%s:%s", firing_workspace(firing), firing_trigger(firing));
    if (made->source.failed)
        return out_of_memory(err);
    const char *raw = json_raw(data, &len);
    cloudevent_clear(event);
    event->attribute[CE_SPECVERSION] = span("1.0", 3);
    event->attribute[CE_ID] = span(made->key, strlen(made->key));
    event->attribute[CE_SOURCE] = span(made->source.data, made->source.len);
    event->attribute[CE_TYPE] = span(ASF_SUCCESS, strlen(ASF_SUCCESS));
    event->attribute[CE_SUBJECT] = span(subject, strlen(subject));
    event->attribute[CE_TIME] = span(made->time, strlen(made->time));
    event->attribute[CE_DATACONTENTTYPE] = span("application/json", 16);
    event->attribute[CE_DATA] = span(raw, len);
    event->data = CE_DATA_JSON;
    if (item->len) {
        event->extension[0].name = span(ITEM_ATTRIBUTE, strlen(ITEM_ATTRIBUTE));
        event->extension[0].value = *item;
        event->n_extensions = 1;
    }
    return 0;
}

void asf_event_done(struct asf_event *made)
{
    buffer_done(&made->source);
}

int asf_emit(struct firing *firing, const char *subject, const struct json_value *data,
             const struct cloudevent_span *item, uint32_t element, struct error *err)
{
    struct asf_event made;
    int r = asf_event_init(&made, firing, subject, data, item, element, err);
    if (r == 0)
        r = firing_emit(firing, &made.event, err);
    asf_event_done(&made);
    return r;
}

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

/* --- AWS_ASF_PASS, AWS_ASF_END_STATEMACHINE --- */

static int pass_output(const struct asf_firing *asf, struct evaluation *evaluation,
                       struct json_value *ret_output, struct error *err)
{
    struct json_value input;
    *ret_output = asf->data;
    if (!asf->state || asf->left)
        return 0;
    if (state_kind(asf->state) == STATE_PASS)
        return state_pass(asf->state, evaluation, ret_output, err);
    if (state_enter(asf->state, evaluation, &input, err) < 0)
        return -1;
    return state_leave(asf->state, evaluation, &input, ret_output, err);
}

static int pass(struct firing *firing, const struct asf_firing *asf, struct evaluation *evaluation,
                struct error *err)
{
    struct json_value output;
    if (pass_output(asf, evaluation, &output, err) < 0)
        return -1;
    return asf_emit(firing, asf->subject, &output, &asf->item, 0, err);
}

static int fail(struct firing *firing, const struct asf_firing *asf, struct evaluation *evaluation,
                struct error *err)
{
    struct failure failure;
    if (state_fail(asf->state, evaluation, &failure, err) < 0)
        return -1;
    int r = failure.error.failed || failure.cause.failed ? out_of_memory(err)
                                                         : asf_raise(firing, asf, &failure, err);
    failure_done(&failure);
    return r;
}

static int wait(struct firing *firing, const struct asf_firing *asf, struct evaluation *evaluation,
                struct error *err)
{
    struct json_value output;
    struct asf_event made;
    uint64_t now = clock_unix_ns();
    uint64_t until;
    if (state_wait(asf->state, evaluation, now, &until, err) < 0 ||
        pass_output(asf, evaluation, &output, err) < 0)
        return -1;
    int r = asf_event_init(&made, firing, asf->subject, &output, &asf->item, 0, err);
    if (r == 0)
        r = until > now ? firing_timer(firing, until, &made.event, err)
                        : firing_emit(firing, &made.event, err);
    asf_event_done(&made);
    return r;
}

/* What is inside has failed, and so has the state. */
static int fail_by_data(struct firing *firing, const struct asf_firing *asf, struct error *err)
{
    struct failure failure;
    failure_of_data(&asf->data, &failure);
    int r = failure.error.failed || failure.cause.failed ? out_of_memory(err)
                                                         : asf_raise(firing, asf, &failure, err);
    failure_done(&failure);
    return r;
}

static int fire_pass(const void *state, struct firing *firing, struct error *err)
{
    struct asf_firing asf;
    struct asf_evaluation evaluation = {0};
    (void)state;
    int r = asf_firing_read(&asf, firing, err);
    if (r == 0 && !asf.failed)
        r = asf_evaluation_init(&evaluation, firing, &asf, err);
    if (r == 0) {
        enum state_kind kind = asf.state && !asf.left ? state_kind(asf.state) : STATE_OTHER;
        r = asf.failed           ? fail_by_data(firing, &asf, err)
            : kind == STATE_FAIL ? fail(firing, &asf, &evaluation.evaluation, err)
            : kind == STATE_WAIT ? wait(firing, &asf, &evaluation.evaluation, err)
                                 : pass(firing, &asf, &evaluation.evaluation, err);
    }
    asf_evaluation_done(&evaluation);
    if (r < 0)
        r = asf_firing_failed(firing, &asf, err);
    asf_firing_done(&asf);
    return r;
}

static int fire_end(const void *state, struct firing *firing, struct error *err)
{
    struct asf_firing asf;
    (void)state;
    int r = asf_firing_read(&asf, firing, err);
    if (r == 0)
        r = asf.failed ? fail_by_data(firing, &asf, err)
                       : asf_emit(firing, asf.subject, &asf.data, &asf.item, 0, err);
    if (r < 0)
        r = asf_firing_failed(firing, &asf, err);
    asf_firing_done(&asf);
    return r;
}

/* --- AWS_ASF_MAP --- */

/* The action's document. */
struct map {
    char *join; /* join_state_machine; NULL: the context's */
};

static void unload_map(void *state)
{
    struct map *map = state;
    if (!map)
        return;
    free(map->join);
    free(map);
}

static int load_map(const struct json_value *action, void **ret_state, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    struct map *map = calloc(1, sizeof *map);
    if (!map)
        return out_of_memory(err);
    *ret_state = map;
    if (!json_member(action, "join_state_machine", &value) || value.type == JSON_NULL)
        return 0;
    if (value.type != JSON_STRING || !value.len) {
        unload_map(map);
        return error_set(err, ERROR_INVALID, "join_state_machine is not the id of a trigger");
    }
    json_unescape(&value, &text);
    map->join = strndup(buffer_text(&text), text.len);
    if (map->join)
        return 0;
    unload_map(map);
    return out_of_memory(err);
}

/* One firing of a Map. */
struct mapping {
    struct firing *firing;
    struct asf_firing asf;
    struct asf_evaluation evaluation;
    struct json_value settings;
    struct buffer join;   /* id of the trigger that collects the results */
    struct buffer inputs; /* of the iterations: a JSON array */
    char run[ACTION_KEY_MAX];
    uint32_t n;
};

static int read_join(struct mapping *m, const struct map *map, struct error *err)
{
    struct json_value value;
    const struct buffer *settings = &m->evaluation.settings;
    if (json_scan(settings->data, settings->len, &m->settings, err) < 0)
        return -1;
    if (json_member(&m->settings, "join_state_machine", &value) && value.type == JSON_STRING)
        json_unescape(&value, &m->join);
    else if (map->join)
        buffer_append_text(&m->join, map->join);
    if (m->join.failed)
        return out_of_memory(err);
    if (!m->join.len)
        return error_set(err, ERROR_INVALID, "neither the context nor the action names a join_state_machine");
    return m->asf.state ? 0 : error_set(err, ERROR_INVALID, "the context has no State");
}

/* The iteration's input, at the end of inputs. */
static int add_input(struct mapping *m, const struct json_value *item, struct error *err)
{
    struct evaluation evaluation; /* of its own, so that its memory is freed; the steps are bounded for all */
    struct context context = m->evaluation.context;
    struct json_value input;
    context.value = item;
    context.index = m->n;
    evaluation_init(&evaluation, m->evaluation.evaluation.chance + m->n);
    evaluation.input = m->asf.data;
    evaluation.describe = context_write;
    evaluation.describe_data = &context;
    evaluation.steps = m->evaluation.evaluation.steps;
    int r = state_item(m->asf.state, &evaluation, item, &input, err);
    m->evaluation.evaluation.steps = evaluation.steps;
    if (r == 0) {
        if (m->n++)
            buffer_append_char(&m->inputs, ',');
        append_raw(&m->inputs, &input);
    }
    evaluation_done(&evaluation);
    if (r == 0 && m->inputs.len > MAP_MAX_BYTES)
        return error_set(err, ERROR_INVALID,
                         "States.DataLimitExceeded: the items have more than %u bytes together",
                         MAP_MAX_BYTES);
    return r;
}

static int make_inputs(struct mapping *m, struct error *err)
{
    struct json_value items, name, item;
    struct json_iter iter;
    m->evaluation.evaluation.steps = MAP_MAX_STEPS;
    if (state_items(m->asf.state, &m->evaluation.evaluation, &items, err) < 0)
        return -1;
    buffer_append_char(&m->inputs, '[');
    json_iter_init(&iter, &items);
    while (json_next(&iter, &name, &item))
        if (json_work(&m->evaluation.evaluation.steps, item.len, err) < 0 || add_input(m, &item, err) < 0)
            return -1;
    buffer_append_char(&m->inputs, ']');
    return m->inputs.failed ? out_of_memory(err) : 0;
}

static int tell_join(struct mapping *m, struct error *err)
{
    struct json_value state;
    BUFFER_AUTO path = BUFFER_INIT;
    BUFFER_AUTO body = BUFFER_INIT;
    buffer_append(&path, m->asf.item.text, m->asf.item.len);
    buffer_printf(&path, "%s%.*s", path.len ? "." : "", ITEM_RUN, m->run);
    buffer_append_text(&body, "{\"map\":{\"path\":");
    buffer_append_json(&body, buffer_text(&path), path.len);
    buffer_printf(&body, ",\"n\":%u", m->n);
    bool shapes = state_shapes_result(m->asf.state) && json_member(&m->settings, "State", &state);
    if (shapes || state_catches(m->asf.state)) {
        buffer_append_text(&body, ",\"input\":");
        append_raw(&body, &m->asf.data);
    }
    if (shapes) {
        buffer_append_text(&body, ",\"state\":");
        state_write_shape(&state, &body);
        body.len--; /* the brace at its end */
        buffer_append_text(&body, ",\"Name\":");
        buffer_append_json(&body, m->asf.subject, strlen(m->asf.subject));
        buffer_append_char(&body, '}');
    }
    buffer_append_text(&body, "}}");
    if (path.failed || body.failed)
        return out_of_memory(err);
    return firing_write(m->firing, m->join.data, m->join.len, body.data, body.len, err);
}

static int emit_items(struct mapping *m, struct error *err)
{
    struct json_value inputs, name, input;
    struct json_iter iter;
    uint64_t join = item_join(m->join.data, m->join.len);
    BUFFER_AUTO path = BUFFER_INIT;
    if (json_scan(m->inputs.data, m->inputs.len, &inputs, err) < 0)
        return -1;
    json_iter_init(&iter, &inputs);
    for (uint32_t i = 0; json_next(&iter, &name, &input); i++) {
        path.len = 0;
        item_write(m->asf.item.text, m->asf.item.len, m->run, join, i, &path);
        if (path.failed)
            return out_of_memory(err);
        struct cloudevent_span item = span(path.data, path.len);
        if (asf_emit(m->firing, m->asf.subject, &input, &item, i + 1, err) < 0)
            return -1;
    }
    return 0;
}

static bool is_too_deep(const struct mapping *m)
{
    BUFFER_AUTO path = BUFFER_INIT;
    return !item_write(m->asf.item.text, m->asf.item.len, m->run, 0, UINT32_MAX, &path) ||
           path.len > ITEM_MAX_LENGTH;
}

static int map_items(struct mapping *m, const struct map *map, struct error *err)
{
    firing_key(m->firing, 0, m->run);
    if (asf_evaluation_init(&m->evaluation, m->firing, &m->asf, err) < 0 || read_join(m, map, err) < 0)
        return -1;
    if (is_too_deep(m))
        return error_set(err, ERROR_INVALID, "States.Runtime: Maps are nested deeper than %d",
                         ITEM_MAX_DEPTH);
    if (make_inputs(m, err) < 0 || tell_join(m, err) < 0)
        return -1;
    return emit_items(m, err);
}

/* An iteration has failed: the end knows whether it is the run's first, and tells of it. */
static int tell_failure(struct mapping *m, const struct map *map, struct error *err)
{
    struct failure failure;
    BUFFER_AUTO body = BUFFER_INIT;
    if (asf_evaluation_init(&m->evaluation, m->firing, &m->asf, err) < 0 || read_join(m, map, err) < 0)
        return -1;
    failure_of_data(&m->asf.data, &failure);
    buffer_append_text(&body, "{\"failed\":{\"path\":");
    buffer_append_json(&body, m->asf.item.text, m->asf.item.len);
    buffer_append_text(&body, ",\"name\":");
    buffer_append_json(&body, m->asf.subject, strlen(m->asf.subject));
    buffer_append_char(&body, ',');
    failure_write(&failure, &body);
    buffer_append_text(&body, "}}");
    failure_done(&failure);
    if (body.failed)
        return out_of_memory(err);
    return firing_write(m->firing, m->join.data, m->join.len, body.data, body.len, err);
}

static int fire_map(const void *state, struct firing *firing, struct error *err)
{
    struct mapping m = {.firing = firing};
    int r = asf_firing_read(&m.asf, firing, err);
    if (r == 0)
        r = m.asf.failed ? tell_failure(&m, state, err) : map_items(&m, state, err);
    asf_evaluation_done(&m.evaluation);
    if (r < 0)
        r = asf_firing_failed(firing, &m.asf, err);
    asf_firing_done(&m.asf);
    buffer_done(&m.join);
    buffer_done(&m.inputs);
    return r;
}

static int check_map(const struct json_value *context, struct error *err)
{
    struct json_value state, value;
    if (!json_member(context, "State", &state) || state.type != JSON_OBJECT ||
        !json_member(&state, "Type", &value) || !json_equals(&value, "Map", 3))
        return error_set(err, ERROR_INVALID, "context.State is not a Map");
    if (json_member(context, "join_state_machine", &value) && value.type != JSON_NULL &&
        (value.type != JSON_STRING || !value.len))
        return error_set(err, ERROR_INVALID, "context.join_state_machine is not the id of a trigger");
    return 0;
}

extern const struct action_type action_aws_asf_pass;
extern const struct action_type action_aws_asf_end_statemachine;
extern const struct action_type action_aws_asf_map;

static const char *const map_parameters[] = {"join_state_machine", NULL};

const struct action_type action_aws_asf_pass = {
    .name = "AWS_ASF_PASS", .load = load_nothing, .unload = unload_nothing, .fire = fire_pass};
const struct action_type action_aws_asf_end_statemachine = {
    .name = "AWS_ASF_END_STATEMACHINE", .load = load_nothing, .unload = unload_nothing, .fire = fire_end};
const struct action_type action_aws_asf_map = {.name = "AWS_ASF_MAP",
                                               .load = load_map,
                                               .unload = unload_map,
                                               .fire = fire_map,
                                               .parameters = map_parameters,
                                               .check_context = check_map};
