#include "tests/support/dag.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "common/buffer.h"
#include "tests/support/function_server.h"
#include "tests/support/redis_server.h"
#include "tests/support/workspace.h"

#define SUCCESS "event.triggerflow.termination.success"

struct dag *dag_new(void)
{
    struct dag *dag = calloc(1, sizeof *dag);
    assert_non_null(dag);
    return dag;
}

void dag_free(struct dag *dag)
{
    if (!dag)
        return;
    for (size_t i = 0; i < dag->n; i++) {
        free(dag->tasks[i].id);
        free(dag->tasks[i].upstream);
    }
    free(dag->tasks);
    free(dag);
}

static struct dag_task *find(const struct dag *dag, const char *id)
{
    for (size_t i = 0; i < dag->n; i++)
        if (!strcmp(dag->tasks[i].id, id))
            return &dag->tasks[i];
    return NULL;
}

static struct dag_task *obtain(struct dag *dag, const char *id)
{
    struct dag_task *task = find(dag, id);
    if (task)
        return task;
    assert_non_null(dag->tasks = realloc(dag->tasks, (dag->n + 1) * sizeof *dag->tasks));
    dag->tasks[dag->n] = (struct dag_task){.id = strdup(id), .is_final = true};
    assert_non_null(dag->tasks[dag->n].id);
    return &dag->tasks[dag->n++];
}

static void depend(struct dag *dag, struct dag_task *task, const char *on)
{
    struct dag_task *upstream = find(dag, on);
    if (!upstream)
        fail_msg("no task %s", on);
    size_t index = (size_t)(upstream - dag->tasks);
    for (size_t i = 0; i < task->n_upstream; i++)
        if (task->upstream[i] == index)
            return;
    task->upstream = realloc(task->upstream, (task->n_upstream + 1) * sizeof *task->upstream);
    assert_non_null(task->upstream);
    task->upstream[task->n_upstream++] = index;
    upstream->is_final = false;
}

void dag_add(struct dag *dag, const char *id, unsigned n, const char *upstream)
{
    char names[256];
    struct dag_task *task = obtain(dag, id);
    task->n = n;
    snprintf(names, sizeof names, "%s", upstream);
    for (char *save = NULL, *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save))
        depend(dag, task, name);
}

size_t dag_invocations(const struct dag *dag)
{
    size_t n = 0;
    for (size_t i = 0; i < dag->n; i++)
        n += dag->tasks[i].n;
    return n;
}

/* --- the conformance data --- */

/* Without what is behind the slash. */
static const char *task_of(struct json_object *id)
{
    static char name[256];
    snprintf(name, sizeof name, "%s", json_object_get_string(id));
    name[strcspn(name, "/")] = '\0';
    return name;
}

static struct json_object *member(struct json_object *object, const char *name)
{
    struct json_object *value = NULL;
    assert_true(json_object_object_get_ex(object, name, &value));
    return value;
}

struct dag *dag_read(const char *name)
{
    const char *folder = getenv("TRIGGERFLOW_CONFORMANCE_DIR");
    char path[512];
    snprintf(path, sizeof path, "%s/wf/%s.json", folder && *folder ? folder : "../shared/conformance", name);
    struct json_object *root = json_object_from_file(path);
    if (!root) {
        printf("skipped: no %s\n", path);
        return NULL;
    }
    struct dag *dag = dag_new();
    struct json_object *tasks = member(root, "tasks");
    size_t n = json_object_array_length(tasks);
    for (size_t i = 0; i < n; i++)
        obtain(dag, task_of(member(json_object_array_get_idx(tasks, i), "id")))->n++;
    for (size_t i = 0; i < n; i++) {
        struct json_object *task = json_object_array_get_idx(tasks, i);
        struct json_object *parents = member(task, "parents");
        struct dag_task *of = find(dag, task_of(member(task, "id")));
        for (size_t j = 0; j < json_object_array_length(parents); j++)
            depend(dag, of, task_of(json_object_array_get_idx(parents, j)));
    }
    json_object_put(root);
    return dag;
}

/* --- triggers --- */

const char *dag_function(const struct dag_task *task)
{
    static char name[128];
    snprintf(name, sizeof name, "%s", task->id);
    for (char *at = name; *at; at++)
        if (!isalnum((unsigned char)*at))
            *at = '-';
    return name;
}

static void write_sink(const struct workspace *workspace, const char *stream, struct buffer *out)
{
    buffer_printf(out,
                  "{\"name\":\"sink\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\","
                  "\"port\":%d,\"stream\":\"%s\"}}",
                  workspace->redis->port, stream);
}

static void write_operator(const struct dag_task *task, const struct workspace *workspace,
                           const struct dag_options *options, struct buffer *out)
{
    if (options->dummy) {
        buffer_append_text(out, "null");
        return;
    }
    if (options->lambda) {
        buffer_printf(out, "{\"function_name\":\"%s\",\"endpoint\":\"", dag_function(task));
        function_server_url(options->server, "", out);
    } else {
        buffer_append_text(out, "{\"api_key\":\"user:password\",\"url\":\"");
        function_server_url(options->server, "/api/v1/namespaces/_/actions/", out);
        buffer_append_text(out, dag_function(task));
    }
    buffer_printf(out, "\",\"invoke_kwargs\":{\"task\":\"%s\"},\"iter_data\":{", task->id);
    if (task->n != 1) {
        buffer_append_text(out, "\"value\":[");
        for (unsigned i = 0; i < task->n; i++)
            buffer_printf(out, "%s%u", i ? "," : "", i);
        buffer_append_char(out, ']');
    }
    buffer_append_text(out, "},\"sink\":");
    write_sink(workspace, options->stream, out);
    buffer_printf(out, "%s}", options->more ? options->more : "");
}

