#include "common/aws_credentials.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/fetch.h"
#include "common/json.h"

#define REFRESH (300 * CLOCK_S) /* before they expire */
#define RETRY_FIRST CLOCK_S
#define RETRY_LONGEST (60 * CLOCK_S)
#define RENEWED_LATELY (30 * CLOCK_S) /* what is younger is not fetched anew because it is refused */
#define CONNECT_TIMEOUT (2 * CLOCK_S)
#define TIMEOUT (5 * CLOCK_S)
#define MAX_ANSWER 65536
#define MAX_TOKEN 16384
#define CONTAINER_HOST "http://169.254.170.2"
#define INSTANCE_HOST "http://169.254.169.254"
#define ROLES_PATH "/latest/meta-data/iam/security-credentials/"

enum provider { GIVEN, ENVIRONMENT, CONTAINER, INSTANCE };

static const char *const provider_names[] = {"given", "environment", "container", "instance"};

/* What is being asked for, of the instance: its token, its role, the role's credentials. */
enum step { STEP_NONE, STEP_TOKEN, STEP_ROLE, STEP_CREDENTIALS };

struct secrets {
    char *access_key_id, *secret_access_key, *session_token;
    uint64_t expires_unix_ns; /* UINT64_MAX: never */
};

struct aws_credentials {
    enum provider provider;
    struct fetch_pool *pool;
    struct secrets secrets; /* access_key_id NULL: none yet */
    uint64_t fetched_ns;
    enum step step;
    struct fetch *fetch;
    char *header; /* that it borrows */
    char *instance_token;
    char *role;
    unsigned failures;
    uint64_t retry_ns;
    struct error failure; /* of the last fetch */
    void (*ready)(void *data);
    void *ready_data;
};

/* --- memory --- */

