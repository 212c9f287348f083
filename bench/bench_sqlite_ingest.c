/* Processing the event log on SQLite: 200 joins over 200 x 1,000 events (of about 300 bytes) that were
 * accepted before, in groups as the HTTPEventSource writes them; from the start of the worker's process until
 * the last join has fired in a committed checkpoint and the log is empty, and the same from when the source
 * reads. The floor, in the same run: a bare loop that reads the log and only walks its groups. Also the
 * worker's peak memory and processor time; with BENCH_FULL over ten times the events. */
#include "bench/bench.h"

#include "common/cloudevent.h"
#include "common/storage/storage.h"
#include "worker/source/event_group.h"

#define JOINS 200
#define EVENTS 200000
#define GROUP_BYTES (1u << 20)
#define TARGET 300000
#define WRITER "0123456789abcdef0123456789abcdef"

struct files {
    char directory[96];
    char path[128]; /* of the configuration */
    struct config config;
};

static void must(int r, const struct error *err)
{
    if (r)
        bench_fail("%s", r < 0 ? err->message : "an outcome that is not expected");
}

static void open_files(const struct bench *b, struct files *f)
{
    char yaml[300];
    struct error err;
    snprintf(f->directory, sizeof f->directory, "%s/state", b->dir);
    snprintf(f->path, sizeof f->path, "%s/sqlite.yaml", b->dir);
    int len = snprintf(yaml, sizeof yaml, "trigger_storage: {backend: sqlite, state_directory: %s}\n",
                       f->directory);
    FILE *file = fopen(f->path, "w");
    if (!file || fwrite(yaml, 1, (size_t)len, file) != (size_t)len || fclose(file))
        bench_fail("%s cannot be written", f->path);
    must(config_parse_yaml(f->path, yaml, (size_t)len, &f->config, &err), &err);
}

/* ---- the load ---- */

static void put(struct cloudevent *event, enum cloudevent_attribute attribute, const char *text)
{
    event->attribute[attribute] = (struct cloudevent_span){text, (uint32_t)strlen(text)};
}

static void append(struct storage *s, struct event_group *group, uint64_t number, struct event_totals *totals)
{
    struct error err;
    must(event_group_seal(group, true, clock_unix_ns() / CLOCK_S, totals, totals, &err), &err);
    struct storage_log_group g = {number, group->events.data, group->events.len, group->ids.data,
                                  group->ids.len};
    must(s->type->log_append(s, "ingest", WRITER, &g, 1, &err), &err);
    event_group_reset(group);
}

static void fill(struct storage *s, size_t events)
{
    struct event_group group = {.n = 0};
    struct event_totals totals = {0, 0};
    struct cloudevent event;
    _Alignas(8) char packed[1024];
    char id[40], subject[24], time[CLOCK_ISO_MAX];
    uint64_t number = 0;
    cloudevent_clear(&event);
    put(&event, CE_SPECVERSION, "1.0");
    put(&event, CE_SOURCE, "urn:example:function:invoke-0123456789abcdef");
    put(&event, CE_TYPE, "event.triggerflow.termination.success");
    put(&event, CE_DATACONTENTTYPE, "application/json");
    put(&event, CE_DATA, "{\"result\":{\"status\":\"ok\",\"value\":1234567,\"duration\":0.123}}");
    event.data = CE_DATA_JSON;
    event_group_reset(&group);
    for (size_t i = 0; i < events; i++) {
        snprintf(id, sizeof id, "3f1c6a52-0000-4000-8000-%012zu", i);
        snprintf(subject, sizeof subject, "join%zu", i % JOINS);
        put(&event, CE_ID, id);
        put(&event, CE_SUBJECT, subject);
        put(&event, CE_TIME, clock_iso(clock_unix_ns(), time));
        size_t size = cloudevent_packed_size(&event);
        struct event_id hash = event_id_of(&event);
        if (size > sizeof packed)
            bench_fail("an event of %zu bytes", size);
        cloudevent_pack(&event, packed);
        event_group_add(&group, packed, size, &hash);
        if (group.events.len >= GROUP_BYTES)
            append(s, &group, ++number, &totals);
    }
    if (group.n)
        append(s, &group, ++number, &totals);
    event_group_done(&group);
}

