#include "worker/states/state.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "common/jsonpath.h"
#include "worker/states/evaluation.h"
#include "worker/states/fail.h"
#include "worker/states/path.h"
#include "worker/states/payload.h"
#include "worker/states/wait.h"

/* A path that may be null. */
struct optional_path {
    struct path *path; /* NULL: all of it */
    bool null;
};

/* Paths to numbers that bound a state. The bounds themselves are not this module's, but what they lead to is
 * checked when the state is entered. */
enum { LIMIT_TIMEOUT, LIMIT_HEARTBEAT, LIMIT_CONCURRENCY, LIMIT_FAILURES, LIMIT_FAILURES_PERCENT, LIMITS };
static const struct {
    const char *member;
    bool whole;
    int least;
    int most; /* 0: none */
} limits[LIMITS] = {
    [LIMIT_TIMEOUT] = {"TimeoutSecondsPath", true, 1, 0},
    [LIMIT_HEARTBEAT] = {"HeartbeatSecondsPath", true, 1, 0},
    [LIMIT_CONCURRENCY] = {"MaxConcurrencyPath", true, 0, 0},
    [LIMIT_FAILURES] = {"ToleratedFailureCountPath", true, 0, 0},
    [LIMIT_FAILURES_PERCENT] = {"ToleratedFailurePercentagePath", false, 0, 100},
};

struct state {
    enum state_kind kind;
    struct optional_path input, output;
    struct path *items;
    struct path *limits[LIMITS];
    struct payload *parameters;
    struct payload *item_selector;
    struct payload *result_selector;
    struct jsonpath *result_path; /* NULL: $ */
    bool discards;                /* ResultPath null */
    struct json_value result;     /* type JSON_ABSENT: none */
    char *text;                   /* that the result borrows */
    char *resource;
    struct fail *fail;
    struct wait *wait;
    uint64_t timeout_ns; /* TimeoutSeconds; 0: none */
    bool catches;
};

static const struct json_value empty = {.text = "{}", .len = 2, .type = JSON_OBJECT};

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

void state_free(struct state *state)
{
    if (!state)
        return;
    path_free(state->input.path);
    path_free(state->output.path);
    path_free(state->items);
    for (int i = 0; i < LIMITS; i++)
        path_free(state->limits[i]);
    payload_free(state->parameters);
    payload_free(state->item_selector);
    payload_free(state->result_selector);
    jsonpath_free(state->result_path);
    fail_free(state->fail);
    wait_free(state->wait);
    free(state->resource);
    free(state->text);
    free(state);
}

/* --- loading --- */

static bool is_json_string(const struct json_value *value, const char *text)
{
    return json_equals(value, text, strlen(text));
}

static int load_path(const struct json_value *document, const char *member, struct optional_path *ret_path,
                     struct error *err)
{
    struct json_value value;
    if (!json_member(document, member, &value))
        return 0;
    if (value.type == JSON_NULL) {
        ret_path->null = true;
        return 0;
    }
    if (path_load(&value, &ret_path->path, err) < 0)
        return error_prefix(err, "%s", member);
    return 0;
}

static int load_payload(const struct json_value *document, const char *member, struct payload **ret_payload,
                        struct error *err)
{
    struct json_value value;
    if (!json_member(document, member, &value))
        return 0;
    if (payload_load(&value, ret_payload, err) < 0)
        return error_prefix(err, "%s", member);
    return 0;
}

static int load_result_path(struct state *s, const struct json_value *document, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!json_member(document, "ResultPath", &value))
        return 0;
    s->discards = value.type == JSON_NULL;
    if (s->discards)
        return 0;
    if (value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "ResultPath is %s, not a string", json_type_name(value.type));
    json_unescape(&value, &text);
    if (text.failed)
        return no_memory(err);
    if (jsonpath_parse(buffer_text(&text), text.len, &s->result_path, err) < 0)
        return error_prefix(err, "ResultPath");
    if (!jsonpath_is_reference(s->result_path))
        return error_set(err, ERROR_INVALID,
                         "ResultPath %.100s is not a reference path (names and indices only)",
                         buffer_text(&text));
    return 0;
}

