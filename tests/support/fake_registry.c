#include "tests/support/fake_registry.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "tests/support/fake_http.h"

#define MANIFEST_TYPE "application/vnd.docker.distribution.manifest.v2+json"
#define CONFIG_TYPE "application/vnd.docker.container.image.v1+json"
#define LAYER_TYPE "application/vnd.docker.image.rootfs.diff.tar.gzip"
#define KEPT_BACK_MAX 64

struct blob {
    struct buffer data;
    char digest[80];
};

struct fake_registry {
    struct fake_http *http;
    struct blob manifest, config, layer;
    pthread_mutex_t lock;
    /* Requires: lock */
    struct fake_registry_counts counts;
    struct MHD_Connection *kept_back[KEPT_BACK_MAX];
    unsigned n_kept_back;
    bool released; /* layers */
    bool ended;    /* manifests, too */
};

/* --- the image --- */

static bool seal(struct blob *blob)
{
    unsigned char hash[32];
    if (!EVP_Digest(blob->data.data, blob->data.len, hash, NULL, EVP_sha256(), NULL))
        return false;
    size_t at = (size_t)snprintf(blob->digest, sizeof blob->digest, "sha256:");
    for (size_t i = 0; i < sizeof hash; i++, at += 2)
        snprintf(blob->digest + at, 3, "%02x", hash[i]);
    return !blob->data.failed && blob->data.len;
}

/* What a shell command in the folder prints. */
static bool take(const char *folder, const char *command, struct blob *blob)
{
    char line[256], part[4096];
    snprintf(line, sizeof line, "cd %s && %s", folder, command);
    FILE *pipe = popen(line, "re");
    for (size_t n; pipe && (n = fread(part, 1, sizeof part, pipe)) > 0;)
        buffer_append(&blob->data, part, n);
    return pipe && pclose(pipe) == 0 && seal(blob);
}

static bool make_manifest(struct fake_registry *fake)
{
    buffer_printf(&fake->manifest.data,
                  "{\"schemaVersion\":2,\"mediaType\":\"" MANIFEST_TYPE "\","
                  "\"config\":{\"mediaType\":\"" CONFIG_TYPE "\",\"size\":%zu,\"digest\":\"%s\"},"
                  "\"layers\":[{\"mediaType\":\"" LAYER_TYPE "\",\"size\":%zu,\"digest\":\"%s\"}]}",
                  fake->config.data.len, fake->config.digest, fake->layer.data.len, fake->layer.digest);
    return seal(&fake->manifest);
}

/* --- what is asked for --- */

