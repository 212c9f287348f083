#include "common/aws_client.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/aws_credentials.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/fetch.h"
#include "common/json.h"

#define CONNECT_TIMEOUT (5 * CLOCK_S)
#define MAX_HEADERS 8
#define MAX_MESSAGE 160
#define IDLE_MAX 64 /* calls kept for reuse */
#define KEEP 65536u /* bytes of each of their buffers */
#define SKEW_S 240  /* signatures are good for 5 minutes */

struct link {
    struct link *next, *previous;
};

struct aws_client {
    struct fetch_pool *pool;
    struct aws_credentials *credentials;
    char *service, *region, *endpoint, *host, *base_path, *tls_ca;
    struct link calls; /* head of a ring */
    struct link idle;  /* likewise: kept for reuse */
    unsigned n_idle;
    unsigned round; /* of sending those that wait */
    struct sigv4_key key;
};

/* "Name: value" lines, NUL-terminated, in turn. */
struct lines {
    struct buffer text;
    size_t starts[MAX_HEADERS + 3];
    const char *items[MAX_HEADERS + 4];
    size_t n;
};

struct aws_call {
    struct link link; /* first */
    struct aws_client *client;
    struct buffer texts; /* all that follow, NUL-terminated, in turn */
    const char *operation, *method, *path, *query;
    struct sigv4_header headers[MAX_HEADERS];
    size_t n_headers;
    struct buffer body;
    struct buffer url; /* scratch; likewise signed_path */
    struct buffer signed_path;
    struct lines lines; /* which, like the body, the fetch borrows */
    uint64_t timeout_ns;
    size_t max_answer;
    bool once;
    aws_done done;
    void *data;
    struct fetch *fetch; /* NULL: waits for credentials */
    bool renewed;        /* the credentials were expired, once */
    unsigned round;
};

/* --- the client --- */