static int load_texts(struct state *s, const struct json_value *document, struct error *err)
{
    struct json_value value;
    BUFFER_AUTO resource = BUFFER_INIT;
    size_t len;
    if (json_member(document, "Resource", &value)) {
        if (value.type != JSON_STRING)
            return error_set(err, ERROR_INVALID, "Resource is %s, not a string", json_type_name(value.type));
        json_unescape(&value, &resource);
    }
    s->resource = strdup(buffer_text(&resource));
    if (!s->resource || resource.failed)
        return no_memory(err);
    if (s->kind != STATE_PASS || !json_member(document, "Result", &value))
        return 0;
    const char *raw = json_raw(&value, &len);
    s->text = strndup(raw, len);
    return s->text ? json_scan(s->text, len, &s->result, err) : no_memory(err);
}

static int refuse(const struct json_value *document, struct error *err)
{
    struct json_value value;
    if (json_member(document, "QueryLanguage", &value) && !is_json_string(&value, "JSONPath"))
        return error_set(err, ERROR_INVALID, "QueryLanguage: only JSONPath is supported");
    if (json_member(document, "Assign", &value))
        return error_set(err, ERROR_INVALID, "Assign: variables are not supported");
    return 0;
}

static int load_limits(struct state *s, const struct json_value *document, struct error *err)
{
    for (int i = 0; i < LIMITS; i++) {
        struct optional_path path = {0};
        if (load_path(document, limits[i].member, &path, err) < 0)
            return -1;
        s->limits[i] = path.path;
    }
    return 0;
}

/* TimeoutSeconds may have a fraction, which the States Language does not know. */
static int load_times(struct state *s, const struct json_value *document, struct error *err)
{
    struct json_value value;
    s->catches = json_member(document, "Retry", &value) || json_member(document, "Catch", &value);
    if (json_member(document, "TimeoutSeconds", &value)) {
        double seconds = value.type == JSON_NUMBER ? json_double(&value) : 0;
        if (!(seconds > 0 && seconds <= WAIT_SECONDS_MAX))
            return error_set(err, ERROR_INVALID, "TimeoutSeconds is %.*s, not a number from 1 to %d",
                             (int)(value.len < 60 ? value.len : 60), value.text, WAIT_SECONDS_MAX);
        s->timeout_ns = (uint64_t)(seconds * (double)CLOCK_S);
    }
    return s->kind == STATE_WAIT ? wait_load(document, &s->wait, err) : 0;
}

