/* The conditions of a compiled state machine, and AWS_ASF_CONDITION; asf_join.c has the other. One trigger is
 * one state; its context has
 *
 *     Subject    the state's name
 *     State      the state, as the States Language has it
 *     Condition  a choice rule (states/choice.h), when a Choice leads here
 *
 * AWS_ASF_CONDITION holds when the rule does, on the event's data; without one always. A rule that cannot be
 * evaluated (its variable leads nowhere) makes the event a dead letter.
 *
 * Both conditions turn the answers of tasks into the tasks' outputs (states/answer.h).
 *
 * Writes, of the firings of AWS_ASF_TASK: {"awaits":{...}}, {"forget":KEY}. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "worker/condition/asf.h"
#include "worker/condition/asf_internal.h"
#include "worker/shard/firing.h"
#include "worker/states/choice.h"
#include "worker/states/context.h"
#include "worker/states/evaluation.h"
#include "worker/states/failure.h"
#include "worker/states/item.h"
#include "worker/states/state.h"
#include "worker/shard/trigger.h"

void asf_unload(void *state)
{
    struct asf *a = state;
    free(a->subject);
    buffer_done(&a->execution);
    choice_free(a->choice);
    state_free(a->state);
    answers_done(&a->answers);
    free(a->answer.text);
    joins_done(&a->joins);
    buffer_done(&a->result);
    buffer_done(&a->data);
    buffer_done(&a->item);
    buffer_done(&a->culprit);
    buffer_done(&a->raw);
    free(a->inside);
    *a = (struct asf){0};
}

/* --- the context --- */

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static int load_subject(struct asf *a, const struct json_value *context, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(context, "Subject", &value) || value.type == JSON_NULL)
        return 0;
    if (value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "context.Subject is %s, not a text", json_type_name(value.type));
    json_unescape(&value, &text);
    a->subject = strndup(buffer_text(&text), text.len);
    if (text.failed || !a->subject)
        return out_of_memory(err);
    a->self = item_join(a->subject, strlen(a->subject));
    return 0;
}

static int load_execution(struct asf *a, const struct json_value *context, struct error *err)
{
    struct json_value value;
    size_t len;
    if (!json_member(context, "Execution", &value))
        return 0;
    const char *raw = json_raw(&value, &len);
    buffer_append(&a->execution, raw, len);
    return a->execution.failed ? out_of_memory(err) : 0;
}

static int load_state(struct asf *a, const struct json_value *context, struct error *err)
{
    struct json_value value;
    if (!json_member(context, "State", &value) || value.type == JSON_NULL)
        return 0;
    if (state_load(&value, &a->state, err) < 0)
        return error_prefix(err, "context.State");
    return 0;
}

int asf_load(struct asf *a, const struct json_value *context, struct error *err)
{
    if (load_subject(a, context, err) < 0 || load_execution(a, context, err) < 0 ||
        load_state(a, context, err) < 0)
        return -1;
    return answers_load(&a->answers, context, err);
}

static int load_condition(void *state, const struct json_value *context, struct error *err)
{
    struct asf *a = state;
    struct json_value value;
    int r = 0;
    *a = (struct asf){0};
    if (asf_load(a, context, err) < 0)
        r = -1;
    else if (json_member(context, "Condition", &value) && value.type != JSON_NULL &&
             choice_load(&value, &a->choice, err) < 0)
        r = error_prefix(err, "context.Condition");
    if (r < 0)
        asf_unload(a);
    return r;
}

static void store_condition(const void *state, struct buffer *out)
{
    answers_store(&((const struct asf *)state)->answers, out);
}

bool asf_counted(const void *state)
{
    const struct asf *a = state;
    return a->counter > 0 || a->answers.n;
}

const char *asf_why_refused(const void *state)
{
    return ((const struct asf *)state)->error.message;
}

/* --- the event in hand --- */

void asf_must(const struct buffer *buffer)
{
    if (buffer->failed)
        abort(); /* an event would be lost: start again from the last checkpoint */
}

void asf_set_data(struct asf *a, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    BUFFER_AUTO copy = BUFFER_INIT; /* it may lie in data */
    buffer_append(&copy, raw, len);
    asf_must(&copy);
    buffer_done(&a->data);
    a->data = copy;
    copy = (struct buffer)BUFFER_INIT;
}

static void put_back(struct asf *a)
{
    struct error err;
    if (a->answer.text && answers_put_back(&a->answers, &a->answer, &err) < 0)
        abort(); /* see asf_must() */
}

unsigned asf_refuse(struct asf *a, unsigned changed)
{
    if (a->error.code == ERROR_MEMORY)
        abort(); /* see asf_must() */
    a->refused = a->answer.text ? a->answer.key : 0;
    put_back(a);
    return CONDITION_REFUSES | changed;
}

const char *asf_name(const struct asf *a)
{
    return a->subject ? a->subject : "";
}

