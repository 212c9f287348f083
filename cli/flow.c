/* What events make the triggers of a workflow do, as far as its file tells: which trigger can be reached at
 * all, and how often each can fire at most.
 *
 * Triggers are nodes; an edge leads from a trigger that emits an event into the workflow to one that the
 * event activates. An activation event that nothing in the file emits comes from outside, without a bound.
 * The bounds only grow while they are worked out, and one that grows too often (a loop) is taken for endless.
 */
#include "cli/validate.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "cli/manifest.h"
#include "cli/output.h"

#define ENDLESS UINT64_MAX
#define UPDATES_MAX 32
#define COMPARISONS_MAX 200000000ull
#define SHOWN_MAX 100
#define NONE SIZE_MAX

struct activation {
    const char *type;
    size_t type_len;
    const char *subject;
    size_t node;
    size_t next;    /* of the same type; NONE */
    bool supplied;  /* something in the file emits it into the workflow */
    bool elsewhere; /* ... to an event source that is not read */
};

struct emission {
    const char *type;
    size_t type_len;
    const char *subject; /* NULL: that of the event which fired the trigger */
    size_t node;
    bool inside;  /* comes back to the workflow's triggers */
    bool endless; /* any number of events per firing */
    bool below;   /* the subject is what others begin with, before a dot */
    bool heard;
};

struct edge {
    size_t to;
    size_t next; /* of the same node; NONE */
    bool endless;
};

struct node {
    struct json_object *trigger;
    const char *condition;
    size_t first, n_activations;
    size_t edges; /* NONE */
    uint64_t in;
    uint64_t fires;
    unsigned updates;
    bool queued;
};

struct flow {
    const struct manifest *manifest;
    struct findings *findings;
    struct node *nodes;
    size_t n_nodes;
    struct activation *activations;
    size_t n_activations;
    struct emission *emissions;
    size_t n_emissions;
    struct edge *edges;
    size_t n_edges, cap_edges;
    struct hash_table by_type; /* type -> 1 + index of its first activation */
    size_t any_type;           /* first activation with the type *; NONE */
    size_t *stamps;            /* per node: 1 + the emission that last led to it */
    size_t *queue;
    bool open;   /* events come from outside */
    bool failed; /* no memory */
};

static bool wild(const char *text)
{
    return strcmp(text, "*") == 0;
}

static const char *id_of(const struct node *node, char where[SHOWN_MAX + 20])
{
    snprintf(where, SHOWN_MAX + 20, "trigger %.*s", SHOWN_MAX, output_text(node->trigger, "id"));
    return where;
}

long long flow_number(struct json_object *trigger, const char *member, long long fallback)
{
    struct json_object *value = output_member(output_member(trigger, "context"), member);
    return json_object_is_type(value, json_type_int) ? json_object_get_int64(value) : fallback;
}

/* ---- Building it ---- */

static const char done[] = "event.triggerflow.termination.success";
static const char start[] = "__init__"; /* subject of the event that starts a run */

static struct json_object *source_named(const struct flow *flow, const char *name)
{
    for (size_t i = 0; i < output_length(flow->manifest->event_sources); i++) {
        struct json_object *source = json_object_array_get_idx(flow->manifest->event_sources, i);
        if (strcmp(output_text(source, "name"), name) == 0)
            return source;
    }
    return NULL;
}

static bool is_read(struct json_object *source)
{
    struct json_object *consume = output_member(output_member(source, "parameters"), "consume");
    return !json_object_is_type(consume, json_type_boolean) || json_object_get_boolean(consume);
}

static void add_emission(struct flow *flow, struct emission emission)
{
    if (!emission.type || *emission.type == '\0')
        return;
    emission.type_len = strlen(emission.type);
    flow->emissions[flow->n_emissions++] = emission;
}

