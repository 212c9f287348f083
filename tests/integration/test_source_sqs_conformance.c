/* SQSEventSource passes the conformance test for event sources, against the server of local-aws-sqs. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "common/json.h"
#include "tests/support/source_conformance.h"
#include "tests/support/source_driver.h"
#include "tests/support/sqs_server.h"

#define BATCH 10
#define VISIBILITY "1" /* so soon comes again what a killed worker had in hand */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PERCENT 50
#else
#define PERCENT 100
#endif

static struct sqs_server server;

static int start(int proxy_port, int *ret_port)
{
    const char *why;
    (void)proxy_port;
    if (!sqs_server_available(SQS_SERVER_LOCAL, &why)) {
        printf("skipped: %s\n", why);
        return 1;
    }
    if (sqs_server_run(&server, SQS_SERVER_LOCAL) < 0)
        return -1;
    *ret_port = server.port;
    return 0;
}

static void stop(void)
{
    if (server.dir[0])
        sqs_server_done(&server);
}

static int fresh(const struct source_queue *queue)
{
    return sqs_server_create(&server, queue->name, "\"VisibilityTimeout\":\"" VISIBILITY "\"", NULL);
}

static void document(const struct source_queue *queue, struct buffer *out)
{
    buffer_printf(out,
                  "\"class\":\"SQSEventSource\",\"parameters\":{\"access_key_id\":\"test\","
                  "\"secret_access_key\":\"test\",\"region\":\"us-east-1\",\"queue\":\"%s\","
                  "\"endpoint\":\"http://127.0.0.1:%d\",\"wait_seconds\":1,\"visibility_timeout\":" VISIBILITY
                  "}",
                  queue->name, queue->port);
}

static int send_batch(const struct source_queue *queue, const struct source_event *events, size_t n)
{
    char url[256];
    BUFFER_AUTO body = BUFFER_INIT;
    BUFFER_AUTO answer = BUFFER_INIT;
    sqs_server_url(&server, queue->name, url);
    buffer_printf(&body, "{\"QueueUrl\":\"%s\",\"Entries\":[", url);
    for (size_t i = 0; i < n; i++) {
        /* A message is a text: SQS refuses what is not UTF-8. What stands for that is no event either. */
        bool text = utf8_valid(events[i].body, events[i].body_len);
        buffer_printf(&body, "%s{\"Id\":\"%zu\",\"MessageBody\":", i ? "," : "", i);
        buffer_append_json(&body, text ? events[i].body : "not UTF-8", text ? events[i].body_len : 9);
        buffer_append_char(&body, '}');
    }
    buffer_append_text(&body, "]}");
    if (sqs_server_call(&server, "SendMessageBatch", buffer_text(&body), &answer) < 0)
        return -1;
    if (!strstr(buffer_text(&answer), "\"Failed\":[{"))
        return 0;
    fprintf(stderr, "%s\n", buffer_text(&answer));
    return -1;
}

static int publish(const struct source_queue *queue, const struct source_event *events, size_t n)
{
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i += BATCH)
        r = send_batch(queue, events + i, n - i < BATCH ? n - i : BATCH);
    return r;
}

static int publish_undecodable(const struct source_queue *queue)
{
    return sqs_server_send(&server, queue->name, "nonsense", NULL, NULL);
}

static long long unacknowledged(const struct source_queue *queue)
{
    long long waiting = sqs_server_waiting(&server, queue->name);
    long long in_flight = sqs_server_in_flight(&server, queue->name);
    return waiting < 0 || in_flight < 0 ? -1 : waiting + in_flight;
}

static const char *const crash_points[] = {"delivered", "delete", "deleted", NULL};

static const struct source_driver driver = {
    .name = "sqs",
    .data_max = 1000000, /* a message is at most 1 MiB */
    .percent = PERCENT,
    .events = 5000,
    .crash_points = crash_points,
    .start = start,
    .stop = stop,
    .fresh = fresh,
    .document = document,
    .publish = publish,
    .publish_undecodable = publish_undecodable,
    .unacknowledged = unacknowledged,
};

int main(int argc, char **argv)
{
    return source_conformance(&driver, argc, argv);
}
