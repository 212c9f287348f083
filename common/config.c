#include "common/config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/buffer.h"
#include "common/clock.h"
#include "common/config_fields.h"
#include "common/error.h"
#include "common/json.h"
#include "common/storage/storage.h"

#define TEXT_MAX_BYTES 4096 /* of one text value */

#define DAY_NS ((int64_t)(24 * 3600 * CLOCK_S))
#define HOUR_NS ((int64_t)(3600 * CLOCK_S))
#define KIB ((int64_t)1 << 10)
#define MIB ((int64_t)1 << 20)
#define TIB ((int64_t)1 << 40)

static const char *const action_starts[] = {"committed", "immediate", NULL};
static const char *const docker_reaches[] = {"address", "port", NULL};
static const char *const log_levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const log_formats[] = {"logfmt", "json", NULL};

/* Absolute paths with colons between them. */
static int paths_check(const char *text, struct error *err)
{
    for (const char *at = text; *at; at += strspn(at, ":")) {
        size_t len = strcspn(at, ":");
        if (*at != '/')
            return error_set(err, ERROR_INVALID, "'%.*s' is not an absolute path",
                             (int)(len < CONFIG_SHOWN_MAX ? len : CONFIG_SHOWN_MAX), at);
        at += len;
    }
    return 0;
}

static int uids_check(const char *text, struct error *err)
{
    uint32_t first, last;
    return config_uids(text, &first, &last)
               ? 0
               : error_set(err, ERROR_INVALID, "'%.*s' is not FIRST-LAST, user ids from 1 to 4294967294",
                           CONFIG_SHOWN_MAX, text);
}

#define AT(member) .offset = offsetof(struct config, member)

