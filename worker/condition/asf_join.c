/* AWS_ASF_JOIN_STATEMACHINE collects the results of a Map's iterations or of a Parallel's branches, and holds
 * when all are there (states/join.h). Without `join_multiple`, and when no Map names this trigger, it holds
 * for every event: the end of a machine that runs once. `counter` counts the results of the present run. In
 * the trigger of a Parallel, whose branches end with StateMachineN, any other event is the Parallel's input,
 * for ResultPath. What has been joined last is in `result`: the run's result, in the trigger of the outermost
 * machine.
 *
 * When a state inside has failed, and nobody has caught that, the run has failed: the first failure closes
 * its group (states/join.h), and the trigger fires to tell of it, once; whatever else comes of that run is
 * counted, and no more. A Parallel hears of failures itself (asf_failure.c), a Map hands them on to its end.
 * In a Parallel's context `Branches` may name the ends of its branches, in their order: so that what is late
 * of a run that has failed is told from what comes of the next one.
 *
 * Writes, besides those of asf.c, of the firings of AWS_ASF_MAP:
 *     {"map":{"path","n","input","state"}}       a Map's run begins, with so many items
 *     {"failed":{"path","name","Error","Cause"}} an iteration has failed; name: the Map's */
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/error.h"
#include "worker/condition/asf_internal.h"
#include "worker/states/evaluation.h"
#include "worker/states/failure.h"
#include "worker/states/item.h"
#include "worker/states/state.h"

#define COUNT_MAX 1000000

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static int load_count(const struct json_value *context, const char *name, int64_t least, int64_t absent,
                      int64_t *ret_value, struct error *err)
{
    struct json_value value;
    size_t len;
    *ret_value = absent;
    if (!json_member(context, name, &value) || value.type == JSON_NULL)
        return 0;
    if (value.type == JSON_NUMBER && json_integer(&value, ret_value) && *ret_value >= least &&
        *ret_value <= COUNT_MAX)
        return 0;
    const char *raw = json_raw(&value, &len);
    return error_set(err, ERROR_INVALID, "context.%s is %.*s, not a whole number from %lld to %d", name,
                     (int)(len < 80 ? len : 80), raw, (long long)least, COUNT_MAX);
}

/* N of StateMachineN, the end of a branch, whatever stands before; -1: it is none. */
static int64_t branch_of(const struct cloudevent_span *subject)
{
    static const char name[] = "StateMachine";
    size_t digits = 0;
    int64_t number = 0;
    while (digits < subject->len && subject->text[subject->len - 1 - digits] >= '0' &&
           subject->text[subject->len - 1 - digits] <= '9')
        digits++;
    size_t before = subject->len - digits;
    if (!digits || digits > 9 || before < sizeof name - 1 ||
        memcmp(subject->text + before - (sizeof name - 1), name, sizeof name - 1) != 0)
        return -1;
    for (size_t i = before; i < subject->len; i++)
        number = number * 10 + (subject->text[i] - '0');
    return number;
}

/* --- what is inside of a Parallel --- */

struct insides {
    struct asf *asf;
    int64_t place;
};

static int add_inside(void *data, const char *name, size_t len, struct error *err)
{
    struct insides *in = data;
    struct asf *a = in->asf;
    if ((a->n_inside & (a->n_inside - 1)) == 0) {
        struct asf_inside *grown = realloc(a->inside, (a->n_inside ? a->n_inside * 2 : 1) * sizeof *grown);
        if (!grown)
            return out_of_memory(err);
        a->inside = grown;
    }
    a->inside[a->n_inside++] = (struct asf_inside){XXH3_64bits(name, len), in->place};
    return 0;
}

static int load_inside(struct asf *a, const struct json_value *context, struct error *err)
{
    struct json_value state, branches, name, branch, ends, end;
    struct json_iter iter, of_ends;
    int64_t n = 0;
    if (!a->state || state_kind(a->state) != STATE_PARALLEL || !json_member(context, "State", &state) ||
        !json_member(&state, "Branches", &branches) || branches.type != JSON_ARRAY)
        return 0;
    bool named = json_member(context, "Branches", &ends) && ends.type == JSON_ARRAY;
    if (named)
        json_iter_init(&of_ends, &ends);
    json_iter_init(&iter, &branches);
    while (json_next(&iter, &name, &branch)) {
        struct insides in = {a, -1 - ++n};
        if (named && json_next(&of_ends, &name, &end) && end.type == JSON_STRING) {
            struct cloudevent_span span = {.text = end.text, .len = (uint32_t)end.len};
            in.place = branch_of(&span) >= 0 ? branch_of(&span) : in.place;
        }
        if (failure_inside_machine(&branch, add_inside, &in, err) < 0)
            return -1;
    }
    return 0;
}

