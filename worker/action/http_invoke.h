/* HTTP_INVOKE: sends the event that made the trigger fire, or a body of its own, to a URL.
 *
 *     {"name":"HTTP_INVOKE", "url", "method":"POST", "headers":{name: text or secret},
 *      "mode":"binary"|"structured"|"raw", "body",
 *      "auth":{"basic":{"user","password"}} | {"bearer":secret}
 *           | {"aws_sigv4":{"region","service","access_key_id","secret_access_key","session_token"?}},
 *      "reply":"ignore"|"event", "reply_type", "reply_subject", "subject",
 *      and the policy's members (worker/executor/invocation_policy.h)}
 *
 * url, header values, body, reply_type, reply_subject and subject may hold paths
 * (worker/document/template.h), and are made when the trigger fires. A secret is a reference
 * (worker/document/secret.h), read when the request is sent. In the binary and structured mode the event is
 * sent as CloudEvents' HTTP binding says, with the idempotency key as triggerflowkey; `body` then takes the
 * place of its data. In the raw mode `body` alone is sent.
 *
 * The intent's body: {"url","method","headers","content_type"?, one of "text", "json" and "base64", "auth"?,
 * "reply"?:{"type","subject"}, "subject","policy"}: http_invoke_make.c makes it from an event,
 * http_invoke_request.c a request and a reply from it. */
#pragma once

#include "common/json.h"
#include "worker/action/reply.h"
#include "worker/document/document.h"
#include "worker/executor/invocation_policy.h"

struct buffer;
struct error;
struct firing;
struct invocation_type;

enum http_invoke_mode { MODE_BINARY, MODE_STRUCTURED, MODE_RAW };

struct http_invoke {
    struct document document; /* the values below borrow it */
    char method[16];
    enum http_invoke_mode mode;
    struct json_value url, headers, body, auth; /* JSON_ABSENT: none */
    struct reply reply;
    struct invocation_policy policy;
};

/* Appends the intent's body. Errors: ERROR_INVALID (a path leads nowhere, or what it gives cannot be sent),
 * ERROR_MEMORY. Thread: shard. */
int http_invoke_make(const struct http_invoke *http_invoke, struct firing *firing, const char *key,
                     struct buffer *out, struct error *err);

extern const struct invocation_type http_invoke_invocation; /* Thread: executor */