static int load(struct state *s, const struct json_value *document, struct error *err)
{
    struct json_value value;
    struct optional_path items = {0};
    if (document->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not an object", json_type_name(document->type));
    if (refuse(document, err) < 0)
        return -1;
    if (json_member(document, "Type", &value) && value.type != JSON_STRING)
        return error_set(err, ERROR_INVALID, "Type is %s, not a string", json_type_name(value.type));
    s->kind = is_json_string(&value, "Map")        ? STATE_MAP
              : is_json_string(&value, "Pass")     ? STATE_PASS
              : is_json_string(&value, "Parallel") ? STATE_PARALLEL
              : is_json_string(&value, "Fail")     ? STATE_FAIL
              : is_json_string(&value, "Wait")     ? STATE_WAIT
                                                   : STATE_OTHER;
    if (load_path(document, "InputPath", &s->input, err) < 0 ||
        load_path(document, "OutputPath", &s->output, err) < 0 ||
        load_payload(document, "Parameters", s->kind == STATE_MAP ? &s->item_selector : &s->parameters, err) <
            0 ||
        load_payload(document, "ResultSelector", &s->result_selector, err) < 0 ||
        load_result_path(s, document, err) < 0 || load_texts(s, document, err) < 0 ||
        load_limits(s, document, err) < 0 || load_times(s, document, err) < 0)
        return -1;
    if (s->kind == STATE_FAIL && fail_load(document, &s->fail, err) < 0)
        return -1;
    if (s->kind != STATE_MAP)
        return 0;
    if (json_member(document, "ItemSelector", &value) && s->item_selector)
        return error_set(err, ERROR_INVALID, "both ItemSelector and Parameters");
    if (load_payload(document, "ItemSelector", &s->item_selector, err) < 0 ||
        load_path(document, "ItemsPath", &items, err) < 0)
        return -1;
    s->items = items.path;
    return items.null ? error_set(err, ERROR_INVALID, "ItemsPath is null") : 0;
}

int state_load(const struct json_value *document, struct state **ret_state, struct error *err)
{
    struct state *s = calloc(1, sizeof *s);
    if (!s)
        return no_memory(err);
    if (load(s, document, err) < 0) {
        state_free(s);
        return -1;
    }
    *ret_state = s;
    return 0;
}

enum state_kind state_kind(const struct state *state)
{
    return state->kind;
}

bool state_shapes_result(const struct state *state)
{
    return state->result_selector || state_keeps_input(state) || state->output.path || state->output.null;
}

bool state_keeps_input(const struct state *state)
{
    return state->discards || (state->result_path && strcmp(jsonpath_text(state->result_path), "$") != 0);
}

bool state_catches(const struct state *state)
{
    return state->catches;
}

const char *state_resource(const struct state *state)
{
    return state->resource;
}

bool state_has_parameters(const struct state *state)
{
    return state->parameters != NULL;
}

/* --- evaluating --- */

static int failed(struct error *err, const char *name)
{
    if (err && err->code != ERROR_MEMORY)
        err->code = ERROR_INVALID;
    return err && err->code == ERROR_MEMORY ? -1 : error_prefix(err, "%s", name);
}

static int bounded(const struct json_value *value, const char *what, struct error *err)
{
    if (value->len <= EVALUATION_DATA_MAX)
        return 0;
    error_set(err, ERROR_INVALID, "the %s has %zu bytes, more than %d", what, value->len,
              EVALUATION_DATA_MAX);
    return failed(err, "States.DataLimitExceeded");
}

static int follow(const struct optional_path *path, struct evaluation *ev, const struct json_value *from,
                  const char *member, struct json_value *ret_value, struct error *err)
{
    struct json_value before = ev->input;
    *ret_value = path->null ? empty : *from;
    if (!path->path)
        return 0;
    ev->input = *from;
    int r = path_read(path->path, ev, ret_value, err);
    ev->input = before;
    if (r < 0) {
        error_prefix(err, "%s", member);
        return failed(err, "States.Runtime");
    }
    return 0;
}

static int fill(const struct payload *payload, struct evaluation *ev, const struct json_value *from,
                const char *member, struct json_value *ret_value, struct error *err)
{
    struct json_value before = ev->input;
    ev->input = *from;
    int r = payload_evaluate(payload, ev, ret_value, err);
    ev->input = before;
    if (r < 0) {
        error_prefix(err, "%s", member);
        return failed(err, "States.Runtime");
    }
    return 0;
}

static int check_limits(const struct state *state, struct evaluation *ev, const struct json_value *from,
                        struct error *err)
{
    for (int i = 0; i < LIMITS; i++) {
        struct optional_path path = {.path = state->limits[i]};
        struct json_value value;
        int64_t whole;
        if (!path.path)
            continue;
        if (follow(&path, ev, from, limits[i].member, &value, err) < 0)
            return -1;
        bool number = value.type == JSON_NUMBER && (!limits[i].whole || json_integer(&value, &whole));
        double amount = number ? json_double(&value) : 0;
        if (number && amount >= limits[i].least && (!limits[i].most || amount <= limits[i].most))
            continue;
        size_t len;
        const char *raw = json_raw(&value, &len);
        error_set(err, ERROR_INVALID, "%s %s leads to %.*s, which is not such a number", limits[i].member,
                  path_text(path.path), (int)(len < 60 ? len : 60), raw);
        return failed(err, "States.Runtime");
    }
    return 0;
}

int state_enter(const struct state *state, struct evaluation *evaluation, struct json_value *ret_input,
                struct error *err)
{
    struct json_value raw = evaluation->input;
    struct json_value input;
    if (follow(&state->input, evaluation, &raw, "InputPath", &input, err) < 0 ||
        check_limits(state, evaluation, &input, err) < 0)
        return -1;
    if (!state->parameters) {
        *ret_input = input;
        return 0;
    }
    if (fill(state->parameters, evaluation, &input, "Parameters", ret_input, err) < 0)
        return -1;
    return bounded(ret_input, "input", err);
}

int state_leave(const struct state *state, struct evaluation *evaluation, const struct json_value *result,
                struct json_value *ret_output, struct error *err)
{
    struct json_value raw = evaluation->input;
    struct json_value value = *result;
    if (bounded(result, "result", err) < 0)
        return -1;
    if (state->result_selector && state->kind != STATE_PASS &&
        fill(state->result_selector, evaluation, result, "ResultSelector", &value, err) < 0)
        return -1;
    if (state->discards)
        value = raw;
    else if (state->result_path && jsonpath_put(state->result_path, &raw, &value, &evaluation->pool,
                                                &evaluation->steps, &value, err) < 0) {
        error_prefix(err, "ResultPath");
        return failed(err, "States.ResultPathMatchFailure");
    }
    if (follow(&state->output, evaluation, &value, "OutputPath", ret_output, err) < 0)
        return -1;
    return bounded(ret_output, "output", err);
}

int state_pass(const struct state *state, struct evaluation *evaluation, struct json_value *ret_output,
               struct error *err)
{
    struct json_value result;
    if (state_enter(state, evaluation, &result, err) < 0)
        return -1;
    if (state->result.type != JSON_ABSENT)
        result = state->result;
    return state_leave(state, evaluation, &result, ret_output, err);
}

void state_write_shape(const struct json_value *document, struct buffer *out)
{
    static const char *const members[] = {"Type", "ResultSelector", "ResultPath", "OutputPath"};
    struct json_value value;
    size_t len;
    const char *comma = "";
    buffer_append_char(out, '{');
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        if (!json_member(document, members[i], &value))
            continue;
        const char *raw = json_raw(&value, &len);
        buffer_printf(out, "%s\"%s\":", comma, members[i]);
        buffer_append(out, raw, len);
        comma = ",";
    }
    buffer_append_char(out, '}');
}

