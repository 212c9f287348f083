/* DAG_TASK_JOIN: holds when every task that this one depends on has terminated as often as it was started.
 *
 * Context: `dependencies`, an object {task: {"join", "counter"}}, and `result`, the data of all counted
 * events in the order of their arrival. `join` is told by the upstream task's firing (worker/shard/write.h),
 * before it starts anything; until then it is -1, not known, and events that arrive early are only counted.
 * The condition comes to hold once, by an event or by a write: when the last dependency is met. If tasks are
 * started again later (`join` grows), it may come to hold again.
 *
 * Writes, of which those that name no task of this one's mean nothing:
 *     {"task":T,"started":N}  join becomes N, or grows by N when it is above zero
 *     {"task":T,"failed":N}   N of them could not be started: join shrinks, and `failed` beside it grows; a
 *                             task of which all have failed has not terminated
 *     {"task":T,"again":N}    so many are tried again: what had failed of them is expected as before */
#include "worker/condition/condition.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/condition/started.h"

#define RESULT_MAX_BYTES (128u << 20) /* of all data */

struct dependency {
    char *task;
    size_t len;
    struct expected join;
    int64_t counter;
};

struct dag_join {
    struct dependency *dependencies; /* as they stand in the context */
    struct dependency **sorted;      /* by task */
    size_t n;
    size_t n_unmet;
    struct buffer result; /* the array's elements, separated by commas */
    bool has_total;       /* the context has total_activations */
    struct expected total;
};

static int compare_names(const char *a, size_t a_len, const char *b, size_t b_len)
{
    if (a_len != b_len)
        return a_len < b_len ? -1 : 1;
    return memcmp(a, b, a_len);
}

static int compare(const void *a, const void *b)
{
    const struct dependency *x = *(struct dependency *const *)a;
    const struct dependency *y = *(struct dependency *const *)b;
    return compare_names(x->task, x->len, y->task, y->len);
}

