#include "tests/support/asl_compile.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/json_compare.h"
#include "worker/states/choice.h"
#include "worker/states/state.h"

#define MAX_STATES 64
#define MAX_ARRIVALS 32

/* How a state is reached: by events of a subject, on a condition (rules that all must hold, separated by
 * commas;
 * "": none). */
struct arrival {
    char *subject;
    char *rules;
    bool used;
};

struct node {
    struct json_value name;
    struct json_value document;
    struct arrival arrivals[MAX_ARRIVALS];
    unsigned n;
    unsigned triggers; /* made for it */
    unsigned number;   /* of a Map's machine */
};

struct level {
    struct asl_machine *machine;
    struct node *nodes;
    unsigned n;
    struct node end; /* the machine's own */
};

static bool text_member(const struct json_value *object, const char *name, struct buffer *out)
{
    struct json_value value;
    if (!json_member(object, name, &value) || value.type != JSON_STRING)
        return false;
    json_unescape(&value, out);
    return true;
}

static bool is_type(const struct node *node, const char *type)
{
    struct json_value value;
    return json_member(&node->document, "Type", &value) && json_equals(&value, type, strlen(type));
}

static bool has(const struct node *node, const char *member)
{
    struct json_value value;
    return json_member(&node->document, member, &value);
}

static void end_of(unsigned number, char ret_subject[32])
{
    snprintf(ret_subject, 32, "StateMachine%u", number);
}

static void refuse(struct level *level, const char *why)
{
    if (!level->machine->refused)
        level->machine->refused = why;
}

static char *subject_of(const struct level *level, const struct node *node, const char *suffix)
{
    BUFFER_AUTO text = BUFFER_INIT;
    (void)level;
    json_unescape(&node->name, &text);
    buffer_append_text(&text, suffix);
    char *subject = strdup(buffer_text(&text));
    assert(subject);
    return subject;
}

static struct node *find(struct level *level, const struct json_value *document, const char *member)
{
    BUFFER_AUTO name = BUFFER_INIT;
    if (text_member(document, member, &name))
        for (unsigned i = 0; i < level->n; i++)
            if (json_equals(&level->nodes[i].name, buffer_text(&name), name.len))
                return &level->nodes[i];
    refuse(level, "a state that does not exist");
    return NULL;
}

/* --- arrivals --- */

static void arrive(struct level *level, struct node *node, const char *subject, const char *rules,
                   unsigned depth);

static void append_raw(struct buffer *out, const struct json_value *value)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    buffer_append(out, raw, len);
}

/* First match: Not of all earlier rules, and the rule. The default: Not of all. */
static void arrive_by_choice(struct level *level, struct node *choice, const char *subject, const char *rules,
                             unsigned depth)
{
    struct json_value choices, name, rule;
    struct json_iter iter;
    BUFFER_AUTO earlier = BUFFER_INIT;
    if (!json_member(&choice->document, "Choices", &choices)) {
        refuse(level, "a Choice without Choices");
        return;
    }
    buffer_append_text(&earlier, rules);
    json_iter_init(&iter, &choices);
    while (json_next(&iter, &name, &rule)) {
        BUFFER_AUTO all = BUFFER_INIT;
        buffer_append(&all, earlier.data, earlier.len);
        buffer_append_text(&all, all.len ? "," : "");
        append_raw(&all, &rule);
        struct node *next = find(level, &rule, "Next");
        if (next)
            arrive(level, next, subject, buffer_text(&all), depth + 1);
        buffer_append_text(&earlier, earlier.len ? ",{\"Not\":" : "{\"Not\":");
        append_raw(&earlier, &rule);
        buffer_append_char(&earlier, '}');
    }
    if (has(choice, "Default")) {
        struct node *next = find(level, &choice->document, "Default");
        if (next)
            arrive(level, next, subject, buffer_text(&earlier), depth + 1);
        return;
    }
    assert(choice->n < MAX_ARRIVALS); /* nothing matches: see make_choice() */
    choice->arrivals[choice->n++] =
        (struct arrival){.subject = strdup(subject), .rules = strdup(buffer_text(&earlier))};
}