static bool begins(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

static bool ends(const char *text, const char *with)
{
    size_t len = strlen(text);
    return len >= strlen(with) && !strcmp(text + len - strlen(with), with);
}

static void give(struct fake_answer *answer, const struct blob *blob, const char *type)
{
    answer->status = 200;
    buffer_append(&answer->body, blob->data.data, blob->data.len);
    answer->headers[0][0] = "Content-Type";
    answer->headers[0][1] = type;
    answer->headers[1][0] = "Docker-Content-Digest";
    answer->headers[1][1] = blob->digest;
}

static void refuse(struct fake_answer *answer, unsigned status, const char *code)
{
    answer->status = status;
    buffer_printf(&answer->body, "{\"errors\":[{\"code\":\"%s\",\"message\":\"as the test wants it\"}]}",
                  code);
    answer->headers[0][0] = "Content-Type";
    answer->headers[0][1] = "application/json";
    if (status == 401) {
        answer->headers[1][0] = "WWW-Authenticate";
        answer->headers[1][1] = "Basic realm=\"test\"";
    }
}

/* Requires: lock */
static bool keep_back(struct fake_registry *fake, const struct fake_request *request)
{
    if (fake->n_kept_back == KEPT_BACK_MAX)
        return false;
    fake->kept_back[fake->n_kept_back++] = request->connection;
    return true;
}

/* Requires: lock */
static bool answer_locked(struct fake_registry *fake, const struct fake_request *request,
                          struct fake_answer *answer)
{
    const char *name = request->path + strlen("/v2/");
    bool manifest = strstr(request->path, "/manifests/");
    if (!begins(request->path, "/v2/") || !*name) {
        answer->status = begins(request->path, "/v2") ? 200 : 404;
    } else if (begins(name, "private")) {
        refuse(answer, 401, "UNAUTHORIZED");
    } else if (begins(name, "missing")) {
        refuse(answer, 404, "MANIFEST_UNKNOWN");
    } else if (begins(name, "broken")) {
        refuse(answer, 500, "UNKNOWN");
    } else if (manifest) {
        if (begins(name, "hangs") && !fake->ended && keep_back(fake, request))
            return false;
        give(answer, &fake->manifest, MANIFEST_TYPE);
        fake->counts.manifests += !strcmp(request->method, "GET");
    } else if (ends(name, fake->config.digest)) {
        give(answer, &fake->config, "application/octet-stream");
    } else if (ends(name, fake->layer.digest)) {
        fake->counts.layers += !request->times;
        if (begins(name, "slow") && !fake->released && keep_back(fake, request))
            return false;
        give(answer, &fake->layer, "application/octet-stream");
    } else {
        refuse(answer, 404, "BLOB_UNKNOWN");
    }
    return true;
}

static bool on_request(void *data, const struct fake_request *request, struct fake_answer *answer)
{
    struct fake_registry *fake = data;
    pthread_mutex_lock(&fake->lock);
    bool answered = answer_locked(fake, request, answer);
    pthread_mutex_unlock(&fake->lock);
    return answered;
}

/* --- life --- */

struct fake_registry *fake_registry_start(const char *folder)
{
    struct fake_registry *fake = calloc(1, sizeof *fake);
    if (!fake)
        return NULL;
    pthread_mutex_init(&fake->lock, NULL);
    if (!take(folder, "cat $(sed 's/.*\"Config\":\"\\([^\"]*\\)\".*/\\1/' manifest.json)", &fake->config) ||
        !take(folder, "gzip -1nc $(sed 's/.*\"Layers\":\\[\"\\([^\"]*\\)\".*/\\1/' manifest.json)",
              &fake->layer) ||
        !make_manifest(fake) || !(fake->http = fake_http_start(on_request, fake))) {
        fprintf(stderr, "no registry of the image in %s\n", folder);
        fake_registry_stop(fake);
        return NULL;
    }
    return fake;
}

/* Those who ask again are answered then. */
static void resume(struct fake_registry *fake, bool ended)
{
    pthread_mutex_lock(&fake->lock);
    fake->released = true;
    fake->ended = ended;
    unsigned n = fake->n_kept_back;
    fake->n_kept_back = 0;
    for (unsigned i = 0; i < n; i++)
        fake_http_resume(fake->kept_back[i]);
    pthread_mutex_unlock(&fake->lock);
}

void fake_registry_release(struct fake_registry *fake)
{
    resume(fake, false);
}

void fake_registry_stop(struct fake_registry *fake)
{
    if (!fake)
        return;
    resume(fake, true);
    fake_http_stop(fake->http);
    pthread_mutex_destroy(&fake->lock);
    buffer_done(&fake->manifest.data);
    buffer_done(&fake->config.data);
    buffer_done(&fake->layer.data);
    free(fake);
}

int fake_registry_port(const struct fake_registry *fake)
{
    return fake_http_port(fake->http);
}

const char *fake_registry_digest(const struct fake_registry *fake)
{
    return fake->manifest.digest;
}

struct fake_registry_counts fake_registry_counts(struct fake_registry *fake)
{
    pthread_mutex_lock(&fake->lock);
    struct fake_registry_counts counts = fake->counts;
    pthread_mutex_unlock(&fake->lock);
    return counts;
}
