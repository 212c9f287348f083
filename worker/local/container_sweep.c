#include "worker/local/container_sweep.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/storage/storage.h"
#include "worker/local/engine.h"

bool container_sweep_under_way(const struct container_sweep *sweep)
{
    return sweep->list || sweep->removing;
}

static void tell(struct container_sweep *s)
{
    s->swept(s->data, s->found, !s->failed);
}

/* 404: it has gone by itself; 409: somebody else is removing it. */
static void on_removed(void *data, const struct http_answer *answer)
{
    struct container_sweep *s = data;
    s->failed |= answer->status != 204 && answer->status != 404 && answer->status != 409;
    if (!--s->removing)
        tell(s);
}

static void remove_container(struct container_sweep *s, const char *id)
{
    char path[160];
    struct error err;
    snprintf(path, sizeof path, "/containers/%s?force=1&v=1", id);
    if (engine_ask(s->engine, "DELETE", path, NULL, ENGINE_TIMEOUT, on_removed, s, NULL, &err) < 0)
        s->failed = true;
    else
        s->removing++;
}

static void on_listed(void *data, const struct http_answer *answer)
{
    struct container_sweep *s = data;
    struct json_value root, name, container, labels;
    struct json_iter iter;
    char id[80];
    char life[STORAGE_WRITER_MAX];
    s->list = NULL;
    if (answer->status != 200 || json_scan(answer->body, answer->len, &root, NULL) < 0 ||
        root.type != JSON_ARRAY) {
        s->failed = true;
        tell(s);
        return;
    }
    json_iter_init(&iter, &root);
    while (json_next(&iter, &name, &container)) {
        if (container.type != JSON_OBJECT || !engine_text(&container, "Id", id, sizeof id) ||
            !json_member(&container, "Labels", &labels) || labels.type != JSON_OBJECT)
            continue;
        if (s->spared && engine_text(&labels, "triggerflow.life", life, sizeof life) &&
            !strcmp(life, s->spared))
            continue;
        log_info("container_remove", LOG_STR("container", id));
        s->found++;
        remove_container(s, id);
    }
    if (!s->removing)
        tell(s);
}

void container_sweep_begin(struct container_sweep *sweep)
{
    char path[256];
    struct error err;
    int len = (int)strcspn(sweep->label, "=");
    sweep->found = 0;
    sweep->failed = false;
    /* {"label":["..."]} */
    snprintf(path, sizeof path,
             "/containers/json?all=1&filters=%%7B%%22label%%22%%3A%%5B%%22%.*s%%3D%s%%22%%5D%%7D", len,
             sweep->label, sweep->label + len + 1);
    if (engine_ask(sweep->engine, "GET", path, NULL, ENGINE_TIMEOUT, on_listed, sweep, &sweep->list, &err) ==
        0)
        return;
    sweep->failed = true;
    tell(sweep);
}