static void wipe(char **text)
{
    if (*text)
        OPENSSL_cleanse(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

static void secrets_done(struct secrets *s)
{
    wipe(&s->access_key_id);
    wipe(&s->secret_access_key);
    wipe(&s->session_token);
}

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

/* A pair, and perhaps a token. */
static int set_static(struct aws_credentials *c, const char *id, const char *secret, const char *token,
                      struct error *err)
{
    c->secrets.expires_unix_ns = UINT64_MAX;
    c->secrets.access_key_id = strdup(id);
    c->secrets.secret_access_key = strdup(secret);
    c->secrets.session_token = token ? strdup(token) : NULL;
    if (c->secrets.access_key_id && c->secrets.secret_access_key && (!token || c->secrets.session_token))
        return 0;
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static int choose(struct aws_credentials *c, const struct sigv4_credentials *given, struct error *err)
{
    const char *id = variable("AWS_ACCESS_KEY_ID");
    const char *secret = variable("AWS_SECRET_ACCESS_KEY");
    if (given && (given->access_key_id || given->secret_access_key)) {
        c->provider = GIVEN;
        if (!given->access_key_id || !given->secret_access_key)
            return error_set(err, ERROR_INVALID, "of access_key_id and secret_access_key only one is given");
        return set_static(c, given->access_key_id, given->secret_access_key, given->session_token, err);
    }
    if (id || secret) {
        c->provider = ENVIRONMENT;
        if (!id || !secret)
            return error_set(err, ERROR_INVALID,
                             "of the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set");
        return set_static(c, id, secret, variable("AWS_SESSION_TOKEN"), err);
    }
    c->provider =
        variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") || variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")
            ? CONTAINER
            : INSTANCE;
    return 0;
}

int aws_credentials_new(const struct sigv4_credentials *given, struct fetch_pool *pool,
                        struct aws_credentials **ret_credentials, struct error *err)
{
    struct aws_credentials *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, ERROR_MEMORY, "out of memory");
    c->pool = pool;
    if (choose(c, given, err) < 0) {
        aws_credentials_free(c);
        return -1;
    }
    *ret_credentials = c;
    return 0;
}

void aws_credentials_free(struct aws_credentials *credentials)
{
    if (!credentials)
        return;
    if (credentials->fetch)
        fetch_cancel(credentials->fetch);
    secrets_done(&credentials->secrets);
    wipe(&credentials->instance_token);
    wipe(&credentials->header);
    free(credentials->role);
    free(credentials);
}

void aws_credentials_on_ready(struct aws_credentials *credentials, void (*ready)(void *data), void *data)
{
    credentials->ready = ready;
    credentials->ready_data = data;
}

const char *aws_credentials_provider(const struct aws_credentials *credentials)
{
    return provider_names[credentials->provider];
}

/* --- the end of a fetch --- */

static void end_fetch(struct aws_credentials *c)
{
    c->step = STEP_NONE;
    wipe(&c->instance_token);
    wipe(&c->header);
    if (c->ready)
        c->ready(c->ready_data);
}

/* `failure` tells what was wrong. */
static void back_off(struct aws_credentials *c)
{
    uint64_t delay = RETRY_FIRST << (c->failures < 6 ? c->failures : 6);
    c->failures++;
    c->retry_ns = clock_now_ns() + (delay < RETRY_LONGEST ? delay : RETRY_LONGEST);
    error_prefix(&c->failure, "credentials of the %s role", provider_names[c->provider]);
}

static void fail(struct aws_credentials *c)
{
    back_off(c);
    end_fetch(c);
}

/* --- reading credentials --- */

/* 2030-01-01T12:00:00Z. 0: it is no time. */
static uint64_t parse_time(const char *text)
{
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (rest && *rest == '.')
        rest += 1 + strspn(rest + 1, "0123456789");
    if (!rest || strcmp(rest, "Z") != 0)
        return 0;
    time_t t = timegm(&tm);
    return t > 0 ? (uint64_t)t * CLOCK_S : 0;
}

static char *take_text(const struct json_value *object, const char *name)
{
    struct json_value value;
    char *text = NULL;
    BUFFER_AUTO b = BUFFER_INIT;
    if (!json_member(object, name, &value) || value.type != JSON_STRING)
        return NULL;
    json_unescape(&value, &b);
    if (b.len && !memchr(b.data, '\0', b.len))
        text = strdup(buffer_text(&b));
    if (b.data)
        OPENSSL_cleanse(b.data, b.len);
    return text;
}

static int read_secrets(const char *text, size_t len, struct secrets *ret_secrets, struct error *err)
{
    struct json_value root;
    struct error wrong;
    if (json_scan(text, len, &root, &wrong) < 0 || root.type != JSON_OBJECT)
        return error_set(err, ERROR_UNAVAILABLE, "the answer is no JSON object");
    struct secrets s = {.access_key_id = take_text(&root, "AccessKeyId"),
                        .secret_access_key = take_text(&root, "SecretAccessKey"),
                        .session_token = take_text(&root, "Token"),
                        .expires_unix_ns = UINT64_MAX};
    char *expiration = take_text(&root, "Expiration");
    if (expiration)
        s.expires_unix_ns = parse_time(expiration);
    int r = 0;
    if (!s.access_key_id || !s.secret_access_key)
        r = error_set(err, ERROR_UNAVAILABLE, "the answer has no AccessKeyId and SecretAccessKey");
    else if (!s.expires_unix_ns)
        r = error_set(err, ERROR_UNAVAILABLE, "the answer's Expiration is %.40s", expiration);
    else if (s.expires_unix_ns <= clock_unix_ns())
        r = error_set(err, ERROR_UNAVAILABLE, "what is offered has expired at %.40s", expiration);
    free(expiration);
    if (r < 0)
        secrets_done(&s);
    else
        *ret_secrets = s;
    return r;
}

static void take_credentials(struct aws_credentials *c, const struct fetch_answer *answer)
{
    struct secrets fresh;
    if (read_secrets(answer->body, answer->len, &fresh, &c->failure) < 0) {
        fail(c);
        return;
    }
    secrets_done(&c->secrets);
    c->secrets = fresh;
    c->fetched_ns = clock_now_ns();
    c->failures = 0;
    end_fetch(c);
}

/* --- asking --- */

static void on_answer(void *data, const struct fetch_answer *answer);

static int ask(struct aws_credentials *c, const char *method, const char *url, const char *header)
{
    wipe(&c->header);
    c->header = header ? strdup(header) : NULL;
    if (header && !c->header)
        return error_set(&c->failure, ERROR_MEMORY, "out of memory");
    const char *headers[] = {c->header, NULL};
    struct fetch_request request = {.method = method,
                                    .url = url,
                                    .headers = headers,
                                    .connect_timeout_ns = CONNECT_TIMEOUT,
                                    .timeout_ns = TIMEOUT,
                                    .max_answer = MAX_ANSWER,
                                    .no_proxy = true};
    return fetch_start(c->pool, &request, on_answer, c, &c->fetch, &c->failure);
}

static bool is_line(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            return false;
    return true;
}

/* Reads the file's contents without the line's end. */
static int read_file(const char *path, struct buffer *out, struct error *err)
{
    FILE *file = fopen(path, "re");
    char *to = buffer_reserve(out, MAX_TOKEN);
    if (!file || !to) {
        if (file)
            fclose(file);
        return error_set(err, ERROR_UNAVAILABLE, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE %s cannot be read",
                         path);
    }
    out->len = fread(to, 1, MAX_TOKEN, file);
    fclose(file);
    while (out->len && (out->data[out->len - 1] == '\n' || out->data[out->len - 1] == '\r'))
        out->len--;
    return 0;
}

/* "Authorization: ...", or nothing. */
static int container_header(struct buffer *out, struct error *err)
{
    BUFFER_AUTO token = BUFFER_INIT;
    const char *path = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *given = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    if (path && read_file(path, &token, err) < 0)
        return -1;
    if (!path && given)
        buffer_append_text(&token, given);
    if (!token.len)
        return 0;
    if (memchr(token.data, '\0', token.len) || !is_line(buffer_text(&token)))
        return error_set(err, ERROR_UNAVAILABLE, "the authorization token holds control characters");
    buffer_append_text(out, "Authorization: ");
    buffer_append(out, token.data, token.len);
    OPENSSL_cleanse(token.data, token.len);
    return 0;
}

/* Over plain HTTP a token goes to this host and the container agents only. */
static bool is_near(const char *url)
{
    static const char *const hosts[] = {"localhost",     "127.0.0.1",      "[::1]",
                                        "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"};
    if (strncmp(url, "http://", 7) != 0)
        return !strncmp(url, "https://", 8);
    const char *host = url + 7;
    size_t len = strcspn(host, "/?#");
    if (memchr(host, '@', len))
        return false;
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        size_t n = strlen(hosts[i]);
        if (len >= n && !memcmp(host, hosts[i], n) && (len == n || host[n] == ':'))
            return true;
    }
    return false;
}