const struct config_field config_fields[] = {
    {"triggerflow_controller.endpoint", TEXT, AT(controller_endpoint), "", 0, 0,
     "TRIGGERFLOW_CONTROLLER_ENDPOINT",
     "Where clients reach the controller API, as host:port. The supervisor itself does not use it."},
    {"triggerflow_controller.token", TEXT, AT(controller_token), "", 0, 0, "TRIGGERFLOW_CONTROLLER_TOKEN",
     "Password of the user `token` in the controller API; empty: no authentication.", .secret = true},
    {"triggerflow_controller.port", INTEGER, AT(controller_port), "5000", 0, 65535,
     "TRIGGERFLOW_CONTROLLER_PORT", "Port of the controller API; 0: any free port.",
     .service = SERVICE_IGNORED},
    {"triggerflow_controller.address", TEXT, AT(controller_address), "127.0.0.1", 1, 0,
     "TRIGGERFLOW_CONTROLLER_ADDRESS",
     "Address that the controller API listens on; 0.0.0.0: all. Set a token then."},

    {"trigger_api.port", INTEGER, AT(api_port), "8080", 0, 65535, "PORT",
     "Port of the trigger API; 0: any free port."},
    {"trigger_api.address", TEXT, AT(api_address), "127.0.0.1", 1, 0, "TRIGGERFLOW_API_ADDRESS",
     "Address that the trigger API listens on; 0.0.0.0: all. Without any user it answers on loopback only."},

    {"trigger_storage.backend", TEXT, AT(storage_backend), "", 0, 0, "TRIGGERFLOW_STORAGE_BACKEND",
     "Storage back end: `sqlite` (files, nothing to install or start) or `redis`.", .check = storage_known,
     .standard_doc = "`redis` when a host is given, else `sqlite`"},
    {"trigger_storage.state_directory", TEXT, AT(state_directory), "", 0, 0, "TRIGGERFLOW_STATE_DIRECTORY",
     "Folder of the SQLite storage.",
     .standard_doc =
         "`$STATE_DIRECTORY`, else `$XDG_STATE_HOME/triggerflow`, else `~/.local/state/triggerflow`"},
    {"trigger_storage.parameters.host", TEXT, AT(storage_host), "", 0, 0, "REDIS_HOST",
     "Host of the storage server.", .standard_doc = "`127.0.0.1`"},
    {"trigger_storage.parameters.port", INTEGER, AT(storage_port), "6379", 1, 65535, "REDIS_PORT",
     "Port of the storage server.", .service = SERVICE_PORT},
    {"trigger_storage.parameters.username", TEXT, AT(storage_username), "", 0, 0,
     "TRIGGERFLOW_STORAGE_USERNAME", "User at the storage server; empty: its default user."},
    {"trigger_storage.parameters.password", TEXT, AT(storage_password), "", 0, 0, "REDIS_PASSWORD",
     "Password at the storage server; empty or the text None: none.", .secret = true, .none = true},
    {"trigger_storage.parameters.db", INTEGER, AT(storage_db), "0", 0, INT32_MAX, "REDIS_DB",
     "Number of the Redis database."},
    {"trigger_storage.parameters.tls", BOOLEAN, AT(storage_tls), "false", 0, 0, "TRIGGERFLOW_STORAGE_TLS",
     "Connect to the storage server over TLS."},
    {"trigger_storage.parameters.tls_ca", TEXT, AT(storage_tls_ca), "", 0, 0, "TRIGGERFLOW_STORAGE_TLS_CA",
     "File with the certificates of the authorities to trust; empty: the system's."},
    {"trigger_storage.parameters.tls_cert", TEXT, AT(storage_tls_cert), "", 0, 0,
     "TRIGGERFLOW_STORAGE_TLS_CERT", "File with the client certificate; empty: none."},
    {"trigger_storage.parameters.tls_key", TEXT, AT(storage_tls_key), "", 0, 0, "TRIGGERFLOW_STORAGE_TLS_KEY",
     "File with the key of the client certificate."},

    {"supervisor.run_directory", TEXT, AT(run_directory), "", 0, 0, "TRIGGERFLOW_RUN_DIRECTORY",
     "Folder for the supervisor's lock and sockets.",
     .standard_doc =
         "`$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/triggerflow`, else `/tmp/triggerflow-UID`"},
    {"supervisor.bootstrap_workspace", TEXT, AT(bootstrap_workspace), "", 0, 0,
     "TRIGGERFLOW_BOOTSTRAP_WORKSPACE",
     "Workspace whose worker is started with the supervisor; empty: none."},
    {"supervisor.stop_timeout", DURATION, AT(stop_timeout_ns), "30s", 0, HOUR_NS, "TRIGGERFLOW_STOP_TIMEOUT",
     "How long a worker that is told to stop may drain before it is killed."},
    {"supervisor.watchdog", DURATION, AT(watchdog_ns), "30s", 100 * (int64_t)CLOCK_MS, HOUR_NS,
     "TRIGGERFLOW_WATCHDOG",
     "A thread of a worker that is silent for this long while it has work gets the worker "
     "killed and restarted."},

    {"worker.shards", INTEGER, AT(shards), "0", 0, ARENA_MAX_SHARDS, "TRIGGERFLOW_SHARDS",
     "Threads that evaluate triggers; 0: as many as there are processor cores, at most 8."},
    {"worker.checkpoint_interval", DURATION, AT(checkpoint_interval_ns), "10ms", 0, 60 * (int64_t)CLOCK_S,
     "TRIGGERFLOW_CHECKPOINT_INTERVAL", "Shortest time between two checkpoints."},
    {"worker.sink_max_size", INTEGER, AT(sink_max_size), "200000", 1, 100000000, "TRIGGERFLOW_SINK_MAX_SIZE",
     "Events in flight (read or emitted and not yet committed) at which a worker stops reading."},
    {"worker.max_event_bytes", SIZE, AT(max_event_bytes), "1MiB", KIB, 64 * MIB,
     "TRIGGERFLOW_MAX_EVENT_BYTES", "Largest event; a larger one is dead-lettered."},
    {"worker.trigger_refresh", DURATION, AT(trigger_refresh_ns), "5s", 10 * (int64_t)CLOCK_MS, DAY_NS,
     "TRIGGERFLOW_TRIGGER_REFRESH", "How often triggers and event sources are read again from storage."},
    {"worker.max_pending_actions", INTEGER, AT(max_pending_actions), "10000", 1, 10000000,
     "TRIGGERFLOW_MAX_PENDING_ACTIONS", "Actions kept in memory; more wait in storage."},
    {"worker.max_in_flight", INTEGER, AT(max_in_flight), "2000", 0, 1000000, "TRIGGERFLOW_MAX_IN_FLIGHT",
     "Invocations of functions and services that a worker has under way at a time; 0: no limit."},
    {"worker.max_in_flight_per_host", INTEGER, AT(max_in_flight_per_host), "1250", 0, 1000000,
     "TRIGGERFLOW_MAX_IN_FLIGHT_PER_HOST",
     "The same for each host that is invoked; one trigger has at most four fifths of them, one host of the "
     "worker's."},
    {"worker.rate", INTEGER, AT(rate), "0", 0, 1000000, "TRIGGERFLOW_RATE",
     "Invocations a second that a worker starts, repetitions included; 0: no limit."},
    {"worker.rate_per_host", INTEGER, AT(rate_per_host), "0", 0, 1000000, "TRIGGERFLOW_RATE_PER_HOST",
     "The same for each host that is invoked."},
    {"worker.max_answer_bytes", SIZE, AT(max_answer_bytes), "256KiB", KIB, 64 * MIB,
     "TRIGGERFLOW_MAX_ANSWER_BYTES",
     "Largest answer of an invoked function or service that is read; what comes after it is not."},
    {"worker.invoke_public_only", BOOLEAN, AT(invoke_public_only), "false", 0, 0,
     "TRIGGERFLOW_INVOKE_PUBLIC_ONLY",
     "Do not connect to loopback, private and link-local addresses when functions and services are invoked: "
     "for "
     "hosts whose network the authors of workflows are not to reach."},
    {"worker.invoke_tls_ca", TEXT, AT(invoke_tls_ca), "", 0, 0, "TRIGGERFLOW_INVOKE_TLS_CA",
     "File with the certificates of the authorities to trust when functions and services are invoked; empty: "
     "the "
     "system's."},
    {"worker.secret_directory", TEXT, AT(secret_directory), "", 0, 0, "TRIGGERFLOW_SECRET_DIRECTORY",
     "Folder with the secrets that actions may name: `WORKSPACE/NAME` for one workspace, `NAME` for all; "
     "empty: "
     "none."},
    {"worker.secret_variable_prefix", TEXT, AT(secret_variable_prefix), "TRIGGERFLOW_SECRET_", 0, 0,
     "TRIGGERFLOW_SECRET_VARIABLE_PREFIX",
     "Environment variables that actions may name as secrets begin with this; empty: none."},
    {"worker.dead_letter_max_bytes", SIZE, AT(dead_letter_max_bytes), "256MiB", KIB, TIB,
     "TRIGGERFLOW_DEAD_LETTER_MAX_BYTES", "Size of a workspace's dead letters at which its sources pause."},
    {"worker.event_log_max_bytes", SIZE, AT(event_log_max_bytes), "1GiB", MIB, TIB,
     "TRIGGERFLOW_EVENT_LOG_MAX_BYTES",
     "Size of a workspace's events that were accepted over HTTP and are not yet processed, at which more are "
     "answered 429."},
    {"worker.duplicate_window", DURATION, AT(duplicate_window_ns), "10min", 0, DAY_NS,
     "TRIGGERFLOW_DUPLICATE_WINDOW",
     "How long an event that was accepted over HTTP is remembered by its source and id, so that a repetition "
     "counts once; 0s: not at all."},
    {"worker.duplicate_max", INTEGER, AT(duplicate_max), "1000000", 1000, 100000000,
     "TRIGGERFLOW_DUPLICATE_MAX",
     "Events of a workspace that are remembered so at most; then the oldest go."},
    {"worker.redelivery_window", DURATION, AT(redelivery_window_ns), "10min", 0, 7 * DAY_NS,
     "TRIGGERFLOW_REDELIVERY_WINDOW",
     "How long a message of a broker without positions (RabbitMQ, SQS) is remembered after its "
     "acknowledgement, "
     "so that it does not count again when the broker delivers it again."},
    {"worker.redelivery_max", INTEGER, AT(redelivery_max), "2000000", 1000, 100000000,
     "TRIGGERFLOW_REDELIVERY_MAX",
     "Acknowledged messages of an event source that are remembered so at most; then the oldest go."},
    {"worker.action_start", CHOICE, AT(action_start), "committed", 0, 0, "TRIGGERFLOW_ACTION_START",
     "When a fired action starts: after the checkpoint that contains it (`committed`), or at once "
     "(`immediate`), "
     "which is faster but after a crash may give an idempotency key to another firing.",
     .choices = action_starts},
    {"worker.exit_when_finished", BOOLEAN, AT(exit_when_finished), "false", 0, 0,
     "TRIGGERFLOW_EXIT_WHEN_FINISHED",
     "Exit when the workflow has finished, is drained and has been idle for finish_linger."},
    {"worker.finish_linger", DURATION, AT(finish_linger_ns), "2s", 0, DAY_NS, "TRIGGERFLOW_FINISH_LINGER",
     "Idle time before a finished workflow's worker exits."},
    {"worker.adopt", TEXT, AT(adopt), "", 0, 0, "TRIGGERFLOW_ADOPT",
     "Where to start reading for a workspace that another program has run: beginning, end or a position; "
     "empty: wait "
     "to be told."},
    {"worker.exec_allow", TEXT, AT(exec_allow), "", 0, 0, "TRIGGERFLOW_EXEC_ALLOW",
     "What the action EXEC may run: programs, and folders of programs, as absolute paths with colons between "
     "them; empty: nothing.",
     .check = paths_check},
    {"worker.exec_uids", TEXT, AT(exec_uids), "", 0, 0, "TRIGGERFLOW_EXEC_UIDS",
     "User ids for these programs, as FIRST-LAST: each that runs has one of its own. They must belong to "
     "nobody "
     "else. Needs a worker that runs as root, which runs no program without them; empty: the worker's own.",
     .check = uids_check},
    {"worker.exec_max_running", INTEGER, AT(exec_max_running), "32", 1, 1000, "TRIGGERFLOW_EXEC_MAX_RUNNING",
     "Programs of a worker that run at a time; others wait."},
    {"worker.docker_images", TEXT, AT(docker_images), "", 0, 0, "TRIGGERFLOW_DOCKER_IMAGES",
     "Images that DOCKER and DOCKER_IMAGE may run containers of, with commas between them; one that ends "
     "with `*` "
     "stands for all that begin so; empty: none."},
    {"worker.docker_socket", TEXT, AT(docker_socket), "/var/run/docker.sock", 1, 0,
     "TRIGGERFLOW_DOCKER_SOCKET", "Socket of the Docker Engine."},
    {"worker.docker_pull", BOOLEAN, AT(docker_pull), "true", 0, 0, "TRIGGERFLOW_DOCKER_PULL",
     "Have the engine pull an image that it does not have."},
    {"worker.docker_pull_timeout", DURATION, AT(docker_pull_timeout_ns), "10min", 100 * (int64_t)CLOCK_MS,
     DAY_NS, "TRIGGERFLOW_DOCKER_PULL_TIMEOUT", "How long the pull of an image may take."},
    {"worker.docker_network", TEXT, AT(docker_network), "bridge", 1, 0, "TRIGGERFLOW_DOCKER_NETWORK",
     "Network of the containers."},
    {"worker.docker_reach", CHOICE, AT(docker_reach), "address", 0, 0, "TRIGGERFLOW_DOCKER_REACH",
     "How the worker reaches a container's port 80: at its `address` in that network, or by a `port` of this "
     "machine's 127.0.0.1.",
     .choices = docker_reaches},
    {"worker.docker_memory", SIZE, AT(docker_memory), "256MiB", 6 * MIB, TIB, "TRIGGERFLOW_DOCKER_MEMORY",
     "Memory of a container."},
    {"worker.docker_cpu_percent", INTEGER, AT(docker_cpu_percent), "100", 1, 100000,
     "TRIGGERFLOW_DOCKER_CPU_PERCENT", "Processor time of a container, in percent of one processor."},
    {"worker.docker_processes", INTEGER, AT(docker_processes), "128", 1, 1000000,
     "TRIGGERFLOW_DOCKER_PROCESSES", "Processes and threads of a container."},

    {"log.level", CHOICE, AT(log_level), "info", 0, 0, "TRIGGERFLOW_LOG_LEVEL", "Least level that is logged.",
     .choices = log_levels},
    {"log.format", CHOICE, AT(log_format), "logfmt", 0, 0, "TRIGGERFLOW_LOG_FORMAT", "Form of the log lines.",
     .choices = log_formats},
};