static void create(struct storage *s, size_t events)
{
    static const char source[] = "{\"name\":\"http\",\"class\":\"HTTPEventSource\",\"parameters\":{}}";
    struct storage_op ops[JOINS + 1] = {
        {STORAGE_EVENT_SOURCES, STORAGE_PUT, "http", 4, source, sizeof source - 1, NULL, 0}};
    char(*text)[600] = calloc(JOINS, sizeof *text);
    char(*id)[24] = calloc(JOINS, sizeof *id);
    struct storage_claim claim;
    struct error err;
    if (!text || !id)
        bench_fail("out of memory");
    for (size_t i = 0; i < JOINS; i++) {
        snprintf(id[i], sizeof id[i], "join%zu", i);
        int len =
            snprintf(text[i], sizeof text[i],
                     "{\"id\":\"join%zu\",\"uuid\":\"u%zu\",\"workspace\":\"ingest\",\"transient\":false,"
                     "\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"PASS\"},"
                     "\"context\":{\"join\":%zu,\"counter\":0},\"activation_events\":[{\"type\":"
                     "\"event.triggerflow.termination.success\",\"subject\":\"join%zu\"}]}",
                     i, i, events / JOINS, i);
        ops[i + 1] = (struct storage_op){STORAGE_TRIGGERS, STORAGE_PUT, id[i], strlen(id[i]),
                                         text[i],          (size_t)len, NULL,  0};
    }
    (void)s->type->remove(s, "ingest", &err);
    must(s->type->create(s, "ingest", "1700000000.5", ops, JOINS + 1, &err), &err);
    must(s->type->claim(s, "ingest", WRITER, &claim, &err), &err);
    free(text);
    free(id);
}

/* ---- the floor ---- */

struct walk {
    struct buffer copy;
    uint64_t last;
    size_t events;
};

static int walk_group(void *data, const struct storage_log_group *group)
{
    struct walk *w = data;
    struct event_group_reader reader;
    struct cloudevent event;
    buffer_reset(&w->copy, 8 << 20);
    buffer_append(&w->copy, group->events, group->events_len);
    if (event_group_open(w->copy.data, w->copy.len, &reader, NULL) < 0)
        bench_fail("group %llu cannot be read", (unsigned long long)group->number);
    const char *at = reader.at;
    size_t left = reader.left;
    for (uint32_t i = 0; i < reader.n_left; i++) {
        size_t size;
        if (cloudevent_unpack_bounded(at, left, &event, &size, NULL) < 0)
            bench_fail("an event cannot be read");
        at += size;
        left -= size;
        w->events++;
    }
    w->last = group->number;
    return 0;
}

/* Seconds that it takes to read the log and do nothing else. */
static double read_bare(const struct files *f, size_t events)
{
    struct walk walk = {.last = 0};
    struct storage *s;
    struct error err;
    must(storage_open(&f->config, "bench", &s, &err), &err);
    uint64_t start = clock_now_ns();
    for (size_t before = SIZE_MAX; before != walk.events;) {
        before = walk.events;
        must(s->type->log_read(s, "ingest", walk.last, GROUP_BYTES, walk_group, &walk, &err), &err);
    }
    double seconds = bench_seconds(start, clock_now_ns());
    if (walk.events != events)
        bench_fail("the log has %zu events instead of %zu", walk.events, events);
    storage_close(s);
    buffer_done(&walk.copy);
    return seconds;
}

/* ---- the worker ---- */

struct result {
    double seconds; /* from the start of the process */
    double reading; /* from when the source reads */
    double rss_mib;
    double cpu_ns;
    uint64_t commits;
};

static void start_worker(struct bench *b, const struct files *f, struct bench_worker *w)
{
    char number[12];
    int fd;
    struct error err;
    if (arena_create(&fd, &err) < 0 || arena_map(fd, &w->arena, &err) < 0)
        bench_fail("%s", err.message);
    arena_reset(w->arena, 1);
    int inherited = dup(fd); /* not close-on-exec */
    int log = bench_open_log(b, "ingest");
    snprintf(number, sizeof number, "%d", inherited);
    const char *argv[] = {"/proc/self/exe", "--worker", number, f->path, "ingest", NULL};
    w->pid = bench_launch(b, log, argv);
    close(log);
    close(inherited);
    close(fd);
}

