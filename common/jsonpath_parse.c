/* The text of a path into its parts. */
#include "common/jsonpath_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"

#define MAX_ITEMS 256 /* names or indices in brackets */
#define INDEX_MAX 1000000000

struct parser {
    const char *start;
    const char *at;
    const char *end;
    struct pool *pool;
    unsigned nesting;
    struct error *err;
};

static int wrong(const struct parser *p, const char *what)
{
    size_t n = (size_t)(p->end - p->start);
    return error_set(p->err, ERROR_INVALID, "path %.*s%s: %s at character %zu", (int)(n < 100 ? n : 100),
                     p->start, n < 100 ? "" : "...", what, (size_t)(p->at - p->start) + 1);
}

static int no_memory(const struct parser *p)
{
    return error_set(p->err, ERROR_MEMORY, "out of memory");
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(struct parser *p)
{
    while (p->at < p->end && is_space(*p->at))
        p->at++;
}

static bool accept(struct parser *p, const char *token)
{
    size_t n = strlen(token);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, token, n) != 0)
        return false;
    p->at += n;
    return true;
}

static bool next_is(const struct parser *p, char c)
{
    return p->at < p->end && *p->at == c;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* --- literals --- */

/* One escape of a quoted text, as JSON has it and \' besides; as part of a JSON string. */
static int read_escape(struct parser *p, struct buffer *json)
{
    if (p->end - p->at < 2)
        return wrong(p, "an escape is cut off");
    char c = p->at[1];
    if (c == '\'') {
        buffer_append_char(json, '\'');
        p->at += 2;
        return 0;
    }
    if (!strchr("\"\\/bfnrtu", c) || !c)
        return wrong(p, "an unknown escape");
    size_t n = c == 'u' ? 6 : 2;
    if ((size_t)(p->end - p->at) < n)
        return wrong(p, "an escape is cut off");
    buffer_append(json, p->at, n);
    p->at += n;
    return 0;
}

/* A quoted text, single or double, as the JSON string that it is. */
static int read_quoted(struct parser *p, struct json_value *ret_string)
{
    char quote = *p->at++;
    BUFFER_AUTO json = BUFFER_INIT;
    buffer_append_char(&json, '"');
    while (p->at < p->end && *p->at != quote) {
        if (*p->at == '\\') {
            if (read_escape(p, &json) < 0)
                return -1;
        } else if (*p->at == '"') {
            buffer_append_text(&json, "\\\"");
            p->at++;
        } else {
            buffer_append_char(&json, *p->at++);
        }
    }
    if (p->at == p->end)
        return wrong(p, "a quote is not closed");
    p->at++;
    buffer_append_char(&json, '"');
    size_t len = json.len;
    const char *text = pool_take(p->pool, &json);
    if (!text)
        return no_memory(p);
    if (json_scan(text, len, ret_string, NULL) < 0)
        return wrong(p, "a quoted text is not valid (control characters, surrogates or UTF-8)");
    return 0;
}

static int read_name(struct parser *p, struct jsonpath_name *ret_name)
{
    struct json_value string;
    BUFFER_AUTO text = BUFFER_INIT;
    if (read_quoted(p, &string) < 0)
        return -1;
    json_unescape(&string, &text);
    ret_name->len = text.len;
    ret_name->text = pool_take(p->pool, &text);
    return ret_name->text ? 0 : no_memory(p);
}

static int read_index(struct parser *p, int64_t *ret_index)
{
    bool negative = accept(p, "-");
    int64_t value = 0;
    if (p->at == p->end || !is_digit(*p->at))
        return wrong(p, "an index is not a whole number");
    for (; p->at < p->end && is_digit(*p->at); p->at++)
        if ((value = value * 10 + (*p->at - '0')) > INDEX_MAX)
            return wrong(p, "an index is too large");
    *ret_index = negative ? -value : value;
    return 0;
}

/* --- expressions --- */

static int read_segments(struct parser *p, bool nested, struct jsonpath_segments *ret_segments);
static int read_or(struct parser *p, struct jsonpath_expression **ret_expression);

static int read_literal(struct parser *p, struct buffer *json);

static int read_array(struct parser *p, struct buffer *json)
{
    if (++p->nesting > JSONPATH_MAX_NESTING)
        return wrong(p, "nested too deeply");
    p->at++;
    buffer_append_char(json, '[');
    skip_space(p);
    for (unsigned n = 0; !accept(p, "]"); n++) {
        if (n && !accept(p, ","))
            return wrong(p, "a comma or ] is missing");
        if (n)
            buffer_append_char(json, ',');
        skip_space(p);
        if (read_literal(p, json) < 0)
            return -1;
        skip_space(p);
    }
    buffer_append_char(json, ']');
    p->nesting--;
    return 0;
}

/* A number or a word, up to what cannot be part of it. */
static int read_word(struct parser *p, struct buffer *json)
{
    struct json_value value;
    const char *start = p->at;
    while (p->at < p->end && !is_space(*p->at) && !strchr("),]=!<>&|", *p->at))
        p->at++;
    size_t n = (size_t)(p->at - start);
    if (json_scan(start, n, &value, NULL) < 0 || value.type == JSON_OBJECT || value.type == JSON_ARRAY) {
        p->at = start;
        return wrong(p, n && *start == '/' ? "regular expressions are not supported"
                                           : "neither a path, a text, a number nor true, false or null");
    }
    buffer_append(json, start, n);
    return 0;
}

static int read_literal(struct parser *p, struct buffer *json)
{
    struct json_value string;
    size_t len;
    if (next_is(p, '['))
        return read_array(p, json);
    if (!next_is(p, '\'') && !next_is(p, '"'))
        return read_word(p, json);
    if (read_quoted(p, &string) < 0)
        return -1;
    const char *raw = json_raw(&string, &len);
    buffer_append(json, raw, len);
    return 0;
}

static int read_operand(struct parser *p, struct jsonpath_operand *ret_operand)
{
    skip_space(p);
    if (next_is(p, '@') || next_is(p, '$')) {
        ret_operand->is_path = true;
        ret_operand->from_root = *p->at++ == '$';
        return read_segments(p, true, &ret_operand->path);
    }
    BUFFER_AUTO json = BUFFER_INIT;
    if (read_literal(p, &json) < 0)
        return -1;
    size_t len = json.len;
    const char *text = pool_take(p->pool, &json);
    if (!text)
        return no_memory(p);
    return json_scan(text, len, &ret_operand->literal, p->err);
}

static const struct {
    const char *token;
    enum jsonpath_operator op;
    bool word;
} operators[] = {
    {"===", JSONPATH_EQ, false},
    {"==", JSONPATH_EQ, false},
    {"!==", JSONPATH_NE, false},
    {"!=", JSONPATH_NE, false},
    {"<=", JSONPATH_LE, false},
    {"<", JSONPATH_LT, false},
    {">=", JSONPATH_GE, false},
    {">", JSONPATH_GT, false},
    {"in", JSONPATH_IN, true},
    {"nin", JSONPATH_NIN, true},
    {"subsetof", JSONPATH_SUBSETOF, true},
    {"anyof", JSONPATH_ANYOF, true},
    {"noneof", JSONPATH_NONEOF, true},
    {"contains", JSONPATH_CONTAINS, true},
    {"size", JSONPATH_SIZE, true},
    {"empty", JSONPATH_EMPTY, true},
};

/* The operator that stands here; JSONPATH_EXISTS for none. */
static enum jsonpath_operator read_operator(struct parser *p)
{
    const char *before = p->at;
    skip_space(p);
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++) {
        const char *start = p->at;
        if (!accept(p, operators[i].token))
            continue;
        if (!operators[i].word || p->at == p->end || is_space(*p->at) || strchr("'\"[@$", *p->at))
            return operators[i].op;
        p->at = start;
    }
    if (!next_is(p, '='))
        p->at = before;
    return JSONPATH_EXISTS;
}