const size_t config_n_fields = sizeof config_fields / sizeof *config_fields;

static bool read_uid(const char **at, uint32_t *ret_uid)
{
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    errno = 0;
    unsigned long long n = strtoull(*at, &end, 10);
    *at = end;
    *ret_uid = (uint32_t)n;
    return !errno && n > 0 && n < UINT32_MAX;
}

bool config_uids(const char *text, uint32_t *ret_first, uint32_t *ret_last)
{
    if (!read_uid(&text, ret_first))
        return false;
    *ret_last = *ret_first;
    if (*text == '-') {
        text++;
        if (!read_uid(&text, ret_last))
            return false;
    }
    return !*text && *ret_first <= *ret_last;
}

static const struct {
    const char *name;
    int64_t ns;
} duration_units[] = {{"", CLOCK_S},  {"us", 1000},          {"ms", CLOCK_MS},
                      {"s", CLOCK_S}, {"min", 60 * CLOCK_S}, {"h", 3600 * CLOCK_S}};

static const struct {
    const char *name;
    int64_t bytes;
} size_units[] = {{"", 1}, {"B", 1}, {"KiB", KIB}, {"MiB", MIB}, {"GiB", 1 << 30}, {"TiB", TIB}};

static void *slot(const struct config_field *field, struct config *config)
{
    return (char *)config + field->offset;
}