static int see_left(void *data, const struct storage_log_group *group)
{
    (void)group;
    ++*(size_t *)data;
    return 0;
}

/* Every event counted once, every join fired once, nothing left. */
static void verify(struct storage *s, const struct bench_worker *w, size_t events)
{
    size_t left = 0;
    struct error err;
    if (bench_worker_read(w) != events || arena_get(&w->arena->worker.fired_committed) != JOINS ||
        arena_get(&w->arena->worker.dead_letters))
        bench_fail("%llu events read and %llu joins fired instead of %zu and %d",
                   (unsigned long long)bench_worker_read(w),
                   (unsigned long long)arena_get(&w->arena->worker.fired_committed), events, JOINS);
    must(s->type->log_read(s, "ingest", 0, SIZE_MAX, see_left, &left, &err), &err);
    if (left)
        bench_fail("%zu groups are left in the log", left);
}

static struct result run_worker(struct bench *b, const struct files *f, struct storage *s, size_t events)
{
    struct bench_worker w;
    struct result r;
    uint64_t start = clock_now_ns();
    start_worker(b, f, &w);
    uint64_t reading = bench_worker_await_reading(b, &w);
    bench_worker_await(b, &w, &w.arena->worker.fired_committed, JOINS, 500);
    uint64_t end = bench_worker_await(b, &w, &w.arena->worker.committed_events, events, 500);
    r.seconds = bench_seconds(start, end);
    r.reading = bench_seconds(reading, end);
    r.commits = arena_get(&w.arena->worker.commits);
    verify(s, &w, events);
    bench_worker_stop(b, &w);
    r.rss_mib = (double)w.usage.ru_maxrss / 1024;
    const struct rusage *u = &w.usage;
    r.cpu_ns = ((double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1e9 +
                (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1e3) /
               (double)events;
    return r;
}

static void report(struct bench *b, const struct files *f, const char *what, size_t events)
{
    double rate[BENCH_MAX_RUNS], reading[BENCH_MAX_RUNS], floor_rate[BENCH_MAX_RUNS], rss[BENCH_MAX_RUNS];
    double cpu[BENCH_MAX_RUNS];
    struct result r = {0};
    size_t runs = bench_runs();
    for (size_t i = 0; i < runs; i++) {
        struct storage *s;
        struct error err;
        must(storage_open(&f->config, "bench", &s, &err), &err);
        create(s, events);
        fill(s, events);
        floor_rate[i] = (double)events / read_bare(f, events);
        r = run_worker(b, f, s, events);
        storage_close(s);
        rate[i] = (double)events / r.seconds;
        reading[i] = (double)events / r.reading;
        rss[i] = r.rss_mib;
        cpu[i] = r.cpu_ns;
    }
    double floor_median = bench_median(floor_rate, runs);
    double median = bench_median(rate, runs);
    printf("bench sqlite_ingest what=%s events=%zu joins=%d events_per_s=%.0f target=%d "
           "from_first_read_per_s=%.0f floor_events_per_s=%.0f ratio=%.2f cpu_ns_per_event=%.0f rss_mib=%.1f "
           "commits=%llu\n",
           what, events, JOINS, median, TARGET, bench_median(reading, runs), floor_median,
           median / floor_median, bench_median(cpu, runs), bench_median(rss, runs),
           (unsigned long long)r.commits);
}

int main(int argc, char **argv)
{
    static struct bench b;
    static struct files files;
    bench_worker_main(argc, argv);
    bench_open(&b, "sqlite_ingest", NULL);
    open_files(&b, &files);
    report(&b, &files, "from_worker_start", EVENTS);
    if (getenv("BENCH_FULL"))
        report(&b, &files, "ten_times_the_backlog", (size_t)EVENTS * 10);
    config_done(&files.config);
    return 0;
}
