/* TRUE and the conditions that count events: JOIN, FUNCTION_JOIN, COUNTER_THRESHOLD. */
#include "worker/condition/condition.h"

#include <stdint.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/condition/started.h"

#define TARGET_UNKNOWN -1 /* may become known later: nothing is reached until then */

#define COUNTER_MAX (INT64_MAX / 2) /* stored: so that it can be counted on */

struct counting {
    int64_t counter;
    int64_t target;
    int64_t failed; /* FUNCTION_JOIN: invocations that are not waited for any more */
    enum json_type
        given; /* FUNCTION_JOIN: the type of total_activations; JSON_ABSENT: the context has none */
};

static const char *const no_members[] = {NULL};
static const char *const counter_member[] = {"counter", NULL};
static const char *const total_members[] = {"counter", "total_activations", "failed_activations", NULL};

/* An absent member is `absent`. */
static int load_integer(const struct json_value *context, const char *name, int64_t absent,
                        int64_t *ret_value, struct error *err)
{
    struct json_value value;
    if (!json_member(context, name, &value) || value.type == JSON_NULL) {
        *ret_value = absent;
        return 0;
    }
    if (value.type == JSON_NUMBER && json_integer(&value, ret_value))
        return 0;
    size_t len;
    const char *raw = json_raw(&value, &len);
    return error_set(err, ERROR_INVALID, "context.%s is %.*s, not a whole number", name,
                     (int)(len < 80 ? len : 80), raw);
}

static int load_counting(struct counting *c, const struct json_value *context, const char *target,
                         bool needed, struct error *err)
{
    if (load_integer(context, "counter", 0, &c->counter, err) < 0 ||
        load_integer(context, target, TARGET_UNKNOWN, &c->target, err) < 0)
        return -1;
    if (c->counter < 0 || c->counter > COUNTER_MAX)
        return error_set(err, ERROR_INVALID, "context.counter is %lld, %s", (long long)c->counter,
                         c->counter < 0 ? "below zero" : "too large");
    struct json_value value;
    if (needed && (!json_member(context, target, &value) || value.type == JSON_NULL))
        return error_set(err, ERROR_INVALID, "context.%s is missing", target);
    return 0;
}

static void store_counting(const void *state, struct buffer *out)
{
    const struct counting *c = state;
    buffer_append_text(out, "\"counter\":");
    buffer_append_u64(out, (uint64_t)c->counter);
}

static void store_function_join(const void *state, struct buffer *out)
{
    const struct counting *c = state;
    store_counting(state, out);
    if (c->given == JSON_NULL)
        buffer_append_text(out, ",\"total_activations\":null");
    else if (c->given == JSON_NUMBER)
        buffer_printf(out, ",\"total_activations\":%lld", (long long)c->target);
    if (c->failed)
        buffer_printf(out, ",\"failed_activations\":%lld", (long long)c->failed);
}

static bool counted(const void *state)
{
    return ((const struct counting *)state)->counter > 0;
}

static enum decision_kind explain(enum decision_kind kind, const void *state, int64_t ret_operands[2])
{
    const struct counting *c = state;
    ret_operands[0] = c->counter;
    ret_operands[1] = c->target;
    return kind;
}

static enum decision_kind explain_join(const void *state, int64_t ret_operands[2])
{
    return explain(DECISION_JOIN, state, ret_operands);
}

static enum decision_kind explain_function_join(const void *state, int64_t ret_operands[2])
{
    return explain(DECISION_TOTAL, state, ret_operands);
}

static enum decision_kind explain_threshold(const void *state, int64_t ret_operands[2])
{
    return explain(DECISION_THRESHOLD, state, ret_operands);
}

static int load_join(void *state, const struct json_value *context, struct error *err)
{
    return load_counting(state, context, "join", true, err);
}

static int load_function_join(void *state, const struct json_value *context, struct error *err)
{
    struct counting *c = state;
    struct json_value value;
    json_member(context, "total_activations", &value);
    c->given = value.type;
    if (load_integer(context, "failed_activations", 0, &c->failed, err) < 0)
        return -1;
    if (c->failed < 0 || c->failed > COUNTER_MAX)
        return error_set(err, ERROR_INVALID, "context.failed_activations is %lld", (long long)c->failed);
    return load_counting(state, context, "total_activations", false, err);
}