static const void *slot_const(const struct config_field *field, const struct config *config)
{
    return (const char *)config + field->offset;
}

static const char *text_of(const struct config_field *field, const struct config *config)
{
    char *const *text = slot_const(field, config);
    return *text ? *text : "";
}

static int64_t number_of(const struct config_field *field, const struct config *config)
{
    if (field->kind == BOOLEAN)
        return *(const bool *)slot_const(field, config);
    if (field->kind != CHOICE)
        return *(const int64_t *)slot_const(field, config);
    int choice;
    memcpy(&choice, slot_const(field, config), sizeof choice); /* an int or one of the enums */
    return choice;
}

static void set_number(const struct config_field *field, struct config *config, int64_t value)
{
    static_assert(sizeof(enum config_action_start) == sizeof(int) &&
                      sizeof(enum config_docker_reach) == sizeof(int) &&
                      sizeof(enum config_log_format) == sizeof(int),
                  "choices are stored as int");
    if (field->kind == BOOLEAN)
        *(bool *)slot(field, config) = value;
    else if (field->kind == CHOICE)
        memcpy(slot(field, config), &(int){(int)value}, sizeof(int));
    else
        *(int64_t *)slot(field, config) = value;
}

static int set_text(const struct config_field *field, struct config *config, const char *text,
                    struct error *err)
{
    char *copy = strdup(text);
    if (!copy)
        return error_set(err, ERROR_MEMORY, "out of memory");
    char **to = slot(field, config);
    free(*to);
    *to = copy;
    return 0;
}

