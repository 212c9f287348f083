#include "worker/action/task.h"

#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "worker/action/action.h"

int task_name(const struct firing *firing, const struct json_value *settings, struct buffer *out,
              struct error *err)
{
    struct json_value subject;
    if (!json_member(settings, "subject", &subject) || subject.type == JSON_NULL)
        buffer_append_text(out, firing_trigger(firing));
    else if (subject.type == JSON_STRING)
        json_unescape(&subject, out);
    else
        return error_set(err, ERROR_INVALID, "context.subject is %s, not a string",
                         json_type_name(subject.type));
    return out->failed ? error_set(err, ERROR_MEMORY, "out of memory") : 0;
}

int task_tell(struct firing *firing, const char *task, size_t len, enum started_kind kind, uint64_t n,
              struct error *err)
{
    BUFFER_AUTO write = BUFFER_INIT;
    started_write(task, len, kind, n, &write);
    if (write.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return firing_tell(firing, TASK_SUCCESS, task, len, write.data, write.len, err);
}
