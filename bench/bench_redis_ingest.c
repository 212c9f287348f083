/* Reading a Redis stream: 200 joins over a stream that is there already, from the first XREAD until the last
 * join has fired in a committed checkpoint, against the floor: a bare socket loop that reads the same stream
 * with XREAD COUNT 1000 and only scans the replies. Also from the start of the worker's process, the worker's
 * peak memory (with BENCH_FULL also over twice the stream), and how much it has written. */
#include "bench/ingest.h"

#include <sys/param.h>

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

static void report(struct bench *b, const char *what, const char *stream, size_t events, bool from_start)
{
    struct ingest_figures f = {0};
    while (f.n < bench_runs()) {
        double floor_seconds = read_bare(b, stream, events);
        ingest_store(b, events);
        bench_store_source(b, "ingest", "stream", stream, true);
        struct ingest_result r = ingest_run(b, events, NULL, NULL);
        floor_seconds = (floor_seconds + read_bare(b, stream, events)) / 2;
        ingest_add(&f, &r, events, from_start ? r.seconds_from_start : r.seconds, floor_seconds);
    }
    printf("bench redis_ingest what=%s events=%zu joins=%d", what, events, JOINS);
    ingest_print(&f, TARGET_RATIO, false);
    printf(" documents=%llu\n", (unsigned long long)f.last.documents);
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
