/* Kills, and what must be left of a workflow after them: exactly what a sequential run of the same events
 * leaves (tests/support/reference.h). The real worker, supervisor and redis-server are killed with SIGKILL at
 * random instants while events are published, and the worker at every named crash point (make SAN=crash).
 *
 * TRIGGERFLOW_KILLS: random kills in all (200). TRIGGERFLOW_SEED: repeats a run's random choices, though not
 * the instants. TRIGGERFLOW_KEEP: with it the logs are shown at the end of each run. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "common/clock.h"
#include "tests/support/chance.h"
#include "tests/support/redis_server.h"
#include "tests/support/reference.h"
#include "tests/support/supervisor_bed.h"
#include "tests/support/victim.h"
#include "tests/support/wait.h"

#define MAX_EVENT_BYTES 65536
#define KILLS_PER_RUN 20
#define CHUNK 24 /* events published at once, at most */
#define BURST 250
#define LIFE_MOST (80 * CLOCK_MS)

/* --- the workload --- */

#define NEVER 1000000000

static const struct reference_trigger triggers[] = {
    {"join0", "e.join", "s0", REFERENCE_JOIN, 1, .action = REFERENCE_EMIT_OUT, .emit_type = "o.join"},
    {"join1", "e.join", "s1", REFERENCE_JOIN, 3, .action = REFERENCE_PASS},
    {"join2", "e.join", "s2", REFERENCE_JOIN, 10, .action = REFERENCE_EMIT_OUT, .emit_type = "o.join"},
    {"join3", "e.join", "s3", REFERENCE_JOIN, 25, .action = REFERENCE_TERMINATE},
    {"join4", "e.join", "s4", REFERENCE_JOIN, 50, .action = REFERENCE_EMIT_OUT, .emit_type = "o.join"},
    {"join5", "e.join", "s5", REFERENCE_JOIN, 60, .action = REFERENCE_EMIT_OUT, .emit_type = "o.join"},
    {"join6", "e.join", "s6", REFERENCE_JOIN, NEVER, .action = REFERENCE_TERMINATE},
    {"join_all", "e.join", "*", REFERENCE_JOIN, 400, .action = REFERENCE_TERMINATE},
    {"count0", "e.count", "c0", REFERENCE_THRESHOLD, 1, .action = REFERENCE_EMIT_OUT, .emit_type = "o.count"},
    {"count1", "e.count", "c1", REFERENCE_THRESHOLD, 20, .action = REFERENCE_EMIT_OUT,
     .emit_type = "o.count"},
    {"count2", "e.count", "c2", REFERENCE_THRESHOLD, 40, .action = REFERENCE_PASS},
    {"count3", "e.count", "c3", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"functions0", "e.functions", "f0", REFERENCE_FUNCTION_JOIN, 5, .action = REFERENCE_EMIT_OUT,
     .emit_type = "o.functions"},
    {"functions1", "e.functions", "f1", REFERENCE_FUNCTION_JOIN, 30, .action = REFERENCE_TERMINATE},
    {"functions2", "e.functions", "f2", REFERENCE_FUNCTION_JOIN, NEVER, .action = REFERENCE_PASS},
    {"true0", "e.true", "t0", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.true"},
    {"true1", "e.true", "t1", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.true"},
    {"true2", "e.true", "t2", REFERENCE_TRUE, 0, .action = REFERENCE_PASS},
    {"true_all", "e.true", "*", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"any_type", "*", "t1", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"key0", "e.key", "k0", REFERENCE_JOIN, 10, .action = REFERENCE_EMIT_OUT, .emit_type = "o.key"},
    {"key1", "e.key", "k1", REFERENCE_JOIN, 40, .action = REFERENCE_EMIT_OUT, .emit_type = "o.key"},
    {"key_count", "e.key", "k1", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"key_functions", "e.key", "*", REFERENCE_FUNCTION_JOIN, 70, .action = REFERENCE_EMIT_OUT,
     .emit_type = "o.key"},
    /* Internal events: a chain of three, in a certain order. */
    {"chain0", "e.chain", "x0", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_INTERNAL, .emit_type = "i.b"},
    {"chain1", "e.chain", "x1", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_INTERNAL, .emit_type = "i.b"},
    {"chain_join0", "i.b", "x0", REFERENCE_JOIN, 20, .action = REFERENCE_EMIT_OUT, .emit_type = "o.chain"},
    {"chain_join1", "i.b", "x1", REFERENCE_JOIN, 15, .action = REFERENCE_EMIT_INTERNAL,
     .emit_type = "i.none"},
    {"chain_more", "i.b", "x0", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_INTERNAL, .emit_type = "i.c"},
    {"chain_end", "i.c", "x0", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.end"},
    {"chain_count", "i.c", "x0", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    /* Emitted into the stream that the workflow itself reads. */
    {"back0", "e.back", "b0", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_BACK, .emit_type = "l.x"},
    {"back1", "e.back", "b1", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_BACK, .emit_type = "l.x"},
    {"back2", "e.back", "b2", REFERENCE_JOIN, 8, .action = REFERENCE_EMIT_BACK, .emit_type = "l.none"},
    {"back_join", "l.x", "b0", REFERENCE_JOIN, 30, .action = REFERENCE_EMIT_OUT, .emit_type = "o.back",
     .own_data = true},
    {"back_true", "l.x", "b0", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.back",
     .unordered = true},
    {"back_count", "l.x", "*", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    /* Transient ones. */
    {"once0", "e.once", "r0", REFERENCE_JOIN, 7, .action = REFERENCE_PASS, .transient = true},
    {"once1", "e.once", "r1", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.once",
     .transient = true},
    {"once1_count", "e.once", "r1", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"once2", "e.once", "r2", REFERENCE_JOIN, 40, .action = REFERENCE_EMIT_OUT, .emit_type = "o.once",
     .transient = true},
    {"once2_count", "e.once", "r2", REFERENCE_JOIN, NEVER, .action = REFERENCE_PASS},
};

static const struct kind {
    const char *type;
    char subject; /* and a number below `subjects` */
    unsigned subjects;
    unsigned weight;
} kinds[] = {
    {"e.join", 's', 7, 300}, {"e.count", 'c', 4, 120}, {"e.functions", 'f', 3, 100},
    {"e.true", 't', 3, 120}, {"e.key", 'k', 2, 100},   {"e.chain", 'x', 2, 100},
    {"e.back", 'b', 3, 60},  {"e.once", 'r', 3, 40},   {"e.none", 'n', 2, 3},
};

/* --- a run --- */

struct run {
    struct victim victim; /* its worker is that without a supervisor */
    struct reference *reference;
    unsigned published;
    bool calm; /* without events that have no trigger: the worker is never held up */
};

/* Limits that change from life to life; the small ones are reached. */
static const char *const actions[] = {"TRIGGERFLOW_MAX_PENDING_ACTIONS=10000",
                                      "TRIGGERFLOW_MAX_PENDING_ACTIONS=5", NULL};
static const char *const sinks[] = {"TRIGGERFLOW_SINK_MAX_SIZE=200000", "TRIGGERFLOW_SINK_MAX_SIZE=60", NULL};
static const char *const event_bytes[] = {"TRIGGERFLOW_MAX_EVENT_BYTES=64KiB", NULL};
static const char *const *const settings[] = {actions, sinks, event_bytes, NULL};

/* One event with random attributes; their text lives in `text`. */
struct event_text {
    char id[24];
    char subject[16];
    char key[16];
    char data[32];
};

static const struct kind *choose_kind(const struct run *r)
{
    unsigned total = 0;
    size_t n = sizeof kinds / sizeof kinds[0] - r->calm;
    for (size_t k = 0; k < n; k++)
        total += kinds[k].weight;
    const struct kind *kind = kinds;
    for (uint64_t left = chance_below(total); left >= kind->weight; kind++)
        left -= kind->weight;
    return kind;
}

static struct publication choose_event(struct run *r, struct event_text *text)
{
    static char large[40001];
    static char oversized[MAX_EVENT_BYTES + 1];
    const struct kind *kind = choose_kind(r);
    uint64_t subject = chance_below(kind->subjects);
    if (r->calm && kind->subject == 'r' && !subject)
        subject = 1; /* r0 has a transient trigger only */
    memset(large, 'l', sizeof large - 1);
    memset(oversized, 'o', sizeof oversized - 1);
    snprintf(text->id, sizeof text->id, "event-%u", r->published);
    snprintf(text->subject, sizeof text->subject, "%c%u", kind->subject, (unsigned)subject);
    snprintf(text->key, sizeof text->key, "key-%u", (unsigned)chance_below(200));
    snprintf(text->data, sizeof text->data, "{\"n\":%u}", r->published++);
    struct publication event = {.id = text->id,
                                .type = kind->type,
                                .subject = text->subject,
                                .data = text->data,
                                .key = kind->subject == 'k' ? text->key : NULL};
    if (!chance_below(100))
        event.id = NULL;
    else if (!chance_below(300))
        event.data = chance_below(2) ? large : oversized;
    return event;
}

static void publish(struct run *r, unsigned n)
{
    struct publication events[CHUNK];
    struct event_text texts[CHUNK];
    for (unsigned i = 0; i < n; i++)
        events[i] = choose_event(r, &texts[i]);
    /* When redis-server has just been killed, some of them may be in the stream: what is there counts. */
    (void)workspace_publish(&r->victim.workspace, r->victim.workspace.name, events, n);
}

static void publish_many(struct run *r, unsigned n)
{
    for (; n > CHUNK; n -= CHUNK)
        publish(r, CHUNK);
    publish(r, n);
}

static void begin(struct run *r, struct redis_server *redis, const char *name)
{
    char out[80];
    *r = (struct run){.calm = chance_below(3)};
    victim_init(&r->victim, redis, name, settings);
    snprintf(out, sizeof out, "%s-out", name);
    redisReply *reply = redis_server_do(redis, "DEL %s", out);
    assert_non_null(reply);
    freeReplyObject(reply);
    assert_int_equal(workspace_source(&r->victim.workspace, "out", out, ",\"consume\":false"), 0);
    r->reference = reference_new(&r->victim.workspace, triggers, sizeof triggers / sizeof triggers[0]);
    assert_int_equal(reference_store(r->reference, &r->victim.workspace), 0);
}

/* Everything that was published has been processed: compares. */
static void compare(struct run *r)
{
    struct facts expected = {0};
    struct facts actual = {0};
    char out[80];
    snprintf(out, sizeof out, "%s-out", r->victim.workspace.name);
    assert_int_equal(
        reference_run(r->reference, &r->victim.workspace, r->victim.workspace.name, MAX_EVENT_BYTES), 0);
    reference_facts(r->reference, &expected);
    assert_int_equal(
        reference_observe(r->reference, &r->victim.workspace, r->victim.workspace.name, out, &actual), 0);
    size_t differences = facts_compare(&expected, &actual);
    if (differences)
        victim_show(&r->victim);
    printf("%s: %u kills, %zu events, %zu firings, %lld dead letters, %zu facts, %zu differences\n",
           r->victim.workspace.name, r->victim.killed, reference_events(r->reference),
           reference_firings(r->reference), workspace_count(&r->victim.workspace, "dead_letters"), expected.n,
           differences);
    fflush(stdout);
    facts_done(&expected);
    facts_done(&actual);
    assert_int_equal(differences, 0);
}

static void end(struct run *r)
{
    if (getenv("TRIGGERFLOW_KEEP"))
        process_show_log(&r->victim.worker);
    reference_free(r->reference);
    r->reference = NULL;
}

static bool is_settled_and_running(const struct victim *victim)
{
    return victim_is_settled(victim) && victim_is_running(victim);
}

/* Lets the worker finish everything and stops it. */
static void finish(struct run *r)
{
    victim_await(&r->victim, is_settled_and_running);
    kill(r->victim.worker.pid, SIGTERM);
    int status = process_wait(&r->victim.worker, WAIT_DEADLINE_NS);
    if (status)
        victim_show(&r->victim);
    assert_int_equal(status, 0);
    compare(r);
    end(r);
}

/* Publishes for so long. */
static void work(struct run *r, uint64_t duration_ns)
{
    uint64_t until = clock_now_ns() + duration_ns;
    do {
        publish(r, 1 + (unsigned)chance_below(CHUNK));
        wait_moment();
    } while (clock_now_ns() < until);
}

/* A random while that often is short. */
static uint64_t random_life(void)
{
    return chance_below(chance_below(2) ? LIFE_MOST : LIFE_MOST / 4);
}

/* --- (a) a worker alone --- */

static unsigned kills_of(unsigned percent)
{
    return (chance_kills() * percent + 99) / 100;
}

static void test_worker_killed(void **state)
{
    unsigned left = kills_of(50);
    (void)state;
    for (unsigned run = 0; left; run++) {
        char name[32];
        struct run r;
        unsigned kills = left < KILLS_PER_RUN ? left : KILLS_PER_RUN;
        snprintf(name, sizeof name, "alone%u", run);
        begin(&r, victim_redis(), name);
        while (r.victim.killed < kills) {
            if (!chance_below(3))
                publish_many(&r, BURST);
            victim_start(&r.victim);
            work(&r, random_life());
            victim_kill(&r.victim);
        }
        victim_start(&r.victim);
        finish(&r);
        left -= kills;
    }
}

/* --- (b) under the supervisor --- */

static pid_t worker_pid(const struct bed *bed, const struct run *r)
{
    return (pid_t)bed_number(bed, r->victim.workspace.name, "pid");
}

static void kill_supervisor(struct bed *bed)
{
    pid_t pid = bed->supervisor;
    kill(pid, SIGKILL);
    bed_wait_exit(pid);
    bed_start(bed);
}

/* A worker is killed only twice under one supervisor, which would wait ever longer before it starts it
 * again. */
static void kill_under_supervisor(struct run *r, struct bed *bed, unsigned turn)
{
    pid_t pid = 0;
    if (turn % 4 == 3) {
        kill_supervisor(bed);
    } else if (turn % 4 == 1) {
        WAIT_ELSE((pid = bed_forkserver(bed)) > 0, victim_show(&r->victim));
        kill(pid, SIGKILL);
    } else {
        WAIT_ELSE((pid = worker_pid(bed, r)) > 0, victim_show(&r->victim));
        kill(pid, SIGKILL);
    }
    r->victim.killed++;
}

static void finish_supervised(struct run *r, struct bed *bed)
{
    snprintf(r->victim.worker.log, sizeof r->victim.worker.log, "%s", bed->log);
    bed_await_ready(bed);
    WAIT_ELSE(victim_is_settled(&r->victim) && bed_state_is(bed, r->victim.workspace.name, "running"),
              victim_show(&r->victim));
    assert_int_equal(bed_stop(bed), 0);
    compare(r);
    end(r);
}

static void test_supervised_killed(void **state)
{
    unsigned left = kills_of(30);
    (void)state;
    for (unsigned run = 0; left; run++) {
        char name[32];
        struct run r;
        struct bed *bed = bed_new(victim_redis());
        unsigned kills = left < KILLS_PER_RUN ? left : KILLS_PER_RUN;
        snprintf(name, sizeof name, "supervised%u", run);
        bed_write_config(bed, "", "worker: {max_event_bytes: 64KiB, shards: 3}");
        begin(&r, victim_redis(), name);
        bed_start(bed);
        while (r.victim.killed < kills) {
            if (!chance_below(3))
                publish_many(&r, BURST);
            if (chance_below(4)) /* else at once */
                WAIT_ELSE(worker_pid(bed, &r) > 0, victim_show(&r.victim));
            work(&r, random_life());
            kill_under_supervisor(&r, bed, r.victim.killed);
        }
        finish_supervised(&r, bed);
        bed_free(bed);
        left -= kills;
    }
}

/* --- (c) redis-server --- */

/* A process that kills another one in a moment. */
static pid_t kill_later(pid_t victim, uint64_t delay_ns)
{
    pid_t pid = fork();
    if (pid == 0) {
        nanosleep(&(struct timespec){.tv_nsec = (long)delay_ns}, NULL);
        kill(victim, SIGKILL);
        _exit(0);
    }
    assert_true(pid > 0);
    return pid;
}

static void test_redis_killed(void **state)
{
    static const char *const arguments[] = {"--appendonly", "yes", "--appendfsync", "always", NULL};
    struct redis_server redis;
    struct run r;
    unsigned left = kills_of(20);
    (void)state;
    assert_int_equal(redis_server_run(&redis, arguments), 0);
    for (unsigned run = 0; left; run++) {
        char name[32];
        unsigned kills = left < KILLS_PER_RUN ? left : KILLS_PER_RUN;
        snprintf(name, sizeof name, "redis%u", run);
        begin(&r, &redis, name);
        victim_start(&r.victim);
        for (; r.victim.killed < kills; r.victim.killed++) {
            pid_t killer = kill_later(redis.pid, chance_below(4 * LIFE_MOST));
            while (waitpid(killer, NULL, WNOHANG) == 0)
                work(&r, LIFE_MOST / 8);
            redis_server_kill(&redis);
            if (!chance_below(4)) {
                process_kill(&r.victim.worker, SIGKILL);
                victim_start(&r.victim);
            }
            assert_int_equal(redis_server_restart(&redis), 0);
        }
        finish(&r);
        left -= kills;
    }
    redis_server_done(&redis);
}

/* --- (d) at named points --- */

static const char *const points[] = {
    "recovered",    "delivered",   "fire",         "barrier",      "shard_cut", "cut",        "commit_before",
    "commit_after", "handed_over", "acknowledged", "intent_start", "published", "intent_done"};

static void test_crash_points(void **state)
{
    static const unsigned counts[] = {1, 2, 3, 5, 8, 1};
    char program[PATH_MAX];
    (void)state;
    victim_crash_program(program);
    for (size_t p = 0; p < sizeof points / sizeof points[0]; p++) {
        char name[48];
        struct run r;
        unsigned reached = 0;
        snprintf(name, sizeof name, "at-%s", points[p]);
        begin(&r, victim_redis(), name);
        memcpy(r.victim.program, program, sizeof program);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            victim_arm(&r.victim, points[p], counts[i]);
            victim_start(&r.victim);
            publish_many(&r, BURST);
            reached += victim_dies(&r.victim, victim_is_settled);
        }
        victim_disarm(&r.victim);
        victim_start(&r.victim);
        finish(&r);
        if (!reached)
            fail_msg("the crash point %s was never reached", points[p]);
    }
}

/* --- main --- */

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_killed),
        cmocka_unit_test(test_supervised_killed),
        cmocka_unit_test(test_redis_killed),
        cmocka_unit_test(test_crash_points),
    };
    int opened = victim_open(argc, argv, "crash");
    if (opened)
        return opened < 0;
    return victim_close(cmocka_run_group_tests(tests, NULL, NULL));
}
