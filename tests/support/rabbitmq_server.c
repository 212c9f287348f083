#include "tests/support/rabbitmq_server.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <amqp_tcp_socket.h>

#include "common/clock.h"

#define SERVER "/usr/lib/rabbitmq/bin/rabbitmq-server"
#define EPMD "/usr/bin/epmd"
#define START_NS (120 * CLOCK_S)
#define PIPELINE 500 /* publications that wait for their confirmation at most */
#define PORTS 5

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "rabbitmq: %s: %s\n", what, why);
    return -1;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
}

bool rabbitmq_server_available(const char **ret_why)
{
    *ret_why = access(SERVER, X_OK) == 0 ? "no epmd (Erlang)" : "no rabbitmq-server";
    return access(SERVER, X_OK) == 0 && access(EPMD, X_OK) == 0;
}

/* --- files --- */

static int free_ports(struct rabbitmq_server *s)
{
    int *const ports[PORTS] = {&s->port, &s->tls_port, &s->dist_port, &s->epmd_port, &s->count_port};
    int fds[PORTS];
    int r = 0;
    for (int i = 0; i < PORTS; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof address;
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fds[i] < 0 || bind(fds[i], (struct sockaddr *)&address, len) < 0 ||
            getsockname(fds[i], (struct sockaddr *)&address, &len) < 0)
            r = complain("ports", strerror(errno));
        *ports[i] = ntohs(address.sin_port);
    }
    for (int i = 0; i < PORTS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return r;
}