/* A text of an action that may hold paths: what it will be, when that can be told; NULL when it cannot. */
static const char *told(struct json_object *action, const char *member, const char *otherwise)
{
    struct json_object *value = output_member(action, member);
    if (!json_object_is_type(value, json_type_string))
        return otherwise;
    return strstr(json_object_get_string(value), "${") ? NULL : json_object_get_string(value);
}

/* The answer of a service, or the end of a program. */
static void read_reply(struct flow *flow, size_t index, bool by_default)
{
    struct json_object *trigger = flow->nodes[index].trigger;
    struct json_object *action = output_member(trigger, "action");
    struct json_object *subject = output_member(output_member(trigger, "context"), "subject");
    const char *reply = output_text(action, "reply");
    if (*reply ? strcmp(reply, "event") != 0 : !by_default)
        return;
    const char *own = json_object_is_type(subject, json_type_string) ? json_object_get_string(subject)
                                                                     : output_text(trigger, "id");
    struct emission emission = {.node = index, .inside = true};
    emission.type = told(action, "reply_type", done);
    emission.subject = told(action, "reply_subject", told(action, "subject", own));
    if (emission.type && emission.subject)
        add_emission(flow, emission);
}

/* What a firing of this trigger emits: by itself, or through the function that it invokes. */
static void read_emissions(struct flow *flow, size_t index)
{
    struct json_object *trigger = flow->nodes[index].trigger;
    struct json_object *action = output_member(trigger, "action"),
                       *context = output_member(trigger, "context");
    const char *name = output_text(action, "name");
    struct emission emission = {.node = index, .inside = true};
    if (strcmp(name, "EMIT") == 0) {
        struct json_object *event = output_member(action, "event");
        struct json_object *subject = output_member(event, "subject");
        struct json_object *target = output_member(action, "event_source");
        struct json_object *source = json_object_is_type(target, json_type_string)
                                         ? source_named(flow, json_object_get_string(target))
                                         : NULL;
        emission.type = output_text(event, "type");
        emission.subject = subject ? json_object_get_string(subject) : NULL;
        emission.inside = (!target || (source && is_read(source))) && !output_member(action, "sink");
    } else if (strncmp(name, "AWS_ASF_", 8) == 0) {
        struct json_object *subject = output_member(context, "Subject");
        if (strcmp(output_text(output_member(context, "State"), "Type"), "Fail") == 0)
            return;
        emission.type = "lambda.success";
        emission.subject = output_text(subject ? context : trigger, subject ? "Subject" : "id");
        emission.below = strcmp(name, "AWS_ASF_CATCH") == 0;
        emission.endless = strcmp(name, "AWS_ASF_MAP") == 0 || emission.below;
    } else if (strcmp(name, "DAG_DUMMY_TASK") == 0 || strcmp(name, "IBM_CF_INVOKE") == 0 ||
               strcmp(name, "AWS_LAMBDA_INVOKE") == 0) {
        struct json_object *subject = output_member(context, "subject");
        emission.type = done;
        emission.subject = output_text(subject ? context : trigger, subject ? "subject" : "id");
        emission.endless = name[0] != 'D';
    } else if (strcmp(name, "HTTP_INVOKE") == 0 || strcmp(name, "EXEC") == 0) {
        read_reply(flow, index, name[0] == 'E');
    }
    add_emission(flow, emission);
}

static void read_activations(struct flow *flow, size_t index)
{
    struct node *node = &flow->nodes[index];
    struct json_object *events = output_member(node->trigger, "activation_events");
    node->first = flow->n_activations;
    node->n_activations = output_length(events);
    for (size_t i = 0; i < node->n_activations; i++) {
        struct json_object *event = json_object_array_get_idx(events, i);
        struct activation *a = &flow->activations[flow->n_activations];
        *a = (struct activation){.type = output_text(event, "type"),
                                 .subject = output_text(event, "subject"),
                                 .node = index,
                                 .next = NONE};
        a->type_len = strlen(a->type);
        size_t *head = &flow->any_type, found = NONE;
        if (!wild(a->type)) {
            found = (size_t)(uintptr_t)hash_get(&flow->by_type, a->type, a->type_len) - 1;
            head = &found;
        }
        a->next = *head;
        *head = flow->n_activations++;
        if (!wild(a->type) &&
            hash_put(&flow->by_type, a->type, a->type_len, (void *)(uintptr_t)(found + 1), NULL) < 0)
            flow->failed = true;
    }
}

