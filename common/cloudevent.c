/* Invariant: attribute[CE_DATA].text is NULL exactly when data is CE_DATA_ABSENT.
 *
 * The packed form:
 *
 *     struct packed | lengths of extension names and values | bytes: attributes, extension names and values |
 * zeros
 *
 * An attribute's place is the sum of the lengths before it; one that is absent has no length and no bit in
 * present. */
#include "common/cloudevent.h"

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

/* What a name means: an enum cloudevent_attribute, or one of these. */
enum { NAME_EXTENSION = CE_ATTRIBUTES, NAME_DATA_BASE64 };

struct packed_extension {
    uint32_t name_len;
    uint32_t value_len;
};

struct packed {
    uint32_t len[CE_ATTRIBUTES];
    uint16_t present; /* bit i: attribute i */
    uint8_t data;
    uint8_t n_extensions;
    struct packed_extension extension[];
};

_Static_assert(CE_ATTRIBUTES <= 16 && CLOUDEVENT_MAX_EXTENSIONS <= UINT8_MAX, "the fields of struct packed");

static const char *const attribute_names[CE_ATTRIBUTES] = {
    [CE_SPECVERSION] = "specversion", [CE_ID] = "id",
    [CE_SOURCE] = "source",           [CE_TYPE] = "type",
    [CE_SUBJECT] = "subject",         [CE_TIME] = "time",
    [CE_DATASCHEMA] = "dataschema",   [CE_DATACONTENTTYPE] = "datacontenttype",
    [CE_KEY] = "triggerflowkey",      [CE_DATA] = "data",
};

const char *cloudevent_attribute_name(enum cloudevent_attribute attribute)
{
    return (unsigned)attribute < CE_ATTRIBUTES ? attribute_names[attribute] : "unknown";
}

void cloudevent_clear(struct cloudevent *event)
{
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++) /* memset would become a slow string instruction */
        event->attribute[i] = (struct cloudevent_span){NULL, 0};
    event->data = CE_DATA_ABSENT;
    event->n_extensions = 0;
}

static inline unsigned meaning_of(const char *name, size_t n)
{
    switch (n) {
    case 2:
        return memcmp(name, "id", 2) == 0 ? CE_ID : NAME_EXTENSION;
    case 4:
        if (memcmp(name, "type", 4) == 0)
            return CE_TYPE;
        if (memcmp(name, "data", 4) == 0)
            return CE_DATA;
        return memcmp(name, "time", 4) == 0 ? CE_TIME : NAME_EXTENSION;
    case 6:
        return memcmp(name, "source", 6) == 0 ? CE_SOURCE : NAME_EXTENSION;
    case 7:
        return memcmp(name, "subject", 7) == 0 ? CE_SUBJECT : NAME_EXTENSION;
    case 10:
        return memcmp(name, "dataschema", 10) == 0 ? CE_DATASCHEMA : NAME_EXTENSION;
    case 11:
        if (memcmp(name, "specversion", 11) == 0)
            return CE_SPECVERSION;
        return memcmp(name, "data_base64", 11) == 0 ? NAME_DATA_BASE64 : NAME_EXTENSION;
    case 14:
        return memcmp(name, "triggerflowkey", 14) == 0 ? CE_KEY : NAME_EXTENSION;
    case 15:
        return memcmp(name, "datacontenttype", 15) == 0 ? CE_DATACONTENTTYPE : NAME_EXTENSION;
    default:
        return NAME_EXTENSION;
    }
}

static inline bool span_equals(const struct cloudevent_span *span, const char *text, size_t n)
{
    return span->len == n && memcmp(span->text, text, n) == 0;
}

