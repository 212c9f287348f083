/* Configuration: config_map.yaml, overridden by environment variables, else the defaults.
 *
 * One field table in config.c (path, type, default, range, variable, help) drives parsing, validation, --help
 * and docs/configuration.md. An unknown key, a value of the wrong type or out of range is an error that names
 * file, line, key and value. Immutable once loaded. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;

enum config_action_start { CONFIG_ACTION_COMMITTED, CONFIG_ACTION_IMMEDIATE };
enum config_docker_reach { CONFIG_DOCKER_ADDRESS, CONFIG_DOCKER_PORT };
enum config_log_format { CONFIG_LOG_LOGFMT, CONFIG_LOG_JSON };

/* Strings are owned, never NULL ("" when not set). Durations are nanoseconds. */
struct config {
    /* triggerflow_controller: */
    char *controller_endpoint; /* for clients that read the file; not used by the supervisor itself */
    char *controller_token;    /* "": no authentication */
    int64_t controller_port;   /* 5000; 0: any free port */
    char *controller_address;  /* 127.0.0.1 */
    /* trigger_api: */
    int64_t api_port;  /* 8080; 0: any free port */
    char *api_address; /* 127.0.0.1 */
    /* trigger_storage: */
    char *storage_backend; /* resolved: redis when a host is given, else sqlite */
    char *state_directory; /* resolved: $STATE_DIRECTORY, $XDG_STATE_HOME/triggerflow,
                              ~/.local/state/triggerflow */
    char *storage_host;    /* resolved: 127.0.0.1 */
    int64_t storage_port;
    char *storage_username;
    char *storage_password; /* "": none; the text None means none */
    int64_t storage_db;
    bool storage_tls;
    char *storage_tls_ca;
    char *storage_tls_cert;
    char *storage_tls_key;
    /* supervisor: */
    char *run_directory; /* resolved: $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/triggerflow, /tmp/triggerflow-<uid>
                          */
    char *bootstrap_workspace;
    int64_t stop_timeout_ns; /* 30 s */
    int64_t watchdog_ns;     /* 30 s */
    /* worker: */
    int64_t shards;                 /* 0: number of cores, at most 8 */
    int64_t checkpoint_interval_ns; /* 10 ms */
    int64_t sink_max_size;          /* 200000 events in flight */
    int64_t max_event_bytes;        /* 1 MiB */
    int64_t trigger_refresh_ns;     /* 5 s */
    int64_t max_pending_actions;    /* 10000 */
    int64_t max_in_flight;          /* invocations at a time; 0: any number */
    int64_t max_in_flight_per_host; /* likewise */
    int64_t rate;                   /* attempts a second; 0: any number */
    int64_t rate_per_host;          /* likewise */
    int64_t max_answer_bytes;       /* 256 KiB */
    bool invoke_public_only;
    char *invoke_tls_ca;           /* "": the system's authorities */
    char *secret_directory;        /* "": no file holds a secret */
    char *secret_variable_prefix;  /* "": no variable does */
    int64_t dead_letter_max_bytes; /* 256 MiB */
    int64_t event_log_max_bytes;   /* 1 GiB */
    int64_t duplicate_window_ns;   /* 10 min; 0: repetitions are not recognised */
    int64_t duplicate_max;         /* 1,000,000 events */
    int64_t redelivery_window_ns;  /* 10 min */
    int64_t redelivery_max;        /* 2,000,000 messages */
    enum config_action_start action_start;
    bool exit_when_finished;
    int64_t finish_linger_ns; /* 2 s */
    char *adopt;              /* "", beginning, end or a position */
    char *exec_allow;         /* "": none; absolute paths with colons between them */
    char *exec_uids;          /* "": none; FIRST-LAST or one */
    int64_t exec_max_running; /* 32 */
    char *docker_images;      /* "": none; names with commas between them, * at the end of one: any */
    char *docker_socket;      /* /var/run/docker.sock */
    bool docker_pull;
    int64_t docker_pull_timeout_ns; /* 10 min */
    char *docker_network;           /* bridge */
    enum config_docker_reach docker_reach;
    int64_t docker_memory; /* 256 MiB */
    int64_t docker_cpu_percent;
    int64_t docker_processes;
    /* log: */
    int log_level; /* enum log_level */
    enum config_log_format log_format;
};

/* Loads file (NULL: $TRIGGERFLOW_CONFIG_MAP_FILE; without that, no file) and then the environment. On failure
 * *ret_config is untouched. */
int config_load(const char *file, struct config *ret_config, struct error *err);
void config_done(struct config *config);

/* The defaults and over them a configuration file's text, without the environment; name stands for the file
 * in messages. On failure *ret_config is untouched. */
int config_parse_yaml(const char *name, const char *text, size_t len, struct config *ret_config,
                      struct error *err);

/* The effective configuration as one flat JSON object {path: value}, secrets included (for handing to a
 * worker over its private socket), and back. Durations are whole nanoseconds there, sizes bytes. Reading is
 * as strict as for a file; an absent path has its default. */
void config_write_json(const struct config *config, struct buffer *out);
int config_read_json(const char *json, size_t len, struct config *ret_config, struct error *err);

/* Reads a range of user ids, FIRST-LAST or one alone. */
bool config_uids(const char *text, uint32_t *ret_first, uint32_t *ret_last);

/* A copy for another thread; freed with config_free (NULL is fine). NULL: see err. */
struct config *config_copy(const struct config *config, struct error *err);
void config_free(struct config *config);

/* The table of fields for --help, and as Markdown for docs/configuration.md. */
void config_write_help(struct buffer *out);
void config_write_markdown(struct buffer *out);