static bool is_host_label(const char *text)
{
    return text[0] && !text[strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-")];
}

static char *default_endpoint(const struct aws_client_options *o)
{
    char *text = NULL;
    if (asprintf(&text, "https://%s.%s.amazonaws.com%s", o->service, o->region,
                 strncmp(o->region, "cn-", 3) ? "" : ".cn") < 0)
        return NULL;
    return text;
}

/* Takes the endpoint apart: what the Host header will be, and the path that all paths are appended to. */
static int read_endpoint(struct aws_client *c, struct error *err)
{
    char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL, *user = NULL, *query = NULL;
    CURLU *url = curl_url();
    int r = -1;
    if (url && curl_url_set(url, CURLUPART_URL, c->endpoint, CURLU_PATH_AS_IS) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_PATH, &path, 0) == CURLUE_OK &&
        (!strcmp(scheme, "http") || !strcmp(scheme, "https")) &&
        curl_url_get(url, CURLUPART_USER, &user, 0) == CURLUE_NO_USER &&
        curl_url_get(url, CURLUPART_QUERY, &query, 0) == CURLUE_NO_QUERY) {
        bool has_port = curl_url_get(url, CURLUPART_PORT, &port, CURLU_NO_DEFAULT_PORT) == CURLUE_OK;
        size_t len = strlen(path);
        while (len && path[len - 1] == '/')
            len--;
        c->base_path = strndup(path, len);
        r = asprintf(&c->host, "%s%s%s", host, has_port ? ":" : "", has_port ? port : "") < 0 ? -1 : 0;
        for (size_t end = strlen(c->endpoint); end && c->endpoint[end - 1] == '/';)
            c->endpoint[--end] = '\0';
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_free(user);
    curl_free(query);
    curl_url_cleanup(url);
    return r == 0 ? 0
                  : error_set(err, ERROR_INVALID, "endpoint is no http or https URL without user and query");
}

static void on_credentials(void *data);

static int fill(struct aws_client *c, const struct aws_client_options *o, struct error *err)
{
    if (!is_host_label(o->region))
        return error_set(err, ERROR_INVALID, "region is %.60s, which is none", o->region);
    c->service = strdup(o->service);
    c->region = strdup(o->region);
    c->endpoint = o->endpoint ? strdup(o->endpoint) : default_endpoint(o);
    c->tls_ca = o->tls_ca ? strdup(o->tls_ca) : NULL;
    if (!c->service || !c->region || !c->endpoint || (o->tls_ca && !c->tls_ca))
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (read_endpoint(c, err) < 0 || aws_credentials_new(o->given, c->pool, &c->credentials, err) < 0)
        return -1;
    if (!c->base_path)
        return error_set(err, ERROR_MEMORY, "out of memory");
    aws_credentials_on_ready(c->credentials, on_credentials, c);
    return 0;
}

int aws_client_new(const struct aws_client_options *options, struct fetch_pool *pool,
                   struct aws_client **ret_client, struct error *err)
{
    struct aws_client *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(err, ERROR_MEMORY, "out of memory");
    c->pool = pool;
    c->calls.next = c->calls.previous = &c->calls;
    c->idle.next = c->idle.previous = &c->idle;
    if (fill(c, options, err) < 0) {
        aws_client_free(c);
        return -1;
    }
    *ret_client = c;
    return 0;
}

static void call_free(struct aws_call *call);

void aws_client_free(struct aws_client *client)
{
    if (!client)
        return;
    for (struct link *link = client->calls.next, *next; link != &client->calls; link = next) {
        next = link->next;
        aws_call_cancel((struct aws_call *)link);
    }
    for (struct link *link = client->idle.next, *next; link != &client->idle; link = next) {
        next = link->next;
        call_free((struct aws_call *)link);
    }
    aws_credentials_free(client->credentials);
    sigv4_key_done(&client->key);
    free(client->service);
    free(client->region);
    free(client->endpoint);
    free(client->host);
    free(client->base_path);
    free(client->tls_ca);
    free(client);
}

const char *aws_client_endpoint(const struct aws_client *client)
{
    return client->endpoint;
}

/* --- calls --- */

static void insert(struct link *head, struct link *link)
{
    *link = (struct link){head, head->previous};
    link->previous->next = link;
    head->previous = link;
}

static void take_out(struct link *link)
{
    link->next->previous = link->previous;
    link->previous->next = link->next;
}

static void call_free(struct aws_call *call)
{
    buffer_done(&call->texts);
    buffer_done(&call->body);
    buffer_done(&call->url);
    buffer_done(&call->signed_path);
    buffer_done(&call->lines.text);
    free(call);
}

static struct aws_call *call_new(struct aws_client *c)
{
    struct aws_call *call = (struct aws_call *)c->idle.next;
    if (&call->link == &c->idle)
        return calloc(1, sizeof *call);
    take_out(&call->link);
    c->n_idle--;
    return call;
}

/* Its memory is kept for the next ones. */
static void call_done(struct aws_call *call)
{
    struct aws_client *c = call->client;
    if (c->n_idle == IDLE_MAX) {
        call_free(call);
        return;
    }
    buffer_reset(&call->texts, KEEP);
    buffer_reset(&call->body, KEEP);
    buffer_reset(&call->url, KEEP);
    buffer_reset(&call->signed_path, KEEP);
    buffer_reset(&call->lines.text, KEEP);
    insert(&c->idle, &call->link);
    c->n_idle++;
}

void aws_call_cancel(struct aws_call *call)
{
    take_out(&call->link);
    if (call->fetch)
        fetch_cancel(call->fetch);
    call_done(call);
}

static void finish(struct aws_call *call, const struct aws_answer *answer)
{
    take_out(&call->link);
    call->done(call->data, answer);
    call_done(call);
}

/* --- what an answer means --- */

static bool is_one_of(const char *code, const char *const *codes)
{
    for (; *codes; codes++)
        if (!strcmp(code, *codes))
            return true;
    return false;
}

static const char *const throttling[] = {"Throttling",
                                         "ThrottlingException",
                                         "ThrottledException",
                                         "RequestThrottled",
                                         "RequestThrottledException",
                                         "TooManyRequestsException",
                                         "RequestLimitExceeded",
                                         "SlowDown",
                                         "BandwidthLimitExceeded",
                                         "PriorRequestNotComplete",
                                         "TransactionInProgressException",
                                         "OverLimit",
                                         "KmsThrottled",
                                         "KMSThrottlingException",
                                         "EC2ThrottledException",
                                         NULL};
static const char *const expired[] = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired",
                                      "RequestExpired", NULL};
static const char *const refused[] = {"AccessDenied",
                                      "AccessDeniedException",
                                      "InvalidClientTokenId",
                                      "UnrecognizedClientException",
                                      "InvalidAccessKeyId",
                                      "InvalidSecurity",
                                      "MissingAuthenticationToken",
                                      "MissingAuthenticationTokenException",
                                      "IncompleteSignature",
                                      "IncompleteSignatureException",
                                      "OptInRequired",
                                      "AuthFailure",
                                      "NotAuthorized",
                                      "KmsAccessDenied",
                                      "KmsDisabled",
                                      "KmsOptInRequired",
                                      "KmsNotFound",
                                      NULL};