/* Fills err about an attribute; a long name is cut between characters. */
static __attribute__((cold)) int refuse(struct error *err, const char *name, size_t name_len, const char *why)
{
    size_t shown = name_len < 64 ? name_len : 64;
    while (shown < name_len && shown > 0 && ((unsigned char)name[shown] & 0xc0) == 0x80)
        shown--;
    return error_set(err, ERROR_INVALID, "attribute %.*s: %s", (int)shown, name, why);
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The bytes of the digits of a base64 text (RFC 4648 section 4, padding required); -1 when it is not one. */
static ptrdiff_t base64_digits(const char *text, size_t n)
{
    if (n % 4)
        return -1;
    for (int padding = 0; padding < 2 && n > 0 && text[n - 1] == '='; padding++)
        n--;
    for (size_t i = 0; i < n; i++)
        if (base64_digit(text[i]) < 0)
            return -1;
    return (ptrdiff_t)n;
}

/* Appends the decoded bytes; false, with nothing appended, when the text is not base64. */
static bool base64_decode(const char *text, size_t n, struct buffer *out)
{
    ptrdiff_t digits = base64_digits(text, n);
    if (digits < 0)
        return false;
    char *to = buffer_reserve(out, n / 4 * 3);
    if (!to)
        return true;
    uint32_t bits = 0;
    for (ptrdiff_t i = 0; i < digits; i++) {
        bits = bits << 6 | (uint32_t)base64_digit(text[i]);
        if (i % 4)
            *to++ = (char)(bits >> (6 - i % 4 * 2) & 0xff);
    }
    out->len = (size_t)(to - out->data);
    return true;
}

/* Adds what is known to be UTF-8. */
static int add_extension(struct cloudevent *event, const char *name, size_t name_len, const char *value,
                         size_t value_len, struct error *err)
{
    if (name_len == 0)
        return error_set(err, ERROR_INVALID, "an attribute without a name");
    for (unsigned i = 0; i < event->n_extensions; i++)
        if (span_equals(&event->extension[i].name, name, name_len))
            return refuse(err, name, name_len, "given twice");
    if (event->n_extensions == CLOUDEVENT_MAX_EXTENSIONS)
        return refuse(err, name, name_len, "too many extensions");
    struct cloudevent_extension *extension = &event->extension[event->n_extensions++];
    extension->name = (struct cloudevent_span){name, (uint32_t)name_len};
    extension->value = (struct cloudevent_span){value, (uint32_t)value_len};
    return 0;
}

static inline int add_attribute(struct cloudevent *event, enum cloudevent_attribute attribute,
                                const char *value, size_t value_len, struct error *err)
{
    const char *name = attribute_names[attribute];
    if (event->attribute[attribute].text)
        return refuse(err, name, strlen(name), "given twice");
    event->attribute[attribute] = (struct cloudevent_span){value, (uint32_t)value_len};
    return 0;
}

static int add_data(struct cloudevent *event, enum cloudevent_data kind, const char *value, size_t value_len,
                    struct error *err)
{
    if (event->data != CE_DATA_ABSENT && (event->data == CE_DATA_BASE64) != (kind == CE_DATA_BASE64))
        return error_set(err, ERROR_INVALID, "both attributes data and data_base64");
    if (kind == CE_DATA_BASE64 && base64_digits(value, value_len) < 0)
        return error_set(err, ERROR_INVALID, "attribute data_base64: not base64");
    if (add_attribute(event, CE_DATA, value, value_len, err) < 0)
        return -1;
    event->data = kind;
    return 0;
}

int cloudevent_add(struct cloudevent *event, const char *name, size_t name_len, const char *value,
                   size_t value_len, struct error *err)
{
    unsigned meaning = meaning_of(name, name_len);
    if (name_len > UINT32_MAX || value_len > UINT32_MAX)
        return refuse(err, name, name_len, "4 GiB or more");
    if (meaning == NAME_EXTENSION && !utf8_valid(name, name_len))
        return error_set(err, ERROR_INVALID, "an attribute's name that is not UTF-8");
    if (!utf8_valid(value, value_len))
        return refuse(err, name, name_len, "not UTF-8");
    if (!value)
        value = "";
    if (meaning == CE_DATA)
        return add_data(event, CE_DATA_TEXT, value, value_len, err);
    if (meaning == NAME_DATA_BASE64)
        return add_data(event, CE_DATA_BASE64, value, value_len, err);
    if (meaning == NAME_EXTENSION)
        return add_extension(event, name, name_len, value, value_len, err);
    return add_attribute(event, (enum cloudevent_attribute)meaning, value, value_len, err);
}

/* Reading one event from JSON. */
struct reader {
    struct cloudevent *event;
    struct buffer *scratch;
    size_t room; /* what scratch still has to reserve, once, before anything is unescaped into it */
    struct error *err;
};

/* A string's text, borrowed from the JSON text or, where it has escapes, from scratch. */
static inline int read_text(struct reader *r, const struct json_value *string,
                            struct cloudevent_span *ret_text)
{
    *ret_text = (struct cloudevent_span){string->text, (uint32_t)string->len};
    if (!string->escaped)
        return 0;
    /* Room for all of the event's strings: scratch must not move once a span points into it. */
    if (!buffer_reserve(r->scratch, r->room))
        return error_set(r->err, ERROR_MEMORY, "no memory for an event of %zu bytes", r->room);
    r->room = 0;
    size_t start = r->scratch->len;
    json_unescape(string, r->scratch);
    *ret_text = (struct cloudevent_span){r->scratch->data + start, (uint32_t)(r->scratch->len - start)};
    return 0;
}

/* The types that a context attribute can have in JSON (CloudEvents JSON format, section 2.2). */
static int read_extension(struct reader *r, const struct cloudevent_span *name,
                          const struct json_value *value)
{
    struct cloudevent_span text = {value->text, (uint32_t)value->len};
    int64_t integer;
    switch (value->type) {
    case JSON_STRING:
        if (read_text(r, value, &text) < 0)
            return -1;
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        break;
    case JSON_NUMBER:
        if (!json_integer(value, &integer))
            return refuse(r->err, name->text, name->len, "a number that is not an integer");
        break;
    default:
        return refuse(r->err, name->text, name->len, "neither a string, an integer nor a boolean");
    }
    return add_extension(r->event, name->text, name->len, text.text, text.len, r->err);
}

static inline int read_known(struct reader *r, unsigned meaning, const struct json_value *value)
{
    struct cloudevent_span text;
    if (meaning == CE_DATA && value->type != JSON_STRING) {
        size_t len;
        const char *raw = json_raw(value, &len);
        return add_data(r->event, CE_DATA_JSON, raw, len, r->err);
    }
    if (value->type != JSON_STRING) {
        const char *name = meaning == NAME_DATA_BASE64 ? "data_base64" : attribute_names[meaning];
        return refuse(r->err, name, strlen(name), "not a string");
    }
    if (read_text(r, value, &text) < 0)
        return -1;
    if (meaning == CE_DATA)
        return add_data(r->event, CE_DATA_TEXT, text.text, text.len, r->err);
    if (meaning == NAME_DATA_BASE64)
        return add_data(r->event, CE_DATA_BASE64, text.text, text.len, r->err);
    return add_attribute(r->event, (enum cloudevent_attribute)meaning, text.text, text.len, r->err);
}

/* The original client's nested object. It may hold the key, which is an extension, but no other known
 * attribute. */
static int read_nested(struct reader *r, const struct json_value *object)
{
    struct json_iter iter;
    struct json_value key;
    struct json_value value;
    struct cloudevent_span name;
    json_iter_init(&iter, object);
    while (json_next(&iter, &key, &value)) {
        if (value.type == JSON_NULL)
            continue;
        if (read_text(r, &key, &name) < 0)
            return -1;
        unsigned meaning = meaning_of(name.text, name.len);
        if (meaning != NAME_EXTENSION && meaning != CE_KEY)
            return refuse(r->err, name.text, name.len, "among the extensions");
        if ((meaning == CE_KEY ? read_known(r, meaning, &value) : read_extension(r, &name, &value)) < 0)
            return -1;
    }
    return 0;
}

static inline int read_member(struct reader *r, const struct json_value *key, const struct json_value *value)
{
    struct cloudevent_span name;
    if (value->type == JSON_NULL)
        return 0;
    if (read_text(r, key, &name) < 0)
        return -1;
    unsigned meaning = meaning_of(name.text, name.len);
    if (meaning < CE_DATA && value->type == JSON_STRING && !value->escaped) /* most */
        return add_attribute(r->event, (enum cloudevent_attribute)meaning, value->text, value->len, r->err);
    if (meaning != NAME_EXTENSION)
        return read_known(r, meaning, value);
    if (value->type == JSON_OBJECT && span_equals(&name, "extensions", 10))
        return read_nested(r, value);
    return read_extension(r, &name, value);
}

static int read_members(struct reader *r, const struct json_value *object)
{
    struct json_iter iter;
    struct json_value key;
    struct json_value value;
    json_iter_init(&iter, object);
    while (json_next(&iter, &key, &value))
        if (read_member(r, &key, &value) < 0)
            return -1;
    return 0;
}

/* From what the scan has put down. */
static int read_scanned(struct reader *r, const struct json_members *members)
{
    for (size_t i = 0; i < members->n; i++)
        if (read_member(r, &members->name[i], &members->value[i]) < 0)
            return -1;
    return 0;
}

/* members: those of the value, or NULL. */
static int read_event(struct cloudevent *event, const struct json_value *value,
                      const struct json_members *members, struct buffer *scratch, struct error *err)
{
    size_t len;
    json_raw(value, &len);
    struct reader reader = {event, scratch, len, err};
    cloudevent_clear(event);
    if (len > UINT32_MAX)
        return error_set(err, ERROR_INVALID, "an event of %zu bytes", len);
    if (value->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "an event must be a JSON object, not %s",
                         json_type_name(value->type));
    bool scanned = members && members->n <= JSON_MEMBERS_MAX;
    if ((scanned ? read_scanned(&reader, members) : read_members(&reader, value)) < 0) {
        cloudevent_clear(event);
        return -1;
    }
    return 0;
}

int cloudevent_read(struct cloudevent *event, const struct json_value *value, struct buffer *scratch,
                    struct error *err)
{
    return read_event(event, value, NULL, scratch, err);
}

int cloudevent_parse(struct cloudevent *event, const char *json, size_t len, struct buffer *scratch,
                     struct error *err)
{
    struct json_value value;
    struct json_members members;
    if (json_scan_members(json, len, JSON_DATA_DEPTH + 1, &value, &members, err) < 0) {
        cloudevent_clear(event);
        return -1;
    }
    return read_event(event, &value, &members, scratch, err);
}

int cloudevent_check(const struct cloudevent *event, struct error *err)
{
    static const enum cloudevent_attribute needed[] = {CE_ID, CE_SOURCE, CE_TYPE};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        const struct cloudevent_span *span = &event->attribute[needed[i]];
        if (span->len == 0)
            return error_set(err, ERROR_INVALID, "attribute %s is %s", attribute_names[needed[i]],
                             span->text ? "empty" : "missing");
    }
    const struct cloudevent_span *version = &event->attribute[CE_SPECVERSION];
    if (version->text && !span_equals(version, "1.0", 3) && !span_equals(version, "0.3", 3))
        return error_set(err, ERROR_INVALID, "attribute specversion is neither 1.0 nor 0.3: %.*s",
                         version->len < 16 ? (int)version->len : 16, version->text);
    return 0;
}

