/* See validate.h. */
#include "cli/validate.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/storage/storage.h"
#include "cli/definition.h"
#include "cli/manifest.h"
#include "cli/output.h"

#define SHOWN_MAX 100
#define SOURCES_MAX 31u /* of a worker */

const char *finding_level_name(enum finding_level level)
{
    static const char *const names[] = {"error", "warning", "note"};
    return names[level];
}

void findings_done(struct findings *findings)
{
    free(findings->list);
    buffer_done(&findings->text);
    *findings = (struct findings)FINDINGS_INIT;
}

static size_t keep_text(struct findings *findings, const char *text)
{
    size_t at = findings->text.len;
    buffer_append(&findings->text, text, strlen(text) + 1);
    return at;
}

void findings_add(struct findings *findings, enum finding_level level, const char *where, const char *format,
                  ...)
{
    char text[512];
    va_list arguments;
    if (findings->counts[level]++ >= FINDINGS_MAX)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (findings->n == findings->cap) {
        size_t cap = findings->cap ? findings->cap * 2 : 16;
        struct finding *grown = realloc(findings->list, cap * sizeof *grown);
        if (!grown) {
            findings->text.failed = true;
            return;
        }
        findings->list = grown;
        findings->cap = cap;
    }
    findings->list[findings->n++] = (struct finding){
        .level = level, .where = keep_text(findings, where), .what = keep_text(findings, text)};
}

/* ---- Names ---- */

static bool listed(const char *const *names, const char *name)
{
    for (; *names; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

static const char *const conditions[] = {"TRUE",
                                         "JOIN",
                                         "FUNCTION_JOIN",
                                         "COUNTER_THRESHOLD",
                                         "DAG_TASK_JOIN",
                                         "AWS_ASF_CONDITION",
                                         "DOCKER",
                                         "AWS_ASF_JOIN_STATEMACHINE",
                                         "DOCKER_IMAGE",
                                         "AWS_ASF_CATCH",
                                         NULL};
static const char *const actions[] = {"PASS",
                                      "TERMINATE",
                                      "EMIT",
                                      "HTTP_INVOKE",
                                      "EXEC",
                                      "IBM_CF_INVOKE",
                                      "AWS_LAMBDA_INVOKE",
                                      "AWS_ASF_PASS",
                                      "AWS_ASF_TASK",
                                      "AWS_ASF_MAP",
                                      "AWS_ASF_END_STATEMACHINE",
                                      "AWS_ASF_CATCH",
                                      "DAG_DUMMY_TASK",
                                      "DAG_TASK_FAILURE_HANDLER",
                                      "DAG_TASK_RETRY_HANDLER",
                                      "THROTTLE_IBMCF_FUNCTION",
                                      "DOCKER",
                                      "DOCKER_IMAGE",
                                      NULL};
static const char *const classes[] = {"HTTPEventSource",     "RedisEventSource", "KafkaEventSource",
                                      "RabbitMQEventSource", "SQSEventSource",   NULL};

static void add_unknown(struct findings *findings, const char *where, const char *what, const char *name,
                        const char *const *names)
{
    BUFFER_AUTO known = BUFFER_INIT;
    for (size_t i = 0; names[i]; i++)
        buffer_printf(&known, "%s%s", i ? ", " : "", names[i]);
    findings_add(findings, FINDING_ERROR, where, "unknown %s %.*s: there are %s", what, SHOWN_MAX, name,
                 buffer_text(&known));
}

/* ---- Structure ---- */

static void check_sources(const struct manifest *m, struct findings *findings)
{
    if (output_length(m->event_sources) > SOURCES_MAX) {
        findings_add(findings, FINDING_ERROR, "event_sources",
                     "there are %zu of them, at most %u are allowed", output_length(m->event_sources),
                     SOURCES_MAX);
        return;
    }
    for (size_t i = 0; i < output_length(m->event_sources); i++) {
        struct json_object *source = json_object_array_get_idx(m->event_sources, i);
        const char *class = output_text(source, "class"), *name = output_text(source, "name");
        char where[SHOWN_MAX + 20];
        snprintf(where, sizeof where, "event source %.*s", SHOWN_MAX, name);
        if (!listed(classes, class))
            add_unknown(findings, where, "class", class, classes);
        for (size_t k = 0; k < i; k++)
            if (strcmp(output_text(json_object_array_get_idx(m->event_sources, k), "name"), name) == 0) {
                findings_add(findings, FINDING_ERROR, where, "the name is given twice");
                break;
            }
    }
}

/* A counter's limit in a trigger's context must be a positive whole number. */
static void check_limit(struct json_object *trigger, const char *where, const char *member, bool needed,
                        struct findings *findings)
{
    struct json_object *value = output_member(output_member(trigger, "context"), member);
    if (!value) {
        if (needed)
            findings_add(findings, FINDING_ERROR, where, "its condition needs context.%s", member);
        return;
    }
    if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 1)
        findings_add(findings, FINDING_ERROR, where, "context.%s is %.*s, not a positive whole number",
                     member, SHOWN_MAX, json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN));
}

static bool activated_by(struct json_object *trigger, const char *subject)
{
    struct json_object *events = output_member(trigger, "activation_events");
    for (size_t i = 0; i < output_length(events); i++) {
        const char *own = output_text(json_object_array_get_idx(events, i), "subject");
        if (strcmp(own, subject) == 0 || strcmp(own, "*") == 0)
            return true;
    }
    return false;
}