static int ask_container(struct aws_credentials *c)
{
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO header = BUFFER_INIT;
    const char *relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    if (relative)
        buffer_append_text(&url, CONTAINER_HOST);
    buffer_append_text(&url, relative ? relative : variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"));
    if ((relative && relative[0] != '/') || !is_near(buffer_text(&url)))
        return error_set(&c->failure, ERROR_REFUSED,
                         "AWS_CONTAINER_CREDENTIALS_%s_URI is neither https nor http to this host",
                         relative ? "RELATIVE" : "FULL");
    if (container_header(&header, &c->failure) < 0)
        return -1;
    c->step = STEP_CREDENTIALS;
    int r = ask(c, "GET", buffer_text(&url), header.len ? buffer_text(&header) : NULL);
    if (header.data)
        OPENSSL_cleanse(header.data, header.len);
    return r;
}

static int ask_instance(struct aws_credentials *c, enum step step)
{
    BUFFER_AUTO url = BUFFER_INIT;
    BUFFER_AUTO header = BUFFER_INIT;
    const char *host = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    const char *disabled = variable("AWS_EC2_METADATA_DISABLED");
    if (disabled && !strcmp(disabled, "true"))
        return error_set(
            &c->failure, ERROR_REFUSED,
            "there is none: AWS_EC2_METADATA_DISABLED is set; neither parameters nor environment "
            "give credentials");
    buffer_append_text(&url, host ? host : INSTANCE_HOST);
    while (url.len && url.data[url.len - 1] == '/')
        url.len--;
    c->step = step;
    if (step == STEP_TOKEN) {
        buffer_append_text(&url, "/latest/api/token");
        return ask(c, "PUT", buffer_text(&url), "X-aws-ec2-metadata-token-ttl-seconds: 21600");
    }
    buffer_append_text(&url, ROLES_PATH);
    if (step == STEP_CREDENTIALS)
        buffer_append_text(&url, c->role);
    buffer_printf(&header, "X-aws-ec2-metadata-token: %s", c->instance_token);
    int r = ask(c, "GET", buffer_text(&url), buffer_text(&header));
    OPENSSL_cleanse(header.data, header.len);
    return r;
}

static bool is_role(const char *text)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+=,.@-_";
    return text[0] && !text[strspn(text, allowed)];
}