static void add_edge(struct flow *flow, const struct emission *emission, size_t to)
{
    if (flow->n_edges == flow->cap_edges) {
        size_t cap = flow->cap_edges ? flow->cap_edges * 2 : 64;
        struct edge *grown = realloc(flow->edges, cap * sizeof *grown);
        if (!grown) {
            flow->failed = true;
            return;
        }
        flow->edges = grown;
        flow->cap_edges = cap;
    }
    struct node *from = &flow->nodes[emission->node];
    flow->edges[flow->n_edges] = (struct edge){.to = to, .next = from->edges, .endless = emission->endless};
    from->edges = flow->n_edges++;
}

/* Whether an emission can have this subject; one that takes the firing event's subject has any of those that
 * its trigger is activated by. */
static bool subject_matches(const struct flow *flow, const struct emission *emission, const char *subject)
{
    if (wild(subject))
        return true;
    if (emission->subject && emission->below) {
        size_t len = strlen(emission->subject);
        return strncmp(emission->subject, subject, len) == 0 && subject[len] == '.';
    }
    if (emission->subject)
        return strcmp(emission->subject, subject) == 0;
    const struct node *node = &flow->nodes[emission->node];
    for (size_t i = 0; i < node->n_activations; i++) {
        const char *own = flow->activations[node->first + i].subject;
        if (wild(own) || strcmp(own, subject) == 0)
            return true;
    }
    return false;
}

static void connect_list(struct flow *flow, size_t index, size_t first)
{
    struct emission *emission = &flow->emissions[index];
    for (size_t i = first; i != NONE && !flow->failed; i = flow->activations[i].next) {
        struct activation *a = &flow->activations[i];
        if (!subject_matches(flow, emission, a->subject))
            continue;
        emission->heard = true;
        if (!emission->inside) {
            a->elsewhere = true;
            continue;
        }
        a->supplied = true;
        if (flow->stamps[a->node] == index + 1)
            continue;
        flow->stamps[a->node] = index + 1;
        add_edge(flow, emission, a->node);
    }
}

/* Makes the graph. 0, or 1 when it is too large to be judged. */
static int build(struct flow *flow)
{
    for (size_t i = 0; i < flow->n_nodes; i++) {
        struct node *node = &flow->nodes[i];
        node->trigger = json_object_array_get_idx(flow->manifest->triggers, i);
        node->condition = output_text(output_member(node->trigger, "condition"), "name");
        node->edges = NONE;
        read_activations(flow, i);
        read_emissions(flow, i);
    }
    if ((uint64_t)flow->n_emissions * flow->n_activations > COMPARISONS_MAX)
        return 1;
    for (size_t i = 0; i < flow->n_emissions; i++) {
        const struct emission *e = &flow->emissions[i];
        size_t first = (size_t)(uintptr_t)hash_get(&flow->by_type, e->type, e->type_len) - 1;
        connect_list(flow, i, first);
        connect_list(flow, i, flow->any_type);
    }
    return 0;
}

/* ---- How often each fires ---- */

static uint64_t add(uint64_t a, uint64_t b)
{
    return a > ENDLESS - b ? ENDLESS : a + b;
}

/* How many events a counter still needs; 0: it is beyond its limit. */
static uint64_t needed(const struct node *node, const char *limit)
{
    long long missing = flow_number(node->trigger, limit, 1) - flow_number(node->trigger, "counter", 0);
    return missing > 0 ? (uint64_t)missing : 0;
}