static int64_t place_of(const struct asf *a, const struct cloudevent_span *name)
{
    uint64_t hash = XXH3_64bits(name->text ? name->text : "", name->len);
    for (size_t i = 0; i < a->n_inside; i++)
        if (a->inside[i].name == hash)
            return a->inside[i].place;
    return INT64_MAX;
}

static int load_join(void *state, const struct json_value *context, struct error *err)
{
    struct asf *a = state;
    struct json_value value;
    size_t len;
    *a = (struct asf){.joins_events = true};
    if (asf_load(a, context, err) < 0 || joins_load(&a->joins, context, err) < 0 ||
        load_count(context, "join_multiple", -1, -1, &a->join_multiple, err) < 0 ||
        load_count(context, "counter", 0, 0, &a->counter, err) < 0 || load_inside(a, context, err) < 0) {
        asf_unload(a);
        return -1;
    }
    a->by_map = json_member(context, "by_map", &value) && value.type == JSON_TRUE;
    if (json_member(context, "result", &value)) {
        const char *raw = json_raw(&value, &len);
        buffer_append(&a->result, raw, len);
    }
    if (!a->result.failed)
        return 0;
    asf_unload(a);
    return out_of_memory(err);
}

static void store_join(const void *state, struct buffer *out)
{
    const struct asf *a = state;
    size_t start = out->len;
    buffer_printf(out, "\"counter\":%lld", (long long)a->counter);
    if (a->join_multiple >= 0)
        buffer_printf(out, ",\"join_multiple\":%lld", (long long)a->join_multiple);
    if (a->by_map)
        buffer_append_text(out, ",\"by_map\":true");
    if (a->result.len) {
        buffer_append_text(out, ",\"result\":");
        buffer_append(out, a->result.data, a->result.len);
    }
    if (a->joins.n) {
        buffer_append_char(out, ',');
        joins_store(&a->joins, out);
    }
    if (a->answers.n && out->len > start) {
        buffer_append_char(out, ',');
        answers_store(&a->answers, out);
    }
}

/* --- joining --- */

static void keep_result(struct asf *a)
{
    buffer_reset(&a->result, ASF_KEPT_BYTES);
    if (a->data.len <= EVALUATION_DATA_MAX)
        buffer_append(&a->result, a->data.data, a->data.len);
    asf_must(&a->result);
}

static int too_large(struct asf *a, const struct buffer *results)
{
    if (results->len <= EVALUATION_DATA_MAX)
        return 0;
    return error_set(&a->error, ERROR_INVALID,
                     "States.DataLimitExceeded: the results have %zu bytes, more than %d", results->len,
                     EVALUATION_DATA_MAX);
}

/* The Map's output cannot be made: it is the Map that has failed. */
static int blame_map(struct asf *a, const struct json_value *state, const struct json_value *input)
{
    struct json_value value;
    BUFFER_AUTO name = BUFFER_INIT;
    if (json_member(state, "Name", &value) && value.type == JSON_STRING)
        json_unescape(&value, &name);
    asf_blame(a, name.len ? buffer_text(&name) : NULL, input);
    return -1;
}

/* All results of a run are there. */
static int finish(struct asf *a, const struct join *join)
{
    static const struct json_value none = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    struct json_value results, input = none, document;
    BUFFER_AUTO text = BUFFER_INIT;
    join_write_results(join, &text);
    asf_must(&text);
    if (too_large(a, &text) < 0 || json_scan(text.data, text.len, &results, &a->error) < 0)
        return -1;
    if (join->input.len && json_scan(join->input.data, join->input.len, &input, &a->error) < 0)
        return -1;
    buffer_reset(&a->item, ASF_KEPT_BYTES);
    buffer_append(&a->item, join->path, join->outer_len);
    asf_must(&a->item);
    a->left = true;
    if (join->state.len) {
        if (json_scan(join->state.data, join->state.len, &document, &a->error) < 0)
            return -1;
        return asf_leave_written(a, asf_name(a), &document, &input, &results) < 0
                   ? blame_map(a, &document, &input)
                   : 0;
    }
    if (!a->state || state_kind(a->state) != STATE_PARALLEL) {
        a->left = false;
        asf_set_data(a, &results);
        return 0;
    }
    if (state_keeps_input(a->state) && !join->input.len)
        return error_set(&a->error, ERROR_INVALID,
                         "States.ResultPathMatchFailure: ResultPath: the Parallel's input has not come here");
    if (asf_leave(a, asf_name(a), a->state, &input, &results) == 0)
        return 0;
    asf_blame(a, NULL, &input);
    return -1;
}