static void arrive(struct level *level, struct node *node, const char *subject, const char *rules,
                   unsigned depth)
{
    if (depth > 16) {
        refuse(level, "Choices in a circle");
        return;
    }
    if (is_type(node, "Choice") && !has(node, "InputPath") && !has(node, "OutputPath")) {
        arrive_by_choice(level, node, subject, rules, depth);
        return;
    }
    for (unsigned i = 0; i < node->n; i++)
        if (!strcmp(node->arrivals[i].subject, subject) && !strcmp(node->arrivals[i].rules, rules))
            return;
    assert(node->n < MAX_ARRIVALS);
    node->arrivals[node->n++] = (struct arrival){.subject = strdup(subject), .rules = strdup(rules)};
}

/* --- triggers --- */

struct parts {
    const char *id; /* NULL: the subject */
    const char *subject;
    const char *condition; /* names */
    const char *action;    /* JSON */
    const char *more;      /* of the context */
    const struct json_value *state;
    const char *rules;
};

static void put(struct level *level, struct node *node, const struct parts *parts, const char *activations)
{
    struct asl_machine *m = level->machine;
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    buffer_append_text(&id, parts->id ? parts->id : parts->subject);
    if (node->triggers++)
        buffer_printf(&id, "#%u", node->triggers);
    buffer_append_text(&out, "{\"id\":");
    buffer_append_json(&out, id.data, id.len);
    buffer_append_text(&out, ",\"uuid\":");
    buffer_append_json(&out, id.data, id.len);
    buffer_printf(&out, ",\"condition\":{\"name\":\"%s\"},\"action\":%s,\"context\":{\"Subject\":",
                  parts->condition, parts->action);
    buffer_append_json(&out, parts->subject, strlen(parts->subject));
    if (parts->state) {
        buffer_append_text(&out, ",\"State\":");
        append_raw(&out, parts->state);
    }
    if (parts->rules && *parts->rules)
        buffer_printf(&out, ",\"Condition\":{\"And\":[%s]}", parts->rules);
    buffer_printf(&out, "%s%s},\"transient\":false,\"activation_events\":[%s]}", parts->more, m->more,
                  activations);
    assert(!out.failed);
    m->put(m->data, buffer_text(&id), buffer_text(&out));
}

static void append_activation(struct buffer *out, const char *subject)
{
    buffer_append_text(out, out->len ? "," : "");
    buffer_append_text(out, "{\"specversion\":\"1.0\",\"type\":\"lambda.success\",\"subject\":");
    buffer_append_json(out, subject, strlen(subject));
    buffer_append_char(out, '}');
}

/* A trigger for each different condition under which the state is reached. */
static void put_all(struct level *level, struct node *node, struct parts *parts)
{
    for (unsigned i = 0; i < node->n; i++)
        node->arrivals[i].used = false;
    node->triggers = 0;
    for (unsigned i = 0; i < node->n; i++) {
        BUFFER_AUTO activations = BUFFER_INIT;
        if (node->arrivals[i].used)
            continue;
        for (unsigned j = i; j < node->n; j++)
            if (!strcmp(node->arrivals[j].rules, node->arrivals[i].rules)) {
                append_activation(&activations, node->arrivals[j].subject);
                node->arrivals[j].used = true;
            }
        parts->rules = node->arrivals[i].rules;
        put(level, node, parts, buffer_text(&activations));
    }
}

/* --- states --- */

/* The machine StateMachineN. */
static void compile(struct asl_machine *machine, const struct json_value *definition, const char *entry,
                    const char *action, unsigned number);

/* What follows an event of this subject. */
static void leave(struct level *level, struct node *node, const char *subject)
{
    struct json_value end;
    if (is_type(node, "Fail"))
        return;
    if (is_type(node, "Succeed") || (json_member(&node->document, "End", &end) && end.type == JSON_TRUE)) {
        arrive(level, &level->end, subject, "", 0);
        return;
    }
    struct node *next = find(level, &node->document, "Next");
    if (next)
        arrive(level, next, subject, "", 0);
}

/* Part of a document: those members that are there, and a Type. */
static void part(const struct node *node, const char *type, const char *const *members, struct buffer *out,
                 struct json_value *ret_state)
{
    struct json_value value;
    buffer_printf(out, "{\"Type\":\"%s\"", type);
    for (; *members; members++)
        if (json_member(&node->document, *members, &value)) {
            buffer_printf(out, ",\"%s\":", *members);
            append_raw(out, &value);
        }
    buffer_append_char(out, '}');
    assert(json_scan(out->data, out->len, ret_state, NULL) == 0);
}

static const char end_action[] = "{\"name\":\"AWS_ASF_END_STATEMACHINE\"}";
static const char pass[] = "{\"name\":\"AWS_ASF_PASS\"}";

