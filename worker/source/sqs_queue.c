#include "worker/source/sqs_queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/fetch.h"
#include "common/json.h"

#define CALL_TIMEOUT (10 * CLOCK_S)
#define MAX_CONNECTIONS 64
#define MAX_ANSWER (48u << 20) /* ten messages of 1 MiB, escaped */
#define USUAL_VISIBILITY 30
#define LONGEST_RETENTION (14 * 86400)

int sqs_queue_init(struct sqs_queue *queue, const struct sqs_parameters *parameters, struct error *err)
{
    struct sigv4_credentials given = {parameters->access_key_id, parameters->secret_access_key,
                                      parameters->session_token};
    struct aws_client_options options = {.service = "sqs",
                                         .region = parameters->region,
                                         .endpoint = parameters->endpoint,
                                         .given = &given,
                                         .tls_ca = parameters->tls_ca};
    *queue = (struct sqs_queue){
        .parameters = parameters, .visibility_s = USUAL_VISIBILITY, .retention_s = LONGEST_RETENTION};
    if (fetch_pool_new(MAX_CONNECTIONS, &queue->pool, err) < 0 ||
        aws_client_new(&options, queue->pool, &queue->client, err) < 0)
        return -1;
    if (!parameters->url)
        return 0;
    queue->url = strdup(parameters->url);
    return queue->url ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

void sqs_queue_done(struct sqs_queue *queue)
{
    aws_client_free(queue->client);
    fetch_pool_free(queue->pool);
    free(queue->url);
    *queue = (struct sqs_queue){0};
}

int sqs_queue_call(struct sqs_queue *queue, const char *operation, const struct buffer *members,
                   uint64_t timeout_ns, aws_done done, void *data, struct aws_call **ret_call,
                   struct error *err)
{
    char target[64];
    BUFFER_AUTO body = BUFFER_INIT;
    snprintf(target, sizeof target, "AmazonSQS.%s", operation);
    const struct sigv4_header headers[] = {{"Content-Type", "application/x-amz-json-1.0"},
                                           {"X-Amz-Target", target}};
    size_t skipped = 0;
    if (queue->url) {
        buffer_append_text(&body, "{\"QueueUrl\":");
        buffer_append_json(&body, queue->url, strlen(queue->url));
    } else {
        buffer_append_char(&body, '{');
        skipped = members->len > 0; /* the comma */
    }
    buffer_append(&body, members->data + skipped, members->len - skipped);
    buffer_append_char(&body, '}');
    if (body.failed || members->failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a request");
    struct aws_request request = {.operation = operation,
                                  .method = "POST",
                                  .path = "/",
                                  .headers = headers,
                                  .n_headers = 2,
                                  .body = body.data,
                                  .body_len = body.len,
                                  .timeout_ns = timeout_ns,
                                  .max_answer = MAX_ANSWER,
                                  .once = !strncmp(operation, "Send", 4)}; /* whoever sends counts attempts */
    return aws_call_start(queue->client, &request, done, data, ret_call, err);
}

/* --- the URL --- */

int sqs_queue_ask_url(struct sqs_queue *queue, aws_done done, void *data, struct aws_call **ret_call,
                      struct error *err)
{
    BUFFER_AUTO members = BUFFER_INIT;
    const struct sqs_parameters *p = queue->parameters;
    buffer_append_text(&members, ",\"QueueName\":");
    buffer_append_json(&members, p->queue, strlen(p->queue));
    if (p->account) {
        buffer_append_text(&members, ",\"QueueOwnerAWSAccountId\":");
        buffer_append_json(&members, p->account, strlen(p->account));
    }
    return sqs_queue_call(queue, "GetQueueUrl", &members, CALL_TIMEOUT, done, data, ret_call, err);
}

int sqs_queue_read_url(struct sqs_queue *queue, const struct aws_answer *answer, struct error *err)
{
    struct json_value root;
    struct json_value value;
    struct error wrong;
    BUFFER_AUTO text = BUFFER_INIT;
    if (answer->outcome == AWS_ABSENT)
        return error_set(err, ERROR_NOT_FOUND, "queue %s does not exist", queue->parameters->queue);
    if (answer->outcome != AWS_DONE) {
        *err = answer->error;
        return -1;
    }
    if (json_scan(answer->body, answer->len, &root, &wrong) < 0 || root.type != JSON_OBJECT ||
        !json_member(&root, "QueueUrl", &value) || value.type != JSON_STRING || !value.len)
        return error_set(err, ERROR_UNAVAILABLE, "sqs GetQueueUrl: the answer has no QueueUrl");
    json_unescape(&value, &text);
    free(queue->url);
    queue->url = strdup(buffer_text(&text));
    return queue->url ? 0 : error_set(err, ERROR_MEMORY, "out of memory");
}

void sqs_queue_forget_url(struct sqs_queue *queue)
{
    if (queue->parameters->url)
        return;
    free(queue->url);
    queue->url = NULL;
}

/* --- attributes --- */

int sqs_queue_ask_attributes(struct sqs_queue *queue, aws_done done, void *data, struct aws_call **ret_call,
                             struct error *err)
{
    BUFFER_AUTO members = BUFFER_INIT;
    buffer_append_text(&members, ",\"AttributeNames\":[\"All\"]");
    return sqs_queue_call(queue, "GetQueueAttributes", &members, CALL_TIMEOUT, done, data, ret_call, err);
}

/* The service writes them as strings. */
static void read_attribute(const struct json_value *attributes, const char *name, uint64_t *number)
{
    struct json_value value;
    int64_t n;
    if (!json_member(attributes, name, &value))
        return;
    if (value.type == JSON_STRING)
        value.type = JSON_NUMBER;
    if (value.type != JSON_NUMBER || value.escaped || !value.len || value.len > 18 ||
        strspn(value.text, "0123456789.") < value.len || !json_integer(&value, &n) || n < 0)
        return;
    *number = (uint64_t)n;
}

int sqs_queue_read_attributes(struct sqs_queue *queue, const struct aws_answer *answer, struct error *err)
{
    struct json_value root;
    struct json_value attributes;
    struct error wrong;
    if (answer->outcome == AWS_ABSENT)
        return error_set(err, ERROR_NOT_FOUND, "queue %s does not exist", queue->parameters->queue);
    if (answer->outcome == AWS_REFUSED && strstr(answer->code, "AccessDenied"))
        return 0;
    if (answer->outcome != AWS_DONE) {
        *err = answer->error;
        return -1;
    }
    if (json_scan(answer->body, answer->len, &root, &wrong) < 0 || root.type != JSON_OBJECT ||
        !json_member(&root, "Attributes", &attributes) || attributes.type != JSON_OBJECT)
        return error_set(err, ERROR_UNAVAILABLE, "sqs GetQueueAttributes: the answer has no Attributes");
    read_attribute(&attributes, "VisibilityTimeout", &queue->visibility_s);
    read_attribute(&attributes, "MessageRetentionPeriod", &queue->retention_s);
    read_attribute(&attributes, "CreatedTimestamp", &queue->created_unix_s);
    read_attribute(&attributes, "ApproximateNumberOfMessages", &queue->length);
    return 0;
}

uint64_t sqs_back_off(unsigned failures, uint64_t first_ns, uint64_t longest_ns, uint64_t *random)
{
    uint64_t ceiling = failures < 20 ? first_ns << failures : longest_ns;
    if (ceiling > longest_ns)
        ceiling = longest_ns;
    *random = *random * 6364136223846793005ull + 1442695040888963407ull;
    return ceiling / 16 + (*random >> 16) % ceiling;
}
