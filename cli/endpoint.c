/* See endpoint.h. */
#include "cli/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/document.h"
#include "cli/output.h"

#define FILE_MAX (1u << 20)
#define PASSWORD_MAX 4096
#define OPERATOR "operator"
#define SYSTEM_RUN_DIRECTORY "/run/triggerflow" /* systemd/triggerflow-supervisor.service */

/* What the places have given so far; all owned. */
struct found {
    char *url;
    char *user;
    char *password;
};

static void forget(char *secret)
{
    if (secret)
        OPENSSL_cleanse(secret, strlen(secret));
    free(secret);
}

static void found_done(struct found *found)
{
    free(found->url);
    free(found->user);
    forget(found->password);
}

void endpoint_done(struct endpoint *endpoint)
{
    free(endpoint->url);
    free(endpoint->socket);
    free(endpoint->user);
    forget(endpoint->password);
    free(endpoint->shown);
    *endpoint = (struct endpoint){0};
}

static int no_memory(struct error *err)
{
    error_set(err, ERROR_MEMORY, "out of memory");
    return -1;
}

/* ---- Passwords ---- */

int endpoint_digest(const char *user, const char *password, char ret_digest[65], struct error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (!HMAC(EVP_sha3_256(), password, (int)strlen(password), (const unsigned char *)user, strlen(user),
              digest, &len) ||
        len != 32)
        return error_set(err, ERROR_SYSTEM, "the password's digest cannot be computed (HMAC-SHA3-256)");
    for (unsigned i = 0; i < len; i++)
        snprintf(ret_digest + 2 * (size_t)i, 3, "%02x", digest[i]);
    return 0;
}

int endpoint_read_password(const char *path, char **ret_password, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    int r = document_read_text(path, PASSWORD_MAX, &text, err) < 0 ? -1 : 0;
    if (r == 0) {
        const char *line = buffer_text(&text);
        size_t len = strcspn(line, "\r\n");
        char *copy = strndup(line, len);
        if (!copy || text.failed) {
            free(copy);
            r = no_memory(err);
        } else if (len == 0) {
            free(copy);
            r = error_set(err, ERROR_INVALID, "%s holds no password in its first line",
                          strcmp(path, "-") == 0 ? "standard input" : path);
        } else
            *ret_password = copy;
    }
    if (text.data)
        OPENSSL_cleanse(text.data, text.cap);
    return r;
}

/* A line from the terminal, of which nothing is shown. */
static int read_hidden(int fd, const char *prompt, char *line, size_t size)
{
    struct termios before, hidden;
    size_t len = 0;
    ssize_t n = 1;
    char c = '\0';
    if (tcgetattr(fd, &before) < 0)
        return -1;
    hidden = before;
    char interrupt = (char)before.c_cc[VINTR];
    hidden.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ISIG);
    hidden.c_cc[VEOL] = before.c_cc[VINTR]; /* ends a line, too */
    hidden.c_lflag |= ECHONL;
    /* Hidden first: who answers the prompt at once is not to be seen either. */
    if (tcsetattr(fd, TCSAFLUSH, &hidden) < 0)
        return -1;
    if (write(fd, prompt, strlen(prompt)) < 0)
        n = -1;
    while (n == 1 && (n = read(fd, &c, 1)) == 1 && c != '\n' && c != interrupt)
        if (len + 1 < size)
            line[len++] = c;
    line[len] = '\0';
    if (c == interrupt) { /* no signal is raised, so that the terminal does not stay as it is now */
        errno = EINTR;
        n = -1;
    }
    int e = errno;
    tcsetattr(fd, TCSAFLUSH, &before);
    errno = e;
    return n < 0 ? -1 : 0;
}

int endpoint_ask_password(const char *prompt, char **ret_password, struct error *err)
{
    char line[PASSWORD_MAX];
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return error_set(err, ERROR_NOT_FOUND, "there is no terminal to ask for the password");
    int r = read_hidden(fd, prompt, line, sizeof line);
    close(fd);
    if (r < 0)
        return error_set_errno(err, errno, "the password cannot be read from the terminal");
    if (line[0] == '\0')
        return error_set(err, ERROR_INVALID, "no password was given");
    *ret_password = strdup(line);
    OPENSSL_cleanse(line, sizeof line);
    return *ret_password ? 0 : no_memory(err);
}

/* ---- Places ---- */

static int give(char **field, const char *value, struct error *err)
{
    if (*field || !value || *value == '\0')
        return 0;
    *field = strdup(value);
    return *field ? 0 : no_memory(err);
}

