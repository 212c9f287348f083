/* The command `triggerflow` by itself and against a stand-in for the trigger API (tests/support/fake_api.py):
 * usage, help, completion, where credentials come from, and publishing through trouble with an exact count.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <json-c/json.h>

#include "cli/cli.h"
#include "tests/support/cli_bed.h"
#include "tests/support/supervisor_bed.h"

static struct cli_bed bed;
static int port; /* of the stand-in; 0: there is none */

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("%s\nlacks: %s", text, part);
}

static long long number(struct json_object *value, const char *name)
{
    struct json_object *member = NULL;
    if (!json_object_object_get_ex(value, name, &member))
        fail_msg("no member %s in %s", name, json_object_to_json_string(value));
    return json_object_get_int64(member);
}

static void start_server(void)
{
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/port", bed.dir);
    unlink(path);
    cli_bed_start(&bed, "python3 -u \"$OLDPWD/tests/support/fake_api.py\" %s", path);
    AWAIT(stat(path, &st) == 0);
    port = atoi(bed_read_file(path));
    assert_true(port > 0);
}

static void stop_server(void)
{
    kill(bed.server, SIGTERM);
    bed_wait_exit(bed.server);
    bed.server = 0;
}

static int setup(void **state)
{
    (void)state;
    char *here = getcwd(NULL, 0);
    assert_non_null(here);
    setenv("OLDPWD", here, 1);
    free(here);
    cli_bed_init(&bed);
    if (system("python3 -c 'import hashlib; hashlib.sha3_256()' >/dev/null 2>&1") == 0)
        start_server();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cli_bed_done(&bed);
    return 0;
}

static void need_server(void)
{
    if (port != 0)
        return;
    print_message("skipped: no python3\n");
    skip();
}

/* ---- Alone ---- */

static void test_help(void **state)
{
    (void)state;
    cli_init();
    assert_int_equal(cli_bed_run(&bed, "triggerflow --help"), 0);
    for (size_t i = 0; i < cli_n_commands; i++) {
        const struct cli_command *command = cli_commands[i];
        char name[64];
        snprintf(name, sizeof name, "%s%s%s", command->noun, command->verb ? " " : "",
                 command->verb ? command->verb : "");
        assert_int_equal(cli_bed_run(&bed, "triggerflow --help"), 0);
        assert_has(cli_bed_out(&bed), name);
        assert_int_equal(cli_bed_run(&bed, "triggerflow %s --help", name), 0);
        assert_has(cli_bed_out(&bed), command->summary);
        assert_has(cli_bed_out(&bed), "Examples:\n");
        assert_has(cli_bed_out(&bed), name);
        /* docs/command-line.md has every command, with an example. */
        assert_int_equal(
            cli_bed_run(&bed, "grep -qF 'triggerflow %s' \"$OLDPWD/docs/command-line.md\"", name), 0);
    }
    assert_int_equal(cli_bed_run(&bed, "triggerflow trigger --help"), 0);
    assert_has(cli_bed_out(&bed), "trigger test");
    assert_int_equal(cli_bed_run(&bed, "triggerflow --version"), 0);
    assert_has(cli_bed_out(&bed), "triggerflow 0.");
    assert_int_equal(cli_bed_run(&bed, "triggerflow --man"), 0);
    assert_has(cli_bed_out(&bed), ".SS event publish WORKSPACE\n");
    assert_int_equal(cli_bed_run(&bed, "triggerflow --help | head -n 1"), 0);
}