static struct jsonpath_expression *add(struct parser *p, enum jsonpath_operator op)
{
    struct jsonpath_expression *e = pool_alloc(p->pool, sizeof *e);
    if (e)
        e->op = op;
    else
        no_memory(p);
    return e;
}

static int read_term(struct parser *p, struct jsonpath_expression **ret_expression)
{
    skip_space(p);
    if (accept(p, "(")) {
        if (++p->nesting > JSONPATH_MAX_NESTING)
            return wrong(p, "nested too deeply");
        if (read_or(p, ret_expression) < 0)
            return -1;
        p->nesting--;
        skip_space(p);
        return accept(p, ")") ? 0 : wrong(p, ") is missing");
    }
    if (next_is(p, '!')) {
        p->at++;
        struct jsonpath_expression *e = add(p, JSONPATH_NOT);
        if (!e)
            return -1;
        if (++p->nesting > JSONPATH_MAX_NESTING)
            return wrong(p, "nested too deeply");
        *ret_expression = e;
        if (read_term(p, &e->left) < 0)
            return -1;
        p->nesting--;
        return 0;
    }
    struct jsonpath_expression *e = add(p, JSONPATH_EXISTS);
    if (!e || read_operand(p, &e->a) < 0)
        return -1;
    *ret_expression = e;
    e->op = read_operator(p);
    if (e->op == JSONPATH_EXISTS && accept(p, "=~"))
        return wrong(p, "regular expressions are not supported");
    if (e->op == JSONPATH_EXISTS)
        return e->a.is_path ? 0 : wrong(p, "an operator is missing");
    return read_operand(p, &e->b);
}

