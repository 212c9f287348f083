/* cloudevent_http.h on any message: what is taken conforms and survives packing. Input: content type NUL,
 * then headers as lines "name:value", an empty line, and the body. */
#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/cloudevent_http.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
    if (!condition)
        abort();
}

static int take(void *data, const struct cloudevent *event, struct error *err)
{
    unsigned *n = data;
    struct cloudevent again;
    size_t packed_size = cloudevent_packed_size(event);
    void *packed = malloc(packed_size);
    require(packed != NULL && cloudevent_conforms(event, err) == 0);
    cloudevent_pack(event, packed);
    cloudevent_unpack(packed, &again);
    require(cloudevent_conforms(&again, err) == 0 && cloudevent_packed_size(&again) == packed_size);
    free(packed);
    ++*n;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cloudevent_http_message message = {.max_event = 4096};
    BUFFER_AUTO scratch = BUFFER_INIT;
    struct error err = {0};
    const char *at = (const char *)data, *end = at + size, *line_end;
    unsigned n = 0;
    long index;
    const char *type_end = size > 0 ? memchr(at, 0, size) : NULL;
    if (!type_end)
        return 0;
    message.content_type = type_end > at ? at : NULL;
    at = type_end + 1;
    while (at < end && (line_end = memchr(at, '\n', (size_t)(end - at))) != NULL && line_end > at) {
        const char *colon = memchr(at, ':', (size_t)(line_end - at));
        const char *value = colon ? colon + 1 : line_end;
        cloudevent_http_add_header(&message, at, (size_t)((colon ? colon : line_end) - at), value,
                                   (size_t)(line_end - value));
        at = line_end + 1;
    }
    if (at < end && *at == '\n')
        at++;
    message.body = at;
    message.body_len = (size_t)(end - at);
    int status = cloudevent_http_read(&message, &scratch, take, &n, &index, &err);
    require(status == 0 || status == CLOUDEVENT_HTTP_INVALID || status == CLOUDEVENT_HTTP_TOO_LARGE ||
            status == CLOUDEVENT_HTTP_UNSUPPORTED);
    require(status == 0 || err.message[0] != '\0');
    return 0;
}