/* What is known here of the context object. */
static void describe(const struct asf *a, const char *state, struct evaluation *evaluation,
                     struct context *ret_context)
{
    *ret_context = (struct context){
        .state = state, .item = {.text = a->item.data, .len = (uint32_t)a->item.len}, .index = -1};
    if (a->execution.len)
        json_scan(a->execution.data, a->execution.len, &ret_context->execution, NULL);
    evaluation->describe = context_write;
    evaluation->describe_data = ret_context;
}

/* A result becomes the output of its state. */
int asf_leave(struct asf *a, const char *name, const struct state *s, const struct json_value *input,
              const struct json_value *result)
{
    struct evaluation evaluation;
    struct context context;
    struct json_value output;
    evaluation_init(&evaluation, 0);
    evaluation.input = *input;
    describe(a, name, &evaluation, &context);
    int r = state_leave(s, &evaluation, result, &output, &a->error);
    if (r == 0)
        asf_set_data(a, &output);
    evaluation_done(&evaluation);
    return r;
}

/* The same with the state and the input as they were written here. */
int asf_leave_written(struct asf *a, const char *name, const struct json_value *document,
                      const struct json_value *input, const struct json_value *result)
{
    struct state *s;
    if (state_load(document, &s, &a->error) < 0)
        return -1;
    int r = asf_leave(a, name, s, input, result);
    state_free(s);
    return r;
}

void asf_blame(struct asf *a, const char *name, const struct json_value *input)
{
    size_t len;
    a->blamed = true;
    buffer_reset(&a->raw, ASF_KEPT_BYTES);
    a->culprit.len = 0;
    if (name)
        buffer_append_text(&a->culprit, name);
    if (input) {
        const char *raw = json_raw(input, &len);
        buffer_append(&a->raw, raw, len);
    }
    asf_must(&a->culprit);
    asf_must(&a->raw);
}

/* An answer that is waited for: its output and its place in Maps. */
static int apply_answer(struct asf *a, const struct answer *answer)
{
    struct json_value entry, value, input, document, result;
    if (json_scan(answer->text, answer->len, &entry, &a->error) < 0 ||
        json_scan(a->data.data, a->data.len, &result, &a->error) < 0)
        return -1;
    if (json_member(&entry, "item", &value) && value.type == JSON_STRING) {
        buffer_reset(&a->item, ASF_KEPT_BYTES);
        json_unescape(&value, &a->item);
        asf_must(&a->item);
    }
    BUFFER_AUTO name = BUFFER_INIT;
    if (json_member(&entry, "task", &value) && value.type == JSON_STRING)
        json_unescape(&value, &name);
    if (answer_is_over(&entry, &a->error)) {
        asf_blame(a, buffer_text(&name), NULL);
        return -1;
    }
    if (!json_member(&entry, "state", &document) || !json_member(&entry, "input", &input))
        return 0;
    int r = asf_leave_written(a, buffer_text(&name), &document, &input, &result);
    if (r < 0)
        asf_blame(a, buffer_text(&name), &input);
    return r;
}

void asf_begin(struct asf *a, const struct cloudevent *event)
{
    struct cloudevent_span item;
    item_of(event, &item);
    buffer_reset(&a->data, ASF_KEPT_BYTES);
    buffer_reset(&a->item, ASF_KEPT_BYTES);
    free(a->answer.text);
    a->answer = (struct answer){0};
    a->left = a->failed = a->blamed = a->by_rule = false;
    a->error = (struct error){0};
    a->culprit.len = a->raw.len = 0;
    cloudevent_data_json(event, &a->data);
    buffer_append(&a->item, item.text, item.len);
    asf_must(&a->data);
    asf_must(&a->item);
}

/* Takes the event in hand. 1: an answer was taken; -1: error. */
int asf_take(struct asf *a, const struct cloudevent *event)
{
    asf_begin(a, event);
    struct cloudevent_span item = {.text = a->item.data, .len = (uint32_t)a->item.len};
    if (!a->answers.n || !answers_take(&a->answers, &event->attribute[CE_SUBJECT], &event->attribute[CE_KEY],
                                       &item, &a->answer))
        return 0;
    return apply_answer(a, &a->answer) < 0 ? -1 : 1;
}

static unsigned evaluate_condition(void *state, const struct cloudevent *event)
{
    struct asf *a = state;
    if (a->state && state_kind(a->state) == STATE_MAP && failure_is(event)) {
        asf_begin(a, event);
        a->failed = true;
        return CONDITION_HOLDS;
    }
    int taken = asf_take(a, event);
    unsigned changed = taken ? CONDITION_CHANGED : 0;
    if (taken < 0)
        return asf_refuse(a, changed);
    if (!a->choice)
        return CONDITION_HOLDS | changed;
    struct evaluation evaluation;
    struct context context;
    evaluation_init(&evaluation, 0);
    describe(a, asf_name(a), &evaluation, &context);
    int r = json_scan(a->data.data, a->data.len, &evaluation.input, &a->error);
    if (r == 0)
        r = choice_evaluate(a->choice, &evaluation, &a->error);
    evaluation_done(&evaluation);
    if (r < 0) {
        error_prefix(&a->error, "States.Runtime: Condition");
        asf_blame(a, NULL, NULL);
        a->by_rule = true;
        return asf_refuse(a, changed);
    }
    return (r == CHOICE_HOLDS ? CONDITION_HOLDS : 0) | changed;
}