static uint64_t firings(const struct node *node)
{
    uint64_t n = node->in, need;
    bool total = output_member(output_member(node->trigger, "context"), "total_activations") != NULL;
    if (strcmp(node->condition, "JOIN") == 0 || (strcmp(node->condition, "FUNCTION_JOIN") == 0 && total)) {
        need = needed(node, node->condition[0] == 'J' ? "join" : "total_activations");
        n = need > 0 && node->in >= need;
    } else if (strcmp(node->condition, "COUNTER_THRESHOLD") == 0) {
        need = needed(node, "threshold");
        n = node->in == ENDLESS ? ENDLESS : node->in < need ? 0 : node->in - (need > 0 ? need - 1 : 0);
    } else if (strcmp(node->condition, "FUNCTION_JOIN") == 0 || strcmp(node->condition, "DAG_TASK_JOIN") == 0)
        n = node->in > 0;
    bool transient = json_object_get_boolean(output_member(node->trigger, "transient"));
    return transient && n > 1 ? 1 : n;
}

static void enqueue(struct flow *flow, size_t node, size_t *tail)
{
    if (flow->nodes[node].queued)
        return;
    flow->nodes[node].queued = true;
    flow->queue[*tail] = node;
    *tail = (*tail + 1) % (flow->n_nodes + 1);
}

static void update(struct flow *flow, size_t index, size_t *tail)
{
    struct node *node = &flow->nodes[index];
    uint64_t before = node->fires;
    node->queued = false;
    node->fires = firings(node);
    if (node->fires <= before) {
        node->fires = before;
        return;
    }
    if (node->fires > 1 && ++node->updates > UPDATES_MAX)
        node->fires = ENDLESS;
    uint64_t more = node->fires == ENDLESS ? ENDLESS : node->fires - before;
    for (size_t i = node->edges; i != NONE; i = flow->edges[i].next) {
        struct node *to = &flow->nodes[flow->edges[i].to];
        to->in = add(to->in, flow->edges[i].endless ? ENDLESS : more);
        enqueue(flow, flow->edges[i].to, tail);
    }
}

static void propagate(struct flow *flow)
{
    size_t head = 0, tail = 0;
    for (size_t i = 0; i < flow->n_activations; i++) {
        if (flow->activations[i].supplied || !flow->open)
            continue;
        flow->nodes[flow->activations[i].node].in = ENDLESS;
        enqueue(flow, flow->activations[i].node, &tail);
    }
    while (head != tail) {
        size_t node = flow->queue[head];
        head = (head + 1) % (flow->n_nodes + 1);
        update(flow, node, &tail);
    }
}

/* ---- What it means ---- */

static bool emitted_type(const struct flow *flow, const char *type)
{
    for (size_t i = 0; i < flow->n_emissions; i++)
        if (flow->emissions[i].inside && strcmp(flow->emissions[i].type, type) == 0)
            return true;
    return false;
}

/* Whether the worker itself may emit it: the failure of a call that some trigger makes, or of a state. */
static bool is_failure(const struct flow *flow, const char *type)
{
    static const char *const callers[] = {"HTTP_INVOKE",  "EXEC",   "IBM_CF_INVOKE", "AWS_LAMBDA_INVOKE",
                                          "AWS_ASF_TASK", "DOCKER", "DOCKER_IMAGE"};
    bool of_state = strcmp(type, "lambda.failure") == 0 || strcmp(type, "lambda.uncaught") == 0;
    if (!of_state && strcmp(type, "event.triggerflow.termination.failure") != 0)
        return false;
    for (size_t i = 0; i < flow->n_nodes; i++) {
        const char *action = output_text(output_member(flow->nodes[i].trigger, "action"), "name");
        if (of_state && strncmp(action, "AWS_ASF_", 8) == 0)
            return true;
        for (size_t k = 0; k < sizeof callers / sizeof callers[0]; k++)
            if (strcmp(action, callers[k]) == 0)
                return true;
    }
    return false;
}