/* The number of n decimal digits; -1 when they are not. */
static int number_at(const char *p, int n)
{
    int value = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        value = value * 10 + (p[i] - '0');
    }
    return value;
}

static bool within(int value, int low, int high)
{
    return value >= low && value <= high;
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month == 2 && leap ? 29 : days[month - 1];
}

/* RFC 3339 section 5.6, date-time. */
static bool is_date_time(const struct cloudevent_span *time)
{
    const char *p = time->text;
    const char *end = p + time->len;
    if (time->len < sizeof "2018-04-05T17:31:00Z" - 1)
        return false;
    int year = number_at(p, 4);
    int month = number_at(p + 5, 2);
    if (year < 0 || p[4] != '-' || !within(month, 1, 12) || p[7] != '-' ||
        !within(number_at(p + 8, 2), 1, days_in_month(year, month)))
        return false;
    if ((p[10] | 0x20) != 't' || !within(number_at(p + 11, 2), 0, 23) || p[13] != ':' ||
        !within(number_at(p + 14, 2), 0, 59) || p[16] != ':' || !within(number_at(p + 17, 2), 0, 60))
        return false;
    p += 19;
    if (*p == '.') {
        const char *fraction = ++p;
        while (p < end && *p >= '0' && *p <= '9')
            p++;
        if (p == fraction || p == end)
            return false;
    }
    if ((*p | 0x20) == 'z')
        return p + 1 == end;
    return (*p == '+' || *p == '-') && end - p == 6 && within(number_at(p + 1, 2), 0, 23) && p[3] == ':' &&
           within(number_at(p + 4, 2), 0, 59);
}

