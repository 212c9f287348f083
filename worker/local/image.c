#include "worker/local/image.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "worker/local/engine.h"

#define SHOWN 120 /* bytes of a name in messages */

int image_check(const char *image, size_t len, struct error *err)
{
    bool wrong = !len || len > IMAGE_MAX || !isalnum((unsigned char)*image);
    for (size_t i = 0; i < len && !wrong; i++)
        wrong = !isalnum((unsigned char)image[i]) && !strchr("._-/:@", image[i]);
    for (size_t i = 1; i < len && !wrong; i++)
        wrong = (image[i] == '.' || image[i] == '/') && image[i - 1] == image[i];
    return wrong ? error_set(err, ERROR_INVALID, "%.*s is no name of an image", (int)(len < 80 ? len : 80),
                             image)
                 : 0;
}

static void look(struct image_search *s);

/* The engine answers with its progress, one JSON text a line; a failure is in the last one. */
static bool find_error(const struct image_search *s, const struct http_answer *answer, struct error *err)
{
    bool found = false;
    const char *end = answer->body + answer->len;
    for (const char *at = answer->body; at < end;) {
        const char *feed = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((feed ? feed : end) - at);
        struct json_value root, message;
        BUFFER_AUTO text = BUFFER_INIT;
        if (json_scan(at, len, &root, NULL) == 0 && root.type == JSON_OBJECT &&
            json_member(&root, "error", &message) && message.type == JSON_STRING) {
            json_unescape(&message, &text);
            error_set(err, ERROR_UNAVAILABLE, "the image %.*s cannot be pulled: %.300s", SHOWN, s->image,
                      buffer_text(&text));
            found = true;
        }
        at += len + 1;
    }
    return found;
}

static void on_pulled(void *data, const struct http_answer *answer)
{
    struct image_search *s = data;
    struct error err;
    char what[SHOWN + 32];
    s->call = NULL;
    s->pulled = true;
    if (answer->status) /* else it may be the registry that does not answer */
        engine_note(s->engine, answer);
    if (answer->status != 200) {
        snprintf(what, sizeof what, "pulling the image %.*s", SHOWN, s->image);
        engine_explain(answer, what, &err);
        err.code = ERROR_UNAVAILABLE; /* the registry may answer later */
        s->found(s->data, &err);
    } else if (find_error(s, answer, &err)) {
        s->found(s->data, &err);
    } else if (!answer->complete) {
        error_set(&err, ERROR_UNAVAILABLE, "the image %.*s cannot be pulled: %.300s", SHOWN, s->image,
                  answer->error->message);
        s->found(s->data, &err);
    } else {
        look(s);
    }
}

static void pull(struct image_search *s)
{
    struct error err;
    char path[IMAGE_MAX + 64];
    const char *slash = strrchr(s->image, '/');
    bool tagged = strpbrk(slash ? slash : s->image, ":@");
    snprintf(path, sizeof path, "/images/create?fromImage=%s%s", s->image, tagged ? "" : "&tag=latest");
    log_info("container_pull", LOG_STR("image", s->image));
    if (engine_follow(s->engine, path, s->pull_timeout_ns, on_pulled, s, &s->call, &err) < 0)
        s->found(s->data, &err);
}

static void on_looked(void *data, const struct http_answer *answer)
{
    struct image_search *s = data;
    struct error err;
    char what[SHOWN + 32];
    s->call = NULL;
    engine_note(s->engine, answer);
    if (answer->status == 200) {
        s->found(s->data, NULL);
    } else if (answer->status == 404 && s->pull && !s->pulled) {
        pull(s);
    } else {
        snprintf(what, sizeof what, "looking for the image %.*s", SHOWN, s->image);
        engine_explain(answer, what, &err);
        s->found(s->data, &err);
    }
}

static void look(struct image_search *s)
{
    struct error err;
    char path[IMAGE_MAX + 32];
    snprintf(path, sizeof path, "/images/%s/json", s->image);
    if (engine_ask(s->engine, "GET", path, NULL, ENGINE_TIMEOUT, on_looked, s, &s->call, &err) < 0)
        s->found(s->data, &err);
}

void image_find(struct image_search *search)
{
    search->pulled = false;
    look(search);
}

void image_cancel(struct image_search *search)
{
    if (search->call)
        http_call_cancel(search->call);
    search->call = NULL;
}
