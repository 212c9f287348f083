/* What comes from an SQS queue: answers to ReceiveMessage and to batches, and bodies of messages. What is
 * read of them is within them and, as an event, passes the checks. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/source/sqs_event.h"
#include "worker/source/sqs_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void insist(int holds)
{
    if (!holds)
        abort();
}

static void read_event(const char *text, size_t len)
{
    struct cloudevent event;
    struct error err;
    BUFFER_AUTO scratch = BUFFER_INIT;
    if (sqs_event_read(&event, text, len, &scratch, &err) < 0)
        return;
    BUFFER_AUTO out = BUFFER_INIT;
    insist(cloudevent_check(&event, NULL) == 0);
    cloudevent_write(&event, &out);
    BUFFER_AUTO again = BUFFER_INIT;
    struct cloudevent copy;
    insist(cloudevent_parse(&copy, buffer_text(&out), out.len, &again, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sqs_message messages[SQS_BATCH];
    struct sqs_result results[SQS_BATCH];
    struct error err;
    size_t n = 0;
    char *text = malloc(size + 1); /* its own, so that reading past it is found */
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (sqs_wire_messages(text, size, messages, &n, &err) == 0) {
        insist(n <= SQS_BATCH);
        for (size_t i = 0; i < n; i++) {
            BUFFER_AUTO body = BUFFER_INIT;
            insist(messages[i].body.text >= text &&
                   messages[i].body.text + messages[i].body.len <= text + size);
            json_unescape(&messages[i].body, &body);
            read_event(buffer_text(&body), body.len);
        }
    }
    sqs_wire_results(text, size, 1 + size % SQS_BATCH, results, &err);
    read_event(text, size);
    free(text);
    return 0;
}