/* Text for a message: in quotes, cut between characters. */
static const char *show(const char *text, size_t len, char out[CONFIG_SHOWN_MAX + 8])
{
    size_t n = len;
    if (n > CONFIG_SHOWN_MAX)
        for (n = CONFIG_SHOWN_MAX; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80; n--)
            ;
    snprintf(out, CONFIG_SHOWN_MAX + 8, "'%.*s%s'", (int)n, text, n < len ? "..." : "");
    return out;
}

static int bad_value(const struct config_field *field, const char *text, const char *what, struct error *err)
{
    char shown[CONFIG_SHOWN_MAX + 8];
    if (field->secret)
        return error_set(err, ERROR_INVALID, "the value %s", what);
    return error_set(err, ERROR_INVALID, "%s %s", show(text, strlen(text), shown), what);
}

const char *config_field_number(const struct config_field *field, int64_t value, char out[32])
{
    const char *unit = "";
    int64_t factor = 1;
    if (field->kind == DURATION) {
        unit = "ns";
        for (size_t i = 1; i < sizeof duration_units / sizeof *duration_units; i++)
            if (value % duration_units[i].ns == 0 && (value || i == 3)) {
                unit = duration_units[i].name;
                factor = duration_units[i].ns;
            }
    } else if (field->kind == SIZE) {
        for (size_t i = 1; i < sizeof size_units / sizeof *size_units; i++)
            if (value && value % size_units[i].bytes == 0) {
                unit = size_units[i].name;
                factor = size_units[i].bytes;
            }
    }
    snprintf(out, 32, "%" PRId64 "%s", value / factor, unit);
    return out;
}

static int set_ranged(const struct config_field *field, struct config *config, int64_t value,
                      const char *text, struct error *err)
{
    char low[32];
    char high[32];
    char what[96];
    if (value >= field->min && value <= field->max) {
        set_number(field, config, value);
        return 0;
    }
    snprintf(what, sizeof what, "is out of range (%s to %s)", config_field_number(field, field->min, low),
             config_field_number(field, field->max, high));
    return bad_value(field, text, what, err);
}

