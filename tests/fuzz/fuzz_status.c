/* Status messages of a worker, any bytes: what is accepted must make a status that is valid JSON. */
#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "supervisor/monitor.h"
#include "supervisor/status.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_text(const char *text, size_t size)
{
    require(memchr(text, '\0', size) != NULL && utf8_valid(text, strlen(text)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct monitor_frame frame;
    struct error err = {0};
    int result = monitor_parse((const char *)data, size, &frame, &err);
    if (result < 0)
        require(err.code == ERROR_INVALID && err.message[0] != '\0');
    if (result != 0)
        return 0;
    check_text(frame.trigger, sizeof frame.trigger);
    check_text(frame.time, sizeof frame.time);
    check_text(frame.reason, sizeof frame.reason);
    check_text(frame.error, sizeof frame.error);

    BUFFER_AUTO out = BUFFER_INIT;
    struct json_value value;
    const struct monitor_sample sample = {0};
    const struct status_time time = {0};
    bool status = frame.kind == MONITOR_STATUS;
    const struct status_view view = {.name = "workspace",
                                     .state = "restarting",
                                     .reason = frame.reason,
                                     .exit_unix_ns = 1,
                                     .exit_reason = frame.reason,
                                     .exit_error = frame.error,
                                     .finished_trigger = frame.trigger,
                                     .finished_time = frame.time,
                                     .finished_count = 1,
                                     .sample = &sample,
                                     .worker = status ? frame.status.text : NULL,
                                     .worker_len = status ? frame.status.len : 0};
    status_write(&out, &view, &time, true);
    /* One level deeper than what was accepted. */
    if (json_scan(out.data, out.len, &value, &err) < 0)
        require(strstr(err.message, "deep") != NULL);
    return 0;
}
