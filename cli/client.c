/* See client.h. */
#include "cli/client.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "common/error.h"
#include "cli/cli.h"
#include "cli/document.h"
#include "cli/endpoint.h"
#include "cli/output.h"

#define CONNECT_SECONDS 10L
#define CALL_SECONDS 120L

struct client {
    struct endpoint endpoint;
    struct curl_slist *json_headers;
    CURL *curl; /* of single calls */
};

/* One call under way. */
struct exchange {
    CURL *curl;
    struct buffer body;
    struct buffer answer;
    size_t index;
    bool busy;
};

void client_free(struct client *client)
{
    if (!client)
        return;
    curl_easy_cleanup(client->curl);
    curl_slist_free_all(client->json_headers);
    endpoint_done(&client->endpoint);
    free(client);
}

int client_open(struct cli *cli, struct client **ret_client)
{
    if (!cli->client) {
        struct client *client = calloc(1, sizeof *client);
        if (!client)
            return cli_fail_memory();
        int code = endpoint_find(cli, &client->endpoint);
        if (code != CLI_OK) {
            free(client);
            return code;
        }
        client->json_headers = curl_slist_append(NULL, "Content-Type: application/json");
        client->curl = curl_easy_init();
        if (!client->json_headers || !client->curl) {
            client_free(client);
            return cli_fail_memory();
        }
        cli->client = client;
    }
    *ret_client = cli->client;
    return CLI_OK;
}

/* ---- Paths ---- */

static void append_escaped(struct buffer *out, const char *text)
{
    char *escaped = curl_easy_escape(NULL, text, 0);
    if (escaped)
        buffer_append_text(out, escaped);
    else
        out->failed = true;
    curl_free(escaped);
}

void client_path(struct buffer *out, ...)
{
    va_list segments;
    const char *segment;
    va_start(segments, out);
    while ((segment = va_arg(segments, const char *)) != NULL) {
        buffer_append_char(out, '/');
        append_escaped(out, segment);
    }
    va_end(segments);
}

void client_query(struct buffer *path, const char *name, const char *value)
{
    buffer_append_char(path, memchr(path->data, '?', path->len) ? '&' : '?');
    buffer_append_text(path, name);
    buffer_append_char(path, '=');
    append_escaped(path, value);
}

/* ---- Calls ---- */

int client_prepare(const struct client *client, CURL *curl, const char *method, const char *path)
{
    const struct endpoint *endpoint = &client->endpoint;
    BUFFER_AUTO url = BUFFER_INIT;
    buffer_append_text(&url, endpoint->url);
    buffer_append_text(&url, path);
    if (url.failed)
        return cli_fail_memory();
    curl_easy_setopt(curl, CURLOPT_URL, buffer_text(&url));
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, CALL_SECONDS);
    curl_easy_setopt(curl, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "triggerflow/" VERSION);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    if (endpoint->socket) {
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, endpoint->socket);
        curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    }
    if (endpoint->user) {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
        curl_easy_setopt(curl, CURLOPT_USERNAME, endpoint->user);
        curl_easy_setopt(curl, CURLOPT_PASSWORD, endpoint->password);
    }
    return CLI_OK;
}

static size_t take_answer(char *data, size_t size, size_t n, void *user)
{
    struct buffer *answer = user;
    if (answer->len + size * n > CLIENT_ANSWER_MAX)
        return 0;
    buffer_append(answer, data, size * n);
    return answer->failed ? 0 : size * n;
}

/* Sets a handle up for one call with a JSON body or none; body and answer must outlive it. */
static int prepare(const struct client *client, CURL *curl, const char *method, const char *path,
                   struct json_object *body, struct exchange *exchange)
{
    buffer_reset(&exchange->body, 65536);
    buffer_reset(&exchange->answer, 65536);
    curl_easy_reset(curl);
    int code = client_prepare(client, curl, method, path);
    if (code != CLI_OK)
        return code;
    if (body)
        buffer_append_text(
            &exchange->body,
            json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    if (exchange->body.failed)
        return cli_fail_memory();
    if (body || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)exchange->body.len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, buffer_text(&exchange->body));
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, client->json_headers);
    }
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange->answer);
    return CLI_OK;
}