static bool is_extension_name(const struct cloudevent_span *name)
{
    for (uint32_t i = 0; i < name->len; i++)
        if (!(name->text[i] >= 'a' && name->text[i] <= 'z') &&
            !(name->text[i] >= '0' && name->text[i] <= '9'))
            return false;
    return name->len > 0;
}

/* The characters that the type String may not have (CloudEvents 1.0.2, section 3.1), of valid UTF-8: controls
 * (U+0000-1F, U+007F-9F) and noncharacters (U+FDD0-FDEF, U+xxFFFE and U+xxFFFF). */
static bool is_string(const struct cloudevent_span *text)
{
    const unsigned char *p = (const unsigned char *)text->text;
    const unsigned char *end = text->len ? p + text->len : p; /* absent: NULL */
    for (; p < end; p++) {
        if (*p >= 0x20 && *p < 0x7f)
            continue;
        if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0))
            return false;
        if (*p == 0xef && ((p[1] == 0xb7 && p[2] >= 0x90 && p[2] <= 0xaf) || (p[1] == 0xbf && p[2] >= 0xbe)))
            return false;
        if (*p >= 0xf0 && (p[1] & 0x0f) == 0x0f && p[2] == 0xbf && p[3] >= 0xbe)
            return false;
    }
    return true;
}

