#include "worker/document/document.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "worker/document/template.h"

int document_init(struct document *document, const struct json_value *value, struct error *err)
{
    size_t len;
    const char *raw = json_raw(value, &len);
    document->text = strndup(raw, len);
    if (!document->text)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (json_scan(document->text, len, &document->root, err) < 0) {
        document_done(document);
        return -1;
    }
    return 0;
}

void document_done(struct document *document)
{
    free(document->text);
    *document = (struct document){0};
}

int document_wrong(const char *member, const struct json_value *value, const char *wanted, struct error *err)
{
    if (value->type == JSON_ABSENT)
        return error_set(err, ERROR_INVALID, "%s is missing", member);
    size_t len;
    const char *raw = json_raw(value, &len);
    return error_set(err, ERROR_INVALID, "%s is %.*s, not %s", member, (int)(len < 80 ? len : 80), raw,
                     wanted);
}

bool document_member(const struct json_value *object, const char *member, struct json_value *ret_value)
{
    if (json_member(object, member, ret_value) && ret_value->type != JSON_NULL)
        return true;
    ret_value->type = JSON_ABSENT;
    return false;
}

static bool may_hold_secret(enum json_type type)
{
    return type == JSON_STRING || type == JSON_ARRAY || type == JSON_OBJECT;
}

int document_template(const struct json_value *object, const char *member, enum json_type type,
                      const char *wanted, struct json_value *ret_value, struct error *err)
{
    if (!document_member(object, member, ret_value))
        return 0;
    if (type != JSON_ABSENT && ret_value->type != type)
        return may_hold_secret(ret_value->type) ? error_set(err, ERROR_INVALID, "%s is %s, not %s", member,
                                                            json_type_name(ret_value->type), wanted)
                                                : document_wrong(member, ret_value, wanted, err);
    return template_check(ret_value, err) < 0 ? error_prefix(err, "%s", member) : 0;
}

int document_count(const struct json_value *object, const char *member, int64_t least, int64_t most,
                   const char *wanted, int64_t *ret_count, struct error *err)
{
    struct json_value number;
    int64_t count;
    if (!document_member(object, member, &number))
        return 0;
    if (number.type != JSON_NUMBER || !json_integer(&number, &count) || count < least || count > most)
        return document_wrong(member, &number, wanted, err);
    *ret_count = count;
    return 0;
}
