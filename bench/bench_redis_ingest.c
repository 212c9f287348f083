/* Reading a Redis stream: 200 joins over a stream that is there already, from the first XREAD until the last
 * join has fired in a committed checkpoint, against the floor: a bare socket loop that reads the same stream
 * with XREAD COUNT 1000 and only scans the replies. Also from the start of the worker's process, the worker's
 * peak memory (with BENCH_FULL also over twice the stream), and how much it has written. */
#include "bench/bench.h"

#include <sys/param.h>

#define JOINS 200
#define EVENTS 1000000
#define FEW_EVENTS 200000
#define TARGET_RATIO 0.90

/* ---- the floor ---- */

/* A reply that is scanned as it arrives. */
struct scan {
    size_t at;
    size_t left;   /* values that are still to come */
    size_t arrays; /* seen; the first three are around the entries */
    bool id_next;  /* the next string is the id of an entry */
    char id[48];   /* of the last entry */
    size_t entries;
};

/* Whether the whole reply is there. */
static bool scan_reply(struct scan *s, const char *text, size_t len)
{
    while (s->left) {
        const char *end = memchr(text + s->at, '\r', len - s->at);
        if (!end || (size_t)(end - text) + 2 > len)
            return false;
        size_t n = 0;
        for (const char *digit = text + s->at + 1; digit < end; digit++)
            n = n * 10 + (size_t)(*digit - '0');
        size_t body = (size_t)(end - text) + 2;
        if (text[s->at] == '*') {
            s->left += n;
            s->id_next = ++s->arrays > 3 && n == 2;
        } else if (body + n + 2 > len) {
            return false;
        } else {
            if (s->id_next) {
                memcpy(s->id, text + body, MIN(n, sizeof s->id - 1));
                s->id[MIN(n, sizeof s->id - 1)] = '\0';
                s->entries++;
            }
            s->id_next = false;
            body += n + 2;
        }
        s->at = body;
        s->left--;
    }
    return true;
}

/* Seconds that it takes to read the stream and do nothing else. */
static double read_bare(const struct bench *b, const char *stream, size_t events)
{
    enum { ROOM = 4 << 20 };
    char command[256];
    char *text = malloc(ROOM);
    int fd = bench_dial(b->server.port);
    struct scan s = {.id = "0"};
    if (!text || fd < 0)
        bench_fail("the floor cannot start");
    uint64_t start = clock_now_ns();
    while (s.entries < events) {
        int n = snprintf(
            command, sizeof command,
            "*6\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$4\r\n1000\r\n$7\r\nSTREAMS\r\n$%zu\r\n%s\r\n$%zu\r\n"
            "%s\r\n",
            strlen(stream), stream, strlen(s.id), s.id);
        size_t len = 0;
        bench_send(fd, command, (size_t)n);
        s.at = s.arrays = 0;
        s.left = 1;
        do {
            ssize_t got = recv(fd, text + len, ROOM - len, 0);
            if (got <= 0)
                bench_fail("the floor: %s", got ? strerror(errno) : "closed");
            len += (size_t)got;
        } while (!scan_reply(&s, text, len));
    }
    double seconds = bench_seconds(start, clock_now_ns());
    close(fd);
    free(text);
    return seconds;
}

/* ---- the worker ---- */

struct result {
    double seconds;            /* from the first XREAD */
    double seconds_from_start; /* of the process */
    double cpu_seconds;
    double rss_mib;
    uint64_t commits;
    uint64_t documents;
};

static void store(struct bench *b, const char *stream, size_t events)
{
    char id[24], context[64];
    bench_store_workspace(b, "ingest");
    bench_store_source(b, "ingest", "stream", stream, true);
    snprintf(context, sizeof context, "\"join\":%zu", events / JOINS);
    for (unsigned i = 0; i < JOINS; i++) {
        snprintf(id, sizeof id, "join%u", i);
        bench_store_trigger(b, "ingest", id, id, "JOIN", context, "{\"name\":\"PASS\"}");
    }
    bench_drain(b->redis, JOINS);
}

/* Every event counted once, every join fired once, nothing given up. */
static void verify(struct bench *b, const struct bench_worker *w, size_t events)
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
}

static double cpu_of(const struct rusage *u)
{
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) / 1e6;
}

static struct result run_worker(struct bench *b, const char *stream, size_t events)
{
    struct bench_worker w;
    struct result r;
    store(b, stream, events);
    uint64_t start = clock_now_ns();
    bench_worker_start(b, &w, "ingest", "");
    uint64_t reading = bench_worker_await_reading(b, &w);
    uint64_t end = bench_worker_await(b, &w, &w.arena->worker.fired_committed, JOINS, 500);
    r.seconds = bench_seconds(reading, end);
    r.seconds_from_start = bench_seconds(start, end);
    bench_worker_await(b, &w, &w.arena->worker.committed_events, events, 500);
    r.commits = arena_get(&w.arena->worker.commits);
    r.documents = arena_get(&w.arena->worker.documents);
    verify(b, &w, events);
    bench_worker_stop(b, &w);
    r.cpu_seconds = cpu_of(&w.usage);
    r.rss_mib = (double)w.usage.ru_maxrss / 1024;
    return r;
}

static void report(struct bench *b, const char *what, const char *stream, size_t events, bool from_start)
{
    double rate[BENCH_MAX_RUNS], floor_rate[BENCH_MAX_RUNS], ratio[BENCH_MAX_RUNS], rss[BENCH_MAX_RUNS];
    double cpu[BENCH_MAX_RUNS];
    struct result r = {0};
    size_t runs = bench_runs();
    for (size_t i = 0; i < runs; i++) {
        double floor_seconds = read_bare(b, stream, events);
        r = run_worker(b, stream, events);
        floor_seconds = (floor_seconds + read_bare(b, stream, events)) / 2;
        double seconds = from_start ? r.seconds_from_start : r.seconds;
        rate[i] = (double)events / seconds;
        floor_rate[i] = (double)events / floor_seconds;
        ratio[i] = floor_seconds / seconds;
        rss[i] = r.rss_mib;
        cpu[i] = r.cpu_seconds * 1e9 / (double)events;
    }
    printf(
        "bench redis_ingest what=%s events=%zu joins=%d events_per_s=%.0f floor_events_per_s=%.0f ratio=%.2f "
        "target=%.2f cpu_ns_per_event=%.0f rss_mib=%.1f commits=%llu documents=%llu\n",
        what, events, JOINS, bench_median(rate, runs), bench_median(floor_rate, runs),
        bench_median(ratio, runs), TARGET_RATIO, bench_median(cpu, runs), bench_median(rss, runs),
        (unsigned long long)r.commits, (unsigned long long)r.documents);
}

int main(int argc, char **argv)
{
    static struct bench b;
    bench_worker_main(argc, argv);
    bench_open(&b, "redis_ingest", NULL);
    bench_load(&b, "few", FEW_EVENTS, JOINS, 0);
    report(&b, "from_worker_start", "few", FEW_EVENTS, true);
    bench_do(&b, "DEL few");
    bench_load(&b, "many", EVENTS, JOINS, 0);
    report(&b, "from_first_read", "many", EVENTS, false);
    bench_do(&b, "DEL many");
    if (getenv("BENCH_FULL")) {
        bench_load(&b, "most", 2 * EVENTS, JOINS, 0);
        report(&b, "twice_the_backlog", "most", 2 * EVENTS, false);
    }
    return 0;
}