/* Where the branches begin: at the Parallel's own arrivals, or behind Passes that make their input. */
static void begin_parallel(struct level *level, struct node *node, struct node *entry, bool keeps_input)
{
    static const char *const paths[] = {"InputPath", "Parameters", NULL};
    struct json_value none, state;
    BUFFER_AUTO text = BUFFER_INIT;
    char *raw = subject_of(level, node, ".raw");
    char *in = subject_of(level, node, ".in");
    struct parts parts = {
        .subject = raw, .condition = "AWS_ASF_CONDITION", .action = pass, .more = "", .state = &none};
    assert(json_scan("{\"Type\":\"Pass\"}", 15, &none, NULL) == 0);
    put_all(level, node, &parts);
    part(node, "Pass", paths, &text, &state);
    struct node passed = {0};
    arrive(level, &passed, raw, "", 0);
    parts.subject = in;
    parts.state = &state;
    put_all(level, &passed, &parts);
    arrive(level, entry, in, "", 0);
    for (unsigned i = 0; i < node->n; i++) {
        free(node->arrivals[i].subject);
        free(node->arrivals[i].rules);
    }
    node->n = 0;
    if (keeps_input)
        arrive(level, node, raw, "", 0);
    free(passed.arrivals[0].subject);
    free(passed.arrivals[0].rules);
    free(raw);
    free(in);
}

static void make_parallel(struct level *level, struct node *node, char *subject, bool keeps_input)
{
    struct json_value branches, name, branch;
    struct json_iter iter;
    struct node entry = {0};
    BUFFER_AUTO more = BUFFER_INIT;
    BUFFER_AUTO ends = BUFFER_INIT;
    unsigned n = 0;
    begin_parallel(level, node, &entry, keeps_input);
    json_member(&node->document, "Branches", &branches);
    json_iter_init(&iter, &branches);
    for (; json_next(&iter, &name, &branch); n++) {
        char end[32];
        unsigned number = ++*level->machine->number;
        end_of(number, end);
        compile(level->machine, &branch, entry.arrivals[0].subject, end_action, number);
        arrive(level, node, end, "", 0);
        buffer_printf(&ends, "%s\"%s\"", n ? "," : "", end);
    }
    free(entry.arrivals[0].subject);
    free(entry.arrivals[0].rules);
    buffer_printf(&more, ",\"join_multiple\":%u,\"Branches\":[%s]", n, buffer_text(&ends));
    put_all(level, node,
            &(struct parts){.subject = subject,
                            .condition = "AWS_ASF_JOIN_STATEMACHINE",
                            .action = pass,
                            .more = buffer_text(&more),
                            .state = &node->document});
}

static void make_map(struct level *level, struct node *node, const char *subject)
{
    struct json_value machine;
    BUFFER_AUTO more = BUFFER_INIT;
    char end[32];
    if (!json_member(&node->document, "ItemProcessor", &machine) &&
        !json_member(&node->document, "Iterator", &machine)) {
        refuse(level, "a Map without a machine");
        return;
    }
    end_of(node->number, end);
    compile(level->machine, &machine, subject, end_action, node->number);
    buffer_append_text(&more, ",\"join_state_machine\":");
    buffer_append_json(&more, end, strlen(end));
    put_all(level, node,
            &(struct parts){.subject = subject,
                            .condition = "AWS_ASF_CONDITION",
                            .action = "{\"name\":\"AWS_ASF_MAP\"}",
                            .more = buffer_text(&more),
                            .state = &node->document});
}

/* A Choice that no rule matches, and which has no Default. */
static void make_choice(struct level *level, struct node *node, const char *subject)
{
    static const char fail[] = "{\"Type\":\"Fail\",\"Error\":\"States.NoChoiceMatched\"}";
    struct json_value state;
    if (has(node, "InputPath") || has(node, "OutputPath"))
        refuse(level, "a Choice with InputPath or OutputPath");
    assert(json_scan(fail, strlen(fail), &state, NULL) == 0);
    put_all(level, node,
            &(struct parts){.subject = subject,
                            .condition = "AWS_ASF_CONDITION",
                            .action = pass,
                            .more = "",
                            .state = &state});
}

