#include "worker/source/sqs_wire.h"

#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"

static bool read_string(const struct json_value *object, const char *name, struct json_value *ret_value)
{
    return json_member(object, name, ret_value) && ret_value->type == JSON_STRING && ret_value->len;
}

static uint64_t read_sent(const struct json_value *value)
{
    struct json_value number = *value;
    int64_t ms;
    if (value->type != JSON_STRING || value->escaped || !value->len || value->len > 18 ||
        strspn(value->text, "0123456789") < value->len)
        return 0;
    number.type = JSON_NUMBER;
    return json_integer(&number, &ms) && ms > 0 ? (uint64_t)ms : 0;
}

static void read_attributes(struct json_iter *members, struct sqs_message *m)
{
    struct json_iter attributes;
    struct json_value name, value;
    json_open(members, &attributes);
    m->sent_ms = 0;
    while (json_next_open(&attributes, &name, &value))
        if (json_equals(&name, "SentTimestamp", 13))
            m->sent_ms = read_sent(&value);
    json_close(members, &attributes);
}

static int check_message(const struct sqs_message *m, struct error *err)
{
    if (m->id.type != JSON_STRING || !m->id.len || m->receipt.type != JSON_STRING || !m->receipt.len)
        return error_set(err, ERROR_UNAVAILABLE,
                         "sqs ReceiveMessage: a message without MessageId or ReceiptHandle");
    if (m->body.type != JSON_STRING)
        return error_set(err, ERROR_UNAVAILABLE, "sqs ReceiveMessage: message %.*s has no Body",
                         (int)(m->id.len < 60 ? m->id.len : 60), m->id.text);
    return 0;
}

static int read_message(struct json_iter *list, struct sqs_message *ret_message, struct error *err)
{
    struct json_iter members;
    struct json_value name, value;
    struct sqs_message m = {0};
    json_open(list, &members);
    while (json_next_open(&members, &name, &value)) {
        if (json_equals(&name, "MessageId", 9))
            m.id = value;
        else if (json_equals(&name, "ReceiptHandle", 13))
            m.receipt = value;
        else if (json_equals(&name, "Body", 4))
            m.body = value;
        else if (json_equals(&name, "Attributes", 10) && value.type == JSON_OBJECT)
            read_attributes(&members, &m);
    }
    json_close(list, &members);
    *ret_message = m;
    return check_message(&m, err);
}

static int read_messages(struct json_iter *members, struct sqs_message ret_messages[SQS_BATCH], size_t *ret_n,
                         struct error *err)
{
    struct json_iter list;
    struct json_value name, value;
    size_t n = 0;
    json_open(members, &list);
    while (json_next_open(&list, &name, &value)) {
        if (n == SQS_BATCH)
            return error_set(err, ERROR_UNAVAILABLE, "sqs ReceiveMessage: more than %d messages", SQS_BATCH);
        if (value.type != JSON_OBJECT)
            return error_set(err, ERROR_UNAVAILABLE, "sqs ReceiveMessage: a message is %s, not an object",
                             json_type_name(value.type));
        if (read_message(&list, &ret_messages[n++], err) < 0)
            return -1;
    }
    json_close(members, &list);
    *ret_n = n;
    return 0;
}

int sqs_wire_messages(const char *text, size_t len, struct sqs_message ret_messages[SQS_BATCH], size_t *ret_n,
                      struct error *err)
{
    struct json_value root, name, value;
    struct json_iter members;
    struct error wrong;
    *ret_n = 0;
    if (!len) /* some servers answer so when there is nothing */
        return 0;
    if (json_scan(text, len, &root, &wrong) < 0 || root.type != JSON_OBJECT)
        return error_set(err, ERROR_UNAVAILABLE, "sqs ReceiveMessage: the answer is no JSON object");
    json_iter_init(&members, &root);
    while (json_next_open(&members, &name, &value)) {
        if (value.type == JSON_NULL || !json_equals(&name, "Messages", 8))
            continue;
        if (value.type != JSON_ARRAY)
            return error_set(err, ERROR_UNAVAILABLE, "sqs ReceiveMessage: Messages is no array");
        if (read_messages(&members, ret_messages, ret_n, err) < 0)
            return -1;
    }
    return 0;
}

static void copy_text(const struct json_value *object, const char *name, char *to, size_t size)
{
    struct json_value value;
    BUFFER_AUTO text = BUFFER_INIT;
    if (!read_string(object, name, &value))
        return;
    json_unescape(&value, &text);
    snprintf(to, size, "%.*s", (int)strcspn(buffer_text(&text), "\r\n"), buffer_text(&text));
}

static void read_results(const struct json_value *list, bool failed, size_t n,
                         struct sqs_result results[SQS_BATCH])
{
    struct json_iter iter;
    struct json_value name, value, id, fault;
    json_iter_init(&iter, list);
    while (json_next(&iter, &name, &value)) {
        if (value.type != JSON_OBJECT || !read_string(&value, "Id", &id) || id.len != 1 || id.text[0] < '0' ||
            (size_t)(id.text[0] - '0') >= n)
            continue;
        struct sqs_result *r = &results[id.text[0] - '0'];
        if (!failed) {
            r->outcome = SQS_SUCCEEDED;
            continue;
        }
        bool sender = json_member(&value, "SenderFault", &fault) && fault.type == JSON_TRUE;
        r->outcome = sender ? SQS_FAULTY : SQS_FAILED;
        copy_text(&value, "Code", r->code, sizeof r->code);
        copy_text(&value, "Message", r->message, sizeof r->message);
    }
}

int sqs_wire_results(const char *text, size_t len, size_t n, struct sqs_result ret_results[SQS_BATCH],
                     struct error *err)
{
    static const char *const names[] = {"Successful", "Failed"};
    struct json_value root, list;
    struct error wrong;
    memset(ret_results, 0, SQS_BATCH * sizeof ret_results[0]);
    if (json_scan(text, len, &root, &wrong) < 0 || root.type != JSON_OBJECT)
        return error_set(err, ERROR_UNAVAILABLE, "sqs: the answer to a batch is no JSON object");
    for (size_t i = 0; i < 2; i++) {
        if (!json_member(&root, names[i], &list) || list.type == JSON_NULL)
            continue;
        if (list.type != JSON_ARRAY)
            return error_set(err, ERROR_UNAVAILABLE, "sqs: %s in the answer to a batch is no array",
                             names[i]);
        read_results(&list, i == 1, n < SQS_BATCH ? n : SQS_BATCH, ret_results);
    }
    return 0;
}