/* The factor of the unit that text names, 0 when there is none of that name. */
static int64_t unit_factor(const struct config_field *field, const char *text)
{
    if (field->kind == DURATION) {
        for (size_t i = 0; i < sizeof duration_units / sizeof *duration_units; i++)
            if (!strcmp(duration_units[i].name, text))
                return duration_units[i].ns;
    } else if (field->kind == SIZE) {
        for (size_t i = 0; i < sizeof size_units / sizeof *size_units; i++)
            if (!strcmp(size_units[i].name, text))
                return size_units[i].bytes;
    } else if (!*text)
        return 1;
    return 0;
}

/* Reads [-]digits[.digits][ ][unit] into nanoseconds, bytes or a plain number. Returns false when it is none;
 * what passes int64 is returned as INT64_MAX. */
static bool read_number(const struct config_field *field, const char *text, int64_t *ret_value)
{
    bool negative = *text == '-';
    const char *p = text + negative;
    const char *digits = p;
    int64_t whole = 0;
    bool huge = false;
    for (; *p >= '0' && *p <= '9'; p++)
        huge |= __builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *p - '0', &whole);
    if (p == digits || (*digits == '0' && p - digits > 1)) /* 010 is eight to some readers of YAML */
        return false;
    int64_t fraction = 0;
    int64_t scale = 1;
    if (*p == '.' && field->kind != INTEGER) {
        for (digits = ++p; *p >= '0' && *p <= '9' && p - digits < 9; p++, scale *= 10)
            fraction = fraction * 10 + (*p - '0');
        if (p == digits)
            return false;
    }
    if (field->kind != INTEGER)
        while (*p == ' ')
            p++;
    int64_t factor = unit_factor(field, p);
    /* The parts of a thousand millionth keep clear of overflow: factors are below 2^42. */
    __int128 rest = (__int128)fraction * factor;
    if (factor == 0 || rest % scale)
        return false;
    huge |= __builtin_mul_overflow(whole, factor, &whole) ||
            __builtin_add_overflow(whole, (int64_t)(rest / scale), &whole);
    *ret_value = huge ? INT64_MAX : negative ? -whole : whole;
    return true;
}

static int set_choice(const struct config_field *field, struct config *config, const char *text,
                      struct error *err)
{
    char what[96] = "is not one of";
    for (int i = 0; field->choices[i]; i++) {
        if (!strcmp(field->choices[i], text)) {
            set_number(field, config, i);
            return 0;
        }
        size_t used = strlen(what);
        snprintf(what + used, sizeof what - used, "%s %s", i ? "," : "", field->choices[i]);
    }
    return bad_value(field, text, what, err);
}

static int set_boolean(const struct config_field *field, struct config *config, const char *text,
                       struct error *err)
{
    bool yes = !strcasecmp(text, "true") || !strcasecmp(text, "yes");
    if (!yes && strcasecmp(text, "false") && strcasecmp(text, "no"))
        return bad_value(field, text, "is not true or false", err);
    set_number(field, config, yes);
    return 0;
}

/* Checks a text value and takes it. The message lacks the name of the field. */
static int set_string(const struct config_field *field, struct config *config, const char *text, size_t len,
                      struct error *err)
{
    if (len > TEXT_MAX_BYTES)
        return bad_value(field, text, "is longer than 4096 bytes", err);
    if ((int64_t)len < field->min)
        return error_set(err, ERROR_INVALID, "a value is needed");
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7F)
            return error_set(err, ERROR_INVALID, "the value contains a control character");
    if (field->check && *text && field->check(text, err) < 0)
        return -1;
    return set_text(field, config, field->none && !strcmp(text, "None") ? "" : text, err);
}

int config_field_set(const struct config_field *field, struct config *config, const char *text, size_t len,
                     struct error *err)
{
    int64_t value;
    if (memchr(text, '\0', len))
        return error_set(err, ERROR_INVALID, "the value contains a control character");
    if (!utf8_valid(text, len))
        return error_set(err, ERROR_INVALID, "the value is not valid UTF-8");
    switch (field->kind) {
    case TEXT:
        return set_string(field, config, text, len, err);
    case BOOLEAN:
        return set_boolean(field, config, text, err);
    case CHOICE:
        return set_choice(field, config, text, err);
    case INTEGER:
        if (!read_number(field, text, &value))
            return bad_value(field, text, "is not a whole number", err);
        return set_ranged(field, config, value, text, err);
    case DURATION:
        if (!read_number(field, text, &value))
            return bad_value(field, text, "is not a duration (250us, 10ms, 5s, 2min, 1h)", err);
        return set_ranged(field, config, value, text, err);
    case SIZE:
        if (!read_number(field, text, &value))
            return bad_value(field, text, "is not a size (4096, 64KiB, 1MiB, 1GiB)", err);
        return set_ranged(field, config, value, text, err);
    }
    return error_set(err, ERROR_INVALID, "unknown kind of field");
}

