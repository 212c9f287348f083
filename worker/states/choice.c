#include "worker/states/choice.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/json_compare.h"
#include "worker/states/evaluation.h"
#include "worker/states/path.h"
#include "worker/states/timestamp.h"

#define MAX_NESTING 64

enum kind { KIND_AND, KIND_OR, KIND_NOT, KIND_IS, KIND_COMPARE, KIND_MATCH };
/* What is compared; IsX asks for the same, and for NULL and PRESENT besides. */
enum type { TYPE_STRING, TYPE_NUMERIC, TYPE_BOOLEAN, TYPE_TIMESTAMP, TYPE_NULL, TYPE_PRESENT };
/* Orders that satisfy a comparison, as bits. */
enum { LESS = 1, SAME = 2, MORE = 4 };

struct choice {
    enum kind kind;
    enum type type;
    unsigned orders;
    bool wanted; /* IsX */
    struct path *variable;
    struct path *other; /* the right side, or: */
    struct json_value literal;
    struct timestamp timestamp; /* the literal's */
    char *text;                 /* the literal's; the pattern's, unescaped */
    size_t text_len;
    struct choice **rules; /* of And, Or, Not */
    unsigned n;
};

static int no_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

void choice_free(struct choice *choice)
{
    if (!choice)
        return;
    for (unsigned i = 0; i < choice->n; i++)
        choice_free(choice->rules[i]);
    free(choice->rules);
    path_free(choice->variable);
    path_free(choice->other);
    free(choice->text);
    free(choice);
}

/* --- loading --- */

static const struct {
    const char *name;
    enum type type;
} types[] = {
    {"String", TYPE_STRING},       {"Numeric", TYPE_NUMERIC}, {"Boolean", TYPE_BOOLEAN},
    {"Timestamp", TYPE_TIMESTAMP}, {"Null", TYPE_NULL},       {"Present", TYPE_PRESENT},
};
static const struct {
    const char *name;
    unsigned orders;
} comparisons[] = {
    {"Equals", SAME},
    {"LessThan", LESS},
    {"GreaterThan", MORE},
    {"LessThanEquals", LESS | SAME},
    {"GreaterThanEquals", MORE | SAME},
};

static int unknown_member(const struct json_value *name, struct error *err)
{
    return error_set(err, ERROR_INVALID, "%.*s is not an operator", (int)(name->len < 60 ? name->len : 60),
                     name->text);
}

static int wrong_value(const struct json_value *name, const struct json_value *value, const char *wanted,
                       struct error *err)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "%.*s is %.*s, not %s", (int)(name->len < 60 ? name->len : 60),
                     name->text, (int)(len < 60 ? len : 60), raw, wanted);
}

static bool is_literal(enum type type, const struct json_value *value, struct timestamp *ret_timestamp)
{
    switch (type) {
    case TYPE_STRING:
        return value->type == JSON_STRING;
    case TYPE_NUMERIC:
        return value->type == JSON_NUMBER;
    case TYPE_BOOLEAN:
        return value->type == JSON_TRUE || value->type == JSON_FALSE;
    case TYPE_TIMESTAMP:
        return timestamp_read(value, ret_timestamp);
    case TYPE_NULL:
        return value->type == JSON_NULL;
    default:
        return true;
    }
}

static const char *type_wanted(enum type type)
{
    static const char *const names[] = {"a string", "a number", "true or false", "a timestamp", "null", ""};
    return names[type];
}

static int copy_literal(struct choice *c, const struct json_value *value, struct error *err)
{
    const char *raw = json_raw(value, &c->text_len);
    c->text = strndup(raw, c->text_len);
    if (!c->text)
        return no_memory(err);
    return json_scan(c->text, c->text_len, &c->literal, err);
}

static int load_is(struct choice *c, const struct json_value *name, const struct json_value *value,
                   struct error *err)
{
    const char *what = name->text + 2;
    size_t len = name->len - 2;
    c->kind = KIND_IS;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strlen(types[i].name) == len && !memcmp(types[i].name, what, len)) {
            c->type = types[i].type;
            if (value->type != JSON_TRUE && value->type != JSON_FALSE)
                return wrong_value(name, value, "true or false", err);
            c->wanted = value->type == JSON_TRUE;
            return 0;
        }
    return unknown_member(name, err);
}

static int load_match(struct choice *c, const struct json_value *name, const struct json_value *value,
                      struct error *err)
{
    BUFFER_AUTO pattern = BUFFER_INIT;
    c->kind = KIND_MATCH;
    if (value->type != JSON_STRING)
        return wrong_value(name, value, "a string", err);
    json_unescape(value, &pattern);
    if (pattern.failed || !buffer_reserve(&pattern, 1))
        return no_memory(err);
    for (size_t i = 0; i < pattern.len; i++)
        if (pattern.data[i] == '\\' &&
            (++i == pattern.len || (pattern.data[i] != '*' && pattern.data[i] != '\\')))
            return wrong_value(name, value,
                               "a pattern: a backslash stands before * or another backslash only", err);
    c->text = pattern.data;
    c->text_len = pattern.len;
    pattern = (struct buffer)BUFFER_INIT;
    return 0;
}