static int read_chain(struct parser *p, enum jsonpath_operator op,
                      struct jsonpath_expression **ret_expression)
{
    int (*part)(struct parser *, struct jsonpath_expression **) = op == JSONPATH_OR ? NULL : read_term;
    if ((part ? part(p, ret_expression) : read_chain(p, JSONPATH_AND, ret_expression)) < 0)
        return -1;
    for (unsigned n = 0;; n++) {
        skip_space(p);
        if (!accept(p, op == JSONPATH_OR ? "||" : "&&"))
            return 0;
        struct jsonpath_expression *e = add(p, op);
        if (!e)
            return -1;
        if (n > MAX_ITEMS)
            return wrong(p, "too many terms");
        e->left = *ret_expression;
        if ((part ? part(p, &e->right) : read_chain(p, JSONPATH_AND, &e->right)) < 0)
            return -1;
        *ret_expression = e;
    }
}

static int read_or(struct parser *p, struct jsonpath_expression **ret_expression)
{
    return read_chain(p, JSONPATH_OR, ret_expression);
}

/* --- segments --- */

/* Behind the question mark: an expression, in parentheses or not. */
static int read_filter(struct parser *p, struct jsonpath_segment *s)
{
    s->kind = JSONPATH_FILTER;
    if (++p->nesting > JSONPATH_MAX_NESTING)
        return wrong(p, "nested too deeply");
    if (read_or(p, &s->filter) < 0)
        return -1;
    p->nesting--;
    return 0;
}

static int read_names(struct parser *p, struct jsonpath_segment *s)
{
    struct jsonpath_name names[MAX_ITEMS];
    s->kind = JSONPATH_NAMES;
    do {
        skip_space(p);
        if (s->n == MAX_ITEMS)
            return wrong(p, "too many names");
        if (!next_is(p, '\'') && !next_is(p, '"'))
            return wrong(p, "a quoted name is missing (names and indices do not mix)");
        if (read_name(p, &names[s->n]) < 0)
            return -1;
        s->n++;
        skip_space(p);
    } while (accept(p, ","));
    s->names = pool_alloc(p->pool, s->n * sizeof *names);
    if (!s->names)
        return no_memory(p);
    memcpy(s->names, names, s->n * sizeof *names);
    return 0;
}

/* Indices, or a slice. */
static int read_indices(struct parser *p, struct jsonpath_segment *s)
{
    int64_t indices[MAX_ITEMS] = {0};
    s->kind = JSONPATH_INDICES;
    if (!next_is(p, ':')) {
        do {
            skip_space(p);
            if (s->n == MAX_ITEMS)
                return wrong(p, "too many indices");
            if (read_index(p, &indices[s->n++]) < 0)
                return -1;
            skip_space(p);
        } while (accept(p, ","));
    }
    if (next_is(p, ':') && s->n <= 1) {
        p->at++;
        s->kind = JSONPATH_SLICE;
        s->has[0] = s->n == 1;
        skip_space(p);
        s->has[1] = !next_is(p, ']');
        if (s->has[1] && read_index(p, &indices[1]) < 0)
            return -1;
        s->n = 2;
        skip_space(p);
        if (next_is(p, ':'))
            return wrong(p, "slices have no step here");
        if (!s->has[0] && !s->has[1])
            return wrong(p, "a slice has no bounds");
    }
    s->indices = pool_alloc(p->pool, s->n * sizeof *indices);
    if (!s->indices)
        return no_memory(p);
    memcpy(s->indices, indices, s->n * sizeof *indices);
    return 0;
}

static int read_brackets(struct parser *p, struct jsonpath_segment *s)
{
    int r = 0;
    p->at++;
    skip_space(p);
    if (accept(p, "*"))
        s->kind = JSONPATH_WILDCARD;
    else if (accept(p, "?"))
        r = read_filter(p, s);
    else if (next_is(p, '\'') || next_is(p, '"'))
        r = read_names(p, s);
    else
        r = read_indices(p, s);
    if (r < 0)
        return -1;
    skip_space(p);
    return accept(p, "]") ? 0 : wrong(p, "] is missing");
}

static int read_function(struct parser *p, const char *name, size_t len, struct jsonpath_segment *s)
{
    static const char *const names[] = {"length", "keys", "first", "last",  "min",
                                        "max",    "avg",  "sum",   "stddev"};
    p->at++;
    skip_space(p);
    if (!accept(p, ")"))
        return wrong(p, "functions take no arguments here");
    s->kind = JSONPATH_FUNCTION;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == len && !memcmp(names[i], name, len)) {
            s->function = (enum jsonpath_function)i;
            return 0;
        }
    p->at = name;
    return wrong(p, "an unknown function");
}

