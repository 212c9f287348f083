/* Requests to the checker, any bytes: the answer always is one line with one JSON object. */
#include "worker/check.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/json.h"

#define CONTEXT_OF(condition, action)                                                                      \
    "{\"check\":\"test\",\"event\":{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"u\",\"type\":\"a\"," \
    "\"subject\":\"s\",\"data\":[1]},\"trigger\":{\"id\":\"t\",\"condition\":{\"name\":\"" condition       \
    "\"},\"action\":{\"name\":\"" action "\"},\"activation_events\":[{\"type\":\"a\",\"subject\":\"s\"}]," \
    "\"context\":"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

/* The first byte chooses: the whole request, or the rest stands for a trigger, an event or an event source.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const frames[][2] = {
        {"", ""},
        {"{\"check\":\"triggers\",\"triggers\":[", "]}"},
        {"{\"check\":\"event_source\",\"event_source\":", "}"},
        {"{\"check\":\"target\",\"event_source\":", "}"},
        {"{\"check\":\"test\",\"event\":{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"u\",\"type\":"
         "\"a\"},"
         "\"trigger\":",
         "}"},
        {"{\"check\":\"test\",\"trigger\":{\"id\":\"t\",\"condition\":{\"name\":\"JOIN\"},\"context\":{"
         "\"join\":1},"
         "\"action\":{\"name\":\"EMIT\",\"event\":{\"type\":\"x\"}},\"activation_events\":[{\"type\":\"*\","
         "\"subject\":\"*\"}]},\"event\":",
         "}"},
        {CONTEXT_OF("DAG_TASK_JOIN", "IBM_CF_INVOKE"), "}}"},
        {CONTEXT_OF("TRUE", "AWS_LAMBDA_INVOKE"), "}}"},
        {CONTEXT_OF("TRUE", "DAG_TASK_RETRY_HANDLER"), "}}"},
        {CONTEXT_OF("FUNCTION_JOIN", "DAG_TASK_FAILURE_HANDLER"), "}}"},
        {CONTEXT_OF("TRUE", "THROTTLE_IBMCF_FUNCTION"), "}}"},
    };
    BUFFER_AUTO request = BUFFER_INIT;
    BUFFER_AUTO out = BUFFER_INIT;
    struct json_value answer;
    if (!size || memchr(data + 1, '\n', size - 1)) /* a request is one line */
        return 0;
    const char *const *frame = frames[data[0] % (sizeof frames / sizeof frames[0])];
    buffer_append_text(&request, frame[0]);
    buffer_append(&request, data + 1, size - 1);
    buffer_append_text(&request, frame[1]);
    check_answer(request.data ? request.data : "", request.len, &out);
    require(!out.failed && !memchr(out.data, '\n', out.len));
    require(json_scan(out.data, out.len, &answer, NULL) == 0 && answer.type == JSON_OBJECT);
    return 0;
}