/* What a trigger of it would be refused for at registration. */
static void check(struct level *level, const struct node *node)
{
    struct json_value choices, name, rule;
    struct json_iter iter;
    struct state *state;
    struct choice *choice;
    if (state_load(&node->document, &state, NULL) < 0) {
        refuse(level, "States.Runtime: a state that is refused");
        return;
    }
    state_free(state);
    if (!json_member(&node->document, "Choices", &choices))
        return;
    json_iter_init(&iter, &choices);
    while (json_next(&iter, &name, &rule)) {
        if (choice_load(&rule, &choice, NULL) < 0) {
            refuse(level, "States.Runtime: a rule that is refused");
            return;
        }
        choice_free(choice);
    }
}

/* What becomes of its failures, and of a Task without Retry and Catch: whose they are. */
static void put_catch(struct level *level, struct node *node, const char *subject)
{
    struct node none = {0};
    char end[32];
    BUFFER_AUTO id = BUFFER_INIT;
    BUFFER_AUTO context = BUFFER_INIT;
    BUFFER_AUTO activations = BUFFER_INIT;
    end_of(node->number, end);
    append_activation(&activations, is_type(node, "Map") ? end : subject);
    buffer_append_text(&activations, ",{\"specversion\":\"1.0\",\"type\":\"lambda.failure\",\"subject\":");
    buffer_append_json(&activations, subject, strlen(subject));
    buffer_append_char(&activations, '}');
    buffer_printf(&id, "%s.failed", subject);
    put(level, &none,
        &(struct parts){.id = buffer_text(&id),
                        .subject = subject,
                        .condition = "AWS_ASF_CATCH",
                        .action = "{\"name\":\"AWS_ASF_CATCH\"}",
                        .more = "",
                        .state = &node->document},
        buffer_text(&activations));
}

static void make(struct level *level, struct node *node)
{
    struct asl_machine *m = level->machine;
    char *subject = subject_of(level, node, "");
    struct state *state;
    if (state_load(&node->document, &state, NULL) == 0) {
        bool keeps_input = state_keeps_input(state) || state_catches(state);
        state_free(state);
        if (is_type(node, "Choice"))
            make_choice(level, node, subject);
        else if (is_type(node, "Map"))
            make_map(level, node, subject);
        else if (is_type(node, "Parallel"))
            make_parallel(level, node, subject, keeps_input);
        else
            put_all(level, node,
                    &(struct parts){.subject = subject,
                                    .condition = "AWS_ASF_CONDITION",
                                    .action = is_type(node, "Task") ? m->task : pass,
                                    .more = "",
                                    .state = &node->document});
    }
    if (is_type(node, "Task") || has(node, "Retry") || has(node, "Catch"))
        put_catch(level, node, subject);
    free(subject);
}

static void free_arrivals(struct node *node)
{
    for (unsigned i = 0; i < node->n; i++) {
        free(node->arrivals[i].subject);
        free(node->arrivals[i].rules);
    }
}

static void read_states(struct level *level, const struct json_value *definition)
{
    struct json_value states, name, document;
    struct json_iter iter;
    if (!json_member(definition, "States", &states))
        return;
    json_iter_init(&iter, &states);
    while (json_next(&iter, &name, &document)) {
        assert(level->n < MAX_STATES);
        struct node *node = &level->nodes[level->n++];
        *node = (struct node){.name = name, .document = document};
        if (is_type(node, "Map"))
            node->number = ++*level->machine->number;
        check(level, node);
    }
}

/* Where its failures lead: to itself again, and to what its catchers name. */
static void link_failures(struct level *level, struct node *node, const char *subject)
{
    struct json_value catchers, name, catcher;
    struct json_iter iter;
    unsigned n = 0;
    if (has(node, "Retry")) {
        BUFFER_AUTO again = BUFFER_INIT;
        buffer_printf(&again, "%s.again", subject);
        arrive(level, node, buffer_text(&again), "", 0);
    }
    if (!json_member(&node->document, "Catch", &catchers))
        return;
    json_iter_init(&iter, &catchers);
    for (; json_next(&iter, &name, &catcher); n++) {
        BUFFER_AUTO caught = BUFFER_INIT;
        struct node *next = find(level, &catcher, "Next");
        buffer_printf(&caught, "%s.catch%u", subject, n);
        if (next)
            arrive(level, next, buffer_text(&caught), "", 0);
    }
}

/* The end of a Map is that of its machine. */
static void link_states(struct level *level)
{
    for (unsigned i = 0; i < level->n; i++) {
        struct node *node = &level->nodes[i];
        char end[32];
        char *subject = subject_of(level, node, "");
        end_of(node->number, end);
        if (!is_type(node, "Choice"))
            leave(level, node, is_type(node, "Map") ? end : subject);
        link_failures(level, node, subject);
        free(subject);
    }
}