/* An activation event that nothing in the file emits into the workflow. */
static void report_outside(struct flow *flow, const struct activation *a, struct hash_table *seen)
{
    char where[SHOWN_MAX + 20];
    id_of(&flow->nodes[a->node], where);
    if (a->elsewhere)
        findings_add(flow->findings, FINDING_WARNING, where,
                     "its event type %.*s subject %.*s is only emitted to an event source that is not read",
                     SHOWN_MAX, a->type, SHOWN_MAX, a->subject);
    else if (strcmp(a->subject, start) != 0 && emitted_type(flow, a->type))
        findings_add(flow->findings, FINDING_WARNING, where,
                     "this file emits type %.*s, but nothing in it with subject %.*s", SHOWN_MAX, a->type,
                     SHOWN_MAX, *a->subject ? a->subject : "(none)");
    else if (!wild(a->type) && !is_failure(flow, a->type)) {
        BUFFER_AUTO key = BUFFER_INIT;
        buffer_append(&key, a->type, a->type_len + 1);
        buffer_append_text(&key, a->subject);
        const char *text = buffer_text(&key);
        if (key.failed || hash_get(seen, text, key.len))
            return;
        findings_add(flow->findings, FINDING_NOTE, where,
                     "nothing in this file emits type %.*s subject %.*s: something outside has to publish it",
                     SHOWN_MAX, a->type, SHOWN_MAX, *a->subject ? a->subject : "(none)");
        char *kept = malloc(key.len);
        if (!kept || hash_put(seen, memcpy(kept, text, key.len), key.len, kept, NULL) < 0)
            free(kept);
    }
}

static void report_activations(struct flow *flow)
{
    struct hash_table seen;
    struct hash_entry *entry;
    size_t cursor = 0;
    hash_init(&seen);
    for (size_t i = 0; i < flow->n_activations && flow->open; i++)
        if (!flow->activations[i].supplied)
            report_outside(flow, &flow->activations[i], &seen);
    while ((entry = hash_next(&seen, &cursor)) != NULL)
        free(entry->value);
    hash_done(&seen);
}

static void report_emissions(struct flow *flow)
{
    char where[SHOWN_MAX + 20];
    for (size_t i = 0; i < flow->n_emissions; i++) {
        const struct emission *e = &flow->emissions[i];
        if (!e->inside || e->heard || e->endless)
            continue;
        findings_add(flow->findings, FINDING_WARNING, id_of(&flow->nodes[e->node], where),
                     "it emits type %.*s subject %.*s into the workflow, where no trigger waits for it",
                     SHOWN_MAX, e->type, SHOWN_MAX, e->subject ? e->subject : "(as it came)");
    }
}

static void report_counter(struct flow *flow, const struct node *node, const char *limit, const char *what)
{
    char where[SHOWN_MAX + 20];
    uint64_t need = needed(node, limit);
    if (need > node->in)
        findings_add(flow->findings, FINDING_ERROR, id_of(node, where),
                     "its %s of %lld cannot complete: what emits its events does so at most %llu time%s",
                     what, flow_number(node->trigger, limit, 1), (unsigned long long)node->in,
                     node->in == 1 ? "" : "s");
    else if (need == 0 && strcmp(what, "join") == 0)
        findings_add(flow->findings, FINDING_ERROR, id_of(node, where),
                     "its join of %lld cannot complete: its counter starts at %lld",
                     flow_number(node->trigger, limit, 1), flow_number(node->trigger, "counter", 0));
}

