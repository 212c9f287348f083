#include "worker/source/sqs_parameters.h"

#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "common/error.h"
#include "common/json.h"
#include "worker/source/parameter.h"

#define NAME_MAX_BYTES 80 /* of a queue */
#define SECRET_MAX 8192

const char *const sqs_parameters_known[] = {
    "access_key_id", "secret_access_key", "session_token",      "region", "queue", "endpoint", "tls_ca",
    "receives",      "wait_seconds",      "visibility_timeout", NULL};

static bool is_plain(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            return false;
    return true;
}

/* Absent, null and empty are NULL. */
static int read_text(const struct json_value *json, const char *name, char **ret_text, struct error *err)
{
    struct json_value value;
    if (parameter_text(json, name, "", ret_text, err) < 0)
        return -1;
    if ((!is_plain(*ret_text) || strlen(*ret_text) > SECRET_MAX) && json_member(json, name, &value))
        return parameter_wrong(name, &value, "a text without control characters", err);
    if (!**ret_text) {
        free(*ret_text);
        *ret_text = NULL;
    }
    return 0;
}

/* --- the queue --- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text);
    return len >= strlen(end) && !strcmp(text + len - strlen(end), end);
}

static bool is_name(const char *name)
{
    size_t len = strlen(name);
    size_t plain = ends_with(name, ".fifo") ? len - 5 : len;
    return plain && len <= NAME_MAX_BYTES &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") >= plain;
}

static char *part(const char *text, size_t len)
{
    return len ? strndup(text, len) : NULL;
}

/* "http[s]://host[:port][/path]", as curl takes it. */
static bool is_base(const char *url)
{
    size_t scheme = !strncmp(url, "https://", 8) ? 8 : !strncmp(url, "http://", 7) ? 7 : 0;
    if (!scheme || !url[scheme] || strpbrk(url + scheme, "@?# "))
        return false;
    CURLU *parsed = curl_url();
    bool good = parsed && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK;
    curl_url_cleanup(parsed);
    return good;
}

/* arn:aws:sqs:<region>:<account>:<name> */
static bool read_arn(struct sqs_parameters *p, char **ret_region)
{
    const char *at[6];
    const char *text = p->queue;
    for (size_t i = 0; i < 6; i++) {
        at[i] = text;
        text = strchr(text, ':');
        if (!text && i < 5)
            return false;
        text = text ? text + 1 : NULL;
    }
    if (strncmp(at[2], "sqs:", 4) != 0 || !is_name(at[5]))
        return false;
    *ret_region = part(at[3], (size_t)(at[4] - at[3] - 1));
    p->account = part(at[4], (size_t)(at[5] - at[4] - 1));
    memmove(p->queue, at[5], strlen(at[5]) + 1);
    return *ret_region && p->account;
}

/* https://sqs.<region>.amazonaws.com/<account>/<name>, or another host's. */
static bool read_url(struct sqs_parameters *p, char **ret_region)
{
    const char *host = strstr(p->queue, "://") + 3;
    size_t host_len = strcspn(host, "/?#@");
    const char *name = strrchr(p->queue, '/') + 1;
    if (!host_len || host[host_len] != '/' || !is_name(name))
        return false;
    const char *label =
        !strncmp(host, "sqs.", 4) && memmem(host, host_len, ".amazonaws.com", 14) ? host + 4 : NULL;
    if (label)
        *ret_region = part(label, strcspn(label, "."));
    if (!p->endpoint)
        p->endpoint = part(p->queue, (size_t)(host + host_len - p->queue));
    p->url = p->queue;
    p->queue = strdup(name);
    return p->queue && p->endpoint && is_base(p->endpoint);
}