static void compile(struct asl_machine *machine, const struct json_value *definition, const char *entry,
                    const char *action, unsigned number)
{
    char end[32];
    struct level level = {.machine = machine, .nodes = calloc(MAX_STATES, sizeof(struct node))};
    assert(level.nodes);
    end_of(number, end);
    read_states(&level, definition);
    struct node *first = find(&level, definition, "StartAt");
    if (first)
        arrive(&level, first, entry, "", 0);
    link_states(&level);
    for (unsigned i = 0; i < level.n && !machine->refused; i++)
        make(&level, &level.nodes[i]);
    struct parts parts = {
        .subject = end, .condition = "AWS_ASF_JOIN_STATEMACHINE", .action = action, .more = ""};
    if (!machine->refused && level.end.n)
        put_all(&level, &level.end, &parts);
    else if (!machine->refused) /* nothing but Fail: a Map hears of that here */
        put(&level, &level.end, &parts, "");
    free_arrivals(&level.end);
    for (unsigned i = 0; i < level.n; i++)
        free_arrivals(&level.nodes[i]);
    free(level.nodes);
}

/* --- the definition --- */

static bool is_one_of(const struct json_value *name, const char *const *names)
{
    for (; *names; names++)
        if (json_equals(name, *names, strlen(*names)))
            return true;
    return false;
}

static void rewrite(const struct asl_machine *machine, const struct json_value *value, bool of_states,
                    struct buffer *out);

static void append_prefixed(const struct asl_machine *machine, const struct json_value *name,
                            struct buffer *out)
{
    BUFFER_AUTO plain = BUFFER_INIT;
    buffer_append_text(&plain, machine->prefix);
    json_unescape(name, &plain);
    buffer_append_json(out, buffer_text(&plain), plain.len);
}

static void rewrite_member(const struct asl_machine *machine, const struct json_value *name,
                           const struct json_value *value, struct buffer *out)
{
    static const char *const names[] = {"StartAt", "Next", "Default", NULL};
    static const char *const times[] = {"Seconds", "IntervalSeconds", "MaxDelaySeconds", "TimeoutSeconds",
                                        NULL};
    static const char *const data[] = {"Result", "Parameters", "ResultSelector", "ItemSelector", NULL};
    if (value->type == JSON_STRING && is_one_of(name, names))
        append_prefixed(machine, value, out);
    else if (value->type == JSON_NUMBER && machine->second > 0 && is_one_of(name, times))
        buffer_printf(out, "%g", json_double(value) * machine->second);
    else if (is_one_of(name, data))
        append_raw(out, value);
    else
        rewrite(machine, value, json_equals(name, "States", 6), out);
}

/* The definition with its states' names prefixed, and with shorter seconds. */
static void rewrite(const struct asl_machine *machine, const struct json_value *value, bool of_states,
                    struct buffer *out)
{
    struct json_iter iter;
    struct json_value name, child;
    const char *comma = "";
    bool object = value->type == JSON_OBJECT;
    if (!object && value->type != JSON_ARRAY) {
        append_raw(out, value);
        return;
    }
    buffer_append_char(out, object ? '{' : '[');
    json_iter_init(&iter, value);
    for (; json_next(&iter, &name, &child); comma = ",") {
        buffer_append_text(out, comma);
        if (object && of_states)
            append_prefixed(machine, &name, out);
        else if (object)
            append_raw(out, &name);
        if (object)
            buffer_append_char(out, ':');
        if (object && !of_states)
            rewrite_member(machine, &name, &child, out);
        else
            rewrite(machine, &child, false, out);
    }
    buffer_append_char(out, object ? '}' : ']');
}

bool asl_compile(struct asl_machine *machine, const struct json_value *definition)
{
    struct json_value value, root;
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_printf(&machine->start, "%s__init__", machine->prefix);
    unsigned number = ++*machine->number;
    buffer_printf(&machine->end, "StateMachine%u", number);
    if (json_member(definition, "TimeoutSeconds", &value)) {
        machine->refused = "TimeoutSeconds of a whole machine";
        return false;
    }
    rewrite(machine, definition, false, &text);
    assert(json_scan(text.data, text.len, &root, NULL) == 0);
    compile(machine, &root, buffer_text(&machine->start), "{\"name\":\"TERMINATE\"}", number);
    return !machine->refused;
}

void asl_machine_done(struct asl_machine *machine)
{
    buffer_done(&machine->start);
    buffer_done(&machine->end);
}
