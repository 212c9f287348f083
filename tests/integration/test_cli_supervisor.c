/* The command `triggerflow` against a real supervisor on the embedded storage, as a person would use it:
 * every command, and every --json parsed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "tests/support/cli_bed.h"
#include "tests/support/supervisor_bed.h"

static struct cli_bed bed;
static int port; /* of the trigger API */

static const char workflow[] = "workspace: %s\n"
                               "event_sources: {http: {class: http}}\n"
                               "triggers:\n"
                               "  join: {activation_events: [{type: done, subject: s}], condition: JOIN,\n"
                               "         context: {join: 10}, action: {name: EMIT, event: {type: joined}}}\n"
                               "  end: {activation_events: [{type: joined, subject: s}], condition: TRUE,\n"
                               "        action: TERMINATE}\n"
                               "global_context: {a: 1}\n";

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("%s\nlacks: %s", text, part);
}

/* A member by its path ("context.counter"); NULL without. */
static struct json_object *member(struct json_object *value, const char *path)
{
    char copy[128], *rest = copy, *name;
    struct json_object *at = value;
    snprintf(copy, sizeof copy, "%s", path);
    while ((name = strsep(&rest, ".")) != NULL)
        if (!json_object_object_get_ex(at, name, &at))
            return NULL;
    return at;
}

/* A member of what a command prints with --json, as a number, or as the length of a list; -1: there is none.
 */
static long long asked(const char *path, const char *command)
{
    struct json_object *value = cli_bed_json(&bed, "triggerflow %s --json", command);
    struct json_object *at = path ? member(value, path) : value;
    long long n = !at                                        ? -1
                  : json_object_is_type(at, json_type_array) ? (long long)json_object_array_length(at)
                                                             : json_object_get_int64(at);
    json_object_put(value);
    return n;
}

/* A command that must succeed. */
static const char *done(const char *command)
{
    int status = cli_bed_run(&bed, "triggerflow %s", command);
    if (status != 0)
        fail_msg("%s: %d, %s", command, status, cli_bed_err(&bed));
    return cli_bed_out(&bed);
}

/* One that must be refused, with these words. */
static void refused(const char *command, const char *words)
{
    assert_int_equal(cli_bed_run(&bed, "triggerflow %s", command), 1);
    assert_has(cli_bed_err(&bed), words);
}

static void write_workflow(const char *file, const char *workspace)
{
    char text[1024];
    snprintf(text, sizeof text, workflow, workspace);
    cli_bed_write(&bed, file, text);
}