static unsigned settle(struct asf *a, struct join *join)
{
    if (!join->closed)
        a->counter = (int64_t)join->n;
    if (!join_is_complete(join))
        return CONDITION_CHANGED;
    if (join->closed) {
        joins_remove(&a->joins, join);
        return CONDITION_CHANGED;
    }
    int r = finish(a, join);
    joins_remove(&a->joins, join);
    if (r < 0)
        return asf_refuse(a, CONDITION_CHANGED);
    keep_result(a);
    return CONDITION_HOLDS | CONDITION_CHANGED;
}

static unsigned add(struct asf *a, struct join *join, int64_t place, bool once)
{
    int r = join_add(&a->joins, join, place, once, a->data.data, a->data.len, &a->error);
    if (r < 0)
        return asf_refuse(a, CONDITION_CHANGED);
    return r == JOIN_REPEAT ? CONDITION_CHANGED : settle(a, join);
}

/* A result of a Map's iteration. */
static unsigned add_iteration(struct asf *a, const struct item *item)
{
    struct join *join;
    if (item) {
        join = joins_open(&a->joins, a->item.data, item->run_len, item->outer_len, &a->error);
        return join ? add(a, join, item->index, true) : asf_refuse(a, CONDITION_CHANGED);
    }
    join = joins_oldest(&a->joins, false);
    if (join)
        return add(a, join, join_free_place(join), true);
    error_set(&a->error, ERROR_INVALID, "no Map waits for results here");
    return asf_refuse(a, CONDITION_CHANGED);
}

static unsigned add_branch(struct asf *a, const struct cloudevent *event)
{
    int64_t branch = branch_of(&event->attribute[CE_SUBJECT]);
    bool is_input = branch < 0 && a->state && state_kind(a->state) == STATE_PARALLEL;
    int64_t place = branch >= 0 ? branch : INT64_MAX;
    const char *path = buffer_text(&a->item);
    struct join *join = is_input
                            ? joins_begin(&a->joins, path, a->item.len, a->item.len, &a->error)
                            : joins_expecting(&a->joins, path, a->item.len, a->item.len, place, &a->error);
    if (!join)
        return asf_refuse(a, CONDITION_CHANGED);
    join->expected = a->join_multiple;
    if (!is_input)
        return add(a, join, place, false);
    a->joins.bytes -= join->input.len;
    buffer_reset(&join->input, 0);
    buffer_append(&join->input, a->data.data, a->data.len);
    asf_must(&join->input);
    a->joins.bytes += join->input.len;
    return CONDITION_CHANGED;
}

/* --- failing --- */

/* The first failure of a run closes it, and is in hand then; input: what the state has had, if it is known.
 * Others are counted. */
static unsigned fail_run(struct asf *a, struct join *join, int64_t place, bool once)
{
    bool first = !join->closed;
    int r = join_add(&a->joins, join, place, once, "null", 4, &a->error);
    if (r < 0)
        return asf_refuse(a, CONDITION_CHANGED);
    if (r == JOIN_REPEAT)
        return CONDITION_CHANGED;
    if (first) {
        buffer_reset(&a->raw, ASF_KEPT_BYTES);
        buffer_append(&a->raw, join->input.data, join->input.len);
        asf_must(&a->raw);
        buffer_reset(&a->item, ASF_KEPT_BYTES);
        buffer_append(&a->item, join->path, join->outer_len);
        asf_must(&a->item);
        a->failed = true;
        joins_close(&a->joins, &join);
    }
    return settle(a, join) | (first ? CONDITION_HOLDS : 0);
}

/* The run of a failure at this place; without a path (nobody knows it) the oldest there is. */
static struct join *run_of(struct asf *a, int64_t place)
{
    if (!a->item.len && !joins_find(&a->joins, "", 0))
        for (size_t i = 0; i < a->joins.n; i++)
            if (!a->joins.groups[i].closed)
                return &a->joins.groups[i];
    return joins_expecting(&a->joins, buffer_text(&a->item), a->item.len, a->item.len, place, &a->error);
}

/* A state in a branch of this Parallel. */
static unsigned fail_branch(struct asf *a, const struct cloudevent *event)
{
    int64_t place = place_of(a, &event->attribute[CE_SUBJECT]);
    asf_begin(a, event);
    struct join *join = run_of(a, place);
    if (!join)
        return asf_refuse(a, CONDITION_CHANGED);
    join->expected = a->join_multiple;
    return fail_run(a, join, place, false);
}

