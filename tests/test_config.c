/* Configuration: files, variables, JSON, and every message about what is wrong. */
#include "common/config.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/config_fields.h"
#include "common/error.h"
#include "common/log.h"

#define MS ((int64_t)CLOCK_MS)
#define S ((int64_t)CLOCK_S)

/* Fails the n-th allocation from now; the sanitizers have allocators of their own. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define FAIL_ALLOCATIONS 1
static long fail_in = -1;
void *__libc_malloc(size_t n);
void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n)
{
    if (fail_in >= 0 && fail_in-- == 0)
        return NULL;
    return __libc_malloc(n);
}
void *realloc(void *p, size_t n)
{
    if (fail_in >= 0 && fail_in-- == 0)
        return NULL;
    return __libc_realloc(p, n);
}
#else
#define FAIL_ALLOCATIONS 0
static long fail_in;
#endif

static const char *const variables[] = {"RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR",
                                        "TRIGGERFLOW_CONFIG_MAP_FILE"};

static int setup(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_n_fields; i++)
        unsetenv(config_fields[i].variable);
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++)
        unsetenv(variables[i]);
    return 0;
}

static struct config parse(const char *text)
{
    struct config config;
    struct error err = {0};
    if (config_parse_yaml("f.yaml", text, strlen(text), &config, &err) < 0)
        fail_msg("%s", err.message);
    return config;
}

static void assert_refused(const char *text, const char *message)
{
    static const struct config untouched = {.controller_port = 77};
    struct config config = untouched;
    struct error err = {0};
    assert_int_equal(config_parse_yaml("f.yaml", text, strlen(text), &config, &err), -1);
    assert_string_equal(err.message, message);
    assert_int_equal(err.code, ERROR_INVALID);
    assert_memory_equal(&config, &untouched, sizeof config);
}

static struct config load(const char *file)
{
    struct config config;
    struct error err = {0};
    if (config_load(file, &config, &err) < 0)
        fail_msg("%s", err.message);
    return config;
}

static void assert_load_refused(const char *file, const char *message)
{
    struct config config;
    struct error err = {0};
    assert_int_equal(config_load(file, &config, &err), -1);
    assert_string_equal(err.message, message);
}

static void assert_defaults(const struct config *c)
{
    char directory[64];
    snprintf(directory, sizeof directory, "/tmp/triggerflow-%u", (unsigned)geteuid());
    assert_string_equal(c->controller_endpoint, "");
    assert_string_equal(c->controller_token, "");
    assert_int_equal(c->controller_port, 5000);
    assert_string_equal(c->controller_address, "127.0.0.1");
    assert_string_equal(c->storage_backend, "sqlite");
    assert_string_equal(c->storage_host, "127.0.0.1");
    assert_int_equal(c->api_port, 8080);
    assert_string_equal(c->api_address, "127.0.0.1");
    assert_int_equal(c->storage_port, 6379);
    assert_string_equal(c->storage_username, "");
    assert_string_equal(c->storage_password, "");
    assert_int_equal(c->storage_db, 0);
    assert_false(c->storage_tls);
    assert_string_equal(c->storage_tls_ca, "");
    assert_string_equal(c->storage_tls_cert, "");
    assert_string_equal(c->storage_tls_key, "");
    assert_string_equal(c->run_directory, directory);
    assert_string_equal(c->bootstrap_workspace, "");
    assert_int_equal(c->stop_timeout_ns, 30 * S);
    assert_int_equal(c->watchdog_ns, 30 * S);
    assert_int_equal(c->shards, 0);
    assert_int_equal(c->checkpoint_interval_ns, 10 * MS);
    assert_int_equal(c->sink_max_size, 200000);
    assert_int_equal(c->max_event_bytes, 1 << 20);
    assert_int_equal(c->trigger_refresh_ns, 5 * S);
    assert_int_equal(c->max_pending_actions, 10000);
    assert_int_equal(c->dead_letter_max_bytes, 256 << 20);
    assert_int_equal(c->action_start, CONFIG_ACTION_COMMITTED);
    assert_false(c->exit_when_finished);
    assert_int_equal(c->finish_linger_ns, 2 * S);
    assert_string_equal(c->adopt, "");
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    assert_int_equal(c->log_format, CONFIG_LOG_LOGFMT);
}

static void test_defaults(void **state)
{
    static const char *const empty[] = {
        "",
        "# nothing\n",
        "---\n",
        "~",
        "{}",
        "worker:\nlog: {}\ntrigger_storage:\n  parameters:\n    # host: x\n",
        "trigger_storage: {parameters: {password: , username: ~, tls_ca: null}}"};
    (void)state;
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        struct config c = parse(empty[i]);
        assert_defaults(&c);
        config_done(&c);
    }
    struct config c = load(NULL);
    assert_defaults(&c);
    config_done(&c);
    config_done(&c); /* twice is fine */
}