void config_done(struct config *config)
{
    for (size_t i = 0; i < config_n_fields; i++)
        if (config_fields[i].kind == TEXT)
            free(*(char **)slot(&config_fields[i], config));
    *config = (struct config){0};
}

static int set_defaults(struct config *config, struct error *err)
{
    *config = (struct config){0};
    for (size_t i = 0; i < config_n_fields; i++)
        if (config_field_set(&config_fields[i], config, config_fields[i].standard,
                             strlen(config_fields[i].standard), err) < 0)
            return error_prefix(err, "default of %s", config_fields[i].path);
    return 0;
}

/* What depends on the process: folders for what lives as long as it and for what stays (systemd.exec(5), XDG
 * base directories). systemd may list several, separated by colons. */
static int resolve_run_directory(char **path)
{
    const char *runtime = getenv("RUNTIME_DIRECTORY");
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    if (runtime && *runtime)
        return asprintf(path, "%.*s", (int)strcspn(runtime, ":"), runtime);
    if (xdg && *xdg)
        return asprintf(path, "%s/triggerflow", xdg);
    return asprintf(path, "/tmp/triggerflow-%u", (unsigned)geteuid());
}

static int resolve_state_directory(char **path)
{
    const char *state = getenv("STATE_DIRECTORY");
    const char *xdg = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    if (state && *state)
        return asprintf(path, "%.*s", (int)strcspn(state, ":"), state);
    if (xdg && *xdg)
        return asprintf(path, "%s/triggerflow", xdg);
    if (!home || !*home) {
        const struct passwd *user = getpwuid(geteuid()); /* NOLINT(concurrency-mt-unsafe): at the start */
        home = user ? user->pw_dir : "/";
    }
    return asprintf(path, "%s/.local/state/triggerflow", strcmp(home, "/") == 0 ? "" : home);
}

static int resolve_text(char **text, int (*resolve_to)(char **path), struct error *err)
{
    char *path = NULL;
    if (**text)
        return 0;
    if (resolve_to(&path) < 0)
        return error_set(err, ERROR_MEMORY, "out of memory");
    free(*text);
    *text = path;
    return 0;
}

static int back_end_sqlite(char **text)
{
    return asprintf(text, "sqlite");
}

static int back_end_redis(char **text)
{
    return asprintf(text, "redis");
}

static int this_host(char **text)
{
    return asprintf(text, "127.0.0.1");
}

/* Who names a Redis host wants Redis, as the original does; else nothing need be there. */
static int resolve(struct config *config, struct error *err)
{
    if (resolve_text(&config->storage_backend, *config->storage_host ? back_end_redis : back_end_sqlite,
                     err) < 0 ||
        resolve_text(&config->storage_host, this_host, err) < 0 ||
        resolve_text(&config->run_directory, resolve_run_directory, err) < 0)
        return -1;
    return resolve_text(&config->state_directory, resolve_state_directory, err);
}

int config_parse_yaml(const char *name, const char *text, size_t len, struct config *ret_config,
                      struct error *err)
{
    struct config config;
    if (set_defaults(&config, err) < 0 || config_read_yaml(name, text, len, &config, err) < 0 ||
        resolve(&config, err) < 0) {
        config_done(&config);
        return -1;
    }
    *ret_config = config;
    return 0;
}

static int read_file(const char *name, struct buffer *out, struct error *err)
{
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "%s", name);
    ssize_t n = 1;
    int r = 0;
    while (r == 0 && n != 0 && out->len <= CONFIG_FILE_MAX) {
        char *to = buffer_reserve(out, 65536);
        n = to ? read(fd, to, 65536) : 0;
        if (!to)
            r = error_set(err, ERROR_MEMORY, "out of memory");
        else if (n < 0 && errno != EINTR)
            r = error_set_errno(err, errno, "%s", name);
        else if (n > 0)
            out->len += (size_t)n;
    }
    close(fd);
    return r;
}

