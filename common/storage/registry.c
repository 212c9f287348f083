/* The storage back ends there are, and what all of them share. No state. Thread: any. */
#include "common/storage/storage.h"

#include <string.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/storage/redis.h"
#include "common/storage/sqlite.h"

static const struct storage_type *const types[] = {
    &storage_redis,
    &storage_sqlite,
};

#define N_TYPES (sizeof types / sizeof types[0])

static const struct storage_type *find(const char *name, struct error *err)
{
    for (size_t i = 0; i < N_TYPES; i++)
        if (strcmp(name, types[i]->name) == 0)
            return types[i];
    BUFFER_AUTO known = BUFFER_INIT;
    for (size_t i = 0; i < N_TYPES; i++)
        buffer_printf(&known, "%s%s", i ? ", " : "", types[i]->name);
    error_set(err, ERROR_INVALID, "unknown storage back end \"%s\" (there is: %s)", name,
              buffer_text(&known));
    return NULL;
}

int storage_known(const char *name, struct error *err)
{
    return find(name, err) ? 0 : -1;
}

int storage_open(const struct config *config, const char *client_name, struct storage **ret_storage,
                 struct error *err)
{
    const struct storage_type *type = find(config->storage_backend, err);
    return type ? type->open(config, client_name, ret_storage, err) : -1;
}

void storage_close(struct storage *storage)
{
    if (storage)
        storage->type->close(storage);
}

const char *storage_set_name(enum storage_set set)
{
    switch (set) {
    case STORAGE_TRIGGERS:
        return "triggers";
    case STORAGE_EVENT_SOURCES:
        return "event_sources";
    case STORAGE_GLOBAL_CONTEXT:
        return "global_context";
    case STORAGE_CHECKPOINT:
        return "checkpoint";
    case STORAGE_OUTBOX:
        return "outbox";
    case STORAGE_INTERNAL:
        return "internal";
    case STORAGE_TIMERS:
        return "timers";
    case STORAGE_DEAD_LETTERS:
        return "dead_letters";
    case STORAGE_SETS:
        break;
    }
    return "unknown";
}

bool storage_name_valid(const char *workspace)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = strlen(workspace);
    return len > 0 && len <= STORAGE_NAME_MAX && strspn(workspace, allowed) == len &&
           strcmp(workspace, "triggerflow") != 0;
}
