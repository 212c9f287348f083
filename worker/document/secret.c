#include "worker/document/secret.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"

static int read_reference(const struct json_value *reference, struct json_value *ret_kind,
                          struct json_value *ret_name, struct error *err)
{
    static const char *const kinds[] = {"file", "env", "global"};
    struct json_iter iter;
    struct json_value more;
    if (reference->type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "is %s, not {\"file\"|\"env\"|\"global\": name}",
                         json_type_name(reference->type));
    json_iter_init(&iter, reference);
    if (!json_next(&iter, ret_kind, ret_name) || ret_name->type != JSON_STRING || !ret_name->len ||
        json_next(&iter, &more, &more))
        return error_set(err, ERROR_INVALID, "is not one of {\"file\"|\"env\"|\"global\": name}");
    for (size_t i = 0; i < 3; i++)
        if (json_equals(ret_kind, kinds[i], strlen(kinds[i])))
            return 0;
    return error_set(err, ERROR_INVALID, "is not one of {\"file\"|\"env\"|\"global\": name}");
}

#define SEGMENT_MAX 200

static bool is_segment(const char *name)
{
    if (!*name || *name == '.' || strlen(name) > SEGMENT_MAX)
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
            return false;
    return true;
}

static int not_a_name(const char *name, struct error *err)
{
    return error_set(err, ERROR_INVALID,
                     "secret file %.80s: not a name (letters, digits, dots, hyphens and underscores) in the "
                     "secret_directory",
                     name);
}

/* Whether a file's name may be one in some secret_directory, whichever is configured. */
static bool is_file_name(const char *name)
{
    const char *slash = strrchr(name, '/');
    if (!slash)
        return is_segment(name);
    return *name == '/' && is_segment(slash + 1) && !strstr(name, "/../") && !strstr(name, "/./");
}

int secret_check(const struct json_value *reference, struct error *err)
{
    struct json_value kind, name;
    BUFFER_AUTO text = BUFFER_INIT;
    if (read_reference(reference, &kind, &name, err) < 0)
        return -1;
    if (!json_equals(&kind, "file", 4))
        return 0;
    json_unescape(&name, &text);
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (memchr(text.data, '\0', text.len) || !is_file_name(buffer_text(&text)))
        return not_a_name(buffer_text(&text), err);
    return 0;
}

/* 0; 1: there is no such file. */
static int read_file(const char *path, const char *name, struct buffer *out, struct error *err)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? 1
                   : error_set(err, ERROR_UNAVAILABLE, "secret file %s: %s", name,
                               errno == EACCES ? "no permission" : "cannot be read");
    int r = 0;
    char *to = NULL;
    ssize_t n = 0;
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
        r = 1;
    else if (status.st_size > SECRET_MAX)
        r = error_set(err, ERROR_LIMIT, "secret file %s has more than %d bytes", name, SECRET_MAX);
    else if (!(to = buffer_reserve(out, SECRET_MAX)))
        r = error_set(err, ERROR_MEMORY, "out of memory");
    else if ((n = read(fd, to, SECRET_MAX)) < 0)
        r = error_set(err, ERROR_UNAVAILABLE, "secret file %s cannot be read", name);
    if (r == 0) {
        while (n > 0 && (to[n - 1] == '\n' || to[n - 1] == '\r'))
            n--;
        out->len += (size_t)n;
    }
    close(fd);
    return r;
}

static int secret_file(const struct secret_scope *scope, const char *name, struct buffer *out,
                       struct error *err)
{
    const char *directory = scope->config->secret_directory;
    char path[4600];
    size_t len = strlen(directory);
    while (len > 1 && directory[len - 1] == '/')
        len--;
    if (!len)
        return error_set(err, ERROR_INVALID, "secret file %.80s: no secret_directory is configured", name);
    const char *segment = !strncmp(name, directory, len) && name[len] == '/' ? name + len + 1 : name;
    if (!is_segment(segment))
        return not_a_name(name, err);
    snprintf(path, sizeof path, "%.*s/%s/%s", (int)len, directory, scope->workspace, segment);
    int r = read_file(path, segment, out, err);
    if (r == 1) {
        snprintf(path, sizeof path, "%.*s/%s", (int)len, directory, segment);
        r = read_file(path, segment, out, err);
    }
    return r == 1 ? error_set(err, ERROR_UNAVAILABLE, "secret file %s does not exist", segment) : r;
}

static int secret_variable(const struct secret_scope *scope, const char *name, struct buffer *out,
                           struct error *err)
{
    const char *prefix = scope->config->secret_variable_prefix;
    if (!*prefix || strncmp(name, prefix, strlen(prefix)) != 0)
        return error_set(err, ERROR_INVALID, "secret variable %.80s: its name does not begin with %s", name,
                         *prefix ? prefix : "a configured secret_variable_prefix");
    const char *value = getenv(name);
    if (!value)
        return error_set(err, ERROR_UNAVAILABLE, "secret variable %.80s is not set", name);
    buffer_append_text(out, value);
    return 0;
}

static int secret_global(const struct secret_scope *scope, const char *path, struct buffer *out,
                         struct error *err)
{
    static const struct json_value none = {.text = "{}", .len = 2, .type = JSON_OBJECT};
    struct json_value value = scope->global ? *scope->global : none;
    for (const char *at = path; *at;) {
        char name[128];
        size_t len = strcspn(at, ".");
        if (len >= sizeof name || value.type != JSON_OBJECT)
            value.type = JSON_ABSENT;
        else {
            struct json_value object = value;
            memcpy(name, at, len);
            name[len] = '\0';
            json_member(&object, name, &value);
        }
        at += len + (at[len] == '.');
    }
    if (value.type != JSON_STRING)
        return error_set(err, ERROR_UNAVAILABLE, "secret %.80s of the global context is not a text", path);
    json_unescape(&value, out);
    return 0;
}

int secret_read(const struct secret_scope *scope, const struct json_value *reference, struct buffer *out,
                struct error *err)
{
    struct json_value kind, name;
    BUFFER_AUTO text = BUFFER_INIT;
    if (read_reference(reference, &kind, &name, err) < 0)
        return -1;
    json_unescape(&name, &text);
    const char *plain = buffer_text(&text);
    if (text.failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (strlen(plain) != text.len)
        return error_set(err, ERROR_INVALID, "a secret's name holds a NUL character");
    int r = json_equals(&kind, "file", 4)  ? secret_file(scope, plain, out, err)
            : json_equals(&kind, "env", 3) ? secret_variable(scope, plain, out, err)
                                           : secret_global(scope, plain, out, err);
    if (r == 0 && out->failed)
        return error_set(err, ERROR_MEMORY, "out of memory");
    return r;
}