static void report_node(struct flow *flow, const struct node *node)
{
    char where[SHOWN_MAX + 20];
    bool total = output_member(output_member(node->trigger, "context"), "total_activations") != NULL;
    id_of(node, where);
    if (node->n_activations == 0)
        findings_add(flow->findings, FINDING_WARNING, where,
                     "no event activates it: activation_events is empty");
    else if (node->in == 0 && !flow->open)
        findings_add(flow->findings, FINDING_ERROR, where,
                     "no event can reach it: nothing in the file emits one, and no event source is read");
    else if (node->in == 0)
        findings_add(
            flow->findings, FINDING_WARNING, where,
            "no event can reach it: only triggers emit its events that are never reached themselves");
    else if (strcmp(node->condition, "JOIN") == 0)
        report_counter(flow, node, "join", "join");
    else if (strcmp(node->condition, "FUNCTION_JOIN") == 0 && total)
        report_counter(flow, node, "total_activations", "join");
    else if (strcmp(node->condition, "COUNTER_THRESHOLD") == 0)
        report_counter(flow, node, "threshold", "threshold");
}

static void report_end(struct flow *flow)
{
    bool there = false, reached = false;
    char where[SHOWN_MAX + 20] = "";
    for (size_t i = 0; i < flow->n_nodes; i++) {
        const struct node *node = &flow->nodes[i];
        if (strcmp(output_text(output_member(node->trigger, "action"), "name"), "TERMINATE") != 0)
            continue;
        there = true;
        reached |= node->fires > 0;
        id_of(node, where);
    }
    if (!there)
        findings_add(flow->findings, FINDING_NOTE, "workflow",
                     "it never finishes: no trigger has the action TERMINATE");
    else if (!reached)
        findings_add(flow->findings, FINDING_WARNING, where,
                     "TERMINATE is never reached: the workflow never finishes");
}

static bool has_read_source(const struct flow *flow)
{
    if (!flow->manifest->event_sources)
        return true; /* those that are stored */
    for (size_t i = 0; i < output_length(flow->manifest->event_sources); i++)
        if (is_read(json_object_array_get_idx(flow->manifest->event_sources, i)))
            return true;
    return false;
}

static void flow_free(struct flow *flow)
{
    hash_done(&flow->by_type);
    free(flow->nodes);
    free(flow->activations);
    free(flow->emissions);
    free(flow->edges);
    free(flow->stamps);
    free(flow->queue);
}

static int allocate(struct flow *flow)
{
    size_t activations = 0;
    flow->n_nodes = output_length(flow->manifest->triggers);
    for (size_t i = 0; i < flow->n_nodes; i++)
        activations += output_length(
            output_member(json_object_array_get_idx(flow->manifest->triggers, i), "activation_events"));
    flow->nodes = calloc(flow->n_nodes + 1, sizeof *flow->nodes);
    flow->activations = calloc(activations + 1, sizeof *flow->activations);
    flow->emissions = calloc(flow->n_nodes + 1, sizeof *flow->emissions);
    flow->stamps = calloc(flow->n_nodes + 1, sizeof *flow->stamps);
    flow->queue = calloc(flow->n_nodes + 1, sizeof *flow->queue);
    return flow->nodes && flow->activations && flow->emissions && flow->stamps && flow->queue ? 0 : -1;
}

int flow_validate(const struct manifest *manifest, struct findings *findings)
{
    struct flow flow = {.manifest = manifest, .findings = findings, .any_type = NONE};
    hash_init(&flow.by_type);
    flow.failed = allocate(&flow) < 0;
    if (!flow.failed && manifest->triggers) {
        flow.open = has_read_source(&flow);
        if (build(&flow) > 0)
            findings_add(findings, FINDING_NOTE, "workflow",
                         "it is too large to be searched for unreachable triggers");
        else if (!flow.failed) {
            propagate(&flow);
            report_activations(&flow);
            report_emissions(&flow);
            for (size_t i = 0; i < flow.n_nodes; i++)
                report_node(&flow, &flow.nodes[i]);
            report_end(&flow);
        }
    }
    int r = flow.failed ? -1 : 0;
    flow_free(&flow);
    return r;
}