/* An iteration of a Map. Without a path (nobody knows it) it is one of the oldest run. */
static unsigned fail_iteration(struct asf *a, const struct json_value *failed)
{
    struct json_value path, name;
    struct item item = {.index = -1};
    struct join *join = NULL;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(failed, "path", &path) || path.type != JSON_STRING ||
        !json_member(failed, "name", &name) || name.type != JSON_STRING)
        return 0;
    json_unescape(&path, &text);
    asf_must(&text);
    a->left = a->failed = a->blamed = a->by_rule = false;
    a->error = (struct error){0};
    a->culprit.len = 0;
    json_unescape(&name, &a->culprit);
    asf_must(&a->culprit);
    asf_set_data(a, failed);
    if (item_innermost(text.data, text.len, &item) && item.join == a->self)
        join = joins_find(&a->joins, text.data, item.run_len);
    else if ((join = joins_oldest(&a->joins, true)))
        item.index = join_free_place(join);
    return join ? fail_run(a, join, item.index, true) : 0;
}

static unsigned evaluate_join(void *state, const struct cloudevent *event)
{
    struct asf *a = state;
    struct item item;
    if (a->state && state_kind(a->state) == STATE_PARALLEL && failure_is(event))
        return fail_branch(a, event);
    if (asf_take(a, event) < 0)
        return asf_refuse(a, CONDITION_CHANGED);
    bool mine = item_innermost(a->item.data, a->item.len, &item) &&
                (item.join == a->self || joins_find(&a->joins, a->item.data, item.run_len));
    if (mine || a->by_map)
        return add_iteration(a, mine ? &item : NULL);
    if (a->join_multiple > 0)
        return add_branch(a, event);
    keep_result(a);
    return CONDITION_HOLDS | CONDITION_CHANGED;
}

static void append_member(const struct json_value *object, const char *name, struct buffer *out)
{
    struct json_value value;
    size_t len;
    if (!json_member(object, name, &value))
        return;
    const char *raw = json_raw(&value, &len);
    buffer_reset(out, 0);
    buffer_append(out, raw, len);
    asf_must(out);
}

/* A Map's run begins; results may have come already. */
static unsigned write_map(struct asf *a, const struct json_value *map)
{
    struct json_value path, number;
    int64_t n;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(map, "path", &path) || path.type != JSON_STRING || path.len < ITEM_RUN ||
        !json_member(map, "n", &number) || number.type != JSON_NUMBER || !json_integer(&number, &n) || n < 0)
        return 0;
    json_unescape(&path, &text);
    asf_must(&text);
    size_t outer = text.len - ITEM_RUN;
    a->left = a->failed = a->blamed = a->by_rule = false;
    a->culprit.len = a->raw.len = 0;
    struct join *join = joins_open(&a->joins, text.data, text.len, outer ? outer - 1 : 0, &a->error);
    if (!join) /* nobody refuses a write: the action finds the error */
        return CONDITION_HOLDS;
    a->by_map = true;
    a->join_multiple = n;
    join->expected = n;
    append_member(map, "input", &join->input);
    append_member(map, "state", &join->state);
    a->joins.bytes += join->input.len + join->state.len;
    a->error = (struct error){0};
    unsigned outcome = settle(a, join);
    /* nobody refuses a write: the action finds the error */
    return outcome & CONDITION_REFUSES ? CONDITION_HOLDS | CONDITION_CHANGED : outcome;
}

static unsigned write_join(void *state, const struct json_value *write)
{
    struct asf *a = state;
    struct json_value map;
    free(a->answer.text); /* of an event that is over: nothing to put back */
    a->answer = (struct answer){0};
    if (json_member(write, "map", &map) && map.type == JSON_OBJECT)
        return write_map(state, &map);
    if (json_member(write, "failed", &map) && map.type == JSON_OBJECT)
        return fail_iteration(state, &map);
    return asf_write_answer(state, write);
}

static enum decision_kind explain_join(const void *state, int64_t ret_operands[2])
{
    const struct asf *a = state;
    if (a->join_multiple < 0)
        return DECISION_PLAIN;
    ret_operands[0] = a->counter;
    ret_operands[1] = a->join_multiple;
    return DECISION_JOIN;
}

static const char *const join_members[] = {"counter", "join_multiple", "by_map", "result",
                                           "joins",   "answers",       NULL};

const struct condition_type condition_aws_asf_join_statemachine = {
    .name = "AWS_ASF_JOIN_STATEMACHINE",
    .state_size = sizeof(struct asf),
    .members = join_members,
    .counts_keys = true,
    .load = load_join,
    .unload = asf_unload,
    .evaluate = evaluate_join,
    .write = write_join,
    .store = store_join,
    .counted = asf_counted,
    .why_refused = asf_why_refused,
    .refused = asf_refused,
    .activations = asf_activations,
    .explain = explain_join,
};
