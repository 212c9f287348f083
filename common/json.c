/* A loop with a bit a level (object or array) instead of recursion. Inside strings everything hangs on one
 * question, "where is the next byte that is not plain?", answered sixteen bytes at a time. */
#include "common/json.h"

#include "common/buffer.h"
#include "common/error.h"

#include <assert.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Why and where a text is refused, and what is open at the place being read. */
struct scanner {
    const char *start;
    const char *end;
    const char *at;
    const char *wrong;
    bool escaped;                         /* there was a backslash since it was last set to false */
    unsigned depth;                       /* that is allowed */
    uint64_t object[JSON_MAX_DEPTH / 64]; /* bit d: level d is an object */
};

#ifdef __SSE2__
static inline __m128i load_block(const char *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

static inline __m128i equal(__m128i block, char c)
{
    return _mm_cmpeq_epi8(block, _mm_set1_epi8(c));
}

/* A bit for each of 16 bytes that a comparison has found. */
static inline unsigned mask_of(__m128i found)
{
    return (unsigned)_mm_movemask_epi8(found);
}

static inline unsigned special_mask(const char *p)
{
    __m128i block = load_block(p);
    /* The comparison is signed: bytes from 0x80 are below the space, too. */
    __m128i other = _mm_cmplt_epi8(block, _mm_set1_epi8(' '));
    return mask_of(_mm_or_si128(other, _mm_or_si128(equal(block, '"'), equal(block, '\\'))));
}

static inline unsigned delimiter_mask(const char *p)
{
    __m128i block = load_block(p);
    return mask_of(_mm_or_si128(equal(block, '"'), equal(block, '\\')));
}

static inline unsigned bracket_mask(const char *p)
{
    /* '[' becomes '{' and ']' becomes '}'; nothing else becomes either. */
    __m128i folded = _mm_or_si128(load_block(p), _mm_set1_epi8(0x20));
    return mask_of(_mm_or_si128(equal(folded, '{'), equal(folded, '}')));
}
#endif

/* The next byte that is not plain: quote, backslash, control character or non-ASCII. */
static inline const char *find_special(const struct scanner *s, const char *p)
{
    const char *end = s->end;
#ifdef __SSE2__
    for (; end - p >= 16; p += 16) {
        unsigned mask = special_mask(p);
        if (mask)
            return p + __builtin_ctz(mask);
    }
    if (end - s->start >= 16) { /* the rest, read together with bytes that were looked at before */
        unsigned mask = special_mask(end - 16) >> (16 - (end - p));
        return mask ? p + __builtin_ctz(mask) : end;
    }
#endif
    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\')
        p++;
    return p;
}

static inline const char *find_delimiter(const char *p, const char *end)
{
#ifdef __SSE2__
    for (; end - p >= 16; p += 16) {
        unsigned mask = delimiter_mask(p);
        if (mask)
            return p + __builtin_ctz(mask);
    }
#endif
    while (p < end && *p != '"' && *p != '\\')
        p++;
    return p;
}

/* A bit for each of the n (at most 16) bytes that is a quote, a backslash or a bracket. */
static inline unsigned structure_mask(const char *p, size_t n)
{
#ifdef __SSE2__
    if (n == 16)
        return bracket_mask(p) | delimiter_mask(p);
#endif
    unsigned mask = 0;
    for (size_t i = 0; i < n; i++)
        mask |= (unsigned)(p[i] == '"' || p[i] == '\\' || (p[i] | 0x20) == '{' || (p[i] | 0x20) == '}') << i;
    return mask;
}

static inline bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static inline const char *skip_space(const char *p, const char *end)
{
    while (p < end && is_space(*p))
        p++;
    return p;
}

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool is_continuation(unsigned char c)
{
    return (c & 0xc0) == 0x80;
}

/* The length of the well-formed sequence at p, whose first byte is not ASCII (the table of RFC 3629 section
 * 4); 0 when it is not well formed. */
static inline size_t utf8_sequence(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text;
    unsigned char lead = p[0];
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    if (lead < 0xe0)
        return n >= 2 && is_continuation(p[1]) ? 2 : 0;
    if (lead < 0xf0) {
        if (n < 3 || !is_continuation(p[1]) || !is_continuation(p[2]))
            return 0;
        bool overlong = lead == 0xe0 && p[1] < 0xa0;
        bool surrogate = lead == 0xed && p[1] > 0x9f;
        return overlong || surrogate ? 0 : 3;
    }
    if (n < 4 || !is_continuation(p[1]) || !is_continuation(p[2]) || !is_continuation(p[3]))
        return 0;
    bool overlong = lead == 0xf0 && p[1] < 0x90;
    bool too_large = lead == 0xf4 && p[1] > 0x8f;
    return overlong || too_large ? 0 : 4;
}

static inline bool ascii8(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return !(word & 0x8080808080808080u);
}

bool utf8_valid(const char *text, size_t n)
{
    if (n == 0) /* text may be NULL */
        return true;
    const char *p = text;
    const char *end = text + n;
    while (p < end) {
        if (end - p >= 8) {
            if (ascii8(p)) {
                p += 8;
                continue;
            }
        } else if (n >= 8 && ascii8(end - 8)) {
            return true; /* the rest, read together with bytes that were looked at before */
        }
        if ((unsigned char)*p < 0x80) {
            p++;
            continue;
        }
        size_t length = utf8_sequence(p, (size_t)(end - p));
        if (!length)
            return false;
        p += length;
    }
    return true;
}

void json_append_bytes(struct buffer *out, const char *text, size_t n)
{
    if (utf8_valid(text, n)) {
        buffer_append_json(out, text, n);
        return;
    }
    buffer_append_text(out, "{\"base64\":\"");
    buffer_append_base64(out, text, n);
    buffer_append_text(out, "\"}");
}

static __attribute__((cold, noinline)) const char *fail(struct scanner *s, const char *at, const char *wrong)
{
    s->at = at;
    s->wrong = at < s->end ? wrong : "unexpected end of text";
    return NULL;
}

static inline int hex_digit(char c)
{
    if (is_digit(c))
        return c - '0';
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* The value of four hexadecimal digits; negative when they are not. */
static inline int hex4(const char *p)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(p[i]);
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

static inline bool is_high_surrogate(int unit)
{
    return (unit & ~0x3ff) == 0xd800;
}

static inline bool is_low_surrogate(int unit)
{
    return (unit & ~0x3ff) == 0xdc00;
}

/* p stands at a backslash; returns what follows the escape. */
static const char *scan_escape(struct scanner *s, const char *p)
{
    if (s->end - p < 2)
        return fail(s, s->end, "");
    switch (p[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return p + 2;
    case 'u':
        break;
    default:
        return fail(s, p, "unknown escape");
    }
    int unit = s->end - p < 6 ? -1 : hex4(p + 2);
    if (unit < 0)
        return fail(s, p, "\\u without four hexadecimal digits");
    if (is_low_surrogate(unit))
        return fail(s, p, "lone surrogate");
    if (!is_high_surrogate(unit))
        return p + 6;
    if (s->end - p < 12 || p[6] != '\\' || p[7] != 'u' || !is_low_surrogate(hex4(p + 8)))
        return fail(s, p, "lone surrogate");
    return p + 12;
}

/* p stands behind the opening quote; returns what follows the closing one. */
static inline const char *scan_string(struct scanner *s, const char *p)
{
    for (;;) {
        p = find_special(s, p);
        if (p == s->end)
            return fail(s, p, "");
        if (*p == '"')
            return p + 1;
        if (*p == '\\') {
            s->escaped = true;
            bool quote = s->end - p >= 2 && p[1] == '"'; /* most are, where JSON is the text */
            p = quote ? p + 2 : scan_escape(s, p);
            if (!p)
                return NULL;
            continue;
        }
        if ((unsigned char)*p < 0x20)
            return fail(s, p, "control character in a string");
        do {
            size_t length = utf8_sequence(p, (size_t)(s->end - p));
            if (!length)
                return fail(s, p, "invalid UTF-8");
            p += length;
        } while (p < s->end && (unsigned char)*p >= 0x80);
    }
}

static inline const char *scan_digits(struct scanner *s, const char *p)
{
    if (p == s->end || !is_digit(*p))
        return fail(s, p, "a digit is missing");
    while (p < s->end && is_digit(*p))
        p++;
    return p;
}

static inline const char *scan_number(struct scanner *s, const char *p)
{
    if (*p == '-')
        p++;
    if (p < s->end && *p == '0')
        p++;
    else if (!(p = scan_digits(s, p)))
        return NULL;
    if (p < s->end && *p == '.' && !(p = scan_digits(s, p + 1)))
        return NULL;
    if (p < s->end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < s->end && (*p == '+' || *p == '-'))
            p++;
        p = scan_digits(s, p);
    }
    return p;
}

static inline const char *scan_word(struct scanner *s, const char *p, const char *word, size_t n)
{
    if ((size_t)(s->end - p) < n || memcmp(p, word, n) != 0)
        return fail(s, p, "unexpected character");
    return p + n;
}

/* A value that is not a container; p stands at its first byte. */
static inline const char *scan_scalar(struct scanner *s, const char *p)
{
    switch (*p) {
    case '"':
        return scan_string(s, p + 1);
    case 't':
        return scan_word(s, p, "true", 4);
    case 'f':
        return scan_word(s, p, "false", 5);
    case 'n':
        return scan_word(s, p, "null", 4);
    default:
        if (*p != '-' && !is_digit(*p))
            return fail(s, p, "unexpected character");
        return scan_number(s, p);
    }
}

/* A member's name and its colon; returns what follows them. */
static inline const char *scan_name(struct scanner *s, const char *p, struct json_value *ret_name)
{
    p = skip_space(p, s->end);
    if (p == s->end || *p != '"')
        return fail(s, p, "a member's name is missing");
    const char *start = p + 1;
    s->escaped = false;
    p = scan_string(s, start);
    if (!p)
        return NULL;
    *ret_name = (struct json_value){start, (size_t)(p - start) - 1, JSON_STRING, s->escaped};
    p = skip_space(p, s->end);
    if (p == s->end || *p != ':')
        return fail(s, p, "a colon is missing");
    return p + 1;
}

/* One value with all that is in it; returns what follows. */
static const char *scan_value(struct scanner *s, const char *p)
{
    const char *end = s->end;
    unsigned depth = 0;
    bool object = false; /* the innermost open container is an object */
    struct json_value name;
    for (;;) {
        p = skip_space(p, end);
        if (p == end)
            return fail(s, p, "");
        if (*p == '{' || *p == '[') {
            if (depth == s->depth)
                return fail(s, p, "nested too deeply");
            object = *p == '{';
            uint64_t bit = UINT64_C(1) << (depth & 63);
            uint64_t *bits = &s->object[depth / 64];
            *bits = object ? *bits | bit : *bits & ~bit;
            depth++;
            p = skip_space(p + 1, end);
            if (p == end || *p != (object ? '}' : ']')) {
                if (object && !(p = scan_name(s, p, &name)))
                    return NULL;
                continue;
            }
        } else if (!(p = scan_scalar(s, p))) {
            return NULL;
        }
        for (;;) { /* behind a value, or at the end of an empty container */
            if (!depth)
                return p;
            p = skip_space(p, end);
            if (p == end)
                return fail(s, p, "");
            if (*p == ',')
                break;
            if (*p != (object ? '}' : ']'))
                return fail(s, p, object ? "a comma or } is missing" : "a comma or ] is missing");
            p++;
            depth--;
            object = depth && s->object[(depth - 1) / 64] >> ((depth - 1) & 63) & 1;
        }
        p++;
        if (object && !(p = scan_name(s, p, &name)))
            return NULL;
    }
}

/* The end of a validated string; p stands behind its opening quote. */
static inline const char *string_end(const char *p, const char *end, bool *ret_escaped)
{
    bool escaped = false;
#ifdef __SSE2__
    unsigned skipped = 0; /* bytes of the next block that an escape has taken */
    for (; end - p >= 16; p += 16) {
        unsigned mask = delimiter_mask(p) >> skipped << skipped;
        skipped = 0;
        while (mask) {
            unsigned i = (unsigned)__builtin_ctz(mask);
            if (p[i] == '"') {
                *ret_escaped = escaped;
                return p + i;
            }
            escaped = true;
            skipped = i == 15;
            mask &= ~(3u << i);
        }
    }
    p += skipped;
#endif
    while ((p = find_delimiter(p, end)) < end && *p == '\\') {
        escaped = true;
        p += 2;
    }
    *ret_escaped = escaped;
    return p;
}

/* What follows a validated container; p stands at its bracket. */
static const char *container_end(const char *p, const char *end)
{
    size_t depth = 0;
    bool in_string = false;
    while (p < end) {
        size_t n = end - p < 16 ? (size_t)(end - p) : 16;
        size_t step = n;
        for (unsigned mask = structure_mask(p, n); mask; mask &= mask - 1) {
            const char *at = p + __builtin_ctz(mask);
            if (*at == '"') {
                in_string = !in_string;
            } else if (*at == '\\') {
                step = (size_t)(at - p) + 2; /* behind what is escaped */
                break;
            } else if (!in_string) {
                depth += (*at | 0x20) == '{' ? 1 : -(size_t)1;
                if (depth == 0)
                    return at + 1;
            }
        }
        p += step;
    }
    return end;
}

static inline enum json_type type_of(char first)
{
    switch (first) {
    case '"':
        return JSON_STRING;
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case 't':
        return JSON_TRUE;
    case 'f':
        return JSON_FALSE;
    case 'n':
        return JSON_NULL;
    default:
        return JSON_NUMBER;
    }
}

/* Describes the validated value at p and returns what follows it. */
static inline const char *read_value(const char *p, const char *end, struct json_value *ret_value)
{
    const char *start = p;
    bool escaped = false;
    enum json_type type = type_of(*p);
    if (type == JSON_STRING) {
        start = p + 1;
        const char *close = string_end(start, end, &escaped);
        *ret_value = (struct json_value){start, (size_t)(close - start), type, escaped};
        return close + 1;
    }
    if (type == JSON_OBJECT || type == JSON_ARRAY)
        p = container_end(p, end);
    else
        while (p < end && *p != ',' && *p != '}' && *p != ']' && !is_space(*p))
            p++;
    *ret_value = (struct json_value){start, (size_t)(p - start), type, false};
    return p;
}

/* The value from start to its end, just scanned. */
static inline struct json_value scanned_value(const struct scanner *s, const char *start, const char *end)
{
    if (*start == '"')
        return (struct json_value){start + 1, (size_t)(end - start) - 2, JSON_STRING, s->escaped};
    return (struct json_value){start, (size_t)(end - start), type_of(*start), false};
}

/* A member's value, which is put down; p stands before it. Returns what follows. */
static inline const char *scan_member(struct scanner *s, const char *p, struct json_value *ret_value)
{
    p = skip_space(p, s->end);
    const char *start = p;
    s->escaped = false;
    p = p < s->end && *p == '"' ? scan_string(s, p + 1) : scan_value(s, p);
    if (p)
        *ret_value = scanned_value(s, start, p);
    return p;
}

/* An object, whose members are put down; p stands at its bracket. Returns what follows. */
static inline const char *scan_object(struct scanner *s, const char *p, struct json_members *members)
{
    const char *end = s->end;
    size_t n = 0;
    p = skip_space(p + 1, end);
    if (p < end && *p == '}')
        return p + 1;
    for (;; p++) {
        size_t at = n < JSON_MEMBERS_MAX ? n : JSON_MEMBERS_MAX - 1;
        if (!(p = scan_name(s, p, &members->name[at])) || !(p = scan_member(s, p, &members->value[at])))
            return NULL;
        members->n = ++n;
        p = skip_space(p, end);
        if (p == end)
            return fail(s, p, "");
        if (*p == '}')
            return p + 1;
        if (*p != ',')
            return fail(s, p, "a comma or } is missing");
    }
}

static inline int scan(const char *text, size_t len, unsigned depth, struct json_value *ret_value,
                       struct json_members *members, struct error *err)
{
    assert(depth <= JSON_MAX_DEPTH);
    if (len == 0) /* text may be NULL */
        text = "";
    struct scanner s = {.start = text, .end = text + len, .at = text, .wrong = "", .depth = depth};
    const char *start = skip_space(text, s.end);
    const char *p;
    if (members && depth && start < s.end && *start == '{') {
        s.depth--;
        p = scan_object(&s, start, members);
    } else {
        p = scan_value(&s, start);
    }
    const char *close = p;
    if (p && (p = skip_space(p, s.end)) != s.end)
        p = fail(&s, p, "text after the value");
    if (!p)
        return error_set(err, ERROR_INVALID, "invalid JSON at byte %zu: %s", (size_t)(s.at - text), s.wrong);
    *ret_value = scanned_value(&s, start, close);
    return 0;
}

int json_scan(const char *text, size_t len, struct json_value *ret_value, struct error *err)
{
    return scan(text, len, JSON_MAX_DEPTH, ret_value, NULL, err);
}

int json_scan_within(const char *text, size_t len, unsigned depth, struct json_value *ret_value,
                     struct error *err)
{
    return scan(text, len, depth, ret_value, NULL, err);
}

int json_scan_members(const char *text, size_t len, unsigned depth, struct json_value *ret_value,
                      struct json_members *ret_members, struct error *err)
{
    ret_members->n = 0;
    return scan(text, len, depth, ret_value, ret_members, err);
}

bool json_is_deeper(const struct json_value *value, unsigned depth)
{
    struct json_value same;
    if (value->type < JSON_ARRAY || value->len < 2 * ((size_t)depth + 1)) /* the brackets alone are longer */
        return false;
    return json_scan_within(value->text, value->len, depth, &same, NULL) < 0;
}

void json_iter_init(struct json_iter *iter, const struct json_value *container)
{
    iter->object = container->type == JSON_OBJECT;
    iter->unread = false;
    if (iter->object || container->type == JSON_ARRAY) {
        iter->at = container->text + 1;
        iter->end = container->text + container->len - 1;
    } else {
        iter->at = iter->end = container->text;
    }
}

/* The name of the next member, or none of an element; returns the beginning of its value. */
static inline const char *read_name(struct json_iter *iter, const char *p, struct json_value *ret_name)
{
    const char *end = iter->end;
    if (*p == ',')
        p = skip_space(p + 1, end);
    if (!iter->object) {
        *ret_name = (struct json_value){p, 0, JSON_ABSENT, false};
        return p;
    }
    p = read_value(p, end, ret_name);
    return skip_space(skip_space(p, end) + 1, end); /* the colon */
}

bool json_next(struct json_iter *iter, struct json_value *ret_name, struct json_value *ret_value)
{
    const char *end = iter->end;
    const char *p = skip_space(iter->at, end);
    if (p == end) {
        iter->at = end;
        return false;
    }
    iter->at = read_value(read_name(iter, p, ret_name), end, ret_value);
    return true;
}

bool json_next_open(struct json_iter *iter, struct json_value *ret_name, struct json_value *ret_value)
{
    const char *end = iter->end;
    if (iter->unread)
        iter->at = container_end(iter->at, end);
    iter->unread = false;
    const char *p = skip_space(iter->at, end);
    iter->at = p;
    if (p == end || *p == '}' || *p == ']')
        return false;
    p = read_name(iter, p, ret_name);
    enum json_type type = type_of(*p);
    iter->unread = type == JSON_OBJECT || type == JSON_ARRAY;
    if (iter->unread) {
        *ret_value = (struct json_value){p, 1, type, false};
        iter->at = p;
    } else {
        iter->at = read_value(p, end, ret_value);
    }
    return true;
}

void json_open(const struct json_iter *iter, struct json_iter *ret_inner)
{
    assert(iter->unread);
    *ret_inner = (struct json_iter){.at = iter->at + 1, .end = iter->end, .object = *iter->at == '{'};
}

void json_close(struct json_iter *iter, const struct json_iter *inner)
{
    iter->unread = false;
    iter->at = inner->at + 1;
}

static inline char escaped_char(char c)
{
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return c;
    }
}

/* Decodes the validated escape at *at (a backslash) into at most four bytes, and moves behind it. */
static inline size_t decode_escape(const char **at, char to[4])
{
    const char *p = *at + 1;
    *at += 2;
    if (*p != 'u') {
        to[0] = escaped_char(*p);
        return 1;
    }
    uint32_t c = (uint32_t)hex4(p + 1);
    *at += 4;
    if (is_high_surrogate((int)c)) {
        c = 0x10000 + ((c & 0x3ff) << 10) + ((uint32_t)hex4(p + 7) & 0x3ff);
        *at += 6;
    }
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        to[i] = (char)(0x80 | (c & 0x3f));
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    to[0] = (char)(lead[n] | c);
    return n;
}

/* Copies up to the next backslash, or some of the way. There is as much room at *to as text is left. */
static inline const char *copy_plain(const char *p, const char *end, char **to)
{
#ifdef __SSE2__
    if (end - p >= 16) {
        __m128i block = load_block(p);
        unsigned mask = mask_of(equal(block, '\\'));
        unsigned n = mask ? (unsigned)__builtin_ctz(mask) : 16;
        _mm_storeu_si128((__m128i *)(void *)*to, block);
        *to += n;
        return p + n;
    }
#endif
    while (p < end && *p != '\\')
        *(*to)++ = *p++;
    return p;
}

void json_unescape(const struct json_value *string, struct buffer *out)
{
    if (!string->escaped) {
        buffer_append(out, string->text, string->len);
        return;
    }
    /* An escape is never shorter than what it stands for. */
    char *start = buffer_reserve(out, string->len);
    if (!start)
        return;
    char *to = start;
    const char *end = string->text + string->len;
    for (const char *p = string->text; p < end;) {
        p = copy_plain(p, end, &to);
        if (p == end || *p != '\\')
            continue;
        char decoded[4];
        size_t n = decode_escape(&p, decoded);
        for (size_t i = 0; i < n; i++)
            *to++ = decoded[i];
    }
    out->len += (size_t)(to - start);
}

bool json_equals(const struct json_value *string, const char *name, size_t len)
{
    if (string->type != JSON_STRING)
        return false;
    if (!string->escaped)
        return string->len == len && memcmp(string->text, name, len) == 0;
    const char *end = string->text + string->len;
    size_t at = 0;
    for (const char *p = string->text; p < end;) {
        char decoded[4] = {*p};
        size_t n = 1;
        if (*p == '\\')
            n = decode_escape(&p, decoded);
        else
            p++;
        if (len - at < n || memcmp(name + at, decoded, n) != 0)
            return false;
        at += n;
    }
    return at == len;
}

bool json_member(const struct json_value *object, const char *name, struct json_value *ret_value)
{
    struct json_iter iter;
    struct json_value key;
    struct json_value value;
    size_t len = strlen(name);
    *ret_value = (struct json_value){object->text, 0, JSON_ABSENT, false};
    if (object->type != JSON_OBJECT)
        return false;
    json_iter_init(&iter, object);
    while (json_next(&iter, &key, &value))
        if (json_equals(&key, name, len))
            *ret_value = value;
    return ret_value->type != JSON_ABSENT;
}

/* The number of an exponent's digits, held far below what could overflow together with a text's length. */
static int64_t read_exponent(const char *p, const char *end)
{
    const int64_t bound = INT64_C(1) << 60;
    bool negative = p < end && *p == '-';
    int64_t value = 0;
    for (; p < end; p++)
        if (is_digit(*p) && value < bound / 16)
            value = value * 10 + (*p - '0');
    return negative ? -value : value;
}

bool json_integer(const struct json_value *number, int64_t *ret_value)
{
    if (number->type != JSON_NUMBER)
        return false;
    const char *end = number->text + number->len;
    const char *p = number->text;
    bool negative = *p == '-';
    uint64_t value = 0;
    int digits = 0;    /* significant ones in value */
    int64_t zeros = 0; /* behind them, not yet in value */
    int64_t decimals = 0;
    bool fraction = false;
    for (p += negative; p < end && *p != 'e' && *p != 'E'; p++) {
        if (*p == '.') {
            fraction = true;
            continue;
        }
        decimals += fraction;
        if (*p == '0') {
            zeros += digits > 0;
            continue;
        }
        for (; zeros > 0 && digits <= 19; zeros--, digits++)
            value *= 10;
        if (++digits > 19)
            return false; /* too large, or too precise to be whole within the range */
        value = value * 10 + (uint64_t)(*p - '0');
    }
    int64_t exponent = (p < end ? read_exponent(p + 1, end) : 0) - decimals + zeros;
    if (value == 0) {
        *ret_value = 0;
        return true;
    }
    if (exponent < 0 || digits + exponent > 19)
        return false;
    for (; exponent > 0; exponent--)
        value *= 10;
    if (value > (uint64_t)INT64_MAX + negative)
        return false;
    *ret_value = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

const char *json_raw(const struct json_value *value, size_t *ret_len)
{
    bool string = value->type == JSON_STRING;
    *ret_len = value->len + (string ? 2 : 0);
    return string ? value->text - 1 : value->text;
}

const char *json_type_name(enum json_type type)
{
    static const char *const names[] = {"absent",   "null",     "a boolean", "a boolean",
                                        "a number", "a string", "an array",  "an object"};
    return (unsigned)type < sizeof names / sizeof *names ? names[type] : "unknown";
}