int state_fail(const struct state *state, struct evaluation *evaluation, struct failure *ret_failure,
               struct error *err)
{
    return fail_evaluate(state->fail, evaluation, ret_failure, err) < 0 ? failed(err, "States.Runtime") : 0;
}

int state_wait(const struct state *state, struct evaluation *evaluation, uint64_t now, uint64_t *ret_until,
               struct error *err)
{
    struct json_value raw = evaluation->input;
    struct json_value input;
    if (follow(&state->input, evaluation, &raw, "InputPath", &input, err) < 0)
        return -1;
    evaluation->input = input;
    int r = wait_until(state->wait, evaluation, now, ret_until, err);
    evaluation->input = raw;
    return r < 0 ? failed(err, "States.Runtime") : 0;
}

int state_timeout(const struct state *state, struct evaluation *evaluation, uint64_t *ret_ns,
                  struct error *err)
{
    struct optional_path path = {.path = state->limits[LIMIT_TIMEOUT]};
    struct json_value raw = evaluation->input;
    struct json_value input, value;
    *ret_ns = state->timeout_ns;
    if (!path.path)
        return 0;
    if (follow(&state->input, evaluation, &raw, "InputPath", &input, err) < 0 ||
        check_limits(state, evaluation, &input, err) < 0 ||
        follow(&path, evaluation, &input, "TimeoutSecondsPath", &value, err) < 0)
        return -1;
    double seconds = json_double(&value);
    *ret_ns = (uint64_t)((seconds < WAIT_SECONDS_MAX ? seconds : WAIT_SECONDS_MAX) * (double)CLOCK_S);
    return 0;
}

int state_items(const struct state *state, struct evaluation *evaluation, struct json_value *ret_items,
                struct error *err)
{
    struct json_value raw = evaluation->input;
    struct json_value input, items;
    struct optional_path path = {.path = state->items};
    if (follow(&state->input, evaluation, &raw, "InputPath", &input, err) < 0 ||
        check_limits(state, evaluation, &input, err) < 0 ||
        follow(&path, evaluation, &input, "ItemsPath", &items, err) < 0)
        return -1;
    if (items.type != JSON_ARRAY) {
        error_set(err, ERROR_INVALID, "ItemsPath %s leads to %s, not to an array",
                  state->items ? path_text(state->items) : "$", json_type_name(items.type));
        return failed(err, "States.Runtime");
    }
    if (bounded(&items, "items", err) < 0)
        return -1;
    *ret_items = items;
    return 0;
}

int state_item(const struct state *state, struct evaluation *evaluation, const struct json_value *item,
               struct json_value *ret_input, struct error *err)
{
    struct json_value raw = evaluation->input;
    struct json_value input;
    *ret_input = *item;
    if (!state->item_selector)
        return 0;
    if (follow(&state->input, evaluation, &raw, "InputPath", &input, err) < 0 ||
        fill(state->item_selector, evaluation, &input, "ItemSelector", ret_input, err) < 0)
        return -1;
    return bounded(ret_input, "input", err);
}