static int setup(void **state)
{
    char config[512], path[128];
    (void)state;
    cli_bed_init(&bed);
    snprintf(config, sizeof config,
             "triggerflow_controller: {port: 0}\ntrigger_api: {port: 0}\nsupervisor: {run_directory: %s}\n"
             "trigger_storage: {backend: sqlite, state_directory: %s/state}\nworker: {shards: 2}\n",
             bed.dir, bed.dir);
    cli_bed_write(&bed, "config.yaml", config);
    cli_bed_start(&bed, "triggerflow-supervisor start --config config.yaml");
    AWAIT(cli_bed_run(&bed, "triggerflow status") == 0);
    snprintf(path, sizeof path, "%s/server.err", bed.dir);
    const char *at;
    AWAIT((at = strstr(bed_read_file(path), "api_port=")) != NULL);
    port = atoi(at + strlen("api_port="));
    assert_true(port > 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cli_bed_done(&bed);
    return 0;
}

static void test_workspace(void **state)
{
    (void)state;
    assert_has(done("workspace create one"), "Created workspace one\n");
    refused("workspace create one", "one");
    refused("workspace create triggerflow", "triggerflow");
    cli_bed_write(&bed, "source.yaml", "{name: events, class: http}\n");
    cli_bed_write(&bed, "context.json", "{\"a\":{\"password\":\"x\"}}");
    done("workspace create two --source source.yaml --global-context context.json --json");
    assert_has(done("workspace show two"), "event sources (1): events\n");
    assert_has(cli_bed_out(&bed), "********");
    assert_has(done("workspace show two --secrets --json"), "{\"password\":\"x\"}");
    assert_string_equal(done("workspace list --names"), "one\ntwo\n");
    assert_int_equal(asked("workspaces", "workspace list"), 2);
    assert_has(done("workspace pause one"), "Workspace one paused");
    AWAIT(strstr(done("status one"), "paused") != NULL);
    assert_has(done("workspace resume one"), "Workspace one resumed");
    assert_has(done("status"), "one");
    assert_int_equal(asked(NULL, "status"), 2);
    assert_has(done("status one"), "one");
    refused("status three", "Workspace three not found");
    assert_int_equal(
        cli_bed_run(&bed, "timeout --foreground --preserve-status -s INT 3 triggerflow status --watch"), 0);
    done("workspace delete one --yes");
    done("workspace delete two --json");
    refused("workspace show one", "Workspace one not found");
}

/* Applied again, an unchanged trigger keeps what it has counted; a changed one starts anew. */
static void test_apply(void **state)
{
    (void)state;
    write_workflow("w.yaml", "applied");
    assert_has(done("apply -f w.yaml --dry-run"),
               "+ workspace applied\n+ event source http\n+ trigger join\n");
    assert_int_equal(asked("workspaces", "workspace list"), 0);
    assert_has(done("apply -f w.yaml"), "4 changes applied, 0 unchanged\n");
    done("event publish applied --type done --subject s --count 4");
    AWAIT(asked("context.counter", "trigger show applied join") == 4);
    assert_has(done("apply -f w.yaml"), "0 changes applied, 4 unchanged\n");
    assert_int_equal(
        cli_bed_run(&bed, "sed -i 's/type: joined, subject: s/type: joined, subject: t/; s/a: 1/b: 2/' "
                          "w.yaml"),
        0);
    assert_has(done("apply -f w.yaml --dry-run"), "activation_events: [{");
    assert_has(done("apply -f w.yaml"), "2 changes applied, 2 unchanged\n");
    assert_int_equal(asked("context.counter", "trigger show applied join"), 4);
    assert_int_equal(asked("global_context.a", "workspace show applied"), 1);
    assert_int_equal(asked("global_context.b", "workspace show applied"), 2);
    done("trigger add applied extra --on x --condition JOIN --context '{\"join\":2}'");
    assert_has(done("apply -f w.yaml --prune"), "- trigger extra\n");
    assert_int_equal(asked("triggers", "workspace show applied"), 2);
    assert_has(done("workspace show applied --json"), "\"global_context\":{\"b\":2}");
    assert_int_equal(asked("unchanged", "apply -f w.yaml --prune"), 4);
    refused("apply -f source.yaml", "unknown key name");
    assert_int_equal(cli_bed_run(&bed, "sed s/JOIN/JION/ w.yaml | triggerflow apply -f -"), 1);
    assert_has(cli_bed_err(&bed), "nothing was applied");
    assert_int_equal(cli_bed_run(&bed, "sed s/JOIN/JION/ w.yaml | triggerflow apply -f - --force"), 1);
    assert_has(cli_bed_err(&bed), "trigger join is refused: ");
    assert_int_equal(
        cli_bed_run(&bed, "sed 's/JOIN/JION/; s/TRUE/TRU/' w.yaml | triggerflow apply -f - --force"), 1);
    assert_has(cli_bed_err(&bed), "trigger join is refused: ");
    assert_has(cli_bed_err(&bed), "trigger end is refused: ");
    assert_has(cli_bed_err(&bed), "not everything was applied");
    done("workspace delete applied");
}

static void test_sources(void **state)
{
    (void)state;
    done("workspace create w");
    done("source add w out --class redis --parameter host=127.0.0.1 --parameter stream=x --parameter "
         "consume=false "
         "--parameter password=@source.yaml");
    refused("source add w out --class redis --parameter host=h --parameter stream=x", "out");
    done("source add w out --class redis --parameter host=127.0.0.1 --parameter stream=y --parameter "
         "consume=false "
         "--parameter password=secret --replace --json");
    assert_null(strstr(cli_bed_out(&bed), "secret"));
    refused("source add w bad --class Foo", "Foo");
    assert_has(done("source list w"), "RedisEventSource");
    assert_null(strstr(cli_bed_out(&bed), "secret"));
    assert_string_equal(done("source list w --names"), "http\nout\n");
    assert_int_equal(asked(NULL, "source list w"), 2);
    assert_null(strstr(done("source show w out"), "secret"));
    assert_has(done("source show w out --secrets --json"), "secret");
    done("source delete w out");
    refused("source show w out", "out not found");
    done("workspace delete w");
}

static void test_triggers(void **state)
{
    (void)state;
    done("workspace create w");
    assert_string_equal(done("trigger add w a --on done/s --condition JOIN --context '{\"join\":3}'"), "a\n");
    refused("trigger add w a --on done/s", "trigger a is refused: Trigger a already exists");
    refused("trigger add w b --on x --condition JOIN --context '{\"join\":-1}'", "trigger b is refused: ");
    assert_int_equal(cli_bed_run(&bed, "triggerflow trigger add w b --on x --action '{\"name\":\"EMIT\",'"),
                     2);
    assert_has(cli_bed_err(&bed), "--action: value.json");
    cli_bed_write(&bed, "t.yaml",
                  "- {id: b, activation_events: [x], condition: TRUE, action: PASS, transient: true}\n"
                  "- {id: a, activation_events: [x], condition: TRUE, action: PASS}\n");
    done("trigger add w -f t.yaml --replace");
    assert_has(done("trigger add w a --on done/s --condition JOIN --context '{\"join\":3}' --replace --json"),
               "\"uuid\"");
    assert_has(done("trigger list w"), "a        JOIN         0/3  PASS    done/s\n");
    assert_int_equal(asked(NULL, "trigger list w"), 2);
    assert_has(done("trigger show w b"), "\"transient\": true");
    assert_has(done("trigger test w a --type done --subject s"), "event matches    yes\n");
    assert_has(cli_bed_out(&bed), "counter 1 of join 3");
    assert_int_equal(asked("matched", "trigger test w a --type other"), 0);
    done("trigger delete w a b");
    refused("trigger delete w a", "Trigger a not found");
    assert_string_equal(done("trigger list w --names"), "");
    done("workspace delete w");
}

/* Ten thousand through a pipe, counted exactly. */
static void test_events(void **state)
{
    (void)state;
    write_workflow("w.yaml", "events");
    assert_int_equal(cli_bed_run(&bed, "sed 's/join: 10/join: 10000/' w.yaml | triggerflow apply -f -"), 0);
    struct json_object *value = cli_bed_json(
        &bed, "seq 10000 | sed 's/.*/{\"data\":&}/' | triggerflow event publish events -f - --type done "
              "--subject s --json");
    assert_int_equal(json_object_get_int64(member(value, "published")), 10000);
    json_object_put(value);
    AWAIT(asked("context.counter", "trigger show events join") == 10000);
    AWAIT(strstr(done("status events --json"), "\"finished\":{") != NULL);
    assert_has(done("event tail events --once --last 1"), "FIRED");
    assert_has(done("event tail events --trigger end --once"), "end");
    assert_int_equal(cli_bed_run(&bed, "triggerflow event tail events --once --last 3 --json | wc -l"), 0);
    assert_int_equal(atoi(cli_bed_out(&bed)), 3);
    assert_int_equal(
        cli_bed_run(&bed, "timeout --foreground --preserve-status -s INT 1 triggerflow event tail events"),
        0);
    /* The same id again is known, and counts once. */
    done("event publish events --type done --subject s --id same");
    assert_has(done("event publish events --type done --subject s --id same"), "1 of them known before");
    refused("event publish absent --type t", "Workspace absent not found");
    done("workspace delete events");
}

static void test_dead_letters(void **state)
{
    char command[128], number[64];
    (void)state;
    write_workflow("w.yaml", "dead");
    done("apply -f w.yaml");
    done("event publish dead --type unheard --count 3");
    AWAIT(asked("dead_letters", "dead-letter list dead") == 3);
    assert_has(done("dead-letter list dead --reason no_trigger --limit 1"), "There are more: --after ");
    struct json_object *value = cli_bed_json(&bed, "triggerflow dead-letter list dead --json");
    snprintf(number, sizeof number, "%s",
             json_object_get_string(
                 member(json_object_array_get_idx(member(value, "dead_letters"), 0), "number")));
    json_object_put(value);
    snprintf(command, sizeof command, "dead-letter show dead %s", number);
    assert_has(done(command), "unheard");
    snprintf(command, sizeof command, "dead-letter drop dead %s", number);
    assert_has(done(command), "1 dead letter dropped\n");
    /* With a trigger that wants them they are counted. */
    done("trigger add dead late --on unheard --condition COUNTER_THRESHOLD --context '{\"threshold\":100}'");
    assert_int_equal(asked("count", "dead-letter redrive dead --reason no_trigger"), 2);
    AWAIT(asked("context.counter", "trigger show dead late") == 2);
    assert_has(done("dead-letter drop dead --all"), "0 dead letters dropped\n");
    done("workspace delete dead");
}

static void test_users(void **state)
{
    char url[64], command[256];
    (void)state;
    snprintf(url, sizeof url, "--url http://127.0.0.1:%d", port);
    assert_int_equal(
        cli_bed_run(&bed, "printf 'correct horse\\n' > secret; triggerflow user add alice --password-stdin "
                          "< secret"),
        0);
    assert_string_equal(done("user list"), "alice\n");
    assert_int_equal(asked("users", "user list"), 1);
    snprintf(command, sizeof command, "status %s", url);
    refused(command, "asks who you are: give --user");
    snprintf(command, sizeof command, "status %s --user alice --password-file secret", url);
    done(command);
    snprintf(command, sizeof command, "user list %s --user alice --password-file secret", url);
    refused(command, "(user alice)");
    snprintf(command, sizeof command, "status %s --user alice --password-file source.yaml", url);
    refused(command, "refuses the password of user alice");
    snprintf(command, sizeof command, "user list %s --user operator", url);
    done(command);
    assert_int_equal(cli_bed_run(&bed, "setsid triggerflow user add bob"), 1);
    assert_has(cli_bed_err(&bed), "--password-stdin");
    done("user remove alice");
    refused("user remove alice", "alice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workspace), cmocka_unit_test(test_apply),  cmocka_unit_test(test_sources),
        cmocka_unit_test(test_triggers),  cmocka_unit_test(test_events), cmocka_unit_test(test_dead_letters),
        cmocka_unit_test(test_users),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