static struct dependency *find(const struct dag_join *j, const char *task, size_t len)
{
    size_t low = 0;
    size_t high = j->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        struct dependency *d = j->sorted[middle];
        int c = compare_names(task, len, d->task, d->len);
        if (!c)
            return d;
        if (c < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static bool met(const struct dependency *d)
{
    return expected_met(&d->join, d->counter);
}

static void unload(void *state)
{
    struct dag_join *j = state;
    for (size_t i = 0; i < j->n; i++)
        free(j->dependencies[i].task);
    free(j->dependencies);
    free(j->sorted);
    buffer_done(&j->result);
    *j = (struct dag_join){0};
}

/* --- the context --- */

static int wrong(const char *task, size_t len, const char *member, const struct json_value *value,
                 const char *wanted, struct error *err)
{
    size_t raw_len;
    const char *raw = json_raw(value, &raw_len);
    return error_set(err, ERROR_INVALID, "context.dependencies.%.*s%s%s is %.*s, not %s",
                     (int)(len < 80 ? len : 80), task, *member ? "." : "", member,
                     (int)(raw_len < 80 ? raw_len : 80), raw, wanted);
}

static int load_count(const struct json_value *object, struct dependency *d, const char *member,
                      int64_t least, int64_t *value, struct error *err)
{
    struct json_value given;
    *value = least;
    if (!json_member(object, member, &given) || given.type == JSON_NULL)
        return 0;
    if (given.type != JSON_NUMBER || !json_integer(&given, value) || *value < least || *value > STARTED_MAX)
        return wrong(d->task, d->len, member, &given,
                     least < 0 ? "a whole number from -1" : "a whole number from 0", err);
    return 0;
}

static int load_dependency(struct dag_join *j, const struct json_value *name, const struct json_value *value,
                           struct error *err)
{
    BUFFER_AUTO task = BUFFER_INIT;
    struct dependency *grown = j->dependencies;
    if (!(j->n & (j->n - 1)))
        grown = realloc(grown, (j->n ? j->n * 2 : 1) * sizeof *grown);
    if (grown)
        j->dependencies = grown;
    json_unescape(name, &task);
    struct dependency d = {.task = strndup(task.data ? task.data : "", task.len), .len = task.len};
    if (!grown || task.failed || !d.task) {
        free(d.task);
        return error_set(err, ERROR_MEMORY, "out of memory");
    }
    int r = 0;
    if (value->type != JSON_OBJECT)
        r = wrong(d.task, d.len, "", value, "an object", err);
    if (r || load_count(value, &d, "join", STARTED_UNKNOWN, &d.join.n, err) < 0 ||
        load_count(value, &d, "failed", 0, &d.join.failed, err) < 0 ||
        load_count(value, &d, "counter", 0, &d.counter, err) < 0) {
        free(d.task);
        return -1;
    }
    j->dependencies[j->n++] = d;
    return 0;
}

static int load_dependencies(struct dag_join *j, const struct json_value *context, struct error *err)
{
    struct json_value object, name, value;
    struct json_iter iter;
    if (!json_member(context, "dependencies", &object) || object.type == JSON_NULL)
        return 0;
    if (object.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "context.dependencies is %s, not an object",
                         json_type_name(object.type));
    json_iter_init(&iter, &object);
    while (json_next(&iter, &name, &value))
        if (load_dependency(j, &name, &value, err) < 0)
            return -1;
    j->sorted = malloc((j->n + 1) * sizeof(struct dependency *));
    if (!j->sorted)
        return error_set(err, ERROR_MEMORY, "out of memory");
    for (size_t i = 0; i < j->n; i++) {
        j->sorted[i] = &j->dependencies[i];
        j->n_unmet += !met(&j->dependencies[i]);
    }
    qsort(j->sorted, j->n, sizeof *j->sorted, compare);
    for (size_t i = 1; i < j->n; i++)
        if (!compare(&j->sorted[i - 1], &j->sorted[i]))
            return error_set(err, ERROR_INVALID, "context.dependencies has %.*s twice",
                             (int)(j->sorted[i]->len < 80 ? j->sorted[i]->len : 80), j->sorted[i]->task);
    return 0;
}

static int load_result(struct dag_join *j, const struct json_value *context, struct error *err)
{
    struct json_value array, name, value;
    struct json_iter iter;
    if (!json_member(context, "result", &array) || array.type == JSON_NULL)
        return 0;
    if (array.type != JSON_ARRAY)
        return error_set(err, ERROR_INVALID, "context.result is %s, not an array",
                         json_type_name(array.type));
    json_iter_init(&iter, &array);
    while (json_next(&iter, &name, &value)) {
        size_t len;
        const char *raw = json_raw(&value, &len);
        if (j->result.len)
            buffer_append_char(&j->result, ',');
        buffer_append(&j->result, raw, len);
    }
    return j->result.failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

static int load(void *state, const struct json_value *context, struct error *err)
{
    struct dag_join *j = state;
    struct json_value value;
    *j = (struct dag_join){.total = {.n = STARTED_UNKNOWN}};
    if (load_dependencies(j, context, err) < 0 || load_result(j, context, err) < 0) {
        unload(j);
        return -1;
    }
    j->has_total = json_member(context, "total_activations", &value);
    if (j->has_total && value.type == JSON_NUMBER && !json_integer(&value, &j->total.n))
        j->total.n = STARTED_UNKNOWN;
    return 0;
}

static void store(const void *state, struct buffer *out)
{
    const struct dag_join *j = state;
    buffer_append_text(out, "\"dependencies\":{");
    for (size_t i = 0; i < j->n; i++) {
        const struct dependency *d = &j->dependencies[i];
        if (i)
            buffer_append_char(out, ',');
        buffer_append_json(out, d->task, d->len);
        buffer_printf(out, ":{\"join\":%lld,\"counter\":%lld", (long long)d->join.n, (long long)d->counter);
        if (d->join.failed)
            buffer_printf(out, ",\"failed\":%lld", (long long)d->join.failed);
        buffer_append_char(out, '}');
    }
    buffer_append_text(out, "},\"result\":[");
    buffer_append(out, j->result.data, j->result.len);
    buffer_append_char(out, ']');
    if (j->has_total)
        buffer_printf(out, ",\"total_activations\":%lld", (long long)j->total.n);
}

static bool counted(const void *state)
{
    const struct dag_join *j = state;
    for (size_t i = 0; i < j->n; i++)
        if (j->dependencies[i].counter > 0)
            return true;
    return false;
}

/* --- events and writes --- */

/* Outcome of a change to a dependency that was met or not before. */
static unsigned settle(struct dag_join *j, const struct dependency *d, bool was_met)
{
    bool is_met = met(d);
    if (is_met == was_met)
        return CONDITION_CHANGED;
    j->n_unmet += was_met ? 1 : (size_t)-1;
    return j->n_unmet ? CONDITION_CHANGED : CONDITION_CHANGED | CONDITION_HOLDS;
}

static void add_result(struct dag_join *j, const struct cloudevent *event)
{
    if (event->data == CE_DATA_ABSENT)
        return;
    if (j->result.len)
        buffer_append_char(&j->result, ',');
    cloudevent_data_json(event, &j->result);
    if (j->result.failed)
        abort(); /* a result would be lost: start again from the last checkpoint */
}

static unsigned evaluate(void *state, const struct cloudevent *event)
{
    struct dag_join *j = state;
    const struct cloudevent_span *subject = &event->attribute[CE_SUBJECT];
    if (!j->n)
        return CONDITION_HOLDS;
    struct dependency *d = find(j, subject->text ? subject->text : "", subject->len);
    if (!d)
        return 0;
    if (j->result.len + event->attribute[CE_DATA].len > RESULT_MAX_BYTES)
        return CONDITION_REFUSES;
    bool was_met = met(d);
    if (d->counter < STARTED_MAX)
        d->counter++;
    add_result(j, event);
    return settle(j, d, was_met);
}

static unsigned write(void *state, const struct json_value *write)
{
    struct dag_join *j = state;
    struct started started;
    BUFFER_AUTO task = BUFFER_INIT;
    if (!started_read(write, &started, &task))
        return 0;
    struct dependency *d = find(j, task.data ? task.data : "", task.len);
    if (task.failed)
        abort(); /* cannot know whose it is: start again from the last checkpoint */
    unsigned outcome = 0;
    if (j->has_total) {
        started_apply(&started, &j->total);
        outcome = CONDITION_CHANGED;
    }
    if (!d)
        return outcome;
    bool was_met = met(d);
    started_apply(&started, &d->join);
    return settle(j, d, was_met);
}

static enum decision_kind explain(const void *state, int64_t ret_operands[2])
{
    const struct dag_join *j = state;
    ret_operands[0] = (int64_t)(j->n - j->n_unmet);
    ret_operands[1] = (int64_t)j->n;
    return DECISION_DEPENDENCIES;
}

static const char *const members[] = {"dependencies", "result", "total_activations", NULL};

extern const struct condition_type condition_dag_task_join;
const struct condition_type condition_dag_task_join = {
    .name = "DAG_TASK_JOIN",
    .state_size = sizeof(struct dag_join),
    .members = members,
    .counts_keys = true,
    .load = load,
    .unload = unload,
    .evaluate = evaluate,
    .write = write,
    .store = store,
    .counted = counted,
    .refusal = "the results in its context would be longer than 128 MiB",
    .explain = explain,
};