/* --- writes --- */

unsigned asf_refuse_write(struct asf *a)
{
    if (a->error.code == ERROR_MEMORY)
        abort(); /* the answer could not be understood when it comes: start again, with more memory */
    return CONDITION_REFUSES;
}

unsigned asf_write_answer(struct asf *a, const struct json_value *write)
{
    int r = answers_write(&a->answers, write, &a->error);
    return r < 0 ? asf_refuse_write(a) : r ? CONDITION_CHANGED : 0;
}

static unsigned write_condition(void *state, const struct json_value *write)
{
    return asf_write_answer(state, write);
}

/* --- registration --- */

static const char *const condition_members[] = {"answers", NULL};

const struct condition_type condition_aws_asf_condition = {
    .name = "AWS_ASF_CONDITION",
    .state_size = sizeof(struct asf),
    .members = condition_members,
    .counts_keys = true,
    .forgets_failures = true,
    .load = load_condition,
    .unload = asf_unload,
    .evaluate = evaluate_condition,
    .write = write_condition,
    .store = store_condition,
    .counted = asf_counted,
    .why_refused = asf_why_refused,
    .refused = asf_refused,
    .activations = asf_activations,
};

/* --- for the actions --- */

/* All begin with a struct asf. */
static struct asf *asf_of(const struct firing *firing)
{
    const struct condition_type *type = firing->trigger->condition;
    bool is_asf = type == &condition_aws_asf_condition || type == &condition_aws_asf_join_statemachine ||
                  type == &condition_aws_asf_catch;
    return is_asf ? (struct asf *)(void *)firing->trigger->state : NULL;
}

int asf_raise(struct firing *firing, const struct asf_firing *asf, const struct failure *failure,
              struct error *err)
{
    struct asf *a = asf_of(firing);
    const struct json_value *input = asf->raw.type != JSON_ABSENT ? &asf->raw : NULL;
    if (asf_fail(firing, FAILURE_TYPE, asf->culprit, &asf->item, failure, input, false))
        return 0;
    if (a && firing->trigger->condition == &condition_aws_asf_condition)
        put_back(a);
    return failure_error(failure, err);
}

int asf_firing_failed(struct firing *firing, const struct asf_firing *asf, struct error *err)
{
    struct failure failure;
    struct error why = *err;
    if (err->code == ERROR_MEMORY)
        return -1;
    failure_of_message(err->message, &failure);
    int r = asf_raise(firing, asf, &failure, err);
    failure_done(&failure);
    *err = why; /* as it was */
    return r;
}

/* Under another condition: everything from the event and the context. */
static int read_plain(struct asf_firing *asf, const struct firing *firing, struct error *err)
{
    struct json_value settings, value;
    BUFFER_AUTO text = BUFFER_INIT;
    item_of(firing->event, &asf->item);
    cloudevent_data_json(firing->event, &asf->text);
    if (asf->text.failed)
        return out_of_memory(err);
    if (json_scan(asf->text.data, asf->text.len, &asf->data, err) < 0 ||
        firing_settings(firing, &text, err) < 0 || json_scan(text.data, text.len, &settings, err) < 0)
        return -1;
    if (json_member(&settings, "Subject", &value) && value.type == JSON_STRING)
        json_unescape(&value, &asf->name);
    if (asf->name.failed)
        return out_of_memory(err);
    if (asf->name.len)
        asf->subject = asf->culprit = buffer_text(&asf->name);
    asf->raw = asf->data;
    if (json_member(&settings, "State", &value) && value.type != JSON_NULL) {
        if (state_load(&value, &asf->own_state, err) < 0)
            return error_prefix(err, "context.State");
        asf->state = asf->own_state;
    }
    return 0;
}

int asf_firing_read(struct asf_firing *asf, const struct firing *firing, struct error *err)
{
    struct asf *a = asf_of(firing);
    *asf = (struct asf_firing){.subject = firing->trigger->id, .culprit = firing->trigger->id};
    if (!a)
        return read_plain(asf, firing, err);
    if (a->subject)
        asf->subject = asf->culprit = a->subject;
    if (a->culprit.len)
        asf->culprit = buffer_text(&a->culprit);
    asf->item = (struct cloudevent_span){.text = a->item.data, .len = (uint32_t)a->item.len};
    asf->state = a->state;
    asf->left = a->left;
    asf->failed = a->failed;
    if (a->raw.len && json_scan(a->raw.data, a->raw.len, &asf->raw, err) < 0)
        return -1;
    if (a->error.code != ERROR_NONE) {
        if (err)
            *err = a->error;
        return -1;
    }
    if (json_scan(a->data.data, a->data.len, &asf->data, err) < 0)
        return -1;
    if (!a->culprit.len && !a->joins_events)
        asf->raw = asf->data;
    return 0;
}

void asf_firing_done(struct asf_firing *asf)
{
    state_free(asf->own_state);
    buffer_done(&asf->text);
    buffer_done(&asf->name);
}