static void test_usage(void **state)
{
    static const char *const cases[][2] = {
        {"", "no command given"},
        {"nonsense", "unknown command nonsense"},
        {"nonsense --help", "unknown command nonsense"},
        {"trigger", "what about trigger?"},
        {"trigger nonsense", "unknown command trigger nonsense"},
        {"trigger show", "it needs: WORKSPACE TRIGGER"},
        {"trigger show a b c", "unexpected argument c"},
        {"status --nonsense", "unknown option --nonsense"},
        {"status --type x", "unknown option --type"},
        {"status -x", "unknown option -x"},
        {"status --url", "option --url needs a value"},
        {"status --watch=1", "option --watch takes no value"},
        {"status --url ftp://x", "neither http, https nor unix"},
        {"status --url http://u:p@h", "without a user"},
        {"status --url http://h --user a:b --password-file /dev/null", "holds no password"},
        {"apply", "which file?"},
        {"validate", "which file?"},
        {"completion tcsh", "no completion for tcsh"},
        {"event publish w --batch 0 --type t", "--batch is 0, not a whole number from 1"},
        {"event publish w --id 5", "--id is for one event"},
        {"event publish w --count 2 --id x --type t", "do not go together"},
        {"event publish w --type t --id-prefix 'a b'", "--id-prefix is not made of"},
        {"trigger add w", "give an id and --on"},
        {"trigger test w t", "an event needs a type"},
        {"source add w s", "what kind of event source?"},
        {"source add w s --class http --parameter x", "--parameter is x, not NAME=VALUE"},
        {"dead-letter drop w", "which ones?"},
        {"dead-letter drop w 1 --all", "which ones?"},
        {"user add operator", "operator is no name for a user"},
        {"user add a:b", "a:b is no name for a user"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = cli_bed_run(&bed, "triggerflow %s", cases[i][0]);
        if (status != 2)
            fail_msg("%s: %d %s", cases[i][0], status, cli_bed_err(&bed));
        assert_has(cli_bed_err(&bed), cases[i][1]);
        assert_string_equal(cli_bed_out(&bed), "");
    }
}

static void test_unreachable(void **state)
{
    (void)state;
    assert_int_equal(cli_bed_run(&bed, "triggerflow status"), 3);
    assert_has(cli_bed_err(&bed), "is it running? Start it with triggerflow-supervisor start");
    assert_int_equal(cli_bed_run(&bed, "triggerflow status --url http://127.0.0.1:1"), 3);
    assert_has(cli_bed_err(&bed), "cannot reach the trigger API at http://127.0.0.1:1");
    assert_int_equal(cli_bed_run(&bed, "triggerflow event publish w --type t"), 3);
    assert_has(cli_bed_err(&bed), "is it running?");
    cli_bed_write(&bed, "w.yaml", "workspace: w\n");
    assert_int_equal(cli_bed_run(&bed, "triggerflow apply -f w.yaml"), 3);
}

static void test_validate(void **state)
{
    (void)state;
    cli_bed_write(&bed, "good.yaml",
                  "workspace: w\nevent_sources: {http: {class: http}}\n"
                  "triggers: {t: {activation_events: [go], condition: TRUE, action: TERMINATE}}\n");
    assert_int_equal(cli_bed_run(&bed, "triggerflow validate -f good.yaml"), 0);
    assert_has(cli_bed_out(&bed), "0 errors, 0 warnings, 1 note\n");
    assert_int_equal(cli_bed_run(&bed, "sed s/TRUE/TURE/ good.yaml | triggerflow validate -f -"), 1);
    assert_has(cli_bed_out(&bed), "error: trigger t: unknown condition TURE: there are TRUE, JOIN,");
    assert_has(cli_bed_out(&bed), "1 error, 0 warnings,");
    struct json_object *value = cli_bed_json(&bed, "triggerflow validate -f good.yaml --json");
    assert_int_equal(number(value, "errors"), 0);
    assert_int_equal(number(value, "notes"), 1);
    json_object_put(value);
    assert_int_equal(cli_bed_run(&bed, "triggerflow validate -f absent.yaml"), 1);
    assert_has(cli_bed_err(&bed), "absent.yaml cannot be read: No such file");
    assert_int_equal(cli_bed_run(&bed, "printf 'workspace: \"\\033[2J' | triggerflow validate -f -"), 1);
    assert_null(strchr(cli_bed_err(&bed), '\033'));
}

static void test_completion(void **state)
{
    (void)state;
    assert_int_equal(cli_bed_run(&bed, "triggerflow completion bash > c.bash && bash -n c.bash"), 0);
    assert_int_equal(cli_bed_run(&bed,
                                 "bash -c '. ./c.bash; COMP_WORDS=(triggerflow event pub); COMP_CWORD=2; "
                                 "_triggerflow; echo ${COMPREPLY[*]}'"),
                     0);
    assert_string_equal(cli_bed_out(&bed), "publish\n");
    assert_int_equal(cli_bed_run(&bed,
                                 "bash -c '. ./c.bash; COMP_WORDS=(triggerflow apply --pr); COMP_CWORD=2; "
                                 "_triggerflow; echo ${COMPREPLY[*]}'"),
                     0);
    assert_string_equal(cli_bed_out(&bed), "--prune\n");
    assert_int_equal(cli_bed_run(&bed, "triggerflow completion zsh"), 0);
    assert_has(cli_bed_out(&bed), "#compdef triggerflow\n");
    assert_int_equal(cli_bed_run(&bed, "triggerflow completion fish"), 0);
    assert_has(cli_bed_out(&bed), "complete -c triggerflow");
}

/* ---- Who asks ---- */

static void assert_asks(const char *who, const char *command)
{
    struct json_object *value = cli_bed_json(&bed, "%s triggerflow workspace list --json", command);
    struct json_object *list = NULL, *name = NULL;
    assert_true(json_object_object_get_ex(value, "workspaces", &list));
    assert_true(json_object_object_get_ex(json_object_array_get_idx(list, 0), "name", &name));
    assert_string_equal(json_object_get_string(name), who);
    json_object_put(value);
}

static void test_credentials(void **state)
{
    char text[512];
    (void)state;
    need_server();
    cli_bed_write(&bed, "secret", "correct horse\n");
    snprintf(text, sizeof text, "TRIGGERFLOW_URL=127.0.0.1:%d", port);
    assert_asks("nobody", text);
    snprintf(text, sizeof text,
             "TRIGGERFLOW_URL=127.0.0.1:%d TRIGGERFLOW_USER=bob TRIGGERFLOW_PASSWORD=123456", port);
    assert_asks("bob", text);
    /* Flags come first; the password of another user is not theirs. */
    assert_int_equal(
        cli_bed_run(&bed, "%s triggerflow workspace list --user alice --password-file secret", text), 0);
    assert_has(cli_bed_out(&bed), "alice");
    assert_int_equal(cli_bed_run(&bed, "%s setsid triggerflow workspace list --user alice", text), 1);
    assert_has(cli_bed_err(&bed), "user alice has no password: give --password-file");
    assert_int_equal(
        cli_bed_run(
            &bed,
            "TRIGGERFLOW_PASSWORD=wrong triggerflow workspace list --url http://127.0.0.1:%d --user bob",
            port),
        1);
    assert_has(cli_bed_err(&bed), "refuses the password of user bob");
    assert_null(strstr(cli_bed_err(&bed), "wrong"));
}

static void test_files(void **state)
{
    char text[512];
    (void)state;
    need_server();
    /* The original client's file; a bare number is a password, too. */
    snprintf(text, sizeof text,
             "triggerflow:\n  endpoint: 127.0.0.1:%d\n  user: bob\n  password: 123456\ndags: {}\n", port);
    cli_bed_write(&bed, "triggerflow_config.yaml", text);
    assert_asks("bob", "");
    /* Ours comes before it. */
    assert_int_equal(
        cli_bed_run(&bed,
                    "mkdir -p .config/triggerflow other/triggerflow && umask 077 && "
                    "printf 'url: http://127.0.0.1:%d\\nuser: alice\\npassword: correct horse\\n' "
                    "> .config/triggerflow/config.yaml && "
                    "printf 'url: http://127.0.0.1:%d\\nuser: bob\\npassword_file: %s/secret2\\n' "
                    "> other/triggerflow/config.yaml && printf 123456 > secret2",
                    port, port, bed.dir),
        0);
    assert_asks("alice", "");
    assert_string_equal(cli_bed_err(&bed), "");
    snprintf(text, sizeof text, "XDG_CONFIG_HOME=%s/other", bed.dir);
    assert_asks("bob", text);
    /* A file's credentials are for its own URL only. */
    snprintf(text, sizeof text, "TRIGGERFLOW_URL=http://127.0.0.1:%d", port);
    assert_asks("nobody", text);
    assert_int_equal(cli_bed_run(&bed, "chmod 644 .config/triggerflow/config.yaml"), 0);
    assert_asks("alice", "");
    assert_has(cli_bed_err(&bed), "others may read the password");
    cli_bed_write(&bed, ".config/triggerflow/config.yaml", "url: [\n");
    assert_int_equal(cli_bed_run(&bed, "triggerflow workspace list"), 2);
    assert_has(cli_bed_err(&bed), "config.yaml:2: not YAML");
    assert_int_equal(cli_bed_run(&bed, "rm -r .config other triggerflow_config.yaml"), 0);
}

/* ---- Publishing ---- */

static long long counted(const char *name)
{
    struct json_object *value =
        cli_bed_json(&bed, "triggerflow status counted --json --url http://127.0.0.1:%d", port);
    long long n = number(value, name);
    json_object_put(value);
    return n;
}

static void restart(void)
{
    need_server();
    stop_server();
    start_server();
}

static void test_pipe(void **state)
{
    (void)state;
    restart();
    struct json_object *value = cli_bed_json(
        &bed,
        "seq 10000 | sed 's/.*/{\"data\":&}/' | triggerflow event publish w -f - --type t --subject s "
        "--batch 700 --json --url http://127.0.0.1:%d",
        port);
    assert_int_equal(number(value, "published"), 10000);
    assert_int_equal(number(value, "unknown"), 0);
    assert_true(number(value, "retries") > 0);
    assert_true(number(value, "duplicates") > 0); /* an answer that says so may be lost, too */
    assert_true(number(value, "duplicates") <= counted("repeated"));
    assert_int_equal(counted("ids"), 10000);
    json_object_put(value);
}

static void test_order(void **state)
{
    (void)state;
    restart();
    assert_int_equal(cli_bed_run(&bed,
                                 "seq 300 | sed 's/.*/{\"type\":\"t\",\"data\":&}/' > e.ndjson && "
                                 "triggerflow event publish w -f e.ndjson --batch 50 --in-flight 1 --url "
                                 "http://127.0.0.1:%d",
                                 port),
                     0);
    assert_int_equal(counted("ids"), 300);
    assert_int_equal(counted("ordered"), 1);
}

/* A run that is repeated with its prefix counts nothing twice. */
static void test_again(void **state)
{
    (void)state;
    restart();
    for (int i = 0; i < 2; i++)
        assert_int_equal(cli_bed_run(&bed,
                                     "triggerflow event publish w -f e.ndjson --id-prefix run-1 --url "
                                     "http://127.0.0.1:%d",
                                     port),
                         0);
    assert_has(cli_bed_out(&bed), "published 300 events, 300 of them known before");
    assert_int_equal(counted("ids"), 300);
    assert_int_equal(
        cli_bed_run(&bed, "triggerflow event publish w --type t --count 70 --url http://127.0.0.1:%d", port),
        0);
    assert_has(cli_bed_out(&bed), "published 70 events\n");
    assert_int_equal(counted("ids"), 370);
}

static void test_invalid_lines(void **state)
{
    (void)state;
    restart();
    cli_bed_write(&bed, "bad.ndjson",
                  "{\"type\":\"t\"}\n\n  \n{\"type\":\"t\",\"id\":\"mine\"}\nnonsense\n{\"type\":\"t\"}");
    assert_int_equal(
        cli_bed_run(&bed, "triggerflow event publish w -f bad.ndjson --url http://127.0.0.1:%d", port), 1);
    assert_has(cli_bed_err(&bed), "line 5 is no event: ");
    assert_has(cli_bed_out(&bed), "published 2 events");
    assert_has(cli_bed_err(&bed), "--id-prefix ");
    assert_int_equal(
        cli_bed_run(
            &bed, "triggerflow event publish w -f bad.ndjson --skip-invalid --url http://127.0.0.1:%d", port),
        0);
    assert_has(cli_bed_out(&bed), "published 3 events, 1 of them known before, left out 1 invalid line\n");
    assert_int_equal(
        cli_bed_run(&bed, "echo '{}' | triggerflow event publish w --url http://127.0.0.1:%d", port), 1);
    assert_has(cli_bed_err(&bed), "line 1 is no event: ");
    assert_has(cli_bed_err(&bed), "type");
}

static void test_refused_events(void **state)
{
    (void)state;
    restart();
    cli_bed_write(&bed, "picky.ndjson",
                  "{\"type\":\"t\"}\n\n{\"type\":\"t\",\"subject\":\"bad\"}\n{\"type\":\"t\"}\n");
    assert_int_equal(
        cli_bed_run(&bed, "triggerflow event publish picky -f picky.ndjson --url http://127.0.0.1:%d", port),
        1);
    assert_has(cli_bed_err(&bed), "line 3 is refused: subject is bad");
    assert_int_equal(counted("ids"), 0);
    struct json_object *value = NULL;
    assert_int_equal(cli_bed_run(&bed,
                                 "triggerflow event publish sick -f picky.ndjson --retry-for 0 --json --url "
                                 "http://127.0.0.1:%d",
                                 port),
                     3);
    assert_has(cli_bed_err(&bed), "gave up after");
    value = json_tokener_parse(cli_bed_out(&bed));
    assert_int_equal(number(value, "published"), 0);
    assert_int_equal(number(value, "unknown"), 3);
    json_object_put(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help),          cmocka_unit_test(test_usage),
        cmocka_unit_test(test_unreachable),   cmocka_unit_test(test_validate),
        cmocka_unit_test(test_completion),    cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_files),         cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_order),         cmocka_unit_test(test_again),
        cmocka_unit_test(test_invalid_lines), cmocka_unit_test(test_refused_events),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