/* The next step after the token or the role has come. */
static int go_on(struct aws_credentials *c, const struct fetch_answer *answer)
{
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append(&text, answer->body, strcspn(answer->body, "\r\n"));
    if (c->step == STEP_TOKEN) {
        if (!text.len || text.len > MAX_TOKEN || !is_line(buffer_text(&text)))
            return error_set(&c->failure, ERROR_UNAVAILABLE, "the answer is no session token");
        wipe(&c->instance_token);
        c->instance_token = strdup(buffer_text(&text));
        OPENSSL_cleanse(text.data, text.len);
        if (!c->instance_token)
            return error_set(&c->failure, ERROR_MEMORY, "out of memory");
        return ask_instance(c, STEP_ROLE);
    }
    if (!is_role(buffer_text(&text)))
        return error_set(&c->failure, ERROR_UNAVAILABLE, "the answer is no name of a role");
    free(c->role);
    c->role = strdup(buffer_text(&text));
    if (!c->role)
        return error_set(&c->failure, ERROR_MEMORY, "out of memory");
    return ask_instance(c, STEP_CREDENTIALS);
}

static void on_answer(void *data, const struct fetch_answer *answer)
{
    static const char *const what[] = {"", "the session token", "the name of the role", "the credentials"};
    struct aws_credentials *c = data;
    c->fetch = NULL;
    if (answer->status == 200) {
        if (c->step == STEP_CREDENTIALS)
            take_credentials(c, answer);
        else if (go_on(c, answer) < 0)
            fail(c);
        return;
    }
    if (answer->error)
        c->failure = *answer->error;
    else
        error_set(&c->failure, ERROR_UNAVAILABLE, "status %ld", answer->status);
    error_prefix(&c->failure, "asking for %s", what[c->step]);
    fail(c);
}

static void start_fetch(struct aws_credentials *c)
{
    int r = c->provider == CONTAINER ? ask_container(c) : ask_instance(c, STEP_TOKEN);
    if (r == 0)
        return;
    c->step = STEP_NONE;
    back_off(c);
}

/* --- using --- */

static bool is_static(const struct aws_credentials *c)
{
    return c->provider == GIVEN || c->provider == ENVIRONMENT;
}

int aws_credentials_get(struct aws_credentials *credentials, uint64_t now_ns, uint64_t unix_ns,
                        struct sigv4_credentials *ret_credentials, struct error *err)
{
    struct aws_credentials *c = credentials;
    struct secrets *s = &c->secrets;
    bool valid = s->access_key_id && s->expires_unix_ns > unix_ns;
    bool old = !valid || s->expires_unix_ns - unix_ns < REFRESH;
    if (!is_static(c) && old && c->step == STEP_NONE && (!c->failures || now_ns >= c->retry_ns))
        start_fetch(c);
    if (valid) {
        *ret_credentials =
            (struct sigv4_credentials){s->access_key_id, s->secret_access_key, s->session_token};
        return 0;
    }
    if (c->step != STEP_NONE)
        return AWS_CREDENTIALS_COMING;
    if (err)
        *err = c->failure;
    return -1;
}

bool aws_credentials_expired(struct aws_credentials *credentials, uint64_t now_ns)
{
    struct aws_credentials *c = credentials;
    if (is_static(c))
        return false;
    if (c->step != STEP_NONE)
        return true;
    if (c->secrets.access_key_id && now_ns < c->fetched_ns + RENEWED_LATELY)
        return false;
    start_fetch(c);
    if (c->step == STEP_NONE)
        return false;
    secrets_done(&c->secrets);
    return true;
}