static int check_strings(const struct cloudevent *event, struct error *err)
{
    static const char why[] = "holds a control or a noncharacter";
    for (unsigned i = 0; i < CE_DATA; i++)
        if (!is_string(&event->attribute[i]))
            return refuse(err, attribute_names[i], strlen(attribute_names[i]), why);
    for (unsigned i = 0; i < event->n_extensions; i++)
        if (!is_string(&event->extension[i].value))
            return refuse(err, event->extension[i].name.text, event->extension[i].name.len, why);
    return 0;
}

int cloudevent_conforms(const struct cloudevent *event, struct error *err)
{
    const struct cloudevent_span *attribute = event->attribute;
    if (cloudevent_check(event, err) < 0 || check_strings(event, err) < 0)
        return -1;
    if (!attribute[CE_SPECVERSION].text)
        return error_set(err, ERROR_INVALID, "attribute specversion is missing");
    if (attribute[CE_TIME].text && !is_date_time(&attribute[CE_TIME]))
        return refuse(err, "time", 4, "not a date and time of RFC 3339");
    if (attribute[CE_DATACONTENTTYPE].text && attribute[CE_DATACONTENTTYPE].len == 0)
        return refuse(err, "datacontenttype", 15, "empty");
    if (attribute[CE_DATASCHEMA].text && attribute[CE_DATASCHEMA].len == 0)
        return refuse(err, "dataschema", 10, "empty");
    for (unsigned i = 0; i < event->n_extensions; i++) {
        const struct cloudevent_span *name = &event->extension[i].name;
        if (!is_extension_name(name))
            return refuse(err, name->text, name->len, "a name must consist of a-z and 0-9");
    }
    return 0;
}

static void write_name(struct buffer *out, bool *first, const char *name, size_t name_len)
{
    buffer_append_char(out, *first ? '{' : ',');
    buffer_append_json(out, name, name_len);
    buffer_append_char(out, ':');
    *first = false;
}

void cloudevent_write(const struct cloudevent *event, struct buffer *out)
{
    bool first = true;
    for (unsigned i = 0; i < CE_DATA; i++) {
        const struct cloudevent_span *value = &event->attribute[i];
        if (!value->text)
            continue;
        write_name(out, &first, attribute_names[i], strlen(attribute_names[i]));
        buffer_append_json(out, value->text, value->len);
    }
    for (unsigned i = 0; i < event->n_extensions; i++) {
        const struct cloudevent_extension *extension = &event->extension[i];
        write_name(out, &first, extension->name.text, extension->name.len);
        buffer_append_json(out, extension->value.text, extension->value.len);
    }
    if (event->data != CE_DATA_ABSENT) {
        const struct cloudevent_span *data = &event->attribute[CE_DATA];
        const char *name = event->data == CE_DATA_BASE64 ? "data_base64" : "data";
        write_name(out, &first, name, strlen(name));
        if (event->data == CE_DATA_JSON)
            buffer_append(out, data->text, data->len);
        else
            buffer_append_json(out, data->text, data->len);
    }
    buffer_append_text(out, first ? "{}" : "}");
}