static int write_file(const struct rabbitmq_server *s, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int write_file(const struct rabbitmq_server *s, const char *name, const char *format, ...)
{
    char path[128];
    va_list arguments;
    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    FILE *file = fopen(path, "w");
    if (!file)
        return complain(path, strerror(errno));
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    return fclose(file) ? complain(path, strerror(errno)) : 0;
}

#define PERMISSION(vhost) \
    "{\"user\":\"guest\",\"vhost\":\"" vhost "\",\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}"

static const char definitions[] =
    "{\"users\":[{\"name\":\"guest\",\"password\":\"guest\",\"tags\":\"administrator\"}],"
    "\"vhosts\":[{\"name\":\"/\"},{\"name\":\"" RABBITMQ_OTHER_VHOST "\"}],"
    "\"permissions\":[" PERMISSION("/") "," PERMISSION(RABBITMQ_OTHER_VHOST) "]}\n";

/* Runs within the broker: answers "vhost|queue" with the number of its messages; "|" when everything about
 * queues is on the disk, which the broker itself does seconds later; "!|block", "!|pass" when it is so;
 * "?|queue" when that quorum queue was told that the node of its consumers is gone, and is back. */
static const char count[] =
    "spawn(fun() ->\n"
    "  {ok, L} = gen_tcp:listen(%d, [binary, {ip, {127, 0, 0, 1}}, {packet, line}, {active, false},\n"
    "                                {reuseaddr, true}]),\n"
    "  Serve = fun Serve(S) ->\n"
    "    case gen_tcp:recv(S, 0) of\n"
    "      {ok, Line} ->\n"
    "        [VHost, Queue] = binary:split(string:trim(Line), <<\"|\">>),\n"
    "        Answer = try\n"
    "          Queue =:= <<>> andalso throw(mnesia:sync_log()),\n"
    "          Alarm = {resource_limit, memory, node()},\n"
    "          {VHost, Queue} =:= {<<\"!\">>, <<\"block\">>} andalso throw(rabbit_alarm:set_alarm({Alarm, "
    "[]})),\n"
    "          {VHost, Queue} =:= {<<\"!\">>, <<\"pass\">>} andalso throw(rabbit_alarm:clear_alarm(Alarm)),\n"
    "          Name = case VHost of <<\"?\">> -> <<\"/\">>; _ -> VHost end,\n"
    "          {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(Name, queue, Queue)),\n"
    "          Tell = fun(What) -> {ok, _, _} = ra:process_command(amqqueue:get_pid(Q), What) end,\n"
    "          VHost =:= <<\"?\">> andalso begin\n"
    "            [Tell({down, element(1, C), noconnection}) || C <- rabbit_amqqueue:consumers(Q)],\n"
    "            Tell({nodeup, node()}),\n"
    "            throw(ok)\n"
    "          end,\n"
    "          [{messages, N}] = rabbit_amqqueue:info(Q, [messages]),\n"
    "          integer_to_list(N)\n"
    "        catch throw:ok -> \"0\"; _:_ -> \"-1\" end,\n"
    "        gen_tcp:send(S, [Answer, \"\\n\"]),\n"
    "        Serve(S);\n"
    "      _ -> gen_tcp:close(S)\n"
    "    end\n"
    "  end,\n"
    "  Accept = fun Accept() ->\n"
    "    {ok, S} = gen_tcp:accept(L),\n"
    "    P = spawn(fun() -> receive go -> Serve(S) end end),\n"
    "    gen_tcp:controlling_process(S, P),\n"
    "    P ! go,\n"
    "    Accept()\n"
    "  end,\n"
    "  Accept()\n"
    "end).\n";

static int write_files(const struct rabbitmq_server *s)
{
    char command[512];
    snprintf(command, sizeof command,
             "cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out ca.pem -days 2 -subj "
             "/CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 >openssl.log 2>&1",
             s->dir);
    if (system(command) != 0)
        return complain("openssl", s->dir);
    return write_file(s, "rabbitmq.conf",
                      "listeners.tcp.1 = 127.0.0.1:%1$d\nlisteners.ssl.1 = 127.0.0.1:%2$d\n"
                      "ssl_options.cacertfile = %3$s/ca.pem\nssl_options.certfile = %3$s/ca.pem\n"
                      "ssl_options.keyfile = %3$s/key.pem\nssl_options.verify = verify_none\n"
                      "load_definitions = %3$s/definitions.json\nloopback_users = none\n"
                      "disk_free_limit.absolute = 1MB\n",
                      s->port, s->tls_port, s->dir) < 0 ||
                   write_file(s, "definitions.json", "%s", definitions) < 0 ||
                   write_file(s, "enabled_plugins", "[].\n") < 0 ||
                   write_file(s, "count.erl", count, s->count_port) < 0
               ? -1
               : 0;
}

/* --- processes --- */

static void set(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void set(const char *name, const char *format, ...)
{
    char value[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(value, sizeof value, format, arguments);
    va_end(arguments);
    setenv(name, value, 1);
}

static void exec_child(const struct rabbitmq_server *s, pid_t parent, const char *const *argv)
{
    char path[128];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof path, "%s/out", s->dir);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int null = open("/dev/null", O_RDONLY);
    if (getppid() != parent || log < 0 || null < 0)
        _exit(126);
    dup2(null, 0);
    dup2(log, 1);
    dup2(log, 2);
    unsetenv("LD_PRELOAD");
    set("HOME", "%s", s->dir);
    set("RABBITMQ_NODENAME", "tf@localhost");
    set("RABBITMQ_CONFIG_FILE", "%s/rabbitmq.conf", s->dir);
    set("RABBITMQ_MNESIA_BASE", "%s/mnesia", s->dir);
    set("RABBITMQ_LOG_BASE", "%s/log", s->dir);
    set("RABBITMQ_PID_FILE", "%s/pid", s->dir);
    set("RABBITMQ_ENABLED_PLUGINS_FILE", "%s/enabled_plugins", s->dir);
    set("RABBITMQ_DIST_PORT", "%d", s->dist_port);
    set("ERL_EPMD_PORT", "%d", s->epmd_port);
    set("ERL_EPMD_ADDRESS", "127.0.0.1");
    set("RABBITMQ_ALLOW_INPUT", "1"); /* so that the broker replaces the shell, and dies with the test */
    set("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-noinput +S 2:2 +sbwt none -run file eval %s/count.erl",
        s->dir);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static pid_t spawn(const struct rabbitmq_server *s, const char *const *argv)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        exec_child(s, parent, argv);
    return pid;
}

static void end_process(pid_t *pid)
{
    if (*pid > 0) {
        kill(*pid, SIGKILL);
        while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    *pid = 0;
}

static int connect_to(int port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool accepts(int port)
{
    int fd = connect_to(port);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

int rabbitmq_server_start(struct rabbitmq_server *s)
{
    char port[12];
    snprintf(port, sizeof port, "%d", s->epmd_port);
    if (s->epmd <= 0)
        s->epmd = spawn(s, (const char *[]){EPMD, "-port", port, "-address", "127.0.0.1", NULL});
    for (uint64_t end = clock_now_ns() + START_NS; !accepts(s->epmd_port) && clock_now_ns() < end;)
        nap();
    s->pid = spawn(s, (const char *[]){SERVER, NULL});
    for (uint64_t end = clock_now_ns() + START_NS; s->pid > 0 && clock_now_ns() < end; nap()) {
        if (accepts(s->count_port) && accepts(s->tls_port) && accepts(s->port))
            return 0;
        if (waitpid(s->pid, NULL, WNOHANG) == s->pid)
            s->pid = 0;
    }
    rabbitmq_server_kill(s);
    return complain("it does not start; see the log", s->dir);
}

int rabbitmq_server_run(struct rabbitmq_server *s)
{
    memset(s, 0, sizeof *s);
    s->counter = -1;
    snprintf(s->vhost, sizeof s->vhost, "/");
    snprintf(s->dir, sizeof s->dir, "/tmp/triggerflow-rabbitmq-XXXXXX");
    if (!mkdtemp(s->dir)) {
        s->dir[0] = '\0';
        return complain("mkdtemp", strerror(errno));
    }
    return free_ports(s) < 0 || write_files(s) < 0 ? -1 : rabbitmq_server_start(s);
}

void rabbitmq_server_kill(struct rabbitmq_server *s)
{
    rabbitmq_server_disconnect(s);
    if (s->counter >= 0)
        close(s->counter);
    s->counter = -1;
    end_process(&s->pid);
}

void rabbitmq_server_freeze(struct rabbitmq_server *s, bool frozen)
{
    if (s->pid > 0)
        kill(s->pid, frozen ? SIGSTOP : SIGCONT);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

void rabbitmq_server_done(struct rabbitmq_server *s)
{
    rabbitmq_server_kill(s);
    end_process(&s->epmd);
    if (s->dir[0])
        (void)nftw(s->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    memset(s, 0, sizeof *s);
}

/* --- queues --- */

void rabbitmq_server_disconnect(struct rabbitmq_server *s)
{
    if (s->admin)
        amqp_destroy_connection(s->admin);
    s->admin = NULL;
}

/* Complains of an answer that is none, and leaves the connection. */
static int check(struct rabbitmq_server *s, const char *what, amqp_rpc_reply_t reply)
{
    if (reply.reply_type == AMQP_RESPONSE_NORMAL)
        return 0;
    if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD) {
        const amqp_channel_close_t *close = reply.reply.decoded;
        fprintf(stderr, "rabbitmq: %.*s\n", (int)close->reply_text.len,
                (const char *)close->reply_text.bytes);
    }
    complain(what, reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION
                       ? amqp_error_string2(reply.library_error)
                       : "refused");
    rabbitmq_server_disconnect(s);
    return -1;
}

static amqp_connection_state_t admin(struct rabbitmq_server *s)
{
    if (s->admin)
        return s->admin;
    s->admin = amqp_new_connection();
    s->published = 0;
    struct timeval patience = {.tv_sec = 30};
    amqp_socket_t *socket = amqp_tcp_socket_new(s->admin);
    amqp_set_rpc_timeout(s->admin, &patience);
    amqp_set_handshake_timeout(s->admin, &patience);
    int r = amqp_socket_open(socket, "127.0.0.1", s->port);
    if (r < 0) {
        complain("connect", amqp_error_string2(r));
        rabbitmq_server_disconnect(s);
        return NULL;
    }
    if (check(s, "login",
              amqp_login(s->admin, s->vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest")) < 0)
        return NULL;
    amqp_channel_open(s->admin, 1);
    if (check(s, "channel", amqp_get_rpc_reply(s->admin)) < 0)
        return NULL;
    amqp_confirm_select(s->admin, 1);
    return check(s, "confirms", amqp_get_rpc_reply(s->admin)) < 0 ? NULL : s->admin;
}

static long long ask(struct rabbitmq_server *s, const char *vhost, const char *queue)
{
    char text[200];
    int n = snprintf(text, sizeof text, "%s|%s\n", vhost, queue);
    if (s->counter < 0)
        s->counter = connect_to(s->count_port);
    if (s->counter < 0)
        return -1;
    ssize_t got = send(s->counter, text, (size_t)n, MSG_NOSIGNAL) == n
                      ? recv(s->counter, text, sizeof text - 1, 0)
                      : -1;
    if (got <= 0) {
        close(s->counter);
        s->counter = -1;
        return -1;
    }
    text[got] = '\0';
    return strtoll(text, NULL, 10);
}

long long rabbitmq_server_messages(struct rabbitmq_server *s, const char *queue)
{
    return ask(s, s->vhost, queue);
}

int rabbitmq_server_declare(struct rabbitmq_server *s, const char *queue, enum rabbitmq_queue kind)
{
    amqp_table_entry_t quorum = {
        .key = amqp_cstring_bytes("x-queue-type"),
        .value = {.kind = AMQP_FIELD_KIND_UTF8, .value = {.bytes = amqp_cstring_bytes("quorum")}}};
    if (!admin(s))
        return -1;
    amqp_queue_declare(s->admin, 1, amqp_cstring_bytes(queue), 0, kind != RABBITMQ_TRANSIENT, 0, 0,
                       (amqp_table_t){kind == RABBITMQ_QUORUM, &quorum});
    if (check(s, queue, amqp_get_rpc_reply(s->admin)) < 0)
        return -1;
    return ask(s, "", "") ? complain("sync", queue) : 0;
}

int rabbitmq_server_take_back(struct rabbitmq_server *s, const char *queue)
{
    return ask(s, "?", queue) ? complain("take back", queue) : 0;
}

int rabbitmq_server_delete(struct rabbitmq_server *s, const char *queue)
{
    if (!admin(s))
        return -1;
    amqp_queue_delete(s->admin, 1, amqp_cstring_bytes(queue), 0, 0);
    return check(s, queue, amqp_get_rpc_reply(s->admin));
}

int rabbitmq_server_purge(struct rabbitmq_server *s, const char *queue)
{
    if (!admin(s))
        return -1;
    amqp_queue_purge(s->admin, 1, amqp_cstring_bytes(queue));
    return check(s, queue, amqp_get_rpc_reply(s->admin));
}

/* Waits for a confirmation. Whether it is for all up to the tag; -1. */
static int await_confirmation(struct rabbitmq_server *s, uint64_t *ret_tag)
{
    amqp_frame_t frame;
    struct timeval patience = {.tv_sec = 60};
    int r = amqp_simple_wait_frame_noblock(s->admin, &frame, &patience);
    if (r < 0) {
        complain("confirmation", amqp_error_string2(r));
        rabbitmq_server_disconnect(s);
        return -1;
    }
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD) {
        complain("confirmation", amqp_method_name(frame.payload.method.id));
        rabbitmq_server_disconnect(s);
        return -1;
    }
    const amqp_basic_ack_t *ack = frame.payload.method.decoded;
    bool multiple = ack->multiple;
    *ret_tag = ack->delivery_tag;
    amqp_maybe_release_buffers(s->admin);
    return multiple;
}

int rabbitmq_server_publish(struct rabbitmq_server *s, const char *queue, const struct rabbitmq_body *bodies,
                            size_t n, const amqp_basic_properties_t *properties)
{
    amqp_basic_properties_t with = properties ? *properties : (amqp_basic_properties_t){0};
    with._flags |= AMQP_BASIC_DELIVERY_MODE_FLAG;
    with.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    if (!admin(s))
        return -1;
    uint64_t first = s->published + 1;
    bool *confirmed = calloc(n + 1, sizeof *confirmed);
    size_t sent = 0;
    size_t done = 0;
    int r = confirmed ? 0 : complain("publish", "out of memory");
    while (!r && done < n) {
        while (!r && sent < n && sent - done < PIPELINE) {
            amqp_bytes_t body = {bodies[sent].len, (void *)(uintptr_t)bodies[sent].text};
            r = amqp_basic_publish(s->admin, 1, amqp_empty_bytes, amqp_cstring_bytes(queue), 0, 0, &with,
                                   body);
            sent++;
            s->published++;
        }
        uint64_t tag = 0;
        int multiple = r ? -1 : await_confirmation(s, &tag);
        if (multiple < 0 || tag < first || tag >= first + n) {
            r = -1;
            break;
        }
        confirmed[tag - first] = true;
        for (size_t i = done; multiple && i <= tag - first; i++)
            confirmed[i] = true;
        while (done < n && confirmed[done])
            done++;
    }
    free(confirmed);
    if (r)
        rabbitmq_server_disconnect(s);
    return r ? complain("publish", queue) : 0;
}

int rabbitmq_server_block(struct rabbitmq_server *s, bool blocked)
{
    return ask(s, "!", blocked ? "block" : "pass") ? complain("block", s->dir) : 0;
}

char *rabbitmq_server_get(struct rabbitmq_server *s, const char *queue)
{
    amqp_message_t message;
    if (!admin(s))
        return NULL;
    amqp_rpc_reply_t reply = amqp_basic_get(s->admin, 1, amqp_cstring_bytes(queue), 1);
    if (check(s, "get", reply) < 0 || reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD ||
        check(s, "message", amqp_read_message(s->admin, 1, &message, 0)) < 0)
        return NULL;
    char *body = strndup(message.body.bytes, message.body.len);
    amqp_destroy_message(&message);
    amqp_maybe_release_buffers(s->admin);
    return body;
}
