/* HTTPEventSource passes the conformance test for event sources. Its broker is the supervisor: what only a
 * broker behind a network can do is skipped. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <curl/curl.h>

#include "common/buffer.h"
#include "tests/support/source_conformance.h"
#include "tests/support/source_driver.h"
#include "tests/support/wait.h"

static void document(const struct source_queue *queue, struct buffer *out)
{
    (void)queue;
    buffer_append_text(out, "\"class\":\"HTTPEventSource\",\"parameters\":{}");
}

static size_t drop_answer(char *bytes, size_t size, size_t n, void *data)
{
    (void)bytes, (void)data;
    return size * n;
}

/* The status; 0: no answer. */
static long post(const struct source_queue *queue, const struct buffer *body)
{
    long status = 0;
    CURL *curl = curl_easy_init();
    struct curl_slist *headers =
        curl_slist_append(NULL, "Content-Type: application/cloudevents-batch+json; charset=utf-8");
    if (curl && headers) {
        curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, queue->api);
        curl_easy_setopt(curl, CURLOPT_URL, "http://localhost/workspace/ws/event");
        curl_easy_setopt(curl, CURLOPT_TIMEOUT, 30L);
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->data);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
        curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop_answer);
        if (curl_easy_perform(curl) == CURLE_OK)
            curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return status;
}

/* Again, until it is answered 2xx: the supervisor and the worker are being killed. */
static int post_until_accepted(const struct source_queue *queue, const struct buffer *body)
{
    long status = 0;
    for (uint64_t end = clock_now_ns() + WAIT_DEADLINE_NS; clock_now_ns() < end; wait_moment()) {
        status = post(queue, body);
        if (status / 100 == 2)
            return 0;
        if (status && status != 503 && status != 404)
            break;
    }
    fprintf(stderr, "http: %ld\n", status);
    return -1;
}

static int publish(const struct source_queue *queue, const struct source_event *events, size_t n)
{
    BUFFER_AUTO body = BUFFER_INIT;
    for (size_t i = 0; i < n; i++) {
        buffer_append_char(&body, body.len ? ',' : '[');
        buffer_append(&body, events[i].body, events[i].body_len);
        if (body.len < (1u << 20) && i + 1 < n)
            continue;
        buffer_append_char(&body, ']');
        if (post_until_accepted(queue, &body) < 0)
            return -1;
        buffer_reset(&body, SIZE_MAX);
    }
    return 0;
}

static const struct source_driver driver = {
    .name = "http",
    .ordered = true,
    .deduplicates = true,
    .under_supervisor = true,
    .refuses = true,
    .events = 100000,
    .document = document,
    .publish = publish,
};

int main(int argc, char **argv)
{
    return source_conformance(&driver, argc, argv);
}
