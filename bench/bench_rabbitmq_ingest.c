/* Consuming a RabbitMQ queue: 200 joins over a queue that is full already, from the subscription until the
 * last join has fired in a committed checkpoint, against the floor: a bare librabbitmq loop
 * (amqp_consume_message) with a prefetch of 1000 that acknowledges 500 messages at a time and looks at
 * nothing. Every run has messages of its own, as they are gone afterwards. Also what an idle source costs,
 * and the worker's peak memory (with BENCH_FULL over 2,000,000 messages). */
#include "bench/ingest.h"

#include <amqp_tcp_socket.h>

#include "tests/support/rabbitmq_server.h"

#define EVENTS 200000
#define MANY_EVENTS 2000000
#define PREFETCH 1000
#define ACK_EVERY 500
#define TARGET_RATIO 0.90

static struct rabbitmq_server broker;

static void stop_broker(void)
{
    rabbitmq_server_done(&broker);
}

/* ---- messages of about 300 bytes ---- */

static void fill(const char *queue, size_t events)
{
    enum { BATCH = 1000, ROOM = 512 };
    static char text[BATCH][ROOM];
    struct rabbitmq_body bodies[BATCH];
    char time[CLOCK_ISO_MAX];
    if (rabbitmq_server_declare(&broker, queue, RABBITMQ_TRANSIENT) < 0)
        bench_fail("no queue");
    for (size_t i = 0; i < events;) {
        size_t n = 0;
        clock_iso(clock_unix_ns(), time);
        for (; n < BATCH && i < events; n++, i++) {
            int len = snprintf(
                text[n], ROOM,
                "{\"specversion\":\"1.0\",\"id\":\"%08zx-7d3c-4a1b-9c5e-%012zx\",\"source\":\"urn:bench:"
                "publisher\",\"type\":\"" BENCH_EVENT_TYPE "\",\"subject\":\"join%zu\",\"time\":\"%s\","
                "\"datacontenttype\":\"application/json\",\"data\":{\"result\":%zu,\"text\":\"some words of "
                "a "
                "function that has ended\"}}",
                i, i * 2654435761u, i % JOINS, time, i);
            bodies[n] = (struct rabbitmq_body){text[n], (size_t)len};
        }
        if (rabbitmq_server_publish(&broker, queue, bodies, n, NULL) < 0)
            bench_fail("cannot publish");
    }
}

/* ---- the floor ---- */

static void check(const char *what, amqp_rpc_reply_t reply)
{
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        bench_fail("the floor: %s: %s", what, amqp_error_string2(reply.library_error));
}

/* Seconds from the subscription to the last message. */
static double consume_bare(const char *queue, size_t events)
{
    amqp_connection_state_t c = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(c);
    if (amqp_socket_open(socket, "127.0.0.1", broker.port) < 0)
        bench_fail("the floor cannot connect");
    check("login", amqp_login(c, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"));
    amqp_channel_open(c, 1);
    check("channel", amqp_get_rpc_reply(c));
    amqp_basic_qos(c, 1, 0, PREFETCH, 0);
    check("qos", amqp_get_rpc_reply(c));
    uint64_t start = clock_now_ns();
    amqp_basic_consume(c, 1, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    check("consume", amqp_get_rpc_reply(c));
    for (size_t i = 1; i <= events; i++) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(c);
        check("message", amqp_consume_message(c, &envelope, NULL, 0));
        if (i % ACK_EVERY == 0 || i == events)
            amqp_basic_ack(c, 1, envelope.delivery_tag, 1);
        amqp_destroy_envelope(&envelope);
    }
    double seconds = bench_seconds(start, clock_now_ns());
    check("close", amqp_connection_close(c, AMQP_REPLY_SUCCESS));
    amqp_destroy_connection(c);
    return seconds;
}

/* ---- the worker ---- */

static void store(struct bench *b, const char *queue, size_t events)
{
    char json[512];
    ingest_store(b, events);
    snprintf(json, sizeof json,
             "{\"name\":\"queue\",\"class\":\"RabbitMQEventSource\",\"parameters\":{\"amqp_url\":"
             "\"amqp://guest:guest@127.0.0.1:%d/%%2F\",\"queue\":\"%s\"}}",
             broker.port, queue);
    bench_do(b, "HSET ingest-event_sources queue %s", json);
}

static long long messages(void *queue)
{
    return rabbitmq_server_messages(&broker, queue);
}

static void report(struct bench *b, const char *what, size_t events, size_t runs, bool with_floor)
{
    static char queue[] = "queue";
    struct ingest_figures f = {0};
    while (f.n < runs) {
        double floor_seconds = 0;
        if (with_floor) {
            fill("floor", events);
            floor_seconds = consume_bare("floor", events);
        }
        fill(queue, events);
        store(b, queue, events);
        struct ingest_result r = ingest_run(b, events, messages, queue);
        ingest_add(&f, &r, events, r.seconds, floor_seconds);
    }
    printf("bench rabbitmq_ingest what=%s events=%zu joins=%d", what, events, JOINS);
    ingest_print(&f, with_floor ? TARGET_RATIO : 0, true);
    printf("\n");
}

int main(int argc, char **argv)
{
    static struct bench b;
    const char *why;
    bench_worker_main(argc, argv);
    if (!rabbitmq_server_available(&why)) {
        printf("bench rabbitmq_ingest skipped: %s\n", why);
        return 0;
    }
    bench_open(&b, "rabbitmq_ingest", NULL);
    if (atexit(stop_broker) || rabbitmq_server_run(&broker) < 0)
        bench_fail("no broker");
    report(&b, "from_subscription", EVENTS, bench_runs(), true);
    if (getenv("BENCH_FULL"))
        report(&b, "many", MANY_EVENTS, 1, false);
    return 0;
}