static bool ends_name(char c, bool nested)
{
    return c == '.' || c == '[' || c == '(' || is_space(c) || (nested && strchr(")]=!<>&|,~", c));
}

static int read_dotted(struct parser *p, bool nested, struct jsonpath_segment *s)
{
    const char *start = p->at;
    if (accept(p, "*")) {
        s->kind = JSONPATH_WILDCARD;
        return 0;
    }
    while (p->at < p->end && !ends_name(*p->at, nested))
        p->at++;
    size_t len = (size_t)(p->at - start);
    if (!len)
        return wrong(p, "a name is missing");
    if (next_is(p, '('))
        return read_function(p, start, len, s);
    if (!utf8_valid(start, len))
        return wrong(p, "a name is not UTF-8");
    s->kind = JSONPATH_NAMES;
    s->n = 1;
    s->names = pool_alloc(p->pool, sizeof *s->names);
    char *copy = pool_alloc(p->pool, len);
    if (!s->names || !copy)
        return no_memory(p);
    *s->names = (struct jsonpath_name){memcpy(copy, start, len), len};
    return 0;
}

static int read_segment(struct parser *p, bool nested, struct jsonpath_segment *s)
{
    s->descend = accept(p, "..");
    if (next_is(p, '['))
        return read_brackets(p, s);
    if (!s->descend && !accept(p, "."))
        return wrong(p, "neither . nor [");
    return read_dotted(p, nested, s);
}

static bool is_definite(const struct jsonpath_segments *path)
{
    if (path->n && path->at[path->n - 1].kind == JSONPATH_FUNCTION)
        return true;
    for (unsigned i = 0; i < path->n; i++) {
        const struct jsonpath_segment *s = &path->at[i];
        bool single = (s->kind == JSONPATH_NAMES && (s->n == 1 || i == path->n - 1)) ||
                      (s->kind == JSONPATH_INDICES && s->n == 1);
        if (s->descend || !single)
            return false;
    }
    return true;
}

/* Up to the end, or, nested, to what cannot be part of a path. */
static int read_segments(struct parser *p, bool nested, struct jsonpath_segments *ret_segments)
{
    struct jsonpath_segment segments[JSONPATH_MAX_SEGMENTS];
    unsigned n = 0;
    while (p->at < p->end && (!nested || next_is(p, '.') || next_is(p, '['))) {
        if (n == JSONPATH_MAX_SEGMENTS)
            return wrong(p, "too many parts");
        if (n && segments[n - 1].kind == JSONPATH_FUNCTION)
            return wrong(p, "a function is not the last part");
        segments[n] = (struct jsonpath_segment){0};
        if (read_segment(p, nested, &segments[n]) < 0)
            return -1;
        n++;
    }
    ret_segments->at = pool_alloc(p->pool, n * sizeof *segments);
    if (!ret_segments->at)
        return no_memory(p);
    memcpy(ret_segments->at, segments, n * sizeof *segments);
    ret_segments->n = n;
    ret_segments->definite = is_definite(ret_segments);
    return 0;
}

int jsonpath_parse(const char *text, size_t len, struct jsonpath **ret_path, struct error *err)
{
    struct parser p = {.start = text, .at = text, .end = text + len, .err = err};
    if (len > JSONPATH_MAX_LENGTH)
        return error_set(err, ERROR_INVALID, "a path of %zu bytes is longer than %d", len,
                         JSONPATH_MAX_LENGTH);
    if (!next_is(&p, '$'))
        return wrong(&p, "a path begins with $");
    struct jsonpath *path = calloc(1, sizeof *path);
    if (!path)
        return no_memory(&p);
    p.pool = &path->pool;
    p.at++;
    path->text = strndup(text, len);
    if ((path->text ? read_segments(&p, false, &path->segments) : no_memory(&p)) < 0) {
        jsonpath_free(path);
        return -1;
    }
    *ret_path = path;
    return 0;
}

void jsonpath_free(struct jsonpath *path)
{
    if (!path)
        return;
    pool_done(&path->pool);
    free(path->text);
    free(path);
}

const char *jsonpath_text(const struct jsonpath *path)
{
    return path->text;
}

bool jsonpath_is_definite(const struct jsonpath *path)
{
    return path->segments.definite;
}

bool jsonpath_is_reference(const struct jsonpath *path)
{
    for (unsigned i = 0; i < path->segments.n; i++) {
        const struct jsonpath_segment *s = &path->segments.at[i];
        if (s->descend || s->n != 1 || (s->kind != JSONPATH_NAMES && s->kind != JSONPATH_INDICES) ||
            (s->kind == JSONPATH_INDICES && s->indices[0] < 0))
            return false;
    }
    return true;
}