static void write_dependency(const struct dag_task *upstream, struct buffer *dependencies,
                             struct buffer *events)
{
    if (dependencies->len > 1)
        buffer_append_char(dependencies, ',');
    buffer_printf(dependencies, "\"%s\":{\"join\":-1,\"counter\":0}", upstream->id);
    if (events->len)
        buffer_append_char(events, ',');
    buffer_printf(events, "{\"type\":\"" SUCCESS "\",\"subject\":\"%s\"}", upstream->id);
}

static void put(const struct workspace *workspace, const char *id, const char *operator, bool initial,
                struct buffer *dependencies, struct buffer *events, const char *action)
{
    BUFFER_AUTO context = BUFFER_INIT;
    buffer_append_char(dependencies, '}');
    buffer_printf(&context, "{\"subject\":\"%s\",\"dependencies\":%s,\"operator\":%s,\"result\":[]}", id,
                  buffer_text(dependencies), operator);
    assert_int_equal(
        workspace_trigger(workspace, id, initial ? "{\"name\":\"TRUE\"}" : "{\"name\":\"DAG_TASK_JOIN\"}",
                          action, buffer_text(&context),
                          initial ? "{\"type\":\"event.triggerflow.init\",\"subject\":\"__init__\"}"
                                  : buffer_text(events),
                          false),
        0);
}

void dag_store(const struct dag *dag, const struct workspace *workspace, const struct dag_options *options)
{
    BUFFER_AUTO end = BUFFER_INIT;
    BUFFER_AUTO end_events = BUFFER_INIT;
    const char *action = options->action   ? options->action
                         : options->dummy  ? "{\"name\":\"DAG_DUMMY_TASK\"}"
                         : options->lambda ? "{\"name\":\"AWS_LAMBDA_INVOKE\"}"
                                           : "{\"name\":\"IBM_CF_INVOKE\"}";
    buffer_append_char(&end, '{');
    for (size_t i = 0; i < dag->n; i++) {
        const struct dag_task *task = &dag->tasks[i];
        BUFFER_AUTO dependencies = BUFFER_INIT;
        BUFFER_AUTO events = BUFFER_INIT;
        BUFFER_AUTO operator= BUFFER_INIT;
        buffer_append_char(&dependencies, '{');
        for (size_t j = 0; j < task->n_upstream; j++)
            write_dependency(&dag->tasks[task->upstream[j]], &dependencies, &events);
        write_operator(task, workspace, options, &operator);
        put(workspace, task->id, buffer_text(&operator), !task->n_upstream, &dependencies, &events, action);
        if (task->is_final)
            write_dependency(task, &end, &end_events);
    }
    put(workspace, "__end__", "null", false, &end, &end_events, "{\"name\":\"TERMINATE\"}");
}

/* --- what it must have come to --- */

static struct json_object *context_of(const struct workspace *workspace, const char *id)
{
    char *text = workspace_get(workspace, "triggers", id);
    assert_non_null(text);
    struct json_object *root = json_tokener_parse(text);
    free(text);
    assert_non_null(root);
    struct json_object *context = json_object_get(member(root, "context"));
    json_object_put(root);
    return context;
}

static void assert_dependency(const char *id, struct json_object *dependencies, const struct dag_task *on,
                              unsigned runs)
{
    struct json_object *d = member(dependencies, on->id);
    int64_t join = json_object_get_int64(member(d, "join"));
    int64_t counter = json_object_get_int64(member(d, "counter"));
    if (join != on->n * runs || counter != join)
        fail_msg("%s waits for %s: %s, of %u", id, on->id, json_object_to_json_string(d), on->n * runs);
}

static void assert_results(const char *id, struct json_object *context, size_t expected)
{
    size_t n = json_object_array_length(member(context, "result"));
    if (n != expected)
        fail_msg("%s has %zu results, not %zu", id, n, expected);
}

void dag_assert_contexts(const struct dag *dag, const struct workspace *workspace, unsigned runs,
                         bool results)
{
    size_t at_end = 0;
    struct json_object *end = context_of(workspace, "__end__");
    for (size_t i = 0; i < dag->n; i++) {
        const struct dag_task *task = &dag->tasks[i];
        struct json_object *context = context_of(workspace, task->id);
        size_t expected = 0;
        for (size_t j = 0; j < task->n_upstream; j++) {
            const struct dag_task *on = &dag->tasks[task->upstream[j]];
            assert_dependency(task->id, member(context, "dependencies"), on, runs);
            expected += on->n * runs;
        }
        assert_results(task->id, context, results ? expected : 0);
        if (task->is_final) {
            assert_dependency("__end__", member(end, "dependencies"), task, runs);
            at_end += task->n * runs;
        }
        json_object_put(context);
    }
    assert_results("__end__", end, results ? at_end : 0);
    json_object_put(end);
}

void dag_assert_starts(const struct dag *dag, struct function_server *server, unsigned runs, bool crashes)
{
    for (size_t i = 0; i < dag->n; i++) {
        const struct dag_task *task = &dag->tasks[i];
        uint64_t starts = function_server_starts(server, dag_function(task), task->id, NULL);
        uint64_t keys = function_server_keys(server, dag_function(task), task->id);
        uint64_t wanted = (uint64_t)task->n * runs;
        if (keys != wanted || (crashes ? starts < wanted : starts != wanted))
            fail_msg("%s was started %llu times under %llu keys, not %llu", task->id,
                     (unsigned long long)starts, (unsigned long long)keys, (unsigned long long)wanted);
    }
    assert_int_equal(function_server_strayed_keys(server), 0);
}
