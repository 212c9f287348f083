/* A CloudEvent (CloudEvents 1.0) in memory, as spans; and its compact form for rings and queues.
 *
 * Attribute values are kept as text, unescaped. `data` is one of: absent, a text, a JSON value (its raw
 * text), or base64 (its text, undecoded). Unknown attributes are extensions, kept in order. Thread: one at a
 * time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct json_value;

enum cloudevent_attribute {
    CE_SPECVERSION,
    CE_ID,
    CE_SOURCE,
    CE_TYPE,
    CE_SUBJECT,
    CE_TIME,
    CE_DATACONTENTTYPE,
    CE_DATASCHEMA,
    CE_KEY, /* the extension triggerflowkey: an idempotency key given back (DESIGN: executor) */
    CE_DATA,
    CE_ATTRIBUTES
};

enum cloudevent_data { CE_DATA_ABSENT, CE_DATA_TEXT, CE_DATA_JSON, CE_DATA_BASE64 };

#define CLOUDEVENT_MAX_EXTENSIONS 64

struct cloudevent_span {
    const char *text; /* NULL when absent */
    uint32_t len;
};

struct cloudevent_extension {
    struct cloudevent_span name;
    struct cloudevent_span value;
};

/* Borrows all its text. */
struct cloudevent {
    struct cloudevent_span attribute[CE_ATTRIBUTES];
    enum cloudevent_data data;
    unsigned n_extensions;
    struct cloudevent_extension extension[CLOUDEVENT_MAX_EXTENSIONS];
};

void cloudevent_clear(struct cloudevent *event);

/* Adds an attribute by its name as brokers carry it in separate fields (a Redis stream entry): `data` becomes
 * text, `data_base64` base64, any unknown name an extension. Borrows name and value. Errors: ERROR_INVALID
 * for a duplicate attribute (data and data_base64 are one), an empty name, a name or a value that is not
 * UTF-8, invalid base64, more than CLOUDEVENT_MAX_EXTENSIONS; the message names the attribute. */
int cloudevent_add(struct cloudevent *event, const char *name, size_t name_len, const char *value,
                   size_t value_len, struct error *err);

/* Reads a CloudEvent in the JSON event format (CloudEvents JSON format 1.0.2, section 3). Escaped strings are
 * unescaped to the end of scratch, which the event then borrows, too; scratch must not be touched while the
 * event is used. It takes at most len bytes there: with that much room reserved for several events, all of
 * them may use one scratch. A nested object `extensions` is accepted as extensions (the original client
 * writes it); an attribute given as null is absent, data too; integers and booleans are kept as their JSON
 * text. Errors (the event is then empty): ERROR_INVALID: not JSON, not an object, duplicate attribute, a
 * known attribute that is not a string, data and data_base64 together, invalid base64, an extension that is
 * an object, an array or a number other than an integer; ERROR_MEMORY. */
int cloudevent_parse(struct cloudevent *event, const char *json, size_t len, struct buffer *scratch,
                     struct error *err);

/* The same from a value of a text that was scanned. */
int cloudevent_read(struct cloudevent *event, const struct json_value *value, struct buffer *scratch,
                    struct error *err);

/* What a CloudEvent must have here, whatever broker it comes from: non-empty id, source and type; a
 * specversion, when given, of "1.0" or "0.3". Errors: ERROR_INVALID naming the attribute. */
int cloudevent_check(const struct cloudevent *event, struct error *err);

/* What CloudEvents 1.0 demands beyond that, for publishers that can be told no (HTTP); events on brokers, as
 * the original clients write them, are not held to it. specversion must be given, extension names consist of
 * a-z and 0-9, no value holds controls or noncharacters, time is a date-time of RFC 3339, datacontenttype and
 * dataschema are not empty. An empty subject is let through: it means the same as none. Includes
 * cloudevent_check. Errors: ERROR_INVALID naming the attribute. */
int cloudevent_conforms(const struct cloudevent *event, struct error *err);

/* Appends the event in the JSON event format, absent attributes left out: CE_DATA_JSON as "data": value,
 * CE_DATA_TEXT as "data": string, CE_DATA_BASE64 as "data_base64". All text must be valid UTF-8 (see
 * cloudevent_add). */
void cloudevent_write(const struct cloudevent *event, struct buffer *out);

/* The compact form: its size (a multiple of 8), writing it (exactly that many bytes; `to` aligned to 8),
 * reading it back as spans into it, without checks: for what the process itself has packed. */
size_t cloudevent_packed_size(const struct cloudevent *event);
void cloudevent_pack(const struct cloudevent *event, void *to);
void cloudevent_unpack(const void *from, struct cloudevent *ret_event);
/* The same for bytes from elsewhere, aligned to 8, of which there are len: *ret_size are the event's. The
 * first checks that all of it is within len and as cloudevent_pack makes it; the second also its text (UTF-8,
 * JSON, base64) and cloudevent_check, so that the event may be treated like a parsed one. Errors:
 * ERROR_INVALID; the event is then empty or as it was. */
int cloudevent_unpack_bounded(const void *from, size_t len, struct cloudevent *ret_event, size_t *ret_size,
                              struct error *err);
int cloudevent_unpack_checked(const void *from, size_t len, struct cloudevent *ret_event, size_t *ret_size,
                              struct error *err);

/* The data as a JSON value, as conditions see it, appended to out as JSON text: `null` when absent; a text is
 * parsed as JSON when datacontenttype is JSON, empty or absent and it parses, else it is a string (COMPAT);
 * base64 is decoded and then treated as a text, but what decodes to no UTF-8 is the base64 text as a string.
 */
void cloudevent_data_json(const struct cloudevent *event, struct buffer *out);

/* The data as a message carries it, appended: a text or JSON as it stands, base64 decoded; nothing when
 * absent. */
void cloudevent_data_bytes(const struct cloudevent *event, struct buffer *out);

const char *cloudevent_attribute_name(enum cloudevent_attribute attribute);