static int read_queue(struct sqs_parameters *p, struct error *err)
{
    char *region = NULL;
    bool good;
    if (!p->queue)
        return error_set(err, ERROR_INVALID, "parameter queue is missing");
    if (!strncmp(p->queue, "arn:", 4))
        good = read_arn(p, &region);
    else if (!strncmp(p->queue, "https://", 8) || !strncmp(p->queue, "http://", 7))
        good = read_url(p, &region);
    else
        good = is_name(p->queue);
    if (!good) {
        const char *shown = p->url ? p->url : p->queue;
        free(region);
        return strchr(shown, '@') /* there may be a password */
                   ? error_set(err, ERROR_INVALID, "parameter queue is a URL with a user, or none of a queue")
                   : error_set(
                         err, ERROR_INVALID,
                         "parameter queue is \"%.120s\", not the name, URL or ARN of a queue (names have at "
                         "most 80 letters, digits, '-' and '_')",
                         shown);
    }
    p->fifo = ends_with(p->queue, ".fifo");
    if (!p->region)
        p->region = region;
    else
        free(region);
    return 0;
}

static int read_region(struct sqs_parameters *p, struct error *err)
{
    static const char *const variables[] = {"AWS_REGION", "AWS_DEFAULT_REGION"};
    for (size_t i = 0; i < 2 && !p->region; i++) {
        const char *value = getenv(variables[i]);
        p->region = value && value[0] ? strdup(value) : NULL;
    }
    if (!p->region)
        return error_set(err, ERROR_INVALID,
                         "parameter region is missing, and neither queue nor AWS_REGION tells it");
    if (strspn(p->region, "abcdefghijklmnopqrstuvwxyz0123456789-") < strlen(p->region))
        return error_set(err, ERROR_INVALID, "parameter region is \"%.60s\", which is none", p->region);
    return 0;
}

/* Credentials go over plain HTTP only to a host of the user's own choice. */
static int check_endpoint(const struct sqs_parameters *p, struct error *err)
{
    const char *url = p->endpoint;
    if (!url || is_base(url))
        return 0;
    return strchr(url, '@') /* there may be a password */
               ? error_set(err, ERROR_INVALID, "parameter endpoint is a URL with a user")
               : error_set(err, ERROR_INVALID,
                           "parameter endpoint is \"%.120s\", not an http or https URL without query", url);
}

static int check_credentials(const struct sqs_parameters *p, struct error *err)
{
    if (!p->access_key_id != !p->secret_access_key)
        return error_set(err, ERROR_INVALID, "parameter %s is missing",
                         p->access_key_id ? "secret_access_key" : "access_key_id");
    if (p->session_token && !p->access_key_id)
        return error_set(err, ERROR_INVALID, "parameter session_token without access_key_id");
    return 0;
}

static int read_all(const struct json_value *json, struct sqs_parameters *p, struct error *err)
{
    if (read_text(json, "access_key_id", &p->access_key_id, err) < 0 ||
        read_text(json, "secret_access_key", &p->secret_access_key, err) < 0 ||
        read_text(json, "session_token", &p->session_token, err) < 0 ||
        read_text(json, "region", &p->region, err) < 0 || read_text(json, "queue", &p->queue, err) < 0 ||
        read_text(json, "endpoint", &p->endpoint, err) < 0 ||
        read_text(json, "tls_ca", &p->tls_ca, err) < 0 ||
        parameter_number(json, "receives", 8, 1, SQS_RECEIVES_MAX, &p->receives, err) < 0 ||
        parameter_number(json, "wait_seconds", 20, 1, 20, &p->wait_seconds, err) < 0 ||
        parameter_number(json, "visibility_timeout", 0, 1, 43200, &p->visibility_timeout, err) < 0)
        return -1;
    if (check_endpoint(p, err) < 0 || read_queue(p, err) < 0 || read_region(p, err) < 0)
        return -1;
    return check_credentials(p, err);
}

int sqs_parameters_read(const struct json_value *json, struct sqs_parameters *ret_parameters,
                        struct error *err)
{
    struct sqs_parameters p = {0};
    if (read_all(json, &p, err) < 0) {
        sqs_parameters_done(&p);
        return -1;
    }
    *ret_parameters = p;
    return 0;
}

void sqs_parameters_done(struct sqs_parameters *p)
{
    free(p->access_key_id);
    free(p->secret_access_key);
    free(p->session_token);
    free(p->region);
    free(p->queue);
    free(p->endpoint);
    free(p->tls_ca);
    free(p->url);
    free(p->account);
    *p = (struct sqs_parameters){0};
}