/* Files as the original programs have them. */
static void test_original_files(void **state)
{
    (void)state;
    struct config c = parse("triggerflow_controller:\n"
                            "  endpoint: controller:5000\n"
                            "  token: 123456\n"
                            "\n"
                            "trigger_storage:\n"
                            "  backend: redis\n"
                            "  parameters:\n"
                            "    #host: 10.0.0.1\n"
                            "    host: redis\n"
                            "    port: \"6380\"\n"
                            "    password: 123456\n"
                            "    db: 3\n");
    assert_string_equal(c.controller_endpoint, "controller:5000");
    assert_string_equal(c.controller_token, "123456");
    assert_string_equal(c.storage_host, "redis");
    assert_int_equal(c.storage_port, 6380);
    assert_string_equal(c.storage_password, "123456");
    assert_int_equal(c.storage_db, 3);
    config_done(&c);
    c = parse("{\"trigger_storage\": {\"parameters\": {\"password\": \"0x\\u00e9 \\\\n\", \"port\": 6379}}}");
    assert_string_equal(c.storage_password, "0x\xc3\xa9 \\n");
    config_done(&c);
}

static void test_text(void **state)
{
    static const struct {
        const char *yaml;
        const char *password;
    } cases[] = {{"None", ""},
                 {"'None'", ""},
                 {"none", "none"},
                 {"null", ""},
                 {"'null'", "null"},
                 {"''", ""},
                 {"007", "007"},
                 {"1e3", "1e3"},
                 {"true", "true"},
                 {"'~'", "~"},
                 {"'it''s'", "it's"},
                 {"a b", "a b"},
                 {"\"\\\"q\\\"\"", "\"q\""},
                 {"p#w", "p#w"},
                 {"1.50", "1.50"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        snprintf(text, sizeof text, "trigger_storage:\n  parameters:\n    password: %s\n", cases[i].yaml);
        struct config c = parse(text);
        assert_string_equal(c.storage_password, cases[i].password);
        config_done(&c);
    }
    struct config c = parse("triggerflow_controller: {token: None}"); /* none is for the password only */
    assert_string_equal(c.controller_token, "None");
    config_done(&c);
}

static void test_everything(void **state)
{
    (void)state;
    struct config c =
        parse("triggerflow_controller: {endpoint: e, token: t, port: 0, address: 0.0.0.0}\n"
              "trigger_storage:\n"
              "  backend: sqlite\n"
              "  parameters: {host: h, port: 1, username: u, password: p, db: 2, tls: Yes, tls_ca: /a,\n"
              "    tls_cert: /b, tls_key: /c}\n"
              "supervisor: {run_directory: /r, bootstrap_workspace: w, stop_timeout: 1.5s, watchdog: 2min}\n"
              "worker: {shards: 8, checkpoint_interval: 250us, sink_max_size: 5, max_event_bytes: 64KiB,\n"
              "  trigger_refresh: 0.5, max_pending_actions: 6, dead_letter_max_bytes: 1.5GiB,\n"
              "  action_start: immediate, exit_when_finished: true, finish_linger: 1h, adopt: 5-0}\n"
              "log: {level: debug, format: json}\n");
    assert_string_equal(c.controller_endpoint, "e");
    assert_string_equal(c.controller_token, "t");
    assert_int_equal(c.controller_port, 0);
    assert_string_equal(c.controller_address, "0.0.0.0");
    assert_string_equal(c.storage_backend, "sqlite");
    assert_string_equal(c.storage_host, "h");
    assert_int_equal(c.storage_port, 1);
    assert_string_equal(c.storage_username, "u");
    assert_string_equal(c.storage_password, "p");
    assert_int_equal(c.storage_db, 2);
    assert_true(c.storage_tls);
    assert_string_equal(c.storage_tls_ca, "/a");
    assert_string_equal(c.storage_tls_cert, "/b");
    assert_string_equal(c.storage_tls_key, "/c");
    assert_string_equal(c.run_directory, "/r");
    assert_string_equal(c.bootstrap_workspace, "w");
    assert_int_equal(c.stop_timeout_ns, 1500 * MS);
    assert_int_equal(c.watchdog_ns, 120 * S);
    assert_int_equal(c.shards, 8);
    assert_int_equal(c.checkpoint_interval_ns, 250000);
    assert_int_equal(c.sink_max_size, 5);
    assert_int_equal(c.max_event_bytes, 65536);
    assert_int_equal(c.trigger_refresh_ns, 500 * MS);
    assert_int_equal(c.max_pending_actions, 6);
    assert_int_equal(c.dead_letter_max_bytes, 3ll << 29);
    assert_int_equal(c.action_start, CONFIG_ACTION_IMMEDIATE);
    assert_true(c.exit_when_finished);
    assert_int_equal(c.finish_linger_ns, 3600 * S);
    assert_string_equal(c.adopt, "5-0");
    assert_int_equal(c.log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(c.log_format, CONFIG_LOG_JSON);
    config_done(&c);
}

static void test_durations_and_sizes(void **state)
{
    static const struct {
        const char *text;
        int64_t value;
    } durations[] = {{"10ms", 10 * MS}, {"'10 ms'", 10 * MS}, {"0", 0},         {"0s", 0},
                     {"1", S},          {"0.000001", 1000},   {"1min", 60 * S}, {"7us", 7000},
                     {"0.001us", 1},    {"0.5min", 30 * S}},
      sizes[] = {{"1024", 1024}, {"2048B", 2048}, {"1KiB", 1024}, {"1 MiB", 1 << 20}, {"0.5MiB", 1 << 19}};
    char text[128];
    (void)state;
    for (size_t i = 0; i < sizeof durations / sizeof *durations; i++) {
        snprintf(text, sizeof text, "worker: {checkpoint_interval: %s}", durations[i].text);
        struct config c = parse(text);
        assert_int_equal(c.checkpoint_interval_ns, durations[i].value);
        config_done(&c);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(text, sizeof text, "worker: {max_event_bytes: %s}", sizes[i].text);
        struct config c = parse(text);
        assert_int_equal(c.max_event_bytes, sizes[i].value);
        config_done(&c);
    }
}

static void test_bad_values(void **state)
{
    static const struct {
        const char *section;
        const char *key;
        const char *value;
        const char *what;
    } cases[] = {
        {"worker", "shards", "9", "'9' is out of range (0 to 8)"},
        {"worker", "shards", "-1", "'-1' is out of range (0 to 8)"},
        {"worker", "shards", "99999999999999999999999", "'99999999999999999999999' is out of range (0 to 8)"},
        {"worker", "shards", "-99999999999999999999999",
         "'-99999999999999999999999' is out of range (0 to 8)"},
        {"worker", "shards", "two", "'two' is not a whole number"},
        {"worker", "shards", "2.0", "'2.0' is not a whole number"},
        {"worker", "shards", "0x2", "'0x2' is not a whole number"},
        {"worker", "shards", "02", "'02' is not a whole number"},
        {"worker", "shards", "+2", "'+2' is not a whole number"},
        {"worker", "shards", "'-'", "'-' is not a whole number"},
        {"worker", "shards", "2 2", "'2 2' is not a whole number"},
        {"worker", "shards", "", "'' is not a whole number"},
        {"worker", "shards", "[2]", "one value is needed, not a list or keys"},
        {"worker", "shards", "{two: 2}", "one value is needed, not a list or keys"},
        {"worker", "checkpoint_interval", "2min", "'2min' is out of range (0s to 1min)"},
        {"worker", "checkpoint_interval", "9223372036854775807h",
         "'9223372036854775807h' is out of range (0s to 1min)"},
        {"worker", "checkpoint_interval", "10m", "'10m' is not a duration (250us, 10ms, 5s, 2min, 1h)"},
        {"worker", "checkpoint_interval", "1.", "'1.' is not a duration (250us, 10ms, 5s, 2min, 1h)"},
        {"worker", "checkpoint_interval", ".5s", "'.5s' is not a duration (250us, 10ms, 5s, 2min, 1h)"},
        {"worker", "checkpoint_interval", "0.0001us",
         "'0.0001us' is not a duration (250us, 10ms, 5s, 2min, 1h)"},
        {"worker", "checkpoint_interval", "0.0000000001s",
         "'0.0000000001s' is not a duration (250us, 10ms, 5s, 2min, 1h)"},
        {"worker", "checkpoint_interval", "soon", "'soon' is not a duration (250us, 10ms, 5s, 2min, 1h)"},
        {"worker", "trigger_refresh", "9ms", "'9ms' is out of range (10ms to 24h)"},
        {"supervisor", "watchdog", "0", "'0' is out of range (100ms to 1h)"},
        {"worker", "max_event_bytes", "1MB", "'1MB' is not a size (4096, 64KiB, 1MiB, 1GiB)"},
        {"worker", "max_event_bytes", "0.0001KiB", "'0.0001KiB' is not a size (4096, 64KiB, 1MiB, 1GiB)"},
        {"worker", "max_event_bytes", "1GiB", "'1GiB' is out of range (1KiB to 64MiB)"},
        {"worker", "max_event_bytes", "1023", "'1023' is out of range (1KiB to 64MiB)"},
        {"worker", "exit_when_finished", "1", "'1' is not true or false"},
        {"worker", "exit_when_finished", "", "'' is not true or false"},
        {"worker", "action_start", "later", "'later' is not one of committed, immediate"},
        {"log", "level", "INFO", "'INFO' is not one of debug, info, warn, error"},
        {"log", "format", "xml", "'xml' is not one of logfmt, json"},
        {"triggerflow_controller", "port", "65536", "'65536' is out of range (0 to 65535)"},
        {"triggerflow_controller", "address", "", "a value is needed"},
        {"triggerflow_controller", "address", "''", "a value is needed"},
        {"supervisor", "run_directory", "\"a\\nb\"", "the value contains a control character"},
        {"supervisor", "run_directory", "\"a\\0b\"", "the value contains a control character"},
        {"supervisor", "run_directory", "\"a\\x7fb\"", "the value contains a control character"},
        {"worker", "nothing", "1", "unknown key"},
        {"worker", "Shards", "1", "unknown key"},
        {"worker", "shard", "1", "unknown key"},
        {"worker", "shardss", "1", "unknown key"},
        {"log", "level", "0123456789012345678901234567890123456789012345678901234567890123",
         "'012345678901234567890123456789012345678901234567...' is not one of debug, info, warn, error"},
        {"log", "level", "01234567890123456789012345678901234567890123456\xc3\xa9",
         "'01234567890123456789012345678901234567890123456...' is not one of debug, info, warn, error"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        char message[256];
        snprintf(text, sizeof text, "# a comment\n%s:\n    %s: %s\n", cases[i].section, cases[i].key,
                 cases[i].value);
        snprintf(message, sizeof message, "f.yaml:3: %s.%s: %s", cases[i].section, cases[i].key,
                 cases[i].what);
        assert_refused(text, message);
    }
}

static void test_bad_shapes(void **state)
{
    static const struct {
        const char *text;
        const char *message;
    } cases[] = {
        {"nothing: 1\n", "f.yaml:1: nothing: unknown key"},
        {"triggerflow: {endpoint: x}\n", "f.yaml:1: triggerflow: unknown key"},
        {"worker: {}\nlog: {}\nworker: {}\n", "f.yaml:3: worker: the key is given twice"},
        {"worker:\n  shards: 1\n  shards: 2\n", "f.yaml:3: worker.shards: the key is given twice"},
        {"worker: 5\n", "f.yaml:1: worker: keys with values are needed here"},
        {"worker: [1]\n", "f.yaml:1: worker: keys with values are needed here"},
        {"worker: ''\n", "f.yaml:1: worker: keys with values are needed here"},
        {"trigger_storage:\n  parameters: redis\n",
         "f.yaml:2: trigger_storage.parameters: keys with values are needed here"},
        {"worker.shards: 3\n", "f.yaml:1: worker...: unknown key"},
        {"- 1\n", "f.yaml:1: keys with values are needed here"},
        {"text\n", "f.yaml:1: keys with values are needed here"},
        {"? [a]\n: 1\n", "f.yaml:1: a key must be a word"},
        {"worker:\n  ? {a: b}\n  : 1\n", "f.yaml:2: worker: a key must be a word"},
        {"'': 1\n", "f.yaml:1: ...: unknown key"},
        {"\"wor\\0ker\": 1\n", "f.yaml:1: wor...: unknown key"},
        {"log: {}\n---\nlog: {}\n", "f.yaml:2: a second document is not allowed"},
        {"worker: &w {shards: 1}\n", "f.yaml:1: anchors and aliases are not allowed"},
        {"worker: {shards: &s 1}\n", "f.yaml:1: anchors and aliases are not allowed"},
        {"worker: {shards: &s [1]}\n", "f.yaml:1: anchors and aliases are not allowed"},
        {"\nworker: *w\n", "f.yaml:2: anchors and aliases are not allowed"},
        {"*w : 1\n", "f.yaml:1: anchors and aliases are not allowed"},
        {"worker: {<<: 1}\n", "f.yaml:1: worker....: unknown key"},
        {"worker: {shards: !!int 1}\n", "f.yaml:1: tags are not allowed"},
        {"worker: !x {shards: 1}\n", "f.yaml:1: tags are not allowed"},
        {"worker: !x [1]\n", "f.yaml:1: tags are not allowed"},
        {"worker:\n\tshards: 1\n", "f.yaml:2: not YAML: found character that cannot start any token"},
        {"worker: {shards: 1\n", "f.yaml:2: not YAML: did not find expected ',' or '}'"},
        {"log:\n  level: \"info\n", "f.yaml:3: not YAML: found unexpected end of stream"},
        {"# \xff\n", "f.yaml:1: not YAML: invalid leading UTF-8 octet"},
        {"\ntrigger_storage: {backend: sqlit}\n",
         "f.yaml:2: trigger_storage.backend: unknown storage back end \"sqlit\" (there is: redis, sqlite)"},
        {"log:\n  level: a\x01\n", "f.yaml:1: not YAML: control characters are not allowed"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(cases[i].text, cases[i].message);
}

/* Nothing of a password or token reaches a message. */
static void test_secrets(void **state)
{
    static const char *const texts[] = {
        "trigger_storage: {parameters: {password: \"hunter2\\0\"}}",
        "trigger_storage: {parameters: {password: \"hunter2\\n\"}}",
        "trigger_storage: {parameters: {password: {hunter2: x}}}",
        "trigger_storage: {parameters: {password: [hunter2]}}",
        "trigger_storage: {parameters: {password: &hunter2 x}}",
        "trigger_storage: {parameters: {password:hunter2}}",
        "trigger_storage: {parameters: {password: x, password: hunter2}}",
        "trigger_storage: {parameters: {password: !hunter2 x}}",
        "trigger_storage:\n  parameters: hunter2\n",
        "trigger_storage:\n  parameters:\n    password: a: hunter2\n",
        "trigger_storage:\n  parameters:\n    password: *hunter2\n",
        "trigger_storage:\n  parameters:\n    password: @hunter2\n",
        "trigger_storage:\n  parameters:\n    password:hunter2\n",
        "triggerflow_controller:\n  token: [\"hunter2\n",
    };
    (void)state;
    struct error err;
    struct config config;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(config_parse_yaml("f.yaml", texts[i], strlen(texts[i]), &config, &err), -1);
        assert_null(strstr(err.message, "hunter2"));
        assert_memory_equal(err.message, "f.yaml:", 7);
    }
    BUFFER_AUTO text = BUFFER_INIT;
    buffer_append_text(&text, "triggerflow_controller:\n  token: ");
    for (int i = 0; i < 600; i++)
        buffer_append_text(&text, "hunter2");
    assert_refused(buffer_text(&text),
                   "f.yaml:2: triggerflow_controller.token: the value is longer than 4096 bytes");
}

static void test_limits(void **state)
{
    (void)state;
    struct error err;
    struct config config;
    BUFFER_AUTO text = BUFFER_INIT;
    while (text.len < 1 << 20)
        buffer_append_char(&text, '#');
    assert_int_equal(config_parse_yaml("f.yaml", text.data, text.len, &config, &err), 0);
    config_done(&config);
    assert_int_equal(config_parse_yaml("f.yaml", buffer_text(&text), text.len + 1, &config, &err), -1);
    assert_int_equal(err.code, ERROR_LIMIT);
    assert_string_equal(err.message, "f.yaml: larger than 1 MiB");

    static const char *const nested[] = {"[", "{", "- ", "? ", "worker: {shards: [", "a: {b: {"};
    for (size_t i = 0; i < sizeof nested / sizeof *nested; i++) {
        text.len = 0;
        while (text.len < 100000)
            buffer_append_text(&text, nested[i]);
        assert_int_equal(config_parse_yaml("f.yaml", text.data, text.len, &config, &err), -1);
    }
    assert_int_equal(config_parse_yaml("f.yaml", NULL, 0, &config, &err), 0);
    config_done(&config);

    char name[300]; /* the end of a long name is the telling part */
    memset(name, 'n', sizeof name);
    strcpy(name + sizeof name - 8, "map.yml");
    assert_int_equal(config_parse_yaml(name, "worker: {shards: 9}", 19, &config, &err), -1);
    assert_non_null(strstr(err.message, "nmap.yml:1: worker.shards: '9' is out of range (0 to 8)"));
}

/* A file with this text, as a name to open; it lives until the next one. */
static const char *file_of(const char *text)
{
    static int fd = -1;
    static char name[64];
    if (fd >= 0)
        close(fd);
    fd = memfd_create("config", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    return name;
}

static void test_files(void **state)
{
    (void)state;
    char message[128];
    struct config c = load(file_of("worker: {shards: 3}"));
    assert_int_equal(c.shards, 3);
    config_done(&c);
    setenv("TRIGGERFLOW_CONFIG_MAP_FILE", file_of("worker: {shards: 4}"), 1);
    c = load(NULL);
    assert_int_equal(c.shards, 4);
    config_done(&c);
    setenv("TRIGGERFLOW_CONFIG_MAP_FILE", "/nonexistent", 1);
    assert_load_refused(NULL, "/nonexistent: No such file or directory");
    c = load(file_of("")); /* a name given comes first */
    assert_defaults(&c);
    config_done(&c);
    setenv("TRIGGERFLOW_CONFIG_MAP_FILE", "", 1);
    c = load(NULL);
    assert_defaults(&c);
    config_done(&c);
    assert_load_refused("/", "/: Is a directory");
    const char *name = file_of("worker: {shards: 9}");
    snprintf(message, sizeof message, "%s:1: worker.shards: '9' is out of range (0 to 8)", name);
    assert_load_refused(name, message);
    /* Endless: given up at the limit. */
    assert_load_refused("/dev/zero", "/dev/zero: larger than 1 MiB");
}

static void test_environment(void **state)
{
    (void)state;
    setenv("TRIGGERFLOW_SHARDS", "5", 1);
    setenv("TRIGGERFLOW_CHECKPOINT_INTERVAL", "20ms", 1);
    setenv("TRIGGERFLOW_LOG_LEVEL", "warn", 1);
    setenv("REDIS_HOST", "redis.example", 1);
    setenv("REDIS_PASSWORD", "None", 1);
    setenv("REDIS_DB", "", 1); /* as if it were not set */
    struct config c =
        load(file_of("worker: {shards: 3}\ntrigger_storage: {parameters: {password: x, db: 7}}\n"));
    assert_int_equal(c.shards, 5);
    assert_int_equal(c.checkpoint_interval_ns, 20 * MS);
    assert_int_equal(c.log_level, LOG_LEVEL_WARN);
    assert_string_equal(c.storage_host, "redis.example");
    assert_string_equal(c.storage_password, "");
    assert_int_equal(c.storage_db, 7);
    config_done(&c);

    /* The file is right before variables override it. */
    const char *name = file_of("worker: {shards: 9}\n");
    char message[128];
    snprintf(message, sizeof message, "%s:1: worker.shards: '9' is out of range (0 to 8)", name);
    assert_load_refused(name, message);

    setenv("TRIGGERFLOW_SHARDS", "many", 1);
    assert_load_refused(NULL, "TRIGGERFLOW_SHARDS: 'many' is not a whole number");
    unsetenv("TRIGGERFLOW_SHARDS");
    setenv("REDIS_PASSWORD", "hunter2\xff", 1);
    assert_load_refused(NULL, "REDIS_PASSWORD: the value is not valid UTF-8");
    setenv("REDIS_PASSWORD", "hunter2\n", 1);
    assert_load_refused(NULL, "REDIS_PASSWORD: the value contains a control character");
}

/* Every field has a variable of its own that works. */
static void test_every_variable(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_n_fields; i++) {
        const struct config_field *field = &config_fields[i];
        char number[32];
        const char *value = strstr(field->path, "exec_allow")  ? "/bin:/opt/tools"
                            : strstr(field->path, "exec_uids") ? "64000-64010"
                            : field->check           ? "redis" /* of the back ends, not the default */
                            : field->kind == TEXT    ? "text"
                            : field->kind == BOOLEAN ? (strcmp(field->standard, "true") ? "yes" : "no")
                            : field->kind == CHOICE  ? field->choices[1]
                                                     : config_field_number(field, field->max, number);
        BUFFER_AUTO before = BUFFER_INIT;
        BUFFER_AUTO after = BUFFER_INIT;
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(field->variable, config_fields[j].variable);
        struct config c = load(NULL);
        config_write_json(&c, &before);
        config_done(&c);
        setenv(field->variable, value, 1);
        c = load(NULL);
        config_write_json(&c, &after);
        config_done(&c);
        if (strcmp(field->path, "log.level") != 0) /* whose second choice is the default */
            assert_string_not_equal(buffer_text(&before), buffer_text(&after));
        unsetenv(field->variable);
    }
}

static void test_kubernetes(void **state)
{
    (void)state;
    setenv("REDIS_PORT", "tcp://10.0.0.1:6390", 1);
    setenv("TRIGGERFLOW_CONTROLLER_PORT", "tcp://10.0.0.2:80", 1);
    struct config c = load(NULL);
    assert_int_equal(c.storage_port, 6390);
    assert_int_equal(c.controller_port, 5000);
    config_done(&c);
    setenv("TRIGGERFLOW_CONTROLLER_PORT", "80", 1);
    c = load(NULL);
    assert_int_equal(c.controller_port, 80);
    config_done(&c);
    setenv("REDIS_PORT", "tcp://10.0.0.1:x", 1);
    assert_load_refused(NULL, "REDIS_PORT: 'x' is not a whole number");
    setenv("REDIS_PORT", "udp://10.0.0.1:6379", 1);
    assert_load_refused(NULL, "REDIS_PORT: 'udp://10.0.0.1:6379' is not a whole number");
    unsetenv("REDIS_PORT");
    setenv("TRIGGERFLOW_SHARDS", "tcp://10.0.0.1:1", 1);
    assert_load_refused(NULL, "TRIGGERFLOW_SHARDS: 'tcp://10.0.0.1:1' is not a whole number");
}

/* Who names a Redis host wants Redis; a port alone says nothing. */
static void test_back_end(void **state)
{
    (void)state;
    struct config c = parse("trigger_storage: {parameters: {host: redis}}");
    assert_string_equal(c.storage_backend, "redis");
    config_done(&c);
    c = parse("trigger_storage: {backend: sqlite, parameters: {host: redis}}");
    assert_string_equal(c.storage_backend, "sqlite");
    config_done(&c);
    setenv("REDIS_HOST", "redis", 1);
    c = load(NULL);
    assert_string_equal(c.storage_backend, "redis");
    assert_string_equal(c.storage_host, "redis");
    config_done(&c);
    unsetenv("REDIS_HOST");
    setenv("REDIS_PORT", "6380", 1);
    c = load(NULL);
    assert_string_equal(c.storage_backend, "sqlite");
    config_done(&c);
    unsetenv("REDIS_PORT");
}

static void test_state_directory(void **state)
{
    (void)state;
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    setenv("HOME", "/home/me", 1);
    struct config c = load(NULL);
    assert_string_equal(c.state_directory, "/home/me/.local/state/triggerflow");
    config_done(&c);
    setenv("XDG_STATE_HOME", "/home/me/state", 1);
    c = load(NULL);
    assert_string_equal(c.state_directory, "/home/me/state/triggerflow");
    config_done(&c);
    setenv("STATE_DIRECTORY", "/var/lib/triggerflow:/var/lib/other", 1);
    c = load(NULL);
    assert_string_equal(c.state_directory, "/var/lib/triggerflow");
    config_done(&c);
    setenv("TRIGGERFLOW_STATE_DIRECTORY", "/elsewhere", 1);
    c = load(NULL);
    assert_string_equal(c.state_directory, "/elsewhere");
    config_done(&c);
    unsetenv("TRIGGERFLOW_STATE_DIRECTORY");
    unsetenv("STATE_DIRECTORY");
    unsetenv("XDG_STATE_HOME");
    if (home)
        setenv("HOME", home, 1);
    free(home);
}

static void test_run_directory(void **state)
{
    (void)state;
    setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
    struct config c = load(NULL);
    assert_string_equal(c.run_directory, "/run/user/7/triggerflow");
    config_done(&c);
    setenv("RUNTIME_DIRECTORY", "/run/triggerflow:/run/other", 1);
    c = load(NULL);
    assert_string_equal(c.run_directory, "/run/triggerflow");
    config_done(&c);
    setenv("TRIGGERFLOW_RUN_DIRECTORY", "/elsewhere", 1);
    c = load(NULL);
    assert_string_equal(c.run_directory, "/elsewhere");
    config_done(&c);
}

static void test_json_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "", "triggerflow_controller: {endpoint: 'a\"b\\c', token: \"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\", "
            "port: 0}\n"
            "trigger_storage: {backend: redis, parameters: {password: '\\u0041 / </script>', tls: true, db: "
            "2147483647}}\n"
            "supervisor: {stop_timeout: 0.000000001, watchdog: 1h}\n"
            "worker: {shards: 8, dead_letter_max_bytes: 1TiB, action_start: immediate, adopt: 1-1}\n"
            "log: {level: error, format: json}\n"};
    for (size_t i = 0; i < 2; i++) {
        BUFFER_AUTO first = BUFFER_INIT;
        BUFFER_AUTO second = BUFFER_INIT;
        struct error err;
        struct config back;
        struct config c = parse(texts[i]);
        config_write_json(&c, &first);
        setenv("RUNTIME_DIRECTORY", "/changed", 1); /* what was resolved stays as it was */
        setenv("TRIGGERFLOW_SHARDS", "2", 1);
        if (config_read_json(first.data, first.len, &back, &err) < 0)
            fail_msg("%s", err.message);
        setup(NULL);
        config_write_json(&back, &second);
        assert_string_equal(buffer_text(&first), buffer_text(&second));
        assert_string_equal(c.controller_token, back.controller_token);
        assert_string_equal(c.storage_password, back.storage_password);
        assert_string_equal(c.run_directory, back.run_directory);
        assert_int_equal(c.stop_timeout_ns, back.stop_timeout_ns);
        assert_int_equal(c.dead_letter_max_bytes, back.dead_letter_max_bytes);
        assert_int_equal(c.log_level, back.log_level);
        assert_int_equal(c.action_start, back.action_start);
        config_done(&c);
        config_done(&back);
    }
}

static void test_json_refused(void **state)
{
    static const struct {
        const char *json;
        const char *message;
    } cases[] = {
        {"[]", "configuration: an object is needed"},
        {"{\"worker.nothing\":1}", "configuration: unknown key 'worker.nothing'"},
        {"{\"worker\":{}}", "configuration: unknown key 'worker'"},
        {"{\"worker.shards\":9}", "configuration: worker.shards: '9' is out of range (0 to 8)"},
        {"{\"worker.shards\":\"2\"}", "configuration: worker.shards: a value of the wrong type (a string)"},
        {"{\"worker.shards\":1.5}", "configuration: worker.shards: a value of the wrong type (a number)"},
        {"{\"worker.adopt\":5}", "configuration: worker.adopt: a value of the wrong type (a number)"},
        {"{\"worker.adopt\":null}", "configuration: worker.adopt: a value of the wrong type (null)"},
        {"{\"worker.exit_when_finished\":1}",
         "configuration: worker.exit_when_finished: a value of the wrong type (a number)"},
        {"{\"log.level\":\"loud\"}",
         "configuration: log.level: 'loud' is not one of debug, info, warn, error"},
        {"{\"trigger_storage.parameters.password\":\"hunter2\\u0000\"}",
         "configuration: trigger_storage.parameters.password: the value contains a control character"},
    };
    (void)state;
    struct config config;
    struct error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(config_read_json(cases[i].json, strlen(cases[i].json), &config, &err), -1);
        assert_string_equal(err.message, cases[i].message);
    }
    assert_int_equal(config_read_json("{", 1, &config, &err), -1);
    assert_memory_equal(err.message, "configuration: ", 15);
    assert_int_equal(config_read_json("{\"worker.shards\":2}", 19, &config, &err), 0);
    assert_int_equal(config.shards, 2);
    assert_int_equal(config.controller_port, 5000);
    config_done(&config);
}

/* Each way of loading, with each of its allocations failing in turn: an error, and nothing leaks or crashes.
 */
static void test_no_memory(void **state)
{
    (void)state;
    if (!FAIL_ALLOCATIONS) {
        print_message("skipped: the sanitizer has the allocator\n");
        skip();
    }
    static const char text[] = "worker: {shards: 3, adopt: end}\nlog: {level: warn}\n";
    static const char json[] = "{\"worker.shards\":3,\"worker.adopt\":\"end\"}";
    char name[64];
    strcpy(name, file_of(text));
    for (int way = 0; way < 3; way++) {
        int r = -1;
        for (long n = 0; r < 0; n++) {
            struct config config;
            struct error err = {0};
            assert_true(n < 10000);
            fail_in = n;
            r = way == 0   ? config_load(name, &config, &err)
                : way == 1 ? config_parse_yaml("f.yaml", text, sizeof text - 1, &config, &err)
                           : config_read_json(json, sizeof json - 1, &config, &err);
            fail_in = -1;
            if (r == 0) {
                assert_int_equal(config.shards, 3);
                assert_string_equal(config.adopt, "end");
                config_done(&config);
            } else {
                assert_int_equal(err.code, ERROR_MEMORY);
                assert_non_null(strstr(err.message, "out of memory"));
            }
        }
    }
}

static void test_documents(void **state)
{
    (void)state;
    BUFFER_AUTO help = BUFFER_INIT;
    BUFFER_AUTO markdown = BUFFER_INIT;
    config_write_help(&help);
    config_write_markdown(&markdown);
    for (size_t i = 0; i < config_n_fields; i++) {
        const char *key = strrchr(config_fields[i].path, '.') + 1;
        char cell[64];
        snprintf(cell, sizeof cell, "| `%s` |", key);
        assert_non_null(strstr(buffer_text(&help), config_fields[i].path));
        assert_non_null(strstr(buffer_text(&help), config_fields[i].variable));
        assert_non_null(strstr(buffer_text(&markdown), cell));
        assert_non_null(strstr(buffer_text(&markdown), config_fields[i].help));
    }
    /* The stored page is the function's output: after a change of the table, write it anew with
     * TRIGGERFLOW_WRITE_DOCS=1 build/tests/test_config. */
    if (getenv("TRIGGERFLOW_WRITE_DOCS")) {
        FILE *out = fopen("docs/configuration.md", "w");
        assert_non_null(out);
        fputs(buffer_text(&markdown), out);
        assert_int_equal(fclose(out), 0);
    }
    int fd = open("docs/configuration.md", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail_msg("docs/configuration.md: not found (tests run in the root of the source tree)");
    char *stored = calloc(1, markdown.len + 2);
    assert_non_null(stored);
    assert_int_equal(read(fd, stored, markdown.len + 1), markdown.len);
    assert_string_equal(stored, buffer_text(&markdown));
    free(stored);
    close(fd);
}

/* What the table must keep to. */
static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_n_fields; i++) {
        const struct config_field *field = &config_fields[i];
        assert_non_null(strchr(field->path, '.'));
        assert_non_null(field->help);
        assert_true(field->kind == TEXT || field->kind == CHOICE || field->kind == BOOLEAN ||
                    field->min < field->max);
        assert_true((field->kind == CHOICE) == (field->choices != NULL));
    }
}

#define TEST(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_defaults),
        TEST(test_original_files),
        TEST(test_text),
        TEST(test_everything),
        TEST(test_durations_and_sizes),
        TEST(test_bad_values),
        TEST(test_bad_shapes),
        TEST(test_secrets),
        TEST(test_limits),
        TEST(test_files),
        TEST(test_environment),
        TEST(test_every_variable),
        TEST(test_kubernetes),
        TEST(test_run_directory),
        TEST(test_back_end),
        TEST(test_state_directory),
        TEST(test_json_round_trip),
        TEST(test_json_refused),
        TEST(test_no_memory),
        TEST(test_documents),
        TEST(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