int client_unreachable(const struct client *client, CURLcode result)
{
    const struct endpoint *endpoint = &client->endpoint;
    if (endpoint->local && result == CURLE_COULDNT_CONNECT)
        return cli_fail(CLI_UNREACHABLE,
                        "cannot reach the supervisor at %s: is it running? Start it with "
                        "triggerflow-supervisor start",
                        endpoint->shown);
    return cli_fail(CLI_UNREACHABLE, "cannot reach the trigger API at %s: %s", endpoint->shown,
                    curl_easy_strerror(result));
}

/* The answer's JSON; an empty one counts as null. */
static int parse_answer(const struct client *client, struct buffer *answer, long status,
                        struct json_object **ret)
{
    struct error err;
    *ret = NULL;
    if (answer->len == 0)
        return CLI_OK;
    if (document_parse("answer.json", answer->data, answer->len, ret, &err) == 0)
        return CLI_OK;
    if (status >= 400)
        return CLI_OK; /* a proxy's page, perhaps: the status says enough */
    return cli_fail(CLI_FAILED, "what answers at %s is not the trigger API: its answer is not JSON",
                    client->endpoint.shown);
}

static int forbidden(const struct client *client, long status, struct json_object *answer)
{
    const struct endpoint *endpoint = &client->endpoint;
    const char *text = output_text(answer, "error");
    if (status == 403)
        return cli_fail(CLI_FAILED, "%s (user %s)", *text ? text : "not allowed",
                        endpoint->user ? endpoint->user : "none");
    if (!endpoint->user)
        return cli_fail(CLI_FAILED, "%s asks who you are: give --user and --password-file, see --help",
                        endpoint->shown);
    return cli_fail(CLI_FAILED, "%s refuses the password of user %s", endpoint->shown, endpoint->user);
}

int client_refused(struct cli *cli, long status, struct json_object *answer)
{
    const char *text = output_text(answer, "error");
    if (status == 401 || status == 403)
        return forbidden(cli->client, status, answer);
    int code = status == 502 || status == 503 || status == 504 ? CLI_UNREACHABLE : CLI_FAILED;
    if (*text)
        return cli_fail(code, "%s", text);
    return cli_fail(code, "%s answers with HTTP status %ld", cli->client->endpoint.shown, status);
}

int client_try(struct cli *cli, const char *method, const char *path, struct json_object *body,
               long *ret_status, struct json_object **ret_answer)
{
    struct client *client;
    struct exchange exchange = {.body = BUFFER_INIT, .answer = BUFFER_INIT};
    int code = client_open(cli, &client);
    if (code == CLI_OK)
        code = prepare(client, client->curl, method, path, body, &exchange);
    if (code == CLI_OK) {
        CURLcode result = curl_easy_perform(client->curl);
        *ret_answer = NULL;
        *ret_status = 0;
        curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, ret_status);
        code = result == CURLE_OK ? parse_answer(client, &exchange.answer, *ret_status, ret_answer)
                                  : client_unreachable(client, result);
    }
    buffer_done(&exchange.body);
    buffer_done(&exchange.answer);
    if (code == CLI_OK && (*ret_status == 401 || *ret_status == 403)) {
        code = client_refused(cli, *ret_status, *ret_answer);
        json_object_put(*ret_answer);
    }
    return code;
}

int client_call(struct cli *cli, const char *method, const char *path, struct json_object *body,
                struct json_object **ret_answer)
{
    long status;
    struct json_object *answer = NULL;
    int code = client_try(cli, method, path, body, &status, &answer);
    if (code != CLI_OK)
        return code;
    if (status >= 400 || status < 200) {
        code = client_refused(cli, status, answer);
        json_object_put(answer);
        return code;
    }
    if (ret_answer)
        *ret_answer = answer;
    else
        json_object_put(answer);
    return CLI_OK;
}

