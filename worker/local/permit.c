#include "worker/local/permit.h"

#include <stdbool.h>
#include <string.h>

#include "common/error.h"

#define SHOWN 80

/* Whether a path has empty, . or .. segments. */
static bool is_crooked(const char *path, size_t len)
{
    for (size_t at = 0; at < len;) {
        size_t start = ++at; /* behind a slash */
        while (at < len && path[at] != '/')
            at++;
        size_t n = at - start;
        if (!n || (n == 1 && path[start] == '.') || (n == 2 && path[start] == '.' && path[start + 1] == '.'))
            return true;
    }
    return false;
}

static bool covers(const char *entry, size_t entry_len, const char *path, size_t len)
{
    while (entry_len > 1 && entry[entry_len - 1] == '/')
        entry_len--;
    if (len < entry_len || memcmp(entry, path, entry_len))
        return false;
    return len == entry_len || path[entry_len] == '/' || entry_len == 1;
}

int permit_program(const char *exec_allow, const char *path, size_t len, struct error *err)
{
    int shown = (int)(len < SHOWN ? len : SHOWN);
    if (!len || *path != '/' || memchr(path, '\0', len) || is_crooked(path, len))
        return error_set(err, ERROR_INVALID, "%.*s is not the absolute path of a program", shown, path);
    for (const char *at = exec_allow; *at; at += strspn(at, ":")) {
        size_t n = strcspn(at, ":");
        if (covers(at, n, path, len))
            return 0;
        at += n;
    }
    return error_set(err, ERROR_REFUSED,
                     *exec_allow ? "%.*s is not among what worker.exec_allow lets run"
                                 : "%.*s: worker.exec_allow lets no program run",
                     shown, path);
}

static bool names(const char *entry, size_t entry_len, const char *image, size_t len)
{
    if (entry_len && entry[entry_len - 1] == '*')
        return len >= entry_len - 1 && !memcmp(entry, image, entry_len - 1);
    return len == entry_len && !memcmp(entry, image, len);
}

int permit_image(const char *docker_images, const char *image, size_t len, struct error *err)
{
    for (const char *at = docker_images; *at; at += strspn(at, ", ")) {
        size_t n = strcspn(at, ", ");
        if (n && names(at, n, image, len))
            return 0;
        at += n;
    }
    return error_set(err, ERROR_REFUSED,
                     *docker_images ? "image %.*s is not among worker.docker_images"
                                    : "image %.*s: worker.docker_images allows none",
                     (int)(len < SHOWN ? len : SHOWN), image);
}