/* String, Numeric, Boolean, Timestamp; a comparison; and Path or not. */
static int load_comparison(struct choice *c, const struct json_value *name, const struct json_value *value,
                           struct error *err)
{
    size_t type = 0;
    size_t prefix = 0;
    for (; type <= TYPE_TIMESTAMP; type++) {
        prefix = strlen(types[type].name);
        if (name->len > prefix && !memcmp(name->text, types[type].name, prefix))
            break;
    }
    if (type > TYPE_TIMESTAMP)
        return unknown_member(name, err);
    const char *rest = name->text + prefix;
    size_t len = name->len - prefix;
    bool path = len > 4 && !memcmp(rest + len - 4, "Path", 4);
    len -= path ? 4 : 0;
    for (size_t i = 0; i < sizeof comparisons / sizeof comparisons[0]; i++)
        if (strlen(comparisons[i].name) == len && !memcmp(comparisons[i].name, rest, len))
            c->orders = comparisons[i].orders;
    if (!c->orders || (type == TYPE_BOOLEAN && c->orders != SAME))
        return unknown_member(name, err);
    c->kind = KIND_COMPARE;
    c->type = types[type].type;
    if (path)
        return path_load(value, &c->other, err);
    if (!is_literal(c->type, value, &c->timestamp))
        return wrong_value(name, value, type_wanted(c->type), err);
    return copy_literal(c, value, err);
}

static int load(const struct json_value *rule, unsigned depth, struct choice **ret_choice, struct error *err);

static int load_rules(struct choice *c, const struct json_value *name, const struct json_value *value,
                      unsigned depth, struct error *err)
{
    struct json_iter iter;
    struct json_value ignored, rule;
    bool one = c->kind == KIND_NOT;
    unsigned n = one;
    if (value->type != (one ? JSON_OBJECT : JSON_ARRAY))
        return wrong_value(name, value, one ? "a rule" : "an array of rules", err);
    json_iter_init(&iter, value);
    while (!one && json_next(&iter, &ignored, &rule))
        n++;
    if (!n)
        return wrong_value(name, value, "an array of one rule or more", err);
    c->rules = calloc(n, sizeof(struct choice *));
    if (!c->rules)
        return no_memory(err);
    json_iter_init(&iter, value);
    for (rule = *value; c->n < n && (one || json_next(&iter, &ignored, &rule)); c->n++)
        if (load(&rule, depth + 1, &c->rules[c->n], err) < 0)
            return -1;
    return 0;
}