static size_t packed_head_size(unsigned n_extensions)
{
    return sizeof(struct packed) + n_extensions * sizeof(struct packed_extension);
}

static size_t text_size(const struct cloudevent *event)
{
    size_t size = 0;
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++)
        size += event->attribute[i].len;
    for (unsigned i = 0; i < event->n_extensions; i++)
        size += (size_t)event->extension[i].name.len + event->extension[i].value.len;
    return size;
}

size_t cloudevent_packed_size(const struct cloudevent *event)
{
    return (packed_head_size(event->n_extensions) + text_size(event) + 7) & ~(size_t)7;
}

static inline char *put_span(char *to, const struct cloudevent_span *span)
{
    if (span->text && span->len)
        memcpy(to, span->text, span->len);
    return to + span->len;
}

void cloudevent_pack(const struct cloudevent *event, void *to)
{
    assert(event->n_extensions <= CLOUDEVENT_MAX_EXTENSIONS);
    struct packed *packed = to;
    unsigned present = 0;
    char *at = (char *)to + packed_head_size(event->n_extensions);
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++) {
        const struct cloudevent_span *value = &event->attribute[i];
        present |= (unsigned)(value->text != NULL) << i;
        packed->len[i] = value->len;
        at = put_span(at, value);
    }
    packed->present = (uint16_t)present;
    packed->data = (uint8_t)event->data;
    packed->n_extensions = (uint8_t)event->n_extensions;
    for (unsigned i = 0; i < event->n_extensions; i++) {
        const struct cloudevent_extension *extension = &event->extension[i];
        packed->extension[i] = (struct packed_extension){extension->name.len, extension->value.len};
        at = put_span(put_span(at, &extension->name), &extension->value);
    }
    memset(at, 0, -(uintptr_t)at & 7);
}

void cloudevent_unpack(const void *from, struct cloudevent *ret_event)
{
    const struct packed *packed = from;
    unsigned present = packed->present;
    const char *at = (const char *)from + packed_head_size(packed->n_extensions);
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++) {
        uint32_t len = packed->len[i];
        ret_event->attribute[i] = (struct cloudevent_span){present >> i & 1 ? at : NULL, len};
        at += len;
    }
    ret_event->data = (enum cloudevent_data)packed->data;
    ret_event->n_extensions = packed->n_extensions;
    for (unsigned i = 0; i < packed->n_extensions; i++) {
        struct packed_extension len = packed->extension[i];
        struct cloudevent_extension *extension = &ret_event->extension[i];
        extension->name = (struct cloudevent_span){at, len.name_len};
        extension->value = (struct cloudevent_span){at + len.name_len, len.value_len};
        at += (size_t)len.name_len + len.value_len;
    }
}

int cloudevent_unpack_bounded(const void *from, size_t len, struct cloudevent *ret_event, size_t *ret_size,
                              struct error *err)
{
    const struct packed *packed = from;
    if (len < sizeof *packed)
        return error_set(err, ERROR_INVALID, "packed event of %zu bytes", len);
    unsigned present = packed->present;
    size_t size = packed_head_size(packed->n_extensions);
    if (packed->n_extensions > CLOUDEVENT_MAX_EXTENSIONS || size > len || present >> CE_ATTRIBUTES ||
        packed->data > CE_DATA_BASE64 || (packed->data != CE_DATA_ABSENT) != (present >> CE_DATA & 1))
        return error_set(err, ERROR_INVALID, "packed event with a damaged head");
    for (unsigned i = 0; i < CE_ATTRIBUTES; i++) {
        if (packed->len[i] && !(present >> i & 1))
            return error_set(err, ERROR_INVALID, "packed event with an absent %s of %u bytes",
                             attribute_names[i], packed->len[i]);
        size += packed->len[i];
    }
    for (unsigned i = 0; i < packed->n_extensions; i++)
        size += (size_t)packed->extension[i].name_len + packed->extension[i].value_len;
    size = (size + 7) & ~(size_t)7;
    if (size > len)
        return error_set(err, ERROR_INVALID, "packed event of %zu bytes, of which there are %zu", size, len);
    cloudevent_unpack(from, ret_event);
    *ret_size = size;
    return 0;
}

/* Whether the text at p is a whole number of UTF-8 characters, if all the bytes around it are valid. */
static inline bool starts_character(const struct cloudevent_span *span)
{
    return !span->len || ((unsigned char)*span->text & 0xc0) != 0x80;
}