static int from_flags(const struct cli *cli, struct found *found, struct error *err)
{
    const char *file = cli_value(cli, "password-file");
    if (give(&found->url, cli_value(cli, "url"), err) < 0 ||
        give(&found->user, cli_value(cli, "user"), err) < 0)
        return -1;
    return file ? endpoint_read_password(file, &found->password, err) : 0;
}

static int from_environment(struct found *found, struct error *err)
{
    if (give(&found->url, getenv("TRIGGERFLOW_URL"), err) < 0)
        return -1;
    /* The environment's password belongs to its user, unless a flag names nobody else. */
    const char *user = getenv("TRIGGERFLOW_USER");
    if (found->user && user && strcmp(found->user, user) != 0)
        return 0;
    return give(&found->user, user, err) < 0 ? -1
                                             : give(&found->password, getenv("TRIGGERFLOW_PASSWORD"), err);
}

static void warn_readable(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && (st.st_mode & 077) != 0)
        cli_fail(0, "warning: others may read the password in %s: chmod 600 it", path);
}

/* The members of a file's section: url or endpoint, user, password or password_file. */
static int from_section(struct found *found, const char *path, struct json_object *section, bool ours,
                        struct error *err)
{
    const char *password = output_text(section, "password");
    const char *password_file = output_text(section, "password_file");
    const char *user = output_text(section, "user");
    const char *url = output_text(section, ours ? "url" : "endpoint");
    if (*url == '\0')
        return 0;
    if (give(&found->url, url, err) < 0)
        return -1;
    if (found->user && strcmp(found->user, user) != 0)
        return 0;
    if (ours && *password != '\0' && !found->password)
        warn_readable(path);
    if (give(&found->user, user, err) < 0 || give(&found->password, password, err) < 0)
        return -1;
    if (*password_file != '\0' && !found->password)
        return endpoint_read_password(password_file, &found->password, err);
    return 0;
}

/* A file of the user, if it exists and no place before has given a URL. */
static int from_file(struct found *found, const char *path, bool ours, struct error *err)
{
    struct json_object *root = NULL;
    if (found->url || access(path, F_OK) < 0)
        return 0;
    BUFFER_AUTO text = BUFFER_INIT;
    if (document_read_text(path, FILE_MAX, &text, err) < 0 ||
        document_parse(path, text.len ? text.data : "", text.len, &root, err) < 0)
        return -1;
    struct json_object *section = ours ? root : output_member(root, "triggerflow");
    int r = ours && root && !json_object_is_type(root, json_type_object)
                ? error_set(err, ERROR_INVALID, "%s: keys with values are needed: url, user, password", path)
                : from_section(found, path, section, ours, err);
    json_object_put(root);
    return r;
}

static int from_files(struct found *found, struct error *err)
{
    BUFFER_AUTO path = BUFFER_INIT;
    const char *home = getenv("HOME"), *config = getenv("XDG_CONFIG_HOME");
    if (config && *config == '/')
        buffer_printf(&path, "%s/triggerflow/config.yaml", config);
    else if (home)
        buffer_printf(&path, "%s/.config/triggerflow/config.yaml", home);
    if (path.len > 0 && from_file(found, buffer_text(&path), true, err) < 0)
        return -1;
    buffer_reset(&path, 4096);
    if (!home)
        return 0;
    buffer_printf(&path, "%s/triggerflow_config.yaml", home);
    return from_file(found, buffer_text(&path), false, err);
}

/* ---- What was found becomes an endpoint ---- */

/* A path in the run directory of the local supervisor (owned). */
static bool is_set(const char *variable)
{
    const char *text = getenv(variable);
    return text && *text;
}

/* A file in the run directory of this user's supervisor; when that is not there, and nothing says where it
 * should be, in that of the system's. */
static int run_path(const char *name, char **ret_path, struct error *err)
{
    struct config config;
    BUFFER_AUTO path = BUFFER_INIT;
    BUFFER_AUTO system_path = BUFFER_INIT;
    if (config_load(NULL, &config, err) < 0)
        return -1;
    buffer_printf(&path, "%s/%s", config.run_directory, name);
    buffer_printf(&system_path, SYSTEM_RUN_DIRECTORY "/%s", name);
    config_done(&config);
    if (!is_set("TRIGGERFLOW_RUN_DIRECTORY") && !is_set("TRIGGERFLOW_CONFIG_MAP_FILE") &&
        access(buffer_text(&path), F_OK) < 0 && access(buffer_text(&system_path), R_OK) == 0) {
        buffer_reset(&path, SIZE_MAX);
        buffer_append(&path, system_path.data, system_path.len);
    }
    char *copy = path.failed ? NULL : strdup(buffer_text(&path));
    if (!copy)
        return no_memory(err);
    *ret_path = copy;
    return 0;
}