static bool is_states_own(const struct json_value *name)
{
    static const char *const names[] = {"Variable", "Next", "Comment", "Assign", "Output"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (json_equals(name, names[i], strlen(names[i])))
            return true;
    return false;
}

static int load_operator(struct choice *c, const struct json_value *name, const struct json_value *value,
                         unsigned depth, struct error *err)
{
    static const char *const names[] = {[KIND_AND] = "And", [KIND_OR] = "Or", [KIND_NOT] = "Not"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (json_equals(name, names[i], strlen(names[i]))) {
            c->kind = (enum kind)i;
            return load_rules(c, name, value, depth, err);
        }
    if (json_equals(name, "StringMatches", 13))
        return load_match(c, name, value, err);
    if (name->len > 2 && !memcmp(name->text, "Is", 2))
        return load_is(c, name, value, err);
    return load_comparison(c, name, value, err);
}

static int load_into(struct choice *c, const struct json_value *rule, unsigned depth, struct error *err)
{
    struct json_iter iter;
    struct json_value name, value, variable;
    unsigned operators = 0;
    if (rule->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "a choice rule is %s, not an object",
                         json_type_name(rule->type));
    if (depth > MAX_NESTING)
        return error_set(err, ERROR_INVALID, "choice rules are nested deeper than %d", MAX_NESTING);
    json_iter_init(&iter, rule);
    while (json_next(&iter, &name, &value)) {
        if (is_states_own(&name))
            continue;
        if (operators++)
            return error_set(err, ERROR_INVALID, "a choice rule has several operators, %.*s among them",
                             (int)(name.len < 60 ? name.len : 60), name.text);
        if (load_operator(c, &name, &value, depth, err) < 0)
            return -1;
    }
    if (!operators)
        return error_set(err, ERROR_INVALID, "a choice rule has no operator");
    if (c->kind <= KIND_NOT)
        return 0;
    if (!json_member(rule, "Variable", &variable))
        return error_set(err, ERROR_INVALID, "a choice rule has no Variable");
    return path_load(&variable, &c->variable, err);
}

static int load(const struct json_value *rule, unsigned depth, struct choice **ret_choice, struct error *err)
{
    struct choice *c = calloc(1, sizeof *c);
    if (!c)
        return no_memory(err);
    if (load_into(c, rule, depth, err) < 0) {
        choice_free(c);
        return -1;
    }
    *ret_choice = c;
    return 0;
}

int choice_load(const struct json_value *rule, struct choice **ret_choice, struct error *err)
{
    return load(rule, 0, ret_choice, err);
}

/* --- evaluating --- */

static int compare(const struct choice *c, struct evaluation *ev, const struct json_value *left,
                   struct error *err)
{
    struct json_value right = c->literal;
    struct timestamp at = {0};
    struct timestamp limit = c->timestamp;
    int order = 0;
    if (c->other) {
        if (path_read(c->other, ev, &right, err) < 0)
            return -1;
        if (!is_literal(c->type, &right, &limit))
            return error_set(err, ERROR_INVALID, "path %.100s leads to %s, not to %s", path_text(c->other),
                             json_type_name(right.type), type_wanted(c->type));
    }
    if (!is_literal(c->type, left, &at))
        return 0;
    switch (c->type) {
    case TYPE_STRING:
        if (json_string_order(left, &right, &order, err) < 0)
            return -1;
        break;
    case TYPE_NUMERIC:
        order = json_number_order(left, &right);
        break;
    case TYPE_TIMESTAMP:
        order = timestamp_order(&at, &limit);
        break;
    default:
        order = left->type != right.type;
    }
    return c->orders & (order < 0 ? LESS : order > 0 ? MORE : SAME) ? CHOICE_HOLDS : 0;
}

/* Takes one character of the pattern, behind *at; whether it stands for itself. */
static bool pattern_next(const struct choice *c, size_t *at, char *ret_char)
{
    bool escaped = c->text[*at] == '\\';
    *at += escaped;
    *ret_char = c->text[(*at)++];
    return escaped || *ret_char != '*';
}

/* * stands for any characters, also none. Goes back to the last * only, which is enough, so the time is
 * bounded by the product of the lengths. */
static int match_text(const struct choice *c, struct evaluation *ev, const char *text, size_t len,
                      struct error *err)
{
    size_t at = 0, behind_star = 0, from = 0;
    bool star = false;
    for (size_t i = 0; i < len || at < c->text_len;) {
        size_t next = at;
        char wanted = 0;
        if (json_work(&ev->steps, 1, err) < 0)
            return -1;
        bool plain = at < c->text_len && pattern_next(c, &next, &wanted);
        if (at < c->text_len && !plain) {
            star = true;
            at = behind_star = next;
            from = i;
        } else if (plain && i < len && text[i] == wanted) {
            at = next;
            i++;
        } else if (star && from < len) {
            i = ++from;
            at = behind_star;
        } else {
            return 0;
        }
    }
    return CHOICE_HOLDS;
}

static int match(const struct choice *c, struct evaluation *ev, const struct json_value *value,
                 struct error *err)
{
    if (value->type != JSON_STRING)
        return 0;
    if (!value->escaped)
        return match_text(c, ev, value->text, value->len, err);
    BUFFER_AUTO text = BUFFER_INIT;
    json_unescape(value, &text);
    return text.failed ? no_memory(err) : match_text(c, ev, text.data, text.len, err);
}

static int evaluate_variable(const struct choice *c, struct evaluation *ev, struct error *err)
{
    struct json_value value;
    struct timestamp ignored;
    if (c->kind == KIND_IS && c->type == TYPE_PRESENT) {
        int r = path_look(c->variable, ev, &value, err);
        return r < 0 ? r : (r != PATH_MISSING) == c->wanted ? CHOICE_HOLDS : 0;
    }
    if (path_read(c->variable, ev, &value, err) < 0)
        return error_prefix(err, "Variable");
    if (c->kind == KIND_IS)
        return is_literal(c->type, &value, &ignored) == c->wanted ? CHOICE_HOLDS : 0;
    return c->kind == KIND_MATCH ? match(c, ev, &value, err) : compare(c, ev, &value, err);
}

int choice_evaluate(const struct choice *choice, struct evaluation *evaluation, struct error *err)
{
    if (choice->kind > KIND_NOT)
        return evaluate_variable(choice, evaluation, err);
    if (choice->kind == KIND_NOT) {
        int r = choice_evaluate(choice->rules[0], evaluation, err);
        return r < 0 ? r : r == CHOICE_HOLDS ? 0 : CHOICE_HOLDS;
    }
    int decides = choice->kind == KIND_OR ? CHOICE_HOLDS : 0;
    for (unsigned i = 0; i < choice->n; i++) {
        int r = choice_evaluate(choice->rules[i], evaluation, err);
        if (r < 0 || r == decides)
            return r;
    }
    return decides ? 0 : CHOICE_HOLDS;
}