static int read_variable(const struct config_field *field, struct config *config, struct error *err)
{
    const char *text = getenv(field->variable);
    if (!text || !*text)
        return 0;
    if (field->service != SERVICE_NO && !strncmp(text, "tcp://", 6)) {
        const char *colon = strrchr(text, ':');
        if (field->service == SERVICE_IGNORED)
            return 0;
        text = colon + 1;
    }
    if (config_field_set(field, config, text, strlen(text), err) < 0)
        return error_prefix(err, "%s", field->variable);
    return 0;
}

int config_load(const char *file, struct config *ret_config, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    struct config config;
    if (!file)
        file = getenv("TRIGGERFLOW_CONFIG_MAP_FILE");
    if (set_defaults(&config, err) < 0)
        goto fail;
    if (file && *file &&
        (read_file(file, &text, err) < 0 || config_read_yaml(file, text.data, text.len, &config, err) < 0))
        goto fail;
    for (size_t i = 0; i < config_n_fields; i++)
        if (read_variable(&config_fields[i], &config, err) < 0)
            goto fail;
    if (resolve(&config, err) < 0)
        goto fail;
    *ret_config = config;
    return 0;
fail:
    config_done(&config);
    return -1;
}

void config_write_json(const struct config *config, struct buffer *out)
{
    for (size_t i = 0; i < config_n_fields; i++) {
        const struct config_field *field = &config_fields[i];
        int64_t number = field->kind == TEXT ? 0 : number_of(field, config);
        buffer_printf(out, "%c\"%s\":", i ? ',' : '{', field->path);
        if (field->kind == TEXT)
            buffer_append_json(out, text_of(field, config), strlen(text_of(field, config)));
        else if (field->kind == CHOICE)
            buffer_printf(out, "\"%s\"", field->choices[number]);
        else if (field->kind == BOOLEAN)
            buffer_append_text(out, number ? "true" : "false");
        else
            buffer_printf(out, "%" PRId64, number);
    }
    buffer_append_char(out, '}');
}

static int read_json_value(const struct config_field *field, const struct json_value *value,
                           struct config *config, struct error *err)
{
    BUFFER_AUTO text = BUFFER_INIT;
    char shown[32];
    int64_t number = 0;
    bool number_kind = field->kind == INTEGER || field->kind == DURATION || field->kind == SIZE;
    if (value->type == JSON_STRING && (field->kind == TEXT || field->kind == CHOICE)) {
        json_unescape(value, &text);
        const char *string = buffer_text(&text);
        if (text.failed)
            return error_set(err, ERROR_MEMORY, "out of memory");
        return config_field_set(field, config, string, text.len, err);
    }
    if (value->type == JSON_NUMBER && number_kind && json_integer(value, &number)) {
        snprintf(shown, sizeof shown, "%" PRId64, number);
        return set_ranged(field, config, number, shown, err);
    }
    if ((value->type == JSON_TRUE || value->type == JSON_FALSE) && field->kind == BOOLEAN) {
        set_number(field, config, value->type == JSON_TRUE);
        return 0;
    }
    return error_set(err, ERROR_INVALID, "a value of the wrong type (%s)", json_type_name(value->type));
}

static int read_json(const char *json, size_t len, struct config *config, struct error *err)
{
    struct json_value root;
    struct json_value name;
    struct json_value value;
    struct json_iter iter;
    if (json_scan(len ? json : "", len, &root, err) < 0)
        return error_prefix(err, "configuration");
    if (root.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "configuration: an object is needed");
    json_iter_init(&iter, &root);
    while (json_next(&iter, &name, &value)) {
        size_t i = 0;
        char shown[CONFIG_SHOWN_MAX + 8];
        while (i < config_n_fields &&
               !json_equals(&name, config_fields[i].path, strlen(config_fields[i].path)))
            i++;
        if (i == config_n_fields)
            return error_set(err, ERROR_INVALID, "configuration: unknown key %s",
                             show(name.text, name.len, shown));
        if (read_json_value(&config_fields[i], &value, config, err) < 0)
            return error_prefix(err, "configuration: %s", config_fields[i].path);
    }
    return 0;
}

int config_read_json(const char *json, size_t len, struct config *ret_config, struct error *err)
{
    struct config config;
    if (set_defaults(&config, err) < 0 || read_json(json, len, &config, err) < 0 ||
        resolve(&config, err) < 0) {
        config_done(&config);
        return -1;
    }
    *ret_config = config;
    return 0;
}
