/* Consuming a RabbitMQ queue: 200 joins over a queue that is full already, from the subscription until the
 * last join has fired in a committed checkpoint, against the floor: a bare librabbitmq loop
 * (amqp_consume_message) with a prefetch of 1000 that acknowledges 500 messages at a time and looks at
 * nothing. Every run has messages of its own, as they are gone afterwards. Also what an idle source costs,
 * and the worker's peak memory (with BENCH_FULL over 2,000,000 messages). */
#include "bench/bench.h"

#include <amqp_tcp_socket.h>

#include "tests/support/rabbitmq_server.h"

#define JOINS 200
#define EVENTS 200000
#define MANY_EVENTS 2000000
#define PREFETCH 1000
#define ACK_EVERY 500
#define IDLE_S 3
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

struct result {
    double seconds;
    double cpu_seconds;
    double idle_cpu_ms; /* in a second */
    double rss_mib;
    uint64_t commits;
};

static void store(struct bench *b, const char *queue, size_t events)
{
    char id[24], context[64], json[512];
    bench_store_workspace(b, "ingest");
    snprintf(json, sizeof json,
             "{\"name\":\"queue\",\"class\":\"RabbitMQEventSource\",\"parameters\":{\"amqp_url\":"
             "\"amqp://guest:guest@127.0.0.1:%d/%%2F\",\"queue\":\"%s\"}}",
             broker.port, queue);
    bench_do(b, "HSET ingest-event_sources queue %s", json);
    for (unsigned i = 0; i < JOINS; i++) {
        snprintf(id, sizeof id, "join%u", i);
        snprintf(context, sizeof context, "\"join\":%zu", events / JOINS);
        bench_store_trigger(b, "ingest", id, id, "JOIN", context, "{\"name\":\"PASS\"}");
    }
    bench_drain(b->redis, JOINS);
}

/* Processor time of the process until now, in milliseconds. */
static double cpu_ms(pid_t pid)
{
    char path[40], text[512];
    unsigned long user = 0, system_time = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(text, sizeof text, file))
        bench_fail("%s: %s", path, strerror(errno));
    fclose(file);
    sscanf(strrchr(text, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
           &system_time);
    return (double)(user + system_time) * 1000 / (double)sysconf(_SC_CLK_TCK);
}

static void verify(struct bench *b, const struct bench_worker *w, const char *queue, size_t events)
{
    char id[24];
    if (bench_worker_read(w) != events || arena_get(&w->arena->worker.fired_committed) != JOINS)
        bench_fail("%llu events read and %llu joins fired instead of %zu and %d",
                   (unsigned long long)bench_worker_read(w),
                   (unsigned long long)arena_get(&w->arena->worker.fired_committed), events, JOINS);
    for (unsigned i = 0; i < JOINS; i++) {
        snprintf(id, sizeof id, "join%u", i);
        if (bench_counter(b, "ingest", id) != (long long)events / JOINS)
            bench_fail("the counter of %s is %lld", id, bench_counter(b, "ingest", id));
    }
    if (bench_do(b, "HLEN ingest-dead_letters"))
        bench_fail("there are dead letters");
    if (rabbitmq_server_messages(&broker, queue) != 0)
        bench_fail("%lld messages were not acknowledged", rabbitmq_server_messages(&broker, queue));
}

static struct result run_worker(struct bench *b, const char *queue, size_t events, bool idle)
{
    struct bench_worker w;
    struct result r = {0};
    store(b, queue, events);
    bench_worker_start(b, &w, "ingest", "");
    uint64_t reading = bench_worker_await_reading(b, &w);
    uint64_t end = bench_worker_await(b, &w, &w.arena->worker.fired_committed, JOINS, 500);
    r.seconds = bench_seconds(reading, end);
    bench_worker_await(b, &w, &w.arena->worker.committed_events, events, 500);
    r.commits = arena_get(&w.arena->worker.commits);
    uint64_t start = clock_now_ns();
    while (rabbitmq_server_messages(&broker, queue) > 0) {
        bench_nap_us(1000);
        bench_check_deadline(start, "the last acknowledgement");
    }
    verify(b, &w, queue, events);
    if (idle) {
        double before = cpu_ms(w.pid);
        bench_nap_us(IDLE_S * 1000000);
        r.idle_cpu_ms = (cpu_ms(w.pid) - before) / IDLE_S;
    }
    bench_worker_stop(b, &w);
    r.cpu_seconds = (double)(w.usage.ru_utime.tv_sec + w.usage.ru_stime.tv_sec) +
                    (double)(w.usage.ru_utime.tv_usec + w.usage.ru_stime.tv_usec) / 1e6;
    r.rss_mib = (double)w.usage.ru_maxrss / 1024;
    return r;
}

static void report(struct bench *b, const char *what, size_t events, size_t runs, bool with_floor)
{
    double rate[BENCH_MAX_RUNS], floor_rate[BENCH_MAX_RUNS], ratio[BENCH_MAX_RUNS], rss[BENCH_MAX_RUNS];
    double cpu[BENCH_MAX_RUNS], idle[BENCH_MAX_RUNS];
    struct result r = {0};
    for (size_t i = 0; i < runs; i++) {
        double floor_seconds = 0;
        if (with_floor) {
            fill("floor", events);
            floor_seconds = consume_bare("floor", events);
        }
        fill("queue", events);
        r = run_worker(b, "queue", events, true);
        rate[i] = (double)events / r.seconds;
        floor_rate[i] = with_floor ? (double)events / floor_seconds : 0;
        ratio[i] = with_floor ? floor_seconds / r.seconds : 0;
        rss[i] = r.rss_mib;
        cpu[i] = r.cpu_seconds * 1e9 / (double)events;
        idle[i] = r.idle_cpu_ms;
    }
    printf("bench rabbitmq_ingest what=%s events=%zu joins=%d events_per_s=%.0f floor_events_per_s=%.0f "
           "ratio=%.2f target=%.2f cpu_ns_per_event=%.0f idle_cpu_ms_per_s=%.1f rss_mib=%.1f commits=%llu\n",
           what, events, JOINS, bench_median(rate, runs), bench_median(floor_rate, runs),
           bench_median(ratio, runs), with_floor ? TARGET_RATIO : 0, bench_median(cpu, runs),
           bench_median(idle, runs), bench_median(rss, runs), (unsigned long long)r.commits);
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