/* A task is counted by the subject of the event of its end, which has to come here. */
static void check_dependencies(struct json_object *trigger, const char *where, struct findings *findings)
{
    struct json_object *tasks = output_member(output_member(trigger, "context"), "dependencies");
    struct json_object *events = output_member(trigger, "activation_events");
    if (!json_object_is_type(tasks, json_type_object)) {
        findings_add(findings, FINDING_ERROR, where, "its condition needs context.dependencies, an object");
        return;
    }
    json_object_object_foreach(tasks, task, progress)
    {
        (void)progress;
        if (!activated_by(trigger, task))
            findings_add(findings, FINDING_WARNING, where,
                         "it depends on %.*s, but no event with that subject activates it: it never fires",
                         SHOWN_MAX, task);
    }
    for (size_t i = 0; json_object_object_length(tasks) && i < output_length(events); i++) {
        const char *subject = output_text(json_object_array_get_idx(events, i), "subject");
        if (strcmp(subject, "*") != 0 && !output_member(tasks, subject))
            findings_add(
                findings, FINDING_WARNING, where,
                "it is activated by the subject %.*s, which is not among its dependencies: not counted",
                SHOWN_MAX, subject);
    }
}

static void check_condition(struct json_object *trigger, const char *where, struct findings *findings)
{
    const char *name = output_text(output_member(trigger, "condition"), "name");
    if (!listed(conditions, name))
        add_unknown(findings, where, "condition", name, conditions);
    else if (strcmp(name, "JOIN") == 0)
        check_limit(trigger, where, "join", true, findings);
    else if (strcmp(name, "FUNCTION_JOIN") == 0)
        check_limit(trigger, where, "total_activations", false, findings);
    else if (strcmp(name, "COUNTER_THRESHOLD") == 0)
        check_limit(trigger, where, "threshold", true, findings);
    else if (strcmp(name, "DAG_TASK_JOIN") == 0)
        check_dependencies(trigger, where, findings);
}

static bool has_source(const struct manifest *m, const char *name)
{
    for (size_t i = 0; i < output_length(m->event_sources); i++)
        if (strcmp(output_text(json_object_array_get_idx(m->event_sources, i), "name"), name) == 0)
            return true;
    return false;
}

static void check_emit(const struct manifest *m, struct json_object *action, const char *where,
                       struct findings *findings)
{
    struct json_object *event = output_member(action, "event");
    struct json_object *source = output_member(action, "event_source");
    if (*output_text(event, "type") == '\0')
        findings_add(findings, FINDING_ERROR, where, "EMIT needs event.type");
    if (!json_object_is_type(source, json_type_string) || has_source(m, json_object_get_string(source)))
        return;
    findings_add(findings, m->event_sources ? FINDING_ERROR : FINDING_WARNING, where,
                 "emits to event source %.*s, which this file does not define", SHOWN_MAX,
                 json_object_get_string(source));
}

static void check_action(const struct manifest *m, struct json_object *trigger, const char *where,
                         struct findings *findings)
{
    struct json_object *action = output_member(trigger, "action");
    const char *name = output_text(action, "name");
    if (!listed(actions, name))
        add_unknown(findings, where, "action", name, actions);
    else if (strcmp(name, "EMIT") == 0)
        check_emit(m, action, where, findings);
}

static void check_members(struct json_object *trigger, const char *where, struct findings *findings)
{
    static const char *const known[] = {
        "id",        "condition",      "action",    "context", "activation_events", "uuid", "workspace",
        "timestamp", "context_parser", "transient", NULL};
    json_object_object_foreach(trigger, name, value)
    {
        (void)value;
        if (!listed(known, name))
            findings_add(findings, FINDING_WARNING, where, "member %.*s means nothing to a trigger",
                         SHOWN_MAX, name);
    }
}

static int by_id(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_ids(const struct manifest *m, struct findings *findings)
{
    size_t n = output_length(m->triggers);
    const char **ids = calloc(n + 1, sizeof *ids);
    if (!ids)
        return -1;
    for (size_t i = 0; i < n; i++)
        ids[i] = output_text(json_object_array_get_idx(m->triggers, i), "id");
    qsort(ids, n, sizeof *ids, by_id);
    for (size_t i = 1; i < n; i++) {
        char where[SHOWN_MAX + 20];
        snprintf(where, sizeof where, "trigger %.*s", SHOWN_MAX, ids[i]);
        if (strcmp(ids[i], ids[i - 1]) == 0 && (i < 2 || strcmp(ids[i], ids[i - 2]) != 0))
            findings_add(findings, FINDING_ERROR, where, "the id is given twice");
    }
    free(ids);
    return 0;
}

int validate(const struct manifest *manifest, struct findings *findings)
{
    if (!storage_name_valid(manifest->workspace))
        findings_add(
            findings, FINDING_ERROR, "workspace",
            "%.*s is no workspace's name: letters, digits, dots, dashes and underscores are allowed, "
            "and it is not triggerflow",
            SHOWN_MAX, manifest->workspace);
    for (size_t i = 0; i < output_length(manifest->problems); i++)
        findings_add(findings, FINDING_ERROR, "", "%s",
                     json_object_get_string(json_object_array_get_idx(manifest->problems, i)));
    check_sources(manifest, findings);
    for (size_t i = 0; i < output_length(manifest->triggers); i++) {
        struct json_object *trigger = json_object_array_get_idx(manifest->triggers, i);
        char where[SHOWN_MAX + 20];
        snprintf(where, sizeof where, "trigger %.*s", SHOWN_MAX, output_text(trigger, "id"));
        check_members(trigger, where, findings);
        check_condition(trigger, where, findings);
        check_action(manifest, trigger, where, findings);
    }
    if (check_ids(manifest, findings) < 0)
        return -1;
    /* A part that is missing would make others look unreachable. */
    if (output_length(manifest->problems) == 0 && flow_validate(manifest, findings) < 0)
        return -1;
    return findings->text.failed ? -1 : 0;
}