static int set_socket(struct endpoint *endpoint, const char *path, struct error *err)
{
    BUFFER_AUTO shown = BUFFER_INIT;
    buffer_printf(&shown, "unix:%s", path);
    endpoint->socket = strdup(path);
    endpoint->url = strdup("http://localhost");
    endpoint->shown = strdup(buffer_text(&shown));
    return endpoint->socket && endpoint->url && endpoint->shown && !shown.failed ? 0 : no_memory(err);
}

static int set_url(struct endpoint *endpoint, const char *given, struct error *err)
{
    if (strncmp(given, "unix:", 5) == 0)
        return set_socket(endpoint, given + 5 + (strncmp(given + 5, "//", 2) == 0 ? 2 : 0), err);
    BUFFER_AUTO url = BUFFER_INIT;
    const char *scheme = strstr(given, "://");
    if (scheme && strncmp(given, "http://", 7) != 0 && strncmp(given, "https://", 8) != 0)
        return error_set(err, ERROR_INVALID, "the URL %s is neither http, https nor unix", given);
    const char *host = scheme ? scheme + 3 : given;
    if (*host == '\0' || *host == '/' || strpbrk(given, " \t\r\n") || strchr(host, '@'))
        return error_set(err, ERROR_INVALID, "the URL of the API is not http://HOST:PORT (without a user)");
    buffer_printf(&url, "%s%s", scheme ? "" : "http://", given);
    while (url.len > 0 && url.data[url.len - 1] == '/')
        url.len--;
    endpoint->url = strdup(buffer_text(&url));
    endpoint->shown = strdup(buffer_text(&url));
    return endpoint->url && endpoint->shown && !url.failed ? 0 : no_memory(err);
}

/* The operator's password is the token in the run directory, and sent as it is. */
static int set_operator(struct endpoint *endpoint, struct found *found, struct error *err)
{
    char *path = NULL;
    if (!found->password) {
        if (run_path("operator.token", &path, err) < 0)
            return -1;
        int r = endpoint_read_password(path, &found->password, err);
        free(path);
        if (r < 0)
            return -1;
    }
    endpoint->password = strdup(found->password);
    return endpoint->password ? 0 : no_memory(err);
}

static int set_credentials(struct endpoint *endpoint, struct found *found, struct error *err)
{
    char digest[65];
    if (!found->user || endpoint->socket)
        return 0;
    endpoint->user = strdup(found->user);
    if (!endpoint->user)
        return no_memory(err);
    if (strchr(found->user, ':'))
        return error_set(err, ERROR_INVALID, "a user's name contains no colon: %s", found->user);
    if (strcmp(found->user, OPERATOR) == 0)
        return set_operator(endpoint, found, err);
    if (!found->password) {
        char prompt[256];
        snprintf(prompt, sizeof prompt, "Password of %s: ", found->user);
        if (endpoint_ask_password(prompt, &found->password, err) < 0)
            return error_prefix(err, "user %s has no password: give --password-file or TRIGGERFLOW_PASSWORD",
                                found->user);
    }
    if (endpoint_digest(found->user, found->password, digest, err) < 0)
        return -1;
    endpoint->password = strdup(digest);
    return endpoint->password ? 0 : no_memory(err);
}

static int find(const struct cli *cli, struct found *found, struct endpoint *endpoint, struct error *err)
{
    char *path = NULL;
    if (from_flags(cli, found, err) < 0 || from_environment(found, err) < 0 || from_files(found, err) < 0)
        return -1;
    endpoint->local = !found->url;
    if (found->url)
        return set_url(endpoint, found->url, err) < 0 ? -1 : set_credentials(endpoint, found, err);
    if (run_path("api.sock", &path, err) < 0)
        return -1;
    int r = set_socket(endpoint, path, err);
    free(path);
    return r;
}

int endpoint_find(const struct cli *cli, struct endpoint *ret_endpoint)
{
    struct found found = {0};
    struct error err = {0};
    *ret_endpoint = (struct endpoint){0};
    int r = find(cli, &found, ret_endpoint, &err);
    found_done(&found);
    if (r == 0)
        return CLI_OK;
    endpoint_done(ret_endpoint);
    return cli_fail_error(err.code == ERROR_INVALID ? CLI_USAGE : CLI_FAILED, &err);
}