static int load_threshold(void *state, const struct json_value *context, struct error *err)
{
    return load_counting(state, context, "threshold", true, err);
}

/* Registration: a target that can be reached. unknown: it may be told later (absent, null, 0 or -1). */
static int check_target(const struct json_value *context, const char *target, bool unknown, struct error *err)
{
    int64_t value;
    struct json_value given;
    if (load_integer(context, target, TARGET_UNKNOWN, &value, err) < 0)
        return -1;
    if (value > 0 || (unknown && value >= TARGET_UNKNOWN))
        return 0;
    json_member(context, target, &given);
    size_t len;
    const char *raw = json_raw(&given, &len);
    return error_set(err, ERROR_INVALID, "context.%s is %.*s, not a positive whole number", target,
                     (int)(len < 80 ? len : 80), raw);
}

static int check_join(const struct json_value *context, struct error *err)
{
    return check_target(context, "join", false, err);
}

static int check_function_join(const struct json_value *context, struct error *err)
{
    return check_target(context, "total_activations", true, err);
}

static int check_threshold(const struct json_value *context, struct error *err)
{
    return check_target(context, "threshold", false, err);
}

/* True once: when the counter passes from below the target to it. */
static unsigned evaluate_join(void *state, const struct cloudevent *event)
{
    (void)event;
    struct counting *c = state;
    return ++c->counter == c->target ? CONDITION_HOLDS | CONDITION_CHANGED : CONDITION_CHANGED;
}

/* The total is told. Those that have come early count: true when they are enough by now. */
static unsigned write_function_join(void *state, const struct json_value *write)
{
    struct counting *c = state;
    struct started started;
    BUFFER_AUTO task = BUFFER_INIT;
    if (!started_read(write, &started, &task))
        return 0;
    struct expected expected = {.n = c->target, .failed = c->failed};
    bool reached = c->target > 0 && c->counter >= c->target;
    started_apply(&started, &expected);
    c->target = expected.n;
    c->failed = expected.failed;
    c->given = JSON_NUMBER;
    bool reaches = (c->target > 0 || started.kind == STARTED) && expected_met(&expected, c->counter);
    return reaches && !reached ? CONDITION_HOLDS | CONDITION_CHANGED : CONDITION_CHANGED;
}

/* True from the target on. */
static unsigned evaluate_threshold(void *state, const struct cloudevent *event)
{
    (void)event;
    struct counting *c = state;
    return ++c->counter >= c->target ? CONDITION_HOLDS | CONDITION_CHANGED : CONDITION_CHANGED;
}

static int load_true(void *state, const struct json_value *context, struct error *err)
{
    (void)state;
    (void)context;
    (void)err;
    return 0;
}

static unsigned evaluate_true(void *state, const struct cloudevent *event)
{
    (void)state;
    (void)event;
    return CONDITION_HOLDS;
}

static void store_true(const void *state, struct buffer *out)
{
    (void)state;
    (void)out;
}

static bool never_counted(const void *state)
{
    (void)state;
    return false;
}

extern const struct condition_type condition_true;
extern const struct condition_type condition_join;
extern const struct condition_type condition_function_join;
extern const struct condition_type condition_counter_threshold;

const struct condition_type condition_true = {
    .name = "TRUE",
    .members = no_members,
    .load = load_true,
    .evaluate = evaluate_true,
    .store = store_true,
    .counted = never_counted,
};
const struct condition_type condition_join = {
    .name = "JOIN",
    .state_size = sizeof(struct counting),
    .members = counter_member,
    .counts_keys = true,
    .load = load_join,
    .evaluate = evaluate_join,
    .store = store_counting,
    .counted = counted,
    .explain = explain_join,
    .check = check_join,
};
const struct condition_type condition_function_join = {
    .name = "FUNCTION_JOIN",
    .state_size = sizeof(struct counting),
    .members = total_members,
    .counts_keys = true,
    .load = load_function_join,
    .evaluate = evaluate_join,
    .write = write_function_join,
    .store = store_function_join,
    .counted = counted,
    .explain = explain_function_join,
    .check = check_function_join,
};
const struct condition_type condition_counter_threshold = {
    .name = "COUNTER_THRESHOLD",
    .state_size = sizeof(struct counting),
    .members = counter_member,
    .load = load_threshold,
    .evaluate = evaluate_threshold,
    .store = store_counting,
    .counted = counted,
    .explain = explain_threshold,
    .check = check_threshold,
};