static int check_spans(const struct cloudevent *event, const char *text, struct error *err)
{
    bool whole = utf8_valid(text, text_size(event));
    for (unsigned i = 0; whole && i < CE_ATTRIBUTES; i++)
        whole = starts_character(&event->attribute[i]);
    for (unsigned i = 0; whole && i < event->n_extensions; i++)
        whole = starts_character(&event->extension[i].name) && starts_character(&event->extension[i].value) &&
                event->extension[i].name.len;
    return whole ? 0 : error_set(err, ERROR_INVALID, "packed event whose text is not UTF-8");
}

int cloudevent_unpack_checked(const void *from, size_t len, struct cloudevent *ret_event, size_t *ret_size,
                              struct error *err)
{
    struct json_value value;
    size_t size;
    if (cloudevent_unpack_bounded(from, len, ret_event, &size, err) < 0)
        return -1;
    size_t head = packed_head_size(ret_event->n_extensions);
    const struct cloudevent_span *data = &ret_event->attribute[CE_DATA];
    int r = check_spans(ret_event, (const char *)from + head, err);
    if (r == 0)
        r = cloudevent_check(ret_event, err);
    if (r == 0 && ret_event->data == CE_DATA_JSON &&
        json_scan_within(data->text, data->len, JSON_DATA_DEPTH, &value, err) < 0)
        r = error_prefix(err, "attribute data");
    if (r == 0 && ret_event->data == CE_DATA_BASE64 && base64_digits(data->text, data->len) < 0)
        r = error_set(err, ERROR_INVALID, "attribute data_base64: not base64");
    if (r < 0)
        cloudevent_clear(ret_event);
    else
        *ret_size = size;
    return r;
}

/* Whether a media type says JSON: its subtype is json or ends in +json (CloudEvents JSON format,
 * section 3.1). */
static bool is_json_type(const struct cloudevent_span *type)
{
    const char *parameters = memchr(type->text, ';', type->len);
    size_t n = parameters ? (size_t)(parameters - type->text) : type->len;
    while (n > 0 && (type->text[n - 1] == ' ' || type->text[n - 1] == '\t'))
        n--;
    return n > 5 && (type->text[n - 5] == '/' || type->text[n - 5] == '+') &&
           strncasecmp(type->text + n - 4, "json", 4) == 0;
}

/* A text as a JSON value: itself, if it may be JSON and is, else a string. */
static void append_text_data(const struct cloudevent *event, const char *text, size_t n, struct buffer *out)
{
    const struct cloudevent_span *type = &event->attribute[CE_DATACONTENTTYPE];
    struct json_value value;
    if ((type->len == 0 || is_json_type(type)) &&
        json_scan_within(text, n, JSON_DATA_DEPTH, &value, NULL) == 0) {
        size_t len;
        const char *raw = json_raw(&value, &len);
        buffer_append(out, raw, len);
    } else {
        buffer_append_json(out, text, n);
    }
}

void cloudevent_data_bytes(const struct cloudevent *event, struct buffer *out)
{
    const struct cloudevent_span *data = &event->attribute[CE_DATA];
    if (event->data == CE_DATA_BASE64)
        base64_decode(data->text, data->len, out);
    else if (event->data != CE_DATA_ABSENT)
        buffer_append(out, data->text, data->len);
}

void cloudevent_data_json(const struct cloudevent *event, struct buffer *out)
{
    BUFFER_AUTO decoded = BUFFER_INIT;
    const struct cloudevent_span *data = &event->attribute[CE_DATA];
    switch (event->data) {
    case CE_DATA_ABSENT:
        buffer_append_text(out, "null");
        break;
    case CE_DATA_TEXT:
        append_text_data(event, data->text, data->len, out);
        break;
    case CE_DATA_JSON:
        buffer_append(out, data->text, data->len);
        break;
    case CE_DATA_BASE64:
        if (!base64_decode(data->text, data->len, &decoded) || !utf8_valid(decoded.data, decoded.len))
            buffer_append_json(out, data->text, data->len);
        else
            append_text_data(event, decoded.len ? decoded.data : "", decoded.len, out);
        out->failed |= decoded.failed;
        break;
    }
}