/* ---- Several at a time ---- */

struct many {
    struct cli *cli;
    struct client *client;
    const struct client_calls *calls;
    CURLM *multi;
    struct exchange *slots;
    unsigned n_slots;
    size_t next; /* the call to start next */
    size_t busy;
};

static int start_call(struct many *many, struct exchange *slot)
{
    BUFFER_AUTO path = BUFFER_INIT;
    slot->index = many->next++;
    struct json_object *body = many->calls->next(many->calls->data, slot->index, &path);
    int code = path.failed
                   ? cli_fail_memory()
                   : prepare(many->client, slot->curl, many->calls->method, buffer_text(&path), body, slot);
    json_object_put(body);
    if (code != CLI_OK)
        return code;
    curl_easy_setopt(slot->curl, CURLOPT_PRIVATE, slot);
    if (curl_multi_add_handle(many->multi, slot->curl) != CURLM_OK)
        return cli_fail_memory();
    slot->busy = true;
    many->busy++;
    return CLI_OK;
}

static int finish_call(struct many *many, CURL *curl, CURLcode result)
{
    struct exchange *slot = NULL;
    struct json_object *answer = NULL;
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_PRIVATE, (char **)&slot);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_multi_remove_handle(many->multi, curl);
    slot->busy = false;
    many->busy--;
    if (result != CURLE_OK)
        return client_unreachable(many->client, result);
    int code = parse_answer(many->client, &slot->answer, status, &answer);
    if (code == CLI_OK && (status == 401 || status == 403))
        code = client_refused(many->cli, status, answer);
    if (code == CLI_OK)
        code = many->calls->done(many->calls->data, slot->index, status, answer);
    json_object_put(answer);
    return code;
}

/* Starts what may be started, and takes what has come. */
static int turn(struct many *many)
{
    int running, left, code = CLI_OK;
    for (unsigned i = 0; i < many->n_slots && many->next < many->calls->n && code == CLI_OK; i++)
        if (!many->slots[i].busy)
            code = start_call(many, &many->slots[i]);
    if (code == CLI_OK && curl_multi_perform(many->multi, &running) != CURLM_OK)
        code = cli_fail(CLI_FAILED, "libcurl fails");
    CURLMsg *message;
    while (code == CLI_OK && (message = curl_multi_info_read(many->multi, &left)) != NULL)
        if (message->msg == CURLMSG_DONE)
            code = finish_call(many, message->easy_handle, message->data.result);
    if (code == CLI_OK && many->busy > 0 && (many->busy == many->n_slots || many->next == many->calls->n))
        curl_multi_poll(many->multi, NULL, 0, 1000, NULL);
    return code;
}

int client_many(struct cli *cli, const struct client_calls *calls)
{
    struct many many = {.cli = cli, .calls = calls, .n_slots = calls->in_flight};
    int code = client_open(cli, &many.client);
    if (code != CLI_OK || calls->n == 0)
        return code;
    if (many.n_slots > calls->n)
        many.n_slots = (unsigned)calls->n;
    many.multi = curl_multi_init();
    many.slots = calloc(many.n_slots, sizeof *many.slots);
    if (!many.multi || !many.slots)
        code = cli_fail_memory();
    for (unsigned i = 0; i < many.n_slots && code == CLI_OK; i++)
        if (!(many.slots[i].curl = curl_easy_init()))
            code = cli_fail_memory();
    while (code == CLI_OK && (many.next < calls->n || many.busy > 0))
        code = turn(&many);
    for (unsigned i = 0; many.slots && i < many.n_slots; i++) {
        if (many.slots[i].busy)
            curl_multi_remove_handle(many.multi, many.slots[i].curl);
        curl_easy_cleanup(many.slots[i].curl);
        buffer_done(&many.slots[i].body);
        buffer_done(&many.slots[i].answer);
    }
    free(many.slots);
    curl_multi_cleanup(many.multi);
    return code;
}
