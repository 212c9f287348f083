/* RabbitMQEventSource against a real RabbitMQ: the conformance test for event sources. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buffer.h"
#include "tests/support/rabbitmq_server.h"
#include "tests/support/source_conformance.h"
#include "tests/support/source_driver.h"

static struct rabbitmq_server server;

static int start(int proxy_port, int *ret_port)
{
    const char *why;
    (void)proxy_port;
    if (!rabbitmq_server_available(&why)) {
        printf("skipped: %s\n", why);
        return 1;
    }
    if (rabbitmq_server_run(&server) < 0)
        return -1;
    *ret_port = server.port;
    return 0;
}

static void stop(void)
{
    if (server.dir[0])
        rabbitmq_server_done(&server);
}

static int fresh(const struct source_queue *queue)
{
    return rabbitmq_server_declare(&server, queue->name, RABBITMQ_DURABLE);
}

static void document(const struct source_queue *queue, struct buffer *out)
{
    buffer_printf(out,
                  "\"class\":\"RabbitMQEventSource\",\"parameters\":{\"amqp_url\":\"amqp://guest:guest@"
                  "127.0.0.1:%d/%%2F?heartbeat=2\",\"queue\":\"%s\"}",
                  queue->port, queue->name);
}

static int publish(const struct source_queue *queue, const struct source_event *events, size_t n)
{
    struct rabbitmq_body *bodies = malloc((n + 1) * sizeof *bodies);
    if (!bodies)
        return -1;
    for (size_t i = 0; i < n; i++)
        bodies[i] = (struct rabbitmq_body){events[i].body, events[i].body_len};
    int r = rabbitmq_server_publish(&server, queue->name, bodies, n, NULL);
    free(bodies);
    return r;
}

static int publish_undecodable(const struct source_queue *queue)
{
    const struct rabbitmq_body body = {"\xff\0\x01", 3};
    return rabbitmq_server_publish(&server, queue->name, &body, 1, NULL);
}

static int server_kill(void)
{
    rabbitmq_server_kill(&server);
    return 0;
}

static int server_start(void)
{
    return rabbitmq_server_start(&server);
}

static long long unacknowledged(const struct source_queue *queue)
{
    return rabbitmq_server_messages(&server, queue->name);
}

static const char *const crash_points[] = {"delivered", NULL};

static const struct source_driver driver = {.name = "rabbitmq",
                                            .ordered = true,
                                            .unsure_twins = true,
                                            .events = 40000,
                                            .crash_points = crash_points,
                                            .start = start,
                                            .stop = stop,
                                            .fresh = fresh,
                                            .document = document,
                                            .publish = publish,
                                            .publish_undecodable = publish_undecodable,
                                            .server_kill = server_kill,
                                            .server_start = server_start,
                                            .unacknowledged = unacknowledged};

int main(int argc, char **argv)
{
    return source_conformance(&driver, argc, argv);
}