static const char *const unsigned_well[] = {"SignatureDoesNotMatch", "InvalidSignatureException",
                                            "InvalidSignature",      "RequestTimeTooSkewed",
                                            "RequestInTheFuture",    NULL};
static const char *const absent[] = {"QueueDoesNotExist", "NonExistentQueue", "ResourceNotFoundException",
                                     "ResourceNotFound",  "InvalidAddress",   NULL};

static bool is_expired(const char *code)
{
    return is_one_of(code, expired);
}

static enum aws_outcome classify(long status, const char *code)
{
    if (status >= 200 && status < 300)
        return AWS_DONE;
    if (status == 429 || status == 503 || is_one_of(code, throttling))
        return AWS_THROTTLED;
    if (status >= 500 || status == 408)
        return AWS_RETRY;
    if (is_one_of(code, absent))
        return AWS_ABSENT;
    if (status == 401 || status == 403 || is_expired(code) || is_one_of(code, refused) ||
        is_one_of(code, unsigned_well))
        return AWS_REFUSED;
    return AWS_WRONG;
}

/* "com.amazonaws.sqs#QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue;Sender",
 * "ResourceNotFoundException:http://..." */
static void take_code(const char *text, size_t len, char ret_code[80])
{
    size_t end = 0;
    while (end < len && text[end] != ';' && text[end] != ':')
        end++;
    size_t start = end;
    while (start && text[start - 1] != '#' && text[start - 1] != '.')
        start--;
    snprintf(ret_code, 80, "%.*s", (int)(end - start), text + start);
    for (char *c = ret_code; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            *c = '?';
}

static bool take_member(const struct json_value *root, const char *name, struct buffer *out)
{
    struct json_value value;
    if (root->type != JSON_OBJECT || !json_member(root, name, &value) || value.type != JSON_STRING ||
        !value.len)
        return false;
    json_unescape(&value, out);
    return true;
}

/* Servers that speak the older protocol, too, answer in it what they find wrong before they look at the
 * request: <Error><Code>...</Code><Message>...</Message></Error>. */
static bool take_element(const char *body, const char *mark, struct buffer *out)
{
    const char *at = strstr(body, mark);
    if (!at)
        return false;
    at += strlen(mark);
    buffer_append(out, at, strcspn(at, "<"));
    return out->len > 0;
}

/* Code and message of an error answer. */
static void read_error(const struct fetch_answer *from, char ret_code[80], struct buffer *ret_message)
{
    struct json_value root = {0};
    struct error wrong;
    BUFFER_AUTO code = BUFFER_INIT;
    const char *query_error = fetch_header(from->fetch, "x-amzn-query-error");
    const char *type = fetch_header(from->fetch, "x-amzn-errortype");
    if (json_scan(from->body, from->len, &root, &wrong) < 0)
        root.type = JSON_ABSENT;
    if (take_member(&root, "__type", &code) || take_member(&root, "code", &code) ||
        (root.type == JSON_ABSENT && take_element(from->body, "<Code>", &code)))
        take_code(buffer_text(&code), strlen(buffer_text(&code)), ret_code);
    else if (type)
        take_code(type, strlen(type), ret_code);
    else if (query_error)
        take_code(query_error, strlen(query_error), ret_code);
    if (!take_member(&root, "message", ret_message) && !take_member(&root, "Message", ret_message) &&
        root.type == JSON_ABSENT)
        take_element(from->body, "<Message>", ret_message);
}

/* Seconds that our clock is ahead of the server's. */
static bool clock_skew(const struct fetch_answer *from, int64_t *ret_seconds, const char **ret_date)
{
    const char *date = fetch_header(from->fetch, "date");
    time_t theirs = date ? curl_getdate(date, NULL) : -1;
    if (theirs < 0)
        return false;
    *ret_date = date;
    *ret_seconds = (int64_t)(clock_unix_ns() / CLOCK_S) - (int64_t)theirs;
    return *ret_seconds > SKEW_S || *ret_seconds < -SKEW_S;
}

static enum error_code code_of(enum aws_outcome outcome)
{
    switch (outcome) {
    case AWS_ABSENT:
        return ERROR_NOT_FOUND;
    case AWS_REFUSED:
        return ERROR_REFUSED;
    case AWS_WRONG:
        return ERROR_INVALID;
    default:
        return ERROR_UNAVAILABLE;
    }
}

static void describe(const struct aws_call *call, const struct fetch_answer *from, struct aws_answer *a)
{
    int64_t skew;
    const char *date;
    BUFFER_AUTO message = BUFFER_INIT;
    const struct aws_client *c = call->client;
    read_error(from, a->code, &message);
    a->outcome = classify(a->status, a->code);
    enum error_code code = code_of(a->outcome);
    const char *shown = a->code[0] ? a->code : "no reason given";
    if (a->outcome == AWS_REFUSED && clock_skew(from, &skew, &date)) {
        error_set(&a->error, code, "%s %s: %s: this machine's clock is %lld s %s that of %s (%.40s)",
                  c->service, call->operation, shown, (long long)llabs((long long)skew),
                  skew > 0 ? "ahead of" : "behind", c->host, date);
        return;
    }
    if (is_one_of(a->code, unsigned_well)) {
        error_set(&a->error, code,
                  "%s %s: %s: the secret access key is wrong, or not that of the access key id", c->service,
                  call->operation, shown);
        return;
    }
    const char *text = buffer_text(&message);
    size_t len = strcspn(text, "\r\n");
    error_set(&a->error, code, "%s %s: %s (%ld)%s%.*s", c->service, call->operation, shown, a->status,
              len ? ": " : "", (int)(len < MAX_MESSAGE ? len : MAX_MESSAGE), text);
}

static void on_answer(void *data, const struct fetch_answer *from)
{
    struct aws_call *call = data;
    struct aws_answer a = {.status = from->status, .body = from->body, .len = from->len};
    call->fetch = NULL;
    if (!from->status) {
        a.outcome = AWS_RETRY;
        a.error = *from->error;
        error_prefix(&a.error, "%s %s", call->client->service, call->operation);
    } else if (from->status < 200 || from->status > 299) {
        describe(call, from, &a);
    }
    if (a.outcome == AWS_REFUSED && !call->renewed &&
        (is_expired(a.code) || !strcmp(a.code, "InvalidClientTokenId") ||
         !strcmp(a.code, "UnrecognizedClientException")) &&
        aws_credentials_expired(call->client->credentials, clock_now_ns())) {
        call->renewed = true;
        return; /* on_credentials sends it again */
    }
    finish(call, &a);
}

/* --- sending --- */

static void add_line(struct lines *l, const char *name, const char *value)
{
    l->starts[l->n++] = l->text.len;
    buffer_append_text(&l->text, name);
    buffer_append_text(&l->text, ": ");
    buffer_append(&l->text, value, strlen(value) + 1);
}

static int start_fetch(struct aws_call *call, struct error *err)
{
    struct aws_client *c = call->client;
    struct lines *lines = &call->lines;
    buffer_reset(&call->url, KEEP);
    buffer_append_text(&call->url, c->endpoint);
    buffer_append_text(&call->url, call->path);
    if (call->query) {
        buffer_append_char(&call->url, '?');
        buffer_append_text(&call->url, call->query);
    }
    const char *url = buffer_text(&call->url);
    if (lines->text.failed || call->url.failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a request");
    for (size_t i = 0; i < lines->n; i++)
        lines->items[i] = lines->text.data + lines->starts[i];
    lines->items[lines->n] = NULL;
    struct fetch_request request = {.method = call->method,
                                    .url = url,
                                    .headers = lines->items,
                                    .body = call->body.data,
                                    .body_len = call->body.len,
                                    .connect_timeout_ns = CONNECT_TIMEOUT,
                                    .timeout_ns = call->timeout_ns,
                                    .max_answer = call->max_answer,
                                    .once = call->once,
                                    .tls_ca = c->tls_ca};
    return fetch_start(c->pool, &request, on_answer, call, &call->fetch, err);
}

static int sign_and_send(struct aws_call *call, const struct sigv4_credentials *credentials,
                         struct error *err)
{
    struct aws_client *c = call->client;
    struct sigv4_signature signature;
    struct lines *lines = &call->lines;
    buffer_reset(&call->signed_path, KEEP);
    buffer_append_text(&call->signed_path, c->base_path);
    buffer_append_text(&call->signed_path, call->path);
    const char *path = buffer_text(&call->signed_path);
    if (call->signed_path.failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a request");
    struct sigv4_request request = {.method = call->method,
                                    .host = c->host,
                                    .path = path,
                                    .query = call->query,
                                    .headers = call->headers,
                                    .n_headers = call->n_headers,
                                    .body = call->body.data,
                                    .body_len = call->body.len,
                                    .key = &c->key};
    if (sigv4_sign(credentials, c->region, c->service, &request, clock_unix_ns() / CLOCK_S, &signature, err) <
        0)
        return -1;
    lines->n = 0;
    buffer_reset(&lines->text, KEEP);
    add_line(lines, "X-Amz-Date", signature.date);
    add_line(lines, "Authorization", buffer_text(&signature.authorization));
    if (credentials->session_token)
        add_line(lines, "X-Amz-Security-Token", credentials->session_token);
    for (size_t i = 0; i < call->n_headers; i++)
        add_line(lines, call->headers[i].name, call->headers[i].value);
    sigv4_done(&signature);
    return start_fetch(call, err);
}

/* 0: it is on its way, or waits for credentials. */
static int send_call(struct aws_call *call, struct error *err)
{
    struct sigv4_credentials credentials;
    int r =
        aws_credentials_get(call->client->credentials, clock_now_ns(), clock_unix_ns(), &credentials, err);
    if (r == 0)
        return sign_and_send(call, &credentials, err);
    if (r < 0)
        error_prefix(err, "%s %s", call->client->service, call->operation);
    return r < 0 ? -1 : 0;
}

static struct aws_call *find_waiting(struct aws_client *c)
{
    for (struct link *link = c->calls.next; link != &c->calls; link = link->next) {
        struct aws_call *call = (struct aws_call *)link;
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what is freed has left the ring */
        if (!call->fetch && call->round != c->round)
            return call;
    }
    return NULL;
}

/* Callbacks may start and cancel calls: the list is looked through anew after each. */
static void on_credentials(void *data)
{
    struct aws_client *c = data;
    struct aws_call *call;
    c->round++;
    while ((call = find_waiting(c))) {
        struct aws_answer a = {.outcome = AWS_RETRY};
        call->round = c->round;
        if (send_call(call, &a.error) == 0)
            continue;
        if (a.error.code == ERROR_REFUSED)
            a.outcome = AWS_REFUSED;
        finish(call, &a);
    }
}

/* Appends it, and returns where. */
static size_t put_text(struct buffer *texts, const char *text)
{
    size_t at = texts->len;
    buffer_append(texts, text, strlen(text) + 1);
    return at;
}

static int copy_texts(struct aws_call *call, const struct aws_request *r, struct error *err)
{
    struct buffer *texts = &call->texts;
    size_t places[4 + 2 * MAX_HEADERS];
    size_t n = 0;
    places[n++] = put_text(texts, r->operation);
    places[n++] = put_text(texts, r->method);
    places[n++] = put_text(texts, r->path);
    places[n++] = put_text(texts, r->query ? r->query : "");
    for (size_t i = 0; i < r->n_headers; i++) {
        places[n++] = put_text(texts, r->headers[i].name);
        places[n++] = put_text(texts, r->headers[i].value);
    }
    if (texts->failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a request");
    call->operation = texts->data + places[0];
    call->method = texts->data + places[1];
    call->path = texts->data + places[2];
    call->query = r->query ? texts->data + places[3] : NULL;
    for (size_t i = 0; i < r->n_headers; i++)
        call->headers[i] = (struct sigv4_header){.name = texts->data + places[4 + 2 * i],
                                                 .value = texts->data + places[5 + 2 * i]};
    call->n_headers = r->n_headers;
    return 0;
}

static int fill_call(struct aws_call *call, const struct aws_request *r, struct error *err)
{
    call->timeout_ns = r->timeout_ns;
    call->max_answer = r->max_answer;
    call->once = r->once;
    call->fetch = NULL;
    call->renewed = false;
    call->round = 0;
    if (r->n_headers > MAX_HEADERS)
        return error_set(err, ERROR_INVALID, "%s %s: more than %d headers", call->client->service,
                         r->operation, MAX_HEADERS);
    buffer_append(&call->body, r->body, r->body_len);
    if (call->body.failed)
        return error_set(err, ERROR_MEMORY, "out of memory for a request");
    return copy_texts(call, r, err);
}

int aws_call_start(struct aws_client *client, const struct aws_request *request, aws_done done, void *data,
                   struct aws_call **ret_call, struct error *err)
{
    struct aws_call *call = call_new(client);
    if (!call)
        return error_set(err, ERROR_MEMORY, "out of memory for a request");
    call->client = client;
    call->done = done;
    call->data = data;
    if (fill_call(call, request, err) < 0 || send_call(call, err) < 0) {
        call_done(call);
        return -1;
    }
    insert(&client->calls, &call->link);
    if (ret_call)
        *ret_call = call;
    return 0;
}
